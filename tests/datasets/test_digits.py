"""The bundled sets: values fixed by hashes, forms as in scikit-learn's loaders."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from skmm.datasets import load_digits_pen, load_mfeat
from skmm.modalities import resolve_modalities

WIDTHS = {"fac": 216, "pix": 240, "kar": 64, "fou": 76, "zer": 47, "mor": 6}


def short_hash(array, dtype):
    return hashlib.sha256(np.ascontiguousarray(array, dtype).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    "load, X_hash, y_hash",
    [
        (load_mfeat, "d63b6f6d3db37580", "4e64a02568003d89"),
        (load_digits_pen, "ff0e01b4ee56b4a7", "3b884bc431f46ea4"),
    ],
)
def test_values(load, X_hash, y_hash):
    X, y = load(return_X_y=True)
    assert X.dtype == np.float64 and y.dtype == np.int64
    assert short_hash(X, "<f8") == X_hash
    assert short_hash(y, "<i8") == y_hash


def test_mfeat_views_are_picked_and_ordered():
    every = load_mfeat()
    some = load_mfeat(views=["zer", "pix"])
    assert list(some.modalities) == ["zer", "pix"]
    for view, columns in some.modalities.items():
        original = every.data[:, every.modalities[view]]
        np.testing.assert_array_equal(some.data[:, columns], original)


def test_mfeat_describes_its_columns():
    data = load_mfeat()
    assert data.frame is None
    assert {m: c.stop - c.start for m, c in data.modalities.items()} == WIDTHS
    assert list(data.modalities) == list(WIDTHS)
    assert data.feature_names[216] == "pix__0"
    np.testing.assert_array_equal(np.bincount(data.target), 200)
    assert "Kybernetika" in data.DESCR


@pytest.mark.parametrize("load", [load_mfeat, load_digits_pen])
def test_frames(load):
    array, frame = load(), load(as_frame=True)
    assert list(frame.data.columns) == array.feature_names
    np.testing.assert_array_equal(frame.data.to_numpy(), array.data)
    assert list(frame.frame.columns) == [*array.feature_names, "target"]
    X, y = load(return_X_y=True, as_frame=True)
    pd.testing.assert_frame_equal(X, frame.data)
    pd.testing.assert_series_equal(y, frame.target)


@pytest.mark.parametrize("load", [load_mfeat, load_digits_pen])
def test_names_group_as_the_slices_do(load):
    data = load(as_frame=True)
    auto = resolve_modalities("auto", data.data)
    given = resolve_modalities(data.modalities, data.data)
    assert auto == given


@pytest.mark.parametrize("load", [load_mfeat, load_digits_pen])
def test_loaded_data_are_independent_copies(load):
    load().data[:] = -1
    assert load().data.min() > -20


@pytest.mark.parametrize(
    "views, error, text",
    [
        (["pix", "pix"], ValueError, r"distinct views, got \['pix', 'pix'\]"),
        (["pixels"], ValueError, r"got \['pixels'\]. Choose from \('fac'"),
        ([], ValueError, r"views: expected one or more distinct views, got \[\]"),
        ("pix", TypeError, r"Pass \['pix'\]"),
    ],
)
def test_mfeat_refuses(views, error, text):
    with pytest.raises(error, match=text):
        load_mfeat(views=views)


def test_digits_pen_subsets_make_up_the_whole():
    every = load_digits_pen()
    train, test = (load_digits_pen(subset=s) for s in ("train", "test"))
    np.testing.assert_array_equal(np.vstack([train.data, test.data]), every.data)
    assert not train.test.any() and test.test.all()
    np.testing.assert_array_equal(every.groups, every.test)
    assert (len(train.data), len(test.data)) == (3823, 1797)


def test_digits_pen_pairs():
    data = load_digits_pen()
    image, pen = (data.data[:, columns] for columns in data.modalities.values())
    np.testing.assert_array_equal(image[data.test], load_digits().data)
    # Drawn without replacement; a few paths of the source are equal to each other.
    assert len(np.unique(pen, axis=0)) >= len(pen) - 5


def test_digits_pen_refuses():
    with pytest.raises(ValueError, match=r"subset: expected one of .* got 'dev'. Use"):
        load_digits_pen(subset="dev")
