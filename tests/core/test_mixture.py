"""The mixture's bound: scikit-learn's, exact evidence, monotone, invariant."""

import math

import numpy as np
import pytest
import torch
from scipy.special import betaln, gammaln
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

from skmm.core.mixture import (
    COUPLINGS,
    Expectation,
    Mixture,
    Priors,
    Rows,
    Totals,
    atoms_shape,
    bound,
    empirical_scale,
    factor_divergence,
    given_totals,
    maximise,
    sorted_by_size,
)
from skmm.core.normal_wishart import LOG_2PI, NormalWishart

SEEDS = range(4)
KINDS = ["full", "diag"]
SIZES = (3, 2)


def f64(values):
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def draw_blocks(seed, n=120, sizes=SIZES, k=3):
    """Blocks of planted groups, (D, n) each."""
    rng = np.random.default_rng(seed)
    group = rng.integers(k, size=n)
    return [
        (rng.normal(size=(k, d)) * 4)[group].T + rng.normal(size=(d, n)) for d in sizes
    ]


def missing(seed, n, n_blocks):
    """Which blocks rows have; the first row has none."""
    seen = np.random.default_rng(100 + seed).uniform(size=(n_blocks, n)) > 0.35
    seen[:, 0] = False
    seen[:, 1] = True
    return seen


def make_rows(blocks, seen=None, cells=None, weight=None, labels=None):
    n = blocks[0].shape[1]
    seen = np.ones((len(blocks), n)) if seen is None else seen
    z = [np.where(s > 0, b, 0.0) for b, s in zip(blocks, seen, strict=True)]
    masks = [None] * len(blocks)
    if cells is not None:
        masks = [None if c is None else c * s for c, s in zip(cells, seen, strict=True)]
        z = [b if c is None else b * c for b, c in zip(z, masks, strict=True)]
    return Rows(
        [f64(b) for b in z],
        f64(seen),
        [None if c is None else f64(c) for c in masks],
        f64(np.ones(n) if weight is None else weight),
        labels,
    )


def prior_of(block, kind, b0=0.5, extra=2.0):
    d = len(block)
    scale = np.cov(block).reshape(d, d)
    scale = scale.diagonal() if kind == "diag" else scale
    return NormalWishart(
        f64(block.mean(1)[None]), f64([b0]), f64(scale.copy()[None]), f64([d + extra])
    )


class Fit:
    """Coordinate ascent in plain steps, with the bound after each half of one."""

    def __init__(
        self,
        rows,
        blocks,
        kind="full",
        coupling="shared",
        k=6,
        eta=0.7,
        seed=0,
        by_size=True,
        n_classes=None,
        priors=None,
        resp=None,
    ):
        priors = priors or [prior_of(b, kind) for b in blocks]
        self.rows = rows
        self.priors = Priors(eta, priors, 0.8, by_size)
        shape = atoms_shape(coupling, len(blocks), k)
        reference = None
        if coupling == "joint_stick":
            reference = [
                NormalWishart(p.mean, f64([1]), p.scale, f64([1])) for p in priors
            ]
        like = Mixture(
            coupling,
            torch.zeros(shape),
            torch.zeros(shape),
            torch.arange(shape[1]).repeat(shape[0], 1),
            priors,
            reference=reference,
        )
        if resp is None:
            rng = np.random.default_rng(seed)
            resp = rng.gamma(0.3, size=(*shape, rows.n_rows)) + 1e-3
            resp /= resp.sum(1, keepdims=True)
            if coupling == "per_modality":
                resp *= rows.seen.numpy()[:, None]
        self.totals = given_totals(f64(resp), rows, coupling, priors, n_classes)
        self.mixture = maximise(self.totals, self.priors, like)
        self.bounds = [self.value]

    @property
    def value(self):
        return bound(self.totals, self.priors, self.mixture)

    def step(self):
        self.totals = Expectation(self.mixture).totals(self.rows)
        between = self.totals.log_norm + self.totals.constant
        between = between - factor_divergence(self.priors, self.mixture)
        self.bounds.append(float(between))
        self.mixture = maximise(self.totals, self.priors, self.mixture)
        self.bounds.append(self.value)

    def run(self, n):
        for _ in range(n):
            self.step()
        return self

    @property
    def resp(self):
        return Expectation(self.mixture).responsibilities(self.rows)[0].numpy()


# ------------------------------------------------------------ scikit-learn's bound
def scikit_learn_constant(n, d, k, prior, eta):
    """What scikit-learn's `lower_bound_` leaves out."""
    scale, b0, nu0 = prior.scale[0].numpy(), float(prior.precision), float(prior.dof)
    log_det = np.linalg.slogdet(scale)[1] if scale.ndim == 2 else np.log(scale).sum()
    log_b = nu0 / 2 * log_det - nu0 * d / 2 * math.log(2)
    log_b -= sum(gammaln((nu0 - i) / 2) for i in range(d))
    normalisers = k * (log_b + d / 2 * math.log(b0) + math.log(eta))
    return -n * d / 2 * LOG_2PI + normalisers


# Short of convergence, rounding grows with every sweep: so after one, and at the end.
@pytest.mark.parametrize("n_sweeps", [1, 200])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_equals_scikit_learn(seed, kind, n_sweeps):
    n, d, k, eta = 300, 4, 6, 0.3
    (block,) = draw_blocks(seed, n=n, sizes=(d,), k=4)
    block = block - block.mean(1, keepdims=True)  # as the estimator does
    prior = prior_of(block, kind)
    resp = np.random.default_rng(seed).dirichlet(np.ones(k), size=n)

    class Started(BayesianGaussianMixture):
        def _initialize_parameters(self, X, random_state, **kwargs):
            self._initialize(X, resp)

    peer = Started(
        n_components=k,
        covariance_type=kind,
        weight_concentration_prior=eta,
        mean_prior=prior.mean[0].numpy(),
        mean_precision_prior=float(prior.precision),
        degrees_of_freedom_prior=float(prior.dof),
        covariance_prior=prior.scale[0].numpy(),
        reg_covar=0,
        max_iter=n_sweeps,
        tol=0,
    )
    with pytest.warns(ConvergenceWarning):
        peer.fit(block.T)
    fit = Fit(
        make_rows([block]),
        [block],
        kind,
        k=k,
        eta=eta,
        by_size=False,
        priors=[prior],
        resp=resp.T[None],
    ).run(n_sweeps)
    ours = fit.value - scikit_learn_constant(n, d, k, prior, eta)
    # Both are sums of some thousand; scikit-learn adds 10 eps to each count.
    assert ours == pytest.approx(peer.lower_bound_, abs=5e-12)
    q = fit.mixture.blocks[0]
    np.testing.assert_allclose(q.mean, peer.means_, atol=4e-14)
    np.testing.assert_allclose(q.covariance, peer.covariances_, rtol=1e-11, atol=1e-12)
    weights = torch.softmax(fit.mixture.log_mean_weights[0], 0)
    np.testing.assert_allclose(weights, peer.weights_, atol=1e-14)


# ------------------------------------------------------------ the bound itself
def random_cells(seed, sizes=SIZES, n=120):
    rng = np.random.default_rng(200 + seed)
    cells = [(rng.uniform(size=(d, n)) > 0.2) * 1.0 for d in sizes]
    for c in cells:
        c[0, c.sum(0) == 0] = 1  # an observed block has a cell
    return cells


@pytest.mark.parametrize("with_cells", [False, True])
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_bound_never_falls(seed, kind, coupling, with_cells):
    blocks = draw_blocks(seed)
    weight = np.random.default_rng(seed).uniform(0.2, 2, size=120)
    rows = make_rows(
        blocks,
        missing(seed, 120, 2),
        random_cells(seed) if with_cells else None,
        weight,
    )
    fit = Fit(rows, blocks, kind, coupling, seed=seed).run(20)
    # The start leaves out what a joint stick's references add.
    steps = np.diff(fit.bounds[1:])
    assert steps.min() >= -1e-9 * abs(fit.bounds[-1])
    assert fit.bounds[-1] > fit.bounds[1] + 1


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_bound_never_falls_with_labels(kind, coupling):
    blocks = draw_blocks(5)
    labels = torch.as_tensor(np.random.default_rng(0).integers(-1, 3, size=120))
    rows = make_rows(blocks, missing(5, 120, 2), labels=labels)
    fit = Fit(rows, blocks, kind, coupling, n_classes=3).run(20)
    assert np.diff(fit.bounds[1:]).min() >= -1e-9 * abs(fit.bounds[-1])
    a = fit.mixture.labels
    n_labelled = int((labels >= 0).sum())
    if coupling == "per_modality":
        seen = rows.seen.numpy()[:, labels.numpy() >= 0].sum()
        assert float(a.sum()) == pytest.approx(seen + a.numel() * 0.8)
    else:
        assert float(a.sum()) == pytest.approx(n_labelled + a.numel() * 0.8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_empirical_scale_raises_the_bound(seed, kind):
    blocks = draw_blocks(seed)
    fit = Fit(make_rows(blocks, missing(seed, 120, 2)), blocks, kind, seed=seed)
    values = [fit.value]
    least = [
        0.01 * p.scale / p.dof.reshape(-1, *[1] * (p.scale.ndim - 1))
        for p in fit.priors.blocks
    ]
    for _ in range(15):
        fit.step()
        values.append(fit.value)
        new = [
            empirical_scale(p, q, t[:, 0] > 1e-6, floor)
            for p, q, t, floor in zip(
                fit.priors.blocks,
                fit.mixture.blocks,
                fit.totals.blocks,
                least,
                strict=True,
            )
        ]
        fit.priors = Priors(fit.priors.concentration, new, 0.8)
        fit.mixture = maximise(fit.totals, fit.priors, fit.mixture)
        values.append(fit.value)
    assert np.diff(values).min() >= -1e-9 * abs(values[-1])
    for prior, floor in zip(fit.priors.blocks, least, strict=True):
        apart = prior.scale / prior.dof.reshape(-1, *[1] * (prior.scale.ndim - 1))
        apart = (apart - floor)[0]
        apart = torch.diag(apart) if apart.ndim == 1 else apart
        assert torch.linalg.eigvalsh(apart).min() > -1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_one_component_has_the_exact_evidence(seed, kind):
    n, d, eta = 60, 3, 0.7
    (block,) = draw_blocks(seed, n=n, sizes=(d,))
    prior = prior_of(block, kind)
    fit = Fit(make_rows([block]), [block], kind, k=1, eta=eta, priors=[prior]).run(1)
    expected = betaln(1 + n, eta) - betaln(1, eta)
    if kind == "full":
        # Row by row: the product of Student-t predictive densities.
        m, b = prior.mean[0].numpy(), float(prior.precision)
        scale, nu = prior.scale[0].numpy(), float(prior.dof)
        for x in block.T:
            free = nu - d + 1
            shape = scale * (b + 1) / (b * free)
            far = (x - m) @ np.linalg.solve(shape, x - m)
            expected += (
                gammaln((free + d) / 2)
                - gammaln(free / 2)
                - d / 2 * np.log(free * np.pi)
                - 0.5 * np.linalg.slogdet(shape)[1]
                - (free + d) / 2 * np.log1p(far / free)
            )
            scale = scale + b / (b + 1) * np.outer(x - m, x - m)
            m = (b * m + x) / (b + 1)
            b, nu = b + 1, nu + 1
    else:
        # The family of Wisharts with a diagonal scale: its normalisers.
        q = fit.mixture.blocks[0]
        nu0, nu = float(prior.dof), float(q.dof)
        steps = np.arange(d)
        expected += (
            gammaln((nu - steps) / 2).sum()
            - gammaln((nu0 - steps) / 2).sum()
            + d / 2 * (np.log(float(prior.precision)) - np.log(float(q.precision)))
            + nu0 / 2 * np.log(prior.scale.numpy()).sum()
            - nu / 2 * np.log(q.scale.numpy()).sum()
            - n * d / 2 * np.log(np.pi)
        )
    assert fit.value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_empty_stick_more_changes_nothing_until_it_is_used(seed):
    blocks = draw_blocks(seed)
    rows = make_rows(blocks, missing(seed, 120, 2))
    fit = Fit(rows, blocks, k=4, seed=seed).run(5)
    counts = torch.cat([fit.totals.counts, torch.zeros(1, 1).double()], 1)
    wider = Totals(
        counts,
        [torch.cat([t, torch.zeros_like(t[:1])]) for t in fit.totals.blocks],
        None,
        fit.totals.entropy,
        fit.totals.log_norm,
        fit.totals.constant,
        fit.totals.assigned,
        fit.totals.pairs,
    )
    mixture = maximise(wider, fit.priors, fit.mixture)
    before = bound(wider, fit.priors, mixture)
    assert before == pytest.approx(fit.value, abs=1e-9)
    for q, prior in zip(mixture.blocks, fit.priors.blocks, strict=True):
        assert torch.equal(q.scale[4], prior.scale[0])
    again = Expectation(mixture).totals(rows)
    after = again.log_norm - factor_divergence(fit.priors, mixture)
    assert float(after) > before


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_sticks_count_rows(seed, coupling):
    blocks = draw_blocks(seed)
    seen = missing(seed, 120, 2)
    fit = Fit(make_rows(blocks, seen), blocks, coupling=coupling).run(3)
    a, b = fit.mixture.a, fit.mixture.b
    assert (a >= 1).all() and (b >= 0.7).all()
    assert torch.equal(b[:, -1], torch.full_like(b[:, -1], 0.7))
    rows = seen.sum(1) if coupling == "per_modality" else [120]
    np.testing.assert_allclose((a - 1).sum(1), rows, rtol=1e-12)
    weights = fit.mixture.log_mean_weights.exp()
    left = (b / (a + b)).prod(1)
    torch.testing.assert_close(weights.sum(1), 1 - left, rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_sorted_sticks_have_the_larger_bound(seed):
    blocks = draw_blocks(seed)
    fit = Fit(make_rows(blocks), blocks, seed=seed, by_size=False).run(4)
    by_size = Priors(0.7, fit.priors.blocks, 0.8, True)
    sorted_ = maximise(fit.totals, by_size, fit.mixture)
    assert bound(fit.totals, by_size, sorted_) >= fit.value


# ------------------------------------------------------------ couplings
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_per_modality_is_a_fit_of_each(seed, kind):
    blocks = draw_blocks(seed)
    seen = missing(seed, 120, 2)
    rng = np.random.default_rng(seed)
    resp = rng.dirichlet(np.ones(6), size=(2, 120)).transpose(0, 2, 1) * seen[:, None]
    together = Fit(
        make_rows(blocks, seen), blocks, kind, "per_modality", resp=resp
    ).run(10)
    total = 0.0
    for m in range(2):
        own = seen[m]
        alone = Fit(
            make_rows([blocks[m][:, own]]),
            [blocks[m]],
            kind,
            resp=resp[m : m + 1][:, :, own],
        ).run(10)
        total += alone.value
        torch.testing.assert_close(
            together.mixture.blocks[m].mean, alone.mixture.blocks[0].mean
        )
    assert together.value == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_shared_without_the_other_blocks_is_one_fit(seed):
    blocks = draw_blocks(seed)
    seen = np.ones((2, 120))
    seen[1] = 0
    resp = np.random.default_rng(seed).dirichlet(np.ones(5), size=120).T[None]
    both = Fit(make_rows(blocks, seen), blocks, resp=resp, k=5).run(8)
    one = Fit(make_rows(blocks[:1]), blocks[:1], resp=resp, k=5).run(8)
    assert both.value == pytest.approx(one.value, abs=1e-9)
    np.testing.assert_allclose(both.resp, one.resp, atol=1e-12)


@pytest.mark.parametrize("coupling", ["shared", "per_modality"])
@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_modalities_and_rows_does_not_matter(seed, coupling):
    blocks = draw_blocks(seed)
    seen = missing(seed, 120, 2)
    shape = atoms_shape(coupling, 2, 6)
    rng = np.random.default_rng(seed)
    resp = rng.dirichlet(np.ones(6), size=(shape[0], 120)).transpose(0, 2, 1)
    if coupling == "per_modality":
        resp = resp * seen[:, None]
    straight = Fit(make_rows(blocks, seen), blocks, coupling=coupling, resp=resp).run(6)
    order = rng.permutation(120)
    turned = [b[:, order] for b in blocks[::-1]]
    start = resp[::-1] if coupling == "per_modality" else resp
    other = Fit(
        make_rows(turned, seen[::-1][:, order]),
        turned,
        coupling=coupling,
        resp=start[:, :, order].copy(),
    ).run(6)
    assert other.value == pytest.approx(straight.value, abs=1e-8)
    found = other.resp[::-1] if coupling == "per_modality" else other.resp
    np.testing.assert_allclose(found, straight.resp[:, :, order], atol=1e-8)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_affine_maps_shift_the_bound_alone(seed, coupling):
    blocks = draw_blocks(seed)
    seen = missing(seed, 120, 2)
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(d, d)) + 2 * np.eye(d) for d in SIZES]
    moved = [
        a @ b + rng.normal(size=(len(b), 1)) for a, b in zip(maps, blocks, strict=True)
    ]
    first = Fit(make_rows(blocks, seen), blocks, coupling=coupling).run(5)
    other = Fit(make_rows(moved, seen), moved, coupling=coupling).run(5)
    np.testing.assert_allclose(other.resp, first.resp, atol=1e-9)
    volume = sum(seen[m].sum() * np.log(abs(np.linalg.det(maps[m]))) for m in range(2))
    assert other.value == pytest.approx(first.value - volume, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_columns_shifts_the_bound_alone(kind):
    blocks = draw_blocks(3)
    scales = [np.array([[2.0], [0.1], [30.0]]), np.array([[5.0], [1e-3]])]
    moved = [s * b for s, b in zip(scales, blocks, strict=True)]
    first = Fit(make_rows(blocks), blocks, kind).run(5)
    other = Fit(make_rows(moved), moved, kind).run(5)
    np.testing.assert_allclose(other.resp, first.resp, atol=1e-10)
    volume = 120 * sum(np.log(s).sum() for s in scales)
    assert other.value == pytest.approx(first.value - volume, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_block_is_marginalised(kind):
    blocks = draw_blocks(0)
    fit = Fit(make_rows(blocks), blocks, kind).run(5)
    expectation = Expectation(fit.mixture)
    seen = np.ones((2, 120))
    seen[1] = 0
    both = expectation.responsibilities(make_rows(blocks, seen))[0][0]
    only = Mixture(
        "shared",
        fit.mixture.a,
        fit.mixture.b,
        fit.mixture.order,
        fit.mixture.blocks[:1],
    )
    alone = Expectation(only).responsibilities(make_rows(blocks[:1]))[0][0]
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-14)
    nothing = make_rows(blocks, np.zeros((2, 120)))
    resp = expectation.responsibilities(nothing)[0][0]
    weights = torch.softmax(fit.mixture.log_weights[0], 0)
    torch.testing.assert_close(resp, weights[:, None].expand_as(resp))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_chunks_add_up(coupling, kind):
    blocks = draw_blocks(1)
    cells = random_cells(1)
    rows = make_rows(blocks, missing(1, 120, 2), cells)
    fit = Fit(rows, blocks, kind, coupling).run(2)
    expectation = Expectation(fit.mixture, torch.tensor([[0, 0, 1], [0, 2, 4]]))
    whole = expectation.totals(rows)
    parts = [expectation.totals(rows.take(i)) for i in torch.arange(120).split(37)]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    for name in ("counts", "entropy", "log_norm", "constant", "assigned", "pairs"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name))
    for got, wanted in zip(total.blocks, whole.blocks, strict=True):
        torch.testing.assert_close(got, wanted)
    joined = Rows.joined([rows.take(i) for i in torch.arange(120).split(37)])
    torch.testing.assert_close(expectation.totals(joined).counts, whole.counts)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_tracked_pairs_lose_the_entropy_of_merging(coupling):
    blocks = draw_blocks(2)
    weight = np.random.default_rng(0).uniform(0.5, 2, size=120)
    rows = make_rows(blocks, missing(2, 120, 2), weight=weight)
    fit = Fit(rows, blocks, coupling=coupling).run(1)
    totals = Expectation(fit.mixture, torch.tensor([[0, 1, 2]])).totals(rows)
    resp = fit.resp
    merged = resp.copy()
    merged[0, 1] += merged[0, 2]
    merged[0, 2] = 0

    def entropy(r):
        return -(weight * np.where(r > 0, r * np.log(np.where(r > 0, r, 1)), 0)).sum()

    lost = entropy(resp) - entropy(merged)
    assert float(totals.pairs[0]) == pytest.approx(lost, abs=1e-9)
    assert lost > 0
    assert float(totals.entropy) == pytest.approx(entropy(resp), abs=1e-8)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_sorting_components_changes_nothing_else(coupling):
    blocks = draw_blocks(4)
    labels = torch.as_tensor(np.random.default_rng(0).integers(-1, 3, size=120))
    rows = make_rows(blocks, missing(4, 120, 2), labels=labels)
    fit = Fit(rows, blocks, coupling=coupling, n_classes=3).run(4)
    mixture, totals = sorted_by_size(fit.mixture, fit.totals)
    assert bound(totals, fit.priors, mixture) == pytest.approx(fit.value, abs=1e-9)
    again = maximise(totals, fit.priors, mixture)
    torch.testing.assert_close(again.log_mean_weights, mixture.log_mean_weights)
    counts = totals.counts
    counts = counts.reshape(-1, 6) if coupling == "joint_stick" else counts
    assert (counts.diff(dim=1) <= 0).all()
    torch.testing.assert_close(again.labels.sum((0, 1)), fit.mixture.labels.sum((0, 1)))


def test_filled_is_the_conditional_expectation():
    """Against a Gaussian mixture with point parameters, written out."""
    blocks = draw_blocks(6)
    fit = Fit(make_rows(blocks), blocks).run(10)
    cells = random_cells(6)
    seen = missing(6, 120, 2)
    rows = make_rows(blocks, seen, cells)
    expectation = Expectation(fit.mixture)
    resp = expectation.responsibilities(rows)[0]
    share = expectation.share(resp, rows, 0)
    torch.testing.assert_close(share.sum(0), torch.ones(120).double())
    filled = expectation.filled(rows, share, 0).numpy()
    q = fit.mixture.blocks[0]
    for i in (0, 3, 10, 50, 119):
        o = (rows.cells[0][:, i] > 0).numpy()
        z = rows.z[0][:, i].numpy()
        expected = np.zeros(3)
        for k in range(6):
            mean, cov = q.mean[k].numpy(), q.covariance[k].numpy()
            slope = cov[:, o] @ np.linalg.inv(cov[np.ix_(o, o)]) if o.any() else 0
            guess = mean + (slope @ (z[o] - mean[o]) if o.any() else 0)
            expected += float(share[k, i]) * guess
        np.testing.assert_allclose(filled[:, i], np.where(o, z, expected), atol=1e-9)
