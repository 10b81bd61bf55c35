"""The library on its own: with torch and nothing else it caches a transformer of one's own."""

from __future__ import annotations

import subprocess
import sys

from opensora.files import REPO_ROOT

PROGRAM = """
import sys

TORCH_AND_ITS_OWN = {"torch", "torchgen", "functorch", "numpy", "typing_extensions", "sympy", "mpmath"}
ALLOWED = {*sys.stdlib_module_names, *TORCH_AND_ITS_OWN, "adacache"}


class OnlyTorch:
    def find_spec(self, name, path=None, target=None):
        # What torch itself looks for is its own affair; it goes on without.
        if name.split(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, OnlyTorch())

import torch
from adacache import AdaCacheConfig, Codebook, MoRegConfig, StepController
from adacache.sites import Site

TOKENS_PER_FRAME, STEPS = 4, 12


class Transformer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
        self.calls = 0

    def forward(self, x, controller):
        def run_blocks(hidden_states):
            self.calls += 1
            for index, block in enumerate(self.blocks):
                site = Site("temporal", index, "attn")
                hidden_states = hidden_states + controller.branch(site, lambda: block(hidden_states).tanh())
            return hidden_states

        return controller.stack(x, run_blocks, TOKENS_PER_FRAME)


torch.manual_seed(0)
model = Transformer()
config = AdaCacheConfig(codebook=Codebook((0.1,), (3, 1)), metric_blocks=(1,), moreg=MoRegConfig())
controller = StepController(config)
x = torch.randn(2, 3 * TOKENS_PER_FRAME, 8)
with torch.no_grad(), controller.run(STEPS):
    for step in range(STEPS):
        controller.begin_step(step, 1000.0 * (1 - step / STEPS))
        x = x + 0.001 * model(x, controller)
assert model.calls == len(controller.trace.computed_steps) < STEPS, controller.trace.computed_steps
assert not [name for name in sys.modules if name.split(".")[0] in ("opensora", "mmengine", "diffusers", "matplotlib")]
print("cached", STEPS - model.calls, "of", STEPS)
"""


def test_with_torch_alone_it_caches_a_transformer_of_ones_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": str(REPO_ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cached")
