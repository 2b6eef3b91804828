"""Encoders by block shape, and the heads that fuse embeddings into class logits.

An encoder maps one modality's block ``(B, *shape)`` to an embedding ``(B, D)``; no
row's embedding depends on another row. All but the linear one end in tanh: with
unbounded embeddings a critic goes on raising the logits of the rows that it remembers,
which costs accuracy on others. A head maps embeddings to logits: additive
heads per modality (``(M, B, D)`` to ``(M, B, C)``, summed by whoever fuses), the others
jointly (``M`` tensors ``(N, D)`` to ``(N, C)``).
"""

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

ENCODERS = ("auto", "linear", "mlp", "conv", "attention")
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}
ADDITIVE_FUSIONS = ("additive", "cosine")
JOINT_FUSIONS = ("film", "gated", "mlp")


def linear(n_in: int, n_out: int, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    """Linear layer with weights of variance ``gain ** 2 / n_in`` and no offset.

    torch's own start is smaller by the root of three, and costs accuracy in the few
    hundred steps that a small table gets.
    """
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(n_in))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(
    n_in: int,
    hidden: Sequence[int],
    n_out: int,
    dropout: float = 0.0,
    bias: bool = True,
    activation: str = "relu",
) -> nn.Sequential:
    """Linear layers of the given widths, activation and dropout between them."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [
            linear(n_in, width, gain=math.sqrt(2)),
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
        ]
        n_in = width
    layers.append(linear(n_in, n_out, bias=bias))
    return nn.Sequential(*layers)


class VectorEncoder(nn.Module):
    """Multilayer perceptron on the flattened block; linear without hidden layers."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        activation: str = "relu",
        bounded: bool = True,
    ):
        super().__init__()
        self.layers = mlp(n_in, hidden, n_out, dropout, activation=activation)
        if hidden and bounded:
            self.layers.append(nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``(B, *shape)`` to ``(B, D)``."""
        return self.layers(x.flatten(1))


class ImageEncoder(nn.Module):
    """Three strided 3 x 3 convolutions, pooled to 2 x 2 cells, then one linear layer.

    Group normalisation keeps rows independent of each other, which batch
    normalisation does not.
    """

    def __init__(
        self,
        shape: Sequence[int],
        n_out: int,
        channels: Sequence[int] = (16, 32, 64),
        dropout: float = 0.0,
        bounded: bool = True,
    ):
        super().__init__()
        n_channels = shape[0]
        layers: list[nn.Module] = []
        for i, width in enumerate(channels):
            # The first layer keeps the resolution: small pictures have few pixels.
            layers += [
                nn.Conv2d(n_channels, width, 3, stride=1 if i == 0 else 2, padding=1),
                nn.GroupNorm(4, width),
                nn.ReLU(),
            ]
            n_channels = width
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(4 * n_channels, n_out)
        self.squash = _squash(bounded)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``(B, C, H, W)`` to ``(B, D)``."""
        return self.squash(self.out(self.drop(self.layers(x))))


class SequenceEncoder(nn.Module):
    """1-D convolutions over time, averaged over the steps that are there.

    Padded steps are set to zero before each convolution, as its own border padding
    is, so that appending padding to a sequence changes nothing.
    """

    def __init__(
        self,
        shape: Sequence[int],
        n_out: int,
        channels: Sequence[int] = (32, 64),
        dropout: float = 0.0,
        bounded: bool = True,
    ):
        super().__init__()
        widths = [shape[1], *channels]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, 5, padding=2) for a, b in pairwise(widths)
        )
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(2 * widths[-1], n_out)
        self.squash = _squash(bounded)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        """Embed ``(B, T, D)`` with the mask ``(B, T)`` of real steps to ``(B, D)``."""
        mask = steps.unsqueeze(1).to(x.dtype)
        h = x.transpose(1, 2)
        for convolution in self.convolutions:
            h = torch.relu(convolution(h * mask))
        count = mask.sum(2).clamp_min(1)
        mean = (h * mask).sum(2) / count
        # ReLU output is non-negative, so zeros at padded steps never win.
        peak = (h * mask).amax(2)
        return self.squash(self.out(self.drop(torch.cat([mean, peak], dim=1))))


class AttentionEncoder(nn.Module):
    """A perceptron a time step, pooled by a learnt attention over the real steps."""

    def __init__(
        self,
        shape: Sequence[int],
        n_out: int,
        width: int = 64,
        dropout: float = 0.0,
        bounded: bool = True,
    ):
        super().__init__()
        self.step = nn.Sequential(
            nn.Linear(shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.attention = nn.Linear(width, 1, bias=False)  # softmax ignores shifts
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(width, n_out)
        self.squash = _squash(bounded)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        """Embed ``(B, T, D)`` with the mask ``(B, T)`` of real steps to ``(B, D)``."""
        h = self.step(x)
        score = self.attention(h).squeeze(-1)
        # A finite floor: a row without any real step gets a uniform mean, not NaN.
        score = score.masked_fill(~steps, torch.finfo(score.dtype).min / 2)
        share = torch.softmax(score, dim=1).unsqueeze(-1)
        return self.squash(self.out(self.drop((h * share).sum(1))))


def _squash(bounded: bool) -> nn.Module:
    return nn.Tanh() if bounded else nn.Identity()


def own_module(
    field: str, kind: Callable[..., nn.Module], shape: Sequence[int], size: int
) -> nn.Module:
    """A user's module, made by ``kind(shape, size)`` and checked to be one."""
    module = kind(tuple(shape), size)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"{field}: expected a class or function that returns a torch module, "
            f"but {kind!r} returned {type(module).__name__}."
        )
    return module


def build_encoder(
    kind: str | Callable[..., nn.Module],
    shape: Sequence[int],
    n_out: int,
    hidden: Sequence[int],
    dropout: float,
    activation: str = "relu",
    bounded: bool = True,
) -> nn.Module:
    """Encoder of one modality.

    Parameters
    ----------
    kind : {"auto", "linear", "mlp", "conv", "attention"} or callable
        "auto" is "mlp" for vectors, "conv" for images and sequences. A callable is
        called as ``kind(shape, n_out)`` and returns a module.
    shape : sequence of int
        ``(d,)``, ``(C, H, W)`` or ``(T, D)``.
    n_out : int
        Size of the embedding.
    hidden : sequence of int
        Widths of the hidden layers of "mlp".
    dropout : float
    activation : {"relu", "tanh", "gelu"}, default="relu"
        Of "mlp".
    bounded : bool, default=True
        Whether tanh ends all but "linear" and callables.

    Returns
    -------
    Module
        Called with the block, and for ``(T, D)`` shapes, if its ``forward`` takes a
        second argument, with the mask of real time steps.

    Raises
    ------
    ValueError
        If the kind does not fit the shape.
    """
    if not isinstance(kind, str):
        return own_module("encoder", kind, shape, n_out)
    if kind == "auto":
        kind = "mlp" if len(shape) == 1 else "conv"
    n_in = int(torch.Size(shape).numel())
    if kind == "linear":
        return VectorEncoder(n_in, n_out)
    if kind == "mlp":
        return VectorEncoder(n_in, n_out, hidden, dropout, activation, bounded)
    if kind == "conv" and len(shape) == 3:
        return ImageEncoder(shape, n_out, dropout=dropout, bounded=bounded)
    if kind == "conv" and len(shape) == 2:
        return SequenceEncoder(shape, n_out, dropout=dropout, bounded=bounded)
    if kind == "attention" and len(shape) == 2:
        return AttentionEncoder(shape, n_out, dropout=dropout, bounded=bounded)
    raise ValueError(
        f"encoder: {kind!r} does not fit a block of shape {tuple(shape)}. Use "
        "'linear' or 'mlp' for any block, 'conv' for (C, H, W) and (T, D), "
        "'attention' for (T, D)."
    )


def takes_steps(module: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a module of a ``(T, D)`` block wants the mask of real time steps."""
    if len(shape) != 2:
        return False
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    arguments = inspect.signature(module.forward).parameters.values()
    return sum(p.kind in positional for p in arguments) >= 2


class AdditiveHead(nn.Module):
    """One linear or MLP map a modality (or one for all), with one class bias in all.

    Each modality's logits carry a share ``1 / M`` of the bias (Yu et al., 2026,
    App. B.1): the loss cannot tell whose it is.
    """

    def __init__(
        self,
        n_modalities: int,
        n_in: int,
        n_classes: int,
        hidden: Sequence[int] = (),
        shared: bool = False,
    ):
        super().__init__()
        self.n_modalities = n_modalities
        self.maps = nn.ModuleList(
            mlp(n_in, hidden, n_classes, bias=False)
            for _ in range(1 if shared else n_modalities)
        )
        self.bias = nn.Parameter(torch.zeros(n_classes))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map ``(M, B, D)`` to ``(M, B, C)``."""
        if len(self.maps) == 1:
            logits = self.maps[0](embeddings)
        else:
            logits = torch.stack(
                [f(z) for f, z in zip(self.maps, embeddings, strict=True)]
            )
        return logits + self.bias / self.n_modalities


class CosineHead(nn.Module):
    """Cosine of an embedding and learnt class vectors, over a temperature."""

    def __init__(
        self,
        n_modalities: int,
        n_in: int,
        n_classes: int,
        temperature: float = 0.07,
        shared: bool = False,
    ):
        super().__init__()
        self.temperature = temperature
        n_maps = 1 if shared else n_modalities
        self.vectors = nn.Parameter(torch.randn(n_maps, n_classes, n_in))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map ``(M, B, D)`` to ``(M, B, C)``."""
        z = nn.functional.normalize(embeddings, dim=-1)
        v = nn.functional.normalize(self.vectors, dim=-1)
        return z @ v.transpose(1, 2) / self.temperature


class FilmHead(nn.Module):
    """The last modality scaled and shifted by the others, then classified.

    FiLM (Perez et al., AAAI 2018) for two modalities; with more, the sum of the
    others' linear maps conditions (ours). One modality alone is not conditioned.
    """

    def __init__(
        self, n_modalities: int, n_in: int, n_classes: int, hidden: Sequence[int] = ()
    ):
        super().__init__()
        self.condition = nn.ModuleList(
            nn.Linear(n_in, 2 * n_in) for _ in range(n_modalities - 1)
        )
        self.out = mlp(n_in, hidden, n_classes)

    def forward(self, embeddings: list[Tensor]) -> Tensor:
        """Map ``M`` tensors ``(N, D)`` to ``(N, C)``."""
        *others, h = embeddings
        if others:
            maps = zip(self.condition, others, strict=True)
            scale, shift = torch.stack([f(z) for f, z in maps]).sum(0).chunk(2, dim=1)
            h = scale * h + shift
        return self.out(h)


class GatedHead(nn.Module):
    """A product of gates from all modalities but the last, times the last.

    Gated fusion (Kiela et al., AAAI 2018) for two modalities; the product over more
    is ours.
    """

    def __init__(
        self, n_modalities: int, n_in: int, n_classes: int, hidden: Sequence[int] = ()
    ):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(n_in, n_in) for _ in range(n_modalities))
        self.out = mlp(n_in, hidden, n_classes)

    def forward(self, embeddings: list[Tensor]) -> Tensor:
        """Map ``M`` tensors ``(N, D)`` to ``(N, C)``."""
        *gates, h = [f(z) for f, z in zip(self.maps, embeddings, strict=True)]
        for gate in gates:
            h = torch.sigmoid(gate) * h
        return self.out(h)


class ConcatHead(nn.Module):
    """A multilayer perceptron on the concatenated embeddings."""

    def __init__(
        self, n_modalities: int, n_in: int, n_classes: int, hidden: Sequence[int] = ()
    ):
        super().__init__()
        self.layers = mlp(n_modalities * n_in, hidden, n_classes)

    def forward(self, embeddings: list[Tensor]) -> Tensor:
        """Map ``M`` tensors ``(N, D)`` to ``(N, C)``."""
        return self.layers(torch.cat(embeddings, dim=1))


def build_head(
    fusion: str,
    n_modalities: int,
    n_in: int,
    n_classes: int,
    hidden: Sequence[int] = (),
    shared: bool = False,
    temperature: float = 0.07,
) -> nn.Module:
    """Head by name: "additive", "cosine", "film", "gated" or "mlp"."""
    if fusion == "additive":
        return AdditiveHead(n_modalities, n_in, n_classes, hidden, shared)
    if fusion == "cosine":
        return CosineHead(n_modalities, n_in, n_classes, temperature, shared)
    joint = {"film": FilmHead, "gated": GatedHead, "mlp": ConcatHead}[fusion]
    return joint(n_modalities, n_in, n_classes, hidden)


class FusionNetwork(nn.Module):
    """One encoder a modality and a head: what the classifier trains.

    Parameters
    ----------
    encoders : list of Module
    shapes : list of tuple of int
        Shapes of the blocks, in the encoders' order.
    head : Module
    additive : bool
        Whether the head works a modality at a time.
    n_components : int, default=None
        Size that the embeddings must have; not checked by default.
    """

    def __init__(
        self,
        encoders: list[nn.Module],
        shapes: list[tuple[int, ...]],
        head: nn.Module,
        additive: bool,
        n_components: int | None = None,
    ):
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.n_components = n_components
        self.shapes = shapes
        self.head = head
        self.additive = additive
        self.with_steps = [
            takes_steps(e, s) for e, s in zip(encoders, shapes, strict=True)
        ]

    def embed(self, blocks: list[Tensor], steps: list[Tensor | None]) -> Tensor:
        """Embed blocks ``(B, d_m)`` to ``(M, B, D)``."""
        embeddings = []
        for m, (encoder, shape) in enumerate(
            zip(self.encoders, self.shapes, strict=True)
        ):
            x = blocks[m] if len(shape) == 1 else blocks[m].view(-1, *shape)
            z = encoder(x, steps[m]) if self.with_steps[m] else encoder(x)
            if self.n_components not in (None, z.shape[-1]) or z.dim() != 2:
                raise ValueError(
                    f"encoder: expected an embedding of shape (n, {self.n_components}) "
                    f"of blocks of shape {tuple(shape)}, got {tuple(z.shape)} from "
                    f"{type(encoder).__name__}."
                )
            embeddings.append(z)
        return torch.stack(embeddings)

    def forward(
        self,
        blocks: list[Tensor],
        steps: list[Tensor | None],
        observed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings ``(M, B, D)`` and, for additive heads, logits ``(M, B, C)``.

        Absent modalities are embedded too; what they give is the loss's business.
        """
        z = self.embed(blocks, steps)
        return z, self.head(z) if self.additive else None
