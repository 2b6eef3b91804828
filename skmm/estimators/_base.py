"""What all estimators share: devices, row weights, the modalities of a fit."""

# License: BSD-3-Clause

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.utils import compute_class_weight
from sklearn.utils.validation import _check_sample_weight

from skmm.modalities import (
    Layout,
    OneModalityWarning,
    _to_array,
    check_likelihood,
    resolve_modalities,
)


def to_arrays(value: Any) -> Any:
    """Nested tensors to NumPy arrays, so that state opens without a GPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy().copy()
    if isinstance(value, Mapping):
        return {k: to_arrays(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_arrays(v) for v in value]
    return value


def to_tensors(value: Any) -> Any:
    """Nested arrays to tensors: copies, since arrays may be read-only."""
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, Mapping):
        return {k: to_tensors(v) for k, v in value.items()}
    if isinstance(value, list):
        return [to_tensors(v) for v in value]
    return value


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[None]:
    """Put the attributes back as they were if the block fails or is interrupted.

    A refit that ends halfway would leave new classes or scales with old weights.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


@contextmanager
def told_fit(
    estimator: Any, told: dict[str, Any], max_subtasks: int | None
) -> Iterator[Any]:
    """A fit of which scikit-learn's callbacks are told, whole or not at all.

    Gives the callbacks' context; `told` are X, y and metadata as the estimator got
    them.
    """
    context = estimator._init_callback_context(max_subtasks=max_subtasks)
    context.call_on_fit_task_begin(estimator=estimator, **told)
    with all_or_nothing(estimator):
        yield context
    context.call_on_fit_task_end(
        estimator=estimator, **told, reconstruction_attributes=lambda: vars(estimator)
    )


def fit_layout(
    estimator: Any, original: Any, X: np.ndarray, *, go_on: bool = False
) -> Layout:
    """Resolve `modalities`, and set the fitted attributes that describe it.

    With `go_on` the layout must be the one of the last fit.
    """
    with warnings.catch_warnings():
        if go_on:  # the first fit has said it
            warnings.simplefilter("ignore", OneModalityWarning)
        layout = resolve_modalities(
            estimator.modalities,
            # Selectors see X as the user gave it; lists have no columns.
            original if hasattr(original, "shape") else X,
            feature_names=getattr(estimator, "feature_names_in_", None),
        )
    if go_on and layout != estimator._layout:
        raise ValueError(
            "modalities: can't change while training goes on from the last fit, "
            f"whose groups were {estimator._layout.names}. Fit anew: "
            "warm_start=False, or a clone for partial_fit."
        )
    check_likelihood(X, layout)
    estimator._layout = layout
    estimator.modality_names_in_ = np.array(layout.names, dtype=object)
    estimator.modality_indices_ = layout.indices
    return layout


def check_weight(sample_weight: Any, X: np.ndarray) -> np.ndarray:
    """Row weights in float64: ones where none are given, never all zero."""
    return _check_sample_weight(
        _to_array(sample_weight, "sample_weight"),
        X,
        dtype=np.float64,
        ensure_non_negative=True,
    )


def class_factors(
    class_weight: Any, classes: np.ndarray, codes: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Weights of the classes (n_classes,) from the parameter `class_weight`.

    Rows of weight zero, and those with a negative code, do not count.
    """
    counted = (weight > 0) & (codes >= 0)
    present = np.unique(codes[counted])
    given = class_weight
    if isinstance(given, dict):  # without the classes that these rows lack
        lacking = classes[np.setdiff1d(np.arange(len(classes)), present)].tolist()
        given = {k: v for k, v in given.items() if k not in lacking}
    factors = np.ones(len(classes))
    factors[present] = compute_class_weight(
        given,
        classes=classes[present],
        y=classes[codes[counted]],
        sample_weight=weight[counted],
    )
    valid = np.isfinite(factors).all() and (factors >= 0).all()
    if not (valid and factors[present].any()):
        raise ValueError(
            "class_weight: expected finite, non-negative weights, at least one of "
            f"them positive, got {class_weight!r}."
        )
    return factors


def prefixed(names: np.ndarray, modalities: np.ndarray) -> list[str]:
    """Names of columns with their modality in front, unless all have it already."""
    pairs = list(zip(modalities, names, strict=True))
    out = [
        name if name.startswith(f"{modality}__") else f"{modality}__{name}"
        for modality, name in pairs
    ]
    if len(set(out)) < len(out):  # "x" and "image__x", both of image
        out = [f"{modality}__{name}" for modality, name in pairs]
    return out


def modality_columns(layout: Layout, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns that are in a modality, in their order in X, and which it is."""
    columns = np.sort(np.concatenate([block.indices for block in layout]))
    names = np.empty(n_features, dtype=object)
    for block in layout:
        names[block.indices] = block.name
    return columns, names[columns]


def tell(estimator: Any, context: Any, told: dict[str, Any], name: str) -> bool:
    """Tell scikit-learn's callbacks of a step that is done; True to stop."""
    task = context.subcontext(task_name=name, max_subtasks=0)
    task.call_on_fit_task_begin(estimator=estimator, **told)
    return bool(task.call_on_fit_task_end(estimator=estimator, **told))
