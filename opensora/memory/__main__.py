"""`python -m opensora.memory`."""

import sys

from opensora.cli.memory import main

if __name__ == "__main__":
    sys.exit(main())
