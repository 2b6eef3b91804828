"""DCMEMEncoder: codes, generation, missing blocks, likelihood, and what it learns."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmm import DCMEMEncoder, Modality
from skmm.datasets import load_mfeat

GROUPS = {"a": slice(0, 6), "b": slice(6, 11)}
SMALL = {
    "modalities": GROUPS,
    "n_components": 3,
    "n_private": 2,
    "hidden": (16,),
    "lr": 1e-3,
    "max_epochs": 3,
    "n_anchors": 8,
    "random_state": 0,
}


def views(n=120, seed=0):
    """Two noisy views of a plane, of 6 and 5 columns."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    maps = rng.normal(size=(2, 6)), rng.normal(size=(2, 5))
    return np.hstack([z @ a + 0.3 * rng.normal(size=(n, a.shape[1])) for a in maps])


def with_gaps(X):
    X = X.copy()
    X[::4, :6] = np.nan
    X[1::4, 6:] = np.nan
    X[2::8, 2] = np.nan
    return X


@pytest.fixture(scope="module")
def gaps():
    return with_gaps(views())


@pytest.fixture(scope="module")
def fitted(gaps):
    return DCMEMEncoder(**SMALL).fit(gaps)


# ------------------------------------------------------------------ codes
def test_transform_depends_on_its_own_row_alone(fitted, gaps):
    Z = fitted.transform(gaps)
    order = np.random.default_rng(0).permutation(len(gaps))
    np.testing.assert_allclose(fitted.transform(gaps[order]), Z[order], rtol=1e-12)
    one = np.vstack([fitted.transform(gaps[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(one, Z[:20], rtol=1e-9)
    assert np.isfinite(Z).all()


@pytest.mark.parametrize("joint", ["agreement", "mean", "precision", "concat"])
def test_own_code_does_not_change_with_the_other_modality(fitted, joint):
    X = views(seed=3)
    alone = X.copy()
    alone[:, 6:] = np.nan
    model = clone(fitted).set_params(output="per_modality", joint=joint).fit(X)
    np.testing.assert_array_equal(
        model.transform(X)[:, :3], model.transform(alone)[:, :3]
    )
    model.set_params(output="joint")
    if joint != "concat":
        # What one modality alone says is its own code.
        np.testing.assert_allclose(
            model.transform(alone),
            model.set_params(output="per_modality").transform(X)[:, :3],
            rtol=1e-12,
        )


def test_joint_rules(fitted, gaps):
    dist = fitted.transform_dist(gaps)
    means = np.stack([dist[m].shared_mean for m in "ab"])
    scales = np.stack([dist[m].shared_scale for m in "ab"])
    model = clone(fitted).fit(gaps)
    np.testing.assert_allclose(
        model.set_params(joint="mean").transform(gaps), np.nanmean(means, 0)
    )
    weights = np.array([*model.modality_weights_.values()])
    np.testing.assert_allclose(weights.mean(), 1)
    weights = np.where(np.isnan(means[..., 0]), 0, weights[:, None])[..., None]
    np.testing.assert_allclose(
        model.set_params(joint="agreement").transform(gaps),
        np.nansum(weights * means, 0) / weights.sum(0),
    )
    precision = scales**-2.0
    weighted = np.nansum(precision * means, 0) / np.nansum(precision, 0)
    np.testing.assert_allclose(
        model.set_params(joint="precision").transform(gaps), weighted
    )
    concat = model.set_params(joint="concat").transform(gaps)
    filled = np.where(np.isnan(means), np.nanmean(means, 0), means)
    np.testing.assert_allclose(concat, np.hstack(filled))


def test_spherical_codes_have_one_length(gaps):
    model = DCMEMEncoder(**SMALL, spherical=True).fit(gaps)
    Z = model.transform(gaps)
    np.testing.assert_allclose(np.linalg.norm(Z, axis=1), np.sqrt(3))
    Z = model.set_params(output="per_modality").transform(gaps).reshape(-1, 3)
    np.testing.assert_allclose(np.linalg.norm(Z, axis=1), np.sqrt(3))


@pytest.mark.parametrize(
    ("output", "width"), [("joint", 3), ("per_modality", 6), ("private", 4), ("all", 7)]
)
def test_outputs_and_their_names(fitted, gaps, output, width):
    model = clone(fitted).set_params(output=output).fit(gaps)
    Z = model.transform(gaps)
    names = model.get_feature_names_out()
    assert Z.shape == (120, width)
    assert len(names) == width == len(set(names))
    assert np.isfinite(Z).all()
    kept = model.set_params(keep_missing=True).transform(gaps)
    if output in ("per_modality", "private"):
        own = kept[:, : width // 2], kept[:, width // 2 :]
        assert np.isnan(own[0][::4]).all()
        assert np.isfinite(own[0][1::4]).all()
        assert np.isnan(own[1][1::4]).all()
    there = np.isfinite(kept)
    np.testing.assert_array_equal(kept[there], Z[there])
    frame = model.set_output(transform="default").fit_transform(gaps)
    assert frame.shape == (120, width)


def test_row_with_nothing_gets_the_mean_of_the_anchors(fitted):
    nothing = np.full((2, 11), np.nan)
    np.testing.assert_allclose(fitted.transform(nothing)[0], fitted._middle)
    assert fitted.score_samples(nothing).tolist() == [0.0, 0.0]
    assert np.isfinite(fitted.impute(nothing)).all()
    model = clone(fitted).fit(with_gaps(views())).set_params(keep_missing=True)
    assert np.isnan(model.transform(nothing)).all()


def test_columns_of_a_modality_may_be_anywhere():
    X = views()
    order = np.random.default_rng(1).permutation(11)
    where = np.argsort(order)
    groups = {"a": where[:6].tolist(), "b": where[6:].tolist()}
    one = DCMEMEncoder(**SMALL).fit(X)
    other = DCMEMEncoder(**{**SMALL, "modalities": groups}).fit(X[:, order])
    np.testing.assert_allclose(
        one.transform(X), other.transform(X[:, order]), rtol=1e-10
    )
    back = other.impute(other.inverse_transform(other.transform(X[:, order])))
    np.testing.assert_allclose(
        back[:, where], one.inverse_transform(one.transform(X)), rtol=1e-8
    )


def test_same_seed_gives_the_same_bits(gaps):
    one, two = (DCMEMEncoder(**SMALL).fit(gaps) for _ in range(2))
    for name, value in one._network_state.items():
        np.testing.assert_array_equal(value, two._network_state[name])
    assert one.loss_curve_ == two.loss_curve_
    assert one.score(gaps) == two.score(gaps)
    other = DCMEMEncoder(**{**SMALL, "random_state": 1}).fit(gaps)
    assert other.loss_curve_ != one.loss_curve_


def test_fit_leaves_the_global_generators_alone(gaps, global_rng_untouched):
    model = DCMEMEncoder(**SMALL).fit(gaps)
    model.generate(gaps[:1], "b", "a", random_state=0)
    model.sample(2, random_state=0)
    model.score(gaps)


def test_float32_in_float32_out(gaps):
    X = gaps.astype(np.float32)
    model = DCMEMEncoder(**SMALL).fit(X)
    assert model.transform(X).dtype == np.float32
    assert model.impute(X).dtype == np.float32
    assert model.score_samples(X).dtype == np.float32


# ------------------------------------------------------------------ W2
def test_pairwise_w2(fitted, gaps):
    distances = fitted.pairwise_w2(gaps[:10], "a", "b")
    dist = fitted.transform_dist(gaps[:10])
    i, j = 3, 6
    squared = sum(
        np.sum((dist.a[k][i] - dist.b[k][j]) ** 2)
        for k in ("shared_mean", "shared_scale")
    )
    np.testing.assert_allclose(distances[i, j] ** 2, squared, rtol=1e-10)
    assert distances.shape == (10, 10)
    assert np.isnan(distances[0]).all()  # lacks a
    assert np.isnan(distances[:, 1]).all()  # lacks b
    with pytest.raises(
        ValueError, match=r"a: expected among the modalities \['a', 'b'\], got \['c'\]"
    ):
        fitted.pairwise_w2(gaps, "c", "b")


# ------------------------------------------------------------------ generation
def test_generate_shapes_and_determinism(fitted):
    X = views(seed=5)
    one = fitted.generate(X, "a", "b", random_state=0)
    assert one.shape == (120, 5)
    three = fitted.generate(X, ["a", "b"], "b", n_samples=3, random_state=0)
    assert three.shape == (3, 120, 5)
    assert not np.allclose(three[0], three[1])
    np.testing.assert_array_equal(one, fitted.generate(X, "a", "b", random_state=0))
    assert not np.allclose(one, fitted.generate(X, "a", "b", random_state=1))
    still = [
        fitted.generate(X, "a", "b", private="zero", shared="mean", random_state=s)
        for s in (0, 1)
    ]
    np.testing.assert_array_equal(*still)
    lone = X.copy()
    lone[:, 6:] = np.nan
    np.testing.assert_allclose(fitted.impute(lone)[:, 6:], still[0], rtol=1e-10)


def test_generate_from_own_codes_is_the_reconstruction(fitted):
    X = views(seed=5)
    values = fitted.generate(X, "b", "b", private="posterior", shared="mean")
    only = X.copy()
    only[:, :6] = np.nan
    model = clone(fitted).fit(with_gaps(views())).set_params(output="all")
    back = model.inverse_transform(model.transform(only))
    np.testing.assert_allclose(values, back[:, 6:], rtol=1e-10)


def test_drawn_values_scatter_around_their_mean(fitted):
    X = np.repeat(views(seed=5)[:1], 4000, axis=0)
    settings = {"private": "zero", "shared": "mean"}
    mean = fitted.generate(X[:1], "a", "b", **settings)[0]
    drawn = fitted.generate(X, "a", "b", return_="sample", random_state=0, **settings)
    scale = np.exp(fitted._network_state["parts.1.learnt_noise"])
    scale = scale * fitted._scaler.scale[1]
    # Four standard errors of a mean of 4000, and of its standard deviation.
    np.testing.assert_array_less(np.abs(drawn.mean(0) - mean), 4 * scale / 63)
    np.testing.assert_allclose(drawn.std(0), scale, rtol=4 / np.sqrt(2 * 4000))


def test_generate_tells_which_rows_lack_what_it_needs(fitted, gaps):
    with pytest.raises(
        ValueError, match=r"from_: \['a'\] not observed in rows 0, 4, 8"
    ):
        fitted.generate(gaps, "a", "b")
    with pytest.raises(ValueError, match=r"to: \['b'\] not observed in rows 1, 5"):
        fitted.generate(gaps, ["a", "b"], "b", private="posterior")
    with pytest.raises(ValueError, match="private: expected one of"):
        fitted.generate(gaps, "a", "b", private="none")
    with pytest.raises(ValueError, match="n_samples: expected a positive integer"):
        fitted.generate(gaps, ["a", "b"], "b", n_samples=0)
    with pytest.raises(
        ValueError, match=r"to: expected among the modalities \['a', 'b'\]"
    ):
        fitted.generate(gaps, "a", "c")
    with pytest.raises(ValueError, match="from_: expected among"):
        fitted.generate(gaps, [], "a")


def test_impute_leaves_what_was_observed(fitted, gaps):
    before = gaps.copy()
    filled = fitted.impute(gaps)
    there = np.isfinite(gaps)
    np.testing.assert_array_equal(filled[there], gaps[there])
    np.testing.assert_array_equal(gaps, before)
    assert np.isfinite(filled).all()


@pytest.mark.parametrize("output", ["joint", "per_modality", "private", "all"])
@pytest.mark.parametrize("joint", ["mean", "concat"])
def test_inverse_transform_takes_what_transform_gives(fitted, gaps, output, joint):
    model = clone(fitted).set_params(output=output, joint=joint).fit(gaps)
    Z = model.transform(gaps)
    assert model.inverse_transform(Z).shape == gaps.shape
    with pytest.raises(ValueError, match=f"expected {Z.shape[1]} columns"):
        model.inverse_transform(np.hstack([Z, Z]))


def test_dropped_columns_stay(gaps):
    X = np.hstack([gaps, np.arange(120.0)[:, None]])
    X[3, 11] = np.nan
    groups = {**GROUPS, "drop": [11]}
    model = DCMEMEncoder(**{**SMALL, "modalities": groups}).fit(X)
    np.testing.assert_array_equal(model.impute(X)[:, 11], X[:, 11])
    assert np.isnan(model.sample(2, random_state=0)[:, 11]).all()


def test_sample_draws_rows_like_the_data():
    X = views(n=400)
    settings = {**SMALL, "max_epochs": 100, "batch_size": 100, "lr": 0.01}
    model = DCMEMEncoder(**settings).fit(X)
    drawn = model.sample(2000, return_="sample", random_state=0)
    # Of a model trained for a few seconds: the scale is right, and so is the sign of
    # strong correlations.
    np.testing.assert_allclose(drawn.std(0), X.std(0), rtol=0.35)
    strong = np.abs(np.corrcoef(X.T)) > 0.7
    agree = np.sign(np.corrcoef(drawn.T)) == np.sign(np.corrcoef(X.T))
    assert agree[strong].all()


# ------------------------------------------------------------------ likelihood
def test_score_is_a_bound_that_tightens_with_the_draws(fitted, gaps):
    model = clone(fitted).fit(gaps)
    scores = [model.set_params(n_score_samples=k).score(gaps) for k in (1, 4, 32, 200)]
    assert scores == sorted(scores)


def test_score_samples_do_not_depend_on_other_rows(fitted, gaps):
    values = fitted.score_samples(gaps)
    np.testing.assert_allclose(fitted.score_samples(gaps[7:9]), values[7:9], rtol=1e-9)
    assert fitted.score(gaps) == pytest.approx(values.mean())


def test_score_is_in_the_units_of_x():
    X = views()
    one = DCMEMEncoder(**SMALL).fit(X)
    # A factor of 8 moves a density by its logarithm, exactly in binary.
    eight = DCMEMEncoder(**SMALL).fit(8 * X)
    np.testing.assert_allclose(
        one.score_samples(X), eight.score_samples(8 * X) + 11 * np.log(8), rtol=1e-9
    )


def test_score_is_below_the_exact_likelihood_of_a_gaussian():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    X = rng.normal(size=(600, 4)) @ root
    model = DCMEMEncoder(
        [2, 2],
        n_components=2,
        n_private=2,
        hidden=(32,),
        lr=0.01,
        kl_weight=1.0,
        n_score_samples=64,
        random_state=0,
    ).fit(X)
    covariance = np.cov(X.T, bias=True)
    best = -0.5 * (4 * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + 4)
    # No model fits these rows better in the mean than the Gaussian of their own
    # moments by more than a network's freedom on 600 rows.
    assert model.score(X) < best + 0.2
    assert model.score(X) > best - 3


# ------------------------------------------------------------------ training
def test_history_has_every_term(fitted):
    assert set(fitted.history_) == {
        "reconstruction",
        "cross",
        "shared_divergence",
        "private_divergence",
        "alignment",
    }
    assert all(len(v) == fitted.n_iter_ == 3 for v in fitted.history_.values())
    assert len(fitted.loss_curve_) == 3


def test_warm_start_goes_on(gaps):
    model = DCMEMEncoder(**SMALL, warm_start=True).fit(gaps)
    before = dict(model._network_state)
    model.fit(gaps)
    assert model.n_iter_ == len(model.loss_curve_) == 6
    assert len(model.history_["cross"]) == 6
    assert any((before[k] != v).any() for k, v in model._network_state.items())
    with pytest.raises(ValueError, match="n_private: can't change"):
        model.set_params(n_private=1).fit(gaps)


def test_interrupted_fit_is_taken_up_with_the_same_result(gaps, tmp_path):
    class Stop(Exception):
        pass

    from skorch.callbacks import Callback

    class StopAfter(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) > 2:
                raise Stop

    settings = {**SMALL, "max_epochs": 6, "kl_warmup": 1.0}
    whole = DCMEMEncoder(**settings).fit(gaps)
    model = DCMEMEncoder(**settings, checkpoint_dir=tmp_path)
    # The callback is not part of what a run is known by.
    stopper = clone(model)
    original = DCMEMEncoder._training_settings

    def stopping(self, *args, **kwargs):
        from dataclasses import replace

        found = original(self, *args, **kwargs)
        return replace(found, net_params={"callbacks": [StopAfter()]})

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(DCMEMEncoder, "_training_settings", stopping)
        stopper.fit(gaps)
    assert list(tmp_path.iterdir())
    taken_up = model.fit(gaps)
    assert taken_up.loss_curve_ == whole.loss_curve_
    assert taken_up.history_ == whole.history_
    assert not list(tmp_path.iterdir())


def test_early_stopping_keeps_the_best_epoch():
    model = DCMEMEncoder(
        **{**SMALL, "max_epochs": 200, "lr": 0.03},
        early_stopping=True,
        n_iter_no_change=3,
        validation_fraction=0.3,
    ).fit(views())
    assert model.n_iter_ < 200
    assert len(model.validation_loss_curve_) == model.n_iter_


def test_memmap_streams_to_the_same_result(gaps, tmp_path):
    X = np.memmap(tmp_path / "x", gaps.dtype, "w+", shape=gaps.shape)
    X[:] = gaps
    one, two = DCMEMEncoder(**SMALL).fit(gaps), DCMEMEncoder(**SMALL).fit(X)
    assert one.loss_curve_ == two.loss_curve_
    np.testing.assert_array_equal(one.transform(gaps), two.transform(X))


def test_warns_where_prediction_gets_no_gradient():
    with pytest.warns(UserWarning, match="cross_weight: 1.0 with stop_gradient"):
        DCMEMEncoder(**SMALL, cross_weight=1.0).fit(views())


def test_warns_where_no_row_is_paired():
    X = views()
    X[::2, :6] = np.nan
    X[1::2, 6:] = np.nan
    with pytest.warns(UserWarning, match="no row has two modalities"):
        DCMEMEncoder(**SMALL).fit(X)


def test_warning_names_the_collapsed_modality():
    X = views(n=1500)
    X[:, 6:] = np.random.default_rng(0).normal(size=(1500, 5))
    settings = {**SMALL, "max_epochs": 30, "hidden": (4,), "lr": 0.01}
    model = DCMEMEncoder(**settings, align_weight=0.0, kl_weight=1.0, batch_size=100)
    with pytest.warns(ConvergenceWarning, match=r"code of \['b'\] has collapsed"):
        model.fit(X)
    assert model.shared_reliability_["b"].max() < 0.01


def test_private_sizes_by_modality(gaps):
    model = DCMEMEncoder(**{**SMALL, "n_private": {"a": 0, "b": 5}, "output": "all"})
    assert model.fit_transform(gaps).shape == (120, 8)
    assert [n for n in model.get_feature_names_out() if "private" in n] == [
        f"b__private{j}" for j in range(5)
    ]


def test_bad_names_are_errors(gaps):
    for parameter in ("n_private", "likelihood_rescale", "encoder", "decoder"):
        value = {"c": "mlp" if "coder" in parameter else 1}
        with pytest.raises(ValueError, match=rf"{parameter}: .*\['c'\]"):
            DCMEMEncoder(**{**SMALL, parameter: value}).fit(gaps)


def test_rescaling_by_dimension_is_that_by_its_factors(gaps):
    one = DCMEMEncoder(**SMALL, likelihood_rescale="dimension").fit(gaps)
    two = DCMEMEncoder(**SMALL, likelihood_rescale={"b": 6 / 5}).fit(gaps)
    assert one.loss_curve_ == two.loss_curve_


def test_history_where_a_term_is_missing_from_some_epochs(gaps):
    model = DCMEMEncoder(**{**SMALL, "max_epochs": 8}, cross_fraction=0.01).fit(gaps)
    assert {len(v) for v in model.history_.values()} == {8}
    single = views()
    single[::2, :6] = np.nan
    single[1::2, 6:] = np.nan
    with pytest.warns(UserWarning, match="no row has two"):
        model = DCMEMEncoder(**SMALL, warm_start=True).fit(single)
    model.fit(gaps)
    assert {len(v) for v in model.history_.values()} == {6}
    assert np.isnan(model.history_["cross"][:3]).all()
    assert np.isfinite(model.history_["cross"][3:]).all()


def test_history_is_of_the_rows_that_have_a_term():
    X = views()
    half = np.vstack([X, np.full_like(X, np.nan)])
    settings = {**SMALL, "lr": 1e-12, "batch_size": 240}  # nothing moves
    one, two = (DCMEMEncoder(**settings).fit(rows) for rows in (X, half))
    for name in ("reconstruction", "cross"):
        # Of other draws: a standard error is some hundredths.
        np.testing.assert_allclose(one.history_[name], two.history_[name], rtol=0.05)


@pytest.mark.parametrize("name", ["n_components", "n_samples", "n_anchors"])
def test_numpy_integers(gaps, name):
    value = np.int64(SMALL.get(name, 2))
    one = DCMEMEncoder(**{**SMALL, name: int(value)}).fit(gaps)
    two = DCMEMEncoder(**{**SMALL, name: value}).fit(gaps)
    assert one.loss_curve_ == two.loss_curve_


def test_few_pairs_do_not_decide_what_counts():
    X = np.hstack([views(200), views(200, seed=1)[:, :4]])
    X[2:100, 11:] = np.nan
    X[100:, :11] = np.nan
    groups = {**GROUPS, "c": slice(11, 15)}
    model = DCMEMEncoder(**{**SMALL, "modalities": groups, "max_epochs": 30}).fit(X)
    weights = model.modality_weights_
    assert weights["a"] == pytest.approx(weights["b"], rel=0.2)
    assert 0.5 < weights["c"] < 1.5


@pytest.mark.parametrize("options", [{}, {"warm_start": True}])
def test_a_modality_that_no_training_row_has(gaps, options):
    without = gaps.copy()
    without[:, :6] = np.nan
    model = DCMEMEncoder(**SMALL, **options)
    if options:
        model.fit(gaps)
    with pytest.raises(ValueError, match="'a'"):
        model.fit(without)


def test_held_out_losses_can_be_compared():
    """Same draws and weights in each epoch: a network at rest has one loss."""
    settings = {**SMALL, "lr": 1e-15, "max_epochs": 6, "kl_warmup": 1.0}
    model = DCMEMEncoder(**settings, early_stopping=True, validation_fraction=0.3)
    losses = model.fit(views()).validation_loss_curve_
    np.testing.assert_allclose(losses, losses[0], rtol=1e-9)


def test_scores_in_threads_are_those_of_one(fitted, gaps):
    from concurrent.futures import ThreadPoolExecutor

    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        scores = [*pool.map(lambda _: fitted.score(gaps), range(12))]
    assert set(scores) == {fitted.score(gaps)}
    assert torch.equal(before, torch.get_rng_state())


def test_parameters_are_checked_after_fit_too(gaps):
    model = DCMEMEncoder(**SMALL).fit(gaps)
    for name, value in {"output": "x", "joint": "x", "n_score_samples": 0}.items():
        with pytest.raises(ValueError, match=f"'{name}' parameter"):
            clone(model).set_params(**{name: value}).fit(gaps)
        broken = DCMEMEncoder(**SMALL).fit(gaps).set_params(**{name: value})
        with pytest.raises(ValueError, match=f"'{name}' parameter"):
            broken.transform(gaps)


def test_codes_that_are_not_there(gaps):
    none = DCMEMEncoder(**{**SMALL, "n_private": 0, "output": "private"}).fit(gaps)
    with pytest.raises(ValueError, match="without private codes"):
        none.transform(gaps)
    model = DCMEMEncoder(**SMALL, output="per_modality", keep_missing=True).fit(gaps)
    with pytest.raises(ValueError, match="X: expected finite codes"):
        model.inverse_transform(model.transform(gaps))


# ------------------------------------------------------------------ kinds of data
@pytest.mark.filterwarnings("ignore:The shared code")  # categories of nothing
def test_category_vectors_of_which_a_part_is_missing():
    rng = np.random.default_rng(0)
    words = np.eye(3)[rng.integers(3, size=(80, 2))].reshape(80, 6)
    X = np.hstack([views(80)[:, :4], words])
    part = X.copy()
    part[:3, 4:] = [
        [0, np.nan, np.nan, 0, 0, np.nan],
        [np.nan, 0, 1, 1, 0, 0],
        [0, 0, 1, np.nan, 0, np.nan],
    ]
    groups = {
        "a": slice(0, 4),
        "w": Modality(slice(4, 10), shape=(2, 3), likelihood="categorical"),
    }
    model = DCMEMEncoder(**{**SMALL, "modalities": groups}).fit(part)
    scores = model.score_samples(part)
    np.testing.assert_allclose(model.score_samples(part[:1]), scores[:1], rtol=1e-9)
    filled = model.impute(part)[:3, 4:].reshape(3, 2, 3)
    np.testing.assert_allclose(filled.sum(-1), 1)
    assert filled[0, 0, 0] == 0
    assert filled[0, 1].tolist() == [0, 0, 1]
    assert filled[1, 0].tolist() == [0, 0, 1]
    assert 0 < filled[2, 1, 0] < 1
    with pytest.raises(ValueError, match=r"modalities\['w'\].likelihood"):
        model.score_samples(np.nan_to_num(part) * 0)


def test_convolutions_of_other_dimensions(gaps):
    class Volume(torch.nn.Sequential):
        def __init__(self, shape, n_out):
            super().__init__(
                torch.nn.Unflatten(1, (1, 1, 1, shape[0])),
                torch.nn.Conv3d(1, 2, 1),
                torch.nn.Flatten(),
                torch.nn.Linear(2 * shape[0], n_out),
            )

    model = DCMEMEncoder(**SMALL, encoder=Volume).fit(gaps)
    assert np.isfinite(model.transform(gaps)).all()


def test_images_sequences_and_discrete_blocks():
    rng = np.random.default_rng(0)
    n = 60
    z = rng.normal(size=n)
    image = 1 / (1 + np.exp(-z[:, None] - rng.normal(size=(n, 50))))
    series = z[:, None] * np.ones(18) + rng.normal(size=(n, 18))
    series[::3, -4:] = np.nan  # padding: two steps of two variables
    series[1, 3] = np.nan
    words = np.zeros((n, 5, 3))
    words[np.arange(n)[:, None], np.arange(5), rng.integers(3, size=(n, 5))] = 1
    flags = (z[:, None] + rng.normal(size=(n, 4)) > 0).astype(float)
    X = np.hstack([image, series, words.reshape(n, -1), flags])
    X[5:9, :50] = np.nan
    X[10, 68:83] = np.nan
    X[11, 68] = np.nan
    groups = {
        "image": Modality(slice(0, 50), shape=(2, 5, 5), likelihood="laplace"),
        "series": Modality(slice(50, 68), shape=(9, 2)),
        "words": Modality(slice(68, 83), shape=(5, 3), likelihood="categorical"),
        "flags": Modality(slice(83, 87), likelihood="bernoulli"),
    }
    settings = {"max_epochs": 40, "lr": 0.01, "n_anchors": 4, "random_state": 0}
    model = DCMEMEncoder(groups, **settings).fit(X)
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.score_samples(X)).all()
    filled = model.impute(X)
    padding = np.zeros_like(X, dtype=bool)
    padding[::3, 64:68] = True
    np.testing.assert_array_equal(np.isnan(filled), padding)
    drawn = model.sample(7, return_="sample", random_state=0)
    assert set(np.unique(drawn[:, 83:])) <= {0.0, 1.0}
    one_hot = drawn[:, 68:83].reshape(7, 5, 3)
    assert (one_hot.sum(-1) == 1).all()
    np.testing.assert_allclose(
        model.sample(7, random_state=0)[:, 68:83].reshape(7, 5, 3).sum(-1), 1
    )
    anchors = model.anchors_["words"].reshape(4, 5, 3)
    np.testing.assert_allclose(anchors.sum(-1), 1)


def test_networks_of_your_own(gaps):
    class Encoder(torch.nn.Sequential):
        def __init__(self, shape, n_out):
            super().__init__(torch.nn.Linear(shape[0], n_out))

    class Decoder(torch.nn.Sequential):
        def __init__(self, shape, n_codes):
            super().__init__(torch.nn.Linear(n_codes, shape[0]))

    model = DCMEMEncoder(**SMALL, encoder=Encoder, decoder={"b": Decoder}).fit(gaps)
    assert model._network_state["parts.1.encoder.0.weight"].shape == (10, 5)
    assert model._network_state["parts.1.decoder.0.weight"].shape == (5, 5)
    with pytest.raises(ValueError, match=r"decoder: expected output of shape \(n, 6\)"):
        DCMEMEncoder(**SMALL, decoder=lambda shape, n: torch.nn.Linear(n, 2)).fit(gaps)


def test_one_modality_is_a_plain_autoencoder():
    X = views()
    settings = {**SMALL, "modalities": None, "max_epochs": 50, "lr": 0.01}
    model = DCMEMEncoder(**settings).fit(X)
    assert model.transform(X).shape == (120, 3)
    assert set(model.history_) >= {"reconstruction", "private_divergence"}
    (anchors,) = model.anchors_.values()
    assert anchors.shape == (0, 11)
    assert model.sample(5, random_state=0).shape == (5, 11)
    back = model.inverse_transform(model.transform(X))
    assert np.square(X - back).mean() < 0.6 * X.var()


# ------------------------------------------------------------------ in scikit-learn
def test_grid_search_in_a_pipeline(gaps):
    pipe = make_pipeline(StandardScaler(), DCMEMEncoder(**SMALL))
    search = GridSearchCV(pipe, {"dcmemencoder__n_components": [1, 2]}, cv=2)
    search.fit(gaps)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# ------------------------------------------------------------------ what it learns
def shared_and_private(n, seed):
    """Two views of a group, each with a nuisance of its own."""
    rng = np.random.default_rng(seed)
    group = rng.integers(4, size=n)
    centres = np.random.default_rng(99).normal(size=(2, 4, 8)) * 1.5
    axes = np.random.default_rng(98).normal(size=(2, 8))
    nuisance = rng.normal(size=(2, n, 1)) * 1.5
    blocks = [
        centres[v][group] + nuisance[v] * axes[v] + 0.3 * rng.normal(size=(n, 8))
        for v in range(2)
    ]
    return np.hstack(blocks), group, nuisance[..., 0]


LEARNING = {
    "modalities": {"a": slice(0, 8), "b": slice(8, 16)},
    "n_components": 4,
    "n_private": 2,
    "hidden": (64,),
    "max_epochs": 60,
    "batch_size": 64,
    "lr": 3e-3,
}


@pytest.mark.parametrize("seed", range(3))
def test_shared_codes_hold_the_group_and_private_ones_the_nuisance(seed):
    X, group, nuisance = shared_and_private(600, seed)
    model = DCMEMEncoder(**LEARNING, random_state=seed).fit(X)
    X, group, nuisance = shared_and_private(600, seed + 10)
    Z = model.transform(X)
    found = KMeans(4, n_init=5, random_state=0).fit_predict(Z)
    assert adjusted_rand_score(group, found) > 0.8
    private = model.transform_dist(X)

    def explained(codes, target):
        fit = LinearRegression().fit(codes[:300], target[:300])
        return fit.score(codes[300:], target[300:])

    for v, name in enumerate("ab"):
        assert explained(Z, nuisance[v]) < 0.2
        assert explained(private[name].private_mean, nuisance[v]) > 0.8
    # The other view tells the group's centre; the mean of all rows does not.
    made = model.generate(X, "a", "b", private="zero", shared="mean")
    error = np.square(X[:, 8:] - made).mean()
    assert error < 0.7 * np.square(X[:, 8:] - X[:, 8:].mean(0)).mean()


def test_unpaired_rows_do_not_hurt():
    X, _, _ = shared_and_private(800, 0)
    test, _, _ = shared_and_private(400, 5)
    partly = X.copy()
    partly[200:500, :8] = np.nan
    partly[500:, 8:] = np.nan
    scores = [
        np.mean([
            DCMEMEncoder(**LEARNING, random_state=s).fit(rows).score(test)
            for s in range(2)
        ])
        for rows in (X[:200], partly)
    ]  # fmt: skip
    assert scores[1] > scores[0]


@pytest.mark.parametrize("seed", range(2))
def test_noise_beside_a_signal_does_not_spoil_the_joint_code(seed):
    X, group, _ = shared_and_private(600, seed)
    X = np.hstack([X, np.random.default_rng(seed + 50).normal(size=(600, 8))])
    groups = {**LEARNING["modalities"], "noise": slice(16, 24)}
    settings = {**LEARNING, "modalities": groups, "random_state": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # noise may collapse
        model = DCMEMEncoder(**settings, output="per_modality").fit(X)
    codes = np.split(model.transform(X), 3, axis=1)
    joint = model.set_params(output="joint").transform(X)

    def quality(Z):
        return adjusted_rand_score(
            group, KMeans(4, n_init=10, random_state=0).fit_predict(Z)
        )

    # Two standard errors of the share of 600 rows that are grouped right, about 0.02.
    assert quality(joint) >= max(map(quality, codes[:2])) - 0.02
    assert model.modality_weights_["noise"] < 0.5 * model.modality_weights_["a"]


@pytest.mark.gpu
def test_gpu_gives_close_results():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    X = load_mfeat(views=("fou", "zer")).data
    X = X.astype(np.float32)
    X[::3, :76] = np.nan
    model = DCMEMEncoder([76, 47], max_epochs=20, device="cuda", random_state=0).fit(X)
    on_gpu = model.transform(X)
    on_cpu = model.set_params(device="cpu").transform(X)
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-2, atol=1e-3)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert model.generate(X[:5], "modality1", "modality0").shape == (
        5,
        76,
    )
