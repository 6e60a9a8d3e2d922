# Every target installs what it needs; repeated calls skip the installation.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint fuzz dashboard bench bench-models clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh .ci/setup
	@touch $@

demo: setup
	$(BIN)/spatialsweep run sweeps/digits.yaml --name digits-$$(date +%Y%m%d-%H%M%S)

# Two at a time, but for the tests that start Ray: instances on one machine disturb each other.
test: setup
	$(BIN)/pytest -m "not ray" -n 2 --dist loadfile
	$(BIN)/pytest -m ray

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each prints JSON and fails where an input ended with a traceback, a crash or a hang; `make test` has a short form.
fuzz: setup
	$(BIN)/python tools/fuzz/configurations.py --count 20000 --seconds 1200
	$(BIN)/python tools/fuzz/journal.py --files 2000 --seconds 1200
	$(BIN)/python tools/fuzz/files.py --cases 100 --seconds 600

dashboard: setup
	$(BIN)/spatialsweep dashboard

bench: setup
	$(BIN)/python benchmarks/trial_overhead.py

bench-models: setup
	$(BIN)/python benchmarks/networks/model_speed.py --json build/model_speed.json

clean:
	rm -rf $(VENV) build dist *.egg-info
