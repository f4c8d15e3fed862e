"PBA: a population whose best member can be trained again, alone, to the bit."

import math
from dataclasses import replace

import pytest
import torch
from small_search import SPACE as FOUR
from small_search import looked_at, same_state
from torch import nn

from effdl_nb.deepaa import pba
from effdl_nb.deepaa.pba import (
    PBA,
    PBA_OPERATIONS,
    PBA_SIZES,
    PBAConfig,
    exploited,
    explored,
    lineage,
    pba_cost,
    read_pba_log,
    replay_lineage,
)
from effdl_nb.deepaa.policy_file import load_policy, save_policy
from effdl_nb.deepaa.schedule import shuffled_space
from effdl_nb.deepaa.searching import SearchFailed, SearchStateError
from effdl_nb.deepaa.space import CONTINUOUS_RANGES, WITHOUT_MAGNITUDE, cifar_space, imagenet_space

CIFAR = cifar_space()
TINY = PBAConfig(
    members=4,
    epochs=4,
    interval=1,
    train_images=30,
    validation_images=30,
    batch_size=15,
    resample=0.5,
    seed=3,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def best_of(search):
    accuracies = search.history[-1]["accuracy"]
    return search.population[accuracies.index(max(accuracies))].model


@pytest.fixture(scope="module")
def whole():
    search = PBA(looked_at(), CIFAR, TINY)
    before = torch.get_rng_state()
    schedule = search.run(False)
    assert torch.equal(torch.get_rng_state(), before), "no draw from the global generator"
    return search, schedule


def test_the_fifteen_operations_are_those_of_the_others():
    assert sorted(PBA_OPERATIONS) == sorted([*CONTINUOUS_RANGES, *WITHOUT_MAGNITUDE])


def test_the_defaults_are_the_papers_and_the_presets_fit():
    assert pba_cost(replace(PBAConfig(), validate_every=1)) == 185_292_800
    for changes in PBA_SIZES.values():
        assert pba_cost(PBAConfig(**changes)) < 1_000_000


@pytest.mark.parametrize("start", [(0, 0), (2, 8), (10, 9)])
def test_exploring_has_its_law(start):
    config, n = PBAConfig(), 40_000
    values = torch.tensor([start] * n)
    moved = explored(values, config, seeded())
    assert torch.equal(values, torch.tensor([start] * n)), "the donor's numbers stay"
    for column, top in enumerate((10, 9)):
        law = torch.full((top + 1,), 0.2 / (top + 1), dtype=torch.float64)
        for step in range(4):
            law[min(top, start[column] + step)] += 0.1
            law[max(0, start[column] - step)] += 0.1
        drawn = torch.bincount(moved[:, column], minlength=top + 1)
        statistic = ((drawn - n * law) ** 2 / (n * law)).sum().item()
        assert statistic < top + 5 * math.sqrt(2 * top)
        uniform = torch.full_like(law, n / (top + 1))
        assert ((drawn - uniform) ** 2 / uniform).sum() > top + 5 * math.sqrt(2 * top)
    p, m = (moved.double() - moved.double().mean(0)).T
    assert abs((p * m).mean() / (p.std() * m.std())) < 0.03, "each number has draws of its own"


def test_exploiting_takes_the_best_quarter():
    config = PBAConfig()
    accuracies = torch.randperm(16, generator=seeded()).double()
    ranks, seen = accuracies.tolist(), set()
    for n in range(200):
        pairs = exploited(accuracies, config, seeded(n))
        assert {ranks[target] for target, _ in pairs} == {0, 1, 2, 3} and len(pairs) == 4
        seen |= {ranks[donor] for _, donor in pairs}
    assert seen == {12, 13, 14, 15}, "each of the best, and nobody else"
    blind = replace(config, ranking="random")
    targets = {t for n in range(200) for t, _ in exploited(accuracies, blind, seeded(n))}
    assert targets == set(range(16)), "without selection anybody is overwritten"
    for n in range(200):
        pairs = exploited(accuracies, blind, seeded(n))
        assert not {t for t, _ in pairs} & {d for _, d in pairs}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"members": 1}, "members must be at least 2, not 1"),
        ({"share": 0.0}, "share must be above 0 and at most half of 16 members, not 0.0"),
        ({"share": 0.6}, "share must be above 0"),
        ({"members": 3, "share": 0.5}, "at most half of 3 members"),
        ({"resample": 1.5}, "resample must be in 0..1, not 1.5"),
        ({"ranking": "luck"}, "ranking 'luck' is unknown; allowed: accuracy, random"),
        ({"counts": (0.5, 0.4, 0.2)}, "counts must be three probabilities that sum to 1"),
        ({"lr": math.inf}, "lr must be a finite number"),
        ({"interval": 0}, "interval must be at least 1, not 0"),
        ({"validate_every": 0}, "validate_every must be at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense_raise(changes, words):
    with pytest.raises(ValueError, match=words):
        PBAConfig(**changes)


def test_a_move_copies_every_bit_and_leaves_the_donor(monkeypatch):
    search = PBA(looked_at(), CIFAR, TINY)
    moves, plain = [], pba._move

    def watched(self, accuracies):
        before = [
            {name: t.clone() for name, t in member.tensors().items()} for member in self.population
        ]
        numbers = self.values[-1].clone()
        pairs = plain(self, accuracies)
        moves.extend(pairs)
        for place, member in enumerate(self.population):
            source = before[dict(pairs).get(place, place)]
            mine = member.tensors()
            assert mine.keys() == source.keys() and any("momentum/" in name for name in mine)
            assert any("running_mean" in name for name in mine)
            assert all(torch.equal(t, source[name]) for name, t in mine.items())
            moved = not torch.equal(self.values[-1][place], numbers[place])
            assert moved == (place in dict(pairs)), "only the copy explores"
        return pairs

    monkeypatch.setattr(pba, "_move", watched)
    search.run(False)
    assert len(moves) == 3, "none after the last epoch"
    assert [record["copies"] for record in search.history] == [[list(pair)] for pair in moves] + [
        []
    ]


def test_donor_and_copy_share_no_memory():
    donor, copy = (pba.Member(looked_at(), TINY, place) for place in (0, 1))
    policy = pba.epoch_policy(torch.full((30, 2), 4), shuffled_space(CIFAR))
    pba.pba_epoch(donor, looked_at().fit, looked_at(), policy, TINY, 0, 0)
    copy.take(donor.tensors())
    places = [{t.data_ptr() for t in member.tensors().values()} for member in (donor, copy)]
    assert not places[0] & places[1]


def test_the_lineage_is_what_going_forwards_gives():
    generator, members, epochs = seeded(), 5, 12
    for _ in range(50):
        lives = [[] for _ in range(members)]
        copies = []
        for _ in range(epochs):
            for place, life in enumerate(lives):
                life.append(place)
            target, donor = torch.randperm(members, generator=generator)[:2].tolist()
            moving = torch.rand((), generator=generator) < 0.5
            copies.append([(target, donor)] if moving else [])
            if moving:
                lives[target] = list(lives[donor])
        assert all(lineage(copies, place) == life for place, life in enumerate(lives))


def test_training_along_the_lineage_gives_the_winner(whole, tmp_path):
    search, schedule = whole
    assert len(schedule.segments) > 1, "it has something to follow"
    save_policy(schedule, tmp_path / "p.json")
    again = load_policy(tmp_path / "p.json")
    assert same_state(replay_lineage(again, looked_at(), TINY), best_of(search))
    found = again.provenance["found"]
    assert found["segments"][0] == [0, [[name, 0, 0] for name in PBA_OPERATIONS * 2]]
    late = again.segments[-1]
    names = [[name, round(10 * p), round(10 * m)] for name, p, m in late[1].entries]
    assert found["segments"][-1] == [late[0], names]
    for planted in ({"places": [*found["places"][:-1], found["places"][-1] ^ 1]},):
        schedule_of = load_policy(tmp_path / "p.json")
        schedule_of.provenance["found"] = found | planted
        assert not same_state(replay_lineage(schedule_of, looked_at(), TINY), best_of(search))


def test_the_schedule_is_that_of_the_space_and_says_where_it_is_from(whole):
    search, schedule = whole
    origin = schedule.provenance
    assert origin["method"] == "PBA" and origin["forwards"] == search.forwards == pba_cost(TINY)
    assert origin["config"]["counts"] == [0.2, 0.3, 0.5] and schedule.epochs == 4
    assert schedule.space.hash() == shuffled_space(CIFAR).hash()
    assert [r["epoch"] for r in search.history] == [0, 1, 2, 3] and search.stopped
    large = PBA(looked_at(), imagenet_space(), replace(TINY, epochs=1)).run(False)
    names = [large.space[layer[0][0]].name for layer in large.at(0).choices[0]]
    assert names == ["Identity", "Identity", "Crop", "Flip"]


def test_measuring_more_often_changes_nothing_but_the_count():
    config = replace(TINY, interval=2)
    seldom, often = (PBA(looked_at(), CIFAR, replace(config, validate_every=n)) for n in (None, 1))
    assert repr(seldom.run(False)) == repr(often.run(False))
    assert often.forwards - seldom.forwards == 2 * 4 * 30
    assert often.forwards == pba_cost(often.config)


@pytest.mark.parametrize("saved, lost", [(1, 1), (2, 1), (0, 2), (3, 0)])
def test_a_search_that_was_killed_ends_like_one_that_was_not(whole, tmp_path, saved, lost):
    run = {"state": tmp_path / "state", "save_every": 100}
    killed = PBA(looked_at(), CIFAR, TINY, **run)
    for _ in range(saved):
        killed.advance()
    killed.save()
    for _ in range(lost):  # a move among them, and no save behind it
        killed.advance()
    resumed = PBA(looked_at(), CIFAR, TINY, **run)
    assert resumed.step == saved and len(resumed.history) == saved
    assert repr(resumed.run(False)) == repr(whole[1])
    assert resumed.history == whole[0].history and resumed.forwards == whole[0].forwards
    assert same_state(best_of(resumed), best_of(whole[0]))
    ended = PBA(looked_at(), CIFAR, TINY, **run)
    assert ended.stopped and repr(ended.policy()) == repr(whole[1])


def test_the_state_of_another_search_raises(tmp_path):
    run = {"state": tmp_path / "state"}
    PBA(looked_at(), CIFAR, TINY, **run).save()
    for other, words in ((replace(TINY, share=0.5), "share"), (replace(TINY, seed=4), "seed")):
        with pytest.raises(SearchStateError, match=words):
            PBA(looked_at(), CIFAR, other, **run)
    with pytest.raises(SearchStateError, match="space"):
        PBA(looked_at(), FOUR, TINY, **run)
    (tmp_path / "state").write_bytes((tmp_path / "state").read_bytes()[:-100])
    with pytest.raises(SearchStateError, match="not a whole search state"):
        PBA(looked_at(), CIFAR, TINY, **run)


def test_a_loss_that_is_not_finite_ends_the_search():
    with pytest.raises(SearchFailed, match="loss of member 0 is nan in epoch"):
        PBA(looked_at(Broken), CIFAR, TINY).run(False)


class Broken(nn.Module):
    "A network that divides zero by zero."

    def __init__(self, classes, size):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(classes))

    def forward(self, x):
        return self.scale * (x.mean((1, 2, 3))[:, None] * 0) / 0


class Health(nn.Module):
    "A network whose one weight says how little it was damaged."

    def __init__(self, classes, size):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def test_selection_shuns_what_destroys(monkeypatch):
    "All operations but Rotate destroy: training with them costs accuracy, plus noise."

    other = [n for n, name in enumerate(PBA_OPERATIONS * 2) if name != "Rotate"]

    def damage(self):
        harm = self.values[-1][:, other, 0].double().mean(1) / 10
        noise = torch.randn(
            len(harm), generator=pba.step_generator(self.config.seed, 50, self.step)
        )
        for place, member in enumerate(self.population):
            with torch.no_grad():
                member.model.weight -= harm[place] + 0.05 * noise[place]
        return [0.0]

    monkeypatch.setattr(pba, "_train_members", damage)
    monkeypatch.setattr(pba, "accuracy_of", lambda model, *_, **__: 50 + model.weight.item())
    config = PBAConfig(members=16, epochs=40, interval=1, train_images=3, validation_images=3)

    def mean_harm(seed, ranking):
        search = PBA(looked_at(Health), FOUR, replace(config, seed=seed, ranking=ranking))
        last = search.run(False).provenance["found"]["segments"][-1][1]
        harmful = [p for name, p, _ in last if name != "Rotate"]
        return sum(harmful) / len(harmful)

    better = [mean_harm(n, "accuracy") < mean_harm(n, "random") for n in range(8)]
    assert sum(better) == 8, "a sign test at 1 in 256"


def numbers(p, m):
    return [p, m] * 30


LINES = [
    ["7", "5", 3, 3, {"hp_policy": numbers(9, 9)}, {"hp_policy": numbers(9, 9)}],
    ["2", "4", 4, 5, {"lr": 0.1, "hp_policy": numbers(0, 0)}, {"hp_policy": numbers(2, 1)}],
    ["3", "2", 9, 8, {"hp_policy": numbers(2, 1)}, numbers(10, 9)],
]


def test_published_logs_are_read_by_the_donors_epochs(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("\n".join(map(str, LINES)) + "\n\n")
    schedule = read_pba_log(path, 20, CIFAR)
    assert schedule.firsts == [0, 5, 8] and schedule.epochs == 20
    assert schedule.provenance["updates"] == 2, "the older life in front is left out"
    assert [p.entries[0] for _, p in schedule.segments] == [
        ("Rotate", 0.0, 0.0),
        ("Rotate", 0.2, 0.1),
        ("Rotate", 1.0, 0.9),
    ]
    assert [name for name, _, _ in schedule.at(0).entries] == [*PBA_OPERATIONS * 2]
    ordered = [*range(10), 10, *range(4)]
    path.write_text(str([1, 0, 2, 2, numbers(0, 0), [v for p in ordered * 2 for v in (p, 3)]]))
    entries = read_pba_log(path, 4, CIFAR).at(3).entries
    assert [round(10 * p) for _, p, _ in entries] == ordered * 2
    assert entries[10] == ("ShearY", 1.0, 0.3) and entries[25][0] == "ShearY"
    path.write_text(str(LINES[1]).replace(" 5, {", " 0, {"))
    assert read_pba_log(path, 4, CIFAR).firsts == [0], "a copy before the first epoch"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "must have a line for each take-over"),
        ("__import__('os').system('touch executed')", "line 1 is no literal of Python"),
        ("[" * 10_000, "line 1 is no literal"),
        ("\x00", "line 1 is no literal"),
        ("[1, 2]", r"line 1 must be \[target, donor"),
        (str(LINES[1]) + "\n7", "line 2 must be"),
        (str(LINES[1]).replace(" 5, {", " -5, {"), "donor's epoch must be from 0, not -5"),
        (str(LINES[1]).replace(" 5, {", " '5', {"), "donor's epoch must be from 0, not '5'"),
        (str(LINES[1]).replace("hp_policy", "policy"), "hp_policy must be 60 whole numbers"),
        (str([*LINES[1][:4], numbers(0, 0), numbers(0, 10)]), "by turns in 0..10 and 0..9"),
        (str([*LINES[1][:4], numbers(0, 0), numbers(0.5, 1)]), "hp_policy must be"),
        (str([*LINES[1][:4], numbers(0, 0), numbers(True, 1)]), "hp_policy must be"),
        (str([*LINES[1][:4], numbers(0, 0), [0] * 58]), "hp_policy must be 60"),
        (str(LINES[1]).replace(" 5, {", " 20, {"), "stay below 20"),
        ("\n".join([str(LINES[1]), str(LINES[2]).replace(" 8, {", " 4, {")]), "must rise from 0"),
    ],
)
def test_logs_that_are_none_raise_and_execute_nothing(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.txt").write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read_pba_log(tmp_path / "log.txt", 20, CIFAR)
    assert "log.txt" in str(error.value) and not (tmp_path / "executed").exists()
    (tmp_path / "log.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match="log.txt"):
        read_pba_log(tmp_path / "log.txt", 20, CIFAR)
