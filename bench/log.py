"""Keep finished videos on disk, a line each in `log.jsonl`, so that an interrupted bench resumes where it was."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.points import BenchPoint
from bench.setting import BenchClip, digest, path_of_setting
from opensora.errors import ConfigError

logger = logging.getLogger(__name__)

_Key = tuple[str, int, str, str]


@dataclass(frozen=True)
class VideoRow:
    """What was measured on one video.

    Attributes:
        point: key of its point.
        options: digest of the point's options.
        values: by name of the quantity; those that this machine or the video's size does not allow are left out.
        steps: one record per sampling step, for a video of the showcase; else None.
        uncached_seconds: what denoising without reuse took in this session, if its row is of an earlier one.
        commit: what it was measured at; "" in logs that do not say.
    """

    prompt: str
    seed: int
    point: str
    options: str
    values: Mapping[str, float]
    steps: list[dict[str, Any]] | None = None
    uncached_seconds: float | None = None
    commit: str = ""

    @property
    def key(self) -> _Key:
        """What tells the video apart from all others of a log."""
        return self.prompt, self.seed, self.point, self.options


class BenchLog:
    """The finished videos of one setting; each is on disk as soon as it is added.

    A log of another setting is set aside under another name, and taken up again when a bench has that setting. A last
    line that a killed run left unfinished is dropped.

    Args:
        setting: plain values that the numbers depend on, by names that a message can use.
        commit: of the rows that are added. Rows of other commits are kept: most changes do not affect them.

    Raises:
        ConfigError: the file is damaged, and not only at its end.
    """

    def __init__(self, path: Path, setting: Mapping[str, Any], commit: str = "") -> None:
        self._path, self._commit = path, commit
        self._rows: dict[_Key, VideoRow] = {}
        setting = json.loads(json.dumps(setting))
        if path.is_file():
            self._read(setting)
        earlier = path_of_setting(path, digest(setting))
        if not path.is_file() and earlier.is_file():
            os.replace(earlier, path)
            self._read(setting)
        if not path.is_file():
            self._write({"setting": setting})

    def get(self, clip: BenchClip, point: BenchPoint) -> VideoRow | None:
        """Return the finished video of a clip under a point with exactly these options, or None."""
        return self._rows.get((clip.prompt, clip.seed, point.key, point.digest))

    def add(self, row: VideoRow) -> None:
        """Record a finished video."""
        row = replace(row, commit=self._commit)
        self._rows[row.key] = row
        self._write(asdict(row))

    def _read(self, setting: dict[str, Any]) -> None:
        lines = self._path.read_bytes().splitlines(keepends=True)
        entries: list[dict[str, Any]] = []
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                if number < len(lines):
                    raise ConfigError(f"{self._path}: line {number} is damaged; remove the line or the file") from error
                logger.info("the last line of %s is unfinished; its video is sampled again", self._path)
                os.truncate(self._path, sum(map(len, lines[:-1])))
        if lines and not lines[-1].endswith(b"\n") and len(entries) == len(lines):
            self._append("\n")
        if not entries:
            self._path.unlink()
            return
        found = entries[0].get("setting", {})
        if found != setting:
            self._set_aside(found, setting)
            return
        self._rows = {row.key: row for row in (VideoRow(**entry) for entry in entries[1:])}

    def _set_aside(self, found: Mapping[str, Any], setting: Mapping[str, Any]) -> None:
        aside = path_of_setting(self._path, digest(found))
        os.replace(self._path, aside)
        others = [name for name in setting if found.get(name) != setting[name]]
        logger.warning(
            "%s was measured with other %s: it is kept as %s, and the bench goes on without it",
            self._path,
            ", ".join(others) or "settings",
            aside.name,
        )

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._append(json.dumps(entry, ensure_ascii=False) + "\n")

    def _append(self, text: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)
