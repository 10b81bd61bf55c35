"""What became of one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adacache.trace import SummaryRow, Trace, summary_table
from opensora.prompts.run_prompts import NumberedPrompt


@dataclass(frozen=True)
class SampleResult:
    """What one prompt became under one seed.

    ``trace`` is None when every step was computed without a controller; of several loops it is the first one's, and
    ``later_traces`` has the others. ``num_steps`` counts the steps of all loops. ``risk`` (``change_risk``) is there
    for drafts only. ``files`` are all that was written, the video among them.
    """

    prompt: NumberedPrompt
    video: Path
    num_steps: int
    seconds: float
    trace: Trace | None
    risk: float | None = None
    files: tuple[Path, ...] = ()
    later_traces: tuple[Trace, ...] = ()

    def summary_row(self) -> SummaryRow:
        """This sample's line of the final table."""
        savings = [trace.estimated_saving for trace in self._traces]
        saving = sum(savings) / len(savings) if savings and None not in savings else None
        return SummaryRow(self.video.name, self.num_computed, self.num_steps, self.seconds, saving, self.risk)

    @property
    def num_computed(self) -> int:
        """How many steps were computed."""
        return sum(trace.num_computed for trace in self._traces) if self._traces else self.num_steps

    @property
    def _traces(self) -> tuple[Trace, ...]:
        return () if self.trace is None else (self.trace, *self.later_traces)


def results_table(results: Sequence[SampleResult]) -> str:
    """The table a run ends with: video, computed steps, seconds, estimated saving; of drafts also the risk."""
    return summary_table([result.summary_row() for result in results])
