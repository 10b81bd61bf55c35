"""The studio without its page: what can be asked for, what is made of it, and what is shown of that."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from opensora.cli.arguments import parse_arguments
from opensora.cli.command import prepare
from opensora.cli.session import open_session
from opensora.commands import studio as command
from opensora.config.loading import load_config
from opensora.datasets.video_io import read_video
from opensora.errors import ConfigError, UserError
from opensora.files import REPO_ROOT
from opensora.studio import parts, studio, worker
from opensora.studio.choices import Model, Wish, arguments_of, expectation, find_models, with_folder
from opensora.studio.engine import Live
from opensora.studio.jobs import Job
from opensora.studio.results import Results, _variant, further_steps, scenes
from opensora.studio.studio import Studio
from opensora.studio.worker import Models, Progress, make
from support import small_model

PROMPT = "a red circle moving fast to the right"
HOSTILE = "<img src=x onerror=alert(1)> \"'><script>&amp;"


@pytest.fixture(scope="module")
def mini() -> Model:
    return find_models([small_model.SAMPLE, small_model.ADACACHE, small_model.CALIBRATED])[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory, mini) -> tuple[Path, list[list[str]], list[dict]]:
    """Two videos of one scene, as the worker makes them: the folder, their arguments, and what was told."""
    root, told = tmp_path_factory.mktemp("studio"), []
    models = Models(Progress(told.append))
    wishes = [Wish(PROMPT, mini, mini.variant("Every step"))]
    wishes.append(Wish(PROMPT, mini, mini.variant("Calibrated"), ("max_steps_computed", 10)))
    arguments = [arguments_of(wish, root) for wish in wishes]
    for of_one in arguments:
        event = make(of_one, models)
        assert event["event"] == "done", event
    return root, arguments, told


@pytest.fixture
def opened(tmp_path, monkeypatch) -> Studio:
    monkeypatch.setattr(studio, "find_models", lambda *_: [])
    monkeypatch.setattr(studio, "Engine", partial(studio.Engine, command=["sleep", "60"]))
    opened = Studio(tmp_path / "out")
    yield opened
    opened.close()


def test_the_bundled_model_is_offered_with_all_ways_to_spend_compute():
    labels = [variant.label for variant in find_models()[0].variants]
    assert labels[0] == "Every step"
    assert {"AdaCache", "AdaCache + MoReg", "Calibrated", "Toward the exact solution"} == set(labels[1:])


def test_sizes_and_lengths_are_those_of_the_training_and_the_config_s_own_come_first(mini):
    assert mini.sizes[:2] == ["64 x 64", "64 x 96"]
    assert mini.lengths == ["17", "1", "34", "51"]


def test_a_config_of_ones_own_comes_first_and_has_to_be_right(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(f"_base_ = {str(Path('configs/mini/sample_adacache.py').resolve())!r}\n")
    model = find_models([str(own)])[0]
    assert "AdaCache (mine)" in [variant.label for variant in model.variants]
    with pytest.raises(ConfigError, match="does not exist"):
        find_models(["configs/mini/nope.py"])


def test_configs_of_one_name_are_told_apart_and_each_is_offered_once(tmp_path):
    own = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        own.append(str(tmp_path / folder / "sample_adacache.py"))
        Path(own[-1]).write_text(f"_base_ = {str(Path('configs/mini/sample_adacache.py').resolve())!r}\n")
    model = find_models([*own, own[0]])[0]
    labels = [variant.label for variant in model.variants]
    assert len(labels) == len(set(labels))
    for path in (*own, "configs/mini/sample_adacache.py"):
        [label] = [variant.label for variant in model.variants if variant.path == path]
        assert model.variant(label).path == path


def test_unfinished_latents_of_nan_are_left_to_the_sampler():
    assert worker._colors(torch.full((4, 3, 5), torch.nan)).shape == (3, 3, 5)


def test_a_wish_is_the_command_and_the_folder_that_one_would_type(mini, tmp_path):
    wish = Wish(f"  {PROMPT}\n", mini, mini.variant("AdaCache"), size="64 x 64", length="17", seed=1024)
    *command, folder = arguments_of(wish, tmp_path)
    assert command == [small_model.ADACACHE, f"--prompt={PROMPT}", "--save-dir"]
    name = re.escape(f"{tmp_path}/sample_adacache-") + "[0-9a-f]{8}/a-red-circle-moving-fast-to-the-right"
    assert re.fullmatch(name, folder)
    other = Wish(PROMPT, mini, mini.variant("Calibrated"), ("speedup", 3.0), "64 x 96", "34", 7)
    with pytest.raises(ConfigError, match="it was made for image size"):  # the calibration
        arguments_of(other, tmp_path)
    for prompt in ("--help", "-1", "--prompt", "one.py two", HOSTILE, "a; rm -rf /", "../../x"):
        path, flags, _ = parse_arguments(arguments_of(Wish(prompt, mini, mini.variants[0]), tmp_path))
        assert (path, flags["prompt"]) == (mini.variants[0].path, [prompt])
        assert Path(flags["save_dir"]).resolve().is_relative_to(tmp_path)


def test_finals_of_prompts_that_came_through_a_pipe_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="came from standard input, which can be read once"):
        with_folder([small_model.ADACACHE, "--prompt-path", "-", "--final", "0:7"], tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": " "},
        {"prompt": 'a {"reference_path": "/tmp/x.png"}'},
        {"size": "9 x 9 x 9"},
        {"length": "many"},
        {"seed": -4},
    ],
)
def test_what_cannot_be_made_is_refused_with_a_sentence(mini, tmp_path, changes):
    with pytest.raises(UserError):
        arguments_of(Wish(**{"prompt": PROMPT, "model": mini, "variant": mini.variants[0], **changes}), tmp_path)


def test_an_outcome_says_what_it_gives(mini):
    calibration = mini.variant("Calibrated").calibration
    count, sentence = expectation(calibration, "max_steps_computed", 12)
    assert count == 12
    assert "12 of 30 steps computed, 2.5x as fast, about 4" in sentence
    assert expectation(calibration, "min_psnr", 45)[0] == 12
    with pytest.raises(ValueError, match="cannot be reached"):
        expectation(calibration, "speedup", 40)


def test_the_worker_tells_of_every_step_and_keeps_its_models(made):
    _, _, told = made
    steps = [event for event in told if event["event"] == "step"]
    assert [event["index"] for event in steps] == [*range(30), *range(30)]
    assert sum(event["computed"] for event in steps[:30]) == 30
    assert sum(event["computed"] for event in steps[30:]) == 10
    assert steps[29]["preview"].startswith("data:image/webp;base64,")
    assert steps[29]["decoded"]


def test_a_canceled_job_ends_at_its_next_step(made, mini, tmp_path, monkeypatch):
    """A large autoencoder is left alone meanwhile: latents are shown as colors."""
    monkeypatch.setattr(worker, "SMALL_AUTOENCODER", 0)
    told = []

    def say(event):
        told.append(event)
        if event.get("index") == 1:
            progress.canceled.set()

    progress = Progress(say)
    with pytest.raises(KeyboardInterrupt):
        make(arguments_of(Wish(PROMPT, mini, mini.variants[0], seed=2), tmp_path), Models(progress))
    assert [event["index"] for event in told] == [0, 1]
    assert not told[0]["decoded"]
    picture = Image.open(io.BytesIO(base64.b64decode(told[0]["preview"].partition(",")[2])))
    assert picture.size == (8, 8)
    assert not list(tmp_path.rglob("*.mp4"))
    [manifest] = [json.loads(path.read_text()) for path in tmp_path.rglob("manifest.json")]
    assert manifest["runs"][-1]["outcome"] == "interrupted"


def test_the_command_finds_what_the_studio_made(made):
    _, arguments, _ = made
    path, flags, options = parse_arguments(arguments[0])
    flags.pop("words")
    with open_session(prepare(path, flags, options)) as session:
        assert not session.plan.due_batches


def test_results_are_read_from_ledgers_and_compared(made):
    root, _, _ = made
    results = Results(root)
    [group] = scenes(results.all()).values()
    assert [(sample.label, sum(sample.computed)) for sample in group] == [
        ("Every step, 30 of 30", 30),
        ("Calibrated, 10 of 30", 10),
    ]
    reference, other = group
    by_frame, whole = results.psnr(other, reference)
    assert len(by_frame) == 17
    assert min(by_frame) <= whole <= max(by_frame)
    assert results.psnr(reference, reference)[1] == 80


def test_results_of_other_policies_are_named_and_counted_by_what_they_computed(made):
    root, _, _ = made
    [uncached, *_] = next(iter(scenes(Results(root).all()).values()))
    config = uncached.metadata["config"]
    policies = {"easycache": "EasyCache", "pab": "PAB", "static": "Listed steps", "multistep": "Calibrated"}
    assert {policy: _variant(config | {"cache": {"policy": policy}}) for policy in policies} == policies
    solution = str(REPO_ROOT / "assets/opensora-mini/calibration_solution.json")
    toward = _variant(config | {"cache": {"policy": "multistep"}, "speedup": 2.0, "calibration": solution})
    assert toward == "Toward the exact solution"
    records = [{"computed": True, "computed_share": share} for share in (1.0, 0.5, 0.5, 1.0)]
    pab = replace(uncached, computed=[True] * 4, records=records, variant="PAB")
    assert pab.num_computed == 3 and pab.label == "PAB, 3 of 4"
    assert next(iter(scenes([pab, replace(uncached, computed=[True] * 4)]).values()))[1] is pab


def test_clips_that_continue_each_other_count_together(mini, tmp_path):
    wish = Wish(PROMPT, mini, mini.variant("AdaCache"))
    arguments = [*arguments_of(wish, tmp_path), "--num-frames", "34", "--loop", "2", "--num-sampling-steps", "4"]
    assert make(arguments, Models(Progress(lambda event: None)))["event"] == "done"
    [sample] = Results(tmp_path).all()
    assert len(sample.computed) == len(sample.records) == 8
    assert sample.size[0] == len(read_video(sample.video)[0]) > 34
    half = replace(sample, computed=([True] * 15 + [False] * 15) * 2, records=[])
    assert further_steps([half]) == (False, 20, 30)
    assert further_steps([replace(half, computed=[True] * 60), half]) == (True, 20, 30)


def test_a_refined_video_and_what_is_made_of_it_again_are_one_scene(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "root")
    first, second = (tmp_path / "root" / f"{sample.id}.json" for sample in Results(made[0]).all())
    for file, change in ((first, {"refined": "a refined text"}), (second, {"prompt": "a refined text"})):
        content = json.loads(file.read_text())
        content["metadata"] |= change
        file.write_text(json.dumps(content))
    [group] = scenes(Results(tmp_path / "root").all()).values()
    assert len(group) == 2


def test_results_that_are_damaged_or_gone_are_left_out(made, tmp_path):
    root, _, _ = made
    folder = tmp_path / "copy"
    for sample in Results(root).all():
        target = folder / sample.id
        target.parent.mkdir(parents=True)
        for file in sample.video.parent.iterdir():
            (target.parent / file.name).write_bytes(file.read_bytes())
    results = Results(folder)
    first, second = results.all()
    first.sidecar.write_text("{")
    (second.video.parent / "manifest.json").write_text("[]")
    assert Results(folder).all() == []
    assert results.get(first.id).id == first.id  # its ledger is as it was
    with pytest.raises(ConfigError, match="not among the results"):
        results.get("../../etc/passwd")


class Tags(HTMLParser):
    """All tags and attributes of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}


def test_a_draft_is_not_offered_to_the_compare_tab_which_would_not_show_it(made):
    root, _, _ = made
    [sample, *_] = Results(root).all()
    draft = replace(sample, metadata=sample.metadata | {"config": sample.metadata["config"] | {"draft": 2}})
    assert 'data-act="compare"' in parts.compare(sample) and sample.id in parts.compare(sample)
    assert parts.compare(draft) == ""


def test_no_prompt_name_or_message_becomes_markup(made):
    root, _, _ = made
    [sample, *_] = Results(root).all()
    hostile = replace(sample, id=HOSTILE, video=sample.video.with_name(f"{HOSTILE[:20]}.mp4"), prompt=HOSTILE)
    job = Job("id", ["--prompt", HOSTILE], HOSTILE, "failed", error=HOSTILE, notes=[HOSTILE])
    texts = [
        parts.card(hostile, parts.button("x", HOSTILE, HOSTILE, id=HOSTILE), HOSTILE) + parts.download(hostile),
        parts.live(Live("id", HOSTILE, 3, (True,), HOSTILE, True), job),
        parts.jobs([job]),
        parts.words({HOSTILE: [HOSTILE]}, [HOSTILE]),
        parts.chart(HOSTILE, [parts.Line(HOSTILE, [(1, 2), (2, 3)])], HOSTILE, HOSTILE, (1, 2, HOSTILE)),
        parts.empty(HOSTILE) + parts.problem(HOSTILE),
    ]
    for text in texts:
        found = Tags(text)
        assert "script" not in found.tags
        assert not {name for name in found.attributes if name.startswith("on")}
        assert "<img src=x" not in text


def test_an_upload_is_decoded_and_kept_under_a_name_of_our_own(opened, tmp_path, monkeypatch):
    picture = tmp_path / "..;x'&.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
    kept = opened.keep_reference(picture)
    assert kept.parent == opened.root / "references"
    assert kept.name.startswith("image-")
    assert kept.suffix == ".png"
    assert opened.keep_reference(picture) == kept
    page = tmp_path / "page.html"
    shutil.copy(picture, page)
    assert opened.keep_reference(page).suffix == ""
    opened.keep_reference(page).unlink()
    (tmp_path / "page.png").write_text("<script>")
    with pytest.raises(ConfigError, match="reference 'page.png'"):
        opened.keep_reference(tmp_path / "page.png")
    monkeypatch.setattr(studio, "MAX_UPLOAD", 10)
    with pytest.raises(ConfigError, match="make it smaller"):
        opened.keep_reference(picture)
    assert list(kept.parent.iterdir()) == [kept]


def test_a_folder_has_one_studio_and_is_not_ones_home(opened, monkeypatch):
    with pytest.raises(ConfigError, match="another run is writing"):
        Studio(opened.root)
    monkeypatch.setattr(Path, "home", lambda: opened.root / "home")
    with pytest.raises(ConfigError, match="would be served"):
        Studio(opened.root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "give a --password, too"),
        (["--host", "0.0.0.0", "--password", "short"], "fewer than 8 characters"),
        (["--port", "0"], "--port is 0"),
        (["--host", "::1"], "give a name or an IPv4 address"),
    ],
)
def test_the_command_refuses_what_is_not_safe(arguments, message, capsys, monkeypatch):
    monkeypatch.delenv(command.PASSWORD, raising=False)
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_without_gradio_one_sentence_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert command.main([]) == 2
    assert "requirements-studio.txt" in capsys.readouterr().err


def test_weights_that_were_replaced_are_loaded_again(tmp_path):
    shutil.copytree(Path(small_model.FOLDER) / "transformer", tmp_path / "transformer")
    config = load_config(small_model.SAMPLE, {"ckpt_path": str(tmp_path / "transformer")})
    models = Models(Progress(lambda _: None))
    first = models(config, None)
    assert models(config, None).model is first.model
    file = next((tmp_path / "transformer").glob("*.safetensors"))
    save_file({name: tensor * 2 for name, tensor in load_file(file).items()}, file)
    assert models(config, None).model is not first.model


def test_names_of_sizes_and_lengths_are_offered_where_the_config_takes_them(tmp_path, monkeypatch):
    monkeypatch.setattr("opensora.studio.choices.trained_on", lambda _: None)
    base = Path(small_model.SAMPLE).resolve()
    sized, named = tmp_path / "sized.py", tmp_path / "named.py"
    sized.write_text(f"_base_ = {str(base)!r}\n")
    named.write_text(f"_base_ = {str(base)!r}\nimage_size = None\nresolution = '144p'\naspect_ratio = '1:1'\n")
    models = {Path(m.variants[0].path).stem: m for m in find_models([str(sized), str(named)])[:2]}
    assert models["sized"].sizes == ["64 x 64"]
    assert "240p" in models["named"].sizes and "2s" in models["named"].lengths
