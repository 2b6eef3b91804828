"""Decoders: shapes, independent rows, gradients, and kinds that fit or do not."""

import pytest
import torch
from torch import nn

from skmm.core.decoders import (
    DECODERS,
    ImageDecoder,
    SequenceDecoder,
    VectorDecoder,
    build_decoder,
)

N_IN = 3
# Sums of some hundred float64 products of size one.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
CASES = [
    ("auto", (5,)),
    ("linear", (1,)),
    ("linear", (1, 2, 3)),
    ("mlp", (4, 3)),
    ("mlp", (2, 3, 4)),
    ("auto", (1, 1, 1)),
    ("conv", (2, 3, 5)),
    ("conv", (3, 2, 1)),
    ("conv", (1, 4, 8)),
    ("conv", (3, 7, 13)),
    ("auto", (1, 28, 28)),
    ("auto", (1, 1)),
    ("conv", (5, 2)),
    ("conv", (8, 1)),
    ("conv", (11, 3)),
]
each_decoder = pytest.mark.parametrize(("kind", "shape"), CASES)


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def decoder_of(kind, shape, hidden=(7,), **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_decoder(kind, shape, N_IN, hidden, **kwargs).double()


@each_decoder
class TestEachDecoder:
    @pytest.mark.parametrize("n_rows", [0, 1, 4])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_shape_and_type(self, dtype, n_rows, kind, shape):
        decoder = decoder_of(kind, shape).to(dtype)
        out = decoder(normal(n_rows, N_IN).to(dtype))
        flat = isinstance(decoder, VectorDecoder)
        size = torch.Size(shape).numel()
        assert out.shape == ((n_rows, size) if flat else (n_rows, *shape))
        assert out.dtype == dtype
        assert out.isfinite().all()

    def test_rows_do_not_depend_on_each_other(self, kind, shape):
        decoder, z = decoder_of(kind, shape).train(), normal(5, N_IN)
        together = decoder(z)
        alone = torch.cat([decoder(z[[i]]) for i in range(5)])
        torch.testing.assert_close(together, alone, **EXACT)

    def test_gradients_reach_every_parameter_and_the_code(self, kind, shape):
        decoder, z = decoder_of(kind, shape), normal(16, N_IN).requires_grad_()
        out = decoder(z)
        (out * normal(*out.shape, seed=1)).sum().backward()
        parameters = {**dict(decoder.named_parameters()), "z": z}
        for name, parameter in parameters.items():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name

    def test_outputs_are_not_squashed(self, kind, shape):
        decoder, z = decoder_of(kind, shape), normal(16, N_IN)
        far, further = decoder(1e6 * z), decoder(1e7 * z)
        # Biases of size one, next to numbers of size a million.
        torch.testing.assert_close(further, 10 * far, rtol=1e-3, atol=1e3)
        assert far.abs().max() > 1e4

    def test_every_cell_depends_on_the_code(self, kind, shape):
        decoder = decoder_of(kind, shape)
        assert (decoder(normal(16, N_IN)).flatten(1).std(0) > 0).all()

    def test_dropout_only_in_training(self, kind, shape):
        decoder, z = decoder_of(kind, shape, dropout=0.5), normal(6, N_IN)
        assert torch.equal(decoder.eval()(z), decoder(z))
        if kind == "linear":
            return
        with torch.random.fork_rng():
            torch.manual_seed(0)
            assert not torch.equal(decoder.train()(z), decoder(z))


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        ("auto", (5,), VectorDecoder),
        ("linear", (4, 3), VectorDecoder),
        ("mlp", (1, 4, 4), VectorDecoder),
        ("auto", (1, 4, 4), ImageDecoder),
        ("conv", (1, 4, 4), ImageDecoder),
        ("auto", (4, 3), SequenceDecoder),
        ("conv", (4, 3), SequenceDecoder),
    ],
)
def test_class_by_kind_and_shape(kind, shape, expected):
    assert type(decoder_of(kind, shape)) is expected


def test_widths_run_from_the_code_on():
    layers = [m for m in decoder_of("mlp", (5,), (7, 9)).modules()]
    widths = [
        (m.in_features, m.out_features) for m in layers if isinstance(m, nn.Linear)
    ]
    assert widths == [(N_IN, 7), (7, 9), (9, 5)]
    only = [m for m in decoder_of("linear", (5,), (7, 9)).modules()]
    widths = [(m.in_features, m.out_features) for m in only if isinstance(m, nn.Linear)]
    assert widths == [(N_IN, 5)]


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_activation_of_the_perceptron(name):
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
    decoder = decoder_of("mlp", (5,), activation=name)
    found = [m for m in decoder.modules() if isinstance(m, tuple(kinds.values()))]
    assert [type(m) for m in found] == [kinds[name]]


@pytest.mark.parametrize("shape", [(1, 16, 20), (1, 13, 15), (16, 1), (13, 1)])
def test_inner_cells_see_as_many_inputs_as_their_neighbours(shape):
    """With equal weights and a constant grid there is no checkerboard."""
    decoder = decoder_of("conv", shape)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1e-2)
        first = next(m for m in decoder.modules() if isinstance(m, nn.Linear))
        first.bias.fill_(1.0)
        first.weight.zero_()
    out = decoder(torch.zeros(1, N_IN).double())[0]
    # Three cells at each edge see the border, directly or through the layer below.
    inner = out[:, 3:-3, 3:-3] if len(shape) == 3 else out[3:-3]
    assert inner.numel()
    torch.testing.assert_close(inner, inner.flatten()[0].expand_as(inner), **EXACT)


@pytest.mark.parametrize("shape", [(1, 7, 9), (7, 2)])
def test_cropped_output_is_the_corner_of_the_full_one(shape):
    """Odd sizes lose cells at the far edge only."""
    full = (1, 8, 12) if len(shape) == 3 else (8, 2)
    z = normal(4, N_IN)
    small, large = decoder_of("conv", shape), decoder_of("conv", full)
    large.load_state_dict(small.state_dict())
    out = large(z)
    out = out[:, :, : shape[1], : shape[2]] if len(shape) == 3 else out[:, : shape[0]]
    torch.testing.assert_close(small(z), out, **EXACT)


class TestKinds:
    @pytest.mark.parametrize(
        ("kind", "shape"),
        [("conv", (5,)), ("conv", (1, 2, 3, 4)), ("attention", (4, 3))],
    )
    def test_kind_that_does_not_fit(self, kind, shape):
        with pytest.raises(
            ValueError,
            match=rf"decoder: '{kind}' does not fit a block of shape \(.*Use 'linear'",
        ):
            decoder_of(kind, shape)

    def test_names(self):
        assert DECODERS == ("auto", "linear", "mlp", "conv")
        for kind in DECODERS:
            assert isinstance(decoder_of(kind, (4, 3)), nn.Module)

    def test_callable_gets_shape_and_size(self):
        seen = []

        def own(shape, n_in):
            seen.append((shape, n_in))
            return nn.Linear(n_in, 6)

        module = build_decoder(own, [2, 3], N_IN, ())
        assert seen == [((2, 3), N_IN)]
        assert isinstance(module, nn.Linear)

    def test_callable_that_returns_no_module(self):
        with pytest.raises(TypeError, match="decoder: expected .* torch module.* dict"):
            build_decoder(lambda shape, n_in: {}, (5,), N_IN, ())
