"""The parameter `modalities`, the layout made from it, and what is missing in X."""

import pickle
import tracemalloc
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.preprocessing import FunctionTransformer

from skmm.modalities import (
    Block,
    Layout,
    Modality,
    OneModalityWarning,
    check_likelihood,
    check_observed,
    check_rows_observed,
    observed_modalities,
    observed_weight,
    resolve_modalities,
    row_chunks,
    split_blocks,
    time_steps_observed,
    validate_input,
)

quick = settings(max_examples=60, deadline=None, derandomize=True)

X7 = np.arange(21.0).reshape(3, 7)
NAMES = ["rna__g0", "rna__g1", "atac__p0", "rna__g2__x"]
X4 = np.arange(8.0).reshape(2, 4)
FRAME = pd.DataFrame(X4, columns=NAMES)
LEVELS = pd.MultiIndex.from_tuples(
    [("rna", "g0"), ("atac", "p0"), ("rna", "g1"), ("atac", 7)]
)
TWO_LEVELS = pd.DataFrame(X4, columns=LEVELS)


def columns_of(modalities, X, **kwargs):
    layout = resolve_modalities(modalities, X, **kwargs)
    return {name: indices.tolist() for name, indices in layout.indices.items()}


class Network:
    """Stands for a user's module class."""


class Recorder(BaseEstimator):
    """An estimator that only validates."""

    def fit(self, X, y="no_validation", **params):
        self.out_ = validate_input(self, X, reset=True, y=y, **params)
        return self

    def predict(self, X):
        return validate_input(self, X, reset=False)


class TestAuto:
    @pytest.mark.parametrize("frame", [FRAME, pl.from_pandas(FRAME)])
    def test_groups_by_the_prefix_before_the_first_separator(self, frame):
        expected = {"rna": [0, 1, 3], "atac": [2]}
        assert columns_of("auto", frame) == expected

    def test_takes_names_apart_from_X(self):
        expected = {"rna": [0, 1, 3], "atac": [2]}
        assert columns_of("auto", FRAME.to_numpy(), feature_names=NAMES) == expected

    def test_groups_by_the_first_of_two_levels(self):
        expected = {"rna": [0, 2], "atac": [1, 3]}
        assert columns_of("auto", TWO_LEVELS) == expected

    def test_reads_what_column_transformer_writes(self):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(rng.normal(size=(5, 4)), columns=list("abcd"))
        upstream = ColumnTransformer(
            [
                ("image", FunctionTransformer(), ["d", "a"]),
                ("text", FunctionTransformer(), ["b", "c"]),
            ]
        ).set_output(transform="pandas")
        X = upstream.fit_transform(frame)
        assert columns_of("auto", X) == {"image": [0, 1], "text": [2, 3]}

    def test_leaves_out_the_reserved_group(self):
        frame = FRAME.set_axis(["a__0", "drop__0", "b__0", "a__1"], axis=1)
        assert columns_of("auto", frame) == {"a": [0, 3], "b": [2]}

    def test_one_prefix_is_a_grouping_without_warning(self):
        frame = FRAME[["rna__g0", "rna__g1"]]
        assert columns_of("auto", frame) == {"rna": [0, 1]}

    @pytest.mark.parametrize(
        ("X", "found"),
        [
            (X7, "X has no column names"),
            (X7.tolist(), "X has no column names"),
            (pd.DataFrame(X7), "X has no column names"),
            (FRAME.set_axis(list("abcd"), axis=1), "0 of 4 column names"),
            (FRAME.set_axis(["a__x", "b", "c__x", "d"], axis=1), "2 of 4 column names"),
            (FRAME.set_axis(["a__x", "__b", "c__x", "d__"], axis=1), "3 of 4"),
        ],
    )
    def test_else_one_modality_with_a_warning(self, X, found):
        with pytest.warns(OneModalityWarning, match=found) as record:
            layout = resolve_modalities("auto", X)
        assert layout.names == ["all"]
        assert layout.blocks[0].size == np.shape(X)[1]
        assert record[0].filename == __file__

    def test_the_warning_has_a_category_of_its_own(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", OneModalityWarning)
            resolve_modalities("auto", X7)
        assert issubclass(OneModalityWarning, UserWarning)


def test_none_is_one_modality_without_a_warning():
    assert columns_of(None, X7) == {"all": list(range(7))}
    assert columns_of(None, FRAME) == {"all": [0, 1, 2, 3]}


@pytest.mark.parametrize("widths", [[3, 4], (3, 4), np.array([3, 4])])
def test_widths_are_consecutive(widths):
    expected = {"modality0": [0, 1, 2], "modality1": [3, 4, 5, 6]}
    assert columns_of(widths, X7) == expected


POSITIONS = {
    "int": (2, [2]),
    "negative int": (-1, [6]),
    "numpy int": (np.int64(2), [2]),
    "list of int": ([4, 2, -7], [4, 2, 0]),
    "array of int": (np.array([4, 2]), [4, 2]),
    "range": (range(2, 4), [2, 3]),
    "slice": (slice(1, 4), [1, 2, 3]),
    "slice from the end": (slice(-2, None), [5, 6]),
    "slice with a step": (slice(None, None, 3), [0, 3, 6]),
    "list of bool": ([True, False, True] + 4 * [False], [0, 2]),
    "array of bool": (np.arange(7) > 4, [5, 6]),
    "callable": (lambda X: np.flatnonzero(X[0] > 4), [5, 6]),
}


@pytest.mark.parametrize(("selector", "expected"), POSITIONS.values(), ids=POSITIONS)
@pytest.mark.parametrize("wrap", [lambda x: x, Modality])
def test_selectors_by_position(selector, expected, wrap):
    rest = [i for i in range(7) if i not in expected]
    groups = {"a": wrap(selector), "b": rest}
    assert columns_of(groups, X7) == {"a": expected, "b": rest}


LABELS = {
    "str": ("atac__p0", [2]),
    "list of str": (["atac__p0", "rna__g0"], [2, 0]),
    "index of str": (FRAME.columns[[3, 1]], [3, 1]),
    "slice of str": (slice("rna__g1", "atac__p0"), [1, 2]),
    "slice of str to the end": (slice("atac__p0", None), [2, 3]),
    "slice of str from the start": (slice(None, "rna__g1"), [0, 1]),
    "make_column_selector": (make_column_selector("^rna__"), [0, 1, 3]),
    "mask of names": (
        lambda X: [name.startswith("r") for name in X.columns],
        [0, 1, 3],
    ),
    "position": ([3], [3]),
}


@pytest.mark.parametrize(("selector", "expected"), LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("convert", [lambda X: X, pl.from_pandas])
def test_selectors_by_name(selector, expected, convert):
    X = convert(FRAME)
    if isinstance(selector, make_column_selector) and convert is pl.from_pandas:
        pytest.skip("make_column_selector reads pandas only")
    rest = [i for i in range(4) if i not in expected]
    assert columns_of({"a": selector, "b": rest}, X)["a"] == expected


# ColumnTransformer hands a single int on as a vector and takes no range.
SHARED = sorted(set(POSITIONS) - {"int", "negative int", "numpy int", "range"})


@pytest.mark.parametrize("form", [s for s in SHARED if s != "slice with a step"])
def test_selectors_agree_with_column_transformer(form):
    selector, expected = POSITIONS[form]
    reference = ColumnTransformer([("a", "passthrough", selector)])
    assert_array_equal(reference.fit_transform(X7), X7[:, expected])


def test_names_of_two_levels_select_by_either_form():
    groups = {"x": "rna", "y": ["atac__p0"], "drop": "atac__7"}
    assert columns_of(groups, TWO_LEVELS) == {"x": [0, 2], "y": [1]}


def test_a_callable_selector_gets_X_as_it_was_passed():
    seen = []

    def select(X):
        seen.append(X)
        return slice(None)

    resolve_modalities({"a": select}, TWO_LEVELS)
    assert seen[0] is TWO_LEVELS


class TestCallableGrouping:
    @pytest.mark.parametrize(
        ("grouping", "expected"),
        [
            (lambda X: {"a": [0], "b": slice(1, None)}, {"a": 1, "b": 6}),
            (lambda X: [5, 2], {"modality0": 5, "modality1": 2}),
            (lambda X: None, {"all": 7}),
        ],
    )
    def test_returns_a_grouping(self, grouping, expected):
        layout = resolve_modalities(grouping, X7)
        assert {block.name: block.size for block in layout} == expected

    def test_gets_X_as_it_was_passed(self):
        grouping = lambda X: {"a": list(X.columns[:1]), "drop": list(X.columns[1:])}  # noqa: E731
        assert columns_of(grouping, FRAME) == {"a": [0]}

    def test_gets_a_list_as_an_array(self):
        layout = resolve_modalities(lambda X: [1, X.shape[1] - 1], X7.tolist())
        assert [block.size for block in layout] == [1, 6]

    def test_does_not_return_a_function(self):
        with pytest.raises(TypeError, match="modalities: expected 'auto', None"):
            resolve_modalities(lambda X: len, X7)


def test_the_reserved_group_is_left_out():
    layout = resolve_modalities({"b": [6, 5], "drop": slice(1, 5), "a": 0}, X7)
    assert layout.names == ["b", "a"]
    assert layout.n_features == 7
    assert columns_of({"a": slice(None), "drop": []}, X7) == {"a": list(range(7))}


BAD_GROUPINGS = {
    "unknown string": ("prefix", ValueError, "modalities: expected 'auto', None"),
    "number": (3, TypeError, "modalities: expected 'auto', None, consecutive widths"),
    "bare Modality": (Modality(slice(None)), TypeError, r"a mapping such as \{'image'"),
    "set": ({3, 4}, TypeError, "modalities: expected 'auto', None"),
    "index lists": (
        [[0, 1, 2], [3, 4, 5, 6]],
        TypeError,
        "got a value of type list at position 0. To select the columns of each "
        "modality, pass a mapping",
    ),
    "index arrays": (
        [np.arange(3), np.arange(3, 7)],
        TypeError,
        "of type ndarray at position 0.*pass a mapping",
    ),
    "table": (np.array([[3, 4]]), TypeError, "of type ndarray.*pass a mapping"),
    "slices": ([slice(0, 3), slice(3, 7)], TypeError, "type slice.*pass a mapping"),
    "names": (["a", "b"], TypeError, "of type str at position 0.*pass a mapping"),
    "bool widths": ([True, 6], TypeError, "of type bool at position 0"),
    "float widths": ([3, 4.0], TypeError, "of type float at position 1"),
    "float array": (np.array([3.0, 4.0]), TypeError, "of type float64 at position 0"),
    "zero width": ([3, 0, 4], ValueError, "positive widths, got 0 at position 1"),
    "negative width": ([8, -1], ValueError, "positive widths, got -1 at position 1"),
    "short widths": (
        [2, 4],
        ValueError,
        "modalities: widths sum to 6 columns, but X has 7",
    ),
    "long widths": (
        [4, 4],
        ValueError,
        "modalities: widths sum to 8 columns, but X has 7",
    ),
    "no widths": ([], ValueError, "modalities: widths sum to 0 columns, but X has 7"),
    "no group": ({}, ValueError, "at least one modality besides.*'drop'"),
    "only drop": ({"drop": slice(None)}, ValueError, r"got the names \['drop'\]"),
    "number as name": ({0: slice(None)}, TypeError, "names that are strings, got 0"),
    "empty name": ({"": slice(None)}, ValueError, "not empty .* got ''"),
    "separator in name": ({"a__b": slice(None)}, ValueError, "'__', got 'a__b'"),
    "no column": (
        {"a": slice(None), "b": []},
        ValueError,
        r"group 'b' selects no column; X has 7 feature\(s\)",
    ),
    "in no group": (
        {"a": [0, 1, 2], "b": [4, 5, 6]},
        ValueError,
        "column 3 is in no group. Put it in one group, or in the reserved group 'drop'",
    ),
    "several in no group": (
        {"a": [3]},
        ValueError,
        r"columns 0, 1, 2, 4, 5, \.\.\. \(6 in all\) are in no group",
    ),
    "in two groups": (
        {"a": slice(0, 4), "b": slice(3, 7)},
        ValueError,
        "column 3 is in the groups 'a' and 'b'. Put it in one group, or in.*'drop'",
    ),
    "in a group and in drop": (
        {"a": slice(0, 7), "drop": -1},
        ValueError,
        "column 6 is in the groups 'a' and 'drop'",
    ),
    "twice in a group": (
        {"a": [0, 1, 2, 3, 4, 5, 6, 0]},
        ValueError,
        "column 0 is twice in group 'a'",
    ),
    "beyond": ({"a": [7]}, ValueError, r"\['a'\]: there is no column 7; X has 7"),
    "beyond, negative": ({"a": -8}, ValueError, "there is no column -8"),
    "slice beyond": (
        {"a": slice(0, 4), "b": slice(4, 8)},
        ValueError,
        r"\['b'\]: slice\(4, 8, None\) reaches beyond the last column; X has 7",
    ),
    "short mask": ({"a": [True] * 6}, ValueError, r"\['a'\]: .* mask .* got 6 entries"),
    "names without names": (
        {"a": "x"},
        ValueError,
        "such as 'x', but X has 7 .* DataFr",
    ),
    "name slice without names": ({"a": slice("x", "y")}, ValueError, "without names"),
    "bool": (
        {"a": True},
        TypeError,
        r"modalities\['a'\]: expected columns as.*got True",
    ),
    "None": (
        {"a": None},
        TypeError,
        r"modalities\['a'\]: expected columns as.*got None",
    ),
    "float": ({"a": [0.0, 1.0]}, TypeError, r"modalities\['a'\]: expected columns as"),
    "mixed": ({"a": [0, "x"]}, TypeError, r"modalities\['a'\]: expected columns as"),
    "set of columns": (
        {"a": {0, 1}},
        TypeError,
        r"modalities\['a'\]: expected columns",
    ),
    "float slice": ({"a": slice(0, 7.0)}, TypeError, r"\['a'\]: expected columns as"),
    "mixed slice": ({"a": slice("x", 3)}, TypeError, r"\['a'\]: expected columns as"),
    "nested Modality": ({"a": Modality(Modality(0))}, TypeError, "expected columns as"),
}


@pytest.mark.parametrize(
    ("modalities", "error", "text"), BAD_GROUPINGS.values(), ids=BAD_GROUPINGS
)
def test_bad_groupings(modalities, error, text):
    with pytest.raises(error, match=text):
        resolve_modalities(modalities, X7)


BAD_NAMES = {
    "unknown": ({"a": ["rna__g0", "x"]}, r"X has no columns named \['x'\]; X has 4"),
    "in no group": ({"a": "rna__g0", "b": [2, 3]}, "column 'rna__g1' is in no group"),
    "in two groups": (
        {"a": slice(None, "atac__p0"), "b": slice("atac__p0", None)},
        "column 'atac__p0' is in the groups 'a' and 'b'",
    ),
    "slice of names with a step": ({"a": slice("rna__g0", None, 2)}, "without a step"),
}


@pytest.mark.parametrize(("modalities", "text"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_errors_name_the_columns(modalities, text):
    with pytest.raises(ValueError, match=text):
        resolve_modalities(modalities, FRAME)


@pytest.mark.parametrize(
    "modalities",
    [
        [1, 1],
        {"a": 0, "b": 1},
        {"a": slice(0, 1), "b": slice(1, 2)},
        {"a": slice(0, 1), "b": slice(1, None)},
        {"a": [True, False], "b": [False, True]},
        {"a": "x", "b": "y"},
        lambda X: {"a": slice(0, X.shape[1] // 2), "b": slice(X.shape[1] // 2, None)},
    ],
)
def test_too_few_columns_are_counted_as_scikit_learn_expects(modalities):
    with pytest.raises(ValueError, match=r"1 feature\(s\)"):
        resolve_modalities(modalities, np.zeros((10, 1)))


def test_bad_X_and_names():
    with pytest.raises(ValueError, match="feature_names: got 2 names, but X has 7"):
        resolve_modalities(None, X7, feature_names=["a", "b"])
    with pytest.raises(ValueError, match="X: expected 2 dimensions"):
        resolve_modalities(None, np.zeros(3))
    frame = pd.DataFrame(np.zeros((1, 2)), columns=["drop__a", "drop__b"])
    with pytest.raises(ValueError, match="all columns are in the reserved group"):
        resolve_modalities("auto", frame)
    levels = pd.MultiIndex.from_tuples([("a__b", "c"), ("d", "e")])
    with pytest.raises(ValueError, match="'__', got 'a__b'"):
        resolve_modalities("auto", pd.DataFrame(np.zeros((1, 2)), columns=levels))


class TestModality:
    def test_defaults(self):
        (block,) = resolve_modalities({"a": Modality(slice(None))}, X7)
        assert block == Block("a", slice(0, 7), (7,), "gaussian", "column", None)

    @pytest.mark.parametrize(
        ("fields", "scaling"),
        [
            ({}, "column"),
            ({"shape": (12,)}, "column"),
            ({"shape": (4, 3)}, "column"),
            ({"shape": (3, 2, 2)}, None),
            ({"shape": (3, 2, 2), "scaling": "column"}, "column"),
            ({"shape": (3, 2, 2), "scaling": "block"}, "block"),
            ({"scaling": "block"}, "block"),
            ({"scaling": None}, None),
            ({"likelihood": "laplace"}, "column"),
            ({"likelihood": "bernoulli"}, None),
            ({"likelihood": "categorical"}, None),
            ({"likelihood": "categorical", "scaling": None}, None),
        ],
    )
    def test_scaling_auto_is_resolved(self, fields, scaling):
        X = np.zeros((2, 12))
        (block,) = resolve_modalities({"a": Modality(slice(None), **fields)}, X)
        assert block.scaling == scaling

    @pytest.mark.parametrize(
        ("shape", "sequence", "image"),
        [((12,), False, False), ((4, 3), True, False), ((3, 2, 2), False, True)],
    )
    def test_shape(self, shape, sequence, image):
        X = np.zeros((2, 12))
        (block,) = resolve_modalities({"a": Modality(slice(None), shape)}, X)
        assert block.shape == shape
        assert (block.size, block.is_sequence, block.is_image) == (12, sequence, image)

    @pytest.mark.parametrize("encoder", [None, "conv", Network])
    def test_encoder_is_handed_on(self, encoder):
        groups = {"a": Modality(slice(None), encoder=encoder)}
        (block,) = resolve_modalities(groups, X7)
        assert block.encoder is encoder

    @pytest.mark.parametrize(
        ("fields", "error", "text"),
        [
            (
                {"shape": (2, 3)},
                ValueError,
                r"\(2, 3\) has 6 entries, .* has 7 columns",
            ),
            (
                {"shape": (7, 1, 1, 1)},
                ValueError,
                r"\.shape: expected \(d,\), \(C, H, W\)",
            ),
            ({"shape": ()}, ValueError, r"\.shape: expected \(d,\)"),
            ({"shape": (-7, -1)}, ValueError, "positive lengths, got"),
            ({"shape": 7}, TypeError, r"\.shape: expected a tuple of integers, got 7"),
            ({"shape": (7.0,)}, TypeError, "tuple of integers"),
            ({"shape": "7"}, TypeError, "tuple of integers"),
            (
                {"likelihood": "poisson"},
                ValueError,
                r"\.likelihood: expected.*'poisson'",
            ),
            ({"likelihood": None}, ValueError, r"\.likelihood: expected one of"),
            ({"scaling": "rows"}, ValueError, r"\.scaling: expected one of .*'rows'"),
            ({"scaling": True}, ValueError, r"\.scaling: expected one of"),
            ({"scaling": np.ones(2)}, ValueError, r"\.scaling: expected one of"),
            (
                {"scaling": "column", "likelihood": "bernoulli"},
                ValueError,
                "'bernoulli' is about values in .* Use scaling=None",
            ),
            (
                {"encoder": 3},
                TypeError,
                r"\.encoder: expected None, a string or a class",
            ),
        ],
    )
    def test_bad_fields_are_reported_when_resolved(self, fields, error, text):
        modality = Modality(slice(None), **fields)
        with pytest.raises(error, match=r"modalities\['a'\]") as raised:
            resolve_modalities({"a": modality}, X7)
        assert raised.match(text)

    COLUMNS = (slice(0, 3), [0, 1], np.array([0, 1]), "x", ["x", "y"], np.ones(2, bool))

    @pytest.mark.parametrize("columns", COLUMNS)
    def test_is_a_parameter_value(self, columns):
        modality = Modality(columns, (2, 1), encoder=Network)
        assert pickle.loads(pickle.dumps(modality)) == modality
        cloned = clone(ParameterHolder({"a": modality})).modalities
        assert cloned == {"a": modality}
        assert cloned["a"] is not modality

    def test_equality(self):
        modalities = [Modality(columns) for columns in self.COLUMNS]
        modalities += [Modality("x", shape=(1,)), Modality("x", scaling=None)]
        modalities += [Modality(len), Modality(np.ones(7))]
        equal = [[a == b for a in modalities] for b in modalities]
        expected = np.eye(len(modalities), dtype=bool)
        expected[1, 2] = expected[2, 1] = True  # a list and an array of the same
        assert_array_equal(equal, expected)
        assert Modality("x") != "x"
        assert Modality("x", (2, 1)) == Modality("x", [2, 1])


class ParameterHolder(BaseEstimator):
    def __init__(self, modalities="auto"):
        self.modalities = modalities


class TestLayout:
    def test_content(self):
        layout = resolve_modalities(
            {"a": [4, 2], "b": slice(5, 7), "drop": [0, 1, 3]}, X7
        )
        assert isinstance(layout, Layout)
        assert len(layout) == 2
        assert layout.names == ["a", "b"]
        assert [block.name for block in layout] == ["a", "b"]
        assert layout.n_features == 7
        assert layout.indices["a"].dtype == np.intp
        assert layout.indices["b"].dtype == np.intp

    @pytest.mark.parametrize(
        "columns", [slice(2, 5), [2, 3, 4], (np.arange(7) // 3) == 1]
    )
    def test_contiguous_columns_become_a_slice(self, columns):
        if isinstance(columns, np.ndarray):
            columns = np.roll(columns, -1)
        layout = resolve_modalities({"a": columns, "drop": [0, 1, 5, 6]}, X7)
        assert layout.blocks[0].columns == slice(2, 5)

    @pytest.mark.parametrize("columns", [[4, 3, 2], [2, 4, 3], [2, 3, 5]])
    def test_other_columns_keep_their_order(self, columns):
        rest = [i for i in range(7) if i not in columns]
        block = resolve_modalities({"a": columns, "drop": rest}, X7).blocks[0]
        assert isinstance(block.columns, np.ndarray)
        assert_array_equal(block.columns, columns)

    def test_equality_and_pickle(self):
        groups = {
            "a": [4, 2],
            "b": Modality([0, 1, 3], encoder=Network),
            "drop": [5, 6],
        }
        layout = resolve_modalities(groups, X7)
        assert pickle.loads(pickle.dumps(layout)) == layout
        assert layout != resolve_modalities([3, 4], X7)
        assert layout != resolve_modalities({**groups, "a": [2, 4]}, X7)
        assert layout.blocks[0] != "a"

    def test_skops(self):
        skops_io = pytest.importorskip("skops.io")
        groups = {"a": [4, 2], "b": Modality([0, 1, 3], (3, 1)), "drop": [5, 6]}
        layout = resolve_modalities(groups, X7)
        data = skops_io.dumps(layout)
        untrusted = skops_io.get_untrusted_types(data=data)
        assert set(untrusted) == {"skmm.modalities.Block", "skmm.modalities.Layout"}
        assert skops_io.loads(data, trusted=untrusted) == layout


class TestSplit:
    def test_slices_are_views_and_others_copies(self):
        layout = resolve_modalities({"a": slice(0, 3), "b": [4, 3], "drop": [5, 6]}, X7)
        a, b = split_blocks(X7, layout)
        assert np.shares_memory(a, X7)
        assert_array_equal(a, X7[:, :3])
        assert_array_equal(b, X7[:, [4, 3]])

    def test_row_chunks_cover_the_rows(self):
        for shape in [(0, 3), (1, 1), (10, 2**20), (2**19, 3), (2**18 + 1, 1)]:
            chunks = list(row_chunks(*shape))
            assert sum(rows.stop - rows.start for rows in chunks) == shape[0]
            assert all(a.stop == b.start for a, b in pairwise(chunks))


@st.composite
def groupings(draw):
    """Names of the columns of up to four modalities, some dropped, in any order."""
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    names = [f"m{m}__c{c}" for m, width in enumerate(widths) for c in range(width)]
    groups = {
        f"m{m}": [name for name in names if name.startswith(f"m{m}__")]
        for m in range(len(widths))
    }
    if draw(st.booleans()) and len(widths) > 1:
        groups["drop"] = groups.pop(draw(st.sampled_from(sorted(groups))))
    return groups, names, draw(st.permutations(names))


@given(groupings(), st.integers(0, 2**32 - 1))
@quick
def test_a_grouping_by_names_does_not_depend_on_the_order_of_columns(drawn, seed):
    groups, names, permuted = drawn
    X = np.random.default_rng(seed).normal(size=(5, len(names)))
    frame = pd.DataFrame(X, columns=names)
    expected = split_blocks(X, resolve_modalities(groups, frame))
    for other in (frame[permuted], pl.from_pandas(frame[permuted])):
        layout = resolve_modalities(groups, other)
        blocks = split_blocks(np.asarray(other), layout)
        assert layout.names == [name for name in groups if name != "drop"]
        for left, right in zip(expected, blocks, strict=True):
            assert_array_equal(left, right)


@given(groupings())
@quick
def test_all_forms_of_a_grouping_agree(drawn):
    groups, _, permuted = drawn
    frame = pd.DataFrame(np.zeros((1, len(permuted))), columns=permuted)
    positions = {
        name: [permuted.index(c) for c in cols] for name, cols in groups.items()
    }
    masks = {
        name: np.isin(np.arange(len(permuted)), cols)
        for name, cols in positions.items()
    }
    layout = resolve_modalities(groups, frame)
    assert layout == resolve_modalities(positions, frame.to_numpy())
    in_order = {name: sorted(cols) for name, cols in positions.items()}
    assert resolve_modalities(masks, frame) == resolve_modalities(in_order, frame)
    if "drop" not in groups:
        auto = resolve_modalities("auto", frame)
        assert {b.name: set(b.indices) for b in auto} == {
            b.name: set(b.indices) for b in layout
        }


@given(groupings())
@quick
def test_blocks_and_dropped_columns_partition_X(drawn):
    groups, names, permuted = drawn
    frame = pd.DataFrame(np.zeros((1, len(names))), columns=permuted)
    layout = resolve_modalities(groups, frame)
    used = [*layout.indices.values()]
    dropped = [permuted.index(name) for name in groups.get("drop", [])]
    assert sorted(np.concatenate([*used, dropped])) == list(range(len(names)))


@st.composite
def incomplete(draw):
    """A layout, an array whose blocks and cells are missing, and which blocks are."""
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    n, p = draw(st.integers(1, 8)), sum(widths)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.normal(size=(n, p)).astype(dtype)
    X[rng.random(size=X.shape) < draw(st.sampled_from([0.0, 0.2, 0.7]))] = np.nan
    order = rng.permutation(p) if draw(st.booleans()) else np.arange(p)
    parts = np.split(order, np.cumsum(widths)[:-1])
    groups = {f"m{m}": part for m, part in enumerate(parts)}
    for part in parts:
        X[np.ix_(rng.random(n) < 0.3, part)] = np.nan
    return resolve_modalities(groups, X), np.array(X, order=draw(st.sampled_from("CF")))


@given(incomplete())
@quick
def test_a_block_is_missing_where_all_of_it_is_nan(drawn):
    layout, X = drawn
    expected = [
        [not np.isnan(row[i]).all() for i in layout.indices.values()] for row in X
    ]
    observed = observed_modalities(X, layout)
    assert observed.dtype == bool
    assert_array_equal(observed, expected)
    assert_array_equal(observed_modalities(X[::-1], layout), observed[::-1])


def test_observed_over_several_chunks(monkeypatch):
    monkeypatch.setattr("skmm.modalities.CHUNK_CELLS", 14)
    X = X7.repeat(3, axis=0)
    X[4, :3] = X[8, 3:] = X[8, 0] = np.nan
    expected = np.ones((9, 2), dtype=bool)
    expected[4, 0] = expected[8, 1] = False
    assert_array_equal(observed_modalities(X, resolve_modalities([3, 4], X)), expected)
    X[[1, 3, 5], 0] = np.inf
    X[6, 6] = -np.inf
    text = (
        r"Input X contains infinity: modality 'modality0', rows 1, 3, 5 \(3 in all\); "
        r"modality 'modality1', row 6\. .* set them to NaN"
    )
    with pytest.raises(ValueError, match=text):
        observed_modalities(X, resolve_modalities([3, 4], X))


def test_infinity():
    X = X7.repeat(3, axis=0)
    layout = resolve_modalities({"a": slice(0, 3), "b": slice(3, 6), "drop": 6}, X)
    X[:, 6] = np.inf
    assert observed_modalities(X, layout).all()
    X[2:, 4] = np.inf
    text = r"infinity: modality 'b', rows 2, 3, 4, 5, 6, \.\.\. \(7 in all\)\."
    with pytest.raises(ValueError, match=text):
        observed_modalities(X, layout)
    X[2, 3:6] = [np.nan, -np.inf, np.nan]
    with pytest.raises(ValueError, match=text):
        observed_modalities(X, layout)


class TestCheckObserved:
    layout = resolve_modalities([3, 4], X7)
    observed = np.array([[True, False], [False, False], [False, True]])

    def test_passes(self):
        check_observed(self.observed, self.layout)
        check_observed(self.observed[[0, 2]], self.layout, allow_empty_rows=False)

    def test_a_modality_never_observed(self):
        text = "modality 'modality0' is never observed.*reserved group 'drop'"
        with pytest.raises(ValueError, match=text):
            check_observed(self.observed[1:], self.layout)
        text = "modalities 'modality0', 'modality1' are never observed"
        with pytest.raises(ValueError, match=text):
            check_observed(self.observed[1:2], self.layout)

    def test_rows_of_weight_zero_do_not_count(self):
        weight = np.array([1.0, 0.0, 0.5])
        check_observed(
            self.observed, self.layout, sample_weight=weight, allow_empty_rows=False
        )
        with pytest.raises(ValueError, match="'modality1' is never observed"):
            check_observed(self.observed, self.layout, sample_weight=weight[[0, 1, 1]])
        with pytest.raises(ValueError, match="sample_weight: all weights are zero"):
            check_observed(self.observed, self.layout, sample_weight=np.zeros(3))

    def test_rows_with_nothing_observed(self):
        with pytest.raises(ValueError, match=r"X: row 1: no modality is .* Remove"):
            check_observed(self.observed, self.layout, allow_empty_rows=False)
        with pytest.raises(
            ValueError, match=r"rows 0, 1, 2, 3, 4, \.\.\. \(9 in all\)"
        ):
            check_rows_observed(np.zeros((9, 2), dtype=bool))
        check_rows_observed(np.eye(2, dtype=bool))


def test_only_nan_steps_at_the_end_are_padding():
    nan = np.nan
    one = [
        [[1, nan], [nan, nan], [nan, 2], [nan, nan], [nan, nan]],
        [[nan, nan], [1, 1], [1, 1], [1, 1], [1, nan]],
        [[nan, nan]] * 5,
        [[0, 0]] * 5,
    ]
    expected = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert_array_equal(time_steps_observed(np.array(one)), np.array(expected, bool))


@given(st.data())
@quick
def test_padding_against_a_loop(data):
    n, T, D = (data.draw(st.integers(1, k)) for k in (4, 6, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    values = np.where(rng.random((n, T, D)) < 0.7, np.nan, 1.0)
    observed = time_steps_observed(values)
    for row, marks in zip(values, observed, strict=True):
        steps = [t for t in range(T) if not np.isnan(row[t]).all()]
        assert marks.sum() == (steps[-1] + 1 if steps else 0)
        assert (np.diff(marks.astype(int)) <= 0).all()


class TestLikelihood:
    @staticmethod
    def check(X, likelihood, shape=None):
        X = np.asarray(X, dtype=float)
        modality = Modality(slice(None), shape, likelihood)
        check_likelihood(X, resolve_modalities({"a": modality}, X))

    def test_bernoulli(self):
        self.check([[0, 1, 0.3, np.nan], [np.nan] * 4], "bernoulli")
        for value in (-0.01, 1.01):
            text = (
                r"\['a'\].likelihood: 'bernoulli' expects values in \[0, 1\].* row 1\."
            )
            with pytest.raises(ValueError, match=text):
                self.check([[0, 1], [value, np.nan], [1, 1]], "bernoulli")

    GOOD = ([1, 0, 0], [0, 0, 1], [np.nan] * 3, [0, np.nan, 0], [np.nan, 1, 0])
    BAD = ([0, 0, 0], [1, 1, 0], [1, 1, np.nan], [0.5, 0.5, 0], [-1, 1, 1], [2, 0, 0])

    def test_categorical(self):
        self.check(self.GOOD, "categorical")
        for bad in self.BAD:
            text = (
                r"'categorical' expects vectors .* shape \(3,\), got others in row 5\."
            )
            with pytest.raises(ValueError, match=text):
                self.check([*self.GOOD, bad], "categorical")

    def test_categorical_along_the_last_axis(self):
        self.check(
            [[1, 0, 0, 0, 1, 0], [0, 0, 1, *[np.nan] * 3]], "categorical", (2, 3)
        )
        with pytest.raises(ValueError, match=r"shape \(2, 3\), got others in row 0"):
            self.check([[1, 0, 0, 0, 0, 0]], "categorical", (2, 3))
        with pytest.raises(ValueError, match=r"shape \(3, 2\), got others in row 0"):
            self.check([[1, 0, 0, 0, 1, 0]], "categorical", (3, 2))

    @pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
    def test_others_take_any_value(self, likelihood):
        self.check([[-3, 5, np.nan]], likelihood)

    def test_counts_rows_over_chunks(self, monkeypatch):
        monkeypatch.setattr("skmm.modalities.CHUNK_CELLS", 4)
        X = np.zeros((20, 2))
        X[3::2] = 7
        with pytest.raises(
            ValueError, match=r"rows 3, 5, 7, 9, 11, \.\.\. \(9 in all\)"
        ):
            self.check(X, "bernoulli")


class TestValidateInput:
    @pytest.mark.parametrize(
        ("given_dtype", "kept"),
        [
            (np.float64, np.float64),
            (np.float32, np.float32),
            (np.float16, np.float64),
            (np.int32, np.float64),
            (bool, np.float64),
            (object, np.float64),
        ],
    )
    def test_dtypes(self, given_dtype, kept):
        assert Recorder().fit(X7.astype(given_dtype)).out_.dtype == kept

    def test_nan_and_infinity_are_let_through(self):
        X = np.array([[np.nan, np.inf], [0.0, 1.0]])
        assert Recorder().fit(X).out_ is X

    def test_y_is_validated_with_X(self):
        X, y = Recorder().fit(X7, [0, 1, 0]).out_
        assert X is X7
        assert_array_equal(y, [0, 1, 0])
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            Recorder().fit(X7, [0, 1])

    def test_check_params_take_precedence(self):
        with pytest.raises(ValueError, match=r"3 sample\(s\).*minimum of 5"):
            Recorder().fit(X7, ensure_min_samples=5)
        with pytest.raises(ValueError, match="contains NaN"):
            Recorder().fit(X7 * np.nan, ensure_all_finite=True)

    def test_scikit_learns_own_refusals(self):
        with pytest.raises(TypeError, match="Sparse data was passed"):
            Recorder().fit(sp.csr_array(X7))
        with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
            Recorder().fit(X7[0])
        with pytest.raises(
            ValueError, match="X has 3 features, but Recorder is expect"
        ):
            Recorder().fit(X7).predict(X7[:, :3])

    @pytest.mark.parametrize("convert", [lambda X: X, pl.from_pandas])
    def test_names_are_recorded_and_checked(self, convert):
        recorder = Recorder().fit(convert(FRAME))
        assert list(recorder.feature_names_in_) == NAMES
        with pytest.raises(ValueError, match="feature names should match"):
            recorder.predict(convert(FRAME[NAMES[::-1]]))

    def test_names_of_two_levels_are_joined(self):
        recorder = Recorder().fit(TWO_LEVELS)
        names = ["rna__g0", "atac__p0", "rna__g1", "atac__7"]
        assert list(recorder.feature_names_in_) == names
        assert_array_equal(recorder.predict(TWO_LEVELS), TWO_LEVELS.to_numpy())
        assert_array_equal(recorder.predict(TWO_LEVELS.set_axis(names, axis=1)), X4)
        with pytest.raises(ValueError, match="feature names should match"):
            recorder.predict(TWO_LEVELS.iloc[:, ::-1])
        assert TWO_LEVELS.columns.equals(LEVELS)

    def test_nullable_columns(self):
        frame = pd.DataFrame({"a": pd.array([1.5, None], dtype="Float64"), "b": [1, 2]})
        assert_array_equal(Recorder().fit(frame).out_, [[1.5, 1], [np.nan, 2]])

    def test_tensors_on_the_cpu_are_arrays(self):
        torch = pytest.importorskip("torch")
        tensor = torch.tensor(X7, requires_grad=True)
        X, y = Recorder().fit(tensor, torch.arange(3)).out_
        assert type(X) is np.ndarray
        assert_array_equal(X, X7)
        assert_array_equal(y, [0, 1, 2])
        half = Recorder().fit(tensor.to(torch.bfloat16)).out_
        assert half.dtype == np.float32
        assert_array_equal(half, X7)

    def test_tensors_elsewhere_name_the_remedy(self):
        torch = pytest.importorskip("torch")
        tensor = torch.zeros(3, 7, device="meta")
        text = r"X: .* got a tensor on the device 'meta'. Pass `X.cpu\(\)`"
        with pytest.raises(TypeError, match=text):
            Recorder().fit(tensor)
        with pytest.raises(TypeError, match=r"y: .* Pass `y.cpu\(\)`"):
            Recorder().fit(X7, tensor[:, 0])


def test_a_memory_map_is_read_in_chunks(tmp_path):
    n, p = 20_000, 1_000
    disk = np.memmap(tmp_path / "X", dtype=np.float32, mode="w+", shape=(n, p))
    disk[:] = np.arange(p)
    disk[5, :400] = np.nan
    disk.flush()
    X = np.memmap(tmp_path / "X", dtype=np.float32, mode="r", shape=(n, p))
    groups = {"a": slice(0, 400), "b": slice(400, 900), "c": np.arange(900, 1000)[::-1]}
    tracemalloc.start()
    try:
        validated = Recorder().fit(X).out_
        layout = resolve_modalities(groups, X)
        observed = observed_modalities(validated, layout)
        views = split_blocks(validated, layout)[:2]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    copied = n * 100 * 4  # the block whose columns are not contiguous
    assert peak - copied < X.nbytes / 20
    assert all(np.shares_memory(view, X) for view in views)
    assert_array_equal(np.argwhere(~observed), [[5, 0]])


def test_observed_weight_is_that_of_the_observed_modalities():
    X = np.random.default_rng(0).normal(size=(500, 5))
    X[::3, :2] = np.nan
    layout = resolve_modalities([2, 3], X)
    weight = np.random.default_rng(1).uniform(size=500)
    expected = weight @ observed_modalities(X, layout)
    np.testing.assert_allclose(observed_weight(X, layout, weight), expected)
    assert observed_weight(X, layout).tolist() == [500 - 167, 500]


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        ([1.0, 0.0, 0.0], "modality 'modality1' is never observed"),
        ([0.0, 0.0, 0.0], "sample_weight: all weights are zero"),
        (None, "contains infinity: modality 'modality0', row 2"),
    ],
)
def test_observed_weight_names_what_is_wrong(weight, text):
    X = np.array([[1.0, np.nan], [2.0, 3.0], [np.inf if weight is None else 1, 0.0]])
    layout = resolve_modalities([1, 1], X)
    weight = None if weight is None else np.array(weight)
    with pytest.raises(ValueError, match=text):
        observed_weight(X, layout, weight)
