# The commands of the course. CORPUS, PROFILE, SEED, WORDS, HELD_OUT, MODEL, EXPERIMENTS, PEERS and CLUSTER are taken from the command line or the environment.
PYTHON ?= python3
CORPUS ?= synthetic
PROFILE ?= sample
SEED ?= 0
# the others make passes on by itself, if they are set; an export would set them to nothing
export CORPUS PROFILE SEED
export TF_CPP_MIN_LOG_LEVEL ?= 2
BIN := .venv/bin

.PHONY: help run lab notebooks test slow audit bench html links exercises checkpoint clean

help:
	@echo "make run [CORPUS=synthetic|mini|v0.01|v0.02|kaggle|PATH] [PROFILE=smoke|sample|full] [WORDS=\"on off\"] [EXPERIMENTS=more|all] [PEERS=FOLDER OF FROZEN GRAPHS] [CLUSTER=local|ADDRESS OF A DASK SCHEDULER]   all notebooks, in order"
	@echo "make lab         JupyterLab"
	@echo "make notebooks   run the notebooks in place, so that their outputs can be committed"
	@echo "make test        the tests"
	@echo "make slow        the tests that take long or need a network"
	@echo "make audit       known holes in the versions that CI installs"
	@echo "make bench       speed of features and store; makes 65,000 clips for it, 2.2 GB for some minutes"
	@echo "make links       whether all links lead somewhere"
	@echo "make html        the executed notebooks as web pages in _site/"
	@echo "make exercises   the notebooks without solutions, in exercises/"
	@echo "make checkpoint N=4    what notebook 4 needs of the ones before it"

$(BIN)/.ready: req.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r req.txt
	touch $@

$(BIN)/.dev: requirements-dev.txt req-scale.txt $(BIN)/.ready pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

run: $(BIN)/.ready
	$(BIN)/python tools/course.py

lab: $(BIN)/.ready
	LISTEN=1 $(BIN)/jupyter lab

notebooks: $(BIN)/.ready
	IMGS=imgs $(BIN)/python tools/course.py --in-place

test: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q

slow: $(BIN)/.dev
	$(BIN)/python -m pytest -q -m slow

links: $(BIN)/.dev
	$(BIN)/python tools/links.py

audit: $(BIN)/.dev
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off --timeout 10

bench: $(BIN)/.dev
	$(BIN)/python benchmarks/features.py
	$(BIN)/python benchmarks/store.py

html: $(BIN)/.ready
	$(BIN)/python tools/site.py

exercises: $(BIN)/.ready
	$(BIN)/python tools/exercises.py

checkpoint: $(BIN)/.ready
	$(BIN)/python tools/checkpoint.py $(N)
