# engram: the front door. `make` alone lists what most people need, `make help-all` everything.
# Written for GNU make 3.81 and bash 3.2, as macOS ships them. A target calls `engram`, which decides by content what is
# up to date; make only knows whether the packages are installed.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.NOTPARALLEL:

BACKEND ?= auto#: auto, mlx, cuda, cpu
MODEL ?= auto#: auto, tiny, smollm-135m, ... a hub id, a folder or a .gguf file
RECIPE ?= default#: default, seed, or a .yaml file of settings
METHOD ?= lora#: lora, memory: rows that are read only at a taught answer, both
SEED ?= 0#: of the split, the adapter and the batches
SEEDS ?= 0,1,2#: of make seeds
PATTERNS ?= patterns#: a folder or file of patterns, or a pack: http, ports, acronyms, capitals; several with commas
HOLDOUT ?= rules#: what is never taught: members of rules and a rewording of each pattern; none: everything is taught
SET ?= #: settings over the recipe's: SET="rank=4 epochs=3"
QUANTIZE ?= none#: load the model in fewer bits: 4bit (mlx, cuda) or 8bit (mlx)
CHECKPOINT ?= 25#: training steps between two checkpoints; 0: none
FRESH ?= #: of train: 1 drops the checkpoint of an interrupted run and starts over
NPROC ?= 1#: of train: processes on this machine that train as one, on the same curve
REPORT_TO ?= #: of train: tensorboard or wandb; the curve goes to results/<backend>/logs
ADAPTER ?= #: for eval, compare, demo, ask, export: the folder of another backend's adapter
FORMAT ?= gguf#: of export: peft, mlx, fused, gguf, ollama; written to exports/<format>
DIR ?= exports/lm-eval#: of export-eval: the folder that it writes
Q ?= #: of ask: the question; without one it keeps asking
YES ?= #: of video-prep: 1 answers yes to the questions that only a person can answer
BESIDE ?= auto#: of record-compare: the other backend
ARGS ?= #: for demo: --quick, --pause, --speed 2, --width 80, --platforms mlx,cuda; ask: --only tuned; report: --all; data to demo: --force; export: --quantize q8_0; parity, torture, bench: --quick
SERVICE ?= $(if $(filter cpu,$(BACKEND)),engram-cpu,engram)#: of docker-*: engram with an NVIDIA GPU, engram-cpu without; BASE_IMAGE, DOCKER_COMPOSE: docs/container.md
PYTHON3 ?= python3
export SERVICE

# A recipe reads a variable as V_NAME from its environment: make expands no dollar sign there, the shell splits no blank.
$(foreach name,$(shell sed -n 's/^\([A-Z_]*\) ?= .*\#: .*/\1/p' Makefile),$(eval export V_$(name) := $$(value $(name))))
V_SERVICE := $(SERVICE)

VENV := $(or $(ENGRAM_VENV),.venv)# the container's image brings its own
PYTHON := $(VENV)/bin/python
ENGRAM := $(VENV)/bin/engram
# each backend's packages have a stamp; auto takes those that are there
READY := $(VENV)/.ready$(addprefix -,$(filter cuda cpu,$(BACKEND)))
ifeq ($(BACKEND),auto)
READY := $(firstword $(wildcard $(VENV)/.ready-cuda $(VENV)/.ready) $(VENV)/.ready)
endif
DEV_READY := $(VENV)/.ready-dev
VIDEO_READY := $(VENV)/.ready-video
GGUF_READY := $(VENV)/.ready-gguf

WHERE = --model "$$V_MODEL" --backend "$$V_BACKEND" --method "$$V_METHOD" --recipe "$$V_RECIPE" --set "$$V_SET" \
  --patterns "$$V_PATTERNS" $(if $(filter-out none,$(QUANTIZE)),--set "quantize=$$V_QUANTIZE")
# the stages up to a target, in one process
RUN = @$(ENGRAM) run $(WHERE) --seed "$$V_SEED" --holdout "$$V_HOLDOUT" --checkpoint-every "$$V_CHECKPOINT" --nproc "$$V_NPROC" \
  $(if $(FRESH),--fresh) $(if $(REPORT_TO),--report-to "$$V_REPORT_TO") $(if $(ADAPTER),--adapter "$$V_ADAPTER")

.PHONY: help $(shell sed -n 's/^\([a-z-]*\):.* \#\# .*/\1/p' Makefile)

SHOWN := see it:demo record report|teach your own:validate train ask|look at the results:compare gate verify seeds|take it away:export serve|before a video:video-prep|this machine:setup doctor test
help: ; @awk -v shown='$(SHOWN)' -f tools/help.awk Makefile
help-all: ## every target and variable
	@awk -v all=1 -f tools/help.awk Makefile

setup: $(READY) ## the virtual environment in .venv, with everything the demo needs
setup-video: $(VIDEO_READY) ## what recordings need: PyAV, Pillow, pyte
setup-gguf: $(GGUF_READY) ## what export FORMAT=gguf needs: llama.cpp, to check the file with
data: ## training, validation and test rows from the patterns
train: ## teach the model: a LoRA adapter in adapters/<backend>/; interrupted, the same again goes on
eval: ## answer the test set before and after
compare: ## before and after, paired, with intervals; and every backend next to the others
FURTHEST = $(lastword $(foreach stage,data train eval compare,$(filter $(stage),$(MAKECMDGOALS))))# leads over the others
data train eval compare: | $(READY)
	$(if $(filter $@,$(FURTHEST)),$(RUN) $@ $(ARGS),@:)
validate: | $(READY) ## check the pattern files, and prove that the splits do not leak
	$(RUN) data
	@$(ENGRAM) validate "$$V_PATTERNS"
	@$(ENGRAM) data --check
demo: ## everything up to the before/after show
report: ## every result as one page that needs nothing else: results/report.html
demo report: | $(READY)
	$(RUN) $@ -- $(ARGS)
record: | $(READY) $(VIDEO_READY) ## the demo as a film, with cast, GIF and still: results/<backend>/demo.*
	$(RUN) record -- $(ARGS)
record-compare: | $(READY) $(VIDEO_READY) ## two backends' demos side by side: results/demo-compare.*
	$(RUN) record -- --beside "$$V_BESIDE" $(ARGS)
ask: | $(READY) ## answers before and after, side by side, to a question of your own (Q="...") or to many
	$(RUN) ask -- $(ARGS) $(if $(value Q),-- "$$V_Q")
export: | $(READY) $(if $(filter gguf ollama,$(FORMAT)),$(GGUF_READY)) ## take the taught model away, checked: FORMAT=gguf, fused, ollama, peft, mlx
	$(RUN) export -- --format "$$V_FORMAT" $(ARGS)
serve: | $(READY) ; $(RUN) serve -- $(ARGS) ## serve the taught model to programs that speak the protocol of OpenAI, on this machine alone
export-eval: | $(READY) ## the test set as a task of lm-evaluation-harness, in DIR
	$(RUN) export-eval -- "$$V_DIR" $(ARGS)
verify: | $(READY) ## recompute every figure of the results, check data, model and adapter
	$(RUN) verify
gate: | $(READY) ; $(RUN) gate -- $(ARGS) ## the verdict, with an exit code: LEARNED 0, NOT SHOWN 1, BROKE SOMETHING 3
seeds: | $(READY) ## every stage for several seeds: mean and spread (SEEDS=0,1,2)
	@$(ENGRAM) seeds --seeds "$$V_SEEDS" $(WHERE) $(ARGS)
all: validate demo compare ## every stage: validate, demo, compare
# checks what exists and makes nothing; targets named on the same command line are made first
video-prep: | $(VIDEO_READY) $(filter all demo record report,$(MAKECMDGOALS)) ## the checklist before a video: what is stale, missing, personal (YES=1: answer its questions)
	@$(ENGRAM) video-prep --backend "$$V_BACKEND" --patterns "$$V_PATTERNS" --model "$$V_MODEL" $(if $(YES),--yes)
verify-model: | $(READY) ## load the model and let it answer
	@$(ENGRAM) verify-model --model "$$V_MODEL" --backend "$$V_BACKEND"
# any packages are enough to look at the machine
doctor: | $(firstword $(wildcard $(READY) $(VENV)/.ready $(VENV)/.ready-cuda $(VENV)/.ready-cpu) $(READY)) ## what this machine has and lacks
	@$(ENGRAM) doctor --backend "$$V_BACKEND"

# for those who work on engram
gpu-check: | $(PYTHON) ## Unsloth against plain TRL + PEFT: curves, speed, memory (eight minutes at most)
	@$(PYTHON) -m tools.gpu_check --backend "$$V_BACKEND"
# Unsloth runs on cuda where that is the backend, else on the CPU
parity: $(VENV)/.ready $(VENV)/.ready-$(if $(filter cuda,$(BACKEND)),cuda,cpu) ## MLX and Unsloth on one loss curve (ARGS=--quick)
	@$(PYTHON) -c 'import matplotlib' 2>/dev/null || $(call listed,-r requirements-video.txt)
	@$(PYTHON) -m tools.parity --backend $(if $(filter cuda,$(BACKEND)),cuda,cpu) $(ARGS)
base-model: $(READY) ## retrain the bundled model `tiny` (under an hour on two cores)
	@$(PYTHON) -c 'import torch' 2>/dev/null || $(call install,-r requirements-torch.txt)
	$(PYTHON) -m tools.tiny
reference: $(READY) ## run the seeds and recipes that the README reports (several minutes)
	$(PYTHON) -m tools.reference $(ARGS)
docs: $(READY) $(VIDEO_READY) ## write the generated numbers and pictures of README and docs/
	$(PYTHON) -m tools.docs.make
docker-build: ## the container's image: SERVICE=engram for an NVIDIA GPU, engram-cpu without
	@docker/run --build
docker-train: ## make train in the container
docker-demo: ## make demo in the container
docker-train docker-demo:
	@docker/run make $(@:docker-%=%)
docker-shell: ## a shell in the container
	@docker/run bash
docker-test: ## check the container in a real engine, on the CPU (docs/container.md)
	@$(PYTHON3) docker/test.py $(ARGS)
# a process per core; each with one thread for its sums, so that they don't take turns on the cores
test: $(DEV_READY) ## the tests: offline, no GPU
	@OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto --dist loadfile -m "not slow" $(ARGS)
test-slow: $(DEV_READY) ## the tests that take minutes: whole runs without network, hostile patterns, the tutorial
	@OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto --dist loadfile -m slow $(ARGS)
torture: $(DEV_READY) ## the campaign of faults: kills, broken files, hostile input, long runs (ARGS=--quick)
	@$(PYTHON) -m tools.torture --seed "$$V_SEED" $(ARGS)
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
	rm -rf {adapters,results}/{mlx,cuda,cpu}{,-memory,-both} results/{mlx,cuda,cpu}-with-* results/seeds
	rm -rf exports/{lm-eval,peft,mlx,fused,gguf,ollama} .make
	rm -f results/comparison.json results/report.html results/demo-compare.* adapters/.*.checkpoint.safetensors
	rm -f data/{train,valid,test}.jsonl data/manifest.json
	rm -rf .data.lock {data,adapters,results,results/*}/.*.{lock,part,old}
distclean: clean ## and the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache dist build

# the environment: the only targets that are files
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
$(VIDEO_READY) $(GGUF_READY): $(VENV)/.ready-%: requirements-%.txt | $(READY)
	@$(call listed,-r requirements-$*.txt)
	@touch $@
$(DEV_READY): requirements-dev.txt $(READY) $(VIDEO_READY)
	@$(call listed,-r requirements-dev.txt)
	@touch $@
