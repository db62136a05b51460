# One recipe per thing a user or CI does. `make help` lists them.
PYTHON ?= python3.11
PYTHON := $(shell command -v $(PYTHON) || command -v python3)
VENV := .venv
NERFSTUDIO_VENV := .venv-nerfstudio
BIN := $(VENV)/bin
DEMO_HOME ?= demo
TEST_PROCESSES ?= 2
EXTRAS ?= dev
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo ui test check environments lint types contracts tests nightly golden pointrend wheel-check lock clean system-packages

help: ## List the recipes
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: environments ## Raw frames to an evaluated student, on procedural scenes
	$(BIN)/distillnerf demo --home $(DEMO_HOME)

ui: environments ## Open the Dagster UI on the demo's home
	$(BIN)/distillnerf ui --home $(DEMO_HOME)

test: environments check wheel-check ## Everything that CI runs

check: lint types contracts tests ## Lint, types, import contracts and tests, in environments that exist

environments: $(VENV)/.built $(NERFSTUDIO_VENV)/.built ## Build both Python environments

# pip before 24 backtracks into source packages that no longer build: upgrade it first.
$(VENV)/.built: pyproject.toml environments/main.txt
	@echo "== main environment ($(VENV)), about 2 minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/pip install -q --progress-bar off -c environments/main.txt -e '.[$(EXTRAS)]'
	$(BIN)/pip uninstall -qq -y waymo-open-dataset-tf-2-12-0 # of an earlier build: without its dependencies no check passes
	$(BIN)/pip check
	$(BIN)/pip install -q --no-deps waymo-open-dataset-tf-2-12-0==1.6.7 # protobuf modules alone: see docs/adr/0009
	@touch $@

$(NERFSTUDIO_VENV)/.built: pyproject.toml environments/nerfstudio.txt
	@echo "== nerfstudio environment ($(NERFSTUDIO_VENV)), about 2 minutes"
	$(PYTHON) -m venv $(NERFSTUDIO_VENV)
	$(NERFSTUDIO_VENV)/bin/pip install -q --upgrade pip
	$(NERFSTUDIO_VENV)/bin/pip uninstall -qq -y opencv-python opencv-python-headless # of an earlier build: they overwrote each other's cv2
	$(NERFSTUDIO_VENV)/bin/pip install -q --progress-bar off --no-deps -r environments/nerfstudio.txt # the list is whole; see there
	PYTHONWARNINGS=ignore $(NERFSTUDIO_VENV)/bin/pip install -q --no-deps -e .
	@touch $@

pointrend: $(VENV)/.built ## Build detectron2 from its source, DETECTRON2=<folder>, for PointRend's sky masks
	@test -f "$(DETECTRON2)/setup.py" || (echo "make pointrend DETECTRON2=<folder of detectron2's source>" && false)
	$(BIN)/pip install -q --no-deps torchvision==0.28.0 fvcore iopath yacs omegaconf hydra-core antlr4-python3-runtime==4.9.3 portalocker cloudpickle tabulate termcolor setuptools wheel ninja
	$(BIN)/pip install --no-build-isolation --no-deps "$(DETECTRON2)"

lint: ## Format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: ## Static types
	$(BIN)/pyright

contracts: ## What may import what
	$(BIN)/lint-imports

tests: ## The default test suite, in two processes; a file's tests share what they set up
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

nightly: environments ## The longest tests, which the default suite leaves out
	$(BIN)/python -m pytest -m nightly

golden: ## Make the golden files again; review the diff
	$(BIN)/python -m pytest --regenerate-golden

wheel-check: environments ## Build the wheel, install it in a clean environment and test it there
	bash .ci/wheel-check

lock: ## Record the versions of the main environment
	@(sed -n '/^#/p' environments/main.txt; $(BIN)/pip list --format=freeze | grep -viE '^(distillnerf|pip|setuptools|wheel)' | sed 's/+cpu//' | sort -f) > environments/main.new && mv environments/main.new environments/main.txt

system-packages: ## Debian packages that some tests need: a browser, a database server
	(command -v chromium && ls /usr/lib/postgresql/*/bin/initdb) >/dev/null 2>&1 || (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium postgresql)

clean: ## Remove environments and caches, never data
	rm -rf $(VENV) $(NERFSTUDIO_VENV) build dist *.egg-info .pytest_cache .ruff_cache
