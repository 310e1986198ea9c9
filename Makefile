# Two commands: `make demo` and `make test`. Each makes the environment in .venv and installs what it needs, if it is not there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SOURCES := soundstorm cluster jobs tune tests
DEMO_DIR ?= demo

.PHONY: demo test lint format install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/soundstorm pipeline --dataset synthetic --preset tiny --output-dir $(DEMO_DIR)

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf $(DEMO_DIR) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
