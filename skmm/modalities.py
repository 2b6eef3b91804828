"""From one 2-D X to its modalities: parse, check, split, mark what is missing.

`resolve_modalities` turns the parameter `modalities` into a `Layout` of blocks, once;
everything after it works on that layout. A missing modality of a row is an all-NaN
block. Nothing here copies X whole, so that X may be a memory map.
"""

# License: BSD-3-Clause

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

# What users meet; the other functions serve the estimators.
__all__ = ["Modality", "OneModalityWarning", "resolve_modalities"]

DROP = "drop"
SEPARATOR = "__"
LIKELIHOODS = ("gaussian", "laplace", "bernoulli", "categorical")
SCALINGS = ("auto", "column", "block", None)

# A quarter of a million cells are 2 MiB of float64: the handful of temporaries that a
# statistic needs stay below 8 MiB and near the size of a core's cache.
CHUNK_CELLS = 2**18

_FORMS = (
    "'auto', None, consecutive widths such as [784, 3072], a mapping such as "
    "{'image': slice(0, 784), 'text': ['word0', 'word1']}, or a function of X that "
    "returns one of these"
)
_TO_MAPPING = (
    "To select the columns of each modality, pass a mapping from names to columns, "
    "such as {'image': [0, 1, 2], 'text': [3, 4]}"
)
_TO_DROP = f"Put it in one group, or in the reserved group {DROP!r} to leave it out"


class OneModalityWarning(UserWarning):
    """`modalities="auto"` found no grouping: all columns are one modality."""


@dataclass(frozen=True, eq=False)
class Modality:
    """The columns of one modality and how they are to be treated.

    A plain parameter value: its fields are checked when an estimator is fitted.

    Parameters
    ----------
    columns : str, int, slice, list of str or int, bool mask or callable
        Any selector that :class:`~sklearn.compose.ColumnTransformer` takes; a callable
        is called with X and returns a selector.
    shape : tuple of int, default=None
        Shape of one row of the block: `(d,)`, `(C, H, W)` for an image or `(T, D)` for
        a sequence of T time steps. None means `(d,)`.
    likelihood : {"gaussian", "laplace", "bernoulli", "categorical"}, \
            default="gaussian"
        Distribution of the values. "bernoulli" needs values in [0, 1]; "categorical"
        needs vectors that are one-hot along the last axis of `shape`.
    scale : float or "learn", default="learn"
        Standard deviation of the likelihood "gaussian", or the scale of "laplace", in
        the units that `scaling` leaves: for estimators that have a likelihood of the
        values. "learn" fits one number.
    encoder : str or class, default=None
        Network that reads the block: a name that the estimator knows or a class of
        modules. None lets the estimator choose.
    decoder : str or class, default=None
        Network that writes the block, likewise; for estimators that have one.
    scaling : {"auto", "column", "block"} or None, default="auto"
        "column" standardises each column (each of the D variables of a sequence),
        "block" centres the columns and divides the block by one number, None leaves the
        values as they are. "auto" is None for images and for the likelihoods
        "bernoulli" and "categorical", else "column".

    Examples
    --------
    >>> import numpy as np
    >>> from skmm.modalities import Modality, resolve_modalities
    >>> X = np.zeros((2, 10))
    >>> layout = resolve_modalities(
    ...     {"sensor": Modality(slice(0, 6), shape=(3, 2)), "text": slice(6, 10)}, X
    ... )
    >>> [(block.name, block.shape, block.scaling) for block in layout]
    [('sensor', (3, 2), 'column'), ('text', (4,), 'column')]
    """

    columns: Any
    shape: tuple[int, ...] | None = None
    likelihood: str = "gaussian"
    scale: float | str = "learn"
    encoder: Any = None
    decoder: Any = None
    scaling: str | None = "auto"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Modality):
            return NotImplemented
        return self._settings == other._settings and _same_columns(
            self.columns, other.columns
        )

    @property
    def _settings(self) -> tuple[Any, ...]:
        shape = None if self.shape is None else tuple(self.shape)
        networks = self.encoder, self.decoder
        return shape, self.likelihood, self.scale, networks, self.scaling


@dataclass(frozen=True, eq=False)
class Block:
    """One resolved modality.

    Parameters
    ----------
    name : str
        Name of the modality.
    columns : slice or ndarray of shape (size,)
        Columns of X. A slice where they are contiguous and ascending, so that
        `X[:, columns]` is a view.
    shape : tuple of int
        Shape of one row: `(d,)`, `(C, H, W)` or `(T, D)`.
    likelihood : {"gaussian", "laplace", "bernoulli", "categorical"}
        Distribution of the values.
    scaling : {"column", "block"} or None
        How the values are standardised.
    encoder, decoder : str, class or None
        Networks that read and write the block.
    scale : float or "learn"
        Of the likelihood.
    """

    name: str
    columns: slice | NDArray[np.intp]
    shape: tuple[int, ...]
    likelihood: str = "gaussian"
    scaling: str | None = "column"
    encoder: Any = None
    decoder: Any = None
    scale: float | str = "learn"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Block):
            return NotImplemented
        return self._settings == other._settings and np.array_equal(
            self.indices, other.indices
        )

    @property
    def _settings(self) -> tuple[Any, ...]:
        networks = self.encoder, self.decoder
        likelihood = self.likelihood, self.scale
        return self.name, self.shape, likelihood, self.scaling, networks

    @property
    def size(self) -> int:
        """Number of columns."""
        return math.prod(self.shape)

    @property
    def indices(self) -> NDArray[np.intp]:
        """Column numbers, of shape (size,)."""
        if isinstance(self.columns, slice):
            return np.arange(self.columns.start, self.columns.stop, dtype=np.intp)
        return self.columns

    @property
    def is_sequence(self) -> bool:
        """Whether a row is a sequence of shape (T, D)."""
        return len(self.shape) == 2

    @property
    def is_image(self) -> bool:
        """Whether a row is an image of shape (C, H, W)."""
        return len(self.shape) == 3


@dataclass(frozen=True)
class Layout:
    """The modalities of X, in order.

    Parameters
    ----------
    blocks : tuple of Block
        The resolved modalities, without the group "drop".
    n_features : int
        Number of columns of X, those of the group "drop" included.
    """

    blocks: tuple[Block, ...]
    n_features: int

    @property
    def names(self) -> list[str]:
        """Names of the modalities."""
        return [block.name for block in self.blocks]

    @property
    def indices(self) -> dict[str, NDArray[np.intp]]:
        """Column numbers of each modality, by name."""
        return {block.name: block.indices for block in self.blocks}

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)


def _same_columns(left: Any, right: Any) -> bool:
    if any(callable(c) or isinstance(c, str | slice) for c in (left, right)):
        return type(left) is type(right) and bool(left == right)
    return np.array_equal(np.asarray(left), np.asarray(right))


def validate_input(
    estimator: Any,
    X: Any,
    *,
    reset: bool,
    y: Any = "no_validation",
    **check_params: Any,
) -> Any:
    """Validate X, and y if it is given, and set or check the features' names.

    :func:`sklearn.utils.validation.validate_data` with what every estimator here
    wants: float64 and float32 are kept and anything else becomes float64, NaN is let
    through, and so are infinities, which `observed_modalities` reports together with
    their modality. A float memory map is not copied. Names of two levels, `(a, b)`,
    become `"a__b"`, because scikit-learn records no names for such a DataFrame.

    Parameters
    ----------
    estimator : estimator
        Gets `n_features_in_` and `feature_names_in_` if `reset`.
    X : array-like or DataFrame of shape (n_samples, n_features)
        Data; a tensor on the CPU is taken as an array.
    reset : bool
        True in `fit`, False afterwards.
    y : array-like of shape (n_samples,), default="no_validation"
        Target; left alone by default.
    **check_params : dict
        Passed on; takes precedence over the settings above.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        Validated data, or the tuple `(X, y)` if y is given.
    """
    settings = {"dtype": [np.float64, np.float32], "ensure_all_finite": False}
    return validate_data(
        estimator,
        _flat_names(_to_array(X, "X")),
        _to_array(y, "y"),
        reset=reset,
        **(settings | check_params),
    )


def _to_array(values: Any, parameter: str) -> Any:
    """Turn a tensor on the CPU into an array; leave anything else as it is."""
    if type(values).__module__.partition(".")[0] != "torch":
        return values
    if values.device.type != "cpu":
        raise TypeError(
            f"{parameter}: expected an array or a tensor on the CPU, got a tensor on "
            f"the device {str(values.device)!r}. Pass `{parameter}.cpu()`."
        )
    # numpy has no bfloat16.
    values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    return values.detach().numpy()


def _levels(X: Any) -> int:
    return getattr(getattr(X, "columns", None), "nlevels", 1)


def _flat_names(X: Any) -> Any:
    if _levels(X) == 1:
        return X
    flat = X.copy(deep=False)
    flat.columns = _column_names(X)
    return flat


def _column_names(X: Any) -> list[str] | None:
    """Names of the columns if all are strings, as scikit-learn has it."""
    # A pyarrow table's `columns` are its data.
    names = getattr(X, "column_names", None)
    names = getattr(X, "columns", None) if names is None else names
    if names is None:
        return None
    if _levels(X) > 1:
        return [SEPARATOR.join(map(str, name)) for name in names]
    return list(names) if all(isinstance(name, str) for name in names) else None


@dataclass(frozen=True)
class _Columns:
    """What selectors see of X."""

    n: int
    names: list[str] | None
    first_level: list[str] | None

    @classmethod
    def of(cls, X: Any, feature_names: Any) -> "_Columns":
        shape = tuple(X.shape)
        if len(shape) != 2:
            raise ValueError(f"X: expected 2 dimensions, got the shape {shape}.")
        names = _column_names(X) if feature_names is None else list(feature_names)
        if names is not None and len(names) != shape[1]:
            raise ValueError(
                f"feature_names: got {len(names)} names, but X has {shape[1]} "
                "feature(s)."
            )
        several = _levels(X) > 1
        first = [str(name[0]) for name in X.columns] if several else None
        return cls(shape[1], names, first)

    @property
    def text(self) -> str:
        return f"X has {self.n} feature(s)"

    def describe(self, column: int) -> str:
        return str(column) if self.names is None else repr(self.names[column])

    def positions(self) -> dict[str, list[int]]:
        """Columns by name, and by the first of two levels."""
        found: dict[str, list[int]] = {}
        for labels in filter(None, (self.names, self.first_level)):
            for column, label in enumerate(labels):
                found.setdefault(label, []).append(column)
        return found


def resolve_modalities(
    modalities: Any, X: Any, *, feature_names: Sequence[str] | None = None
) -> Layout:
    """Parse the parameter `modalities` into blocks of columns of X.

    Parameters
    ----------
    modalities : "auto", None, array-like of int, mapping or callable
        - "auto": if the name of every column contains `__`, columns are grouped by the
          prefix before the first one; a DataFrame whose columns have two levels is
          grouped by the first; else all columns are one modality, with a
          `OneModalityWarning`;
        - None: one modality, "all";
        - array-like of int: widths of consecutive blocks, which are named "modality0",
          "modality1", ...;
        - mapping: from names to selectors of columns or `Modality`;
        - callable: called with X, returns one of the above.

        Every column is in exactly one group; those of the group "drop" are left out.
    X : array-like or DataFrame of shape (n_samples, n_features)
        Data as the user passed them; callables get them so, but a list as an array.
        Nothing else looks at the values.
    feature_names : sequence of str of length n_features, default=None
        Names of the columns where X does not carry them.

    Returns
    -------
    layout : Layout
        The modalities in the order of the mapping or of the columns.

    Raises
    ------
    ValueError
        If a column is in no group or in two, a group has no column or asks for one
        that X lacks, or the fields of a `Modality` do not fit its columns.
    TypeError
        If a grouping, a selector or a field is of a type not named above.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from skmm.modalities import resolve_modalities
    >>> X = pd.DataFrame(np.eye(3), columns=["rna__g0", "rna__g1", "atac__p0"])
    >>> resolve_modalities("auto", X).indices
    {'rna': array([0, 1]), 'atac': array([2])}
    >>> resolve_modalities({"genes": "rna__g0", "drop": [1, 2]}, X).indices
    {'genes': array([0])}
    >>> resolve_modalities([2, 2], X)
    Traceback (most recent call last):
        ...
    ValueError: modalities: widths sum to 4 columns, but X has 3 feature(s). Give ...
    """
    X = X if hasattr(X, "shape") else np.asarray(X)
    columns = _Columns.of(X, feature_names)
    if callable(modalities):
        modalities = modalities(X)
    if isinstance(modalities, str) and modalities == "auto":
        groups = _groups_from_names(columns)
        if groups is None:
            _warn_one_modality(columns)
    else:
        groups = _explicit_groups(modalities, columns)
    return _layout({"all": slice(None)} if groups is None else groups, X, columns)


def _groups_from_names(columns: _Columns) -> dict[str, list[int]] | None:
    labels = columns.first_level or [
        name.partition(SEPARATOR)[0] if SEPARATOR in name else ""
        for name in columns.names or []
    ]
    # A name that begins with the separator has no prefix.
    if not labels or not all(labels):
        return None
    groups: dict[str, list[int]] = {}
    for column, label in enumerate(labels):
        groups.setdefault(label, []).append(column)
    return groups


def _warn_one_modality(columns: _Columns) -> None:
    with_prefix = sum(name.find(SEPARATOR) > 0 for name in columns.names or [])
    found = (
        "X has no column names"
        if columns.names is None
        else f"{with_prefix} of {columns.n} column names have the form 'modality__name'"
    )
    warnings.warn(
        f"modalities='auto': {found}, so all columns are one modality. Name the "
        "columns so, or pass widths or a mapping; modalities=None says that one is "
        "meant.",
        OneModalityWarning,
        stacklevel=3,
    )


def _explicit_groups(modalities: Any, columns: _Columns) -> dict[str, Any] | None:
    if modalities is None:
        return None
    if isinstance(modalities, Mapping):
        return _groups_from_mapping(modalities)
    if isinstance(modalities, list | tuple | np.ndarray):
        return _groups_from_widths(list(modalities), columns)
    kind = ValueError if isinstance(modalities, str) else TypeError
    raise kind(f"modalities: expected {_FORMS}; got {modalities!r}.")


def _groups_from_mapping(modalities: Mapping[Any, Any]) -> dict[str, Any]:
    for name in modalities:
        _check_name(name)
    if not modalities.keys() - {DROP}:
        raise ValueError(
            "modalities: expected a mapping with at least one modality besides the "
            f"reserved group {DROP!r}, got the names {list(modalities)}."
        )
    return {str(name): selector for name, selector in modalities.items()}


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(
            f"modalities: expected names that are strings, got {name!r} of type "
            f"{type(name).__name__}. {_TO_MAPPING}."
        )
    # Names of output columns are 'modality__feature' and are split there again.
    if not name or SEPARATOR in name:
        raise ValueError(
            "modalities: expected names that are not empty and do not contain "
            f"{SEPARATOR!r}, got {name!r}. Rename that modality."
        )


def _groups_from_widths(widths: list[Any], columns: _Columns) -> dict[str, slice]:
    for position, width in enumerate(widths):
        _check_width(position, width)
    ends = np.cumsum([0, *map(int, widths)]).tolist()
    if not widths or ends[-1] != columns.n:
        raise ValueError(
            f"modalities: widths sum to {ends[-1]} columns, but {columns.text}. Give "
            "one width for each modality, or name the columns of each in a mapping, "
            f"whose group {DROP!r} is left out."
        )
    return {f"modality{m}": slice(*pair) for m, pair in enumerate(pairwise(ends))}


def _check_width(position: int, width: Any) -> None:
    if not _is_index(width):
        raise TypeError(
            "modalities: a list holds the widths of consecutive blocks as integers, "
            f"got a value of type {type(width).__name__} at position {position}. "
            f"{_TO_MAPPING}."
        )
    if width <= 0:
        raise ValueError(
            f"modalities: expected positive widths, got {width} at position "
            f"{position}. Leave out a modality that has no columns."
        )


def _layout(groups: Mapping[str, Any], X: Any, columns: _Columns) -> Layout:
    described = {
        name: group if isinstance(group, Modality) else Modality(group)
        for name, group in groups.items()
    }
    selected = {
        name: _select(modality.columns, X, columns, name)
        for name, modality in described.items()
    }
    _check_partition(selected, columns)
    blocks = tuple(
        _block(name, modality, selected[name])
        for name, modality in described.items()
        if name != DROP
    )
    if not blocks:
        raise ValueError(
            f"modalities: all columns are in the reserved group {DROP!r}. Name at "
            "least one other group."
        )
    return Layout(blocks, columns.n)


def _check_partition(
    selected: Mapping[str, NDArray[np.intp]], columns: _Columns
) -> None:
    for name, indices in selected.items():
        if not len(indices) and name != DROP:
            raise ValueError(
                f"modalities: group {name!r} selects no column; {columns.text}. Give "
                "it at least one, or leave it out."
            )
    counts = np.bincount(np.concatenate([*selected.values()]), minlength=columns.n)
    if (counts == 0).any():
        missing = np.flatnonzero(counts == 0)
        raise ValueError(
            f"modalities: {_list_columns(missing, columns)} in no group. {_TO_DROP}."
        )
    if (counts > 1).any():
        _raise_twice(int(np.argmax(counts > 1)), selected, columns)


def _list_columns(indices: NDArray[np.intp], columns: _Columns) -> str:
    shown = ", ".join(columns.describe(i) for i in indices[:5].tolist())
    if len(indices) == 1:
        return f"column {shown} is"
    return f"columns {shown}{', ...' * (len(indices) > 5)} ({len(indices)} in all) are"


def _raise_twice(
    column: int, selected: Mapping[str, NDArray[np.intp]], columns: _Columns
) -> None:
    groups = [name for name, indices in selected.items() if column in indices]
    where = f"twice in group {groups[0]!r}"
    if len(groups) > 1:
        where = "in the groups " + " and ".join(map(repr, groups))
    raise ValueError(
        f"modalities: column {columns.describe(column)} is {where}. {_TO_DROP}."
    )


def _select(selector: Any, X: Any, columns: _Columns, group: str) -> NDArray[np.intp]:
    """Columns that a selector of ColumnTransformer's kinds means, in its order."""
    if callable(selector):
        selector = selector(X)
    if isinstance(selector, slice):
        return _select_slice(selector, columns, group)
    keys = _as_keys(selector, group)
    if not keys:
        return np.empty(0, dtype=np.intp)
    if all(isinstance(key, bool | np.bool_) for key in keys):
        return _select_mask(keys, columns, group)
    if all(_is_index(key) for key in keys):
        return _select_positions(keys, columns, group)
    if all(isinstance(key, str) for key in keys):
        return _select_names(keys, columns, group)
    raise _bad_selector(selector, group)


def _as_keys(selector: Any, group: str) -> list[Any]:
    if isinstance(selector, str) or _is_index(selector):
        return [selector]
    # A set has no order, and the order of columns is the order inside the block.
    if isinstance(selector, Mapping | set | frozenset | bool | np.bool_):
        raise _bad_selector(selector, group)
    try:
        return list(selector)
    except TypeError:
        raise _bad_selector(selector, group) from None


def _is_index(key: Any) -> bool:
    return isinstance(key, Integral) and not isinstance(key, bool)


def _bad_selector(selector: Any, group: str) -> TypeError:
    return TypeError(
        f"modalities[{group!r}]: expected columns as a name or a list of names, an "
        "integer or a list of integers, a slice, a boolean mask, a function of X that "
        f"returns one of these, or a Modality of them; got {selector!r}."
    )


def _select_mask(keys: list[Any], columns: _Columns, group: str) -> NDArray[np.intp]:
    if len(keys) != columns.n:
        raise ValueError(
            f"modalities[{group!r}]: expected a boolean mask with one entry for each "
            f"column, got {len(keys)} entries, but {columns.text}."
        )
    return np.flatnonzero(keys)


def _select_positions(
    keys: list[Any], columns: _Columns, group: str
) -> NDArray[np.intp]:
    for key in keys:
        if not -columns.n <= key < columns.n:
            raise ValueError(
                f"modalities[{group!r}]: there is no column {key}; {columns.text}, "
                "counted from 0."
            )
    indices = np.asarray(keys, dtype=np.intp)
    return np.where(indices < 0, indices + columns.n, indices)


def _select_names(
    keys: Sequence[str], columns: _Columns, group: str
) -> NDArray[np.intp]:
    positions = columns.positions()
    unknown = [key for key in keys if key not in positions]
    if unknown and columns.names is None:
        raise ValueError(
            f"modalities[{group!r}]: columns are given by names, such as "
            f"{unknown[0]!r}, but {columns.text} without names. Pass a DataFrame or "
            "select by position."
        )
    if unknown:
        raise ValueError(
            f"modalities[{group!r}]: X has no columns named {unknown[:5]}; "
            f"{columns.text}, the first of them {(columns.names or [])[:5]}."
        )
    return np.asarray([i for key in keys for i in positions[key]], dtype=np.intp)


def _select_slice(key: slice, columns: _Columns, group: str) -> NDArray[np.intp]:
    ends = (key.start, key.stop)
    if any(isinstance(end, str) for end in ends):
        return _select_label_slice(key, columns, group)
    if not all(part is None or _is_index(part) for part in (*ends, key.step)):
        raise _bad_selector(key, group)
    # numpy would shorten the slice in silence, and a block would lose columns.
    if any(end is not None and abs(end) > columns.n for end in ends):
        raise ValueError(
            f"modalities[{group!r}]: {key} reaches beyond the last column; "
            f"{columns.text}."
        )
    return np.arange(columns.n, dtype=np.intp)[key]


def _select_label_slice(key: slice, columns: _Columns, group: str) -> NDArray[np.intp]:
    """Slice by names; the end is included, as in pandas."""
    if key.step not in (None, 1):
        raise ValueError(
            f"modalities[{group!r}]: expected a slice of names without a step, got "
            f"{key}."
        )
    if not all(end is None or isinstance(end, str) for end in (key.start, key.stop)):
        raise _bad_selector(key, group)
    start, stop = 0, columns.n
    if key.start is not None:
        start = _select_names([key.start], columns, group)[0]
    if key.stop is not None:
        stop = _select_names([key.stop], columns, group)[-1] + 1
    return np.arange(start, stop, dtype=np.intp)


def _block(name: str, modality: Modality, indices: NDArray[np.intp]) -> Block:
    _check_name(name)
    shape = _resolve_shape(name, modality.shape, len(indices))
    _check_choice(name, "likelihood", modality.likelihood, LIKELIHOODS)
    _check_choice(name, "scaling", modality.scaling, SCALINGS)
    _check_scale(name, modality.scale)
    _check_network(name, "encoder", modality.encoder)
    _check_network(name, "decoder", modality.decoder)
    return Block(
        name,
        _as_slice(indices),
        shape,
        modality.likelihood,
        _resolve_scaling(name, modality, shape),
        modality.encoder,
        modality.decoder,
        modality.scale,
    )


def _as_slice(indices: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    if (np.diff(indices) == 1).all():
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _resolve_shape(name: str, shape: Any, size: int) -> tuple[int, ...]:
    if shape is None:
        return (size,)
    field = f"modalities[{name!r}].shape"
    if not isinstance(shape, tuple | list) or not all(map(_is_index, shape)):
        raise TypeError(f"{field}: expected a tuple of integers, got {shape!r}.")
    if not 1 <= len(shape) <= 3 or min(shape) <= 0:
        raise ValueError(
            f"{field}: expected (d,), (C, H, W) or (T, D) with positive lengths, got "
            f"{shape!r}."
        )
    if math.prod(shape) != size:
        raise ValueError(
            f"{field}: {shape!r} has {math.prod(shape)} entries, but the modality has "
            f"{size} columns. Change the shape or the columns."
        )
    return tuple(map(int, shape))


def _check_choice(
    name: str, field: str, value: Any, choices: Sequence[str | None]
) -> None:
    # The type first: comparing an array with the choices would be elementwise.
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(
            f"modalities[{name!r}].{field}: expected one of {list(choices)}, got "
            f"{value!r}."
        )


def _check_scale(name: str, scale: Any) -> None:
    number = isinstance(scale, Real) and not isinstance(scale, bool)
    if not ((number and 0 < scale < math.inf) or isinstance(scale, str)):
        raise ValueError(
            f"modalities[{name!r}].scale: expected a positive number or 'learn', got "
            f"{scale!r}."
        )
    if isinstance(scale, str):
        _check_choice(name, "scale", scale, ("learn",))


def _check_network(name: str, field: str, network: Any) -> None:
    if not (network is None or isinstance(network, str) or callable(network)):
        raise TypeError(
            f"modalities[{name!r}].{field}: expected None, a string or a class of "
            f"modules, got {network!r}."
        )


def _resolve_scaling(
    name: str, modality: Modality, shape: tuple[int, ...]
) -> str | None:
    bounded = modality.likelihood in ("bernoulli", "categorical")
    if modality.scaling == "auto":
        return None if bounded or len(shape) == 3 else "column"
    if bounded and modality.scaling is not None:
        raise ValueError(
            f"modalities[{name!r}].scaling: the likelihood {modality.likelihood!r} is "
            f"about values in [0, 1], which scaling={modality.scaling!r} would leave. "
            "Use scaling=None or another likelihood."
        )
    return modality.scaling


def row_chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of rows that cover X in order, of some 2 MiB of float64 each.

    Parameters
    ----------
    n_rows, n_columns : int
        Shape of the array to walk through.

    Yields
    ------
    rows : slice
        At least one row.
    """
    step = max(1, CHUNK_CELLS // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def split_blocks(X: NDArray[Any], layout: Layout) -> list[NDArray[Any]]:
    """Cut X into the blocks of its modalities.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Validated data.
    layout : Layout
        Modalities.

    Returns
    -------
    blocks : list of ndarray of shape (n_samples, block.size)
        Views of X where the columns of a block are contiguous, else copies.
    """
    return [X[:, block.columns] for block in layout]


def observed_modalities(X: NDArray[Any], layout: Layout) -> NDArray[np.bool_]:
    """Mark which modalities each row has.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Validated data, read once, in chunks of rows.
    layout : Layout
        Modalities. The columns of the group "drop" are not looked at.

    Returns
    -------
    observed : ndarray of bool of shape (n_samples, n_modalities)
        False where the block is NaN as a whole.

    Raises
    ------
    ValueError
        If there are infinities.
    """
    observed = np.empty((len(X), len(layout)), dtype=bool)
    for rows, part in _observed_parts(X, layout):
        observed[rows] = part
    return observed


def observed_weight(
    X: NDArray[Any],
    layout: Layout,
    sample_weight: NDArray[Any] | None = None,
    *,
    must: bool = True,
) -> NDArray[np.float64]:
    """Weight of the rows that have each modality, checked at fit to be positive.

    As `observed_modalities` and `check_observed`, without keeping anything a row.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Validated data, read once, in chunks of rows.
    layout : Layout
        Modalities.
    sample_weight : ndarray of shape (n_samples,), default=None
        Weights; one each by default.
    must : bool, default=True
        Whether each must have some.

    Returns
    -------
    weight : ndarray of shape (n_modalities,)

    Raises
    ------
    ValueError
        If there are infinities, a modality is never observed in a row that counts, or
        no row counts.
    """
    total = np.zeros(len(layout))
    for rows, part in _observed_parts(X, layout):
        own = np.ones(len(part)) if sample_weight is None else sample_weight[rows]
        total += own @ part
    if not must:
        return total
    # One row stands for all: modalities that have weight, and whether any row has.
    some = sample_weight is None or bool((sample_weight > 0).any())
    check_observed(
        (total > 0)[np.newaxis], layout, sample_weight=np.array([float(some)])
    )
    return total


def _observed_parts(
    X: NDArray[Any], layout: Layout
) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
    """Which modalities rows have, chunk by chunk; raises in the end on infinities."""
    infinite: dict[str, list[int]] = {}
    for rows in row_chunks(*X.shape):
        observed = np.empty((rows.stop - rows.start, len(layout)), dtype=bool)
        for m, block in enumerate(layout):
            values = X[rows, block.columns]
            finite = np.isfinite(values)
            observed[:, m] = finite.any(axis=1)
            if not finite.all():
                found = np.flatnonzero(np.isinf(values).any(axis=1)) + rows.start
                infinite.setdefault(block.name, []).extend(found.tolist())
        yield rows, observed
    _raise_infinite({name: rows for name, rows in infinite.items() if rows})


def _raise_infinite(infinite: Mapping[str, list[int]]) -> None:
    if infinite:
        where = "; ".join(
            f"modality {name!r}, {list_rows(rows)}" for name, rows in infinite.items()
        )
        raise ValueError(
            f"Input X contains infinity: {where}. Correct these values, or set them to "
            "NaN to mark them as missing."
        )


def list_rows(rows: Sequence[int] | NDArray[np.intp]) -> str:
    shown = ", ".join(str(row) for row in rows[:5])
    if len(rows) == 1:
        return f"row {shown}"
    return f"rows {shown}{', ...' * (len(rows) > 5)} ({len(rows)} in all)"


def check_observed(
    observed: NDArray[np.bool_],
    layout: Layout,
    *,
    sample_weight: NDArray[Any] | None = None,
    allow_empty_rows: bool = True,
) -> None:
    """Check at fit that there is something to learn from in every modality.

    Parameters
    ----------
    observed : ndarray of bool of shape (n_samples, n_modalities)
        Result of `observed_modalities`.
    layout : Layout
        Modalities.
    sample_weight : ndarray of shape (n_samples,), default=None
        Weights; rows of weight zero do not count.
    allow_empty_rows : bool, default=True
        Whether rows with nothing observed are accepted.

    Raises
    ------
    ValueError
        If a modality is never observed, no weight is positive, or, where they are not
        allowed, rows have nothing observed.
    """
    counts = np.ones(len(observed), dtype=bool)
    if sample_weight is not None:
        counts = np.asarray(sample_weight) > 0
    if not counts.any():
        raise ValueError(
            "sample_weight: all weights are zero; at least one must be positive."
        )
    seen = observed[counts].any(axis=0)
    if not seen.all():
        _raise_never_observed([layout.names[m] for m in np.flatnonzero(~seen)])
    if not allow_empty_rows:
        check_rows_observed(observed | ~counts[:, np.newaxis])


def _raise_never_observed(names: list[str]) -> None:
    one = len(names) == 1
    raise ValueError(
        f"X: the modalit{'y' if one else 'ies'} {', '.join(map(repr, names))} "
        f"{'is' if one else 'are'} never observed: all values are NaN in all rows that "
        "count. Check these columns, or put them in the reserved group "
        f"{DROP!r} of `modalities`."
    )


def check_rows_observed(observed: NDArray[np.bool_]) -> None:
    """Check that every row has at least one modality.

    Parameters
    ----------
    observed : ndarray of bool of shape (n_samples, n_modalities)
        Result of `observed_modalities`.

    Raises
    ------
    ValueError
        If rows have nothing observed.
    """
    empty = np.flatnonzero(~observed.any(axis=1))
    if len(empty):
        raise ValueError(
            f"X: {list_rows(empty)}: no modality is observed, all values are NaN. "
            "Remove such rows, since there is nothing to tell them apart by."
        )


def time_steps_observed(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the time steps that are not padding.

    Padding are the steps at the end of a sequence that are NaN as a whole. Such a step
    in the middle is a gap in the data, not padding.

    Parameters
    ----------
    values : ndarray of shape (n_samples, T, D)
        Block of sequences.

    Returns
    -------
    observed : ndarray of bool of shape (n_samples, T)
        True up to the last step that has a value.
    """
    n_samples, n_steps, n_variables = values.shape
    observed = np.empty((n_samples, n_steps), dtype=bool)
    for rows in row_chunks(n_samples, n_steps * n_variables):
        present = ~np.isnan(values[rows]).all(axis=2)
        from_end = np.logical_or.accumulate(present[:, ::-1], axis=1)
        observed[rows] = from_end[:, ::-1]
    return observed


def check_likelihood(X: NDArray[Any], layout: Layout) -> None:
    """Check at fit that values are possible under the likelihood of their modality.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Validated data; NaN is left out.
    layout : Layout
        Modalities.

    Raises
    ------
    ValueError
        If values of a "bernoulli" modality are outside of [0, 1], or vectors of a
        "categorical" one are not one-hot.
    """
    for block in layout:
        if block.likelihood in _IMPOSSIBLE:
            is_bad, expected = _IMPOSSIBLE[block.likelihood]
            bad = np.zeros(len(X), dtype=bool)
            for rows in row_chunks(len(X), block.size):
                bad[rows] = is_bad(X[rows, block.columns], block)
            _raise_impossible(block, expected, np.flatnonzero(bad))


def _outside_unit_interval(values: NDArray[Any], block: Block) -> NDArray[np.bool_]:
    return np.asarray(((values < 0) | (values > 1)).any(axis=1))


def _not_one_hot(values: NDArray[Any], block: Block) -> NDArray[np.bool_]:
    vectors = values.reshape(len(values), -1, block.shape[-1])
    ones, missing = vectors == 1, np.isnan(vectors)
    n_ones = ones.sum(axis=-1)
    # The one may hide behind a NaN.
    hidden = missing.any(axis=-1) & (n_ones == 0)
    possible = (ones | missing | (vectors == 0)).all(axis=-1)
    return np.asarray((~possible | ~(hidden | (n_ones == 1))).any(axis=1))


_Check = Callable[[NDArray[Any], Block], NDArray[np.bool_]]
_IMPOSSIBLE: dict[str, tuple[_Check, str]] = {
    "bernoulli": (_outside_unit_interval, "values in [0, 1]"),
    "categorical": (_not_one_hot, "vectors that are one-hot along the last axis"),
}


def _raise_impossible(block: Block, expected: str, rows: NDArray[np.intp]) -> None:
    if len(rows):
        raise ValueError(
            f"modalities[{block.name!r}].likelihood: {block.likelihood!r} expects "
            f"{expected} of the shape {block.shape}, got others in {list_rows(rows)}. "
            "Transform these values or choose another likelihood."
        )
