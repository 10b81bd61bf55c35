"""The training loop that all stages share: schedule, averaged weights, exactly resuming checkpoints, a loss plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from adacache.atomic import atomic_path
from adacache.plot_style import COMPUTED, REUSED, STYLE
from mini.training.workers import Workers

# (step, random generator of that step) -> loss; the same (seed, step, rank) gives the same batch.
LossFunction = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one stage is trained.

    Attributes:
        steps: optimizer steps.
        adam_lr, muon_lr: peak learning rates of vectors and embeddings, and of matrices and convolutions.
        warmup: steps of linear warm-up.
        decay_from: fraction of the steps after which the rate falls linearly to zero.
        ema: decay of the averaged weights, which are the result.
    """

    steps: int
    adam_lr: float
    muon_lr: float
    warmup: int = 50
    decay_from: float = 0.4
    ema: float = 0.997
    weight_decay: float = 0.01
    clip: float = 1.0
    checkpoint_every: int = 100

    def rate(self, step: int) -> float:
        """Learning-rate factor of `step`, 0 to 1."""
        start = self.decay_from * self.steps
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / max(1.0, self.steps - start))


class MuonAdam:
    """Muon on every weight that is a matrix when flattened to (out, rest), AdamW on the others.

    torch's Muon takes 2-D parameters only, so convolutions are passed as flat views of the same memory.
    """

    def __init__(self, module: nn.Module, recipe: Recipe):
        trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        matrices = [p for name, p in trained if self.is_matrix(name, p)]
        others = [p for name, p in trained if not self.is_matrix(name, p)]
        self.matrices = [(p, nn.Parameter(p.detach().flatten(1))) for p in matrices]
        self.muon = torch.optim.Muon(
            [flat for _, flat in self.matrices],
            lr=recipe.muon_lr,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adam = torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay)
        self.recipe = recipe

    @staticmethod
    def is_matrix(name: str, parameter: Tensor) -> bool:
        """Whether a weight is a matrix in Muon's sense: no embedding or table, and not few outputs or inputs."""
        special = any(part in name for part in ("table", "embed", "shared", "relative_attention", "final_layer"))
        return parameter.ndim >= 2 and not special and min(parameter.flatten(1).shape) >= 8

    def step(self, step: int) -> None:
        """Apply the gradients with the rate of `step` and clear them."""
        rate = self.recipe.rate(step)
        for optimizer, peak in ((self.muon, self.recipe.muon_lr), (self.adam, self.recipe.adam_lr)):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
        for parameter, flat in self.matrices:
            flat.grad = parameter.grad.flatten(1)
            parameter.grad = None
        self.muon.step()
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, dict]:
        """Return the state of both optimizers."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Restore what `state_dict` returned."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


@dataclass
class Trainer:
    """Trains `module` and leaves its averaged weights in it.

    `folder/name.pt` holds the last checkpoint: a killed run continues there and sees the same batches as an
    uninterrupted one. `folder/name.png` shows the loss.
    """

    name: str
    folder: Path
    module: nn.Module
    recipe: Recipe
    workers: Workers
    seed: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        """File that the state is kept in."""
        return self.folder / f"{self.name}.pt"

    def fit(self, loss_function: LossFunction) -> None:
        """Run the remaining steps; a finished stage only loads its result.

        Raises:
            ValueError: the checkpoint belongs to another seed, recipe or number of processes.
        """
        optimizer = MuonAdam(self.module, self.recipe)
        average = {name: p.detach().clone() for name, p in self.module.state_dict().items()}
        start = self._resume(optimizer, average)
        bar = tqdm(
            range(start, self.recipe.steps),
            desc=self.name,
            initial=start,
            total=self.recipe.steps,
            disable=not self.workers.is_main,
            mininterval=5,
        )
        for step in bar:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) * 64 + self.workers.rank)
            loss = loss_function(step, generator)
            loss.backward()
            parameters = [p for p in self.module.parameters() if p.grad is not None]
            self.workers.average(p.grad for p in parameters)
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
            optimizer.step(step)
            self._update_average(average, step)
            self.losses.append(loss.item())
            bar.set_postfix(loss=f"{sum(self.losses[-50:]) / len(self.losses[-50:]):.4f}", refresh=False)
            done = step + 1
            is_due = done % self.recipe.checkpoint_every == 0 or done == self.recipe.steps
            if is_due and self.workers.is_main:
                self._save(optimizer, average, done)
        self.module.load_state_dict(average)

    @property
    def _facts(self) -> dict[str, float]:
        """What must be the same when a run resumes."""
        return {"seed": self.seed, "processes": self.workers.count, **asdict(self.recipe)}

    @torch.no_grad()
    def _update_average(self, average: dict[str, Tensor], step: int) -> None:
        # Early on, a long average would keep the random start, so its length grows with the steps seen.
        decay = min(self.recipe.ema, (step + 1) / (step + 10))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - decay)

    def _resume(self, optimizer: MuonAdam, average: dict[str, Tensor]) -> int:
        if not self.checkpoint.is_file():
            return 0
        state = torch.load(self.checkpoint, weights_only=True)
        if state["facts"] != self._facts:
            raise ValueError(
                f"{self.checkpoint} was made with {state['facts']}, not {self._facts}; delete it or choose another "
                "--work folder"
            )
        self.module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average.update(state["average"])
        self.losses[:] = state["losses"]
        return state["step"]

    def _save(self, optimizer: MuonAdam, average: dict[str, Tensor], step: int) -> None:
        state = {
            "step": step,
            "facts": self._facts,
            "module": self.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "losses": self.losses,
        }
        with atomic_path(self.checkpoint) as temporary:
            torch.save(state, temporary)
        plot_loss(self.losses, self.folder / f"{self.name}.png", self.name)


def plot_loss(losses: list[float], path: Path, title: str) -> None:
    """Draw the loss of every step and its running mean."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel="step", ylabel="loss", yscale="log")
        values = torch.tensor(losses)
        axes.plot(values, color=REUSED, linewidth=0.6)
        window = max(1, min(50, len(losses) // 4))
        if len(losses) > window:
            axes.plot(range(window - 1, len(losses)), values.unfold(0, window, 1).mean(1), color=COMPUTED)
        figure.savefig(path)
