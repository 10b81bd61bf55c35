#!/usr/bin/env python3
"""Train the bundled mini model from nothing: data, 2-D VAE, temporal VAE, latents, diffusion, export.

Every stage resumes after a kill: run the same command again. The same seed gives the same data and batches.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

STAGES = ("data", "vae", "temporal", "latents", "diffusion", "export")
VAE_CLIPS = 3000
DIFFUSION_CLIPS = 12000
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
    return parser.parse_args()


def train(workers, options: argparse.Namespace) -> None:
    """All stages in order; each worker runs this."""
    from opensora.mini import train_diffusion, train_vae
    from opensora.mini.clips import render_clips
    from opensora.mini.export import export

    def scaled(recipe):
        return replace(recipe, steps=max(2, round(recipe.steps * options.scale)))

    def past(stage: str) -> bool:
        return STAGES.index(options.until) < STAGES.index(stage)

    work, seed = options.work, options.seed
    clips = work / "clips"
    render_clips(clips, max(64, round(VAE_CLIPS * options.scale)), seed, workers)
    if past("vae"):
        return
    spatial = train_vae.train_spatial(clips, work, workers, scaled(train_vae.SPATIAL_RECIPE), seed)
    if past("temporal"):
        return
    temporal = train_vae.train_temporal(spatial, clips, work, workers, scaled(train_vae.TEMPORAL_RECIPE), seed)
    vae = train_vae.assemble_vae(spatial, temporal, clips, seed)
    if past("latents"):
        return
    count = max(64, round(DIFFUSION_CLIPS * options.scale))
    train_diffusion.encode_clips(vae, work / "latents", count, seed + LATENT_SEED_OFFSET, workers)
    if past("diffusion"):
        return
    networks = train_diffusion.train_diffusion(work / "latents", work, workers, scaled(train_diffusion.RECIPE), seed)
    if workers.is_main and not past("export"):
        size = export(vae, networks, options.output)
        print(f"wrote {options.output} ({size / 1e6:.1f} MB of weights)")


def main() -> None:
    """Start the workers and say how long they took."""
    options = parse_arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    # One OpenMP thread per process, sleeping when idle: see opensora/mini/workers.py.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from opensora.mini.workers import run_workers

    start = time.monotonic()
    run_workers(options.processes, train, options)
    print(f"done in {(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
