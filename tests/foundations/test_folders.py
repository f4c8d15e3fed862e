"People's own folders of images: any shape, any mode, and errors that name the path."

import os
import shutil
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from effdl_nb import prepared
from effdl_nb.accuracy import Labelled
from effdl_nb.folders import HELD_OUT, list_folder, load_folder


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
    plain = load_folder(write_images(tmp_path / "plain"), 8, progress=False)
    write_images(tmp_path / "both" / "train")
    write_images(tmp_path / "both" / "val", count=2)
    both = load_folder(tmp_path / "both", 8, progress=False)
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
        load_folder(tmp_path / "both", 8).digest == both.digest
        and "both test" in (bars := capfd.readouterr().err)
        and "plain" not in bars
    )


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "P"])
def test_images_of_any_mode_become_colour(tmp_path, mode):
    assert load_folder(
        write_images(tmp_path / "odd", mode=mode), 8, progress=False
    ).train.images.shape == (6, 3, 8, 8)


def test_folders_that_are_none_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_folder(tmp_path / "nothing")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no folders of images.*'cat'"):
        load_folder(tmp_path / "empty")
    (write_images(tmp_path / "broken") / "cat" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
        load_folder(tmp_path / "broken", progress=False)
    write_images(tmp_path / "strange" / "train")
    write_images(tmp_path / "strange" / "val", kinds=("bird",))
    with pytest.raises(ValueError, match=r"val has images of 'bird', and train/ has none; .*'cat'"):
        load_folder(tmp_path / "strange")


def test_grey_folders_can_stay_grey(tmp_path):
    for name, modes in (("grey", "L1"), ("mixed", ("L", "RGB"))):
        for kind, mode in zip("ab", modes, strict=True):
            (tmp_path / name / kind).mkdir(parents=True)
            picture = Image.new("RGB", (9, 9), (200, 200, 200)).convert(mode)
            picture.save(tmp_path / name / kind / "0.png")
    read = {n: load_folder(tmp_path / n, 8, False, None) for n in ("grey", "mixed")}
    shapes = {n: tuple(d.train.images.shape) for n, d in read.items()}
    assert shapes == {"grey": (2, 1, 8, 8), "mixed": (2, 3, 8, 8)}  # modes decide, not pixels
    assert len(read["grey"].mean) == 1 and read["grey"].train.images[0].unique().item() == 200
    assert load_folder(tmp_path / "grey", 8, False).train.images.shape == (2, 3, 8, 8)
    assert load_folder(tmp_path / "mixed", 8, False, 1).train.images.shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="channels must be 1 or 3, not 2"):
        load_folder(tmp_path / "grey", 8, False, 2)


def put(folder, *names, size=9):
    "Write small images under these names."
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (20 * k, 9, 0)).save(folder / name)
    return folder


def left_out(folder) -> str:
    "What the reader says that it leaves out."
    with pytest.warns(UserWarning, match="left out of") as said:
        load_folder(folder, 8, progress=False)
    return next(str(w.message) for w in said if "left out of" in str(w.message))


PAIR = ("cat/0.png", "dog/0.png")


@pytest.fixture(autouse=True)
def constant_channels_are_no_matter_here():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="channels .* are constant")
        yield


@pytest.mark.parametrize(
    "name",
    [
        ".ipynb_checkpoints/0.png",
        "__MACOSX/cat/._0.png",
        "cat/.ipynb_checkpoints/0.png",
        ".DS_Store",
        "cat/.DS_Store",
        "cat/._0.png",
        "cat/Thumbs.db",
    ],
)
@pytest.mark.parametrize("below", ["", "train", "val"])
def test_hidden_files_and_companions_are_no_images(tmp_path, name, below):
    if below:
        put(tmp_path / "train", *PAIR)
    put(tmp_path / below, *PAIR)
    (tmp_path / below / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / below / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    said = left_out(tmp_path)
    where = os.path.join(below, name)
    assert f"hidden files and companions: 1 ({where})" in said
    with pytest.warns(UserWarning):
        own = load_folder(tmp_path, 8, progress=False)
    assert own.classes == ("cat", "dog") and len(own.train) == 2


def test_suffixes_are_those_of_torchvision_and_others_are_named(tmp_path):
    kinds = ("a.png", "b.tif", "c.ppm", "d.PGM", "e.gif", "f.TIFF", "g.bmp", "h.webp", "i.jpeg")
    put(tmp_path, *(f"{k}/{name}" for k, name in enumerate(kinds)))
    assert load_folder(tmp_path, 8, progress=False).num_classes == 9
    (tmp_path / "emu").mkdir()
    for k in range(5):
        (tmp_path / "emu" / f"{k}.heic").touch()
    said = left_out(tmp_path)
    assert "5 (emu/0.heic, emu/1.heic, emu/2.heic ...)" in said
    assert "folders without images: 1 (emu)" in said


def test_images_in_sub_folders_and_outside_folders_are_named(tmp_path):
    put(tmp_path, *PAIR, "cat/more/1.png", "cat/more/still/2.png", "stray.png")
    said = left_out(tmp_path)
    assert "images in sub-folders of a class: 2 (cat/more/1.png" in said
    assert "images outside the folders of classes: 1 (stray.png)" in said


@pytest.mark.parametrize("top", ["", "train/", "photos/"])
def test_only_images_in_sub_folders_raise_and_say_so(tmp_path, top):
    put(tmp_path, f"{top}n01/images/0.png", f"{top}n02/images/0.png")
    with pytest.raises(ValueError, match=r"sub-folders of a class: 2 \(.*0\.png.*move them up"):
        list_folder(tmp_path)


@pytest.mark.parametrize("name", HELD_OUT)
def test_what_is_held_out_has_four_names(tmp_path, name):
    put(put(tmp_path / "train", *PAIR).parent / name, "cat/0.png", "dog/0.png", "dog/1.png")
    assert load_folder(tmp_path, 8, progress=False).test.labels.tolist() == [0, 1, 1]


def test_the_first_of_several_held_out_folders_is_taken_and_the_others_named(tmp_path):
    for count, name in enumerate(("train", "test", "valid"), 1):
        put(tmp_path / name, *(f"{kind}/{k}.png" for kind in ("cat", "dog") for k in range(count)))
    put(tmp_path, "bird/0.png")
    said = left_out(tmp_path)
    assert "files in test/: 4 (test/cat/0.png" in said and "files in bird/: 1" in said
    with pytest.warns(UserWarning):
        assert len(load_folder(tmp_path, 8, progress=False).test) == 6


def test_classes_must_match_between_splits(tmp_path):
    put(tmp_path / "train", "cat/0.png", "dog/0.png", "emu/0.png")
    put(tmp_path / "val", "cat/0.png", "Dog/0.png", "fox/0.png")
    words = r"'Dog' \(there: 'dog'\), 'fox', and train/ has none; .*no images of 'dog', 'emu'"
    with pytest.raises(ValueError, match=words):
        load_folder(tmp_path, progress=False)
    for name in ("Dog", "fox"):
        shutil.rmtree(tmp_path / "val" / name)
    with pytest.warns(UserWarning, match=r"val has no images of 'dog', 'emu', which train/ has"):
        assert load_folder(tmp_path, 8, progress=False).test.labels.tolist() == [0]


def test_one_name_in_two_forms_of_unicode_is_pointed_at(tmp_path):
    put(tmp_path / "train", "caf\u00e9/0.png", "tea/0.png")
    put(tmp_path / "val", "cafe\u0301/0.png", "tea/0.png")
    with pytest.raises(ValueError, match=r"there: 'caf\\xe9'"):
        load_folder(tmp_path, progress=False)


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path, "bus/0.png", "train/0.png", "train/1.png", "val/0.png")
    own = load_folder(tmp_path, 8, progress=False)
    assert own.classes == ("bus", "train", "val") and len(own.test) == 0
    put(tmp_path / "other", "train/0.png", "test/1.png")  # no folders of classes at all
    with pytest.raises(ValueError, match=r"train has no folders of images.*outside the folders"):
        load_folder(tmp_path / "other")


def test_a_class_whose_name_is_not_utf_8_raises_with_the_name(tmp_path):
    for name in (b"caf\xe9", b"tea"):
        put(tmp_path / os.fsdecode(name), "0.png")
    with pytest.raises(ValueError, match=r"caf\\xe9 has a name that is not UTF-8; rename it"):
        load_folder(tmp_path, 8)


def test_a_folder_and_files_whose_names_are_not_utf_8_are_read(tmp_path):
    folder = put(tmp_path / os.fsdecode(b"\xe9t\xe9"), *PAIR, os.fsdecode(b"cat/\xe9.png"))
    own = load_folder(folder, 8, progress=False)
    assert len(own.train) == 3 and own.name == "folder:\\xe9t\\xe9"
    f"{own.name} {own.source}".encode()


def test_what_is_no_file_is_not_opened(tmp_path):
    put(tmp_path, *PAIR)
    os.mkfifo(tmp_path / "cat" / "1.png")  # to read it waits for ever
    (tmp_path / "dog" / "1.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "dog" / "up").symlink_to(tmp_path)
    assert "no regular files: 4 (cat/1.png, dog/1.png, dog/up/cat/1.png ...)" in left_out(tmp_path)


NAMES = st.sampled_from(
    ["a", "b", "train", "val", "test", ".hid", "0.png", "1.JPG", "x.txt", "._0.png", "__MACOSX"]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=4), min_size=1, max_size=12))
def test_every_file_is_read_or_named(tmp_path_factory, paths):
    folder = tmp_path_factory.mktemp("tree")
    for parts in paths:
        path = folder.joinpath(*parts, "0.png")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError:
            continue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            listing = list_folder(folder)
        except ValueError:
            return
    every = {os.path.join(top, name) for top, _, names in os.walk(folder) for name in names}
    read = [str(path) for path, _ in (*listing.train, *listing.test)]
    named = [str(p) for paths in listing.left_out.values() for p in paths if not p.is_dir()]
    assert sorted(every) == sorted(read + named)


def test_a_constant_channel_is_named_and_not_divided_by(tmp_path):
    for k in range(2):
        put(tmp_path, f"{k}/0.png")
    Image.new("RGB", (9, 9), (200, 9, 0)).save(tmp_path / "0" / "1.png")
    with pytest.warns(UserWarning, match=r"channels \[1, 2\] of folder:.* are constant"):
        own = load_folder(tmp_path, 8, progress=False)
    assert own.std[0] > 0.1 and own.std[1:] == (1.0, 1.0)
    with pytest.raises(ValueError, match=r"std must be positive in every channel, not \[0\.1"):
        prepared.normalize(own.train.images, own.mean, (0.1, 0.0, 0.1))
    with pytest.raises(ValueError, match="std must be positive"):
        Labelled(own.train.images, own.train.labels, own.mean, (0.1, 0.1, float("nan")))
    with pytest.raises(ValueError, match="images must be at least one"):
        prepared.channel_statistics(np.empty((0, 8, 8, 3), np.uint8))
