"Accuracy counts every image once and leaves the model as it was."

import pytest
import torch
import torch.nn.functional as F

from effdl_nb.accuracy import Labelled, accuracy_of
from effdl_nb.networks import build


def test_evaluate_restores_the_mode_and_counts_the_last_batch():
    g = torch.Generator().manual_seed(0)
    data = (
        torch.randint(0, 256, (70, 3, 8, 8), generator=g, dtype=torch.uint8),
        torch.randint(0, 10, (70,), generator=g),
    )
    torch.manual_seed(0)
    model = build("small-convnet", width=2, image_size=8).train()
    values = {
        accuracy_of(model, *data, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), batch_size=b)
        for b in (1, 16, 69, 70, 500)
    }
    assert len(values) == 1 and model.training
    soft = F.one_hot(data[1], 10).float()
    assert (
        accuracy_of(model.eval(), data[0], soft, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
        in values
        and not model.training
    )
    with pytest.raises(ValueError, match="no images"):
        accuracy_of(model, data[0][:0], data[1][:0])


def test_types_of_labels_images_and_models_need_not_agree():
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(12) % 10
    model = build("small-convnet", width=2, image_size=8)
    right = accuracy_of(model, images, labels)
    assert accuracy_of(model, images, labels.int()) == right
    assert accuracy_of(model.double(), images, labels) == right
    for half in (model.bfloat16(), model.half()):
        assert 0 <= accuracy_of(half, images, labels) <= 100
    assert Labelled(images, labels.int()).labels.dtype == torch.int64
    flat = F.one_hot(labels, 10).float()[:, :, None, None]
    assert accuracy_of(torch.nn.Flatten(), flat, labels) == 100, "no parameters"
