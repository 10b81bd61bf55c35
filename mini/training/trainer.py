"""The training loop that all stages share: schedule, averaged weights, exactly resuming checkpoints, a loss plot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from adacache.atomic import atomic_path
from adacache.plot_style import COMPUTED, REUSED, STYLE
from mini.training.workers import Workers

LOSS_EVERY = 20  # steps
BAR = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"


@dataclass(frozen=True)
class Step:
    """What a loss depends on besides the weights; the same (seed, number, process) gives the same batch.

    Attributes:
        number: counts from 0.
        progress: share of the training that is done.
        generator: of this process, on its device.
        shared: the same in all processes.
    """

    number: int
    progress: float
    generator: torch.Generator
    shared: np.random.Generator


LossFunction = Callable[[Step], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one stage is trained.

    Attributes:
        steps: optimizer steps.
        adam_lr, muon_lr: peak learning rates of vectors and embeddings, and of matrices and convolutions.
        warmup: steps of linear warm-up.
        decay_from: fraction of the training after which the rate falls linearly to zero.
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

    def rate(self, step: int, progress: float) -> float:
        """Learning-rate factor of `step`, 0 to 1, when `progress` of the training is done, 0 to 1."""
        return min(1.0, (step + 1) / self.warmup, (1 - progress) / max(1e-6, 1 - self.decay_from))


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return the nearest semi-orthogonal matrices to (N, rows, columns), roughly, by Newton-Schulz steps.

    Source: Muon, Keller Jordan, https://kellerjordan.github.io/posts/muon.
    """
    x = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x if matrices.shape[1] <= matrices.shape[2] else x.mT


class Muon:
    """Muon on parameters that are matrices when flattened to (out, rest), all those of one shape at once.

    torch's own Muon takes them one by one, 1,700 operations a step for this model instead of 200, and in bfloat16,
    which many CPUs only emulate.
    """

    momentum = 0.95

    def __init__(self, parameters: Iterable[Tensor], weight_decay: float):
        self.weight_decay = weight_decay
        self.groups: dict[torch.Size, list[Tensor]] = {}
        for parameter in parameters:
            self.groups.setdefault(parameter.flatten(1).shape, []).append(parameter)
        self.averages = [
            torch.zeros(len(group), *shape, device=group[0].device) for shape, group in self.groups.items()
        ]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Apply the gradients with the learning rate `rate` and clear them."""
        for (shape, group), average in zip(self.groups.items(), self.averages, strict=True):
            gradients = torch.stack([parameter.grad.flatten(1) for parameter in group])
            average.lerp_(gradients, 1 - self.momentum)
            update = orthogonalized(gradients.lerp(average, self.momentum))
            # As large as an update of AdamW.
            change = -rate * 0.2 * max(shape) ** 0.5 * update
            torch._foreach_mul_(group, 1 - rate * self.weight_decay)
            torch._foreach_add_(group, [part.view_as(p) for part, p in zip(change, group, strict=True)])
            for parameter in group:
                parameter.grad = None


class MuonAdam:
    """Muon on every weight that is a matrix, AdamW on the others."""

    def __init__(self, module: nn.Module, recipe: Recipe):
        trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        others = [p for name, p in trained if not self.is_matrix(name, p)]
        self.muon = Muon([p for name, p in trained if self.is_matrix(name, p)], recipe.weight_decay)
        self.adam = torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay)
        self.recipe = recipe

    @staticmethod
    def is_matrix(name: str, parameter: Tensor) -> bool:
        """Whether a weight is a matrix in Muon's sense: no embedding or table, and not few outputs or inputs."""
        special = any(part in name for part in ("table", "embed", "shared", "relative_attention", "final_layer"))
        return parameter.ndim >= 2 and not special and min(parameter.flatten(1).shape) >= 8

    def step(self, rate: float) -> None:
        """Apply the gradients with `rate` times the peak learning rates and clear them."""
        self.adam.param_groups[0]["lr"] = self.recipe.adam_lr * rate
        self.muon.step(self.recipe.muon_lr * rate)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers."""
        return {"muon": self.muon.averages, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for average, saved in zip(self.muon.averages, state["muon"], strict=True):
            average.copy_(saved)
        self.adam.load_state_dict(state["adam"])


@dataclass
class Trainer:
    """Trains `module` and leaves its averaged weights in it.

    `folder/name.pt` holds the last checkpoint: a killed run continues there and, without a time limit, sees the same
    batches as an uninterrupted one. `folder/name.png` shows the loss.

    Attributes:
        seconds: time limit, which takes the place of the recipe's number of steps; the learning rate follows the clock.
            A run that is continued under another limit keeps its share of the training.
    """

    name: str
    folder: Path
    module: nn.Module
    recipe: Recipe
    workers: Workers
    seed: int = 0
    seconds: float | None = None
    losses: list[float] = field(default_factory=list)

    @property
    def checkpoint(self) -> Path:
        """File that the state is kept in."""
        return self.folder / f"{self.name}.pt"

    def fit(self, loss_function: LossFunction) -> None:
        """Train to the end; a finished stage only loads its result.

        Raises:
            ValueError: the checkpoint belongs to another seed, recipe or number of processes.
        """
        self.module.to(self.workers.device)
        optimizer = MuonAdam(self.module, self.recipe)
        average = {name: p.detach().clone() for name, p in self.module.state_dict().items()}
        step, progress = self._resume(optimizer, average)
        begin = time.monotonic() - progress * (self.seconds or 0)
        new_losses: list[Tensor] = []
        bar = tqdm(total=100, desc=self.name, disable=not self.workers.is_main, mininterval=5, bar_format=BAR)
        while progress < 1:
            generator = torch.Generator(self.workers.device)
            generator.manual_seed((self.seed * 1_000_003 + step) * 64 + self.workers.rank)
            loss = loss_function(Step(step, progress, generator, np.random.default_rng((self.seed, step))))
            loss.backward()
            parameters = [p for p in self.module.parameters() if p.grad is not None]
            self.workers.average(p.grad for p in parameters)
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
            optimizer.step(self.recipe.rate(step, progress))
            self._update_average(average, step)
            new_losses.append(loss.detach())
            step += 1
            progress = step / self.recipe.steps
            if self.seconds:
                progress = min(1.0, self.workers.agree((time.monotonic() - begin) / self.seconds))
            is_due = step % self.recipe.checkpoint_every == 0 or progress >= 1
            if is_due or step % LOSS_EVERY == 0:
                # Reading a loss waits for the GPU.
                self.losses += torch.stack(new_losses).tolist()
                new_losses.clear()
                bar.set_postfix(step=step, loss=f"{sum(self.losses[-50:]) / len(self.losses[-50:]):.4f}", refresh=False)
                bar.update(100 * progress - bar.n)
            if is_due and self.workers.is_main:
                self._save(optimizer, average, step, progress)
        bar.close()
        self.module.load_state_dict(average)

    @property
    def _facts(self) -> dict[str, float]:
        """What must be the same when a run resumes."""
        return {
            "seed": self.seed,
            "processes": self.workers.count,
            "timed": self.seconds is not None,
            **asdict(self.recipe),
        }

    @torch.no_grad()
    def _update_average(self, average: dict[str, Tensor], step: int) -> None:
        # Early on, a long average would keep the random start, so its length grows with the steps seen.
        decay = min(self.recipe.ema, (step + 1) / (step + 10))
        values = {name: p for name, p in self.module.state_dict().items() if p.is_floating_point()}
        torch._foreach_lerp_([average[name] for name in values], list(values.values()), 1 - decay)

    def _resume(self, optimizer: MuonAdam, average: dict[str, Tensor]) -> tuple[int, float]:
        if not self.checkpoint.is_file():
            return 0, 0.0
        state = torch.load(self.checkpoint, weights_only=True, map_location=self.workers.device)
        if state["facts"] != self._facts:
            raise ValueError(
                f"{self.checkpoint} was made with {state['facts']}, not {self._facts}; delete it or choose another "
                "--work folder"
            )
        self.module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average.update(state["average"])
        self.losses[:] = state["losses"]
        return state["step"], state["progress"]

    def _save(self, optimizer: MuonAdam, average: dict[str, Tensor], step: int, progress: float) -> None:
        state = {
            "step": step,
            "progress": progress,
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
