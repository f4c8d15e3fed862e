"""People's own arrays and data sets: what is read, and what raises an error instead."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from effdl_nb.data import ImageDataset
from effdl_nb.opening import open_dataset

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
LABELS = np.arange(12) % 3


class Items(Dataset):
    "A data set made of a function."

    def __init__(self, give, count=12):
        self.give, self.count = give, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return self.give(i)


class Named(Items):
    "Dictionaries, in the form of Hugging Face's data sets."

    features = {"image": object(), "label": type("ClassLabel", (), {"names": ["a", "b", "c"]})()}


def shuffled(i):
    "Another image each time."
    return torch.rand(3, 8, 8), i % 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((IMAGES, LABELS + 1), "no training image has label 0, labels go to 3"),
        ((IMAGES, LABELS * 2), "no training image has label 1, labels go to 4"),
        ((IMAGES, LABELS, IMAGES, LABELS + 1), "no training image has label 3, labels go to 2"),
        ((IMAGES, np.array(["a", "b", "c"])[LABELS]), "labels must be numbers, not a ndarray of"),
        ((IMAGES, None), "labels must be numbers, not None"),
        ((IMAGES, LABELS[:, None]), r"must have shape \(N,\), not \(12, 1\)"),
        ((IMAGES, np.eye(3)[LABELS]), "must be whole numbers, not torch.float64"),
        (((IMAGES, LABELS), (IMAGES, LABELS)), "images must be one array, not a tuple of ndarray"),
        ((IMAGES, LABELS, IMAGES[..., :4], LABELS), r"test images must be \(3, 8, 8\)"),
        ((IMAGES[:0], LABELS[:0]), "must have a training image, not 0"),
        ((IMAGES.astype(int), LABELS), "uint8 or floats"),
    ],
)
def test_arrays_that_do_not_fit_raise_and_say_what_they_are(given, words):
    with pytest.raises(ValueError, match=words):
        ImageDataset.from_arrays(*given)


def test_named_classes_may_lack_images():
    made = ImageDataset.from_arrays(IMAGES, LABELS * 2, classes=("a", "b", "c", "d", "e"))
    assert made.num_classes == 5 and made.train.labels.bincount().tolist() == [4, 0, 4, 0, 4]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (Items(shuffled), "gives another image each time item 0 is read"),
        (DataLoader(Items(shuffled), 4), "gives another image each time item 0 is read"),
        (Items(lambda i: {"pixels": 1, "y": 2}), "item 0 is a dict of 'pixels', 'y'"),
        (Items(lambda i: (torch.rand(3, 8, 8), 0, 0)), "item 0 is a tuple of Tensor, 0, 0"),
        (Items(lambda i: (Image.new("RGB", (8 + i, 8)), 0)), "equal size"),
        (Items(None, 0), "torch data set"),
        (7, "torch data set"),
    ],
)
def test_items_that_are_no_image_and_label_raise(items, words):
    with pytest.raises(ValueError, match=words):
        ImageDataset.from_dataset(items, progress=False)


def test_every_form_of_the_same_images_is_the_same_data_set():
    pairs = TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))
    named = Named(lambda i: {"image": IMAGES[i].transpose(1, 2, 0), "label": int(LABELS[i])})
    arrays = ImageDataset.from_arrays(IMAGES.transpose(0, 2, 3, 1), LABELS)
    for items in (pairs, DataLoader(pairs, 5), named):
        opened = open_dataset(items, progress=False)
        assert torch.equal(opened.train.images, arrays.train.images)
        assert torch.equal(opened.train.labels, arrays.train.labels)
        assert opened.mean == arrays.mean and opened.std == arrays.std
        assert opened.classes == (("a", "b", "c") if items is named else ("0", "1", "2"))


def test_a_loader_may_make_pairs_of_dictionaries():
    items = Items(lambda i: {"x": torch.from_numpy(IMAGES[i]), "y": int(LABELS[i])})

    def collate(batch):
        return torch.stack([b["x"] for b in batch]), torch.tensor([b["y"] for b in batch])

    opened = ImageDataset.from_dataset(DataLoader(items, 5, collate_fn=collate))
    assert torch.equal(opened.train.images, torch.from_numpy(IMAGES))
