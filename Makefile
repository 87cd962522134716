# engram: the front door. `make` alone lists the targets.
# Written for GNU make 3.81 and bash 3.2, as macOS ships them. Logic lives in the `engram` command, not here.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

BACKEND ?= auto
MODEL ?= auto
RECIPE ?= default
METHOD ?= lora
SEED ?= 0
SEEDS ?= 0,1,2
PATTERNS ?= patterns
SET ?=
QUANTIZE ?= none
DIR ?= exports/lm-eval
ADAPTER ?=
FORMAT ?= gguf
ARGS ?=
REPORT_TO ?=
YES ?=
CHECKPOINT ?= 25
FRESH ?=
NPROC ?= 1
Q ?=
BESIDE ?= $(if $(filter mlx,$(NAME)),cuda,mlx)
PYTHON3 ?= python3
# the container: its service, and (empty: the compose file's) the image that it is built on and the compose command
SERVICE ?= $(if $(filter cpu,$(BACKEND)),engram-cpu,engram)
BASE_IMAGE ?=
DOCKER_COMPOSE ?=
export BACKEND MODEL RECIPE METHOD SEED SEEDS PATTERNS SET QUANTIZE CHECKPOINT ADAPTER FORMAT ARGS REPORT_TO DIR BESIDE NPROC
export SERVICE BASE_IMAGE DOCKER_COMPOSE

# make must not expand the dollar signs of a question
export QUESTION := $(value Q)

# the container's image brings its own
VENV := $(or $(ENGRAM_VENV),.venv)
PYTHON := $(VENV)/bin/python
ENGRAM := $(VENV)/bin/engram
DEV_READY := $(VENV)/.ready-dev
VIDEO_READY := $(VENV)/.ready-video
GGUF_READY := $(VENV)/.ready-gguf

# auto: cuda where there is an NVIDIA GPU with Unsloth, else mlx
NAME := $(BACKEND)
ifeq ($(BACKEND),auto)
NAME := $(shell if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU \
  && ls -d $(VENV)/lib/python*/site-packages/unsloth >/dev/null 2>&1; then echo cuda; else echo mlx; fi)
endif

# each backend's packages have a stamp, and its adapter a layout: mlx-lm's or PEFT's
READY := $(VENV)/.ready
WEIGHTS := adapters.safetensors
ifneq ($(filter cuda cpu,$(NAME)),)
READY := $(VENV)/.ready-$(NAME)
WEIGHTS := adapter_model.safetensors
endif
# where Unsloth runs when it is compared with MLX
PARITY := $(if $(filter cuda,$(NAME)),cuda,cpu)
# any stamp is enough to look at the machine
SOME_READY := $(firstword $(wildcard $(VENV)/.ready $(VENV)/.ready-cuda $(VENV)/.ready-cpu) $(VENV)/.ready)

comma := ,
PATTERN_PLACES := $(subst $(comma), ,$(PATTERNS))
# a name that is neither a file nor a folder is a bundled pack: PATTERNS=http,ports
PACKS := $(foreach place,$(PATTERN_PLACES),$(if $(wildcard $(place)),,$(wildcard patterns/packs/$(place).yaml)))
PATTERN_FILES := $(sort $(wildcard $(PATTERN_PLACES:%=%/*.yaml) $(PATTERN_PLACES:%=%/*.yml) $(filter %.yaml %.yml,$(PATTERN_PLACES))) $(PACKS))
RECIPE_FILE := $(wildcard $(filter %.yaml %.yml,$(RECIPE)))
SETTINGS := $(foreach pair,$(SET) $(if $(filter-out none,$(QUANTIZE)),quantize=$(QUANTIZE)),--set $(pair))

MANIFEST := data/manifest.json
LORA := adapters/$(NAME)/$(WEIGHTS)
# what is taught: the backend's adapter, a memory, or a memory on top of the adapter; each with its own results
TRAINED := $(LORA)
LABEL := $(NAME)
HOW :=
ifneq ($(METHOD),lora)
LABEL := $(NAME)-$(METHOD)
TRAINED := adapters/$(LABEL)/memory.safetensors
HOW := --method "$$METHOD"
endif
# what is evaluated: that, or the adapter in the folder ADAPTER
USED := $(TRAINED)
WITH := $(HOW)
ifneq ($(ADAPTER),)
USED := $(wildcard $(ADAPTER)/adapter_config.json $(ADAPTER)/adapters.safetensors $(ADAPTER)/adapter_model.safetensors)
LABEL := $(NAME)-with-$(notdir $(abspath $(ADAPTER)))
WITH := --adapter "$$ADAPTER"
endif
OUT := results/$(LABEL)
MODEL_FILE := .make/model
STAGE = --model "$$(cat $(MODEL_FILE))" --backend $(NAME) --recipe "$$RECIPE" --seed "$$SEED" $(SETTINGS)

.PHONY: help setup data validate train eval compare seeds verify demo ask all record record-compare video-prep setup-video \
  setup-gguf export export-eval \
  report verify-model doctor gpu-check parity base-model reference docs docker-build docker-train docker-demo docker-shell docker-test \
  test test-slow torture bench compare-methods lint format lock audit clean distclean FORCE

help: ## this list
	@echo "engram: teach a small model patterns, see before and after. Start with: make demo"
	@echo
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -e 's/:.*## /|/' | awk -F'|' '{ printf "  make %-14s %s\n", $$1, $$2 }'
	@echo
	@echo "Variables (make demo SEED=1):"
	@echo "  BACKEND   = $(BACKEND)  (auto, mlx, cuda, cpu)"
	@echo "  MODEL     = $(MODEL)  (auto, tiny, smollm-135m, ... a hub id or a folder)"
	@echo "  RECIPE    = $(RECIPE)  (default, seed, or a .yaml file of settings)"
	@echo "  METHOD    = $(METHOD)  (lora, memory: rows that are read only at a taught answer, both)"
	@echo "  SEED      = $(SEED)  (of the split, the adapter and the batches)"
	@echo "  SEEDS     = $(SEEDS)  (of make seeds)"
	@echo "  PATTERNS  = $(PATTERNS)  (a folder or file of patterns, or a pack: http, ports, acronyms, capitals; several with commas)"
	@echo "  SET       = $(SET)  (settings over the recipe's: SET=\"rank=4 epochs=3\")"
	@echo "  QUANTIZE  = $(QUANTIZE)  (4bit: load the model in 4 bits; BACKEND=cuda alone)"
	@echo "  CHECKPOINT = $(CHECKPOINT)  (training steps between two checkpoints; 0: none)"
	@echo "  FRESH     = $(FRESH)  (of train: 1 drops the checkpoint of an interrupted run and starts over)"
	@echo "  NPROC     = $(NPROC)  (of train: processes on this machine that train as one, on the same curve)"
	@echo "  DIR       = $(DIR)  (of export-eval: the folder that it writes)"
	@echo "  ADAPTER   = $(ADAPTER)  (for eval, compare, demo: the folder of another backend's adapter)"
	@echo "  FORMAT    = $(FORMAT)  (of export: peft, mlx, fused, gguf, ollama; written to exports/<format>)"
	@echo "  ARGS      = $(ARGS)  (for demo: --quick, --pause, --speed 2, --width 80, --platforms mlx,cuda; for ask: --only tuned;"
	@echo "              for export: --quantize q8_0; for parity, torture, bench: --quick)"
	@echo "  REPORT_TO = $(REPORT_TO)  (of train: tensorboard or wandb; the curve goes to results/<backend>/logs)"
	@echo "  Q         =   (of ask: the question; without one it keeps asking)"
	@echo "  YES       = $(YES)  (of video-prep: 1 answers yes to the questions that only a person can answer)"
	@echo "  BESIDE    = $(BESIDE)  (of record-compare: the other backend)"
	@echo "  SERVICE   = $(SERVICE)  (of docker-*: engram with an NVIDIA GPU, engram-cpu without)"
	@echo "  BASE_IMAGE, DOCKER_COMPOSE  (of docker-*: docs/container.md)"

setup: $(READY) ## the virtual environment in .venv, with everything the demo needs

setup-video: $(VIDEO_READY) ## what recordings need: PyAV, Pillow, pyte

setup-gguf: $(GGUF_READY) ## what export FORMAT=gguf needs: the writer, and llama.cpp to check the file with

data: $(MANIFEST) ## training, validation and test rows from the patterns

validate: $(MANIFEST) ## check the pattern files, and prove that the splits do not leak
	@$(ENGRAM) validate "$$PATTERNS"
	@$(ENGRAM) data --check

train: $(TRAINED) ## teach the model: a LoRA adapter in adapters/<backend>/; interrupted, the same again goes on

eval: $(OUT)/baseline.json $(OUT)/tuned.json ## answer the test set before and after

compare: $(OUT)/comparison.json ## before and after, paired, with intervals; and every backend next to the others
	@$(ENGRAM) compare --backend $(NAME) --show --categories $(WITH)
	@$(ENGRAM) compare --across

seeds: $(MODEL_FILE) $(PATTERN_FILES) ## every stage for several seeds: mean and spread (SEEDS=0,1,2)
	@$(ENGRAM) seeds --seeds "$$SEEDS" --patterns "$$PATTERNS" --model "$$(cat $(MODEL_FILE))" --backend $(NAME) \
	  --recipe "$$RECIPE" $(SETTINGS) $(HOW)

verify: $(OUT)/comparison.json ## recompute every figure of the results, check data, model and adapter
	@$(ENGRAM) results verify

demo: $(OUT)/comparison.json ## everything up to the before/after show
	@$(ENGRAM) demo --model "$$(cat $(MODEL_FILE))" --backend $(NAME) --patterns "$$PATTERNS" $(WITH) $(ARGS)

ask: $(USED) $(MODEL_FILE) ## answers before and after, side by side, to a question of your own (Q="...") or to many
	@$(ENGRAM) ask --model "$$(cat $(MODEL_FILE))" --backend $(NAME) $(WITH) $(ARGS) $(if $(QUESTION),-- "$$QUESTION")

record: $(OUT)/demo.mp4 ## the demo as a film, with cast, GIF and still: results/<backend>/demo.*

record-compare: $(OUT)/comparison.json | $(VIDEO_READY) ## two backends' demos side by side: results/demo-compare.*
	@$(ENGRAM) record --backend $(NAME) --beside "$$BESIDE" --patterns "$$PATTERNS" $(HOW)

report: $(OUT)/comparison.json ## every result as one page that needs nothing else: results/report.html
	@$(ENGRAM) report --first $(LABEL)

# checks what exists and makes nothing; targets named on the same command line are made first
video-prep: | $(VIDEO_READY) $(filter all demo record report,$(MAKECMDGOALS)) ## the checklist before a video: what is stale, missing, personal (YES=1: answer its questions)
	@$(ENGRAM) video-prep --backend $(NAME) --patterns "$$PATTERNS" $(if $(YES),--yes) \
	  --model "$$(if [ "$$MODEL" = auto ] && [ -f $(MODEL_FILE) ]; then cat $(MODEL_FILE); else echo "$$MODEL"; fi)"

all: validate demo compare ## every stage

export: $(OUT)/comparison.json | $(if $(filter gguf ollama,$(FORMAT)),$(GGUF_READY)) ## take the taught model away, checked: FORMAT=gguf, fused, ollama, peft, mlx
	@$(ENGRAM) export --format "$$FORMAT" --model "$$(cat $(MODEL_FILE))" --backend $(NAME) $(WITH) $(ARGS)

export-eval: $(MANIFEST) $(MODEL_FILE) ## the test set as a task of lm-evaluation-harness, in DIR
	@$(ENGRAM) export-eval "$$DIR" --model "$$(cat $(MODEL_FILE))" --recipe "$$RECIPE" $(SETTINGS)

verify-model: $(MODEL_FILE) ## load the model and let it answer
	@$(ENGRAM) verify-model --model "$$(cat $(MODEL_FILE))" --backend $(NAME)

doctor: $(SOME_READY) ## what this machine has and lacks
	@$(ENGRAM) doctor --backend $(BACKEND)

gpu-check: | $(PYTHON) ## Unsloth against plain TRL + PEFT: curves, speed, memory (eight minutes at most)
	@$(PYTHON) -m tools.gpu_check --backend $(BACKEND)

parity: $(VENV)/.ready $(VENV)/.ready-$(PARITY) ## MLX and Unsloth on one loss curve (ARGS=--quick)
	@$(PYTHON) -c 'import matplotlib' 2>/dev/null || $(call listed,-r requirements-video.txt)
	@$(PYTHON) -m tools.parity --backend $(PARITY) $(ARGS)

base-model: $(READY) ## retrain the bundled model `tiny` (under an hour on two cores)
	@$(PYTHON) -c 'import torch' 2>/dev/null || $(call install,-r requirements-torch.txt)
	$(PYTHON) -m tools.tiny

reference: $(READY) ## run the seeds and recipes that the README reports (several minutes)
	$(PYTHON) -m tools.reference

docs: $(READY) $(VIDEO_READY) ## write the README's numbers and docs/cli.md
	$(PYTHON) -m tools.docs.make

docker-build: ## the container's image: SERVICE=engram for an NVIDIA GPU, engram-cpu without
	@docker/run --build

docker-train: ## make train in the container
	@docker/run make train

docker-demo: ## make demo in the container
	@docker/run make demo

docker-shell: ## a shell in the container
	@docker/run bash

docker-test: ## check the container in a real engine, on the CPU (docs/container.md)
	@$(PYTHON3) docker/test.py $(ARGS)

# a process per core; each with one thread for its sums, so that they don't take turns on the cores
test: $(DEV_READY) ## the tests: offline, no GPU
	@OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto --dist loadfile -m "not slow" $(ARGS)

test-slow: $(DEV_READY) ## the tests that take minutes: whole runs without network, hostile patterns, the tutorial
	@$(PYTHON) -m pytest -m slow $(ARGS)

torture: $(DEV_READY) ## the campaign of faults: kills, broken files, hostile input, long runs (ARGS=--quick)
	@$(PYTHON) -m tools.torture --seed "$$SEED" $(ARGS)

bench: $(DEV_READY) $(VENV)/.ready-cpu ## engram compared with stock mlx-lm, plain TRL and lm_eval, on this machine (ARGS=--quick)
	@$(PYTHON) benchmarks/run.py $(ARGS)

compare-methods: $(READY) $(VENV)/.ready-cpu ## LoRA, memory, both, examples in the prompt and a dictionary, compared (docs/memory.md)
	@$(PYTHON) -m tools.methods $(ARGS)

lint: $(DEV_READY) ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(DEV_READY) ## let ruff format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: ## rewrite the lists of packages, with a hash for each file (needs uv; ARGS=--upgrade)
	@.ci/lock $(ARGS)

audit: $(DEV_READY) ## ask the index for known holes in the packages of the lists
	@$(PYTHON) .ci/audit.py

clean: ## delete what the stages wrote (results/reference stays)
	rm -rf .make adapters/mlx adapters/cuda adapters/cpu results/mlx results/cuda results/cpu results/seeds
	rm -f adapters/.*.checkpoint.safetensors results/comparison.json results/report.html
	rm -rf exports/lm-eval exports/peft exports/mlx exports/fused exports/gguf exports/ollama
	rm -f results/demo-compare.*
	rm -rf results/mlx-with-* results/cuda-with-* results/cpu-with-*
	rm -rf {adapters,results}/{mlx,cuda,cpu}-{memory,both}
	rm -f data/train.jsonl data/valid.jsonl data/test.jsonl $(MANIFEST)
	rm -rf .data.lock {data,adapters,results,results/*}/.*.{lock,part,old}

distclean: clean ## and the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache dist build

# --- the environment -------------------------------------------------------------------------------------------------

# uv where it is found, else pip
install = if command -v uv >/dev/null; then uv pip install -q --python $(PYTHON) $(1); \
  else $(PYTHON) -m pip install -q --disable-pip-version-check $(1); fi
# of a list, which is complete: nothing is resolved, and a file whose hash is not in it is refused
listed = $(call install,--no-deps --require-hashes $(1))
# engram itself, built by what requirements-build.txt brought: nothing is fetched that no hash holds
itself = $(call install,--no-deps --no-build-isolation -e .)

$(PYTHON):
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "engram needs Python 3.10 or newer; name one: make PYTHON3=python3.12"; exit 2; }
	@echo "setting up $(VENV) (once)"
	@if command -v uv >/dev/null; then uv venv -q --seed --python $(PYTHON3) $(VENV); else $(PYTHON3) -m venv $(VENV); fi

$(VENV)/.ready: requirements.txt requirements-build.txt pyproject.toml | $(PYTHON)
	@$(call listed,-r requirements-build.txt -r requirements.txt)
	@$(itself)
	@touch $@

$(VENV)/.ready-cuda: requirements-gpu.txt requirements-build.txt pyproject.toml | $(PYTHON)
	@echo "installing Unsloth, TRL and torch for CUDA (about 4 GB, once)"
	@$(call listed,-r requirements-build.txt -r requirements-gpu.txt)
	@$(itself)
	@rm -f $(VENV)/.ready-cpu && touch $@

# pip alone looks where torch's CPU build is (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL); torch alone is held by no hash
$(VENV)/.ready-cpu: requirements-cpu.txt requirements-torch.txt requirements-build.txt pyproject.toml | $(PYTHON)
	@echo "installing Unsloth, TRL and torch for the CPU (once)"
	@$(PYTHON) -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements-build.txt \
	  -r requirements-cpu.txt
	@$(PYTHON) -m pip install -q --disable-pip-version-check -r requirements-torch.txt
	@$(itself)
	@rm -f $(VENV)/.ready-cuda && touch $@

$(VIDEO_READY): requirements-video.txt | $(READY)
	@$(call listed,-r requirements-video.txt)
	@touch $@

$(GGUF_READY): requirements-gguf.txt | $(READY)
	@$(call listed,-r requirements-gguf.txt)
	@touch $@

$(DEV_READY): requirements-dev.txt $(READY) $(VIDEO_READY)
	@$(call listed,-r requirements-dev.txt)
	@touch $@

# --- parameters: rewritten only where they differ, so that a changed variable redoes what depends on it -----------------

# each shell writes its own file, so that two makes at once do not remove each other's
keep = mkdir -p $(@D) && printf '%s\n' $(1) > $@.$$$$ && if cmp -s $@.$$$$ $@; then rm -f $@.$$$$; else mv -f $@.$$$$ $@; fi

.make/data.params: FORCE
	@$(call keep,"$$PATTERNS" "$$SEED" $(PATTERN_FILES))

.make/model.params: FORCE
	@$(call keep,"$$MODEL")

.make/$(NAME).params: FORCE
	@$(call keep,"$$RECIPE" "$$SEED" "$$SET" "$$QUANTIZE")

ifneq ($(METHOD),lora)
.make/$(NAME)-$(METHOD).params: FORCE
	@$(call keep,"$$RECIPE" "$$SEED" "$$SET" "$$QUANTIZE")
endif

ifneq ($(ADAPTER),)
.make/$(LABEL).params: FORCE
	@$(call keep,"$$RECIPE" "$$SEED" "$$SET" "$$QUANTIZE" "$$ADAPTER")
endif

FORCE:

# --- the stages --------------------------------------------------------------------------------------------------------

$(MODEL_FILE): .make/model.params | $(READY)
	@$(ENGRAM) resolve-model --model "$$MODEL" --out $@

$(MANIFEST): .make/data.params $(PATTERN_FILES) engram/patterns/loading.py engram/dataset/phrasing.py engram/dataset/build.py | $(READY)
	@$(ENGRAM) data --patterns "$$PATTERNS" --seed "$$SEED"

# an adapter is whole or absent: an interrupted make need not delete it
.PRECIOUS: $(LORA) $(TRAINED)
$(LORA): $(MANIFEST) $(MODEL_FILE) .make/$(NAME).params $(RECIPE_FILE) $(if $(FRESH),FORCE) | $(READY)
	@$(ENGRAM) train $(STAGE) --checkpoint-every "$$CHECKPOINT" $(if $(FRESH),--fresh) \
	  $(if $(REPORT_TO),--report-to "$$REPORT_TO") $(if $(filter-out 1,$(NPROC)),--nproc "$$NPROC")

ifneq ($(TRAINED),$(LORA))
$(TRAINED): $(MANIFEST) $(MODEL_FILE) .make/$(NAME)-$(METHOD).params $(RECIPE_FILE) $(if $(filter both,$(METHOD)),$(LORA)) \
  $(if $(FRESH),FORCE) | $(READY)
	@$(ENGRAM) train $(STAGE) $(HOW)
endif

$(OUT)/baseline.json: $(MANIFEST) $(MODEL_FILE) .make/$(LABEL).params $(RECIPE_FILE) | $(READY)
	@$(ENGRAM) eval --stage baseline $(STAGE) $(WITH)

$(OUT)/tuned.json: $(USED) $(MANIFEST) $(MODEL_FILE) .make/$(LABEL).params $(RECIPE_FILE) | $(READY)
	@$(ENGRAM) eval --stage tuned $(STAGE) $(WITH)

$(OUT)/comparison.json: $(OUT)/baseline.json $(OUT)/tuned.json
	@$(ENGRAM) compare --backend $(NAME) --quiet $(WITH)

$(OUT)/demo.mp4: $(OUT)/comparison.json $(wildcard engram/show/*.py engram/show/demo/*.py engram/show/video/*.py engram/support/console.py) | $(VIDEO_READY)
	@$(ENGRAM) record --backend $(NAME) --patterns "$$PATTERNS" $(HOW)
