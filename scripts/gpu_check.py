#!/usr/bin/env python3
"""Is the sampler right on this GPU, how fast is it, and where does the time go?

Sections: machine    versions, ceilings of matrix products and copies, the model's linear layers
          correct    golden vectors, AdaCache schedules and the bundled model against the CPU's
          sdpa       attention backends at every site; temporal attention in one kernel
          pointwise  kernels that move bytes
          steps      a computed step of STDiT3-XL/2 at 480p and 720p
          reused     reused steps, and what a controller adds to computed ones
          runs       whole videos: uncached, and with as many computed steps as the paper's speedups stand for
          vae        decoding
          t5         text encoding
          profile    kernels of a computed step
          compile    a step with compiled blocks
          quality    with --weights-dir: real schedules, and PSNR to the uncached video

Weights are random where no folder of published ones is given: times and memory are real then, pictures are not. Each
section fails alone; every figure is a line of gpu_check.jsonl as soon as it is there. The exit code is 1 if a section
failed or something is not right. Needs torch, transformers, diffusers, mmengine, pydantic, ftfy and beautifulsoup4.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.cli.arguments import OneLineParser  # noqa: E402
from opensora.errors import ConfigError, run_command  # noqa: E402

# Seconds that a section needs on an H100.
SECTIONS = {
    "machine": 15.0,
    "correct": 60.0,
    "sdpa": 20.0,
    "pointwise": 10.0,
    "steps": 40.0,
    "reused": 30.0,
    "runs": 60.0,
    "vae": 40.0,
    "t5": 15.0,
    "profile": 20.0,
    "compile": 60.0,
    "quality": 120.0,  # an estimate: with published weights, it was not run yet
}
BEGIN = 5.0  # until the first section begins


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parse_options(arguments)
    return run_command(lambda: run(options))


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        SystemExit: a section that is not there, or a deadline that none of them can meet.
    """
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/gpu"), help="folder of gpu_check.jsonl (default: %(default)s)"
    )
    parser.add_argument("--only", metavar="A,B", help="sections, in this order (default: all)")
    parser.add_argument(
        "--deadline",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="start no section that would end later (default: 600)",
    )
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU, to test this check itself")
    parser.add_argument(
        "--weights-dir",
        type=Path,
        metavar="DIR",
        help="folder with OpenSora-STDiT-v3, OpenSora-VAE-v1.2 and t5-v1_1-xxl",
    )
    options = parser.parse_args(arguments)
    options.only = options.only.split(",") if options.only else list(SECTIONS)
    for name in options.only:
        if name not in SECTIONS:
            parser.error(f"there is no section '{name}'; choose from {', '.join(SECTIONS)}")
    shortest = min(SECTIONS[name] for name in options.only)
    if not options.dry and options.deadline < shortest + BEGIN:
        least = f"{shortest + BEGIN:g}"
        parser.error(f"--deadline {options.deadline:g} is too short for any of these sections; give at least {least}")
    if options.weights_dir is not None and not options.weights_dir.is_dir():
        parser.error(f"--weights-dir {options.weights_dir} is not a folder")
    return options


def run(options: argparse.Namespace) -> int:
    """Run the chosen sections.

    Raises:
        ConfigError: there is no GPU, or one that is too old.
    """
    import torch

    from bench.gpu import correctness, denoising, kernels, stages
    from bench.gpu.report import Check, Section
    from opensora.device import check_device

    if not options.dry and not torch.cuda.is_available():
        raise ConfigError(f"PyTorch {torch.__version__} sees no GPU; --dry runs all sections at tiny size on the CPU")
    device = check_device("cpu" if options.dry else "cuda", torch.bfloat16)
    if options.dry:
        torch.set_num_threads(1)  # threads of tiny tensors wait for each other
    torch.manual_seed(0)
    check = Check(options.out, device, options.deadline, options.weights_dir)
    full_size = denoising.FullSizeModel()
    functions = {
        "machine": kernels.check_machine,
        "correct": correctness.check_correctness,
        "sdpa": kernels.check_attention,
        "pointwise": kernels.check_pointwise,
        "steps": partial(denoising.check_steps, full_size=full_size),
        "reused": partial(denoising.check_reused, full_size=full_size),
        "runs": partial(stages.check_runs, full_size=full_size),
        "vae": stages.check_vae,
        "t5": stages.check_t5,
        "profile": partial(denoising.check_profile, full_size=full_size),
        "compile": partial(denoising.check_compile, full_size=full_size),
        "quality": stages.check_quality,
    }
    check.run([Section(name, functions[name], SECTIONS[name]) for name in options.only])
    print(check.verdict())
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
