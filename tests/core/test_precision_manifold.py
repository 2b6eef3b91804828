"""Along the manifold the penalty is smooth: its derivatives by finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skmm.core.precision import Penalty, split, split_exactly
from skmm.core.precision_manifold import (
    dense_products,
    manifold,
    products,
    sparse_products,
)

KINDS = ["own", "one", "group", "infinite"]


def draw_split(seed, n_classes, p, kind):
    """The split that a proximal step gives, with zeros and ties, and its penalty."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(1, p, p)) + rng.normal(size=(n_classes, p, p))
    values *= rng.choice([0.1, 1.0], size=(p, p))
    values = torch.as_tensor(values + values.swapaxes(1, 2))
    off = 1 - torch.eye(p, dtype=torch.float64)
    w = rng.uniform(0.5, 1.5, size=(n_classes + 1, p, p))
    w = torch.as_tensor(w + w.swapaxes(1, 2)) * off
    specific = {"own": w[1:], "infinite": None}.get(kind, w[1:2])
    if n_classes == 1 and kind == "infinite":
        ratio = 1.0
    else:
        ratio = rng.uniform(0.3, 0.9) * n_classes ** (0.5 if kind == "group" else 1.0)
    penalty = Penalty(w[0] * ratio, specific, kind == "group")
    return rng, penalty, *split(values, penalty, 0.6)


def cheapest(precision, penalty):
    """The penalty of precisions on the manifold: of their cheapest split."""
    return penalty.value(*split_exactly(precision, penalty))


def along(surface, precision, x, h):
    return precision + h * surface.spread(x, torch.zeros_like(precision))


cases = pytest.mark.parametrize(
    ("kind", "n_classes"), [(k, c) for k in KINDS for c in (1, 2, 3, 5)]
)


@cases
@pytest.mark.parametrize("seed", range(3))
def test_gather_is_the_adjoint_of_spread(seed, kind, n_classes):
    rng, penalty, common, specific = draw_split(seed, n_classes, 7, kind)
    surface = manifold(common, specific, penalty)
    x = torch.as_tensor(rng.normal(size=len(surface.count)))
    m = torch.as_tensor(rng.normal(size=(n_classes, 7, 7)))
    matrices = surface.spread(x, torch.zeros_like(m))
    left = float((matrices * m).sum())
    right = float(x @ surface.gather(m))
    # Two orders of a sum of some 200 products of about one.
    assert left == pytest.approx(right, abs=1e-12)
    assert torch.equal(matrices, matrices.mT)
    # Coordinates do not overlap: gather after spread multiplies by the count.
    torch.testing.assert_close(surface.gather(matrices), surface.count * x)
    # Every call writes the same places, so a buffer needs no zeroing.
    other = surface.spread(2 * x, matrices)
    assert torch.equal(other, surface.spread(2 * x, torch.zeros_like(m)))


@cases
@pytest.mark.parametrize("seed", range(3))
def test_directions_are_those_that_keep_zeros_and_ties(seed, kind, n_classes):
    rng, penalty, common, specific = draw_split(seed, n_classes, 7, kind)
    surface = manifold(common, specific, penalty)
    x = torch.as_tensor(rng.normal(size=len(surface.count)))
    move = surface.spread(x, torch.zeros_like(specific))
    seen = set()
    expected_count = n_classes * 7
    for i, j in zip(*np.triu_indices(7, 1), strict=True):
        a, b, d = float(common[i, j]), specific[:, i, j], move[:, i, j]
        moves = (b != 0).any().expand(n_classes) if penalty.group else b != 0
        stay = ~moves
        seen.add((a != 0, bool(moves.any()), bool(stay.any())))
        assert bool((d[moves] != 0).all())
        expected_count += int(moves.sum())
        if a == 0:
            assert not d[stay].any()
        elif stay.any():
            expected_count += 1
            assert bool((d[stay] == d[stay][0]).all())
            assert float(d[stay][0]) != 0
    assert len(surface.count) == expected_count
    assert bool((move.diagonal(dim1=1, dim2=2) != 0).all())
    if n_classes > 1 and kind in ("own", "one") and seed == 0:
        # Zero, common only, specific only, and both, with and without ties.
        assert {(False, False, True), (True, False, True)} <= seen
        assert {(False, True, True), (True, True, True)} & seen


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    n_classes=st.sampled_from([1, 2, 3, 5]),
    p=st.integers(1, 6),
)
def test_gradient_and_curvature_of_the_penalty(seed, kind, n_classes, p):
    rng, penalty, common, specific = draw_split(seed, n_classes, p, kind)
    entries = torch.cat([common[None], specific])
    off = ~torch.eye(p, dtype=torch.bool)
    sizes = entries[:, off].abs()
    # A step of h must not leave the piece on which the penalty is smooth.
    assume(not ((sizes > 0) & (sizes < 1e-3)).any())
    if penalty.group:
        norms = specific.norm(dim=0)[off]
        assume(not ((norms > 0) & (norms < 0.1)).any())
    surface = manifold(common, specific, penalty)
    x = torch.as_tensor(rng.uniform(-1, 1, size=len(surface.count)))
    precision = common + specific
    h = 1e-4

    def value(step):
        return cheapest(along(surface, precision, x, step), penalty)

    if kind in ("own", "one") and n_classes > 1:
        # The median of values that include a zero is a bug at the time of writing;
        # with absolute values the split is linear in the precision, so use that.
        def value(step):
            moved = surface.move(common, specific, x, step)
            return penalty.value(*moved)

    slope = float(surface.gradient @ x)
    # The third derivative is at most weight |x|^3 / |B|^2 < 3 * 30 / 0.01 a pair, times
    # h^2 / 6 and 15 pairs.
    rounding = 1e-16 * abs(value(0)) * 10 / h
    error = 2.3e-4 if penalty.group else 0.0
    assert (value(h) - value(-h)) / (2 * h) == pytest.approx(
        slope, abs=error + rounding + 1e-11
    )
    bend = surface.curvature(x)
    second = (value(h) + value(-h) - 2 * value(0)) / h**2
    rounding = 1e-15 * (1 + abs(value(0))) / h**2
    if bend is None:
        assert second == pytest.approx(0, abs=4 * rounding)
        assert not penalty.group or not bool((specific[:, off] != 0).any())
    else:
        found = float(x @ bend)
        # Fourth derivative over |B|^3, times h^2 / 12, relative to the second.
        assert second == pytest.approx(found, rel=2e-3, abs=4 * rounding + 1e-4)
        # Symmetric and not negative.
        y = torch.as_tensor(rng.normal(size=len(x)))
        assert float(y @ bend) == pytest.approx(
            float(x @ surface.curvature(y)), rel=1e-9, abs=1e-9
        )
        assert found >= -1e-12


@pytest.mark.parametrize("kind", ["own", "one", "infinite"])
@pytest.mark.parametrize("n_classes", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_move_follows_the_direction(seed, kind, n_classes):
    rng, penalty, common, specific = draw_split(seed, n_classes, 8, kind)
    before = common.clone(), specific.clone()
    surface = manifold(common, specific, penalty)
    x = torch.as_tensor(rng.normal(size=len(surface.count)))
    h = 1e-9  # far below the smallest entry of these draws
    new_common, new_specific = surface.move(common, specific, x, h)
    assert torch.equal(common, before[0])
    assert torch.equal(specific, before[1])
    expected = along(surface, common + specific, x, h)
    # Rounding of numbers up to 10.
    torch.testing.assert_close(
        new_common + new_specific, expected, rtol=0, atol=1e-14
    )  # fmt: skip
    for old, new in ((common, new_common), (specific, new_specific)):
        off = ~torch.eye(8, dtype=torch.bool)
        assert torch.equal((old != 0)[..., off], (new != 0)[..., off])
        assert torch.equal(new, new.mT)
    # The diagonal of A is the classes' mean, as `split` has it.
    diagonal = (new_common + new_specific).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(
        new_common.diagonal(), diagonal.mean(0), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("kind", ["own", "one", "infinite"])
@pytest.mark.parametrize("n_classes", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_move_stops_at_zero(seed, kind, n_classes):
    rng, penalty, common, specific = draw_split(seed, n_classes, 8, kind)
    surface = manifold(common, specific, penalty)
    x = torch.as_tensor(rng.normal(size=len(surface.count)))
    off = ~torch.eye(8, dtype=torch.bool)
    hits = 0
    for h in (0.1, 1.0, 10.0):
        new_common, new_specific = surface.move(common, specific, x, h)
        for old, new in ((common, new_common), (specific, new_specific)):
            old, new = old[..., off], new[..., off]
            assert bool((old * new >= 0).all())
            assert not new[old == 0].any()
            hits += int(((old != 0) & (new == 0)).sum())
        assert torch.equal(new_common, new_common.mT)
        assert torch.equal(new_specific, new_specific.mT)
    assert hits > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_without_edges_has_the_diagonal_only(kind):
    off = 1 - torch.eye(4, dtype=torch.float64)
    specific = None if kind == "infinite" else off[None]
    penalty = Penalty(off, specific, kind == "group")
    common = torch.eye(4, dtype=torch.float64)
    none = torch.zeros(3, 4, 4, dtype=torch.float64)
    surface = manifold(common, none, penalty)
    assert len(surface.count) == 12
    assert not surface.gradient.any()
    assert surface.curvature(torch.ones(12).double()) is None
    x = torch.arange(12.0, dtype=torch.float64)
    spread = surface.spread(x, torch.zeros_like(none))
    assert torch.equal(spread, torch.diag_embed(x.view(3, 4)))


@cases
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("multiply", [dense_products, sparse_products])
def test_products(multiply, seed, kind, n_classes):
    rng, penalty, common, specific = draw_split(seed, n_classes, 9, kind)
    surface = manifold(common, specific, penalty)
    multiply = multiply(surface)
    for _ in range(2):  # nothing of the first call is left in the second
        x = torch.as_tensor(rng.normal(size=len(surface.count)))
        m = torch.as_tensor(rng.normal(size=(n_classes, 9, 9)))
        m = m + m.mT
        moved = surface.spread(x, torch.zeros_like(m))
        expected = surface.gather(
            torch.stack([a @ b @ a for a, b in zip(m, moved, strict=True)])
        )
        # Sums of 81 products of some tens.
        np.testing.assert_allclose(multiply(x, m), expected, atol=1e-11)


def test_products_are_sparse_where_that_pays():
    def matrix(p, n_edges):
        common = torch.eye(p, dtype=torch.float64)
        for k in range(n_edges):
            common[k, k + 1] = common[k + 1, k] = 0.1
        return common

    def kind(p, n_edges):
        off = 1 - torch.eye(p, dtype=torch.float64)
        none = torch.zeros(1, p, p, dtype=torch.float64)
        return products(manifold(matrix(p, n_edges), none, Penalty(off))).__qualname__

    assert kind(200, 100).startswith("sparse")
    assert kind(50, 10).startswith("dense")


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision(kind):
    rng, penalty, common, specific = draw_split(0, 3, 8, kind)
    surface = manifold(common, specific, penalty)
    x = torch.as_tensor(rng.normal(size=len(surface.count)))
    bend, rough = surface.curvature(x), surface.single().curvature(x.float())
    assert (bend is None) == (rough is None) == (kind != "group")
    if bend is not None:
        assert rough.dtype == torch.float32
        # Of float32's 6e-8, after the division by small norms.
        np.testing.assert_allclose(rough, bend, rtol=1e-5, atol=1e-5)
