"Samples: the one image at any depth, what has a place in it raises, a clip has one draw."

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from effdl_nb.deepaa.policy import Augmented, deep_ta_policy, single_policy
from effdl_nb.deepaa.samples import find_image, kind_of, leaves, with_image
from effdl_nb.deepaa.space import cifar_space

SPACE = cifar_space()
PICTURE = Image.new("RGB", (40, 24), (200, 10, 40))
PIXELS = torch.randint(
    0, 256, (3, 24, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
Pair = namedtuple("Pair", "pixels label")


@dataclass(frozen=True)
class Frozen:
    "A dataclass that cannot be assigned to."

    pixels: object
    label: int = 3


class OwnMask(tv_tensors.Mask):
    "Somebody's mask."


class PILMask(Image.Image):
    "A mask by its name alone, as other libraries have it."


class Slotted:
    "An object without a dictionary."

    __slots__ = ("kept",)

    def __init__(self, kept):
        self.kept = kept


BOXES = tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=(24, 40))
PLACED = [
    Image.new("L", (40, 24)),
    PICTURE.copy(),
    BOXES,
    tv_tensors.Mask(torch.zeros(24, 40, dtype=torch.uint8)),
    OwnMask(torch.zeros(1, 24, 40, dtype=torch.uint8)),
    PILMask(),
    torch.zeros(24, 40, dtype=torch.int64),
    torch.zeros(24, 40, 2),
    torch.zeros(2, 24, 40),
    np.zeros((24, 40)),
    np.zeros((24, 40, 3)),
    torch.zeros(3, 9, 9, dtype=torch.uint8),
    {"boxes": torch.zeros(2, 4)},
    {"keypoints": [[1.0, 2.0, 1.0]]},
    {"annotation": {"object": [{"bndbox": {"xmin": "3"}}]}},
    [{"bbox": [1.0, 2.0, 3.0, 4.0], "segmentation": [[1.0, 2.0]]}],
]


def wrappings(image, beside):
    "Samples that hold both, in the forms that data sets have."
    yield (image, beside)
    yield [beside, {"image": image}]
    yield {"image": image, "targets": [(1, {"deep": beside})]}
    yield Pair(image, beside)
    yield Frozen(image, beside)
    yield SimpleNamespace(image=image, rest=Slotted(beside))
    yield MappingProxyType({"a": (image,), "b": OrderedDict(c=beside)})


@pytest.mark.parametrize("beside", PLACED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("image", [PICTURE, PIXELS, tv_tensors.Image(PIXELS)])
def test_what_has_a_place_in_the_picture_raises_at_any_depth(image, beside):
    step = deep_ta_policy(SPACE).as_transform()
    for sample in wrappings(image, beside):
        with pytest.raises(TypeError, match="moves pixels but not"):
            step(sample)
        with pytest.raises(TypeError, match="moves pixels but not"):
            Augmented([sample], step.policy)[0]
    with pytest.raises(TypeError, match="moves pixels but not"):
        step(image, beside)


@pytest.mark.parametrize(
    "beside",
    [
        3,
        "mask.png",
        None,
        torch.tensor(3),
        torch.rand(10),
        {"mask": False, "mask_path": "a.png", "checkpoint": 3, "attention_mask": torch.ones(7)},
        [1, 2, {"words": ["a", "b"]}],
        np.float64(0.5),
        torch.zeros(5, 7),
    ],
)
@pytest.mark.parametrize("image", [PICTURE, PIXELS])
def test_labels_words_and_features_pass(image, beside):
    step = single_policy(SPACE, "Invert").as_transform()
    for sample in wrappings(image, beside):
        before, after = list(leaves(sample)), list(leaves(step(sample)))
        assert type(step(sample)) in (type(sample), dict)
        assert [leaf.path for leaf in before] == [leaf.path for leaf in after]
        rest = [(a, b) for a, b in zip(before, after, strict=True) if a.value is not image]
        assert all(a.value is b.value for a, b in rest)
        changed = find_image(step(sample)).value
        assert np.array_equal(255 - np.asarray(changed), np.asarray(image))
        assert find_image(sample).value is image, "the caller's sample keeps its image"


def test_labels_of_a_batch_are_no_masks():
    step = single_policy(SPACE, "Invert").as_transform()
    batch, soft = torch.zeros(32, 3, 32, 32, dtype=torch.uint8), torch.rand(32, 32)
    images, labels = step(batch, soft)
    assert images.eq(255).all() and labels is soft
    with pytest.raises(TypeError, match="not Tensor"):
        step(batch, torch.zeros(32, 32, 32))


def test_a_sample_without_an_image_raises():
    step = deep_ta_policy(SPACE).as_transform()
    for sample in ((), {}, (1, "a"), np.zeros((8, 8, 3), np.uint8), torch.zeros(3)):
        with pytest.raises(TypeError, match="must be a PIL image or a uint8 tensor"):
            step(sample)
    for placed in (tv_tensors.Mask(PIXELS), OwnMask(PIXELS)):
        with pytest.raises(TypeError, match="moves pixels but not"):
            step(placed)
        with pytest.raises(TypeError, match="moves pixels but not"):
            step.policy(type(placed)(PIXELS[None]))


@pytest.mark.parametrize("seed", range(6))
def test_a_clip_has_one_draw(seed):
    step = deep_ta_policy(SPACE, 3).as_transform()
    clip = tv_tensors.Video(PIXELS.repeat(5, 1, 1, 1))
    torch.manual_seed(seed)
    out = step({"frames": clip, "label": 1})["frames"]
    torch.manual_seed(seed)
    assert type(out) is tv_tensors.Video and out.eq(step(PIXELS)).all()
    torch.manual_seed(seed)
    two = step(tv_tensors.Video(torch.stack([clip, clip])))
    assert two.eq(two[:, :1]).all(), "the frames of a clip are alike"
    torch.manual_seed(seed)
    batch = step(PIXELS[None].repeat(2, 1, 1, 1))
    assert torch.equal(two[:, 0].as_subclass(torch.Tensor), batch), "two clips have two draws"
    keyed = Augmented([(clip, 2)], step.policy, seed=seed)
    assert keyed[0][0].eq(Augmented([(PIXELS, 2)], step.policy, seed=seed)[0][0]).all()
    with pytest.raises(TypeError, match="not a Video"):
        step.policy(clip)


def test_kinds_and_replacing():
    assert kind_of(type("Masked", (torch.Tensor,), {})) == "placed"
    assert kind_of(torch.nn.Parameter) == "tensor"
    sample = {"a": [Frozen(PICTURE)]}
    other = with_image(sample, ("a", 0, "pixels"), "new")
    assert other == {"a": [Frozen("new")]} and sample["a"][0].pixels is PICTURE
