#!/usr/bin/env python
"""Compute what the site's page of moving pictures shows, so that no reader needs a kernel.

    python docs/site/looks.py            # writes docs/site/looks.json: a minute on one core

A picture is an SVG with named parts, and a frame per position of its slider: what each part looks
like there. Without a script a reader sees the starting frame.
"""

import base64
import html
import io
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from effdl_nb.condensation.importance import Importance, importance
from effdl_nb.data import load, normalize
from effdl_nb.deepaa import load_policy
from effdl_nb.deepaa.policy import apply_draw
from effdl_nb.files import write_json
from effdl_nb.msunet.ternary import ALPHA_HALF, ternarize
from effdl_nb.networks import build
from effdl_nb.training import TrainConfig, train

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 300, 50, 40, 30
EPOCHS, CHANNELS, LAYER = 10, 32, 1  # of the network whose second convolution is looked at
BEYOND = 3.5  # standard deviations that the histogram shows


def part(kind: str, name: str = "", text: str = "", **attributes) -> str:
    "A part of an SVG; one with a name is what frames change."
    shown = attributes | ({"data-part": name} if name else {})
    told = " ".join(f'{key.replace("_", "-")}="{value}"' for key, value in shown.items())
    return f"<{kind} {told}>{html.escape(text)}</{kind}>"


def at_x(value: float, low: float, high: float) -> float:
    "Where a value stands on the horizontal axis."
    return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - 10), 1)


def at_y(share: float) -> float:
    "Where a share from 0 to 1 stands on the vertical axis."
    return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)


def axes(below: str, beside: str, ticks: dict[float, str]) -> list[str]:
    "Both axes with words; ticks at their places on the horizontal one."
    floor = at_y(0)
    line = {"stroke": "currentColor", "stroke_opacity": 0.6}
    middle = (LEFT + WIDTH - 10) / 2
    return [
        part("line", x1=LEFT, x2=WIDTH - 10, y1=floor, y2=floor, **line),
        part("line", x1=LEFT, x2=LEFT, y1=floor, y2=at_y(1), **line),
        part("text", text=below, x=middle, y=HEIGHT - 4, text_anchor="middle"),
        part(
            "text",
            text=beside,
            transform=f"translate(14 {at_y(0.5)}) rotate(-90)",
            text_anchor="middle",
        ),  # fmt: skip
        *(part("text", text=t, x=x, y=floor + 16, text_anchor="middle") for x, t in ticks.items()),
        *(
            part("text", text=f"{s:g}", x=LEFT - 6, y=at_y(s) + 4, text_anchor="end")
            for s in (0, 1)
        ),
    ]


def curve(points: list[tuple[float, float]], name: str = "", **attributes) -> str:
    "A line through points of the picture."
    text = " ".join(f"{x},{y}" for x, y in points)
    return part("polyline", name, points=text, fill="none", stroke_width=2, **attributes)


def picture(parts: list[str], frames: list[dict], start: int, height: int = HEIGHT) -> dict:
    "An SVG and its frames."
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" xmlns="http://www.w3.org/2000/svg">'
    return {"svg": head + "".join(parts) + "</svg>", "frames": frames, "start": start}


def trained(epochs: int = EPOCHS) -> tuple[list[dict], torch.nn.Module, torch.Tensor]:
    "The weights of a small network after every epoch, the network, and some normalised images."
    data = load("cifar10-sample")
    torch.manual_seed(0)
    model = build("convnet-3", 10, width=CHANNELS, norm="instance", image_size=32)
    states: list[dict] = []

    def note(model, epoch):
        states.append({key: value.clone() for key, value in model.state_dict().items()})

    config = TrainConfig(epochs=epochs, batch_size=128, lr=0.02, seed=0)
    split = data.train
    train(
        model, split.images, split.labels, config, mean=data.mean, std=data.std, on_epoch=note,
        progress=False,
    )  # fmt: skip
    return states, model, normalize(data.test.images[:128], data.mean, data.std)


def layer_of(model: torch.nn.Module) -> torch.nn.Conv2d:
    "The convolution that is looked at."
    return [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)][LAYER]


@torch.no_grad()
def inputs_of(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    "What reaches the convolution."
    caught = []
    hook = layer_of(model).register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    model.eval()(images)
    hook.remove()
    return caught[0]


@torch.no_grad()
def ternary_look(weight: torch.Tensor, inputs: torch.Tensor, alphas: int = 51) -> dict:
    "Weights, zeros and the error of a layer's output, by the threshold alpha."
    values = ((weight - weight.mean()) / weight.std()).flatten()
    heights = torch.histc(values, 56, -BEYOND, BEYOND)
    heights = (heights / heights.max()).tolist()
    step = (WIDTH - LEFT - 10) / len(heights)
    bars = [
        part("rect", x=round(LEFT + i * step, 1), width=round(step - 1, 1), y=at_y(h),
             height=round(at_y(0) - at_y(h), 1), fill="currentColor", fill_opacity=0.35)
        for i, h in enumerate(heights)
    ]  # fmt: skip
    output = F.conv2d(inputs, weight, padding=1)
    frames = []
    for alpha in torch.linspace(0, 2.5, alphas).tolist():
        signs, scale = ternarize(weight, alpha)
        replaced = F.conv2d(inputs, signs * scale, padding=1)
        error = float((replaced - output).norm() / output.norm())
        angle = F.cosine_similarity(replaced.flatten(), output.flatten(), dim=0)
        least = float((1 - angle.square()).clamp_min(0).sqrt())
        zeros = float((signs == 0).double().mean())
        ends = {side: at_x(side * alpha, -BEYOND, BEYOND) for side in (-1, 1)}
        note = (
            f"zeros {zeros:.0%}; error of the output {error:.0%}, with the best scale {least:.0%}"
        )
        frames.append({
            "label": f"alpha {alpha:.2f}",
            "parts": {
                "band": {"x": ends[-1], "width": round(ends[1] - ends[-1], 1)},
                "note": {"text": note},
            },
            "facts": {"alpha": alpha, "zeros": zeros, "error": error, "least": least},
        })  # fmt: skip
    start = min(range(alphas), key=lambda i: abs(frames[i]["facts"]["alpha"] - ALPHA_HALF))
    shown = frames[start]["parts"]
    ticks = {at_x(v, -BEYOND, BEYOND): f"{v:g}" for v in (-3, -2, -1, 0, 1, 2, 3)}
    band = part("rect", "band", y=at_y(1), height=at_y(0) - at_y(1), fill="#D55E00",
                fill_opacity=0.25, **shown["band"])  # fmt: skip
    note = part("text", "note", shown["note"]["text"], x=LEFT, y=16)
    words = axes("weight, in standard deviations", "share of the tallest bar", ticks)
    return picture([*bars, band, *words, note], frames, start)


def spectrum_look(spectra: list[Importance]) -> dict:
    "The energy of a layer's leading components, and k(t), over the epochs of an expert."
    last, r = len(spectra) - 1, len(spectra[0].sigma)
    frames = []
    for t, found in enumerate(spectra):
        share, k = t / last, found.rank_at(t / last)
        energy = [0.0, *found.energy.tolist()]
        points = " ".join(f"{at_x(i, 0, r)},{at_y(e)}" for i, e in enumerate(energy))
        note = f"{share:.0%} of the energy is in k = {k} of {r} components"
        frames.append({
            "label": f"t = {t} of {last}",
            "parts": {
                "energy": {"points": points},
                "share": {"y1": at_y(share), "y2": at_y(share)},
                "k": {"x1": at_x(k, 0, r), "x2": at_x(k, 0, r)},
                "note": {"text": note},
            },
            "facts": {"t": t, "k": k, "first": energy[1]},
        })  # fmt: skip
    start = last // 2
    shown = frames[start]["parts"]
    line = {"stroke": "#D55E00", "stroke_dasharray": "4 3"}
    ends = {"x1": LEFT, "x2": WIDTH - 10}
    parts = axes("leading components", "share of the energy", {at_x(r, 0, r) - 8: str(r)})
    parts += [
        part("polyline", "energy", fill="none", stroke="#0072B2", stroke_width=2,
             **shown["energy"]),
        part("line", "share", **ends, **shown["share"], **line),
        part("line", "k", y1=at_y(0), y2=at_y(1), **shown["k"], **line),
        part("text", "note", shown["note"]["text"], x=LEFT, y=16),
    ]  # fmt: skip
    return picture(parts, frames, start)


def _data_uri(image: torch.Tensor) -> str:
    "A uint8 image as PNG in a URI."
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def policy_look(path: Path, count: int = 8) -> dict:
    "Images after none, one, two, ... layers of a searched policy, with what was drawn."
    policy, images = load_policy(path), load("cifar10-sample").train.images[:count]
    layers = len(policy.probabilities)
    draw = policy.sample(count, torch.Generator().manual_seed(0))
    drawn = policy.transforms(draw)
    size = (WIDTH - 8 * (count - 1)) / count
    frames = []
    for layer in range(layers + 1):
        first = type(draw)(draw.indices[:, :layer], draw.noise[:, :layer])
        shown = apply_draw(images, first, policy.space) if layer else images
        parts = {f"image{i}": {"href": _data_uri(image)} for i, image in enumerate(shown)}
        for i, chain in enumerate(drawn):
            name = chain[layer - 1].name if layer else "as it is"
            parts[f"name{i}"] = {"text": name}
        label = f"after layer {layer} of {layers}" if layer else "before the policy"
        frames.append({"label": label, "parts": parts, "facts": {"layer": layer}})
    places = [round(i * (size + 8), 1) for i in range(count)]
    still = frames[-1]["parts"]
    parts = [
        part("image", f"image{i}", x=x, y=0, width=size, height=size,
             style="image-rendering: pixelated", **still[f"image{i}"])
        for i, x in enumerate(places)
    ]  # fmt: skip
    parts += [
        part("text", f"name{i}", still[f"name{i}"]["text"], x=x + size / 2, y=round(size + 15),
             text_anchor="middle", font_size=11)
        for i, x in enumerate(places)
    ]  # fmt: skip
    return picture(parts, frames, layers, height=round(size + 22))


def main():
    "Train, compute and write."
    states, model, images = trained()
    spectra = []
    for state in states:
        model.load_state_dict(state)
        layer = layer_of(model)
        spectra.append(
            importance(layer.weight, inputs_of(model, images), bias=layer.bias, padding=1)
        )
    looks = {
        "ternary": ternary_look(layer_of(model).weight, inputs_of(model, images)),
        "policy": policy_look(HERE.parent / "overview" / "policy.json"),
        "spectrum": spectrum_look(spectra),
    }
    write_json(HERE / "looks.json", looks)


if __name__ == "__main__":
    main()
