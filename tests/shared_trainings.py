"What the processes of a test train: functions that another process can find by name."

import os
from dataclasses import replace
from pathlib import Path

import torch
from ranks import die_at
from safetensors.torch import save_file
from torch import nn
from toys import TINY_MSUNET

from effdl_nb import together
from effdl_nb.checkpoints import join
from effdl_nb.condensation import experts
from effdl_nb.msunet import stages

MSUNET = replace(
    TINY_MSUNET,
    train_size=10,
    stage1=replace(TINY_MSUNET.stage1, epochs=3),
    stage2=replace(TINY_MSUNET.stage2, epochs=3),
)
EXPERT = experts.ExpertConfig(network="convnet-2", width=4, epochs=3, lr=0.05, batch_size=10)


class GroupNorm(nn.GroupNorm):
    "A norm that does not see the other images of the batch."

    def __init__(self, channels):
        super().__init__(1, channels)


def rank() -> str:
    return os.environ.get("RANK", "0")


def _hooked(module, hook, stage):
    "Let a module's `train` call a hook as well, in its training number `stage`."
    train, calls = module.train, []

    def hooked(*arguments, on_step=None, **options):
        calls.append(1)

        def both(*now):
            hook(*now)
            if on_step is not None:
                on_step(*now)

        chosen = both if len(calls) == stage else on_step
        return train(*arguments, on_step=chosen, **options)

    module.train = hooked


def msunet(out, name, work, consistency="off", plain_norm=False, kill=None):
    """Train both stages; weights, statistics, losses and accuracy of this process are kept.

    `plain_norm`: nothing that depends on how the images are shared out.
    """
    if kill is not None:
        _hooked(stages, die_at(kill[1], 1), kill[0])
    norm = nn.BatchNorm2d
    nn.BatchNorm2d = GroupNorm if plain_norm else norm
    try:
        augment = "none" if plain_norm else "released"
        settings = replace(MSUNET, consistency=consistency, augment=augment)
        trained = stages.train_msunet(settings, 3, Path(work), progress=False)
    finally:
        nn.BatchNorm2d = norm
    run = {"loss": trained.loss, "accuracy": [trained.accuracy, trained.accuracy_stage1]}
    tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in run.items()}
    save_file(trained.model.state_dict() | tensors, Path(out) / f"{name}.{rank()}")


def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(30, 3, 8, 8, generator=generator), torch.arange(30) % 3


def expert(out, name, strategy="none", scratch=None, kill=None):
    "Train one expert; its epochs and losses are kept."
    if kill is not None:
        _hooked(experts, die_at(kill, 1), 1)
    config = replace(EXPERT, strategy=strategy)
    weights, losses = experts.train_expert(*images(), 3, config, scratch=scratch)
    save_file(weights | {"loss": torch.tensor(losses)}, Path(out) / f"{name}.{rank()}")


def folder(where, count, die_with=None):
    "Train a folder of experts, each process by itself; the files `made` tell who made which."
    make = experts.train_expert

    def noted(*arguments, **options):
        with open(Path(where) / "made", "a") as file:
            file.write(f"{arguments[4]} {rank()}\n")
        made = make(*arguments, **options)
        if die_with == rank():
            os._exit(9)  # the expert is trained and not written
        return made

    experts.train_expert = noted
    try:
        with together.apart():
            experts.train_experts(where, *images(), 3, count, EXPERT, progress=False)
    finally:
        experts.train_expert = make


def locked(out):
    "What processes agree on: a lock, a file that one of them sees, buffers, a step."
    model = nn.BatchNorm1d(2)
    model.running_mean.fill_(int(rank()))
    join("cpu", model)
    with together.lock_together(Path(out) / "made") as is_there:
        (Path(out) / f"there.{rank()}").write_text(str(is_there))
    together.take_over_buffers(model)
    assert model.running_mean.tolist() == [0.0, 0.0]
    assert together.told_by_all(rank()) == ["0", "1"]
    together.check_agreed("a step", 3)
    together.check_agreed("a step", rank())
