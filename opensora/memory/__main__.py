"""`python -m opensora.memory`."""

import sys

from opensora.memory.command import main

if __name__ == "__main__":
    sys.exit(main())
