"The workflow end to end: a toy study killed, broken and changed, and the real tables at tiny size."

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from toy_study import ALL, EXPERIMENT, ROOT, Toy, wait_for, write_notebook

from effdl_nb import report, spec

TINY = ROOT / "tests" / "profiles" / "tiny.yaml"


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path)


def test_run_repeat_delete_and_change(toy):
    status, output = toy.run()
    assert status == 0, output
    assert toy.calls() == ALL and "table 9.1: 3 of 3 rows" in output
    page = (toy.root / "reports" / "toy" / "index.html").read_text()
    assert (
        "3 of 3" in page
        and (toy.root / "reports" / "toy" / "notebooks" / "table_9_1.html").exists()
    )

    status, output = toy.run()  # a second time: nothing to do
    assert status == 0 and toy.calls() == [], output

    (toy.rows / "three.json").unlink()  # one row deleted: just that row
    status, output = toy.run()
    assert (
        status == 0
        and toy.calls() == ["three:0", "three:1"]
        and toy.there() == ["one", "seven", "three"]
    ), output

    toy.profile(", row_settings: {one: {size: 5}}")  # a setting changed: what it concerns
    status, output = toy.run()
    assert status == 0 and toy.calls() == ["one:0", "one:1"], output


def check_what_others_are_told(toy):
    "What a finished run leaves for other programs."
    folder = toy.root / "reports" / "toy"
    assert (folder / "results.csv").read_text().count("table_9_1") == 6  # three rows, two seeds
    crate = json.loads((folder / "ro-crate-metadata.json").read_text())
    assert "index.html" in [entity["@id"] for entity in crate["@graph"]]
    page = toy.root / "snakemake.html"
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "workflow" / "Snakefile"]
    command += ["--cores", "1", "--config", "profile=toy", "planned=true", "--report", page]
    done = subprocess.run(command, cwd=toy.root, env=toy.environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert "Chapter 9" in page.read_text() and "figure 9.1" in page.read_text()


def test_figures_are_drawn_after_their_tables_told_to_others_and_drawn_again(toy):
    toy.figures()
    status, output = toy.run()
    calls = toy.calls()
    assert status == 0 and "figures: 2 of 2 drawn" in output, output
    assert sorted(calls) == sorted([*ALL, "figure_9_1", "figure_9_2"]) and calls.index(
        "figure_9_1"
    ) > calls.index("seven:1")
    page = (toy.root / "reports" / "toy" / "index.html").read_text()
    assert (
        'src="figures/figure_9_1.png"' in page
        and 'href="notebooks/figure_9_2.html"' in page
        and page.count("not implemented yet") == 1
    )
    check_what_others_are_told(toy)

    status, output = toy.run()
    assert status == 0 and toy.calls() == [], output
    (toy.root / "reports" / "toy" / "figures" / "figure_9_2.png").unlink()
    (toy.rows / "one.json").unlink()
    status, output = toy.run()
    assert status == 0 and sorted(toy.calls()) == ["figure_9_1", "figure_9_2", "one:0", "one:1"], (
        output
    )


def test_a_broken_row_fails_alone_and_is_tried_again(toy):
    (toy.root / "break_three").touch()
    status, output = toy.run()
    assert status != 0 and "three (failed)" in output and toy.there() == ["one", "seven"], output
    notebook = nbformat.read(
        toy.root / "reports" / "toy" / "notebooks" / "table_9_1.ipynb", as_version=4
    )
    text = json.dumps(notebook)
    # the executed notebook is there to read
    assert "broken on purpose" in text and "RowsFailed" in text
    page = (toy.root / "reports" / "toy" / "index.html").read_text()
    assert "broken on purpose" in page and "2 of 3" in page
    assert toy.calls() == ["one:0", "one:1", "three:0", "seven:0", "seven:1"]

    (toy.root / "break_three").unlink()
    status, output = toy.run()
    assert status == 0 and toy.calls() == ["three:0", "three:1"], output


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_every_job_and_kernel(toy, how):
    toy.profile(", row_settings: {seven: {wait: 300}}")
    process = toy.start()
    wait_for(toy, process, "seven:0")
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("ipykernel" in " ".join(one.cmdline()) for one in family)
    process.send_signal(how)  # to the parent alone
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to resume" in said, said
    assert psutil.wait_procs(family, 5)[1] == [], "something measures on"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_continues_and_loses_no_finished_seed(toy, how):
    toy.profile(", row_settings: {seven: {wait: 300}}")
    process = toy.start()
    wait_for(toy, process, "seven:0")
    # everything at once, as a power cut or a Ctrl-C in a terminal would
    os.killpg(process.pid, how)
    try:
        said, _ = process.communicate(timeout=60)
    # who pressed Ctrl-C and waited a minute for Snakemake to clean up kills it
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
    assert how == signal.SIGKILL or (
        "run the same command again to resume" in said and 'reproduce.py", line' not in said
    ), said
    # a kernel that outlived its parents
    subprocess.run(["pkill", "-9", "-f", str(toy.root)], check=False)
    assert toy.there() == ["one", "three"]
    toy.calls()
    toy.profile(", row_settings: {seven: {wait: 0}}")
    status, output = toy.run()
    assert status == 0 and toy.calls() == ["seven:0", "seven:1"], output


def test_rows_as_jobs_and_kept_rows(toy):
    toy.profile(jobs="row", changed="mark")
    status, output = toy.run()
    assert status == 0 and sorted(toy.calls()) == sorted(ALL), output
    assert (
        len(list((toy.root / "reports" / "toy" / "notebooks" / "table_9_1").glob("*.ipynb"))) == 3
    )
    (toy.root / "toy_draws.py").write_text(EXPERIMENT.replace("len(task.row) +", "len(task.row) -"))
    status, output = toy.run()  # rows of a profile that costs hours are marked, not made again
    assert status == 0 and toy.calls() == [], output
    assert "older code" in (toy.root / "reports" / "toy" / "index.html").read_text()


@pytest.mark.parametrize(
    "profile, words",
    [
        (", settings: {sizes: 3}", "'sizes' is unknown; allowed: size, wait"),
        (", rows: [two]", "row 'two' is unknown; allowed: one, three, seven"),
        (", seed: [1]", "'seed' is unknown; allowed: seeds, rows, columns"),
        (", rows: one", "tables.table_9_1.rows must be a list, not 'one'"),
    ],
)
def test_a_wrong_profile_is_refused_before_anything_runs(toy, profile, words):
    toy.profile(profile)
    status, output = toy.run()
    assert status == 1 and words in output and toy.calls() == [], output
    assert "Traceback" not in output


def test_a_parameter_that_the_notebook_lacks_is_refused(toy):
    path = toy.root / "nbs" / "05_reproduction" / "table_9_1.ipynb"
    out = toy.root / "out.ipynb"
    command = [
        sys.executable,
        "-m",
        "papermill",
        "--no-progress-bar",
        str(path),
        str(out),
        "-p",
        "profile",
        "toy",
        "-p",
    ]
    done = subprocess.run(
        [*command, "rwos", "one"], env=toy.environment, cwd=toy.root, capture_output=True, text=True
    )
    assert (
        done.returncode != 0
        and "parameter 'rwos' is unknown; allowed: profile, rows, seeds, reports" in done.stderr
    )
    done = subprocess.run(
        [*command, "rows", "one"], env=toy.environment, cwd=toy.root, capture_output=True, text=True
    )
    assert done.returncode == 0 and toy.there() == ["one"], done.stderr

    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].metadata.pop("tags")  # what nbdev_clean would do without its setting
    nbformat.write(notebook, path)
    status, output = toy.run()
    assert status != 0 and "no parameter" in output and "tagged `parameters`" in output, output


def test_a_kernel_of_the_workflow_opens_no_port(tmp_path):
    # two that start at once can be given the same one, and the second dies
    cell = (
        "import ipykernel, json\nfrom pathlib import Path\n"
        "about = json.loads(Path(ipykernel.get_connection_file()).read_text())\n"
        "print(about['transport'], about['ip'], sep='|')"
    )
    write_notebook([(cell, [])], tmp_path / "asks.ipynb")
    command = [sys.executable, "-W", "ignore", str(ROOT / "workflow" / "run_notebook.py")]
    options = ["--kernel", "python3", "--no-progress-bar", "--stdout-file", "-"]
    done = subprocess.run(
        [*command, "asks.ipynb", "told.ipynb", *options, "--log-level", "ERROR"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    transport, sockets = done.stdout.split()[-1].split("|")
    assert transport == "ipc" and not Path(sockets).parent.exists()


def test_two_runs_at_once_do_not_disturb_each_other(toy):
    toy.profile(", settings: {wait: 2}")
    first = toy.start()
    end = time.monotonic() + 120
    while not (toy.root / "calls").exists():
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.2)
    status, output = toy.run()
    assert status != 0 and "another run of profile toy is at work" in output
    first.communicate(timeout=300)
    assert first.returncode == 0 and toy.there() == ["one", "seven", "three"]


def test_the_lock_outlives_a_killed_parent(toy):
    toy.profile(", settings: {wait: 3}")
    first = toy.start()
    end = time.monotonic() + 120
    while not (toy.root / "calls").exists():
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.2)
    first.kill()  # reproduce.py alone: Snakemake and the notebook go on
    status, output = toy.run()
    assert status != 0 and "another run of profile toy is at work" in output
    while len(toy.there()) < 3:
        assert time.monotonic() < end + 60
        time.sleep(0.5)
    first.communicate(timeout=120)  # the pipe closes when Snakemake, too, has ended
    status, output = toy.run()
    assert status == 0 and "3 of 3 rows" in output
    assert toy.calls() == ALL


@pytest.mark.timeout(900)
@pytest.mark.parametrize("chapter", [2, 3, 4])
def test_the_real_tables_at_a_tiny_profile(chapter, tmp_path):
    "Through the workflow, some of them: tests/command/test_wheel.py."
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "notebook_runs.py"), str(TINY)]
    environment = os.environ | {"TQDM_DISABLE": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [*command, str(tmp_path), str(chapter)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = report.write_report(str(TINY), tmp_path).read_text()
    profile, tables = spec.load_profile(str(TINY), ROOT), spec.load_tables(ROOT)
    assert set(profile.tables) == {key for key, table in tables.items() if table.experiment}, (
        "a table that nothing tries"
    )
    ours = [key for key, table in tables.items() if table.chapter == chapter]
    for key in set(ours) & set(profile.tables):
        made = {path.stem for path in (tmp_path / "tiny" / "rows" / key).glob("*.json")}
        assert made == set(profile.tables[key].rows), key
        # a table of words has no figure
        words = all(column.counted for column in tables[key].columns.values())
        assert f'href="notebooks/{key}.html"' in page and (
            words or (tmp_path / "tiny" / "figures" / f"{key}.svg").exists()
        ), key
    for key in set(ours) & set(spec.figures_of(profile, tables)):
        assert f'src="figures/{key}.png"' in page and f'href="notebooks/{key}.html"' in page, key
    if chapter == 4:
        record = json.loads((tmp_path / "tiny" / "rows" / "table_4_1" / "iatm.json").read_text())
        assert record["measurements"][0]["provenance"]["data"].startswith("cifar10-sample:")
        values = record["cells"][0]["values"].values()
        assert all(0 <= value <= 100 for runs in values for value in runs)


@pytest.mark.timeout(900)
def test_the_plain_papermill_command_of_the_readme(tmp_path):
    out = tmp_path / "out.ipynb"
    environment = os.environ | {"EFFDL_REPORTS": str(tmp_path), "EFFDL_ROOT": ""}
    command = [
        sys.executable,
        "-m",
        "papermill",
        "nbs/05_reproduction/table_4_1.ipynb",
        str(out),
        "-p",
        "profile",
        str(TINY),
        "-p",
        "rows",
        "random",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny" / "rows" / "table_4_1" / "random.json").exists()
