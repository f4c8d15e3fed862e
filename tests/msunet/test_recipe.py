"""Properties and faults of effdl_nb.msunet.recipe that its notebook does not show."""

import dataclasses
import math

import pytest
import torch

from effdl_nb.msunet import recipe
from effdl_nb.msunet.recipe import (
    STAGE1,
    MSUNetSettings,
    color_jitter,
    random_erasing,
    released_augmentation,
    shrink,
    stage_one,
    stage_one_record,
    stage_two,
    train_msunet,
)

TINY = MSUNetSettings(
    dataset="cifar10-sample",
    train_size=40,
    test_size=10,
    image_size=16,
    width=0.125,
    variant="v0",
    epochs=2,
    batch_size=10,
    schedule="cosine",
    alpha_ramp=(0.0, 0.5),
    stage2_epochs=2,
    stage2_lr=0.01,
    prune_until=0.5,
    pruning="full",
)


class Killed(RuntimeError):
    pass


def kill_at(monkeypatch, step: int, stage: int):
    "Let the given training of the recipe die before a step."
    train, calls = recipe.train, []

    def dying(*args, on_step=None, **kwargs):
        calls.append(1)
        if len(calls) != stage:
            return train(*args, on_step=on_step, **kwargs)

        def hook(model, at, epoch):
            if at == step:
                raise Killed
            if on_step is not None:
                on_step(model, at, epoch)

        return train(*args, on_step=hook, **kwargs)

    monkeypatch.setattr(recipe, "train", dying)


def same(a, b) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"stage2_lr": -1.0}, "stage 2.*lr"),
        ({"stage2_schedule": "step", "stage2_milestones": (0.9, 0.5)}, "stage 2.*milestones"),
        ({"stage2_epochs": math.nan}, "stage2_epochs"),
        ({"lr": math.inf}, "stage 1.*lr"),
    ],
)
def test_a_stage_that_cannot_train_is_refused_before_the_first(wrong, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(TINY, **wrong)


def test_under_torchrun_nobody_waits(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="WORLD_SIZE is 2; allowed: 1"):
        stage_one(TINY, 0, tmp_path)


def test_cuts_up_to_the_end_of_a_rounded_stage_reach_their_share(tmp_path):
    # 2.8 steps, which are 3
    s = dataclasses.replace(TINY, train_size=70, epochs=1, stage2_epochs=0.4, prune_until=1.0)
    model = train_msunet(s, 0, tmp_path).model
    layers = dict(model.named_modules())
    for name, share in recipe.targets_by_role(model, {"se": 0.9, "depthwise": 0.5}).items():
        weight = layers[name].weight
        assert int((weight == 0).sum()) == round(share * weight.numel()), name


@pytest.mark.parametrize(
    "stage, step, consistency", [(1, 5, "off"), (2, 3, "thesis"), (2, 6, "off")]
)
def test_an_interruption_leaves_no_trace_in_the_numbers(
    tmp_path, monkeypatch, stage, step, consistency
):
    settings = dataclasses.replace(TINY, consistency=consistency)
    whole = train_msunet(settings, 3, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, step, stage)
        with pytest.raises(Killed):
            train_msunet(settings, 3, tmp_path / "parts")
    resumed = train_msunet(settings, 3, tmp_path / "parts")
    assert (
        same(resumed.model, whole.model)
        and resumed.loss == whole.loss
        and resumed.accuracy == whole.accuracy
    )
    assert not list((tmp_path / "parts").glob("*.checkpoint"))


def test_stage_1_is_trained_once_for_all_that_share_it(tmp_path, monkeypatch):
    trained = []
    train = recipe.train
    monkeypatch.setattr(
        recipe,
        "train",
        lambda *args, **kwargs: (
            trained.append(kwargs["checkpoint"].name[:6]) or train(*args, **kwargs)
        ),
    )
    for pruning in ("off", "full"):
        train_msunet(dataclasses.replace(TINY, pruning=pruning), 0, tmp_path)
    assert sorted(trained) == ["stage1", "stage2", "stage2"]
    train_msunet(dataclasses.replace(TINY, alpha=0.5), 0, tmp_path)
    assert trained.count("stage1") == 2, "another threshold is another stage 1"


def test_the_name_of_stage_1_holds_everything_that_shapes_it():
    later = {
        "stage2_epochs",
        "stage2_lr",
        "stage2_schedule",
        "stage2_milestones",
        "stage2_precision",
        "prune_until",
    }
    # through the expansions and the form of the regularizer
    resolved = {"variant", "consistency", "pruning"}
    assert {f.name for f in dataclasses.fields(MSUNetSettings)} == set(STAGE1) | later | resolved
    v2, v3 = (stage_one_record(MSUNetSettings(variant=v), 0) for v in ("v2", "v3"))
    assert v2 != v3 and v2 == stage_one_record(MSUNetSettings(variant="v1"), 0)
    assert stage_one_record(MSUNetSettings(variant="v0", consistency="released"), 0) == v2


def test_a_damaged_stage_1_is_named(tmp_path):
    stage_one(TINY, 0, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    for content in (path.read_bytes()[:200], b"", b"not a file of tensors"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path.name} is not a whole stage 1.*delete it"):
            stage_one(TINY, 0, tmp_path)


def test_training_does_not_touch_the_global_random_state_and_does_not_depend_on_it(tmp_path):
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(train_msunet(TINY, 0, tmp_path / str(seed)))
        assert torch.equal(torch.get_rng_state(), state)
    assert same(results[0].model, results[1].model)


def test_no_stage_2_means_nothing_is_pruned_and_signs_are_frozen(tmp_path):
    settings = dataclasses.replace(TINY, stage2_epochs=0, variant="v3", pruning="variant")
    trained = train_msunet(settings, 0, tmp_path)
    assert trained.steps[1] == 0 and len(trained.loss) == 2
    roles = trained.model.layer_roles()
    assert all(
        (module.weight != 0).any()
        for name, module in trained.model.named_modules()
        if roles.get(name) in ("se", "depthwise")
    )
    assert recipe.switches(settings).sparse_se == 0 and recipe.switches(settings).precision == 16


def test_masks_are_renewed_a_hundred_times_along_the_ramp_and_not_after():
    class Spy:
        def __init__(self):
            self.updates = []

        def update(self, epoch):
            self.updates.append(epoch)

        def apply(self):
            pass

    for ramp, renewals in ((500, 101), (100, 101), (30, 31), (0, 1)):
        spy = Spy()
        for step in range(1000):
            recipe._prune(spy, ramp, None, step, step / 500)
        assert (
            len(spy.updates) == renewals and spy.updates[0] == 0 and spy.updates[-1] == ramp / 500
        )


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("schedule", "linear", "allowed are step, cosine"),
        ("stage2_schedule", "", "allowed are step, cosine"),
        ("precision", "fp8", "allowed are fp32, bf16, fp16"),
        ("augment", "", "allowed are released, crop-flip, none"),
        ("quantization", "float", "allowed are ternary, binary, none"),
        ("consistency", "on", "allowed are variant, off, mixup, thesis, cutmix, released"),
        ("pruning", True, "allowed are variant, off, full"),
        ("variant", "v4", "allowed are v0, v1, v2, v3"),
        ("recipe", "ours", "allowed are thesis, released"),
        ("alpha_ramp", (0.5, 1.5), r"alpha_ramp is \(0.5, 1.5\)"),
        ("alpha_ramp", (0.5,), "two fractions"),
        ("milestones", (300,), "fractions of the training"),
        ("stage2_milestones", (-1,), "fractions of the training"),
        ("prune_until", 1.5, "prune_until is 1.5"),
        ("warmup", -0.1, "warmup is -0.1"),
        ("epochs", 0, "epochs is 0"),
        ("stage2_epochs", -1, "stage2_epochs -1"),
        ("stage2_epochs", 0, "pruning is 'full' and stage2_epochs 0"),
        ("width", 0.0, "width 0.0"),
        ("alpha", -1.0, "alpha -1.0"),
    ],
)
def test_wrong_settings_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **{field: value})


def test_unknown_data_sets_and_image_sizes_are_named(tmp_path):
    with pytest.raises(ValueError, match="cifar11"):
        stage_one(dataclasses.replace(TINY, dataset="cifar11"), 0, tmp_path)
    with pytest.raises(ValueError, match="image_size is 12; images of 32x32"):
        stage_one(dataclasses.replace(TINY, image_size=12), 0, tmp_path)
    with pytest.raises(ValueError, match="24x32"):
        shrink(torch.zeros(1, 3, 24, 32, dtype=torch.uint8), 8)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(tmp_path, precision):
    settings = dataclasses.replace(
        TINY,
        stage2_precision=precision,
        epochs=1,
        stage2_epochs=1,
        augment="none",
        variant="v3",
        pruning="variant",
    )
    assert all(math.isfinite(value) for value in train_msunet(settings, 0, tmp_path).loss)


def test_stage_2_leaves_a_float_network_trainable(tmp_path):
    settings = dataclasses.replace(TINY, quantization="none")
    model, _ = stage_one(settings, 0, tmp_path)
    before = model.head[0].weight.detach().clone()
    stage_two(model, settings, 0, tmp_path)
    assert not torch.equal(before, model.head[0].weight)


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
