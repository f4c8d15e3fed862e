"Random search: what it costs, what it draws, and what it cannot do."

import pytest
import torch
from small_search import CONFIG, SPACE, Dead, data

from effdl_nb.deepaa.random_search import (
    RandomSearch,
    affordable_candidates,
    affordable_pairs,
    random_policy,
    search_cost,
)
from effdl_nb.deepaa.searching import (
    SearchData,
    SearchFailed,
    SearchStateError,
)


def test_random_search_repeats_and_finds_the_best_of_what_it_drew():
    first, second = (RandomSearch(data(), SPACE, CONFIG, candidates=4).run(False) for _ in range(2))
    assert torch.equal(first.probabilities, second.probabilities) and first.provenance | {
        "seconds": 0
    } == second.provenance | {"seconds": 0}
    chosen = random_policy(SPACE, CONFIG.layers, CONFIG.seed, first.provenance["chosen"])
    assert torch.equal(first.probabilities, chosen.probabilities) and first.provenance[
        "pairs"
    ] == affordable_pairs(CONFIG, SPACE, 4)
    more = [
        RandomSearch(data(), SPACE, CONFIG, candidates=n).run(False).provenance["pairs"]
        for n in (1, 8)
    ]
    free = RandomSearch(data(), SPACE, CONFIG).run(False).provenance
    assert free["candidates"] == affordable_candidates(CONFIG, SPACE) and (
        free["pairs"] >= 32 or free["candidates"] == 1
    )
    assert more[0] > first.provenance["pairs"] > more[1], (
        "the more candidates, the fewer pairs for each"
    )


def test_random_search_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="candidates must be at most"):
        RandomSearch(data(), SPACE, CONFIG, candidates=10_000).run(False)
    with pytest.raises(ValueError, match="candidates must be a whole number from 1, not 0"):
        affordable_pairs(CONFIG, SPACE, 0)
    with pytest.raises(ValueError, match="layers must be at least 1, not 0"):
        search_cost(CONFIG, SPACE, 0)
    looked_at = data()
    dead = SearchData(Dead(), looked_at.train, looked_at.validation, looked_at.mean, looked_at.std)
    with pytest.raises(SearchFailed, match="no usable gradient|had a usable gradient"):
        RandomSearch(dead, SPACE, CONFIG, candidates=2).run(False)


@pytest.mark.parametrize("stop", [0, 1, 3, 7])
def test_an_interrupted_random_search_ends_like_an_uninterrupted_one(tmp_path, stop):
    run = {"candidates": 4, "state": tmp_path / "state", "save_every": 2}
    whole = RandomSearch(data(), SPACE, CONFIG, candidates=4).run(False)
    interrupted = RandomSearch(data(), SPACE, CONFIG, **run)
    for _ in range(stop):
        interrupted.advance()
    interrupted.save()
    resumed = RandomSearch(data(), SPACE, CONFIG, **run)
    assert resumed.step == stop and len(resumed.scores) == stop
    policy = resumed.run(False)
    assert torch.equal(policy.probabilities, whole.probabilities)
    assert policy.provenance["cosine"] == whole.provenance["cosine"]
    with pytest.raises(SearchStateError, match="candidates"):
        RandomSearch(data(), SPACE, CONFIG, **run | {"candidates": 3})
