"""python -m cardiac_attrivae"""

from .cli.main import main

main()
