# `make demo` and `make test` need nothing but Python 3.11 or newer: they make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow browser check docs gallery fuzz compat compat-ultralytics lowest fiftyone parity bench bench-parity evidence scale clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

demo: $(READY)  ## explain the bundled detectors on the bundled scene
	@$(BIN)/detcam explain weights/shapes.pt weights/scene.png --name demo-shapes
	@$(BIN)/detcam explain weights/shapes-shortcut.pt weights/scene.png --name demo-shortcut

test: $(READY) browser  ## the default test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(READY) browser  ## everything, with the tests that take minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile

browser:  ## a Chromium for the tests of pages, if it can be had
	@scripts/browser.sh

check: $(READY)  ## style, types, who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

gallery: $(READY)  ## a sheet of all methods for each detector with trained weights; ten minutes
	$(BIN)/python scripts/gallery.py

FUZZED := darknet_cfg darknet_weights labels pictures run_folder safetensors_file tensor_layouts torch_checkpoint
fuzz: $(READY)  ## ten minutes of inputs that were made to break what reads files
	$(BIN)/python -m pip install --quiet --editable ".[fuzz]"
	@for harness in $(FUZZED); do \
		echo $$harness; \
		$(BIN)/python fuzz/main.py $$harness -max_total_time=70 -verbosity=0 -print_final_stats=1 || exit 1; \
	done

compat: compat-ultralytics lowest  ## the versions that are promised, from the lowest to the newest

compat-ultralytics: $(READY)  ## the adapter's tests against older ultralytics releases
	$(BIN)/python scripts/compat.py

lowest: $(READY)  ## the wheel with the lowest versions of everything: demo and tests
	$(BIN)/python scripts/lowest.py

fiftyone: $(READY)  ## the FiftyOne integration, in an environment of its own
	$(BIN)/python scripts/fiftyone.py

parity: $(READY)  ## maps against pytorch-grad-cam's, value by value
	$(BIN)/python scripts/parity.py

bench: $(READY)  ## speed and memory, as ratios
	$(BIN)/python scripts/parity.py --speed --plot docs/images/boxes.png

evidence: $(READY)  ## which maps tell the truth, on photographs and planted scenes; hours on two cores
	$(BIN)/python benchmarks/evidence.py

scale: $(READY)  ## what whole data sets take: time and storage
	$(BIN)/python benchmarks/scale.py

bench-parity: $(READY)  ## time and memory against pytorch-grad-cam's
	$(BIN)/python scripts/parity.py --benchmark

clean:
	rm -rf $(VENV) .compat .parity .fiftyone
