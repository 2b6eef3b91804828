"""What the three DecAlign estimators share: training, matching, representations."""

# License: BSD-3-Clause

import math
import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skmm._device import resolve_device
from skmm.core.alignment import MOMENTS, supervised_contrastive
from skmm.core.decalign import (
    BLEND,
    FUSIONS,
    DecAlignNetwork,
    Memory,
    ModalityPart,
    Parts,
    Settings,
    alignment_terms,
    match_all,
    reconstruction,
)
from skmm.core.decoders import DECODERS, build_decoder
from skmm.core.networks import ACTIVATIONS, mlp
from skmm.core.tokens import TOKENS, RefinerLayer, build_tokens
from skmm.estimators._base import (
    check_weight,
    fit_layout,
    to_arrays,
    to_tensors,
    told_fit,
)
from skmm.estimators._gradient import (
    PREDICT_ROWS,
    GradientEstimator,
    _check_widths,
    check_names,
    fit_scaler,
)
from skmm.fitting.data import Batch, BlockData, batch_bounds
from skmm.fitting.gradient import EpochHooks, seeded
from skmm.fitting.partners import Partners
from skmm.modalities import (
    Layout,
    check_observed,
    list_rows,
    observed_modalities,
    validate_input,
)

# Rows from which the final mixtures are fitted.
MATCHED_ROWS = 20_000
# Sweeps of the final plan.
FINAL_SWEEPS = 5000
OUTPUTS = ("fused", "common", "unique", "all")
# Losses of the paper, as far as its readers report them, and of its code.
_BOTH = {
    "em": "unrolled",
    "prototype_match": "index",
    "reg_covar": 1e-4,
    "ot_reg": 0.1,
    "ot_reg_scale": "absolute",
    "distribution_encoder": "separate",
    "mmd_bandwidths": 1.0,
    "scale_free": False,
    "decoupling_weight": 1.0,
    "reconstruction_weight": 0.0,
    "pair_weight": 0.0,
    "input_dropout": 0.0,
    "modality_dropout": 0.0,
}
PRESETS = {
    "paper": _BOTH
    | {
        "decoupling": "plain",
        "reduction": "sum",
        "covariance": "full",
        "fusion": "self",
        "heterogeneity_weight": 0.05,
        "homogeneity_weight": 0.05,
    },
    "published_code": _BOTH
    | {
        "decoupling": "squared",
        "reduction": "mean",
        "covariance": "diag",
        "fusion": "cross",
        "heterogeneity_weight": 0.05,
        "homogeneity_weight": 0.07,
    },
}
# Prototypes where neither classes nor the user say how many.
N_PROTOTYPES = 8


class _Loss:
    """The task, the alignment and the other terms, on a batch's parts."""

    def __init__(
        self,
        settings: Settings,
        kind: str,
        rate: float,
        class_weight: np.ndarray | None = None,
        absolute: bool = False,
        partners: Partners | None = None,
        unit: tuple[float, float] = (0.0, 1.0),
    ):
        self.partners, self.unit = partners, unit
        self.settings, self.kind, self.rate = settings, kind, rate
        self.class_weight, self.absolute = class_weight, absolute
        self.memory = Memory()
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def begin_epoch(self, number: int) -> None:
        """Start the sums of the terms anew, and draw partners of lone rows."""
        self.sums, self.counts = {}, {}
        # A taken-up run starts an epoch with nothing else.
        self.memory = Memory()
        if self.partners:
            self.partners.draw()

    def end_epoch(self) -> dict[str, float]:
        """Mean of each term over the rows of the batches that have it."""
        return {k: float(v) / self.counts[k] for k, v in self.sums.items()}

    def __call__(
        self,
        network: DecAlignNetwork,
        parts: Parts,
        y: torch.Tensor | None,
        batch: Batch,
    ) -> torch.Tensor:
        parts = parts.in_full_precision()
        settings, weight = self.settings, batch["weight"]
        memory = self.memory if network.training else Memory()
        more = None
        if self.partners and network.training:
            more = self.partners.of(network, batch, parts.common_mean)
        total, terms = alignment_terms(
            network, parts, settings, memory, weight, self.rate, more
        )
        # A batch may have no term at all; its gradient is then zero.
        total = total.to(parts.fused) + 0 * parts.fused.sum()
        if parts.output is not None:
            terms["task"] = self._task(parts.output, y, weight)
            total = total + terms["task"]
        if settings.reconstruction_weight:
            rows = parts.observed.to(total)
            rows = rows if weight is None else rows * weight
            terms["reconstruction"] = reconstruction(
                network, parts, batch["blocks"], batch["cells"], rows
            )
            total = total + settings.reconstruction_weight * terms["reconstruction"]
        if settings.contrastive_weight and y is not None:
            terms["contrastive"] = supervised_contrastive(
                parts.fused, self.labels(y), settings.contrastive_temperature, weight
            )
            total = total + settings.contrastive_weight * terms["contrastive"]
        if network.training:
            n = parts.observed.shape[1]
            for name, value in terms.items():
                self.counts[name] = self.counts.get(name, 0) + n
                self.sums[name] = self.sums.get(name, 0.0) + n * value.detach()
        return total

    def labels(self, y: torch.Tensor) -> torch.Tensor:
        """Classes to contrast; real targets are in one if they round to one integer.

        As in the published code, where they are sentiments from -3 to 3.
        """
        if self.kind == "class":
            return y
        mean, scale = self.unit
        return torch.unique((mean + scale * y).round(), return_inverse=True)[1]

    def _task(
        self, output: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None
    ) -> torch.Tensor:
        if self.kind == "real":
            error = output.squeeze(1) - y
            values = error.abs() if self.absolute else error.square()
            labelled = torch.ones_like(values)
        else:
            labelled = (y >= 0).to(output)
            values = torch.nn.functional.cross_entropy(
                output, y.clamp_min(0), reduction="none"
            )
            if self.class_weight is not None:
                own = torch.tensor(self.class_weight).to(output)
                labelled = labelled * own[y.clamp_min(0)]
        w = labelled if weight is None else labelled * weight
        return (w * values).sum() / w.sum().clamp_min(1e-30)


class DecAlignBase(TransformerMixin, GradientEstimator):
    """Training, matching and representations; a subclass says what the target is.

    It calls `_fit` with codes of classes, standardised real targets or None.
    """

    _decalign_constraints: dict = {
        **GradientEstimator._gradient_constraints,
        "decoder": [str, callable, dict],
        "hidden": [StrOptions({"auto"}), "array-like"],
        "activation": [StrOptions({"auto", *ACTIVATIONS})],
        "dropout": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "kernel_size": [Interval(Integral, 1, None, closed="left")],
        "n_tokens": [Interval(Integral, 1, None, closed="left")],
        "fusion": [StrOptions({"auto", *FUSIONS})],
        "n_heads": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
        "modality_dropout": [Interval(Real, 0, 1, closed="left")],
        "imputation": [StrOptions({"transport", "token"})],
        "decoupling": [StrOptions({"squared", "plain"})],
        "decoupling_weight": [Interval(Real, 0, None, closed="left")],
        "heterogeneity_weight": [Interval(Real, 0, None, closed="left")],
        "homogeneity_weight": [Interval(Real, 0, None, closed="left")],
        "reconstruction_weight": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="left"),
        ],
        "pair_weight": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "pair_temperature": [Interval(Real, 0, None, closed="neither")],
        "match_rows": ["boolean"],
        "contrastive_weight": [Interval(Real, 0, None, closed="left")],
        "contrastive_temperature": [Interval(Real, 0, None, closed="neither")],
        "n_prototypes": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "covariance": [StrOptions({"diag", "full"})],
        "em": [StrOptions({"carried", "unrolled"})],
        "em_iter": [Interval(Integral, 1, None, closed="left")],
        "reg_covar": [Interval(Real, 0, None, closed="neither")],
        "prototype_match": [StrOptions({"observed", "plan", "index"})],
        "ot_reg": [Interval(Real, 0, None, closed="neither")],
        "ot_reg_scale": [StrOptions({"mean_cost", "absolute"})],
        "ot_rho": [Interval(Real, 0, None, closed="neither"), None],
        "ot_max_iter": [Interval(Integral, 1, None, closed="left")],
        "ot_tol": [Interval(Real, 0, None, closed="neither")],
        "max_cells": [Interval(Integral, 1, None, closed="left")],
        "moments": ["array-like"],
        "distribution_encoder": [StrOptions({"shared", "separate"}), None],
        "mmd_bandwidths": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
            "array-like",
        ],
        "reduction": [StrOptions({"mean", "sum"})],
        "scale_free": ["boolean"],
        "output": [StrOptions(set(OUTPUTS))],
        "keep_missing": ["boolean"],
    }

    def __init__(
        self,
        modalities="auto",
        *,
        n_components=64,
        encoder="auto",
        decoder="auto",
        hidden="auto",
        activation="auto",
        dropout="auto",
        input_dropout=0.3,
        kernel_size=9,
        n_tokens=8,
        fusion="auto",
        n_heads=4,
        n_layers=1,
        modality_dropout=0.3,
        imputation="transport",
        decoupling="squared",
        decoupling_weight=1.0,
        heterogeneity_weight=0.05,
        homogeneity_weight=0.05,
        reconstruction_weight="auto",
        pair_weight="auto",
        pair_temperature=0.07,
        match_rows=True,
        contrastive_weight=0.0,
        contrastive_temperature=0.1,
        n_prototypes="auto",
        covariance="diag",
        em="carried",
        em_iter=5,
        reg_covar=1e-3,
        prototype_match="observed",
        ot_reg=0.1,
        ot_reg_scale="mean_cost",
        ot_rho=None,
        ot_max_iter=200,
        ot_tol=1e-6,
        max_cells=20_000,
        moments=("mean", "covariance", "skewness"),
        distribution_encoder=None,
        mmd_bandwidths="auto",
        reduction="mean",
        scale_free=True,
        output="fused",
        keep_missing=False,
        lr=1e-2,
        lr_schedule="cosine",
        max_epochs=100,
        batch_size=256,
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
        self.encoder = encoder
        self.decoder = decoder
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.kernel_size = kernel_size
        self.n_tokens = n_tokens
        self.fusion = fusion
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.modality_dropout = modality_dropout
        self.imputation = imputation
        self.decoupling = decoupling
        self.decoupling_weight = decoupling_weight
        self.heterogeneity_weight = heterogeneity_weight
        self.homogeneity_weight = homogeneity_weight
        self.reconstruction_weight = reconstruction_weight
        self.pair_weight = pair_weight
        self.pair_temperature = pair_temperature
        self.match_rows = match_rows
        self.contrastive_weight = contrastive_weight
        self.contrastive_temperature = contrastive_temperature
        self.n_prototypes = n_prototypes
        self.covariance = covariance
        self.em = em
        self.em_iter = em_iter
        self.reg_covar = reg_covar
        self.prototype_match = prototype_match
        self.ot_reg = ot_reg
        self.ot_reg_scale = ot_reg_scale
        self.ot_rho = ot_rho
        self.ot_max_iter = ot_max_iter
        self.ot_tol = ot_tol
        self.max_cells = max_cells
        self.moments = moments
        self.distribution_encoder = distribution_encoder
        self.mmd_bandwidths = mmd_bandwidths
        self.reduction = reduction
        self.scale_free = scale_free
        self.output = output
        self.keep_missing = keep_missing
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

    @classmethod
    def from_preset(cls, preset, **params):
        r"""Make an estimator whose loss is that of the paper or of its code.

        Parameters
        ----------
        preset : {"paper", "published_code"}
            "paper": plain cosines, sums over dimensions, full covariances, prototypes
            matched by number, an absolute regularisation, self-attention.
            "published_code" (its version of May 2026): squared cosines, means over
            dimensions, diagonal covariances, five unrolled steps of EM, prototypes
            matched by number, cross-attention. Both have one kernel of variance 1
            and a distribution encoder a modality. What neither the paper's readers
            nor the code tell is as everywhere here: the transport is solved to its
            marginals, with :math:`\lambda \sum T \log T` (the code adds
            :math:`-\lambda`), absent modalities are left out, and the networks and
            their training are ours.
        **params : dict
            Parameters of the estimator, which go before those of the preset.

        Returns
        -------
        estimator : estimator
            Not fitted.

        Examples
        --------
        >>> from skmm import DecAlignRegressor
        >>> DecAlignRegressor.from_preset("published_code", max_epochs=20).em
        'unrolled'
        """
        if preset not in PRESETS:
            raise ValueError(
                f"preset: expected one of {tuple(PRESETS)}, got {preset!r}."
            )
        return cls(**PRESETS[preset] | params)

    def __sklearn_tags__(self):
        """Say that NaN is allowed and that the float type is kept."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # ------------------------------------------------------------ fitting
    def _fit(self, X: Any, y: Any, sample_weight: Any) -> Any:
        go_on = self.warm_start and hasattr(self, "_network_state")
        told = {"X": X, "y": y, "metadata": {"sample_weight": sample_weight}}
        with told_fit(self, told, self.max_epochs) as context:
            rows = self._check_rows(X, y, sample_weight, go_on=go_on)
            self._run(*rows, context, told, go_on=go_on)
        return self

    def _targets(self, y: Any, weight: np.ndarray | None, *, go_on: bool):
        """Kind of the target, "none", "class" or "real", and it as the loss takes it.

        Sets what describes it.
        """
        raise NotImplementedError

    def _class_weights(
        self, codes: np.ndarray, weight: np.ndarray | None
    ) -> np.ndarray | None:
        """Weights of the classes in the task's loss; None where all are one."""
        return None

    @property
    def _absolute(self) -> bool:
        """Whether the loss of real targets is the absolute error."""
        return False

    def _check_rows(self, original: Any, y: Any, sample_weight: Any, *, go_on: bool):
        """Validated X, masks, target and weights; sets what describes them."""
        X, y = self._validated(original, y, reset=not go_on)
        self._check_gradient_params(X)
        self._check_params()
        weight = None if sample_weight is None else check_weight(sample_weight, X)
        kind, target = self._targets(y, weight, go_on=go_on)
        layout = fit_layout(self, original, X, go_on=go_on)
        if go_on:
            observed = observed_modalities(X, layout)
        else:
            self._dtype = X.dtype.name
            self._scaler, observed = fit_scaler(X, layout, weight)
        counted = observed if weight is None else observed[weight > 0]
        if go_on:
            check_observed(observed, layout, sample_weight=weight)
        self._decide(kind, len(counted), counted.sum(0), go_on=go_on)
        self._check_aim(kind, len(layout))
        encoders = self._network_kinds(layout, "encoder", TOKENS, "n_components")
        self._keep_architecture(
            go_on,
            encoder=encoders,
            decoder=self._network_kinds(layout, "decoder", DECODERS, "n_parts"),
            n_components=int(self.n_components),
            hidden=_check_widths("hidden", self._or_auto("hidden", (128,), (256,))),
            activation=self._or_auto("activation", "tanh", "gelu"),
            kernel_size=int(self.kernel_size),
            n_tokens=int(self.n_tokens),
            fusion=self._fusion(encoders, layout),
            n_heads=math.gcd(int(self.n_heads), int(self.n_components)),
            n_layers=int(self.n_layers),
            imputation=self.imputation,
            covariance=self.covariance,
            distribution_encoder=self.distribution_encoder,
            n_prototypes=self.n_prototypes_,
            reconstructs=self._settings().reconstruction_weight > 0,
            n_outputs=self._n_outputs(kind),
        )
        return X, observed, kind, target, weight

    def _fusion(self, encoders: list[Any], layout: Layout) -> str:
        """How unique parts are refined; single tokens have nothing to attend to."""
        if self.fusion != "auto":
            return self.fusion
        several = [
            _may_have_tokens(kind, block.shape)
            for kind, block in zip(encoders, layout, strict=True)
        ]
        return "cross" if any(several) else "none"

    def _validated(self, X: Any, y: Any, *, reset: bool):
        if y is None:
            return validate_input(self, X, reset=reset), None
        return validate_input(self, X, y=y, reset=reset)

    def _n_outputs(self, kind: str) -> int:
        return {"none": 0, "real": 1}.get(kind, len(getattr(self, "classes_", ())))

    def _check_params(self) -> None:
        """Check what `_parameter_constraints` can't say."""
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size: expected an odd number, got {self.kernel_size}: each "
                "token looks as far back as ahead."
            )
        unknown = [name for name in self.moments if name not in MOMENTS]
        if unknown:
            raise ValueError(f"moments: expected among {MOMENTS}, got {unknown}.")
        widths = self.mmd_bandwidths
        if not isinstance(widths, (str, Real)):
            numbers = np.ndim(widths) == 1 and len(widths)
            if not numbers or not all(isinstance(w, Real) and w > 0 for w in widths):
                raise ValueError(
                    "mmd_bandwidths: expected 'auto' or positive numbers, got "
                    f"{self.mmd_bandwidths!r}."
                )

    def _decide(
        self, kind: str, n_samples: int, n_rows: np.ndarray, *, go_on: bool
    ) -> None:
        """Number of prototypes and what else "auto" leaves open."""
        self._kind = kind
        if go_on and self.n_prototypes == "auto":
            return
        if self.early_stopping:
            n_rows = n_rows * (1 - self.validation_fraction)
        least = max(int(n_rows.min()), 1)
        if self.n_prototypes != "auto":
            if self.n_prototypes > self.batch_size:
                raise ValueError(
                    f"n_prototypes: expected at most batch_size={self.batch_size}, "
                    f"since a step needs a row a prototype, got {self.n_prototypes}."
                )
            if self.n_prototypes > least:
                raise ValueError(
                    f"n_prototypes: expected at most {least}, the rows of the modality "
                    f"with the fewest (n_samples={n_samples}), got "
                    f"{self.n_prototypes}. Use fewer, or 'auto'."
                )
            wanted = int(self.n_prototypes)
        else:
            wanted = len(self.classes_) if kind == "class" else N_PROTOTYPES
            # A step needs a row a prototype, of the rarest modality, too.
            in_a_batch = least * min(1.0, self.batch_size / max(n_samples, 1))
            wanted = max(min(wanted, int(in_a_batch)), 1)
        self.n_prototypes_ = min(wanted, least)
        cells = self.n_prototypes_ ** len(n_rows)
        if self.covariance == "full" and cells > self.max_cells:
            raise ValueError(
                "covariance: 'full' needs a plan of all tuples, which has "
                f"{self.n_prototypes_}**{len(n_rows)} cells; max_cells is "
                f"{self.max_cells}. Use covariance='diag', fewer n_prototypes or a "
                "larger max_cells."
            )

    def _check_aim(self, kind: str, n_modalities: int) -> None:
        """Check that there is something to learn."""
        names = ["decoupling_weight", "reconstruction_weight"]
        if n_modalities > 1:
            names += ["heterogeneity_weight", "homogeneity_weight", "pair_weight"]
        settings = self._settings()
        if kind == "none" and self.contrastive_weight:
            raise ValueError(
                "contrastive_weight: expected 0 without a target, got "
                f"{self.contrastive_weight}: there are no labels to contrast."
            )
        if kind == "none" and not any(getattr(settings, name) for name in names):
            raise ValueError(
                f"{', '.join(names)}: expected one above zero without a target, "
                "got none. Use reconstruction_weight='auto', or pass y."
            )

    def _or_auto(self, name: str, with_target: Any, without: Any) -> Any:
        """A parameter's value, or where it is "auto" what the target asks for."""
        given = getattr(self, name)
        if not isinstance(given, str) or given != "auto":
            return given
        return without if self._kind == "none" else with_target

    def _settings(self) -> Settings:
        """What is minimised, with "auto" decided."""
        names = (
            "decoupling",
            "decoupling_weight",
            "heterogeneity_weight",
            "homogeneity_weight",
            "pair_temperature",
            "contrastive_weight",
            "contrastive_temperature",
            "covariance",
            "em",
            "em_iter",
            "reg_covar",
            "prototype_match",
            "reduction",
            "ot_reg",
            "ot_reg_scale",
            "ot_rho",
            "ot_max_iter",
            "ot_tol",
            "max_cells",
            "scale_free",
        )
        settings = {name: getattr(self, name) for name in names}
        for name, value in (("reconstruction_weight", 0.1), ("pair_weight", 1.0)):
            settings[name] = float(self._or_auto(name, 0.0, value))
        widths = self.mmd_bandwidths
        if not isinstance(widths, str):
            widths = tuple(np.atleast_1d(np.asarray(widths, dtype=float)).tolist())
        return Settings(**settings, moments=tuple(self.moments), mmd_bandwidths=widths)

    def _run(
        self, X, observed, kind, target, weight, context, told, *, go_on: bool
    ) -> None:
        """Train on checked rows, and set what was learnt."""
        device = resolve_device(self.device, fitting=True)
        if not go_on:
            # Held-out rows stay held out when training goes on.
            self._split_seed = self._seed()
        codes = target if kind == "class" else None
        training, held_out = self._split(len(X), weight, codes)
        check_observed(
            observed if training is None else observed[training], self._layout
        )
        settings = self._settings()
        cells = settings.reconstruction_weight > 0

        def serve(rows):
            return self._block_data(
                X, observed, target, weight, device=device, rows=rows, cells=cells
            )

        data = serve(training)
        validation = None if held_out is None else serve(held_out)
        hooks = EpochHooks(
            context, self, told, lambda network: self._fitted_attributes(network, data)
        )
        n_batches = len(batch_bounds(len(data), self.batch_size)) - 1
        partners = None
        if self.match_rows and settings.pair_weight and len(self._layout) > 1:
            partners = Partners(data)
        self.partners_ = self._likeliest(partners, training)
        loss = _Loss(
            settings,
            kind,
            # Unrolled steps start at rows of the batch: components have no names.
            1.0 if n_batches == 1 or self.em == "unrolled" else BLEND,
            None if kind != "class" else self._class_weights(target, weight),
            self._absolute,
            partners,
            (self._target_mean, self._target_scale) if kind == "real" else (0.0, 1.0),
        )
        # Going on, an int seed must not bring the same batches and dropout again.
        seed = self._split_seed + (self.n_iter_ if go_on else 0)
        with seeded(seed, device):
            network = self._build_network()
            if go_on:
                network.load_state_dict(to_tensors(self._network_state))
            network.to(device)
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
        self._warn_of_residual(settings)

    def _likeliest(self, partners, training) -> dict[str, Any]:
        """Who was matched with whom, in numbers of the rows of X."""
        found: dict[str, Any] = {}
        names = self._layout.names
        for i, j in partners.plans if partners else ():
            rows, partner, share = partners.likeliest(i, j)
            if training is not None:
                rows, partner = training[rows], training[partner]
            own = found.setdefault(names[i], {})
            own[names[j]] = {"rows": rows, "partner": partner, "share": share}
        return found

    def _build_network(self) -> DecAlignNetwork:
        a = self._architecture
        d = a["n_components"]
        vectors = all(len(block.shape) == 1 for block in self._layout)
        dropout = self._or_auto("dropout", 0.0 if vectors else 0.2, 0.2)
        common = dropout, a["activation"]
        parts = []
        for m, block in enumerate(self._layout):
            front = build_tokens(
                a["encoder"][m],
                block.shape,
                d,
                a["hidden"],
                *common,
                a["kernel_size"],
                a["n_tokens"],
                # A critic of pairs needs the room that a classifier abuses.
                bounded=a["n_outputs"] > 0,
            )
            decoder = None
            if a["reconstructs"]:
                decoder = build_decoder(
                    a["decoder"][m], block.shape, 2 * d, a["hidden"][::-1], *common
                )
            n_layers = 0 if a["fusion"] == "none" else a["n_layers"]
            layers = [RefinerLayer(d, a["n_heads"], dropout) for _ in range(n_layers)]
            parts.append(
                ModalityPart(
                    front,
                    block.shape,
                    d,
                    layers,
                    decoder,
                    block.likelihood,
                    # A value of a sequence or picture is told by its neighbours.
                    self.input_dropout if len(block.shape) == 1 else 0.0,
                    _may_have_tokens(a["encoder"][m], block.shape),
                )
            )
        n_projectors = {None: 0, "shared": 1, "separate": len(parts)}
        network = DecAlignNetwork(
            parts,
            d,
            a["n_prototypes"],
            a["fusion"],
            a["n_outputs"],
            dropout,
            self.modality_dropout,
            a["imputation"],
            a["covariance"] == "full",
            [
                mlp(d, (d,), d, dropout)
                for _ in range(n_projectors[a["distribution_encoder"]])
            ],
        )
        return network.to(getattr(torch, self._dtype))

    def _fitted_attributes(
        self, network: DecAlignNetwork, data: BlockData
    ) -> dict[str, Any]:
        """Everything that prediction needs, from the network and the training rows."""
        training = network.training
        network.eval()
        with torch.inference_mode():
            unique, weight, middle = _gather(network, data)
        network.train(training)
        settings = self._settings()
        found = match_all(network, unique, weight, settings, FINAL_SWEEPS)
        state = dict(network.state_dict())
        dtype = middle.dtype
        weights, means, covariances = found.prototypes
        fresh = {"weights": weights, "means": means, "covariances": covariances}
        fresh |= {"matches": found.matches, "middle": middle}
        state |= {name: value.to(dtype) for name, value in fresh.items()}
        state["started"] = torch.ones(len(found.matches), dtype=torch.bool)
        names = self._layout.names
        attributes = {
            "_network_state": to_arrays(state),
            "prototypes_": {
                name: {
                    "weights": to_arrays(weights[m]),
                    "means": to_arrays(means[m]),
                    "covariances": to_arrays(covariances[m]),
                }
                for m, name in enumerate(names)
            },
            "matches_": to_arrays(found.matches),
            "transport_plan_": None,
            "transport_cost_": 0.0,
            "transport_residual_": 0.0,
        }
        if found.plan is not None:
            plan = getattr(found.plan, "plan", None)
            attributes["transport_plan_"] = None if plan is None else to_arrays(plan)
            attributes["transport_cost_"] = float(found.plan.transport_cost)
            attributes["transport_residual_"] = float(found.plan.residual)
        return attributes

    def _warn_of_residual(self, settings: Settings) -> None:
        if self.transport_residual_ > settings.ot_tol:
            warnings.warn(
                "The transport plan of the fitted prototypes misses its marginals by "
                f"{self.transport_residual_:.2g} (ot_tol={settings.ot_tol:.2g}). Use a "
                f"larger ot_reg (it is {settings.ot_reg}) or "
                "ot_reg_scale='mean_cost'.",
                ConvergenceWarning,
                stacklevel=7,
            )

    # ------------------------------------------------------------ representations
    def _of_parts(self, X: np.ndarray, value) -> np.ndarray:
        """Values ``value(network, parts)`` of all rows of validated X."""

        def of_batch(network, batch):
            parts = network(batch["blocks"], batch["steps"], batch["observed"])
            return value(network, parts)

        return self._map_rows(X, of_batch)

    def transform(self, X):
        """The representation that `output` names.

        A row's representation depends on that row alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_outputs)
            With d = `n_components` and M modalities: "fused" the refined unique parts
            and the common parts of all modalities (2 M d columns), "common" the mean
            of the common parts that are there (d), "unique" the unique parts (M d),
            "all" these three side by side. A missing modality's common part is the
            mean of the others', its unique part what `imputation` says; with
            `keep_missing` they are NaN.
        """

        def value(network, parts):
            found = {
                "fused": lambda: self._fused(parts),
                "common": lambda: self._common(network, parts),
                "unique": lambda: self._unique(network, parts),
            }
            names = found if self.output == "all" else [self.output]
            return torch.cat([found[name]() for name in names], 1)

        return self._of_parts(self._checked(X), value)

    def _fused(self, parts: Parts) -> torch.Tensor:
        if not self.keep_missing:
            return parts.fused
        absent = ~parts.observed.repeat(2, 1).T
        wide = absent.repeat_interleave(self._architecture["n_components"], 1)
        return parts.fused.masked_fill(wide, torch.nan)

    def _common(self, network: DecAlignNetwork, parts: Parts) -> torch.Tensor:
        mean = network.mean_of_common(parts.common_mean, parts.observed)
        if self.keep_missing:
            mean = mean.masked_fill(~parts.observed.any(0)[:, None], torch.nan)
        return mean

    def _unique(self, network: DecAlignNetwork, parts: Parts) -> torch.Tensor:
        absent = ~parts.observed.unsqueeze(-1)
        if self.keep_missing:
            filled = parts.unique_mean.masked_fill(absent, torch.nan)
        else:
            filled = network.fill_unique(parts.unique_mean, parts.observed)
        return filled.transpose(0, 1).flatten(1)

    def get_feature_names_out(self, input_features=None):
        """Names of the columns of `transform`, with the modality in front.

        Parameters
        ----------
        input_features : None
            Not used; for the interface.

        Returns
        -------
        names : ndarray of str
            ``<modality>__refined<j>``, ``<modality>__common<j>``, ``common<j>``,
            ``<modality>__unique<j>``.
        """
        check_is_fitted(self)
        width = range(self._architecture["n_components"])

        def of_modalities(what):
            return [f"{m}__{what}{j}" for m in self.modality_names_in_ for j in width]

        found = {
            "fused": of_modalities("refined") + of_modalities("common"),
            "common": [f"common{j}" for j in width],
            "unique": of_modalities("unique"),
        }
        names = found if self.output == "all" else [self.output]
        return np.array([n for name in names for n in found[name]], dtype=object)

    def responsibilities(self, X, modality):
        """Share of each prototype of a modality in each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.
        modality : str
            One of `modality_names_in_`.

        Returns
        -------
        w : ndarray of shape (n_samples, n_prototypes)
            Rows sum to one. A row that lacks the modality has what the transport plan
            makes of its others' shares, and the prototypes' weights if it has none.
        """
        check_is_fitted(self)
        (m,) = check_names([modality], self._layout.names, "modality")
        return self._of_parts(
            self._checked(X),
            lambda network, parts: network.shares(parts.unique_mean, parts.observed)[m],
        )

    def transport(self, X, source, target, *, decode=False):
        r"""One modality's unique part from another's, through the transport plan.

        .. math:: \sum_k w_s(k) \sum_{k'} T_{st}(k' | k) \mu_t^{k'}

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; of valid values only those of `source` matter.
        source, target : str
            Names of modalities.
        decode : bool, default=False
            Whether to return values of the target in the units of X, decoded from the
            transported unique part and the source's common part. Needs a model that
            was trained to reconstruct.

        Returns
        -------
        values : ndarray of shape (n_samples, n_components) or (n_samples, n_columns)

        Raises
        ------
        ValueError
            If a row lacks the source, or with `decode` there is no decoder.
        """
        check_is_fitted(self)
        (s,) = check_names([source], self._layout.names, "source")
        (t,) = check_names([target], self._layout.names, "target")
        X = self._checked(X)
        there = observed_modalities(X, self._layout)[:, s]
        if not there.all():
            raise ValueError(
                f"source: {source!r} is not observed in "
                f"{list_rows(np.flatnonzero(~there))}. Leave these rows out, or name a "
                "modality that they have."
            )
        if decode and not self._architecture["reconstructs"]:
            raise ValueError(
                "decode: this model was trained without reconstruction. Fit with "
                "reconstruction_weight=1.0, say."
            )

        def value(network, parts):
            only = torch.zeros_like(parts.observed)
            only[s] = True
            moved = network.shares(parts.unique_mean, only)[t] @ network.means[t]
            if not decode:
                return moved
            both = torch.cat([moved, parts.common_mean[s]], 1)
            return network.modalities[t].values(both)

        values = self._of_parts(X, value)
        return self._scaler.inverse(t, values) if decode else values


def _may_have_tokens(kind: Any, shape: tuple[int, ...]) -> bool:
    """Whether a front end may give more than one token."""
    return not isinstance(kind, str) or (
        len(shape) > 1 and kind not in ("linear", "mlp")
    )


def _gather(
    network: DecAlignNetwork, data: BlockData
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unique parts (M, N, d) and weights (M, N) of some rows; the mean common part."""
    chosen = torch.zeros(len(data), dtype=torch.bool, device=data.device)
    for there in data.observed:  # a rare modality needs all of its rows
        own = there.nonzero().squeeze(1)
        n = min(len(own), MATCHED_ROWS)
        even = torch.linspace(0, max(len(own) - 1, 0), n).round().long()
        chosen[own[even.to(own.device)]] = True
    unique, weights = [], []
    total, mass = 0.0, 0.0
    for rows, batch in data.in_order(PREDICT_ROWS):
        parts = network(batch["blocks"], batch["steps"], batch["observed"])
        weight = batch["observed"].double()
        if batch["weight"] is not None:
            weight = weight * batch["weight"].double()
        own = chosen[rows]
        unique.append(parts.unique_mean[:, own].double())
        weights.append(weight[:, own])
        total = total + torch.einsum("mn,mnd->d", weight, parts.common_mean.double())
        mass = mass + weight.sum()
    return torch.cat(unique, 1), torch.cat(weights, 1), (total / mass).to(parts.fused)
