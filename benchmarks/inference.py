"""Latency and bytes of MSUNet-V3's forms, in one process, taking turns; and ternary 1x1 products.

    python benchmarks/inference.py                  # the network at full width, batches of 1 and 64
    python benchmarks/inference.py --part layers    # is any packed form faster than conv2d?

The bytes are those on disk and those of parameters and buffers; a layer is one ternary 1x1 layer at
MSUNet's shapes.

All forms have the same weights except `dense`, the same network with ordinary pointwise weights.
`frozen` multiplies signs by the scale at each call; `packed` is what `load_packed` makes of a
16-bit file (batch norms folded); `unpacked` has made the products once; the rest are forms of
`unpacked`. The first turn of each is a warm-up and is not counted. Ratios are taken within a turn,
so that a noisy machine disturbs all alike; they are printed with their quartiles, and one whose
quartiles lie on both sides of 1 decides nothing. Memory of activations, of the ONNX Runtime and of
compiled code is not measured: `weights KB` is the bytes of parameters and buffers.
"""

import argparse
import copy
import math
import platform
import statistics
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from effdl_nb.msunet.codes import pack_trits, unpack_trits
from effdl_nb.msunet.conversion import freeze_ternary_
from effdl_nb.msunet.deployment import deploy, unpack_
from effdl_nb.msunet.network import msunet
from effdl_nb.msunet.packing import load_packed, save_packed
from effdl_nb.msunet.pruning import MagnitudePruner, targets_by_role

# C_in, C_out, side
SHAPES = [
    (64, 384, 32),
    (64, 320, 32),
    (320, 128, 16),
    (128, 768, 16),
    (640, 256, 8),
    (256, 1024, 8),
]


def turns(ways, repeats):
    "Measure the seconds of each way in each counted turn."
    seconds = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def quartiles(reference, seconds):
    "Return quartiles of how many times faster than the reference, turn by turn."
    return statistics.quantiles([r / s for r, s in zip(reference, seconds, strict=True)], n=4)


def weight_bytes(model):
    "Count the bytes of parameters and buffers."
    return sum(t.nbytes for t in [*model.parameters(), *model.buffers()])


def stored(model, path):
    "Count the bytes of a plain safetensors file of the model."
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path.stat().st_size


def networks(args, folder):
    "Make the forms: name -> (callable, bytes on disk, bytes of parameters and buffers)."
    torch.manual_seed(0)
    dense = msunet("v3", args.width, quantization=None).eval()
    frozen = msunet("v3", args.width).eval()
    targets = targets_by_role(frozen, {"se": 0.9, "depthwise": 0.5})
    pruner = MagnitudePruner(frozen, targets, 0.0, 0.0)
    pruner.update(0.0)
    pruner.finalize()
    save_packed(frozen, folder / "packed", precision=16)
    freeze_ternary_(frozen)
    packed = load_packed(folder / "packed")
    plain = copy.deepcopy(packed)
    unpack_(plain)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    half = copy.deepcopy(last).bfloat16()
    models = {
        "dense": dense,
        "dense, folded": deploy(dense, 32),
        "frozen": frozen,
        "packed": packed,
        "unpacked": plain,
        "channels_last": last,
    }
    forms = {
        name: (model, stored(model, folder / "a"), weight_bytes(model))
        for name, model in models.items()
    }
    forms["packed"] = (packed, (folder / "packed").stat().st_size, weight_bytes(packed))
    forms["bf16, channels_last"] = (
        lambda x: half(x.bfloat16()).float(),
        stored(half, folder / "a"),
        weight_bytes(half),
    )
    if not args.no_compile:
        forms["torch.compile"] = (torch.compile(plain), forms["unpacked"][1], weight_bytes(plain))
    return forms, plain


class Runtime:
    "ONNX Runtime with as many threads as PyTorch."

    def __init__(self, model, path):
        import onnxruntime

        batch = {0: torch.export.Dim("batch", min=1, max=4096)}
        torch.onnx.export(
            model, (torch.zeros(2, 3, 32, 32),), dynamo=True, verbose=False, dynamic_shapes=(batch,)
        ).save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, x):
        return torch.from_numpy(
            self.session.run(None, {self.session.get_inputs()[0].name: x.numpy()})[0]
        )


def whole(args):
    "The network's table."
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        forms, plain = networks(args, folder)
        if not args.no_onnx:
            forms["ONNX Runtime"] = (
                Runtime(plain, folder / "m.onnx"),
                (folder / "m.onnx").stat().st_size,
                math.nan,
            )
    reference = forms["packed"][0]
    columns = "".join(
        f"{f'batch {b}: ms':>15}{'min':>9}{'x dense':>9}{'quartiles':>12}" for b in args.batches
    )
    print(f"{'form':22}{'disk KB':>9}{'weights KB':>13}{columns}{'logit diff.':>13}")
    inputs = {b: torch.randn(b, 3, 32, 32) for b in args.batches}
    seconds = {
        b: turns(
            {name: partial(form[0], x) for name, form in forms.items()},
            args.repeats if b < 16 else args.repeats // 4 + 2,
        )
        for b, x in inputs.items()
    }
    x = next(iter(inputs.values()))
    deviation = reference(x).std()
    for name, (run, disk, memory) in forms.items():
        cells = ""
        for b in args.batches:
            low, ratio, high = quartiles(seconds[b]["dense"], seconds[b][name])
            median, least = statistics.median(seconds[b][name]), min(seconds[b][name])
            cells += f"{1e3 * median:15.1f}{1e3 * least:9.1f}{ratio:9.2f}"
            cells += f"{f'{low:.2f}-{high:.2f}':>12}"
        other = (
            ""
            if name.startswith("dense")
            else f"{float((run(x) - reference(x)).abs().max() / deviation):13.1e}"
        )
        print(f"{name:22}{disk / 1e3:9.0f}{memory / 1e3:13.0f}{cells}{other}")
    print(
        "largest difference of a logit to `packed`, in deviations of the logits, for batch "
        f"{args.batches[0]}; disk of torch.compile: its weights"
    )


def table_of_trits(scale):
    "The five weights of each of the 256 bytes."
    return (
        torch.stack(
            [
                unpack_trits(torch.tensor([min(byte, 242)], dtype=torch.uint8), 5)
                for byte in range(256)
            ]
        ).float()
        * scale
    )


def products(c_in, c_out, side, batch):
    "Return ways to make one 1x1 product by name, each in its memory order, and the reference."
    scale = 0.1
    signs = (
        (torch.randint(0, 2, (c_out, c_in)) * 2 - 1)
        .mul(torch.rand(c_out, c_in) < 0.5)
        .to(torch.int8)
    )
    x = torch.randn(batch, c_in, side, side)
    weight = signs.float().mul(scale).view(c_out, c_in, 1, 1)
    last, half = x.to(memory_format=torch.channels_last), weight.bfloat16()
    rows = last.permute(0, 2, 3, 1).reshape(-1, c_in)
    trits, lookup, n = pack_trits(signs.flatten()), table_of_trits(scale), signs.numel()
    columns = x.transpose(0, 1).reshape(c_in, -1)
    sparse, plus, minus = (m.float().to_sparse_csr() for m in (signs, signs > 0, signs < 0))
    turned, scales = signs.t().contiguous(), torch.full((c_out,), scale)

    def image(y):
        return y.view(batch, side, side, c_out).permute(0, 3, 1, 2)

    def from_columns(y):
        return y.view(c_out, batch, side, side).transpose(0, 1)

    def integers():
        low, high = torch.aminmax(rows)
        step = torch.maximum(-low, high) / 127
        return image(torch._int_mm((rows / step).round_().to(torch.int8), turned) * (step * scale))

    return {
        "conv2d": lambda: F.conv2d(x, weight),
        "conv2d, channels_last": lambda: F.conv2d(last, weight),
        "frozen: int8 to fp32, conv2d": lambda: F.conv2d(
            x, signs.float().mul(scale).view_as(weight)
        ),
        "trits by table, conv2d": lambda: F.conv2d(
            x, lookup[trits.int()].view(-1)[:n].view_as(weight)
        ),
        "sparse signs (CSR)": lambda: from_columns(torch.sparse.mm(sparse, columns) * scale),
        "plus - minus (CSR), no product": lambda: from_columns(
            (torch.sparse.mm(plus, columns) - torch.sparse.mm(minus, columns)) * scale
        ),
        "int8 weight, bf16 input": lambda: image(
            torch._weight_int8pack_mm(rows.bfloat16(), signs, scales.bfloat16()).float()
        ),
        "int8 weight, input to int8": integers,
        "bf16 conv2d, channels_last": lambda: F.conv2d(last.bfloat16(), half).float(),
    }


def layers(args):
    "The layers' table."
    for batch in args.batches:
        print(
            f"\nbatch {batch}: how many times faster than conv2d (?: quartiles on both sides of "
            "1); last column: largest relative error"
        )
        print(
            f"{'':34}" + "".join(f"{f'{a}>{b}@{s}':>13}" for a, b, s in SHAPES) + f"{'error':>11}"
        )
        lines, errors = {}, {}
        for shape in SHAPES:
            ways = products(*shape, batch)
            reference = ways["conv2d"]()
            seconds = turns(ways, args.repeats if batch < 16 else args.repeats // 4 + 2)
            for name, run in ways.items():
                low, ratio, high = quartiles(seconds["conv2d"], seconds[name])
                lines.setdefault(name, []).append(
                    f"{ratio:12.2f}" + ("?" if low < 1 < high else " ")
                )
                errors[name] = max(
                    errors.get(name, 0), float((run() - reference).norm() / reference.norm())
                )
            lines.setdefault("conv2d, ms", []).append(
                f"{1e3 * statistics.median(seconds['conv2d']):13.2f}"
            )
        for name, cells in lines.items():
            print(
                f"{name:34}" + "".join(cells) + (f"{errors[name]:11.1e}" if name in errors else "")
            )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--part", choices=["network", "layers"], default="network")
    parser.add_argument("--width", type=float, default=1.0, help="of the network")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument(
        "--repeats",
        type=int,
        default=20,
        help="counted turns at small batches, a quarter of them at large",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--no-onnx", action="store_true", help="leave ONNX Runtime out (needs the extra `onnx`)"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="Sparse CSR")
    print(
        f"{platform.machine()}, PyTorch {torch.__version__}, {args.threads} thread(s), "
        f"{args.repeats} turns"
    )
    with torch.no_grad():
        whole(args) if args.part == "network" else layers(args)


if __name__ == "__main__":
    main()
