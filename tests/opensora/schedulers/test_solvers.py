"""The solvers of the sampler on velocity fields whose solutions are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from adacache import StepController
from adacache.policies.static import StaticScheduleConfig
from opensora.config.loading import load_config
from opensora.config.schema import SchedulerConfig
from opensora.errors import ConfigError
from opensora.schedulers.rf import RFLOW, solvers
from opensora.schedulers.rf.solvers import SOLVERS, make_solver
from support import small_model

SECOND_ORDER = ["adams", "midpoint"]
PARTS = [0.1, 0.3, 0.2, 0.4]  # of the unit of time
JOINS = 0.5  # strength of a frame that joins at half time


class NoText:
    def encode(self, prompts):
        return {"y": torch.zeros(len(prompts), 1, 2, 3)}

    def null(self, n):
        return torch.zeros(n, 1, 2, 3)


class Field(torch.nn.Module):
    """A model whose velocity, with and without the prompt, is a function of the latents and the time 0 to 1."""

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.velocity, self.calls = velocity, 0

    def forward(self, x, timestep, y, **kwargs):
        self.calls += 1
        return self.velocity(x, (1 - timestep.double() / 1000).view(-1, 1, 1, 1, 1))


def linear(z: Tensor, s: Tensor) -> Tensor:
    """dz/ds = 1 + 2 s, so that z = s + s^2 from 0, whatever the latents."""
    return (1 + 2 * s).expand_as(z)


def start(frames: int = 1, batch: int = 1, value: float = 0.0) -> Tensor:
    return torch.full((batch, 1, frames, 1, 1), value, dtype=torch.float64)


def sample(
    solver: str,
    steps: int,
    velocity: Callable[[Tensor, Tensor], Tensor] = linear,
    z: Tensor | None = None,
    mask: list[list[float]] | None = None,
    **options: object,
) -> Tensor:
    """The final latents, (B, T)."""
    z = start() if z is None else z
    scheduler = RFLOW(steps, cfg_scale=1.0, solver=solver, **({"use_timestep_transform": True} if options else {}))
    mask = None if mask is None else torch.tensor(mask)
    model = Field(velocity)
    out = scheduler.sample(model, NoText(), z, [""] * len(z), "cpu", options, mask, progress=False)
    assert model.calls == steps
    return out[:, 0, :, 0, 0]


@pytest.fixture(autouse=True)
def as_in_long_runs(monkeypatch, request):
    """Runs of few steps, which can be worked out, follow the rules of long ones, unless marked otherwise."""
    if "short_runs" not in request.fixturenames:
        monkeypatch.setattr(solvers, "FEW_STEPS", 0)


@pytest.fixture
def short_runs():
    """Leaves the rule for runs of few steps in place."""


@pytest.fixture
def no_noise(monkeypatch):
    """Joining frames receive noise of 1 everywhere."""
    monkeypatch.setattr(torch, "randn", lambda shape, **options: torch.ones(shape, dtype=options["dtype"]))


# Velocities 1, 1.2, 1.8, 2.2 at the times 0, .1, .4, .6; the solution is .11, .56, .96, 2.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("euler", [0.1, 0.46, 0.82, 1.70]),
        # .3 (1.2 + .3 / .2 * .2) = .45; .2 (1.8 + .2 / .6 * .6) = .4; .4 (2.2 + .4 / .4 * .4) = 1.04:
        # right from the second step on, so that the .01 of the first stays.
        ("adams", [0.1, 0.55, 0.95, 1.99]),
        # .4 (1 + .2 * .2 / .1) = .56; .56 + .2 * 1.8 = .92; .56 + .6 (1.8 + .4 * .3 / .2) = 2
        ("midpoint", [0.1, 0.56, 0.92, 2.00]),
    ],
)
def test_steps_of_different_sizes_by_hand(name, expected):
    solver, z, time, found = make_solver(name, 100), start(), 0.0, []
    for part in PARTS:
        z = solver.step(z, linear(z, torch.tensor(time)), torch.tensor(part, dtype=torch.float64))
        time += part
        found.append(z.item())
    assert found == pytest.approx(expected)


def test_the_midpoint_of_a_pair_is_the_runge_kutta_method_as_written():
    z, v0, v1 = torch.randn(3, 2, 4, 3, 5, 5, dtype=torch.float64)
    first, second = torch.tensor([[0.1, 0.3], [0.2, 0.05]], dtype=torch.float64).view(2, 2, 1, 1, 1, 1)
    solver, whole = make_solver("midpoint", 100), first + second
    inner = solver.step(z, v0, first)
    assert torch.equal(inner, z + v0 * first)
    assert torch.allclose(solver.step(inner, v1, second), z + whole * (v0 + (v1 - v0) * (whole / 2) / first))


def test_an_euler_step_is_what_it_was_bit_for_bit():
    z, velocity = torch.randn(2, 2, 4, 3, 8, 8)
    dt = torch.tensor([0.031, 0.0172]).view(-1, 1, 1, 1, 1)
    assert torch.equal(make_solver("euler", 100).step(z, velocity, dt), z + velocity * dt)
    for name in SECOND_ORDER:
        assert torch.equal(make_solver(name, 100).step(z, velocity, dt), z + velocity * dt)


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [
        *((name, 1, 1.0) for name in SOLVERS),
        ("euler", 4, 1.75),
        ("adams", 4, 2 - 1 / 16),  # less what the first step misses, its length squared
        ("midpoint", 4, 2.0),
        ("euler", 5, 1.8),
        ("adams", 5, 1.96),
        ("midpoint", 5, 1.96),  # the last step is an Euler step
        ("midpoint", 2, 2.0),
        ("midpoint", 3, 2 - 1 / 9),
    ],
)
def test_runs_on_a_velocity_that_grows_evenly(name, steps, expected):
    assert sample(name, steps).item() == pytest.approx(expected)


def test_steps_of_a_shifted_schedule_differ_by_video():
    size = {"height": [1024.0, 512.0], "width": [1024.0, 512.0], "num_frames": [17.0, 1.0]}
    options = {key: torch.tensor(value) for key, value in size.items()}
    times = RFLOW(6, use_timestep_transform=True).timesteps(2, "cpu", options)
    first = (1000 - times[1]) / 1000
    assert first[0] < first[1] / 2
    assert sample("midpoint", 6, z=start(batch=2), **options).flatten().tolist() == pytest.approx([2.0, 2.0])
    missed = 2 - sample("adams", 6, z=start(batch=2), **options).flatten()
    assert missed.tolist() == pytest.approx(first.square().tolist(), rel=1e-4)  # times are float32


@pytest.mark.parametrize(("name", "low", "high"), [("euler", 1.9, 2.2), ("adams", 3.6, 4.4), ("midpoint", 3.6, 4.4)])
def test_halving_the_steps_divides_the_error_by_two_to_the_order(name, low, high):
    # dz/ds = 3 z (1 - z) from 0.1: z(1) = 1 / (1 + 9 exp(-3)).
    exact = 1 / (1 + 9 * torch.exp(torch.tensor(-3.0, dtype=torch.float64)))
    errors = [
        (sample(name, steps, lambda z, s: 3 * z * (1 - z), start(value=0.1)) - exact).abs().item()
        for steps in (32, 64, 128)
    ]
    assert low < errors[0] / errors[1] < high
    assert low < errors[1] / errors[2] < high


@pytest.mark.parametrize("name", SOLVERS)
def test_frames_that_are_kept_do_not_change_and_others_do_not_notice(name):
    z = start(frames=3, value=0.7)
    alone = sample(name, 5, lambda z, s: z * (1 + s), z)
    out = sample(name, 5, lambda z, s: z * (1 + s), z, [[0.0, 1.0, 0.0]])
    assert torch.equal(out[:, [0, 2]], z[:, 0, [0, 2], 0, 0])
    assert torch.equal(out[:, 1], alone[:, 1])


# Velocities 1, 1.5, 2, 2.5 in steps of a quarter. The second frame, given as 0, joins at half time as .5 * noise.
@pytest.mark.parametrize(
    ("name", "first_frame", "joined"),
    [
        ("euler", 1.75, 0.5 + 0.5 + 0.625),
        # Steps 0 and 2 are Euler steps, 1 and 3 right: each Euler step misses a quarter squared.
        ("adams", 2 - 2 / 16, 0.5 + 0.5 + 0.6875),
        # The third step is the first of a pair anyway.
        ("midpoint", 2.0, 0.5 + 1.25),
    ],
)
def test_a_frame_that_joins_later_starts_with_an_euler_step(name, first_frame, joined, no_noise):
    out = sample(name, 4, z=start(frames=2), mask=[[1.0, JOINS]])
    assert out[0].tolist() == pytest.approx([first_frame, joined])


def test_a_frame_that_joins_within_a_pair_takes_euler_steps_until_the_next_pair(no_noise):
    # Six steps; velocities 1, 4/3, 5/3, 2, 7/3, 8/3. At half time the second pair is under way, its step is an Euler
    # step for both frames: two Euler steps miss a sixth squared each in the first frame, one in the second.
    out = sample("midpoint", 6, z=start(frames=2), mask=[[1.0, JOINS]])
    assert out[0].tolist() == pytest.approx([2 - 2 / 36, 0.5 + 1.25 - 1 / 36])


@pytest.mark.parametrize("name", SECOND_ORDER)
@pytest.mark.parametrize("steps", [32, 34])  # the frame joins between two pairs, and within one
def test_the_order_survives_a_joining_frame_that_changes_the_others_velocities(name, steps, no_noise):
    def velocity(z: Tensor, s: Tensor) -> Tensor:
        return z.mean(2, keepdim=True) * (1 + s) - 2 * z

    def run(count: int) -> Tensor:
        return sample(name, count, velocity, start(frames=3, value=3.0), [[1.0, JOINS, 0.0]])

    exact = run(2048)
    few, many = ((run(count) - exact)[0, :2].abs() for count in (steps, 3 * steps))  # three times: the same pairing
    assert ((few / many > 8) & (few / many < 10)).all()  # 3 with the velocity before the join in use


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_a_joining_frame_is_no_matter_to_the_other_videos_of_a_batch(name, no_noise):
    def velocity(z: Tensor, s: Tensor) -> Tensor:
        return z * (1 + s)

    z = start(frames=2, batch=2, value=0.7)
    masks = [[1.0, JOINS], [1.0, 1.0]]
    together = sample(name, 6, velocity, z, masks)
    for i in (0, 1):
        assert torch.equal(together[i : i + 1], sample(name, 6, velocity, z[:1], [masks[i]]))


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_what_a_frame_was_before_it_joined_is_not_looked_at(name):
    z, nan = torch.ones(1, 1, 2, 1, 1), torch.tensor(float("nan"))
    solver, dt, joins = make_solver(name, 100), torch.tensor(0.5), torch.tensor(True)
    solver.step(z, nan.expand_as(z), dt)
    assert torch.equal(solver.step(z, z, dt, joins), 1.5 * z)


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_times_that_repeat_do_no_harm(name):
    z, solver, nothing = torch.ones(1, 1, 1, 1, 1), make_solver(name, 100), torch.tensor(0.0)
    z = solver.step(z, z, nothing)
    assert solver.step(z, 2 * z, torch.tensor(0.5)).item() == 2.0


def test_runs_of_one_scheduler_do_not_see_each_other():
    scheduler = RFLOW(3, cfg_scale=1.0, solver="midpoint")  # an odd number of steps leaves half a pair
    runs = [scheduler.sample(Field(linear), NoText(), start(), [""], "cpu", progress=False) for _ in range(2)]
    assert torch.equal(*runs)
    scheduler.solver = "euler"
    assert scheduler.sample(Field(linear), NoText(), start(), [""], "cpu", progress=False).item() == pytest.approx(
        5 / 3
    )


class Cached(torch.nn.Module):
    """A model of one block, its latents' pixels as tokens, that counts how often the block is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.computed, self.calls = 0, 0

    def forward(self, x, timestep, y, controller, **kwargs):
        self.calls += 1

        def block(tokens: Tensor, rows: Tensor | None = None) -> Tensor:
            self.computed += 1
            return 1.5 * tokens

        tokens = x.flatten(2).transpose(1, 2)
        return controller.stack(tokens, block, x.shape[3] * x.shape[4]).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_cached_run_calls_the_model_once_per_step(name):
    model, controller = Cached(), StepController(StaticScheduleConfig((0, 1, 4, 6)))
    scheduler = RFLOW(7, cfg_scale=1.0, solver=name)
    out = scheduler.sample(
        model, NoText(), torch.ones(1, 4, 2, 2, 2), [""], "cpu", progress=False, controller=controller
    )
    assert (model.calls, model.computed) == (7, 4)
    assert [record.computed for record in controller.trace.records] == [i in (0, 1, 4, 6) for i in range(7)]
    assert torch.isfinite(out).all()


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="unknown solver 'midpiont'; did you mean 'midpoint'"):
        RFLOW(solver="midpiont")


def test_a_config_names_the_same_solvers():
    assert get_args(get_type_hints(SchedulerConfig)["solver"]) == tuple(SOLVERS)
    assert load_config(small_model.SAMPLE).scheduler.solver == "euler"
    assert load_config(small_model.SAMPLE, {"solver": "adams"}).scheduler.solver == "adams"
    with pytest.raises(ConfigError, match=r"command line: scheduler.solver must be one of .*did you mean 'adams'"):
        load_config(small_model.SAMPLE, {"solver": "adam"})


@pytest.mark.parametrize(("steps", "second_order"), [(14, 11), (15, 14)])
def test_adams_ends_a_short_run_with_two_euler_steps(steps, second_order, short_runs):
    # Velocities 0, 1, 2, ... at steps of 1: after the first, a second-order step adds half of the change, 1 / 2.
    solver, z, one = make_solver("adams", steps), start(), torch.tensor(1.0, dtype=torch.float64)
    for step in range(steps):
        z = solver.step(z, torch.full_like(z, float(step)), one)
    assert z.item() == sum(range(steps)) + 0.5 * second_order
