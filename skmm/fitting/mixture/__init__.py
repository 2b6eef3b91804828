"""Fits of a Dirichlet-process mixture, from rows of X to its factors."""

from skmm.fitting.mixture._data import Batches, Source, chunk_size
from skmm.fitting.mixture._moves import MOVES
from skmm.fitting.mixture._solve import (
    Settings,
    fit_laps,
    fit_stochastic,
    settle,
    start,
    stochastic_step,
)
from skmm.fitting.mixture._start import Start, distinct_rows
from skmm.fitting.mixture._state import (
    UNUSED,
    Rule,
    State,
    batch_totals,
    expected_bound,
    lap,
)

__all__ = [
    "MOVES",
    "UNUSED",
    "Batches",
    "Rule",
    "Settings",
    "Source",
    "Start",
    "State",
    "batch_totals",
    "chunk_size",
    "distinct_rows",
    "expected_bound",
    "fit_laps",
    "fit_stochastic",
    "lap",
    "settle",
    "start",
    "stochastic_step",
]
