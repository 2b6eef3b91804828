"""The display of shared codes: what is drawn, not how it looks."""

from functools import cache

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.decomposition import PCA, KernelPCA
from sklearn.exceptions import NotFittedError

from skmm import DCMEMEncoder, TCMaxClassifier
from skmm.modalities import Modality
from skmm.plotting import SharedCodeDisplay
from skmm.plotting._style import MARKERS

MODALITIES = {
    "image": Modality([0, 1, 2, 3], shape=(1, 2, 2), encoder="mlp", decoder="mlp"),
    "text": [4, 5, 6],
    "track": Modality([7, 8, 9, 10], shape=(2, 2), encoder="mlp", decoder="mlp"),
}
# Every kind, with the modalities it is of.
KINDS = ["map", "distances", "classes", "generation"]


@pytest.fixture(autouse=True)
def figures_closed():
    """Draw without a screen, and leave no figure behind."""
    before = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def planted(n=24, seed=0):
    """Three classes in three modalities; image and text lack some rows."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = rng.normal(size=(n, 11)) + 4 * y[:, None]
    X[::6, :4] = np.nan
    X[1::6, 4:7] = np.nan
    return X, np.array(["ant", "bee", "cow"])[y]


@cache
def fitted():
    X, _ = planted()
    return DCMEMEncoder(
        MODALITIES, n_components=3, hidden=(4,), max_epochs=2, random_state=0
    ).fit(X)


def drawn(kind, y=None, **options):
    X, classes = planted()
    if kind == "classes" or y is True:
        y = classes
    return SharedCodeDisplay.from_estimator(fitted(), X, y, kind=kind, **options)


def tick_labels(which):
    return [text.get_text() for text in which.get_ticklabels()]


def legend_labels(display):
    return [[t.get_text() for t in one.get_texts()] for one in display.legends_]


# ---------------------------------------------------------------- the map
def test_map_places_the_codes_that_are_there():
    X, _ = planted()
    display = drawn("map", y=True)
    codes = fitted().transform_dist(X)
    stacked = np.concatenate([codes[name].shared_mean for name in MODALITIES])
    seen = ~np.isnan(stacked[:, 0])
    pca = PCA(2).fit(stacked[seen])
    for name in MODALITIES:
        own = codes[name].shared_mean
        there = ~np.isnan(own[:, 0])
        places = display.positions_[name]
        np.testing.assert_array_equal(np.isnan(places[:, 0]), ~there)
        offsets = display.points_[name].get_offsets()
        # Rounding only: the network computes in float64.
        np.testing.assert_allclose(offsets, pca.transform(own[there]), atol=1e-10)
    share = pca.explained_variance_ratio_.sum()
    assert display.ax_.get_title().endswith(
        f"PCA, {100 * share:.0f} % of their variance"
    )
    assert legend_labels(display) == [list(MODALITIES), ["ant", "bee", "cow"]]


def test_map_has_a_colour_a_class_and_a_marker_a_modality():
    _, y = planted()
    display = drawn("map", y=True)
    edges = {}
    for name, points in display.points_.items():
        there = ~np.isnan(display.positions_[name][:, 0])
        for label, colour in zip(y[there], points.get_edgecolors(), strict=True):
            edges.setdefault(label, set()).add(tuple(colour))
    assert [len(found) for found in edges.values()] == [1, 1, 1]
    assert len(set.union(*edges.values())) == 3
    for k, points in enumerate(display.points_.values()):
        marker = mpl.markers.MarkerStyle(MARKERS[k])
        expected = marker.get_path().transformed(marker.get_transform())
        (path,) = points.get_paths()
        np.testing.assert_allclose(path.vertices, expected.vertices)


def test_without_classes_a_colour_is_a_modality():
    display = drawn("map")
    colours = [points.get_edgecolors() for points in display.points_.values()]
    assert [len(np.unique(one, axis=0)) for one in colours] == [1, 1, 1]
    assert len({tuple(one[0]) for one in colours}) == 3
    assert legend_labels(display) == [list(MODALITIES)]


def test_lines_join_the_codes_of_a_row():
    display = drawn("map", pairs=True)
    places = np.stack(list(display.positions_.values()))
    # Rows with one modality have no line; here all have two or three.
    n_codes = int((~np.isnan(places[..., 0])).sum())
    segments = np.array(display.pairs_.get_segments())
    assert segments.shape == (n_codes, 2, 2)
    middle = np.nanmean(places, axis=0)
    ends = np.unique(np.round(segments[:, 1], 8), axis=0)
    np.testing.assert_allclose(ends, np.unique(np.round(middle, 8), axis=0))
    np.testing.assert_array_equal(segments[0, 0], places[0, 1])
    assert drawn("map").pairs_ is None


def test_a_row_with_one_code_has_no_line():
    codes = {"a": np.eye(3), "b": np.vstack([np.full((2, 3), np.nan), np.ones(3)])}
    display = SharedCodeDisplay(codes).plot(pairs=True)
    assert len(display.pairs_.get_segments()) == 2


def test_embeddings():
    given = KernelPCA(2)
    display = drawn("map", embedding=given)
    assert display.ax_.get_title().endswith("KernelPCA")
    assert not hasattr(given, "eigenvalues_"), "the transformer is cloned"
    one, again = (drawn("map", embedding="tsne", random_state=0) for _ in range(2))
    assert one.ax_.get_title().endswith("t-SNE")
    np.testing.assert_array_equal(one.positions_["text"], again.positions_["text"])


def test_codes_of_one_dimension_and_of_few_rows():
    display = SharedCodeDisplay({"a": [[0.0], [1.0]], "b": [[2.0], [np.nan]]}).plot()
    assert (np.concatenate(list(display.positions_.values()))[:3, 1] == 0).all()
    display = SharedCodeDisplay({"a": np.eye(3)}).plot(embedding="tsne")
    assert display.positions_["a"].shape == (3, 2)


@pytest.mark.parametrize("n_classes", [10, 20, 40])
def test_many_classes_have_different_colours(n_classes):
    rng = np.random.default_rng(0)
    codes = {"a": rng.normal(size=(n_classes, 3))}
    display = SharedCodeDisplay(codes, y=np.arange(n_classes)).plot()
    assert len(np.unique(display.points_["a"].get_edgecolors(), axis=0)) == n_classes


# ---------------------------------------------------------------- distances
def test_distances_are_those_of_the_estimator_without_nan():
    X, _ = planted()
    display = drawn("distances", between=("text", "image"))
    expected = fitted().pairwise_w2(X, "text", "image")
    np.testing.assert_array_equal(display.distances, expected)
    both = ~np.isnan(np.diag(expected))
    assert both.sum() == 16
    n_seen = int((~np.isnan(expected)).sum())
    assert legend_labels(display) == [["paired\n(16)", f"unpaired\n({n_seen - 16})"]]
    for patch in display.histograms_.values():
        heights, edges, _ = patch.get_data()
        # The area of a density is one.
        np.testing.assert_allclose((heights * np.diff(edges)).sum(), 1)
    classes = drawn("distances", y=True, between=("text", "image"))
    assert list(classes.histograms_) == ["paired", "same class", "other class"]
    assert classes.nearer_ == display.nearer_


def test_share_of_comparisons_in_which_pairs_are_nearer():
    distances = np.array([[1.0, 2, 9], [0, 3, 9], [np.nan, 9, np.nan]])
    display = SharedCodeDisplay(distances=distances).plot(kind="distances")
    # Pairs 1 and 3 against 2, 9, 0, 9, 9: nearer in 4 and in 3 of 5.
    assert display.nearer_ == pytest.approx(7 / 10)
    assert display.ax_.get_title().endswith("nearer in 70 % of comparisons")


def test_classes_are_means_without_pairs():
    X, y = planted()
    display = drawn("classes", between=("image", "track"))
    distances = fitted().pairwise_w2(X, "image", "track")
    np.fill_diagonal(distances, np.nan)
    assert display.classes_.tolist() == ["ant", "bee", "cow"]
    for i, one in enumerate(display.classes_):
        for j, other in enumerate(display.classes_):
            expected = np.nanmean(distances[np.ix_(y == one, y == other)])
            np.testing.assert_allclose(display.class_distances_[i, j], expected)
    np.testing.assert_array_equal(display.image_.get_array(), display.class_distances_)
    assert tick_labels(display.ax_.yaxis) == ["ant", "bee", "cow"]
    assert (display.ax_.get_ylabel(), display.ax_.get_xlabel()) == ("image", "track")
    assert len(display.ax_.texts) == 9


def test_a_class_with_one_row_has_no_distance_from_itself():
    distances = np.arange(9.0).reshape(3, 3)
    display = SharedCodeDisplay(distances=distances, y=[0, 1, 1]).plot(kind="classes")
    np.testing.assert_array_equal(
        display.class_distances_, [[np.nan, 1.5], [4.5, (5 + 7) / 2]]
    )
    assert display.image_.get_array().mask[0, 0]
    assert len(display.ax_.texts) == 3


# ---------------------------------------------------------------- generation
def test_generation_draws_what_the_estimator_generates():
    X, _ = planted()
    display = drawn(
        "generation",
        from_="image",
        to="track",
        rows=[5, 2],
        n_samples=3,
        random_state=1,
    )
    assert display.axes_.shape == (4, 2)
    expected = fitted().generate(
        X[[5, 2]], "image", "track", n_samples=3, random_state=1
    )
    np.testing.assert_array_equal(display.generated["track"], expected)
    np.testing.assert_array_equal(display.given["image"], X[[5, 2], :4])
    for column, row in enumerate([5, 2]):
        (picture,) = display.axes_[0, column].images
        np.testing.assert_array_equal(picture.get_array(), X[row, :4].reshape(2, 2))
        for k in range(3):
            lines = display.axes_[1 + k, column].lines
            found = np.stack([line.get_ydata() for line in lines], axis=1)
            np.testing.assert_array_equal(found, expected[k, column].reshape(2, 2))
    labels = [axis.get_ylabel() for axis in display.axes_[:, 0]]
    assert labels == ["image\ngiven"] + [f"track\ndraw {k}" for k in (1, 2, 3)]


def test_generation_picks_rows_that_have_what_is_needed():
    X, _ = planted()
    display = drawn("generation", from_="image", n_samples=1)
    assert display.axes_.shape == (2, 8)
    has = ~np.isnan(X[:, 0])
    np.testing.assert_array_equal(display.given["image"], X[has][:8, :4])
    assert list(display.generated) == ["text"]
    display = drawn("generation", y=True, from_="image", n_samples=1)
    titles = [axis.get_title() for axis in display.axes_[0]]
    assert titles == ["ant", "bee", "cow"]
    # Row 0 is the first ant, and lacks its image.
    np.testing.assert_array_equal(display.given["image"], X[[3, 1, 2], :4])
    display = drawn("generation", to="text", private="posterior", n_samples=1)
    both = has & ~np.isnan(X[:, 4])
    np.testing.assert_array_equal(display.given["image"], X[both][:8, :4])


def test_generation_from_several_leaves_empty_what_a_row_lacks():
    display = drawn(
        "generation", from_=["image", "text"], rows=[0, 2], n_samples=1, legend=False
    )
    assert list(display.given) == ["image", "text"]
    assert list(display.generated) == ["track"]
    assert not display.axes_[0, 0].images and display.axes_[0, 1].images
    assert display.axes_[1, 0].lines


def test_own_drawing_gets_values_in_their_shape():
    seen = []

    def draw(axis, values):
        seen.append(values)
        axis.plot(*values.T)

    display = drawn(
        "generation", from_="text", to="track", rows=[0], draw={"track": draw}
    )
    assert [values.shape for values in seen] == [(2, 2)] * 4
    np.testing.assert_array_equal(
        [values.ravel() for values in seen], display.generated["track"][:, 0]
    )
    assert len(display.axes_[0, 0].lines) == 1


@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_pictures_share_their_limits(n_channels):
    rng = np.random.default_rng(0)
    given = rng.normal(size=(2, n_channels * 4))
    shape = (n_channels, 2, 2)
    display = SharedCodeDisplay(
        given={"a": given}, generated={"a": 3 * given[None]}, shapes={"a": shape}
    ).plot(kind="generation")
    pictures = [axis.images[0] for axis in display.axes_.ravel()]
    assert len({picture.get_clim() for picture in pictures}) == 1
    if n_channels == 3:
        values = np.stack([picture.get_array() for picture in pictures])
        assert values.min() == 0 and values.max() == 1


def test_constant_and_missing_values_are_drawn():
    given = {"a": np.zeros((2, 3)), "b": np.full((2, 3), np.nan)}
    display = SharedCodeDisplay(given=given, generated={"c": np.ones((1, 2, 4))})
    display.plot(kind="generation").figure_.canvas.draw()
    assert display.axes_.shape == (3, 2) and not display.axes_[1, 0].lines


# ---------------------------------------------------------------- figures
@pytest.mark.parametrize("kind", KINDS)
def test_draws_on_given_axes(kind):
    rows = {"rows": [2, 3], "n_samples": 1} if kind == "generation" else {}
    shape = (2, 2) if kind == "generation" else (1, 1)
    figure, axes = plt.subplots(*shape, layout="constrained", squeeze=False)
    display = drawn(kind, ax=axes, **rows)
    assert display.figure_ is figure and display.ax_ is axes[0, 0]
    np.testing.assert_array_equal(np.ravel(display.axes_), np.ravel(axes))
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()


@pytest.mark.parametrize("kind", ["map", "distances"])
def test_legends_lie_inside_the_figure_and_beside_the_panel(kind):
    X, y = planted()
    long = np.char.add(y, " with a rather long name")
    display = SharedCodeDisplay.from_estimator(fitted(), X, long, kind=kind)
    display.figure_.canvas.draw()
    assert display.legends_
    for legend in display.legends_:
        box = legend.get_window_extent()
        assert box.x1 <= display.figure_.bbox.x1
        assert not box.overlaps(display.ax_.bbox)
    assert len(drawn(kind, legend=False).figure_.axes) == 1


def test_takes_a_frame():
    pd = pytest.importorskip("pandas")
    X, y = planted()
    names = [f"{name}__{k}" for name in ("image", "text") for k in range(4)]
    frame = pd.DataFrame(X[:, :8], columns=names)
    encoder = DCMEMEncoder(n_components=2, hidden=(4,), max_epochs=1, random_state=0)
    encoder.fit(frame)
    for kind in KINDS:
        display = SharedCodeDisplay.from_estimator(
            encoder, frame, pd.Series(y, index=range(5, 29)), kind=kind, n_samples=1
        )
        display.figure_.canvas.draw()
    assert list(display.generated) == ["text"]


def test_one_modality_has_a_map():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3))
    encoder = DCMEMEncoder(None, n_components=2, hidden=(4,), max_epochs=1).fit(X)
    display = SharedCodeDisplay.from_estimator(encoder, X)
    assert len(display.points_) == 1
    with pytest.raises(ValueError, match="between: expected two names .*got None"):
        SharedCodeDisplay.from_estimator(encoder, X, kind="distances")
    with pytest.raises(ValueError, match="estimator: expected two modalities or more"):
        SharedCodeDisplay.from_estimator(encoder, X, kind="generation")


def test_leaves_no_global_state(global_rng_untouched):
    before = dict(mpl.rcParams)
    for kind in KINDS:
        drawn(kind, rows=[2] if kind == "generation" else None, random_state=0)
    assert dict(mpl.rcParams) == before


# ---------------------------------------------------------------- refusals
def test_not_fitted():
    with pytest.raises(NotFittedError, match="DCMEMEncoder instance is not fitted"):
        SharedCodeDisplay.from_estimator(DCMEMEncoder(), [[0.0]])


def test_an_estimator_without_shared_codes():
    X = np.random.default_rng(0).normal(size=(20, 4))
    model = TCMaxClassifier([2, 2], max_epochs=1).fit(X, np.arange(20) % 2)
    with pytest.raises(TypeError, match="estimator: .*got TCMaxClassifier without tra"):
        SharedCodeDisplay.from_estimator(model, X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "all"}, "kind: expected one of .*got 'all'"),
        ({"kind": "distances", "between": ("image", "x")}, "between: .*among .*image"),
        ({"kind": "classes", "between": "image"}, "between: .*got 'image'. Pass"),
        ({"kind": "generation", "from_": "x"}, "from_: expected among .*got 'x'. Cho"),
        ({"kind": "generation", "to": "x"}, "to: expected among .*got 'x'. Choose"),
        (
            {"kind": "generation", "from_": list(MODALITIES)},
            "to: expected the name of a modality .*got None",
        ),
        ({"kind": "generation", "n_samples": 0}, "n_samples: expected a positive int"),
        ({"kind": "generation", "rows": [24]}, r"rows: .*0 to 23, got \[24\]. Pass"),
        ({"kind": "generation", "rows": []}, r"rows: .*got \[\]. Pass numbers"),
        (
            {"kind": "generation", "rows": [1, 6]},
            r"rows: expected rows that have image, got \[6\], which lack it",
        ),
        (
            {"kind": "generation", "rows": [0, 1, 2], "private": "posterior"},
            r"rows: expected rows that have image, and text, got \[0, 1\]",
        ),
        ({"embedding": "umap"}, "embedding: expected 'pca', 'tsne' or .*got 'umap'"),
        ({"embedding": PCA}, "embedding: .* Pass an object with fit_transform"),
        ({"embedding": PCA(3)}, r"embedding: .*gives \(\d+, 2\), got \(\d+, 3\)"),
        ({"y": ["a"]}, r"y: expected shape \(24,\), .*got \(1,\). Pass the"),
        ({"kind": "generation", "y": ["a"]}, r"y: expected shape \(24,\), .*got \(1,"),
    ],
)
def test_what_from_estimator_refuses(options, message):
    X, _ = planted()
    with pytest.raises(ValueError, match=message):
        SharedCodeDisplay.from_estimator(fitted(), X, **options)


def test_classes_need_y():
    X, _ = planted()
    with pytest.raises(ValueError, match="y: expected an array for kind='classes'"):
        SharedCodeDisplay.from_estimator(fitted(), X, kind="classes")


def test_no_row_to_generate_from():
    X, _ = planted()
    with pytest.raises(ValueError, match="X: expected rows that have image, got none"):
        SharedCodeDisplay.from_estimator(fitted(), X[::6], kind="generation")


ONE = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"codes": ONE}, TypeError, "codes: expected a dict .*got ndarray. Pass"),
        ({"codes": {}}, TypeError, "codes: expected a dict .*got dict. Pass"),
        ({"codes": {"a": [0]}}, ValueError, r"codes: .*for 'a', .*got \(1,\)"),
        (
            {"codes": {"a": ONE, "b": ONE[:, :2]}},
            ValueError,
            r"codes: .*for 'b', .*got \(2, 2\)",
        ),
        ({"codes": {"a": ONE + np.inf}}, ValueError, "codes: .*infinity for 'a'"),
        ({"given": {"a": ONE, "b": ONE[:1]}}, ValueError, r"given: .*got \(1, 3\)"),
        ({"generated": {"a": ONE}}, ValueError, r"generated: .*got \(2, 3\)"),
        ({"distances": ONE}, ValueError, r"distances: expected shape .*got \(2, 3\)"),
        ({"distances": -np.eye(2)}, ValueError, "distances: .*>= 0 .*got -1 to"),
        (
            {"codes": {"a": ONE}, "distances": np.eye(3)},
            ValueError,
            "distances: expected 2 rows, as codes has, got 3",
        ),
        ({"codes": {"a": ONE}, "y": [0]}, ValueError, r"y: expected shape \(2,\)"),
        ({"y": [[0]]}, ValueError, r"y: expected shape \(n_samples,\), .*got \(1, 1"),
        ({"between": "ab"}, ValueError, "between: expected two names .*got 'ab'"),
        (
            {"given": {"a": ONE}, "shapes": {"a": (1, 2, 2)}},
            ValueError,
            r"shapes: expected shapes of .*got \(1, 2, 2\) for 'a'",
        ),
    ],
)
def test_what_the_constructor_refuses(given, error, message):
    with pytest.raises(error, match=message):
        SharedCodeDisplay(**given)


def test_what_plot_refuses():
    display = SharedCodeDisplay({"a": ONE}, given={"a": ONE})
    with pytest.raises(ValueError, match="generated: expected an array for kind='gen"):
        display.plot(kind="generation")
    with pytest.raises(ValueError, match="distances: expected an array .*got None. P"):
        display.plot(kind="distances")
    display = SharedCodeDisplay(
        {"a": ONE * np.nan}, given={"a": ONE}, generated={"a": ONE[None]}
    )
    with pytest.raises(ValueError, match="codes: expected at least two .*got 0. Pass"):
        display.plot()
    with pytest.raises(TypeError, match="draw: expected a dict of .*got function. P"):
        display.plot(kind="generation", draw=lambda axis, values: None)
    _, axes = plt.subplots(1, 3)
    with pytest.raises(ValueError, match=r"ax: expected 4 Axes, .*fewer rows"):
        display.plot(kind="generation", ax=axes)
    with pytest.raises(ValueError, match=r"ax: expected 1 Axes"):
        SharedCodeDisplay({"a": np.eye(2)}).plot(ax=axes)
    display = SharedCodeDisplay(distances=np.full((2, 2), np.nan), y=[0, 1])
    with pytest.raises(
        ValueError, match="distances: expected pairs .*got 0 pairs of 0"
    ):
        display.plot(kind="distances")
    with pytest.raises(ValueError, match="distances: expected some .*got only NaN"):
        display.plot(kind="classes")
