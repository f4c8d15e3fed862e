"Relaxed operations: values of the exact ones, derivatives that are right or declared, and export."

import math

import pytest
import torch

from effdl_nb.deepaa import relaxed
from effdl_nb.deepaa.operations import apply_drawn
from effdl_nb.deepaa.relaxed import (
    RELAXED_OPERATIONS,
    RelaxedPolicy,
    relaxed_bernoulli,
    relaxed_discrepancy,
    relaxed_mixture,
    relaxed_operations,
    relaxed_shares,
    relaxed_stage,
    relaxed_transform,
)
from effdl_nb.deepaa.space import (
    CONTINUOUS_RANGES,
    ENHANCERS,
    GEOMETRIC,
    WITHOUT_MAGNITUDE,
    Transform,
    cifar_space,
    imagenet_space,
    map_key,
)

CIFAR = cifar_space()
TABLES = ("Solarize", "Posterize", *WITHOUT_MAGNITUDE, "Flip")
COUNT = len(RELAXED_OPERATIONS)
AT = {name: n for n, name in enumerate(RELAXED_OPERATIONS)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6, height=32, width=32):
    coarse = torch.randint(0, 256, (n, 3, 8, 8), generator=seeded()).float()
    size = (height, width)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").to(torch.uint8)


def everywhere(value, like):
    return like.new_full((len(like), COUNT), value)


def operated(batch, mu, sign):
    x = batch.double() / 255
    return relaxed_operations(x, everywhere(mu, x), everywhere(sign, x)), x


def test_the_operations_are_fifteen_and_all_can_be_exported():
    assert len(set(RELAXED_OPERATIONS)) == COUNT == 15 and "Cutout" not in RELAXED_OPERATIONS
    for name in RELAXED_OPERATIONS:
        for mu in (0.0, 0.25, 1.0):
            shares = relaxed_shares(name, 0.5, mu)
            assert sum(shares.values()) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="operation 'Cutout' is unknown; allowed: ShearX"):
        relaxed_transform("Cutout", 0.5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_the_strength_that_does_nothing_returns_the_image(sign, size):
    batch = images(3, *size)
    for name in (*GEOMETRIC, *ENHANCERS, "Solarize", "Posterize"):
        mu = 1.0 if name in ("Solarize", "Posterize") else 0.0
        assert map_key(relaxed_transform(name, mu, sign), CIFAR) == ("Identity", None)
        out, x = operated(batch, mu, sign)
        assert (out[AT[name]] - x).abs().max() < 1e-12, name


@pytest.mark.parametrize("mu", [0.05, 0.3, 0.7, 1.0])
def test_tables_are_the_exact_operations_to_the_bit(mu):
    for sign, draw in ((1, 0.0), (-1, 0.9)):
        out, _ = operated(images(), mu, sign)
        for name in TABLES:
            transforms = [relaxed_transform(name, mu, sign)] * 6
            exact = apply_drawn(images(), transforms, CIFAR, torch.full((6, 2), draw))
            assert torch.equal((out[AT[name]] * 255).round().to(torch.uint8), exact), name


def test_the_discrepancy_is_the_interpolation_and_the_rounding():
    weak, strong = (relaxed_discrepancy(images(32), mu, CIFAR) for mu in (0.1, 0.9))
    for found in (weak, strong):
        assert max(found[name] for name in TABLES) < 1e-9
        assert 0 < max(found[name] for name in ENHANCERS) < 1
        assert all(0 < found[name] < 12 for name in GEOMETRIC)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_turns_and_shifts_as_the_exact_operation_does(name):
    out, _ = operated(images(8), 0.6, 1)
    for sign, limit in ((1, 0.35), (-1, math.inf)):
        transforms = [relaxed_transform(name, 0.6, sign)] * 8
        exact = apply_drawn(images(8), transforms, CIFAR, torch.zeros(8, 2)).double()
        away = (out[AT[name]] * 255 - exact).abs().mean()
        moved = (exact - images(8).double()).abs().mean()
        assert away < limit * moved if sign > 0 else away > 0.35 * moved, "the sign counts"


def gradients(mu, weights, batch):
    variable = mu.clone().requires_grad_()
    ones = torch.ones_like(mu)
    total = (relaxed_operations(batch, variable, ones) * weights).sum()
    return torch.autograd.grad(total, variable)[0]


def test_gradients_in_strength_are_central_differences_or_declared():
    batch = images(2).double() / 255
    weights = torch.randn(COUNT, *batch.shape, generator=seeded(1), dtype=torch.float64)
    mu = torch.rand(2, COUNT, generator=seeded(2), dtype=torch.float64) * 0.6 + 0.2
    ones = torch.ones_like(mu)

    def total(at):
        return (relaxed_operations(batch, at, ones) * weights).sum((2, 3, 4)).T

    seen = gradients(mu, weights, batch)
    central = (total(mu + 1e-6) - total(mu - 1e-6)) / 2e-6
    for name in (*GEOMETRIC, *ENHANCERS):
        j = AT[name]
        assert torch.allclose(seen[:, j], central[:, j], rtol=1e-4), name
    for name in ("Solarize", "Posterize"):
        j = AT[name]
        assert torch.allclose(seen[:, j], weights[j].sum((1, 2, 3))), name
    assert (seen[:, AT["AutoContrast"] :] == 0).all()


def test_gradients_in_the_image():
    batch = (images(2).double() / 255).requires_grad_()
    out = relaxed_operations(batch, everywhere(0.4, batch), everywhere(1.0, batch))
    weights = torch.randn(*batch.shape, generator=seeded(1), dtype=torch.float64)
    for name in ("Solarize", "Posterize", "AutoContrast", "Equalize"):
        (seen,) = torch.autograd.grad((out[AT[name]] * weights).sum(), batch, retain_graph=True)
        assert torch.equal(seen, weights), name
    (seen,) = torch.autograd.grad((out[AT["Invert"]] * weights).sum(), batch, retain_graph=True)
    assert torch.equal(seen, -weights)
    (seen,) = torch.autograd.grad((out[AT["Flip"]] * weights).sum(), batch)
    assert torch.equal(seen, weights.flip(-1))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_coin_falls_with_its_probability(p):
    uniform = torch.rand(100_000, generator=seeded())
    soft = relaxed_bernoulli(torch.tensor(p), uniform, 0.05)
    assert (soft > 0.5).double().mean().item() == pytest.approx(p, abs=0.005)
    sharp = relaxed_bernoulli(torch.tensor(p), uniform, 1e-6)
    assert sharp.double().mean().item() == pytest.approx(p, abs=0.005)


def test_a_coin_at_its_bound_is_certain_and_has_a_gradient():
    uniform = torch.rand(1000, generator=seeded())
    p = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    for n in (0, 1):
        assert (relaxed_bernoulli(p[n], uniform.double(), 0.05) - n).abs().max() < 1e-12
    near = torch.tensor([1 - 1e-6], dtype=torch.float64)
    (seen,) = torch.autograd.grad(relaxed_bernoulli(p[0], near, 0.05).sum(), p)
    assert seen[0] > 0 and seen.isfinite().all()
    assert relaxed_bernoulli(p[0], torch.zeros(1), 0.05).item() == 0, "u = 0 is drawn, too"


def test_a_stage_is_the_weighted_sum_of_its_operations():
    x = images(4).double() / 255
    mu, signs = everywhere(0.3, x), everywhere(-1.0, x)
    w = torch.softmax(torch.randn(4, COUNT, generator=seeded(), dtype=torch.float64), 1)
    b = torch.rand(4, COUNT, generator=seeded(1), dtype=torch.float64)
    every = relaxed_operations(x, mu, signs)
    naive = torch.zeros_like(x)
    for j in range(COUNT):
        for n in range(4):
            naive[n] += w[n, j] * (b[n, j] * every[j, n] + (1 - b[n, j]) * x[n])
    assert torch.allclose(relaxed_stage(x, w * b, mu, signs), naive, atol=1e-12)
    assert torch.equal(relaxed_stage(x, w * 0, mu, signs), x), "nothing applied, to the bit"


def decided(names, p, mu, sub_policies=1) -> RelaxedPolicy:
    "A policy whose stages are one operation each, with sharp coins."
    policy = RelaxedPolicy(sub_policies, len(names), seeded(), temperature=1e-6)
    with torch.no_grad():
        policy.theta.zero_()
        for stage, name in enumerate(names):
            policy.theta[:, stage, AT[name]] = 100.0
        policy.p.fill_(p)
        policy.mu.fill_(mu)
    return policy


@pytest.mark.parametrize("name", ["Invert", "Posterize", "Color", "Rotate", "Flip"])
def test_a_decided_stage_with_sharp_coins_is_a_hard_draw(name):
    policy = decided([name], 0.3, 0.5)
    batch = images(1).expand(600, -1, -1, -1)
    x = batch.float() / 255
    draw = policy.draw(600, seeded(3))
    with torch.no_grad():
        out = policy(x, draw)
    every = relaxed_operations(x, policy.mu[draw.sub][:, 0].detach(), draw.signs[:, 0])[AT[name]]
    applied = draw.uniform[:, 0, AT[name]] > 0.7
    expected = torch.where(applied[:, None, None, None], every, x)
    assert (out - expected).abs().max() < 1e-3
    assert applied.double().mean().item() == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize("names", [("Invert", "Posterize"), ("Flip", "Solarize"), ("Brightness",)])
def test_the_exported_mixture_has_the_moments_of_relaxed_draws(names):
    policy = decided(names, 0.4, 0.6)
    n = 3000
    batch = images(1, 8, 8).expand(n, -1, -1, -1)
    with torch.no_grad():
        soft = policy(batch.double() / 255, policy.draw(n, seeded(1))) * 255
    mixture = relaxed_mixture(policy.listed(), CIFAR, defaults=False)
    hard = mixture(batch, seeded(2)).double()
    for moment in (1, 2):
        left, right = (((v / 255) ** moment).mean(0) for v in (soft, hard))
        noise = (hard / 255).pow(moment).std(0) * (2 / n) ** 0.5
        assert ((left - right).abs() < 5 * noise + 0.01).all(), "5 standard errors and rounding"


def test_shares_are_of_weights_probabilities_and_signs():
    assert relaxed_shares("Rotate", 0.5, 0.5) == {
        Transform("Rotate", 15.0): 0.25,
        Transform("Rotate", -15.0): 0.25,
    }
    assert relaxed_shares("Rotate", 0.5, 0.0) == {Transform("Rotate", 0.0): 0.5}
    assert relaxed_shares("Color", 1.0, 1.0) == {
        Transform("Color", 0.0): 0.5,
        Transform("Color", 2.0): 0.5,
    }
    assert relaxed_shares("Solarize", 0.5, 0.5) == {Transform("Solarize", 128.0): 0.5}
    assert relaxed_shares("Posterize", 0.5, 0.0) == {Transform("Posterize", 1.0): 0.5}
    assert CONTINUOUS_RANGES["Rotate"] == (-30.0, 30.0)


@pytest.mark.parametrize("start", ["flat", "uniform"])
def test_every_start_can_be_exported(start):
    policy = RelaxedPolicy(12, 3, seeded(), start)
    with torch.no_grad():
        policy.p.fill_(1.0)  # so that the shares of a stage sum to 1, but for rounding
    mixture = relaxed_mixture(policy.listed(), CIFAR)
    assert len(mixture.choices) == 12 and mixture.layers == 6
    names = [mixture.space[mixture.choices[0][k][0][0]].name for k in (0, 1, 5)]
    assert names == ["Crop", "Flip", "Cutout"]
    assert mixture(images(), seeded()).shape == (6, 3, 32, 32)
    resized = relaxed_mixture(policy.listed(), imagenet_space())
    assert resized.layers == 5 and resized.space.crop == "resized"


def test_entropies_of_the_starts():
    flat, uniform = (RelaxedPolicy(300, 2, seeded(), start) for start in ("flat", "uniform"))
    assert flat.entropy() > 0.99 * math.log(15) and uniform.entropy() == pytest.approx(
        0.92, abs=0.04
    )
    assert uniform.weights().amax(2).mean().item() == pytest.approx(0.63, abs=0.03)
    assert torch.allclose(flat.weights().sum(2), torch.ones(300, 2).double(), atol=1e-12)
    with pytest.raises(ValueError, match="start 'cold' is unknown; allowed: flat, uniform"):
        RelaxedPolicy(1, 1, seeded(), "cold")


def test_projection_and_draws():
    policy = RelaxedPolicy(4, 2, seeded())
    with torch.no_grad():
        policy.p.add_(3.0)
        policy.mu.sub_(3.0)
    policy.project()
    assert (policy.p == 1).all() and (policy.mu == 0).all()
    draw = policy.draw(10, seeded(1), chunk=4)
    assert draw.sub.shape == (10,) and (draw.sub[:4] == draw.sub[0]).all()
    again = policy.draw(10, seeded(1), chunk=4)
    assert all(torch.equal(a, b) for a, b in zip(draw, again, strict=True))


def test_gradients_reach_only_the_sub_policies_that_were_drawn():
    policy = RelaxedPolicy(6, 2, seeded(), temperature=0.5)
    draw = policy.draw(3, seeded(1))
    policy(images(3).float() / 255, draw).square().sum().backward()
    drawn = set(draw.sub.tolist())
    for parameter in (policy.theta, policy.p, policy.mu):
        touched = parameter.grad.abs().sum((1, 2)) > 0
        assert {n for n, yes in enumerate(touched.tolist()) if yes} == drawn


def test_a_planted_fault_in_the_straight_through_is_seen(monkeypatch):
    def lost(values, images, mu=None):
        return values.detach() + (images - images.detach())

    monkeypatch.setattr(relaxed, "straight_through", lost)
    batch = images(2).double() / 255
    mu = everywhere(0.4, batch)
    seen = gradients(mu, torch.ones(COUNT, *batch.shape, dtype=torch.float64), batch)
    assert seen[0, AT["Solarize"]] == 0


def test_kornia_agrees_on_unsigned_operations():
    kornia = pytest.importorskip("kornia", reason="kornia is not installed")
    x = images(4).float() / 255
    out = relaxed_operations(x, everywhere(0.5, x), everywhere(1.0, x))
    for name, reference in (
        ("Invert", kornia.enhance.invert(x)),
        ("Brightness", x * 0.5),
        ("Posterize", kornia.enhance.posterize(x, 4)),
        ("Solarize", kornia.enhance.solarize(x, 128 / 255)),
        ("Equalize", kornia.enhance.equalize(x)),
    ):
        assert (out[AT[name]] - reference).abs().mean() < 0.02, name
