"Properties and faults of effdl_nb.msunet.ternary that its notebook does not show."

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from effdl_nb.msunet.ternary import (
    ALPHA_HALF,
    TERNARY_MODES,
    StraightThrough,
    TernaryConv2d,
    TernaryLinear,
    ternarize,
)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 3), st.sampled_from(TERNARY_MODES))
def test_signs_are_ternary_odd_and_thin_out_as_alpha_grows(seed, alpha, mode):
    w = normal(6, 5, 3, 3, seed=seed)
    signs, scale = ternarize(w, alpha, mode)
    assert (
        signs.dtype == torch.int8
        and signs.shape == w.shape
        and set(signs.unique().tolist()) <= {-1, 0, 1}
    )
    assert scale.dim() == 0 and scale.isfinite() and (scale > 0) == bool(signs.any())
    more, _ = ternarize(w, alpha + 0.25, mode)
    assert not (more.bool() & ~signs.bool()).any(), "a larger threshold may only add zeros"
    assert torch.equal(ternarize(-w, alpha, mode)[0], -signs)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(-90, 90), st.floats(-0.5, 0.5))
def test_standardised_signs_ignore_scale_and_shift(seed, exponent, shift):
    w = normal(8, 16, seed=seed)
    assert torch.equal(ternarize(w * 2.0**exponent, ALPHA_HALF)[0], ternarize(w, ALPHA_HALF)[0])
    shifted, same = (
        ternarize(w.double() + shift, ALPHA_HALF)[0],
        ternarize(w.double(), ALPHA_HALF)[0],
    )
    assert (shifted != same).sum() <= 1, (
        "a shift can flip a weight on the threshold by rounding, no more"
    )


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(4, 4),
        torch.full((48, 48), 0.1),
        torch.full((33, 17), -7.3),
        torch.full((64, 64), 0.1).half(),
        torch.ones(1, 1),
    ],
    ids=["zero", "constant", "negative constant", "half constant", "one element"],
)
@pytest.mark.parametrize("alpha", [0.0, ALPHA_HALF])
def test_weights_without_spread_give_zeros_and_scale_zero(weight, alpha):
    signs, scale = ternarize(weight, alpha)
    assert not signs.any() and scale == 0


def test_an_alpha_above_every_weight_empties_the_layer():
    signs, scale = ternarize(normal(8, 8), 10.0)
    assert not signs.any() and scale == 0
    layer = TernaryLinear(8, 3, alpha=10.0)
    assert torch.equal(layer(normal(2, 8)), layer.bias.expand(2, 3))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_weights_raise_in_ternarize_and_poison_a_layer(bad):
    layer = TernaryLinear(8, 3)
    layer.weight.data[1, 2] = bad
    with pytest.raises(ValueError, match="1 of 24"):
        ternarize(layer.weight, ALPHA_HALF)
    assert layer(torch.ones(1, 8)).isnan().all(), "the loss must show it"
    with pytest.raises(ValueError, match="NaN or infinite"):
        layer.freeze()


def test_one_outlier_is_well_defined():
    w = normal(32, 32)
    w[3, 4] = 1e6
    signs, scale = ternarize(w, ALPHA_HALF)
    assert signs[3, 4] == 1 and signs.count_nonzero() == 1
    assert math.isclose(scale, math.sqrt(2 / 32 * 1024), rel_tol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_outlier_in_half_precision_is_spread_not_noise(dtype):
    w = normal(64, 64).to(dtype)
    w[3, 4] = 500
    assert ternarize(w, ALPHA_HALF)[0][3, 4] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_statistics_are_taken_in_single_precision(dtype):
    w = (normal(64, 64) * 400).to(dtype)
    signs, scale = ternarize(w, ALPHA_HALF)
    expected, expected_scale = ternarize(w.float(), ALPHA_HALF)
    assert (
        torch.equal(signs, expected)
        and torch.equal(scale, expected_scale)
        and scale.dtype == torch.float32
    )


@pytest.mark.parametrize(
    "weight, alpha, mode, message",
    [
        (torch.ones(2, 2), 0.5, "sign", "'sign' is unknown; allowed: msunet, raw, twn, absmean"),
        (torch.ones(2, 2), -0.1, "msunet", "from 0, not -0.1"),
        (torch.ones(2, 2), math.nan, "msunet", "not nan"),
        (torch.ones(2, 2), torch.ones(2), "msunet", "single finite number"),
        (torch.ones(4), 0.5, "msunet", r"shape \(4,\)"),
        (torch.ones(0, 2), 0.5, "msunet", "non-empty"),
        (torch.ones(2, 2, dtype=torch.int32), 0.5, "msunet", "int32"),
    ],
)
def test_wrong_arguments_are_named(weight, alpha, mode, message):
    with pytest.raises(ValueError, match=message):
        ternarize(weight, alpha, mode)


@pytest.mark.parametrize("kind", [TernaryConv2d, TernaryLinear])
def test_layers_refuse_wrong_alpha_and_mode(kind):
    shape = (4, 4, 1) if kind is TernaryConv2d else (4, 4)
    with pytest.raises(ValueError, match="alpha must be a finite number from 0, not -1.0"):
        kind(*shape, alpha=-1.0)
    with pytest.raises(ValueError, match="mode 'x' is unknown"):
        kind(*shape, mode="x")


def test_twn_and_absmean_against_their_definitions():
    w = normal(16, 16).double()
    signs, scale = ternarize(w, 0.7, "twn")
    keep = w.abs() > 0.7 * w.abs().mean()
    assert torch.equal(signs.bool(), keep) and torch.isclose(scale, w[keep].abs().mean())
    signs, scale = ternarize(w, 0.5, "absmean")
    assert torch.equal(signs.double(), (w / w.abs().mean()).round().clamp(-1, 1)) and torch.isclose(
        scale, w.abs().mean()
    )


def test_twn_scale_is_the_least_squares_one():
    w = normal(16, 16).double()
    signs, scale = ternarize(w, 0.7, "twn")
    errors = [(w - s * signs).square().sum() for s in (scale * 0.99, scale, scale * 1.01)]
    assert errors[1] < errors[0] and errors[1] < errors[2]


def test_straight_through_is_exact_in_both_modes_of_differentiation():
    w, q = normal(5, 4).requires_grad_(), normal(5, 4, seed=1)
    cotangent = normal(5, 4, seed=2)
    (gradient,) = torch.autograd.grad(StraightThrough.apply(w, q), w, cotangent)
    assert torch.equal(gradient, cotangent)
    assert torch.equal(torch.func.vmap(StraightThrough.apply)(w.detach(), q), q)


@pytest.mark.parametrize(
    "arguments",
    [
        {"groups": 2},
        {"groups": 8},
        {"stride": 2, "dilation": 2},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
def test_convolution_options_reach_the_product(arguments):
    layer = TernaryConv2d(8, 8, 3, **arguments)
    plain = nn.Conv2d(8, 8, 3, **arguments)
    signs, scale = layer.signs_and_scale()
    plain.load_state_dict({"weight": signs * scale, "bias": layer.bias.detach()})
    x = normal(2, 8, 9, 11)
    assert torch.equal(layer(x), plain(x))
    fan_in = 9 * 8 // arguments.get("groups", 1)
    assert torch.isclose(
        scale, torch.tensor(2 / fan_in * signs.numel() / int(signs.count_nonzero())).sqrt()
    )


def test_modes_keep_their_places_in_checkpoints():
    assert TERNARY_MODES[:4] == ("msunet", "raw", "twn", "absmean")


def test_autocast_keeps_three_values_and_gives_gradients():
    layer = TernaryConv2d(8, 8, 1)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(normal(2, 8, 4, 4))
    assert out.dtype == torch.bfloat16 and layer.quantized_weight().unique().numel() == 3
    out.float().sum().backward()
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.dtype == torch.float32


def test_half_precision_models_run():
    layer = TernaryConv2d(8, 8, 1).to(torch.bfloat16)
    assert layer(normal(1, 8, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert layer.quantized_weight().unique().numel() == 3
