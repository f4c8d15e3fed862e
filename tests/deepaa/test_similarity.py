"Similarity on held-out pairs: flat for the identity, and the same for the same seed."

import torch
from small_search import SPACE, data

from effdl_nb.deepaa.policy import Policy, identity_policy
from effdl_nb.deepaa.similarity import held_out_cosine


def test_held_out_cosine_of_the_identity_is_flat_and_repeats():
    looked_at = data()
    found = held_out_cosine(
        looked_at, identity_policy(SPACE, 2), pairs=4, validation_images=5, chains=3
    )
    assert [record["depth"] for record in found] == [0, 1, 2] and all(
        abs(record["improvement"]) < 1e-4 for record in found
    )
    mixed = Policy(torch.full((1, 4), 0.25), SPACE)
    first, second = (
        held_out_cosine(looked_at, mixed, pairs=4, validation_images=5, chains=3) for _ in range(2)
    )
    assert first == second and first[0]["cosine"] == found[0]["cosine"], (
        "depth 0 is the image itself, whatever the policy"
    )
