"""Removing whole blocks at random: the missing-modality pattern of a benchmark."""

from typing import Any

import numpy as np
from sklearn.utils import check_array

from skmm.datasets._checks import as_generator, check_number
from skmm.modalities import resolve_modalities

# Of the blocks that could go while every row keeps one, at most this share goes.
# Above it the rows left with two blocks would be too few to say anything about.
MOST_OF_SPARE = 0.9


def drop_modalities(
    X: Any, modalities: Any, fraction: float, random_state: Any = None
) -> Any:
    """Set a share of the observed modality blocks to NaN, at random.

    With `B` observed blocks in `n` rows, ``round(min(fraction * B, 0.9 * spare))``
    of them are removed, where `spare` counts the blocks beyond the first of
    each row. Every row that has an observed block keeps at least one, so that two
    modalities and ``fraction=0.6`` give 45 % missing. Blocks are drawn uniformly,
    independently of their content: the gaps are missing completely at random.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n_samples, n_features)
        The data; NaN is allowed, infinities in an array are not. A block whose
        cells are all NaN in a row (null counts as NaN) is already missing there and
        is not counted. It is not modified.
    modalities : {"auto"}, None, list of int, or dict
        Which columns belong together, as in the estimators. Columns in the group
        ``"drop"`` are left as they are.
    fraction : float in [0, 1]
        Share of the observed blocks to remove.
    random_state : int, Generator, RandomState or None, default=None
        An int gives the same gaps every time. A RandomState is drawn from once.

    Returns
    -------
    X_gaps : ndarray or DataFrame of shape (n_samples, n_features)
        A copy with gaps, of the type of `X` and with its columns. float32
        and float64 are kept, integers and booleans become float64.

    Raises
    ------
    ValueError
        If `fraction` is outside [0, 1] or `X` is not two-dimensional.

    Notes
    -----
    Rows with nothing observed are left as they are. Takes O(B log B) time.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm.datasets import drop_modalities
    >>> X = np.arange(12.0).reshape(4, 3)
    >>> drop_modalities(X, {"a": [0], "b": [1, 2]}, 0.4, random_state=1)
    array([[nan,  1.,  2.],
           [nan,  4.,  5.],
           [ 6., nan, nan],
           [ 9., 10., 11.]])
    """
    check_number(
        "fraction", fraction, low=0, high=1, remedy="Give a share: 0.3 for 30 %."
    )
    frame = _frame_library(X)
    if frame is None:
        X = check_array(
            X, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan", copy=True
        )
    columns = [block.columns for block in resolve_modalities(modalities, X)]
    missing = _missing_cells(X, frame)
    observed = np.column_stack([~missing[:, c].all(axis=1) for c in columns])
    removed = _draw_blocks(observed, fraction, as_generator(random_state))
    cells = np.zeros(missing.shape, dtype=bool)
    for c, rows in zip(columns, removed.T, strict=True):
        cells[:, c] = rows[:, None]
    return _blank(X, frame, cells, columns)


def _draw_blocks(
    observed: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Choose the observed blocks to remove: a (n_samples, n_modalities) mask.

    Walks through the blocks in random order and takes every one that is not the
    last of its row, until the number is reached.
    """
    blocks = np.argwhere(observed)
    spare = len(blocks) - observed.any(axis=1).sum()
    n_removed = round(min(fraction * len(blocks), MOST_OF_SPARE * spare))
    order = blocks[rng.permutation(len(blocks))]
    kept = np.zeros(len(order), dtype=bool)
    # The first occurrence of a row in the reversed order is its last in the order.
    kept[len(order) - 1 - np.unique(order[::-1, 0], return_index=True)[1]] = True
    removed = np.zeros_like(observed)
    removed[tuple(order[~kept][:n_removed].T)] = True
    return removed


def _frame_library(X: Any) -> str | None:
    """Return ``"pandas"``, ``"polars"``, or None for what is not a DataFrame."""
    library = type(X).__module__.partition(".")[0]
    is_frame = library in ("pandas", "polars") and type(X).__name__ == "DataFrame"
    return library if is_frame else None


def _missing_cells(X: Any, frame: str | None) -> np.ndarray:
    """Mark the cells that are NaN or null, (n_samples, n_features)."""
    if frame == "pandas":
        return X.isna().to_numpy()
    if frame == "polars":
        return np.column_stack([c.is_null().to_numpy() for c in X.fill_nan(None)])
    return np.isnan(X)


def _blank(X: Any, frame: str | None, cells: np.ndarray, columns: list) -> Any:
    """Set ``cells`` to NaN; the columns of modalities become floats."""
    if frame is None:
        X[cells] = np.nan  # already a copy
        return X
    grouped = np.zeros(cells.shape[1], dtype=bool)
    for c in columns:
        grouped[c] = True
    return (_blank_pandas if frame == "pandas" else _blank_polars)(X, cells, grouped)


def _blank_pandas(X: Any, cells: np.ndarray, grouped: np.ndarray) -> Any:
    to_float = {
        name: np.float64
        for name, dtype, use in zip(X.columns, X.dtypes, grouped, strict=True)
        if use and dtype.kind in "iub"
    }
    return X.astype(to_float).mask(cells)


def _blank_polars(X: Any, cells: np.ndarray, grouped: np.ndarray) -> Any:
    import polars as pl

    def blank(series: Any, gap: np.ndarray) -> Any:
        if series.dtype.is_integer() or series.dtype == pl.Boolean:
            series = series.cast(pl.Float64)
        filler = float("nan") if series.dtype.is_float() else None
        keep = pl.Series(~gap)
        return series.zip_with(keep, pl.Series([filler], dtype=series.dtype))

    names = [name for name, use in zip(X.columns, grouped, strict=True) if use]
    gaps = cells[:, grouped].T
    return X.with_columns(
        blank(X[name], gap).alias(name) for name, gap in zip(names, gaps, strict=True)
    )
