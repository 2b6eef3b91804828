"""The benchmarks' protocol: folds that never change, peers that run, verdicts."""

import hashlib
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("benchmarks/ is not in this copy", allow_module_level=True)


@pytest.fixture(scope="module")
def bench():
    """The modules of benchmarks/, which are scripts that import one another."""
    names = ("protocol", "peers", "accuracy")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        modules = {name: importlib.import_module(name) for name in names}
    yield type("Bench", (), modules)
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("mfeat3", "463b42141a956c36"),
        ("mfeat6", "463b42141a956c36"),
        ("digits_pen", "bc9a04b8d839e794"),
    ],
)
def test_folds_never_change(bench, name, expected):
    pairs = bench.protocol.folds(bench.protocol.load(name))
    rows = b"".join(part.astype("<i8").tobytes() for pair in pairs for part in pair)
    assert hashlib.sha256(rows).hexdigest()[:16] == expected


def test_gaps_are_in_training_and_test_rows(bench):
    problem = bench.protocol.mfeat3()
    gaps = bench.protocol.with_gaps(problem, 0.3, seed=0)
    assert not np.isnan(problem.X).any()
    for train, test in bench.protocol.folds(gaps):
        for rows in (train, test):
            blocks = [np.isnan(gaps.X[rows, c.start]) for c in gaps.modalities.values()]
            assert np.mean(blocks) == pytest.approx(0.3, abs=0.03)


def test_a_set_that_is_not_installed_says_what_to_install(bench, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(bench.protocol.DataMissing, match="--no-deps seglearn==1.2.5"):
        bench.protocol.watch()
    bench.accuracy.main(["--sets", "watch", "--estimator", "none"])
    assert "watch: left out, the package seglearn" in capsys.readouterr().out


def small_problem(bench, n_classes=3):
    rng = np.random.default_rng(0)
    y = np.arange(60) % n_classes
    X = rng.normal(size=(60, 6)) + 3 * np.eye(n_classes)[y][:, [0, 1, 2, 0, 1, 2]]
    modalities = {"a": slice(0, 3), "b": slice(3, 6)}
    return bench.protocol.Problem("watch", X, modalities, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "peer", ["lr", "lda", "qda", "svc", "mlp", "late_lr", "late_mlp", "hgb"]
)
def test_every_peer_takes_gaps(bench, peer):
    assert peer in bench.peers.PEERS
    gaps = bench.protocol.with_gaps(small_problem(bench), 0.4, seed=0)
    model = bench.peers.make_peer(peer, gaps)
    assert model.fit(gaps.X, gaps.y).score(gaps.X, gaps.y) > 0.7


def test_late_fusion_averages_what_a_row_has(bench):
    problem = small_problem(bench)
    X, y = problem.X.copy(), problem.y
    X[:10, 3:] = np.nan
    fused = bench.peers.make_peer("late_lr", problem).fit(X, y)
    scaled = fused.scaler_.transform(X)
    first = fused.estimators_["a"].predict_log_proba(scaled[:, :3])
    second = fused.estimators_["b"].predict_log_proba(scaled[10:, 3:])
    np.testing.assert_array_equal(fused.predict(X)[:10], first[:10].argmax(axis=1))
    both = (first[10:] + second).argmax(axis=1)
    np.testing.assert_array_equal(fused.predict(X)[10:], both)


def test_late_fusion_when_a_modality_lacks_a_class(bench):
    problem = small_problem(bench)
    X, y = problem.X.copy(), problem.y
    X[y == 2, 3:] = np.nan
    model = bench.peers.make_peer("late_lr", problem).fit(X, y)
    assert model.score(X, y) > 0.7


def test_the_named_best_are_peers(bench):
    for by_fraction in bench.peers.BEST_PEER.values():
        for names in by_fraction.values():
            assert set(names) <= set(bench.peers.PEERS)
    assert bench.peers.best_peers("watch", 0.25) == ("late_lr",)


@pytest.mark.parametrize(
    "differences, fraction, verdict, goal",
    [
        ([0.02, 0.03, 0.04], 0.3, "above", True),
        ([-0.03, 0.0, 0.04], 0.3, "level", False),
        ([-0.03, 0.0, 0.04], 0.0, "level", True),
        ([-0.02, -0.03, -0.04], 0.0, "below", False),
        ([0.0, 0.0, 0.0], 0.0, "level", True),
        ([0.01], 0.3, "above", True),
    ],
)
def test_verdicts(bench, differences, fraction, verdict, goal):
    ours = [0.9 + d for d in differences]
    result = bench.accuracy.compare(ours, [0.9] * len(ours), fraction)
    assert (result.verdict, result.goal) == (verdict, goal)


def test_table_and_cache(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(bench.accuracy.SETS, "watch", lambda: small_problem(bench))
    arguments = ["--sets", "watch", "--fractions", "0.3", "--seeds", "2"]
    arguments += ["--peers", "lda", "best", "--estimator", "none"]
    tables = []
    for _ in range(2):
        bench.accuracy.main([*arguments, "--cache", str(tmp_path)])
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    rows = [line.split() for line in tables[0].splitlines() if "30%" in line]
    assert [row[2] for row in rows] == ["lda", "late_lr"]
    assert len(list(tmp_path.iterdir())) == 4


def test_our_estimator_is_compared_on_the_same_folds(bench, monkeypatch, capsys):
    monkeypatch.setitem(bench.accuracy.SETS, "watch", lambda: small_problem(bench))

    def same_as_peer(problem, seed, params):
        assert params == {"alpha": 0.5, "mode": "x"}
        return bench.peers.make_peer("late_lr", problem, seed)

    monkeypatch.setitem(bench.accuracy.ESTIMATORS, "tcmax", same_as_peer)
    arguments = ["--sets", "watch", "--fractions", "0", "0.3", "--seeds", "2"]
    arguments += ["--peers", "late_lr", "--param", "alpha=0.5", "mode=x"]
    bench.accuracy.main(arguments)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if row[:1] == ["watch"]]
    assert [row[5:9] for row in rows] == [
        ["+0.0000", "0.0000", "level", "met"],
        ["+0.0000", "0.0000", "level", "missed"],
    ]
