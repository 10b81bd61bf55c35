"""The training loop that all stages share: schedule, averaged weights, exactly resuming checkpoints, a loss plot."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
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
from mini.errors import TrainingError
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
    x = x.float()  # from bfloat16, under autocast
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


def digest(*modules: nn.Module) -> str:
    """Return a short fingerprint of the weights, the same on every device."""
    total = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            total.update(name.encode())
            total.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


class _State:
    """All that changes while a module is trained."""

    def __init__(self, module: nn.Module, recipe: Recipe):
        self.module = module
        self.optimizer = MuonAdam(module, recipe)
        self.average = {name: p.detach().clone() for name, p in module.state_dict().items()}
        self.losses: list[float] = []
        self.step, self.progress = 0, 0.0

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the averaged weights towards the present ones."""
        # Early on, a long average would keep the start, so its length grows with the steps seen.
        decay = min(decay, self.step / (self.step + 9))
        values = {name: p for name, p in self.module.state_dict().items() if p.is_floating_point()}
        torch._foreach_lerp_([self.average[name] for name in values], list(values.values()), 1 - decay)

    def as_dict(self) -> dict[str, Any]:
        """Return what `load` restores."""
        return {
            "step": self.step,
            "progress": self.progress,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "losses": self.losses,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `as_dict` returned, from any device."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, average in state["average"].items():
            self.average[name].copy_(average)
        self.losses = state["losses"]
        self.step, self.progress = state["step"], state["progress"]


@dataclass(frozen=True)
class Trainer:
    """How, where and by whom one stage is trained.

    `folder/name.pt` holds the last checkpoint: a killed run continues there and, without a time limit, sees the same
    batches as an uninterrupted one. `folder/name.png` shows the loss.

    Attributes:
        seconds: time limit, which takes the place of the recipe's number of steps; the learning rate follows the clock.
            A run that is continued under another limit keeps its share of the training.
    """

    name: str
    folder: Path
    recipe: Recipe
    workers: Workers
    seed: int = 0
    seconds: float | None = None

    @property
    def checkpoint(self) -> Path:
        """File that the state is kept in."""
        return self.folder / f"{self.name}.pt"

    def fit(self, module: nn.Module, loss_function: LossFunction, data: str = "") -> list[float]:
        """Train `module` to the end and leave its averaged weights in it; a finished stage only loads its result.

        Args:
            data: names what the loss is computed from; a checkpoint that saw other data is not continued.

        Returns:
            The loss of every step.

        Raises:
            TrainingError: the checkpoint belongs to another seed, recipe, start, data or number of processes.
        """
        facts = self._facts(digest(module), data)
        state = _State(module.to(self.workers.device), self.recipe)
        self._resume(state, facts)
        begin = time.monotonic() - state.progress * (self.seconds or 0)
        new_losses: list[Tensor] = []
        bar = tqdm(total=100, desc=self.name, disable=not self.workers.is_main, mininterval=5, bar_format=BAR)
        while state.progress < 1:
            generator = torch.Generator(self.workers.device)
            generator.manual_seed((self.seed * 1_000_003 + state.step) * 64 + self.workers.rank)
            shared = np.random.default_rng((self.seed, state.step))
            loss = loss_function(Step(state.step, state.progress, generator, shared))
            loss.backward()
            parameters = [p for p in module.parameters() if p.grad is not None]
            self.workers.average(p.grad for p in parameters)
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
            with self.workers.autocast():
                state.optimizer.step(self.recipe.rate(state.step, state.progress))
            new_losses.append(loss.detach())
            state.step += 1
            state.update_average(self.recipe.ema)
            state.progress = state.step / self.recipe.steps
            if self.seconds:
                state.progress = min(1.0, self.workers.agree((time.monotonic() - begin) / self.seconds))
            is_due = state.step % self.recipe.checkpoint_every == 0 or state.progress >= 1
            if is_due or state.step % LOSS_EVERY == 0:
                # Reading a loss waits for the GPU.
                state.losses += torch.stack(new_losses).tolist()
                new_losses.clear()
                recent = sum(state.losses[-50:]) / len(state.losses[-50:])
                bar.set_postfix(step=state.step, loss=f"{recent:.4f}", refresh=False)
                bar.update(100 * state.progress - bar.n)
            if is_due and self.workers.is_main:
                with atomic_path(self.checkpoint) as temporary:
                    torch.save({"facts": facts, **state.as_dict()}, temporary)
                plot_loss(state.losses, self.folder / f"{self.name}.png", self.name)
        bar.close()
        module.load_state_dict(state.average)
        return state.losses

    def _facts(self, start: str, data: str) -> dict[str, Any]:
        """What must be the same when a run resumes."""
        return {
            "seed": self.seed,
            "processes": self.workers.count,
            "timed": self.seconds is not None,
            "start": start,
            "data": data,
            **asdict(self.recipe),
        }

    def _resume(self, state: _State, facts: dict[str, Any]) -> None:
        if not self.checkpoint.is_file():
            return
        found = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        if found["facts"] != facts:
            raise TrainingError(
                f"{self.checkpoint} was made with {found['facts']}, not {facts}; delete it or choose another --work "
                "folder"
            )
        state.load(found)


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
