"A table says where ours departs from what its headings promise."

import pandas as pd

from effdl_nb import spec, tabular


def test_a_heading_says_what_a_profile_changed_also_in_nested_settings():
    promised = {"ipc": 50, "evaluation": {"network": "vgg-11"}}
    column = spec.Column("vgg11", "VGG11", metric="accuracy", settings=promised)
    row = spec.RowSpec("random", "Random")
    table = spec.Table(
        "table_9_3",
        "table",
        "9.3",
        9,
        "Heads",
        rows={"random": row},
        columns={"vgg11": column},
    )

    def here(**settings):
        plan = spec.Plan((0,), ("random",), ("vgg11",), **settings)
        return tabular._departures(table, plan, "random", column)

    assert here() == ""
    assert here(settings={"evaluation": {"runs": 2}}) == ""  # more is set, nothing is changed
    changed = {"evaluation": {"network": "convnet-3"}}
    assert here(column_settings={"vgg11": changed}) == "network convnet-3"
    assert here(settings={"ipc": 2}, row_settings={"random": changed}) == "ipc 2, network convnet-3"


def test_words_of_an_experiment_are_words_in_markdown_and_csv():
    hostile = ["<script>alert(1)</script>", "=HYPERLINK(1)", "a|b\n# c", "@sum", "-1+1", "kept"]
    grid = tabular._markdown_grid(["row"], [[word] for word in hostile])
    assert "<script" not in grid and "a\\|b # c" in grid and len(grid.splitlines()) == 8
    written = tabular.plain_words(pd.DataFrame({"ours": [*hostile, -1.5]})).ours.tolist()
    assert written == [hostile[0], "'=HYPERLINK(1)", hostile[2], "'@sum", "'-1+1", "kept", -1.5]
