"""`python -m opensora.memory`."""

import sys

from opensora.environment import explain_missing_packages

explain_missing_packages()

from opensora.cli.memory import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
