"""Likelihoods against torch.distributions: values, masks, gradients, means, draws."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Laplace, Normal, OneHotCategorical

from skmm.core.likelihoods import draw, expectation, row_log_likelihood

SEEDS = range(3)
# Sums of some ten float64 terms of size up to ten.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
CASES = [
    ("gaussian", (6,)),
    ("gaussian", (1, 2, 3)),
    ("laplace", (6,)),
    ("bernoulli", (6,)),
    ("bernoulli", (3, 2)),
    ("categorical", (6,)),
    ("categorical", (2, 3)),
]
each_case = pytest.mark.parametrize(("likelihood", "shape"), CASES)
each_scale = pytest.mark.parametrize("scale", [None, "one", "column"])
D, N, K = 6, 4, 3


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def values_of(likelihood, shape, seed=0, n=N):
    x = normal(n, D, seed=seed)
    if likelihood == "bernoulli":
        return (x > 0).double()
    if likelihood == "categorical":
        best = x.view(n, *shape).argmax(-1)
        one_hot = torch.nn.functional.one_hot(best, shape[-1])
        return one_hot.double().flatten(1)
    return x


def log_scale_of(scale, seed=0):
    if scale is None:
        return None
    return 0.5 * (normal(seed=seed + 50) if scale == "one" else normal(D, seed=seed))


def cell_log_p(likelihood, output, x, shape, log_scale):
    """Log-probability of each cell, or of each one-hot group, by torch."""
    scale = 1.0 if log_scale is None else log_scale.exp()
    if likelihood == "gaussian":
        return Normal(output, scale).log_prob(x)
    if likelihood == "laplace":
        return Laplace(output, scale).log_prob(x)
    if likelihood == "bernoulli":
        return Bernoulli(logits=output).log_prob(x.expand_as(output))
    logits = output.unflatten(-1, shape)
    return OneHotCategorical(logits=logits).log_prob(x.view(len(x), *shape))


@each_case
@each_scale
@pytest.mark.parametrize("seed", SEEDS)
class TestValue:
    def test_of_torch(self, seed, scale, likelihood, shape):
        x, output = (
            values_of(likelihood, shape, seed),
            2 * normal(K, N, D, seed=seed + 9),
        )
        log_scale = log_scale_of(scale, seed)
        found = row_log_likelihood(likelihood, output, x, shape, log_scale)
        expected = cell_log_p(likelihood, output, x, shape, log_scale)
        torch.testing.assert_close(found, expected.reshape(K, N, -1).sum(-1), **EXACT)
        # Without leading axes too.
        one = row_log_likelihood(likelihood, output[1], x, shape, log_scale)
        torch.testing.assert_close(one, found[1], **EXACT)

    def test_of_observed_cells(self, seed, scale, likelihood, shape):
        x, output = (
            values_of(likelihood, shape, seed),
            2 * normal(K, N, D, seed=seed + 9),
        )
        log_scale = log_scale_of(scale, seed)
        each = cell_log_p(likelihood, output, x, shape, log_scale)
        cells = normal(*each.shape[1:], seed=seed + 3) > -0.3
        expected = (each * cells).reshape(K, N, -1).sum(-1)
        if likelihood == "categorical":  # a category is missing as a whole
            cells = cells.unsqueeze(-1).expand(N, *shape)
        cells = cells.reshape(N, D)
        found = row_log_likelihood(likelihood, output, x, shape, log_scale, cells)
        torch.testing.assert_close(found, expected, **EXACT)
        full = torch.ones_like(cells)
        torch.testing.assert_close(
            row_log_likelihood(likelihood, output, x, shape, log_scale, full),
            row_log_likelihood(likelihood, output, x, shape, log_scale),
            **EXACT,
        )


@each_case
@each_scale
@pytest.mark.parametrize("garbage", [0.0, -1e6, 1e300])
def test_masked_cells_have_no_influence(garbage, scale, likelihood, shape):
    x, output = values_of(likelihood, shape), normal(K, N, D, seed=9)
    cells = torch.ones(N, *shape, dtype=torch.bool)
    cells[0, ..., :] = False  # a row without any cell
    cells[1].view(-1, shape[-1])[0] = False  # a category or a row of cells
    cells = cells.view(N, D)
    results = []
    for value in (0.5, garbage):
        given = [output.clone().requires_grad_()]
        log_scale = log_scale_of(scale)
        if log_scale is not None and likelihood in ("gaussian", "laplace"):
            given.append(log_scale.requires_grad_())
        dirty = x.masked_fill(~cells, value)
        log_p = row_log_likelihood(likelihood, given[0], dirty, shape, log_scale, cells)
        gradients = torch.autograd.grad(log_p.sum(), given)
        assert log_p.isfinite().all()
        assert (log_p[:, 0] == 0).all()
        results.append((log_p, *gradients))
    for left, right in zip(*results, strict=True):
        assert torch.equal(left, right)
    if likelihood != "categorical":
        assert (results[0][1][:, ~cells] == 0).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
@pytest.mark.parametrize("scale", ["one", "column"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_gradient_of_a_learnt_scale(seed, masked, scale, likelihood):
    x, output = normal(N, D, seed=seed), normal(K, N, D, seed=seed + 9)
    cells = normal(N, D, seed=seed + 3) > -0.3 if masked else None
    log_scale = log_scale_of(scale, seed).requires_grad_()
    row_log_likelihood(likelihood, output, x, (D,), log_scale, cells).sum().backward()
    power = (output - x).abs() / log_scale.exp()
    each = power**2 - 1 if likelihood == "gaussian" else power - 1
    if masked:
        each = each * cells
    expected = each.sum((0, 1)) if scale == "column" else each.sum()
    torch.testing.assert_close(
        log_scale.grad, expected.detach(), rtol=1e-11, atol=1e-11
    )


@each_case
@each_scale
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(masked, scale, likelihood, shape):
    x, output = values_of(likelihood, shape), normal(2, N, D, seed=9).requires_grad_()
    cells = torch.ones(N, D, dtype=torch.bool)
    cells[0], cells[1, 3:] = False, False
    log_scale = log_scale_of(scale)
    inputs = [output]
    if log_scale is not None and likelihood in ("gaussian", "laplace"):
        inputs.append(log_scale.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda f, *s: row_log_likelihood(
            likelihood, f, x, shape, *(s or [log_scale]), cells if masked else None
        ),
        inputs,
    )


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
@each_scale
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_zero_deviation_are_zero(dtype, scale, likelihood):
    x = normal(N, D).to(dtype)
    output = x.clone().requires_grad_()
    log_scale = log_scale_of(scale)
    log_scale = None if log_scale is None else log_scale.to(dtype)
    log_p = row_log_likelihood(likelihood, output, x, (D,), log_scale)
    (gradient,) = torch.autograd.grad(log_p.sum(), output)
    assert log_p.isfinite().all()
    assert (gradient == 0).all()


@pytest.mark.parametrize("size", [1e-30, 1e-10])
def test_gradient_of_tiny_deviations(size):
    output = torch.full((1, 2), size, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, 2).double()
    value = row_log_likelihood("gaussian", output, zero, (2,)).sum()
    (gradient,) = torch.autograd.grad(value, output)
    torch.testing.assert_close(gradient, -output.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("likelihood", "shape"), CASES[3:])
def test_extreme_logits(likelihood, shape, sign):
    x = values_of(likelihood, shape)
    output = (sign * 1e4 * (2 * x - 1)).requires_grad_()
    log_p = row_log_likelihood(likelihood, output, x, shape)
    (gradient,) = torch.autograd.grad(log_p.sum(), output)
    assert log_p.isfinite().all()
    assert gradient.isfinite().all()
    # A certain right guess costs nothing; a wrong one the logits' difference.
    if sign == 1:
        assert log_p.abs().max() < 1e-12
    else:
        assert (log_p < -9e3).all()


def test_soft_bernoulli_values_give_the_cross_entropy():
    x, output = normal(N, D).sigmoid(), normal(K, N, D, seed=1)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        output, x.expand_as(output), reduction="none"
    )
    found = row_log_likelihood("bernoulli", output, x, (D,))
    torch.testing.assert_close(found, -expected.sum(-1), **EXACT)


@each_case
def test_float32_is_close_to_float64(likelihood, shape):
    x, output = values_of(likelihood, shape), 3 * normal(K, N, D, seed=9)
    log_scale = log_scale_of("column")
    wide = row_log_likelihood(likelihood, output, x, shape, log_scale)
    narrow = row_log_likelihood(
        likelihood, output.float(), x.float(), shape, log_scale.float()
    )
    assert narrow.dtype == torch.float32
    # Six terms of size ten to a hundred, 24 bits.
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
@pytest.mark.parametrize("log_scale", [-1.0, 0.0, 0.7])
def test_density_integrates_to_one(likelihood, log_scale):
    x = torch.linspace(-80, 80, 160_001, dtype=torch.float64)
    log_scale = torch.tensor(log_scale, dtype=torch.float64)
    output = torch.full((len(x), 1), 0.3, dtype=torch.float64)
    p = row_log_likelihood(likelihood, output, x[:, None], (1,), log_scale).exp()
    # Trapezoids of width 1e-3 on a density with a kink: their error is its square.
    assert float(torch.trapezoid(p, x)) == pytest.approx(1, abs=1e-5)


class TestExpectationAndDraws:
    @each_case
    @each_scale
    def test_draws_have_the_expectation_and_the_variance(
        self, scale, likelihood, shape
    ):
        n = 10_000
        output, log_scale = normal(2, D, seed=4), log_scale_of(scale)
        mean = expectation(likelihood, output, shape)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            x = draw(likelihood, output.expand(n, 2, D), shape, log_scale)
        assert x.shape == (n, 2, D)
        assert x.dtype == output.dtype
        spread = torch.ones(()).double() if log_scale is None else log_scale.exp()
        if likelihood == "gaussian":
            variance, kurtosis = spread**2, 3.0
        elif likelihood == "laplace":
            variance, kurtosis = 2 * spread**2, 6.0
        else:
            variance = mean * (1 - mean)
            third = mean**3 + (1 - mean) ** 3  # fourth moment over the variance
            kurtosis = third / variance
        # Four standard errors of the mean and of the variance.
        error = (variance / n).sqrt()
        assert ((x.mean(0) - mean).abs() < 4 * error).all()
        error = variance * ((kurtosis - 1) / n) ** 0.5
        # The variance of a fair coin has no first-order error; hence the 1 / n.
        assert ((x.var(0) - variance).abs() < 4 * error + 4 / n).all()

    @each_case
    def test_expectation(self, likelihood, shape):
        output = normal(K, N, D)
        mean = expectation(likelihood, output, shape)
        assert mean.shape == output.shape
        if likelihood == "bernoulli":
            expected = Bernoulli(logits=output).probs
        elif likelihood == "categorical":
            logits = output.view(K, N, *shape)
            expected = OneHotCategorical(logits=logits).probs.view(K, N, D)
            total = mean.view(K, N, *shape).sum(-1)
            torch.testing.assert_close(total, torch.ones_like(total), **EXACT)
        else:
            expected = output
        torch.testing.assert_close(mean, expected, **EXACT)

    @pytest.mark.parametrize("shape", [(6,), (2, 3)])
    def test_categorical_draws_are_one_hot(self, shape):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = draw("categorical", normal(K, N, D), shape)
        assert set(x.unique().tolist()) == {0.0, 1.0}
        assert (x.view(K, N, *shape).sum(-1) == 1).all()

    @each_case
    def test_draws_are_independent_between_rows(self, likelihood, shape):
        """Rows with the same output differ; each has its own noise."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = draw(likelihood, torch.zeros(50, D).double(), shape)
        assert len(x.unique(dim=0)) > 3

    def test_laplace_draws_have_laplace_quantiles(self):
        n = 20_000
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = draw("laplace", torch.zeros(n, 1).double(), (1,))
        for size in (0.5, 1.0, 3.0):
            p = math.exp(-size)  # beyond it, on both sides
            share = float((x.abs() > size).double().mean())
            assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)
