# Two commands: `make demo` and `make test`. Both set up .venv/ first; both can be run again.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test test-slow gpu venv triton lint types check clean

demo: venv
	$(BIN)/vcut-export --model tiny --target a10 --target l4 --output build/tiny
	$(BIN)/python -m examples.miniature.world build/picture.png
	$(BIN)/vcut generate build/tiny build/picture.png --output build/clip.mp4 --steps 25 --cut-step 17 --seed 0
	$(BIN)/python -m benchmarks.side_by_side build/tiny build/picture.png --output build/sheet.png --animation build/clip.gif
	@echo
	@echo "The video:  build/clip.mp4, moving in a browser: build/clip.gif"
	@echo "Beside stock diffusers:  build/sheet.png"
	@echo "The plans:  $$(ls -d build/tiny/plans/*)"
	@ls -l build/tiny/plans/*

# Two processes, each with one thread of its own: tests are mostly Python. The tests of a file stay together, because
# they share what is made once.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# What the marker `slow` leaves out of `make test`.
test-slow: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "slow and not full_size"

# The proof on a CUDA card, with a report to attach to an issue: docs/gpu.md.
gpu: venv
	$(BIN)/python -m benchmarks.gpu_proof

venv: $(READY)

# The stamp is written last: an interrupted install is done again. Pinned versions come from constraints.txt; torch
# goes first, because a later open range must find it installed and not fetch another build of it.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[rtx,serve,dev,bench]"
	touch $(READY)

# A real Triton server for its tests, which are skipped without it.
triton: venv
	$(BIN)/python -m tests.serving.triton.triton_home build/triton

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf build $(VENV)
