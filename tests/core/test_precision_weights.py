"""Weights from a prior by their definition, and the criterion by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skmm.core.precision_weights import (
    SMALLEST_WEIGHT,
    default_midpoint,
    extended_bic,
    tailored_weights,
)


def draw_prior(seed, p=6, *batch):
    rng = np.random.default_rng(seed)
    v = rng.random((*batch, p, p)) * rng.choice([0.2, 1.0])
    return torch.as_tensor((v + v.swapaxes(-1, -2)) / 2)


def off(matrix):
    return matrix[..., ~torch.eye(matrix.shape[-1], dtype=torch.bool)]


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("midpoint", [0.0, 0.3, 1.0])
def test_without_steepness_all_weights_are_one(batch, midpoint):
    for seed in range(3):
        weights = tailored_weights(draw_prior(seed, 6, *batch), 0.0, midpoint)
        # A mean of equal numbers, to its rounding.
        torch.testing.assert_close(weights, torch.ones(*batch, 6, 6).double())


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    p=st.integers(2, 8),
    steepness=st.floats(0, 40),
    midpoint=st.floats(0, 1),
    batch=st.sampled_from([(), (1,), (3,)]),
)
def test_weights_by_their_definition(seed, p, steepness, midpoint, batch):
    prior = draw_prior(seed, p, *batch)
    weights = tailored_weights(prior, steepness, midpoint)
    v = prior.numpy()
    pull = 1 - 1 / (1 + np.exp(-steepness * (v - midpoint)))
    mask = ~np.eye(p, dtype=bool)
    mean = pull[..., mask].mean(-1)[..., None, None]
    # 1 - 1 / (1 + e) loses the digits of a small e: the definition is trusted to 1e-16
    # over the mean.
    assume((mean > 1e-7).all())
    expected = np.where(mask, np.maximum(pull / mean, SMALLEST_WEIGHT), 1)
    np.testing.assert_allclose(weights, expected, rtol=1e-8, atol=1e-8)
    # torch's sigmoid differs by its last bit with an entry's place in memory.
    torch.testing.assert_close(weights, weights.mT, rtol=1e-15, atol=0)
    assert float(weights.min()) >= SMALLEST_WEIGHT
    average = off(weights).mean(-1).numpy()
    lifted = (pull / mean < SMALLEST_WEIGHT)[..., mask].mean(-1)
    # One, but for what the weights below 0.01 were lifted by.
    assert (average >= 1 - 1e-12).all()
    assert (average <= 1 + SMALLEST_WEIGHT * lifted + 1e-12).all()
    # Stronger edges are penalised less.
    order = np.argsort(v[..., mask], axis=-1)
    sorted_weights = np.take_along_axis(off(weights).numpy(), order, axis=-1)
    assert (np.diff(sorted_weights, axis=-1) <= 1e-14).all()


def test_weight_is_halfway_at_the_midpoint():
    prior = torch.zeros(3, 3, dtype=torch.float64)
    prior[0, 1] = prior[1, 0] = 0.4
    prior[0, 2] = prior[2, 0] = 0.4 - 0.1
    prior[1, 2] = prior[2, 1] = 0.4 + 0.1
    weights = tailored_weights(prior, 20.0, 0.4)
    # P is 1/2 at the midpoint and symmetric around it, so that the mean is 1/2 too.
    assert float(weights[0, 1]) == pytest.approx(1, rel=1e-14)
    low = 1 / (1 + math.exp(20 * 0.1))
    assert float(weights[1, 2]) == pytest.approx(2 * low, rel=1e-12)
    assert float(weights[0, 2]) == pytest.approx(2 * (1 - low), rel=1e-12)


def test_each_matrix_of_a_batch_has_its_own_mean():
    prior = draw_prior(4, 5, 3)
    together = tailored_weights(prior, 10.0, 0.4)
    for c in range(3):
        # The same operations.
        torch.testing.assert_close(
            together[c], tailored_weights(prior[c], 10.0, 0.4), rtol=1e-14, atol=0
        )


def test_one_node():
    assert tailored_weights(torch.ones(1, 1), 5.0, 0.5).tolist() == [[1.0]]
    assert default_midpoint(torch.ones(1, 1)) == 0.5


def test_midpoint_of_a_sparse_prior_is_a_low_quantile():
    prior = torch.zeros(30, 30, dtype=torch.float64)
    rng = np.random.default_rng(0)
    rows, columns = np.triu_indices(30, 1)
    chosen = rng.permutation(len(rows))[:100]
    strengths = np.arange(1, 101) / 101
    prior[rows[chosen], columns[chosen]] = torch.as_tensor(strengths)
    prior = prior + prior.T
    # More than half of the pairs are zero. Each strength stands twice: the entry at
    # 5 % of 199 is the tenth of 200, which is the fifth strength.
    assert default_midpoint(prior) == pytest.approx(5 / 101, rel=1e-15)
    # The diagonal, zeros and ones take no part.
    prior.fill_diagonal_(0.001)
    assert default_midpoint(prior) == pytest.approx(5 / 101, rel=1e-15)
    certain = prior.clone()
    at = int(rows[chosen[-1]]), int(columns[chosen[-1]])
    certain[at] = certain[at[::-1]] = 1.0
    assert default_midpoint(certain) == pytest.approx(5 / 101, rel=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_midpoint_of_a_dense_prior_is_the_median(seed):
    prior = draw_prior(seed, 9)
    entries = np.sort(off(prior).numpy())
    assert default_midpoint(prior) == entries[(len(entries) - 1) // 2]
    # Half of the pairs zero is still dense.
    prior = torch.zeros(4, 4, dtype=torch.float64)
    for (i, j), v in {(0, 1): 0.2, (0, 2): 0.4, (0, 3): 0.6}.items():
        prior[i, j] = prior[j, i] = v
    assert default_midpoint(prior) == 0.4


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_midpoint_of_a_prior_of_zeros_or_ones(value):
    assert default_midpoint(torch.full((4, 4), value)) == 0.5


def hand_bic(common, specific, smooth, n_rows, gamma):
    p = len(common)
    edges = sum(common[i, j] != 0 for i in range(p) for j in range(i))
    for part in specific if specific is not None else ():
        edges += sum(part[i, j] != 0 for i in range(p) for j in range(i))
    n = sum(n_rows)
    value = sum(a * b for a, b in zip(n_rows, smooth, strict=True))
    return value + edges * math.log(n) + 4 * gamma * edges * math.log(p)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("single", [False, True])
def test_extended_bic_by_hand(seed, gamma, single):
    rng = np.random.default_rng(seed)
    n_classes = 1 if single else 3
    parts = rng.normal(size=(n_classes + 1, 7, 7))
    parts *= rng.random(parts.shape) < 0.3
    parts = parts + parts.swapaxes(1, 2)
    parts += np.eye(7)  # the diagonal is no edge
    smooth, n_rows = rng.normal(size=n_classes) * 10, rng.integers(5, 50, n_classes)
    specific = None if single else parts[1:]
    found = extended_bic(
        torch.as_tensor(parts[0]),
        None if single else torch.as_tensor(specific),
        torch.as_tensor(smooth),
        torch.as_tensor(n_rows),
        gamma,
    )
    expected = hand_bic(parts[0], specific, smooth, n_rows.tolist(), gamma)
    # Rounding of a sum of some hundreds.
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_shared_edge_counts_once():
    edge = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    none = torch.eye(2, dtype=torch.float64)
    smooth, n_rows = torch.zeros(3).double(), torch.tensor([10, 10, 10])
    shared = extended_bic(edge, none.expand(3, 2, 2), smooth, n_rows, 0.0)
    apart = extended_bic(none, edge.expand(3, 2, 2), smooth, n_rows, 0.0)
    assert shared == pytest.approx(math.log(30), rel=1e-14)
    assert apart == pytest.approx(3 * math.log(30), rel=1e-14)
