"""Frame sizes and frame counts by the names users write: ("720p", "9:16") -> (720, 1280), "2s" -> 51.

An aspect ratio is written height:width, so "9:16" is landscape and "16:9" portrait. This module imports
nothing heavy: configs are validated with it before anything is loaded.

Source: opensora/datasets/aspect.py (Open-Sora v1.2).
"""

import difflib
from collections.abc import Mapping

Size = tuple[int, int]  # (height, width) in pixels

# "50:27" is 1.85 but stands for 2.08 (25:12): upstream's name, kept because its users' configs contain it.
ASPECT_RATIOS: tuple[str, ...] = (
    *("3:8", "9:21", "12:25", "1:2", "9:17", "27:50", "9:16", "5:8", "2:3"),
    *("3:4", "1:1", "4:3", "3:2", "16:9", "17:9", "2:1", "50:27"),
)
RESOLUTIONS: tuple[str, ...] = (
    *("144p", "256", "240p", "360p", "512", "480p", "720p"),
    *("1024", "1080p", "2k", "2048", "2880", "4k"),
)

# One size per name of ASPECT_RATIOS, in its order.
_VIDEO_SIZES: dict[str, str] = {
    "144p": "117x312 125x291 133x277 135x270 139x262 141x260 144x256 151x241 156x234 "
    "166x221 192x192 221x165 235x156 256x144 263x139 271x135 277x132",
    "240p": "196x522 210x490 222x462 226x452 232x438 236x436 240x426 252x404 262x393 "
    "276x368 320x320 370x278 392x262 426x240 440x232 452x226 462x222",
    "360p": "294x784 314x732 332x692 340x680 350x662 352x652 360x640 380x608 392x588 "
    "416x554 480x480 554x416 588x392 640x360 660x350 678x340 692x332",
    "480p": "392x1046 420x980 444x925 452x904 466x880 470x870 480x854 506x810 522x784 "
    "554x738 640x640 740x555 784x522 854x480 880x466 906x454 924x444",
    "720p": "588x1568 628x1466 666x1388 678x1356 698x1318 706x1306 720x1280 758x1212 784x1176 "
    "832x1110 960x960 1108x832 1176x784 1280x720 1320x698 1358x680 1386x666",
    "1080p": "882x2352 942x2198 998x2080 1018x2036 1048x1980 1058x1958 1080x1920 1138x1820 1176x1764 "
    "1248x1664 1440x1440 1662x1246 1764x1176 1920x1080 1980x1048 2036x1018 2078x998",
    "2k": "1176x3136 1256x2930 1330x2770 1358x2716 1398x2640 1412x2612 1440x2560 1518x2428 1568x2352 "
    "1662x2216 1920x1920 2218x1664 2352x1568 2560x1440 2638x1396 2716x1358 2772x1330",
    "4k": "1764x4704 1886x4400 1996x4158 2036x4072 2096x3960 2118x3918 2160x3840 2276x3642 2352x3528 "
    "2494x3326 2880x2880 3326x2494 3528x2352 3840x2160 3958x2096 4072x2036 4156x1994",
}

# Few ratios of the square resolutions have a name: 2880 has 1:1, the others have these, in units
# of 1/16 of the side. Upstream v1.2.0 finds 12:25 only, as it writes the keys of its tables as "1.0" and looks
# up "1.00"; the AdaCache fork mends this.
_SQUARE_SIXTEENTHS: dict[str, Size] = {"12:25": (11, 23), "1:2": (11, 22), "1:1": (16, 16), "2:1": (22, 11)}

# A clip of 51 frames is 3 windows of 17, a bit more than 2 seconds at 24 frames per second.
NUM_FRAMES_MAP: dict[str, int] = {
    "1x": 51,
    "2x": 102,
    "4x": 204,
    "8x": 408,
    "16x": 816,
    "2s": 51,
    "4s": 102,
    "8s": 204,
    "16s": 408,
    "32s": 816,
}

DURATIONS: tuple[str, ...] = tuple(NUM_FRAMES_MAP)


def get_image_size(resolution: str | int, ratio: str) -> Size:
    """Return (height, width) in pixels of a resolution ("720p", "512") at an aspect ratio ("9:16", height:width).

    The square resolutions have few of the ratios.

    Raises:
        ValueError: the resolution is unknown, or does not have this ratio.
    """
    sizes = _sizes(resolution)
    if not isinstance(ratio, str) or ratio not in sizes:
        raise ValueError(
            f"resolution '{resolution}' has no aspect ratio {ratio!r} (height:width): "
            f"use {_nearest_ratio_hint(ratio, sizes)}one of {', '.join(sizes)}"
        )
    return sizes[ratio]


def get_num_frames(value: str | int | float) -> int:
    """Return the number of frames of a duration: one of `DURATIONS`, or a whole number (or its text), 1 for an image.

    Raises:
        ValueError: the name is unknown, or the number is a fraction or below 1.
    """
    if isinstance(value, str) and value in NUM_FRAMES_MAP:
        return NUM_FRAMES_MAP[value]
    try:
        num_frames = int(value)
    except (TypeError, ValueError, OverflowError):
        num_frames = None
    if num_frames is None or isinstance(value, bool) or (isinstance(value, float) and num_frames != value):
        raise ValueError(f"unknown duration {value!r}: use a number of frames or one of {', '.join(DURATIONS)}")
    if num_frames < 1:
        raise ValueError(f"the number of frames must be at least 1 (1 samples an image), got {value!r}")
    return num_frames


def _sizes(resolution: str | int) -> dict[str, Size]:
    """Return all sizes of a resolution by their ratios; raises ValueError if the resolution is unknown."""
    name = str(resolution)  # configs and command lines turn 512 into an int
    if name not in RESOLUTIONS:
        similar = difflib.get_close_matches(name.lower(), RESOLUTIONS, n=2)
        hint = f"did you mean {' or '.join(similar)}? Valid are" if similar else "use one of"
        raise ValueError(f"unknown resolution {name!r}: {hint} {', '.join(RESOLUTIONS)}")
    if name in _VIDEO_SIZES:
        pairs = (size.split("x") for size in _VIDEO_SIZES[name].split())
        return {ratio: (int(height), int(width)) for ratio, (height, width) in zip(ASPECT_RATIOS, pairs, strict=True)}
    unit = int(name) // 16
    sizes = {ratio: (height * unit, width * unit) for ratio, (height, width) in _SQUARE_SIXTEENTHS.items()}
    return {"1:1": sizes["1:1"]} if name == "2880" else sizes


def _nearest_ratio_hint(ratio: object, sizes: Mapping[str, Size]) -> str:
    """Return text such as "3:2 (the nearest), or " for a well-formed ratio, else ""."""
    try:
        height, width = (float(side) for side in str(ratio).split(":"))
        nearest = min(sizes, key=lambda name: abs(sizes[name][0] / sizes[name][1] - height / width))
    except (ValueError, ZeroDivisionError):
        return ""
    return f"{nearest} (the nearest), or "
