"The embedded sample is what its header says, and the beginning of CIFAR-10."

import numpy as np
import pytest

from effdl_nb import data, sample
from effdl_nb.files import read_json
from effdl_nb.prepared import read_prepared


def test_the_sample_is_what_its_header_says():
    arrays, header = sample.read_sample()
    record = read_json(sample.SAMPLE_FOLDER / "sample.json")
    for split in ("train", "test"):
        index, labels = np.array(record[split]["official_index"]), np.array(record[split]["labels"])
        assert (np.diff(index) > 0).all() and len(index) == len(labels) == len(
            arrays[f"{split}_images"]
        )
        # the first so many of each class: every class reaches its quota
        assert np.bincount(labels).tolist() == [sample.SAMPLE_PER_CLASS[split]] * 10
    assert record["train"]["labels"][:5] == [6, 9, 9, 4, 1] and record["test"]["labels"][:5] == [
        3,
        8,
        8,
        0,
        6,
    ]


def test_the_sample_is_the_beginning_of_cifar10():
    try:
        full = read_prepared(data.data_root() / "cifar10")[0]
    except (OSError, ValueError):
        pytest.skip(
            "CIFAR-10 is not available: no prepared cifar10 in $EFFDL_DATA or the cache folder"
        )
    embedded, record = sample.read_sample()[0], read_json(sample.SAMPLE_FOLDER / "sample.json")
    for split in ("train", "test"):
        index = sample.first_per_class(full[f"{split}_labels"], sample.SAMPLE_PER_CLASS[split])
        assert index.tolist() == record[split]["official_index"]
        assert (full[f"{split}_images"][index] == embedded[f"{split}_images"]).all()
        assert (full[f"{split}_labels"][index] == embedded[f"{split}_labels"]).all()
