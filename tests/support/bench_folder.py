"""A made-up but plausible bench folder for tests of its report; as a script it writes the full-sized one.

python -m support.bench_folder FOLDER
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from opensora.datasets.video_io import write_video

BUDGETS = (8, 10, 12, 15, 20)
NUM_STEPS, NUM_FRAMES, SIDE, FPS = 30, 17, 64, 24
PROMPTS = (
    "a red circle moving fast to the right",
    "a still white star and a blue square moving slowly up on a gray gradient background",
    "a still yellow triangle on a brown checkered background while the camera pans left",
    "a spinning white star on a navy background",
    "a growing green square on a drifting teal striped background",
    "a bouncing orange circle & a small <black> triangle",
)


class Shape(NamedTuple):
    """What a made-up policy's curve looks like: dB at 8 and at 20 computed steps, overhead in time, cache in MB."""

    name: str
    title: str
    at_8: float
    at_20: float
    overhead: float
    cache_mb: float
    ours: bool = False


SHAPES = (
    Shape("calibrated", "Calibrated (ours)", 32.6, 58.9, 0.02, 2.6, True),
    Shape("hybrid", "Calibrated + online (ours)", 32.9, 57.6, 0.05, 2.6, True),
    Shape("adacache", "AdaCache", 28.8, 48.4, 0.04, 2.6),
    Shape("average", "AdaCache's average schedule", 29.6, 47.6, 0.01, 2.6),
    Shape("fixed", "Every n-th step", 28.0, 45.9, 0.0, 1.3),
    Shape("teacache", "TeaCache", 30.1, 47.0, 0.03, 1.4),
    Shape("magcache", "MagCache", 31.2, 49.5, 0.01, 1.3),
    Shape("fbcache", "FBCache", 29.2, 46.3, 0.09, 1.9),
    Shape("easycache", "EasyCache", 30.8, 48.9, 0.0, 0.1),
    Shape("taylorseer", "TaylorSeer", 33.4, 54.2, 0.06, 5.2),
    Shape("pab", "PAB", 25.1, 41.0, 0.11, 7.9),  # has no budgets, but settings
    Shape("euler", "Fewer Euler steps", 29.7, 43.4, 0.0, 0.0),
    Shape("adams", "Fewer Adams-Bashforth steps", 33.0, 45.2, 0.0, 0.0),
    Shape("midpoint", "Fewer midpoint steps", 27.4, 44.6, 0.0, 0.0),
)
SETTINGS = (22.4, 17.2, 9.1)  # compute of PAB's, the first out of the baseline's reach
METRICS = [
    {
        "key": "psnr", "title": "PSNR to uncached", "unit": "dB", "digits": 2, "better": "higher",
        "about": "Of the whole clip's mean squared error; 80 at most, as for equal clips.",
    },
    {"key": "ssim", "title": "SSIM to uncached", "unit": "", "digits": 4, "better": "higher"},
    {"key": "flicker", "title": "Added flicker to uncached", "unit": "", "digits": 3, "better": "lower"},
    {"key": "psnr_exact", "title": "PSNR to 200 steps", "unit": "dB", "digits": 2, "better": "higher"},
    {"key": "ssim_exact", "title": "SSIM to 200 steps", "unit": "", "digits": 4, "better": "higher"},
    {"key": "caption_right", "title": "Caption followed", "unit": "", "digits": 3, "better": "higher"},
]  # fmt: skip


def bench_data(
    shapes: Sequence[Shape] = SHAPES, prompts: Sequence[str] = PROMPTS, shown: Sequence[int] = (12,)
) -> dict[str, Any]:
    """The content of a bench.json, the same at every call; videos are of the ``prompts`` at the ``shown`` budgets."""
    rng = np.random.default_rng(5)
    points = [
        _point(shape, None if shape.name == "pab" else budget, compute, rng)
        for shape in shapes
        for budget, compute in zip(BUDGETS, SETTINGS if shape.name == "pab" else BUDGETS, strict=False)
    ]
    return {
        "title": "Adaptive caching on the mini model",
        "created": "2026-03-14T15:09:26+00:00",
        "commit": "1cb13d7c0ffee1cb13d7c0ffee1cb13d7c0ffee1",
        "machine": {
            "cpu": "Some Processor at 2.5 GHz", "cores": 2, "threads": 1, "gpu": None, "python": "3.11.9",
            "torch": "2.13.0", "packages": {"numpy": "2.3.1", "av": "18.1.0", "diffusers": "0.42.1"},
        },
        "command": "python scripts/bench.py configs/bench/mini.py --output outputs/bench/mini",
        "setting": {
            "config": "configs/mini/sample.py", "num_steps": NUM_STEPS, "exact_steps": 200, "height": SIDE,
            "width": SIDE, "num_frames": NUM_FRAMES, "guidance_scale": 7.0, "num_prompts": 32, "num_seeds": 2,
            "fps": FPS, "solver": "euler", "num_clips": 64, "budgets": list(BUDGETS),
        },
        "left_out": ["PAB could not be tuned to 8 computed steps; its point is at 9.1 equivalent steps."],
        "metrics": METRICS,
        "baseline": "adacache",
        "best": "calibrated",
        "policies": [
            {
                "name": shape.name, "title": shape.title, "ours": shape.ours,
                "about": f"What {shape.title} does, in one sentence of the usual length.",
                "source": "arXiv:2411.02397" if shape.name == "adacache" else None,
            }
            for shape in shapes
        ],
        "points": points,
        "references": [
            {"name": "uncached", "title": "Uncached, 30 steps", "values": _reference_values(30)},
            {"name": "exact", "title": "Exact, 200 steps", "values": _reference_values(200)},
        ],
        "showcase": [_scene(prompt, seed, shapes, shown, rng) for seed, prompt in enumerate(prompts)],
    }  # fmt: skip


def write_bench(folder: Path, data: dict[str, Any] | None = None) -> Path:
    """Write bench.json and small real videos into ``folder``, and return it."""
    data = bench_data() if data is None else data
    folder.mkdir(parents=True, exist_ok=True)
    for scene in data["showcase"]:
        for video in scene["videos"]:
            error = 10 ** (-video["values"].get("psnr", 60) / 20)
            write_video(folder / video["file"], _frames(scene["seed"], error), FPS)
    (folder / "bench.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def _estimate(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + 0.9 * half}


def _curve(shape: Shape, steps: float) -> float:
    """PSNR in dB at a number of computed steps, bent a little like the real ones."""
    share = (steps - 8) / 12
    return shape.at_8 + (shape.at_20 - shape.at_8) * (share + 0.18 * math.sin(math.pi * share))


def _point(shape: Shape, budget: int | None, compute: float, rng: np.random.Generator) -> dict[str, Any]:
    compute += float(rng.uniform(-0.12, 0.12))
    psnr = _curve(shape, compute) + float(rng.normal(0, 0.3))
    exact = -10 * math.log10(10 ** (-psnr / 10) + 10**-3.88)
    seconds = 0.021 * compute * (1 + shape.overhead) + 0.04
    values = {
        "computed_steps": _estimate(compute if budget is None else float(budget), 0.1),
        "compute": _estimate(compute, 0.1),
        "denoise_seconds": _estimate(seconds, 0.012),
        "total_seconds": _estimate(seconds + 0.21, 0.013),
        "speedup": _estimate(0.67 / seconds, 0.04),
        "tflops": _estimate(0.0123 * compute, 0.0001),
        "cache_mb": _estimate(shape.cache_mb, 0),
        "peak_mb": _estimate(210 + shape.cache_mb, 2),
        "psnr": _estimate(psnr, 1.1),
        "ssim": _estimate(1 - 10 ** (-psnr / 14), 10 ** (-psnr / 14) / 5),
        "flicker": _estimate(1.8 * 10 ** (-psnr / 30) * (0.6 + shape.overhead), 0.01),
        "psnr_exact": _estimate(exact, 0.9),
        "ssim_exact": _estimate(1 - 10 ** (-exact / 14), 10 ** (-exact / 14) / 5),
        "caption_right": _estimate(min(0.94, 0.80 + psnr / 400), 0.03),
    }
    options = (
        {"solver": shape.name} if shape.cache_mb == 0 else {"policy": shape.name, "threshold": round(2 / compute, 4)}
    )
    return {
        "policy": shape.name, "budget": budget, "options": options, "num_videos": 64, "values": values,
        "gain": _differences("adacache", shape, compute, psnr),
        "to_best": _differences("calibrated", shape, compute, psnr),
        "worst": {metric["key"]: values[metric["key"]]["low"] - 0.01 for metric in METRICS},
    }  # fmt: skip


def _differences(other: str, shape: Shape, compute: float, psnr: float) -> dict[str, Any]:
    if shape.name == other or not BUDGETS[0] - 0.3 <= compute <= BUDGETS[-1] + 0.3:
        return {metric["key"]: None for metric in METRICS}
    difference = psnr - _curve(next(entry for entry in SHAPES if entry.name == other), compute)
    scales = {"psnr": 1, "ssim": 400, "flicker": -200, "psnr_exact": 2, "ssim_exact": 800, "caption_right": 300}
    return {key: _estimate(difference / scale, 0.8 / abs(scale)) for key, scale in scales.items()}


def _reference_values(steps: int) -> dict[str, Any]:
    values = {
        "computed_steps": _estimate(steps, 0), "compute": _estimate(steps, 0),
        "denoise_seconds": _estimate(0.0224 * steps, 0.01), "speedup": _estimate(30 / steps, 0),
        "cache_mb": _estimate(0, 0), "caption_right": _estimate(0.941, 0.03),
    }  # fmt: skip
    if steps == 30:
        values |= {"psnr_exact": _estimate(38.8, 0.9), "ssim_exact": _estimate(0.9983, 0.0004)}
    return values


def _scene(
    prompt: str, seed: int, shapes: Sequence[Shape], budgets: Sequence[int], rng: np.random.Generator
) -> dict[str, Any]:
    uncached = {"psnr_exact": 38.8, "denoise_seconds": 0.67, "computed_steps": 30.0}
    exact = {"denoise_seconds": 4.48, "computed_steps": 200.0}
    videos = [
        _video("uncached", None, seed, uncached, _steps(range(30))),
        _video("exact", None, seed, exact, _steps(range(200), 200)),
    ]
    for budget in budgets:
        for shape in shapes:
            computed = sorted(set(np.linspace(0, NUM_STEPS - 1, budget).round().astype(int).tolist()))
            psnr = _curve(shape, budget) + float(rng.normal(0, 1))
            values = {
                "psnr": psnr, "psnr_exact": min(psnr, 38.5) - 1, "denoise_seconds": 0.021 * budget + 0.04,
                "computed_steps": float(len(computed)),
            }  # fmt: skip
            steps = _steps(range(30), share=0.4) if shape.name == "pab" else _steps(computed)
            videos.append(_video(shape.name, budget, seed, values, steps))
    return {"prompt": prompt, "seed": 1000 + seed, "videos": videos}


def _video(policy: str, budget: int | None, seed: int, values: dict[str, float], steps: list[Any]) -> dict[str, Any]:
    name = "_".join([f"{seed:02d}", policy, *([] if budget is None else [f"{budget:02d}"])])
    return {"policy": policy, "budget": budget, "file": f"showcase/{name}.mp4", "values": values, "steps": steps}


def _steps(computed: Sequence[int], count: int = NUM_STEPS, share: float | None = None) -> list[dict[str, Any]]:
    """Records of a run; with a share, every third step is computed in full and the others in part."""
    return [
        {
            "index": index, "timestep": 1000 - 1000 * index / count, "computed": index in computed,
            "computed_share": None if share is None else (1.0 if index % 3 == 0 else share),
            "distance": 0.31 / (index + 1) if index in computed and index else None,
            "value": 0.29 / (index + 1) if index in computed and index else None,
            "rate": 2 if index in computed and index else None,
            "milliseconds": 21.4 if index in computed else 1.9,
            "bridge_weight": 0.62 if index in computed and index > 3 else None,
        }
        for index in range(count)
    ]  # fmt: skip


def _frames(seed: int, error: float) -> np.ndarray:
    """Frames (F, H, W, 3) uint8 of a disk that moves, disturbed by ``error`` (root mean square, of 1)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    color, back = rng.uniform(0.5, 1, 3), rng.uniform(0.1, 0.4, 3)
    direction = rng.uniform(-1.6, 1.6, 2)
    noise = np.kron(np.random.default_rng(seed + 99).normal(0, 1, (SIDE // 4, SIDE // 4, 3)), np.ones((4, 4, 1)))
    frames = []
    for index in range(NUM_FRAMES):
        center = SIDE / 2 + direction * (index - NUM_FRAMES / 2)
        disk = (np.hypot(y - center[0], x - center[1]) < SIDE / 6)[..., None]
        picture = np.where(disk, color, back + 0.2 * (x / SIDE)[..., None]) + error * noise * math.cos(index / 4)
        frames.append((picture.clip(0, 1) * 255).round().astype(np.uint8))
    return np.stack(frames)


if __name__ == "__main__":
    print(f"wrote {write_bench(Path(sys.argv[1]), bench_data(shown=(8, 12)))}")
