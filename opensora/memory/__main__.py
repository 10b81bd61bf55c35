"""`python -m opensora.memory [CONFIG] [flags of the sampler]`: what each stage would take, as a table."""

import sys

from opensora.environment import enter_environment

if __name__ == "__main__":
    enter_environment()

from opensora.commands.memory import main  # noqa: E402

if __name__ == "__main__":
    sys.argv[0] = "python -m opensora.memory"  # what the parser shows
    sys.exit(main())
