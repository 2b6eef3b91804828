"""The loss against brute force, closed forms and exact tables, in float64.

Tables: with finitely many values of each embedding, a critic is an array of logits and
expectations are sums, so that the loss on one row a cell, weighted by the cell's
probability, is the population loss.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skmm.core.dependence import (
    AdditiveTotals,
    additive_loss,
    additive_posterior_logits,
    all_tuples,
    draw_bank,
    joint_cross_entropy,
    log_partition,
    log_row_weights,
    marginal_log_score,
    ogm_coefficients,
    sample_tuples,
    tuple_log_partition,
    tuple_loss,
    unimodal_cross_entropy,
)

SEEDS = range(5)
# Sums of some hundred float64 terms of size one.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def draw(seed, m=2, b=6, c=3, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(m, b, c, generator=g, dtype=torch.float64)
    y = torch.randint(c, (b,), generator=g)
    weight = torch.rand(b, generator=g, dtype=torch.float64) + 0.1
    return logits, y, weight


def brute_force(logits, y, weight=None):
    """The loss as a loop over all tuples of rows and all labels."""
    m, b, c = logits.shape
    w = torch.ones(b).double() if weight is None else weight
    w = w / w.sum()
    reached = sum(w[i] * logits[:, i, y[i]].sum() for i in range(b))
    mean = 0.0
    for rows in itertools.product(range(b), repeat=m):
        p = math.prod(float(w[i]) for i in rows)
        for k in range(c):
            f = sum(logits[j, i, k] for j, i in enumerate(rows))
            mean += p / c * math.exp(f)
    return float(-reached + math.log(mean))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_closed_form_is_the_sum_over_all_tuples(m, seed):
    logits, y, weight = draw(seed, m=m, b=4)
    for w in (None, weight):
        expected = brute_force(logits, y, w)
        assert float(additive_loss(logits, y, w)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_pairs_loss_and_the_constant_of_the_published_code(seed):
    logits, y, _ = draw(seed, m=2, b=7, c=4)
    b, c = 7, 4
    pairs = logits[0][:, None, :] + logits[1][None, :, :]
    matched = logits.sum(0)[torch.arange(b), y].mean()
    paper = -matched + torch.logsumexp(pairs.reshape(-1), 0) - math.log(b * b * c)
    published = -matched + torch.logsumexp(pairs.reshape(-1), 0) - math.log(b)
    ours = additive_loss(logits, y)
    torch.testing.assert_close(ours, paper, **EXACT)
    torch.testing.assert_close(published - ours, torch.tensor(math.log(b * c)).double())


@pytest.mark.parametrize("seed", SEEDS)
def test_constants_and_offsets_do_not_matter(seed):
    logits, y, _ = draw(seed, m=3)
    loss = additive_loss(logits, y)
    torch.testing.assert_close(additive_loss(logits + 7.0, y), loss, **EXACT)
    assert float(additive_loss(torch.zeros_like(logits), y)) == pytest.approx(0)
    offset = torch.randn(3, dtype=torch.float64)
    moved = logits.clone()
    moved[0] += offset
    moved[1] -= offset
    torch.testing.assert_close(additive_loss(moved, y), loss, **EXACT)

    # Posteriors from any subset survive the move too.
    observed = torch.rand(3, 6) < 0.5
    log_a, log_b = (
        log_partition(f, log_row_weights(torch.ones(6).double(), observed | True))
        for f in (logits, moved)
    )
    p = torch.softmax(additive_posterior_logits(logits, observed, log_a), 1)
    q = torch.softmax(additive_posterior_logits(moved, observed, log_b), 1)
    torch.testing.assert_close(p, q, **EXACT)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_logits_stay_finite(size):
    logits, y, _ = draw(0)
    logits = torch.sign(logits) * size
    wide = additive_loss(logits, y)
    narrow = additive_loss(logits.float(), y)
    assert torch.isfinite(narrow)
    # float32 has 24 bits: sums of four such terms are good to 4 * size * 2**-24.
    assert float(narrow) == pytest.approx(float(wide), abs=size * 1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradient_formula(seed):
    """dL/df = r_c * softmax over rows - onehot / B, as derived for additive heads."""
    logits, y, _ = draw(seed, m=3)
    logits.requires_grad_()
    additive_loss(logits, y).backward()
    with torch.no_grad():
        log_a = torch.logsumexp(logits, 1) - math.log(6)
        r = torch.softmax(log_a.sum(0), 0)
        onehot = torch.nn.functional.one_hot(y, 3).double()
        expected = r * torch.softmax(logits, 1) - onehot / 6
    torch.testing.assert_close(logits.grad, expected, **EXACT)


@pytest.mark.parametrize("missing", [False, True])
def test_gradcheck(missing):
    logits, y, weight = draw(1, m=2, b=4)
    observed = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 1]]).bool() if missing else None
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: additive_loss(f, y, weight, observed), logits, atol=1e-7
    )


@given(
    st.lists(st.integers(0, 3), min_size=5, max_size=5).filter(lambda w: sum(w) > 0),
    st.integers(0, 1000),
)
def test_integer_weights_are_repetition(counts, seed):
    logits, y, _ = draw(seed, b=5)
    g = torch.Generator().manual_seed(seed)
    observed = torch.rand(2, 5, generator=g) < 0.7
    weight = torch.tensor(counts).double()
    rows = torch.repeat_interleave(torch.arange(5), weight.long())
    weighted = additive_loss(logits, y, weight, observed)
    repeated = additive_loss(logits[:, rows], y[rows], None, observed[:, rows])
    torch.testing.assert_close(weighted, repeated, **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_rows_and_modalities_does_not_matter(seed):
    logits, y, weight = draw(seed, m=3)
    observed = torch.rand(3, 6) < 0.6
    rows, order = torch.randperm(6), torch.randperm(3)
    loss = additive_loss(logits, y, weight, observed)
    permuted = additive_loss(
        logits[order][:, rows], y[rows], weight[rows], observed[order][:, rows]
    )
    torch.testing.assert_close(permuted, loss, **EXACT)


def test_one_row_is_joint_cross_entropy():
    """B = 1 contrasts nothing: the loss is cross-entropy less log C."""
    logits, y, _ = draw(0, m=3, b=1, c=4)
    expected = joint_cross_entropy(logits.sum(0), y) - math.log(4)
    torch.testing.assert_close(additive_loss(logits, y), expected, **EXACT)


def test_constant_features_give_the_constant_softmax():
    logits, y, _ = draw(0, m=2, b=1, c=4)
    logits, y = logits.expand(2, 9, 4), torch.arange(9) % 4
    expected = joint_cross_entropy(logits.sum(0), y) - math.log(4)
    torch.testing.assert_close(additive_loss(logits, y), expected, **EXACT)


def test_one_modality_is_the_mine_objective():
    logits, y, _ = draw(3, m=1, b=8, c=3)
    f = logits[0]
    expected = -f[torch.arange(8), y].mean() + torch.log(torch.exp(f).mean())
    torch.testing.assert_close(additive_loss(logits, y), expected, **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("m", [1, 2, 3])
def test_caps(m, seed):
    """Whatever the critic, a batch can't show more than its size allows."""
    logits, y, _ = draw(seed, m=m, b=5, c=3, scale=30.0)
    y = torch.tensor([0, 1, 2, 0, 1])
    p = torch.bincount(y).double() / 5
    entropy = float(torch.special.entr(p).sum())
    cap = math.log(3) + (m - 1) * entropy
    assert -float(additive_loss(logits, y)) <= cap + 1e-10
    memorised = 60 * torch.nn.functional.one_hot(y, 3).double().expand(m, 5, 3)
    assert -float(additive_loss(memorised, y)) <= cap + 1e-10


# ------------------------------------------------------------------- missing rows
def test_a_modality_without_rows_plays_no_part():
    logits, y, _ = draw(0, m=2)
    observed = torch.ones(2, 6, dtype=torch.bool)
    observed[1] = False
    alone = additive_loss(logits[:1], y)
    torch.testing.assert_close(additive_loss(logits, y, None, observed), alone)


def test_values_of_unobserved_cells_do_not_matter():
    logits, y, _ = draw(0)
    observed = torch.tensor([[1, 0, 1, 1, 0, 1], [1, 1, 0, 1, 1, 0]]).bool()
    other = torch.where(observed.unsqueeze(-1), logits, 1e3)
    for f in (additive_loss, unimodal_cross_entropy):
        a = f(logits, y, None, observed)
        torch.testing.assert_close(f(other, y, None, observed), a, **EXACT)
    other.requires_grad_()
    additive_loss(other, y, None, observed).backward()
    assert float(other.grad[~observed].abs().max()) == 0


# ------------------------------------------------------------------- exact tables
def random_table(seed, shape=(3, 4, 3)):
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(shape, generator=g, dtype=torch.float64) + 0.05
    return p / p.sum()


def entropy(p):
    return float(torch.special.entr(p).sum())


def marginals(p):
    n = p.dim()
    return [p.sum([k for k in range(n) if k != m]) for m in range(n)]


def total_correlation(p):
    return sum(entropy(q) for q in marginals(p)) - entropy(p)


def information(p, m):
    """I(z^m; y); y is the last axis."""
    kept = (m, p.dim() - 1)
    q = p.sum([k for k in range(p.dim()) if k not in kept])
    return entropy(q.sum(1)) + entropy(q.sum(0)) - entropy(q)


def skew(p):
    """log C - H(Y): what the uniform label law adds to the bound."""
    return math.log(p.shape[-1]) - entropy(marginals(p)[-1])


def additive_population_loss(tables, p):
    """The loss when row weights are the cells' probabilities."""
    cells = torch.cartesian_prod(*(torch.arange(s) for s in p.shape))
    logits = torch.stack([t[cells[:, m]] for m, t in enumerate(tables)])
    return additive_loss(logits, cells[:, -1], p.reshape(-1))


def full_population_loss(f, p):
    """The loss of a tabular critic of all modalities, f of the shape of p."""
    log_q = sum(
        torch.log(q).view([-1 if k == m else 1 for k in range(p.dim())])
        for m, q in enumerate(marginals(p)[:-1])
    ) - math.log(p.shape[-1])
    return -(p * f).sum() + torch.logsumexp((f + log_q).reshape(-1), 0)


def optimise(parameters, loss):
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=2000,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    return float(loss().detach())


@pytest.mark.parametrize("seed", SEEDS)
def test_any_critic_is_a_lower_bound_and_the_best_attains_it(seed):
    p = random_table(seed)
    truth = total_correlation(p)
    g = torch.Generator().manual_seed(seed)
    for _ in range(20):
        f = 2 * torch.randn(p.shape, generator=g, dtype=torch.float64)
        assert -float(full_population_loss(f, p)) - skew(p) <= truth + 1e-12
    f = torch.zeros(p.shape, dtype=torch.float64, requires_grad=True)
    loss = optimise([f], lambda: full_population_loss(f, p))
    assert -loss - skew(p) == pytest.approx(truth, abs=1e-6)
    posterior = p / p.sum(-1, keepdim=True)
    torch.testing.assert_close(
        torch.softmax(f.detach(), -1), posterior, atol=1e-4, rtol=0
    )


def fit_additive(p):
    tables = [
        torch.zeros(s, p.shape[-1], dtype=torch.float64, requires_grad=True)
        for s in p.shape[:-1]
    ]
    loss = optimise(tables, lambda: additive_population_loss(tables, p))
    return [t.detach() for t in tables], loss


@pytest.mark.parametrize("seed", SEEDS)
def test_additive_optimum_is_the_sum_over_modalities(seed):
    p = random_table(seed)
    tables, loss = fit_additive(p)
    expected = information(p, 0) + information(p, 1)
    assert -loss - skew(p) == pytest.approx(expected, abs=1e-6)
    q = p.sum((0, 1))
    bayes = q * (p.sum(1) / q)[:, None, :] * (p.sum(0) / q)[None, :, :]
    bayes = bayes / bayes.sum(-1, keepdim=True)
    fused = torch.softmax(tables[0][:, None, :] + tables[1][None, :, :], -1)
    torch.testing.assert_close(fused, bayes, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_absent_modalities_at_the_optimum(seed):
    """One modality gives the true p(y | z^m), none the class prior."""
    p = random_table(seed)
    tables, _ = fit_additive(p)
    log_a = torch.stack(
        [
            torch.logsumexp(t + torch.log(q)[:, None], 0)
            for t, q in zip(tables, marginals(p), strict=False)
        ]
    )
    prior = torch.softmax(log_a.sum(0), 0)
    torch.testing.assert_close(prior, marginals(p)[-1], atol=1e-4, rtol=0)
    for m, table in enumerate(tables):
        joint = p.sum(1 - m)
        truth = joint / joint.sum(1, keepdim=True)
        logits = torch.zeros(2, len(table), 3, dtype=torch.float64)
        logits[m] = table
        observed = torch.zeros(2, len(table), dtype=torch.bool)
        observed[m] = True
        got = torch.softmax(additive_posterior_logits(logits, observed, log_a), 1)
        torch.testing.assert_close(got, truth, atol=1e-4, rtol=0)


def test_fit_on_rows_with_missing_modalities_recovers_the_same_optimum():
    """40 % of the rows lack one modality at random: prior and contributions stay."""
    p = random_table(0)
    cells = torch.cartesian_prod(*(torch.arange(s) for s in p.shape))
    y, w = (
        cells[:, -1].repeat(3),
        p.reshape(-1).repeat(3)
        * torch.tensor([0.6, 0.2, 0.2]).double().repeat_interleave(len(cells)),
    )
    observed = torch.ones(2, 3 * len(cells), dtype=torch.bool)
    observed[0, len(cells) : 2 * len(cells)] = False
    observed[1, 2 * len(cells) :] = False
    tables = [
        torch.zeros(s, 3, dtype=torch.float64, requires_grad=True) for s in (3, 4)
    ]

    def loss():
        logits = torch.stack([t[cells[:, m].repeat(3)] for m, t in enumerate(tables)])
        return additive_loss(logits, y, w, observed)

    optimise(tables, loss)
    complete, _ = fit_additive(p)
    for t, c, q in zip(tables, complete, marginals(p), strict=False):
        g, h = (
            f.detach() - torch.logsumexp(f.detach() + torch.log(q)[:, None], 0)
            for f in (t, c)
        )
        torch.testing.assert_close(g, h, atol=1e-4, rtol=0)


def named_table(name):
    p = torch.zeros(2, 2, 2, dtype=torch.float64)
    if name == "xor":
        for a, b in itertools.product(range(2), repeat=2):
            p[a, b, a ^ b] = 0.25
    elif name == "copies":
        p[0, 0, 0] = p[1, 1, 1] = 0.5
    elif name == "independent":
        p += 0.125
    else:  # z^1 and z^2 independent given y
        a = torch.tensor([[0.9, 0.2], [0.1, 0.8]]).double()
        p = torch.einsum("ay,by->aby", a, a.flip(0)) / 2
    return p


def test_xor_needs_a_critic_that_is_not_additive():
    p = named_table("xor")
    assert total_correlation(p) == pytest.approx(math.log(2))
    tables, loss = fit_additive(p)
    assert -loss - skew(p) == pytest.approx(0, abs=1e-9)
    fused = torch.softmax(tables[0][:, None, :] + tables[1][None, :, :], -1)
    torch.testing.assert_close(fused, torch.full_like(fused, 0.5), atol=1e-4, rtol=0)
    best = torch.log(p.clamp_min(1e-30))
    assert -float(full_population_loss(best, p)) == pytest.approx(math.log(2), abs=1e-9)


def test_copies_reach_twice_the_label_entropy():
    p = named_table("copies")
    assert total_correlation(p) == pytest.approx(2 * math.log(2))
    tables = [40 * torch.eye(2, dtype=torch.float64)] * 2
    bound = -float(additive_population_loss(tables, p + 0.0))
    assert bound == pytest.approx(2 * math.log(2), abs=1e-12)


def test_independent_and_conditionally_independent_tables():
    p = named_table("independent")
    assert total_correlation(p) == pytest.approx(0, abs=1e-12)
    assert -fit_additive(p)[1] == pytest.approx(0, abs=1e-12)
    p = named_table("conditionally independent")
    expected = information(p, 0) + information(p, 1)
    assert total_correlation(p) == pytest.approx(expected)
    assert -fit_additive(p)[1] - skew(p) == pytest.approx(expected, abs=1e-7)


def test_marginally_independent_modalities_have_more_than_the_sum():
    p = named_table("xor")
    joint = entropy(p.sum(2)) + entropy(marginals(p)[-1]) - entropy(p)
    assert total_correlation(p) == pytest.approx(joint)
    assert information(p, 0) + information(p, 1) == pytest.approx(0, abs=1e-12)


# ------------------------------------------------------------------- other critics
def summed(maps):
    return lambda z: sum(f(x) for f, x in zip(maps, z, strict=True))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("m", [1, 2, 3])
def test_all_tuples_of_an_additive_critic_equal_the_closed_form(m, seed):
    torch.manual_seed(seed)
    z = torch.randn(m, 5, 2, dtype=torch.float64)
    maps = [torch.nn.Linear(2, 3).double() for _ in range(m)]
    y, weight = torch.randint(3, (5,)), torch.rand(5, dtype=torch.float64)
    logits = torch.stack([f(x) for f, x in zip(maps, z, strict=True)])
    got = tuple_loss(summed(maps), z, y, weight)
    torch.testing.assert_close(got, additive_loss(logits, y, weight), **EXACT)


def test_chunks_do_not_matter():
    torch.manual_seed(0)
    z = list(torch.randn(2, 6, 2, dtype=torch.float64))
    log_w = [torch.log_softmax(torch.randn(6).double(), 0) for _ in range(2)]
    score = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh()).double()
    tuples = all_tuples([6, 6])

    def value(size):
        return tuple_log_partition(
            lambda v: score(torch.cat(v, 1)), z, log_w, tuples, size
        )

    torch.testing.assert_close(value(5), value(1000), **EXACT)


def test_sampled_tuples():
    torch.manual_seed(0)
    tuples = sample_tuples([4, 5], 12)
    assert tuples.shape == (12, 2)
    assert len(torch.unique(tuples, dim=0)) == 12  # without replacement
    assert tuples[:, 0].max() < 4
    assert tuples[:, 1].max() < 5
    assert len(sample_tuples([3, 3], 100)) == 9
    large = sample_tuples([3000, 3000, 3000], 10_000)
    assert large.shape == (10_000, 3)
    # Means of 10,000 uniform draws on 0..2999 have a standard error of 8.7.
    assert (large.double().mean(0) - 1499.5).abs().max() < 5 * 8.7


def test_sampled_loss_approaches_the_loss_over_all_tuples():
    torch.manual_seed(0)
    z = torch.randn(2, 40, 3, dtype=torch.float64)
    y = torch.randint(3, (40,))
    score = torch.nn.Linear(6, 3).double()
    with torch.no_grad():

        def value(n):
            return float(tuple_loss(lambda v: score(torch.cat(v, 1)), z, y, n_tuples=n))

        exact = value(1600)
        spread = {n: np.std([value(n) - exact for _ in range(50)]) for n in (50, 800)}
    assert spread[800] < spread[50] / 2
    assert spread[800] < 0.05


def test_marginal_log_score_of_an_additive_critic_is_the_log_partition():
    torch.manual_seed(0)
    z = torch.randn(2, 6, 2, dtype=torch.float64)
    maps = [torch.nn.Linear(2, 3).double() for _ in range(2)]
    observed = torch.tensor([[1, 0, 1, 1, 0, 1], [1, 1, 0, 1, 0, 1]]).bool()
    bank = torch.randn(2, 50, 2, dtype=torch.float64)
    got = marginal_log_score(summed(maps), z, observed, bank)
    logits = torch.stack([f(x) for f, x in zip(maps, z, strict=True)])
    drawn = torch.stack([f(x) for f, x in zip(maps, bank, strict=True)])
    log_a = torch.logsumexp(drawn, 1) - math.log(50)
    expected = additive_posterior_logits(logits, observed, log_a)
    one_missing = observed.any(0)
    torch.testing.assert_close(got[one_missing], expected[one_missing], **EXACT)
    # Both missing: one draw of pairs stands for the product of two means, whose
    # logarithms differ by sampling only.
    assert (got[4] - expected[4]).abs().max() < 0.5


def test_bank_draws_come_from_observed_rows_with_weight():
    torch.manual_seed(0)
    z = torch.arange(12.0).view(2, 6, 1)
    observed = torch.tensor([[1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 1, 0]]).bool()
    weight = torch.tensor([1.0, 0, 1, 1, 0, 1])
    bank = draw_bank(z, observed, weight, 200)
    assert set(bank[0].flatten().tolist()) == {0.0, 5.0}
    assert set(bank[1].flatten().tolist()) == {8.0, 9.0}
    empty = draw_bank(z, torch.zeros_like(observed), weight, 3)
    assert float(empty.abs().max()) == 0


def test_a_modality_without_rows_gives_no_unbounded_tuple_loss():
    """Whatever is learnt, the bound stays below the cap of one modality less."""
    torch.manual_seed(0)
    z = torch.randn(2, 12, 3, dtype=torch.float64)
    y = torch.randint(3, (12,))
    observed = torch.ones(2, 12, dtype=torch.bool)
    observed[1] = False
    head = torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
    ).double()
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(300):
        loss = tuple_loss(lambda v: head(torch.cat(v, 1)), z, y, None, observed)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert -float(loss.detach()) <= math.log(3) + 1e-9


# ------------------------------------------------------------------- sums over a set
@pytest.mark.parametrize("seed", SEEDS)
def test_totals_over_batches_equal_the_loss_and_the_identity_holds(seed):
    logits, y, weight = draw(seed, m=3, b=20, c=4)
    g = torch.Generator().manual_seed(seed)
    observed = torch.rand(3, 20, generator=g) < 0.7
    totals = AdditiveTotals(3, 4)
    for part in torch.arange(20).split(7):
        totals.add(logits[:, part], y[part], weight[part], observed[:, part])
    loss = additive_loss(logits, y, weight, observed)
    torch.testing.assert_close(totals.bound, -loss, **EXACT)
    # total correlation = sum_m share_m * information_m - KL(P_Y || softmax(beta))
    share = totals.seen.sum(1) / totals.classes.sum()
    prior = totals.class_prior
    beta = torch.log_softmax(totals.log_partition.sum(0), 0)
    kl = (prior * (torch.log(prior) - beta)).sum()
    expected = (share * totals.modality_information).sum() - kl
    torch.testing.assert_close(totals.total_correlation, expected, **EXACT)


def test_totals_of_a_modality_without_rows():
    logits, y, weight = draw(0, m=2)
    observed = torch.ones(2, 6, dtype=torch.bool)
    observed[1] = False
    totals = AdditiveTotals(2, 3).add(logits, y, weight, observed)
    assert torch.isfinite(totals.bound)
    assert float(totals.log_partition[1].abs().max()) == 0


# ------------------------------------------------------------------- the comparison
def test_cross_entropies_against_torch():
    logits, y, _ = draw(0, m=2)
    expected = torch.nn.functional.cross_entropy(logits.sum(0), y)
    torch.testing.assert_close(joint_cross_entropy(logits.sum(0), y), expected)
    expected = sum(torch.nn.functional.cross_entropy(f, y) for f in logits)
    torch.testing.assert_close(unimodal_cross_entropy(logits, y), expected)
    observed = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0]]).bool()
    kept = observed[0]
    expected = torch.nn.functional.cross_entropy(logits[0][kept], y[kept])
    got = unimodal_cross_entropy(logits, y, None, observed)
    torch.testing.assert_close(got, expected)
    rows = torch.tensor([0, 1, 1, 2, 2, 2])
    w = torch.tensor([1.0, 2, 3, 0, 0, 0]).double()
    a = joint_cross_entropy(logits.sum(0), y, w)
    torch.testing.assert_close(a, joint_cross_entropy(logits.sum(0)[rows], y[rows]))


def test_ogm_damps_the_stronger_modality_only():
    y = torch.tensor([0, 1, 0, 1])
    strong = 3 * torch.nn.functional.one_hot(y, 2).double()
    logits = torch.stack([strong, torch.zeros_like(strong)])
    k = ogm_coefficients(logits, y, alpha=0.8)
    s = float(torch.softmax(strong, 1)[0, 0])
    assert float(k[0]) == pytest.approx(1 - math.tanh(0.8 * s / 0.5))
    assert float(k[1]) == 1
    assert ogm_coefficients(logits[:1], y).tolist() == [1.0]
    observed = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    torch.testing.assert_close(ogm_coefficients(logits, y, observed=observed), k)
    logits = torch.randn(2, 4, 2, dtype=torch.float64)
    rows = torch.tensor([0, 0, 2, 3])
    w = torch.tensor([2.0, 0, 1, 1]).double()
    torch.testing.assert_close(
        ogm_coefficients(logits, y, w), ogm_coefficients(logits[:, rows], y[rows])
    )
