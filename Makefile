# The commands of the course. CORPUS, PROFILE, SEED, WORDS, HELD_OUT, MODEL, EXPERIMENTS, PEERS and CLUSTER are taken from the command line or the environment.
PYTHON ?= python3
CORPUS ?= synthetic
PROFILE ?= sample
SEED ?= 0
# the others make passes on by itself, if they are set; an export would set them to nothing
export CORPUS PROFILE SEED
# without its byte code every kernel compiles TensorFlow anew, for seven seconds
export PYTHONDONTWRITEBYTECODE :=
export TF_CPP_MIN_LOG_LEVEL ?= 2
BIN := .venv/bin
COMMA := ,
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadgroup
# uv installs in a fifth of pip's time; where it cannot be had, pip does the same
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) 2> /dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(1)

.PHONY: help run lab demo micro notebooks test rest full slow audit bench site slides links checkpoint clean

help:
	@echo "make run [CORPUS=synthetic|mini|v0.01|v0.02|pages|arabic|kaggle|PATH] [PROFILE=smoke|sample|full] [WORDS=\"on off\"] [EXPERIMENTS=more|all] [VERBOSE=1]   all notebooks, in order"
	@echo "make lab         JupyterLab"
	@echo "make demo [CORPUS=…]    the page that listens in the browser, with the models of a corpus and of the package"
	@echo "make micro [CORPUS=…]   its network for a microcontroller, in data/<corpus>/micro/"
	@echo "make notebooks   run the notebooks in place, so that their outputs can be committed"
	@echo "make test        the tests that find most faults soonest"
	@echo "make full        all tests"
	@echo "make slow        the tests that need a network, or an hour"
	@echo "make audit       known holes in the versions that CI installs"
	@echo "make bench       speed of features and store; makes 65,000 clips for it, 2.2 GB for some minutes"
	@echo "make links       whether all links lead somewhere"
	@echo "make site        the notebooks and texts as a web site, with the page that listens, in _site/"
	@echo "make slides      a slide for each notebook, for teaching, in _slides/"
	@echo "make checkpoint N=4    what notebook 4 needs of the ones before it"

$(BIN)/.ready: req.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv/ ..."
	-@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv 2> /dev/null
	@$(call INSTALL,--editable .)
	@touch $@

$(BIN)/.dev: requirements-dev.txt req-scale.txt req-micro.txt $(BIN)/.ready
	$(call INSTALL,--editable ".[scale$(COMMA)micro$(COMMA)dev]")
	touch $@

run: $(BIN)/.ready
	@$(BIN)/python tools/course.py

lab: $(BIN)/.ready
	LISTEN=1 $(BIN)/jupyter lab

demo: $(BIN)/.ready
	@$(BIN)/python tools/demo.py

micro: $(BIN)/.dev
	$(BIN)/python tools/micro.py data/$(notdir $(CORPUS))

notebooks: $(BIN)/.ready
	IMGS=imgs $(BIN)/python tools/course.py --in-place
	$(BIN)/python tools/course.py --in-place extras/*.ipynb solutions/*.ipynb

test: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) -m "not full and not slow"

rest: $(BIN)/.dev
	$(PYTEST) -m "full and not slow"

full: test rest

slow: $(BIN)/.dev
	$(BIN)/python -m pytest -q -m slow

links: $(BIN)/.dev
	$(BIN)/python tools/links.py

audit: $(BIN)/.dev
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off --timeout 10

bench: $(BIN)/.dev
	$(BIN)/python benchmarks/features.py
	$(BIN)/python benchmarks/store.py

site: $(BIN)/.dev
	$(BIN)/sphinx-build -q -c docs . _site
	-$(BIN)/python tools/demo.py --no-serve --folder _site/demo

slides: $(BIN)/.ready
	@$(BIN)/python tools/slides.py

checkpoint: $(BIN)/.ready
	$(BIN)/python tools/checkpoint.py $(N)
