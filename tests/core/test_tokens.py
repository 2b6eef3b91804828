"""Tokens of blocks and attention against loops, in float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from skmm.core.tokens import (
    LEAST_SPREAD,
    PATCHES,
    Attention,
    PatchTokens,
    RefinerLayer,
    SequenceTokens,
    TokenPool,
    build_tokens,
    positions,
    segment_statistics,
)

SEEDS = range(4)
# Sums of some hundred float64 terms of size one.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
FEW = settings(max_examples=15)
seeds = st.integers(0, 10_000)


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def seeded(make, seed=0):
    """A module in float64 of which every parameter is drawn, offsets too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make().double().eval()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)
    return module


def some_steps(seed, n, n_steps):
    """Real steps first, at least one in each row; the first row is full."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, n_steps + 1, (n,), generator=generator)
    lengths[0] = n_steps
    return torch.arange(n_steps) < lengths[:, None]


class TestPositions:
    @pytest.mark.parametrize("width", [1, 4, 7])
    def test_formula(self, width):
        table = positions(9, width)
        assert table.shape == (9, width)
        for step, i in itertools.product(range(9), range(width)):
            angle = step / 10_000 ** (2 * (i // 2) / width)
            expected = math.cos(angle) if i % 2 else math.sin(angle)
            torch.testing.assert_close(float(table[step, i]), expected, **EXACT)

    def test_steps_differ_and_do_not_depend_on_their_number(self):
        table = positions(64, 8)
        assert torch.pdist(table).min() > 1e-2
        assert torch.equal(positions(5, 8), table[:5])


def loop_attention(layer, queries, keys, mask):
    """One query and head at a time, over the keys that are there and one of zeros."""
    d, h = queries.shape[-1], layer.n_heads
    size = d // h
    q = queries @ layer.query.weight.T + layer.query.bias
    kv = keys @ layer.key_value.weight.T + layer.key_value.bias
    out = torch.zeros_like(queries)
    for n, t in itertools.product(range(len(queries)), range(queries.shape[1])):
        seen = [i for i in range(keys.shape[1]) if mask[n, i]]
        for head in range(h):
            own = slice(head * size, (head + 1) * size)
            values = slice(d + head * size, d + (head + 1) * size)
            logits = [q[n, t, own] @ kv[n, i, own] / math.sqrt(size) for i in seen]
            total = 1 + sum(math.exp(logit) for logit in logits)
            for logit, i in zip(logits, seen, strict=True):
                out[n, t, own] += math.exp(logit) / total * kv[n, i, values]
    return out @ layer.out.weight.T + layer.out.bias


class TestAttention:
    @pytest.mark.parametrize("n_heads", [1, 2, 4])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_by_loop(self, seed, n_heads):
        layer = seeded(lambda: Attention(4, n_heads), seed)
        queries, keys = normal(3, 2, 4, seed=seed), normal(3, 5, 4, seed=seed + 1)
        mask = normal(3, 5, seed=seed + 2) > 0
        mask[1] = False
        with torch.no_grad():
            expected = loop_attention(layer, queries, keys, mask)
            torch.testing.assert_close(layer(queries, keys, mask), expected, **EXACT)

    @pytest.mark.parametrize("n_keys", [0, 3])
    def test_nothing_to_look_at(self, n_keys):
        layer = seeded(lambda: Attention(4, 2))
        queries, keys = normal(2, 3, 4), normal(2, n_keys, 4)
        queries.requires_grad_(), keys.requires_grad_()
        mask = torch.zeros(2, n_keys, dtype=torch.bool)
        out = layer(queries, keys, mask)
        # What comes of zeros: the offset of the last map.
        torch.testing.assert_close(out, layer.out.bias.expand_as(out), **EXACT)
        out.square().sum().backward()
        assert (queries.grad == 0).all()
        assert (keys.grad == 0).all()
        assert all(p.grad.isfinite().all() for p in layer.parameters())
        nn.init.zeros_(layer.out.bias)
        assert (layer(queries, keys, mask) == 0).all()

    @pytest.mark.parametrize("seed", SEEDS)
    def test_masked_keys_have_no_part(self, seed):
        layer = seeded(lambda: Attention(4, 2), seed)
        queries, keys = normal(3, 2, 4, seed=seed), normal(3, 5, 4, seed=seed + 1)
        mask = normal(3, 5, seed=seed + 2) > 0
        out = layer(queries, keys, mask)
        filled = torch.where(mask[..., None], keys, 1e3).requires_grad_()
        again = layer(queries, filled, mask)
        torch.testing.assert_close(again, out, **EXACT)
        again.square().sum().backward()
        assert (filled.grad[~mask] == 0).all()
        assert (filled.grad[mask] != 0).any()

    def test_gradients(self):
        layer = seeded(lambda: Attention(2, 1))
        mask = torch.tensor([[True, False, True], [False, False, False]])
        inputs = [
            v.requires_grad_() for v in (normal(2, 2, 2), normal(2, 3, 2, seed=1))
        ]
        assert torch.autograd.gradcheck(lambda q, k: layer(q, k, mask), inputs)

    def test_dropout_is_of_training(self):
        layer = seeded(lambda: Attention(4, 2, dropout=0.5))
        x, mask = normal(2, 6, 4), torch.ones(2, 6, dtype=torch.bool)
        assert torch.equal(layer(x, x, mask), layer(x, x, mask))
        layer.train()
        with torch.random.fork_rng():
            assert not torch.equal(layer(x, x, mask), layer(x, x, mask))


class TestRefinerLayer:
    @pytest.mark.parametrize("cross", [True, False])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_pre_norm_with_two_residuals(self, seed, cross):
        layer = seeded(lambda: RefinerLayer(4, 2), seed)
        x, other = normal(2, 3, 4, seed=seed), normal(2, 5, 4, seed=seed + 1)
        mask = torch.ones(2, 5 if cross else 3, dtype=torch.bool)
        mask[1, 1:] = False

        def norm(v, module):
            centred = v - v.mean(-1, keepdim=True)
            unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            return unit * module.weight + module.bias

        first, _, _, last = layer.perceptron
        with torch.no_grad():
            keys = norm(other, layer.keys_before) if cross else norm(x, layer.before)
            h = x + loop_attention(layer.attention, norm(x, layer.before), keys, mask)
            inner = norm(h, layer.between) @ first.weight.T + first.bias
            expected = h + inner.clamp_min(0) @ last.weight.T + last.bias
            found = layer(x, other if cross else None, mask)
        torch.testing.assert_close(found, expected, **EXACT)


def loop_statistics(h, steps, size):
    """Statistics of each segment of one row: ``h (F, T)``, ``steps (T,)``."""
    rows, there = [], []
    for start in range(0, h.shape[1], size):
        real = [
            h[:, t] for t in range(start, min(start + size, len(steps))) if steps[t]
        ]
        there.append(bool(real))
        if not real:
            rows.append(torch.zeros(4 * len(h)).double())
            continue
        values = torch.stack(real)
        spread = values.var(0, unbiased=False)
        parts = [values.mean(0), (spread + LEAST_SPREAD).log()]
        rows.append(torch.cat([*parts, values.amax(0), -values.amin(0)]))
    return torch.stack(rows), torch.tensor(there)


class TestStatistics:
    @FEW
    @given(seeds, st.integers(1, 9), st.integers(1, 10))
    def test_segments_as_a_loop(self, seed, n_steps, size):
        h, steps = normal(3, 2, n_steps, seed=seed), some_steps(seed, 3, n_steps)
        steps[1] = normal(n_steps, seed=seed) > 0  # with gaps, or nothing at all
        found, mask = segment_statistics(h, steps, size)
        assert found.shape == (3, math.ceil(n_steps / size), 8)
        for n in range(3):
            expected, there = loop_statistics(h[n], steps[n], size)
            torch.testing.assert_close(found[n], expected, **EXACT)
            assert torch.equal(mask[n], there)

    @pytest.mark.parametrize("size", [1, 2, 3])
    def test_no_gradient_at_padding(self, size):
        h, steps = normal(3, 2, 7).requires_grad_(), some_steps(1, 3, 7)
        found, mask = segment_statistics(h, steps, size)
        found[mask].sum().backward()
        assert h.grad.isfinite().all()
        assert (h.grad.mT[~steps] == 0).all()


class TestPool:
    @FEW
    @given(seeds, st.integers(2, 6))
    def test_starts_as_the_mean_and_maps_three_statistics(self, seed, n_tokens):
        pool = TokenPool(3).double()
        tokens, mask = normal(4, n_tokens, 3, seed=seed), some_steps(seed, 4, n_tokens)
        mask[1] = False
        start = pool(tokens, mask)
        nn.init.normal_(pool.map.weight)
        found = pool(tokens, mask)
        for n in range(4):
            real = tokens[n][mask[n]]
            if not len(real):
                assert (found[n] == 0).all()
                continue
            spread = (real.var(0, unbiased=False) + LEAST_SPREAD).sqrt()
            parts = torch.cat([real.mean(0), spread, real.amax(0)])
            torch.testing.assert_close(start[n], real.mean(0), **EXACT)
            torch.testing.assert_close(found[n], pool.map.weight @ parts, **EXACT)

    def test_one_token_is_passed_on(self):
        tokens = normal(2, 1, 3)
        found = seeded(lambda: TokenPool(3))(tokens, torch.tensor([[True], [False]]))
        assert torch.equal(found, tokens[:, 0])


class TestSequences:
    @pytest.mark.parametrize("n_tokens", [3, 32])
    @pytest.mark.parametrize("n_steps", [7, 20, 120])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_each_row_as_if_alone_and_not_padded(self, seed, n_steps, n_tokens):
        front = seeded(lambda: SequenceTokens((n_steps, 2), 4, 3, n_tokens, 5), seed)
        x, steps = normal(5, n_steps, 2, seed=seed), some_steps(seed, 5, n_steps)
        front(x, steps)  # moves the averages
        front.eval()
        tokens, mask = front(torch.where(steps[..., None], x, 1e3), steps)
        assert tokens.shape[1] <= n_tokens
        for n in range(5):
            length = int(steps[n].sum())
            h = torch.cat(
                [
                    F.conv1d(
                        F.pad(x[n, :length].mT, (c.dilation[0], c.dilation[0])),
                        c.weight,
                        c.bias,
                        front.stride,
                        dilation=c.dilation,
                    )
                    for c in front.filters
                ]
            )
            z, _ = loop_statistics(h, [True] * h.shape[1], front.size)
            norm = front.norm
            z = (z - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
            expected = z @ front.out.weight.T + front.out.bias
            torch.testing.assert_close(tokens[n][mask[n]], expected, **EXACT)
            assert (tokens[n][~mask[n]] == 0).all()

    def test_more_padding_changes_nothing(self):
        front = seeded(lambda: SequenceTokens((6, 2), 4, 5, 3))
        x, steps = normal(4, 6, 2), some_steps(0, 4, 6)
        tokens, mask = front(x, steps)
        longer = F.pad(x, (0, 0, 0, 5), value=9.0), F.pad(steps, (0, 5))
        more, more_mask = front(*longer)
        torch.testing.assert_close(more[:, :3], tokens, **EXACT)
        assert torch.equal(more_mask[:, :3], mask)
        assert not more_mask[:, 3:].any()
        assert (more[:, 3:] == 0).all()

    @pytest.mark.parametrize(
        ("n_steps", "n_tokens"), [(1, 32), (32, 32), (33, 32), (9, 2), (200, 8)]
    )
    def test_number_of_tokens(self, n_steps, n_tokens):
        front = seeded(
            lambda: build_tokens("conv", (n_steps, 2), 4, (), n_tokens=n_tokens)
        )
        x, steps = normal(2, n_steps, 2), torch.ones(2, n_steps, dtype=torch.bool)
        tokens, mask = front(x, steps)
        seen = math.ceil(n_steps / front.stride)
        assert tokens.shape == (2, math.ceil(seen / math.ceil(seen / n_tokens)), 4)
        assert mask.all()

    def test_wide_sequences_are_reduced_first(self):
        front = seeded(lambda: SequenceTokens((6, 50), 4))
        assert {layer.in_channels for layer in front.filters} == {4}
        assert front(normal(2, 6, 50), torch.ones(2, 6).bool())[0].isfinite().all()

    def test_row_without_steps_and_sequence_shorter_than_the_kernel(self):
        front = seeded(lambda: SequenceTokens((2, 3), 4, kernel_size=5))
        steps = torch.tensor([[True, True], [False, False]])
        tokens, mask = front(normal(2, 2, 3), steps)
        assert (tokens[1] == 0).all()
        assert torch.equal(mask, steps)
        assert tokens.isfinite().all()
        alone, _ = front(normal(1, 2, 3), torch.tensor([[True, False]]))
        assert alone.isfinite().all()  # a batch of one token


class TestPatches:
    @pytest.mark.parametrize(
        "shape", [(1, 1, 1), (1, 8, 8), (2, 9, 5), (1, 17, 13), (3, 7, 31), (1, 28, 28)]
    )
    def test_patches_cover_the_picture(self, shape):
        front = seeded(lambda: PatchTokens(shape, 4))
        for parameter in front.parameters():
            nn.init.uniform_(parameter, 0.1, 1.0)  # so that no rectifier is off
        x = normal(2, *shape).abs().requires_grad_()
        tokens, mask = front(x, None)
        assert mask is None
        rows, columns = (math.ceil(s / math.ceil(s / PATCHES)) for s in shape[1:])
        assert tokens.shape == (2, rows * columns, 4)
        assert max(rows, columns) <= PATCHES
        tokens.sum().backward()
        assert (x.grad > 0).all()

    @pytest.mark.parametrize("shape", [(1, 9, 5), (2, 17, 13)])
    def test_each_token_by_loop(self, shape):
        front = seeded(lambda: PatchTokens(shape, 3))
        x = normal(1, *shape)
        tokens, _ = front(x, None)
        p, q = (math.ceil(s / PATCHES) for s in shape[1:])
        look = F.conv2d(
            F.pad(x, (1, 1 + q, 1, 1 + p)), front.look.weight, front.look.bias
        )
        look = look.relu()[0]
        columns = math.ceil(shape[2] / q)
        for t in range(tokens.shape[1]):
            r, c = divmod(t, columns)
            patch = look[:, r * p : (r + 1) * p, c * q : (c + 1) * q]
            expected = (front.cut.weight * patch).sum((1, 2, 3)) + front.cut.bias
            torch.testing.assert_close(tokens[0, t], expected, **EXACT)


class Twice(nn.Module):
    """A user's encoder: two tokens a block."""

    def __init__(self, shape, n_out):
        super().__init__()
        self.n_out = n_out

    def forward(self, x):
        """The mean, and twice it."""
        mean = x.flatten(1).mean(1, keepdim=True).expand(-1, self.n_out)
        return torch.stack([mean, 2 * mean], 1)


class Wrong(Twice):
    """Of another width."""

    def forward(self, x):
        """One number too many."""
        return x.new_zeros(len(x), self.n_out + 1)


class LastStep(Twice):
    """One that wants the mask of the real steps."""

    def forward(self, x, steps):
        """The sum over the real steps of the first column."""
        total = (x[..., :1] * steps[..., None]).sum(1)
        return total.expand(-1, self.n_out)


KINDS = [
    ("auto", (5,)),
    ("linear", (5,)),
    ("mlp", (2, 4, 3)),
    ("auto", (2, 9, 5)),
    ("auto", (6, 3)),
    ("linear", (6, 3)),
    (Twice, (5,)),
    (LastStep, (6, 3)),
]


class TestBuild:
    @pytest.mark.parametrize(("kind", "shape"), KINDS)
    def test_rows_do_not_depend_on_each_other(self, kind, shape):
        front = seeded(lambda: build_tokens(kind, shape, 4, (7,), dropout=0.5))
        x = normal(5, *shape)
        steps = some_steps(0, 5, shape[0]) if len(shape) == 2 else None
        tokens, mask = front(x, steps)
        assert tokens.shape[0] == 5
        assert tokens.shape[2] == 4
        assert tokens.isfinite().all()
        order = torch.tensor([3, 0, 4, 1])
        some, some_mask = front(x[order], None if steps is None else steps[order])
        torch.testing.assert_close(some, tokens[order], **EXACT)
        assert mask is None or torch.equal(some_mask, mask[order])

    def test_kinds(self):
        def kind(*arguments):
            return type(seeded(lambda: build_tokens(*arguments, 4, ())))

        assert kind("auto", (6, 3)) is kind("conv", (6, 3)) is SequenceTokens
        assert kind("auto", (1, 6, 3)) is kind("conv", (1, 6, 3)) is PatchTokens
        x = normal(3, 2, 2)
        flat = seeded(lambda: build_tokens("linear", (2, 2), 4, (9,)))
        tokens, _ = flat(x, torch.ones(3, 2, dtype=torch.bool))
        (weight, bias) = flat.encoder.parameters()
        expected = x.flatten(1) @ weight.T + bias
        torch.testing.assert_close(tokens[:, 0], expected, **EXACT)

    def test_users_encoders(self):
        x = normal(3, 5)
        tokens, _ = build_tokens(Twice, (5,), 4, ())(x, None)
        torch.testing.assert_close(tokens[:, 1], 2 * tokens[:, 0])
        x, steps = normal(3, 6, 2), some_steps(2, 3, 6)
        tokens, _ = build_tokens(LastStep, (6, 2), 4, ())(x, steps)
        filled = torch.where(steps[..., None], x, 99.0)
        again, _ = build_tokens(LastStep, (6, 2), 4, ())(filled, steps)
        torch.testing.assert_close(again, tokens)

    def test_errors(self):
        with pytest.raises(
            ValueError,
            match=r"encoder: expected output of shape \(n, 4\) or \(n, n_tokens, 4\) "
            r"of n = 3 blocks, got \(3, 5\) from Wrong",
        ):
            build_tokens(Wrong, (5,), 4, ())(normal(3, 5), None)
        with pytest.raises(
            ValueError, match=r"'conv' does not fit a block of shape \(5,\)"
        ):
            build_tokens("conv", (5,), 4, ())

    def test_dropout_is_of_training(self):
        for kind, shape in KINDS[2:5]:
            front = seeded(lambda kind=kind, shape=shape: build_tokens(
                kind, shape, 4, (9,), dropout=0.5
            ))  # fmt: skip
            steps = torch.ones(4, shape[0], dtype=torch.bool)
            x = normal(4, *shape)
            assert torch.equal(front(x, steps)[0], front(x, steps)[0])
            front.train()
            with torch.random.fork_rng():
                assert not torch.equal(front(x, steps)[0], front(x, steps)[0])
