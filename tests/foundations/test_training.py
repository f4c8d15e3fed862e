"""Properties and faults of effdl_nb.training that its notebook does not show."""

import contextlib
import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from effdl_nb import files, training
from effdl_nb.augmentation import crop_flip, mix_batch
from effdl_nb.checkpoints import CheckpointError, stream_seed
from effdl_nb.networks import build
from effdl_nb.optimization import TrainConfig, lr_at
from effdl_nb.prepared import normalize
from effdl_nb.training import NonFiniteLoss, accuracy_of, train

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CONFIG = TrainConfig(epochs=2, batch_size=16, lr=0.05, seed=1)


@pytest.fixture(scope="module")
def data():
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (70, 3, 8, 8), generator=g, dtype=torch.uint8), torch.randint(
        0, 10, (70,), generator=g
    )


def network(seed=0):
    torch.manual_seed(seed)
    return build("small-convnet", width=2, image_size=8)


def same(a, b):
    return all(
        torch.equal(p, q)
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def fit(data, config=CONFIG, model=None, **kw):
    model = network() if model is None else model
    kw = {"mean": MEAN, "std": STD, "progress": False} | kw
    return model, train(model, *data, config, **kw)


def test_train_steps_with_lr_at(data):
    c = replace(CONFIG, schedule="step", milestones=(1,), gamma=0.1, warmup_epochs=0.4)
    seen = []
    _, history = fit(
        data,
        c,
        loss=lambda model, x, y: (
            seen.append(model.body[0].weight.detach().clone()),
            model(x).sum() * 0,
        )[1],
    )
    assert history.lr == [lr_at(4, c, 5, 10), lr_at(9, c, 5, 10)] == pytest.approx([0.05, 0.005])
    # a zero gradient leaves only decay: w <- (1 - lr v) w with momentum 0;
    # with momentum .9 the velocity accumulates the decay
    w = v = None
    for s, weight in enumerate(seen):
        if w is not None:
            torch.testing.assert_close(weight, w)
        w, v = weight, c.weight_decay * weight if v is None else 0.9 * v + c.weight_decay * weight
        w = w - lr_at(s, c, 5, 10) * v


# the run


def plain(model, data, config):
    images, labels = data
    x = ((images.float() / 255) - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(
        1, 3, 1, 1
    )
    g = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.SGD(
        [
            {
                "params": [p for p in model.parameters() if p.ndim > 1],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )
    model.train()
    for _ in range(config.epochs):
        for index in torch.randperm(len(images), generator=g).split(config.batch_size):
            if config.drop_last and len(index) < config.batch_size:
                continue
            optimizer.zero_grad()
            F.cross_entropy(
                model(x[index]), labels[index], label_smoothing=config.label_smoothing
            ).backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.0},
        {"nesterov": True},
        {"weight_decay": 0.1},
        {"drop_last": True},
        {"clip_norm": 0.1},
        {"label_smoothing": 0.2},
    ],
)
def test_equals_a_plain_loop_bit_for_bit(data, changes):
    config = replace(CONFIG, schedule="constant", **changes)
    assert same(fit(data, config)[0], plain(network(), data, config))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"channels_last": True},
        {"mix": "mixup"},
        {"mix": "cutmix"},
        {"batch_repeats": 3},
        {"momentum": 0.0},
        {"seed": 2},
    ],
)
def test_two_runs_are_equal_and_the_global_state_is_not_touched(data, changes):
    config = replace(CONFIG, **changes)
    first, history = fit(data, config, augment=crop_flip)
    torch.manual_seed(123)
    torch.rand(5)
    model, before = copy.deepcopy(first), torch.get_rng_state()
    model.load_state_dict(network().state_dict())
    torch.set_rng_state(before)
    again = train(model, *data, config, mean=MEAN, std=STD, augment=crop_flip, progress=False)
    assert torch.equal(before, torch.get_rng_state())
    assert same(model, first) and again.loss == history.loss
    assert all(p.is_contiguous() for p in first.parameters()) and not first.training


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"mix": "mixup"},
        {"mix": "cutmix"},
        {"batch_repeats": 3},
        {"seed": 2},
        {"clip_norm": 0.01},
        {"label_smoothing": 0.1},
    ],
)
def test_every_switch_does_something(data, changes):
    assert not same(
        fit(data, augment=crop_flip)[0], fit(data, replace(CONFIG, **changes), augment=crop_flip)[0]
    )


def test_the_global_state_is_restored_after_an_error(data):
    model = network()
    before = torch.get_rng_state()

    def fail(model, step, epoch):
        torch.rand(3)
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        fit(data, model=model, on_step=fail)
    assert torch.equal(before, torch.get_rng_state())


def test_callbacks_and_history(data):
    steps, epochs = [], []
    _, history = fit(
        data, on_step=lambda m, s, e: steps.append((s, e)), on_epoch=lambda m, e: epochs.append(e)
    )
    # ceil(70 / 16) = 5 steps
    assert steps == [(s, s / 5) for s in range(10)] and epochs == [0, 1, 2]
    assert history.steps == 10 and len(history.loss) == len(history.lr) == 2 and history.seconds > 0


def test_steps_override_epochs(data):
    epochs = []
    model, history = fit(data, replace(CONFIG, steps=7), on_epoch=lambda m, e: epochs.append(e))
    assert history.steps == 7 and epochs == [0, 1, 2] and len(history.loss) == 2
    assert same(fit(data, replace(CONFIG, steps=0))[0], network())
    assert not same(model, network())


def test_a_callback_may_evaluate(data):
    accuracies = []
    with_callback, _ = fit(
        data, on_epoch=lambda m, e: accuracies.append(accuracy_of(m, *data, mean=MEAN, std=STD))
    )
    assert same(with_callback, fit(data)[0]) and len(accuracies) == 3


def test_epoch_loss_is_the_mean_over_images(data):
    # a constant network: the loss of each image never changes, so the epoch's mean is known in
    # spite of an incomplete last batch
    images, labels = data
    _, history = fit(
        data,
        replace(CONFIG, lr=0.0, weight_decay=0.0),
        loss=lambda model, x, y: model(x).sum() * 0 + y.float().mean(),
    )
    assert history.loss == pytest.approx([labels.float().mean().item()] * 2)


def test_hard_and_one_hot_labels_agree(data):
    images, labels = data
    hard, soft = fit(data)[0], fit((images, F.one_hot(labels, 10).float()))[0]
    assert all(
        torch.allclose(p, q, atol=1e-5)
        for p, q in zip(hard.parameters(), soft.parameters(), strict=True)
    )


def test_float_images_are_taken_as_they_are(data):
    images, labels = data
    floats = normalize(images, MEAN, STD)
    assert same(fit((floats, labels), mean=None, std=None)[0], fit(data)[0])


def test_memory_mapped_images(data, tmp_path):
    images, labels = data
    np.save(tmp_path / "images.npy", images.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="r+"))
    assert same(fit((mapped, labels))[0], fit(data)[0])


def test_clipping_bounds_the_first_update(data):
    config = replace(CONFIG, steps=1, clip_norm=0.01, weight_decay=0.0, lr=1.0, schedule="constant")
    before, after = network(), fit(data, config)[0]
    update = torch.cat(
        [(p - q).flatten() for p, q in zip(before.parameters(), after.parameters(), strict=True)]
    ).norm()
    assert update.item() == pytest.approx(0.01, rel=1e-3)


def test_too_little_data_names_the_sizes(data):
    few = data[0][:5], data[1][:5]
    with pytest.raises(ValueError, match="5 images make no batch of 16 with drop_last=True"):
        fit(few, replace(CONFIG, drop_last=True))
    with pytest.raises(ValueError, match="0 images"):
        fit((data[0][:0], data[1][:0]))
    assert fit(few)[1].steps == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x, y: {"images": x[0]}, "N, C, H, W"),
        (lambda x, y: {"images": x.long()}, "uint8 or floating"),
        (lambda x, y: {"labels": y[:-1]}, "70 images"),
        (lambda x, y: {"labels": y.float()}, "labels"),
        (lambda x, y: {"std": None}, "given together"),
        (lambda x, y: {"images": x.float()}, "as they are"),
        (
            lambda x, y: {
                "config": replace(CONFIG, mix="mixup"),
                "loss": lambda m, a, b: m(a).sum(),
            },
            "custom loss",
        ),
        (lambda x, y: {"checkpoint_every": 0}, "checkpoint_every"),
    ],
)
def test_arguments_that_do_not_fit(data, change, word):
    arguments = {
        "images": data[0],
        "labels": data[1],
        "config": CONFIG,
        "mean": MEAN,
        "std": STD,
        "progress": False,
    } | change(*data)
    with pytest.raises(ValueError, match=word):
        train(network(), **arguments)


# checkpoints


class Killed(Exception):
    "Stands for the end of a process."


def killer(at):
    def on_step(model, step, epoch):
        if step == at:
            raise Killed

    return on_step


RESUMABLE = {
    "small": (
        lambda: network(),
        {"nesterov": True, "warmup_epochs": 0.5, "mix": "cutmix", "batch_repeats": 2},
    ),
    # draws from the global random state
    "shake": (lambda: (torch.manual_seed(0), build("shake-shake-26-2x2d", image_size=8))[1], {}),
    "bf16": (
        lambda: network(),
        {"precision": "bf16", "channels_last": True, "schedule": "step", "milestones": (1,)},
    ),
    "fp16": (lambda: network(), {"precision": "fp16", "clip_norm": 1.0}),
    "no momentum": (lambda: network(), {"momentum": 0.0}),
}


@pytest.mark.parametrize("kind", RESUMABLE)
@pytest.mark.parametrize(("at", "every"), [(1, 1), (4, 3), (5, 1), (8, 3), (8, None)])
def test_resuming_is_exact(data, tmp_path, kind, at, every):
    make, changes = RESUMABLE[kind]
    config = replace(CONFIG, **changes)
    whole, history = fit(data, config, make(), augment=crop_flip)
    file = tmp_path / "run.safetensors"
    with contextlib.suppress(Killed):
        fit(
            data,
            config,
            make(),
            augment=crop_flip,
            checkpoint=file,
            checkpoint_every=every,
            on_step=killer(at),
        )
    assert file.exists()
    steps = []
    resumed, again = fit(
        data,
        config,
        make(),
        augment=crop_flip,
        checkpoint=file,
        checkpoint_every=every,
        on_step=lambda m, s, e: steps.append(s),
    )
    assert steps[0] == (at // every * every if every else 5)
    assert (
        same(resumed, whole)
        and again.loss == history.loss
        and again.lr == history.lr
        and again.steps == 10
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.safetensors"]


def test_fp16_leaves_out_steps_whose_gradients_overflow(data):
    start = network()
    config = replace(CONFIG, precision="fp16", epochs=4, weight_decay=0.0, lr=1e-4)

    def steep(model, x, y):
        return 30 * torch.nn.functional.cross_entropy(model(x), y)

    changed = []
    model, history = fit(
        data,
        config,
        loss=steep,
        on_step=lambda m, s, e: changed.append(not same_parameters(m, start)),
    )
    assert not changed[1] and changed[-1], "the first factor overflows, a smaller one does not"
    assert all(torch.isfinite(p).all() for p in model.parameters()) and math.isfinite(
        history.loss[0]
    )


def same_parameters(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_checkpoint_knows_the_settings_of_a_loss_that_tells_them(data, tmp_path):
    class Scaled:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, model, x, y):
            return self.factor * torch.nn.functional.cross_entropy(model(x), y)

        def __repr__(self):
            return f"Scaled({self.factor})"

    with contextlib.suppress(Killed):
        fit(data, loss=Scaled(1.0), checkpoint=tmp_path / "c", on_step=killer(7))
    with pytest.raises(CheckpointError, match="they differ in: loss"):
        fit(data, loss=Scaled(2.0), checkpoint=tmp_path / "c")
    fit(data, loss=Scaled(1.0), checkpoint=tmp_path / "c")


def test_resuming_starts_from_the_file_and_not_from_the_model(data, tmp_path):
    whole, _ = fit(data)
    with contextlib.suppress(Killed):
        fit(data, checkpoint=tmp_path / "c", on_step=killer(7))
    assert same(fit(data, model=network(seed=9), checkpoint=tmp_path / "c")[0], whole)


def test_a_finished_run_only_loads(data, tmp_path):
    whole, history = fit(data, checkpoint=tmp_path / "c")
    called = []
    again, loaded = fit(
        data,
        checkpoint=tmp_path / "c",
        on_step=lambda *_: called.append(1),
        on_epoch=lambda *_: called.append(2),
    )
    assert same(again, whole) and loaded == history and called == []


def test_an_epoch_interrupted_in_its_callback_is_called_again(data, tmp_path):
    calls = []

    def on_epoch(model, epoch):
        calls.append(epoch)
        if calls == [0, 1, 2]:
            raise Killed

    with contextlib.suppress(Killed):
        fit(data, checkpoint=tmp_path / "c", on_epoch=on_epoch)
    fit(data, checkpoint=tmp_path / "c", on_epoch=on_epoch)
    assert calls == [0, 1, 2, 2]


def test_a_crash_while_writing_keeps_the_last_checkpoint(data, tmp_path, monkeypatch):
    file = tmp_path / "c"
    with contextlib.suppress(Killed):
        fit(data, checkpoint=file, checkpoint_every=2, on_step=killer(3))
    before = file.read_bytes()

    def broken(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(OSError, match="No space.*/c'"):
        fit(data, checkpoint=file, checkpoint_every=2)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
    monkeypatch.undo()
    assert same(fit(data, checkpoint=file, checkpoint_every=2)[0], fit(data)[0])


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ({"config": replace(CONFIG, lr=0.06)}, "lr"),
        ({"config": replace(CONFIG, seed=2)}, "seed"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean"),
        ({"augment": crop_flip}, "augment"),
        ({"loss": lambda m, x, y: F.cross_entropy(m(x), y)}, "loss"),
        ({"model": build("small-convnet", width=3, image_size=8)}, "parameters"),
        ({"labels": True}, "data"),
    ],
)
def test_a_checkpoint_of_another_run_raises_with_both_hashes(data, tmp_path, what, name):
    fit(data, checkpoint=tmp_path / "c")
    other = dict(what)
    if other.pop("labels", False):
        data = data[0], data[1].flip(0)
    with pytest.raises(CheckpointError) as error:
        fit(data, checkpoint=tmp_path / "c", **other)
    text = str(error.value)
    assert f"differ in: {name}" in text or f", {name}" in text
    hashes = [
        word
        for word in text.replace(",", " ").replace(")", " ").split()
        if len(word) == 16 and set(word) <= set("0123456789abcdef")
    ]
    assert len(hashes) == 2 and hashes[0] != hashes[1]


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_a_truncated_checkpoint_is_named(data, tmp_path, keep):
    file = tmp_path / "cut.safetensors"
    fit(data, checkpoint=file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="cut.safetensors is not a whole checkpoint"):
        fit(data, checkpoint=file)


def test_a_foreign_file_is_not_a_checkpoint(data, tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "c")
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        fit(data, checkpoint=tmp_path / "c")
    save_file({"x": torch.zeros(2)}, tmp_path / "c", metadata={"effdl_nb": json.dumps({"step": 3})})
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        fit(data, checkpoint=tmp_path / "c")


# losses that are not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path, bad):
    count = []

    def loss(model, x, y):
        count.append(1)
        return F.cross_entropy(model(x), y) * (bad if len(count) == 8 else 1)

    with pytest.raises(NonFiniteLoss) as error:
        fit(data, loss=loss, checkpoint=tmp_path / "c", checkpoint_every=1)
    e = error.value
    assert (
        e.step == 7
        and e.epoch == 7 / 5
        and e.lr == lr_at(7, CONFIG, 5, 10)
        and math.isfinite(e.last_good)
        and len(count) == 8
    )
    assert "step 7" in str(e) and "last finite loss" in str(e)
    weights = [
        t
        for n, t in load_file(tmp_path / "c").items()
        if n.startswith("model/") and t.is_floating_point()
    ]
    assert weights and all(t.isfinite().all() for t in weights)


def test_a_bad_first_loss_has_no_good_one_before(data):
    with pytest.raises(NonFiniteLoss, match="no finite loss before"):
        fit(data, loss=lambda m, x, y: m(x).sum() * math.nan)


def test_weights_that_the_last_step_broke(data):
    def loss(model, x, y):
        # finite, with an infinite gradient
        return (model.classifier.weight * 0).sqrt().sum() + model(x).sum() * 0 + 1

    with pytest.raises(NonFiniteLoss, match="a weight is nan"):
        fit(data, replace(CONFIG, steps=1), loss=loss)


# augmentation, mixing, batch augmentation


def test_augmentation_sees_bytes_and_replicas_differ(data):
    batches = []

    def spy(images, generator):
        assert images.dtype == torch.uint8
        batches.append(images.clone())
        return crop_flip(images, generator)

    seen = []
    config = replace(CONFIG, epochs=1, batch_repeats=3)
    fit(data, config, augment=spy, loss=lambda m, x, y: (seen.append((x, y)), m(x).sum())[1])
    assert [len(batch) for batch in batches] == 3 * [16] + 3 * [16] + 3 * [16] + 3 * [16] + 3 * [6]
    # the same images
    assert (
        torch.equal(batches[0], batches[1])
        and torch.equal(batches[1], batches[2])
        and not torch.equal(batches[2], batches[3])
    )
    (x0, y0), (x1, y1), (x2, y2) = seen[:3]
    # with the same labels, augmented differently
    assert torch.equal(y0, y1) and torch.equal(y1, y2)
    assert not torch.equal(x0, x1) and not torch.equal(x1, x2) and not torch.equal(x0, x2)


def test_replicas_equal_one_big_batch_without_batch_norm(data):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10)
    ).double()
    big, copies = copy.deepcopy(model), []
    floats = normalize(data[0], MEAN, STD).double()

    def spy(images, generator):
        copies.append(crop_flip(images, generator))
        return copies[-1]

    config = replace(
        CONFIG, steps=1, batch_repeats=4, momentum=0.0, weight_decay=0.0, schedule="constant"
    )
    _, history = fit((floats, data[1]), config, model, augment=spy, mean=None, std=None)
    index = torch.randperm(70, generator=torch.Generator().manual_seed(config.seed))[:16]
    loss = F.cross_entropy(big(torch.cat(copies)), data[1][index].repeat(4))
    # the book is kept in single precision
    assert history.loss[0] == pytest.approx(loss.item(), abs=1e-6)
    for p, g, q in zip(
        big.parameters(),
        torch.autograd.grad(loss, list(big.parameters())),
        model.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(p - config.lr * g, q)


def test_running_statistics_take_one_update_a_replica(data):
    trained, _ = fit(data, replace(CONFIG, steps=2, batch_repeats=3))
    counts = {int(b) for name, b in trained.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {6}


def test_replicas_are_mixed_differently(data, monkeypatch):
    shares, original = [], training.mix_batch

    def spy(*arguments):
        mixed = original(*arguments)
        shares.append(mixed[2])
        return mixed

    monkeypatch.setattr(training, "mix_batch", spy)
    fit(data, replace(CONFIG, steps=4, batch_repeats=3, mix="mixup"))
    assert len(shares) == len(set(shares)) == 12


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_training_minimises_the_soft_label_loss(data, mix):
    # one step without momentum: the gradient must be that of the loss with explicitly mixed labels
    config = replace(
        CONFIG,
        steps=1,
        mix=mix,
        momentum=0.0,
        weight_decay=0.0,
        lr=1.0,
        schedule="constant",
        label_smoothing=0.1,
    )
    trained, history = fit(data, config)
    model = network().train()
    index = torch.randperm(70, generator=torch.Generator().manual_seed(config.seed))[:16]
    x, y = normalize(data[0][index], MEAN, STD), data[1][index]
    draws = torch.Generator().manual_seed(stream_seed(config.seed, "augment/0"))
    x, partner, lam = mix_batch(x, draws, mix, config.mix_alpha, (config.seed, 0))
    soft = lam * F.one_hot(y, 10) + (1 - lam) * F.one_hot(y[partner], 10)
    loss = F.cross_entropy(model(x), soft, label_smoothing=0.1)
    assert history.loss[0] == pytest.approx(loss.item(), rel=1e-5)
    for p, g, q in zip(
        model.parameters(),
        torch.autograd.grad(loss, list(model.parameters())),
        trained.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(p - g, q, atol=1e-5, rtol=1e-4)


# several processes

WORKER = """
import sys
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from effdl_nb.training import TrainConfig, crop_flip, train


class Killed(Exception):
    pass


def fit(name, stop=None, augment=None, repeats=1, **kw):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (70, 3, 8, 8), generator=g, dtype=torch.uint8)
    labels = torch.randint(0, 10, (70,), generator=g)
    # the processes' first weights differ: the first one's count
    torch.manual_seed(0 if not dist.is_initialized() else dist.get_rank())
    dropout = nn.Dropout(0.0 if augment is None else 0.5)
    convolution = [nn.Conv2d(3, 4, 3, 2), nn.GroupNorm(2, 4), nn.ReLU()]
    model = nn.Sequential(*convolution, dropout, nn.Flatten(), nn.Linear(36, 10))
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    settings = {"epochs": 2, "batch_size": 17, "lr": 0.05, "clip_norm": 1.0, "seed": 1}
    config = TrainConfig(batch_repeats=repeats, **settings)

    def on_step(model, step, epoch):
        if step == stop:
            raise Killed

    try:
        kw |= {"augment": augment, "on_step": on_step, "progress": False, "device": "cpu"}
        history = train(model, images, labels, config, **kw)
    except Killed:
        return
    rank = dist.get_rank() if dist.is_initialized() else 0
    run = {"loss": torch.tensor(history.loss), "sizes": torch.tensor(sizes)}
    save_file(model.state_dict() | run, f"{name}.{rank}")


if __name__ == "__main__":
    out = sys.argv[1]
    fit(f"{out}/two")
    fit(f"{out}/replicas", repeats=4)
    fit(f"{out}/whole", augment=crop_flip)
    fit(f"{out}/cut", stop=7, augment=crop_flip, checkpoint=f"{out}/run", checkpoint_every=2)
    fit(f"{out}/cut", augment=crop_flip, checkpoint=f"{out}/run", checkpoint_every=2)
"""


def test_two_processes_train_as_one_and_resume_exactly(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    } | {"OMP_NUM_THREADS": "1"}
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        script,
        tmp_path,
    ]
    done = subprocess.run(launch, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]

    scope = {"__name__": "one process"}
    exec(compile(WORKER, "worker", "exec"), scope)
    scope["fit"](f"{tmp_path}/one")
    load = lambda name: load_file(tmp_path / name)  # noqa: E731
    one, two = load("one.0"), load("two.0")
    weights = [name for name in one if name != "sizes"]
    for name in weights:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-4)
    # both processes end with the same weights
    assert all(torch.equal(load("two.1")[name], two[name]) for name in weights)
    # 70 = 4 x 17 + 2
    assert two["sizes"].tolist() == 2 * [9, 9, 9, 9, 1] and load("two.1")["sizes"].tolist() == 2 * [
        8,
        8,
        8,
        8,
        1,
    ]
    whole, cut = load("whole.0"), load("cut.0")
    assert all(torch.equal(cut[name], whole[name]) for name in weights) and not torch.equal(
        whole["0.weight"], two["0.weight"]
    )

    # four equal replicas are one batch; two processes take two whole replicas each
    replicas = load("replicas.0")
    for name in weights:
        torch.testing.assert_close(replicas[name], one[name], atol=1e-5, rtol=1e-4)
    assert all(torch.equal(load("replicas.1")[name], replicas[name]) for name in weights)
    assert (
        replicas["sizes"].tolist()
        == load("replicas.1")["sizes"].tolist()
        == 2 * (8 * [17] + 2 * [2])
    )
