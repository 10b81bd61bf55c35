#!/usr/bin/env python3
"""List, verify and download weights: `python scripts/weights.py list`; --help lists the commands."""

from __future__ import annotations

import sys
from pathlib import Path

# A checkout that is not installed works, too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.environment import explain_missing_packages  # noqa: E402

explain_missing_packages()

from opensora.cli.weights import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
