"""A picture of a calibration: quality against compute, and where each schedule computes."""

import os
from typing import TYPE_CHECKING

from adacache.atomic import atomic_path
from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import REFERENCES
from adacache.plot_style import COMPUTED, FAINT, MOTION, REUSED, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Draw measured PSNR over computed steps, and the computed steps of all schedules over the flow's time (PNG)."""
    from matplotlib import rc_context

    with rc_context(STYLE), atomic_path(path) as temporary:
        _draw(calibration).savefig(temporary, format="png")


def _draw(calibration: Calibration) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    quality, places = figure.subplots(1, 2)
    measured, steps = calibration.measured, calibration.num_steps
    is_one = calibration.details.get("held_out_clips") == 1
    counts = [len(point.computed_steps) for point in measured]
    quality.errorbar(
        counts,
        [point.psnr for point in measured],
        yerr=[2 * point.psnr_error for point in measured],
        color=COMPUTED,
        marker="o",
        capsize=3,
        label="one held-out clip: another may lie elsewhere"
        if is_one
        else "mean of held-out clips, two standard errors",
    )
    quality.plot(counts, [point.psnr_lowest for point in measured], "v", color=MOTION, label="lowest")
    quality.set(
        xlabel=f"computed steps of {steps}",
        ylabel=f"PSNR to {REFERENCES[calibration.aim]} (dB)",
        title="Quality over compute; above: speedup of denoising",
    )
    uncached = calibration.details.get("uncached_psnr")
    if uncached is not None:
        quality.axhline(
            uncached, color=FAINT, linestyle="--", linewidth=1, label=f"all {steps} steps computed, no cache"
        )
    quality.set_xticks(counts)
    quality.legend(loc="best")
    speed = quality.secondary_xaxis("top")
    speed.set_xticks(counts, [f"{calibration.speedup(count, steps):.1f}x" for count in counts], fontsize=8)
    speed.spines["top"].set_visible(False)
    speed.tick_params(length=0, pad=2)

    for point in calibration.points:
        times = [calibration.timesteps[step] for step in point.computed_steps]
        sampled = point.psnr is not None
        row = [len(times)] * len(times)
        places.plot(times, row, "o" if sampled else ".", color=COMPUTED if sampled else REUSED, markersize=4)
    places.invert_xaxis()
    places.yaxis.set_major_locator(MaxNLocator(integer=True))
    places.set(xlabel="flow time (1000 is noise)", ylabel="computed steps", title="Where each schedule computes")
    return figure
