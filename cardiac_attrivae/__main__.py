"""python -m cardiac_attrivae"""

from .cli import main

main()
