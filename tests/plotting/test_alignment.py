"""The display of an alignment: what is drawn, not how it looks."""

from functools import cache

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from skmm import DecAlignClassifier, DecAlignTransformer, TCMaxClassifier
from skmm.metrics import modality_gap, recall_at_k
from skmm.plotting import AlignmentDisplay

MODALITIES = {"image": [0, 1, 2, 3], "text": [4, 5, 6], "track": [7, 8]}
PAIRS = [("image", "text"), ("image", "track"), ("text", "track")]
KINDS = ["plan", "common", "terms"]


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
    X = rng.normal(size=(n, 9)) + 4 * y[:, None]
    X[::6, :4] = np.nan
    X[1::6, 4:7] = np.nan
    return X, np.array(["ant", "bee", "cow"])[y]


@cache
def fitted(cls=DecAlignTransformer, **options):
    X, y = planted()
    model = cls(
        MODALITIES,
        n_components=4,
        hidden=(4,),
        n_heads=2,
        n_prototypes=3,
        max_epochs=3,
        random_state=0,
        **options,
    )
    return model.fit(X, y if cls is DecAlignClassifier else None)


def drawn(kind, y=None, **options):
    X, classes = planted()
    return AlignmentDisplay.from_estimator(
        fitted(), X, classes if y else None, kind=kind, **options
    )


def alone(X, name):
    """Rows with one modality; those that lack it have none."""
    only = np.full_like(X, np.nan)
    only[:, MODALITIES[name]] = X[:, MODALITIES[name]]
    return only


def labels_of(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def legend_labels(display):
    return [[t.get_text() for t in one.get_texts()] for one in display.legends_]


# ---------------------------------------------------------------- plans
def test_plan_is_weights_times_matches():
    display = drawn("plan")
    assert list(display.images_) == PAIRS
    names = list(MODALITIES)
    for (a, b), image in display.images_.items():
        i, j = names.index(a), names.index(b)
        weights = fitted().prototypes_[a]["weights"]
        plan = weights[:, None] * fitted().matches_[i, j]
        rows, columns = display.orders_[a, b]
        assert sorted(rows) == sorted(columns) == [0, 1, 2]
        shown = np.asarray(image.get_array())
        # Rounding of a division by the sum.
        np.testing.assert_allclose(
            shown, 100 * plan[np.ix_(rows, columns)] / plan.sum(), rtol=1e-12
        )
        right, above = display.margins_[a, b]
        lengths = np.array([bar.get_width() for bar in right])
        heights = np.array([-bar.get_height() for bar in above])
        unit = lengths.sum() / 100
        np.testing.assert_allclose(lengths / unit, shown.sum(axis=1), rtol=1e-9)
        np.testing.assert_allclose(heights / unit, shown.sum(axis=0), rtol=1e-9)
        assert display.matched_[a, b] == pytest.approx(np.trace(shown) / 100)
    axis = display.axes_[1]
    assert (axis.get_ylabel(), axis.get_xlabel()) == ("image", "track")
    rows, columns = display.orders_["image", "track"]
    assert labels_of(axis.yaxis) == [str(k) for k in rows]
    assert labels_of(axis.xaxis) == [str(k) for k in columns]


def test_one_pair_the_other_way_round():
    both = drawn("plan", between=("image", "text"))
    back = drawn("plan", between=["text", "image"])
    assert list(back.images_) == [("text", "image")]
    # The plan's marginals hold to the tolerance of its sweeps.
    np.testing.assert_allclose(
        back.plans["text", "image"], both.plans["image", "text"].T, atol=1e-5
    )


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 7), st.integers(0, 2**32 - 1))
def test_matched_prototypes_are_on_the_diagonal(k, seed):
    rng = np.random.default_rng(seed)
    partner = rng.permutation(k)
    plan = 0.1 * rng.uniform(size=(k, k))
    plan[np.arange(k), partner] += 1
    display = AlignmentDisplay({("a", "b"): plan}).plot(legend=False)
    plt.close("all")
    rows, columns = display.orders_["a", "b"]
    np.testing.assert_array_equal(columns, partner[rows])
    mass = plan.sum(axis=1)[rows]
    assert (np.diff(mass) <= 0).all()
    np.testing.assert_allclose(
        display.matched_["a", "b"], plan[np.arange(k), partner].sum() / plan.sum()
    )


@pytest.mark.parametrize("shape", [(2, 4), (4, 2)])
def test_prototypes_without_a_partner_come_last(shape):
    plan = np.full(shape, 0.01)
    plan[0, 1], plan[1, 0] = 1, 2
    display = AlignmentDisplay({("a", "b"): plan}).plot()
    rows, columns = display.orders_["a", "b"]
    assert rows[:2].tolist() == [1, 0] and columns[:2].tolist() == [0, 1]
    assert display.images_["a", "b"].get_array().shape == shape


def test_labels_order_rows_and_count_what_they_join():
    plan = [[0.1, 0.3, 0.0], [0.25, 0.0, 0.05], [0.0, 0.1, 0.2]]
    labels = {"a": [10, 9, 10], "b": [9, 10, 9]}
    display = AlignmentDisplay({("a", "b"): plan}, labels=labels).plot()
    rows, columns = display.orders_["a", "b"]
    # By label as a number, then by mass; columns 0, 1, 2 are the partners of 1, 0, 2.
    assert rows.tolist() == [1, 0, 2] and columns.tolist() == [0, 1, 2]
    assert labels_of(display.ax_.yaxis) == ["9", "10", "10"]
    assert labels_of(display.ax_.xaxis) == ["9", "10", "9"]
    # 9 and 9: 0.25 and 0.05; 10 and 10: 0.3 and 0.1.
    assert display.matched_["a", "b"] == pytest.approx(0.7)
    assert display.ax_.get_title().endswith("70 % of the mass joins equal labels")
    # Numbers of half a percent and more.
    numbers = [text.get_text() for text in display.ax_.texts]
    assert numbers == ["25", "5", "10", "30", "10", "20"]


def test_labels_are_classes_of_the_greatest_share():
    X, y = planted()
    display = drawn("plan", y=True)
    for name, columns in MODALITIES.items():
        has = ~np.isnan(X[:, columns[0]])
        shares = fitted().responsibilities(X[has], name)
        sums = [shares[y[has] == one].sum(axis=0) for one in ("ant", "bee", "cow")]
        expected = np.array(["ant", "bee", "cow"])[np.argmax(sums, axis=0)]
        np.testing.assert_array_equal(display.labels[name], expected)


def test_many_prototypes_have_no_numbers():
    plan = np.full((20, 20), 1 / 400) + np.eye(20)
    assert not AlignmentDisplay({("a", "b"): plan}).plot().ax_.texts


# ---------------------------------------------------------------- common parts
def test_common_places_what_transform_gives():
    X, _ = planted()
    before = fitted(homogeneity_weight=0, pair_weight=0)
    display = drawn("common", before=before, normalize=False)
    for key, model in (("before", before), ("after", fitted())):
        reader = DecAlignTransformer(**model.get_params()).set_params(output="common")
        vars(reader).update(
            {k: v for k, v in vars(model).items() if k not in vars(reader)}
        )
        parts = {}
        for name, columns in MODALITIES.items():
            has = ~np.isnan(X[:, columns[0]])
            parts[name] = reader.transform(alone(X, name)[has])
            assert np.isnan(display.positions_[key][name][~has]).all()
        pca = PCA(2).fit(np.concatenate(list(parts.values())))
        for name, one in parts.items():
            offsets = display.points_[key][name].get_offsets()
            # The two ways to compute a part differ by the rounding of float64, which
            # the projection passes on.
            np.testing.assert_allclose(offsets, pca.transform(one), atol=1e-8)
        gaps = [modality_gap(parts[a], parts[b], normalize=False) for a, b in PAIRS]
        assert display.gaps_[key] == pytest.approx(np.mean(gaps), rel=1e-6)
    assert [axis.get_title().split("\n")[0] for axis in display.axes_] == [
        "before",
        "after",
    ]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_gap_and_recall_are_those_of_the_metrics(normalize, seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(40, 5))
    b = a + 0.7 * rng.normal(size=a.shape) + 0.3
    gap = modality_gap(a, b[4:], normalize=normalize)
    metric = "cosine" if normalize else "euclidean"
    sides = (a[4:], b[4:]), (b[4:], a[4:])
    recall = np.mean([recall_at_k(*side, metric=metric) for side in sides])
    b[:4] = np.nan
    display = AlignmentDisplay(common={"a": a, "b": b})
    display.plot(kind="common", normalize=normalize)
    assert display.gaps_["after"] == pytest.approx(gap, rel=1e-10)
    assert display.recalls_["after"] == pytest.approx(recall)
    assert 0 < recall < 1, "else the two could agree by chance"
    assert f"gap {gap:.2f}, R@1 {100 * recall:.0f} % of 36" in display.ax_.get_title()


def test_recall_of_one_point_is_zero():
    parts = {"a": np.ones((5, 3)), "b": np.ones((5, 3))}
    parts["a"][0, 0] = 1.5
    display = AlignmentDisplay(common=parts).plot(kind="common", normalize=False)
    # Row 0 of "a" is as far from all of "b", and the others tie.
    assert display.recalls_["after"] == 0


def test_rows_without_pairs_have_a_gap_and_no_recall():
    a, b = np.eye(4), np.eye(4)
    a[:2], b[2:] = np.nan, np.nan
    display = AlignmentDisplay(common={"a": a, "b": b}).plot(kind="common")
    assert np.isnan(display.recalls_["after"])
    assert display.ax_.get_title() == "common parts\ngap 1.00"
    assert not display.pairs_["after"].get_segments()
    alone = AlignmentDisplay(common={"a": np.eye(3)}).plot(kind="common")
    assert np.isnan(alone.gaps_["after"])
    assert alone.ax_.get_title() == "common parts"


@pytest.mark.parametrize(("n_pairs", "rows"), [(0, []), (2, [1, 5]), (9, [1, 2, 4, 5])])
def test_lines_join_the_parts_of_a_row(n_pairs, rows):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 3))
    a[0], b[3] = np.nan, np.nan
    display = AlignmentDisplay(common={"a": a, "b": b})
    display.plot(kind="common", n_pairs=n_pairs)
    segments = np.array(display.pairs_["after"].get_segments()).reshape(-1, 2, 2)
    places = np.stack(list(display.positions_["after"].values()))[:, rows]
    np.testing.assert_array_equal(segments[:, 0], places.reshape(-1, 2))
    middle = np.tile(places.mean(axis=0), (2, 1))
    np.testing.assert_allclose(segments[:, 1], middle, atol=1e-12)


def test_colours_are_modalities_or_classes():
    _, y = planted()
    display = drawn("common")
    colours = [one.get_edgecolors() for one in display.points_["after"].values()]
    assert [len(np.unique(one, axis=0)) for one in colours] == [1, 1, 1]
    assert len({tuple(one[0]) for one in colours}) == 3
    assert legend_labels(display) == [list(MODALITIES)]
    display = drawn("common", y=True)
    edges = {}
    for name, points in display.points_["after"].items():
        there = ~np.isnan(display.positions_["after"][name][:, 0])
        for label, colour in zip(y[there], points.get_edgecolors(), strict=True):
            edges.setdefault(label, set()).add(tuple(colour))
    assert [len(found) for found in edges.values()] == [1, 1, 1]
    assert len(set.union(*edges.values())) == 3
    assert legend_labels(display) == [list(MODALITIES), ["ant", "bee", "cow"]]


def test_before_may_be_an_embedding_of_another_width():
    X, _ = planted()
    before = {name: X[:, columns[:2]] for name, columns in MODALITIES.items()}
    display = drawn("common", before=before, titles=("columns", "aligned"))
    assert [axis.get_title().split("\n")[0] for axis in display.axes_] == [
        "columns",
        "aligned",
    ]
    np.testing.assert_array_equal(
        np.isnan(display.positions_["before"]["text"][:, 0]), np.isnan(X[:, 4])
    )


def test_the_estimator_and_the_arrays_stay_as_they_are():
    params = fitted().get_params()
    drawn("common")
    assert fitted().get_params() == params
    part = np.eye(3)
    part[0, 0] = np.nan
    AlignmentDisplay(common={"a": part})
    assert np.isnan(part).sum() == 1


# ---------------------------------------------------------------- terms
def test_terms_are_those_of_the_history():
    display = AlignmentDisplay.from_estimator(fitted(), kind="terms")
    expected = {"loss": fitted().loss_curve_, **fitted().history_}
    assert list(display.curves_) == list(expected)
    assert [axis.get_title() for axis in display.axes_] == list(expected)
    for name, curve in display.curves_.items():
        np.testing.assert_array_equal(curve.get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(curve.get_ydata(), expected[name])


def test_wide_positive_curves_are_logarithmic():
    history = {
        "wide": [100.0, 10, 1],
        "narrow": [2.0, 1],
        "signed": [100, 1, -1],
        "gaps": [np.nan, 1.0],
        "none": [np.nan],
    }
    display = AlignmentDisplay(history=history).plot(kind="terms")
    scales = [axis.get_yscale() for axis in display.axes_]
    assert scales == ["log"] + ["linear"] * 4
    chosen = display.plot(kind="terms", terms="signed")
    assert list(chosen.curves_) == ["signed"]


def test_held_out_loss_is_a_curve():
    X, _ = planted()
    model = DecAlignTransformer(
        MODALITIES, n_components=2, hidden=(4,), max_epochs=2, early_stopping=True
    ).fit(X)
    display = AlignmentDisplay.from_estimator(
        model, kind="terms", terms=["validation loss", "loss"]
    )
    np.testing.assert_array_equal(
        display.curves_["validation loss"].get_ydata(), model.validation_loss_curve_
    )


# ---------------------------------------------------------------- figures
@pytest.mark.parametrize(
    ("kind", "n", "options"),
    [
        ("plan", 3, {}),
        ("common", 1, {}),
        ("terms", 2, {"terms": ["loss", "mmd"]}),
    ],
)
def test_draws_on_given_axes(kind, n, options):
    figure, axes = plt.subplots(1, n, layout="constrained", squeeze=False)
    display = drawn(kind, ax=axes, **options)
    assert display.figure_ is figure and display.ax_ is axes[0, 0]
    np.testing.assert_array_equal(display.axes_, axes[0])
    assert plt.get_fignums() == [figure.number]
    figure.canvas.draw()


def test_legends_lie_inside_the_figure_and_beside_the_panels():
    X, y = planted()
    long = np.char.add(y, " with a rather long name")
    display = AlignmentDisplay.from_estimator(
        fitted(), X, long, kind="common", before=fitted()
    )
    display.figure_.canvas.draw()
    assert len(display.legends_) == 2
    for legend in display.legends_:
        box = legend.get_window_extent()
        assert box.x1 <= display.figure_.bbox.x1
        assert not any(box.overlaps(axis.bbox) for axis in display.axes_)
    assert len(drawn("common", legend=False).figure_.axes) == 1


def test_takes_a_frame_and_a_classifier():
    pd = pytest.importorskip("pandas")
    X, y = planted()
    names = [f"{name}__{k}" for name in ("image", "text") for k in range(4)]
    frame = pd.DataFrame(X[:, :8], columns=names)
    labels = pd.Series(y, index=range(5, 29))
    model = DecAlignClassifier(n_components=2, hidden=(4,), max_epochs=1)
    model.fit(frame, labels)
    for kind in KINDS:
        display = AlignmentDisplay.from_estimator(model, frame, labels, kind=kind)
        display.figure_.canvas.draw()
    assert "task" in display.curves_


def test_leaves_no_global_state(global_rng_untouched):
    before = dict(mpl.rcParams)
    for kind in KINDS:
        drawn(kind)
    assert dict(mpl.rcParams) == before


# ---------------------------------------------------------------- refusals
def test_not_fitted():
    with pytest.raises(NotFittedError, match="DecAlignTransformer instance is not fit"):
        AlignmentDisplay.from_estimator(DecAlignTransformer())


def test_an_estimator_without_prototypes():
    X, y = planted()
    model = TCMaxClassifier(MODALITIES, max_epochs=1).fit(X, y)
    with pytest.raises(TypeError, match="estimator: .*got TCMaxClassifier without pro"):
        AlignmentDisplay.from_estimator(model)
    with pytest.raises(TypeError, match="before: .*got TCMaxClassifier without proto"):
        drawn("common", before=model)


def test_one_modality_has_no_plan():
    X, _ = planted()
    model = DecAlignTransformer(None, n_components=2, hidden=(4,), max_epochs=1)
    model.fit(X[:, 7:])
    display = AlignmentDisplay.from_estimator(model, X[:, 7:], kind="common")
    assert len(display.points_["after"]) == 1
    with pytest.raises(ValueError, match="estimator: expected two modalities or more"):
        AlignmentDisplay.from_estimator(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "all"}, "kind: expected one of .*got 'all'"),
        ({"between": ("image", "x")}, r"between: expected one of .*got \('image', 'x'"),
        ({"between": "image"}, "between: expected one of .*got 'image'. Pass two"),
        (
            {"kind": "common", "n_pairs": -1},
            "n_pairs: expected an integer >= 0, got -1",
        ),
        ({"kind": "common", "titles": "ab"}, "titles: expected two strings, got 'ab'"),
        ({"kind": "terms", "terms": ["x"]}, "terms: expected among .*got 'x'. A term"),
        ({"kind": "terms", "terms": []}, "terms: expected among .*got none. A term"),
        (
            {"kind": "common", "before": {"image": np.eye(24)}},
            "before: expected the modalities and numbers .*got {'image': 24}",
        ),
    ],
)
def test_what_from_estimator_refuses(options, message):
    X, _ = planted()
    with pytest.raises(ValueError, match=message):
        AlignmentDisplay.from_estimator(fitted(), X, **options)


def test_rows_that_are_needed():
    X, y = planted()
    with pytest.raises(ValueError, match="X: expected rows .*kind='common', got None"):
        AlignmentDisplay.from_estimator(fitted(), kind="common")
    with pytest.raises(ValueError, match="X: .*kind='plan' with y, got None. Pass X"):
        AlignmentDisplay.from_estimator(fitted(), y=y)
    with pytest.raises(ValueError, match="X: expected rows that have 'image', got non"):
        AlignmentDisplay.from_estimator(fitted(), X[::6], y[::6])
    for kind in ("plan", "common"):
        with pytest.raises(ValueError, match=r"y: expected shape \(24,\).*got \(1,\)"):
            AlignmentDisplay.from_estimator(fitted(), X, ["ant"], kind=kind)


ONE = np.ones((2, 3))
PLAN = {("a", "b"): ONE}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"plans": ONE}, TypeError, "plans: expected a dict .*got ndarray. Pass"),
        ({"plans": {"ab": ONE}}, ValueError, "plans: expected keys .*got 'ab'. Pass"),
        ({"plans": {("a", "b"): -ONE}}, ValueError, r"plans: expected masses >= 0 "),
        ({"plans": {("a", "b"): 0 * ONE}}, ValueError, "plans: .*not all zero, for"),
        ({"plans": {("a", "b"): [1]}}, ValueError, r"plans: .*got shape \(1,\). Pass"),
        ({"plans": PLAN, "labels": [0]}, TypeError, "labels: expected a dict .*list"),
        (
            {"plans": PLAN, "labels": {"a": [0, 1]}},
            ValueError,
            r"labels: expected shape \(3,\) for 'b', .*got none. Pass",
        ),
        (
            {"plans": PLAN, "labels": {"a": [0], "b": [0, 1, 2]}},
            ValueError,
            r"labels: expected shape \(2,\) for 'a', .*got shape \(1,\)",
        ),
        ({"common": ONE}, TypeError, "common: expected a dict .*got ndarray. Pass"),
        (
            {"common": {"a": ONE, "b": ONE[:1]}},
            ValueError,
            r"common: .*got \(1, 3\) for 'b'",
        ),
        ({"common": {"a": ONE + np.inf}}, ValueError, "common: .*infinity for 'a'"),
        ({"before": {"a": ONE}}, ValueError, "before: .*of common, {}, got {'a': 2}"),
        ({"history": [1.0]}, TypeError, "history: expected a dict .*got list. Pass"),
        ({"history": {"a": []}}, ValueError, r"history: .*got \(0,\) for 'a'. Pass"),
        ({"common": {"a": ONE}, "y": [0]}, ValueError, r"y: expected shape \(2,\)"),
        ({"y": [[0]]}, ValueError, r"y: expected shape \(n_samples,\), .*got \(1, 1"),
    ],
)
def test_what_the_constructor_refuses(given, error, message):
    with pytest.raises(error, match=message):
        AlignmentDisplay(**given)


def test_what_plot_refuses():
    display = AlignmentDisplay(PLAN)
    for kind, name in (("common", "common"), ("terms", "history")):
        with pytest.raises(
            ValueError, match=f"{name}: expected a dict for kind='{kind}'"
        ):
            display.plot(kind=kind)
    _, axes = plt.subplots(1, 2)
    with pytest.raises(ValueError, match=r"ax: expected 1 Axes, .*choose between"):
        display.plot(ax=axes)
    lacking = AlignmentDisplay(common={"a": ONE * np.nan})
    with pytest.raises(ValueError, match="common: expected at least two rows .*got 0."):
        lacking.plot(kind="common")
