"""Figures of fitted estimators; matplotlib is imported when one is drawn."""

from skmm.plotting._alignment import AlignmentDisplay
from skmm.plotting._mixture import MixtureDisplay
from skmm.plotting._precision_graph import PrecisionGraphDisplay
from skmm.plotting._shared_codes import SharedCodeDisplay

__all__ = [
    "AlignmentDisplay",
    "MixtureDisplay",
    "PrecisionGraphDisplay",
    "SharedCodeDisplay",
]
