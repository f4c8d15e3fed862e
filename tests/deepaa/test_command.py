"The search as a command: killed and resumed, small classes, wrong arguments, and its policy used."

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from effdl_nb.data import load
from effdl_nb.deepaa.__main__ import main
from effdl_nb.deepaa.finding import divide, fitting_config
from effdl_nb.deepaa.policy_file import load_policy
from effdl_nb.deepaa.search import PolicySearch
from effdl_nb.deepaa.search_methods import configure_search
from effdl_nb.deepaa.similarity import draw_pairs, validation_pools
from effdl_nb.deepaa.space import search_space
from effdl_nb.prepared import Split

SHORT = [
    "--steps",
    "4",
    "--layers",
    "2",
    "--pairs",
    "2",
    "--lr",
    "2",
    "--chains",
    "8",
    "--prefixes",
    "1",
    "--proxy-epochs",
    "1",
    "--stop-identity",
    "1",
    "--device",
    "cpu",
    "--quiet",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, sample = tmp_path_factory.mktemp("images"), load("cifar10-sample")
    for name, split, count in (("train", sample.train, 16), ("val", sample.test, 4)):
        for k in range(3):
            (root / name / sample.classes[k]).mkdir(parents=True)
            for n, row in enumerate((split.labels == k).nonzero().flatten()[:count].tolist()):
                Image.fromarray(split.images[row].permute(1, 2, 0).numpy()).save(
                    root / name / sample.classes[k] / f"{n}.png"
                )
    return root


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "policy.json"
    assert main(["--data", str(folder), "--out", str(out), *SHORT]) == 0
    return out


def test_the_printed_lines_use_the_policy_in_a_loader(folder, whole, tmp_path, capsys):
    out = tmp_path / "policy.json"
    assert main(["--data", str(folder), "--out", str(out), *SHORT]) == 0
    said = capsys.readouterr().out
    assert (
        "3 classes" in said
        and "layer 1: entropy" in said
        and "instead of 32" in said
        and not list(tmp_path.glob("*.safetensors"))
    )
    names = {}
    exec("\n".join(line.strip() for line in said.splitlines() if line.startswith("    ")), names)
    dataset = ImageFolder(folder / "train", transform=names["pipeline"])
    torch.manual_seed(0)
    batches = list(DataLoader(dataset, batch_size=16))
    assert [tuple(x.shape) for x, _ in batches] == [(16, 3, 32, 32)] * 3
    assert all(torch.isfinite(x).all() and x.dtype == torch.float32 for x, _ in batches)
    assert torch.equal(load_policy(out).probabilities, load_policy(whole).probabilities), (
        "the same command finds the same policy"
    )


def test_a_killed_search_is_resumed(folder, whole, tmp_path, capsys):
    out = tmp_path / "policy.json"
    arguments = ["--data", str(folder), "--out", str(out), *SHORT]
    slowly = (
        "import sys, time; from effdl_nb.deepaa import __main__ as command, search\n"
        "advance = search.PolicySearch.advance\n"
        "def slow(self):\n    time.sleep(0.3); return advance(self)\n"
        "search.PolicySearch.advance = slow\nsys.exit(command.main(sys.argv[1:]))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", slowly, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    state, end = tmp_path / "policy.json.search.safetensors", time.monotonic() + 120
    while not state.exists() and running.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL and state.exists() and not out.exists()
    assert (tmp_path / "policy.json.proxy.safetensors").exists()
    assert main(arguments) == 0 and "resuming at layer" in capsys.readouterr().out
    assert torch.equal(load_policy(out).probabilities, load_policy(whole).probabilities)


def test_an_interruption_says_how_to_resume_and_other_settings_raise(
    folder, tmp_path, monkeypatch, capsys
):
    out, advance, calls = tmp_path / "policy.json", PolicySearch.advance, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(PolicySearch, "advance", interrupted)
    arguments = ["--data", str(folder), "--out", str(out), *SHORT]
    assert main(arguments) == 130 and "same command again" in capsys.readouterr().err
    assert main([*arguments, "--penalty", "0.5"]) == 1
    assert re.search(
        r"belongs to another search.*penalty \(1.0 there, 0.5 here\); take the values there to",
        capsys.readouterr().err,
    )
    assert main([*arguments, "--network", "wrn-10-1"]) == 1
    assert re.search("made with other settings.*take those to resume it", capsys.readouterr().err)
    assert main([*arguments, "--layers", "3"]) == 0, "more layers are no other search"
    assert "resuming at layer 2" in capsys.readouterr().out and load_policy(out).layers == 3


def test_a_finished_search_is_extended(folder, whole, tmp_path, capsys):
    out, long = tmp_path / "policy.json", tmp_path / "long.json"
    out.write_bytes(whole.read_bytes())
    more = [*SHORT, "--layers", "3"]
    assert main(["--data", str(folder), "--out", str(out), *more]) == 2
    assert "or --extend and more --layers" in capsys.readouterr().err
    assert main(["--data", str(folder), "--out", str(long), *more]) == 0
    arguments = ["--data", str(folder), "--out", str(out), "--extend", *more]
    assert main([*arguments, "--penalty", "0.5"]) == 1
    assert "the policy belongs to another search" in capsys.readouterr().err
    for file in tmp_path.glob("*.search.safetensors"):
        file.unlink()
    assert main(arguments) == 0 and "resuming at layer 3 of 3, step 0" in capsys.readouterr().out
    assert torch.equal(load_policy(out).probabilities, load_policy(long).probabilities)
    none = ["--data", str(folder), "--out", str(tmp_path / "none.json")]
    assert main([*none, "--extend", *more]) == 2
    assert "there is no" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:channels .* are constant")
def test_a_class_that_leaves_one_image_for_both_is_told_what_to_do(folder, tmp_path, capsys):
    for k, count in (("a", 2), ("b", 9)):
        (tmp_path / "few" / k).mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (32, 32), (20 * n, 9, 90)).save(tmp_path / "few" / k / f"{n}.png")
    arguments = ["--data", str(tmp_path / "few"), "--out", str(tmp_path / "p.json"), *SHORT]
    assert main(arguments) == 1
    assert "must leave 2 images to guide the search, not 1; raise" in capsys.readouterr().err
    assert main([*arguments, "--x-from", "proxy"]) in (0, 1)  # flat images may have no gradient
    assert "guide the search, not 1" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, words",
    [
        (["--network", "lenet"], "network 'lenet' is unknown; allowed: wrn"),
        (["--space", "mnist"], "invalid choice 'mnist' for argument '--space'"),
        (["--steps", "0"], "steps must be at least 1, not 0"),
        (["--steps", "many"], "Error parsing --steps: "),
        (["--device", "tpu"], "device 'tpu' is not available"),
        (
            ["--precision", "bf16"],
            "invalid choice 'bf16' for argument '--precision'",
        ),
        (["--precision", "tf32", "--device", "cpu"], "needs a GPU"),
        (["--compile", "--device", "cpu"], "needs a GPU"),
        (["--guide-share", "1"], "guide_share must be between 0 and 1, not 1.0"),
        (["--image-size", "4"], "image_size"),
        (["--image-size", "12"], "at least as large as the space's Cutout of 16"),
        (["--stpes", "3"], "Unrecognized options: --stpes, 3; perhaps you meant --steps"),
    ],
)
def test_wrong_arguments_are_named_before_images_are_read(wrong, words, tmp_path, capsys):
    assert main(["--data", "nowhere", "--out", str(tmp_path / "p.json"), *wrong]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.filterwarnings("ignore:channels .* are constant")
def test_images_that_do_not_fit(folder, whole, tmp_path, capsys):
    def says(data, *more):
        assert main(["--data", str(data), "--out", str(tmp_path / "p.json"), *SHORT, *more]) == 1
        return capsys.readouterr().err

    assert "there is no folder" in says(tmp_path / "nowhere")
    for name in ("train", "val"):
        (tmp_path / "one" / name / "only").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "one" / name / "only" / "0.png")
    assert "must be at least 2, not 1: only" in says(tmp_path / "one")
    for name in ("train", "val"):
        (tmp_path / "one" / name / "second").mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / "one" / name / "second" / "0.png")
    assert "too small: {'only': 1, 'second': 1}" in says(tmp_path / "one")
    assert main(["--data", str(folder), "--out", str(whole), *SHORT]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_without_held_out_images_the_proxy_is_not_judged(folder, whole, tmp_path, capsys):
    out = tmp_path / "p.json"
    assert (
        main(["--data", str(folder / "train"), "--out", str(out), *SHORT]) == 0
        and "not judged" in capsys.readouterr().out
    )
    found = load_policy(out)
    assert found.provenance["proxy_held_out_accuracy"] is None and torch.equal(
        found.probabilities, load_policy(whole).probabilities
    )


def test_imagenets_space_is_scaled_to_the_images_and_quiet_is_quiet(folder, tmp_path, capfd):
    out = tmp_path / "p.json"
    assert main(["--data", str(folder), "--out", str(out), *SHORT, "--space", "imagenet"]) == 0
    assert (
        load_policy(out).space == search_space("imagenet", 32)
        and load_policy(out).space.cutout == 9
    )
    assert not capfd.readouterr().err, "no bar, of decoding neither"


@pytest.mark.parametrize("module", ["effdl_nb.deepaa", "effdl_nb.deepaa.search"])
def test_both_names_are_the_command(module):
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", module, "--help"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0 and not done.stderr
    assert "--data PATH" in done.stdout and "effdl_nb.deepaa.search" in done.stdout


def test_the_other_name_searches_and_hands_on_the_exit_code(folder, tmp_path):
    out = tmp_path / "policy.json"
    command = [sys.executable, "-m", "effdl_nb.deepaa.search", "--data"]
    done = subprocess.run([*command, str(folder), "--out", str(out), *SHORT], capture_output=True)
    assert done.returncode == 0 and load_policy(out).layers >= 1
    done = subprocess.run(
        [*command, "nowhere", "--out", str(out), "--overwrite"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "there is no folder nowhere" in done.stderr


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_an_out_that_is_a_folder_is_said_before_images_are_read(more, tmp_path, capsys):
    for out in (tmp_path, tmp_path / "file" / "p.json"):
        (tmp_path / "file").touch()
        assert main(["--data", "nowhere", "--out", str(out), *more]) == 2
        assert re.search("is a folder; name a file|file is a file", capsys.readouterr().err)


def test_a_rare_class_takes_no_images_from_the_others():
    labels = torch.tensor([0] * 200 + [1] * 200 + [2] * 3)
    train = Split(torch.zeros(403, 3, 32, 32, dtype=torch.uint8), labels)
    config = configure_search("deepaa", "small")
    for shared, rest in ((True, 1), (False, 2)):
        _, guide = divide(train, 0.25, ["a", "b", "rare"], 0)
        assert guide.labels.bincount().tolist() == [50, 50, 2]
        fitted, words = fitting_config(config, guide, shared)
        assert fitted.validation_images == 32
        assert "of 1 of 3 classes" in words and f"{rest} for the smallest" in words
        with pytest.warns(UserWarning, match="fewer than .* validation images: 2 has 2"):
            pools = validation_pools(guide.labels, range(3), 32 + shared, least=1 + shared)
        generator = torch.Generator().manual_seed(0)
        pairs = draw_pairs(guide.labels, pools, 200, 32, generator, shared)
        sizes = {int(guide.labels[x]): len(rows) for x, rows in pairs}
        assert sizes == {0: 32, 1: 32, 2: rest}


def test_a_search_with_a_rare_class_ends_and_says_so(folder, tmp_path, capsys):
    rare = tmp_path / "images"
    shutil.copytree(folder / "train", rare)
    for path in sorted(min(rare.iterdir()).iterdir())[3:]:
        path.unlink()
    out = tmp_path / "p.json"
    assert main(["--data", str(rare), "--out", str(out), *SHORT]) == 0
    assert "for the smallest: they are noisier" in capsys.readouterr().out
