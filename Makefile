# One word per chore; `make help` lists them. All of it lives in .venv. Only two things may be installed
# outside: the distribution's venv package (as root) and, for `make test`, a Chromium with what drives it.

# The first Python of at least 3.11; PYTHON=/path/to/python chooses another.
OLD_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$p" -c '$(OLD_ENOUGH)' 2>/dev/null && echo "$$p" && break; done)
VENV_PACKAGE = $(shell "$(PYTHON)" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])' 2>/dev/null)
PY := .venv/bin/python
INSTALL := $(PY) -m pip install --disable-pip-version-check --no-input --require-virtualenv

.PHONY: help install run test check deploy clean
.DEFAULT_GOAL := help

help: ## list the chores
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s%s\n", $$1, $$2}' Makefile

install: .venv/installed ## make .venv and install requirements.txt
	@echo "Ready: make run"

run: .venv/installed ## serve the chat at 127.0.0.1:7860 (PORT=8000 make run: another port)
	@exec $(PY) app.py

test: .venv/installed-tests ## run every test that needs no GPU and no cluster; finds or installs a Chromium
	@$(PY) -m tests.chromium
	$(PY) -m pytest -m "not gpu and not cluster"

check: .venv/installed-tests ## lint (ruff) and types (mypy)
	$(PY) -m ruff check .
	$(PY) -m mypy

deploy: .venv/installed ## put this on the Hub as a Space: make deploy SPACE=me/olmoe (HARDWARE=cpu-basic, DRY_RUN=1)
	@$(PY) -m olmoe_space deploy "$(SPACE)" $(if $(HARDWARE),--hardware "$(HARDWARE)") $(if $(DRY_RUN),--dry-run)

clean: ## remove .venv and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps are newer than what they were made from, so a second `make` installs nothing.
.venv/installed: requirements.txt | $(PY)
	$(INSTALL) -r requirements.txt
	@$(PY) -m olmoe_space --model assets/olmoe-tiny generate Hello --max-new-tokens 1 >/dev/null  # compiles the CPU loops
	@touch $@

.venv/installed-tests: tests/requirements.txt .venv/installed
	$(INSTALL) -r tests/requirements.txt -c requirements.txt
	@touch $@

$(PY):
	@"$(PYTHON)" -c '$(OLD_ENOUGH)' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed; none was found. On Debian or Ubuntu:" \
		     "sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		[ "$$(id -u)" = 0 ] && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(VENV_PACKAGE); } || { \
		echo "This Python cannot make a virtual environment. On Debian or Ubuntu:" \
		     "sudo apt-get install $(VENV_PACKAGE)" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear .venv
