"""The generator plants what it says: probes on each part, on several seeds.

Chance is 1 / n_classes. With 600 rows and 3 classes the standard error of an accuracy
is at most 0.02; a tolerance of 0.08 is four of them.
"""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from skmm.datasets import make_multimodal_classification

SEEDS = range(5)
TOLERANCE = 0.08


def make(seed, **changes):
    settings = {"n_samples": 600, "n_classes": 3} | changes
    return make_multimodal_classification(
        **settings, random_state=seed, return_structure=True
    )


def accuracy(probe, X, y):
    return (cross_val_predict(probe, X, y, cv=5) == y).mean()


def information(probe, X, y):
    """Nats that the probe's probabilities tell of the class, on held-out rows."""
    proba = cross_val_predict(probe, X, y, cv=5, method="predict_proba")
    classes = np.bincount(y) / len(y)
    return -(classes * np.log(classes)).sum() - log_loss(y, proba)


def part(X, structure, name):
    return np.hstack([X[:, columns[name]] for columns in structure.columns.values()])


@pytest.mark.parametrize("seed", SEEDS)
def test_shared_each_modality_tells_what_all_tell(seed):
    X, y, planted = make(seed, private_sep=0, synergy_sep=0, shared_sep=3, noise=0.1)
    alone = [
        accuracy(LogisticRegression(), X[:, c], y) for c in planted.modalities.values()
    ]
    together = accuracy(LogisticRegression(), X, y)
    assert min(alone) > 0.75
    np.testing.assert_allclose(alone, together, atol=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_private_modalities_add_up(seed):
    X, y, planted = make(seed, shared_sep=0, synergy_sep=0, n_modalities=3)
    alone = [
        accuracy(LogisticRegression(), X[:, c], y) for c in planted.modalities.values()
    ]
    together = accuracy(LogisticRegression(), X, y)
    assert min(alone) > 1 / 3 + TOLERANCE
    assert together > max(alone) + 0.05


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_classes, n_modalities", [(2, 2), (2, 3), (3, 2)])
def test_synergy_only_all_modalities_tell(seed, n_classes, n_modalities):
    X, y, planted = make(
        seed,
        n_classes=n_classes,
        n_modalities=n_modalities,
        shared_sep=0,
        private_sep=0,
        synergy_sep=6,
    )
    residues = part(X, planted, "synergy")
    chance = 1 / n_classes
    assert accuracy(SVC(), residues, y) > 0.9
    # Not accuracy: a line through XOR gets three of its four cells right by luck. In
    # nats, evidence that adds up tells nothing; 0.02 is for luck between folds.
    assert information(LogisticRegression(), X, y) < 0.02
    for columns in planted.columns.values():
        others = np.delete(X, columns["synergy"], axis=1)
        assert abs(accuracy(SVC(), others, y) - chance) < TOLERANCE


@pytest.mark.parametrize("seed", SEEDS)
def test_the_parts_are_in_their_columns_only(seed):
    X, y, planted = make(seed, shared_sep=4, private_sep=4, synergy_sep=6)
    probe = KNeighborsClassifier(15)
    for name, low, high in [
        ("shared", 0.9, 1),
        ("private", 0.9, 1),
        ("synergy", 0.9, 1),
        ("noise", 0, 1 / 3 + TOLERANCE),
    ]:
        assert low <= accuracy(probe, part(X, planted, name), y) <= high


@pytest.mark.parametrize("seed", SEEDS)
def test_defaults_reward_more_modalities_and_interactions(seed):
    X, y, planted = make(seed, n_samples=2000)
    one = accuracy(LogisticRegression(), X[:, planted.modalities["m0"]], y)
    linear = accuracy(LogisticRegression(), X, y)
    # The products of residue columns are what a linear model lacks.
    first, second = (X[:, c["synergy"]] for c in planted.columns.values())
    products = (first[:, :, None] * second[:, None, :]).reshape(len(X), -1)
    crossed = accuracy(LogisticRegression(), np.hstack([X, products]), y)
    assert one < 0.8 < 0.83 < crossed
    assert one + 0.04 < linear < crossed - 0.03


def test_latents_are_as_described():
    seps = {"shared_sep": 2.0, "private_sep": 3.0, "synergy_sep": 4.0}
    _, y, planted = make(0, n_samples=30000, n_classes=4, n_modalities=3, **seps)
    np.testing.assert_array_equal(planted.residues.sum(axis=1) % 4, y)
    for latent, code, sep in [
        (planted.shared, y, 2),
        (planted.private["m1"], y, 3),
        (planted.synergy["m2"], planted.residues[:, 2], 4),
    ]:
        centres = np.array([latent[code == c].mean(axis=0) for c in range(4)])
        gaps = np.linalg.norm(centres[:, None] - centres, axis=2)
        # 7500 rows a class: means have a standard error of 0.012 a coordinate.
        np.testing.assert_allclose(gaps, sep * (1 - np.eye(4)), atol=0.08)
        np.testing.assert_allclose(
            np.cov((latent - centres[code]).T), np.eye(3), atol=0.05
        )


def test_private_latents_are_independent_given_the_class():
    _, y, planted = make(0, n_samples=30000, n_classes=2)
    first, second = (
        latent[y == 0, 0] - latent[y == 0, 0].mean()
        for latent in planted.private.values()
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03  # 3.7 standard errors


def test_any_proper_subset_of_residues_is_independent_of_the_class():
    _, y, planted = make(0, n_samples=30000, n_classes=3, n_modalities=3)
    for left_out in range(3):
        kept = np.delete(planted.residues, left_out, axis=1)
        cell = np.ravel_multi_index((*kept.T, y), (3, 3, 3))
        # 27 equal cells of 1111 rows, standard deviation 33.
        np.testing.assert_allclose(np.bincount(cell), 30000 / 27, atol=4.5 * 33)


def test_without_noise_columns_are_an_isometry_of_the_latent():
    X, _, planted = make(0, noise=0, n_features=[8, 24])
    for name, columns in planted.columns.items():
        gram = X[:, columns["private"]] @ X[:, columns["private"]].T
        latent = planted.private[name]
        np.testing.assert_allclose(gram, latent @ latent.T, atol=1e-10)


def test_layout():
    X, _, planted = make(0, n_features=[4, 11])
    assert planted.modalities == {"m0": slice(0, 4), "m1": slice(4, 15)}
    sizes = [c.stop - c.start for c in planted.columns["m1"].values()]
    assert sizes == [3, 3, 3, 2]
    assert X.shape[1] == len(planted.feature_names) == 15
    assert planted.feature_names[6] == "m1__shared_2"


def test_classes_are_balanced():
    _, y = make_multimodal_classification(301, 3, random_state=0)
    assert sorted(np.bincount(y)) == [100, 100, 101]


def test_one_modality_and_few_columns_are_legal():
    X, y, planted = make(0, n_modalities=1, n_classes=10, n_features=4)
    assert X.shape == (600, 4)
    np.testing.assert_array_equal(planted.residues[:, 0], y)


def test_missing_blocks():
    X, _, planted = make(0, missing_fraction=0.25)
    assert planted.observed.mean() == 0.75
    assert not np.isnan(planted.X_complete).any()
    for m, c in enumerate(planted.modalities.values()):
        seen = planted.observed[:, m]
        np.testing.assert_array_equal(X[seen, c], planted.X_complete[seen, c])
        assert np.isnan(X[~seen, c]).all()


def test_random_states():
    X, y = make_multimodal_classification(random_state=4)
    again, y_again = make_multimodal_classification(random_state=4)
    np.testing.assert_array_equal(X, again)
    np.testing.assert_array_equal(y, y_again)
    complete = make_multimodal_classification(
        random_state=4, missing_fraction=0.3, return_structure=True
    )[2].X_complete
    np.testing.assert_array_equal(complete, X)
    assert not np.array_equal(X, make_multimodal_classification(random_state=5)[0])
    generator = np.random.default_rng(4)
    np.testing.assert_array_equal(
        X, make_multimodal_classification(random_state=generator)[0]
    )


@pytest.mark.parametrize(
    "settings, error, text",
    [
        ({"n_samples": 0}, ValueError, r"n_samples: expected an integer in \[1, inf\)"),
        ({"n_classes": 1}, ValueError, "n_classes: .* got 1"),
        ({"n_classes": 2.5}, TypeError, "n_classes: .* got 2.5 .float."),
        ({"n_modalities": 0}, ValueError, "n_modalities: .* got 0"),
        ({"n_features": 3}, ValueError, "n_features: .* got 3. A modality needs"),
        ({"n_features": [4]}, ValueError, "n_features: expected 2 widths, .* got 1"),
        ({"shared_sep": -1}, ValueError, "shared_sep: .* got -1. Use 0"),
        ({"noise": float("inf")}, ValueError, "noise: .* got inf"),
        ({"missing_fraction": 2}, ValueError, "fraction: .* got 2"),
    ],
)
def test_refuses(settings, error, text):
    with pytest.raises(error, match=text):
        make_multimodal_classification(**settings)
