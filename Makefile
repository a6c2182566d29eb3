# fedem_jax: `make` lists the targets. Every target makes the environment that it needs.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?=

# An installation leaves a stamp file, so that the next call starts at once.
# VENV= (empty) uses PYTHON as it is and installs nothing.
comma := ,
empty :=
space := $(empty) $(empty)
ifneq ($(strip $(VENV)),)
RUN := $(VENV)/bin/python
kind := $(subst $(space),-,$(strip $(subst $(comma), ,$(EXTRAS))))
READY := $(VENV)/.ready$(kind:%=-%)
READY_DEV := $(VENV)/.ready-dev$(kind:%=-%)
READY_DOCS := $(VENV)/.ready-docs$(kind:%=-%)
READY_DIST := $(VENV)/.ready-dist$(kind:%=-%)
else
RUN := $(PYTHON)
READY := python
READY_DEV := python
READY_DOCS := python
READY_DIST := python
endif

# $(call flag,SEED): "--seed '0'" if SEED is given, else nothing
lower = $(shell echo '$(1)' | tr A-Z_ a-z-)
flag = $(if $($(1)),--$(call lower,$(1)) '$($(1))')

.PHONY: help
help:  ## show this list
	@echo "usage: make TARGET [VARIABLE=value ...]"
	@echo
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  \1|\2/p; s/^  ## \(.*\)/  |\1/p' $(MAKEFILE_LIST) \
		| awk -F'|' '{ printf "%-14s%s\n", $$1, $$2 }'
	@echo
	@echo "environment"
	@echo "  EXTRAS=cuda13     install JAX for a GPU as well (cuda12 for older drivers)"
	@echo "  PYTHON=python3.12 the interpreter that .venv is made with (3.11 or newer)"
	@echo "  PYTHON=... VENV=  run with this interpreter as it is, install nothing"

.PHONY: experiment
experiment: $(READY)  ## run an experiment; without DATASET, on the embedded synthetic federation
  ## DATASET=ml-1m METHOD=fedem PROTOCOL=leak-free ROUNDS=100 SEED=0
  ## OUT=results/x DATA_DIR=data ARGS="--dim 32 --merging once"
  ## RESUME=results/x: resume an interrupted one
	@$(RUN) -m fedem_jax train $(foreach name,DATASET METHOD PROTOCOL ROUNDS SEED OUT DATA_DIR RESUME,$(call flag,$(name))) $(ARGS)

.PHONY: compare
compare: $(READY)  ## compare methods over several seeds; resumes where it was stopped
  ## DATASET=ml-1m PROTOCOL=leak-free SEEDS=5 ROUNDS=30 OUT=results/x
  ## METHODS="fedem pfedrec:dim=16" DATA_DIR=data ARGS="--preset tuned"
	@$(RUN) -m fedem_jax compare $(foreach name,DATASET PROTOCOL SEEDS ROUNDS OUT DATA_DIR,$(call flag,$(name))) \
		$(if $(METHODS),--methods $(METHODS:%='%')) $(ARGS)

.PHONY: sweep
sweep: $(READY)  ## run many settings of a method and choose the best; resumes where it was stopped
  ## DATASET=ml-1m METHOD=fedem PROTOCOL=leak-free ROUNDS=30 SEEDS=3 OUT=results/x
  ## DATA_DIR=data ARGS="--vary lr_embedding=0.01,0.03,0.1 --vary alpha=0.5:1:6"
	@$(RUN) -m fedem_jax sweep $(foreach name,DATASET METHOD PROTOCOL ROUNDS SEEDS OUT DATA_DIR,$(call flag,$(name))) $(ARGS)

.PHONY: bottleneck
bottleneck: $(READY)  ## measure what aggregation costs the clients, and what merging saves
  ## DATASET=ml-1m PROTOCOL=leak-free ROUNDS=100 SEED=0 OUT=results/x
  ## DATA_DIR=data ARGS="--aggregation-fraction 1"
	@$(RUN) -m fedem_jax bottleneck $(foreach name,DATASET PROTOCOL ROUNDS SEED OUT DATA_DIR,$(call flag,$(name))) $(ARGS)

.PHONY: ablation
ablation: $(READY)  ## change one part of FedEM at a time; resumes where it was stopped
  ## DATASET=ml-1m PROTOCOL=leak-free SEEDS=3 ROUNDS=30 OUT=results/x
  ## DATA_DIR=data ARGS="--parts merging alpha --settings lr_embedding=0.03"
	@$(RUN) experiments/ablation.py $(foreach name,DATASET PROTOCOL SEEDS ROUNDS OUT DATA_DIR,$(call flag,$(name))) $(ARGS)

.PHONY: noise
noise: $(READY)  ## measure what noise on uploads costs; resumes where it was stopped
  ## DATASET=ml-1m PROTOCOL=leak-free SEEDS=3 ROUNDS=30 OUT=results/x
  ## DATA_DIR=data ARGS="--methods fedem fedmf --clip 1 --scales 0 0.5 1"
	@$(RUN) experiments/noise.py $(foreach name,DATASET PROTOCOL SEEDS ROUNDS OUT DATA_DIR,$(call flag,$(name))) $(ARGS)

.PHONY: audit
audit: $(READY)  ## check whether a protocol leaks held-out items; fails if it does
  ## DATASET=ml-1m PROTOCOL=leak-free ROUNDS=50 SEED=0 OUT=results/x
  ## DATA_DIR=data ARGS="--columns user_id movie_id"
	@$(RUN) -m fedem_jax audit $(foreach name,DATASET PROTOCOL ROUNDS SEED OUT DATA_DIR,$(call flag,$(name))) $(ARGS)

.PHONY: plan
plan: $(READY)  ## estimate what a run would cost, without running it: padding, memory, traffic
  ## DATASET=ml-1m METHOD=fedem PROTOCOL=leak-free DATA_DIR=data ARGS="--dim 64"
	@$(RUN) -m fedem_jax plan $(foreach name,DATASET METHOD PROTOCOL DATA_DIR,$(call flag,$(name))) $(ARGS)

.PHONY: bench
bench: $(READY)  ## measure speed on this machine, into experiments/bench; ARGS=--quick: 2 minutes
	@$(RUN) experiments/bench/bench.py $(ARGS)

.PHONY: bench-gpu
bench-gpu: $(READY)  ## measure speed on a GPU, into experiments/bench; at most 8 minutes
  ## DATA_DIR=data ARGS="--only rounds" PYTHON=python3 VENV=
	@PYTHONPATH=. FEDEM_DATA=$(or $(DATA_DIR),$(FEDEM_DATA)) $(RUN) experiments/bench/bench_gpu.py $(ARGS)

.PHONY: gpu-check
gpu-check:  ## compile rounds for an H100, without a GPU; makes .venv-gpu of 5 GB
  ## DATA_DIR=data ARGS="--methods fedem"
	@$(MAKE) --no-print-directory gpu-compile VENV=.venv-gpu EXTRAS=cuda13

.PHONY: gpu-compile
gpu-compile: $(READY)
	@JAX_PLATFORMS=cpu $(RUN) experiments/bench/gpu_check.py $(call flag,DATA_DIR) $(ARGS)

.PHONY: theory
theory: $(READY)  ## compare simulated quadratic clients with closed forms; ARGS="--trials 1000"
	@$(RUN) experiments/theory/theory.py $(ARGS)

.PHONY: regimes
regimes: $(READY)  ## map when clients should share a table, and with whom; ARGS="--seeds 5"
	@$(RUN) experiments/regimes/regimes.py $(ARGS)

.PHONY: soak
soak: $(READY)  ## kill random runs and resume them, for 30 minutes; ARGS="--minutes 5"
	@$(RUN) experiments/soak.py $(ARGS)

.PHONY: test
test: $(READY_DEV)  ## run all tests but the slow ones; ARGS="-m slow": those; ARGS="-k data"
	@workers=$$($(RUN) -c 'import xdist' 2>/dev/null && echo '-n auto --dist loadfile'); \
		set -x; $(RUN) -m pytest $$workers -m 'not slow' $(ARGS)

.PHONY: check
check: $(READY_DEV)  ## check lint, formatting, types, and imports between the folders
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath "$$($(RUN) -c 'import sys; print(sys.executable)')"
	$(RUN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

.PHONY: format
format: $(READY_DEV)  ## format the code and apply the fixes of the linter
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

.PHONY: docs
docs: $(READY_DOCS)  ## run the tutorials, build the documentation into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build $(ARGS)

.PHONY: dist
dist: $(READY_DIST)  ## build and check the wheel and the source distribution, into dist/
	rm -rf build dist
	$(RUN) -m build
	$(RUN) -m twine check --strict dist/*

.PHONY: clean
clean:  ## remove environments and caches; keep data/ and results/
	rm -rf .venv .venv-gpu .pytest_cache .ruff_cache .hypothesis build dist site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: python
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "fedem_jax needs Python 3.11 or newer, but '$(PYTHON)' is" \
			"$$($(PYTHON) --version 2>/dev/null || echo missing);" \
			"give another one: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }

ifneq ($(strip $(VENV)),)
$(VENV)/.created: | python
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# $(call install,EXTRAS): with the versions of constraints.txt, where it names those of this Python
install = $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(1)]'
needs := $(VENV)/.created pyproject.toml constraints.txt

$(READY): $(needs)
	@echo "installing fedem_jax into $(VENV), once; it takes a minute or two"
	@$(call install,html$(EXTRAS:%=$(comma)%))
	@touch $@

$(READY_DEV): $(needs)
	@echo "installing fedem_jax and its test tools into $(VENV), once; it takes a minute or two"
	@$(call install,dev$(EXTRAS:%=$(comma)%))
	@touch $@ $(READY)

$(READY_DOCS): $(needs)
	@echo "installing fedem_jax and its documentation tools into $(VENV), once"
	@$(call install,docs$(EXTRAS:%=$(comma)%))
	@touch $@ $(READY)

$(READY_DIST): $(needs)
	@$(call install,release$(EXTRAS:%=$(comma)%))
	@touch $@ $(READY)
endif
