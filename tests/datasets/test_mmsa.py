"""Feature files of MMSA: what is read, what is padding, and that nothing is run."""

import codecs
import copyreg
import io
import os
import pickle
import struct

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skmm.datasets import load_mmsa
from skmm.datasets._inert_pickle import _Unpickler
from skmm.modalities import resolve_modalities, time_steps_observed

SIZES = {"train": 5, "valid": 2, "test": 3}
SHAPES = {"text": (4, 6), "audio": (7, 3), "vision": (5, 2)}
PROTOCOLS = (2, 3, 4, 5)


def make_part(seed, n, lengths=True):
    """One split, sequences of 1 to T steps and zeros after them."""
    rng = np.random.default_rng(seed)
    part = {
        "id": [f"clip{seed}$_${i}" for i in range(n)],
        "raw_text": np.array([f"你好 {i}" for i in range(n)]),
        "annotations": ["Negative", "Neutral", "Positive"][:n] + ["Neutral"] * (n - 3),
        "regression_labels": rng.integers(-3, 4, size=n).astype(np.float32),
        "classification_labels": rng.integers(0, 3, size=n).astype(float),
        "regression_labels_A": rng.integers(-3, 4, size=n).astype(np.float32),
        "text_bert": rng.integers(0, 2, size=(n, 3, 4)),
    }
    for name, (T, D) in SHAPES.items():
        values = rng.normal(size=(n, T, D))
        steps = rng.integers(1, T + 1, size=n)
        values[np.arange(T) >= steps[:, None]] = 0
        part[name] = values.astype(np.float32 if name == "text" else np.float64)
        if lengths and name != "text":
            part[f"{name}_lengths"] = steps.tolist()
    return part


def make_content(**options):
    return {
        part: make_part(seed, n, **options)
        for seed, (part, n) in enumerate(SIZES.items())
    }


@pytest.fixture
def save(tmp_path):
    """Write an object, or bytes as they are; return the path."""

    def write(content, protocol=4):
        path = tmp_path / "features.pkl"
        raw = isinstance(content, bytes)
        path.write_bytes(content if raw else pickle.dumps(content, protocol=protocol))
        return path

    return write


def true_steps(content, name):
    """Last step that is not zero, of all splits below each other."""
    values = np.concatenate([part[name] for part in content.values()])
    return [
        max((t + 1 for t in range(len(v)) if v[t].any()), default=0) for v in values
    ]


# ------------------------------------------------------------------------ values
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_values(save, protocol):
    content = make_content()
    clips = load_mmsa(save(content, protocol), dtype=np.float64)
    assert list(clips.modalities) == list(SHAPES)
    assert clips.data.shape == (10, 24 + 21 + 10) and clips.data.dtype == np.float64
    for name, modality in clips.modalities.items():
        values = np.concatenate([part[name] for part in content.values()])
        block = clips.data[:, modality.columns].reshape(-1, *SHAPES[name])
        steps = true_steps(content, name)
        assert modality.shape == SHAPES[name]
        assert_array_equal(clips.n_steps[name], steps)
        padded = np.arange(SHAPES[name][0]) >= np.array(steps)[:, None]
        assert np.isnan(block[padded]).all()
        assert_array_equal(block[~padded], values[~padded])
        # What the estimators will see.
        assert_array_equal(time_steps_observed(block), ~padded)
    assert_array_equal(clips.split, ["train"] * 5 + ["valid"] * 2 + ["test"] * 3)
    labels = np.concatenate([part["regression_labels"] for part in content.values()])
    assert_array_equal(clips.target, labels)
    assert clips.target.dtype == np.float32
    assert clips.n_replaced == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_further_fields(save, protocol):
    content = make_content()
    clips = load_mmsa(save(content, protocol))
    for ours, name in (
        ("ids", "id"),
        ("raw_text", "raw_text"),
        ("annotations", "annotations"),
        ("regression_labels", "regression_labels"),
        ("classification_labels", "classification_labels"),
        ("regression_labels_A", "regression_labels_A"),
    ):
        expected = np.concatenate([part[name] for part in content.values()])
        assert_array_equal(clips[ours], expected)
    assert clips.raw_text[1] == "你好 1" and type(clips.raw_text[1]) is str
    assert "regression_labels_T" not in clips and "MOSEI" in clips.DESCR


def test_splits(save):
    path = save(make_content())
    whole = load_mmsa(path)
    for split, n in SIZES.items():
        part = load_mmsa(path, split=split)
        assert len(part.data) == n and set(part.split) == {split}
        rows = whole.split == split
        assert_array_equal(part.data, whole.data[rows])
        assert_array_equal(part.ids, whole.ids[rows])


def test_a_file_with_some_of_the_splits(save):
    content = make_content()
    del content["valid"]
    path = save(content)
    assert_array_equal(np.unique(load_mmsa(path).split), ["test", "train"])
    with pytest.raises(ValueError, match=r"\['train', 'test'\], got 'valid'\. Use"):
        load_mmsa(path, split="valid")


def test_modalities_are_picked_and_ordered(save):
    path = save(make_content())
    whole = load_mmsa(path)
    some = load_mmsa(path, modalities=["vision", "text"])
    assert list(some.modalities) == ["vision", "text"] == list(some.n_steps)
    for name, modality in some.modalities.items():
        assert_array_equal(
            some.data[:, modality.columns],
            whole.data[:, whole.modalities[name].columns],
        )


def test_modalities_and_names_agree(save):
    import pandas as pd

    clips = load_mmsa(save(make_content()))
    layout = resolve_modalities(clips.modalities, clips.data)
    assert {block.name: block.shape for block in layout} == SHAPES
    frame = pd.DataFrame(clips.data, columns=clips.feature_names)
    auto = resolve_modalities("auto", frame)
    for given, read in zip(layout, auto, strict=True):
        assert given.name == read.name
        assert_array_equal(given.indices, read.indices)
    assert clips.feature_names[24 + 3 * 2 + 1] == "audio__2_1"


def test_return_X_y_and_dtype(save):
    path = save(make_content())
    clips = load_mmsa(path)
    X, y = load_mmsa(path, return_X_y=True)
    assert X.dtype == np.float32
    assert_array_equal(X, clips.data)
    assert_array_equal(y, clips.target)
    double = load_mmsa(path, dtype="float64").data
    assert_array_equal(X, double.astype(np.float32))


def test_chunks_change_nothing(save, monkeypatch):
    path = save(make_content())
    whole = load_mmsa(path).data
    monkeypatch.setattr("skmm.datasets._mmsa.CHUNK_CELLS", 30)
    assert_array_equal(load_mmsa(path).data, whole)


@pytest.mark.parametrize("target", ["regression_labels_A", "classification_labels"])
def test_other_targets(save, target):
    content = make_content()
    clips = load_mmsa(save(content), target=target)
    expected = np.concatenate([part[target] for part in content.values()])
    assert_array_equal(clips.target, expected)


def test_target_of_words(save):
    y = load_mmsa(save(make_content()), target="annotations", return_X_y=True)[1]
    assert set(y) == {"Negative", "Neutral", "Positive"}


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y.tolist(),
        lambda y: y[:, None],
        lambda y: list(y),
        lambda y: list(y[:, None]),
        lambda y: y.astype(object),
        lambda y: y.astype(">f4"),
        lambda y: tuple(y.tolist()),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_forms_of_labels(save, form, protocol):
    content = make_content()
    expected = load_mmsa(save(content)).target
    for part in content.values():
        part["regression_labels"] = form(part["regression_labels"])
    found = load_mmsa(save(content, protocol)).target
    assert_array_equal(found, expected)
    assert found.dtype.kind == "f" and found.dtype.isnative


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_layouts_of_arrays(save, protocol):
    content = make_content()
    expected = load_mmsa(save(content)).data
    for part in content.values():
        part["text"] = np.asfortranarray(part["text"])
        part["audio"] = part["audio"].astype(">f8")
        part["vision"] = part["vision"].transpose(1, 0, 2).copy().transpose(1, 0, 2)
    assert_array_equal(load_mmsa(save(content, protocol)).data, expected)


def test_splits_that_share_an_array(save):
    part = make_part(0, 4)
    clips = load_mmsa(save(dict.fromkeys(SIZES, part)))
    assert_array_equal(clips.data[:4], clips.data[8:])


def test_vectors(save):
    content = make_content()
    for part in content.values():
        part["audio"] = part["audio"].mean(axis=1)
        part["audio"][0] = 0
        del part["audio_lengths"]
    clips = load_mmsa(save(content))
    assert clips.modalities["audio"].shape == (3,) and "audio" not in clips.n_steps
    # Zeros of a vector are values.
    audio = clips.data[:, clips.modalities["audio"].columns]
    assert not np.isnan(audio).any() and (audio[[0, 5, 7]] == 0).all()


# ----------------------------------------------------------------------- padding
def one_clip(audio, **fields):
    return {
        "train": {
            "audio": np.array([audio], dtype=float),
            "regression_labels": np.array([1.0]),
            **fields,
        }
    }


def load_audio(path, **options):
    clips = load_mmsa(path, modalities=["audio"], **options)
    return clips.data[0].tolist(), int(clips.n_steps["audio"][0]), clips.n_replaced


NAN = pytest.approx(np.nan, nan_ok=True)


@pytest.mark.parametrize(
    "audio, length, expected, n_steps",
    [
        # Zeros within the length stay, also where all are.
        ([[1], [0], [0]], 2, [1, 0, NAN], 2),
        ([[0], [0], [0]], 2, [0, 0, NAN], 2),
        # Without a length they do not; at the beginning and in the middle they do.
        ([[1], [0], [0]], None, [1, NAN, NAN], 1),
        ([[0], [1], [0]], None, [0, 1, NAN], 2),
        ([[1], [0], [1]], None, [1, 0, 1], 3),
        # Nothing left: a missing modality.
        ([[0], [0], [0]], None, [NAN, NAN, NAN], 0),
        ([[0], [0], [0]], 0, [NAN, NAN, NAN], 0),
        # Values beyond the length are values; a length beyond the array is its end.
        ([[1], [2], [0]], 1, [1, 2, NAN], 2),
        ([[1], [0], [0]], 9, [1, 0, 0], 3),
        # What was NaN is no value.
        ([[1], [0], [np.nan]], None, [1, NAN, NAN], 1),
        ([[1], [np.nan], [2]], None, [1, NAN, 2], 3),
    ],
)
def test_padding(save, audio, length, expected, n_steps):
    fields = {} if length is None else {"audio_lengths": [length]}
    assert load_audio(save(one_clip(audio, **fields))) == (expected, n_steps, 0)


def test_choices_of_padding(save):
    path = save(one_clip([[1], [0], [0]], audio_lengths=[2]))
    assert load_audio(path, padding="zeros") == ([1, NAN, NAN], 1, 0)
    assert load_audio(path, padding="none") == ([1, 0, 0], 3, 0)
    # Wrong lengths are not read.
    path = save(one_clip([[1], [0], [0]], audio_lengths=[2, 2]))
    assert load_audio(path, padding="zeros") == ([1, NAN, NAN], 1, 0)


def test_minus_infinity_of_audio_becomes_zero(save):
    audio = [[-np.inf, 1], [2, -np.inf], [-np.inf, -np.inf]]
    path = save(one_clip(audio, audio_lengths=[3]))
    assert load_audio(path) == ([0, 1, 2, 0, 0, 0], 3, 4)
    # Zeros at the end are padding then.
    assert load_audio(path, padding="zeros") == ([0, 1, 2, 0, NAN, NAN], 2, 4)
    # What float32 cannot hold is infinite as well.
    path = save(one_clip([[-1e300], [1.0]]))
    assert load_audio(path) == ([0, 1], 2, 1)
    assert load_audio(path, dtype=np.float64) == ([-1e300, 1], 2, 0)


def test_other_infinities_stay(save):
    path = save(one_clip([[np.inf], [1.0]], vision=np.full((1, 2, 1), -np.inf)))
    clips = load_mmsa(path, modalities=["audio", "vision"])
    assert_array_equal(clips.data, [[np.inf, 1, -np.inf, -np.inf]])
    assert clips.n_replaced == 0


# ------------------------------------------------- files of other Pythons and NumPys
@pytest.mark.parametrize("protocol", [2, 3])
def test_names_of_both_numpys(save, protocol):
    content = make_content()
    expected = load_mmsa(save(content))
    raw = pickle.dumps(content, protocol=protocol)
    for new, old in (
        (b"numpy._core.", b"numpy.core."),
        (b"numpy.core.", b"numpy._core."),
    ):
        renamed = raw.replace(
            b"c" + new + b"multiarray\n", b"c" + old + b"multiarray\n"
        )
        found = load_mmsa(save(renamed))
        assert_array_equal(found.data, expected.data)
        assert_array_equal(found.raw_text, expected.raw_text)


def python2_string(value):
    return b"T" + struct.pack("<i", len(value)) + value


def python2_array(values):
    """As Python 2 and NumPy 1 write it with protocol 2."""
    shape = b"(" + b"".join(b"K" + bytes([n]) for n in values.shape) + b"t"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t"
        + python2_string(b"b")
        + b"tR(K\x01"
        + shape
        + b"cnumpy\ndtype\n("
        + python2_string(values.dtype.str[1:].encode())
        + b"K\x00K\x01tR(K\x03"
        + python2_string(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + python2_string(values.tobytes())
        + b"tb"
    )


def test_python_2(save):
    rng = np.random.default_rng(0)
    audio, labels = rng.normal(size=(2, 3, 4)), rng.normal(size=2).astype("f4")
    texts = ["你好", "plain"]
    raw = (
        b"\x80\x02}"
        + python2_string(b"train")
        + b"}("
        + python2_string(b"audio")
        + python2_array(audio)
        + python2_string(b"regression_labels")
        + python2_array(labels)
        + python2_string(b"raw_text")
        + b"]("
        + b"".join(python2_string(text.encode()) for text in texts)
        + b"eus."
    )
    clips = load_mmsa(save(raw), modalities=["audio"], dtype=float)
    assert_array_equal(clips.data, audio.reshape(2, 12))
    assert_array_equal(clips.target, labels)
    assert clips.raw_text.tolist() == texts


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_plain_things_are_read(save, protocol):
    extra = {
        "nothing": [None, True, 2**80, 1.5, 1j, b"", b"\xff", bytearray(b"ab")],
        "sets": ({1}, frozenset({2})),
        "scalars": [np.float32(0.5), np.int64(3), np.bool_(True), np.str_("ab")],
        "objects": np.array(["a", None, 1.0, b"b"], dtype=object),
        "columns": np.asfortranarray(
            [["a", "b"], ["c", "d"], ["e", "f"]], dtype=object
        ),
        "swapped": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
        "empty": [np.zeros((0, 3)), np.zeros(0, dtype=object), bytearray()],
        "flags": np.array([True, False]),
        "bytes": np.array([b"ab", b"c"]),
        "single": np.array(3.0),
    }
    content = make_content()
    content["train"].update(extra)
    assert len(load_mmsa(save(content, protocol)).data) == 10
    read = _Unpickler(
        io.BytesIO(pickle.dumps(extra, protocol)), encoding="bytes"
    ).load()
    for name in ("nothing", "sets", "scalars"):
        assert read[name] == extra[name]
    for name in ("objects", "columns", "swapped", "flags", "bytes", "single"):
        assert_array_equal(read[name].values, extra[name])
        assert read[name].values.dtype == extra[name].dtype
    assert read["empty"][0].values.shape == (0, 3)


def test_bytes_as_older_pythons_write_them():
    text = "a\u00ff".encode()
    raw = b"\x80\x02c__builtin__\nbytearray\nX\x03\x00\x00\x00" + text
    raw += b"X\x07\x00\x00\x00latin-1\x86R."
    assert _Unpickler(io.BytesIO(raw), encoding="bytes").load() == bytearray(b"a\xff")


# ------------------------------------------------------------------ hostile files
class Call:
    """Pickles as a call of a function with arguments, then perhaps a state."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def nest(payload, where):
    content = make_content()
    part = content["train"]
    if where == "top":
        return payload
    if where == "field":
        part["extra"] = payload
    elif where == "list":
        part["id"][2] = payload
    elif where == "object array":
        part["raw_text"] = np.array([payload, *"abcd"], dtype=object)
    elif where == "key":
        content = {"train": part, "more": {1: [payload]}}
    return content


def test_such_files_would_run(tmp_path):
    pickle.loads(pickle.dumps(nest(Call(os.mkdir, str(tmp_path / "trace")), "list")))
    assert (tmp_path / "trace").is_dir()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("where", ["top", "field", "list", "object array", "key"])
def test_nothing_runs(save, tmp_path, protocol, where):
    trace = tmp_path / "trace"
    for function, arguments, text in (
        (os.system, (f"touch {trace}",), r"asks for \w+\.system"),
        (
            eval,
            (f"open({str(trace)!r}, 'w')",),
            r"asks for (builtins|__builtin__)\.eval",
        ),
        (os.mkdir, (str(trace),), r"asks for \w+\.mkdir"),
        (np.save, (str(trace), np.zeros(2)), r"asks for numpy\.save"),
        (
            np.ndarray.tofile,
            (np.zeros(2), str(trace)),
            r"asks for \w+\.getattr",
        ),
    ):
        content = nest(Call(function, *arguments), where)
        with pytest.raises(ValueError, match=text) as caught:
            load_mmsa(save(content, protocol))
        assert isinstance(caught.value, pickle.UnpicklingError)
        assert "Nothing of it was run" in str(caught.value)
        assert list(tmp_path.iterdir()) == [tmp_path / "features.pkl"]


@pytest.mark.parametrize(
    "module, name",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("builtins", "object"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy", "memmap"),
        ("numpy", "frompyfunc"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.type"),
        ("numpy", "f2py"),
        ("numpy.testing", "runstring"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy._core.multiarray", "fromfile"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"),
        ("numpy.core.numeric", "builtins.eval"),
        ("numpy._core.numeric", "_frombuffer.__globals__"),
        ("codecs", "open"),
        ("codecs", "decode"),
        ("_codecs", "lookup"),
        ("encodings", "codecs.builtins.eval"),
        ("copyreg", "_reconstructor"),
        ("copy_reg", "_reconstructor"),
        ("pickle", "loads"),
        ("skmm.datasets._mmsa", "_read"),
    ],
)
def test_names_are_refused(save, module, name):
    for raw in (
        b"\x80\x02c" + f"{module}\n{name}\n".encode() + b".",
        pickle.PROTO
        + b"\x04"
        + b"".join(
            b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)
        )
        + b"\x93.",
        b"(i" + f"{module}\n{name}\n".encode() + b".",
    ):
        with pytest.raises(ValueError, match=f"that asks for {module}.{name}. Nothing"):
            load_mmsa(save(raw))


def test_codecs_encode_is_latin1_only(save):
    for args in (
        ("abc", "rot13"),
        ("abc", "utf-7"),
        ("abc", "unicode_escape"),
        (b"abc", "zlib"),
        ("a", "latin1 "),
        ("a",),
        ("a", "latin1", "strict"),
    ):
        with pytest.raises(ValueError, match="latin1|cannot be read"):
            load_mmsa(save(Call(codecs.encode, *args)))


def test_extensions_are_looked_up(save):
    """Not even if the process has met the number before."""
    copyreg.add_extension("os", "system", 200)
    try:
        pickle.loads(b"\x80\x02\x82\xc8.")
        with pytest.raises(ValueError, match=r"asks for os\.system"):
            load_mmsa(save(b"\x80\x02\x82\xc8."))
    finally:
        copyreg.remove_extension("os", "system", 200)


def raw_dtype(descr, state):
    return Call(np.dtype, descr, False, True, state=state)


RECONSTRUCT = np.zeros(1).__reduce__()[0]
GOOD_STATE = (3, "<", None, None, None, -1, -1, 0)


@pytest.mark.parametrize(
    "dtype, text",
    [
        # Sizes and flags that numpy would believe are not read; content must fit.
        (raw_dtype("O8", (3, "|", None, None, None, -1, -1, 0)), "object arrays of"),
        (raw_dtype("V8", (3, "|", None, None, None, 8, 1, 0)), "type 'V8'"),
        (raw_dtype("f8", (3, "<", None, ("a",), {"a": 1}, -1, -1, 0)), "structured"),
        (raw_dtype("f8", (3, "<", ("f8", (2,)), None, None, 16, 1, 0)), "structured"),
        (raw_dtype("f8", (3, "?", None, None, None, -1, -1, 0)), "structured type"),
        (raw_dtype("f8, f8", GOOD_STATE), "type 'f8, f8'"),
        (raw_dtype("M8[ns]", GOOD_STATE), "type 'M8"),
        (raw_dtype("U99999999", GOOD_STATE), "type 'U9999"),
        (raw_dtype("f8", ()), "IndexError"),
        (raw_dtype("f8", None), None),
    ],
)
def test_types_that_would_lie(save, dtype, text):
    state = (1, (1,), dtype, False, np.array([1.5]).tobytes())
    array = Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)
    content = make_content()
    content["train"]["extra"] = array
    if text is None:
        assert len(load_mmsa(save(content)).data) == 10
        return
    with pytest.raises(ValueError, match=text):
        load_mmsa(save(content))


@pytest.mark.parametrize(
    "state, text",
    [
        # Longer than its content, which numpy would read beyond.
        ((1, (9,), np.dtype("f8"), False, bytes(8)), "8 bytes for an array of"),
        ((1, (9,), np.dtype("O"), False, ["a"]), "object arrays of text"),
        ((1, (-1, -1), np.dtype("f8"), False, bytes(8)), "cannot be read"),
        ((1, (2**62, 4), np.dtype("f8"), False, b""), "bytes for an array of"),
        ((1, (1,), np.dtype("O"), False, bytes(8)), "object arrays of text"),
        ((1, (1,), np.dtype("O"), False, [[1]]), "object arrays of text"),
        ((1, (1,), np.dtype("f8"), False, [1.0]), "TypeError: a list for the bytes"),
        ((1, (1,), "f8", False, bytes(8)), "AttributeError"),
        ((1, 1, np.dtype("f8"), False, bytes(8)), "TypeError"),
        ((1, (1,)), "ValueError"),
        ({"values": 1}, "cannot be read"),
    ],
)
def test_arrays_that_would_lie(save, state, text):
    array = Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)
    content = make_content()
    content["train"]["extra"] = array
    with pytest.raises(ValueError, match=text):
        load_mmsa(save(content))


@pytest.mark.parametrize(
    "raw, text",
    [
        # A state for a function, which pickle would set as attributes.
        (
            b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__Ns\x86b.",
            "that changes functions",
        ),
        (b"\x80\x02cnumpy\ndtype\n}U\x01aNsb.", "that changes functions"),
        (b"\x80\x02cnumpy\nndarray\n}U\x01aNsb.", "cannot be read"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "TypeError"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "cannot be read"),
        (b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "empty bytes"),
        (b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "TypeError"),
        (b"\x80\x02U\x01aQ.", "persistent"),
        (b"\x80\x05\x97.", "cannot be read"),
        (b"", "EOFError"),
        (b"not a pickle", "UnpicklingError"),
        (b"\x80\x04N", "cannot be read"),
        (b"\x80\x7f.", "unsupported pickle protocol"),
    ],
)
def test_broken_and_odd_files(save, raw, text):
    with pytest.raises(ValueError, match=text):
        load_mmsa(save(raw))


def test_a_truncated_file(save):
    raw = pickle.dumps(make_content())
    with pytest.raises(ValueError, match="cannot be read as one .* Download it again"):
        load_mmsa(save(raw[: len(raw) // 2]))


# ------------------------------------------------------------------ what is refused
def changed(**fields):
    content = make_content()
    content["valid"].update(fields)
    return content


@pytest.mark.parametrize(
    "content, text",
    [
        ([1, 2], r"path: expected a dict of .* got a list in the file. Pass a feature"),
        ({"dev": {}}, r"path: expected a dict of .* got one of \['dev'\]. Pass"),
        ({"train": [1]}, r"path: expected a dict of .* got one of \['train'\]"),
        ({"train": {}}, r"target: .* of the split 'train', .* got 'regression_labels'"),
        (changed(text=np.zeros((2, 5, 6))), r"valid\['text'\]: .* \(4, 6\), .* one by"),
        (
            changed(text=np.zeros((3, 4, 6))),
            r"valid\['text'\]: expected 2 rows, .* 3\.",
        ),
        (changed(text=np.zeros(2)), r"valid\['text'\]: .* \(n, T, D\) .* shape \(2,\)"),
        (changed(text=[[1.0], [2.0]]), r"valid\['text'\]: .* got a list\. Choose"),
        (changed(text=np.array(["a", "b"])), r"valid\['text'\]: .* got the type <U1"),
        (changed(text=np.zeros((2, 0, 6))), r"valid\['text'\]: .* shape \(2, 0, 6\)"),
        (changed(audio_lengths=[1]), r"valid\['audio_lengths'\]: .* padding='zeros'"),
        (
            changed(audio_lengths=[1, -1]),
            r"_lengths'\]: expected numbers of time steps",
        ),
        (
            changed(audio_lengths=[1, 1.5]),
            r"_lengths'\]: expected numbers of time steps",
        ),
        (
            changed(audio_lengths=["a", "b"]),
            r"_lengths'\]: .* such as 'a'\. Use padding",
        ),
        (changed(id=["a"]), r"valid\['id'\]: expected 2 rows, .* got 1\. Check"),
        (changed(regression_labels=np.zeros((2, 3))), r"one value a row, .* \(2, 3\)"),
        (changed(regression_labels=5.0), r"an array or a list, got a float\. Check"),
        (changed(regression_labels=[[1.0], [1.0, 2.0]]), r"got lists that make no"),
        (changed(regression_labels=[{}, {}]), r"got dicts that make no"),
        (changed(regression_labels=[]), r"one value a row, got the shape \(0,\)"),
    ],
)
def test_refuses_files(save, content, text):
    with pytest.raises(ValueError, match=text):
        load_mmsa(save(content))


@pytest.mark.parametrize(
    "options, error, text",
    [
        (
            {"split": "dev"},
            ValueError,
            r"split: expected one of .* got 'dev'\. The file",
        ),
        ({"modalities": "text"}, TypeError, r"modalities: .* Pass \['text'\]"),
        ({"modalities": []}, ValueError, r"distinct names, got \[\]\. Choose from"),
        ({"modalities": ["text", "text"]}, ValueError, "modalities: .* distinct names"),
        ({"modalities": [1]}, ValueError, r"modalities: .* distinct names, got \[1\]"),
        (
            {"modalities": ["video"]},
            ValueError,
            r"\['text', 'audio', 'vision'\], got 'video'\. Choose from these",
        ),
        ({"modalities": ["text_bert"]}, ValueError, "numbers of tokens .* Use 'text'"),
        (
            {"target": "label"},
            ValueError,
            r"target: .* such as \['regression_labels', .* got 'label'\. Choose",
        ),
        ({"padding": "front"}, ValueError, r"padding: expected one of .* got 'front'"),
        ({"dtype": int}, ValueError, r"dtype: expected float32 or float64, got .* NaN"),
        (
            {"dtype": "real"},
            ValueError,
            r"dtype: expected float32 or float64, got 'real'",
        ),
    ],
)
def test_refuses_options(save, options, error, text):
    path = save(make_content())
    with pytest.raises(error, match=text):
        load_mmsa(path, **options)


def test_refuses_what_is_no_file(tmp_path):
    for path in (tmp_path / "none.pkl", str(tmp_path)):
        with pytest.raises(
            FileNotFoundError, match="path: expected a file, .* Download"
        ):
            load_mmsa(path)
