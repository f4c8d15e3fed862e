"Objectives: doing nothing costs nothing, ruin is worst, schedules are followed, seeds decide."

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from effdl_nb.accuracy import accuracy_of
from effdl_nb.deepaa import objectives
from effdl_nb.deepaa.continuous import uniform_augment
from effdl_nb.deepaa.mixtures import policy_from_list
from effdl_nb.deepaa.objectives import (
    OBJECTIVES,
    OBJECTIVES_QUICK,
    ObjectivesConfig,
    density_loss,
    gradient_cosine,
    last_segment,
    objectives_cost,
    objectives_of,
    short_training,
    unseen_images,
)
from effdl_nb.deepaa.policy import Augmentation, deep_ta_policy, identity_policy, single_policy
from effdl_nb.deepaa.reward import DegenerateGradient
from effdl_nb.deepaa.searching import SearchData
from effdl_nb.deepaa.similarity import held_out_cosine
from effdl_nb.deepaa.space import cifar_space, space_of
from effdl_nb.networks import build
from effdl_nb.prepared import Split

CIFAR = cifar_space()
CONFIG = ObjectivesConfig(
    images=30,
    passes=1,
    pairs=3,
    validation_images=4,
    chains=5,
    critic_steps=12,
    critic_batch=12,
    train_images=30,
    epochs=4,
    batch_size=10,
    lr=0.05,
)
BLACK = single_policy(space_of("black", {"Brightness": [0.0]}), "Brightness")
NOTHING = identity_policy(CIFAR)


def small_network(classes, size):
    return build("small-convnet", classes, width=4, norm="none", image_size=size)


def unseen(n=66, size=16, classes=3) -> Split:
    "Noise whose colour is its class."
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    colour = 100 * nn.functional.one_hot(labels, 3).view(n, 3, 1, 1)
    noise = torch.randint(0, 100, (n, 3, size, size), generator=generator)
    return Split((noise + colour + 30).to(torch.uint8), labels)


@pytest.fixture(scope="module")
def measured() -> SearchData:
    "A network that was trained on other images of the same kind."
    split, other = unseen(), unseen(90)
    torch.manual_seed(0)
    model = small_network(3, 16)
    constants = ((0.4,) * 3, (0.25,) * 3)
    looked_at = SearchData(model, split, split, *constants)
    adam = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(12):
        adam.zero_grad()
        logits = model(looked_at.inputs(other.images[66:]))
        nn.functional.cross_entropy(logits, other.labels[66:]).backward()
        adam.step()
    return replace(looked_at, model=model.eval().requires_grad_(False))


@pytest.fixture(scope="module")
def images(measured):
    return unseen_images(measured, 3, small_network)


class Scheduled(Augmentation):
    "What counts of a schedule: epochs and at."

    def __init__(self, policies, epochs):
        self.policies = policies
        self.epochs = epochs
        self.asked = []

    def at(self, epoch, epochs=None):
        self.asked.append((epoch, epochs))
        share = epoch / (self.epochs if epochs is None else epochs)
        return self.policies[int(share * len(self.policies))]


@pytest.mark.parametrize("name", [f.name for f in fields(ObjectivesConfig) if f.name != "seed"])
def test_settings_that_make_no_sense_raise(name):
    with pytest.raises(ValueError, match=f"{name} must be .*, not -1"):
        ObjectivesConfig(**{name: -1})


def test_the_quick_settings_are_settings_and_every_objective_is_named():
    assert ObjectivesConfig(**OBJECTIVES_QUICK).pairs < ObjectivesConfig().pairs
    assert {o.methods for o in OBJECTIVES.values()} == {
        "Deep AutoAugment",
        "Fast AutoAugment",
        "Faster AutoAugment",
        "Adversarial AutoAugment",
        "PBA, DADA",
    }


def test_halves_share_no_image_and_are_balanced(measured, images):
    assert len(images.fit) + len(images.guide) == 66
    both = torch.cat([images.fit.images, images.guide.images]).flatten(1)
    assert len(both.unique(dim=0)) == 66
    for part in (images.fit, images.guide):
        assert part.labels.bincount().tolist() == [11, 11, 11]
        positions = [
            (measured.validation.images == x).flatten(1).all(1).nonzero() for x in part.images
        ]
        assert torch.equal(measured.validation.labels[torch.cat(positions)[:, 0]], part.labels)


def test_doing_nothing_has_the_plain_loss_no_gain_and_no_gap(measured, images):
    found = objectives_of(NOTHING, measured, images, CONFIG)
    guide = objectives._some(images.guide, CONFIG.images, CONFIG.seed)
    logits = measured.model(measured.inputs(guide.images))
    plain = nn.functional.cross_entropy(logits, guide.labels).item()
    assert found["density_loss"] == pytest.approx(plain, abs=1e-6)
    assert found["critic_gap"] == 0 and abs(found["cosine_gain"]) < 1e-5
    assert set(OBJECTIVES) <= set(found) and found["seconds"] > 0


def test_planted_ruin_is_the_worst(measured, images):
    policies = {"nothing": NOTHING, "DeepTA": deep_ta_policy(CIFAR), "black": BLACK}
    config = replace(CONFIG, epochs=25)
    found = {name: objectives_of(p, measured, images, config) for name, p in policies.items()}
    for key, worst in (("density_loss", max), ("critic_gap", max), ("validation_accuracy", min)):
        assert worst(found, key=lambda name, key=key: found[name][key]) == "black"
    assert min(found, key=lambda name: found[name]["density_loss"]) == "nothing"
    assert found["black"]["cosine_gain"] < -0.1
    assert found["black"]["training_loss"] == pytest.approx(math.log(3), abs=0.1)


def test_a_seed_decides_everything_and_the_global_state_is_left(measured, images):
    policy = deep_ta_policy(CIFAR, 2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = objectives_of(policy, measured, images, CONFIG)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second, third = (
        objectives_of(policy, measured, images, replace(CONFIG, seed=seed)) for seed in (0, 1)
    )
    assert all(first[key] == second[key] for key in OBJECTIVES)
    assert all(first[key] != third[key] for key in OBJECTIVES if key != "validation_accuracy")


@pytest.mark.parametrize("kind", ["layers", "sub-policies", "continuous"])
def test_every_kind_of_augmentation_can_be_judged(measured, images, kind):
    policy = {
        "layers": lambda: deep_ta_policy(CIFAR),
        "sub-policies": lambda: policy_from_list([[("Rotate", 0.5, 0.9)]], CIFAR, "dada"),
        "continuous": lambda: uniform_augment(CIFAR),
    }[kind]()
    assert policy.kind == kind
    found = objectives_of(policy, measured, images, CONFIG)
    assert all(torch.tensor(found[key]).isfinite() for key in OBJECTIVES)


def test_the_whole_cosine_is_the_one_by_layers(measured):
    policy = deep_ta_policy(CIFAR, 2)
    by_layers = held_out_cosine(measured, policy, 40, 4, 5)[-1]
    cosine, gain = gradient_cosine(policy, measured, replace(CONFIG, pairs=40))
    noise = (2 / 40) ** 0.5
    assert abs(cosine - by_layers["cosine"]) < 4 * noise * by_layers["deviation"]
    assert abs(gain - by_layers["improvement"]) < 4 * noise * by_layers["improvement_deviation"]
    with pytest.raises(ValueError, match="each v needs 41 validation images of its class"):
        gradient_cosine(policy, measured, replace(CONFIG, validation_images=40))


def test_a_pass_more_draws_anew(measured, images):
    policy = deep_ta_policy(CIFAR, 2)
    one, two = (
        density_loss(policy, measured, images.guide, replace(CONFIG, passes=n)) for n in (1, 2)
    )
    assert one != two and abs(one - two) < 0.5 * one
    again = density_loss(policy, measured, images.guide, CONFIG)
    assert again == one, "keyed: not drawn from a state"


def test_certain_networks_have_no_gradient(measured):
    certain = small_network(3, 16)
    nn.init.zeros_(certain.classifier.weight)
    with torch.no_grad():
        certain.classifier.bias.copy_(torch.tensor([1e4, 0.0, 0.0]))
    data = replace(measured, model=certain.eval())
    data = replace(data, validation=Split(unseen().images, torch.zeros(66, dtype=torch.int64)))
    with pytest.raises(DegenerateGradient, match="none of 3 pairs has a gradient"):
        gradient_cosine(NOTHING, data, CONFIG)


def test_a_frozen_network_judges_the_last_segment(measured, images):
    changing = Scheduled([NOTHING, BLACK], 8)
    assert last_segment(changing) is BLACK and last_segment(NOTHING) is NOTHING
    found, black = (objectives_of(p, measured, images, CONFIG) for p in (changing, BLACK))
    for key in ("cosine", "density_loss", "critic_gap"):
        assert found[key] == black[key]
    assert found["validation_accuracy"] >= black["validation_accuracy"]


def test_a_short_training_follows_the_epochs_of_a_schedule(images):
    constant = short_training(deep_ta_policy(CIFAR), images, CONFIG)
    assert short_training(Scheduled([deep_ta_policy(CIFAR)] * 3, 3), images, CONFIG) == constant
    changing, config = Scheduled([NOTHING, BLACK], 2), replace(CONFIG, epochs=40)
    loss, _ = short_training(changing, images, config)
    steps = -(-len(images.fit) // CONFIG.batch_size)
    assert changing.asked == [(e, 40) for e in range(40) for _ in range(steps)]
    turned = short_training(Scheduled([BLACK, NOTHING], 2), images, config)
    assert turned[0] < loss - 0.5, "the last epoch's loss is of its own segment"


def test_a_schedule_of_the_package_is_one(measured, images):
    schedule = pytest.importorskip("effdl_nb.deepaa.schedule", reason="there is no schedule yet")
    dark = single_policy(CIFAR, "Brightness")
    changing = schedule.Schedule([(0, NOTHING), (3, dark)], 4)
    found, last = (objectives_of(p, measured, images, CONFIG) for p in (changing, dark))
    assert all(found[key] == last[key] for key in ("cosine", "density_loss", "critic_gap"))
    assert found["training_loss"] != last["training_loss"]


def test_accuracy_is_of_clean_images_that_were_not_trained_on(images):
    swapped = replace(images, guide=Split(images.guide.images, (images.guide.labels + 1) % 3))
    config = replace(CONFIG, epochs=25)
    loss, accuracy = short_training(NOTHING, images, config)
    assert accuracy > 90 and loss < 0.3
    assert short_training(NOTHING, swapped, config)[1] < 10
    network = images.fresh_network(0)
    constants = {"mean": images.mean, "std": images.std}
    assert accuracy > accuracy_of(network, images.guide.images, images.guide.labels, **constants)


def test_forward_passes_are_those_of_the_formula(measured, images):
    counted = []

    def hooked(model):
        model.body[0].register_forward_hook(
            lambda module, inputs, output: counted.append(len(inputs[0]))
        )
        return model

    torch.manual_seed(0)
    looked_at = replace(measured, model=hooked(small_network(3, 16)).eval())
    fresh = replace(images, network=lambda classes, size: hooked(small_network(classes, size)))
    found = objectives_of(NOTHING, looked_at, fresh, CONFIG)
    critic = CONFIG.critic_steps * (CONFIG.critic_batch // 2)
    pairs = CONFIG.pairs * (CONFIG.validation_images + 1 + CONFIG.chains)
    trained, judging = CONFIG.epochs * 30, 30
    assert sum(counted) == pairs + 3 * critic + trained + judging + 2 * judging + judging
    gradients = 2 * pairs + (15 - 3) * critic + 2 * trained
    assert found["forwards"] == sum(counted) + gradients
    assert objectives_cost(replace(CONFIG, images=10**6), images) == found["forwards"] + 4 * 3
