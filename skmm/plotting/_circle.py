"""Where nodes, edges and labels go on the unit circle.

Nodes are grouped by modality into arcs, clockwise from the top. An edge within a
modality bends along its own arc and stays near the rim; an edge across modalities runs
through the middle. Nothing is random and nothing is optimised, so the same nodes stand
at the same places in every panel and in every figure.
"""

from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

GAP = 0.16  # radians between two modalities, while they take less than a quarter
# Control point of a chord: this share of the way from the centre to its midpoint.
PULL = 0.3
TURN = 2 * np.pi


def node_angles(codes: np.ndarray) -> np.ndarray:
    """Angles of the nodes, those of one modality (equal code) side by side."""
    n_groups = codes.max() + 1
    gap = min(GAP, TURN / 4 / n_groups) if n_groups > 1 else 0.0
    step = (TURN - n_groups * gap) / len(codes)
    rank = np.empty(len(codes), dtype=int)
    rank[np.argsort(codes, kind="stable")] = np.arange(len(codes))
    return np.pi / 2 - (rank + 0.5) * step - (codes + 0.5) * gap


def on_circle(angles: Any, radius: Any = 1.0) -> np.ndarray:
    """Points (x, y) at these angles, last axis of length 2."""
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=-1)


def edge_curves(
    angles: np.ndarray, codes: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """One curve for each edge (rows[k], columns[k]), (n_edges, n_points, 2)."""
    # Few edges are looked at closely; among thousands nobody sees the corners.
    t = np.linspace(0, 1, 41 if len(rows) < 2000 else 17)
    start, stop = angles[rows, None], angles[columns, None]
    if codes.max() == 0:
        # With one modality there is no rim to keep free: flat chords read better.
        return _chords(start, stop, t, 2 * PULL)
    curves = _chords(start, stop, t, PULL)
    within = codes[rows] == codes[columns]
    curves[within] = _arcs(start[within], stop[within], t)
    return curves


def _chords(
    start: np.ndarray, stop: np.ndarray, t: np.ndarray, pull: float
) -> np.ndarray:
    """Quadratic Bezier curves whose control point is drawn towards the centre."""
    first, last = on_circle(start), on_circle(stop)  # (n_edges, 1, 2)
    t = t[:, None]
    bend = pull * t * (1 - t)
    return ((1 - t) ** 2 + bend) * first + (t**2 + bend) * last


def _arcs(start: np.ndarray, stop: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Half ellipses laid along the rim, the deeper the more of it they span."""
    span = np.abs(stop - start)
    depth = 0.4 * span / (span + 0.6)
    along = (1 - np.cos(np.pi * t)) / 2
    return on_circle(start + along * (stop - start), 1 - depth * np.sin(np.pi * t))


def spread(wanted: np.ndarray, width: float, low: float, high: float) -> np.ndarray:
    """Ascending angles moved as little as possible to be `width` apart in [low, high].

    Least squares under an order constraint: isotonic regression once the widths are
    taken off, and its answer under bounds is its answer without them, clipped.
    """
    if not len(wanted):
        return wanted
    offsets = width * np.arange(len(wanted))
    free = isotonic_regression(wanted - offsets).x
    return np.clip(free, low, high - offsets[-1]) + offsets
