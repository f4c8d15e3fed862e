"""Importance of weight components: properties and edge cases that the notebook does not show."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effdl_nb.condensation.importance import (
    Importance,
    importance,
    input_matrix,
    output_matrix,
    truncate,
    whitening_factor,
)


def layer(out, inp, batch, seed):
    gen = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inp, generator=gen, dtype=torch.float64)
    return weight, torch.randn(inp, batch, generator=gen, dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(
    out=st.integers(1, 7),
    inp=st.integers(1, 7),
    batch=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_energy_is_the_outputs_energy_for_any_shape_and_rank(out, inp, batch, seed):
    W, X = layer(out, inp, batch, seed)
    ranked = importance(W, X)
    r = len(ranked.sigma)
    assert r == min(out, inp) and ranked.left.shape == (out, r)
    assert (ranked.sigma.diff() <= 1e-12).all()
    torch.testing.assert_close(ranked.sigma.square().sum(), (W @ X).square().sum())
    torch.testing.assert_close(ranked.left.T @ ranked.left, torch.eye(r, dtype=torch.float64))


@settings(max_examples=20, deadline=None)
@given(out=st.integers(2, 6), inp=st.integers(2, 6), seed=st.integers(0, 1000), data=st.data())
def test_removing_any_set_costs_the_sum_of_squares(out, inp, seed, data):
    W, X = layer(out, inp, 3 * inp, seed)
    ranked = importance(W, X)
    gone = data.draw(st.sets(st.integers(0, len(ranked.sigma) - 1)))
    U = ranked.left[:, sorted(gone)]
    torch.testing.assert_close(
        (U @ U.T @ W @ X).square().sum(),
        ranked.sigma[sorted(gone)].square().sum(),
        atol=1e-9,
        rtol=1e-7,
    )


def test_golden_diagonal_layer():
    # Theta = diag(3, 1), inputs with second moments 4 and 25: the outputs' energies are
    # 3^2 * 4 = 36 and 25, so sigma = (6, 5)
    ranked = importance(torch.tensor([[3.0, 0], [0, 1]]), torch.tensor([[2.0, 0], [0, 5]]))
    torch.testing.assert_close(ranked.sigma, torch.tensor([6.0, 5], dtype=torch.float64))
    assert ranked.rank_at(36 / 61) == 1 and ranked.rank_at(37 / 61) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stride", [1, 2])
def test_routes_agree_on_convolutions(dtype, stride):
    gen = torch.Generator().manual_seed(0)
    W = torch.randn(4, 3, 3, 3, generator=gen).to(dtype)
    b = torch.randn(4, generator=gen).to(dtype)
    x = torch.randn(6, 3, 8, 8, generator=gen).to(dtype)
    a, c = (importance(W, x, w, b, stride=stride) for w in ("matrix_free", "cholesky"))
    torch.testing.assert_close(a.sigma, c.sigma, rtol=1e-4, atol=1e-5)
    assert c.jitter == 0
    full = torch.cat([W.flatten(1), b[:, None]], 1)
    torch.testing.assert_close(
        full @ input_matrix(W, x, b, stride), output_matrix(W, x, b, stride), rtol=1e-4, atol=1e-4
    )


def test_singular_gram_needs_jitter_only_for_cholesky():
    W, X = layer(3, 20, 5, 1)
    truth = torch.linalg.svdvals(W @ X)
    torch.testing.assert_close(importance(W, X).sigma, truth)
    ranked = importance(W, X, "cholesky")
    assert ranked.jitter > 0
    torch.testing.assert_close(ranked.sigma, truth, rtol=1e-3, atol=1e-3)


def test_inputs_without_energy():
    W = torch.ones(2, 3)
    ranked = importance(W, torch.zeros(3, 4))
    assert ranked.sigma.tolist() == [0, 0] and [ranked.rank_at(f) for f in (0, 0.5, 1)] == [1, 1, 2]
    with pytest.raises(ValueError, match="must have energy"):
        whitening_factor(torch.zeros(3, 4))


def test_rank_rules_at_the_ends():
    ranked = Importance(torch.tensor([2.0, 1, 1]), torch.eye(3))
    assert ranked.rank_at(0, "within", min_rank=0) == 0
    assert ranked.rank_at(0) == ranked.rank_at(-1) == ranked.rank_at(0, "within") == 1
    assert ranked.rank_at(1) == ranked.rank_at(7.5) == ranked.rank_at(1, "within") == 3
    with pytest.raises(ValueError, match="reach"):
        ranked.rank_at(0.5, "nearest")


@pytest.mark.parametrize(
    "weight, inputs, words",
    [
        (torch.ones(2), torch.ones(2, 2), "2 or 4 dimensions"),
        (torch.ones(2, 3), torch.ones(4, 2), "inputs must be 3"),
        (torch.ones(2, 3), torch.ones(1, 3, 4, 4), r"inputs must be \(in, B\) for"),
        (torch.ones(2, 3), torch.ones(3, 0), "must not be empty"),
    ],
)
def test_wrong_shapes(weight, inputs, words):
    with pytest.raises(ValueError, match=words):
        importance(weight, inputs)


def test_wrong_options():
    with pytest.raises(ValueError, match="matrix_free, cholesky"):
        importance(torch.ones(2, 2), torch.ones(2, 2), "pca")
    ranked = importance(torch.eye(2), torch.eye(2))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        truncate(torch.eye(2), ranked, 3)
    with pytest.raises(ValueError, match="bias"):
        importance(torch.ones(2, 3), torch.ones(3, 4), bias=torch.ones(3))
    assert truncate(torch.eye(2), ranked, 0).norm() == 0


def test_nothing_is_differentiated():
    W = torch.randn(3, 4, requires_grad=True)
    assert not importance(W, torch.randn(4, 9)).left.requires_grad
