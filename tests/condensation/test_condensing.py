"""condense(): every method through one call, sharing, resuming, faults, the user's own images."""

import inspect
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from effdl_nb import data
from effdl_nb.condensation import condensing as module
from effdl_nb.condensation import memory
from effdl_nb.condensation.condensing import (
    METHODS,
    condense,
    defaults,
    kept_set,
    memory_needed,
    open_dataset,
    prepare,
    settings_of,
    table_4_3,
)
from effdl_nb.condensation.images import ZCAWhitening
from effdl_nb.condensation.sets import CondensedSet
from effdl_nb.data import ImageDataset, Split

FEW = {"width": 4, "iterations": 4}
MATCHED = {**FEW, "outer_steps": 2, "inner_epochs": 1, "batch_real": 6}
TRAJECTORY = {
    **FEW,
    "experts": 2,
    "expert_epochs": 3,
    "expert_batch": 15,
    "student_steps": 2,
    "expert_steps": 1,
    "first_start": 1,
    "max_start": 1,
}
TINY = {
    "random": {},
    "herding": {"width": 4, "epochs": 2},
    "forgetting": {"width": 4, "epochs": 2},
    "dd": {**FEW, "steps": 2, "epochs": 1, "batch_real": 8},
    "ld": {**FEW, "steps": 1, "batch_real": 8},
    "kip": {"iterations": 4},
    **{m: MATCHED for m in ("dc", "dsa", "dm", "cafe", "cafe_dsa")},
    "mtt": TRAJECTORY,
    "iatm": TRAJECTORY,
}
LEARNED = [m for m in METHODS if m not in ("random", "herding", "forgetting")]


def toy(classes=3, n=30, size=8, channels=3):
    gen = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    images = (
        torch.randint(0, 100, (n, channels, size, size), generator=gen)
        + 50 * labels.view(-1, 1, 1, 1)
    ).to(torch.uint8)
    split = Split(images, labels)
    return ImageDataset(
        "toy",
        split,
        split,
        tuple("abc"[:classes]),
        (0.4,) * channels,
        (0.2,) * channels,
        f"digest {classes} {channels}",
        "here",
    )


def run(method, dataset=None, **kw):
    return condense(
        dataset or toy(),
        method,
        network="convnet-2",
        **{"preset": "small", "progress": False, **TINY[method], **kw},
    )


def test_the_methods_are_the_rows_of_the_table_and_kip():
    rows = (
        "random",
        "herding",
        "forgetting",
        "dd",
        "ld",
        "dc",
        "dsa",
        "dm",
        "cafe",
        "cafe_dsa",
        "mtt",
        "iatm",
    )
    assert set(METHODS) == {*rows, "kip"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_deterministic_and_keeps_what_shaped_it(method):
    state = torch.random.get_rng_state()
    a, b = run(method, ipc=2, seed=3), run(method, ipc=2, seed=3)
    assert isinstance(a, CondensedSet) and (a.method, a.ipc, a.seed, len(a)) == (method, 2, 3, 6)
    assert (
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and a.details == b.details
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    wanted = settings_of(method, 2, "toy", "small", TINY[method])
    assert a.details["options"] == {
        k: list(v) if isinstance(v, tuple) else v for k, v in wanted.items()
    }
    assert (
        set(a.details["versions"]) == {"effdl_nb", "torch"}
        and a.details["whitening"] == a.whitening.kind == "channel"
    )
    assert 0 <= a.to_raw().min() and a.to_raw().max() <= 1 and len(a.as_dataset()) == 6
    if method == "ld":  # its labels are learned from nothing
        assert a.labels.shape == (6, 3) and [
            int(toy().train.labels[i]) for i in a.details["index"]
        ] == [0, 0, 1, 1, 2, 2]
    else:
        assert a.labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", ["paper", "small"])
def test_defaults_are_options_that_the_method_takes(method, preset):
    spec, known = METHODS[method], defaults(method, 10, preset=preset)
    job = module.Job(method, 10, "convnet-3", 0, known, None, None, None, {})
    spec.plan(job)
    assert set(spec.small) <= set(defaults(method)), "the preset changes options, it adds none"
    for other in {k for m in METHODS for k in defaults(m)} - set(known):
        with pytest.raises(ValueError, match=f"{method} has no option '{other}'; allowed: "):
            condense(toy(), method, **{other: 1})


def test_options_do_not_shadow_arguments():
    own = set(inspect.signature(condense).parameters)
    assert not own & {k for m in METHODS for k in defaults(m)}
    assert set(defaults("iatm")) - set(defaults("mtt")) == {
        "reading",
        "opening",
        "horizon",
        "statistics_images",
    }


@pytest.mark.parametrize("method", LEARNED)
def test_a_killed_run_goes_on_with_the_same_bits(method, tmp_path):
    def kill(iteration, *_):
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(method, work=tmp_path, checkpoint_every=1, on_iteration=kill)
    assert len(list(tmp_path.glob(f"{method}-*.part.safetensors"))) == 1
    seen = []
    resumed, straight = (
        run(method, work=tmp_path, on_iteration=lambda i, *_: seen.append(i)),
        run(method),
    )
    assert seen == [3, 4]  # what was cut off in the middle is told again
    assert (
        torch.equal(resumed.images, straight.images)
        and torch.equal(resumed.labels, straight.labels)
        and resumed.details == straight.details
    )
    assert not list(tmp_path.glob("*.part.safetensors"))


def test_a_full_disk_when_the_set_is_saved_loses_nothing(tmp_path, monkeypatch):
    def full(made, path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(CondensedSet, "save", full)
        with pytest.raises(OSError, match="No space"):
            run("dm", work=tmp_path)
    seen = []
    made = run("dm", work=tmp_path, on_iteration=lambda *a: seen.append(a))
    assert (
        not seen
        and torch.equal(made.images, run("dm").images)
        and not list(tmp_path.glob("*.part.safetensors"))
    )


def test_a_checkpoint_older_than_its_set_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(module.Path, "unlink", lambda *a, **k: None)  # killed just before it
    run("dm", work=tmp_path)
    monkeypatch.undo()
    (left,) = tmp_path.glob("*.part.safetensors")
    seen = []
    run("dm", work=tmp_path, again=True, on_iteration=lambda i, *_: seen.append(i))
    assert seen == [1, 2, 3, 4] and not left.exists()


def test_what_cannot_be_built_is_refused_before_anything_is_whitened(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "prepare", lambda *a: pytest.fail("whitened"))
    for method in sorted(set(METHODS) - {"random", "kip"}):
        with pytest.raises(ValueError, match="unknown network"):
            condense(
                toy(),
                method,
                network="convnet-x",
                preset="small",
                work=tmp_path,
                progress=False,
                **TINY[method],
            )
    for wrong, words in (
        ({"method": "cafe", "network": "wrn-16-1", "preset": "paper"}, "poolings"),
        ({**TRAJECTORY, "expert_batch": 0}, "batch_size"),
        ({**TRAJECTORY, "precision": "fp8"}, "fp8"),
    ):
        with pytest.raises(ValueError, match=words):
            condense(
                toy(),
                **{
                    "network": "convnet-2",
                    "preset": "small",
                    "work": tmp_path,
                    "progress": False,
                    **wrong,
                },
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ipc", ["10", None, True, [1], 1.0, -1])
@pytest.mark.parametrize("method", ["dm", "iatm", "random"])
def test_images_per_class_are_a_whole_number(ipc, method):
    with pytest.raises(ValueError, match="ipc must be a whole number from 1, not "):
        condense(toy(), method, ipc)


def test_finished_work_is_read_and_experts_are_shared(tmp_path, monkeypatch):
    first = run("mtt", work=tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("experts-*/expert_*")}
    run("iatm", work=tmp_path, seed=1, ipc=2)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("experts-*/expert_*")} == stamps and len(
        stamps
    ) == 2
    monkeypatch.setattr(module, "condense_trajectory", lambda *a, **k: pytest.fail("made again"))
    assert torch.equal(run("mtt", work=tmp_path).images, first.images)
    for change in ({"iterations": 5}, {"seed": 9}, {"ipc": 2}, {"rate": 0.05}):
        with pytest.raises(BaseException, match="made again"):
            run("mtt", work=tmp_path, **change)


def test_the_file_of_a_set_is_known_without_making_it(tmp_path, monkeypatch):
    words = {"preset": "small", "work": tmp_path, **TINY["dm"]}
    assert kept_set(toy(), "dm", 1, "convnet-2", **words) is None and not list(tmp_path.iterdir())
    made, (path,) = run("dm", work=tmp_path), tmp_path.glob("dm-*.safetensors")
    monkeypatch.setattr(module, "prepare", lambda *a: pytest.fail("whitened"))
    assert kept_set(toy(), "dm", 1, "convnet-2", **words) == path and torch.equal(
        CondensedSet.load(path).images, made.images
    )
    for other in (
        {"seed": 1},
        {"ipc": 2},
        {"whitening": "zca"},
        {"iterations": 5},
        {"network": "convnet-3"},
    ):
        assert (
            kept_set(**{"dataset": toy(), "method": "dm", "network": "convnet-2", **words, **other})
            is None
        )
    with pytest.raises(ValueError, match="no option 'speed'"):
        kept_set(toy(), "dm", speed=1, **words)


def test_made_again_it_has_the_same_bits_and_is_told_about(tmp_path):
    seen, first = [], run("dm", work=tmp_path)
    assert (
        run("dm", work=tmp_path, on_iteration=lambda i, *_: seen.append(i)).details == first.details
        and not seen
    )
    second = run("dm", work=tmp_path, again=True, on_iteration=lambda i, *_: seen.append(i))
    assert (
        seen == [1, 2, 3, 4]
        and torch.equal(first.images, second.images)
        and first.details == second.details
    )
    assert len(list(tmp_path.glob("dm-*"))) == 1


def test_two_at_once_make_one(tmp_path, monkeypatch):
    made, own = [], module.condense_matching

    def slow(*a, **k):
        made.append(1)
        return own(*a, **k)

    monkeypatch.setitem(module._LOOPS, module.MatchingConfig, slow)
    sets = []
    threads = [
        threading.Thread(target=lambda: sets.append(run("dm", work=tmp_path))) for _ in range(2)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(made) == 1 and torch.equal(sets[0].images, sets[1].images)


def test_zca_is_fitted_once_for_all(tmp_path, monkeypatch):
    calls = []
    trivial = ZCAWhitening(torch.full((192,), 0.5), torch.ones(192), torch.eye(192))
    monkeypatch.setattr(module, "fit_zca", lambda images: calls.append(1) or trivial)
    monkeypatch.setattr(module, "_LAST", {})
    a = run("random", whitening="zca", work=tmp_path)
    module._LAST.clear()
    b = run("dm", whitening="zca", work=tmp_path, seed=1)
    assert (
        len(calls) == 1
        and a.whitening.kind == b.whitening.kind == "zca"
        and a.whitening is not None
    )
    assert (
        prepare(replace(toy(), name="cifar10"), work=tmp_path).mark["whitening"] == "zca"
        and prepare(toy()).mark["whitening"] == "channel"
    )


def test_a_damaged_set_in_the_work_folder_is_refused(tmp_path):
    run("random", work=tmp_path)
    (path,) = tmp_path.glob("random-*.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="not a whole safetensors"):
        run("random", work=tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_too_few_images_are_refused_before_anything_is_trained(method, tmp_path):
    with pytest.raises(ValueError, match="class 0 has 10 images, fewer than the 11"):
        run(method, ipc=11, work=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", METHODS)
def test_one_class(method):
    made = run(method, toy(classes=1, n=10))
    assert len(made) == 1 and torch.isfinite(made.images).all() and (made.lr is None or made.lr > 0)


@pytest.mark.parametrize("method", ["herding", "dd", "kip", "dsa", "iatm"])
@pytest.mark.parametrize("whitening", ["channel", "zca"])
def test_grayscale(method, whitening):
    made = run(method, toy(channels=1), whitening=whitening)
    assert made.images.shape == (3, 1, 8, 8) and made.to_raw().shape == (3, 1, 8, 8)


def test_constant_channel():
    with pytest.raises(ValueError, match="constant"):
        run("random", replace(toy(), std=(0.2, 0.0, 0.2), digest="another"))


def test_a_rate_driven_to_zero_stays_positive():
    made = run("dd", rate_lr=1e6)
    assert all(0 < r <= 1 for r in made.details["rates"]) and made.lr is None
    assert run("mtt", rate_lr=1e6, iterations=3).lr > 0


def test_divergence_is_an_error_and_not_a_set(tmp_path):
    with pytest.raises(ArithmeticError, match="in a row"):
        run("dd", image_lr=1e30, iterations=20, max_skipped=2, work=tmp_path)
    assert not list(tmp_path.glob("dd-*.safetensors"))


@pytest.mark.parametrize("method", ["dd", "ld", "iatm"])
def test_more_memory_than_there_is(method, monkeypatch):
    needed = memory_needed(toy(), method, 1, "convnet-2", preset="small", **TINY[method])
    assert 0 < needed["adjoint"]
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(MemoryError, match="MB"):
        run(method, memory="full")


def test_memory_grows_with_steps_for_the_full_graph_only():
    a, b = (
        memory_needed(
            toy(), "iatm", 1, "convnet-2", preset="small", **{**TINY["iatm"], "student_steps": n}
        )
        for n in (10, 40)
    )
    assert (
        b["full"] > 3 * a["full"]
        and b["tesla"] == a["tesla"]
        and memory_needed(toy(), "cafe") == {}
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "pad"}, "allowed: random, herding"),
        ({"preset": "tiny"}, "allowed: paper, small"),
        ({"whitening": "pca"}, "allowed: auto, zca"),
        ({"ipc": 0}, "whole number from 1"),
        ({"dataset": "svhn"}, "cifar10-sample"),
        ({"max_start": 3}, "last expert epoch"),
        ({"experts": 0}, "at least 1"),
        ({"reading": "best"}, "allowed: rank"),
        ({"student_steps": 0}, "at least 1"),
        ({"memory": "disk"}, "full"),
        ({"rate": "fast"}, "a number"),
        ({"network": "convnet-x"}, "unknown network"),
        ({"device": "abacus"}, "cpu always is"),
        ({"checkpoint_every": 0}, "at least 1"),
    ],
)
def test_misuse(wrong, words):
    with pytest.raises(ValueError, match=words):
        condense(
            **{
                "dataset": toy(),
                "method": "iatm",
                "network": "convnet-2",
                "preset": "small",
                "progress": False,
                **TRAJECTORY,
                **wrong,
            }
        )


# ---- folders


def write(folder, name, kinds=("cat", "dog"), count=3, mode="RGB", size=(12, 9)):
    gen = np.random.default_rng(len(name))
    for k, kind in enumerate(kinds):
        (folder / name / kind).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(gen.integers(40 * k, 40 * k + 90, (*size, 3), dtype=np.uint8)).convert(
                mode
            ).save(folder / name / kind / f"{i}.png")
    return folder


def test_class_folders_at_the_top_or_under_train(tmp_path):
    plain = open_dataset(write(tmp_path, "plain") / "plain", 8, progress=False)
    split = open_dataset(
        write(write(tmp_path / "both", "train"), "val", count=2), 8, progress=False
    )
    assert (
        len(plain.test) == 0
        and len(split.test) == 4
        and split.digest != plain.digest
        and open_dataset(plain) is plain
    )
    condensed = condense(
        tmp_path / "plain",
        "dm",
        network="convnet-2",
        preset="small",
        image_size=8,
        progress=False,
        **MATCHED,
    )
    assert condensed.classes == ("cat", "dog")


def test_a_folder_called_like_a_benchmark_is_none(tmp_path, monkeypatch):
    write(tmp_path, "cifar100")
    monkeypatch.chdir(tmp_path)
    for said in ("./cifar100", tmp_path / "cifar100", str(tmp_path / "cifar100")):
        images = open_dataset(said, 8, progress=False)
        assert images.name == "folder:cifar100" and prepare(images).mark["whitening"] == "channel"
        assert table_4_3(images.name, 10) == table_4_3("cifar10", 10) != table_4_3("cifar100", 10)
    with pytest.raises(
        ValueError, match=r"'./cifar100' for the folder, 'data:cifar100' for the data set"
    ):
        open_dataset("cifar100", 8)
    assert prepare(replace(toy(), name="cifar-like")).mark["whitening"] == "channel"
    assert open_dataset("data:cifar10-sample").name == "cifar10-sample"


@pytest.mark.parametrize(
    "wrong",
    [{"image_lr": float("nan")}, {"rate_lr": float("inf")}, {"image_lr": -1.0}, {"rate_lr": -1e-3}],
)
def test_rates_that_are_none(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a finite number"):
        run("mtt", **wrong)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("herding", {"epochs": 0}),
        ("forgetting", {"epochs": -1}),
        ("herding", {"lr": float("nan")}),
        ("kip", {"image_lr": float("nan")}),
        ("kip", {"image_lr": -1.0}),
    ],
)
def test_numbers_out_of_range(method, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        run(method, **wrong)


def test_names_are_data_sets():
    assert (
        open_dataset("cifar10-sample").name == "cifar10-sample" and "cifar10-sample" in data.NAMES
    )
