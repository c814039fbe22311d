"""The pictures of a sweep's report, as PNGs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from benches.sweep_cells import Setting, varying
from benches.sweep_rows import Row

STALL_MS = 200
FRAME_MS = 40
USE_COLORS = {"ssh": "#2a7f62", "bulk": "#b5541c", "video": "#6a4c93"}

_PERCENTILES = {"p50": ("#12355b", "o", 46), "p90": ("#2e86ab", "D", 34), "p99": ("#c98b0b", "|", 110)}
_DPI = 110
_GRID_COLOR = "#dfe6ea"
_DEFAULTS_COLOR, _WORST_COLOR = "#5c6b78", "#c0392b"
_LABEL_SIZE = 9


def draw_all(rows: Sequence[Row], chosen: dict[str, Row], round_trip: float, one_way: float) -> dict[str, bytes]:
    """PNGs by name, of what was measured. `chosen` is by use: ssh, bulk, video. The delays are those of the line, in ms."""
    figures: dict[str, Figure] = {}
    if "ssh" in chosen:
        figures["ssh"] = _draw_ssh(rows, chosen["ssh"], round_trip)
    if "bulk" in chosen:
        figures["bulk"] = _draw_bulk(rows, chosen["bulk"])
    if "video" in chosen:
        figures["video"] = _draw_video(rows, chosen["video"], one_way)
    if "ssh" in chosen and "video" in chosen:
        figures["samples"] = _draw_samples(rows, chosen["ssh"], chosen["video"])
        if "bulk" in chosen:
            figures["tradeoff"] = _draw_tradeoff(rows, chosen)
    return {name: _as_png(figure) for name, figure in figures.items()}


def _as_png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=_DPI, metadata={"Software": None})
    return target.getvalue()


# --- Rows by their options, a panel for each --buffer


class _Layout:
    """The settings as panels, one for each --buffer, and lines in them, one for each combination of the other options."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.names = [name for name in varying([row.setting for row in rows]) if name != "buffer"]
        self.buffers = list(dict.fromkeys(row.setting.buffer for row in rows))
        self.lines = list(dict.fromkeys(self._line(row) for row in rows))
        self._rows = {(self._line(row), row.setting.buffer): row for row in rows}

    @property
    def labels(self) -> list[str]:
        """Of the lines."""
        return [
            "   ".join(f"{name} {value}" for name, value in zip(self.names, line, strict=True)) or "defaults"
            for line in self.lines
        ]

    def panel(self, buffer: str) -> list[Row | None]:
        """Its rows in the order of the lines; None where there is none."""
        return [self._rows.get((line, buffer)) for line in self.lines]

    def _line(self, row: Row) -> tuple[str, ...]:
        return tuple(getattr(row.setting, name) for name in self.names)


def _short(setting: Setting, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {getattr(setting, name)}" for name in names) or "the defaults"


def _style(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=_LABEL_SIZE, length=3)


def _draw_ranges(axes: Axes, panel: Sequence[Row | None], workload: str, what: str) -> None:
    """Three percentiles of each line on a line."""
    for at, row in enumerate(panel):
        if row is None or isnan(row.value(workload, f"{what} p50 ms")):
            _note(axes, at, "failed" if row is not None and row.failed else "not measured", 0.02, "left")
            continue
        spreads = {name: row.figures[workload, f"{what} {name} ms"] for name in _PERCENTILES}
        axes.plot([spreads["p50"].median, spreads["p99"].median], [at, at], color="#aebdc8", linewidth=2.2, zorder=2)
        for name, (color, marker, size) in _PERCENTILES.items():
            spread, stroke = spreads[name], 2.2 if marker == "|" else 0
            axes.plot([spread.least, spread.most], [at + 0.28, at + 0.28], color=color, linewidth=1.1, alpha=0.7)
            axes.scatter(spread.median, at, s=size, color=color, marker=marker, linewidths=stroke, zorder=3)


def _note(axes: Axes, line: int, text: str, x: float, side: Literal["left", "right"]) -> None:
    """In red, at this share of the width."""
    axes.text(x, line, text, ha=side, va="center", fontsize=8, color=_WORST_COLOR, transform=axes.get_yaxis_transform())


def _mark_lines(axes: Axes, panel: Sequence[Row | None], chosen: Row, color: str) -> None:
    """A band behind what is advised, and one behind the defaults."""
    for at, row in enumerate(panel):
        if row is not None and row is chosen:
            axes.axhspan(at - 0.45, at + 0.45, color=color, alpha=0.2, linewidth=0)
        elif row is not None and row.setting == Setting():
            axes.axhspan(at - 0.45, at + 0.45, color=_DEFAULTS_COLOR, alpha=0.13, linewidth=0)


@dataclass(frozen=True)
class _Ranges:
    """What the panels show: percentiles of a workload, in ms, which are never below `floor`."""

    workload: str
    what: str
    title: str
    floor: float


def _draw_range_panels(all_axes: Sequence[Axes], layout: _Layout, ranges: _Ranges, chosen: Row, color: str) -> None:
    for axes, buffer in zip(all_axes, layout.buffers, strict=True):
        panel = layout.panel(buffer)
        _mark_lines(axes, panel, chosen, color)
        _draw_ranges(axes, panel, ranges.workload, ranges.what)
        if ranges.floor:
            axes.axvline(ranges.floor, color=_DEFAULTS_COLOR, linewidth=1.2, linestyle=":")
        axes.set_title(f"--buffer {buffer}", fontsize=10, loc="left")
        axes.set_xlabel(ranges.title, fontsize=_LABEL_SIZE)
        axes.grid(axis="x", color=_GRID_COLOR)
        _style(axes)
    _set_scale(all_axes, [row for buffer in layout.buffers for row in layout.panel(buffer) if row is not None], ranges)
    all_axes[0].set_yticks(range(len(layout.lines)), layout.labels)
    all_axes[0].set_ylim(len(layout.lines) - 0.4, -0.6)


def _set_scale(all_axes: Sequence[Axes], rows: Sequence[Row], ranges: _Ranges) -> None:
    """The same for all; logarithmic where the values differ much."""
    values = [row.value(ranges.workload, f"{ranges.what} {name} ms") for row in rows for name in _PERCENTILES]
    known = [ranges.floor, *(value for value in values if not isnan(value))]
    low, high = min(known), max(known)
    for axes in all_axes:
        if high > 400 and high > 12 * low:
            axes.set_xscale("symlog", linthresh=10)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set_xlim(0, high * 1.5)
        else:
            axes.set_xlim(max(0.0, low - 0.06 * (high - low)), high + 0.06 * (high - low) + 1)


def _key_of_percentiles(figure: Figure, use: str) -> None:
    marks: list[Any] = [
        Line2D(
            [],
            [],
            color=color,
            marker=marker,
            linestyle="",
            markersize=8,
            markeredgewidth=2.2 if marker == "|" else 0,
            label=name,
        )
        for name, (color, marker, _) in _PERCENTILES.items()
    ]
    marks.append(Patch(color=USE_COLORS[use], alpha=0.25, label=f"advised for {use}"))
    marks.append(Patch(color=_DEFAULTS_COLOR, alpha=0.2, label="defaults"))
    figure.legend(handles=marks, loc="outside upper right", ncols=len(marks), frameon=False, fontsize=9)


def _panels(layout: _Layout, rows_of_panels: int) -> tuple[Figure, list[list[Axes]]]:
    height = 0.9 + rows_of_panels * (0.75 + 0.30 * len(layout.lines))
    figure = Figure(figsize=(max(7.5, 1.8 + 3.3 * len(layout.buffers)), height), layout="constrained")
    grid = figure.subplots(rows_of_panels, len(layout.buffers), sharey=True, sharex="row", squeeze=False)
    return figure, [list(line) for line in grid]


def _draw_ssh(rows: Sequence[Row], chosen: Row, round_trip: float) -> Figure:
    layout = _Layout(rows)
    figure, (all_axes,) = _panels(layout, 1)
    _draw_range_panels(all_axes, layout, _Ranges("echo", "echo", "ms until the echo", round_trip), chosen, USE_COLORS["ssh"])
    _key_of_percentiles(figure, "ssh")
    return figure


def _draw_video(rows: Sequence[Row], chosen: Row, one_way: float) -> Figure:
    layout = _Layout(rows)
    figure, (above, below) = _panels(layout, 2)
    color = USE_COLORS["video"]
    _draw_range_panels(above, layout, _Ranges("stream", "off the beat", f"ms off the beat of {FRAME_MS} ms", 0.0), chosen, color)
    _draw_range_panels(below, layout, _Ranges("stream", "delay", "ms from due to arrived", one_way), chosen, color)
    for axes, buffer in zip(above, layout.buffers, strict=True):
        for at, row in enumerate(layout.panel(buffer)):
            stalls = row.value("stream", "stalls percent") if row is not None else nan
            if stalls > 0:
                _note(axes, at, f"{stalls:.1f} %", 0.995, "right")
    _key_of_percentiles(figure, "video")
    return figure


# --- Bulk: a matrix for each figure


@dataclass(frozen=True)
class _Matrix:
    title: str
    ways: tuple[str, ...]
    figure: str
    colors: str
    least: float
    """Where the colours begin."""
    digits: int


_MATRICES = (
    _Matrix("Mbit/s up", ("up",), "Mbit/s", "viridis", 0, 1),
    _Matrix("Mbit/s down", ("down",), "Mbit/s", "viridis", 0, 1),
    _Matrix("bytes on the line per byte", ("up", "down"), "wire bytes per byte", "YlOrBr", 1, 2),
    _Matrix("connections per MB", ("up", "down"), "connections per MB", "YlOrBr", 0, 0),
)


def _draw_bulk(rows: Sequence[Row], chosen: Row) -> Figure:
    layout = _Layout(rows)
    size = (3.0 + 4 * max(1.9, 0.85 * len(layout.buffers)), 1.5 + 0.34 * len(layout.lines))
    figure = Figure(figsize=size, layout="constrained")
    for axes, matrix in zip(figure.subplots(1, 4, sharey=True), _MATRICES, strict=True):
        panels = [layout.panel(buffer) for buffer in layout.buffers]
        values = np.array([[_mean_of(row, matrix.ways, matrix.figure) for row in line] for line in zip(*panels, strict=True)])
        _draw_matrix(axes, values, matrix)
        axes.set_title(matrix.title, fontsize=10)
        axes.set_xticks(range(len(layout.buffers)), layout.buffers)
        axes.set_yticks(range(len(layout.lines)), layout.labels)
        axes.set_xlabel("--buffer", fontsize=_LABEL_SIZE)
        axes.tick_params(labelsize=_LABEL_SIZE, length=0)
        for column, panel in enumerate(panels):
            for line, row in enumerate(panel):
                if row is not None and row is chosen:
                    _frame(axes, column, line, USE_COLORS["bulk"])
    figure.suptitle("framed: advised for bulk", fontsize=9, x=0.995, ha="right", color=USE_COLORS["bulk"])
    return figure


def _mean_of(row: Row | None, ways: Sequence[str], name: str) -> float:
    return sum(row.value(way, name) for way in ways) / len(ways) if row is not None else nan


def _draw_matrix(axes: Axes, values: Any, matrix: _Matrix) -> None:
    high = float(np.max(values, initial=matrix.least + 0.1, where=~np.isnan(values)))
    image = axes.imshow(values, cmap=matrix.colors, aspect="auto", vmin=matrix.least, vmax=high)
    axes.set_facecolor("#eeeeee")
    for (line, column), value in np.ndenumerate(values):
        if isnan(value):
            axes.text(column, line, "–", ha="center", va="center", fontsize=9, color="#a61e1e")
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        ink = "white" if dark else "#1a2530"
        axes.text(column, line, f"{value:.{matrix.digits}f}", ha="center", va="center", fontsize=9, color=ink)


def _frame(axes: Axes, column: int, line: int, color: str) -> None:
    axes.add_patch(Rectangle((column - 0.48, line - 0.48), 0.96, 0.96, fill=False, edgecolor=color, linewidth=3))


# --- Single samples, and all in one


def _to_compare(rows: Sequence[Row], chosen: Row, workload: str, name: str) -> list[tuple[str, Row, str]]:
    """What is chosen, the defaults and the worst, with a colour each; none twice."""
    names = varying([row.setting for row in rows])
    worst = max((row for row in rows if not isnan(row.value(workload, name))), key=lambda row: row.value(workload, name))
    use = "ssh" if workload == "echo" else "video"
    found = [(f"advised: {_short(chosen.setting, names)}", chosen, USE_COLORS[use])]
    default = next((row for row in rows if row.setting == Setting()), None)
    if default is not None and default is not chosen and not isnan(default.value(workload, name)):
        found.append(("the defaults", default, _DEFAULTS_COLOR))
    if all(row is not worst for _, row, _ in found):
        found.append((f"worst: {_short(worst.setting, names)}", worst, _WORST_COLOR))
    return found


def _draw_samples(rows: Sequence[Row], for_ssh: Row, for_video: Row) -> Figure:
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.4])
    left, right = halves
    _draw_shares(left.subplots(), _to_compare(rows, for_ssh, "echo", "echo p90 ms"))
    compared = _to_compare(rows, for_video, "stream", "off the beat p99 ms")
    all_axes = right.subplots(len(compared), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (label, row, color) in zip(all_axes, compared, strict=True):
        _draw_gaps(axes, label, row.samples["stream", "gap ms"], color)
    all_axes[-1].set_xlabel("frame", fontsize=_LABEL_SIZE)
    right.supylabel("ms since the frame before", fontsize=_LABEL_SIZE)
    return figure


def _draw_shares(axes: Axes, compared: Sequence[tuple[str, Row, str]]) -> None:
    for label, row, color in compared:
        times = sorted(row.samples["echo", "echo ms"])
        shares = [(at + 1) / len(times) * 100 for at in range(len(times))]
        axes.step([times[0], *times], [0.0, *shares], where="post", color=color, linewidth=2, label=label)
    axes.set_xlabel("ms until a keystroke is echoed", fontsize=_LABEL_SIZE)
    axes.set_ylabel("percent of the keystrokes", fontsize=_LABEL_SIZE)
    axes.set_ylim(0, 101)
    axes.grid(color=_GRID_COLOR)
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    axes.set_title("Keystrokes", fontsize=10, loc="left")
    _style(axes)


def _draw_gaps(axes: Axes, label: str, gaps: Sequence[float], color: str) -> None:
    axes.axhline(FRAME_MS, color=_GRID_COLOR, linewidth=3)
    axes.axhline(STALL_MS, color=_WORST_COLOR, linewidth=1, linestyle=":")
    axes.plot(range(len(gaps)), gaps, color=color, linewidth=1.4)
    axes.set_ylim(0)
    axes.set_title(f"A steady stream, {label}", fontsize=10, loc="left", color=color)
    _style(axes)


def _draw_tradeoff(rows: Sequence[Row], chosen: dict[str, Row]) -> Figure:
    names = varying([row.setting for row in rows])
    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    axes = figure.subplots()
    drawn = [row for row in rows if not any(map(isnan, _position(row)))]
    if drawn:
        _draw_dots(figure, axes, drawn)
    marked = [(use, row, USE_COLORS[use]) for use, row in chosen.items()]
    marked += [("defaults", row, _DEFAULTS_COLOR) for row in rows if row.setting == Setting()]
    for at, (use, row, color) in enumerate(marked):
        label = f"{use}: {_short(row.setting, names)}"
        across, upward, _, _ = _position(row)
        size = 320 * (1 + at) ** 0.9
        axes.scatter(across, upward, s=size, facecolors="none", edgecolors=color, linewidths=2, label=label, zorder=4)
    axes.set_xlabel("ms until 9 of 10 keystrokes are echoed", fontsize=_LABEL_SIZE)
    axes.set_ylabel("Mbit/s of bulk, mean of up and down", fontsize=_LABEL_SIZE)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.06)
    axes.margins(x=0.12)
    axes.grid(color=_GRID_COLOR)
    _style(axes)
    key = figure.legend(loc="outside lower left", frameon=False, fontsize=9, ncols=2)
    for handle in key.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([90])
    return figure


def _draw_dots(figure: Figure, axes: Axes, rows: Sequence[Row]) -> None:
    across, upward, beat, cost = np.array([_position(row) for row in rows]).T
    dots = axes.scatter(across, upward, s=50 * cost**2, c=beat, cmap="BuPu_r", edgecolors="#4a5865", linewidths=0.7, zorder=3)
    bar = figure.colorbar(dots, ax=axes, shrink=0.85)
    bar.set_label("ms off the beat, p99", fontsize=_LABEL_SIZE)
    bar.ax.tick_params(labelsize=_LABEL_SIZE)


def _position(row: Row) -> tuple[float, float, float, float]:
    return (
        row.value("echo", "echo p90 ms"),
        _mean_of(row, ("up", "down"), "Mbit/s"),
        row.value("stream", "off the beat p99 ms"),
        _mean_of(row, ("up", "down"), "wire bytes per byte"),
    )
