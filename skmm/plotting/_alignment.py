"""The display of an alignment: matched prototypes, common parts, terms of the loss."""

from collections.abc import Iterator, Mapping
from copy import copy
from itertools import combinations, permutations
from numbers import Integral
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_array, check_is_fitted

from skmm.plotting._figure import check_axes, new_axes, settle, widen
from skmm.plotting._graph import panel_side
from skmm.plotting._legend import draw_colour_bar, draw_legends
from skmm.plotting._panels import _shorten
from skmm.plotting._shared_codes import _class_colours, _decorate
from skmm.plotting._style import FAINT, INK, MARKERS, font, look

KINDS = ("plan", "common", "terms")
# What the constructor must be given for each kind.
NEEDED = {"plan": "plans", "common": "common", "terms": "history"}
SIDE = {"plan": 3.4, "common": 3.6, "terms": 2.1}  # inches, of a panel
BARS = 0.16  # longest bar of a margin, in shares of the matrix
MOST_NUMBERS = 14  # prototypes up to which each cell has its number
LOG_RANGE = 10  # greatest over least value from which a curve has a logarithmic axis
CHUNK = 1024  # rows whose distances from all others are held at once
BLUE, VERMILION = "#0072B2", "#D55E00"


class AlignmentDisplay:
    r"""How modalities were aligned, drawn in one of three kinds.

    - *Plan*: the transport plan between the prototypes of two modalities, a panel a
      pair. Prototypes are ordered so that those that are matched one to one, by the
      assignment of greatest mass, lie on the diagonal. Cells have their mass in
      percent, frames where the labels of both prototypes are equal, and bars beside the
      matrix its sums over rows and columns.
    - *Common*: the common parts of all modalities in one plane, before and after they
      were aligned; a panel has a plane of its own, the first two principal components
      of all modalities' parts together. Lines join the modalities of some rows.
    - *Terms*: each term of the loss over the epochs.

    The title of a panel of *common* has two numbers that do not depend on the plane.
    With :math:`u_m^i` the part of row i in modality m, scaled to length one (without
    `normalize`: as it is), these are, as means over the pairs of modalities m and m',
    the *gap* of the centres

    .. math:: \Big\lVert \frac1{N_m} \sum_i u_m^i
              - \frac1{N_{m'}} \sum_i u_{m'}^i \Big\rVert

    and *R@1*: of the rows that have both, the share for which no other row's
    :math:`u_{m'}` is as near to :math:`u_m^i` as their own, in both directions.

    Parameters
    ----------
    plans : dict of tuple of two str to array-like, default=None
        Transport plans of shape (n_prototypes, n_prototypes), by the names of the
        modalities of their rows and columns; for *plan*.
    labels : dict of str to array-like of shape (n_prototypes,), default=None
        A label for each prototype, by modality, such as a class; for *plan*. Rows are
        ordered by label. Their numbers are shown if None, ordered by mass.
    common : dict of str to array-like of shape (n_samples, n_components), default=None
        Parts by modality, NaN in rows that lack it; for *common*.
    before : dict of str to array-like of shape (n_samples, n_features), default=None
        The same rows and modalities before, in a space of any size; for *common*.
    history : dict of str to array-like of shape (n_epochs,), default=None
        Values of each term, NaN where there are none; for *terms*.
    y : array-like of shape (n_samples,), default=None
        Class of each row, which colours the points of *common*.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The first panel.
    axes_ : ndarray of shape (n_panels,) of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure they are in.
    legends_ : list of matplotlib Legend
        The legends.
    orders_ : dict of tuple of two str to tuple of two ndarray
        Numbers of the prototypes of each plan's rows and columns, as drawn. Only of a
        plan.
    matched_ : dict of tuple of two str to float
        Share of each plan's mass that joins prototypes of the same label or, without
        labels, that lies on the diagonal; in [0, 1]. Only of a plan.
    images_ : dict of tuple of two str to matplotlib AxesImage
        The matrices, in percent of a plan's mass. Only of a plan.
    margins_ : dict of tuple of two str to tuple of two BarContainer
        Sums over each row, and over each column. Only of a plan.
    positions_ : dict of str to dict of str to ndarray of shape (n_samples, 2)
        Where parts are in the plane, by panel and modality, NaN where missing. Panels
        are "before" and "after". Only of common parts.
    points_ : dict of str to dict of str to matplotlib PathCollection
        The markers, by panel and modality. Only of common parts.
    pairs_ : dict of str to matplotlib LineCollection
        The lines between the modalities of a row, by panel. Only of common parts.
    gaps_ : dict of str to float
        Distance of the modalities' centres, by panel; NaN where there is one modality.
        Only of common parts.
    recalls_ : dict of str to float
        R@1, by panel, in [0, 1]; NaN where fewer than two rows have two modalities.
        Only of common parts.
    curves_ : dict of str to matplotlib Line2D
        The curve of each term. Only of terms.

    See Also
    --------
    skmm.DecAlignTransformer : An estimator that aligns modalities.
    skmm.metrics.modality_gap : The gap, of two modalities.
    skmm.metrics.recall_at_k : The recall, in one direction.

    Notes
    -----
    Two modalities whose clouds of points coincide need not be aligned: the gap is as
    small when the rows of one are shuffled. Lines and R@1 tell.

    The entropy of a plan spreads its mass, so that a cell off the diagonal is no error
    of the matching; that it depends on `ot_reg` must be kept in mind when figures are
    compared.

    The terms of a loss are unweighted. That of transport has the plan's entropy in it
    and may be negative.

    Examples
    --------
    >>> from skmm.plotting import AlignmentDisplay
    >>> plan = [[0.02, 0.28], [0.67, 0.03]]
    >>> display = AlignmentDisplay(
    ...     {("image", "text"): plan},
    ...     labels={"image": ["dog", "cat"], "text": ["cat", "dog"]},
    ... ).plot()
    >>> display.ax_.get_title()
    'image and text\n95 % of the mass joins equal labels'
    >>> [text.get_text() for text in display.ax_.get_yticklabels()]
    ['cat', 'dog']

    From an estimator, with rows to look at:

    >>> import numpy as np
    >>> from skmm import DecAlignTransformer
    >>> rng = np.random.default_rng(0)
    >>> latent = rng.normal(size=(60, 2))
    >>> X = np.hstack([latent @ rng.normal(size=(2, 5)) for _ in range(2)])
    >>> model = DecAlignTransformer(
    ...     {"image": range(5), "text": range(5, 10)}, n_components=4, max_epochs=5,
    ...     random_state=0,
    ... ).fit(X)
    >>> display = AlignmentDisplay.from_estimator(model, X, kind="common")
    >>> sorted(display.positions_["after"])
    ['image', 'text']
    """

    def __init__(
        self,
        plans: Any = None,
        *,
        labels: Any = None,
        common: Any = None,
        before: Any = None,
        history: Any = None,
        y: Any = None,
    ):
        self.plans = _check_plans(plans)
        self.labels = _check_labels(labels, self.plans)
        self.common = _check_parts("common", common)
        self.before = _check_before(_check_parts("before", before), self.common)
        self.history = _check_history(history)
        self.y = _check_y(y, self.common)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        *,
        kind: str = "plan",
        between: Any = None,
        before: Any = None,
        n_pairs: int = 20,
        normalize: bool = True,
        terms: Any = None,
        titles: Any = ("before", "after"),
        legend: bool = True,
        ax: Any = None,
    ) -> "AlignmentDisplay":
        """Draw what a fitted estimator aligned.

        Parameters
        ----------
        estimator : DecAlignTransformer, DecAlignClassifier or DecAlignRegressor
            Fitted, and for a plan on two modalities or more.
        X : array-like of shape (n_samples, n_features), default=None
            Rows to show, with NaN where missing; for 'common', and for the labels of
            'plan'. Lines and R@1 want rows that have two modalities and were not in
            `fit`.
        y : array-like of shape (n_samples,), default=None
            Class of each row. It colours the points of 'common'. In 'plan' it gives
            each prototype a label: the class with the largest sum of responsibilities,
            over the rows that have the modality.
        kind : {'plan', 'common', 'terms'}, default='plan'
            What to draw.
        between : tuple of two str, default=None
            Names of the two modalities of 'plan', that of the rows first. All pairs if
            None.
        before : estimator or dict of str to array-like, default=None
            What to compare 'common' with: another fitted estimator, such as one with
            ``homogeneity_weight=0, pair_weight=0``, or an embedding of these rows by
            modality.
        n_pairs : int, default=20
            Rows of 'common' whose modalities are joined by lines, evenly spaced among
            those that have two.
        normalize : bool, default=True
            Whether parts of 'common' are scaled to length one, as for comparison by
            cosines.
        terms : str or list of str, default=None
            Names of the terms to draw. All if None.
        titles : tuple of two str, default=('before', 'after')
            What the panels of 'common' are called.
        legend : bool, default=True
            Whether to draw legends and the colour bar, right of the panels.
        ax : Axes or array-like of Axes, default=None
            One for each panel. A new figure is made if None.

        Returns
        -------
        display : AlignmentDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it has no prototypes that were matched.
        ValueError
            If a modality or a term has no such name, or rows are needed.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        _check_estimator("estimator", estimator)
        _check_kind(kind)
        if X is None and (kind == "common" or (kind == "plan" and y is not None)):
            raise ValueError(
                f"X: expected rows to show for kind={kind!r}"
                f"{' with y' * (kind == 'plan')}, got None. Pass X."
            )
        if kind == "plan":
            data = {"plans": _plans(estimator), "labels": _labels(estimator, X, y)}
        elif kind == "common":
            if before is not None and not isinstance(before, Mapping):
                _check_estimator("before", before)
                before = _common_parts(before, X)
            data = {"common": _common_parts(estimator, X), "before": before, "y": y}
        else:
            data = {"history": _history(estimator)}
        return cls(**data).plot(
            kind=kind,
            between=between,
            n_pairs=n_pairs,
            normalize=normalize,
            terms=terms,
            titles=titles,
            legend=legend,
            ax=ax,
        )

    def plot(
        self,
        *,
        kind: str = "plan",
        between: Any = None,
        n_pairs: int = 20,
        normalize: bool = True,
        terms: Any = None,
        titles: Any = ("before", "after"),
        legend: bool = True,
        ax: Any = None,
    ) -> "AlignmentDisplay":
        """Draw one kind.

        Parameters
        ----------
        kind : {'plan', 'common', 'terms'}, default='plan'
            What to draw, of which the display must have been given the arrays.
        between : tuple of two str, default=None
            Names of the two modalities of 'plan', that of the rows first. All pairs if
            None.
        n_pairs : int, default=20
            Rows of 'common' whose modalities are joined by lines, evenly spaced among
            those that have two.
        normalize : bool, default=True
            Whether parts of 'common' are scaled to length one, as for comparison by
            cosines.
        terms : str or list of str, default=None
            Names of the terms to draw. All if None.
        titles : tuple of two str, default=('before', 'after')
            What the panels of 'common' are called.
        legend : bool, default=True
            Whether to draw legends and the colour bar, right of the panels.
        ax : Axes or array-like of Axes, default=None
            One for each panel. A new figure is made if None.

        Returns
        -------
        display : AlignmentDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        _check_kind(kind)
        if getattr(self, NEEDED[kind]) is None:
            raise ValueError(
                f"{NEEDED[kind]}: expected a dict for kind={kind!r}, got None. Pass "
                f"{NEEDED[kind]}, or choose another kind than {kind!r}."
            )
        self.legends_: list[Any] = []
        if kind == "plan":
            self._plot_plans(between, legend, ax)
        elif kind == "common":
            _check_n_pairs(n_pairs)
            self._plot_common(n_pairs, normalize, _check_titles(titles), legend, ax)
        else:
            self._plot_terms(terms, ax)
        return self

    def _set_axes(self, kind: str, n_panels: int, legend: bool, ax: Any) -> Any:
        """Axes for the panels; returns those for legends, None without them."""
        host = None
        if ax is None:
            self.axes_, host = new_axes(n_panels, SIDE[kind], legend)
        else:
            fewer = {"plan": "between", "common": "before=None", "terms": "terms"}
            self.axes_ = check_axes(ax, n_panels, fewer[kind])
        self.ax_, self.figure_ = self.axes_[0], self.axes_[0].figure
        return host

    def _draw_legends(self, host: Any, groups: Any, image: Any = None) -> None:
        """Legends first, since a new figure is made wider for them; then the bar."""
        left, new = 0.0, host is not None
        if not new:
            host, left = self.axes_[-1], 1.05
        self.legends_, lower = draw_legends(host, left, groups)
        if new:
            widen(host, self.legends_)
        settle(self.figure_)
        if image is not None:
            draw_colour_bar(host, left, lower, image, "mass (%)")

    # ------------------------------------------------------------ plans
    def _plot_plans(self, between: Any, legend: bool, ax: Any) -> None:
        chosen = _choose(self.plans, between)
        host = self._set_axes("plan", len(chosen), legend, ax)
        settle(self.figure_)
        self.orders_, self.matched_, self.images_, self.margins_ = {}, {}, {}, {}
        shares = {names: 100 * plan / plan.sum() for names, plan in chosen.items()}
        largest = max(float(share.max()) for share in shares.values())
        for axis, (names, share) in zip(self.axes_, shares.items(), strict=True):
            own = None if self.labels is None else [self.labels[name] for name in names]
            rows, columns = self.orders_[names] = _order(share, own)
            ordered = share[np.ix_(rows, columns)]
            if own is None:
                matched, what = np.trace(ordered), "is on the diagonal"
                ticks = [rows, columns]
            else:
                ticks = [own[0][rows], own[1][columns]]
                matched = ordered[ticks[0][:, None] == ticks[1]].sum()
                what = "joins equal labels"
            self.matched_[names] = float(matched) / 100
            title = " and ".join(map(_shorten, names))
            _decorate(
                axis,
                f"{title}\n{matched:.0f} % of the mass {what}",
                _shorten(names[1]),
                _shorten(names[0]),
            )
            self.images_[names] = _draw_matrix(axis, ordered, ticks, largest)
            if own is not None:
                _frame_cells(axis, ticks[0][:, None] == ticks[1])
            self.margins_[names] = _draw_margins(axis, ordered)
        if legend:
            self._draw_legends(host, {}, next(iter(self.images_.values())))

    # ------------------------------------------------------------ common parts
    def _plot_common(
        self,
        n_pairs: int,
        normalize: bool,
        titles: tuple[str, str],
        legend: bool,
        ax: Any,
    ) -> None:
        panels = {"before": self.before, "after": self.common}
        panels = {key: parts for key, parts in panels.items() if parts is not None}
        named = dict(zip(("before", "after"), titles, strict=True))
        placed = {
            key: _place("common" if key == "after" else key, parts, normalize)
            for key, parts in panels.items()
        }
        host = self._set_axes("common", len(panels), legend, ax)
        self.positions_, self.points_, self.pairs_ = {}, {}, {}
        self.gaps_, self.recalls_ = {}, {}
        groups: dict[str, list[Any]] = {}
        for axis, (key, (parts, positions, share)) in zip(
            self.axes_, placed.items(), strict=True
        ):
            self.positions_[key] = positions
            self.gaps_[key] = _gap(parts)
            self.recalls_[key], n = _recall(parts)
            heading = [f"gap {self.gaps_[key]:.2f}"] * (len(parts) > 1)
            if n:
                heading.append(
                    f"R@1 {self.recalls_[key]:.0%} of {n}".replace("%", " %")
                )
            # A single panel is of one state, neither before nor after.
            title = [named[key]] if len(panels) > 1 else ["common parts"]
            title += [", ".join(heading)] * bool(heading)
            pca = f"PCA, {share:.0%} of the variance".replace("%", " %")
            _decorate(axis, "\n".join(title), pca)
            self.points_[key], groups = _draw_points(axis, positions, self.y)
            self.pairs_[key] = _draw_pairs(axis, positions, n_pairs)
            axis.set(xticks=[], yticks=[])
        settle(self.figure_)
        if legend:
            self._draw_legends(host, groups)

    # ------------------------------------------------------------ terms
    def _plot_terms(self, terms: Any, ax: Any) -> None:
        chosen = _check_terms(terms, self.history)
        self._set_axes("terms", len(chosen), False, ax)
        self.curves_ = {}
        for axis, name in zip(self.axes_, chosen, strict=True):
            values = self.history[name]
            epochs = np.arange(1, len(values) + 1)
            (self.curves_[name],) = axis.plot(epochs, values, color=BLUE, linewidth=1.2)
            _decorate(axis, name, "epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
            seen = values[np.isfinite(values)]
            if seen.size and seen.min() > 0 and seen.max() > LOG_RANGE * seen.min():
                _make_logarithmic(axis)
            axis.tick_params(which="both", length=2, width=0.5, color="0.5")
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="y", color="0.92", linewidth=0.6)
            axis.set_axisbelow(True)
        settle(self.figure_)


# ---------------------------------------------------------------- drawing
def _make_logarithmic(axis: Any) -> None:
    """Logarithmic, with a few plain numbers instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _draw_matrix(axis: Any, values: np.ndarray, ticks: Any, largest: float) -> Any:
    """The matrix, numbers in its cells, and labels left and below."""
    from matplotlib.patches import Rectangle

    n_rows, n_columns = values.shape
    image = axis.imshow(
        values, cmap="Blues", vmin=0, vmax=largest, interpolation="none"
    )
    frame = Rectangle((-0.5, -0.5), n_columns, n_rows, fill=False, ec="0.5", lw=0.5)
    axis.add_patch(frame)
    axis.spines[:].set_visible(False)
    room = 1.25 * BARS * max(values.shape)
    axis.set(
        xlim=(-0.5, n_columns - 0.5 + room),
        ylim=(n_rows - 0.5, -0.5 - room),
        anchor="C",
    )
    cell = panel_side(axis) / (max(values.shape) + room)
    size = float(np.clip(0.42 * cell, 4, 8))
    few = max(values.shape) <= MOST_NUMBERS
    for i, j in np.ndindex(*values.shape) if few else ():
        if values[i, j] >= 0.5:
            axis.text(
                j,
                i,
                f"{values[i, j]:.0f}",
                ha="center",
                va="center",
                fontsize=font(size),
                color="w" if values[i, j] > 0.55 * largest else INK,
            )
    names = [[_shorten(str(one)) for one in side] for side in ticks]
    upright = max(map(len, names[1])) > 2
    small = font(float(np.clip(0.8 * cell, 4, 7)))
    axis.set_yticks(range(n_rows), names[0], fontsize=small)
    axis.set_xticks(
        range(n_columns), names[1], fontsize=small, rotation=90 if upright else 0
    )
    # Labels are of the matrix, not of the room for the bars.
    middle = 0.5 / (1 + room / max(values.shape))
    axis.xaxis.label.set_x(middle)
    axis.yaxis.label.set_y(middle)
    return image


def _frame_cells(axis: Any, chosen: np.ndarray) -> None:
    """Frames around the cells whose labels are equal."""
    from matplotlib.patches import Rectangle

    for i, j in zip(*np.nonzero(chosen), strict=True):
        axis.add_patch(
            Rectangle(
                (j - 0.46, i - 0.46), 0.92, 0.92, fill=False, ec=VERMILION, lw=1.0
            )
        )


def _draw_margins(axis: Any, values: np.ndarray) -> tuple[Any, Any]:
    """Bars of the sums, right of the matrix and above it."""
    n_rows, n_columns = values.shape
    of_rows, of_columns = values.sum(axis=1), values.sum(axis=0)
    unit = BARS * max(values.shape) / max(of_rows.max(), of_columns.max())
    gap = 0.15 * BARS * max(values.shape)
    style = {"color": FAINT, "linewidth": 0}
    right = axis.barh(
        np.arange(n_rows), unit * of_rows, 0.7, left=n_columns - 0.5 + gap, **style
    )
    above = axis.bar(
        np.arange(n_columns), -unit * of_columns, 0.7, bottom=-0.5 - gap, **style
    )
    return right, above


def _draw_points(
    axis: Any, positions: dict[str, np.ndarray], y: np.ndarray | None
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """A marker for each part, and what the legends say."""
    from matplotlib.lines import Line2D

    classes, codes, colours = _class_colours(y)
    n_points = sum(map(len, positions.values()))
    size = font(4 if n_points <= 600 else 3)
    style = {"linestyle": "none", "markersize": font(5)}
    points, of_modality = {}, []
    for m, (name, places) in enumerate(positions.items()):
        seen = ~np.isnan(places[:, 0])
        own = look(m)["color"]
        edges = [own] if classes is None else colours[codes[seen]]
        # Open and filled markers can be told apart where small shapes cannot.
        is_open = m % 2 == 1
        marker = MARKERS[m % len(MARKERS)]
        points[name] = axis.scatter(
            *places[seen].T,
            s=size**2,
            marker=marker,
            facecolors="none" if is_open else edges,
            edgecolors=edges,
            linewidths=0.6,
            alpha=0.7,
        )
        of_modality.append(
            Line2D(
                [],
                [],
                marker=marker,
                label=_shorten(name),
                color=own if classes is None else INK,
                fillstyle="none" if is_open else "full",
                **style,
            )
        )
    of_class = [
        Line2D([], [], marker="o", label=_shorten(str(one)), color=colour, **style)
        for one, colour in zip(
            () if classes is None else classes, colours, strict=False
        )
    ]
    return points, {"modality": of_modality, "class": of_class}


def _draw_pairs(axis: Any, positions: dict[str, np.ndarray], n_pairs: int) -> Any:
    """Lines from the parts of some rows to the middle of each row's."""
    from matplotlib.collections import LineCollection

    places = np.stack(list(positions.values()))
    seen = ~np.isnan(places[..., 0])
    rows = np.flatnonzero(seen.sum(axis=0) > 1)
    chosen = np.linspace(0, len(rows) - 1, min(n_pairs, len(rows))).round()
    rows = rows[chosen.astype(int)]
    places, seen = places[:, rows], seen[:, rows]
    middle = np.nansum(places, axis=0) / np.maximum(seen.sum(axis=0), 1)[:, None]
    ends = np.stack([places, np.broadcast_to(middle, places.shape)], axis=2)
    lines = LineCollection(list(ends[seen]), colors=INK, linewidths=0.7, alpha=0.8)
    axis.add_collection(lines, autolim=False)
    return lines


# ---------------------------------------------------------------- numbers
def _order(plan: np.ndarray, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows by label and mass, and columns so that matched ones are on the diagonal."""
    mass = plan.sum(axis=1)
    keys = [-mass]
    if labels is not None:
        keys.append(np.unique(labels[0], return_inverse=True)[1])
    rows = np.lexsort(keys)
    own, other = linear_sum_assignment(-plan)
    partner = dict(zip(own.tolist(), other.tolist(), strict=True))
    # Where rows are more than columns, those without a partner come last.
    rows = np.array(sorted(rows.tolist(), key=lambda row: row not in partner))
    matched = [partner[row] for row in rows if row in partner]
    left = [j for j in range(plan.shape[1]) if j not in matched]
    return rows, np.array(matched + left)


def _place(
    name: str, parts: dict[str, np.ndarray], normalize: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Parts as they are compared, their places, and the share of variance kept."""
    if normalize:
        parts = {key: _unit(one) for key, one in parts.items()}
    stacked = np.concatenate(list(parts.values()))
    seen = ~np.isnan(stacked).any(axis=1)
    if seen.sum() < 2:
        raise ValueError(
            f"{name}: expected at least two rows that are not NaN, got {seen.sum()}. "
            "Pass rows that have modalities."
        )
    pca = PCA(min(2, *stacked[seen].shape))
    plane = pca.fit_transform(stacked[seen])
    places = np.full((len(stacked), 2), np.nan)
    # A single dimension is drawn as a line.
    places[seen] = np.pad(plane, [(0, 0), (0, 2 - plane.shape[1])])
    split = np.split(places, len(parts))
    share = float(pca.explained_variance_ratio_.sum())
    return parts, dict(zip(parts, split, strict=True)), share


def _unit(values: np.ndarray) -> np.ndarray:
    """Rows of length one; one of zeros stays, since it has no direction."""
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length == 0, 1, length)


def _gap(parts: dict[str, np.ndarray]) -> float:
    """Mean distance of the modalities' centres; NaN where there are not two."""
    centres = [
        one[~np.isnan(one).any(axis=1)].mean(axis=0)
        for one in parts.values()
        if not np.isnan(one).any(axis=1).all()
    ]
    distances = [np.linalg.norm(a - b) for a, b in combinations(centres, 2)]
    return float(np.mean(distances)) if distances else float("nan")


def _recall(parts: dict[str, np.ndarray]) -> tuple[float, int]:
    """R@1, the mean over ordered pairs of modalities, and the most rows of a pair."""
    found, counts = [], [0]
    for a, b in permutations(parts.values(), 2):
        both = ~np.isnan(a).any(axis=1) & ~np.isnan(b).any(axis=1)
        if both.sum() > 1:
            hits = np.concatenate(list(_hits(a[both], b[both])))
            found.append(hits.mean())
            counts.append(int(both.sum()))
    return (float(np.mean(found)) if found else float("nan")), max(counts)


def _hits(queries: np.ndarray, gallery: np.ndarray) -> Iterator[np.ndarray]:
    """Whether no other row is as near as a query's own; a tie is a miss."""
    for start in range(0, len(queries), CHUNK):
        some = queries[start : start + CHUNK]
        distances = cdist(some, gallery, "sqeuclidean")
        numbers = np.arange(len(some))
        own = distances[numbers, start + numbers][:, None]
        distances[numbers, start + numbers] = np.inf
        # Distances that differ by less than their rounding are ties.
        yield distances.min(axis=1) > own[:, 0] * (1 + 1e-12)


# ---------------------------------------------------------------- the estimator
def _check_estimator(parameter: str, estimator: Any) -> None:
    check_is_fitted(estimator)
    needed = (
        "prototypes_",
        "matches_",
        "history_",
        "responsibilities",
        "modality_names_in_",
        "modality_indices_",
    )
    lacking = [name for name in needed if not hasattr(estimator, name)]
    if lacking:
        raise TypeError(
            f"{parameter}: expected one with {', '.join(needed)}, such as "
            f"DecAlignTransformer, got {type(estimator).__name__} without "
            f"{lacking[0]}. Pass the last step of a Pipeline, or best_estimator_ of a "
            "search."
        )


def _plans(estimator: Any) -> dict[tuple[str, str], np.ndarray]:
    """Joint masses w_i(k) T_ij(k' | k) of the prototypes of all pairs i != j."""
    names = [str(name) for name in estimator.modality_names_in_]
    if len(names) < 2:
        raise ValueError(
            "estimator: expected two modalities or more, between which there is a "
            f"plan, got {names}. Choose kind='common' or 'terms'."
        )
    plans = {}
    for (i, a), (j, b) in combinations(enumerate(names), 2):
        weights = estimator.prototypes_[a]["weights"]
        plans[a, b] = weights[:, None] * estimator.matches_[i, j]
        plans[b, a] = plans[a, b].T
    return plans


def _labels(estimator: Any, X: Any, y: Any) -> dict[str, np.ndarray] | None:
    """For each prototype the class of which it has the largest sum of shares."""
    if y is None:
        return None
    values = check_array(X, dtype=float, ensure_all_finite="allow-nan")
    y = np.asarray(y)
    if y.shape != (len(values),):
        raise ValueError(
            f"y: expected shape ({len(values)},), a class for each row, got {y.shape}. "
            "Pass the classes of the same rows."
        )
    classes, codes = np.unique(y, return_inverse=True)
    labels = {}
    for name, columns in estimator.modality_indices_.items():
        has = ~np.isnan(values[:, columns]).all(axis=1)
        if not has.any():
            raise ValueError(
                f"X: expected rows that have {name!r}, got none of {len(values)}. Pass "
                "rows that have it, or leave y out."
            )
        shares = estimator.responsibilities(X, name)[has]
        labels[str(name)] = classes[
            (shares.T @ np.eye(len(classes))[codes[has]]).argmax(1)
        ]
    return labels


def _common_parts(estimator: Any, X: Any) -> dict[str, np.ndarray]:
    """Common parts by modality, NaN where a row lacks it."""
    # The estimator's own parameters stay as they are.
    reader = copy(estimator).set_params(output="fused", keep_missing=True)
    fused = np.asarray(reader.transform(X), dtype=float)
    place = {name: j for j, name in enumerate(reader.get_feature_names_out())}
    parts = {}
    for name in map(str, estimator.modality_names_in_):
        columns = [place.get(f"{name}__common{j}") for j in range(len(place))]
        parts[name] = fused[:, [j for j in columns if j is not None]]
    return parts


def _history(estimator: Any) -> dict[str, Any]:
    """The loss, that of held-out rows if there are any, and its terms."""
    curves = {
        "loss": getattr(estimator, "loss_curve_", None),
        "validation loss": getattr(estimator, "validation_loss_curve_", None),
    }
    found = {name: curve for name, curve in curves.items() if curve is not None}
    return found | dict(estimator.history_)


# ---------------------------------------------------------------- checks
def _check_kind(kind: Any) -> None:
    if kind not in KINDS:
        raise ValueError(
            f"kind: expected one of {KINDS}, got {kind!r}. Call plot once for each "
            "kind."
        )


def _check_plans(given: Any) -> dict[tuple[str, str], np.ndarray] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or not given:
        raise TypeError(
            "plans: expected a dict of arrays by two names of modalities, got "
            f"{type(given).__name__}. Pass such as {{('image', 'text'): plan}}."
        )
    plans = {}
    for names, one in given.items():
        if not isinstance(names, tuple) or len(names) != 2:
            raise ValueError(
                f"plans: expected keys that are two names of modalities, got {names!r}."
                " Pass such as {('image', 'text'): plan}."
            )
        plan = np.asarray(one, dtype=float)
        right = plan.ndim == 2 and plan.size and np.isfinite(plan).all()
        if not right or (plan < 0).any() or not plan.sum():
            raise ValueError(
                "plans: expected masses >= 0 of shape (n_prototypes, n_prototypes), "
                f"not all zero, for {names}, got shape {plan.shape}. Pass weights[:, "
                "None] * matches, say."
            )
        plans[str(names[0]), str(names[1])] = plan
    return plans


def _check_labels(given: Any, plans: Any) -> dict[str, np.ndarray] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise TypeError(
            "labels: expected a dict of arrays by modality, got "
            f"{type(given).__name__}. Pass such as {{'image': ['cat', 'dog']}}."
        )
    labels = {str(name): np.asarray(one) for name, one in given.items()}
    for names, plan in (plans or {}).items():
        for name, size in zip(names, plan.shape, strict=True):
            own = labels.get(name)
            if own is None or own.shape != (size,):
                found = "none" if own is None else f"shape {own.shape}"
                raise ValueError(
                    f"labels: expected shape ({size},) for {name!r}, a label for each "
                    f"prototype, got {found}. Pass one for each row of its plan."
                )
    return labels


def _check_parts(parameter: str, given: Any) -> dict[str, np.ndarray] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or not given:
        raise TypeError(
            f"{parameter}: expected a dict of arrays by modality, got "
            f"{type(given).__name__}. Pass such as {{'image': ..., 'text': ...}}."
        )
    parts = {str(name): np.array(one, dtype=float) for name, one in given.items()}
    shape = next(iter(parts.values())).shape
    for name, one in parts.items():
        if one.ndim != 2 or not one.size or one.shape != shape:
            raise ValueError(
                f"{parameter}: expected shape (n_samples, n_columns), the same for all "
                f"modalities, got {one.shape} for {name!r}. Pass NaN for rows that "
                "lack the modality."
            )
        if np.isinf(one).any():
            raise ValueError(
                f"{parameter}: expected finite numbers or NaN, got infinity for "
                f"{name!r}. Pass NaN for what is missing."
            )
        # A row that lacks a part of its numbers has no place.
        one[np.isnan(one).any(axis=1)] = np.nan
    return parts


def _check_before(
    before: dict[str, np.ndarray] | None, common: dict[str, np.ndarray] | None
) -> dict[str, np.ndarray] | None:
    if before is None:
        return None
    of_common = {} if common is None else {k: len(v) for k, v in common.items()}
    of_before = {k: len(v) for k, v in before.items()}
    if of_common != of_before:
        raise ValueError(
            "before: expected the modalities and numbers of rows of common, "
            f"{of_common}, got {of_before}. Pass an embedding of the same rows."
        )
    return before


def _check_history(given: Any) -> dict[str, np.ndarray] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping) or not given:
        raise TypeError(
            "history: expected a dict of curves by term, got "
            f"{type(given).__name__}. Pass history_ of an estimator."
        )
    history = {str(name): np.asarray(one, dtype=float) for name, one in given.items()}
    for name, values in history.items():
        if values.ndim != 1 or not values.size:
            raise ValueError(
                "history: expected shape (n_epochs,), a value for each epoch, got "
                f"{values.shape} for {name!r}. Pass history_ of an estimator."
            )
    return history


def _check_y(given: Any, common: dict[str, np.ndarray] | None) -> np.ndarray | None:
    if given is None:
        return None
    y = np.asarray(given)
    n_rows = None if common is None else len(next(iter(common.values())))
    if y.ndim != 1 or (n_rows is not None and len(y) != n_rows):
        expected = "(n_samples,)" if n_rows is None else f"({n_rows},)"
        raise ValueError(
            f"y: expected shape {expected}, a class for each row, got {y.shape}. Pass "
            "the classes of the same rows."
        )
    return y


def _choose(
    plans: dict[tuple[str, str], np.ndarray], between: Any
) -> dict[tuple[str, str], np.ndarray]:
    """The plan between two modalities, or one for each unordered pair."""
    if between is None:
        chosen: dict[tuple[str, str], np.ndarray] = {}
        for names, plan in plans.items():
            if names[::-1] not in chosen:
                chosen[names] = plan
        return chosen
    names = tuple(between) if isinstance(between, tuple | list) else between
    if names not in plans:
        raise ValueError(
            f"between: expected one of {list(plans)}, got {between!r}. Pass two names "
            "of modalities."
        )
    return {names: plans[names]}


def _check_terms(terms: Any, history: dict[str, np.ndarray]) -> list[str]:
    if terms is None:
        return list(history)
    names = [terms] if isinstance(terms, str) else list(terms)
    unknown = [name for name in names if name not in history]
    if unknown or not names:
        found = repr(unknown[0]) if unknown else "none"
        raise ValueError(
            f"terms: expected among {list(history)}, got {found}. A term of weight "
            "zero has no curve; pass others, or None for all."
        )
    return names


def _check_n_pairs(n_pairs: Any) -> None:
    if not isinstance(n_pairs, Integral) or isinstance(n_pairs, bool) or n_pairs < 0:
        raise ValueError(
            f"n_pairs: expected an integer >= 0, got {n_pairs!r}. Pass how many rows "
            "to join by lines."
        )


def _check_titles(titles: Any) -> tuple[str, str]:
    right = isinstance(titles, tuple | list) and len(titles) == 2
    if not right or not all(isinstance(one, str) for one in titles):
        raise ValueError(
            f"titles: expected two strings, got {titles!r}. Pass such as ('before', "
            "'after')."
        )
    return titles[0], titles[1]
