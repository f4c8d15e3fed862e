#!/usr/bin/env python
"""Draw README's picture: condensed images, a searched policy, ours against the dissertation.

    python workflow/picture.py           # nbs/images/overview.png from what is committed
    python workflow/picture.py --keep    # first takes images and policy anew from reports/quick

Committed are docs/overview/images.png (real images, and what MTT and IATM made of them),
docs/overview/policy.json and the rows of Table 4.1 at profile laptop.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image

from effdl_nb import report, rows, spec
from effdl_nb.deepaa import load_policy, save_policy
from effdl_nb.deepaa.policy import operation_probabilities
from effdl_nb.files import atomic_write

ROOT = Path(__file__).parent.parent
KEPT, PICTURE = ROOT / "docs" / "overview", ROOT / "nbs" / "images" / "overview.png"
STRIPS = {"real": "real, the start", "mtt": "condensed, MTT", "iatm": "condensed, IATM"}
TABLE, COLUMN = "table_4_1", "cifar10_ipc1"
NAMES = {"random": "Random", "dc": "DC", "mtt": "MTT", "iatm": "IATM"}  # row -> its name
FONT = 8.5
LEAST = 0.03  # operations with less in every layer are drawn as one, "others"


def keep_images_and_policy():
    "Take the images of Table 4.1 and the policy of Table 3.2 from reports/quick."
    from effdl_nb.condensation.experiments import images_of
    from effdl_nb.deepaa.row_frames import searched_policy

    table, at = spec.load_tables()["table_4_1"], rows.place(spec.load_profile("quick"))
    strips = []
    for measured in report.measurements("table_4_1", "quick"):
        if measured["row"] in STRIPS:
            before, after, _ = images_of(measured, rows.work_folder(table, at))
            strips += [after] if strips else [before, after]
    bands = [torch.cat(list(images), dim=2).clamp(0, 1) for images in strips]
    pixels = (torch.cat(bands, dim=1).permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(KEPT / "images.png")
    save_policy(searched_policy(report.measurements("table_3_2", "quick")), KEPT / "policy.json")


def compared() -> pd.DataFrame:
    "Accuracy on CIFAR-10 at one image per class: ours at profile laptop, and the dissertation's."
    lines, at = [], rows.place(spec.load_profile("laptop"), ROOT / "reports")
    for row, name in NAMES.items():
        for cell in rows.read_row(at.row(TABLE, row))["cells"]:  # none while seeds are missing
            if cell["column"] == COLUMN:
                lines.append((name, cell["mean"], cell["spread"], printed(row)))
    return pd.DataFrame(lines, columns=["method", "ours", "spread", "dissertation"])


def printed(row: str) -> float:
    "The dissertation's accuracy of a row of Table 4.1, the corrected one where it is misprinted."
    value = spec.load_thesis()[TABLE][row][COLUMN]
    return (value["corrected"] if isinstance(value, dict) else value)[0]


def draw_images(axis):
    "The three strips, a class per column."
    axis.imshow(np.asarray(Image.open(KEPT / "images.png")), interpolation="nearest")
    axis.set_yticks([16, 48, 80], STRIPS.values(), fontsize=FONT)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    title = "A CIFAR-10 of ten images: what trajectory matching makes of ten real ones"
    axis.set_title(title, fontsize=FONT + 1, loc="left", color=report.INK)


def draw_policy(axis):
    "A bar per searched layer, divided by operations."
    shares = pd.DataFrame(operation_probabilities(load_policy(KEPT / "policy.json")))
    large = shares.loc[:, shares.max() >= LEAST].assign(
        others=shares.loc[:, shares.max() < LEAST].sum(axis=1)
    )
    colours = matplotlib.colormaps["tab20"](np.linspace(0, 1, 20))
    left = np.zeros(len(large))
    for number, (name, part) in enumerate(large.items()):
        colour = "#DDDDDD" if name == "others" else colours[number % 20]
        axis.barh(range(len(large)), part, left=left, color=colour, height=0.72)
        for layer, (start, width) in enumerate(zip(left, part, strict=True)):
            if width > 0.021 * len(name):  # the word fits
                axis.text(
                    start + width / 2, layer, name, ha="center", va="center", fontsize=FONT - 2.5
                )
        left += part.to_numpy()
    axis.set_yticks(range(len(large)), [f"layer {n + 1}" for n in range(len(large))], fontsize=FONT)
    axis.set_ylim(len(large) - 0.4, -0.6)
    axis.set_xlim(0, 1)
    axis.tick_params(axis="x", labelsize=FONT - 1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(
        "A policy that the search found", fontsize=FONT + 1, loc="left", color=report.INK
    )
    axis.set_xlabel("probability of an operation", fontsize=FONT)


def draw_compared(axis, lines: pd.DataFrame):
    "Ours with its deviation, and the dissertation's value."
    places = range(len(lines))
    axis.errorbar(lines.ours, places, xerr=lines.spread, fmt="o", color=report.OURS, capsize=2.5)
    axis.scatter(lines.dissertation, places, s=32, facecolors="none", edgecolors=report.THESIS)
    axis.set_yticks(places, lines.method, fontsize=FONT)
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.set_xlim(0, 52)
    axis.grid(axis="x", alpha=0.25, linewidth=0.6)
    axis.tick_params(axis="x", labelsize=FONT - 1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(
        "Ours (●), the dissertation (○)", fontsize=FONT + 1, loc="left", color=report.INK
    )
    axis.set_xlabel("test accuracy, %, at one image per class", fontsize=FONT)


def draw() -> Figure:
    "The whole picture."
    figure = Figure(figsize=(7.6, 4.3), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.05, 1])
    draw_images(top.subplots())
    left, right = bottom.subplots(1, 2, width_ratios=[1.25, 1])
    draw_policy(left)
    draw_compared(right, compared())
    return figure


if __name__ == "__main__":
    if "--keep" in sys.argv[1:]:
        keep_images_and_policy()
    PICTURE.parent.mkdir(exist_ok=True)
    with atomic_write(PICTURE) as part:
        draw().savefig(part, format="png", dpi=130, metadata={"Software": None})
    print(f"{PICTURE.relative_to(ROOT)}, {PICTURE.stat().st_size // 1000} kB")
