# make reproduce   set up, then run the study at PROFILE (quick) and render reports/quick/index.html
# make test        set up, then run all tests: pytest, the notebooks, the workflow end to end
# make evidence    measure what profile laptop still lacks, for as long as you let it
# make reproduce EXECUTOR=slurm JOBS=16   the same on a cluster: workflow/profiles/
# make merge FROM=folder   join the rows of another machine's reports folder
# make faults      kills, failing writes, races and hostile files, all of them: 40 minutes on two cores
# make check       export the notebooks, compare effdl_nb/ with git, lint, check types, then test
# make site        every notebook and the library as pages: build/site/html/index.html
# make lab         JupyterLab on the notebooks
# make benchmark   speed and memory against peers, side by side
# make schema      docs/schema/, what rows, profiles and tables may hold
# make readme      README.md, RESULTS.md, reports/FINDINGS.md and COSTS.md from what is there
# make table KEY=table_5_1 EXPERIMENT=module:function   the files of a new table
# make method NAME=mymethod FAMILY=matching             the notebook of a new method of Chapter 4
SHELL := /bin/bash
PYTHON ?= python3
PROFILE ?= quick
CORES ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu)
BIN := .venv/bin
READY := .venv/.ready
PEERS := .venv/.peers
SITE := .venv/.site
# Two one-thread processes do more than one with two threads; tests and notebooks run side by side,
# one a core. The path may hold a blank.
TEST_ENV := OMP_NUM_THREADS=1 EFFDL_ROOT="$(CURDIR)"
# Each notebook, job and many a test is a process of its own. Where Python is told to keep no bytecode
# (images often say so) each compiles again what it imports: 23 CPU seconds for a toy run, not 10.
unexport PYTHONDONTWRITEBYTECODE
# A part of the tests: make test NBS=nbs/02_msunet PYTEST_ARGS=tests/msunet
NBS ?= nbs
PYTEST_ARGS ?=
# A part of the benchmarks: make benchmark BENCHMARKS=benchmarks/reward.py BENCHMARK_ARGS=--help
BENCHMARKS ?= $(sort $(wildcard benchmarks/*.py))
BENCHMARK_ARGS ?=

.PHONY: setup reproduce report evidence merge test faults check export lint types tags lab site schema readme table method benchmark lock clean

setup: $(READY)

# uv installs the locked environment in half a minute. The marker is written last: an interrupted
# set-up is done again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"effdl_nb needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Try: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,grid,onnx,search]'
	@touch $@

reproduce: setup
	@$(BIN)/python workflow/reproduce.py --profile "$(PROFILE)" --cores $(CORES) \
	  $(if $(EXECUTOR),--executor $(EXECUTOR)) $(if $(JOBS),-- --jobs $(JOBS))

report: setup
	@$(BIN)/python -m effdl_nb.report --profile "$(PROFILE)"
	@$(BIN)/python -m effdl_nb.records --profile "$(PROFILE)"

# What PROFILE (laptop) still lacks, the most wanted first, at the lowest priority; stopped at
# any moment, the same command resumes: make evidence CORES=1 HOURS=2
evidence: setup
	@$(BIN)/python -m effdl_nb.backlog --profile $(or $(filter-out quick,$(PROFILE)),laptop) \
	  --cores $(CORES) $(if $(HOURS),--hours $(HOURS))

# Rows that another machine has measured join those here: make merge FROM=../other/reports
merge: setup
	@$(BIN)/python -m effdl_nb.merging "$(FROM)" --profile $(or $(filter-out quick,$(PROFILE)),laptop)

test: setup
	$(TEST_ENV) $(BIN)/nbdev_test --path $(NBS) --n_workers $(CORES)
	$(TEST_ENV) $(BIN)/python -m pytest --numprocesses $(CORES) --dist worksteal --durations 12 \
	  $(PYTEST_ARGS)

# `make test` has a taste of these; their figures go to reports/faults.json. A part: FAULTS="-k races"
FAULTS ?=
faults: setup
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[faults]' || \
	  echo "atheris is not available here: its part is skipped"
	@$(TEST_ENV) $(BIN)/python tests/faults/figures.py $(FAULTS)

check: export lint types tags test

# The modules in effdl_nb/ are made from the notebooks: they must be what is committed.
export: setup
	@$(BIN)/nbdev_export
	@git diff --exit-code -- effdl_nb || { echo "effdl_nb/ is not what nbdev_export makes of the notebooks"; exit 1; }

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check nbs tests workflow benchmarks

# What is checked, and what is not yet, stands in pyproject.toml.
types: setup
	@$(BIN)/ty check

# Without the tag papermill ignores the parameters it is passed.
tags: setup
	@$(BIN)/python -m pytest -q tests/foundations/test_repository.py -k parameters

lab: setup
	@$(BIN)/jupyter lab --notebook-dir nbs

schema: setup
	@$(BIN)/python workflow/schema.py

$(SITE): $(READY)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[site]'
	@touch $@

# Warnings are errors; then every page is looked at, in Chromium where it is installed.
site: $(SITE)
	@$(TEST_ENV) $(BIN)/python docs/site/build.py
	@$(BIN)/python docs/site/check.py

# README.md is the index notebook, with the outputs that are stored in it; RESULTS.md is every
# table that has been measured here.
readme: setup
	@$(BIN)/python workflow/picture.py
	@$(BIN)/python -c 'from effdl_nb.findings import write_findings; write_findings()'
	@$(BIN)/python -c 'from effdl_nb.budget.page import write_costs; write_costs()'
	@$(BIN)/python workflow/readme.py

table: setup
	@$(BIN)/python workflow/scaffold.py table "$(KEY)" "$(EXPERIMENT)" --title "$(TITLE)"

method: setup
	@$(BIN)/python workflow/scaffold.py method "$(NAME)" "$(FAMILY)"

# The peers; editable like the rest, or a copy of effdl_nb would hide the checkout's.
$(PEERS): $(READY)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[bench]'
	@touch $@

benchmark: $(PEERS)
	@for file in $(BENCHMARKS); do echo "== $$file"; \
	  $(TEST_ENV) $(BIN)/python $$file $(BENCHMARK_ARGS) || exit 1; done

# New versions of everything, as far as pyproject.toml admits them.
lock: setup
	@$(BIN)/uv pip compile --quiet --no-emit-index-url --no-header --no-annotate --python-version 3.11 \
	  --extra dev --extra grid --extra onnx --extra edge --extra search --extra site --extra bench --extra faults --upgrade pyproject.toml --output-file constraints.txt

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .snakemake
