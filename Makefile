# Two commands: `make demo` and `make test`. Each makes the environment in .venv and installs what it needs, if it is not there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SOURCES := soundstorm cluster jobs tune tests
DEMO_DIR ?= demo

.PHONY: demo test lint format install constraints clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m jobs.compiled
	touch $@

# The newest versions that the ranges in pyproject.toml allow: run `make test` before they are committed.
constraints:
	test -x $(BIN)/uv || $(MAKE) install
	$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --all-extras --universal --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --output-file constraints.txt

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
