"""Segmentation of composed images whose masks are known."""

import pickle

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.covariance import GraphicalLasso
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score

from skmm import CrossModalGraphicalLasso
from skmm.metrics import mean_iou
from skmm.vision import CrossAttentionDistiller, TopologySegmenter

SEEDS = range(5)
SIDE, D = 8, 16
# Materials: sky, head and tail of a cat, of a dog, and the fur that both have.
SKY, CAT_HEAD, CAT_TAIL, DOG_HEAD, DOG_TAIL, FUR = range(6)
PROTOTYPES = np.eye(6, D)


def animals(seed, n=40, noise=0.1, empty=False):
    """Animals of 2 x 5 patches (head, three of fur, tail), masks and labels."""
    rng = np.random.default_rng(seed)
    materials = np.full((n, SIDE, SIDE), SKY)
    masks = np.zeros((n, SIDE, SIDE), dtype=int)
    for i in range(n):
        if empty and i % 3 == 2:
            continue
        row, column = rng.integers(SIDE - 1), rng.integers(SIDE - 4)
        box = (i, slice(row, row + 2), slice(column, column + 5))
        head, tail = ((CAT_HEAD, CAT_TAIL), (DOG_HEAD, DOG_TAIL))[i % 2]
        materials[box] = [head, FUR, FUR, FUR, tail]
        masks[box] = 1 + i % 2
    patches = PROTOTYPES[materials].reshape(n, SIDE**2, D)
    return patches + noise * rng.normal(size=patches.shape), masks, 1 + np.arange(n) % 2


def body_graph():
    """Head, fur and tail of each animal hang together."""
    graph = np.eye(6)
    for head, tail in ((CAT_HEAD, CAT_TAIL), (DOG_HEAD, DOG_TAIL)):
        for a, b in ((head, FUR), (FUR, tail)):
            graph[a, b] = graph[b, a] = -0.4
    return graph


def halves(*arrays):
    return [part for array in arrays for part in (array[:24], array[24:])]


@pytest.mark.parametrize("seed", SEEDS)
def test_composed_images(seed):
    train, test, y_train, y_test = halves(*animals(seed)[:2])
    # Materials of one class each: fur of the dog is not that of the cat.
    own = np.eye(7, D)
    for patches, y in ((train, y_train), (test, y_test)):
        fur = (patches.reshape(-1, SIDE, SIDE, D).argmax(3) == FUR) & (y == 2)
        patches.reshape(-1, SIDE, SIDE, D)[fur] = own[6] + own[FUR] * 0.1
    segmenter = TopologySegmenter(CrossAttentionDistiller(own)).fit(train, y_train)
    assert mean_iou(y_test, segmenter.predict(test)) > 0.97


@pytest.mark.parametrize("seed", SEEDS)
def test_smoothing_tells_what_classes_share(seed):
    train, test, y_train, y_test = halves(*animals(seed)[:2])
    distiller = CrossAttentionDistiller(PROTOTYPES)
    plain = TopologySegmenter(distiller).fit(train, y_train)
    graph = TopologySegmenter(distiller, body_graph()).fit(train, y_train)
    without = mean_iou(y_test, plain.predict(test))
    smooth = mean_iou(y_test, graph.predict(test))
    assert smooth > 0.95
    assert smooth > without + 0.1
    # Nothing to smooth, or not at all.
    for params in ({"rounds": 0}, {"smoothing": 0.0}):
        off = clone(graph).set_params(**params).fit(train, y_train)
        np.testing.assert_array_equal(
            off.decision_function(test), plain.decision_function(test)
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_graph_of_a_graphical_lasso(seed):
    # Where some images are empty, fur comes with heads and tails: an edge to be found.
    patches, masks, _ = animals(seed, n=60, empty=True)

    class Scaled(GraphicalLasso):
        def fit(self, X, y=None):
            return super().fit((X - X.mean(0)) / X.std(0))

    train, test, y_train, y_test = patches[:40], patches[40:], masks[:40], masks[40:]
    distiller = CrossAttentionDistiller(PROTOTYPES)
    learnt = TopologySegmenter(distiller, Scaled(alpha=0.2)).fit(train, y_train)
    plain = clone(learnt).set_params(rounds=0).fit(train, y_train)
    without = mean_iou(y_test, plain.predict(test))
    assert (learnt.precision_[FUR, [CAT_HEAD, DOG_TAIL]] < 0).all()
    assert mean_iou(y_test, learnt.predict(test)) > without + 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_footprints_as_a_graph(seed):
    train, test, y_train, y_test = halves(*animals(seed)[:2])
    segmenter = TopologySegmenter(CrossAttentionDistiller(PROTOTYPES), "footprints")
    segmenter.fit(train, y_train)
    np.testing.assert_array_equal(segmenter.precision_, segmenter.distiller_.prior_)
    assert mean_iou(y_test, segmenter.predict(test)) > 0.9


def test_graphs_of_the_classes():
    patches, masks, _ = animals(0)
    seen = {}

    class Recorder(BaseEstimator):
        def fit(self, X, y):
            seen["X"], seen["y"] = X, y
            self.classes_ = np.unique(y)
            self.precision_ = np.stack([np.eye(6) * (c + 1) for c in self.classes_])
            return self

    segmenter = TopologySegmenter(CrossAttentionDistiller(PROTOTYPES), Recorder())
    segmenter.fit(patches, masks)
    # Each image stands once for the sky and once for its animal, with the prior.
    assert len(seen["X"]) == 2 * len(patches)
    np.testing.assert_array_equal(np.bincount(seen["y"]), [40, 20, 20])
    np.testing.assert_array_equal(seen["X"].prior, segmenter.distiller_.prior_)
    np.testing.assert_array_equal(segmenter.precision_[:, 0, 0], [1, 2, 3])


def test_cross_modal_graphical_lasso_finds_the_prior():
    patches, _, y = animals(0)
    lasso = CrossModalGraphicalLasso(modalities=None, prior="footprints")
    distiller = CrossAttentionDistiller(PROTOTYPES)
    X = distiller.fit_transform(patches)
    lasso.fit(X, y)
    np.testing.assert_allclose(lasso.prior_, distiller.prior_)
    assert lasso.score(X, y) > 0.95
    segmenter = TopologySegmenter(distiller, clone(lasso)).fit(patches, y)
    assert segmenter.precision_.shape == (2, 6, 6)
    assert segmenter.predict(patches).shape == (40, SIDE, SIDE)


def test_scores_of_a_pixel_sum_to_one():
    patches, masks, _ = animals(0)
    segmenter = TopologySegmenter(
        CrossAttentionDistiller(PROTOTYPES), body_graph(), size=(20, 12)
    ).fit(patches, masks)
    scores = segmenter.decision_function(patches)
    assert scores.shape == (40, 3, 20, 12)
    assert scores.min() >= 0
    np.testing.assert_allclose(scores.sum(1), 1)
    np.testing.assert_array_equal(segmenter.predict(patches), scores.argmax(1))
    np.testing.assert_allclose(segmenter.node_classes_.sum(0), 1)


def test_images_do_not_depend_on_each_other(monkeypatch):
    patches, masks, _ = animals(0)
    segmenter = TopologySegmenter(CrossAttentionDistiller(PROTOTYPES), body_graph())
    whole = segmenter.fit(patches, masks).decision_function(patches)
    parts = [segmenter.decision_function(patches[i : i + 1]) for i in range(40)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-12)
    monkeypatch.setattr("skmm.vision._segment.CHUNK", 7)
    again = clone(segmenter).fit(patches, masks)
    np.testing.assert_allclose(
        again.decision_function(patches), whole, rtol=0, atol=1e-12
    )


def test_masks_larger_than_the_grid():
    patches, masks, _ = animals(0)
    large = masks.repeat(4, axis=1).repeat(3, axis=2)
    segmenter = TopologySegmenter(CrossAttentionDistiller(PROTOTYPES), body_graph())
    small = clone(segmenter).fit(patches, masks)
    predicted = segmenter.fit(patches, large).predict(patches)
    np.testing.assert_allclose(small.node_classes_, segmenter.node_classes_)
    assert predicted.shape == large.shape
    assert mean_iou(large, predicted) > 0.8  # corners are rounded


def test_ignored_pixels_teach_nothing():
    patches, masks, _ = animals(0)
    rng = np.random.default_rng(0)
    ignored = np.where(rng.random(masks.shape) < 0.2, 255, masks)
    segmenter = TopologySegmenter(
        CrossAttentionDistiller(PROTOTYPES), body_graph(), ignore_index=255
    ).fit(patches, ignored)
    np.testing.assert_array_equal(segmenter.classes_, [0, 1, 2])
    assert mean_iou(masks, segmenter.predict(patches)) > 0.95


def test_labels_of_images_and_names():
    patches, _, y = animals(0)
    names = np.array(["sky", "cat", "dog"])
    segmenter = TopologySegmenter(CrossAttentionDistiller(PROTOTYPES))
    predicted = segmenter.fit(patches, names[y]).predict(patches)
    assert predicted.shape == (40, SIDE, SIDE)
    assert set(np.unique(predicted)) == {"cat", "dog"}


def test_grid_that_is_no_square():
    patches, masks, _ = animals(0)
    wide, masks = patches[:, : SIDE * 6], masks[:, :6]
    fits = TopologySegmenter(CrossAttentionDistiller(PROTOTYPES), grid=(6, SIDE))
    assert fits.fit(wide, masks).grid_ == (6, SIDE)
    told = TopologySegmenter(CrossAttentionDistiller(PROTOTYPES, grid=[6, SIDE]))
    np.testing.assert_array_equal(
        told.fit(wide, masks).predict(wide), fits.predict(wide)
    )
    with pytest.raises(ValueError, match=r"grid: expected .* of 48 patches.*grid_"):
        TopologySegmenter(CrossAttentionDistiller(PROTOTYPES)).fit(wide, masks)


def test_clone_pickle_search():
    patches, masks, _ = animals(0)
    segmenter = TopologySegmenter(
        CrossAttentionDistiller(n_nodes=6, random_state=0), GraphicalLasso(0.1)
    ).fit(patches, masks)
    again = pickle.loads(pickle.dumps(segmenter))
    np.testing.assert_array_equal(again.predict(patches), segmenter.predict(patches))
    segmenter = TopologySegmenter(CrossAttentionDistiller(PROTOTYPES), body_graph())
    scorer = make_scorer(mean_iou)
    assert cross_val_score(segmenter, patches, masks, cv=3, scoring=scorer).min() > 0.9
    grid = {"rounds": [0, 2], "distiller__temperature": ["auto", 0.02]}
    search = GridSearchCV(segmenter, grid, cv=2, scoring=scorer).fit(patches, masks)
    assert search.best_params_["rounds"] == 2


def test_frozen_distiller():
    patches, masks, _ = animals(0)
    fitted = CrossAttentionDistiller(PROTOTYPES).fit(patches[:5])
    segmenter = TopologySegmenter(FrozenEstimator(fitted), body_graph())
    segmenter.fit(patches, masks)
    np.testing.assert_array_equal(segmenter.distiller_.prior_, fitted.prior_)
    assert mean_iou(masks, segmenter.predict(patches)) > 0.95


@pytest.mark.parametrize(
    ("params", "y", "match"),
    [
        ({}, np.zeros((40, 8)), r"y: expected masks.*got shape \(40, 8\)"),
        ({}, np.zeros((40, 4, 4)), r"y: expected masks of at least \(8, 8\)"),
        ({"ignore_index": 0}, np.zeros((40, 8, 8)), r"only pixels of ignore_index=0"),
        ({"precision": np.eye(5)}, None, r"precision: expected shape \(6, 6\) or"),
        ({"precision": np.full((6, 6), np.inf)}, None, r"precision: expected finite"),
        ({"precision": "prior"}, None, r"'precision' parameter"),
        ({"size": (3,)}, None, r"size: expected \(height, width\)"),
        ({"smoothing": 1.5}, None, r"'smoothing' parameter"),
        ({}, np.zeros((3, 8, 8)), r"inconsistent numbers of samples"),
    ],
)
def test_bad_input(params, y, match):
    patches, masks, _ = animals(0)
    segmenter = TopologySegmenter(CrossAttentionDistiller(PROTOTYPES), **params)
    with pytest.raises(ValueError, match=match):
        segmenter.fit(patches, masks if y is None else y)


def test_missing_image():
    patches, masks, _ = animals(0)
    segmenter = TopologySegmenter(CrossAttentionDistiller(PROTOTYPES))
    segmenter.fit(patches, masks)
    with pytest.raises(ValueError, match=r"expected 64 patches, as at fit, got 63"):
        segmenter.predict(patches[:, 1:])
    patches[30] = np.nan
    for use in (segmenter.predict, lambda X: segmenter.fit(X, masks)):
        with pytest.raises(ValueError, match=r"NaN everywhere in image 30.*Leave"):
            use(patches)
