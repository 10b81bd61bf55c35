"""What a model was trained on is written beside its weights, and a prompt or a size outside of it is named."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from mini.training.export import trained_on as written
from mini.world.captions import held_out_captions, random_caption, random_scene, vocabulary
from opensora.cli.command import words_of
from opensora.config.trained_on import FILE, TrainedOn, trained_on
from opensora.errors import WeightsError
from opensora.files import REPO_ROOT
from support import small_model

FOLDER = "assets/opensora-mini/transformer"
SMALL = [(17, 64, 64)]


@pytest.fixture
def mini() -> TrainedOn:
    """The model's that the training makes."""
    return trained_on(FOLDER)


@pytest.fixture
def small() -> TrainedOn:
    return trained_on(f"{small_model.FOLDER}/transformer")


def test_the_file_is_what_training_writes(mini):
    assert json.loads((REPO_ROOT / FOLDER / FILE).read_text()) == written()
    assert sorted(word for words in mini.words.values() for word in words) == sorted(vocabulary())


def test_what_it_was_trained_on_needs_no_word(mini):
    rng = np.random.default_rng(0)
    captions = [random_caption(random_scene(rng), rng) for _ in range(1000)] + held_out_captions(100, 1)
    assert mini.outside([*captions, *mini.examples, "A red  circle moving fast up."], mini.videos) == []


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (["a purple cat riding a bike"], r"does not know 'cat', 'riding', 'bike' in 'a purple cat riding a bike': .*"),
        (["a still red star", "一只猫", "a dog"], r"does not know '一只猫', 'dog' in '一只猫' and 1 more prompt: .*"),
        (["a red circle"], r"was not trained on captions like 'a red circle', but like 'a red circle moving .*"),
        ([" ".join("abcdefghij")], r"does not know 'b', 'c', 'd', 'e', 'f', 'g', \.\.\. in .*"),
    ],
)
def test_captions_outside_are_named_in_one_sentence(small, captions, expected):
    [line] = small.outside(captions, SMALL)
    assert re.fullmatch(rf"opensora-mini {expected}; --words prints all it knows", line)


def test_sizes_outside_are_named_with_those_it_knows(small):
    [line] = small.outside([], [*SMALL, (34, 64, 96), (51, 720, 1280)])
    assert line == (
        "opensora-mini was trained on 1, 17, 34 or 51 frames of 64 x 64 pixels, 17 frames of 64 x 96 pixels, 17 frames "
        "of 96 x 64 pixels; a video of 34 frames of 64 x 96 pixels may not show its prompt"
    )


@pytest.mark.parametrize(
    ("text", "problem"), [("[1", "Invalid JSON: .*"), ("{}", "name: Field required"), ('{"name": 1}', "name: .*")]
)
def test_a_file_of_another_form_is_refused(tmp_path, text, problem):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(WeightsError, match=f"{FILE} cannot be used: {problem}; delete it"):
        trained_on(str(tmp_path))


def test_words_of_a_model_without_a_list():
    assert trained_on("hpcai-tech/OpenSora-STDiT-v3") is None
    assert "300 tokens" in words_of("configs/sample.py", {}, {})
