"""The picture of a parity document: curves, their distance, and what each unmatched default does."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from engram.support.errors import EngramError
from engram.support.files import write_text
from tools.parity.compare import FIRST_100, FIRST_200

MLX, TORCH, GREY, WARN = "#3b82f6", "#f59e0b", "#8a8f98", "#e5484d"  # readable on white and on black
STYLE = {
    "svg.hashsalt": "engram",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.22,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def write(document: dict[str, Any], path: Path) -> None:
    """Draw a parity document as an SVG, the same bytes for the same numbers; raises EngramError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise EngramError(
            "matplotlib is not installed",
            where="the plot",
            fix="make parity, or in the checkout: pip install '.[plots]'",
        ) from error
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 9.6), layout="constrained")
        columns = list(document["recipes"])
        height = 0.5 + 0.19 * (len(document["deviations"]) + 2)
        parts: Any = figure.subfigures(2, 1, height_ratios=[5.6, height + 0.6])
        upper, lower = parts
        grid = upper.subplots(2, len(columns), sharex="col", sharey="row", squeeze=False, height_ratios=[1, 1.15])
        for column, recipe in enumerate(columns):
            pairs = [pair for pair in document["pairs"] if pair["recipe"] == recipe]
            _curves(grid[0][column], pairs[0], _title(recipe, document["recipes"][recipe]))
            _distance(grid[1][column], pairs)
            if column == 0:
                grid[1][0].legend(
                    loc="upper left", markerscale=2, ncols=len(pairs), columnspacing=1.0, handletextpad=0.2
                )
                _floor(grid[1][column], document["controls"], len(pairs[0]["difference"]))
        highest = max(loss for pair in document["pairs"] for loss in pair["losses"]["mlx"])
        grid[0][0].set_ylim(0, 1.05 * highest)
        grid[0][0].set_ylabel("loss, nats per answer token")
        grid[1][0].set_ylabel("|difference|, nats")
        _defaults(lower.subplots(), document)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    write_text(path, "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n")


def _title(name: str, recipe: dict[str, Any]) -> str:
    return f"recipe {name}: learning rate {recipe['learning_rate']:g}"


def _curves(axes: Any, pair: dict[str, Any], title: str) -> None:
    steps = range(1, len(pair["losses"]["mlx"]) + 1)
    axes.plot(steps, pair["losses"]["mlx"], color=MLX, linewidth=3.2, alpha=0.55, label="MLX")
    axes.plot(steps, pair["losses"]["torch"], color=TORCH, linewidth=1.1, label="Unsloth + TRL")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(axis="y")
    axes.legend(title=f"seed {pair['seed']}", loc="upper right")


def _distance(axes: Any, pairs: list[dict[str, Any]]) -> None:
    last = max(len(pair["difference"]) for pair in pairs)
    for pair, marker in zip(pairs, "o^sv"):
        points = [(step, abs(d)) for step, d in enumerate(pair["difference"], 1) if d]
        axes.scatter(
            *zip(*points), s=7, marker=marker, color=MLX, alpha=0.75, linewidths=0, label=f"seed {pair['seed']}"
        )
    axes.plot([1, min(100, last)], [FIRST_100] * 2, color=WARN, linewidth=1.6)
    axes.plot([min(100, last), last], [FIRST_200] * 2, color=WARN, linewidth=1.6)
    axes.annotate("target", (1, FIRST_100), xytext=(2, -11), textcoords="offset points", color=WARN, fontsize=8.5)
    axes.set_yscale("log")
    axes.set_ylim(5e-8, 1e-1)
    axes.set_xlabel("step")
    axes.grid(axis="y")


def _floor(axes: Any, controls: list[dict[str, Any]], last: int) -> None:
    """How far one backend goes from itself through rounding alone, where that was run."""
    far = [control["curves"] for control in controls]
    if not far or any(one["first_100"] is None for one in far):
        return
    near, whole = (max(one[name] for one in far) for name in ("first_100", "largest"))
    axes.plot([1, 100, 100, last], [near, near, whole, whole], color=GREY, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.annotate(
        *("one backend against itself", (last, whole)),
        **{"xytext": (0, 18), "textcoords": "offset points", "ha": "right", "fontsize": 8.5},
    )


def _defaults(axes: Any, document: dict[str, Any]) -> None:
    """One dot for each default, by size, the matched pair beneath them."""
    recipe = next(iter(document["recipes"]))
    pair = next(pair for pair in document["pairs"] if pair["recipe"] == recipe)
    rows = [(d["title"], d["curves"], d["whose"].split(" ")[0]) for d in document["deviations"]]
    rows.sort(key=lambda row: row[1]["largest"])
    steps = max([row[1]["steps"] for row in rows] or [len(pair["difference"])])
    matched = max(abs(d) for d in pair["difference"][:steps])
    labels = ["everything matched: MLX against Unsloth", *(_label(row, steps) for row in rows)]
    values = [matched, *(row[1]["largest"] for row in rows)]
    colours = [MLX] + [TORCH] * len(rows)
    places = range(len(values))
    axes.hlines(places, 1e-6, values, color=colours, alpha=0.35, linewidth=2)
    axes.scatter(values, places, color=colours, s=34, zorder=3)
    for place, value in zip(places, values):
        shown = f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")
        axes.annotate(shown, (value, place), xytext=(8, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(list(places), labels)
    axes.set_xscale("log")
    axes.set_xlim(1e-6, 30)
    axes.set_ylim(-0.7, len(values) - 0.3)
    axes.grid(axis="x")
    axes.set_xlabel(f"largest difference of the loss over the first {steps} steps, nats")
    axes.set_title("one default left as the stock programs have it", loc="left", fontweight="bold")


def _label(row: tuple[str, dict[str, Any], str], steps: int) -> str:
    title, curves, whose = row
    short = f", {curves['steps']} steps" if curves["steps"] < steps else ""
    return f"{title} ({whose}{short})"
