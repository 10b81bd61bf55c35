"""`python -m opensora.doctor [CONFIG]`."""

import sys

from opensora.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
