"""What gradient-trained estimators share: parameters, devices, state as arrays."""

import os
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.callback import CallbackSupportMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import EarlyStopping

from skmm._device import resolve_device
from skmm.core.networks import ACTIVATIONS, ENCODERS
from skmm.estimators._base import to_arrays, to_tensors
from skmm.fitting.checkpoint import Checkpoint, fingerprint
from skmm.fitting.data import Batch, BlockData
from skmm.fitting.gradient import (
    RESERVED_NET_PARAMS,
    EpochHooks,
    TrainingRecord,
    TrainingSettings,
    seeded,
    train,
)
from skmm.modalities import (
    Layout,
    check_likelihood,
    check_observed,
    observed_modalities,
    validate_input,
)
from skmm.scaling import BlockScaler

PREDICT_ROWS = 2048
# Parameters that do not change what a training computes, or that a taken-up run
# may have otherwise.
NOT_IN_FINGERPRINT = ("checkpoint_dir", "device", "modalities", "verbose")


class GradientEstimator(CallbackSupportMixin, BaseEstimator):
    """Base of estimators that train a network through `skmm.fitting.gradient`.

    A subclass has the parameters of `_gradient_constraints`, builds its network in
    `_build_network()` from fitted attributes alone, and calls the steps below.
    """

    _gradient_constraints: dict = {
        "modalities": "no_validation",
        "encoder": [str, callable, dict],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "hidden": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "lr_schedule": [StrOptions({"cosine", "constant"})],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "checkpoint_dir": [str, os.PathLike, None],
        "net_params": [dict, None],
        "precision": [StrOptions({"bf16"}), None],
        "device": "no_validation",
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # ------------------------------------------------------------ checks
    def _check_gradient_params(self, X: np.ndarray) -> None:
        """Check what `_parameter_constraints` can't say."""
        _check_fraction(self, len(X))
        clash = sorted(set(self.net_params or {}) & set(RESERVED_NET_PARAMS))
        if clash:
            raise ValueError(
                f"net_params: {clash} can't be set here, since the estimator sets "
                "them. Use its own parameters, such as lr, max_epochs or batch_size."
            )
        if any(_stops_early(c) for c in (self.net_params or {}).get("callbacks") or ()):
            raise ValueError(
                "net_params: skorch's EarlyStopping ends a fit as Ctrl-C does, and is "
                "not taken. Use early_stopping=True and n_iter_no_change."
            )
        if self.precision == "bf16" and X.dtype != np.float32:
            raise ValueError(
                f"precision: 'bf16' needs float32 data, got {X.dtype}. Pass "
                "X.astype(np.float32), or precision=None."
            )
        if self.checkpoint_dir is not None and not isinstance(
            self.random_state, Integral
        ):
            raise ValueError(
                "checkpoint_dir: taking up a run needs random_state to be an int, got "
                f"{self.random_state!r}. Set random_state=0, say."
            )

    # ------------------------------------------------------------ data
    def _encoder_kinds(self, layout: Layout) -> list[Any]:
        """Kind of each block's encoder: its `Modality`'s, else the parameter's."""
        return self._network_kinds(layout, "encoder", ENCODERS, "n_components")

    def _network_kinds(
        self, layout: Layout, field: str, known: tuple[str, ...], size: str
    ) -> list[Any]:
        parameter = getattr(self, field)
        given = parameter if isinstance(parameter, Mapping) else None
        unknown = [name for name in given or () if name not in layout.names]
        if unknown:
            raise ValueError(
                f"{field}: expected names among the modalities {layout.names}, got "
                f"{unknown}."
            )
        kinds = []
        for block in layout:
            kind = parameter if given is None else given.get(block.name, "auto")
            own = getattr(block, field)
            kind = kind if own is None else own
            _check_network(kind, block.name, field, known, size)
            kinds.append(kind)
        return kinds

    def _keep_architecture(self, go_on: bool, **parts: Any) -> None:
        """Keep what the network is built from; training can't go on with another.

        Prediction builds the network from this, not from parameters that may have
        been set since.
        """
        if go_on:
            changed = [k for k, v in parts.items() if self._architecture[k] != v]
            if changed:
                was = {k: self._architecture[k] for k in changed}
                raise ValueError(
                    f"{', '.join(changed)}: can't change while training goes on from "
                    f"the last fit; it was {was}, got "
                    f"{ {k: parts[k] for k in changed} }. Fit anew: warm_start=False, "
                    "or a clone for partial_fit."
                )
        self._architecture = parts

    def _checked(self, X: Any) -> np.ndarray:
        """Validated rows, possible under the likelihoods of their modalities."""
        check_is_fitted(self)
        self._validate_params()
        X = validate_input(self, X, reset=False)
        check_likelihood(X, self._layout)
        return X

    def _predict_data(
        self,
        X: np.ndarray,
        y: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        cells: bool = False,
    ) -> BlockData:
        """Validated rows to predict, as the network takes them."""
        return self._block_data(
            X,
            observed_modalities(X, self._layout),
            y,
            weight,
            device=resolve_device(self.device, fitting=False),
            cells=cells,
        )

    def _block_data(self, X: np.ndarray, *args: Any, **kwargs: Any) -> BlockData:
        """Rows in the type that the network was fitted in."""
        return BlockData(
            X, self._layout, self._scaler, *args, dtype=self._dtype, **kwargs
        )

    def _map_rows(
        self,
        X: np.ndarray,
        value: Callable[[torch.nn.Module, Batch], torch.Tensor],
        cells: bool = False,
        seed: int = 0,
        n_rows: int = PREDICT_ROWS,
    ) -> np.ndarray:
        """Values of all rows of validated X, in its type, a few rows at a time.

        ``value(network, batch)`` gives those of some rows, rows first. What it draws is
        from `seed`.
        """
        data = self._predict_data(X, cells=cells)
        network = self._fitted_network(data.device)
        with torch.inference_mode(), seeded(seed, data.device):
            parts = [
                value(network, batch).cpu().numpy()
                for _, batch in data.in_order(n_rows)
            ]
        return np.concatenate(parts).astype(X.dtype, copy=False)

    # ------------------------------------------------------------ training
    def _training_settings(
        self, max_epochs: int, *, constant: bool
    ) -> TrainingSettings:
        return TrainingSettings(
            lr=float(self.lr),
            max_epochs=max_epochs,
            batch_size=int(self.batch_size),
            weight_decay=float(self.weight_decay),
            lr_schedule="constant" if constant else self.lr_schedule,
            clip_norm=self.clip_norm,
            n_iter_no_change=self.n_iter_no_change,
            precision=self.precision,
            verbose=int(self.verbose),
            net_params=self.net_params or {},
        )

    def _train(
        self,
        network: torch.nn.Module,
        loss: Any,
        data: BlockData,
        settings: TrainingSettings,
        hooks: EpochHooks,
        *,
        validation: BlockData | None = None,
        callbacks: tuple = (),
        go_on: bool = False,
        keep_optimizer: bool = False,
    ) -> TrainingRecord:
        """Train from scratch, or where `go_on` from the state of the last training."""
        before = getattr(self, "_optimizer_state", None) if go_on else None
        checkpoint = self._checkpoint(data, go_on) if self.checkpoint_dir else None
        record, optimizer_state = train(
            network,
            loss,
            data,
            settings,
            hooks,
            validation=validation,
            checkpoint=checkpoint,
            optimizer_state=None if before is None else to_tensors(before),
            callbacks=callbacks,
        )
        if checkpoint is not None:
            checkpoint.discard()
        self._optimizer_state = to_arrays(optimizer_state) if keep_optimizer else None
        return record

    def _checkpoint(self, data: BlockData, go_on: bool) -> Checkpoint:
        """The file of this very run: same estimator, parameters, rows and targets."""
        parts: dict[str, Any] = {
            k: v
            for k, v in self.get_params(deep=False).items()
            if k not in NOT_IN_FINGERPRINT
        }
        spread = np.linspace(0, len(data.X) - 1, 64).astype(int)
        parts |= {
            "class": type(self).__name__,
            "start": self._network_state if go_on else None,
            "groups": [(b.name, b.indices, b.shape) for b in self._layout],
            "dtype": str(data.X.dtype),
            "sample of rows": np.array(data.X[spread]),
            "observed": data.observed.cpu().numpy(),
            "means": np.concatenate(data.scaler.mean),
            "scales": np.concatenate(data.scaler.scale),
        }
        for name, values in (("y", data.y), ("weight", data.weight)):
            if values is not None:
                parts[name] = values.cpu().numpy()
        return Checkpoint(self.checkpoint_dir, fingerprint(parts))

    def _split(
        self,
        n_samples: int,
        weight: np.ndarray | None = None,
        codes: np.ndarray | None = None,
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Rows to train on (None: all) and to hold out, classes in proportion.

        The same ones as long as `_split_seed` stays.
        """
        # A row of weight zero is a row that is not there.
        kept = np.arange(n_samples) if weight is None else np.flatnonzero(weight)
        if not self.early_stopping:
            return (None if len(kept) == n_samples else kept), None
        held_out = int(np.ceil(self.validation_fraction * len(kept)))
        strata = None
        if codes is not None:
            _, counts = np.unique(codes[kept], return_counts=True)
            both_sides = min(held_out, len(kept) - held_out)
            if counts.min() >= 2 and both_sides >= len(counts):
                strata = codes[kept]
        training, validation = train_test_split(
            kept,
            test_size=self.validation_fraction,
            random_state=self._split_seed,
            stratify=strata,
        )
        return np.sort(training), np.sort(validation)

    def _seed(self) -> int:
        """Seed of this fit, drawn from `random_state`."""
        return seed_from(self.random_state)

    def _record(self, record: TrainingRecord, *, added: bool) -> None:
        """Curves, terms and number of epochs, added to those of earlier fits."""
        if record.terms:
            known = self.history_ if added else {}
            names = {*known, *(name for epoch in record.terms for name in epoch)}
            nothing = [np.nan] * (self.n_iter_ if added else 0)
            self.history_ = {
                name: known.get(name, nothing)
                + [epoch.get(name, np.nan) for epoch in record.terms]
                for name in sorted(names)
            }
        before = self.loss_curve_ if added else []
        self.loss_curve_ = before + list(record.losses)
        self.n_iter_ = len(self.loss_curve_)
        if record.validation_losses:
            before = getattr(self, "validation_loss_curve_", []) if added else []
            self.validation_loss_curve_ = before + list(record.validation_losses)

    # ------------------------------------------------------------ state
    def _fitted_network(self, device: torch.device) -> torch.nn.Module:
        """The trained network, built from arrays, ready for prediction."""
        # Building draws initial weights that the state replaces.
        with seeded(0, torch.device("cpu")):
            network = self._build_network()
        network.load_state_dict(to_tensors(self._network_state))
        return network.to(device).eval()

    def _build_network(self) -> torch.nn.Module:
        raise NotImplementedError


class LogProbaMixin(ClassifierMixin):
    """Predictions of a classifier that has ``_log_proba(X)``."""

    def decision_function(self, X):
        """Log-probabilities of the classes, or log-odds where there are two.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            In nats.
        """
        log_p = self._log_proba(X)
        return log_p[:, 1] - log_p[:, 0] if log_p.shape[1] == 2 else log_p

    def predict_log_proba(self, X):
        """Log-probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return self._log_proba(X)

    def predict_proba(self, X):
        """Probabilities of the classes.

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

    def predict(self, X):
        """Most probable classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, with all-NaN blocks where a modality is missing.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Labels.
        """
        winners = self._log_proba(X).argmax(1)
        return self.classes_[winners]


def check_names(names: list[Any], known: list[str], parameter: str) -> list[int]:
    """Positions of modalities that are asked for by name."""
    if not names or not all(isinstance(n, str) and n in known for n in names):
        raise ValueError(
            f"{parameter}: expected among the modalities {known}, got {names!r}."
        )
    return [known.index(name) for name in names]


def seed_from(random_state: Any) -> int:
    """A seed of torch's generators, drawn from a `random_state`."""
    return int(check_random_state(random_state).randint(2**31 - 1))


def _stops_early(callback: Any) -> bool:
    """Whether a skorch callback, perhaps with its name, is or makes EarlyStopping."""
    if isinstance(callback, tuple):
        callback = callback[-1]
    kind = callback if isinstance(callback, type) else type(callback)
    return issubclass(kind, EarlyStopping)


def _check_widths(name: str, widths: Any) -> tuple[int, ...]:
    """Layer widths as a tuple, checked to be positive integers."""
    valid = np.ndim(widths) == 1 and all(
        isinstance(w, Integral) and not isinstance(w, bool) and w > 0 for w in widths
    )
    if not valid:
        raise ValueError(
            f"{name}: expected a sequence of positive integers, got {widths!r}."
        )
    return tuple(int(w) for w in widths)


def _check_fraction(estimator: Any, n_samples: int) -> None:
    """Check that early stopping leaves rows on both sides."""
    if not estimator.early_stopping:
        return
    held_out = int(np.ceil(estimator.validation_fraction * n_samples))
    if held_out >= n_samples:
        raise ValueError(
            f"validation_fraction: {estimator.validation_fraction} of {n_samples} "
            "samples leaves none to train on. Use a smaller fraction."
        )


def _check_network(
    kind: Any, modality: str, field: str, known: tuple[str, ...], size: str
) -> None:
    """Check the kind of one modality's encoder or decoder."""
    if isinstance(kind, str):
        if kind not in known:
            raise ValueError(
                f"{field}: expected one of {known} or a class for the modality "
                f"{modality!r}, got {kind!r}."
            )
    elif not callable(kind) or isinstance(kind, torch.nn.Module):
        raise TypeError(
            f"{field}: expected one of {known} or a class for the modality "
            f"{modality!r}, called as {field}(shape, {size}), got {kind!r}. "
            "Pass the class, not a module made from it."
        )


def fit_scaler(
    X: np.ndarray, layout: Layout, weight: np.ndarray | None
) -> tuple[BlockScaler, np.ndarray]:
    """Masks of the observed modalities, checked, and the training statistics."""
    observed = observed_modalities(X, layout)
    check_observed(observed, layout, sample_weight=weight)
    return BlockScaler.fit(X, layout, weight), observed
