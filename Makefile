# Two commands on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Both learning rates of the article: 1e-4 is in its listing, 1e-6 is what its printed figures need.
RUN_ARGS ?= experiment=article init=zero,glorot optimizer.lr=1e-4,1e-6

# make nightly: on the GPU; NIGHTLY_DEVICE=cpu NIGHTLY_SIZE=small tests the job itself.
NIGHTLY_DEVICE ?= cuda
NIGHTLY_SIZE ?= full
NIGHTLY_FOLDER ?= outputs/nightly
NIGHTLY_BASELINES ?= outputs/baselines

# processes that share the tests, with a thread each; those of a file stay in one (tests/conftest.py)
TEST_PROCESSES ?= 2
PYTEST := OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) \
	--dist loadgroup --no-loadscope-reorder

.PHONY: run test test-slow lint nightly clean

run: $(VENV)/.installed
	$(BIN)/python -m harness.run -m $(RUN_ARGS)

test: $(VENV)/.installed-dev lint
	$(PYTEST) -m "not slow"
	@echo "the tests marked slow did not run: make test-slow"

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/check_lengths.py

nightly: $(VENV)/.installed-dev
	$(BIN)/python scripts/nightly.py --device "$(NIGHTLY_DEVICE)" --size "$(NIGHTLY_SIZE)" \
		--folder "$(NIGHTLY_FOLDER)" --baselines "$(NIGHTLY_BASELINES)"

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: no '$(PYTHON)' found; install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"error: Python {v[0]}.{v[1]} given, 3.11 to 3.13 needed; name one: make PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: this Python has no venv module; install it (Debian: apt-get install python3-venv)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) (a few minutes and about 5 GB the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) (a few minutes and about 5 GB the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
