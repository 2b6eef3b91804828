"""The display of the precision matrices that a graphical lasso finds."""

from collections.abc import Sized
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from skmm.plotting._figure import check_axes, new_axes, panel_inches, settle, widen
from skmm.plotting._graph import EdgeStyle, draw_graphs, edge_handles
from skmm.plotting._legend import draw_colour_bar, draw_legends, modality_handles
from skmm.plotting._matrix import (
    draw_frame,
    draw_matrices,
    hide_inner_labels,
    support_handles,
)
from skmm.plotting._panels import FEW, Nodes, Panel, panel, partial_correlation
from skmm.plotting._style import INK, font

KINDS = ("graph", "matrix")
SYMMETRIC = 1e-6  # of the largest entry: what float32 solvers leave


class PrecisionGraphDisplay:
    r"""Partial correlations of one or several classes, as graphs or heat maps.

    With the precision matrices :math:`\Theta_c = A + B_c` of classes c, split into a
    common part A and specific parts B_c, the first panel shows A and the others show
    B_c, at the same places and on the same scale. Shown are

    .. math::

        -\frac{A_{ij}}{\sqrt{d_i d_j}}, \qquad
        -\frac{B_{c,ij}}{\sqrt{\Theta_{c,ii} \Theta_{c,jj}}}, \qquad
        d_i = \frac{1}{C} \sum_c \Theta_{c,ii}:

    the share of the partial correlation between variables i and j that all classes
    have, and what class c adds to it. Without `common`, each panel shows the partial
    correlations of one class; one precision matrix makes one panel.

    As a graph, variables stand on a circle, grouped and coloured by modality. Edges
    within a modality bend along its arc, edges across modalities run through the
    middle. Width and opacity grow with the size of the partial correlation, positive
    ones are blue and solid, negative ones red and dashed. Variables without an edge in
    a panel are small. As a matrix, pairs without an edge are white; in the panel of a
    class, edges that all classes share are grey, and a dot marks those that the class
    changes.

    Parameters
    ----------
    precision : array-like of shape (n_nodes, n_nodes) or (n_classes, n_nodes, n_nodes)
        Precision matrices: symmetric, with positive diagonals. Entries that are
        exactly zero are no edges.
    common : array-like of shape (n_nodes, n_nodes), default=None
        The part that the classes have in common; only with a precision matrix for each
        class.
    feature_names : array-like of shape (n_nodes,), default=None
        Names of the variables; `x0`, `x1`, ... if None. A prefix that repeats the
        modality (`image__hue`) is not shown, and long names are cut.
    modalities : array-like of shape (n_nodes,), default=None
        The modality of each variable. They are ordered by first appearance.
    class_names : array-like of shape (n_classes,), default=None
        Names of the classes; 0, 1, ... if None.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The first panel.
    axes_ : ndarray of shape (n_panels,) of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure they are in.
    positions_ : ndarray of shape (n_nodes, 2)
        Where the variables stand, in all panels. Only for graphs.
    edges_ : list of matplotlib LineCollection
        The edges of each panel, the weakest first. Only for graphs.
    images_ : list of matplotlib AxesImage
        The heat map of each panel. Only for matrices.
    legends_ : list of matplotlib Legend
        The legends: modalities, then edges.

    See Also
    --------
    sklearn.covariance.GraphicalLasso : One precision matrix, drawn as one panel.

    Notes
    -----
    Where variables stand depends on their order and on `modalities` alone. The edges of
    a panel are one collection, so that ten thousand of them take about a second;
    above a thousand, `threshold` or a matrix shows more. Sizes are fitted to the
    figure as it is when drawn: set its size before. A new figure has the layout
    engine `constrained`; give such a one when you pass `ax`, or legends may lie
    outside it.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm.plotting import PrecisionGraphDisplay
    >>> common = np.array([[2.0, 0.6, 0.0], [0.6, 2.0, 0.0], [0.0, 0.0, 2.0]])
    >>> specific = np.zeros((2, 3, 3))
    >>> specific[1, 0, 2] = specific[1, 2, 0] = -0.5
    >>> display = PrecisionGraphDisplay(
    ...     common + specific,
    ...     common=common,
    ...     feature_names=["hue", "texture", "pitch"],
    ...     modalities=["image", "image", "audio"],
    ...     class_names=["healthy", "ill"],
    ... ).plot()
    >>> for ax in display.axes_:
    ...     print(ax.get_title())
    shared by all classes (1 edge)
    class 'healthy' only (no edges)
    class 'ill' only (1 edge)

    One matrix, from an estimator of scikit-learn, as a heat map:

    >>> from sklearn.covariance import GraphicalLasso
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> lasso = GraphicalLasso(alpha=0.1).fit((X - X.mean(0)) / X.std(0))
    >>> display = PrecisionGraphDisplay.from_estimator(lasso, kind="matrix")
    >>> display.ax_.get_title()
    '5 edges'
    """

    def __init__(
        self,
        precision: Any,
        *,
        common: Any = None,
        feature_names: Any = None,
        modalities: Any = None,
        class_names: Any = None,
    ):
        self.precision = _check_precision(precision)
        self.common = _check_common(common, self.precision)
        n_nodes = self.precision.shape[-1]
        if feature_names is None:
            feature_names = [f"x{j}" for j in range(n_nodes)]
        self.feature_names = _check_names("feature_names", feature_names, n_nodes)
        self.modalities = _check_names("modalities", modalities, n_nodes)
        self.class_names = _check_class_names(class_names, self.precision)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        kind: str = "graph",
        classes: Any = None,
        threshold: float = 0.0,
        max_labels: int | None = None,
        vmax: float | None = None,
        legend: bool = True,
        ax: Any = None,
    ) -> "PrecisionGraphDisplay":
        """Draw the precision matrices of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted estimator with `precision_`: a `CrossModalGraphicalLasso`, or a
            covariance estimator of scikit-learn. Used where present are
            `common_precision_`, `classes_`, `node_modalities_`, and the names from
            `get_feature_names_out` or `feature_names_in_`.
        kind : {'graph', 'matrix'}, default='graph'
            Nodes on a circle, or a heat map.
        classes : label or list of labels, default=None
            Classes to draw, in this order; all if None. What all classes share is
            drawn in any case.
        threshold : float, default=0.0
            Edges whose partial correlation is not above this size are left out.
        max_labels : int, default=None
            With at most so many variables, all are labelled. With more, a graph labels
            so many of the most connected in each panel, fewer where there is no room,
            and a matrix labels none. None labels all of up to 30, else 12 in a graph.
        vmax : float, default=None
            Partial correlation of the greatest width or deepest colour. The largest
            that is drawn if None; give it to compare figures.
        legend : bool, default=True
            Whether to draw legends, right of the last panel.
        ax : Axes or array-like of Axes, default=None
            One for each panel. A new figure is made if None.

        Returns
        -------
        display : PrecisionGraphDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it has no precision matrix.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        if getattr(estimator, "precision_", None) is None:
            raise TypeError(
                "estimator: expected one with the fitted attribute precision_, such as "
                f"CrossModalGraphicalLasso, got {type(estimator).__name__}. Pass the "
                "last step of a Pipeline, or best_estimator_ of a search."
            )
        precision = np.asarray(estimator.precision_)
        n_nodes, split = precision.shape[-1], {}
        if precision.ndim == 3:
            split["common"] = getattr(estimator, "common_precision_", None)
            split["class_names"] = getattr(estimator, "classes_", None)
        display = cls(
            precision,
            feature_names=_node_names(estimator, n_nodes),
            modalities=_node_modalities(estimator, n_nodes),
            **split,
        )
        return display.plot(
            kind=kind,
            classes=classes,
            threshold=threshold,
            max_labels=max_labels,
            vmax=vmax,
            legend=legend,
            ax=ax,
        )

    def plot(
        self,
        *,
        kind: str = "graph",
        classes: Any = None,
        threshold: float = 0.0,
        max_labels: int | None = None,
        vmax: float | None = None,
        legend: bool = True,
        ax: Any = None,
    ) -> "PrecisionGraphDisplay":
        """Draw the precision matrices.

        Parameters
        ----------
        kind : {'graph', 'matrix'}, default='graph'
            Nodes on a circle, or a heat map.
        classes : label or list of labels, default=None
            Classes to draw, in this order; all if None. What all classes share is
            drawn in any case.
        threshold : float, default=0.0
            Edges whose partial correlation is not above this size are left out.
        max_labels : int, default=None
            With at most so many variables, all are labelled. With more, a graph labels
            so many of the most connected in each panel, fewer where there is no room,
            and a matrix labels none. None labels all of up to 30, else 12 in a graph.
        vmax : float, default=None
            Partial correlation of the greatest width or deepest colour. The largest
            that is drawn if None; give it to compare figures.
        legend : bool, default=True
            Whether to draw legends, right of the last panel.
        ax : Axes or array-like of Axes, default=None
            One for each panel. A new figure is made if None.

        Returns
        -------
        display : PrecisionGraphDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        _check_plot(kind, threshold, max_labels, vmax)
        panels = self._panels(classes, threshold)
        nodes = Nodes.of(self.feature_names, self.modalities)
        if vmax is None:
            vmax = max(np.abs(one.rho).max() for one in panels) or 1.0
        few = len(nodes.labels) <= (FEW if max_labels is None else max_labels)
        if ax is None:
            side = panel_inches(nodes, kind)
            self.axes_, host = new_axes(len(panels), side, legend)
        else:
            self.axes_ = check_axes(ax, len(panels), "classes")
            host = self.axes_[-1]
        self.ax_, self.figure_ = self.axes_[0], self.axes_[0].figure
        for axis, one in zip(self.axes_, panels, strict=True):
            axis.set_title(one.title, fontsize=font(8), color=INK)
            axis.set(aspect="equal")
            if kind == "graph":
                axis.axis("off")
            else:
                draw_frame(axis, nodes, few)
        if ax is None and kind == "matrix":
            hide_inner_labels(self.axes_)
        # The layout with legends comes first: labels are fitted to what it leaves.
        settle(self.figure_)
        groups = {"modality": modality_handles(nodes)}
        style = EdgeStyle(panels, vmax)
        if kind == "graph":
            groups["partial correlation"] = edge_handles(panels, style)
        else:
            groups["edges"] = support_handles(panels)
        left = 0.0 if ax is None else 1.05  # in shares of the host's width
        self.legends_ = []
        if legend:
            self.legends_, lower = draw_legends(host, left, groups)
            if ax is None:
                widen(host, self.legends_)
            settle(self.figure_)
        if kind == "graph":
            self.positions_, self.edges_ = draw_graphs(
                self.axes_, panels, nodes, style, max_labels
            )
        else:
            self.images_ = draw_matrices(self.axes_, panels, nodes, vmax)
            if legend:
                draw_colour_bar(
                    host, left, lower, self.images_[0], "partial correlation"
                )
        return self

    def _panels(self, classes: Any, threshold: float) -> list[Panel]:
        """What is to be drawn, the common part first."""
        if self.precision.ndim == 2:
            if classes is not None:
                raise ValueError(
                    "classes: expected None, since there is one precision matrix and "
                    f"no class, got {classes!r}. Leave it out."
                )
            rho = partial_correlation(self.precision, np.diag(self.precision))
            return [panel("", rho, threshold)]
        diagonals = np.diagonal(self.precision, axis1=1, axis2=2)
        panels, parts, only, shared = [], self.precision, "", None
        if self.common is not None:
            rho = partial_correlation(self.common, diagonals.mean(axis=0))
            panels.append(panel("shared by all classes", rho, threshold))
            parts, only = self.precision - self.common, " only"
            shared = panels[0].rho != 0
        for k in self._chosen(classes):
            rho = partial_correlation(parts[k], diagonals[k])
            name = f"class {self.class_names[k]!r}{only}"
            panels.append(panel(name, rho, threshold, shared))
        if not panels:
            raise ValueError(
                "classes: expected at least one of "
                f"{self.class_names}, got {classes!r}. There is nothing else to draw."
            )
        return panels

    def _chosen(self, classes: Any) -> list[int]:
        """Indices of the classes to draw."""
        if classes is None:
            return list(range(len(self.class_names)))
        labels = np.ravel(np.asarray(classes)).tolist()
        unknown = [label for label in labels if label not in self.class_names]
        if unknown:
            raise ValueError(
                f"classes: expected labels out of {self.class_names}, got "
                f"{unknown[0]!r}. Pass labels as in class_names or classes_."
            )
        return [self.class_names.index(label) for label in labels]


def _check_precision(precision: Any) -> np.ndarray:
    """Float matrices that are symmetric with positive diagonals."""
    matrices = np.asarray(precision, dtype=float)
    shape = matrices.shape
    if matrices.ndim not in (2, 3) or shape[-1] != shape[-2] or not matrices.size:
        raise ValueError(
            "precision: expected shape (n_nodes, n_nodes) or (n_classes, n_nodes, "
            f"n_nodes), got {shape}. Pass precision_ of a fitted estimator."
        )
    _check_symmetric("precision", matrices)
    smallest = np.diagonal(matrices, axis1=-2, axis2=-1).min()
    if smallest <= 0:
        raise ValueError(
            "precision: expected a positive diagonal, got a smallest entry of "
            f"{smallest:.3g}. Pass inverse covariances, not graphs or covariances."
        )
    return matrices


def _check_common(common: Any, precision: np.ndarray) -> np.ndarray | None:
    if common is None:
        return None
    matrix = np.asarray(common, dtype=float)
    if precision.ndim == 2:
        raise ValueError(
            "common: expected None with one precision matrix, got shape "
            f"{matrix.shape}. Pass precision of shape (n_classes, n_nodes, n_nodes), "
            "or leave common out."
        )
    if matrix.shape != precision.shape[1:]:
        raise ValueError(
            f"common: expected shape {precision.shape[1:]} as precision has it, got "
            f"{matrix.shape}. Pass common_precision_ of the same estimator."
        )
    _check_symmetric("common", matrix)
    return matrix


def _check_symmetric(name: str, matrices: np.ndarray) -> None:
    if not np.isfinite(matrices).all():
        raise ValueError(
            f"{name}: expected finite entries, got NaN or infinity. Look at the "
            "convergence of the estimator that gave it."
        )
    difference = np.abs(matrices - np.swapaxes(matrices, -1, -2)).max()
    if difference > SYMMETRIC * np.abs(matrices).max():
        raise ValueError(
            f"{name}: expected symmetric matrices, got entries that differ by up to "
            f"{difference:.3g} from their mirror images. Pass (Theta + Theta.T) / 2."
        )


def _check_names(name: str, values: Any, n_nodes: int) -> list[str] | None:
    """One string for each node, or None."""
    if values is None:
        return None
    if isinstance(values, str) or not isinstance(values, Sized):
        raise TypeError(
            f"{name}: expected a list of {n_nodes} names, got {values!r}. Pass one "
            "name for each row of precision."
        )
    if len(values) != n_nodes:
        raise ValueError(
            f"{name}: expected {n_nodes} names, one for each row of precision, got "
            f"{len(values)}. Leave out the names of dropped columns."
        )
    return [str(value) for value in values]


def _check_class_names(class_names: Any, precision: np.ndarray) -> list[Any] | None:
    """One label for each class; None with one precision matrix."""
    n_classes = len(precision) if precision.ndim == 3 else 0
    if class_names is None:
        return list(range(n_classes)) or None
    labels = np.asarray(class_names).tolist()
    if not isinstance(labels, list) or len(labels) != n_classes:
        raise ValueError(
            f"class_names: expected {n_classes} labels for precision of shape "
            f"{precision.shape}, got {class_names!r}. Pass one for each class, in the "
            "order of the matrices."
        )
    return labels


def _check_plot(kind: Any, threshold: Any, max_labels: Any, vmax: Any) -> None:
    if kind not in KINDS:
        raise ValueError(
            f"kind: expected one of {KINDS}, got {kind!r}. Pass 'graph' for nodes on a "
            "circle or 'matrix' for a heat map."
        )
    if not isinstance(threshold, Real) or not 0 <= threshold < 1:
        raise ValueError(
            f"threshold: expected a number in [0, 1), got {threshold!r}. It is the "
            "size of a partial correlation; 0 draws all edges."
        )
    if max_labels is not None and (
        not isinstance(max_labels, Integral) or max_labels < 0
    ):
        raise ValueError(
            f"max_labels: expected an integer >= 0 or None, got {max_labels!r}. Pass 0 "
            "for no labels."
        )
    if vmax is not None and (not isinstance(vmax, Real) or not 0 < vmax < np.inf):
        raise ValueError(
            f"vmax: expected a number > 0 or None, got {vmax!r}. None takes the "
            "largest partial correlation that is drawn."
        )


def _node_names(estimator: Any, n_nodes: int) -> Any:
    """Names of the nodes if the estimator knows them."""
    candidates = [getattr(estimator, "feature_names_in_", None)]
    if hasattr(estimator, "get_feature_names_out"):
        candidates.insert(0, estimator.get_feature_names_out())
    fitting = [one for one in candidates if one is not None and len(one) == n_nodes]
    return fitting[0] if fitting else None


def _node_modalities(estimator: Any, n_nodes: int) -> Any:
    """Modality of each node if the estimator knows it."""
    if hasattr(estimator, "node_modalities_"):
        return estimator.node_modalities_
    indices = getattr(estimator, "modality_indices_", {})
    owners = {
        int(column): name for name, columns in indices.items() for column in columns
    }
    # With a dropped column, the node that a column has become is not known here.
    if sorted(owners) != list(range(n_nodes)):
        return None
    return [owners[node] for node in range(n_nodes)]
