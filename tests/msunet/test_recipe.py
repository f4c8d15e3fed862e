"Properties and faults of effdl_nb.msunet.recipe that its notebook does not show."

import dataclasses
import math

import pytest
import torch
from toys import TINY_MSUNET as TINY

from effdl_nb.msunet.recipe import (
    FirstStage,
    MSUNetSettings,
    SecondStage,
    color_jitter,
    random_erasing,
    released_augmentation,
    shrink,
)
from effdl_nb.settings import from_mapping


def changed(settings, stage1=(), stage2=(), **changes):
    "The settings with fields of their stages, or their own, replaced."
    stages = {
        "stage1": dataclasses.replace(settings.stage1, **dict(stage1)),
        "stage2": dataclasses.replace(settings.stage2, **dict(stage2)),
    }
    return dataclasses.replace(settings, **stages, **changes)


@pytest.mark.parametrize(
    "stage1, stage2, words",
    [
        ({}, {"lr": -1.0}, "stage 2.*lr"),
        ({}, {"schedule": "step", "milestones": (0.9, 0.5)}, "stage 2.*milestones"),
        ({"lr": math.inf}, {}, "stage 1.*lr"),
    ],
)
def test_a_stage_that_cannot_train_is_refused_before_the_first(stage1, stage2, words):
    with pytest.raises(ValueError, match=words):
        changed(TINY, stage1, stage2)


@pytest.mark.parametrize(
    "stage, field, value, message",
    [
        (FirstStage, "schedule", "linear", "'linear' is unknown; allowed: step, cosine"),
        (SecondStage, "schedule", "", "'' is unknown; allowed: step, cosine"),
        (FirstStage, "precision", "fp8", "'fp8' is unknown; allowed: fp32, bf16, fp16"),
        (FirstStage, "alpha_ramp", (0.5, 1.5), r"alpha_ramp must be .*, not \(0.5, 1.5\)"),
        (FirstStage, "alpha_ramp", (0.5,), "two fractions"),
        (FirstStage, "milestones", (300,), "milestones must be fractions .* not 300"),
        (SecondStage, "milestones", (-1,), "milestones must be fractions .* not -1"),
        (SecondStage, "prune_until", 1.5, "prune_until must be fractions .* not 1.5"),
        (FirstStage, "warmup", -0.1, "warmup must be fractions .* not -0.1"),
        (FirstStage, "epochs", 0, "epochs must be at least 1, not 0"),
        (SecondStage, "epochs", -1, "epochs must be a finite number from 0, not -1"),
        (SecondStage, "epochs", math.nan, "epochs must be a finite number from 0, not nan"),
        (FirstStage, "alpha", -1.0, "alpha must be a finite number from 0, not -1.0"),
    ],
)
def test_wrong_stages_are_named(stage, field, value, message):
    with pytest.raises(ValueError, match=message):
        stage(**{field: value})


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("augment", "", "allowed: released, crop-flip, none"),
        ("quantization", "float", "allowed: ternary, binary, none"),
        ("consistency", "on", "allowed: variant, off, mixup, thesis, cutmix, released"),
        ("pruning", True, "allowed: variant, off, full"),
        ("variant", "v4", "allowed: v0, v1, v2, v3"),
        ("recipe", "ours", "allowed: thesis, released"),
        ("width", 0.0, "width must be a number above 0, not 0.0"),
        ("stage2", SecondStage(epochs=0), "pruning must be .* without a second stage, not 'full'"),
    ],
)
def test_wrong_settings_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **{field: value})


def test_a_mapping_sets_single_fields_of_a_stage():
    settings = from_mapping(MSUNetSettings, "here", {"stage2": {"milestones": [0.5]}, "width": 0.5})
    assert settings == MSUNetSettings(width=0.5, stage2=SecondStage(milestones=(0.5,)))
    with pytest.raises(ValueError, match="here: stage1: 'rate' is unknown; allowed: epochs, lr"):
        from_mapping(MSUNetSettings, "here", {"stage1": {"rate": 1}})


def test_augmentations_follow_their_generator_and_draw_for_each_image():
    images = torch.randint(
        0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    ).expand(16, -1, -1, -1)
    for augment in (color_jitter, random_erasing, released_augmentation):
        first, second = (augment(images, torch.Generator().manual_seed(5)) for _ in range(2))
        assert (
            first.dtype == torch.uint8
            and first.shape == images.shape
            and torch.equal(first, second)
        )
        assert len({image.numpy().tobytes() for image in first}) > 4


def test_erasing_blackens_one_rectangle():
    white = torch.full((200, 3, 24, 32), 255, dtype=torch.uint8)
    out = random_erasing(white, torch.Generator().manual_seed(0), p=1.0)
    for image in out:
        black = image == 0
        assert torch.equal(black[0], black[1]) and black.any()
        rows, cols = black[0].any(1), black[0].any(0)
        assert black[0].sum() == rows.sum() * cols.sum()
    assert torch.equal(random_erasing(white, torch.Generator().manual_seed(0), p=0.0), white)


def test_images_that_have_no_such_blocks_are_named():
    with pytest.raises(ValueError, match="not 8 for images of 24x32"):
        shrink(torch.zeros(1, 3, 24, 32, dtype=torch.uint8), 8)
