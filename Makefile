# make report, make test, make explore: each sets up what it needs first, and goes on where that was stopped.
# In the conda environment of environment.yml its Python is used; otherwise a .venv of this folder.
PYTHON ?= python3
ifeq ($(CONDA_DEFAULT_ENV),dose-diffusion)
  ENV := $(CONDA_PREFIX)/bin/
  SETUP := $(ENV)python lib/environment.py --here
else
  ENV := .venv/bin/
  SETUP := $(PYTHON) lib/environment.py
endif

.PHONY: report test lint explore clean
report:
	@$(SETUP)
	$(ENV)python -m lib run params/phantom-quick.yaml

test: lint
	$(ENV)python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -rs

lint:
	@$(SETUP) --test
	$(ENV)ruff check --quiet .
	$(ENV)ruff format --quiet --check .
	$(ENV)lint-imports --no-cache --no-logo

explore:
	@$(SETUP)
	$(ENV)jupyter lab --ip=127.0.0.1 notebooks/explore.ipynb

clean:
	rm -rf .venv outputs/features outputs/*/checkpoints
