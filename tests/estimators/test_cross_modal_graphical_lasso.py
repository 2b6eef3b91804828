"""The estimator: what its parameters do, what rows with gaps get, what is an error."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.covariance import graphical_lasso
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmm import CrossModalGraphicalLasso
from skmm.datasets import load_mfeat

GROUPS = {"a": slice(0, 3), "b": slice(3, 6)}


def sample(seed=0, n=120, n_classes=3, p=6):
    """Rows of classes with correlated nodes, and their labels."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_classes), n // n_classes)
    mix = np.eye(p) + 0.5 * np.triu(rng.normal(size=(p, p)), 1) * (
        rng.random((p, p)) < 0.4
    )
    X = rng.normal(size=(len(y), p)) @ mix + rng.normal(size=(n_classes, p))[y]
    order = rng.permutation(len(y))
    return X[order], y[order]


def with_gaps(X, seed=0):
    """Modality "b" missing in a third of the rows, and single cells."""
    rng = np.random.default_rng(seed)
    X = X.copy()
    X[::3, 3:] = np.nan
    X[1::3][rng.random(X[1::3].shape) < 0.1] = np.nan
    return X


def model(**params):
    return CrossModalGraphicalLasso(GROUPS, **({"tol": 1e-10} | params))


@pytest.fixture(scope="module")
def fitted():
    X, y = sample()
    return model().fit(X, y)


# What was fitted


@pytest.mark.parametrize(
    "params", [{}, {"pooling": 1.0}, {"specific_penalty": "group"}]
)
def test_parts_add_up_and_covariances_are_inverses(params):
    X, y = sample()
    found = model(**params).fit(X, y)
    parts = found.common_precision_ + found.specific_precision_
    np.testing.assert_array_equal(found.precision_, parts)
    product = found.precision_ @ found.covariance_
    # Rounding of an inverse: condition numbers here are below 100.
    np.testing.assert_allclose(
        product, np.broadcast_to(np.eye(6), (3, 6, 6)), atol=1e-12
    )
    assert 0 <= found.duality_gap_ < 1e-10 * 3 * 6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("npn", [None, "shrinkage", "truncation"])
def test_optimality_conditions(seed, npn):
    X, y = sample(seed)
    found = model(npn=npn, alpha=0.1, pooling=0.0).fit(X, y)
    off = ~np.eye(6, dtype=bool)
    scores = found.transform(X)
    S = np.stack([np.cov(scores[y == c], rowvar=False, bias=True) for c in range(3)])
    G = found.covariance_ - S
    # A gap of 1e-10 nats leaves gradients within its root.
    tol = 1e-4
    specific, common = found.specific_precision_, found.common_precision_
    lam_b, lam_a = found.lambda_specific_, found.lambda_common_
    assert lam_b == pytest.approx(0.1)
    assert lam_a == pytest.approx(0.1 * 0.471 * 3)
    assert np.abs(np.diagonal(G, axis1=1, axis2=2)).max() < tol
    assert np.abs(G[:, off]).max() < lam_b + tol
    assert np.abs(G.sum(0)[off]).max() < lam_a + tol
    moved = (specific != 0) & off
    np.testing.assert_allclose(G[moved], lam_b * np.sign(specific[moved]), atol=tol)
    moved = (common != 0) & off
    np.testing.assert_allclose(
        G.sum(0)[moved], lam_a * np.sign(common[moved]), atol=tol
    )


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_without_labels_it_is_the_graphical_lasso(alpha):
    X, _ = sample()
    found = model(alpha=alpha).fit(X)
    reference = graphical_lasso(
        np.corrcoef(X, rowvar=False), alpha, tol=1e-4, enet_tol=1e-10
    )[1]
    # A gap of 1e-4 nats, as scikit-learn measures it, leaves entries within its root.
    np.testing.assert_allclose(found.precision_, reference, atol=1e-2)
    assert found.precision_.shape == found.specific_precision_.shape == (6, 6)
    assert not found.specific_precision_.any()
    assert found.lambda_specific_ == np.inf
    assert not hasattr(found, "classes_")


def test_full_pooling_is_the_limit_of_pooling():
    X, y = sample()
    almost = model(pooling=1 - 1e-9, alpha=0.1).fit(X, y)
    full = model(pooling=1.0, alpha=0.1).fit(X, y)
    np.testing.assert_allclose(full.precision_, almost.precision_, atol=1e-4)
    assert not full.specific_precision_.any()
    assert full.objective_ == pytest.approx(almost.objective_, abs=1e-6)
    assert full.dual_.shape == full.covariance_.shape == (3, 6, 6)


@pytest.mark.parametrize("seed", range(3))
def test_permutations_of_nodes_and_classes(seed):
    X, y = sample(seed)
    rng = np.random.default_rng(seed)
    nodes, classes = rng.permutation(6), np.array([2, 0, 1])
    found = model().fit(X, y)
    other = CrossModalGraphicalLasso(None, tol=1e-10).fit(X[:, nodes], classes[y])
    expected = found.precision_[:, nodes][:, :, nodes][np.argsort(classes)]
    # Two iterations that stop within 1e-10 nats of the same optimum.
    np.testing.assert_allclose(other.precision_, expected, atol=1e-4)


@pytest.mark.parametrize("npn", ["shrinkage", "truncation", "skeptic"])
def test_ranks_are_invariant_to_increasing_maps(npn):
    X, y = sample()
    found = model(npn=npn).fit(X, y)
    mapped = model(npn=npn).fit(np.exp(X) - np.arange(6), y)
    np.testing.assert_array_equal(found.precision_, mapped.precision_)


def test_standardising_is_invariant_to_units():
    X, y = sample()
    mapped = X * np.logspace(-6, 6, 6) + 3.0
    found, other = model().fit(X, y), model().fit(mapped, y)
    np.testing.assert_allclose(found.precision_, other.precision_, atol=1e-4)
    # Means of 3 beside deviations of 1e-6 leave nine digits.
    np.testing.assert_allclose(
        found.predict_proba(X), other.predict_proba(mapped), atol=1e-4
    )


@pytest.mark.parametrize("params", [{}, {"npn": "shrinkage"}, {"npn": "skeptic"}])
@pytest.mark.parametrize("gaps", [False, True])
def test_weights_are_repetitions(params, gaps):
    X, y = sample()
    X = with_gaps(X) if gaps else X
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    weighted = model(**params).fit(X, y, sample_weight=weight)
    repeated = model(**params).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.location_, repeated.location_, atol=1e-12)
    # Sums in another order, then two iterations to the same gap.
    np.testing.assert_allclose(weighted.precision_, repeated.precision_, atol=1e-5)
    np.testing.assert_allclose(weighted.priors_, repeated.priors_, atol=1e-12)


# Parameters


def test_penalty_between_modalities():
    X, _ = sample()
    plain, cut = (model(alpha=0.05, cross_modal_penalty=k).fit(X) for k in (1.0, 50.0))
    assert any(edge.modality is None for edge in plain.edges_)
    assert all(edge.modality is not None for edge in cut.edges_)
    np.testing.assert_array_equal(cut.weights_[:3, 3:], np.full((3, 3), 50.0))
    np.testing.assert_array_equal(cut.weights_[:3, :3], np.ones((3, 3)))


def test_steepness_zero_is_no_prior():
    X, y = sample()
    prior = np.random.default_rng(0).random((6, 6))
    prior = (prior + prior.T) / 2
    with_prior = model(prior=prior, steepness=0).fit(X, y)
    np.testing.assert_array_equal(with_prior.weights_, np.ones((6, 6)))
    np.testing.assert_array_equal(with_prior.precision_, model().fit(X, y).precision_)


def test_a_prior_decides_where_edges_are():
    X, y = sample()
    prior = np.full((6, 6), 0.1)
    prior[0, 1] = prior[1, 0] = 0.9
    found = model(prior=prior, steepness=80, alpha=0.1, midpoint=0.5).fit(X)
    plain = model(alpha=0.1).fit(X)
    assert found.weights_[0, 1] < 0.02 < 1 < found.weights_[0, 2]
    assert np.abs(found.precision_[0, 1]) > np.abs(plain.precision_[0, 1])
    given = {"callable": lambda X: prior, "each": np.stack([prior] * 3)}
    for value in given.values():
        again = model(prior=value, steepness=2.0).fit(X, y)
        reference = model(prior=prior, steepness=2.0).fit(X, y)
        np.testing.assert_allclose(again.precision_, reference.precision_, atol=1e-5)


class Carrier(np.ndarray):
    """An array that carries a prior, as a transformer before may return it."""


def test_a_prior_that_comes_with_the_data():
    X, y = sample()
    prior = np.full((6, 6), 0.5)
    prior[:2, :2] = 0.9
    carrier = X.view(Carrier)
    carrier.prior = prior
    frame = pd.DataFrame(X)
    frame.attrs["prior"] = prior
    for data in (carrier, frame):
        found = CrossModalGraphicalLasso(None, prior="footprints", steepness=3.0)
        np.testing.assert_array_equal(found.fit(data, y).prior_, prior)
    with pytest.raises(ValueError, match=r"prior: 'footprints' expects an X that carr"):
        found.fit(X, y)


@pytest.mark.parametrize("selection", ["cv", "ebic"])
def test_selection(selection):
    X, y = sample(n=150)
    prior = np.full((6, 6), 0.5)
    prior[0, 1] = prior[1, 0] = 0.9
    found = CrossModalGraphicalLasso(
        GROUPS,
        alpha="auto",
        common_ratio="auto",
        prior=prior,
        selection=selection,
        n_alphas=5,
        cv=3,
        random_state=0,
    ).fit(X, y)
    results = found.cv_results_
    best = results["mean_test_score"].argmax()
    assert found.alpha_ == results["alpha"][best]
    assert found.common_ratio_ == results["common_ratio"][best]
    assert found.steepness_ == results["steepness"][best]
    assert set(results["common_ratio"]) == {0.313, 0.471, 0.631, 0.793}
    assert set(results["steepness"]) == {0, 0.5, 1, 2, 5, 10, 20, 50, 80}
    if selection == "cv":
        folds = np.stack([results[f"split{k}_test_score"] for k in range(3)])
        np.testing.assert_allclose(folds.mean(0), results["mean_test_score"])
    else:
        # The candidates are solved to a looser gap than the result.
        assert -results["mean_test_score"].max() == pytest.approx(found.ebic_, abs=1)


def test_a_held_out_score_is_the_density_of_the_rows_class():
    X, y = sample(n=90)
    found = CrossModalGraphicalLasso(
        GROUPS, alpha=0.1, common_ratio="auto", cv=3, random_state=0, tol=1e-8
    ).fit(X, y)
    folds = StratifiedKFold(3, shuffle=True, random_state=0).split(X, y)
    train, test = next(folds)
    ratio = found.cv_results_["common_ratio"][0]
    part = CrossModalGraphicalLasso(
        GROUPS, alpha=0.1, common_ratio=ratio, tol=1e-8
    ).fit(X[train], y[train])
    Z = part.transform(X[test])
    expected = np.mean(
        [
            multivariate_normal(part.location_[c], part.covariance_[c]).logpdf(z)
            for z, c in zip(Z, y[test], strict=True)
        ]
    )
    # A gap of 1e-8 nats moves the precisions by its root, some 1e-4.
    assert found.cv_results_["split0_test_score"][0] == pytest.approx(
        expected, abs=1e-3
    )


def test_priors():
    X, y = sample()
    X, y = X[10:], y[10:]
    frequencies = np.bincount(y) / len(y)
    np.testing.assert_allclose(model().fit(X, y).priors_, frequencies)
    np.testing.assert_allclose(model(priors="equal").fit(X, y).priors_, [1 / 3] * 3)
    found = model(priors=[0, 1, 3]).fit(X, y)
    np.testing.assert_allclose(found.priors_, [0, 0.25, 0.75])
    assert 0 not in found.predict(X)


# Rows


@pytest.mark.parametrize("pooling", [0.5, 1.0])
def test_prediction_is_bayes_rule_over_what_is_observed(pooling):
    X, y = sample()
    found = model(pooling=pooling).fit(with_gaps(X), y)
    rows = with_gaps(X, seed=1)
    rows[5] = np.nan
    Z = (rows - found._marginals.center) / found._marginals.scale
    joint = np.tile(np.log(found.priors_), (len(Z), 1))
    for i, z in enumerate(Z):
        o = np.flatnonzero(~np.isnan(z))
        for c in range(3):
            if len(o):
                law = multivariate_normal(
                    found.location_[c, o], found.covariance_[c][np.ix_(o, o)]
                )
                joint[i, c] += law.logpdf(z[o])
    # Rounding of Cholesky factors against scipy's eigenvalues.
    np.testing.assert_allclose(found.decision_function(rows), joint, atol=1e-9)
    proba = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
    np.testing.assert_allclose(found.predict_proba(rows), proba, atol=1e-9)
    np.testing.assert_allclose(found.predict_proba(rows)[5], found.priors_)
    np.testing.assert_allclose(
        found.score_samples(rows), np.logaddexp.reduce(joint, axis=1), atol=1e-9
    )
    assert found.score(rows) == pytest.approx(found.score_samples(rows).mean())
    assert found.score(rows, y) == (found.predict(rows) == y).mean()
    np.testing.assert_allclose(
        np.exp(found.predict_log_proba(rows)), found.predict_proba(rows)
    )


def test_two_classes_have_one_decision():
    X, y = sample(n_classes=2)
    found = model().fit(X, y)
    proba = found.predict_proba(X)
    np.testing.assert_allclose(
        found.decision_function(X), np.log(proba[:, 1] / proba[:, 0]), atol=1e-9
    )


@pytest.mark.parametrize("npn", [None, "shrinkage", "truncation"])
@pytest.mark.parametrize("gaps", [False, True])
def test_training_rows_have_the_scores_of_the_fit(npn, gaps):
    X, y = sample()
    X = with_gaps(X) if gaps else X
    found = model(npn=npn, keep_missing=True).fit(X, y)
    Z = found.transform(X)
    np.testing.assert_array_equal(np.isnan(Z), np.isnan(X))
    np.testing.assert_allclose(np.nanstd(Z, axis=0), 1, atol=1e-12)
    means = np.stack([np.nanmean(Z[y == c], axis=0) for c in range(3)])
    np.testing.assert_allclose(means, found.location_, atol=1e-12)


def test_imputed_cells_are_conditional_means():
    X, y = sample()
    rows = with_gaps(X)
    found = model().fit(X)
    Z = found.transform(rows)
    standardised = (rows - found._marginals.center) / found._marginals.scale
    for z, full in zip(standardised, Z, strict=True):
        m, o = np.flatnonzero(np.isnan(z)), np.flatnonzero(~np.isnan(z))
        S = found.covariance_
        expected = found.location_[m] + S[np.ix_(m, o)] @ np.linalg.solve(
            S[np.ix_(o, o)], z[o] - found.location_[o]
        )
        np.testing.assert_allclose(full[m], expected, atol=1e-10)
        np.testing.assert_allclose(full[o], z[o], atol=1e-12)
    filled = found.impute(rows)
    np.testing.assert_array_equal(filled[~np.isnan(rows)], rows[~np.isnan(rows)])
    np.testing.assert_allclose(
        filled, Z * found._marginals.scale + found._marginals.center, atol=1e-9
    )
    # Over classes: the mixture of their conditional means.
    both = model().fit(X, y)
    mixed = both.transform(rows)
    assert np.isfinite(mixed).all()
    error = {
        "mean": np.nanmean(X, axis=0) - X,
        "model": both.impute(rows) - X,
    }
    gaps = np.isnan(rows)
    # The nodes of this sample predict each other by a little only.
    assert (error["model"][gaps] ** 2).mean() < 0.9 * (error["mean"][gaps] ** 2).mean()


def test_imputation_through_ranks_stays_in_range():
    X, y = sample()
    found = model(npn="shrinkage").fit(np.exp(X), y)
    filled = found.impute(with_gaps(np.exp(X)))
    assert (filled >= np.exp(X).min(0)).all() and (filled <= np.exp(X).max(0)).all()


def test_residuals_are_prediction_errors():
    X, _ = sample()
    found = model(output="residuals").fit(X)
    residuals = found.transform(X)
    Z = model().fit(X).transform(X)
    for j in range(6):
        rest = np.delete(np.arange(6), j)
        slope = np.linalg.solve(
            found.covariance_[np.ix_(rest, rest)], found.covariance_[rest, j]
        )
        expected = Z[:, j] - found.location_[j] - (Z - found.location_)[:, rest] @ slope
        np.testing.assert_allclose(residuals[:, j], expected, atol=1e-9)
    rows = with_gaps(X)
    assert not found.transform(rows)[np.isnan(rows)].any()


def test_rows_do_not_depend_on_each_other(fitted):
    X = with_gaps(sample()[0], seed=2)
    for method in ("predict_proba", "transform", "score_samples", "impute"):
        whole = getattr(fitted, method)(X)
        single = np.concatenate([getattr(fitted, method)(x[None]) for x in X])
        np.testing.assert_allclose(whole, single, atol=1e-12)


# scikit-learn around it


def test_edges_are_named():
    X, y = sample()
    frame = pd.DataFrame(X, columns=[f"a__{i}" for i in range(3)] + list("xyz"))
    labels = np.array(["no", "so", "yes"])[y]
    groups = {"a": [0, 1, 2], "b": ["x", "z"], "drop": ["y"]}
    found = CrossModalGraphicalLasso(groups, alpha=0.02, pooling=0).fit(frame, labels)
    names = ["a__0", "a__1", "a__2", "b__x", "b__z"]
    assert found.get_feature_names_out().tolist() == names
    assert found.node_modalities_.tolist() == ["a"] * 3 + ["b"] * 2
    assert found.common_precision_.shape == (5, 5)
    assert len(found.edges_) == np.count_nonzero(
        np.triu(found.common_precision_, 1)
    ) + (np.count_nonzero(np.triu(found.specific_precision_, 1)))
    for edge in found.edges_:
        i, j = names.index(edge.source), names.index(edge.target)
        part = found.common_precision_
        if edge.kind == "specific":
            part = found.specific_precision_[labels_index(found, edge.label)]
        assert edge.value == part[i, j] != 0
        same = names[i][0] == names[j][0]
        assert edge.modality == (names[i][0] if same else None)
    filled = found.impute(frame.assign(x=np.nan, y=np.nan))
    assert np.isnan(filled[:, 4]).all() and np.isfinite(filled[:, 3]).all()
    out = clone(found).set_output(transform="pandas").fit(frame, labels)
    assert out.transform(frame).columns.tolist() == names


def labels_index(found, label):
    return found.classes_.tolist().index(label)


@pytest.mark.parametrize("params", [{}, {"npn": "shrinkage"}, {"pooling": 1.0}])
def test_pickles_and_clones(params):
    X, y = sample()
    found = model(**params).fit(X, y)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.predict_proba(X), found.predict_proba(X))
    twice = clone(found).fit(X, y)
    np.testing.assert_array_equal(twice.precision_, found.precision_)


class Counter:
    """Counts the tasks that an estimator tells of."""

    def __init__(self):
        self.seen = {}

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        name = context.task_name
        self.seen[name] = self.seen.get(name, 0) + 1

    def on_fit_task_end(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass


def test_in_a_pipeline_in_a_search_with_progress(capsys):
    X, y = sample()
    pipe = make_pipeline(StandardScaler(), CrossModalGraphicalLasso(GROUPS))
    grid = {
        "crossmodalgraphicallasso__alpha": [0.01, 0.1],
        "crossmodalgraphicallasso__modalities": [
            GROUPS,
            {"a": [0, 1, 2], "drop": [3, 4, 5]},
        ],
    }
    search = GridSearchCV(pipe, grid, cv=2).set_callbacks(ProgressBar())
    assert search.fit(with_gaps(X), y).best_score_ > 0.4
    assert "GridSearchCV" in capsys.readouterr().out
    alone = CrossModalGraphicalLasso(GROUPS, common_ratio="auto", cv=2)
    counter = Counter()
    alone.set_callbacks(ProgressBar(), counter).fit(X, y)
    assert "CrossModalGraphicalLasso - fit" in capsys.readouterr().out
    assert counter.seen["candidate"] == 4
    assert counter.seen["iteration"] >= alone.n_iter_


class StopAtOnce(Counter):
    def on_fit_task_end(self, estimator, context):
        return context.task_name == "iteration"


def test_callbacks_can_stop_and_score():
    X, y = sample()
    stopped = CrossModalGraphicalLasso(GROUPS, solver="admm").set_callbacks(
        StopAtOnce()
    )
    assert stopped.fit(X, y).n_iter_ == 1
    assert stopped.duality_gap_ > stopped.tol * 18
    monitor = ScoringMonitor(scoring="accuracy")
    scored = CrossModalGraphicalLasso(GROUPS).set_callbacks(monitor).fit(X, y)
    last = monitor.get_logs().data[-1]["accuracy"]
    assert last == pytest.approx(scored.score(X, y))


def test_a_fit_that_fails_leaves_the_last_one(fitted):
    X, y = sample()
    found = clone(fitted).fit(X, y)
    before = found.predict_proba(X)
    with pytest.raises(ValueError, match="inf"):
        found.fit(np.where(X > 1, np.inf, X), y)
    np.testing.assert_array_equal(found.predict_proba(X), before)
    found.fit(X)
    with pytest.raises(AttributeError) as caught:
        found.predict(X)
    assert "y: fitted without labels" in str(caught.value.__cause__)


def test_float32_in_float32_out():
    X, y = sample()
    found = model().fit(X.astype(np.float32), y)
    assert found.transform(X.astype(np.float32)).dtype == np.float32
    assert found.impute(with_gaps(X).astype(np.float32)).dtype == np.float32
    assert found.precision_.dtype == np.float64


def test_unfitted():
    X, _ = sample()
    for method in ("predict", "transform", "score_samples", "impute"):
        with pytest.raises(NotFittedError):
            getattr(model(), method)(X)
    with pytest.raises(NotFittedError):
        _ = model().edges_


# Real data


@pytest.mark.parametrize(
    ("load", "floor"),
    [(load_iris, 0.93), (load_wine, 0.95), (load_breast_cancer, 0.94)],
)
@pytest.mark.parametrize("npn", [None, "shrinkage"])
def test_floors_of_accuracy(load, floor, npn):
    X, y = load(return_X_y=True)
    cv = StratifiedKFold(5, shuffle=True, random_state=0)
    estimator = CrossModalGraphicalLasso(None, npn=npn)
    assert cross_val_score(estimator, X, y, cv=cv).mean() >= floor


def test_collinear_data_on_which_scikit_learn_fails():
    # As many columns as rows, driven by five factors, as expression data are.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 5)) @ rng.normal(size=(5, 100))
    X = StandardScaler().fit_transform(X + 0.1 * rng.normal(size=X.shape))
    with pytest.raises(FloatingPointError):
        graphical_lasso(X.T @ X / 100, 0.1)
    found = CrossModalGraphicalLasso(None, alpha=0.1).fit(X)
    assert found.duality_gap_ <= 1e-4 * 100
    chosen = CrossModalGraphicalLasso(
        None, alpha="auto", cv=3, n_alphas=10, random_state=0
    ).fit(X)
    scores = chosen.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and scores.max() > scores[0] + 100


def test_held_out_likelihood_of_the_selected_penalty():
    views = load_mfeat(views=["fou", "zer"])
    rows = np.random.default_rng(0).permutation(len(views.data))
    scaler = StandardScaler().fit(views.data[rows[:200]])
    train, test = (
        scaler.transform(views.data[rows[i:j]]) for i, j in ((0, 200), (200, 600))
    )
    found = CrossModalGraphicalLasso(None, alpha="auto", random_state=0).fit(train)
    # Ledoit and Wolf's covariance has -128 nats a row there.
    assert found.score(test) > -120


# Errors


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prior": np.ones((5, 5))}, r"prior: expected shape \(6, 6\) or \(3, 6, 6\)"),
        (
            {"prior": np.full((6, 6), 2.0)},
            r"prior: expected strengths in \[0, 1\], got 2",
        ),
        (
            {"prior": np.full((6, 6), np.nan)},
            r"prior: expected strengths in .* got nan",
        ),
        ({"prior": np.triu(np.ones((6, 6)))}, "prior: expected a symmetric matrix"),
        (
            {"prior": np.ones((3, 6, 6)), "specific_penalty": "group"},
            "prior: specific_penalty='group' expects one matrix",
        ),
        ({"priors": [0.5, 0.5]}, "priors: expected 3 non-negative finite"),
        ({"priors": [0, 0, 0]}, "priors: expected 3 non-negative finite"),
        ({"priors": [np.inf, 1, 1]}, "priors: expected 3 non-negative finite"),
        ({"npn": "skeptic", "alpha": "auto"}, "selection: 'cv' needs scores"),
        ({"alpha": -1.0}, "The 'alpha' parameter"),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not available"),
    ],
)
def test_bad_parameters(params, message):
    X, y = sample()
    with pytest.raises(ValueError, match=message):
        model(**params).fit(X, y)


def test_bad_rows():
    X, y = sample()
    with pytest.raises(
        ValueError, match="output: 'residuals' is for estimators fitted"
    ):
        model(output="residuals").fit(X, y).transform(X)
    with pytest.raises(
        ValueError, match=r"sample_weight: expected rows of weight above"
    ):
        model().fit(X, y, sample_weight=(y > 0).astype(float))
    with pytest.raises(ValueError, match="cv: a fold's training rows lack a class"):
        cv = [(np.flatnonzero(y > 0), np.flatnonzero(y == 0))]
        model(alpha="auto", cv=cv).fit(X, y)
    gone = X.copy()
    gone[:, 3:] = np.nan
    with pytest.raises(ValueError, match="'b'"):
        model().fit(gone, y)
    skeptic = model(npn="skeptic").fit(X, y)
    for method in ("predict", "transform", "score", "impute"):
        with pytest.raises(AttributeError) as caught:
            getattr(skeptic, method)(X)
        assert "npn: 'skeptic' estimates" in str(caught.value.__cause__)


def test_a_fit_that_does_not_converge_says_so():
    X, y = sample()
    with pytest.warns(ConvergenceWarning, match=r"did not reach tol=1e-10.*max_iter"):
        model(max_iter=1).fit(X, y)


def test_hard_input_gives_finite_results():
    X, y = sample()
    X = np.column_stack([X, np.ones(len(X)), (y == 0).astype(float), X[:, 0]])
    X[y == 2, 1] = np.nan  # a node that a class never shows
    X[y == 1, 2] = 5.0  # constant within a class
    for params in ({}, {"pooling": 0.0}, {"npn": "shrinkage"}, {"npn": "skeptic"}):
        found = CrossModalGraphicalLasso(None, **params).fit(X, y)
        assert np.isfinite(found.precision_).all()
        assert (np.linalg.eigvalsh(found.precision_) > 0).all()
        if params.get("npn") != "skeptic":
            assert np.isfinite(found.decision_function(X)).all()


@pytest.mark.parametrize("npn", [None, "shrinkage", "truncation"])
@pytest.mark.parametrize("column", [0, 3])
def test_a_column_that_is_never_seen_changes_nothing_else(column, npn):
    X, y = sample()
    X[:, column] = np.nan
    rest = np.delete(np.arange(6), column)
    whole = CrossModalGraphicalLasso(None, alpha=0.05, npn=npn, tol=1e-8).fit(X, y)
    part = CrossModalGraphicalLasso(None, alpha=0.05, npn=npn, tol=1e-8).fit(
        X[:, rest], y
    )
    np.testing.assert_allclose(whole.transform(X)[:, rest], part.transform(X[:, rest]))
    # The root of the gap.
    np.testing.assert_allclose(
        whole.predict_proba(X), part.predict_proba(X[:, rest]), atol=1e-3
    )


@pytest.mark.parametrize("seed", range(3))
def test_residuals_of_rows_with_gaps(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 5))
    found = CrossModalGraphicalLasso(None, output="residuals", alpha=0.05).fit(X)
    X[rng.random(X.shape) < 0.4] = np.nan
    Z = found.set_params(output="scores", keep_missing=True).transform(X)
    R = found.set_params(output="residuals", keep_missing=False).transform(X)
    for z, r in zip(Z, R, strict=True):
        seen = np.flatnonzero(~np.isnan(z))
        np.testing.assert_array_equal(r[np.isnan(z)], 0)
        for j in seen:
            others = seen[seen != j]
            S, mean = found.covariance_, found.location_
            slope = np.linalg.solve(S[np.ix_(others, others)], S[others, j])
            expected = z[j] - mean[j] - (z[others] - mean[others]) @ slope
            assert r[j] == pytest.approx(expected, abs=1e-9)


def test_folds_without_a_class_or_of_no_weight():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(66, 4))
    y = np.r_[np.zeros(6), np.ones(60)]
    folds = ShuffleSplit(3, test_size=0.1, random_state=0)
    found = CrossModalGraphicalLasso(None, alpha="auto", n_alphas=4, cv=folds)
    assert np.isfinite(found.fit(X, y).cv_results_["mean_test_score"]).all()
    weight = np.zeros(66)
    weight[[0, 1, 2, 3, 20, 21, 22, 23]] = 1
    found = CrossModalGraphicalLasso(None, alpha="auto", cv=3, random_state=0)
    some = weight > 0
    found.fit(X, y, weight)
    np.testing.assert_array_equal(
        found.cv_results_["mean_test_score"],
        clone(found).fit(X[some], y[some]).cv_results_["mean_test_score"],
    )
    nothing = [(np.arange(30), np.arange(30, 60))]
    with pytest.raises(ValueError, match="cv: a fold holds out no row of positive"):
        clone(found).set_params(cv=nothing).fit(X, y, weight)


@pytest.mark.parametrize("seed", range(4))
def test_ebic_finds_the_best_of_its_path(seed):
    X, y = sample(seed=seed)
    found = CrossModalGraphicalLasso(None, alpha="auto", selection="ebic").fit(X, y)
    results = found.cv_results_
    assert len(results["alpha"]) >= 20
    assert results["alpha"].max() / results["alpha"].min() == pytest.approx(50, rel=0.3)
    # The fit at the selected penalty is the candidate.
    assert found.ebic_ == pytest.approx(-results["mean_test_score"].max(), abs=1e-2)


def test_one_light_edge_does_not_set_the_path():
    X, y = sample()
    prior = np.zeros((6, 6))
    prior[0, 1] = prior[1, 0] = 1
    plain = CrossModalGraphicalLasso(None, alpha="auto", selection="ebic").fit(X, y)
    found = clone(plain).set_params(prior=prior, steepness=20).fit(X, y)
    first, ours = plain.cv_results_["alpha"], found.cv_results_["alpha"]
    assert ours.max() > 2 * first.max()  # where the light edge comes
    assert ours.min() <= 1.01 * first.min()


def test_weights_that_do_not_count_rows():
    X, y = sample()
    weight = np.full(len(X), 1 / len(X))
    one = CrossModalGraphicalLasso(None, alpha=0.1).fit(X, y, weight)
    two = CrossModalGraphicalLasso(None, alpha=0.1).fit(X, y)
    np.testing.assert_allclose(one.precision_, two.precision_, atol=1e-9)
    for params in ({}, {"npn": "shrinkage", "alpha": 0.1}):
        with pytest.raises(ValueError, match=r"sample_weight: npn and .*Multiply"):
            CrossModalGraphicalLasso(None, **params).fit(X, y, weight)


def test_the_default_penalty_follows_rows_and_nodes():
    X, y = sample()
    found = CrossModalGraphicalLasso(GROUPS).fit(X, y)
    assert found.alpha_ == 0.5 * np.sqrt(np.log(6) / len(X))
    weighted = CrossModalGraphicalLasso(GROUPS).fit(X, y, np.full(len(X), 4))
    assert weighted.alpha_ == pytest.approx(found.alpha_ / 2)
    part = CrossModalGraphicalLasso({"a": [0, 1], "drop": [2, 3, 4, 5]}).fit(X, y)
    assert part.alpha_ == 0.5 * np.sqrt(np.log(2) / len(X))


@pytest.mark.parametrize("likelihood_weights", ["equal", "size"])
@pytest.mark.parametrize("ratio", [0.4, 5.0])
def test_full_pooling_reports_the_joint_problem(ratio, likelihood_weights):
    X, y = sample()
    found = CrossModalGraphicalLasso(
        None,
        pooling=1.0,
        alpha=0.1,
        common_ratio=ratio,
        likelihood_weights=likelihood_weights,
        tol=1e-9,
    ).fit(X, y)
    near = clone(found).set_params(pooling=1 - 1e-9).fit(X, y)
    for name in ("lambda_common_", "lambda_specific_", "objective_"):
        assert getattr(found, name) == pytest.approx(getattr(near, name), abs=1e-6)
    for name in ("common_precision_", "specific_precision_", "dual_"):
        # The root of the gap of 1e-9 nats a node and class.
        np.testing.assert_allclose(getattr(found, name), getattr(near, name), atol=1e-3)
    off = ~np.eye(6, dtype=bool)
    assert found.common_precision_[off].any() == (ratio < 1)


def test_names_that_already_have_the_prefix():
    X, y = sample()
    frame = pd.DataFrame(X[:, :3], columns=["x", "a__x", "c"])
    found = CrossModalGraphicalLasso({"a": ["x", "a__x"], "b": ["c"]}).fit(frame, y)
    assert found.get_feature_names_out().tolist() == ["a__x", "a__a__x", "b__c"]


@pytest.mark.filterwarnings("error")
def test_read_only_weights():
    X, y = sample()
    weight = np.ones(len(X))
    weight.setflags(write=False)
    CrossModalGraphicalLasso(None).fit(X, y, weight)
