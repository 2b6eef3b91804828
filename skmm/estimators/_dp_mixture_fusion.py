"""DPMixtureFusion: Dirichlet-process mixtures that fuse modalities."""

# License: BSD-3-Clause

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import TransformerMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import ClassifierTags, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
)
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted
from torch import Tensor

from skmm._device import resolve_device
from skmm.core.mixture import (
    COUPLINGS,
    Expectation,
    Mixture,
    Priors,
    Rows,
    Totals,
    atoms_shape,
    sorted_by_size,
)
from skmm.core.normal_wishart import NormalWishart, NotPositiveDefinite, cholesky
from skmm.estimators._base import (
    all_or_nothing,
    check_weight,
    fit_layout,
    modality_columns,
    prefixed,
    tell,
    to_arrays,
    to_tensors,
    told_fit,
)
from skmm.estimators._dp_mixture_neural import NEURAL_CONSTRAINTS, NeuralMixture
from skmm.estimators._gradient import GradientEstimator
from skmm.fitting.alternating import Run
from skmm.fitting.data import is_memmap
from skmm.fitting.mixture import (
    MOVES,
    UNUSED,
    Batches,
    Rule,
    Settings,
    Source,
    Start,
    State,
    batch_totals,
    chunk_size,
    fit_laps,
    fit_stochastic,
    start,
    stochastic_step,
)
from skmm.modalities import (
    observed_modalities,
    observed_weight,
    row_chunks,
    validate_input,
)
from skmm.projection import BlockProjection

__all__ = ["DPMixtureFusion"]

STARTS = ("kmeans", "k-means++", "random")
CLOSED_FORMS = ("cavi", "svi", "memoized")
# A memoized fit keeps the sums of every batch: so many at most, whatever the rows.
MOST_BATCHES = 256
# Fitted attributes that only some settings have.
OF_NETWORKS = (
    "loss_curve_",
    "validation_loss_curve_",
    "_network_state",
    "_optimizer_state",
    "_scaler",
)
OF_CLOSED_FORMS = (
    "labels_",
    "head_",
    "class_concentration_",
    "component_counts_",
    "n_active_components_",
    "mean_precision_",
    "degrees_of_freedom_",
    "axes_",
    "covariance_prior_",
    "lower_bound_",
    "lower_bounds_",
    "moves_",
    "converged_",
    "_mixture",
    "_priors",
    "_projection",
    "_sums",
)
# What stands beside the sums that a fit keeps.
NOT_SUMS = ("weight", "seen", "observed", "step")
# Rows above which a component counts as active.
ACTIVE = 1.0


def _has_head(estimator: Any) -> bool:
    """Whether there are classes; false says why."""
    if estimator.head is None:
        raise AttributeError(
            "head: None makes a clusterer, without classes. Use head='mixture' or "
            "'logistic'."
        )
    return True


def _closed_form(estimator: Any) -> bool:
    """Whether the mixture is over the data themselves; false says why."""
    if estimator.method == "neural":
        raise AttributeError(
            "method: 'neural' has a mixture over embeddings, from which there is no "
            "way back to the data. Use another method."
        )
    return True


def _goes_on(estimator: Any) -> bool:
    """Whether a fit can go on with new rows; false says why."""
    if estimator.method not in ("svi", "memoized") or estimator.head == "logistic":
        raise AttributeError(
            "partial_fit: expected method='svi' or 'memoized', and a head other than "
            f"'logistic', got method={estimator.method!r}, head={estimator.head!r}."
        )
    return True


class DPMixtureFusion(TransformerMixin, NeuralMixture):
    r"""Dirichlet-process mixture that fuses modalities, with gaps and without k.

    One latent component a row, one Gaussian a modality and component, and weights from
    a broken stick: how many groups the modalities support is found, up to
    `n_components`. A modality that a row lacks is integrated out exactly. With
    ``head=None`` a clusterer, with a head a classifier; always a transformer that
    fills in what is missing.

    With one modality, the priors of scikit-learn's
    :class:`~sklearn.mixture.BayesianGaussianMixture` and ``stick_order="index"`` it is
    the same model with the same lower bound, but for a constant. The defaults differ,
    because on real modalities that model falls to one component or uses all: see
    `covariance_prior`, `coarsening` and the user guide.

    After DPMM [1]_, whose coupling is "joint_stick" and whose neural form is
    ``method="neural"``. The other couplings, the closed forms, the calibration of the
    joint stick, `coarsening` and all defaults are ours. The paper's body was not
    available to us; we do not reproduce its tables.

    Parameters
    ----------
    modalities : "auto", None, list of int, dict or callable, default="auto"
        How the columns group into modalities; see :mod:`skmm.modalities`. All are taken
        as Gaussian, whatever their likelihood, and padding of sequences as missing.
    n_components : int, default=30
        Most components (of each modality, where they have their own).
    coupling : {"shared", "joint_stick", "per_modality"}, default="shared"
        "shared": a row has one component, given which modalities are independent.
        "joint_stick": a row belongs to one component of one modality, all of which
        share one stick; densities are relative to a Gaussian of the whole modality.
        "per_modality": a mixture a modality.
    covariance_type : {"full", "diag"}, default="full"
        Covariances within a modality. Full ones cost its squared width a row.
    projection : int or None, default=20
        Most principal components that stand for a modality; narrower ones are only
        scaled. The mixture is then over these coordinates, and missing cells of such a
        modality are filled from its others before. None keeps all columns.
    weight_concentration_prior : float or None, default=1.0
        Concentration :math:`\eta` of the sticks; None is ``1 / n_components``.
    mean_precision_prior : float, default=0.01
        Rows that the prior mean counts for.
    mean_prior : array-like of shape (n_features,), default=None
        Prior mean, in units of X; by default the mean of each column.
    degrees_of_freedom_prior : float, default=None
        Above the number of coordinates of a modality less one; by default twice the
        number, or 3 for one.
    covariance_prior : "empirical", None or array-like, default="empirical"
        Scale of the Wishart prior. "empirical": found with the components, as the one
        that raises the lower bound most, so that it is as wide as a component and not
        as all rows. None: the covariance of all rows, as in scikit-learn. Or an array
        (n_features, n_features), or (n_features,) for "diag", in units of X, of which
        the modalities' blocks are taken.
    covariance_floor : float, default=0.01
        Least covariance that "empirical" may expect of a component, as a share of that
        of all rows, in (0, 1].
    coarsening : float or None, default=1000
        Number of rows :math:`\alpha` from which on more rows add little: each counts
        as :math:`\alpha / (\alpha + n)`, for n rows with a modality on average [2]_.
        Groups that are not quite Gaussian are then not split just because there are
        many rows. None: each row counts as one.
    reg_covar : float, default=1e-6
        Added to the diagonal of the covariance priors, in units of the scaled columns.
        Being in the prior, it keeps the bound a bound.
    stick_order : {"size", "index"}, default="size"
        Sticks are broken from the largest component on, which has the larger bound, or
        by number, as in scikit-learn.
    method : {"cavi", "svi", "memoized", "neural"}, default="cavi"
        Coordinate ascent over all rows; stochastic natural-gradient steps [3]_;
        memoized updates batch by batch with an exact bound [4]_; or the paper's
        network.
    moves : sequence of str or None, default=("merge", "delete")
        Moves between numbers of components, kept where they raise the bound: "merge",
        "delete" and "birth". "svi" has mergers only, after the last step.
    init_params : {"kmeans", "k-means++", "random"} or array-like, default="kmeans"
        Start. Distances are means over the modalities that a row has. An array holds
        labels (n_samples,) or responsibilities (n_samples, n_atoms).
    n_init : int or "auto", default="auto"
        Starts, of which the one with the largest bound is kept; "auto" is 3 for "cavi"
        and 1 for others or a given start. With "joint_stick" the first divides rows
        among their modalities, and each further one gives them to one modality; "auto"
        is then one more than there are modalities.
    max_iter : int, default=300
        Most passes over the rows from one start; those by which moves are tried out do
        not count.
    tol : float, default=1e-4
        Change of the lower bound between passes, in nats a row, to stop at. For "svi",
        whose bound is noisy, 0.01 is often enough: sweeps with mergers follow.
    learning_offset : float, default=1.0
        Of "svi" (and the sticks of "neural"): step t has the rate
        ``(t + learning_offset) ** -learning_decay``.
    learning_decay : float, default=0.7
        In [0.5, 1].
    total_samples : int, default=None
        Rows that `partial_fit` is to see in all, for "svi"; by default those seen.
    batch_size : int, default=256
        Rows of a batch; "memoized" takes larger ones to have at most 256 batches.
    head : {"mixture", "logistic"} or None, default=None
        None ignores y. "mixture": labels are one more view of a component, with one
        bound. "logistic": a logistic regression on what `transform` gives. With
        ``method="neural"`` any head stands for the network's linear one.
    label_concentration_prior : float, default=1.0
        Rows of each class that a component starts with ("mixture").
    unlabeled : object, default=None
        Label that marks rows without one, such as -1.
    representation : {"filled", "responsibilities", "both"}, default="filled"
        What `transform` returns.
    amplify : float, default=0.0
        How far "filled" rows are drawn to the means of heavy components, in [0, 1]: by
        responsibilities times weights. Our reading of the paper's amplification.
    fill : {"mean", "sample"}, default="mean"
        Whether what is missing gets its expectation or a draw. For "neural" draws are
        made in training only.
    keep_missing : bool, default=False
        Whether `transform` leaves NaN where something is missing.
    fusion : {"concat", "lstm", "attention"}, default="concat"
        "neural": how embeddings are fused.
    encoder : str, class or dict, default="auto"
        "neural": see :class:`TCMaxClassifier`.
    embed_dim : int, default=32
        "neural": size of each modality's embedding.
    hidden : sequence of int, default=(128,)
        "neural": hidden layers of "mlp" encoders.
    activation : {"relu", "tanh", "gelu"}, default="relu"
        "neural": of the hidden layers.
    dropout : float, default=0.0
        "neural": share of hidden units dropped in training.
    lambda_dp : float, default=0.001
        "neural": weight of the mixture's loss. The paper's code has 1e-6.
    temperature : float, default=1e-4
        "neural": :math:`\tau`; the task's loss of epoch t is multiplied by
        :math:`e^{\tau t}`, at most 1000.
    stick_update : {"svi", "batch_mean"}, default="svi"
        "neural": natural-gradient steps that count all rows, or the published code's
        update, in which all rows together count as one.
    lr : float, default=0.01
        "neural": learning rate (AdamW).
    lr_schedule : {"cosine", "constant"}, default="cosine"
        "neural": "cosine" takes the rate to zero.
    max_epochs : int, default=100
        "neural": passes over the rows.
    weight_decay : float, default=4.0
        "neural": weight decay of an epoch, see :class:`TCMaxClassifier`.
    clip_norm : float or None, default=5.0
        "neural": largest norm of a step's gradient.
    early_stopping : bool, default=False
        "neural": whether to hold rows out and keep the best epoch's weights.
    validation_fraction : float, default=0.1
        "neural": share of rows held out.
    n_iter_no_change : int, default=10
        "neural": epochs without a lower loss after which early stopping ends.
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit.
    checkpoint_dir : str, path or None, default=None
        "neural": folder where each epoch is saved, see :class:`TCMaxClassifier`.
    net_params : dict or None, default=None
        "neural": to `skorch.NeuralNet`.
    precision : {None, "bf16"}, default=None
        "neural": "bf16" trains in bfloat16 where torch's autocast does.
    device : str or torch.device, default="auto"
        Where to compute; "auto" is CUDA if there is one, else the CPU. Closed forms
        compute in float64 on either.
    random_state : int, RandomState instance or None, default=None
        Seeds starts, batches, births, networks and draws.
    verbose : int, default=0
        Whether to print each iteration.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,)
        Component of each training row, after `partial_fit` of the last rows; with
        ``head=None``. Not kept where X is a memory map: see `predict`.
    classes_ : ndarray of shape (n_classes,)
        Labels; with a head.
    weights_ : ndarray of shape (n_components,) or (n_modalities, n_components)
        Expected weights; those of one stick sum to one.
    means_ : list of ndarray of shape (n_components, n_features_of_modality)
        Expected means in units of X ("neural": of the embeddings), one array a
        modality.
    covariances_ : list of ndarray
        Inverses of the expected precisions, (n_components, d, d) or (n_components, d)
        a modality, in units of X, or of its coordinates where it is projected.
    precisions_cholesky_ : list of ndarray
        Cholesky factors of their inverses.
    axes_ : list of (ndarray of shape (d, n_features_of_modality) or None)
        Principal axes of projected modalities.
    covariance_prior_ : list of ndarray
        Scales of the Wishart priors, given or found.
    weight_concentration_ : tuple of two ndarray
        Parameters of the Beta factors, in the order in which sticks are broken.
    mean_precision_, degrees_of_freedom_ : list of ndarray of shape (n_components,)
        Parameters of the Normal-Wishart factors.
    component_counts_ : ndarray of the shape of `weights_`
        Expected numbers of rows.
    n_active_components_ : int
        Components with more than one row.
    class_concentration_ : ndarray of shape (n_atoms, n_classes)
        Dirichlet parameters of the labels (``head="mixture"``).
    head_ : Pipeline
        The logistic regression (``head="logistic"``).
    lower_bound_ : float
        The bound on the log-evidence of all rows, each counted by its weight and
        `coarsening`, in nats.
    lower_bounds_ : list of float
        Its values, one a pass.
    moves_ : dict of str to int
        Moves that were kept.
    n_iter_ : int
        Passes ("neural": epochs) of the best start.
    converged_ : bool
        Whether it stopped by `tol`.
    loss_curve_, validation_loss_curve_ : list of float
        Losses of each epoch ("neural").
    modality_names_in_ : ndarray of shape (n_modalities,)
        Names of the modalities.
    modality_indices_ : dict of str to ndarray
        Columns of each modality.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where they have any.

    See Also
    --------
    skmm.plotting.MixtureDisplay : Draws weights, responsibilities and means.
    sklearn.mixture.BayesianGaussianMixture : One modality, complete data.

    Notes
    -----
    A pass takes two matrix products a modality, of n rows, `n_components` and all
    products of two coordinates ("full") or twice the coordinates ("diag"), and memory
    for a few thousand rows beside X. A memory map is read in chunks: memory does not
    grow with its rows but for one byte a row and modality, and the weights if given.

    References
    ----------
    .. [1] T. H. Chan, F. Wu, Y. Chen, G. Yin and L. Yu, "Amplifying Prominent
       Representations in Multimodal Learning via Variational Dirichlet Process",
       NeurIPS 2025, arXiv:2510.20736.
    .. [2] J. W. Miller and D. B. Dunson, "Robust Bayesian inference via coarsening",
       JASA 114(527), 2019.
    .. [3] M. Hoffman, D. Blei, C. Wang and J. Paisley, "Stochastic variational
       inference", JMLR 14, 2013.
    .. [4] M. Hughes and E. Sudderth, "Memoized online variational inference for
       Dirichlet process mixture models", NeurIPS 2013.
    .. [5] D. Blei and M. Jordan, "Variational inference for Dirichlet process
       mixtures", Bayesian Analysis 1(1), 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.metrics import adjusted_rand_score
    >>> from skmm import DPMixtureFusion
    >>> rng = np.random.default_rng(0)
    >>> group = rng.integers(4, size=400)
    >>> X = 6 * rng.normal(size=(4, 8))[group] + rng.normal(size=(400, 8))
    >>> X[::3, 5:] = np.nan  # every third row lacks its second modality
    >>> model = DPMixtureFusion([5, 3], random_state=0).fit(X)
    >>> model.n_active_components_
    4
    >>> adjusted_rand_score(group, model.labels_) > 0.95
    True
    >>> bool(np.isnan(model.impute(X)).any())
    False
    """

    _parameter_constraints: dict = {
        **GradientEstimator._gradient_constraints,
        **NEURAL_CONSTRAINTS,
        "coupling": [StrOptions(set(COUPLINGS))],
        "covariance_type": [StrOptions({"full", "diag"})],
        "projection": [Interval(Integral, 1, None, closed="left"), None],
        "weight_concentration_prior": [Interval(Real, 0, None, closed="neither"), None],
        "mean_precision_prior": [Interval(Real, 0, None, closed="neither")],
        "mean_prior": ["array-like", None],
        "degrees_of_freedom_prior": [Interval(Real, 0, None, closed="neither"), None],
        "covariance_prior": ["array-like", StrOptions({"empirical"}), None],
        "covariance_floor": [Interval(Real, 0, 1, closed="right")],
        "coarsening": [Interval(Real, 0, None, closed="neither"), None],
        "reg_covar": [Interval(Real, 0, None, closed="left")],
        "stick_order": [StrOptions({"size", "index"})],
        "method": [StrOptions({*CLOSED_FORMS, "neural"})],
        "moves": [tuple, list, None],
        "init_params": [StrOptions(set(STARTS)), "array-like"],
        "n_init": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "learning_offset": [Interval(Real, 0, None, closed="neither")],
        "learning_decay": [Interval(Real, 0.5, 1, closed="both")],
        "total_samples": [Interval(Integral, 1, None, closed="left"), None],
        "head": [StrOptions({"mixture", "logistic"}), None],
        "label_concentration_prior": [Interval(Real, 0, None, closed="neither")],
        "unlabeled": "no_validation",
        "representation": [StrOptions({"filled", "responsibilities", "both"})],
        "amplify": [Interval(Real, 0, 1, closed="both")],
        "fill": [StrOptions({"mean", "sample"})],
        "keep_missing": ["boolean"],
    }

    def __init__(
        self,
        modalities="auto",
        *,
        n_components=30,
        coupling="shared",
        covariance_type="full",
        projection=20,
        weight_concentration_prior=1.0,
        mean_precision_prior=0.01,
        mean_prior=None,
        degrees_of_freedom_prior=None,
        covariance_prior="empirical",
        covariance_floor=0.01,
        coarsening=1000.0,
        reg_covar=1e-06,
        stick_order="size",
        method="cavi",
        moves=("merge", "delete"),
        init_params="kmeans",
        n_init="auto",
        max_iter=300,
        tol=0.0001,
        learning_offset=1.0,
        learning_decay=0.7,
        total_samples=None,
        batch_size=256,
        head=None,
        label_concentration_prior=1.0,
        unlabeled=None,
        representation="filled",
        amplify=0.0,
        fill="mean",
        keep_missing=False,
        fusion="concat",
        encoder="auto",
        embed_dim=32,
        hidden=(128,),
        activation="relu",
        dropout=0.0,
        lambda_dp=0.001,
        temperature=0.0001,
        stick_update="svi",
        lr=0.01,
        lr_schedule="cosine",
        max_epochs=100,
        weight_decay=4.0,
        clip_norm=5.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        checkpoint_dir=None,
        net_params=None,
        precision=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.modalities = modalities
        self.n_components = n_components
        self.coupling = coupling
        self.covariance_type = covariance_type
        self.projection = projection
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.covariance_floor = covariance_floor
        self.coarsening = coarsening
        self.reg_covar = reg_covar
        self.stick_order = stick_order
        self.method = method
        self.moves = moves
        self.init_params = init_params
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.learning_offset = learning_offset
        self.learning_decay = learning_decay
        self.total_samples = total_samples
        self.batch_size = batch_size
        self.head = head
        self.label_concentration_prior = label_concentration_prior
        self.unlabeled = unlabeled
        self.representation = representation
        self.amplify = amplify
        self.fill = fill
        self.keep_missing = keep_missing
        self.fusion = fusion
        self.encoder = encoder
        self.embed_dim = embed_dim
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.lambda_dp = lambda_dp
        self.temperature = temperature
        self.stick_update = stick_update
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.max_epochs = max_epochs
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.net_params = net_params
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        """Say whether this is a clusterer or a classifier, and that NaN is allowed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        if self.head is None:
            tags.estimator_type = "clusterer"
        else:
            tags.estimator_type = "classifier"
            tags.classifier_tags = ClassifierTags()
            tags.target_tags.required = True
        return tags

    # ------------------------------------------------------------ fitting
    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the mixture.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            All modalities side by side, with NaN where a cell or a modality is missing.
            A float memory map is read in batches and never copied.
        y : array-like of shape (n_samples,), default=None
            Class labels; needed with a head, ignored without.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative row weights, the same as repeating rows.

        Returns
        -------
        self : DPMixtureFusion
            Fitted estimator.

        Raises
        ------
        ValueError
            If X has infinities, a modality is never observed, or a prior does not fit.
        """
        told = {"X": X, "y": y, "metadata": {"sample_weight": sample_weight}}
        neural = self.method == "neural"
        n_tasks = self.max_epochs if neural else None
        with told_fit(self, told, n_tasks) as context:
            if neural:
                self._fit_neural(X, y, sample_weight, context, told)
                self._forget(OF_CLOSED_FORMS)
            else:
                self._fit_closed(X, y, sample_weight, context, told)
        return self

    @available_if(_goes_on)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, classes=None, sample_weight=None):
        """Update the mixture by new rows.

        The first call sets the grouping, scaling, projection and data-driven priors,
        and finds a start, so it should have at least some ten rows a component. With
        ``method="svi"`` each call is one natural-gradient step, in which the rows stand
        for `total_samples` rows; with "memoized" their sums are added to those of
        earlier calls, so a row should be given once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            New rows.
        y : array-like of shape (n_samples,), default=None
            Their labels, with ``head="mixture"``.
        classes : array-like of shape (n_classes,), default=None
            All classes; needed at the first call with a head.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative row weights.

        Returns
        -------
        self : DPMixtureFusion
            Fitted estimator.
        """
        with all_or_nothing(self):
            self._partial_fit(X, y, classes, sample_weight)
        return self

    def _fit_closed(self, original, y, sample_weight, context, told) -> None:
        X, codes, weight = self._check_rows(original, y, sample_weight)
        warm = self.warm_start and hasattr(self, "_mixture")
        self._check_closed(X, go_on=warm)
        self._forget(OF_NETWORKS)
        self._forget(("labels_", "head_", "class_concentration_"))
        if self.head is None:
            self._forget(("classes_",))
        random_state = check_random_state(self.random_state)
        problem = self._problem(X, codes, weight, warm=warm)
        batches = problem.batches(random_state)
        n_starts = 1 if warm else self._n_starts()
        best = None
        for i in range(n_starts):
            progress = _Progress(self, context, told, i)
            state = self._begin(problem, batches, random_state, i, warm=warm)
            # Proposals take many passes: the best of several starts makes them.
            state, run = self._run(
                state, problem, batches, random_state, progress, alone=n_starts == 1
            )
            if best is None or state.bound > best[0].bound:
                best = state, run, progress
            if run.stopped:
                break
        state, run, progress = best
        n_iter = run.n_iter
        if n_starts > 1 and self.moves and self.method != "svi" and not run.stopped:
            left = max(1, self.max_iter - n_iter)
            state, run = self._run(
                state, problem, batches, random_state, progress, alone=True, left=left
            )
            n_iter += run.n_iter
        bounds = progress.bounds
        if not run.converged and not run.stopped:
            warnings.warn(
                f"{type(self).__name__} did not converge in {n_iter} iterations: "
                f"the lower bound changed by {state.change:.2g} nats a row in the last "
                f"one, more than tol={self.tol:g}, or a merger was still to be tried. "
                "Increase max_iter or tol.",
                ConvergenceWarning,
                stacklevel=6,
            )
        self.converged_ = run.converged
        self.n_iter_ = n_iter
        shift = self._log_volume(problem.source)
        self.lower_bound_ = state.bound - shift
        self.lower_bounds_ = [value - shift for value in bounds]
        self.moves_ = dict(state.moves)
        factor = problem.source.factor
        n_rows = batches.weight / factor
        step = state.lap * len(batches)
        state = replace(state, totals=state.totals * (1 / factor))
        self._set_fitted(state, n_rows, n_rows, problem.observed, step)
        self._finish(X, codes, weight, batches)

    def _begin(self, problem, batches, random_state, turn, *, warm) -> State:
        """A start, or the last fit."""
        rule, source = problem.rule, problem.source
        if warm:
            priors, mixture = self._go_on(source.device, rule.priors)
            kept = _totals_of(self._sums, source.device)
            kept = kept * (batches.weight / self._sums["weight"])
            lap = max(1, self._sums["step"] // len(batches))
            return State(priors, mixture, kept, lap=lap)
        try:
            totals = problem.start.totals(batches, rule.priors, random_state, turn)
            return start(totals, rule, problem.start.like)
        except NotPositiveDefinite as error:
            raise _not_definite(self) from error

    def _run(
        self, state, problem, batches, random_state, progress, *, alone, left=None
    ) -> tuple[State, Run]:
        """Fit from one start; with proposals if it is alone."""
        loop = fit_stochastic if self.method == "svi" else fit_laps
        settings = Settings(
            self.tol,
            self.max_iter if left is None else left,
            tuple(self.moves or ()),
            self.learning_offset,
            self.learning_decay,
            proposals=alone,
        )
        try:
            return loop(state, problem.rule, batches, settings, random_state, progress)
        except NotPositiveDefinite as error:
            raise _not_definite(self) from error

    def _partial_fit(self, original, y, classes, sample_weight) -> None:
        go_on = hasattr(self, "_sums")
        X, codes, weight = self._check_rows(
            original, y, sample_weight, go_on=go_on, partial=True, classes=classes
        )
        self._check_closed(X, go_on=go_on)
        problem = self._problem(X, codes, weight, warm=go_on, coarsened=False)
        source, rule = problem.source, problem.rule
        random_state = check_random_state(self.random_state)
        batch = Batches(source, 1, problem.chunk, random_state)
        seen = batch.weight + (self._sums["seen"] if go_on else 0.0)
        observed = problem.observed + (self._sums["observed"] if go_on else 0.0)
        # Sums are kept of rows that count as one each.
        stands_for = max(seen, self.total_samples or 0.0)
        zeta = self._zeta(stands_for * observed.mean() / seen)
        try:
            if go_on:
                kept = _totals_of(self._sums, source.device)
                state = State(*self._go_on(source.device, rule.priors), kept)
            else:
                first = problem.start.totals(batch, rule.priors, random_state)
                state = start(first * zeta, rule, problem.start.like)
            new = batch_totals(Expectation(state.mixture), batch, 0)
            if self.method == "svi":
                t = self._sums["step"] if go_on else 0
                rate = min(1.0, (t + self.learning_offset) ** -self.learning_decay)
                if go_on:
                    scale = zeta * stands_for / self._sums["weight"]
                    state = replace(state, totals=kept * scale)
                scale = zeta * stands_for / batch.weight
                state = stochastic_step(state, rule, new, scale, rate)
                kept, weight = state.totals * (1 / zeta), stands_for
            else:
                kept, weight = kept + new if go_on else new, seen
                state = stochastic_step(state, rule, kept, zeta, 1.0)
        except NotPositiveDefinite as error:
            raise _not_definite(self) from error
        self.n_iter_ = self.n_iter_ + 1 if go_on else 1
        step = self._sums["step"] + 1 if go_on else 1
        self._forget(("lower_bound_", "lower_bounds_", "converged_", "moves_"))
        self._set_fitted(replace(state, totals=kept), weight, seen, observed, step)
        if self.head is None:
            self.labels_ = self._assignments(source)

    def _check_rows(
        self, original, y, sample_weight, *, go_on=False, partial=False, classes=None
    ):
        """Validated X, label codes and weights; sets what describes them."""
        codes = None
        if self.head is None:
            X = validate_input(self, original, reset=not go_on)
        else:
            X, y = validate_input(self, original, y=y, reset=not go_on)
            warm = self.warm_start and hasattr(self, "_mixture")
            codes = self._encode(
                y, go_on=go_on or warm, partial=partial, classes=classes
            )
        weight = None
        if sample_weight is not None:
            weight = np.require(check_weight(sample_weight, X), requirements="CW")
        self._check_layout(original, X, go_on=go_on)
        return X, codes, weight

    def _check_layout(self, original, X, *, go_on) -> None:
        go_on = go_on or (self.warm_start and hasattr(self, "_mixture"))
        layout = fit_layout(self, original, X, go_on=go_on)
        self._columns, self._column_modalities = modality_columns(layout, X.shape[1])

    def _encode(self, y, *, go_on, partial, classes) -> np.ndarray:
        """Codes of the labels, -1 where open; sets `classes_` at a first fit."""
        y = np.asarray(y)
        is_open = np.zeros(len(y), dtype=bool)
        if self.unlabeled is not None:
            is_open = np.asarray(y == self.unlabeled)
        if is_open.all() and not go_on:
            raise ValueError(
                "y: expected at least one labelled row, got "
                f"{self.unlabeled!r}, the mark of open rows, in all of them."
            )
        if not is_open.all():
            check_classification_targets(y[~is_open])
        if partial:
            _check_partial_fit_first_call(self, classes)
        elif not go_on:
            self.classes_ = np.unique(y[~is_open])
        unknown = np.setdiff1d(y[~is_open], self.classes_)
        if len(unknown):
            raise ValueError(
                f"y: expected labels among the classes {self.classes_.tolist()}, got "
                f"{unknown.tolist()}. Give all of them in partial_fit(classes=...) at "
                "the first call, or fit anew."
            )
        codes = np.full(len(y), -1)
        codes[~is_open] = np.searchsorted(self.classes_, y[~is_open])
        return codes

    def _check_closed(self, X: np.ndarray, *, go_on: bool) -> None:
        """Check what `_parameter_constraints` can't say."""
        self._keep_architecture(
            go_on,
            n_components=self.n_components,
            coupling=self.coupling,
            covariance_type=self.covariance_type,
            projection=self.projection,
            has_labels=self.head == "mixture",
        )
        unknown = set(self.moves or ()) - set(MOVES)
        if unknown:
            raise ValueError(
                f"moves: expected some of {MOVES}, got {sorted(map(str, unknown))}."
            )
        if not isinstance(self.init_params, str) and not go_on:
            given = np.asarray(self.init_params)
            _, n_atoms = atoms_shape(
                self.coupling, len(self._layout), self.n_components
            )
            labels = given.ndim == 1 and given.dtype.kind in "iu"
            right = given.shape == ((len(X),) if labels else (len(X), n_atoms))
            if labels:
                right = right and given.min() >= 0 and given.max() < n_atoms
            else:
                right = right and given.min() >= 0 and np.allclose(given.sum(1), 1)
            if not right:
                raise ValueError(
                    f"init_params: expected {len(X)} labels below {n_atoms}, or "
                    f"responsibilities of shape {(len(X), n_atoms)} whose rows sum to "
                    f"1, got an array of shape {given.shape}."
                )

    def _forget(self, names) -> None:
        """Drop what another fit has left."""
        for name in names:
            vars(self).pop(name, None)

    def _n_starts(self) -> int:
        if self.n_init != "auto":
            return self.n_init
        if not isinstance(self.init_params, str):
            return 1
        if self.coupling == "joint_stick":
            return 1 + len(self._layout)
        return 3 if self.method == "cavi" else 1

    # ------------------------------------------------------------ the problem
    def _problem(self, X, codes, weight, *, warm, coarsened=True) -> "_Problem":
        """All that a fit needs; sets what prediction needs of it."""
        layout, diagonal = self._layout, self.covariance_type == "diag"
        device = resolve_device(self.device, fitting=True)
        n_observed = observed_weight(X, layout, weight, must=not warm)
        if not warm:
            self._dtype = X.dtype.name
            self._projection = BlockProjection.fit(
                X, layout, self.projection, weight, diagonal=diagonal
            )
        factor = self._zeta(n_observed.mean()) if coarsened else 1.0
        source = Source(
            X,
            layout,
            self._projection,
            device,
            weight,
            factor,
            codes if self.head == "mixture" else None,
        )
        priors, least = self._make_priors(X.shape[1], n_observed, device)
        sizes = [self._projection.size(m) for m in range(len(layout))]
        shape = atoms_shape(self.coupling, len(layout), self.n_components)
        like = Mixture(
            self.coupling,
            torch.zeros(shape),
            torch.zeros(shape),
            torch.arange(shape[1], device=device).repeat(shape[0], 1),
            priors.blocks,
            reference=self._reference(device),
        )
        given = None
        if not isinstance(self.init_params, str):
            given = np.asarray(self.init_params)
        n_classes = None if source.labels is None else len(self.classes_)
        return _Problem(
            source,
            Rule(priors, least),
            Start(
                self.init_params if given is None else "given",
                given,
                self.n_components,
                like,
                n_classes,
            ),
            chunk_size(sizes, diagonal, self.n_components),
            self._n_batches(len(X)),
            n_observed,
        )

    def _n_batches(self, n_rows: int) -> int:
        if self.method == "cavi":
            return 1
        n_batches = max(1, -(-n_rows // self.batch_size))
        return min(n_batches, MOST_BATCHES) if self.method == "memoized" else n_batches

    def _concentration(self) -> float:
        given = self.weight_concentration_prior
        return 1 / self.n_components if given is None else float(given)

    def _zeta(self, n_rows: float) -> float:
        """The weight of a row, given the mean number of rows of a modality."""
        if self.coarsening is None:
            return 1.0
        return float(self.coarsening / (self.coarsening + n_rows))

    def _make_priors(self, n_features, n_observed, device):
        """Priors in working coordinates, and least covariances where estimated."""
        mean_prior = self._given_prior("mean_prior", n_features)
        covariance_prior = self._given_prior("covariance_prior", n_features)
        blocks, least = [], []
        for m, block in enumerate(self._layout):
            spread = self._projection.spread[m]
            size, diagonal = len(spread), spread.ndim == 1
            ridge = np.full(size, self.reg_covar)
            ridge = ridge if diagonal else np.diag(ridge)
            dof = self._degrees_of_freedom(size, block.name)
            mean, scale = self._projection.forward_moments(
                m,
                None if mean_prior is None else mean_prior[block.indices],
                None
                if covariance_prior is None
                else covariance_prior[np.ix_(*[block.indices] * covariance_prior.ndim)],
            )
            floor = None
            if scale is not None:
                scale = scale + ridge
            elif self.covariance_prior is None:
                n = n_observed[m]
                scale = spread * (n / (n - 1) if n >= 2 else 1.0) + ridge
            else:
                floor = self.covariance_floor * (spread + ridge)
                scale = dof * (spread + ridge)
            prior = NormalWishart(
                _tensor(np.zeros((1, size)) if mean is None else mean[None], device),
                _tensor([self.mean_precision_prior], device),
                _tensor(scale[None], device),
                _tensor([dof], device),
            )
            try:
                cholesky(prior.scale)
            except NotPositiveDefinite as error:
                raise ValueError(
                    f"covariance_prior: that of the modality {block.name!r} is not "
                    "positive definite. Use a larger reg_covar."
                ) from error
            blocks.append(prior)
            least.append(None if floor is None else _tensor(floor[None], device))
        priors = Priors(
            self._concentration(),
            blocks,
            float(self.label_concentration_prior),
            self.stick_order == "size",
        )
        return priors, least

    def _given_prior(self, name: str, n_features: int) -> np.ndarray | None:
        value = getattr(self, name)
        if value is None or isinstance(value, str):
            return None
        value = np.asarray(value, dtype=np.float64)
        shape = (n_features,)
        if name == "covariance_prior" and self.covariance_type == "full":
            shape = (n_features, n_features)
        if value.shape != shape or not np.isfinite(value).all():
            raise ValueError(
                f"{name}: expected finite numbers of shape {shape} for covariance_type="
                f"{self.covariance_type!r}, got shape {value.shape}."
            )
        if value.ndim == 2 and not np.allclose(value, value.T):
            raise ValueError(f"{name}: expected a symmetric matrix.")
        return value

    def _degrees_of_freedom(self, size: int, name: str) -> float:
        dof = self.degrees_of_freedom_prior
        if dof is None:
            return max(2.0 * size, size + 2.0)
        if dof <= size - 1:
            raise ValueError(
                f"degrees_of_freedom_prior: expected more than {size - 1} for the "
                f"modality {name!r} with {size} coordinates, got {dof}."
            )
        return float(dof)

    def _reference(self, device) -> list[NormalWishart] | None:
        if self.coupling != "joint_stick":
            return None
        reference = []
        for spread in self._projection.spread:
            size = len(spread)
            ridge = max(self.reg_covar, np.finfo(float).eps)
            scale = spread + (ridge if spread.ndim == 1 else ridge * np.eye(size))
            one = _tensor([1.0], device)
            reference.append(
                NormalWishart(
                    _tensor(np.zeros((1, size)), device),
                    one,
                    _tensor(scale[None], device),
                    one,
                )
            )
        return reference

    def _go_on(self, device, priors: Priors) -> tuple[Priors, Mixture]:
        """Priors, those from the data as in the last fit, and its factors."""
        last = [NormalWishart(**to_tensors(p)) for p in self._priors]
        blocks = list(priors.blocks)
        if self.covariance_prior is None or isinstance(self.covariance_prior, str):
            for m, prior in enumerate(last):
                ratio = float(blocks[m].dof / prior.dof)
                blocks[m] = replace(blocks[m], scale=prior.scale * ratio)
        blocks = [
            NormalWishart(*(t.to(device) for t in vars(p).values())) for p in blocks
        ]
        return replace(priors, blocks=blocks), self._fitted_mixture(device)

    def _log_volume(self, source: Source) -> float:
        """What the bound gains by scaling: X's units are given back their volume."""
        total = 0.0
        if all(np.all(s == 1) for s in self._projection.scaler.scale):
            return total
        for rows in row_chunks(*source.X.shape):
            values = _log_scale(source.X[rows], self._layout, self._projection)
            weight = 1.0 if source.weight is None else source.weight[rows]
            total += float((values * weight).sum())
        return total * source.factor

    # ------------------------------------------------------------ what was learnt
    def _set_fitted(self, state: State, weight, seen, observed, step) -> None:
        """Set fitted attributes from factors and sums of rows that count as one.

        These stand for rows of the given weight; `seen`, `observed` (by modality) and
        `step` tell `partial_fit` how many rows and steps there were.
        """
        mixture, totals = state.mixture, state.totals
        if self.stick_order == "size":
            mixture, totals = sorted_by_size(mixture, totals)
        self._mixture = _packed(mixture)
        self._sums = to_arrays(vars(replace(totals, pairs=totals.pairs[:0])))
        self._sums |= {
            "weight": weight,
            "seen": seen,
            "observed": observed,
            "step": step,
        }
        self._priors = [to_arrays(vars(prior)) for prior in state.priors.blocks]
        shape = (-1,)
        if self.coupling != "shared":
            shape = (len(self._layout), self.n_components)
        weights = torch.softmax(mixture.log_mean_weights, 1)
        self.weights_ = weights.reshape(shape).cpu().numpy()
        self.component_counts_ = totals.counts.reshape(shape).cpu().numpy()
        self.n_active_components_ = int((self.component_counts_ > ACTIVE).sum())
        sticks = mixture.a, mixture.b
        self.weight_concentration_ = tuple(
            s.reshape(shape).cpu().numpy() for s in sticks
        )
        self.mean_precision_ = [q.precision.cpu().numpy() for q in mixture.blocks]
        self.degrees_of_freedom_ = [q.dof.cpu().numpy() for q in mixture.blocks]
        projection = self._projection
        self.axes_ = [None if a is None else a.vectors.T for a in projection.axes]
        self.means_ = [
            projection.inverse(m, q.mean.cpu().numpy())
            for m, q in enumerate(mixture.blocks)
        ]
        self.covariances_ = [
            projection.backward_covariance(m, q.covariance.cpu().numpy())
            for m, q in enumerate(mixture.blocks)
        ]
        self.covariance_prior_ = [
            projection.backward_covariance(m, prior.scale.cpu().numpy())[0]
            for m, prior in enumerate(state.priors.blocks)
        ]
        if mixture.labels is not None:
            self.class_concentration_ = mixture.labels.flatten(0, 1).cpu().numpy()

    @property
    def precisions_cholesky_(self):
        """Cholesky factors of the inverses of `covariances_`, as in scikit-learn."""
        check_is_fitted(self)
        kind = "full" if self.covariances_[0].ndim == 3 else "diag"
        return [_compute_precision_cholesky(c, kind) for c in self.covariances_]

    def _finish(self, X, codes, weight, batches: Batches) -> None:
        """Labels of the training rows, or the logistic head."""
        if self.head == "logistic":
            known = codes >= 0
            if weight is not None:
                known &= weight > 0
            if len(np.unique(codes[known])) < 2:
                raise ValueError(
                    "y: head='logistic' expects rows of at least 2 classes, got one "
                    f"class: {self.classes_.tolist()}. Use head='mixture'."
                )
            self._head_features = self.representation, self.amplify
            features = self._represent(X[known], *self._head_features)
            self.head_ = make_pipeline(
                StandardScaler(), LogisticRegression(max_iter=1000)
            )
            own = None if weight is None else weight[known]
            self.head_.fit(
                features,
                codes[known],
                standardscaler__sample_weight=own,
                logisticregression__sample_weight=own,
            )
        elif self.head is None and not is_memmap(X):
            # Rows that are still there in working coordinates need no second reading.
            at_hand = weight is None and not batches.stream
            self.labels_ = self._assignments(
                batches.source, batches if at_hand else None
            )

    # ------------------------------------------------------------ rows
    def _fitted_mixture(self, device) -> Mixture:
        return _unpacked(self._mixture, device)

    def _checked(self, X) -> np.ndarray:
        check_is_fitted(self)
        X = validate_input(self, X, reset=False)
        observed_modalities(X, self._layout)  # infinities are an error
        return X

    def _source(self, X: np.ndarray) -> Source:
        device = resolve_device(self.device, fitting=False)
        return Source(X, self._layout, self._projection, device)

    def _in_chunks(
        self, source: Source, batches: Batches | None = None
    ) -> Iterator[tuple[Any, Rows, Tensor, Tensor, Expectation]]:
        """Rows with responsibilities (G, J, n) and log-normalisers (G, n)."""
        mixture = self._fitted_mixture(source.device)
        expectation = Expectation(mixture)
        if batches is None:
            sizes, k = [q.size for q in mixture.blocks], len(mixture.blocks[0].dof)
            step = chunk_size(sizes, mixture.blocks[0].diagonal, k)
            cuts = range(0, len(source.X), step)
            pieces = (slice(i, min(i + step, len(source.X))) for i in cuts)
            parts = ((index, source.rows(index)) for index in pieces)
        else:
            parts = chain.from_iterable(map(batches.numbered, range(len(batches))))
        for index, rows in parts:
            # Labels are not to be known.
            rows = replace(rows, labels=None)
            resp, log_norm = expectation.responsibilities(rows)
            yield index, rows, resp, log_norm, expectation

    def _responsibilities(self, X: np.ndarray) -> np.ndarray:
        """Responsibilities (n, G * J); those of all sticks of a row sum to one."""
        parts = [
            _over_atoms(resp, expectation)
            for _, _, resp, _, expectation in self._in_chunks(self._source(X))
        ]
        return np.concatenate(parts)

    def _assignments(
        self, source: Source, batches: Batches | None = None
    ) -> np.ndarray:
        labels = np.empty(len(source.X), dtype=np.int64)
        for index, _, resp, _, expectation in self._in_chunks(source, batches):
            if len(resp) == 1:
                labels[index] = resp[0].argmax(0).cpu().numpy()
            else:
                labels[index] = _over_atoms(resp, expectation).argmax(1)
        return labels

    def _represent(
        self, X: np.ndarray, what: str, amplify: float, random_state=None
    ) -> np.ndarray:
        parts = []
        if what != "responsibilities":
            parts.append(self._filled(X, amplify, random_state))
        if what != "filled":
            parts.append(self._responsibilities(X))
        return np.hstack(parts)

    def _filled(self, X: np.ndarray, amplify: float, random_state=None) -> np.ndarray:
        """The columns of the modalities, with what is missing filled in."""
        out = np.array(X, dtype=np.float64)
        for index, rows, resp, _, expectation in self._in_chunks(self._source(X)):
            for m, block in enumerate(self._layout):
                values = X[index, block.columns]
                share = expectation.share(resp, rows, m)
                filled = self._fill_block(
                    m, values, rows, share, expectation, random_state
                )
                if amplify:
                    mixture = expectation.mixture
                    own = mixture.weights_within(m).log()[:, None]
                    pull = torch.softmax(share.log() + own, 0)
                    pull = mixture.blocks[m].mean.mT @ pull
                    pull = self._projection.inverse(m, pull.T.cpu().numpy())
                    filled = (1 - amplify) * filled + amplify * pull
                out[index, block.columns] = filled
        return out[:, self._columns]

    def _fill_block(self, m, values, rows, share, expectation, random_state):
        missing = np.isnan(values)
        if not missing.any():
            return values
        noise = None
        if random_state is not None:
            draws = random_state.uniform(size=share.shape[1])
            cumulated = share.cumsum(0).cpu().numpy()
            chosen = (cumulated < draws).sum(0).clip(0, len(cumulated) - 1)
            one_hot = (chosen == np.arange(len(cumulated))[:, None]).astype(float)
            share = _tensor(one_hot, share.device)
            noise = _tensor(random_state.standard_normal(rows.z[m].shape), share.device)
        z = expectation.filled(rows, share, m, noise).T.cpu().numpy()
        projection = self._projection
        if random_state is None:
            found = projection.inverse(m, z)
        else:
            found = projection.noise(m, z, random_state)
        found = np.where(missing, found, values)
        # Cells of a projected block that a row has are filled from its other cells.
        own = projection.fill(m, values)
        partly = ~missing.all(axis=1)
        found[partly] = np.where(np.isnan(own[partly]), found[partly], own[partly])
        return found

    def _class_proba(self, X: np.ndarray) -> np.ndarray:
        if self.method == "neural":
            return self._neural_rows(X, "proba")
        if self.head == "logistic":
            found = self.head_.predict_proba(self._represent(X, *self._head_features))
            proba = np.zeros((len(X), len(self.classes_)))
            proba[:, self.head_.classes_] = found
            return proba
        by_atom = self.class_concentration_
        by_atom = by_atom / by_atom.sum(1, keepdims=True)
        return self._responsibilities(X) @ by_atom

    def predict(self, X):
        """Most probable classes, or without a head most probable components.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, with NaN where missing.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels; components are numbered by decreasing size. With several sticks or
            modalities of atoms, component k of modality m has the number
            ``m * n_components + k``.
        """
        X = self._checked(X)
        if self.head is None:
            return self._assignments(self._source(X))
        return self.classes_[self._class_proba(X).argmax(1)]

    def fit_predict(self, X, y=None, sample_weight=None):
        """Fit, and predict the same rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, with NaN where missing.
        y : array-like of shape (n_samples,), default=None
            Class labels; needed with a head, ignored without.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative row weights.

        Returns
        -------
        ndarray of shape (n_samples,)
            The same as ``fit(X, y).predict(X)``.
        """
        self.fit(X, y, sample_weight=sample_weight)
        alone = self.head is None and hasattr(self, "labels_")
        return self.labels_ if alone else self.predict(X)

    def predict_proba(self, X):
        """Class probabilities, or without a head responsibilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, with NaN where missing; a row without any value has the weights.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples, n_atoms)
            Rows sum to one.
        """
        X = self._checked(X)
        proba = self._responsibilities(X) if self.head is None else self._class_proba(X)
        return proba.astype(X.dtype, copy=False)

    @available_if(_has_head)
    def predict_log_proba(self, X):
        """Logarithms of the class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, with NaN where missing.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In nats.
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    @available_if(_closed_form)
    def score_samples(self, X):
        r"""Log-sum of expected log-weights and log-densities of each row.

        :math:`\log \sum_j \exp(E \log \pi_j + E \log p_j(x))`, scikit-learn's
        convention: a bound on the log-density, a little below it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, with NaN where missing; what is missing is integrated out.

        Returns
        -------
        ndarray of shape (n_samples,)
            In nats. A projected modality counts by the density of its coordinates,
            others in the units of X.
        """
        X = self._checked(X)
        out = np.empty(len(X))
        for index, rows, _, log_norm, expectation in self._in_chunks(self._source(X)):
            if expectation.mixture.coupling == "per_modality":
                log_norm = log_norm * rows.seen
            out[index] = log_norm.sum(0).cpu().numpy()
            out[index] -= _log_scale(X[index], self._layout, self._projection)
        return out

    def score(self, X, y=None, sample_weight=None):
        """Accuracy, or without a head the mean of `score_samples`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, with NaN where missing.
        y : array-like of shape (n_samples,), default=None
            Labels; ignored without a head.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.

        Returns
        -------
        float
            Share of rows, or nats a row.
        """
        if self.head is None:
            return float(np.average(self.score_samples(X), weights=sample_weight))
        if y is None:
            raise ValueError(
                "y: expected labels to score a classifier by, got None. With head=None "
                "the score is the mean of score_samples."
            )
        return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))

    def transform(self, X):
        """Fused rows: filled in, amplified, or as responsibilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, with NaN where missing.

        Returns
        -------
        ndarray of shape (n_samples, n_out)
            With `representation` "filled" the columns of all modalities in the units
            of X, what is missing filled in, or NaN with `keep_missing`. With
            "responsibilities" a column an atom; with "both" these after those. With
            ``method="neural"`` the fused vector that enters the head.
        """
        X = self._checked(X)
        if self.method == "neural":
            return self._neural_rows(X, "fused").astype(X.dtype, copy=False)
        values = self._represent(
            X, self.representation, self.amplify, self._fill_state()
        )
        if self.keep_missing and self.representation != "responsibilities":
            n = len(self._columns)
            missing = np.isnan(X[:, self._columns])
            values[:, :n] = np.where(missing, np.nan, values[:, :n])
        return values.astype(X.dtype, copy=False)

    @available_if(_closed_form)
    def impute(self, X):
        """X with missing cells filled in by responsibilities.

        A missing modality gets the means of the components, or with ``fill="sample"``
        a draw, in proportion to the row's responsibilities; a missing cell its
        conditional expectation given the modality's other cells.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, with NaN where missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Observed cells and dropped columns as they were.
        """
        X = self._checked(X)
        out = X.copy()
        values = self._filled(X, 0.0, self._fill_state())
        cells = np.isnan(X[:, self._columns])
        out[:, self._columns] = np.where(cells, values, X[:, self._columns])
        return out

    def _fill_state(self):
        return None if self.fill == "mean" else check_random_state(self.random_state)

    @available_if(_closed_form)
    def sample(self, n_samples=1):
        """Draw rows from the fitted mixture.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows in the units of X; NaN in dropped columns. With coupling "joint_stick"
            the modality of a row's atom is drawn from its component, the others from
            the reference densities.
        labels : ndarray of shape (n_samples,) or (n_samples, n_modalities)
            The atoms; with coupling "per_modality" a component a modality.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(f"n_samples: expected at least 1, got {n_samples}.")
        random_state = check_random_state(self.random_state)
        mixture = self._fitted_mixture(torch.device("cpu"))
        n_blocks, k = len(mixture.blocks), len(mixture.blocks[0].dof)
        weights = torch.softmax(mixture.log_mean_weights, 1).numpy()
        atoms = np.stack(
            [random_state.choice(len(p), size=n_samples, p=p) for p in weights], axis=1
        )
        X = np.full((n_samples, self.n_features_in_), np.nan)
        for m, block in enumerate(self._layout):
            q = mixture.blocks[m]
            component = atoms[:, m if mixture.coupling == "per_modality" else 0]
            own = np.ones(n_samples, dtype=bool)
            if mixture.coupling == "joint_stick":
                own = component // k == m
                component = component % k
            z = _draw(q.mean, q.covariance, component, random_state)
            if not own.all():
                h = mixture.reference[m]
                other = _draw(h.mean, h.scale, np.zeros_like(component), random_state)
                z = np.where(own[:, None], z, other)
            X[:, block.indices] = self._projection.noise(m, z, random_state)
        labels = atoms if n_blocks == atoms.shape[1] > 1 else atoms[:, 0]
        return X.astype(self._dtype), labels

    def get_feature_names_out(self, input_features=None):
        """Names of the columns of `transform`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Checked against the names seen in `fit`.

        Returns
        -------
        ndarray of str objects
            Such as "image__x3" and "component2", with several modalities of atoms
            "image__component2"; "fused5" for ``method="neural"``.
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        if self.method == "neural":
            n_fused = self._architecture["n_fused"]
            return np.array([f"fused{j}" for j in range(n_fused)], dtype=object)
        out = []
        if self.representation != "responsibilities":
            out += prefixed(names[self._columns], self._column_modalities)
        if self.representation != "filled":
            k = range(len(self.mean_precision_[0]))
            if self._mixture["coupling"] == "shared":
                out += [f"component{j}" for j in k]
            else:
                out += [
                    f"{n}__component{j}" for n in self.modality_names_in_ for j in k
                ]
        return np.array(out, dtype=object)


@dataclass(frozen=True)
class _Problem:
    """What one fit is of.

    `observed` is the weight of the rows that have each modality.
    """

    source: Source
    rule: Rule
    start: Start
    chunk: int
    n_batches: int
    observed: np.ndarray

    def batches(self, random_state: np.random.RandomState) -> Batches:
        return Batches(self.source, self.n_batches, self.chunk, random_state)


class _Progress:
    """Tells callbacks and the terminal of each lap, and keeps the bounds."""

    def __init__(self, estimator, context, told, start):
        self.estimator, self.context, self.told = estimator, context, told
        self.start, self.bounds = start, []

    def __call__(self, state: State, run: Run) -> bool:
        self.bounds.append(state.bound)
        if self.estimator.verbose:
            used = int((state.totals.counts > UNUSED).sum())
            print(
                f"start {self.start} iteration {run.n_iter}: bound {state.bound:.6g}, "
                f"{used} components, change {state.change:.2g} nats a row"
            )
        return tell(self.estimator, self.context, self.told, "iteration")


def _log_scale(X, layout, projection) -> np.ndarray:
    """Log-volume that scaling took from each row's observed cells."""
    total = np.zeros(len(X))
    for m, block in enumerate(layout):
        total += projection.log_scale(m, ~np.isnan(X[:, block.columns]))
    return total


def _over_atoms(resp: Tensor, expectation: Expectation) -> np.ndarray:
    """Responsibilities (n, G * J), rows summing to one."""
    total = resp.sum((0, 1))
    prior = torch.exp(torch.log_softmax(expectation.log_weights, -1)) / len(resp)
    resp = torch.where(
        total > 0, resp / torch.where(total > 0, total, 1), prior[:, :, None]
    )
    return resp.flatten(0, 1).T.cpu().numpy()


def _draw(mean: Tensor, covariance: Tensor, component, random_state) -> np.ndarray:
    noise = random_state.standard_normal((len(component), mean.shape[1]))
    root = cholesky(covariance).numpy()[component]
    if root.ndim == 2:
        return mean.numpy()[component] + root * noise
    return mean.numpy()[component] + np.einsum("nij,nj->ni", root, noise)


def _packed(mixture: Mixture) -> dict[str, Any]:
    """A mixture as nested arrays."""
    parts = dict(vars(mixture))
    for name in ("blocks", "reference"):
        if parts[name] is not None:
            parts[name] = [vars(q) for q in parts[name]]
    return to_arrays(parts)


def _unpacked(parts: dict[str, Any], device) -> Mixture:
    parts = dict(to_tensors(parts))

    def moved(value):
        return value.to(device) if isinstance(value, Tensor) else value

    for name in ("blocks", "reference"):
        if parts[name] is not None:
            parts[name] = [
                NormalWishart(**{k: moved(v) for k, v in q.items()})
                for q in parts[name]
            ]
    return Mixture(**{k: moved(v) for k, v in parts.items()})


def _totals_of(parts: dict[str, Any], device) -> Totals:
    parts = to_tensors({k: v for k, v in parts.items() if k not in NOT_SUMS})
    blocks = [t.to(device) for t in parts.pop("blocks")]
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in parts.items()}
    return Totals(blocks=blocks, **moved)


def _tensor(values, device) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64), device=device)


def _not_definite(estimator) -> ValueError:
    return ValueError(
        "reg_covar: a component's covariance is not positive definite, as for rows "
        f"that are nearly equal. Use a larger value than {estimator.reg_covar:g}, or "
        "covariance_type='diag'."
    )
