"""Properties and faults of effdl_nb.networks that its notebook does not show."""

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from effdl_nb.networks import NETWORKS, Shake, build, count_parameters, norm_layer, shake

PUBLISHED = {
    ("convnet-3", 10, 32, None): 320_010,
    ("convnet-3", 100, 32, None): 504_420,
    ("convnet-4", 200, 64, None): 857_160,
    ("convnet-3", 10, 32, 64): 86_282,
    ("convnet-3", 10, 32, 32): 24_714,
    ("small-convnet", 10, 32, None): 24_346,
    ("wrn-16-1", 10, 32, None): 175_066,
    ("wrn-40-2", 10, 32, None): 2_243_546,
    ("wrn-28-10", 10, 32, None): 36_479_194,
    ("shake-shake-26-2x96d", 10, 32, None): 26_192_922,
    ("resnet-18", 1000, 224, None): 11_689_512,
    ("resnet-50", 1000, 224, None): 25_557_032,
    ("resnet-200", 1000, 224, None): 64_673_832,
    ("resnet-18", 10, 32, None): 11_173_962,
    ("vgg-11", 10, 32, None): 9_231_114,
    ("alexnet", 10, 32, None): 1_874_122,
}
SMALL = [
    ("wrn-10-1", {}),
    ("shake-shake-26-2x4d", {}),
    ("resnet-18", {"width": 4}),
    ("resnet-50", {"width": 4}),
    ("vgg-11", {"width": 4}),
    ("alexnet", {"width": 8}),
    ("convnet-3", {"width": 8}),
    ("small-convnet", {"width": 4}),
]


@pytest.mark.parametrize(
    ("key", "count"),
    PUBLISHED.items(),
    ids=lambda v: "-".join(map(str, v)) if isinstance(v, tuple) else None,
)
def test_published_counts(key, count):
    name, classes, side, width = key
    with torch.device("meta"):
        assert count_parameters(build(name, classes, width=width, image_size=side)) == count


@pytest.mark.parametrize(("name", "kw"), SMALL)
@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_features_then_classifier(name, kw, norm):
    torch.manual_seed(0)
    model = build(name, 7, norm=norm, in_channels=2, **kw).eval()
    x = torch.randn(3, 2, 32, 32)
    with torch.no_grad():
        features = model.features(x)
        assert (
            features.ndim == 2
            and torch.equal(model.classifier(features), model(x))
            and model(x).shape == (3, 7)
        )
    kinds = {type(m) for m in model.modules()}
    assert (nn.BatchNorm2d in kinds) == (norm == "batch") and (nn.GroupNorm in kinds) == (
        norm == "instance"
    )


@pytest.mark.parametrize(("name", "kw"), SMALL)
def test_every_parameter_gets_a_gradient_and_bf16_and_channels_last_run(name, kw):
    torch.manual_seed(0)
    model = build(name, **kw).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(x), torch.arange(4))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("depth", [18, 50])
def test_imagenet_form_is_torchvisions(depth):
    import torchvision.models

    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=5).eval()
    ours = build(f"resnet-{depth}", 5, image_size=128).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_resnet_form_follows_the_image_size():
    with torch.device("meta"):
        assert build("resnet-18", image_size=64).conv1.kernel_size == (3, 3)
        assert build("resnet-18", image_size=128).conv1.kernel_size == (7, 7)


# PyTorch's own, on loading its forward-mode formulas
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("name", "kw"),
    [
        ("wrn-10-1", {}),
        ("small-convnet", {}),
        ("convnet-2", {"width": 8}),
        ("resnet-18", {"width": 4}),
    ],
)
def test_forward_mode_derivative_agrees_with_reverse_mode(name, kw):
    torch.manual_seed(0)
    model = build(name, **kw).double().eval()
    x, y = torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 2, 3])
    parameters = dict(model.named_parameters())
    tangents = {k: torch.randn_like(p) for k, p in parameters.items()}
    grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(parameters.values()))
    reverse = sum((g * t).sum() for g, t in zip(grads, tangents.values(), strict=True))
    with torch.no_grad(), fwd.dual_level():
        duals = {k: fwd.make_dual(p, tangents[k]) for k, p in parameters.items()}
        forward = fwd.unpack_dual(F.cross_entropy(functional_call(model, duals, (x,)), y)).tangent
    torch.testing.assert_close(forward, reverse)


def test_shake_gradient_is_the_mixture_with_beta():
    torch.manual_seed(0)
    a, b = (torch.randn(6, 2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    alpha, beta = torch.rand(2, 6, 1, 1, 1, dtype=torch.float64)
    out = Shake.apply(a, b, alpha, beta)
    torch.testing.assert_close(out, alpha * a + (1 - alpha) * b)
    g = torch.randn_like(out)
    ga, gb = torch.autograd.grad(out, (a, b), g)
    torch.testing.assert_close(ga, beta * g)
    torch.testing.assert_close(gb, (1 - beta) * g)
    # with beta = alpha the gradient is that of the function computed
    assert torch.autograd.gradcheck(lambda a, b: Shake.apply(a, b, alpha, alpha), (a, b))


def test_shake_draws_uniformly_for_each_image_and_not_in_evaluation():
    torch.manual_seed(0)
    one, zero = torch.ones(4000, 1, 1, 1), torch.zeros(4000, 1, 1, 1)
    alpha = shake(one, zero).flatten()
    assert (
        abs(alpha.mean() - 0.5) < 0.02
        and abs(alpha.var() - 1 / 12) < 0.01
        and 0 <= alpha.min()
        and alpha.max() <= 1
    )
    state = torch.get_rng_state()
    assert shake(one, zero, training=False).eq(0.5).all() and torch.equal(
        state, torch.get_rng_state()
    )


def test_shake_shake_in_expectation_is_the_evaluation_mode_block():
    torch.manual_seed(0)
    model = build("shake-shake-26-2x4d", norm="none")
    block = model.body[2]
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        mean = block.train()(x.expand(4000, -1, -1, -1)).mean(0)
        assert (mean - block.eval()(x)[0]).abs().max() < 0.1 * block.eval()(x).abs().max()


WRONG_NAMES = [
    "",
    "WRN-40-2",
    "wrn-41-2",
    "wrn-4-2",
    "wrn-16-0",
    "wrn-40",
    "resnet-34",
    "vgg11",
    "convnet-0",
    "convnet-6",
    "shake-shake-26-2x0d",
    "convnet-3 ",
]


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_names_that_do_not_exist(name):
    with pytest.raises(ValueError) as error:
        build(name)
    text = str(error.value)
    assert (
        all(known in text for known in NETWORKS)
        or "allowed" in text
        or "must be" in text
        or "at least" in text
    )


@pytest.mark.parametrize(
    ("name", "kw", "word"),
    [
        ("convnet-3", {"norm": "layer"}, "instance"),
        ("vgg-11", {"image_size": 27}, "28"),
        ("alexnet", {"image_size": 4}, "8"),
        ("alexnet", {"width": 5}, "even"),
        ("resnet-18", {"image_size": 8}, "16"),
        ("convnet-4", {"image_size": 8}, "1 to 3"),
        ("wrn-16-1", {"width": 16}, "name"),
        ("convnet-3", {"width": 0}, "width"),
        ("convnet-3", {"num_classes": 0}, "num_classes"),
        ("convnet-3", {"in_channels": 0}, "in_channels"),
        ("convnet-3", {"image_size": 32.0}, "image_size"),
    ],
)
def test_arguments_that_do_not_fit(name, kw, word):
    with pytest.raises(ValueError, match=word):
        build(name, **kw)


def test_unknown_norm_names_the_known_ones():
    with pytest.raises(ValueError, match="batch, instance, none"):
        norm_layer("group", 8)


ODD = [
    ("convnet-3", 8),
    ("convnet-3", 33),
    ("vgg-11", 63),
    ("alexnet", 9),
    ("wrn-10-1", 9),
    ("shake-shake-26-2x4d", 15),
]


@pytest.mark.parametrize(("name", "side"), ODD)
def test_odd_and_smallest_images(name, side):
    model = build(name, image_size=side)
    assert model(torch.randn(2, 3, side, side)).shape == (2, 10)


@pytest.mark.parametrize("name", ["convnet-3", "vgg-11", "alexnet"])
def test_images_of_another_size_raise(name):
    with pytest.raises(ValueError, match="must be 32x32, .* not 40x32"):
        build(name)(torch.randn(1, 3, 40, 32))


@pytest.mark.parametrize("name", ["vgg-11", "alexnet"])
@pytest.mark.parametrize("size", [28, 29, 30, 31])
def test_small_images_get_a_border_of_zeros(name, size):
    model = build(name, 5, width=8, image_size=size, in_channels=1)
    plain = build(name, 5, width=8, image_size=32, in_channels=1)
    assert [p.shape for p in model.parameters()] == [p.shape for p in plain.parameters()]
    plain.load_state_dict(model.state_dict())
    x = torch.rand(2, 1, size, size)
    border = (33 - size) // 2
    padded = torch.nn.functional.pad(x, (border,) * 4)[..., :32, :32]
    model.eval(), plain.eval()
    assert model(x).shape == (2, 5)
    if size % 2 == 0:
        torch.testing.assert_close(model(x), plain(padded))


def test_a_network_is_a_name():
    for wrong in (torch.nn.Linear, torch.nn.Linear(1, 1), None, 3):
        with pytest.raises(ValueError, match="network must be a name, such as convnet-3, not "):
            build(wrong)
