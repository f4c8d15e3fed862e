"Estimates of a gradient through draws: against enumeration, and what a release makes of them."

import itertools

import pytest
import torch

from effdl_nb.deepaa import estimators
from effdl_nb.deepaa.estimators import ControlVariate, draw_sub_policies, rows_of

S, K = 3, 2
TABLE = torch.randn(S, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) + 0.5
OMEGA = torch.tensor([0.4, -0.3, 0.0], dtype=torch.float64)
P = torch.tensor([[0.3, 0.8], [0.5, 0.15], [0.9, 0.6]], dtype=torch.float64)
DRAWS = 20_000


def cost(draw):
    first, second = draw.of_drawn(draw.bits).long().unbind(1)
    return TABLE[draw.index, first, second]


def exact():
    "The gradient of the mean, by a loop over all draws."
    omega, p = OMEGA.clone().requires_grad_(), P.clone().requires_grad_()
    mean = 0
    for s, bits in itertools.product(range(S), itertools.product((0, 1), repeat=K)):
        chance = omega.softmax(0)[s]
        for k, bit in enumerate(bits):
            chance = chance * (p[s, k] if bit else 1 - p[s, k])
        mean = mean + chance * TABLE[s, bits[0], bits[1]]
    return torch.autograd.grad(mean, (omega, p))


def flat(estimates):
    return torch.cat([each.detach().flatten(1) for each in estimates], 1)


def agrees(estimates, truth, sigmas=4.0):
    rows = flat(estimates)
    error = rows.std(0) / len(rows) ** 0.5
    return bool(((rows.mean(0) - truth).abs() < sigmas * error + 1e-12).all())


@pytest.fixture(scope="module")
def truth():
    return torch.cat([each.flatten() for each in exact()])


@pytest.fixture(scope="module")
def fitted():
    generator = torch.Generator().manual_seed(1)
    control = ControlVariate(S * (1 + K), generator)
    optimizer = torch.optim.Adam(control.parameters(), 0.02)
    for _ in range(250):
        theta = rows_of((OMEGA, P), 128)
        draw = draw_sub_policies(theta, generator)
        each = estimators.relax_sub_policies(draw, cost(draw), control, theta)
        estimators.fit_control(optimizer, each)
    return control


@pytest.fixture(scope="module")
def many():
    theta = rows_of((OMEGA, P), DRAWS)
    return theta, draw_sub_policies(theta, torch.Generator().manual_seed(2))


def same_law(one, other):
    "Whether the largest distance of two empirical distributions is what chance makes, p > 1e-4."
    n = len(one)
    order = torch.cat([one, other]).argsort()
    distance = torch.where(order < n, 1.0, -1.0).cumsum(0).abs().max() / n
    return distance < 2.23 * (2 / n) ** 0.5


def random_control(seed=3):
    generator = torch.Generator().manual_seed(seed)
    control = ControlVariate(S * (1 + K), generator)
    with torch.no_grad():
        control.last.normal_(generator=generator)
    return control


def test_both_estimates_have_the_mean_of_enumeration_whatever_the_control(truth, fitted, many):
    theta, draw = many
    f = cost(draw)
    assert agrees(estimators.reinforce(f, draw.log_prob(), theta), truth)
    for control in (fitted, random_control()):
        assert agrees(estimators.relax_sub_policies(draw, f, control, theta), truth)


def test_a_fitted_control_takes_most_of_the_variance_away(fitted, many):
    theta, draw = many
    f = cost(draw)
    plain = flat(estimators.reinforce(f, draw.log_prob(), theta)).var(0)
    each = flat(estimators.relax_sub_policies(draw, f, fitted, theta)).var(0)
    assert each.sum() < 0.6 * plain.sum()


def test_a_control_that_was_not_fitted_yet_is_reinforce(many):
    theta, draw = many
    f = cost(draw)
    fresh = ControlVariate(S * (1 + K), torch.Generator().manual_seed(0))
    each = estimators.relax_sub_policies(draw, f, fresh, theta)
    for ours, plain in zip(each, estimators.reinforce(f, draw.log_prob(), theta), strict=True):
        assert torch.allclose(ours, plain, rtol=1e-12)


def test_what_decides_a_draw_decides_it_again():
    generator = torch.Generator().manual_seed(4)
    n = 50_000
    p = torch.tensor([0.05, 0.5, 0.93], dtype=torch.float64).expand(n, 3)
    bits = estimators.bernoulli_latent(p, *torch.rand(2, n, 3, generator=generator))
    assert torch.equal(bits.again > 0, bits.value)
    assert (bits.value.double().mean(0) - p[0]).abs().max() < 0.01
    log_pi = torch.tensor([0.7, 0.05, 0.25], dtype=torch.float64).log()
    choice = estimators.categorical_latent(
        log_pi.expand(n, 3), *torch.rand(2, n, 3, generator=generator)
    )
    assert torch.equal(choice.again.argmax(1), choice.value)
    shares = choice.value.bincount(minlength=3) / n
    assert (shares - log_pi.exp()).abs().max() < 0.01
    for s, k in itertools.product(range(3), repeat=2):  # the law of each given who won
        given = choice.value == s
        assert same_law(choice.z[given, k], choice.again[given, k]), (s, k)
    for k, b in itertools.product(range(3), (False, True)):
        given = bits.value[:, k] == b
        assert same_law(bits.z[given, k], bits.again[given, k]), (k, b)
    assert not same_law(choice.z[:2000, 0], choice.z[:2000, 1]), "the measure sees a difference"


def test_ends_of_the_uniform_numbers_have_a_finite_latent():
    ends = torch.tensor([0.0, 1.0 - 2**-53]).double()
    log_pi = torch.tensor([[0.5, 0.5]]).double().log()
    for u, v in itertools.product(ends, ends):
        bit = estimators.bernoulli_latent(torch.tensor([0.5]).double(), u[None], v[None])
        choice = estimators.categorical_latent(log_pi, u.expand(1, 2), v.expand(1, 2))
        for latent in (bit, choice):
            assert latent.z.isfinite().all() and latent.again.isfinite().all()


def test_the_path_terms_of_bits_that_were_not_drawn_are_left_out(many):
    theta, draw = many
    each = estimators.relax_sub_policies(draw, cost(draw), random_control(), theta)[1]
    others = torch.ones(len(each), S, dtype=torch.bool)
    others[torch.arange(len(each)), draw.index] = False
    assert (each[others] == 0).all() and (each[~others] != 0).any(1).all()


def test_the_release_cancels_its_control_variate(many):
    theta, draw = many
    f, radius = cost(draw), 0.01
    control = random_control()
    seen = (control(draw.relaxed), control(draw.again))
    ends = [estimators.relax(2.0 + s * radius * f, draw.log_prob(), *seen, theta) for s in (1, -1)]
    plain = estimators.reinforce(f, draw.log_prob(), theta)
    for plus, minus, expected in zip(*ends, plain, strict=True):
        assert torch.allclose((plus - minus) / (2 * radius), expected, atol=1e-8)
    once = estimators.relax(f, draw.log_prob(), *seen, theta)
    assert not torch.allclose(once[0], plain[0], atol=0.1), "the control was not zero"


@pytest.mark.parametrize("size", [(3, 2), (105, 2)])
def test_the_release_counts_the_score_of_the_choice_for_every_bit(size):
    generator = torch.Generator().manual_seed(6)
    pairs, stages = size
    theta = rows_of((torch.zeros(pairs), torch.full(size, 0.5)), 2000)
    draw = draw_sub_policies(theta, generator)
    f = torch.randn(2000, dtype=torch.float64, generator=generator)
    right = estimators.reinforce(f, draw.log_prob(), theta)
    released = estimators.reinforce(f, estimators.released_log_prob(draw), theta)
    assert torch.allclose(released[0], pairs * stages * right[0])
    ratio = released[1].square().mean() / right[1].square().mean()
    assert abs(ratio / pairs - 1) < 0.01, "each bit's score counts for every draw, not one in S"


def test_such_a_score_would_bias_a_control_that_does_not_cancel(truth, many):
    theta, draw = many
    control = random_control()
    seen = (control(draw.relaxed), control(draw.again))
    each = estimators.relax(cost(draw), estimators.released_log_prob(draw), *seen, theta)
    assert not agrees([each[0] / (S * K)], truth[:S])


def test_fitting_descends_the_mean_square_and_touches_nothing_else(many):
    theta = rows_of((OMEGA, P), 256)
    draw = draw_sub_policies(theta, torch.Generator().manual_seed(7))
    control = random_control()
    optimizer = torch.optim.Adam(control.parameters(), 1e-3)
    squares = [
        estimators.fit_control(
            optimizer, estimators.relax_sub_policies(draw, cost(draw), control, theta)
        )
        for _ in range(40)
    ]
    assert squares[-1] < 0.9 * squares[0]
    assert all(rows.grad is None for rows in theta)
    assert torch.equal(theta[0][0].detach(), OMEGA)


def test_a_seed_draws_the_same_and_the_global_state_is_as_before():
    state = torch.random.get_rng_state()
    draws = [
        draw_sub_policies(rows_of((OMEGA, P), 5), torch.Generator().manual_seed(8))
        for _ in range(2)
    ]
    assert torch.equal(draws[0].relaxed, draws[1].relaxed)
    assert torch.equal(draws[0].index, draws[1].index)
    ControlVariate(4, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), state)
