"""Output folders that refuse, disks that are full, and files that are not ours."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
from pathlib import Path

import pytest

from support.command_cases import OUT, Case, check, contents


def manifest(text: str):
    return lambda folder: (folder / OUT / "manifest.json").write_text(text)


def file_named(name: str):
    return lambda folder: (folder / name).write_text("something else")


def locked_folder(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    (folder / "locked").mkdir(mode=0o500)


SAVE_DIR = "choose another one with --save-dir"
CASES = {
    "a variable that is not set": Case(["--save-dir", ""], ["save_dir is empty; name a folder"]),
    "a file": Case("--save-dir file", ["'file'", "file exists", SAVE_DIR], given=file_named("file")),
    "below a file": Case("--save-dir file/x", ["'file/x'", "not a directory", SAVE_DIR], given=file_named("file")),
    "in /proc": Case("--save-dir /proc/samples", ["'/proc/samples'", SAVE_DIR]),
    "a device": Case("--save-dir /dev/null", ["'/dev/null'", SAVE_DIR]),
    "a read-only folder": Case("--save-dir locked/x", ["permission denied", SAVE_DIR], given=locked_folder),
    "a name of 5000 characters": Case(["--save-dir", "x" * 5000], ["too long", SAVE_DIR]),
    "NUL in the name": Case(["--save-dir", "a\0b"], ["null", SAVE_DIR]),
    "nobody's home": Case("--save-dir ~nobody-at-all/x", ["home", SAVE_DIR]),
    "a manifest of text": Case("", ["out/manifest.json is not a manifest of ours", "--save-dir"], given=manifest("hi")),
    "an empty manifest": Case("", ["not a manifest of ours"], given=manifest("")),
    "a manifest of a browser extension": Case(
        "", ["not a manifest of ours"], given=manifest('{"manifest_version": 3, "name": "x"}')
    ),
    "a manifest of the future": Case("", ["format 2 instead of 1"], given=manifest('{"format": 2}')),
    "a manifest that is a list": Case("", ["not a manifest of ours"], given=manifest("[]")),
    "a manifest of other samples": Case(
        "", ["not a manifest of ours"], given=manifest('{"format": 1, "runs": [], "samples": {"a": {"x": 1}}}')
    ),
    "a manifest whose samples are numbers": Case(
        "", ["not a manifest of ours"], given=manifest('{"format": 1, "runs": [], "samples": {"a": 3}}')
    ),
    "a manifest of damaged entries": Case(
        "",
        ["not a manifest of ours"],
        given=manifest(
            '{"format": 1, "runs": [], "samples": {"sample_0000": {"prompt": "a", "seed": 1, "index": 0, "files": 3}}}'
        ),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_output_folder_that_cannot_be_used_is_refused(check_case, case):
    check_case(case)


def test_a_folder_that_another_run_writes_into_is_refused(check_case, folder):
    with open(folder / OUT / ".manifest.lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        check_case(Case("--prompt b", ["another run is writing into out", "--save-dir"]))


@pytest.mark.parametrize("text", ["\0", "[]", "{}", '{"metadata": {"seconds": null}}'])
def test_a_damaged_sidecar_of_a_finished_sample_is_made_again(run, folder, text):
    sidecar, video = folder / OUT / "sample_0000.json", folder / OUT / "sample_0000.png"
    finished = video.read_bytes()
    sidecar.write_text(text.ljust(sidecar.stat().st_size))
    outcome = run(["small.py"])
    assert outcome.code == 0 and "sample_0000.json is damaged" in outcome.log, outcome
    assert json.loads(sidecar.read_text())["metadata"]["prompt"] == "a red circle"
    assert video.read_bytes() == finished


def test_files_that_no_run_made_are_never_lost(check_case, folder):
    for text in ("one", "two", "three"):
        (folder / OUT / "manifest.json").unlink()
        (folder / OUT / "sample_0000.png").write_text(text)
        check_case(Case("", code=0, written=["sample_0000.png"]))
    kept = [path.read_bytes() for path in (folder / OUT / "replaced").rglob("*.png")]
    assert {b"one", b"two", b"three"} <= set(kept)


def test_a_folder_in_the_place_of_a_video_is_refused_or_replaced(run, folder):
    (folder / OUT / "sample_0001.png").mkdir()
    (folder / OUT / "sample_0001.png/precious.txt").write_text("precious")
    outcome = run(["small.py", "--prompt", "a red circle", "b"])
    assert outcome.code in (0, 1) and "Traceback" not in outcome.screen
    assert any(path.read_text() == "precious" for path in (folder / OUT).rglob("precious.txt"))


def full_after(count: int, write):
    """``write``, for which the disk is full once it was called ``count`` times."""
    calls = []

    def write_or_fail(path, *arguments, **options):
        calls.append(path)
        if len(calls) > count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, *arguments, **options)

    return write_or_fail


def test_a_disk_that_is_full_halfway_keeps_what_is_finished(check_case, folder, monkeypatch):
    from opensora.cli import records

    monkeypatch.setattr(records, "write_video", full_after(1, records.write_video))
    words = ["No space left on device; what is finished is kept", "sample_0000.png"]
    case = Case(
        "--prompt a --prompt b --prompt c --resample", words, 1, written=["sample_0000.png", "sample_0000.json"]
    )
    outcome = check_case(case)
    assert outcome.stderr.count("error: ") == 1
    statuses = {stem: entry["status"] for stem, entry in read_manifest(folder)["samples"].items()}
    assert statuses == {"sample_0000": "done", "sample_0001": "waiting", "sample_0002": "waiting"}
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    check_case(
        Case("--prompt a --prompt b --prompt c", ["1 of 3 samples are in out already"], 0, written=["sample_0002.png"])
    )


def test_files_that_may_not_grow_leave_no_half_ones(run, check_case, folder):
    """As on a full disk, but refused by the system itself."""
    arguments = "--num-frames 17 --image-size 64 64 --crf 0"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = contents(folder)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        outcome = run(["small.py", *arguments.split()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    check(Case(arguments, ["File too large; what is finished is kept"], 1), outcome, before, folder)
    check_case(Case(arguments, code=0, written=["sample_0000.mp4"]))


def test_an_encoded_text_that_cannot_be_kept_harms_nothing(check_case, folder):
    (folder / "file").write_text("")
    check_case(Case("--prompt b --text-cache file/x", code=0, written=["sample_0000.png"]))


def test_a_folder_that_vanishes_meanwhile_is_no_traceback(run, folder, monkeypatch):
    from opensora.cli import records

    write = records.write_video

    def write_and_lose(path, *arguments, **options):
        shutil.rmtree(folder / OUT)
        (folder / OUT).write_text("")
        return write(path, *arguments, **options)

    monkeypatch.setattr(records, "write_video", write_and_lose)
    outcome = run(["small.py", "--prompt", "b"])
    assert outcome.code == 1 and outcome.stderr.count("error: ") == 1, outcome


def test_memory_that_does_not_suffice_is_one_sentence(check_case, monkeypatch):
    from opensora.pipeline import SamplingPipeline

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(SamplingPipeline, "__call__", refuse)
    check_case(Case("--prompt a --prompt b", ["ran out of memory", "--low-memory", "2 of 2 samples failed"], 1))


def read_manifest(folder: Path) -> dict:
    return json.loads((folder / OUT / "manifest.json").read_text())
