"""What a user's program looks like to a type checker: every public face, called as documented.

`ty check` reads this file with every rule on; nothing here runs.
"""

from pathlib import Path
from typing import assert_type

from torch import Tensor, nn

from effdl_nb import data, msunet, networks, training
from effdl_nb.condensation import METHODS, CondensedSet, condense, defaults, evaluate
from effdl_nb.condensation.evaluation import Evaluation
from effdl_nb.deepaa import load_policy, save_policy, search_policy
from effdl_nb.deepaa.policy import Augmentation
from effdl_nb.msunet import (
    MagnitudePruner,
    deploy,
    export,
    load_packed,
    micronet_score,
    save_packed,
)
from effdl_nb.msunet.score import Score
from effdl_nb.prepared import ImageDataset


def sets(images: ImageDataset, folder: Path) -> None:
    made = condense(images, "dm", 10, progress=False, device="cpu")
    assert_type(made, CondensedSet)
    made.save(folder / "set.safetensors", whitening=True)
    again = CondensedSet.load(folder / "set.safetensors")
    assert_type(again, CondensedSet)
    assert_type(again.refit(images.train.images), CondensedSet)
    assert_type(again.merge(made), CondensedSet)
    assert_type(again.to_raw(), Tensor)
    assert_type(again.lr, float | None)
    result = evaluate(again, images, runs=2, progress=False)
    assert_type(result, Evaluation)
    assert_type(result.mean, float)
    assert_type(result.deviation, float | None)
    assert_type(METHODS["mtt"].title, str)
    assert_type(defaults("mtt"), dict)


def networks_and_training(folder: Path) -> None:
    images = data.load("cifar10-sample", train_size=100)
    assert_type(images, ImageDataset)
    model = networks.build("wrn-16-2", images.num_classes, norm="batch")
    assert_type(model, nn.Module)
    plan = training.TrainConfig(epochs=1, batch_size=10)
    history = training.train(model, images.train.images, images.train.labels, plan)
    assert_type(history, training.History)


def scores(folder: Path) -> None:
    network = msunet.msunet("v3", width=0.25)
    MagnitudePruner(network, {"ternary": 0.5})
    score = micronet_score(network, (3, 32, 32), sparsity={"ternary": 0.5})
    assert_type(score, Score)
    assert_type(score.by_module["classifier"].params, float)
    save_packed(deploy(network), folder / "net.safetensors")
    assert_type(load_packed(folder / "net.safetensors"), nn.Module)
    assert_type(export(network, folder / "net.onnx"), float)


def policies(images: ImageDataset, folder: Path) -> None:
    policy = search_policy(images, "deepaa", device="cpu")
    assert_type(policy, Augmentation)
    save_policy(policy, folder / "policy.json")
    assert_type(load_policy(folder / "policy.json"), Augmentation)
