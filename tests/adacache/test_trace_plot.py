import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from adacache import PRESETS, StepRecord, Trace
from adacache.trace_plot import drawable, plot_trace


def trace(motion: float | None = None, values: tuple[float | None, ...] = (None, 0.1, 0.2, 0.15)) -> Trace:
    records = []
    for index in range(8):
        computed = index % 2 == 0
        value = values[index // 2] if computed else None
        score = motion if value is not None else None
        records.append(StepRecord(index, None, computed, value, value, score, score, milliseconds=5.0))
    return Trace(8, records)


def size_and_darkness(path) -> tuple[tuple[int, int], float]:
    with Image.open(path) as image:
        return image.size, float((np.asarray(image.convert("L")) < 200).mean())


def test_a_trace_becomes_a_picture(tmp_path):
    plot_trace(trace(), tmp_path / "trace.png", PRESETS["fast30"], title="a cat, $5 and\nunder_scores")
    size, darkness = size_and_darkness(tmp_path / "trace.png")
    assert size[0] == 1500
    assert 400 < size[1] < 900
    assert 0.005 < darkness < 0.5
    assert os.listdir(tmp_path) == ["trace.png"]


@pytest.mark.filterwarnings("error")
def test_titles_of_any_script_are_drawn_without_a_warning(tmp_path):
    plot_trace(trace(), tmp_path / "trace.png", title="一只红色的猫 в лесу مرحبا 🐱 नमस्ते")
    assert drawable("a cat, в лесу") == "a cat, в лесу"
    assert drawable("一 cat") == r"\u4e00 cat"


def test_motion_and_frames_add_panels(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (17, 48, 64, 3), dtype=np.uint8)
    plot_trace(trace(), tmp_path / "plain.png")
    plot_trace(trace(motion=1.5), tmp_path / "motion.png")
    plot_trace(trace(motion=1.5), tmp_path / "film.png", frames=frames)
    heights = [size_and_darkness(tmp_path / f"{name}.png")[0][1] for name in ("plain", "motion", "film")]
    assert heights == sorted(set(heights))


def test_a_run_without_measurements_shows_its_steps_only(tmp_path):
    plot_trace(trace(), tmp_path / "measured.png")
    plot_trace(trace(values=(None,) * 4), tmp_path / "static.png")
    measured, static = (size_and_darkness(tmp_path / f"{name}.png")[0][1] for name in ("measured", "static"))
    assert static < measured / 2


def test_a_fitted_bridge_adds_a_panel(tmp_path):
    bridged = trace()
    bridged.records[:] = [replace(r, bridge_weight=0.5 if r.computed else None) for r in bridged.records]
    plot_trace(trace(), tmp_path / "hold.png")
    plot_trace(bridged, tmp_path / "fitted.png")
    hold, fitted = (size_and_darkness(tmp_path / f"{name}.png")[0][1] for name in ("hold", "fitted"))
    assert fitted > hold


def test_what_is_only_measured_is_shown_too(tmp_path):
    compared = trace(motion=0.2)
    measured = Trace(8, [replace(record, value=None) for record in compared.records])
    plot_trace(compared, tmp_path / "compared.png")
    plot_trace(measured, tmp_path / "measured.png")
    assert size_and_darkness(tmp_path / "measured.png")[0] == size_and_darkness(tmp_path / "compared.png")[0]


@pytest.mark.parametrize("frames", [1, 8])
def test_few_frames_are_enough(tmp_path, frames):
    plot_trace(trace(), tmp_path / "trace.png", frames=np.zeros((frames, 90, 16, 3), np.uint8))
    assert size_and_darkness(tmp_path / "trace.png")[0][1] < 1000


@pytest.mark.parametrize(
    ("motion", "values"), [(0.0, (None, 0.0, 0.0, 0.0)), (float("nan"), (None, float("inf"), float("nan"), 1e9))]
)
def test_odd_values_do_not_stop_the_picture(tmp_path, motion, values):
    plot_trace(trace(motion, values), tmp_path / "trace.png", PRESETS["steps100"])
    assert size_and_darkness(tmp_path / "trace.png")[1] > 0.005


def test_the_suffix_chooses_the_format(tmp_path):
    plot_trace(trace(), tmp_path / "trace.svg")
    assert "<svg" in (tmp_path / "trace.svg").read_text()[:1000]


def test_wrong_input_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="without steps"):
        plot_trace(Trace(10), tmp_path / "trace.png")
    for frames in (np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8, 3)), np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"\(F, H, W, 3\) uint8"):
            plot_trace(trace(), tmp_path / "trace.png", frames=frames)
    with pytest.raises(ValueError, match="xyz"):
        plot_trace(trace(), tmp_path / "trace.xyz")
    assert os.listdir(tmp_path) == []


def test_a_policy_by_signals_is_drawn_with_its_threshold_and_values_at_reused_steps(tmp_path):
    records = [
        StepRecord(0, 1000.0, True),
        StepRecord(1, 900.0, False, distance=0.1, value=0.1),
        StepRecord(2, 800.0, True, distance=0.2, value=0.3),
        StepRecord(3, 700.0, True, distance=0.2),
    ]
    for name, threshold in (("plain", None), ("threshold", 0.2)):
        plot_trace(Trace(4, records), tmp_path / f"{name}.svg", threshold=threshold)
    assert "threshold" in (tmp_path / "threshold.svg").read_text()
    assert "threshold" not in (tmp_path / "plain.svg").read_text()


def test_steps_that_ran_in_part_are_filled_in_part(tmp_path):
    for share in (1.0, 0.25):
        plot_trace(Trace(1, [StepRecord(0, 500.0, True, computed_share=share)]), tmp_path / f"{share}.png")
    assert (tmp_path / "1.0.png").read_bytes() != (tmp_path / "0.25.png").read_bytes()
