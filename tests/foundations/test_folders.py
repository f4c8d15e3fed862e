"People's own folders of images: any shape, any mode, and errors that name the path."

import numpy as np
import pytest
import torch
from PIL import Image

from effdl_nb.folders import load_folder


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
    with pytest.raises(ValueError, match=r"val holds no image files in folders named cat, dog"):
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
