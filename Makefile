# make report, make test, make explore: each sets up what it needs, once.
# In the conda environment of environment.yml its Python is used; otherwise a .venv of this folder.
PYTHON ?= python3
ifeq ($(CONDA_DEFAULT_ENV),dose-diffusion)
  ENV := $(CONDA_PREFIX)/bin/
  READY := $(CONDA_PREFIX)/.dose-diffusion-ready
else
  ENV := .venv/bin/
  READY := .venv/.ready
endif

.PHONY: report test explore clean
report: $(READY)
	$(ENV)python -m lib.run params/phantom-quick.yaml

test: $(READY)-test
	$(ENV)python -m pytest

explore: $(READY)
	$(ENV)jupyter lab --ip=127.0.0.1 notebooks/05_explore.ipynb

$(READY): requirements.lock pyproject.toml
	@test -x $(ENV)python || $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; name one with make PYTHON=python3.12')"
	@test -x $(ENV)python || $(PYTHON) -m venv .venv
	$(ENV)python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(ENV)python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(READY)

$(READY)-test: $(READY)
	$(ENV)python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[test]"
	@touch $(READY)-test

clean:
	rm -rf .venv outputs/features outputs/*/checkpoints
