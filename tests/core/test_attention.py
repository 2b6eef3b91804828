"""Attention, footprint prior and graph smoothing against loops, in float64."""

import math

import pytest
import torch

from skmm.core.attention import (
    attention,
    centroids,
    finish_prior,
    footprint_prior,
    footprint_similarity,
    graph_operator,
    grid_positions,
    likeness,
    node_scores,
    node_vectors,
    smooth_over_graph,
    spatial_factor,
)

SEEDS = range(5)
N, K, ROWS, COLUMNS, D = 4, 5, 2, 3, 7
# Sums of a few dozen float64 terms of size one.
EXACT = {"rtol": 0, "atol": 1e-13}


def draw(seed):
    g = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(K, D, generator=g, dtype=torch.float64)
    patches = torch.randn(N, ROWS * COLUMNS, D, generator=g, dtype=torch.float64)
    present = torch.rand(N, ROWS * COLUMNS, generator=g) > 0.3
    present[:, 0] = True
    return prototypes, patches, present


def cosine(a, b):
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def loop_attention(prototypes, patches, temperature, present):
    alpha = torch.zeros(len(patches), len(prototypes), patches.shape[1]).double()
    for i, image in enumerate(patches):
        for k, prototype in enumerate(prototypes):
            logits = [
                cosine(prototype, p) / (temperature * math.sqrt(D)) for p in image
            ]
            weights = [
                math.exp(logit) * bool(on)
                for logit, on in zip(logits, present[i], strict=True)
            ]
            alpha[i, k] = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return alpha


def loop_prior(alpha, scale=None):
    positions = [
        ((r + 0.5) / ROWS, (c + 0.5) / COLUMNS)
        for r in range(ROWS)
        for c in range(COLUMNS)
    ]
    prior = torch.zeros(K, K).double()
    for image in alpha:
        centres = [
            [
                sum(float(a) * p[axis] for a, p in zip(row, positions, strict=True))
                for axis in (0, 1)
            ]
            for row in image
        ]
        for j in range(K):
            for k in range(K):
                value = cosine(image[j], image[k])
                if scale is not None:
                    distance = math.dist(centres[j], centres[k])
                    value *= math.exp(-(distance**2) / (2 * scale**2))
                prior[j, k] += value / len(alpha)
    return prior


@pytest.mark.parametrize("seed", SEEDS)
def test_attention_equals_the_loop(seed):
    prototypes, patches, present = draw(seed)
    alpha = attention(prototypes, patches, 0.1, present)
    torch.testing.assert_close(
        alpha, loop_attention(prototypes, patches, 0.1, present), **EXACT
    )
    torch.testing.assert_close(alpha.sum(-1), torch.ones(N, K).double(), **EXACT)
    assert (alpha.transpose(1, 2)[~present] == 0).all()
    everything = torch.ones_like(present)
    torch.testing.assert_close(
        attention(prototypes, patches, 0.1),
        attention(prototypes, patches, 0.1, everything),
        **EXACT,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_footprints_are_normalised_likeness(seed):
    prototypes, patches, present = draw(seed)
    alike = likeness(prototypes, patches, 0.1, present)
    alpha = attention(prototypes, patches, 0.1, present)
    torch.testing.assert_close(alike / alike.sum(-1, keepdim=True), alpha, **EXACT)
    assert ((alike >= 0) & (alike <= 1)).all()
    same = likeness(prototypes, 2 * prototypes.expand(1, K, D), 0.1)
    torch.testing.assert_close(same[0].diagonal(), torch.ones(K).double(), **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_equal_the_loop(seed):
    prototypes, patches, present = draw(seed)
    alpha = attention(prototypes, patches, 0.1, present)
    vectors = node_vectors(alpha, patches)
    scores = node_scores(vectors, prototypes)
    for i in range(N):
        for k in range(K):
            vector = sum(
                alpha[i, k, j] * patches[i, j] / patches[i, j].norm()
                for j in range(ROWS * COLUMNS)
            )
            torch.testing.assert_close(vectors[i, k], vector, **EXACT)
            assert float(scores[i, k]) == pytest.approx(
                cosine(vector, prototypes[k]), abs=1e-13
            )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_prior_equals_the_loop(seed, scale):
    prototypes, patches, present = draw(seed)
    alpha = attention(prototypes, patches, 0.05, present)
    positions = grid_positions(ROWS, COLUMNS)
    prior = footprint_prior(alpha, positions, scale)
    torch.testing.assert_close(prior, loop_prior(alpha, scale), **EXACT)
    assert (prior >= 0).all()
    assert (prior <= 1).all()
    assert (prior.diagonal() == 1).all()
    assert torch.equal(prior, prior.T)
    # Batches may be added up.
    parts = [
        footprint_similarity(part, positions, scale).sum(0) for part in alpha.split(3)
    ]
    torch.testing.assert_close(finish_prior(sum(parts), N), prior, **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
def test_permuted_prototypes_permute(seed):
    prototypes, patches, present = draw(seed)
    order = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
    alpha = attention(prototypes, patches, 0.1, present)
    permuted = attention(prototypes[order], patches, 0.1, present)
    torch.testing.assert_close(permuted, alpha[:, order], **EXACT)
    torch.testing.assert_close(
        footprint_prior(permuted), footprint_prior(alpha)[order][:, order], **EXACT
    )
    # The order of patches changes neither vectors nor prior.
    g = torch.Generator().manual_seed(seed)
    shuffle = torch.randperm(ROWS * COLUMNS, generator=g)
    moved = attention(prototypes, patches[:, shuffle], 0.1, present[:, shuffle])
    torch.testing.assert_close(moved, alpha[..., shuffle], **EXACT)
    torch.testing.assert_close(
        node_vectors(moved, patches[:, shuffle]), node_vectors(alpha, patches), **EXACT
    )
    torch.testing.assert_close(footprint_prior(moved), footprint_prior(alpha), **EXACT)


def test_length_of_features_does_not_matter():
    prototypes, patches, _ = draw(0)
    torch.testing.assert_close(
        attention(3 * prototypes, 0.2 * patches, 0.1),
        attention(prototypes, patches, 0.1),
        **EXACT,
    )


def test_limits_of_the_temperature():
    prototypes, patches, _ = draw(0)
    flat = attention(prototypes, patches, 1e9)
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / (ROWS * COLUMNS)))
    sharp = attention(prototypes, patches, 1e-6)
    assert torch.equal(sharp.argmax(-1), flat.argmax(-1))
    torch.testing.assert_close(sharp.amax(-1), torch.ones(N, K).double())


def test_image_without_patches():
    prototypes, patches, present = draw(0)
    present[1] = False
    alpha = attention(prototypes, patches, 0.1, present)
    assert (alpha[1] == 0).all()
    assert (node_scores(node_vectors(alpha, patches), prototypes)[1] == 0).all()
    assert alpha.isfinite().all()


def test_centroids_and_spatial_factor():
    positions = grid_positions(2, 2)
    alpha = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(centroids(alpha, positions), positions, **EXACT)
    factor = spatial_factor(positions, 0.5)
    assert (factor.diagonal() == 1).all()
    # Neighbours are half a side apart, opposite corners sqrt(2) times that.
    assert float(factor[0, 1]) == pytest.approx(math.exp(-0.5))
    assert float(factor[0, 3]) == pytest.approx(math.exp(-1.0))


def test_no_image_gives_the_unit_matrix():
    assert torch.equal(finish_prior(torch.zeros(3, 3), 0), torch.eye(3))


@pytest.mark.parametrize("seed", SEEDS)
def test_smoothing_equals_the_loop(seed):
    g = torch.Generator().manual_seed(seed)
    precision = torch.randn(2, K, K, generator=g, dtype=torch.float64)
    precision = precision + precision.transpose(1, 2)
    precision[:, 0, 1:] = precision[:, 1:, 0] = 0  # a node alone
    scores = torch.randn(3, 2, K, generator=g, dtype=torch.float64)
    graph = graph_operator(precision)
    assert torch.linalg.eigvalsh(graph).abs().max() <= 1 + 1e-12
    smooth = smooth_over_graph(scores, graph, amount=0.4, rounds=3)
    for i in range(3):
        for c in range(2):
            degree = [
                sum(abs(float(precision[c, j, k])) for k in range(K) if k != j)
                for j in range(K)
            ]
            f = [float(v) for v in scores[i, c]]
            for _ in range(3):
                f = [
                    f[j]
                    if degree[j] == 0
                    else 0.6 * f[j]
                    + 0.4
                    * sum(
                        abs(float(precision[c, j, k]))
                        / math.sqrt(degree[j] * degree[k])
                        * f[k]
                        for k in range(K)
                        if k != j and degree[k] > 0
                    )
                    for j in range(K)
                ]
            torch.testing.assert_close(
                smooth[i, c], torch.tensor(f, dtype=torch.float64), **EXACT
            )


def test_nothing_to_smooth():
    scores = torch.arange(6.0).reshape(2, 3)
    empty = graph_operator(torch.eye(3))
    assert torch.equal(smooth_over_graph(scores, empty), scores)
    full = graph_operator(torch.ones(3, 3))
    assert torch.equal(smooth_over_graph(scores, full, rounds=0), scores)
    assert torch.equal(smooth_over_graph(scores, full, amount=0.0), scores)
