# Every target installs what it needs; repeated calls skip the installation.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-long test-versions lint docs fuzz dashboard bench bench-check bench-models clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh .ci/setup
	@touch $@

demo: setup
	$(BIN)/spatialsweep run sweeps/digits.yaml --name digits-$$(date +%Y%m%d-%H%M%S)

# A file at a time in each of two processes, in the order of tests/conftest.py.
test: setup
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

# Whole sweeps that take minutes, which `make test` leaves out.
test-long: setup
	$(BIN)/pytest -m long --timeout 1800 --durations=10

# What differs by version, on the newest supported Python and with the oldest supported Ray; needs root on Debian.
test-versions: setup
	VENV="$(CURDIR)/$(VENV)" .ci/versions

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages of docs/api, from the docstrings; a test checks that they are current.
docs: setup
	$(BIN)/python tools/api_reference.py

# Each prints JSON and fails where an input ended with a traceback, a crash or a hang; `make test` has a short form.
fuzz: setup
	$(BIN)/python tools/fuzz/configurations.py --count 20000 --seconds 1200
	$(BIN)/python tools/fuzz/journal.py --files 2000 --seconds 1200
	$(BIN)/python tools/fuzz/files.py --cases 100 --seconds 600

dashboard: setup
	$(BIN)/spatialsweep dashboard

bench: setup
	$(BIN)/python benchmarks/trial_overhead.py

# Ratios of the main benchmarks beside those in benchmarks/results/ratios.json; UPDATE=1 records them, ONLY="hub ddp" names some.
bench-check: setup
	$(BIN)/python benchmarks/regression/check.py $(if $(UPDATE),--update) $(if $(ONLY),--only $(ONLY))

bench-models: setup
	$(BIN)/python benchmarks/networks/model_speed.py --json build/model_speed.json

clean:
	rm -rf $(VENV) build dist *.egg-info
