"""Colours, widths and fonts that the figures of a precision matrix share."""

from typing import Any

import numpy as np

INK = "0.2"
FAINT = "0.72"
# Okabe and Ito's colours. Blue and vermilion come last: they are near those of the
# edges. A ninth modality starts again with another marker.
COLOURS = (
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#000000",
    "#F0E442",
    "#0072B2",
    "#D55E00",
)
MARKERS = "osD^vPX*"
POSITIVE, NEGATIVE = "#2166AC", "#B2182B"  # the ends of the map RdBu


def look(code: int) -> dict[str, Any]:
    """Colour and marker of a modality."""
    return {
        "color": COLOURS[code % len(COLOURS)],
        "marker": MARKERS[code // len(COLOURS) % len(MARKERS)],
    }


def font(size: float) -> float:
    """A size in points that was chosen for matplotlib's base font of 10 points."""
    from matplotlib import rcParams

    return size * rcParams["font.size"] / 10


def round_values(largest: float) -> np.ndarray:
    """Three round values to show in a legend, the largest first."""
    unit = 10.0 ** np.floor(np.log10(largest))
    steps = [(1, 0.5, 0.2), (2, 1, 0.5), (3, 2, 1), (4, 2, 1), (5, 2, 1), (6, 4, 2)]
    steps += [(8, 4, 2)]
    # The tolerance: 0.3 / 0.1 is a little less than 3.
    fitting = [step for step in steps if step[0] * unit <= largest * (1 + 1e-9)]
    return unit * np.array(fitting[-1] if fitting else steps[0])


def diverging_map() -> Any:
    """Red below zero, blue above, without the middle: every edge shows its sign."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    shares = np.concatenate([np.linspace(0.05, 0.4, 128), np.linspace(0.6, 0.95, 128)])
    return ListedColormap(colormaps["RdBu"](shares), name="RdBu_without_middle")


def signed(value: float) -> str:
    """The value with its sign, a minus as long as the plus."""
    return f"{value:+.2g}".replace("-", "\N{MINUS SIGN}")


def text_width(text: str, size: float) -> float:
    """Points from end to end, in the font that text is drawn in."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=size).get_extents().width) if text else 0.0
