"""Front ends: from a block of any shape to tokens of one width, and their refinement.

A front end maps a block ``(n, *shape)`` to tokens ``(n, T, d)`` and a mask ``(n, T)``
of those that are real, or None where all are. A vector is one token, a picture a token
a patch, a sequence a token a stretch of time. No row's tokens depend on another
row.
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skmm.core.networks import build_encoder, linear, own_module, takes_steps

TOKENS = ("auto", "linear", "mlp", "conv")
# Of the filters over time; those that reach beyond a sequence are left out.
DILATIONS = (1, 2, 4, 8, 16)
# Sequences of so many steps are filtered at every second step.
LONG = 100
# Variances are compared with this: a constant segment has a logarithm.
LEAST_SPREAD = 1e-3
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

        With as many tokens as time steps, those of padded steps are masked.

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
        # A token a time step: padded ones are padded tokens.
        a_step = steps is not None and z.shape[1] == steps.shape[1] > 1
        return z, steps if a_step else None


class SequenceTokens(nn.Module):
    """Statistics of filtered segments: a few tokens for a whole sequence.

    Filters of several dilations run over time. In each segment the mean, the log of
    the variance, the largest and the least value of each make one token, standardised
    over the real tokens of the batch, in prediction by averages of training. Padded
    steps are zero before the filters and have no part in a statistic, so that padding
    changes nothing but the number of tokens that are masked.

    Parameters
    ----------
    shape : (T, D)
    n_out : int
    kernel_size : int
        Odd.
    n_tokens : int
        Largest number of segments.
    n_filters : int
        Of each dilation.
    dropout : float
    """

    def __init__(
        self,
        shape: Sequence[int],
        n_out: int,
        kernel_size: int = 9,
        n_tokens: int = 8,
        n_filters: int = 25,
        dropout: float = 0.0,
    ):
        super().__init__()
        n_steps, n_variables = shape
        self.reduce: nn.Module = nn.Identity()
        if n_variables > n_out:
            self.reduce = linear(n_variables, n_out, bias=False)
            n_variables = n_out
        self.stride = 2 if n_steps >= LONG else 1
        # At least one; a filter should see both its ends.
        reach = kernel_size - 1
        dilations = [d for d in DILATIONS if d == 1 or d * reach < n_steps]
        self.filters = nn.ModuleList(
            nn.Conv1d(
                n_variables,
                n_filters,
                kernel_size,
                self.stride,
                d * (kernel_size // 2),
                d,
            )
            for d in dilations
        )
        for layer in self.filters:
            _unit_filters(cast(nn.Conv1d, layer))
        self.size = math.ceil(math.ceil(n_steps / self.stride) / n_tokens)
        n_statistics = 4 * n_filters * len(dilations)
        self.norm = nn.BatchNorm1d(n_statistics, affine=False)
        self.drop = nn.Dropout(dropout)
        self.out = linear(n_statistics, n_out)

    def forward(self, x: Tensor, steps: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens of ``(n, T, D)`` with the mask ``(n, T)`` of real steps."""
        assert steps is not None
        x = (self.reduce(x) * steps.unsqueeze(-1)).mT
        h = torch.cat([layer(x) for layer in self.filters], 1)
        z, there = segment_statistics(h, steps[:, :: self.stride], self.size)
        found = z[there]
        # One token alone has no spread.
        fixed = not self.training or len(found) < 2
        norm = self.norm
        if not fixed:
            cast(Tensor, norm.num_batches_tracked).add_(1)
        # The mean of the first batches, then one that forgets: few steps are enough.
        momentum = max(0.1, 1 / max(int(cast(Tensor, norm.num_batches_tracked)), 1))
        standard = F.batch_norm(
            found,
            norm.running_mean,
            norm.running_var,
            training=not fixed,
            momentum=momentum,
            eps=norm.eps,
        )
        tokens = self.out(self.drop(standard))
        empty = tokens.new_zeros(*there.shape, tokens.shape[-1])
        return empty.masked_scatter(there.unsqueeze(-1), tokens), there


def _unit_filters(layer: nn.Conv1d) -> None:
    """Filters of unit norm with random offsets, so that they differ from the start."""
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.normal_()
        layer.weight /= layer.weight.norm(dim=(1, 2), keepdim=True)
        layer.bias.normal_()


def segment_statistics(h: Tensor, steps: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean, log-variance, largest and negative least value in segments of time.

    Parameters
    ----------
    h : Tensor of shape (n, F, T)
    steps : bool Tensor of shape (n, T)
        The real steps.
    size : int
        Steps of a segment; the last one may be shorter.

    Returns
    -------
    statistics : Tensor of shape (n, S, 4 F)
        Zero in segments without a real step.
    there : bool Tensor of shape (n, S)
    """
    extra = -h.shape[2] % size
    h = F.pad(h, (0, extra)).unflatten(2, (-1, size))
    real = F.pad(steps, (0, extra)).unflatten(1, (-1, size))
    there, mask = real.any(-1), real.unsqueeze(1)
    count = mask.sum(-1).clamp_min(1).to(h.dtype)
    mean = torch.where(mask, h, 0).sum(-1) / count
    spread = torch.where(mask, h - mean.unsqueeze(-1), 0).square().sum(-1) / count
    top = h.masked_fill(~mask, -math.inf).amax(-1)
    bottom = (-h).masked_fill(~mask, -math.inf).amax(-1)
    parts = [mean, torch.log(spread + LEAST_SPREAD), top, bottom]
    statistics = torch.cat(parts, 1).mT
    return torch.where(there.unsqueeze(-1), statistics, 0), there


class OnlyToken(nn.Module):
    """The token of front ends that give one."""

    def __init__(self, width: int):
        super().__init__()

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Pool ``(N, 1, d)`` to ``(N, d)``."""
        return tokens[:, 0]


class TokenPool(nn.Module):
    """A linear map of mean, spread and largest value over the real tokens.

    It starts as the mean. A single token is passed on as it is.
    """

    def __init__(self, width: int):
        super().__init__()
        self.map = nn.Linear(3 * width, width, bias=False)
        with torch.no_grad():
            self.map.weight.zero_()
            self.map.weight[:, :width] = torch.eye(width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Pool ``(N, T, d)`` to ``(N, d)``; zeros where there is no real token."""
        if tokens.shape[1] == 1:
            return tokens[:, 0]
        there = mask.unsqueeze(-1)
        count = there.sum(1).clamp_min(1)
        mean = torch.where(there, tokens, 0).sum(1) / count
        centred = torch.where(there, tokens - mean.unsqueeze(1), 0)
        spread = torch.sqrt(centred.square().sum(1) / count + LEAST_SPREAD)
        top = tokens.masked_fill(~there, -math.inf).amax(1)
        some = mask.any(1, keepdim=True)
        parts = torch.cat([mean, spread, torch.where(some, top, 0)], 1)
        return torch.where(some, self.map(parts), 0)


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
    kernel_size: int = 9,
    n_tokens: int = 8,
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
    kernel_size : int, default=9
        Of sequences.
    n_tokens : int, default=8
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
    if kind == "conv" and len(shape) == 1:
        raise ValueError(
            f"encoder: 'conv' does not fit a block of shape {tuple(shape)}. Use "
            "'linear' or 'mlp', or give the Modality a shape (T, D) or (C, H, W)."
        )
    if kind == "conv" and len(shape) == 2:
        return SequenceTokens(shape, n_out, kernel_size, n_tokens, dropout=dropout)
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
