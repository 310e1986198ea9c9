# Two commands: `make demo` and `make test`. Each makes the environment in .venv and installs what it needs, if it is not there.
# The newest Python from 3.11 to 3.13 that is there; `make PYTHON=python3.12 install` takes another. With uv, if that is installed, else with pip.
PYTHON ?= $(or $(shell for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$name && break; \
	done),$(error no Python 3.11, 3.12 or 3.13 with ensurepip is here: install one, or name it with PYTHON=))
UV := $(shell command -v uv 2>/dev/null)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := soundstorm cluster jobs tune tests docs
DEMO_DIR ?= demo
# Of `make weights`, see docs/weights.md.
ESC50 ?= data/esc50
FREE_CLIPS ?= $(WEIGHTS_DIR)/free.txt
FRAMES_PER_BLOCK ?= 4
GENERATOR ?= --config $(WEIGHTS)/esc50/training.toml
WEIGHTS_DIR ?= runs/weights
WEIGHTS := soundstorm/weights
CLASSIFIER = --model cnn --dataset esc50 --data-dir $(ESC50) --clips $(FREE_CLIPS) --fold 5

# Several hundred processes of the tests would each compile the code anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test pytest docs weights lint format install constraints clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
ifeq ($(UV),)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cluster,dev,docs]'
else
	test -x $(BIN)/python || $(UV) venv --quiet --seed --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[cluster,dev,docs]'
endif
	$(BIN)/python -m jobs.console.compiled_libraries
	touch $@

# The newest versions that the ranges in pyproject.toml allow: run `make test` before they are committed.
constraints:
	test -x $(BIN)/uv || $(MAKE) install
	$(BIN)/uv pip compile pyproject.toml --quiet --upgrade --all-extras --universal --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --output-file constraints.txt

demo: install
	$(BIN)/soundstorm pipeline --dataset synthetic --output-dir $(DEMO_DIR)

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: install
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

$(WEIGHTS_DIR)/free.txt:
	mkdir -p $(WEIGHTS_DIR)
	cut -d, -f1 $(WEIGHTS)/credits.csv | tail -n +2 > $@

weights: install $(FREE_CLIPS)
	$(BIN)/soundstorm train-codec --dataset esc50 --data-dir $(ESC50) --clips $(FREE_CLIPS) --test-fold 5 \
		--frames-per-block $(FRAMES_PER_BLOCK) --output-dir $(WEIGHTS_DIR)/codec
	cp $(WEIGHTS_DIR)/codec/codec.safetensors $(WEIGHTS)/codec.safetensors
	$(BIN)/soundstorm train-classifier $(CLASSIFIER) --epochs 60 --output-dir $(WEIGHTS_DIR)/classifier
	cp $(WEIGHTS_DIR)/classifier/classifier.safetensors $(WEIGHTS)/audio_classifier.safetensors
	$(BIN)/soundstorm train-classifier $(CLASSIFIER) --epochs 60 --seed 1 --output-dir $(WEIGHTS_DIR)/listener
	cp $(WEIGHTS_DIR)/listener/classifier.safetensors $(WEIGHTS)/listener.safetensors
	$(BIN)/soundstorm tokenize --dataset esc50 --data-dir $(ESC50) --clips $(FREE_CLIPS) --views 8 \
		--codec $(WEIGHTS)/codec.safetensors --output-dir $(WEIGHTS_DIR)/tokens
	$(BIN)/soundstorm train --tokens $(WEIGHTS_DIR)/tokens $(GENERATOR) --fold 5 --codec $(WEIGHTS)/codec.safetensors --output-dir $(WEIGHTS_DIR)/generator
	$(BIN)/python -c "from dataclasses import replace; from pathlib import Path; \
		from soundstorm.model.checkpoints import pack_checkpoint; from soundstorm.model.presets import preset; \
		sampler = replace(preset('places').sampler, candidates=8); \
		pack_checkpoint(Path('$(WEIGHTS_DIR)/generator/checkpoint'), Path('$(WEIGHTS)/esc50'), sampler)"

# Both at once: the tests leave time of the cores.
test: install
	$(MAKE) --no-print-directory --jobs 2 lint pytest

# On three workers, two of them with a Ray of their own; tests/support/parallel_groups.py says what runs together.
# A worker that crashes ends the run: pytest-xdist would wait for tests that it has already given back.
pytest: install
	$(BIN)/python -m pytest --numprocesses 3 --dist loadscope --no-loadscope-reorder --max-worker-restart 0 --durations 40

clean:
	rm -rf $(DEMO_DIR) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
