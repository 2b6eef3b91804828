"""Rows of blocks, scaled, masked and served in batches on a device."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from skmm.modalities import Block, Layout, time_steps_observed
from skmm.scaling import BlockScaler

Batch = dict[str, Any]
"""``blocks``: list of (B, d); ``steps``: list of (B, T) masks or None; ``observed``:
bool (M, B); ``complete``: whether no modality is missing; ``weight``: (B,) or None;
``rows``: (B,) numbers among those served, or a slice of them; ``cells``, where asked
for: list of bool (B, d), or None for a block without missing
cells."""


def is_memmap(X: np.ndarray) -> bool:
    """Whether an array, or what it is a view of, lies on disk."""
    base: Any = X
    while base is not None:
        if isinstance(base, np.memmap):
            return True
        base = getattr(base, "base", None)
    return False


def _free_bytes(device: torch.device) -> float:
    """Memory that is free on a device; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


def should_stream(X: np.ndarray, device: torch.device) -> bool:
    """Whether batches are read from X as they come, rather than kept on the device.

    True for a memmap, and where a copy of X would take over half of the free memory.
    """
    return is_memmap(X) or 2 * X.nbytes > _free_bytes(device)


def _safe_weight(weight: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Weights in a narrower type, none of which became zero or infinite."""
    top = weight.max(initial=0.0)
    if top > 0 and not 1e-9 < top < 1e9:
        weight = weight / top  # only ratios matter
    return np.where(
        weight > 0, np.maximum(weight, np.finfo(dtype).tiny * 1e6), 0
    ).astype(dtype)


@dataclass
class _Rows:
    """All rows of all modalities on the device."""

    blocks: list[Tensor]
    steps: list[Tensor | None]
    cells: list[Tensor | None]


class BlockData(Dataset):
    """Rows of an X with its grouping, scaling, masks, targets and weights.

    Rows are on the device from the start, or, where `stream` is set, read, scaled and
    moved batch by batch: the same values either way.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    layout : Layout
    scaler : BlockScaler
    observed : bool ndarray of shape (n_samples, n_modalities)
    y : ndarray of shape (n_samples,) or None
        Targets, served beside the blocks.
    weight : ndarray of shape (n_samples,) or None
    device : torch.device
    dtype : dtype, default=None
        Of the blocks and weights; that of X by default.
    stream : bool, default=None
        None decides by `should_stream`.
    rows : ndarray of int, default=None
        The rows of X to serve; all by default.
    cells : bool, default=False
        Whether to serve masks of the cells that are observed.
    """

    def __init__(
        self,
        X: np.ndarray,
        layout: Layout,
        scaler: BlockScaler,
        observed: np.ndarray,
        y: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        *,
        device: torch.device,
        dtype: np.dtype | None = None,
        stream: bool | None = None,
        rows: np.ndarray | None = None,
        cells: bool = False,
    ):
        self.X, self.layout, self.scaler = X, layout, scaler
        self.with_cells = cells
        self.device, self.row_numbers = device, rows
        self.dtype = np.dtype(X.dtype if dtype is None else dtype)
        self.stream = should_stream(X, device) if stream is None else stream
        kept = slice(None) if rows is None else rows
        observed = observed[kept]
        self.observed = torch.tensor(observed.T, device=device)
        self.complete = bool(observed.all())
        self.y = None if y is None else torch.tensor(y[kept], device=device)
        self.weight = (
            None
            if weight is None
            else torch.tensor(_safe_weight(weight[kept], self.dtype), device=device)
        )
        self.n_rows = len(observed)
        self._resident = None if self.stream else self._read(rows)

    def __len__(self) -> int:
        return self.n_rows

    def _read(self, rows: np.ndarray | None) -> _Rows:
        """Scaled blocks and time masks of some rows of X, on the device."""
        blocks, steps, cells = [], [], []
        X = self.X if rows is None else self.X[rows]
        for m, block in enumerate(self.layout):
            values = X[:, block.columns]
            mask = None
            if block.is_sequence:
                seen = time_steps_observed(values.reshape(-1, *block.shape))
                mask = torch.from_numpy(seen).to(self.device)
            scaled = self.scaler.apply(m, values).astype(self.dtype, copy=False)
            if mask is not None:
                # Padding is zero, whatever the training mean was: encoders mask it.
                scaled.reshape(-1, *block.shape)[~seen] = 0
            blocks.append(torch.from_numpy(scaled).to(self.device))
            steps.append(mask)
            there = observed_cells(values, block) if self.with_cells else None
            own = None if there is None else torch.from_numpy(there).to(self.device)
            cells.append(own)
        return _Rows(blocks, steps, cells)

    def batch(self, rows: Tensor | slice) -> Batch:
        """The given rows, numbered from 0 among those served."""
        if self._resident is not None:
            source, pick = self._resident, rows
        elif isinstance(rows, slice):
            source, pick = self._read(self._disk_rows(rows)), slice(None)
        else:
            # Read in the order of the disk, served in the order asked for.
            order = torch.argsort(rows)
            source, pick = self._read(self._disk_rows(rows[order])), order.argsort()
        return {
            "blocks": [b[pick] for b in source.blocks],
            "steps": [None if s is None else s[pick] for s in source.steps],
            "cells": [None if c is None else c[pick] for c in source.cells],
            "rows": rows,
            "observed": self.observed[:, rows],
            "complete": self.complete,
            "weight": None if self.weight is None else self.weight[rows],
        }

    def _disk_rows(self, rows: Tensor | slice) -> np.ndarray | slice:
        picked = rows if isinstance(rows, slice) else rows.cpu().numpy()
        return picked if self.row_numbers is None else self.row_numbers[picked]

    def targets(self, rows: Tensor | slice) -> Tensor | None:
        """Targets of the given rows."""
        return None if self.y is None else self.y[rows]

    def in_order(self, batch_size: int) -> Iterator[tuple[slice, Batch]]:
        """All rows in their order, for prediction and sums over a data set."""
        for start in range(0, self.n_rows, batch_size):
            rows = slice(start, min(start + batch_size, self.n_rows))
            yield rows, self.batch(rows)


def observed_cells(values: np.ndarray, block: Block) -> np.ndarray | None:
    """Mark the cells ``(n, d)`` that have a value; None where all of a row's have.

    Rows that lack the modality do not count. A category vector of which a part is
    missing is missing.
    """
    missing = np.isnan(values)
    there = ~missing
    if block.likelihood == "categorical":
        vectors = there.reshape(len(values), -1, block.shape[-1])
        vectors &= vectors.all(axis=-1, keepdims=True)
    partly = ~there.all(axis=1) & ~missing.all(axis=1)
    return there if partly.any() else None


def batch_bounds(n_rows: int, batch_size: int) -> list[int]:
    """Cut points of batches; a last batch of under half the size is merged.

    A loss over pairs of rows has little to say about two rows, and none about one.
    """
    bounds = list(range(0, n_rows, batch_size))
    if len(bounds) > 1 and n_rows - bounds[-1] < batch_size / 2:
        bounds.pop()
    return [*bounds, n_rows]


class BatchIterator:
    """What skorch iterates over: batches of a `BlockData`, cut by slicing tensors.

    Parameters
    ----------
    dataset : BlockData
    batch_size : int
    shuffle : bool, default=False
        A new order each epoch, from torch's global generator.
    """

    def __init__(self, dataset: BlockData, batch_size: int, shuffle: bool = False):
        self.dataset, self.shuffle = dataset, shuffle
        self.bounds = batch_bounds(len(dataset), batch_size)

    def __iter__(self) -> Iterator[tuple[Batch, Tensor | None]]:
        order = self._order()
        for start, stop in pairwise(self.bounds):
            rows = slice(start, stop) if order is None else order[start:stop]
            yield self.dataset.batch(rows), self.dataset.targets(rows)

    def _order(self) -> Tensor | None:
        # One full batch needs no order: it only changes the order of sums.
        if not self.shuffle or len(self.bounds) == 2:
            return None
        return torch.randperm(len(self.dataset)).to(self.dataset.device)
