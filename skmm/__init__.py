"""Multimodal-learning methods as scikit-learn estimators over torch cores.

============================  ===========================  ================
estimator                     formulas in `skmm.core`      way of fitting
============================  ===========================  ================
`CrossModalGraphicalLasso`    `precision`, `gaussian`      alternating
`DCMEMEncoder`                `multimodal_vae`             gradient
`DPMixtureFusion`             `mixture`                    alternating
(its neural form)             `mixture_network`            gradient
`DecAlignTransformer`,        `decalign`, `alignment`,     gradient
`DecAlignClassifier`,         `prototypes`, `transport`,
`DecAlignRegressor`           `tokens`, `pairing`
`TCMaxClassifier`             `dependence`, `networks`     gradient
============================  ===========================  ================

X is one array whose columns are grouped into modalities by the parameter
`modalities`; see `skmm.modalities`.
"""

from skmm._show_versions import show_versions
from skmm._version import __version__
from skmm.estimators._cross_modal_graphical_lasso import CrossModalGraphicalLasso, Edge
from skmm.estimators._dcmem import DCMEMEncoder
from skmm.estimators._dec_align import (
    DecAlignClassifier,
    DecAlignRegressor,
    DecAlignTransformer,
)
from skmm.estimators._dp_mixture_fusion import DPMixtureFusion
from skmm.estimators._joint_graphical_lasso import (
    JointGraphicalLassoResult,
    joint_graphical_lasso,
)
from skmm.estimators._tcmax import TCMaxClassifier
from skmm.modalities import Modality, OneModalityWarning

__all__ = [
    "CrossModalGraphicalLasso",
    "DCMEMEncoder",
    "DPMixtureFusion",
    "DecAlignClassifier",
    "DecAlignRegressor",
    "DecAlignTransformer",
    "Edge",
    "JointGraphicalLassoResult",
    "Modality",
    "OneModalityWarning",
    "TCMaxClassifier",
    "__version__",
    "joint_graphical_lasso",
    "show_versions",
]
