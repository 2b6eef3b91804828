"""Cost of joint_graphical_lasso: against other solvers, its growth, its memory.

    python benchmarks/graphical_lasso.py [single] [classes] [growth] [memory] [solvers]

single   one class, against scikit-learn, GGLasso and regain on the same problem
classes  five classes, against GGLasso's group graphical lasso, another problem
growth   seconds by nodes, classes and blocks
memory   5000 nodes in 100 blocks: seconds and peak resident memory
solvers  the two solvers, in float64 and float32

One thread. All stop at the same duality gap, ``TOL`` nats a node and class, computed
here in numpy: a solver's precision against the best of several dual points, its own
among them. The peers get the most favourable stop: the first iteration that reaches the
gap is sought beforehand, and the timed run ends there, without the cost of any gap.
skmm pays for its own. Compiling numba is not counted. What is compared is run in turn
within each repetition; seconds are medians.
"""

import contextlib
import io
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy.linalg import block_diag
from sklearn.covariance import graphical_lasso
from sklearn.datasets import make_sparse_spd_matrix
from threadpoolctl import threadpool_limits

import skmm

TOL = 1e-6  # nats a node and class
LIMIT = 120  # seconds that a peer may take, also to find its stop
RATIO = 0.471  # skmm's default common_ratio


def planted(
    p: int, n: int, *, n_classes: int = 1, smallest: float = 0.2, seed: int = 0
) -> np.ndarray:
    """Sample correlations of a planted sparse graph, (p, p) or (n_classes, p, p).

    Every class has the same 2 p edges, with the same values, and p / 2 of its own when
    there are several; partial covariances are 0.2 to 0.5 of either sign on a unit
    diagonal, raised where needed for a `smallest` eigenvalue.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.triu_indices(p, 1)

    def edges(number: int) -> np.ndarray:
        chosen = rng.choice(len(rows), number, replace=False)
        values = rng.uniform(0.2, 0.5, number) * rng.choice([-1, 1], number)
        matrix = np.zeros((p, p))
        matrix[rows[chosen], columns[chosen]] = values
        return matrix + matrix.T

    common, correlations = edges(2 * p), []
    for _ in range(n_classes):
        theta = common + (edges(p // 2) if n_classes > 1 else 0)
        theta[theta != 0] = np.clip(theta[theta != 0], -0.5, 0.5)
        theta += max(1, smallest - np.linalg.eigvalsh(theta)[0]) * np.eye(p)
        root = np.linalg.cholesky(np.linalg.inv(theta))
        correlations.append(np.corrcoef(rng.normal(size=(n, p)) @ root.T, rowvar=False))
    return np.stack(correlations) if n_classes > 1 else correlations[0]


def grown(p: int, n: int, seed: int = 0) -> np.ndarray:
    """Sample correlations of a graph from scikit-learn's generator: it has hubs."""
    settings = {"alpha": 0.98, "smallest_coef": 0.4, "largest_coef": 0.7}
    theta = make_sparse_spd_matrix(p, random_state=seed, **settings)
    root = np.linalg.cholesky(np.linalg.inv(theta))
    rows = np.random.default_rng(seed).normal(size=(n, p)) @ root.T
    return np.corrcoef(rows, rowvar=False)


def edge_share(theta: np.ndarray) -> float:
    """Per cent of pairs that are edges, mean over classes."""
    p = theta.shape[-1]
    count = np.count_nonzero(theta.reshape(-1, p, p)) - theta.size // p
    return 100 * count / (theta.size - theta.size // p)


# ---------------------------------------------------------------- the gap
def off_diagonal(matrices: np.ndarray) -> np.ndarray:
    return matrices * ~np.eye(matrices.shape[-1], dtype=bool)


def norms(matrices: np.ndarray) -> np.ndarray:
    return np.sqrt((matrices**2).sum(0))


@dataclass(frozen=True)
class L1:
    """One class: alpha on the entries off the diagonal."""

    alpha: float

    def value(self, theta: np.ndarray) -> float:
        return self.alpha * np.abs(off_diagonal(theta)).sum()

    def feasible(self, dual: np.ndarray) -> np.ndarray:
        return off_diagonal(np.clip(dual, -self.alpha, self.alpha))


@dataclass(frozen=True)
class GroupL1:
    """GGLasso's "GGL": l1 on entries, l2 on their norms over classes."""

    l1: float
    l2: float

    def value(self, theta: np.ndarray) -> float:
        off = off_diagonal(theta)
        return self.l1 * np.abs(off).sum() + self.l2 * norms(off).sum()

    def feasible(self, dual: np.ndarray) -> np.ndarray:
        inside = np.clip(dual, -self.l1, self.l1)
        rest = dual - inside
        scale = np.minimum(1, self.l2 / np.maximum(norms(rest), 1e-300))
        return off_diagonal(inside + scale * rest)


@dataclass(frozen=True)
class Split:
    """skmm's penalty of a common and a specific part."""

    alpha: float
    group: bool
    common: np.ndarray
    specific: np.ndarray

    def value(self, theta: np.ndarray) -> float:
        drift = np.abs(theta - self.common - self.specific).max()
        if drift > 1e-12:
            raise AssertionError(f"precision is not common + specific: {drift:.1e}")
        rest = off_diagonal(self.specific)
        specific = norms(rest).sum() if self.group else np.abs(rest).sum()
        common = RATIO * len(theta) * np.abs(off_diagonal(self.common)).sum()
        return self.alpha * (common + specific)

    def feasible(self, dual: np.ndarray) -> np.ndarray:
        size = norms(dual) if self.group else np.abs(dual)
        dual = dual * np.minimum(1, self.alpha / np.maximum(size, 1e-300))
        total = np.maximum(np.abs(dual.sum(0)), 1e-300)
        limit = RATIO * len(dual) * self.alpha
        return off_diagonal(dual * np.minimum(1, limit / total))


def log_dets(matrices: np.ndarray) -> float:
    """Sum of log-determinants; minus infinity where one is not defined."""
    try:
        factors = np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return -math.inf
    return 2 * np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum()


def objective_and_gap(
    cov: np.ndarray, theta: np.ndarray, penalty: Any, duals: Sequence[np.ndarray] = ()
) -> tuple[float, float]:
    """The objective, and its distance to the best of the dual points in nats.

    The dual points are `duals` and the inverse of `theta` less `cov`, made feasible,
    and shrunk where the dual is not defined.
    """
    p = cov.shape[-1]
    cov, theta = cov.reshape(-1, p, p), theta.reshape(-1, p, p)
    theta = (theta + theta.transpose(0, 2, 1)) / 2
    log_det = log_dets(theta)
    if log_det == -math.inf:
        return math.inf, math.inf
    primal = (cov * theta).sum() - log_det + penalty.value(theta)
    best = -math.inf
    for dual in [np.linalg.inv(theta) - cov, *duals]:
        dual = penalty.feasible(dual.reshape(-1, p, p))
        dual = (dual + dual.transpose(0, 2, 1)) / 2
        values = (log_dets(cov + s * dual) for s in (1, 0.999, 0.99, 0.9))
        value = next((v for v in values if v > -math.inf), -math.inf)
        best = max(best, value + len(cov) * p)
    return primal, primal - best


# ---------------------------------------------------------------- the solvers
class Reached(Exception):
    """The gap is reached, or time is over."""


@dataclass
class Stop:
    """Watches a peer's iterations in the search for its stop."""

    gap: Callable[..., float]
    target: float
    of: Any = None  # the matrix that is iterated on
    start: float = field(default_factory=time.perf_counter)
    seen: int = 0

    def __call__(self, *point: Any) -> bool:
        self.seen += 1
        if time.perf_counter() - self.start > LIMIT:
            raise Reached(f"no stop found within {LIMIT} s")
        return self.gap(*point) <= self.target


def quietly(run: Callable[[], Any]) -> Any:
    """Without GGLasso's prints, and warnings of a stop at a given iteration."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run()


@dataclass
class Solution:
    theta: np.ndarray
    duals: tuple[np.ndarray, ...] = ()
    penalty: Any = None  # where it depends on the solution
    note: str = ""


class Ours:
    name = "skmm"

    def __init__(self, **settings: Any) -> None:
        self.settings = {"device": "cpu", "tol": TOL, "max_iter": 5000} | settings

    def prepare(self, cov: np.ndarray, alpha: float) -> None:
        self.solve(planted(5, 20), 0.1)

    def solve(self, cov: np.ndarray, alpha: float) -> Solution:
        solve = partial(skmm.joint_graphical_lasso, cov, alpha, **self.settings)
        result = quietly(solve)  # the note says whether it is not met
        penalty = None
        if cov.ndim == 3:
            group = self.settings.get("specific_penalty", "l1") == "group"
            penalty = Split(alpha, group, result.common, result.specific)
        note = f"{result.n_iter} iterations" + ("" if result.converged else ", not met")
        return Solution(result.precision, (result.dual,), penalty, note)


class ScikitLearn:
    """mode="cd", whose inner tolerance is the quickest of three."""

    name = "scikit-learn"

    def prepare(self, cov: np.ndarray, alpha: float) -> None:
        found: dict[float, float] = {}
        stop_at, reasons = {}, []
        for enet_tol in (1e-6, 1e-5, 1e-4):  # the first surely gets there
            try:
                stop_at[enet_tol] = self._tolerance(cov, alpha, enet_tol, found)
            except FloatingPointError as error:
                reasons.append(str(error))
            except Reached as error:  # slower than before, or than the limit
                reasons.append(str(error))
                if not found:
                    break
        if not found:
            raise Reached(reasons[0])
        best = min(found, key=found.get)
        self.settings = {"tol": stop_at[best], "enet_tol": best, "max_iter": 1000}

    def _tolerance(self, cov, alpha, enet_tol, found) -> float:
        """The tolerance on its own gap with which it stops where ours is reached."""
        own_gap = "sklearn.covariance._graph_lasso._dual_gap"
        penalty, smallest = L1(alpha), math.inf
        limit = min([LIMIT, *found.values()])

        def gap(theta: np.ndarray) -> float:
            return objective_and_gap(cov, theta, penalty)[1]

        stop, spent = Stop(gap, TOL * len(cov)), 0.0

        def watch(emp_cov, theta, a) -> float:
            nonlocal smallest, spent
            own = abs((emp_cov * theta).sum() - len(theta) + penalty.value(theta))
            entered = time.perf_counter()
            if entered - stop.start - spent > limit:
                raise Reached(f"no stop found within {limit:.0f} s")
            new = own < smallest
            smallest = min(own, smallest)
            done = stop(theta) and new
            spent += time.perf_counter() - entered
            return 0.0 if done else 1.0 + own

        # max_iter also bounds the inner solver: the same here as when timed.
        settings = {"tol": 1e-3, "enet_tol": enet_tol, "max_iter": 1000}
        with mock.patch(own_gap, watch):
            quietly(lambda: graphical_lasso(cov, alpha, **settings))
        if stop.seen == settings["max_iter"]:
            raise Reached(f"gap not reached in {stop.seen} iterations")
        found[enet_tol] = time.perf_counter() - stop.start - spent
        return smallest * 1.001

    def solve(self, cov: np.ndarray, alpha: float) -> Solution:
        covariance, theta, n_iter = quietly(
            lambda: graphical_lasso(cov, alpha, return_n_iter=True, **self.settings)
        )
        note = f"{n_iter} iterations, enet_tol {self.settings['enet_tol']:.0e}"
        return Solution(theta, (covariance - cov,), note=note)


class GGLasso:
    """ADMM_SGL and block_SGL, and ADMM_MGL for several classes."""

    def __init__(self, solver: str, l2_ratio: float = 0.5) -> None:
        self.name, self.solver, self.l2_ratio = f"GGLasso {solver}", solver, l2_ratio

    def penalty(self, alpha: float) -> L1 | GroupL1:
        if self.solver == "ADMM_MGL":
            return GroupL1(alpha, self.l2_ratio * alpha)
        return L1(alpha)

    def _run(self, cov: np.ndarray, alpha: float, max_iter: int) -> dict[str, Any]:
        from gglasso.solver import admm_solver, single_admm_solver

        settings = {"tol": 0.0, "rtol": 0.0, "max_iter": max_iter}
        eye = np.eye(cov.shape[-1])
        if self.solver == "ADMM_MGL":
            start, l2 = np.broadcast_to(eye, cov.shape), self.l2_ratio * alpha
            solve = partial(admm_solver.ADMM_MGL, cov, alpha, l2, "GGL", start)
        else:
            solver = getattr(single_admm_solver, self.solver)
            solve = partial(solver, cov, alpha, eye)
        found = quietly(lambda: solve(**settings))
        return found[0] if isinstance(found, tuple) else found

    def prepare(self, cov: np.ndarray, alpha: float) -> None:
        module = "admm" if self.solver == "ADMM_MGL" else "single_admm"
        criterion = f"gglasso.solver.{module}_solver.ADMM_stopping_criterion"
        penalty = self.penalty(alpha)
        self._run(cov[..., :3, :3], alpha, 2)  # compiles
        stops: list[Stop] = []

        def gap(S, theta, *duals) -> float:
            return objective_and_gap(S, theta, penalty, duals)[1]

        def watch(omega, before, theta, low_rank, dual, S, rho, *rest):
            # block_SGL iterates on one block after the other.
            if not stops or stops[-1].of is not S:
                target = TOL * S.size / S.shape[-1]
                stops.append(Stop(partial(gap, S), target, S))
            done = stops[-1](theta, rho * dual, np.linalg.inv(omega) - S)
            r, s = np.linalg.norm(omega - theta), rho * np.linalg.norm(omega - before)
            return (0.0, 0.0, 1.0, 1.0) if done else (r, s, 0.0, 0.0)

        with mock.patch(criterion, watch):
            self._run(cov, alpha, 20_000)
        self.max_iter = max((s.seen for s in stops), default=1)

    def solve(self, cov: np.ndarray, alpha: float) -> Solution:
        found = self._run(cov, alpha, self.max_iter)
        inverse = np.linalg.inv(found["Omega"]) - cov
        scaled = off_diagonal(found["X"])
        # Its own dual point is X times the step, a power of two for each block, which
        # it does not return. Between blocks X is left zero.
        steps = (inverse * scaled).sum(-1) / np.maximum((scaled**2).sum(-1), 1e-300)
        steps = 2.0 ** np.rint(np.log2(np.clip(steps, 2.0**-30, 2.0**30)))
        duals = (np.where(scaled == 0, inverse, scaled * steps[..., None]), inverse)
        note = f"{self.max_iter} iterations"
        return Solution(found["Theta"], duals, self.penalty(alpha), note)


class Regain:
    name = "regain"

    def _run(self, cov: np.ndarray, alpha: float, max_iter: int, watched: bool) -> Any:
        from regain.covariance.graphical_lasso_ import graphical_lasso

        settings = {"tol": 0.0, "rtol": 0.0, "compute_objective": watched}
        settings |= {"return_n_iter": False}
        solve = partial(graphical_lasso, cov, alpha, max_iter=max_iter, **settings)
        return quietly(solve)[0]

    def prepare(self, cov: np.ndarray, alpha: float) -> None:
        penalty = L1(alpha)

        def gap(x, z) -> float:
            return objective_and_gap(cov, z, penalty, [np.linalg.inv(x) - cov])[1]

        stop = Stop(gap, TOL * len(cov))

        class Found(Exception):
            pass

        def watch(emp_cov, x, z, a) -> float:
            if stop(x, z):
                self.dual = np.linalg.inv(x) - cov  # it does not return x
                raise Found
            return 0.0

        with (
            mock.patch("regain.covariance.graphical_lasso_.objective", watch),
            contextlib.suppress(Found),
        ):
            self._run(cov, alpha, 20_000, True)
        self.max_iter = stop.seen

    def solve(self, cov: np.ndarray, alpha: float) -> Solution:
        theta = self._run(cov, alpha, self.max_iter, False)
        return Solution(theta, (self.dual,), note=f"{self.max_iter} iterations")


def timed(solver: Any, cov: np.ndarray, alpha: float) -> tuple[float, Solution]:
    start = time.perf_counter()
    solution = solver.solve(cov, alpha)
    return time.perf_counter() - start, solution


def compare(
    head: str,
    cov: np.ndarray,
    solvers: Sequence[tuple[Any, float]],
    repetitions: Mapping[str, int] | None = None,
) -> None:
    """One row a solver; the first is what the others are divided by."""
    failed, seconds, last = {}, {}, {}
    for solver, alpha in solvers:
        try:
            solver.prepare(cov, alpha)
        except Exception as error:  # a row says what any peer raises
            failed[solver.name] = f"{alpha:>7.4f}  fails: {str(error)[:80]}"
    for repetition in range(3):
        for solver, alpha in solvers:
            name = solver.name
            if name in failed or repetition >= (repetitions or {}).get(name, 3):
                continue
            elapsed, last[name] = timed(solver, cov, alpha)
            seconds.setdefault(name, []).append(elapsed)
    first = solvers[0][0].name
    for solver, alpha in solvers:
        name = solver.name
        if name in failed:
            print(f"{head}{name:<20}{failed[name]}", flush=True)
            continue
        found = last[name]
        penalty = found.penalty or L1(alpha)
        value, gap = objective_and_gap(cov, found.theta, penalty, found.duals)
        middle = median(seconds[name])
        ratio = middle / median(seconds[first]) if first in seconds else math.nan
        print(
            f"{head}{name:<20}{alpha:>7.4f}{edge_share(found.theta):>7.1f}{middle:>10.3f}"
            f"{value:>14.4f}{gap / (TOL * cov.size / cov.shape[-1]):>7.2f}{ratio:>8.1f}"
            f"  {found.note}",
            flush=True,
        )


ROW = (
    f"{'solver':<20}{'alpha':>7}{'edges%':>7}{'seconds':>10}{'objective':>14}{'gap':>7}"
    f"{'to skmm':>8}"
)

# (nodes, rows, smallest eigenvalue planted, alpha): about 2 %, 10 % or 30 % edges.
SINGLE = [
    (200, 400, 0.2, 0.175),
    (200, 400, 0.2, 0.086),
    (500, 1000, 0.2, 0.082),
    (500, 1000, 0.2, 0.051),
    (1000, 2000, 0.2, 0.054),
    (1000, 2000, 0.2, 0.0355),
    (500, 250, 0.2, 0.1),
    (500, 250, 0.01, 0.04),
    (500, 1000, 0.01, 0.023),
]


# ---------------------------------------------------------------- single
def single() -> None:
    """(a) One class against all peers."""
    print(
        "\n(a) one class, seed 0, diagonal free: the same problem for all. n = 2 p, "
        "and n = p / 2, where S is singular.\n    gap: duality gap in units of "
        f"{TOL:g} p nats. Medians of 3; scikit-learn at p = 1000 once.\n"
        "    eig: smallest eigenvalue of what is planted; hubs: make_sparse_spd_matrix."
    )
    print(f"{'p':>5}{'n':>6}{'eig':>6}  {ROW}")
    problems = [
        (p, n, smallest, alpha, planted(p, n, smallest=smallest))
        for p, n, smallest, alpha in SINGLE
    ]
    problems.append((500, 1000, "hubs", 0.1, grown(500, 1000)))
    for p, n, kind, alpha, cov in problems:
        peers = [Ours(), GGLasso("ADMM_SGL"), GGLasso("block_SGL"), Regain()]
        solvers = [(solver, alpha) for solver in (*peers, ScikitLearn())]
        repetitions = {"scikit-learn": 1} if p >= 1000 else {}
        compare(f"{p:>5}{n:>6}{kind:>6}  ", cov, solvers, repetitions)


# ---------------------------------------------------------------- classes
# nodes: alphas of skmm's l1, its group form, and GGLasso, for about 5 % of the pairs.
CLASSES = {100: (0.254, 0.372, 0.146), 200: (0.127, 0.211, 0.085)}


def classes() -> None:
    """(b) Five classes."""
    print(
        "\n(b) K = 5 classes, n = 2 p rows each, seed 0. GGLasso's objective is "
        "another one (GGL, lambda1 = alpha, lambda2 = alpha / 2);\n    alphas are such "
        f"that the share of edges is about the same. gap: in units of {TOL:g} p K nats."
    )
    print(f"{'p':>5}  {ROW}")
    for p, (l1, group, ggl) in CLASSES.items():
        plain, grouped = Ours(), Ours(specific_penalty="group")
        plain.name, grouped.name = "skmm, l1", "skmm, group"
        solvers = [(plain, l1), (grouped, group), (GGLasso("ADMM_MGL"), ggl)]
        compare(f"{p:>5}  ", planted(p, 2 * p, n_classes=5), solvers)


# ---------------------------------------------------------------- growth
def blocks_of(n_blocks: int, size: int = 50) -> np.ndarray:
    """Blocks with 100 rows each, exactly uncorrelated with one another."""
    return block_diag(*(planted(size, 2 * size, seed=k) for k in range(n_blocks)))


def growth() -> None:
    """(c) Seconds, one thing changed at a time."""
    print(
        "\n(c) seconds of skmm, medians of 3: by p (n = 2 p, alpha = 2 / sqrt(n)), "
        "by classes C\n    (p = 100, n = 200, alpha 0.15), by blocks of 50 nodes "
        "(alpha 0.15). In brackets: edges in per cent."
    )
    sizes = {
        "p": {p: (planted(p, 2 * p), (2 / p) ** 0.5) for p in (100, 200, 400, 800)},
        "C": {c: (planted(100, 200, n_classes=c), 0.15) for c in (1, 2, 5, 10, 20)},
        "blocks": {b: (blocks_of(b), 0.15) for b in (1, 2, 5, 10, 20)},
    }
    solver = Ours()
    solver.solve(planted(5, 20), 0.1)
    for name, problems in sizes.items():
        row = []
        for value, (cov, alpha) in problems.items():
            runs = [timed(solver, cov, alpha) for _ in range(3)]
            middle, share = median(s for s, _ in runs), edge_share(runs[0][1].theta)
            row.append(f"{name} = {value}: {middle:.3f} ({share:.1f})")
        print("    " + ",  ".join(row), flush=True)


# ---------------------------------------------------------------- memory
def resident(what: str) -> int:
    """Bytes of this process now (VmRSS) or at most since its start (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(what))
    return 1024 * int(line.split()[1])


MEMORY_ALPHA = 0.15


def memory_of(name: str) -> None:
    """Run in a process of its own: prints seconds, memory in p^2 float64, gap."""
    n_blocks, size = 100, 50
    p = n_blocks * size
    solvers = {"skmm": Ours, "GGLasso block_SGL": partial(GGLasso, "block_SGL")}
    solver = solvers.get(name, ScikitLearn)()
    cov = np.zeros((p, p))
    for k in range(n_blocks):
        cov[k * size :, k * size :][:size, :size] = planted(size, 2 * size, seed=k)
    if name == "scikit-learn":
        solver.settings = {"tol": TOL * p}
    else:
        solver.prepare(cov[:size, :size].copy(), MEMORY_ALPHA)
    before = resident("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    seconds, found = timed(solver, cov, MEMORY_ALPHA)
    used = (resident("VmHWM") - before) / (8 * p**2)
    gap = 0.0
    for k in range(n_blocks):
        at = slice(k * size, (k + 1) * size)
        duals = [d.reshape(p, p)[at, at] for d in found.duals[:1]]
        penalty = L1(MEMORY_ALPHA)
        gap += objective_and_gap(cov[at, at], found.theta[at, at], penalty, duals)[1]
    print(f"{name:<20}{seconds:>9.2f}{used:>9.1f}{gap / (TOL * p):>9.2f}")


def memory() -> None:
    """(d) Many blocks: memory and seconds."""
    print(
        "\n(d) p = 5000 in 100 blocks of 50, n = 100, alpha "
        f"{MEMORY_ALPHA}, each in a process of its own. memory: the highest resident\n"
        "    memory in the call above what was there before it, in matrices of p^2 "
        f"float64 (200 MB). gap: in units of {TOL:g} p nats.\n    GGLasso's iterations "
        "are those that the first block needs; scikit-learn's tol is the gap."
    )
    print(f"{'solver':<20}{'seconds':>9}{'memory':>9}{'gap':>9}")
    for name in ("skmm", "GGLasso block_SGL", "scikit-learn"):
        command = [sys.executable, __file__, "memory-of", name]
        try:
            done = subprocess.run(
                command, timeout=LIMIT, capture_output=True, text=True, check=True
            )
            print(done.stdout, end="", flush=True)
        except subprocess.TimeoutExpired:
            print(f"{name:<20} not done in {LIMIT} s", flush=True)
        except subprocess.CalledProcessError as error:
            print(f"{name:<20} {error.stderr.strip().splitlines()[-1]}", flush=True)


# ---------------------------------------------------------------- solvers
def solvers() -> None:
    """(e) Our solvers and precisions."""
    print(
        "\n(e) skmm's solvers, medians of 3. tol: in nats a node and class; gap: in "
        "the same unit, computed in float64."
    )
    print(
        f"{'problem':<26}{'solver':<8}{'dtype':<9}{'tol':>7}{'edges%':>8}{'seconds':>9}"
        f"{'gap':>10}  iterations"
    )
    problems = [
        (f"p = {p}, n = {n}, {alpha}", planted(p, n, smallest=smallest), alpha, {})
        for p, n, smallest, alpha in SINGLE
        if p == 500 and smallest > 0.1  # "newton" takes minutes on the others
    ]
    for group, alpha in zip(("l1", "group"), CLASSES[100], strict=False):
        cov, settings = planted(100, 200, n_classes=5), {"specific_penalty": group}
        problems.append((f"K = 5, p = 100, {group}", cov, alpha, settings))
    for label, cov, alpha, settings in problems:
        for solver in ("newton", "admm"):
            for dtype, tol in (("float64", TOL), ("float64", 1e-4), ("float32", 1e-4)):
                ours = Ours(solver=solver, tol=tol, **settings)
                given = cov.astype(dtype)
                try:
                    runs = [timed(ours, given, alpha) for _ in range(3)]
                except Exception as error:
                    print(f"{label:<26}{solver:<8}{dtype:<9}{tol:>7.0e}  {error}")
                    continue
                found = runs[0][1]
                theta = found.theta.astype(float)
                penalty = found.penalty or L1(alpha)
                if found.penalty:  # the split in float64
                    common = penalty.common.astype(float)
                    penalty = Split(alpha, penalty.group, common, theta - common)
                duals = [d.astype(float) for d in found.duals]
                _, gap = objective_and_gap(cov, theta, penalty, duals)
                print(
                    f"{label:<26}{solver:<8}{dtype:<9}{tol:>7.0e}{edge_share(theta):>8.1f}"
                    f"{median(s for s, _ in runs):>9.3f}"
                    f"{gap / (cov.size / cov.shape[-1]):>10.1e}  {found.note}",
                    flush=True,
                )


PARTS = {
    "single": single,
    "classes": classes,
    "growth": growth,
    "memory": memory,
    "solvers": solvers,
}


def versions() -> str:
    texts = [f"python {sys.version.split()[0]}"]
    for package in ("torch", "numpy", "scikit-learn", "gglasso", "regain"):
        with contextlib.suppress(PackageNotFoundError):
            texts.append(f"{package} {version(package)}")
    return "  ".join(texts)


def main(asked: list[str]) -> None:
    torch.set_num_threads(1)
    with threadpool_limits(1):
        if asked[:1] == ["memory-of"]:
            return memory_of(asked[1])
        unknown = sorted(set(asked) - set(PARTS))
        if unknown:
            raise SystemExit(f"expected parts among {list(PARTS)}, got {unknown}")
        print(f"{date.today()}  {versions()}")
        print(f"command: graphical_lasso.py {' '.join(asked)}")
        for part in asked or PARTS:
            PARTS[part]()


if __name__ == "__main__":
    main(sys.argv[1:])
