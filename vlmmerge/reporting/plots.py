"""Plots as SVG text: pure functions of a journal."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlmmerge.anatomy import RECIPIENT
from vlmmerge.search import Journal
from vlmmerge.search.records import BASELINE, CANDIDATE, is_ok

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2430", "#8a93a6", "#e6e9f0"
BEST, UNIFORM = "#c2410c", "#0f766e"


def search_plot(journal: Journal) -> str:
    """Every candidate's objective in the order scored, and the best so far."""
    rows = journal.evaluations(CANDIDATE)
    uniforms = [row for row in journal.evaluations(BASELINE) if row["objective"] is not None]
    figure, axes = _figure(7.2, 3.0)
    good = [(i, row["objective"]) for i, row in enumerate(rows, 1) if is_ok(row)]
    best: list[float] = []
    for _, value in good:
        best.append(max(value, best[-1]) if best else value)
    low = min([0.0, *best[:1]]) - 0.15 * (max([*best, 0.1]) - min([0.0, *best[:1]]))
    axes.scatter(
        [i for i, _ in good], [max(v, low) for _, v in good], s=9, color=MUTED, label="candidate"
    )
    axes.step([i for i, _ in good], best, where="post", color=BEST, lw=2, label="best so far")
    if uniforms:
        top = max(row["objective"] for row in uniforms)
        axes.axhline(top, color=UNIFORM, lw=1.5, ls="--", label="best uniform merge")
    axes.axhline(0, color=INK, lw=1, ls=":", label=RECIPIENT)
    axes.set_xlabel("candidate")
    axes.set_ylabel("objective on the search sample")
    axes.set_ylim(bottom=low)
    axes.legend(
        frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), borderpad=0
    )
    return _svg(figure)


def coefficient_plot(recipe: Mapping[str, Any], cells: list[str]) -> str:
    """A searched recipe's weights by cell (columns) and source (rows), as a heat map."""
    from vlmmerge.anatomy import Cell
    from vlmmerge.recipes.groups import lookup

    columns = [_cell(Cell, text) for text in cells]
    names = _rows(recipe)
    values = [[float(lookup(by, cell, name)) for cell in columns] for name, by in names.items()]
    figure, axes = _figure(max(4.8, 0.42 * len(columns) + 1.6), 0.62 * len(values) + 1.3)
    top = max(1.0, *(abs(v) for row in values for v in row))
    shown = axes.imshow(values, cmap="PuOr_r", vmin=1 - top, vmax=1 + top, aspect="auto")
    axes.set_yticks(range(len(names)), list(names))
    axes.set_xticks(range(len(columns)), cells, rotation=60, ha="right", fontsize=8)
    axes.tick_params(length=0)
    axes.grid(False)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            light = abs(value - 1) > 0.7 * top
            axes.text(
                x,
                y,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color="w" if light else INK,
            )
    for side in axes.spines.values():
        side.set_visible(False)
    figure.colorbar(shown, ax=axes, pad=0.02, fraction=0.03)
    return _svg(figure)


def _rows(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Parameter tables of a recipe: `ja weight` -> numbers; one row where there is nothing else."""
    found = {
        f"{source} {parameter}": by
        for source, values in recipe["coefficients"].items()
        for parameter, by in values.items()
    }
    found |= {
        name: by
        for name, by in recipe["shared"].items()
        if isinstance(by, Mapping) or type(by) is float
    }
    return found or {"weight": 1.0}


def _cell(cell: type[Any], text: str) -> Any:
    layer, _, module = text.removeprefix("layers.").rpartition(".")
    return cell(int(layer) if layer else None, module)


def _figure(width: float, height: float) -> "tuple[Figure, Any]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8)
    for name in ("top", "right"):
        axes.spines[name].set_visible(False)
    for name in ("left", "bottom"):
        axes.spines[name].set_color(MUTED)
    return figure, axes


def _svg(figure: "Figure") -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    # Text stays text; a fixed salt and no date make the same figure the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vlmmerge"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
