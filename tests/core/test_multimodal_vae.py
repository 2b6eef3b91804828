"""The autoencoder's objective against a slow loop over rows and pairs, and its bounds.

Noise is a fixed function of the code that it is added to, so that a row's draws do not
depend on the order of calls, on other rows or on the order of modalities.
"""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Laplace,
    MultivariateNormal,
    Normal,
)

from skmm.core import multimodal_vae
from skmm.core.decoders import build_decoder
from skmm.core.diagonal_gaussian import DiagonalGaussian
from skmm.core.multimodal_vae import (
    Codes,
    MultimodalVAE,
    Objective,
    Part,
    Rows,
    choose_targets,
    joint_code,
    log_prior,
    log_weights,
    objective,
    on_sphere,
    row_bounds,
    start_narrow,
)
from skmm.core.networks import build_encoder

SEEDS = range(3)
# Sums of some hundred float64 terms of size up to a hundred.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
EXACT = {"rtol": 1e-12, "atol": 1e-12}
N_SHARED = 2

GAUSSIAN = ("gaussian", (3,), "learn", 1)
CATEGORICAL = ("categorical", (2, 3), 1.0, 2)
BERNOULLI = ("bernoulli", (4,), 1.0, 0)
LAPLACE = ("laplace", (2,), 0.5, 1)
SPECS = {
    1: [GAUSSIAN],
    2: [GAUSSIAN, CATEGORICAL],
    3: [LAPLACE, CATEGORICAL, BERNOULLI],
    4: [GAUSSIAN, CATEGORICAL, BERNOULLI, LAPLACE],
}
CROSS_DECODERS = ("shared_posterior", "shared_prior", "shared_mean", "separate")
MULTI = ("pairwise", "mixture", "product")
# A row a column: all, one each, none, all but one each.
PATTERNS = {
    1: [[1, 1, 0, 1]],
    2: [[1, 1, 1, 0, 0, 1], [1, 1, 0, 1, 0, 1]],
    3: [
        [1, 1, 0, 0, 0, 0, 1, 1],
        [1, 0, 1, 0, 0, 1, 0, 1],
        [1, 0, 0, 1, 0, 1, 1, 0],
    ],
}


# ----------------------------------------------------------------------- what is given
def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def network_of(specs, seed=0, separate=False, n_private=None, n_anchors=3, **kwargs):
    """Linear encoders and decoders with a hidden layer, all offsets not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = []
        for likelihood, shape, scale, own_private in specs:
            n_w = own_private if n_private is None else n_private
            n_codes = N_SHARED + n_w
            parts.append(
                Part(
                    build_encoder("linear", shape, 2 * n_codes, (), 0.0),
                    build_decoder("mlp", shape, n_codes, (5,)),
                    shape,
                    N_SHARED,
                    n_w,
                    likelihood,
                    scale,
                    build_decoder("linear", shape, N_SHARED, ()) if separate else None,
                    n_anchors if len(specs) > 1 else 0,
                    **kwargs,
                )
            )
        network = MultimodalVAE(parts).double()
        for name, parameter in network.named_parameters():
            if not name.endswith("weight"):
                nn.init.normal_(parameter, std=0.5)
    return network


def rows_of(specs, observed, seed=0, with_cells=True):
    observed = torch.as_tensor(observed).bool()
    blocks, cells = [], []
    for m, (likelihood, shape, *_) in enumerate(specs):
        n, size = observed.shape[1], math.prod(shape)
        x = normal(n, size, seed=seed + 10 * m)
        there = torch.ones(n, *shape, dtype=torch.bool)
        if with_cells and len(shape) == 2:
            there[::2, -1] = False  # categories, as padded time steps
        elif with_cells:
            there &= normal(n, *shape, seed=seed + 5) > -0.7
        there = there.flatten(1)
        if likelihood == "bernoulli":
            x = (x > 0).double()
        elif likelihood == "categorical":
            best = x.view(n, *shape).argmax(-1)
            x = nn.functional.one_hot(best, shape[-1]).double().flatten(1)
        x = x * there * observed[m][:, None]
        blocks.append(x)
        cells.append(there if with_cells else None)
    if with_cells and len(specs) > 2:
        cells[-1] = None
        x = normal(n, size, seed=seed + 77)
        x = (x > 0).double() if specs[-1][0] == "bernoulli" else x
        blocks[-1] = x * observed[-1][:, None]
    return Rows(blocks, [None] * len(specs), cells, observed)


def codes_of(network, rows):
    return network(rows.blocks, rows.steps, rows.observed)


def fixed_draw(q, n_draws, common=False):
    k = torch.arange(1.0, n_draws + 1, dtype=q.mean.dtype)
    k = k.view(-1, *(1 for _ in q.mean.shape))
    if common:
        place = torch.arange(q.mean.shape[-1], dtype=q.mean.dtype)
        noise = 1.3 * torch.sin(1.7 * k + 2.9 * place + 0.4)
    else:
        noise = 1.3 * torch.sin(1.7 * k + 37 * q.mean.detach())
    return q.mean + q.scale * noise


def fixed_draw_with_density(q, n_draws):
    z = fixed_draw(q, n_draws)
    return z, q.log_density(z)


def fixed_like(values):
    """In place of standard Gaussian noise of draws ``(K, P, d)``."""
    k = torch.arange(len(values), dtype=values.dtype)[:, None, None]
    place = torch.arange(values.shape[-1], dtype=values.dtype)
    return (1.1 * torch.sin(2.3 * k + 0.7 * place + 1)).expand_as(values)


@dataclass
class Chance:
    """What is drawn in a call of the objective besides the codes."""

    targets: torch.Tensor | None = None
    decoded: torch.Tensor | None = None
    pick: torch.Tensor | None = None
    share: torch.Tensor | None = None
    next_pick: torch.Tensor | None = None


@pytest.fixture
def chance(monkeypatch):
    """Fixed noise, and a record of the choices at random."""
    chance = Chance()
    rand, multinomial, choose = torch.rand, torch.multinomial, choose_targets

    def recorded_rand(*args, **kwargs):
        value = rand(*args, **kwargs)
        if value.dim() == 1:
            chance.decoded = value
        return value

    def recorded_multinomial(share, n, *args, **kwargs):
        chance.share = share / share.sum(1, keepdim=True)
        if chance.next_pick is None:
            chance.pick = multinomial(share, n, *args, **kwargs)
        else:
            chance.pick = chance.next_pick.view(-1, 1)
        return chance.pick

    def recorded_choice(*args):
        chance.targets = choose(*args)
        return chance.targets

    monkeypatch.setattr(DiagonalGaussian, "draw", fixed_draw)
    monkeypatch.setattr(DiagonalGaussian, "draw_with_density", fixed_draw_with_density)
    monkeypatch.setattr(torch, "randn_like", fixed_like)
    monkeypatch.setattr(torch, "rand", recorded_rand)
    monkeypatch.setattr(torch, "multinomial", recorded_multinomial)
    monkeypatch.setattr(multimodal_vae, "choose_targets", recorded_choice)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield chance


def loss_of(network, rows, settings):
    return objective(network, rows, codes_of(network, rows), settings).loss


def gradients_of(loss, network):
    """By name, with None where there is none."""
    named = dict(network.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


# ------------------------------------------------------------------------ the slow loop
def log_likelihood(part, output, x, cells):
    """Of one row: output ``(K, d)``, x and cells ``(d,)``."""
    if part.likelihood == "categorical":
        logits = output.view(-1, *part.shape)
        label = x.view(part.shape).argmax(-1)
        each = Categorical(logits=logits).log_prob(label)
        if cells is not None:
            each = each[:, cells.view(part.shape)[:, 0]]
        return each.sum(-1)
    if part.likelihood == "bernoulli":
        each = Bernoulli(logits=output).log_prob(x.expand_as(output))
    else:
        kind = Normal if part.likelihood == "gaussian" else Laplace
        each = kind(output, part.log_noise.exp()).log_prob(x)
    return (each if cells is None else each[:, cells]).sum(-1)


def log_normal(z, q, b):
    return Normal(q.mean[b], q.scale[b]).log_prob(z).sum(-1)


def divergence(q, p):
    return torch.distributions.kl_divergence(Normal(*q), Normal(*p)).sum(-1)


def slow_loss(network, rows, codes, settings, chance):
    """The formulas of the docstrings, a row and a pair at a time."""
    s_ = settings
    parts, k = list(network), s_.n_samples
    m_all = range(len(parts))
    beta = s_.kl_weight
    n_rows = rows.observed.shape[1]
    factor = s_.rescale or [1.0] * len(parts)
    z = [fixed_draw(q, k) for q in codes.shared]
    w = [fixed_draw(q, k) for q in codes.private]
    total = torch.zeros(()).double()
    means = [q.mean for q in codes.shared]
    contrast = slow_contrast(rows.observed, means, s_.nce_temperature)

    def likelihood(m, b, output):
        cells = None if rows.cells[m] is None else rows.cells[m][b]
        return factor[m] * log_likelihood(parts[m], output, rows.blocks[m][b], cells)

    for b in range(n_rows):
        present = [m for m in m_all if rows.observed[m, b]]
        values = []
        for s in present:
            of_s, zs, ws = parts[s], z[s][:, b], w[s][:, b]
            if s_.own_draws == "one":
                own_draws = [int(chance.pick.view(len(parts), n_rows)[s, b])]
            else:
                own_draws = list(range(k))
            output = of_s.decoder(torch.cat([zs, ws], 1)[own_draws])
            own = likelihood(s, b, output.flatten(1))
            zero = torch.zeros(of_s.n_private).double()
            q_w = codes.private[s]
            kl_w = divergence((q_w.mean[b], q_w.scale[b]), (zero, zero + 1))
            log_q_z = log_normal(zs, codes.shared[s], b)
            w_ratio = Normal(zero, 1.0).log_prob(ws).sum(-1) - log_normal(ws, q_w, b)
            if len(present) == 1:
                if len(parts) == 1:
                    prior = Normal(0.0, 1.0).log_prob(zs).sum(-1)
                else:
                    prior = slow_anchor_prior(network, s, zs)
                value = own.mean() + beta * (prior - log_q_z).mean() - beta * kl_w
                values.append(value)
                continue
            targets = [t for t in present if chance.targets[s, t, b]]
            a, log_p, scales = {}, {}, {}
            for t in targets:
                log_p[t] = log_normal(zs, codes.shared[t], b)
                a[t] = torch.zeros(k).double()
                if s_.cross_fraction == 1 or chance.decoded[b] < s_.cross_fraction:
                    a[t] = slow_cross(parts[t], s_, t, b, zs, w, codes, likelihood)
                scales[t] = codes.shared[t].mean[b], codes.shared[t].scale[b]
            mine = codes.shared[s].mean[b], codes.shared[s].scale[b]
            groups = []
            if s_.multi == "pairwise":
                groups = [
                    (a[t], log_p[t], divergence(mine, scales[t])) for t in targets
                ]
            elif s_.multi == "mixture":
                each = torch.stack([log_p[t] for t in targets])
                mixed = torch.logsumexp(each, 0) - math.log(len(targets))
                groups = [(sum(a.values()), mixed, (log_q_z - mixed).mean())]
            else:
                precision = sum(1 / scales[t][1] ** 2 for t in targets)
                mean = (
                    sum(scales[t][0] / scales[t][1] ** 2 for t in targets) / precision
                )
                both = mean, precision**-0.5
                given = Normal(*both).log_prob(zs).sum(-1)
                groups = [(sum(a.values()), given, divergence(mine, both))]
            for a_k, given, kl_z in groups:
                values.append(
                    slow_pair(s_, own, a_k, beta * (w_ratio + given - log_q_z))
                    + s_.ib_weight * (own.mean() - beta * (kl_w + kl_z))
                )
        if not present:
            continue
        row = sum(values) / len(values)
        if len(parts) > 1:
            row = row - s_.align_weight * contrast[b]
        for s in present:
            q = codes.shared[s]
            zero = torch.zeros_like(q.mean[b])
            kl = divergence((q.mean[b], q.scale[b]), (zero, zero + 1))
            row = row - s_.z_prior_weight * kl / len(present)
        total = total + row
    return -total / int((rows.observed.sum(0) > 0).sum())


def slow_cross(part, s_, t, b, zs, w, codes, likelihood):
    """Log-likelihoods ``(K,)`` of modality t in row b from another's shared codes."""
    if s_.cross_decoder[t] == "separate":
        return likelihood(t, b, part.cross_decoder(zs).flatten(1))
    n_w = part.n_private
    private = torch.zeros(len(zs), n_w).double()
    if s_.cross_decoder[t] == "shared_prior":
        private = fixed_like(private[:, None])[:, 0]
    elif s_.cross_decoder[t] == "shared_posterior":
        private = w[t][:, b]
    value = likelihood(t, b, part.decoder(torch.cat([zs, private], 1)).flatten(1))
    if s_.cross_decoder[t] == "shared_posterior":
        prior = Normal(torch.zeros(n_w).double(), 1.0).log_prob(private).sum(-1)
        ratio = prior - log_normal(private, codes.private[t], b)
        value = value + s_.kl_weight * ratio
    return value


def slow_pair(s_, own, a, rest):
    weights = a.exp() / a.exp().sum() if a.max() > -600 else torch.softmax(a, 0)
    if s_.stop_gradient:
        weights = weights.detach()
    log_q = torch.logsumexp(a, 0) - math.log(len(a))
    return (weights * (own + rest - a)).sum() + s_.cross_weight * log_q


def slow_anchor_prior(network, without, z):
    densities = []
    for m, part in enumerate(network):
        if m == without:
            continue
        for anchor in part.anchors.view(part.n_anchors, *part.shape):
            x = anchor
            if part.likelihood == "bernoulli":
                x = anchor.clamp(0, 1)
            elif part.likelihood == "categorical":
                x = anchor.softmax(-1)
            out = part.encoder(x[None])[0]
            n = part.n_shared + part.n_private
            mean, log_scale = out[: part.n_shared], out[n : n + part.n_shared]
            log_scale = log_scale.clamp(-6, 3)
            densities.append(Normal(mean, log_scale.exp()).log_prob(z).sum(-1))
    return torch.logsumexp(torch.stack(densities), 0) - math.log(len(densities))


def slow_contrast(observed, z, temperature):
    """InfoNCE of each row, a mean over its pairs of modalities."""
    losses = [[] for _ in range(observed.shape[1])]
    for i, j in itertools.combinations(range(len(z)), 2):
        rows = [
            b for b in range(observed.shape[1]) if observed[i, b] and observed[j, b]
        ]
        if len(rows) < 2:
            continue
        g = torch.stack(
            [
                nn.functional.cosine_similarity(z[i][b][None], z[j][rows], dim=-1)
                for b in rows
            ]
        )
        g = g / temperature
        for place, b in enumerate(rows):
            both = (
                g[place].softmax(0)[place].log() + g[:, place].softmax(0)[place].log()
            )
            losses[b].append(-both / 2)
    return [sum(each) / len(each) if each else 0.0 for each in losses]


# ---------------------------------------------------------------------------- objective
@pytest.fixture(autouse=True)
def unchecked_distributions():
    """Half of the time of the slow loop is the checks of their arguments."""
    torch.distributions.Distribution.set_default_validate_args(False)
    yield
    torch.distributions.Distribution.set_default_validate_args(__debug__)


def assert_is_the_slow_loop(network, rows, settings, chance):
    codes = codes_of(network, rows)
    # What is chosen where nothing asks for a choice.
    chance.targets = choose_targets(rows.observed, None)
    loss = objective(network, rows, codes, settings).loss
    expected = slow_loss(network, rows, codes_of(network, rows), settings, chance)
    torch.testing.assert_close(loss, expected, **CLOSE)
    found = gradients_of(loss, network)
    for name, value in gradients_of(expected, network).items():
        if value is None:
            assert found[name] is None or (found[name] == 0).all(), name
        else:
            mine = torch.zeros_like(value) if found[name] is None else found[name]
            torch.testing.assert_close(mine, value, rtol=1e-8, atol=1e-9, msg=name)


POSTERIOR = ("shared_posterior",) * 4
BASE = Objective(
    n_samples=3,
    cross_weight=4.0,
    ib_weight=0.7,
    align_weight=0.6,
    cross_decoder=POSTERIOR,
)


@pytest.mark.usefixtures("global_rng_untouched")
class TestObjectiveIsTheSlowLoop:
    @pytest.mark.parametrize("m", [2, 3])
    @pytest.mark.parametrize("cross_decoder", CROSS_DECODERS)
    @pytest.mark.parametrize("multi", MULTI)
    @pytest.mark.parametrize("own_draws", ["all", "one"])
    def test_each_form(self, chance, own_draws, multi, cross_decoder, m):
        seed = 3 * MULTI.index(multi) + CROSS_DECODERS.index(cross_decoder)
        network = network_of(SPECS[m], seed, cross_decoder == "separate")
        rows = rows_of(SPECS[m], PATTERNS[m], seed)
        settings = replace(
            BASE, multi=multi, cross_decoder=(cross_decoder,) * 4, own_draws=own_draws
        )
        assert_is_the_slow_loop(network, rows, settings, chance)

    @pytest.mark.parametrize("m", [2, 3])
    @pytest.mark.parametrize(
        "change",
        [
            {"stop_gradient": False},
            {"cross_weight": 1.0},
            {"cross_weight": 0.0},
            {"ib_weight": 0.0, "align_weight": 0.0},
            {"kl_weight": 0.3},
            {"kl_weight": 0.0},
            {"z_prior_weight": 0.8},
            {"n_samples": 1},
            {"n_targets": 1},
            {"n_targets": 1, "multi": "mixture"},
            {"n_targets": 1, "multi": "product", "own_draws": "one"},
            {"n_targets": 2, "cross_fraction": 0.5},
            {"cross_fraction": 0.5, "own_draws": "one"},
            {"cross_fraction": 1e-9, "multi": "mixture"},
            {"nce_temperature": 2.0, "n_samples": 4},
            {"cross_decoder": ("shared_mean", "shared_posterior", "shared_prior")},
        ],
        ids=str,
    )
    def test_each_setting(self, chance, change, m):
        network = network_of(SPECS[m], 5)
        rows = rows_of(SPECS[m], PATTERNS[m], 5)
        assert_is_the_slow_loop(network, rows, replace(BASE, **change), chance)

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("with_cells", [False, True])
    def test_nothing_missing(self, chance, with_cells, seed):
        network = network_of(SPECS[3], seed)
        rows = rows_of(SPECS[3], torch.ones(3, 4), seed, with_cells)
        settings = replace(BASE, rescale=[0.5, 2.0, 3.0])
        assert_is_the_slow_loop(network, rows, settings, chance)

    @pytest.mark.parametrize("multi", MULTI)
    @pytest.mark.parametrize("own_draws", ["all", "one"])
    def test_one_modality(self, chance, own_draws, multi):
        network = network_of(SPECS[1], 1)
        rows = rows_of(SPECS[1], PATTERNS[1], 1)
        settings = replace(BASE, multi=multi, own_draws=own_draws, z_prior_weight=0.3)
        assert_is_the_slow_loop(network, rows, settings, chance)

    def test_four_modalities_and_two_targets(self, chance):
        observed = [[1, 1, 0, 1, 1], [1, 0, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 1]]
        network, rows = network_of(SPECS[4], 2), rows_of(SPECS[4], observed, 2)
        for multi in MULTI:
            settings = replace(BASE, multi=multi, n_targets=2)
            assert_is_the_slow_loop(network, rows, settings, chance)

    @pytest.mark.parametrize("m", [2, 3])
    def test_a_modality_that_no_row_of_the_batch_has(self, chance, m):
        observed = torch.ones(m, 4).bool()
        observed[-1] = False
        network, rows = network_of(SPECS[m], 3), rows_of(SPECS[m], observed, 3)
        assert_is_the_slow_loop(network, rows, BASE, chance)

    def test_terms_for_the_record(self, chance):
        """Sums over rows without weights, and nothing to differentiate."""
        network = network_of(SPECS[2], 4)
        rows = rows_of(SPECS[2], torch.ones(2, 3), 4)
        codes = codes_of(network, rows)
        parts = objective(network, rows, codes, BASE).parts
        assert not any(v.requires_grad for v in parts.values())
        kl_w = sum(q.divergence().sum() for q in codes.private)
        torch.testing.assert_close(parts["private_divergence"], kl_w.detach(), **CLOSE)
        other = replace(BASE, cross_weight=1.0, ib_weight=0.0, kl_weight=0.5)
        again = objective(network, rows, codes, other).parts
        for name in ("reconstruction", "private_divergence", "shared_divergence"):
            torch.testing.assert_close(parts[name], again[name], **CLOSE)

    def test_record_does_not_depend_on_the_number_of_draws(self, chance, monkeypatch):
        """With draws that are all the mean."""

        def draw(q, n_draws, common=False):
            return q.mean.expand(n_draws, *q.mean.shape)

        monkeypatch.setattr(DiagonalGaussian, "draw", draw)
        network, rows = network_of(SPECS[3], 4), rows_of(SPECS[3], PATTERNS[3], 4)
        codes = codes_of(network, rows)
        one, four = (
            objective(network, rows, codes, replace(BASE, n_samples=k)).parts
            for k in (1, 4)
        )
        for name, value in one.items():
            torch.testing.assert_close(four[name], value, msg=name, **CLOSE)


class TestProperties:
    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("multi", MULTI)
    def test_order_of_modalities_does_not_matter(self, chance, multi, seed):
        network, rows = network_of(SPECS[3], seed), rows_of(SPECS[3], PATTERNS[3], seed)
        settings = replace(BASE, multi=multi)
        loss = loss_of(network, rows, settings)
        for order in itertools.permutations(range(3)):
            moved = MultimodalVAE([network.parts[m] for m in order])
            other = Rows(
                [rows.blocks[m] for m in order],
                [None] * 3,
                [rows.cells[m] for m in order],
                rows.observed[list(order)],
            )
            torch.testing.assert_close(loss_of(moved, other, settings), loss, **CLOSE)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_order_of_rows_does_not_matter(self, chance, seed):
        network, rows = network_of(SPECS[3], seed), rows_of(SPECS[3], PATTERNS[3], seed)
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        other = Rows(
            [x[order] for x in rows.blocks],
            rows.steps,
            [c if c is None else c[order] for c in rows.cells],
            rows.observed[:, order],
        )
        expected = loss_of(network, rows, BASE)
        torch.testing.assert_close(loss_of(network, other, BASE), expected, **CLOSE)

    @pytest.mark.parametrize("cross_decoder", CROSS_DECODERS)
    @pytest.mark.parametrize("multi", MULTI)
    @pytest.mark.parametrize("garbage", [1.0, -1e30])
    def test_what_is_absent_has_no_influence(
        self, chance, garbage, multi, cross_decoder
    ):
        network = network_of(SPECS[3], 6, cross_decoder == "separate")
        rows = rows_of(SPECS[3], PATTERNS[3], 6)
        settings = replace(BASE, multi=multi, cross_decoder=(cross_decoder,) * 4)
        results = []
        for value in (0.0, garbage):
            absent = Rows(
                [
                    x.masked_fill(~there[:, None], value)
                    for x, there in zip(rows.blocks, rows.observed, strict=True)
                ],
                rows.steps,
                rows.cells,
                rows.observed,
            )
            codes = codes_of(network, absent)
            # Cells that are missing do not enter the likelihood; encoders saw zeros.
            blocks = [
                x if c is None else x.masked_fill(~c, value)
                for x, c in zip(absent.blocks, rows.cells, strict=True)
            ]
            loss = objective(
                network, replace(absent, blocks=blocks), codes, settings
            ).loss
            results.append((loss, gradients_of(loss, network)))
        (left, left_gradients), (right, right_gradients) = results
        assert torch.equal(left, right)
        for name, value in left_gradients.items():
            assert value is None or torch.equal(value, right_gradients[name]), name

    def test_rows_without_any_modality_contribute_nothing(self, chance):
        network = network_of(SPECS[3], 1)
        rows = rows_of(SPECS[3], PATTERNS[3], 1)
        kept = rows.observed.any(0)
        other = Rows(
            [x[kept] for x in rows.blocks],
            rows.steps,
            [c if c is None else c[kept] for c in rows.cells],
            rows.observed[:, kept],
        )
        left, right = (loss_of(network, r, BASE) for r in (rows, other))
        torch.testing.assert_close(left, right, **CLOSE)
        nothing = rows_of(SPECS[3], torch.zeros(3, 2))
        assert float(loss_of(network, nothing, BASE).detach()) == 0

    @pytest.mark.parametrize("only", [0, 1])
    @pytest.mark.parametrize("alone_in_batch", [False, True])
    def test_gradients_of_rows_with_one_modality(self, chance, only, alone_in_batch):
        """To the own networks, and to the others' encoders by way of their anchors."""
        network = network_of(SPECS[2], 2)
        observed = torch.zeros(2, 3).bool()
        observed[only] = True
        rows = rows_of(SPECS[2], observed, 2)
        codes = codes_of(network, rows)
        if not alone_in_batch:
            # A paired row in which everything counts, but not for the gradient.
            pair = rows_of(SPECS[2], torch.ones(2, 1), 9)
            rows = Rows(
                [torch.cat(b) for b in zip(rows.blocks, pair.blocks, strict=True)],
                rows.steps,
                [torch.cat(c) for c in zip(rows.cells, pair.cells, strict=True)],
                torch.cat([rows.observed, pair.observed], 1),
            )
            codes = codes_of(network, rows)
            loss = 4 * objective(network, rows, codes, BASE).loss - loss_of(
                network, pair, BASE
            )
        else:
            loss = objective(network, rows, codes, BASE).loss
        for name, value in gradients_of(loss, network).items():
            mine = name.startswith(f"parts.{only}.")
            # The difference of two sums is zero to rounding.
            used = value is not None and value.abs().max() > 1e-9
            if mine:
                # The prior of its own shared code is not at its own anchors.
                assert used == ("anchors" not in name), name
            elif "decoder" in name or "learnt_noise" in name:
                assert not used, name
            else:
                assert used, name

    @pytest.mark.parametrize(
        "cross_decoder", ["shared_prior", "shared_mean", "separate"]
    )
    def test_loss_is_linear_in_the_weight_of_divergences(self, chance, cross_decoder):
        network = network_of(SPECS[3], 3, cross_decoder == "separate")
        rows = rows_of(SPECS[3], PATTERNS[3], 3)
        values = [
            loss_of(
                network,
                rows,
                replace(BASE, kl_weight=v, cross_decoder=(cross_decoder,) * 4),
            )
            for v in (0.0, 0.25, 1.0)
        ]
        torch.testing.assert_close(
            values[1], 0.75 * values[0] + 0.25 * values[2], **CLOSE
        )

    @pytest.mark.parametrize("m", [2, 3])
    @pytest.mark.parametrize("multi", MULTI)
    @pytest.mark.parametrize("seed", SEEDS)
    def test_one_own_draw_has_the_expectation_of_all(self, chance, seed, multi, m):
        """Over all picks of one row, with the probabilities of the picks."""
        n_draws = 3 if m == 2 else 2
        network, rows = (
            network_of(SPECS[m], seed),
            rows_of(SPECS[m], torch.ones(m, 1), seed),
        )
        settings = replace(BASE, n_samples=n_draws, ib_weight=0.0, multi=multi)
        with torch.no_grad():
            expected = loss_of(network, rows, settings)
            mean = 0.0
            for pick in itertools.product(range(n_draws), repeat=m):
                chance.next_pick = torch.tensor(pick)
                loss = loss_of(network, rows, replace(settings, own_draws="one"))
                share = chance.share[torch.arange(m), list(pick)].prod()
                mean = mean + share * loss
        torch.testing.assert_close(mean, expected, **CLOSE)

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("own_draws", ["all", "one"])
    def test_one_target_has_the_expectation_of_all(
        self, chance, monkeypatch, own_draws, seed
    ):
        """Over the eight equally likely choices of a row with three modalities."""
        network = network_of(SPECS[3], seed)
        rows = rows_of(SPECS[3], torch.ones(3, 1), seed)
        # Here each row and modality has a choice of its own.
        monkeypatch.setattr(multimodal_vae, "_takes_shortcut", lambda *_: False)
        settings = replace(BASE, n_targets=1, own_draws="all")
        if own_draws == "one":
            # With one draw there is one pick.
            settings = replace(settings, n_samples=1, own_draws="one")
        expected = loss_of(network, rows, replace(settings, n_targets=None))
        losses = []
        for choice in itertools.product([1, 2], repeat=3):
            targets = torch.zeros(3, 3, 1).bool()
            for s, step in enumerate(choice):
                targets[s, (s + step) % 3] = True
            monkeypatch.setattr(
                multimodal_vae, "choose_targets", lambda *_, chosen=targets: chosen
            )
            losses.append(loss_of(network, rows, settings))
        torch.testing.assert_close(torch.stack(losses).mean(), expected, **CLOSE)

    @pytest.mark.parametrize("n_private", [None, 2])
    @pytest.mark.parametrize("cross_decoder", CROSS_DECODERS)
    @pytest.mark.parametrize("m", [2, 3])
    def test_shortcut_of_complete_rows(
        self, chance, monkeypatch, m, cross_decoder, n_private
    ):
        """Values, gradients and record are those of the general form."""
        separate = cross_decoder == "separate"
        network = network_of(SPECS[m], 5, separate, n_private)
        rows = rows_of(SPECS[m], torch.ones(m, 4), 5)
        settings = replace(
            BASE, cross_decoder=(cross_decoder,) * 4, z_prior_weight=0.3, kl_weight=0.6
        )
        short = objective(network, rows, codes_of(network, rows), settings)
        monkeypatch.setattr(multimodal_vae, "_takes_shortcut", lambda *_: False)
        general = objective(network, rows, codes_of(network, rows), settings)
        torch.testing.assert_close(short.loss, general.loss, **CLOSE)
        assert short.parts.keys() == general.parts.keys()
        for name, value in general.parts.items():
            torch.testing.assert_close(short.parts[name].double(), value, **CLOSE)
        expected = gradients_of(general.loss, network)
        for name, value in gradients_of(short.loss, network).items():
            if value is None or expected[name] is None:
                other = expected[name] if value is None else value
                assert other is None or (other == 0).all(), name
            else:
                torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-9)

    def test_shared_targets_have_the_expectation_of_all(self, chance, monkeypatch):
        """Of complete rows, over the equally likely steps from source to target."""
        network = network_of(SPECS[4], 6)
        rows = rows_of(SPECS[4], torch.ones(4, 3), 6)
        expected = loss_of(network, rows, BASE)
        losses = []
        for step in range(3):
            order = torch.tensor([step, (step + 1) % 3, (step + 2) % 3])
            monkeypatch.setattr(torch, "randperm", lambda n, order=order: order)
            losses.append(loss_of(network, rows, replace(BASE, n_targets=1)))
        assert len({float(loss.detach()) for loss in losses}) == 3
        torch.testing.assert_close(torch.stack(losses).mean(), expected, **CLOSE)

    @pytest.mark.parametrize("cross_decoder", ["shared_posterior", "shared_prior"])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_private_codes_are_integrated_out_of_the_cross_term(
        self, cross_decoder, seed
    ):
        """Drawn from prior or posterior, the evidence is that of linear decoders."""
        network = linear_gaussian(seed)
        with torch.no_grad():
            for part in network:
                part.encoder.bias[3:5] = -6.0  # shared codes that hardly vary
                # Posteriors of private codes near the prior and wider: few draws do.
                part.encoder.weight[2] *= 0.3
                part.encoder.bias[5] = 0.4
        x = [normal(1, d, seed=seed + d) for d in (3, 2)]
        rows = Rows(x, [None] * 2, [None] * 2, torch.ones(2, 1).bool())
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            codes = codes_of(network, rows)
            values = []
            for r in range(40):
                losses = []
                for weight in (1.0, 2.0):
                    torch.manual_seed(1000 * seed + r)
                    settings = replace(
                        BASE,
                        n_samples=1000,
                        cross_weight=weight,
                        cross_decoder=(cross_decoder,) * 4,
                    )
                    losses.append(objective(network, rows, codes, settings).loss)
                values.append(losses[0] - losses[1])
            values = torch.stack(values)
            expected = sum(
                exact_log_p(network, t, x[t][0], codes.shared[1 - t]) for t in (0, 1)
            )
        error = values.std() / 40**0.5
        # Log of a mean: below by half its relative variance, for two of them.
        bias = values.var()
        assert abs(values.mean() - expected / 2) < 4 * error + bias
        assert error < 0.1

    @pytest.mark.parametrize("seed", SEEDS)
    def test_special_case_without_private_codes(self, chance, seed):
        """Joy et al. (2022) with K draws: two encoders, two decoders, one code."""
        specs = [("laplace", (2,), 1.0, 0), BERNOULLI]
        network = network_of(specs, seed, n_private=0)
        rows = rows_of(specs, torch.ones(2, 5), seed, with_cells=False)
        k, weight = 4, 10.0
        q = codes_of(network, rows).shared
        total = 0.0
        for s, t in ((0, 1), (1, 0)):
            z = fixed_draw(q[s], k)
            output = {m: network.parts[m].decoder(z.flatten(0, 1)) for m in (s, t)}
            output = {m: v.view(k, 5, -1) for m, v in output.items()}
            log_p = {
                0: lambda v: Laplace(v, 1.0).log_prob(rows.blocks[0]).sum(-1),
                1: lambda v: (
                    Bernoulli(logits=v).log_prob(rows.blocks[1].expand_as(v)).sum(-1)
                ),
            }
            a = log_p[t](output[t])
            log_q_t = torch.logsumexp(a, 0) - math.log(k)
            omega = (a - log_q_t).exp().detach()  # of mean one over the draws
            ratio = Normal(q[s].mean, q[s].scale).log_prob(z) - Normal(
                q[t].mean, q[t].scale
            ).log_prob(z)
            body = omega * (log_p[s](output[s]) - ratio.sum(-1) - a)
            total = total + body.mean(0) + weight * log_q_t
        expected = -(total / 2).mean()
        for cross_decoder in ("shared_posterior", "shared_prior", "shared_mean"):
            settings = Objective(
                n_samples=k,
                cross_weight=weight,
                ib_weight=0.0,
                align_weight=0.0,
                cross_decoder=(cross_decoder,) * 4,
            )
            loss = loss_of(network, rows, settings)
            torch.testing.assert_close(loss, expected, **CLOSE)

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("n_private", [0, 2])
    def test_one_modality_is_a_plain_autoencoder(self, monkeypatch, n_private, seed):
        """Against the bound in closed form: a linear decoder of Gaussian values."""
        encoder, decoder = (
            nn.Linear(3, 2 * (2 + n_private)),
            nn.Linear(2 + n_private, 3),
        )
        part = Part(encoder, decoder, (3,), 2, n_private, "gaussian", 1.0)
        network = MultimodalVAE([part]).double()
        for i, parameter in enumerate(network.parameters()):
            with torch.no_grad():
                parameter.copy_(0.4 * normal(*parameter.shape, seed=seed + i))
        rows = Rows([normal(3, 3, seed=seed)], [None], [None], torch.ones(1, 3).bool())
        codes = codes_of(network, rows)
        mean, log_scale = (
            torch.cat([getattr(q[0], name) for q in (codes.shared, codes.private)], -1)
            for name in ("mean", "log_scale")
        )
        variance = (2 * log_scale).exp()
        error = rows.blocks[0] - decoder(mean)
        noise = (variance[:, None] * decoder.weight**2).sum((1, 2))
        own = -0.5 * (error.square().sum(-1) + noise) - 1.5 * math.log(2 * math.pi)
        kl = 0.5 * (variance + mean**2 - 1 - 2 * log_scale).sum(-1)
        # A quadratic in the noise has its mean over any points of mean zero and unit
        # covariance: here plus and minus the axes, times the root of their number.
        size = 2 + n_private
        points = size**0.5 * torch.eye(size).double()
        points = torch.cat([points, -points])

        def draw(q, n_draws, common=False):
            noise = points[:, :2] if q is codes.shared[0] else points[:, 2:]
            return q.mean + q.scale * noise[:, None]

        monkeypatch.setattr(DiagonalGaussian, "draw", draw)
        settings = Objective(n_samples=len(points))
        loss = objective(network, rows, codes, settings).loss
        torch.testing.assert_close(loss, -(own - kl).mean(), **CLOSE)


# ------------------------------------------------------------------------------- bounds
def linear_gaussian(seed, dims=(3, 2), n_private=1, n_anchors=4):
    """Linear decoders, encoders with scales that do not depend on the rows."""
    parts = []
    for m, d in enumerate(dims):
        n = N_SHARED + n_private
        part = Part(
            nn.Linear(d, 2 * n),
            nn.Linear(n, d),
            (d,),
            N_SHARED,
            n_private,
            "gaussian",
            1.0,
            n_anchors=n_anchors if len(dims) > 1 else 0,
        )
        part.double()
        with torch.no_grad():
            part.encoder.weight.copy_(0.4 * normal(2 * n, d, seed=seed + m))
            part.encoder.weight[n:] = 0
            part.encoder.bias.copy_(0.3 * normal(2 * n, seed=seed + m + 5) - 0.2)
            part.decoder.weight.copy_(0.8 * normal(d, n, seed=seed + m + 9))
            part.anchors.copy_(normal(part.anchors.numel(), seed=seed + m + 13))
        parts.append(part)
    return MultimodalVAE(parts)


def exact_log_p(network, m, x, prior):
    """Log of the integral of p(x|z, w) p(w) over Gaussians ``(C, d)`` of z."""
    decoder = network.parts[m].decoder
    a, c = decoder.weight[:, :N_SHARED], decoder.weight[:, N_SHARED:]
    fixed = c @ c.T + torch.eye(len(a)).double()
    values = []
    for mean, scale in zip(prior.mean, prior.scale, strict=True):
        covariance = fixed + a @ torch.diag(scale**2) @ a.T
        p = MultivariateNormal(
            decoder(torch.cat([mean, mean.new_zeros(c.shape[1])])), covariance
        )
        values.append(p.log_prob(x))
    return torch.logsumexp(torch.stack(values), 0) - math.log(len(values))


def exact_bound(network, rows, codes):
    """What the bounds of rows estimate, per row, in closed form."""
    found = []
    for b in range(rows.observed.shape[1]):
        present = rows.observed[:, b].nonzero().flatten().tolist()
        total = 0.0
        for t in present:
            prior = network.anchor_prior(without=t)
            if prior is None:
                zero = torch.zeros(1, N_SHARED).double()
                prior = DiagonalGaussian(zero, zero)
            total = total + exact_log_p(network, t, rows.blocks[t][b], prior)
            for i in present:
                if i != t:
                    given = codes.shared[t][torch.tensor([b])]
                    total = total + exact_log_p(network, i, rows.blocks[i][b], given)
        found.append(total / max(len(present), 1))
    return torch.stack([torch.as_tensor(v).double() for v in found])


class TestRowBounds:
    @pytest.mark.parametrize("dims", [(3,), (3, 2), (3, 2, 2)])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_below_the_log_likelihood_and_growing_with_the_draws(self, seed, dims):
        network = linear_gaussian(seed, dims)
        observed = torch.ones(len(dims), 4).bool()
        if len(dims) > 1:
            observed[0, 1] = observed[1, 2] = False
        blocks = [
            normal(4, d, seed=seed + d) * o[:, None]
            for d, o in zip(dims, observed, strict=True)
        ]
        none = [None] * len(dims)
        rows = Rows(blocks, none, none, observed)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            codes = codes_of(network, rows)
            exact = exact_bound(network, rows, codes)
            first, given = log_weights(network, rows, codes, 1600)
            previous = None
            for n_draws in (4, 40, 400):
                groups = zip(
                    first.split(n_draws, 1), given.split(n_draws, 2), strict=True
                )
                values = torch.stack([row_bounds(f, g, observed) for f, g in groups])
                mean = values.mean(0)
                if n_draws < 400:
                    error = values.std(0) / len(values) ** 0.5
                    assert (mean < exact + 4 * error).all()
                # The same draws in larger groups: never a looser bound, by Jensen.
                if previous is not None:
                    assert (mean >= previous - 1e-12).all()
                previous = mean

    @pytest.mark.parametrize("seed", SEEDS)
    def test_exact_posteriors_make_every_draw_exact(self, seed):
        """One modality whose decoder has orthogonal columns: diagonal posteriors."""
        basis = torch.linalg.qr(normal(5, 5, seed=seed)).Q[:, :3]
        length = 0.5 + normal(3, seed=seed + 1).abs()
        part = Part(nn.Linear(5, 6), nn.Linear(3, 5), (5,), N_SHARED, 1).double()
        loading = basis * length
        with torch.no_grad():
            part.decoder.weight.copy_(loading)
            part.decoder.bias.copy_(normal(5, seed=seed + 2))
            gain = loading.T / (1 + length[:, None] ** 2)
            part.encoder.weight.zero_()
            part.encoder.weight[:3] = gain
            part.encoder.bias[:3] = -gain @ part.decoder.bias
            part.encoder.bias[3:] = -0.5 * (1 + length**2).log()
        network = MultimodalVAE([part])
        x = 2 * normal(4, 5, seed=seed + 3)
        rows = Rows([x], [None], [None], torch.ones(1, 4).bool())
        covariance = loading @ loading.T + torch.eye(5).double()
        expected = MultivariateNormal(part.decoder.bias, covariance).log_prob(x)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            codes = codes_of(network, rows)
            first, given = log_weights(network, rows, codes, 7)
        torch.testing.assert_close(first[0], expected.expand(7, 4), **CLOSE)
        torch.testing.assert_close(
            row_bounds(first, given, rows.observed), expected, **CLOSE
        )

    @pytest.mark.parametrize("m", [1, 2, 3])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_slow_loop(self, chance, seed, m):
        network = network_of(SPECS[m], seed)
        rows = rows_of(SPECS[m], PATTERNS[m], seed)
        codes, k = codes_of(network, rows), 4
        found = row_bounds(*log_weights(network, rows, codes, k), rows.observed)
        for b in range(rows.observed.shape[1]):
            present = [i for i in range(m) if rows.observed[i, b]]
            orders = []
            for t in present:
                value = 0.0
                for i in present:
                    part, q, r = network.parts[i], codes.shared[i], codes.private[i]
                    z = fixed_draw(q, k, common=True)[:, b]
                    w = fixed_draw(r, k, common=True)[:, b]
                    cells = None if rows.cells[i] is None else rows.cells[i][b]
                    output = part.decoder(torch.cat([z, w], 1)).flatten(1)
                    log_f = log_likelihood(part, output, rows.blocks[i][b], cells)
                    zero = torch.zeros(part.n_private).double()
                    log_f = log_f + Normal(zero, 1.0).log_prob(w).sum(-1)
                    log_f = log_f - log_normal(w, r, b) - log_normal(z, q, b)
                    if i != t:
                        log_f = log_f + log_normal(z, codes.shared[t], b)
                    elif m == 1:
                        log_f = log_f + Normal(0.0, 1.0).log_prob(z).sum(-1)
                    else:
                        log_f = log_f + slow_anchor_prior(network, t, z)
                    value = value + torch.logsumexp(log_f, 0) - math.log(k)
                orders.append(value)
            expected = sum(orders) / len(orders) if orders else torch.zeros(()).double()
            torch.testing.assert_close(found[b], expected, **CLOSE)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_one_draw_is_the_training_bound(self, chance, monkeypatch, seed):
        """Without private codes, whose divergence the loss takes in closed form."""

        def common(q, n_draws, common=False):
            return fixed_draw(q, n_draws, common=True)

        monkeypatch.setattr(DiagonalGaussian, "draw", common)
        for m in (1, 3):
            network = network_of(SPECS[m], seed, n_private=0)
            rows = rows_of(SPECS[m], torch.eye(m), seed)
            codes = codes_of(network, rows)
            bounds = row_bounds(*log_weights(network, rows, codes, 1), rows.observed)
            loss = objective(
                network, rows, codes, Objective(1, cross_decoder=POSTERIOR)
            ).loss
            torch.testing.assert_close(loss, -bounds.mean(), **CLOSE)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_a_row_does_not_depend_on_the_others(self, seed):
        network, rows = network_of(SPECS[3], seed), rows_of(SPECS[3], PATTERNS[3], seed)

        def bounds(index):
            some = Rows(
                [x[index] for x in rows.blocks],
                rows.steps,
                [c if c is None else c[index] for c in rows.cells],
                rows.observed[:, index],
            )
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(seed)
                weights = log_weights(network, some, codes_of(network, some), 5)
                return row_bounds(*weights, some.observed)

        together = bounds(torch.arange(8))
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(bounds(order), together[order], **EXACT)
        for b in range(8):
            torch.testing.assert_close(
                bounds(order[b : b + 1]), together[order[b : b + 1]], **EXACT
            )
        assert together[4] == 0  # the row without anything


# ------------------------------------------------------------------- codes and choices
class TestNetwork:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_codes_of_observed_rows_only(self, seed):
        network, rows = network_of(SPECS[3], seed), rows_of(SPECS[3], PATTERNS[3], seed)
        some, full = codes_of(network, rows), network(rows.blocks, rows.steps)
        for m, there in enumerate(rows.observed):
            for q, p in (
                (some.shared[m], full.shared[m]),
                (some.private[m], full.private[m]),
            ):
                torch.testing.assert_close(q.mean[there], p.mean[there], **EXACT)
                torch.testing.assert_close(
                    q.log_scale[there], p.log_scale[there], **EXACT
                )
                assert (q.mean[~there] == 0).all()
                assert (q.log_scale[~there] == 0).all()

    def test_log_scales_are_bounded(self):
        network = network_of(SPECS[1])
        codes = network([1e4 * normal(20, 3)], [None])
        for q in (codes.shared[0], codes.private[0]):
            assert q.log_scale.min() == -6
            assert q.log_scale.max() == 3

    @pytest.mark.parametrize(
        ("kind", "shape"),
        [("auto", (2, 5, 6)), ("conv", (6, 2)), ("attention", (6, 2)), ("mlp", (4,))],
    )
    def test_no_row_has_a_modality(self, kind, shape):
        """Neither encoders nor decoders mind an empty batch."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = build_encoder(kind, shape, 6, (7,), 0.0, bounded=False)
            decoder_kind = "auto" if kind == "attention" else kind
            decoder = build_decoder(decoder_kind, shape, 3, (7,))
        size = math.prod(shape)
        other = Part(nn.Linear(3, 6), nn.Linear(3, 3), (3,), 2, 1, n_anchors=2)
        absent = Part(encoder, decoder, shape, 2, 1, n_anchors=2)
        network = MultimodalVAE([other, absent]).double()
        steps = torch.ones(4, 6).bool() if len(shape) == 2 else None
        observed = torch.tensor([[True] * 4, [False] * 4])
        blocks = [normal(4, 3), torch.zeros(4, size).double()]
        rows = Rows(blocks, [None, steps], [None, None], observed)
        codes = codes_of(network, rows)
        assert (codes.shared[1].mean == 0).all()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss = objective(network, rows, codes, BASE).loss
        assert loss.isfinite()
        loss.backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name

    @pytest.mark.parametrize(
        ("kind", "shape"),
        [
            ("linear", (4,)),
            ("mlp", (4,)),
            ("conv", (2, 5, 6)),
            ("conv", (6, 2)),
            ("attention", (6, 2)),
        ],
    )
    def test_narrow_start(self, kind, shape):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = build_encoder(kind, shape, 6, (7,), 0.0, bounded=False)
        part = Part(encoder, nn.Linear(3, 4), shape, 2, 1).double()
        x = normal(50, math.prod(shape))
        steps = torch.ones(50, shape[0]).bool() if len(shape) == 2 else None
        before = part.encode(x, steps)
        start_narrow(encoder, 3)
        after = part.encode(x, steps)
        for q, p in zip(before, after, strict=True):
            assert torch.equal(q.mean, p.mean)
            # A tenth of numbers of size one or two.
            assert (p.log_scale + 1).abs().max() < 0.6

    def test_anchor_prior(self):
        network = network_of(SPECS[3], n_anchors=3)
        everyone = network.anchor_prior()
        assert everyone.mean.shape == (9, N_SHARED)
        for m in range(3):
            kept = torch.ones(9).bool()
            kept[3 * m : 3 * m + 3] = False
            without = network.anchor_prior(without=m)
            assert torch.equal(without.mean, everyone.mean[kept])
            assert torch.equal(without.log_scale, everyone.log_scale[kept])
        z = normal(5, N_SHARED)
        torch.testing.assert_close(
            log_prior(z, network.anchor_prior(without=1)),
            slow_anchor_prior(network, 1, z),
            **EXACT,
        )
        assert network_of(SPECS[1]).anchor_prior(without=0) is None
        expected = Normal(0.0, 1.0).log_prob(z).sum(-1)
        torch.testing.assert_close(log_prior(z, None), expected, **EXACT)

    def test_full_precision(self):
        q = DiagonalGaussian(normal(3, 2).bfloat16(), normal(3, 2).bfloat16())
        codes = Codes([q], [q]).in_full_precision()
        for p in (codes.shared[0], codes.private[0]):
            assert p.mean.dtype == p.log_scale.dtype == torch.float32
            assert torch.equal(p.mean, q.mean.float())
        wide = Codes([DiagonalGaussian(normal(3, 2), normal(3, 2))], [])
        assert wide.in_full_precision() is wide


class TestJointCode:
    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("rule", ["mean", "precision"])
    def test_formulas(self, rule, seed):
        observed = torch.tensor(list(itertools.product([False, True], repeat=3))).T
        shared = [
            DiagonalGaussian(
                normal(8, 2, seed=seed + m), normal(8, 2, seed=seed + 9 + m)
            )
            for m in range(3)
        ]
        found = joint_code(Codes(shared, []), observed, rule)
        for b in range(8):
            mean, variance = torch.zeros(2).double(), torch.ones(2).double()
            mine = [q for m, q in enumerate(shared) if observed[m, b]]
            if mine and rule == "mean":
                mean = sum(q.mean[b] for q in mine) / len(mine)
                variance = sum(q.scale[b] ** 2 for q in mine) / len(mine)
            elif mine:
                variance = 1 / sum(q.scale[b] ** -2 for q in mine)
                mean = variance * sum(q.mean[b] / q.scale[b] ** 2 for q in mine)
            torch.testing.assert_close(found.mean[b], mean, **EXACT)
            torch.testing.assert_close(found.scale[b], variance**0.5, **EXACT)

    @pytest.mark.parametrize("rule", ["mean", "precision"])
    def test_one_modality_is_its_own_code_and_garbage_has_no_influence(self, rule):
        own = DiagonalGaussian(normal(4, 2), normal(4, 2, seed=1))
        observed = torch.tensor([[True] * 4, [False] * 4])
        for value in (0.0, 30.0):
            other = DiagonalGaussian(own.mean + value, own.log_scale + value)
            found = joint_code(Codes([own, other], []), observed, rule)
            torch.testing.assert_close(found.mean, own.mean, **EXACT)
            torch.testing.assert_close(found.log_scale, own.log_scale, **EXACT)


class TestSphere:
    @pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
    def test_length_is_the_root_of_the_size(self, size):
        z = size * normal(4, 5, 3)
        found = on_sphere(z)
        length = found.norm(dim=-1)
        torch.testing.assert_close(length, torch.full_like(length, 3**0.5), **EXACT)
        cosine = nn.functional.cosine_similarity(z, found, dim=-1, eps=0)
        torch.testing.assert_close(cosine, torch.ones_like(cosine), **EXACT)

    def test_zero_stays_with_a_finite_gradient(self):
        z = torch.zeros(2, 3).double().requires_grad_()
        on_sphere(z).sum().backward()
        assert (on_sphere(z) == 0).all()
        assert z.grad.isfinite().all()

    @pytest.mark.parametrize("rule", ["mean", "precision"])
    def test_shared_means_only(self, rule):
        plain, round_ = (network_of(SPECS[3], 2, spherical=v) for v in (False, True))
        rows = rows_of(SPECS[3], PATTERNS[3], 2)
        left, right = codes_of(plain, rows), codes_of(round_, rows)
        for m, there in enumerate(rows.observed):
            expected = on_sphere(left.shared[m].mean[there])
            torch.testing.assert_close(right.shared[m].mean[there], expected, **EXACT)
            assert torch.equal(left.shared[m].log_scale, right.shared[m].log_scale)
            assert torch.equal(left.private[m].mean, right.private[m].mean)
        joint = joint_code(right, rows.observed, rule, spherical=True)
        some = rows.observed.any(0)
        length = joint.mean[some].norm(dim=-1)
        torch.testing.assert_close(length, torch.full_like(length, 2**0.5), **EXACT)
        assert (joint.mean[~some] == 0).all()


class TestChooseTargets:
    @pytest.mark.parametrize("n_targets", [None, 1, 2, 3, 9])
    def test_how_many_and_which(self, n_targets):
        g = torch.Generator().manual_seed(0)
        observed = torch.rand(4, 200, generator=g) < 0.6
        with torch.random.fork_rng():
            torch.manual_seed(0)
            targets = choose_targets(observed, n_targets)
        assert targets.shape == (4, 4, 200)
        assert not targets.diagonal().any()
        both = observed[:, None] & observed[None]
        assert not (targets & ~both).any()
        others = (observed.sum(0) - 1).clamp_min(0)
        limit = 4 if n_targets is None else n_targets
        expected = torch.where(observed, others.clamp_max(limit), 0)
        assert torch.equal(targets.sum(1), expected)

    def test_uniform_over_the_observed(self):
        n = 6000
        observed = torch.tensor([[1], [1], [0], [1], [1]]).bool().expand(5, n)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for n_targets in (1, 2):
                share = choose_targets(observed, n_targets).double().mean(2)
                p = n_targets / 3
                there = torch.tensor([0, 1, 3, 4])
                share = share[there][:, there]
                share = share[~torch.eye(4).bool()]
                # Four standard errors of a share, of 12 shares.
                assert (share - p).abs().max() < 4 * (p * (1 - p) / n) ** 0.5

    def test_all_targets_draw_nothing(self, global_rng_untouched):
        observed = torch.ones(3, 4).bool()
        assert torch.equal(choose_targets(observed, None), choose_targets(observed, 2))


# ------------------------------------------------------------------------------- parts
class Fixed(nn.Module):
    """Returns zeros of a given shape after the rows."""

    def __init__(self, *shape, extra=0):
        super().__init__()
        self.shape, self.extra = shape, extra

    def forward(self, x):
        return x.new_zeros(len(x) + self.extra, *self.shape)


class TestPart:
    def part(self, encoder, decoder, shape=(3,), **kwargs):
        return Part(encoder, decoder, shape, 2, 1, **kwargs).double()

    @pytest.mark.parametrize("shape", [(5,), (7,), (), (6, 1), (2, 3)])
    def test_encoder_of_wrong_shape(self, shape):
        part = self.part(Fixed(*shape), Fixed(3))
        with pytest.raises(
            ValueError,
            match=r"encoder: expected means and log-scales of shape \(n, 6\) .*Fixed",
        ):
            part.encode(normal(4, 3), None)

    @pytest.mark.parametrize("extra", [-1, 1])
    def test_encoder_of_another_number_of_rows(self, extra):
        part = self.part(Fixed(6, extra=extra), Fixed(3))
        with pytest.raises(ValueError, match="encoder: expected"):
            part.encode(normal(4, 3), None)

    @pytest.mark.parametrize("shape", [(2,), (4,), (), (3, 2)])
    def test_decoder_of_wrong_shape(self, shape):
        part = self.part(Fixed(6), Fixed(*shape))
        with pytest.raises(
            ValueError, match=r"decoder: expected output of shape \(n, 3\).*Fixed"
        ):
            part.decode(normal(5, 4, 2), normal(5, 4, 1))

    def test_decoder_of_another_number_of_rows(self):
        part = self.part(Fixed(6), Fixed(3, extra=1))
        with pytest.raises(ValueError, match=r"decoder: expected .* got \(21, 3\)"):
            part.decode(normal(5, 4, 2), normal(5, 4, 1))

    @pytest.mark.parametrize("out", [(6,), (2, 3)])
    @pytest.mark.parametrize("n_rows", [0, 4])
    def test_decoder_flat_or_not(self, n_rows, out):
        part = self.part(Fixed(6), Fixed(*out), (2, 3))
        found = part.decode(normal(5, n_rows, 2), normal(5, n_rows, 1))
        assert found.shape == (5, n_rows, 6)

    def test_decoder_gets_shared_before_private(self):
        part = self.part(Fixed(6), nn.Identity())
        z, w = normal(5, 4, 2), normal(5, 4, 1, seed=1)
        assert torch.equal(part.decode(z, w), torch.cat([z, w], -1))

    def test_encoder_returns_means_of_both_codes_then_log_scales(self):
        part = self.part(nn.Identity(), Fixed(6), (6,))
        x = normal(4, 6)
        z, w = part.encode(x, None)
        assert torch.equal(z.mean, x[:, :2])
        assert torch.equal(w.mean, x[:, 2:3])
        assert torch.equal(z.log_scale, x[:, 3:5])
        assert torch.equal(w.log_scale, x[:, 5:])

    def test_no_private_codes(self):
        part = Part(nn.Linear(3, 4), nn.Linear(2, 3), (3,), 2, 0).double()
        z, w = part.encode(normal(4, 3), None)
        assert w.mean.shape == (4, 0)
        assert part.decode(z.draw(2) * 0, w.draw(2)).shape == (2, 4, 3)

    @pytest.mark.parametrize("scale", [1e-3, 0.3, 0.75, 20.0])
    def test_given_scale_is_the_scale(self, scale):
        """However small; kept in float32 before the network gets its type."""
        part = self.part(Fixed(6), Fixed(3), likelihood="gaussian", scale=scale)
        x, output = normal(4, 3), normal(4, 3, seed=1)
        expected = Normal(output, scale).log_prob(x).sum(-1)
        found = part.log_likelihood(output, x, None)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)

    def test_learnt_scale_starts_at_one_and_stays_away_from_zero(self):
        part = self.part(Fixed(6), Fixed(3), likelihood="laplace", scale="learn")
        x, output = normal(4, 3), normal(4, 3, seed=1)
        expected = Laplace(output, 1.0).log_prob(x).sum(-1)
        torch.testing.assert_close(
            part.log_likelihood(output, x, None), expected, **EXACT
        )
        with torch.no_grad():
            part.learnt_noise.fill_(-50.0)
        expected = Laplace(output, math.exp(-5)).log_prob(x).sum(-1)
        torch.testing.assert_close(
            part.log_likelihood(output, x, None), expected, **CLOSE
        )

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_likelihoods_are_never_in_half_precision(self, dtype):
        part = Part(Fixed(6), Fixed(3), (3,), 2, 1)
        x, output = normal(4, 3).float(), normal(4, 3, seed=1).to(dtype)
        found = part.log_likelihood(output, x, None)
        assert found.dtype == torch.float32
        expected = part.log_likelihood(output.float(), x, None)
        assert torch.equal(found, expected)


class TestAnchors:
    @pytest.mark.parametrize("learn", [True, False])
    def test_learnt_or_fixed(self, learn):
        part = Part(Fixed(6), Fixed(3), (3,), 2, 1, n_anchors=4, learn_anchors=learn)
        assert ("anchors" in dict(part.named_parameters())) == learn
        assert "anchors" in part.state_dict()
        assert part.anchors.shape == (12,)

    @pytest.mark.parametrize("n_rows", [2, 4, 9])
    @pytest.mark.parametrize(
        "spec", [GAUSSIAN, LAPLACE, BERNOULLI, CATEGORICAL], ids=str
    )
    def test_start_at_rows(self, spec, n_rows):
        likelihood, shape, *_ = spec
        size = math.prod(shape)
        part = Part(
            Fixed(6), Fixed(size), shape, 2, 1, likelihood, n_anchors=4
        ).double()
        x = rows_of([spec], torch.ones(1, n_rows), 3, with_cells=False).blocks[0]
        part.set_anchors(x, None)
        values, _ = part.anchor_rows()
        expected = x[torch.arange(4) % n_rows]
        assert values.shape == (4, size)
        # Categories start a percent short of certain, so that they can move.
        tolerance = 0.011 if likelihood == "categorical" else 0.0
        torch.testing.assert_close(values, expected, rtol=0, atol=tolerance)
        if likelihood == "categorical":
            total = values.view(4, *shape).sum(-1)
            torch.testing.assert_close(total, torch.ones_like(total), **EXACT)
            assert part.anchors.isfinite().all()
        (values.square().sum() * 0.5).backward()
        assert part.anchors.grad.isfinite().all()

    def test_bernoulli_anchors_are_clipped(self):
        part = Part(Fixed(6), Fixed(3), (3,), 2, 1, "bernoulli", n_anchors=1).double()
        with torch.no_grad():
            part.anchors.copy_(torch.tensor([-0.5, 0.3, 1.7]))
        expected = torch.tensor([[0.0, 0.3, 1.0]]).float().double()
        torch.testing.assert_close(part.anchor_rows()[0], expected, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("kind", ["conv", "attention"])
    @pytest.mark.parametrize("n_anchors", [3, 5])
    def test_of_sequences_keep_their_time_steps(self, n_anchors, kind):
        shape = (6, 2)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = build_encoder(kind, shape, 6, (), 0.0, bounded=False)
        part = Part(encoder, Fixed(12), shape, 2, 1, n_anchors=n_anchors).double()
        assert part.with_steps
        steps = torch.arange(6) < torch.tensor([[2], [6], [4]])
        x = (normal(3, *shape) * steps.unsqueeze(-1)).flatten(1)
        part.set_anchors(x, steps)
        expected, _ = part.encode(x, steps)
        found, _ = part.encode(*part.anchor_rows())
        pick = torch.arange(n_anchors) % 3
        torch.testing.assert_close(found.mean, expected.mean[pick], **EXACT)
        torch.testing.assert_close(found.log_scale, expected.log_scale[pick], **EXACT)

    def test_of_sequences_are_full_without_a_mask(self):
        part = Part(Fixed(6), Fixed(12), (6, 2), 2, 1, n_anchors=3).double()
        part.set_anchors(normal(3, 12), None)
        assert part.anchor_rows()[1].all()
