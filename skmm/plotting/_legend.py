"""Legends and the colour bar, stacked beside the panels."""

from typing import Any

import numpy as np

from skmm.plotting._panels import Nodes
from skmm.plotting._style import INK, font, look

LINE = 1.5  # height of a row in font sizes
SPACE = 10  # points between two legends
BAR = (90, 7)  # points, height and width of the colour bar


def modality_handles(nodes: Nodes) -> list[Any]:
    """One marker for each modality."""
    from matplotlib.lines import Line2D

    style = {"linestyle": "none", "markersize": font(5), "markeredgewidth": 0}
    return [
        Line2D([], [], label=name, **style, **look(code))
        for code, name in enumerate(nodes.names or [])
    ]


def draw_legends(
    host: Any, left: float, groups: dict[str, list[Any]]
) -> tuple[list[Any], float]:
    """Stack legends from the top of the host axes; return them and their lower end.

    Parameters
    ----------
    host : Axes
        The axes that the legends belong to.
    left : float
        Their left edge, in shares of the host's width.
    groups : dict of str to list of Artist
        Title and entries of each; those without entries are left out.
    """
    from matplotlib.legend import Legend

    size, legends, top = font(7), [], 1.0
    height = host.get_window_extent().height * 72 / host.figure.dpi
    for title, handles in groups.items():
        if not handles:
            continue
        rows = max(int(0.5 * height / (LINE * size)), 1)
        legend = Legend(
            host,
            handles,
            [handle.get_label() for handle in handles],
            title=title,
            loc="upper left",
            bbox_to_anchor=(left, top),
            ncols=-(-len(handles) // rows),
            alignment="left",
            frameon=False,
            fontsize=size,
            title_fontsize=size,
            labelcolor=INK,
            handlelength=2.4,
            columnspacing=1.0,
            borderpad=0,
            borderaxespad=0,
        )
        legend.get_title().set_color(INK)
        host.add_artist(legend)
        # Clipped artists have no say in the layout, and add_artist clips.
        legend.set_clip_on(False)
        legends.append(legend)
        box = legend.get_window_extent().transformed(host.transAxes.inverted())
        top = box.y0 - SPACE / height
    return legends, top


def draw_colour_bar(host: Any, left: float, top: float, image: Any, title: str) -> Any:
    """A short vertical colour bar whose title is above it, as in the legends."""
    box = host.get_window_extent()
    points = np.array([box.width, box.height]) * 72 / host.figure.dpi
    height, width = BAR[0] / points[1], BAR[1] / points[0]
    room = 1.6 * font(7) / points[1]  # for the title
    place = host.inset_axes([left, top - room - height, width, height])
    bar = host.figure.colorbar(image, cax=place)
    place.set_title(title, loc="left", fontsize=font(7), color=INK)
    place.tick_params(labelsize=font(7), labelcolor=INK, length=2, width=0.5)
    bar.outline.set_linewidth(0.5)
    return bar
