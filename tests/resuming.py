"A law that every condensation obeys: killed and started again, it ends with the same bits."

import pytest
import torch


def check_resuming(condense, config, other, folder, kill_at=3):
    """Kill a run, raise under the settings `other`, resume, and compare with an uninterrupted run.

    A checkpoint that is cut off raises, too.
    """

    def kill(iteration, *_):
        if iteration == kill_at:
            raise KeyboardInterrupt

    path = folder / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        condense(config, checkpoint=path, checkpoint_every=2, on_iteration=kill)
    with pytest.raises(ValueError, match="other settings"):
        condense(other, checkpoint=path)
    resumed, straight = condense(config, checkpoint=path), condense(config)
    assert torch.equal(resumed.images, straight.images) and torch.equal(
        resumed.labels, straight.labels
    )
    assert resumed.details == straight.details
    told = []
    # finished
    assert (
        torch.equal(
            condense(config, checkpoint=path, on_iteration=lambda *a: told.append(a)).images,
            straight.images,
        )
        and not told
    )
    path.write_bytes(b"cut off")
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        condense(config, checkpoint=path)
