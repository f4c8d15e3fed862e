"A file for another engine answers as the network, or there is no file."

import pytest
import torch

from effdl_nb.msunet import exporting
from effdl_nb.msunet.exporting import ENGINES, ExportedDiffers, export
from effdl_nb.msunet.network import msunet


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return msunet("v3", width=0.25).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix, needs", [(".onnx", "onnxruntime"), (".pte", "executorch")])
def test_the_engine_answers_as_the_network(network, tmp_path, suffix, needs):
    pytest.importorskip(needs)
    path = tmp_path / f"net{suffix}"
    assert export(network, path) < 1e-4
    images = torch.randn(2, 3, 32, 32)
    answer = ENGINES[suffix][1](path)(images)
    torch.testing.assert_close(answer, network(images).detach(), rtol=1e-4, atol=1e-4)


def test_the_network_is_left_as_it_was(network, tmp_path):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export(network, tmp_path / "net.pt2")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_engine_that_answers_wrongly_leaves_no_file(network, tmp_path, monkeypatch):
    write, _ = ENGINES[".pt2"]
    wrong = (write, lambda path: lambda images: torch.zeros(len(images), 100) + 7)
    monkeypatch.setitem(exporting.ENGINES, ".pt2", wrong)
    with pytest.raises(ExportedDiffers, match="answers differ by"):
        export(network, tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "suffix, module, extra", [(".onnx", "onnxscript", "onnx"), (".pte", "executorch.exir", "edge")]
)
def test_an_engine_that_is_not_installed_names_its_extra(
    network, tmp_path, monkeypatch, suffix, module, extra
):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'effdl_nb\[{extra}\]'"):
        export(network, tmp_path / f"net{suffix}")
