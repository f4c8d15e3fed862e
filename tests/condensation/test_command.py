"""python -m effdl_nb.condensation: a folder becomes a set, and every error is a sentence."""

import inspect
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from effdl_nb.condensation import __main__ as module
from effdl_nb.condensation import memory
from effdl_nb.condensation.__main__ import main, usage
from effdl_nb.condensation.condensing import condense
from effdl_nb.condensation.options import CondenseOptions
from effdl_nb.condensation.sets import CondensedSet
from effdl_nb.files import read_json
from effdl_nb.provenance import project_root

ROWS = project_root() / "reports/laptop/rows"

SMALL = "--network convnet-2 --width 4 --image-size 8 --quiet --device cpu".split()
STEPS = ("student_steps=2", "expert_steps=1", "first_start=1", "max_start=1")
IATM = ["--method", "iatm", "--experts", "1", *(word for step in STEPS for word in ("--set", step))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top, gen = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for k, kind in enumerate(("cat", "dog")):
            (top / split / kind).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(
                    gen.integers(120 * k, 120 * k + 90, (9, 12, 3), dtype=np.uint8)
                ).save(top / split / kind / f"{i}.png")
    return top


def call(*words):
    return main([str(w) for w in words])


def test_from_a_folder_to_a_network(folder, tmp_path, capsys):
    out = tmp_path / "set.safetensors"
    assert (
        call(
            "--data",
            folder,
            "--ipc",
            2,
            "--out",
            out,
            "--method",
            "dm",
            "--iterations",
            4,
            "--evaluate",
            2,
            "--epochs",
            2,
            *SMALL,
        )
        == 0
    )
    said, made = capsys.readouterr().out, CondensedSet.load(out)
    assert (
        "16 images of 2 classes (8 to 8 each), 8 x 8 pixels, 8 to test on" in said
        and "DM, preset small, 2 per class, on cpu" in said
    )
    assert (
        made.classes == ("cat", "dog")
        and len(made) == 4
        and len(made.details["evaluation"]["accuracy"]) == 2
        and made.whitening is not None
    )
    kept = made.details["evaluation"]
    assert (kept["network"], kept["width"], kept["protocol"]) == ("convnet-2", 4, "thesis")
    assert (kept["train"]["epochs"], kept["train"]["lr"], kept["lr_source"]) == (2, 0.01, "fixed")
    assert "learning rate 0.01 (fixed)" in said
    lines = said[said.index("from effdl_nb") :]
    assert lines.strip() == usage(made, out, "convnet-2", 4).strip()
    space = {}
    exec(lines.replace("epochs=300", "epochs=2"), space)
    assert space["model"](
        made.whitening.encode(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    ).shape == (3, 2)


def test_the_module_runs_and_shows_its_memory_and_the_time_left(folder, tmp_path):
    out = tmp_path / "set.safetensors"
    words = [
        "--data",
        folder,
        "--out",
        out,
        "--iterations",
        "3",
        *IATM,
        *[w for w in SMALL if w != "--quiet"],
    ]
    # or three fast iterations pass between two drawings of the bar
    every = os.environ | {"TQDM_MININTERVAL": "0", "EFFDL_PROGRESS": "0"}
    command = [sys.executable, "-m", "effdl_nb.condensation", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=every)
    assert done.returncode == 0, done.stderr
    assert (
        re.search(r"memory of the inner loop \(full\): full \d+ MB, adjoint \d+ MB", done.stdout)
        and "Train on it" in done.stdout
    )
    assert re.search(r"iatm.*\d+/3 \[\d+:\d+<\d+:\d+", done.stderr)  # a bar: done, spent < left
    assert CondensedSet.load(out).method == "iatm"


def test_killed_and_started_again_it_ends_with_the_same_bits(folder, tmp_path):
    words = ["--data", folder, "--iterations", 60, "--save-every", 2, *IATM, *SMALL]
    straight, killed = tmp_path / "straight.safetensors", tmp_path / "killed.safetensors"
    assert call("--out", straight, *words) == 0
    child = subprocess.Popen(
        [sys.executable, "-m", "effdl_nb.condensation", "--out", str(killed), *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    )
    work, end = tmp_path / "killed.safetensors.work", time.monotonic() + 200
    while (
        not list(work.glob("iatm-*.part.safetensors"))
        and child.poll() is None
        and time.monotonic() < end
    ):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(work.glob("iatm-*.part.safetensors")) and not killed.exists()
    assert call("--out", killed, *words) == 0
    a, b = CondensedSet.load(straight), CondensedSet.load(killed)
    assert torch.equal(a.images, b.images) and a.lr == b.lr and a.details == b.details


def test_an_interruption_says_how_to_resume(folder, tmp_path, capsys, monkeypatch):
    def interrupted(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "condense", interrupted)
    assert call("--data", folder, "--out", tmp_path / "a.safetensors", *SMALL) == 130
    assert "run the same command again to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "/nowhere/at/all"], "neither a folder nor a known name"),
        (["--method", "magic"], "Expected one of ('random', 'herding'"),
        (["--preset", "huge"], "Expected one of ('paper', 'small')"),
        (["--ipc", "0"], "from 1, not 0"),
        (["--network", "convnet-x"], "network 'convnet-x' is unknown; allowed"),
        (["--whitening", "pca"], "Expected one of ('auto', 'zca', 'channel')"),
        (["--set", "speed=11"], "mtt has no option 'speed'; allowed: "),
        (["--set", "speed"], "NAME=VALUE"),
        (["--set", "experts.speed=11"], "mtt has no option 'experts.speed'; allowed: batch_size"),
        (["--set", "experts=many"], "experts.count is 'many'; allowed: a whole number"),
        (["--set", "experts.count=0"], "count must be at least 1, not 0"),
        (["--set", "image_lr=fast"], "image_lr is 'fast'; allowed: a number"),
        (["--method", "random", "--experts", "3"], "random has no option 'width'; allowed: none"),
        (["--memory", "disk"], "memory 'disk' is unknown"),
        (["--device", "abacus"], "cpu always is"),
        (["--out", "set.pt"], ".safetensors file, not 'set.pt'"),
        (["--save-every", "0"], "at least 1"),
        (["--image-size", "0"], "--image-size must be at least 1, not 0"),
        (["--evaluate", "-1"], "--evaluate must be at least 0, not -1"),
        (["--epochs", "0", "--evaluate", "1"], "--epochs must be at least 1, not 0"),
        (["--set", "image_lr=NaN"], "image_lr must be a finite number, not nan"),
        (["--set", "image_lr=1e40"], "image_lr must be at most 3.403e+38, not 1e+40"),
        (["--whitening", "zca", "--image-size", "224"], "use whitening='channel', which needs"),
    ],
)
def test_errors_in_a_sentence(folder, tmp_path, capsys, words, said):
    out = [] if "--out" in words else ["--out", tmp_path / "a.safetensors"]
    late = {"--data", "--device", "--save-every"} & set(words) or "224" in words
    assert call("--data", folder, *out, *SMALL, *words) == (1 if late else 2)
    err = capsys.readouterr().err
    assert (
        err.startswith("error: ")
        and said in err
        and err.count("\n") == 1
        and not (tmp_path / "a.safetensors").exists()
    )


def test_what_is_there_is_not_overwritten(folder, tmp_path, capsys):
    (tmp_path / "a.safetensors").write_text("precious")
    assert (
        call("--data", folder, "--out", tmp_path / "a.safetensors", *SMALL) == 2
        and "exists already" in capsys.readouterr().err
    )
    assert (tmp_path / "a.safetensors").read_text() == "precious"


def test_an_out_that_is_a_folder_is_said_before_the_data_is_read(tmp_path, capsys):
    (tmp_path / "set.safetensors").mkdir()
    (tmp_path / "file").touch()
    for out, words in (
        ("set.safetensors", "is a folder; name a file"),
        ("file/set.safetensors", "file is a file"),
    ):
        assert call("--data", "nowhere", "--out", tmp_path / out, *SMALL) == 2
        err = capsys.readouterr().err
        assert words in err and "remove" not in err
    flags = ("--out", tmp_path / "a.safetensors", "--work", tmp_path / "file")
    assert call("--data", "nowhere", *flags, *SMALL) == 2
    assert "--work must be a folder" in capsys.readouterr().err


def test_more_memory_than_there_is(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 20_000)
    assert call("--data", folder, "--out", tmp_path / "a.safetensors", *IATM, *SMALL) == 1
    assert re.search("needs about .* MB .* are free", capsys.readouterr().err)


def test_one_class_and_nothing_to_test_on(folder, tmp_path, capsys):
    words = ["--method", "dc", "--iterations", 2, *SMALL]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "cat").symlink_to(folder / "train" / "cat")
    assert call("--data", tmp_path / "one", "--out", tmp_path / "one.safetensors", *words) == 0
    assert len(CondensedSet.load(tmp_path / "one.safetensors")) == 1
    assert (
        call(
            "--data", tmp_path / "one", "--out", tmp_path / "b.safetensors", "--evaluate", 1, *words
        )
        == 1
    )
    assert "no val/ or test/" in capsys.readouterr().err


def test_options_of_experts_have_a_dot(folder, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    words = ["--set", "experts.epochs=3", "--set", "experts.lr=0.1", "--iterations", 1, *IATM]
    assert call("--data", folder, "--out", out, *words, *SMALL) == 0
    assert "experts 1, iterations 1" in capsys.readouterr().out
    settings = CondensedSet.load(out).details["settings"]
    assert settings["experts"] == {
        "count": 1,
        "epochs": 3,
        "lr": 0.1,
        "batch_size": 64,  # the preset's
        "half": False,
        "precision": "fp32",
        "strategy": "color_crop_cutout_flip_scale_rotate",
    }
    assert (settings["student_steps"], settings["width"], settings["ipc"]) == (2, 4, 1)


def test_flags_and_options_of_one_mapping_are_joined():
    settings = ("experts.lr=1e-2", "image_optimizer=sgd", "milestones=[1, 2]")
    arguments = CondenseOptions(data="x", out="y", experts=7, set=settings)
    assert module._options(arguments) == {
        "experts": {"count": 7, "lr": 0.01},
        "image_optimizer": "sgd",
        "milestones": [1, 2],
    }


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("can't allocate 9 bytes\nException raised from alloc"),
            "can't allocate 9 bytes",
        ),
        (OverflowError("too large"), "too large"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_torch_raises_is_a_sentence_too(folder, tmp_path, capsys, monkeypatch, error, words):
    def broken(*a, **k):
        raise error

    monkeypatch.setattr(module, "condense", broken)
    assert call("--data", folder, "--out", tmp_path / "a.safetensors", *SMALL) == 1
    assert capsys.readouterr().err == f"error: {words}\n"


def test_the_default_is_what_the_committed_rows_put_first():
    means = {}
    for path in sorted(ROWS.glob("table_4_[1a]/*.json")):
        for one in read_json(path)["measurements"]:
            accuracies = one["metrics"]["accuracy"]
            means.setdefault((path.stem, one["settings"]["method"]), []).extend(accuracies)
    _, best = max(means, key=lambda key: np.mean(means[key]))
    arguments = CondenseOptions(data="x", out="y")
    default = inspect.signature(condense).parameters["method"].default
    assert arguments.method == default == best, means


def test_a_grey_folder_becomes_a_grey_set(tmp_path, capsys):
    gen = np.random.default_rng(0)
    for kind in ("0", "1"):
        (tmp_path / "grey" / kind).mkdir(parents=True)
        for i in range(4):
            pixels = gen.integers(0, 255, (9, 9), dtype=np.uint8)
            Image.fromarray(pixels, "L").save(tmp_path / "grey" / kind / f"{i}.png")
    words = ["--data", tmp_path / "grey", "--method", "dm", "--iterations", 2, *SMALL]
    for name, more, channels in (("a", [], 1), ("b", ["--channels", 3], 3)):
        out = tmp_path / f"{name}.safetensors"
        assert call("--out", out, *words, *more) == 0
        assert CondensedSet.load(out).images.shape == (2, channels, 8, 8)
        assert ("8 x 8 pixels, grey" in capsys.readouterr().out) == (channels == 1)


def test_the_network_s_own_width(folder, tmp_path, capsys):
    words = "--method dm --iterations 1 --network wrn-10-1 --image-size 8 --quiet".split()
    assert call("--data", folder, "--out", tmp_path / "a.safetensors", *words) == 0
    assert "width the network's own" in capsys.readouterr().out
    words = "--method dm --iterations 1 --network convnet-2 --image-size 8 --quiet --set width=null"
    assert call("--data", folder, "--out", tmp_path / "b.safetensors", *words.split()) == 0
    assert CondensedSet.load(tmp_path / "b.safetensors").details["settings"]["width"] is None


def test_a_set_of_kip_is_judged_by_its_kernel(folder, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    words = [
        "--method",
        "kip",
        "--iterations",
        3,
        "--set",
        "depth=2",
        "--evaluate",
        1,
        "--epochs",
        1,
    ]
    words += ["--image-size", 8, "--network", "convnet-2", "--quiet"]
    assert call("--data", folder, "--out", out, *words) == 0
    made = CondensedSet.load(out)
    assert f"{made.details['evaluation']['kernel_accuracy']:.1f} %" in capsys.readouterr().out
