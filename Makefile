# `make demo` and `make test` set up .venv by themselves; they need Python >= 3.11, pip and make.
PYTHON ?= python3
# the versions of the development environment; `make test CONSTRAINTS=` takes the newest that setup.cfg allows
CONSTRAINTS ?= constraints.txt
# what `make demo` runs and `make evidence` measures: the shipped model, or the folder of another
MODEL ?= jova-tiny
# of every run of `make ablations`, and what it compares: `ablations`, `mouth`, `fusion` or `towers`
STEPS ?= 120
COMPARE ?= ablations
GPU := $(shell nvidia-smi -L 2>/dev/null | head -n 1)

# the pinned torch may be a build without CUDA: where there is a GPU, pip chooses
PINS = cat /dev/null $(CONSTRAINTS) $(if $(GPU),| sed '/^torch==/d')
TESTS = not slow$(if $(GPU),, and not gpu)
# a worker for each core; one GPU serves one worker
WORKERS = $(if $(GPU),,--numprocesses auto --dist loadfile)

.PHONY: help demo pictures screenshots overfit jova-tiny evidence ablations test check test-slow test-portable test-oldest test-newest wheel fix bench gpu \
	memory comfyui-test comfyui-pack

help:       ## list the commands
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:[^#]*##/:/' | sort

.venv/installed: setup.cfg pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo '`PYTHON` must be Python >= 3.11, got '"$$($(PYTHON) --version 2>&1)"'; use `make PYTHON=python3.12 ...`' >&2; exit 2; }
	@echo 'setting up .venv (some minutes, once)'
	@$(PYTHON) -m venv .venv
	@$(PINS) > .venv/constraints.txt
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --constraint .venv/constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/installed  ## set up .venv, then write demo.mp4, demo_from_image.mp4 and demo.png
	@.venv/bin/jova demo --model $(MODEL) --output demo.mp4

pictures: .venv/installed  ## make the pictures of README.md anew, in model_cards/jova-tiny/samples
	@.venv/bin/python -m diffusers_jova.recipes.pictures

screenshots: .venv/installed  ## photograph the page in Chromium, and a workflow in the ComfyUI that runs at COMFYUI
	@.venv/bin/python -m pip install -qq --disable-pip-version-check playwright
	@.venv/bin/python -m diffusers_jova.recipes.screenshots page
	@$(if $(COMFYUI),.venv/bin/python -m diffusers_jova.recipes.screenshots comfyui $(COMFYUI))

overfit: .venv/installed  ## set up .venv, then prove the chain on two clips; minutes
	@.venv/bin/python -m diffusers_jova.recipes.overfit --output runs/overfit

.venv/espeak: .venv/installed  # the voice of the training set
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --constraint .venv/constraints.txt --editable '.[espeak]'
	@touch $@

.venv/evaluate: .venv/espeak  # a foreign ear
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --constraint .venv/constraints.txt --editable '.[evaluate]'
	@touch $@

jova-tiny: .venv/espeak  ## make the shipped model from nothing; resumes where it was interrupted
	@.venv/bin/python -m diffusers_jova.recipes.jova_tiny --output runs/jova-tiny
	@rm -rf diffusers_jova/weights/jova-tiny
	@mkdir -p diffusers_jova/weights
	@cp -R runs/jova-tiny/pipeline diffusers_jova/weights/jova-tiny

evidence: .venv/evaluate  ## measure MODEL on held-out prompts; fills in model_cards/jova-tiny
	@.venv/bin/python -m diffusers_jova.recipes.evidence --model $(MODEL); status=$$?; \
		.venv/bin/python -m diffusers_jova.recipes.lora_evidence --model $(MODEL) && exit $$status

ablations: .venv/espeak  ## the paper's Tables 3, 4, 5 in small, COMPARE=mouth, fusion or towers, after `make jova-tiny`
	@.venv/bin/python -m diffusers_jova.recipes.ablations --compare $(COMPARE) --output runs/$(COMPARE) --steps $(STEPS)

test: .venv/installed  ## set up .venv, then check
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(MAKE) --no-print-directory check

check:      ## lint, types and tests in the active environment: what CI runs
	ruff check .
	ruff format --check .
	mypy
	pytest $(WORKERS) -m "$(TESTS)"

wheel: .venv/installed  ## build what pip installs, and run every command of it in a new environment; minutes
	@rm -rf dist
	@.venv/bin/python -m build --quiet
	@.venv/bin/python -m twine check --strict dist/*
	@.venv/bin/python tests/check_wheel.py dist/*.whl --constraint .venv/constraints.txt

test-slow: .venv/espeak  ## what `make test` leaves out: long trainings, more processes, further kinds of models; minutes
	@.venv/bin/python -m pytest -m "slow$(if $(GPU),, and not gpu)"

test-portable: .venv/installed  ## the numeric tests under other instruction sets, as on other processors; minutes
	@.venv/bin/python -m tests.portable

# `make test-newest PYTHON=python3.13`: the versions change with the day, so no file pins them; CONTRIBUTING.md says what
# was tried. uv knows what is lowest.
.venv-oldest/installed .venv-newest/installed: setup.cfg pyproject.toml
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check uv
	@$(@D)/bin/uv pip install -q --python $(@D)/bin/python --resolution $(RESOLUTION) --editable '.[dev]'
	@touch $@

test-oldest: RESOLUTION = lowest-direct
test-oldest: .venv-oldest/installed  ## the tests with the oldest versions that setup.cfg allows, in .venv-oldest
	@.venv-oldest/bin/python -m pytest $(WORKERS) -m "$(TESTS)"

test-newest: RESOLUTION = highest
test-newest: .venv-newest/installed  ## the tests with the newest versions of everything, in .venv-newest
	@.venv-newest/bin/python -m pytest $(WORKERS) -m "$(TESTS)"

fix:        ## before committing
	ruff check --fix .
	ruff format .

bench:      ## a joint block, the cache that minds the sound and a VAE at once, a guided batch, each beside the plain way
	python -m benchmarks.block
	python -m benchmarks.peers
	python -m benchmarks.sound_cache
	python -m benchmarks.video_vae
	python -m benchmarks.guided_batch

gpu:        ## everything that needs a GPU: tests, times, memory; writes gpu.json; 8 minutes on one of 80 GB
	python -m benchmarks.gpu

memory:     ## peak memory of converting 2 B parameters, and 11 B where 55 GB of disk are free; minutes
	pytest -m slow -s tests/conversion/test_memory.py

# COMFYUI_PYTHON runs that ComfyUI, where it is not this environment; comfyui/README.md tells how to set one up
comfyui-test:  ## the node pack in the ComfyUI that COMFYUI_PATH names, on the CPU; minutes
	@test -n "$(COMFYUI_PATH)" || { echo '`COMFYUI_PATH` must name a checkout of ComfyUI, got nothing; see comfyui/README.md' >&2; exit 2; }
	COMFYUI_PATH="$(COMFYUI_PATH)" pytest -s tests/comfyui

PACK = dist/comfyui-jova.zip
comfyui-pack:  ## what belongs into ComfyUI/custom_nodes, as dist/comfyui-jova.zip
	@mkdir -p $(dir $(PACK))
	git archive --format zip --prefix jova/ --add-file LICENSE --output $(PACK) HEAD:comfyui
