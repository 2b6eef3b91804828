"""scikit-learn's own checks, whole, on every estimator in several configurations.

The array-API check runs because `conftest.py` sets SCIPY_ARRAY_API.
"""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmm import (
    CrossModalGraphicalLasso,
    DCMEMEncoder,
    DecAlignClassifier,
    DecAlignRegressor,
    DecAlignTransformer,
    DPMixtureFusion,
    Modality,
    OneModalityWarning,
    TCMaxClassifier,
)

# The checks feed plain arrays, which `modalities="auto"` takes as one modality.
pytestmark = pytest.mark.filterwarnings(
    f"ignore::{OneModalityWarning.__module__}.{OneModalityWarning.__name__}"
)


def halves(X):
    """Two modalities of whatever width comes; one of a single column."""
    n = X.shape[1]
    return [n // 2, n - n // 2] if n > 1 else [1]


def columns(X):
    """A modality a column, the last with a shape and a scaling of its own."""
    n = X.shape[1]
    groups = {f"c{j}": [j] for j in range(n - 1)}
    return groups | {"last": Modality([n - 1], shape=(1,), scaling="block")}


SMALL_AND_STILL = {
    "hidden": (16,),
    "dropout": 0.0,
    "input_dropout": 0.0,
    "modality_dropout": 0.0,
}
CONFIGURATIONS = [
    TCMaxClassifier(),
    TCMaxClassifier(modalities=halves),
    TCMaxClassifier(modalities=columns, shared_head=True, head_hidden=(16,)),
    TCMaxClassifier(modalities=halves, fusion="cosine", temperature=0.3),
    TCMaxClassifier(modalities=halves, fusion="mlp", head_hidden=(16,)),
    TCMaxClassifier(modalities=halves, fusion="film"),
    TCMaxClassifier(modalities=halves, fusion="gated"),
    TCMaxClassifier(modalities=halves, loss="cross_entropy", class_weight="balanced"),
    TCMaxClassifier(modalities=halves, loss="unimodal", keep_missing=True),
    CrossModalGraphicalLasso(),
    CrossModalGraphicalLasso(modalities=halves, npn=None, cross_modal_penalty=2.0),
    CrossModalGraphicalLasso(modalities=columns, pooling=1.0, npn="truncation"),
    CrossModalGraphicalLasso(specific_penalty="group", likelihood_weights="size"),
    CrossModalGraphicalLasso(pooling=0.0, keep_missing=True, solver="admm"),
    CrossModalGraphicalLasso(alpha="auto", selection="ebic", n_alphas=4),
    CrossModalGraphicalLasso(common_ratio="auto", cv=2, random_state=0),
    DPMixtureFusion(),
    DPMixtureFusion(
        modalities=halves, coupling="joint_stick", covariance_type="diag", n_init=1
    ),
    DPMixtureFusion(
        modalities=columns, coupling="per_modality", n_components=5, n_init=1
    ),
    DPMixtureFusion(modalities=halves, method="svi", tol=0.01, amplify=0.5),
    DPMixtureFusion(
        method="memoized", coarsening=None, moves=("merge", "delete", "birth")
    ),
    DPMixtureFusion(
        head="mixture", modalities=halves, n_init=1, keep_missing=True, n_components=10
    ),
    DPMixtureFusion(head="logistic", representation="both", n_init=1, n_components=10),
    DPMixtureFusion(
        method="neural",
        head="logistic",
        modalities=halves,
        n_components=3,
        hidden=(32,),
        embed_dim=8,
    ),
    DCMEMEncoder(max_epochs=10),
    DCMEMEncoder(modalities=halves, hidden=(32,), max_epochs=10, lr=0.01),
    DCMEMEncoder(
        modalities=columns,
        hidden=(32,),
        max_epochs=10,
        lr=0.01,
        multi="mixture",
        cross_decoder="separate",
        own_draws="one",
        output="all",
        joint="concat",
        keep_missing=True,
    ),
    DecAlignTransformer(max_epochs=5),
    DecAlignTransformer(
        modalities=columns,
        max_epochs=5,
        output="all",
        imputation="token",
        n_components=16,
        **SMALL_AND_STILL,
    ),
    DecAlignClassifier(modalities=halves, max_epochs=30, **SMALL_AND_STILL),
    DecAlignRegressor(
        modalities=halves,
        max_epochs=40,
        fusion="cross",
        n_components=16,
        **SMALL_AND_STILL,
    ),
]


def expected_failures(estimator):
    """Of DecAlign's defaults; with all dropout off the check passes."""
    if getattr(estimator, "input_dropout", 0) == 0:
        return {}
    reason = "dropout draws a mask a row: a row of weight 2 has one, two rows have two"
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@parametrize_with_checks(CONFIGURATIONS, expected_failed_checks=expected_failures)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
