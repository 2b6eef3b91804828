"""Scores keep the prior of their own columns, or none."""

import copy
import pickle

import joblib
import numpy as np
import pytest
from sklearn.model_selection import KFold, cross_val_score, train_test_split
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import resample

from skmm.vision import NodeScores

K = 4


def draw(seed=0, n=10, k=K):
    rng = np.random.default_rng(seed)
    prior = rng.random((k, k))
    prior = (prior + prior.T) / 2
    np.fill_diagonal(prior, 1)
    return NodeScores(rng.normal(size=(n, k)), prior=prior)


@pytest.mark.parametrize(
    "key",
    [
        slice(2, 5),
        slice(None, None, -1),
        [3, 1, 1],
        np.arange(10) % 2 == 0,
        (slice(1, 4), slice(None)),
        ([0, 2], ...),
        (..., slice(None)),
        ...,
    ],
    ids=str,
)
def test_rows_keep_the_prior(key):
    X = draw()
    assert isinstance(X[key], NodeScores)
    assert np.array_equal(X[key].prior, X.prior)
    assert np.array_equal(np.asarray(X[key]), np.asarray(X)[key])


@pytest.mark.parametrize(
    ("key", "columns"),
    [
        ((slice(None), [2, 0]), [2, 0]),
        ((slice(None), slice(1, 3)), [1, 2]),
        ((..., slice(None, None, -1)), [3, 2, 1, 0]),
        ((slice(None), np.array([True, False, True, True])), [0, 2, 3]),
        ((slice(2, 4), [-1]), [3]),
        ((np.array([0, 1, 5]), slice(None, 2)), [0, 1]),
        (np.ix_([0, 3, 4], [1, 3]), [1, 3]),
    ],
    ids=str,
)
def test_columns_take_their_part_of_the_prior(key, columns):
    X = draw()
    part = X[key]
    assert np.array_equal(np.asarray(part), np.asarray(X)[key])
    assert np.array_equal(part.prior, X.prior[np.ix_(columns, columns)])


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X + 1,
        lambda X: X[:4].T,
        lambda X: np.take(X, [1, 0, 2, 3], axis=1),
        lambda X: X[0],
        lambda X: X[:, 0],
        lambda X: X[[0, 1], [1, 2]],
        lambda X: X[None],
        lambda X: X[X > 0],
        lambda X: X.reshape(K, -1),
        lambda X: np.concatenate([X, X], axis=1),
    ],
)
def test_what_cannot_be_told_has_no_prior(change):
    assert getattr(change(draw(n=K)), "prior", None) is None


def test_a_cell_is_a_number():
    X = draw()
    assert type(X[1, 2]) is np.float64
    assert X.prior is not None


@pytest.mark.parametrize(
    "again",
    [
        lambda X: pickle.loads(pickle.dumps(X)),
        lambda X: pickle.loads(pickle.dumps(X, protocol=2)),
        copy.copy,
        copy.deepcopy,
        lambda X: X.copy(),
        lambda X: X.astype(np.float64),
        lambda X: X.astype(np.float64, copy=False),
    ],
)
def test_copies_keep_the_prior(again):
    X = draw()
    assert np.array_equal(again(X).prior, X.prior)
    assert np.array_equal(again(X), X)
    assert isinstance(again(X), NodeScores)


def test_joblib_keeps_the_prior(tmp_path):
    X = draw()
    joblib.dump(X, tmp_path / "scores.joblib")
    assert np.array_equal(joblib.load(tmp_path / "scores.joblib").prior, X.prior)


def test_splitters_keep_the_prior():
    X, y = draw(n=20), np.arange(20) % 2
    train, test, *_ = train_test_split(X, y, random_state=0)
    assert train.prior is X.prior
    assert test.prior is X.prior
    for rows, _ in KFold(4).split(X):
        assert X[rows].prior is X.prior
    assert resample(X, random_state=0).prior is X.prior
    assert FunctionTransformer().fit_transform(X).prior is X.prior


def test_inside_cross_validation():
    class Checks(StandardScaler):
        def fit(self, X, y=None):
            assert X.prior.shape == (K, K)
            return super().fit(X)

        def score(self, X, y=None):
            return X.prior[0, 1]

    X = draw(n=20)
    scores = cross_val_score(Checks(), X, cv=4, error_score="raise")
    assert (scores == X.prior[0, 1]).all()


def test_bad_input():
    with pytest.raises(ValueError, match=r"scores: expected 2 dimensions .* got 1"):
        NodeScores([1.0])
    with pytest.raises(
        ValueError, match=r"prior: expected shape \(2, 2\).*got \(3, 3\)"
    ):
        NodeScores([[1.0, 2.0]], prior=np.eye(3))
