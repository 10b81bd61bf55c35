"""Look at recorded runs: print one, draw one, or compare two.

A trace is the .json file beside a video that was sampled with a cache.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from adacache.codebook import Codebook
from adacache.trace import StepRecord, Trace
from opensora.cli.arguments import OneLineParser
from opensora.errors import run_command

COMPUTED, REUSED = "#", "."


def strip(trace: Trace) -> str:
    """Return one character per step: computed or reused."""
    return "".join(COMPUTED if record.computed else REUSED for record in trace.records)


def number(value: float | None) -> str:
    """Format a measured value, or a dash for None."""
    return "-" if value is None else f"{value:.4f}"


def decision(record: StepRecord) -> str:
    """Name what happened in a step; "joined" means computed because other frames took part than before."""
    return "reused" if not record.computed else "joined" if record.joined else "computed"


def show(path: Path) -> str:
    """Return a line per step and a summary."""
    trace = Trace.load(path)
    in_parts = any(record.computed_share is not None for record in trace.records)
    branches = f" {'branches':>9}" if in_parts else ""
    lines = [
        f"{'step':>4} {'timestep':>9} {'':<8} {'distance':>9} {'value':>9} {'motion':>9} "
        f"{'bridge':>6} {'rate':>5} {'ms':>8}{branches}"
    ]
    for record in trace.records:
        timestep = "-" if record.timestep is None else f"{record.timestep:.1f}"
        lines.append(
            f"{record.index + 1:>4} {timestep:>9} {decision(record):<8} "
            f"{number(record.distance):>9} {number(record.value):>9} {number(record.motion_score):>9} "
            f"{'-' if record.bridge_weight is None else f'{record.bridge_weight:.2f}':>6} "
            f"{'-' if record.rate is None else record.rate:>5} "
            f"{'-' if record.milliseconds is None else f'{record.milliseconds:.1f}':>8}"
            + (f" {record.computed_share:>9.0%}" if record.computed_share is not None else "")
        )
    speedup = trace.estimated_speedup
    lines.append(f"{strip(trace)}  {trace.num_computed} of {trace.num_steps} steps computed")
    if in_parts:
        computed = sum(1 if r.computed_share is None else r.computed_share for r in trace.records)
        lines.append(f"their branches were computed as often as in {computed:.1f} steps")
    if speedup is not None:
        lines.append(f"estimated speedup of the blocks {speedup:.2f}x")
    if isinstance(trace.metadata.get("loop"), int):
        lines.append(f"this is clip {trace.metadata['loop'] + 1} of the video; the others are beside it")
    lines.append("steps are counted from 1 here, and from 0 in lists of configs and in .json files")
    return "\n".join(lines)


def _numbers(steps: Sequence[int]) -> str:
    """List steps counted from 1."""
    return ", ".join(str(step + 1) for step in steps) or "none"


def draw(path: Path, output: Path | None) -> str:
    """Write the plot of a trace, with the thresholds of its codebook if it recorded one."""
    from adacache.trace_plot import plot_trace

    trace = Trace.load(path)
    config = trace.metadata.get("config")
    cache = config.get("cache") if isinstance(config, Mapping) else None
    cache = cache if isinstance(cache, Mapping) else {}
    codebook = Codebook.from_value(cache["codebook"]) if "codebook" in cache else None
    output = output or path.with_suffix(".plot.png")  # .trace.png is the picture that the run itself wrote
    plot_trace(trace, output, codebook, trace.metadata.get("prompt"), threshold=cache.get("threshold"))
    return f"wrote {output}"


def diff(first: Path, second: Path) -> str:
    """Compare two traces: both schedules, the steps in which they differ, and how far their distances are apart.

    Raises:
        ValueError: the runs had different numbers of steps.
    """
    a, b = Trace.load(first), Trace.load(second)
    if a.num_steps != b.num_steps:
        raise ValueError(f"{first} has {a.num_steps} steps and {second} has {b.num_steps}; compare runs of one length")
    only_a, only_b = (sorted(set(x.computed_steps) - set(y.computed_steps)) for x, y in ((a, b), (b, a)))
    pairs = [
        (x.distance, y.distance)
        for x, y in zip(a.records, b.records, strict=False)
        if x.distance is not None and y.distance is not None
    ]
    lines = [
        f"{strip(a)}  {a.num_computed} computed  {first}",
        f"{strip(b)}  {b.num_computed} computed  {second}",
        f"computed in the first only: {_numbers(only_a)}",
        f"computed in the second only: {_numbers(only_b)}",
    ]
    if pairs:
        largest = max(abs(x - y) for x, y in pairs)
        lines.append(f"distances measured in both: {len(pairs)}, largest difference {largest:.4f}")
    return "\n".join(lines)


def main() -> int:
    """Run the command and return its exit code."""
    parser = OneLineParser(
        description=__doc__,
        epilog="examples: %(prog)s show sample_0000.json; %(prog)s diff first.json second.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("show", help="print every step")
    command.add_argument("trace", type=Path)
    command = commands.add_parser("plot", help="draw the trace")
    command.add_argument("trace", type=Path)
    command.add_argument("--output", type=Path, help=".png, .svg or .pdf (default: beside the trace)")
    command = commands.add_parser("diff", help="compare two runs")
    command.add_argument("first", type=Path)
    command.add_argument("second", type=Path)
    options = parser.parse_args()
    return run_command(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Print what was asked for; return exit code 1 if a file cannot be used."""
    try:
        if options.command == "show":
            text = show(options.trace)
        elif options.command == "plot":
            text = draw(options.trace, options.output)
        else:
            text = diff(options.first, options.second)
    except OSError as error:
        print(f"error: cannot use {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0
