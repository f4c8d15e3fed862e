"Properties and faults of effdl_nb.msunet.conversion that its notebook does not show."

import copy
import io
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from effdl_nb.msunet.conversion import (
    alpha_at,
    convert_ternary_,
    freeze_ternary_,
    latent_state_dict,
    set_alpha_,
    ternary_layers,
    unwrapped,
    zero_fraction,
)
from effdl_nb.msunet.ternary import (
    ALPHA_HALF,
    DEFAULT_ALPHA,
    TERNARY_MODES,
    TernaryConv2d,
    TernaryLinear,
    default_alpha,
    make_plain_,
    ternarize,
)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def everything(name, module):
    return True


def test_lazy_layers_are_refused():
    with pytest.raises(ValueError, match="layer '0' is lazy"):
        convert_ternary_(nn.Sequential(nn.LazyConv2d(4, 1)))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 1, groups=8)
        self.signal = nn.Conv1d(4, 4, 1)
        self.volume = nn.Conv3d(4, 4, 1)
        self.up = nn.ConvTranspose2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(8)
        self.table = nn.Embedding(4, 4)
        self.parametrised = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))


def test_each_kind_of_layer_is_converted_or_reported_with_a_reason():
    model = Mixed()
    report = convert_ternary_(model)
    assert [name for name, *_ in report.converted] == ["conv"]
    reasons = {name: why for name, _, _, why in report.kept}
    assert reasons["depthwise"] == "depthwise"
    kinds = {
        "signal": "Conv1d",
        "volume": "Conv3d",
        "up": "ConvTranspose2d",
        "table": "Embedding",
        "parametrised": "ParametrizedConv2d",
    }
    for name, kind in kinds.items():
        assert reasons[name] == f"no ternary form of {kind}"
        assert f"- {name}  {kind}" in str(report)
    assert "norm" not in reasons
    everything_report = convert_ternary_(Mixed(), everything)
    assert [name for name, *_ in everything_report.converted] == ["conv", "depthwise"]


def test_conversion_is_in_place_idempotent_and_keeps_hooks_and_optimizers():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    calls = []
    model[0].register_forward_hook(lambda module, args, out: calls.append(type(module)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    first, layer = convert_ternary_(model, everything), model[0]
    second = convert_ternary_(model, everything, alpha=0.1)
    assert len(first.converted) == 2 and not second.converted
    assert model[0] is layer and math.isclose(layer.alpha, ALPHA_HALF, rel_tol=1e-6), (
        "a second conversion must not change the first"
    )
    before = model[2].weight.clone()
    model(normal(1, 3, 2, 2)).square().sum().backward()
    optimizer.step()
    assert calls == [TernaryConv2d] and not torch.equal(model[2].weight, before)


def test_a_model_that_is_a_layer_is_converted():
    layer = nn.Linear(4, 4)
    assert "+ (model)  Linear  16" in str(convert_ternary_(layer, everything))
    assert isinstance(layer, TernaryLinear)


def test_shared_modules_and_shared_weights_are_converted_once():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": nn.Linear(4, 4)})
    model["c"].weight = shared.weight
    report = convert_ternary_(model, everything)
    assert (
        report.weights == 16 and model["a"] is model["b"] and model["c"].weight is model["a"].weight
    )
    assert any("shares the weight of a" in kind for _, kind, _ in report.converted)
    assert len(list(ternary_layers(model))) == 2


def test_deepcopy_is_independent_frozen_or_not():
    for frozen in (False, True):
        layer = TernaryLinear(6, 6)
        if frozen:
            freeze_ternary_(layer)
        twin = copy.deepcopy(layer)
        x = normal(2, 6)
        assert torch.equal(twin(x), layer(x)) and twin.frozen == frozen
        twin.alpha.zero_()
        assert layer.alpha > 0


def saved(model):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_checkpoints_pass_between_plain_ternary_and_frozen_models():
    def make():
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))

    plain, ternary, x = make(), make(), normal(2, 3, 2, 2)
    convert_ternary_(ternary, everything, alpha=0.3)
    ternary.load_state_dict(saved(plain))
    assert torch.equal(ternary[0].weight, plain[0].weight) and math.isclose(
        ternary[0].alpha, 0.3, rel_tol=1e-6
    )
    make().load_state_dict(latent_state_dict(ternary))
    other = make()
    convert_ternary_(other, everything, alpha=1.0)
    other.load_state_dict(saved(ternary))
    assert torch.equal(other(x), ternary(x)), "the threshold travels with the checkpoint"
    freeze_ternary_(ternary)
    thawed = make()
    convert_ternary_(thawed, everything)
    thawed.load_state_dict(saved(ternary))
    assert (
        thawed[0].frozen
        and not thawed[0].weight.requires_grad
        and torch.equal(thawed(x), ternary(x))
    )
    make().load_state_dict(latent_state_dict(ternary))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_checkpoint_of_another_mode_is_refused_and_changes_nothing(frozen):
    saver, loader = (nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
    convert_ternary_(saver, everything, mode="twn")
    convert_ternary_(loader, everything)
    if frozen:
        freeze_ternary_(saver)
    before = copy.deepcopy(loader.state_dict())
    for strict in (True, False):
        with pytest.raises(
            RuntimeError, match="0.weight was saved in mode 'twn'; this layer has mode 'msunet'"
        ):
            loader.load_state_dict(saved(saver), strict=strict)
    assert before.keys() == loader.state_dict().keys() and all(
        torch.equal(v, before[k]) for k, v in loader.state_dict().items()
    )
    with pytest.raises(RuntimeError, match="saved in mode 'number 9'"):
        loader.load_state_dict(before | {"0.mode_index": torch.tensor(9, dtype=torch.uint8)})
    loader[0].mode = "twn"
    loader.load_state_dict(saved(saver))
    x = normal(2, 4)
    assert torch.equal(loader(x), saver(x)) and "mode" not in "".join(latent_state_dict(loader))
    with pytest.raises(ValueError, match="mode 'x' is unknown"):
        loader[0].mode = "x"
    nn.Sequential(nn.Linear(4, 4)).load_state_dict(latent_state_dict(loader))
    older = {k: v for k, v in saved(saver).items() if k != "0.mode_index"}
    loader.load_state_dict(older)


def as_compiled(model):
    "A module that holds another under the name that torch.compile uses."
    holder = nn.Module()
    holder._orig_mod = model
    return holder


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, as_compiled, lambda m: nn.DataParallel(as_compiled(m))]
)
def test_conversion_and_state_see_through_wrappers(wrap):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))

    direct, wrapped = make(), wrap(make())
    report = convert_ternary_(direct, lambda name, module: name == "2")
    assert (
        convert_ternary_(wrapped, lambda name, module: name == "2") == report
        and unwrapped(wrapped)[2].frozen is False
    )
    state = latent_state_dict(wrapped)
    make().load_state_dict(state)
    assert state.keys() == make().state_dict().keys() and all(
        torch.equal(v, state[k]) for k, v in latent_state_dict(direct).items()
    )
    freeze_ternary_(wrapped)
    make().load_state_dict(latent_state_dict(wrapped))
    assert str(convert_ternary_(wrap(make()))) == str(convert_ternary_(make()))


def test_a_shared_ternary_module_leaves_no_key_under_either_name():
    layer = nn.Linear(4, 4)
    plain = nn.ModuleDict({"a": layer, "b": layer})
    model = copy.deepcopy(plain)
    convert_ternary_(model, everything)
    plain.load_state_dict(latent_state_dict(model))


def test_freezing_can_be_undone_and_blocks_the_schedule():
    layer = TernaryLinear(8, 8)
    model = nn.Sequential(layer)
    assert freeze_ternary_(model) == 1 and layer.frozen
    with pytest.raises(ValueError, match="frozen layers keep their signs: 0"):
        set_alpha_(model, 0.1)
    freeze_ternary_(model, frozen=False)
    assert not layer.frozen and layer.weight.requires_grad and set_alpha_(model, 0.1) == 1
    assert "signs" not in layer.state_dict()


def test_freezing_a_model_whose_layers_were_all_kept_says_so_and_changes_nothing():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 1)))
    assert "0 layers" in str(convert_ternary_(net))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.warns(UserWarning, match="no ternary layer to freeze"):
        assert freeze_ternary_(net) == 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("function", [zero_fraction, lambda m: set_alpha_(m, 0.5)])
def test_models_without_ternary_layers_are_refused(function):
    with pytest.raises(ValueError, match="no ternary layer"):
        function(nn.Linear(2, 2))


def test_schedule_limits():
    assert alpha_at(0, 0, 0) == ALPHA_HALF, "an empty ramp is a step"
    assert alpha_at(5, 5, 10, 1.0) == 0 and alpha_at(7.5, 5, 10, 1.0) == 0.5
    for start, end in ((-1, 3), (5, 4)):
        with pytest.raises(ValueError, match="0 <= start <= end"):
            alpha_at(1, start, end)
    with pytest.raises(ValueError, match="alpha must be a finite number from 0, not -0.5"):
        alpha_at(1, final=-0.5)


def test_the_frozen_form_exports_with_equal_bits():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    convert_ternary_(model)
    freeze_ternary_(model)
    x = normal(2, 3, 5, 7)
    program = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        assert torch.equal(program(x), model(x))


class Reader(nn.Module):
    "Attention's projection as Swin and BEiT write it: another module reads the weight."

    def __init__(self):
        super().__init__()
        self.qkv, self.own = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x):
        return F.linear(input=x, weight=self.qkv.weight, bias=self.qkv.bias)


def test_a_weight_that_another_module_reads_is_ternary_there_too():
    model, x = Reader(), normal(4, 8)
    before = model(x)
    convert_ternary_(model, everything)
    assert not torch.equal(model(x), before) and torch.equal(model(x), model.qkv(x))
    assert torch.equal(model.forward(x), model(x)), "called without hooks"
    model(x).sum().backward()
    assert model.qkv.weight.grad.abs().sum() > 0 and isinstance(model.qkv.weight, nn.Parameter)
    live = model(x)
    freeze_ternary_(model)
    assert torch.equal(model(x), live)
    program = torch.export.export(model.eval(), (x,)).module()
    assert torch.equal(program(x), live)


def test_the_fused_kernel_of_an_encoder_layer_computes_with_ternary_weights():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).eval()
    convert_ternary_(layer, everything)
    plain, x = copy.deepcopy(layer), normal(2, 5, 16)
    for linear in (plain.linear1, plain.linear2):
        linear.weight.data = linear.quantized_weight().detach()
        make_plain_(linear)
    with torch.no_grad():
        assert torch.equal(layer(x), plain(x)), "fused on both sides"
    torch.testing.assert_close(layer(x), plain(x))


def test_a_weight_shared_with_a_layer_that_is_kept_is_kept():
    tied = nn.ModuleDict({"table": nn.Embedding(9, 4), "out": nn.Linear(4, 9)})
    tied["out"].weight = tied["table"].weight
    two = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    two["b"].weight = two["a"].weight
    for model, choose in ((tied, everything), (two, lambda name, module: name == "a")):
        report = convert_ternary_(model, choose)
        assert not report.converted
    assert "reads its weight, too, and is not converted" in str(report)
    assert "b (Linear)" in report.kept[0][3]


def test_layers_that_compute_otherwise_than_their_class_are_kept():
    pruned, normed, buffered = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    prune.l1_unstructured(pruned, "weight", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(normed)
    weight = buffered.weight.detach()
    del buffered.weight
    buffered.register_buffer("weight", weight)
    replaced = nn.Linear(4, 4)
    replaced.forward = lambda x: x
    model = nn.Sequential(pruned, normed, buffered, replaced, nn.Linear(4, 4))
    x = normal(3, 4)
    before = model[:4](x)
    report = convert_ternary_(model, everything)
    assert [name for name, _, _ in report.converted] == ["4"]
    assert ["no parameter" in why for *_, why in report.kept] == [True, True, True, False]
    assert report.kept[3][3] == "its forward was replaced"
    freeze_ternary_(model)
    assert torch.equal(model[:4](x), before)


def test_a_layer_that_is_nearly_empty_is_named():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    nn.init.normal_(model[0].weight, std=1.0)
    with pytest.warns(UserWarning, match=r"1 ternary layers have more than 95% zeros: 1 100.0%"):
        report = convert_ternary_(model, everything, alpha=0.5, mode="raw")
    assert report.emptied == {"1": 1.0} and "! 1  100.0% zeros" in str(report)
    with pytest.warns(UserWarning, match="more than 95% zeros"):
        freeze_ternary_(model)


@pytest.mark.parametrize("mode", TERNARY_MODES)
def test_no_mode_empties_a_network_by_default(mode):
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.Conv2d(32, 8, 1), nn.Linear(64, 64))
    nn.init.normal_(model[0].weight, std=0.01)
    report = convert_ternary_(model, everything, mode=mode)
    assert len(report.converted) == 3 and 0.2 < zero_fraction(model) < 0.7
    assert default_alpha(torch.ones(3, 3), mode) == {"raw": 0.0}.get(mode, DEFAULT_ALPHA.get(mode))


def test_bitnets_rounding_is_the_default_of_absmean():
    w = normal(64, 64)
    rounded = (w / w.abs().mean()).round().clamp(-1, 1)
    assert torch.equal(ternarize(w, DEFAULT_ALPHA["absmean"], "absmean")[0], rounded.to(torch.int8))


def test_a_live_model_is_traced_by_fx_and_stays_live():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), normal(2, 3, 4, 4)
    convert_ternary_(model, everything)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    traced(x).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0
    model[0].weight.data.neg_()
    assert torch.equal(traced(x), model(x)), "not the weights of the moment of tracing"


def test_a_checkpoint_without_signs_does_not_load_into_a_frozen_model_in_silence():
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
    convert_ternary_(model)
    early = copy.deepcopy(model.state_dict())
    freeze_ternary_(model)
    for strict in (True, False):
        with pytest.raises(RuntimeError, match="is frozen here.*frozen=False"):
            model.load_state_dict(early, strict=strict)
    model.load_state_dict({}, strict=False)
    freeze_ternary_(model, frozen=False)
    model.load_state_dict(early)
