# Everything a newcomer needs: `make demo`, `make test`, `make check`. Each makes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow test-lowest check format lint types docs site bench clean

demo: .venv/lab ## one problem where methods gain, and one where none does, on real handwritten digits
	$(BIN)/manyloss compare examples/unlike_scales.py --out runs/unlike-scales \
		--methods equal,static:digit=10000,initial-loss,gradnorm,pcgrad,mgda
	$(BIN)/manyloss compare cosreg-two-digits --out runs/demo --methods equal,gradnorm,graddrop,cosreg

test: .venv/dev ## the tests, without those marked slow
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: .venv/dev ## the tests marked slow
	$(BIN)/python -m pytest -m slow

test-lowest: ## the tests with the oldest versions that pyproject.toml allows, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[dev]'
	.venv-lowest/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

check: format lint types site test ## all that CI runs

format: .venv/dev
	$(BIN)/ruff format --check .

lint: .venv/dev
	$(BIN)/ruff check .

types: .venv/dev
	$(BIN)/mypy

docs: .venv/dev ## write the tables of README.md and docs/ anew from the classes
	$(BIN)/python docs/tables.py

site: .venv/dev ## build the site into site/; a broken link or a missing reference is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/dev ## speed and memory, next to peers
	$(BIN)/manyloss bench

.venv/python: constraints.txt
	$(PYTHON) -m venv .venv
	touch $@

.venv/lab: .venv/python pyproject.toml
	$(PIP) --editable '.[lab]'
	touch $@

.venv/dev: .venv/python pyproject.toml
	$(PIP) --editable '.[dev]'
	touch $@ .venv/lab

clean:
	rm -rf .venv .venv-lowest runs site
