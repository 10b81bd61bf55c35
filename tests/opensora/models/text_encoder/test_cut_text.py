"""Text that the encoder does not read is named: which words, of which prompt, before anything is sampled."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from opensora.cli.text_stage import encode_captions
from opensora.config.loading import load_config
from opensora.files import REPO_ROOT
from opensora.models.text_encoder.encoded_text import cut_lines
from opensora.pipeline import SamplingPipeline
from scripts import inference
from support import small_model
from tests.support.tiny_latte import latte_config, write_latte

CONFIG = str(REPO_ROOT / small_model.SAMPLE)
LONG = "a red circle moving fast to the right and " * 3 + "a still blue star"  # 31 words of one token; 23 are read
SAID = (
    "the last 8 of 31 words of a prompt are left out, as the text encoder reads 24 tokens: "
    "'a red circle moving fast to ... and a red circle moving fast | the rest is cut'"
)


@pytest.fixture(scope="module")
def pipe() -> SamplingPipeline:
    pipe = SamplingPipeline.from_config(small_model.ADACACHE)
    return pipe.with_config(dataclasses.replace(pipe.config, loop=2))


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]


def test_the_command_says_it_before_it_samples_and_from_the_cache_too(tmp_path, caplog):
    logging.getLogger("opensora").propagate = True
    for folder in ("new", "kept"):
        caplog.clear()
        flags = ["--num-sampling-steps", "1", "--text-cache", str(tmp_path / "cache"), "--verbose", "1"]
        assert inference.main([CONFIG, "--prompt", LONG, "a star", *flags, "--save-dir", str(tmp_path / folder)]) == 0
        assert lines(caplog) == [f"WARNING {SAID}"]
        messages = caplog.messages
        assert sum("--words prints all it knows" in message for message in messages) == 1
        assert messages.index(f"WARNING {SAID}") < next(i for i, m in enumerate(messages) if m.startswith("video 1"))
    assert "text: 2 captions, 2 from the cache" in messages


def test_a_call_of_the_pipeline_warns_before_the_first_step(pipe, monkeypatch):
    monkeypatch.setattr(pipe.scheduler, "denoise", lambda *_, **__: pytest.fail("it was sampled before"))
    warn = pytest.warns(UserWarning, match="last 8 of 31 words of a prompt are left out")
    with warn as caught, pytest.raises(pytest.fail.Exception):
        pipe(["a star", f"|0| a star |1| {LONG}"])
    assert [str(warning.message) for warning in caught] == [SAID]
    with pytest.warns(UserWarning, match="left out"), pytest.raises(pytest.fail.Exception):
        pipe.sample_latents([LONG])


def test_prompts_that_fit_are_not_mentioned(pipe, recwarn):
    texts = [" ".join(LONG.split()[:23]), ""]
    assert pipe.text_encoder.encode(texts)["num_chars"].tolist() == [len(text) for text in texts]
    pipe.sample_latents(texts, progress=False)
    assert not [warning for warning in recwarn if "left out" in str(warning.message)]


def test_a_negative_prompt_is_named_as_such(tmp_path):
    entries = latte_config(write_latte(tmp_path), negative_prompt="blue " * 20, text_cache="off")
    pipe = SamplingPipeline.from_config(entries)
    with pytest.warns(UserWarning, match="last 5 of 20 words of a negative prompt are left out.* 16 tokens"):
        pipe.sample_latents(["a star " * 10], progress=False)


def test_a_negative_prompt_that_is_longer_than_the_prompt_is_named(tmp_path):
    entries = latte_config(write_latte(tmp_path), negative_prompt="blue blue blue", text_cache="off")
    pipe = SamplingPipeline.from_config(entries)
    with pytest.warns(UserWarning, match=r"has 4 tokens, more than 1 of 2 prompts \(the shortest has 3\)"):
        pipe.sample_latents(["a star", "a red star"], progress=False)


def test_a_negative_prompt_that_was_prepared_is_named_too(tmp_path, caplog):
    config = load_config(CONFIG, {"text_cache": str(tmp_path)})
    encode_captions(config, ["a star"], "cpu", False, whole={LONG})
    assert "8 of 31 words of a negative prompt" in lines(caplog)[0]
    assert (
        "WARNING the negative prompt has 24 tokens, more than 1 of 1 prompts (the shortest has 3): each" in caplog.text
    )
    caplog.clear()
    encode_captions(config, [LONG], "cpu", False, quiet=True)
    assert not lines(caplog)


def test_many_prompts_give_few_lines():
    captions = [f"a star {i}" for i in range(100)] * 2
    found = cut_lines("prompt", captions, [4] * 200, 3)
    assert len(found) == 6
    assert found[-1] == "95 more of the prompts are cut in the same way"
