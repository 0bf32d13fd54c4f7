# `make demo` and `make test` do everything on a machine with Python 3.11 or 3.12, g++ and make.
#
# PYTHON=...  the Python that the environment is made from
# PIP_ARGS=...  more arguments for pip; where pip would fetch torch with CUDA and the CPU build is enough:
#               make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

VENV := .venv
BIN := $(VENV)/bin
BUILT_FROM := pyproject.toml setup.py constraints.txt $(shell find csrc -type f)
SUITABLE := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do $$p -c '$(SUITABLE)' 2>/dev/null && echo $$p && break; done)
SANITIZED := build/sanitize
TORCH_FREE := $(addprefix tests/kernels/test_, plan_native.py plan_forward_native.py abs_median_numpy.py pull_lines_numpy.py narrow_adjoint_numpy.py noise_numpy.py sinkhorn_numpy.py \
	conjugate_sinkhorn_numpy.py transport_linear_numpy.py transport_project_numpy.py interval_image_numpy.py)
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS)

.PHONY: demo test slow bench sanitize format clean distclean

demo: $(VENV)/.installed
	$(BIN)/verifix demo

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/.installed-dev
	$(PIP) --no-deps convex_adversarial==0.4.4 || echo "convex_adversarial is not there: its cases are skipped" >&2
	mkdir -p build
	VERIFIX_BENCH_QUICK=$(QUICK) $(BIN)/python -m pytest bench --benchmark-only --benchmark-json=build/bench.json
	$(BIN)/python -m bench.report build/bench.json

# The tests that need numpy but no torch, on an extension of its own that watches addresses and undefined behaviour.
sanitize: $(VENV)/.installed-dev
	VERIFIX_CUDA=0 VERIFIX_SANITIZE=address,undefined \
		$(BIN)/python setup.py build_ext --build-temp $(SANITIZED)/objects --build-lib $(SANITIZED)
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		VERIFIX_EXTENSION=$$(echo $(SANITIZED)/verifix/_C.*.so) \
		$(BIN)/python -m pytest --noconftest -p no:cacheprovider $(TORCH_FREE)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tools that build come first, so that the extension is built with pinned ones and again only where a source changed.
$(VENV)/.tools: constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 in PATH: install one, or name it with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch setuptools pybind11 ninja
	touch $@

$(VENV)/.installed: $(VENV)/.tools $(BUILT_FROM)
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.tools $(BUILT_FROM)
	$(PIP) --no-build-isolation --editable ".[dev]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf build dist *.egg-info verifix/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f $(VENV)/.installed $(VENV)/.installed-dev

distclean: clean
	rm -rf $(VENV)
