"""Test how far the caption check can be trusted: right on real clips, not fooled by captions with one wrong word.

Real held-out clips of several lengths and sizes, crisp and soft, are compared with their own captions and with
captions that differ from them in one attribute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm import tqdm

from mini.check.check import compare
from mini.check.describe import describe_clip
from mini.world.captions import (
    BACKGROUNDS,
    COLORS,
    DIRECTIONS,
    ORDERS,
    PANS,
    PATTERNS,
    PLACES,
    ROUND,
    SHAPES,
    TEXTURES,
    Background,
    Figure,
    Scene,
    moves,
    parse_caption,
)
from mini.world.clips import make_clip
from mini.world.paths import RADIUS

MIN_RIGHT, MAX_ACCEPTED = 0.98, 0.02
NOISE = 4.0  # standard deviation in levels of 255
VARIANTS = {  # frames, size, soft
    "17x128x128": (17, (128, 128), False),
    "soft": (17, (128, 128), True),
    "17x128x192": (17, (128, 192), False),
    "17x192x128": (17, (192, 128), False),
    "51x128x128": (51, (128, 128), False),
    "51 soft": (51, (128, 128), True),
    "image": (1, (128, 128), False),
    "image soft": (1, (128, 128), True),
}
VISIBLE = ("color", "shape", "background", "pattern", "size", "place", "too many", "missing")  # in a picture
IN_PLACE = {"spin": "spinning", "bounce": "bouncing", "grow": "growing", "shrink": "shrinking"}


@dataclass
class Tally:
    """How often something was true, per name."""

    true: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, value: bool) -> None:
        """Count one observation."""
        self.true[name] += bool(value)
        self.total[name] += 1

    def share(self, name: str) -> float:
        """Return the share of true ones."""
        return self.true[name] / self.total[name]

    def cell(self, name: str) -> str:
        """Format '297/300  99.0%', or a dash if nothing was counted."""
        return f"{self.true[name]}/{self.total[name]} {self.share(name):6.1%}" if self.total[name] else "-"


def soften(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply a 3 x 3 box blur and noise to `frames` (F, H, W, 3) uint8, as a small model might draw them."""
    height, width = frames.shape[1:3]
    padded = np.pad(frames.astype(np.float32), [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    blurred = sum(padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9
    return (blurred + rng.normal(0, NOISE, frames.shape)).round().clip(0, 255).astype(np.uint8)


def wrong_scenes(scene: Scene, rng: np.random.Generator) -> dict[str, Scene]:
    """Return scenes that differ from `scene` in one attribute, by the attribute's name."""
    ground, main, alone = scene.background, scene.main, len(scene.figures) == 1
    result: dict[str, Scene] = {}

    def other(names: Iterable[str], *taken: str) -> str:
        return str(rng.choice([name for name in names if name not in taken]))

    def with_figure(index: int, **changes: str | None) -> Scene:
        changed = replace(scene.figures[index], **changes)
        return replace(scene, figures=(*scene.figures[:index], changed, *scene.figures[index + 1 :]))

    def with_main(**changes: str | None) -> Scene:
        return with_figure(len(scene.figures) - 1, **changes)

    def with_ground(**changes: str | bool) -> Scene:
        return replace(scene, background=replace(ground, **changes))

    index = int(rng.integers(len(scene.figures)))
    shapes = [shape for shape in SHAPES if not (shape in ROUND and main.motion == "spinning")]
    result["color"] = with_figure(index, color=other(COLORS, *(figure.color for figure in scene.figures)))
    result["shape"] = with_figure(index, shape=other(shapes, scene.figures[index].shape))
    result["background"] = with_ground(color=other(other_grounds(ground), ground.color))
    result["pattern"] = with_ground(pattern=other(other_patterns(scene), ground.pattern))
    if ground.pattern in TEXTURES and alone and not scene.pan:
        result["drifting"] = with_ground(drifting=not ground.drifting)
    if alone and main.motion not in ("growing", "shrinking"):
        result["size"] = with_main(size=other(RADIUS, main.size))
    if main.place:
        result["place"] = with_main(place=other(other_places(main.place)))
    if moves(main.motion):
        result["slow or fast"] = with_main(motion="fast" if main.motion == "slowly" else "slowly")
        result["direction"] = with_main(direction=other(DIRECTIONS, main.direction))
    if scene.order:
        result["order"] = replace(scene, order=other(ORDERS, scene.order))
    elif scene.kind == "pair":
        result["crossing or not"] = replace(scene, order=other(ORDERS))
    if not alone:
        index = int(rng.integers(len(scene.figures) - 1))
        still = scene.figures[index]
        moved = with_figure(index, color=main.color, shape=main.shape).figures[:-1]
        result["who moves"] = replace(scene, figures=(*moved, replace(main, color=still.color, shape=still.shape)))
    elif scene.pan:
        result["pan side"] = replace(scene, pan=other(PANS, scene.pan))
        result["pan or not"] = replace(scene, pan=None)
    else:
        result |= wrong_motions(main, with_main, rng)
    return result | wrong_numbers(scene, rng)


def wrong_motions(main: Figure, with_main: Callable[..., Scene], rng: np.random.Generator) -> dict[str, Scene]:
    """Return scenes whose main figure is still instead of moving, or the other way round."""
    still = with_main(motion="still", direction=None)
    if moves(main.motion):
        return {"still or moving": still}
    for item, motion in IN_PLACE.items():
        if main.motion == motion:
            return {item: still}
    wrong = {item: with_main(motion=motion) for item, motion in IN_PLACE.items()}
    if main.shape in ROUND:
        del wrong["spin"]
    speed, direction = rng.choice(["slowly", "fast"]), rng.choice(list(DIRECTIONS))
    return {"still or moving": with_main(motion=str(speed), direction=str(direction)), **wrong}


def other_grounds(ground: Background) -> list[str]:
    """Return the colors that a background with this pattern can have."""
    return [color for color in BACKGROUNDS if not (color == "black" and ground.pattern == "gradient")]


def other_patterns(scene: Scene) -> list[str]:
    """Return the patterns that the background of a scene can have."""
    if scene.pan or scene.background.drifting:
        return list(TEXTURES)
    return [pattern for pattern in PATTERNS if not (scene.background.color == "black" and pattern == "gradient")]


def other_places(place: str) -> list[str]:
    """Return the places that a figure at `place` cannot be at."""
    pairs = {name: zip(sides, PLACES[place], strict=True) for name, sides in PLACES.items()}
    return [name for name, sides in pairs.items() if any(None not in (a, b) and a != b for a, b in sides)]


def wrong_numbers(scene: Scene, rng: np.random.Generator) -> dict[str, Scene]:
    """Return `scene` with a figure less and with one more; a camera pan is dropped for a second figure."""
    figures, wrong = list(scene.figures), {}
    if len(figures) < 3:
        color = str(rng.choice([color for color in COLORS if color not in [figure.color for figure in figures]]))
        more = [Figure(color, str(rng.choice(SHAPES))), *figures]
        wrong["too many"] = replace(scene, figures=tuple(more), pan=None, order=None)
    if len(figures) > 1:
        del figures[int(rng.integers(len(figures)))]
        wrong["missing"] = replace(scene, figures=tuple(figures), order=None)
    return wrong


def validate(clips: int, seed: int, variants: list[str]) -> tuple[dict[str, Tally], dict[str, Tally]]:
    """Return tallies per variant: items right on the true captions, and wrong captions accepted."""
    right = {name: Tally() for name in variants}
    accepted = {name: Tally() for name in variants}
    for index in tqdm(range(clips), desc="clips", mininterval=1):
        for name in variants:
            frames, size, soft = VARIANTS[name]
            clip = make_clip(seed, index, held_out=True, frames=frames, size=size)
            rng = np.random.default_rng((seed, index))
            video = clip.frames.numpy()
            seen = describe_clip(soften(video, rng) if soft else video)
            check = compare(seen, parse_caption(clip.caption))
            for item, value in check.items().items():
                right[name].add(item, value)
            right[name].add("all", check.all)
            for item, wrong in wrong_scenes(clip.scene, rng).items():
                if seen.picture and item not in VISIBLE:
                    continue
                accepted[name].add(item, compare(seen, parse_caption(wrong.caption())).all)
    return right, accepted


def table(title: str, tallies: dict[str, Tally]) -> str:
    """Return a table with one line per item and one column per variant."""
    items = list(dict.fromkeys(item for tally in tallies.values() for item in tally.total))
    items.sort(key=lambda item: item == "all")  # last
    lines = [f"{title:<18}" + "".join(f"{name:>17}" for name in tallies)]
    lines += [f"{item:<18}" + "".join(f"{tally.cell(item):>17}" for tally in tallies.values()) for item in items]
    return "\n".join(lines)


def report(clips: int, seed: int, variants: list[str]) -> int:
    """Measure and print both tables; return 0 if the check can be trusted, else 1."""
    right, accepted = validate(clips, seed, variants)
    print(table("right", right))
    print()
    print(table("wrong, accepted", accepted))
    good = all(tally.share(item) >= MIN_RIGHT for tally in right.values() for item in tally.total)
    fooled = any(tally.share(item) > MAX_ACCEPTED for tally in accepted.values() for item in tally.total)
    return 0 if good and not fooled else 1
