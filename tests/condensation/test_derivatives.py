"""Pooling and instance norm by hand: against torch's own, and what the context leaves alone."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from effdl_nb.condensation import unroll as module
from effdl_nb.condensation.derivatives import IN_CACHE, ByHand, average_pool, by_hand, instance_norm
from effdl_nb.networks import build
from effdl_nb.training import TrainConfig, train


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_pooling_is_torchs_to_the_last_bit_in_both_directions(k, dtype):
    x = normal(3, 5, 24, 12, dtype=dtype).requires_grad_()
    slope = normal(3, 5, 24 // k, 12 // k, dtype=dtype, seed=1)
    pooled = average_pool(x, k)
    expected = F.avg_pool2d(x, k)
    assert torch.equal(pooled, expected) and pooled.dtype == dtype
    assert torch.equal(*(torch.autograd.grad(y, x, slope)[0] for y in (pooled, expected)))


def test_pooling_takes_images_that_are_not_contiguous():
    x = normal(4, 3, 8, 8).transpose(2, 3)[:, ::2]
    assert torch.equal(average_pool(x, 2), F.avg_pool2d(x, 2))


@pytest.mark.parametrize(
    "k, shape", [(1, (1, 1, 4, 4)), (3, (1, 1, 6, 4)), (2, (1, 1, 4, 5)), (2, (4,))]
)
def test_blocks_that_do_not_fit_raise(k, shape):
    with pytest.raises(ValueError, match=f"not {k} on images of"):
        average_pool(torch.zeros(shape), k)


def norm_arguments(*shape):
    "Images, weight and bias."
    return [normal(*shape), normal(shape[1], seed=1), normal(shape[1], seed=2)]


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 2, 3), (3, 2, 5)])
def test_norm_passes_finite_differences_twice(shape):
    arguments = [v.requires_grad_() for v in norm_arguments(*shape)]
    assert torch.autograd.gradcheck(instance_norm, arguments)
    assert torch.autograd.gradgradcheck(instance_norm, arguments)


def test_norm_of_a_constant_channel_and_of_other_epsilons_is_autograds():
    x = normal(2, 3, 6, 6)
    x[:, 0] = 5.0
    for eps in (1e-5, 1e-1):
        results = []
        for norm in (
            lambda x, w, b, eps=eps: instance_norm(x, w, b, eps),
            lambda x, w, b, eps=eps: F.group_norm(x, 3, w, b, eps),
        ):
            inputs = [v.clone().requires_grad_() for v in (x, normal(3, seed=1), normal(3, seed=2))]
            first = torch.autograd.grad(norm(*inputs).pow(3).sum(), inputs, create_graph=True)
            results.append(torch.autograd.grad(sum(v.square().sum() for v in first), inputs))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_third_derivative_of_the_norm_is_right():
    def first(*inputs):
        return torch.autograd.grad(instance_norm(*inputs).pow(4).sum(), inputs, create_graph=True)

    arguments = [v.requires_grad_() for v in norm_arguments(2, 1, 3, 3)]
    assert torch.autograd.gradgradcheck(first, arguments)


def used(y):
    return y.grad_fn.name()


def test_what_means_something_else_is_left_to_torch():
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    with ByHand(twice=True):
        for y in (
            F.avg_pool2d(x, 3, 1),
            F.avg_pool2d(x, 2, padding=1),
            F.avg_pool2d(x, 2, divisor_override=3),
            F.avg_pool2d(x, (2, 4)),
            F.avg_pool2d(x[..., :7], 2, ceil_mode=True),
            F.avg_pool2d(x, 1),
            F.avg_pool2d(x[:1].expand(IN_CACHE // 128, 4, 8, 8), 2),
        ):
            assert used(y) == "AvgPool2DBackward0"
        for y in (
            F.group_norm(x, 2),
            F.group_norm(x, 4),
            F.group_norm(x, 2, torch.ones(4), torch.ones(4)),
            F.group_norm(x.bfloat16(), 4, torch.ones(4).bfloat16(), torch.ones(4).bfloat16()),
        ):
            assert used(y) == "NativeGroupNormBackward0"
        with torch.autocast("cpu", torch.bfloat16):
            assert (
                used(F.group_norm(x, 4, torch.ones(4), torch.ones(4))) == "NativeGroupNormBackward0"
            )
        for y in (
            F.avg_pool2d(x, 2),
            F.avg_pool2d(x, (2, 2), stride=[2, 2], padding=(0, 0)),
            F.avg_pool2d(x, 4),
        ):
            assert used(y) == "_AverageBackward"
        assert (
            used(F.group_norm(x, 4, weight=torch.ones(4), bias=torch.ones(4)))
            == "_InstanceNormBackward"
        )
    with ByHand(twice=False):
        assert (
            used(F.group_norm(x, 4, torch.ones(4), torch.ones(4))) == "NativeGroupNormBackward0"
            and used(F.avg_pool2d(x, 2)) == "_AverageBackward"
        )
    assert used(F.avg_pool2d(x, 2)) == "AvgPool2DBackward0"


def test_arguments_by_name_mean_the_same():
    x = normal(2, 4, 4, 4).requires_grad_()
    with ByHand(twice=True):
        pooled = F.avg_pool2d(input=x, kernel_size=2)
        normed = F.group_norm(input=x, num_groups=4, weight=normal(4), bias=normal(4))
    assert used(pooled) == "_AverageBackward" and used(normed) == "_InstanceNormBackward"
    assert torch.equal(pooled, F.avg_pool2d(x, 2))
    assert torch.equal(normed, F.group_norm(x, 4, normal(4), normal(4)))


def test_the_context_is_for_a_cpu_only():
    assert isinstance(by_hand("cpu", twice=True), ByHand)
    assert not isinstance(by_hand("cuda", twice=True), ByHand)


@pytest.mark.parametrize("name", ["convnet-2", "alexnet", "vgg-11", "resnet-18"])
@pytest.mark.parametrize("memory", ["full", "adjoint"])
def test_an_unrolled_network_moves_its_images_as_with_torchs_operations(name, memory, monkeypatch):
    torch.manual_seed(0)
    model = build(name, 3, width=4, norm="instance").double()
    start = module.parameters_of(model)
    images = normal(3, 3, 32, 32).requires_grad_()
    lr = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    ends = []
    gradients = []
    for _ in range(2):
        theta = module.unroll(model, start, images, torch.arange(3), lr, 2, memory=memory)
        moved = sum((v - start[k]).square().sum() for k, v in theta.items())
        ends.append(theta)
        gradients.append(torch.autograd.grad(moved, [images, lr]))
        monkeypatch.setattr(module, "fast_passes", lambda *a, **k: nullcontext())
    # to the last bit; only in a full graph torch computes even first derivatives in another way
    off = {"rtol": 0, "atol": 0} if memory == "adjoint" else {"rtol": 1e-11, "atol": 1e-13}
    for k, v in ends[0].items():
        torch.testing.assert_close(v, ends[1][k], **off)
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() <= 1e-9 * b.norm()
    assert not torch.equal(gradients[0][0], gradients[1][0]), "one of the two ran for both"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_inside_the_context_takes_the_same_path(precision):
    images = normal(12, 3, 16, 16, dtype=torch.float32)
    labels = torch.arange(12) % 3
    config = TrainConfig(epochs=2, batch_size=5, lr=0.1, precision=precision)
    ends = []
    for context in (by_hand("cpu", twice=False), torch.enable_grad()):
        torch.manual_seed(0)
        model = build("convnet-2", 3, width=4, image_size=16, norm="instance")
        with context:
            train(model, images, labels, config, device="cpu", progress=False)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
