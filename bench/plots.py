"""The pictures of the report, drawn by matplotlib: bars of peers, and curves.

Colours say what an append survives; both axes of curves are logarithmic, and so are bars.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.ratios import Lines, time_text
from bench.turns import DISK, KERNEL, MEMORY

PEERS_PREFIX = "peers: "
_CURVES_PREFIX = "scaling: "
_COLOURS = {MEMORY: "#b8b8b8", KERNEL: "#7aa6d8", DISK: "#d98c5f"}
_OWN = "#1a4f8b"
_ACROSS = 2  # pictures side by side


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds for a record, at each x, of one line."""

    title: str
    unit: str
    name: str
    points: tuple[tuple[int, float], ...]


def peer_groups(lines: Lines) -> list[str]:
    """Return the races against peers, in the order in which they were run."""
    return list(dict.fromkeys(group for group, _ in lines if group.startswith(PEERS_PREFIX)))


def read_curves(result: dict[str, Any]) -> list[Curve]:
    """Return the curves of a result."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for benchmark in result["benchmarks"]:
        if benchmark["group"].startswith(_CURVES_PREFIX):
            extra = benchmark["extra_info"]
            for name, line in extra["lines"].items():
                key = benchmark["group"].removeprefix(_CURVES_PREFIX), extra["unit"], name
                found.setdefault(key, {})[extra["x"]] = line["seconds"] / line["records"]
    return [Curve(*key, points=tuple(sorted(points.items()))) for key, points in found.items()]


def draw_peers(lines: Lines) -> str:
    """Return bars of each race against peers as SVG, "" when there are none."""
    groups = peer_groups(lines)
    if not groups:
        return ""
    figure, axes = _subplots(len(groups), height=3.1)
    for axis, group in zip(axes, groups, strict=False):
        bars = sorted(
            ((line.seconds / line.records * 1e9, name, line.durability)
             for (other, name), line in lines.items() if other == group),
            reverse=True,
        )  # fmt: skip
        colours = [
            _OWN if name == "pylog" else _COLOURS[durability] for _, name, durability in bars
        ]
        times = [time for time, _, _ in bars]
        drawn = axis.barh([name for _, name, _ in bars], times, color=colours)
        labels = [time_text(time / 1e9) for time in times]
        axis.bar_label(drawn, labels, fontsize=7, padding=2)
        axis.set_xscale("log")
        # From a third of the best on: a bar's length begins nowhere on a logarithmic axis.
        axis.set_xlim(left=times[-1] / 3, right=times[0] * 4)  # and room for the slowest's label
        axis.xaxis.set_minor_formatter("")
        axis.set_title(group.removeprefix(PEERS_PREFIX), fontsize=10, loc="left")
        axis.set_xlabel("ns for a record (less is better)", fontsize=8)
        axis.tick_params(labelsize=8)
    legend = {"pylog": _OWN, "survives kill -9": _COLOURS[KERNEL]}
    legend |= {"survives power loss": _COLOURS[DISK], "memory only": _COLOURS[MEMORY]}
    handles = [_patch(colour, name) for name, colour in legend.items()]
    figure.legend(handles=handles, loc="lower right", fontsize=9, frameon=False, ncols=2)
    return _svg(figure)


def draw_curves(curves: Sequence[Curve]) -> str:
    """Return the curves as SVG, one picture for what was varied, "" when there are none."""
    titles = list(dict.fromkeys((curve.title, curve.unit) for curve in curves))
    if not titles:
        return ""
    figure, axes = _subplots(len(titles), height=3.4)
    for axis, (title, unit) in zip(axes, titles, strict=False):
        for curve in curves:
            if curve.title == title:
                at, seconds = zip(*curve.points, strict=True)
                times = [one * 1e9 for one in seconds]
                axis.plot(at, times, marker="o", markersize=3, label=curve.name)
        axis.set_xscale("log")
        axis.set_yscale("log")
        xs = sorted({x for curve in curves if curve.title == title for x, _ in curve.points})
        axis.set_xticks(xs, [_short(x) for x in xs])
        axis.xaxis.set_minor_formatter("")
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel(unit, fontsize=8)
        axis.set_ylabel("ns for a record, or a call", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize=7, frameon=False)
    return _svg(figure)


def _subplots(count: int, *, height: float) -> tuple[Any, list[Any]]:
    """Return a figure and so many places in it; the ones that are left are empty."""
    from matplotlib.figure import Figure

    rows = -(-count // _ACROSS)
    figure = Figure(figsize=(5.6 * _ACROSS, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, _ACROSS, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    for axis in axes[:count]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _short(x: int) -> str:
    """Return a number as it stands at an axis."""
    for unit, name in ((10**6, "M"), (1 << 20, "Mi"), (1 << 10, "Ki"), (10**3, "k")):
        if x >= unit and x % unit == 0:
            return f"{x // unit} {name}"
    return str(x)


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _svg(figure: Any) -> str:
    """Return a figure as SVG; the same one gives the same text."""
    import matplotlib as mpl

    text = io.StringIO()
    # Text stays text, so that it can be searched for, and the file small.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pylog"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
