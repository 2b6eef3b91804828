"""The display of shared codes: what is common to modalities, and what comes of it."""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import roc_auc_score
from sklearn.utils import _safe_indexing
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_array, check_is_fitted

from skmm.plotting._figure import check_axes, new_axes, settle, widen
from skmm.plotting._legend import draw_colour_bar, draw_legends
from skmm.plotting._panels import _shorten
from skmm.plotting._style import COLOURS, FAINT, INK, MARKERS, font, look

KINDS = ("map", "distances", "classes", "generation")
# What the constructor must be given for each kind.
NEEDED = {
    "map": ("codes",),
    "distances": ("distances",),
    "classes": ("distances", "y"),
    "generation": ("given", "generated"),
}
MISSING = "0.85"  # what a row lacks, and classes that no two rows tell apart
SIDE = 4.0  # inches, of the one panel of every kind but "generation"
CELL = 0.85  # inches, of a picture in "generation"
N_BINS = 50
MOST_ROWS = 8  # that "generation" shows when no rows are chosen
MOST_NUMBERS = 12  # classes up to which each cell has its number
PAIRED, SAME, OTHER = COLOURS[7], COLOURS[0], COLOURS[6]


class SharedCodeDisplay:
    r"""Shared codes of several modalities, drawn in one of four kinds.

    - *Map*: the shared codes of all modalities in one plane, coloured by class, with a
      marker for each modality. Where modalities agree, codes of a class lie together
      whatever they were computed from.
    - *Distances*: how far apart the codes of two modalities are, for *pairs* (two
      modalities of a row) and for modalities of different rows. The title says in how
      many comparisons of the two the pair is nearer: 50 % is chance. With classes,
      rows of the same class are drawn apart from those of others, which tells codes
      that know a row from codes that know its class only.
    - *Classes*: the mean distance of codes of one modality, by class, from those of
      another, by class. Pairs are left out of the mean.
    - *Generation*: rows of one modality, and below them draws of another that are
      generated from them.

    A distance is the 2-Wasserstein distance of two posteriors, which for Gaussians with
    means :math:`\mu` and standard deviations :math:`\sigma` is

    .. math::

        W_2 = \sqrt{\lVert \mu_a - \mu_b \rVert^2
                    + \lVert \sigma_a - \sigma_b \rVert^2}.

    Parameters
    ----------
    codes : dict of str to array-like of shape (n_samples, n_components), default=None
        Shared codes by modality, NaN in rows that lack it; for *map*.
    distances : array-like of shape (n_samples, n_samples), default=None
        Of row i's code given one modality and row j's given another, NaN where either
        is missing; for *distances* and *classes*.
    given : dict of str to array-like of shape (n_samples, n_columns), default=None
        Rows by modality, NaN where missing; for *generation*.
    generated : dict of str to array-like, default=None
        Draws by modality, of shape (n_draws, n_samples, n_columns); for *generation*.
    y : array-like of shape (n_samples,), default=None
        Class of each row.
    between : tuple of two str, default=("a", "b")
        Names of the modalities that `distances` are between.
    shapes : dict of str to tuple of int, default=None
        Shapes of the modalities that are images (C, H, W) or sequences (T, D).

    Attributes
    ----------
    ax_ : matplotlib Axes
        The first panel.
    axes_ : ndarray of matplotlib Axes
        All panels: of shape (1,), or for *generation* (n_given + n_draws, n_samples).
    figure_ : matplotlib Figure
        The figure they are in.
    legends_ : list of matplotlib Legend
        The legends.
    positions_ : dict of str to ndarray of shape (n_samples, 2)
        Where codes are in the plane, NaN where missing. Only of a map.
    points_ : dict of str to matplotlib PathCollection
        The markers. Only of a map.
    pairs_ : matplotlib LineCollection or None
        The lines between codes of a row. Only of a map.
    histograms_ : dict of str to matplotlib StepPatch
        "paired" and "unpaired", or "paired", "same class" and "other class". Only
        of distances.
    nearer_ : float
        Share of comparisons in which a pair is nearer than different rows are, in
        [0, 1]. Only of distances.
    classes_ : ndarray of shape (n_classes,)
        The classes. Only of classes.
    class_distances_ : ndarray of shape (n_classes, n_classes)
        Mean distances, NaN where no two rows have the classes. Only of classes.
    image_ : matplotlib AxesImage
        The matrix of these. Only of classes.

    See Also
    --------
    skmm.DCMEMEncoder : An estimator with shared and private codes.

    Notes
    -----
    A plane keeps a part of what distinguishes codes; the title of a map says how large
    a part of their variance PCA keeps. t-SNE keeps neighbours, but neither the
    distances of groups nor their sizes, and gaps it shows need not be there.

    Distances of two modalities can be small because both codes hardly vary. Compare
    pairs with different rows, not with zero.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm.plotting import SharedCodeDisplay
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["cat", "dog"], 20)
    >>> image = rng.normal(size=(40, 3)) + 9 * (y == "dog")[:, None]
    >>> text = image + 0.1 * rng.normal(size=(40, 3))
    >>> display = SharedCodeDisplay({"image": image, "text": text}, y=y)
    >>> display.plot(kind="map").ax_.get_title()
    'shared codes of 40 rows\nPCA, 99 % of their variance'

    From an estimator, with the rows to look at:

    >>> from skmm import DCMEMEncoder
    >>> encoder = DCMEMEncoder([3, 3], max_epochs=5, random_state=0)
    >>> X = np.hstack([image, text])
    >>> display = SharedCodeDisplay.from_estimator(
    ...     encoder.fit(X), X, kind="generation", rows=[0, 20, 39], n_samples=2
    ... )
    >>> display.axes_.shape
    (3, 3)
    """

    def __init__(
        self,
        codes: Any = None,
        *,
        distances: Any = None,
        given: Any = None,
        generated: Any = None,
        y: Any = None,
        between: Any = ("a", "b"),
        shapes: Any = None,
    ):
        self.codes = _check_blocks("codes", codes, 2)
        self.distances = _check_distances(distances)
        self.given = _check_blocks("given", given, 2)
        self.generated = _check_blocks("generated", generated, 3)
        n_rows = _count_rows(self)
        self.y = _check_y(y, n_rows)
        self.between = _check_between(between, None)
        self.shapes = _check_shapes(shapes, self.given, self.generated)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        kind: str = "map",
        between: Any = None,
        from_: Any = None,
        to: str | None = None,
        rows: Any = None,
        n_samples: int = 4,
        private: str = "prior",
        draw: Any = None,
        embedding: Any = "pca",
        pairs: bool = False,
        random_state: Any = None,
        legend: bool = True,
        ax: Any = None,
    ) -> "SharedCodeDisplay":
        """Draw what a fitted encoder makes of rows of X.

        Parameters
        ----------
        estimator : DCMEMEncoder
            Fitted, on two modalities or more but for a map.
        X : array-like of shape (n_samples, n_features)
            Rows to show, with NaN where missing: rather not those of `fit`, whose
            pairs the encoder has seen.
        y : array-like of shape (n_samples,), default=None
            Class of each row; needed by 'classes'.
        kind : {'map', 'distances', 'classes', 'generation'}, default='map'
            What to draw.
        between : tuple of two str, default=None
            Names of the modalities for 'distances' and 'classes', which has the first
            downwards. The first two modalities if None.
        from_ : str or list of str, default=None
            What 'generation' is from; of several the joint code is used. The first
            modality that is not `to` if None.
        to : str, default=None
            What to generate. The first modality that is not in `from_` if None.
        rows : int or list of int, default=None
            Rows of X for 'generation'. If None, the first that have what is needed: one
            of each class, or 8 without `y`.
        n_samples : int, default=4
            Draws of 'generation', for each row.
        private : str, default='prior'
            Private code of 'generation', as `generate` takes it: with 'prior', draws of
            a row also differ in what the given modality does not say.
        draw : dict of str to callable, default=None
            For 'generation', how to draw modalities, by name: called as
            ``draw[name](ax, values)`` with one row's values in their shape. Images are
            pictures and all else is lines where nothing is said.
        embedding : {'pca', 'tsne'} or transformer, default='pca'
            What takes the codes of a map to the plane. A transformer is cloned, and
            its `fit_transform` called with the codes of all modalities.
        pairs : bool, default=False
            Whether lines on a map join the codes of a row.
        random_state : int, RandomState instance or None, default=None
            Seeds the draws of 'generation' and 'tsne'.
        legend : bool, default=True
            Whether to draw legends and the colour bar, right of the panel.
        ax : Axes or array-like of Axes, default=None
            One, or for 'generation' one for each cell, in rows. A new figure is made if
            None.

        Returns
        -------
        display : SharedCodeDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it has no shared codes.
        ValueError
            If a modality has no such name, or rows lack what is needed.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        _check_estimator(estimator)
        _check_kind(kind)
        names = [str(name) for name in estimator.modality_names_in_]
        if kind == "map":
            found = estimator.transform_dist(X)
            data = {"codes": {name: found[name].shared_mean for name in names}}
        elif kind == "generation":
            data = _generate(
                estimator,
                X,
                y,
                names,
                from_,
                to,
                rows,
                n_samples,
                private,
                random_state,
            )
            y = data.pop("y")
        else:
            between = _check_between(between, names)
            matrix = estimator.pairwise_w2(X, *between)
            data = {"distances": matrix, "between": between}
        return cls(**data, y=y).plot(
            kind=kind,
            draw=draw,
            embedding=embedding,
            pairs=pairs,
            random_state=random_state,
            legend=legend,
            ax=ax,
        )

    def plot(
        self,
        *,
        kind: str = "map",
        draw: Any = None,
        embedding: Any = "pca",
        pairs: bool = False,
        random_state: Any = None,
        legend: bool = True,
        ax: Any = None,
    ) -> "SharedCodeDisplay":
        """Draw one kind.

        Parameters
        ----------
        kind : {'map', 'distances', 'classes', 'generation'}, default='map'
            What to draw, of which the display must have been given the arrays.
        draw : dict of str to callable, default=None
            For 'generation', how to draw modalities, by name: called as
            ``draw[name](ax, values)`` with one row's values in their shape. Images are
            pictures and all else is lines where nothing is said.
        embedding : {'pca', 'tsne'} or transformer, default='pca'
            What takes the codes of a map to the plane. A transformer is cloned, and
            its `fit_transform` called with the codes of all modalities.
        pairs : bool, default=False
            Whether lines on a map join the codes of a row.
        random_state : int, RandomState instance or None, default=None
            Seeds 'tsne'.
        legend : bool, default=True
            Whether to draw legends and the colour bar, right of the panel.
        ax : Axes or array-like of Axes, default=None
            One, or for 'generation' one for each cell, in rows. A new figure is made if
            None.

        Returns
        -------
        display : SharedCodeDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        _check_kind(kind)
        for name in NEEDED[kind]:
            if getattr(self, name) is None:
                raise ValueError(
                    f"{name}: expected an array for kind={kind!r}, got None. Pass "
                    f"{name}, or choose another kind than {kind!r}."
                )
        self.legends_: list[Any] = []
        if kind == "generation":
            self._draw_generation(_check_draw(draw), ax)
            return self
        if kind == "map":
            self.positions_, title = self._place(embedding, random_state)
        host = None
        if ax is None:
            self.axes_, host = new_axes(1, SIDE, legend)
        else:
            self.axes_ = check_axes(ax, 1, "another kind")
        self.ax_, self.figure_ = self.axes_[0], self.axes_[0].figure
        groups: dict[str, list[Any]] = {}
        if kind == "map":
            groups = self._draw_map(title, pairs)
        elif kind == "distances":
            groups = self._draw_distances()
        else:
            self._draw_classes()
        settle(self.figure_)
        if legend:
            self._draw_legends(host, groups, kind == "classes")
        return self

    # ------------------------------------------------------------ the map
    def _place(self, embedding: Any, seed: Any) -> tuple[dict[str, np.ndarray], str]:
        """Positions in the plane, and a title that says what they are."""
        stacked = np.concatenate(list(self.codes.values()))
        seen = ~np.isnan(stacked).any(axis=1)
        n_rows = len(stacked) // len(self.codes)
        if seen.sum() < 2:
            raise ValueError(
                f"codes: expected at least two that are not NaN, got {seen.sum()}. "
                "Pass rows that have modalities."
            )
        title = f"shared codes of {n_rows} rows\n"
        if isinstance(embedding, str) and embedding == "pca":
            pca = PCA(min(2, *stacked[seen].shape))
            plane = pca.fit_transform(stacked[seen])
            share = pca.explained_variance_ratio_.sum()
            # A single dimension is drawn as a line.
            plane = np.pad(plane, [(0, 0), (0, 2 - plane.shape[1])])
            title += f"PCA, {share:.0%} of their variance".replace("%", " %")
        elif isinstance(embedding, str) and embedding == "tsne":
            perplexity = min(30.0, (seen.sum() - 1) / 3)
            tsne = TSNE(perplexity=perplexity, init="random", random_state=seed)
            plane = tsne.fit_transform(stacked[seen])
            title += "t-SNE"
        elif hasattr(embedding, "fit_transform") and not isinstance(embedding, type):
            plane = clone(embedding, safe=False).fit_transform(stacked[seen])
            plane = np.asarray(plane, dtype=float)
            title += type(embedding).__name__
        else:
            raise ValueError(
                "embedding: expected 'pca', 'tsne' or a transformer, got "
                f"{embedding!r}. Pass an object with fit_transform, such as Isomap()."
            )
        if plane.shape != (seen.sum(), 2):
            raise ValueError(
                f"embedding: expected one that gives {(int(seen.sum()), 2)}, got "
                f"{plane.shape}. Pass one with n_components=2."
            )
        places = np.full((len(stacked), 2), np.nan)
        places[seen] = plane
        split = np.split(places, len(self.codes))
        return dict(zip(self.codes, split, strict=True)), title

    def _draw_map(self, title: str, pairs: bool) -> dict[str, list[Any]]:
        """Points and lines; returns what the legends say."""
        from matplotlib.collections import LineCollection
        from matplotlib.lines import Line2D

        axis = self.ax_
        self.pairs_ = None
        if pairs:
            # From each code to the middle of its row's: one line where there are two.
            places = np.stack(list(self.positions_.values()))
            seen = ~np.isnan(places[..., 0])
            middle = np.nansum(places, axis=0)
            middle /= np.maximum(seen.sum(axis=0), 1)[:, None]
            seen &= seen.sum(axis=0) > 1
            ends = np.stack([places, np.broadcast_to(middle, places.shape)], axis=2)
            self.pairs_ = LineCollection(
                list(ends[seen]), colors=FAINT, linewidths=0.4, zorder=1
            )
            axis.add_collection(self.pairs_)
        classes, codes, colours = _class_colours(self.y)
        size = font(4)
        style = {"linestyle": "none", "markersize": font(5)}
        self.points_, of_modality = {}, []
        for m, (name, places) in enumerate(self.positions_.items()):
            seen = ~np.isnan(places[:, 0])
            marker, own = MARKERS[m % len(MARKERS)], look(m)["color"]
            edges = [own] if classes is None else colours[codes[seen]]
            # Open and filled markers can be told apart where small shapes cannot.
            is_open = m % 2 == 1
            self.points_[name] = axis.scatter(
                *places[seen].T,
                s=size**2,
                marker=marker,
                facecolors="none" if is_open else edges,
                edgecolors=edges,
                linewidths=0.7,
                alpha=0.8,
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
        _decorate(axis, title)
        axis.set(xticks=[], yticks=[])
        return {"modality": of_modality, "class": of_class}

    # ------------------------------------------------------------ distances
    def _draw_distances(self) -> dict[str, list[Any]]:
        """Histograms; returns what the legend says."""
        values = self.distances
        seen = ~np.isnan(values)
        paired = np.eye(len(values), dtype=bool)
        groups = {"paired": paired}
        if self.y is None:
            groups["unpaired"] = ~paired
        else:
            same = self.y[:, None] == self.y
            groups |= {"same class": same & ~paired, "other class": ~same}
        groups = {name: values[mask & seen] for name, mask in groups.items()}
        if not groups["paired"].size or groups["paired"].size == seen.sum():
            raise ValueError(
                "distances: expected pairs and different rows that are not NaN, got "
                f"{groups['paired'].size} pairs of {int(seen.sum())}. Pass rows that "
                f"have both {self.between[0]} and {self.between[1]}."
            )
        self.nearer_ = float(roc_auc_score(~paired[seen], values[seen]))
        edges = np.histogram_bin_edges(values[seen], N_BINS)
        colours = {"paired": PAIRED, "same class": SAME}
        self.histograms_ = {}
        for name, group in groups.items():
            if not group.size:
                continue
            heights, _ = np.histogram(group, edges, density=True)
            colour = colours.get(name, OTHER)
            label = f"{name}\n({group.size})"
            self.histograms_[name] = self.ax_.stairs(
                heights, edges, fill=True, color=colour, alpha=0.35, label=label
            )
            self.ax_.stairs(heights, edges, color=colour, linewidth=1.2)
        a, b = map(_shorten, self.between)
        share = f"{self.nearer_:.0%}".replace("%", " %")
        _decorate(
            self.ax_,
            f"{a} and {b}\npairs are nearer in {share} of comparisons",
            "W2 distance of shared codes",
            "density",
        )
        self.ax_.set(xlim=(edges[0], edges[-1]), ylim=(0, None))
        self.ax_.spines[["top", "right"]].set_visible(False)
        return {"rows": list(self.histograms_.values())}

    def _draw_classes(self) -> None:
        """The matrix of mean distances."""
        from matplotlib import colormaps

        self.classes_, self.class_distances_ = _class_means(self.distances, self.y)
        table = self.class_distances_
        if np.isnan(table).all():
            raise ValueError(
                "distances: expected some between different rows, got only NaN. Pass "
                f"rows that have {self.between[0]} or {self.between[1]}."
            )
        axis, n = self.ax_, len(table)
        self.image_ = axis.imshow(
            np.ma.masked_invalid(table),
            cmap=colormaps["Blues_r"].with_extremes(bad=MISSING),
            interpolation="none",
        )
        if n <= MOST_NUMBERS:
            middle = (np.nanmin(table) + np.nanmax(table)) / 2
            for (i, j), value in np.ndenumerate(table):
                if not np.isnan(value):
                    colour = "w" if value < middle else INK
                    axis.text(
                        j,
                        i,
                        f"{value:.2g}",
                        ha="center",
                        va="center",
                        fontsize=font(6.5),
                        color=colour,
                    )
        a, b = map(_shorten, self.between)
        _decorate(axis, "mean W2 distance of classes", b, a)
        ticks = np.arange(0, n, -(-n // 30))
        labels = [_shorten(str(self.classes_[k])) for k in ticks]
        upright = max(map(len, labels)) > 3
        axis.set_xticks(ticks, labels, rotation=90 if upright else 0)
        axis.set_yticks(ticks, labels)

    # ------------------------------------------------------------ generation
    def _draw_generation(self, draw: Mapping[str, Callable], ax: Any) -> None:
        """A column for each row: what is given, and the draws below it."""
        lines = [(name, "given", block) for name, block in self.given.items()]
        for name, block in self.generated.items():
            lines += [(name, f"draw {k + 1}", one) for k, one in enumerate(block)]
        shape = len(lines), len(lines[0][2])
        if ax is None:
            axes = _new_grid(*shape)
        else:
            axes = check_axes(ax, shape[0] * shape[1], "fewer rows").reshape(shape)
        self.axes_, self.ax_, self.figure_ = axes, axes[0, 0], axes[0, 0].figure
        limits = {
            name: _limits([block for other, _, block in lines if other == name])
            for name, *_ in lines
        }
        for row, (name, label, block) in zip(axes, lines, strict=True):
            form = self.shapes.get(name, block.shape[1:])
            for axis, values in zip(row, block, strict=True):
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set(linewidth=0.5, color=FAINT)
                if np.isnan(values).all():
                    axis.set_facecolor(MISSING)
                elif name in draw:
                    draw[name](axis, values.reshape(form))
                else:
                    _draw_values(axis, values.reshape(form), limits[name])
            row[0].set_ylabel(f"{_shorten(name)}\n{label}", fontsize=font(7), color=INK)
        for axis, one in zip(axes[0], [] if self.y is None else self.y, strict=False):
            axis.set_title(_shorten(str(one)), fontsize=font(8), color=INK)

    def _draw_legends(self, host: Any, groups: Any, bar: bool) -> None:
        """Legends first, since a new figure is made wider for them; then the bar."""
        left, new = (0.0, host is not None)
        if not new:
            host, left = self.ax_, 1.05
        self.legends_, lower = draw_legends(host, left, groups)
        if new:
            widen(host, self.legends_)
        settle(self.figure_)
        if bar:
            draw_colour_bar(host, left, lower, self.image_, "W2")


# ---------------------------------------------------------------- drawing
def _new_grid(n_lines: int, n_rows: int) -> np.ndarray:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        n_lines,
        n_rows,
        figsize=(CELL * n_rows + 0.4, CELL * n_lines + 0.3),
        layout="constrained",
        squeeze=False,
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    return axes


def _decorate(
    axis: Any, title: str, xlabel: str | None = None, ylabel: str | None = None
) -> None:
    axis.set_title(title, fontsize=font(8), color=INK)
    axis.set_xlabel(xlabel or "", fontsize=font(7), color=INK)
    axis.set_ylabel(ylabel or "", fontsize=font(7), color=INK)
    axis.tick_params(length=0, labelsize=font(7), labelcolor=INK)
    axis.spines[:].set(linewidth=0.5, color="0.5")


def _draw_values(axis: Any, values: np.ndarray, limits: tuple[float, float]) -> None:
    """One row's values: a picture, or lines over the columns or time steps."""
    low, high = limits
    if values.ndim == 3:
        picture = np.moveaxis(values, 0, -1)
        if picture.shape[-1] == 3:
            picture = np.nan_to_num((picture - low) / (high - low))
        else:
            picture = np.ma.masked_invalid(picture.mean(axis=-1))
        axis.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="none")
        return
    for k, line in enumerate(values.T if values.ndim == 2 else [values]):
        axis.plot(line, linewidth=0.9, color=COLOURS[(6 + k) % len(COLOURS)])
    margin = 0.05 * (high - low)
    axis.set_ylim(low - margin, high + margin)


def _limits(blocks: list[np.ndarray]) -> tuple[float, float]:
    """Least and greatest of all values, which differ."""
    values = np.concatenate([block.ravel() for block in blocks])
    values = values[~np.isnan(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _class_colours(y: Any) -> tuple[Any, Any, Any]:
    """The classes, the number of each row's, and a colour for each."""
    from matplotlib import colormaps

    if y is None:
        return None, None, []
    classes, codes = np.unique(y, return_inverse=True)
    n = len(classes)
    if n <= 10:
        colours = np.array(colormaps["tab10"].colors)
    elif n <= 20:
        colours = np.array(colormaps["tab20"].colors)
    else:
        colours = colormaps["turbo"](np.linspace(0, 1, n))
    return classes, codes, colours


def _class_means(distances: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes, and the mean distances of their rows without the pairs."""
    classes, codes = np.unique(y, return_inverse=True)
    of_class = np.eye(len(classes))[codes]
    seen = ~np.isnan(distances)
    np.fill_diagonal(seen, False)
    total = of_class.T @ np.where(seen, distances, 0.0) @ of_class
    count = of_class.T @ seen @ of_class
    return classes, np.where(count > 0, total / np.maximum(count, 1), np.nan)


# ---------------------------------------------------------------- the estimator
def _check_estimator(estimator: Any) -> None:
    check_is_fitted(estimator)
    needed = (
        "transform_dist",
        "pairwise_w2",
        "generate",
        "modality_names_in_",
        "modality_indices_",
    )
    lacking = [name for name in needed if not hasattr(estimator, name)]
    if lacking:
        raise TypeError(
            f"estimator: expected one with {', '.join(needed)}, such as DCMEMEncoder, "
            f"got {type(estimator).__name__} without {lacking[0]}. Pass the last step "
            "of a Pipeline, or best_estimator_ of a search."
        )


def _generate(
    estimator: Any,
    X: Any,
    y: Any,
    names: list[str],
    from_: Any,
    to: Any,
    rows: Any,
    n_samples: Any,
    private: str,
    random_state: Any,
) -> dict[str, Any]:
    """Rows of `from_`, what is generated from them, and their classes."""
    sources, to = _ways(names, from_, to)
    if not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(
            f"n_samples: expected a positive integer, got {n_samples!r}. Pass how many "
            "draws to show."
        )
    values = check_array(X, dtype=float, ensure_all_finite="allow-nan")
    columns = estimator.modality_indices_
    has = {
        name: ~np.isnan(values[:, columns[name]]).all(axis=1) for name in [*sources, to]
    }
    usable = np.any([has[name] for name in sources], axis=0)
    needed = " or ".join(sources)
    if private == "posterior":
        usable &= has[to]
        needed = f"{needed}, and {to}"
    y = _check_y(y, len(values))
    chosen = _rows(rows, usable, y, needed)
    generated = estimator.generate(
        _safe_indexing(X, chosen),
        sources,
        to,
        n_samples=n_samples,
        private=private,
        random_state=random_state,
    )
    shape = n_samples, len(chosen), len(columns[to])
    return {
        "given": {name: values[chosen][:, columns[name]] for name in sources},
        "generated": {to: np.reshape(generated, shape)},
        "y": None if y is None else y[chosen],
        "shapes": _declared_shapes(estimator, [*sources, to]),
    }


def _ways(names: list[str], from_: Any, to: Any) -> tuple[list[str], str]:
    """Modalities to generate from, and the one to generate."""
    if len(names) < 2:
        raise ValueError(
            "estimator: expected two modalities or more to generate one from another, "
            f"got {names}. Choose kind='map'."
        )
    sources = [from_] if isinstance(from_, str) else list(from_ or [])
    remedy = "Choose from modality_names_in_."
    for parameter, given in (("from_", sources), ("to", [] if to is None else [to])):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(
                f"{parameter}: expected among {names}, got {unknown[0]!r}. {remedy}"
            )
    if not sources:
        sources = [next(name for name in names if name != to)]
    if to is None:
        left = [name for name in names if name not in sources]
        if not left:
            raise ValueError(
                f"to: expected the name of a modality where from_ has all of {names}, "
                f"got None. {remedy}"
            )
        to = left[0]
    return sources, to


def _rows(
    rows: Any, usable: np.ndarray, y: np.ndarray | None, needed: str
) -> np.ndarray:
    """Numbers of the rows to show, all of them usable."""
    if rows is not None:
        numbers = np.ravel(np.asarray(rows))
        right = numbers.size and numbers.dtype.kind in "iu"
        if not right or numbers.min() < 0 or numbers.max() >= len(usable):
            raise ValueError(
                f"rows: expected integers from 0 to {len(usable) - 1}, got {rows!r}. "
                "Pass numbers of rows of X."
            )
        lacking = numbers[~usable[numbers]]
        if lacking.size:
            raise ValueError(
                f"rows: expected rows that have {needed}, got {lacking.tolist()}, "
                "which lack it. Leave them out, or pass rows=None."
            )
        return numbers
    there = np.flatnonzero(usable)
    if not there.size:
        raise ValueError(
            f"X: expected rows that have {needed}, got none of {len(usable)}. Name "
            "modalities that they have."
        )
    if y is None:
        return there[:MOST_ROWS]
    return there[np.unique(y[there], return_index=True)[1]]


def _declared_shapes(estimator: Any, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of images and sequences that the parameter `modalities` declares."""
    declared = getattr(estimator, "modalities", None)
    if not isinstance(declared, Mapping):
        return {}
    shapes = {str(name): getattr(one, "shape", None) for name, one in declared.items()}
    return {
        name: tuple(shape)
        for name, shape in shapes.items()
        if name in names and shape is not None
    }


# ---------------------------------------------------------------- checks
def _check_kind(kind: Any) -> None:
    if kind not in KINDS:
        raise ValueError(
            f"kind: expected one of {KINDS}, got {kind!r}. Call plot once for each "
            "kind."
        )


def _check_blocks(
    parameter: str, given: Any, n_dims: int
) -> dict[str, np.ndarray] | None:
    """Arrays by modality, with as many rows."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or not given:
        raise TypeError(
            f"{parameter}: expected a dict of arrays by modality, got "
            f"{type(given).__name__}. Pass such as {{'image': ..., 'text': ...}}."
        )
    blocks = {str(name): np.asarray(one, dtype=float) for name, one in given.items()}
    form = ("n_draws", "n_samples", "n_columns")[-n_dims:]
    first = next(iter(blocks.values()))
    for name, block in blocks.items():
        # Codes are compared, so that they have as many columns, too.
        same = first.shape if parameter == "codes" else first.shape[-2:-1]
        own = block.shape if parameter == "codes" else block.shape[-2:-1]
        if block.ndim != n_dims or not block.size or own != same:
            raise ValueError(
                f"{parameter}: expected shape ({', '.join(form)}) for {name!r}, in "
                f"agreement with the others, got {block.shape}. Pass NaN for rows that "
                "lack the modality."
            )
        if np.isinf(block).any():
            raise ValueError(
                f"{parameter}: expected finite numbers or NaN, got infinity for "
                f"{name!r}. Pass NaN for what is missing."
            )
    return blocks


def _check_distances(given: Any) -> np.ndarray | None:
    if given is None:
        return None
    values = np.asarray(given, dtype=float)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise ValueError(
            "distances: expected shape (n_samples, n_samples), row i's code given one "
            f"modality and row j's given the other, got {values.shape}. Pass what "
            "pairwise_w2 returns."
        )
    if (values < 0).any() or np.isinf(values).any():
        raise ValueError(
            "distances: expected finite numbers >= 0 or NaN, got "
            f"{np.nanmin(values):.3g} to {np.nanmax(values):.3g}. Pass what "
            "pairwise_w2 returns."
        )
    return values


def _count_rows(display: SharedCodeDisplay) -> int | None:
    """Number of rows, on which all that was given must agree; None without any."""
    counts = {}
    for name in ("codes", "distances", "given", "generated"):
        value = getattr(display, name)
        if value is not None:
            block = next(iter(value.values())) if isinstance(value, dict) else value
            counts[name] = block.shape[-2]
    (first, n_rows), *others = counts.items() or [("", None)]
    for name, count in others:
        if count != n_rows:
            raise ValueError(
                f"{name}: expected {n_rows} rows, as {first} has, got {count}. Make "
                "a display for each."
            )
    return n_rows


def _check_y(given: Any, n_rows: int | None) -> np.ndarray | None:
    if given is None:
        return None
    y = np.asarray(given)
    if y.ndim != 1 or (n_rows is not None and len(y) != n_rows):
        expected = "(n_samples,)" if n_rows is None else f"({n_rows},)"
        raise ValueError(
            f"y: expected shape {expected}, a class for each row, got {y.shape}. Pass "
            "the classes of the same rows."
        )
    return y


def _check_between(given: Any, names: list[str] | None) -> tuple[str, str]:
    if given is None and names is not None and len(names) > 1:
        return names[0], names[1]
    right = isinstance(given, tuple | list) and len(given) == 2
    right = right and all(isinstance(name, str) for name in given)
    if not right or (names is not None and not set(given) <= set(names)):
        among = "" if names is None else f" among {names}"
        raise ValueError(
            f"between: expected two names of modalities{among}, got {given!r}. Pass "
            "such as ('image', 'text')."
        )
    return given[0], given[1]


def _check_shapes(
    given: Any, *blocks: dict[str, np.ndarray] | None
) -> dict[str, tuple[int, ...]]:
    if given is None:
        return {}
    sizes = {
        name: block.shape[-1] for one in blocks if one for name, block in one.items()
    }
    for name, shape in given.items():
        right = name in sizes and len(shape) in (1, 2, 3)
        right = right and all(isinstance(size, Integral) for size in shape)
        if not right or np.prod(shape) != sizes[name]:
            raise ValueError(
                f"shapes: expected shapes of {sizes} columns, got {shape!r} for "
                f"{name!r}. Pass (C, H, W) for images and (T, D) for sequences."
            )
    return {name: tuple(shape) for name, shape in given.items()}


def _check_draw(given: Any) -> Mapping[str, Callable]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(map(callable, given.values())):
        raise TypeError(
            "draw: expected a dict of functions by modality, got "
            f"{type(given).__name__}. Pass such as {{'pen': draw_path}}, called as "
            "draw_path(ax, values)."
        )
    return given
