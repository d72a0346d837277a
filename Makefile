# Two commands matter: `make demo` and `make test`. Each makes .venv, installs what it needs and runs; README has the same without make.
PYTHON ?= python3
BIN = .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
# What computes: run again as on a processor with AVX2 and no instructions for bfloat16, which most laptops have.
NUMERIC = tests/models tests/train tests/decoding $(addprefix tests/benchmarks/test_,benchmark_speed.py backbone_benchmark.py)
# What stands on FastAPI and SQLAlchemy: run again with the lowest versions of them that may be installed.
SERVER = tests/server tests/dialogue/test_feedback.py tests/cli/test_cli_feedback.py
RELEASE = build/release/bin
PLAIN = ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
# Two workers with a thread each: what most tests do is too small for more.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: help demo test test-plain test-lowest lint lock release clean

help: ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: .venv/demo ## train the starter corpus' models for some minutes, and show them beside people
	$(BIN)/python examples/demo.py

test: lint ## ruff, mypy, import-linter, pytest
	$(PYTEST)

test-plain: .venv/installed ## what computes, as on a processor with AVX2 alone
	$(PLAIN) $(PYTEST) $(NUMERIC)

test-lowest: build/lowest ## the server with the lowest versions of its packages
	PYTHONPATH=build/lowest $(PYTEST) -W ignore::DeprecationWarning $(SERVER)

lint: .venv/installed ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

build/lowest: .venv/installed lowest.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ --requirement lowest.txt
	touch $@

# What leaves this folder: packages, a list of what they are made of (CycloneDX), and a look for known faults in that. Needs the network.
release: build/release ## packages, list of parts, audit; needs the network
	$(RELEASE)/python -m build --outdir dist
	$(RELEASE)/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.json
	$(RELEASE)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

lock: build/release ## requirements.lock anew
	$(RELEASE)/uv pip compile --quiet pyproject.toml --extra serve --extra feedback --extra gguf --constraint constraints.txt \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --output-file build/lock
	(head -1 requirements.lock; cat build/lock) > build/requirements.lock && mv build/requirements.lock requirements.lock

build/release: release.txt
	$(PYTHON) -m venv $@
	$(RELEASE)/python -m pip install --quiet --requirement release.txt
	touch $@

.venv/demo: pyproject.toml setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[demo]"
	touch $@

.venv/installed: pyproject.toml setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[test]"
	touch $@

clean: ## remove what was made here
	rm -rf .venv build dist *.egg-info
