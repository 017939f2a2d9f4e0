# make demo     installs, and answers 24 questions on four long documents
# make test     installs, and runs the tests
# make test-faults  the long tests: processes, nodes and servers killed, half an hour
# make check    the linters, the types, the direction of imports, then the tests

PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: install demo test test-faults lint check clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	rm -rf build/demo
	$(BIN)/qa-ray prepare configs/demo/prepare.yaml
	$(BIN)/qa-ray answer configs/demo/answer.yaml
	$(BIN)/qa-ray evaluate configs/demo/evaluate.yaml

# A real S3 server for the tests, in an environment of its own.
.swift/installed: tests/s3-server.txt
	$(PYTHON) -m venv .swift
	.swift/bin/python -m pip install --quiet --disable-pip-version-check -r tests/s3-server.txt
	touch $@

test: install .swift/installed
	$(BIN)/python -m pytest

test-faults: install .swift/installed
	$(BIN)/python -m pytest -m slow -s --durations=0 tests/test_faults.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

check: lint test

clean:
	rm -rf .venv .swift build
