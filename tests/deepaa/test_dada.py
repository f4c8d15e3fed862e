"DADA: the effect of a draw, a step, the search, and what the release does differently."

import pytest
import torch
import torch.nn.functional as F
from planted import NAMES, SPACE, brightness_task, planted
from small_search import Dead
from torch import nn

from effdl_nb.deepaa import dada, estimators, reward
from effdl_nb.deepaa.dada import DADA, DADA_RELEASED, DADA_SIZES, DADAConfig
from effdl_nb.deepaa.fast_aa import FIFTEEN_OPERATIONS
from effdl_nb.deepaa.policy_file import load_policy, save_policy
from effdl_nb.deepaa.searching import SearchFailed, SearchStateError

SHORT = {"operations": NAMES, "keep": 3, "batch_size": 32, "steps": 6, "lr": 0.02}
CONFIG = DADAConfig(**SHORT)


def smooth(classes=2, size=16) -> nn.Module:
    "A network without kinks, normalisation or buffers."
    torch.manual_seed(3)
    first, second = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 6, 3, stride=2)
    return nn.Sequential(
        first, nn.Softplus(), second, nn.Softplus(), nn.Flatten(), nn.Linear(54, classes)
    )


def double_backward(model, v, x, labels):
    "Each image's <v, grad L> and the pixel sum of its gradient, (2, N)."
    rows = []
    for image, label in zip(x.split(1), labels.split(1), strict=True):
        image = image.detach().clone().requires_grad_()
        loss = F.cross_entropy(model(image), label)
        weights = [model.get_parameter(name) for name in reward.weights_of(model)]
        grads = torch.autograd.grad(loss, weights, create_graph=True)
        effect = v @ torch.cat([part.flatten() for part in grads])
        rows.append([effect.detach(), torch.autograd.grad(effect, image)[0].sum()])
    return torch.tensor(rows, dtype=x.dtype).T


def test_the_effect_of_a_draw_is_one_number_in_three_ways():
    model = smooth().double()
    x = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    y = torch.arange(5) % 2
    v = dada.training_gradient(model, torch.randn_like(x), y)
    truth = double_backward(model, v, x, y)
    differences = dada.loss_differences(model, v, x, y)
    assert torch.allclose(reward.directional_derivatives(model, x, y, v), truth[0], rtol=1e-9)
    assert (
        (differences - truth).norm(dim=1) / truth.norm(dim=1) < torch.tensor([1e-3, 1e-2])
    ).all()
    whole = reward.batch_gradient(model, x, y)
    assert torch.allclose(dada.training_gradient(model, x, y), whole)


@pytest.mark.parametrize("training", [True, False])
def test_differences_leave_the_network_as_it_was_in_both_modes(training):
    model = planted().fresh_network(0).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.randn(8, 3, 16, 16), torch.arange(8) % 2
    v = dada.training_gradient(model, x, y)
    dada.loss_differences(model, v, x, y)
    assert model.training is training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_gradient_of_levels_is_the_convention_by_double_backward():
    search = DADA(planted(network=lambda classes, size: smooth()), SPACE, CONFIG)
    batch = dada._drawn_batch(search)
    search.advance()
    search.step = 0  # the validation images of that step again
    v, _ = dada._validation_gradient(search)
    xi = CONFIG.lr
    f, sums = -xi * double_backward(search.behind, v, batch.x, batch.labels).double()
    expected = torch.zeros_like(search.levels)
    for n, s in enumerate(batch.draw.index.tolist()):
        for k, name in enumerate(search.pairs[s]):
            if name != "Invert" and batch.draw.bits[n, s, k]:
                expected[s, k] += sums[n] / len(sums)
    assert torch.allclose(search.levels.grad, expected, rtol=0.05, atol=1e-3 * expected.abs().max())
    assert abs(search.history[0]["effect"] / f.mean().item() - 1) < 1e-3


def test_the_network_takes_the_step_that_is_looked_through():
    search = DADA(planted(), SPACE, CONFIG)
    search.advance()
    before = {name: value.clone() for name, value in search.network.state_dict().items()}
    search.advance()
    behind = search.behind.state_dict()
    assert all(torch.equal(before[name], behind[name]) for name in before)
    after = search.network.state_dict()
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_a_draw_for_all_images_is_one_draw():
    config = DADAConfig(**SHORT, draws="batch")
    search = DADA(planted(), SPACE, config)
    batch = dada._drawn_batch(search)
    assert len(batch.draw.index) == 1 and len(batch.x) == 32
    search.advance()
    s = int(batch.draw.index)
    others = [n for n in range(6) if n != s]
    assert (search.p.grad[others] == 0).all() and (search.p.grad[s] != 0).all()
    each = DADA(planted(), SPACE, CONFIG)
    assert len(dada._drawn_batch(each).draw.index.unique()) == 6


def test_images_are_the_drawn_operations_at_their_levels():
    images = brightness_task(4, 0).images
    theta = estimators.rows_of((torch.zeros(6), torch.full((6, 2), 0.5)), 4)
    draw = estimators.draw_sub_policies(theta, torch.Generator().manual_seed(0))
    pairs = dada.operation_pairs(NAMES)
    inverting = draw._replace(
        index=torch.zeros(4, dtype=torch.int64), bits=torch.ones(4, 6, 2, dtype=torch.bool)
    )
    off = inverting._replace(bits=torch.zeros(4, 6, 2, dtype=torch.bool))
    plain = SPACE.__class__("plain", SPACE.transforms, cutout=1, pad=0)
    levels = torch.full((6, 2), 0.5)
    made = [
        dada.augmented_pairs(images, d, levels, pairs, plain, torch.Generator().manual_seed(1))
        for d in (inverting, off)
    ]
    different = (made[0] != 255 - made[1]).any(1).flatten(1).sum(1)
    assert (different <= 9).all(), "Invert and a shear of nothing, but for Cutout's pixels"
    bent = dada.augmented_pairs(
        images, inverting, levels + 0.4, pairs, plain, torch.Generator().manual_seed(1)
    )
    assert ((bent != made[0]).flatten(1).sum(1) > 50).all()


@pytest.mark.parametrize("changes", [{}, {"estimator": "reinforce"}, DADA_RELEASED])
@pytest.mark.parametrize("stop", [1, 4])
def test_an_interrupted_search_ends_like_an_uninterrupted_one(tmp_path, changes, stop):
    config = DADAConfig(**SHORT, **changes)
    state = torch.random.get_rng_state()
    whole = DADA(planted(), SPACE, config)
    policy = whole.run(False)
    run = {"state": tmp_path / "state", "save_every": 100}
    interrupted = DADA(planted(), SPACE, config, **run)
    for _ in range(stop):
        interrupted.advance()
    interrupted.save()
    resumed = DADA(planted(), SPACE, config, **run)
    assert resumed.step == stop and resumed.history == whole.history[:stop]
    again = resumed.run(False)
    assert again.provenance["found"] == policy.provenance["found"]
    assert resumed.history == whole.history and resumed.forwards == whole.forwards
    tensors = resumed.tensors()
    assert all(torch.equal(tensors[name], value) for name, value in whole.tensors().items())
    finished = DADA(planted(), SPACE, config, **run)
    assert (
        finished.stopped and finished.run(False).provenance["found"] == policy.provenance["found"]
    )
    assert torch.equal(torch.random.get_rng_state(), state)


def test_another_seed_or_setting_is_another_search(tmp_path):
    run = {"state": tmp_path / "state"}
    search = DADA(planted(), SPACE, CONFIG, **run)
    search.advance()
    search.save()
    for name, value in {"seed": 1, "lr": 0.03, "draws": "batch"}.items():
        with pytest.raises(SearchStateError, match=name):
            DADA(planted(), SPACE, DADAConfig(**{**SHORT, name: value}), **run)
    with pytest.raises(SearchStateError, match="train"):
        DADA(planted(seed=1), SPACE, CONFIG, **run)


@pytest.mark.parametrize("changes, each", [({}, 15), (DADA_RELEASED, 12)])
def test_a_step_costs_what_the_images_say(changes, each):
    search = DADA(planted(), SPACE, DADAConfig(**{**SHORT, "steps": 2}, **changes))
    search.run(False)
    assert search.forwards == 2 * each * 32


def test_the_release_looks_at_the_same_validation_images_in_every_step(monkeypatch):
    seen = {}
    for validation in ("fresh", "first"):
        config = DADAConfig(**{**SHORT, "validation": validation, "steps": 3})
        search = DADA(planted(), SPACE, config)
        batches = []
        original = reward.batch_gradient

        def spy(model, x, labels, batches=batches, original=original):
            batches.append(x.clone())
            return original(model, x, labels)

        monkeypatch.setattr(reward, "batch_gradient", spy)
        search.run(False)
        monkeypatch.setattr(reward, "batch_gradient", original)
        seen[validation] = batches
    assert all(torch.equal(x, seen["first"][0]) for x in seen["first"])
    assert not any(torch.equal(x, seen["fresh"][0]) for x in seen["fresh"][1:])


def test_the_released_estimator_counts_the_score_of_the_pair_for_every_bit():
    steps = {}
    for estimator in ("reinforce", "released"):
        config = DADAConfig(**{**SHORT, "estimator": estimator, "steps": 1})
        search = DADA(planted(), SPACE, config)
        search.advance()
        steps[estimator] = search.omega.grad.clone()
    assert torch.allclose(steps["released"], 12 * steps["reinforce"], rtol=1e-6)


@pytest.mark.parametrize("estimator", ["relax", "reinforce"])
def test_a_pair_that_destroys_loses_its_weight_and_its_probability(estimator):
    more = {"steps": 50, "policy_lr": 0.02, "batch_size": 64, "estimator": estimator}
    search = DADA(planted(256), SPACE, DADAConfig(**{**SHORT, **more}))
    policy = search.run(False)
    inverting = [s for s, pair in enumerate(search.pairs) if "Invert" in pair]
    assert search.omega.softmax(0)[inverting].sum() < 0.45
    assert search.p[inverting, 0].mean() < 0.35
    assert search.p[[3, 4, 5]].mean() > 0.25, "the harmless ones stay"
    names = {name for sub in policy.provenance["found"] for name, _, _ in sub}
    assert "Invert" not in names


def test_the_learned_policy_trains_a_network_that_validates_better_than_the_start():
    gains = []
    for seed in range(3):
        losses = []
        for rate in (0.0, 0.05):
            more = {"steps": 25, "policy_lr": rate, "seed": seed}
            images = planted(128, seed)
            search = DADA(images, SPACE, DADAConfig(**{**SHORT, **more}))
            search.run(False)
            if rate == 0:
                assert (search.p == 0.5).all() and (search.omega == 0).all()
            with torch.no_grad():
                fresh = brightness_task(200, 100 + seed)
                logits = search.network.eval()(images.inputs(fresh.images))
            losses.append(F.cross_entropy(logits, fresh.labels).item())
        gains.append(losses[0] - losses[1])
    assert sum(gains) > 0 and sum(gain > 0 for gain in gains) >= 2, gains


def test_the_policy_keeps_the_heaviest_pairs_or_all_with_their_weights(tmp_path):
    config = DADAConfig(**SHORT, policy_lr=0.1)
    search = DADA(planted(), SPACE, config)
    policy = search.run(False)
    pi = search.omega.detach().softmax(0)
    order = pi.argsort(descending=True)[:3].tolist()
    names = [tuple(entry[0] for entry in sub) for sub in policy.provenance["found"]]
    assert names == [search.pairs[s] for s in order]
    assert policy.weights == [1 / 3] * 3 and policy.provenance["weights"] == sorted(
        policy.provenance["weights"], reverse=True
    )
    operations = [t.name for t in policy.space.transforms]
    first = [[operations[n] for n, _ in layer] for layer in policy.choices[0]]
    assert first[:2] == [["Crop"], ["Flip"]] and first[-1] == ["Cutout"]
    every = DADA(planted(), SPACE, DADAConfig(**{**SHORT, "keep": None}, policy_lr=0.1))
    mixture = every.run(False)
    assert len(mixture.choices) == 6
    assert sorted(mixture.weights, reverse=True) == pytest.approx(
        every.omega.detach().softmax(0).sort(descending=True).values.tolist()
    )
    save_policy(mixture, tmp_path / "policy.json")
    again = load_policy(tmp_path / "policy.json")
    assert again.weights == mixture.weights and again.provenance["method"] == "DADA"


def test_a_dead_network_and_a_diverging_one_say_so():
    class Two(Dead):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

    with pytest.raises(SearchFailed, match="norm of v 0 at step 0"):
        DADA(planted(network=lambda classes, size: Two()), SPACE, CONFIG).run(False)
    wild = DADAConfig(**{**SHORT, "lr": 1e30, "last_lr": 1e30})
    with pytest.raises(SearchFailed, match="try a smaller lr"):
        DADA(planted(network=lambda classes, size: smooth()), SPACE, wild).run(False)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"estimator": "score"}, "estimator 'score' is unknown; allowed: relax, reinforce"),
        ({"draws": None}, "draws None is unknown"),
        ({"derivative": "exact"}, "derivative 'exact' is unknown; allowed: forward, finite"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"lr": float("nan")}, "lr must be a finite number from 0, not nan"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0"),
        ({"keep": 0}, r"keep must be 1..105 pairs, or None for all, not 0"),
        ({"operations": ("Rotate",)}, "operations must be at least 2 different ones"),
        ({"operations": ("Rotate", "Rotate")}, "operations must be at least 2 different ones"),
        ({"operations": ("Rotate", "Blur")}, r"operations \['Blur'\] are unknown; allowed: ShearX"),
    ],
)
def test_settings_say_what_they_may_be(changes, message):
    with pytest.raises(ValueError, match=message):
        DADAConfig(**changes)


def test_the_defaults_are_the_protocol_and_the_presets_change_them():
    config = DADAConfig()
    steps = config.epochs * -(-config.train_images // config.batch_size)
    assert steps == 320 and len(dada.operation_pairs(FIFTEEN_OPERATIONS)) == 105
    assert (
        DADAConfig(**DADA_SIZES["small"]).steps == 300
        and DADAConfig(**DADA_SIZES["quick"]).steps == 100
    )
    assert DADAConfig(**DADA_RELEASED).draws == "batch"
