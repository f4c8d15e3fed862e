"""condense(): every method through one call, sharing, resuming, faults, what is kept."""

import contextlib
import json
import threading
from dataclasses import asdict, replace

import pytest
import torch
from toys import toy

from effdl_nb import opening as opening_module
from effdl_nb.condensation import condensing as module
from effdl_nb.condensation import experts as experts_module
from effdl_nb.condensation import matching, memory, trajectory
from effdl_nb.condensation import real as real_module
from effdl_nb.condensation.condensing import condense, make_set, memory_needed, set_path
from effdl_nb.condensation.evaluation import evaluate
from effdl_nb.condensation.images import ChannelWhitening, ZCAWhitening
from effdl_nb.condensation.learning import Run
from effdl_nb.condensation.methods import METHODS, configure
from effdl_nb.condensation.sets import CondensedSet
from effdl_nb.data import Split

FEW = {"width": 4, "iterations": 4}
MATCHED = {**FEW, "outer_steps": 2, "inner_epochs": 1, "batch_real": 6}
EXPERTS = {"count": 2, "epochs": 3, "batch_size": 15}
TRAJECTORY = {
    **FEW,
    "experts": EXPERTS,
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
SMALL = {"network": "convnet-2", "preset": "small", "progress": False}


def run(method, dataset=None, **options):
    return condense(dataset or toy(), method, **{**SMALL, **TINY[method], **options})


def settled(method, ipc=1, seed=0, dataset="toy", **options):
    "The settings that `run` settles on."
    how = {"dataset": dataset, "preset": "small", "options": {**TINY[method], **options}}
    return configure(method, ipc, "convnet-2", seed, **how)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_deterministic_and_keeps_what_shaped_it(method):
    state = torch.random.get_rng_state()
    a, b = run(method, ipc=2, seed=3), run(method, ipc=2, seed=3)
    assert isinstance(a, CondensedSet) and (a.method, a.ipc, a.seed, len(a)) == (method, 2, 3, 6)
    assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert a.details == b.details and torch.equal(torch.random.get_rng_state(), state)
    shaped = json.loads(json.dumps(asdict(settled(method, 2, 3))))
    assert a.details["settings"] == shaped
    assert set(a.details["versions"]) == {"effdl_nb", "torch"}
    assert a.details["whitening"] == a.whitening.kind == "channel"
    assert 0 <= a.to_raw().min() and a.to_raw().max() <= 1 and len(a.as_dataset()) == 6
    if method == "ld":  # its labels are learned from nothing
        real = toy().train.labels[a.details["index"]]
        assert a.labels.shape == (6, 3) and real.tolist() == [0, 0, 1, 1, 2, 2]
    else:
        assert a.labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("method", LEARNED)
def test_a_killed_run_resumes_with_the_same_bits(method, tmp_path):
    def kill(iteration, *_):
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(method, work=tmp_path, checkpoint_every=1, on_iteration=kill)
    assert len(list(tmp_path.glob(f"{method}-*.part.safetensors"))) == 1
    seen = []
    resumed = run(method, work=tmp_path, on_iteration=lambda i, *_: seen.append(i))
    straight = run(method)
    assert seen == [3, 4]  # what was cut off in the middle is told again
    assert torch.equal(resumed.images, straight.images)
    assert torch.equal(resumed.labels, straight.labels) and resumed.details == straight.details
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
    assert not seen and torch.equal(made.images, run("dm").images)
    assert not list(tmp_path.glob("*.part.safetensors"))


def test_a_checkpoint_older_than_its_set_is_not_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_keep", lambda *a: None)  # killed just before it
    run("dm", work=tmp_path)
    monkeypatch.undo()
    (left,) = tmp_path.glob("*.part.safetensors")
    seen = []
    run("dm", work=tmp_path, again=True, on_iteration=lambda i, *_: seen.append(i))
    assert seen == [1, 2, 3, 4] and not left.exists()


def test_what_cannot_be_built_is_an_error_before_anything_is_whitened(tmp_path, monkeypatch):
    monkeypatch.setattr(real_module, "prepare", lambda *a: pytest.fail("whitened"))
    for method in sorted(set(METHODS) - {"random", "kip"}):
        with pytest.raises(ValueError, match="network 'convnet-x' is unknown; allowed"):
            run(method, network="convnet-x", work=tmp_path)
    for wrong, words in (
        ({"method": "cafe", "network": "wrn-16-1", "preset": "paper"}, "poolings"),
        ({**TRAJECTORY, "experts": {**EXPERTS, "batch_size": 0}}, "batch_size"),
        ({**TRAJECTORY, "experts": {**EXPERTS, "precision": "fp8"}}, "fp8"),
    ):
        with pytest.raises(ValueError, match=words):
            condense(toy(), **{**SMALL, "work": tmp_path, **wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ipc", ["10", None, True, [1], 1.0, -1])
@pytest.mark.parametrize("method", ["dm", "iatm", "random"])
def test_images_per_class_are_a_whole_number(ipc, method):
    with pytest.raises(ValueError, match="ipc must be a whole number from 1, not "):
        condense(toy(), method, ipc)


@pytest.mark.parametrize("method", METHODS)
def test_an_option_of_another_method_is_none(method):
    known = set(asdict(configure(method)))
    for other in {k for m in METHODS for k in TINY[m]} - known:
        with pytest.raises(ValueError, match=f"{method} has no option '{other}'; allowed: "):
            condense(toy(), method, **{other: 1})


def test_finished_work_is_read_and_experts_are_shared(tmp_path, monkeypatch):
    first = run("mtt", work=tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("experts-*/expert_*")}
    run("iatm", work=tmp_path, seed=1, ipc=2)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("experts-*/expert_*")} == stamps
    assert len(stamps) == 2
    made_again = lambda *a, **k: pytest.fail("made again")  # noqa: E731
    monkeypatch.setattr(trajectory, "condense_with_experts", made_again)
    assert torch.equal(run("mtt", work=tmp_path).images, first.images)
    for change in ({"iterations": 5}, {"seed": 9}, {"ipc": 2}, {"student_lr": 0.05}):
        with pytest.raises(BaseException, match="made again"):
            run("mtt", work=tmp_path, **change)


def test_the_file_of_a_set_is_known_without_making_it(tmp_path, monkeypatch):
    path = set_path(tmp_path, settled("dm"), toy())
    assert not list(tmp_path.iterdir())
    made = run("dm", work=tmp_path)
    assert [path] == list(tmp_path.glob("dm-*.safetensors"))
    monkeypatch.setattr(real_module, "prepare", lambda *a: pytest.fail("whitened"))
    assert set_path(tmp_path, settled("dm"), toy()) == path
    assert torch.equal(CondensedSet.load(path).images, made.images)
    config = settled("dm")
    others = [
        set_path(tmp_path, settled("dm", seed=1), toy()),
        set_path(tmp_path, settled("dm", 2), toy()),
        set_path(tmp_path, config, toy(), "zca"),
        set_path(tmp_path, settled("dm", iterations=5), toy()),
        set_path(tmp_path, replace(config, network="convnet-3"), toy()),
        set_path(tmp_path, config, replace(toy(), name="another")),
    ]
    assert len({path, *others}) == 7 and not any(other.exists() for other in others)
    with pytest.raises(ValueError, match="no option 'speed'"):
        settled("dm", speed=1)
    with pytest.raises(ValueError, match="whitening 'pca' is unknown"):
        set_path(tmp_path, config, toy(), "pca")


def test_each_method_has_files_of_its_own(tmp_path):
    paths = {method: set_path(tmp_path, settled(method), toy()) for method in METHODS}
    assert {name: path.name.partition("-")[0] for name, path in paths.items()} == {
        name: name for name in METHODS
    }
    # nor do settings of two classes with the same numbers share a hash
    assert len({path.name.partition("-")[2] for path in paths.values()}) == len(METHODS)


def test_made_again_it_has_the_same_bits_and_is_told_about(tmp_path):
    seen, first = [], run("dm", work=tmp_path)
    read = run("dm", work=tmp_path, on_iteration=lambda i, *_: seen.append(i))
    assert read.details == first.details and not seen
    second = run("dm", work=tmp_path, again=True, on_iteration=lambda i, *_: seen.append(i))
    assert seen == [1, 2, 3, 4] and torch.equal(first.images, second.images)
    assert first.details == second.details and len(list(tmp_path.glob("dm-*"))) == 1


def test_a_run_on_its_own_makes_the_same_set(tmp_path):
    made = make_set(toy(), settled("dm"), work=tmp_path, run=Run(progress=False))
    assert torch.equal(made.images, run("dm").images) and made.details == run("dm").details


def test_two_at_once_make_one(tmp_path, monkeypatch):
    made, own = [], matching.condense_matching

    def slow(*a, **k):
        made.append(1)
        return own(*a, **k)

    monkeypatch.setattr(matching, "condense_matching", slow)
    sets = []
    threads = [
        threading.Thread(target=lambda: sets.append(run("dm", work=tmp_path))) for _ in range(2)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(made) == 1 and torch.equal(sets[0].images, sets[1].images)


def test_zca_is_fitted_once_for_all_methods(tmp_path, monkeypatch):
    calls = []
    trivial = ZCAWhitening(torch.full((192,), 0.5), torch.ones(192), torch.eye(192))
    monkeypatch.setattr(real_module, "fit_zca", lambda images, **_: calls.append(1) or trivial)
    monkeypatch.setattr(real_module, "_LAST", {})
    a = run("random", whitening="zca", work=tmp_path)
    real_module._LAST.clear()
    b = run("dm", whitening="zca", work=tmp_path, seed=1)
    assert len(calls) == 1 and a.whitening.kind == b.whitening.kind == "zca"


def test_a_damaged_set_in_the_work_folder_is_an_error(tmp_path):
    run("random", work=tmp_path)
    (path,) = tmp_path.glob("random-*.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="not a whole condensed set"):
        run("random", work=tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_with_fewer_images_than_asked_for_gives_all_of_them(method, tmp_path):
    whole = toy()
    kept = torch.cat([(whole.train.labels == c).nonzero().flatten()[: 2 + c] for c in range(3)])
    train = Split(whole.train.images[kept], whole.train.labels[kept])
    rare, noise = replace(whole, train=train), method in ("dc", "cafe", "dd")
    words = r"some classes .2. have fewer images than the 4 asked for \(ipc\).*: 'a' 2, 'b' 3$"
    with contextlib.nullcontext() if noise else pytest.warns(UserWarning, match=words):
        made = run(method, rare, ipc=4, work=tmp_path)
    counts = [4, 4, 4] if noise else [2, 3, 4]
    assert len(made) == sum(counts) and torch.isfinite(made.images).all()
    if not made.labels.is_floating_point():
        assert made.labels.bincount().tolist() == counts
    assert made.details.get("fewer") == (None if noise else {"a": 2, "b": 3})
    assert torch.equal(run(method, rare, ipc=4, work=tmp_path).images, made.images)


def test_noise_needs_no_real_image_to_begin_with():
    whole = toy()
    kept = torch.cat([(whole.train.labels == c).nonzero().flatten()[: 2 + c] for c in range(3)])
    rare = replace(whole, train=Split(whole.train.images[kept], whole.train.labels[kept]))
    assert len(run("dm", rare, ipc=4, init="noise")) == 12


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
        run("random", replace(toy(), std=(0.2, 0.0, 0.2)))


def test_a_learning_rate_driven_to_zero_stays_positive():
    with pytest.warns(UserWarning, match="learning rates of the inner steps ran to the bound"):
        made = run("dd", lr_lr=1e6)
    assert all(0 < lr <= 1 for lr in made.details["lrs"]) and made.lr is None
    with pytest.warns(UserWarning, match="learned learning rate ran to the bound") as seen:
        made = run("mtt", lr_lr=1e6, iterations=3)
    assert made.lr > 0 and made.details["lr_at_bound"] == [pytest.approx(made.lr)]
    assert f"{made.details['lr_at_bound'][0]:g}" in str(seen[0].message)
    assert "lr_at_bound" not in run("mtt").details


def test_divergence_is_an_error_and_not_a_set(tmp_path):
    with pytest.raises(ArithmeticError, match="in a row"):
        run("dd", image_lr=1e30, iterations=20, max_skipped=2, work=tmp_path)
    assert not list(tmp_path.glob("dd-*.safetensors"))


@pytest.mark.parametrize("method", ["dd", "ld", "iatm"])
def test_more_memory_than_there_is(method, monkeypatch):
    needed = memory_needed(settled(method), 3, (3, 8, 8))
    assert 0 < needed["adjoint"]
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(MemoryError, match="MB"):
        run(method, memory="full")


def test_memory_grows_with_steps_for_the_full_graph_only():
    a, b = (memory_needed(settled("iatm", student_steps=n), 3, (3, 8, 8)) for n in (10, 40))
    assert b["full"] > 3 * a["full"] and b["tesla"] == a["tesla"]
    assert memory_needed(configure("cafe"), 3, (3, 8, 8)) == {}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "pad"}, "allowed: random, herding"),
        ({"preset": "tiny"}, "allowed: paper, small"),
        ({"whitening": "pca"}, "allowed: auto, zca"),
        ({"ipc": 0}, "whole number from 1"),
        ({"dataset": "svhn"}, "cifar10-sample"),
        ({"max_start": 3}, "must be at most experts.epochs = 3, not 4"),
        ({"experts": {**EXPERTS, "count": 0}}, "at least 1"),
        ({"reading": "best"}, "allowed: rank"),
        ({"student_steps": 0}, "at least 1"),
        ({"memory": "disk"}, "full"),
        ({"student_lr": "fast"}, "a number"),
        ({"network": "convnet-x"}, "network 'convnet-x' is unknown"),
        ({"device": "abacus"}, "cpu always is"),
        ({"checkpoint_every": 0}, "at least 1"),
    ],
)
def test_misuse(wrong, words):
    with pytest.raises(ValueError, match=words):
        condense(**{"dataset": toy(), "method": "iatm", **SMALL, **TRAJECTORY, **wrong})


def test_options_are_judged_by_the_schedule_of_the_data_set():
    # beyond the last start epoch of CIFAR-10 at 50 per class, within that of CIFAR-100
    options = {"first_start": 60, "network": "convnet-x", "progress": False}
    with pytest.raises(ValueError, match="network 'convnet-x' is unknown"):
        condense(replace(toy(), name="cifar100"), "iatm", 50, **options)
    with pytest.raises(ValueError, match="max_start is needed, not .0, 60, 40"):
        condense(toy(), "iatm", 50, **options)


def test_settings_that_make_no_sense_are_told_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(module, "open_dataset", lambda *a: pytest.fail("read"))
    for dataset in ("cifar100", "/nowhere/at/all"):
        with pytest.raises(ValueError, match="student_steps must be at least 1, not 0"):
            condense(dataset, "iatm", student_steps=0)


# ---- nothing twice


CONTINUED = [m for m in LEARNED if m != "iatm"]


@pytest.mark.parametrize("method", CONTINUED)
def test_more_iterations_go_on_where_a_finished_run_ended(method, tmp_path):
    first = run(method, work=tmp_path, iterations=3)
    seen = []
    longer = {"iterations": 5, "on_iteration": lambda i, *_: seen.append(i)}
    on = run(method, work=tmp_path, **longer)
    assert seen == [4, 5]
    straight = run(method, iterations=5)
    assert torch.equal(on.images, straight.images) and torch.equal(on.labels, straight.labels)
    assert on.details == straight.details and on.lr == straight.lr
    again = run(method, work=tmp_path, iterations=3)
    assert seen == [4, 5] and torch.equal(again.images, first.images)
    run(method, work=tmp_path, **{**longer, "iterations": 4})  # shorter than what is kept
    run(method, work=tmp_path, **{**longer, "iterations": 6})
    assert seen == [4, 5, 1, 2, 3, 4, 6]
    assert len(list(tmp_path.glob("state-*"))) == 1


def test_steps_that_depend_on_the_number_of_iterations_start_again(tmp_path):
    for reading, opening, expected in (
        ("rank", None, [1, 2, 3, 4, 5]),
        ("rank", "epochs", [4, 5]),
        ("schedule", None, [4, 5]),
        ("schedule", "iterations", [1, 2, 3, 4, 5]),
    ):
        seen, options = [], {"work": tmp_path, "reading": reading, "opening": opening}
        run("iatm", iterations=3, **options)
        note = lambda i, *_, seen=seen: seen.append(i)  # noqa: E731
        made = run("iatm", iterations=5, on_iteration=note, **options)
        assert seen == expected, (reading, opening)
        straight = run("iatm", iterations=5, reading=reading, opening=opening)
        assert torch.equal(made.images, straight.images)


def test_experts_are_shared_by_runs_of_other_epochs(tmp_path, monkeypatch):
    seen, train = [], experts_module.train_expert
    run("mtt", work=tmp_path)

    def noted(*a, **k):
        seen.append(a)
        return train(*a, **k)

    monkeypatch.setattr(experts_module, "train_expert", noted)
    run("mtt", work=tmp_path, first_start=0, max_start=0)
    run("iatm", work=tmp_path, seed=1)
    assert not seen and len(list(tmp_path.glob("experts-*"))) == 1
    run("mtt", work=tmp_path, max_start=2)  # an epoch more
    assert len(seen) == 2 and len(list(tmp_path.glob("experts-*"))) == 1


# ---- to begin with a set


@pytest.mark.parametrize("method", [m for m in LEARNED if m != "ld"])
def test_a_set_begins_with_another_one(method, tmp_path):
    still = {"lr_lr": 0.0} if method in ("dd", "mtt", "iatm") else {}
    first = run("dm", ipc=2, seed=5)
    made = run(method, ipc=2, init=first, image_lr=0.0, work=tmp_path, **still)
    assert torch.equal(made.images, first.images)
    other = run(method, ipc=2, image_lr=0.0, work=tmp_path, **still)
    assert not torch.equal(other.images, first.images)
    assert made.details["start"] and "start" not in other.details
    assert len(list(tmp_path.glob(f"{method}-*.safetensors"))) == 2


def test_classes_that_have_come_since_begin_with_real_images():
    whole = toy()
    two = whole.train.labels < 2
    split = Split(whole.train.images[two], whole.train.labels[two])
    first = run("dm", replace(whole, train=split, classes=("a", "b")))
    reordered = replace(whole, classes=("b", "a", "c"))
    made = run("dm", reordered, ipc=2, init=first, image_lr=0.0)
    plain = run("dm", reordered, ipc=2, image_lr=0.0)
    assert torch.equal(made.images[[0, 2]], first.images[[1, 0]])  # by name
    assert torch.equal(made.images[[1, 3, 4, 5]], plain.images[[1, 3, 4, 5]])


def test_what_a_set_cannot_begin_with():
    first = run("dm")
    for wrong, words in (
        (replace(first, classes=("a", "b", "x")), "init has classes .'x'.; allowed: a, b, c"),
        (replace(first, images=first.images[..., :4]), r"shape \(3, 8, 8\), not \(3, 8, 4\)"),
        (replace(first, whitening=ChannelWhitening((0.5,) * 3, (0.2,) * 3)), "the whitening"),
    ):
        with pytest.raises(ValueError, match=words):
            run("dm", init=wrong)
    with pytest.raises(ValueError, match="random chooses real images"):
        run("random", init=first)


# ---- before hours of work


def test_whitening_that_does_not_fit_is_an_error_before_it_is_fitted(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "free_memory", lambda device: 100_000)
    monkeypatch.setattr(real_module, "prepare", lambda *a: pytest.fail("whitened"))
    with pytest.raises(MemoryError, match="'zca' of 30 images of 8 x 8 .*use whitening='channel'"):
        run("dm", whitening="zca", work=tmp_path)
    monkeypatch.setattr(memory, "free_memory", lambda device: 100)
    with pytest.raises(MemoryError, match="'channel' of 30 images .*fewer or smaller images"):
        run("dm", work=tmp_path)


def test_experts_that_do_not_fit_are_an_error_before_images_are_whitened(monkeypatch, tmp_path):
    usage = experts_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(experts_module.shutil, "disk_usage", lambda p: usage._replace(free=10))
    monkeypatch.setattr(real_module, "prepare", lambda *a: pytest.fail("whitened"))
    with pytest.raises(OSError, match="2 experts need about .* MB"):
        run("mtt", work=tmp_path)


@pytest.mark.parametrize("whitening", ["channel", "zca"])
def test_random_whitens_no_more_than_the_chunks_of_its_choice(monkeypatch, whitening):
    monkeypatch.setattr(real_module, "_LAST", {})
    monkeypatch.setattr(opening_module, "CHUNK", 192)  # an image at a time
    chosen = run("random", whitening=whitening)
    assert not real_module._LAST
    whole = real_module.prepare(toy(), whitening).images
    assert torch.equal(chosen.images, whole[chosen.details["index"]])


# ---- types


def test_a_torch_data_set_is_condensed():
    items = torch.utils.data.TensorDataset(toy().train.images, toy().train.labels.int())
    made = run("dm", items)
    assert made.classes == ("0", "1", "2") and made.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y.float(), "labels of toy must be whole numbers, not torch.float32"),
        (lambda y: y == 1, "labels of toy must be whole numbers, not torch.bool"),
        (lambda y: y - 1, r"labels of toy must lie in 0..2, not -1..1"),
        (lambda y: y * 6, r"labels of toy must lie in 0..2, not 0..12"),
        (lambda y: y[:, None], r"labels of toy must have shape \(N,\), not \(30, 1\)"),
        (lambda y: y[:-1], r"toy must have a label per image, not \(30, 29\)"),
        (lambda y: y.tolist(), "labels of toy must be whole numbers, not list"),
    ],
)
@pytest.mark.parametrize("method", ["random", "dm"])
def test_labels_that_are_none(change, words, method):
    wrong = replace(toy(), train=Split(toy().train.images, change(toy().train.labels)))
    with pytest.raises(ValueError, match=words):
        run(method, wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"network": torch.nn.Linear}, "network must be a name, such as convnet-3, not <class"),
        ({"method": ["dm"]}, r"method \['dm'\] is unknown"),
        ({"whitening": ["zca"]}, r"whitening \['zca'\] is unknown"),
        ({"whitening": 3}, "whitening 3 is unknown"),
        ({"seed": "a"}, "seed must be a whole number from 0, not 'a'"),
        ({"ipc": "1"}, "ipc must be a whole number"),
        ({"dataset": 3}, "data must be an ImageDataset, a torch data set"),
        ({"dataset": [1, 2]}, "list must give pairs of an image and a label"),
    ],
)
def test_arguments_of_the_wrong_type(wrong, words):
    with pytest.raises(ValueError, match=words):
        condense(**{"dataset": toy(), "method": "dm", **SMALL, **wrong})


@pytest.mark.parametrize("network", ["wrn-10-1", "shake-shake-26-2x8d"])
def test_networks_that_have_no_width_take_none_from_a_preset(network):
    made = condense(toy(), "dm", network=network, preset="small", iterations=1, progress=False)
    assert made.details["settings"]["width"] is None
    with pytest.raises(ValueError, match="width of .* must be None, not 8"):
        condense(toy(), "dm", network=network, width=8, progress=False)


def test_processes_of_torchrun_share_no_set_and_no_evaluation(tmp_path, monkeypatch):
    made = condense(toy(), "random", 1, progress=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="must be 1 for the set of random, not 2"):
        condense(toy(), "random", 1, work=tmp_path)
    with pytest.raises(RuntimeError, match="must be 1 for an evaluation, not 2"):
        evaluate(made, toy())
    assert not list(tmp_path.iterdir())
