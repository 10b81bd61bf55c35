#!/usr/bin/env python3
"""Sample, watch and compare in the browser: `python scripts/studio.py`; --help lists the flags."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout that is not installed works, too

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.commands.studio import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
