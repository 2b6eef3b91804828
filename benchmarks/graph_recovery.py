"""How well CrossModalGraphicalLasso finds planted graphs, by the number of rows.

    python benchmarks/graph_recovery.py [--seeds 20] [--rows 50 100 200 400 800 1600]

Four classes over 30 nodes in two modalities: 45 common edges, and 6 of its own a class.
Precisions of common edges are 0.15 to 0.3 of either sign on a unit diagonal, those of
specific ones likewise; where a matrix is not positive definite its diagonal is raised.
Penalties are chosen by the estimator, by eBIC or by cross-validation; pooling is 0,
since pooled covariances hide what classes have apart. F1 counts pairs of nodes: those
in the common part against the planted common ones, those in any specific part against
the planted specific ones of that class. Means over seeds, and their standard errors.

"class by class" is a graphical lasso a class, with the penalty that serves its F1 best
(an oracle): an edge is common if all classes have it, else specific to those that have.
"""

import argparse
import sys
import time
import warnings
from datetime import date
from importlib.metadata import version

import numpy as np
import torch

from skmm import CrossModalGraphicalLasso, joint_graphical_lasso

N_CLASSES, N_NODES, N_COMMON, N_SPECIFIC = 4, 30, 45, 6


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precisions (C, p, p), and masks of common and specific edges."""
    rng = np.random.default_rng(seed)
    rows, columns = np.triu_indices(N_NODES, 1)
    order = rng.permutation(len(rows))

    def edges(chosen: np.ndarray) -> np.ndarray:
        matrix = np.zeros((N_NODES, N_NODES))
        size = rng.uniform(0.15, 0.3, len(chosen)) * rng.choice([-1, 1], len(chosen))
        matrix[rows[chosen], columns[chosen]] = size
        return matrix + matrix.T

    common = edges(order[:N_COMMON])
    own = order[N_COMMON : N_COMMON + N_CLASSES * N_SPECIFIC].reshape(N_CLASSES, -1)
    specific = np.stack([edges(chosen) for chosen in own])
    precision = common + specific
    lowest = np.linalg.eigvalsh(precision).min(axis=1)
    shift = np.maximum(1.0, 0.1 - lowest)
    return (
        precision + shift[:, None, None] * np.eye(N_NODES),
        common != 0,
        specific != 0,
    )


def sample(precision: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and labels, n a class."""
    rng = np.random.default_rng(1000 + seed)
    roots = np.linalg.cholesky(np.linalg.inv(precision))
    X = np.concatenate([rng.normal(size=(n, N_NODES)) @ root.T for root in roots])
    return X, np.repeat(np.arange(len(precision)), n)


def f1(found: np.ndarray, true: np.ndarray) -> float:
    """F1 of pairs of nodes; zero where nothing is found."""
    upper = np.triu(np.ones(true.shape[-2:], dtype=bool), 1)
    hits = (found & true & upper).sum()
    return 2 * hits / max((found & upper).sum() + (true & upper).sum(), 1)


def class_by_class(X, y, common, specific) -> tuple[float, float]:
    """The best F1 over penalties of separate graphs, each chosen knowing the truth."""
    covariance = np.stack(
        [np.corrcoef(X[y == c], rowvar=False) for c in range(N_CLASSES)]
    )
    best = np.zeros(2)
    for alpha in np.geomspace(0.02, 0.5, 15):
        graphs = np.stack(
            [joint_graphical_lasso(s, alpha).precision != 0 for s in covariance]
        )
        shared = graphs.all(axis=0)
        best = np.maximum(best, (f1(shared, common), f1(graphs & ~shared, specific)))
    return tuple(best)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[50, 100, 200, 400, 800, 1600]
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{date.today()}  python {sys.version.split()[0]}", end="  ")
    print(f"torch {version('torch')}  scikit-learn {version('scikit-learn')}")
    print(f"command: graph_recovery.py {' '.join(arguments or sys.argv[1:])}".rstrip())
    print(
        f"{'rows a class':>12}  {'method':<22}"
        f"{'common F1':>16}{'specific F1':>16}{'s':>7}"
    )
    groups = {"a": slice(0, 15), "b": slice(15, 30)}
    for n in options.rows:
        scores: dict[str, list] = {}
        for seed in range(options.seeds):
            precision, common, specific = planted(seed)
            X, y = sample(precision, n, seed)
            for selection in ("ebic", "cv"):
                start = time.perf_counter()
                model = CrossModalGraphicalLasso(
                    groups,
                    alpha="auto",
                    common_ratio="auto",
                    pooling=0.0,
                    selection=selection,
                    random_state=seed,
                ).fit(X, y)
                seconds = time.perf_counter() - start
                found = model.common_precision_ != 0, model.specific_precision_ != 0
                row = f1(found[0], common), f1(found[1], specific), seconds
                scores.setdefault(f"skmm, {selection}", []).append(row)
            start = time.perf_counter()
            row = class_by_class(X, y, common, specific)
            row = *row, time.perf_counter() - start
            scores.setdefault("class by class, oracle", []).append(row)
        for name, rows in scores.items():
            mean = np.mean(rows, axis=0)
            error = np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))
            cells = [f"{m:.3f} +- {e:.3f}" for m, e in zip(mean, error, strict=True)]
            print(
                f"{n:>12}  {name:<22}{cells[0]:>16}{cells[1]:>16}{mean[2]:>7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
