"Depthwise gradients under bfloat16: right where they are ours, and torch's own everywhere else."

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effdl_nb.msunet.half import HalfConvolutions, HalfLoss
from effdl_nb.optimization import TrainConfig
from effdl_nb.training import train


def gradients(x, w, g, half: bool, **geometry):
    x, w = (v.clone().requires_grad_() for v in (x, w))
    with torch.autocast("cpu", torch.bfloat16, enabled=half), HalfConvolutions():
        y = F.conv2d(x, w, None, **geometry)
    y.backward(g.to(y.dtype))
    return y.detach(), x.grad, w.grad


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("k, dilation", [(3, 1), (5, 1), (7, 1), (3, 2), (1, 1)])
def test_the_gradients_are_those_of_the_rounded_values(k, stride, dilation):
    geometry = {"stride": stride, "padding": k // 2 * dilation, "dilation": dilation, "groups": 6}
    torch.manual_seed(0)
    x = torch.randn(3, 6, 12, 10).to(memory_format=torch.channels_last).bfloat16().float()
    w = torch.randn(6, 1, k, k).bfloat16().float()
    g = torch.randn_like(F.conv2d(x, w, None, **geometry)).bfloat16().float()
    exact = gradients(x, w, g, False, **geometry)
    ours = gradients(x, w, g, True, **geometry)
    assert ours[0].dtype is torch.bfloat16
    for found, wanted in zip(ours, exact, strict=True):
        # results are rounded to 8 bits, inner sums on some processors, too
        assert (found.float() - wanted).norm() / wanted.norm() < 2**-7


@pytest.mark.parametrize(
    "channels, filters, groups, options",
    [
        (6, 6, 3, {}),  # grouped, not depthwise
        (6, 12, 6, {}),  # two filters a channel
        (6, 4, 1, {}),
        (6, 6, 6, {"bias": torch.ones(6)}),
        (6, 6, 6, {"padding": "same"}),
        (1, 1, 1, {}),
    ],
)
def test_all_other_convolutions_are_left_to_torch(channels, filters, groups, options):
    x, w = torch.randn(2, channels, 8, 8), torch.randn(filters, channels // groups, 5, 5)

    def run(ours: bool):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            if ours:
                with HalfConvolutions():
                    y = F.conv2d(a, b, groups=groups, **options)
            else:
                y = F.conv2d(a, b, groups=groups, **options)
        y.float().square().sum().backward()
        return y.detach(), a.grad, b.grad

    assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))


def test_float32_and_float16_stay_to_the_bit():
    x, w = torch.randn(2, 6, 8, 8), torch.randn(6, 1, 5, 5)
    with HalfConvolutions():
        inside = F.conv2d(x, w, padding=2, groups=6)
        with torch.autocast("cpu", torch.float16):
            half = F.conv2d(x, w, padding=2, groups=6)
    assert torch.equal(inside, F.conv2d(x, w, padding=2, groups=6))
    assert half.dtype is torch.float16


def test_a_second_derivative_is_refused():
    x, w = torch.randn(1, 4, 6, 6, requires_grad=True), torch.randn(4, 1, 5, 5)
    with torch.autocast("cpu", torch.bfloat16), HalfConvolutions():
        y = F.conv2d(x, w, padding=2, groups=4)
    (first,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_only_what_needs_a_gradient_gets_one():
    x, w = torch.randn(1, 4, 6, 6), torch.randn(4, 1, 5, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), HalfConvolutions():
        F.conv2d(x, w, padding=2, groups=4).float().sum().backward()
    assert x.grad is None and w.grad.dtype is torch.float32


def test_a_training_in_half_follows_one_in_float32(tmp_path):
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 5, 2, 2, groups=8, bias=False)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        depthwise,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    images, labels = torch.randn(48, 3, 8, 8), torch.arange(48) % 3
    losses = {}
    for precision, loss in (("fp32", None), ("bf16", HalfLoss())):
        config = TrainConfig(epochs=6, batch_size=16, lr=0.05, precision=precision)
        history = train(copy.deepcopy(model), images, labels, config, loss=loss, progress=False)
        losses[precision] = history.loss
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


def test_a_loss_in_half_tells_what_it_wraps():
    assert "None" in repr(HalfLoss()) and "cross_entropy" in repr(HalfLoss(F.cross_entropy))
