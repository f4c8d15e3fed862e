"""Properties of effdl_nb.msunet.experiments that its notebook does not show."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from effdl_nb import spec
from effdl_nb.msunet.experiments import (
    TechniqueSettings,
    count,
    techniques,
    trained_and_counted,
    zeros_by_layer,
)
from effdl_nb.msunet.network import msunet
from effdl_nb.msunet.packing import load_packed
from effdl_nb.msunet.recipe import FirstStage, MSUNetSettings, SecondStage
from effdl_nb.provenance import code_hash
from effdl_nb.spec import Task

TINY = MSUNetSettings(
    dataset="cifar10-sample",
    train_size=20,
    test_size=10,
    image_size=16,
    width=0.125,
    variant="v0",
    batch_size=10,
    stage1=FirstStage(epochs=1, schedule="cosine", alpha_ramp=(0.0, 0.5)),
    stage2=SecondStage(epochs=1, prune_until=0.5),
)
METRICS = {
    "accuracy",
    "flops",
    "params",
    "score",
    "flops_trained",
    "params_trained",
    "score_trained",
    "score_official",
}


@pytest.mark.parametrize("kind", ["none", "binary", "ternary"])
def test_rows_are_json_and_leave_the_shared_stage_and_the_packed_network(tmp_path, kind):
    settings = dataclasses.replace(TINY, quantization=kind, pruning="full")
    result = trained_and_counted(Task("any", settings, 3, tmp_path, progress=False))
    json.dumps(result, allow_nan=False)
    assert set(result) == METRICS | {"details"}
    assert 0 <= result["accuracy"] <= 100 and len(result["details"]["loss"]) == 2
    assert len(result["details"]["zeros_by_layer"]) == 36
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".lock"}
    (packed,) = (path for path in files if path.parent.name == "msunet-networks")
    files.remove(packed)
    assert {path.parent.name.rpartition("-")[0] for path in files} == {"msunet-stage1"}
    assert load_packed(packed).layer_roles()
    same = math.isclose(result["flops"], result["flops_trained"], rel_tol=2e-3)
    assert same == (kind != "ternary"), "only ternary zeros are not by design"


def test_counts_of_table_2_3():
    counts = {
        kind: count(MSUNetSettings(variant="v0", quantization=kind))
        for kind in ("none", "binary", "ternary")
    }
    assert counts["none"].params == 1_536_320
    assert math.isclose(counts["ternary"].params - counts["binary"].params, 16_448)
    assert (
        round(counts["binary"].flops / 1e6, 3) == 210.921
        and round(counts["ternary"].flops / 1e6, 3) == 125.495
    )
    more = count(
        MSUNetSettings(variant="v0"),
        {name: 0.75 for name, c in counts["ternary"].by_module.items() if c.quantized},
    )
    assert more.flops < counts["ternary"].flops and more.params < counts["ternary"].params


def test_one_rule_for_all_counts_techniques_and_not_rules():
    for policy in ("official", "msunet-v3"):
        counts = [
            count(MSUNetSettings(variant=name, recipe="thesis"), policy=policy)
            for name in ("v0", "v1", "v2", "v3")
        ]
        assert counts[1].flops == counts[2].flops and counts[1].params == counts[2].params, (
            "a loss is no part of the network"
        )
        assert (
            counts[0].flops > counts[1].flops > counts[3].flops
            and counts[0].score > counts[1].score > counts[3].score
        )
    released = [
        count(MSUNetSettings(variant=name), policy="official").score
        for name in ("v0", "v1", "v2", "v3")
    ]
    assert released == sorted(released, reverse=True)


def test_zeros_are_those_of_the_weights_that_compute():
    model = msunet("v0", 0.125, 10)
    zeros = zeros_by_layer(model)
    assert all(
        abs(zeros[name] - 0.5) < 0.1
        for name, role in model.layer_roles().items()
        if role == "ternary"
    )
    with torch.no_grad():
        for name, module in model.named_modules():
            if model.layer_roles().get(name) == "se":
                module.weight[0] = 0
    assert all(share > 0 for name, share in zeros_by_layer(model).items() if ".se." in name)


def test_the_ablation_is_a_full_design_on_one_network():
    table = spec.load_tables()["table_2_a"]
    plan = spec.Plan(seeds=(0,), columns=tuple(table.columns))
    cells = [spec.settings_of(table, plan, row, "accuracy") for row in table.rows]
    assert len({(s.quantization, s.consistency, s.pruning) for s in cells}) == len(cells) == 20
    assert {(s.variant, s.stage2.epochs) for s in cells} == {("v0", 160)}
    for row, s in zip(table.rows, cells, strict=True):
        assert (
            row
            == f"{s.quantization}_{s.consistency}_{'pruned' if s.pruning == 'full' else 'dense'}"
        )


def test_rows_of_table_2_1_follow_the_variants():
    table = spec.load_tables()["table_2_1"]
    for key, row in table.rows.items():
        settings = TechniqueSettings(**row.settings)
        assert key == settings.variant + ("_released" if settings.recipe == "released" else "")
        thesis = spec.load_thesis()["table_2_1"].get(key)
        measured = techniques(Task(key, settings, 0, Path(".")))
        if thesis:
            assert [
                measured["ternary_layers"] > 0,
                measured["se_sparsity"] > 0,
                measured["consistency"] > 0,
                measured["bits"] < 32,
            ] == [thesis[c] for c in ("ternary", "sparse_se", "consistency", "mixed_precision")]


def test_a_trained_row_depends_on_all_that_made_it_and_a_described_one_on_little():
    trained = "effdl_nb.msunet.experiments:trained_and_counted"
    assert code_hash(trained) == code_hash(trained, "effdl_nb.msunet.costs:RULES")
    assert code_hash(trained) == code_hash(trained, "effdl_nb.msunet.pruning:MagnitudePruner")
    assert code_hash(trained) != code_hash(trained, "effdl_nb.msunet.packing:save_packed")
    described = "effdl_nb.msunet.experiments:techniques"
    assert code_hash(described) != code_hash(described, "effdl_nb.msunet.score:micronet_score")
