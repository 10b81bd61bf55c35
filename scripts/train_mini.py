#!/usr/bin/env python3
"""Train the mini model of 128 x 128 pixels from nothing: autoencoder, words, latents, diffusion, export.

On CPU cores by default, or on one GPU: --device cuda --minutes 9. Every stage resumes after a kill: run the same
command again. The same seed gives the same data and batches.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()
    # One OpenMP thread per process, sleeping when idle: see mini/training/workers.py.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402
from transformers import T5EncoderModel  # noqa: E402

from mini.training import train_diffusion, train_vae, train_words  # noqa: E402
from mini.training.encode import encode_buckets  # noqa: E402
from mini.training.export import export  # noqa: E402
from mini.training.trainer import Recipe  # noqa: E402
from mini.training.workers import Workers, run_workers  # noqa: E402
from opensora.models.stdit import STDiT3  # noqa: E402
from opensora.models.vae import VideoAutoencoderPipeline  # noqa: E402

STAGES = ("vae", "temporal", "decoders", "words", "latents", "diffusion", "export")
AFTER_WEIGHTS = ("latents", "diffusion", "export")  # the stages of --from
LATENT_SEED_OFFSET = 1  # the diffusion model sees other clips than the autoencoders
SHARES = {"vae": 0.10, "temporal": 0.10, "decoders": 0.08}  # of --minutes
EXPORT_SECONDS = 5.0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("assets/opensora-mini-128"), help="where the weights go")
    parser.add_argument("--work", type=Path, default=Path("outputs/train_mini"), help="data, checkpoints, loss plots")
    parser.add_argument("--from", dest="start", type=Path, metavar="FOLDER", help="go on from these weights")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage to run")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=2, help="training processes on the CPU, one thread each")
    parser.add_argument("--minutes", type=float, help="end in this time, whatever the recipes' steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of clips and steps, for a quick trial")
    options = parser.parse_args()
    if options.processes < 1 or options.seed < 0 or options.scale <= 0:
        parser.error("--processes must be at least 1, --seed at least 0, and --scale above 0")
    if options.minutes is not None and options.minutes <= 0:
        parser.error(f"--minutes is {options.minutes}; use a positive number")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU on this machine")
    if options.start and not (options.start / "transformer").is_dir():
        parser.error(f"--from {options.start}: there is no folder transformer/ in it")
    if options.start and options.until not in AFTER_WEIGHTS:
        parser.error(f"--until {options.until}: with --from, the stages are {', '.join(AFTER_WEIGHTS)}")
    return options


class Training:
    """The stages in order, as one process runs them."""

    def __init__(self, workers: Workers, options: argparse.Namespace, begin: float):
        self.workers, self.options, self.begin = workers, options, begin
        self.work, self.seed = options.work, options.seed

    def run(self) -> None:
        """Run all stages up to the wanted one."""
        options = self.options
        wanted = STAGES[: STAGES.index(options.until) + 1]
        if options.start:
            precise = torch.float32
            vae = VideoAutoencoderPipeline.from_pretrained(options.start / "vae", dtype=precise)
            vae.to(self.workers.device).requires_grad_(False)
            text_encoder = T5EncoderModel.from_pretrained(options.start / "text_encoder", dtype=precise)
            transformer = STDiT3.from_pretrained(options.start / "transformer", dtype=precise)
        else:
            vae = self.train_vae(wanted)
            text_encoder = self.train_words() if "words" in wanted else None
            transformer = train_diffusion.new_transformer(self.seed)
        if "latents" in wanted:
            with self.stage("latents"):
                latents = self.work / "latents"
                encode_buckets(vae, latents, options.scale, self.seed + LATENT_SEED_OFFSET, self.workers)
        if "diffusion" in wanted:
            networks = train_diffusion.TextToVelocity(text_encoder, transformer)
            with self.stage("diffusion"):
                source = train_diffusion.LatentSource(latents, self.workers.device)
                seconds = options.minutes and max(1.0, 60 * options.minutes - EXPORT_SECONDS - self.elapsed)
                train_diffusion.train_diffusion(
                    networks, source, *self.place, self.scaled(train_diffusion.RECIPE), self.seed, seconds
                )
        if "export" in wanted and self.workers.is_main:
            size = export(vae, networks, options.output)
            print(f"wrote {options.output} ({size / 1e6:.1f} MB of weights)")

    def train_vae(self, wanted: Sequence[str]) -> VideoAutoencoderPipeline | None:
        """Train the `wanted` stages of the autoencoder."""
        count = max(16, round(train_vae.CHUNKS * self.options.scale))
        seconds = {name: self.options.minutes and 60 * self.options.minutes * share for name, share in SHARES.items()}
        with self.stage("vae"):
            chunks = train_vae.Chunks(count, self.seed, self.workers)
            recipe = self.scaled(train_vae.SPATIAL_RECIPE)
            spatial = train_vae.train_spatial(chunks, *self.place, recipe, self.seed, seconds["vae"])
        if "temporal" not in wanted:
            return None
        with self.stage("temporal"):
            recipe = self.scaled(train_vae.TEMPORAL_RECIPE)
            vae = train_vae.train_temporal(spatial, chunks, *self.place, recipe, self.seed, seconds["temporal"])
        if "decoders" in wanted:
            with self.stage("decoders"):
                recipe = self.scaled(train_vae.DECODER_RECIPE)
                train_vae.train_decoders(vae, chunks, *self.place, recipe, self.seed, seconds["decoders"])
        return vae

    def train_words(self) -> T5EncoderModel:
        """Train the text encoder on captions."""
        with self.stage("words"):
            return train_words.train_words(*self.place, self.scaled(train_words.RECIPE), self.seed)

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.time() - self.begin

    @property
    def place(self) -> tuple[Path, Workers]:
        """Where checkpoints go, and who trains."""
        return self.work, self.workers

    def scaled(self, recipe: Recipe) -> Recipe:
        """Return a recipe for a fraction of the steps; a GPU's steps are short, so it keeps fewer of them."""
        steps = max(2, round(recipe.steps * self.options.scale))
        every = recipe.checkpoint_every * (20 if self.workers.device == "cuda" else 1)
        return replace(recipe, steps=steps, checkpoint_every=min(every, max(1, steps // 4)))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Say how long a stage took."""
        start = time.monotonic()
        yield
        if self.workers.is_main:
            print(f"stage {name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


def train(workers: Workers, options: argparse.Namespace, begin: float) -> None:
    """Run the training; each worker calls this."""
    Training(workers, options, begin).run()


def main() -> None:
    """Start the workers and say how long they took."""
    begin = time.time()
    options = parse_arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    run_workers(1 if options.device == "cuda" else options.processes, options.device, train, options, begin)
    print(f"done in {(time.time() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
