"""Frame sizes and frame counts by the names users write: ("720p", "9:16") -> (720, 1280), "2s" -> 51.

An aspect ratio is written height:width, so "9:16" is landscape and "16:9" portrait. This module imports
nothing heavy: configs are validated with it before anything is loaded.

Source: opensora/datasets/aspect.py (Open-Sora v1.2).
"""

import difflib
import math
from collections.abc import Iterable

Size = tuple[int, int]  # (height, width) in pixels

# Ratio name (height:width) -> key of a size table, height / width with two decimals. "50:27" is 1.85 but
# stands for 2.08 (25:12): upstream's name, kept because its users' configs contain it.
ASPECT_RATIO_MAP: dict[str, str] = {
    "3:8": "0.38",
    "9:21": "0.43",
    "12:25": "0.48",
    "1:2": "0.50",
    "9:17": "0.53",
    "27:50": "0.54",
    "9:16": "0.56",
    "5:8": "0.62",
    "2:3": "0.67",
    "3:4": "0.75",
    "1:1": "1.00",
    "4:3": "1.33",
    "3:2": "1.50",
    "16:9": "1.78",
    "17:9": "1.89",
    "2:1": "2.00",
    "50:27": "2.08",
}

# One size per name of ASPECT_RATIO_MAP, in its order.
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

# The square resolutions are image buckets with ratios of their own. 256, 512, 1024 and 2048 are one table at
# four scales, here in units of 1/16 of the side, and a key is height / width. 2880 is in units of 64 pixels,
# and a few of its keys differ from that ratio. Upstream v1.2.0 writes the keys of these tables as "1.0" and looks
# up "1.00", so that it finds hardly any size; two decimals throughout, as in the AdaCache fork, work.
_SQUARE_SIXTEENTHS = (
    "8x32 8x31 8x30 8x29 9x28 9x27 9x26 10x25 10x24 11x23 11x22 11x21 12x21 12x20 "
    "13x19 13x18 14x18 14x17 15x17 15x16 16x16 16x15 17x15 17x14 18x14 18x13 19x13 20x12 "
    "21x12 22x11 23x11 24x10 25x10 26x9 27x9 28x9 29x8 30x8 31x8 32x8"
)
_2880_SIZES = (
    "22x90 22x87 22x84 22x81 25x78 25x75 25x73 28x70 28x67 30x64 30x61 30x59 33x60 33x56 "
    "36x53 36x50 39x50 39x47 42x47 42x45 45x45 45x42 47x42 47x39 50x39 50x36 53x36 56x33 "
    "60x33 61x30 64x30 67x28 70x28 73x25 75x25 78x25 81x22 84x22 87x22 90x22"
)
_2880_KEYS = (
    "0.25 0.26 0.27 0.28 0.32 0.33 0.34 0.40 0.42 0.47 0.49 0.51 0.55 0.59 0.68 0.72 0.78 0.83 0.89 0.93 "
    "1.00 1.07 1.12 1.21 1.28 1.39 1.47 1.70 1.82 2.03 2.13 2.39 2.50 2.92 3.00 3.12 3.68 3.82 3.95 4.00"
)

_NUM_PIXELS: dict[str, int] = {
    "144p": 144 * 256,
    "256": 256 * 256,
    "240p": 240 * 426,
    "360p": 360 * 640,
    "512": 512 * 512,
    "480p": 480 * 854,
    "720p": 720 * 1280,
    "1024": 1024 * 1024,
    "1080p": 1080 * 1920,
    "2k": 1440 * 2560,
    "2048": 2048 * 2048,
    "2880": 2880 * 2880,
    "4k": 2160 * 3840,
}

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

RESOLUTIONS: tuple[str, ...] = tuple(_NUM_PIXELS)
ASPECT_RATIOS: tuple[str, ...] = tuple(ASPECT_RATIO_MAP)
DURATIONS: tuple[str, ...] = tuple(NUM_FRAMES_MAP)


def get_image_size(resolution: str | int, ratio: str) -> Size:
    """Return (height, width) in pixels of a resolution ("720p", "512") at an aspect ratio ("9:16", height:width).

    The square resolutions have only the ratios that their tables share with the video ones.

    Raises:
        ValueError: the resolution is unknown, or does not have this ratio.
    """
    table = ratio_table(resolution)
    key = ASPECT_RATIO_MAP.get(ratio) if isinstance(ratio, str) else None
    if key not in table:
        available = [name for name, name_key in ASPECT_RATIO_MAP.items() if name_key in table]
        raise ValueError(
            f"resolution '{resolution}' has no aspect ratio {ratio!r} (height:width): "
            f"use {_nearest_ratio_hint(ratio, available)}one of {', '.join(available)}"
        )
    return table[key]


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


def get_num_pixels(resolution: str | int) -> int:
    """Return the number of pixels per frame that a resolution stands for.

    Raises:
        ValueError: the resolution is unknown.
    """
    return _NUM_PIXELS[_checked_resolution(resolution)]


def ratio_table(resolution: str | int) -> dict[str, Size]:
    """Return all sizes of a resolution: key (height / width with two decimals) -> (height, width) in pixels.

    Raises:
        ValueError: the resolution is unknown.
    """
    name = _checked_resolution(resolution)
    if name in _VIDEO_SIZES:
        return dict(zip(ASPECT_RATIO_MAP.values(), _parse_sizes(_VIDEO_SIZES[name]), strict=True))
    if name == "2880":
        return dict(zip(_2880_KEYS.split(), _parse_sizes(_2880_SIZES, unit=64), strict=True))
    sizes = _parse_sizes(_SQUARE_SIXTEENTHS, unit=int(name) // 16)
    return {f"{height / width:.2f}": (height, width) for height, width in sizes}


def get_closest_ratio(height: float, width: float, ratios: Iterable[str]) -> str:
    """Return the key among `ratios` (such as `ratio_table("720p")`) whose value is nearest to height / width."""
    return min(ratios, key=lambda key: abs(float(key) - height / width))


def get_h_w(a: float, ts: int, eps: float = 1e-4) -> Size:
    """Return an even (height, width) of about `ts` pixels with height / width about `a`, for ratios not in a table."""
    height = _even_neighbor(math.sqrt(ts * a) + eps)
    return height, _even_neighbor(height / a + eps)


def _even_neighbor(value: float) -> int:
    """Return the even one of floor and ceil, which differ by one: the caller's eps avoids whole numbers."""
    return math.ceil(value) if math.ceil(value) % 2 == 0 else math.floor(value)


def _parse_sizes(text: str, unit: int = 1) -> list[Size]:
    pairs = (item.split("x") for item in text.split())
    return [(int(height) * unit, int(width) * unit) for height, width in pairs]


def _checked_resolution(resolution: str | int) -> str:
    name = str(resolution)  # configs and command lines turn 512 into an int
    if name not in _NUM_PIXELS:
        similar = difflib.get_close_matches(name.lower(), RESOLUTIONS, n=2)
        hint = f"did you mean {' or '.join(similar)}? Valid are" if similar else "use one of"
        raise ValueError(f"unknown resolution {name!r}: {hint} {', '.join(RESOLUTIONS)}")
    return name


def _nearest_ratio_hint(ratio: object, available: list[str]) -> str:
    """Return text such as "3:2 (the nearest), or " for a well-formed ratio, else ""."""
    try:
        height, width = (float(side) for side in str(ratio).split(":"))
        nearest = min(available, key=lambda name: abs(float(ASPECT_RATIO_MAP[name]) - height / width))
    except (ValueError, ZeroDivisionError):
        return ""
    return f"{nearest} (the nearest), or "
