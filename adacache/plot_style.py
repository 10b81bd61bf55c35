"""One look for all charts of the project: draw them inside `with matplotlib.rc_context(STYLE):`.

The picture of a trace (`adacache.trace_plot`) has the same colors, but sets its style itself.
"""

from adacache.trace_plot import COMPUTED, FAINT, INK, MOTION, REUSED, SANS

STYLE = {
    "font.family": SANS,
    "font.size": 9.5,
    "text.color": INK,
    "figure.facecolor": "white",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    # Blue and orange are for what is compared, the others for what accompanies it; all differ in grayscale, too.
    "axes.prop_cycle": f"cycler('color', {[COMPUTED, MOTION, '#0f766e', '#9333ea', FAINT]!r})",
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "savefig.dpi": 130,
}

__all__ = ["COMPUTED", "FAINT", "INK", "MOTION", "REUSED", "STYLE"]
