# Needs python3 and a C compiler; utils/bootstrap.sh sees to the rest. `PYTHON=python3.12 make test` picks the interpreter.

PYTHON ?= python3
BIN := .venv/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)

# Stamps: what was installed for this interpreter, and which kind of core was built in place for it.
INSTALLED := .venv/installed-$(VERSION)
BUILT := build/$(VERSION)-$(if $(filter 1,$(TCSPLITTER_DEBUG)),debug,release)$(and $(TCSPLITTER_SANITIZE),-sanitized).built

# What is compiled: each module with a .pxd beside it.
COMPILED := $(wildcard tcsplitter/*.pyx tcsplitter/*.pxd tcsplitter/*.pxi tcsplitter/*.h)
COMPILED += $(wildcard $(patsubst %.pxd,%.py,$(wildcard tcsplitter/*.pxd)))

.DELETE_ON_ERROR:
.PHONY: help venv demo test lint soak fuzz bench sweep sanitize clean

help: ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

# A make of its own for the core: this one looked at the stamps before the installation, which builds the core as well.
venv: $(INSTALLED) ## .venv with all that is needed, and the core built in place
	@$(MAKE) -s --no-print-directory $(BUILT)

demo: venv ## both ends on loopback, with real traffic that is checked
	$(BIN)/tcsplitter demo

# What measures time has the machine to itself; the other tests, many of which mostly wait, share it.
test: lint ## lint, types and the fast tests
	$(BIN)/pytest -n 3 --dist loadfile -m 'not slow and not alone'
	$(BIN)/pytest -m 'alone and not slow'

lint: venv ## style and types
	$(BIN)/ruff check
	$(BIN)/mypy

soak: venv ## the tests that take minutes
	$(BIN)/pytest -m slow

fuzz: venv ## the property tests, with many more examples
	TCSPLITTER_HYPOTHESIS=deep $(BIN)/pytest -m hypothesis

# The run before stays, to be compared with.
bench: venv ## the benchmarks, as a table (COMPARE=FILE puts a kept run beside it, such as build/bench/previous.json)
	mkdir -p build/bench
	if [ -e build/bench/latest.json ]; then mv build/bench/latest.json build/bench/previous.json; fi
	$(BIN)/pytest benches --benchmark-only --benchmark-max-time=0.5 --benchmark-quiet --benchmark-json=build/bench/latest.json
	$(BIN)/python benches/results.py build/bench/latest.json $(COMPARE)

sweep: venv ## which --tick, --tock and --buffer to take, measured across an emulated line (root; SWEEP=OPTIONS)
	$(BIN)/python benches/sweep.py $(SWEEP)

# A build tree of its own, found before the one in place. Python leaks on purpose at exit, its own allocator would hide overruns, and
# what the sanitizers print must not be captured.
sanitize: $(INSTALLED) ## the tests of the core and of carriers' sockets under AddressSanitizer and UBSan
	TCSPLITTER_SANITIZE=address,undefined $(BIN)/python setup.py --quiet build --build-base build/sanitize --build-lib build/sanitize/lib
	LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	PYTHONMALLOC=malloc PYTHONPATH=build/sanitize/lib $(BIN)/pytest --capture=sys tests/test_core*.py tests/test_tcp.py

clean: ## removes what was built; .venv stays
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks tcsplitter/*.so
	find benches tcsplitter tests utils -name __pycache__ -exec rm -rf {} +

# The editable install builds the core too: the old one goes first, as it may be of another kind.
$(INSTALLED): pyproject.toml utils/bootstrap.sh
	utils/bootstrap.sh $(PYTHON) .venv
	rm -f build/*.built tcsplitter/*.so
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	mkdir -p build && touch $@ $(BUILT)

# A changed setup.py may mean other C from the same sources, and without a stamp another kind may be in place: all is made anew.
$(BUILT): setup.py $(COMPILED) | $(INSTALLED)
	rm -f build/$(VERSION)-*.built
	$(if $(filter setup.py,$?),CYTHON_FORCE_REGEN=1) $(BIN)/python setup.py --quiet build_ext --inplace $(if $(filter setup.py,$?),--force)
	touch $@
