"""See what a cache does: one prompt and seed without a cache and with it, side by side, with the figures of each.

Prints a line for each config (PSNR of its frames to those without a cache, computed steps, seconds, speedup) and writes
comparison.mp4 and comparison.preview.webp, an animated picture for pages. Configs may differ in cache and scheduler.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opensora.cli.arguments import DEFAULT_CONFIG, CfgOptions, OneLineParser
from opensora.errors import ConfigError, run_command

if TYPE_CHECKING:
    from opensora.config.schema import SampleConfig

# Entries of a config that have to be the same: the videos are compared pixel by pixel, the models loaded once.
SHARED = ("model", "vae", "text_encoder", "height", "width", "num_frames", "fps", "save_fps", "dtype", "compile")
SHARED += ("device", "aes", "flow", "camera_motion", "negative_prompt", "multi_resolution", "compat")
# Entries that ask for more than one clip of one prompt, with the values that do not.
ONE_CLIP = {"loop": 1, "reference_path": None, "mask_strategy": None, "llm_refine": False, "draft": None, "final": None}


def build_parser() -> OneLineParser:
    """Return the parser of this command."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", nargs="?", default=DEFAULT_CONFIG, help="with a cache (default: %(default)s)")
    parser.add_argument("--with", nargs="+", default=[], metavar="CONFIG", dest="others", help="configs to add")
    parser.add_argument("--prompt", metavar="TEXT", help="in quotes (default: the first of the config)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the noise (default: the first config's)")
    parser.add_argument("--num-frames", metavar="N", help="2s, 4s, 8s, 16s, or a number of frames")
    parser.add_argument("--num-sampling-steps", type=int, metavar="N", help="denoising steps")
    parser.add_argument("--weights-dir", metavar="DIR", help="folder of downloaded weights")
    parser.add_argument("--save-dir", metavar="DIR", help="folder of the results (default: samples/compare/FLAGS)")
    parser.add_argument(
        "--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="any entry, of all configs"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("opensora").setLevel(logging.INFO)
    return run_command(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Check everything that can be checked without torch, then sample, measure and write."""
    from opensora.config.entries import name_of_overrides
    from opensora.files import make_output_folder
    from opensora.prompts.run_prompts import plain_texts

    given = {name: value for name, value in vars(options).items() if value is not None}
    paths = [given.pop("config"), *given.pop("others")]
    folder, cfg_options = given.pop("save_dir", None), given.pop("cfg_options", {})
    configs = read_configs(paths, given, cfg_options)
    prompt = plain_texts(configs[0])[0]
    if folder is None:
        chosen = {} if paths == [DEFAULT_CONFIG] else {"configs": paths}
        folder = Path("samples", "compare", name_of_overrides(given | cfg_options | chosen))
    folder = make_output_folder(folder)

    from opensora.cli.compare import compare

    for path in compare(configs, prompt, folder):
        print(f"wrote {path}")
    return 0


def read_configs(paths: Sequence[str], flags: dict[str, object], cfg_options: dict[str, object]) -> list[SampleConfig]:
    """Return the first config without its cache, however the file names it, then each config as it stands.

    Raises:
        ConfigError: one cannot be used, computes what the uncached run does, or is for another video than the first.
    """
    from opensora.config.loading import load_config, load_without_cache

    first = load_without_cache(paths[0], flags, cfg_options)
    configs = [first]
    for path in paths:
        config = load_config(path, flags, cfg_options)
        for name, plain in ONE_CLIP.items():
            if getattr(config, name) != plain:
                raise ConfigError(f"{path}: only one clip of one prompt can be compared; leave out '{name}'")
        for name in SHARED:
            if getattr(config, name) != getattr(first, name):
                raise ConfigError(f"{path}: '{name}' differs from {paths[0]}, so frames cannot be compared")
        if config.cache is None and config.scheduler == first.scheduler:
            raise ConfigError(f"{path} computes every step, as the uncached video does; give a config with a cache")
        configs.append(config)
    return configs
