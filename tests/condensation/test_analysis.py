"""What is read from measured rows: on rows that a tiny study really made."""

from pathlib import Path

import pytest
import torch

from effdl_nb import report, study
from effdl_nb.condensation import analysis, figures

TINY = str(Path(__file__).parents[1] / "profiles" / "tiny.yaml")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    "A folder in which Table 4.1 was measured for three rows."
    folder = tmp_path_factory.mktemp("reports")
    study.run("table_4_1", TINY, "random,mtt,iatm", folder, say=lambda line: None)
    return folder


@pytest.fixture(scope="module")
def measurements(reports):
    return report.measurements("table_4_1", TINY, reports)


def test_the_images_behind_a_row_are_those_of_its_set(reports):
    chosen = analysis.set_images("table_4_1", TINY, reports)
    before, after, labels = chosen.images
    assert (chosen.dataset, chosen.ipc, chosen.seed) == ("cifar10-sample", 1, 0)
    assert before.shape == after.shape == (10, 3, 32, 32) and labels.tolist() == list(range(10))
    assert not torch.equal(before, after) and (after - before).abs().mean() < 0.2
    _, changes = figures.figure_half(chosen.images, chosen.classes, 2)
    assert changes["class"].tolist() == list(chosen.classes[5:])
    assert f"{changes.change.mean():.3f}" in chosen.caption(changes)


@pytest.mark.parametrize("options", [{"column": "cifar10_ipc50"}, {"row": "dm"}])
def test_what_was_not_measured_has_no_images(reports, options):
    assert analysis.set_images("table_4_1", TINY, reports, **options) is None


def test_a_set_made_elsewhere_has_no_images(reports, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "work_folder", lambda table, at: tmp_path)
    assert analysis.set_images("table_4_1", TINY, reports) is None


def test_a_row_of_an_older_form_has_no_images(measurements, monkeypatch):
    old = [m | {"settings": {"options": {}, "dataset": "cifar10"}} for m in measurements]
    monkeypatch.setattr(report, "measurements", lambda *_: old)
    assert analysis.set_images("table_4_1", TINY) is None


def test_progress_ends_with_the_rows_accuracy(measurements):
    curves, accuracies = analysis.progress(measurements)
    assert set(curves) == set(accuracies) == {"mtt", "iatm"}
    for m in measurements:
        if m["row"] in accuracies:
            values = torch.tensor(m["metrics"]["accuracy"])
            last = torch.tensor(accuracies[m["row"]][-1])
            torch.testing.assert_close(last, torch.stack([torch.tensor(6.0), *moments(values)]))
            assert [i for i, _, _ in accuracies[m["row"]]] == [2, 6]
            assert [i for i, _ in curves[m["row"]]] == list(range(6))


def moments(values):
    return values.mean(), values.std()


def test_frames_have_a_line_per_run(measurements):
    frame = analysis.matching_frame(measurements)
    assert frame.row.tolist() == ["random", "mtt", "iatm"]
    assert frame["learned lr"].notna().tolist() == [False, True, True]
    assert frame["loss 5/5"].notna().tolist() == [False, True, True]
    assert set(analysis.ranks_frame(measurements).row) == {"iatm"}
    assert analysis.ranking_frame(measurements).empty  # all images were not measured
    spectra = analysis.spectra_of(measurements)
    assert {"epoch", "weight", "r", "first", "rank_50"} <= spectra[0].keys()


def test_differences_are_those_of_the_means(measurements):
    frame = analysis.differences_frame(measurements, [("iatm", "random"), ("dm", "random")])
    means = analysis.mean_accuracies(measurements)["cifar10_ipc1"]
    assert frame["mean"].tolist() == [pytest.approx(means["iatm"] - means["random"])]


def test_older_rows_name_the_learning_rate_rate():
    m = {"row": "mtt", "seed": 0, "columns": ["a"], "metrics": {"accuracy": [50.0]}}
    frame = analysis.matching_frame([m | {"details": {"rate": 0.03}}])
    assert frame["learned lr"].tolist() == [0.03]
