"Faster AutoAugment: the penalty by hand, one range for both sides, a game that resumes, faults."

from dataclasses import replace

import pytest
import torch
from torch import nn

from effdl_nb.deepaa import relaxed
from effdl_nb.deepaa.faster_aa import (
    FASTER_AA_SIZES,
    FasterAA,
    FasterAAConfig,
    critic_gap,
    critic_losses,
    fresh_critic,
    gradient_penalty,
    shrunk,
)
from effdl_nb.deepaa.policy import identity_policy
from effdl_nb.deepaa.policy_file import load_policy, save_policy
from effdl_nb.deepaa.relaxed import RELAXED_OPERATIONS, relaxed_mixture
from effdl_nb.deepaa.searching import SearchFailed, SearchImages, SearchStateError
from effdl_nb.deepaa.space import cifar_space
from effdl_nb.networks import build
from effdl_nb.prepared import Split

CIFAR = cifar_space()
AT = {name: n for n, name in enumerate(RELAXED_OPERATIONS)}
TINY = FasterAAConfig(sub_policies=3, steps=5, batch_size=8, chunk=2, lr=3e-3)


def pictures(n, size, seed, classes=3) -> Split:
    "Smooth random images; the class shifts the colour."
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    labels = torch.arange(n) % classes
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    smooth = 0.15 + 0.5 * smooth + 0.2 * nn.functional.one_hot(labels, 3).view(n, 3, 1, 1)
    return Split((smooth * 255).to(torch.uint8), labels)


def small_network(classes, size):
    return build("small-convnet", classes, width=4, norm="none", image_size=size)


def searched(n=24, size=16, network=small_network) -> SearchImages:
    constants = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return SearchImages(pictures(n, size, 0), pictures(n, size, 1), *constants, 3, network)


def bits(search) -> dict:
    return {name: value.clone() for name, value in search.tensors().items()}


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"norm": "layer"}, "norm 'layer' is unknown; allowed: batch, instance, none"),
        ({"start": "hot"}, "start 'hot' is unknown; allowed: flat, uniform"),
        ({"penalty_norm": "l1"}, "penalty_norm 'l1' is unknown; allowed: image, pixel"),
        ({"released_range": "yes"}, "released_range 'yes' is unknown; allowed: False, True"),
        ({"sub_policies": 0}, "sub_policies must be at least 1, not 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, not 1"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"side": 0}, "side must be at least 1, not 0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"eta": 0.0}, "eta must be a finite number from 1e-09, not 0.0"),
        ({"temperature": -1.0}, "temperature must be a finite number"),
        ({"lr": float("nan")}, "lr must be a finite number from 0, not nan"),
        ({"penalty": -1.0}, "penalty must be a finite number from 0, not -1.0"),
        ({"class_weight": "much"}, "class_weight must be a finite number from 0, not much"),
    ],
)
def test_settings_that_make_no_sense_raise(wrong, words):
    with pytest.raises(ValueError, match=words):
        FasterAAConfig(**wrong)


def test_the_defaults_are_the_protocol_and_the_presets_are_settings():
    images = searched(n=4000 // 100)
    config = FasterAAConfig()
    assert (config.sub_policies, config.stages, config.epochs, config.batch_size) == (
        10,
        2,
        20,
        128,
    )
    assert config.epochs * (4000 // config.batch_size) == 620
    for preset in (FASTER_AA_SIZES["small"], FASTER_AA_SIZES["quick"]):
        assert FasterAAConfig(**preset).steps <= 300
    with pytest.raises(ValueError, match="batch_size must be at most .* not 128 for 40 images"):
        FasterAA(images, CIFAR, config)


@pytest.mark.parametrize("norm", ["image", "pixel"])
def test_the_penalty_of_a_linear_critic(norm):
    a = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    seen = gradient_penalty(lambda x: (a * x).sum((1, 2, 3)), points, norm)
    by_image, by_pixel = (a.norm() - 1) ** 2, ((a.norm(dim=0) - 1) ** 2).mean()
    assert torch.allclose(seen, by_image if norm == "image" else by_pixel)


def test_the_penalty_is_differentiable_in_the_critic():
    layer = nn.Linear(12, 1, bias=False).double()
    points = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    gradient_penalty(lambda x: layer(x.flatten(1))[:, 0], points).backward()
    w = layer.weight.detach()
    assert torch.allclose(layer.weight.grad, 2 * (w.norm() - 1) * w / w.norm())


def test_the_parts_of_the_loss():
    critic = fresh_critic(searched(), 0)
    x, y = torch.randn(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) % 3
    losses = critic_losses(critic, x, y, labels, torch.rand(6, 1, 1, 1))
    scores, logits = critic(x)
    assert torch.allclose(losses.distance, scores.mean() - critic(y)[0].mean())
    assert torch.allclose(losses.class_loss, nn.functional.cross_entropy(logits, labels))
    only_clean = critic_losses(critic, x, y, labels, torch.ones(6, 1, 1, 1)).penalty
    assert torch.allclose(only_clean, gradient_penalty(lambda v: critic(v)[0], x))


@pytest.mark.parametrize("released", [False, True])
def test_doing_nothing_leaves_range_and_moments_unless_released(released):
    search = FasterAA(searched(), CIFAR, replace(TINY, released_range=released))
    with torch.no_grad():
        search.relaxed.p.zero_()
        images = search.images.fit.images
        clean = search.images.inputs(images)
        augmented = search.seen(images, search.relaxed.draw(24, torch.Generator()))
    assert torch.allclose(clean, augmented, atol=1e-6) is not released
    if released:
        assert augmented.abs().max() <= 1 + 1e-6 < clean.abs().max(), "told by range alone"


def test_a_search_is_decided_by_its_seed_and_leaves_the_global_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = FasterAA(searched(), CIFAR, TINY)
    policy = first.run(False)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    second = FasterAA(searched(), CIFAR, TINY)
    assert second.run(False).body() == policy.body() and same(bits(first), bits(second))
    assert second.history == first.history
    other = FasterAA(searched(), CIFAR, replace(TINY, seed=1)).run(False)
    assert other.body() != policy.body()


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_an_interrupted_search_ends_like_an_uninterrupted_one(tmp_path, stop):
    run = {"state": tmp_path / "state", "save_every": 2}
    whole = FasterAA(searched(), CIFAR, TINY)
    expected = whole.run(False)
    interrupted = FasterAA(searched(), CIFAR, TINY, **run)
    for _ in range(stop):
        interrupted.advance()
    interrupted.save()
    resumed = FasterAA(searched(), CIFAR, TINY, **run)
    assert resumed.step == stop and same(bits(resumed), bits(interrupted))
    policy = resumed.run(False)
    assert policy.body() == expected.body() and same(bits(resumed), bits(whole))
    assert resumed.history == whole.history and resumed.forwards == whole.forwards
    with pytest.raises(SearchStateError, match="penalty_norm"):
        FasterAA(searched(), CIFAR, replace(TINY, penalty_norm="pixel"), **run)


def test_what_each_half_of_a_step_moves():
    from effdl_nb.deepaa import faster_aa

    search = FasterAA(searched(), CIFAR, TINY)
    batch = search.batch()

    def parts():
        tensors = bits(search)
        return [
            {k: v for k, v in tensors.items() if k.startswith(p)} for p in ("critic/", "policy/")
        ]

    start = parts()
    faster_aa._move_critic(search, batch)
    moved = parts()
    assert not same(start[0], moved[0]) and same(start[1], moved[1])
    faster_aa._move_policy(search, batch)
    ended = parts()
    assert same(moved[0], ended[0]) and not same(moved[1], ended[1])
    assert all(p.requires_grad for p in search.critic.parameters())


def test_halves_are_different_images_and_an_epoch_uses_none_twice():
    search = FasterAA(searched(), CIFAR, replace(TINY, steps=None, epochs=2))
    assert search.steps == 6 and search.per_epoch == 3
    search.before = lambda images, generator: images
    rows = []
    for search.step in range(3):
        batch = search.batch()
        rows += [*batch.clean.images.unbind(), *batch.others.images.unbind()]
        assert len(batch.clean) == len(batch.others) == 4
    assert len({image.numpy().tobytes() for image in rows}) == 24


def test_forward_passes_are_counted_as_gradients_cost_them():
    search = FasterAA(searched(), CIFAR, TINY)
    images = []
    search.critic.network.body.register_forward_hook(
        lambda module, inputs, output: images.append(len(inputs[0]))
    )
    search.advance()
    assert images == [4, 4, 4, 4], "clean, augmented, between, and the policy's"
    assert search.forwards == 18 * 4 == (3 + 3 + 9 + 3) * 4


def test_probabilities_and_strengths_stay_probabilities():
    search = FasterAA(searched(), CIFAR, replace(TINY, lr=0.7))
    search.run(False)
    for values in (search.relaxed.p, search.relaxed.mu):
        assert values.min() >= 0 and values.max() <= 1
    assert {0.0, 1.0} <= set(search.relaxed.p.unique().tolist()), "some were projected"
    search.policy()


def test_a_game_that_diverges_says_so():
    with pytest.raises(SearchFailed, match="the game diverged at step .*; take a smaller lr"):
        FasterAA(searched(), CIFAR, replace(TINY, lr=1e30, steps=20)).run(False)


def test_the_policy_holds_its_raw_numbers_and_can_be_kept(tmp_path):
    search = FasterAA(searched(), CIFAR, TINY, provenance={"dataset": "toy"})
    policy = search.run(False)
    origin = policy.provenance
    assert origin["method"] == "Faster AutoAugment" and origin["dataset"] == "toy"
    assert origin["before"] == ["Crop", "Flip"] and origin["forwards"] == 18 * 4 * 5
    assert origin["stopped"] == "all 5 steps done" and origin["config"]["steps"] == 5
    assert relaxed_mixture(origin["found"], CIFAR).body() == policy.body()
    save_policy(policy, tmp_path / "p.json")
    kept = load_policy(tmp_path / "p.json")
    assert kept.body() == policy.body() and kept.provenance["found"] == origin["found"]
    assert policy.layers == 5 and len(policy.choices) == 3


def test_images_are_averaged_down_and_the_padding_with_them():
    images = shrunk(searched(size=16), 8)
    block = searched(size=16).fit.images[0, 0, :2, :2].float().mean().round()
    assert images.fit.images.shape[-1] == 8 and images.fit.images[0, 0, 0, 0] == block
    assert shrunk(images, None) is images and shrunk(images, 8) is images
    with pytest.raises(ValueError, match="side must divide the images' 16 pixels, not 12"):
        shrunk(searched(size=16), 12)
    search = FasterAA(searched(), CIFAR, replace(TINY, side=8))
    assert search.before.space.pad == 2
    assert search.advance()["step"] == 0


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_other_norms_and_networks_play_too(norm):
    images = replace(searched(), network="small-convnet")
    assert FasterAA(images, CIFAR, replace(TINY, norm=norm, steps=2)).run(False)
    shaken = replace(searched(), network="shake-shake-26-2x4d")
    before = torch.get_rng_state()
    runs = [FasterAA(shaken, CIFAR, replace(TINY, steps=1)) for _ in range(2)]
    assert runs[0].run(False).body() == runs[1].run(False).body(), "a network that draws"
    assert torch.equal(before, torch.get_rng_state())


def test_doing_nothing_has_no_gap_and_ruin_has_a_large_one():
    images = searched(48)
    nothing = critic_gap(identity_policy(CIFAR), images, steps=10, batch_size=16)
    faint = critic_gap(lambda x, g: (x * 0.95).byte(), images, steps=40, batch_size=16)
    ruined = critic_gap(lambda x, g: torch.zeros_like(x), images, steps=40, batch_size=16)
    assert nothing == 0 < faint < 0.3 * ruined


def played(config, monkeypatch, blank) -> FasterAA:
    "A game of a few seconds, with one operation replaced by one that blanks the image."
    exact = relaxed.relaxed_operations

    def planted(images, mu, signs):
        every = exact(images, mu, signs).clone()
        every[AT[blank]] = 0 * images
        return every

    monkeypatch.setattr(relaxed, "relaxed_operations", planted)
    search = FasterAA(searched(64), CIFAR, config)
    search.run(False)
    return search


GAME = FasterAAConfig(sub_policies=4, stages=1, steps=150, batch_size=32, chunk=2, lr=5e-3)


def test_a_planted_operation_that_blanks_the_image_loses_its_weight(monkeypatch):
    search = played(GAME, monkeypatch, "AutoContrast")
    shares = (search.relaxed.weights() * search.relaxed.p).detach().mean((0, 1))
    assert shares[AT["AutoContrast"]] < 0.2 * shares.mean()


def test_the_classifier_alone_speaks_against_what_changes_the_class():
    from effdl_nb.deepaa import faster_aa

    labels = torch.arange(64) % 2
    noise = torch.randint(0, 80, (64, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    images = torch.where(labels.view(-1, 1, 1, 1) == 1, 255 - noise, noise).to(torch.uint8)
    split = Split(images, labels)  # Invert keeps the distribution and changes the class
    looked_at = SearchImages(split, split, (0.5,) * 3, (0.5,) * 3, 2, small_network)
    config = replace(GAME, sub_policies=1, temperature=0.5, lr=0.01)
    moved = {}
    for weight in (0.0, 0.1):
        search = FasterAA(looked_at, CIFAR, replace(config, class_weight=weight))
        nn.init.zeros_(search.critic.score[2].weight)  # a critic that sees no difference
        adam = torch.optim.Adam(search.critic.parameters(), lr=0.01)
        for _ in range(40):
            adam.zero_grad()
            logits = search.critic(looked_at.inputs(images))[1]
            nn.functional.cross_entropy(logits, labels).backward()
            adam.step()
        with torch.no_grad():
            search.relaxed.theta[..., AT["Invert"]] = 1.0
            search.relaxed.p.fill_(0.5)
        for search.step in range(10):
            faster_aa._move_policy(search, search.batch())
        moved[weight] = search.relaxed.p[0, 0, AT["Invert"]].item()
    assert moved[0.0] == 0.5 and moved[0.1] < 0.45
