# Needs Python 3.11 or newer, gcc and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Waiting threads sleep instead of spinning, which slows a busy machine down many times over.
export OMP_WAIT_POLICY ?= passive

.PHONY: help demo demo-qat bench lint test test-slow test-all clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.* ## (.*)/  make \1\t\2/p' Makefile | expand -t 20

demo: .venv/.installed ## quantize the bundled model carelessly and with care: a table, and demo/samples.png
	$(BIN)/tempoquant demo -o demo --overwrite

# Train the bundled model at 4 bits from its own trajectories, and draw it beside post-training quantization. Stopped
# and begun again, it goes on where it was. DEMO_DATA names images to train on instead (idx files of Fashion-MNIST).
demo-qat: .venv/.installed ## train the bundled model at 4 bits: a table, and demo-qat/samples.png
	mkdir -p demo-qat
	$(BIN)/python benchmarks/tdq_fashion32.py --rows "tfmq-dm W4A4;tdq-ptq W4A4;tdq W4A4" --seeds 0 --steps 300 \
	  --batch 16 --effort fast --samples 64 --images 16 --drawn 256 --work demo-qat/work --json demo-qat/demo.json \
	  --picture demo-qat/samples.png $(if $(DEMO_DATA),--data $(DEMO_DATA))

# Every method on the bundled model; stopped and begun again, it goes on where it was.
bench: .venv/.installed-eval ## compare every method on the bundled model: tables in out/bench
	$(BIN)/tempoquant bench fashion32 -o out/bench

lint: .venv/.installed-dev ## linters, types and import directions, as before every commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The linters run before the tests, so that the tests' summary is the last thing printed.
# TEMPOQUANT_ANIME64, if set, names a folder with anime64.py: tests of that model then run instead of being skipped.
test: lint ## lint, then the tests: two processes, minutes
	$(BIN)/python tests/parallel.py

test-slow: .venv/.installed-dev ## tests that take many seconds each: thousands of damaged folders, killed processes, whole trainings
	$(BIN)/python tests/parallel.py -m slow

test-all: lint ## all of the above, as the integration server runs them
	$(BIN)/python tests/parallel.py -m "slow or not slow"

clean: ## remove the virtual environment and what the demonstrations drew
	rm -rf .venv demo demo-qat

# Torch first: pip then keeps the build that was chosen (processor or CUDA) while it resolves the rest.
.venv/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tempoquant needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(PIP) install torch==2.13.0 -c constraints.txt
	touch $@

.venv/.installed: .venv/.torch pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e .
	touch $@

.venv/.installed-eval: .venv/.installed pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[eval]'
	touch $@

.venv/.installed-dev: .venv/.installed pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@
