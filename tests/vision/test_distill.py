"""The distiller against its formulas, and as a scikit-learn transformer."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skmm.core.attention import attention, footprint_prior, grid_positions
from skmm.vision import CrossAttentionDistiller, NodeScores

SEEDS = range(5)
N_IMAGES, N, D, K = 12, 6, 5, 3
# One rounding of float64 sums in another order.
CLOSE = {"rtol": 0, "atol": 1e-12}


def draw(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    patches = rng.normal(size=(N_IMAGES, N, D)).astype(dtype)
    return patches, rng.normal(size=(K, D))


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_the_formulas(seed):
    patches, prototypes = draw(seed)
    distiller = CrossAttentionDistiller(
        prototypes, temperature=0.2, spatial_scale=0.4, grid=(2, 3)
    )
    X = distiller.fit_transform(patches)
    alpha = attention(torch.tensor(prototypes), torch.tensor(patches), 0.2)
    np.testing.assert_allclose(distiller.footprints(patches), alpha, **CLOSE)
    unit = patches / np.linalg.norm(patches, axis=2, keepdims=True)
    nodes = alpha.numpy() @ unit
    lengths = np.linalg.norm(nodes, axis=2) * np.linalg.norm(prototypes, axis=1)
    np.testing.assert_allclose(X, (nodes * prototypes).sum(2) / lengths, **CLOSE)
    prior = footprint_prior(alpha, grid_positions(2, 3), 0.4)
    np.testing.assert_allclose(distiller.prior_, prior, **CLOSE)
    np.testing.assert_array_equal(X.prior, distiller.prior_)
    assert isinstance(X, NodeScores)


@pytest.mark.parametrize("seed", SEEDS)
def test_first_principal_component(seed):
    patches, prototypes = draw(seed)
    distiller = CrossAttentionDistiller(prototypes, node="pca").fit(patches)
    X = np.asarray(distiller.transform(patches))
    unit = patches / np.linalg.norm(patches, axis=2, keepdims=True)
    nodes = distiller.footprints(patches) @ unit
    for k in range(K):
        centred = nodes[:, k] - nodes[:, k].mean(0)
        values = np.linalg.eigvalsh(centred.T @ centred / N_IMAGES)
        assert X[:, k].mean() == pytest.approx(0, abs=1e-12)
        assert X[:, k].var() == pytest.approx(values[-1], abs=1e-12)
        assert distiller.components_[k] @ prototypes[k] > 0


@pytest.mark.parametrize("node", ["cosine", "pca"])
def test_rows_do_not_depend_on_each_other(node, monkeypatch):
    patches, prototypes = draw()
    distiller = CrossAttentionDistiller(prototypes, node=node).fit(patches)
    whole, prior = distiller.transform(patches), distiller.prior_
    parts = [distiller.transform(patches[i : i + 1]) for i in range(N_IMAGES)]
    np.testing.assert_allclose(np.vstack(parts), whole, **CLOSE)
    monkeypatch.setattr("skmm.vision._distill.CHUNK", 1)  # image by image
    np.testing.assert_allclose(distiller.transform(patches), whole, **CLOSE)
    np.testing.assert_allclose(distiller.fit(patches).prior_, prior, **CLOSE)


def test_permuted_prototypes_permute():
    patches, prototypes = draw()
    order = [2, 0, 1]
    X = CrossAttentionDistiller(prototypes).fit_transform(patches)
    permuted = CrossAttentionDistiller(prototypes[order]).fit_transform(patches)
    np.testing.assert_allclose(permuted, np.asarray(X)[:, order], **CLOSE)
    np.testing.assert_allclose(permuted.prior, X[:, order].prior, **CLOSE)


def test_k_means_finds_what_images_are_made_of(global_rng_untouched):
    rng = np.random.default_rng(0)
    materials = np.eye(4, D)
    kinds = rng.integers(4, size=(40, N))
    patches = materials[kinds] * rng.uniform(1, 3, size=(40, N, 1))
    patches += 0.02 * rng.normal(size=patches.shape)
    distiller = CrossAttentionDistiller(n_nodes=4, random_state=0).fit(patches)
    found = np.abs(distiller.prototypes_ @ materials.T).argmax(1)
    assert sorted(found) == [0, 1, 2, 3]
    again = CrossAttentionDistiller(n_nodes=4, random_state=0).fit(patches)
    np.testing.assert_array_equal(distiller.prototypes_, again.prototypes_)
    # A node scores where its material is.
    there = (kinds[:, :, None] == found).any(1)
    X = np.asarray(distiller.transform(patches))
    assert X[there].min() > X[~there].max()


def test_more_patches_than_k_means_sees(monkeypatch):
    monkeypatch.setattr("skmm.vision._distill.CLUSTERED", 20)
    patches, _ = draw()
    distiller = CrossAttentionDistiller(n_nodes=4, random_state=0).fit(patches)
    assert distiller.prototypes_.shape == (4, D)


def test_table_of_patches():
    patches, prototypes = draw()
    X = CrossAttentionDistiller(prototypes).fit_transform(patches)
    flat = CrossAttentionDistiller(prototypes, n_patches=N)
    table = patches.reshape(N_IMAGES, -1)
    np.testing.assert_array_equal(flat.fit_transform(table), X)
    assert flat.n_features_in_ == N * D


def test_absent_patches_and_images():
    patches, prototypes = draw()
    few = patches.copy()
    few[:, 4:] = np.nan
    distiller = CrossAttentionDistiller(prototypes)
    X = distiller.fit_transform(few)
    expected = clone(distiller).fit_transform(patches[:, :4])
    np.testing.assert_allclose(X, expected, **CLOSE)
    np.testing.assert_allclose(X.prior, expected.prior, **CLOSE)
    assert (distiller.footprints(few)[:, :, 4:] == 0).all()

    few[3] = np.nan
    for node in ("cosine", "pca"):
        distiller.set_params(node=node)
        X = distiller.fit_transform(few)
        rest = np.delete(few, 3, axis=0)
        expected = clone(distiller).fit_transform(rest)
        assert np.isnan(X[3]).all()
        np.testing.assert_allclose(np.delete(X, 3, axis=0), expected, **CLOSE)
        np.testing.assert_allclose(distiller.prior_, expected.prior, **CLOSE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_computes_in_the_type_of_X(dtype):
    patches, prototypes = draw(dtype=dtype)
    distiller = CrossAttentionDistiller(prototypes).fit(patches)
    assert distiller.transform(patches).dtype == dtype
    assert distiller.footprints(patches).dtype == dtype
    assert distiller.prior_.dtype == np.float64
    if dtype == np.float32:
        exact = CrossAttentionDistiller(prototypes).fit_transform(
            patches.astype(np.float64)
        )
        np.testing.assert_allclose(distiller.transform(patches), exact, atol=1e-5)


def test_spatial_scale_damps_distant_pairs():
    patches, prototypes = draw()
    near = CrossAttentionDistiller(prototypes, spatial_scale=0.2, grid=(2, 3))
    far = CrossAttentionDistiller(prototypes, spatial_scale=1e6, grid=(2, 3))
    plain = CrossAttentionDistiller(prototypes).fit(patches).prior_
    np.testing.assert_allclose(far.fit(patches).prior_, plain, **CLOSE)
    off = ~np.eye(K, dtype=bool)
    assert (near.fit(patches).prior_[off] < plain[off]).all()
    square = np.concatenate([patches, patches[:, :3]], axis=1)
    inferred = CrossAttentionDistiller(prototypes, spatial_scale=0.2).fit(square)
    stated = CrossAttentionDistiller(prototypes, spatial_scale=0.2, grid=(3, 3))
    np.testing.assert_array_equal(inferred.prior_, stated.fit(square).prior_)


def test_temperature():
    patches, prototypes = draw()
    auto = CrossAttentionDistiller(prototypes).fit(patches)
    assert auto.temperature_ == pytest.approx(1 / (20 * np.sqrt(D)))
    stated = CrossAttentionDistiller(prototypes, temperature=auto.temperature_)
    np.testing.assert_array_equal(
        stated.fit(patches).footprints(patches), auto.footprints(patches)
    )


def test_clone_pickle_and_params():
    patches, prototypes = draw()
    distiller = CrossAttentionDistiller(prototypes, temperature=0.3).fit(patches)
    again = pickle.loads(pickle.dumps(distiller))
    np.testing.assert_array_equal(
        again.transform(patches), distiller.transform(patches)
    )
    assert clone(distiller).get_params()["temperature"] == 0.3
    assert not hasattr(clone(distiller), "prior_")


def test_set_output():
    patches, prototypes = draw()
    named = dict(zip(["wing", "tail", "beak"], prototypes, strict=True))
    distiller = CrossAttentionDistiller(named)
    X = distiller.fit_transform(patches)
    frame = distiller.set_output(transform="pandas").fit_transform(patches)
    assert list(frame.columns) == ["wing", "tail", "beak"]
    np.testing.assert_array_equal(frame, X)
    np.testing.assert_array_equal(frame.attrs["prior"], X.prior)
    # pandas compares attributes when it puts frames together, and copies them on.
    import pandas as pd

    halves = pd.concat([frame.iloc[:5], frame.iloc[5:]])
    np.testing.assert_array_equal(halves.attrs["prior"], X.prior)
    other = distiller.set_output(transform="polars").transform(patches)
    assert other.columns == ["wing", "tail", "beak"]


def test_inside_a_search():
    patches, _ = draw()
    y = np.arange(N_IMAGES) % 2
    patches[y == 1, 0, 0] += 5
    pipeline = make_pipeline(
        CrossAttentionDistiller(random_state=0), LogisticRegression()
    )
    grid = {"crossattentiondistiller__n_nodes": [2, 4]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(patches, y)
    assert search.predict(patches).shape == (N_IMAGES,)


@pytest.mark.parametrize(
    ("params", "change", "match"),
    [
        ({}, lambda X: X[0], r"X: expected 3 dimensions .* got 2 .*n_patches"),
        ({}, lambda X: X[:, :, :0], r"X: expected patches with features, got shape"),
        ({"n_patches": 7}, lambda X: X.reshape(12, -1), r"multiple of n_patches=7"),
        ({}, lambda X: X * np.nan, r"X: expected an image with patches, got NaN"),
        ({"n_nodes": 100}, lambda X: X, r"n_nodes: expected at most .* 72, got 100"),
        ({"prototypes": np.ones((2, 4))}, lambda X: X, r"expected 5 channels.*got 4"),
        ({"prototypes": np.zeros((2, 5))}, lambda X: X, r"direction, got zeros"),
        ({"spatial_scale": 1.0}, lambda X: X, r"grid: expected rows and columns"),
        (
            {"grid": (2, 2)},
            lambda X: X,
            r"grid: expected .* of 6 patches, got \(2, 2\)",
        ),
        ({"temperature": 0.0}, lambda X: X, r"'temperature' parameter"),
        ({"node": "mean"}, lambda X: X, r"'node' parameter"),
    ],
)
def test_bad_input(params, change, match):
    patches, prototypes = draw()
    params = {"prototypes": None if "n_nodes" in params else prototypes, **params}
    with pytest.raises(ValueError, match=match):
        CrossAttentionDistiller(**params).fit(change(patches))


def test_bad_input_after_fit():
    patches, prototypes = draw()
    distiller = CrossAttentionDistiller(prototypes).fit(patches)
    with pytest.raises(ValueError, match=r"expected patches of 5 channels.*got 4"):
        distiller.transform(patches[:, :, :4])
    patches[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"without NaN.*image 1, patch 2"):
        distiller.transform(patches)
