"""The ledger: one line per change, whole again after a kill, and as cheap for the last sample as for the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opensora.cli.ledger import JOURNAL, MANIFEST, Ledger, read_manifest
from opensora.cli.plan import Sample


def samples(count: int) -> list[Sample]:
    return [Sample(i, f"prompt {i:06d}: é", i, None, stem=f"sample_{i:06d}", identity="x") for i in range(count)]


def begun(folder: Path, planned: list[Sample]) -> Ledger:
    ledger = Ledger(folder)
    ledger.begin_run(command=["x"])
    for sample in planned:
        ledger.plan(sample, "hash", [f"{sample.stem}.mp4"])
    ledger.save()
    return ledger


def make(ledger: Ledger, sample: Sample) -> None:
    video = ledger.folder / f"{sample.stem}.mp4"
    ledger.start([sample.stem])
    video.write_bytes(b"video")
    ledger.finish(sample.stem, [video], 1.0)


def killed(folder: Path, planned: list[Sample], finished: int) -> None:
    """What a run leaves that is killed while it makes a sample."""
    ledger = begun(folder, planned)
    for sample in planned[:finished]:
        make(ledger, sample)
    ledger.start([planned[finished].stem])
    ledger.close()


def test_a_sample_costs_the_same_bytes_in_a_run_of_any_length(tmp_path, monkeypatch):
    written = []
    for count in (10, 1000):
        (folder := tmp_path / f"{count}").mkdir()
        planned = samples(count)
        ledger = begun(folder, planned)
        monkeypatch.setattr(ledger, "save", lambda: pytest.fail("the manifest was written"))
        before = (folder / MANIFEST).stat()
        for sample in planned[:5]:
            make(ledger, sample)
        after = (folder / MANIFEST).stat()
        assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
        written.append((folder / JOURNAL).stat().st_size)
        ledger.close()
    assert written[0] == written[1] < 5 * 600


def test_what_a_killed_run_finished_is_read_from_its_journal(tmp_path):
    planned = samples(4)
    killed(tmp_path, planned, 2)
    in_manifest = json.loads((tmp_path / MANIFEST).read_text())["samples"].values()
    assert {entry["status"] for entry in in_manifest} == {"waiting"}
    read = read_manifest(tmp_path)
    assert [entry["status"] for entry in read["samples"].values()] == ["done", "done", "running", "waiting"]
    assert read["samples"]["sample_000000"]["files"]["sample_000000.mp4"]["bytes"] == 5
    ledger = Ledger(tmp_path)
    assert ledger.is_done("sample_000001", "x", ["sample_000001.mp4"])
    assert not (tmp_path / JOURNAL).exists()
    in_manifest = json.loads((tmp_path / MANIFEST).read_text())["samples"].values()
    assert [entry["status"] for entry in in_manifest] == ["done", "done", "waiting", "waiting"]
    ledger.close()


def test_a_journal_that_is_cut_off_anywhere_loses_its_last_line_only(tmp_path):
    planned = samples(3)
    killed(tmp_path, planned, 2)
    whole = (tmp_path / JOURNAL).read_bytes()
    ends = {0} | {place + 1 for place, byte in enumerate(whole) if byte == ord("\n")}
    done = []
    for length in sorted({*range(0, len(whole), 7), *ends, *(end - 1 for end in ends if end)}):
        (tmp_path / JOURNAL).write_bytes(whole[:length])
        statuses = [entry["status"] for entry in read_manifest(tmp_path)["samples"].values()]
        done.append(statuses.count("done"))
    assert done == sorted(done) and set(done) == {0, 1, 2}


def test_the_journal_of_an_older_manifest_does_not_count(tmp_path):
    """A run may be killed after the manifest is written anew, and before the journal is."""
    planned = samples(2)
    killed(tmp_path, planned, 1)
    old = (tmp_path / JOURNAL).read_bytes()
    other = samples(2)
    for sample in other:
        sample.identity = "y"
    begun(tmp_path, other).close()
    (tmp_path / JOURNAL).write_bytes(old)
    assert [entry["status"] for entry in read_manifest(tmp_path)["samples"].values()] == ["waiting"] * 2
    (tmp_path / MANIFEST).write_text(json.dumps({"format": 1, "runs": [], "samples": {}}))  # by another version
    assert read_manifest(tmp_path)["samples"] == {}


def test_the_end_of_a_run_leaves_the_manifest_alone(tmp_path):
    planned = samples(2)
    ledger = begun(tmp_path, planned)
    make(ledger, planned[0])
    ledger.start([planned[1].stem])
    ledger.end_run("interrupted")
    ledger.close()
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert list(content) == ["format", "runs", "samples"]
    assert [entry["status"] for entry in content["samples"].values()] == ["done", "waiting"]
    assert not (tmp_path / JOURNAL).exists()
    # Indented as json would do it, so that people can read and compare it.
    assert (tmp_path / MANIFEST).read_text() == json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def test_what_a_user_put_in_the_place_of_a_further_file_of_a_finished_sample_is_kept(tmp_path):
    [sample] = samples(1)
    ledger = begun(tmp_path, [sample])
    make(ledger, sample)
    ledger.close()
    preview = tmp_path / f"{sample.stem}.preview.webp"
    preview.write_bytes(b"mine")
    ledger = Ledger(tmp_path)
    ledger.begin_run(command=["x"])
    assert ledger.in_the_way(sample, [f"{sample.stem}.mp4", preview.name]) == [preview]
    ledger.plan(sample, "hash", [f"{sample.stem}.mp4", preview.name])
    ledger.close()
    [kept] = (tmp_path / "replaced").rglob(preview.name)
    assert kept.read_bytes() == b"mine" and not preview.exists()
    assert (tmp_path / f"{sample.stem}.mp4").read_bytes() == b"video"


def test_a_problem_leaves_what_is_known_of_a_sample_that_waits(tmp_path):
    [sample] = samples(1)
    ledger = begun(tmp_path, [sample])
    ledger.note(sample.stem, refined="a longer prompt")
    ledger.close()
    ledger = Ledger(tmp_path)
    ledger.begin_run(command=["x"])
    sample.problem = "its reference is missing"
    ledger.note_problem(sample)
    entry = ledger.get(sample.stem)
    assert (entry.status, entry.error, entry.run) == ("failed", "its reference is missing", 1)
    assert (entry.refined, entry.identity) == ("a longer prompt", "x")
    ledger.close()
