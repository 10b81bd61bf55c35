"""Complete checkpoints of Latte and Open-Sora-Plan, tiny and random, in the layouts that were published."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from adacache.conformance.tiny_pipeline import randomize

GOLDEN = Path(__file__).parents[1] / "golden"
CAPTION_CHANNELS = {"latte": 20, "open_sora_plan": 24}
WORDS = (
    *("a", "red", "blue", "green", "circle", "square", "star", "moving", "fast", "slowly"),
    *("to", "the", "left", "right", "on", "plain", "striped", "background"),
)
PROMPTS = ("a red circle moving to the left", "a blue star", "a green square moving fast to the right")


def write_latte(folder: Path) -> Path:
    """A folder like the repository of Latte-1: transformer, vae, text_encoder, tokenizer."""
    _diffusers_transformer(GOLDEN / "latte" / "transformer", folder / "transformer")
    _image_vae(folder / "vae")
    _text_encoder(folder / "text_encoder", folder / "tokenizer", CAPTION_CHANNELS["latte"])
    return folder


def write_open_sora_plan(folder: Path) -> Path:
    """A folder like the repository of Open-Sora-Plan v1.1.0: 65x512x512, vae; beside them a text encoder."""
    _diffusers_transformer(GOLDEN / "open_sora_plan" / "transformer", folder / "65x512x512")
    _diffusers_transformer(GOLDEN / "open_sora_plan" / "vae", folder / "vae")
    _text_encoder(folder / "text_encoder", folder / "text_encoder", CAPTION_CHANNELS["open_sora_plan"])
    return folder


def latte_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Config entries for the checkpoint that `write_latte` wrote."""
    return {
        "model": {"type": "Latte", "from_pretrained": f"{folder}/transformer"},
        "vae": {"type": "AutoencoderKL", "from_pretrained": f"{folder}/vae", "micro_batch_size": 2},
        "text_encoder": {"type": "t5", "from_pretrained": f"{folder}/text_encoder", "model_max_length": 16},
        "scheduler": {"type": "ddim", "num_sampling_steps": 6, "cfg_scale": 5.0},
        "image_size": (64, 64),
        "num_frames": 5,
        "fps": 8,
        "dtype": "fp32",
        "device": "cpu",
        "prompt": list(PROMPTS[:2]),
        "verbose": 0,
        **changes,
    }


def open_sora_plan_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Config entries for the checkpoint that `write_open_sora_plan` wrote."""
    entries = {
        "model": {"type": "LatteT2V", "from_pretrained": f"{folder}/65x512x512"},
        "vae": {"type": "CausalVAE", "from_pretrained": f"{folder}/vae"},
        "scheduler": {"type": "pndm", "num_sampling_steps": 6, "cfg_scale": 5.0},
        "num_frames": 17,
        "image_size": (32, 32),  # its autoencoder takes longer
    }
    return latte_config(folder, **{**entries, **changes})


def write_config(path: Path, entries: dict[str, Any]) -> Path:
    """Entries as a config file."""
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in entries.items()), encoding="utf-8")
    return path


def _diffusers_transformer(source: Path, target: Path) -> None:
    """A golden checkpoint in float32, under diffusers' name for weights."""
    target.mkdir(parents=True)
    shutil.copy(source / "config.json", target / "config.json")
    weights = {name: tensor.float() for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(weights, target / "diffusion_pytorch_model.safetensors")


def _image_vae(folder: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
    )
    randomize(vae, seed=1).save_pretrained(folder)


def _text_encoder(folder: Path, tokenizer_folder: Path, width: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=300
    )
    config = T5Config(
        vocab_size=len(vocabulary),
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    encoder = randomize(T5EncoderModel(config), seed=2)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        encoder.save_pretrained(folder)
        fast.save_pretrained(tokenizer_folder)


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))
