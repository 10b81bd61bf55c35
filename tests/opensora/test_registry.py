"""Building objects from the dicts of config files, under upstream's names."""

from __future__ import annotations

import pytest
import torch

from opensora.models.stdit import STDiT3
from opensora.models.vae import VideoAutoencoderPipeline
from opensora.registry import MODELS, SCHEDULERS, build_module
from opensora.schedulers.rf import RFLOW


def test_models_are_built_from_checkpoints(golden):
    model = build_module(
        {"type": "STDiT3-XL/2", "from_pretrained": str(golden / "stdit3/model"), "enable_flash_attn": True},
        MODELS,
        dtype=torch.bfloat16,
    )
    assert isinstance(model, STDiT3)
    assert (model.dtype, model.config.hidden_size) == (torch.bfloat16, 48)
    vae = build_module({"type": "OpenSoraVAE_V1_2", "from_pretrained": str(golden / "vae/model")}, MODELS)
    assert isinstance(vae, VideoAutoencoderPipeline)


def test_without_a_checkpoint_a_model_of_the_given_sizes_is_built():
    module = {"type": "STDiT3", "hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": 8, "qk_norm": False}
    model = build_module(module, MODELS)
    assert (len(model.spatial_blocks), model.config.qk_norm) == (1, False)


def test_a_checkpoint_that_contradicts_qk_norm_is_refused(golden):
    with pytest.raises(ValueError, match="q_norm"):
        build_module({"type": "STDiT3", "from_pretrained": str(golden / "stdit3/model"), "qk_norm": False}, MODELS)


def test_scheduler_is_built_with_its_options():
    scheduler = build_module({"type": "rflow", "num_sampling_steps": 7, "cfg_scale": 3.0}, SCHEDULERS)
    assert isinstance(scheduler, RFLOW)
    assert (scheduler.num_sampling_steps, scheduler.cfg_scale) == (7, 3.0)


def test_an_unknown_type_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown model type 'STDiT3-XL2'; did you mean 'STDiT3-XL/2'?"):
        build_module({"type": "STDiT3-XL2"}, MODELS)
    with pytest.raises(ValueError, match="unknown scheduler type None"):
        build_module({}, SCHEDULERS)
