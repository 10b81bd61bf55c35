"""Errors that end a run with one sentence for the person who typed the command."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # what a shell reports for Ctrl-C
EXIT_TERMINATED = 143  # and for SIGTERM
EXIT_PIPE = 141  # and for SIGPIPE


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; the run ends as it does on Ctrl-C."""


class UserError(ValueError):
    """An error that the person who typed the command can mend; the message is one sentence that says how."""


class ConfigError(UserError):
    """A configuration or command-line value cannot be used; the message names it and the fix."""


class WeightsError(UserError):
    """Model weights are missing, unreachable or damaged; the message names them and where to get them."""


def suggest(name: object, known: Iterable[object]) -> str:
    """Return the end of an "unknown name" sentence: the nearest known name, or all of them if none is near."""
    names = sorted(str(candidate) for candidate in known)
    return did_you_mean(name, names) or f"known: {', '.join(names)}"


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return a question that offers the nearest known name; empty if none is near."""
    nearest = difflib.get_close_matches(str(name), [str(candidate) for candidate in known], n=1, cutoff=0.5)
    return f"did you mean '{nearest[0]}'?" if nearest else ""


def one_line(error: BaseException) -> str:
    """Return the message of `error` on a single line, or the name of its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def shortened(text: object, length: int = 200) -> str:
    """Return `text` for a message, cut in the middle if it is longer than `length` characters."""
    text = str(text)
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"


KEPT = "what is finished is kept, and the same command continues"


def run_command(task: Callable[[], int], several: bool = False, resumes: bool = False) -> int:
    """Run a command and return its exit code.

    An error that the user can mend ends it with one sentence on stderr, a bug with its traceback.

    Args:
        several: whether the command can run as one of several processes.
        resumes: whether it keeps what it has done when it ends early, and goes on from there.
    """

    def terminate(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # characters it cannot show must not end a run
    try:
        if not several:
            _check_alone()
        code = task()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Nobody reads any more, as with "| head"; flushing the rest must not fail again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except Terminated:
        print(_ending("terminated", resumes), file=sys.stderr)
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        print(_ending("interrupted", resumes), file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        message = message_for_the_user(error)
        if message is None:
            raise
        print(f"error: {_ending(message, resumes and isinstance(error, OSError))}", file=sys.stderr)
        return EXIT_ERROR


def _ending(sentence: str, resumes: bool) -> str:
    return f"{sentence}; {KEPT}" if resumes else sentence


def _check_alone() -> None:
    """Refuse a launcher that started several processes, which would all do the same."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if "RANK" in os.environ and processes != "1":  # a launcher sets both
        raise ConfigError(f"this command runs in one process, and torchrun started {processes}; leave it out")


def message_for_the_user(error: Exception) -> str | None:
    """Return one sentence that helps, or None for an error that is a bug and keeps its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    if _is_out_of_memory(error):
        return "the device ran out of memory; set low_memory = True (--low-memory), a lower resolution or fewer frames"
    return None


def _is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch (which on the CPU says so in words only) or NumPy found no room."""
    words = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
    is_named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_named or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))
