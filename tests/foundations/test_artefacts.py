"Every artefact of the package: loaded by name, whole, small, and measured by a committed row."

from pathlib import Path

import pytest

from effdl_nb.artefacts import (
    FOLDER,
    KINDS_OF_ARTEFACT,
    LARGEST_ARTEFACT,
    artefact_path,
    artefacts,
    croissant,
    publish,
)
from effdl_nb.condensation.sets import CondensedSet
from effdl_nb.deepaa.policy_file import load_policy
from effdl_nb.files import file_digest, read_kept, write_kept
from effdl_nb.msunet.packing import load_packed

ROOT = Path(__file__).resolve().parents[2]
LOADERS = {"policy": load_policy, "set": CondensedSet.load, "network": load_packed}
WORDS = {"name": "toy", "kind": "policy", "title": "A toy", "data": "toy", "remark": "none"}


def test_there_are_some_and_nothing_else_lies_in_the_folder():
    names = {f"{name}.card.json" for name in artefacts()} | {
        c.path.name for c in artefacts().values()
    }
    assert names and names == {path.name for path in FOLDER.iterdir()}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5 * 2**20


@pytest.mark.parametrize("name", artefacts())
def test_an_artefact_is_what_its_card_says(name):
    card = artefacts()[name]
    assert LOADERS[card.kind](name) is not None
    assert file_digest(card.path) == card.digest and card.path.stat().st_size <= LARGEST_ARTEFACT
    row = card.row
    path = ROOT / "reports" / row["profile"] / "rows" / row["table"] / f"{row['row']}.json"
    (m,) = [m for m in read_kept(path)["measurements"] if m["hash"] == row["hash"]]
    assert (m["metrics"], m["seed"]) == (card.measured, row["seed"])
    assert row["profile"] != "quick" and card.licence and card.remark


def test_a_name_a_path_and_a_slip(tmp_path, monkeypatch):
    name = next(iter(artefacts("policy")))
    assert artefact_path(name, "policy").parent == FOLDER
    with pytest.raises(ValueError, match="neither a file nor a policy.*known: .*" + name):
        load_policy("cifar10-nobody")
    with pytest.raises(ValueError, match="neither a file nor a set"):
        CondensedSet.load(name)  # of another kind
    with pytest.raises(ValueError, match="kind 'weights' is unknown"):
        artefacts("weights")
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("{")  # a file of that name comes first
    with pytest.raises(ValueError, match=name):
        load_policy(name)


@pytest.fixture
def row(tmp_path) -> Path:
    path = tmp_path / "laptop" / "rows" / "table_3_2" / "deepaa.json"
    m = {"seed": 0, "hash": "a", "code": "b", "settings": {}, "metrics": {"accuracy": [1.0]}}
    m |= {"columns": ["accuracy"]}
    write_kept(path, {"cells": [], "measurements": [m | {"provenance": {}}]})
    return path


def test_what_cannot_be_published(tmp_path, row):
    file, folder = tmp_path / "found.json", tmp_path / "out"
    file.write_text("{}")
    card = publish(file, row, 0, WORDS, folder)
    assert artefacts(folder=folder) == {"toy": card}
    with pytest.raises(ValueError, match="one measurement with seed 3, not 0"):
        publish(file, row, 3, WORDS, folder)
    with pytest.raises(ValueError, match="with seed 0 of column flops, not 0"):
        publish(file, row, 0, WORDS, folder, column="flops")
    with pytest.raises(ValueError, match="profile quick measures no artefact"):
        publish(file, Path(str(row).replace("laptop", "quick")), 0, WORDS, folder)
    file.write_bytes(bytes(LARGEST_ARTEFACT + 1))
    with pytest.raises(
        ValueError, match=f"at most {LARGEST_ARTEFACT} bytes, not {LARGEST_ARTEFACT + 1}"
    ):
        publish(file, row, 0, WORDS, folder)
    assert artefacts(folder=folder) == {"toy": card}


def test_a_set_is_described_for_others_and_nothing_else_is(tmp_path, row):
    file = tmp_path / "set.safetensors"
    file.write_bytes(b"x")
    card = publish(file, row, 0, WORDS | {"kind": "set"}, tmp_path / "out")
    described = croissant(card)
    assert described["distribution"][0]["sha256"] == file_digest(file)
    assert set(KINDS_OF_ARTEFACT) == set(LOADERS)
    with pytest.raises(ValueError, match="kind must be 'set', not 'policy'"):
        croissant(publish(file, row, 0, WORDS, tmp_path / "out"))
