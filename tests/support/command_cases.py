"""Cases of bad input to the sampling command, and what has to hold for all of them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import small_model

ROOT = Path(__file__).resolve().parents[2]
MINI = small_model.SAMPLE
OUT = "out"  # the output folder of all cases
SMALL = "small.py"  # a config that samples one image in no time

MAX_SENTENCE = 600  # characters; a sentence that quotes a whole prompt or file is none that anybody reads
_SMALL_CONFIG = f"""
_base_ = {str(ROOT / MINI)!r}
image_size = (16, 16)
num_frames = 1
prompt_path = None
prompt = ["a red circle"]
save_dir = {OUT!r}
device = "cpu"
scheduler = dict(num_sampling_steps=2)
"""
# What a Python programmer reads in a message, and nobody else.
_INTERNALS = re.compile(r"Traceback|\[Errno|object at 0x|<class '|\.py\", line")


def no_files(folder: Path) -> None:
    """The set-up of a case that needs no files."""


@dataclass(frozen=True)
class Case:
    """One bad command.

    Attributes:
        arguments: words of the command line behind the config file; a text is split at spaces.
        words: what the user has to read, in any order.
        code: the exit code.
        given: makes the files of the case in the working directory.
        config: the config file; a sidecar takes its place.
        written: names in the output folder that there have to be afterwards.
        begun: with code 2, that the refusal comes only when models are loaded, so that what other settings made may
            have moved aside.
    """

    arguments: str | Sequence[str]
    words: Sequence[str] = ()
    code: int = 2
    given: Callable[[Path], Any] = no_files
    config: str = SMALL
    written: Sequence[str] = ()
    begun: bool = False

    def command(self) -> list[str]:
        """All arguments."""
        words = self.arguments.split() if isinstance(self.arguments, str) else list(self.arguments)
        return words if "--from-sidecar" in words else [self.config, *words]


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code, and what was on the screen."""

    code: int
    stdout: str
    stderr: str
    log: str  # warnings and progress, which go to stderr, too

    @property
    def screen(self) -> str:
        """All that the user has read."""
        return self.stdout + self.log + self.stderr


def prepare_folder(folder: Path, finished: Path | None) -> None:
    """The working directory of a case: the small config and, unless None, a copy of a ``finished`` output folder."""
    (folder / SMALL).write_text(_SMALL_CONFIG)
    if finished is not None:
        shutil.copytree(finished, folder / OUT)


def contents(folder: Path) -> dict[str, str]:
    """Hash of every regular file below ``folder`` by its path; of all else its type."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        is_file = stat.S_ISREG(mode)
        found[str(path.relative_to(folder))] = (
            hashlib.sha256(path.read_bytes()).hexdigest() if is_file else oct(stat.S_IFMT(mode))
        )
    return found


def check(case: Case, outcome: Outcome, before: dict[str, str], folder: Path) -> None:
    """Fail if the user of a case is not told what is wrong, or has lost something.

    Args:
        before: ``contents`` of the working directory when the command began.
    """
    assert outcome.code == case.code, outcome
    for word in case.words:
        assert word in outcome.screen, (word, outcome)
    assert not _INTERNALS.search(outcome.screen), outcome
    after = contents(folder)
    if case.code == 2:
        check_refusal(outcome, case.begun)
    if case.code == 2 and not case.begun:
        assert after == before
    else:
        check_kept(before, after)
        check_output(folder / OUT)
    for name in case.written:
        assert (folder / OUT / name).is_file(), (name, sorted(after))


def check_refusal(outcome: Outcome, begun: bool = False) -> None:
    """One sentence, and nothing else but, where a run had ``begun``, warnings that it would have been given."""
    assert outcome.stderr.startswith("error: ") and outcome.stderr.count("\n") == 1, outcome
    assert len(outcome.stderr) < MAX_SENTENCE, outcome
    assert outcome.stdout == "" and (begun or "WARNING" not in outcome.log), outcome


def check_kept(before: dict[str, str], after: dict[str, str]) -> None:
    """Every file is there still, with the same content; in the output folder it may have moved aside."""
    for path, digest in before.items():
        if Path(path).name in ("manifest.json", "contact_sheet.png"):
            continue  # which grow
        assert after.get(path) == digest or (path.startswith(OUT) and digest in after.values()), path


def check_output(folder: Path) -> None:
    """No half-written file, and a manifest that is right about all that is finished."""
    manifest = folder / "manifest.json"
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp" or ".tmp." in path.name]
    if not manifest.is_file():
        return
    for stem, entry in json.loads(manifest.read_text())["samples"].items():
        assert (entry["status"] == "failed") == (entry["error"] is not None), (stem, entry)
        for name, about in entry["files"].items():
            data = (folder / name).read_bytes()
            assert hashlib.sha256(data).hexdigest() == about["sha256"], name
