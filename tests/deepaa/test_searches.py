"Policies found once: files, proxies, interruptions, and what must be known before hours are spent."

from dataclasses import replace

import pytest
import torch

from effdl_nb.data import load
from effdl_nb.deepaa import searches, searching
from effdl_nb.deepaa.search import PolicySearch, SearchConfig
from effdl_nb.deepaa.searches import HeldOutConfig, PolicySettings, find_policy, policy_path
from effdl_nb.deepaa.searching import ProxyConfig, kept_proxy, split_for_search

TINY = PolicySettings(
    proxy=ProxyConfig("small-convnet", images=140, epochs=1),
    search=SearchConfig(
        layers=2,
        steps=2,
        pairs=1,
        validation_images=3,
        prefixes=1,
        chains=4,
        lr=2.0,
        identity_logit=1.0,
        chunk=128,
    ),
    held_out=HeldOutConfig(pairs=2, chains=3),
)


def images():
    return load("cifar10-sample", train_size=240, test_size=50)


def find(settings, folder, data=None):
    return find_policy(settings, data or images(), folder, folder, progress=False)


def changed(**changes) -> PolicySettings:
    return replace(TINY, search=replace(TINY.search, **changes))


def test_spaces_and_methods_have_policies_of_their_own(tmp_path):
    data = images()
    silent = replace(TINY.held_out, deep_ta=False)
    others = (
        TINY,
        replace(TINY, space="imagenet"),
        replace(TINY, found_by="deep_ta"),
        changed(penalty=0.5),
        changed(seed=1),
        replace(TINY, held_out=silent),
    )
    assert len({policy_path(settings, data, tmp_path) for settings in others}) == len(others)
    policy = find(replace(TINY, found_by="deep_ta", held_out=silent), tmp_path, data)
    assert policy.layers == 2 and len(policy.provenance["held_out"]) == 3
    assert "held_out_deep_ta" not in policy.provenance


def test_memory_does_not_name_a_policy(tmp_path):
    paths = [policy_path(s, images(), tmp_path) for s in (TINY, changed(chunk=32))]
    assert paths[0] == paths[1]


def test_a_proxy_is_trained_once_and_read_exactly(tmp_path, monkeypatch):
    data = images()
    part = split_for_search(data.train, 140, None, 0)[0]
    state = torch.get_rng_state()
    given = (TINY.proxy, 0, data, part, tmp_path, torch.device("cpu"))
    first, seconds = kept_proxy(*given, progress=False)
    monkeypatch.setattr(searching, "pretrain_proxy", lambda *_, **__: pytest.fail("trained again"))
    again, same = kept_proxy(replace(TINY.proxy, guide_images=20), *given[1:])
    assert torch.equal(state, torch.get_rng_state()) and seconds == same > 0
    both = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)
    assert not again.training and not any(p.requires_grad for p in again.parameters())


def test_a_search_raises_under_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="Table 3.5 first, without torchrun"):
        find(TINY, tmp_path)


def test_too_few_held_out_images_are_told_before_the_proxy_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "kept_proxy", lambda *a: pytest.fail("trained"))
    # 5 images of a class behind v, and 5 held out: one of them would be x
    with pytest.raises(ValueError, match="each v needs 6 validation images"):
        find(changed(validation_images=5), tmp_path)


def test_a_policy_is_searched_once(tmp_path, monkeypatch):
    data = images()
    policy = find(TINY, tmp_path, data)
    monkeypatch.setattr(PolicySearch, "run", lambda *_: pytest.fail("searched again"))
    again = find(TINY, tmp_path, data)
    assert torch.equal(again.probabilities, policy.probabilities)
    assert policy.provenance["data"] == data.digest
    assert len(policy.provenance["held_out"]) == policy.layers + 1


def test_an_interrupted_search_is_resumed(tmp_path, monkeypatch):
    advance, calls = PolicySearch.advance, []
    expected = find(TINY, tmp_path / "whole")

    def failing(self):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(PolicySearch, "advance", failing)
    with pytest.raises(KeyboardInterrupt):
        find(TINY, tmp_path / "broken")
    calls.clear()
    policy = find(TINY, tmp_path / "broken")
    assert len(calls) == 2, "the finished first layer is not searched again"
    assert torch.equal(policy.probabilities, expected.probabilities)


def test_a_policy_of_one_data_set_serves_another(tmp_path, monkeypatch):
    here = images()
    other = replace(here, name="other", digest="other")
    monkeypatch.setattr(searches, "load", lambda name, **_: {"cifar10-sample": here}[name])
    there = replace(TINY, searched_on="cifar10-sample")
    path = policy_path(TINY, here, tmp_path)
    for settings, data in ((TINY, here), (there, here), (there, other)):
        assert policy_path(settings, searches.searched_images(settings, data), tmp_path) == path
    assert policy_path(TINY, searches.searched_images(TINY, other), tmp_path) != path
    large = replace(here.train, images=torch.zeros(240, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match="of 64 pixels, as 'big', not 'cifar10-sample' with 32"):
        searches.searched_images(there, replace(other, name="big", train=large))


def test_all_parts_of_the_split_need_every_class():
    train = load("cifar10-sample", train_size=200, test_size=50).train
    parts = split_for_search(train, 140, None, 0)
    assert [len(part) for part in parts] == [140, 30, 30]
    assert torch.bincount(parts[0].labels).tolist() == [14] * 10
    assert [len(part) for part in split_for_search(train, 140, 20, 0)] == [140, 20, 20]
    for count, guide in ((5, None), (190, None), (200, None), (140, 9)):
        with pytest.raises(ValueError, match="some of every class"):
            split_for_search(train, count, guide, 0)


def test_x_comes_from_images_that_the_proxy_did_not_see(tmp_path):
    data = images()
    parts = split_for_search(data.train, 140, None, 0)
    given = (data, tmp_path, torch.device("cpu"), False)
    default = searches.data_of_search(TINY, *given)
    assert torch.equal(default.seen.train.images, parts.guide.images) and default.seen.shared
    assert default.origin["x_from"] == "guide"
    earlier = searches.data_of_search(replace(TINY, x_from="proxy"), *given)
    assert torch.equal(earlier.seen.train.images, parts.fit.images) and not earlier.seen.shared
    with pytest.raises(ValueError, match="x_from 'test' is unknown; allowed: guide, proxy"):
        replace(TINY, x_from="test")


def test_a_kept_policy_of_fewer_layers_is_where_a_search_begins(tmp_path, monkeypatch):
    whole = find(TINY, tmp_path / "whole")
    first = find(changed(layers=1), tmp_path / "parts")
    advance, calls = PolicySearch.advance, []

    def counted(self):
        calls.append(1)
        return advance(self)

    monkeypatch.setattr(PolicySearch, "advance", counted)
    both = find(TINY, tmp_path / "parts")
    assert len(calls) == 2, "the steps of the second layer"
    assert torch.equal(both.probabilities, whole.probabilities)
    assert torch.equal(both.probabilities[:1], first.probabilities)
    assert both.provenance["seconds"] >= first.provenance["seconds"]
    assert len(both.provenance["held_out"]) == 3
