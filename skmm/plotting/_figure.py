"""New figures: a grid of panels, and a column for legends; or axes that are given."""

from typing import Any

import numpy as np

from skmm.plotting._panels import FEW, Nodes
from skmm.plotting._style import font, text_width

PANEL = 2.9, 4.0  # inches, the least and the most
LEGENDS = 1.2


def panel_inches(nodes: Nodes, kind: str) -> float:
    """Side of a panel: wider where long labels would leave little for the rest."""
    longest = max(text_width(label, font(7)) for label in nodes.labels) / 72
    if kind == "matrix":
        side = 2.4 + longest * (len(nodes.labels) <= FEW)
    else:
        # More nodes need a wider circle, and their labels stand off it.
        side = (2.0 if len(nodes.labels) <= FEW else 2.5) + 2 * longest
    return float(np.clip(side, *PANEL))


def new_axes(n_panels: int, side: float, legend: bool) -> tuple[np.ndarray, Any]:
    """Axes for the panels, and one for the legends (None without them)."""
    import matplotlib.pyplot as plt

    n_columns = 2 if n_panels == 4 else min(n_panels, 3 if n_panels <= 9 else 4)
    n_rows = -(-n_panels // n_columns)
    widths = [side] * n_columns + [LEGENDS] * bool(legend)
    figure = plt.figure(
        figsize=(sum(widths), (side + 0.2) * n_rows), layout="constrained"
    )
    # Room for the strips of the modalities, which the layout does not know of.
    figure.get_layout_engine().set(w_pad=0.07, h_pad=0.07)
    grid = figure.add_gridspec(n_rows, len(widths), width_ratios=widths)
    places = [grid[divmod(k, n_columns)] for k in range(n_panels)]
    axes = np.array([figure.add_subplot(place) for place in places])
    if not legend:
        return axes, None
    host = figure.add_subplot(grid[0, -1])
    host.axis("off")
    return axes, host


def settle(figure: Any) -> None:
    """Let the layout engine place the axes, so that they can be measured."""
    figure.canvas.figure.draw_without_rendering()  # of a subfigure: the whole


def widen(host: Any, legends: list[Any]) -> None:
    """Make a new figure, and its last column, as wide as the legends need."""
    figure = host.figure
    right = max((one.get_window_extent().x1 for one in legends), default=0.0)
    missing = right / figure.dpi + 0.05 - figure.get_figwidth()
    if missing > 0:
        grid = host.get_gridspec()
        *panels, last = grid.get_width_ratios()
        grid.set_width_ratios([*panels, last + missing])
        figure.set_size_inches(figure.get_figwidth() + missing, figure.get_figheight())


def check_axes(ax: Any, n_panels: int, fewer: str) -> np.ndarray:
    """The given axes in a row, one for each panel; `fewer` says what to choose."""
    from matplotlib.axes import Axes

    axes = np.ravel(np.asarray(ax, dtype=object))
    wrong = [one for one in axes if not isinstance(one, Axes)]
    if wrong:
        raise TypeError(
            "ax: expected matplotlib Axes or a list of them, got "
            f"{type(wrong[0]).__name__}. Pass what plt.subplots gives."
        )
    if len(axes) != n_panels:
        raise ValueError(
            f"ax: expected {n_panels} Axes, one for each panel, got {len(axes)}. Pass "
            f"those of plt.subplots(1, {n_panels}), choose {fewer}, or leave ax out."
        )
    return axes
