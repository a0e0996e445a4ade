# make demo, make test: on a fresh machine with Python 3.10+, a C++17 compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Compiling every module of every package takes longer than installing them, and few are imported.
PIP = $(BIN)/python -m pip install --quiet --no-compile --constraint $(CONSTRAINTS)
# A plain `torch` would fetch gigabytes of CUDA libraries; this release is what everything is tested on.
CONSTRAINTS := constraints.txt
NATIVE := setup.py CMakeLists.txt $(shell find csrc -type f)

.PHONY: demo test bench lint format clean

demo: $(STAMP)
	$(BIN)/python demo/demo.py $(IN)

# The native tests call cmake and ninja, which are installed beside Python.
test: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python -m pytest bench -s -o python_files='bench_*.py' --benchmark-columns=median,iqr,rounds

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml $(CONSTRAINTS) $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) build demo/out *.egg-info pysr/_C*.so
