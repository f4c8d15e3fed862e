"""The file of a condensed set: round trips, damage, and the whitening that was left out."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from effdl_nb.checkpoints import read_tensors, write_tensors
from effdl_nb.condensation.images import ChannelWhitening, MissingWhitening, fit_zca
from effdl_nb.condensation.sets import SET_FORMAT, CondensedSet, _digest


def toy(zca=False, soft=False):
    gen = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 3, 4, 4), dtype=torch.uint8, generator=gen)
    w = fit_zca(pixels) if zca else ChannelWhitening((0.5,) * 3, (0.25,) * 3)
    labels = torch.full((4, 2), 0.5) if soft else torch.tensor([0, 0, 1, 1])
    return CondensedSet(
        w.encode(pixels[:4]), labels, ("cat", "dog"), "mtt", 2, w, 0.02, 7, {"curve": [1.0, 0.5]}
    ), pixels


@pytest.mark.parametrize("zca", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_round_trip(tmp_path, zca, soft):
    s, pixels = toy(zca, soft)
    s.save(tmp_path / "s.safetensors", whitening=True)
    t = CondensedSet.load(tmp_path / "s.safetensors")
    assert torch.equal(s.images, t.images) and torch.equal(s.labels, t.labels)
    torch.testing.assert_close(t.to_raw(), pixels[:4] / 255, atol=1e-5, rtol=0)
    for name in ("method", "ipc", "lr", "seed", "details", "classes"):
        assert getattr(t, name) == getattr(s, name), name


def first_version(s: CondensedSet, path, **changes) -> tuple[dict, dict]:
    "Write a set as the first version did; with its metadata and tensors."
    s.save(path)
    tensors, content = read_tensors(path, "condensed set")
    header = json.dumps(content, sort_keys=True)
    metadata = {"format": SET_FORMAT, "version": "1", "header": header}
    metadata |= {"digest": _digest(header, tensors)} | changes
    save_file(tensors, path, {k: v for k, v in metadata.items() if v is not None})
    return metadata, tensors


def test_files_of_the_first_version_are_read(tmp_path):
    s, _ = toy()
    metadata, _ = first_version(s, tmp_path / "s.safetensors")
    header = json.loads(metadata["header"])
    assert header["rate"] == s.lr and "lr" not in header
    t = CondensedSet.load(tmp_path / "s.safetensors")
    assert torch.equal(s.images, t.images) and s.lr == t.lr and s.details == t.details


def test_equal_sets_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        toy()[0].save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, 0.99])
def test_truncated(tmp_path, keep):
    s, _ = toy()
    s.save(tmp_path / "s.safetensors")
    data = (tmp_path / "s.safetensors").read_bytes()
    (tmp_path / "s.safetensors").write_bytes(
        data[: int(keep * len(data)) if 0 < keep < 1 else keep]
    )
    with pytest.raises(ValueError, match="not a whole condensed set|not a condensed set"):
        CondensedSet.load(tmp_path / "s.safetensors")


def test_tampered_in_a_way_that_stays_well_formed(tmp_path):
    s, _ = toy()
    path = tmp_path / "s.safetensors"
    metadata, tensors = first_version(s, path)
    edited = json.dumps({**json.loads(metadata["header"]), "rate": 9.0}, sort_keys=True)
    for damage, words in (
        ((tensors | {"labels": 1 - tensors["labels"]}, metadata), "altered"),
        ((tensors, {**metadata, "header": edited}), "altered"),
        ((tensors, {**metadata, "version": "99"}), "version '99'"),
        ((tensors, {k: v for k, v in metadata.items() if k != "header"}), "altered"),
        (({k: v for k, v in tensors.items() if k != "pixels"}, metadata), "altered"),
        ((tensors,), "not a condensed set"),
    ):
        save_file(damage[0], path, *damage[1:])
        with pytest.raises(ValueError, match=words):
            CondensedSet.load(path)
    write_tensors(path, tensors, {"method": "mtt"}, "condensed set")  # sealed by somebody else
    with pytest.raises(ValueError, match="s.safetensors is not a condensed set"):
        CondensedSet.load(path)
    with pytest.raises(FileNotFoundError):
        CondensedSet.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        CondensedSet.load(tmp_path)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    s, _ = toy()
    s.save(tmp_path / "s.safetensors")
    before = (tmp_path / "s.safetensors").read_bytes()
    with pytest.raises(ValueError):
        replace(s, details={"loss": float("nan")}).save(tmp_path / "s.safetensors")
    assert (tmp_path / "s.safetensors").read_bytes() == before and len(
        list(tmp_path.iterdir())
    ) == 1


def test_light_zca_file_refits_on_its_own_images_only(tmp_path):
    s, pixels = toy(zca=True)
    s.save(tmp_path / "s.safetensors")
    t = CondensedSet.load(tmp_path / "s.safetensors")
    assert isinstance(t.whitening, MissingWhitening)
    torch.testing.assert_close(t.to_raw(), s.to_raw())
    torch.testing.assert_close(
        t.refit(pixels).whitening.encode(pixels), s.whitening.encode(pixels), atol=1e-4, rtol=0
    )
    with pytest.raises(ValueError, match="fingerprint"):
        t.refit(255 - pixels)
    t.save(tmp_path / "again.safetensors")
    torch.testing.assert_close(
        CondensedSet.load(tmp_path / "again.safetensors").to_raw(), s.to_raw()
    )
