"""The ledger of an output folder: what was asked for, what is finished, what failed and why.

`manifest.json` is of format 1: `runs`, one entry per command (config, versions, command line, begin, end, outcome),
and `samples` by file stem (prompt, seed, identity, status, files with size and hash, times, error). It is written
whole, atomically, when a run begins and ends. Changes in between go to `manifest.journal`, one line each, so that a
sample costs the same in a run of ten and of a hundred thousand. A run that is killed leaves both files; whoever opens
the folder next reads them together and rewrites the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, TextIO

from adacache.atomic import atomic_path
from opensora.cli.plan import Sample
from opensora.errors import ConfigError, one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
JOURNAL = "manifest.journal"
REPLACED = "replaced"  # subfolder for videos whose place was taken under other settings
UNLISTED = "unlisted"  # subfolder of it for files that no run entered
FORMAT = 1
INTERRUPTED, ERROR = "interrupted", "error: "  # outcomes of runs that were cut short
_LOCK = ".manifest.lock"
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")

_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass
class Entry:
    """What is known about one sample.

    Attributes:
        identity: hash by `sample_identity`.
        status: "waiting", "running", "done" or "failed".
        files: name -> {"bytes", "sha256"}.
        refined: the prompt as a language model rewrote it.
        unrefined: whether a language model was to rewrite it and could not.
        seconds: from noise to pixels; the batch's time divided by its size.
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
        self._lock = take_lock(folder)
        self._changing = threading.RLock()  # held from a change until it is on disk
        self.runs: list[dict[str, Any]] = []
        self._entries: dict[str, str] = {}  # text as in the manifest: it takes a third of the memory of an object
        self._running: set[str] = set()
        self._journal: TextIO | None = None
        try:
            self._load()
        except BaseException:
            self.close()
            raise
        if self._lock is not None:  # nobody else writes here now
            self._remove_leftovers()

    def get(self, stem: str) -> Entry | None:
        """Return a copy of what is known about a sample, or None; changing the copy changes nothing here."""
        text = self._entries.get(stem)
        return None if text is None else Entry(**json.loads(text))

    def begin_run(self, **about: Any) -> None:
        """Record that a command starts, with JSON values `about` it; enter its samples next, then call `save`."""
        self.runs.append({"started": _now(), **about})

    def end_run(self, outcome: str) -> None:
        """Record how the last command ended; samples that it left unfinished are waiting again."""
        with self._changing:
            for stem in self._running:
                self._set(stem, status="waiting")
            self._running.clear()
            self.runs[-1] |= {"finished": _now(), "outcome": outcome}
            self.save(goes_on=False)

    def resampled(self) -> set[str]:
        """Return the stems that the last command finished, if it sampled with `resample` and was cut short."""
        last_run = self.runs[-1] if self.runs else {}
        outcome = last_run.get("outcome") or INTERRUPTED  # a run that was killed could not write any
        if not last_run.get("resample") or not outcome.startswith((INTERRUPTED, ERROR)):
            return set()
        last = len(self.runs) - 1
        entries = ((stem, json.loads(text)) for stem, text in self._entries.items())
        return {stem for stem, entry in entries if entry["status"] == "done" and entry["run"] == last}

    def is_done(self, stem: str, identity: str, wanted: Iterable[str]) -> bool:
        """Whether a sample was finished with this identity and its files are all there, in their full size."""
        entry = self.get(stem)
        if entry is None or entry.identity != identity or entry.status != "done":
            return False
        return all(name in entry.files and self._is_whole(name, entry.files[name]) for name in wanted)

    def keep(self, stem: str) -> None:
        """Count a finished sample as made by this command."""
        self._set(stem, run=len(self.runs) - 1)

    def plan(self, sample: Sample, config_hash: str, wanted: Sequence[str]) -> None:
        """Enter a sample that is to be made; what other settings left in its place moves to `replaced/`.

        So do files with its `wanted` names that no run entered here.
        """
        old = self.get(sample.stem)
        entry = Entry(sample.prompt, sample.seed, sample.index, sample.number, sample.identity, config_hash)
        entry.run = len(self.runs) - 1
        if old is not None and old.identity == sample.identity:  # its files stay until the same ones replace them
            entry.files, entry.refined = old.files, old.refined
            self._set_aside(UNLISTED, self._names_in_the_way(sample, wanted))
        else:
            identity = UNLISTED if old is None else old.identity or UNLISTED
            self._set_aside(identity, self._names_in_the_way(sample, wanted))
        self._entries[sample.stem] = _text(vars(entry))

    def in_the_way(self, sample: Sample, wanted: Sequence[str]) -> list[Path]:
        """Return the files and folders that `plan` would move to `replaced/`."""
        return [self.folder / name for name in self._names_in_the_way(sample, wanted) if (self.folder / name).exists()]

    def _names_in_the_way(self, sample: Sample, wanted: Sequence[str]) -> list[str]:
        old = self.get(sample.stem)
        if old is None:
            return [*wanted]
        if old.identity != sample.identity:
            return [*dict.fromkeys([*old.files, *wanted])]
        # What a killed run wrote is not listed either, and is replaced by the same.
        return [name for name in wanted if name not in old.files] if old.status == "done" else []

    def note_problem(self, sample: Sample) -> None:
        """Enter a sample that cannot be made as it is asked for now; an entry that is done stays."""
        old = self.get(sample.stem)
        if old is not None and old.status == "done":
            return
        if old is None:
            old = Entry(sample.prompt, sample.seed, sample.index, sample.number)
        old.status, old.run, old.error, old.finished = "failed", len(self.runs) - 1, sample.problem, _now()
        self._entries[sample.stem] = _text(vars(old))

    def start(self, stems: Iterable[str]) -> None:
        """Record that the samples are being made now."""
        with self._changing:
            for stem in stems:
                self._running.add(stem)
                self.note(stem, status="running", started=_now(), error=None)

    def finish(self, stem: str, files: Sequence[Path], seconds: float) -> None:
        """Record that the sample is done and its files are complete."""
        described = {str(path.relative_to(self.folder)): _describe(path) for path in files}
        with self._changing:
            self._running.discard(stem)
            # Others of the same video, such as the frames that an earlier run saved, are still its files.
            others = {name: about for name, about in self.get(stem).files.items() if (self.folder / name).exists()}
            done = {"files": others | described, "status": "done", "finished": _now(), "seconds": round(seconds, 3)}
            self.note(stem, **done, error=None, sync=True)

    def fail(self, stem: str, error: str) -> None:
        """Record that the sample cannot be made, and why."""
        with self._changing:
            self._running.discard(stem)
            self.note(stem, status="failed", finished=_now(), error=error, sync=True)

    def note(self, stem: str, sync: bool = False, **changes: Any) -> None:
        """Change attributes of a sample's entry.

        Args:
            sync: whether the change must outlast a power failure, too.

        Raises:
            OSError: the disk refuses.
        """
        with self._changing:
            self._set(stem, **changes)
            if self._journal is not None:
                self._journal.write(_encode({"sample": stem, "set": changes}) + "\n")
                self._journal.flush()
                if sync:
                    os.fsync(self._journal.fileno())

    def save(self, goes_on: bool = True) -> None:
        """Write the manifest.

        Args:
            goes_on: whether the run goes on; a new journal is begun for its changes.

        Raises:
            OSError: the disk refuses.
        """
        with self._changing:
            token = secrets.token_hex(8) if goes_on else None
            with atomic_path(self.folder / MANIFEST) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.writelines(self._manifest(token))
                file.flush()
                os.fsync(file.fileno())
            # A journal left from before does not have this token, and is ignored from now on.
            self._close_journal()
            if token is None:
                (self.folder / JOURNAL).unlink(missing_ok=True)
            else:
                self._journal = (self.folder / JOURNAL).open("w", encoding="utf-8")
                self._journal.write(_encode({"format": FORMAT, "journal": token}) + "\n")

    def close(self) -> None:
        """Close the journal and let other runs use the folder."""
        self._close_journal()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _close_journal(self) -> None:
        if self._journal is not None:
            with contextlib.suppress(OSError):  # a full disk was reported when it refused the change
                self._journal.close()
            self._journal = None

    def _set(self, stem: str, **changes: Any) -> None:
        self._entries[stem] = _text(json.loads(self._entries[stem]) | changes)

    def _manifest(self, token: str | None) -> Iterator[str]:
        runs = json.dumps(self.runs, indent=1, ensure_ascii=False).replace("\n", "\n ")
        yield f'{{\n "format": {FORMAT},\n "runs": {runs},\n'
        if token is not None:
            yield f' "journal": "{token}",\n'
        yield ' "samples": {'
        separator = "\n"
        for stem, text in self._entries.items():
            yield f"{separator}  {_encode(stem)}: {text}"
            separator = ",\n"
        yield "\n }\n}\n" if self._entries else "}\n}\n"

    def _load(self) -> None:
        path = self.folder / MANIFEST
        if not path.is_file():
            return
        try:
            content = read_manifest(self.folder)
            self.runs = list(content["runs"])
            self._entries = {stem: _text(_checked(stem, values)) for stem, values in content["samples"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{path} is not a manifest of ours ({one_line(error)}); move it away or choose another folder with "
                "--save-dir"
            ) from error
        if (self.folder / JOURNAL).exists():  # of a run that was killed
            self.save(goes_on=False)

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of `atomic_path` that a killed run had not finished writing."""
        for leftover in self.folder.glob(".*.tmp"):
            if _TEMPORARY.fullmatch(leftover.name) and leftover.is_file():
                leftover.unlink(missing_ok=True)

    def _is_whole(self, name: str, about: Mapping[str, Any]) -> bool:
        path = self.folder / name
        return path.is_file() and path.stat().st_size == about.get("bytes")

    def _set_aside(self, identity: str, names: Iterable[str]) -> None:
        """Move files into a subfolder of `replaced/` that is named by their identity."""
        names = [name for name in names if os.path.exists(f"{self.folder}/{name}")]
        if not names:
            return
        folder = self.folder / REPLACED / identity
        if identity == UNLISTED:  # these files may differ each time
            numbers = (folder.with_name(f"{identity}-{number}") for number in count(2))
            folder = next(f for f in chain([folder], numbers) if not any((f / name).exists() for name in names))
        for name in names:
            source, target = self.folder / name, folder / name
            if target.is_dir():  # a folder of frames that was set aside before is the same one
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
            logger.info("%s belongs to other settings; it was moved to %s", source, target)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest and apply its journal, which may be that of a run in progress or one that was killed.

    Raises:
        OSError: there is no manifest, or it cannot be read.
        ValueError, KeyError, TypeError, AttributeError: the manifest is not one of ours.
    """
    content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError("it names no format")
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r} instead of {FORMAT}")
    token = content.pop("journal", None)
    if token is not None and (folder / JOURNAL).is_file():
        with (folder / JOURNAL).open(encoding="utf-8", errors="replace") as lines:
            if _line(next(lines, "")).get("journal") == token:
                for change in map(_line, lines):
                    if change:
                        content["samples"][change["sample"]] |= change["set"]
    return content


def _line(text: str) -> dict[str, Any]:
    """Parse one line of a journal; return {} for a line that was cut off when its run was killed."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _text(values: Mapping[str, Any]) -> str:
    """Format an entry as it stands in the manifest; the json module's indentation would take ten times as long."""
    files = (
        json.dumps(values["files"], indent=1, ensure_ascii=False).replace("\n", "\n   ") if values["files"] else "{}"
    )
    lines = (f'   "{name}": {files if name == "files" else _encode(value)}' for name, value in values.items())
    return "{\n" + ",\n".join(lines) + "\n  }"


def _checked(stem: str, values: Any) -> dict[str, Any]:
    """Return a manifest's entry about a sample, "waiting" again if a killed run left it "running".

    Raises:
        ValueError, TypeError: `values` are not an entry about a sample.
    """
    if not isinstance(values, dict):
        raise ValueError(f"sample '{stem}' is not an object")
    entry = Entry(**values)
    if entry.status == "running":  # in a run that was killed
        entry.status = "waiting"
    if not isinstance(entry.files, dict) or not all(isinstance(about, dict) for about in entry.files.values()):
        raise ValueError(f"sample '{stem}' has no list of files")
    return vars(entry)


def take_lock(folder: Path) -> int | None:
    """Lock a folder until this process ends, however it ends; return None where there are no locks.

    Raises:
        ConfigError: another process holds it.
    """
    if fcntl is None:
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
    """Return size and hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
