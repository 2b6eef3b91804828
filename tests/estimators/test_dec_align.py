"""DecAlign's estimators: representations, gaps, targets, transport, pairs."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmm import (
    DecAlignClassifier,
    DecAlignRegressor,
    DecAlignTransformer,
    Modality,
)
from skmm.metrics import recall_at_k

GROUPS = {"a": slice(0, 6), "b": slice(6, 11)}
SMALL = {
    "modalities": GROUPS,
    "n_components": 8,
    "hidden": (16,),
    "n_heads": 2,
    "n_layers": 1,
    "n_prototypes": 3,
    "max_epochs": 3,
    "random_state": 0,
}
ALL = [DecAlignTransformer, DecAlignClassifier, DecAlignRegressor]


def views(n=120, seed=0):
    """Two noisy views of a plane, of 6 and 5 columns, and two targets."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    maps = rng.normal(size=(2, 6)), rng.normal(size=(2, 5))
    X = np.hstack([z @ a + 0.3 * rng.normal(size=(n, a.shape[1])) for a in maps])
    return X, (z[:, 0] > 0).astype(int), 10 * z[:, 1] + 100


def with_gaps(X):
    X = X.copy()
    X[::4, :6] = np.nan
    X[1::4, 6:] = np.nan
    X[2::8, 2] = np.nan
    return X


def target_of(kind, labels, values):
    return values if kind is DecAlignRegressor else labels


@pytest.fixture(scope="module")
def data():
    X, labels, values = views()
    return with_gaps(X), labels, values


@pytest.fixture(scope="module")
def fitted(data):
    X, labels, _ = data
    return DecAlignClassifier(**SMALL).fit(X, labels)


# ------------------------------------------------------------------ representations
@pytest.mark.parametrize("fusion", ["cross", "self", "none"])
@pytest.mark.parametrize("imputation", ["transport", "token"])
def test_a_row_depends_on_itself_alone(data, fusion, imputation):
    X, labels, _ = data
    model = DecAlignClassifier(fusion=fusion, imputation=imputation, **SMALL)
    model.set_params(output="all").fit(X, labels)
    whole = model.transform(X)
    alone = np.vstack([model.transform(X[i : i + 1]) for i in range(8)])
    # Sums of other shapes differ in the last bits.
    assert_allclose(alone, whole[:8], atol=1e-12)
    assert np.isfinite(whole).all()
    order = np.random.default_rng(0).permutation(len(X))
    assert_allclose(model.transform(X[order]), whole[order], atol=1e-12)


def test_outputs_and_their_names(fitted, data):
    X = data[0]
    widths = {"fused": 32, "common": 8, "unique": 16, "all": 56}
    parts = {}
    for output, width in widths.items():
        model = clone(fitted).set_params(output=output)
        vars(model).update(
            {k: v for k, v in vars(fitted).items() if k.endswith("_") or k[0] == "_"}
        )
        parts[output] = model.transform(X)
        names = model.get_feature_names_out()
        assert parts[output].shape == (len(X), width) == (len(X), len(names))
        assert len(set(names)) == width
    together = np.hstack([parts[k] for k in ("fused", "common", "unique")])
    assert_array_equal(parts["all"], together)
    assert names[0] == "a__refined0"
    assert names[16] == "a__common0"


def test_absent_parts(fitted, data):
    X = data[0]
    model = fitted
    names = list(model.get_feature_names_out())
    a, b = names.index("a__common0"), names.index("b__common0")
    Z = model.transform(X)
    absent = np.isnan(X[:, :6]).all(1)
    # The common part of what is missing is the mean of the others': here, one other.
    assert_array_equal(Z[absent, a : a + 8], Z[absent, b : b + 8])
    marked = clone(model).set_params(keep_missing=True).fit(X, data[1]).transform(X)
    assert np.isnan(marked[absent, a : a + 8]).all()
    assert np.isnan(marked[absent, :8]).all()
    assert_array_equal(np.isnan(marked).any(1), np.isnan(X[:, [0, 6]]).any(1))
    assert_array_equal(marked[~np.isnan(marked)], Z[~np.isnan(marked)])


def test_a_row_with_nothing(fitted, data):
    X = np.full((2, 11), np.nan)
    Z = fitted.transform(X)
    assert np.isfinite(Z).all()
    assert_array_equal(Z[0], Z[1])
    assert_allclose(fitted.predict_proba(X).sum(1), 1)


def test_what_is_missing_does_not_matter(data):
    """Columns of an absent block are never looked at, at fit or at predict."""
    X, labels, _ = data
    model = DecAlignClassifier(**SMALL).fit(X, labels)
    shuffled = np.hstack([X[:, 6:], X[:, :6]])
    groups = {"a": slice(5, 11), "b": slice(0, 5)}
    other = clone(model).set_params(modalities=groups).fit(shuffled, labels)
    assert_array_equal(model.transform(X), other.transform(shuffled))


# ------------------------------------------------------------------ targets
@pytest.mark.parametrize(
    ("y", "kind"),
    [("labels", "class"), ("values", "real"), (None, "none")],
)
def test_the_transformer_says_what_the_target_was_taken_for(data, y, kind):
    X, labels, values = data
    y = {"labels": labels, "values": values, None: None}[y]
    model = DecAlignTransformer(**SMALL).fit(X, y)
    assert model.target_ == kind
    assert hasattr(model, "classes_") == (kind == "class")
    assert ("task" in model.history_) == (kind != "none")
    assert ("reconstruction" in model.history_) == (kind == "none")
    assert ("pairs" in model.history_) == (kind == "none")


def test_a_target_that_is_not_used_is_not_looked_at(data):
    X = data[0]
    model = DecAlignTransformer(target="none", **SMALL)
    assert_array_equal(model.fit_transform(X, object()), model.fit_transform(X))


def test_a_target_that_is_wanted_must_come(data):
    model = DecAlignTransformer(target="real", **SMALL)
    with pytest.raises(ValueError, match="y: expected a target for target='real'"):
        model.fit(data[0])


def test_several_targets_are_refused(data):
    X, _, values = data
    with pytest.raises(ValueError, match="y should be a 1d array"):
        DecAlignTransformer(**SMALL).fit(X, np.c_[values, values])


def test_classifier_and_transformer_are_one(data):
    X, labels, values = data
    a = DecAlignClassifier(**SMALL).fit(X, labels)
    b = DecAlignTransformer(**SMALL).fit(X, labels)
    assert_array_equal(a.transform(X), b.transform(X))
    a = DecAlignRegressor(**SMALL).fit(X, values)
    b = DecAlignTransformer(**SMALL).fit(X, values)
    assert_array_equal(a.transform(X), b.transform(X))


def test_predictions_agree(fitted, data):
    X = data[0]
    p = fitted.predict_proba(X)
    assert_allclose(p.sum(1), 1)
    assert_allclose(np.exp(fitted.predict_log_proba(X)), p)
    odds = fitted.decision_function(X)
    assert_allclose(odds, np.log(p[:, 1] / p[:, 0]), rtol=1e-9)
    assert_array_equal(fitted.predict(X), (odds > 0).astype(int))


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error"])
def test_regression_in_the_units_of_the_target(loss):
    X, _, y = views(200)
    model = DecAlignRegressor(**SMALL | {"max_epochs": 60}, loss=loss).fit(X, y)
    assert model.score(X, y) > 0.8
    # An affine change of the target changes the predictions so, up to rounding that
    # training spreads.
    other = clone(model).fit(X, 3 * y - 7)
    assert_allclose(other.predict(X), 3 * model.predict(X) - 7, rtol=1e-6)


def test_unlabelled_rows(data):
    X, labels, _ = data
    y = labels.copy()
    y[::2] = -1
    model = DecAlignClassifier(unlabeled=-1, **SMALL).fit(X, y)
    assert_array_equal(model.classes_, [0, 1])
    flipped = y.copy()
    flipped[1::2] = 1 - flipped[1::2]
    other = clone(model).fit(X, flipped)
    assert abs(model.predict_proba(X) - other.predict_proba(X)).max() > 1e-6
    # Without task the labels play no part but for the number of prototypes.
    with pytest.raises(ValueError, match="of at least 2 classes, got one class"):
        clone(model).fit(X, np.where(y == 1, -1, y))


def test_real_targets_contrast_in_their_units(data):
    X, _, y = data
    strong = {"contrastive_weight": 10.0, "pair_weight": 0.0}
    model = DecAlignRegressor(**SMALL, **strong)
    # The same integers are the same classes; other units are other classes.
    a = clone(model).fit(X, y).history_["contrastive"]
    b = clone(model).fit(X, y.round()).history_["contrastive"]
    c = clone(model).fit(X, y / 100).history_["contrastive"]
    assert abs(a[0] - b[0]) < abs(a[0] - c[0])
    with pytest.raises(ValueError, match="contrastive_weight: expected 0 without a"):
        DecAlignTransformer(contrastive_weight=1.0, **SMALL).fit(X)


def test_class_weights_move_the_balance(data):
    X, labels, _ = data
    rare = DecAlignClassifier(**SMALL | {"max_epochs": 20})
    even = clone(rare).fit(X, labels)
    heavy = clone(rare).set_params(class_weight={0: 1, 1: 20}).fit(X, labels)
    assert heavy.predict(X).sum() > even.predict(X).sum()


# ------------------------------------------------------------------ weights, seeds
@pytest.mark.parametrize("kind", ALL)
def test_weights_are_repetitions(kind, data):
    X, labels, values = (part[:80] for part in data)
    y = target_of(kind, labels, values)
    rng = np.random.default_rng(1)
    weight = rng.integers(0, 3, len(X))
    model = kind(
        **SMALL | {"max_epochs": 5},
        dropout=0.0,
        input_dropout=0.0,
        modality_dropout=0.0,
        batch_size=1000,
        lr=1e-3,
    )
    if kind is DecAlignTransformer:
        model.set_params(target="none")
    weighted = clone(model).fit(X, y, sample_weight=weight)
    rows = np.repeat(np.arange(len(X)), weight)
    repeated = clone(model).fit(X[rows], y[rows])
    # Sums of other orders; five small steps do not spread the rounding far.
    assert_allclose(weighted.transform(X), repeated.transform(X), atol=1e-7)


@pytest.mark.parametrize("kind", ALL)
def test_same_seed_same_bits(kind, data, global_rng_untouched):
    X, labels, values = data
    y = target_of(kind, labels, values)
    model = kind(batch_size=32, dropout=0.1, modality_dropout=0.2, **SMALL)
    first, second = (clone(model).fit(X, y).transform(X) for _ in range(2))
    assert_array_equal(first, second)
    other = clone(model).set_params(random_state=1).fit(X, y).transform(X)
    assert abs(other - first).max() > 1e-3


def test_warm_start_goes_on(data):
    X, labels, _ = data
    model = DecAlignClassifier(warm_start=True, lr_schedule="constant", **SMALL)
    model.fit(X, labels).fit(X, labels)
    assert model.n_iter_ == 6
    assert len(model.history_["task"]) == 6
    with pytest.raises(ValueError, match="fusion: can't change while training goes"):
        model.set_params(fusion="self").fit(X, labels)


def test_float32(data):
    X, labels, _ = data
    narrow = DecAlignClassifier(**SMALL).fit(X.astype(np.float32), labels)
    assert narrow.transform(X.astype(np.float32)).dtype == np.float32
    wide = DecAlignClassifier(**SMALL).fit(X, labels)
    assert wide.transform(X).dtype == np.float64


# ------------------------------------------------------------------ prototypes
def test_fitted_prototypes_and_plan(fitted):
    plan = fitted.transport_plan_
    assert plan.shape == (3, 3)
    for m, name in enumerate("ab"):
        # Within ot_tol of the marginals.
        weights = fitted.prototypes_[name]["weights"]
        assert_allclose(plan.sum(1 - m), weights, atol=2e-6)
    assert_allclose(fitted.matches_.sum(-1), 1)
    assert_array_equal(fitted.matches_[0, 0], np.eye(3))
    assert fitted.transport_residual_ <= 1e-6


def test_plan_alone_gives_the_matches(data):
    X, labels, _ = data
    model = DecAlignClassifier(prototype_match="plan", **SMALL).fit(X, labels)
    expected = model.transport_plan_ / model.transport_plan_.sum(1, keepdims=True)
    assert_allclose(model.matches_[0, 1], expected, atol=1e-9)


def test_transport_is_the_formula(fitted, data):
    X = data[0]
    rows = ~np.isnan(X[:, 0])
    w = fitted.responsibilities(X[rows], "a")
    assert_allclose(w.sum(1), 1)
    expected = w @ fitted.matches_[0, 1] @ fitted.prototypes_["b"]["means"]
    assert_allclose(fitted.transport(X[rows], "a", "b"), expected, atol=1e-9)
    # It stands for the unique part where the target is missing.
    lone = np.isnan(X[:, 6:]).all(1)
    model = clone(fitted).set_params(output="unique").fit(X, data[1])
    assert_allclose(
        model.transform(X[lone])[:, 8:], model.transport(X[lone], "a", "b"), atol=1e-9
    )


def test_transport_to_data(data):
    X, labels, _ = data
    model = DecAlignTransformer(**SMALL).fit(X)
    rows = ~np.isnan(X[:, 0])
    values = model.transport(X[rows], "a", "b", decode=True)
    assert values.shape == (rows.sum(), 5)
    with pytest.raises(ValueError, match="source: 'a' is not observed in row"):
        model.transport(X, "a", "b")
    with pytest.raises(ValueError, match=r"target: expected among .* got \['c'\]"):
        model.transport(X[rows], "a", "c")
    supervised = DecAlignClassifier(**SMALL).fit(X, labels)
    with pytest.raises(ValueError, match="decode: this model was trained without"):
        supervised.transport(X[rows], "a", "b", decode=True)


def test_many_modalities_meet_at_atoms():
    X, labels, _ = views()
    wide = np.hstack([X[:, [j % 11]] for j in range(12)])
    model = DecAlignClassifier(
        **SMALL | {"modalities": [2] * 6, "n_prototypes": 6, "max_epochs": 2}
    ).fit(wide, labels)
    assert model.transport_plan_ is None
    assert model.matches_.shape == (6, 6, 6, 6)
    assert_allclose(model.matches_.sum(-1), 1)
    model.set_params(max_cells=6**6, max_epochs=1).fit(wide, labels)
    assert model.transport_plan_.shape == (6,) * 6


def test_full_covariances(data):
    X, labels, _ = data
    model = DecAlignClassifier(covariance="full", **SMALL).fit(X, labels)
    assert model.prototypes_["a"]["covariances"].shape == (3, 8, 8)
    with pytest.raises(ValueError, match=r"3\*\*2 cells; max_cells is 8"):
        model.set_params(max_cells=8).fit(X, labels)


def test_a_plan_that_does_not_meet_its_marginals_is_told(data):
    X, labels, _ = data
    model = DecAlignClassifier(ot_reg=1e-7, ot_reg_scale="absolute", **SMALL)
    with pytest.warns(ConvergenceWarning, match="misses its marginals by"):
        model.set_params(ot_tol=1e-16).fit(X, labels)


def test_too_many_prototypes(data):
    model = DecAlignTransformer(**SMALL | {"n_prototypes": 95})
    with pytest.raises(ValueError, match="n_prototypes: expected at most 90, the rows"):
        model.fit(data[0])
    with pytest.raises(ValueError, match="n_prototypes: expected at most batch_size=9"):
        model.set_params(batch_size=9).fit(data[0])


def test_nothing_to_learn(data):
    weights = dict.fromkeys(
        (
            "decoupling_weight",
            "reconstruction_weight",
            "heterogeneity_weight",
            "homogeneity_weight",
            "pair_weight",
        ),
        0.0,
    )
    with pytest.raises(ValueError, match="expected one above zero without a target"):
        DecAlignTransformer(**SMALL, **weights).fit(data[0])


def test_one_modality(data):
    X, labels, _ = views()
    for y in (None, labels):
        model = DecAlignTransformer(**SMALL | {"modalities": None}).fit(X, y)
        assert model.transform(X).shape == (len(X), 16)
        assert model.transport_plan_ is None
        assert "transport" not in model.history_
        assert_allclose(model.responsibilities(X, "all").sum(1), 1)


# ------------------------------------------------------------------ shapes
def shaped(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    sequence = rng.normal(size=(n, 7, 3)) + y[:, None, None]
    image = rng.random(size=(n, 1, 5, 6)) + 0.3 * y[:, None, None, None]
    for i in range(0, n, 3):
        sequence[i, 4:] = np.nan
    return np.hstack([sequence.reshape(n, -1), image.reshape(n, -1)]), y


SHAPES = {
    "sequence": Modality(slice(0, 21), shape=(7, 3)),
    "image": Modality(slice(21, 51), shape=(1, 5, 6)),
}


@pytest.mark.parametrize("fusion", ["cross", "self", "none"])
def test_sequences_and_images(fusion):
    X, y = shaped()
    X[::7, :21] = np.nan
    X[1::7, 21:] = np.nan
    for target in (y, None):
        model = DecAlignTransformer(
            **SMALL | {"modalities": SHAPES}, fusion=fusion, n_tokens=4
        ).fit(X, target)
        Z = model.transform(X)
        assert np.isfinite(Z).all()
        assert_allclose(model.transform(X[3:9]), Z[3:9], atol=1e-12)


def test_padding_changes_nothing():
    X, y = shaped()
    # As many tokens as steps: they are the same ones.
    model = DecAlignClassifier(
        **SMALL | {"modalities": SHAPES}, dropout=0.0, n_tokens=9
    )
    model.fit(X, y)
    longer = {
        "sequence": Modality(slice(0, 27), shape=(9, 3)),
        "image": Modality(slice(27, 57), shape=(1, 5, 6)),
    }
    padded = np.hstack([X[:, :21], np.full((len(X), 6), np.nan), X[:, 21:]])
    other = clone(model).set_params(modalities=longer).fit(padded, y)
    # The same network: tokens are steps, padded ones are masked.
    assert_allclose(other.transform(padded), model.transform(X), atol=1e-8)


class Own(torch.nn.Module):
    """A user's encoder that gives two tokens."""

    def __init__(self, shape, n_out):
        super().__init__()
        self.map = torch.nn.Linear(int(np.prod(shape)), 2 * n_out)
        self.n_out = n_out

    def forward(self, x):
        return self.map(x.flatten(1)).view(len(x), 2, self.n_out)


class Wrong(Own):
    """One whose output has another width."""

    def forward(self, x):
        return super().forward(x)[:, :, 1:]


def test_own_encoders(data):
    X, labels, _ = data
    model = DecAlignClassifier(encoder={"a": Own}, **SMALL).fit(X, labels)
    assert np.isfinite(model.transform(X)).all()
    with pytest.raises(ValueError, match=r"encoder: expected output of shape \(n, 8\)"):
        model.set_params(encoder=Wrong).fit(X, labels)


# ------------------------------------------------------------------ pairs
def halves(n_pairs=12, n=150, seed=0):
    """Rows of two views of the same objects, of which few are known to be pairs."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n + 100, 4)) ** 3
    maps = rng.normal(size=(4, 12)), rng.normal(size=(4, 10))
    a, b = (z @ m + 0.05 * rng.normal(size=(len(z), m.shape[1])) for m in maps)
    lone_a = np.hstack([a[n_pairs:n], np.full((n - n_pairs, 10), np.nan)])
    lone_b = np.hstack([np.full((n - n_pairs, 12), np.nan), b[n_pairs:n]])
    X = np.vstack([np.hstack([a, b])[:n_pairs], lone_a, rng.permutation(lone_b)])
    held_out = [
        np.hstack([a[n:], np.full((100, 10), np.nan)]),
        np.hstack([np.full((100, 12), np.nan), b[n:]]),
    ]
    return X[rng.permutation(len(X))], held_out


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_pairs_are_enough(seed):
    X, held_out = halves(seed=seed)
    model = DecAlignTransformer(
        [12, 10],
        output="common",
        hidden=(64,),
        n_components=16,
        max_epochs=30,
        random_state=0,
    )
    scores = {}
    for match in (True, False):
        model.set_params(match_rows=match).fit(X)
        a, b = (model.transform(rows) for rows in held_out)
        scores[match] = recall_at_k(a, b, k=10)
    # Chance is 0.1.
    assert scores[True] > 0.5
    assert scores[True] > scores[False]


def test_partners_are_rows_of_one_modality():
    X, _ = halves()
    model = DecAlignTransformer([12, 10], max_epochs=1, random_state=0).fit(X)
    ((found,),) = (part.values() for part in model.partners_.values())
    assert len(found["rows"]) == 138
    assert np.isnan(X[found["rows"], 12:]).all()
    assert np.isnan(X[found["partner"], :12]).all()
    assert ((found["share"] > 0) & (found["share"] <= 1)).all()
    model.set_params(match_rows=False).fit(X)
    assert model.partners_ == {}


# ------------------------------------------------------------------ options
def test_every_weight_has_its_term(data):
    X, labels, _ = data
    weights = {
        "decoupling_weight": {"decoupling"},
        "heterogeneity_weight": {"transport", "prototypes"},
        "homogeneity_weight": {"moments", "mmd"},
        "reconstruction_weight": {"reconstruction"},
        "pair_weight": {"pairs"},
        "contrastive_weight": {"contrastive"},
    }
    none = DecAlignClassifier(imputation="token", **SMALL)
    none.set_params(**dict.fromkeys(weights, 0.0)).fit(X, labels)
    assert set(none.history_) == {"task"}
    for weight, terms in weights.items():
        model = clone(none).set_params(**{weight: 0.5}).fit(X, labels)
        assert set(model.history_) == {"task"} | terms
        assert abs(model.transform(X) - none.transform(X)).max() > 1e-6


@pytest.mark.parametrize(
    "change",
    [
        {"decoupling": "plain"},
        {"prototype_match": "index"},
        {"prototype_match": "plan"},
        {"em": "unrolled"},
        {"reduction": "sum"},
        {"scale_free": False},
        {"moments": ("mean",)},
        {"distribution_encoder": "shared"},
        {"distribution_encoder": "separate"},
        {"mmd_bandwidths": 1.0},
        {"mmd_bandwidths": [0.5, 2.0]},
        {"ot_rho": 0.5},
        {"ot_reg": 1.0},
        {"ot_reg_scale": "absolute"},
        {"covariance": "full"},
        {"reg_covar": 0.5},
        {"modality_dropout": 0.5},
        {"input_dropout": 0.1},
        {"fusion": "self"},
        {"pair_temperature": 1.0, "pair_weight": 1.0},
        {"contrastive_temperature": 1.0, "contrastive_weight": 1.0},
    ],
)
def test_every_option_changes_what_is_learnt(data, change):
    X, labels, _ = data
    strong = {"heterogeneity_weight": 1.0, "homogeneity_weight": 1.0}
    strong |= {k: 1.0 for k in change if k.endswith("_weight")}
    model = DecAlignClassifier(**SMALL, **strong, fusion="cross").fit(X, labels)
    other = clone(model).set_params(**change).fit(X, labels)
    assert np.isfinite(other.transform(X)).all()
    assert abs(other.transform(X) - model.transform(X)).max() > 1e-9


@pytest.mark.parametrize("name", ["paper", "published_code"])
@pytest.mark.parametrize("kind", ALL)
def test_presets(kind, name, data):
    X, labels, values = data
    model = kind.from_preset(name, **SMALL)
    assert model.em == "unrolled"
    assert model.n_components == 8  # ours wins
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, target_of(kind, labels, values))
    assert np.isfinite(model.transform(X)).all()


def test_unknown_preset():
    with pytest.raises(ValueError, match="preset: expected one of"):
        DecAlignClassifier.from_preset("mosi")


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"kernel_size": 4}, "kernel_size: expected an odd number, got 4"),
        ({"moments": ["kurtosis"]}, "moments: expected among .* got .'kurtosis'"),
        ({"mmd_bandwidths": [1.0, -1.0]}, "mmd_bandwidths: expected 'auto' or pos"),
    ],
)
def test_bad_parameters(data, params, match):
    X, labels, _ = data
    with pytest.raises(ValueError, match=match):
        DecAlignClassifier(**SMALL, **params).fit(X, labels)


def test_in_a_pipeline_in_a_search(data):
    X, _, values = data
    pipeline = make_pipeline(StandardScaler(), DecAlignTransformer(**SMALL), Ridge())
    search = GridSearchCV(
        pipeline, {"decaligntransformer__homogeneity_weight": [0.0, 0.5]}, cv=2
    )
    assert np.isfinite(search.fit(X, values).best_score_)


def test_early_stopping(data):
    X, labels, _ = data
    model = DecAlignClassifier(
        early_stopping=True, n_iter_no_change=2, **SMALL | {"max_epochs": 10}
    ).fit(X, labels)
    assert len(model.validation_loss_curve_) == model.n_iter_


@pytest.mark.gpu
@pytest.mark.parametrize("target", [False, True])
def test_gpu_gives_close_results(target):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    X, labels, _ = views(400)
    X = with_gaps(X).astype(np.float32)
    model = DecAlignTransformer(
        **SMALL | {"max_epochs": 20}, device="cuda", batch_size=64
    ).fit(X, labels if target else None)
    on_gpu = model.transform(X)
    on_cpu = model.set_params(device="cpu").transform(X)
    # Sums of single precision in another order.
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-2, atol=1e-3)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
