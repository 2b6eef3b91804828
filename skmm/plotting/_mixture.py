"""The display of a mixture over modalities: how large, who supports it, what it is."""

from collections.abc import Mapping, Sized
from copy import copy
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_array, check_is_fitted

from skmm.plotting._figure import LEGENDS, check_axes, settle, widen
from skmm.plotting._legend import draw_colour_bar, draw_legends
from skmm.plotting._panels import FEW, _shorten
from skmm.plotting._style import COLOURS, INK, font, look, text_width

KINDS = ("weights", "responsibilities", "means")
MISSING = "0.85"  # a row that lacks the modality
PANEL = 1.4, 3.0  # inches, the least and the most width of a modality's panel
WIDTH = 9.0  # of all modalities' panels, where the bounds above allow it
HEIGHTS = {"weights": 1.3, "responsibilities": 2.6, "means": 2.4}
GAP = 2  # pixels between two pictures


class MixtureDisplay:
    r"""Components of a mixture over modalities, drawn in three kinds of panels.

    - *Weights*: a bar for each component, numbered as in `labels_`.
    - *Responsibilities*, one heat map a modality: those that the modality **alone**
      gives, :math:`p(k \mid x^m)`, with all others left out. Rows are ordered by the
      component that all their modalities together assign them to. A modality that
      supports a component by itself is dark in the component's own column; one that
      cannot tell two components apart spreads over both of their columns. Grey rows
      lack the modality.
    - *Means*, one heat map a modality: components by columns, as

      .. math::  \frac{\mu_{kj} - c_j}{s_j}

      with location :math:`c_j` and scale :math:`s_j` of column j, so that columns of
      different units can be compared. The means of images are drawn as pictures, in
      their own units.

    Parameters
    ----------
    weights : array-like of shape (n_components,) or (n_modalities, n_components)
        Weights of the components. In two dimensions each modality has components of
        its own, and component k of modality m has the number
        ``m * n_components + k``; the weights sum to one over all (coupling
        "joint_stick") or in each modality ("per_modality").
    responsibilities : list of array-like of shape (n_samples, n_atoms), default=None
        One array a modality, with a column for each entry of `weights`, and NaN in rows
        that lack the modality.
    means : list of array-like of shape (n_components, n_columns), default=None
        One array a modality.
    labels : array-like of shape (n_samples,), default=None
        Component of each row, by which rows are ordered. The greatest sum of
        `responsibilities` over the modalities if None.
    modality_names : array-like of shape (n_modalities,), default=None
        Names of the modalities; m0, m1, ... if None.
    feature_names : list of array-like of str, default=None
        Names of the columns, one list a modality. Shown where there are at most 30.
    location : list of array-like of shape (n_columns,), default=None
        What means are measured from, one array a modality. The weighted mean of the
        components if None.
    scale : list of array-like of shape (n_columns,), default=None
        What means are measured in, one array a modality. The weighted standard
        deviation between the components if None.
    image_shapes : dict of str to tuple, default=None
        Shapes (C, H, W) of the modalities that are images, by name.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The first panel.
    axes_ : ndarray of shape (n_panels,) of matplotlib Axes
        All panels: the weights, then responsibilities and means by modality.
    figure_ : matplotlib Figure
        The figure they are in.
    components_ : ndarray of shape (n_shown,)
        Numbers of the components that are shown.
    bars_ : matplotlib BarContainer
        The bars. Only where weights are drawn.
    responsibility_images_ : list of matplotlib AxesImage
        The heat map of each modality. Only where responsibilities are drawn.
    mean_images_ : list of matplotlib AxesImage
        The heat map, or pictures, of each modality. Only where means are drawn.
    legends_ : list of matplotlib Legend
        The legends.

    See Also
    --------
    skmm.DPMixtureFusion : The mixture.

    Notes
    -----
    Rows of components that are not shown are left out, and so are columns: what is
    missing to one in a row is the responsibility of those. All panels have the same
    rows at a component; within it each has its own order: the rows that the modality
    is surest of first, those that lack it last. Where each modality is clustered apart
    ("per_modality"), a panel shows the rows that have the modality, by its own
    components.

    That a modality supports no component by itself does not mean that it is of no use:
    several weak modalities may together tell what none tells alone.

    A new figure has the layout engine `constrained`; give such a one when you pass
    `ax`, or legends may lie outside it.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm.plotting import MixtureDisplay
    >>> display = MixtureDisplay(
    ...     [0.5, 0.3, 0.2, 0.0],
    ...     means=[[[0.0], [1.0], [2.0], [0.0]], [[5.0], [5.0], [7.0], [0.0]]],
    ...     modality_names=["image", "text"],
    ... ).plot()
    >>> [ax.get_title() for ax in display.axes_]
    ['3 of 4 components', 'image\n1 column', 'text\n1 column']

    From an estimator, with the rows to look at:

    >>> from skmm import DPMixtureFusion
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(150, 4)) + 8 * rng.integers(3, size=(150, 1))
    >>> X[::3, :2] = np.nan
    >>> mixture = DPMixtureFusion({"image": [0, 1], "text": [2, 3]}, random_state=0)
    >>> display = MixtureDisplay.from_estimator(
    ...     mixture.fit(X), X, kind="responsibilities"
    ... )
    >>> [ax.get_title() for ax in display.axes_]
    ['image alone\n100 of 150 rows', 'text alone\n150 of 150 rows']
    """

    def __init__(
        self,
        weights: Any,
        *,
        responsibilities: Any = None,
        means: Any = None,
        labels: Any = None,
        modality_names: Any = None,
        feature_names: Any = None,
        location: Any = None,
        scale: Any = None,
        image_shapes: Any = None,
    ):
        self.weights = _check_weights(weights)
        n_blocks = _count_modalities(
            self.weights,
            responsibilities=responsibilities,
            means=means,
            modality_names=modality_names,
        )
        self.responsibilities = _check_responsibilities(
            responsibilities, self.weights.size
        )
        self.means = _check_means(means, self.weights.shape[-1])
        self.labels = _check_labels(labels, self.responsibilities, self.weights.size)
        if modality_names is None:
            modality_names = [f"m{m}" for m in range(n_blocks)]
        self.modality_names = [str(name) for name in modality_names]
        self.feature_names = _check_columns("feature_names", feature_names, self.means)
        self.location = _check_columns("location", location, self.means)
        self.scale = _check_columns("scale", scale, self.means)
        self.image_shapes = _check_shapes(image_shapes, self.modality_names, self.means)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        kind: str = "all",
        components: Any = None,
        min_weight: float = 0.01,
        vmax: float | None = None,
        legend: bool = True,
        ax: Any = None,
    ) -> "MixtureDisplay":
        """Draw the components of a fitted mixture, as rows of X support them.

        Means are measured from the means of the columns of X, in standard deviations
        of these columns. A modality that was declared as an image, by
        ``Modality(..., shape=(C, H, W))``, has its means drawn as pictures.

        Parameters
        ----------
        estimator : DPMixtureFusion
            Fitted, with any coupling and any head; not ``method="neural"``.
        X : array-like of shape (n_samples, n_features)
            Rows to show, with NaN where missing; as a rule those of `fit`, or some of
            them. Responsibilities are computed once for each modality.
        kind : {'all', 'weights', 'responsibilities', 'means'}, default='all'
            Which panels to draw.
        components : int or list of int, default=None
            Numbers of the components to show, in this order. Those above `min_weight`
            if None.
        min_weight : float, default=0.01
            Without `components`, the weight above which one is shown.
        vmax : float, default=None
            Standardised mean of the deepest colour. The largest that is drawn if
            None; give it to compare figures.
        legend : bool, default=True
            Whether to draw legends and colour bars, right of the panels.
        ax : Axes or array-like of Axes, default=None
            One for each panel. A new figure is made if None.

        Returns
        -------
        display : MixtureDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it is no mixture over modalities.
        ValueError
            If its mixture is over embeddings, or X does not fit it.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        _check_estimator(estimator)
        columns = list(estimator.modality_indices_.values())
        # This checks X, and the names of its columns, as the estimator does.
        together = _responsibilities(estimator, X)
        values = check_array(X, dtype=float, ensure_all_finite="allow-nan")
        alone = _alone(estimator, values, columns)
        location, scale = zip(
            *(_column_moments(values[:, own]) for own in columns), strict=True
        )
        names = getattr(estimator, "feature_names_in_", None)
        display = cls(
            estimator.weights_,
            responsibilities=alone,
            means=estimator.means_,
            labels=together.argmax(axis=1),
            modality_names=estimator.modality_names_in_,
            feature_names=None if names is None else [names[own] for own in columns],
            location=location,
            scale=scale,
            image_shapes=_image_shapes(estimator),
        )
        return display.plot(
            kind=kind,
            components=components,
            min_weight=min_weight,
            vmax=vmax,
            legend=legend,
            ax=ax,
        )

    def plot(
        self,
        *,
        kind: str = "all",
        components: Any = None,
        min_weight: float = 0.01,
        vmax: float | None = None,
        legend: bool = True,
        ax: Any = None,
    ) -> "MixtureDisplay":
        """Draw the components.

        Parameters
        ----------
        kind : {'all', 'weights', 'responsibilities', 'means'}, default='all'
            Which panels to draw; 'all' draws what the display was given.
        components : int or list of int, default=None
            Numbers of the components to show, in this order. Those above `min_weight`
            if None.
        min_weight : float, default=0.01
            Without `components`, the weight above which one is shown.
        vmax : float, default=None
            Standardised mean of the deepest colour. The largest that is drawn if
            None; give it to compare figures.
        legend : bool, default=True
            Whether to draw legends and colour bars, right of the panels.
        ax : Axes or array-like of Axes, default=None
            One for each panel. A new figure is made if None.

        Returns
        -------
        display : MixtureDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        kinds = self._kinds(kind)
        _check_plot(min_weight, vmax)
        chosen = self._chosen(components, min_weight)
        n_blocks = len(self.modality_names)
        sizes = {kind: 1 if kind == "weights" else n_blocks for kind in kinds}
        if ax is None:
            self.axes_, hosts = _new_axes(sizes, n_blocks, legend)
        else:
            self.axes_ = check_axes(ax, sum(sizes.values()), "one kind")
            hosts = [self.axes_[k - 1] for k in np.cumsum(list(sizes.values()))]
        self.ax_, self.figure_ = self.axes_[0], self.axes_[0].figure
        self.components_, self.legends_ = chosen, []
        ends = np.cumsum(list(sizes.values()))[:-1]
        axes = dict(zip(kinds, np.split(self.axes_, ends), strict=True))
        legends: dict[str, list[Any]] = {kind: [] for kind in kinds}
        bars: dict[str, tuple[str, Any]] = {}
        if "weights" in kinds:
            legends["weights"] = self._draw_weights(axes["weights"][0], chosen)
        if "responsibilities" in kinds:
            found = self._draw_responsibilities(axes["responsibilities"], chosen)
            self.responsibility_images_, legends["responsibilities"] = found
            bars["responsibilities"] = "responsibility", found[0][0]
        if "means" in kinds:
            self.mean_images_, scaled = self._draw_means(axes["means"], chosen, vmax)
            if scaled:
                bars["means"] = "standardised mean", scaled[0]
        settle(self.figure_)
        if legend:
            self._draw_legends(dict(zip(kinds, hosts, strict=True)), legends, bars, ax)
        for axis in self.axes_:
            _thin(axis)
        return self

    # ------------------------------------------------------------ what is shown
    @property
    def _of_modality(self) -> bool:
        """Whether each modality has components of its own."""
        return self.weights.ndim == 2

    @property
    def _apart(self) -> bool:
        """Whether each modality is clustered by itself: its weights sum to one."""
        return self._of_modality and self.weights.sum() > 0.5 * (1 + len(self.weights))

    def _own(self, m: int, chosen: np.ndarray) -> np.ndarray:
        """Those of the chosen components that modality m has a mean of."""
        if not self._of_modality:
            return chosen
        return chosen[chosen // self.weights.shape[1] == m]

    def _kinds(self, kind: Any) -> list[str]:
        given = {"weights": self.weights} | {
            name: getattr(self, name)
            for name in KINDS[1:]
            if getattr(self, name) is not None
        }
        if kind == "all":
            return list(given)
        if kind not in KINDS:
            raise ValueError(
                f"kind: expected 'all' or one of {KINDS}, got {kind!r}. Pass 'all' for "
                "every kind of panel."
            )
        if kind not in given:
            raise ValueError(
                f"kind: expected one of {['all', *given]}, got {kind!r}, of which the "
                f"display knows nothing. Pass {kind} to the constructor."
            )
        return [kind]

    def _chosen(self, components: Any, min_weight: float) -> np.ndarray:
        """Numbers of the components to show."""
        weights = self.weights.ravel()
        if components is None:
            chosen = np.flatnonzero(weights > min_weight)
            if not len(chosen):
                raise ValueError(
                    "min_weight: expected less than the largest weight, "
                    f"{weights.max():.3g}, got {min_weight}. Pass a smaller one, or "
                    "components."
                )
            return chosen
        numbers = np.ravel(np.asarray(components))
        right = numbers.size and numbers.dtype.kind in "iu"
        if not right or numbers.min() < 0 or numbers.max() >= len(weights):
            raise ValueError(
                f"components: expected integers from 0 to {len(weights) - 1}, got "
                f"{components!r}. Pass numbers as in labels_."
            )
        if len(np.unique(numbers)) < len(numbers):
            raise ValueError(
                f"components: expected each once, got {components!r}. Leave out the "
                "repeated ones."
            )
        return numbers

    def _order(self, m: int, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the panel of modality m, and the place of each one's component."""
        values = self.responsibilities[m]
        lacking = np.isnan(values[:, 0])
        labels = self.labels
        if self._apart:
            labels = np.where(lacking, -1, np.nan_to_num(values).argmax(axis=1))
        place = np.full(self.weights.size + 1, len(shown))  # the last: no component
        place[shown] = np.arange(len(shown))
        places = place[labels]
        sure = np.nan_to_num(values[np.arange(len(values)), labels])
        order = np.lexsort([-sure, lacking, places])
        order = order[places[order] < len(shown)]
        return order, places[order]

    # ------------------------------------------------------------ panels
    def _draw_weights(self, axis: Any, chosen: np.ndarray) -> list[Any]:
        """Bars; returns what a legend says of their colours."""
        from matplotlib.patches import Patch

        n_components = self.weights.shape[-1]
        owners = chosen // n_components if self._of_modality else 0 * chosen
        colours = [look(code)["color"] for code in owners]
        places = np.arange(len(chosen))
        self.bars_ = axis.bar(
            places,
            self.weights.ravel()[chosen],
            color=colours if self._of_modality else COLOURS[6],
            width=0.75,
        )
        axis.set(xlim=(-0.6, len(chosen) - 0.4))
        axis.spines[["top", "right"]].set_visible(False)
        total = self.weights.size
        noun = "component" if total == 1 else "components"
        count = str(total) if len(chosen) == total else f"{len(chosen)} of {total}"
        _decorate(axis, f"{count} {noun}", "component", "weight")
        axis.set_xticks(places, chosen.astype(str))
        if not self._of_modality:
            return []
        return [
            Patch(color=look(m)["color"], label=_shorten(name))
            for m, name in enumerate(self.modality_names)
        ]

    def _draw_responsibilities(
        self, axes: Any, chosen: np.ndarray
    ) -> tuple[list[Any], list[Any]]:
        """Heat maps; returns them, and what a legend says of grey."""
        from matplotlib import colormaps
        from matplotlib.patches import Patch

        colours = colormaps["Blues"].with_extremes(bad=MISSING)
        images, any_missing = [], False
        for m, (axis, values) in enumerate(
            zip(axes, self.responsibilities, strict=True)
        ):
            shown = self._own(m, chosen) if self._apart else chosen
            rows, places = self._order(m, shown)
            table = values[np.ix_(rows, shown)]
            any_missing |= bool(np.isnan(table).any())
            if not table.size:  # nothing to show is drawn as one missing row
                table = np.full((1, max(len(shown), 1)), np.nan)
            image = axis.imshow(
                np.ma.masked_invalid(table),
                cmap=colours,
                vmin=0,
                vmax=1,
                aspect="auto",
                # Of many rows in a pixel one is drawn; they are sorted, so any will do.
                interpolation="nearest",
            )
            images.append(image)
            seen = np.count_nonzero(~np.isnan(values[:, 0]))
            name = _shorten(self.modality_names[m])
            title = f"{name} alone\n{seen} of {len(values)} rows"
            first = m == 0 or self._apart
            label = "rows, by component" if m == 0 else None
            _decorate(axis, title, "component", label)
            axis.set_xticks(np.arange(len(shown)), shown.astype(str))
            ends = np.searchsorted(places, np.arange(len(shown)), side="right")
            starts = np.concatenate([[0], ends[:-1]])
            for end in ends[:-1]:
                axis.axhline(end - 0.5, color="0.6", linewidth=0.4)
            some = ends > starts
            axis.set_yticks(
                ((starts + ends - 1) / 2)[some],
                shown[some].astype(str) if first else [""] * some.sum(),
            )
        grey = [Patch(color=MISSING, label="modality missing")] if any_missing else []
        return images, grey

    def _draw_means(
        self, axes: Any, chosen: np.ndarray, vmax: float | None
    ) -> tuple[list[Any], list[Any]]:
        """Heat maps and pictures; returns all, and those that have a common scale."""
        tables = [self._standardised(m, chosen) for m in range(len(self.means))]
        plain = [
            np.abs(table).max(initial=0.0)
            for name, table in zip(self.modality_names, tables, strict=True)
            if name not in self.image_shapes
        ]
        if vmax is None:
            vmax = max(plain, default=0.0) or 1.0
        images, scaled = [], []
        for m, (axis, name) in enumerate(zip(axes, self.modality_names, strict=True)):
            own = self._own(m, chosen)
            n_columns = self.means[m].shape[1]
            noun = "column" if n_columns == 1 else "columns"
            label = "component" if m == 0 or self._of_modality else None
            _decorate(axis, f"{_shorten(name)}\n{n_columns} {noun}", None, label)
            if name in self.image_shapes:
                image = _draw_pictures(
                    axis, self.means[m][self._rows(own)], own, self.image_shapes[name]
                )
                axis.set_ylabel("")
            else:
                table = tables[m]
                if not table.size:
                    table = np.full((1, n_columns), np.nan)
                image = axis.imshow(
                    np.ma.masked_invalid(table),
                    cmap="RdBu",
                    vmin=-vmax,
                    vmax=vmax,
                    aspect="auto",
                    interpolation="none",
                )
                scaled.append(image)
                first = m == 0 or self._of_modality
                axis.set_yticks(
                    np.arange(len(own)), own.astype(str) if first else [""] * len(own)
                )
                self._label_columns(axis, m)
            images.append(image)
        return images, scaled

    def _rows(self, own: np.ndarray) -> np.ndarray:
        """Rows of a modality's means for the numbers of its components."""
        return own % self.weights.shape[-1]

    def _label_columns(self, axis: Any, m: int) -> None:
        n_columns = self.means[m].shape[1]
        if self.feature_names is None or n_columns > FEW:
            axis.set_xticks([])
            return
        prefix = f"{self.modality_names[m]}__"
        names = [str(name).removeprefix(prefix) for name in self.feature_names[m]]
        axis.set_xticks(np.arange(n_columns), map(_shorten, names), rotation=90)

    def _standardised(self, m: int, chosen: np.ndarray) -> np.ndarray:
        """Means of the shown components, from the location in units of the scale."""
        means = self.means[m]
        weights = self.weights[m] if self._of_modality else self.weights
        share = weights / (weights.sum() or 1.0)
        if self.location is None:
            location = share @ means
        else:
            location = np.asarray(self.location[m], dtype=float)
        if self.scale is None:
            scale = np.sqrt(share @ (means - location) ** 2)
        else:
            scale = np.asarray(self.scale[m], dtype=float)
        away = means[self._rows(self._own(m, chosen))] - location
        # A column that is constant tells nothing, whatever rounding left of it.
        usable = scale > 1e-12 * np.abs(means).max(axis=0, initial=0.0)
        return np.where(usable, away / np.where(usable, scale, 1.0), 0.0)

    def _draw_legends(self, hosts: Any, legends: Any, bars: Any, ax: Any) -> None:
        """Legends first, since the figure is made wider for them; then colour bars."""
        left = 0.0 if ax is None else 1.05  # in shares of the host's width
        titles = {"weights": "modality", "responsibilities": "row"}
        lower = {}
        for kind, host in hosts.items():
            group = {titles.get(kind, ""): legends[kind]}
            drawn, lower[kind] = draw_legends(host, left, group)
            self.legends_ += drawn
        if ax is None:
            widen(next(iter(hosts.values())), self.legends_)
        settle(self.figure_)
        for kind, (title, image) in bars.items():
            draw_colour_bar(hosts[kind], left, lower[kind], image, title)


# ---------------------------------------------------------------- drawing
def _new_axes(
    sizes: dict[str, int], n_blocks: int, legend: bool
) -> tuple[np.ndarray, list[Any]]:
    """A row of panels for each kind, and axes for the legends beside each row."""
    import matplotlib.pyplot as plt

    side = float(np.clip(WIDTH / n_blocks, *PANEL))
    widths = [side] * n_blocks + [LEGENDS] * bool(legend)
    heights = [HEIGHTS[kind] for kind in sizes]
    figure = plt.figure(
        figsize=(sum(widths), sum(heights) + 0.3 * len(heights)), layout="constrained"
    )
    grid = figure.add_gridspec(
        len(heights), len(widths), width_ratios=widths, height_ratios=heights
    )
    axes, hosts = [], []
    for row, size in enumerate(sizes.values()):
        places = (
            [grid[row, :n_blocks]] if size == 1 else [grid[row, m] for m in range(size)]
        )
        axes += [figure.add_subplot(place) for place in places]
        if legend:
            hosts.append(figure.add_subplot(grid[row, -1]))
            hosts[-1].axis("off")
    return np.array(axes), hosts or [None] * len(sizes)


def _decorate(axis: Any, title: str, xlabel: str | None, ylabel: str | None) -> None:
    axis.set_title(title, fontsize=font(8), color=INK)
    axis.set_xlabel(xlabel or "", fontsize=font(7), color=INK)
    axis.set_ylabel(ylabel or "", fontsize=font(7), color=INK)
    axis.tick_params(length=0, labelsize=font(7), labelcolor=INK)
    axis.spines[:].set(linewidth=0.5, color="0.5")


def _thin(axis: Any) -> None:
    """Leave out labels of ticks that would run into the one before."""
    box = axis.get_window_extent()
    dots = 72 / axis.figure.dpi
    size = font(7)
    for which, length, limits in (
        (axis.xaxis, box.width * dots, axis.get_xlim()),
        (axis.yaxis, box.height * dots, axis.get_ylim()),
    ):
        labels = [text.get_text() for text in which.get_ticklabels()]
        if not _is_fixed(which) or not any(labels):
            continue
        unit = length / abs(limits[1] - limits[0])
        upright = which is axis.yaxis or which.get_ticklabels()[0].get_rotation() == 90
        last, kept = -np.inf, []
        for place, label in zip(which.get_ticklocs(), labels, strict=True):
            needed = 1.1 * size if upright else text_width(label, size) + 0.5 * size
            fits = unit * abs(place - last) >= needed
            kept.append(label if fits else "")
            last = place if fits else last
        which.set_ticklabels(kept)


def _is_fixed(which: Any) -> bool:
    """Whether the ticks were set by hand, so that their labels may be."""
    from matplotlib.ticker import FixedLocator

    return isinstance(which.get_major_locator(), FixedLocator)


def _draw_pictures(
    axis: Any, means: np.ndarray, numbers: np.ndarray, shape: tuple[int, int, int]
) -> Any:
    """Means as pictures in a grid, each with the number of its component."""
    n_channels, height, width = shape
    pictures = means.reshape(-1, *shape)
    colour = n_channels == 3
    pictures = np.moveaxis(pictures, 1, -1)
    if not colour:
        pictures = pictures.mean(axis=-1, keepdims=True)
    box = axis.get_window_extent()
    n_columns = _best_columns(
        len(pictures), (height + GAP) / (width + GAP), box.height / box.width
    )
    n_rows = max(-(-len(pictures) // n_columns), 1)
    size = n_rows * (height + GAP) - GAP, n_columns * (width + GAP) - GAP
    canvas = np.full((*size, pictures.shape[-1]), np.nan)
    for k, picture in enumerate(pictures):
        top, left = np.array(divmod(k, n_columns)) * [height + GAP, width + GAP]
        canvas[top : top + height, left : left + width] = picture
        axis.text(
            left - 0.5,
            top - 0.5,
            str(numbers[k]),
            fontsize=font(6),
            color="k",
            ha="left",
            va="top",
            bbox={"facecolor": "w", "edgecolor": "none", "pad": 0.6},
        )
    axis.set_axis_off()
    if not colour:
        return axis.imshow(
            np.ma.masked_invalid(canvas[..., 0]), cmap="gray", interpolation="none"
        )
    inside = ~np.isnan(canvas[..., :1])
    low, high = (means.min(), means.max()) if means.size else (0.0, 1.0)
    shades = np.nan_to_num((canvas - low) / ((high - low) or 1.0))
    return axis.imshow(np.concatenate([shades, inside], axis=-1), interpolation="none")


def _best_columns(n: int, of_picture: float, of_panel: float) -> int:
    """Columns of the grid in which n pictures become largest.

    The last two parameters are height over width.
    """
    columns = np.arange(1, max(n, 1) + 1)
    rows = -(-n // columns)
    width = np.minimum(1 / columns, of_panel / (rows * of_picture + (n == 0)))
    return int(columns[width.argmax()])


# ---------------------------------------------------------------- the estimator
def _check_estimator(estimator: Any) -> None:
    check_is_fitted(estimator)
    if getattr(estimator, "method", None) == "neural":
        raise ValueError(
            "estimator: expected a mixture over the data, got method='neural', whose "
            "means are of embeddings. Fit with method='cavi', 'svi' or 'memoized', or "
            "pass weights_ to the constructor."
        )
    needed = ("weights_", "means_", "modality_names_in_", "modality_indices_")
    lacking = [name for name in needed if not hasattr(estimator, name)]
    if lacking:
        raise TypeError(
            f"estimator: expected one with the fitted attributes {', '.join(needed)}, "
            f"such as DPMixtureFusion, got {type(estimator).__name__} without "
            f"{lacking[0]}. Pass the last step of a Pipeline, or best_estimator_ of a "
            "search."
        )


def _responsibilities(estimator: Any, X: Any) -> np.ndarray:
    """Responsibilities also with a head, whose predict_proba is of classes."""
    plain = copy(estimator).set_params(representation="responsibilities")
    return np.asarray(plain.transform(X), dtype=float)


def _alone(
    estimator: Any, values: np.ndarray, columns: list[np.ndarray]
) -> list[np.ndarray]:
    """What each modality gives by itself; NaN in rows that lack it."""
    nameless = copy(estimator)  # the names were checked, and `values` has none
    vars(nameless).pop("feature_names_in_", None)
    found = []
    for own in columns:
        X = np.full_like(values, np.nan)
        X[:, own] = values[:, own]
        alone = _responsibilities(nameless, X)
        alone[np.isnan(X[:, own]).all(axis=1)] = np.nan
        found.append(alone)
    return found


def _column_moments(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the observed cells; zeros without any."""
    seen = ~np.isnan(block)
    count = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, block, 0).sum(axis=0) / count
    square = np.where(seen, (block - mean) ** 2, 0).sum(axis=0) / count
    return mean, np.sqrt(square)


def _image_shapes(estimator: Any) -> dict[str, tuple[int, ...]]:
    """Shapes (C, H, W) that the parameter `modalities` declares."""
    declared = getattr(estimator, "modalities", None)
    if not isinstance(declared, Mapping):
        return {}
    sizes = {name: len(own) for name, own in estimator.modality_indices_.items()}
    shapes = {name: getattr(one, "shape", None) for name, one in declared.items()}
    return {
        str(name): tuple(shape)
        for name, shape in shapes.items()
        if shape is not None and len(shape) == 3 and np.prod(shape) == sizes.get(name)
    }


# ---------------------------------------------------------------- checks
def _check_weights(weights: Any) -> np.ndarray:
    values = np.asarray(weights, dtype=float)
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(
            "weights: expected shape (n_components,) or (n_modalities, n_components), "
            f"got {values.shape}. Pass weights_ of a fitted estimator."
        )
    if not (values >= 0).all() or not np.isfinite(values).all():
        raise ValueError(
            "weights: expected numbers >= 0, got negative ones, NaN or infinity. Pass "
            "weights_ of a fitted estimator, not logarithms."
        )
    return values


def _count_modalities(weights: np.ndarray, **given: Any) -> int:
    """Number of modalities, on which all that was given must agree."""
    counts = {"weights": len(weights)} if weights.ndim == 2 else {}
    for name, value in given.items():
        if value is None:
            continue
        if isinstance(value, str) or not isinstance(value, Sized):
            raise TypeError(
                f"{name}: expected a list with one entry for each modality, got "
                f"{type(value).__name__}. Pass [{name}] for one modality."
            )
        counts[name] = len(value)
    (first, n_blocks), *others = counts.items() or [("", 1)]
    for name, count in others:
        if count != n_blocks:
            raise ValueError(
                f"{name}: expected {n_blocks} entries, one for each modality as "
                f"{first} has them, got {count}. Pass one for each modality."
            )
    return n_blocks


def _check_responsibilities(given: Any, n_atoms: int) -> list[np.ndarray] | None:
    if given is None:
        return None
    blocks = [np.asarray(one, dtype=float) for one in given]
    for m, one in enumerate(blocks):
        expected = (len(blocks[0]) if blocks[0].ndim else 0, n_atoms)
        if one.shape != expected:
            raise ValueError(
                f"responsibilities: expected shape {expected} for modality {m}, a "
                f"column for each entry of weights, got {one.shape}. Pass NaN for rows "
                "that lack the modality."
            )
        if ((one < 0) | (one > 1 + 1e-6)).any():
            raise ValueError(
                f"responsibilities: expected shares from 0 to 1, got "
                f"{np.nanmin(one):.3g} to {np.nanmax(one):.3g} for modality {m}. Pass "
                "probabilities, not logarithms."
            )
    return blocks


def _check_means(given: Any, n_components: int) -> list[np.ndarray] | None:
    if given is None:
        return None
    blocks = [np.asarray(one, dtype=float) for one in given]
    for m, one in enumerate(blocks):
        if one.ndim != 2 or len(one) != n_components:
            raise ValueError(
                f"means: expected shape ({n_components}, n_columns) for modality {m}, "
                f"a row for each component, got {one.shape}. Pass means_ of a fitted "
                "estimator."
            )
        if not np.isfinite(one).all():
            raise ValueError(
                f"means: expected finite numbers, got NaN or infinity for modality {m}."
                " Leave out the columns that are never observed."
            )
    return blocks


def _check_labels(
    given: Any, responsibilities: list[np.ndarray] | None, n_atoms: int
) -> np.ndarray | None:
    if responsibilities is None:
        return None
    if given is None:
        return np.nansum(responsibilities, axis=0).argmax(axis=1)
    labels, n_rows = np.asarray(given), len(responsibilities[0])
    if labels.shape != (n_rows,):
        raise ValueError(
            f"labels: expected shape ({n_rows},), a component for each row of "
            f"responsibilities, got {labels.shape}. Pass labels_ of the same rows."
        )
    right = labels.dtype.kind in "iu" and ((labels >= 0) & (labels < n_atoms)).all()
    if labels.size and not right:
        raise ValueError(
            f"labels: expected integers from 0 to {n_atoms - 1}, got "
            f"{np.unique(labels)[:3].tolist()} and others. Pass labels_ of the "
            "mixture, not classes."
        )
    return labels.astype(int)


def _check_columns(name: str, given: Any, means: list[np.ndarray] | None) -> Any:
    """One array a modality, with an entry for each column of its means."""
    if given is None or means is None:
        return None
    expected = [one.shape[1] for one in means]
    blocks = [np.asarray(one) for one in given]
    if [one.shape for one in blocks] != [(size,) for size in expected]:
        raise ValueError(
            f"{name}: expected one array for each modality, of lengths {expected} as "
            f"means has columns, got shapes {[one.shape for one in blocks]}. Pass one "
            "entry for each column."
        )
    return blocks


def _check_shapes(
    given: Any, names: list[str], means: list[np.ndarray] | None
) -> dict[str, tuple[int, int, int]]:
    if given is None or means is None:
        return {}
    sizes = {name: one.shape[1] for name, one in zip(names, means, strict=True)}
    for name, shape in given.items():
        right = name in sizes and len(shape) == 3
        right = right and all(isinstance(size, Integral) for size in shape)
        if not right or np.prod(shape) != sizes[name]:
            raise ValueError(
                f"image_shapes: expected shapes (C, H, W) of {sizes} columns, got "
                f"{shape!r} for {name!r}. Pass (1, H, W) for pictures in grey."
            )
    return dict(given)


def _check_plot(min_weight: Any, vmax: Any) -> None:
    if not isinstance(min_weight, Real) or not 0 <= min_weight < 1:
        raise ValueError(
            f"min_weight: expected a number in [0, 1), got {min_weight!r}. 0 shows all "
            "components that have a weight."
        )
    if vmax is not None and (not isinstance(vmax, Real) or not 0 < vmax < np.inf):
        raise ValueError(
            f"vmax: expected a number > 0 or None, got {vmax!r}. None takes the "
            "largest standardised mean that is drawn."
        )
