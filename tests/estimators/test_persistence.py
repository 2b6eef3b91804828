"""Fitted estimators as files: pickle, joblib, skops; arrays only."""

import io
import pickle

import joblib
import numpy as np
import pytest
import skops.io
import torch
from sklearn.datasets import make_blobs
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmm import (
    CrossModalGraphicalLasso,
    DCMEMEncoder,
    DecAlignTransformer,
    DPMixtureFusion,
    Modality,
    TCMaxClassifier,
)


@pytest.fixture(scope="module")
def data():
    X, y = make_blobs(60, n_features=5, centers=2, random_state=0)
    X[::4, :3] = np.nan
    return X, y


def fitted(data, **kwargs):
    groups = {"a": Modality(slice(0, 3)), "b": [4, 3]}
    clf = TCMaxClassifier(groups, max_epochs=2, random_state=0, **kwargs)
    return clf.fit(*data)


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [x for v in value for x in leaves(v)]
    return leaves(vars(value)) if hasattr(value, "__dict__") else [value]


@pytest.mark.parametrize("warm_start", [False, True])
def test_state_is_arrays(data, warm_start):
    clf = fitted(data, warm_start=warm_start)
    found = leaves(vars(clf))
    assert len(found) > 30
    kinds = {type(x) for x in found}
    assert not any(issubclass(k, (torch.Tensor, torch.nn.Module)) for k in kinds)
    assert b"torch" not in pickle.dumps(clf)


def test_no_training_data_inside(data):
    X, y = make_blobs(20_000, n_features=5, centers=2, random_state=0)
    assert len(pickle.dumps(fitted((X, y)))) < 200_000 < X.nbytes


@pytest.mark.parametrize("options", [{}, {"fusion": "mlp"}, {"warm_start": True}])
def test_pickle(data, options):
    clf = fitted(data, **options)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(
        again.predict_proba(data[0]), clf.predict_proba(data[0])
    )


@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_joblib(data, tmp_path, mmap_mode):
    pipe = make_pipeline(StandardScaler(), fitted(data)).fit(*data)
    joblib.dump(pipe, tmp_path / "m.joblib")
    again = joblib.load(tmp_path / "m.joblib", mmap_mode=mmap_mode)
    np.testing.assert_array_equal(
        again.predict_proba(data[0]), pipe.predict_proba(data[0])
    )


@pytest.mark.parametrize("options", [{}, {"fusion": "gated"}, {"warm_start": True}])
def test_skops_trusts_only_this_package(data, options):
    clf = fitted(data, **options)
    file = skops.io.dumps(clf)
    unknown = skops.io.get_untrusted_types(data=file)
    assert unknown
    assert all(name.startswith("skmm.") for name in unknown)
    again = skops.io.loads(file, trusted=unknown)
    np.testing.assert_array_equal(
        again.predict_proba(data[0]), clf.predict_proba(data[0])
    )


@pytest.mark.parametrize("options", [{}, {"npn": "shrinkage"}, {"alpha": "auto"}])
def test_graphical_lasso(data, options):
    lasso = CrossModalGraphicalLasso({"a": slice(0, 3), "b": [4, 3]}, cv=2, **options)
    lasso.fit(*data)
    kinds = {type(x) for x in leaves(vars(lasso))}
    assert not any(issubclass(k, torch.Tensor) for k in kinds)
    file = skops.io.dumps(lasso)
    unknown = skops.io.get_untrusted_types(data=file)
    assert all(name.startswith("skmm.") for name in unknown)
    for again in (
        pickle.loads(pickle.dumps(lasso)),
        skops.io.loads(file, trusted=unknown),
    ):
        for method in ("predict_proba", "transform", "impute", "score_samples"):
            np.testing.assert_array_equal(
                getattr(again, method)(data[0]), getattr(lasso, method)(data[0])
            )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "svi", "tol": 0.01},
        {"head": "mixture", "coupling": "joint_stick"},
        {"head": "logistic", "representation": "both"},
        {"method": "neural", "head": "logistic", "max_epochs": 2, "n_components": 2},
    ],
)
def test_mixture(data, options):
    groups = {"a": slice(0, 3), "b": [4, 3]}
    model = DPMixtureFusion(groups, random_state=0, **options).fit(*data)
    kinds = {type(x) for x in leaves(vars(model))}
    assert not any(issubclass(k, torch.Tensor) for k in kinds)
    file = skops.io.dumps(model)
    unknown = skops.io.get_untrusted_types(data=file)
    assert all(name.startswith("skmm.") for name in unknown)
    for again in (
        pickle.loads(pickle.dumps(model)),
        skops.io.loads(file, trusted=unknown),
    ):
        for method in ("predict_proba", "transform", "impute", "score_samples"):
            if hasattr(model, method):
                np.testing.assert_array_equal(
                    getattr(again, method)(data[0]), getattr(model, method)(data[0])
                )


@pytest.mark.parametrize("options", [{}, {"warm_start": True}])
def test_encoder(data, options):
    groups = {"a": slice(0, 3), "b": [4, 3]}
    model = DCMEMEncoder(
        groups, hidden=(8,), max_epochs=2, random_state=0, **options
    ).fit(data[0])
    kinds = {type(x) for x in leaves(vars(model))}
    assert not any(issubclass(k, torch.Tensor) for k in kinds)
    file = skops.io.dumps(model)
    unknown = skops.io.get_untrusted_types(data=file)
    assert all(name.startswith("skmm.") for name in unknown)
    for again in (
        pickle.loads(pickle.dumps(model)),
        skops.io.loads(file, trusted=unknown),
    ):
        for method in ("transform", "impute", "score_samples"):
            np.testing.assert_array_equal(
                getattr(again, method)(data[0]), getattr(model, method)(data[0])
            )
        np.testing.assert_array_equal(
            again.sample(3, private="training", random_state=0),
            model.sample(3, private="training", random_state=0),
        )


def test_mixture_goes_on_from_a_file(data):
    X, _ = data
    model = DPMixtureFusion(None, method="memoized", random_state=0)
    again = pickle.loads(pickle.dumps(model.partial_fit(X[:40])))
    model.partial_fit(X[40:])
    again.partial_fit(X[40:])
    np.testing.assert_array_equal(again.weights_, model.weights_)


class Own(torch.nn.Linear):
    """A user's encoder class."""

    def __init__(self, shape, n_components):
        super().__init__(shape[0], n_components)


def test_skops_refuses_a_users_class_until_it_is_trusted(data):
    clf = fitted(data, encoder=Own)
    file = skops.io.dumps(clf)
    unknown = skops.io.get_untrusted_types(data=file)
    (own,) = (name for name in unknown if name.endswith("Own"))
    with pytest.raises(skops.io.exceptions.UntrustedTypesFoundException, match="Own"):
        skops.io.loads(file, trusted=[n for n in unknown if n != own])


def test_a_model_set_to_a_gpu_opens_without_one(data, monkeypatch):
    clf = fitted(data, device="cpu")
    expected = clf.predict_proba(data[0])
    file = io.BytesIO(pickle.dumps(clf.set_params(device="cuda:0")))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    again = pickle.load(file)
    with pytest.warns(UserWarning, match="device='cuda:0' is not available"):
        np.testing.assert_array_equal(again.predict_proba(data[0]), expected)
    with pytest.raises(ValueError, match="device: 'cuda:0' is not available"):
        again.fit(*data)


@pytest.mark.parametrize("target", [False, True])
def test_decalign(data, target):
    X, y = data
    X, y = np.tile(X, (4, 1)), np.tile(y, 4)
    X[1::3, 3:] = np.nan
    groups = {"a": slice(0, 3), "b": [4, 3]}
    model = DecAlignTransformer(groups, max_epochs=2, warm_start=True, random_state=0)
    model.fit(X, y if target else None)
    assert bool(model.partners_) == (not target)
    kinds = {type(x) for x in leaves(vars(model))}
    assert not any(issubclass(k, (torch.Tensor, torch.nn.Module)) for k in kinds)
    file = skops.io.dumps(model)
    unknown = skops.io.get_untrusted_types(data=file)
    assert all(name.startswith("skmm.") for name in unknown)
    for again in (
        pickle.loads(pickle.dumps(model)),
        skops.io.loads(file, trusted=unknown),
    ):
        np.testing.assert_array_equal(again.transform(X), model.transform(X))
        there = ~np.isnan(X[:, 0])
        np.testing.assert_array_equal(
            again.transport(X[there], "a", "b"), model.transport(X[there], "a", "b")
        )
