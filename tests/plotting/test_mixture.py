"""The display of a mixture over modalities: what is drawn, not how it looks."""

from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.covariance import GraphicalLasso
from sklearn.exceptions import NotFittedError

from skmm import DPMixtureFusion
from skmm.modalities import Modality
from skmm.plotting import MixtureDisplay
from skmm.plotting._mixture import _best_columns
from skmm.plotting._style import look

COUPLINGS = ["shared", "joint_stick", "per_modality"]


@pytest.fixture(autouse=True)
def figures_closed():
    """Draw without a screen, and leave no figure behind."""
    before = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def planted(n=120, seed=0):
    """Three groups, of which the image tells two and the text two others apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    X = rng.normal(size=(n, 5))
    X[:, :2] += 9 * np.array([0, 0, 1])[y][:, None]
    X[:, 2:] += 9 * np.array([0, 1, 1])[y][:, None]
    X[::4, :2] = np.nan
    X[1::4, 2:] = np.nan
    return X, y


MODALITIES = {"image": [0, 1], "text": [2, 3, 4]}


def fitted(coupling="shared", head=None, **options):
    X, y = planted()
    options = {"n_components": 5, "n_init": 1, "random_state": 0} | options
    mixture = DPMixtureFusion(MODALITIES, coupling=coupling, head=head, **options)
    return mixture.fit(X, y), X


def arrays(n_rows=8):
    """Two modalities; the second lacks the first two rows."""
    rng = np.random.default_rng(0)
    given = rng.dirichlet(np.ones(3), size=(2, n_rows))
    given[1, :2] = np.nan
    return {
        "weights": [0.5, 0.5, 0.0],
        "responsibilities": list(given),
        "means": [rng.normal(size=(3, 2)), rng.normal(size=(3, 4))],
    }


def titles(display):
    return [axis.get_title().split("\n")[0] for axis in display.axes_]


def tick_labels(which):
    return [text.get_text() for text in which.get_ticklabels()]


# ---------------------------------------------------------------- the estimator
@pytest.mark.parametrize("head", [None, "mixture"])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_draws_what_the_estimator_found(coupling, head):
    mixture, X = fitted(coupling, head)
    display = MixtureDisplay.from_estimator(mixture, X)
    names = ["image", "text"]
    alone = [f"{name} alone" for name in names]
    assert titles(display)[1:] == alone + names
    shown = np.flatnonzero(np.ravel(mixture.weights_) > 0.01)
    np.testing.assert_array_equal(display.components_, shown)
    heights = [bar.get_height() for bar in display.bars_]
    np.testing.assert_array_equal(heights, np.ravel(mixture.weights_)[shown])
    assert tick_labels(display.axes_[0].xaxis) == [str(k) for k in shown]
    assert display.ax_ is display.axes_[0] and display.axes_.shape == (5,)
    display.figure_.canvas.draw()


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_responsibilities_are_those_of_the_modality_alone(coupling):
    mixture, X = fitted(coupling)
    display = MixtureDisplay.from_estimator(mixture, X)
    for m, own in enumerate(MODALITIES.values()):
        alone = np.full_like(X, np.nan)
        alone[:, own] = X[:, own]
        expected = mixture.predict_proba(alone)
        missing = np.isnan(alone).all(axis=1)
        found = display.responsibilities[m]
        np.testing.assert_allclose(found[~missing], expected[~missing], atol=1e-12)
        assert np.isnan(found[missing]).all()


def test_a_head_does_not_change_what_is_shown():
    plain, X = fitted()
    headed, _ = fitted(head="logistic", representation="both")
    before = dict(vars(headed))
    one = MixtureDisplay.from_estimator(plain, X)
    other = MixtureDisplay.from_estimator(headed, X)
    np.testing.assert_allclose(other.responsibilities, one.responsibilities)
    np.testing.assert_array_equal(other.labels, plain.labels_)
    assert vars(headed).keys() == before.keys()
    assert headed.representation == "both"


def test_rows_are_ordered_by_component_then_by_how_sure():
    mixture, X = fitted()
    display = MixtureDisplay.from_estimator(mixture, X)
    shown = display.components_
    counts = np.bincount(mixture.labels_, minlength=5)[shown]
    for m, image in enumerate(display.responsibility_images_):
        table = image.get_array()
        assert table.shape == (counts.sum(), len(shown))
        for k, part in enumerate(np.split(table, np.cumsum(counts)[:-1])):
            rows = display.responsibilities[m][mixture.labels_ == shown[k]]
            own = part[:, k]
            assert own.mask.sum() == np.isnan(rows[:, 0]).sum()
            assert not own.mask[: (~own.mask).sum()].any(), "missing ones come last"
            assert (np.diff(own.compressed()) <= 0).all()


def test_clustered_apart_each_modality_has_its_own_rows_and_components():
    mixture, X = fitted("per_modality")
    display = MixtureDisplay.from_estimator(mixture, X)
    for m, (own, image) in enumerate(
        zip(MODALITIES.values(), display.responsibility_images_, strict=True)
    ):
        seen = ~np.isnan(X[:, own[0]])
        shown = np.flatnonzero(mixture.weights_[m] > 0.01)
        table = image.get_array()
        assert table.shape == (seen.sum(), len(shown)) and not table.mask.any()
        assert (np.diff(table.argmax(axis=1)) >= 0).all()
        axis = display.axes_[1 + m]
        assert tick_labels(axis.xaxis) == [str(5 * m + k) for k in shown]


def test_means_are_measured_in_the_spread_of_the_columns():
    mixture, X = fitted()
    scaled = X * [1, 100, 1, 1e-3, 1] + [0, 5, 0, 7, 1e3]
    again = DPMixtureFusion(MODALITIES, n_components=5, n_init=1, random_state=0)
    tables = [
        MixtureDisplay.from_estimator(model.fit(values), values, kind="means")
        for model, values in [(mixture, X), (again, scaled)]
    ]
    for m, own in enumerate(MODALITIES.values()):
        shown = tables[0].components_
        expected = mixture.means_[m][shown] - np.nanmean(X[:, own], axis=0)
        expected /= np.nanstd(X[:, own], axis=0)
        for display in tables:
            drawn = display.mean_images_[m].get_array()
            np.testing.assert_allclose(drawn, expected, atol=1e-4)
    limits = {image.get_clim() for image in tables[0].mean_images_}
    ((low, high),) = limits
    assert low == -high


def test_declared_images_are_pictures():
    X, _ = planted()
    modalities = {"image": [0, 1], "text": Modality([2, 3, 4], shape=(1, 1, 3))}
    mixture = DPMixtureFusion(modalities, n_components=5, n_init=1, random_state=0)
    display = MixtureDisplay.from_estimator(mixture.fit(X), X, kind="means")
    assert display.image_shapes == {"text": (1, 1, 3)}
    numbers = [text.get_text() for text in display.axes_[1].texts]
    assert numbers == [str(k) for k in display.components_]
    drawn = display.mean_images_[1].get_array().compressed()
    expected = mixture.means_[1][display.components_].ravel()
    np.testing.assert_allclose(np.sort(drawn), np.sort(expected))


def test_takes_a_frame_and_names_its_columns():
    pd = pytest.importorskip("pandas")
    X, _ = planted()
    names = ["image__hue", "image__size", "text__a", "text__b", "text__c"]
    frame = pd.DataFrame(X, columns=names)
    mixture = DPMixtureFusion(n_components=5, n_init=1, random_state=0).fit(frame)
    display = MixtureDisplay.from_estimator(mixture, frame, kind="means")
    assert tick_labels(display.axes_[0].xaxis) == ["hue", "size"]
    with pytest.raises(ValueError, match="feature names should match"):
        MixtureDisplay.from_estimator(mixture, frame.rename(columns=str.upper))


def test_dropped_columns_and_float32():
    X, _ = planted()
    modalities = {"text": [2, 3, 4], "image": [0], "drop": [1]}
    mixture = DPMixtureFusion(modalities, n_components=5, n_init=1, random_state=0)
    values = X.astype(np.float32)
    display = MixtureDisplay.from_estimator(mixture.fit(values), values)
    assert display.modality_names == ["text", "image"]
    assert [one.shape[1] for one in display.means] == [3, 1]


def test_rows_without_any_value_are_missing_everywhere():
    mixture, X = fitted()
    X = np.vstack([X[:3], np.full((1, 5), np.nan)])
    display = MixtureDisplay.from_estimator(mixture, X)
    assert all(np.isnan(one[3]).all() for one in display.responsibilities)
    display.figure_.canvas.draw()


def test_leaves_no_global_state(global_rng_untouched):
    mixture, X = fitted()
    before = dict(mpl.rcParams)
    MixtureDisplay.from_estimator(mixture, X)
    assert dict(mpl.rcParams) == before


# ---------------------------------------------------------------- arrays
def test_draws_what_it_was_given():
    given = arrays()
    display = MixtureDisplay(given["weights"]).plot()
    assert titles(display) == ["2 of 3 components"]
    display = MixtureDisplay(given["weights"], means=given["means"]).plot()
    assert titles(display)[1:] == ["m0", "m1"]
    display = MixtureDisplay(**given).plot(kind="responsibilities")
    assert titles(display) == ["m0 alone", "m1 alone"]
    assert not hasattr(display, "bars_") and not hasattr(display, "mean_images_")
    display = MixtureDisplay(**given).plot()
    assert display.axes_.shape == (5,)


def test_by_default_means_are_measured_between_components():
    means = np.array([[0.0, 1.0], [2.0, 1.0], [9.0, 9.0]])
    display = MixtureDisplay([0.5, 0.5, 0.0], means=[means]).plot(kind="means")
    (image,) = display.mean_images_
    # The second column is constant in all components that have a weight.
    np.testing.assert_allclose(image.get_array(), [[-1, 0], [1, 0]])
    display.plot(kind="means", vmax=7)
    assert display.mean_images_[0].get_clim() == (-7, 7)


def test_components_are_chosen_and_ordered():
    display = MixtureDisplay(**arrays()).plot(components=[2, 0])
    assert display.components_.tolist() == [2, 0]
    assert [bar.get_height() for bar in display.bars_] == [0, 0.5]
    table = display.responsibility_images_[0].get_array()
    labels = display.labels
    assert len(table) == (labels == 2).sum() + (labels == 0).sum()
    last = display.responsibilities[0][labels == 0][:, [2, 0]]
    order = np.argsort(-last[:, 1])
    np.testing.assert_array_equal(table[-len(last) :], last[order])
    assert MixtureDisplay(**arrays()).plot(components=1).components_.tolist() == [1]


def test_components_without_rows_are_drawn_empty():
    given = arrays() | {"labels": np.zeros(8, dtype=int)}
    display = MixtureDisplay(**given).plot(components=[2])
    (table,) = {image.get_array().shape for image in display.responsibility_images_}
    assert table == (1, 1)
    assert display.responsibility_images_[0].get_array().mask.all()
    display.figure_.canvas.draw()


def test_min_weight_hides_and_says_so():
    display = MixtureDisplay([0.9, 0.06, 0.04]).plot(min_weight=0.05)
    assert display.ax_.get_title() == "2 of 3 components"
    assert MixtureDisplay([1.0]).plot().ax_.get_title() == "1 component"


def test_colours_and_a_legend_say_whose_components_they_are():
    weights = [[0.5, 0.1], [0.4, 0.0]]
    display = MixtureDisplay(weights, modality_names=["image", "text"]).plot()
    assert display.components_.tolist() == [0, 1, 2]
    colours = [bar.get_facecolor() for bar in display.bars_]
    expected = [mpl.colors.to_rgba(look(m)["color"]) for m in (0, 0, 1)]
    assert colours == expected
    (legend,) = display.legends_
    assert [text.get_text() for text in legend.get_texts()] == ["image", "text"]


def test_a_modality_none_of_whose_components_is_shown():
    means = [np.eye(2), np.eye(2)]
    shares = [np.full((4, 4), 0.25)] * 2
    given = {"means": means, "responsibilities": shares}
    for weights in ([[0.5, 0.5], [0.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]):
        display = MixtureDisplay(weights, **given).plot(components=[0, 1])
        display.figure_.canvas.draw()
        assert display.mean_images_[1].get_array().mask.all()


def test_grey_is_explained_where_it_occurs():
    given = arrays()
    display = MixtureDisplay(**given).plot()
    entries = [t.get_text() for one in display.legends_ for t in one.get_texts()]
    assert entries == ["modality missing"]
    complete = given | {"responsibilities": [given["responsibilities"][0]] * 2}
    assert MixtureDisplay(**complete).plot().legends_ == []
    assert len(MixtureDisplay(**given).plot(legend=False).figure_.axes) == 5


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 2, 2), (2, 2, 2)])
def test_pictures_in_grey_and_in_colour(shape):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, int(np.prod(shape))))
    display = MixtureDisplay(
        np.ones(3) / 3, means=[means], image_shapes={"m0": shape}
    ).plot()
    (image,) = display.mean_images_
    array = image.get_array()
    if shape[0] == 3:
        assert array.shape[-1] == 4
        inside = array[..., 3] == 1
        assert inside.sum() == 3 * 4
        assert array[inside].min() == 0 and array[inside].max() == 1
    else:
        expected = means.reshape(3, *shape).mean(axis=1)
        np.testing.assert_allclose(np.sort(array.compressed()), np.sort(expected, None))
    display.figure_.canvas.draw()


def test_pictures_are_as_large_as_can_be():
    assert _best_columns(4, 1.0, 1.0) == 2
    assert _best_columns(4, 1.0, 0.25) == 4
    assert _best_columns(4, 1.0, 4.0) == 1
    assert _best_columns(0, 1.0, 1.0) == 1


def test_labels_of_many_components_do_not_overlap():
    n = 50
    rng = np.random.default_rng(0)
    display = MixtureDisplay(
        np.full(n, 1 / n),
        responsibilities=[rng.dirichlet(np.ones(n), 200)] * 2,
        means=[rng.normal(size=(n, 40))] * 2,
    ).plot()
    display.figure_.canvas.draw()
    for axis in display.axes_:
        for which, along in ((axis.xaxis, "x"), (axis.yaxis, "y")):
            shown = [t for t in which.get_ticklabels() if t.get_text()]
            boxes = [text.get_window_extent() for text in shown]
            boxes.sort(key=lambda box: getattr(box, f"{along}0"))
            for before, after in pairwise(boxes):
                gap = getattr(after, f"{along}0") - getattr(before, f"{along}1")
                assert gap > -1


@pytest.mark.parametrize("n_blocks", [1, 2, 6])
def test_legends_lie_inside_the_figure_and_beside_the_panels(n_blocks):
    weights = np.full((n_blocks, 2), 0.5)
    names = ["a rather long name", *"bcdef"][:n_blocks]
    display = MixtureDisplay(
        weights, modality_names=names, means=[np.eye(2)] * n_blocks
    ).plot()
    display.figure_.canvas.draw()
    for legend in display.legends_:
        box = legend.get_window_extent()
        assert box.x1 <= display.figure_.bbox.x1
        assert not any(box.overlaps(axis.bbox) for axis in display.axes_)


def test_draws_on_given_axes():
    figure, axes = plt.subplots(1, 5, layout="constrained", figsize=(14, 3))
    display = MixtureDisplay(**arrays()).plot(ax=axes)
    assert display.figure_ is figure and list(display.axes_) == list(axes)
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()
    (legend,) = display.legends_
    assert not legend.get_window_extent().overlaps(axes[2].bbox)


# ---------------------------------------------------------------- refusals
def test_not_fitted():
    with pytest.raises(NotFittedError, match="DPMixtureFusion instance is not fitted"):
        MixtureDisplay.from_estimator(DPMixtureFusion(), [[0.0]])


def test_a_mixture_over_embeddings():
    X, y = planted(40)
    mixture = DPMixtureFusion(
        MODALITIES, method="neural", head="mixture", max_epochs=1, n_components=3
    )
    with pytest.raises(ValueError, match="estimator: .*got method='neural', whose"):
        MixtureDisplay.from_estimator(mixture.fit(X, y), X)


def test_an_estimator_that_is_no_mixture():
    lasso = GraphicalLasso().fit(np.random.default_rng(0).normal(size=(20, 2)))
    with pytest.raises(TypeError, match="estimator: .*got GraphicalLasso without wei"):
        MixtureDisplay.from_estimator(lasso, [[0.0]])


def test_rows_of_another_width():
    mixture, X = fitted()
    with pytest.raises(ValueError, match="X has 4 features, .* is expecting 5"):
        MixtureDisplay.from_estimator(mixture, X[:, :4])


R = np.full((2, 4, 3), 1 / 3)


@pytest.mark.parametrize(
    "changes, error, text",
    [
        ({"weights": 1.0}, ValueError, r"weights: expected shape .*got \(\)"),
        ({"weights": [0.5, -0.5]}, ValueError, "weights: .*>= 0, got negative"),
        ({"weights": [0.5, np.nan]}, ValueError, "weights: .*NaN or infinity. Pass"),
        ({"responsibilities": 3}, TypeError, "responsibilities: .*got int. Pass"),
        ({"modality_names": "text"}, TypeError, "modality_names: .*got str"),
        (
            {"responsibilities": list(R), "modality_names": ["a"]},
            ValueError,
            "modality_names: expected 2 entries.*responsibilities.*got 1",
        ),
        (
            {"weights": np.ones((3, 3)), "means": [np.eye(3)]},
            ValueError,
            "means: expected 3 entries, one for each modality as weights",
        ),
        (
            {"responsibilities": [R[0], R[1, :, :2]]},
            ValueError,
            r"responsibilities: expected shape \(4, 3\) for modality 1.*got \(4, 2\)",
        ),
        (
            {"responsibilities": list(np.log(R))},
            ValueError,
            "responsibilities: expected shares .*got -1.1 to .*not logarithms",
        ),
        ({"means": [np.eye(2)]}, ValueError, r"means: expected shape \(3, n_col.*\(2,"),
        (
            {"means": [np.full((3, 1), np.inf)]},
            ValueError,
            "means: expected finite .*infinity",
        ),
        (
            {"responsibilities": list(R), "labels": [0, 1]},
            ValueError,
            r"labels: expected shape \(4,\).*got \(2,\)",
        ),
        (
            {"responsibilities": list(R), "labels": [0, 1, 2, 3]},
            ValueError,
            r"labels: expected integers from 0 to 2, got \[0, 1, 2\] and others",
        ),
        (
            {"means": [np.eye(3)], "scale": [np.ones(2)]},
            ValueError,
            r"scale: .*of lengths \[3\].*got shapes \[\(2,\)\]",
        ),
        (
            {"means": [np.eye(3)], "image_shapes": {"m0": (3, 1)}},
            ValueError,
            r"image_shapes: expected shapes \(C, H, W\).*got \(3, 1\) for 'm0'",
        ),
        (
            {"means": [np.eye(3)], "image_shapes": {"photo": (1, 1, 3)}},
            ValueError,
            "image_shapes: .*for 'photo'. Pass",
        ),
    ],
)
def test_constructor_refuses(changes, error, text):
    with pytest.raises(error, match=text):
        MixtureDisplay(**{"weights": [0.5, 0.3, 0.2], **changes})


@pytest.mark.parametrize(
    "changes, error, text",
    [
        ({"kind": "tree"}, ValueError, "kind: expected 'all' or one of .*got 'tree'"),
        (
            {"kind": "means"},
            ValueError,
            "kind: expected one of .*got 'means', of which",
        ),
        ({"min_weight": 1}, ValueError, r"min_weight: expected .*\[0, 1\), got 1"),
        ({"min_weight": 0.7}, ValueError, "min_weight: expected less .*0.6, got 0.7"),
        ({"components": [2]}, ValueError, r"components: .*0 to 1, got \[2\]. Pass"),
        ({"components": []}, ValueError, r"components: expected integers .*got \[\]"),
        ({"components": [0.5]}, ValueError, r"components: .*got \[0.5\]"),
        ({"components": [0, 0]}, ValueError, r"components: expected each once, got"),
        ({"vmax": 0}, ValueError, "vmax: expected a number > 0 or None, got 0"),
        ({"ax": "here"}, TypeError, "ax: expected matplotlib Axes .*got str"),
    ],
)
def test_plot_refuses(changes, error, text):
    with pytest.raises(error, match=text):
        MixtureDisplay([0.6, 0.4]).plot(**changes)
    assert not plt.get_fignums()


def test_wrong_number_of_axes():
    _, axes = plt.subplots(1, 2)
    with pytest.raises(ValueError, match="ax: expected 5 Axes.*got 2. Pass"):
        MixtureDisplay(**arrays()).plot(ax=axes)
