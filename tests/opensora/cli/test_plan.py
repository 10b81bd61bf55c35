"""What a run will sample: seeds, names, references, settings of single prompts, and what is wrong with them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from opensora.cli import command
from opensora.cli.identity import plain_config
from opensora.cli.plan import Sample, make_batches
from opensora.cli.sidecar import read_sidecar
from opensora.conditioning.mask_strategy import find_nearest_point
from opensora.conditioning.references import part_of_reference
from opensora.config.loading import load_config
from opensora.datasets.video_io import write_video
from opensora.errors import ConfigError
from support import small_model

MINI = Path(__file__).resolve().parents[3] / small_model.SAMPLE


def plan(**flags: Any) -> list[Sample]:
    flags = {"prompt": None if "prompt_path" in flags else ["a", "b", "c"], "seed": 100, **flags}
    return command.prepare(str(MINI), flags, {}).samples


def problem_of(**flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        plan(**flags)
    return str(caught.value)


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of images whose order by name, by time and on disk are no help."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("sample_0002.png", "sample_0000.png", "sample_0001.jpg", "0007.png"):
        Image.new("RGB", (64, 64), "red").save(folder / name)
    (folder / "sample_0000.json").write_text("{}")
    Image.new("RGB", (64, 64)).save(folder / "sample_0000.trace.png")
    return folder


def test_several_samples_of_a_prompt_have_numbers_and_seeds_of_their_own():
    samples = plan(num_sample=2)
    assert [(sample.stem, sample.seed) for sample in samples] == [
        ("sample_0000-0", 100),
        ("sample_0000-1", 100 + 2**20),
        ("sample_0001-0", 101),
        ("sample_0001-1", 101 + 2**20),
        ("sample_0002-0", 102),
        ("sample_0002-1", 102 + 2**20),
    ]


def test_a_part_of_a_pipe_is_named_as_that_of_a_file():
    reading, writing = os.pipe()
    with open(writing, "w") as file:
        file.write("a\nb\nc\n")
    samples = plan(prompt_path=f"/dev/fd/{reading}", start_index=1)
    os.close(reading)
    assert [(sample.stem, sample.prompt) for sample in samples] == [("sample_0001", "b"), ("sample_0002", "c")]


def test_references_of_a_folder_pair_by_name(images):
    samples = plan(reference_path=[str(images)])
    names = [sample.references[0].path.name for sample in samples]
    assert names == ["sample_0000.png", "sample_0001.jpg", "sample_0002.png"]
    assert {sample.mask_strategy for sample in samples} == {"0,0,0,0,1"}
    [seventh] = plan(prompt=["a"], start_index=7, reference_path=[str(images)])
    assert seventh.references[0].path.name == "0007.png"


def test_a_file_in_the_folder_may_have_the_name_that_the_prompt_sets(images, tmp_path):
    Image.new("RGB", (64, 64)).save(images / "Star.PNG")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "name": "star"}\n')
    [sample] = plan(prompt=None, prompt_path=str(tmp_path / "p.jsonl"), reference_path=[str(images)])
    assert sample.references[0].path.name == "Star.PNG"
    Image.new("RGB", (64, 64)).save(images / "star.png")
    [sample] = plan(prompt=None, prompt_path=str(tmp_path / "p.jsonl"), reference_path=[str(images)])
    assert sample.references[0].path.name == "star.png"


def test_a_prompt_of_the_command_line_retires_the_part_of_the_files_prompts(tmp_path):
    (tmp_path / "own.py").write_text(f"_base_ = {str(MINI)!r}\nprompt = None\nprompt_path = 'p.txt'\nend_index = 1\n")
    samples = command.prepare(str(tmp_path / "own.py"), {"prompt": ["a", "b"]}, {}).samples
    assert [sample.prompt for sample in samples] == ["a", "b"]


def test_a_prompt_without_a_file_in_the_folder_fails_alone(images):
    samples = plan(prompt=["a", "b", "c", "d"], reference_path=[str(images)])
    assert [sample.problem is None for sample in samples] == [True, True, True, False]
    assert "sample_0003" in samples[3].problem


def test_an_explicit_list_pairs_in_its_order_and_one_entry_is_for_all(images):
    paths = [str(images / name) for name in ("sample_0002.png", "sample_0000.png", "0007.png")]
    assert [str(sample.references[0].path) for sample in plan(reference_path=paths)] == paths
    assert {str(sample.references[0].path) for sample in plan(reference_path=paths[:1])} == {paths[0]}
    assert "2 entries for 3 prompts" in problem_of(reference_path=paths[:2])
    assert "2 entries for 3 prompts" in problem_of(reference_path=paths[:1], mask_strategy=["0", "0"])


def test_a_video_that_does_not_tell_its_length_may_be_taken_from_anywhere(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", np.zeros((20, 64, 64, 3), np.uint8), 8)
    assert "begins at latent frame 7, but reference 0 has 6" in problem_of(
        prompt=["a"], reference_path=[str(clip)], mask_strategy=["0,0,7,0,1"]
    )
    untold = tmp_path / "clip.mkv"
    with av.open(str(clip)) as source, av.open(str(untold), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    [sample] = plan(prompt=["a"], reference_path=[str(untold)], mask_strategy=["0,0,7,0,1"])
    assert sample.references[0].frames is None and sample.mask_strategy == "0,0,7,0,1"


def test_with_loops_the_second_reference_is_the_end_of_the_last_one(images):
    [sample] = plan(
        prompt=["a"], reference_path=[f"{images / 'sample_0000.png'};{images / '0007.png'}"], num_frames="34", loop=3
    )
    assert sample.mask_strategy == "0,0,0,0,1;2,1,0,-1,1"


@pytest.mark.parametrize(
    ("strategy", "num_frames", "first"),
    [("0,0,-5,0,5", 200, 183), ("0,0,-6,0,2", 200, 166), ("0,0,-5,0,5", 20, 3), ("0,0,-15,0,5", 34, 0)],
)
def test_of_a_video_that_is_continued_only_its_end_is_read(strategy, num_frames, first):
    config = load_config(MINI, {"num_frames": "34"})
    part = part_of_reference(strategy, 0, config)
    assert part.first_frame(num_frames) == first
    kept = min(num_frames, part.last_frames)  # what is read is counted from its own beginning
    assert num_frames - kept + part.first_frame(kept) == first
    # Alignment by another number would choose other frames in a part than in the whole.
    assert part_of_reference(strategy, 0, replace(config, align=3)).last_frames is None


@pytest.mark.parametrize("align", [5, 20, 25, 50])
@pytest.mark.parametrize(("start", "length"), [(13, 26), (26, 50), (0, 5), (49, 1)])
def test_alignment_finds_the_same_frames_in_the_part_that_is_read(align, start, length):
    config = replace(load_config(MINI, {"num_frames": "34"}), align=align)
    part = part_of_reference(f"0,0,{start},0,{length}", 0, config)
    read, whole = (config.vae.latent_frames(frames) for frames in (min(part.max_frames, 1700), 1700))
    taken = [
        (aligned, min(length, count - aligned))
        for count in (read, whole)
        for aligned in [find_nearest_point(start, align, count)]
    ]
    assert taken[0] == taken[1]


def test_two_references_of_one_prompt_are_its_beginning_and_its_end(images, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", np.zeros((20, 64, 64, 3), np.uint8), 8)
    image = images / "0007.png"
    [sample] = plan(prompt=["a"], num_frames="34", reference_path=[f"{clip};{image}"])
    assert [info.kind for info in sample.references] == ["video", "image"]
    assert sample.mask_strategy == "0,0,-5,0,5;0,1,0,-1,1"
    [sample] = plan(prompt=["a"], reference_path=[f"{clip};{image}"], mask_strategy=["0,1"])
    assert sample.mask_strategy == "0,1"


def test_a_prompt_brings_its_own_reference(images):
    text = 'a {"reference_path": "%s", "mask_strategy": "0,0,0,0,1,0.5"}' % (images / "0007.png")
    first, second = plan(prompt=[text, "b"])
    assert (first.prompt, first.references[0].path.name) == ("a", "0007.png")
    assert first.mask_strategy == "0,0,0,0,1,0.5"
    assert (second.references, second.mask_strategy) == ((), "")


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("0,1", ["uses reference 1", "1 is given"]),
        ("0,0,0,0,1,0,7", ["one to six numbers", "got 7"]),
        ("x", ["'x'"]),
        ("0;", ["''"]),
        ("0,0,0,0,1,2", ["between 0 and 1"]),
    ],
)
def test_a_strategy_that_cannot_be_followed_is_refused_before_anything_loads(images, strategy, words):
    message = problem_of(prompt=["a"], reference_path=[str(images / "0007.png")], mask_strategy=[strategy])
    assert message.startswith("prompt 0: ")
    assert all(word in message for word in words), message


def test_a_strategy_without_a_reference_is_refused():
    assert "0 are given" in problem_of(prompt=["a"], mask_strategy=["0"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({}, "leaves nothing to generate; set a larger num_frames"),
        ({"num_frames": "34", "mask_strategy": ["0,0,0,99,1"]}, "the video has 10"),
        ({"num_frames": "34", "mask_strategy": ["0,0,-8,0,1"]}, "reference 0 has 5"),  # its last 17 frames
        ({"num_frames": "34", "mask_strategy": ["1,0"]}, "set --loop 2"),
    ],
)
def test_a_strategy_that_does_not_fit_the_clip_is_refused(tmp_path, flags, words):
    clip = write_video(tmp_path / "clip.mp4", np.zeros((20, 64, 64, 3), np.uint8), 8)
    assert words in problem_of(prompt=["a"], reference_path=[str(clip)], **flags)


def test_names_and_references_do_not_depend_on_the_chosen_part(tmp_path, images):
    (tmp_path / "prompts.txt").write_text("same text\nsame text\nother\n")
    file = {"prompt_path": str(tmp_path / "prompts.txt"), "prompt_as_path": True}
    assert [s.stem for s in plan(**file)] == ["same text_0000", "same text_0001", "other"]
    assert [s.stem for s in plan(**file, start_index=1)] == ["same text_0001", "other"]
    two = [str(images / "sample_0000.png"), str(images / "0007.png")]
    [sample] = plan(prompt=["a", "b"], reference_path=two, final=["1:7"])
    assert sample.references[0].path.name == "0007.png"


def test_three_references_need_a_strategy(images):
    image = str(images / "0007.png")
    assert "3 references need a mask strategy" in problem_of(prompt=["a"], reference_path=[";".join([image] * 3)])


def test_lines_of_a_file_have_settings_of_their_own(tmp_path, images):
    lines = [
        {"prompt": "a", "seed": 5, "steps": 12, "name": "first"},
        {"prompt": "b", "reference_path": "images/0007.png"},
        {"prompt": "c", "num_frames": 1},
        {"prompt": "d", "cfg_scale": -1},
        {"prompt": "e", "max_steps_computed": 10},
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    samples = plan(prompt_path=str(tmp_path / "prompts.jsonl"), speedup=2.0)
    assert [(s.stem, s.seed) for s in samples[:2]] == [("first", 5), ("sample_0001", 101)]
    assert samples[0].config.scheduler.num_sampling_steps == 12
    assert samples[1].references[0].path.name == "0007.png"  # beside the prompt file
    assert samples[2].problem and "number of frames" in samples[2].problem  # the calibration is for another
    assert samples[3].problem == (
        f"prompt 3 (line 4 of {tmp_path / 'prompts.jsonl'}): scheduler.cfg_scale must be at least 0, got -1"
    )
    assert len(samples[4].config.cache.computed_steps) == 10  # its own target, not the run's
    assert [[s.stem for s in batch] for batch in make_batches(samples)] == [["first"], ["sample_0001"], ["sample_0004"]]


def test_samples_of_equal_settings_share_batches():
    samples = plan(prompt=list("abcde"), batch_size=2)
    assert [len(batch) for batch in make_batches(samples)] == [2, 2, 1]


def test_one_bad_prompt_is_among_the_others_and_only_bad_ones_are_refused():
    samples = plan(prompt=["a", "", 'c {"x": 1}', "|0| a |2| b"])
    assert [sample.problem is None for sample in samples] == [True, False, False, False]
    assert problem_of(prompt=[""]).startswith("prompt 0 is empty")
    assert "set --loop 3" in samples[3].problem


def test_a_long_video_reads_its_segments(images):
    [sample] = plan(prompt=["|0| a |2| b"], loop=3, num_frames="34")
    assert sample.problem is None and sample.prompt == "|0|a|2|b"
    assert "segment |2|" in problem_of(prompt=["|0| a |2| "], loop=3, num_frames="34")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"loop": 2}, "leaves nothing to generate"),
        ({"loop": 2, "num_frames": "20"}, "whole chunks of 17"),
        ({"loop": 2, "num_frames": "34", "condition_frame_length": 3}, "multiples of 5"),
        ({"llm_refine": True}, "needs llm_endpoint"),
    ],
)
def test_settings_that_cannot_work_are_refused(flags, words):
    assert words in problem_of(**flags)


def test_low_memory_changes_what_the_command_line_leaves_open():
    config = load_config(MINI, {"low_memory": True, "batch_size": 3}, {"text_encoder.dtype": "fp32"})
    assert (config.vae.tiling, config.vae.micro_batch_size, config.batch_size) == (True, 1, 3)
    assert config.text_encoder.dtype == "fp32"
    assert load_config(MINI, {"low_memory": True}).text_encoder.dtype == "bf16"


def test_references_lie_beside_a_prompt_file_that_is_found_from_another_folder(tmp_path, images, monkeypatch):
    (images / "prompts.jsonl").write_text('{"prompt": "a", "reference_path": "0007.png"}')
    (tmp_path / "tests").symlink_to(MINI.parents[2])
    monkeypatch.setattr("opensora.files.REPO_ROOT", tmp_path)  # where a relative path is looked up, too
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    [sample] = plan(prompt_path="images/prompts.jsonl")
    assert sample.references[0].path == images / "0007.png"


def test_a_path_of_the_command_line_is_looked_up_from_the_working_directory(tmp_path, images, monkeypatch):
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "0007.png")
    (images / "prompts.txt").write_text("a\n")
    monkeypatch.chdir(tmp_path)
    [sample] = plan(prompt_path=str(images / "prompts.txt"), reference_path=["0007.png"])
    assert sample.references[0].path.resolve() == tmp_path / "0007.png"


def test_a_reference_is_as_long_as_the_chunks_that_are_read_of_it(tmp_path):
    write_video(tmp_path / "a.mp4", np.full((20, 16, 16, 3), 99, np.uint8), 8)
    common = {"prompt": ["a"], "reference_path": [str(tmp_path / "a.mp4")], "num_frames": "34"}
    assert plan(**common, mask_strategy=["0,0,5,0,1"])
    assert "latent frame -6, but reference 0 has 5" in problem_of(**common, mask_strategy=["0,0,-6,0,1"])
    both = ["0,0,-5,0,1;0,0,0,5,1"]
    assert "both from its beginning and from its end" in problem_of(**common, mask_strategy=both)


def test_the_config_file_is_read_once_and_every_set_of_settings_once(tmp_path, monkeypatch, caplog):
    settings = [{"cfg_scale": 3 + i % 2, "steps": 8} if i % 3 else {} for i in range(30)]
    lines = [{"prompt": f"{i}", "name": f"n{i}"} | line for i, line in enumerate(settings)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    calls = Counter()
    for function in (command.read_config_file, command.config_from_entries):
        monkeypatch.setattr(command, function.__name__, counted(function, calls))
    config = MINI.with_name("sample_adacache.py")
    plan = command.prepare(str(config), {"prompt_path": str(tmp_path / "prompts.jsonl")}, {})
    assert calls == {"read_config_file": 1, "config_from_entries": 3}  # of the run, and of two sets
    for sample, line in zip(plan.samples, settings, strict=True):
        scheduler = sample.config.scheduler
        assert scheduler.cfg_scale == line.get("cfg_scale", plan.config.scheduler.cfg_scale)
        assert scheduler.num_sampling_steps == line.get("steps", 30)
    [warning] = [record.message for record in caplog.records if "codebook was tuned" in record.message]
    assert "this run has 8" in warning  # said once for both sets


def counted(function: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    def count(*args: Any) -> Any:
        calls[function.__name__] += 1
        return function(*args)

    return count


def test_a_reference_that_all_samples_share_is_read_once(images, monkeypatch):
    read = []
    monkeypatch.setattr("opensora.cli.plan.sha256_of", lambda path: read.append(path) or "hash")
    assert {s.reference_hashes for s in plan(reference_path=[str(images / "0007.png")])} == {("hash",)}
    assert len(read) == 1


def test_final_seeds_keep_their_order_whether_they_are_for_all_prompts_or_one():
    samples = plan(prompt=["a", "b"], final=["7", "1:5", "3", "1:7"])
    assert [(sample.index, sample.seed) for sample in samples] == [(0, 7), (0, 3), (1, 7), (1, 5), (1, 3)]


def test_a_sidecar_of_a_calibrated_config_takes_another_target(tmp_path):
    config = plain_config(load_config("configs/mini/sample_calibrated.py"))
    metadata = {"prompt": "a red star", "seed": 1, "config": config, "number": 1, "video": "sample_0000-1.mp4"}
    (path := tmp_path / "a.json").write_text(json.dumps({"metadata": metadata}, default=list))
    again, sample = read_sidecar(str(path), {}, {})
    assert again.calibration is None and (sample.number, sample.stem) == (1, "sample_0000-1")
    other, _ = read_sidecar(str(path), {"max_steps_computed": 8}, {})
    assert len(other.cache.computed_steps) == 8 < len(again.cache.computed_steps)


def test_a_precision_that_an_older_sidecar_names_for_outputs_is_dropped(tmp_path):
    config = plain_config(load_config("configs/mini/sample_calibrated.py"))
    assert config["cache"]["policy"] == "multistep"
    config["cache"]["cache_dtype"] = "fp32"  # which was noted, and did nothing
    metadata = {"prompt": "a red star", "seed": 1, "config": config}
    (tmp_path / "a.json").write_text(json.dumps({"metadata": metadata}, default=list))
    again, sample = read_sidecar(str(tmp_path / "a.json"), {}, {})
    assert again.cache.cache_dtype is None and sample.prompt == "a red star"


@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_a_prompt_may_set_no_reference_for_itself(images, tmp_path, ending):
    lines = {
        "txt": 'a {"reference_path": ""}\nb\n',
        "jsonl": '{"prompt": "a", "reference_path": ""}\n{"prompt": "b"}\n',
    }
    file = tmp_path / f"p.{ending}"
    file.write_text(lines[ending])
    samples = plan(prompt_path=str(file), reference_path=[str(images / "0007.png")], num_frames="17")
    assert [len(sample.references) for sample in samples] == [0, 1]


def test_a_setting_of_a_prompt_without_effect_is_that_prompts_problem(tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a", "condition_frame_edit": 0.5}\n{"prompt": "b", "condition_frame_edit": 0.5, "loop": 2}\n'
    )
    samples = plan(prompt_path=str(tmp_path / "p.jsonl"), num_frames="34")
    assert samples[0].problem.startswith("prompt 0 (line 1 of")
    assert "condition_frame_edit has no effect without a loop above 1" in samples[0].problem
    assert samples[1].problem is None
