"""Patch features of images condensed into scores of a few semantic nodes."""

import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.cluster import KMeans
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_is_fitted

from skmm.core.attention import (
    attention,
    finish_prior,
    footprint_similarity,
    grid_positions,
    likeness,
    node_scores,
    node_vectors,
)
from skmm.vision._scores import NodeScores

# Numbers held at a time while going through the images, and patches that k-means sees.
CHUNK = 2**24
CLUSTERED = 50_000
# What temperature="auto" makes of a cosine of one: footprints that neither are flat nor
# pick single patches, whatever the length of the features.
SHARPNESS = 20


class CrossAttentionDistiller(TransformerMixin, BaseEstimator):
    r"""Cross-attention from prototypes to patches: one score a node and image.

    An image comes as N patch features :math:`H` of size d, of unit length here. A node
    k is a prototype :math:`P_k` in the same space: a text, encoded as the images are,
    or a centre of k-means. With

    .. math:: \alpha_k = \mathrm{softmax}_N\!\left(
              \frac{H P_k}{\tau \sqrt d}\right), \qquad h_k = \alpha_k H,

    :math:`\alpha_k` is the footprint of the node in the image, and its score is the
    cosine of :math:`h_k` and :math:`P_k`. Nodes with similar footprints are probably
    connected; the prior says how probably:

    .. math:: V_{jk} = \frac1n \sum_i \cos(\alpha_{ij}, \alpha_{ik})
              \exp\!\left(-\frac{\|c_{ij} - c_{ik}\|^2}{2 s^2}\right)

    with the centroids :math:`c` of the footprints, where the last factor is left out
    without a `spatial_scale`. Scores carry the prior along as
    :attr:`NodeScores.prior`, where a graphical lasso finds it.

    Parameters
    ----------
    prototypes : array-like of shape (n_nodes, n_channels) or dict, default=None
        What to look for. A dict maps names of nodes to vectors. If None, centres of
        k-means over patches of unit length, at most 50 000 of them drawn at random.
    n_nodes : int, default=16
        The number of nodes that k-means finds. Not used with `prototypes`.
    temperature : "auto" or float, default="auto"
        :math:`\tau`; small ones make footprints sharp. "auto" is
        :math:`1 / (20 \sqrt d)`: the softmax is over 20 times the cosine.
    node : {"cosine", "pca"}, default="cosine"
        The score of a node: its cosine with the prototype, or the first principal
        component of :math:`h_k` over the images of fit, with the sign that grows
        towards the prototype.
    spatial_scale : float, default=None
        The length s, as a share of the side of the image. If None, the distance of
        footprints does not count.
    grid : tuple of int, default=None
        Rows and columns of patches, which lie row by row. Needed for `spatial_scale`
        where the images are not square.
    n_patches : int, default=None
        The number N, where images come as rows of a table: X of shape
        (n_images, N * n_channels), patch by patch.
    random_state : int, RandomState instance or None, default=None
        For k-means.

    Attributes
    ----------
    prototypes_ : ndarray of shape (n_nodes, n_channels)
        The prototypes, of unit length.
    prior_ : ndarray of shape (n_nodes, n_nodes)
        V over the images of fit: in [0, 1], symmetric, ones on the diagonal.
    temperature_ : float
        The temperature used.
    components_ : ndarray of shape (n_nodes, n_channels)
        Principal axes. Only with `node="pca"`.
    means_ : ndarray of shape (n_nodes, n_channels)
        Mean node vectors. Only with `node="pca"`.
    n_channels_ : int
        The size d of a patch feature.
    n_features_in_ : int
        ``X.shape[1]``, which is what scikit-learn counts: patches, or columns of a
        table.

    See Also
    --------
    VisionLanguageEncoder : Makes patch features, and prototypes from text.
    TopologySegmenter : Segments images with the footprints.

    Notes
    -----
    After CM-GLasso (Wang, Zhang & Wang, arXiv 2604.03953). From there: attention
    condenses patches into few nodes, prototypes are texts encoded as images, and
    similar footprints weight the pairs. The body of the paper was not readable: the
    attention without trained projections, the score of a node, the cosine, the spatial
    factor, the default temperature and k-means are reconstructed or ours.

    A patch whose features are all NaN is absent: it has no share in a footprint. An
    image without patches is a missing one: its scores are NaN, which skmm's estimators
    take as a missing modality. Scores do not depend on the other images.

    Under `set_output(transform="pandas")` the prior lies in ``attrs["prior"]`` of the
    frame, as nested lists, since pandas compares what it finds there.

    References
    ----------
    .. [1] F. Wang, Y. Zhang, X. Wang, "Multimodal Structure Learning: Disentangling
       Shared and Specific Topology via Cross-Modal Graphical Lasso", arXiv 2604.03953,
       2026.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm.vision import CrossAttentionDistiller
    >>> rng = np.random.default_rng(0)
    >>> patches = rng.normal(size=(20, 9, 4))
    >>> nodes = {"wing": [1, 0, 0, 0], "tail": [0.9, 0.1, 0, 0], "sky": [0, 0, 1, 0]}
    >>> distiller = CrossAttentionDistiller(nodes)
    >>> X = distiller.fit_transform(patches)
    >>> X.shape
    (20, 3)
    >>> distiller.get_feature_names_out()
    array(['wing', 'tail', 'sky'], dtype=object)
    >>> X.prior.round(2)
    array([[1.  , 0.97, 0.2 ],
           [0.97, 1.  , 0.2 ],
           [0.2 , 0.2 , 1.  ]])
    >>> distiller.footprints(patches).shape
    (20, 3, 9)
    """

    _parameter_constraints = {
        "prototypes": ["array-like", Mapping, None],
        "n_nodes": [Interval(Integral, 1, None, closed="left")],
        "temperature": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
        ],
        "node": [StrOptions({"cosine", "pca"})],
        "spatial_scale": [Interval(Real, 0, None, closed="neither"), None],
        "grid": [tuple, list, None],
        "n_patches": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        prototypes=None,
        n_nodes=16,
        *,
        temperature="auto",
        node="cosine",
        spatial_scale=None,
        grid=None,
        n_patches=None,
        random_state=None,
    ):
        self.prototypes = prototypes
        self.n_nodes = n_nodes
        self.temperature = temperature
        self.node = node
        self.spatial_scale = spatial_scale
        self.grid = grid
        self.n_patches = n_patches
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = self.n_patches is None
        tags.input_tags.two_d_array = self.n_patches is not None
        tags.input_tags.allow_nan = True
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Find the prototypes, where none are given, and the prior.

        Parameters
        ----------
        X : array-like of shape (n_images, n_patches, n_channels)
            Patch features, or a table with `n_patches`.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted distiller.
        """
        patches, present = self._check(X)
        if not present.any():
            raise ValueError("X: expected an image with patches, got NaN everywhere.")
        n_channels = patches.shape[2]
        positions = self._positions(patches.shape[1])
        prototypes, names = self._resolve_prototypes(patches, present)
        length = np.linalg.norm(prototypes, axis=1, keepdims=True)
        if not (length > 0).all():
            raise ValueError(
                "prototypes: expected vectors with a direction, got zeros for node "
                f"{int(np.flatnonzero(length == 0)[0])}."
            )
        self.n_channels_ = n_channels
        self.n_features_in_ = np.shape(X)[1]
        self.prototypes_ = prototypes / length
        self.temperature_ = (
            1 / (SHARPNESS * math.sqrt(n_channels))
            if self.temperature == "auto"
            else float(self.temperature)
        )
        self._node_names = names

        total = torch.zeros(len(prototypes), len(prototypes), dtype=torch.float64)
        vectors = []
        for rows, alpha in self._chunks(patches, present):
            alpha = alpha.double()
            summands = footprint_similarity(alpha, positions, self.spatial_scale)
            total += summands.sum(0)
            if self.node == "pca":
                vectors.append(node_vectors(alpha, _tensor(patches[rows]).double()))
        there = present.any(1)
        self.prior_ = finish_prior(total, int(there.sum())).numpy()
        if self.node == "pca":
            self._fit_axes(torch.cat(vectors)[torch.from_numpy(there)])
        return self

    def transform(self, X):
        """Score every node in every image.

        Parameters
        ----------
        X : array-like of shape (n_images, n_patches, n_channels)
            Patch features, or a table with `n_patches`.

        Returns
        -------
        scores : NodeScores of shape (n_images, n_nodes)
            Scores, with the prior of fit as `prior`. NaN for an image without patches.
        """
        check_is_fitted(self)
        patches, present = self._check(X, self.n_channels_)
        scores = np.empty((len(patches), len(self.prototypes_)), dtype=patches.dtype)
        prototypes = torch.from_numpy(self.prototypes_.astype(patches.dtype))
        for rows, alpha in self._chunks(patches, present):
            vectors = node_vectors(alpha, _tensor(patches[rows]))
            if self.node == "pca":
                centred = vectors - torch.from_numpy(self.means_).to(vectors)
                axes = torch.from_numpy(self.components_).to(vectors)
                scores[rows] = (centred * axes).sum(-1).numpy()
            else:
                scores[rows] = node_scores(vectors, prototypes).numpy()
        scores[~present.any(1)] = np.nan
        if _get_output_config("transform", self)["dense"] == "pandas":
            import pandas as pd

            frame = pd.DataFrame(scores, columns=self.get_feature_names_out())
            frame.attrs["prior"] = self.prior_.tolist()
            return frame
        return NodeScores(scores, prior=self.prior_)

    def footprints(self, X):
        """Show where in the images the nodes are.

        Parameters
        ----------
        X : array-like of shape (n_images, n_patches, n_channels)
            Patch features, or a table with `n_patches`.

        Returns
        -------
        footprints : ndarray of shape (n_images, n_nodes, n_patches)
            Shares of the patches, which sum to one; zeros for an image without
            patches.
        """
        check_is_fitted(self)
        patches, present = self._check(X, self.n_channels_)
        shape = (len(patches), len(self.prototypes_), patches.shape[1])
        footprints = np.empty(shape, dtype=patches.dtype)
        for rows, alpha in self._chunks(patches, present):
            footprints[rows] = alpha.numpy()
        return footprints

    def get_feature_names_out(self, input_features=None):
        """Names of the nodes.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of str of shape (n_nodes,)
            Those of `prototypes`, or `node0`, `node1`, ...
        """
        check_is_fitted(self)
        return np.array(self._node_names, dtype=object)

    def _look(self, X):
        """Likeness of nodes and patches (n, K, N) and cosines of nodes (n, K)."""
        patches, present = self._check(X, self.n_channels_)
        prototypes = torch.from_numpy(self.prototypes_)
        there = torch.from_numpy(present)
        features = _tensor(patches).double()
        alike = likeness(prototypes, features, self.temperature_, there)
        alpha = attention(prototypes, features, self.temperature_, there)
        return alike, node_scores(node_vectors(alpha, features), prototypes)

    # --- What comes in ------------------------------------------------------------

    def _check(
        self, X: Any, n_channels: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Patches (n, N, d), NaN where absent, and which are present (n, N)."""
        X = check_array(
            X,
            dtype=(np.float64, np.float32),
            allow_nd=True,
            ensure_2d=False,
            ensure_all_finite="allow-nan",
            estimator=self,
            input_name="X",
        )
        if self.n_patches is not None and X.ndim == 2:
            if X.shape[1] % self.n_patches:
                raise ValueError(
                    f"X: expected a multiple of n_patches={self.n_patches} columns, "
                    f"got {X.shape[1]}."
                )
            X = X.reshape(len(X), self.n_patches, -1)
        if X.ndim != 3:
            raise ValueError(
                "X: expected 3 dimensions (n_images, n_patches, n_channels), got "
                f"{X.ndim} of shape {X.shape}. VisionLanguageEncoder makes them from "
                "images; set n_patches for images as rows of a table."
            )
        if 0 in X.shape:
            raise ValueError(f"X: expected patches with features, got shape {X.shape}.")
        if n_channels is not None and X.shape[2] != n_channels:
            raise ValueError(
                f"X: expected patches of {n_channels} channels, as at fit, got "
                f"{X.shape[2]}."
            )
        gaps = np.isnan(X)
        absent = gaps.all(2)
        if gaps.sum() != absent.sum() * X.shape[2]:
            image, patch = np.argwhere(gaps.any(2) & ~absent)[0]
            raise ValueError(
                "X: expected patches without NaN, or of nothing but NaN if absent, got "
                f"some in image {image}, patch {patch}."
            )
        return X, ~absent

    def _positions(self, n_patches: int) -> torch.Tensor | None:
        """Where the patches are; None where it does not matter."""
        grid = self.grid
        if grid is None:
            if self.spatial_scale is None:
                return None
            side = math.isqrt(n_patches)
            if side**2 != n_patches:
                raise ValueError(
                    "grid: expected rows and columns of the patches for spatial_scale, "
                    f"got None, and {n_patches} patches make no square. Pass the "
                    "encoder's grid_."
                )
            grid = (side, side)
        if len(grid) != 2 or grid[0] * grid[1] != n_patches:
            raise ValueError(
                f"grid: expected (rows, columns) of {n_patches} patches, got {grid!r}."
            )
        return grid_positions(int(grid[0]), int(grid[1]))

    # --- What fit finds -----------------------------------------------------------

    def _resolve_prototypes(
        self, patches: np.ndarray, present: np.ndarray
    ) -> tuple[np.ndarray, list[str]]:
        """Prototypes in float64 and the names of the nodes."""
        prototypes, names = self.prototypes, None
        if prototypes is None:
            prototypes = self._cluster(patches, present)
        elif isinstance(prototypes, Mapping):
            names = [str(name) for name in prototypes]
            prototypes = list(prototypes.values())
        prototypes = check_array(
            prototypes, dtype=np.float64, input_name="prototypes", estimator=self
        )
        if prototypes.shape[1] != patches.shape[2]:
            raise ValueError(
                f"prototypes: expected {patches.shape[2]} channels, as the patches of "
                f"X have, got {prototypes.shape[1]}. Encode both with one encoder."
            )
        return prototypes, names or [f"node{k}" for k in range(len(prototypes))]

    def _cluster(self, patches: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Centres of k-means over patches of unit length."""
        random_state = check_random_state(self.random_state)
        where = np.flatnonzero(present)
        if len(where) > CLUSTERED:
            where = np.sort(random_state.choice(where, CLUSTERED, replace=False))
        chosen = patches.reshape(-1, patches.shape[2])[where]
        length = np.linalg.norm(chosen, axis=1, keepdims=True)
        chosen = (chosen / np.where(length > 0, length, 1))[length[:, 0] > 0]
        n_distinct = len(np.unique(chosen[: 100 * self.n_nodes], axis=0))
        if n_distinct < self.n_nodes:
            n_distinct = len(np.unique(chosen, axis=0))
        if n_distinct < self.n_nodes:
            raise ValueError(
                f"n_nodes: expected at most the number of distinct patches, "
                f"{n_distinct}, got {self.n_nodes}. Lower it, or pass prototypes."
            )
        kmeans = KMeans(self.n_nodes, n_init=3, random_state=random_state)
        return kmeans.fit(chosen).cluster_centers_

    def _fit_axes(self, vectors: torch.Tensor) -> None:
        """The first principal axis of each node's vectors (n, K, d)."""
        means = vectors.mean(0)
        prototypes = torch.from_numpy(self.prototypes_)
        axes = []
        for k in range(vectors.shape[1]):
            centred = vectors[:, k] - means[k]
            axis = torch.linalg.svd(centred, full_matrices=False).Vh[0]
            # One of two opposite signs: towards the prototype, or with the largest
            # entry positive where the axis is orthogonal to it.
            side = float(axis @ prototypes[k])
            if abs(side) < 1e-10:
                side = float(axis[axis.abs().argmax()])
            axes.append(axis if side >= 0 else -axis)
        self.means_ = means.numpy()
        self.components_ = torch.stack(axes).numpy()

    def _chunks(
        self, patches: np.ndarray, present: np.ndarray
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Rows and their footprints (rows, K, N)."""
        prototypes = torch.from_numpy(self.prototypes_.astype(patches.dtype))
        each = patches.shape[1] * max(patches.shape[2], len(prototypes))
        step = max(1, CHUNK // each)
        for start in range(0, len(patches), step):
            rows = slice(start, start + step)
            there = torch.from_numpy(present[rows])
            features = _tensor(patches[rows])
            yield rows, attention(prototypes, features, self.temperature_, there)


def _tensor(patches: np.ndarray) -> torch.Tensor:
    """A tensor with zeros for absent patches."""
    return torch.from_numpy(np.nan_to_num(patches, nan=0.0))
