"""Data sets in model space: opened, whitened, and identified by their content."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from toys import toy

from effdl_nb import data, opening
from effdl_nb.condensation import images as spaces
from effdl_nb.condensation import real as module
from effdl_nb.condensation.condensing import condense
from effdl_nb.condensation.images import ChannelWhitening, ZCAWhitening
from effdl_nb.condensation.methods import configure
from effdl_nb.condensation.real import check_images, origin_of, prepare
from effdl_nb.condensation.trajectory import table_4_3
from effdl_nb.data import Split
from effdl_nb.opening import content_digest, name_of, open_dataset
from effdl_nb.registry import DATASETS, Entry


@pytest.fixture
def nothing_prepared(monkeypatch):
    "No images that an earlier test whitened."
    monkeypatch.setattr(module, "_LAST", {})


# ---- opening


def write(folder, name, kinds=("cat", "dog"), count=3, size=(12, 9)):
    gen = np.random.default_rng(len(name))
    for k, kind in enumerate(kinds):
        (folder / name / kind).mkdir(parents=True)
        for i in range(count):
            pixels = gen.integers(40 * k, 40 * k + 90, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / kind / f"{i}.png")
    return folder


def test_class_folders_at_the_top_or_under_train(tmp_path):
    plain = open_dataset(write(tmp_path, "plain") / "plain", 8, progress=False)
    both = write(write(tmp_path / "both", "train"), "val", count=2)
    split = open_dataset(both, 8, progress=False)
    assert len(plain.test) == 0 and len(split.test) == 4
    assert split.digest != plain.digest and open_dataset(plain) is plain
    options = {"width": 4, "iterations": 4, "batch_real": 6}
    how = {"network": "convnet-2", "preset": "small", "image_size": 8, "progress": False}
    condensed = condense(tmp_path / "plain", "dm", **how, **options)
    assert condensed.classes == ("cat", "dog")


def test_whitening_and_schedule_of_a_registered_data_set_are_its_entry_s(monkeypatch):
    mine = Entry("mine", whitening="zca", like="cifar100")
    monkeypatch.setitem(DATASETS, "mine", mine)
    assert origin_of(replace(toy(), name="mine"))["whitening"] == "zca"
    assert table_4_3("mine", 10) == table_4_3("cifar100", 10)
    monkeypatch.setitem(DATASETS, "mine", replace(mine, whitening="channel", like=None))
    assert origin_of(replace(toy(), name="mine"))["whitening"] == "channel"
    assert table_4_3("mine", 10) == table_4_3("cifar10", 10)


def test_a_folder_called_like_a_benchmark_is_none(tmp_path, monkeypatch):
    write(tmp_path, "cifar100")
    monkeypatch.chdir(tmp_path)
    for where in ("./cifar100", tmp_path / "cifar100", str(tmp_path / "cifar100")):
        images = open_dataset(where, 8, progress=False)
        assert images.name == "folder:cifar100"
        assert prepare(images).origin["whitening"] == "channel"
        assert table_4_3(images.name, 10) == table_4_3("cifar10", 10) != table_4_3("cifar100", 10)
        here, there = (configure("iatm", 10, dataset=d) for d in (images.name, "cifar100"))
        assert (here.max_start, there.max_start) == (20, 50)
    with pytest.raises(
        ValueError, match=r"'./cifar100' for the folder, 'data:cifar100' for the data set"
    ):
        open_dataset("cifar100", 8)
    assert prepare(replace(toy(), name="cifar-like")).origin["whitening"] == "channel"
    assert open_dataset("data:cifar10-sample").name == "cifar10-sample"


def test_names_are_data_sets():
    assert open_dataset("cifar10-sample").name == "cifar10-sample"
    assert "cifar10-sample" in data.NAMES


def test_a_name_is_known_before_the_data_set_is_opened(tmp_path, monkeypatch):
    write(tmp_path, "cifar100")
    monkeypatch.chdir(tmp_path / "cifar100")
    for where in (
        "../cifar100",
        ".",
        tmp_path / "cifar100",
        "cifar10-sample",
        "data:cifar10-sample",
        toy(),
    ):
        assert name_of(where) == open_dataset(where, 8, progress=False).name


def test_what_is_no_data_set(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("svhn", "data:svhn", tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(ValueError, match="neither a folder nor a known name.*cifar10-sample"):
            open_dataset(name)


# ---- whitening


def test_zca_is_fitted_once_for_all(tmp_path, monkeypatch, nothing_prepared):
    calls = []
    trivial = ZCAWhitening(torch.full((192,), 0.5), torch.ones(192), torch.eye(192))
    monkeypatch.setattr(module, "fit_zca", lambda images, **_: calls.append(1) or trivial)
    first = prepare(toy(), "zca", tmp_path)
    assert prepare(toy(), "zca", tmp_path) is first
    module._LAST.clear()
    again = prepare(toy(), "zca", tmp_path)
    assert len(calls) == 1 and first.whitening.kind == again.whitening.kind == "zca"
    assert torch.equal(first.images, again.images)
    module._LAST.clear()
    prepare(toy(), "zca")  # without a folder it is fitted again
    assert len(calls) == 2
    assert prepare(replace(toy(), name="cifar10"), work=tmp_path).origin["whitening"] == "zca"
    assert prepare(toy()).origin["whitening"] == "channel"


def test_whitened_images_are_those_of_the_data_set(nothing_prepared):
    images = prepare(toy())
    by_hand = ChannelWhitening((0.4,) * 3, (0.2,) * 3).encode(toy().train.images)
    assert torch.equal(images.images, by_hand) and torch.equal(images.labels, toy().train.labels)
    assert (images.classes, images.num_classes, images.shape) == (("a", "b", "c"), 3, (3, 8, 8))


def test_constant_channel(nothing_prepared):
    with pytest.raises(ValueError, match="constant"):
        prepare(replace(toy(), std=(0.2, 0.0, 0.2)))


def test_an_unknown_whitening():
    with pytest.raises(ValueError, match="whitening 'pca' is unknown; allowed: auto, zca, channel"):
        prepare(toy(), "pca")


def test_at_most_one_data_set_is_held(nothing_prepared):
    for dataset in (toy(), toy(channels=1), toy(classes=2)):
        prepare(dataset)
        assert len(module._LAST) == 1


# ---- identity by content


def two_classes(dataset, a, b):
    "Class-incremental learning: two classes of a data set, under its name and its digest."
    chosen = torch.cat([(dataset.train.labels == c).nonzero().flatten()[:10] for c in (a, b)])
    split = Split(dataset.train.images[chosen], torch.arange(2).repeat_interleave(10))
    return replace(dataset, train=split, classes=(dataset.classes[a], dataset.classes[b]))


@pytest.mark.parametrize("whitening", ["channel", "zca"])
@pytest.mark.parametrize("kept", [True, False])
def test_two_tasks_cut_from_one_data_set_are_two(tmp_path, whitening, kept):
    whole, how = toy(), {"whitening": whitening, "progress": False}
    how["work"] = tmp_path if kept else None
    tasks = [two_classes(whole, 0, 1), two_classes(whole, 1, 2)]
    assert tasks[0].digest == tasks[1].digest == whole.digest  # what the name says is no help
    sets = [condense(task, "random", **how) for task in tasks]
    for task, made in zip(tasks, sets, strict=True):
        chosen = task.train.images[made.details["index"]]
        assert torch.equal((made.to_raw() * 255).round().to(torch.uint8), chosen)
        assert made.classes == task.classes and made.details["digest"] == content_digest(task)
    again = [condense(task, "random", **how) for task in reversed(tasks)]
    for made, other in zip(sets, reversed(again), strict=True):
        assert torch.equal(made.images, other.images)
    assert len(list(tmp_path.glob("random-*.safetensors"))) == 2 * kept
    assert len(list(tmp_path.glob("zca-*.safetensors"))) == 2 * (kept and whitening == "zca")
    images = [prepare(task, whitening) for task in tasks]
    assert images[0].origin != images[1].origin
    fits = [dataset.whitening.tensors() for dataset in images]
    if whitening == "zca":
        assert not torch.equal(fits[0]["mean"], fits[1]["mean"])


@pytest.mark.parametrize(
    "change",
    [
        lambda d: {"train": Split(255 - d.train.images, d.train.labels)},
        lambda d: {"train": Split(d.train.images, d.train.labels.roll(1))},
        lambda d: {"train": Split(d.train.images.flip(0), d.train.labels.flip(0))},
        lambda d: {"train": Split(d.train.images.flatten(2).view(30, 3, 4, 16), d.train.labels)},
        lambda d: {"classes": ("a", "b", "d")},
        lambda d: {"mean": (0.5,) * 3},
        lambda d: {"std": (0.25,) * 3},
    ],
)
def test_what_methods_learn_from_makes_another_data_set(change):
    dataset = toy()
    assert content_digest(replace(dataset, **change(dataset))) != content_digest(dataset)


def test_what_methods_do_not_see_does_not_make_another():
    dataset = toy()
    others = [
        replace(dataset, digest="another"),
        replace(dataset, test=Split(dataset.test.images[:3], dataset.test.labels[:3])),
        replace(dataset, train=Split(dataset.train.images, dataset.train.labels.int())),
    ]
    assert {content_digest(other) for other in others} == {content_digest(dataset)}
    assert origin_of(others[0]) == origin_of(dataset)


# ---- images per class


def test_classes_with_too_few_images():
    assert check_images(toy(), 10) == {}
    assert check_images(toy(), 11) == {"a": 10, "b": 10, "c": 10}
    with pytest.raises(ValueError, match=r"class 3 has 0 images.*'d' of toy"):
        check_images(replace(toy(), classes=tuple("abcd")), 1)
    empty = Split(toy().train.images[:0], toy().train.labels[:0])
    with pytest.raises(ValueError, match="toy has 0 training images"):
        check_images(replace(toy(), train=empty), 1)


# ---- torch data sets


class Pictures:
    "A map-style data set of PIL images."

    classes = ["dark", "light"]

    def __init__(self, mode="RGB", sizes=(8, 8)):
        self.mode, self.sizes = mode, sizes

    def __len__(self):
        return 4

    def __getitem__(self, i):
        size = self.sizes[i % 2]
        return Image.new("RGB", (size, size), (20 + 60 * i,) * 3).convert(self.mode), i // 2


def test_a_torch_data_set_of_pictures():
    images = open_dataset(Pictures(), progress=False)
    assert images.classes == ("dark", "light") and images.train.labels.tolist() == [0, 0, 1, 1]
    assert images.train.images.shape == (4, 3, 8, 8) and images.train.images.dtype == torch.uint8
    assert images.train.images[:, 0, 0, 0].tolist() == [20, 80, 140, 200] and len(images.test) == 0
    assert images.mean == pytest.approx((110 / 255,) * 3)
    assert images.std == pytest.approx((4500**0.5 / 255,) * 3)
    assert open_dataset(Pictures("L"), progress=False).train.images.shape == (4, 1, 8, 8)
    assert prepare(images).shape == (3, 8, 8)


def test_a_torch_data_set_of_floats_is_taken_as_it_is():
    images = torch.rand(6, 1, 4, 4, dtype=torch.float64)
    items = torch.utils.data.TensorDataset(images, torch.tensor([0, 1, 2, 0, 1, 2]).int())
    read = open_dataset(items, progress=False)
    assert read.train.labels.dtype == torch.int64 and read.classes == ("0", "1", "2")
    assert torch.equal(read.train.images, images)
    mean, std = images.mean(), images.std(unbiased=False)
    assert read.mean[0] == pytest.approx(mean.item()) and read.std[0] == pytest.approx(std.item())


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (3, "data must be an ImageDataset, a torch data set .*, not int"),
        (None, "not NoneType"),
        ([], "not list"),
        ([1, 2], "list must give pairs of an image and a label"),
        (Pictures(sizes=(8, 9)), "Pictures must give pairs of an image and a label"),
        ([(torch.rand(3, 4, 4), 0.5)], "labels of list must be whole numbers, not torch.float32"),
        ([(torch.rand(3, 4, 4), -1)], r"labels of list must lie in 0.*, not -1..-1"),
        ([(torch.rand(3, 4, 4) * 255, 0)], r"images must be uint8 or floats in \[0, 1\], not from"),
        ([(torch.rand(4), 0)], r"images must have shape \(N, C, H, W\), not \(1, 4\)"),
    ],
)
def test_what_is_no_torch_data_set(items, words):
    with pytest.raises(ValueError, match=words):
        open_dataset(items, progress=False)


# ---- one copy


def test_images_are_whitened_chunk_by_chunk(monkeypatch, nothing_prepared):
    whole = {kind: prepare(toy(), kind).images for kind in ("zca", "channel")}
    sizes, to_unit = [], spaces.to_unit
    monkeypatch.setattr(spaces, "to_unit", lambda x: sizes.append(len(x)) or to_unit(x))
    monkeypatch.setattr(opening, "CHUNK", 7 * 192)
    for kind, images in whole.items():
        module._LAST.clear()
        torch.testing.assert_close(prepare(toy(), kind).images, images, rtol=1e-3, atol=1e-4)
    assert max(sizes) == 7 and sum(sizes) == 30 * 4  # mean, covariance, two encodings


def test_labels_of_another_integer_type_are_used():
    dataset = replace(toy(), train=Split(toy().train.images, toy().train.labels.int()))
    assert prepare(dataset).labels.dtype == torch.int64
