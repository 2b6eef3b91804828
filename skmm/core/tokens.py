"""Front ends: from a block of any shape to tokens of one width, and their refinement.

A front end maps a block ``(n, *shape)`` to tokens ``(n, T, d)`` and a mask ``(n, T)``
of those that are real, or None where all are. A vector is one token, a picture a token
a patch, a sequence a token a time step (or a few). No row's tokens depend on another
row.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skmm.core.networks import build_encoder, linear, own_module, takes_steps

TOKENS = ("auto", "linear", "mlp", "conv")
# Pictures are cut into at most this many patches a side.
PATCHES = 8


class OneToken(nn.Module):
    """An encoder to a vector, as a front end with one token."""

    def __init__(self, encoder: nn.Module, shape: Sequence[int], n_out: int):
        super().__init__()
        self.encoder, self.n_out = encoder, n_out
        self.with_steps = takes_steps(encoder, shape)

    def forward(self, x: Tensor, steps: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens of ``(n, *shape)``: one a row, or those of an encoder that gives more.

        Raises
        ------
        ValueError
            If a user's encoder gives another width.
        """
        out = self.encoder(x, steps) if self.with_steps else self.encoder(x)
        z = out.unsqueeze(1) if out.dim() == 2 else out
        if z.dim() != 3 or len(z) != len(x) or z.shape[-1] != self.n_out:
            raise ValueError(
                f"encoder: expected output of shape (n, {self.n_out}) or "
                f"(n, n_tokens, {self.n_out}) of n = {len(x)} blocks, got "
                f"{tuple(out.shape)} from {type(self.encoder).__name__}."
            )
        return z, None


class SequenceTokens(nn.Module):
    """Convolutions over time, then the mean of neighbouring steps.

    Padded steps are zero before each convolution and have no part in a mean, so that
    padding changes nothing but the number of tokens that are masked.

    Parameters
    ----------
    shape : (T, D)
    n_out : int
    kernel_size : int
        Odd.
    n_layers : int
    n_tokens : int
        Largest number of tokens.
    dropout : float
    """

    def __init__(
        self,
        shape: Sequence[int],
        n_out: int,
        kernel_size: int = 5,
        n_layers: int = 1,
        n_tokens: int = 32,
        dropout: float = 0.0,
    ):
        super().__init__()
        widths = [shape[1], *[n_out] * n_layers]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, kernel_size, padding=kernel_size // 2)
            for a, b in pairwise(widths)
        )
        self.pool = math.ceil(shape[0] / n_tokens)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, steps: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens of ``(n, T, D)`` with the mask ``(n, T)`` of real steps."""
        assert steps is not None
        mask = steps.unsqueeze(1).to(x.dtype)
        h = x.mT
        for i, convolution in enumerate(self.convolutions):
            h = convolution((torch.relu(h) if i else h) * mask)
        return pool_steps(self.drop(h.mT), steps, self.pool)


def pool_steps(h: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Means of `size` neighbouring steps, over those that are real."""
    if size == 1:
        return h * steps.unsqueeze(-1), steps
    extra = -h.shape[1] % size
    h = F.pad(h * steps.unsqueeze(-1), (0, 0, 0, extra)).unflatten(1, (-1, size))
    there = F.pad(steps, (0, extra)).unflatten(1, (-1, size))
    count = there.sum(-1, keepdim=True).clamp_min(1).to(h.dtype)
    return h.sum(2) / count, there.any(-1)


class PatchTokens(nn.Module):
    """A token a patch: two convolutions of which the second has the patch's stride.

    Parameters
    ----------
    shape : (C, H, W)
    n_out : int
    dropout : float
    """

    def __init__(self, shape: Sequence[int], n_out: int, dropout: float = 0.0):
        super().__init__()
        n_channels, height, width = shape
        patch = (math.ceil(height / PATCHES), math.ceil(width / PATCHES))
        self.padding = [0, -width % patch[1], 0, -height % patch[0]]
        self.look = nn.Conv2d(n_channels, n_out, 3, padding=1)
        self.cut = nn.Conv2d(n_out, n_out, patch, stride=patch)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, steps: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens of ``(n, C, H, W)``."""
        h = torch.relu(self.look(F.pad(x, self.padding)))
        return self.drop(self.cut(h).flatten(2).mT), None


def build_tokens(
    kind: str | Callable[..., nn.Module],
    shape: Sequence[int],
    n_out: int,
    hidden: Sequence[int],
    dropout: float = 0.0,
    activation: str = "relu",
    kernel_size: int = 5,
    n_tokens: int = 32,
    bounded: bool = True,
) -> nn.Module:
    """Front end of one modality.

    Parameters
    ----------
    kind : {"auto", "linear", "mlp", "conv"} or callable
        "auto" is "mlp" for vectors, "conv" for images and sequences. "linear" and
        "mlp" make one token of the flat block. A callable is called as
        ``kind(shape, n_out)``; its module gives ``(n, n_out)`` or
        ``(n, n_tokens, n_out)``.
    shape : sequence of int
        ``(d,)``, ``(C, H, W)`` or ``(T, D)``.
    n_out : int
        Width of the tokens.
    hidden : sequence of int
        Hidden layers of "mlp".
    dropout : float, default=0.0
    activation : {"relu", "tanh", "gelu"}, default="relu"
        Of "mlp".
    kernel_size : int, default=5
        Of sequences.
    n_tokens : int, default=32
        Largest number of tokens of a sequence.
    bounded : bool, default=True
        Whether tanh ends "mlp".

    Returns
    -------
    Module
        Called with the block and the mask of its real time steps or None.

    Raises
    ------
    ValueError
        If the kind does not fit the shape.
    """
    if not isinstance(kind, str):
        return OneToken(own_module("encoder", kind, shape, n_out), shape, n_out)
    if kind == "auto":
        kind = "mlp" if len(shape) == 1 else "conv"
    if kind == "conv" and len(shape) == 2:
        return SequenceTokens(shape, n_out, kernel_size, 1, n_tokens, dropout)
    if kind == "conv" and len(shape) == 3:
        return PatchTokens(shape, n_out, dropout)
    encoder = build_encoder(kind, shape, n_out, hidden, dropout, activation, bounded)
    return OneToken(encoder, shape, n_out)


def positions(n_steps: int, width: int) -> Tensor:
    """Sines and cosines of the steps' numbers, ``(n_steps, width)``.

    As in the transformer of Vaswani et al. (2017).
    """
    step = torch.arange(n_steps, dtype=torch.float64).unsqueeze(1)
    even = torch.arange(0, width, 2, dtype=torch.float64)
    angle = step * torch.exp(-math.log(1e4) * even / width)
    table = torch.zeros(n_steps, width, dtype=torch.float64)
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()[:, : width // 2]
    return table


class Attention(nn.Module):
    """Multi-head attention in which a query may look at nothing.

    One key of zeros with a value of zeros is always there: a row whose keys are all
    masked gets the output's offset, and not NaN.

    Parameters
    ----------
    width, n_heads : int
    dropout : float
    """

    def __init__(self, width: int, n_heads: int, dropout: float = 0.0):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.query = linear(width, width)
        self.key_value = linear(width, 2 * width)
        self.out = linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Attend from ``(N, T, d)`` to ``(N, L, d)``, those of the mask ``(N, L)``."""
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for part in (
                self.query(queries),
                *self.key_value(F.pad(keys, (0, 0, 0, 1))).chunk(2, -1),
            )
        )
        seen = F.pad(mask, (0, 1), value=True)[:, None, None]
        # The offset of the projection must not make something of the key of zeros.
        there = F.pad(torch.ones_like(mask), (0, 1), value=False)[:, None, :, None]
        k, v = torch.where(there, k, 0), torch.where(there, v, 0)
        share = self.dropout if self.training else 0.0
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=share)
        return self.out(h.transpose(1, 2).flatten(2))


class RefinerLayer(nn.Module):
    """Attention and a perceptron, each added to its normalised input (pre-norm)."""

    def __init__(self, width: int, n_heads: int, dropout: float = 0.0):
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.keys_before = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads, dropout)
        self.between = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            linear(width, 2 * width, gain=math.sqrt(2)),
            nn.ReLU(),
            nn.Dropout(dropout),
            linear(2 * width, width),
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor | None, mask: Tensor) -> Tensor:
        """Refine ``(N, T, d)`` by keys ``(N, L, d)``, or by itself without keys."""
        q = self.before(x)
        k = q if keys is None else self.keys_before(keys)
        x = x + self.drop(self.attention(q, k, mask))
        return x + self.drop(self.perceptron(self.between(x)))
