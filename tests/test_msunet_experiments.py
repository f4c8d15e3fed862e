"""Properties and faults of effdl_nb.msunet.experiments that its notebook does not show."""

import dataclasses
import json
import math

import pytest
import torch

from effdl_nb.msunet import experiments
from effdl_nb.msunet.experiments import ROWS, QuantizationSettings, color_jitter, count_row, quantization, random_erasing, released_augmentation

TINY = QuantizationSettings(
    dataset="cifar10-sample", train_size=20, test_size=10, width=0.125, epochs=2, batch_size=10, schedule="cosine", alpha_ramp=(0.0, 0.5)
)


def test_rows_are_json_and_paired_by_seed(tmp_path):
    for row in ROWS:
        result = quantization(row, TINY, 3, tmp_path / row)
        json.dumps(result, allow_nan=False)
        assert set(result) == {"accuracy", "flops", "params", "score", "flops_trained", "params_trained", "score_trained", "details"}
        assert 0 <= result["accuracy"] <= 100 and len(result["details"]["loss"]) == 2
        assert len(result["details"]["zeros_by_layer"]) == (0 if row == "float" else 18)
        assert not list((tmp_path / row).iterdir())


def test_a_row_does_not_touch_the_global_random_state_and_does_not_depend_on_it(tmp_path):
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(quantization("ternary", TINY, 0, tmp_path))
        assert torch.equal(torch.get_rng_state(), state)
    assert results[0] == results[1]


def test_an_interrupted_row_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    expected = quantization("ternary", TINY, 0, tmp_path / "whole")
    evaluate = experiments.evaluate

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantization("ternary", TINY, 0, tmp_path / "parts")
    assert len(list((tmp_path / "parts").iterdir())) == 1, "the checkpoint stays until the row is done"
    monkeypatch.setattr(experiments, "evaluate", evaluate)
    assert quantization("ternary", TINY, 0, tmp_path / "parts") == expected


def test_profiles_may_set_exactly_these_fields():
    sizes = {"dataset", "train_size", "test_size", "width", "epochs", "batch_size"}
    recipe = {"lr", "weight_decay", "schedule", "warmup", "milestones", "alpha", "alpha_ramp", "precision", "augment", "channels_last"}
    assert sizes | recipe == {f.name for f in dataclasses.fields(QuantizationSettings)}


@pytest.mark.parametrize("field, value, message", [
    ("schedule", "linear", "allowed are step, cosine"),
    ("precision", "fp16", "allowed are fp32, bf16"),
    ("augment", "", "allowed are released, crop-flip, none"),
    ("alpha_ramp", (0.5, 1.5), r"alpha_ramp is \(0.5, 1.5\)"),
    ("alpha_ramp", (0.5,), "two fractions"),
    ("milestones", (300,), "fractions of the training"),
    ("warmup", -0.1, "warmup is -0.1"),
    ("epochs", 0, "epochs is 0"),
    ("width", 0.0, "width 0.0"),
    ("alpha", -1.0, "alpha -1.0"),
])
def test_wrong_settings_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **{field: value})


def test_unknown_rows_and_data_sets_are_named(tmp_path):
    with pytest.raises(ValueError, match="row is 'int8'; allowed are float, binary, ternary"):
        quantization("int8", TINY, 0, tmp_path)
    with pytest.raises(ValueError, match="cifar11"):
        quantization("float", dataclasses.replace(TINY, dataset="cifar11"), 0, tmp_path)


def test_counts_of_table_2_3():
    counts = {row: count_row(row) for row in ROWS}
    assert counts["float"].params == 1_536_320
    assert math.isclose(counts["ternary"].params - counts["binary"].params, 16_448)
    assert round(counts["binary"].flops / 1e6, 3) == 210.921 and round(counts["ternary"].flops / 1e6, 3) == 125.495
    more = count_row("ternary", {name: 0.75 for name in [n for n, c in counts["ternary"].by_module.items() if c.quantized]})
    assert more.flops < counts["ternary"].flops and more.params < counts["ternary"].params


def test_bf16_trains(tmp_path):
    result = quantization("ternary", dataclasses.replace(TINY, precision="bf16", epochs=1, augment="none"), 0, tmp_path)
    assert math.isfinite(result["details"]["loss"][0])


def test_augmentations_follow_their_generator_and_draw_for_each_image():
    images = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).expand(16, -1, -1, -1)
    for augment in (color_jitter, random_erasing, released_augmentation):
        first, second = (augment(images, torch.Generator().manual_seed(5)) for _ in range(2))
        assert first.dtype == torch.uint8 and first.shape == images.shape and torch.equal(first, second)
        assert len({image.numpy().tobytes() for image in first}) > 4


def test_erasing_blackens_one_rectangle():
    white = torch.full((200, 3, 24, 32), 255, dtype=torch.uint8)
    out = random_erasing(white, torch.Generator().manual_seed(0), p=1.0)
    for image in out:
        black = image == 0
        assert torch.equal(black[0], black[1]) and black.any()
        rows, cols = black[0].any(1), black[0].any(0)
        assert black[0].sum() == rows.sum() * cols.sum()
    assert torch.equal(random_erasing(white, torch.Generator().manual_seed(0), p=0.0), white)
