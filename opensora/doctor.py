"""`python -m opensora.doctor [CONFIG]`: what this installation has, and what is wrong with it."""

import sys

from opensora.environment import enter_environment

if __name__ == "__main__":
    enter_environment()

from opensora.cli.doctor import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
