"""The little world of the mini model: what a scene can be, and how a caption describes it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart")
ROUND = ("circle", "ring")  # shapes that look the same however they are turned
SOLID = tuple(shape for shape in SHAPES if shape != "ring")  # what is behind a ring shows through it

COLORS = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.12, 0.75, 0.20),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.98, 0.90, 0.15),
    "purple": (0.62, 0.20, 0.85),
    "orange": (1.00, 0.55, 0.05),
    "white": (0.97, 0.97, 0.97),
    "cyan": (0.10, 0.85, 0.90),
    "magenta": (0.95, 0.15, 0.75),
}

BACKGROUNDS = {
    "black": (0.03, 0.03, 0.03),
    "gray": (0.50, 0.50, 0.50),
    "navy": (0.06, 0.08, 0.32),
    "brown": (0.36, 0.20, 0.10),
    "teal": (0.05, 0.35, 0.38),
    "pink": (0.95, 0.70, 0.78),
    "sky": (0.55, 0.78, 0.95),
}
PATTERNS = ("plain", "gradient", "striped", "checkered", "dotted")
TEXTURES = ("striped", "checkered", "dotted")  # patterns on which a moving background or camera shows

# Share of each kind of motion in the training data, for a single figure before a background at rest.
MOTION_MIX = {
    "still": 0.13,
    "slowly": 0.20,
    "fast": 0.21,
    "spinning": 0.13,
    "growing": 0.10,
    "shrinking": 0.10,
    "bouncing": 0.13,
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PANS = ("left", "right")
SIZES = ("small", "large")
# Where a figure that stays in its place can be said to be: side of the frame along x and y, None where it is left open.
PLACES = {
    "center": (0, 0),
    "left": (-1, None),
    "right": (1, None),
    "top": (None, -1),
    "bottom": (None, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
# What a moving figure does at a still one whose way it crosses, and the words for it.
ORDERS = {"behind": "behind it", "in front": "in front of it"}

# Share of each kind of scene.
KIND_MIX = {
    "plain": 0.38,
    "textured": 0.13,
    "drifting": 0.10,
    "pan": 0.09,
    "pair": 0.13,
    "trio": 0.07,
    "crossing": 0.10,
}
GRADIENT_SHARE = 0.3  # of the backgrounds without texture
GROUP_TEXTURE_SHARE = 0.25
SIZE_SHARE = 0.5  # of the figures whose size can be named
PLACE_SHARE = 0.4  # of the still and spinning figures on their own before a background at rest
NO_BACKGROUND_SHARE = 0.12  # captions that leave the background open
HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class Figure:
    """A shape of one color doing one thing.

    Attributes:
        motion: a key of MOTION_MIX.
        direction: a key of DIRECTIONS for the motions 'slowly' and 'fast', else None.
        size: one of SIZES, or '' for the size between them.
        place: a key of PLACES, or '' if a caption leaves it open.
    """

    color: str
    shape: str
    motion: str = "still"
    direction: str | None = None
    size: str = ""
    place: str = ""

    def words(self, to_the: bool = True) -> str:
        """Describe the figure: 'a still small red star at the top', 'an orange circle moving fast to the left'."""
        what = " ".join(word for word in (self.size, self.color, self.shape) if word)
        if self.direction is None:
            return f"a {self.motion} {what}{f' at the {self.place}' if self.place else ''}"
        where = f"to the {self.direction}" if to_the and self.direction in ("left", "right") else self.direction
        article = "an" if what.startswith("orange") else "a"
        return f"{article} {what} moving {self.motion} {where}"


@dataclass(frozen=True)
class Background:
    """What is behind the figures.

    Attributes:
        color: a key of BACKGROUNDS, or '' if a caption leaves it open.
        pattern: one of PATTERNS; a gradient darkens to half towards the bottom.
        drifting: the texture moves to the left by itself.
    """

    color: str
    pattern: str = "plain"
    drifting: bool = False

    def words(self) -> str:
        """Describe the background: 'a navy gradient background', 'a drifting teal striped background'."""
        pattern = "" if self.pattern == "plain" else f" {self.pattern}"
        return f"a {'drifting ' if self.drifting else ''}{self.color}{pattern} background"


@dataclass(frozen=True)
class Scene:
    """One clip in words: one figure, or one or two still ones and a moving one, before a background.

    Attributes:
        pan: direction in which the camera turns, 'left' or 'right', or None; the world moves the other way.
        order: a key of ORDERS if the moving figure crosses the still one, else None.
    """

    figures: tuple[Figure, ...]
    background: Background
    pan: str | None = None
    order: str | None = None

    @property
    def main(self) -> Figure:
        """The figure that the scene is about: the moving one of several."""
        return self.figures[-1]

    @property
    def kind(self) -> str:
        """The key of KIND_MIX that the scene belongs to."""
        if self.order:
            return "crossing"
        if len(self.figures) > 1:
            return "pair" if len(self.figures) == 2 else "trio"
        if self.pan:
            return "pan"
        if self.background.pattern in TEXTURES:
            return "drifting" if self.background.drifting else "textured"
        return "plain"

    def caption(self, with_background: bool = True, to_the: bool = True) -> str:
        """Return the caption; `to_the` chooses 'to the right' over plain 'right'."""
        words = " and ".join(figure.words(to_the) for figure in self.figures)
        if self.order:
            words += f" {ORDERS[self.order]}"
        if with_background:
            words += f" on {self.background.words()}"
        return f"{words} while the camera pans {self.pan}" if self.pan else words

    @property
    def held_out(self) -> bool:
        """Whether no training clip shows this scene; decided by a hash of its full caption."""
        digest = hashlib.sha256(self.caption().encode()).digest()
        return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def _pick(rng: np.random.Generator, names: Iterable[str]) -> str:
    return str(rng.choice(list(names)))


def _random_figure(
    rng: np.random.Generator,
    motion: str,
    color: str | None = None,
    shapes: Iterable[str] = SHAPES,
    alone: bool = False,
) -> Figure:
    """Draw a figure with the given motion; a round shape does not spin, as that would not be visible.

    Args:
        alone: the figure may have a size and a place.
    """
    sized = alone and motion not in ("growing", "shrinking") and rng.random() < SIZE_SHARE
    placed = alone and motion in ("still", "spinning") and rng.random() < PLACE_SHARE
    return Figure(
        color=color or _pick(rng, COLORS),
        shape=_pick(rng, (shape for shape in shapes if not (shape in ROUND and motion == "spinning"))),
        motion=motion,
        direction=_pick(rng, DIRECTIONS) if motion in ("slowly", "fast") else None,
        size=_pick(rng, SIZES) if sized else "",
        place=_pick(rng, PLACES) if placed else "",
    )


def _random_background(rng: np.random.Generator, textured: bool, drifting: bool = False) -> Background:
    """Draw a background; black has no gradient."""
    color = _pick(rng, BACKGROUNDS)
    if textured:
        return Background(color, _pick(rng, TEXTURES), drifting)
    return Background(color, "gradient" if color != "black" and rng.random() < GRADIENT_SHARE else "plain")


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene with the shares of KIND_MIX and MOTION_MIX."""
    kind = rng.choice(list(KIND_MIX), p=list(KIND_MIX.values()))
    if kind in ("pair", "trio", "crossing"):
        colors = rng.choice(list(COLORS), size=3 if kind == "trio" else 2, replace=False).tolist()
        shapes = SOLID if kind == "crossing" else SHAPES
        speed = "fast" if kind == "crossing" else _pick(rng, ("slowly", "fast"))
        still = [_random_figure(rng, "still", color, shapes) for color in colors[:-1]]
        mover = _random_figure(rng, speed, colors[-1], shapes)
        background = _random_background(rng, textured=rng.random() < GROUP_TEXTURE_SHARE)
        return Scene((*still, mover), background, order=_pick(rng, ORDERS) if kind == "crossing" else None)
    if kind == "pan":
        background = _random_background(rng, textured=True)
        return Scene((_random_figure(rng, "still"),), background, pan=_pick(rng, PANS))
    motion = str(rng.choice(list(MOTION_MIX), p=list(MOTION_MIX.values())))
    background = _random_background(rng, textured=kind != "plain", drifting=kind == "drifting")
    return Scene((_random_figure(rng, motion, alone=kind != "drifting"),), background)


def draw_scene(rng: np.random.Generator, held_out: bool) -> Scene:
    """Draw scenes until one is on the wanted side of the held-out split."""
    while (scene := random_scene(rng)).held_out != held_out:
        pass
    return scene


def max_draws(count: int) -> int:
    """Return how many scenes to draw at most for `count` different captions, of which there are finitely many."""
    return 1000 + 20 * count


def held_out_captions(count: int, seed: int) -> list[str]:
    """Draw `count` different full captions of scenes that no training clip shows.

    Raises:
        ValueError: there are not as many.
    """
    rng = np.random.default_rng(seed)
    captions: dict[str, None] = {}  # a dict keeps the order, a set would not
    draws = 0
    while len(captions) < count:
        if draws == max_draws(count):
            raise ValueError(f"found only {len(captions)} different held-out captions; ask for fewer than {count}")
        captions[draw_scene(rng, held_out=True).caption()] = None
        draws += 1
    return list(captions)


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe `scene` in one of the ways of the training data."""
    open_background = rng.random() < NO_BACKGROUND_SHARE and scene.kind in ("plain", "pair", "trio", "crossing")
    return scene.caption(with_background=not open_background, to_the=bool(rng.random() < 0.5))


def parse_caption(caption: str) -> Scene:
    """Return the scene that a caption describes.

    Raises:
        ValueError: the caption is not in the grammar; the message names the missing part.
    """
    words = caption.lower().rstrip(".").split()

    def find(kind: str, names: Iterable[str], among: list[str]) -> str:
        found = [word for word in among if word in names]
        if not found:
            raise ValueError(f"caption '{caption}' names no {kind}; choose one of {', '.join(names)}")
        return found[0]

    def figure(part: list[str]) -> Figure:
        color, shape = find("color", COLORS, part), find("shape", SHAPES, part)
        motion = find("motion", MOTION_MIX, part)
        size = next((word for word in part if word in SIZES), "")
        _, where = split_at(part, "at")
        place = " ".join(word for word in where if word != "the")
        if where and place not in PLACES:
            raise ValueError(f"caption '{caption}' names no place after 'at the'; choose one of {', '.join(PLACES)}")
        direction = find("direction", DIRECTIONS, part) if moves(motion) else None
        return Figure(color, shape, motion, direction, size, place)

    subject, camera = split_at(words, "while")
    subject, backdrop = split_at(subject, "on")
    parts = [subject]
    while "and" in parts[-1]:
        parts[-1:] = split_at(parts[-1], "and")
    figures = tuple(figure(part) for part in parts)
    background = Background("")
    if backdrop:
        pattern = [word for word in backdrop if word in PATTERNS]
        background = Background(
            find("background", BACKGROUNDS, backdrop), pattern[0] if pattern else "plain", "drifting" in backdrop
        )
    order = next((order for order, name in ORDERS.items() if name in " ".join(parts[-1])), None)
    return Scene(figures, background, find("pan", PANS, camera) if camera else None, order)


def moves(motion: str) -> bool:
    """Whether a motion has a direction."""
    return motion in ("slowly", "fast")


def split_at(words: list[str], mark: str) -> tuple[list[str], list[str]]:
    """Return the words before and after the first `mark`; without one, all words and none."""
    if mark not in words:
        return words, []
    at = words.index(mark)
    return words[:at], words[at + 1 :]


def vocabulary() -> list[str]:
    """Return every word that a caption can have, in a fixed order."""
    glue = "a an the on to at and moving drifting background while camera pans in front of it behind"
    sides = [word for place in PLACES for word in place.split()]
    words = [*glue.split(), *PATTERNS[1:], *SHAPES, *COLORS, *BACKGROUNDS, *MOTION_MIX, *DIRECTIONS, *SIZES, *sides]
    return list(dict.fromkeys(words))


def caption_pattern() -> str:
    """Return a regular expression for all captions of `random_caption` and a few others, as of spinning circles."""

    def one_of(words: Iterable[str]) -> str:
        return f"(?:{'|'.join(words)})"

    what = f"{one_of(COLORS)} {one_of(SHAPES)}"
    sized = f"(?:{one_of(SIZES)} )?{what}"
    where = one_of(["(?:to the )?(?:left|right)", "up", "down"])
    moving = f"moving {one_of(motion for motion in MOTION_MIX if moves(motion))} {where}"
    in_place = f"an? {one_of(motion for motion in MOTION_MIX if not moves(motion))} {sized}"
    place = f"(?: at the {one_of(PLACES)})?"
    texture = f"(?:drifting )?{one_of(BACKGROUNDS)} {one_of(TEXTURES)}"
    background = f"an? {one_of([texture, f'{one_of(BACKGROUNDS)}(?: gradient)?'])} background"
    pan = f" on an? {one_of(BACKGROUNDS)} {one_of(TEXTURES)} background while the camera pans {one_of(PANS)}"
    group = f"an? still {what} and (?:an? still {what} and )?an? {what} {moving}(?: {one_of(ORDERS.values())})?"
    plain = f"(?:{in_place}{place}|an? {sized} {moving}|{group})(?: on {background})?"
    return f"{plain}|an? still {what}{pan}"


def words_by_kind() -> dict[str, list[str]]:
    """Return the words of `vocabulary()` by kind, for people."""
    kinds = {
        "shapes": SHAPES,
        "colors": COLORS,
        "sizes": SIZES,
        "backgrounds": BACKGROUNDS,
        "patterns of backgrounds": PATTERNS[1:],
        "motions": MOTION_MIX,
        "directions": DIRECTIONS,
        "places": dict.fromkeys(word for place in PLACES for word in place.split() if word not in DIRECTIONS),
    }
    named = {kind: list(words) for kind, words in kinds.items()}
    rest = [word for word in vocabulary() if not any(word in words for words in named.values())]
    return {**named, "between them": rest}
