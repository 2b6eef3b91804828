"""Panels as graphs: nodes on a circle, edges as curves."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from skmm.plotting._circle import TURN, edge_curves, node_angles, on_circle, spread
from skmm.plotting._panels import FEW, Nodes, Panel
from skmm.plotting._style import (
    FAINT,
    INK,
    NEGATIVE,
    POSITIVE,
    font,
    look,
    round_values,
    signed,
    text_width,
)

THINNEST = 0.3  # points
MARGIN = 4  # points
BAND = 1.06  # radius of the arcs that show the extent of the modalities


class EdgeStyle:
    """Width, opacity, colour and dashes of an edge as functions of its value."""

    def __init__(self, panels: list[Panel], vmax: float):
        busiest = max(len(panel.edges[0]) for panel in panels)
        self.vmax = vmax
        # Many edges are drawn thinner and fainter, so that they add up to a texture.
        self.thickest = float(np.clip(3.6 - 0.6 * np.log10(busiest + 1), 1.2, 2.8))
        self.faintest = float(np.clip(20 / (busiest + 1), 0.012, 0.5))
        self.contrast = 1 + 0.75 * np.log10(1 + busiest / 200)

    def share(self, values: np.ndarray) -> np.ndarray:
        """|value| as a share of the largest value, at most 1."""
        return np.minimum(np.abs(values) / self.vmax, 1.0)

    def widths(self, values: np.ndarray) -> np.ndarray:
        """Points, growing linearly with |value|."""
        return THINNEST + (self.thickest - THINNEST) * self.share(values)

    def colours(self, values: np.ndarray) -> np.ndarray:
        """RGBA: the hue for the sign, the opacity for the size."""
        from matplotlib.colors import to_rgba_array

        colours = to_rgba_array([POSITIVE, NEGATIVE])[(values < 0).astype(int)]
        colours[:, 3] = self.faintest + (1 - self.faintest) * (
            self.share(values) ** self.contrast
        )
        return colours

    def dashes(self, values: np.ndarray) -> list[Any]:
        """Solid above zero, dashed below; a dash is never shorter than 2.5 points."""
        from matplotlib import rcParams

        widths = self.widths(values)
        # matplotlib multiplies the pattern by the width unless told not to.
        unit = widths if rcParams["lines.scale_dashes"] else np.ones_like(widths)
        dash, space = np.maximum(2.5 * widths, 2.5) / unit, (1 + 0.9 * widths) / unit
        return [
            (0, (on, off)) if value < 0 else "solid"
            for value, on, off in zip(values, dash, space, strict=True)
        ]


@dataclass(frozen=True)
class Circle:
    """The nodes at their places, and the scale at which their labels fit."""

    nodes: Nodes
    labelled: list[np.ndarray]  # which nodes get a label, for each panel
    side: float  # of a panel, in points

    @cached_property
    def angles(self) -> np.ndarray:
        """Angle of each node."""
        return node_angles(self.nodes.codes)

    @cached_property
    def all_labelled(self) -> bool:
        """Whether every panel labels every node."""
        return all(len(chosen) == len(self.angles) for chosen in self.labelled)

    @cached_property
    def font_size(self) -> float:
        """Points."""
        return font(7 if len(self.angles) <= 16 else 6)

    @property
    def name_size(self) -> float:
        """Points."""
        return font(7)

    @cached_property
    def node_size(self) -> float:
        """Points across a node: near neighbours must not touch."""
        spacing = TURN * self.side / 3 / len(self.angles)
        return float(np.clip(0.6 * spacing, 1.6, font(6)))

    @cached_property
    def unit(self) -> float:
        """Points of one radius: what the longest labels leave of a panel."""
        half = self.side / 2 - MARGIN
        chosen = np.unique(np.concatenate(self.labelled))
        angles = self.angles[chosen]
        lengths = np.array([self.width_of(node) for node in chosen])
        # A label that points into a corner has more room than one to a side.
        room = half / np.maximum(np.abs(np.cos(angles)), np.abs(np.sin(angles)))
        if self.all_labelled:
            unit = (room - lengths - self.node_size / 2 - MARGIN).min()
        else:
            # Labels may yet move sideways, so corners are trusted to a part only.
            room = np.minimum(room, 1.15 * half)
            rim = 2 * self.name_size + 2 * MARGIN
            unit = (np.append(room - lengths, half) - rim).min() / BAND
        return max(unit, self.side / 8)

    def width_of(self, node: int) -> float:
        """Points of a node's label."""
        return text_width(self.nodes.labels[node], self.font_size)

    @property
    def near(self) -> float:
        """Radius at which labels start where every node has one."""
        return 1 + (self.node_size / 2 + MARGIN) / self.unit

    @property
    def name_radius(self) -> float:
        """Radius of the middle of the modalities' names."""
        return BAND + (0.75 * self.name_size + 1) / self.unit

    @property
    def far(self) -> float:
        """Radius at which labels start where lines lead to them."""
        names = 1.6 * self.name_size if self.named else 0
        return BAND + (names + 1.5 * MARGIN) / self.unit

    @cached_property
    def arcs(self) -> list[tuple[float, float]]:
        """Start and end of each modality, clockwise from the top."""
        turned = np.pi / 2 - self.angles
        half_step = TURN / len(turned) / 2
        members = [turned[self.nodes.codes == k] for k in range(len(self.names))]
        return [(own.min() - half_step, own.max() + half_step) for own in members]

    @property
    def names(self) -> list[str]:
        """Names of the modalities; none if they are not known."""
        return self.nodes.names or []

    @cached_property
    def named(self) -> dict[int, tuple[float, float]]:
        """Modality -> middle and half-width of its name, where the arc has room."""
        if self.all_labelled or len(self.names) < 2:
            return {}
        found = {}
        for code, (start, stop) in enumerate(self.arcs):
            width = text_width(self.names[code], self.name_size) + 2 * MARGIN
            half = float(np.arctan(width / 2 / (self.name_radius * self.unit)))
            if half <= (stop - start) / 2:
                found[code] = ((start + stop) / 2, half)
        return found

    def label_angles(self, panel: Panel, chosen: np.ndarray) -> dict[int, float]:
        """Node -> angle of its label, clear of its neighbours and of the names.

        Between two names there is room for so many labels; where more are wanted,
        those of the most connected nodes are kept.
        """
        width = 1.4 * self.font_size / (self.far * self.unit)
        turned = np.pi / 2 - self.angles
        windows = sorted(self.named.values()) or [(0.0, -width / 2)]
        middles = [middle for middle, _ in windows]
        gaps = np.searchsorted(middles, turned) % len(windows)
        placed = {}
        for k, (middle, half) in enumerate(windows):
            after, half_after = windows[(k + 1) % len(windows)]
            after += TURN * (k + 1 == len(windows))
            low, high = middle + half + width / 2, after - half_after - width / 2
            own = chosen[gaps[chosen] == (k + 1) % len(windows)]
            room = max(int((high - low) / width) + 1, 0)
            own = own[np.argsort(-panel.strength[own], kind="stable")[:room]]
            wanted = turned[own] + TURN * (turned[own] < middle)
            ascending = np.argsort(wanted)
            moved = spread(wanted[ascending], width, low, high)
            placed |= dict(zip(own[ascending], np.pi / 2 - moved, strict=True))
        return placed


def draw_graphs(
    axes: Any, panels: list[Panel], nodes: Nodes, style: EdgeStyle, max_labels: Any
) -> tuple[np.ndarray, list[Any]]:
    """Draw every panel at one scale; return the positions and the edges drawn."""
    side = min(panel_side(axis) for axis in axes)
    circle = Circle(nodes, [labelled(panel, max_labels) for panel in panels], side)
    edges = []
    for axis, panel, chosen in zip(axes, panels, circle.labelled, strict=True):
        half = side / circle.unit / 2
        axis.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
        edges.append(draw_edges(axis, panel, circle, style))
        draw_nodes(axis, panel, circle)
        if circle.all_labelled:
            draw_labels(axis, panel, circle)
        else:
            draw_bands(axis, circle)
            draw_far_labels(axis, circle, circle.label_angles(panel, chosen))
    return on_circle(circle.angles), edges


def panel_side(axis: Any) -> float:
    """Points of the shorter side of an axes."""
    box = axis.get_window_extent()
    return min(box.width, box.height) * 72 / axis.figure.dpi


def labelled(panel: Panel, max_labels: int | None) -> np.ndarray:
    """The nodes that get a label: all of few nodes, else the most connected."""
    n_nodes = len(panel.rho)
    if max_labels is None:
        max_labels = FEW if n_nodes <= FEW else 12
    if n_nodes <= max_labels:
        return np.arange(n_nodes)
    most_connected = np.argsort(-panel.strength, kind="stable")[:max_labels]
    return most_connected[panel.strength[most_connected] > 0]


def draw_edges(axis: Any, panel: Panel, circle: Circle, style: EdgeStyle) -> Any:
    """All edges of a panel as one collection, the weakest at the back."""
    from matplotlib.collections import LineCollection

    rows, columns, values = panel.edges
    return axis.add_collection(
        LineCollection(
            list(edge_curves(circle.angles, circle.nodes.codes, rows, columns)),
            linewidths=style.widths(values),
            colors=style.colours(values),
            linestyles=style.dashes(values) or "solid",
            zorder=2,
        ),
        autolim=False,
    )


def draw_nodes(axis: Any, panel: Panel, circle: Circle) -> None:
    """Points in the colours of the modalities, small where there is no edge."""
    x, y = on_circle(circle.angles).T
    area = circle.node_size**2 * np.where(panel.strength > 0, 1, 0.25)
    for code in range(circle.nodes.codes.max() + 1):
        own = circle.nodes.codes == code
        style = look(code) if circle.names else {"color": INK, "marker": "o"}
        axis.scatter(
            x[own],
            y[own],
            s=area[own],
            linewidth=0.4 if circle.node_size > 4 else 0,
            edgecolor="white",
            zorder=4,
            **style,
        )


def draw_text(axis: Any, text: str, angle: float, radius: float, **style: Any) -> None:
    """Text that starts at the radius and points away from the centre."""
    x, y = on_circle(angle, radius)
    left = np.cos(angle) < -1e-9
    axis.text(
        x,
        y,
        text,
        rotation=np.degrees(angle) + 180 * left,
        rotation_mode="anchor",
        ha="right" if left else "left",
        va="center_baseline",
        **style,
    )


def draw_labels(axis: Any, panel: Panel, circle: Circle) -> None:
    """The label of every node beside it, grey where it has no edge."""
    for node, angle in enumerate(circle.angles):
        draw_text(
            axis,
            circle.nodes.labels[node],
            angle,
            circle.near,
            color=INK if panel.strength[node] else "0.6",
            fontsize=circle.font_size,
        )


def draw_bands(axis: Any, circle: Circle) -> None:
    """An arc along each modality, with its name where there is room."""
    from matplotlib.collections import LineCollection

    if not circle.names:
        return
    arcs = [
        on_circle(np.pi / 2 - np.linspace(start, stop, 65), BAND)
        for start, stop in circle.arcs
    ]
    colours = [look(code)["color"] for code in range(len(arcs))]
    axis.add_collection(
        LineCollection(arcs, colors=colours, linewidths=1.6, capstyle="butt"),
        autolim=False,
    )
    for code, (middle, _) in circle.named.items():
        x, y = on_circle(np.pi / 2 - middle, circle.name_radius)
        axis.text(
            x,
            y,
            circle.names[code],
            rotation=(90 - np.degrees(middle)) % 180 - 90,
            rotation_mode="anchor",
            ha="center",
            va="center",
            color=INK,
            fontsize=circle.name_size,
        )


def draw_far_labels(axis: Any, circle: Circle, placed: dict[int, float]) -> None:
    """Labels outside the arcs, each with a line to its node."""
    from matplotlib.collections import LineCollection

    lines = []
    gap = MARGIN / circle.unit
    for node, angle in placed.items():
        here = circle.angles[node]
        radii = np.array([1.03, BAND, circle.far - gap, circle.far - gap / 2])
        lines.append(on_circle(np.array([here, here, angle, angle]), radii))
        label = circle.nodes.labels[node]
        draw_text(axis, label, angle, circle.far, color=INK, fontsize=circle.font_size)
    axis.add_collection(
        LineCollection(lines, colors=FAINT, linewidths=0.4, zorder=1), autolim=False
    )


def edge_handles(panels: list[Panel], style: EdgeStyle) -> list[Any]:
    """What a legend shows of the edges: round values of the signs that occur."""
    from matplotlib.lines import Line2D

    drawn = np.concatenate([panel.edges[2] for panel in panels])
    signs = [sign for sign in (1, -1) if (sign * drawn > 0).any()]
    sizes = round_values(style.vmax)
    values = np.array([sign * size for sign in signs for size in sizes[::sign]])
    colours = style.colours(values)
    # Alone on white, an edge that is meant to add up with others would not be seen.
    colours[:, 3:] = np.maximum(colours[:, 3:], 0.4)
    return [
        Line2D(
            [], [], color=colour, linewidth=width, linestyle=dash, label=signed(value)
        )
        for value, colour, width, dash in zip(
            values, colours, style.widths(values), style.dashes(values), strict=True
        )
    ]
