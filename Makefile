# Every target sets up what it needs: a virtual environment with the exact versions of the lock
# file. Options: PYTHON=python3.12 (else the newest of 3.11 to 3.13)  GPU=1 (NVIDIA libraries)
# ARGS="--seed 1" (for train.py)
ifeq ($(origin RUN),undefined)
RUN := runs/sota/$(shell date +%Y-%m-%d_%H-%M-%S)
endif
ARGS ?=

# A value as one word of the shell, whatever characters it has. ARGS stays as it is: several words,
# each quoted by who gives it.
quoted = '$(subst ','\'',$(1))'

# A virtual environment: folder, requirements, gigabytes.
set_up = sh tools/environment.sh $(1) $(2) $(3) $(call quoted,$(PYTHON))

BIN := .venv/bin
LOCK := requirements$(if $(GPU),-gpu).lock
READY := .venv/ready-$(basename $(LOCK))
AUDIT_READY := .venv-audit/ready-requirements-audit
PEER_READY := .venv-peer/ready-requirements-peer
PHOTOS_READY := .venv/ready-requirements-photos
# Gigabytes that .venv takes.
SIZE := $(if $(GPU),8,3.2)
SOURCES := anomaly_tf tests measurements tools examples setup.py train.py evaluate.py report.py export.py predict.py search.py benchmark.py

# TensorBoard without the notes of TensorFlow, which look like faults, and without its own on how it
# loads data; it shows all pictures of a training, not ten.
QUIET_TENSORBOARD := from anomaly_tf.script import import_tensorflow; import_tensorflow(); from tensorboard.main import run_main; run_main()

.PHONY: help setup train test fuzz lint format docs linkcheck tensorboard bench bench-export bench-folders bench-photos bench-reliability bench-web bench-cluster bench-devices study benchmark-quick audit lock clean FORCE
.DELETE_ON_ERROR:

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(READY) ## Create .venv with the locked versions (GPU=1: with NVIDIA's libraries)

# These look each time whether something is to be done.
$(READY): FORCE
	@$(call set_up,.venv,$(LOCK),$(SIZE))

$(AUDIT_READY): FORCE
	@$(call set_up,.venv-audit,requirements-audit.lock,0.2)

$(PEER_READY): FORCE
	@$(call set_up,.venv-peer,requirements-peer.txt,1)

$(PHOTOS_READY): $(READY) FORCE
	@$(call set_up,.venv,requirements-photos.txt,0.3)

train: $(READY) ## Train approach sota on Fashion-MNIST and evaluate it
	$(BIN)/python train.py --approach sota --run-dir $(call quoted,$(RUN)) $(ARGS)
	$(BIN)/python evaluate.py --run-dir $(call quoted,$(RUN))

test: $(READY) ## Run the whole test suite
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

fuzz: $(READY) ## Try thousands of generated inputs (minutes)
	$(BIN)/python -m pytest tests/test_fuzz.py tests/test_fuzz_files.py tests/test_fuzz_folders.py --hypothesis-profile fuzz

lint: $(READY) ## Check formatting, style and types
	$(BIN)/ruff format --check $(SOURCES) docs
	$(BIN)/ruff check $(SOURCES) docs
	$(BIN)/mypy

format: $(READY) ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix $(SOURCES) docs
	$(BIN)/ruff format $(SOURCES) docs

docs: $(READY) ## Build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx --fresh-env --quiet --fail-on-warning --keep-going docs docs/_build/html

linkcheck: $(READY) ## Try the links of the documentation to other sites (needs internet)
	$(BIN)/python -m sphinx --fresh-env --quiet -b linkcheck docs docs/_build/linkcheck

tensorboard: $(READY) ## Open TensorBoard on runs/
	$(BIN)/python -c "$(QUIET_TENSORBOARD)" --logdir runs --load_fast=false --samples_per_plugin images=31

bench: $(READY) $(if $(PEER),$(PEER_READY)) ## Measure training speed and memory (PEER=1: beside PyTorch; ARGS: its options)
	$(BIN)/python -m measurements.training $(if $(PEER),--peer .venv-peer/bin/python) $(ARGS)

bench-export: $(READY) ## Measure quality, size and speed of every export (ARGS: its options)
	$(BIN)/python -m measurements.export $(ARGS)

bench-folders: $(READY) ## Measure quality, speed and memory of training on files (ARGS: its options)
	$(BIN)/python -m measurements.folders $(ARGS)

bench-photos: $(PHOTOS_READY) ## Measure quality, speed and memory on photographs (ARGS: its options)
	$(BIN)/python -m measurements.photos $(ARGS)

bench-reliability: $(READY) ## Measure the promises of docs/explanation/reliability.md (ARGS: its options)
	$(BIN)/python -m measurements.reliability $(ARGS)

bench-web: $(READY) ## Measure the page of a detector in Chromium and Firefox (ARGS: its options)
	$(BIN)/python -m measurements.web $(ARGS)

bench-cluster: $(READY) ## Measure scoring and benchmarks on processes and on a cluster (ARGS: its options)
	$(BIN)/python -m measurements.cluster $(ARGS)

bench-devices: $(READY) ## Compare trainings on two devices with those on one (ARGS: its options)
	$(BIN)/python -m measurements.devices $(ARGS)

study: $(READY) ## Measure what moves the quality, on validation images (ARGS: --studies NAME)
	$(BIN)/python -m measurements.quality $(ARGS)

benchmark-quick: $(READY) ## Compare all approaches in 15 minutes, shortened (ARGS: for benchmark.py)
	$(BIN)/python benchmark.py --config configs/benchmarks/quick.yaml $(ARGS)

audit: $(AUDIT_READY) ## Look for known weaknesses in the code and in the locked packages (needs internet)
	.venv-audit/bin/bandit --quiet --recursive --configfile pyproject.toml $(filter-out tests,$(SOURCES))
	.venv-audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

lock: $(READY) ## Renew the lock files from the requirements
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" \
		requirements.txt requirements-cluster.txt requirements-search.txt requirements-dev.txt \
		requirements-docs.txt -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" \
		--constraints requirements.lock \
		requirements.txt requirements-cluster.txt requirements-search.txt requirements-dev.txt \
		requirements-docs.txt requirements-gpu.txt -o requirements-gpu.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" \
		requirements-audit.txt -o requirements-audit.lock

clean: ## Remove the virtual environment and caches, but no runs and no data
	rm -rf .venv .venv-audit .venv-peer docs/_build .mypy_cache .ruff_cache .pytest_cache
