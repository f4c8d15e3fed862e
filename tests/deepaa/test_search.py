"The search: resuming, stopping, skipping; on four transforms and a network of a few weights."

from dataclasses import replace

import pytest
import torch
from small_search import CONFIG, SPACE, Dead, data

from effdl_nb.deepaa.policy import Policy, uniform_policy
from effdl_nb.deepaa.policy_file import load_policy, save_policy
from effdl_nb.deepaa.random_search import RandomSearch
from effdl_nb.deepaa.search import (
    PolicySearch,
    SearchConfig,
    distinct_transforms,
    every_transform,
    pools_of,
    step_rewards,
)
from effdl_nb.deepaa.searching import (
    SearchData,
    SearchFailed,
    SearchStateError,
    check_device,
    class_members,
    float32_products,
    step_generator,
)
from effdl_nb.deepaa.similarity import draw_pairs, validation_pools
from effdl_nb.deepaa.space import SearchSpace, Transform
from effdl_nb.prepared import Split


def test_a_seed_decides_everything():
    first, second = (PolicySearch(data(), SPACE, CONFIG).run(progress=False) for _ in range(2))
    other = PolicySearch(data(), SPACE, replace(CONFIG, seed=1)).run(progress=False)
    assert torch.equal(first.probabilities, second.probabilities) and not torch.equal(
        first.probabilities, other.probabilities
    )
    assert (
        first.layers == 2
        and first.provenance["stopped"] == "all 2 layers searched"
        and first.provenance["config"]["steps"] == 4
    )


def test_the_global_generator_is_left_alone():
    search = PolicySearch(data(), SPACE, CONFIG)
    state = torch.get_rng_state()
    search.run(progress=False)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("stop", range(1, 8))
def test_an_interrupted_search_ends_like_an_uninterrupted_one(tmp_path, monkeypatch, stop):
    whole = PolicySearch(data(), SPACE, CONFIG)
    expected, advance, calls = whole.run(progress=False), PolicySearch.advance, []

    def failing(self):
        calls.append(1)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(PolicySearch, "advance", failing)
    with pytest.raises(KeyboardInterrupt):
        PolicySearch(data(), SPACE, CONFIG, state=tmp_path / "state", save_every=3).run(
            progress=False
        )
    monkeypatch.setattr(PolicySearch, "advance", advance)
    resumed = PolicySearch(data(), SPACE, CONFIG, state=tmp_path / "state", save_every=3)
    assert (resumed.layer - 1) * 4 + resumed.step >= stop - 2, (
        "at most the steps since the last save are lost"
    )
    assert (
        torch.equal(resumed.run(progress=False).probabilities, expected.probabilities)
        and resumed.history == whole.history
    )
    assert PolicySearch(data(), SPACE, CONFIG, state=tmp_path / "state").stopped, (
        "a finished search is finished when it is opened again"
    )


def test_a_state_of_another_search_or_a_damaged_one_raises(tmp_path):
    path = tmp_path / "state"
    search = PolicySearch(data(), SPACE, CONFIG, state=path)
    search.advance()
    search.save()
    with pytest.raises(SearchStateError, match="config"):
        PolicySearch(data(), SPACE, replace(CONFIG, lr=0.4), state=path)
    with pytest.raises(SearchStateError, match="model, train, validation"):
        PolicySearch(data(seed=1), SPACE, CONFIG, state=path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SearchStateError, match="not a whole search state"):
        PolicySearch(data(), SPACE, CONFIG, state=path)


def test_the_proxy_is_never_touched():
    looked_at = data()
    looked_at.model.train()
    before = {name: value.clone() for name, value in looked_at.model.state_dict().items()}
    PolicySearch(looked_at, SPACE, CONFIG).run(progress=False)
    assert (
        all(
            torch.equal(value, before[name]) for name, value in looked_at.model.state_dict().items()
        )
        and looked_at.model.training
    )


def test_an_identity_layer_ends_the_search():
    config = replace(CONFIG, layers=5, stop_identity=0.0)
    search = PolicySearch(data(), SPACE, config)
    assert (
        search.run(progress=False).layers == 1 and "layer 2 became the identity" in search.stopped
    )


def test_too_short_a_search_warns():
    with pytest.warns(UserWarning, match="may never leave the identity"):
        PolicySearch(data(), SPACE, replace(CONFIG, lr=0.01, layers=1)).run(progress=False)


def test_pairs_without_a_gradient_are_skipped_and_too_many_end_the_search():
    looked_at = data()
    dead = SearchData(Dead(), looked_at.train, looked_at.validation, looked_at.mean, looked_at.std)
    members = class_members(dead.validation.labels, 5)
    rewards, cosines, skipped = step_rewards(
        dead, members, CONFIG, None, uniform_policy(SPACE), step_generator(0, 1, 0)
    )
    assert rewards.shape == (0, 4) and len(cosines) == 0 and skipped == 2
    search = PolicySearch(dead, SPACE, replace(CONFIG, max_skipped=3))
    assert search.advance()["cosine"] is None and search.skipped == 2
    with pytest.raises(SearchFailed, match="4 pairs had no usable gradient"):
        search.run(progress=False)


def test_a_layer_without_any_usable_pair_yet_is_resumed(tmp_path):
    looked_at = data()
    dead = SearchData(Dead(), looked_at.train, looked_at.validation, looked_at.mean, looked_at.std)
    config = replace(CONFIG, max_skipped=50)
    search = PolicySearch(dead, SPACE, config, state=tmp_path / "state")
    search.advance()
    search.save()
    resumed = PolicySearch(dead, SPACE, config, state=tmp_path / "state")
    assert (resumed.step, resumed.skipped) == (1, 2) and torch.equal(resumed.logits, search.logits)
    assert resumed.advance() == search.advance()


@pytest.mark.parametrize(
    "wrong", [{"penalty": None}, {"lr": "x"}, {"seed": 0.5}, {"max_skipped": 1.5}, {"seed": -1}]
)
def test_settings_that_are_no_numbers_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be"):
        replace(CONFIG, **wrong)


def test_classes_with_too_few_or_no_validation_images():
    with pytest.raises(ValueError, match="needs 13 validation images"):
        PolicySearch(data(), SPACE, replace(CONFIG, validation_images=13))
    looked_at = data()
    rows = looked_at.validation.labels != 1
    two = Split(looked_at.validation.images[rows], looked_at.validation.labels[rows])
    without = SearchData(looked_at.model, looked_at.train, two, (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match=r"classes \[1\]"):
        PolicySearch(without, SPACE, CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"pairs": 1.5},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"penalty": -1.0},
        {"chains": 0},
        {"same_class": 1},
        {"unit_v": "no"},
        {"precision": "bf16"},
        {"compile": None},
    ],
)
def test_settings_that_make_no_sense(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SearchConfig(**change)


def test_a_space_without_identity_and_images_it_cannot_take():
    with pytest.raises(ValueError, match="operation 'Identity' is unknown"):
        PolicySearch(data(), SearchSpace("two", SPACE.transforms[1:]), CONFIG)
    looked_at = data()
    one_channel = Split(looked_at.train.images[:, :1], looked_at.train.labels)
    gray = SearchData(
        looked_at.model, one_channel, looked_at.validation, looked_at.mean, looked_at.std
    )
    with pytest.raises(ValueError, match="RGB"):
        PolicySearch(gray, SPACE, CONFIG)


def test_the_search_climbs_what_it_maximises():
    "A huge lr on the exact first layer: later pairs are more similar than the first ones."
    config = replace(CONFIG, layers=1, steps=30, pairs=8, lr=0.2)
    search = PolicySearch(data(), SPACE, config)
    search.run(progress=False)
    similarity = [record["cosine"] for record in search.history]
    assert sum(similarity[-10:]) > sum(similarity[:10])


def one_step(config, done=None, seed=0, space=SPACE):
    looked_at = data()
    pools = pools_of(looked_at, config)
    return step_rewards(
        looked_at, pools, config, done, uniform_policy(space), step_generator(seed, 1, 0)
    )


@pytest.mark.parametrize("done", [None, uniform_policy(SPACE)])
def test_without_the_factor_every_pair_is_scaled_by_its_own_norm(done):
    kept, dropped = (
        one_step(replace(CONFIG, pairs=4, unit_v=flag), done) for flag in (True, False)
    )
    norms = (dropped[0] / kept[0]).median(1, keepdim=True).values
    assert torch.allclose(dropped[0], kept[0] * norms, rtol=1e-5) and torch.equal(
        kept[1], dropped[1]
    ), "the cosines are the same"
    assert norms.min() > 0 and norms.max() > 1.01 * norms.min(), (
        "and the norms differ, so that the factor matters"
    )


def test_validation_images_of_any_class():
    labels, mixed = (
        data().validation.labels,
        replace(CONFIG, same_class=False, validation_images=30),
    )
    with pytest.raises(ValueError, match="needs 30 validation images of its class"):
        PolicySearch(data(), SPACE, replace(CONFIG, validation_images=30))
    search = PolicySearch(data(), SPACE, mixed)
    assert search.advance()["cosine"] is not None and set(
        validation_pools(labels, [0, 7], 30, False)
    ) == {0, 7}
    with pytest.raises(ValueError, match="needs 30 validation images; there are 10"):
        validation_pools(labels[:10], [0], 30, False)
    same, other = (one_step(replace(CONFIG, same_class=flag))[0] for flag in (True, False))
    assert not torch.equal(same, other)


def test_equal_maps_are_computed_once_and_nothing_changes():
    twins = Transform("Posterize", 5.7), Transform("Flip"), Transform("Posterize", 5.1)
    space = SearchSpace("twins", (Transform("Identity"), *twins, Transform("Rotate", 9.0)))
    kept, place = distinct_transforms(space)
    assert kept.tolist() == [0, 1, 2, 4] and place.tolist() == [0, 1, 2, 1, 3]
    looked_at, current = data(), Policy(torch.tensor([[0.3, 0.25, 0.2, 0.15, 0.1]]), space)
    pools = pools_of(looked_at, CONFIG)
    rewards, _, _ = step_rewards(looked_at, pools, CONFIG, None, current, step_generator(0, 1, 0))
    assert (
        torch.equal(rewards[:, 1], rewards[:, 3])
        and (rewards @ current.probabilities[0]).abs().max() < 1e-6
    ), "still centred over all five"
    whole, part = (
        every_transform(looked_at.train.images[:2], space, step_generator(0, 1, 0), which)
        for which in (None, kept)
    )
    assert torch.equal(part[:, place], whole)


def test_the_images_need_not_fit_into_memory_at_once(monkeypatch):
    whole = one_step(replace(CONFIG, pairs=5))
    monkeypatch.setattr("effdl_nb.deepaa.search._GROUP_BYTES", 1)
    pieces = one_step(replace(CONFIG, pairs=5))
    assert torch.equal(pieces[0], whole[0]) and torch.equal(pieces[1], whole[1]), (
        "one image at a time draws the same"
    )
    deeper = one_step(replace(CONFIG, pairs=5), uniform_policy(SPACE))
    assert deeper[0].shape == (5, 4) and deeper[2] == 0


def test_what_only_a_gpu_has_raises_on_a_cpu_and_leaves_no_trace():
    for change in ({"precision": "tf32"}, {"compile": True}):
        config = replace(CONFIG, **change)
        with pytest.raises(
            ValueError, match="must be 'fp32' and False on the cpu, not .* needs a GPU"
        ):
            PolicySearch(data(), SPACE, config)
        with pytest.raises(ValueError, match="needs a GPU"):
            RandomSearch(data(), SPACE, config)
        check_device(config.precision, config.compile, torch.device("cuda"))
    before = torch.backends.cudnn.conv.fp32_precision
    with pytest.raises(KeyError), float32_products("tf32"):
        raise KeyError
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_the_knobs_are_part_of_what_a_search_is(tmp_path):
    search = PolicySearch(data(), SPACE, CONFIG, state=tmp_path / "state")
    search.save()
    for change in ({"same_class": False}, {"unit_v": False}):
        with pytest.raises(SearchStateError, match=next(iter(change))):
            PolicySearch(data(), SPACE, replace(CONFIG, **change), state=tmp_path / "state")


def test_a_search_out_of_memory_goes_on_with_a_smaller_chunk(tmp_path):
    search = PolicySearch(data(), SPACE, CONFIG, state=tmp_path / "state")
    search.advance()
    search.save()
    assert PolicySearch(data(), SPACE, replace(CONFIG, chunk=7), state=tmp_path / "state").step == 1


def test_another_searchs_state_says_what_to_do(tmp_path):
    path = tmp_path / "state"
    search = PolicySearch(data(), SPACE, CONFIG, state=path)
    search.advance()
    search.save()
    for change in ({"lr": 0.4}, {"penalty": 0.5}, {"steps": 7}):
        ((name, value),) = change.items()
        words = rf"{name} \(.* there, {value} here\); take the values there to resume it, or ano"
        with pytest.raises(SearchStateError, match=words):
            PolicySearch(data(), SPACE, replace(CONFIG, **change), state=path)
    path.write_bytes(b"somebody's weights")
    with pytest.raises(SearchStateError, match="name another file, or delete it .* if a search"):
        PolicySearch(data(), SPACE, CONFIG, state=path)


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("way", ["state", "policy", "stopped in between"])
def test_a_search_is_extended_by_layers_to_the_bit(tmp_path, before, way):
    longer = replace(CONFIG, layers=3)
    whole = PolicySearch(data(), SPACE, longer)
    expected = whole.run(progress=False)
    short = PolicySearch(data(), SPACE, replace(CONFIG, layers=before), state=tmp_path / "state")
    if way == "stopped in between":
        for _ in range(3):
            short.advance()
        short.save()
    else:
        finished = short.run(progress=False)
    if way == "policy":
        save_policy(finished, tmp_path / "p.json")
        longest = PolicySearch(data(), SPACE, longer)
        longest.take_up(load_policy(tmp_path / "p.json"))
        assert longest.layer == before + 1 and longest.seconds == round(short.seconds, 1)
    else:
        longest = PolicySearch(data(), SPACE, longer, state=tmp_path / "state")
        assert not longest.stopped
    found = longest.run(progress=False)
    assert torch.equal(found.probabilities, expected.probabilities)
    assert found.provenance["stopped"] == "all 3 layers searched"
    assert found.provenance["config"]["layers"] == 3
    assert longest.history == whole.history[-len(longest.history) :]


def test_what_cannot_be_extended_says_so(tmp_path):
    path = tmp_path / "state"
    finished = PolicySearch(data(), SPACE, CONFIG, state=path).run(progress=False)
    with pytest.raises(SearchStateError, match=r"at least the 2 .* prefix_policy\(policy, 1\)"):
        PolicySearch(data(), SPACE, replace(CONFIG, layers=1), state=path)
    other = PolicySearch(data(), SPACE, replace(CONFIG, layers=3, lr=0.4))
    with pytest.raises(SearchStateError, match=r"the policy belongs .* lr \(0.5 there, 0.4 here"):
        other.take_up(finished)
    with pytest.raises(SearchStateError, match="differ in config, model, normalisation"):
        other.take_up(uniform_policy(SPACE))
    ended = replace(CONFIG, stop_identity=0.0)
    found = PolicySearch(data(), SPACE, ended, state=tmp_path / "ended").run(progress=False)
    again = PolicySearch(data(), SPACE, replace(ended, layers=4), state=tmp_path / "ended")
    assert "became the identity" in again.stopped, "a search that ended by itself has no more"
    assert torch.equal(again.run(progress=False).probabilities, found.probabilities)
    random = RandomSearch(data(), SPACE, CONFIG, 2, state=tmp_path / "random")
    random.save()
    with pytest.raises(SearchStateError, match="layers"):
        RandomSearch(data(), SPACE, replace(CONFIG, layers=3), 2, state=tmp_path / "random")


def test_x_is_never_among_its_own_validation_images():
    looked_at = data()
    shared = replace(looked_at, train=looked_at.validation)
    assert shared.shared and not looked_at.shared
    for same_class, count in ((True, 11), (False, 35)):
        config = replace(CONFIG, same_class=same_class, validation_images=count)
        labels, pools = shared.validation.labels, pools_of(shared, config)
        for x, rows in draw_pairs(labels, pools, 50, count, step_generator(0, 1, 0), True):
            assert x not in rows and len(rows.unique()) == count
            assert not same_class or labels[rows].eq(labels[x]).all()
        too_many = replace(config, validation_images=count + 1)
        with pytest.raises(ValueError, match=f"needs {count + 2} validation images"):
            pools_of(shared, too_many)
    assert PolicySearch(shared, SPACE, CONFIG).run(progress=False).layers == 2


def test_chunk_bounds_what_the_network_and_its_inputs_hold(monkeypatch):
    sizes, inputs = [], SearchData.inputs
    monkeypatch.setattr(
        SearchData, "inputs", lambda self, x: (sizes.append(len(x)), inputs(self, x))[1]
    )
    whole = [one_step(replace(CONFIG, chunk=999), done) for done in (None, uniform_policy(SPACE))]
    assert max(sizes) > 3
    sizes.clear()
    parts = [one_step(replace(CONFIG, chunk=3), done) for done in (None, uniform_policy(SPACE))]
    assert max(sizes) <= 3
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a.rewards, b.rewards, rtol=1e-3, atol=1e-5)
    sizes.clear()
    search = RandomSearch(data(), SPACE, replace(CONFIG, chunk=2), 2)
    search.advance()
    assert max(sizes) <= 2
