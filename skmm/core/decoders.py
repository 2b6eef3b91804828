"""Decoders by block shape: from a code to the parameters of a likelihood.

A decoder maps codes ``(N, D)`` to ``(N, *shape)``, one number a cell and no squashing
at the end: what the numbers mean is the likelihood's business. The mirror images of
the encoders in `networks`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from skmm.core.networks import linear, mlp, own_module

DECODERS = ("auto", "linear", "mlp", "conv")


class VectorDecoder(nn.Module):
    """Multilayer perceptron to the flat block; linear without hidden layers."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        activation: str = "relu",
    ):
        super().__init__()
        self.layers = mlp(n_in, hidden, n_out, dropout, activation=activation)

    def forward(self, z: Tensor) -> Tensor:
        """Decode ``(N, D)`` to ``(N, d)``."""
        return self.layers(z)


class ImageDecoder(nn.Module):
    """A linear layer to a grid of a quarter of the size, doubled twice.

    Transposed convolutions of 4 x 4 and stride 2: each output pixel sees as many
    inputs as its neighbours. What overlaps the picture's edge is cut off.
    """

    def __init__(
        self,
        n_in: int,
        shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        dropout: float = 0.0,
    ):
        super().__init__()
        n_channels, self.height, self.width = shape
        rows, columns = -(-self.height // 4), -(-self.width // 4)
        first, second = channels
        self.layers = nn.Sequential(
            linear(n_in, first * rows * columns),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Unflatten(1, (first, rows, columns)),
            nn.ConvTranspose2d(first, second, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(second, n_channels, 4, 2, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Decode ``(N, D)`` to ``(N, C, H, W)``."""
        return self.layers(z)[:, :, : self.height, : self.width]


class SequenceDecoder(nn.Module):
    """A linear layer to a quarter of the time steps, doubled twice."""

    def __init__(
        self,
        n_in: int,
        shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        dropout: float = 0.0,
    ):
        super().__init__()
        self.n_steps, n_variables = shape
        steps = -(-self.n_steps // 4)
        first, second = channels
        self.layers = nn.Sequential(
            linear(n_in, first * steps),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Unflatten(1, (first, steps)),
            nn.ConvTranspose1d(first, second, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose1d(second, n_variables, 4, 2, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Decode ``(N, D)`` to ``(N, T, V)``."""
        return self.layers(z)[:, :, : self.n_steps].transpose(1, 2)


def build_decoder(
    kind: str | Callable[..., nn.Module],
    shape: Sequence[int],
    n_in: int,
    hidden: Sequence[int],
    dropout: float = 0.0,
    activation: str = "relu",
) -> nn.Module:
    """Decoder of one modality.

    Parameters
    ----------
    kind : {"auto", "linear", "mlp", "conv"} or callable
        "auto" is "mlp" for vectors, "conv" for images and sequences. A callable is
        called as ``kind(shape, n_in)`` and returns a module from ``(N, n_in)`` to
        ``(N, *shape)``, flat or not.
    shape : sequence of int
        ``(d,)``, ``(C, H, W)`` or ``(T, V)``.
    n_in : int
        Size of the code.
    hidden : sequence of int
        Widths of the hidden layers of "mlp", from the code on.
    dropout : float, default=0.0
    activation : {"relu", "tanh", "gelu"}, default="relu"
        Of "mlp".

    Returns
    -------
    Module

    Raises
    ------
    ValueError
        If the kind does not fit the shape.
    """
    if not isinstance(kind, str):
        return own_module("decoder", kind, shape, n_in)
    if kind == "auto":
        kind = "mlp" if len(shape) == 1 else "conv"
    n_out = int(torch.Size(shape).numel())
    if kind == "linear":
        return VectorDecoder(n_in, n_out)
    if kind == "mlp":
        return VectorDecoder(n_in, n_out, hidden, dropout, activation)
    if kind == "conv" and len(shape) == 3:
        return ImageDecoder(n_in, shape, dropout=dropout)
    if kind == "conv" and len(shape) == 2:
        return SequenceDecoder(n_in, shape, dropout=dropout)
    raise ValueError(
        f"decoder: {kind!r} does not fit a block of shape {tuple(shape)}. Use "
        "'linear' or 'mlp' for any block, 'conv' for (C, H, W) and (T, V)."
    )
