#!/usr/bin/env python3
"""Train the mini model of 128 x 128 pixels from nothing: autoencoder, words, latents, diffusion.

On CPU cores by default, or on one GPU: --device cuda --minutes 9. Every stage resumes after a kill: run the same
command again. The same seed gives the same data and batches.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
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

STAGES = ("vae", "temporal", "decoders", "words", "latents", "diffusion")
AUTOENCODER_STAGES = STAGES[:3]
LATENT_SEED_OFFSET = 1  # the diffusion model sees other clips than the autoencoders
SHARES = {"vae": 0.10, "temporal": 0.10, "decoders": 0.08}  # of --minutes
EXPORT_SECONDS = 5.0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("assets/opensora-mini-128"), help="where the weights go")
    parser.add_argument("--work", type=Path, default=Path("outputs/train_mini"), help="data, checkpoints, loss plots")
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="FOLDER", help="start from these weights, whose words stay"
    )
    parser.add_argument("--first", choices=STAGES, help="first stage to run (default: latents with --from, else vae)")
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
    options.first = options.first or ("latents" if options.start else STAGES[0])
    if not options.start and options.first != STAGES[0]:
        parser.error(f"--first {options.first} needs --from FOLDER, whose weights stand for the stages before it")
    options.stages = STAGES[STAGES.index(options.first) : STAGES.index(options.until) + 1]
    if options.start:
        options.stages = tuple(stage for stage in options.stages if stage != "words")
    if not options.stages:
        parser.error(f"no stage from --first {options.first} to --until {options.until}; they are {', '.join(STAGES)}")
    return options


class Training:
    """The stages in order, as one process runs them."""

    def __init__(self, workers: Workers, options: argparse.Namespace, begin: float):
        self.workers, self.options, self.begin = workers, options, begin
        self.work, self.seed = options.work, options.seed

    def run(self) -> None:
        """Run the wanted stages and write all weights."""
        options, stages = self.options, self.options.stages
        if options.start:
            precise = torch.float32
            vae = VideoAutoencoderPipeline.from_pretrained(options.start / "vae", dtype=precise)
            text_encoder = T5EncoderModel.from_pretrained(options.start / "text_encoder", dtype=precise)
            transformer = STDiT3.from_pretrained(options.start / "transformer", dtype=precise)
        else:
            vae = train_vae.new_autoencoder(self.seed)
            text_encoder = None
            transformer = train_diffusion.new_transformer(self.seed)
        vae.to(self.workers.device).eval().requires_grad_(False)
        vae.spatial_vae.to(memory_format=self.workers.image_layout)
        vae.spatial_vae.micro_batch_size = 4 if self.workers.device == "cpu" else None  # what fits a CPU's caches
        if set(AUTOENCODER_STAGES) & set(stages):
            self.train_vae(vae)
        if "words" in stages:
            text_encoder = self.train_words()
        latents = self.work / "latents"
        if "latents" in stages:
            with self.stage("latents"):
                encode_buckets(vae, latents, options.scale, self.seed + LATENT_SEED_OFFSET, self.workers)
        if text_encoder is None:
            return  # a model without words cannot be used
        networks = train_diffusion.TextToVelocity(text_encoder, transformer)
        if "diffusion" in stages:
            with self.stage("diffusion"):
                source = train_diffusion.LatentSource(latents, self.workers.device)
                seconds = options.minutes and max(1.0, 60 * options.minutes - EXPORT_SECONDS - self.elapsed)
                train_diffusion.train_diffusion(
                    networks, source, *self.place, self.scaled(train_diffusion.RECIPE), self.seed, seconds
                )
        if self.workers.is_main:
            size = export(vae, networks, options.output)
            print(f"wrote {options.output} ({size / 1e6:.1f} MB of weights)")

    def train_vae(self, vae: VideoAutoencoderPipeline) -> None:
        """Run the stages of the autoencoder."""
        stages = self.options.stages
        count = max(16, round(train_vae.CHUNKS * self.options.scale))
        seconds = {name: self.options.minutes and 60 * self.options.minutes * share for name, share in SHARES.items()}
        chunks = train_vae.Chunks(count, self.seed, self.workers)
        if "vae" in stages:
            with self.stage("vae"):
                recipe = self.scaled(train_vae.SPATIAL_RECIPE)
                train_vae.train_spatial(vae.spatial_vae, chunks, *self.place, recipe, self.seed, seconds["vae"])
        if not {"temporal", "decoders"} & set(stages):
            return
        latents = train_vae.encode_frames(vae.spatial_vae, chunks, self.workers)
        if "temporal" in stages:
            with self.stage("temporal"):
                recipe = self.scaled(train_vae.TEMPORAL_RECIPE)
                train_vae.train_temporal(vae, chunks, latents, *self.place, recipe, self.seed, seconds["temporal"])
        if "decoders" in stages:
            with self.stage("decoders"):
                recipe = self.scaled(train_vae.DECODER_RECIPE)
                train_vae.train_decoders(vae, chunks, latents, *self.place, recipe, self.seed, seconds["decoders"])

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
