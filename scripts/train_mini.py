#!/usr/bin/env python3
"""Train the mini model of 128 x 128 pixels: autoencoder, words, latents, diffusion; from nothing or other weights.

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
from transformers import T5Config, T5EncoderModel  # noqa: E402

from mini.errors import TrainingError  # noqa: E402
from mini.training import train_diffusion, train_vae, train_words  # noqa: E402
from mini.training.encode import encode_buckets  # noqa: E402
from mini.training.export import export  # noqa: E402
from mini.training.text import build_text_encoder, build_tokenizer  # noqa: E402
from mini.training.trainer import Trainer  # noqa: E402
from mini.training.workers import Workers, run_workers  # noqa: E402
from opensora.device import check_compiler  # noqa: E402
from opensora.errors import ConfigError, WeightsError  # noqa: E402
from opensora.models.stdit import STDiT3  # noqa: E402
from opensora.models.vae import VideoAutoencoderPipeline  # noqa: E402
from opensora.weights.checkpoint import check_fits  # noqa: E402

RECIPES = {
    "vae": train_vae.SPATIAL_RECIPE,
    "temporal": train_vae.TEMPORAL_RECIPE,
    "joint": train_vae.DECODER_RECIPE,
    "decoders": train_vae.DECODER_RECIPE,
    "words": train_words.RECIPE,
    "diffusion": train_diffusion.RECIPE,
}
STAGES = ("vae", "temporal", "joint", "decoders", "words", "latents", "diffusion")
AUTOENCODER = STAGES[:4]
LATENT_SEED_OFFSET = 1  # the diffusion model sees other clips than the autoencoders
SHARES = {"vae": 0.10, "temporal": 0.06, "joint": 0.08, "decoders": 0.04}  # of --minutes; diffusion has what is left
LEAST_SHARE = 0.1  # of --minutes that diffusion needs to be worth it
EXPORT_SECONDS = 5.0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/train_mini/model"), help="where the weights go")
    parser.add_argument("--work", type=Path, default=Path("outputs/train_mini"), help="data, checkpoints, loss plots")
    parser.add_argument("--from", dest="start", type=Path, metavar="FOLDER", help="start from these weights")
    parser.add_argument(
        "--first", choices=(*AUTOENCODER, "latents"), help="with --from: first stage (default: latents)"
    )
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=2, help="training processes on the CPU, one thread each")
    parser.add_argument("--minutes", type=float, help="train this long in all, whatever the recipes' steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1.0, help="times the recipes' learning rates; less with --from")
    parser.add_argument(
        "--compile", action="store_true", help="compile the transformer; pays in trainings of over 20 minutes"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of clips and steps, for a quick trial")
    options = parser.parse_args()
    if options.processes < 1 or options.seed < 0 or options.scale <= 0:
        parser.error("--processes must be at least 1, --seed at least 0, and --scale above 0")
    for name in ("minutes", "rate"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} is {value}; use a positive number")
    for folder in (options.work, options.output):
        if folder.exists() and not folder.is_dir():
            parser.error(f"{folder} is a file; --work and --output are folders")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU on this machine")
    if options.start:
        check_start(parser, options.start)
        if options.until == "words":
            parser.error("--until words: with --from, the words stage is left out; use another stage")
    elif options.first:
        parser.error(f"--first {options.first} needs --from FOLDER, whose weights stand for the stages before it")
    first = STAGES.index(options.first or ("latents" if options.start else STAGES[0]))
    options.stages = STAGES[first : STAGES.index(options.until) + 1]
    if options.start:
        options.stages = tuple(stage for stage in options.stages if stage != "words")
    if not options.stages:
        parser.error(f"--until {options.until} is before the first stage, {STAGES[first]}; use --first {options.until}")
    if options.compile and "diffusion" in options.stages:
        try:
            check_compiler(torch.device(options.device))
        except ConfigError as error:
            parser.error(f"--compile: {error}")
    return options


def check_start(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Refuse weights that this training cannot go on from."""
    for part in ("vae", "transformer", "text_encoder"):
        if not (folder / part / "config.json").is_file():
            parser.error(f"--from {folder}: there is no {part}/config.json in it")
    words = T5Config.from_pretrained(folder / "text_encoder").vocab_size
    try:
        if words != len(build_tokenizer()) or STDiT3.check_pretrained(folder / "transformer") != train_diffusion.CONFIG:
            parser.error(f"--from {folder}: its transformer or its words are not those that this command trains")
        VideoAutoencoderPipeline.check_pretrained(folder / "vae")
        text_encoder = build_text_encoder()
        del text_encoder.encoder.embed_tokens  # files hold it once, as `shared`
        check_fits(text_encoder, folder / "text_encoder")
    except WeightsError as error:
        parser.error(f"--from: {error}")


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
            transformer = train_diffusion.load_transformer(options.start / "transformer")
        else:
            vae = train_vae.new_autoencoder(self.seed)
            transformer = train_diffusion.new_transformer(self.seed)
        vae.to(self.workers.device).eval().requires_grad_(False)
        vae.spatial_vae.to(memory_format=self.workers.image_layout)
        vae.spatial_vae.micro_batch_size = 4 if self.workers.device == "cpu" else None  # what fits a CPU's caches
        if set(AUTOENCODER) & set(stages):
            self.train_vae(vae)
        if "words" in stages:
            with self.trainer("words") as trainer:
                text_encoder = train_words.train_words(trainer)
        latents = self.work / "latents"
        if "latents" in stages:
            with self.stage("latents"):
                encode_buckets(vae, latents, options.scale, self.seed + LATENT_SEED_OFFSET, self.workers)
        if "diffusion" in stages:
            networks = train_diffusion.TextToVelocity(text_encoder, transformer)
            with self.trainer("diffusion") as trainer:
                source = train_diffusion.LatentSource(latents, self.workers.device)
                train_diffusion.train_diffusion(trainer, networks, source, self.options.compile)
        # From nothing, an unfinished model cannot be used; its checkpoints are in the work folder.
        if self.workers.is_main and ("diffusion" in stages or options.start):
            size = export(vae, text_encoder, transformer, options.output)
            print(f"wrote {options.output} ({size / 1e6:.1f} MB of weights)")
            if {"vae", "temporal", "joint"} & set(stages) and "diffusion" not in stages:
                print(f"its transformer knows other latents; train it, too: --from {options.output} --first latents")

    def train_vae(self, vae: VideoAutoencoderPipeline) -> None:
        """Run the stages of the autoencoder."""
        stages = self.options.stages
        chunks = train_vae.Chunks(max(16, round(train_vae.CHUNKS * self.options.scale)), self.seed, self.workers)
        if "vae" in stages:
            with self.trainer("vae") as trainer:
                train_vae.train_spatial(trainer, vae.spatial_vae, chunks)
        if {"temporal", "joint", "decoders"} & set(stages):
            latents = train_vae.encode_frames(vae.spatial_vae, chunks, self.workers)
        if "temporal" in stages:
            with self.trainer("temporal") as trainer:
                train_vae.train_temporal(trainer, vae, chunks, latents)
        if "joint" in stages:
            with self.trainer("joint") as trainer:
                train_vae.train_joint(trainer, vae, chunks, latents)
        if "decoders" in stages:
            with self.trainer("decoders") as trainer:
                train_vae.train_decoders(trainer, vae, chunks, latents)

    @contextmanager
    def trainer(self, stage: str) -> Iterator[Trainer]:
        """Give the trainer of a stage; a GPU's steps are short, so it keeps fewer of them."""
        recipe = RECIPES[stage]
        steps = max(2, round(recipe.steps * self.options.scale))
        every = recipe.checkpoint_every * (3 if self.workers.device == "cuda" else 1)
        rates = {"adam_lr": self.options.rate * recipe.adam_lr, "muon_lr": self.options.rate * recipe.muon_lr}
        recipe = replace(recipe, steps=steps, checkpoint_every=min(every, max(1, steps // 4)), **rates)
        with self.stage(stage):
            yield Trainer(stage, self.work, recipe, self.workers, self.seed, self.seconds(stage))

    def seconds(self, stage: str) -> float | None:
        """Return the time limit of a stage.

        Raises:
            TrainingError: there is too little time left to train the transformer.
        """
        minutes, stages = self.options.minutes, self.options.stages
        if minutes is None or stage == "words":
            return None
        if stage == "diffusion":
            left = 60 * minutes - EXPORT_SECONDS - (time.time() - self.begin)
            if self.workers.agree(left) < 60 * minutes * LEAST_SHARE:
                raise TrainingError(
                    f"{minutes:g} minutes are over before the transformer is trained; run with more --minutes"
                )
            return left
        all_shares = 1.0 if "diffusion" in stages else sum(SHARES[name] for name in AUTOENCODER if name in stages)
        return 60 * minutes * SHARES[stage] / all_shares

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
    try:
        run_workers(1 if options.device == "cuda" else options.processes, options.device, train, options, begin)
    except TrainingError as error:
        sys.exit(f"error: {error}")
    print(f"done in {(time.time() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
