"""TCMaxClassifier by what a user sees."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmm import Modality, TCMaxClassifier
from skmm.core.dependence import additive_loss

ADDITIVE = [{}, {"shared_head": True}, {"head_hidden": (8,)}, {"fusion": "cosine"}]
JOINT = [{"fusion": f} for f in ("film", "gated", "mlp")]
LOSSES = ("total_correlation", "cross_entropy", "unimodal", "ogm_ge")


@pytest.fixture(scope="module")
def data():
    X, y = make_blobs(150, n_features=7, centers=3, cluster_std=3.0, random_state=0)
    rng = np.random.default_rng(0)
    X[rng.random(150) < 0.3, :3] = np.nan
    X[rng.random(150) < 0.3, 3:5] = np.nan
    X[0] = np.nan  # nothing observed
    return X, np.array(["a", "b", "c"])[y]


def make(**kwargs):
    return TCMaxClassifier([3, 2, 2], **{"random_state": 0, "max_epochs": 15} | kwargs)


def observed(X):
    return np.column_stack(
        [~np.isnan(X[:, s]).all(1) for s in (slice(3), slice(3, 5), slice(5, 7))]
    )


# ------------------------------------------------------------------ learning
@pytest.mark.parametrize("options", ADDITIVE + JOINT)
def test_every_fusion_learns_with_missing_modalities(data, options):
    X, y = data
    clf = make(**options).fit(X[:100], y[:100])
    assert clf.score(X[100:], y[100:]) > 0.6  # chance is a third
    p = clf.predict_proba(X)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    assert clf.n_iter_ == len(clf.loss_curve_) == 15
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns(data, loss):
    X, y = data
    clf = make(loss=loss).fit(X[:100], y[:100])
    assert clf.score(X[100:], y[100:]) > 0.6
    assert np.isfinite(clf.predict_proba(X)).all()


def test_losses_differ(data):
    states = [make(loss=loss).fit(*data)._network_state for loss in LOSSES]
    firsts = [next(iter(s.values())) for s in states]
    for i, a in enumerate(firsts):
        assert not any(np.array_equal(a, b) for b in firsts[:i])


def xor(n, seed):
    """The label is the exclusive or of one bit a modality, each with noise columns."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, size=(n, 2))
    X = rng.normal(scale=0.4, size=(n, 4))
    X[:, [0, 2]] += 2 * bits - 1
    return X, bits[:, 0] ^ bits[:, 1]


@pytest.mark.parametrize("seed", range(3))
def test_synergy_needs_a_fusion_that_is_not_additive(seed):
    X, y = xor(600, seed)
    options = {"max_epochs": 60, "lr": 5e-3, "random_state": seed}
    scores = {}
    for fusion in ("additive", "film", "gated", "mlp"):
        hidden = () if fusion == "additive" else (32,)
        clf = TCMaxClassifier([2, 2], fusion=fusion, head_hidden=hidden, **options)
        scores[fusion] = clf.fit(X[:400], y[:400]).score(X[400:], y[400:])
        if fusion != "additive":
            # Of at most log 2 = 0.69 nats, on held-out rows.
            assert clf.total_correlation(X[400:], y[400:]) > 0.25
            # No modality tells anything alone.
            alone = clf.predict_proba_modality(X[400:], "modality0")
            assert abs(alone - 0.5).mean() < 0.2
    assert scores.pop("additive") < 0.65
    assert min(scores.values()) > 0.9


def test_total_correlation_of_shuffled_labels_is_not_positive():
    """Held-out bounds on labels without relation to X, over seeds."""
    values = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X, y = rng.normal(size=(300, 4)), rng.integers(0, 2, 300)
        clf = TCMaxClassifier([2, 2], random_state=seed, max_epochs=30)
        clf.fit(X[:150], y[:150])
        values.append(clf.total_correlation(X[150:], y[150:]))
    assert np.mean(values) < np.std(values) / np.sqrt(len(values))


# ------------------------------------------------------------------ what was learnt
def logits_of(clf, X):
    data = clf._predict_data(X)
    with torch.no_grad():
        network = clf._fitted_network(torch.device("cpu"))
        batch = data.batch(slice(0, len(X)))
        return network(batch["blocks"], batch["steps"])[1], batch["observed"]


@pytest.mark.parametrize("options", [*ADDITIVE, {"class_weight": "balanced"}])
def test_fitted_numbers_agree_with_the_loss(data, options):
    X, y = data
    clf = make(**options).fit(X, y)
    logits, seen = logits_of(clf, X)
    codes = torch.tensor(np.searchsorted(clf.classes_, y))
    counts = np.bincount(codes)
    w = (len(y) / 3 / counts)[codes] if "class_weight" in options else np.ones(len(y))
    loss = float(additive_loss(logits, codes, torch.tensor(w), seen))
    prior = np.bincount(codes, weights=w) / w.sum()
    entropy = -(prior * np.log(prior)).sum()
    assert clf.label_entropy_ == pytest.approx(entropy)
    np.testing.assert_allclose(clf.class_prior_, prior)
    expected = -loss - (np.log(3) - entropy)
    assert clf.total_correlation_ == pytest.approx(expected, abs=1e-10)
    assert clf.total_correlation(X, y, sample_weight=w) == pytest.approx(expected)
    # The identity of the bound and the modalities' shares.
    share = (observed(X) * w[:, None]).sum(0) / w.sum()
    beta = clf.class_offset_ - np.logaddexp.reduce(clf.class_offset_)
    kl = (prior * (np.log(prior) - beta)).sum()
    total = (share * clf.modality_information_).sum() - kl
    assert total == pytest.approx(clf.total_correlation_, abs=1e-10)


def test_contributions_add_up_to_the_posterior(data):
    X, y = data
    clf = make().fit(X, y)
    g = clf.modality_contributions(X)
    assert g.shape == (150, 3, 3)
    assert (g[~observed(X)] == 0).all()
    scores = clf.class_offset_ + g.sum(1)
    expected = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    np.testing.assert_allclose(clf.predict_log_proba(X), expected, atol=1e-10)


@pytest.mark.parametrize("options", [{}, *JOINT])
def test_one_modality_is_the_others_removed(data, options):
    X, y = data
    clf = make(**options).fit(X, y)
    for m, columns in enumerate((slice(3), slice(3, 5), slice(5, 7))):
        alone = np.full_like(X, np.nan)
        alone[:, columns] = X[:, columns]
        p = clf.predict_proba_modality(X, f"modality{m}")
        np.testing.assert_allclose(p, clf.predict_proba(alone), atol=1e-12)


def test_a_row_without_anything_gets_the_class_prior(data):
    X, y = data
    keep = np.flatnonzero((y != "c") | (np.arange(150) % 4 == 0))  # unequal classes
    for loss in LOSSES:
        clf = make(loss=loss, max_epochs=80).fit(X[keep], y[keep])
        p = clf.predict_proba(np.full((1, 7), np.nan))[0]
        if loss == "unimodal":
            np.testing.assert_allclose(p, clf.class_prior_, atol=1e-12)
        elif loss == "total_correlation":
            # softmax(beta) is the prior at the optimum only.
            np.testing.assert_allclose(p, clf.class_prior_, atol=0.1)


def test_prediction_depends_on_no_other_row_and_no_batch_size(data, monkeypatch):
    X, y = data
    for options in ({}, {"fusion": "mlp"}):
        clf = make(**options).fit(X, y)
        p = clf.predict_proba(X)
        one_by_one = np.vstack([clf.predict_proba(X[[i]]) for i in range(20)])
        np.testing.assert_allclose(p[:20], one_by_one, atol=1e-12)
        with monkeypatch.context() as patch:
            patch.setattr("skmm.estimators._tcmax.PREDICT_ROWS", 7)
            np.testing.assert_allclose(clf.predict_proba(X), p, atol=1e-12)


def test_binary_decision_is_the_log_odds(data):
    X, y = data
    two = y != "c"
    clf = make().fit(X[two], y[two])
    p = clf.predict_proba(X)
    d = clf.decision_function(X)
    np.testing.assert_allclose(d, np.log(p[:, 1] / p[:, 0]), atol=1e-10)
    assert make(max_epochs=1).fit(X, y).decision_function(X).shape == (150, 3)


# ------------------------------------------------------------------ weights
@pytest.mark.parametrize("loss", ["total_correlation", "cross_entropy", "unimodal"])
@pytest.mark.parametrize("seed", range(2))
def test_weights_are_repetition_in_full_batch(data, loss, seed):
    X, y = data
    counts = np.random.default_rng(seed).integers(0, 3, 150)
    rows = np.repeat(np.arange(150), counts)
    options = {"loss": loss, "batch_size": 1000, "random_state": seed}
    weighted = make(**options).fit(X, y, sample_weight=counts)
    repeated = make(**options).fit(X[rows], y[rows])
    # 15 epochs of float64 sums in another order.
    np.testing.assert_allclose(
        weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-8
    )
    for name in ("log_partition_", "modality_information_", "total_correlation_"):
        np.testing.assert_allclose(
            getattr(weighted, name), getattr(repeated, name), atol=1e-8
        )


def test_balanced_classes_change_the_prior(data):
    X, y = data
    keep = np.flatnonzero((y != "c") | (np.arange(150) % 4 == 0))
    plain, balanced = (
        make(class_weight=w).fit(X[keep], y[keep]) for w in (None, "balanced")
    )
    assert plain.class_prior_[2] < 0.2
    np.testing.assert_allclose(balanced.class_prior_, 1 / 3)
    by_hand = make(class_weight={"a": 1, "b": 1, "c": 0}).fit(X, y)
    assert (by_hand.predict(X) == "c").mean() < 0.2


# ------------------------------------------------------------------ transform
def test_transform_fills_with_means_or_nan(data):
    X, y = data
    clf = make(n_components=4).fit(X, y)
    Z = clf.transform(X)
    assert Z.shape == (150, 12)
    kept = clone(clf).set_params(keep_missing=True).fit(X, y).transform(X)
    seen = np.repeat(observed(X), 4, axis=1)
    np.testing.assert_array_equal(np.isnan(kept), ~seen)
    np.testing.assert_array_equal(Z[seen], kept[seen])
    means = np.nanmean(kept, axis=0)
    filled = np.where(seen, 0, Z - means)
    np.testing.assert_allclose(filled, 0, atol=1e-12)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output_names_the_modality(data, container):
    X, y = data
    clf = make(n_components=2, max_epochs=1).set_output(transform=container)
    frame = clf.fit(X, y).transform(X)
    assert list(frame.columns)[:3] == [
        "modality0__tcmax0",
        "modality0__tcmax1",
        "modality1__tcmax0",
    ]
    # The names group by themselves for the next estimator.
    again = TCMaxClassifier(max_epochs=1).fit(frame, y)
    assert list(again.modality_names_in_) == ["modality0", "modality1", "modality2"]


# ------------------------------------------------------------------ scikit-learn around
def test_in_a_pipeline_and_a_search_with_an_ablation(data):
    X, y = data
    pipe = make_pipeline(StandardScaler(), make())
    groupings = [[3, 2, 2], {"a": slice(3, 5), "drop": [0, 1, 2, 5, 6]}]
    search = GridSearchCV(
        pipe,
        {
            "tcmaxclassifier__modalities": groupings,
            "tcmaxclassifier__loss": ["total_correlation", "cross_entropy"],
        },
        cv=3,
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_["tcmaxclassifier__modalities"] == [3, 2, 2]
    assert search.predict(X).shape == (150,)
    assert len(cross_val_score(make(max_epochs=3), X, y, cv=3)) == 3


def test_after_a_column_transformer(data):
    X, y = data
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(7)])
    by_block = make_column_transformer(
        (StandardScaler(), ["x0", "x1", "x2"]), (StandardScaler(), ["x3", "x4"])
    )
    by_block.transformers[0] = ("left", *by_block.transformers[0][1:])
    by_block.transformers[1] = ("right", *by_block.transformers[1][1:])
    pipe = make_pipeline(by_block, TCMaxClassifier(max_epochs=2))
    pipe.set_output(transform="pandas").fit(frame, y)
    assert list(pipe[-1].modality_names_in_) == ["left", "right"]


def test_embeddings_feed_another_classifier(data):
    X, y = data
    pipe = make_pipeline(make(), LogisticRegression())
    assert pipe.fit(X[:100], y[:100]).score(X[100:], y[100:]) > 0.6


def test_order_of_modalities_and_columns(data):
    """A mapping in another order is the same model up to its random start."""
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcdefg"))
    one = TCMaxClassifier(
        {"u": list("abc"), "v": list("defg")}, max_epochs=2, random_state=0
    ).fit(frame, y)
    order = list("gacbdfe")
    two = clone(one).fit(frame[order], y)
    np.testing.assert_allclose(
        one.predict_proba(frame), two.predict_proba(frame[order]), atol=1e-12
    )


def test_200_rows_by_default():
    X, y = make_blobs(200, n_features=10, centers=4, cluster_std=4.0, random_state=0)
    ours = cross_val_score(TCMaxClassifier([5, 5], random_state=0), X, y).mean()
    linear = make_pipeline(StandardScaler(), LogisticRegression())
    plain = cross_val_score(linear, X, y).mean()
    assert ours > plain - 0.02


# ------------------------------------------------------------------ shapes, encoders
def pictures(n=120, seed=0):
    """Bars at random places: upright or lying; and a sequence that goes up or down."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    image = rng.normal(scale=0.3, size=(n, 1, 8, 8))
    for i, k in enumerate(rng.integers(0, 8, n)):
        if y[i]:
            image[i, 0, :, k] += 1.5
        else:
            image[i, 0, k] += 1.5
    steps = np.cumsum(rng.normal(size=(n, 10, 2)) * 0.5 + (2 * y - 1)[:, None, None], 1)
    steps[rng.random(n) < 0.5, 7:] = np.nan  # padding
    return np.hstack([image.reshape(n, -1), steps.reshape(n, -1)]), y


GROUPS = {
    "image": Modality(slice(0, 64), shape=(1, 8, 8)),
    "steps": Modality(slice(64, 84), shape=(10, 2)),
}


@pytest.mark.parametrize("sequence", ["conv", "attention", "mlp"])
def test_images_and_padded_sequences(sequence):
    X, y = pictures()
    X[:40, :64] = np.nan
    X[40:60, 64:] = np.nan
    clf = TCMaxClassifier(
        GROUPS, encoder={"steps": sequence}, max_epochs=40, lr=5e-3, random_state=0
    ).fit(X[:90], y[:90])
    for name in GROUPS:
        p = clf.predict_proba_modality(X[90:], name)
        assert (p.argmax(1) == y[90:]).mean() > 0.7


def test_padding_changes_nothing():
    X, y = pictures()
    clf = TCMaxClassifier(GROUPS, max_epochs=2, random_state=0).fit(X, y)
    longer = {
        "image": GROUPS["image"],
        "steps": Modality(slice(64, 90), shape=(13, 2)),
    }
    padded = np.hstack([X, np.full((len(X), 6), np.nan)])
    two = TCMaxClassifier(longer, max_epochs=2, random_state=0).fit(padded, y)
    np.testing.assert_allclose(
        clf.predict_proba(X), two.predict_proba(padded), atol=1e-10
    )


class Doubling(torch.nn.Module):
    """A user's encoder."""

    def __init__(self, shape, n_components):
        super().__init__()
        self.layer = torch.nn.Linear(int(np.prod(shape)), n_components)

    def forward(self, x):
        return self.layer(2 * x.flatten(1))


class WithSteps(Doubling):
    """A user's encoder of sequences that wants the mask."""

    def forward(self, x, steps):
        assert steps.shape == x.shape[:2]
        return self.layer((x * steps.unsqueeze(-1)).flatten(1))


def test_users_own_modules_by_name():
    X, y = pictures()
    clf = TCMaxClassifier(
        GROUPS, encoder={"image": Doubling, "steps": WithSteps}, max_epochs=3
    ).fit(X, y)
    names = list(clf._network_state)
    assert "encoders.0.layer.weight" in names
    assert "encoders.1.layer.weight" in names
    assert clf.predict(X).shape == (120,)
    same = TCMaxClassifier(
        {"image": Modality(slice(0, 64), encoder=Doubling), "drop": slice(64, 84)},
        max_epochs=1,
    ).fit(X, y)
    assert "encoders.0.layer.weight" in same._network_state


def test_cpu_tensors_are_arrays(data):
    X, y = data
    clf = make(max_epochs=2)
    p = clone(clf).fit(torch.tensor(X), y).predict_proba(torch.tensor(X))
    np.testing.assert_array_equal(p, clf.fit(X, y).predict_proba(X))
