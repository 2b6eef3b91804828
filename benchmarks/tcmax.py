"""Cost of TCMaxClassifier: its loop, its loss, its sampled loss, and their growth.

    python benchmarks/tcmax.py [loop] [loss] [sampled] [growth]

loop     against a bare torch loop with the same network, optimiser and clipping
loss     the closed form against the sum over all tuples of rows
sampled  bias and spread of the sampled loss of a head that is not additive
growth   seconds of a fit by rows, batch size, modalities and classes

One thread. What is compared is run in turn within each repetition; tables show medians
and ratios of medians of the same run. Peak memory is the largest sum of live tensors
that a step allocates.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from itertools import accumulate
from statistics import median
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from skmm import TCMaxClassifier
from skmm.core.dependence import additive_loss, tuple_loss
from skmm.core.networks import build_head
from skmm.datasets import make_multimodal_classification
from skmm.fitting.gradient import GradientNet

LARGEST = 4 * 2**30  # bytes of the all-tuples tensor that are still tried


def blobs(n: int, n_modalities: int, width: int, n_classes: int, seed: int = 0):
    """Gaussian classes in float32, all columns of all modalities side by side."""
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    means = rng.normal(size=(n_classes, n_modalities * width))
    X = means[y] + 2 * rng.normal(size=(n, n_modalities * width))
    return X.astype(np.float32), y


# ---------------------------------------------------------------- the loop
def bare_loop(X, y, n_modalities, *, epochs, fused):
    """What one would write by hand: joint cross-entropy, AdamW, clipping."""
    torch.manual_seed(0)
    X = (X - X.mean(0)) / X.std(0)
    blocks = [torch.from_numpy(b.copy()) for b in np.hsplit(X, n_modalities)]
    target = torch.from_numpy(y)
    width, n_classes = blocks[0].shape[1], int(y.max()) + 1
    encoders = nn.ModuleList(
        nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 32), nn.Tanh())
        for _ in blocks
    )
    heads = nn.ModuleList(nn.Linear(32, n_classes) for _ in blocks)
    parameters = [*encoders.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.01, fused=fused)
    start = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(y))
        for i in range(0, len(y), 128):
            rows = order[i : i + 128]
            parts = zip(heads, encoders, blocks, strict=True)
            logits = sum(h(f(b[rows])) for h, f, b in parts)
            loss = nn.functional.cross_entropy(logits, target[rows])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimiser.step()
    return time.perf_counter() - start


def our_loop(X, y, n_modalities, *, epochs, loss="cross_entropy"):
    """Seconds of the loop alone, and of the whole fit."""
    seconds = []
    loop = GradientNet.fit_loop

    def timed(net, *args, **kwargs):
        start = time.perf_counter()
        try:
            return loop(net, *args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - start)

    clf = TCMaxClassifier(
        [X.shape[1] // n_modalities] * n_modalities,
        loss=loss,
        hidden=(128,),
        n_components=32,
        dropout=0.0,
        lr=1e-3,
        lr_schedule="constant",
        max_epochs=epochs,
        batch_size=128,
        weight_decay=0.78,  # of an epoch of 78 steps
        clip_norm=5.0,
        device="cpu",
        random_state=0,
    )
    start = time.perf_counter()
    with mock.patch.object(GradientNet, "fit_loop", timed):
        clf.fit(X, y)
    return seconds[0], time.perf_counter() - start


def loop() -> None:
    """(a) Our loop against bare ones."""
    n_modalities, epochs, repetitions = 3, 50, 5
    X, y = blobs(10_000, n_modalities, 32, 10)
    times: dict[str, list[float]] = {
        k: [] for k in ("bare", "bare, fused", "loop", "fit", "loop, total correlation")
    }
    for _ in range(repetitions):
        times["bare"].append(bare_loop(X, y, 3, epochs=epochs, fused=False))
        times["bare, fused"].append(bare_loop(X, y, 3, epochs=epochs, fused=True))
        ours, whole = our_loop(X, y, 3, epochs=epochs)
        times["loop"].append(ours)
        times["fit"].append(whole)
        ours, _ = our_loop(X, y, 3, epochs=epochs, loss="total_correlation")
        times["loop, total correlation"].append(ours)
    print(
        f"\n(a) n = 10000, 3 modalities of 32 columns, 10 classes, batch 128, "
        f"{epochs} epochs, joint cross-entropy;\n    medians of {repetitions}, "
        "interleaved. bare: torch.optim.AdamW's default; fused: its fused kernel, "
        "which skmm uses."
    )
    print(f"{'':<26}{'seconds':>9}{'to bare':>9}{'to bare, fused':>16}")
    for name, values in times.items():
        to_bare = median(values) / median(times["bare"])
        to_fused = median(values) / median(times["bare, fused"])
        print(f"{name:<26}{median(values):>9.2f}{to_bare:>9.2f}{to_fused:>16.2f}")


# ---------------------------------------------------------------- the loss
def all_pairs_loss(logits: Tensor, y: Tensor) -> Tensor:
    """The loss by its definition: one big tensor of all tuples of rows."""
    n_modalities, n_rows, n_classes = logits.shape
    total = logits[0]
    for m in range(1, n_modalities):
        total = total.unsqueeze(m) + logits[m].view(*[1] * m, n_rows, n_classes)
    partition = torch.logsumexp(total.reshape(-1), 0)
    matched = logits.sum(0).gather(1, y[:, None]).mean()
    return partition - math.log(n_classes) - n_modalities * math.log(n_rows) - matched


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the profiler's C++ part writes to the standard error."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def peak_bytes(run: Callable[[], object]) -> int:
    """Highest sum of live tensors that a run allocates, from torch's profiler."""
    activities = [ProfilerActivity.CPU]
    with quiet(), profile(activities=activities, profile_memory=True) as profiled:
        run()
    events = profiled.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return max(accumulate(size for _, size in sorted(changes)))


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def step(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, y: Tensor):
    """Value and gradient."""

    def run():
        leaf = logits.detach().requires_grad_()
        value = loss(leaf, y)
        value.backward()
        return value.detach()

    return run


def loss() -> None:
    """(b) The closed form against all tuples."""
    print(
        "\n(b) value and gradient of the loss, float32; closed form O(M B C) against "
        "the tensor of all B^M C tuples,\n    where it takes at most 4 GiB. "
        "ns/MBC: nanoseconds over M * B * C."
    )
    print(
        f"{'M':>2}{'B':>6}{'C':>5}{'ours ms':>10}{'ns/MBC':>8}{'ours MiB':>10}"
        f"{'tuples ms':>12}{'tuples MiB':>12}{'ratio':>9}{'difference':>12}"
    )
    cells = [
        *((2, b, 10) for b in (64, 256, 1024, 4096)),
        *((2, b, 100) for b in (256, 1024, 4096)),
        *((2, b, 300) for b in (256, 1024, 4096)),
        *((3, b, 10) for b in (32, 128, 256, 4096)),
        *((3, b, 300) for b in (64, 128, 4096)),
        *((4, b, 10) for b in (16, 64, 4096)),
        *((6, b, c) for b, c in ((8, 10), (16, 10), (4096, 10), (4096, 300))),
    ]
    for m, b, c in cells:
        torch.manual_seed(0)
        logits, y = torch.randn(m, b, c), torch.randint(c, (b,))
        ours = step(additive_loss, logits, y)
        tuples = step(all_pairs_loss, logits, y)
        fits = 4 * b**m * c <= LARGEST
        memory = peak_bytes(ours) / 2**20
        gap = abs(float(ours()) - float(tuples())) if fits else 0.0
        mine, theirs = [], []
        for _ in range(3 if fits else 9):
            mine.append(seconds_of(ours))
            if fits:
                theirs.append(seconds_of(tuples))
        seconds = median(mine)
        line = f"{m:>2}{b:>6}{c:>5}{1e3 * seconds:>10.2f}"
        line += f"{1e9 * seconds / (m * b * c):>8.1f}{memory:>10.2f}"
        if fits:
            other = median(theirs)
            line += f"{1e3 * other:>12.2f}{peak_bytes(tuples) / 2**20:>12.1f}"
            line += f"{other / seconds:>9.1f}{gap:>12.1e}"
        print(line, flush=True)


# ---------------------------------------------------------------- the sampled loss
def sampled() -> None:
    """(c) Bias and spread by number of tuples."""
    n_rows, draws = 128, 200
    print(
        f"\n(c) loss of a head of all modalities (mlp, 64 hidden), two modalities, "
        f"{n_rows} rows, on trained embeddings;\n    sampled tuples against all "
        f"{n_rows**2}, {draws} draws. Nats."
    )
    X, y = make_multimodal_classification(
        600, n_classes=4, n_modalities=2, n_features=16, random_state=0
    )
    clf = TCMaxClassifier(
        [16, 16],
        fusion="mlp",
        head_hidden=(64,),
        random_state=0,
        max_epochs=40,
        device="cpu",
    ).fit(X, y)
    Z = torch.tensor(clf.transform(X[:n_rows])).view(n_rows, 2, -1).transpose(0, 1)
    target = torch.tensor(y[:n_rows])
    head = build_head("mlp", 2, Z.shape[2], 4, (64,)).double()
    weights = {
        k.removeprefix("head."): torch.tensor(v)
        for k, v in clf._network_state.items()
        if k.startswith("head.")
    }
    head.load_state_dict(weights)
    with torch.no_grad():
        whole = float(tuple_loss(head, Z, target))
        print(f"all tuples: {whole:.4f}")
        print(f"{'tuples':>8}{'bias':>10}{'spread':>10}{'ms':>8}")
        for n in (128, 512, 1024, 2048, 4096, 8192, 16384):
            torch.manual_seed(0)
            start = time.perf_counter()
            values = [
                float(tuple_loss(head, Z, target, n_tuples=n)) for _ in range(draws)
            ]
            ms = 1e3 * (time.perf_counter() - start) / draws
            bias, spread = np.mean(values) - whole, np.std(values)
            print(f"{n:>8}{bias:>+10.4f}{spread:>10.4f}{ms:>8.2f}")


# ---------------------------------------------------------------- growth
def growth() -> None:
    """(d) Seconds of ten epochs, one thing changed at a time."""
    base = {"n": 4000, "B": 128, "M": 3, "C": 10}
    sizes = {
        "n": (1000, 4000, 16000, 64000),
        "B": (32, 128, 512, 2048),
        "M": (1, 2, 4, 8),
        "C": (2, 10, 100, 300),
    }
    print(f"\n(d) seconds of a fit of 10 epochs, 32 columns a modality; from {base}")
    for name, values in sizes.items():
        row = []
        for value in values:
            at = base | {name: value}
            X, y = blobs(at["n"], at["M"], 32, at["C"])
            clf = TCMaxClassifier(
                [32] * at["M"],
                max_epochs=10,
                batch_size=at["B"],
                random_state=0,
                device="cpu",
            )
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                clf.fit(X, y)
                seconds.append(time.perf_counter() - start)
            row.append(f"{name} = {value}: {median(seconds):.2f}")
        print("    " + ",  ".join(row), flush=True)


PARTS = {"loop": loop, "loss": loss, "sampled": sampled, "growth": growth}


def main(asked: list[str]) -> None:
    unknown = sorted(set(asked) - set(PARTS))
    if unknown:
        raise SystemExit(f"expected parts among {list(PARTS)}, got {unknown}")
    torch.set_num_threads(1)
    print(
        f"{date.today()}  python {sys.version.split()[0]}  torch {torch.__version__}  "
        f"skorch {version('skorch')}  scikit-learn {version('scikit-learn')}"
    )
    print(f"command: tcmax.py {' '.join(asked)}")
    for part in asked or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main(sys.argv[1:])
