"""Make this checkout and its environment importable for the examples; a program of yours does not need it."""

import sys
from pathlib import Path
from types import TracebackType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.environment import enter_environment  # noqa: E402

enter_environment()

_explain_packages = sys.excepthook


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one sentence that a model was neither found nor downloaded, and what to do about it."""
    if not isinstance(error, OSError) or error.errno is not None:  # the system's own errors have numbers
        _explain_packages(kind, error, trace)
        return
    reason = " ".join(str(error).split()).split(". ")[0].split(" (")[0]
    print(f"error: {reason}; with a network the weights are downloaded, else give a folder with them", file=sys.stderr)


sys.excepthook = _explain
