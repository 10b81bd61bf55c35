"""Weights, sidecars, calibrations and language models that do not fit or are not there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support import small_model
from support.broken_media import cut, image
from support.command_cases import MINI, OUT, ROOT, Case

WEIGHTS = ROOT / small_model.FOLDER


def copy_of(piece: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    """A changed copy of one piece of the weights, in a folder ``w``."""

    def make(folder: Path) -> None:
        shutil.copytree(WEIGHTS / piece, folder / "w")
        change(folder / "w")

    return make


def weight_file(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def pretrained(**folders: object) -> list[str]:
    """Options that take pieces from elsewhere; sampled anew, so that they are looked at."""
    return ["--resample", "--cfg-options", *(f"{name}.from_pretrained={path}" for name, path in folders.items())]


def damaged(piece: str, section: str, change: Callable[[Path], object], *words: str, begun: bool = False) -> Case:
    return Case(pretrained(**{section: "w"}), words, given=copy_of(piece, change), begun=begun)


def sidecar(change: Callable[[dict], object], *words: str, code: int = 2) -> Case:
    """A changed copy of the finished sample's sidecar."""

    def make(folder: Path) -> None:
        content = json.loads((folder / OUT / "sample_0000.json").read_text())
        change(content["metadata"])
        (folder / "s.json").write_text(json.dumps(content))

    return Case("--from-sidecar s.json", ["s.json", *words], code, make)


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def changed_reference(folder: Path) -> None:
    content = json.loads((folder / OUT / "sample_0000.json").read_text())
    about = {"path": str(image(folder / "a.png")), "sha256": "0" * 64}
    content["metadata"] |= {"references": [about], "mask_strategy": "0"}
    (folder / "s.json").write_text(json.dumps(content))


def reference_for_all_frames(folder: Path) -> None:
    content = json.loads((folder / OUT / "sample_0000.json").read_text())
    path = image(folder / "a.png")
    about = {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    content["metadata"] |= {"references": [about], "mask_strategy": "0"}
    (folder / "s.json").write_text(json.dumps(content))


WEIGHT_CASES = {
    "all missing": Case(
        pretrained(model="./m", vae="./v", text_encoder="./t"), ["'./m' (model)", "'./v' (vae)", "'./t' (text_encoder)"]
    ),
    "one missing": Case(["--ckpt-path", "./m"], ["'./m' (model)", "config.json"]),
    "a path of nothing": Case(pretrained(model=""), ["model"]),
    "a weights folder that is none": Case("--weights-dir nowhere", ["weights_dir 'nowhere' is not a folder"]),
    "a weights folder that is a file": Case("--weights-dir small.py", ["weights_dir 'small.py' is not a folder"]),
    "an empty folder": Case(
        ["--ckpt-path", "w"], ["model folder", "lacks"], given=lambda folder: (folder / "w").mkdir()
    ),
    "a text file as weights": Case(["--ckpt-path", "small.py"], ["small.py"]),
    "a cut vae": damaged("vae", "vae", lambda w: cut(weight_file(w), 0.7), "corrupt or truncated"),
    "a transformer of nothing": damaged("transformer", "model", lambda w: weight_file(w).write_bytes(b""), "w/model"),
    "a header of garbage": damaged(
        "transformer", "model", lambda w: weight_file(w).write_bytes(b"\xff" * 100), "corrupt or truncated"
    ),
    "no config.json": damaged("transformer", "model", lambda w: (w / "config.json").unlink(), "lacks config.json"),
    "a config.json of garbage": damaged("transformer", "model", text("config.json", "{"), "config.json"),
    "a config.json of other sizes": damaged(
        "transformer", "model", text("config.json", '{"depth": 3, "hidden_size": 12}'), "w"
    ),
    "an encoder without tokenizer": damaged(
        "text_encoder", "text_encoder", lambda w: [path.unlink() for path in w.glob("*token*")], "text_encoder", "lacks"
    ),
    "a tokenizer of garbage": damaged(
        "text_encoder", "text_encoder", text("tokenizer.json", "{"), "text encoder in w cannot be loaded", begun=True
    ),
    "an encoder's config of garbage": damaged("text_encoder", "text_encoder", text("config.json", "{"), "config.json"),
    "a transformer as text encoder": Case(pretrained(text_encoder=WEIGHTS / "transformer"), ["text_encoder"]),
    "model and vae swapped": Case(pretrained(model=WEIGHTS / "vae", vae=WEIGHTS / "transformer"), ["fit"]),
    "a text encoder as model": Case(["--resample", "--ckpt-path", str(WEIGHTS / "text_encoder")], ["fit"]),
}

SIDECARS = {
    "missing": Case("--from-sidecar nowhere.json", ["cannot read nowhere.json"]),
    "a folder": Case("--from-sidecar out", ["cannot read out"]),
    "garbage": Case("--from-sidecar s.json", ["s.json is not the .json of a sampled video"], given=text("s.json", "{")),
    "a picture": Case("--from-sidecar out/sample_0000.png", ["is not the .json of a sampled video"]),
    "a manifest": Case("--from-sidecar out/manifest.json", ["is not the .json of a sampled video"]),
    "a list": Case("--from-sidecar s.json", ["is not the .json of a sampled video"], given=text("s.json", "[]")),
    "nested brackets": Case("--from-sidecar s.json", ["s.json"], given=text("s.json", "[" * 10_000)),
    "without a config": sidecar(lambda about: about.pop("config"), "metadata.config: field required"),
    "without a prompt": sidecar(lambda about: about.pop("prompt"), "metadata.prompt: field required"),
    "a config of text": sidecar(lambda about: about.update(config="small.py"), "metadata.config"),
    "an empty config": sidecar(lambda about: about.update(config={}), "not complete"),
    "an unknown key": sidecar(lambda about: about["config"].update(sheduler=3), "unknown key 'sheduler'"),
    "an unknown key of the model": sidecar(lambda about: about["config"]["model"].update(x=3), "unknown key 'x'"),
    "a cache of another version": sidecar(
        lambda about: about["config"].update(cache={"policy": "of tomorrow"}), "cache", "'of tomorrow'"
    ),
    "a seed of text": sidecar(lambda about: about.update(seed="x"), "seed"),
    "a prompt of numbers": sidecar(lambda about: about.update(prompt=3), "prompt"),
    "a negative size": sidecar(lambda about: about["config"].update(height=-3), "height"),
    "references of text": sidecar(lambda about: about.update(references="a.png"), "references"),
    "references without a hash": sidecar(lambda about: about.update(references=[{"path": "a.png"}]), "references"),
    "a reference that is gone": sidecar(
        lambda about: about.update(references=[{"path": "s.json.png", "sha256": ""}], mask_strategy="0"), "not exist"
    ),
    "a reference that has changed": Case(
        "--from-sidecar s.json", ["a.png is no longer the file that s.json was made with"], given=changed_reference
    ),
    "other references": Case(
        "--from-sidecar out/sample_0000.json --reference-path a.png", ["leave out reference_path"],
    ),
    "another name": Case("--from-sidecar out/sample_0000.json --sample-name star", ["leave out sample_name"]),
    "a config": Case(
        ["configs/mini/sample.py", "--from-sidecar", "s.json"], ["leave out the config 'configs/mini/sample.py'"]
    ),
    "a prompt of an open brace": Case(
        ["--from-sidecar", "out/sample_0000.json", "--prompt", "a red star {bad"], ["not one JSON object"]
    ),
    "a prompt with settings": Case(
        ["--from-sidecar", "out/sample_0000.json", "--prompt", 'a red star {"mask_strategy": "0"}'], ["settings in"]
    ),
    "two mask strategies": Case(
        ["--from-sidecar", "out/sample_0000.json", "--mask-strategy", "0", "1"], ["got 2 mask strategies"]
    ),
    "a cache that is a list": sidecar(lambda about: about["config"].update(cache=[1]), "cache"),
    "an empty prompt": Case(["--from-sidecar", "out/sample_0000.json", "--prompt", ""], ["prompt 0 is empty"]),
    "fewer loops than texts": Case(
        "--from-sidecar s.json", ["its segment |1| is for loop 1", "set --loop 2"],
        given=sidecar(lambda about: about.update(prompt="|0| a red circle |1| a blue circle")).given,
    ),
    "nothing left to generate": Case(
        "--from-sidecar s.json", ["gives all", "leaves nothing to generate"], given=reference_for_all_frames
    ),
}  # fmt: skip

LLM = {
    "no URL": Case("--llm-refine --llm-model m --llm-endpoint localhost", ["must be a URL such as", "'localhost'"]),
    "another protocol": Case("--llm-refine --llm-model m --llm-endpoint ftp://x/v1", ["llm_endpoint must be a URL"]),
    "no port": Case("--llm-refine --llm-model m --llm-endpoint http://x:99999", ["llm_endpoint must be a URL"]),
    "no endpoint": Case("--llm-refine --llm-model m", ["llm_refine needs llm_endpoint"]),
    "a calibration for nothing": Case(
        "--calibration mine.json", ["calibration has no effect without one of speedup, max_steps_computed, min_psnr"]
    ),
    "a calibration for nothing, as an option": Case(
        "--cfg-options calibration=mine.json", ["calibration has no effect without one of speedup"]
    ),
    "carried frames without a loop": Case(
        "--condition-frame-edit 0.5", ["condition_frame_edit has no effect without a loop above 1"]
    ),
    "no model": Case("--llm-refine --llm-endpoint http://localhost:1/v1", ["llm_refine needs llm_model"]),
    "an endpoint that refuses": Case(
        "--resample --llm-refine --llm-model m --llm-endpoint http://127.0.0.1:1/v1",
        ["WARNING", "connection was refused", "it stays as it is: a red circle"], 0, written=["sample_0000.png"],
    ),
}  # fmt: skip


def target(arguments: str, *words: str, config: str = MINI) -> Case:
    return Case(f"--prompt a --save-dir out {arguments}", words, config=config)


TARGETS = {
    "a speedup out of reach": target("--speedup 1000", "command line: speedup", "1000"),
    "a speedup below 1": target("--speedup 0.5", "command line: ", "speedup"),
    "a speedup of 0": target("--speedup 0", "command line: ", "speedup"),
    "a speedup of NaN": target("--speedup nan", "speedup must be a number or None, got nan"),
    "no steps": target("--max-steps-computed 0", "command line: ", "max_steps_computed"),
    "more steps than there are": target("--max-steps-computed 31", "command line: ", "31", "30"),
    "a quality out of reach": target("--min-psnr 500", "command line: ", "min_psnr"),
    "a negative quality": target("--min-psnr -3", "command line: ", "min_psnr"),
    "no calibration": target("--min-psnr 30 --cfg-options calibration=None", "min_psnr needs a calibration"),
    "a calibration that is not there": target("--speedup 2 --calibration nowhere.json", "no file nowhere.json"),
    "a calibration of text": target("--speedup 2 --calibration small.py", "small.py"),
    "a calibration that is a folder": target("--speedup 2 --calibration out", "out"),
    "one frame by a calibration of 17": target("--speedup 2 --num-frames 1", "number of frames 17, but this run has 1"),
    "another size": target("--speedup 2 --image-size 32 32", "image size (height, width) [64, 64]", "[32, 32]"),
    "another guidance": target("--speedup 2 --cfg-scale 3", "guidance scale 5.0, but this run has 3.0"),
    "another solver": target("--speedup 2 --solver adams", "solver"),
}


@pytest.mark.parametrize("case", WEIGHT_CASES.values(), ids=WEIGHT_CASES.keys())
def test_weights_that_cannot_be_used_are_refused(check_case, case):
    check_case(case)


@pytest.mark.parametrize("case", SIDECARS.values(), ids=SIDECARS.keys())
def test_a_sidecar_that_cannot_be_used_is_refused(check_case, case):
    check_case(case)


@pytest.mark.parametrize("case", LLM.values(), ids=LLM.keys())
def test_a_language_model_that_is_not_there(check_case, case):
    check_case(case)


@pytest.mark.parametrize("case", TARGETS.values(), ids=TARGETS.keys())
def test_a_target_that_cannot_be_met_is_refused(check_case, case):
    check_case(case)
