"One call for every search: kept, interrupted, resumed to the same policy, and wrong arguments."

import json
import warnings

import pytest
import small_search
import torch

from effdl_nb.data import load
from effdl_nb.deepaa import finding, search_methods
from effdl_nb.deepaa.finding import search_policy
from effdl_nb.deepaa.policy_file import load_policy, named
from effdl_nb.deepaa.searches import PolicySettings
from effdl_nb.networks import build

TINY = {
    "deepaa": {"layers": 1, "steps": 3, "pairs": 1, "chains": 4, "validation_images": 3},
    "random": {"layers": 1, "steps": 3, "pairs": 1, "chains": 4, "validation_images": 3},
    "deep_ta": {"layers": 2, "validation_images": 3},
    **small_search.RIVALS,
}
SEARCHED = [key for key in TINY if key != "deep_ta"]


@pytest.fixture(scope="module")
def sample():
    return load("cifar10-sample", train_size=240, test_size=50)


def found(sample, method, work=None, **options):
    how = {"preset": "quick", "proxy_epochs": 1, "device": "cpu", "progress": False}
    if search_methods.search_method(method).trains:
        del how["proxy_epochs"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "steps x lr")
        warnings.filterwarnings("ignore", "the controller")
        return search_policy(sample, method, work=work, **how, **(TINY[method] | options))


def test_every_search_of_the_table_is_tried_here():
    assert set(TINY) == set(search_methods.SEARCHES)


@pytest.mark.parametrize("method", TINY)
def test_a_search_is_kept_read_again_and_augments(sample, method, tmp_path):
    state = torch.get_rng_state()
    policy = found(sample, method, tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "the global random state is as before"
    files = [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")]
    assert len(files) == 1 and files[0].startswith(f"policy-{method}-")
    again = found(sample, method, tmp_path)
    assert again.body() == policy.body() and again.provenance == policy.provenance
    told = policy.provenance
    assert told["method_key"] == method and told["dataset"] == "cifar10-sample"
    assert told["stopped"] and (told["forwards"] > 0 or method == "deep_ta")
    assert method in ("deepaa", "random", "deep_ta") or told["found"]
    images = policy(sample.train.images[:8], torch.Generator().manual_seed(0))
    assert images.shape == (8, 3, 32, 32) and images.dtype == torch.uint8


@pytest.mark.parametrize("method", SEARCHED)
def test_an_interrupted_search_ends_as_one_that_was_not(sample, method, tmp_path, monkeypatch):
    whole = found(sample, method)
    kind = named(search_methods.SEARCHES[method].source)
    advance, calls = kind.advance, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        record = advance(self)
        self.save()
        return record

    with monkeypatch.context() as patched:
        patched.setattr(kind, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            found(sample, method, tmp_path)
    assert any(p.suffix == ".search" for p in tmp_path.iterdir())
    resumed = found(sample, method, tmp_path)
    assert resumed.body() == whole.body()
    assert resumed.provenance["forwards"] == whole.provenance["forwards"]
    assert [p.suffix for p in tmp_path.iterdir() if not p.name.startswith(".")] == [".json"]


def test_another_seed_or_option_is_another_policy_and_another_file(sample, tmp_path):
    policies = [found(sample, "dada", tmp_path, **more) for more in ({}, {"seed": 1}, {"keep": 3})]
    assert len(list(tmp_path.glob("*.json"))) == 3
    assert policies[0].body() != policies[1].body()
    assert len(policies[2].choices) == 3


def test_a_network_of_the_callers_own_is_made_anew_and_never_touched(sample):
    own = build("small-convnet", 10, width=4)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    made = []

    def network(num_classes, image_size):
        made.append(build("small-convnet", num_classes, image_size=image_size, width=4))
        return made[-1]

    policy = found(sample, "dada", network=network)
    assert made and policy.provenance["network"].endswith("network")
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    with pytest.raises(ValueError, match="network must be a name for 'deepaa'"):
        found(sample, "deepaa", network=network)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"method": "gradient"}, "method 'gradient' is unknown; allowed: deepaa, random"),
        ({"preset": "huge"}, "preset 'huge' is unknown; allowed: paper, small, quick"),
        ({"method": "pba", "stpes": 3}, "PBA: 'stpes' is unknown; allowed: members"),
        ({"method": "dada", "estimator": "relux"}, "estimator"),
        ({"method": "dada", "proxy_epochs": 3}, "must be left out: dada has no proxy"),
        ({"method": "pba", "x_from": "proxy"}, "must be left out: pba has no proxy"),
        ({"guide_share": 0}, "guide_share must be between 0 and 1, not 0"),
        ({"network": "lenet"}, "lenet"),
        ({"space": "svhn"}, "space 'svhn' is unknown"),
    ],
)
def test_what_makes_no_sense_raises_before_anything_runs(sample, arguments, words, monkeypatch):
    monkeypatch.setattr(finding, "open_images", None)
    with pytest.raises(ValueError, match=words):
        search_policy(sample, device="cpu", progress=False, **arguments)


def test_the_file_names_what_was_found_in_plain_values(sample, tmp_path):
    found(sample, "fast_aa", tmp_path)
    (path,) = tmp_path.glob("*.json")
    triples = json.loads(path.read_text())["provenance"]["found"]
    assert all(len(entry) == 3 for sub in triples for entry in sub)
    assert load_policy(path).kind == "sub-policies"


def test_a_seed_is_said_once(sample):
    with pytest.raises(ValueError, match="seed must not be an option of the method, not 5"):
        finding.search_job("dada", seed=1, options={"seed": 5})
    with pytest.raises(ValueError, match="options must leave the seed to search.seed"):
        PolicySettings(found_by="dada", options={"seed": 5})


def test_processes_of_torchrun_share_no_search(sample, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="must be 1 for a search, not 2: .* separate jobs"):
        search_policy(sample, work=tmp_path)
    assert not list(tmp_path.iterdir())
