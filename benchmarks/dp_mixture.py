"""Cost of DPMixtureFusion, and how well it finds the number of groups.

    python benchmarks/dp_mixture.py sweep [--kinds diag full] [--rounds 5]
    python benchmarks/dp_mixture.py memmap [--rows 500000 1000000 5000000]
    python benchmarks/dp_mixture.py growth
    python benchmarks/dp_mixture.py groups [--seeds 20]

sweep    a sweep of coordinate ascent against scikit-learn's BayesianGaussianMixture,
         with the same start and priors: seconds, bounds, peak memory
memmap   rows on disk, by method: seconds, peak memory that is not page cache
growth   seconds a sweep by rows, columns, components and modalities
groups   planted mixtures: the number of components found, and the ARI

One thread. What is compared is run in turn within each round; times are medians over
rounds, and a sweep takes ``(time of 1 + s sweeps - time of 1 sweep) / s``, so that
checks, start and labels do not count. Memory is measured in a process of its own.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skmm import DPMixtureFusion, Modality
from skmm.datasets import drop_modalities

KINDS = ("diag", "full")
GOAL = 2.0  # times faster a sweep than scikit-learn
NEAR = 1e-3  # nats a row from the best bound


def planted(
    rows: int, widths: Sequence[int], clusters: int, spread: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clusters of unit noise, equal in size on average, and their labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(clusters, size=rows)
    means = spread * rng.normal(size=(clusters, sum(widths)))
    return means[y] + rng.normal(size=(rows, sum(widths))), y


def nearest_rows(X: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """For each row the nearest of k random ones: labels to start from."""
    centres = X[np.random.default_rng(seed).choice(len(X), k, replace=False)]
    return (((centres**2).sum(1)) - 2 * X @ centres.T).argmin(1)


def say(text: str) -> None:
    print("\n" + fill(text, 96))


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def resident(name: str = "VmRSS") -> int:
    """Bytes of one of the counters of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def child(*arguments: Any) -> str:
    """What one of the hidden subcommands prints in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}:\n{done.stderr}")
    return done.stdout.strip()


# ---------------------------------------------------------------- sweep
class SameStart(BayesianGaussianMixture):
    """scikit-learn's mixture, from responsibilities that are given."""

    def _initialize_parameters(self, X, random_state, xp=None):
        self._initialize(X, self.start)


@dataclass
class Pair:
    """The same problem for skmm and scikit-learn."""

    X: np.ndarray
    start: np.ndarray  # responsibilities (n, K)
    kind: str

    @classmethod
    def of(cls, rows: int, columns: int, components: int, kind: str) -> "Pair":
        # Close enough that rows are torn between clusters, and sweeps are many.
        X, _ = planted(rows, [columns], components, 1.0)
        return cls(X, np.eye(components)[nearest_rows(X, components)], kind)

    @property
    def priors(self) -> dict[str, Any]:
        covariance = np.cov(self.X, rowvar=False)
        if self.kind == "diag":
            covariance = np.diag(covariance).copy()
        return {
            "weight_concentration_prior": 1 / self.start.shape[1],
            "mean_precision_prior": 1.0,
            "mean_prior": self.X.mean(0),
            "degrees_of_freedom_prior": float(self.X.shape[1]),
            "covariance_prior": covariance,
        }

    def ours(self, sweeps: int) -> DPMixtureFusion:
        return DPMixtureFusion(
            {"x": Modality(slice(0, self.X.shape[1]), scaling=None)},
            n_components=self.start.shape[1],
            covariance_type=self.kind,
            projection=None,
            coarsening=None,
            reg_covar=0.0,
            stick_order="index",
            moves=None,
            init_params=self.start,
            max_iter=sweeps,
            tol=0.0,
            device="cpu",
            **self.priors,
        ).fit(self.X)

    def peer(self, sweeps: int) -> SameStart:
        model = SameStart(
            n_components=self.start.shape[1],
            covariance_type=self.kind,
            weight_concentration_prior_type="dirichlet_process",
            reg_covar=0.0,
            max_iter=sweeps,
            tol=0.0,
            **self.priors,
        )
        model.start = self.start
        return model.fit(self.X)

    def constant(self) -> float:
        """What scikit-learn leaves out of its bound."""
        (n, d), k, priors = self.X.shape, self.start.shape[1], self.priors
        dof, scale = priors["degrees_of_freedom_prior"], priors["covariance_prior"]
        scale = np.diag(scale) if scale.ndim == 1 else scale
        wishart = dof / 2 * np.linalg.slogdet(scale)[1] - dof * d / 2 * np.log(2)
        wishart -= gammaln((dof - np.arange(d)) / 2).sum()
        mean = d / 2 * np.log(priors["mean_precision_prior"])
        stick = np.log(priors["weight_concentration_prior"])
        return -n * d / 2 * np.log(2 * np.pi) + k * (wishart + mean + stick)


def sweep(options: argparse.Namespace) -> None:
    """Print seconds, bounds and memory beside scikit-learn's."""
    n, d, k, s = options.rows, options.columns, options.components, options.sweeps
    say(
        f"n = {n}, D = {d}, K = {k}, the same start, priors and order of sticks, no "
        f"moves; medians of {options.rounds}, interleaved. s a sweep: over {s} sweeps "
        "after the first. s to bound: a whole fit of as many sweeps as bring the bound "
        f"to within {NEAR:g} nats a row of the best of both in {options.most} sweeps. "
        "bounds: the largest relative difference over sweeps, scikit-learn's with the "
        "constant that it leaves out. MiB: peak resident memory of a fit of 3 sweeps "
        "above what X and the start take, in a fresh process. goal: at least "
        f"{GOAL:g} times faster, and no more memory."
    )
    print(
        f"{'':<6}{'':<14}{'s a sweep':>10}{'ratio':>7}{'sweeps':>8}{'s to bound':>12}"
        f"{'ratio':>7}{'bounds':>9}{'MiB':>8}  goal"
    )
    for kind in options.kinds:
        pair = Pair.of(n, d, k, kind)
        runs = {"skmm": pair.ours, "scikit-learn": pair.peer}
        bounds = {name: run(options.most).lower_bounds_ for name, run in runs.items()}
        bounds = {name: np.array(values) for name, values in bounds.items()}
        bounds["scikit-learn"] += pair.constant()
        shared = min(map(len, bounds.values()))
        differences = bounds["skmm"][:shared] / bounds["scikit-learn"][:shared] - 1
        best = max(values.max() for values in bounds.values())
        enough = {
            name: int(np.argmax(values >= best - NEAR * n)) + 1
            for name, values in bounds.items()
        }
        each: dict[str, list[float]] = {name: [] for name in runs}
        whole: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                one = seconds_of(partial(run, 1))
                more = seconds_of(partial(run, 1 + s))
                each[name].append((more - one) / s)
        for _ in range(options.bound_rounds):
            for name, run in runs.items():
                whole[name].append(seconds_of(partial(run, enough[name])))
        memory = {name: float(child("memory-of", name, kind, n, d, k)) for name in runs}
        per = {name: median(values) for name, values in each.items()}
        to_bound = {name: median(values) for name, values in whole.items()}
        faster = per["scikit-learn"] / per["skmm"]
        met = faster >= GOAL, memory["skmm"] <= memory["scikit-learn"]
        goals = [
            f"{what} {'met' if ok else 'missed'}"
            for what, ok in zip(("time", "memory"), met, strict=True)
        ]
        for name in runs:
            line = (
                f"{kind:<6}{name:<14}{per[name]:>10.4f}{per[name] / per['skmm']:>7.2f}"
            )
            line += f"{enough[name]:>8}{to_bound[name]:>12.2f}"
            line += f"{to_bound[name] / to_bound['skmm']:>7.2f}"
            line += f"{np.abs(differences).max():>9.0e}{memory[name]:>8.1f}"
            line += f"  {', '.join(goals)}" if name == "skmm" else ""
            print(line, flush=True)


def memory_of(options: argparse.Namespace) -> None:
    """Print MiB that a fit of three sweeps takes at most, above X and the start."""
    run = {"skmm": Pair.ours, "scikit-learn": Pair.peer}[options.name]
    run(Pair.of(500, 4, 3, options.kind), 2)  # what is loaded at first use
    pair = Pair.of(options.rows, options.columns, options.components, options.kind)
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    run(pair, 3)
    print((resident("VmHWM") - before) / 2**20)


# ---------------------------------------------------------------- memmap
MEMMAP_COLUMNS, MEMMAP_CLUSTERS, MEMMAP_SPREAD = 16, 10, 2.0
METHODS: dict[str, dict[str, Any]] = {
    "svi": {"max_iter": 2, "batch_size": 8192},
    "memoized": {"max_iter": 3, "batch_size": 8192},
}


def write(folder: Path, rows: int) -> None:
    """Write float32 rows and their labels, a chunk at a time."""
    need = rows * (4 * MEMMAP_COLUMNS + 1)
    free = shutil.disk_usage(folder).free
    if free < 1.5 * need:
        raise SystemExit(f"{folder}: {need / 2**20:.0f} MiB needed, {free} bytes free")
    rng = np.random.default_rng(0)
    shape = (MEMMAP_CLUSTERS, MEMMAP_COLUMNS)
    means = (MEMMAP_SPREAD * rng.normal(size=shape)).astype(np.float32)
    open_new = np.lib.format.open_memmap
    shape = (rows, MEMMAP_COLUMNS)
    X = open_new(folder / "X.npy", mode="w+", dtype=np.float32, shape=shape)
    y = open_new(folder / "y.npy", mode="w+", dtype=np.int8, shape=(rows,))
    for i in range(0, rows, 100_000):
        at = slice(i, min(i + 100_000, rows))
        y[at] = rng.integers(MEMMAP_CLUSTERS, size=at.stop - i)
        X[at] = rng.standard_normal((at.stop - i, MEMMAP_COLUMNS), dtype=np.float32)
        X[at] += means[y[at]]
    X.flush()
    y.flush()


class AnonymousPeak:
    """The most memory without a file behind it, looked at every few milliseconds."""

    def __enter__(self) -> "AnonymousPeak":
        self.before = self.peak = resident("RssAnon")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, resident("RssAnon"))

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def used(self) -> int:
        return self.peak - self.before


def memmap(options: argparse.Namespace) -> None:
    """Print seconds and memory of fits to rows on disk."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") >> 20
    disk = shutil.disk_usage(options.folder).free >> 20
    say(
        f"{MEMMAP_CLUSTERS} planted clusters, means {MEMMAP_SPREAD:g} N(0, 1), unit "
        f"noise, D = {MEMMAP_COLUMNS} float32 columns in a memory map; at most 30 full "
        "components. svi: 2 passes, batches of 8192; memoized: 3 passes, batches of "
        "8192, at most 256, each of which it keeps the sums of. MiB: peak anonymous "
        "resident memory of the fit above what was there before: the page cache does "
        "not count. bytes a row: by which it grows between sizes. ARI: by predict, on "
        "20000 random rows. k: components with at least 1 % of them. "
        f"{free} MiB of memory and {disk} MiB of disk are free."
    )
    print(
        f"{'method':<10}{'rows':>10}{'file MiB':>10}{'seconds':>9}{'rows/s':>11}"
        f"{'MiB':>8}{'bytes a row':>13}{'ARI':>8}{'k':>5}"
    )
    last: dict[str, tuple[int, float]] = {}
    for rows in sorted(options.rows):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            write(folder, rows)
            file = (folder / "X.npy").stat().st_size / 2**20
            for method in options.methods:
                seconds, used, ari, k = map(
                    float, child("memmap-of", folder, method).split()
                )
                growth = ""
                if method in last:
                    rows_before, used_before = last[method]
                    growth = f"{(used - used_before) / (rows - rows_before):+.2f}"
                last[method] = rows, used
                print(
                    f"{method:<10}{rows:>10}{file:>10.0f}{seconds:>9.1f}"
                    f"{rows / seconds:>11.0f}{used / 2**20:>8.1f}{growth:>13}"
                    f"{ari:>8.4f}{k:>5.0f}",
                    flush=True,
                )


def memmap_of(options: argparse.Namespace) -> None:
    """Print seconds, bytes, ARI and the number of components of one fit."""
    small, _ = planted(2000, [MEMMAP_COLUMNS], 3, 2.0)
    settings = METHODS[options.method] | {"random_state": 0, "device": "cpu"}
    DPMixtureFusion(method=options.method, **settings).fit(small.astype(np.float32))
    X = np.load(options.folder / "X.npy", mmap_mode="r")
    with AnonymousPeak() as memory:
        model = DPMixtureFusion(method=options.method, **settings)
        seconds = seconds_of(lambda: model.fit(X))
    at = np.random.default_rng(0).choice(len(X), min(20_000, len(X)), replace=False)
    at.sort()
    y = np.load(options.folder / "y.npy", mmap_mode="r")[at]
    labels = model.predict(np.array(X[at]))
    k = larger(labels)
    print(seconds, memory.used, adjusted_rand_score(y, labels), k)


# ---------------------------------------------------------------- growth
def growth(options: argparse.Namespace) -> None:
    """Print seconds a sweep as one size doubles, and doubles again."""
    base = {"n": 20_000, "D": 16, "K": 16, "M": 2}
    say(
        f"seconds a sweep over {options.sweeps} sweeps, medians of {options.rounds}; "
        f"from {base}, D columns in each of M modalities. In brackets: to the size "
        "before, each time twice as large."
    )
    for kind in KINDS:
        for name in base:
            found: list[str] = []
            previous = None
            for factor in (1, 2, 4):
                at = base | {name: base[name] * factor}
                seconds = sweep_seconds(kind, options, **at)
                text = f"{name} = {at[name]}: {1e3 * seconds:.1f} ms"
                found.append(
                    text + (f" ({seconds / previous:.2f})" if previous else "")
                )
                previous = seconds
            print(f"{kind:<6}" + ",  ".join(found), flush=True)


def sweep_seconds(
    kind: str, options: argparse.Namespace, n: int, D: int, K: int, M: int
) -> float:
    X, _ = planted(n, [D] * M, K, 1.0)
    labels = nearest_rows(X, K)

    def fit(sweeps: int) -> DPMixtureFusion:
        return DPMixtureFusion(
            [D] * M,
            n_components=K,
            covariance_type=kind,
            projection=None,
            moves=None,
            init_params=labels,
            max_iter=sweeps,
            tol=0.0,
            device="cpu",
        ).fit(X)

    found = []
    for _ in range(options.rounds):
        one = seconds_of(partial(fit, 1))
        found.append(seconds_of(partial(fit, 1 + options.sweeps)) - one)
    return median(found) / options.sweeps


# ---------------------------------------------------------------- groups
@dataclass(frozen=True)
class Case:
    """A planted mixture.

    `spread` is the standard deviation of means, in units of the noise. `missing` is
    the share of blocks that is removed, keeping one a row, or with `of_second` the
    share of rows without the second block.
    """

    name: str
    shares: tuple[float, ...] = (0.25,) * 4
    n: int = 400
    widths: tuple[int, ...] = (5, 3)
    spread: float = 6.0
    missing: float = 0.0
    of_second: bool = False

    def draw(self, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, slice]]:
        rng = np.random.default_rng(seed)
        counts = np.round(self.n * np.array(self.shares)).astype(int)
        y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        means = self.spread * rng.normal(size=(len(counts), sum(self.widths)))
        X = means[y] + rng.normal(size=(len(y), sum(self.widths)))
        stops = np.cumsum(self.widths).tolist()
        modalities = {
            f"m{m}": slice(stop - width, stop)
            for m, (stop, width) in enumerate(zip(stops, self.widths, strict=True))
        }
        if self.of_second:
            without = rng.choice(len(X), round(self.missing * len(X)), replace=False)
            X[without, modalities["m1"]] = np.nan
        elif self.missing:
            X = drop_modalities(X, modalities, self.missing, seed)
        return X, y, modalities


UNEQUAL = (0.5, 0.25, 0.15, 0.07, 0.03)
CASES = [
    Case("40 % of block 2 missing", missing=0.4, of_second=True),
    Case("30 % missing", missing=0.3),
    Case("60 % missing", missing=0.6),
    Case("three blocks, 60 % missing", widths=(5, 3, 4), missing=0.6),
    Case("50/25/15/7/3 %", UNEQUAL),
    Case("50/25/15/7/3 %, 30 % missing", UNEQUAL, missing=0.3),
    Case("means 3 N(0, 1)", spread=3.0),
    Case("means 3 N(0, 1), 30 % missing", spread=3.0, missing=0.3),
    Case("means 2 N(0, 1)", spread=2.0),
    Case("means 2 N(0, 1), 30 % missing", spread=2.0, missing=0.3),
    Case("8 clusters", (0.125,) * 8, 1000),
    Case("8 clusters, 30 % missing", (0.125,) * 8, 1000, missing=0.3),
    Case("8, means 3 N(0, 1)", (0.125,) * 8, 1000, spread=3.0),
    Case("8, means 3 N(0, 1), 30 % missing", (0.125,) * 8, 1000, (5, 3), 3.0, 0.3),
]


def filled(X: np.ndarray) -> np.ndarray:
    """Standardised columns, the mean where nothing is."""
    return np.nan_to_num(StandardScaler().fit_transform(X))


def by_ours(X: np.ndarray, modalities: dict[str, slice], seed: int) -> np.ndarray:
    model = DPMixtureFusion(modalities, device="cpu", random_state=seed)
    return model.fit_predict(X)


def by_bayesian(X: np.ndarray, modalities: dict[str, slice], seed: int) -> np.ndarray:
    model = BayesianGaussianMixture(
        n_components=30,
        weight_concentration_prior_type="dirichlet_process",
        max_iter=300,
        random_state=seed,
    )
    return model.fit_predict(filled(X))


def by_bic(X: np.ndarray, modalities: dict[str, slice], seed: int) -> np.ndarray:
    X = filled(X)
    models = [
        GaussianMixture(n_components=k, max_iter=300, random_state=seed).fit(X)
        for k in range(1, 13)
    ]
    return min(models, key=lambda model: model.bic(X)).predict(X)


GROUPERS = {
    "skmm": by_ours,
    "Bayesian 30": by_bayesian,
    "Gaussian, BIC": by_bic,
}


def larger(labels: np.ndarray) -> int:
    """Number of components with at least 1 % of the rows."""
    counts = np.unique(labels, return_counts=True)[1]
    return int((counts >= 0.01 * len(labels)).sum())


def groups(options: argparse.Namespace) -> None:
    """Print the number of components that are found in planted mixtures."""
    say(
        "blocks of 5 and 3 columns (three: 5, 3, 4), unit noise, means 6 N(0, 1) where "
        "nothing else is said, n = 400, or 1000 with 8 clusters; "
        f"{options.seeds} seeds. missing: that share of blocks, every row keeping one "
        "(of two blocks 60 % is 45 %). skmm: DPMixtureFusion() with its defaults; "
        "Bayesian 30: BayesianGaussianMixture, full, Dirichlet process, 30 components; "
        "Gaussian, BIC: full, k among 1 to 12; both on standardised columns, gaps "
        "filled by means. k: components with at least 1 % of the rows, median and "
        "range over seeds; exact: share of seeds with the true number."
    )
    print(
        f"{'case':<34}{'true':>5}  {'method':<14}{'k':>4}{'range':>8}{'exact':>7}"
        f"{'ARI':>8}{'seconds':>9}"
    )
    chosen = [case for case in CASES if not options.cases or case.name in options.cases]
    for case in chosen:
        rows: dict[str, list[tuple[int, float, float]]] = {
            name: [] for name in GROUPERS
        }
        for seed in range(options.seeds):
            X, y, modalities = case.draw(seed)
            for name, group in GROUPERS.items():
                start = time.perf_counter()
                labels = group(X, modalities, seed)
                seconds = time.perf_counter() - start
                ari = adjusted_rand_score(y, labels)
                rows[name].append((larger(labels), ari, seconds))
        for name, found in rows.items():
            ks, aris, times = map(np.array, zip(*found, strict=True))
            exact = np.mean(ks == len(case.shares))
            print(
                f"{case.name:<34}{len(case.shares):>5}  {name:<14}{np.median(ks):>4.3g}"
                f"{f'{ks.min()}-{ks.max()}':>8}{exact:>7.0%}{aris.mean():>8.3f}"
                f"{median(times):>9.2f}",
                flush=True,
            )


# ---------------------------------------------------------------- command line
def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True, metavar="{sweep,memmap,growth,groups}")

    def part(run: Callable[[argparse.Namespace], None], name: str) -> Any:
        chosen = parts.add_parser(name, description=run.__doc__)
        chosen.set_defaults(run=run, hidden=name.endswith("-of"))
        return chosen.add_argument

    add = part(sweep, "sweep")
    add("--rows", type=int, default=50_000)
    add("--columns", type=int, default=32)
    add("--components", type=int, default=30)
    add("--kinds", nargs="+", choices=KINDS, default=KINDS)
    add("--sweeps", type=int, default=10, help="timed sweeps after the first")
    add("--rounds", type=int, default=5)
    add("--most", type=int, default=100, help="sweeps in which the bound is sought")
    add("--bound-rounds", type=int, default=1, help="rounds of seconds to the bound")
    add = part(memmap, "memmap")
    add("--rows", type=int, nargs="+", default=[500_000, 1_000_000, 5_000_000])
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--folder", default=tempfile.gettempdir(), help="where the rows are written")
    add = part(growth, "growth")
    add("--sweeps", type=int, default=10, help="timed sweeps after the first")
    add("--rounds", type=int, default=3)
    add = part(groups, "groups")
    add("--seeds", type=int, default=20)
    add(
        "--cases", nargs="+", choices=[case.name for case in CASES], help="default: all"
    )
    # Run by others of these, in processes of their own.
    add = part(memory_of, "memory-of")
    add("name")
    add("kind", choices=KINDS)
    for name in ("rows", "columns", "components"):
        add(name, type=int)
    add = part(memmap_of, "memmap-of")
    add("folder", type=Path)
    add("method", choices=METHODS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        # Where a number of sweeps is asked for, fits are not to converge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if not options.hidden:
            packages = ("torch", "numpy", "scikit-learn")
            print(f"{date.today()}  python {sys.version.split()[0]}", end="")
            print(*(f"  {p} {version(p)}" for p in packages), sep="")
            told = sys.argv[1:] if arguments is None else arguments
            print(f"command: dp_mixture.py {' '.join(told)}")
        options.run(options)


if __name__ == "__main__":
    main()
