PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo
OLDEST ?= .venv-oldest

.PHONY: demo test test-oldest lint format clean

# One stamp per extra: what pip has installed stays installed until pyproject.toml changes.
$(VENV)/.%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

demo: $(VENV)/.demo
	@if [ -f $(RUN)/config.yaml ]; then \
	  $(BIN)/python train.py --resume $(RUN); \
	else \
	  $(BIN)/python train.py --run_dir $(RUN); \
	fi
	$(BIN)/python evaluate.py --ckpt $(RUN)/detector.ckpt

# Files in the order of their names: the other order, by the number of tests, starts the slowest files last.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The lowest versions that pyproject.toml declares. uv resolves them; pip cannot.
test-oldest:
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python \
	  --resolution lowest-direct --editable ".[test]"
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
