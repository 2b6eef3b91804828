"""A generator of modalities that share, hide and split the class information.

Every latent is `code * centres + N(0, I)`: a residue modulo the number of classes
picks a vertex of a regular simplex whose vertices are `sep` apart. The three parts
differ only in the residue and in who sees the latent:

- shared: residue `y`, one latent that all modalities see;
- private: residue `y`, one latent for each modality, independent given `y`;
- synergy: residues `b_1, ..., b_M` of the modalities, uniform but for their sum, which
  is `y` modulo the number of classes. Any M - 1 of them are independent of `y`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from skmm.datasets._checks import as_generator, check_number
from skmm.datasets._missing import drop_modalities

PARTS = ("shared", "private", "synergy", "noise")


def make_multimodal_classification(
    n_samples: int = 300,
    n_classes: int = 3,
    *,
    n_modalities: int = 2,
    n_features: int | Sequence[int] = 12,
    shared_sep: float = 1.5,
    private_sep: float = 1.5,
    synergy_sep: float = 4.0,
    noise: float = 0.5,
    missing_fraction: float = 0.0,
    return_structure: bool = False,
    random_state: Any = None,
) -> Any:
    r"""Make modalities with shared, private and synergistic class information.

    Modality `m` of a row of class `y` has four groups of columns:

    .. math::

        \text{shared: }  & (c_1(y) + s) A_m + \sigma e, \\
        \text{private: } & (c_2(y) + p_m) B_m + \sigma e, \\
        \text{synergy: } & (c_3(b_m) + q_m) C_m + \sigma e, \\
        \text{noise: }   & e,

    with all of :math:`s, p_m, q_m, e` standard normal. The class centres
    :math:`c_k(0), \dots, c_k(n\_classes - 1)` are the vertices of a regular simplex at
    distance `shared_sep`, `private_sep` or `synergy_sep` from each other. The matrices
    are random with orthonormal rows, so they keep distances.

    - `s` is one latent in all modalities: what one tells of the class here, each tells.
    - :math:`p_m` occurs in one modality only and is independent of the others given
      the class: each modality adds information, and a model that adds up evidence
      modality by modality uses all of it.
    - the residues :math:`b_m` are uniform on 0, ..., n_classes - 1 under the one
      condition :math:`\sum_m b_m \equiv y` modulo `n_classes`, for two classes a
      parity, for two classes and two modalities XOR. All modalities together tell the
      class; any proper subset of them tells nothing, and neither does a model that
      adds up evidence.

    Parameters
    ----------
    n_samples : int, default=300
        Number of rows, at least 1.
    n_classes : int, default=3
        Number of classes, at least 2; their sizes differ by at most one.
    n_modalities : int, default=2
        Number of modalities, at least 1. With a single one the synergy is plain
        class information.
    n_features : int or sequence of int, default=12
        Columns of each modality, at least 4, or one such number a modality. They are
        divided as evenly as possible in the order shared, private, synergy, noise.
        A part with fewer than ``n_classes - 1`` columns shows a projection of its
        latent, which brings the classes nearer.
    shared_sep : float, default=1.5
        Distance between the class centres of the shared latent, in units of its
        standard deviation within a class. 0 removes the information, not the columns.
    private_sep : float, default=1.5
        The same for the private latents.
    synergy_sep : float, default=4.0
        The same for the residues. It takes more than the others: one residue misread
        spoils the sum.
    noise : float, default=0.5
        Standard deviation :math:`\sigma` of the noise on each informative column.
    missing_fraction : float in [0, 1], default=0.0
        Share of blocks set to NaN by :func:`drop_modalities`.
    return_structure : bool, default=False
        Return what was planted as well.
    random_state : int, Generator, RandomState or None, default=None
        An int gives the same data every time.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features of all modalities)
        The modalities side by side.
    y : ndarray of shape (n_samples,)
        Classes 0 to ``n_classes - 1``.
    structure : :class:`~sklearn.utils.Bunch`
        Only if `return_structure` is True, with the attributes

        modalities : dict of str to slice
            Columns of ``"m0"``, ``"m1"``, ..., to pass as ``modalities``.
        columns : dict of str to dict of str to slice
            ``columns["m0"]["shared"]`` and so on for ``"private"``, ``"synergy"`` and
            ``"noise"``: the columns of `X` that show this part.
        feature_names : list of str
            Such as ``"m0__shared_2"``.
        residues : ndarray of shape (n_samples, n_modalities)
            The :math:`b_m`.
        shared : ndarray of shape (n_samples, n_classes - 1)
            The shared latent :math:`c_1(y) + s`.
        private, synergy : dict of str to ndarray of shape (n_samples, n_classes - 1)
            The latents :math:`c_2(y) + p_m` and :math:`c_3(b_m) + q_m` by modality.
        X_complete : ndarray of the shape of X
            The data before blocks went missing.
        observed : ndarray of shape (n_samples, n_modalities), bool
            Which blocks are there.

    See Also
    --------
    drop_modalities : Removes blocks at random.

    Notes
    -----
    With the synergy alone, the log-loss of a model that adds up evidence is at best
    that of guessing. Its accuracy may still be above chance by luck: a straight line
    can get three of the four cells of XOR right.

    Examples
    --------
    >>> from skmm.datasets import make_multimodal_classification
    >>> X, y, planted = make_multimodal_classification(
    ...     n_classes=2, n_features=[4, 8], random_state=0, return_structure=True)
    >>> X.shape, planted.modalities
    ((300, 12), {'m0': slice(0, 4, None), 'm1': slice(4, 12, None)})
    >>> planted.columns["m1"]["synergy"]
    slice(8, 10, None)
    >>> bool((planted.residues.sum(axis=1) % 2 == y).all())
    True
    """
    _check_sizes(n_samples, n_classes, n_modalities)
    _check_amounts(
        shared_sep=shared_sep,
        private_sep=private_sep,
        synergy_sep=synergy_sep,
        noise=noise,
    )
    widths = _check_widths(n_features, n_modalities)
    rng = as_generator(random_state)
    names = [f"m{m}" for m in range(n_modalities)]
    columns = _lay_out(dict(zip(names, widths, strict=True)))
    modalities = {
        name: slice(parts["shared"].start, parts["noise"].stop)
        for name, parts in columns.items()
    }
    y = rng.permutation(np.arange(n_samples) % n_classes)
    separations = (shared_sep, private_sep, synergy_sep)
    latents = _draw_latents(y, n_classes, names, separations, rng)
    complete = _show(latents, columns, noise, rng)
    X = drop_modalities(complete, modalities, missing_fraction, rng)
    if not return_structure:
        return X, y
    structure = Bunch(
        modalities=modalities,
        columns=columns,
        feature_names=_feature_names(columns),
        X_complete=complete,
        observed=~np.isnan(X[:, [c.start for c in modalities.values()]]),
        **latents,
    )
    return X, y, structure


def _check_sizes(n_samples: int, n_classes: int, n_modalities: int) -> None:
    remedy = "Pass a whole number of rows, classes or modalities."
    for name, value, low in [
        ("n_samples", n_samples, 1),
        ("n_classes", n_classes, 2),
        ("n_modalities", n_modalities, 1),
    ]:
        check_number(name, value, low=low, integer=True, remedy=remedy)


def _check_amounts(**amounts: float) -> None:
    for name, value in amounts.items():
        check_number(name, value, low=0, remedy="Use 0 to switch it off.")


def _check_widths(n_features: Any, n_modalities: int) -> list[int]:
    """Return the number of columns of each modality."""
    remedy = f"A modality needs a column for each of {', '.join(PARTS)}."
    if np.ndim(n_features) == 0:
        n_features = [n_features] * n_modalities
    if len(n_features) != n_modalities:
        raise ValueError(
            f"n_features: expected {n_modalities} widths, one a modality, got "
            f"{len(n_features)}. Pass an int for modalities of one width."
        )
    for width in n_features:
        check_number("n_features", width, low=len(PARTS), integer=True, remedy=remedy)
    return [int(width) for width in n_features]


def _lay_out(widths: dict[str, int]) -> dict[str, dict[str, slice]]:
    """Divide the columns among modalities and their parts."""
    columns: dict[str, dict[str, slice]] = {}
    start = 0
    for name, width in widths.items():
        parts = np.array_split(np.arange(start, start + width), len(PARTS))
        columns[name] = {
            part: slice(int(c[0]), int(c[-1]) + 1)
            for part, c in zip(PARTS, parts, strict=True)
        }
        start += width
    return columns


def _feature_names(columns: dict[str, dict[str, slice]]) -> list[str]:
    return [
        f"{name}__{part}_{i}"
        for name, parts in columns.items()
        for part, c in parts.items()
        for i in range(c.stop - c.start)
    ]


def _draw_latents(
    y: np.ndarray,
    n_classes: int,
    names: list[str],
    separations: tuple[float, float, float],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Draw residues and latents of all rows, as the structure holds them."""
    shared_sep, private_sep, synergy_sep = separations
    residues = _draw_residues(y, n_classes, len(names), rng)
    return {
        "residues": residues,
        "shared": _draw_latent(y, n_classes, shared_sep, rng),
        "private": {m: _draw_latent(y, n_classes, private_sep, rng) for m in names},
        "synergy": {
            m: _draw_latent(b, n_classes, synergy_sep, rng)
            for m, b in zip(names, residues.T, strict=True)
        },
    }


def _draw_residues(
    y: np.ndarray, n_classes: int, n_modalities: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw residues, (n_samples, n_modalities), that sum to y modulo n_classes."""
    free = rng.integers(n_classes, size=(len(y), n_modalities - 1))
    return np.column_stack([free, (y - free.sum(axis=1)) % n_classes])


def _draw_latent(
    code: np.ndarray, n_classes: int, sep: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw standard normal vectors around the centre of each row's code."""
    centres = sep * _simplex(n_classes)
    return centres[code] + rng.standard_normal((len(code), n_classes - 1))


def _simplex(n: int) -> np.ndarray:
    """Place n points at distance 1 from each other, centred: (n, n - 1)."""
    # The unit vectors are sqrt(2) apart and lie in a plane of dimension n - 1, whose
    # basis is orthogonal to the vector of ones.
    basis = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, 1:]]))[0][:, 1:]
    return basis / np.sqrt(2)


def _draw_map(n_in: int, n_out: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a matrix with orthonormal rows, or columns if they are fewer."""
    tall = rng.standard_normal((max(n_in, n_out), min(n_in, n_out)))
    q = np.linalg.qr(tall)[0]
    return q if n_in >= n_out else q.T


def _show(
    latents: dict[str, Any],
    columns: dict[str, dict[str, slice]],
    noise: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Map each part's latent to its columns and add noise."""
    n_features = max(parts["noise"].stop for parts in columns.values())
    X = rng.standard_normal((len(latents["shared"]), n_features))
    for name, parts in columns.items():
        seen = {
            "shared": latents["shared"],
            "private": latents["private"][name],
            "synergy": latents["synergy"][name],
        }
        for part, latent in seen.items():
            c = parts[part]
            A = _draw_map(latent.shape[1], c.stop - c.start, rng)
            X[:, c] = latent @ A + noise * X[:, c]
    return X
