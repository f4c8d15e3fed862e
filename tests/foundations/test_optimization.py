"Settings that make no sense raise; steps, learning rates and decay are what they say."

import math

import pytest
from torch import nn

from effdl_nb.networks import build
from effdl_nb.optimization import TrainConfig, lr_at, parameter_groups, steps_per_epoch


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schedule", "linear"),
        ("mix", "cutout"),
        ("precision", "fp8"),
        ("epochs", -1),
        ("epochs", 1.5),
        ("steps", -1),
        ("batch_size", 0),
        ("batch_repeats", 0),
        ("batch_repeats", 1.5),
        ("batch_repeats", None),
        ("seed", -1),
        ("lr", -0.1),
        ("lr", math.nan),
        ("lr", None),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("warmup_epochs", -1),
        ("gamma", math.inf),
        ("label_smoothing", 1.0),
        ("clip_norm", 0.0),
        ("mix_alpha", -1.0),
        ("milestones", (1,)),
    ],
)
def test_settings_that_make_no_sense(field, value):
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})


def test_settings_are_values():
    a, b = (TrainConfig(schedule="step", milestones=m) for m in ([3, 5], (3, 5)))
    assert a == b and hash(a) == hash(b)
    with pytest.raises(AttributeError):
        a.lr = 1.0


def test_lr_at_hand_computed_points():
    # 10 steps an epoch: 15 warm-up steps, 100 in all
    c = TrainConfig(lr=1.0, warmup_epochs=1.5, schedule="cosine")
    expected = {0: 1 / 15, 14: 1.0, 15: 1.0, 15 + 85 // 5: 0.5 * (1 + math.cos(math.pi / 5))}
    assert all(math.isclose(lr_at(s, c, 10, 100), v) for s, v in expected.items())
    assert lr_at(99, c, 10, 100) < 1e-3
    step = TrainConfig(lr=1.0, schedule="step", milestones=(2, 4.5), gamma=0.5)
    assert [lr_at(s, step, 10, 100) for s in (0, 19, 20, 44, 45, 99)] == [
        1,
        1,
        0.5,
        0.5,
        0.25,
        0.25,
    ]
    constant = TrainConfig(lr=0.3, warmup_epochs=0.2, schedule="constant")
    assert [lr_at(s, constant, 10, 100) for s in (0, 1, 2, 99)] == [0.15, 0.3, 0.3, 0.3]


def test_weight_decay_groups_exempt_vectors_and_frozen():
    model = build("small-convnet", width=2, image_size=8)
    model.body[0].weight.requires_grad_(False)
    decayed, exempt = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim == 1 for p in exempt["params"])
    assert len(decayed["params"]) + len(exempt["params"]) == len(list(model.parameters())) - 1
    assert len(parameter_groups(nn.Linear(3, 3, bias=False), 0.1)) == 1


STEPS = [
    (70, 16, False, 1, 5),
    (70, 16, True, 1, 4),
    (64, 16, False, 4, 4),
    (66, 16, False, 2, 5),
    (5, 16, False, 5, 1),
]


@pytest.mark.parametrize(("n", "batch", "drop", "world", "steps"), STEPS)
def test_steps_per_epoch(n, batch, drop, world, steps):
    assert steps_per_epoch(n, TrainConfig(batch_size=batch, drop_last=drop), world) == steps


@pytest.mark.parametrize(("n", "batch", "world"), [(65, 16, 2), (64, 3, 4)])
def test_batches_that_cannot_be_shared(n, batch, world):
    with pytest.raises(ValueError, match=f"{world} processes"):
        steps_per_epoch(n, TrainConfig(batch_size=batch), world)


def test_processes_share_whole_replicas():
    assert steps_per_epoch(65, TrainConfig(batch_size=16, batch_repeats=8), 4) == 5, (
        "a last batch of one image has eight replicas to share"
    )
    with pytest.raises(ValueError, match="a multiple of the 3 processes, not 8"):
        steps_per_epoch(64, TrainConfig(batch_size=16, batch_repeats=8), 3)
