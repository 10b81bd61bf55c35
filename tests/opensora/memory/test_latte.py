"""What Latte and Open-Sora-Plan will take, against what they take, and the published ones by arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adacache import StepController
from adacache.policies.static import StaticScheduleConfig
from opensora.config.loading import config_from_dict, load_config
from opensora.errors import ConfigError
from opensora.memory.__main__ import main
from opensora.memory.live_bytes import held_bytes, peak_live_bytes
from opensora.memory.report import cache_bytes, estimate_stages
from opensora.memory.shapes import read_shapes
from opensora.pipeline import SamplingPipeline
from support import tiny_latte

SIDE = 128  # pixels: activations are several times the weights
PUBLISHED = {"latte": 1_057_246_880, "open_sora_plan": 1_057_738_400}  # elements; tests/golden/manifests
EMPTY_CAPTION = 120 * 4096  # that Open-Sora-Plan's file holds beside the model


def by_name(config, batch=1):
    return {stage.name: stage for stage in estimate_stages(config, batch)}


@pytest.fixture(scope="module", params=["latte", "open_sora_plan"])
def entries(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    getattr(tiny_latte, f"write_{request.param}")(folder)
    return getattr(tiny_latte, f"{request.param}_config")(folder, image_size=(SIDE, SIDE))


@pytest.fixture(scope="module")
def config(entries):
    return config_from_dict(entries)


@pytest.fixture(scope="module")
def pipe(config):
    return SamplingPipeline.from_config(config)


def test_weights_are_those_of_the_loaded_models(config, pipe):
    stages = by_name(config)
    assert stages["denoise"].weights == held_bytes(pipe.model) + held_bytes(pipe.vae)
    assert 2 * by_name(replace(config, dtype="bf16"))["decode"].weights == stages["decode"].weights


def test_latents_have_the_size_that_the_autoencoder_gives_them(config, pipe):
    for frames in (1, config.num_frames):
        video = replace(config, num_frames=frames)
        size = pipe.vae.get_latent_size([frames, SIDE, SIDE])
        assert list(read_shapes(video).latent_size) == list(size)
        assert config.vae.latent_frames(frames) == pipe.vae.latent_frames(frames)


@pytest.mark.parametrize("cache", [None, StaticScheduleConfig((0, 2), bridge="linear")], ids=["computed", "static"])
@pytest.mark.parametrize("batch", [1, 2])
def test_denoising_holds_what_was_estimated(config, pipe, cache, batch):
    own = pipe.with_config(replace(config, cache=cache))
    # Texts as long as the encoder's limit are what is estimated; the model cuts them.
    prompts = [" ".join(["red"] * 40)] * batch

    def denoise():
        controller = None if cache is None else StepController(cache)
        own.sample_latents(prompts, 1, progress=False, controller=controller)

    stage = by_name(own.config, batch)["denoise"]
    assert peak_live_bytes(denoise) == pytest.approx(stage.activations + stage.cache, rel=0.15)


def test_decoding_holds_what_was_estimated(config, pipe):
    config = replace(config, height=SIDE // 2, width=SIDE // 2)
    pipe, shapes, batch = pipe.with_config(config), read_shapes(config), 2
    latents = torch.zeros(batch, 4, *shapes.latent_size)
    found = peak_live_bytes(lambda: pipe.decode(latents, progress=False))
    assert found == pytest.approx(shapes.decode_activations(batch) - latents.nbytes, rel=0.15)


def test_residuals_are_hidden_states_of_both_halves(config):
    cache = replace(config, cache=StaticScheduleConfig((0, 2)))
    frames, height, width = read_shapes(config).latent_size
    width_of_hidden = {"Latte": 2 * 12, "LatteT2V": 2 * 16}[config.model.type]  # heads
    hidden = frames * height * width // 4 * width_of_hidden
    assert cache_bytes(read_shapes(cache), 1) == 2 * hidden * 4
    unguided = replace(cache, scheduler=replace(config.scheduler, cfg_scale=1.0))
    assert cache_bytes(read_shapes(unguided), 1) == hidden * 4


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_need_not_be_here(name):
    config = load_config(f"configs/{name}/sample.py")
    shapes = read_shapes(config)
    unused = EMPTY_CAPTION if name == "open_sora_plan" else 0
    transformer = sum(parameter.numel() for parameter in shapes.build_transformer(shapes.depth).parameters())
    assert (transformer, shapes.depth) == (PUBLISHED[name] - unused, 28)
    assert shapes.latent_size == {"latte": (16, 64, 64), "open_sora_plan": (17, 64, 64)}[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_command_prints_a_table(name, capsys):
    assert main([f"configs/{name}/sample.py", "--low-memory"]) == 0
    assert capsys.readouterr().out.count("fits 24 GB") == 1


@pytest.mark.parametrize(
    ("section", "published"),
    [("model", "maxin-cn/Latte-1/transformer"), ("vae", "maxin-cn/Latte-1/vae")],
)
def test_sizes_of_other_models_are_not_known(section, published):
    config = load_config("configs/latte/sample.py", None, {f"{section}.from_pretrained": "some/other/model"})
    with pytest.raises(ConfigError, match=f"^{section}.from_pretrained='some/other/model' is not .*{published}$"):
        read_shapes(config)
