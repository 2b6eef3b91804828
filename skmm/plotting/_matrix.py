"""Panels as heat maps, rows and columns ordered by modality."""

from typing import Any

import numpy as np

from skmm.plotting._graph import panel_side
from skmm.plotting._panels import Nodes, Panel
from skmm.plotting._style import INK, diverging_map, font, look

BACKDROP = "0.85"  # an edge that all classes share, in the panel of one class
STRIP = 0.022  # distance of the modality's strip from the map, in shares of the axes


def draw_frame(axis: Any, nodes: Nodes, label_nodes: bool) -> None:
    """Everything around a map, so that its size is known before the map is drawn."""
    draw_borders(axis, nodes)
    draw_ticks(axis, nodes, label_nodes)


def hide_inner_labels(axes: Any) -> None:
    """In a grid of panels, label the rows at its left and the columns below it."""
    cells = [axis.get_subplotspec() for axis in axes]
    lowest = {cell.colspan.start: cell.rowspan.start for cell in cells}
    for axis, cell in zip(axes, cells, strict=True):
        axis.tick_params(
            labelleft=cell.colspan.start == 0,
            labelbottom=cell.rowspan.start == lowest[cell.colspan.start],
        )


def draw_matrices(
    axes: Any, panels: list[Panel], nodes: Nodes, vmax: float
) -> list[Any]:
    """Draw every panel with one colour scale; return the images."""
    return [
        draw_matrix(axis, panel, nodes.order, vmax)
        for axis, panel in zip(axes, panels, strict=True)
    ]


def draw_matrix(axis: Any, panel: Panel, order: np.ndarray, vmax: float) -> Any:
    """One heat map; what is no edge stays white, what is shared is grey."""
    from matplotlib.colors import ListedColormap

    rho = panel.rho[np.ix_(order, order)]
    if panel.shared is not None:
        shared = panel.shared[np.ix_(order, order)]
        axis.imshow(
            np.ma.masked_where(~shared, np.ones_like(rho)),
            cmap=ListedColormap([BACKDROP]),
            interpolation="none",
        )
        rows, columns = np.nonzero(shared & (rho != 0))
        cell = panel_side(axis) / len(rho)
        size = np.clip(0.28 * cell, 0.5, 3) ** 2
        axis.scatter(columns, rows, s=size, color=INK, linewidths=0, zorder=3)
    return axis.imshow(
        np.ma.masked_equal(rho, 0),
        cmap=diverging_map(),
        vmin=-vmax,
        vmax=vmax,
        interpolation="none",
    )


def draw_borders(axis: Any, nodes: Nodes) -> None:
    """Lines between modalities, and strips in their colours left and below."""
    from matplotlib.collections import LineCollection

    n_nodes = len(nodes.codes)
    axis.set(xlim=(-0.5, n_nodes - 0.5), ylim=(n_nodes - 0.5, -0.5))
    axis.spines[:].set(linewidth=0.5, color="0.5")
    if nodes.names is None:
        return
    ends = np.cumsum(np.bincount(nodes.codes)) - 0.5
    for end in ends[:-1]:
        axis.axhline(end, color="0.5", linewidth=0.5)
        axis.axvline(end, color="0.5", linewidth=0.5)
    starts = np.concatenate([[-0.5], ends[:-1]])
    colours = [look(code)["color"] for code in range(len(ends))]
    for transform, places in (
        (axis.get_yaxis_transform(), lambda a, b: [(-STRIP, a), (-STRIP, b)]),
        (axis.get_xaxis_transform(), lambda a, b: [(a, -STRIP), (b, -STRIP)]),
    ):
        axis.add_collection(
            LineCollection(
                [places(a, b) for a, b in zip(starts, ends, strict=True)],
                colors=colours,
                linewidths=2.5,
                capstyle="butt",
                transform=transform,
                clip_on=False,
            ),
            autolim=False,
        )


def draw_ticks(axis: Any, nodes: Nodes, label_nodes: bool) -> None:
    """Labels of the nodes, or only the modalities' names in the middle of theirs."""
    counts = np.bincount(nodes.codes)
    if label_nodes:
        places = np.arange(len(nodes.codes))
        labels = [nodes.labels[node] for node in nodes.order]
        size = np.clip(0.8 * panel_side(axis) / len(labels), 4, 7)
    else:
        places = np.cumsum(counts) - counts / 2 - 0.5
        labels = nodes.names or []
        places, size = places[: len(labels)], 7
    axis.set_xticks(places, labels, rotation=90 if label_nodes else 0)
    axis.set_yticks(places, labels)
    if not label_nodes:
        axis.tick_params(axis="y", labelrotation=90)
        for text in axis.get_yticklabels():
            text.set(va="center")
    axis.tick_params(length=0, pad=7, labelsize=font(size), labelcolor=INK)


def support_handles(panels: list[Panel]) -> list[Any]:
    """What a legend says of the marks in the classes' panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if all(panel.shared is None for panel in panels):
        return []
    dot = {"linestyle": "none", "marker": "o", "markersize": font(3), "color": INK}
    return [
        Patch(color=BACKDROP, label="shared"),
        Line2D([], [], label="shared, changed", **dot),
    ]
