#!/usr/bin/env python3
"""Train the bundled mini model from nothing: data, 2-D VAE, temporal VAE, latents, diffusion, export.

Every stage resumes after a kill: run the same command again. The same seed gives the same data and batches.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

STAGES = ("data", "vae", "temporal", "latents", "diffusion", "export")
VAE_CLIPS = 3600
LATENT_SEED_OFFSET = 1  # the diffusion model sees other clips than the autoencoders


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("assets/opensora-mini"), help="where the weights go")
    parser.add_argument("--work", type=Path, default=Path("outputs/train_mini"), help="data, checkpoints, loss plots")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage to run")
    parser.add_argument("--processes", type=int, default=2, help="training processes, one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of clips and steps, for a quick trial")
    options = parser.parse_args()
    if options.processes < 1 or options.seed < 0 or options.scale <= 0:
        parser.error("--processes must be at least 1, --seed at least 0, and --scale above 0")
    return options


def train(workers, options: argparse.Namespace) -> None:
    """All stages in order; each worker runs this."""
    from mini.training import train_diffusion, train_vae
    from mini.training.encode import encode_buckets
    from mini.training.export import export
    from mini.world.clips import render_clips

    def scaled(recipe):
        steps = max(2, round(recipe.steps * options.scale))
        return replace(recipe, steps=steps, checkpoint_every=min(recipe.checkpoint_every, max(1, steps // 4)))

    @contextmanager
    def stage(name: str):
        start = time.monotonic()
        yield
        if workers.is_main:
            print(f"stage {name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)

    def is_last(name: str) -> bool:
        return options.until == name

    work, seed, scale = options.work, options.seed, options.scale
    clips = work / "clips"
    with stage("data"):
        render_clips(clips, max(64, round(VAE_CLIPS * scale)), seed, workers)
    if is_last("data"):
        return
    with stage("vae"):
        spatial = train_vae.train_spatial(clips, work, workers, scaled(train_vae.SPATIAL_RECIPE), seed)
    if is_last("vae"):
        return
    with stage("temporal"):
        temporal = train_vae.train_temporal(spatial, clips, work, workers, scaled(train_vae.TEMPORAL_RECIPE), seed)
        vae = train_vae.assemble_vae(spatial, temporal, clips, seed)
    if is_last("temporal"):
        return
    with stage("latents"):
        encode_buckets(vae, work / "latents", scale, seed + LATENT_SEED_OFFSET, workers)
    if is_last("latents"):
        return
    with stage("diffusion"):
        recipe = scaled(train_diffusion.RECIPE)
        networks = train_diffusion.train_diffusion(work / "latents", work, workers, recipe, seed)
    if workers.is_main and not is_last("diffusion"):
        size = export(vae, networks, options.output)
        print(f"wrote {options.output} ({size / 1e6:.1f} MB of weights)")


def main() -> None:
    """Start the workers and say how long they took."""
    options = parse_arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    # One OpenMP thread per process, sleeping when idle: see mini/training/workers.py.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mini.training.workers import run_workers

    start = time.monotonic()
    run_workers(options.processes, train, options)
    print(f"done in {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
