"""Expert trajectories: a kill or a full disk while they are written, resuming, wrong folders."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import shared_trainings
import torch
from ranks import run_ranks
from safetensors.torch import load_file

from effdl_nb import files
from effdl_nb.checkpoints import write_tensors
from effdl_nb.condensation import experts as module
from effdl_nb.condensation.experts import ExpertConfig, Experts, train_expert, train_experts
from effdl_nb.training import NonFiniteLoss

SMALL = ExpertConfig(network="convnet-2", width=4, epochs=2, lr=0.05, batch_size=10)


def data(seed=0, n=30):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 8, 8, generator=gen), torch.arange(n) % 3


def make(folder, count=2, config=SMALL, **kw):
    return train_experts(folder, *data(), 3, count, config, progress=False, **kw)


def test_snapshots_are_distinct_and_deterministic(tmp_path):
    a = make(tmp_path / "a")
    b = make(tmp_path / "b")
    for e in range(2):
        for t in range(3):
            assert all(torch.equal(v, b.parameters(e, t)[k]) for k, v in a.parameters(e, t).items())
        assert not all(torch.equal(v, a.parameters(e, 2)[k]) for k, v in a.parameters(e, 1).items())
    assert len(a.losses(0)) == 2
    named = dict(module.build("convnet-2", 3, width=4, image_size=8).named_parameters())
    assert a.parameters(0, 1).keys() == named.keys()


def test_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    train_expert(*data(), 3, SMALL)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"precision": "fp8"}, "fp8"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": -1.0}, "lr"),
        ({"momentum": 2.0}, "momentum"),
    ],
)
def test_settings_that_cannot_train_raise(wrong, words):
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **wrong)


def test_a_network_that_cannot_be_built_claims_no_folder(tmp_path):
    with pytest.raises(ValueError, match="network 'convnet-x' is unknown"):
        make(tmp_path, config=replace(SMALL, network="convnet-x"))
    assert not list(tmp_path.iterdir())
    assert len(make(tmp_path, count=1)) == 1


def test_experts_of_other_images_are_not_mixed(tmp_path):
    images, labels = data()
    make(tmp_path, count=1)
    for other in ((images + 0.5, labels), (images, labels.flip(0))):
        with pytest.raises(
            ValueError, match="other settings; different: (length|labels). Use another folder"
        ):
            train_experts(tmp_path, *other, 3, 2, SMALL, progress=False)
    with pytest.raises(ValueError, match=r"or delete .*: no expert is there yet"):
        (tmp_path / "expert_0000.safetensors").unlink()
        make(tmp_path, config=replace(SMALL, lr=0.01))


def test_a_full_disk_leaves_no_expert_and_the_next_call_resumes(tmp_path, monkeypatch):
    make(tmp_path / "whole")

    def full(file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space.*cut"):
            make(tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("expert_*")) and not list(
        (tmp_path / "cut").glob("*.part")
    )
    make(tmp_path / "cut")
    for name in ("expert_0000.safetensors", "expert_0001.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_killed_while_training_then_resumed(tmp_path):
    code = f"""
import torch
from effdl_nb.condensation.experts import ExpertConfig, train_experts
gen = torch.Generator().manual_seed(0)
images = torch.randn(30, 3, 8, 8, generator=gen)
labels = torch.arange(30) % 3
train_experts({str(tmp_path / "k")!r}, images, labels, 3, 400, {SMALL!r}, progress=False)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    end = time.monotonic() + 60
    while len(list((tmp_path / "k").glob("expert_*"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list((tmp_path / "k").glob("expert_*")))
    assert 2 <= done < 400
    for f in sorted((tmp_path / "k").glob("expert_*")):
        module._open_whole(f)
    resumed = make(tmp_path / "k", done + 1)
    straight, _ = train_expert(*data(), 3, SMALL, index=done)
    assert len(resumed) == done + 1
    assert all(torch.equal(v, straight[k][2]) for k, v in resumed.parameters(done, 2).items())


def test_damaged_or_foreign_files_are_named(tmp_path):
    make(tmp_path, 1)
    path = tmp_path / "expert_0000.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="not a whole expert"):
        make(tmp_path, 1)
    path.write_bytes(whole.replace(b'\\"version\\": 2', b'\\"version\\": 7'))
    with pytest.raises(ValueError, match="not a whole expert.*altered"):
        make(tmp_path, 1)
    write_tensors(path, {"w": torch.zeros(2)}, {"version": 7}, "expert")
    with pytest.raises(ValueError, match="of version 2, but of 7"):
        make(tmp_path, 1)


def test_other_settings_or_data_raise(tmp_path):
    make(tmp_path, 1, data={"digest": "a"})
    with pytest.raises(ValueError, match="different: lr"):
        make(tmp_path, 1, replace(SMALL, lr=0.1), data={"digest": "a"})
    with pytest.raises(ValueError, match="different: digest"):
        make(tmp_path, 1, data={"digest": "b"})


def test_misuse(tmp_path):
    with pytest.raises(FileNotFoundError):
        Experts(tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        make(tmp_path, 0)
    with pytest.raises(ValueError, match="first"):
        ExpertConfig(epochs=3, first=3)
    experts = make(tmp_path, 1)
    with pytest.raises(IndexError, match=r"0\.\.2"):
        experts.parameters(0, 3)
    with pytest.raises(IndexError, match="there are 1"):
        experts.parameters(1, 0)


def test_training_that_diverges_writes_nothing(tmp_path):
    with pytest.raises(NonFiniteLoss):
        make(tmp_path, 1, replace(SMALL, lr=1e30, strategy="none"))
    assert not list(tmp_path.glob("expert_*"))


def test_progress_counts_epochs_and_starts_after_those_done(tmp_path, monkeypatch):
    seen = []

    class Bar:
        def __init__(self, total, initial, **_):
            seen.append([initial, total])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self):
            seen[-1][0] += 1

    monkeypatch.setattr(module, "tqdm", Bar)
    make(tmp_path, 1)
    make(tmp_path, 2)
    assert seen == [[2, 2], [4, 4]]


def test_half_precision_training_keeps_single_precision_weights(tmp_path):
    experts = make(tmp_path, 1, replace(SMALL, precision="bf16"))
    plain, _ = train_expert(*data(), 3, SMALL)
    for k, v in experts.parameters(0, 2).items():
        assert v.dtype == torch.float32 and not torch.equal(v, v.bfloat16().float())
        assert (v - plain[k][2]).norm() < 0.05 * plain[k][2].norm() + 1e-3


# ---- nothing twice


def same(a, b, count=2):
    "The files of two folders are the same, byte for byte."
    names = [f"expert_{i:04}.safetensors" for i in range(count)]
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


@pytest.mark.parametrize("half", [False, True])
def test_a_shorter_range_is_read_and_a_longer_one_continues(tmp_path, half):
    long = replace(SMALL, epochs=5, half=half)
    once = make(tmp_path / "once", config=long)
    grown = make(tmp_path / "grown", config=replace(long, epochs=3))
    written = [f.stat().st_mtime_ns for f in grown.files]
    part = make(tmp_path / "grown", config=replace(long, epochs=2, first=1))
    assert [f.stat().st_mtime_ns for f in part.files] == written
    assert (part.config.first, part.config.epochs, len(part.losses(0))) == (1, 2, 2)
    for k, v in part.parameters(1, 2).items():
        assert torch.equal(v, once.parameters(1, 2)[k])
    with pytest.raises(IndexError, match=r"1\.\.2, not 0"):
        part.parameters(0, 0)
    seen = []
    with pytest.MonkeyPatch.context() as m:
        train = module.train
        m.setattr(
            module, "train", lambda *a, **k: seen.append(count(k["checkpoint"])) or train(*a, **k)
        )
        make(tmp_path / "grown", config=long)
    assert seen == [3, 3] and same(tmp_path / "once", tmp_path / "grown")


def count(state):
    return module.epochs_done(state)


def test_earlier_epochs_are_trained_anew_and_the_later_ones_kept(tmp_path):
    make(tmp_path / "a", config=replace(SMALL, epochs=4, first=2))
    make(tmp_path / "a", config=replace(SMALL, epochs=3, first=1))
    make(tmp_path / "b", config=replace(SMALL, epochs=4, first=1))
    assert same(tmp_path / "a", tmp_path / "b")
    everything = Experts(tmp_path / "a").config
    assert (everything.first, everything.epochs) == (1, 4)


def test_without_the_checkpoint_more_epochs_are_still_the_same(tmp_path):
    make(tmp_path / "a")
    for state in tmp_path.glob("a/training_*/*"):
        state.unlink()
    make(tmp_path / "a", config=replace(SMALL, epochs=4))
    make(tmp_path / "b", config=replace(SMALL, epochs=4))
    assert same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_kill_costs_an_epoch(tmp_path, momentum):
    config = replace(SMALL, epochs=4, momentum=momentum)
    make(tmp_path / "whole", 1, config)
    inputs, seen = data(), []

    def kill(epoch):
        seen.append(epoch)
        if len(seen) == 3:
            raise KeyboardInterrupt

    scratch = tmp_path / "cut" / "training_0000"
    with pytest.raises(KeyboardInterrupt):
        train_expert(*inputs, 3, config, scratch=scratch, on_epoch=kill)
    assert not list((tmp_path / "cut").glob("expert_*"))
    train_expert(*inputs, 3, config, scratch=scratch, on_epoch=seen.append)
    assert seen == [1, 2, 3, 3, 4]
    make(tmp_path / "cut", 1, config)
    assert same(tmp_path / "whole", tmp_path / "cut", 1)
    assert [f.name for f in scratch.iterdir() if f.name[0] != "."] == ["state.safetensors"]


def test_a_checkpoint_without_its_epochs_is_not_used(tmp_path):
    make(tmp_path / "whole", 1)
    make(tmp_path / "cut", 1)
    (tmp_path / "cut" / "expert_0000.safetensors").unlink()  # its checkpoint stays
    make(tmp_path / "cut", 1)
    assert same(tmp_path / "whole", tmp_path / "cut", 1)


def test_an_expert_that_another_process_trains_is_left_to_it(tmp_path, monkeypatch):
    order, train = [], module.train_expert

    def noted(images, labels, classes, config, index, **options):
        order.append(index)
        return train(images, labels, classes, config, index, **options)

    monkeypatch.setattr(module, "train_expert", noted)
    (tmp_path / "x").mkdir()
    with module.lock(tmp_path / "x" / "expert_0000.safetensors") as handle:
        done = threading.Thread(target=make, args=(tmp_path / "x", 3))
        done.start()
        end = time.monotonic() + 60
        while len(order) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert order == [1, 2] and not handle.closed
    done.join()
    assert order == [1, 2, 0]


def test_processes_that_work_apart_make_no_expert_twice(tmp_path):
    shared, whole, config = tmp_path / "shared", tmp_path / "whole", shared_trainings.EXPERT
    shared.mkdir()
    run_ranks(shared_trainings.folder, shared, 4, "1")  # the second dies at its first
    done = {int(path.stem[-4:]) for path in shared.glob("expert_*")}
    (shared / "made").unlink()
    assert run_ranks(shared_trainings.folder, shared, 6) == []
    made = [int(line.split()[0]) for line in (shared / "made").read_text().splitlines()]
    assert sorted(made) == sorted(set(range(6)) - done)
    train_experts(whole, *shared_trainings.images(), 3, 6, config, progress=False)
    assert same(whole, shared, 6)


def test_one_expert_trained_by_two_processes(tmp_path):
    train = partial(run_ranks, shared_trainings.expert, tmp_path)
    assert train("two") == []
    shared_trainings.expert(tmp_path, "one")
    one, two, other = (load_file(tmp_path / name) for name in ("one.0", "two.0", "two.1"))
    assert all(two[key].equal(other[key]) for key in two)
    torch.testing.assert_close(two["loss"], one["loss"], atol=1e-5, rtol=0)
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-5, rtol=1e-4)
    scratch = tmp_path / "scratch"
    assert "killed by 9" in train("cut", module.STRATEGY, scratch, 5)
    assert (scratch / module.STATE).exists()
    assert train("cut", module.STRATEGY, scratch) == train("whole", module.STRATEGY) == []
    whole, cut = (load_file(tmp_path / f"{name}.0") for name in ("whole", "cut"))
    assert all(whole[key].equal(cut[key]) for key in whole)


def test_under_torchrun_a_folder_of_experts_says_how_it_is_shared(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="experts in a folder, not 2: .*together.apart"):
        make(tmp_path)
    assert not list(tmp_path.iterdir())


def test_experts_that_do_not_fit_on_the_disk(tmp_path, monkeypatch):
    make(tmp_path, 1)
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(
        OSError, match=r"1 experts need about .* MB in .*; 0 MB are free; use fewer"
    ):
        make(tmp_path, 2)
    assert len(make(tmp_path, 1)) == 1  # nothing is missing


def test_experts_without_flips():
    plain, _ = train_expert(*data(), 3, SMALL)
    for strategy in ("color_crop", "none"):
        other, _ = train_expert(*data(), 3, replace(SMALL, strategy=strategy))
        assert not all(torch.equal(plain[k][2], other[k][2]) for k in plain)
    with pytest.raises(ValueError, match="augmentation 'mirror' is unknown; allowed: color"):
        replace(SMALL, strategy="mirror")
