"""Feature files of CMU-MOSI, CMU-MOSEI and CH-SIMS, as MMSA publishes them.

They are pickles, which `_inert_pickle` reads without running anything.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from skmm.datasets._checks import check_option
from skmm.datasets._inert_pickle import StoredArray, read_pickle
from skmm.modalities import Modality

SPLITS = ("train", "valid", "test")
MODALITIES = ("text", "audio", "vision")
PADDINGS = ("auto", "zeros", "none")
# What a row has besides its features, where the file has it.
TEXTS = {"id": "ids", "raw_text": "raw_text", "annotations": "annotations"}
LABELS = (
    "regression_labels",
    "classification_labels",
    "regression_labels_T",
    "regression_labels_A",
    "regression_labels_V",
)
# A million cells are 8 MiB of float64.
CHUNK_CELLS = 2**20

MMSA_DESCR = """\
Sentiment of video clips from their text, audio and vision
-----------------------------------------------------------
Features of CMU-MOSI, CMU-MOSEI or CH-SIMS in the form of the platform MMSA: for each
clip a sequence a modality, and a label of sentiment, in [-3, 3] for MOSI and MOSEI and
in [-1, 1] for SIMS. The features and their licences are those of the data sets.

H. Mao, Z. Yuan, H. Xu, W. Yu, Y. Liu, K. Gao, "M-SENA: an integrated platform for
multimodal sentiment analysis", ACL: System Demonstrations, 2022.
"""


def load_mmsa(
    path: Any,
    *,
    split: str | None = None,
    modalities: Sequence[str] = MODALITIES,
    target: str = "regression_labels",
    padding: str = "auto",
    dtype: Any = "float32",
    return_X_y: bool = False,
) -> Any:
    """Load a feature file of CMU-MOSI, CMU-MOSEI or CH-SIMS, as MMSA publishes them.

    Such a file, say ``unaligned_50.pkl``, is a pickle of
    ``{"train": {...}, "valid": {...}, "test": {...}}``, each with arrays ``"text"``,
    ``"audio"`` and ``"vision"`` of shape (n, T, D), ``"regression_labels"``, and often
    more. It is read from the local disk; nothing is downloaded.

    Nothing in the file is run: a pickle that asks for anything but numpy arrays,
    numbers, text and containers is refused. It may still fill the memory.

    Parameters
    ----------
    path : str or path-like
        The file.
    split : {"train", "valid", "test"} or None, default=None
        The part to load. None loads those that the file has, in this order.
    modalities : sequence of str, default=("text", "audio", "vision")
        The modalities to load; their columns come in this order. Any other array of
        features in the file is a modality too.
    target : str, default="regression_labels"
        The labels to load as `target`, for CH-SIMS perhaps ``"regression_labels_A"``,
        what the audio alone expresses.
    padding : {"auto", "zeros", "none"}, default="auto"
        Which time steps at the end of a sequence are NaN, which means padding.
        ``"zeros"``: those that are zero as a whole. ``"auto"``: those of them that are
        beyond the length of the sequence, where the file has ``"audio_lengths"`` and
        the like. ``"none"``: none, zeros stay.
    dtype : {"float32", "float64"}, default="float32"
        Type of the data.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        data : ndarray of shape (n_samples, n_features)
            The modalities side by side, each row of shape (T, D) time step by time
            step; NaN where there is padding.
        target : ndarray of shape (n_samples,)
            The labels, in their own float type.
        modalities : dict of str to :class:`~skmm.modalities.Modality`
            Columns and shapes (T, D), to pass as ``modalities``.
        split : ndarray of shape (n_samples,)
            ``"train"``, ``"valid"`` or ``"test"``.
        n_steps : dict of str to ndarray of shape (n_samples,)
            Number of time steps before the padding, of each modality.
        n_replaced : int
            Number of values -inf that became 0.
        feature_names : list of str
            Such as ``"audio__3_0"``, of time step 3 and feature 0.
        ids, raw_text, annotations : ndarray of shape (n_samples,)
            Name of the clip, its words, and such as "Positive"; where the file has
            them.
        regression_labels, classification_labels, regression_labels_T, \
regression_labels_A, regression_labels_V : ndarray of shape (n_samples,)
            Labels, where the file has them; the last three are those of CH-SIMS for
            single modalities.
        DESCR : str
            Where such data come from.

    (data, target) : tuple if `return_X_y` is True
        The first two of these attributes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not of this form, asks for code (then the error is a
        :exc:`pickle.UnpicklingError` as well), or lacks the split, a modality or the
        target.

    See Also
    --------
    skmm.metrics.sentiment_scores : Scores of these data sets.

    Notes
    -----
    Some of the published audio has values -inf. They become 0, as in MMSA, before
    padding is looked for; `n_replaced` counts them. Other infinities are left to the
    estimators, which name them.

    A sequence without a single step is NaN as a whole: a missing modality. A step that
    is not zero is never padding, even beyond the length that the file states.

    MMSA pads at the end. In files of other origin that pad at the beginning, zeros
    there stay.

    All of MOSEI takes 4 GB as float32 where modalities are aligned to 50 words, 8.5 GB
    where they are not, and the file as much again while it is read.

    References
    ----------
    .. [1] H. Mao, Z. Yuan, H. Xu, W. Yu, Y. Liu, K. Gao, "M-SENA: an integrated
       platform for multimodal sentiment analysis", ACL: System Demonstrations, 2022.

    Examples
    --------
    A tiny file of the same form, with one clip a split:

    >>> import pickle, tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from skmm.datasets import load_mmsa
    >>> part = {
    ...     "text": np.ones((1, 3, 4)),
    ...     "audio": np.array([[[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]]),
    ...     "vision": np.ones((1, 2, 3)),
    ...     "audio_lengths": [2],
    ...     "regression_labels": np.array([0.8]),
    ... }
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "tiny.pkl"
    ...     _ = file.write_bytes(pickle.dumps(dict.fromkeys(["train", "test"], part)))
    ...     clips = load_mmsa(file, modalities=["audio", "text"])
    >>> clips.data.shape, clips.split
    ((2, 18), array(['train', 'test'], dtype='<U5'))
    >>> clips.data[0, clips.modalities["audio"].columns]
    array([ 1.,  2.,  0.,  0., nan, nan], dtype=float32)
    """
    names = _check_names(modalities)
    dtype = _check_dtype(dtype)
    check_option("padding", padding, PADDINGS, "Use 'auto' for lengths and zeros.")
    parts = _choose_splits(read_pickle(path), split)
    labels = {part: _column(fields, target, part) for part, fields in parts.items()}
    sizes = {part: len(column) for part, column in labels.items()}
    if return_X_y:
        extras: dict[str, Any] = {}
    else:
        extras = _extras(parts, sizes)
    shapes = _shapes(parts, names, sizes)
    columns = _columns(shapes)
    data, n_steps, n_replaced = _assemble(parts, sizes, shapes, padding, dtype)
    y = np.concatenate(list(labels.values()))
    if return_X_y:
        return data, y
    return Bunch(
        data=data,
        target=y,
        modalities={
            name: Modality(columns[name], shape=shape) for name, shape in shapes.items()
        },
        split=np.repeat(list(parts), list(sizes.values())),
        n_steps=n_steps,
        n_replaced=n_replaced,
        feature_names=_feature_names(shapes),
        **extras,
        DESCR=MMSA_DESCR,
    )


# ------------------------------------------------------------------ arguments
def _check_names(modalities: Any) -> list[str]:
    """Return the names as a list, if they are distinct and not token numbers."""
    if isinstance(modalities, str):
        raise TypeError(
            f"modalities: expected a sequence of names, got the string {modalities!r}. "
            f"Pass [{modalities!r}]."
        )
    names = list(modalities)
    text = all(isinstance(name, str) for name in names)
    if not names or not text or len(set(names)) < len(names):
        raise ValueError(
            f"modalities: expected one or more distinct names, got {names!r}. Choose "
            f"from {MODALITIES}."
        )
    if "text_bert" in names:
        raise ValueError(
            "modalities: expected features, got 'text_bert', which holds numbers of "
            "tokens for a language model. Use 'text', what such a model made of them."
        )
    return names


def _check_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        known = np.dtype(dtype)
    except TypeError:
        known = np.dtype(object)
    if known not in (np.float32, np.float64):
        raise ValueError(
            f"dtype: expected float32 or float64, got {dtype!r}. Padding is NaN, which "
            "only these can hold."
        )
    return known


# ------------------------------------------------------------- the file's form
_Fields = dict[str, Any]


def _choose_splits(content: Any, split: Any) -> dict[str, _Fields]:
    """Return the fields of the splits to load."""
    if not isinstance(content, dict):
        raise ValueError(
            f"path: expected a dict of {SPLITS}, got a {type(content).__name__} in the "
            "file. Pass a feature file of MMSA, such as unaligned_50.pkl."
        )
    content = {_text(key): fields for key, fields in content.items()}
    found = [name for name in SPLITS if isinstance(content.get(name), dict)]
    if not found:
        raise ValueError(
            f"path: expected a dict of {SPLITS}, got one of {list(content)[:5]}. Pass "
            "a feature file of MMSA, such as unaligned_50.pkl."
        )
    if split is not None:
        check_option("split", split, SPLITS, f"The file has {found}; None loads these.")
        if split not in found:
            raise ValueError(
                f"split: expected one of those in the file, {found}, got {split!r}. "
                "Use another, or None for all that there are."
            )
        found = [split]
    # Copies, one a split: what has been read is taken out of them.
    return {
        name: {_text(key): value for key, value in content[name].items()}
        for name in found
    }


def _column(fields: _Fields, name: str, part: str) -> np.ndarray:
    """Return a field of one number or text a row."""
    if not isinstance(name, str) or name not in fields:
        have = [label for label in (*LABELS, "annotations") if label in fields]
        raise ValueError(
            f"target: expected a field of the split {part!r}, such as {have}, got "
            f"{name!r}. Choose one of these."
        )
    values = _as_array(fields[name], f"{part}[{name!r}]")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            f"{part}[{name!r}]: expected one value a row, got the shape "
            f"{values.shape}. Use another field, or check the file."
        )
    return values


def _as_array(value: Any, where: str) -> np.ndarray:
    """Return an array or a list of the file as an array; text as Python strings."""
    if isinstance(value, StoredArray):
        values = value.values
    elif isinstance(value, list | tuple):
        items = [
            item.values if isinstance(item, StoredArray) else item for item in value
        ]
        text = any(isinstance(item, str | bytes | None) for item in items)
        try:
            values = np.array(items, dtype=object if text else None)
        except ValueError:
            values = np.empty(0, dtype=object)
        if values.dtype.kind not in "biufO" or (values.dtype == object and not text):
            raise ValueError(
                f"{where}: expected numbers or text, got {type(items[0]).__name__}s "
                "that make no array. Check the file."
            )
    else:
        raise ValueError(
            f"{where}: expected an array or a list, got a {type(value).__name__}. "
            "Check the file."
        )
    if values.dtype.kind in "biuf":
        return values if values.dtype.isnative else values.astype(float)
    items = values.ravel().tolist()
    if items and all(isinstance(item, int | float) for item in items):
        return values.astype(np.float64)
    as_text = np.empty(len(items), dtype=object)
    as_text[:] = [_text(item) for item in items]
    return as_text.reshape(values.shape)


def _text(value: Any) -> Any:
    """Decode the 8-bit strings of Python 2."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _extras(parts: Mapping[str, _Fields], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Names, words and labels, of the fields that all splits have."""
    extras = {}
    for name, ours in {**TEXTS, **dict(zip(LABELS, LABELS, strict=True))}.items():
        if all(name in fields for fields in parts.values()):
            columns = [_column(fields, name, part) for part, fields in parts.items()]
            for column, (part, size) in zip(columns, sizes.items(), strict=True):
                _check_length(column, size, f"{part}[{name!r}]")
            extras[ours] = np.concatenate(columns)
    return extras


def _check_length(values: Any, size: int, where: str, remedy: str = "") -> None:
    if len(values) != size:
        raise ValueError(
            f"{where}: expected {size} rows, as the target has, got {len(values)}. "
            f"{remedy or 'Check the file, perhaps by downloading it again.'}"
        )


def _shapes(
    parts: Mapping[str, _Fields], names: Sequence[str], sizes: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Shape of one row of each modality, the same in all splits."""
    shapes: dict[str, tuple[int, ...]] = {}
    for part, fields in parts.items():
        for name in names:
            shape = _check_features(fields, name, part, sizes[part])
            if shapes.setdefault(name, shape) != shape:
                raise ValueError(
                    f"{part}[{name!r}]: expected rows of shape {shapes[name]}, as in "
                    f"{next(iter(parts))!r}, got {shape}. Load the splits one by one."
                )
    return shapes


def _check_features(
    fields: _Fields, name: str, part: str, size: int
) -> tuple[int, ...]:
    if name not in fields:
        have = [
            key
            for key, value in fields.items()
            if isinstance(value, StoredArray) and value.values.ndim == 3
            if key != "text_bert"
        ]
        raise ValueError(
            f"modalities: expected modalities of the split {part!r}, {have}, got "
            f"{name!r}. Choose from these."
        )
    value = fields[name]
    values = (
        value.values if isinstance(value, StoredArray) else np.empty(0, dtype=object)
    )
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3) or not values.size:
        got = (
            f"the type {values.dtype} and shape {values.shape}"
            if isinstance(value, StoredArray)
            else f"a {type(value).__name__}"
        )
        raise ValueError(
            f"{part}[{name!r}]: expected numbers of shape (n, T, D) or (n, D), got "
            f"{got}. Choose another modality, or check the file."
        )
    _check_length(values, size, f"{part}[{name!r}]")
    return values.shape[1:]


# ------------------------------------------------------------------- the table
def _columns(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, slice]:
    stops = np.cumsum([math.prod(shape) for shape in shapes.values()]).tolist()
    return {
        name: slice(stop - math.prod(shape), stop)
        for (name, shape), stop in zip(shapes.items(), stops, strict=True)
    }


def _feature_names(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [
        f"{name}__{'_'.join(map(str, index))}"
        for name, shape in shapes.items()
        for index in np.ndindex(shape)
    ]


def _assemble(
    parts: Mapping[str, _Fields],
    sizes: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    padding: str,
    dtype: np.dtype[Any],
) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """Put the modalities side by side, and the splits below each other."""
    columns = _columns(shapes)
    n_rows = sum(sizes.values())
    data = np.empty((n_rows, sum(map(math.prod, shapes.values()))), dtype=dtype)
    n_steps = {
        name: np.full(n_rows, shape[0])
        for name, shape in shapes.items()
        if len(shape) == 2
    }
    n_replaced, start = 0, 0
    for part, fields in parts.items():
        for name, shape in shapes.items():
            lengths = _lengths(fields, name, sizes[part], padding, part)
            values = fields.pop(name).values
            for rows in _chunks(len(values), math.prod(shape)):
                block = _cast(values[rows], dtype)
                here = slice(start + rows.start, start + rows.stop)
                if name == "audio":
                    n_replaced += _replace(block)
                if name in n_steps and padding != "none":
                    n_steps[name][here] = _mark_padding(block, lengths[rows])
                data[here, columns[name]] = block.reshape(len(block), -1)
        start += sizes[part]
    return data, n_steps, n_replaced


def _chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    step = max(1, CHUNK_CELLS // n_columns)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _cast(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    # What float32 cannot hold becomes infinite, and is reported as that.
    with np.errstate(over="ignore"):
        return np.array(values, dtype=dtype, order="C")


def _replace(block: np.ndarray) -> int:
    """Set -inf to 0, and count."""
    infinite = np.isneginf(block)
    block[infinite] = 0
    return int(infinite.sum())


def _lengths(
    fields: _Fields, name: str, size: int, padding: str, part: str
) -> np.ndarray:
    """Least number of steps of each sequence; 0 where it is not stated."""
    field = f"{name}_lengths"
    if padding != "auto" or field not in fields:
        return np.zeros(size, dtype=np.intp)
    where, remedy = f"{part}[{field!r}]", "Use padding='zeros', which does not read it."
    lengths = _column(fields, field, part)
    _check_length(lengths, size, where, remedy)
    numbers = lengths.dtype.kind in "iuf"
    if not numbers or not (lengths >= 0).all() or (lengths % 1 != 0).any():
        raise ValueError(
            f"{where}: expected numbers of time steps, got others, such as "
            f"{lengths[0]!r}. {remedy}"
        )
    return lengths.astype(np.intp)


def _mark_padding(block: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Set steps beyond the length to NaN, as far as they are zero; count the others."""
    total = block.shape[1]
    filled = ((block != 0) & ~np.isnan(block)).any(axis=2)
    last = np.where(filled.any(axis=1), total - filled[:, ::-1].argmax(axis=1), 0)
    n_steps = np.maximum(last, np.minimum(lengths, total))
    block[np.arange(total) >= n_steps[:, np.newaxis]] = np.nan
    return n_steps
