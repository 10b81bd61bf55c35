"""Strips of frames, grids of strips, and sheets of grids."""

from __future__ import annotations

import numpy as np
from PIL import Image

from opensora.datasets.contact_sheet import Strip, film, grid, save_sheet


def clip(frames: int = 9, height: int = 20, width: int = 40) -> np.ndarray:
    """Frames of one shade each, 0, 10, 20, ..."""
    return np.stack([np.full((height, width, 3), 10 * i, np.uint8) for i in range(frames)])


def is_inked(image: Image.Image) -> bool:
    return bool((np.asarray(image) < 200).any())


def test_a_film_shows_the_first_the_last_and_some_between():
    image = film(clip(), 3, gap=2)
    assert image.shape == (20, 3 * 40 + 2 * 2, 3)
    assert [image[0, x, 0] for x in (0, 42, 84)] == [0, 40, 80]
    assert (image[:, 40:42] == 255).all()


def test_a_clip_of_few_frames_is_shown_whole():
    assert film(clip(2), 6).shape == (20, 80, 3)
    assert film(clip(1), 6).shape == (20, 40, 3)


def test_frames_are_scaled_into_a_box():
    assert film(clip(), 2, box=(80, 80)).shape == (40, 160, 3)  # up, as wide as the box
    assert film(clip(), 2, box=(80, 10)).shape == (10, 40, 3)  # down, as high as the box


def test_a_grid_has_a_cell_per_strip_with_its_text_above():
    strips = [Strip(film(clip() + 155, 2), f"seed {i}", note="8 of 30 steps") for i in range(3)]
    sheet = grid(strips, per_row=2)
    cell = sheet.width // 2
    assert sheet.height % 2 == 0 and cell >= 80
    for x, y in ((0, 0), (1, 0), (0, 1)):
        box = (x * cell, y * sheet.height // 2, (x + 1) * cell, y * sheet.height // 2 + 12)
        assert is_inked(sheet.crop(box))
    assert not is_inked(sheet.crop((cell, sheet.height // 2, sheet.width, sheet.height)))


def test_a_heading_is_above_everything_and_has_two_lines_at_most():
    strips = [Strip(film(clip(), 6), "")]
    plain, short, long = (grid(strips, heading=text) for text in ("", "a cat", "a very long story " * 20))
    assert plain.height < short.height < long.height < short.height + 20
    assert is_inked(short.crop((0, 0, short.width, 12)))
    assert plain.width == long.width


def test_a_note_without_room_beside_the_text_goes_below_it():
    strips = [Strip(film(clip() + 155, 2), "seed 1234567", note="8 of 30 steps")]
    one, two = (grid(strips, text_lines=lines) for lines in (1, 2))
    assert two.height > one.height
    assert is_inked(two.crop((0, 14, two.width, 26)))


def test_a_sheet_stacks_grids_with_margins(tmp_path):
    grids = [grid([Strip(film(clip(), count), "text")]) for count in (2, 4)]
    save_sheet(grids, tmp_path / "sheet.png", margin=10)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (grids[1].width + 20, grids[0].height + grids[1].height + 30)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
