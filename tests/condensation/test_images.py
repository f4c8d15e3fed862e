"""Whitening, augmentation and the condensed-set file."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from effdl_nb.condensation.images import (
    GROUPS,
    ChannelWhitening,
    augment,
    draw_augmentation,
    fit_zca,
    to_unit,
    whitening_from,
)
from effdl_nb.condensation.sets import CondensedSet


def made(zca=False, soft=False):
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
    s, pixels = made(zca, soft)
    s.save(tmp_path / "s.safetensors", whitening=True)
    t = CondensedSet.load(tmp_path / "s.safetensors")
    assert torch.equal(s.images, t.images) and torch.equal(s.labels, t.labels)
    torch.testing.assert_close(t.to_raw(), pixels[:4] / 255, atol=1e-5, rtol=0)
    assert (t.method, t.ipc, t.lr, t.seed, t.details, t.classes) == (
        s.method,
        s.ipc,
        s.lr,
        s.seed,
        s.details,
        s.classes,
    )


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, 0.99])
def test_truncated(tmp_path, keep):
    s, _ = made()
    s.save(tmp_path / "s.safetensors")
    data = (tmp_path / "s.safetensors").read_bytes()
    (tmp_path / "s.safetensors").write_bytes(
        data[: int(keep * len(data)) if 0 < keep < 1 else keep]
    )
    with pytest.raises(ValueError, match="not a whole safetensors"):
        CondensedSet.load(tmp_path / "s.safetensors")


def test_tampered_in_a_way_that_stays_well_formed(tmp_path):
    s, _ = made()
    path = tmp_path / "s.safetensors"
    s.save(path)
    from safetensors import safe_open

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
    s, _ = made()
    s.save(tmp_path / "s.safetensors")
    before = (tmp_path / "s.safetensors").read_bytes()
    with pytest.raises(ValueError):
        replace(s, details={"loss": float("nan")}).save(tmp_path / "s.safetensors")
    assert (tmp_path / "s.safetensors").read_bytes() == before and len(
        list(tmp_path.iterdir())
    ) == 1


def test_light_zca_file_refits_and_refuses_other_images(tmp_path):
    s, pixels = made(zca=True)
    s.save(tmp_path / "s.safetensors")
    t = CondensedSet.load(tmp_path / "s.safetensors")
    assert t.whitening is None
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


def test_one_image_or_odd_shapes():
    with pytest.raises(ValueError, match="at least 2"):
        fit_zca(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="N, C, H, W"):
        to_unit(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="channel.*zca"):
        whitening_from("pca", {})


@pytest.mark.parametrize("channels, size", [(1, 28), (3, 32), (3, 7)])
def test_augmentation_of_any_size_and_grayscale(channels, size):
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(4, channels, size, size, generator=gen)
    for group in GROUPS:
        out = augment(x, draw_augmentation(4, gen, group))
        assert out.shape == x.shape and torch.isfinite(out).all()


def test_augmentation_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    augment(torch.zeros(2, 3, 8, 8), draw_augmentation(2, torch.Generator().manual_seed(0)))
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="color"):
        draw_augmentation(2, None, "color_blur")
    with pytest.raises(ValueError, match="draw is for 2"):
        augment(torch.zeros(3, 3, 8, 8), draw_augmentation(2, None))
