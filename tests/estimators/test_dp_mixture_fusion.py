"""DPMixtureFusion as users meet it: groups found, gaps filled, bad input named."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone, is_classifier, is_clusterer
from sklearn.callback import ProgressBar
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmm import DPMixtureFusion, Modality
from skmm.datasets import load_mfeat

WIDTHS = [5, 3]
METHODS = ["cavi", "svi", "memoized"]
COUPLINGS = ["shared", "joint_stick", "per_modality"]


def planted(seed=0, n=400, drop=0.4, k=4):
    rng = np.random.default_rng(seed)
    group = rng.integers(k, size=n)
    X = 6 * rng.normal(size=(k, 8))[group] + rng.normal(size=(n, 8))
    X[rng.uniform(size=n) < drop, 5:] = np.nan
    return X, group


@pytest.fixture(scope="module")
def data():
    return planted()


@pytest.fixture(scope="module")
def fitted(data):
    return DPMixtureFusion(WIDTHS, random_state=0).fit(data[0])


def fit(X, y=None, groups=WIDTHS, **kwargs):
    return DPMixtureFusion(groups, random_state=0, **kwargs).fit(X, y)


# ------------------------------------------------------------ what it finds
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("seed", range(3))
def test_planted_groups_without_being_told_k(seed, covariance_type, method):
    X, group = planted(seed)
    options = {"method": method, "batch_size": 100}
    if method == "svi":
        options["tol"] = 0.01
    model = fit(X, covariance_type=covariance_type, **options)
    assert model.n_active_components_ == 4
    assert adjusted_rand_score(group, model.labels_) > 0.97
    assert (np.diff(model.component_counts_) <= 0).all()
    assert model.component_counts_.sum() == pytest.approx(400)


def test_batches_that_count_for_less_than_a_row_do_not_collapse():
    X, group = planted(0, n=1000)
    # 63 batches, of a third of a row each.
    model = fit(X, method="memoized", batch_size=16, coarsening=20.0, n_components=8)
    assert adjusted_rand_score(group, model.labels_) > 0.97


def noise_and(seed=0, n=300):
    """One modality with three groups, five of noise."""
    rng = np.random.default_rng(seed)
    group = rng.integers(3, size=n)
    X = 6 * rng.normal(size=(3, 5))[group] + rng.normal(size=(n, 5))
    return np.hstack([X, rng.normal(size=(n, 10))]), group


def test_a_joint_stick_finds_the_modality_that_has_groups():
    X, group = noise_and()
    model = fit(X, groups=[5, 2, 2, 2, 2, 2], coupling="joint_stick")
    assert adjusted_rand_score(group, model.labels_) > 0.95
    assert model.weights_[0].sum() > 0.95


@pytest.mark.parametrize("concentration", [1e-3, 1e-12])
def test_weights_too_small_for_a_number_are_no_trouble(concentration):
    X, _ = noise_and()
    Z = X[:5].copy()
    Z[:, -2:] = np.nan
    model = fit(
        X,
        groups=[5, 2, 2, 2, 2, 2],
        coupling="joint_stick",
        weight_concentration_prior=concentration,
        amplify=0.5,
    )
    assert np.isfinite(model.transform(Z)).all()
    assert np.isfinite(model.weights_).all()
    assert np.isfinite(model.sample(10)[0]).all()


def test_one_group_is_one_component():
    X = np.random.default_rng(0).normal(size=(200, 8))
    assert fit(X).n_active_components_ == 1


@pytest.mark.parametrize("n", [50, 200])
def test_defaults_work_on_few_rows(n):
    X, group = planted(1, n=n)
    model = fit(X)
    assert adjusted_rand_score(group, model.labels_) > 0.9


def test_digits_without_being_told_that_they_are_ten():
    bunch = load_mfeat(views=["fou", "kar"])
    model = DPMixtureFusion(bunch.modalities, n_init=1, random_state=0)
    labels = model.fit_predict(bunch.data[::2])
    share = np.bincount(labels) / len(labels)
    assert 7 <= (share >= 0.01).sum() <= 13
    assert adjusted_rand_score(bunch.target[::2], labels) > 0.6


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_modalities_can_have_components_of_their_own(data, coupling):
    X, group = data
    model = fit(X, coupling=coupling, n_components=10)
    if coupling == "shared":
        assert model.weights_.shape == (10,)
        assert model.predict_proba(X).shape == (400, 10)
    else:
        assert model.weights_.shape == (2, 10)
        assert model.predict_proba(X).shape == (400, 20)
    total = 2 if coupling == "per_modality" else 1
    assert model.weights_.sum() == pytest.approx(total)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    assert adjusted_rand_score(group, model.predict(X)) > 0.5


# ------------------------------------------------------------ scikit-learn's mixture
@pytest.mark.parametrize("kind", ["full", "diag"])
@pytest.mark.parametrize("seed", range(3))
def test_is_bayesian_gaussian_mixture_where_the_two_coincide(seed, kind):
    rng = np.random.default_rng(seed)
    X = 4 * rng.normal(size=(4, 3))[rng.integers(4, size=200)]
    X = X + rng.normal(size=X.shape)
    resp = rng.dirichlet(np.ones(6), size=200)

    class Started(BayesianGaussianMixture):
        def _initialize_parameters(self, X, random_state, **kwargs):
            self._initialize(X, resp)

    common = {"n_components": 6, "covariance_type": kind, "reg_covar": 0, "tol": 0}
    peer = Started(**common)
    ours = DPMixtureFusion(
        {"x": Modality(slice(0, 3), scaling=None)},
        **common,
        weight_concentration_prior=None,
        mean_precision_prior=1.0,
        degrees_of_freedom_prior=3,
        covariance_prior=None,
        coarsening=None,
        projection=None,
        stick_order="index",
        moves=None,
        init_params=resp,
    )
    constants = []
    # Short of convergence, rounding grows from sweep to sweep.
    for n_sweeps, close in ((1, 1e-11), (5, 1e-10), (500, 1e-6)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            peer.set_params(max_iter=n_sweeps).fit(X)
            ours.set_params(max_iter=n_sweeps).fit(X)
        constants.append(ours.lower_bound_ - peer.lower_bound_)
        for mine, theirs in (
            (ours.means_[0], peer.means_),
            (ours.covariances_[0], peer.covariances_),
            (ours.precisions_cholesky_[0], peer.precisions_cholesky_),
            (ours.weights_, peer.weights_),
            (ours.predict_proba(X), peer.predict_proba(X)),
            (ours.mean_precision_[0], peer.mean_precision_),
            (ours.degrees_of_freedom_[0], peer.degrees_of_freedom_),
            (ours.weight_concentration_, peer.weight_concentration_),
        ):
            np.testing.assert_allclose(mine, theirs, rtol=close, atol=close)
    # What scikit-learn leaves out of its bound does not depend on the fit.
    assert np.ptp(constants) < 1e-8


def test_scaling_inside_gives_the_bound_in_units_of_x():
    X = load_iris().data
    options = {
        "covariance_prior": None,
        "coarsening": None,
        "projection": None,
        "reg_covar": 0,
        "n_components": 4,
        "init_params": np.arange(150) % 4,
    }
    scaled = fit(X, groups=None, **options)
    raw = fit(X, groups={"x": Modality(slice(0, 4), scaling=None)}, **options)
    assert scaled.lower_bound_ == pytest.approx(raw.lower_bound_, abs=1e-6)
    np.testing.assert_allclose(scaled.score_samples(X), raw.score_samples(X), atol=1e-6)
    np.testing.assert_allclose(scaled.covariances_[0], raw.covariances_[0], rtol=1e-6)


# ------------------------------------------------------------ surface
def test_bound_never_falls_and_is_kept(fitted):
    bounds = np.array(fitted.lower_bounds_)
    assert np.diff(bounds).min() >= -1e-9 * abs(bounds[-1])
    assert fitted.lower_bound_ == bounds[-1]
    assert fitted.converged_
    assert fitted.n_iter_ == len(bounds)


@pytest.mark.parametrize("method", METHODS)
def test_fit_predict_is_fit_and_predict(data, method):
    model = DPMixtureFusion(WIDTHS, method=method, random_state=0, tol=0.01)
    labels = model.fit_predict(data[0])
    np.testing.assert_array_equal(labels, model.predict(data[0]))
    np.testing.assert_array_equal(labels, clone(model).fit(data[0]).labels_)


def test_is_a_clusterer_without_a_head_and_a_classifier_with_one():
    assert is_clusterer(DPMixtureFusion())
    assert is_classifier(DPMixtureFusion(head="mixture"))
    assert not hasattr(DPMixtureFusion(), "predict_log_proba")


def test_y_is_ignored_without_a_head(data, fitted):
    X, y = data
    np.testing.assert_array_equal(fit(X, y[::-1]).labels_, fitted.labels_)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_row_without_anything_has_the_weights(data, coupling):
    model = fit(data[0], coupling=coupling, n_components=6)
    proba = model.predict_proba(np.full((1, 8), np.nan))
    assert proba.sum() == pytest.approx(1)
    assert (np.diff(proba.reshape(model.weights_.shape)) <= 1e-12).all()
    assert np.isfinite(model.transform(np.full((1, 8), np.nan))).all()


def test_integer_weights_are_repetitions(data):
    X = data[0][:150]
    weight = np.random.default_rng(0).integers(0, 4, size=150)
    one = DPMixtureFusion(WIDTHS, random_state=0).fit(X, sample_weight=weight)
    other = DPMixtureFusion(WIDTHS, random_state=0).fit(np.repeat(X, weight, axis=0))
    np.testing.assert_allclose(one.weights_, other.weights_, atol=1e-8)
    np.testing.assert_allclose(one.means_[0], other.means_[0], atol=1e-6)
    assert one.lower_bound_ == pytest.approx(other.lower_bound_, abs=1e-6)


def test_memory_map_gives_the_same(data, tmp_path):
    X = data[0].astype(np.float32)
    stored = np.memmap(tmp_path / "X.dat", np.float32, "w+", shape=X.shape)
    stored[:] = X
    for method in METHODS:
        kept = fit(X, method=method, batch_size=100, tol=0.01)
        mapped = fit(stored, method=method, batch_size=100, tol=0.01)
        assert not hasattr(mapped, "labels_")
        assert mapped.n_active_components_ == kept.n_active_components_ == 4
        assert adjusted_rand_score(mapped.predict(stored), kept.labels_) > 0.97
        assert mapped.transform(stored).dtype == np.float32


def test_memory_map_is_dealt_to_batches_of_the_given_size(tmp_path):
    X = planted(0, n=2000)[0]
    stored = np.memmap(tmp_path / "X.dat", X.dtype, "w+", shape=X.shape)
    stored[:] = X
    steps = []
    for rows in (X, stored):
        with pytest.warns(ConvergenceWarning, match="did not converge"):
            model = fit(rows, method="svi", batch_size=100, max_iter=1)
        steps.append(model._sums["step"])
    assert steps == [20, 20]


def test_warm_start_goes_on(data):
    X, _ = data
    model = DPMixtureFusion(
        WIDTHS, random_state=0, warm_start=True, max_iter=2, n_init=1
    )
    with pytest.warns(ConvergenceWarning, match=r"did not converge in \d+ iterations"):
        model.fit(X)
    before = model.lower_bound_
    model.set_params(max_iter=100).fit(X)
    assert model.lower_bound_ > before
    model.set_params(mean_precision_prior=7.0, tol=1.0).fit(X)
    assert model.mean_precision_[0].min() == 7
    with pytest.raises(ValueError, match="n_components: can't change while training"):
        model.set_params(n_components=3).fit(X)


def test_warm_start_keeps_the_classes(data):
    X, y = data
    model = DPMixtureFusion(
        WIDTHS, head="mixture", warm_start=True, n_init=1, random_state=0
    ).fit(X, y)
    model.fit(X[y < 2], y[y < 2])
    np.testing.assert_array_equal(model.classes_, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="y: expected labels among the classes"):
        model.fit(X, y + 1)


def test_iterations_of_all_starts_keep_to_max_iter(data):
    model = DPMixtureFusion(WIDTHS, random_state=0, max_iter=20, tol=0)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        model.fit(data[0])
    assert model.n_iter_ <= 21


def test_in_a_pipeline_with_names_and_a_search(data):
    pd = pytest.importorskip("pandas")
    X, y = data
    frame = pd.DataFrame(
        X,
        columns=[f"image__x{i}" for i in range(5)] + [f"text__w{i}" for i in range(3)],
    )
    model = DPMixtureFusion(representation="both", n_components=6, random_state=0)
    out = model.set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == [*frame.columns, *(f"component{k}" for k in range(6))]
    assert not out.isna().any().any()
    pipe = make_pipeline(model, StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipe, {"dpmixturefusion__amplify": [0.0, 0.5]}, cv=2)
    assert search.fit(frame, y).best_score_ > 0.9


def test_progress_shows_inside_a_pipeline(data, capsys):
    model = DPMixtureFusion(WIDTHS, n_init=1, random_state=0, verbose=1)
    model.set_callbacks(ProgressBar()).fit(data[0])
    assert "components, change" in capsys.readouterr().out


# ------------------------------------------------------------ what is missing
def test_imputed_blocks_follow_the_groups(data):
    X, group = data
    full = planted(drop=0.0)[0]
    model = fit(X)
    filled = model.impute(X)
    gaps = np.isnan(X)
    np.testing.assert_array_equal(filled[~gaps], X[~gaps])
    error = np.abs(filled - full)[gaps].mean()
    # Within a group the columns are noise of unit variance: 0.8 is the best.
    assert error < 1.0 < 3 * np.abs(full[gaps] - np.nanmean(X)).mean()
    np.testing.assert_array_equal(model.transform(X), filled)
    kept = fit(X, keep_missing=True).transform(X)
    np.testing.assert_array_equal(np.isnan(kept), gaps)
    assert adjusted_rand_score(group, model.labels_) > 0.97


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("projection", [None, 3])
def test_single_cells_are_filled(covariance_type, projection):
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(300, 2))
    full = latent @ rng.normal(size=(2, 8)) + 0.1 * rng.normal(size=(300, 8))
    X = full.copy()
    X[rng.uniform(size=X.shape) < 0.15] = np.nan
    model = fit(X, covariance_type=covariance_type, projection=projection, n_init=1)
    gaps = np.isnan(X)
    error = np.square(model.impute(X) - full)[gaps].mean()
    plain = np.square(np.nanmean(X, axis=0) - full)[gaps].mean()
    factor = 0.75 if covariance_type == "diag" and projection is None else 0.3
    assert error < factor * plain
    assert np.diff(model.lower_bounds_).min() >= -1e-9 * abs(model.lower_bound_)


def test_sampled_fills_have_the_spread_of_the_component(data):
    X = planted(drop=0.5, n=2000)[0]
    model = fit(X, fill="sample", n_init=1)
    once, again = model.impute(X), model.impute(X)
    np.testing.assert_array_equal(once, again)  # an int random_state
    gaps = np.isnan(X)[:, 5]
    mean = fit(X, n_init=1).impute(X)
    apart = (once - mean)[gaps][:, 5:]
    assert apart.std(axis=0) == pytest.approx([1, 1, 1], abs=0.2)


def test_amplify_draws_rows_to_heavy_components(data, fitted):
    X, _ = data
    plain = fit(X, amplify=0.0).transform(X)
    half = fit(X, amplify=0.5).transform(X)
    whole = fit(X, amplify=1.0).transform(X)
    np.testing.assert_allclose(half, (plain + whole) / 2, atol=1e-9)
    clear = fitted.predict_proba(X).max(1) > 1 - 1e-9
    means = np.hstack(fitted.means_)[fitted.labels_]
    np.testing.assert_allclose(whole[clear], means[clear], atol=1e-6)


def test_sample_comes_from_the_groups():
    # Unequal widths, one projected.
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=600)
    X = np.hstack(
        [
            (5 * rng.normal(size=(3, 30)))[group] + rng.normal(size=(600, 30)),
            (5 * rng.normal(size=(3, 2)))[group] + rng.normal(size=(600, 2)),
        ]
    )
    for coupling in COUPLINGS:
        model = fit(X, groups=[30, 2], coupling=coupling, projection=10, n_init=1)
        drawn, labels = model.sample(4000)
        assert drawn.shape == (4000, 32)
        assert labels.shape == ((4000, 2) if coupling == "per_modality" else (4000,))
        np.testing.assert_allclose(drawn.mean(0), X.mean(0), atol=0.6)
        np.testing.assert_allclose(drawn.std(0), X.std(0), rtol=0.15)
        if coupling == "shared":
            # The groups have tails.
            assert adjusted_rand_score(model.predict(drawn), labels) > 0.97


def test_drop_is_left_alone(data):
    X = np.hstack([data[0], np.full((400, 1), np.nan)])
    groups = {"a": slice(0, 5), "b": slice(5, 8), "drop": [8]}
    model = DPMixtureFusion(groups, random_state=0).fit(X)
    assert model.transform(X).shape == (400, 8)
    assert np.isnan(model.impute(X)[:, 8]).all()
    assert len(model.get_feature_names_out()) == 8
    assert np.isnan(model.sample(3)[0][:, 8]).all()


# ------------------------------------------------------------ labels
@pytest.mark.parametrize("head", ["mixture", "logistic"])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_heads_classify(coupling, head):
    X, y = planted(2)
    names = np.array(["a", "b", "c", "d"])[y]
    model = fit(X[::2], names[::2], head=head, coupling=coupling, n_components=10)
    assert model.score(X[1::2], names[1::2]) > 0.9
    proba = model.predict_proba(X[1::2])
    np.testing.assert_allclose(proba.sum(1), 1)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X[1::2])), proba)


def test_labels_split_what_the_modalities_do_not():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 8))
    y = rng.integers(2, size=600)
    X[:, 0] += 1.5 * y
    model = fit(X, y, head="mixture")
    assert model.score(X, y) > 0.7
    total = model.class_concentration_.sum()
    # As many rows as are labelled, coarsened, and one for each class of each atom.
    zeta = 1000 / 1600
    assert total == pytest.approx(zeta * 600 + 30 * 2)


def test_open_rows_take_part():
    X, y = planted(3)
    few = np.where(np.arange(400) % 20 == 0, y, -1)
    model = fit(X, few, head="mixture", unlabeled=-1)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2, 3])
    assert model.score(X, y) > 0.95
    logistic = fit(X, few, head="logistic", unlabeled=-1, representation="both")
    assert logistic.score(X, y) > 0.9


def test_one_component_returns_smoothed_frequencies():
    X, y = planted(0)
    y = (y == 0).astype(int)
    model = fit(X, y, head="mixture", n_components=1, coarsening=None)
    expected = (np.bincount(y) + 1.0) / (400 + 2)
    np.testing.assert_allclose(model.predict_proba(X), np.tile(expected, (400, 1)))


# ------------------------------------------------------------ parts of the data
@pytest.mark.parametrize("method", ["svi", "memoized"])
def test_partial_fit_sees_the_groups(method):
    X, group = planted(4, n=3000)
    model = DPMixtureFusion(WIDTHS, method=method, total_samples=3000, random_state=0)
    for part in np.array_split(np.arange(3000), 10):
        model.partial_fit(X[part])
    assert adjusted_rand_score(group, model.predict(X)) > 0.8
    assert model.n_iter_ == 10
    if method == "memoized":
        assert model.component_counts_.sum() == pytest.approx(3000)


def test_partial_fit_with_labels():
    X, y = planted(5, n=1000)
    model = DPMixtureFusion(WIDTHS, method="memoized", head="mixture", random_state=0)
    with pytest.raises(ValueError, match="classes must be passed"):
        model.partial_fit(X[:200], y[:200])
    for part in np.array_split(np.arange(1000), 5):
        model.partial_fit(X[part], y[part], classes=[0, 1, 2, 3])
    assert model.score(X, y) > 0.95
    with pytest.raises(ValueError, match=r"y: expected labels among the classes"):
        model.partial_fit(X[:50], np.full(50, 9))


def test_partial_fit_is_for_two_methods():
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'"):
        DPMixtureFusion().partial_fit(np.zeros((3, 2)))
    assert not hasattr(DPMixtureFusion(method="svi", head="logistic"), "partial_fit")


def test_parts_may_lack_modalities_and_labels():
    X, y = planted(0)
    for method in ("svi", "memoized"):
        model = DPMixtureFusion(
            WIDTHS, method=method, head="mixture", unlabeled=-1, random_state=0
        )
        model.partial_fit(X[:200], y[:200], classes=[0, 1, 2, 3])
        few = X[200:210].copy()
        few[:, 5:] = np.nan
        model.partial_fit(few, np.full(10, -1)).partial_fit(X[210:211], y[210:211])
        assert model.score(X, y) > 0.9


def test_what_one_part_lacks_does_not_change_what_all_rows_count():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1100, 8))
    X[1001:1098, 5:] = np.nan
    model = DPMixtureFusion(WIDTHS, method="memoized", n_components=5, random_state=0)
    sums = []
    for rows in (slice(0, 1000), slice(1000, 1098), slice(1098, 1100)):
        model.partial_fit(X[rows])
        sums.append(model.degrees_of_freedom_[0].sum())
    assert sums[2] == pytest.approx(sums[1], rel=0.01)


def test_partial_fit_goes_on_after_fit_and_from_a_given_start():
    X, y = planted(0)
    start = np.arange(200) % 10
    model = DPMixtureFusion(WIDTHS, method="memoized", init_params=start)
    model.fit(X[:200]).partial_fit(X[200:])
    assert model.component_counts_.sum() == pytest.approx(400)
    assert adjusted_rand_score(y, model.predict(X)) > 0.6


# ------------------------------------------------------------ odd input
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
@pytest.mark.parametrize("method", METHODS)
def test_odd_rows_give_results_without_nan(method, covariance_type):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(60, 8))
    constant = base.copy()
    constant[:, [0, 6]] = 3.0
    all_constant = np.ones((30, 8))
    repeated = np.repeat(base[:3], 20, axis=0)
    one_row = base[:1]
    scales = base * np.r_[np.full(5, 1e6), np.full(3, 1e-6)] + 1e7
    one_seen = base.copy()
    one_seen[1:, 5:] = np.nan
    collinear = base.copy()
    collinear[:, 1] = 2 * collinear[:, 0]
    for X in (constant, all_constant, repeated, one_row, scales, one_seen, collinear):
        model = DPMixtureFusion(
            WIDTHS, method=method, covariance_type=covariance_type, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X)
        for value in (
            model.predict_proba(X),
            model.transform(X),
            model.score_samples(X),
            model.lower_bound_,
            *model.means_,
            *model.covariances_,
            model.sample(5)[0],
        ):
            assert np.isfinite(value).all()


def test_scales_of_modalities_do_not_matter(data, fitted):
    X = data[0] * np.r_[np.full(5, 1e6), np.full(3, 1e-6)]
    np.testing.assert_array_equal(fit(X).labels_, fitted.labels_)


def test_wide_modalities_without_projection():
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=100)
    X = 2 * rng.normal(size=(2, 60))[group] + rng.normal(size=(100, 60))
    model = fit(X, groups=[40, 20], projection=None, n_init=1)
    assert adjusted_rand_score(group, model.labels_) > 0.9


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"moves": ("split",)}, r"moves: expected some of .*, got \['split'\]"),
        ({"init_params": [0, 1]}, "init_params: expected 400 labels below 30"),
        ({"mean_prior": [0.0]}, r"mean_prior: expected finite numbers of shape \(8,\)"),
        (
            {"covariance_prior": np.eye(3)},
            r"covariance_prior: expected finite numbers of shape \(8, 8\)",
        ),
        (
            {"covariance_prior": np.triu(np.ones((8, 8)))},
            "covariance_prior: expected a symmetric matrix",
        ),
        (
            {"covariance_prior": -np.eye(8)},
            "covariance_prior: that of the modality 'modality0' is not positive",
        ),
        (
            {"degrees_of_freedom_prior": 3},
            "degrees_of_freedom_prior: expected more than 4 for the modality",
        ),
        ({"method": "neural"}, "head: method='neural' trains on labels"),
        ({"head": "mixture"}, "requires y to be passed, but the target y is None"),
    ],
)
def test_bad_settings_are_named(data, options, text):
    with pytest.raises(ValueError, match=text):
        fit(data[0], **options)


def test_bad_rows_are_named(data):
    X = data[0].copy()
    X[3, 2] = np.inf
    with pytest.raises(ValueError, match="infinity: modality"):
        fit(X)
    X = data[0].copy()
    X[:, 5:] = np.nan
    with pytest.raises(ValueError, match="never observed"):
        fit(X)
    with pytest.raises(ValueError, match="y: expected at least one labelled row"):
        fit(data[0], np.full(400, -1), head="mixture", unlabeled=-1)
    with pytest.raises(ValueError, match="head='logistic' expects rows of at least 2"):
        fit(data[0], np.zeros(400), head="logistic", n_init=1)
    with pytest.raises(ValueError, match="n_samples: expected at least 1, got 0"):
        fit(data[0], n_init=1).sample(0)
    with pytest.raises(ValueError, match="y: expected labels to score a classifier"):
        fit(*data, head="mixture", n_init=1).score(data[0])


def test_priors_are_in_units_of_x(data):
    X = data[0]
    mean = np.arange(8.0)
    model = fit(
        X,
        mean_prior=mean,
        mean_precision_prior=1e9,
        covariance_prior=np.diag(np.arange(1.0, 9.0)),
        coarsening=None,
        reg_covar=0,
        n_init=1,
        moves=None,
    )
    np.testing.assert_allclose(model.means_[0], np.tile(mean[:5], (30, 1)), atol=1e-4)
    np.testing.assert_allclose(
        model.covariance_prior_[1], np.diag([6.0, 7, 8]), atol=1e-9
    )


def test_a_failed_fit_leaves_the_last_one(data, fitted):
    model = clone(fitted).fit(data[0])
    before = model.predict_proba(data[0])
    with pytest.raises(ValueError, match="moves: expected"):
        model.set_params(moves=("nothing",)).fit(data[0])
    np.testing.assert_array_equal(model.predict_proba(data[0]), before)


def test_random_state_is_all_that_is_random(data, global_rng_untouched):
    X = data[0]
    for options in ({}, {"method": "svi"}, {"moves": ("birth",)}):
        one = DPMixtureFusion(WIDTHS, random_state=3, max_iter=20, n_init=1, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            first = one.fit(X).predict_proba(X)
            second = clone(one).fit(X).predict_proba(X)
        np.testing.assert_array_equal(first, second)


@pytest.mark.gpu
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_gpu_gives_the_same(data, coupling, covariance_type):
    options = {"coupling": coupling, "covariance_type": covariance_type, "n_init": 1}
    X = data[0].copy()
    X[::7, 1] = np.nan
    cpu = fit(X, device="cpu", **options)
    cuda = fit(X, device="cuda", **options)
    # Sums in another order may end the sweeps at another one: to the tolerance of the
    # bound, of which parameters are the root.
    assert cuda.lower_bound_ == pytest.approx(cpu.lower_bound_, rel=1e-7)
    np.testing.assert_allclose(cuda.predict_proba(X), cpu.predict_proba(X), atol=1e-3)
    np.testing.assert_allclose(cuda.impute(X), cpu.impute(X), atol=1e-3)
