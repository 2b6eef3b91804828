"""The display of precision matrices: what is drawn, not how it looks."""

from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from sklearn.base import BaseEstimator
from sklearn.covariance import GraphicalLasso
from sklearn.exceptions import NotFittedError

from skmm.plotting import PrecisionGraphDisplay
from skmm.plotting._circle import edge_curves, node_angles, spread
from skmm.plotting._graph import Circle, labelled
from skmm.plotting._panels import Nodes
from skmm.plotting._style import POSITIVE


@pytest.fixture(autouse=True)
def figures_closed(monkeypatch):
    """Draw without a screen, and leave no figure behind."""
    before = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def planted(n_nodes=12, n_classes=3, density=0.3, density_specific=0.08, seed=0):
    """A common and specific parts with exact zeros, positive definite in sum."""
    rng = np.random.default_rng(seed)

    def part(share):
        values = rng.uniform(0.2, 1, (n_nodes, n_nodes))
        values *= rng.choice([-1, 1], (n_nodes, n_nodes))
        kept = np.triu(values * (rng.random((n_nodes, n_nodes)) < share), 1)
        return kept + kept.T

    common = part(density)
    specific = np.array([part(density_specific) for _ in range(n_classes)])
    diagonal = np.abs(common + specific).sum(axis=-1).max(axis=0) + 1
    return common + np.diag(diagonal), specific


class FakeLasso(BaseEstimator):
    """An estimator with the fitted attributes of a graphical lasso."""

    def __init__(self, n_classes=3, n_nodes=12):
        self.n_classes = n_classes
        self.n_nodes = n_nodes

    def fit(self, X=None, y=None):
        common, specific = planted(self.n_nodes, max(self.n_classes, 1))
        self.common_precision_, self.specific_precision_ = common, specific
        self.precision_ = common + specific
        self.classes_ = np.array(["setosa", "versicolor", "virginica"])
        self.classes_ = self.classes_[: self.n_classes]
        if self.n_classes == 0:
            del self.classes_
            self.precision_ = common
            self.specific_precision_ = np.zeros_like(common)
        owners = ["image", "text", "audio"] * (self.n_nodes // 3)
        self.node_modalities_ = np.array(owners)
        return self

    def get_feature_names_out(self, input_features=None):
        return np.array(
            [f"{owner}__v{j}" for j, owner in enumerate(self.node_modalities_)]
        )


def n_edges(matrix):
    return np.count_nonzero(np.triu(matrix, 1))


def texts(axis):
    return [text.get_text() for text in axis.texts]


@pytest.mark.parametrize("n_nodes", [12, 60])
def test_draws_each_edge_once(n_nodes):
    lasso = FakeLasso(n_nodes=n_nodes).fit()
    display = PrecisionGraphDisplay.from_estimator(lasso)
    parts = [lasso.common_precision_, *lasso.specific_precision_]
    counts = [len(collection.get_segments()) for collection in display.edges_]
    assert counts == [n_edges(part) for part in parts]
    assert display.axes_.shape == (4,) and display.ax_ is display.axes_[0]
    titles = [axis.get_title() for axis in display.axes_]
    assert titles[0] == f"shared by all classes ({counts[0]} edges)"
    assert titles[1] == f"class 'setosa' only ({counts[1]} edges)"
    display.figure_.canvas.draw()


def test_width_opacity_and_sign_follow_the_partial_correlation():
    common, specific = planted(n_classes=2)
    theta = common + specific
    display = PrecisionGraphDisplay(theta, common=common).plot()
    diagonal = np.diagonal(theta, axis1=1, axis2=2)
    scales = [diagonal.mean(axis=0), *diagonal]
    known = []
    for part, scale, drawn in zip(
        [common, *specific], scales, display.edges_, strict=True
    ):
        rho = -part / np.sqrt(np.outer(scale, scale))
        values = rho[np.triu(rho, 1) != 0]
        values = values[np.argsort(np.abs(values))]
        known += zip(
            values,
            drawn.get_linewidths(),
            drawn.get_colors(),
            drawn.get_linestyles(),
            strict=True,
        )
    known.sort(key=lambda edge: abs(edge[0]))
    values, widths, colours, styles = zip(*known, strict=True)
    assert (np.diff(widths) > 0).all(), "one scale for all panels"
    assert (np.diff(np.array(colours)[:, 3]) > 0).all()
    blue = [np.allclose(colour[:3], to_rgb(POSITIVE)) for colour in colours]
    assert blue == [value > 0 for value in values]
    assert [pattern is None for _, pattern in styles] == blue


def test_curves_end_at_their_nodes_and_stay_in_the_circle():
    display = PrecisionGraphDisplay.from_estimator(FakeLasso().fit())
    for collection in display.edges_:
        for segment in collection.get_segments():
            ends = segment[[0, -1]]
            gaps = np.linalg.norm(ends[:, None] - display.positions_, axis=-1)
            np.testing.assert_allclose(gaps.min(axis=1), 0, atol=1e-12)
            assert np.linalg.norm(segment, axis=1).max() <= 1 + 1e-12


def test_edges_within_a_modality_stay_near_the_rim_and_others_do_not():
    codes = np.repeat([0, 1], 8)
    rows, columns = np.triu_indices(16, 1)
    curves = edge_curves(node_angles(codes), codes, rows, columns)
    nearest = np.linalg.norm(curves, axis=-1).min(axis=1)
    within = codes[rows] == codes[columns]
    assert nearest[within].min() > 0.6
    # Every chord comes nearer to the centre than the straight line would.
    straight = np.linalg.norm((curves[:, 0] + curves[:, -1]) / 2, axis=-1)
    assert (nearest[~within] <= straight[~within] + 1e-12).all()
    assert nearest[~within].max() < 0.7


@pytest.mark.parametrize("n_nodes", [12, 60])
def test_nodes_stand_at_the_same_places_in_all_panels(n_nodes):
    lasso = FakeLasso(n_nodes=n_nodes).fit()
    display = PrecisionGraphDisplay.from_estimator(lasso)
    for axis in display.axes_:
        points = np.concatenate(
            [
                collection.get_offsets()
                for collection in axis.collections
                if isinstance(collection, mpl.collections.PathCollection)
            ]
        )
        # Drawn modality by modality.
        order = Nodes.of(lasso.get_feature_names_out(), lasso.node_modalities_).order
        np.testing.assert_allclose(points, display.positions_[order], atol=1e-12)
        assert axis.get_xlim() == display.ax_.get_xlim()
    again = PrecisionGraphDisplay.from_estimator(lasso)
    np.testing.assert_array_equal(display.positions_, again.positions_)


def test_each_modality_is_one_arc():
    lasso = FakeLasso().fit()
    display = PrecisionGraphDisplay.from_estimator(lasso)
    x, y = display.positions_.T
    clockwise = np.argsort((np.pi / 2 - np.arctan2(y, x)) % (2 * np.pi))
    owners = lasso.node_modalities_[clockwise].tolist()
    assert owners == ["image"] * 4 + ["text"] * 4 + ["audio"] * 4


@pytest.mark.parametrize("kind", ["graph", "matrix"])
def test_legend_names_the_modalities(kind):
    display = PrecisionGraphDisplay.from_estimator(FakeLasso().fit(), kind=kind)
    entries = [text.get_text() for text in display.legends_[0].get_texts()]
    assert entries == ["image", "text", "audio"]
    without = PrecisionGraphDisplay.from_estimator(
        FakeLasso().fit(), kind=kind, legend=False
    )
    assert without.legends_ == [] and len(without.figure_.axes) == 4


def test_legend_shows_round_values_of_the_signs_that_occur():
    theta = np.array([[1, -0.34, 0], [-0.34, 1, 0], [0, 0, 1.0]])
    display = PrecisionGraphDisplay(theta).plot()
    entries = [text.get_text() for text in display.legends_[-1].get_texts()]
    assert entries == ["+0.3", "+0.2", "+0.1"]
    display = PrecisionGraphDisplay(2 * np.eye(3) - theta).plot()
    entries = [text.get_text() for text in display.legends_[-1].get_texts()]
    assert entries == ["−0.1", "−0.2", "−0.3"]  # noqa: RUF001


def test_more_modalities_than_colours_are_told_apart():
    names = [f"m{k}" for k in range(20)]
    display = PrecisionGraphDisplay(np.eye(40), modalities=np.repeat(names, 2)).plot()
    (legend,) = display.legends_
    assert [text.get_text() for text in legend.get_texts()] == names
    looks = {(one.get_color(), one.get_marker()) for one in legend.legend_handles}
    assert len(looks) == 20
    box = legend.get_window_extent()
    assert box.x1 <= display.figure_.bbox.x1 and box.y0 >= 0


@pytest.mark.parametrize("kind", ["graph", "matrix"])
def test_one_matrix_makes_one_panel(kind):
    lasso = FakeLasso(n_classes=0).fit()
    display = PrecisionGraphDisplay.from_estimator(lasso, kind=kind)
    (axis,) = display.axes_
    assert axis.get_title() == f"{n_edges(lasso.precision_)} edges"
    display.figure_.canvas.draw()


def test_takes_estimators_of_scikit_learn():
    X = np.random.default_rng(0).normal(size=(50, 4))
    display = PrecisionGraphDisplay.from_estimator(GraphicalLasso(0.05).fit(X))
    assert texts(display.ax_) == ["x0", "x1", "x2", "x3"]
    assert display.modalities is None


def test_modalities_from_indices_where_no_column_is_dropped():
    lasso = FakeLasso().fit()
    del lasso.node_modalities_
    lasso.get_feature_names_out = lambda: ["only", "two"]
    lasso.modality_indices_ = {"a": np.arange(0, 5), "b": np.arange(5, 12)}
    display = PrecisionGraphDisplay.from_estimator(lasso)
    assert display.modalities == ["a"] * 5 + ["b"] * 7
    assert display.feature_names[0] == "x0"
    lasso.modality_indices_ = {"a": np.arange(0, 5), "b": np.arange(6, 13)}
    assert PrecisionGraphDisplay.from_estimator(lasso).modalities is None


@pytest.mark.parametrize("kind", ["graph", "matrix"])
@pytest.mark.parametrize("n_nodes", [1, 2, 40])
def test_without_edges_the_nodes_are_drawn_and_the_title_says_so(kind, n_nodes):
    precision = np.stack([np.eye(n_nodes)] * 2)
    display = PrecisionGraphDisplay(precision, common=np.eye(n_nodes)).plot(kind=kind)
    titles = [axis.get_title() for axis in display.axes_]
    assert titles[0] == "shared by all classes (no edges)"
    assert titles[2] == "class 1 only (no edges)"
    display.figure_.canvas.draw()


def test_without_a_common_part_each_class_is_drawn_whole():
    common, specific = planted(n_classes=2)
    display = PrecisionGraphDisplay(common + specific, class_names=["a", "b"]).plot()
    counts = [n_edges(theta) for theta in common + specific]
    titles = [axis.get_title() for axis in display.axes_]
    expected = zip("ab", counts, strict=True)
    assert titles == [f"class '{c}' ({n} edges)" for c, n in expected]


def test_threshold_hides_and_says_so():
    theta = np.eye(3) + np.diag([-0.3, 0.1], 1) + np.diag([-0.3, 0.1], -1)
    display = PrecisionGraphDisplay(theta).plot(threshold=0.2)
    assert display.ax_.get_title() == "1 of 2 edges"
    assert len(display.edges_[0].get_segments()) == 1


def test_classes_are_chosen_and_ordered():
    lasso = FakeLasso().fit()
    display = PrecisionGraphDisplay.from_estimator(
        lasso, classes=["virginica", "setosa"]
    )
    titles = [axis.get_title().split(" (")[0] for axis in display.axes_]
    assert titles[1:] == ["class 'virginica' only", "class 'setosa' only"]
    display = PrecisionGraphDisplay.from_estimator(lasso, classes="setosa")
    assert len(display.axes_) == 2
    assert len(PrecisionGraphDisplay.from_estimator(lasso, classes=[]).axes_) == 1


@pytest.mark.parametrize("kind", ["graph", "matrix"])
def test_draws_on_given_axes(kind):
    figure, axes = plt.subplots(2, 2, layout="constrained")
    display = PrecisionGraphDisplay.from_estimator(
        FakeLasso().fit(), ax=axes, kind=kind
    )
    assert display.figure_ is figure
    assert list(display.axes_) == list(axes.ravel())
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()


@pytest.mark.parametrize("kind", ["graph", "matrix"])
def test_legends_lie_inside_the_figure_and_beside_the_panels(kind):
    _, axes = plt.subplots(1, 2, layout="constrained", figsize=(8, 3))
    lasso = FakeLasso(n_classes=2).fit()
    given = PrecisionGraphDisplay.from_estimator(
        lasso, ax=axes[1], classes=[], kind=kind
    )
    new = PrecisionGraphDisplay.from_estimator(lasso, kind=kind)
    for display in (given, new):
        display.figure_.canvas.draw()
        boxes = [legend.get_window_extent() for legend in display.legends_]
        for box in boxes:
            assert box.x0 >= 0 and box.x1 <= display.figure_.bbox.x1
            assert not any(box.overlaps(axis.bbox) for axis in display.axes_)
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_inner_panels_of_a_new_grid_have_no_labels():
    lasso = FakeLasso().fit()
    display = PrecisionGraphDisplay.from_estimator(lasso, kind="matrix")
    sides = [
        (axis.yaxis.get_tick_params()["labelleft"], axis.xaxis.get_tick_params())
        for axis in display.axes_
    ]
    shown = [(left, below["labelbottom"]) for left, below in sides]
    assert shown == [(True, False), (False, False), (True, True), (False, True)]


def test_draws_on_a_subfigure():
    figure = plt.figure(layout="constrained")
    _, right = figure.subfigures(1, 2)
    display = PrecisionGraphDisplay(np.eye(3)).plot(ax=right.subplots())
    assert display.figure_ is right


def test_leaves_no_global_state(global_rng_untouched):
    before = dict(mpl.rcParams)
    PrecisionGraphDisplay.from_estimator(FakeLasso().fit())
    assert dict(mpl.rcParams) == before


def test_matrix_is_ordered_by_modality_on_one_scale():
    lasso = FakeLasso().fit()
    display = PrecisionGraphDisplay.from_estimator(lasso, kind="matrix")
    order = np.argsort(np.arange(12) % 3, kind="stable")
    d = np.diagonal(lasso.precision_, axis1=1, axis2=2).mean(axis=0)
    expected = -lasso.common_precision_ / np.sqrt(np.outer(d, d))
    np.fill_diagonal(expected, 0)
    shown = display.images_[0].get_array()
    np.testing.assert_allclose(shown.filled(0), expected[np.ix_(order, order)])
    assert (shown.mask == (shown.filled(0) == 0)).all()
    limits = {image.get_clim() for image in display.images_}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high


def test_vmax_is_kept_for_comparison():
    lasso = FakeLasso().fit()
    wide = PrecisionGraphDisplay.from_estimator(lasso)
    narrow = PrecisionGraphDisplay.from_estimator(lasso, vmax=1.0)
    pairs = zip(wide.edges_, narrow.edges_, strict=True)
    assert all((a.get_linewidths() > b.get_linewidths()).all() for a, b in pairs)
    image = PrecisionGraphDisplay.from_estimator(lasso, kind="matrix", vmax=1.0)
    assert image.images_[0].get_clim() == (-1, 1)


def test_labels_of_few_nodes_and_of_the_most_connected():
    few = PrecisionGraphDisplay.from_estimator(FakeLasso().fit())
    assert texts(few.ax_) == [f"v{j}" for j in range(12)], "the modality is left out"
    none = PrecisionGraphDisplay.from_estimator(FakeLasso().fit(), max_labels=0)
    assert set(texts(none.ax_)) <= {"image", "text", "audio"}
    star = 10 * np.eye(50)
    star[7, 20:] = star[20:, 7] = -1
    star[8, 9] = star[9, 8] = -1
    display = PrecisionGraphDisplay(star).plot(max_labels=1)
    assert texts(display.ax_) == ["x7"]


def test_far_labels_keep_apart_and_clear_of_names():
    common, specific = planted(n_nodes=150, n_classes=2, density=0.02)
    modalities = np.repeat(["one", "another"], [100, 50])
    display = PrecisionGraphDisplay(common + specific, common=common)
    nodes = Nodes.of(display.feature_names, modalities)
    panel = display._panels(None, 0.0)[0]
    chosen = labelled(panel, 40)
    circle = Circle(nodes, [chosen], side=240.0)
    placed = circle.label_angles(panel, chosen)
    assert 20 < len(placed) <= 40
    angles = np.sort(np.pi / 2 - np.array(list(placed.values()))) % (2 * np.pi)
    angles = np.sort(angles)
    apart = 1.4 * circle.font_size / (circle.far * circle.unit)
    around = np.append(np.diff(angles), angles[0] + 2 * np.pi - angles[-1])
    assert around.min() >= apart - 1e-9
    assert len(circle.named) == 2
    for middle, half in circle.named.values():
        away = np.abs((angles - middle + np.pi) % (2 * np.pi) - np.pi)
        assert away.min() >= half + apart / 2 - 1e-9


def test_spread_moves_no_more_than_it_must():
    far_apart = np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(spread(far_apart, 0.5, -1, 3), far_apart)
    np.testing.assert_allclose(spread(np.zeros(3), 0.5, -1, 3), [-0.5, 0, 0.5])
    np.testing.assert_allclose(spread(np.zeros(3), 0.5, 0, 3), [0, 0.5, 1])
    assert spread(np.empty(0), 0.5, 0, 3).size == 0


def test_labels_stay_inside_their_panel():
    names = [f"a rather long name {j}" for j in range(12)]
    common, specific = planted(n_classes=2)
    display = PrecisionGraphDisplay(
        common + specific, common=common, feature_names=names
    ).plot()
    display.figure_.canvas.draw()
    for axis in display.axes_:
        panel = axis.get_window_extent()
        for text in axis.texts:
            box = text.get_window_extent()
            assert panel.x0 - 3 <= box.x0 and box.x1 <= panel.x1 + 3
            assert panel.y0 - 3 <= box.y0 and box.y1 <= panel.y1 + 3


def test_ten_thousand_edges_are_one_collection():
    common, _ = planted(n_nodes=200, n_classes=1, density=0.5)
    display = PrecisionGraphDisplay(common).plot()
    assert len(display.edges_[0].get_segments()) == n_edges(common) > 9000
    display.figure_.canvas.draw()


def test_not_fitted():
    with pytest.raises(NotFittedError, match="FakeLasso instance is not fitted"):
        PrecisionGraphDisplay.from_estimator(FakeLasso())


def test_an_estimator_without_precision():
    lasso = FakeLasso().fit()
    del lasso.precision_
    with pytest.raises(TypeError, match="estimator: expected one with .* precision_"):
        PrecisionGraphDisplay.from_estimator(lasso)


@pytest.mark.parametrize(
    "changes, error, text",
    [
        ({"precision": np.eye(3)[:2]}, ValueError, r"precision: .*got \(2, 3\)"),
        ({"precision": np.eye(3) * np.nan}, ValueError, "precision: .*got NaN"),
        ({"precision": -np.eye(3)}, ValueError, "precision: expected a positive diag"),
        ({"precision": np.triu(np.ones((3, 3)))}, ValueError, "differ by up to 1 "),
        ({"common": np.eye(3)}, ValueError, "common: expected None with one"),
        (
            {"precision": np.stack([np.eye(3)] * 2), "common": np.eye(4)},
            ValueError,
            r"common: expected shape \(3, 3\) .*got \(4, 4\)",
        ),
        ({"feature_names": ["a"]}, ValueError, "feature_names: expected 3 .*got 1"),
        ({"modalities": "text"}, TypeError, "modalities: .*got 'text'. Pass one"),
        ({"class_names": ["a"]}, ValueError, "class_names: expected 0 labels"),
    ],
)
def test_constructor_refuses(changes, error, text):
    with pytest.raises(error, match=text):
        PrecisionGraphDisplay(**{"precision": np.eye(3), **changes})


@pytest.mark.parametrize(
    "changes, error, text",
    [
        ({"kind": "tree"}, ValueError, "kind: expected one of .*got 'tree'"),
        ({"threshold": 1}, ValueError, r"threshold: expected .*\[0, 1\), got 1"),
        ({"max_labels": 2.5}, ValueError, "max_labels: .*got 2.5"),
        ({"vmax": 0}, ValueError, "vmax: expected a number > 0 or None, got 0"),
        ({"classes": ["c"]}, ValueError, r"classes: .*\['a', 'b'\], got 'c'"),
        ({"ax": "here"}, TypeError, "ax: expected matplotlib Axes .*got str"),
    ],
)
def test_plot_refuses(changes, error, text):
    precision = np.stack([np.eye(3)] * 2)
    display = PrecisionGraphDisplay(precision, class_names=["a", "b"])
    with pytest.raises(error, match=text):
        display.plot(**changes)
    assert not plt.get_fignums()


def test_wrong_number_of_axes():
    _, axes = plt.subplots(1, 2)
    with pytest.raises(ValueError, match="ax: expected 4 Axes.*got 2. Pass"):
        PrecisionGraphDisplay.from_estimator(FakeLasso().fit(), ax=axes)


def test_classes_that_do_not_exist():
    with pytest.raises(ValueError, match="classes: expected None, since there is one"):
        PrecisionGraphDisplay(np.eye(3)).plot(classes=[0])
    display = PrecisionGraphDisplay(np.stack([np.eye(3)] * 2))
    with pytest.raises(ValueError, match=r"classes: expected at least one of \[0, 1\]"):
        display.plot(classes=[])


def test_the_estimator_of_skmm():
    skmm = pytest.importorskip("skmm")
    if not hasattr(skmm, "CrossModalGraphicalLasso"):
        pytest.skip("CrossModalGraphicalLasso is not there")
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 6)), np.repeat([0, 1], 60)
    X[:, 3] += 0.8 * X[:, 0]
    X[y == 1, 4] += 0.8 * X[y == 1, 1]
    lasso = skmm.CrossModalGraphicalLasso(modalities={"a": [0, 1, 2], "b": [3, 4, 5]})
    lasso.fit(X, y)
    display = PrecisionGraphDisplay.from_estimator(lasso)
    parts = [lasso.common_precision_, *lasso.specific_precision_]
    counts = [len(collection.get_segments()) for collection in display.edges_]
    assert counts == [n_edges(part) for part in parts]
    entries = [text.get_text() for text in display.legends_[0].get_texts()]
    assert entries == ["a", "b"]
