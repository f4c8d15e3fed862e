"Rewards: three ways to one number, odd models and modes, gradients without a direction."

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effdl_nb.deepaa.reward import (
    DegenerateGradient,
    FrozenNorm,
    batch_gradient,
    compiled_forward_mode,
    cosine,
    direction,
    directional_derivatives,
    double_backward_reward,
    explicit_jacobian,
    frozen_copy,
    logit_gradient,
    monte_carlo_reward,
    regularized_reward,
    reward,
    weight_names,
)
from effdl_nb.networks import build


def problem(network="small-convnet", transforms=7, seed=0, **arguments):
    torch.manual_seed(seed)
    model = build(
        network, **({"width": 4} if network == "small-convnet" else {}) | arguments
    ).double()
    images, labels = torch.randn(32, 3, 32, 32).double(), torch.randint(10, (32,))
    model(images)  # statistics of batch norm that are not those of a fresh network
    model.eval()
    x = torch.randn(transforms, 3, 32, 32).double()
    return (
        model,
        x,
        torch.full((transforms,), 3),
        torch.rand(transforms).double().softmax(0),
        batch_gradient(model, images, labels),
    )


NETWORKS = [
    ("small-convnet", {}),
    ("wrn-10-1", {}),
    ("convnet-3", {"width": 4}),
    ("small-convnet", {"norm": "none"}),
]


@pytest.mark.parametrize("network, arguments", NETWORKS)
def test_forward_mode_equals_jacobian_equals_autograd(network, arguments):
    model, x, y, p, v = problem(network, **arguments)
    got, G = reward(model, x, y, p, v), explicit_jacobian(model, x, y)
    want = G.T @ direction(v, G @ p)
    assert torch.allclose(got, want, rtol=1e-9, atol=1e-13)
    assert torch.allclose(double_backward_reward(model, x, y, p, v), want, rtol=1e-9, atol=1e-13)
    assert abs(p @ got) < 1e-12 * want.abs().max()


def test_scaling_v_changes_nothing_and_so_does_scaling_p():
    model, x, y, p, v = problem()
    want = reward(model, x, y, p, v)
    assert torch.allclose(reward(model, x, y, p, 10 * v), want, rtol=1e-10)
    assert torch.allclose(reward(model, x, y, 2 * p, v), want / 2, rtol=1e-10), (
        "the cosine is homogeneous of degree 0 in p"
    )


def test_chunks_do_not_matter():
    model, x, y, p, v = problem()
    assert torch.allclose(reward(model, x, y, p, v, chunk=2), reward(model, x, y, p, v), rtol=1e-10)


def test_golden_direction():
    v, g = torch.tensor([2.0, 0.0]).double(), torch.tensor([0.5, 0.5]).double()
    assert cosine(v, g).item() == pytest.approx(2**-0.5, abs=1e-15)
    assert direction(v, g).tolist() == pytest.approx([2**-0.5, -(2**-0.5)], abs=1e-15)
    assert logit_gradient(torch.tensor([0.5, 0.5]), torch.tensor([1.0, -1.0])).tolist() == [
        0.5,
        -0.5,
    ]


def test_the_model_keeps_modes_buffers_and_gradients():
    model, x, y, p, v = problem()
    want = reward(model, x, y, p, v)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reward(model, x, y, p, v), want), (
            "neither training mode nor autocast reaches the pass"
        )
    assert model.training and not first.training, "each module has its own mode again"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(TypeError):
        reward(model, x.to(torch.uint8), y, p, v)
    assert model.training, "also after an error"


def test_single_precision_under_autocast():
    model, x, y, p, v = problem()
    model, x, p, v = model.float(), x.float(), p.float(), v.float()
    want = reward(model, x, y, p, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = reward(model, x, y, p, v)
    assert got.dtype == torch.float32 and torch.equal(got, want)


def test_frozen_parameters_are_no_obstacle():
    model, x, y, p, v = problem()
    want = reward(model, x, y, p, v)
    assert torch.equal(reward(model.requires_grad_(False), x, y, p, v), want)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class NoForwardMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        return self.head(Square.apply(self.body(x)).mean((2, 3)))


def test_a_layer_without_forward_mode_falls_back_with_a_warning():
    torch.manual_seed(0)
    model, x, y = NoForwardMode().double(), torch.randn(5, 3, 8, 8).double(), torch.arange(5)
    u = torch.randn(sum(w.numel() for w in model.parameters())).double()
    with pytest.warns(UserWarning, match="without forward-mode formula"):
        got = directional_derivatives(model, x, y, u)
    assert torch.allclose(got, explicit_jacobian(model, x, y).T @ u, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_gradients_without_a_direction(scale):
    model, x, y, p, v = problem()
    with pytest.raises(DegenerateGradient, match="norm of v"):
        reward(model, x, y, p, v * scale)
    with pytest.raises(DegenerateGradient, match="norm of g"):
        cosine(v, torch.full_like(v, scale))


def test_probabilities_of_zero_give_no_gradient():
    model, x, y, p, v = problem()
    with pytest.raises(DegenerateGradient, match="norm of g"):
        reward(model, x, y, torch.zeros_like(p), v)


@pytest.mark.parametrize(
    "change, error",
    [
        (lambda x, y, p: (x[:0], y[:0], p[:0]), ValueError),
        (lambda x, y, p: (x[0], y, p), ValueError),
        (lambda x, y, p: (x, y[:3], p), ValueError),
        (lambda x, y, p: (x, y.double(), p), ValueError),
        (lambda x, y, p: (x, y, p[:3]), ValueError),
        (lambda x, y, p: (x.to(torch.uint8), y, p), TypeError),
    ],
)
def test_arguments_that_do_not_fit(change, error):
    model, x, y, p, v = problem()
    with pytest.raises(error):
        reward(model, *change(x, y, p), v)


def test_a_direction_of_the_wrong_length_and_a_model_without_weights():
    model, x, y, p, v = problem()
    with pytest.raises(ValueError, match="direction must have shape"):
        directional_derivatives(model, x, y, v[:-1])
    with pytest.raises(ValueError, match="must have a convolution or a linear layer"):
        weight_names(nn.Sequential(nn.BatchNorm2d(3)))


def test_batch_norm_is_not_part_of_w():
    model, *_ = problem("wrn-10-1")
    affine = {
        f"{name}.{key}"
        for name, m in model.named_modules()
        if isinstance(m, nn.BatchNorm2d)
        for key in ("weight", "bias")
    }
    assert not affine & set(weight_names(model)) and affine | set(weight_names(model)) == {
        name for name, _ in model.named_parameters()
    }


def test_monte_carlo_with_one_prefix_and_matching_chains_is_the_exact_reward():
    model, x, y, p, v = problem(transforms=4)
    uniform = torch.full((4,), 0.25).double()
    got, similarity = monte_carlo_reward(model, x[None], x, y[0], v)
    assert torch.allclose(got, reward(model, x, y, uniform, v), rtol=1e-10)
    assert similarity == pytest.approx(cosine(v, batch_gradient(model, x, y)).item())
    twice, _ = monte_carlo_reward(model, torch.stack([x, x]), torch.cat([x, x]), y[0], v)
    assert torch.allclose(twice, got, rtol=1e-10), (
        "means, not sums: repeating the samples changes nothing"
    )
    with pytest.raises(ValueError, match="prefixed"):
        monte_carlo_reward(model, x, x, y[0], v)


def test_regularisation():
    rewards = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert regularized_reward(rewards, 0.5).tolist() == [1.5, 2.0]
    assert regularized_reward(rewards[:1], 1.0).tolist() == [1.0, 2.0], "one pair has no deviation"
    for wrong in (rewards[0], rewards[:0]):
        with pytest.raises(ValueError):
            regularized_reward(wrong)
    with pytest.raises(ValueError):
        regularized_reward(rewards, -1.0)


def test_cosine_is_what_torch_says():
    torch.manual_seed(1)
    v, g = torch.randn(50).double(), torch.randn(50).double()
    assert cosine(v, g).item() == pytest.approx(F.cosine_similarity(v, g, dim=0).item(), abs=1e-14)


def trained(model):
    "Batch norms with statistics, scales and shifts that are not those of a fresh network."
    for norm in (
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine
    ):
        nn.init.uniform_(norm.weight, -1, 2), nn.init.normal_(norm.bias)
    model(torch.randn(16, 3, 32, 32, dtype=next(model.parameters()).dtype))
    return model


@pytest.mark.parametrize("network", ["small-convnet", "wrn-10-1", "resnet-18"])
def test_a_frozen_copy_is_the_same_function_with_the_same_derivatives(network):
    torch.manual_seed(0)
    model = trained(build(network, **({} if network == "wrn-10-1" else {"width": 4})).double())
    state, modes = (
        {k: t.clone() for k, t in model.state_dict().items()},
        [m.training for m in model.modules()],
    )
    fast, x, y = frozen_copy(model), torch.randn(3, 3, 32, 32).double(), torch.tensor([1, 2, 3])
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules()) and weight_names(
        fast
    ) == weight_names(model)
    assert all(
        fast.get_parameter(name) is model.get_parameter(name) for name in weight_names(model)
    ), "weights are shared, not copied"
    gradient, images = batch_gradient(model, x, y), x.clone().requires_grad_()
    assert [m.training for m in model.modules()] == modes and all(
        torch.equal(t, state[k]) for k, t in model.state_dict().items()
    )
    model.eval()
    assert torch.allclose(fast(x), model(x), rtol=1e-10)
    w = [model.get_parameter(name) for name in weight_names(model)]
    expected = torch.autograd.grad(F.cross_entropy(model(images), y), [*w, images])
    assert torch.allclose(
        gradient, torch.cat([g.flatten() for g in expected[:-1]]), rtol=1e-8, atol=1e-12
    )
    assert torch.allclose(
        torch.autograd.grad(F.cross_entropy(fast(images), y), images)[0],
        expected[-1],
        rtol=1e-8,
        atol=1e-12,
    )


def test_what_a_frozen_copy_leaves_alone():
    class Derived(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    hooked = nn.BatchNorm2d(4)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    bare, plain = nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4, affine=False)
    model, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), Derived(4), hooked, bare, plain),
        torch.randn(5, 3, 8, 8),
    )
    model(x)
    model[0].last_output = model[0](x)  # a tensor of a graph, which deepcopy alone refuses
    buffers = {k: t.clone() for k, t in model.state_dict().items()}
    fast = frozen_copy(model)
    assert [type(m).__name__ for m in fast] == [
        "Conv2d",
        "Derived",
        "BatchNorm2d",
        "BatchNorm2d",
        "FrozenNorm",
    ]
    got = fast(x)
    assert model.training and torch.allclose(got, model.eval()(x), atol=1e-5)
    assert all(torch.equal(t, buffers[k]) for k, t in model.state_dict().items())
    plain = nn.Linear(2, 2).eval()
    assert frozen_copy(fast) is fast and frozen_copy(plain) is plain
    assert isinstance(frozen_copy(nn.BatchNorm1d(3)), FrozenNorm), (
        "a model that is itself a batch norm"
    )


def test_other_failures_of_the_forward_mode_pass_are_not_taken_for_a_missing_formula(recwarn):
    class Broken(nn.Sequential):
        def forward(self, x):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        directional_derivatives(
            Broken(nn.Linear(2, 2)),
            torch.zeros(1, 3, 4, 4),
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(6),
        )
    assert not recwarn.list


@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_the_compiled_pass_computes_the_same():
    model, x, y, p, v = problem(transforms=3)
    fast = frozen_copy(model)
    compiled = compiled_forward_mode(fast, "aot_eager")
    assert torch.allclose(
        compiled(x, y, v), directional_derivatives(model, x, y, v), rtol=1e-9, atol=1e-12
    )
