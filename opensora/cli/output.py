"""What a calibration leaves behind: the file a target reads, a config that uses it, and a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adacache.atomic import atomic_path
from adacache.calibration.calibration import Calibration
from opensora.config.file import read_config_file
from opensora.config.overrides import retired_by

CALIBRATION, SNIPPET, PICTURE = "calibration.json", "calibrated.py", "calibration.png"


def write_calibration(
    calibration: Calibration,
    folder: Path,
    config_path: Path,
    options: Mapping[str, Any],
    target: tuple[str, float],
) -> None:
    """Write the calibration, a config that uses it, and the plot.

    The config is that of ``config_path`` with the ``options`` that it was calibrated with, by dotted key, and the name
    and value of a ``target``.

    Each file appears complete or not at all, the calibration first.
    """
    from adacache.calibration.plot import plot_calibration

    calibration.save(folder / CALIBRATION)
    with atomic_path(folder / SNIPPET) as temporary:
        temporary.write_text(_snippet(calibration, folder, config_path, options, target), encoding="utf-8")
    plot_calibration(calibration, folder / PICTURE)


def curve_table(calibration: Calibration) -> str:
    """The measured curve, one line per number of computed steps."""
    lines = [f"computed of {calibration.num_steps}   denoising   PSNR mean (lowest)"]
    for point in calibration.measured:
        count = len(point.computed_steps)
        speedup = calibration.speedup(count, calibration.num_steps)
        spread = f" +- {point.psnr_error:.1f}" if calibration.details.get("held_out_clips") != 1 else ""
        lines.append(f"{count:>14} {speedup:>10.1f}x   {point.psnr:.1f}{spread} dB ({point.psnr_lowest:.1f})")
    return "\n".join(lines)


def _snippet(
    calibration: Calibration, folder: Path, config_path: Path, options: Mapping[str, Any], target: tuple[str, float]
) -> str:
    name, value = target
    in_base = read_config_file(config_path)
    retired = [key for key in sorted(retired_by({**options, name: value})) if in_base.get(key) is not None]
    entries = "".join(f"{key} = {value!r}\n" for key, value in {**dict.fromkeys(retired), **_nested(options)}.items())
    comment = "\n".join(f"#   {line}" for line in curve_table(calibration).splitlines())
    base = os.path.relpath(config_path.resolve(), folder.resolve())
    return (
        f"# Measured on {calibration.details['held_out_clips']} held-out clips, against the same with every step "
        f"computed:\n{comment}\n"
        f"_base_ = {base!r}\n\n{entries}"
        f"calibration = {CALIBRATION!r}  # beside this file\n"
        f"{name} = {value!r}  # or one of: speedup = 2.0, max_steps_computed = 12, min_psnr = 35\n"
    )


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """``{"scheduler.cfg_scale": 5}`` as ``{"scheduler": {"cfg_scale": 5}}``."""
    entries: dict[str, Any] = {}
    for key, value in options.items():
        *path, name = key.split(".")
        section = entries
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    return entries
