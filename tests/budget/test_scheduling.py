"Schedules obey their laws on random graphs, and the jobs are those of Snakemake's own graph."

import random
import re
import subprocess
import sys

import pytest

from effdl_nb.budget.scheduling import (
    Step,
    WorkJob,
    critical_path,
    longest_first,
    paths_behind,
    row_jobs,
    simulate,
)
from effdl_nb.provenance import project_root
from effdl_nb.spec import load_profile


def graph(seed: int) -> list[WorkJob]:
    "A random graph, each job after some before it."
    rng = random.Random(seed)
    jobs = []
    for n in range(rng.randint(1, 30)):
        after = rng.sample([job.key for job in jobs], min(len(jobs), rng.randint(0, 3)))
        steps = tuple(Step(rng.randint(1, 9)) for _ in range(rng.randint(1, 3)))
        jobs.append(WorkJob(str(n), (steps,), tuple(after)))
    return jobs


@pytest.mark.parametrize("seed", range(40))
def test_laws_of_a_schedule(seed):
    jobs = graph(seed)
    total, path = sum(job.length for job in jobs), critical_path(jobs)
    assert simulate(jobs, 1).makespan == total
    assert simulate(jobs, len(jobs)).makespan == path
    for order in (jobs, longest_first(jobs)):
        for workers in (2, 3, 8):
            line = simulate(order, workers)
            least = max(total / workers, path)
            # Graham: a list schedule is at most twice the best
            assert least <= line.makespan <= total / workers + path
            assert line.busy == total and len(line.ended) == len(jobs) and line.waiting == 0
            assert line.idle == pytest.approx(1 - total / (workers * line.makespan))


@pytest.mark.parametrize("seed", range(20))
def test_shared_steps_are_done_once_whatever_the_workers(seed):
    rng = random.Random(seed)
    lengths = {f"s{n}": rng.randint(1, 9) for n in range(6)}
    jobs = [
        WorkJob(
            str(n),
            (
                tuple(Step(lengths[s], s) for s in rng.sample(sorted(lengths), rng.randint(1, 6))),
                (Step(rng.randint(1, 5)),),
            ),
        )
        for n in range(10)
    ]
    used = {step.name for job in jobs for step in job.groups[0]}
    total = sum(lengths[s] for s in used) + sum(job.groups[1][0].length for job in jobs)
    for workers in (1, 2, 5, 10):
        line = simulate(jobs, workers)
        assert line.busy == total and line.makespan >= total / workers and len(line.ended) == 10
    assert simulate(jobs, 1).makespan == total


def test_a_small_graph_by_hand():
    # a 3 -> c 2 -> d 1, b 4 -> d; two workers: b until 4, a until 3, c until 5, d until 6
    jobs = [
        WorkJob("a", ((Step(3),),)),
        WorkJob("b", ((Step(4),),)),
        WorkJob("c", ((Step(2),),), ("a",)),
        WorkJob("d", ((Step(1),),), ("b", "c")),
    ]
    line = simulate(jobs, 2)
    assert line.ended == {"a": 3, "b": 4, "c": 5, "d": 6} and line.idle == pytest.approx(2 / 12)
    assert paths_behind(jobs) == {"a": 6, "b": 5, "c": 3, "d": 1}


def test_jobs_that_wait_for_each_other_are_an_error():
    circle = [WorkJob("a", (), ("b",)), WorkJob("b", (), ("a",)), WorkJob("c", ((Step(1),),))]
    with pytest.raises(ValueError, match="2 jobs wait for each other"):
        simulate(circle, 2)
    with pytest.raises(ValueError, match=r"circle: \['a', 'b'\]"):
        paths_behind(circle)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        simulate([], 0)


def of_snakemake(profile: str, reports) -> dict[str, set[str]]:
    "Job -> the jobs it waits for, in Snakemake's own graph."
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dag", "dot"]
    command += ["--snakefile", str(project_root() / "workflow" / "Snakefile")]
    command += ["--config", f"profile={profile}", f"reports={reports}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project_root())
    assert done.returncode == 0, done.stderr
    labels = dict(re.findall(r'(\d+)\[label = "([^"]+)"', done.stdout))
    edges = re.findall(r"(\d+) -> (\d+)", done.stdout)
    before = {number: {a for a, b in edges if b == number} for number in labels}
    lines = {n: label.replace("\\n", "\n") for n, label in labels.items()}
    names = {n: dict(re.findall(r"(\w+): (\w+)", label)) for n, label in lines.items()}

    def name(number: str) -> str:
        known = names[number]
        if "figure" in known:
            return known["figure"]
        if "row" in known:
            return f"{known['table']}/{known['row']}"
        (table,) = {names[row]["table"] for row in before[number]}
        return table

    kept = [n for n, label in labels.items() if not label.startswith("all")]
    return {name(n): {name(other) for other in before[n]} for n in kept}


def test_the_jobs_are_those_of_snakemakes_own_graph(tmp_path):
    ours = {job.key: set(job.after) for job in row_jobs(load_profile("paper"), lambda work: 1.0)}
    assert of_snakemake("paper", tmp_path) == ours and len(ours) > 100
