"""Check whether a clip of the mini model shows what its caption says: from pixels, by fixed rules, nothing learned."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise, permutations

import numpy as np

from mini.check.describe import Seen, SeenFigure, describe_clip
from mini.world.captions import PLACES, ROUND, Figure, Scene, moves, parse_caption
from mini.world.paths import CROSSING_SPEED, FRAMES, GROWTH, JUMP, RADIUS, SCROLL, SPEED, SPIN, STEP, places

# Displacements are in pixels over the first chunk; a scroll is the background's displacement.
SLOW, FAST = (SPEED[motion] * (FRAMES - 1) for motion in ("slowly", "fast"))
STILL_BELOW, SLOW_BELOW = SLOW / 4, (SLOW * FAST) ** 0.5
IN_PLACE_BELOW = SLOW / 2  # for a figure that turns, grows or bounces; the middle of a heart's mass does move
STILL_TURN = 0.5  # radians
SPIN_TURN = (0.6 * SPIN * (FRAMES - 1), 1.4 * SPIN * (FRAMES - 1))
STILL_PULSE = 1.6  # largest over smallest area
MIN_GROWTH = GROWTH[1] / GROWTH[0]  # of the area, the square root of how much it is
BOUNCE_HEIGHT = JUMP / 2
MAX_WANDER = SLOW / 4  # pixels; half a jump leaves a line by more
SCROLLS = (0.5 * SCROLL * (FRAMES - 1), 1.5 * SCROLL * (FRAMES - 1))
SIZE_FACTOR = 1.175  # between a radius and the named one; half of the way to the next size
MAX_STEP = 2 * CROSSING_SPEED  # pixels from one frame to the next where chunks meet


@dataclass(frozen=True)
class CaptionCheck:
    """Which parts of the caption a clip shows; None where the caption does not say, or a picture cannot show it.

    Attributes:
        found: the right number of figures.
        color: of all figures.
        shape: of all figures.
        background: its color.
        pattern: one of PATTERNS, and drifting or not.
        size: small, large, or between them; of the only figure, if it keeps its size.
        place: the named sides of the frame.
        still_or_moving: every figure is still, moves in place or travels, as the caption says.
        speed: slow or fast.
        direction: left, right, up or down.
        spin: turns in place; None for a round shape, too, which shows no turn.
        bounce: goes up and comes down.
        grow: gets larger.
        shrink: gets smaller.
        order: one figure crosses the other behind or in front of it.
        pan: the background moves against the camera and the figure moves along.
        keeps: later chunks go on with the same figures before the same background.
    """

    found: bool
    color: bool
    shape: bool
    still_or_moving: bool | None = None
    background: bool | None = None
    pattern: bool | None = None
    size: bool | None = None
    place: bool | None = None
    speed: bool | None = None
    direction: bool | None = None
    spin: bool | None = None
    bounce: bool | None = None
    grow: bool | None = None
    shrink: bool | None = None
    order: bool | None = None
    pan: bool | None = None
    keeps: bool | None = None

    def items(self) -> dict[str, bool]:
        """The items that apply, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: right for name, right in values.items() if right is not None}

    @property
    def all(self) -> bool:
        """Whether everything that applies is right."""
        return all(self.items().values())


def check_clip(frames: np.ndarray, caption: str) -> CaptionCheck:
    """Compare a clip with its caption.

    Args:
        frames: (F, H, W, 3) uint8 with at least 17 frames, or a single one, of at least 128 x 128 pixels. Motion is
            judged on the first 17.

    Raises:
        ValueError: `frames` has another shape or dtype, or the caption is outside the grammar.
    """
    scene = parse_caption(caption)
    return compare(describe_clip(frames), scene)


def compare(seen: Seen, scene: Scene) -> CaptionCheck:
    """Compare what was seen with what a caption says; with a wrong number of figures, nothing about them is right."""
    figures = in_order(seen, scene)
    main = figures[-1] if figures else None
    motion, named, alone = scene.main.motion, scene.background.color != "", len(scene.figures) == 1

    def all_figures(attribute: str) -> bool:
        pairs = zip(figures, scene.figures, strict=True)
        return bool(figures) and all(getattr(a, attribute) == getattr(b, attribute) for a, b in pairs)

    def shows(*motions: str) -> bool | None:
        return main is not None and shows_motion(main, motion) if motion in motions else None

    check = CaptionCheck(
        found=bool(figures),
        color=all_figures("color"),
        shape=all_figures("shape"),
        background=seen.background == scene.background.color if named else None,
        pattern=shows_pattern(seen, scene) if named else None,
        size=shows_size(main, scene.main) if alone and motion not in ("growing", "shrinking") else None,
        place=shows_place(main, scene.main.place, seen.size) if scene.main.place else None,
    )
    if seen.picture:
        return check
    return replace(
        check,
        still_or_moving=[seen_class(figure) for figure in figures] == [caption_class(f) for f in scene.figures],
        speed=shows("slowly", "fast"),
        direction=main is not None and main_direction(main) == scene.main.direction if moves(motion) else None,
        spin=None if scene.main.shape in ROUND else shows("spinning"),
        bounce=shows("bouncing"),
        grow=shows("growing"),
        shrink=shows("shrinking"),
        order=main is not None and shows_order(seen, scene) if scene.order else None,
        pan=main is not None and shows_pan(seen, scene.pan, main) if scene.pan else None,
        keeps=keeps_on(seen, scene) if seen.later else None,
    )


def in_order(seen: Seen, scene: Scene) -> list[SeenFigure]:
    """Return the seen figures in the order of the scene's, with motion relative to a camera that pans.

    The list is empty if their number is wrong. Several figures are told apart by color, then by shape, then by how far
    they move.
    """
    if len(seen.figures) != len(scene.figures):
        return []
    scroll = seen.scroll if scene.pan else 0.0
    figures = [replace(figure, dx=figure.dx - scroll) for figure in seen.figures]

    def agreement(order: tuple[SeenFigure, ...]) -> tuple[int, int, float]:
        pairs = list(zip(order, scene.figures, strict=True))
        return sum(a.color == b.color for a, b in pairs), sum(a.shape == b.shape for a, b in pairs), moved(order[-1])

    return list(max(permutations(figures), key=agreement))


def moved(figure: SeenFigure) -> float:
    """Return how far a figure moves, in pixels."""
    return float(np.hypot(figure.dx, figure.dy))


def does_only(figure: SeenFigure, motion: str) -> bool:
    """Whether a figure neither leaves its straight way nor turns nor changes its size, but for the named motion."""
    straight = figure.wander_x < MAX_WANDER and (motion == "bouncing" or figure.wander_y < MAX_WANDER)
    turns = motion != "spinning" and figure.turn >= STILL_TURN
    swells = motion not in ("growing", "shrinking") and figure.pulse >= STILL_PULSE
    return straight and not turns and not swells


def shows_motion(figure: SeenFigure, motion: str) -> bool:
    """Whether a figure's motion is the named one; for a traveling figure only the speed counts."""
    way = moved(figure)
    if motion == "slowly":
        return STILL_BELOW <= way < SLOW_BELOW
    if motion == "fast":
        return way >= SLOW_BELOW
    if not does_only(figure, motion):
        return False
    if motion == "spinning":
        return way < IN_PLACE_BELOW and SPIN_TURN[0] < abs(figure.rotation) < SPIN_TURN[1]
    if motion == "bouncing":
        # A figure that only falls comes down, too, but ends far from where it started.
        returns = way < min(IN_PLACE_BELOW, figure.height / 2) and figure.drop > figure.height / 2
        return returns and figure.height > BOUNCE_HEIGHT
    if motion == "growing":
        return way < IN_PLACE_BELOW and figure.growth > MIN_GROWTH
    if motion == "shrinking":
        return way < IN_PLACE_BELOW and figure.growth < 1 / MIN_GROWTH
    return way < STILL_BELOW


def seen_class(figure: SeenFigure) -> str:
    """Return 'still', 'in place', 'travels', or 'unclear' for a figure that does none of these clearly."""
    if any(shows_motion(figure, motion) for motion in ("spinning", "bouncing", "growing", "shrinking")):
        return "in place"
    if moved(figure) >= STILL_BELOW and does_only(figure, "fast"):
        return "travels"
    return "still" if shows_motion(figure, "still") else "unclear"


def caption_class(figure: Figure) -> str:
    """Return the class of motion that a caption gives a figure."""
    if figure.motion == "still" or (figure.motion == "spinning" and figure.shape in ROUND):
        return "still"
    return "travels" if moves(figure.motion) else "in place"


def main_direction(figure: SeenFigure) -> str | None:
    """Return the direction of the larger component, or None for a diagonal and for a figure at rest."""
    across, along = sorted((abs(figure.dx), abs(figure.dy)))
    if moved(figure) < STILL_BELOW or across >= 0.5 * along:
        return None
    if along == abs(figure.dx):
        return "right" if figure.dx > 0 else "left"
    return "down" if figure.dy > 0 else "up"


def shows_pattern(seen: Seen, scene: Scene) -> bool:
    """Whether the background has the right pattern, and drifts to the left or not; `shows_pan` judges a pan."""
    if seen.pattern != scene.background.pattern:
        return False
    if scene.pan or seen.picture:
        return True
    if scene.background.drifting:
        return SCROLLS[0] < -seen.scroll < SCROLLS[1]
    return abs(seen.scroll) < STILL_BELOW


def shows_size(figure: SeenFigure | None, named: Figure) -> bool:
    """Whether a figure is as large as its caption says."""
    radius = RADIUS[named.size]
    return figure is not None and radius / SIZE_FACTOR < figure.radius < radius * SIZE_FACTOR


def shows_place(figure: SeenFigure | None, place: str, size: tuple[int, int]) -> bool:
    """Whether a figure is at the named sides of a frame of `size` (H, W)."""

    def near(position: float, side: int | None, length: int) -> bool:
        ends = places(length).tolist()
        return side is None or abs(position - (ends[0], ends[len(ends) // 2], ends[-1])[side + 1]) < STEP / 2

    (across, down), (height, width) = PLACES[place], size
    return figure is not None and near(figure.x, across, width) and near(figure.y, down, height)


def shows_order(seen: Seen, scene: Scene) -> bool:
    """Whether the right figure is in front while the two overlap."""
    return seen.front == (scene.main if scene.order == "in front" else scene.figures[0]).color


def shows_pan(seen: Seen, pan: str, figure: SeenFigure) -> bool:
    """Whether the background moves against the camera and the figure moves along with the background."""
    scroll = -seen.scroll if pan == "right" else seen.scroll
    return SCROLLS[0] < scroll < SCROLLS[1] and moved(figure) < STILL_BELOW


def keeps_on(seen: Seen, scene: Scene) -> bool:
    """Whether every later chunk goes on where the one before it ended."""
    return all(goes_on(before, after, scene.pan is not None) for before, after in pairwise([seen, *seen.later]))


def goes_on(before: Seen, after: Seen, pan: bool) -> bool:
    """Whether a chunk shows the background and the figures of the one before; a camera that pans may turn back."""
    if (before.background, before.pattern) != (after.background, after.pattern):
        return False
    if len(before.figures) != len(after.figures) or not (pan or abs(after.scroll - before.scroll) < SCROLLS[0]):
        return False
    return any(all(map(is_continued, before.figures, figures)) for figures in permutations(after.figures))


def is_continued(before: SeenFigure, after: SeenFigure) -> bool:
    """Whether a figure of the next chunk is the same one; what is still or spins has to stay so and in its place.

    What moves may turn back, but not stop.
    """
    if (before.color, before.shape) != (after.color, after.shape):
        return False
    if seen_class(before) in ("travels", "in place") and shows_motion(after, "still"):
        return False
    in_place = [motion for motion in ("still", "spinning") if shows_motion(before, motion)]
    if not all(shows_motion(after, motion) for motion in in_place):
        return False
    end, start = before.end, after.start
    limit = STILL_BELOW if in_place else MAX_STEP * (FRAMES + start.time - end.time)
    same_size = end.radius / SIZE_FACTOR <= start.radius <= end.radius * SIZE_FACTOR
    return same_size and float(np.hypot(start.x - end.x, start.y - end.y)) < limit
