# Everything runs inside .venv, which the first command creates and a change of the dependencies renews.
#   make demo PYTHON=python3.12          another interpreter, after make clean
#   make test ARGS="-k packaging"        arguments for the command: pytest options, or Hydra overrides for demo

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP_OPTIONS := --quiet --disable-pip-version-check --constraint
PIP_INSTALL := $(BIN)/python -m pip install $(PIP_OPTIONS) constraints.txt
METAWORLD_INSTALL := .venv_metaworld/bin/python -m pip install $(PIP_OPTIONS) .venv_metaworld/constraints.txt
# Two processes of one thread each: torch with two threads in two processes slows both down. Each begins with half of
# the tests and takes from the other when it is done, so that what a file's tests share is made once, mostly.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

.DEFAULT_GOAL := help
.PHONY: help install demo quick test docs robomimic metaworld lint clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

install: $(READY) ## Create .venv and nothing more

demo: $(READY) ## Train a shortcut policy and a Diffusion Policy, roll both out, write the report (13 minutes)
	@$(BIN)/python scripts/benchmark.py --config-name demo $(ARGS)

# Without those that are marked as slow: the first thing to run, and often.
quick: $(READY) ## Run the tests that take no time (2 to 9 minutes)
	@$(PYTEST) -m "not slow" $(ARGS)

test: $(READY) ## Run the tests (10 to 25 minutes)
	@$(PYTEST) $(ARGS)

docs: $(READY) ## Build the pages of docs/ as a site; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html is there; with its search: python -m http.server -d site"

# Without its dependencies, which pull in another torch and packages that do not build: what the tests import of it
# needs none of them.
robomimic: $(READY) ## Add robomimic itself, which some tests compare with
	@$(PIP_INSTALL) --no-deps --no-build-isolation robomimic==0.3.0

# Beside .venv, because Meta-World takes mujoco 3.3.0 alone, with which robosuite plays otherwise than in our results.
metaworld: ## Create .venv_metaworld, with Meta-World and OGBench
	@$(PYTHON) -m venv .venv_metaworld
	@grep -v -E '^(mujoco|mink)==' constraints.txt > .venv_metaworld/constraints.txt
	@$(METAWORLD_INSTALL) "$$(grep '^torch==' constraints.txt)" && $(METAWORLD_INSTALL) hatchling
	@$(METAWORLD_INSTALL) --no-build-isolation --editable '.[dev,robomimic,metaworld]'
	@echo ".venv_metaworld is ready"

lint: $(READY) ## Check style, format, types and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy shortcut_policy envs/shortcut_envs studies scripts docs/hooks packages/client/shortcut_client packages/lerobot_policy_shortcut/lerobot_policy_shortcut
	@PYTHONPATH=.:envs:studies $(BIN)/lint-imports --no-logo

clean: ## Remove the environment, caches and builds; trained runs stay
	@rm -rf $(VENV) .venv_metaworld build dist site .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The pinned torch comes first and alone, so that no other package can choose a different one. The package itself
# needs the build backend in the environment: nothing is fetched for its build, now or later. An environment that
# exists is brought up to date in place: without a network too, as long as no version changed.
$(READY): pyproject.toml packages/client/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, \
	$(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	@echo "Preparing $(VENV) with the versions of constraints.txt (a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@echo "  torch" && $(PIP_INSTALL) "$$(grep '^torch==' constraints.txt)"
	@echo "  build backend" && $(PIP_INSTALL) hatchling
	@echo "  shortcut_policy and its dependencies" && $(PIP_INSTALL) --no-build-isolation --editable '.[dev,docs,robomimic,images,mcap,serve,export,lerobot,record,rerun]'
	@echo "  shortcut_client" && $(PIP_INSTALL) --no-build-isolation --editable packages/client
	@touch $@
	@echo "$(VENV) is ready"
