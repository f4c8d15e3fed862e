"Schedules: an exact mixture, a policy for every epoch, and files that nobody can bend."

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from effdl_nb.deepaa.mixtures import SubPolicies, policy_from_list
from effdl_nb.deepaa.policy import Augmented, identity_policy, single_policy
from effdl_nb.deepaa.policy_file import _checksum, load_policy, save_policy
from effdl_nb.deepaa.rivals import operation_sequences
from effdl_nb.deepaa.schedule import (
    COUNTS,
    BatchCopies,
    Schedule,
    ShuffledPolicy,
    augmentation_hash,
    follow,
    shuffled_policy,
    shuffled_space,
    shuffled_weights,
)
from effdl_nb.deepaa.space import cifar_space, imagenet_space
from effdl_nb.networks import build
from effdl_nb.optimization import TrainConfig
from effdl_nb.training import train

CIFAR = cifar_space()
SPACE = shuffled_space(CIFAR)
NAMES = ["Rotate", "Invert", "Solarize", "Cutout", "TranslateX", "Color"]
DEFAULTS = ("Crop", "Flip", "Cutout")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def entries(p, level=0.3):
    return [(NAMES[i % len(NAMES)], float(q), level) for i, q in enumerate(p)]


def epoch_of(p, level=0.3, **more):
    return ShuffledPolicy(entries(p, level), SPACE, behind=DEFAULTS, **more)


def images(n=8):
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=seeded())


def enumerated(p, counts):
    shares = {}
    orders = list(itertools.permutations(range(len(p))))
    for order, coins in itertools.product(orders, itertools.product((0, 1), repeat=len(p))):
        chance = math.prod(q if coin else 1 - q for q, coin in zip(p, coins, strict=True))
        if chance:
            fired = [i for i in order if coins[i]]
            for k, count in enumerate(counts):
                key = tuple(fired[:k])
                shares.setdefault(key, []).append(chance * count / len(orders))
    return {key: math.fsum(terms) for key, terms in shares.items()}


def as_mapping(weights):
    n = len(weights.single)
    pairs = {(i, j): weights.pair[i, j] for i, j in itertools.permutations(range(n), 2)}
    return {(): weights.nothing} | {(i,): weights.single[i] for i in range(n)} | pairs


@pytest.mark.parametrize(
    "p, counts",
    [
        ([0.3], COUNTS),
        ([1.0], (0.0, 0.0, 1.0)),
        ([0.0, 0.0, 0.0], COUNTS),
        ([1.0, 1.0, 1.0, 1.0], COUNTS),
        ([0.5, 1.0, 0.0], (0.1, 0.6, 0.3)),
        ([0.1, 0.9, 0.9, 0.5, 1.0, 0.3], COUNTS),
    ],
)
def test_weights_are_those_of_all_orders_and_coins(p, counts):
    formula, brute = as_mapping(shuffled_weights(p, counts)), enumerated(p, counts)
    assert all(abs(value - brute.get(key, 0.0)) < 1e-14 for key, value in formula.items())
    assert set(brute) <= set(formula)


def test_identities_of_the_mixture():
    p = np.random.default_rng(0).integers(0, 11, 30) / 10
    first = shuffled_weights(p, (0, 1, 0)).single
    alone = shuffled_weights(p, (0, 0, 1))
    assert first == pytest.approx(alone.single + alone.pair.sum(1), abs=1e-14), "F = S + sum A"
    weights = shuffled_weights(p)
    total = weights.nothing + weights.single.sum() + weights.pair.sum()
    assert total == pytest.approx(1, abs=1e-14)
    assert weights.pair == pytest.approx(weights.pair.T, abs=1e-17), "no order is preferred"


def chi_square(drawn, expected):
    "The statistic in standard deviations above its mean; rare ones are counted together."
    common = expected >= 5
    drawn = np.append(drawn[common], drawn[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    used = expected > 0
    statistic = ((drawn - expected)[used] ** 2 / expected[used]).sum()
    freedom = used.sum() - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


def test_simulated_and_drawn_sequences_have_the_weights():
    rng, total, n = np.random.default_rng(1), 200_000, 30
    p = rng.integers(0, 11, n) / 10
    weights = shuffled_weights(p)
    expected = np.zeros((n + 1, n + 1))
    expected[:n, :n], expected[:n, n], expected[n, n] = (
        weights.pair,
        weights.single,
        weights.nothing,
    )
    times = rng.random((total, n), dtype=np.float32)
    times[rng.random((total, n), dtype=np.float32) >= p] = 2.0
    order = np.argpartition(times, (0, 1), axis=1)[:, :2]
    found = np.where(np.take_along_axis(times, order, 1) < 2, order, n)
    count = rng.choice(3, total, p=COUNTS)
    found[count == 0, 0] = n
    found[count < 2, 1] = n
    simulated = np.zeros_like(expected)
    np.add.at(simulated, (found[:, 0], found[:, 1]), 1)
    assert abs(chi_square(simulated.ravel(), total * expected.ravel())) < 5
    wrong = expected.copy()
    wrong[:n, :n] *= 0.97
    wrong[n, n] += 0.03 * expected[:n, :n].sum()
    assert chi_square(simulated.ravel(), total * wrong.ravel()) > 5, "a planted error shows"
    names = [name for name in CIFAR.operations() if name not in ("Identity", "Flip", "Crop")]
    policy = shuffled_policy([(name, q, 0.0) for name, q in zip(names * 2, p, strict=True)], CIFAR)
    sequences = operation_sequences(policy)
    drawn = dict.fromkeys(sequences, 0)
    for chain in policy.transforms(policy.sample(20_000, seeded())):
        drawn[tuple(t.name for t in chain)] += 1
    law = [20_000 * sequences[key] for key in drawn]
    assert abs(chi_square(np.array(list(drawn.values()), float), np.array(law))) < 5


def test_a_shuffled_policy_draws_what_its_choices_draw():
    policy = epoch_of([0.5, 0.0, 1.0, 0.2, 0.9, 0.4] * 2)
    written = SubPolicies(policy.choices, SPACE, weights=policy.weights)
    for theirs, ours in zip(
        (written.sample(3000, seeded()), written.sample_at(range(99), 3, 5)),
        (policy.sample(3000, seeded()), policy.sample_at(range(99), 3, 5)),
        strict=True,
    ):
        assert torch.equal(theirs.indices, ours.indices) and torch.equal(theirs.noise, ours.noise)
    assert torch.equal(policy.probabilities, written.probabilities)


def test_all_probabilities_zero_is_crop_flip_and_cutout():
    start = epoch_of([0.0] * 30)
    chains = start.transforms(start.sample(500, seeded()))
    whole = {tuple((t.name, t.magnitude) for t in chain) for chain in chains}
    around = [(name, None) for name in DEFAULTS]
    assert whole == {(("Identity", None), ("Identity", None), *around)}
    resized = shuffled_policy(entries([0.0]), imagenet_space())
    assert [resized.space[layer[0][0]].name for layer in resized.choices[0]][2:] == ["Crop", "Flip"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"entries": []}, "sub-policy 0 must have"),
        ({"entries": [("Blur", 0.5, 0.5)]}, "'Blur' is unknown; allowed: ShearX"),
        ({"entries": [("Invert", 1.5, 0.5)]}, "must be in 0..1"),
        ({"entries": [("Invert", 0.5, 0.5)] * 101}, "entries must be at most 100, not 101"),
        ({"entries": [("Rotate", 0.5, 0.33)]}, r"must hold Rotate\(9.9\), Rotate\(-9.9\)"),
        ({"counts": (0.5, 0.5)}, "counts must be three probabilities that sum to 1"),
        ({"counts": (0.5, 0.6, 0.1)}, "counts must be three"),
        ({"counts": (1.5, -0.5, 0.0)}, "counts must be three"),
        ({"behind": ("Mirror",)}, "must hold Mirror"),
    ],
)
def test_shuffled_policies_that_are_none_raise(change, words):
    right = {"entries": entries([0.5]), "counts": COUNTS}
    with pytest.raises(ValueError, match=words):
        ShuffledPolicy(space=SPACE, **right | change)


def test_levels_between_tenths_have_a_space_of_their_own():
    policy = shuffled_policy([("Rotate", 1.0, 0.33)], CIFAR, (0, 1, 0), defaults=False)
    assert operation_sequences(policy) == {("Rotate", "Identity"): 1.0}
    drawn = {str(chain[0]) for chain in policy.transforms(policy.sample(50, seeded()))}
    assert drawn == {"Rotate(9.9)", "Rotate(-9.9)"}


def ramp(**more):
    parts = [(0, epoch_of([0.0] * 6)), (4, epoch_of([0.5] * 6)), (9, epoch_of([1.0] * 6))]
    return Schedule(parts, 12, **more)


def test_a_schedule_is_stretched_to_the_epoch():
    schedule = ramp()
    parts = [policy for _, policy in schedule.segments]
    assert [parts.index(schedule.at(e)) for e in range(12)] == [0] * 4 + [1] * 5 + [2] * 3
    for epochs in (1, 2, 3, 11, 12, 13, 108, 1801):
        longer = schedule.stretched(epochs)
        assert all(longer.at(e) is schedule.at(e, epochs) for e in range(epochs))
    assert [p.entries[0][1] for _, p in schedule.stretched(2).segments] == [0.0, 0.5]
    for wrong in (-1, 12, math.nan):
        with pytest.raises(ValueError, match="epoch must be at least 0 and below 12"):
            schedule.at(wrong)
    with pytest.raises(ValueError, match="stretches the schedule: epochs="):
        schedule.set_epoch(30, 30)
    for last in (199.999, 200 - 1e-13):
        assert schedule.at(last, 200) is parts[2]


def test_a_schedules_draws_are_its_segments():
    schedule = ramp()
    for epoch in (0, 5, 11):
        schedule.set_epoch(epoch)
        part = schedule.at(epoch)
        assert schedule.numbers == part.numbers
        for theirs, ours in (
            (part.sample(9, seeded()), schedule.sample(9, seeded())),
            (part.sample_at(range(9), 1, epoch), schedule.sample_at(range(9), 1, epoch)),
        ):
            assert torch.equal(theirs.indices, ours.indices)
        assert torch.equal(part(images(), seeded()), schedule(images(), seeded()))
        assert schedule.draw_one(seeded()) == part.draw_one(seeded())
    mean = sum(n * p.probabilities for n, (_, p) in zip((4, 5, 3), schedule.segments, strict=True))
    assert schedule.probabilities == pytest.approx(mean.numpy() / 12)


@pytest.mark.parametrize(
    "segments, epochs, words",
    [
        ([], 3, "must rise from 0"),
        ([(1, 0)], 3, "must rise from 0"),
        ([(0, 0), (0, 1)], 3, "must rise from 0"),
        ([(0, 0), (2, 1), (1, 0)], 3, "must rise from 0"),
        ([(0, 0), (3, 1)], 3, "stay below 3"),
        ([(0, 0), (True, 1)], 3, "must rise from 0"),
        ([(0, 0), (1.5, 1)], 3, "must rise from 0"),
        ([(0, 0)], 0, "epochs must be a whole number from 1, not 0"),
        ([(0, 0)], 2.0, "epochs must be a whole number from 1, not 2.0"),
        ([(0, 2)], 3, "must be policies of an epoch, not 'schedule'"),
        ([(0, 0), (1, 3)], 3, "must have one space, not 2"),
        ([(0, 0), (1, 4)], 3, r"same number of layers, not \[1, 5\]"),
    ],
)
def test_segments_that_make_no_schedule_raise(segments, epochs, words):
    others = [ramp(), identity_policy(CIFAR, 5), identity_policy(SPACE)]
    policies = [epoch_of([0.5]), epoch_of([0.4]), *others]
    with pytest.raises(ValueError, match=words):
        Schedule([(first, policies[n]) for first, n in segments], epochs)


def test_the_repr_tells_contents_and_no_epoch():
    schedule = ramp()
    before = repr(schedule)
    schedule.set_epoch(7)
    assert repr(schedule) == before == repr(ramp(provenance={"method": "other"}))
    assert augmentation_hash(schedule) in before
    changed = [epoch_of([0.0] * 6), epoch_of([0.0] * 6, counts=(0.2, 0.5, 0.3))]
    changed += [epoch_of([0.0] * 5 + [0.1]), epoch_of([0.0] * 6, 0.4)]
    assert len({repr(policy) for policy in changed}) == 4
    assert repr(Schedule([(0, changed[0])], 3)) != repr(Schedule([(0, changed[0])], 4))


class Plain(Dataset):
    "Images through a step of a pipeline."

    def __init__(self, schedule):
        self.images = images()
        self.then = schedule.as_transform()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.then(self.images[index])


def test_workers_that_live_on_meet_the_epoch():
    parts = [single_policy(SPACE, "Identity"), single_policy(SPACE, "Invert")]
    schedule = Schedule([(0, parts[0]), (1, parts[1])], 2)
    keyed = Augmented(images(), schedule)
    for dataset, tell in ((Plain(schedule), schedule.set_epoch), (keyed, keyed.set_epoch)):
        loader = DataLoader(dataset, 8, num_workers=1, persistent_workers=True)
        batches = []
        for epoch in (0, 1, 0):
            tell(epoch)
            batches.append(next(iter(loader)))
        assert torch.equal(batches[0], images()) and torch.equal(batches[1], 255 - images())
        assert torch.equal(batches[2], images())


class Killed(Exception):
    "The run ends here."


def test_train_follows_and_meets_the_same_epochs_after_a_resume(tmp_path):
    schedule, config = ramp(), TrainConfig(epochs=4, batch_size=8, lr=0.01)
    labels, run = torch.arange(16) % 3, {"mean": (0.5,) * 3, "std": (0.25,) * 3, "progress": False}
    tell = follow(schedule, 4)

    def trained(stop=None, **more):
        met = []

        def on_step(model, step, epoch):
            tell(model, step, epoch)
            met.append(schedule.at(int(schedule._epoch)).entries[0][1])
            if step == stop:
                raise Killed

        torch.manual_seed(0)
        model = build("small-convnet", 3, width=2)
        try:
            train(
                model, images(16), labels, config, augment=schedule, on_step=on_step, **run | more
            )
        except Killed:
            pass
        return met, model

    whole, model = trained()
    assert whole == [0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0], "epochs 0, 3, 6 and 9 of 12"
    kept = {"checkpoint": tmp_path / "kept", "checkpoint_every": 1}
    trained(stop=5, **kept)
    schedule.set_epoch(0)
    rest, resumed = trained(**kept)
    assert rest == whole[5:]
    states = zip(model.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)


@pytest.mark.parametrize("together", [False, True])
def test_copies_of_a_batch_share_their_first_layers(together):
    copies = BatchCopies(3, 2, seed=4, together=together)
    names = ("Invert", "Identity", "Invert")
    copies.policies = [single_policy(SPACE, "Crop", "Flip", name) for name in names]
    drawn = []
    for step in (0, 1, 0):
        copies.begin(step)
        parts = copies(images()).unflatten(0, (3, 8)) if together else None
        drawn.append(parts if together else torch.stack([copies(images()) for _ in range(3)]))
    assert torch.equal(drawn[0][0], 255 - drawn[0][1]) and torch.equal(drawn[0][0], drawn[0][2])
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    copies.begin(2)
    for _ in range(2):
        copies(images())
    with pytest.raises(ValueError, match="batch_repeats must be [13], not 2"):
        copies.begin(3)


def test_files_keep_shuffled_policies_and_schedules_of_any_kind(tmp_path):
    mixture = policy_from_list([[("Rotate", 0.5, 0.75)]], CIFAR, "mine")
    single = single_policy(mixture.space, "Identity", *DEFAULTS)
    for policy in (
        epoch_of([0.5, 0.2, 1.0], provenance={"n": 1}),
        ramp(provenance={"method": "PBA", "found": {"segments": [[0, [["Invert", 1, 2]]]]}}),
        Schedule([(0, mixture), (2, single)], 4),
    ):
        save_policy(policy, tmp_path / "p.json")
        back = load_policy(tmp_path / "p.json", policy.space)
        assert repr(back) == repr(policy) and back.provenance == policy.provenance
        assert type(back) is type(policy) and back.body() == policy.body()
        draws = [p.sample_at(range(200), 4, 3) for p in (back, policy)]
        assert torch.equal(draws[0].indices, draws[1].indices)
    with pytest.raises(ValueError, match="was made for space"):
        load_policy(tmp_path / "p.json", CIFAR)
    text = (tmp_path / "p.json").read_text()
    for cut in (0, 20, len(text) // 2, len(text) - 3):
        (tmp_path / "p.json").write_text(text[:cut])
        with pytest.raises(ValueError, match="not a JSON file"):
            load_policy(tmp_path / "p.json")
    changed = json.loads(text)
    changed["segments"][0]["choices"][0][1][0][1] += 1e-9
    (tmp_path / "p.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="changed after it was written"):
        load_policy(tmp_path / "p.json")


HOSTILE = (
    None,
    True,
    -1,
    0,
    7,
    1e999,
    0.3,
    "x",
    "__class__",
    [],
    [[]],
    [None],
    {},
    {"a": 1},
    10**30,
)


def spots(value, path=()):
    "The path of every value of a nested structure, the whole first; of long lists the ends."
    yield path
    if isinstance(value, dict):
        parts = list(value.items())
    else:
        parts = list(enumerate(value)) if isinstance(value, list) else []
    for key, part in parts[:3] + parts[-2:] if len(parts) > 5 else parts:
        yield from spots(part, (*path, key))


def bent(content, path, value):
    "A copy whose value at a path is another, or is gone."
    copy = json.loads(json.dumps(content))
    *above, last = path
    holder = copy
    for key in above:
        holder = holder[key]
    if value is KeyError:
        del holder[last]
    else:
        holder[last] = value
    return copy


@pytest.mark.parametrize("kind", ["shuffled", "schedule", "schedule of mixtures"])
def test_a_sweep_of_hostile_bodies_raises_or_is_what_it_says(tmp_path, kind):
    mixture = policy_from_list([[("Rotate", 0.5, 0.75)]], CIFAR, "mine")
    policy = {
        "shuffled": epoch_of([0.5, 0.2]),
        "schedule": Schedule([(0, epoch_of([0.5])), (2, epoch_of([1.0, 0.1]))], 4),
        "schedule of mixtures": Schedule([(0, mixture)], 2),
    }[kind]
    path = tmp_path / "p.json"
    save_policy(policy, path)
    content = json.loads(path.read_text())
    raised = kept = 0
    for place in spots({name: content[name] for name in policy.body()}):
        for value in (*HOSTILE, KeyError) if place else ():
            changed = bent(content, place, value)
            try:
                changed["checksum"] = _checksum(changed)
            except ValueError:
                changed["checksum"] = "JSON has no infinity"
            path.write_text(json.dumps(changed))
            try:
                back = load_policy(path)
            except ValueError:
                raised += 1
                continue
            again = json.loads(json.dumps(back.body()))
            if (place[-1], value) == ("weights", None):  # equal ones
                continue
            assert {name: changed[name] for name in again} == again, (place, value)
            back.sample(3, seeded())
            kept += 1
    assert raised > 10 * kept > 0


@pytest.mark.parametrize("kind", ["dream", "schedule", ["shuffled"], None])
def test_a_segment_of_another_kind_raises(tmp_path, kind):
    save_policy(ramp(), tmp_path / "p.json")
    content = json.loads((tmp_path / "p.json").read_text())
    content["segments"][1] |= {"kind": kind, "epochs": 1, "segments": content["segments"][:1]}
    (tmp_path / "p.json").write_text(json.dumps(content | {"checksum": _checksum(content)}))
    with pytest.raises(ValueError, match=r"segment 1: kind .* is unknown; allowed: layers"):
        load_policy(tmp_path / "p.json")
