"""DCMEMEncoder: shared and private codes of several modalities."""

# License: BSD-3-Clause

import warnings
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import TransformerMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_array, check_is_fitted

from skmm._device import resolve_device
from skmm.core.decoders import DECODERS, build_decoder
from skmm.core.diagonal_gaussian import DiagonalGaussian, wasserstein
from skmm.core.likelihoods import CONTINUOUS, draw, expectation
from skmm.core.multimodal_vae import (
    Codes,
    MultimodalVAE,
    Objective,
    Part,
    Rows,
    joint_code,
    log_weights,
    objective,
    row_bounds,
    start_narrow,
)
from skmm.core.networks import build_encoder
from skmm.estimators._base import fit_layout, to_arrays, to_tensors, told_fit
from skmm.estimators._gradient import (
    PREDICT_ROWS,
    GradientEstimator,
    _check_widths,
    check_names,
    fit_scaler,
    seed_from,
)
from skmm.fitting.data import Batch, BlockData
from skmm.fitting.gradient import EpochHooks, seeded
from skmm.modalities import (
    check_observed,
    list_rows,
    observed_modalities,
    time_steps_observed,
    validate_input,
)

# Terms that rows with one modality have, too.
OF_SINGLE_ROWS = ("reconstruction", "private_divergence")
# Below this share of the variance of a code that its mean explains, it is unused.
LEAST_RELIABILITY = 0.01
CROSS_DECODERS = ("shared_posterior", "shared_prior", "shared_mean", "separate")
# Training rows whose private posteriors are kept to draw from.
BANK_ROWS = 1000
# Rows with another modality from which a modality's agreement is told.
LEAST_PAIRS = 20
# Cells that are decoded at a time.
DECODED_CELLS = 1 << 22
# Draws of the score that are decoded at a time.
SCORE_DRAWS = 16


class _Loss:
    """The objective of a batch, with the divergences warmed up in training."""

    def __init__(self, settings: dict[str, Any], warm_up: float, seed: int):
        self.settings, self.warm_up, self.seed = Objective(**settings), warm_up, seed
        self.warmth = 1.0
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, Any] = {}

    def begin_epoch(self, number: int) -> None:
        """Raise the weight of the divergences linearly over the warm-up."""
        self.warmth = min(1.0, (number + 1) / (self.warm_up + 1))
        self.sums, self.counts = {}, {}

    def end_epoch(self) -> dict[str, float]:
        """Mean of each term over the rows that have it."""
        return {k: float(v / self.counts[k]) for k, v in self.sums.items()}

    def __call__(
        self, network: MultimodalVAE, codes: Codes, y: None, batch: Batch
    ) -> torch.Tensor:
        rows, codes = _rows(batch), codes.in_full_precision()
        if not network.training:
            # Losses on held-out rows are compared: same weights, same draws.
            with seeded(self.seed, rows.observed.device):
                return objective(network, rows, codes, self.settings).loss
        warm = replace(self.settings, kl_weight=self.warmth * self.settings.kl_weight)
        terms = objective(network, rows, codes, warm)
        n_modalities = rows.observed.sum(0)
        for name, value in terms.parts.items():
            least = 1 if name in OF_SINGLE_ROWS else 2
            self.sums[name] = self.sums.get(name, 0.0) + value
            count = (n_modalities >= least).sum()
            self.counts[name] = self.counts.get(name, 0) + count
        return terms.loss


def _rows(batch: Batch) -> Rows:
    return Rows(batch["blocks"], batch["steps"], batch["cells"], batch["observed"])


class DCMEMEncoder(TransformerMixin, GradientEstimator):
    r"""Shared and private codes of several modalities, and what generates from them.

    Each modality m has a variational autoencoder with two codes: a *shared* one z, of
    the same size for all, and a *private* one w. No code of all modalities is formed;
    instead each modality's shared encoder is the prior of the others' ("mutual
    supervision", Joy et al., 2022). For a row with modalities s and t, draws
    :math:`z_k \sim q(z|s)`, :math:`w_k \sim q(w|s)` and

    .. math::

        a_k &= \log q(t | z_k), \qquad W = \mathrm{softmax}(a), \
        b_k &= \log p(s | z_k, w_k) + \log p(w_k) + \log q(z_k | t)
               - \log q(w_k | s) - \log q(z_k | s),

    `fit` maximises the mean over both directions of

    .. math::

        \sum_k W_k (b_k - a_k) + \lambda_x \log \tfrac1K \sum_k e^{a_k}
        + \lambda_{ib} \big(E \log p(s|z,w) - KL_w - KL_z\big)
        + \alpha\, (\log n - \mathrm{NCE}),

    where the first two terms with :math:`\lambda_x = 1` are a lower bound of
    log p(s|t), the third keeps private and shared codes apart (an information
    bottleneck), and the last aligns the shared codes of a row against those of other
    rows (InfoNCE over the batch). A row with one modality has a bound with a mixture
    of the others' encoders at `n_anchors` learnt stand-ins as its prior (Gao et al.,
    2025). Logarithms of codes' densities, and divergences, count `kl_weight` times.

    Rows may lack modalities (all-NaN blocks) and cells (NaN inside a block; they
    are left out of the likelihoods) in `fit` and everywhere else. One modality gives
    a plain variational autoencoder with the prior N(0, I).

    Parameters
    ----------
    modalities : "auto", None, list of int, mapping or callable, default="auto"
        Which columns belong together, see :ref:`modalities`. A `Modality` sets the
        likelihood ("gaussian", "laplace", "bernoulli", "categorical"), its `scale`,
        the shape of images and sequences, and networks of your own.
    n_components : int, default=64
        Size of the shared code.
    n_private : int or dict, default=4
        Size of the private codes, or sizes by modality name (4 where not named). 0
        leaves them out, and so does a single modality.
    encoder : str, class or dict, default="auto"
        "auto" is a multilayer perceptron for vectors and a convolutional net for
        images and sequences; or "linear", "mlp", "conv", "attention", or a class called
        as ``encoder(shape, n_out)`` that returns a torch module, which must not
        change its input in place; or a dict of these by modality name. Its output,
        ``n_out = 2 * (n_components + n_private)`` numbers a row, are the means of
        both codes and then the logarithms of their standard deviations. Normalise by
        layer or group rather than by batch, which mixes rows.
    decoder : str, class or dict, default="auto"
        Likewise: "linear", "mlp", "conv", or a class called as
        ``decoder(shape, n_codes)`` whose module maps codes
        ``(n, n_components + n_private)`` to the block. Its output are locations
        ("gaussian", "laplace") or logits ("bernoulli", "categorical").
    hidden : sequence of int, default=(256, 256)
        Hidden layers of "mlp" encoders; decoders have them in reverse.
    activation : {"relu", "tanh", "gelu"}, default="relu"
        Of the hidden layers of "mlp".
    dropout : float, default=0.0
        Share of hidden units dropped in training, in [0, 1).
    n_samples : int, default=2
        Draws K of the codes in training. With 1 the weights say nothing.
    cross_decoder : str or dict, default="shared_prior"
        How q(t|z) is computed from the other modality's shared code; a dict has one
        of these for each t by name ("shared_prior" where not named).
        "shared_posterior" decodes with t's own private code, drawn from its posterior
        and reweighted by prior over posterior, which estimates the integral over
        the private code without bias; "shared_prior" draws it from the prior, as
        `generate` does; "shared_mean" sets it to zero; "separate" is a network of its
        own, without a private code.
    cross_weight : float, default=10.0
        :math:`\lambda_x`. With `stop_gradient` it must exceed 1, or predicting one
        modality from another is not learnt.
    ib_weight : float, default=1.0
        :math:`\lambda_{ib}`.
    align_weight : float, default=10.0
        :math:`\alpha`.
    nce_temperature : float, default=0.2
        Temperature of InfoNCE on unit-length codes. Smaller ones tell instances
        apart, larger ones let similar rows stay close.
    stop_gradient : bool, default=True
        Whether the weights W are constants for the gradient.
    multi : {"pairwise", "mixture", "product"}, default="pairwise"
        More than two modalities: "pairwise" takes the mean over a row's ordered
        pairs; the others predict all other modalities at once from each, with the
        mixture or the product of their encoders as the prior.
    n_targets : int or None, default=1
        How many of a row's other modalities, drawn anew each step, each modality
        predicts. None is all of them, at a cost that grows with the square of their
        number. With "mixture" and "product" the prior is that of the chosen ones.
    own_draws : {"all", "one"}, default="all"
        "one" decodes each modality from one draw, picked with the weights W, in place
        of all K: the same bound in expectation, at less cost. (The reconstruction in
        the third term is then weighted, too.)
    cross_fraction : float, default=1.0
        Share of the rows of a step whose other modalities are predicted, in (0, 1].
        The others have the plain bound in that step: the cross term weighs less.
    n_anchors : int, default=64
        Stand-ins a modality for what a row lacks; they start at random training rows.
    learn_anchors : bool, default=True
        Whether training moves them.
    likelihood_rescale : {None, "dimension"} or dict, default=None
        Factors of the modalities' log-likelihoods in training, by name; "dimension"
        multiplies each by the largest number of columns over its own.
    kl_weight : float, default=0.1
        Weight of the divergences and of the codes' log-ratios in training; 1 makes
        the terms bounds.
    kl_warmup : float, default=0.0
        Share of the epochs over which that weight grows to its value.
    z_prior_weight : float, default=0.0
        Weight of the divergence of shared codes from N(0, I). Nothing else pins
        where these codes are.
    spherical : bool, default=False
        Whether means of shared codes lie on the sphere of radius
        ``sqrt(n_components)``: the alignment sees directions only, and nothing else
        would pin their length. Not where there is one modality.
    joint : {"agreement", "mean", "precision", "concat"}, default="agreement"
        Shared code of a row from all its modalities: the mean of their means weighted
        by `modality_weights_`, the plain mean, the mean weighted by their precisions,
        or all side by side.
    output : {"joint", "per_modality", "private", "all"}, default="joint"
        What `transform` returns; "all" is the joint code and the private ones.
    keep_missing : bool, default=False
        Whether `transform` returns NaN for codes of absent modalities, rather than
        the joint code or, for a private one, zero.
    n_score_samples : int, default=16
        Draws of the importance-weighted bound of `score` and `score_samples`.
    lr : float, default=0.002
        Learning rate (AdamW).
    lr_schedule : {"cosine", "constant"}, default="cosine"
        "cosine" takes the rate to zero over `max_epochs`.
    max_epochs : int, default=60
        Passes over the training rows.
    batch_size : int, default=128
        Rows a step; InfoNCE contrasts a row with the others of its batch. A last
        batch under half this size is merged.
    weight_decay : float, default=0.0
        Decoupled weight decay (AdamW) of an epoch, divided among its steps.
    clip_norm : float or None, default=None
        Largest norm of a step's gradient.
    early_stopping : bool, default=False
        Whether to hold rows out and keep the weights of the epoch with the lowest
        loss on them.
    validation_fraction : float, default=0.1
        Share of rows held out by early stopping.
    n_iter_no_change : int, default=10
        Epochs without a lower loss after which early stopping ends.
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit.
    checkpoint_dir : str, path or None, default=None
        Folder where each epoch is saved, so that the same `fit` takes up a killed one
        with the same result. Needs an int `random_state`. The file is removed at the
        end.
    net_params : dict or None, default=None
        To `skorch.NeuralNet`, as ``{"optimizer": torch.optim.Adam}``.
    precision : {None, "bf16"}, default=None
        "bf16" trains in bfloat16 where torch's autocast does; float32 data only.
        None computes in the type of X.
    device : str or torch.device, default="auto"
        "auto" is the GPU if there is one.
    random_state : int, RandomState instance or None, default=None
        Seeds the weights, the batches, the draws and the held-out rows. The same int
        gives the same bits on the CPU.
    verbose : int, default=0
        1 prints a line an epoch.

    Attributes
    ----------
    modality_names_in_ : ndarray of shape (n_modalities,)
        Names of the modalities.
    modality_indices_ : dict of str to ndarray
        Columns of each modality.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names, where X has string names.
    anchors_ : dict of str to ndarray of shape (n_anchors, n_columns)
        Stand-ins of each modality, in the units of X; none where there is one
        modality.
    modality_weights_ : dict of str to float
        How far each modality's shared codes agree with the others' over the training
        rows: mean correlation, relative to that of all modalities; zero where there
        is none.
    shared_reliability_, private_reliability_ : dict of str to ndarray
        Share of a code's variance over the training rows that its posterior means
        explain, a number a dimension in [0, 1]. Near 0 the dimension is not used.
    history_ : dict of str to list of float
        Means over the training rows of each epoch, in nats: "reconstruction", the
        log-likelihood of a row's modalities from their own codes, and "cross", of one
        from another's, both as rescaled; "shared_divergence", "private_divergence" and
        "alignment" (NCE), without weights; over the rows that have the term, NaN where
        none has.
    loss_curve_ : list of float
        Training loss of each epoch.
    validation_loss_curve_ : list of float
        Loss on the held-out rows (early stopping only).
    n_iter_ : int
        Epochs run.

    See Also
    --------
    DPMixtureFusion : Groups of rows by a mixture model, without networks.
    skmm.datasets.drop_modalities : Remove blocks at random, to test robustness.

    Notes
    -----
    The paper is for two modalities, and neither its appendix nor any code of it was
    at hand: the bounds are its talk's; the weights over all draws, the values of all
    weights, the anchors' number, "shared_posterior", the joint codes, and everything
    about more than two modalities are ours. See the user guide for what each is for
    and what was measured.

    A step decodes each row's modalities ``2 K`` times (`n_targets` 1), and contrasts
    all pairs of rows. The training loss is no bound of the likelihood
    (:math:`\lambda_x \ne 1`, `kl_weight`, the alignment); `score` is one. The default
    `kl_weight` favours codes and generation; for the likelihood use 1.

    There is no `sample_weight`: draws are independent between rows, so that a weight
    could not equal repetition.

    References
    ----------
    Gao, Chen, Wang, Guo, Liang. "Disentangled Cross-Modal Representation Learning with
    Enhanced Mutual Supervision". NeurIPS 2025.

    Tom Joy, Yuge Shi, Philip Torr, Tom Rainforth, Sebastian Schmon, N. Siddharth.
    "Learning Multimodal VAEs through Mutual Supervision". ICLR 2022.

    Aaron van den Oord, Yazhe Li, Oriol Vinyals. "Representation Learning with
    Contrastive Predictive Coding". 2018, arXiv:1807.03748.

    Yuri Burda, Roger Grosse, Ruslan Salakhutdinov. "Importance Weighted Autoencoders".
    ICLR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm import DCMEMEncoder
    >>> from skmm.datasets import load_mfeat
    >>> X, y = load_mfeat(views=("fou", "zer"), return_X_y=True)
    >>> X[::3, :76] = np.nan  # every third row lacks the Fourier coefficients
    >>> encoder = DCMEMEncoder([76, 47], max_epochs=5, random_state=0).fit(X)
    >>> encoder.transform(X).shape
    (2000, 64)
    >>> filled = encoder.impute(X)
    >>> bool(np.isnan(filled).any())
    False
    """

    _parameter_constraints: dict = {
        **GradientEstimator._gradient_constraints,
        "n_private": [Interval(Integral, 0, None, closed="left"), dict],
        "decoder": [str, callable, dict],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "cross_decoder": [StrOptions(set(CROSS_DECODERS)), dict],
        "cross_weight": [Interval(Real, 0, None, closed="left")],
        "ib_weight": [Interval(Real, 0, None, closed="left")],
        "align_weight": [Interval(Real, 0, None, closed="left")],
        "nce_temperature": [Interval(Real, 0, None, closed="neither")],
        "stop_gradient": ["boolean"],
        "multi": [StrOptions({"pairwise", "mixture", "product"})],
        "n_targets": [Interval(Integral, 1, None, closed="left"), None],
        "own_draws": [StrOptions({"all", "one"})],
        "cross_fraction": [Interval(Real, 0, 1, closed="right")],
        "n_anchors": [Interval(Integral, 1, None, closed="left")],
        "learn_anchors": ["boolean"],
        "likelihood_rescale": [StrOptions({"dimension"}), dict, None],
        "kl_weight": [Interval(Real, 0, None, closed="left")],
        "kl_warmup": [Interval(Real, 0, 1, closed="both")],
        "z_prior_weight": [Interval(Real, 0, None, closed="left")],
        "spherical": ["boolean"],
        "joint": [StrOptions({"agreement", "mean", "precision", "concat"})],
        "output": [StrOptions({"joint", "per_modality", "private", "all"})],
        "keep_missing": ["boolean"],
        "n_score_samples": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        modalities="auto",
        *,
        n_components=64,
        n_private=4,
        encoder="auto",
        decoder="auto",
        hidden=(256, 256),
        activation="relu",
        dropout=0.0,
        n_samples=2,
        cross_decoder="shared_prior",
        cross_weight=10.0,
        ib_weight=1.0,
        align_weight=10.0,
        nce_temperature=0.2,
        stop_gradient=True,
        multi="pairwise",
        n_targets=1,
        own_draws="all",
        cross_fraction=1.0,
        n_anchors=64,
        learn_anchors=True,
        likelihood_rescale=None,
        kl_weight=0.1,
        kl_warmup=0.0,
        z_prior_weight=0.0,
        spherical=False,
        joint="agreement",
        output="joint",
        keep_missing=False,
        n_score_samples=16,
        lr=2e-3,
        lr_schedule="cosine",
        max_epochs=60,
        batch_size=128,
        weight_decay=0.0,
        clip_norm=None,
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
        self.n_private = n_private
        self.encoder = encoder
        self.decoder = decoder
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.n_samples = n_samples
        self.cross_decoder = cross_decoder
        self.cross_weight = cross_weight
        self.ib_weight = ib_weight
        self.align_weight = align_weight
        self.nce_temperature = nce_temperature
        self.stop_gradient = stop_gradient
        self.multi = multi
        self.n_targets = n_targets
        self.own_draws = own_draws
        self.cross_fraction = cross_fraction
        self.n_anchors = n_anchors
        self.learn_anchors = learn_anchors
        self.likelihood_rescale = likelihood_rescale
        self.kl_weight = kl_weight
        self.kl_warmup = kl_warmup
        self.z_prior_weight = z_prior_weight
        self.spherical = spherical
        self.joint = joint
        self.output = output
        self.keep_missing = keep_missing
        self.n_score_samples = n_score_samples
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.max_epochs = max_epochs
        self.batch_size = batch_size
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
        """Say that NaN is allowed and that the float type is kept."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # ------------------------------------------------------------ fitting
    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Train on X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            All modalities side by side; a missing modality of a row is an all-NaN
            block.
        y : None
            Not used; for the interface.

        Returns
        -------
        self : DCMEMEncoder
            Fitted estimator.

        Raises
        ------
        ValueError
            If X has infinities, a modality is never observed, or values are not
            possible under its likelihood.
        """
        go_on = self.warm_start and hasattr(self, "_network_state")
        told = {"X": X, "y": y, "metadata": {}}
        with told_fit(self, told, self.max_epochs) as context:
            X, observed = self._check_rows(X, go_on=go_on)
            self._run(X, observed, context, told, go_on=go_on)
        return self

    def _check_rows(self, original: Any, *, go_on: bool):
        """Validated X and its masks; sets what describes them."""
        X = validate_input(self, original, reset=not go_on)
        self._check_gradient_params(X)
        layout = fit_layout(self, original, X, go_on=go_on)
        several = len(layout) > 1
        if several and self.stop_gradient and self.cross_weight <= 1:
            warnings.warn(
                f"cross_weight: {self.cross_weight} with stop_gradient=True gives the "
                "prediction of one modality from another no gradient. Use more than "
                "1, or stop_gradient=False.",
                UserWarning,
                stacklevel=5,
            )
        cross = self._cross_decoders(layout)
        self._keep_architecture(
            go_on,
            encoder=self._encoder_kinds(layout),
            decoder=self._network_kinds(layout, "decoder", DECODERS, "n_codes"),
            n_components=int(self.n_components),
            n_private=self._private_sizes(layout),
            hidden=_check_widths("hidden", self.hidden),
            activation=self.activation,
            separate=[several and kind == "separate" for kind in cross],
            spherical=several and self.spherical,
            n_anchors=int(self.n_anchors) if several else 0,
            learn_anchors=self.learn_anchors,
        )
        self._rescale = self._rescaling(layout)
        if go_on:
            return X, observed_modalities(X, layout)
        self._dtype = X.dtype.name
        self._scaler, observed = fit_scaler(X, layout, None)
        if several and (observed.sum(1) < 2).all():
            warnings.warn(
                "X: no row has two modalities, so that nothing relates their shared "
                "codes but the anchors. Add rows with several modalities.",
                UserWarning,
                stacklevel=5,
            )
        return X, observed

    def _rescaling(self, layout) -> list[float] | None:
        """Factors of the modalities' log-likelihoods; None where all are one."""
        if self.likelihood_rescale is None:
            return None
        if self.likelihood_rescale == "dimension":
            largest = max(block.size for block in layout)
            return [largest / block.size for block in layout]
        factors = _by_modality(
            "likelihood_rescale", self.likelihood_rescale, layout.names, 1.0
        )
        for name, factor in zip(layout.names, factors, strict=True):
            if not isinstance(factor, Real) or not 0 < factor < np.inf:
                raise ValueError(
                    "likelihood_rescale: expected positive numbers, got "
                    f"{factor!r} for the modality {name!r}."
                )
        return [float(factor) for factor in factors]

    def _cross_decoders(self, layout) -> list[str]:
        kinds = _by_modality(
            "cross_decoder", self.cross_decoder, layout.names, "shared_prior"
        )
        for name, kind in zip(layout.names, kinds, strict=True):
            if not isinstance(kind, str) or kind not in CROSS_DECODERS:
                raise ValueError(
                    f"cross_decoder: expected one of {CROSS_DECODERS}, got {kind!r} "
                    f"for the modality {name!r}."
                )
        return kinds

    def _private_sizes(self, layout) -> list[int]:
        if len(layout) == 1:
            return [0]  # nothing to be private from
        sizes = _by_modality("n_private", self.n_private, layout.names, 4)
        for name, size in zip(layout.names, sizes, strict=True):
            if not isinstance(size, Integral) or isinstance(size, bool) or size < 0:
                raise ValueError(
                    "n_private: expected integers of 0 or more, got "
                    f"{size!r} for the modality {name!r}."
                )
        return [int(size) for size in sizes]

    def _run(self, X, observed, context, told, *, go_on: bool) -> None:
        """Train on checked rows, and set what was learnt."""
        device = resolve_device(self.device, fitting=True)
        if not go_on:
            # Held-out rows stay held out when training goes on.
            self._split_seed = self._seed()
        training, held_out = self._split(len(X))
        check_observed(
            observed if training is None else observed[training], self._layout
        )
        data = self._block_data(X, observed, device=device, rows=training, cells=True)
        validation = None
        if held_out is not None:
            validation = self._block_data(
                X, observed, device=device, rows=held_out, cells=True
            )
        hooks = EpochHooks(
            context, self, told, lambda network: self._fitted_attributes(network, data)
        )
        loss = _Loss(
            self._objective(), self.kl_warmup * self.max_epochs, self._split_seed
        )
        # Going on, an int seed must not bring the same batches and draws again.
        seed = self._split_seed + (self.n_iter_ if go_on else 0)
        with seeded(seed, device):
            network = self._build_network()
            if go_on:
                network.load_state_dict(to_tensors(self._network_state))
                loss.warm_up = 0.0
            network.to(device)
            if not go_on:
                self._start_anchors(network, data)
            record = self._train(
                network,
                loss,
                data,
                self._training_settings(self.max_epochs, constant=False),
                hooks,
                validation=validation,
                go_on=go_on,
                keep_optimizer=self.warm_start,
            )
        if not go_on:
            vars(self).pop("validation_loss_curve_", None)
        vars(self).update(self._fitted_attributes(network, data))
        self._record(record, added=go_on)
        self._warn_of_collapse()

    def _objective(self) -> dict[str, Any]:
        names = (
            "n_samples",
            "cross_weight",
            "ib_weight",
            "align_weight",
            "nce_temperature",
            "stop_gradient",
            "multi",
            "n_targets",
            "own_draws",
            "cross_fraction",
            "kl_weight",
            "z_prior_weight",
        )
        settings = {name: getattr(self, name) for name in names}
        settings["n_samples"] = int(self.n_samples)
        cross = self._cross_decoders(self._layout)
        return settings | {"rescale": self._rescale, "cross_decoder": cross}

    def _build_network(self) -> MultimodalVAE:
        a = self._architecture
        parts = []
        for m, block in enumerate(self._layout):
            n_shared, n_private = a["n_components"], a["n_private"][m]
            n_codes = n_shared + n_private
            common = a["hidden"], self.dropout, a["activation"]
            mirrored = a["hidden"][::-1], *common[1:]
            kind = a["decoder"][m]
            encoder = build_encoder(
                a["encoder"][m], block.shape, 2 * n_codes, *common, bounded=False
            )
            if isinstance(a["encoder"][m], str):
                start_narrow(encoder, n_codes)
            cross = None
            if a["separate"][m]:
                cross = build_decoder(kind, block.shape, n_shared, *mirrored)
            parts.append(
                Part(
                    encoder,
                    build_decoder(kind, block.shape, n_codes, *mirrored),
                    block.shape,
                    n_shared,
                    n_private,
                    block.likelihood,
                    block.scale,
                    cross,
                    a["n_anchors"],
                    a["learn_anchors"],
                    a["spherical"],
                    self.precision == "bf16",
                )
            )
        network = MultimodalVAE(parts).to(getattr(torch, self._dtype))
        for parameter in network.parameters():
            if parameter.dim() == 4:
                # Convolutions take a sixth less time with the channels last.
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        return network

    def _start_anchors(self, network: MultimodalVAE, data: BlockData) -> None:
        """Anchors at random training rows of their modality."""
        for m, part in enumerate(network):
            if not part.n_anchors:
                continue
            rows = data.observed[m].nonzero().squeeze(1)
            rows = rows[torch.randperm(len(rows)).to(rows.device)[: part.n_anchors]]
            batch = data.batch(rows)
            part.set_anchors(batch["blocks"][m], batch["steps"][m])

    def _fitted_attributes(
        self, network: MultimodalVAE, data: BlockData
    ) -> dict[str, Any]:
        """Everything that prediction needs, from the network and the training rows."""
        training = network.training
        network.eval()
        with torch.inference_mode():
            moments = _Moments(network)
            for _, batch in data.in_order(PREDICT_ROWS):
                moments.add(_encode(network, batch), batch["observed"])
            prior = network.anchor_prior()
            middle = None if prior is None else prior.mean.mean(0)
            bank = [self._private_bank(network, data, m) for m in range(len(network))]
            anchors = [part.anchor_rows() for part in network]
        network.train(training)
        if middle is None:
            middle = torch.zeros(self._architecture["n_components"])
        names = self._layout.names
        return {
            "modality_weights_": dict(zip(names, moments.agreement(), strict=True)),
            "shared_reliability_": dict(zip(names, moments.shared(), strict=True)),
            "private_reliability_": dict(zip(names, moments.private(), strict=True)),
            "anchors_": {
                block.name: self._anchor_values(m, *map(to_arrays, anchors[m]))
                for m, block in enumerate(self._layout)
            },
            "_bank": to_arrays(bank),
            "_middle": to_arrays(middle),
            "_network_state": to_arrays(network.state_dict()),
        }

    def _anchor_values(
        self, m: int, scaled: np.ndarray, steps: np.ndarray | None
    ) -> np.ndarray:
        """Anchors in the units of X, with NaN where a sequence is padded."""
        values = self._scaler.inverse(m, scaled)
        if steps is not None:
            values[~np.repeat(steps, self._layout.blocks[m].shape[1], axis=1)] = np.nan
        return values

    def _private_bank(
        self, network: MultimodalVAE, data: BlockData, m: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and log-scales of private codes of some training rows."""
        rows = data.observed[m].nonzero().squeeze(1)
        few = torch.linspace(0, len(rows) - 1, min(len(rows), BANK_ROWS)).long()
        batch = data.batch(rows[few.to(rows.device)])
        own = _encode(network, batch).private[m]
        return own.mean, own.log_scale

    def _draw_private(self, m: int, shape: tuple[int, ...], like: torch.Tensor):
        """Private codes of modality m as those of random training rows."""
        mean, log_scale = (torch.tensor(part).to(like) for part in self._bank[m])
        rows = torch.randint(len(mean), shape, device=like.device)
        return DiagonalGaussian(mean[rows], log_scale[rows]).draw(1)[0]

    def _warn_of_collapse(self) -> None:
        """Warn of modalities whose shared code says nothing of their rows."""
        unused = [
            name
            for name, values in self.shared_reliability_.items()
            if values.max() < LEAST_RELIABILITY
        ]
        if unused:
            warnings.warn(
                f"The shared code of {unused} has collapsed: its means vary by less "
                f"than {LEAST_RELIABILITY:.0%} of its variance (shared_reliability_). "
                "The modality may have nothing in common with the others; else try "
                "a larger align_weight or kl_warmup, or a smaller likelihood scale.",
                ConvergenceWarning,
                stacklevel=6,
            )

    # ------------------------------------------------------------ codes
    def transform(self, X):
        """Posterior means of the codes that `output` names.

        Nothing is drawn: a row's codes depend on that row alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_codes)
            The joint shared code; the shared codes of all modalities side by side
            (`output` "per_modality", or `joint` "concat"); the private codes; or joint
            and private codes. Where a modality is missing its shared code is the mean
            of the others', its private one the prior's mean, zero; NaN with
            `keep_missing`. A row that has nothing gets the mean of the anchors.
        """
        X = self._checked(X)

        if self.output == "private" and not sum(self._architecture["n_private"]):
            raise ValueError(
                "output: expected one that is there, got 'private' of a model without "
                "private codes. Use n_private=4, say, and more than one modality."
            )

        def value(network, batch):
            codes = _encode(network, batch)
            return self._represent(codes, batch["observed"])

        return self._map_rows(X, value)

    def _represent(self, codes: Codes, observed: torch.Tensor) -> torch.Tensor:
        """The columns that `output` asks for."""
        absent = ~observed.unsqueeze(-1)
        fill = torch.nan if self.keep_missing else None
        joint = self._joint(codes, observed).mean
        if self._shared_by_modality:
            means, _ = codes.stacked()
            filled = torch.where(absent, joint if fill is None else fill, means)
            shared = filled.transpose(0, 1).flatten(1)
        else:
            nothing = ~observed.any(0)[:, None]
            shared = joint if fill is None else joint.masked_fill(nothing, fill)
        if self.output in ("joint", "per_modality"):
            return shared
        # The prior's mean stands in for an absent modality's private code.
        own = [q.mean for q in codes.private]
        if fill is not None:
            own = [w.masked_fill(a, fill) for w, a in zip(own, absent, strict=True)]
        private = torch.cat(own, 1)
        return private if self.output == "private" else torch.cat([shared, private], 1)

    def _joint(self, codes: Codes, observed: torch.Tensor) -> DiagonalGaussian:
        """Shared code of rows from all that is observed."""
        weights = None
        if self.joint in ("agreement", "concat"):
            weights = torch.tensor([*self.modality_weights_.values()])
        joint = joint_code(
            codes,
            observed,
            "precision" if self.joint == "precision" else "mean",
            weights,
            self._architecture["spherical"],
        )
        nothing = ~observed.any(0)[:, None]
        middle = torch.tensor(self._middle).to(joint.mean)
        return DiagonalGaussian(
            torch.where(nothing, middle, joint.mean), joint.log_scale
        )

    def get_feature_names_out(self, input_features=None):
        """Names of the columns of `transform`.

        Parameters
        ----------
        input_features : None
            Not used; for the interface.

        Returns
        -------
        names : ndarray of str
            ``shared<j>``, ``<modality>__shared<j>`` or ``<modality>__private<j>``.
        """
        check_is_fitted(self)
        n_shared = self._architecture["n_components"]
        names = []
        if self._shared_by_modality:
            names += [
                f"{name}__shared{j}"
                for name in self.modality_names_in_
                for j in range(n_shared)
            ]
        elif self.output in ("joint", "all"):
            names += [f"shared{j}" for j in range(n_shared)]
        if self.output in ("private", "all"):
            sizes = self._architecture["n_private"]
            names += [
                f"{name}__private{j}"
                for name, size in zip(self.modality_names_in_, sizes, strict=True)
                for j in range(size)
            ]
        return np.array(names, dtype=object)

    def transform_dist(self, X):
        """Means and standard deviations of all posteriors.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        codes : Bunch of Bunch
            By modality name: `shared_mean` and `shared_scale` of shape (n_samples,
            n_components), `private_mean` and `private_scale`; NaN where the modality
            is missing.
        """
        X = self._checked(X)
        sizes = self._architecture["n_private"]
        n_shared = self._architecture["n_components"]

        def value(network, batch):
            codes = _encode(network, batch)
            columns = []
            for m, seen in enumerate(batch["observed"]):
                for q in (codes.shared[m], codes.private[m]):
                    for part in (q.mean, q.scale):
                        columns.append(part.masked_fill(~seen[:, None], torch.nan))
            return torch.cat(columns, 1)

        values = self._map_rows(X, value)
        found = {}
        for name, size in zip(self._layout.names, sizes, strict=True):
            widths = np.cumsum([n_shared, n_shared, size, size])
            own, values = values[:, : widths[-1]], values[:, widths[-1] :]
            parts = np.split(own, widths[:-1], axis=1)
            keys = "shared_mean", "shared_scale", "private_mean", "private_scale"
            found[name] = Bunch(**dict(zip(keys, parts, strict=True)))
        return Bunch(**found)

    def pairwise_w2(self, X, a, b):
        """2-Wasserstein distances of shared posteriors of two modalities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.
        a, b : str
            Names of modalities.

        Returns
        -------
        distances : ndarray of shape (n_samples, n_samples)
            Of row i's posterior given modality `a` and row j's given `b`; NaN where
            either is missing. The diagonal holds the pairs.
        """
        check_is_fitted(self)
        check_names([a], self._layout.names, "a")
        check_names([b], self._layout.names, "b")
        found = self.transform_dist(X)
        left, right = (
            DiagonalGaussian(
                torch.tensor(found[m].shared_mean),
                torch.tensor(found[m].shared_scale).log(),
            )
            for m in (a, b)
        )
        return wasserstein(left, right).numpy()

    # ------------------------------------------------------------ generation
    def generate(
        self,
        X,
        from_,
        to,
        *,
        n_samples=1,
        private="prior",
        shared="sample",
        return_="mean",
        random_state=None,
    ):
        """Generate one modality from others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.
        from_ : str or list of str
            Names of the modalities that are given; of several the joint code is used.
        to : str
            Name of the modality to generate.
        n_samples : int, default=1
            Number of results a row.
        private : {"prior", "training", "posterior", "zero"}, default="prior"
            Private code of `to`: drawn from N(0, I), drawn as that of a random
            training row (which private codes follow more closely), the row's own, or
            zero.
        shared : {"sample", "mean"}, default="sample"
            Whether posteriors (the shared one, and the private one with
            "posterior") are drawn from or their means taken.
        return_ : {"mean", "sample"}, default="mean"
            Means of the likelihood given the codes, or draws from it.
        random_state : int, RandomState instance or None, default=None
            Seed.

        Returns
        -------
        values : ndarray of shape (n_rows, n_columns)
            The columns of `to`, in the units of X; of shape (`n_samples`, n_rows,
            n_columns) where `n_samples` exceeds 1.

        Raises
        ------
        ValueError
            If a row has none of `from_`, or lacks `to` with ``private="posterior"``.
        """
        check_is_fitted(self)
        sources = list(from_) if isinstance(from_, (list, tuple)) else [from_]
        positions = check_names(sources, self._layout.names, "from_")
        (target,) = check_names([to], self._layout.names, "to")
        _check_choice("private", private, ("prior", "training", "posterior", "zero"))
        _check_choice("shared", shared, ("sample", "mean"))
        _check_choice("return_", return_, ("mean", "sample"))
        _check_count(n_samples)
        X = self._checked(X)
        observed = observed_modalities(X, self._layout)
        _check_there(observed[:, positions].any(1), "from_", sources)
        if private == "posterior":
            _check_there(observed[:, target], "to", [to])
        chosen = np.zeros(len(self._layout), dtype=bool)
        chosen[positions] = True
        block = self._layout.blocks[target]

        def value(network, batch):
            codes = _encode(network, batch)
            seen = (
                batch["observed"]
                & torch.from_numpy(chosen).to(batch["observed"].device)[:, None]
            )
            q = self._joint(codes, seen)
            z = q.draw(n_samples) if shared == "sample" else _repeat(q.mean, n_samples)
            own = codes.private[target]
            if private == "training":
                w = self._draw_private(target, z.shape[:2], z)
            elif private == "posterior":
                sampled = shared == "sample"
                w = own.draw(n_samples) if sampled else _repeat(own.mean, n_samples)
            else:
                w = z.new_zeros(*z.shape[:2], own.mean.shape[-1])
                w = torch.randn_like(w) if private == "prior" else w
            part = network.parts[target]
            return _values(part, z, w, return_ == "sample").transpose(0, 1)

        seed = seed_from(random_state)
        n_rows = self._rows_at_a_time(n_samples)
        values = self._map_rows(X, value, seed=seed, n_rows=n_rows)
        values = np.moveaxis(values, 1, 0)
        values = np.stack([self._scaler.inverse(target, v) for v in values])
        values = values.reshape(n_samples, len(X), block.size)
        return values[0] if n_samples == 1 else values

    def _decode_all(
        self, shared: np.ndarray, private: np.ndarray, *, draw_values: bool = False
    ) -> np.ndarray:
        """X from codes; NaN in columns of no modality.

        `shared` is ``(n, d)``, or ``(M, n, d)`` with a code a modality; `private` has
        those of all modalities side by side.
        """
        device = resolve_device(self.device, fitting=False)
        network = self._fitted_network(device)
        dtype = getattr(torch, self._dtype)
        starts = np.cumsum([0, *self._architecture["n_private"]])
        X = np.full((len(private), self.n_features_in_), np.nan, dtype=self._dtype)
        with torch.inference_mode():
            for start in range(0, len(private), PREDICT_ROWS):
                rows = slice(start, start + PREDICT_ROWS)
                for m, (block, part) in enumerate(
                    zip(self._layout, network, strict=True)
                ):
                    z = shared[rows] if shared.ndim == 2 else shared[m, rows]
                    w = private[rows, starts[m] : starts[m + 1]]
                    codes = [torch.tensor(c, dtype=dtype).to(device) for c in (z, w)]
                    values = _values(part, *codes, draw_values).cpu().numpy()
                    X[rows, block.columns] = self._scaler.inverse(m, values)
        return X

    def inverse_transform(self, X):
        """Decode codes to X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_codes)
            Codes as `transform` returns them. Where these are only shared, private
            codes are zero; where only private, the shared code is the anchors' mean.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)
            Means of the likelihoods, in the units of X; NaN in columns that are in no
            modality.
        """
        check_is_fitted(self)
        self._validate_params()
        Z = check_array(X, dtype=[np.float64, np.float32], ensure_all_finite=False)
        if not np.isfinite(Z).all():
            raise ValueError(
                "X: expected finite codes, got NaN or infinity. Use transform with "
                "keep_missing=False."
            )
        n, n_modalities = len(Z), len(self._layout)
        n_shared = self._architecture["n_components"]
        n_private = sum(self._architecture["n_private"])
        by_modality = self._shared_by_modality
        width = n_shared * (n_modalities if by_modality else 1)
        expected = {
            "joint": width,
            "per_modality": width,
            "private": n_private,
            "all": width + n_private,
        }[self.output]
        if Z.shape[1] != expected:
            raise ValueError(
                f"X: expected {expected} columns, those of transform with "
                f"output={self.output!r} and joint={self.joint!r}, got {Z.shape[1]}."
            )
        private = np.zeros((n, n_private), dtype=Z.dtype)
        if self.output in ("private", "all"):
            private = Z[:, expected - n_private :]
        if self.output == "private":
            shared = np.tile(self._middle, (n, 1))
        elif by_modality:
            shared = Z[:, :width].reshape(n, n_modalities, n_shared).swapaxes(0, 1)
        else:
            shared = Z[:, :width]
        return self._decode_all(shared, private).astype(Z.dtype, copy=False)

    @property
    def _shared_by_modality(self) -> bool:
        """Whether `transform` gives a shared code a modality."""
        return self.output == "per_modality" or (
            self.output != "private" and self.joint == "concat"
        )

    def impute(self, X):
        """Fill what is missing with its mean given the rest of the row.

        A missing block is decoded from the joint shared code with a private code of
        zero, a missing cell of a block that is there from its own private code.
        What was observed is returned untouched, and so are columns in no modality
        and the padding at the end of sequences.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data with NaN.

        Returns
        -------
        X_filled : ndarray of shape (n_samples, n_features)
            A copy.
        """
        X = self._checked(X)
        n_shared = self._architecture["n_components"]

        def value(network, batch):
            codes = _encode(network, batch)
            z = self._joint(codes, batch["observed"]).mean
            return torch.cat([z, *(q.mean for q in codes.private)], 1)

        Z = self._map_rows(X, value)
        found = self._decode_all(Z[:, :n_shared], Z[:, n_shared:])
        out = X.copy()
        observed = observed_modalities(X, self._layout)
        for m, block in enumerate(self._layout):
            values = X[:, block.columns]
            gaps = np.isnan(values)
            if block.is_sequence:
                # Padding of a sequence that is there stays what it is.
                steps = time_steps_observed(values.reshape(-1, *block.shape))
                padding = np.repeat(~steps, block.shape[1], axis=1)
                gaps &= ~(padding & observed[:, m, None])
            own = found[:, block.columns]
            if block.likelihood == "categorical":
                own = _given_the_rest(own, values, block.shape[-1])
            out[:, block.columns] = np.where(gaps, own, values)
        return out

    def sample(
        self, n_samples=1, *, private="prior", return_="mean", random_state=None
    ):
        """Draw rows from the model.

        The shared code is drawn from a random anchor's posterior (N(0, I) where there
        is one modality).

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        private : {"prior", "training"}, default="prior"
            Private codes: drawn from N(0, I), or as those of random training rows.
        return_ : {"mean", "sample"}, default="mean"
            Means of the likelihoods given the codes, or draws from them.
        random_state : int, RandomState instance or None, default=None
            Seed.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            In the units of X; NaN in columns that are in no modality.
        """
        check_is_fitted(self)
        _check_choice("private", private, ("prior", "training"))
        _check_choice("return_", return_, ("mean", "sample"))
        _check_count(n_samples)
        device = resolve_device(self.device, fitting=False)
        network = self._fitted_network(device)
        n_private = sum(self._architecture["n_private"])
        seed = seed_from(random_state)
        with torch.inference_mode(), seeded(seed, device):
            prior = network.anchor_prior()
            dtype = getattr(torch, self._dtype)
            n_shared = self._architecture["n_components"]
            if prior is None:
                z = torch.randn(n_samples, n_shared, dtype=dtype, device=device)
            else:
                chosen = torch.randint(len(prior.mean), (n_samples,), device=device)
                z = prior[chosen].draw(1)[0]
            w = torch.randn(n_samples, n_private, dtype=dtype, device=device)
            if private == "training":
                own = (
                    self._draw_private(m, (n_samples,), w) for m in range(len(network))
                )
                w = torch.cat([*own], 1)
            return self._decode_all(
                z.cpu().numpy(), w.cpu().numpy(), draw_values=return_ == "sample"
            )

    # ------------------------------------------------------------ likelihood
    def score_samples(self, X):
        r"""Lower bounds of the rows' log-densities, in the units of X.

        Importance-weighted, with `n_score_samples` draws and without the terms that
        only training has. A row with modalities O has a density
        :math:`p(x_t) \prod_{i \ne t} p(x_i|x_t)` for each t in O, with the anchors'
        mixture as the prior of t's shared code; the value is the mean of their
        bounds. Values of rows with different modalities can't be compared.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        bounds : ndarray of shape (n_samples,)
            In nats; 0 for a row that has nothing. The draws are the same for every
            row and every call.
        """
        X = self._checked(X)
        logs = [
            np.log(scale) if block.likelihood in CONTINUOUS else np.zeros(block.size)
            for block, scale in zip(self._layout, self._scaler.scale, strict=True)
        ]

        def value(network, batch):
            codes = _encode(network, batch)
            rows, left, parts = _rows(batch), int(self.n_score_samples), []
            with seeded(self._split_seed, batch["observed"].device):
                while left:
                    n_draws = min(left, SCORE_DRAWS)
                    parts.append(log_weights(network, rows, codes, n_draws))
                    left -= n_draws
            first = torch.cat([p[0] for p in parts], 1)
            given = torch.cat([p[1] for p in parts], 2)
            bounds = row_bounds(first, given, rows.observed)
            for m, log_scale in enumerate(logs):
                moved = torch.tensor(log_scale).to(bounds)
                cells = rows.cells[m]
                volume = moved.sum() if cells is None else cells.to(bounds) @ moved
                bounds = bounds - torch.where(rows.observed[m], volume, 0)
            return bounds

        n_rows = self._rows_at_a_time(min(self.n_score_samples, SCORE_DRAWS))
        return self._map_rows(X, value, cells=True, n_rows=n_rows)

    def _rows_at_a_time(self, n_draws: int) -> int:
        """Rows of which so many draws are decoded in some tens of MiB."""
        widest = max(block.size for block in self._layout)
        return max(1, min(PREDICT_ROWS, DECODED_CELLS // (n_draws * widest)))

    def score(self, X, y=None):
        """Mean of `score_samples`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.
        y : None
            Not used; for the interface.

        Returns
        -------
        bound : float
            In nats a row.
        """
        return float(self.score_samples(X).mean(dtype=np.float64))


class _Moments:
    """Moments of codes over rows: what is signal in them, and how far they agree."""

    def __init__(self, network: MultimodalVAE):
        n = len(network)
        self.sums: list[list[Any]] = [[0.0] * 4 for _ in range(2 * n)]
        # Of rows that have both: count, sums of each, product, squares of each.
        self.pairs: dict[tuple[int, int], list[Any]] = {
            (i, j): [0.0] * 6 for i in range(n) for j in range(i)
        }

    def add(self, codes: Codes, observed: torch.Tensor) -> None:
        """Count some rows in."""
        both = zip(codes.shared, codes.private, strict=True)
        flat = [(q, seen) for qs, seen in zip(both, observed, strict=True) for q in qs]
        for sums, (q, seen) in zip(self.sums, flat, strict=True):
            mean, variance = q.mean[seen].double(), q.scale[seen].double().square()
            new = len(mean), mean.sum(0), mean.square().sum(0), variance.sum(0)
            sums[:] = [old + added for old, added in zip(sums, new, strict=True)]
        for (i, j), sums in self.pairs.items():
            seen = observed[i] & observed[j]
            a, b = (codes.shared[m].mean[seen].double() for m in (i, j))
            products = [(x * y).sum() for x, y in ((a, b), (a, a), (b, b))]
            new = len(a), a.sum(0), b.sum(0), *products
            sums[:] = [old + added for old, added in zip(sums, new, strict=True)]

    def agreement(self) -> list[float]:
        """Mean correlation of each modality's shared codes with the others'.

        Over rows that have both. Not below zero, and relative to the mean of all; that
        of all where a modality has few such rows.
        """
        found = {m: np.zeros(2) for m in range(len(self.sums) // 2)}
        for (i, j), (n, a, b, ab, aa, bb) in self.pairs.items():
            if n < 2:
                continue
            covariance, *variances = (
                float(product - x @ y / n)
                for product, x, y in ((ab, a, b), (aa, a, a), (bb, b, b))
            )
            spread = np.sqrt(max(variances[0], 0.0) * max(variances[1], 0.0))
            correlation = covariance / spread if spread > 0 else 0.0
            for m in (i, j):
                found[m] += n * np.array([1.0, correlation])
        counts, sums = np.array([*found.values()]).T
        usual = sums.sum() / counts.sum() if counts.any() else 1.0
        # A correlation over a handful of rows is noise.
        enough = counts >= LEAST_PAIRS
        weights = np.where(enough, sums / np.where(enough, counts, 1), usual)
        weights = np.maximum(weights, 0.0)
        if not weights.any():
            return [1.0] * len(weights)
        return (weights / weights.mean()).tolist()

    def _reliability(self) -> list[np.ndarray]:
        found = []
        for n, total, square, variance in self.sums:
            n = max(n, 1)
            spread = (square / n - (total / n).square()).clamp_min(0)
            found.append((spread / (spread + variance / n)).cpu().numpy())
        return found

    def shared(self) -> list[np.ndarray]:
        return self._reliability()[::2]

    def private(self) -> list[np.ndarray]:
        return self._reliability()[1::2]


def _given_the_rest(
    probabilities: np.ndarray, values: np.ndarray, n_categories: int
) -> np.ndarray:
    """Probabilities of the categories that are missing, given those that are not."""
    p = probabilities.reshape(len(values), -1, n_categories)
    known = values.reshape(p.shape)
    missing = np.isnan(known)
    p = np.where(missing & ~(known == 1).any(-1, keepdims=True), p, 0)
    total = p.sum(-1, keepdims=True)
    return (p / np.where(total > 0, total, 1)).reshape(values.shape)


def _encode(network: MultimodalVAE, batch: Batch) -> Codes:
    return network(batch["blocks"], batch["steps"], batch["observed"])


def _repeat(values: torch.Tensor, n: int) -> torch.Tensor:
    return values.expand(n, *values.shape)


def _values(part: Part, z: torch.Tensor, w: torch.Tensor, drawn: bool) -> torch.Tensor:
    """Values of a modality from codes: means of its likelihood, or draws from it."""
    output = part.decode(z, w)
    if drawn:
        return draw(part.likelihood, output, part.shape, part.log_noise)
    return expectation(part.likelihood, output, part.shape)


def _by_modality(
    parameter: str, value: Any, names: list[str], default: Any
) -> list[Any]:
    """A parameter's value for each modality; one that is no mapping stands for all."""
    if not isinstance(value, Mapping):
        return [value] * len(names)
    unknown = [name for name in value if name not in names]
    if unknown:
        raise ValueError(
            f"{parameter}: expected names among the modalities {names}, got {unknown}."
        )
    return [value.get(name, default) for name in names]


def _check_choice(parameter: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{parameter}: expected one of {choices}, got {value!r}.")


def _check_count(n_samples: Any) -> None:
    is_count = isinstance(n_samples, Integral) and not isinstance(n_samples, bool)
    if not is_count or n_samples < 1:
        raise ValueError(f"n_samples: expected a positive integer, got {n_samples!r}.")


def _check_there(there: np.ndarray, parameter: str, names: list[str]) -> None:
    if not there.all():
        rows = list_rows(np.flatnonzero(~there))
        raise ValueError(
            f"{parameter}: {names} not observed in {rows}. Leave these rows out, or "
            "name modalities that they have."
        )
