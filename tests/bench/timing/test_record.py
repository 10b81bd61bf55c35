"""The file of a run: what is written is read again, and anything else is refused in one sentence."""

from __future__ import annotations

import json

import pytest

from bench.machine import DECISIVE, describe_machine
from bench.timing.record import FORMAT, Record, Samples
from opensora.errors import ConfigError


@pytest.fixture
def record() -> Record:
    step = {"computed_ms": Samples((1.0, 2.5), "ms", (10.0, 11.0)), "ratio": Samples((0.5, 0.25))}
    return Record(
        {"cpu": "a CPU", "commit": None, "dirty": True},
        {"repeats": 2},
        {"mini": {"one step": step, "cache_bytes": 163840, "computed_steps": [15, 14]}, "memory": {"held_GB": 0.1}},
    )


def test_a_saved_run_is_read_as_it_was(record, tmp_path):
    path = tmp_path / "new folder" / "run.json"
    record.save(path)
    assert Record.load(path) == record
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]
    step = json.loads(path.read_text())["figures"]["mini"]["one step"]["computed_ms"]
    assert (step["median"], step["quartiles"], step["unit"]) == (1.75, [1.375, 2.125], "ms")


def test_names_of_nested_figures(record):
    assert list(record.flat()) == [
        "mini / one step / computed_ms",
        "mini / one step / ratio",
        "mini / cache_bytes",
        "mini / computed_steps",
        "memory / held_GB",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "is not a benchmark file; give"),
        ("[1, 2]", "is not a benchmark file; give"),
        ('{"machine": {}, "mini": {}}', "is not a benchmark file; give"),
        ('{"format": "opensora-adacache benchmark 0"}', "but of 'opensora-adacache benchmark 0'; give"),
        (f'{{"format": "{FORMAT}"}}', "is a damaged benchmark file"),
        (
            f'{{"format": "{FORMAT}", "machine": {{}}, "settings": {{}}, "figures": {{"a": {{"samples": []}}}}}}',
            "damaged",
        ),
    ],
)
def test_another_file_is_refused(tmp_path, text, message):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Record.load(path)


def test_a_missing_file_and_a_place_that_cannot_be_written_are_told(record, tmp_path):
    with pytest.raises(ConfigError, match=r"nope.json cannot be read \(No such file or directory\); give a file"):
        Record.load(tmp_path / "nope.json")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written .* choose another one with --save"):
        record.save(tmp_path / "file" / "run.json")


def test_the_machine_is_described():
    machine = describe_machine()
    assert set(DECISIVE) <= set(machine)
    assert {"commit", "dirty", "date"} <= set(machine)
    assert machine["cores"] >= 1 and machine["threads"] >= 1
    json.dumps(machine)
