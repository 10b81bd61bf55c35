"""Caption cleaning against rows of the reference, and single rules by hand."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from opensora.models.text_encoder.caption_cleaning import clean_caption, text_preprocessing

GOLDEN = Path(__file__).parents[3] / "golden" / "tables"
ROWS = json.loads((GOLDEN / "text_preprocessing.json").read_text())["rows"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["text"][:30])
def test_rows_of_the_reference(row):
    assert clean_caption(row["text"]) == row["once"]
    assert text_preprocessing(row["text"]) == row["out"]
    assert text_preprocessing(row["text"], use_text_preprocessing=False) == row["out_no_preprocessing"]


@pytest.mark.parametrize(
    "text, once",
    [
        ("a cat, see https://cats.com/x and www.dogs.org", "a cat, see and"),
        ("one-two-three-four", "one-two-three-four"),  # three joiners stay
        ("one-two-three-four-five", "one two three four five"),  # four go
        ("it's 5:45 ", "it's 5:45"),  # outer spaces go first, so that this is no article id
        ("20×30 and 20х30 and 20x30 cm", "and and cm"),  # times sign, Cyrillic and Latin x
        ("worldwide free shipping of cats", "of cats"),
        ("click on me please", "please"),
        ("a page 3 girl", "a girl"),
        ("ﬁne ｆｕｌｌ width", "fine full width"),  # ligatures and full-width letters
        ("<!-- hidden --> shown <b>bold</b>", "shown bold"),
        ('"all of it quoted"', "all of it quoted"),
        ("dog#cat @someone", "dog cat"),
        ("see www:/cats", "see cats"),
        ("a ’’cat’’ b", 'a "cat" b'),  # single quotes become a run of one kind, and the run one double quote
        ("a &amp;quot;cat&amp;quot; b", "a cat b"),
        ("late 5:45 @cat", "late"),
        ("photo #12345", "photo"),
    ],
)
def test_single_rules(text, once):
    assert clean_caption(text) == once


def test_two_passes_remove_what_one_uncovers():
    assert clean_caption("&lt;b&gt;cat&lt;/b&gt;") == "<b>cat< b>"
    assert text_preprocessing("&lt;b&gt;cat") == "cat"


def test_prompt_that_looks_like_a_path_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clean_caption("/home/cat") == "home cat"
        assert text_preprocessing("cat.html") == "cat. html"


def test_import_is_light():
    module = "opensora.models.text_encoder.caption_cleaning"
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
