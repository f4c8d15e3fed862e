"""The file of a condensed set: round trips, damage, and the whitening that was left out."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from effdl_nb.condensation.images import ChannelWhitening, MissingWhitening, fit_zca
from effdl_nb.condensation.sets import CondensedSet


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


def test_the_header_keeps_the_key_of_older_files(tmp_path):
    s, _ = toy()
    s.save(tmp_path / "s.safetensors")
    with safe_open(tmp_path / "s.safetensors", "pt") as f:
        metadata = f.metadata()
    header = json.loads(metadata["header"])
    assert (metadata["version"], header["rate"]) == ("1", s.lr) and "lr" not in header


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, 0.99])
def test_truncated(tmp_path, keep):
    s, _ = toy()
    s.save(tmp_path / "s.safetensors")
    data = (tmp_path / "s.safetensors").read_bytes()
    (tmp_path / "s.safetensors").write_bytes(
        data[: int(keep * len(data)) if 0 < keep < 1 else keep]
    )
    with pytest.raises(ValueError, match="not a whole safetensors"):
        CondensedSet.load(tmp_path / "s.safetensors")


def test_tampered_in_a_way_that_stays_well_formed(tmp_path):
    s, _ = toy()
    path = tmp_path / "s.safetensors"
    s.save(path)
    with safe_open(path, "pt") as f:
        metadata = f.metadata()
    tensors = load_file(path)
    save_file({**tensors, "labels": 1 - tensors["labels"]}, path, metadata)
    with pytest.raises(ValueError, match="altered"):
        CondensedSet.load(path)
    header = {**json.loads(metadata["header"]), "rate": 9.0}
    save_file(tensors, path, {**metadata, "header": json.dumps(header, sort_keys=True)})
    with pytest.raises(ValueError, match="altered"):
        CondensedSet.load(path)
    save_file(tensors, path, {**metadata, "version": "99"})
    with pytest.raises(ValueError, match="version '99'"):
        CondensedSet.load(path)
    save_file(tensors, path, {k: v for k, v in metadata.items() if k != "header"})
    with pytest.raises(ValueError, match="altered"):
        CondensedSet.load(path)
    save_file({k: v for k, v in tensors.items() if k != "pixels"}, path, metadata)
    with pytest.raises(ValueError, match="altered"):
        CondensedSet.load(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="not a condensed set"):
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
