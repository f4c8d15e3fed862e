"Activations in half precision: nearly the same steps, the same bits again, and errors in words."

import pytest
import torch

from effdl_nb.condensation.condensing import condense
from effdl_nb.condensation.evaluation import EvaluationConfig, evaluate
from effdl_nb.condensation.methods import configure
from effdl_nb.data import load
from effdl_nb.machine import fast_precision, settled_precision

SHORT = {"width": 8, "iterations": 3}
TRAJECTORY = {"experts": {"count": 1, "epochs": 2}, "student_steps": 3, "expert_steps": 1}
TRAJECTORY |= {"first_start": 1, "max_start": 1}


@pytest.fixture(scope="module")
def sample():
    return load("cifar10-sample", train_size=200, test_size=50)


def made(sample, method, **options):
    how = {"preset": "small", "device": "cpu", "progress": False}
    return condense(sample, method, **how, **SHORT, **options)


@pytest.mark.parametrize("method", ["dc", "dm", "cafe", "mtt", "iatm"])
def test_half_precision_moves_the_images_nearly_alike_and_is_noted(sample, method):
    options = dict(TRAJECTORY) if method in ("mtt", "iatm") else {}
    single = made(sample, method, **options)
    half = made(sample, method, **options, precision="bf16")
    again = made(sample, method, **options, precision="bf16")
    assert torch.equal(half.images, again.images) and not torch.equal(half.images, single.images)
    assert (single.details["precision"], half.details["precision"]) == ("fp32", "bf16")
    start = made(sample, method, **{**options, "image_lr": 0.0}).images
    moves = [(each.images - start).flatten() for each in (single, half)]
    assert torch.nn.functional.cosine_similarity(*moves, dim=0) > 0.8


def test_auto_is_settled_by_the_device_and_unknown_ones_raise():
    assert settled_precision("auto") == fast_precision()
    assert settled_precision("bf16") == "bf16" and settled_precision("auto", "cuda") == "bf16"
    for method in ("dc", "mtt"):
        with pytest.raises(ValueError, match="precision 'fp8' is unknown; allowed: fp32, bf16"):
            configure(method, options={"precision": "fp8"})


def test_an_evaluation_in_half_precision_is_close(sample):
    condensed = condense(sample, "random", progress=False)
    run = {"runs": 2, "epochs": 20, "width": 8}
    values = [
        evaluate(condensed, sample, EvaluationConfig(**run, precision=p), progress=False).values
        for p in ("fp32", "bf16")
    ]
    assert abs(sum(values[0]) - sum(values[1])) / 2 < 12
