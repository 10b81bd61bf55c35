"""Flags that do not exist, cannot be combined, or have values that cannot be used."""

from __future__ import annotations

import pytest

from support import small_model
from support.command_cases import MINI, Case

ADACACHE = small_model.ADACACHE
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
    "cfg-options without =": Case("--cfg-options seed", ["KEY=VALUE", "'seed'"]),
    "cfg-options without a key": Case("--cfg-options =3", ["KEY=VALUE", "'=3'"]),
    "cfg-options of a key that is not there": Case("--cfg-options scheduler.steps=3", ["'steps' in 'scheduler'"]),
    "cfg-options through a number": Case("--cfg-options seed.x=3", ["'seed'"]),
    "cfg-options through two dots": Case("--cfg-options scheduler..x=3", ["scheduler"]),
    "cfg-options that replace a section": Case("--cfg-options scheduler=3", ["scheduler", "dict", "3"]),
    "words of a sidecar": Case("--words --from-sidecar x.json", ["--words", "leave out --from-sidecar"]),
    "a seed of -1": Case("--seed -1", ["seed must be at least 0, got -1"]),
    "a seed of 2**64": Case(f"--seed {2**64}", ["seed", str(2**64)]),
    "a seed of 2**32 - 1 and 2 prompts": Case(f"--seed {2**32 - 1} --prompt a --prompt b", [f"seed {2**32}"]),
    "a seed of 5000 digits": Case(f"--seed {'9' * 5000}", ["--seed"]),
    "loops of an image": Case("--loop 2", ["loop=2", "num_frames=1"]),
    "end at start": Case("--start-index 3 --end-index 3", ["end_index (3) must be above start_index (3)"]),
    "no frames": Case("--num-frames 0", ["number of frames must be at least 1"]),
    "frames in hours": Case("--num-frames 2h", ["'2h'", "2s"]),
    "a number of frames with spaces": Case(["--num-frames", "1 7"], ["'1 7'"]),
    "a billion frames": Case("--num-frames 1000000000", ["num_frames must be at most 1000000, got 1000000000"]),
    "a huge size": Case("--image-size 1000000 1000000", ["command line: height must be at most 16384, got 1000000"]),
    "NaN as guidance": Case("--cfg-scale nan", ["scheduler.cfg_scale must be a number, got nan"]),
    "guidance of 1e300": Case("--cfg-scale 1e300", ["cfg_scale"], code=1),
    "a crf of 52": Case("--crf 52", ["crf must be at most 51, got 52"]),
    "a preview as gif": Case("--preview gif", ["preview must be one of 'webp', 'apng' or None, got 'gif'\n"]),
    "an unknown solver": Case("--solver heun", ["scheduler.solver must be one of", "'heun'"]),
    "an unknown device": Case("--device gpu", ["device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"]),
    "a device that is not there": Case("--resample --device cuda:99", ["cuda:99", "--device cpu"]),
    "an unknown resolution": Case("--resolution 721p --aspect-ratio 9:16", ["'721p'", "720p"]),
    "an unknown aspect ratio": Case("--resolution 240p --aspect-ratio 16-9", ["'16-9'", "9:16"]),
    "two sizes": Case("--image-size 16 16 --resolution 240p", ["image_size and resolution cannot be combined"]),
    "prompts and a file": Case("--prompt a --prompt-path a.txt", ["prompt and prompt_path cannot be combined"]),
    "draft and final": Case("--draft 2 --final 7", ["draft and final cannot be combined"]),
    "drafts in samples": Case("--draft 2 --num-sample 2", ["draft and num_sample cannot be combined"]),
    "final of a word": Case("--final best", ["final takes seeds such as 1024", "'best'"]),
    "final of a prompt that is not there": Case("--num-sampling-steps 30 --final 7:1024", ["no prompt 7"]),
    "two targets": Case("--speedup 2 --max-steps-computed 3", ["speedup and max_steps_computed cannot be combined"]),
    "a target and a replay": Case("--speedup 2 --replay a.json", ["cannot be combined"]),
    "a replay that is not there": Case("--replay nowhere.json", ["replay: cannot read nowhere.json"]),
    "a replay of a folder": Case("--replay out", ["replay: cannot read out"]),
    "a replay of a config": Case("--replay small.py", ["replay", "small.py"]),
    "a replay of a run without a trace": Case("--replay out/sample_0000.json", ["replay", "sample_0000.json"]),
    "a sample name with a folder": Case("--sample-name ../x", ["sample_name must be a file name, got '../x'"]),
    "a sample name that is ..": Case("--sample-name ..", ["sample_name", "'..'"]),
    "an empty watermark": Case(["--watermark", "--watermark-text", ""], ["watermark_text is empty"]),
    "a config behind the prompts": Case(["--prompt", "a", "small.py"], ["put the config file before the flags"]),
    "step count in the model": Case("--cfg-options model.num_sampling_steps=3", ["--num-sampling-steps"]),
    "an option with an open bracket": Case("--cfg-options image_size=[64,64", ["image_size", "brackets"]),
    "a prompt without quotes": Case("--prompt a red star", ['put a prompt in quotes, --prompt "a red star"']),
    "a prompt without a flag": Case([], ["'a red star' does not exist", "--prompt and in quotes"], config="a red star"),
    "a size without its ratio": Case("--resolution 720p --num-frames 2s", ["'aspect_ratio'", "17, 34 or"], config=MINI),
    "weights that cannot be fetched": Case(
        [],
        ["OpenSora-STDiT-v3", "4.8 GB", "OpenSora-VAE-v1.2", "t5-v1_1-xxl", "configs/mini/"],
        config="configs/sample.py",
    ),
    "a codebook that does not ascend": Case(
        "--cfg-options cache.codebook=[(0.2,3),(0.1,2)]", ["cache: ", "ascend"], config=ADACACHE
    ),
    "a rate below 1": Case("--cfg-options cache.codebook=[(0.1,0),(1,1)]", ["cache: ", "rate"], config=ADACACHE),
    "a block out of range": Case(
        "--cfg-options cache.metric_blocks=[28]", ["0..27"], config="configs/sample_adacache.py"
    ),
    "MoReg beyond the steps": Case(
        "--cfg-options cache.moreg.window=(4,31)", ["cache: ", "30"], config=small_model.MOREG
    ),
    "a part of a list of prompts": Case("--end-index 1", ["end_index chooses a part of a prompt file", "leave it out"]),
    "draft and replay": Case("--draft 2 --replay a.json", ["replay and draft cannot be combined"]),
    "no prompt": Case("--cfg-options prompt=None", ["no prompts; give --prompt"]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_bad_command_line_is_refused(check_case, case):
    check_case(case)
