"No altered file runs code, takes more than it needs, or gives another value than the one kept."

import json
import os
import random
import warnings
from pathlib import Path

import pytest
from faults.harness import FULL, child, count, many
from faults.hostile import MEMORY, Outcome, altered_bytes, attack, forbid, memory
from faults.readers import Reader, every_reader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effdl_nb import spec
from effdl_nb.checked import read_yaml
from effdl_nb.decoding import decode_image
from effdl_nb.deepaa.policy_file import load_policy
from effdl_nb.files import read_json, read_kept

FINDINGS = Path(__file__).parent / "findings"


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = dict(os.environ), os.getcwd()
        made = every_reader(tmp_path_factory.mktemp("readers"))
        os.environ.update(before[0])
        os.chdir(before[1])
    return made


def attacked(reader: Reader, folder: Path, inputs: int, seed: int) -> Outcome:
    "Let a child read altered files: what it starts, writes elsewhere and holds is a finding."
    canary, told = folder / "bin", folder / "told"

    def work():
        os.environ["PATH"] = str(canary)
        findings: list[str] = []
        forbid(folder.parent, findings)
        begin = memory()
        outcome = attack(reader, folder / "files", inputs, seed)
        if (taken := memory() - begin) > MEMORY + reader.need:
            findings.append(f"{reader.name}: {taken >> 20} MiB")
        told.write_text(json.dumps(vars(outcome) | {"findings": findings + outcome.findings}))

    assert os.waitpid(child(work), 0)[1] == 0, reader.name
    return Outcome(**json.loads(told.read_text()))


def test_altered_files_are_named_or_read_right(readers, tmp_path):
    canary, inputs = tmp_path / "bin", many(10, 6_500)
    canary.mkdir()
    (tmp_path / "files").mkdir()
    for program in ("gs", "convert", "sh", "git", "npm", "unzip"):
        (canary / program).write_text(f"#!/bin/sh\n: > {canary}/called\n")
        (canary / program).chmod(0o755)
    outcomes = [attacked(r, tmp_path, inputs, n) for n, r in enumerate(readers.values())]
    findings = {finding for outcome in outcomes for finding in outcome.findings}
    assert not findings, "\n".join(sorted(findings)[:40])
    tried, errors, right = (
        sum(getattr(o, key) for o in outcomes) for key in ("inputs", "errors", "right")
    )
    assert tried > 0.8 * inputs * len(readers) and not (canary / "called").exists()
    count("altered files", tried=tried, errors=errors, right=right, silent=0)


@settings(
    max_examples=many(60, 4000),
    derandomize=not FULL,  # `make test` tries the same ones each time
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**48), which=st.integers(0, 1000))
def test_altered_files_as_hypothesis_draws_them(readers, tmp_path, seed, which):
    reader = sorted(readers)[which % len(readers)]
    path, outcome = tmp_path / reader, Outcome()
    path.write_bytes(readers[reader].whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from faults.hostile import plain

        expected = repr(plain(readers[reader].read(path)))
    path.write_bytes(altered_bytes(random.Random(seed), readers[reader].whole))
    outcome.note(path, readers[reader], expected, False)
    assert not outcome.findings


@pytest.mark.skipif(not FULL, reason="`make faults` runs it")
def test_altered_files_as_atheris_finds_them(tmp_path):
    pytest.importorskip("atheris", reason="its wheels are for Linux")
    import subprocess
    import sys

    runs = 20_000
    for reader in ("row.json", "policy.json", "PNG-RGB.png", "TIFF-RGB.tif", "set.safetensors"):
        command = [sys.executable, str(Path(__file__).with_name("guided.py")), reader, str(runs)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        count("altered files, guided by coverage", tried=runs, silent=0)


@pytest.mark.parametrize("path", sorted(FINDINGS.glob("*")), ids=lambda path: path.name)
def test_what_was_found_once_is_named_now(readers, tmp_path, path):
    name = path.name.partition("-")[2]
    outcome = Outcome()
    (tmp_path / name).write_bytes(path.read_bytes())
    outcome.note(tmp_path / name, readers[name], "", True)
    assert not outcome.findings


# %% single cases


def test_a_pipe_is_not_waited_for(tmp_path):
    for name, read in (("x.png", lambda p: decode_image(p, 8)), ("x.json", read_json)):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} cannot be read.*no regular file"):
            read(tmp_path / name)
    for read in (read_kept, load_policy, read_yaml):
        with pytest.raises(ValueError, match="x.json.*no regular file"):
            read(tmp_path / "x.json")


def test_a_bomb_of_aliases_is_told_in_a_line(tmp_path):
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10))
    (tmp_path / "bomb.yaml").write_text(
        f"l0: &l0 [{', '.join(['lol'] * 9)}]\n{levels}\ntitle: *l9\n"
    )
    with pytest.raises(
        ValueError, match="bomb.yaml must spell out at most 100,000 values"
    ) as error:
        read_yaml(tmp_path / "bomb.yaml")
    assert len(str(error.value)) < 500
    (tmp_path / "circle.yaml").write_text("a: &a [*a]\n")
    with pytest.raises(ValueError, match="circle.yaml must spell out"):
        read_yaml(tmp_path / "circle.yaml")
    (tmp_path / "latin.yaml").write_bytes("title: Z\xfcrich".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.yaml is not YAML"):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="deep.json is not a JSON file"):
        read_json(tmp_path / "deep.json")


def test_a_policy_with_an_unbounded_parameter_is_refused(readers, tmp_path):
    from effdl_nb.deepaa.policy_file import _checksum

    path = tmp_path / "policy.json"
    path.write_bytes(readers["policy.json"].whole)
    content = read_json(path)
    for key, value in (("pad", 20_000), ("pad", 1.5), ("cutout", 1e9), ("fill", [0, 0, "a"])):
        altered = json.loads(json.dumps(content))
        altered["space"][key] = value
        altered["checksum"] = _checksum(altered)
        path.write_text(json.dumps(altered))
        with pytest.raises(ValueError, match=rf"policy.json.*{key} must be"):
            load_policy(path)


@pytest.mark.parametrize("name", ["...yaml", "a{b}.yaml", "a: b.yaml", ".yaml"])
def test_a_profile_whose_name_leads_elsewhere_is_refused(tmp_path, name):
    (tmp_path / name).write_text("title: x\n")
    with pytest.raises(ValueError, match="name of a profile must be letters"):
        spec.load_profile(str(tmp_path / name))


def test_postscript_is_no_picture_whatever_its_name(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(ValueError, match="x.png cannot be read as an image"):
        decode_image(tmp_path / "x.png", 8)


@pytest.mark.parametrize("sides, size", [((1_000_000, 1), 224), ((9, 4_000_000), 8)])
def test_a_long_thin_picture_takes_no_more_than_its_pixels(tmp_path, sides, size):
    from PIL import Image

    Image.new("RGB", sides).save(tmp_path / "x.png")

    def work():
        begin = memory()
        decode_image(tmp_path / "x.png", size)
        assert memory() - begin < 8 * sides[0] * sides[1] + (32 << 20)

    assert os.waitpid(child(work), 0)[1] == 0


def test_a_picture_that_needs_no_conversion_is_not_copied(tmp_path):
    from PIL import Image

    Image.new("RGB", (6000, 5000)).save(tmp_path / "x.png", compress_level=1)

    def work():
        begin = memory()
        decode_image(tmp_path / "x.png", 32)
        assert memory() - begin < 6 * 6000 * 5000

    assert os.waitpid(child(work), 0)[1] == 0


def test_altering_alters():
    draw = random.Random(0)
    assert sum(altered_bytes(draw, b"abcdefgh" * 20) != b"abcdefgh" * 20 for _ in range(200)) > 190
