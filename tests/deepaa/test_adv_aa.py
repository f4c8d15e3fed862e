"Adversarial AutoAugment: a controller, the copies of a batch, and a search that is `train`."

import itertools
import math
import warnings
from dataclasses import replace

import pytest
import torch
from small_search import SPACE as FOUR
from small_search import looked_at, same_state
from torch import nn

from effdl_nb.deepaa import adv_aa
from effdl_nb.deepaa.adv_aa import (
    ADV_AA_SIZES,
    ADVERSARY_OPERATIONS,
    AdvAA,
    AdvAAConfig,
    Adversary,
    AdversaryReplay,
    Controller,
    adversary_space,
    controller_objective,
    normalised_losses,
    token_policy,
)
from effdl_nb.deepaa.policy_file import load_policy, save_policy
from effdl_nb.deepaa.schedule import follow
from effdl_nb.deepaa.searching import SearchStateError
from effdl_nb.deepaa.space import Transform, cifar_space, imagenet_space
from effdl_nb.training import train

CIFAR = cifar_space()
SPACE = adversary_space(CIFAR)
TINY = AdvAAConfig(
    epochs=3,
    images=32,
    copies=2,
    batch_size=8,
    lr=0.05,
    update_every=3,
    controller_lr=5e-3,
    sub_policies=2,
    seed=5,
)
NORMAL = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def hooks(adversary):
    given = {"augment": adversary, "loss": adversary.loss, "progress": False}
    return given | {"on_step": adversary.on_step, "on_epoch": adversary.on_epoch}


@pytest.fixture(scope="module")
def whole():
    search = AdvAA(looked_at(), CIFAR, TINY)
    before = torch.get_rng_state()
    schedule = search.run(False)
    assert torch.equal(torch.get_rng_state(), before), "no draw from the global generator"
    return search, schedule


@pytest.mark.parametrize("reset", [False, True])
def test_log_p_is_the_sum_of_the_sampled_tokens(reset):
    controller = Controller(3, reset, seed=1)
    for p in controller.parameters():
        p.data *= 8  # away from uniform
    noted = []

    def choose(place, log_p):
        token = log_p.exp().multinomial(1, generator=generator)[:, 0]
        noted.append(log_p.gather(1, token[:, None])[:, 0])
        return token

    generator = seeded()
    with torch.no_grad():
        tokens, chosen, _ = controller(200, choose)
    log_p, entropy = controller.log_probabilities(tokens)
    assert torch.allclose(log_p, sum(noted), atol=1e-5)
    assert torch.allclose(chosen.sum(1), log_p, atol=1e-5)
    assert log_p.std() > 0.1 and log_p.requires_grad and entropy.requires_grad
    assert torch.equal(controller.sample(200, seeded()), tokens), "the same draws"
    assert abs(entropy.mean() + log_p.mean()) < 5 * log_p.std() / 200**0.5


@pytest.mark.parametrize("reset", [False, True])
def test_sub_policies_depend_on_each_other_unless_the_state_is_reset(reset):
    controller = Controller(2, reset, seed=1)
    for p in controller.parameters():
        p.data *= 12
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    tokens[1, :4] = torch.tensor([9, 8, 7, 6])
    laws = []

    def choose(place, log_p):
        laws.append(log_p.exp())
        return tokens[:, place]

    controller(2, choose)
    # of the second sub-policy's operation, after two different first sub-policies
    first, second = laws[4]
    assert torch.equal(first, second) == reset
    assert reset or (first - second).abs().sum() > 0.05


def outcomes():
    "Logits and hardness of four outcomes."
    logits = torch.tensor([0.3, -0.2, 0.8, 0.0], dtype=torch.float64, requires_grad=True)
    return logits, torch.tensor([1.0, 2.5, 0.5, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("copies", [2, 3])
def test_the_plain_estimate_is_the_gradient_of_the_expected_loss(copies):
    logits, hardness = outcomes()
    log_p, total = logits.log_softmax(0), 0.0
    for drawn in itertools.product(range(4), repeat=copies):
        rows = torch.tensor(drawn)
        chance = log_p.exp().detach()[rows].prod()
        total = total + chance * controller_objective(log_p[rows], hardness[rows])
    (mean,) = torch.autograd.grad(total, logits, retain_graph=True)
    (exact,) = torch.autograd.grad((log_p.exp() * hardness).sum(), logits)
    assert torch.allclose(mean, exact, atol=1e-12)


def test_with_two_copies_the_normalised_estimate_is_the_gradient_of_ranks():
    logits, hardness = outcomes()
    log_p, total = logits.log_softmax(0), 0.0
    for drawn in itertools.product(range(4), repeat=2):
        rows = torch.tensor(drawn)
        chance = log_p.exp().detach()[rows].prod()
        rewards = normalised_losses(hardness[rows])
        total = total + chance * controller_objective(log_p[rows], rewards)
    (mean,) = torch.autograd.grad(total, logits)
    p = logits.detach().softmax(0)
    assert torch.allclose(mean, p * ((hardness[:, None] - hardness).sign() @ p), atol=1e-4)


def test_equal_losses_move_nothing_and_make_no_nan():
    for losses in (torch.full((8,), 2.3), torch.zeros(8)):
        assert not normalised_losses(losses).any()
    spread = normalised_losses(torch.tensor([1.0, 2.0, 4.0]))
    assert abs(spread.mean()) < 1e-6 and abs(spread.std(correction=0) - 1) < 1e-4
    adversary = Adversary(replace(TINY, entropy=0.0), CIFAR)
    before = [p.clone() for p in adversary.controller.parameters()]
    adversary.on_step(None, 0, 0.0)
    adversary.sums = torch.ones(2, 2, dtype=torch.float64)
    adversary.on_epoch(None, 1)
    after = adversary.controller.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_entropy_alone_flattens_the_controller():
    adversary = Adversary(replace(TINY, entropy=1.0, controller_lr=0.05), CIFAR)
    for p in adversary.controller.parameters():
        p.data *= 10
    for epoch in range(25):
        adversary.on_step(None, epoch, float(epoch))
        adversary.sums = torch.ones(2, 2, dtype=torch.float64)
        adversary.calls = 0
        adversary.on_epoch(None, epoch + 1)
    entropies = [entropy for *_, entropy in adversary.windows]
    assert entropies[-1] > entropies[0] + 5, "of at most 20 nats"


def test_magnitudes_are_those_of_the_table():
    def shares(name, i):
        found = adv_aa._token_shares(ADVERSARY_OPERATIONS.index(name), i)
        return {(t.name, None if t.magnitude is None else round(t.magnitude, 6)): p
                for t, p in found.items()}  # fmt: skip

    assert shares("ShearX", 9) == {("ShearX", 0.3): 0.5, ("ShearX", -0.3): 0.5}
    assert shares("Rotate", 0) == {("Rotate", 0.0): 1.0}
    assert shares("Rotate", 3) == {("Rotate", 10.0): 0.5, ("Rotate", -10.0): 0.5}
    assert shares("TranslateY", 9) == {("TranslateY", 0.45): 0.5, ("TranslateY", -0.45): 0.5}
    assert shares("Solarize", 0) == {("Solarize", 0.0): 1.0}, "the strongest"
    assert shares("Posterize", 9) == {("Posterize", 8.0): 1.0}, "nothing"
    assert shares("Color", 0) == {("Color", 0.1): 1.0}
    assert shares("Cutout", 9) == {("Cutout", 0.2): 1.0}
    assert shares("Invert", 4) == {("Invert", None): 1.0}
    large = token_policy(torch.zeros(1, 4, dtype=torch.int64), adversary_space(imagenet_space()))
    assert [large.space[layer[0][0]].name for layer in large.choices[0]][:2] == ["Crop", "Flip"]
    assert large.layers == 4, "no Cutout on ImageNet"


def noisy_images(n):
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=seeded(3))


@pytest.mark.parametrize("together", [False, True])
def test_copies_share_crop_and_flip_and_nothing_else(together):
    adversary = Adversary(replace(TINY, copies=3, together=together), CIFAR)
    adversary.on_step(None, 0, 0.0)
    nothing = [ADVERSARY_OPERATIONS.index("Rotate"), 0, ADVERSARY_OPERATIONS.index("ShearX"), 0]
    tokens = torch.tensor([nothing * 2] * 3)
    adversary.policies = [token_policy(row, SPACE) for row in tokens]
    images = noisy_images(40)

    def copies(step):
        adversary.begin(step)
        if together:
            return adversary(images).unflatten(0, (3, 40))
        return torch.stack([adversary(images) for _ in range(3)])

    first, again, other = copies(0), copies(0), copies(1)
    assert torch.equal(first, again) and not torch.equal(first, other)
    # outside the copies' own Cutouts, the pixels are those of one crop and one flip
    hole = torch.tensor(SPACE.fill, dtype=torch.uint8)[:, None, None]
    free = [(copy != hole).any(1, keepdim=True) for copy in first]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = (free[a] & free[b]).expand_as(first[a])
        assert torch.equal(first[a][both], first[b][both]) and both.double().mean() > 0.4
        assert not torch.equal(free[a], free[b]), "a Cutout of its own"
    assert not torch.equal(first[0], images)


def test_a_wrong_number_of_copies_and_a_foreign_loss_raise():
    images = looked_at()
    adversary = Adversary(TINY, CIFAR)
    once = replace(TINY.training(), batch_repeats=1)
    given = (images.fit.images[:32], images.fit.labels[:32])
    with pytest.raises(ValueError, match="batch_repeats must be 2, not 1"):
        train(images.fresh_network(0), *given, once, **NORMAL, **hooks(adversary))
    adversary = Adversary(TINY, CIFAR)
    foreign = hooks(adversary) | {"loss": None}
    with pytest.raises(ValueError, match="loss must be the adversary's own"):
        train(images.fresh_network(0), *given, TINY.training(), **NORMAL, **foreign)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"copies": 1}, "copies must be at least 2, not 1"),
        ({"sub_policies": 0}, "sub_policies must be at least 1, not 0"),
        ({"lr_schedule": "flat"}, "lr_schedule 'flat' is unknown; allowed: cosine, step"),
        ({"entropy": -1.0}, "entropy must be a finite number from 0, not -1.0"),
        ({"update_every": 0}, "update_every must be at least 1, not 0"),
        ({"images": 0}, "images must be at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense_raise(changes, words):
    with pytest.raises(ValueError, match=words):
        AdvAAConfig(**changes)


def test_the_settings_name_the_training_and_the_presets_fit():
    steps = AdvAAConfig(lr_schedule="step").training()
    assert steps.milestones == (60, 120, 160) and steps.gamma == 0.2
    assert AdvAAConfig().training().batch_repeats == 8
    assert AdvAAConfig(together=True).training().batch_repeats == 1
    for changes in ADV_AA_SIZES.values():
        config = AdvAAConfig(**changes)
        assert 3 * config.epochs * config.images * config.copies <= 300_000


def test_the_search_is_one_call_of_train_with_the_hooks(whole):
    search, schedule = whole
    images, adversary = looked_at(), Adversary(TINY, CIFAR)
    network = images.fresh_network(TINY.seed)
    fit = search.fit
    train(network, fit.images, fit.labels, TINY.training(), **NORMAL, **hooks(adversary))
    assert same_state(network, search.model) and same_state(
        adversary.controller, search.adversary.controller
    )
    assert len(adversary.windows) == 3 * 2, "four steps an epoch: a window of three, one of one"
    assert search.forwards == 3 * 3 * 2 * 32 == schedule.provenance["forwards"]


def test_a_batch_is_no_larger_than_the_images():
    config = replace(TINY, images=None, batch_size=128, epochs=1)
    search = AdvAA(looked_at(), CIFAR, config)
    search.run(False)
    assert search.forwards == 3 * 2 * 36 and search.history[0]["losses"]
    with pytest.raises(ValueError, match="no batch of 128"):
        train(search.model, *vars(search.fit).values(), config.training(), progress=False)


def test_every_epoch_has_the_policies_of_its_windows(whole, tmp_path):
    search, schedule = whole
    assert schedule.firsts == [0, 1, 2] and schedule.provenance["method"].startswith("Adversarial")
    assert {len(part.choices) for _, part in schedule.segments} == {2 * 2 * 2}
    for epoch, part in schedule.segments:
        mine = [w[1] for w in search.adversary.windows if w[0] == epoch]
        assert part.choices == token_policy(torch.cat(mine), SPACE).choices
    assert [r["epoch"] for r in search.history] == [0, 1, 2]
    assert all(len(r["losses"]) == 2 for r in search.history)
    save_policy(schedule, tmp_path / "p.json")
    back = load_policy(tmp_path / "p.json", SPACE)
    assert repr(back) == repr(schedule)
    images = looked_at()
    given = (images.fresh_network(1), search.fit.images, search.fit.labels)
    plain = replace(TINY.training(), batch_repeats=1)
    more = {"augment": back, "on_step": follow(back, 3), "progress": False}
    assert math.isfinite(train(*given, plain, **NORMAL, **more).loss[-1])


def test_a_replay_gives_copy_m_the_policy_m(whole, tmp_path):
    search, schedule = whole
    save_policy(schedule, tmp_path / "p.json")
    replayed = AdversaryReplay(load_policy(tmp_path / "p.json"), seed=TINY.seed)
    windows = search.adversary.windows
    for step in range(12):
        replayed.on_step(None, step, step / 4)
        window = windows[2 * (step // 4) + (step % 4 >= 2)][1]
        for policy, row in zip(replayed.policies, window, strict=True):
            assert policy.choices == token_policy(row, SPACE).choices
        for _ in range(2):
            replayed(noisy_images(2))
    longer = AdversaryReplay(schedule, epochs=6)
    for epoch, place in ((0.0, (0, 0)), (1.5, (0, 1)), (2.0, (1, 0)), (5.9, (2, 1))):
        longer.on_step(None, 0, epoch)
        assert longer.place == place
    assert repr(longer) != repr(replayed) and repr(schedule) in repr(replayed)


@pytest.mark.parametrize("saved, lost", [(1, 0), (2, 1), (1, 2)])
def test_a_search_that_was_killed_ends_like_one_that_was_not(whole, tmp_path, saved, lost):
    run = {"state": tmp_path / "state", "save_every": 100}
    killed = AdvAA(looked_at(), CIFAR, TINY, **run)
    for _ in range(saved):
        killed.advance()
    killed.save()
    for _ in range(lost):
        killed.advance()
    resumed = AdvAA(looked_at(), CIFAR, TINY, **run)
    assert resumed.step == saved and len(resumed.history) == saved
    assert repr(resumed.run(False)) == repr(whole[1])
    assert resumed.history == whole[0].history and resumed.forwards == whole[0].forwards
    assert same_state(resumed.model, whole[0].model)
    assert same_state(resumed.adversary.controller, whole[0].adversary.controller)
    ended = AdvAA(looked_at(), CIFAR, TINY, **run)
    assert ended.stopped and repr(ended.policy()) == repr(whole[1])
    for other, words in ((replace(TINY, copies=3), "copies"), (replace(TINY, reset=True), "reset")):
        with pytest.raises(SearchStateError, match=words):
            AdvAA(looked_at(), CIFAR, other, **run)


class Killed(Exception):
    "The process ends here."


@pytest.mark.parametrize("moment", ["before the checkpoint", "within the epoch"])
def test_hooks_resume_with_the_checkpoint_of_train(tmp_path, moment):
    images = looked_at()
    given = (images.fit.images[:32], images.fit.labels[:32], TINY.training())

    def trained(kill=False, **more):
        adversary = Adversary(TINY, CIFAR, tmp_path / "adversary" if more else None)
        mine = hooks(adversary)

        def on_epoch(model, epoch):
            adversary.on_epoch(model, epoch)
            if kill and epoch == 2 and moment == "before the checkpoint":
                raise Killed

        def on_step(model, step, epoch):
            if kill and step == 10 and moment == "within the epoch":
                raise Killed
            adversary.on_step(model, step, epoch)

        network = images.fresh_network(0)
        try:
            more |= mine | {"on_epoch": on_epoch, "on_step": on_step}
            train(network, *given, **NORMAL, **more)
        except Killed:
            pass
        return network, adversary

    expected = trained()
    trained(kill=True, checkpoint=tmp_path / "c")
    network, adversary = trained(checkpoint=tmp_path / "c")
    assert same_state(network, expected[0]) and same_state(
        adversary.controller, expected[1].controller
    )
    assert [w[0] for w in adversary.windows] == [0, 0, 1, 1, 2, 2]
    for mine, theirs in zip(adversary.windows, expected[1].windows, strict=True):
        assert torch.equal(mine[1], theirs[1]) and torch.equal(mine[2], theirs[2])


def test_hooks_that_cannot_resume_say_so(tmp_path):
    adversary = Adversary(TINY, CIFAR, tmp_path / "none")
    with pytest.raises(SearchStateError, match="must hold the adversary after epoch 2, not"):
        adversary.on_step(None, 8, 2.0)
    with pytest.raises(ValueError, match="checkpoint_every must be None"):
        adversary.on_step(None, 9, 2.25)
    with pytest.raises(SearchStateError, match="delete the checkpoint to start again"):
        Adversary(TINY, CIFAR).on_step(None, 8, 2.0)


def test_copies_in_one_batch_are_told_from_copies_alone():
    images = looked_at()
    fit = (images.fit.images[:32], images.fit.labels[:32])
    networks = []
    for config in (TINY, replace(TINY, together=True)):
        adversary = Adversary(config, CIFAR)
        network = images.fresh_network(0)
        history = train(network, *fit, config.training(), **NORMAL, **hooks(adversary))
        losses = torch.stack([losses.mean() for _, _, losses, _ in adversary.windows])
        weights = torch.tensor([0.75, 0.25], dtype=torch.float64)
        assert abs((losses[:2] * weights).sum() - history.loss[0]) < 1e-5
        assert adversary.seen == 3 * 2 * 32
        networks.append(network)
    assert not same_state(*networks), "one batch of batch normalisation, or one for each copy"


class Thresholded(nn.Module):
    "A frozen network that is sure of dark images: darkness is what is hard for bright labels."

    def forward(self, x):
        bright = 4 * x.mean((1, 2, 3))
        return torch.stack([bright, -bright], 1)


@pytest.fixture(scope="module")
def attacked():
    "The adversary against a network that does not learn: bright images of class 0."
    config = replace(TINY, copies=8, update_every=1, controller_lr=1e-2)
    adversary, updates = Adversary(config, CIFAR), 120
    images = noisy_images(16) // 4 + 160
    with torch.no_grad(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for step in range(updates):
            adversary.on_step(None, step, step / updates)
            for _ in range(8):
                x = (adversary(images).float() / 255 - 0.5) / 0.25
                adversary.loss(Thresholded(), x, torch.zeros(16, dtype=torch.int64))
    return adversary, [str(warning.message) for warning in warned]


def test_against_a_frozen_network_the_controller_finds_what_is_hard(attacked):
    windows = attacked[0].windows
    curve = torch.stack([losses.mean() for _, _, losses, _ in windows])
    early, late = curve[:25], curve[-25:]
    error = (early.var() / 25 + late.var() / 25).sqrt()
    assert (late.mean() - early.mean()) / error > 6, "Welch's test"
    darkening = ("Invert", "Solarize", "Brightness")
    darker = torch.tensor([name in darkening for name in ADVERSARY_OPERATIONS])
    parts = [torch.stack([w[1] for w in part]) for part in (windows[:5], windows[-25:])]
    share = [darker[part[..., 0::2]].double().mean().item() for part in parts]
    assert share[1] > 2 * share[0], share


def test_a_controller_that_repeats_itself_is_reported_when_it_does(attacked):
    entropies = [entropy for *_, entropy in attacked[0].windows]
    crossings = sum(b < 0.1 * entropies[0] <= a for a, b in itertools.pairwise(entropies))
    assert 1 <= crossings == len(attacked[1]) < 10
    assert "entropy fell to" in attacked[1][0] and "a larger entropy=" in attacked[1][0]


def test_processes_share_the_copies_and_have_one_controller(monkeypatch):
    "Two ranks, one after the other in this process: what torchrun would run side by side."
    config = replace(TINY, copies=4, update_every=None)
    network, images = looked_at().fresh_network(0).eval(), noisy_images(6)

    def steps(adversary, calls):
        for step in range(3):
            adversary.on_step(None, step, step / 3)
            for _ in range(calls):
                x = (adversary(images).float() / 255 - 0.5) / 0.25
                adversary.loss(network, x, torch.arange(6) % 3)

    alone = Adversary(config, CIFAR)
    steps(alone, 4)
    alone.on_epoch(None, 1)
    ranks = [Adversary(config, CIFAR) for _ in range(2)]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank, adversary in enumerate(ranks):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        steps(adversary, 2)
        mine = [rank, rank + 2]
        assert adversary.sums[1].nonzero().flatten().tolist() == mine
    sums = [adversary.sums.clone() for adversary in ranks]
    for other, adversary in zip(sums[::-1], ranks, strict=True):
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda t, other=other: t.add_(other))
        adversary.on_epoch(None, 1)
        assert torch.allclose(adversary.windows[0][2], alone.windows[0][2], atol=1e-6)
        assert same_state(adversary.controller, ranks[0].controller)
    with pytest.raises(ValueError, match="batch_repeats must be 4, not 2"):
        ranks[0].calls = 1
        ranks[0].begin(3)


def test_the_space_keeps_the_constants_of_the_data():
    assert Transform("Cutout") in SPACE.transforms and len(SPACE) > 100
    small = adversary_space(FOUR)
    assert small.hash() == replace(SPACE, name="x").hash(), "only the data's constants are kept"
