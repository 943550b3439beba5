# `make test` and `make demo` build the environment .venv on first use.
SHELL := /bin/bash
.PHONY: test test-slow check demo lint notebooks clean

# The newest Python >= 3.11 that runs and can build an environment; `make PYTHON=/path/to/python test` overrides.
# A name on PATH may be a shim that does not run, hence the trial of each.
PYTHON ?= $(shell \
  for candidate in python3.14 python3.13 python3.12 python3.11 python3 \
    "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin/python; do \
    "$$candidate" -c 'import sys, sysconfig, venv, ensurepip, ssl; v = sys.version_info; \
    v >= (3, 11) and v.releaselevel == "final" and not sysconfig.get_config_var("Py_GIL_DISABLED") \
    and print("%d.%d.%d" % v[:3], sys.executable)' 2>/dev/null; \
  done | sort -V | tail -n 1 | cut -d " " -f 2-)

# -q twice: errors only, not the warnings about a machine's own index settings.
PIP := .venv/bin/python -m pip install -q -q --disable-pip-version-check -c constraints.txt

test: .venv/ok
	.venv/bin/python -m pytest

test-slow: .venv/ok
	.venv/bin/python -m pytest -m slow

# What a person waits for: the linters, the tests that go over every file and every public name, and the examples and
# tests in the files that differ from the commit SINCE or are new. `make test` is the whole.
SINCE ?= HEAD
BATTERIES := $(patsubst %,tests/test_%.py,style import architecture contributing contracts)
CODE := 'polopt_jax/*.py' 'tests/test_*.py'

check: lint
	@changed=$$(git diff --name-only --diff-filter=d $(SINCE) -- $(CODE)) && \
	new=$$(git ls-files --others --exclude-standard -- $(CODE)) && \
	echo "beside the batteries:" $${changed:-nothing changed} $$new && \
	.venv/bin/python -m pytest $(BATTERIES) $$changed $$new && \
	.venv/bin/python -m pytest -m slow tests/test_contracts.py

demo: .venv/ok
	.venv/bin/polopt compare

lint: .venv/ok-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright --pythonpath .venv/bin/python

# Each notebook is a script notebooks/*.py (percent format); the .ipynb beside it holds its outputs.
notebooks: .venv/ok-notebooks
	.venv/bin/jupytext --quiet --to ipynb notebooks/*.py
	.venv/bin/jupyter-execute --inplace notebooks/*.ipynb

clean:
	rm -rf .venv .jax_cache .pytest_cache .ruff_cache .hypothesis build dist
	find polopt_jax tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ok: pyproject.toml constraints.txt
	@python='$(PYTHON)'; \
	if [ -z "$$python" ]; then echo "no Python >= 3.11 with venv found; name one: make PYTHON=... $(MAKECMDGOALS)" >&2; exit 1; fi; \
	echo "building .venv with $$python (about a minute)"; \
	rm -rf .venv && "$$python" -m venv .venv
	@$(PIP) -e '.[test]'
	@touch $@

.venv/ok-dev: .venv/ok
	@$(PIP) -e '.[test,dev]'
	@touch $@

.venv/ok-notebooks: .venv/ok
	@$(PIP) -e '.[test,notebooks]'
	@touch $@
