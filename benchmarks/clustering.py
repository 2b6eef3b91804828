"""Clusters of the real sets: an estimator against plain peers, in one run.

    python benchmarks/clustering.py --sets mfeat3 watch --fractions 0 0.3 0.6 --seeds 5

Columns are standardised over all rows, all rows are clustered (of digits_pen the fixed
test part), and the classes only score. Gaps are drawn with the seeds 0, 1, ..., which
are also the algorithms'. Peers see zeros (the means) in the gaps. "balanced" divides
each modality by the root of its width; "PCA 20" are 20 principal components of that.
BIC and silhouette choose among 17 numbers of clusters from 2 to 40, BIC also 1, and
look at PCA 20.

k is the number of clusters found, "1 %" that of clusters with at least 1 % of the rows.
diff is in NMI, the estimator's less that of the row, paired over seeds; a verdict is
"above" or "below" where it is more than one standard error from zero. The rows named
"best known" hold fixed figures: the best NMI, at seed 0, of all peers that were tried,
some of them not in this file, picked with the classes in view. The estimator is never
told the number of clusters, so peers that are have no goal, but for two sets with gaps.
goal: with blocks missing "above"; with none missing not "below".
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from accuracy import common_parser, compare
from protocol import DataMissing, Problem, load, with_gaps
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import (
    adjusted_rand_score,
    normalized_mutual_info_score,
    silhouette_score,
)
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skmm.metrics import clustering_accuracy

CLUSTERED = ("mfeat3", "mfeat6", "watch", "tcga_breast", "digits_pen")
# Of the peers that are Gaussian mixtures.
REG_COVAR, N_INIT = 1e-3, 3
NUMBERS = (*range(2, 11), 12, 14, 16, 20, 25, 30, 35, 40)


# ---------------------------------------------------------------- estimators
def _dp_mixture(problem: Problem, seed: int, params: dict[str, Any]) -> Any:
    from skmm import DPMixtureFusion

    settings = {"modalities": problem.modalities, "random_state": seed} | params
    return DPMixtureFusion(**settings)


# Name on the command line -> builder. "none" measures the peers alone.
ESTIMATORS: dict[str, Callable[[Problem, int, dict[str, Any]], Any]] = {
    "dp_mixture": _dp_mixture,
}


def by_estimator(
    problem: Problem, seed: int, build: Callable[..., Any], params: dict[str, Any]
) -> tuple[np.ndarray, int | None]:
    """Labels, and the most clusters that there could be."""
    model = build(problem, seed, params)
    return model.fit_predict(problem.X), getattr(model, "n_components", None)


# ---------------------------------------------------------------- peers
def standardised(problem: Problem) -> Problem:
    """Columns with mean 0 and variance 1 over the observed cells of all rows."""
    return replace(problem, X=StandardScaler().fit_transform(problem.X))


def filled(problem: Problem) -> np.ndarray:
    return np.nan_to_num(problem.X)


def balanced(problem: Problem) -> np.ndarray:
    X = filled(problem)
    for columns in problem.modalities.values():
        X[:, columns] /= np.sqrt(X[:, columns].shape[1])
    return X


def reduced(problem: Problem) -> np.ndarray:
    return PCA(20, random_state=0).fit_transform(balanced(problem))


def bayesian(X: np.ndarray, seed: int, kind: str) -> np.ndarray:
    model = BayesianGaussianMixture(
        n_components=30,
        covariance_type=kind,
        weight_concentration_prior_type="dirichlet_process",
        reg_covar=REG_COVAR,
        random_state=seed,
    )
    return model.fit_predict(X)


def by_silhouette(problem: Problem, seed: int) -> np.ndarray:
    X, Z = balanced(problem), reduced(problem)
    found = [_kmeans(X, k, seed) for k in NUMBERS]
    return max(found, key=partial(silhouette_score, Z))


def by_bic(problem: Problem, seed: int, kind: str) -> np.ndarray:
    X = reduced(problem)
    settings = {"reg_covar": REG_COVAR, "n_init": N_INIT, "random_state": seed}
    models = [
        GaussianMixture(n_components=k, covariance_type=kind, **settings).fit(X)
        for k in (1, *NUMBERS)
    ]
    return min(models, key=lambda model: model.bic(X)).predict(X)


def spectral(problem: Problem, seed: int) -> np.ndarray:
    model = SpectralClustering(
        n_classes(problem),
        affinity="nearest_neighbors",
        n_neighbors=10,
        random_state=seed,
    )
    return model.fit_predict(filled(problem))


def _kmeans(X: np.ndarray, k: int, seed: int) -> np.ndarray:
    return KMeans(k, n_init=10, random_state=seed).fit_predict(X)


def test_part(problem: Problem) -> Problem:
    """The rows to cluster: of a set with a fixed split, its test part."""
    if problem.test is None:
        return problem
    rows = problem.test
    return replace(problem, X=problem.X[rows], y=problem.y[rows], test=None)


def n_classes(problem: Problem) -> int:
    return int(problem.y.max()) + 1


@dataclass(frozen=True)
class Peer:
    """A named way to cluster; `told` whether it knows the number of classes."""

    title: str
    labels: Callable[[Problem, int], np.ndarray]
    told: bool = False


PEERS = {
    "bgm_diag": Peer("BGM 30, diag", lambda p, seed: bayesian(filled(p), seed, "diag")),
    "bgm_full": Peer(
        "BGM 30, full, PCA 20", lambda p, seed: bayesian(reduced(p), seed, "full")
    ),
    "silhouette": Peer("k-means, silhouette", by_silhouette),
    "bic_diag": Peer("GMM diag, PCA 20, BIC", partial(by_bic, kind="diag")),
    "bic_full": Peer("GMM full, PCA 20, BIC", partial(by_bic, kind="full")),
    "kmeans": Peer(
        "told k: k-means, balanced",
        lambda p, seed: _kmeans(balanced(p), n_classes(p), seed),
        told=True,
    ),
    "spectral": Peer("told k: spectral, 10 nb.", spectral, told=True),
}

# The best NMI of those not told k, at seed 0 with 0, 30 and 60 % of blocks missing:
# here, and of all that were tried elsewhere, with and without being told k.
BEST_PEER: dict[str, dict[float, str]] = {
    "mfeat3": {0.0: "bic_full", 0.3: "bic_diag", 0.6: "bic_diag"},
    "mfeat6": {0.0: "bic_full", 0.3: "bic_full", 0.6: "bic_diag"},
    "watch": {0.0: "bic_full", 0.3: "bic_diag", 0.6: "bgm_full"},
    "tcga_breast": {0.0: "bic_full", 0.3: "bic_full", 0.6: "bic_diag"},
    "digits_pen": {0.0: "bic_full", 0.3: "bic_diag", 0.6: "bgm_full"},
}
NOT_TOLD: dict[str, dict[float, float]] = {
    "mfeat3": {0.0: 0.802, 0.3: 0.548, 0.6: 0.508},
    "mfeat6": {0.0: 0.919, 0.3: 0.763, 0.6: 0.471},
    "watch": {0.0: 0.703, 0.3: 0.472, 0.6: 0.477},
    "tcga_breast": {0.0: 0.381, 0.3: 0.180, 0.6: 0.140},
    "digits_pen": {0.0: 0.903, 0.3: 0.606, 0.6: 0.630},
}
TOLD: dict[str, dict[float, float]] = {
    "mfeat6": {0.3: 0.811, 0.6: 0.772},
    "watch": {0.3: 0.585, 0.6: 0.489},
}


def peer_names(asked: str, set_name: str, fraction: float) -> list[str]:
    """Resolve "best", "all" and "none"; a share that was not measured has no best."""
    if asked == "best":
        best = BEST_PEER[set_name].get(fraction)
        return [] if best is None else [best]
    return list(PEERS) if asked == "all" else []


# ---------------------------------------------------------------- runs
@dataclass
class Runs:
    """What came of one way to cluster, one entry a seed."""

    title: str
    nmi: list[float]
    ari: list[float]
    acc: list[float]
    found: list[int]
    larger: list[int]
    seconds: list[float]
    most: int | None = None

    @classmethod
    def of(cls, title: str) -> "Runs":
        return cls(title, [], [], [], [], [], [])

    def add(self, y: np.ndarray, labels: np.ndarray, seconds: float) -> None:
        counts = np.unique(labels, return_counts=True)[1]
        self.nmi.append(normalized_mutual_info_score(y, labels))
        self.ari.append(adjusted_rand_score(y, labels))
        self.acc.append(clustering_accuracy(y, labels))
        self.found.append(len(counts))
        self.larger.append(int((counts >= 0.01 * len(labels)).sum()))
        self.seconds.append(seconds)


def run_cell(
    problem: Problem, fraction: float, options: argparse.Namespace
) -> dict[str, Runs]:
    """Cluster with every seed, one way after the other."""
    names = peer_names(options.peers, problem.name, fraction)
    runs = {name: Runs.of(PEERS[name].title) for name in names}
    if options.estimator != "none":
        runs = {"ours": Runs.of(options.estimator)} | runs
    for seed in range(options.seeds):
        gaps = standardised(with_gaps(problem, fraction, seed))
        for name, run in runs.items():
            start = time.perf_counter()
            if name == "ours":
                build, params = ESTIMATORS[options.estimator], dict(options.param)
                labels, run.most = by_estimator(gaps, seed, build, params)
            else:
                labels = PEERS[name].labels(gaps, seed)
            run.add(problem.y, labels, time.perf_counter() - start)
    return runs


# ---------------------------------------------------------------- report
COLUMNS = [
    ("set", "{:<12}"),
    ("missing", "{:>7}"),
    ("who", "{:<27}"),
    ("NMI", "{:>6}"),
    ("ARI", "{:>6}"),
    ("ACC", "{:>6}"),
    ("k", "{:>5}"),
    ("1 %", "{:>5}"),
    ("true", "{:>4}"),
    ("s", "{:>7}"),
    ("diff", "{:>7}"),
    ("s.e.", "{:>6}"),
    ("verdict", "{:<7}"),
    ("goal", "{:<6}"),
]


def print_row(values: Sequence[str]) -> None:
    cells = (form.format(v) for (_, form), v in zip(COLUMNS, values, strict=True))
    print("  ".join(cells).rstrip(), flush=True)


def versus(
    ours: Runs | None, nmi: Sequence[float], fraction: float, *, told: bool = False
) -> list[str]:
    """Cells of the comparison with a row; no goal against those who are told k."""
    if ours is None:
        return [""] * 4
    c = compare(ours.nmi, nmi, fraction)
    goal = "" if told else "met" if c.goal else "missed"
    error = f"{c.error:.3f}" if len(nmi) > 1 else ""
    return [f"{c.difference:+.3f}", error, c.verdict, goal]


def scores_of(run: Runs, n_true: int) -> list[str]:
    middle = [f"{np.mean(values):.3f}" for values in (run.nmi, run.ari, run.acc)]
    found = [f"{np.mean(values):.3g}" for values in (run.found, run.larger)]
    return [*middle, *found, str(n_true), f"{np.median(run.seconds):.2f}"]


def report(problem: Problem, fraction: float, runs: dict[str, Runs]) -> None:
    """Print a row for the estimator, each peer, and each figure to compare with."""
    head = [problem.name, f"{fraction:.0%}"]
    ours, n_true = runs.get("ours"), n_classes(problem)
    for name, run in runs.items():
        cells = [""] * 4
        if name != "ours":
            told = PEERS[name].told
            cells = versus(ours, run.nmi, fraction, told=told)
        print_row([*head, run.title, *scores_of(run, n_true), *cells])
        if run.most is not None and max(run.found) >= run.most:
            print(f"{'':<21}  all {run.most} components are used: raise n_components")
    if ours is None:
        return
    known = {"best known, not told k": NOT_TOLD, "best known, told k": TOLD}
    for title, figures in known.items():
        value = figures.get(problem.name, {}).get(fraction)
        if value is not None:
            cells = versus(ours, [value] * len(ours.nmi), fraction)
            print_row([*head, title, f"{value:.3f}", *[""] * 6, *cells])


# ---------------------------------------------------------------- command line
def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser(__doc__, CLUSTERED, list(ESTIMATORS))
    add = parser.add_argument
    add(
        "--peers",
        choices=["best", "all", "none"],
        default="best",
        help="best: the named best of those not told k, for each set and share",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    print(f"{date.today()}  python {sys.version.split()[0]}", end="")
    print(*(f"  {p} {version(p)}" for p in ("torch", "scikit-learn", "numpy")), sep="")
    told = sys.argv[1:] if arguments is None else arguments
    print(f"command: clustering.py {' '.join(told)}".rstrip())
    print(f"means over {options.seeds} seeds; s: medians")
    print_row([name for name, _ in COLUMNS])
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A graph of neighbours may fall apart; spectral clustering says so.
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        for name in options.sets:
            try:
                problem = test_part(load(name))
            except DataMissing as missing:
                print(f"{name}: left out, {missing}", flush=True)
                continue
            for fraction in options.fractions:
                report(problem, fraction, run_cell(problem, fraction, options))


if __name__ == "__main__":
    main()
