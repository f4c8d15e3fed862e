"Properties and faults of effdl_nb.msunet.packing that its notebook does not show."

import copy
import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from effdl_nb.msunet import packing
from effdl_nb.msunet.codes import DamagedFile, PackedError
from effdl_nb.msunet.conversion import convert_ternary_, freeze_ternary_, ternary_layers
from effdl_nb.msunet.deployment import deploy, unpack_
from effdl_nb.msunet.network import msunet
from effdl_nb.msunet.packing import (
    DoesNotFit,
    ForeignFile,
    WrongVersion,
    load_packed,
    packed_table,
    save_packed,
)
from effdl_nb.msunet.pruning import MagnitudePruner, targets_by_role
from effdl_nb.msunet.score import micronet_score

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def everything(name, module):
    return True


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
def packed(tmp_path_factory):
    "A small network and its file."
    model, path = small(), tmp_path_factory.mktemp("packed") / "small.safetensors"
    save_packed(model, path)
    return model, path


def test_the_given_model_is_not_changed(packed, tmp_path):
    model = packed[0].train()
    before = copy.deepcopy(model.state_dict())
    save_packed(model, tmp_path / "a", 16)
    deploy(model, 16)
    assert model.training and not any(layer.frozen for _, layer in ternary_layers(model))
    assert before.keys() == model.state_dict().keys() and all(
        before[k].equal(v) for k, v in model.state_dict().items()
    )
    model.eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("frozen", [False, True])
def test_every_float_type_returns_as_it_was(dtype, frozen, tmp_path):
    model = small()
    if frozen:
        freeze_ternary_(model)
    model, x = model.to(dtype), X.to(dtype)
    save_packed(model, tmp_path / "a")
    back = load_packed(tmp_path / "a")
    with torch.no_grad():
        assert {p.dtype for p in back.parameters()} == {dtype} and back(x).equal(model(x))


def test_binary_layers_take_one_bit(tmp_path):
    model = small(quantization="binary")
    records = [r for r in save_packed(model, tmp_path / "a").values() if r["kind"] == "ternary"]
    assert {r["encoding"] for r in records} == {"all"} and {r["alpha"] for r in records} == {0.0}
    assert load_packed(tmp_path / "a")(X).equal(model(X))


def test_resnet_18(tmp_path):
    from torchvision.models import resnet18

    model = uneven(resnet18(num_classes=10))
    convert_ternary_(model, filter_fn=everything, mode="twn", alpha=0.7)
    x = torch.randn(1, 3, 40, 40)
    save_packed(model, tmp_path / "a")
    with pytest.raises(DoesNotFit, match="not an MSUNet"):
        load_packed(tmp_path / "a")
    with torch.no_grad():
        assert load_packed(tmp_path / "a", resnet18(num_classes=10))(x).equal(model(x))
    weights = sum(layer.weight.numel() for _, layer in ternary_layers(model))
    assert (tmp_path / "a").stat().st_size * 8 < 1.75 * weights, "batch norms and header included"
    skeleton = resnet18(num_classes=11)
    before = copy.deepcopy(skeleton.state_dict())
    with pytest.raises(DoesNotFit, match=r"fc.bias: \(11,\) in the model, \(10,\) in the file"):
        load_packed(tmp_path / "a", skeleton)
    assert before.keys() == skeleton.state_dict().keys() and not list(ternary_layers(skeleton))


def test_wrappers_are_looked_through(packed, tmp_path):
    model = packed[0]
    for wrapped in (
        nn.DataParallel(model),
        torch.compile(model),
        nn.DataParallel(torch.compile(model)),
    ):
        save_packed(wrapped, tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == packed[1].read_bytes(), "and files are reproducible"
    wrapped = nn.DataParallel(small())
    assert load_packed(packed[1], wrapped) is wrapped and wrapped.module(X).equal(model(X))


def test_shared_modules_and_weights_are_stored_once(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(32, 32)
            self.b = self.a
            self.c, self.d = nn.Linear(32, 32, bias=False), nn.Embedding(32, 32)
            self.d.weight = self.c.weight

        def forward(self, x):
            return self.b(self.a(x)) + self.c(x) @ self.d.weight

    model = Twice()
    convert_ternary_(model, filter_fn=lambda name, module: name == "a")
    save_packed(model, tmp_path / "a")
    x = torch.randn(3, 32)
    back = load_packed(tmp_path / "a", Twice())
    assert back(x).equal(model(x)) and back.a is back.b and back.c.weight is back.d.weight
    assert {row["name"] for row in packed_table(tmp_path / "a")} == {
        "(header)",
        "a.weight",
        "a.bias",
        "c.weight",
    }


def test_memory_formats_and_views(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 1)).to(
        memory_format=torch.channels_last
    )
    model[0].weight.data = torch.randn(3, 8, 3, 3).transpose(0, 1)
    convert_ternary_(model)
    save_packed(model, tmp_path / "a")
    back = load_packed(
        tmp_path / "a", nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 1))
    )
    assert back[0].weight.equal(model[0].weight) and back[1].signs.equal(
        model[1].signs_and_scale()[0]
    )
    x, last = torch.randn(2, 3, 8, 8), model.to(memory_format=torch.channels_last).eval()
    same = copy.deepcopy(last)
    assert load_packed(tmp_path / "a", same)(x).equal(last(x)), "in the same memory order"


def test_folding_is_exact_in_double_precision_and_loads_into_any_skeleton(tmp_path):
    model = small().double()
    folded = deploy(model, 32)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(X.double()), model(X.double()), rtol=1e-9, atol=1e-9)
    save_packed(folded, tmp_path / "a")
    for skeleton in (
        None,
        small().double(),
        small(quantization=None).double(),
        deploy(small().double(), 32),
    ):
        assert load_packed(tmp_path / "a", skeleton)(X.double()).equal(folded(X.double()))
    other = deploy(small().double(), 32)
    unfrozen = deploy(uneven(msunet("v3", width=0.125, num_classes=10), 1).double(), 32)
    unfrozen.load_state_dict(folded.state_dict())
    assert unfrozen(X.double()).equal(folded(X.double())) and not other.training


def test_half_precision_refuses_what_a_half_cannot_hold(tmp_path):
    model = small()
    model.classifier.bias.data[3] = 1e5
    message = "classifier.bias must be at most 65504 for a half, not 1e.05"
    with pytest.raises(PackedError, match=message):
        save_packed(model, tmp_path / "a", 16)
    with pytest.raises(ValueError, match="precision must be 16 or 32, not 8"):
        save_packed(model, tmp_path / "a", 8)
    with pytest.raises(ValueError, match="precision must be 16 or 32, not 8"):
        deploy(model, 8)
    model.head[0].weight.data[0, 0] = torch.nan
    with pytest.raises(PackedError, match="layer 'head.0': weight must be finite.* 1 of 1024"):
        save_packed(model, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(packed, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(packing, "save", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_packed(packed[0], tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_any_cut_and_any_flipped_bit_is_refused(packed, tmp_path):
    whole, bad = packed[1].read_bytes(), tmp_path / "bad"
    for cut in (0, 1, 7, 8, 9, 300, len(whole) // 2, len(whole) - 1):
        bad.write_bytes(whole[:cut])
        with pytest.raises(ForeignFile):
            load_packed(bad)
    bad.write_bytes(whole + b"\0")
    with pytest.raises(PackedError):
        load_packed(bad)
    for place in torch.randint(
        0, len(whole), (60,), generator=torch.Generator().manual_seed(0)
    ).tolist() + [8, 60, len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (length,) = struct.unpack("<Q", whole[:8])
        if place >= 8 + len(whole[8 : 8 + length].rstrip()) and place < 8 + length:
            continue  # a space that fills the header
        bad.write_bytes(flipped)
        with pytest.raises(PackedError):
            load_packed(bad)


def test_foreign_files_are_refused_and_nothing_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    bad = tmp_path / "bad"
    torch.save({"a": Trap()}, bad)
    with pytest.raises(ForeignFile):
        load_packed(bad)
    save_file({"a": torch.ones(2)}, bad)
    with pytest.raises(ForeignFile, match="without 'effdl_packed' in its metadata"):
        load_packed(bad)
    for text in ("[]", "{", '{"format": "else"}', "[" * 100_000):
        save_file({"a": torch.ones(2)}, bad, metadata={"effdl_packed": text})
        with pytest.raises(ForeignFile):
            load_packed(bad)
    with pytest.raises(FileNotFoundError):
        load_packed(tmp_path / "absent")


def tampered(path, target, change):
    "A file whose record was changed and whose checksum is right again."
    record, tensors = packing._read(path)
    record.pop("sha256")
    change(record, tensors)
    text = '",' + json.dumps(record)[1:]
    save_file(
        tensors,
        target,
        metadata={"effdl_packed": '{"sha256":"' + packing._digest(text, tensors) + text},
    )


HEAD = "head.0.weight"


@pytest.mark.parametrize(
    "change, error",
    [
        (lambda r, t: r.update(version=2), WrongVersion),
        (lambda r, t: r.update(version=True), WrongVersion),
        (lambda r, t: r.update(halves="Q4"), DamagedFile),
        (lambda r, t: r.pop("coded"), DamagedFile),
        (lambda r, t: r["coded"].update(absent=r["coded"][HEAD]), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(shape=[2**31, 2**31]), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(shape=[-32, -32]), PackedError),
        (lambda r, t: r["coded"][HEAD].update(shape="wide"), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(nonzero=3), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(nonzero=-1), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(nonzero=2.5), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(encoding="trits"), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(encoding="gaps"), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(encoding="zip"), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(kind="code"), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(mode="else"), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(alpha="1"), DamagedFile),
        (lambda r, t: r["coded"][HEAD].update(scale="1"), DamagedFile),
        (lambda r, t: r["coded"][HEAD].pop("scale"), DoesNotFit),
        (lambda r, t: r["shared"].update(other="nowhere"), DamagedFile),
        (lambda r, t: t.pop("stem.1.running_var"), DoesNotFit),
        (lambda r, t: r["network"].update(width=1e9), DamagedFile),
        (lambda r, t: r["network"].update(width=2.0), DoesNotFit),
        (lambda r, t: r["network"].update(name="os.system"), DamagedFile),
        (lambda r, t: r["network"].update(expansions=[10**9] * 4), DamagedFile),
        (lambda r, t: r.update(network=None), DoesNotFit),
    ],
)
def test_records_that_contradict_the_bytes_are_refused_even_with_a_right_checksum(
    packed, tmp_path, change, error
):
    tampered(packed[1], tmp_path / "bad", change)
    with pytest.raises(error):
        load_packed(tmp_path / "bad")


def test_a_subclass_of_a_convolution_is_refused_before_anything_changes(tmp_path):
    class Other(nn.Conv2d):
        pass

    def make(kind):
        return uneven(
            nn.Sequential(
                nn.Conv2d(3, 8, 3, bias=False),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                kind(8, 8, 1, bias=False),
            )
        )

    model = make(nn.Conv2d)
    convert_ternary_(model)
    for saved in (model, deploy(model, 32)):
        save_packed(saved, tmp_path / "a")
        skeleton = make(Other)
        before = copy.deepcopy(skeleton.state_dict())
        with pytest.raises(DoesNotFit, match="3: a Other, which has no ternary form"):
            load_packed(tmp_path / "a", skeleton)
        assert (
            isinstance(skeleton[1], nn.BatchNorm2d)
            and before.keys() == skeleton.state_dict().keys()
        )
        assert all(before[k].equal(v) for k, v in skeleton.state_dict().items())


def test_a_pruner_must_be_finalized_first(tmp_path):
    model = small()
    pruner = MagnitudePruner(model, targets_by_role(model, {"se": 0.9}), end=2)
    pruner.update(2)
    message = "8 layers have a weight_mask, the first 'stages.2.0.se.reduce': call the pruner's "
    message += r"finalize\(\) first"
    for call in (
        lambda: save_packed(model, tmp_path / "a"),
        lambda: save_packed(model, tmp_path / "a", 16),
        lambda: deploy(nn.DataParallel(model)),
    ):
        with pytest.raises(PackedError, match=message):
            call()
    assert not list(tmp_path.iterdir())
    pruner.finalize()
    save_packed(model, tmp_path / "a")
    with torch.no_grad():
        assert load_packed(tmp_path / "a")(X).equal(model(X))


def test_what_a_deployed_network_counts_is_what_its_tensors_take(tmp_path):
    model = deploy(small(), 16)
    save_packed(model, tmp_path / "a")
    rows = packed_table(tmp_path / "a")[1:]
    assert any(row["name"].endswith(".scale") for row in rows) and "gaps" not in {
        row["encoding"] for row in rows
    }
    stored = sum(row["bytes"] for row in rows)
    counted = 4 * micronet_score(model, policy="official", precision=16).params
    mine = {name: layer for name, layer in ternary_layers(model)}
    in_record = 2 * sum(layer.scale.numel() == 1 for layer in mine.values())
    smaller = sum(
        -(-row_n // 8) + -(-nonzero // 8) - row["bytes"]
        for row in rows
        if row["encoding"] == "trits"
        for row_n, nonzero in [
            (
                mine[row["name"].removesuffix(".weight")].signs.numel(),
                int(mine[row["name"].removesuffix(".weight")].signs.count_nonzero()),
            )
        ]
    )
    assert 0 <= stored + in_record + smaller - counted < 2 * len(mine), (
        "bytes are whole, nothing else differs"
    )
    scales = 2 * sum(layer.scale.numel() for layer in mine.values())
    assert scales > 10 * len(mine), "so that one scale a layer would not have passed"


def test_the_mode_of_a_file_becomes_the_mode_of_the_layer(tmp_path):
    model = small(quantization=None)
    convert_ternary_(model, mode="twn", alpha=0.7)
    save_packed(model, tmp_path / "a")
    back = load_packed(tmp_path / "a", small())
    assert {layer.mode for _, layer in ternary_layers(back)} == {"twn"} and {
        int(layer.mode_index) for _, layer in ternary_layers(back)
    } == {2}


def test_v3_on_disk(tmp_path):
    model = uneven(msunet("v3"))
    for name, role in model.layer_roles().items():
        share = {"se": 0.9, "depthwise": 0.5}.get(role, 0)
        weight = model.get_submodule(name).weight.data
        weight.view(-1)[weight.abs().flatten().argsort()[: int(share * weight.numel())]] = 0
    save_packed(model, tmp_path / "v3", precision=16)
    size = (tmp_path / "v3").stat().st_size
    counted = 4 * micronet_score(model, policy="msunet-v3", precision=16).params
    assert (
        size <= 402_000 and abs(size / counted - 1) < 0.02 and abs(size / (4 * 98_604) - 1) < 0.02
    )
    with torch.no_grad():
        assert load_packed(tmp_path / "v3")(X).equal(deploy(model)(X))


class Projected(nn.Module):
    "A weight that its parent reads."

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        return nn.functional.linear(x, self.qkv.weight, self.qkv.bias)


@pytest.mark.parametrize(
    "make, x",
    [
        (Projected, torch.randn(2, 8)),
        (
            lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
            torch.randn(2, 5, 16),
        ),
        (
            lambda: nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2
            ),
            torch.randn(2, 5, 16),
        ),
    ],
)
def test_weights_that_others_read_return_to_the_bit(make, x, tmp_path):
    model = make().eval()
    assert convert_ternary_(model, everything).converted
    save_packed(model, tmp_path / "a")
    back = load_packed(tmp_path / "a", make())
    with torch.no_grad():
        assert torch.equal(back(x), model(x)) and torch.equal(deploy(model, 32)(x), model(x))
    assert torch.equal(back(x), model(x)), "with gradients there is no fused kernel"
    with torch.no_grad():
        live = model(x)
        unpack_(model)
        assert torch.equal(model(x), live)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", ["prune", "weight_norm", "spectral_norm"])
def test_layers_made_by_hooks_return_beside_ternary_ones(how, tmp_path):
    def make():
        net = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1))
        if how == "prune":
            prune.l1_unstructured(net[0], "weight", 0.5)
        else:
            getattr(nn.utils, how)(net[0])
        return net

    model, x = make(), torch.randn(1, 4, 2, 2)
    convert_ternary_(model)
    model(x).sum().backward()
    model.eval()
    freeze_ternary_(model)
    save_packed(model, tmp_path / "a")
    assert torch.equal(load_packed(tmp_path / "a", make())(x), model(x))


def test_a_skeleton_on_meta_is_filled_or_refused(tmp_path):
    def make():
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))

    model, x = uneven(make()), torch.randn(2, 3, 4, 4)
    convert_ternary_(model)
    save_packed(model, tmp_path / "a")
    with torch.device("meta"):
        skeleton, other = make(), make()
        other.register_buffer("table", torch.zeros(3), persistent=False)
    back = load_packed(tmp_path / "a", skeleton)
    assert back is skeleton and torch.equal(back(x), model(x))
    with pytest.raises(PackedError, match="1 buffers .* in no file, the first 'table'"):
        load_packed(tmp_path / "a", other)
    assert all(t.is_meta for t in other.state_dict().values())
