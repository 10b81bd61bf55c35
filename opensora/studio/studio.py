"""What the page works with: the output folder, the models to choose from, the jobs and their engine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from adacache.atomic import atomic_path
from opensora.cli.drafts import without_draft_flags
from opensora.cli.ledger import take_lock
from opensora.conditioning.references import check_reference, sha256_of
from opensora.config.target import find_calibration
from opensora.errors import ConfigError
from opensora.files import make_output_folder
from opensora.studio.choices import Wish, arguments_of, find_models, with_folder
from opensora.studio.engine import Engine
from opensora.studio.jobs import Job, JobQueue
from opensora.studio.results import Results, Sample

OWN_FOLDER = ".studio"  # for the queue, the worker's log and unchecked uploads
REFERENCES = "references"  # for checked uploads, named by their content
MAX_UPLOAD = 200 * 2**20  # bytes
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".mp4", ".mov", ".mkv", ".webm", ".avi")


class Studio:
    """The studio of one output folder, open until `close`.

    Args:
        folder: folder of all results; created if needed.
        configs: configs that are offered beside the bundled ones.
        bench: folder of a bench, whose page is shown.

    Raises:
        UserError: the folder cannot be written to or is another studio's, a config cannot be used, or the bench has no
            page.
    """

    def __init__(
        self,
        folder: Path,
        configs: Sequence[str] = (),
        weights_dir: str | None = None,
        bench: Path | None = None,
    ) -> None:
        self.bench = None if bench is None else bench / "index.html"
        if self.bench is not None and not self.bench.is_file():
            raise ConfigError(f"--bench {bench} has no index.html; 'python scripts/bench_report.py {bench}' makes it")
        self.models = find_models(configs, weights_dir)
        self.root = make_output_folder(folder).resolve()
        if Path.home().resolve().is_relative_to(self.root):
            raise ConfigError(f"all of {self.root} would be served; choose a folder for results alone with --save-dir")
        own = make_output_folder(self.root / OWN_FOLDER)
        self._lock = take_lock(own)
        self.results = Results(self.root)
        self.queue = JobQueue(own / "queue.json")
        self.engine = Engine(self.queue, own / "worker.log")

    def close(self) -> None:
        """End the worker; unfinished jobs wait for the next start."""
        self.engine.close()
        if self._lock is not None:
            os.close(self._lock)

    def ask(self, wish: Wish) -> Job:
        """Add a job for a wish.

        Raises:
            UserError: the wish cannot be sampled.
        """
        return self.engine.submit(arguments_of(wish, self.root), " ".join(wish.prompt.split()))

    def ask_again(self, sample: Sample, num_computed: int | None) -> Job:
        """Add a job for the same video with `num_computed` steps by its calibration; None computes every step.

        Raises:
            UserError: the video cannot be made like this.
        """
        if num_computed is None:
            return self.remake(sample, "--cfg-options", "cache=None")
        config = sample.metadata["config"]
        calibration = find_calibration(config["calibration"], config["path"]) or config["calibration"]
        return self.remake(sample, "--max-steps-computed", str(num_computed), "--calibration", str(calibration))

    def remake(self, sample: Sample, *changes: str) -> Job:
        """Add a job that makes a video again from its sidecar, with the flags `changes`.

        Raises:
            UserError: the video cannot be made like this.
        """
        arguments = with_folder([f"--from-sidecar={sample.sidecar}", *changes], self.root)
        return self.engine.submit(arguments, sample.metadata.get("refined") or sample.prompt)

    def render_finals(self, drafts: Sequence[Sample]) -> Job:
        """Add a job that renders finals of some drafts of one run.

        Raises:
            UserError: the finals cannot be made.
        """
        seeds = [f"{draft.metadata.get('prompt_index', 0)}:{draft.seed}" for draft in drafts]
        command = [*without_draft_flags(drafts[0].command), "--final", *seeds]
        folder = drafts[0].video.parent.parent
        return self.engine.submit(with_folder(command, self.root, folder), drafts[0].prompt)

    def retry(self, id: str) -> None:
        """Submit an ended job again."""
        job = self.queue.get(id)
        if job is not None and not job.is_open:
            self.engine.submit(job.arguments, job.title)

    def made_by(self, job: Job) -> list[Sample]:
        """Return the samples in a job's folder that have its prompt, maybe as a language model rewrote it."""
        if job.folder is None:
            return []
        folder = Path(job.folder)
        here = [sample for sample in self.results.all() if sample.video.parent == folder]
        return [sample for sample in here if job.title in (sample.prompt, sample.metadata.get("refined"))]

    def keep_reference(self, upload: Path) -> Path:
        """Check an uploaded image or video by decoding it, and keep it under a name made from its content.

        Raises:
            ConfigError: it is neither an image nor a video, or it is damaged or too large.
        """
        if upload.stat().st_size > MAX_UPLOAD:
            raise ConfigError(f"the upload has more than {MAX_UPLOAD // 2**20} MB; make it smaller")
        try:
            info = check_reference(upload)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(upload), upload.name)) from error
        folder = make_output_folder(self.root / REFERENCES)
        # Another ending could make a browser take it for a page.
        suffix = upload.suffix.lower() if upload.suffix.lower() in SUFFIXES else ""
        kept = folder / f"{info.kind}-{sha256_of(upload)[:16]}{suffix}"
        if not kept.is_file():
            with atomic_path(kept) as temporary:
                shutil.copyfile(upload, temporary)
        return kept
