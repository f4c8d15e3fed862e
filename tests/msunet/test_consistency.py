"Properties and faults of effdl_nb.msunet.consistency that its notebook does not show."

import copy
import math
from dataclasses import FrozenInstanceError

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from effdl_nb.augmentation import mixup
from effdl_nb.checkpoints import CheckpointError
from effdl_nb.msunet.consistency import (
    PASSES,
    ConsistencyLoss,
    draw_mix,
    features_and_logits,
    mixup_consistency,
    released_consistency,
)
from effdl_nb.msunet.network import msunet
from effdl_nb.optimization import TrainConfig
from effdl_nb.training import train


class Net(nn.Module):
    def __init__(self, norm=True):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(6, 4)

    def features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.classifier(self.features(x))


def batch(n=12, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, generator=g).to(dtype), torch.randint(0, 4, (n,), generator=g)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.integers(1, 5), st.integers(1, 6))
def test_equation_2_7_and_its_symmetries(seed, lam, size, width):
    g = torch.Generator().manual_seed(seed)
    mixed, a, b = (torch.randn(size, width, 2, dtype=torch.float64, generator=g) for _ in range(3))
    value = mixup_consistency(mixed, a, b, lam).item()
    loop = (
        sum(((lam * a[i] + (1 - lam) * b[i] - mixed[i]) ** 2).sum().item() for i in range(size))
        / size
    )
    assert value == pytest.approx(loop, rel=1e-9)
    assert mixup_consistency(mixed, b, a, 1 - lam).item() == pytest.approx(value, rel=1e-9)
    assert mixup_consistency(3 * mixed + 1, 3 * a + 1, 3 * b + 1, lam).item() == pytest.approx(
        9 * value, rel=1e-9
    )
    assert released_consistency(mixed, a, b, lam).item() == pytest.approx(
        F.mse_loss(lam * a + (1 - lam) * b, mixed).item(), rel=1e-9
    )
    assert mixup_consistency(lam * a + (1 - lam) * b, a, b, lam).item() < 1e-25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_summed_in_single(dtype):
    big = torch.full((2, 400), 100.0, dtype=dtype)  # the sum of squares is far above 65504
    value = mixup_consistency(-big, big, big, 0.5)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(400 * 200.0**2)


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3), (2, 3), (2, 4)),
        ((2, 3), (1, 3), (2, 3)),
        ((3,), (3,), (3,)),
        ((0, 3), (0, 3), (0, 3)),
    ],
)
def test_features_that_do_not_fit_are_refused_with_their_shapes(shapes):
    with pytest.raises(ValueError, match="three equal shapes"):
        mixup_consistency(*map(torch.zeros, shapes), 0.5)


@pytest.mark.parametrize(
    "options, seen",
    [
        ({"at": "pixels"}, "'pixels' is unknown; allowed: features, logits"),
        ({"mix": "cutout"}, "'cutout' is unknown; allowed: mixup, cutmix"),
        ({"passes": "two"}, "'two' is unknown; allowed: joint, separate, interleaved"),
        ({"probability": 1.5}, "1.5"),
        ({"weight": -1}, "-1"),
        ({"weight": math.nan}, "nan"),
        ({"alpha": 0}, "alpha must be a finite number above 0, not 0"),
        ({"alpha": math.inf}, "inf"),
        (
            {"as_released": True, "probability": 0.25},
            "probability must be 0.5 with as_released=True, not 0.25",
        ),
        ({"as_released": True, "alpha": 0.2}, "alpha must be 1.0 with as_released=True, not 0.2"),
    ],
)
def test_options_that_make_no_sense_are_named(options, seen):
    with pytest.raises(ValueError, match=seen):
        ConsistencyLoss(**options)


def test_names_tell_the_options_apart_and_hold_no_addresses():
    many = [
        ConsistencyLoss(),
        ConsistencyLoss(0.5),
        ConsistencyLoss(at="logits"),
        ConsistencyLoss(mix="cutmix"),
        ConsistencyLoss(passes="separate"),
        ConsistencyLoss(as_released=True),
        ConsistencyLoss(as_released=True, alias=False),
    ]
    assert len({loss.__qualname__ for loss in many}) == len(many)
    assert (
        ConsistencyLoss(generator=seeded()).__name__
        == repr(ConsistencyLoss())
        == copy.deepcopy(ConsistencyLoss()).__qualname__
    )
    assert "0x" not in repr(ConsistencyLoss(generator=seeded()))
    with pytest.raises(FrozenInstanceError):
        many[0].weight = 2.0


def test_a_model_without_the_parts_says_which_and_logits_need_none():
    x, y = batch()
    bare = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(ValueError, match="Sequential has no features and no classifier"):
        ConsistencyLoss()(bare, x, y)
    bare.classifier = nn.Identity()
    with pytest.raises(ValueError, match="no features;"):
        features_and_logits(bare, x)
    assert ConsistencyLoss(at="logits")(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), x, y
    ).isfinite()
    assert ConsistencyLoss(generator=seeded())(nn.DataParallel(Net()), x, y) == ConsistencyLoss(
        generator=seeded()
    )(Net(), x, y)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixing_gives_the_share_that_it_says(mix):
    x, _ = batch()
    for seed in range(20):
        mixed, partner, lam = draw_mix(x, mix, generator=seeded(seed))
        assert sorted(partner.tolist()) == list(range(len(x))) and 0 <= lam <= 1
        if mix == "mixup":
            assert torch.equal(mixed, mixup(x, partner, lam))
        else:
            differs = (mixed != x).float().mean((1, 2, 3))[partner != torch.arange(len(x))]
            assert torch.allclose(differs, torch.full_like(differs, 1 - lam))


def test_draws_come_from_the_global_cpu_generator_or_the_given_one():
    x, _ = batch()
    torch.manual_seed(11)
    first, second = draw_mix(x)[2], draw_mix(x)[2]
    state = torch.get_rng_state()
    torch.manual_seed(11)
    assert (first, second) == (draw_mix(x)[2], draw_mix(x)[2]) and first != second
    draw_mix(x, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state), (
        "an explicit generator leaves the global one alone"
    )
    assert draw_mix(x, probability=0.0)[0] is None and draw_mix(x, probability=1.0)[0] is not None


def test_no_mixing_and_no_weight_leave_plain_losses():
    x, y = batch()
    model = Net().eval()
    assert ConsistencyLoss(probability=0.0)(model, x, y) == F.cross_entropy(model(x), y)
    mixed, partner, lam = draw_mix(x, generator=seeded())
    expected = lam * F.cross_entropy(model(mixed), y) + (1 - lam) * F.cross_entropy(
        model(mixed), y[partner]
    )
    assert torch.allclose(ConsistencyLoss(weight=0.0, generator=seeded())(model, x, y), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"at": "logits"},
        {"mix": "cutmix"},
        {"as_released": True},
        {"as_released": True, "alias": False},
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_passes_agree_where_batches_do_not_interact(options, size):
    x, y = batch(size, torch.float64)
    model = Net(norm=False).double()
    losses, gradients = [], []
    for passes in ("interleaved",) if "as_released" in options else PASSES:
        loss = ConsistencyLoss(passes=passes, generator=seeded(8), **options)(model, x, y)
        losses.append(loss.item())
        gradients.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        )
    assert all(math.isclose(value, losses[0], rel_tol=1e-12) for value in losses)
    assert all(torch.allclose(g, gradients[0], atol=1e-12) for g in gradients)


def test_gradients_of_the_whole_loss_by_finite_differences():
    x, y = batch(4, torch.float64)
    x = x[..., :2, :2]
    model = nn.Module()
    w, v = (
        torch.randn(shape, dtype=torch.float64, generator=seeded(), requires_grad=True)
        for shape in ((5, 12), (4, 5))
    )
    for options in (
        {},
        {"mix": "cutmix"},
        {"at": "logits", "passes": "separate"},
        {"as_released": True},
        {"as_released": True, "alias": False},
    ):

        def value(w, v, options=options):
            model.features, model.classifier = (
                lambda x: torch.tanh(x.flatten(1) @ w.T),
                lambda f: f @ v.T,
            )
            model.forward = lambda x: model.classifier(model.features(x))
            return ConsistencyLoss(generator=seeded(8), **options)(model, x, y)

        assert torch.autograd.gradcheck(value, (w, v)), options


def test_label_vectors_equal_class_numbers():
    x, y = batch()
    model = Net().eval()
    numbers, vectors = (
        ConsistencyLoss(generator=seeded())(model, x, labels)
        for labels in (y, F.one_hot(y, 4).float())
    )
    assert torch.allclose(numbers, vectors)


@pytest.mark.parametrize("passes", PASSES)
def test_running_statistics_are_updated_once_a_pass(passes):
    x, y = batch()
    model = Net()
    ConsistencyLoss(passes=passes)(model, x, y)
    assert (
        model.body[1].num_batches_tracked == {"joint": 1, "separate": 2, "interleaved": 3}[passes]
    )


def test_inputs_are_left_alone_even_as_released():
    x, y = batch()
    before = x.clone()
    for seed in range(6):
        ConsistencyLoss(as_released=True, generator=seeded(seed))(Net(), x, y)
    assert torch.equal(x, before), "the alias is in the target, not in the caller's batch"


def test_msunet_under_autocast_and_its_gradients():
    torch.manual_seed(0)
    model = msunet("v3", width=0.125, num_classes=4)
    x, y = batch()
    for loss in (
        ConsistencyLoss(generator=seeded()),
        ConsistencyLoss(as_released=True, generator=seeded(8)),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(model, x, y)
        assert value.dtype == torch.float32
        value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_trainer_refuses_a_checkpoint_of_another_loss_and_other_mixing(tmp_path):
    x, y = batch(16)
    config = TrainConfig(epochs=1, batch_size=8)
    train(Net(), x, y, config, loss=ConsistencyLoss(), checkpoint=tmp_path / "run", progress=False)
    with pytest.raises(CheckpointError, match="they differ in: loss"):
        train(
            Net(),
            x,
            y,
            config,
            loss=ConsistencyLoss(weight=2.0),
            checkpoint=tmp_path / "run",
            progress=False,
        )
    with pytest.raises(ValueError, match="with a custom loss, not 'mixup'"):
        train(
            Net(), x, y, TrainConfig(epochs=1, mix="mixup"), loss=ConsistencyLoss(), progress=False
        )


def test_distributed_data_parallel_is_called_itself_and_gives_the_same_gradients():
    x, y = batch()
    model, alone = Net(), Net()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        calls = []
        wrapped.register_forward_pre_hook(lambda *_: calls.append(1))
        ConsistencyLoss(generator=seeded())(wrapped, x, y).backward()
    finally:
        dist.destroy_process_group()
    ConsistencyLoss(generator=seeded())(alone, x, y).backward()
    assert len(calls) == 1 and not model.classifier._forward_pre_hooks
    assert all(
        torch.equal(p.grad, q.grad)
        for p, q in zip(model.parameters(), alone.parameters(), strict=True)
    )


def test_weight_zero_is_mixing_alone_in_one_pass():
    model, images, labels = (
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)),
        torch.rand(6, 3, 2, 2),
        torch.arange(6) % 3,
    )
    passed = []
    model.register_forward_hook(lambda _, inputs, output: passed.append(len(inputs[0])))
    loss = ConsistencyLoss(weight=0.0, generator=torch.Generator().manual_seed(1))(
        model, images, labels
    )
    mixed, partner, lam = draw_mix(images, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cross_entropy(model(mixed), labels) * lam
    expected = expected + torch.nn.functional.cross_entropy(model(mixed), labels[partner]) * (
        1 - lam
    )
    assert passed[0] == 6 and torch.allclose(loss, expected)


class Pooled(nn.Module):
    "As torchvision's MobileNet: it pools between features and classifier, which drops in place."

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 5, 3)
        self.classifier = nn.Sequential(nn.Dropout(0.9, inplace=True), nn.Linear(5, 4))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def test_features_are_what_the_model_hands_to_its_classifier():
    x, y = batch()
    model = Pooled()
    features, logits = features_and_logits(model, x)
    assert torch.equal(features, model.features(x).mean((2, 3))), "before dropout writes there"
    assert logits.shape == (len(x), 4) and ConsistencyLoss()(model, x, y).isfinite()
    model.forward = lambda x: model.features(x).mean((2, 3))
    with pytest.raises(ValueError, match="must call its classifier once .* not 0 times"):
        features_and_logits(model, x)
