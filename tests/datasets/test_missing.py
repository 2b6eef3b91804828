"""Blocks removed at random: how many, which, in which container."""

import hashlib

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import make_column_selector

from skmm.datasets import drop_modalities, load_digits_pen, load_mfeat

# sha256 of np.packbits of the NaN mask for (fraction, seed), by the protocol under
# which the numbers of the benchmarks were taken.
MASKS = {
    "mfeat3": {
        (0.3, 0): "4a2cc3d3b3d05d90",
        (0.3, 4): "0b191243a1c74d35",
        (0.6, 0): "e7bff40b180ef1df",
        (0.6, 4): "673310115ec5c25a",
    },
    "mfeat6": {
        (0.3, 0): "241eca6477942ad1",
        (0.3, 4): "448da48f90f51307",
        (0.6, 0): "901a568a6ecacce4",
        (0.6, 4): "ddd70ae01a3bfa71",
    },
    "digits_pen": {
        (0.3, 0): "f451c687228343ef",
        (0.3, 4): "5f63eef3f4585495",
        (0.6, 0): "d40d92f0b9e9153d",
        (0.6, 4): "02e3d194ba0e9ed2",
    },
}
SETS = {
    "mfeat3": lambda: load_mfeat(views=["pix", "fou", "zer"]),
    "mfeat6": load_mfeat,
    "digits_pen": load_digits_pen,
}


@pytest.mark.parametrize("name", SETS)
def test_masks_never_change(name):
    data = SETS[name]()
    for (fraction, seed), expected in MASKS[name].items():
        X = drop_modalities(data.data, data.modalities, fraction, seed)
        mask = np.packbits(np.isnan(X)).tobytes()
        assert hashlib.sha256(mask).hexdigest()[:16] == expected


def drop_one_by_one(X, modalities, fraction, seed):
    """Remove blocks in a plain loop, with the rule written out."""
    columns = list(modalities.values())
    observed = np.column_stack([~np.isnan(X[:, c]).all(axis=1) for c in columns])
    left = observed.sum(axis=1)
    spare = np.maximum(left - 1, 0).sum()
    to_drop = round(min(fraction * observed.sum(), 0.9 * spare))
    blocks = np.argwhere(observed)
    X = X.copy()
    for i, m in blocks[np.random.default_rng(seed).permutation(len(blocks))]:
        if to_drop > 0 and left[i] > 1:
            X[i, columns[m]] = np.nan
            left[i] -= 1
            to_drop -= 1
    return X


@st.composite
def data_with_gaps(draw):
    widths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    n = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    stops = np.cumsum(widths).tolist()
    modalities = {
        f"m{m}": slice(stop - width, stop)
        for m, (width, stop) in enumerate(zip(widths, stops, strict=True))
    }
    X = rng.normal(size=(n, sum(widths)))
    gone = rng.random((n, len(widths))) < draw(st.sampled_from([0, 0.3, 0.8]))
    for m, c in enumerate(modalities.values()):
        X[gone[:, m], c] = np.nan
    X[rng.random(X.shape) < 0.1] = np.nan  # single cells
    return X, modalities


@given(data_with_gaps(), st.floats(0, 1), st.integers(0, 2**40))
def test_equals_the_plain_loop(data, fraction, seed):
    X, modalities = data
    before = X.copy()
    got = drop_modalities(X, modalities, fraction, seed)
    np.testing.assert_array_equal(got, drop_one_by_one(X, modalities, fraction, seed))
    np.testing.assert_array_equal(X, before)


@given(data_with_gaps(), st.floats(0, 1), st.integers(0, 2**40))
def test_takes_whole_blocks_and_leaves_one(data, fraction, seed):
    X, modalities = data
    got = drop_modalities(X, modalities, fraction, seed)
    columns = list(modalities.values())
    before, after = (
        np.column_stack([~np.isnan(Z[:, c]).all(axis=1) for c in columns])
        for Z in (X, got)
    )
    np.testing.assert_array_equal(before.any(axis=1), after.any(axis=1))
    for m, c in enumerate(columns):  # what is not gone as a whole is untouched
        np.testing.assert_array_equal(got[after[:, m], c], X[after[:, m], c])


def test_the_share_is_of_blocks_and_capped():
    X = np.ones((100, 4))
    for fraction, gone in [(0, 0), (0.25, 50), (0.45, 90), (0.6, 90), (1, 90)]:
        gaps = drop_modalities(X, [1, 3], fraction, random_state=0)
        assert np.isnan(gaps[:, [0, 1]]).sum() == gone


def test_one_modality_loses_nothing():
    X = np.ones((10, 2))
    np.testing.assert_array_equal(drop_modalities(X, None, 0.5, 0), X)


def test_rows_with_nothing_observed_do_not_use_up_the_share():
    X = np.ones((30, 2))
    X[10:] = np.nan
    gaps = drop_modalities(X, [1, 1], 0.5, random_state=0)
    assert np.isnan(gaps[:10]).sum() == 9  # 0.9 of the ten spare blocks
    assert np.isnan(gaps[10:]).all()


def test_random_states():
    X = np.ones((50, 3))

    def drop(random_state):
        return drop_modalities(X, [1, 1, 1], 0.3, random_state)

    np.testing.assert_array_equal(drop(3), drop(np.int64(3)))
    np.testing.assert_array_equal(drop(3), drop(np.random.default_rng(3)))
    generator = np.random.default_rng(3)
    assert not np.array_equal(drop(generator), drop(generator), equal_nan=True)
    legacy = [drop(np.random.RandomState(3)) for _ in range(2)]
    np.testing.assert_array_equal(*legacy)
    assert not np.array_equal(drop(None), drop(None), equal_nan=True)


@pytest.mark.usefixtures("global_rng_untouched")
def test_global_random_state_is_left_alone():
    drop_modalities(np.ones((5, 2)), [1, 1], 0.5)


@pytest.mark.parametrize(
    "dtype, expected",
    [(np.float32, np.float32), (np.int16, np.float64), (bool, np.float64)],
)
def test_array_types(dtype, expected):
    X = np.ones((10, 2), dtype=dtype)
    gaps = drop_modalities(X, [1, 1], 0.3, random_state=0)
    assert gaps.dtype == expected
    assert np.isnan(gaps).sum() == 6
    assert X.dtype == dtype


def test_lists_are_taken_as_arrays():
    assert drop_modalities([[1, 2], [3, 4]], [1, 1], 0, 0).dtype == np.float64


COLUMNS = {
    "id": ["u", "v", "w", "x", "y", "z"],
    "a__0": np.arange(6),
    "a__1": np.arange(6, dtype=np.float32),
    "b__0": np.arange(6) % 2 == 0,
    "b__1": [0.5, 1.5, float("nan"), 3.5, 4.5, 5.5],
    "b__2": np.arange(6, dtype=np.uint8),
}
GROUPS = {
    "a": ["a__0", "a__1"],
    "b": ["b__0", "b__1", "b__2"],
    "drop": ["id"],
}


@pytest.mark.parametrize("library", [pd, pl])
def test_frames_stay_frames(library):
    X = library.DataFrame(COLUMNS)
    before = X.clone() if library is pl else X.copy()
    gaps = drop_modalities(X, GROUPS, 0.4, random_state=0)
    assert type(gaps) is type(X)
    assert list(gaps.columns) == list(X.columns)
    assert X.equals(before)
    assert list(gaps["id"]) == COLUMNS["id"]
    values = np.column_stack([np.asarray(gaps[c], float) for c in gaps.columns[1:]])
    expected = np.column_stack([COLUMNS[c] for c in gaps.columns[1:]])
    expected = drop_modalities(expected, [2, 3], 0.4, random_state=0)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("library", [pd, pl])
@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_types_of_frame_columns_do_not_depend_on_the_draw(library, fraction):
    X = library.DataFrame(COLUMNS)
    gaps = drop_modalities(X, GROUPS, fraction, random_state=0)
    types = [str(gaps[name].dtype).lower() for name in gaps.columns[1:]]
    assert types == ["float64", "float32", "float64", "float64", "float64"]


def test_pandas_index_and_levels_are_kept():
    columns = pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "x")])
    X = pd.DataFrame(np.ones((4, 3), int), index=list("pqrs"), columns=columns)
    gaps = drop_modalities(X, "auto", 0.25, random_state=0)
    assert gaps.index.equals(X.index) and gaps.columns.equals(columns)
    assert gaps.isna().to_numpy().any()


def test_null_blocks_count_as_missing():
    X = pl.DataFrame({"a__0": [None, 1.0], "b__0": [2.0, 3.0]})
    gaps = drop_modalities(X, "auto", 1.0, random_state=0)
    assert gaps["b__0"][0] == 2.0  # the last block of its row


def test_callables_select_on_frames():
    X = pd.DataFrame(COLUMNS).drop(columns="id")
    selectors = {m: make_column_selector(f"^{m}__") for m in "ab"}
    by_name = drop_modalities(X, "auto", 0.4, random_state=0)
    pd.testing.assert_frame_equal(drop_modalities(X, selectors, 0.4, 0), by_name)


@pytest.mark.parametrize(
    "fraction, error",
    [
        (-0.1, ValueError),
        (1.5, ValueError),
        (float("nan"), ValueError),
        ("0.3", TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_refuses_fractions(fraction, error):
    expected = r"fraction: expected a number in \[0, 1\], got .*Give a share"
    with pytest.raises(error, match=expected):
        drop_modalities(np.ones((2, 2)), [1, 1], fraction)


def test_refuses_random_states():
    with pytest.raises(TypeError, match="random_state: expected an integer"):
        drop_modalities(np.ones((2, 2)), [1, 1], 0.5, "seed")
    with pytest.raises(ValueError, match=r"random_state: .* got -1. Pass an int"):
        drop_modalities(np.ones((2, 2)), [1, 1], 0.5, -1)


def test_refuses_other_arrays():
    with pytest.raises(ValueError, match="Expected 2D array"):
        drop_modalities(np.ones(3), None, 0.5)
    with pytest.raises(ValueError, match="infinity"):
        drop_modalities(np.array([[np.inf, 1.0]]), [1, 1], 0.5)
