"""Accuracy of an estimator against the named best peers, on the same folds.

    python benchmarks/accuracy.py --sets mfeat3 watch --fractions 0 0.3 0.6 --seeds 5

For each set, share of missing blocks and mask seed, peers and estimator are fitted one
after the other on every fold, with the same seed. Differences are paired over folds and
seeds; their standard error takes them as independent, which folds that share training
rows, and seeds that share folds, are not quite.

verdict: "above" or "below" if the mean difference is more than one standard error from
zero, else "level". goal: with blocks missing "above"; with none missing not "below".
"""

import argparse
import ast
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peers import PEERS, best_peers, make_peer
from protocol import SETS, DataMissing, Problem, folds, load, with_gaps
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, balanced_accuracy_score

SCORES = {
    "accuracy": accuracy_score,
    "balanced_accuracy": balanced_accuracy_score,
}


def _tcmax(problem: Problem, seed: int, params: dict[str, Any]) -> Any:
    from skmm import TCMaxClassifier

    settings = {"modalities": problem.grouping, "random_state": seed} | params
    return TCMaxClassifier(**settings)


def _graphical_lasso(problem: Problem, seed: int, params: dict[str, Any]) -> Any:
    from skmm import CrossModalGraphicalLasso

    settings = {"modalities": problem.modalities, "random_state": seed} | params
    return CrossModalGraphicalLasso(**settings)


def _decalign(problem: Problem, seed: int, params: dict[str, Any]) -> Any:
    from skmm import DecAlignClassifier

    settings = {"modalities": problem.grouping, "random_state": seed} | params
    return DecAlignClassifier(**settings)


# Name on the command line -> builder. "none" measures the peers alone.
ESTIMATORS: dict[str, Callable[[Problem, int, dict[str, Any]], Any]] = {
    "tcmax": _tcmax,
    "graphical_lasso": _graphical_lasso,
    "decalign": _decalign,
}


@dataclass
class Runs:
    """Scores and seconds to fit, one a fold."""

    scores: list[float]
    seconds: list[float]

    def add(self, other: "Runs") -> None:
        self.scores += other.scores
        self.seconds += other.seconds


def run_fold(model: Any, problem: Problem, train: Any, test: Any) -> Runs:
    """Fit on the training rows and score the test rows."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        # The peers' number of epochs is part of the protocol.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(problem.X[train], problem.y[train])
    seconds = time.perf_counter() - start
    predicted = model.predict(problem.X[test])
    score = SCORES[problem.metric](problem.y[test], predicted)
    return Runs([float(score)], [seconds])


class Cache:
    """Peers' runs of one set, share, seed and version of scikit-learn, on disk."""

    def __init__(self, folder: str | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def _path(self, folder: Path, key: Sequence[Any]) -> Path:
        parts = [*key, f"sklearn{version('scikit-learn')}"]
        return folder / ("_".join(map(str, parts)) + ".json")

    def get(self, *key: Any) -> Runs | None:
        if self.folder is None or not self._path(self.folder, key).is_file():
            return None
        return Runs(**json.loads(self._path(self.folder, key).read_text()))

    def put(self, runs: Runs, *key: Any) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._path(self.folder, key).write_text(json.dumps(vars(runs)))


def run_seed(
    problem: Problem, models: Mapping[str, tuple[Problem, Callable[[], Any]]]
) -> dict[str, Runs]:
    """Fit every model on every fold of one draw of gaps, models interleaved.

    Each comes with its view of the problem's rows.
    """
    runs = {name: Runs([], []) for name in models}
    for train, test in folds(problem):
        for name, (view, build) in models.items():
            runs[name].add(run_fold(build(), view, train, test))
    return runs


def peers_view(problem: Problem) -> Problem:
    """Return the set in which peers get the problem's rows, most often the same."""
    return problem if problem.peers_see is None else load(problem.peers_see)


def run_cell(
    problem: Problem, fraction: float, options: argparse.Namespace, cache: Cache
) -> dict[str, Runs]:
    """Collect the runs of peers and estimator ("ours") over all mask seeds."""
    columns = peers_view(problem)
    peers = peer_names(options.peers, columns.name, fraction)
    total: dict[str, Runs] = {}
    for seed in range(options.seeds):
        gaps, view = (with_gaps(p, fraction, seed) for p in (problem, columns))
        keys = {peer: (columns.name, fraction, seed, peer) for peer in peers}
        found = {peer: cache.get(*key) for peer, key in keys.items()}
        known = {peer: runs for peer, runs in found.items() if runs is not None}
        models = {
            peer: (view, partial(make_peer, peer, view, seed))
            for peer in peers
            if peer not in known
        }
        if options.estimator != "none":
            build = ESTIMATORS[options.estimator]
            ours = partial(build, gaps, seed, dict(options.param))
            models["ours"] = (gaps, ours)
        fresh = run_seed(gaps, models)
        for peer in fresh.keys() & keys.keys():
            cache.put(fresh[peer], *keys[peer])
        for name, runs in (known | fresh).items():
            total.setdefault(name, Runs([], [])).add(runs)
    return total


def peer_names(asked: Sequence[str], set_name: str, fraction: float) -> list[str]:
    """Resolve "best" and "all" to names of peers, without repeats."""
    groups = {"best": best_peers(set_name, fraction), "all": tuple(PEERS)}
    names = [name for item in asked for name in groups.get(item, (item,))]
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Comparison:
    """Paired differences of scores and what they say."""

    difference: float
    error: float
    verdict: str
    goal: bool


def compare(
    ours: Sequence[float], peer: Sequence[float], fraction: float
) -> Comparison:
    """Compare scores on the same folds and seeds."""
    differences = np.subtract(ours, peer)
    difference = float(differences.mean())
    error = 0.0
    if len(differences) > 1:
        error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    verdict = "level"
    if abs(difference) > error:
        verdict = "above" if difference > 0 else "below"
    goal = verdict == "above" if fraction > 0 else verdict != "below"
    return Comparison(difference, error, verdict, goal)


COLUMNS = [
    ("set", "{:<15}"),
    ("missing", "{:>7}"),
    ("peer", "{:<9}"),
    ("ours", "{:>7}"),
    ("peer's", "{:>7}"),
    ("diff", "{:>8}"),
    ("s.e.", "{:>7}"),
    ("verdict", "{:<7}"),
    ("goal", "{:<6}"),
    ("fit s", "{:>7}"),
    ("peer s", "{:>7}"),
    ("runs", "{:>4}"),
]


def print_row(values: Sequence[str]) -> None:
    cells = (form.format(v) for (_, form), v in zip(COLUMNS, values, strict=True))
    print("  ".join(cells).rstrip(), flush=True)


def report(name: str, fraction: float, runs: dict[str, Runs]) -> None:
    """Print a row a peer."""
    ours = runs.get("ours")
    for peer, run in runs.items():
        if peer == "ours":
            continue
        middle = [""] * 4
        if ours is not None:
            c = compare(ours.scores, run.scores, fraction)
            goal = "met" if c.goal else "missed"
            middle = [f"{c.difference:+.4f}", f"{c.error:.4f}", c.verdict, goal]
        print_row(
            [
                name,
                f"{fraction:.0%}",
                peer,
                "" if ours is None else f"{np.mean(ours.scores):.4f}",
                f"{np.mean(run.scores):.4f}",
                *middle,
                "" if ours is None else f"{np.mean(ours.seconds):.2f}",
                f"{np.mean(run.seconds):.2f}",
                str(len(run.scores)),
            ]
        )


def _setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, the value as a Python literal where it is one."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def _share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"expected a share in [0, 1], got {text}")
    return float(text)


def common_parser(
    description: str | None, sets: Sequence[str], estimators: Sequence[str]
) -> argparse.ArgumentParser:
    """Options of what runs an estimator, by default the first, on sets with gaps."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="+", choices=sets, default=list(sets))
    add("--fractions", nargs="+", type=_share, default=[0.0, 0.3, 0.6])
    add("--seeds", type=int, default=5, help="number of mask seeds, from 0")
    add("--estimator", choices=[*estimators, "none"], default=estimators[0])
    add(
        "--param",
        nargs="*",
        type=_setting,
        default=[],
        metavar="NAME=VALUE",
        help="parameters of the estimator",
    )
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser(__doc__, list(SETS), list(ESTIMATORS))
    add = parser.add_argument
    add(
        "--peers",
        nargs="+",
        choices=["best", "all", *PEERS],
        default=["best"],
        help="best: the named best of each set and share",
    )
    add("--cache", help="folder to keep the peers' runs in; off by default")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    print(f"{date.today()}  python {sys.version.split()[0]}", end="")
    print(*(f"  {p} {version(p)}" for p in ("scikit-learn", "numpy")), sep="")
    print(f"command: accuracy.py {' '.join(arguments or sys.argv[1:])}")
    if options.cache:
        print(f"peers' runs are read from {options.cache} where they are there")
    print_row([name for name, _ in COLUMNS])
    cache = Cache(options.cache)
    for name in options.sets:
        try:
            problem = load(name)
        except DataMissing as missing:
            print(f"{name}: left out, {missing}", flush=True)
            continue
        for fraction in options.fractions:
            report(name, fraction, run_cell(problem, fraction, options, cache))


if __name__ == "__main__":
    main()
