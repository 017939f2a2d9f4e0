# make install       the environment in .venv, with the versions of constraints.txt
# make demo          answers 24 questions about four long documents
# make check         all that must pass: lint, docs, test
# make lint          format, lint rules, types and the direction of imports
# make test          the tests, in two processes; the wheel and the sdist are among them
# make coverage      the same tests, with a table of the lines of qa_ray that no test ran in its own process
# make test-package  only the wheel and the sdist, each installed and used outside the repository
# make test-faults   the slow tests: processes, nodes and servers are killed or suspended; more than an hour
# make test-cluster  the slow tests on a cluster of real nodes
# make bench         speed beside transformers and Haystack; run nothing else on the machine
# make docs          the documentation site in build/site; warnings are errors
# make reference     the generated texts: configs/VERB.yaml, docs/reference/config.md, the settings in docs/reference/python.md
# make clean         removes the environments and what was built

PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/installed
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
IN_PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder  # tests/conftest.py orders the files

.PHONY: install demo check lint test coverage test-package test-faults test-cluster bench docs reference clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e ".[dev]"
	touch $@

demo: install
	rm -rf build/demo
	$(BIN)/qa-ray prepare configs/demo/prepare.yaml
	$(BIN)/qa-ray answer configs/demo/answer.yaml
	$(BIN)/qa-ray evaluate configs/demo/evaluate.yaml

check: lint docs test

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# A real S3 server for the tests, in its own environment.
.swift/installed: tests/support/s3-server.txt
	$(PYTHON) -m venv .swift
	.swift/bin/python $(PIP_INSTALL) -r tests/support/s3-server.txt
	touch $@

test: install .swift/installed
	$(PYTEST) $(IN_PARALLEL)

coverage: install .swift/installed
	$(PYTEST) $(IN_PARALLEL) --cov

test-package: install
	$(PYTEST) --durations=0 tests/packaging

test-faults: install .swift/installed
	$(PYTEST) -m slow -s --durations=0 tests/answering/test_faults.py tests/output/test_publish.py

test-cluster: install
	$(PYTEST) -m "slow or not slow" -s --durations=0 tests/cluster

# The libraries that bench compares with, in their own environment.
.bench/installed: tests/benchmarks/peers.txt
	$(PYTHON) -m venv .bench
	.bench/bin/python $(PIP_INSTALL) -r tests/benchmarks/peers.txt
	touch $@

bench: install .bench/installed
	$(BIN)/python tests/benchmarks/bench.py

# The generator of the documentation site, in its own environment: the extra "docs" of pyproject.toml without qa-ray.
.docs/installed: constraints.txt
	$(PYTHON) -m venv .docs
	.docs/bin/python $(PIP_INSTALL) -c constraints.txt mkdocs-material
	touch $@

docs: .docs/installed
	.docs/bin/mkdocs build --strict --quiet

reference: install
	$(BIN)/python -m qa_ray.config.reference

clean:
	rm -rf .venv .swift .bench .docs build
