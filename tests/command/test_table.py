"Every command answers as a process: help at once, errors in one line, exit codes as said."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import effdl_nb
from effdl_nb.command.table import COMMANDS, completion_script, main
from effdl_nb.msunet import load_packed, micronet_score

ROOT = Path(__file__).parents[2]


def effdl(*words, **more) -> subprocess.CompletedProcess:
    "Run the command as a process."
    command = [sys.executable, "-m", "effdl_nb", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **more)


WITHOUT_TORCH = """
import sys
from effdl_nb.command.table import main
code = main(sys.argv[1:])
heavy = sorted({"torch", "torchvision", "pandas", "matplotlib"} & sys.modules.keys())
sys.exit(f"loads {heavy}" if heavy else code)
"""


@pytest.mark.parametrize("name", ["--help", "--version", *COMMANDS])
def test_help_loads_no_torch(name):
    words = [name] if name.startswith("-") else [name, "--help"]
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if name != "report":  # its options stand where its page is made
        assert done.returncode == 0, done.stderr
    assert done.stdout


def test_help_of_the_whole_is_quick():
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert effdl("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 0.5, f"{spent:.2f} CPU seconds"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_a_word_for_every_option(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text and f"effdl {name}" in text
    assert "(default" in text


def test_the_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


def test_the_version_is_the_package_s():
    assert effdl("--version").stdout == f"effdl {effdl_nb.__version__}\n"


@pytest.mark.parametrize(
    "words, code, said",
    [
        ("dance", 2, "command 'dance' is unknown; allowed: score, search"),
        ("score", 2, "NETWORK"),
        ("score lenet", 2, "network 'lenet' is unknown"),
        ("score nowhere.safetensors", 1, "there is no file nowhere.safetensors"),
        ("score resnet-18 --image-size big", 2, "Error parsing --image-size: "),
        ("score resnet-18 --imagesize 32", 2, "perhaps you meant --image-size"),
        ("score resnet-18 --image-size 4", 2, "image_size of resnet-18 must be"),
        ("score alexnet --image-size 4", 2, "image_size of alexnet must be"),
        ("score msunet-v9", 2, "'v9' is unknown; allowed: v0, v1"),
        ("score os:nothing", 2, "cannot be made"),
        ("score textwrap:dedent", 2, "cannot be made: missing a required argument: 'text'"),
        ("export resnet-18 net.tflite", 2, "must end in one of .onnx, .pt2, .pte"),
        ("evaluate none.safetensors cifar10-sample", 1, "no condensed set at none.safetensors"),
        ("data mnist", 2, "'mnist' is unknown"),
        ("explain table_4_1 mtt speed --profile laptop", 2, "setting 'speed' is unknown"),
        ("explain table_9_9 mtt lr", 2, "table 'table_9_9' is unknown"),
        ("report --profile fast", 2, "profile 'fast' is unknown"),
        ("list pets", 2, "invalid choice 'pets'"),
        ("condense --data x", 2, "--out"),
        ("condense --data nowhere --out a.safetensors", 1, "neither a folder nor a known name"),
        ("search --data nowhere --out p.json --device cpu", 1, "there is no folder nowhere"),
        ("search --data x --out p.json --method magic", 2, "invalid choice 'magic'"),
    ],
)
def test_an_error_is_one_line_and_has_its_code(words, code, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_ROOT", str(ROOT))
    assert main(words.split()) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error


def test_no_word_at_all_shows_the_commands_and_is_usage():
    done = effdl()
    assert done.returncode == 2 and "effdl COMMAND" in done.stdout


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m effdl_nb list tables | head -1"
    script = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "" and done.stdout.startswith("table_2_1")


def test_a_function_in_the_working_folder_is_scored(tmp_path):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\ndef small():\n    first = nn.Conv2d(3, 4, 3, bias=False)\n"
        "    return nn.Sequential(first, nn.Flatten(), nn.Linear(4 * 36, 2, bias=False))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = ["score", "mynets:small", "--image-size", "8", "--json"]
    done = effdl(*words, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["params"] == 3 * 4 * 9 + 4 * 36 * 2  # 32-bit numbers


def test_the_score_of_a_name_is_the_same_each_time(capsys):
    "Ternary weights are counted without their zeros, and a fresh draw would have others."
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        assert main(["score", "msunet-v3", "--json"]) == 0
        assert before.equal(torch.get_rng_state())
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_progress_in_a_file_is_lines(tmp_path):
    from effdl_nb.condensation import condense
    from effdl_nb.data import load

    images = load("cifar10-sample")
    condense(images, "random", 1, whitening="channel", progress=False).save(
        tmp_path / "s.safetensors"
    )
    words = ["evaluate", tmp_path / "s.safetensors", "cifar10-sample", "--network", "convnet-2"]
    words += ["--width", "8", "--runs", "2", "--epochs", "3"]
    done = effdl(*words, env=os.environ | {"EFFDL_PROGRESS": "0", "TQDM_MININTERVAL": "0"})
    assert done.returncode == 0 and "\r" not in done.stderr
    assert any(line.startswith("evaluate: ") for line in done.stderr.splitlines())
    done = effdl(*words, env=os.environ | {"EFFDL_PROGRESS": "3600"})
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(
    "typed, offered",
    [
        ("effdl sc", ["score"]),
        ("effdl condense --met", ["--method"]),
        ("effdl search --method d", ["deepaa", "deep_ta", "dada"]),
    ],
)
def test_bash_completes(typed, offered):
    words = typed.split()
    script = completion_script("bash") + (
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _effdl; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == offered, done.stderr


def test_an_artefact_is_scored_by_its_name(capsys):
    assert main(["score", "msunet-v3-half-cifar100", "--json"]) == 0
    named = json.loads(capsys.readouterr().out)
    score = micronet_score(load_packed("msunet-v3-half-cifar100"), (3, 32, 32))
    assert (named["params"], named["flops"]) == (score.params, score.flops)
    assert main(["score", "msunet-v3", "--json"]) == 0  # no artefact, though it begins alike
    assert json.loads(capsys.readouterr().out)["params"] > score.params
