"Figures: readable, with their numbers, and honest where nothing was measured."

import itertools

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from effdl_nb.deepaa import figures
from effdl_nb.deepaa.policy import Policy
from effdl_nb.deepaa.rivals import rival
from effdl_nb.deepaa.space import (
    SearchSpace,
    cifar_space,
    imagenet_space,
)

CIFAR, IMAGENET = cifar_space(), imagenet_space()


def random_policy(
    layers: int, seed: int = 0, space: SearchSpace = CIFAR, sharp: float = 3.0
) -> Policy:
    logits = torch.randn(
        layers, len(space), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return Policy((sharp * logits).softmax(1), space)


def readable(figure: Figure) -> None:
    "Draw it: words of at least 8 points, 7 inches wide, no tick labels of an axis that overlap."
    figure.canvas.draw()
    assert figure.get_size_inches()[0] == 7.0
    words = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    assert words and min(t.get_fontsize() for t in words) >= 8
    for axis in figure.axes:
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            boxes = [t.get_window_extent() for t in labels if t.get_text() and t.get_visible()]
            assert not any(
                a.shrunk(0.98, 0.75).overlaps(b.shrunk(0.98, 0.75))
                for a, b in itertools.combinations(boxes, 2)
            ), axis.get_title()


def table_cells(**rows) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "row": row,
                "ours": ours,
                "spread": None,
                "n": 1,
                "thesis": thesis,
                "thesis_spread": None,
                "corrected": None,
            }
            for row, (ours, thesis) in rows.items()
        ]
    )


RECORDS = [
    {"depth": k, "improvement": 0.1 * k, "improvement_deviation": 0.05 * k} for k in range(7)
]


@pytest.mark.parametrize(
    "draw",
    [
        figures.draw_pipelines,
        lambda: figures.draw_accuracies(
            table_cells(deepaa=(50.1, 78.3), aa=(None, 77.6), ra=(47.0, None)),
            {"ra": "RandAugment"},
            "network small",
        ),
        lambda: figures.draw_operations(
            {"CIFAR-10": random_policy(6), "ImageNet space": random_policy(5, 1, IMAGENET)}
        ),
        lambda: figures.draw_operations({"CIFAR-10": random_policy(1), "ImageNet space": None}),
        lambda: figures.draw_depths(
            {"DeepAA": RECORDS, "DeepTA": RECORDS},
            {"DeepAA": {1: (96.0, 0.2)}, "DeepTA": {1: (95.0, None)}},
            256,
        ),
        lambda: figures.draw_magnitudes(random_policy(1), "one layer"),
        lambda: figures.draw_magnitudes(random_policy(5, space=IMAGENET), "five layers"),
        lambda: figures.draw_cumulated(
            {
                "DeepAA": random_policy(5),
                "AutoAugment": rival("aa", CIFAR),
                "a": random_policy(2),
                "b": random_policy(3),
            }
        ),
    ],
)
def test_figures_are_readable_and_come_with_their_numbers(draw):
    figure, frame = draw()
    readable(figure)
    assert isinstance(frame, pd.DataFrame) and len(frame)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.draw_operations({"CIFAR-10": None}),
        lambda: figures.draw_magnitudes(None, "ImageNet"),
        lambda: figures.draw_depths({"DeepAA": None}, {}),
    ],
)
def test_nothing_measured_is_said(draw):
    figure, frame = draw()
    assert (
        frame.empty
        and len(frame.columns)
        and any("not measured" in t.get_text() for t in figure.findobj(Text))
    )


def test_an_empty_place_in_the_grid_of_layers_stays_empty():
    figure, _ = figures.draw_magnitudes(random_policy(3))
    assert [axis.axison for axis in figure.axes[:4]] == [True] * 3 + [False]
