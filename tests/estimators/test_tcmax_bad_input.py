"""Wrong calls of TCMaxClassifier: what each raises, says and leaves as it was."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.utils._param_validation import InvalidParameterError
from skorch.callbacks import Callback, EarlyStopping

from skmm import TCMaxClassifier
from skmm.modalities import Modality

N_ROWS = 12
X = np.random.default_rng(0).normal(size=(N_ROWS, 5))
Y = np.arange(N_ROWS) % 2
NAMES = ["a__0", "a__1", "b__0", "b__1", "b__2"]
FRAME = pd.DataFrame(X, columns=NAMES)
ONES = np.ones(N_ROWS)
METHODS = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "transform",
    "modality_contributions",
)


def changed(row, columns, value):
    """X with one row's cells in `columns`, or all rows', set to a value."""
    values = X.copy()
    values[row, columns] = value
    return values


ALL = slice(None)
LACKS_0 = changed(ALL, slice(0, 2), np.nan)
INFINITE = changed(3, 4, np.inf)


def classifier(**params):
    tiny = {"modalities": [2, 3], "max_epochs": 1, "hidden": (4,), "n_components": 3}
    return TCMaxClassifier(**{**tiny, "random_state": 0, **params})


def on_device(name):
    """Stand for a tensor there, as far as an input check looks."""
    members = {"__module__": "torch", "device": torch.device(name)}
    return type("Tensor", (), members)()


def said(*parts):
    """Pattern of a text that holds these parts, in this order."""
    return "(?s)" + ".*".join(map(re.escape, parts))


def content(value):
    """What a call must leave alone: bytes of arrays, text of frames, else the repr."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, pd.DataFrame):
        return value.dtypes.to_dict(), value.to_csv()
    return repr(value)


def refuse(estimator, method, *args, raises, match, **kwargs):
    """Call, and check the exception's exact type, its text, and what is untouched."""
    params = estimator.get_params(deep=False)
    before = {name: (id(value), content(value)) for name, value in params.items()}
    given = [content(value) for value in (*args, *kwargs.values())]
    with pytest.raises(raises, match=match) as caught:
        getattr(estimator, method)(*args, **kwargs)
    assert caught.type is raises
    params = estimator.get_params(deep=False)
    after = {name: (id(value), content(value)) for name, value in params.items()}
    assert after == before
    assert [content(value) for value in (*args, *kwargs.values())] == given


# Values out of range or of a wrong type; each text names the parameter and the value.
OUT_OF_RANGE = {
    "loss": ("no", None),
    "fusion": ("no", None),
    "shared_head": ("yes", 1),
    "head_hidden": (3, "ab"),
    "temperature": (0, -1, np.inf, "x"),
    "n_tuples": (0, 1.5),
    "n_draws": (0, None),
    "ogm_alpha": (-1, "x"),
    "encoder": (3, None, ["mlp"]),
    "n_components": (0, 3.0),
    "hidden": (8, None, "ab"),
    "activation": ("no", None),
    "dropout": (1, -0.1, np.nan),
    "lr": (0, -1, "x", np.nan, np.inf),
    "lr_schedule": ("step",),
    "max_epochs": (0, 1.5, None),
    "batch_size": (0, 2.5),
    "weight_decay": (-1, np.inf),
    "clip_norm": (0, "x"),
    "early_stopping": (3, "no"),
    "validation_fraction": (0, 1, 5),
    "n_iter_no_change": (0,),
    "class_weight": ("bal", [1, 2]),
    "keep_missing": ("no",),
    "warm_start": ("no",),
    "checkpoint_dir": (3,),
    "net_params": ([1], "lr"),
    "precision": ("fp8", 16),
    "random_state": ("x", -1, 1.5),
    "verbose": ("x", -1),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}={value!r}")
        for name, values in OUT_OF_RANGE.items()
        for value in values
    ],
)
def test_parameter_out_of_range(name, value):
    text = said(f"'{name}' parameter of TCMaxClassifier must be", f"Got {value!r} ")
    wrong = {"raises": InvalidParameterError, "match": text}
    refuse(classifier(**{name: value}), "fit", X, Y, **wrong)
    estimator = classifier(**{name: value})
    refuse(estimator, "partial_fit", X, Y, classes=[0, 1], **wrong)


def test_every_parameter_has_a_row():
    checked_by_hand = {"modalities", "device"}
    assert set(OUT_OF_RANGE) | checked_by_hand == set(classifier().get_params())


@pytest.mark.parametrize(
    ("params", "raises", "match"),
    [
        pytest.param(
            {"hidden": (0,)}, ValueError, said("hidden: ", "(0,)"), id="hidden zero"
        ),
        pytest.param(
            {"hidden": (4, 1.5)}, ValueError, said("hidden: ", "(4, 1.5)"), id="float"
        ),
        pytest.param(
            {"hidden": ((4,),)}, ValueError, said("hidden: ", "((4,),)"), id="nested"
        ),
        pytest.param(
            {"head_hidden": (-1,)},
            ValueError,
            said("head_hidden: ", "(-1,)"),
            id="head_hidden negative",
        ),
        pytest.param(
            {"head_hidden": (3,), "fusion": "cosine"},
            ValueError,
            said("head_hidden: ", "fusion='cosine'", "got (3,)", "fusion='additive'"),
            id="head_hidden with cosine",
        ),
        *(
            pytest.param(
                {"loss": loss, "fusion": fusion},
                ValueError,
                said(f"loss: '{loss}'", f"fusion='{fusion}'", "Use fusion='additive'"),
                id=f"{loss} with {fusion}",
            )
            for loss in ("unimodal", "ogm_ge")
            for fusion in ("mlp", "gated")
        ),
        pytest.param(
            {"shared_head": True, "fusion": "film"},
            ValueError,
            said("shared_head: expected False", "got True with fusion='film'"),
            id="shared_head with film",
        ),
        *(
            pytest.param(
                {"encoder": kind},
                ValueError,
                said(f"encoder: '{kind}'", "shape (2,)", "Use 'linear' or 'mlp'"),
                id=f"encoder {kind} of a vector",
            )
            for kind in ("conv", "attention")
        ),
        pytest.param(
            {"encoder": {"modality0": "no"}},
            ValueError,
            said("encoder: expected one of", "'modality0'", "got 'no'"),
            id="encoder dict with an unknown kind",
        ),
        pytest.param(
            {"encoder": {"modality0": "mlp", "image": "mlp"}},
            ValueError,
            said("encoder: ", "['modality0', 'modality1']", "got ['image']"),
            id="encoder dict with an unknown modality",
        ),
        pytest.param(
            {"encoder": {3: "mlp"}},
            ValueError,
            said("encoder: ", "['modality0', 'modality1']", "got [3]"),
            id="encoder dict with a number",
        ),
        pytest.param(
            {"precision": "bf16"},
            ValueError,
            said("precision: 'bf16' needs float32 data, got float64", "astype"),
            id="bf16 of float64",
        ),
        *(
            pytest.param(
                {"device": device},
                ValueError,
                said("device: expected 'auto', 'cpu', 'cuda'", f"got {device!r}"),
                id=f"device {device!r}",
            )
            for device in ("tpu", "", None, 1.5)
        ),
        *(
            pytest.param(
                {"device": device},
                ValueError,
                said(f"device: '{device}' is not available", "CUDA devices", "'auto'"),
                id=f"device {device!r}",
            )
            for device in ("cuda:99", "meta")
        ),
        *(
            pytest.param(
                {"net_params": {name: None, "optimizer": torch.optim.SGD}},
                ValueError,
                said("net_params: ", f"['{name}'] can't be set here", "Use its own"),
                id=f"net_params {name}",
            )
            for name in ("module", "criterion", "lr", "max_epochs", "device")
        ),
        pytest.param(
            {"net_params": {"verbose": 1, "batch_size": 4}},
            ValueError,
            said("net_params: ", "['batch_size', 'verbose'] can't be set"),
            id="net_params with two reserved",
        ),
        pytest.param(
            {"net_params": {"nonsense": 1}},
            ValueError,
            said("nonsense"),
            id="net_params nonsense",
        ),
        pytest.param(
            {"net_params": {"optimizer__nonsense": 1}},
            TypeError,
            said("nonsense"),
            id="net_params nonsense for the optimizer",
        ),
        pytest.param(
            {"class_weight": {7: 1.0}},
            ValueError,
            said("[0, 1]", "class_weight"),
            id="class_weight without the classes",
        ),
    ],
)
def test_parameters_that_do_not_fit(params, raises, match):
    refuse(classifier(**params), "fit", X, Y, raises=raises, match=match)


def test_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    text = said("device: 'cuda' is not available", "0 CUDA devices", "device='auto'")
    refuse(classifier(device="cuda"), "fit", X, Y, raises=ValueError, match=text)


@pytest.mark.parametrize("state", [None, np.random.RandomState(0)])
def test_checkpoints_without_an_int_random_state(tmp_path, state):
    folder = tmp_path / "runs"
    estimator = classifier(checkpoint_dir=folder, random_state=state)
    text = said("checkpoint_dir: ", "random_state to be an int, got", str(state))
    refuse(estimator, "fit", X, Y, raises=ValueError, match=text)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("data", "y", "raises", "match"),
    [
        pytest.param(X[:, 0], Y, ValueError, said("2D", "got 1D"), id="X 1-D"),
        pytest.param(X[..., None], Y, ValueError, said("array with dim 3"), id="X 3-D"),
        pytest.param(3.0, Y, ValueError, said("2D", "got scalar"), id="X a number"),
        pytest.param(None, Y, ValueError, said("2D", "got scalar"), id="X None"),
        pytest.param(
            X[:0], Y[:0], ValueError, said("0 sample(s)", "(0, 5)"), id="X without rows"
        ),
        pytest.param(
            X[:, :0],
            Y,
            ValueError,
            said("0 feature(s)", "(12, 0)"),
            id="X without columns",
        ),
        pytest.param(
            [X[:, :2], X[:, 2:]],
            Y,
            ValueError,
            said("inhomogeneous shape"),
            id="X a list of blocks",
        ),
        pytest.param(
            {"a": X[:, :2], "b": X[:, 2:]},
            Y,
            TypeError,
            said("not 'dict'"),
            id="X a dict of blocks",
        ),
        pytest.param(sp.csr_array(X), Y, TypeError, said("Sparse", "X"), id="X sparse"),
        pytest.param(X + 1j, Y, ValueError, said("Complex data"), id="X complex"),
        pytest.param(
            FRAME.astype(object).assign(a__0="red"),
            Y,
            ValueError,
            said("could not convert string to float", "red"),
            id="X strings",
        ),
        pytest.param(
            on_device("cuda:0"),
            Y,
            TypeError,
            said("X: expected", "on the CPU, got", "'cuda:0'", "`X.cpu()`"),
            id="X on CUDA",
        ),
        pytest.param(
            torch.empty(N_ROWS, 5, device="meta"),
            Y,
            TypeError,
            said("X: expected", "on the CPU, got", "'meta'", "`X.cpu()`"),
            id="X on meta",
        ),
        pytest.param(
            INFINITE, Y, ValueError, said("infinity", "'modality1', row 3"), id="inf"
        ),
        pytest.param(
            changed([1, 7], 0, -np.inf),
            Y,
            ValueError,
            said("infinity", "'modality0', rows 1, 7 (2 in all)", "NaN"),
            id="-inf in two rows",
        ),
        pytest.param(
            LACKS_0,
            Y,
            ValueError,
            said("X: the modality 'modality0' is never observed", "'drop'"),
            id="a modality never observed",
        ),
        pytest.param(
            np.full_like(X, np.nan),
            Y,
            ValueError,
            said("X: the modalities 'modality0', 'modality1' are never observed"),
            id="X all NaN",
        ),
        pytest.param(X, Y[:-1], ValueError, said("[12, 11]"), id="y of another length"),
        pytest.param(
            X, np.c_[Y, Y], ValueError, said("y should be", "(12, 2)"), id="y 2-D"
        ),
        pytest.param(
            X,
            Y[:, None],
            DataConversionWarning,
            said("column-vector y", "(n_samples, )"),
            id="y a column",
        ),
        pytest.param(X, 1, ValueError, said("y should be", "()"), id="y a number"),
        pytest.param(X, None, ValueError, said("y", "None"), id="y None"),
        pytest.param(
            X, X[:, 0], ValueError, said("label type: continuous"), id="y regression"
        ),
        pytest.param(
            X, 0 * Y, ValueError, said("y: expected at least 2", "0"), id="one class"
        ),
        pytest.param(
            X, np.where(Y, 1, np.nan), ValueError, said("y contains NaN"), id="y NaN"
        ),
        pytest.param(
            X, np.where(Y, 1, np.inf), ValueError, said("y", "infinity"), id="y inf"
        ),
        pytest.param(
            X,
            on_device("cuda:0"),
            TypeError,
            said("y: expected", "on the CPU, got", "'cuda:0'", "`y.cpu()`"),
            id="y on CUDA",
        ),
    ],
)
def test_data(data, y, raises, match):
    refuse(classifier(), "fit", data, y, raises=raises, match=match)
    if match != said("y: expected at least 2", "0"):  # partial_fit is told the classes
        wrong = {"raises": raises, "match": match, "classes": [0, 1]}
        refuse(classifier(), "partial_fit", data, y, **wrong)


@pytest.mark.parametrize(
    ("weight", "match"),
    [
        pytest.param(-ONES, said("Negative", "`sample_weight`"), id="negative"),
        pytest.param(ONES * np.nan, said("sample_weight contains NaN"), id="NaN"),
        pytest.param(ONES * np.inf, said("sample_weight", "infinity"), id="inf"),
        pytest.param(0 * ONES, said("ample weights", "non-zero"), id="all zero"),
        pytest.param(ONES[:-1], said("sample_weight", "(11,)", "(12,)"), id="shorter"),
        pytest.param(
            np.c_[ONES, ONES], said("ample weights", "1D", "got 2D"), id="2-D"
        ),
        pytest.param(["a"] * N_ROWS, said("could not convert", "'a'"), id="strings"),
    ],
)
def test_sample_weight(weight, match):
    wrong = {"raises": ValueError, "match": match, "sample_weight": weight}
    refuse(classifier(), "fit", X, Y, **wrong)
    refuse(classifier(), "partial_fit", X, Y, classes=[0, 1], **wrong)
    refuse(classifier().fit(X, Y), "total_correlation", X, Y, **wrong)


def test_a_modality_seen_only_where_the_weight_is_zero():
    weight = np.r_[1.0, 1.0, np.zeros(N_ROWS - 2)]
    refuse(
        classifier(),
        "fit",
        changed(slice(2), slice(0, 2), np.nan),
        Y,
        sample_weight=weight,
        raises=ValueError,
        match=said("X: the modality 'modality0' is never observed"),
    )


@pytest.mark.parametrize(
    ("modalities", "data", "raises", "match"),
    [
        pytest.param(
            [2, 2], X, ValueError, said("widths sum to 4", "X has 5 feature"), id="few"
        ),
        pytest.param(
            [2, 4], X, ValueError, said("widths sum to 6", "X has 5 feature"), id="many"
        ),
        pytest.param(
            [2, 3],
            X[:, :1],
            ValueError,
            said("modalities: widths sum to 5", "1 feature(s)"),
            id="one column",
        ),
        pytest.param(
            [5, 0],
            X,
            ValueError,
            said("modalities: expected positive widths, got 0 at position 1"),
            id="width zero",
        ),
        pytest.param(
            [2.0, 3.0],
            X,
            TypeError,
            said("modalities: ", "integers", "float at position 0"),
            id="float widths",
        ),
        pytest.param(
            [[0, 1], [2, 3, 4]],
            X,
            TypeError,
            said("modalities: ", "list at position 0", "pass a mapping"),
            id="list of index lists",
        ),
        pytest.param(
            "columns",
            X,
            ValueError,
            said("modalities: expected 'auto'", "got 'columns'"),
            id="unknown string",
        ),
        pytest.param(
            3, X, TypeError, said("modalities: expected 'auto'", "got 3"), id="a number"
        ),
        pytest.param(
            lambda X: "columns",
            X,
            ValueError,
            said("modalities: expected 'auto'", "got 'columns'"),
            id="callable that returns no grouping",
        ),
        pytest.param(
            {}, X, ValueError, said("modalities: ", "at least one", "[]"), id="empty"
        ),
        pytest.param(
            {"drop": slice(None)},
            X,
            ValueError,
            said("modalities: ", "'drop'", "['drop']"),
            id="only drop",
        ),
        pytest.param(
            {1: [0, 1], "b": [2, 3, 4]},
            X,
            TypeError,
            said("modalities: expected names", "got 1 of type int"),
            id="a number for a name",
        ),
        pytest.param(
            {"a__b": [0, 1], "b": [2, 3, 4]},
            X,
            ValueError,
            said("modalities: expected names", "'__', got 'a__b'"),
            id="separator in a name",
        ),
        pytest.param(
            {"a": [0, 1], "b": [1, 2, 3, 4]},
            X,
            ValueError,
            said("modalities: column 1 is in the groups 'a' and 'b'"),
            id="column in two groups",
        ),
        pytest.param(
            {"a": ["a__0", "b__0"], "b": ["a__1", "b__0", "b__1", "b__2"]},
            FRAME,
            ValueError,
            said("modalities: column 'b__0' is in the groups 'a' and 'b'"),
            id="named column in two groups",
        ),
        pytest.param(
            {"a": [0, 1], "b": [2, 3]},
            X,
            ValueError,
            said("modalities: column 4 is in no group", "'drop'"),
            id="column in no group",
        ),
        pytest.param(
            {"a": ["a__0", "a__1"], "b": ["b__0"]},
            FRAME,
            ValueError,
            said("modalities: columns 'b__1', 'b__2' (2 in all) are in no group"),
            id="named columns in no group",
        ),
        pytest.param(
            {"a": [], "b": slice(None)},
            X,
            ValueError,
            said("modalities: group 'a' selects no column"),
            id="group without columns",
        ),
        pytest.param(
            {"a": ["a__0", "a__9"], "b": ["b__0", "b__1", "b__2"]},
            FRAME,
            ValueError,
            said("modalities['a']: X has no columns named ['a__9']"),
            id="name not found",
        ),
        pytest.param(
            {"a": "a__0", "b": [1, 2, 3, 4]},
            X,
            ValueError,
            said("modalities['a']: ", "'a__0'", "without names"),
            id="names for an array",
        ),
        pytest.param(
            {"a": [0, 1], "b": [2, 3, 9]},
            X,
            ValueError,
            said("modalities['b']: there is no column 9", "5 feature(s)"),
            id="no such column",
        ),
        pytest.param(
            {"a": slice(0, 2), "b": slice(2, 7)},
            X,
            ValueError,
            said("modalities['b']: slice(2, 7, None) reaches beyond"),
            id="slice too long",
        ),
        pytest.param(
            {"a": [True, False], "b": [2, 3, 4]},
            X,
            ValueError,
            said("modalities['a']: ", "boolean mask", "got 2 entries"),
            id="short mask",
        ),
        pytest.param(
            {"a": {0, 1}, "b": [2, 3, 4]},
            X,
            TypeError,
            said("modalities['a']: expected columns", "got {0, 1}"),
            id="set of columns",
        ),
    ],
)
def test_modalities(modalities, data, raises, match):
    estimator = classifier(modalities=modalities)
    refuse(estimator, "fit", data, Y, raises=raises, match=match)


@pytest.mark.parametrize(
    ("fields", "raises", "match"),
    [
        pytest.param(
            {"shape": (2, 2)},
            ValueError,
            said("modalities['b'].shape: (2, 2) has 4 entries", "3 columns"),
            id="shape of another size",
        ),
        pytest.param(
            {"shape": (1, 1, 1, 3)},
            ValueError,
            said("modalities['b'].shape: expected (d,)", "got (1, 1, 1, 3)"),
            id="shape 4-D",
        ),
        pytest.param(
            {"shape": (-1, -3)},
            ValueError,
            said("modalities['b'].shape: expected (d,)", "got (-1, -3)"),
            id="shape negative",
        ),
        pytest.param(
            {"shape": 3},
            TypeError,
            said("modalities['b'].shape: expected a tuple", "got 3"),
            id="shape a number",
        ),
        pytest.param(
            {"likelihood": "poisson"},
            ValueError,
            said("modalities['b'].likelihood: expected one of", "got 'poisson'"),
            id="likelihood unknown",
        ),
        pytest.param(
            {"likelihood": "bernoulli"},
            ValueError,
            said("modalities['b'].likelihood: 'bernoulli'", "[0, 1]", "(12 in all)"),
            id="bernoulli outside [0, 1]",
        ),
        pytest.param(
            {"likelihood": "categorical"},
            ValueError,
            said("modalities['b'].likelihood: 'categorical'", "one-hot", "(12 in all)"),
            id="categorical not one-hot",
        ),
        pytest.param(
            {"scaling": "zscore"},
            ValueError,
            said("modalities['b'].scaling: expected one of", "got 'zscore'"),
            id="scaling unknown",
        ),
        pytest.param(
            {"likelihood": "bernoulli", "scaling": "column"},
            ValueError,
            said("modalities['b'].scaling: ", "'bernoulli'", "scaling='column'"),
            id="scaling of bernoulli",
        ),
        pytest.param(
            {"encoder": 3},
            TypeError,
            said("modalities['b'].encoder: expected None", "got 3"),
            id="encoder a number",
        ),
        *(
            pytest.param(
                {"encoder": kind},
                ValueError,
                said(f"encoder: '{kind}' does not fit", "shape (3,)"),
                id=f"encoder {kind} of a vector",
            )
            for kind in ("conv", "attention")
        ),
        pytest.param(
            {"encoder": "attention", "shape": (1, 1, 3)},
            ValueError,
            said("encoder: 'attention' does not fit", "shape (1, 1, 3)"),
            id="attention of an image",
        ),
    ],
)
def test_modality(fields, raises, match):
    estimator = classifier(modalities={"a": [0, 1], "b": Modality([2, 3, 4], **fields)})
    refuse(estimator, "fit", X, Y, raises=raises, match=match)


@pytest.mark.parametrize(
    ("params", "kwargs", "raises", "match"),
    [
        pytest.param(
            {"early_stopping": True},
            {},
            ValueError,
            said("early_stopping: expected False", "got True"),
            id="early_stopping",
        ),
        pytest.param(
            {},
            {"classes": [0]},
            ValueError,
            said("y: expected at least 2 classes", "0"),
            id="one class",
        ),
        pytest.param(
            {},
            {"classes": [0, 2]},
            ValueError,
            said("y: ", "classes [0, 2], got [1]", "partial_fit(classes=...)"),
            id="a label not among classes",
        ),
        pytest.param(
            {},
            {"classes": ["no", "yes"]},
            ValueError,
            said("y: ", "classes ['no', 'yes'], got [0, 1]"),
            id="classes of another type",
        ),
    ],
)
def test_first_partial_fit(params, kwargs, raises, match):
    estimator = classifier(**params)
    refuse(estimator, "partial_fit", X, Y, raises=raises, match=match, **kwargs)


GO_ON = [
    pytest.param(
        X, Y + 1, {}, ValueError, said("classes [0, 1], got [2]"), id="unknown label"
    ),
    pytest.param(
        X,
        Y.astype(str),
        {},
        ValueError,
        said("classes [0, 1], got ['0', '1']"),
        id="labels of another type",
    ),
    pytest.param(
        X[:, :4], Y, {}, ValueError, said("X has 4", "expecting 5"), id="fewer columns"
    ),
    pytest.param(
        np.c_[X, ONES], Y, {}, ValueError, said("X has 6", "expecting 5"), id="more"
    ),
    pytest.param(
        INFINITE, Y, {}, ValueError, said("infinity", "'modality1', row 3"), id="inf"
    ),
    pytest.param(X, Y[1:], {}, ValueError, said("[12, 11]"), id="y shorter"),
    pytest.param(
        X,
        Y,
        {"sample_weight": 0 * ONES},
        ValueError,
        said("ample weights", "non-zero"),
        id="weights all zero",
    ),
]


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(("data", "y", "kwargs", "raises", "match"), GO_ON)
def test_going_on_fails_without_harm(method, data, y, kwargs, raises, match):
    estimator = classifier(warm_start=True)
    estimator.partial_fit(X, Y, classes=[0, 1])
    before = estimator.predict_proba(X)
    refuse(estimator, method, data, y, raises=raises, match=match, **kwargs)
    assert estimator.predict_proba(X).tobytes() == before.tobytes()
    assert estimator.n_iter_ == 1


@pytest.mark.parametrize(
    ("name", "value"), [("lr", -1), ("loss", "no"), ("max_epochs", 0)]
)
def test_refit_with_a_wrong_parameter_fails_without_harm(name, value):
    estimator = classifier().fit(X, Y)
    before = estimator.predict_proba(X)
    estimator.set_params(**{name: value})
    text = said(f"'{name}' parameter", f"Got {value!r} ")
    refuse(estimator, "fit", X, Y, raises=InvalidParameterError, match=text)
    estimator.set_params(**{name: classifier().get_params()[name]})
    assert estimator.predict_proba(X).tobytes() == before.tobytes()


@pytest.fixture(scope="module")
def fitted():
    return classifier().fit(X, Y)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("data", "raises", "match"),
    [
        pytest.param(X[0], ValueError, said("2D", "got 1D"), id="1-D"),
        pytest.param(X[..., None], ValueError, said("dim 3"), id="3-D"),
        pytest.param(X[:0], ValueError, said("0 sample(s)", "(0, 5)"), id="no rows"),
        pytest.param(X[:, :4], ValueError, said("X has 4", "expecting 5"), id="fewer"),
        pytest.param(
            np.c_[X, ONES], ValueError, said("X has 6", "expecting 5"), id="more"
        ),
        pytest.param(
            INFINITE, ValueError, said("infinity", "'modality1', row 3"), id="inf"
        ),
        pytest.param(sp.csr_array(X), TypeError, said("Sparse", "X"), id="sparse"),
        pytest.param(X + 1j, ValueError, said("Complex data"), id="complex"),
        pytest.param(
            X.astype(str).astype(object) + "x",
            ValueError,
            said("could not convert string to float", "x"),
            id="strings",
        ),
        pytest.param(
            on_device("cuda:1"),
            TypeError,
            said("X: expected", "got", "'cuda:1'", "`X.cpu()`"),
            id="on CUDA",
        ),
    ],
)
def test_data_to_predict(fitted, method, data, raises, match):
    refuse(fitted, method, data, raises=raises, match=match)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("data", "raises", "match"),
    [
        pytest.param(
            FRAME.rename(columns={"a__1": "z__1"}),
            ValueError,
            said("feature names should match", "z__1", "a__1"),
            id="renamed",
        ),
        pytest.param(
            FRAME[NAMES[::-1]], ValueError, said("same order"), id="reordered"
        ),
        pytest.param(
            X, UserWarning, said("X does not have valid feature names"), id="no names"
        ),
    ],
)
def test_names_to_predict(method, data, raises, match):
    fitted = classifier(modalities="auto").fit(FRAME, Y)
    refuse(fitted, method, data, raises=raises, match=match)


@pytest.mark.parametrize(
    ("method", "args"),
    [
        *((method, (X,)) for method in METHODS),
        ("predict_proba_modality", (X, "modality0")),
        ("total_correlation", (X, Y)),
        ("score", (X, Y)),
        ("get_feature_names_out", ()),
    ],
)
def test_before_fit(method, args):
    text = said("TCMaxClassifier instance is not fitted yet")
    refuse(classifier(), method, *args, raises=NotFittedError, match=text)


@pytest.mark.parametrize(
    ("method", "args", "raises", "match"),
    [
        *(
            pytest.param(
                "predict_proba_modality",
                (X, name),
                ValueError,
                said("modality: ", "['modality0', 'modality1']", f"got [{name!r}]"),
                id=f"modality {name!r}",
            )
            for name in ("image", 0, None, ["modality0"])
        ),
        pytest.param(
            "predict_proba_modality",
            (INFINITE, "modality0"),
            ValueError,
            said("infinity", "'modality1', row 3"),
            id="inf in another modality",
        ),
        pytest.param(
            "total_correlation",
            (X, Y + 1),
            ValueError,
            said("y: ", "classes [0, 1], got [2]"),
            id="unknown label",
        ),
        pytest.param(
            "total_correlation",
            (X, Y[1:]),
            ValueError,
            said("[12, 11]"),
            id="y of another length",
        ),
        pytest.param(
            "total_correlation", (X, None), ValueError, said("y", "None"), id="y None"
        ),
        pytest.param(
            "total_correlation",
            (X, np.where(Y, 1, np.nan)),
            ValueError,
            said("y contains NaN"),
            id="y NaN",
        ),
        pytest.param(
            "total_correlation",
            (X[:, :4], Y),
            ValueError,
            said("X has 4", "expecting 5"),
            id="fewer columns",
        ),
        pytest.param(
            "total_correlation",
            (INFINITE, Y),
            ValueError,
            said("infinity", "'modality1', row 3"),
            id="inf",
        ),
    ],
)
def test_arguments_after_fit(fitted, method, args, raises, match):
    refuse(fitted, method, *args, raises=raises, match=match)


def test_device_unknown_after_fit():
    estimator = classifier(device="cpu").fit(X, Y).set_params(device="tpu")
    text = said("device: expected 'auto', 'cpu'", "got 'tpu'")
    refuse(estimator, "predict", X, raises=ValueError, match=text)


def test_device_gone_after_fit():
    estimator = classifier(device="cpu").fit(X, Y).set_params(device="cuda:99")
    before = estimator.get_params()
    with pytest.warns(UserWarning, match="device='cuda:99' is not available here"):
        labels = estimator.predict(X)
    assert set(labels) <= {0, 1}
    assert estimator.get_params() == before


@pytest.mark.parametrize("name", ["nonsense", "net__lr", "batchsize"])
def test_set_params(name):
    text = said("Invalid parameter", repr(name.partition("__")[0]), "TCMaxClassifier")
    refuse(classifier(), "set_params", raises=ValueError, match=text, **{name: 1})


@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        pytest.param((), {"nonsense": 1}, said("'nonsense'"), id="unknown"),
        pytest.param(([2, 3], "additive"), {}, said("positional"), id="positional"),
    ],
)
def test_constructor(args, kwargs, match):
    with pytest.raises(TypeError, match=match):
        TCMaxClassifier(*args, **kwargs)


# ---------------------------------------------------------- fits that fail midway
@pytest.mark.parametrize(
    ("data", "y"),
    [
        pytest.param(INFINITE, np.array(list("ab" * 6)), id="other labels"),
        pytest.param(INFINITE, np.arange(12) % 3, id="another number of classes"),
        pytest.param(X[:, :4], Y, id="another number of columns"),
    ],
)
def test_a_failed_refit_leaves_the_fitted_estimator(data, y):
    estimator = classifier().fit(X, Y)
    before = estimator.predict_proba(X)
    with pytest.raises(ValueError, match=r"infinity|4 feature\(s\)"):
        estimator.fit(data, y)
    assert estimator.predict_proba(X).tobytes() == before.tobytes()
    assert estimator.classes_.tolist() == [0, 1]


def test_an_interrupted_refit_leaves_the_fitted_estimator():
    class Interrupt(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    estimator = classifier().fit(X, Y)
    before = estimator.predict_proba(X)
    estimator.set_params(net_params={"callbacks": [Interrupt()]})
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(100 + 50 * X, Y)
    assert estimator.predict_proba(X).tobytes() == before.tobytes()


def test_a_failed_first_fit_leaves_nothing_fitted():
    estimator = classifier()
    with pytest.raises(ValueError, match="infinity"):
        estimator.fit(INFINITE, Y)
    with pytest.raises(NotFittedError):
        estimator.predict(X)
    with pytest.raises(NotFittedError):
        estimator.get_feature_names_out()


def test_training_that_diverges():
    estimator = classifier(lr=1e10, max_epochs=20, hidden=(4, 4), activation="relu")
    text = said("training diverged: the loss of epoch ", "smaller lr (it is 1", "clip")
    refuse(estimator, "fit", X, Y, raises=ValueError, match=text)


@pytest.mark.parametrize(
    "weights",
    [{0: -1.0, 1: 1.0}, {0: np.nan, 1: 1.0}, {0: np.inf, 1: 1.0}, {0: 0, 1: 0}],
)
def test_class_weights_of_no_use(weights):
    text = said("class_weight: expected finite, non-negative weights", "got {0: ")
    estimator = classifier(class_weight=weights)
    refuse(estimator, "fit", X, Y, raises=ValueError, match=text)


def test_prediction_does_not_read_parameters_set_since():
    estimator = classifier(fusion="cosine").fit(X, Y)
    before = estimator.predict_proba(X)
    estimator.set_params(
        temperature=1.0, n_components=9, hidden=(5,), fusion="mlp", loss="unimodal"
    )
    assert estimator.predict_proba(X).tobytes() == before.tobytes()
    assert len(estimator.get_feature_names_out()) == estimator.transform(X).shape[1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_components": 9}, said("n_components: can't change", "3", "got", "9")),
        ({"hidden": (5, 5)}, said("hidden: can't change", "(4,)", "got", "(5, 5)")),
        (
            {"fusion": "mlp"},
            said("fusion, head_hidden: can't change", "additive", "got", "mlp"),
        ),
        ({"encoder": "linear"}, said("encoder: can't change", "auto", "linear")),
        ({"modalities": [1, 4]}, said("modalities: can't change", "Fit anew")),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_going_on_with_another_network(change, match, method):
    estimator = classifier(warm_start=True).fit(X, Y).set_params(**change)
    refuse(estimator, method, X, Y, raises=ValueError, match=match)


def test_dropout_may_change_while_training_goes_on():
    estimator = classifier(warm_start=True).fit(X, Y).set_params(dropout=0.5)
    assert estimator.fit(X, Y).n_iter_ == 2


@pytest.mark.parametrize(
    ("classes", "match"),
    [
        (None, said("classes must be passed on the first call")),
        ([0], said("at least 2 classes", "[0]")),
        ([], said("at least 2 classes", "[]")),
    ],
)
def test_classes_of_a_first_partial_fit(classes, match):
    wrong = {"raises": ValueError, "match": match, "classes": classes}
    refuse(classifier(), "partial_fit", X, Y, **wrong)


def test_other_classes_at_a_second_partial_fit():
    estimator = classifier().partial_fit(X, Y, classes=[0, 1])
    text = said("classes=", "not the same")
    wrong = {"raises": ValueError, "match": text, "classes": [0, 1, 2]}
    refuse(estimator, "partial_fit", X, Y, **wrong)


@pytest.mark.parametrize(
    ("encoder", "raises", "match"),
    [
        (
            torch.nn.Linear(5, 3),
            TypeError,
            said("encoder: expected", "Pass the class, not a module"),
        ),
        ({"modality0": 3}, TypeError, said("encoder: expected", "'modality0'", "3")),
        ({"modality0": None}, TypeError, said("encoder: expected", "got None")),
        ({3: "mlp", "zz": "mlp"}, ValueError, said("encoder: expected names", "[3, ")),
        (
            lambda shape, n: None,
            TypeError,
            said("encoder: expected", "returns a torch module", "NoneType"),
        ),
        (
            lambda shape, n: torch.nn.Linear(shape[0], n + 1),
            ValueError,
            said("encoder: expected an embedding of shape (n, 3)", "4)", "Linear"),
        ),
    ],
)
def test_encoders_of_no_use(encoder, raises, match):
    estimator = classifier(encoder=encoder)
    refuse(estimator, "fit", X, Y, raises=raises, match=match)


@pytest.mark.parametrize(
    ("params", "raises"),
    [
        ({"nonsense": 1}, ValueError),
        ({"optimizer": "SGD"}, TypeError),
        ({"precision": "bf16"}, ValueError),
    ],
)
def test_net_params_of_no_use(params, raises):
    match = said("net_params: ", next(iter(params)))
    refuse(classifier(net_params=params), "fit", X, Y, raises=raises, match=match)


@pytest.mark.parametrize(
    "callback", [EarlyStopping, EarlyStopping(), ("stop", EarlyStopping())]
)
def test_early_stopping_of_skorch(callback):
    text = said("net_params: skorch's EarlyStopping", "Use early_stopping=True")
    estimator = classifier(net_params={"callbacks": [callback]})
    refuse(estimator, "fit", X, Y, raises=ValueError, match=text)


@pytest.mark.parametrize("widths", [(True,), np.ones((2, 2), int), (4, 0), ("a",)])
@pytest.mark.parametrize("name", ["hidden", "head_hidden"])
def test_widths_of_no_use(name, widths):
    text = said(f"{name}: expected a sequence of positive integers", "got ")
    estimator = classifier(**{name: widths})
    refuse(estimator, "fit", X, Y, raises=ValueError, match=text)


def test_no_rows_left_to_train_on():
    estimator = classifier(early_stopping=True, validation_fraction=0.99)
    text = said("validation_fraction: 0.99 of 12 samples leaves none")
    refuse(estimator, "fit", X, Y, raises=ValueError, match=text)


def test_weights_on_another_device(fitted):
    text = said("sample_weight: expected", "'cuda:0'", "sample_weight.cpu()")
    wrong = {"raises": TypeError, "match": text, "sample_weight": on_device("cuda:0")}
    refuse(classifier(), "fit", X, Y, **wrong)
    refuse(fitted, "total_correlation", X, Y, **wrong)


def test_a_modality_asked_for_by_an_array(fitted):
    names = np.array(["modality0", "modality1"])
    text = said("modality: expected among", "got [array(")
    refuse(fitted, "predict_proba_modality", X, names, raises=ValueError, match=text)
