"""Two bundled sets of digits seen in several ways; see ``data/NOTICE.md``."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from skmm.datasets._checks import check_option

MFEAT_VIEWS = ("fac", "pix", "kar", "fou", "zer", "mor")

MFEAT_DESCR = """\
Multiple features: handwritten numerals in six views
-----------------------------------------------------
2000 digits from Dutch utility maps, 200 of each class. Each is described by

==== ======= ==========================================
view columns content
==== ======= ==========================================
fac  216     profile correlations
pix  240     pixel averages, a picture of 16 x 15, 0 to 6
kar  64      Karhunen-Loeve coefficients
fou  76      Fourier coefficients of the shape
zer  47      Zernike moments
mor  6       morphological features
==== ======= ==========================================

Fourier coefficients and Zernike moments hardly change when a digit is turned, so
6 and 9 are told apart by the other views. Nothing is scaled.

M. van Breukelen, R. P. W. Duin, D. M. J. Tax, J. E. den Hartog, "Handwritten digit
recognition by combined classifiers", Kybernetika 34(4), 381-386, 1998.
UCI Machine Learning Repository, "Multiple Features".
"""

DIGITS_PEN_DESCR = """\
Digits and pen paths: a scanned picture and a pen's path of the same class
--------------------------------------------------------------------------
5620 pairs of

===== ======= =====================================================
view  columns content
===== ======= =====================================================
image 64      a picture of 8 x 8, 0 to 16
pen   16      eight points (x, y) along the path of a pen, 0 to 100
===== ======= =====================================================

The first 3823 pictures, for training, are by 30 writers; the last 1797, for testing,
are those of scikit-learn's load_digits, by 13 other writers. Every picture got a pen
path of its class, drawn without replacement, so the two views agree in the class and
in nothing else: they are independent given it. Nothing is scaled.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", 1998, and
E. Alpaydin, F. Alimoglu, "Pen-Based Recognition of Handwritten Digits", 1998, both
UCI Machine Learning Repository.
"""


def load_mfeat(
    *,
    views: Sequence[str] = MFEAT_VIEWS,
    return_X_y: bool = False,
    as_frame: bool = False,
) -> Any:
    """Load the handwritten numerals in up to six views (2000 rows, 10 classes).

    ================= =============
    Classes                      10
    Samples per class           200
    Samples total              2000
    Modalities        1 to 6 views
    Features             6 to 649
    ================= =============

    Parameters
    ----------
    views : sequence of str, default=("fac", "pix", "kar", "fou", "zer", "mor")
        The views to load; their columns come in this order. ``"fac"`` has 216
        columns, ``"pix"`` 240, ``"kar"`` 64, ``"fou"`` 76, ``"zer"`` 47 and ``"mor"``
        6. Names may not repeat.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Give data as pandas DataFrame and target as Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        data : ndarray or DataFrame of shape (2000, n_features)
            The columns of the views side by side, float64, unscaled.
        target : ndarray or Series of shape (2000,)
            The digit.
        feature_names : list of str
            Such as ``"pix__0"``, the form that ``modalities="auto"`` reads.
        target_names : ndarray of shape (10,)
            The digits.
        modalities : dict of str to slice
            The columns of each view, to pass as ``modalities``.
        frame : DataFrame of shape (2000, n_features + 1) or None
            Data and target, if `as_frame`.
        DESCR : str
            Where the data come from.

    (data, target) : tuple if `return_X_y` is True
        The first two of these attributes.

    Raises
    ------
    ValueError
        If `views` is empty, repeats a view, or names one that does not exist.

    References
    ----------
    .. [1] M. van Breukelen, R. P. W. Duin, D. M. J. Tax, J. E. den Hartog,
       "Handwritten digit recognition by combined classifiers", Kybernetika 34(4),
       381-386, 1998.

    Examples
    --------
    >>> from skmm.datasets import load_mfeat
    >>> mfeat = load_mfeat(views=["pix", "fou", "zer"])
    >>> mfeat.data.shape
    (2000, 363)
    >>> mfeat.modalities["fou"]
    slice(240, 316, None)
    """
    views = _check_views(views)
    arrays = _read("mfeat")
    return _bundle(
        {view: arrays[view] for view in views},
        {view: [f"{i}" for i in range(arrays[view].shape[1])] for view in views},
        arrays["y"],
        return_X_y=return_X_y,
        as_frame=as_frame,
        DESCR=MFEAT_DESCR,
    )


def load_digits_pen(
    *, subset: str = "all", return_X_y: bool = False, as_frame: bool = False
) -> Any:
    """Load pictures of digits, each with a pen path of the same class (10 classes).

    ================= ==============
    Classes                       10
    Samples total               5620
    Samples, training           3823
    Samples, test               1797
    Modalities        image, pen
    Features                 64 + 16
    ================= ==============

    Parameters
    ----------
    subset : {"all", "train", "test"}, default="all"
        ``"train"`` are pictures by 30 writers, ``"test"`` are those of
        :func:`~sklearn.datasets.load_digits` by 13 others, ``"all"`` is the first
        followed by the second.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Give data as pandas DataFrame and target as Series.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        With the attributes

        data : ndarray or DataFrame of shape (n_samples, 80)
            64 pixels by row of the picture, then x and y of eight points; float64,
            unscaled.
        target : ndarray or Series of shape (n_samples,)
            The digit.
        feature_names : list of str
            Such as ``"image__pixel_0_7"`` and ``"pen__x3"``.
        target_names : ndarray of shape (10,)
            The digits.
        modalities : dict of str to slice
            The columns of ``"image"`` and ``"pen"``, to pass as ``modalities``.
        test : ndarray of shape (n_samples,), bool
            True for the rows held out for testing.
        groups : ndarray of shape (n_samples,), int
            0 for training, 1 for test rows.
        frame : DataFrame of shape (n_samples, 81) or None
            Data and target, if `as_frame`.
        DESCR : str
            Where the data come from.

    (data, target) : tuple if `return_X_y` is True
        The first two of these attributes.

    Notes
    -----
    No pen path is used twice, and pairs are always the same. The views are
    independent given the class: accuracy on both rises for any method, so look at
    one-view accuracy too. Writers of pen paths are not held out.

    References
    ----------
    .. [1] E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
       Machine Learning Repository, 1998.
    .. [2] E. Alpaydin, F. Alimoglu, "Pen-Based Recognition of Handwritten Digits",
       UCI Machine Learning Repository, 1998.

    Examples
    --------
    >>> from skmm.datasets import load_digits_pen
    >>> digits = load_digits_pen(subset="test")
    >>> digits.data.shape, digits.modalities["pen"]
    ((1797, 80), slice(64, 80, None))
    """
    check_option(
        "subset", subset, ("all", "train", "test"), "Use 'all' for both parts."
    )
    image, pen, y, test = _pair_by_class()
    rows = {"all": np.ones_like(test), "train": ~test, "test": test}[subset]
    return _bundle(
        {"image": image[rows], "pen": pen[rows]},
        {
            "image": [f"pixel_{i}_{j}" for i in range(8) for j in range(8)],
            "pen": [f"{axis}{t}" for t in range(8) for axis in "xy"],
        },
        y[rows],
        return_X_y=return_X_y,
        as_frame=as_frame,
        DESCR=DIGITS_PEN_DESCR,
        test=test[rows],
        groups=test[rows].astype(np.int64),
    )


def _check_views(views: Sequence[str]) -> list[str]:
    """Return `views` as a list, if it names existing views, each once."""
    remedy = f"Choose from {MFEAT_VIEWS}."
    if isinstance(views, str):
        raise TypeError(
            f"views: expected a sequence of names, got the string {views!r}. "
            f"Pass [{views!r}]."
        )
    views = list(views)
    if not views or len(set(views)) < len(views) or not set(views) <= set(MFEAT_VIEWS):
        raise ValueError(
            f"views: expected one or more distinct views, got {views!r}. {remedy}"
        )
    return views


def _read(name: str) -> dict[str, np.ndarray]:
    """Read the arrays of a bundled file."""
    path = files("skmm.datasets") / "data" / f"{name}.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def _pair_by_class() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return pictures, pen paths, classes, and which rows are for testing."""
    train, pen = _read("optdigits_train"), _read("pendigits")
    test_image, test_y = load_digits(return_X_y=True)
    image = np.vstack([train["X"], test_image])
    y = np.concatenate([train["y"], test_y])
    path = np.empty((len(y), pen["X"].shape[1]))
    # Drawn class by class from one fixed stream: the pairs belong to the data set,
    # so this order and the seed must stay.
    rng = np.random.default_rng(0)
    for digit in range(10):
        rows = np.flatnonzero(y == digit)
        drawn = rng.choice(np.flatnonzero(pen["y"] == digit), len(rows), replace=False)
        path[rows] = pen["X"][drawn]
    return image, path, y, np.arange(len(y)) >= len(train["y"])


def _bundle(
    blocks: Mapping[str, np.ndarray],
    names: Mapping[str, Sequence[str]],
    y: np.ndarray,
    *,
    return_X_y: bool,
    as_frame: bool,
    **more: Any,
) -> Any:
    """Build a Bunch as scikit-learn's loaders do, with `modalities` added."""
    feature_names = [f"{view}__{column}" for view in blocks for column in names[view]]
    data: Any = np.hstack([np.asarray(b, dtype=np.float64) for b in blocks.values()])
    target: Any = y.astype(np.int64)
    frame = None
    if as_frame:
        import pandas as pd

        data = pd.DataFrame(data, columns=feature_names)
        target = pd.Series(target, name="target")
        frame = pd.concat([data, target], axis=1)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        frame=frame,
        feature_names=feature_names,
        target_names=np.arange(10),
        modalities=_slices({view: b.shape[1] for view, b in blocks.items()}),
        **more,
    )


def _slices(widths: Mapping[str, int]) -> dict[str, slice]:
    """Lay out consecutive columns, as slices by name."""
    stops = np.cumsum(list(widths.values())).tolist()
    return {
        name: slice(stop - width, stop)
        for (name, width), stop in zip(widths.items(), stops, strict=True)
    }
