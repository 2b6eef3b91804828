"""The neural form of DPMixtureFusion: a mixture over trained embeddings."""

# License: BSD-3-Clause

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.model_selection import train_test_split
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from skmm._device import resolve_device
from skmm.core.mixture_network import (
    FUSIONS,
    EmbeddingMixture,
    MixtureFusionNetwork,
    build_fusion,
    task_factor,
)
from skmm.core.networks import build_encoder
from skmm.estimators._base import to_arrays, to_tensors
from skmm.estimators._gradient import (
    PREDICT_ROWS,
    GradientEstimator,
    _check_widths,
    fit_scaler,
)
from skmm.fitting.data import Batch
from skmm.fitting.gradient import EpochHooks, seeded
from skmm.fitting.mixture import distinct_rows
from skmm.modalities import observed_modalities

NEURAL_CONSTRAINTS: dict = {
    "fusion": [StrOptions(set(FUSIONS))],
    "embed_dim": [Interval(Integral, 2, None, closed="left")],
    "lambda_dp": [Interval(Real, 0, None, closed="left")],
    "temperature": [Interval(Real, 0, None, closed="left")],
    "stick_update": [StrOptions({"svi", "batch_mean"})],
}


class _Loss:
    """Task loss and mixture loss of a batch."""

    def __init__(self, estimator: Any, n_rows: float, first_epoch: int):
        self.lambda_dp, self.temperature = estimator.lambda_dp, estimator.temperature
        self.offset = estimator.learning_offset
        self.decay = estimator.learning_decay
        self.mean = estimator.stick_update == "batch_mean"
        self.draw = estimator.fill == "sample"
        self.n_rows, self.first_epoch = n_rows, first_epoch
        self.epoch = first_epoch

    def begin_epoch(self, number: int) -> None:
        """Count on from earlier fits."""
        self.epoch = self.first_epoch + number

    def __call__(
        self, network: MixtureFusionNetwork, output: Any, y: Tensor, batch: Batch
    ) -> Tensor:
        z, observed, weight = output[0], batch["observed"], batch["weight"]
        z = z.float() if z.dtype == torch.bfloat16 else z
        training = network.training
        logits = network.head(network.fused(z, observed, self.draw and training))
        known = y >= 0
        losses = torch.nn.functional.cross_entropy(
            logits, y.clamp_min(0), reduction="none"
        )
        w = known.to(losses) if weight is None else known * weight
        task = (losses * w).sum() / w.sum().clamp_min(torch.finfo(w.dtype).tiny)
        if not training:
            return task
        loss = task * task_factor(self.epoch, self.temperature)
        if self.lambda_dp:
            own, share = network.mixture.loss(z, observed, weight, self.n_rows)
            loss = loss + self.lambda_dp * own
            with torch.no_grad():
                network.mixture.update_sticks(
                    share, self.n_rows, self.offset, self.decay, self.mean
                )
        return loss


class NeuralMixture(GradientEstimator):
    """What ``method="neural"`` does; the parameters are DPMixtureFusion's."""

    def _fit_neural(self, original, y, sample_weight, context, told) -> None:
        if self.head is None:
            raise ValueError(
                "head: method='neural' trains on labels, expected 'logistic', the "
                "network's linear head, got None. Use another method to cluster."
            )
        go_on = self.warm_start and hasattr(self, "_network_state")
        X, codes, weight = self._check_rows(original, y, sample_weight, go_on=go_on)
        self._check_gradient_params(X)
        layout = self._layout
        n_fused = build_fusion(self.fusion, len(layout), self.embed_dim)[1]
        self._keep_architecture(
            go_on,
            encoder=self._encoder_kinds(layout),
            hidden=_check_widths("hidden", self.hidden),
            activation=self.activation,
            n_components=self.n_components,
            embed_dim=self.embed_dim,
            fusion=self.fusion,
            n_fused=n_fused,
            concentration=self._concentration(),
        )
        if go_on:
            observed = observed_modalities(X, layout)
        else:
            self._dtype = X.dtype.name
            self._scaler, observed = fit_scaler(X, layout, weight)
            self._split_seed = self._seed()
        device = resolve_device(self.device, fitting=True)
        training, held_out = self._split_rows(codes, weight)
        rows = X, observed, codes, weight
        data = self._block_data(*rows, device=device, rows=training)
        validation = None
        if held_out is not None:
            validation = self._block_data(*rows, device=device, rows=held_out)
        epochs = self.n_iter_ if go_on else 0
        own = weight if training is None or weight is None else weight[training]
        loss = _Loss(self, float(len(data) if own is None else own.sum()), epochs)
        hooks = EpochHooks(context, self, told, self._neural_attributes)
        with seeded(self._split_seed + epochs, device):
            network = self._build_network()
            if go_on:
                network.load_state_dict(to_tensors(self._network_state))
            network.to(device)
            if not go_on:
                self._start_components(network, X, weight, training, device)
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
        vars(self).update(self._neural_attributes(network))
        self._record(record, added=go_on)

    def _split_rows(self, codes, weight):
        """Rows to train on (None: all) and to hold out, labelled ones in both."""
        kept = np.arange(len(codes)) if weight is None else np.flatnonzero(weight)
        if not self.early_stopping:
            return (None if len(kept) == len(codes) else kept), None
        training, held_out = [], []
        for of_kind in (kept[codes[kept] >= 0], kept[codes[kept] < 0]):
            if len(of_kind) < 2:
                training.append(of_kind)
                continue
            size = int(np.ceil(self.validation_fraction * len(of_kind)))
            counts = np.bincount(codes[of_kind] + 1)
            counts = counts[counts > 0]
            enough = counts.min() > 1 and min(size, len(of_kind) - size) >= len(counts)
            own, others = train_test_split(
                of_kind,
                test_size=size,
                random_state=self._split_seed,
                stratify=codes[of_kind] if enough else None,
            )
            training.append(own)
            held_out.append(others)
        held_out = np.sort(np.concatenate(held_out)) if held_out else np.arange(0)
        if not (codes[held_out] >= 0).any():
            raise ValueError(
                "early_stopping: expected at least 2 labelled rows, to train on and to "
                "hold out, got one. Use early_stopping=False."
            )
        return np.sort(np.concatenate(training)), held_out

    def _start_components(self, network, X, weight, training, device) -> None:
        """k-means on the first embeddings of each modality."""
        of_all = np.arange(len(X)) if training is None else training
        random_state = np.random.RandomState(self._split_seed % 2**32)
        index = distinct_rows(
            X[of_all], None if weight is None else weight[of_all], None, random_state
        )
        few = X[of_all[index.rows]]
        data = self._block_data(
            few, observed_modalities(few, self._layout), device=device
        )
        with torch.inference_mode():
            parts = [
                network.eval().embed(batch["blocks"], batch["steps"]).double().cpu()
                for _, batch in data.in_order(PREDICT_ROWS)
            ]
        z, observed = torch.cat(parts, 1), data.observed.cpu()
        network.train()
        means = network.mixture.means.detach().double().cpu().clone()
        scales = torch.full_like(means, 1.0 / np.sqrt(means.shape[-1]))
        seed = random_state.randint(2**31 - 1)
        for m, there in enumerate(observed):
            own, w = z[m][there].numpy(), index.weight[there.numpy()]
            if not len(own):
                continue
            k = min(means.shape[1], len(np.unique(own.round(6), axis=0)))
            found = KMeans(k, n_init=1, random_state=seed).fit(own, sample_weight=w)
            means[m, :k] = torch.from_numpy(found.cluster_centers_)
            # Components that are left over stand at the mean.
            means[m, k:] = torch.from_numpy(np.average(own, axis=0, weights=w))
            apart = np.square(own - found.cluster_centers_[found.labels_])
            scales[m] = torch.from_numpy(np.sqrt(np.average(apart, axis=0, weights=w)))
        network.mixture.set_components(means, scales)

    def _build_network(self) -> MixtureFusionNetwork:
        a = self._architecture
        shapes = [block.shape for block in self._layout]
        encoders = [
            build_encoder(
                kind, shape, a["embed_dim"], a["hidden"], self.dropout, a["activation"]
            )
            for kind, shape in zip(a["encoder"], shapes, strict=True)
        ]
        fusion, n_fused = build_fusion(a["fusion"], len(shapes), a["embed_dim"])
        network = MixtureFusionNetwork(
            encoders,
            shapes,
            EmbeddingMixture(
                len(shapes), a["n_components"], a["embed_dim"], a["concentration"]
            ),
            fusion,
            n_fused,
            len(self.classes_),
        )
        return network.to(getattr(torch, self._dtype))

    def _neural_attributes(self, network: MixtureFusionNetwork) -> dict[str, Any]:
        mixture = network.mixture
        weights = mixture.weights().double().cpu().numpy()
        shape = mixture.shape[:2]
        return {
            "weights_": weights,
            "weight_concentration_": tuple(
                stick.view(shape).cpu().numpy().copy()
                for stick in (mixture.a, mixture.b)
            ),
            "means_": list(to_arrays(mixture.means)),
            "covariances_": list(to_arrays(mixture.scales**2)),
            "_network_state": to_arrays(network.state_dict()),
        }

    def _neural_rows(self, X: np.ndarray, of: str) -> np.ndarray:
        """Fused vectors or class probabilities of all rows."""

        def value(network, batch):
            z = network.embed(batch["blocks"], batch["steps"])
            values = network.fused(z, batch["observed"])
            if of == "proba":
                values = torch.softmax(network.head(values).double(), 1)
            return values

        return self._map_rows(X, value)
