"""The neural form of DPMixtureFusion."""

import numpy as np
import pytest
from sklearn.base import clone

from skmm import DPMixtureFusion, Modality
from skmm.datasets import load_mfeat, make_multimodal_classification


@pytest.fixture(scope="module")
def data():
    X, y = make_multimodal_classification(
        400, 3, n_features=[8, 6], missing_fraction=0.3, random_state=0
    )
    return X, y


def neural(**kwargs):
    settings = {
        "method": "neural",
        "head": "logistic",
        "n_components": 3,
        "embed_dim": 8,
        "hidden": (32,),
        "max_epochs": 40,
        "random_state": 0,
    }
    return DPMixtureFusion([8, 6], **(settings | kwargs))


@pytest.mark.parametrize("fill", ["mean", "sample"])
@pytest.mark.parametrize("fusion", ["concat", "lstm", "attention"])
def test_learns_with_missing_modalities(data, fusion, fill):
    X, y = data
    model = neural(fusion=fusion, fill=fill).fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.6  # a third by chance
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(proba, model.predict_proba(X))  # nothing is drawn
    assert np.isfinite(model.transform(X)).all()
    assert model.transform(X).shape[1] == len(model.get_feature_names_out())


def test_fitted_mixture(data):
    model = neural().fit(*data)
    assert model.weights_.shape == (2, 3)
    np.testing.assert_allclose(model.weights_.sum(1), 1)
    assert model.means_[0].shape == (3, 8)
    assert (model.covariances_[0] > 0).all()
    a, _ = model.weight_concentration_
    # The sticks have seen the rows, all but the few that lack both modalities.
    assert (a - 1).sum() == pytest.approx(400, rel=0.02)


def test_without_its_loss_the_mixture_stays_where_it_started(data):
    X, y = data
    short = neural(lambda_dp=0.0, max_epochs=1).fit(X, y)
    long = neural(lambda_dp=0.0, max_epochs=10).fit(X, y)
    for name in ("means_", "covariances_", "weight_concentration_"):
        np.testing.assert_array_equal(getattr(short, name), getattr(long, name))
    moved = neural(lambda_dp=1e-3, max_epochs=10).fit(X, y)
    assert np.abs(np.array(moved.means_) - np.array(long.means_)).max() > 1e-3


def test_published_stick_update_is_available(data):
    model = neural(stick_update="batch_mean", weight_concentration_prior=2.0).fit(*data)
    a, b = model.weight_concentration_
    assert a.min() >= 1 and a.max() <= 2
    assert b.min() >= 2 and b.max() <= 3


def test_temperature_mutes_the_mixture(data):
    """With a factor of e^5 on the task, the losses differ by its share."""
    model = neural(temperature=5.0, max_epochs=2, lr=1e-9).fit(*data)
    plain = neural(temperature=0.0, max_epochs=2, lr=1e-9).fit(*data)
    ratio = model.loss_curve_[1] / plain.loss_curve_[1]
    assert ratio == pytest.approx(np.exp(5), rel=0.05)
    assert model.loss_curve_[0] == pytest.approx(plain.loss_curve_[0], rel=1e-6)


def test_same_seed_same_bits(data, global_rng_untouched):
    one, other = neural(fill="sample").fit(*data), neural(fill="sample").fit(*data)
    np.testing.assert_array_equal(
        one.predict_proba(data[0]), other.predict_proba(data[0])
    )


def test_open_rows_train_the_mixture_alone(data):
    X, y = data
    few = np.where(np.arange(400) % 4 == 0, y, -1)
    model = neural(unlabeled=-1).fit(X, few)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    assert model.score(X, y) > 0.6
    a, _ = model.weight_concentration_
    assert (a - 1).sum() > 300


def test_early_stopping_and_warm_start(data):
    X, y = data
    model = neural(early_stopping=True, n_iter_no_change=3, warm_start=True).fit(X, y)
    n_first = model.n_iter_
    assert len(model.validation_loss_curve_) == n_first
    model.set_params(max_epochs=2, early_stopping=False).fit(X, y)
    assert model.n_iter_ == n_first + 2
    with pytest.raises(ValueError, match="embed_dim, n_fused: can't change while"):
        model.set_params(embed_dim=4).fit(X, y)


def test_what_has_no_way_back_is_not_there(data):
    model = neural(max_epochs=1).fit(*data)
    for name in ("impute", "sample", "score_samples", "partial_fit"):
        assert not hasattr(model, name)
    with pytest.raises(AttributeError, match="impute"):
        model.impute(data[0])


def test_refit_by_another_method_leaves_nothing_behind(data):
    X, y = data
    model = neural(max_epochs=2).fit(X, y)
    model.set_params(method="cavi", head=None, n_init=1).fit(X)
    assert not hasattr(model, "loss_curve_")
    assert model.labels_.shape == (400,)
    model.set_params(method="neural", head="logistic")
    assert set(model.fit_predict(X, y + 10)) <= {10, 11, 12}
    model.fit(X, y)
    assert not hasattr(model, "lower_bound_")
    assert not hasattr(model, "labels_")
    fresh = clone(model).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), fresh.predict(X))


def test_pictures_by_a_convolutional_net():
    bunch = load_mfeat(views=["pix", "zer"])
    groups = {
        "pix": Modality(slice(0, 240), shape=(1, 16, 15)),
        "zer": slice(240, 287),
    }
    model = neural(max_epochs=10).set_params(modalities=groups)
    model.fit(bunch.data[::4], bunch.target[::4])
    assert model.score(bunch.data[1::4], bunch.target[1::4]) > 0.6


def test_many_sticks_in_single_precision():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 15)).astype(np.float32)
    X[::4, -2:] = np.nan
    model = neural(n_components=30, weight_concentration_prior=None, max_epochs=2)
    model.set_params(modalities=[5, 2, 2, 2, 2, 2]).fit(X, rng.integers(3, size=200))
    assert np.isfinite(model.weights_).all()
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("seed", range(10))
def test_early_stopping_holds_labelled_rows_out(data, seed):
    X, y = data
    few = np.where(np.arange(400) % 20 == 0, y, -1)
    model = neural(
        early_stopping=True, validation_fraction=0.05, max_epochs=3, unlabeled=-1
    )
    model.set_params(random_state=seed).fit(X, few)
    assert min(model.validation_loss_curve_) > 0
    with pytest.raises(ValueError, match="early_stopping: expected at least 2"):
        model.fit(X, np.where(np.arange(400) == 3, y, -1))


def test_a_modality_that_training_never_shows(data):
    X, y = data
    X = X.copy()
    X[np.isnan(X[:, 0])] = 0.0
    X[1:, 8:] = np.nan
    X[0, 8:] = 1.0
    for seed in range(4):
        model = neural(early_stopping=True, max_epochs=1).set_params(random_state=seed)
        assert np.isfinite(model.fit(X, y).predict_proba(X)).all()
