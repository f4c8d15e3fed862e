"A row's hash covers the code of its own method: an edit of another method leaves it fresh."

import shutil
from pathlib import Path

import pytest

import effdl_nb
from effdl_nb import provenance
from effdl_nb.deepaa.searches import PROXY_ROOTS
from effdl_nb.spec import code_roots, load_profile, load_tables, settings_of

PACKAGE = Path(effdl_nb.__file__).parent
SEARCHED = {"3_2 deepaa", "3_3 deepaa", "3_3 deepaa_simple", "3_5 deepaa", "3_6 layers_3"}
CHOICES = {"3_a default", "3_a mixed_class"}
CHANCE = {"3_a random_search"}
UNSEARCHED = {"3_a deep_ta"}
DADA = {"3_2 dada", "3_5 dada", "3_b dada"}
FOUND = SEARCHED | CHOICES | CHANCE | UNSEARCHED | DADA
TRIVIAL = {"3_2 ta_ra", "3_2 ta_wide", "3_3 ta_wide"}
TABLED = {"3_2 aa", "3_2 ra", "3_2 ta_ra", "3_2 ta_wide", "3_3 ta_wide"}
RIVALS = TABLED | {"3_2 ua", "3_3 baseline"}
PLAIN = {"3_2 none", "3_2 baseline", "3_6 deep_ta_3"}
TRAINED = RIVALS | PLAIN | SEARCHED - {"3_5 deepaa"} | {"3_2 dada"}
UNTOUCHED = {"3_2 none", "3_2 baseline", "3_8 cifar10_deepaa"}  # by the space
OTHERS = {"3_1 rotate", "3_8 cifar10_deepaa"}


@pytest.fixture(scope="module")
def roots() -> dict[str, tuple[str, ...]]:
    "Of each row: what its hash covers."
    profile, tables, found = load_profile("quick"), load_tables(), {}
    for key in FOUND | TRAINED | OTHERS:
        number, row = key.split()
        table = tables[f"table_{number}"]
        plan = profile.tables[table.key]
        found[key] = code_roots(table, row, settings_of(table, plan, row, plan.columns[0]))
    return found


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Path:
    "A copy of the package, of which hashes are taken."
    skip = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "effdl_nb", ignore=skip)

    def origin(module: str) -> str | None:
        path = tmp_path.joinpath(*module.split("."))
        candidates = (path / "__init__.py", path.with_suffix(".py"))
        return next((str(c) for c in candidates if c.exists()), None)

    monkeypatch.setattr(provenance, "_origin", origin)
    for name in ("_WALKS", "_FIRST"):
        monkeypatch.setattr(provenance, name, {})
    return tmp_path / "effdl_nb"


def changed(roots, folder: Path, module: str, old: str, new: str) -> set[str]:
    "The rows whose hash an edit changes."
    before = {row: provenance.code_hash(*each) for row, each in roots.items()}
    path = folder / f"{module}.py"
    text = path.read_text()
    assert text.count(old) == 1, (module, old, text.count(old))
    path.write_text(text.replace(old, new))
    return {row for row, each in roots.items() if provenance.code_hash(*each) != before[row]}


@pytest.mark.parametrize(
    "module, old, new, rows",
    [
        ("deepaa/search", "self.rows.append(row)", "self.rows += [row]", SEARCHED | CHOICES),
        ("deepaa/random_search", "mean.argmax()", "mean.argmin()", CHANCE),
        ("deepaa/similarity", "gain.std()", "gain.var()", FOUND),
        (
            "deepaa/reward",
            "(norm_v * norm_g)\n\n\ndef direction",
            "(norm_g * norm_v)\n\n\ndef direction",
            FOUND,
        ),
        ("deepaa/published", "magnitude: int = 9", "magnitude: int = 10", {"3_2 ra"}),
        (
            "deepaa/published",
            "return 1 / 62 if",
            "return 1 / 61 if",
            TRIVIAL,
        ),
        ("deepaa/mixtures", "rest > 1e-12", "rest > 1e-13", {"3_2 aa"} | DADA),
        ("deepaa/dada", "descending=True, stable=True", "descending=False, stable=True", DADA),
        ("deepaa/adv_aa", "ADVERSARY_MAGNITUDES = 10", "ADVERSARY_MAGNITUDES = 9", set()),
        ("deepaa/continuous", "4 * self.layers", "5 * self.layers", {"3_2 ua"}),
        ("deepaa/defaults", '"variant": "DeepAA-simple"', '"variant": ""', {"3_3 deepaa_simple"}),
        (
            "deepaa/search_methods",
            'self.fingerprint["layers"])',
            'self.fingerprint["layers"] + 1)',
            UNSEARCHED,
        ),
        ("deepaa/space", "Magnitudes(-30.0, 30.0, 6)", "Magnitudes(-31.0, 31.0, 6)", None),
        ("augmentation", "pad: int = 4", "pad: int = 5", {"3_2 baseline"}),
    ],
)
def test_an_edit_changes_the_rows_that_run_it(roots, copied, module, old, new, rows):
    seen = changed(roots, copied, module, old, new)
    assert seen == (set(roots) - UNTOUCHED if rows is None else rows)


@pytest.mark.parametrize(
    "module, old, new",
    [
        ("deepaa/rivals", "RIVALS = {\n", 'RIVALS = {\n    "other": Rival("Other", "a:b"),\n'),
        (
            "deepaa/search_methods",
            "SEARCHES = {\n",
            'SEARCHES = {\n    "other": SearchMethod("Other", "a:b"),\n',
        ),
        (
            "deepaa/experiments",
            "ROW_AUGMENTATIONS = {\n",
            'ROW_AUGMENTATIONS = {\n    "other": "a:b",\n',
        ),
        ("deepaa/figures", "_FONT = 8.5", "_FONT = 9"),
        ("deepaa/analysis", '"Flip")  # what', '"Flip")  # that'),
        ("deepaa/row_frames", "SIMPLE_DROP = 0.22", "SIMPLE_DROP = 0.23"),
        ("deepaa/finding", '"small-convnet", 12', '"small-convnet", 13'),
    ],
)
def test_a_line_in_a_table_of_methods_and_a_drawing_change_no_row(roots, copied, module, old, new):
    assert changed(roots, copied, module, old, new) == set()


def test_an_edit_of_the_search_leaves_the_proxy(roots, copied):
    before = provenance.code_hash(*PROXY_ROOTS)
    changed(roots, copied, "deepaa/search", "self.rows.append(row)", "self.rows += [row]")
    assert provenance.code_hash(*PROXY_ROOTS) == before
    changed(roots, copied, "deepaa/searching", '"clip_norm": 5.0', '"clip_norm": 4.0')
    assert provenance.code_hash(*PROXY_ROOTS) != before
