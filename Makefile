# make run            the whole line on the embedded demo (set-up included)
# make run LINE=DIR   another line: a folder with its own params.yaml
# make help           everything else
LINE ?= .
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(if $(shell command -v uv),uv pip install --quiet --compile-bytecode --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)

# The lock is given as constraints, too: for a package that another asks for with extras, pip 23 looks at these alone.
.PHONY: run test lint ui serve line score monitor report review labels runs promote rollback calibrate lock clean docs tutorials help

run: .venv/installed ## the whole line: every DVC stage, promotion, one scored batch
	@$(BIN)/python -m flows.train --line $(LINE)

test: .venv/installed ## the tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile

lint: .venv/installed ## ruff, lint and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

ui: .venv/installed ## the MLflow and Prefect pages on this machine
	@$(BIN)/python -m flows.ui

serve: .venv/installed ## serve the scheduled deployments of prefect.yaml
	@$(BIN)/python -m flows.serve --line $(LINE)

score: .venv/installed ## score the batch that params name, with the champion
	@$(BIN)/python -m flows.score --line $(LINE)

monitor: .venv/installed ## what the batches of a line say over time: drift, alarms, promises
	@$(BIN)/python -m flows.monitor --line $(LINE)

report: .venv/installed ## pages for people, HTML and PDF: of the candidates, or make report BATCH=NAME
	@$(BIN)/python -m flows.report --line $(LINE) $(if $(BATCH),--batch "$(BATCH)")

review: .venv/installed ## look at a batch's alarms in a browser and decide: make review BATCH=... PORT=4300
	@$(BIN)/python -m pipeline.review --line $(LINE) $(if $(BATCH),--batch $(BATCH)) $(if $(PORT),--port $(PORT))

labels: .venv/installed ## give labels back, for precision, recall and the next training: make labels FILE=labels.csv
	@$(BIN)/python -m flows.label --line $(LINE) $(if $(FILE),"$(FILE)")

runs: .venv/installed ## the run log: what was read, with which model, what came out
	@$(BIN)/python -m flows.runs --line $(LINE)

promote: .venv/installed ## ask the gate again
	@$(BIN)/python -m flows.promote --line $(LINE)

rollback: .venv/installed ## put the previous champion back
	@$(BIN)/python -m flows.promote --line $(LINE) --rollback

calibrate: .venv/installed ## other thresholds for the champion, without training: make calibrate SET="alpha=0.002 review=0.05"
	@$(BIN)/python -m flows.calibrate --line $(LINE) $(foreach change,$(SET),--set $(change))

line: .venv/installed ## a new line: make line LINE=lines/camera3 (LIKE=examples/magnetic_tile to start from its params)
	@$(BIN)/python -m pipeline.line $(LINE) $(if $(LIKE),--like $(LIKE))

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; name another by PYTHON=...")'
	@echo "installing the pinned packages into .venv (about 6 GB, some minutes)"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) --require-hashes -r requirements.lock -c requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@$(BIN)/python -m flows.prepare
	@touch $@

lock: ## pin the dependencies of pyproject.toml anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --extra dev --extra docs --extra engines --extra postgres pyproject.toml -o requirements.lock

docs: .venv/installed ## the site of docs/, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html stands; with its search: python -m http.server --bind 127.0.0.1 --directory site 8000"

tutorials: .venv/installed ## do what the tutorials say, in a copy of this checkout, and compare what comes out
	@$(BIN)/python -m tests.docs.tutorials

clean: ## remove what runs made in LINE, except the registry
	rm -rf $(LINE)/.assay $(LINE)/scores $(LINE)/reports $(LINE)/models $(LINE)/data/dataset $(LINE)/data/quarantine $(LINE)/data/augmented $(LINE)/data/split.parquet

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16
