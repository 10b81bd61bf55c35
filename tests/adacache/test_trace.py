import json
import os

import pytest

from adacache import StepRecord, Trace


def trace(*milliseconds_of_computed_and_reused: tuple[bool, float | None]) -> Trace:
    records = [
        StepRecord(index, 1000.0 - index, computed, milliseconds=milliseconds)
        for index, (computed, milliseconds) in enumerate(milliseconds_of_computed_and_reused)
    ]
    return Trace(len(records), records)


FULL = Trace(
    num_steps=3,
    records=[
        StepRecord(0, 1000.0, True, rate=1, milliseconds=12.5),
        StepRecord(1, 700.0, True, 0.125, 0.25, 1.5, -0.5, 2, 11.0),
        StepRecord(2, None, False, milliseconds=1.0),
    ],
    metadata={"seed": 42},
)


def test_steps_are_told_apart():
    subject = trace((True, 10), (True, 10), (False, 1), (True, 10))
    assert (subject.computed_steps, subject.reused_steps) == ([0, 1, 3], [2])
    assert (subject.num_computed, subject.num_reused) == (3, 1)


def test_the_saving_compares_with_computing_every_step():
    # All computed: 4 x 10 ms. Actually 10 + 10 + 2 + 2 ms.
    subject = trace((True, 10), (True, 10), (False, 2), (False, 2))
    assert subject.estimated_speedup == pytest.approx(40 / 24)
    assert subject.estimated_saving == pytest.approx(16 / 40)


def test_a_slow_first_step_does_not_make_caching_look_better():
    # Computing all would have taken 1000 + 10 + 10 + 10 ms; a mean of 340 ms would promise far more.
    subject = trace((True, 1000), (True, 10), (True, 10), (False, 2))
    assert subject.estimated_speedup == pytest.approx(1030 / 1022)


def test_nothing_reused_saves_nothing_and_without_times_there_is_no_estimate():
    assert trace((True, 10), (True, 30)).estimated_saving == 0
    assert trace((True, None), (False, None)).estimated_saving is None
    assert trace((True, 10), (False, None)).estimated_speedup is None
    assert Trace(10).estimated_saving is None


def test_a_trace_survives_a_file(tmp_path):
    FULL.save(tmp_path / "trace.json", prompt="a cat, naïve — 猫")
    again = Trace.load(tmp_path / "trace.json")
    assert again.records == FULL.records
    assert again.num_steps == 3
    assert again.metadata == {"seed": 42, "prompt": "a cat, naïve — 猫"}
    assert FULL.metadata == {"seed": 42}
    written = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    assert written["computed_steps"] == [0, 1]
    assert written["estimated_speedup"] == pytest.approx(FULL.estimated_speedup)


def test_numbers_json_does_not_know_become_null(tmp_path):
    odd = Trace(1, [StepRecord(0, float("nan"), True, distance=float("inf"), value=float("-inf"), rate=3)])
    odd.save(tmp_path / "trace.json", psnr=[float("inf"), 30.0])
    text = (tmp_path / "trace.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    again = Trace.load(tmp_path / "trace.json")
    assert again.records == [StepRecord(0, None, True, rate=3)]
    assert again.metadata == {"psnr": [None, 30.0]}


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path, monkeypatch):
    path = tmp_path / "trace.json"
    FULL.save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        FULL.save(path, model=object())

    def full_disk(source, target):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        FULL.save(path, prompt="another")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["trace.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"num_steps": 3, "metadata": {}, "records": [{}]}'])
def test_a_file_that_holds_no_trace_is_named(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match="other.json holds no trace"):
        Trace.load(tmp_path / "other.json")


@pytest.mark.parametrize("change", [{"num_steps": "3"}, {"records": [{"index": None}]}, {"records": [{"rate": "x"}]}])
def test_values_of_other_kinds_are_refused(change):
    data = Trace(1, [StepRecord(0, 1000.0, True)]).to_dict()
    records = [{**data["records"][0], **record} for record in change.get("records", [{}])]
    with pytest.raises(ValueError, match="num_steps and index must be whole numbers"):
        Trace.from_dict({**data, **change, "records": records})


def test_a_join_survives_a_file_and_older_files_know_of_none(tmp_path):
    joined = Trace(2, [StepRecord(0, None, True), StepRecord(1, None, True, joined=True)])
    joined.save(tmp_path / "trace.json")
    assert [record.joined for record in Trace.load(tmp_path / "trace.json").records] == [False, True]
    data = joined.to_dict()
    for record in data["records"]:
        del record["joined"]
    assert [record.joined for record in Trace.from_dict(data).records] == [False, False]
