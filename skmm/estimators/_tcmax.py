"""TCMaxClassifier: multimodal classification by total-correlation maximisation."""

from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import TransformerMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
)
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback
from torch import Tensor

from skmm._device import resolve_device
from skmm.core.dependence import (
    AdditiveTotals,
    additive_loss,
    additive_posterior_logits,
    draw_bank,
    joint_cross_entropy,
    marginal_log_score,
    ogm_coefficients,
    sample_tuples,
    tuple_log_partition,
    tuple_loss,
    unimodal_cross_entropy,
)
from skmm.core.networks import (
    ADDITIVE_FUSIONS,
    JOINT_FUSIONS,
    FusionNetwork,
    build_encoder,
    build_head,
)
from skmm.estimators._base import (
    check_weight,
    class_factors,
    fit_layout,
    to_arrays,
    to_tensors,
    told_fit,
)
from skmm.estimators._gradient import (
    PREDICT_ROWS,
    GradientEstimator,
    LogProbaMixin,
    _check_widths,
    check_names,
    fit_scaler,
)
from skmm.fitting.data import Batch, BlockData
from skmm.fitting.gradient import EpochHooks, seeded
from skmm.modalities import observed_modalities, validate_input

BANK_TUPLES = 1 << 16
# Fitted attributes that only one kind of fusion has.
OF_SOME_FITS = ("log_partition_", "class_offset_", "_n_seen", "_bank")
# Fitted attributes of which a modality's part stays where new rows lack it.
BY_MODALITY = ("modality_information_", "_embedding_means", "_bank")


class _Loss:
    """The losses of the comparison, on a batch's embeddings and logits."""

    def __init__(self, name: str, n_tuples: int | None, n_draws: int, alpha: float):
        self.name, self.n_tuples, self.n_draws = name, n_tuples, n_draws
        self.alpha = alpha
        self.coefficients: Tensor | None = None

    def __call__(
        self, network: FusionNetwork, output: Any, y: Tensor, batch: Batch
    ) -> Tensor:
        z, logits = (_at_least_float32(t) for t in output)
        observed = None if batch["complete"] else batch["observed"]
        weight = batch["weight"]
        if self.name == "unimodal":
            return unimodal_cross_entropy(logits, y, weight, observed)
        if self.name == "total_correlation":
            if network.additive:
                return additive_loss(logits, y, weight, observed)
            return tuple_loss(
                network.head, z, y, weight, observed, self.n_tuples, self.n_draws
            )
        if self.name == "ogm_ge":
            self.coefficients = ogm_coefficients(
                logits.detach(), y, weight, observed, self.alpha
            )
        fused = _cross_entropy_logits(network, z, logits, observed)
        return joint_cross_entropy(fused, y, weight)


class _ModulateGradients(Callback):
    """OGM-GE: encoders' gradients scaled, and noise of their own spread added."""

    def __init__(self, loss: _Loss):
        self.loss = loss

    def on_grad_computed(self, net, **kwargs):
        """Scale each encoder's gradient by its factor of this batch."""
        coefficients = self.loss.coefficients
        encoders = net.module_.encoders
        for encoder, factor in zip(encoders, coefficients, strict=True):
            for parameter in encoder.parameters():
                gradient = parameter.grad
                if gradient is None or gradient.dim() < 2:
                    continue
                noise = torch.randn_like(gradient) * gradient.std(correction=0)
                gradient.mul_(factor).add_(noise)


def _at_least_float32(t: Tensor | None) -> Tensor | None:
    return t.float() if t is not None and t.dtype == torch.bfloat16 else t


def _cross_entropy_logits(
    network: FusionNetwork, z: Tensor, logits: Tensor | None, observed: Tensor | None
) -> Tensor:
    """Fused logits where an absent modality says nothing."""
    if logits is not None:
        if observed is not None:
            bias = getattr(network.head, "bias", None)
            silent = 0 if bias is None else bias / len(logits)
            logits = torch.where(observed.unsqueeze(-1), logits, silent)
        return logits.sum(0)
    if observed is not None:
        z = torch.where(observed.unsqueeze(-1), z, 0)
    return network.head(list(z))


class TCMaxClassifier(LogProbaMixin, TransformerMixin, GradientEstimator):
    r"""Multimodal classifier trained by maximising total correlation.

    One encoder a modality gives embeddings :math:`z^1..z^M`, a head gives class
    logits :math:`f(z^1..z^M)`, and training maximises a lower bound of the total
    correlation of the embeddings and the label,

    .. math:: -L = E_P\big[f(z^1..z^M)[y]\big]
              - \log E_Q\big[\exp f(z^1..z^M)[y]\big],

    with P the joint law and Q the product of the modalities' marginals and a uniform
    label (Yu et al., 2026, Eq. 11 and 14). No modality can hide behind a stronger
    one, as it can under joint cross-entropy. For additive heads the expectation under
    Q has a closed form in ``O(M B C)`` (Eq. 16). At the optimum the posterior is
    ``softmax(f)`` (Eq. 13).

    An additive head reaches at most the sum of the modalities' shares on the
    label: what only a *combination* of modalities tells (an exclusive or) needs one
    of the other fusions. See the user guide.

    Rows may lack modalities (all-NaN blocks), in `fit` and afterwards: they are summed
    out under Q. This, row weights, and more than two modalities are ours; the paper
    trains on complete pairs.

    Parameters
    ----------
    modalities : "auto", None, list of int, mapping or callable, default="auto"
        Which columns belong together, see :ref:`modalities`.
    loss : str, default="total_correlation"
        "total_correlation" is the loss above. For comparison: "cross_entropy" is the
        joint cross-entropy of the fused logits, "unimodal" a cross-entropy a modality
        whose logits are summed, "ogm_ge" the joint cross-entropy with the stronger
        modality's gradient damped and noise added (Peng et al., 2022). The last two
        need an additive fusion.
    fusion : {"additive", "cosine", "film", "gated", "mlp"}, default="additive"
        Head. "additive" sums one map a modality; "cosine" sums cosines with learnt
        class vectors over `temperature`. The others see all modalities at once:
        "film" scales and shifts the last modality by the others, "gated" multiplies
        it by gates from the others, "mlp" is a perceptron on all.
    shared_head : bool, default=False
        One map for all modalities ("additive" and "cosine" only).
    head_hidden : sequence of int or None, default=None
        Hidden layers of the head; ``()`` makes it linear. None is ``(64,)`` for "mlp",
        which would be additive without, and ``()`` for the others. Not for "cosine".
    temperature : float, default=0.07
        Of "cosine".
    n_tuples : int or None, default=None
        Tuples of embeddings in the loss of a fusion that is not additive. None takes
        all ``batch_size ** M`` where they are at most 16384, else draws 16384.
    n_draws : int, default=64
        Draws that stand in for an absent modality where the fusion is not additive.
    ogm_alpha : float, default=0.8
        Strength of the modulation of "ogm_ge".
    encoder : str, class or dict, default="auto"
        "auto" is a multilayer perceptron for vectors and a convolutional net for
        images and sequences; or "linear", "mlp", "conv", "attention", or a class
        called as ``encoder(shape, n_components)`` that returns a torch module, which
        must not change its input in place; or a dict of these by modality name. A
        `Modality` may name its own.
    n_components : int, default=32
        Size of each modality's embedding.
    hidden : sequence of int, default=(128,)
        Hidden layers of "mlp" encoders.
    activation : {"relu", "tanh", "gelu"}, default="relu"
        Of the hidden layers of "mlp" encoders. The embeddings of all encoders but
        "linear" and your own end in tanh.
    dropout : float, default=0.0
        Share of hidden units dropped in training, in [0, 1).
    lr : float, default=0.01
        Learning rate (AdamW).
    lr_schedule : {"cosine", "constant"}, default="cosine"
        "cosine" takes the rate to zero over `max_epochs`.
    max_epochs : int, default=100
        Passes over the training rows.
    batch_size : int, default=256
        Rows a step. The loss contrasts rows with each other: of the order of the
        number of classes or more. A last batch under half this size is merged.
    weight_decay : float, default=4.0
        Decoupled weight decay (AdamW) of an epoch, divided among its steps: an epoch
        shrinks the weights, but not the offsets, by a share ``lr * weight_decay``.
    clip_norm : float or None, default=5.0
        Largest norm of a step's gradient.
    early_stopping : bool, default=False
        Whether to hold rows out and keep the weights of the epoch with the lowest
        loss on them.
    validation_fraction : float, default=0.1
        Share of rows held out by early stopping.
    n_iter_no_change : int, default=10
        Epochs without a lower loss after which early stopping ends.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, multiplied with `sample_weight`. With "balanced",
        probabilities refer to equally frequent classes.
    keep_missing : bool, default=False
        Whether `transform` returns NaN for absent modalities, rather than the mean
        embedding of the training rows.
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit.
    checkpoint_dir : str, path or None, default=None
        Folder where each epoch is saved, so that the same `fit` takes up a killed one
        with the same result. Needs an int `random_state`. The file is removed at the
        end.
    net_params : dict or None, default=None
        To `skorch.NeuralNet`, as ``{"optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.9}``.
    precision : {None, "bf16"}, default=None
        "bf16" trains in bfloat16 where torch's autocast does; float32 data only.
        None computes in the type of X.
    device : str or torch.device, default="auto"
        "auto" is the GPU if there is one.
    random_state : int, RandomState instance or None, default=None
        Seeds the weights, the batches, dropout and the held-out rows. The same int
        gives the same bits on the CPU.
    verbose : int, default=0
        1 prints a line an epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    modality_names_in_ : ndarray of shape (n_modalities,)
        Names of the modalities.
    modality_indices_ : dict of str to ndarray
        Columns of each modality.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names, where X has string names.
    total_correlation_ : float
        Bound of the total correlation on the training rows, corrected for unequal
        class frequencies, in nats. Optimistic: see `total_correlation`.
    modality_information_ : ndarray of shape (n_modalities,)
        What each modality alone tells of the label on the training rows, in nats.
    label_entropy_ : float
        Entropy of the class frequencies, in nats; no modality tells more.
    log_partition_ : ndarray of shape (n_modalities, n_classes)
        Log of the mean of the exponential logits (additive fusions).
    class_offset_ : ndarray of shape (n_classes,)
        Their sum over modalities (additive fusions): the logits of a row that lacks
        everything.
    class_prior_ : ndarray of shape (n_classes,)
        Weighted class frequencies.
    loss_curve_ : list of float
        Training loss of each epoch, in nats. The last loss is not recorded again for
        the weights that early stopping restores.
    validation_loss_curve_ : list of float
        Loss on the held-out rows (early stopping only).
    n_iter_ : int
        Epochs run.

    See Also
    --------
    skmm.datasets.drop_modalities : Remove blocks at random, to test robustness.

    Notes
    -----
    Time and memory of a step are those of the encoders plus ``O(M B C)`` for additive
    fusions, ``O(n_tuples)`` head evaluations for the others.

    The encoders for tables, their bounded embeddings, AdamW, the schedule and the
    defaults are ours: found by cross-validation on public data sets, one setting for
    all. The paper trains ResNets by SGD.

    Departures from the authors' code, because it is wrong there: the exponential is
    taken in log-sum-exp; the partition term is computed from the factorised form; the
    probabilities use the trained logits, not half of them (shared head); the weights
    of the best epoch are copied.

    References
    ----------
    Feng Yu, Xiangyu Wu, Yang Yang, Jianfeng Lu. "Multimodal Classification via Total
    Correlation Maximization". ICLR 2026, arXiv:2602.13015.

    Xiaokang Peng, Yake Wei, Andong Deng, Dong Wang, Di Hu. "Balanced Multimodal
    Learning via On-the-fly Gradient Modulation". CVPR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm import TCMaxClassifier
    >>> from skmm.datasets import load_mfeat
    >>> X, y = load_mfeat(views=("fou", "zer"), return_X_y=True)
    >>> X[::3, :76] = np.nan  # every third row lacks the Fourier coefficients
    >>> clf = TCMaxClassifier([76, 47], max_epochs=10, random_state=0)
    >>> clf.fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.7
    True
    """

    _parameter_constraints: dict = {
        **GradientEstimator._gradient_constraints,
        "loss": [
            StrOptions({"total_correlation", "cross_entropy", "unimodal", "ogm_ge"})
        ],
        "fusion": [StrOptions({*ADDITIVE_FUSIONS, *JOINT_FUSIONS})],
        "shared_head": ["boolean"],
        "head_hidden": ["array-like", None],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "n_tuples": [Interval(Integral, 1, None, closed="left"), None],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "ogm_alpha": [Interval(Real, 0, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "keep_missing": ["boolean"],
    }

    def __init__(
        self,
        modalities="auto",
        *,
        loss="total_correlation",
        fusion="additive",
        shared_head=False,
        head_hidden=None,
        temperature=0.07,
        n_tuples=None,
        n_draws=64,
        ogm_alpha=0.8,
        encoder="auto",
        n_components=32,
        hidden=(128,),
        activation="relu",
        dropout=0.0,
        lr=1e-2,
        lr_schedule="cosine",
        max_epochs=100,
        batch_size=256,
        weight_decay=4.0,
        clip_norm=5.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        class_weight=None,
        keep_missing=False,
        warm_start=False,
        checkpoint_dir=None,
        net_params=None,
        precision=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.modalities = modalities
        self.loss = loss
        self.fusion = fusion
        self.shared_head = shared_head
        self.head_hidden = head_hidden
        self.temperature = temperature
        self.n_tuples = n_tuples
        self.n_draws = n_draws
        self.ogm_alpha = ogm_alpha
        self.encoder = encoder
        self.n_components = n_components
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.keep_missing = keep_missing
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
    def fit(self, X, y, sample_weight=None):
        """Train on X and y.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            All modalities side by side; a missing modality of a row is an all-NaN
            block.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative row weights. In full batch (``batch_size >= n_samples``),
            without dropout and with an additive fusion equal to repeating rows.

        Returns
        -------
        self : TCMaxClassifier
            Fitted estimator.

        Raises
        ------
        ValueError
            If y has one class, X has infinities, or a modality is never observed.
        """
        go_on = self.warm_start and hasattr(self, "_network_state")
        return self._fit(X, y, sample_weight, go_on=go_on, max_epochs=self.max_epochs)

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train one epoch on X and y, going on from what was learnt before.

        The first call sets the grouping, the scaling and the classes; each modality
        must be observed in it. The rate is `lr`, without a schedule.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A part of the data.
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            All classes; needed at the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative row weights.

        Returns
        -------
        self : TCMaxClassifier
            Fitted estimator.
        """
        if self.early_stopping:
            raise ValueError(
                "early_stopping: expected False for partial_fit, got True. Hold rows "
                "out yourself, or use fit."
            )
        go_on = hasattr(self, "_network_state")
        return self._fit(
            X,
            y,
            sample_weight,
            go_on=go_on,
            max_epochs=1,
            partial=True,
            classes=classes,
        )

    def _fit(
        self, X, y, sample_weight, *, go_on, max_epochs, partial=False, classes=None
    ):
        told = {"X": X, "y": y, "metadata": {"sample_weight": sample_weight}}
        with told_fit(self, told, max_epochs) as context:
            rows = self._check_rows(
                X, y, sample_weight, go_on=go_on, partial=partial, classes=classes
            )
            self._run(
                rows, context, told, go_on=go_on, max_epochs=max_epochs, partial=partial
            )
        return self

    def _check_rows(self, X, y, sample_weight, *, go_on, partial, classes):
        """Validated X, masks, label codes and weights; sets what describes them."""
        original = X
        X, y = validate_input(self, X, y=y, reset=not go_on)
        self._check_params(X)
        codes = self._encode(y, go_on=go_on, partial=partial, classes=classes)
        weight = self._weights(X, codes, sample_weight)
        layout = fit_layout(self, original, X, go_on=go_on)
        self._keep_architecture(
            go_on,
            encoder=self._encoder_kinds(layout),
            n_components=self.n_components,
            hidden=_check_widths("hidden", self.hidden),
            activation=self.activation,
            fusion=self.fusion,
            shared_head=self.shared_head,
            head_hidden=self._head_widths(),
            temperature=self.temperature,
        )
        self._trained_loss = self.loss
        if go_on:
            return X, observed_modalities(X, layout), codes, weight
        self._dtype = X.dtype.name
        self._scaler, observed = fit_scaler(X, layout, weight)
        return X, observed, codes, weight

    def _run(self, rows, context, told, *, go_on, max_epochs, partial):
        """Train on checked rows, and set what was learnt."""
        device = resolve_device(self.device, fitting=True)
        if not go_on:
            # Held-out rows stay held out when training goes on.
            self._split_seed = self._seed()
        _, _, codes, weight = rows
        training, held_out = self._split(len(codes), weight, codes)
        # Going on, an int seed must not bring the same batches and dropout again.
        seed = self._split_seed + (self.n_iter_ if go_on else 0)
        data = self._block_data(*rows, device=device, rows=training)
        validation = None
        if held_out is not None:
            validation = self._block_data(*rows, device=device, rows=held_out)
        merge = partial and go_on
        hooks = EpochHooks(
            context,
            self,
            told,
            lambda network: self._fitted_attributes(network, data, seed, merge),
        )
        loss = _Loss(self.loss, self.n_tuples, self.n_draws, self.ogm_alpha)
        with seeded(seed, device):
            network = self._build_network()
            if go_on:
                network.load_state_dict(to_tensors(self._network_state))
            record = self._train(
                network.to(device),
                loss,
                data,
                self._training_settings(max_epochs, constant=partial),
                hooks,
                validation=validation,
                callbacks=(_ModulateGradients(loss),) if self.loss == "ogm_ge" else (),
                go_on=go_on,
                keep_optimizer=partial or self.warm_start,
            )
        attributes = self._fitted_attributes(network, data, seed, merge)
        if not go_on:
            for name in (*OF_SOME_FITS, "validation_loss_curve_"):
                vars(self).pop(name, None)
        vars(self).update(attributes)
        self._record(record, added=go_on)

    def _check_params(self, X: np.ndarray) -> None:
        self._check_gradient_params(X)
        additive = self.fusion in ADDITIVE_FUSIONS
        if self.loss in ("unimodal", "ogm_ge") and not additive:
            raise ValueError(
                f"loss: {self.loss!r} needs logits of each modality, which "
                f"fusion={self.fusion!r} does not have. Use fusion='additive' or "
                "'cosine'."
            )
        if self.shared_head and not additive:
            raise ValueError(
                "shared_head: expected False for a fusion of all modalities at once, "
                f"got True with fusion={self.fusion!r}. Use fusion='additive' or "
                "'cosine'."
            )

    def _head_widths(self) -> tuple[int, ...]:
        """Hidden layers of the head, by fusion where none are given."""
        if self.head_hidden is None:
            return (64,) if self.fusion == "mlp" else ()
        widths = _check_widths("head_hidden", self.head_hidden)
        if widths and self.fusion == "cosine":
            raise ValueError(
                "head_hidden: expected None or () for fusion='cosine', which compares "
                f"embeddings with class vectors, got {widths}. Use fusion='additive'."
            )
        if not widths and self.fusion == "mlp":
            raise ValueError(
                "head_hidden: expected hidden layers for fusion='mlp', got (): a "
                "linear map of all embeddings is additive, at the cost of tuples. Use "
                "fusion='additive', or head_hidden=(64,)."
            )
        return widths

    def _encode(self, y, *, go_on, partial=False, classes=None) -> np.ndarray:
        """Labels as codes 0..C-1; sets `classes_` where this is a first fit."""
        check_classification_targets(y)
        if partial:
            _check_partial_fit_first_call(self, classes)
        elif not go_on:
            self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                "y: expected at least 2 classes, got one class only, or none: "
                f"{self.classes_.tolist()}. There is nothing to tell apart."
            )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y: expected labels among the classes {self.classes_.tolist()}, got "
                f"{unknown.tolist()}. Give all of them in partial_fit(classes=...) at "
                "the first call, or fit anew."
            )
        return np.searchsorted(self.classes_, y)

    def _weights(self, X, codes, sample_weight) -> np.ndarray | None:
        """Row weights times class weights; None where all are one."""
        if sample_weight is None and self.class_weight is None:
            return None
        weight = check_weight(sample_weight, X)
        if self.class_weight is None:
            return weight
        return (
            weight
            * class_factors(self.class_weight, self.classes_, codes, weight)[codes]
        )

    def _build_network(self) -> FusionNetwork:
        a = self._architecture
        encoders = [
            build_encoder(
                kind,
                block.shape,
                a["n_components"],
                a["hidden"],
                self.dropout,
                a["activation"],
            )
            for kind, block in zip(a["encoder"], self._layout, strict=True)
        ]
        head = build_head(
            a["fusion"],
            len(encoders),
            a["n_components"],
            len(self.classes_),
            a["head_hidden"],
            a["shared_head"],
            a["temperature"],
        )
        network = FusionNetwork(
            encoders,
            [block.shape for block in self._layout],
            head,
            additive=a["fusion"] in ADDITIVE_FUSIONS,
            n_components=a["n_components"],
        )
        return network.to(getattr(torch, self._dtype))

    # ------------------------------------------------------------ what was learnt
    def _fitted_attributes(
        self, network: FusionNetwork, data: BlockData, seed: int, merge: bool
    ) -> dict[str, Any]:
        """Everything that prediction needs, from the network and the training rows."""
        training = network.training
        network.eval()
        with torch.inference_mode(), seeded(seed, data.device):
            if network.additive:
                attributes = self._additive_attributes(network, data, merge)
            else:
                attributes = self._joint_attributes(network, data, merge)
        network.train(training)
        unseen = ~(data.observed.any(1).cpu().numpy())
        for name in set(BY_MODALITY) & set(attributes):
            old = getattr(self, name)[unseen] if merge else 0
            attributes[name][unseen] = old
        return attributes | {"_network_state": to_arrays(network.state_dict())}

    def _outputs(
        self, network: FusionNetwork, data: BlockData
    ) -> Iterator[tuple[slice, Batch, Tensor, Tensor | None]]:
        for rows, batch in data.in_order(PREDICT_ROWS):
            z, logits = network(batch["blocks"], batch["steps"])
            yield rows, batch, z, logits

    def _additive_totals(
        self, network: FusionNetwork, data: BlockData
    ) -> tuple[AdditiveTotals, Tensor]:
        """Sums of the bound, and weighted mean embeddings, over some rows."""
        n_modalities, n_classes = len(self._layout), len(self.classes_)
        totals = AdditiveTotals(n_modalities, n_classes, device=data.device)
        means = _Means(n_modalities, self._architecture["n_components"], data.device)
        for rows, batch, z, logits in self._outputs(network, data):
            y = data.targets(rows)
            weight = _batch_weight(batch, z)
            totals.add(logits, y, weight, batch["observed"])
            means.add(z, weight, batch["observed"])
        return totals, means.value

    def _additive_attributes(self, network, data, merge: bool) -> dict[str, Any]:
        totals, means = self._additive_totals(network, data)
        log_partition = totals.log_partition.cpu().numpy()
        if merge:
            log_partition = self._merged_partition(log_partition, totals)
        return {
            "log_partition_": log_partition,
            "class_offset_": log_partition.sum(0),
            "modality_information_": totals.modality_information.cpu().numpy(),
            "total_correlation_": float(totals.total_correlation),
            "label_entropy_": float(totals.label_entropy),
            **self._class_attributes(totals.classes.cpu().numpy(), merge),
            "_embedding_means": means.cpu().numpy(),
            "_n_seen": totals.seen.sum(1).cpu().numpy()
            + (self._n_seen if merge else 0),
        }

    def _merged_partition(self, new: np.ndarray, totals: AdditiveTotals) -> np.ndarray:
        """Partitions over all parts seen, the new part by its share of the rows.

        The share is at least a tenth: older parts were seen by an older network.
        """
        added = totals.seen.sum(1).cpu().numpy()
        share = np.where(added > 0, np.maximum(added / (added + self._n_seen), 0.1), 0)
        with np.errstate(divide="ignore"):
            return np.logaddexp(
                self.log_partition_ + np.log1p(-share)[:, None],
                new + np.log(share)[:, None],
            )

    def _class_attributes(self, weights: np.ndarray, merge: bool) -> dict[str, Any]:
        """Class frequencies, over all parts seen where parts are merged."""
        total = weights + (self._class_weights if merge else 0)
        return {"_class_weights": total, "class_prior_": total / total.sum()}

    def _joint_attributes(self, network, data, merge: bool) -> dict[str, Any]:
        bank, totals = self._joint_totals(network, data)
        return {
            "modality_information_": totals["modality_information"],
            "total_correlation_": totals["total_correlation"],
            "label_entropy_": totals["label_entropy"],
            **self._class_attributes(totals["class_weights"], merge),
            "_bank": bank.cpu().numpy(),
            "_embedding_means": totals["means"],
        }

    def _joint_totals(self, network, data) -> tuple[Tensor, dict[str, Any]]:
        """Reference embeddings, and the bound of a fusion that is not additive."""
        n_modalities, n_classes = len(self._layout), len(self.classes_)
        means = _Means(n_modalities, self._architecture["n_components"], data.device)
        parts = [
            (z, _batch_weight(batch, z), batch["observed"], data.targets(rows))
            for rows, batch, z, _ in self._outputs(network, data)
        ]
        z = torch.cat([p[0] for p in parts], dim=1)
        weight = torch.cat([p[1] for p in parts])
        observed = torch.cat([p[2] for p in parts], dim=1)
        y = torch.cat([p[3] for p in parts])
        means.add(z, weight, observed)
        w = weight.double() / weight.double().sum()
        prior = torch.zeros(n_classes, dtype=w.dtype, device=w.device)
        prior.index_add_(0, y, w)
        entropy = torch.special.entr(prior).sum()

        bank = draw_bank(z, observed, weight, self.n_draws)
        own = self._in_parts(network, z, observed, bank).double()
        reached = (own.gather(1, y[:, None]).squeeze(1) * w).sum()
        wide = draw_bank(z, observed, weight, max(self.n_draws, 1024))
        sizes = [wide.shape[1]] * n_modalities
        log_z = tuple_log_partition(
            network.head,
            list(wide),
            [wide.new_zeros(wide.shape[1])] * n_modalities,
            sample_tuples(sizes, BANK_TUPLES, data.device),
        )
        information = []
        for m in range(n_modalities):
            rows = torch.nonzero(observed[m]).squeeze(1)
            only = _only(observed[:, rows], m)
            log_p = torch.log_softmax(
                self._in_parts(network, z[:, rows], only, bank).double(), dim=1
            )
            wm = w[rows] / w[rows].sum()
            cross = -(log_p.gather(1, y[rows, None]).squeeze(1) * wm).sum()
            own_prior = torch.zeros_like(prior).index_add_(0, y[rows], wm)
            information.append(float(torch.special.entr(own_prior).sum() - cross))
        return bank, {
            "modality_information": np.array(information),
            "total_correlation": float(reached - log_z - (np.log(n_classes) - entropy)),
            "label_entropy": float(entropy),
            "class_weights": float(weight.sum()) * prior.cpu().numpy(),
            "means": means.value.cpu().numpy(),
        }

    def _in_parts(self, network, z, observed, bank) -> Tensor:
        """Marginal logits, few rows at a time: each may stand for many tuples."""
        size = max(1, BANK_TUPLES // self.n_draws)
        rows = range(0, max(z.shape[1], 1), size)  # no rows give no logits
        return torch.cat(
            [
                marginal_log_score(
                    network.head, z[:, i : i + size], observed[:, i : i + size], bank
                )
                for i in rows
            ]
        )

    # ------------------------------------------------------------ prediction
    def _class_logits(
        self, network, z: Tensor, logits: Tensor | None, observed: Tensor
    ) -> Tensor:
        """Unnormalised log-posteriors ``(B, C)`` from whatever is observed."""
        if self._trained_loss == "unimodal":
            fused = torch.where(observed.unsqueeze(-1), logits, 0).sum(0)
            any_seen = observed.any(0).unsqueeze(-1)
            return torch.where(any_seen, fused, self._log_prior(fused))
        if self._trained_loss != "total_correlation":
            return _cross_entropy_logits(network, z, logits, observed)
        if logits is not None:
            partition = torch.tensor(self.log_partition_).to(logits)
            return additive_posterior_logits(logits, observed, partition)
        return self._in_parts(network, z, observed, torch.tensor(self._bank).to(z))

    def _log_prior(self, like: Tensor) -> Tensor:
        """Log of the class frequencies, ``(C,)``."""
        return torch.tensor(np.log(np.maximum(self.class_prior_, 1e-300))).to(like)

    def _of_rows(self, X, value: Callable[..., Tensor]) -> np.ndarray:
        """Values ``value(network, z, logits, observed)`` of all rows of X."""
        check_is_fitted(self)

        def of_batch(network, batch):
            z, logits = network(batch["blocks"], batch["steps"])
            return value(network, z, logits, batch["observed"])

        return self._map_rows(validate_input(self, X, reset=False), of_batch)

    def _log_proba(self, X, only: int | None = None) -> np.ndarray:
        """Log-probabilities ``(n_samples, n_classes)``, from one modality if told."""

        def value(network, z, logits, observed):
            seen = observed if only is None else _only(observed, only)
            scores = self._class_logits(network, z, logits, seen)
            return torch.log_softmax(scores, dim=1)

        return self._of_rows(X, value)

    def predict_proba(self, X):
        """Probabilities of the classes given the modalities that a row has.

        A row that has none gets what the model takes for class frequencies: those of
        the training rows with loss "unimodal", and at the optimum with
        "total_correlation"; the softmax of the bias with the others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return np.exp(self._log_proba(X))

    def predict_proba_modality(self, X, modality):
        """Probabilities of the classes given one modality alone.

        The others are summed out, as if they were missing. Unlike the softmax of the
        modality's own logits, which the paper uses, this does not change when a class
        offset moves from one modality to another, as the loss allows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; only the columns of `modality` matter.
        modality : str
            One of `modality_names_in_`.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        check_is_fitted(self)
        (only,) = check_names([modality], self._layout.names, "modality")
        return np.exp(self._log_proba(X, only=only))

    def modality_contributions(self, X):
        r"""What each modality of each row says for each class.

        For additive fusions :math:`g_m(z^m, y) = f_m(z^m)[y] - \log A_m(y)`, at the
        optimum the pointwise mutual information :math:`\log p(y|z^m) / p(y)`; they
        add up, with `class_offset_`, to the class logits of loss "total_correlation".
        For the others, the logarithm of the ratio of `predict_proba_modality` and
        `class_prior_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        g : ndarray of shape (n_samples, n_modalities, n_classes)
            In nats; zero for missing modalities.
        """

        def value(network, z, logits, observed):
            if logits is None:
                g = self._joint_contributions(network, z)
            else:
                g = logits - torch.tensor(self.log_partition_).to(z).unsqueeze(1)
            return torch.where(observed.unsqueeze(-1), g, 0).transpose(0, 1)

        return self._of_rows(X, value)

    def _joint_contributions(self, network, z: Tensor) -> Tensor:
        everything = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        parts = []
        for m in range(len(z)):
            scores = self._class_logits(network, z, None, _only(everything, m))
            parts.append(torch.log_softmax(scores, dim=1) - self._log_prior(z))
        return torch.stack(parts)

    def total_correlation(self, X, y, sample_weight=None):
        """Bound of the total correlation of embeddings and label on other rows.

        The value on the training rows grows with any network that memorises; on
        held-out rows it is honest, but for a bias of the order of
        ``n_classes / n_samples``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.
        y : array-like of shape (n_samples,)
            Labels, all among `classes_`.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative row weights.

        Returns
        -------
        tc : float
            In nats, corrected for unequal class frequencies.
        """
        check_is_fitted(self)
        X, y = validate_input(self, X, y=y, reset=False)
        codes = self._encode(y, go_on=True)
        weight = None if sample_weight is None else check_weight(sample_weight, X)
        data = self._predict_data(X, codes, weight)
        network = self._fitted_network(data.device)
        with torch.inference_mode(), seeded(0, data.device):
            if network.additive:
                totals, _ = self._additive_totals(network, data)
                return float(totals.total_correlation)
            return self._joint_totals(network, data)[1]["total_correlation"]

    def transform(self, X):
        """Embeddings of the modalities, side by side.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_modalities * n_components)
            A missing modality's part is the mean embedding of the training rows that
            have it, or NaN with `keep_missing`.
        """

        def value(network, z, logits, observed):
            means = torch.tensor(self._embedding_means).to(z).unsqueeze(1)
            absent = torch.full_like(means, np.nan) if self.keep_missing else means
            filled = torch.where(observed.unsqueeze(-1), z, absent)
            return filled.transpose(0, 1).flatten(1)

        return self._of_rows(X, value)

    def get_feature_names_out(self, input_features=None):
        """Names of the columns of `transform`, with the modality in front.

        Parameters
        ----------
        input_features : None
            Not used; for the interface.

        Returns
        -------
        names : ndarray of str
            ``<modality>__tcmax<j>``.
        """
        check_is_fitted(self)
        return np.array(
            [
                f"{name}__tcmax{j}"
                for name in self.modality_names_in_
                for j in range(self._architecture["n_components"])
            ],
            dtype=object,
        )


class _Means:
    """Weighted mean embeddings of the rows that have each modality."""

    def __init__(self, n_modalities: int, size: int, device: torch.device):
        self.sum = torch.zeros(n_modalities, size, dtype=torch.float64, device=device)
        self.weight = torch.zeros(n_modalities, dtype=torch.float64, device=device)

    def add(self, z: Tensor, weight: Tensor, observed: Tensor) -> None:
        w = torch.where(observed, weight, 0).double()
        self.sum += torch.einsum("mb,mbd->md", w, z.double())
        self.weight += w.sum(1)

    @property
    def value(self) -> Tensor:
        return self.sum / self.weight.clamp_min(1e-300).unsqueeze(-1)


def _only(observed: Tensor, m: int) -> Tensor:
    """The mask ``(M, B)`` with all modalities but m missing."""
    kept = torch.zeros_like(observed)
    kept[m] = observed[m]
    return kept


def _batch_weight(batch: Batch, z: Tensor) -> Tensor:
    weight = batch["weight"]
    return z.new_ones(z.shape[1]) if weight is None else weight
