"""First images, their labels, and networks that depend on their seed alone."""

import pytest
import torch

from effdl_nb.condensation.initial import (
    check_ipc,
    fresh_network,
    initial_images,
    members_of_classes,
    network_for,
    random_per_class,
    to_probabilities,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ipc", ["10", None, True, [1], 1.0, -1, 0])
def test_images_per_class_are_a_whole_number(ipc):
    with pytest.raises(ValueError, match="ipc must be a whole number from 1, not "):
        check_ipc(ipc)


def test_members_stand_in_order_and_leave_nothing_out():
    labels = torch.tensor([2, 0, 1, 2, 0, 2])
    members = members_of_classes(labels, 3)
    assert [m.tolist() for m in members] == [[1, 4], [2], [0, 3, 5]]


def test_a_class_gives_what_it_has(real):
    for choose in (
        lambda count: members_of_classes(real.labels, count),
        lambda count: random_per_class(real.labels, count, 1, generator()),
    ):
        with pytest.raises(ValueError, match="class 3 has 0 images, and one is needed"):
            choose(4)
    rare = torch.tensor([0, 1, 1, 1, 2, 2])
    index = random_per_class(rare, 3, 2, generator())
    assert rare[index].tolist() == [0, 1, 1, 2, 2]
    start, labels, _ = initial_images(real.images[:6], rare, 3, 2, "real", generator())
    assert labels.tolist() == [0, 1, 1, 2, 2] and torch.equal(start, real.images[index])
    noise, labels, _ = initial_images(real.images[:6], rare, 3, 2, "noise", generator())
    assert labels.tolist() == [0, 0, 1, 1, 2, 2] and len(noise) == 6  # it needs no real ones


def test_a_choice_is_without_repetition_and_class_by_class(real):
    index = random_per_class(real.labels, 3, 10, generator())
    assert sorted(index.tolist()) == list(range(30))
    assert real.labels[index].tolist() == [0] * 10 + [1] * 10 + [2] * 10
    again, other = (random_per_class(real.labels, 3, 10, generator(seed)) for seed in (0, 1))
    assert torch.equal(index, again) and not torch.equal(index, other)


def test_first_images_are_real_ones_or_noise(real):
    start, labels, index = initial_images(real.images, real.labels, 3, 2, "real", generator())
    assert torch.equal(start, real.images[index]) and labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(real.labels[index], labels)
    noise, same, chosen = initial_images(real.images, real.labels, 3, 2, "noise", generator())
    assert torch.equal(same, labels) and chosen == index  # drawn first, whatever the start
    assert noise.shape == start.shape and noise.dtype == start.dtype
    assert not torch.equal(noise, start) and noise.std() == pytest.approx(1, abs=0.1)


def test_probabilities():
    torch.testing.assert_close(
        to_probabilities(torch.tensor([[3.0, 0.25], [-1.0, 0.0]])),
        torch.tensor([[0.8, 0.2], [0.5, 0.5]]),
    )


def test_a_fresh_network_depends_on_its_seed_alone():
    shape, state = (3, 8, 8), torch.random.get_rng_state()
    a = fresh_network("convnet-2", 3, shape, 4, seed=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    b, c = (fresh_network("convnet-2", 3, shape, 4, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["classifier.weight"], c["classifier.weight"])


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 16, 16)])
def test_a_network_fits_the_images(shape):
    model = network_for("convnet-2", 5, shape, 4)
    assert model(torch.zeros(2, *shape)).shape == (2, 5)
    assert sum(p.numel() for p in network_for("convnet-2", 5, shape).parameters()) > sum(
        p.numel() for p in model.parameters()
    )


def test_a_network_that_there_is_not():
    for name in ("convnet-x", "mlp"):
        with pytest.raises(ValueError, match=f"{name}.*allowed"):
            network_for(name, 3, (3, 8, 8))
