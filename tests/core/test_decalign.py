"""The network of DecAlign and its objective against loops over rows, in float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import nn
from torch.nn import functional as F

from skmm.core.decalign import (
    BLEND,
    DecAlignNetwork,
    Memory,
    ModalityPart,
    Parts,
    Settings,
    alignment_terms,
    heterogeneity,
    homogeneity,
    keep_some,
    match_all,
    match_prototypes,
    pair_contrast,
    pair_costs,
    prototypes_of,
    reconstruction,
    seen_together,
)
from skmm.core.prototypes import (
    Prototypes,
    blend,
    full_covariances,
    log_likelihood,
    moment_step,
    responsibilities,
)
from skmm.core.tokens import LEAST_SPREAD, RefinerLayer, build_tokens, positions
from skmm.core.transport import Plan, StarPlan

SEEDS = range(3)
# Sums of some hundred float64 terms of size ten, through a few layers.
EXACT = {"rtol": 1e-10, "atol": 1e-10}
seeds = st.integers(0, 10_000)

D, K, N = 4, 3, 6
VECTOR, SEQUENCE, PICTURE = (5,), (6, 2), (1, 9, 4)
SHAPES = (VECTOR, SEQUENCE, PICTURE)
FUSIONS = pytest.mark.parametrize("fusion", ["cross", "self", "none"])
IMPUTATIONS = pytest.mark.parametrize("imputation", ["transport", "token"])


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def ones(*size):
    return torch.ones(size, dtype=torch.float64)


def mixture(seed, m, k=K, d=D, full=False):
    """Prototypes of m modalities whose components overlap."""
    weights = normal(m, k, seed=seed).softmax(-1)
    means = normal(m, k, d, seed=seed + 1)
    if full:
        root = 0.5 * normal(m, k, d, d, seed=seed + 2)
        return Prototypes(weights, means, root @ root.mT + 0.5 * torch.eye(d))
    return Prototypes(weights, means, (0.5 * normal(m, k, d, seed=seed + 2)).exp())


def build(seed=0, shapes=SHAPES, n_tokens=4, n_layers=2, decode=False, **options):
    """A network of which every parameter and every carried number is drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [
            ModalityPart(
                build_tokens("auto", shape, D, (7,), n_tokens=n_tokens),
                shape,
                D,
                [RefinerLayer(D, 2) for _ in range(n_layers)],
                nn.Linear(2 * D, math.prod(shape)) if decode else None,
            )
            for shape in shapes
        ]
        network = DecAlignNetwork(parts, D, K, n_outputs=2, **options).double().eval()
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5)
    m = len(shapes)
    carry(network, mixture(seed, m, full=options.get("full", False)))
    network.matches.copy_(normal(m, m, K, K, seed=seed).softmax(-1))
    network.middle.copy_(normal(D, seed=seed + 9))
    return network


def carry(network, prototypes):
    """Let the network hold these mixtures, as if training had left them."""
    network.started.zero_()
    network.keep(prototypes, torch.arange(len(network)), 1.0)


def draw(seed=0, n=N, shapes=SHAPES):
    """Blocks, and the real steps of sequences, at least one in each row."""
    blocks, steps = [], []
    for m, shape in enumerate(shapes):
        blocks.append(normal(n, math.prod(shape), seed=100 * seed + m))
        if len(shape) == 2:
            generator = torch.Generator().manual_seed(seed)
            lengths = torch.randint(1, shape[0] + 1, (n,), generator=generator)
            steps.append(torch.arange(shape[0]) < lengths[:, None])
        else:
            steps.append(None)
    return blocks, steps


def some_rows(batch, rows):
    blocks, steps = batch
    return [b[rows] for b in blocks], [None if s is None else s[rows] for s in steps]


def some_observed(seed=0, n=N, m=3):
    """Every modality lacks a row and no row lacks all."""
    observed = normal(m, n, seed=seed + 40) > -0.3
    observed[torch.arange(m), torch.arange(m)] = False
    observed[(torch.arange(n) + 1) % m, torch.arange(n)] = True
    return observed


def fill_absent(batch, observed, value):
    """The batch with `value` in absent blocks and at padded steps."""
    blocks, steps = batch
    filled = []
    for block, mask, there in zip(blocks, steps, observed, strict=True):
        block = torch.where(there[:, None], block, value)
        if mask is not None:
            wide = mask.repeat_interleave(block.shape[1] // mask.shape[1], 1)
            block = torch.where(wide, block, value)
        filled.append(block)
    return filled, steps


def tensors_of(parts):
    return (
        parts.unique_mean,
        parts.common_mean,
        parts.refined,
        parts.fused,
        parts.output,
    )


def assert_close(found, expected, **close):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **(close or EXACT))


# ------------------------------------------------------------------------- network


def pooled(pool, tokens, part):
    """Mean, spread and largest value of real tokens ``(1, t, d)``, mapped; ``(d,)``."""
    if len(part.shape) == 1:
        return tokens[0, 0]
    spread = (tokens[0].var(0, unbiased=False) + LEAST_SPREAD).sqrt()
    parts = [tokens[0].mean(0), spread, tokens[0].amax(0)]
    return pool.map.weight @ torch.cat(parts)


def loop_forward(network, batch, observed):
    """One row at a time, of what is there alone, without any mask."""
    blocks, steps = batch
    m, n = observed.shape
    unique, common = torch.zeros(2, m, n, D).double()
    refined, shared = torch.zeros(2, m, n, D).double()
    for row in range(n):
        tokens = {}
        for i, part in enumerate(network.modalities):
            if not observed[i, row]:
                continue
            x = blocks[i][row : row + 1].unflatten(1, part.shape)
            mask = None if steps[i] is None else steps[i][row : row + 1]
            t, real = part.front(x, mask)
            tokens[i] = t if real is None else t[:, real[0]]
            s, c = (tokens[i] @ f.weight.T for f in (part.unique, network.common))
            unique[i, row] = pooled(part.pool, s, part)
            common[i, row] = pooled(network.pool, c, part)
        present = [*tokens]
        share = {
            i: responsibilities(unique[i, row][None], network.prototypes[i])[0]
            for i in present
        }
        queries, keys, stand_ins = {}, {}, {}
        for i, part in enumerate(network.modalities):
            if i in tokens:
                queries[i] = tokens[i] @ part.unique.weight.T
                shared[i, row] = common[i, row]
            else:
                if network.imputation == "token":
                    stand_in = network.absent[i]
                elif present:
                    said = [share[j] @ network.matches[j, i] for j in present]
                    stand_in = sum(said) / len(said) @ network.means[i]
                else:
                    stand_in = network.weights[i] @ network.means[i]
                queries[i], stand_ins[i] = stand_in[None, None], stand_in
                means = [common[j, row] for j in present]
                shared[i, row] = sum(means) / len(means) if means else network.middle
            if len(network.modalities[i].shape) != 1 and network.fusion != "none":
                queries[i] = queries[i] + positions(queries[i].shape[1], D)
            if i in tokens:
                keys[i] = queries[i] + network.names[i]
        for i, part in enumerate(network.modalities):
            h = queries[i]
            others = [keys[j] for j in present if j != i]
            if network.fusion == "cross":
                own = torch.cat(others, 1) if others else h[:, :0]
            for layer in part.layers if network.fusion != "none" else ():
                over = own if network.fusion == "cross" else None
                length = h.shape[1] if over is None else over.shape[1]
                h = layer(h, over, torch.ones(1, length, dtype=torch.bool))
            if network.fusion == "none":
                refined[i, row] = unique[i, row] if i in tokens else stand_ins[i]
                continue
            refined[i, row] = pooled(part.pool_refined, h, part)
    fused = torch.cat([*refined, *shared], 1)
    output = fused @ network.head.weight.T + network.head.bias
    return unique, common, refined, fused, output


class TestForward:
    @FUSIONS
    @IMPUTATIONS
    @pytest.mark.parametrize("seed", SEEDS)
    def test_row_by_row(self, seed, imputation, fusion):
        network = build(seed, fusion=fusion, imputation=imputation)
        batch, observed = draw(seed), some_observed(seed)
        with torch.no_grad():
            found = network(*batch, observed)
            assert_close(tensors_of(found), loop_forward(network, batch, observed))
            everywhere = torch.ones(3, N, dtype=torch.bool)
            assert_close(
                tensors_of(network(*batch)), loop_forward(network, batch, everywhere)
            )
        assert torch.equal(found.observed, observed)
        assert torch.equal(found.kept, observed)

    @FUSIONS
    def test_all_present_is_the_path_without_a_mask(self, fusion):
        network, batch = build(fusion=fusion), draw()
        observed = torch.ones(3, N, dtype=torch.bool)
        plain = tensors_of(network(*batch))
        for a, b in zip(plain, tensors_of(network(*batch, observed)), strict=True):
            assert torch.equal(a, b)
        # With a row more that lacks something the mask is used for all.
        longer = some_rows(batch, [*range(N), 0])
        observed = F.pad(observed, (0, 1))
        observed[0, -1] = True
        masked = tensors_of(network(*longer, observed))
        for a, b in zip(plain, masked, strict=True):
            torch.testing.assert_close(b[:N] if b.dim() == 2 else b[:, :N], a, **EXACT)

    @FUSIONS
    @IMPUTATIONS
    @pytest.mark.parametrize("seed", SEEDS)
    def test_no_row_depends_on_another(self, seed, imputation, fusion):
        network = build(seed, fusion=fusion, imputation=imputation)
        batch, observed = draw(seed), some_observed(seed)
        whole = network(*batch, observed)
        order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
        for rows in (order, order[:2], torch.tensor([3])):
            found = network(*some_rows(batch, rows), observed[:, rows])
            torch.testing.assert_close(found.fused, whole.fused[rows], **EXACT)
            torch.testing.assert_close(found.output, whole.output[rows], **EXACT)
            torch.testing.assert_close(
                found.unique_mean, whole.unique_mean[:, rows], **EXACT
            )

    @FUSIONS
    def test_padding_changes_nothing(self, fusion):
        network = build(fusion=fusion)
        blocks, steps = draw()
        expected = network(blocks, steps)
        front = network.modalities[1].front
        longer = F.pad(blocks[1].unflatten(1, SEQUENCE), (0, 0, 0, 5), value=8.0)
        network.modalities[1].shape = (11, 2)
        found = network(
            [blocks[0], longer.flatten(1), blocks[2]],
            [None, F.pad(steps[1], (0, 5)), None],
        )
        assert front.size == 2
        assert found.unique[1].shape[1] > expected.unique[1].shape[1]
        assert_close(tensors_of(found), tensors_of(expected))

    @FUSIONS
    @IMPUTATIONS
    @pytest.mark.parametrize("shapes", [(VECTOR,), (VECTOR, SEQUENCE), (VECTOR,) * 4])
    def test_every_subset_of_modalities_is_finite(self, shapes, imputation, fusion):
        m = len(shapes)
        network = build(1, shapes, fusion=fusion, imputation=imputation)
        subsets = torch.tensor([*itertools.product([True, False], repeat=m)]).T
        n = subsets.shape[1]
        parts = network(*draw(1, n, shapes), subsets)
        assert all(t.isfinite().all() for t in tensors_of(parts))
        assert parts.fused.shape == (n, 2 * m * D)
        assert (parts.unique_mean[~subsets] == 0).all()
        parts.output.sum().backward()
        assert all(
            p.grad is None or p.grad.isfinite().all() for p in network.parameters()
        )

    @FUSIONS
    @IMPUTATIONS
    @pytest.mark.parametrize("garbage", [0.0, 1e3, -1e20])
    def test_what_absent_blocks_hold_does_not_matter(self, garbage, imputation, fusion):
        network = build(fusion=fusion, imputation=imputation)
        observed = some_observed()
        found = []
        for value in (1.0, garbage):
            blocks, steps = fill_absent(draw(), observed, value)
            blocks = [b.requires_grad_() for b in blocks]
            parts = network(blocks, steps, observed)
            loss = parts.output.square().sum() + parts.unique_mean.square().sum()
            parameters = [p for p in network.parameters() if p.requires_grad]
            slopes = torch.autograd.grad(
                loss, [*blocks, *parameters], allow_unused=True, materialize_grads=True
            )
            for slope, there in zip(slopes, observed, strict=False):
                assert (slope[~there] == 0).all()
                assert (slope[there] != 0).any()
            padded = slopes[1].unflatten(1, SEQUENCE)[~steps[1]]
            assert (padded == 0).all()
            found.append([*tensors_of(parts), *slopes])
        assert_close(*found)

    def test_layout_of_the_fused_vector(self):
        network, batch = build(), draw()
        parts = network(*batch)
        torch.testing.assert_close(
            parts.fused.unflatten(1, (2, 3, D)).permute(1, 2, 0, 3),
            torch.stack([parts.refined, parts.common_mean]),
        )
        network.head = None
        assert network(*batch).output is None

    def test_fusion_none_is_the_unique_parts(self):
        network, batch = build(fusion="none"), draw()
        parts = network(*batch)
        torch.testing.assert_close(parts.refined, parts.unique_mean)

    def test_cross_looks_at_the_others_alone_and_self_at_itself(self):
        batch = draw(n=1)
        for fusion in ("cross", "self"):
            network = build(fusion=fusion)
            blocks = [b.clone().requires_grad_() for b in batch[0]]
            refined = network(blocks, batch[1]).refined
            for i, j in itertools.product(range(3), range(3)):
                slope = torch.autograd.grad(
                    refined[i].sum(), blocks[j], retain_graph=True, allow_unused=True
                )[0]
                touched = slope is not None and bool((slope != 0).any())
                assert touched == (fusion == "cross" or i == j)

    def test_modality_dropout_is_of_training(self):
        network, batch = build(modality_dropout=0.6), draw(n=40)
        observed = some_observed(n=40)
        assert torch.equal(network(*batch, observed).kept, observed)
        network.train()
        for part in network.modalities:
            part.front.eval()  # whose statistics are those of the batch in training
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parts = network(*batch, observed)
        assert (parts.kept <= parts.observed).all()
        assert (parts.kept != parts.observed).any()
        assert torch.equal(parts.observed, observed)
        # The losses still see the parts of what was left out of the fusion.
        network.eval()
        assert_close(tensors_of(parts)[:2], tensors_of(network(*batch, observed))[:2])
        expected = network(*batch, parts.kept)
        torch.testing.assert_close(parts.fused, expected.fused, **EXACT)

    def test_full_precision(self):
        network, batch = build().bfloat16(), draw()
        parts = network([b.bfloat16() for b in batch[0]], batch[1])
        wide = parts.in_full_precision()
        assert all(t.dtype == torch.float32 for t in (*tensors_of(wide), *wide.unique))
        double = build()(*batch)
        assert_close(tensors_of(double.in_full_precision()), tensors_of(double))

    def test_common_parts_of_some_rows(self):
        network, (blocks, steps) = build(), draw()
        expected = network(blocks, steps).common_mean
        for m in range(3):
            found = network.common_of(m, blocks[m], steps[m])
            torch.testing.assert_close(found, expected[m], **EXACT)

    def test_prototypes_are_in_float64(self):
        network = build().float()
        assert all(part.dtype == torch.float64 for part in network.prototypes)
        assert len(network) == 3


class TestMasks:
    @settings(max_examples=20)
    @given(seeds, st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    def test_keep_some_never_adds_and_leaves_one(self, seed, m, chance):
        observed = normal(m, 30, seed=seed) > 0
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            kept = keep_some(observed, chance)
        assert (kept <= observed).all()
        assert torch.equal(kept.any(0), observed.any(0))
        if chance == 0:
            assert torch.equal(kept, observed)
        if chance == 1:
            assert (kept.sum(0) <= 1).all()

    def test_keep_some_leaves_out_by_chance(self):
        observed = torch.ones(4, 5000, dtype=torch.bool)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            kept = keep_some(observed, 0.3)
        # All four are left out with chance 0.0081, when one stays; 5 standard errors.
        expected, error = 0.7 + 0.3**4 / 4, math.sqrt(0.21 / 20_000)
        assert abs(float(kept.double().mean()) - expected) < 5 * error
        # Which one stays is even among them.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            only = keep_some(observed, 1.0).double().mean(1)
        assert (only - 0.25).abs().max() < 5 * math.sqrt(0.1875 / 5000)


class TestImputation:
    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_shares_by_loop(self, seed, full):
        network, kept = build(seed, full=full), some_observed(seed)
        kept[:, 0] = False
        x = normal(3, N, D, seed=seed)
        x[~kept] = 1e3
        own = network.prototypes
        found = network.shares(x, kept)
        for j, n in itertools.product(range(3), range(N)):
            present = [i for i in range(3) if kept[i, n]]
            w = {i: responsibilities(x[i, n][None], own[i])[0] for i in present}
            if j in present:
                expected = w[j]
            elif present:
                expected = torch.zeros(K).double()
                for i, k, q in itertools.product(present, range(K), range(K)):
                    expected[q] += w[i][k] * network.matches[i, j, k, q] / len(present)
            else:
                expected = network.weights[j]
            torch.testing.assert_close(found[j, n], expected, **EXACT)
        torch.testing.assert_close(found.sum(-1), ones(3, N), **EXACT)
        torch.testing.assert_close(
            network.impute(x, kept)[1], found[1] @ network.means[1], **EXACT
        )

    def test_token_and_fill(self):
        network, kept = build(imputation="token"), some_observed()
        x = normal(3, N, D)
        stand_in = network.impute(x, kept)
        assert torch.equal(stand_in, network.absent[:, None].expand(3, N, D))
        filled = network.fill_unique(x, kept)
        assert torch.equal(filled[kept], x[kept])
        assert torch.equal(filled[~kept], stand_in[~kept])
        assert network.fill_unique(x, torch.ones_like(kept)) is x
        filled.sum().backward()
        count = (~kept).sum(1).double()[:, None]
        torch.testing.assert_close(network.absent.grad, count.expand(3, D))

    def test_mean_of_common(self):
        network, kept = build(), some_observed()
        kept[:, 0] = False
        x = normal(3, N, D)
        found = network.mean_of_common(x, kept)
        assert torch.equal(found[0], network.middle)
        for n in range(1, N):
            torch.testing.assert_close(found[n], x[kept[:, n], n].mean(0), **EXACT)


# ----------------------------------------------------------------------- objective


def plain_network(m=3, seed=0, *, started=True, **options):
    """Vectors as blocks: for terms of parts that a test makes by hand."""
    network = build(seed, (VECTOR,) * m, **options)
    network.started.fill_(started)
    return network


def by_hand(unique, common, observed=None):
    """Parts of one token a row."""
    m, n, _ = unique.shape
    if observed is None:
        observed = torch.ones(m, n, dtype=torch.bool)
    fused = torch.cat([*unique, *common], 1)
    return Parts(
        [*unique.unsqueeze(2)],
        [*common.unsqueeze(2)],
        [*observed.unsqueeze(2)],
        unique,
        common,
        unique,
        fused,
        None,
        observed,
        observed,
    )


def problem(seed, m=3, n=14):
    return 1.5 * normal(m, n, D, seed=seed), normal(m, n, D, seed=seed + 1).exp()


def terms_of(network, unique, common, settings, *arguments, observed=None):
    parts = by_hand(unique, common, observed)
    return alignment_terms(network, parts, settings, Memory(), *arguments)


# Plans that are solved to the last digits.
SOLVED = Settings(ot_tol=1e-12, ot_max_iter=2000)
OBJECTIVES = [
    SOLVED,
    Settings(prototype_match="plan", reduction="sum", ot_tol=1e-12, ot_rho=1.0),
    Settings(scale_free=False, decoupling="plain", ot_tol=1e-12, ot_max_iter=2000),
]
objectives = pytest.mark.parametrize("settings", OBJECTIVES)
# Plans depend on the order of sums by their tolerance.
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


class TestTerms:
    @objectives
    @pytest.mark.parametrize("seed", SEEDS)
    def test_order_of_the_batch(self, seed, settings):
        unique, common = problem(seed)
        network = plain_network(seed=seed)
        total, terms = terms_of(network, unique, common, settings)
        order = torch.randperm(14, generator=torch.Generator().manual_seed(seed))
        again, other = terms_of(network, unique[:, order], common[:, order], settings)
        assert [*terms] == [*other]
        torch.testing.assert_close(again, total, **CLOSE)
        assert_close(other.values(), terms.values(), **CLOSE)

    @objectives
    @pytest.mark.parametrize("seed", SEEDS)
    def test_relabelling_of_a_modalitys_prototypes(self, seed, settings):
        unique, common = problem(seed)
        network = plain_network(seed=seed)
        _, terms = terms_of(network, unique, common, settings)
        kept = Prototypes(*(part.clone() for part in network.prototypes))
        for part in kept:
            part[1] = part[1][torch.tensor([2, 0, 1])]
        carry(network, kept)
        _, other = terms_of(network, unique, common, settings)
        assert_close(other.values(), terms.values(), **CLOSE)

    def test_numbers_of_prototypes_matter_to_the_index_form(self):
        unique, common = problem(0)
        settings = Settings(prototype_match="index", ot_tol=1e-12, ot_max_iter=2000)
        network = plain_network()
        _, terms = terms_of(network, unique, common, settings)
        kept = Prototypes(*(part.clone() for part in network.prototypes))
        for part in kept:
            part[1] = part[1][torch.tensor([2, 0, 1])]
        carry(network, kept)
        _, other = terms_of(network, unique, common, settings)
        assert (other["prototypes"] - terms["prototypes"]).abs() > 1e-3
        torch.testing.assert_close(other["transport"], terms["transport"], **CLOSE)

    @objectives
    def test_row_weights_are_repetition(self, settings):
        unique, common = problem(3)
        times = torch.arange(14) % 3 + 1
        observed = some_observed(1, 14)
        longer = [v.repeat_interleave(times, 1) for v in (unique, common, observed)]
        settings = Settings(**{**vars(settings), "pair_weight": 1.0})
        network = plain_network()
        _, weighted = terms_of(
            network, unique, common, settings, times.double(), observed=observed
        )
        _, repeated = terms_of(
            network, longer[0], longer[1], settings, observed=longer[2]
        )
        if not settings.scale_free:
            # The published code's covariances divide by the number of rows less one.
            del weighted["moments"], repeated["moments"]
        assert_close(weighted.values(), repeated.values(), **CLOSE)

    @objectives
    @pytest.mark.parametrize("em", ["carried", "unrolled"])
    @pytest.mark.parametrize("started", [True, False])
    def test_absent_rows_have_no_part(self, started, em, settings):
        settings = Settings(**{**vars(settings), "em": em, "pair_weight": 0.5})
        observed = some_observed(2, 14)
        found = []
        for value in (0.0, 1e3):
            there = observed[..., None]
            parts = [torch.where(there, v, value).requires_grad_() for v in problem(2)]
            network = plain_network(started=started)
            total, terms = terms_of(network, *parts, settings, observed=observed)
            slopes = torch.autograd.grad(total, parts)
            for slope in slopes:
                assert (slope[~observed] == 0).all()
                assert (slope[observed] != 0).all()
            found.append([*terms.values(), *slopes])
        assert_close(*found, rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("em", ["carried", "unrolled"])
    @pytest.mark.parametrize("started", [True, False])
    def test_modality_whose_rows_weigh_nothing(self, started, em):
        """Rows are there, all with weight zero: finite, and no gradient."""
        unique, common = (v.requires_grad_() for v in problem(2))
        observed = torch.ones(3, 14, dtype=torch.bool)
        observed[2, 1:] = False
        weight = ones(14)
        weight[0] = 0
        network = plain_network(started=started)
        settings = Settings(em=em)
        total, _ = terms_of(
            network, unique, common, settings, weight, observed=observed
        )
        for slope in torch.autograd.grad(total, [unique, common]):
            assert slope.isfinite().all()
            assert (slope[2] == 0).all()
            assert (slope[:, 0] == 0).all()

    @pytest.mark.parametrize("pair_weight", [0.0, 1.0])
    def test_batch_that_weighs_nothing(self, pair_weight):
        unique, common = (v.requires_grad_() for v in problem(2))
        network = plain_network().train()
        before = [part.clone() for part in network.prototypes]
        settings = Settings(pair_weight=pair_weight)
        total, _ = terms_of(network, unique, common, settings, 0 * ones(14))
        assert total == 0
        assert_close(network.prototypes, before)

    def test_decoupling_of_all_tokens(self):
        network, batch, observed = build(), draw(), some_observed()
        parts = network(*batch, observed)
        weight = normal(N).abs()
        for form, reduction in (("squared", "mean"), ("plain", "sum")):
            settings = Settings(
                decoupling=form,
                reduction=reduction,
                decoupling_weight=2.0,
                heterogeneity_weight=0.0,
                homogeneity_weight=0.0,
            )
            network.imputation = "token"
            total, terms = alignment_terms(network, parts, settings, Memory(), weight)
            assert [*terms] == ["decoupling"]
            values = []
            for m in range(3):
                cosines, w = [], []
                for n in range(N):
                    if observed[m, n]:
                        s, c = (
                            parts.unique[m][n].flatten(),
                            parts.common[m][n].flatten(),
                        )
                        cosine = s @ c / (s.norm() * c.norm())
                        cosines.append(cosine**2 if form == "squared" else cosine)
                        w.append(weight[n])
                w = torch.stack(w)
                values.append((torch.stack(cosines) * w).sum() / w.sum())
            expected = sum(values) / (3 if reduction == "mean" else 1)
            torch.testing.assert_close(terms["decoupling"], expected, **EXACT)
            torch.testing.assert_close(total, 2 * expected, **EXACT)

    def test_total_is_the_weighted_sum(self):
        unique, common = problem(1)
        settings = Settings(
            decoupling_weight=0.3,
            heterogeneity_weight=0.2,
            homogeneity_weight=0.7,
            pair_weight=0.9,
        )
        total, terms = terms_of(plain_network(), unique, common, settings)
        expected = (
            0.3 * terms["decoupling"]
            + 0.2 * (terms["transport"] + terms["prototypes"])
            + 0.7 * (terms["moments"] + terms["mmd"])
            + 0.9 * terms["pairs"]
        )
        torch.testing.assert_close(total, expected, **EXACT)

    def test_terms_of_weight_zero(self):
        unique, common = (v.requires_grad_() for v in problem(1))
        off = Settings(
            decoupling_weight=0.0, heterogeneity_weight=0.0, homogeneity_weight=0.0
        )
        network = plain_network(imputation="token").train()
        before = network.prototypes
        total, terms = terms_of(network, unique, common, off)
        assert total == 0
        assert terms == {}
        assert_close(network.prototypes, before)
        # What stands for absent parts needs the plan all the same, without gradient.
        network = plain_network().train()
        total, terms = terms_of(network, unique, common, off)
        assert {*terms} == {"transport", "prototypes"}
        assert not any(t.requires_grad for t in (total, *terms.values()))
        assert (network.means != before.means).any()

    @pytest.mark.parametrize("m", [1, 2, 4])
    def test_other_numbers_of_modalities(self, m):
        unique, common = (v.requires_grad_() for v in problem(m, m))
        network = plain_network(m).train()
        settings = Settings(pair_weight=1.0)
        total, terms = terms_of(network, unique, common, settings)
        every = {"decoupling", "transport", "prototypes", "moments", "mmd", "pairs"}
        assert {*terms} == ({"decoupling"} if m == 1 else every)
        for slope in torch.autograd.grad(total, [unique, common]):
            assert slope.isfinite().all()
            assert (slope != 0).any()

    def test_two_modalities_are_each_others(self):
        """M = 2 of three, of which the third is absent from the batch."""
        unique, common = problem(5)
        observed = torch.ones(3, 14, dtype=torch.bool)
        observed[2] = False
        network = plain_network()
        _, terms = terms_of(network, unique, common, SOLVED, observed=observed)
        pair = plain_network(2)
        carry(pair, network.prototypes[:2])
        _, expected = terms_of(pair, unique[:2], common[:2], SOLVED)
        assert_close(terms.values(), expected.values(), **CLOSE)


class TestTransport:
    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_costs_of_pairs(self, reduction, full):
        own = mixture(2, 3, full=full)
        costs = pair_costs(own, reduction, 2.0)
        assert [*costs] == [(0, 1), (0, 2), (1, 2)]
        wide = own if full else full_covariances(own)
        for (i, j), found in costs.items():
            for k, q in itertools.product(range(K), range(K)):
                a, b = wide.covariances[i, k].numpy(), wide.covariances[j, q].numpy()
                root = sqrtm(a)
                cross = sqrtm(root @ b @ root).real
                square = (own.means[i, k] - own.means[j, q]).square().sum()
                expected = float(square) + (a + b - 2 * cross).trace()
                expected /= 4 * (D if reduction == "mean" else 1)
                torch.testing.assert_close(
                    float(found[k, q]), float(expected), rtol=1e-8, atol=1e-8
                )

    @pytest.mark.parametrize("full", [False, True])
    def test_matches_are_the_plans_conditionals(self, full):
        own, memory = mixture(2, 3, full=full), Memory()
        plan, matches = match_prototypes(own, SOLVED, 1.3, memory)
        assert isinstance(plan, Plan)
        for i, j in itertools.product(range(3), range(3)):
            if i == j:
                expected = torch.eye(K).double()
            else:
                axis = 3 - i - j
                pair = plan.plan.sum(axis)
                pair = pair if i < j else pair.T
                expected = pair / pair.sum(1, keepdim=True)
            torch.testing.assert_close(matches[i, j], expected, **EXACT)
            # Bayes: the mass that goes comes back.
            torch.testing.assert_close(
                own.weights[i] @ matches[i, j], own.weights[j], rtol=0, atol=1e-10
            )
        again, _ = match_prototypes(own, SOLVED, 1.3, memory)
        assert again.n_iter <= plan.n_iter
        torch.testing.assert_close(again.value, plan.value, **CLOSE)

    def test_units_and_diagonal_matrices(self):
        own = mixture(2, 3)
        scaled = Prototypes(own.weights, own.means / 1.3, own.covariances / 1.3**2)
        value = match_prototypes(own, SOLVED, 1.3)[0].value
        torch.testing.assert_close(
            match_prototypes(scaled, SOLVED)[0].value, value, **CLOSE
        )
        wide = match_prototypes(full_covariances(own), SOLVED, 1.3)[0].value
        torch.testing.assert_close(wide, value, **CLOSE)

    def test_star_form_above_the_largest_number_of_cells(self):
        own = mixture(3, 4)
        own.means.requires_grad_()
        few = Settings(max_cells=K**4 - 1)
        memory = Memory()
        plan, matches = match_prototypes(own, few, 1.0, memory)
        assert isinstance(plan, StarPlan)
        assert memory.atoms is not None
        torch.testing.assert_close(matches.sum(-1), ones(4, 4, K), **EXACT)
        (slope,) = torch.autograd.grad(plan.value, own.means)
        assert slope.isfinite().all()
        assert (slope != 0).any()
        every, _ = match_prototypes(own, Settings(max_cells=K**4))
        assert isinstance(every, Plan)
        unique, common = problem(3, 4)
        network = plain_network(4).train()
        total, terms = terms_of(network, unique, common, few)
        assert total.isfinite()
        assert len(terms) == 5
        with pytest.raises(
            ValueError, match=r"81 tuples of prototypes .* max_cells=80"
        ):
            match_prototypes(full_covariances(own), few)


def loop_seen(resp, weight):
    """Shares and weights of the rows that have both of two modalities."""
    m, n = weight.shape
    share, total = torch.zeros(m, m, K, K).double(), torch.zeros(m, m).double()
    for i, j in itertools.product(range(m), range(m)):
        both = [r for r in range(n) if weight[i, r] > 0 and weight[j, r] > 0]
        for r in both:
            w = min(weight[i, r], weight[j, r])
            total[i, j] += w
            share[i, j] += w * torch.outer(resp[i, r], resp[j, r])
        if both:
            share[i, j] /= total[i, j]
    return share, total


class TestSeenTogether:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_by_loop(self, seed):
        resp = normal(3, 8, K, seed=seed).softmax(-1)
        weight = some_observed(seed, 8) * (normal(8, seed=seed).abs() + 0.1)
        weight[:2, 0], weight[2, 1:] = 0, 0
        assert_close(seen_together(resp, weight), loop_seen(resp, weight))

    def test_more_rows_count_for_more(self):
        """K^2 rows with both modalities count as much as the plan."""
        own = mixture(2, 3)
        resp = normal(3, 8, K).softmax(-1)
        plan, plain = match_prototypes(own, SOLVED)
        share, total = seen_together(resp, ones(3, 8))
        for n in (0.0, 9.0, 36.0, 1e12):
            seen = share, n * torch.ones_like(total)
            _, matches = match_prototypes(own, SOLVED, seen=seen)
            for i, j in itertools.permutations(range(3), 2):
                trust = n / (n + K**2)
                pair = (1 - trust) * plan.pairwise(i, j) + trust * share[i, j]
                expected = pair / pair.sum(1, keepdim=True)
                torch.testing.assert_close(matches[i, j], expected, **EXACT)
            if n == 0:
                assert_close(matches, plain)
        assert torch.equal(matches[1, 1], torch.eye(K).double())

    @pytest.mark.parametrize("form", ["plan", "observed"])
    def test_rows_decide_between_prototypes_that_look_alike(self, form):
        """Two components in the same places, of which the rows swap."""
        groups = torch.arange(40) % 2
        x = 0.1 * normal(2, 40, D)
        x[0, :, 0] += torch.where(groups == 0, 5.0, -5.0)
        x[1, :, 0] += torch.where(groups == 0, -5.0, 5.0)
        network = DecAlignNetwork([*plain_network(2).modalities], D, 2).double()
        found = match_all(network, x, ones(2, 40), Settings(prototype_match=form), 500)
        swapped = (found.prototypes.means[:, :, 0] > 0).argsort(1)
        there = found.matches[0, 1][swapped[0]][:, swapped[1]]
        right = 1 if form == "observed" else 0
        assert (there[[0, 1], [right, 1 - right]] > 0.8).all()


class TestCarriedMixtures:
    def expected_step(self, network, x, weight, settings):
        """One step of moments from the carried mixtures, of the written formulas."""
        w = weight[..., None]
        share = w / w.sum(1, keepdim=True)
        mean = (share * x).sum(1, keepdim=True)
        variance = (share * (x - mean) ** 2).sum(1).mean(-1)
        floor = settings.reg_covar * (
            variance if settings.scale_free else 1 + 0 * variance
        )
        resp = responsibilities(x, network.prototypes)
        full = settings.covariance == "full"
        return moment_step(x, resp, weight, floor, full), resp

    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize("scale_free", [False, True])
    def test_prototypes_of_a_batch(self, scale_free, full):
        covariance = "full" if full else "diag"
        settings = Settings(scale_free=scale_free, covariance=covariance, reg_covar=0.1)
        network = plain_network(full=full)
        x, weight = problem(0)[0], some_observed(0, 14).double()
        expected, resp = self.expected_step(network, x, weight, settings)
        found, found_resp = prototypes_of(network, x, weight, settings)
        assert_close(found, expected)
        torch.testing.assert_close(found_resp, resp, **EXACT)

    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize("rate", [BLEND, 1.0, 0.6])
    def test_training_follows_the_blend(self, rate, full):
        settings = Settings(covariance="full" if full else "diag")
        network = plain_network(full=full).train()
        for step in range(3):
            unique, common = problem(step)
            old = Prototypes(*(part.clone() for part in network.prototypes))
            before = network.matches.clone()
            new, resp = self.expected_step(network, unique, ones(3, 14), settings)
            terms_of(network, unique, common, settings, None, rate)
            assert_close(network.prototypes, blend(old, new, rate))
            scale = math.sqrt(unique.var(1, correction=0).mean())
            seen = loop_seen(resp, ones(3, 14))
            _, matches = match_prototypes(new, settings, scale, seen=seen)
            expected = (1 - rate) * before + rate * matches
            torch.testing.assert_close(network.matches, expected, rtol=0, atol=1e-5)

    def test_rate_is_a_fifth_by_default(self):
        found = []
        for rate in ((), (None, 0.2)):
            network = plain_network().train()
            terms_of(network, *problem(0), Settings(), *rate)
            found.append(network.prototypes)
        assert_close(*found)

    def test_evaluation_carries_nothing_over(self):
        network = plain_network()
        before = {name: b.clone() for name, b in network.named_buffers()}
        terms_of(network, *problem(0), Settings())
        assert all(torch.equal(b, before[name]) for name, b in network.named_buffers())

    def test_first_batch_is_carried_whole(self):
        network = plain_network(started=False).train()
        unique, common = problem(0)
        fresh = plain_network(seed=5, started=False)
        expected, resp = prototypes_of(fresh, unique, ones(3, 14), Settings())
        terms_of(network, unique, common, Settings())
        scale = math.sqrt(unique.var(1, correction=0).mean())
        seen = loop_seen(resp, ones(3, 14))
        _, matches = match_prototypes(expected, Settings(), scale, seen=seen)
        torch.testing.assert_close(network.matches, matches, rtol=0, atol=1e-5)
        assert bool(network.started.all())
        assert_close(network.prototypes, expected)

    def test_lost_component_comes_back(self):
        network = plain_network().train()
        kept = Prototypes(*(part.clone() for part in network.prototypes))
        kept.means[1, 2] = 1e4
        kept.weights[1] = torch.tensor([0.6, 0.4, 0.0])
        carry(network, kept)
        groups = 8 * F.one_hot(torch.arange(14) % K, D)
        for step in range(20):
            unique, common = problem(step)
            terms_of(network, unique + groups, common, Settings())
        assert (network.weights[1] > 0.1).all()
        assert network.means.abs().max() < 100

    def test_modality_with_fewer_rows_than_prototypes(self):
        unique, _ = problem(4)
        observed = torch.ones(3, 14, dtype=torch.bool)
        observed[1, K - 1 :] = False
        settings = Settings(scale_free=False, ot_tol=1e-12, ot_max_iter=2000)
        network = plain_network().train()
        old = Prototypes(*(part.clone() for part in network.prototypes))
        matches = network.matches.clone()
        pair = plain_network(2)
        carry(pair, old[torch.tensor([0, 2])])
        terms = heterogeneity(
            network, unique, observed.double(), settings, Memory(), 0.3
        )
        expected = heterogeneity(
            pair, unique[[0, 2]], ones(2, 14), settings, Memory(), 0.3
        )
        assert_close(terms.values(), expected.values(), **CLOSE)
        assert_close(network.prototypes[1], old[1])
        torch.testing.assert_close(network.matches[1], matches[1])
        torch.testing.assert_close(network.matches[:, 1], matches[:, 1])
        assert (network.matches[0, 2] != matches[0, 2]).any()
        assert (network.means[0] != old.means[0]).any()
        # One row more, and it takes part.
        network.eval()
        values = []
        for n_rows in (K - 1, K):
            observed[1] = torch.arange(14) < n_rows
            found = heterogeneity(
                network, unique, observed.double(), settings, Memory(), 0.3
            )
            values.append(float(found["transport"]))
        assert abs(values[1] - values[0]) > 1e-6

    def test_fewer_than_two_modalities_with_rows(self):
        unique, _ = problem(4)
        weight = ones(3, 14)
        weight[1, K - 1 :] = 0
        weight[2] = 0
        network = plain_network().train()
        old = network.prototypes
        assert heterogeneity(network, unique, weight, SOLVED, Memory(), 0.3) == {}
        assert_close(network.prototypes, old)

    @pytest.mark.parametrize("met", [True, False])
    def test_what_one_modality_needs_leaves_the_others_carried(self, met):
        """A lost component, or too few rows so far, is that modality's own affair."""
        network = plain_network()
        kept = Prototypes(*(part.clone() for part in network.prototypes))
        kept.weights[1] = torch.tensor([0.6, 0.4, 0.0])
        carry(network, kept)
        network.started[1] = met
        x, weight = problem(0)[0], ones(3, 14)
        expected, resp = self.expected_step(network, x, weight, Settings())
        found, found_resp = prototypes_of(network, x, weight, Settings())
        for m in (0, 2):
            assert_close(found[m], expected[m])
            torch.testing.assert_close(found_resp[m], resp[m], **EXACT)
        assert (found.weights[1] > 1e-2).all()

    @pytest.mark.parametrize("full", [False, True])
    def test_modality_that_comes_later(self, full):
        """Its prototypes must be apart, though the first batch had too few rows."""
        settings = Settings(covariance="full" if full else "diag")
        network = DecAlignNetwork(
            [*plain_network().modalities], D, K, full=full
        ).double()
        observed = torch.ones(3, 14, dtype=torch.bool)
        observed[1, K - 1 :] = False
        terms_of(network, *problem(0), settings, observed=observed)
        for step in range(1, 4):
            terms_of(network, *problem(step), settings)
        assert (torch.stack([torch.pdist(m) for m in network.means]) > 1e-2).all()
        found = match_all(network, problem(1)[0], ones(3, 14), settings, 500)
        means = found.prototypes.means
        assert (torch.stack([torch.pdist(m) for m in means]) > 1e-2).all()


class TestMatchAll:
    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize("started", [True, False])
    def test_fixed_point_of_em(self, started, full):
        settings = Settings(covariance="full" if full else "diag")
        network = plain_network(started=started, full=full)
        before = {name: b.clone() for name, b in network.named_buffers()}
        x = problem(0, n=40)[0] + 6 * F.one_hot(torch.arange(40) % K, D)
        weight = some_observed(0, 40).double()
        found = match_all(
            network, torch.where(weight[..., None] > 0, x, 50.0), weight, settings, 500
        )
        variance = [
            v[w > 0].var(0, correction=0).mean() for v, w in zip(x, weight, strict=True)
        ]
        resp = responsibilities(x, found.prototypes)
        again = moment_step(
            x, resp, weight, 1e-3 * torch.stack(variance), full, found.prototypes.means
        )
        # EM stops where the log-likelihood rises by less than 1e-4.
        gained = log_likelihood(x, again, weight) - log_likelihood(
            x, found.prototypes, weight
        )
        assert gained.abs().max() < 1e-3
        scale = math.sqrt(sum(variance) / 3)
        torch.testing.assert_close(found.scale, scale, **EXACT)
        seen = loop_seen(responsibilities(x, found.prototypes), weight)
        plan, matches = match_prototypes(
            found.prototypes, settings, scale, None, 500, seen
        )
        torch.testing.assert_close(found.matches, matches, rtol=0, atol=1e-6)
        torch.testing.assert_close(found.plan.value, plan.value, rtol=0, atol=1e-6)
        assert all(torch.equal(b, before[name]) for name, b in network.named_buffers())

    def test_one_modality_and_absolute_units(self):
        x, _ = problem(0, 1)
        found = match_all(plain_network(1), x, ones(1, 14), Settings(), 500)
        assert found.plan is None
        assert torch.equal(found.matches, torch.eye(K).double()[None, None])
        free = match_all(
            plain_network(), problem(0)[0], ones(3, 14), Settings(scale_free=False), 500
        )
        assert free.scale == 1


class TestHomogeneity:
    @pytest.mark.parametrize("n_projectors", [1, 3])
    def test_projected_parts_are_compared(self, n_projectors):
        maps = [nn.Linear(D, 2) for _ in range(n_projectors)]
        network = plain_network(projector=maps)
        bare = plain_network()
        common, weight = problem(0)[1], some_observed(0, 14).double()
        projected = torch.stack(
            [
                c @ (f := network.projector[m % n_projectors]).weight.T + f.bias
                for m, c in enumerate(common)
            ]
        )
        for scale_free in (True, False):
            chosen = Settings(scale_free=scale_free)
            found = homogeneity(network, common, weight, chosen)
            expected = homogeneity(bare, projected, weight, chosen)
            assert_close(found.values(), expected.values())
        other = homogeneity(bare, common, weight, Settings())
        assert (other["mmd"] - found["mmd"]).abs() > 1e-6


def loop_pairs(left, right, weight, temperature=0.3):
    """InfoNCE in both directions; a row of weight w stands for w rows."""
    logits = F.cosine_similarity(left[:, None], right[None], -1) / temperature
    total = 0.0
    for n, w in enumerate(weight):
        for others in (logits[n], logits[:, n]):
            among = sum(v * others[a].exp() for a, v in enumerate(weight))
            total = total + 0.5 * w * (among.log() - logits[n, n])
    return total / weight.sum()


class TestCompanions:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_pairs_by_loop(self, seed):
        common, observed = problem(seed, n=8)[1], some_observed(seed, 8)
        weight = normal(8, seed=seed).abs()
        values = []
        for i, j in itertools.combinations(range(3), 2):
            rows = [n for n in range(8) if observed[i, n] and observed[j, n]]
            values.append(loop_pairs(common[i, rows], common[j, rows], weight[rows]))
        found = pair_contrast(common, observed, weight, 0.3)
        torch.testing.assert_close(found, sum(values) / 3, **EXACT)

    def test_parts_of_rows_that_were_paired(self):
        common, observed = problem(0, n=8)[1], some_observed(0, 8)
        weight, other = normal(8).abs(), (normal(4, D, seed=5), normal(4, D, seed=6))
        more = {(0, 2): (*other, normal(4, seed=7).abs())}
        values = []
        for i, j in itertools.combinations(range(3), 2):
            rows = observed[i] & observed[j]
            parts = [common[i, rows], common[j, rows], weight[rows]]
            if (i, j) in more:
                parts = [torch.cat(v) for v in zip(parts, more[i, j], strict=True)]
            values.append(loop_pairs(*parts))
        found = pair_contrast(common, observed, weight, 0.3, more)
        torch.testing.assert_close(found, sum(values) / 3, **EXACT)
        parts, settings = (
            by_hand(common, common, observed),
            Settings(pair_weight=2.0, pair_temperature=0.3, decoupling_weight=0.0),
        )
        _, terms = alignment_terms(
            plain_network(), parts, settings, Memory(), weight, more_pairs=more
        )
        torch.testing.assert_close(terms["pairs"], found, **EXACT)

    def test_no_pair_of_rows(self):
        common, observed = problem(0, n=4)[1].requires_grad_(), torch.eye(3, 4) > 0
        value = pair_contrast(common, observed, ones(4), 0.3)
        assert value == 0
        assert (torch.autograd.grad(value, common)[0] == 0).all()

    @pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
    def test_reconstruction_by_loop(self, likelihood):
        network = build(decode=True)
        blocks, steps = draw()
        if likelihood == "bernoulli":
            blocks = [(b > 0).double() for b in blocks]
        observed, weight = some_observed(), normal(3, N).abs()
        for part in network.modalities:
            part.likelihood = likelihood
        cells = [None, normal(N, 12) > 0, None]
        cells[1][3] = False
        parts = network(blocks, steps, observed)
        errors = []
        for m, part in enumerate(network.modalities):
            values, w = [], []
            for n in range(N):
                own = (
                    cells[m][n]
                    if cells[m] is not None
                    else blocks[m][n] == blocks[m][n]
                )
                if not observed[m, n] or not own.any():
                    continue
                both = torch.cat([parts.unique_mean[m, n], parts.common_mean[m, n]])
                output = part.decoder(both)[own]
                x = blocks[m][n][own]
                loss = {
                    "gaussian": F.mse_loss,
                    "laplace": F.l1_loss,
                    "bernoulli": F.binary_cross_entropy_with_logits,
                }[likelihood]
                values.append(loss(output, x))
                w.append(weight[m, n])
            w = torch.stack(w)
            errors.append((torch.stack(values) * w).sum() / w.sum())
        found = reconstruction(network, parts, blocks, cells, weight)
        torch.testing.assert_close(found, sum(errors) / 3, **EXACT)

    def test_reconstruction_of_nothing(self):
        network, batch = build(decode=True), draw()
        observed = torch.zeros(3, N, dtype=torch.bool)
        parts = network(*batch, observed)
        assert reconstruction(network, parts, batch[0], [None] * 3, ones(3, N)) == 0

    def test_decoder_of_another_size(self):
        network, batch = build(decode=True), draw()
        network.modalities[0].decoder = nn.Linear(2 * D, 6).double()
        parts = network(*batch)
        with pytest.raises(
            ValueError,
            match=r"decoder: expected output of shape \(n, 5\) .* \(6, 6\) from Linear",
        ):
            reconstruction(network, parts, batch[0], [None] * 3, ones(3, N))
