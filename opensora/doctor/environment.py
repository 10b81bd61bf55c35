"""Settings from outside that change how the sampler works, or how fast."""

from __future__ import annotations

import os

from opensora.doctor.finding import Finding, ok, warning

_TRUE = ("1", "ON", "YES", "TRUE")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def check_hub_variables() -> list[Finding]:
    """Variables that forbid downloads."""
    forbidding = [name for name in _OFFLINE if os.environ.get(name, "").upper() in _TRUE]
    if not forbidding:
        return []
    fix = f"run: unset {' '.join(forbidding)}, unless all weights are here"
    return [warning(f"{' and '.join(forbidding)} forbid{'s' * (len(forbidding) == 1)} downloads of weights", fix)]


def check_threads() -> list[Finding]:
    """Threads that PyTorch takes on the CPU, by the variables of OpenMP and the cores there are."""
    import torch

    cores, threads = available_cores(), torch.get_num_threads()
    findings = [ok(f"{cores} CPU cores for this process, {threads} threads chosen by PyTorch")]
    text = os.environ.get("OMP_NUM_THREADS")
    if text is not None:
        counts = text.split(",")  # of nested levels
        if not all(count.strip().isdigit() and int(count) > 0 for count in counts):
            return [
                *findings,
                warning(f"OMP_NUM_THREADS={text!r} is no number and ignored", "run: unset OMP_NUM_THREADS"),
            ]
        findings.append(ok(f"OMP_NUM_THREADS={text}"))
    if threads > cores:
        text = f"{threads} threads share {cores} cores, so that they wait for each other"
        findings.append(warning(text, f"run: export OMP_NUM_THREADS={cores}"))
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        text = "OMP_WAIT_POLICY=ACTIVE lets waiting threads keep their cores busy"
        findings.append(warning(text, "run: export OMP_WAIT_POLICY=PASSIVE, if the machine is shared"))
    return findings


def available_cores() -> int:
    """Cores that this process may use: those it is bound to, within the quota of its control group."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return bound if quota is None else max(1, min(bound, round(quota)))


def _quota() -> float | None:
    """Cores of a container's quota; None if there is none."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            allowed, period = file.read().split()
        return int(allowed) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return None
