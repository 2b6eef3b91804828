"""Encoders and heads: shapes, independent rows, padding, and the heads' formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skmm.core.networks import (
    ADDITIVE_FUSIONS,
    JOINT_FUSIONS,
    AttentionEncoder,
    FusionNetwork,
    ImageEncoder,
    SequenceEncoder,
    VectorEncoder,
    build_encoder,
    build_head,
    mlp,
    takes_steps,
)

N_OUT = 3
# Sums of some hundred float64 products of size one.
EXACT = {"rtol": 1e-12, "atol": 1e-12}

ENCODERS = [
    ("auto", (5,)),
    ("linear", (5,)),
    ("linear", (1, 2, 3)),
    ("mlp", (1,)),
    ("mlp", (2, 3, 4)),
    ("mlp", (4, 3)),
    ("auto", (1, 1, 1)),
    ("conv", (2, 3, 5)),
    ("conv", (3, 2, 1)),
    ("conv", (1, 28, 28)),
    ("auto", (1, 1)),
    ("conv", (6, 2)),
    ("attention", (1, 1)),
    ("attention", (6, 2)),
]
SEQUENCE_KINDS = ("conv", "attention")
each_encoder = pytest.mark.parametrize(("kind", "shape"), ENCODERS)
each_sequence_encoder = pytest.mark.parametrize("kind", SEQUENCE_KINDS)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(*size, seed=0):
    return torch.randn(size, generator=generator(seed), dtype=torch.float64)


def encoder_of(kind, shape, seed=0, **kwargs):
    options = {"hidden": (7,), "dropout": 0.0, **kwargs}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_encoder(kind, shape, N_OUT, **options).double().eval()


def head_of(fusion, n_modalities, seed=0, **kwargs):
    """A head with four classes whose biases are not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = build_head(fusion, n_modalities, N_OUT, 4, **kwargs).double()
        for name, parameter in head.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter)
    return head.eval()


def rows_of(shape, n_rows, seed=0):
    """Rows of a block, and for sequences a mask whose lengths differ."""
    x = normal(n_rows, *shape, seed=seed)
    lengths = torch.randint(1, shape[0] + 1, (n_rows, 1), generator=generator(seed))
    return x, torch.arange(shape[0]) < lengths


def embed(encoder, x, steps):
    return encoder(x, steps) if takes_steps(encoder, x.shape[1:]) else encoder(x)


class TestEncoders:
    @each_encoder
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("n_rows", [1, 4])
    def test_shape_and_type(self, kind, shape, dtype, n_rows):
        x, steps = rows_of(shape, n_rows)
        z = embed(encoder_of(kind, shape).to(dtype), x.to(dtype), steps)
        assert z.shape == (n_rows, N_OUT)
        assert z.dtype == dtype
        assert z.isfinite().all()

    @each_encoder
    def test_float32_is_close_to_float64(self, kind, shape):
        x, steps = rows_of(shape, 4)
        encoder = encoder_of(kind, shape)
        expected = embed(encoder, x, steps)
        got = embed(encoder.float(), x.float(), steps).double()
        # Some ten layers' roundings of 6e-8 each, times normalisation of few pixels.
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)

    @each_encoder
    def test_rows_do_not_depend_on_each_other(self, kind, shape):
        x, steps = rows_of(shape, 6)
        encoder = encoder_of(kind, shape).train()
        together = embed(encoder, x, steps)
        alone = [embed(encoder, x[[i]], steps[[i]]) for i in range(6)]
        torch.testing.assert_close(together, torch.cat(alone), **EXACT)
        order = torch.randperm(6, generator=generator(0))
        torch.testing.assert_close(
            embed(encoder, x[order], steps[order]), together[order], **EXACT
        )

    @each_encoder
    def test_embeddings_differ_between_rows(self, kind, shape):
        x, steps = rows_of(shape, 2)
        z = embed(encoder_of(kind, shape), 3 * x, torch.ones_like(steps))
        assert not torch.allclose(z[0], z[1], rtol=1e-3, atol=1e-6)

    @each_encoder
    def test_gradients_reach_every_parameter(self, kind, shape):
        x, steps = rows_of(shape, 8)
        encoder = encoder_of(kind, shape).train()
        (embed(encoder, x, steps) * normal(8, N_OUT, seed=1)).sum().backward()
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # A softmax feels no constant in its scores, nor the score of one step.
            blind = "attention." if shape[0] == 1 else "attention.bias"
            if not name.startswith(blind):
                assert parameter.grad.abs().sum() > 0, name

    @pytest.mark.parametrize(
        ("kind", "shape", "expected"),
        [
            ("auto", (5,), VectorEncoder),
            ("linear", (4, 3), VectorEncoder),
            ("mlp", (1, 4, 4), VectorEncoder),
            ("auto", (1, 4, 4), ImageEncoder),
            ("conv", (1, 4, 4), ImageEncoder),
            ("auto", (4, 3), SequenceEncoder),
            ("conv", (4, 3), SequenceEncoder),
            ("attention", (4, 3), AttentionEncoder),
        ],
    )
    def test_class_by_kind_and_shape(self, kind, shape, expected):
        assert type(encoder_of(kind, shape)) is expected

    @pytest.mark.parametrize(
        ("kind", "shape"),
        [
            ("conv", (5,)),
            ("attention", (5,)),
            ("attention", (1, 4, 4)),
            ("no", (5,)),
            ("", (4, 3)),
            ("Linear", (1, 4, 4)),
        ],
    )
    def test_kind_that_does_not_fit(self, kind, shape):
        with pytest.raises(ValueError, match="encoder: .* does not fit") as caught:
            build_encoder(kind, shape, N_OUT, (), 0.0)
        text = str(caught.value)
        assert f"{kind!r} does not fit a block of shape {shape}." in text
        assert "'attention' for (T, D)" in text

    def test_linear_is_linear_and_mlp_has_the_hidden_layers(self):
        x = normal(2, 4, 5)
        linear = encoder_of("linear", (5,))
        origin = linear(torch.zeros(1, 5).double())
        torch.testing.assert_close(
            linear(x[0] + 2 * x[1]) - origin,
            linear(x[0]) - origin + 2 * (linear(x[1]) - origin),
            **EXACT,
        )
        layers = encoder_of("mlp", (5,), hidden=(7, 6)).layers
        sizes = [(f.in_features, f.out_features) for f in layers[::3]]
        assert sizes == [(5, 7), (7, 6), (6, N_OUT)]

    @pytest.mark.parametrize("kind", ["mlp", "conv", "attention"])
    def test_dropout_is_for_training_only(self, kind):
        shape = (5,) if kind == "mlp" else (4, 3)
        x, steps = rows_of(shape, 6)
        encoder = encoder_of(kind, shape, dropout=0.5)
        still = embed(encoder, x, steps)
        torch.testing.assert_close(embed(encoder, x, steps), still, rtol=0, atol=0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            dropped = embed(encoder.train(), x, steps)
        assert not torch.allclose(dropped, still)

    def test_image_dropout_is_for_training_only(self):
        x, _ = rows_of((1, 4, 4), 6)
        encoder = encoder_of("conv", (1, 4, 4), dropout=0.5)
        assert torch.equal(encoder(x), encoder(x))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            assert not torch.allclose(encoder.train()(x), encoder.eval()(x))


class TestSequences:
    @each_sequence_encoder
    @given(
        n_steps=st.integers(1, 7),
        n_more=st.integers(1, 5),
        n_variables=st.integers(1, 3),
        size=st.sampled_from([0.0, 1.0, -1e3, 1e6]),
        seed=st.integers(0, 2**16),
    )
    @settings(deadline=None, max_examples=40)
    def test_padding_changes_nothing(
        self, kind, n_steps, n_more, n_variables, size, seed
    ):
        x, steps = rows_of((n_steps, n_variables), 3, seed=seed)
        encoder = encoder_of(kind, (n_steps, n_variables), seed=seed)
        padding = size * normal(3, n_more, n_variables, seed=seed + 1)
        longer = torch.cat([x, padding], dim=1)
        mask = nn.functional.pad(steps, (0, n_more))
        expected = encoder(x, steps)
        torch.testing.assert_close(encoder(longer, mask), expected, **EXACT)

    @each_sequence_encoder
    @given(seed=st.integers(0, 2**16))
    @settings(deadline=None, max_examples=20)
    def test_a_row_is_embedded_as_its_own_steps_alone(self, kind, seed):
        x, steps = rows_of((6, 2), 4, seed=seed)
        encoder = encoder_of(kind, (6, 2), seed=seed)
        z = encoder(x, steps)
        for i, length in enumerate(steps.sum(1).tolist()):
            own = encoder(x[[i], :length], torch.ones(1, length, dtype=torch.bool))
            torch.testing.assert_close(z[[i]], own, **EXACT)

    @each_sequence_encoder
    def test_every_real_step_counts(self, kind):
        x, steps = rows_of((6, 2), 1)
        steps[:] = torch.arange(6) < 4
        encoder = encoder_of(kind, (6, 2))
        z = encoder(x, steps)
        for step in range(4):
            moved = x.clone()
            moved[0, step] += 3
            assert not torch.allclose(encoder(moved, steps), z, rtol=1e-4), step

    @each_sequence_encoder
    def test_a_row_that_is_all_padding_is_finite(self, kind):
        x, steps = rows_of((6, 2), 3)
        steps[1] = False
        encoder = encoder_of(kind, (6, 2))
        x.requires_grad_()
        z = encoder(x, steps)
        z.square().sum().backward()
        assert z.isfinite().all()
        assert x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in encoder.parameters())

    @each_sequence_encoder
    def test_padding_gets_no_gradient(self, kind):
        x, steps = rows_of((6, 2), 5)
        x.requires_grad_()
        encoder_of(kind, (6, 2))(x, steps).square().sum().backward()
        assert (x.grad[~steps] == 0).all()
        assert (x.grad[steps] != 0).any(1).all()

    def test_convolution_sees_the_order_of_steps_and_attention_does_not(self):
        x, _ = rows_of((6, 2), 3)
        steps = torch.ones(3, 6, dtype=torch.bool)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        convolution, attention = (encoder_of(kind, (6, 2)) for kind in SEQUENCE_KINDS)
        assert not torch.allclose(
            convolution(x[:, order], steps), convolution(x, steps)
        )
        torch.testing.assert_close(
            attention(x[:, order], steps), attention(x, steps), **EXACT
        )


class OneArgument(nn.Module):
    """A user's encoder that wants the block alone."""

    def __init__(self, shape, n_out):
        super().__init__()
        self.shape = shape
        self.out = nn.Linear(shape[-1], n_out)

    def forward(self, x):
        assert x.shape[1:] == self.shape
        return self.out(x.flatten(1, -2).mean(1))


class TwoArguments(OneArgument):
    """A user's encoder that wants the mask of time steps too."""

    def forward(self, x, steps):
        assert steps.dtype == torch.bool
        return self.out((x * steps.unsqueeze(-1)).sum(1))


class KeywordOnly(OneArgument):
    def forward(self, x, *, scale=1.0):
        return scale * super().forward(x)


class AnyNumber(OneArgument):
    def forward(self, *inputs):
        (x,) = inputs
        return super().forward(x)


class TestModulesOfUsers:
    @pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4)])
    def test_called_with_a_tuple_and_the_size(self, shape):
        calls = []

        def kind(*args):
            calls.append(args)
            return nn.Identity()

        build_encoder(kind, list(shape), N_OUT, (9,), 0.5)
        assert calls == [(shape, N_OUT)]
        assert type(calls[0][0]) is tuple

    @pytest.mark.parametrize(
        ("kind", "shape", "expected"),
        [
            (TwoArguments, (4, 3), True),
            (OneArgument, (4, 3), False),
            (KeywordOnly, (4, 3), False),
            (AnyNumber, (4, 3), False),
            (TwoArguments, (5,), False),
            (TwoArguments, (2, 3, 4), False),
        ],
    )
    def test_who_gets_the_mask(self, kind, shape, expected):
        assert takes_steps(kind(shape, N_OUT), shape) is expected

    @pytest.mark.parametrize(
        "kind", [OneArgument, TwoArguments, KeywordOnly, AnyNumber]
    )
    def test_in_a_network(self, kind):
        encoder = encoder_of(kind, (4, 3))
        x, steps = rows_of((4, 3), 5)
        network = FusionNetwork([encoder], [(4, 3)], head_of("additive", 1), True)
        z, _ = network([x.flatten(1)], [steps])
        expected = embed(encoder, x, steps)
        torch.testing.assert_close(z, expected.unsqueeze(0), rtol=0, atol=0)


hidden_layers = st.sampled_from([(), (4,), (5, 3)])


class TestAdditiveHead:
    @given(
        n_modalities=st.integers(1, 4),
        hidden=hidden_layers,
        shared=st.booleans(),
        seed=st.integers(0, 2**16),
    )
    @settings(deadline=None, max_examples=40)
    def test_is_a_sum_of_maps_with_one_bias(self, n_modalities, hidden, shared, seed):
        head = head_of("additive", n_modalities, seed, hidden=hidden, shared=shared)
        assert len(head.maps) == (1 if shared else n_modalities)
        z = normal(n_modalities, 6, N_OUT, seed=seed)
        logits = head(z)
        assert logits.shape == (n_modalities, 6, 4)
        maps = [head.maps[0]] * n_modalities if shared else head.maps
        expected = sum(f(zm) for f, zm in zip(maps, z, strict=True)) + head.bias
        torch.testing.assert_close(logits.sum(0), expected, **EXACT)

    @pytest.mark.parametrize("shared", [False, True])
    def test_linear_heads_have_no_bias_but_one(self, shared):
        for n_modalities in (1, 2, 3):
            head = head_of("additive", n_modalities, shared=shared)
            zero = torch.zeros(n_modalities, 2, N_OUT).double()
            expected = head.bias.expand(2, 4)
            torch.testing.assert_close(head(zero).sum(0), expected, **EXACT)
            shapes = sorted(tuple(p.shape) for p in head.parameters())
            assert shapes == [(4,)] + [(4, N_OUT)] * (1 if shared else n_modalities)

    def test_a_modality_changes_its_own_logits_only(self):
        head = head_of("additive", 3)
        z = normal(3, 6, N_OUT)
        moved = z.clone()
        moved[1] += 1
        same = [torch.equal(a, b) for a, b in zip(head(z), head(moved), strict=True)]
        assert same == [True, False, True]

    def test_shared_map_treats_modalities_alike(self):
        z = normal(3, 6, N_OUT)
        order = [2, 0, 1]
        shared, separate = (head_of("additive", 3, shared=s) for s in (True, False))
        torch.testing.assert_close(shared(z[order]), shared(z)[order], **EXACT)
        assert not torch.allclose(separate(z[order]), separate(z)[order])


class TestCosineHead:
    @given(
        n_modalities=st.integers(1, 3),
        shared=st.booleans(),
        temperature=st.floats(0.01, 10),
        scale=st.floats(1e-3, 1e3),
        seed=st.integers(0, 2**16),
    )
    @settings(deadline=None, max_examples=60)
    def test_bounded_and_blind_to_scale(
        self, n_modalities, shared, temperature, scale, seed
    ):
        options = {"shared": shared, "temperature": temperature}
        head = head_of("cosine", n_modalities, seed, **options)
        z = normal(n_modalities, 6, N_OUT, seed=seed)
        logits = head(z)
        assert logits.shape == (n_modalities, 6, 4)
        assert (logits.abs() <= (1 + 1e-12) / temperature).all()
        largest = 1 / temperature
        torch.testing.assert_close(
            head(scale * z), logits, rtol=1e-12, atol=1e-12 * largest
        )
        torch.testing.assert_close(head(-z), -logits, rtol=0, atol=1e-12 * largest)

    @pytest.mark.parametrize("shared", [False, True])
    def test_formula(self, shared):
        head = head_of("cosine", 2, shared=shared, temperature=0.5)
        z = normal(2, 6, N_OUT)
        vectors = head.vectors.expand(2, -1, -1)
        assert len(head.vectors) == (1 if shared else 2)
        expected = nn.functional.cosine_similarity(
            z.unsqueeze(2), vectors.unsqueeze(1), dim=-1
        )
        torch.testing.assert_close(head(z), expected / 0.5, **EXACT)

    def test_reaches_the_bound_on_its_own_vectors(self):
        head = head_of("cosine", 1, temperature=0.1)
        logits = head(5 * head.vectors)
        torch.testing.assert_close(
            logits[0].diagonal(), torch.full((4,), 10.0).double(), **EXACT
        )

    def test_embedding_of_zero_is_finite(self):
        head = head_of("cosine", 2)
        z = torch.zeros(2, 3, N_OUT, dtype=torch.float64, requires_grad=True)
        logits = head(z)
        logits.sum().backward()
        assert (logits == 0).all()
        assert z.grad.isfinite().all()


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
@pytest.mark.parametrize("hidden", [(), (5,)])
class TestJointHeads:
    def test_film(self, n_modalities, hidden):
        head = head_of("film", n_modalities, hidden=hidden)
        z = list(normal(n_modalities, 6, N_OUT))
        h = z[-1]
        if n_modalities > 1:
            joined = sum(f(x) for f, x in zip(head.condition, z[:-1], strict=True))
            h = joined[:, :N_OUT] * h + joined[:, N_OUT:]
        torch.testing.assert_close(head(z), head.out(h), **EXACT)
        assert len(head.condition) == n_modalities - 1

    def test_gated(self, n_modalities, hidden):
        head = head_of("gated", n_modalities, hidden=hidden)
        z = list(normal(n_modalities, 6, N_OUT))
        *gates, h = (f(x) for f, x in zip(head.maps, z, strict=True))
        for gate in gates:
            h = h / (1 + torch.exp(-gate))
        torch.testing.assert_close(head(z), head.out(h), **EXACT)

    def test_mlp(self, n_modalities, hidden):
        head = head_of("mlp", n_modalities, hidden=hidden)
        z = list(normal(n_modalities, 6, N_OUT))
        expected = head.layers(torch.cat(z, dim=1))
        torch.testing.assert_close(head(z), expected, **EXACT)
        sizes = [f.in_features for f in head.layers if isinstance(f, nn.Linear)]
        assert sizes == [n_modalities * N_OUT, *hidden]

    @pytest.mark.parametrize("fusion", JOINT_FUSIONS)
    def test_any_number_of_rows(self, n_modalities, hidden, fusion):
        head = head_of(fusion, n_modalities, hidden=hidden)
        z = normal(n_modalities, 6, N_OUT)
        together = head(list(z))
        assert together.shape == (6, 4)
        alone = [head(list(z[:, [i]])) for i in range(6)]
        torch.testing.assert_close(together, torch.cat(alone), **EXACT)
        assert head(list(z[:, :0])).shape == (0, 4)

    @pytest.mark.parametrize("fusion", JOINT_FUSIONS)
    def test_every_modality_matters(self, n_modalities, hidden, fusion):
        head = head_of(fusion, n_modalities, hidden=hidden)
        z = normal(n_modalities, 6, N_OUT)
        before = head(list(z))
        for m in range(n_modalities):
            moved = z.clone()
            moved[m] += 1
            assert not torch.allclose(head(list(moved)), before), m


@pytest.mark.parametrize("fusion", [*ADDITIVE_FUSIONS, *JOINT_FUSIONS])
@pytest.mark.parametrize("shapes", [[(5,)], [(5,), (4, 3)], [(5,), (4, 3), (1, 3, 5)]])
class TestFusionNetwork:
    @staticmethod
    def build(fusion, shapes):
        encoders = [encoder_of("auto", shape, seed=m) for m, shape in enumerate(shapes)]
        head = head_of(fusion, len(shapes))
        return FusionNetwork(encoders, shapes, head, fusion in ADDITIVE_FUSIONS)

    @staticmethod
    def inputs(shapes, n_rows=8):
        """Flat blocks, masks, and the same blocks in their shapes."""
        rows = [rows_of(shape, n_rows, seed=m) for m, shape in enumerate(shapes)]
        steps = [s if len(x.shape) == 3 else None for x, s in rows]
        return [x.flatten(1) for x, _ in rows], steps, [x for x, _ in rows]

    def test_embeddings_and_logits(self, fusion, shapes):
        network = self.build(fusion, shapes)
        blocks, steps, shaped = self.inputs(shapes)
        z, logits = network(blocks, steps)
        for m, (encoder, x) in enumerate(zip(network.encoders, shaped, strict=True)):
            expected = embed(encoder, x, steps[m])
            torch.testing.assert_close(z[m], expected, rtol=0, atol=0)
        if fusion in ADDITIVE_FUSIONS:
            assert logits.shape == (len(shapes), 8, 4)
            torch.testing.assert_close(logits, network.head(z), rtol=0, atol=0)
        else:
            assert logits is None
            assert network.head(list(z)).shape == (8, 4)

    def test_gradients_reach_every_parameter(self, fusion, shapes):
        network = self.build(fusion, shapes).train()
        blocks, steps, _ = self.inputs(shapes)
        z, logits = network(blocks, steps)
        fused = network.head(list(z)) if logits is None else logits.sum(0)
        (fused * normal(8, 4, seed=1)).sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_state_moves_to_a_new_network(self, fusion, shapes):
        network, other = self.build(fusion, shapes), self.build(fusion, shapes)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.1)
        other.load_state_dict(network.state_dict())
        blocks, steps, _ = self.inputs(shapes)
        expected, _ = network(blocks, steps)
        got, _ = other(blocks, steps)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 6)])
def test_layers_of_a_perceptron(hidden, dropout):
    layers = mlp(5, hidden, 2, dropout)
    kinds = [type(layer) for layer in layers]
    # Dropout is there at 0 too, so that weights keep their names when it changes.
    per_layer = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds == per_layer * len(hidden) + [nn.Linear]
    assert all(layer.p == dropout for layer in layers if isinstance(layer, nn.Dropout))
    assert mlp(5, hidden, 2, bias=False)[-1].bias is None
