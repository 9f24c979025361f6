# Set-up, demonstration and tests. Everything it makes stays in this folder: .venv, .engines, demo.

PYTHON ?= python3
UV     := $(shell command -v uv 2>/dev/null)
UV_VERSION := 0.13.9
ifeq ($(UV),)
UV      := $(CURDIR)/.engines/uv/bin/uv
NEED_UV := .engines/uv/bin/uv
endif
PYTHONPATH :=
export UV
export PYTHONPATH
# Where this is set every process compiles anew all that it imports: 5 to 10 seconds of each task.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup engines prepare-offline demo test test-quick test-slurm lint docs lock clean images images-push images-pull sorter-image test-cluster

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.engines/uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: $(PYTHON) is older; name another with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .engines/uv || $(PYTHON) -m venv --without-pip .engines/uv
	.engines/uv/bin/python -m pip install -q uv==$(UV_VERSION) || $(PYTHON) -m pip install -q --prefix .engines/uv uv==$(UV_VERSION)

# The environment holds exactly what requirements.lock names, hashes checked.
.venv/installed: requirements.lock pyproject.toml | $(NEED_UV)
	"$(UV)" venv -q --allow-existing --python '>=3.10,<3.14' .venv
	"$(UV)" pip sync -q --require-hashes --python .venv/bin/python requirements.lock
	"$(UV)" pip install -q --no-deps --python .venv/bin/python --editable .
	touch .venv/installed

.engines/nextflow: tools/engine.py | $(NEED_UV)
	@mkdir -p .engines
	nextflow=$$($(PYTHON) tools/engine.py) && printf '#!/bin/sh\nexec "%s" "$$@"\n' "$$nextflow" > .engines/nextflow.partial
	@chmod +x .engines/nextflow.partial && mv .engines/nextflow.partial .engines/nextflow

setup: .venv/installed .engines/nextflow ## The locked Python environment, Nextflow and Java

# The oldest engine that is supported and one with the strict parser: the tests run on both.
engines: | $(NEED_UV)
	@$(PYTHON) tools/engine.py 24.10.0 >/dev/null
	@$(PYTHON) tools/engine.py 25.04.0 >/dev/null

# UnitRefine's models: MODELS="--noise-neural FOLDER --sua-mua FOLDER" copies them from elsewhere.
prepare-offline: .venv/installed engines models/unitrefine ## All that runs need where there is no internet
	NXF_OFFLINE=true .engines/nextflow-25.04.0/nextflow -version > /dev/null
	@echo "Ready: .engines/nextflow-25.04.0/nextflow run . --unitrefine_models models/unitrefine ..."

models/unitrefine: | .venv/installed
	.venv/bin/powerpixels fetch-models $@ $(MODELS)

demo: setup ## Simulate a session, run the pipeline on it, compare with the known spikes
	.venv/bin/python tools/demo.py

test: setup engines ## All tests
	.venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-quick: setup ## Those tests that run no pipeline, no sorter and no other program
	.venv/bin/python -m pytest -n auto --dist loadfile -m 'not slow'

docs: setup ## The manual as a website, in site/
	.venv/bin/mkdocs build --strict --quiet

lint: setup engines ## Style and types of the Python code, style of the Nextflow code
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.engines/nextflow-25.04.0/nextflow lint main.nf nextflow.config conf modules subworkflows

# Apptainer images. Debian comes from Docker Hub, or by debootstrap from a mirror:
#   make images IMAGE_FLAGS="--build-arg BOOTSTRAP=debootstrap --build-arg MIRROR=<address>"
# The image for CPU work leaves out the sorter, and with it torch and CUDA: most of the size.
IMAGE_PYTHON  := 3.11
IMAGE_FLAGS   ?=
IMAGE_DROPS_gpu :=
IMAGE_DROPS_cpu := --overrides containers/without_sorter.txt

images: containers/powerpixels-cpu.sif containers/powerpixels-gpu.sif ## The Apptainer images, from requirements.lock

# With a version of Python, which is that of the image: the packages' list, and their files.
IMAGE_LOCK = "$(UV)" pip compile -q --python-version $(1) --constraints requirements.lock --generate-hashes \
    --no-annotate --no-header
IMAGE_INSTALL = "$(UV)" pip install -q --python "$(PYTHON)" --python-version $(1) \
    --python-platform x86_64-manylinux_2_36 --only-binary :all: --no-deps
# gzip is read wherever images are; its level 3 takes a sixth of the time of mksquashfs's own 9, for 8% more bytes (scipy
# and numpy).
IMAGE_BUILD = APPTAINER_MKSQUASHFS_ARGS="-comp gzip -Xcompression-level 3" apptainer build --fakeroot --force

.SECONDARY: containers/requirements-cpu.txt containers/requirements-gpu.txt
containers/requirements-%.txt: requirements.lock pyproject.toml containers/without_sorter.txt | $(NEED_UV)
	$(call IMAGE_LOCK,$(IMAGE_PYTHON)) $(IMAGE_DROPS_$*) -o $@ pyproject.toml

containers/powerpixels-%.sif: containers/requirements-%.txt containers/powerpixels.def | $(NEED_UV)
	rm -rf containers/site-$*
	$(call IMAGE_INSTALL,$(IMAGE_PYTHON)) --target containers/site-$* --require-hashes -r $<
	$(IMAGE_BUILD) --build-arg SITE_PACKAGES=containers/site-$* $(IMAGE_FLAGS) $@.partial containers/powerpixels.def
	rm -rf containers/site-$*
	mv $@.partial $@
	cd containers && sha256sum $(@F) > $(@F).sha256

# From and to a registry, by this version's name: make images-push IMAGES_AT=oras://HOST/FOLDER
IMAGES_AT    ?=
IMAGE_NAMES  := cpu gpu
VERSION       = $(shell sed -n "s/^ *version *= *'\(.*\)'/\1/p" nextflow.config)
NEED_ADDRESS = @[ -n "$(IMAGES_AT)" ] || { echo "make $@: give IMAGES_AT=oras://HOST/FOLDER"; exit 1; }

images-push: ## The images to a registry: IMAGES_AT=oras://HOST/FOLDER
	$(NEED_ADDRESS)
	for name in $(IMAGE_NAMES); do \
	    apptainer push $(IMAGES_AT_FLAGS) containers/powerpixels-$$name.sif $(IMAGES_AT)/powerpixels-$$name:$(VERSION) || exit 1; \
	done

images-pull: ## The images of this version from a registry: IMAGES_AT=oras://HOST/FOLDER
	$(NEED_ADDRESS)
	for name in $(IMAGE_NAMES); do \
	    apptainer pull --force $(IMAGES_AT_FLAGS) containers/powerpixels-$$name.sif $(IMAGES_AT)/powerpixels-$$name:$(VERSION) || exit 1; \
	    (cd containers && sha256sum powerpixels-$$name.sif > powerpixels-$$name.sif.sha256) || exit 1; \
	done

# Another sorter for --sorter_image. Of packages from the index, where those are named, too, that they need beside the lock
# file's:
#   make sorter-image SORTER=mountainsort5 PACKAGES="mountainsort5==0.5.9 isosplit6==0.1.4"
# Or, with FROM, of an image that has the sorter and a Python from 3.10 on, to which this pipeline's packages are added:
#   make sorter-image SORTER=kilosort2_5 FROM=docker://spikeinterface/kilosort2_5-compiled-base \
#       FROM_PYTHON=/home/miniconda3/bin/python3.12
SORTER_BASE ?= containers/powerpixels-cpu.sif
FROM        ?=
FROM_PYTHON ?= /usr/bin/python3.12
FROM_VERSION = $(patsubst python%,%,$(notdir $(FROM_PYTHON)))
SORTER_SITE  = containers/site-$(SORTER)

sorter-image: $(if $(FROM),,$(SORTER_BASE)) | $(NEED_UV) ## An image for --sorter_image: SORTER=name PACKAGES="package ..." or FROM=image
	@[ -n "$(SORTER)" ] && [ -n "$(PACKAGES)$(FROM)" ] || { echo 'make sorter-image: give SORTER=mountainsort5 PACKAGES="mountainsort5 isosplit6", or FROM=image'; exit 1; }
	rm -rf $(SORTER_SITE)
ifeq ($(FROM),)
	$(call IMAGE_INSTALL,$(IMAGE_PYTHON)) --target $(SORTER_SITE) $(PACKAGES)
	$(IMAGE_BUILD) --build-arg IMAGE=$(SORTER_BASE) --build-arg SORTER=$(SORTER) --build-arg SITE_PACKAGES=$(SORTER_SITE) \
	    containers/$(SORTER).sif.partial containers/sorter.def
else
	$(call IMAGE_LOCK,$(FROM_VERSION)) $(IMAGE_DROPS_cpu) -o $(SORTER_SITE).txt pyproject.toml
	$(call IMAGE_INSTALL,$(FROM_VERSION)) --target $(SORTER_SITE) --require-hashes -r $(SORTER_SITE).txt
	$(IMAGE_BUILD) --build-arg BOOTSTRAP=$(if $(filter docker://%,$(FROM)),docker,localimage) --build-arg IMAGE=$(FROM:docker://%=%) \
	    --build-arg SORTER=$(SORTER) --build-arg PYTHON=$(FROM_PYTHON) --build-arg SITE_PACKAGES=$(SORTER_SITE) \
	    containers/$(SORTER).sif.partial containers/sorter_from.def
endif
	rm -rf $(SORTER_SITE) $(SORTER_SITE).txt
	mv containers/$(SORTER).sif.partial containers/$(SORTER).sif
	cd containers && sha256sum $(SORTER).sif > $(SORTER).sif.sha256

test-slurm: setup engines ## Tests on a real one-node SLURM: root on Debian
	tests/cluster/setup_slurm.sh
	POWERPIXELS_CLUSTER=1 .venv/bin/python -m pytest tests/cluster/test_slurm.py

test-cluster: setup engines ## Tests in real images and on a real one-node SLURM: root on Debian, an hour
	tests/cluster/setup_apptainer.sh
	tests/cluster/setup_slurm.sh
	[ ! -f containers/powerpixels-cpu.sif ] || [ -f containers/mountainsort5.sif ] \
	    || $(MAKE) sorter-image SORTER=mountainsort5 PACKAGES="mountainsort5==0.5.9 isosplit6==0.1.4"
	[ -f containers/kilosort2_5.sif ] || { apptainer build --fakeroot --force \
	    --build-arg MIRROR=$$(tests/cluster/mirror.sh) containers/compiled_sorter.sif tests/cluster/compiled_sorter.def \
	    && $(MAKE) sorter-image SORTER=kilosort2_5 FROM=containers/compiled_sorter.sif FROM_PYTHON=/usr/bin/python3.13; }
	POWERPIXELS_CLUSTER=1 .venv/bin/python -m pytest tests/cluster

lock: ## Resolve the dependencies anew into requirements.lock
	"$(UV)" lock -q --upgrade
	"$(UV)" export -q --format requirements.txt --all-extras --no-emit-project --no-annotate --no-header -o requirements.lock
	rm uv.lock

clean: ## Remove what the demonstration made
	rm -rf demo
