import os
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from adacache.calibration.plot import plot_calibration


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved."""
    figures = []
    save = Figure.savefig

    def savefig(figure: Figure, *arguments, **options):
        figures.append(figure)
        return save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def test_a_picture_is_written(calibration, tmp_path):
    plot_calibration(calibration, tmp_path / "calibration.png")
    assert os.listdir(tmp_path) == ["calibration.png"]
    with Image.open(tmp_path / "calibration.png") as image:
        assert image.format == "PNG"
        assert image.size == (1430, 598)
        assert 0.01 < (np.asarray(image.convert("L")) < 200).mean() < 0.5


def test_the_ticks_are_the_measured_counts_and_their_speedups(calibration, drawn, tmp_path):
    plot_calibration(calibration, tmp_path / "calibration.png")
    quality, places = drawn[0].axes
    assert quality.get_xticks().tolist() == [4, 6, 8]
    assert [label.get_text() for label in quality.get_xticklabels()] == ["4", "6", "8"]
    [speed] = quality.child_axes
    assert [label.get_text() for label in speed.get_xticklabels()] == ["2.2x", "1.6x", "1.2x"]
    assert all(tick == round(tick) for tick in places.get_yticks())
    assert places.get_xlim()[0] > places.get_xlim()[1]  # noise comes first, as in a run


def test_the_curve_and_every_schedule_are_drawn(calibration, drawn, tmp_path):
    plot_calibration(calibration, tmp_path / "calibration.png")
    quality, places = drawn[0].axes
    curves = [line.get_ydata().tolist() for line in quality.lines]
    assert [20, 30, 40] in curves and [15, 22, 31] in curves
    [bars] = [container for container in quality.containers if container.has_yerr]
    segments = bars.lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [[17, 23], [28, 32], [39, 41]]  # two standard errors
    rows = {int(line.get_ydata()[0]): line.get_xdata().tolist() for line in places.lines}
    assert sorted(rows) == [4, 5, 6, 8]
    assert rows[5] == [1000, 900, 800, 500, 200]


def test_one_measured_point_is_enough(calibration, tmp_path):
    plot_calibration(replace(calibration, points=calibration.points[:1]), tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").stat().st_size > 1000
