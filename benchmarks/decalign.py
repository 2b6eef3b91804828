"""DecAlign: what its transport, steps and fits cost, and what they are good for.

    python benchmarks/decalign.py --parts solver step fit growth
    python benchmarks/decalign.py --parts pairs --views pix-fac pix-zer pix-fou
    python benchmarks/decalign.py --parts linear ablations --sets watch --fractions 0.3

solver     multi-marginal transport against POT and against plain sweeps over the whole
           tensor of tuples, all to the same error of the marginals
step       one training step: mixtures carried from step to step against unrolled EM
fit        a fit against a bare torch loop of the same network, losses and batches
growth     seconds a step by prototypes, modalities, rows and steps of a sequence
pairs      unsupervised: finding an object's other view, with few pairs told
linear     logistic regression on the fused vectors, and DecAlignClassifier, against the
           named best peers, by the protocol of accuracy.py
ablations  DecAlignClassifier with its defaults against itself without some terms

One thread; costs are CPU times, since a busy machine changes those less. What is
compared is run in turn within each repetition or fold. The long parts can be split over
processes (--views, --sets, --fractions, --seeds) that share folders of runs: --cache
for the peers' and --runs for ours, which hold for one state of the code. A last call
with both then prints the whole table.
"""

import argparse
import math
import sys
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from accuracy import ESTIMATORS, Cache, Runs, compare, peer_names, peers_view, run_seed
from accuracy import _setting as setting
from accuracy import _share as share
from dcmem import print_table, spread
from peers import make_peer
from protocol import SETS, DataMissing, Problem, load, with_gaps
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tcmax import blobs, peak_bytes
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from skmm import DecAlignClassifier, DecAlignTransformer
from skmm.core.transport import (
    bures_cost,
    gaussian_points,
    joint_cost,
    multi_marginal_sinkhorn,
    star_transport,
)
from skmm.datasets import load_mfeat
from skmm.fitting.data import BatchIterator
from skmm.fitting.gradient import GradientNet
from skmm.metrics import recall_at_k
from skmm.modalities import Modality

TOL = 1e-6  # L1 error of the worst marginal
LIMIT = 60  # seconds in which a peer's number of sweeps is sought
LONG = 2.0  # seconds of a run from which it is repeated but twice


# ---------------------------------------------------------------- tables and clocks
def title(options: Namespace, *packages: str) -> None:
    """Open a block of text, with versions and the command."""
    print("```text")
    print(f"{date.today()}  python {sys.version.split()[0]}", end="")
    for name in ("torch", "scikit-learn", "numpy", *packages):
        print(f"  {name} {version(name)}", end="")
    print(f"\ncommand: decalign.py {' '.join(options.told)}", flush=True)


def clock(run: Callable[[], object]) -> float:
    """CPU seconds of the one thread."""
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(
    runs: Mapping[str, Callable[[], object]], repetitions: int
) -> dict[str, float]:
    """Median seconds of each, in turn; the first round, of warming up, does not count.

    What takes long is run twice, without warming up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(repetitions + 1):
        for name, run in runs.items():
            known = seconds[name]
            if repetition > 1 and known[0] > LONG:
                continue
            known.append(clock(run))
    return {
        name: median(known if known[0] > LONG else known[1:])
        for name, known in seconds.items()
    }


# ---------------------------------------------------------------- the solver
@dataclass(frozen=True)
class Transport:
    """Prototypes of some modalities, the costs of their tuples and their masses."""

    points: list[Tensor]
    cost: Tensor | None
    masses: list[Tensor]
    unit: float  # the expected cost under independence

    @classmethod
    def of(cls, sizes: Sequence[int], dense: bool = True, seed: int = 0) -> "Transport":
        """Gaussians in four dimensions at random places, with random weights."""
        rng = np.random.default_rng(seed)
        means = [torch.tensor(rng.normal(size=(k, 4))) for k in sizes]
        variances = [torch.tensor(rng.uniform(0.1, 1, (k, 4))) for k in sizes]
        masses = [torch.tensor(rng.dirichlet(np.full(k, 5.0))) for k in sizes]
        pairs = {
            (i, j): bures_cost(means[i], variances[i], means[j], variances[j])
            for j in range(len(sizes))
            for i in range(j)
        }
        unit = sum(float(masses[i] @ c @ masses[j]) for (i, j), c in pairs.items())
        cost = joint_cost(pairs, sizes) if dense else None
        return cls(gaussian_points(means, variances), cost, masses, unit)

    @property
    def in_numpy(self) -> tuple[np.ndarray, list[np.ndarray]]:
        return self.cost.numpy(), [mass.numpy() for mass in self.masses]

    def error(self, marginals: Sequence[Any]) -> float:
        """Largest L1 violation of a marginal."""
        return max(
            float(np.abs(np.asarray(found) - mass.numpy()).sum())
            for found, mass in zip(marginals, self.masses, strict=True)
        )


def marginals_of(plan: np.ndarray) -> list[np.ndarray]:
    return [
        plan.sum(tuple(j for j in range(plan.ndim) if j != m)) for m in range(plan.ndim)
    ]


def log_sum_exp(logits: np.ndarray, m: int) -> np.ndarray:
    """Over all axes but one, which is left."""
    axes = tuple(j for j in range(logits.ndim) if j != m)
    top = logits.max(axes, keepdims=True)
    return np.log(np.exp(logits - top).sum(axes)) + top.reshape(-1)


def sweep(logits: np.ndarray, log_masses: Sequence[np.ndarray]) -> None:
    """Set each marginal right in turn, the last modality's first, as POT does."""
    for m in reversed(range(logits.ndim)):
        delta = log_masses[m] - log_sum_exp(logits, m)
        logits += delta.reshape(-1, *[1] * (logits.ndim - 1 - m))


def numpy_loop(problem: Transport, reg: float, n_sweeps: int) -> np.ndarray:
    """What one would write by hand: sweeps over the whole tensor, in the log domain."""
    cost, masses = problem.in_numpy
    logits, log_masses = -cost / reg, [np.log(mass) for mass in masses]
    for _ in range(n_sweeps):
        sweep(logits, log_masses)
    return np.exp(logits)


def torch_loop(problem: Transport, reg: float, n_sweeps: int) -> np.ndarray:
    """Run the same in torch."""
    logits = -problem.cost / reg
    n = logits.ndim
    axes = [tuple(j for j in range(n) if j != m) for m in range(n)]
    log_masses = [mass.log() for mass in problem.masses]
    for _ in range(n_sweeps):
        for m in reversed(range(n)):
            delta = log_masses[m] - torch.logsumexp(logits, axes[m])
            logits += delta.view(-1, *[1] * (n - 1 - m))
    return logits.exp_().numpy()


def sweeps_needed(problem: Transport, reg: float) -> int | None:
    """How many sweeps reach the error; None if they do not within the limit."""
    cost, masses = problem.in_numpy
    logits, log_masses = -cost / reg, [np.log(mass) for mass in masses]
    start, count, step = time.process_time(), 0, 1
    while time.process_time() - start < LIMIT:
        before = logits.copy()
        for _ in range(step):
            sweep(logits, log_masses)
        if problem.error(marginals_of(np.exp(logits))) <= TOL:
            if step == 1:
                return count + 1
            logits, step = before, 1  # go over the last ones again, one by one
            continue
        count += step
        step = max(1, count // 20) if step > 1 or count < 20 else step
    return None


def pot_solvers() -> dict[str, Callable[..., np.ndarray]]:
    """POT's solvers of two marginals by their names; none where it is missing."""
    try:
        import ot
    except ImportError:
        return {}

    def run(
        solve: Callable[..., Any], problem: Transport, reg: float, n: int
    ) -> np.ndarray:
        cost, masses = problem.in_numpy
        # Told the number of sweeps, it stops there; its own test is never passed.
        return solve(*masses, cost, reg, numItermax=n, stopThr=0, warn=False)

    solvers = {"POT sinkhorn": ot.sinkhorn, "POT sinkhorn_log": ot.bregman.sinkhorn_log}
    return {name: partial(run, solve) for name, solve in solvers.items()}


SOLVED = [
    *(((k, k), reg) for k in (10, 50, 200) for reg in (0.5, 0.1, 0.02, 0.005, 0.001)),
    *(((k,) * 3, reg) for k in (10, 30) for reg in (0.1, 0.02, 0.005)),
    *(((10,) * 4, reg) for reg in (0.1, 0.02, 0.005)),
    *(((8,) * 5, reg) for reg in (0.1, 0.02)),
]
SOLVER_COLUMNS = [
    ("M", "{:>2}"),
    ("K", "{:>4}"),
    ("reg", "{:>6}"),
    ("solver", "{:<18}"),
    ("ms", "{:>10}"),
    ("to skmm", "{:>8}"),
    ("error", "{:>8}"),
    ("steps", "{:>6}"),
]


def solver(options: Namespace) -> None:
    """(a) Transport at equal errors of the marginals."""
    pot = pot_solvers()
    try:
        told = f"POT {version('POT')}"
    except PackageNotFoundError:
        told = "POT is not installed, and left out"
    print(
        f"\n(a) entropic transport of random Gaussians in four dimensions to an L1 "
        f"error of the worst marginal of {TOL:g}, float64;\n    {told}. reg: in units "
        "of the expected cost. skmm finds its stop and pays for that; the others run "
        "just the number of\n    sweeps that reaches the error, sought beforehand. "
        "numpy, torch: sweeps over the whole tensor in the log domain.\n    steps: "
        f"sweeps, and of skmm also Newton's steps, at all regs that it passes. CPU "
        f"time, medians of {options.repetitions}, interleaved."
    )
    print_table(SOLVER_COLUMNS, [])
    for sizes, reg in SOLVED:
        if options.quick and (len(sizes) > 3 or max(sizes) > 10):
            continue
        problem = Transport.of(sizes)
        peers = dict(pot) if len(sizes) == 2 else {}
        peers |= {"numpy": numpy_loop, "torch": torch_loop}
        solver_rows(problem, reg, peers, options)
    star_rows(options)


def solver_rows(
    problem: Transport,
    reg: float,
    peers: Mapping[str, Callable[..., np.ndarray]],
    options: Namespace,
) -> None:
    """Time all on one problem, and print a row of each."""
    last: dict[str, Any] = {}

    def ours(newton: bool) -> None:
        last["skmm" if newton else "skmm, sweeps"] = multi_marginal_sinkhorn(
            problem.cost,
            problem.masses,
            reg,
            tol=TOL,
            newton=newton,
            max_iter=100_000,
            warn=False,
        )

    def peer(name: str, n_sweeps: int) -> None:
        last[name] = peers[name](problem, reg * problem.unit, n_sweeps)

    needed = sweeps_needed(problem, reg * problem.unit)
    runs = {"skmm": partial(ours, True)}
    if needed is not None:
        runs["skmm, sweeps"] = partial(ours, False)
        runs |= {name: partial(peer, name, needed) for name in peers}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of POT, where the kernel underflows
        seconds = interleaved(runs, options.repetitions)
    first = [str(len(problem.masses)), str(len(problem.masses[0])), f"{reg:g}"]
    rows = []
    for name, value in seconds.items():
        plan, steps = last[name], str(needed)
        if name.startswith("skmm"):
            plan, steps = plan.plan.numpy(), str(plan.n_iter)
        error = problem.error(marginals_of(plan))
        ratio = f"{value / seconds['skmm']:.2f}"
        row = [*first, name, f"{1e3 * value:.2f}", ratio, f"{error:.1e}", steps]
        rows.append(row if error < 10 * TOL else [*row[:4], "fails", "", *row[6:]])
    if needed is None:
        note = f"the others do not reach it within {LIMIT} s"
        rows.append([*first, note, "", "", "", ""])
    print_table(SOLVER_COLUMNS, rows, names=False)


def star_rows(options: Namespace) -> None:
    """(b) Six marginals: all tuples against atoms."""
    print(
        "\n(b) six modalities: skmm through atoms (star) beside all tuples. cost: of "
        "the pairs together, in units of the expected one."
    )
    columns = [*SOLVER_COLUMNS[:-1], ("cost", "{:>7}")]
    print_table(columns, [])
    n = 6
    for k, dense in ((4, True), (8, True), (20, False), (50, False)):
        for reg in (0.1, 0.02):
            if options.quick and k > 4:
                continue
            star_row(Transport.of([k] * n, dense), reg, columns, options)


def star_row(
    problem: Transport, reg: float, columns: list[tuple[str, str]], options: Namespace
) -> None:
    last: dict[str, Any] = {}
    how: dict[str, Any] = {"tol": TOL, "max_iter": 100_000, "warn": False}

    def star() -> None:
        last["star"] = star_transport(problem.points, problem.masses, reg, **how)

    def dense() -> None:
        last["all tuples"] = multi_marginal_sinkhorn(
            problem.cost, problem.masses, reg, **how
        )

    def loop(n_sweeps: int) -> None:
        last["numpy"] = numpy_loop(problem, reg * problem.unit, n_sweeps)

    runs: dict[str, Callable[[], object]] = {"star": star}
    if problem.cost is not None:
        runs["all tuples"] = dense
        needed = sweeps_needed(problem, reg * problem.unit)
        if needed is not None:
            runs["numpy"] = partial(loop, needed)
    seconds = interleaved(runs, options.repetitions)
    n, rows = len(problem.masses), []
    for name, value in seconds.items():
        found = last[name]
        if name == "numpy":
            marginals = marginals_of(found)
            cost = float((found * problem.in_numpy[0]).sum())
        else:
            marginals = [found.marginal(m) for m in range(n)]
            cost = float(found.transport_cost)
        row = [str(n), str(len(problem.masses[0])), f"{reg:g}", name]
        row += [f"{1e3 * value:.2f}", f"{value / seconds['star']:.2f}"]
        error = problem.error(marginals)
        rows.append([*row, f"{error:.1e}", f"{cost / problem.unit:.4f}"])
    print_table(columns, rows, names=False)


# ---------------------------------------------------------------- one step
@dataclass
class Training:
    """What a fit is about to train: its net, its data and the generator's state."""

    net: GradientNet
    data: Any
    state: Tensor

    @classmethod
    def of(cls, estimator: Any, X: np.ndarray, y: np.ndarray | None) -> "Training":
        """Catch it at the door of the loop."""
        caught: list[Training] = []

        def keep(net: GradientNet, data: Any, *_: Any, **__: Any) -> GradientNet:
            loss = net.criterion_
            loss.begin_epoch(0)
            net.criterion_ = deepcopy(loss)
            caught.append(cls(net, data, torch.get_rng_state()))
            return net

        with mock.patch.object(GradientNet, "fit_loop", keep):
            estimator.fit(X, y)
        return caught[0]

    def stepper(self, plain: bool = False) -> "Stepper":
        """What a step by hand does; `plain` has cross-entropy alone."""
        groups = [
            {k: v for k, v in group.items() if k in ("params", "weight_decay", "lr")}
            for group in self.net.optimizer_.param_groups
        ]
        optimiser = torch.optim.AdamW(groups, fused=True)
        loss = None if plain else self.net.criterion_
        return Stepper(self.net.module_.train(), loss, optimiser)

    def batch(self, n: int) -> tuple[Any, Any]:
        rows = slice(0, n)
        return self.data.batch(rows), self.data.targets(rows)


@dataclass
class Stepper:
    """Forward, loss, backward, clipping and update; no loss is cross-entropy alone."""

    network: nn.Module
    loss: Any
    optimiser: torch.optim.Optimizer

    def __call__(self, batch: Any, y: Any) -> Tensor:
        parts = self.network(batch["blocks"], batch["steps"], batch["observed"])
        if self.loss is None:
            loss = nn.functional.cross_entropy(parts.output, y)
        else:
            loss = self.loss(self.network, parts, y, batch)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        return loss.detach()


def classifier(modalities: Any, options: Namespace, **settings: Any) -> Any:
    """Ours with its defaults, on the processor."""
    settings = {"device": "cpu", "random_state": 0} | settings | dict(options.param)
    return DecAlignClassifier(modalities, **settings)


MODES: dict[str, dict[str, Any]] = {
    "carried": {"em": "carried"},
    "unrolled, 5": {"em": "unrolled", "em_iter": 5},
}


def step(options: Namespace) -> None:
    """(c) One step of training."""
    print(
        "\n(c) a training step (forward, losses, backward, clipping, AdamW), 3 "
        "modalities of 32 columns, 10 classes and prototypes.\n    none: cross-entropy "
        "alone, no terms of alignment. MiB: the largest sum of live tensors that a "
        f"step allocates.\n    CPU time, medians of {options.steps}, interleaved."
    )
    columns = [("N", "{:>5}"), ("mixtures", "{:<12}"), ("ms", "{:>8}")]
    columns += [("to carried", "{:>10}"), ("MiB", "{:>8}"), ("to carried", "{:>10}")]
    print_table(columns, [])
    for n in (64, 256, 1024):
        X, y = blobs(n, 3, 32, 10)
        runs, memory = {}, {}
        for name, mode in (*MODES.items(), ("none", {})):
            model = classifier([32] * 3, options, batch_size=n, **mode)
            training = Training.of(model, X, y)
            one = partial(training.stepper(name == "none"), *training.batch(n))
            for _ in range(3):
                one()
            runs[name], memory[name] = one, peak_bytes(one) / 2**20
        seconds = interleaved(runs, options.steps)
        rows = []
        for name in runs:
            row = [str(n), name, f"{1e3 * seconds[name]:.2f}"]
            row += [f"{seconds[name] / seconds['carried']:.2f}"]
            row += [f"{memory[name]:.2f}", f"{memory[name] / memory['carried']:.2f}"]
            rows.append(row)
        print_table(columns, rows, names=False)


# ---------------------------------------------------------------- a fit
def fit(options: Namespace) -> None:
    """(d) Fits against bare loops."""
    n, epochs = (1000, 2) if options.quick else (4000, 20)
    X, y = blobs(n, 3, 32, 10)
    settings = {"max_epochs": epochs}
    start = Training.of(classifier([32] * 3, options, **settings), X, y)
    losses: dict[str, float] = {}

    def bare(name: str, plain: bool) -> float:
        """Seconds of a loop by hand on the same batches."""
        training = deepcopy(start)
        step = training.stepper(plain)
        lr = step.optimiser.param_groups[0]["lr"]
        batches = BatchIterator(training.data, model().batch_size, shuffle=True)
        torch.set_rng_state(training.state)
        begun = time.process_time()
        for epoch in range(epochs):
            for group in step.optimiser.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
            total = torch.zeros(())
            for batch, target in batches:
                total += len(target) * step(batch, target)
            losses[name] = float(total) / n
        return time.process_time() - begun

    def model(**given: Any) -> Any:
        return classifier([32] * 3, options, **settings | given)

    def ours(name: str, **given: Any) -> tuple[float, float]:
        """Seconds of the loop alone, and of the whole fit."""
        seconds = []
        loop = GradientNet.fit_loop

        def timed(net: GradientNet, *args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            try:
                return loop(net, *args, **kwargs)
            finally:
                seconds.append(time.process_time() - begun)

        one = model(**given)
        with mock.patch.object(GradientNet, "fit_loop", timed):
            whole = clock(lambda: one.fit(X, y))
        losses[name] = one.loss_curve_[-1]
        return seconds[0], whole

    no_terms = dict.fromkeys(TERMS, 0.0) | {"imputation": "token"}
    names = ("bare", "loop", "fit", "bare, plain", "loop, plain", "fit, plain")
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.repetitions + 1):
        times["bare"].append(bare("bare", False))
        loop, whole = ours("fit")
        times["loop"].append(loop)
        times["fit"].append(whole)
        times["bare, plain"].append(bare("bare, plain", True))
        loop, whole = ours("fit, plain", **no_terms)
        times["loop, plain"].append(loop)
        times["fit, plain"].append(whole)
    print(
        f"\n(d) n = {n}, 3 modalities of 32 columns, 10 classes, batch "
        f"{model().batch_size}, {epochs} epochs; CPU time, medians of "
        f"{options.repetitions}, interleaved.\n    bare: a torch loop by hand of the "
        "same network, losses, optimiser, clipping, rates and batches; plain:\n    "
        "cross-entropy without terms of alignment. loss: of the last epoch, the same "
        "where the training is."
    )
    columns = [("", "{:<12}"), ("seconds", "{:>8}"), ("to bare", "{:>8}")]
    columns += [("to bare, plain", "{:>15}"), ("loss", "{:>10}")]
    rows = []
    # The first round, of warming up, does not count.
    seconds = {name: median(values[1:]) for name, values in times.items()}
    for name, value in seconds.items():
        row = [name, f"{value:.2f}"]
        for base in ("bare", "bare, plain"):
            row.append(f"{value / seconds[base]:.2f}")
        loss = losses.get(name)
        rows.append([*row, "" if loss is None else f"{loss:.6f}"])
    print_table(columns, rows)


# ---------------------------------------------------------------- growth
GROWTH: dict[str, tuple[int, ...]] = {
    "K": (4, 8, 16, 32, 64),
    "M": (2, 3, 4, 6, 8),
    "N": (64, 128, 256, 512, 1024, 2048),
    "T": (32, 64, 128, 256, 512),
    "tokens": (8, 16, 32, 64, 128),
}


def growth(options: Namespace) -> None:
    """(e) Seconds of a step, one thing changed at a time."""
    base = {"K": 10, "M": 3, "N": 256}
    print(
        f"\n(e) ms of a training step, from {base}, 32 columns a modality; T: "
        "sequences of T steps of 8 in 32 tokens, two\n    modalities, N = 64; tokens: "
        "the same of as many steps as tokens. Exponents: fitted to all, and of the "
        f"last doubling.\n    CPU time, medians of {options.steps}, after 3."
    )
    for name, values in GROWTH.items():
        found = {}
        for value in values[:3] if options.quick else values:
            one = growth_step(name, base | {name: value}, options)
            for _ in range(3):
                one()
            found[value] = median(clock(one) for _ in range(options.steps))
        cells = [f"{name} = {v}: {1e3 * s:.1f}" for v, s in found.items()]
        x, t = np.log(list(found)), np.log(list(found.values()))
        whole = np.polyfit(x, t, 1)[0]
        last = (t[-1] - t[-2]) / (x[-1] - x[-2])
        print(f"    {',  '.join(cells)};  {whole:.2f}, last {last:.2f}", flush=True)


def growth_step(
    name: str, at: Mapping[str, int], options: Namespace
) -> Callable[[], object]:
    """A step at some sizes."""
    settings: dict[str, Any] = {"n_prototypes": at["K"]}
    if name in ("T", "tokens"):
        n, length, width = 64, at[name], 8
        X, y = blobs(n, 2, length * width, 10)
        edges = np.arange(3) * length * width
        modalities: Any = {
            f"m{i}": Modality(slice(*pair), shape=(length, width))
            for i, pair in enumerate(pairwise(edges.tolist()))
        }
        settings["n_tokens"] = length if name == "tokens" else 32
    else:
        n = at["N"]
        X, y = blobs(n, at["M"], 32, 10)
        modalities = [32] * at["M"]
    training = Training.of(
        classifier(modalities, options, batch_size=n, **settings), X, y
    )
    return partial(training.stepper(), *training.batch(n))


# ---------------------------------------------------------------- pairs
HELD_OUT = 500
VIEWS = ("pix-fac", "pix-zer", "pix-fou")
ALPHAS = np.logspace(-3, 5, 17)
CCA_REGS = np.logspace(-4, 2, 13)
CCA_DIMS = (2, 5, 10, 20, 40, 80)


@dataclass(frozen=True)
class Objects:
    """Two views of objects: pairs, objects known from one view, and held-out ones.

    Of the objects that are not paired each view is known, but not which belongs to
    which.
    """

    A: np.ndarray
    B: np.ndarray
    paired: np.ndarray
    rest: np.ndarray
    held_out: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, views: str, told: float, seed: int) -> "Objects":
        """Split the handwritten digits; a share `told` of the pairs is kept."""
        data = load_mfeat()
        A, B = (data.data[:, data.modalities[view]] for view in views.split("-"))
        rng = np.random.default_rng(seed)
        held_out, training = np.split(rng.permutation(len(A)), [HELD_OUT])
        paired, rest = np.split(training, [round(told * len(training))])
        # Of the rows that training sees, whose number this is.
        order = rng.permutation(len(paired) + 2 * len(rest))
        return cls(A, B, paired, rest, held_out, order)

    @property
    def modalities(self) -> dict[str, slice]:
        n = self.A.shape[1]
        return {"a": slice(0, n), "b": slice(n, n + self.B.shape[1])}

    def rows(self) -> np.ndarray:
        """Return shuffled rows: of the pairs, and two of each other object."""
        whole = np.hstack([self.A, self.B])
        parts = [whole[self.paired], *self.single(self.rest)]
        return np.concatenate(parts)[self.order]

    def single(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows that have the first view, and rows that have the second."""
        parts = []
        for gone in reversed(self.modalities.values()):
            whole = np.hstack([self.A[chosen], self.B[chosen]])
            whole[:, gone] = np.nan
            parts.append(whole)
        return parts[0], parts[1]

    def scaled(self) -> tuple[np.ndarray, np.ndarray]:
        """Both views, standardised over all objects of the training."""
        known = np.concatenate([self.paired, self.rest])
        return tuple(
            StandardScaler().fit(V[known]).transform(V) for V in (self.A, self.B)
        )


Embedding = tuple[np.ndarray, np.ndarray]
"""Both views of some objects in one space, row by row."""


def recalls(sides: Embedding) -> list[float]:
    """R@1 and R@10, means of both directions."""
    ks = (1, min(10, len(sides[0])))
    ways = [recall_at_k(*pair, k=ks) for pair in (sides, sides[::-1])]
    return np.mean(ways, axis=0).tolist()


def log_rank(sides: Embedding, rows: np.ndarray) -> float:
    """Mean logarithm of the rank of the rows' counterparts among all, of both ways."""
    units = [z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12) for z in sides]
    total = 0.0
    for queries, gallery in (units, units[::-1]):
        similarity = queries[rows] @ gallery.T
        own = similarity[np.arange(len(rows)), rows]
        total += float(np.log((similarity >= own[:, None]).sum(1)).mean())
    return total / 2


def ours_on_pairs(objects: Objects, seed: int, options: Namespace) -> Embedding:
    """Embed the held-out objects by the unsupervised transformer."""
    settings = {"random_state": seed, "device": options.device} | dict(options.param)
    model = DecAlignTransformer(
        objects.modalities, target="none", output="common", **settings
    ).fit(objects.rows())
    first, second = map(model.transform, objects.single(objects.held_out))
    return first, second


Candidates = Callable[
    [np.ndarray, np.ndarray, np.ndarray, np.ndarray], Iterator[Embedding]
]
"""From pairs A, B and objects A', B' to embeddings of these, one a setting."""


def cca(
    A: np.ndarray,
    B: np.ndarray,
    A_to: np.ndarray,
    B_to: np.ndarray,
    powers: Sequence[float] = (0, 0.5, 1),
) -> Iterator[Embedding]:
    """Regularised CCA by penalty, dimensions, and powers of the correlations.

    The penalty is a multiple of the mean variance, which is one. Dimensions are
    weighted by a power of their correlation; zero is textbook CCA.
    """
    mean_a, mean_b = A.mean(0), B.mean(0)
    A, B, A_to, B_to = A - mean_a, B - mean_b, A_to - mean_a, B_to - mean_b
    n = len(A)
    (w_a, U_a), (w_b, U_b) = (np.linalg.eigh(X.T @ X / n) for X in (A, B))
    cross = U_a.T @ (A.T @ B / n) @ U_b
    for reg in CCA_REGS:
        s_a, s_b = (1 / np.sqrt(w.clip(0) + reg) for w in (w_a, w_b))
        left, s, right = np.linalg.svd(s_a[:, None] * cross * s_b, full_matrices=False)
        P, Q = A_to @ U_a @ (s_a[:, None] * left), B_to @ U_b @ (s_b[:, None] * right.T)
        for k in CCA_DIMS:
            for power in powers:
                scale = s[:k] ** power
                yield P[:, :k] * scale, Q[:, :k] * scale


def ridge(
    A: np.ndarray, B: np.ndarray, A_to: np.ndarray, B_to: np.ndarray
) -> Iterator[Embedding]:
    """Ridge regressions with the penalty of the least leave-one-out error.

    Compared are predictions of the second view with the view, of the first, or both.
    """
    mean_a, mean_b = A.mean(0), B.mean(0)
    A, B, A_to, B_to = A - mean_a, B - mean_b, A_to - mean_a, B_to - mean_b
    to_b = RidgeCV(ALPHAS, fit_intercept=False).fit(A, B).predict(A_to)
    to_a = RidgeCV(ALPHAS, fit_intercept=False).fit(B, A).predict(B_to)
    yield to_b, B_to
    yield A_to, to_a

    def unit(z: np.ndarray) -> np.ndarray:
        return z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)

    yield np.hstack([unit(to_b), unit(A_to)]), np.hstack([unit(B_to), unit(to_a)])


PAIR_PEERS: dict[str, Candidates] = {
    "cca": cca,
    "cca, plain": partial(cca, powers=(0,)),
    "ridge": ridge,
}
BY_TEST = "cca*"


def chosen_on_pairs(
    candidates: Candidates, A: np.ndarray, B: np.ndarray, n_pairs: int
) -> int:
    """The setting that finds left-out pairs best among all rows, which start with them.

    Leaves out one at a time where there are few, else a tenth.
    """
    folds = KFold(n_pairs if n_pairs <= 50 else 10)
    total: Any = 0
    for kept, left_out in folds.split(A[:n_pairs]):
        found = candidates(A[kept], B[kept], A, B)
        total = total + np.array([log_rank(sides, left_out) for sides in found])
    return int(np.argmin(total))


def peers_on_pairs(objects: Objects) -> dict[str, Runs]:
    """Recalls of the held-out objects by what learns from the pairs alone."""
    A, B = objects.scaled()
    known = np.concatenate([objects.paired, objects.rest])
    told = A[objects.paired], B[objects.paired]
    asked = A[objects.held_out], B[objects.held_out]
    found = {}
    for name, candidates in PAIR_PEERS.items():
        start = time.perf_counter()
        choice = chosen_on_pairs(candidates, A[known], B[known], len(told[0]))
        every = [recalls(sides) for sides in candidates(*told, *asked)]
        seconds = time.perf_counter() - start
        found[name] = Runs(every[choice], [seconds])
        if name == "cca":
            found[BY_TEST] = Runs(max(every), [seconds])
    return found


def pairs(options: Namespace) -> None:
    """Run or read all of it, and print a table."""
    title(options)
    print(
        f"{HELD_OUT} held-out handwritten digits: an object's other view among all "
        "views of that kind, by the cosine; means of both\ndirections, and standard "
        "deviations over seeds. paired: share of the 1500 training objects whose two "
        "views are known to\nbelong together; of the others ours gets each view as a "
        "row of its own. decalign: common parts, unsupervised. cca,\nridge: learn "
        "from the pairs, scale by all rows; penalty of ridge by leave-one-out. What "
        "else there is to set (penalty,\ndimensions and their weights of cca, all "
        "one in cca, plain; direction of ridge) is chosen by the ranks of left-out\n"
        "pairs among all training objects or, with a star, by the held-out objects "
        "themselves, which flatters. diff: ours\nless theirs, paired over seeds."
    )
    columns = [("views", "{:<8}"), ("paired", "{:>6}"), ("model", "{:<10}")]
    columns += [("R@1", "{:<12}"), ("R@10", "{:<12}"), ("diff @1", "{:>8}")]
    columns += [("s.e.", "{:>6}"), ("diff @10", "{:>8}"), ("s.e.", "{:>6}")]
    columns += [("fit s", "{:>7}"), ("seeds", "{:>5}")]
    print_table(columns, [])
    for views in options.views:
        for told in options.shares:
            found = pairs_cell(views, told, options)
            rows = pairs_rows(views, told, found)
            print_table(columns, rows, names=False)
    print("```")


def pairs_cell(views: str, told: float, options: Namespace) -> dict[str, list[Runs]]:
    """Runs of all models, one a seed."""
    own, peers = Cache(options.runs), Cache(options.cache)
    found: dict[str, list[Runs]] = {}
    for seed in options.seeds:
        objects = Objects.of(views, told, seed)
        key = ("pairs", views, told, seed, *named(options.param))
        run = own.get(*key)
        if run is None:
            start = time.perf_counter()
            sides = ours_on_pairs(objects, seed, options)
            run = Runs(recalls(sides), [time.perf_counter() - start])
            own.put(run, *key)
        found.setdefault("decalign", []).append(run)
        if len(objects.paired) < 2:
            continue
        names = (*PAIR_PEERS, BY_TEST)
        kept = {name: peers.get("pairs", views, told, seed, name) for name in names}
        runs = {name: run for name, run in kept.items() if run is not None}
        if len(runs) < len(names):
            runs = peers_on_pairs(objects)
            for name, run in runs.items():
                peers.put(run, "pairs", views, told, seed, name)
        for name, run in runs.items():
            found.setdefault(name, []).append(run)
    return found


def pairs_rows(
    views: str, told: float, found: dict[str, list[Runs]]
) -> list[list[str]]:
    rows = []
    ours = np.array([run.scores for run in found["decalign"]])
    for name, runs in found.items():
        scores = np.array([run.scores for run in runs])
        cells = [""] * 4
        if name != "decalign":
            cells = []
            for left, right in zip(ours.T, scores.T, strict=True):
                c = compare(left, right, 0.0)
                cells += [f"{c.difference:+.3f}", f"{c.error:.3f}"]
        seconds = median(run.seconds[0] for run in runs)
        row = [views, f"{told:.0%}", name, *(spread(values) for values in scores.T)]
        rows.append([*row, *cells, f"{seconds:.1f}", str(len(runs))])
    if len(found) == 1:
        chance = [f"{k / HELD_OUT:.3f}" for k in (1, 10)]
        rows.append([views, f"{told:.0%}", "chance", *chance, *[""] * 6])
    return rows


# ---------------------------------------------------------------- classes
def logistic(problem: Problem, seed: int, params: dict[str, Any]) -> Any:
    """Logistic regression on the fused vectors of a transformer told the classes."""
    settings = {"random_state": seed} | params
    return make_pipeline(
        DecAlignTransformer(problem.grouping, target="class", **settings),
        StandardScaler(),
        LogisticRegression(max_iter=2000),
    )


ESTIMATORS["decalign, logistic"] = logistic
OURS = {"logistic": "decalign, logistic", "classifier": "decalign"}
Model = Callable[[Problem, int], Any]


def named(params: Sequence[tuple[str, Any]]) -> list[str]:
    """Parameters as parts of the name of a file."""
    return [f"{name}={value}".replace("/", "-") for name, value in sorted(params)]


def class_runs(
    problem: Problem,
    fraction: float,
    seed: int,
    ours: Mapping[str, dict[str, Any]],
    peers: Sequence[str],
    options: Namespace,
) -> dict[str, Runs]:
    """Runs on all folds of one draw of gaps: of estimators with parameters, and peers.

    `ours` maps what a run is called to the estimator's name and its parameters.
    """
    columns = peers_view(problem)
    gaps, view = (with_gaps(p, fraction, seed) for p in (problem, columns))
    own, others = Cache(options.runs), Cache(options.cache)
    stores: dict[str, tuple[Cache, tuple[Any, ...]]] = {}
    models: dict[str, tuple[Problem, Callable[[], Any]]] = {}
    for name, told in ours.items():
        estimator, params = told["estimator"], told["params"] | dict(options.param)
        short = next(key for key, full in OURS.items() if full == estimator)
        key = (problem.name, fraction, seed, short, *named(params.items()))
        stores[name] = own, key
        models[name] = gaps, partial(ESTIMATORS[estimator], gaps, seed, params)
    for peer in peers:
        # The names that accuracy.py has, whose runs can be taken from there.
        stores[peer] = others, (columns.name, fraction, seed, peer)
        models[peer] = view, partial(make_peer, peer, view, seed)
    found = {name: cache.get(*key) for name, (cache, key) in stores.items()}
    known = {name: runs for name, runs in found.items() if runs is not None}
    left = {name: model for name, model in models.items() if name not in known}
    fresh = run_seed(gaps, left)
    for name, runs in fresh.items():
        cache, key = stores[name]
        cache.put(runs, *key)
    return {name: (known | fresh)[name] for name in stores}


def class_cells(
    options: Namespace,
    ours: Mapping[str, dict[str, Any]],
    peers: Callable[[Problem, float], Sequence[str]],
) -> Iterator[tuple[Problem, float, dict[str, Runs]]]:
    """Runs over all seeds, one set and share after the other."""
    for name in options.sets:
        try:
            problem = load(name)
        except DataMissing as missing:
            print(f"{name}: left out, {missing}", flush=True)
            continue
        for fraction in options.fractions:
            total: dict[str, Runs] = {}
            asked = peers(problem, fraction)
            for seed in options.seeds:
                found = class_runs(problem, fraction, seed, ours, asked, options)
                for who, runs in found.items():
                    total.setdefault(who, Runs([], [])).add(runs)
            yield problem, fraction, total


CLASS_COLUMNS = [
    ("set", "{:<15}"),
    ("missing", "{:>7}"),
    ("ours", "{:<10}"),
    ("against", "{:<17}"),
    ("ours", "{:>7}"),
    ("theirs", "{:>7}"),
    ("diff", "{:>8}"),
    ("s.e.", "{:>7}"),
    ("verdict", "{:<7}"),
    ("goal", "{:<6}"),
    ("fit s", "{:>6}"),
    ("theirs", "{:>7}"),
    ("runs", "{:>4}"),
]


def class_row(
    problem: Problem, fraction: float, ours: str, against: str, runs: dict[str, Runs]
) -> list[str]:
    one, other = runs[ours], runs[against]
    c = compare(one.scores, other.scores, fraction)
    return [
        problem.name,
        f"{fraction:.0%}",
        ours,
        against,
        f"{np.mean(one.scores):.4f}",
        f"{np.mean(other.scores):.4f}",
        f"{c.difference:+.4f}",
        f"{c.error:.4f}",
        c.verdict,
        "met" if c.goal else "missed",
        f"{np.mean(one.seconds):.2f}",
        f"{np.mean(other.seconds):.2f}",
        str(len(one.scores)),
    ]


def linear(options: Namespace) -> None:
    """Print both against the named best peers."""
    ours = {name: {"estimator": full, "params": {}} for name, full in OURS.items()}
    title(options)
    print(
        "logistic: logistic regression, C = 1, on the standardised fused vectors of "
        'DecAlignTransformer(target="class"); classifier:\nDecAlignClassifier; both '
        "with their defaults, against the named best peers. Protocol of accuracy.py."
    )
    print_table(CLASS_COLUMNS, [])

    def peers(problem: Problem, fraction: float) -> list[str]:
        return peer_names(["best"], peers_view(problem).name, fraction)

    for problem, fraction, runs in class_cells(options, ours, peers):
        rows = [
            class_row(problem, fraction, name, peer, runs)
            for name in ours
            for peer in runs
            if peer not in ours
        ]
        print_table(CLASS_COLUMNS, rows, names=False)
    print("```")


TERMS = ("decoupling_weight", "heterogeneity_weight", "homogeneity_weight")
ABLATIONS: dict[str, tuple[str, ...]] = {
    "no decoupling": TERMS[:1],
    "no heterogeneity": TERMS[1:2],
    "no homogeneity": TERMS[2:],
    "neither alignment": TERMS[1:],
    "no terms": TERMS,
}


def ablations(options: Namespace) -> None:
    """Print the defaults against fits without some terms."""
    full = OURS[options.estimator]
    ours = {"defaults": {"estimator": full, "params": {}}}
    for name, gone in ABLATIONS.items():
        ours[name] = {"estimator": full, "params": dict.fromkeys(gone, 0.0)}
    columns = [column for column in CLASS_COLUMNS if column[0] != "goal"]
    goal = CLASS_COLUMNS.index(("goal", "{:<6}"))
    title(options)
    print(
        f"{options.estimator}, its defaults against weights of zero; no terms: joint "
        "training alone. Differences are paired\nover folds and draws of gaps."
    )
    print_table(columns, [])
    for problem, fraction, runs in class_cells(options, ours, lambda *_: ()):
        rows = []
        for name in ABLATIONS:
            row = class_row(problem, fraction, "defaults", name, runs)
            rows.append([*row[:goal], *row[goal + 1 :]])
        print_table(columns, rows, names=False)
    print("```")


# ---------------------------------------------------------------- command line
COSTS = {"solver": solver, "step": step, "fit": fit, "growth": growth}
SCORES = {"pairs": pairs, "linear": linear, "ablations": ablations}


def parse(arguments: Sequence[str] | None) -> Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=[*COSTS, *SCORES], required=True)
    add(
        "--param",
        nargs="*",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="parameters of ours, in all parts but the solver",
    )
    add("--device", default="cpu", help="of pairs: such as cpu or cuda")
    cost = parser.add_argument_group("solver, step, fit, growth").add_argument
    cost("--repetitions", type=int, default=5)
    cost("--steps", type=int, default=25, help="repetitions of a single step")
    cost("--quick", action="store_true", help="small sizes, to see that it runs")
    score = parser.add_argument_group("pairs, linear, ablations").add_argument
    score("--seeds", nargs="+", type=int, default=list(range(5)))
    score("--views", nargs="+", choices=VIEWS, default=list(VIEWS))
    score("--shares", nargs="+", type=share, default=[0.0, 0.01, 0.1, 1.0])
    score("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    score("--fractions", nargs="+", type=share, default=[0.0, 0.3, 0.6])
    score("--estimator", choices=list(OURS), default="classifier", help="of ablations")
    score("--cache", help="folder to keep the peers' runs in, also accuracy.py's")
    score("--runs", help="folder to keep our runs in; empty it when the code changes")
    options = parser.parse_args(arguments)
    options.told = sys.argv[1:] if arguments is None else list(arguments)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    with (
        threadpool_limits(1),
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory() as folder,
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Parts of one call share what they have run.
        options.runs = options.runs or f"{folder}/ours"
        options.cache = options.cache or f"{folder}/peers"
        costs = [part for part in options.parts if part in COSTS]
        if costs:
            title(options)
            for part in costs:
                COSTS[part](options)
            print("```")
        for part in options.parts:
            if part in SCORES:
                SCORES[part](options)


if __name__ == "__main__":
    main()
