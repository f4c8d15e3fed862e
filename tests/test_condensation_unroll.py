"""The differentiable inner loop: equality of its two memory modes, and misuse."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effdl_nb.condensation.images import augment, draw_augmentation
from effdl_nb.condensation.unroll import MEMORY, parameters_of, unroll
from effdl_nb.networks import build


def setting(dtype, seed=0):
    gen = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build("convnet-2", 3, width=6, image_size=8).to(dtype)
    start = parameters_of(model)
    target = {k: v + 0.1 * torch.randn(v.shape, generator=gen).to(dtype) for k, v in start.items()}
    images = torch.randn(6, 3, 8, 8, generator=gen).to(dtype).requires_grad_()
    return model, start, target, images, torch.tensor(0.05, dtype=dtype, requires_grad=True)


def distance(end, target):
    return sum((end[k] - target[k]).square().sum() for k in target)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("steps", [1, 10])
def test_adjoint_equals_full_through_augmentation(dtype, tolerance, steps):
    model, start, target, images, rate = setting(dtype)
    gen = torch.Generator().manual_seed(2)
    plan = [(torch.randperm(6, generator=gen)[:4], draw_augmentation(4, gen)) for _ in range(steps)]

    def prepare(i, x, y):
        index, draw = plan[i]
        return augment(x[index], draw), y[index]

    labels, grads = torch.arange(6) % 3, []
    for memory in ("full", "adjoint"):
        end = unroll(model, start, images, labels, rate, steps, prepare, memory)
        grads.append(torch.autograd.grad(distance(end, target), [images, rate]))
    for a, b in zip(*grads, strict=True):
        assert float((a - b).norm() / a.norm()) < tolerance


def test_gradcheck_of_the_adjoint():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    start = parameters_of(model)
    images = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.softmax(torch.randn(2, 2, dtype=torch.float64), 1).requires_grad_()
    rates = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64, requires_grad=True)

    def last(x, y, r):
        return unroll(model, start, x, y, r, 3, memory="adjoint")["3.weight"]

    assert torch.autograd.gradcheck(last, (images, labels, rates))


def test_only_what_is_asked_for_gets_a_gradient():
    model, start, target, images, rate = setting(torch.float32)
    fixed = images.detach()
    end = unroll(model, start, fixed, torch.arange(6) % 3, rate, 2, memory="adjoint")
    distance(end, target).backward()
    assert rate.grad is not None and fixed.grad is None


def test_values_are_those_of_sgd_and_modes_agree():
    model, start, _, images, rate = setting(torch.float64)
    labels, theta = torch.arange(6) % 3, [p.detach().clone().requires_grad_() for p in start.values()]
    for _ in range(3):
        loss = F.cross_entropy(torch.func.functional_call(model, dict(zip(start, theta, strict=True)), (images.detach(),)), labels)
        theta = [(p - rate.item() * g).detach().requires_grad_() for p, g in zip(theta, torch.autograd.grad(loss, theta), strict=True)]
    for memory in ("full", "adjoint"):
        end = unroll(model, start, images, labels, rate, 3, memory=memory)
        for (name, v), p in zip(end.items(), theta, strict=True):
            torch.testing.assert_close(v.detach(), p.detach(), msg=name)


def test_misuse():
    model, start, _, images, rate = setting(torch.float32)
    labels = torch.arange(6) % 3
    with pytest.raises(ValueError, match="full, adjoint, tesla, auto"):
        unroll(model, start, images, labels, rate, 1, memory="auto?")
    with pytest.raises(ValueError, match="at least 1"):
        unroll(model, start, images, labels, rate, 0)
    with pytest.raises(ValueError, match="each of the 3 steps"):
        unroll(model, start, images, labels, torch.ones(2), 3)
    with pytest.raises(ValueError, match="name the model's parameters"):
        unroll(model, dict(list(start.items())[1:]), images, labels, rate, 1)
    with pytest.raises(ValueError, match="running statistics"):
        parameters_of(build("small-convnet", 3))
