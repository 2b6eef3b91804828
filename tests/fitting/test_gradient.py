"""The loop by what it promises, through the estimator that uses it."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from skmm import TCMaxClassifier
from skmm.estimators._base import to_arrays, to_tensors
from skmm.estimators._gradient import NOT_IN_FINGERPRINT
from skmm.fitting.checkpoint import fingerprint
from skmm.fitting.gradient import TrainingRecord, TrainingSettings, _load_moments


@pytest.fixture(scope="module")
def data():
    X, y = make_blobs(120, n_features=6, centers=3, cluster_std=3.0, random_state=0)
    X[::5, :3] = np.nan
    return X, y


def make(**kwargs):
    kwargs = {"max_epochs": 4, "batch_size": 32, "random_state": 0} | kwargs
    return TCMaxClassifier([3, 3], **kwargs)


def state(clf):
    return np.concatenate([v.ravel() for v in clf._network_state.values()])


def test_same_seed_same_bits_and_global_generators_untouched(data):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two = (state(make(dropout=0.3).fit(*data)) for _ in range(2))
    assert np.array_equal(one, two)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    other = state(make(dropout=0.3, random_state=1).fit(*data))
    assert not np.array_equal(one, other)


def test_no_gpu_generator_is_seeded(data, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", calls.append)
    make(device="cpu").fit(*data).predict(data[0])
    assert calls == []


def test_global_seed_plays_no_part(data):
    torch.manual_seed(1)
    one = state(make().fit(*data))
    torch.manual_seed(2)
    assert np.array_equal(one, state(make().fit(*data)))


def test_streamed_fit_equals_the_resident_one(data, tmp_path):
    X, y = data
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    one, two = make(dropout=0.2).fit(X, y), make(dropout=0.2).fit(mapped, y)
    np.testing.assert_array_equal(state(one), state(two))
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(mapped))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_computes_in_the_type_of_X(data, dtype):
    clf = make().fit(data[0].astype(dtype), data[1])
    assert {v.dtype for v in clf._network_state.values()} == {np.dtype(dtype)}
    assert clf.predict_proba(data[0].astype(dtype)).dtype == dtype


def test_float32_is_close_to_float64(data):
    X, y = data
    one = make(max_epochs=2).fit(X, y)
    two = make(max_epochs=2).fit(X.astype(np.float32), y)
    # Initial weights are drawn in float32 either way; then 8 steps of rounding.
    np.testing.assert_allclose(state(one), state(two), atol=1e-4)


def test_clipping_bounds_the_gradient(data):
    norms = []

    class Norm(Callback):
        def on_batch_end(self, net, training=False, **kwargs):
            grads = [p.grad.norm() for p in net.module_.parameters()]
            norms.append(float(torch.stack(grads).norm()))

    make(clip_norm=1e-3, net_params={"callbacks": [Norm()]}).fit(*data)
    assert max(norms) <= 1e-3 * (1 + 1e-5)
    unclipped = len(norms)
    make(clip_norm=None, net_params={"callbacks": [Norm()]}).fit(*data)
    assert max(norms[unclipped:]) > 0.01


def test_net_params_reach_skorch(data):
    momentum = {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9}
    clf = make(net_params=momentum, lr=0.1)
    assert clf.fit(*data).score(*data) > 0.5
    frozen = make(net_params={"optimizer": torch.optim.SGD}, lr=1e-30)
    shorter = make(net_params={"optimizer": torch.optim.SGD}, lr=1e-30, max_epochs=1)
    a, b = state(frozen.fit(*data)), state(shorter.fit(*data))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_rates():
    settings = TrainingSettings(0.1, max_epochs=4, batch_size=1, lr_schedule="cosine")
    rates = [settings.rate(e) for e in range(5)]
    np.testing.assert_allclose(rates, [0.1, 0.0853553, 0.05, 0.0146447, 0], atol=1e-7)
    constant = TrainingSettings(0.1, max_epochs=4, batch_size=1)
    assert {constant.rate(e) for e in range(5)} == {0.1}


# ------------------------------------------------------------------ early stopping
def test_best_weights_are_copies():
    network = torch.nn.Linear(2, 2)
    record = TrainingRecord()
    record.note_validation(1.0, network)
    best = network.weight.detach().clone()
    with torch.no_grad():
        network.weight.add_(1.0)
    record.note_validation(2.0, network)
    assert torch.equal(record.best_state["weight"], best)
    assert record.best_epoch == 1


def test_early_stopping_restores_the_best_epoch(data):
    """Noise labels: the held-out loss rises while the training loss falls."""
    X, _ = data
    y = np.random.default_rng(0).integers(0, 2, len(X))
    options = {"early_stopping": True, "lr": 0.02, "lr_schedule": "constant"}
    clf = make(max_epochs=100, n_iter_no_change=5, **options).fit(X, y)
    curve = clf.validation_loss_curve_
    best = int(np.argmin(curve)) + 1
    assert clf.n_iter_ == len(curve) == best + 5 < 100
    alone = make(max_epochs=best, n_iter_no_change=100, **options).fit(X, y)
    assert np.array_equal(state(clf), state(alone))


def test_held_out_rows_keep_class_proportions(data):
    y = data[1]
    clf = make(early_stopping=True, validation_fraction=0.25)
    clf._split_seed = 0
    training, held_out = clf._split(len(y), codes=y)
    assert np.bincount(y[held_out]).tolist() == [10, 10, 10]
    assert sorted([*training, *held_out]) == list(range(120))
    rare = np.r_[np.zeros(119, int), 1]
    assert len(clf.set_params(validation_fraction=0.1)._split(120, codes=rare)[1]) == 12


# ------------------------------------------------------------------ going on
def test_partial_fit_learns_and_keeps_its_optimiser(data):
    X, y = data
    X = np.where(np.isnan(X), 0, X)
    clf = make(lr=5e-3)
    for _ in range(15):
        clf.partial_fit(X[:60], y[:60], classes=[0, 1, 2])
        clf.partial_fit(X[60:], y[60:])
    assert clf.n_iter_ == 30
    assert clf.score(X, y) > 0.8
    assert clf._optimizer_state["state"][0]["step"] == 60


def test_partial_fit_in_full_batch_equals_epochs_of_fit(data):
    X, y = data
    options = {"batch_size": 200, "lr_schedule": "constant"}
    whole = make(max_epochs=3, **options).fit(X, y)
    parts = make(**options)
    for _ in range(3):
        parts.partial_fit(X, y, classes=[0, 1, 2])
    np.testing.assert_allclose(state(whole), state(parts), atol=1e-12)
    assert whole.loss_curve_ == pytest.approx(parts.loss_curve_, abs=1e-12)


def test_partial_fit_knows_classes_it_has_not_seen(data):
    X, y = data
    rows = y < 2
    clf = make().partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    assert clf.predict_proba(X).shape == (120, 3)
    with pytest.raises(ValueError, match=r"y: expected labels among the classes"):
        clf.partial_fit(X, y + 1)


def test_partial_fit_with_a_modality_missing_from_a_part(data):
    X, y = data
    clf = make().partial_fit(X, y, classes=np.unique(y))
    part = X[:20].copy()
    part[:, :3] = np.nan
    kept = clf.log_partition_[0].copy()
    clf.partial_fit(part, y[:20])
    assert np.array_equal(clf.log_partition_[0], kept)
    assert np.isfinite(clf.predict_proba(X)).all()


@pytest.mark.parametrize("fusion", ["additive", "mlp"])
def test_a_part_without_a_modality_keeps_what_was_known(data, fusion):
    X, y = data
    clf = make(fusion=fusion, n_draws=8).partial_fit(X, y, classes=[0, 1, 2])
    names = ["modality_information_", "_embedding_means"]
    names += ["_bank"] if fusion == "mlp" else ["log_partition_"]
    before = {name: getattr(clf, name)[0].copy() for name in names}
    part = X[:30].copy()
    part[:, :3] = np.nan
    clf.partial_fit(part, y[:30])
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(clf, name)[0], value)
    assert np.isfinite(clf.predict_proba(X)).all()
    assert np.isfinite(clf.transform(X)).all()
    assert np.isfinite(clf.total_correlation(part, y[:30]))


@pytest.mark.parametrize("fusion", ["additive", "mlp"])
def test_class_frequencies_are_those_of_all_parts(data, fusion):
    X, y = data
    order = np.argsort(y, kind="stable")
    clf = make(fusion=fusion, loss="cross_entropy")
    for part in np.split(order, [30, 90]):
        clf.partial_fit(X[part], y[part], classes=[0, 1, 2])
    np.testing.assert_allclose(clf.class_prior_, [1 / 3] * 3)


def test_warm_start_goes_on(data):
    clf = make(warm_start=True).fit(*data)
    first = state(clf)
    clf.fit(*data)
    assert clf.n_iter_ == 8
    assert not np.array_equal(first, state(clf))
    cold = make().fit(*data).fit(*data)
    assert cold.n_iter_ == 4
    assert np.array_equal(first, state(cold))


def test_decay_and_rate_are_those_of_the_training_at_hand(data):
    seen = []

    class Groups(Callback):
        def on_batch_end(self, net, training=False, **kwargs):
            group = net.optimizer_.param_groups[0]
            seen.append((group["weight_decay"], group["lr"]))

    X, y = data
    clf = make(weight_decay=4.0, net_params={"callbacks": [Groups()]})
    clf.partial_fit(X[:32], y[:32], classes=[0, 1, 2])
    clf.set_params(lr=1e-4).partial_fit(X, y)
    assert seen[0] == (4.0, 0.01)
    assert seen[1:] == [(1.0, 1e-4)] * 4


def test_moments_take_the_memory_format_of_their_parameters():
    """Fused kernels walk both by address, and would pair the wrong entries."""
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    parameter = torch.nn.Parameter(weight)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = to_tensors(to_arrays(optimizer.state_dict()))
    before = {k: v.clone() for k, v in optimizer.state[parameter].items()}
    _load_moments(optimizer, state)
    for name, value in optimizer.state[parameter].items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
        assert value.stride() == before[name].stride()


def test_held_out_rows_stay_held_out_when_training_goes_on(data, monkeypatch):
    splits = []
    split = TCMaxClassifier._split

    def watched(*args):
        splits.append(split(*args))
        return splits[-1]

    monkeypatch.setattr(TCMaxClassifier, "_split", watched)
    for seed in (0, None):
        splits.clear()
        clf = make(warm_start=True, early_stopping=True, random_state=seed)
        clf.fit(*data).fit(*data)
        assert np.array_equal(splits[0][1], splits[1][1])
        assert len(clf.validation_loss_curve_) == clf.n_iter_ == 8


def test_a_refit_of_another_kind_leaves_nothing_of_the_old_one(data):
    clf = make(early_stopping=True).fit(*data)
    clf.set_params(early_stopping=False, fusion="mlp").fit(*data)
    for name in ("validation_loss_curve_", "log_partition_", "class_offset_"):
        assert not hasattr(clf, name)


def test_class_weights_of_classes_that_a_part_lacks(data):
    X, y = data
    rows = y < 2
    clf = make(class_weight={0: 2, 2: 3})
    clf.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    np.testing.assert_allclose(clf.class_prior_, [2 / 3, 1 / 3, 0])


@pytest.mark.parametrize("size", [1e-60, 1e-12, 1e12, 1e60])
def test_only_ratios_of_weights_matter(data, size):
    X, y = data[0].astype(np.float32), data[1]
    plain = make().fit(X, y, sample_weight=np.ones(120))
    scaled = make().fit(X, y, sample_weight=np.full(120, size))
    np.testing.assert_allclose(state(plain), state(scaled), atol=1e-5)
    mixed = np.where(np.arange(120) % 2, 1.0, 1e-60)
    assert np.isfinite(make(batch_size=4).fit(X, y, mixed).predict_proba(X)).all()


# ---------------------------------------------------------- scikit-learn callbacks
class CountEpochs:
    """A user's callback that is told of every epoch, however deep."""

    max_propagation_depth = None

    def __init__(self):
        self.epochs = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.epochs += context.task_name == "epoch"


class StopAfter(CountEpochs):
    """Ends training after some epochs."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def on_fit_task_end(self, estimator, context):
        super().on_fit_task_end(estimator, context)
        return self.epochs >= self.limit


def test_a_callback_can_stop_training(data):
    clf = make(max_epochs=50).set_callbacks(StopAfter(3)).fit(*data)
    assert clf.n_iter_ == 3
    assert clf.predict(data[0]).shape == (120,)


def test_scoring_monitor_scores_each_epoch(data):
    monitor = ScoringMonitor(scoring="accuracy")
    clf = make().set_callbacks(monitor).fit(*data)
    scores = [row["accuracy"] for row in monitor.get_logs().data]
    assert len(scores) == 5  # four epochs and the whole fit
    assert len(set(scores)) > 1
    assert scores[-1] == pytest.approx(clf.score(*data))


def test_progress_bar_shows_epochs_in_a_pipeline_in_a_search(data, capsys):
    pipeline = make_pipeline(StandardScaler(), make(max_epochs=3))
    search = GridSearchCV(pipeline, {"tcmaxclassifier__lr": [1e-3, 1e-2]}, cv=2)
    counter = CountEpochs()
    search.set_callbacks(ProgressBar(max_propagation_depth=None), counter)
    search.fit(*data)
    shown = capsys.readouterr().out
    assert "GridSearchCV" in shown
    assert "TCMaxClassifier" in shown
    # Two candidates in two folds, and the refit: five fits of three epochs.
    assert counter.epochs == 15


def test_callbacks_do_not_change_the_fit(data):
    plain = make().fit(*data)
    watched = make().set_callbacks(ScoringMonitor(scoring="accuracy")).fit(*data)
    assert np.array_equal(state(plain), state(watched))


# ------------------------------------------------------------------ checkpoints
KILLED = """
import os, sys
import numpy as np, torch
torch.set_num_threads(1)
from sklearn.datasets import make_blobs
from skorch.callbacks import Callback
from skmm import TCMaxClassifier

class Kill(Callback):
    def on_batch_end(self, net, training=False, **kwargs):
        if len(net.history) == 4:
            os._exit(9)

X, y = make_blobs(120, n_features=6, centers=3, cluster_std=3.0, random_state=0)
X[::5, :3] = np.nan
TCMaxClassifier([3, 3], max_epochs=8, batch_size=32, random_state=0, dropout=0.2,
    early_stopping=True, checkpoint_dir=sys.argv[1]).set_params(
    net_params={"callbacks": [Kill()]}).fit(X, y)
"""


def test_a_killed_fit_is_taken_up_with_the_same_result(data, tmp_path, monkeypatch):
    # What identifies the run must not hold the killing callback.
    script = textwrap.dedent(KILLED).replace(
        "from skmm import TCMaxClassifier",
        "from skmm import TCMaxClassifier\nimport skmm.estimators._gradient as g\n"
        "g.NOT_IN_FINGERPRINT += ('net_params',)",
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=False, env=os.environ
    )
    assert done.returncode == 9
    assert len(list(tmp_path.glob("skmm-*.pt"))) == 1

    monkeypatch.setattr(
        "skmm.estimators._gradient.NOT_IN_FINGERPRINT",
        (*NOT_IN_FINGERPRINT, "net_params"),
    )
    epochs = []

    class Count(Callback):
        def on_epoch_end(self, net, **kwargs):
            epochs.append(1)

    options = {"max_epochs": 8, "dropout": 0.2, "early_stopping": True}
    resumed = make(
        checkpoint_dir=tmp_path, net_params={"callbacks": [Count()]}, **options
    ).fit(*data)
    whole = make(**options).fit(*data)
    assert len(epochs) == 5  # three were done before the kill
    assert np.array_equal(state(resumed), state(whole))
    assert resumed.loss_curve_ == whole.loss_curve_
    assert resumed.validation_loss_curve_ == whole.validation_loss_curve_
    assert not list(tmp_path.iterdir())


class Fail(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 3:
            raise RuntimeError("stop here")


def test_other_data_or_parameters_do_not_take_up_a_run(data, tmp_path):
    X, y = data
    failing = make(checkpoint_dir=tmp_path, net_params={"callbacks": [Fail()]})
    with pytest.raises(RuntimeError, match="stop here"):
        failing.fit(X, y)
    (left,) = tmp_path.iterdir()
    for other, labels in ((make(lr=0.5), y), (make(), np.roll(y, 1))):
        other.set_params(checkpoint_dir=tmp_path).fit(X, labels)
        assert other.n_iter_ == 4
        plain = make(lr=other.lr).fit(X, labels)
        assert np.array_equal(state(plain), state(other))
    assert list(tmp_path.iterdir()) == [left]


def test_numpy_scalars_in_a_run_that_is_taken_up(data, tmp_path):
    options = {"lr": np.float64(0.01), "weight_decay": np.float32(2.0)}
    callbacks = {"callbacks": [Fail()], "optimizer__eps": np.float64(1e-7)}
    failing = make(checkpoint_dir=tmp_path, net_params=callbacks, **options)
    with pytest.raises(RuntimeError, match="stop here"):
        failing.fit(*data)
    # Two epochs were saved, and the callback fails in the third of a process.
    assert failing.fit(*data).n_iter_ == 4
    assert not list(tmp_path.iterdir())


def test_a_warm_start_takes_up_its_own_run_only(data, tmp_path):
    """The file of a second fit is not taken up by a first one."""
    second = make(warm_start=True).fit(*data)
    second.set_params(checkpoint_dir=tmp_path, net_params={"callbacks": [Fail()]})
    with pytest.raises(RuntimeError, match="stop here"):
        second.fit(*data)
    first = make(
        warm_start=True, checkpoint_dir=tmp_path, net_params={"callbacks": []}
    ).fit(*data)
    assert np.array_equal(state(first), state(make().fit(*data)))


def test_fingerprints():
    base = {"a": np.arange(3.0), "b": (1, "x")}
    assert fingerprint(base) == fingerprint(dict(reversed(base.items())))
    changed = [
        base | {"a": np.arange(3)},
        base | {"a": np.arange(3.0)[::-1]},
        base | {"b": (1, "y")},
        base | {"c": 0},
    ]
    assert len({fingerprint(p) for p in [base, *changed]}) == 5


def test_a_checkpoint_runs_no_code(tmp_path, data):
    import pickle

    from skmm.fitting.checkpoint import Checkpoint

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    checkpoint = Checkpoint(tmp_path, "x")
    torch.save({"module": Evil()}, checkpoint.path)
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.restore(type("Net", (), {"device": "cpu"})(), None)
    assert not (tmp_path / "evil").exists()


def test_bf16_trains(data):
    X = data[0].astype(np.float32)
    clf = make(max_epochs=30, precision="bf16", lr=5e-3).fit(X, data[1])
    assert {v.dtype for v in clf._network_state.values()} == {np.dtype(np.float32)}
    assert clf.score(X, data[1]) > 0.7
    full = make(max_epochs=30, lr=5e-3).fit(X, data[1])
    assert not np.array_equal(state(clf), state(full))


def test_verbose_prints_a_line_an_epoch(data, capsys):
    make(verbose=1, early_stopping=True).fit(*data)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("epoch 1/4, loss ")
    assert "validation loss" in lines[0]
    make().fit(*data)
    assert capsys.readouterr().out == ""


@pytest.mark.gpu
def test_gpu_fit_is_close_and_opens_on_the_cpu(data):
    X, y = data
    gpu = make(device="cuda").fit(X, y)
    cpu = make(device="cpu").fit(X, y)
    np.testing.assert_allclose(state(gpu), state(cpu), atol=1e-6)
    gpu.set_params(device="cpu")
    np.testing.assert_allclose(gpu.predict_proba(X), cpu.predict_proba(X), atol=1e-6)
