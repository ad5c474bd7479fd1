"""python -m cardiac_attrivae, and the command cardiac-attrivae."""

import sys

from .cli import INTERRUPTED


def main() -> None:
    """Runs the command line; Ctrl-C ends it in one line while it is imported, too."""
    try:
        from .cli.main import main as run
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
