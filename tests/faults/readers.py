"Every reader of the package with a whole file for it: what hostile files are made from."

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from faults.study import Toy
from PIL import Image
from toys import toy as toy_images

from effdl_nb import archives, checkpoints, decoding, files, prepared, rows, spec
from effdl_nb.checked import read_yaml
from effdl_nb.condensation import experts, learning, real, sets
from effdl_nb.condensation.images import ChannelWhitening
from effdl_nb.deepaa import mixtures, policy, policy_file, searching
from effdl_nb.deepaa.space import cifar_space
from effdl_nb.msunet import packing, stages
from effdl_nb.msunet.conversion import convert_ternary_
from effdl_nb.networks import build


@dataclass(frozen=True)
class Reader:
    "One reader, a whole file for it, and what must be true of what it reads."

    name: str  # of the file
    whole: bytes
    read: Callable[[Path], object]
    sealed: bool = True  # an altered file is an error, or is read as if it were not altered
    reseal: Callable[[Path, object], None] | None = None  # write an altered content as a whole one
    need: int = 0  # bytes that it may take, as its notebook says


def _bytes(write: Callable[[Path], object], folder: Path, name: str) -> bytes:
    "What `write` writes."
    write(folder / name)
    return (folder / name).read_bytes()


def plain(value) -> object:
    "A value in a form that can be compared."
    if isinstance(value, torch.Tensor):
        return [list(value.shape), str(value.dtype), value.flatten().tolist()]
    if isinstance(value, np.ndarray):
        return [list(value.shape), str(value.dtype), np.asarray(value).ravel().tolist()]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, sets.CondensedSet):
        return plain([value.images, value.labels, value.classes, value.lr, dict(value.details)])
    if isinstance(value, torch.nn.Module):
        return plain(dict(value.state_dict()))
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


# %% records


def _records(folder: Path) -> list[Reader]:
    "JSON: records, rows and measurements; YAML: profiles."
    toy = Toy(folder / "toy", seeds=2)
    toy.run()
    row = (toy.root / "reports/toy/rows/table_9_1/a.json").read_bytes()
    unit = _bytes(
        lambda p: files.write_kept(p, files.read_kept(_row(p, row))["measurements"][0]),
        folder,
        "unit.json",
    )
    record = _bytes(lambda p: files.write_kept(p, {"a": 1.5, "b": [1, "x"]}), folder, "r.json")
    profile = (toy.root / "config" / "toy.yaml").read_bytes()
    return [
        Reader("json.json", b'{"a": [1, 2.5, "x", null]}', files.read_json, False),
        Reader("record.json", record, files.read_kept, True, files.write_kept),
        Reader("row.json", row, rows.read_row, True, files.write_kept),
        Reader("unit.json", unit, rows.read_unit, True, files.write_kept),
        Reader("yaml.yaml", profile, read_yaml, False),
        Reader(
            "profile.yaml",
            profile,
            lambda p: spec.load_profile(str(p), toy.root),
            False,
            lambda p, content: p.write_text(json.dumps(content)),  # JSON is YAML
        ),
    ]


def _row(beside: Path, content: bytes) -> Path:
    "A row in a file."
    path = beside.with_name("row-seed.json")
    path.write_bytes(content)
    return path


# %% pictures and arrays


def _picture(form: str, mode: str = "RGB") -> bytes:
    "A small picture."
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, len(mode)), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise.squeeze()).save(data, form)
    return data.getvalue()


def _pictures(folder: Path) -> list[Reader]:
    "Each format, whatever the file's ending."
    forms = [(form, "RGB") for form in decoding.FORMATS] + [("PNG", "RGBA"), ("TIFF", "L")]
    return [
        Reader(
            f"{form}-{mode}{suffixes[0]}",
            _picture(form, mode),
            lambda p: decoding.decode_image(p, 8),
            False,
            need=17 * decoding.MAX_PIXELS,
        )
        for form, mode in forms
        for suffixes in [decoding.FORMATS[form]]
    ]


def _arrays(folder: Path) -> list[Reader]:
    "A prepared data set: each of its files."
    noise = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(6) % 2
    arrays = {"train_images": noise, "train_labels": labels}
    arrays |= {"test_images": noise, "test_labels": labels}
    prepared.write_prepared(folder / "set", arrays, ["a", "b"], "here")

    def read(path: Path):
        there = folder / "set" / path.name
        whole = there.read_bytes()
        there.write_bytes(path.read_bytes())
        try:
            return prepared.read_prepared(folder / "set")[0]
        except ValueError as error:  # the folder is what the user knows
            assert str(folder / "set") in str(error), error
            raise ValueError(f"{path}: {error}") from error
        finally:
            there.write_bytes(whole)

    names = ("train_images.npy", "train_labels.npy", "dataset.json")
    readers = [Reader(n, (folder / "set" / n).read_bytes(), read) for n in names]
    return [*readers[:2], Reader(names[2], readers[2].whole, read, True, files.write_kept)]


# %% tensors


def _tensor_files(folder: Path) -> list[Reader]:
    "Everything that is kept as sealed tensors."
    weights = {"w": torch.arange(6.0).view(2, 3)}
    settings = {"lr": 0.1}
    header = {"settings": settings, "hash": files.settings_hash(settings), "step": 1}
    forms = {
        "checkpoint": (header, lambda p: checkpoints.load_checkpoint(p, settings)),
        "expert": (
            {"version": 2, "first": 0, "losses": [1.0]},
            lambda p: (experts._open_whole(p).tensors(), experts.stored_epochs(p)),
        ),
        "snapshot": ({}, experts._snapshot),
        "checkpoint of a condensation": ({"mark": "m"}, lambda p: learning._read(p, "m")),
        "whitening": ({}, real._stored_fit),
        "search state": (
            {"fingerprint": {"a": 1}},
            lambda p: searching.load_state(p, {"a": 1}),
        ),
    }
    readers = []
    for form, (words, read) in forms.items():
        name = f"{form.replace(' ', '-')}.safetensors"

        def write(path: Path, content, form=form):
            checkpoints.write_tensors(path, weights, content, form)

        whole = _bytes(lambda p, w=words, write=write: write(p, w), folder, name)
        readers.append(Reader(name, whole, read, True, write))
    return readers


def _ternary() -> torch.nn.Module:
    "A network with a ternary layer."
    torch.manual_seed(0)
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten())
    convert_ternary_(small, lambda name, module: True, 0.1)
    return small.eval()


def _networks(folder: Path) -> list[Reader]:
    "A proxy, a stage 1 and a packed network."
    model = build("small-convnet", 3, width=2, image_size=8)

    def filled(read):
        def fill(path: Path):
            fresh = build("small-convnet", 3, width=2, image_size=8)
            return read(fresh, path), fresh

        return fill

    proxy = _bytes(lambda p: searching._write_proxy(model, p, 1.5), folder, "proxy.safetensors")
    history = {"loss": [1.0], "accuracy": 10.0}
    stage = _bytes(lambda p: stages._store(p, model, history), folder, "stage.safetensors")
    packed = _bytes(lambda p: packing.save_packed(_ternary(), p), folder, "packed.safetensors")
    return [
        Reader("proxy.safetensors", proxy, filled(searching._read_proxy)),
        Reader("stage.safetensors", stage, filled(lambda fresh, p: stages._stored(p, fresh))),
        Reader("packed.safetensors", packed, lambda p: packing.load_packed(p, _ternary())),
    ]


def _sets(folder: Path) -> list[Reader]:
    "Condensed sets: ours, and the released ones."
    images, space = toy_images().train.images[:2], ChannelWhitening((0.5,) * 3, (0.25,) * 3)
    labels = torch.tensor([0, 1])
    made = sets.CondensedSet(space.encode(images), labels, ("a", "b"), "dm", 1, space, 0.02)
    whole = _bytes(lambda p: sets.save_condensed(made, p), folder, "set.safetensors")
    tensors, _ = checkpoints.read_tensors(folder / "set.safetensors", "condensed set")

    def reseal(path: Path, content):
        checkpoints.write_tensors(path, tensors, content, "condensed set")

    released = {"data": [[images.float(), labels]]}
    torch_file = _bytes(lambda p: torch.save(released, p), folder, "released.pt")
    return [
        Reader("set.safetensors", whole, sets.load_condensed, True, reseal),
        Reader("released.pt", torch_file, sets.read_released, False),
    ]


# %% policies and archives


def _policies(folder: Path) -> list[Reader]:
    "Policies: ours, DeepAA's own files, and lists of sub-policies."
    space = cifar_space()
    whole = _bytes(
        lambda p: policy_file.save_policy(policy.uniform_policy(space, 1), p), folder, "policy.json"
    )
    data = io.BytesIO()
    np.savez(data, policy_probs=np.full((1, len(space)), 1 / len(space)))
    listed = b"[[('Rotate', 0.5, 0.5), ('Invert', 0.2, 0.0)]]"

    def reseal(path: Path, content):
        if isinstance(content, dict):
            content = {**content, "checksum": policy_file._checksum(content)}
        files.write_json(path, content)

    def read(path: Path):
        made = policy_file.load_policy(path)
        return made.body(), made.provenance

    return [
        Reader("policy.json", whole, read, True, reseal),
        Reader("released.npz", data.getvalue(), read, False),
        Reader("listed.txt", listed, mixtures.read_sub_policies, False),
    ]


def _archives(folder: Path) -> list[Reader]:
    "Archives, which must unpack into their folder and nowhere else."
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as zipped:
        zipped.writestr("a/b.txt", "inside")
    digest = files.hashlib.md5(data.getvalue()).hexdigest()

    def read(path: Path):
        try:
            return archives.lies_there(path, digest)
        except FileExistsError as error:
            raise ValueError(str(error)) from error

    return [Reader("archive.zip", data.getvalue(), read)]


def every_reader(folder: Path) -> dict[str, Reader]:
    "All readers by the name of their file."
    folder.mkdir(parents=True, exist_ok=True)
    kinds = (_records, _pictures, _arrays, _tensor_files, _networks, _sets, _policies, _archives)
    return {reader.name: reader for kind in kinds for reader in kind(folder)}
