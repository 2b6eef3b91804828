"""Held-out log-likelihood of sparse and shrunk covariances.

    python benchmarks/held_out_likelihood.py [--draws 10] [--rows 200 1600]

One graph for all rows of mfeat's `fou` and `zer` (123 columns), without classes. Each
draw takes training rows at random and 400 others to test; columns are standardised on
the training rows, the same for all, without a transform of the marginals. Scores are
mean log-densities of a test row in nats. Each peer chooses its own penalty.

One thread. A peer that raises is counted, and its mean is over the draws it survived.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from importlib.metadata import version

import numpy as np
import torch
from sklearn.covariance import (
    OAS,
    EmpiricalCovariance,
    GraphicalLassoCV,
    LedoitWolf,
)
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skmm import CrossModalGraphicalLasso
from skmm.datasets import load_mfeat

TEST = 400

PEERS: dict[str, Callable[[], object]] = {
    "skmm": lambda: CrossModalGraphicalLasso(alpha="auto", modalities=None),
    "LedoitWolf": LedoitWolf,
    "OAS": OAS,
    "GraphicalLassoCV": GraphicalLassoCV,
    "EmpiricalCovariance": EmpiricalCovariance,
}


def score(make: Callable[[], object], train: np.ndarray, test: np.ndarray):
    """Score and seconds; the score is NaN where the peer raises."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = make().fit(train).score(test)
        except (FloatingPointError, ValueError):
            found = np.nan
    return found, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--rows", type=int, nargs="+", default=[200, 1600])
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    settings = parser.parse_args()
    names = ("python", "torch", "numpy", "scikit-learn")
    shown = [
        f"{n} {sys.version.split()[0] if n == 'python' else version(n)}" for n in names
    ]
    print(f"{date.today()}  {'  '.join(shown)}")
    print(f"command: held_out_likelihood.py {' '.join(sys.argv[1:])}".rstrip())
    X = load_mfeat(views=["fou", "zer"]).data
    for n_rows in settings.rows:
        results = {name: [] for name in settings.peers}
        for draw in range(settings.draws):
            order = np.random.default_rng(draw).permutation(len(X))
            scaler = StandardScaler().fit(X[order[:n_rows]])
            train = scaler.transform(X[order[:n_rows]])
            test = scaler.transform(X[order[n_rows : n_rows + TEST]])
            for name in settings.peers:
                results[name].append(score(PEERS[name], train, test))
        print(f"\n{n_rows} training rows, {TEST} test rows, {settings.draws} draws")
        print(f"{'':<22}{'mean':>9}{'sd':>7}{'raised':>8}{'seconds':>9}")
        for name, pairs in results.items():
            scores, seconds = np.array(pairs).T
            kept = scores[np.isfinite(scores)]
            mean, sd = (kept.mean(), kept.std()) if len(kept) else (np.nan, np.nan)
            print(
                f"{name:<22}{mean:>9.2f}{sd:>7.2f}{len(scores) - len(kept):>8}"
                f"{np.median(seconds):>9.2f}",
                flush=True,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        main()
