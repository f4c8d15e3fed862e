"Policy files: every bit comes back, and what is damaged or foreign raises an error."

import json

import numpy as np
import psutil
import pytest
import torch

from effdl_nb.deepaa.policy import (
    Policy,
    deep_ta_policy,
    uniform_policy,
)
from effdl_nb.deepaa.policy_file import _checksum, load_policy, save_policy
from effdl_nb.deepaa.space import SearchSpace, cifar_space, imagenet_space, space_of

SPACE = cifar_space()


def test_a_file_keeps_every_bit(tmp_path):
    policy = Policy(
        torch.rand(2, 139, dtype=torch.float64).softmax(1), SPACE, {"method": "test", "n": 3}
    )
    save_policy(policy, tmp_path / "deep" / "policy.json")
    back = load_policy(tmp_path / "deep" / "policy.json")
    assert (
        torch.equal(back.probabilities, policy.probabilities)
        and back.provenance == policy.provenance
    )
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["policy.json"], (
        "nothing is left beside it"
    )


def test_damaged_and_foreign_files_raise(tmp_path):
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


def test_a_file_brings_its_space(tmp_path):
    mine = space_of(
        "mine", {"Identity": None, "Rotate": [-7, 7], "Crop": None}, pad=2, crop_fill=(0, 0, 0)
    )
    save_policy(uniform_policy(mine), tmp_path / "p.json")
    assert (
        load_policy(tmp_path / "p.json").space
        == mine
        == load_policy(tmp_path / "p.json", mine).space
    )
    with pytest.raises(ValueError, match="was made for space 'mine'"):
        load_policy(tmp_path / "p.json", SPACE)


def signed(body):
    return {**body, "checksum": _checksum(body)}


def test_files_of_the_first_schema_are_still_read(tmp_path):
    policy, path = deep_ta_policy(SPACE, 2), tmp_path / "p.json"
    space = {"name": "cifar", "hash": SPACE.hash(), "size": 139}
    old = {
        "schema": "effdl_nb/deepaa-policy/1",
        "space": space,
        "provenance": {},
        "probabilities": policy.probabilities.tolist(),
    }
    path.write_text(json.dumps(signed(old)))
    assert torch.equal(load_policy(path).probabilities, policy.probabilities)
    path.write_text(json.dumps(signed({**old, "space": {**space, "name": "mine"}})))
    with pytest.raises(ValueError, match="pass it"):
        load_policy(path)
    assert load_policy(path, SPACE).layers == 2


def test_files_of_another_kind_or_with_a_bent_space_raise(tmp_path):
    path = tmp_path / "p.json"
    save_policy(deep_ta_policy(SPACE), path)
    body = json.loads(path.read_text())
    bent = {"space": {**body["space"], "pad": 5}}
    for change, match in (
        ({"kind": "dream"}, "kind 'dream' is unknown; allowed: layers"),
        (bent, "was made for space"),
        ({"probabilities": [[1.0]]}, "shape"),
    ):
        path.write_text(json.dumps(signed({**body, **change})))
        with pytest.raises(ValueError, match=match):
            load_policy(path)
    path.write_text(
        json.dumps(signed({key: value for key, value in body.items() if key != "probabilities"}))
    )
    with pytest.raises(ValueError, match="incomplete"):
        load_policy(path)


def test_a_provenance_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    save_policy(uniform_policy(SPACE), tmp_path / "p.json")
    before = (tmp_path / "p.json").read_bytes()
    with pytest.raises((TypeError, ValueError)):
        save_policy(
            Policy(uniform_policy(SPACE).probabilities, SPACE, {"bad": object()}),
            tmp_path / "p.json",
        )
    assert (tmp_path / "p.json").read_bytes() == before


def released(path, space, rename=None, **changes):
    "A file as DeepAA's search writes it, with invented probabilities."
    rename = rename or {"Flip": "RandFlip", "Cutout": "RandCutout", "Crop": "RandCrop"}
    operations = space.operations()
    probabilities = torch.rand(3, 139, generator=torch.Generator().manual_seed(0)).softmax(1)
    arrays = {
        "policy_probs": probabilities.numpy(),
        "l_ops": len(operations),
        "l_mags": 13,
        "ops": np.array([[operations.index(t.name)] for t in space.transforms]),
        "mags": np.array([[t.level or 0] for t in space.transforms]),
        "op_names": np.array([f"{rename.get(name, name)}:0.1:1" for name in operations]),
    }
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return probabilities


def test_deepaas_own_files_are_read_without_pickle(tmp_path):
    path = tmp_path / "policy_DeepAA_cifar.npz"
    probabilities = released(path, cifar_space())
    policy = load_policy(path)
    assert policy.space == cifar_space()
    assert torch.allclose(policy.probabilities, probabilities.double(), atol=1e-7)
    save_policy(policy, tmp_path / "p.json")
    assert torch.equal(load_policy(tmp_path / "p.json").probabilities, policy.probabilities)
    large = {"Flip": "RandFlip", "Cutout": "RandCutout60", "Crop": "RandResizeCrop_imagenet"}
    released(path, imagenet_space(), large)
    assert load_policy(path).space == imagenet_space()
    np.savez(path, policy_probs=np.full((6, 139), 1 / 139))
    assert load_policy(path).layers == 6, "our order, if the file does not say"
    assert load_policy(path, imagenet_space()).space == imagenet_space()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"policy_probs": None}, "must hold policy_probs"),
        ({"policy_probs": np.full((2, 138), 1 / 138)}, "probabilities must have shape"),
        ({"policy_probs": np.zeros((2, 139))}, "sum to 1"),
        ({"ops": np.arange(139)[::-1, None] % 18}, "column 0 must be"),
        ({"mags": np.zeros((139, 1), int)}, r"column 2 must be \('ShearX', 1\), not \('ShearX', 0"),
        ({"ops": np.zeros((5, 1), int), "mags": np.zeros((5, 1), int)}, "columns must be 139, not"),
        ({"l_mags": 11}, "l_mags must be 13, not 11"),
        ({"op_names": np.array([print], dtype=object)}, "without pickle"),
    ],
)
def test_released_files_that_do_not_fit_raise(tmp_path, changes, words):
    released(tmp_path / "theirs.npz", cifar_space(), **changes)
    with pytest.raises(ValueError, match=words) as error:
        load_policy(tmp_path / "theirs.npz")
    assert "theirs.npz" in str(error.value)


def test_a_damaged_npz_is_not_left_open(tmp_path):
    path = tmp_path / "theirs.npz"
    released(path, cifar_space())
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x03"))  # its directory
    with pytest.raises(ValueError, match="theirs.npz is no npz"):
        load_policy(path)
    assert str(path) not in {file.path for file in psutil.Process().open_files()}


def test_nobody_is_told_to_delete_a_file_of_somebody_else(tmp_path):
    for content in (b"\x00\xff", b"{", b"PK\x03\x04 damaged"):
        (tmp_path / "theirs").write_bytes(content)
        with pytest.raises(ValueError, match="theirs") as error:
            load_policy(tmp_path / "theirs")
        assert "delete it" not in str(error.value)
