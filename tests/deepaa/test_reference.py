"The reference: draws without a state, and boxes of random resized crops."

import numpy as np

from effdl_nb.deepaa.reference import (
    keyed_uniform,
)


def test_keyed_numbers_have_no_state():
    keys = np.array([[1, 2, 3], [1, 2, 4], [-1, 0, 2**40]])
    found = keyed_uniform(keys, 6)
    assert (
        np.array_equal(keyed_uniform(keys[::-1], 4), found[::-1, :4])
        and ((found >= 0) & (found < 1)).all()
    )
    assert len(np.unique(found)) == 18
