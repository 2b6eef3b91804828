"""Losses of decoupling and alignment against loops over rows, in float64.

`naive_*` write the formulas out over pairs of rows and of modalities; the presets at
the end put them together to the objectives of the paper and of its published code.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import root
from scipy.special import logsumexp
from scipy.stats import skew
from torch.nn.functional import cosine_similarity

from skmm.core import alignment
from skmm.core.alignment import (
    OCTAVES,
    decoupling,
    kernel_widths,
    mmd,
    moment_distance,
    pooled_scale,
    prototype_pull,
    row_mean,
    shares,
    squared_distances,
    supervised_contrastive,
)
from skmm.core.decalign import (
    DecAlignNetwork,
    Memory,
    ModalityPart,
    Parts,
    Settings,
    alignment_terms,
)
from skmm.core.prototypes import Prototypes, row_start
from skmm.core.tokens import build_tokens

SEEDS = range(4)
# Sums of some hundred float64 terms of size ten.
EXACT = {"rtol": 1e-11, "atol": 1e-11}
FEW = settings(max_examples=15)
seeds = st.integers(0, 10_000)


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def permutation(n, seed=0):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def ones(*size):
    return torch.ones(size, dtype=torch.float64)


def some_weight(seed, m, n):
    """Positive weights, with a third of the rows absent, never the first three."""
    weight = normal(m, n, seed=seed).abs() + 0.1
    weight[normal(m, n, seed=seed + 1) < -0.4] = 0
    weight[:, :3] = weight[:, :3].clamp_min(0.5)
    return weight


def gradient(value, x):
    return torch.autograd.grad(value, x)[0]


def average(values, weight):
    """Weighted mean over the first axis."""
    total = sum(float(w) for w in weight)
    return sum(float(w) * v for w, v in zip(weight, values, strict=True)) / total


def with_garbage(x, weight):
    """Absent rows hold large numbers."""
    return torch.where(weight[..., None] > 0, x, 1e3 * (1 + normal(*x.shape, seed=77)))


class TestMeans:
    @FEW
    @given(seeds)
    def test_shares_and_row_mean(self, seed):
        weight, values = some_weight(seed, 3, 7), normal(3, 7, seed=seed)
        weight[1] = 0
        share, active = shares(weight)
        assert active.tolist() == [True, False, True]
        torch.testing.assert_close(share.sum(1), torch.tensor([1.0, 0, 1]).double())
        expected = 0.5 * sum(average(values[m], weight[m]) for m in (0, 2))
        values[weight == 0] = math.nan
        torch.testing.assert_close(row_mean(values, weight), expected, **EXACT)
        assert row_mean(values, torch.zeros_like(weight)) == 0

    @FEW
    @given(seeds)
    def test_pooled_scale_is_the_root_mean_variance(self, seed):
        weight, x = some_weight(seed, 3, 7), normal(3, 7, 2, seed=seed)
        weight[1] = 0
        total = sum(
            np.trace(np.cov(x[m].T.numpy(), aweights=weight[m].numpy(), ddof=0)) / 2
            for m in (0, 2)
        )
        found = pooled_scale(with_garbage(x, weight), weight)
        torch.testing.assert_close(float(found), math.sqrt(total / 2), **EXACT)
        torch.testing.assert_close(pooled_scale(5 * x, weight), 5 * found, **EXACT)

    def test_pooled_scale_of_equal_rows_is_one(self):
        x = ones(2, 4, 3).requires_grad_()
        scale = pooled_scale(x, ones(2, 4))
        assert scale == 1
        assert gradient(scale, x).isfinite().all()

    @FEW
    @given(seeds)
    def test_squared_distances(self, seed):
        x, y = normal(4, 3, seed=seed), normal(5, 3, seed=seed + 1)
        found = squared_distances(x, y)
        for i, j in itertools.product(range(4), range(5)):
            torch.testing.assert_close(found[i, j], ((x[i] - y[j]) ** 2).sum(), **EXACT)
        assert (squared_distances(1e6 + x, 1e6 + x) >= 0).all()


# ---------------------------------------------------------------------- decoupling


def naive_decoupling(s, c, weight, form):
    values = []
    for m in range(len(s)):
        if not weight[m].sum():
            continue
        cosines = [
            float(cosine_similarity(*pair, 0)) for pair in zip(s[m], c[m], strict=True)
        ]
        power = 2 if form == "squared" else 1
        values.append(average([v**power for v in cosines], weight[m]))
    return sum(values) / len(values)


class TestDecoupling:
    @pytest.mark.parametrize("form", ["squared", "plain"])
    @FEW
    @given(seeds)
    def test_by_loop(self, form, seed):
        s, c = normal(2, 3, 6, 4, seed=seed)
        weight = some_weight(seed, 3, 6)
        if seed % 2:
            weight[2] = 0
        expected = naive_decoupling(s, c, weight, form)
        found = decoupling(s, c, weight, form)
        torch.testing.assert_close(float(found), expected, **EXACT)
        assert (0 if form == "squared" else -1) <= found <= 1
        scale = 0.1 + normal(3, 6, 1, seed=seed).abs()
        torch.testing.assert_close(decoupling(scale * s, 7 * c, weight, form), found)

    def test_squared_is_the_default(self):
        s, c = normal(2, 2, 5, 3)
        squared = decoupling(s, c, ones(2, 5), "squared")
        assert decoupling(s, c, ones(2, 5)) == squared

    def test_orthogonal_parallel_and_opposite(self):
        s, weight = normal(2, 5, 4), ones(2, 5)
        turned = torch.cat([-s[..., 2:], s[..., :2]], -1)
        for form, sign in (("squared", 1.0), ("plain", -1.0)):
            torch.testing.assert_close(
                float(decoupling(s, turned, weight, form)), 0.0, rtol=0, atol=1e-15
            )
            torch.testing.assert_close(float(decoupling(s, 3 * s, weight, form)), 1.0)
            torch.testing.assert_close(float(decoupling(s, -2 * s, weight, form)), sign)

    @pytest.mark.parametrize("form", ["squared", "plain"])
    def test_absent_rows(self, form):
        s, c = normal(2, 2, 6, 3)
        weight = some_weight(3, 2, 6)
        weight[:, -1] = 0
        expected = decoupling(s, c, weight, form)
        for fill in (0.0, 1e3):
            there = weight[..., None] > 0
            a, b = (torch.where(there, v, fill).requires_grad_() for v in (s, c))
            value = decoupling(a, b, weight, form)
            torch.testing.assert_close(value, expected, **EXACT)
            for slope in torch.autograd.grad(value, [a, b]):
                assert (slope[weight == 0] == 0).all()
                assert (slope[weight > 0] != 0).all()

    @pytest.mark.parametrize("form", ["squared", "plain"])
    def test_gradients(self, form):
        s, c = (v.requires_grad_() for v in normal(2, 2, 4, 3))
        weight = some_weight(1, 2, 4)
        assert torch.autograd.gradcheck(
            lambda s, c: decoupling(s, c, weight, form), (s, c)
        )


# ------------------------------------------------------------------------- moments


def naive_moments(
    x, weight, moments=alignment.MOMENTS, reduction="mean", correction=0,
    least=1e-3, relative=True,
):  # fmt: skip
    """Of tensors, differentiable, in loops over modalities and pairs."""
    found = []
    for own, w in zip(x, weight, strict=True):
        there = w > 0
        own, w = own[there], w[there]
        n = len(own)
        if n < 2:
            continue
        mean = sum(wi * row for wi, row in zip(w, own, strict=True)) / w.sum()
        centred = [row - mean for row in own]
        cov = sum(wi * torch.outer(c, c) for wi, c in zip(w, centred, strict=True))
        cov = cov / w.sum()
        var = cov.diagonal()
        third = sum(wi * c**3 for wi, c in zip(w, centred, strict=True)) / w.sum()
        floor = least * float(var.detach().mean()) if relative else least
        gamma = third / var.clamp_min(floor) ** 1.5
        cov = cov * n / (n - correction)
        every = {"mean": mean, "covariance": cov, "skewness": gamma}
        found.append([every[name] for name in moments])
    m = len(found)
    if m < 2:
        return 0.0 * x.sum()
    total = 0.0
    for i, j in itertools.combinations(range(m), 2):
        for a, b in zip(found[i], found[j], strict=True):
            square = ((a - b) ** 2).sum()
            if reduction == "sum":
                total = total + square / (m * (m - 1))
            else:
                total = total + square / a.numel() / (m * (m - 1) / 2)
    return total


SOME_MOMENTS = st.sets(st.sampled_from(alignment.MOMENTS), min_size=1)


class TestMoments:
    @FEW
    @given(
        seeds,
        st.sampled_from(["mean", "sum"]),
        st.integers(0, 1),
        st.booleans(),
        SOME_MOMENTS,
        st.integers(2, 4),
    )
    def test_by_loop(self, seed, reduction, correction, relative, moments, m):
        x, weight = normal(m, 7, 3, seed=seed), some_weight(seed, m, 7)
        x = (x + 0.3 * x**2).requires_grad_()
        least = 0.9 if seed % 2 else 1e-3  # active or not
        options = moments, reduction, correction, least, relative
        found = moment_distance(x, weight, *options)
        expected = naive_moments(x, weight, *options)
        torch.testing.assert_close(found, expected, **EXACT)
        torch.testing.assert_close(gradient(found, x), gradient(expected, x), **EXACT)

    def test_defaults(self):
        x, weight = normal(3, 7, 3), some_weight(0, 3, 7)
        x[..., 0] *= 1e-3  # below the least variance
        found = moment_distance(x, weight)
        torch.testing.assert_close(found, naive_moments(x, weight), **EXACT)
        assert found != moment_distance(x, weight, least_variance=0.0)

    def test_skewness_is_scipys(self):
        x = normal(2, 30, 3).exp()
        found = moment_distance(x, ones(2, 30), ["skewness"], least_variance=0.0)
        a, b = skew(x.numpy(), axis=1)
        torch.testing.assert_close(float(found), np.mean((a - b) ** 2), **EXACT)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_zero_for_equal_samples(self, seed):
        x = normal(9, 3, seed=seed)
        same = torch.stack([x, x[permutation(9, seed)], x])
        # Of rounding errors of 1e-16, squared.
        assert moment_distance(same, ones(3, 9)) < 1e-28
        assert moment_distance(same + normal(3, 9, 3), ones(3, 9)) > 1e-3

    @FEW
    @given(seeds)
    def test_shifts(self, seed):
        x, weight = normal(3, 8, 2, seed=seed).exp(), some_weight(seed, 3, 8)
        shift = 3 * normal(2, seed=seed)
        torch.testing.assert_close(
            moment_distance(x + shift, weight), moment_distance(x, weight), **EXACT
        )
        # A modality's own shift changes the mean alone.
        own = 3 * normal(3, 1, 2, seed=seed)
        higher = ["covariance", "skewness"]
        torch.testing.assert_close(
            moment_distance(x + own, weight, higher),
            moment_distance(x, weight, higher),
            **EXACT,
        )

    @FEW
    @given(seeds)
    def test_skewness_under_scaling_and_negation(self, seed):
        x, weight = normal(2, 8, 2, seed=seed).exp(), some_weight(seed, 2, 8)
        found = moment_distance(x, weight, ["skewness"])
        scaled = x * torch.tensor([0.2, 30.0]).double()[:, None, None]
        torch.testing.assert_close(
            moment_distance(scaled, weight, ["skewness"]), found, **EXACT
        )
        torch.testing.assert_close(
            moment_distance(-x, weight, ["skewness"]), found, **EXACT
        )
        # A sample and its mirror image: twice the skewness apart; symmetric: zero.
        mirror = torch.stack([x[0], -x[0]])
        symmetric = torch.cat([x[0], -x[0]]).expand(2, -1, -1) * ones(2, 1, 1)
        own = weight[:1].expand(2, -1)
        gamma = moment_distance(mirror, own, ["skewness"], least_variance=0.0)
        w = own[0, :, None] / own[0].sum()
        centred = x[0] - (w * x[0]).sum(0)
        exact = (w * centred**3).sum(0) / (w * centred**2).sum(0) ** 1.5
        torch.testing.assert_close(gamma, (2 * exact).square().mean(), **EXACT)
        alone = torch.stack([symmetric[0], torch.cat([x[0], x[0]])])
        torch.testing.assert_close(
            moment_distance(alone, own.repeat(1, 2), ["skewness"], least_variance=0.0),
            exact.square().mean(),
            **EXACT,
        )

    @FEW
    @given(seeds)
    def test_weights_are_repetition_and_absent_rows_nothing(self, seed):
        x = normal(3, 6, 2, seed=seed)
        times = torch.arange(6) % 3 + 1
        torch.testing.assert_close(
            moment_distance(x, times.expand(3, -1).double()),
            moment_distance(x.repeat_interleave(times, 1), ones(3, int(times.sum()))),
            **EXACT,
        )
        weight = some_weight(seed, 3, 6)
        weight[0, -1] = 0
        filled = with_garbage(x, weight).requires_grad_()
        value = moment_distance(filled, weight)
        torch.testing.assert_close(value, moment_distance(x, weight), **EXACT)
        slope = gradient(value, filled)
        assert (slope[weight == 0] == 0).all()
        assert (slope[weight > 0] != 0).any()

    def test_modalities_with_one_row_are_left_out(self):
        x, weight = normal(4, 5, 2).requires_grad_(), ones(4, 5)
        weight[1, 1:] = 0
        weight[3] = 0
        torch.testing.assert_close(
            moment_distance(x, weight),
            moment_distance(x[[0, 2]], weight[[0, 2]]),
            **EXACT,
        )
        weight[2, 1:] = 0
        value = moment_distance(x, weight)
        assert value == 0
        assert (gradient(value, x) == 0).all()

    def test_constant_columns(self):
        x = normal(2, 5, 3)
        x[..., 0] = 2.0
        x.requires_grad_()
        assert gradient(moment_distance(x, ones(2, 5)), x).isfinite().all()
        flat = ones(2, 5, 3).requires_grad_()
        value = moment_distance(flat, ones(2, 5))
        assert value == 0
        assert gradient(value, flat).isfinite().all()


# ----------------------------------------------------------------------------- mmd


def naive_mmd(x, weight, widths):
    """The matrices of all pairs of modalities, dense and differentiable."""
    kept = [m for m in range(len(x)) if weight[m].sum() > 0]
    rows = {m: x[m][weight[m] > 0] for m in kept}
    w = {m: weight[m][weight[m] > 0] / weight[m].sum() for m in kept}

    def expected_kernel(i, j):
        distance = ((rows[i][:, None] - rows[j][None]) ** 2).sum(-1)
        k = sum((-distance / width).exp() for width in widths) / len(widths)
        return w[i] @ k @ w[j]

    pairs = [*itertools.combinations(kept, 2)]
    values = [
        expected_kernel(i, i) + expected_kernel(j, j) - 2 * expected_kernel(i, j)
        for i, j in pairs
    ]
    return sum(values) / len(pairs)


def auto_widths(x, weight):
    """By the mean squared distance of two rows, drawn of all modalities alike."""
    kept = [m for m in range(len(x)) if weight[m].sum() > 0]
    rows = torch.cat([x[m] for m in kept]).detach()
    share = torch.cat([weight[m] / weight[m].sum() for m in kept]) / len(kept)
    distance = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    return [float(share @ distance @ share) * 2.0**q for q in range(-2, 3)]


BANDWIDTHS = st.sampled_from(["auto", [1.0], [0.5, 1.0, 2.0], [0.3, 2.0, 0.7]])


class TestMMD:
    @FEW
    @given(seeds, BANDWIDTHS, st.integers(2, 4))
    def test_dense_version_and_its_gradient(self, seed, bandwidths, m):
        x, weight = normal(m, 6, 2, seed=seed), some_weight(seed, m, 6)
        x = (x + normal(m, 1, 2, seed=seed)).requires_grad_()
        if m == 4:
            weight[seed % 4] = 0
        auto = bandwidths == "auto"
        widths = auto_widths(x, weight) if auto else [2 * b for b in bandwidths]
        expected = naive_mmd(x, weight, widths)
        found = mmd(x, weight, bandwidths)
        torch.testing.assert_close(found, expected, **EXACT)
        torch.testing.assert_close(
            gradient(3 * found, x), 3 * gradient(expected, x), **EXACT
        )

    @pytest.mark.parametrize("rows", [1, 3, 7, 64])
    def test_blocks_of_rows(self, rows, monkeypatch):
        monkeypatch.setattr(alignment, "KERNEL_ROWS", rows)
        x, weight = normal(3, 8, 2).requires_grad_(), some_weight(1, 3, 8)
        for bandwidths in ("auto", [0.5, 1.3]):
            found = mmd(with_garbage(x, weight), weight, bandwidths)
            widths = (
                auto_widths(x * (weight[..., None] > 0), weight)
                if bandwidths == "auto"
                else [1.0, 2.6]
            )
            expected = naive_mmd(x, weight, widths)
            torch.testing.assert_close(found, expected, **EXACT)
            slope = gradient(found, x)
            torch.testing.assert_close(slope, gradient(expected, x), **EXACT)
            assert (slope[weight == 0] == 0).all()

    def test_more_rows_than_a_block(self):
        n = 2 * alignment.KERNEL_ROWS // 3 + 9
        x = normal(3, n, 2).requires_grad_()
        expected = naive_mmd(x, ones(3, n), auto_widths(x, ones(3, n)))
        found = mmd(x, ones(3, n))
        torch.testing.assert_close(found, expected, **EXACT)
        torch.testing.assert_close(gradient(found, x), gradient(expected, x), **EXACT)

    @pytest.mark.parametrize("bandwidths", ["auto", [1.0], [0.3, 2.0, 0.7]])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_zero_for_equal_samples(self, seed, bandwidths):
        x = normal(12, 3, seed=seed)
        for same in (x.expand(3, -1, -1), torch.stack([x, x[permutation(12, seed)]])):
            # Means of kernels of size one, whose sums cancel.
            assert mmd(same, ones(len(same), 12), bandwidths).abs() <= 1e-15

    @FEW
    @given(seeds, BANDWIDTHS)
    def test_bounds_and_symmetry(self, seed, bandwidths):
        scale = 10.0 ** (seed % 5 - 2)
        x, weight = scale * normal(3, 7, 2, seed=seed), some_weight(seed, 3, 7)
        found = mmd(x, weight, bandwidths)
        assert -1e-15 <= found <= 2
        order = permutation(3, seed)
        torch.testing.assert_close(
            mmd(x[order], weight[order], bandwidths), found, rtol=1e-11, atol=1e-14
        )
        rows = permutation(7, seed)
        torch.testing.assert_close(
            mmd(x[:, rows], weight[:, rows], bandwidths), found, rtol=1e-11, atol=1e-14
        )

    @FEW
    @given(seeds)
    def test_isometries(self, seed):
        x, weight = normal(2, 7, 3, seed=seed), some_weight(seed, 2, 7)
        rotation, _ = torch.linalg.qr(normal(3, 3, seed=seed))
        moved = x @ rotation + 5 * normal(3, seed=seed + 1)
        for bandwidths in ("auto", [1.0]):
            torch.testing.assert_close(
                mmd(moved, weight, bandwidths), mmd(x, weight, bandwidths), **EXACT
            )
        torch.testing.assert_close(mmd(40 * x, weight), mmd(x, weight), **EXACT)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_grows_with_a_shift_of_the_mean(self, seed):
        x = normal(2, 60, 2, seed=seed)
        values = []
        for shift in (1.0, 2.0, 3.0, 4.0):
            moved = torch.stack([x[0], x[1] + shift])
            values.append([float(mmd(moved, ones(2, 60), b)) for b in ("auto", [1.0])])
        assert (np.diff(values, axis=0) > 0).all()

    def test_far_from_the_origin(self):
        x, weight = normal(2, 9, 2), ones(2, 9)
        # Coordinates of 1e6 are rounded to 1e-10.
        torch.testing.assert_close(
            mmd(x + 1e6, weight), mmd(x, weight), rtol=1e-7, atol=1e-7
        )

    def test_weights_are_repetition(self):
        x, times = normal(2, 6, 2), torch.tensor([1, 3, 2, 1, 1, 2])
        torch.testing.assert_close(
            mmd(x, times.expand(2, -1).double()),
            mmd(x.repeat_interleave(times, 1), ones(2, 10)),
            **EXACT,
        )

    def test_widths(self):
        x, weight = normal(1, 9, 2), some_weight(0, 1, 9)
        assert kernel_widths(x[0], weight[0], [1.0, 0.25]) == [2.0, 0.5]
        assert len(OCTAVES) == 5
        np.testing.assert_allclose(
            kernel_widths(x[0], weight[0], "auto"), auto_widths(x, weight), rtol=1e-12
        )

    def test_fewer_than_two_modalities_and_equal_rows(self):
        x = normal(2, 4, 2).requires_grad_()
        weight = ones(2, 4)
        weight[1] = 0
        value = mmd(x, weight)
        assert value == 0
        assert (gradient(value, x) == 0).all()
        flat = ones(2, 4, 2).requires_grad_()
        value = mmd(flat, ones(2, 4))
        assert value.abs() <= 1e-15
        assert gradient(value, flat).isfinite().all()


# ---------------------------------------------------------------------------- pull


def naive_pull(x, weight, resp, means, conditional, reduction):
    m, _, d = x.shape
    k = resp.shape[-1]
    total = 0.0
    for i, j in itertools.permutations(range(m), 2):
        for n in range(x.shape[1]):
            if not weight[i, n]:
                continue
            share = weight[i, n] / weight[i].sum()
            for a, b in itertools.product(range(k), range(k)):
                match = (
                    float(a == b) if conditional is None else conditional[i, j, a, b]
                )
                square = ((x[i, n] - means[j, b]) ** 2).sum()
                total = total + share * resp[i, n, a] * match * square
    total = total / (m * (m - 1))
    return total / d if reduction == "mean" else total


def pull_problem(seed, m=3, n=5, k=3, d=2):
    x, means = normal(m, n, d, seed=seed), normal(m, k, d, seed=seed + 1)
    resp = normal(m, n, k, seed=seed + 2).softmax(-1)
    conditional = normal(m, m, k, k, seed=seed + 3).softmax(-1)
    return x, some_weight(seed, m, n), resp, means, conditional


class TestPull:
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("matched", [True, False])
    @settings(max_examples=5)
    @given(seeds)
    def test_by_loop(self, matched, reduction, seed):
        x, weight, resp, means, conditional = pull_problem(seed)
        conditional = conditional if matched else None
        x, means = x.requires_grad_(), means.requires_grad_()
        arguments = weight, resp, means, conditional, reduction
        expected = naive_pull(x, *arguments)
        found = prototype_pull(x, *arguments)
        torch.testing.assert_close(found, expected, **EXACT)
        for a, b in zip(
            torch.autograd.grad(found, [x, means]),
            torch.autograd.grad(expected, [x, means]),
            strict=True,
        ):
            torch.testing.assert_close(a, b, **EXACT)

    def test_mean_is_the_default(self):
        problem = pull_problem(0)
        assert prototype_pull(*problem) == prototype_pull(*problem, "mean")

    @FEW
    @given(seeds)
    def test_relabelling(self, seed):
        """Of one modality's components: only the plan's form does not care."""
        x, weight, resp, means, conditional = pull_problem(seed)
        order = torch.tensor([2, 0, 1])
        moved = [part.clone() for part in (resp, means, conditional)]
        moved[0][1] = resp[1][:, order]
        moved[1][1] = means[1][order]
        moved[2][1] = conditional[1][:, order]
        moved[2][:, 1] = moved[2][:, 1][..., order]
        found = prototype_pull(x, weight, resp, means, conditional)
        torch.testing.assert_close(prototype_pull(x, weight, *moved), found, **EXACT)
        by_number = prototype_pull(x, weight, resp, means, None)
        other = prototype_pull(x, weight, *moved[:2], None)
        assert (other - by_number).abs() > 1e-6

    def test_diagonal_plan_matches_equal_numbers(self):
        x, weight, resp, means, _ = pull_problem(4)
        unit = torch.eye(3).double().expand(3, 3, 3, 3)
        torch.testing.assert_close(
            prototype_pull(x, weight, resp, means, unit),
            prototype_pull(x, weight, resp, means, None),
            **EXACT,
        )

    def test_zero_on_the_prototypes_and_for_one_modality(self):
        x, weight, resp, means, conditional = pull_problem(4)
        same = means[0, 0].expand_as(x)
        here = means[0, 0].expand_as(means)
        found = prototype_pull(same, weight, resp, here, conditional)
        assert 0 <= found < 1e-14
        alone = x[:1].requires_grad_()
        value = prototype_pull(alone, weight[:1], resp[:1], means[:1], None)
        assert value == 0
        assert (gradient(value, alone) == 0).all()

    def test_absent_rows(self):
        x, weight, resp, means, conditional = pull_problem(4)
        weight[0, -1] = 0
        filled = with_garbage(x, weight).requires_grad_()
        found = prototype_pull(filled, weight, resp, means, conditional)
        torch.testing.assert_close(
            found, prototype_pull(x, weight, resp, means, conditional), **EXACT
        )
        slope = gradient(found, filled)
        assert (slope[weight == 0] == 0).all()
        assert (slope[weight > 0] != 0).all()


# -------------------------------------------------------------------- contrastive


def naive_contrastive(z, labels, temperature):
    """Of rows that each count once."""
    z = [row / row.norm() for row, label in zip(z, labels, strict=True) if label >= 0]
    labels = [int(label) for label in labels if label >= 0]
    values = []
    for n in range(len(z)):
        others = [a for a in range(len(z)) if a != n]
        positives = [p for p in others if labels[p] == labels[n]]
        if not positives:
            continue
        logits = {a: (z[n] @ z[a]) / temperature for a in others}
        log_all = torch.stack([*logits.values()]).logsumexp(0)
        values.append(-sum(logits[p] - log_all for p in positives) / len(positives))
    return sum(values) / len(values)


class TestSupervisedContrastive:
    @FEW
    @given(seeds, st.sampled_from([0.1, 1.0]))
    def test_by_loop(self, seed, temperature):
        z = normal(9, 3, seed=seed).requires_grad_()
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(-1, 3, (9,), generator=generator)
        labels[:2], labels[-1] = 0, 7  # a label with two members, and one with one
        expected = naive_contrastive(z, labels, temperature)
        found = supervised_contrastive(z, labels, temperature)
        torch.testing.assert_close(found, expected, **EXACT)
        slope = gradient(found, z)
        torch.testing.assert_close(slope, gradient(expected, z), **EXACT)
        assert (slope[labels < 0] == 0).all()
        scaled = supervised_contrastive(7 * z, labels, temperature, ones(9))
        torch.testing.assert_close(scaled, found, **EXACT)

    @FEW
    @given(seeds)
    def test_weights_are_repetition(self, seed):
        z, labels = normal(7, 3, seed=seed), torch.tensor([0, 1, 0, 2, 3, -1, 3])
        times = torch.tensor(
            [1, 3, 2, 1, 1, 2, 1]
        )  # a row alone with its label, thrice
        longer = z.repeat_interleave(times, 0), labels.repeat_interleave(times)
        expected = naive_contrastive(*longer, 0.3)
        torch.testing.assert_close(
            supervised_contrastive(z, labels, 0.3, times.double()), expected, **EXACT
        )

    def test_rows_of_weight_zero(self):
        z, labels = normal(6, 3), torch.tensor([0, 0, 1, 1, 0, 1])
        weight = torch.tensor([1.0, 1, 1, 1, 0, 0]).double()
        filled = z.clone()
        filled[4:] *= -30
        filled.requires_grad_()
        value = supervised_contrastive(filled, labels, 0.3, weight)
        expected = naive_contrastive(z[:4], labels[:4], 0.3)
        torch.testing.assert_close(value, expected, **EXACT)
        assert (gradient(value, filled)[4:] == 0).all()

    @pytest.mark.parametrize(
        ("labels", "weight"),
        [
            ([-1, -1, -1], None),
            ([0, 1, 2], None),
            ([0, 0, 1], [1.0, 0.0, 1.0]),
            ([0, 0, 1], [0.0, 1.0, 1.0]),
        ],
    )
    def test_no_pair_is_zero(self, labels, weight):
        z = normal(3, 2).requires_grad_()
        weight = None if weight is None else torch.tensor(weight).double()
        value = supervised_contrastive(z, torch.tensor(labels), 0.1, weight)
        assert value == 0
        assert (gradient(value, z) == 0).all()


# -------------------------------------------------------------------------- presets

M, N, K, D = 3, 12, 3, 4
FLOOR = 1e-4


def problem(seed):
    """Unique parts in three groups, and common parts, of three modalities."""
    groups = torch.arange(N) % K
    centres = 0.8 * normal(K, D, seed=seed)
    unique = centres[groups] + 0.5 * normal(M, N, D, seed=seed + 1)
    return unique, normal(M, N, D, seed=seed + 2).exp()


def network_and_parts(unique, common, **options):
    m, n, d = unique.shape
    parts = [
        ModalityPart(build_tokens("linear", (d,), d, ()), (d,), d) for _ in range(m)
    ]
    network = DecAlignNetwork(parts, d, K, **options).double()
    there = torch.ones(m, n, dtype=torch.bool)
    fused = torch.cat([*unique, *common], 1)
    return network, Parts(
        [*unique.unsqueeze(2)],
        [*common.unsqueeze(2)],
        [*there.unsqueeze(2)],
        unique,
        common,
        unique,
        fused,
        None,
        there,
        there,
    )


def loop_em(x, means, n_iter, floor):
    """Five steps from given rows, with diagonal variances; all of one modality."""
    weights, variances = np.full(K, 1 / K), np.tile(x.var(0) + floor, (K, 1))
    for step in range(n_iter + 1):
        log_r = np.array(
            [
                [
                    np.log(weights[k])
                    - 0.5 * sum((row - means[k]) ** 2 / variances[k])
                    - 0.5 * sum(np.log(2 * np.pi * variances[k]))
                    for k in range(K)
                ]
                for row in x
            ]
        )
        r = np.exp(log_r - logsumexp(log_r, axis=1, keepdims=True))
        if step == n_iter:
            return weights, means, variances, r
        weights = r.mean(0)
        means = np.array([r[:, k] @ x / r[:, k].sum() for k in range(K)])
        variances = np.array(
            [r[:, k] @ (x - means[k]) ** 2 / r[:, k].sum() for k in range(K)]
        )
        variances = variances + floor


def loop_transport(mixtures, reg, reduction):
    """The plan over all triples and its entropic value, by sweeps and a root finder."""
    cost = np.zeros((K,) * M)
    for index in np.ndindex(*cost.shape):
        for i, j in itertools.combinations(range(M), 2):
            a, b = index[i], index[j]
            (_, mu_i, v_i, _), (_, mu_j, v_j, _) = mixtures[i], mixtures[j]
            square = (mu_i[a] - mu_j[b]) ** 2 + (v_i[a] ** 0.5 - v_j[b] ** 0.5) ** 2
            cost[index] += square.sum() if reduction == "sum" else square.mean()
    others = [tuple(a for a in range(M) if a != m) for m in range(M)]

    def log_plan(f):
        parts = zip(f.reshape(M, K), others, strict=True)
        return sum(np.expand_dims(own, axes) for own, axes in parts) - cost / reg

    def misfit(f):
        now = log_plan(f)
        return np.concatenate(
            [
                logsumexp(now, axis=axes) - np.log(mixture[0])
                for axes, mixture in zip(others, mixtures, strict=True)
            ]
        )

    f = np.zeros(M * K)
    for m in 20 * [*range(M)]:
        own = slice(m * K, (m + 1) * K)
        f[own] -= misfit(f)[own]
    f = root(misfit, f, method="lm", tol=1e-14).x
    np.testing.assert_allclose(misfit(f), 0, atol=1e-10)
    log_plan = log_plan(f)
    plan = np.exp(log_plan)
    return plan, (plan * cost).sum() + reg * (plan * log_plan).sum()


def loop_matches(plan):
    matches = np.zeros((M, M, K, K))
    for i, j in itertools.permutations(range(M), 2):
        axes = tuple(a for a in range(M) if a not in (i, j))
        pair = plan.sum(axes)
        pair = pair if i < j else pair.T
        matches[i, j] = pair / pair.sum(1, keepdims=True)
    return torch.from_numpy(matches)


def even_rows(x):
    return x[np.linspace(0, N - 1, K).round().astype(int)]


# Plans are solved to 1e-10 of mass, times potentials of some tens.
SOLVED = {"rtol": 1e-7, "atol": 1e-7}


class TestPresets:
    """The terms of the paper and of its code, each written out from the formulas."""

    @pytest.mark.parametrize("seed", SEEDS)
    def test_published_code(self, seed):
        unique, common = problem(seed)
        reg = 0.1
        settings = Settings(
            covariance="diag", em="unrolled", em_iter=5, reg_covar=FLOOR,
            prototype_match="index", reduction="mean", ot_reg=reg,
            ot_reg_scale="absolute", ot_max_iter=2000, ot_tol=1e-10,
            mmd_bandwidths=[1.0], scale_free=False,
            decoupling_weight=0.9, heterogeneity_weight=0.03, homogeneity_weight=0.07,
        )  # fmt: skip
        network, parts = network_and_parts(unique, common)
        total, terms = alignment_terms(network, parts, settings, Memory())

        mixtures = [loop_em(x, even_rows(x), 5, FLOOR) for x in unique.numpy()]
        plan, _ = loop_transport(mixtures, reg, "mean")
        cost = np.zeros_like(plan)
        for index in np.ndindex(*plan.shape):
            for i, j in itertools.combinations(range(M), 2):
                (_, a, v, _), (_, b, w, _) = mixtures[i], mixtures[j]
                k, q = index[i], index[j]
                cost[index] += ((a[k] - b[q]) ** 2).mean()
                cost[index] += ((v[k] ** 0.5 - w[q] ** 0.5) ** 2).mean()
        # Theirs is <T, C> + lambda sum T (log T - 1).
        theirs = (plan * cost).sum() + reg * (plan * (np.log(plan) - 1)).sum()
        torch.testing.assert_close(float(terms["transport"]) - reg, theirs, **SOLVED)

        pulls = []
        for i, j in itertools.permutations(range(M), 2):
            squares = unique[i].numpy()[:, None] - mixtures[j][1][None]
            pulls.append((mixtures[i][3] * (squares**2).mean(-1)).sum(1).mean())
        torch.testing.assert_close(float(terms["prototypes"]), np.mean(pulls), **EXACT)

        z = common.numpy()
        distances = []
        for i, j in itertools.combinations(range(M), 2):
            gammas = [
                ((z[m] - z[m].mean(0)) ** 3).mean(0)
                / np.maximum(z[m].var(0), 1e-6) ** 1.5
                for m in (i, j)
            ]
            distances.append(
                np.mean((z[i].mean(0) - z[j].mean(0)) ** 2)
                + np.mean((np.cov(z[i].T) - np.cov(z[j].T)) ** 2)
                + np.mean((gammas[0] - gammas[1]) ** 2)
            )
        torch.testing.assert_close(float(terms["moments"]), np.mean(distances), **EXACT)

        def kernel(a, b):
            return np.mean([[np.exp(-((r - s) ** 2).sum() / 2) for s in b] for r in a])

        values = [
            kernel(z[i], z[i]) + kernel(z[j], z[j]) - 2 * kernel(z[i], z[j])
            for i, j in itertools.combinations(range(M), 2)
        ]
        torch.testing.assert_close(float(terms["mmd"]), np.mean(values), **EXACT)

        cosines = cosine_similarity(unique, common, -1)
        torch.testing.assert_close(terms["decoupling"], (cosines**2).mean(), **EXACT)
        expected = (
            0.9 * terms["decoupling"]
            + 0.03 * (terms["transport"] + terms["prototypes"])
            + 0.07 * (terms["moments"] + terms["mmd"])
        )
        torch.testing.assert_close(total, expected, **EXACT)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_paper(self, seed):
        unique, common = problem(seed)
        reg = 1.0
        settings = Settings(
            decoupling="plain", em="unrolled", em_iter=5, reg_covar=FLOOR,
            prototype_match="index", reduction="sum", ot_reg=reg,
            ot_reg_scale="absolute", ot_max_iter=2000, ot_tol=1e-10,
            mmd_bandwidths=[1.0], scale_free=False,
        )  # fmt: skip
        network, parts = network_and_parts(unique, common)
        _, terms = alignment_terms(network, parts, settings, Memory())
        mixtures = [loop_em(x, even_rows(x), 5, FLOOR) for x in unique.numpy()]
        _, value = loop_transport(mixtures, reg, "sum")
        torch.testing.assert_close(float(terms["transport"]), value, **SOLVED)
        pull = 0.0
        for i, j in itertools.permutations(range(M), 2):
            for n, k in itertools.product(range(N), range(K)):
                square = ((unique[i, n].numpy() - mixtures[j][1][k]) ** 2).sum()
                pull += mixtures[i][3][n, k] * square / N
        torch.testing.assert_close(
            float(terms["prototypes"]), pull / (M * (M - 1)), **EXACT
        )
        expected = naive_moments(
            common,
            ones(M, N),
            reduction="sum",
            correction=1,
            least=1e-6,
            relative=False,
        )
        torch.testing.assert_close(terms["moments"], expected, **EXACT)
        expected = naive_mmd(common, ones(M, N), [2.0])
        torch.testing.assert_close(terms["mmd"], expected, **EXACT)
        cosines = cosine_similarity(unique, common, -1)
        torch.testing.assert_close(terms["decoupling"], cosines.mean(1).sum(), **EXACT)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_ours(self, seed):
        """In units of the scale, matched by the plan, strength relative to the cost."""
        unique, common = problem(seed)
        settings = Settings(
            em="unrolled",
            prototype_match="plan",
            reg_covar=1e-3,
            ot_reg=0.2,
            ot_max_iter=2000,
            ot_tol=1e-10,
        )
        network, parts = network_and_parts(unique, common)
        _, terms = alignment_terms(network, parts, settings, Memory())
        scale = math.sqrt(sum(x.var(0, correction=0).mean() for x in unique) / M)
        x = (unique / scale).numpy()
        mixtures = [
            loop_em(own, even_rows(own), 5, 1e-3 * own.var(0).mean()) for own in x
        ]
        mean_cost = 0.0
        for i, j in itertools.combinations(range(M), 2):
            (p, a, v, _), (q, b, w, _) = mixtures[i], mixtures[j]
            for k, h in itertools.product(range(K), range(K)):
                square = (a[k] - b[h]) ** 2 + (v[k] ** 0.5 - w[h] ** 0.5) ** 2
                mean_cost += p[k] * q[h] * square.mean()
        plan, value = loop_transport(mixtures, 0.2 * mean_cost, "mean")
        torch.testing.assert_close(float(terms["transport"]), value, **SOLVED)
        weights, means, resp = (
            torch.from_numpy(np.stack([mixture[part] for mixture in mixtures]))
            for part in (0, 1, 3)
        )
        torch.testing.assert_close(weights.sum(1), ones(M))
        expected = naive_pull(
            torch.from_numpy(x), ones(M, N), resp, means, loop_matches(plan), "mean"
        )
        torch.testing.assert_close(terms["prototypes"], expected, **SOLVED)
        pooled = math.sqrt(sum(c.var(0, correction=0).mean() for c in common) / M)
        expected = naive_moments(common / pooled, ones(M, N))
        torch.testing.assert_close(terms["moments"], expected, **EXACT)
        expected = naive_mmd(common, ones(M, N), auto_widths(common, ones(M, N)))
        torch.testing.assert_close(terms["mmd"], expected, **EXACT)


class TestScale:
    @pytest.mark.parametrize("em", ["carried", "unrolled"])
    @pytest.mark.parametrize("factor", [1e-2, 100.0])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_free(self, seed, factor, em):
        """Terms stay, gradients shrink as the parts grow: no gain from shrinking."""
        settings = Settings(em=em, decoupling_weight=0.0, ot_tol=1e-10)
        start = row_start(problem(seed)[0], ones(M, N), K)
        values, slopes = [], []
        for a in (1.0, factor):
            unique, common = ((a * x).requires_grad_() for x in problem(seed))
            network, parts = network_and_parts(unique, common)
            held = Prototypes(start.weights, a * start.means, a**2 * start.covariances)
            network.keep(held, torch.arange(M), 1.0)
            total, terms = alignment_terms(network, parts, settings, Memory())
            values.append(torch.stack([*terms.values()]))
            slopes.append([a * g for g in torch.autograd.grad(total, [unique, common])])
        # The floor of the variances has an absolute 1e-12.
        close = {"rtol": 1e-6, "atol": 1e-7}
        torch.testing.assert_close(*values, **close)
        for pair in zip(*slopes, strict=True):
            torch.testing.assert_close(*pair, **close)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_nothing_falls_along_the_parts_themselves(self, seed):
        unique, common = (x.requires_grad_() for x in problem(seed))
        # The floor of the variances is a constant for the gradient: next to none here.
        settings = Settings(decoupling_weight=0.0, ot_tol=1e-10, reg_covar=1e-9)
        network, parts = network_and_parts(unique, common)
        total, _ = alignment_terms(network, parts, settings, Memory())
        for x, slope in zip(
            (unique, common),
            torch.autograd.grad(total, [unique, common]),
            strict=True,
        ):
            assert slope.norm() > 1e-6
            assert (slope * x).sum().abs() < 1e-6 * slope.norm() * x.norm()

    @pytest.mark.parametrize("reg_scale", ["mean_cost", "absolute"])
    @pytest.mark.parametrize("scale_free", [True, False])
    def test_large_inputs_do_not_lose_the_transport(self, scale_free, reg_scale):
        """The published code's plan loses its mass where costs are large."""
        unique, common = problem(0)
        settings = Settings(
            scale_free=scale_free, ot_reg_scale=reg_scale, ot_reg=0.1, ot_max_iter=2000
        )
        values = []
        for a in (1.0, 100.0):
            network, parts = network_and_parts(a * unique, a * common)
            _, terms = alignment_terms(network, parts, settings, Memory())
            values.append(float(terms["transport"]))
        small, large = values
        if scale_free:
            assert abs(large - small) < 1e-5 * abs(small)
        elif reg_scale == "mean_cost":
            assert abs(large - 1e4 * small) < 1e-2 * abs(large)
        else:
            # Lambda is nothing beside the costs, which are 1e4 times as large.
            assert large > 100
