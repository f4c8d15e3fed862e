"The work of a measurement, counted by hand for one row of each chapter, and what is shared."

from dataclasses import replace

import pytest

from effdl_nb.budget.estimates import distinct_works, part_of
from effdl_nb.budget.passes import ADJOINT, UNROLLED, NetworkShape, Work, memory_of, products_of
from effdl_nb.budget.scheduling import planned_works
from effdl_nb.budget.units import image_count, works_of
from effdl_nb.rows import units_of
from effdl_nb.spec import load_profile, load_tables

PAPER, TABLES = load_profile("paper"), load_tables()


def works(table: str, row: str, column: str) -> list[Work]:
    units = units_of(TABLES[table], PAPER.tables[table], row)
    return works_of(next(unit for unit in units if column in unit.columns))


def test_chapter_2_by_hand():
    # V2: the regularizer is on, two views on average; 1,050 and 260 epochs of 50,000 images, a test
    # of 10,000 after each stage
    one, two = works("table_2_2", "v2", "accuracy")
    assert one.passes == 3 * 2 * 1050 * 50_000 + 10_000
    assert two.passes == 3 * 2 * 260 * 50_000 + 10_000
    assert (one.stage, two.stage, bool(one.name), bool(two.name)) == (0, 1, True, False)
    binary = works("table_2_a", "binary_off_dense", "accuracy")
    assert binary[0].passes == 3 * 1050 * 50_000 + 10_000


def test_chapter_3_by_hand():
    # Shake-Shake: 1,800 epochs of 390 whole batches of 128
    (training,) = works("table_3_2", "baseline", "cifar10_shake_shake")
    assert training.passes == 3 * 1800 * 390 * 128 + 10_000
    # ImageNet: 1,281,167 images in batches of 2,048, the last one included
    (training,) = works("table_3_3", "baseline", "imagenet_resnet_50")
    config = units_of(TABLES["table_3_3"], PAPER.tables["table_3_3"], "baseline")[0].settings.train
    images = 625 * 2048 if config.drop_last else 1_281_167
    assert training.passes == 3 * 270 * images + 50_000


def test_chapter_4_by_hand():
    # IPC 50 of CIFAR-100: 80 steps on 1,000 images each, the steps computed again; 100 experts of
    # 72 epochs; 4 networks of 1,000 passes over 5,000 images, 256 at a time
    *experts, made, judged = works("table_4_1", "mtt", "cifar100_ipc50")
    assert made.passes == 10_000 * ADJOINT * 80 * 1000
    assert len(experts) == 100 and {e.passes for e in experts} == {3 * 72 * 50_000}
    assert judged.passes == 4 * (3 * 1000 * 5000 + 10_000)
    *_, made, _ = works("table_4_1", "mtt", "cifar10_ipc1")
    assert made.passes == 10_000 * UNROLLED * 80 * 10
    assert [w.what for w in works("table_4_1", "random", "cifar10_ipc1")] == ["4 of convnet-3"]


def test_work_is_linear_in_seeds_where_nothing_is_shared():
    whole = part_of(PAPER, "table_3_4", "ta_wide")
    (plan,) = whole.tables.values()
    flops = [
        sum(w.flops for w in distinct_works(replace(whole, tables={"table_3_4": p})))
        for p in (plan, replace(plan, seeds=plan.seeds[:1]))
    ]
    assert flops[0] == pytest.approx(len(plan.seeds) * flops[1], rel=1e-12) and flops[1] > 0


def test_what_is_shared_counts_once():
    both = part_of(PAPER, "table_4_b", None)
    planned = planned_works(both)
    every = [w for _, own in planned for w in own if w.kind == "experts"]
    once = [w for w in distinct_works(both) if w.kind == "experts"]
    # two columns of experts of 6 and 22 epochs: the longer ones begin with the shorter
    assert len(once) == 100 and len(every) > 1000
    assert {w.passes for w in once} == {3 * 22 * 50_000}


def test_rows_of_iatm_and_mtt_share_experts_and_their_seeds_do_not_ask_for_more():
    names = [
        {w.name for w in works("table_4_1", row, "cifar10_ipc10") if w.kind == "experts"}
        for row in ("mtt", "iatm")
    ]
    assert names[0] == names[1] and len(names[0]) == 100


def test_a_data_set_of_unknown_size_is_named():
    settings = units_of(TABLES["table_4_1"], PAPER.tables["table_4_1"], "dm")[0].settings
    assert image_count(settings)[:3] == (50_000, 10_000, 10)
    object.__setattr__(settings, "dataset", "cifar11")
    with pytest.raises(ValueError, match="'cifar11' is unknown"):
        image_count(settings)


def test_products_and_memory_grow_as_they_must():
    small, large = (NetworkShape("convnet-3", 10, 32, width, "instance") for width in (64, 128))
    assert 2 * products_of(small) < products_of(large) < 4 * products_of(small)
    held = [memory_of(Work("judging", "", large, 1, batch)) for batch in (1, 2, 3)]
    assert held[2] - held[1] == held[1] - held[0] > 0
    with pytest.raises(ValueError, match="unknown"):
        products_of(NetworkShape("no-such-net", 10, 32))
