"""Policies: distributions that are checked, draws that repeat, files that are whole or refused."""

import json

import pytest
import torch

from effdl_nb.deepaa.operations import SearchSpace, Transform
from effdl_nb.deepaa.policy import (
    Policy,
    deep_ta_policy,
    identity_policy,
    load_policy,
    mirrored_policy,
    operation_probabilities,
    prefix_policy,
    save_policy,
    single_policy,
    trivial_augment_wide_policy,
    uniform_policy,
)

SPACE = SearchSpace.cifar()


def images(n=40):
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def broken(**changes):
    row = torch.full((1, 139), 1 / 139)
    for place, value in changes.items():
        row[0, int(place[1:])] = value
    return row


@pytest.mark.parametrize("probabilities, match", [
    (broken(n0=-0.1), "not negative"),
    (broken(n0=float("nan")), "finite"),
    (broken(n0=float("inf")), "finite"),
    (broken(n0=0.5), "sum to 1"),
    (torch.zeros(1, 139), "sum to 1"),
    (torch.full((1, 138), 1 / 138), "shape"),
    (torch.full((139,), 1 / 139), "shape"),
    (torch.zeros(0, 139), "shape"),
])
def test_what_is_not_a_distribution_is_refused(probabilities, match):
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
    with pytest.raises(ValueError, match="allowed 1..3"):
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


@pytest.mark.parametrize("batch, error", [(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), ValueError), (torch.zeros(2, 3, 32, 32), TypeError)])
def test_a_policy_refuses_before_it_draws(batch, error):
    with pytest.raises(error):
        identity_policy(SPACE)(batch)


def test_baselines():
    assert deep_ta_policy(SPACE).probabilities[0, SPACE.indices("Flip")[0]].item() == pytest.approx(1 / 18)
    assert deep_ta_policy(SPACE).probabilities[0, SPACE.indices("Solarize")[4]].item() == pytest.approx(1 / 216)
    wide = trivial_augment_wide_policy()
    assert [next(iter(layer)) for layer in operation_probabilities(wide)][:2] == ["Crop", "Flip"]
    assert trivial_augment_wide_policy(defaults=False).layers == 1
    with pytest.raises(ValueError, match="no operation"):
        single_policy(SPACE, "Blur")


def test_mirroring_needs_a_mirror_image():
    space = SearchSpace("one-sided", (Transform("Identity"), Transform("Rotate", 10.0)))
    with pytest.raises(ValueError, match="opposite sign"):
        mirrored_policy(uniform_policy(space))
    assert torch.allclose(mirrored_policy(deep_ta_policy(SPACE)).probabilities, deep_ta_policy(SPACE).probabilities, atol=1e-15)


def test_a_file_keeps_every_bit(tmp_path):
    policy = Policy(torch.rand(2, 139, dtype=torch.float64).softmax(1), SPACE, {"method": "test", "n": 3})
    save_policy(policy, tmp_path / "deep" / "policy.json")
    back = load_policy(tmp_path / "deep" / "policy.json")
    assert torch.equal(back.probabilities, policy.probabilities) and back.provenance == policy.provenance
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["policy.json"], "nothing is left beside it"


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "policy.json"
    save_policy(deep_ta_policy(SPACE, 2), path)
    text, body = path.read_text(), json.loads(path.read_text())

    def attempt(content, match, **arguments):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(ValueError, match=match):
            load_policy(path, **arguments)

    for cut in (0, 10, len(text) // 2, len(text) - 5):
        attempt(text[:cut], "not a JSON file")
    changed = json.loads(text)
    changed["probabilities"][0][0] += 1e-9
    attempt(changed, "changed after it was written")
    attempt({**body, "schema": "effdl_nb/deepaa-policy/99"}, "schema")
    attempt({key: value for key, value in body.items() if key != "checksum"}, "incomplete")
    attempt([1, 2], "schema")
    attempt(text, "was made for space", space=SearchSpace("shrunk", SPACE.transforms[:20]))
    with pytest.raises(FileNotFoundError):
        load_policy(tmp_path / "absent.json")


def test_a_users_space_must_be_given(tmp_path):
    mine = SearchSpace("mine", (Transform("Identity"), Transform("Invert")))
    save_policy(uniform_policy(mine), tmp_path / "p.json")
    with pytest.raises(ValueError, match="pass it"):
        load_policy(tmp_path / "p.json")
    assert load_policy(tmp_path / "p.json", mine).layers == 1


def test_a_provenance_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    save_policy(uniform_policy(SPACE), tmp_path / "p.json")
    before = (tmp_path / "p.json").read_bytes()
    with pytest.raises((TypeError, ValueError)):
        save_policy(Policy(uniform_policy(SPACE).probabilities, SPACE, {"bad": object()}), tmp_path / "p.json")
    assert (tmp_path / "p.json").read_bytes() == before
