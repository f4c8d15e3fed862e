"Operations of the space: Pillow's bytes at odd sizes, randomness, and what raises an error."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from effdl_nb.deepaa import operations
from effdl_nb.deepaa.operations import apply_drawn, apply_transforms
from effdl_nb.deepaa.pixels import resize_boxes
from effdl_nb.deepaa.reference import (
    draw_noise,
    pillow_loop,
    pillow_transform,
    resized_crop_boxes,
)
from effdl_nb.deepaa.space import (
    SearchSpace,
    Transform,
    cifar_space,
    imagenet_space,
    space_of,
    wide_space,
)

SPACE = cifar_space()


def by_pillow(images, indices, space, noise):
    return pillow_loop(images, [space[n] for n in indices], space, noise)


def random_images(n, height=32, width=32, seed=0):
    return torch.randint(
        0,
        256,
        (n, 3, height, width),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("space", [SPACE, wide_space()], ids=["cifar", "wide"])
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (32, 32), (50, 24)])
def test_every_transform_is_pillows(space, size):
    images = random_images(2, *size).repeat_interleave(len(space), 0)
    indices, noise = (
        torch.arange(len(space)).repeat(2),
        draw_noise(2 * len(space), torch.Generator().manual_seed(3)),
    )
    got, want = (
        apply_transforms(images, indices, space, noise=noise),
        by_pillow(images, indices, space, noise),
    )
    wrong = sorted({str(space[n]) for n in indices[(got != want).flatten(1).any(1)].tolist()})
    assert not wrong


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-2, 2),
    st.sampled_from(["ShearX", "ShearY", "Contrast", "Color", "Brightness", "Sharpness"]),
    st.integers(0, 1000),
)
def test_any_magnitude_is_pillows(magnitude, name, seed):
    space = SearchSpace("one", (Transform(name, magnitude),))
    images, noise, index = (
        random_images(2, 20, 23, seed),
        torch.zeros(2, 2),
        torch.zeros(2, dtype=torch.long),
    )
    assert torch.equal(
        apply_transforms(images, index, space, noise=noise), by_pillow(images, index, space, noise)
    )


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([t for t in SPACE.transforms if t.name.startswith("Translate")]),
    st.integers(1, 120),
    st.integers(1, 120),
)
def test_any_translation_is_pillows_at_any_size(transform, height, width):
    space, images, index = (
        SearchSpace("one", (transform,)),
        random_images(1, height, width),
        torch.zeros(1, dtype=torch.long),
    )
    assert torch.equal(
        apply_transforms(images, index, space), by_pillow(images, index, space, torch.zeros(1, 2))
    )


@settings(max_examples=30, deadline=None)
@given(st.floats(-400, 400), st.integers(16, 40), st.integers(16, 40))
def test_any_rotation_is_pillows(angle, height, width):
    space = SearchSpace("one", (Transform("Rotate", angle),))
    images, index = random_images(1, height, width), torch.zeros(1, dtype=torch.long)
    assert torch.equal(
        apply_transforms(images, index, space), by_pillow(images, index, space, torch.zeros(1, 2))
    )


@pytest.mark.parametrize("size", [(224, 224), (61, 300), (200, 180)])
def test_large_images_are_pillows_by_every_path(size):
    space = imagenet_space()
    indices = torch.tensor([space.indices(name)[k] for name in space.operations() for k in (0, -1)])
    coarse = random_images(len(indices), 12, 12).float()
    images = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").to(torch.uint8)
    noise = draw_noise(len(indices), torch.Generator().manual_seed(5))
    want = by_pillow(images, indices, space, noise)
    for path in ("auto", "tensor", "pillow"):
        assert torch.equal(
            apply_transforms(images, indices, space, noise=noise, path=path), want
        ), path


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.floats(0, 0.999999), st.floats(0, 0.999999))
def test_the_exact_resize_is_pillows_at_any_size(height, width, first, second):
    noise = torch.tensor([[first, second]], dtype=torch.float64)
    image, boxes = random_images(1, height, width), resized_crop_boxes(noise, height, width)
    left, top, w, h = boxes[0].tolist()
    assert 0 <= left <= width - w and 0 <= top <= height - h and w >= 1 and h >= 1
    part = Image.fromarray(image[0].permute(1, 2, 0).contiguous().numpy()).crop(
        (left, top, left + w, top + h)
    )
    want = np.array(part.resize((width, height), Image.Resampling.BICUBIC))
    assert np.array_equal(
        resize_boxes(image, torch.from_numpy(boxes))[0].permute(1, 2, 0).numpy(), want
    )


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["Solarize", "Posterize", "Cutout"]),
    st.floats(0, 1),
    st.integers(16, 60),
    st.integers(16, 60),
)
def test_magnitudes_off_the_grid_are_pillows(name, share, height, width):
    t = Transform(
        name, {"Solarize": 300 * share - 20, "Posterize": 1 + 7.9 * share, "Cutout": share}[name]
    )
    noise, image = (
        draw_noise(1, torch.Generator().manual_seed(height)),
        random_images(1, height, width),
    )
    want = pillow_transform(
        Image.fromarray(image[0].permute(1, 2, 0).contiguous().numpy()),
        t,
        SPACE,
        tuple(noise[0].tolist()),
    )
    assert np.array_equal(
        apply_drawn(image, [t], SPACE, noise)[0].permute(1, 2, 0).numpy(), np.asarray(want)
    )


def test_whole_pixels_are_cut_towards_zero():
    space = space_of("whole", {"TranslateX": [-0.4, 0.4]}, translate="whole")
    image, noise = random_images(2, 20, 32), torch.zeros(2, 2)
    moved = apply_transforms(image, torch.tensor([0, 1]), space, noise=noise)
    assert torch.equal(moved[0, :, :, 12:], image[0, :, :, :20]) and torch.equal(
        moved[1, :, :, :20], image[1, :, :, 12:]
    )
    assert torch.equal(moved, by_pillow(image, torch.tensor([0, 1]), space, noise))


def test_pieces_do_not_show(monkeypatch):
    images, indices, noise = (
        random_images(200),
        torch.arange(200) % 139,
        draw_noise(200, torch.Generator().manual_seed(1)),
    )
    whole = apply_transforms(images, indices, SPACE, noise=noise)
    monkeypatch.setattr("effdl_nb.deepaa.operations.PIECE", 3 * 1024)
    assert torch.equal(apply_transforms(images, indices, SPACE, noise=noise), whole)


def test_cutout_is_17_pixels_wide_in_the_middle_and_clipped_in_the_corner():
    cutout, black = (
        torch.tensor(SPACE.indices("Cutout")),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    )
    middle = apply_transforms(
        black, cutout, SPACE, noise=torch.full((1, 2), 0.5, dtype=torch.float64)
    )
    corner = apply_transforms(black, cutout, SPACE, noise=torch.zeros(1, 2, dtype=torch.float64))
    assert (middle[0, 0] == 125).sum() == 17 * 17 and (corner[0, 0] == 125).sum() == 9 * 9
    assert middle[0, :, 32, 32].tolist() == [125, 123, 114]


def test_flip_and_crop_draw_each_image_for_itself():
    image = random_images(1).expand(400, -1, -1, -1)
    flipped = apply_transforms(
        image, torch.full((400,), SPACE.indices("Flip")[0]), SPACE, torch.Generator().manual_seed(0)
    )
    share = (flipped != image).flatten(1).any(1).float().mean()
    assert 0.4 < share < 0.6 and torch.equal(
        flipped[(flipped != image).flatten(1).any(1)][0], image[0].flip(2)
    )
    cropped = apply_transforms(
        image, torch.full((400,), SPACE.indices("Crop")[0]), SPACE, torch.Generator().manual_seed(0)
    )
    assert 75 <= len(torch.unique(cropped.flatten(1), dim=0)) <= 81, (
        "9 x 9 places, nearly all of them in 400 draws"
    )


def test_a_seed_repeats_and_the_input_is_not_touched():
    images = random_images(50)
    before, indices = images.clone(), torch.arange(50) + 89
    first, second = (
        apply_transforms(images, indices, SPACE, torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(first, second) and torch.equal(images, before)


def test_memory_layouts_do_not_matter():
    images, indices, noise = (
        random_images(139),
        torch.arange(139),
        torch.full((139, 2), 0.2, dtype=torch.float64),
    )
    want = apply_transforms(images, indices, SPACE, noise=noise)
    assert torch.equal(
        apply_transforms(
            images.contiguous(memory_format=torch.channels_last), indices, SPACE, noise=noise
        ),
        want,
    )
    assert torch.equal(
        apply_transforms(images[:1].expand(139, -1, -1, -1), indices, SPACE, noise=noise)[0],
        want[0],
    )


def test_an_empty_batch_stays_empty():
    assert apply_transforms(random_images(0), torch.empty(0, dtype=torch.long), SPACE).shape == (
        0,
        3,
        32,
        32,
    )


@pytest.mark.parametrize(
    "images, error, match",
    [
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), ValueError, "RGB"),
        (torch.zeros(2, 2, 32, 32, dtype=torch.uint8), ValueError, "RGB"),
        (torch.zeros(2, 4, 32, 32, dtype=torch.uint8), ValueError, "RGB"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), ValueError, "shape"),
        (torch.zeros(2, 3, 32, 32), TypeError, "uint8"),
    ],
)
def test_images_that_cannot_work_raise_at_once(images, error, match):
    with pytest.raises(error, match=match):
        apply_transforms(images, torch.zeros(2, dtype=torch.long), SPACE)


@pytest.mark.parametrize(
    "indices",
    [
        torch.zeros(3, dtype=torch.long),
        torch.zeros(2),
        torch.tensor([0, 139]),
        torch.tensor([-1, 0]),
    ],
)
def test_wrong_indices_raise(indices):
    with pytest.raises(ValueError, match="indices must"):
        apply_transforms(random_images(2), indices, SPACE)


@pytest.mark.parametrize("path", ["fast", "cuda", None])
def test_an_unknown_path_raises(path):
    with pytest.raises(ValueError, match="path .* is unknown; allowed: auto, tensor, pillow"):
        apply_transforms(random_images(1), torch.zeros(1, dtype=torch.long), SPACE, path=path)


@pytest.mark.parametrize(
    "transform",
    [
        Transform("Posterize", 9.5),
        Transform("Posterize", 0.5),
        Transform("Cutout", 1.5),
        Transform("Crop", 2.0),
    ],
)
def test_magnitudes_that_cannot_work_raise(transform):
    with pytest.raises(ValueError):
        SearchSpace("bad", (transform,))
    with pytest.raises(ValueError):
        apply_drawn(random_images(1), [transform], SPACE, torch.zeros(1, 2))


def test_a_gray_image_is_a_fixed_point_of_color():
    gray = random_images(10)[:, :1].expand(-1, 3, -1, -1).contiguous()
    for n in SPACE.indices("Color"):
        assert torch.equal(apply_transforms(gray, torch.full((10,), n), SPACE), gray)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_bytes():
    for space in (SPACE, imagenet_space()):
        images, indices, noise = (
            random_images(139, 64, 70),
            torch.arange(139),
            draw_noise(139, torch.Generator().manual_seed(1)),
        )
        assert torch.equal(
            apply_transforms(images.cuda(), indices, space, noise=noise).cpu(),
            apply_transforms(images, indices, space, noise=noise),
        )


def test_a_small_batch_tabulates_only_what_it_drew():
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "effdl_nb.deepaa.operations._row",
            lambda *a, row=operations._row: (made.append(a[0]), row(*a))[1],
        )
        one = torch.zeros(1, 3, 41, 53, dtype=torch.uint8)
        apply_transforms(one, torch.tensor([7]), SPACE)
    assert made == [SPACE[7]]
