"""Where the examples find their packages: in this checkout and its environment; a program of yours has its own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.environment import enter_environment  # noqa: E402

enter_environment()
