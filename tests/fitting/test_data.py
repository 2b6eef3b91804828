"""Batches: the same rows, masks and values, resident or streamed."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skmm import TCMaxClassifier
from skmm.fitting.data import BatchIterator, BlockData, batch_bounds, should_stream
from skmm.modalities import Modality, observed_modalities, resolve_modalities
from skmm.scaling import BlockScaler

CPU = torch.device("cpu")


def make(n=23, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 9)).astype(dtype)
    X[::4, :3] = np.nan  # missing blocks
    X[1, 4] = np.nan  # a single cell
    X[2::5, 7:] = np.nan  # padding of the sequence
    return X


def block_data(X, stream=None, **kwargs):
    groups = {"a": slice(0, 3), "b": [4, 3], "s": Modality(slice(5, 9), shape=(2, 2))}
    layout = resolve_modalities(groups, X)
    return BlockData(
        X,
        layout,
        BlockScaler.fit(X, layout),
        observed_modalities(X, layout),
        device=CPU,
        stream=stream,
        **kwargs,
    )


def batches(data, size, shuffle=False, seed=0):
    torch.manual_seed(seed)
    return list(BatchIterator(data, size, shuffle))


@given(st.integers(1, 300), st.integers(1, 50))
def test_batches_cover_all_rows_and_none_is_tiny(n_rows, batch_size):
    bounds = batch_bounds(n_rows, batch_size)
    sizes = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == n_rows
    assert (sizes > 0).all()
    assert (sizes[:-1] == batch_size).all()
    if len(sizes) > 1:
        assert batch_size / 2 <= sizes[-1] < 1.5 * batch_size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("rows", [None, np.array([20, 3, 4, 5, 9, 11, 0])])
def test_streamed_batches_equal_resident_ones(dtype, shuffle, rows):
    X = make(dtype=dtype)
    y, w = np.arange(23), np.linspace(0.1, 1, 23)
    served = [
        batches(block_data(X, stream, y=y, weight=w, rows=rows), 5, shuffle)
        for stream in (False, True)
    ]
    for (one, y1), (two, y2) in zip(*served, strict=True):
        assert torch.equal(y1, y2)
        for key in ("observed", "weight"):
            assert torch.equal(one[key], two[key])
        for a, b in zip(one["blocks"], two["blocks"], strict=True):
            assert torch.equal(a, b)
            assert a.dtype == (torch.float32 if dtype == np.float32 else torch.float64)
        for a, b in zip(one["steps"], two["steps"], strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_values_masks_and_padding():
    X = make()
    data = block_data(X)
    batch = data.batch(slice(0, 23))
    a, b, s = (x.numpy() for x in batch["blocks"])
    seen = ~np.isnan(X[:, :3]).all(1)
    np.testing.assert_array_equal(batch["observed"][0].numpy(), seen)
    np.testing.assert_allclose(a[seen].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(a[seen].std(0), 1, atol=1e-12)
    assert np.isfinite(np.hstack([a, b, s])).all()
    np.testing.assert_array_equal(np.argsort(b[2:, 1]), np.argsort(X[2:, 3]))
    assert b[1, 0] == 0  # a single missing cell is the training mean
    steps = batch["steps"][2].numpy()
    np.testing.assert_array_equal(steps[:, 1], ~np.isnan(X[:, 7]))
    assert (s.reshape(-1, 2, 2)[~steps] == 0).all()
    assert batch["steps"][:2] == [None, None]
    assert not batch["complete"]


def test_data_are_moved_once():
    data = block_data(make())
    first = data.batch(slice(0, 4))["blocks"][0]
    again = data.batch(slice(0, 4))["blocks"][0]
    assert first.data_ptr() == again.data_ptr()


def test_memmaps_stream(tmp_path):
    X = make()
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert should_stream(mapped, CPU)
    assert should_stream(np.asarray(mapped)[2:], CPU)
    assert not should_stream(X, CPU)
    assert block_data(mapped).stream


def test_arrays_larger_than_the_free_memory_stream(monkeypatch):
    X = make()
    monkeypatch.setattr("skmm.fitting.data._free_bytes", lambda device: X.nbytes)
    assert should_stream(X, CPU)


def test_shuffled_epochs_differ_and_full_batches_keep_the_order():
    data = block_data(make(), y=np.arange(23))
    torch.manual_seed(0)
    iterator = BatchIterator(data, 5, shuffle=True)
    one, two = (torch.cat([y for _, y in iterator]) for _ in range(2))
    assert sorted(one.tolist()) == sorted(two.tolist()) == list(range(23))
    assert not torch.equal(one, two)
    (_, whole), *rest = BatchIterator(data, 23, shuffle=True)
    assert not rest
    assert torch.equal(whole, torch.arange(23))


def test_predict_type_is_the_fitted_one():
    data = block_data(make(dtype=np.float64), dtype=np.float32, weight=np.ones(23))
    batch = data.batch(slice(0, 3))
    assert {x.dtype for x in [*batch["blocks"], batch["weight"]]} == {torch.float32}


def test_fit_and_predict_never_hold_a_memmap_whole(tmp_path):
    """40 MB on disk; NumPy's share of the memory stays far below."""
    n, p = 50_000, 200
    shape = {"shape": (n, p), "dtype": np.float32}
    X = np.lib.format.open_memmap(tmp_path / "X.npy", mode="w+", **shape)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    for start in range(0, n, 5000):
        rows = slice(start, start + 5000)
        X[rows] = rng.normal(size=(5000, p)) + y[rows, None]
    X[::3, :50] = np.nan
    X.flush()
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    clf = TCMaxClassifier(
        [50, 150], max_epochs=1, batch_size=2048, random_state=0, hidden=(8,)
    )
    clf.fit(np.array(mapped[:50]), y[:50])  # what torch imports at its first step
    tracemalloc.start()
    try:
        accuracy = clf.fit(mapped, y).score(mapped, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert accuracy > 0.9
    # A batch of 2048 rows, read, scaled in float64 and cast, and codes of all rows.
    assert peak < X.nbytes / 3
