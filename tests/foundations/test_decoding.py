"Files of every mode and format, damaged files and huge ones: decoded by a rule, or named."

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from effdl_nb import decoding
from effdl_nb.decoding import decode_image, decode_images, image_mode

RANDOM = np.random.default_rng(5)
COLOUR = RANDOM.integers(0, 256, (20, 20, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65_536, (20, 20)).astype(np.uint16)


def save(path, pixels, mode=None, **options):
    "Write pixels as a file, and give its path."
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "ppm", "tif", "tiff"])
def test_lossless_formats_give_the_pixels(tmp_path, suffix):
    path = save(
        tmp_path / f"a.{suffix}", COLOUR, **({"lossless": True} if suffix == "webp" else {})
    )
    assert (decode_image(path, None) == COLOUR).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "CMYK"])
def test_modes_without_transparency_are_what_pillow_makes_of_them(tmp_path, mode):
    path = save(tmp_path / "a.tif", COLOUR, mode)
    with Image.open(path) as image:
        assert image_mode(path) == image.mode == mode
        assert (decode_image(path, None) == np.asarray(image.convert("RGB"))).all()
        assert (decode_image(path, None, 1)[..., 0] == np.asarray(image.convert("L"))).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_16_bits_is_scaled(tmp_path, suffix):
    path = save(tmp_path / f"deep.{suffix}", DEEP)
    right = np.floor(DEEP / 257 + 0.5)
    assert image_mode(path) in decoding.GREY_MODES
    assert (decode_image(path, None, 1)[..., 0] == right).all()
    assert (decode_image(path, None) == right[..., None]).all()


def test_16_bits_of_the_other_byte_order_and_with_a_transparent_value(tmp_path):
    path = save(tmp_path / "big.tif", DEEP.astype(">u2"))
    assert (decode_image(path, None, 1)[..., 0] == np.floor(DEEP / 257 + 0.5)).all()
    path = save(tmp_path / "clear.png", DEEP, transparency=int(DEEP[0, 0]))
    assert decode_image(path, None, 1)[0, 0] == 255


def alpha(values) -> np.ndarray:
    "The colours with an alpha channel."
    return np.dstack([COLOUR, np.broadcast_to(values, COLOUR.shape[:2])]).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_transparent_pixels_are_white_and_opaque_ones_as_they_were(tmp_path, mode, suffix):
    opaque = np.arange(20)[:, None] < 10
    path = save(tmp_path / f"a.{suffix}", alpha(255 * opaque), mode)
    plain = np.asarray(Image.fromarray(COLOUR).convert("L" if mode == "LA" else "RGB"))
    seen = decode_image(path, None, 1 if mode == "LA" else 3).squeeze()
    assert (seen[:10] == plain[:10]).all() and (seen[10:] == 255).all()
    path = save(tmp_path / f"b.{suffix}", alpha(128), mode)
    half = (plain / 255 * 128 + 127).astype(int)
    assert abs(decode_image(path, None, 1 if mode == "LA" else 3).squeeze() - half).max() <= 1


@pytest.mark.parametrize(
    ("name", "mode", "transparent"),
    [("a.png", "P", 0), ("a.gif", "P", 0), ("a.png", "L", 7), ("a.png", "RGB", (1, 2, 3))],
)
def test_a_transparent_colour_is_white(tmp_path, name, mode, transparent):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = (1, 2, 3) if mode == "RGB" else 7
    pixels[4:] = 200
    image = Image.fromarray(pixels)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    if mode == "P":
        transparent = image.getpixel((0, 0))
    image.save(tmp_path / name, transparency=transparent)
    seen = decode_image(tmp_path / name, None)
    assert (seen[:4] == 255).all() and (seen[4:] == 200).all()


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_numbers_without_a_range_raise(tmp_path, kind, mode):
    path = save(tmp_path / "a.tif", DEEP.astype(kind))
    with pytest.raises(ValueError, match=rf"a\.tif cannot be read.*mode '{mode}' have no known"):
        decode_image(path, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_photographs_are_upright(tmp_path, orientation, suffix):
    flat = np.zeros((16, 32, 3), np.uint8)
    flat[:8, :16] = 255  # the mark stands at the top on the left
    exif = Image.Exif()
    exif[0x0112] = orientation
    # how a camera stores it, which is what its tag undoes
    stored = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    image = Image.fromarray(flat)
    undone = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's numbers of transpositions
    if stored > 1:
        image = image.transpose(Image.Transpose(undone[stored]))
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    seen = decode_image(tmp_path / f"a.{suffix}", None).astype(int)
    assert seen.shape == flat.shape and abs(seen - flat).max() < 40


def test_exif_that_cannot_be_read_leaves_the_image(tmp_path):
    path = save(tmp_path / "a.png", COLOUR, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (decode_image(path, None) == COLOUR).all()


def damaged(path):
    "A PNG whose second chunk of pixels has another name."
    raw = bytearray(save(path, RANDOM.integers(0, 255, (300, 300, 3), dtype=np.uint8)).read_bytes())
    at = raw.index(b"IDAT", raw.index(b"IDAT") + 4)
    raw[at : at + 4] = b"\xa9\x8a\xbc\x07"
    path.write_bytes(raw)


def cut_short(path):
    "A file that ends in the middle."
    path.write_bytes(save(path, COLOUR).read_bytes()[:-600])


def postscript(path):
    "A format that no list names."
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


@pytest.mark.parametrize("damage", [damaged, cut_short, postscript, lambda path: path.touch()])
def test_a_damaged_file_is_named(tmp_path, damage):
    damage(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: \S"):
        decode_images([tmp_path / "a.png"], 8, True, "split", False)


@pytest.mark.parametrize("sides", [(20_000, 9_500), (10_000, 9_000)])
def test_a_huge_image_raises_before_it_is_decoded(tmp_path, monkeypatch, sides):
    Image.new("1", sides).save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=rf"a\.png .* {sides[0] * sides[1]:,} pixels.*89,478,485"):
        decode_image(tmp_path / "a.png", 8)


def test_a_narrow_strip_is_cut_before_it_is_scaled(tmp_path, monkeypatch):
    Image.new("L", (60_000, 1), 9).save(tmp_path / "a.png")
    sides = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda s, size, *a, **k: sides.append(size) or resize(s, size, *a, **k),
    )
    assert (decode_image(tmp_path / "a.png", 224) == 9).all() and sides == [(224, 224)]


def test_what_is_lost_of_an_image_is_said_once_for_all_of_them(tmp_path):
    white = np.full((9, 9, 4), 255, np.uint8)
    white[:4, :, 3] = 0
    names = [f"{i}.png" for i in range(5)]
    paths = [save(tmp_path / name, white) for name in names]
    with pytest.warns(
        UserWarning, match=r"train: 5 \(.*0\.png.* \.\.\.\) are of one colour"
    ) as said:
        decode_images(paths, 8, True, "train", False)
    assert len(said) == 1
    pages = [Image.new("L", (9, 9), k) for k in (3, 4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning, match=r"a\.tif.*of which the first is read"):
        assert (decode_images([tmp_path / "a.tif"], 8, True, "train", False) == 3).all()


def test_a_name_that_is_not_utf_8_is_read_and_can_be_printed(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    save(path, COLOUR)
    assert (decode_image(path, None) == COLOUR).all()
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"caf\\xe9\.png") as error:
        decode_image(path, None)
    str(error.value).encode()
