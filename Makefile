# Each target creates the virtual environment if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
METHOD ?=
DEMO ?= demo$(addprefix -,$(METHOD))
MODEL ?=
LANDSCAPES := $(wildcard ./models/landscapes)
NUMERICS := tests/nn tests/parity tests/data/scenes tests/inference/test_synthesizer.py tests/training/test_evaluation.py

# Bytecode keeps pytest from rewriting all assertions in each process.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS)

.PHONY: demo paint test test-fast test-full test-numerics check docs clean

demo: $(STAMP)  ## Train on procedural landscapes for some minutes, then open demo/index.html; unpaired: METHOD=v1, v1-sketch.
	$(BIN)/lab2pix demo --out $(DEMO) $(addprefix --method ,$(METHOD))

paint: $(STAMP)  ## Serve the painter with the model of photographs, or MODEL=RUN; Ctrl-C stops it.
	$(BIN)/lab2pix paint $(MODEL)

test: $(STAMP)  ## Run the tests on JOBS processes, without the slowest and those in a browser.
	$(PYTEST) -m "not xslow and not browser"

test-fast: $(STAMP)  ## Run the tests that take less than a fifth of a second.
	$(PYTEST) -m "not slow and not xslow and not browser"

test-full: $(STAMP)  ## Run every test, and print the 25 slowest.
	$(PYTEST) --durations=25

test-numerics: $(STAMP)  ## Run the numeric tests with the instruction sets of older processors, which round float32 differently.
	for level in "AVX2 avx2" "AVX512_CORE avx2"; do \
	  set -- $$level; echo "Instructions: oneDNN $$1, ATen $$2"; \
	  ONEDNN_MAX_CPU_ISA=$$1 ATEN_CPU_CAPABILITY=$$2 $(PYTEST) -k "not compiles" -m "not xslow and not browser" $(NUMERICS) || exit 1; \
	done

check: $(STAMP)  ## Check style, types, import contracts, workflows, and build the docs with warnings as errors.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/sphinx-build -E -q -W --keep-going -b html docs docs/_build/html

docs: $(STAMP)  ## Build the documentation into docs/_build/html.
	$(BIN)/sphinx-build -b html docs docs/_build/html

clean:  ## Remove build outputs and caches; keep runs, demo and the virtual environment.
	rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml $(addsuffix /pyproject.toml,$(LANDSCAPES))
	@echo "Installing lab2pix and its tools into $(VENV), which takes some minutes the first time."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]' $(addprefix --editable ,$(LANDSCAPES))
	touch $@
