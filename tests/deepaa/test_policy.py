"Policies: distributions that are checked, draws that repeat, and steps of a pipeline."

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from effdl_nb.deepaa.policy import (
    Augmented,
    Policy,
    deep_ta_policy,
    identity_policy,
    mirrored_policy,
    operation_probabilities,
    prefix_policy,
    single_policy,
    uniform_policy,
)
from effdl_nb.deepaa.published import trivial_augment_wide_policy
from effdl_nb.deepaa.space import SearchSpace, Transform, cifar_space, imagenet_space

SPACE = cifar_space()


def images(n=40):
    return torch.randint(
        0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def broken(**changes):
    row = torch.full((1, 139), 1 / 139)
    for place, value in changes.items():
        row[0, int(place[1:])] = value
    return row


@pytest.mark.parametrize(
    "probabilities, match",
    [
        (broken(n0=-0.1), "not negative"),
        (broken(n0=float("nan")), "finite"),
        (broken(n0=float("inf")), "finite"),
        (broken(n0=0.5), "sum to 1"),
        (torch.zeros(1, 139), "sum to 1"),
        (torch.full((1, 138), 1 / 138), "shape"),
        (torch.full((139,), 1 / 139), "shape"),
        (torch.zeros(0, 139), "shape"),
    ],
)
def test_what_is_not_a_distribution_raises(probabilities, match):
    with pytest.raises(ValueError, match=match):
        Policy(probabilities, SPACE)


def test_single_precision_rounding_is_repaired_and_double_is_kept():
    rough = Policy(torch.rand(3, 139).softmax(1), SPACE)
    assert (rough.probabilities.sum(1) - 1).abs().max() < 1e-14
    assert torch.equal(Policy(rough.probabilities, SPACE).probabilities, rough.probabilities)


def test_any_split_of_a_batch_gives_the_same_images():
    policy, batch = deep_ta_policy(SPACE, 3), images()
    whole, rng = policy(batch, seeded()), seeded()
    assert torch.equal(torch.cat([policy(part, rng) for part in batch.split([1, 7, 32])]), whole)


def test_a_draw_repeats_and_a_prefix_is_its_first_layers():
    policy, batch = deep_ta_policy(SPACE, 3), images()
    draw = policy.sample(len(batch), seeded(3))
    assert torch.equal(policy.apply(batch, draw), policy(batch, seeded(3)))
    assert draw.indices.shape == (40, 3) and draw.noise.shape == (40, 3, 2)
    with pytest.raises(ValueError, match="layers of a prefix must be 1..3, not 4"):
        prefix_policy(policy, 4)


def test_a_transform_of_probability_zero_is_never_drawn():
    row = torch.zeros(1, 139, dtype=torch.float64)
    row[0, [5, 77]] = 0.5
    assert set(Policy(row, SPACE).sample(5000, seeded()).indices.flatten().tolist()) == {5, 77}


def test_global_generator_is_used_only_when_none_is_given():
    policy = uniform_policy(SPACE)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    policy(images(), seeded())
    assert torch.equal(torch.get_rng_state(), state)
    policy(images())
    assert not torch.equal(torch.get_rng_state(), state)


def test_identity_and_empty_batches():
    assert torch.equal(identity_policy(SPACE, 2)(images(), seeded()), images())
    assert uniform_policy(SPACE)(images(0), seeded()).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    "batch, error",
    [
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), ValueError),
        (torch.zeros(2, 3, 32, 32), TypeError),
    ],
)
def test_a_policy_refuses_before_it_draws(batch, error):
    with pytest.raises(error):
        identity_policy(SPACE)(batch)


def test_baselines():
    assert deep_ta_policy(SPACE).probabilities[0, SPACE.indices("Flip")[0]].item() == pytest.approx(
        1 / 18
    )
    assert deep_ta_policy(SPACE).probabilities[
        0, SPACE.indices("Solarize")[4]
    ].item() == pytest.approx(1 / 216)
    wide = trivial_augment_wide_policy()
    assert [next(iter(layer)) for layer in operation_probabilities(wide)][1:] == [
        "Crop",
        "Flip",
        "Cutout",
    ]
    assert trivial_augment_wide_policy(defaults=False).layers == 1
    with pytest.raises(ValueError, match="operation 'Blur' is unknown"):
        single_policy(SPACE, "Blur")


def test_mirroring_needs_a_mirror_image():
    space = SearchSpace("one-sided", (Transform("Identity"), Transform("Rotate", 10.0)))
    with pytest.raises(ValueError, match="magnitudes of Rotate .* must hold"):
        mirrored_policy(uniform_policy(space))
    assert torch.allclose(
        mirrored_policy(deep_ta_policy(SPACE)).probabilities,
        deep_ta_policy(SPACE).probabilities,
        atol=1e-15,
    )


def test_draws_by_key_depend_on_seed_epoch_and_index_alone():
    policy = deep_ta_policy(SPACE, 3)
    whole = policy.sample_at(range(1000), seed=5, epoch=2)
    some = policy.sample_at([999, 3], seed=5, epoch=2)
    assert torch.equal(some.indices, whole.indices[[999, 3]]) and torch.equal(
        some.noise, whole.noise[[999, 3]]
    )
    assert policy.sample_at([], seed=0).indices.shape == (0, 3)
    other = [
        policy.sample_at(range(1000), seed=5, epoch=3),
        policy.sample_at(range(1000), seed=6, epoch=2),
    ]
    assert all((o.indices == whole.indices).all(1).float().mean() < 0.02 for o in other)
    counts = torch.bincount(
        policy.sample_at(range(20_000), seed=0).indices[:, 1], minlength=139
    ).double()
    expected = policy.probabilities[1] * 20_000
    assert ((counts - expected) ** 2 / expected).sum() < 197, (
        "chi-square with 138 degrees of freedom, above 197 once in 1,000"
    )


def test_what_was_drawn_can_be_read():
    policy = deep_ta_policy(SPACE, 2)
    draw = policy.sample(3, seeded())
    chains = policy.transforms(draw)
    assert [[SPACE.transforms.index(t) for t in chain] for chain in chains] == draw.indices.tolist()
    rng = seeded()
    assert [policy.draw_one(rng) for _ in range(3)] == [
        list(zip(chain, map(tuple, noise), strict=True))
        for chain, noise in zip(chains, draw.noise.tolist(), strict=True)
    ]


def test_a_pipeline_step_keeps_form_size_and_label():
    step, big = (
        deep_ta_policy(imagenet_space(), 2).as_transform(),
        images(1)[0].repeat(1, 6, 8),
    )
    picture = Image.fromarray(big.permute(1, 2, 0).contiguous().numpy())
    for seed in range(8):
        torch.manual_seed(seed)
        (first, label), _ = step(picture, 4), torch.manual_seed(seed)
        assert first.size == (256, 192) and label == 4
        assert np.array_equal(np.asarray(first), step(big).permute(1, 2, 0).numpy())
    for wrong in (big.float(), picture.convert("RGBA"), None, big[:1]):
        with pytest.raises((TypeError, ValueError)):
            step(wrong)
    for small in (big[:, :20], picture.resize((20, 30))):
        with pytest.warns(UserWarning, match="Cutout of 60 pixels can fill images of 20"):
            step(small)
    boxes = type("BoundingBoxes", (), {})()
    with pytest.raises(TypeError, match="BoundingBoxes"):
        step(picture, boxes)


def test_a_loaders_workers_do_not_matter():
    data = [(image, k) for k, image in enumerate(images(24))]
    wrapped = Augmented(data, deep_ta_policy(SPACE, 2), seed=1)

    def epoch(**arguments):
        found = list(DataLoader(wrapped, **arguments))
        return torch.cat([x for x, _ in found])[torch.cat([k for _, k in found]).argsort()]

    first = epoch(batch_size=24)
    assert torch.equal(epoch(batch_size=5, num_workers=2), first)
    loader = DataLoader(wrapped, batch_size=24, num_workers=1, persistent_workers=True)
    assert torch.equal(next(iter(loader))[0], first)
    wrapped.set_epoch(1)
    second = next(iter(loader))[0]
    assert torch.equal(second, epoch(batch_size=7)) and not torch.equal(second, first), (
        "a living worker sees the new epoch"
    )
    assert torch.equal(Augmented(images(24), deep_ta_policy(SPACE, 2), seed=1)[3], first[3]), (
        "items need not be pairs"
    )


def test_only_what_can_be_drawn_decides_whether_an_image_is_too_small():
    tiny = images(2)[:, :, :8, :8]
    picture = Image.fromarray(tiny[0].permute(1, 2, 0).contiguous().numpy())
    for policy in (trivial_augment_wide_policy(defaults=False), single_policy(SPACE, "Rotate")):
        policy(tiny)
        policy.as_transform()(picture)
    cutting = single_policy(SPACE, "Cutout")
    for image in (picture, tiny[0]):
        with pytest.warns(UserWarning, match="Cutout of 16 pixels can fill images of 8"):
            cutting.as_transform()(image)
