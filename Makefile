# Two commands: `make demo` shows the product at work, `make test` proves it. Both build their own environment.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

demo: $(VENV)/installed
	$(BIN)/reparam-kit demo

# One process for each core, and one thread in each.
test: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

coverage: $(VENV)/installed-test
	$(BIN)/python -m pytest --cov

docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# constraints.txt holds the versions that the tests were last run with.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[faces]"
	touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

.PHONY: demo test coverage docs lint
