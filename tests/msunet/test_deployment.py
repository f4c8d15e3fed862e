"Properties and faults of effdl_nb.msunet.deployment that its notebook does not show."

import copy
import shutil

import pytest
import torch
from torch import nn

from effdl_nb.msunet.codes import PackedError
from effdl_nb.msunet.conversion import convert_ternary_, freeze_ternary_, ternary_layers
from effdl_nb.msunet.deployment import deploy, unpack_
from effdl_nb.msunet.network import msunet
from effdl_nb.msunet.packing import save_packed
from effdl_nb.msunet.ternary import TernaryConv2d

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler",
)


def uneven(model, seed=0):
    "Batch norms and biases away from their initial values, evaluation mode."
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.2, 0.2) if tensor is not None else None
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5) if tensor is not None else None
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def small(**kwargs):
    return uneven(msunet("v3", width=0.125, num_classes=10, **kwargs))


@pytest.fixture(scope="module")
def frozen():
    "A small network, frozen."
    model = small()
    freeze_ternary_(model)
    return model


def test_shared_or_hooked_convolutions_are_not_folded():
    conv = nn.Conv2d(4, 4, 1)
    shared = uneven(nn.Sequential(conv, nn.BatchNorm2d(4), conv, nn.BatchNorm2d(4)))
    hooked = uneven(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    hooked[0].register_forward_hook(lambda module, args, out: None)
    alone = uneven(
        nn.Sequential(
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1, bias=False),
            nn.BatchNorm2d(4, affine=False),
            nn.Conv2d(4, 4, 1),
        ).train()
    )
    x = torch.randn(2, 4, 5, 5)
    for model, norms in ((shared, 2), (hooked, 1), (alone, 1)):
        folded = deploy(model, 32)
        assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == norms
        torch.testing.assert_close(folded(x), model(x))


def test_unpacked_layers_are_ordinary_and_equal(frozen):
    model = copy.deepcopy(frozen)
    n = len(list(ternary_layers(model)))
    assert unpack_(model) == n and unpack_(model) == 0
    assert not any(isinstance(m, TernaryConv2d) for m in model.modules())
    assert model.state_dict().keys() == small(quantization=None).state_dict().keys()
    assert model(X).equal(frozen(X))


@pytest.mark.parametrize("form", ["frozen", "deployed"])
def test_onnx_runtime_agrees(form, frozen, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = frozen
    if form == "deployed":
        model = deploy(nn.Sequential(frozen.stem, frozen.stages[0]), 16)
    with torch.no_grad():
        assert torch.export.export(model, (X,)).module()(X).equal(model(X))
        torch.onnx.export(model, (X,), dynamo=True, verbose=False).save(tmp_path / "m.onnx")
        session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
        out = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: X.numpy()})[0])
        torch.testing.assert_close(out, model(X), rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_frozen_layers_agree():
    model = uneven(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU()))
    convert_ternary_(model)
    freeze_ternary_(model)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(X), model(X))


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_frozen_block_agrees(frozen):
    model = frozen.stages[3][1]
    x = torch.randn(2, 32, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(model, fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-5
        )


class Apart(nn.Module):
    "A stem whose convolution is also called without its norm."

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.body(self.stem(x) + self.stem[0](x))


class Skip(nn.Sequential):
    "A subclass with a forward of its own."

    def forward(self, x):
        return self[1](self[0](x) + x)


class Passed(nn.Module):
    "The output before the norm is given back, too."

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))

    def forward(self, x):
        return [x := layer(x) for layer in self.layers]


@pytest.mark.parametrize(
    "model, norms",
    [(Apart(), 1), (Skip(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), 1), (Passed(), 1)],
)
def test_norms_are_folded_only_where_the_outputs_stay(model, norms):
    model = uneven(model)
    x = torch.randn(2, 3, 5, 5)
    folded = deploy(model, 32)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == norms
    for one, other in zip(model(x), folded(x), strict=True):
        torch.testing.assert_close(one, other)


class Hidden(nn.Module):
    "The weight is read from a list that no module owns."

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.hidden = [self.layer.weight]

    def forward(self, x):
        return self.layer(x) + nn.functional.linear(x, self.hidden[0])


def test_forms_that_would_change_the_outputs_are_refused(tmp_path):
    model = Hidden()
    convert_ternary_(model, lambda name, module: True)
    state = copy.deepcopy(model.state_dict())
    for change in (deploy, unpack_, lambda m: save_packed(m, tmp_path / "a")):
        with pytest.raises(PackedError, match="other outputs in its new form"):
            change(model)
    assert not (tmp_path / "a").exists()
    assert all(state[key].equal(value) for key, value in model.state_dict().items())


def test_a_parameter_that_lies_in_the_same_memory_is_left_alone():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = nn.Parameter(model[0].weight.data)
    convert_ternary_(model, lambda name, module: name == "1")
    x = torch.randn(2, 6)
    before = model(x)
    unpack_(model)
    assert torch.equal(model(x), before)


def test_a_model_that_takes_no_noise_is_checked_on_given_inputs():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def forward(self, *, image, length):
            return self.block(image)[:, :length]

    model = uneven(Pair())
    inputs = {"image": torch.randn(2, 3, 4, 4), "length": 2}
    with pytest.warns(UserWarning, match="give `inputs`"):
        unfolded = deploy(model, 32)
    assert isinstance(unfolded.block[1], nn.BatchNorm2d)
    folded = deploy(model, 32, inputs)
    assert isinstance(folded.block[1], nn.Identity)
    torch.testing.assert_close(folded(**inputs), model(**inputs))


def test_a_model_without_numbers_is_refused(tmp_path):
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 1))
    for change in (deploy, unpack_, lambda m: save_packed(m, tmp_path / "a")):
        with pytest.raises(PackedError, match="2 tensors are on the meta device"):
            change(model)
