"One type for all images: what is viewed, normalised and summed up is what lies on the disk."

import pytest
import torch

from effdl_nb.prepared import normalize


def test_normalize_raises_for_floats():
    with pytest.raises(TypeError, match="uint8"):
        normalize(torch.zeros(1, 3, 2, 2), (0.5,) * 3, (0.5,) * 3)
