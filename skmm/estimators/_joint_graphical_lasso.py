"""The joint graphical lasso of given covariances, as a function."""

# License: BSD-3-Clause

import warnings
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from skmm._device import resolve_device
from skmm.fitting.graphical_lasso import Penalties, Solution, solve

__all__ = ["JointGraphicalLassoResult", "joint_graphical_lasso"]


@dataclass(frozen=True)
class JointGraphicalLassoResult:
    """What `joint_graphical_lasso` returns; C classes, p nodes.

    For one covariance, given as (p, p), the class axis is left out.

    Parameters
    ----------
    precision : ndarray of shape (C, p, p)
        The precision matrices, exactly `common` + `specific`.
    common : ndarray of shape (p, p)
        The part that all classes share.
    specific : ndarray of shape (C, p, p)
        The part of each class; zero throughout for one class.
    dual : ndarray of shape (C, p, p)
        A feasible dual solution Y, which certifies the result: ``duality_gap`` is the
        difference of the two objectives. At the optimum
        ``class_weights * (inv(precision) - emp_cov)``.
    objective : float
        The value of the objective, in nats.
    duality_gap : float
        No solution is better by more than this, in nats.
    n_iter : int
        Iterations, of the block that took most.
    converged : bool
        Whether the gap is within the tolerance.
    blocks : list of int arrays
        The nodes of each connected block of the union of the classes' graphs.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm import joint_graphical_lasso
    >>> result = joint_graphical_lasso(np.array([[1.0, 0.6], [0.6, 1.0]]), alpha=0.2)
    >>> np.linalg.inv(result.precision).round(2)  # off the diagonal, 0.6 - 0.2
    array([[1. , 0.4],
           [0.4, 1. ]])
    """

    precision: np.ndarray
    common: np.ndarray
    specific: np.ndarray
    dual: np.ndarray
    objective: float
    duality_gap: float
    n_iter: int
    converged: bool
    blocks: list[np.ndarray]


@validate_params(
    {
        "emp_cov": ["array-like"],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "common_ratio": [Interval(Real, 0, None, closed="left")],
        "weights": ["array-like", None],
        "specific_weights": ["array-like", None],
        "class_weights": ["array-like", None],
        "specific_penalty": [StrOptions({"l1", "group"})],
        "solver": [StrOptions({"auto", "newton", "admm"})],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "init": [JointGraphicalLassoResult, None],
        "device": "no_validation",
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def joint_graphical_lasso(
    emp_cov,
    alpha,
    *,
    common_ratio=0.471,
    weights=None,
    specific_weights=None,
    class_weights=None,
    specific_penalty="l1",
    solver="auto",
    tol=1e-6,
    max_iter=1000,
    init=None,
    device="auto",
    verbose=0,
):
    r"""Sparse precision matrices of several classes, with a shared part.

    Solves, over a common part A and specific parts :math:`B_c` with
    :math:`\Theta_c = A + B_c \succ 0`,

    .. math:: \min \sum_c t_c [-\log\det\Theta_c + \mathrm{tr}(S_c \Theta_c)]
              + \epsilon C \alpha \sum_{i \ne j} W_{ij} |A_{ij}|
              + \alpha \sum_c \sum_{i \ne j} W_{c,ij} |B_{c,ij}|

    and for one class the graphical lasso

    .. math:: \min -\log\det\Theta + \mathrm{tr}(S\Theta)
              + \alpha \sum_{i \ne j} W_{ij} |\Theta_{ij}|,

    the problem of `sklearn.covariance.graphical_lasso`. The diagonal is not penalised.
    The objective is a reconstruction after CM-GLasso [1]_, whose equations we could not
    read.

    The covariances may be singular. The problem falls apart into the blocks that exact
    screening [2]_ finds, each solved to a certified duality gap.

    Parameters
    ----------
    emp_cov : array-like of shape (n_classes, n_features, n_features)
        Covariance matrices :math:`S_c`, or one, (n_features, n_features): symmetric,
        positive semi-definite, with a positive diagonal. float32 is solved in float32,
        where gaps below about 1e-5 a node can't be certified; all else in float64.
    alpha : float
        Penalty of the specific parts, or for one class of the precision, in the units
        of `emp_cov`; not negative. With 0, `emp_cov` must be invertible.
    common_ratio : float, default=0.471
        :math:`\epsilon`, the penalty of the common part relative to that of all
        specific parts together. Near 0 everything is shared, from 1 on nothing is: the
        classes' solutions are then separate graphical lassos. At 1 - 2k / C, with k a
        whole number, some entries can be split in several ways; those with the smallest
        common part are taken. Ignored for one class.
    weights : array-like of shape (n_features, n_features), default=None
        :math:`W`, symmetric and not negative; its diagonal is not used. By default all
        ones.
    specific_weights : array-like of shape (n_features, n_features), default=None
        :math:`W_c`, likewise, or one a class, (n_classes, n_features, n_features). By
        default `weights`. Not for one class.
    class_weights : array-like of shape (n_classes,), default=None
        :math:`t_c`, positive; by default all ones.
    specific_penalty : {"l1", "group"}, default="l1"
        With "group" the last sum is :math:`\alpha \sum_{i \ne j} W_{ij}
        \|(B_{1,ij} .. B_{C,ij})\|_2`: where one class departs from the common part, all
        do. Weights then can't differ by class, and nothing is shared from a
        `common_ratio` of :math:`1 / \sqrt{C}` on.
    solver : {"auto", "newton", "admm"}, default="auto"
        "newton": Newton steps among the precisions with the zeros and signs that the
        subgradient points to, after [3]_, by conjugate gradients and sparse products,
        without eigendecompositions; fast for sparse and well-conditioned problems, very
        slow where the other is meant.
        "admm": alternating directions [4]_. "auto": the first, and the second where the
        first is slow or the penalty is a group norm.
    tol : float, default=1e-6
        Duality gap to reach, in nats a node and class.
    max_iter : int, default=1000
        Most iterations a block.
    init : JointGraphicalLassoResult, default=None
        A result of the same size to start from, such as one at a larger `alpha`.
    device : str or torch.device, default="auto"
        Where to compute; "auto" is CUDA if there is one, else the CPU.
    verbose : int, default=0
        Whether to print the gap of each iteration.

    Returns
    -------
    JointGraphicalLassoResult
        The matrices, with objective and duality gap.

    Raises
    ------
    ValueError
        If shapes, symmetry or signs are not as described.

    Warns
    -----
    ConvergenceWarning
        If the gap is not reached; the result says how far it is.

    See Also
    --------
    CrossModalGraphicalLasso : Estimator on data, with classes and missing modalities.
    sklearn.covariance.graphical_lasso : One class, by coordinate descent.

    Notes
    -----
    Time is cubic in the size of the largest block and linear in the number of classes.
    Memory is about three arrays of the size of `emp_cov` where blocks are small,
    results among them; a block takes 20 to 50 of its own size besides.

    References
    ----------
    .. [1] F. Wang, Y. Zhang and X. Wang, "Multimodal Structure Learning: Disentangling
       Shared and Specific Topology via Cross-Modal Graphical Lasso", arXiv:2604.03953,
       2026.
    .. [2] D. Witten, J. Friedman and N. Simon, "New insights and faster computations
       for the graphical lasso", J. Comput. Graph. Stat. 20(4), 2011.
    .. [3] P. Olsen, F. Oztoprak, J. Nocedal and S. Rennie, "Newton-like methods for
       sparse inverse covariance estimation", NeurIPS, 2012: one class. Several are
       ours.
    .. [4] S. Boyd et al., "Distributed optimization and statistical learning via the
       alternating direction method of multipliers", Found. Trends Mach. Learn. 3(1),
       2011, section 6.5.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm import joint_graphical_lasso
    >>> rng = np.random.default_rng(0)
    >>> emp_cov = np.stack([np.cov(rng.normal(size=(50, 4)).T) for _ in range(2)])
    >>> emp_cov[:, 0, 1] += 0.5  # a dependence that both classes have
    >>> emp_cov[:, 1, 0] += 0.5
    >>> result = joint_graphical_lasso(emp_cov, alpha=0.3)
    >>> np.argwhere(np.triu(result.common, 1))
    array([[0, 1]])
    >>> bool(result.duality_gap < 1e-5)
    True
    """
    covariance, squeeze = _check_covariance(emp_cov)
    n_classes, p, _ = covariance.shape
    if np.isinf(alpha):
        raise ValueError("alpha: expected a finite number, got inf.")
    weights = _check_weights(weights, "weights", (p, p))
    specific_weights = _check_weights(
        specific_weights, "specific_weights", (p, p), (n_classes, p, p)
    )
    if n_classes == 1 and specific_weights is not None:
        raise ValueError(
            "specific_weights: one class has no specific part. Pass `weights` only."
        )
    if specific_weights is None:
        specific_weights = weights
    elif specific_penalty == "group" and specific_weights.ndim == 3:
        raise ValueError(
            "specific_weights: with specific_penalty='group' expected one matrix "
            f"{(p, p)} for all classes, got one a class."
        )
    class_weights = _check_class_weights(class_weights, n_classes)
    place = resolve_device(device, fitting=True)

    def tensor(values: Any) -> torch.Tensor | None:
        return (
            None
            if values is None
            else torch.as_tensor(values, dtype=dtype, device=place)
        )

    dtype = torch.float32 if covariance.dtype == np.float32 else torch.float64
    if n_classes == 1:
        penalties = Penalties(alpha, None, tensor(weights))
    else:
        if specific_weights is not None and specific_weights.ndim == 2:
            specific_weights = specific_weights[None]
        penalties = Penalties(
            alpha * common_ratio * n_classes,
            alpha,
            tensor(weights),
            tensor(specific_weights),
            specific_penalty == "group",
        )
    solution = solve(
        tensor(covariance),
        tensor(class_weights),
        penalties,
        solver=solver,
        tol=tol,
        max_iter=max_iter,
        init=None if init is None else _as_solution(init, covariance, tensor),
        on_iteration=_print_gap if verbose else None,
    )
    if not solution.converged:
        warn_not_converged(solution, tol, n_classes * p, max_iter)
    return _as_result(solution, squeeze)


def warn_not_converged(solution: Solution, tol: float, size: int, max_iter: int):
    """Say how far the solution is from optimal, and what to do."""
    if solution.n_iter >= max_iter:
        advice = f"Increase max_iter (now {max_iter})"
    elif solution.common.dtype == torch.float32:
        advice = "Single precision allows no more: pass float64"
    else:
        advice = "No step makes progress: use solver='admm'"
    warnings.warn(
        f"The graphical lasso did not reach tol={tol:g}: the duality gap is "
        f"{solution.gap / size:.2g} nats a node and class after {solution.n_iter} "
        f"iterations. {advice}, increase tol or the penalties.",
        ConvergenceWarning,
        stacklevel=3,
    )


def _print_gap(gap: float) -> None:
    print(f"duality gap {gap:.3g} nats a node and class")


def _as_result(solution: Solution, squeeze: bool) -> JointGraphicalLassoResult:
    def array(values: torch.Tensor) -> np.ndarray:
        values = values.cpu().numpy()
        return values[0] if squeeze and values.ndim == 3 else values

    common = array(solution.common)
    specific = (
        # The pages of zeros are not touched until someone writes to them.
        np.zeros(solution.dual.shape[squeeze:], common.dtype)
        if solution.specific is None
        else array(solution.specific)
    )
    return JointGraphicalLassoResult(
        precision=array(solution.precision),
        common=common,
        specific=specific,
        dual=array(solution.dual),
        objective=solution.objective,
        duality_gap=solution.gap,
        n_iter=solution.n_iter,
        converged=solution.converged,
        blocks=solution.blocks,
    )


def _as_solution(init: JointGraphicalLassoResult, covariance, tensor) -> Solution:
    n_classes, p, _ = covariance.shape
    dual = np.reshape(init.dual, (-1, *init.dual.shape[-2:]))
    if dual.shape != covariance.shape:
        raise ValueError(
            f"init: expected a result for {n_classes} classes and {p} features, got "
            f"one for {dual.shape[0]} and {dual.shape[1]}."
        )
    specific = tensor(init.specific.reshape(covariance.shape))
    return Solution(
        tensor(init.common),
        None if n_classes == 1 else specific,
        tensor(dual),
        init.objective,
        init.duality_gap,
        init.n_iter,
        init.converged,
        init.blocks,
    )


def _check_covariance(emp_cov: Any) -> tuple[np.ndarray, bool]:
    """Covariances (C, p, p), and whether the class axis was added."""
    covariance = _writable(
        check_array(
            emp_cov,
            allow_nd=True,
            dtype=[np.float64, np.float32],
            input_name="emp_cov",
        )
    )
    squeeze = covariance.ndim == 2
    if squeeze:
        covariance = covariance[None]
    if covariance.ndim != 3 or covariance.shape[1] != covariance.shape[2]:
        raise ValueError(
            "emp_cov: expected shape (n_features, n_features) or (n_classes, "
            f"n_features, n_features), got {np.shape(emp_cov)}."
        )
    covariance = _check_symmetric(covariance, "emp_cov")
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    if not (variance > 0).all():
        c, j = np.argwhere(variance <= 0)[0]
        raise ValueError(
            f"emp_cov: expected a positive diagonal, got {variance[c, j]:g} for "
            f"feature {j} of class {c}. Drop constant features or add to the diagonal."
        )
    return covariance, squeeze


def _writable(array: np.ndarray) -> np.ndarray:
    """As torch wants it: rows contiguous, not read-only."""
    return np.require(array, requirements="CW")


def _check_symmetric(matrices: np.ndarray, name: str) -> np.ndarray:
    """Matrices (n, p, p), symmetric to the last bit."""
    exact = True
    for matrix in matrices:
        size = float(np.abs(matrix).max())
        difference = float(np.abs(matrix - matrix.T).max())
        exact = exact and difference == 0
        if difference > 1e-5 * size:
            raise ValueError(
                f"{name}: expected a symmetric matrix, got one that differs from its "
                f"transpose by {difference:.2g}."
            )
    return matrices if exact else (matrices + matrices.swapaxes(1, 2)) / 2


def _check_weights(weights: Any, name: str, *shapes: tuple) -> np.ndarray | None:
    if weights is None:
        return None
    weights = check_array(
        weights, allow_nd=True, dtype=[np.float64, np.float32], input_name=name
    )
    if weights.shape not in shapes:
        raise ValueError(
            f"{name}: expected shape {' or '.join(map(str, shapes))}, got "
            f"{weights.shape}."
        )
    if (weights < 0).any():
        raise ValueError(f"{name}: expected no negative value, got {weights.min():g}.")
    flat = weights.reshape(-1, *weights.shape[-2:])
    return _writable(_check_symmetric(flat, name).reshape(weights.shape))


def _check_class_weights(class_weights: Any, n_classes: int) -> np.ndarray:
    if class_weights is None:
        return np.ones(n_classes)
    class_weights = np.asarray(class_weights, dtype=np.float64)
    if class_weights.shape != (n_classes,) or not (
        np.isfinite(class_weights).all() and (class_weights > 0).all()
    ):
        raise ValueError(
            f"class_weights: expected {n_classes} positive finite numbers, got "
            f"{class_weights}."
        )
    return class_weights
