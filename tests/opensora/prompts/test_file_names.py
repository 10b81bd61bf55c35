"""File names out of free text: in their folder, on every system, never too long."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensora.prompts.syntax import MAX_STEM_BYTES, safe_stem, sample_stem

RESERVED = ["CON", "nul", "Com1.txt", "LPT¹", "aux .x"]


@pytest.mark.parametrize(
    "name, stem",
    [
        ("a cat runs", "a cat runs"),
        ("Ein Vögelchen, 猫", "Ein Vögelchen, 猫"),
        (" a cat. ", "a cat"),
        ("a: b? <c> | d*", "a_ b_ _c_ _ d_"),
        ("..", "_"),
        ("", "_"),
        (". .", "_"),
        ("-rf", "_-rf"),
        (".hidden", "_.hidden"),
        ("nul", "_nul"),
        ("Com1.txt", "_Com1.txt"),
        ("console", "console"),
        ("a\x00b\x7fc\x85d\u2028e\u202ef\ud800g", "a_b_c_d_e_f_g"),
    ],
)
def test_by_hand(name, stem):
    assert safe_stem(name) == stem


def test_what_is_too_long_is_cut_between_characters_and_keeps_its_number():
    assert safe_stem("猫" * 100) == "猫" * (MAX_STEM_BYTES // 3)
    assert safe_stem("🐈" * 100, "_0003-1") == "🐈" * 48 + "_0003-1"


def test_a_cut_does_not_make_a_reserved_name():
    assert safe_stem("CON" + " " * 300 + "x") == "_CON"


names = st.one_of(st.text(), st.text("🐈猫 ./\\-~", min_size=30), st.sampled_from(RESERVED + ["..", "/etc/passwd"]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(names, st.sampled_from(["", "_0003", "-12"]))
def test_every_name_is_safe(name, tail):
    stem = safe_stem(name, tail)
    assert stem.endswith(tail) and 0 < len(stem.encode()) <= MAX_STEM_BYTES
    assert os.path.basename(stem) == stem and "\\" not in stem and stem[0] not in "-."
    assert stem == stem.strip().rstrip(".") and not any(unicodedata.category(char) in ("Cc", "Cs") for char in stem)
    assert stem.split(".")[0].strip().upper() not in ("CON", "PRN", "AUX", "NUL", "COM1", "LPT1", "LPT¹")
    assert safe_stem(stem) == stem


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.none() | names, st.none() | names, st.integers(0, 99_999))
def test_samples_never_leave_their_folder(tmp_path_factory, prompt, sample_name, index):
    folder = tmp_path_factory.getbasetemp()
    path = os.path.join(folder, sample_stem(sample_name, index, prompt))
    assert os.path.dirname(os.path.realpath(path)) == os.path.realpath(folder)
    with open(f"{path}.frames.npz.12345678.tmp", "wb"):  # with the longest ending there is, the system takes it
        pass
    os.remove(f"{path}.frames.npz.12345678.tmp")
