"""The ledger of an output folder: what was asked for, what is finished, what failed and why.

``manifest.json`` is written anew, atomically, whenever something changes, so that a run that is killed at any moment
finds out the next time what is missing. Format 1: ``runs``, one entry per command (config, versions, command line,
begin, end, outcome), and ``samples`` by file stem (prompt, seed, identity, status, files with size and hash, times,
error).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from adacache.atomic import atomic_path
from opensora.cli.plan import PlannedSample
from opensora.errors import ConfigError, one_line

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
REPLACED = "replaced"  # subfolder of videos whose place other settings took
UNLISTED = "unlisted"  # subfolder therein for files that no run entered
FORMAT = 1
_LOCK = ".manifest.lock"
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@dataclass
class Entry:
    """What is known about one sample.

    Attributes:
        identity: see ``sample_identity``.
        status: "waiting", "running", "done" or "failed".
        files: name -> {"bytes", "sha256"}.
        refined: the prompt as a language model rewrote it.
        unrefined: whether it should have, and could not.
        seconds: from text to pixels, of its batch divided by the batch's size.
    """

    prompt: str
    seed: int
    index: int
    number: int = 0
    identity: str = ""
    config_hash: str = ""
    status: str = "waiting"
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    refined: str | None = None
    unrefined: bool = False
    seconds: float | None = None
    started: str | None = None
    finished: str | None = None
    error: str | None = None
    run: int = 0  # which of the manifest's runs it belongs to


class Ledger:
    """The open ledger of a folder; no other process can open it meanwhile.

    One thread may start samples while another one finishes them.

    Raises:
        ConfigError: another run writes into the folder, or its manifest cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = _take_lock(folder)
        self._changing = threading.RLock()  # held from a change until it is on disk
        self.runs: list[dict[str, Any]] = []
        self.entries: dict[str, Entry] = {}
        try:
            self._load()
        except BaseException:
            self.close()
            raise
        if self._lock is not None:  # so that nobody else writes here now
            self._remove_leftovers()

    def begin_run(self, **about: Any) -> None:
        """Note that a command starts; ``about`` are JSON values."""
        self.runs.append({"started": _now(), **about})
        self.save()

    def end_run(self, outcome: str, **about: Any) -> None:
        """Note how the command that began last ended; samples that it had begun are waiting again."""
        with self._changing:
            for entry in self.entries.values():
                if entry.status == "running":
                    entry.status = "waiting"
            self.runs[-1] |= {"finished": _now(), "outcome": outcome, **about}
            self.save()

    def resampled(self) -> set[str]:
        """What the last command had finished, if it sampled everything again and was interrupted in that."""
        if not self.runs or not self.runs[-1].get("resample") or self.runs[-1].get("outcome") == "done":
            return set()
        last = len(self.runs) - 1
        return {stem for stem, entry in self.entries.items() if entry.status == "done" and entry.run == last}

    def is_done(self, stem: str, identity: str, wanted: Sequence[str]) -> bool:
        """Whether the sample is there: the same one, with all ``wanted`` files at the sizes they were written with."""
        entry = self.entries.get(stem)
        if entry is None or entry.status != "done" or entry.identity != identity:
            return False
        return all(name in entry.files and self._is_whole(name, entry.files[name]) for name in wanted)

    def plan(self, sample: PlannedSample, identity: str, config_hash: str, wanted: Sequence[str]) -> None:
        """Enter a sample that is to be made; what is finished in its place, of other settings, goes to ``replaced/``.

        So do files of its ``wanted`` names that no run entered here.
        """
        old = self.entries.get(sample.stem)
        if old is None:
            self._set_aside(UNLISTED, wanted)
        elif old.identity != identity:
            self._set_aside(old.identity or UNLISTED, dict.fromkeys([*old.files, *wanted]))
        prompt = sample.prompt
        self.entries[sample.stem] = Entry(
            prompt.text, prompt.seed, prompt.index, prompt.number, identity, config_hash, run=len(self.runs) - 1
        )
        if old is not None and old.identity == identity:
            # Until they are replaced by the same ones, they are there.
            self.entries[sample.stem].files, self.entries[sample.stem].refined = old.files, old.refined

    def note_problem(self, sample: PlannedSample, problem: str) -> None:
        """Enter a sample that cannot be made as it is asked for now; one that is finished in its place stays."""
        old = self.entries.get(sample.stem)
        if old is None or old.status != "done":
            prompt = sample.prompt
            self.entries[sample.stem] = Entry(
                prompt.text, prompt.seed, prompt.index, prompt.number, status="failed", error=problem, finished=_now()
            )

    def start(self, stems: Sequence[str]) -> None:
        """The samples are being made now."""
        with self._changing:
            for stem in stems:
                entry = self.entries[stem]
                entry.status, entry.started, entry.error = "running", _now(), None
            self.save()

    def finish(self, stem: str, files: Sequence[Path], seconds: float) -> None:
        """The sample is done; its files are complete."""
        described = {str(path.relative_to(self.folder)): _describe(path) for path in files}
        with self._changing:
            entry = self.entries[stem]
            entry.files = described
            entry.status, entry.finished, entry.seconds, entry.error = "done", _now(), round(seconds, 3), None
            self.save()

    def fail(self, stem: str, error: str) -> None:
        """The sample cannot be made."""
        with self._changing:
            entry = self.entries[stem]
            entry.status, entry.finished, entry.error = "failed", _now(), error
            self.save()

    def save(self) -> None:
        """Write the manifest.

        Raises:
            OSError: the disk refuses.
        """
        content = {
            "format": FORMAT,
            "runs": self.runs,
            "samples": {stem: asdict(entry) for stem, entry in self.entries.items()},
        }
        with atomic_path(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Let other runs into the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _load(self) -> None:
        path = self.folder / MANIFEST
        if not path.is_file():
            return
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or "format" not in content:
                raise ValueError("it says no format")
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r} instead of {FORMAT}")
            self.runs = list(content["runs"])
            self.entries = {stem: _read_entry(stem, entry) for stem, entry in content["samples"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{path} is not a manifest of ours ({one_line(error)}); move it away or choose another folder with "
                "--save-dir"
            ) from error

    def _remove_leftovers(self) -> None:
        """Remove what a killed run had not finished writing, see ``atomic_path``."""
        for leftover in self.folder.glob(".*.tmp"):
            if _TEMPORARY.fullmatch(leftover.name) and leftover.is_file():
                leftover.unlink(missing_ok=True)

    def _is_whole(self, name: str, about: Mapping[str, Any]) -> bool:
        path = self.folder / name
        if path.is_dir():
            return sum(1 for _ in path.iterdir()) == about.get("entries")
        return path.is_file() and path.stat().st_size == about.get("bytes")

    def _set_aside(self, identity: str, names: Iterable[str]) -> None:
        """Move files into a subfolder of ``replaced/``, named by what they were."""
        names, folder = list(names), self.folder / REPLACED / identity
        if identity == UNLISTED:  # whose files may differ each time
            numbers = (folder.with_name(f"{identity}-{number}") for number in count(2))
            folder = next(f for f in chain([folder], numbers) if not any((f / name).exists() for name in names))
        for name in names:
            source, target = self.folder / name, folder / name
            if not source.exists() or target.is_dir():  # a folder of frames that was set aside before is the same one
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
            logger.info("%s is of other settings; it was moved to %s", source, target)


def _read_entry(stem: str, values: Any) -> Entry:
    """Raises: ValueError, TypeError: ``values`` of a manifest are no sample."""
    if not isinstance(values, dict):
        raise ValueError(f"sample '{stem}' is no object")
    entry = Entry(**values)
    if not isinstance(entry.files, dict) or not all(isinstance(about, dict) for about in entry.files.values()):
        raise ValueError(f"sample '{stem}' has no list of files")
    return entry


def _take_lock(folder: Path) -> int | None:
    """A lock that ends with the process, however that ends; None where the system has none.

    Raises:
        ConfigError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"another run is writing into {folder}; wait for it, or choose another folder with --save-dir"
        ) from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _describe(path: Path) -> dict[str, Any]:
    """Size and hash of a file; of a folder, the number of its files."""
    if path.is_dir():
        return {"entries": sum(1 for _ in path.iterdir())}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
