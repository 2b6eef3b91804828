"""What a figure of precision matrices shows, before anything is drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np

FEW = 30  # so many nodes are all labelled
LONGEST_LABEL = 20  # characters


@dataclass(frozen=True)
class Nodes:
    """The variables: one label and one modality (an index into `names`) each."""

    labels: list[str]
    codes: np.ndarray
    names: list[str] | None  # None: no modalities are known

    @classmethod
    def of(cls, labels: Any, modalities: Any) -> "Nodes":
        """Number the modalities in the order in which they appear."""
        if modalities is None:
            codes = np.zeros(len(labels), dtype=int)
            return cls([_shorten(str(label)) for label in labels], codes, None)
        owners = [str(modality) for modality in modalities]
        names = list(dict.fromkeys(owners))
        codes = np.array([names.index(owner) for owner in owners], dtype=int)
        # The colour says the modality, so a label need not repeat it.
        stripped = [
            str(label).removeprefix(f"{owner}__")
            for label, owner in zip(labels, owners, strict=True)
        ]
        return cls([_shorten(label) for label in stripped], codes, names)

    @property
    def order(self) -> np.ndarray:
        """Nodes sorted by modality, in their own order within one."""
        return np.argsort(self.codes, kind="stable")


@dataclass(frozen=True)
class Panel:
    """One graph: signed partial correlations, zero where there is no edge."""

    title: str
    rho: np.ndarray
    shared: np.ndarray | None = None  # edges of the common part, in a class's panel

    @property
    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and partial correlations of the edges, weakest first."""
        rows, columns = np.nonzero(np.triu(self.rho, 1))
        values = self.rho[rows, columns]
        weakest_first = np.argsort(np.abs(values), kind="stable")
        return rows[weakest_first], columns[weakest_first], values[weakest_first]

    @property
    def strength(self) -> np.ndarray:
        """How connected each node is: its edges, ties broken by their sizes."""
        size = np.abs(self.rho)
        return (size > 0).sum(axis=0) + size.sum(axis=0) / (1 + size.sum())


def partial_correlation(part: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    """The entries -part_ij / sqrt(d_i d_j), with zeros on the diagonal."""
    scale = np.sqrt(diagonal)
    rho = -part / scale[:, None] / scale
    np.fill_diagonal(rho, 0)
    return rho


def panel(
    name: str, rho: np.ndarray, threshold: float, shared: np.ndarray | None = None
) -> Panel:
    """Hide what is below the threshold, and say in the title what is shown."""
    kept = np.where(np.abs(rho) > threshold, rho, 0.0)
    total, shown = (np.count_nonzero(np.triu(matrix, 1)) for matrix in (rho, kept))
    count = str(shown) if shown == total else f"{shown} of {total}"
    noun = "edge" if total == 1 else "edges"
    counted = f"{count} {noun}" if total else "no edges"
    title = f"{name} ({counted})" if name else counted
    return Panel(title, kept, shared)


def _shorten(label: str) -> str:
    if len(label) <= LONGEST_LABEL:
        return label
    return label[: LONGEST_LABEL - 1].rstrip() + "…"
