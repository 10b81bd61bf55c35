"""A picture of a calibration: quality against compute, and where each schedule computes."""

import os

from adacache.atomic import atomic_path
from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import REFERENCES

COMPUTED_COLOR, LOWEST_COLOR = "#1f5fa8", "#c8642b"


def plot_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Draw measured PSNR over computed steps, and the computed steps of all schedules over the flow's time (PNG)."""
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
        color=COMPUTED_COLOR,
        marker="o",
        capsize=3,
        label="one held-out clip: another may lie elsewhere"
        if is_one
        else "mean of held-out clips, two standard errors",
    )
    quality.plot(counts, [point.psnr_lowest for point in measured], "v", color=LOWEST_COLOR, label="lowest")
    quality.set(
        xlabel=f"computed steps of {steps}",
        ylabel=f"PSNR to {REFERENCES[calibration.aim]} (dB)",
        title="Measured curve",
    )
    uncached = calibration.details.get("uncached_psnr")
    if uncached is not None:
        quality.axhline(uncached, color="0.4", linestyle="--", label=f"all {steps} steps computed, no cache")
    quality.set_xticks(counts)
    quality.grid(alpha=0.3)
    quality.legend(loc="best")
    speed = quality.secondary_xaxis("top")
    speed.set_xticks(counts, [f"{calibration.speedup(count, steps):.1f}x" for count in counts], fontsize=8)

    for point in calibration.points:
        times = [calibration.timesteps[step] for step in point.computed_steps]
        sampled = point.psnr is not None
        row = [len(times)] * len(times)
        places.plot(times, row, "o" if sampled else ".", color=COMPUTED_COLOR if sampled else "0.7", markersize=4)
    places.invert_xaxis()
    places.yaxis.set_major_locator(MaxNLocator(integer=True))
    places.set(xlabel="flow time (1000 is noise)", ylabel="computed steps", title="Where each schedule computes")
    places.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
