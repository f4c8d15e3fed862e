"Properties and faults of effdl_nb.msunet.costs that its notebook does not show."

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from effdl_nb.msunet import costs
from effdl_nb.msunet.costs import Call, Cost, rule_of
from effdl_nb.msunet.score import UnknownOperation, micronet_score


class Function(nn.Module):
    "A function as a module."

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_no_operation_is_both_free_and_priced_or_made_from_shapes():
    assert not costs.FREE & costs.RULES.keys() and not costs.FREE & costs.FACTORIES
    assert not costs.FACTORIES & costs.RULES.keys()
    assert not {*costs.BATCH_NORMS} & costs.RULES.keys()
    assert all(name in costs.RULES for name in costs.PRODUCTS)


@pytest.mark.parametrize("name", ["sigmoid", "silu", "hardswish", "gelu", "mish", "elu", "relu"])
def test_elementwise_rules_are_reached_from_modules_functions_and_in_place(name):
    n, (mults, adds) = 3 * 4 * 5, costs.ELEMENTWISE.get(name, (1, 0))
    for function in (getattr(F, name), lambda x: getattr(F, name)(x.clone(), inplace=True)):
        if name in ("sigmoid", "gelu") and function is not getattr(F, name):
            continue  # no such argument
        score = micronet_score(Function(function), (3, 4, 5))
        assert (score.mults, score.adds, score.params) == (mults * n, adds * n, 0)


def test_a_new_rule_is_one_more_entry(monkeypatch):
    model = Function(torch.special.bessel_j0)
    with pytest.raises(UnknownOperation, match="special_bessel_j0"):
        micronet_score(model, (3, 4, 5))
    monkeypatch.setitem(costs.RULES, "special_bessel_j0", costs.per_value(10, 9))
    score = micronet_score(model, (3, 4, 5))
    assert (score.mults, score.adds) == (600, 540)


@pytest.mark.parametrize("seed", range(4))
def test_reductions_and_pools_agree_with_counting_by_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = (int(torch.randint(4, 12, (), generator=generator)) for _ in range(2))
    x, cells = torch.zeros(1, 2, height, width), (3, 2)
    call = Call("_adaptive_avg_pool2d", (x, cells), F.adaptive_avg_pool2d(x, cells))
    members = 0
    for i in range(cells[0]):
        rows = range(i * height // cells[0], math.ceil((i + 1) * height / cells[0]))
        for j in range(cells[1]):
            columns = range(j * width // cells[1], math.ceil((j + 1) * width / cells[1]))
            members += 2 * len(rows) * len(columns)
    assert rule_of("_adaptive_avg_pool2d")(call) == Cost(12, members - 12)
    assert rule_of("sum")(Call("sum", (x, [2]), x.sum(2))) == Cost(adds=2 * width * (height - 1))


@pytest.mark.parametrize("precision", [16, 32])
def test_binary_is_never_dearer_to_store_than_ternary(precision):
    binary = costs.Storage(0.0, "binary").params(1000, precision)
    for zeros in (0.01, 0.5, 0.99, 1.0):
        ternary = costs.Storage(zeros, "ternary").params(1000, precision)
        assert math.isclose(ternary - binary, 1000 * (1 - zeros) / 32)


def test_a_product_without_kept_weights_adds_nothing():
    product = costs.Product(torch.zeros(4, 3), None, 3, 8, True)
    assert costs.Storage(1.0).cost(product) == Cost(0, sums=0)
    assert costs.counted_zeros(product, 1.0, costs.POLICIES["msunet-v3"]) == 0, "always dense"
