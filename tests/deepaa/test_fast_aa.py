"Fast AutoAugment: folds, the two scores, the two samplers, and the search."

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import NAMES, SPACE, brightness_task, planted

from effdl_nb.deepaa import fast_aa
from effdl_nb.deepaa.fast_aa import (
    FAST_AA_RELEASED,
    FAST_AA_SIZES,
    FIFTEEN_OPERATIONS,
    FastAA,
    FastAAConfig,
)
from effdl_nb.deepaa.mixtures import policy_from_list, read_sub_policies
from effdl_nb.deepaa.policy import identity_policy
from effdl_nb.deepaa.policy_file import load_policy, save_policy
from effdl_nb.deepaa.searching import SearchStateError, step_generator
from effdl_nb.optimization import TrainConfig
from effdl_nb.prepared import Split
from effdl_nb.training import train

SHORT = {"images": 160, "folds": 2, "rounds": 2, "trials": 5, "keep": 2, "passes": 2}
SHORT |= {"epochs": 2, "batch_size": 32, "warmup_epochs": 0.0, "lr": 0.02, "startup": 2}
SHORT |= {"sub_policies": 2, "operations": NAMES, "judge_images": 30}
CONFIG = FastAAConfig(**SHORT)


@pytest.fixture(scope="module")
def network():
    "A network that tells dark from bright."
    images = planted(256)
    model = images.fresh_network(0)
    recipe = TrainConfig(epochs=5, batch_size=32, lr=0.02)
    run = {"mean": images.mean, "std": images.std, "progress": False}
    train(model, images.fit.images, images.fit.labels, recipe, **run)
    return model, images.inputs


def keys(*numbers):
    return [step_generator(0, 7, n) for n in numbers]


@pytest.mark.parametrize("counts", [(30, 30, 30), (40, 13, 7)])
def test_folds_are_disjoint_whole_and_balanced(counts):
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    images = torch.arange(len(labels)).view(-1, 1, 1, 1)
    everything = Split(images, labels)
    folds = [fast_aa.fold_of(everything, 0.6, step_generator(0, 1, n)) for n in range(2)]
    for match, judge in folds:
        both = torch.cat([match.images, judge.images]).flatten()
        assert torch.equal(both.sort().values, images.flatten())
        assert len(match) == round(0.6 * len(labels))
        for k, n in enumerate(counts):
            assert abs((match.labels == k).sum() - 0.6 * n) <= 1
        assert torch.equal(labels[match.images.flatten()], match.labels)
    shared = set(folds[0].match.images.flatten().tolist())
    assert 0 < len(shared & set(folds[1].judge.images.flatten().tolist())) < len(folds[1].judge)
    order = fast_aa.evenly_shuffled(labels, step_generator(0, 1, 0))
    for size in range(1, len(labels)):
        for k, n in enumerate(counts):
            share = (labels[order[:size]] == k).sum()
            assert abs(share - size * n / len(labels)) < 2, "every beginning is balanced"


def test_a_fold_without_images_says_so():
    with pytest.raises(ValueError, match="share must leave images to both parts, not 0.1 of 4"):
        fast_aa.fold_of(brightness_task(4, 0), 0.1, torch.Generator())


def test_the_score_of_nothing_is_the_plain_loss_and_that_of_invert_is_ruin(network):
    model, inputs = network
    part = brightness_task(300, 9)
    with torch.no_grad():
        plain = F.cross_entropy(model(inputs(part.images)), part.labels).item()
    nothing = fast_aa.density_score(model, part, identity_policy(SPACE), inputs, keys(0, 1))
    assert nothing.loss == pytest.approx(plain, abs=1e-5)
    assert nothing.best_pass == nothing.accuracy > 0.95
    listed = [[["Invert", 1.0, 0.0], ["Rotate", 0.0, 0.5]]]
    inverted = policy_from_list(listed, SPACE, "fast_aa", defaults=False)
    ruin = fast_aa.density_score(model, part, inverted, inputs, keys(0, 1))
    assert ruin.loss > 5 * plain and ruin.best_pass < 0.2


def test_the_released_score_forgives_ruin_in_some_of_the_draws(network):
    model, inputs = network
    part = brightness_task(200, 9)
    listed = [[["Invert", 0.7, 0.0], ["Rotate", 0.0, 0.5]]]
    policy = policy_from_list(listed, SPACE, "fast_aa", defaults=False)
    score = fast_aa.density_score(model, part, policy, inputs, keys(*range(5)))
    assert score.accuracy < 0.45 and score.best_pass == pytest.approx(1 - 0.7**5, abs=0.1)
    passes = [fast_aa.density_score(model, part, policy, inputs, keys(n)) for n in range(5)]
    assert score.loss == pytest.approx(sum(each.loss for each in passes) / 5)
    assert score.best_pass >= max(each.best_pass for each in passes)


def test_on_the_same_trials_the_released_score_prefers_variety(network):
    model, inputs = network
    part = brightness_task(100, 9)
    shares = torch.linspace(0, 0.6, 13).tolist()
    losses, best = [], []
    for n, share in enumerate(shares):
        listed = [[["Invert", share, 0.5], ["ShearX", share, 1.0]]]
        policy = policy_from_list(listed, SPACE, "fast_aa", defaults=False)
        noisy = Split(part.images, part.labels.clone())
        noisy.labels[::3] = 1 - noisy.labels[::3]  # a third that only a ruined image gets right
        draws = keys(*range(5 * n, 5 * n + 5))
        score = fast_aa.density_score(model, noisy, policy, inputs, draws)
        losses.append(score.loss)
        best.append(score.best_pass)
    assert best[-1] > best[0] + 0.15, "varied draws get some pass right"
    assert losses[-1] > losses[0]


def test_the_same_draws_give_the_same_score_whatever_the_size_of_a_pass(network, monkeypatch):
    model, inputs = network
    part = brightness_task(90, 9)
    listed = [[["Rotate", 0.5, 0.9], ["ShearX", 0.5, 0.9]], [["Invert", 0.3, 0.0]] * 2]
    policy = policy_from_list(listed, SPACE, "fast_aa")
    first = fast_aa.density_score(model, part, policy, inputs, keys(1, 2))
    monkeypatch.setattr(fast_aa, "PASS_IMAGES", 7)
    again = fast_aa.density_score(model, part, policy, inputs, keys(1, 2))
    assert again.loss == pytest.approx(first.loss, abs=1e-6)
    assert again.best_pass == first.best_pass
    other = fast_aa.density_score(model, part, policy, inputs, keys(3, 4))
    assert other.loss != first.loss


def strength(entry):
    "How far a signed operation or one without a level is from doing nothing."
    name, p, level = entry
    return p if name == "Invert" else p * abs(2 * level - 1)


def stop_at(search, units):
    for _ in range(units):
        search.advance()
    search.save()


@pytest.mark.parametrize("stop", [1, 4, 8, 11, 12, 19])
def test_an_interrupted_search_ends_like_an_uninterrupted_one(tmp_path, stop, whole):
    run = {"state": tmp_path / "state", "save_every": 100}
    stop_at(FastAA(planted(100), SPACE, CONFIG, **run), stop)
    resumed = FastAA(planted(100), SPACE, CONFIG, **run)
    assert resumed.step == stop
    policy = resumed.run(False)
    assert resumed.history == whole.history and resumed.forwards == whole.forwards
    assert policy.provenance["found"] == whole.policy().provenance["found"]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["state"]


@pytest.fixture(scope="module")
def whole():
    states = (torch.random.get_rng_state(), np.random.get_state()[1].copy())
    search = FastAA(planted(100), SPACE, CONFIG)
    search.run(False)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    return search


def test_a_training_that_was_killed_resumes(tmp_path, monkeypatch, whole):
    def killed(*given, **options):
        def stop(model, epoch):
            if epoch == 2:
                raise KeyboardInterrupt

        return train(*given, **options, on_epoch=stop)

    monkeypatch.setattr(fast_aa, "train", killed)
    run = {"state": tmp_path / "state"}
    with pytest.raises(KeyboardInterrupt):
        FastAA(planted(100), SPACE, CONFIG, **run).advance()
    monkeypatch.setattr(fast_aa, "train", train)
    assert (tmp_path / "state.fold0").exists()
    again = FastAA(planted(100), SPACE, CONFIG, **run)
    assert again.advance() == whole.history[0]


def test_history_counts_and_what_is_kept(whole):
    assert whole.steps == len(whole.history) == 2 * (1 + 2 * 5)
    trained, judged = 96, 30
    assert whole.forwards == 2 * (3 * 2 * trained + judged + 2 * 5 * 2 * judged)
    kept = fast_aa.kept_trials(whole)
    assert len(kept) == 2 * 2 * 2
    for n, first in enumerate(kept[::2]):
        begin = (n // 2) * 11 + 1 + (n % 2) * 5
        values = sorted(record["value"] for record in whole.history[begin : begin + 5])
        assert [first["value"], kept[2 * n + 1]["value"]] == values[:2]
    policy = whole.policy()
    assert len(policy.choices) == len(policy.provenance["found"]) <= 16
    assert policy.provenance["method"] == "Fast AutoAugment"
    rounds = [whole.history[1 + r * 5 : 6 + r * 5] for r in range(2)]
    assert rounds[0][0]["listed"] != rounds[1][0]["listed"], "each round has draws of its own"


def test_the_policy_is_a_file_and_its_triples_can_be_read_back(whole, tmp_path):
    policy = whole.policy()
    save_policy(policy, tmp_path / "policy.json")
    again = load_policy(tmp_path / "policy.json")
    assert again.choices == policy.choices
    triples = again.provenance["found"]
    (tmp_path / "triples.txt").write_text(repr(triples))
    read = read_sub_policies(tmp_path / "triples.txt")
    assert policy_from_list(read, SPACE, "fast_aa").choices == policy.choices
    operations = [t.name for t in policy.space.transforms]
    last = [[operations[n] for n, _ in layer] for layer in policy.choices[0]][-3:]
    assert last == [["Crop"], ["Flip"], ["Cutout"]], "behind the policy, as released"


def test_repeated_pairs_of_names_are_dropped_within_a_trial_alone():
    trial = [[["Rotate", 0.1, 0.2], ["Invert", 0.3, 0.4]], [["Rotate", 0.5, 0.6]] * 2] * 2
    assert fast_aa.without_repeated_pairs(trial) == trial[:2]
    generator = step_generator(0, 0, 0)
    config = FastAAConfig()
    every = [fast_aa.random_trial(config, generator) for _ in range(100)]
    left = sum(len(fast_aa.without_repeated_pairs(each)) for each in every)
    assert sum(map(len, every)) == 500 and 485 <= left <= 499, "published: 493, 498, 497"


def test_random_trials_are_uniform():
    config = FastAAConfig(sub_policies=2000)
    listed = fast_aa.random_trial(config, step_generator(0, 0, 1))
    entries = [entry for sub in listed for entry in sub]
    counts = torch.tensor([sum(e[0] == name for e in entries) for name in FIFTEEN_OPERATIONS])
    expected = 4000 / 15
    assert ((counts - expected) ** 2 / expected).sum() < 36.1, "chi2 of 14 degrees, p = .001"
    numbers = torch.tensor([entry[1:] for entry in entries])
    assert (numbers.mean(0) - 0.5).abs().max() < 0.02 and numbers.min() >= 0 and numbers.max() < 1


def test_common_draws_are_the_same_for_all_trials_of_a_fold(monkeypatch):
    seen = {}
    for draws in ("trial", "common"):
        noise = []

        def spy(model, part, policy, inputs, generators, noise=noise):
            noise.append([torch.rand(2, generator=g).tolist() for g in generators])
            return fast_aa.DensityScore(0.5, 0.5, 0.5)

        monkeypatch.setattr(fast_aa, "density_score", spy)
        search = FastAA(planted(100), SPACE, FastAAConfig(**SHORT, draws=draws))
        search.run(False)
        seen[draws] = noise
    first, second = seen["common"][:10], seen["common"][10:]
    assert all(each == first[0] for each in first) and first[0][0] != first[0][1]
    assert all(each == second[0] for each in second) and second[0] != first[0]
    numbers = [number for each in seen["trial"] for pair in each for number in pair]
    assert len(set(numbers)) == len(numbers) == 2 * 10 * 2 * 2, "all keys are different"


def test_trials_in_parallel_are_proposed_before_the_first_of_them_is_told(monkeypatch):
    told = []
    original = fast_aa.TPEStudy.propose

    def spy(self, seed):
        told.append(self.told)
        return original(self, seed)

    monkeypatch.setattr(fast_aa.TPEStudy, "propose", spy)
    changes = {**SHORT, "folds": 1, "rounds": 1, "trials": 7}
    for parallel, expected in {1: [0, 1, 2, 3, 4, 5, 6], 3: [0, 0, 0, 3, 3, 3, 6]}.items():
        told.clear()
        FastAA(planted(100), SPACE, FastAAConfig(**changes, parallel=parallel)).run(False)
        assert told == expected


def test_a_study_is_a_function_of_what_it_was_told():
    config = FastAAConfig(sub_policies=2, startup=3)
    study, trials = fast_aa.TPEStudy(config), []
    for n in range(12):
        listed = study.propose(n)
        trials.append((listed, sum(p for sub in listed for _, p, _ in sub)))
        study.tell(trials[-1:])
    again = fast_aa.TPEStudy(config)
    again.tell(trials)
    assert again.propose(5) == study.propose(5) != study.propose(6)
    other = fast_aa.TPEStudy(config)
    other.tell([(listed, -value) for listed, value in trials])
    assert other.propose(5) != study.propose(5), "values matter"


def test_without_optuna_chance_works_and_tpe_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"effdl_nb\[search\].*sampler='random'"):
        FastAA(planted(100), SPACE, CONFIG)
    config = FastAAConfig(**{**SHORT, "folds": 1, "rounds": 1}, sampler="random")
    first, second = (FastAA(planted(100), SPACE, config).run(False) for _ in range(2))
    assert first.provenance["found"] == second.provenance["found"]


def test_tpe_beats_chance_on_images_that_no_trial_saw_and_avoids_what_destroys():
    means, strengths, inverts = {"tpe": [], "random": []}, {"tpe": [], "random": []}, []
    sizes = {"folds": 1, "rounds": 1, "trials": 40, "keep": 4, "startup": 10, "passes": 1}
    for seed in range(3):
        unseen = brightness_task(100, 50 + seed)
        for sampler in means:
            config = FastAAConfig(**{**SHORT, **sizes}, sampler=sampler, seed=seed)
            search = FastAA(planted(100, seed), SPACE, config)
            search.run(False)
            scores, entries = [], []
            for n, record in enumerate(fast_aa.kept_trials(search)):
                policy = policy_from_list(record["listed"], SPACE, "fast_aa")
                scored = (search.network, unseen, policy, search.images.inputs, keys(n))
                scores.append(fast_aa.density_score(*scored).loss)
                entries += [entry for sub in record["listed"] for entry in sub]
            means[sampler].append(sum(scores) / len(scores))
            strengths[sampler] += [strength(entry) for entry in entries]
            if sampler == "tpe":
                inverts += [entry[1] for entry in entries if entry[0] == "Invert"]
    assert sum(means["tpe"]) < sum(means["random"])
    uniform = (0.5 + 3 * 0.25) / 4  # mean strength of Invert and of three signed operations
    assert sum(strengths["tpe"]) / len(strengths["tpe"]) < uniform
    assert len(inverts) / len(strengths["tpe"]) < 0.25, "of four operations"


def test_another_setting_is_another_search(tmp_path):
    run = {"state": tmp_path / "state"}
    stop_at(FastAA(planted(100), SPACE, CONFIG, **run), 2)
    for name, value in {"seed": 1, "objective": "best_pass", "passes": 1}.items():
        with pytest.raises(SearchStateError, match=name):
            FastAA(planted(100), SPACE, FastAAConfig(**{**SHORT, name: value}), **run)


def test_the_value_is_what_the_objective_says():
    config = FastAAConfig(**{**SHORT, "folds": 1, "rounds": 1}, objective="best_pass")
    search = FastAA(planted(100), SPACE, config)
    search.run(False)
    assert all(r["value"] == 1 - r["best_pass"] for r in search.history[1:])
    assert {"training_loss", "clean_loss", "clean_accuracy"} <= set(search.history[0])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"objective": "accuracy"}, "objective 'accuracy' is unknown; allowed: loss, best_pass"),
        ({"sampler": "grid"}, "sampler 'grid' is unknown; allowed: tpe, random"),
        ({"draws": "image"}, "draws 'image' is unknown; allowed: trial, common"),
        ({"folds": 0}, "folds must be at least 1, not 0"),
        ({"trials": 2.5}, "trials must be a whole number, not 2.5"),
        ({"keep": 201}, "keep must be at most the trials of a search, not 201 of 200"),
        ({"share": 0.0}, "share must be between 0 and 1, not 0.0"),
        ({"share": "half"}, "share must be between 0 and 1, not half"),
        ({"judge_images": 0}, "judge_images must be at least 1, not 0"),
        ({"lr": float("inf")}, "lr must be a finite number from 0, not inf"),
        ({"operations": ()}, "operations must be at least 1 different ones"),
        ({"operations": ("Flip",)}, r"operations \['Flip'\] are unknown; allowed: ShearX"),
    ],
)
def test_settings_say_what_they_may_be(changes, message):
    with pytest.raises(ValueError, match=message):
        FastAAConfig(**changes)


def test_the_defaults_are_the_protocol_and_the_presets_change_them():
    config = FastAAConfig()
    judged = round(config.images * (1 - config.share))
    scored = config.folds * config.rounds * config.trials * config.passes * judged
    assert scored == 16_000_000, "forward passes of density matching, section 1.4"
    assert config.folds * config.rounds * config.keep * config.sub_policies == 500
    assert FastAAConfig(**FAST_AA_SIZES["small"]).trials == 100
    assert FastAAConfig(**FAST_AA_SIZES["quick"]).trials == 50
    assert FastAAConfig(**FAST_AA_RELEASED).parallel == 80
