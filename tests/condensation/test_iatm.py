"""The losses of trajectory matching: readings, fractions and components, at their ends, by hand."""

import pytest
import torch

from effdl_nb.condensation import iatm as module
from effdl_nb.condensation.iatm import (
    READINGS,
    LayerComponents,
    analyse_layers,
    energy_fraction,
    iatm_loss,
    matched_modules,
    mtt_loss,
)
from effdl_nb.condensation.importance import Importance
from effdl_nb.networks import build


def analysed(experts, real, gram=True):
    "Target, start, and the target's analysed layers."
    model = build("convnet-2", 3, width=4, image_size=8)
    target = experts.parameters(0, 2)
    return target, experts.parameters(0, 0), analyse_layers(model, target, real.images[:8], gram)


def test_full_rank_is_the_plain_loss(experts, real):
    target, start, layers = analysed(experts, real)
    end = {k: v + 0.01 for k, v in target.items()}
    for reading in ("rank", "schedule", "svd", "centred"):
        torch.testing.assert_close(
            iatm_loss(end, start, target, layers, 1.0, reading), mtt_loss(end, start, target)
        )
    assert [len(layer.components.sigma) for layer in layers] == [4, 4, 3]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9])
def test_a_student_that_did_not_move_has_loss_one(experts, real, fraction):
    target, start, layers = analysed(experts, real)
    for reading in ("rank", "schedule", "soft", "svd", "centred", "whitened"):
        torch.testing.assert_close(
            iatm_loss(start, start, target, layers, fraction, reading).item(),
            1.0,
            rtol=1e-4,
            atol=0,
        )


def test_whitened_distance_is_the_distance_of_outputs(experts, real):
    target, start, layers = analysed(experts, real)
    layer = layers[0]
    D = layer.matrix(start) - layer.matrix(target)
    x = torch.nn.functional.unfold(real.images[:8], 3, padding=1).transpose(0, 1).flatten(1)
    X = torch.cat([x, torch.ones(1, x.shape[1])])
    torch.testing.assert_close(
        module._distance(layer, D, 99, True),
        (D @ X).square().sum() / X.shape[1],
        rtol=1e-4,
        atol=1e-6,
    )


def test_zero_denominators_stay_finite(experts, real):
    target, _, layers = analysed(experts, real)
    end = {k: v + 0.1 for k, v in target.items()}
    for reading in READINGS:
        assert torch.isfinite(iatm_loss(end, target, target, layers, 0.5, reading))
    zero = {"w": torch.zeros(3)}
    assert torch.isfinite(mtt_loss(zero, zero, zero))


def test_readings_that_need_the_gram_say_so(experts, real):
    target, start, layers = analysed(experts, real, gram=False)
    with pytest.raises(ValueError, match="gram=True"):
        iatm_loss(start, start, target, layers, 0.5, "whitened")
    with pytest.raises(ValueError, match="rank, schedule"):
        iatm_loss(start, start, target, layers, 0.5, "soft-ish")


def test_fraction_at_the_ends():
    assert energy_fraction("literal", 0, 4, 8) == 0 and energy_fraction("literal", 9, 4, 8) == 1
    assert energy_fraction("schedule", 4, 4, 8) == 1
    assert energy_fraction("rank", 0, 4, 8, 99, 100) == 1
    with pytest.raises(ValueError, match="allowed"):
        energy_fraction("best", 0, 4, 8)


def test_opening_and_horizon_override_the_reading():
    assert energy_fraction("rank", 1, 4, 10, 30, 100, opening="epochs") == 0.25
    assert energy_fraction("rank", 1, 4, 10, 30, 100, opening="iterations") == 0.6
    assert energy_fraction("rank", 1, 4, 10, 0, 100, horizon="T") == 0.1
    assert energy_fraction("literal", 1, 4, 10, horizon="T+") == 0.25
    with pytest.raises(ValueError, match="epochs, iterations, both"):
        energy_fraction("rank", 0, 4, 8, opening="slowly")
    with pytest.raises(ValueError, match=r"horizon 'T-' is unknown; allowed: T, T\+"):
        energy_fraction("rank", 0, 4, 8, horizon="T-")


@pytest.mark.parametrize(
    "conv",
    [
        {"kernel_size": (3, 5), "padding": (1, 2)},
        {"kernel_size": 3, "stride": (1, 2), "padding": 1},
        {"kernel_size": (1, 3)},
    ],
)
def test_the_gram_sees_what_the_layer_sees(conv):
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 4, **conv)), torch.randn(5, 3, 8, 8)
    theta = dict(model.named_parameters())
    (layer,) = analyse_layers(model, theta, x, gram=True)
    M = layer.matrix(theta).double()
    y = model(x).detach().double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(M @ layer.gram @ M.T, y @ y.T / y.shape[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "conv",
    [
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"groups": 3},
        {"dilation": 2},
    ],
)
def test_layers_without_components_are_matched_plainly(conv):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, **conv), torch.nn.Conv2d(6, 2, 1))
    assert list(matched_modules(model)) == ["1"]
    torch.manual_seed(0)
    target = {name: p.detach() for name, p in model.named_parameters()}
    end, start = ({k: v + torch.randn(v.shape) for k, v in target.items()} for _ in range(2))
    layers = analyse_layers(model, target, torch.randn(4, 3, 8, 8))
    # without components of the second layer, what is left of the loss is the first, whole
    for x in (end, start):
        x.update({name: target[name] for name in ("1.weight", "1.bias")})
    torch.testing.assert_close(
        iatm_loss(end, start, target, layers, 0.1), mtt_loss(end, start, target)
    )


def test_soft_by_hand():
    # one layer [W | b], U = I, sigma^2 = (3, 1): shares 3/4 and 1/4, two components, so weights
    # 1.5 and 0.5. target 0, end rows (1, 0) and (0, 2): 1.5 * 1 + 0.5 * 4 = 3.5; start rows
    # (2, 0) and (0, 0): 1.5 * 4 = 6
    components = Importance(torch.tensor([3.0, 1]).sqrt(), torch.eye(2))
    layer = LayerComponents("w", None, components, None)
    rows = ([[0.0, 0], [0, 0]], [[1.0, 0], [0, 2]], [[2.0, 0], [0, 0]])
    target, end, start = ({"w": torch.tensor(v)} for v in rows)
    torch.testing.assert_close(iatm_loss(end, start, target, [layer], 0.0, "soft").item(), 3.5 / 6)
    dead = LayerComponents("w", None, Importance(torch.zeros(2), torch.eye(2)), None)
    torch.testing.assert_close(
        iatm_loss(end, start, target, [dead], 0.0, "soft"), mtt_loss(end, start, target)
    )


def test_plain_svd_ranks_without_data(experts, real):
    target = experts.parameters(0, 2)
    model = build("convnet-2", 3, width=4, image_size=8)
    a, b = (
        analyse_layers(model, target, x, components="weights")
        for x in (real.images[:8], torch.zeros(2, 3, 8, 8))
    )
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p.components.sigma, q.components.sigma)
        torch.testing.assert_close(
            p.components.sigma,
            torch.linalg.svdvals(p.matrix(target).double()),
            atol=1e-6,
            rtol=1e-5,
        )
    with pytest.raises(ValueError, match="outputs, centred, weights"):
        analyse_layers(model, target, real.images[:8], components="pixels")


def test_k_zero(experts, real):
    target, start, layers = analysed(experts, real)
    components = layers[0].components
    assert components.rank_at(0.0, "within", min_rank=0) == 0
    assert components.rank_at(0.0, "within") == 1
    assert torch.isfinite(iatm_loss(start, start, target, layers, 0.0, "literal"))
