"""The little world of the mini model: what a scene can be, and how it is put into words."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star")

COLORS = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.12, 0.75, 0.20),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.98, 0.90, 0.15),
    "purple": (0.62, 0.20, 0.85),
    "orange": (1.00, 0.55, 0.05),
    "white": (0.97, 0.97, 0.97),
}

BACKGROUNDS = {
    "black": (0.03, 0.03, 0.03),
    "gray": (0.50, 0.50, 0.50),
    "navy": (0.06, 0.08, 0.32),
    "brown": (0.36, 0.20, 0.10),
    "teal": (0.05, 0.35, 0.38),
    "pink": (0.95, 0.70, 0.78),
}

# Share of each kind of motion in the training data.
MOTION_MIX = {
    "still": 0.14,
    "slowly": 0.27,
    "fast": 0.29,
    "spinning": 0.08,
    "growing": 0.07,
    "shrinking": 0.07,
    "bouncing": 0.08,
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

GRADIENT_SHARE = 0.35
NO_BACKGROUND_SHARE = 0.15  # captions that leave the background open
HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class Scene:
    """One clip in words: a shape of one color doing one thing on one background.

    Attributes:
        motion: a key of MOTION_MIX.
        direction: a key of DIRECTIONS for the motions 'slowly' and 'fast', else None.
        gradient: the background darkens to half towards the bottom.
    """

    color: str
    shape: str
    motion: str
    direction: str | None
    background: str
    gradient: bool = False

    def caption(self, with_background: bool = True, to_the: bool = True) -> str:
        """The caption; ``to_the`` chooses 'to the right' over plain 'right'."""
        if self.direction is None:
            words = f"a {self.motion} {self.color} {self.shape}"
        else:
            sideways = to_the and self.direction in ("left", "right")
            where = f"to the {self.direction}" if sideways else self.direction
            article = "an" if self.color == "orange" else "a"
            words = f"{article} {self.color} {self.shape} moving {self.motion} {where}"
        if not with_background:
            return words
        return f"{words} on a {self.background}{' gradient' if self.gradient else ''} background"

    @property
    def held_out(self) -> bool:
        """Whether no training clip shows this scene; decided by a hash of its full caption."""
        digest = hashlib.sha256(self.caption().encode()).digest()
        return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene with the shares of MOTION_MIX; circles do not spin and black has no gradient."""
    motion = rng.choice(list(MOTION_MIX), p=list(MOTION_MIX.values()))
    shapes = [shape for shape in SHAPES if not (shape == "circle" and motion == "spinning")]
    background = str(rng.choice(list(BACKGROUNDS)))
    return Scene(
        color=str(rng.choice(list(COLORS))),
        shape=str(rng.choice(shapes)),
        motion=str(motion),
        direction=str(rng.choice(list(DIRECTIONS))) if motion in ("slowly", "fast") else None,
        background=background,
        gradient=background != "black" and rng.random() < GRADIENT_SHARE,
    )


def draw_scene(rng: np.random.Generator, held_out: bool) -> Scene:
    """Draw scenes until one lies on the wanted side of the split."""
    while (scene := random_scene(rng)).held_out != held_out:
        pass
    return scene


def held_out_captions(count: int, seed: int) -> list[str]:
    """``count`` different full captions of scenes that no training clip shows."""
    rng = np.random.default_rng(seed)
    captions: dict[str, None] = {}  # a dict keeps the order, a set would not
    while len(captions) < count:
        captions[draw_scene(rng, held_out=True).caption()] = None
    return list(captions)


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of the ways to say ``scene``, as the training data does."""
    return scene.caption(with_background=rng.random() >= NO_BACKGROUND_SHARE, to_the=bool(rng.random() < 0.5))


def parse_caption(caption: str) -> Scene:
    """The scene a caption describes; an open background is returned as ''.

    Raises:
        ValueError: the caption is not in the grammar; says which part is missing.
    """
    words = caption.lower().rstrip(".").split()

    def find(kind: str, names: object) -> str:
        found = [word for word in words if word in names]
        if not found:
            raise ValueError(f"caption '{caption}' names no {kind}; choose one of {', '.join(names)}")
        return found[0]

    background = words[words.index("on") + 2] if "on" in words[:-2] else ""
    if background and background not in BACKGROUNDS:
        raise ValueError(f"unknown background '{background}'; choose one of {', '.join(BACKGROUNDS)}")
    motion = find("motion", MOTION_MIX)
    return Scene(
        color=find("color", COLORS),
        shape=find("shape", SHAPES),
        motion=motion,
        direction=find("direction", DIRECTIONS) if motion in ("slowly", "fast") else None,
        background=background,
        gradient="gradient" in words,
    )


def vocabulary() -> list[str]:
    """Every word a caption can hold, in a fixed order."""
    glue = ["a", "an", "the", "on", "to", "moving", "gradient", "background"]
    return [*glue, *SHAPES, *COLORS, *BACKGROUNDS, *MOTION_MIX, *DIRECTIONS]
