"""The mixture over embeddings: its loss, its sticks, what it fills in."""

import math

import numpy as np
import pytest
import torch

from skmm.core.mixture_network import (
    FUSIONS,
    EmbeddingMixture,
    MixtureFusionNetwork,
    build_fusion,
    task_factor,
)
from skmm.core.networks import build_encoder

SEEDS = range(3)


def make(seed=0, m=2, k=3, d=4, eta=1.0):
    torch.manual_seed(seed)
    mixture = EmbeddingMixture(m, k, d, eta).double()
    mixture.set_components(
        torch.randn(m, k, d, dtype=torch.float64) / 2,
        torch.rand(m, k, d, dtype=torch.float64) * 0.5 + 0.3,
    )
    z = torch.nn.functional.normalize(torch.randn(m, 10, d, dtype=torch.float64), dim=2)
    observed = torch.rand(m, 10) > 0.3
    observed[:, 0] = True
    observed[:, 1] = False
    return mixture, z, observed


@pytest.mark.parametrize("seed", SEEDS)
def test_logits_are_log_weights_plus_log_densities(seed):
    mixture, z, observed = make(seed)
    logits = mixture.logits(z, observed).detach()
    law = torch.distributions.Normal(mixture.means, mixture.scales)
    log_left = 0.0
    for j in range(6):
        m, k = divmod(j, 3)
        a, b = mixture.a[j], mixture.b[j]
        log_weight = torch.digamma(a) - torch.digamma(a + b) + log_left
        log_left = log_left + torch.digamma(b) - torch.digamma(a + b)
        for i in range(10):
            expected = law.log_prob(z[m, i][None, None])[m, k].sum() + log_weight
            if observed[m, i]:
                torch.testing.assert_close(logits[i, j], expected.detach())
            else:
                assert logits[i, j] == -torch.inf


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_of_the_loss(seed):
    mixture, z, observed = make(seed)
    z = z.clone().requires_grad_()

    def loss(z, means, scales):
        return torch.func.functional_call(
            _Loss(mixture, observed),
            {"mixture.flat_means": means, "mixture.flat_scales": scales},
            (z,),
        )

    assert torch.autograd.gradcheck(
        loss,
        (
            z,
            mixture.flat_means.detach().requires_grad_(),
            mixture.flat_scales.detach().requires_grad_(),
        ),
    )


class _Loss(torch.nn.Module):
    def __init__(self, mixture, observed):
        super().__init__()
        self.mixture, self.observed = mixture, observed

    def forward(self, z):
        return self.mixture.loss(z, self.observed, None, 50.0)[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_are_repetitions(seed):
    mixture, z, observed = make(seed)
    weight = torch.tensor([2, 1, 0, 3, 1, 1, 0, 1, 2, 1], dtype=torch.float64)
    index = torch.repeat_interleave(torch.arange(10), weight.long())
    one, share = mixture.loss(z, observed, weight, 12.0)
    other, again = mixture.loss(z[:, index], observed[:, index], None, 12.0)
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(share, again)


def test_scales_can_not_vanish_nor_grow_for_free():
    """All embeddings in one point: the density is bounded, and wide scales cost."""
    mixture, z, observed = make()
    z = z[:, :1].expand_as(z)
    values = []
    for scale in (1e-6, 0.05, 1.0, 100.0):
        mixture.set_components(
            z[:, :1].expand(2, 3, 4).clone(), torch.full((2, 3, 4), scale).double()
        )
        values.append(float(mixture.loss(z, observed, None, 10.0)[0].detach()))
    assert np.isfinite(values).all()
    assert mixture.scales.min() >= 0.1 / math.sqrt(4)
    # The published logits, with each component's entropy added, would not change.
    assert values == sorted(values)


@pytest.mark.parametrize("eta", [0.5, 1.0, 3.0])
def test_published_sticks_see_one_row_at_most(eta):
    mixture, z, observed = make(eta=eta)
    for _ in range(5):
        _, share = mixture.loss(z, observed, None, 10.0)
        mixture.update_sticks(share, 1000.0, 1.0, 0.7, mean=True)
        assert (mixture.a >= 1).all() and (mixture.a <= 2).all()
        assert (mixture.b >= eta).all() and (mixture.b <= eta + 1).all()


def test_sticks_count_the_rows():
    mixture, z, observed = make()
    _, share = mixture.loss(z, observed, None, 1000.0)
    assert float(share.sum()) == pytest.approx(1)
    mixture.update_sticks(share, 1000.0, 1.0, 0.7, mean=False)  # a rate of one
    assert float((mixture.a - 1).sum()) == pytest.approx(1000)
    before = mixture.a.clone()
    mixture.update_sticks(share * 0, 1000.0, 1.0, 0.7, mean=False)
    rate = 2**-0.7
    torch.testing.assert_close(mixture.a, (1 - rate) * before + rate)


def test_published_entropy_cancels_the_log_determinant():
    """Why it is left out: log N + H is D/2 less half the squared distance."""
    law = torch.distributions.Normal(torch.zeros(5), torch.rand(5) + 0.1)
    z = torch.randn(5)
    both = (law.log_prob(z) + law.entropy()).sum()
    torch.testing.assert_close(both, 2.5 - 0.5 * ((z / law.stddev) ** 2).sum())


@pytest.mark.parametrize("draw", [False, True])
def test_absent_embeddings_are_filled_from_the_mixture(draw):
    mixture, _, _ = make()
    z = torch.zeros(2, 20000, 4, dtype=torch.float64)
    observed = torch.zeros(2, 20000, dtype=torch.bool)
    observed[1] = True
    filled = mixture.fill(z, observed, draw).detach()
    assert torch.equal(filled[1], z[1])
    weights = mixture.weights()[0].detach()
    assert float(weights.sum()) == pytest.approx(1)
    mean = weights @ mixture.means[0].detach()
    # Five standard errors of the mean of 20000 draws with a spread below 1.
    atol = 0.035 if draw else 1e-12
    torch.testing.assert_close(filled[0].mean(0), mean, rtol=0, atol=atol)
    assert (filled[0].std(0) > 0.1).all() == draw


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("kind", FUSIONS)
def test_every_fusion_sees_every_modality(kind, m):
    torch.manual_seed(0)
    encoders = [build_encoder("linear", (5,), 8, (), 0.0) for _ in range(m)]
    fusion, n_fused = build_fusion(kind, m, 8)
    network = MixtureFusionNetwork(
        encoders, [(5,)] * m, EmbeddingMixture(m, 2, 8, 1.0), fusion, n_fused, 3
    )
    blocks = [torch.randn(6, 5, requires_grad=True) for _ in range(m)]
    z, _ = network(blocks, [None] * m)
    torch.testing.assert_close(z.norm(dim=2), torch.ones(m, 6))
    fused = network.fused(z, torch.ones(m, 6, dtype=torch.bool))
    assert fused.shape == (6, n_fused)
    assert network.head(fused).shape == (6, 3)
    fused.square().sum().backward()
    assert all(block.grad.abs().max() > 0 for block in blocks)


def test_the_task_grows_to_a_thousand():
    assert task_factor(0, 0.1) == 1
    assert task_factor(10, 0.1) == pytest.approx(math.e)
    assert task_factor(10**6, 0.1) == 1000
