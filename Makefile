# make demo     installs, and answers 24 questions on four long documents
# make test     installs, and runs the tests
# make test-faults  the long tests: processes, nodes and servers killed, more than half an hour
# make test-cluster  the long tests on a cluster of real nodes
# make bench    ours beside transformers and Haystack; the machine should do nothing else
# make check    the linters, the types, the direction of imports, then the tests

PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: install demo test test-faults test-cluster bench lint check clean

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
.swift/installed: tests/support/s3-server.txt
	$(PYTHON) -m venv .swift
	.swift/bin/python -m pip install --quiet --disable-pip-version-check -r tests/support/s3-server.txt
	touch $@

test: install .swift/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-faults: install .swift/installed
	$(BIN)/python -m pytest -m slow -s --durations=0 tests/answering/test_faults.py

test-cluster: install
	$(BIN)/python -m pytest -m "slow or not slow" -s --durations=0 tests/cluster

# What qa-ray is measured against, in an environment of its own.
.bench/installed: tests/benchmarks/peers.txt
	$(PYTHON) -m venv .bench
	.bench/bin/python -m pip install --quiet --disable-pip-version-check -r tests/benchmarks/peers.txt
	touch $@

bench: install .bench/installed
	$(BIN)/python tests/benchmarks/bench.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

check: lint test

clean:
	rm -rf .venv .swift .bench build
