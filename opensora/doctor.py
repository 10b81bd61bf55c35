"""`python -m opensora.doctor [CONFIG]`: what this installation has, and what is wrong with it."""

import sys

from opensora.cli.doctor import main

if __name__ == "__main__":
    sys.exit(main())
