"""The differentiable inner loop: equality of its forms, what each leaves out, and misuse."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effdl_nb.condensation import unroll as module
from effdl_nb.condensation.images import augment, draw_augmentation
from effdl_nb.condensation.unroll import parameters_of, unroll
from effdl_nb.networks import build

LABELS = torch.arange(6) % 3


def problem(dtype, seed=0):
    "(model, theta_0, target, images, lr)."
    gen = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build("convnet-2", 3, width=6, image_size=8).to(dtype)
    start = parameters_of(model)
    target = {k: v + 0.1 * torch.randn(v.shape, generator=gen).to(dtype) for k, v in start.items()}
    images = torch.randn(6, 3, 8, 8, generator=gen).to(dtype).requires_grad_()
    return model, start, target, images, torch.tensor(0.05, dtype=dtype, requires_grad=True)


def distance(theta, target):
    return sum((theta[k] - target[k]).square().sum() for k in target)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("steps", [1, 10])
def test_adjoint_equals_full_through_augmentation(dtype, tolerance, steps):
    model, start, target, images, lr = problem(dtype)
    gen = torch.Generator().manual_seed(2)
    plan = [(torch.randperm(6, generator=gen)[:4], draw_augmentation(4, gen)) for _ in range(steps)]

    def prepare(i, x, y):
        index, draw = plan[i]
        return augment(x[index], draw), y[index]

    gradients = []
    for memory in ("full", "adjoint"):
        theta = unroll(model, start, images, LABELS, lr, steps, prepare, memory)
        gradients.append(torch.autograd.grad(distance(theta, target), [images, lr]))
    for a, b in zip(*gradients, strict=True):
        assert float((a - b).norm() / a.norm()) < tolerance


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def test_gradcheck_of_the_adjoint():
    model = two_layers()
    start = parameters_of(model)
    images = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.softmax(torch.randn(2, 2, dtype=torch.float64), 1).requires_grad_()
    lrs = torch.tensor([0.1, 0.3, 0.2], dtype=torch.float64, requires_grad=True)

    def last(x, y, lrs):
        return unroll(model, start, x, y, lrs, 3, memory="adjoint")["3.weight"]

    assert torch.autograd.gradcheck(last, (images, labels, lrs))


def test_only_what_is_asked_for_gets_a_gradient():
    model, start, target, images, lr = problem(torch.float32)
    fixed = images.detach()
    theta = unroll(model, start, fixed, LABELS, lr, 2, memory="adjoint")
    distance(theta, target).backward()
    assert lr.grad is not None and fixed.grad is None


def test_values_are_those_of_sgd_in_every_form():
    model, start, _, images, lr = problem(torch.float64)
    plain = [p.detach().clone().requires_grad_() for p in start.values()]
    for _ in range(3):
        named = dict(zip(start, plain, strict=True))
        loss = F.cross_entropy(torch.func.functional_call(model, named, (images.detach(),)), LABELS)
        pairs = zip(plain, torch.autograd.grad(loss, plain), strict=True)
        plain = [(p - lr.item() * g).detach().requires_grad_() for p, g in pairs]
    for memory in module.MEMORY_MODES:
        theta = unroll(model, start, images, LABELS, lr, 3, memory=memory)
        for (name, v), p in zip(theta.items(), plain, strict=True):
            torch.testing.assert_close(v.detach(), p.detach(), msg=name)


def test_misuse():
    model, start, _, images, lr = problem(torch.float32)
    with pytest.raises(ValueError, match="'auto' is unknown; allowed: full, adjoint, tesla$"):
        unroll(model, start, images, LABELS, lr, 1, memory="auto")
    with pytest.raises(ValueError, match="at least 1"):
        unroll(model, start, images, LABELS, lr, 0)
    with pytest.raises(ValueError, match="each of the 3 steps"):
        unroll(model, start, images, LABELS, torch.ones(2), 3)
    with pytest.raises(ValueError, match="name the model's parameters"):
        unroll(model, dict(list(start.items())[1:]), images, LABELS, lr, 1)
    with pytest.raises(ValueError, match="running statistics"):
        parameters_of(build("small-convnet", 3))
    with pytest.raises(ValueError, match="adjoint"):
        unroll(model, start, images, LABELS, lr, 1, memory="full", compiled=True)


def test_tesla_is_the_adjoint_without_the_hessian():
    # theta_2 = theta_0 - alpha (g_0 + g_1), theta_1 inside g_1 held constant, written with autograd
    model, start, target, images, lr = problem(torch.float64)

    def gradient(theta):
        loss = F.cross_entropy(torch.func.functional_call(model, theta, (images,)), LABELS)
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        return dict(zip(theta, slopes, strict=True))

    theta_0 = {k: v.clone().requires_grad_() for k, v in start.items()}
    g_0 = gradient(theta_0)
    theta_1 = {k: (v - lr * g_0[k]).detach().requires_grad_() for k, v in theta_0.items()}
    g_1 = gradient(theta_1)
    theta_2 = {k: v - lr * (g_0[k] + g_1[k]) for k, v in theta_0.items()}
    expected = torch.autograd.grad(distance(theta_2, target), [images, lr])
    theta = unroll(model, start, images, LABELS, lr, 2, memory="tesla")
    slopes = torch.autograd.grad(distance(theta, target), [images, lr])
    for a, b in zip(slopes, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("memory", ["adjoint", "tesla"])
def test_compiled_steps_give_the_same_gradient(memory, monkeypatch):
    # traces as the real backend does, without a C++ compiler
    monkeypatch.setattr(module, "BACKEND", "aot_eager")
    model = two_layers()
    start = parameters_of(model)
    images = torch.randn(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.softmax(torch.randn(2, 2, dtype=torch.float64), 1).requires_grad_()
    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    gradients = []
    for compiled in (False, True):
        theta = unroll(model, start, images, labels, lr, 3, memory=memory, compiled=compiled)
        length = sum(v.square().sum() for v in theta.values())
        gradients.append(torch.autograd.grad(length, [images, labels, lr]))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("memory", module.MEMORY_MODES)
def test_a_step_may_leave_the_synthetic_images_out(memory):
    model, start, target, images, lr = problem(torch.float64)
    other = torch.randn_like(images).detach()

    def prepare(i, x, y):
        return (other if i == 1 else x), y

    theta = unroll(model, start, images, LABELS, lr, 2, prepare, memory)
    by_images, by_lr = torch.autograd.grad(distance(theta, target), [images, lr])
    full = unroll(model, start, images, LABELS, lr, 2, prepare, "full")
    (exact,) = torch.autograd.grad(distance(full, target), images)
    assert by_images.norm() > 0 and torch.isfinite(by_lr)
    assert memory == "tesla" or torch.allclose(by_images, exact, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("layer", "words"),
    [(nn.Dropout(0.5), "dropout would not"), (nn.BatchNorm1d(3), "running statistics")],
)
def test_a_network_that_would_not_repeat_its_steps_raises(layer, words):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), layer)
    start = {k: v.detach() for k, v in model.named_parameters()}
    with pytest.raises(ValueError, match=words):
        unroll(model, start, torch.randn(6, 1, 2, 2), LABELS, torch.tensor(0.1), 2)
