"""References that are missing, damaged, or not where a mask strategy looks for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.broken_media import (
    animation,
    clip,
    cut,
    image,
    png_header,
    sound,
    video_without_frames,
    without_index,
)
from support.command_cases import Case

Maker = Callable[[Path], object]


def reference(name: str, make: Maker, *words: str, more: str = "", code: int = 2) -> Case:
    """One reference that ``make`` writes."""
    return Case(["--reference-path", name, *more.split()], words, code, lambda folder: make(folder / name))


def strategy(text: str, *words: str, code: int = 2) -> Case:
    """A mask strategy with one image and a clip of 17 frames, 5 latent ones, for a video of as many."""

    def media(folder: Path) -> None:
        image(folder / "a.png")
        clip(folder / "b.mp4")

    arguments = ["--num-frames", "17", "--reference-path", "a.png;b.mp4", "--mask-strategy", text]
    return Case(arguments, words, code, media)


def among_good_ones(name: str, make: Maker, *words: str) -> Case:
    """Three prompts of which the second one has a bad reference."""

    def media(folder: Path) -> None:
        image(folder / "a.png")
        make(folder / name)

    arguments = ["--prompt", "a red", "b", "c", "--resample", "--num-frames", "34"]
    arguments += ["--reference-path", "a.png", name, "a.png"]
    return Case(arguments, words, 1, media, written=["sample_0000.mp4", "sample_0002.mp4"])


def nothing(path: Path) -> None:
    """No file."""


def locked(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    image(path)
    path.chmod(0)


def folder_of(*names: str) -> Maker:
    def make(folder: Path) -> None:
        folder.mkdir()
        for name in names:
            image(folder / name)

    return make


REFUSED = {
    "missing": reference("a.png", nothing, "prompt 0: reference 'a.png' does not exist"),
    "a name of 5000 characters": Case(["--reference-path", "x" * 5000], ["reference", "too long"]),
    "NUL in the name": Case(["--reference-path", "a\0b.png"], ["reference"]),
    "nobody's home": Case(["--reference-path", "~nobody-at-all/a.png"], ["reference", "does not exist"]),
    "a web address": Case(["--reference-path", "https://example.com/a.png"], ["is a URL; download it"]),
    "an empty entry": Case(["--reference-path", "a.png;;b.png"], ["'a.png;;b.png' has an empty entry"]),
    "a folder of other names": reference("refs", folder_of("cat.png"), "reference 'refs/sample_0000.png'", "exist"),
    "an empty folder": reference("refs", folder_of(), "reference 'refs/sample_0000.png' does not exist"),
    "a folder as one of two": Case(
        ["--reference-path", "out;out"], ["reference 'out' is a folder; give an image or a video"]
    ),
    "two for three prompts": Case(
        "--prompt a --prompt b --prompt c --reference-path x.png y.png",
        ["reference_path has 2 entries for 3 prompts", "one per prompt"],
    ),
    "three strategies for two prompts": Case(
        "--prompt a --prompt b --mask-strategy 0 0 0", ["mask_strategy has 3 entries for 2 prompts", "or one for all\n"]
    ),
    "three for one prompt": Case(
        ["--reference-path", "a.png;a.png;a.png"],
        ["3 references need a mask strategy"],
        given=lambda folder: image(folder / "a.png"),
    ),
    "an empty file": reference("a.png", lambda path: path.write_bytes(b""), "reference 'a.png' is empty"),
    "text named png": reference("a.png", lambda path: path.write_text("a red circle"), "neither an image", "video"),
    "zeros": reference("a.mp4", lambda path: path.write_bytes(bytes(1000)), "neither an image"),
    "a cut png": reference("a.png", lambda path: cut(image(path, (64, 64)), 0.5), "damaged or cut off"),
    "a cut jpg": reference("a.jpg", lambda path: cut(image(path, (64, 64)), 0.5), "damaged or cut off"),
    "an mp4 cut in its index": reference(
        "a.mp4", lambda path: cut(clip(path), 0.02), "reference 'a.mp4' holds no video"
    ),
    "an mp4 without its index": reference("a.mp4", lambda path: without_index(clip(path)), "cut off or damaged"),
    "an mp4 cut in half": reference(
        "a.mp4", lambda path: cut(clip(path), 0.5), "damaged after frame", more="--num-frames 34", code=1
    ),
    "too few frames to go on from": reference(
        "a.mp4",
        lambda path: clip(path, 8),
        "reference 0 has 8 frames, but without a mask strategy 17 of a video are taken",
        more="--num-frames 17",
    ),
    "a video without frames": reference("a.mp4", video_without_frames, "'a.mp4' holds no"),
    "sound": reference("a.mp4", sound, "holds only sound; give an image or a video"),
    "a svg": reference("a.svg", lambda path: path.write_text("<svg/>"), "neither an image"),
    "a playlist": reference("a.m3u8", lambda path: path.write_text("#EXTM3U\n/etc/passwd\n"), "neither an image"),
    "a header of 100000 x 100000": reference(
        "a.png", lambda path: png_header(path, 100_000, 100_000), "make it smaller"
    ),
    "a header of 12000 x 10000": reference(
        "a.png", lambda path: png_header(path, 12_000, 10_000), "12000x10000", "more than 100 million"
    ),
    "a header without pixels": reference("a.png", lambda path: png_header(path, 16, 16), "damaged or cut off"),
    "a line of pixels": reference("a.png", lambda path: image(path, (1000, 1)), "1000x1 pixels, too narrow"),
    "an unreadable file": reference("a.png", locked, "permission denied"),
    "a FIFO": reference("a.png", os.mkfifo, "not a regular file"),
    "a device": Case("--reference-path /dev/zero", ["not a regular file"]),
    "a link to itself": reference("a.png", lambda path: path.symlink_to(path), "reference 'a.png'"),
}

STRATEGIES = {
    "of words": strategy("first", "mask strategy 'first'", "one to six numbers"),
    "of seven numbers": strategy("0,0,0,0,1,0,0", "one to six numbers", "got 7"),
    "of fractions": strategy("0,0,0.5", "whole but for the last"),
    "with an empty entry": strategy("0;;0", "entry ''"),
    "of NaN": strategy("0,0,0,0,1,nan", "edit_ratio between 0 and 1"),
    "with a negative loop": strategy("-1", "loop and ref_id of at least 0"),
    "of no length": strategy("0,0,0,0,0", "length of at least 1"),
    "with an edit ratio of 2": strategy("0,0,0,0,1,2", "edit_ratio between 0 and 1"),
    "of 5000 digits": strategy("9" * 5000, "mask strategy"),
    "for a third reference": strategy("0,2", "uses reference 2, counted from 0, but 2 are given"),
    "without references": Case("--mask-strategy 0", ["uses reference 0", "0 are given"]),
    "beyond the reference": strategy("0,1,7,0,1", "begins at latent frame 7, but reference 1 has 5"),
    "beyond the video": strategy("0,0,0,9,1", "begins at latent frame 9, but the video has 5"),
    "before the video": strategy("0,0,0,-6,1", "begins at latent frame -6", "from -5 to 4"),
    "beyond the loops": strategy("3,0,0,0,1", "an entry for loop 3", "there is 1", "--loop 4"),
}

AMONG = {
    "missing": among_good_ones("b.png", nothing, "prompt 1: reference 'b.png' does not exist"),
    "damaged": among_good_ones("b.png", lambda path: cut(image(path, (64, 64)), 0.5), "prompt 1", "cut off"),
    "damaged further on": among_good_ones("b.mp4", lambda path: cut(clip(path), 0.5), "damaged after frame"),
    "a FIFO": among_good_ones("b.png", os.mkfifo, "prompt 1", "not a regular file"),
}

FINE = {
    "a png named mp4": ("picture.mp4", lambda path: image(path.with_suffix(".png")).rename(path)),
    "one pixel": ("one.png", lambda path: image(path, (1, 1))),
    "16 bits": ("16.png", lambda path: image(path, mode="I;16")),
    "CMYK": ("cmyk.jpg", lambda path: image(path, mode="CMYK")),
    "one bit": ("bit.png", lambda path: image(path, mode="1")),
    "an animated gif": ("a.gif", animation),
    "an animated webp": ("a.webp", animation),
    "a name with umlauts and spaces": ("ein Käfer (1).png", image),
    "a video of two frames": ("two.mp4", lambda path: clip(path, 2)),
    "a name like an option": ("--a.png", image),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_reference_is_refused(check_case, case):
    check_case(case)


@pytest.mark.parametrize("case", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_a_bad_mask_strategy_is_refused(check_case, case):
    check_case(case)


@pytest.mark.parametrize("case", AMONG.values(), ids=AMONG.keys())
def test_one_bad_reference_fails_alone(check_case, case):
    assert "1 of 3 samples failed" in check_case(case).stdout


def test_odd_references_work(check_case):
    """One prompt for each of them."""

    def media(folder: Path) -> None:
        for name, make in FINE.values():
            make(folder / name)

    arguments = ["--num-frames", "17", "--mask-strategy", "0", "--prompt", *["a red circle"] * len(FINE)]
    arguments += ["--reference-path", *(f"./{name}" for name, _ in FINE.values())]
    written = [f"sample_{number:04d}.mp4" for number in range(len(FINE))]
    check_case(Case(arguments, code=0, given=media, written=written))
