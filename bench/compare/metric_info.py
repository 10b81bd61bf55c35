"""The names and units of the metrics, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MetricInfo:
    """One metric as a table shows it.

    Attributes:
        key: its name in results.
        unit: "" for a number without one.
        digits: number of digits after the decimal point.
        better: "zero" if a value on either side of 0 is worse.
        about: one sentence, with the variant that is computed.
    """

    key: str
    title: str
    unit: str
    digits: int
    better: Literal["higher", "lower", "zero"]
    about: str

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}".rstrip()


METRICS = {
    info.key: info
    for info in (
        MetricInfo(
            "psnr", "PSNR", "dB", 2, "higher", "of the whole clip's mean squared error; 80 at most, as for equal clips"
        ),
        MetricInfo("ssim", "SSIM", "", 4, "higher", "RGB, Gaussian window 11, sigma 1.5, no padding; mean over frames"),
        MetricInfo(
            "ms_ssim",
            "MS-SSIM",
            "",
            4,
            "higher",
            "5 scales, RGB, Gaussian window up to 11, sigma 1.5; mean over frames",
        ),
        MetricInfo(
            "flicker",
            "flicker",
            "",
            3,
            "zero",
            "mean absolute difference of consecutive frames in 0..255, minus that of the reference",
        ),
        MetricInfo("lpips", "LPIPS", "", 4, "lower", "AlexNet, version 0.1; mean over frames"),
        MetricInfo(
            "caption_items", "caption items", "", 2, "higher", "share of what its caption says that a clip shows"
        ),
        MetricInfo("caption_right", "caption right", "", 2, "higher", "1 if a clip shows everything its caption says"),
    )
}
