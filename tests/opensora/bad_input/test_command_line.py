"""Flags that do not exist, cannot be combined, or have values that cannot be used."""

from __future__ import annotations

import pytest

from support.command_cases import MINI, Case

CASES = {
    "unknown flag": Case("--promt x", ["unknown argument '--promt'", "did you mean '--prompt'"]),
    "unknown flag with a value": Case("--sed=3", ["unknown argument '--sed=3'", "did you mean '--seed'"]),
    "unknown short flag": Case("-p x", ["unknown argument '-p'"]),
    "abbreviated flag": Case("--num-f 3", ["unknown argument '--num-f'", "--num-frames"]),
    "two config files": Case("other.py", ["unknown argument 'other.py'"]),
    "flag without a value": Case("--seed", ["--seed: expected one argument"]),
    "list without a value": Case("--reference-path", ["--reference-path"]),
    "a size of one number": Case("--image-size 16", ["--image-size: expected 2 arguments"]),
    "bytes that are not UTF-8 in a prompt": Case(
        ["--prompt", "a caf\udce9 sign"], ["command line: 'a caf\\udce9 sign' has bytes that are not UTF-8"]
    ),
    "bytes that are not UTF-8 in a folder": Case(["--save-dir", "caf\udce9"], ["not UTF-8"]),
    "bytes that are not UTF-8 in an option": Case(["--cfg-options", "watermark_text=\udce9"], ["not UTF-8"]),
    "text for a number": Case("--fps fast", ["--fps", "'fast'"]),
    "a fraction": Case("--seed 1.5", ["--seed", "'1.5'"]),
    "a switch that is neither": Case("--resample perhaps", ["--resample", "expected True or False, got 'perhaps'"]),
    "save-frames as jpg": Case("--save-frames jpg", ["--save-frames: expected npz, png, True or False", "'jpg'"]),
    "an empty number": Case(["--seed", ""], ["--seed", "''"]),
    "cfg-options without =": Case("--cfg-options seed", ["KEY=VALUE", "'seed'"]),
    "cfg-options without a key": Case("--cfg-options =3", ["KEY=VALUE", "'=3'"]),
    "cfg-options of a key that is not there": Case("--cfg-options scheduler.steps=3", ["'steps' in 'scheduler'"]),
    "cfg-options through a number": Case("--cfg-options seed.x=3", ["'seed'"]),
    "cfg-options through two dots": Case("--cfg-options scheduler..x=3", ["scheduler"]),
    "cfg-options that replace a section": Case("--cfg-options scheduler=3", ["scheduler", "dict", "3"]),
    "a seed of -1": Case("--seed -1", ["seed must be at least 0, got -1"]),
    "a seed of 2**64": Case(f"--seed {2**64}", ["seed", str(2**64)]),
    "a seed of 2**63 and 2 prompts": Case(f"--seed {2**64 - 1} --prompt a --prompt b", ["seed"]),
    "a seed of 5000 digits": Case(f"--seed {'9' * 5000}", ["--seed"]),
    "no samples": Case("--num-sample 0", ["num_sample must be at least 1, got 0"]),
    "a batch of nothing": Case("--batch-size 0", ["batch_size must be at least 1, got 0"]),
    "no loops": Case("--loop 0", ["loop must be at least 1, got 0"]),
    "loops of an image": Case("--loop 2", ["loop=2", "num_frames=1"]),
    "end before start": Case("--start-index 3 --end-index 2", ["end_index (2) must be above start_index (3)"]),
    "end at start": Case("--start-index 3 --end-index 3", ["end_index (3) must be above start_index (3)"]),
    "negative start": Case("--start-index -1", ["start_index must be at least 0, got -1"]),
    "no frames": Case("--num-frames 0", ["number of frames must be at least 1"]),
    "frames in hours": Case("--num-frames 2h", ["'2h'", "2s"]),
    "a number of frames with spaces": Case(["--num-frames", "1 7"], ["'1 7'"]),
    "a billion frames": Case("--num-frames 1000000000", ["num_frames must be at most 1000000, got 1000000000"]),
    "a huge size": Case("--image-size 1000000 1000000", ["command line: height must be at most 16384, got 1000000"]),
    "a size of 2**64": Case(f"--image-size {2**64} 16", [str(2**64)]),
    "a size of 0": Case("--image-size 0 16", ["command line: height must be at least 8, got 0"]),
    "a billion samples": Case("--num-sample 1000000000", ["num_sample must be at most 10000"]),
    "no steps": Case("--num-sampling-steps 0", ["scheduler.num_sampling_steps must be at least 1, got 0"]),
    "more steps than timesteps": Case("--num-sampling-steps 100000000", ["num_sampling_steps must be at most 10000"]),
    "no frame rate": Case("--fps 0", ["fps must be at least 1, got 0"]),
    "a frame rate of 10**12": Case(
        f"--num-frames 17 --save-fps {10**12}", ["save_fps must be at most 1000, got", str(10**12)]
    ),
    "NaN as guidance": Case("--cfg-scale nan", ["scheduler.cfg_scale must be a number, got nan"]),
    "infinite guidance": Case("--cfg-scale inf", ["scheduler.cfg_scale must be a number, got inf"]),
    "guidance of 1e300": Case("--cfg-scale 1e300", ["cfg_scale"], code=1),
    "aes of infinity": Case("--aes inf", ["aes must be a number or None, got inf"]),
    "an edit ratio of 2": Case("--condition-frame-edit 2", ["condition_frame_edit must be at most 1, got 2.0"]),
    "an edit ratio below 0": Case("--condition-frame-edit -0.1", ["condition_frame_edit must be at least 0, got -0.1"]),
    "a crf of 52": Case("--crf 52", ["crf must be at most 51, got 52"]),
    "a preview as gif": Case("--preview gif", ["preview must be one of 'webp', 'apng' or None, got 'gif'"]),
    "an unknown solver": Case("--solver heun", ["scheduler.solver must be one of", "'heun'"]),
    "an unknown dtype": Case("--dtype int8", ["dtype must be one of", "'int8'"]),
    "an unknown device": Case("--device gpu", ["device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"]),
    "a device that is not there": Case("--resample --device cuda:99", ["cuda:99", "--device cpu"]),
    "an unknown resolution": Case("--resolution 721p --aspect-ratio 9:16", ["'721p'", "720p"]),
    "an unknown aspect ratio": Case("--resolution 240p --aspect-ratio 16-9", ["'16-9'", "9:16"]),
    "two sizes": Case("--image-size 16 16 --resolution 240p", ["image_size and resolution cannot be combined"]),
    "prompts and a file": Case("--prompt a --prompt-path a.txt", ["prompt and prompt_path cannot be combined"]),
    "draft and final": Case("--draft 2 --final 7", ["draft and final cannot be combined"]),
    "drafts in samples": Case("--draft 2 --num-sample 2", ["draft and num_sample cannot be combined"]),
    "no drafts": Case("--draft 0", ["draft must be at least 1, got 0"]),
    "final of a word": Case("--final best", ["final takes seeds such as 1024", "'best'"]),
    "final of a prompt that is not there": Case("--final 7:1024", ["7"]),
    "two targets": Case("--speedup 2 --max-steps-computed 3", ["speedup and max_steps_computed cannot be combined"]),
    "a target and a replay": Case("--speedup 2 --replay a.json", ["cannot be combined"]),
    "a replay that is not there": Case("--replay nowhere.json", ["replay: cannot read nowhere.json"]),
    "a replay of a folder": Case("--replay out", ["replay: cannot read out"]),
    "a replay of a config": Case("--replay small.py", ["replay", "small.py"]),
    "a replay of a run without a trace": Case("--replay out/sample_0000.json", ["replay", "sample_0000.json"]),
    "a sample name with a folder": Case("--sample-name ../x", ["sample_name must be a file name, got '../x'"]),
    "a sample name that is ..": Case("--sample-name ..", ["sample_name", "'..'"]),
    "an empty watermark": Case(["--watermark", "--watermark-text", ""], ["watermark_text is empty"]),
    "a negative verbosity": Case("--verbose -1", ["verbose must be at least 0, got -1"]),
    "a config behind the prompts": Case(["--prompt", "a", "small.py"], ["put the config file before the flags"]),
    "step count in the model": Case("--cfg-options model.num_sampling_steps=3", ["--num-sampling-steps"]),
    "no prompt": Case("--cfg-options prompt=None", ["no prompts; give --prompt"]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_bad_command_line_is_refused(check_case, case):
    check_case(case)


def test_bad_values_are_refused_with_a_config_that_brings_everything(check_case):
    check_case(Case("--resolution 240p", ["'aspect_ratio' is missing"], config=MINI))
