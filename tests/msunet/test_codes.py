"Properties and faults of effdl_nb.msunet.codes that its notebook does not show."

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effdl_nb.msunet.codes import decode_signs, decode_values, encode_signs, encode_values


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 1]), max_size=200), st.integers(0, 60))
def test_signs_and_values_survive_and_never_take_more_than_mask_or_trits(values, zeros):
    signs = torch.tensor(
        values[: len(values) // 2] + [0] * zeros + values[len(values) // 2 :], dtype=torch.int8
    )
    n, count = int(signs.count_nonzero()), len(signs)
    encoding, data = encode_signs(signs)
    assert decode_signs(encoding, data, count, n).equal(signs)
    assert len(data) <= min(-(-count // 8) + -(-n // 8), -(-count // 5))
    for dtype in (torch.float16, torch.float32):
        encoding, data = encode_values(signs.to(dtype) * 0.3)
        assert decode_values(encoding, data, count, n, dtype).equal(signs.to(dtype) * 0.3)


@pytest.mark.parametrize(
    "share, encoding", [(0.0, "all"), (0.2, "trits"), (0.5, "mask"), (0.9, "gaps"), (1.0, "gaps")]
)
def test_the_encoding_follows_the_share_of_zeros(share, encoding):
    signs = torch.ones(10_000, dtype=torch.int8)
    signs[
        torch.randperm(10_000, generator=torch.Generator().manual_seed(0))[: int(share * 10_000)]
    ] = 0
    assert encode_signs(signs)[0] == encoding


def test_minus_zero_is_zero_and_other_odd_values_stay():
    values = torch.tensor([-0.0, 0.0, torch.inf, -torch.inf, 1e-45, torch.nan])
    encoding, data = encode_values(values)
    back = decode_values(encoding, data, 6, 4, torch.float32)
    assert (
        back[2:].view(torch.int32).equal(values[2:].view(torch.int32))
        and not back[:2].signbit().any()
    )
