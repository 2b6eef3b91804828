"""Other multimodal VAEs behind the interface of `DCMEMEncoder`, and its networks here.

- `DigitEncoder`, `DigitDecoder`, `PhotoEncoder`, `PhotoDecoder`: the networks of pairs
  of digits and photos, the same for every model.
- `MultimodalVAEBaseline`: MVAE, MMVAE and MoPoE with skmm's networks, data and loop.
- `MultiVaeModel`: those and MMVAE+ as the package multivae has them, in a loop of as
  many equal steps.

Each has ``fit(X)``, ``transform(X)``, the means of what the modalities share, and
``generate(X, from_, to, private=..., shared=...)``. An absent modality is a block of
NaN.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skmm import DCMEMEncoder
from skmm.core.diagonal_gaussian import DiagonalGaussian, standard_log_density
from skmm.core.multimodal_vae import Codes, MultimodalVAE, Rows, joint_code
from skmm.fitting.data import Batch, batch_bounds
from skmm.fitting.gradient import seeded
from skmm.modalities import Layout, observed_modalities, resolve_modalities

KINDS = ("mvae", "mmvae", "mopoe")
MULTIVAE = ("MVAE", "MMVAE", "MoPoE", "MMVAE+")
PREDICT_ROWS = 1000


# ---------------------------------------------------------------- networks
class DigitEncoder(nn.Sequential):
    """Two dense layers of 400 and a linear one."""

    def __init__(self, shape: tuple[int, ...], n_out: int):
        n_pixels = int(np.prod(shape))
        super().__init__(
            nn.Flatten(),
            *(nn.Linear(n_pixels, 400), nn.ReLU()),
            *(nn.Linear(400, 400), nn.ReLU()),
            nn.Linear(400, n_out),
        )


class DigitDecoder(nn.Sequential):
    """The mirror image, to values in [0, 1]."""

    def __init__(self, shape: tuple[int, ...], n_in: int):
        super().__init__(
            *(nn.Linear(n_in, 400), nn.ReLU()),
            *(nn.Linear(400, 400), nn.ReLU()),
            *(nn.Linear(400, int(np.prod(shape))), nn.Sigmoid()),
            nn.Unflatten(1, tuple(shape)),
        )


class PhotoEncoder(nn.Sequential):
    """4 x 4 convolutions of stride 2, 28 - 14 - 7 - 3, and a linear layer."""

    def __init__(self, shape: tuple[int, ...], n_out: int):
        channels = (shape[0], 32, 64, 128)
        halve = [
            layer
            for n, m in pairwise(channels)
            for layer in (nn.Conv2d(n, m, 4, 2, 1), nn.ReLU())
        ]
        super().__init__(*halve, nn.Flatten(), nn.Linear(128 * 9, n_out))


class PhotoDecoder(nn.Sequential):
    """The mirror image, to values in [0, 1]."""

    def __init__(self, shape: tuple[int, ...], n_in: int):
        super().__init__(
            *(nn.Linear(n_in, 128 * 9), nn.ReLU(), nn.Unflatten(1, (128, 3, 3))),
            *(nn.ConvTranspose2d(128, 64, 3, 2), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU()),
            *(nn.ConvTranspose2d(32, shape[0], 4, 2, 1), nn.Sigmoid()),
        )


# ---------------------------------------------------------------- plain models
def products(codes: Codes, chosen: Tensor, *, prior: bool) -> DiagonalGaussian:
    """Normalised products of the chosen experts ``(S, M, B)``, over ``(S, B, d)``.

    `prior` puts N(0, I) among the experts; without it, and without any, they are that.
    """
    means, log_scales = codes.stacked()
    precision = (-2 * log_scales).exp()
    weights = chosen.to(precision)
    total = torch.einsum("smb,mbd->sbd", weights, precision)
    first = torch.einsum("smb,mbd->sbd", weights, precision * means)
    total = total + 1 if prior else torch.where(total > 0, total, 1)
    return DiagonalGaussian(first / total, -0.5 * total.log())


def subsets(n: int) -> Tensor:
    """All subsets of n modalities but the empty one, bool ``(2^n - 1, n)``."""
    numbers = torch.arange(1, 2**n)
    return (numbers[:, None] >> torch.arange(n)) % 2 == 1


def possible(observed: Tensor) -> Tensor:
    """All subsets of each row's modalities, bool ``(S, M, B)``; False is not there."""
    chosen = subsets(len(observed)).to(observed.device)[:, :, None]
    there = (observed | ~chosen).all(1, keepdim=True)
    return chosen & there


class Elbo:
    r"""Minus the mean over rows of one of the bounds, with N(0, I) as the prior.

    "mvae" (Wu and Goodman, 2018): the bounds of the product of a row's experts and the
    prior, of each expert alone and, from three modalities on, of one random subset.

    "mmvae" (Shi et al., 2019), with one draw: the mean over a row's experts i of
    :math:`\sum_m \log p(x_m|z_i) + \log p(z_i) - \log \frac1M \sum_j q(z_i|x_j)`.

    "mopoe" (Sutter et al., 2021): one draw from the mixture of the products of all
    subsets of a row's experts, less the mean of their divergences from the prior.

    Modalities that a row lacks are neither experts nor reconstructed.
    """

    def __init__(self, kind: str, rescale: Sequence[float] | None):
        self.kind, self.rescale = kind, rescale

    def __call__(
        self, network: MultimodalVAE, codes: Codes, y: None, batch: Batch
    ) -> Tensor:
        rows = Rows(batch["blocks"], batch["steps"], batch["cells"], batch["observed"])
        bound = getattr(self, self.kind)(network, codes.in_full_precision(), rows)
        return -bound.mean()

    def reconstruction(
        self, network: MultimodalVAE, rows: Rows, z: Tensor, of: Tensor
    ) -> Tensor:
        """Log-likelihood ``(B,)`` of the modalities marked in ``of (M, B)``."""
        total = z.new_zeros(len(z))
        for m, part in enumerate(network):
            mine = of[m].nonzero().squeeze(1)
            if not len(mine):
                continue
            code = z[mine]
            output = part.decode(code, code[:, :0])
            log_p = part.log_likelihood(output, *rows.of(m, mine))
            if self.rescale is not None:
                log_p = self.rescale[m] * log_p
            total = total.index_add(0, mine, log_p)
        return total

    def mvae(self, network: MultimodalVAE, codes: Codes, rows: Rows) -> Tensor:
        n = len(rows.observed)
        chosen = [torch.ones(1, n, dtype=torch.bool), torch.eye(n, dtype=torch.bool)]
        if n > 2:
            every = subsets(n)
            between = every[(every.sum(1) > 1) & (every.sum(1) < n)]
            chosen.append(between[torch.randint(len(between), (1,))])
        each = torch.cat(chosen).to(rows.observed.device)[:, :, None] & rows.observed
        q = products(codes, each, prior=True)
        total = rows.observed.new_zeros(rows.observed.shape[1], dtype=q.mean.dtype)
        divergence, z = q.divergence(), q.draw(1)[0]
        for s, of in enumerate(each):
            bound = self.reconstruction(network, rows, z[s], of) - divergence[s]
            total = total + bound * of.any(0)
        return total

    def mmvae(self, network: MultimodalVAE, codes: Codes, rows: Rows) -> Tensor:
        observed = rows.observed
        count = observed.sum(0).clamp_min(1)
        total = codes.shared[0].mean.new_zeros(observed.shape[1])
        for m, q in enumerate(codes.shared):
            z = q.draw(1)[0]
            each = torch.stack([other.log_density(z) for other in codes.shared])
            # Rows without expert m are left out below, but must be finite.
            there = observed | ~observed[m]
            mixture = torch.logsumexp(each.masked_fill(~there, -torch.inf), 0)
            bound = standard_log_density(z) - mixture + count.to(z).log()
            log_p = self.reconstruction(network, rows, z, observed & observed[m])
            total = total + torch.where(observed[m], bound + log_p, 0)
        return total / count

    def mopoe(self, network: MultimodalVAE, codes: Codes, rows: Rows) -> Tensor:
        chosen = possible(rows.observed)
        q = products(codes, chosen, prior=False)
        there = chosen.any(1)
        share = there / there.sum(0).clamp_min(1)
        # A row without any modality takes the first, and gets no bound.
        pick = torch.multinomial((share + ~there.any(0) / len(there)).T, 1).T
        z = q.draw(1)[0].gather(0, pick.unsqueeze(-1).expand(-1, -1, q.mean.shape[-1]))
        log_p = self.reconstruction(network, rows, z[0], rows.observed)
        return log_p - (share * q.divergence()).sum(0)


class MultimodalVAEBaseline(DCMEMEncoder):
    """MVAE, MMVAE or MoPoE with the networks, the data and the loop of skmm.

    One shared code, no private ones. `transform` gives the mean of the posterior: of
    the product, or the mean over the mixture's components.

    Parameters
    ----------
    modalities
        As in `DCMEMEncoder`.
    kind : {"mvae", "mmvae", "mopoe"}, default="mopoe"
        See `Elbo`.
    **settings
        Of `DCMEMEncoder`; those of its objective change nothing.
    """

    def __init__(self, modalities="auto", *, kind="mopoe", **settings):
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}.")
        self.kind = kind
        fixed = {"n_private": 0, "n_anchors": 1, "learn_anchors": False}
        super().__init__(modalities, **settings, **fixed, stop_gradient=False)

    def _train(self, network, loss, *args, **kwargs):
        loss = Elbo(self.kind, self._rescale)
        return super()._train(network, loss, *args, **kwargs)

    def _joint(self, codes: Codes, observed: Tensor) -> DiagonalGaussian:
        if self.kind == "mmvae":
            return joint_code(codes, observed, "mean")
        if self.kind == "mvae":
            q = products(codes, observed[None], prior=True)
            return q[0]
        chosen = possible(observed)
        q = products(codes, chosen, prior=False)
        there = chosen.any(1)
        share = (there / there.sum(0).clamp_min(1)).unsqueeze(-1)
        nothing = ~observed.any(0)[:, None]
        variance = (share * (2 * q.log_scale).exp()).sum(0) + nothing
        return DiagonalGaussian((share * q.mean).sum(0), 0.5 * variance.log())


# ---------------------------------------------------------------- multivae
class PeerMissing(ImportError):
    """A package to compare with that is not installed."""


class _Absent(types.ModuleType):
    """A module in which every name is a class without content."""

    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


class _NoTorchvision:
    """Finds an empty module for torchvision and whatever is in it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] != "torchvision":
            return None
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def multivae_version() -> str | None:
    """Version of the package multivae; None where it is not installed."""
    try:
        return version("multivae")
    except PackageNotFoundError:
        return None


def load_multivae() -> types.ModuleType:
    """Import multivae, with an empty torchvision where that can't be imported.

    It needs torchvision for pictures and FID alone, and a torchvision that does not
    match torch fails to load.
    """
    if multivae_version() is None:
        raise PeerMissing("multivae is not installed: pip install multivae==1.0.3")
    if "multivae" not in sys.modules:
        try:
            importlib.import_module("torchvision")
        except Exception:  # of whatever kind: one built for another torch fails its way
            for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            sys.meta_path.insert(0, _NoTorchvision())
    # Checks of every argument of its distributions, in every step.
    torch.distributions.Distribution.set_default_validate_args(False)
    importlib.import_module("multivae.models")
    return sys.modules["multivae"]


def _encoder(network: nn.Module, sizes: Sequence[int]) -> nn.Module:
    """Encoder as multivae wants it, from one to means and log-variances, in turn."""
    load_multivae()
    from multivae.models.base import BaseEncoder
    from pythae.models.base.base_utils import ModelOutput

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.latent_dim = network, sizes[0]
            self.style_dim = sizes[1] if len(sizes) > 1 else 0

        def forward(self, x: Tensor) -> ModelOutput:
            names = ["embedding", "log_covariance"]
            if len(sizes) > 1:
                names += ["style_embedding", "style_log_covariance"]
            widths = [size for size in sizes for _ in range(2)]
            # Copies: MVAE writes into log-variances, which views of one tensor forbid.
            parts = [part.clone() for part in self.network(x).split(widths, 1)]
            return ModelOutput(**dict(zip(names, parts, strict=True)))

    return Encoder()


def _decoder(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    from multivae.models.base import BaseDecoder
    from pythae.models.base.base_utils import ModelOutput

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.network(z).view(len(z), *shape))

    return Decoder()


def multivae_model(
    kind: str,
    layout: Layout,
    networks: Mapping[str, tuple[Any, Any]],
    *,
    n_components: int,
    n_private: int,
    rescale: bool,
) -> nn.Module:
    """One of multivae's models.

    Parameters
    ----------
    kind : {"MVAE", "MMVAE", "MoPoE", "MMVAE+"}
        One draw where it has a number of draws, no annealing; else its defaults.
    layout : Layout
        Whose likelihoods "gaussian" and "laplace" have a fixed scale.
    networks : dict
        Encoder and decoder of each modality, called as ``encoder(shape, n_out)``.
    n_components, n_private : int
        The latter for MMVAE+.
    rescale : bool
        Log-likelihoods times the largest width over the modality's.
    """
    load_multivae()
    models = importlib.import_module("multivae.models")
    sizes = [n_components, *([n_private] if kind == "MMVAE+" else [])]
    encoders, decoders = {}, {}
    for block in layout:
        make_encoder, make_decoder = networks[block.name]
        encoder = make_encoder(block.shape, 2 * sum(sizes))
        encoders[block.name] = _encoder(encoder, sizes)
        decoder = make_decoder(block.shape, sum(sizes))
        decoders[block.name] = _decoder(decoder, block.shape)
    distributions = {"gaussian": "normal", "laplace": "laplace"}
    own: dict[str, Any] = {
        "MVAE": {"warmup": 0, "k": 1 if len(layout) > 2 else 0},
        "MMVAE": {"K": 1},
        "MoPoE": {},
        "MMVAE+": {"K": 1, "modalities_specific_dim": n_private},
    }[kind]
    name = {"MMVAE+": "MMVAEPlus"}.get(kind, kind)
    config = getattr(models, f"{name}Config")(
        n_modalities=len(layout),
        latent_dim=n_components,
        input_dims={block.name: tuple(block.shape) for block in layout},
        uses_likelihood_rescaling=rescale,
        decoders_dist={b.name: distributions[b.likelihood] for b in layout},
        decoder_dist_params={b.name: {"scale": float(b.scale)} for b in layout},
        **own,
    )
    return getattr(models, name)(config, encoders, decoders)


class MultiVaeModel:
    """One of multivae's models with ``fit``, ``transform`` and ``generate``.

    Its loop is ours, of a few lines: the same batches, steps and optimiser for all.

    Parameters
    ----------
    kind, n_components, n_private
        As in `multivae_model`.
    modalities : dict of Modality
        With encoder, decoder, likelihood and a fixed scale; values are not scaled.
    likelihood_rescale : {"dimension"} or None
    lr, batch_size, max_epochs, warm_start, device, random_state
        As in `DCMEMEncoder`; Adam.
    """

    def __init__(
        self,
        kind: str,
        modalities: Mapping[str, Any],
        *,
        n_components: int = 20,
        n_private: int = 8,
        likelihood_rescale: str | None = None,
        lr: float = 1e-3,
        batch_size: int = 128,
        max_epochs: int = 100,
        warm_start: bool = False,
        device: str = "cpu",
        random_state: int = 0,
    ):
        load_multivae()  # here, so that it does not count as time of the fit
        self.kind, self.modalities = kind, modalities
        self.n_components, self.n_private = n_components, n_private
        self.likelihood_rescale, self.lr = likelihood_rescale, lr
        self.batch_size, self.max_epochs = batch_size, max_epochs
        self.device, self.random_state = torch.device(device), random_state
        self.warm_start, self.losses = warm_start, []

    def fit(self, X: np.ndarray, y: None = None) -> "MultiVaeModel":
        self.layout = resolve_modalities(self.modalities, X)
        observed = torch.from_numpy(observed_modalities(X, self.layout).T.copy())
        data = self._tensors(X)
        masks = None if bool(observed.all()) else observed.to(self.device)
        going_on = self.warm_start and bool(self.losses)
        with seeded(self.random_state + len(self.losses), self.device):
            if not going_on:
                self._start()
            self.losses += self._loop(data, masks, len(X))
        return self

    def _start(self) -> None:
        networks = {b.name: (b.encoder, b.decoder) for b in self.layout}
        self.model = multivae_model(
            self.kind,
            self.layout,
            networks,
            n_components=self.n_components,
            n_private=self.n_private,
            rescale=self.likelihood_rescale == "dimension",
        ).to(self.device)
        self.model.device = self.device
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, self.lr, fused=True)
        self.losses = []

    def _loop(
        self, data: dict[str, Tensor], masks: Tensor | None, n_rows: int
    ) -> list[float]:
        losses = []
        self.model.train()
        for epoch in range(len(self.losses), len(self.losses) + self.max_epochs):
            order = torch.randperm(n_rows).to(self.device)
            total = 0.0
            for start, stop in pairwise(batch_bounds(n_rows, self.batch_size)):
                rows = order[start:stop]
                seen = None if masks is None else masks[:, rows]
                batch = self._batch({k: v[rows] for k, v in data.items()}, seen)
                loss = self.model(batch, epoch=epoch + 1, batch_ratio=0.0).loss
                if self.kind in ("MMVAE", "MMVAE+"):  # the others take the mean
                    loss = loss / len(rows)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total = total + loss.detach() * len(rows)
            losses.append(float(total) / n_rows)
            if not np.isfinite(losses[-1]):
                raise FloatingPointError(f"{self.kind}: loss {losses[-1]}")
        return losses

    def _tensors(self, X: np.ndarray) -> dict[str, Tensor]:
        """Blocks in float32, zero where they are missing."""
        found = {}
        for block in self.layout:
            values = np.nan_to_num(X[:, block.columns].astype(np.float32))
            values = torch.from_numpy(values).view(len(X), *block.shape)
            found[block.name] = values.to(self.device)
        return found

    def _batch(self, data: dict[str, Tensor], observed: Tensor | None = None) -> Any:
        from multivae.data.datasets.base import DatasetOutput

        if observed is None:
            return DatasetOutput(data=data)
        masks = dict(zip(self.layout.names, observed, strict=True))
        return DatasetOutput(data=data, masks=masks)

    def _given(self, X: np.ndarray, names: list[str]) -> Iterator[Any]:
        """Batches of X with the modalities `names`."""
        for start in range(0, len(X), PREDICT_ROWS):
            data = self._tensors(X[start : start + PREDICT_ROWS])
            # MoPoE runs all encoders; the zeros of the others do not reach its result.
            kept = self.layout.names if self.kind == "MoPoE" else names
            yield self._batch({name: data[name] for name in kept})

    @torch.no_grad()
    def transform(self, X: np.ndarray) -> np.ndarray:
        """Means by the package's own rule for the modalities that a row has."""
        self.model.eval()
        observed = observed_modalities(X, self.layout)
        Z = np.full((len(X), self.n_components), np.nan, dtype=np.float32)
        for pattern in np.unique(observed, axis=0):
            rows = np.flatnonzero((observed == pattern).all(1))
            names = [
                n for n, seen in zip(self.layout.names, pattern, strict=True) if seen
            ]
            if names:
                parts = [
                    self.model.encode(batch, names, return_mean=True).z
                    for batch in self._given(X[rows], names)
                ]
                Z[rows] = torch.cat(parts).cpu().numpy()
        return Z

    @torch.no_grad()
    def generate(
        self,
        X: np.ndarray,
        from_: str,
        to: str,
        *,
        private: str = "prior",
        shared: str = "sample",
        random_state: int = 0,
    ) -> np.ndarray:
        """Decode the target; codes are drawn unless `shared` is "mean"."""
        self.model.eval()
        parts = []
        with seeded(random_state, self.device):
            for batch in self._given(X, [from_]):
                codes = self.model.encode(batch, [from_], return_mean=shared == "mean")
                parts.append(self.model.decode(codes, to)[to].flatten(1))
        return torch.cat(parts).cpu().numpy()


# ---------------------------------------------------------------- its own trainer
def train_as_users_do(
    model: nn.Module,
    data: dict[str, Tensor],
    *,
    max_epochs: int,
    batch_size: int,
    lr: float,
    folder: str,
) -> Any:
    """A prepared trainer of multivae, to be run by ``train()``."""
    load_multivae()
    import logging

    from multivae.data.datasets.base import MultimodalBaseDataset
    from multivae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.INFO)
    config = BaseTrainerConfig(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        num_epochs=max_epochs,
        learning_rate=lr,
        no_cuda=True,
    )
    return BaseTrainer(model, MultimodalBaseDataset(data), training_config=config)
