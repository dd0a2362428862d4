# `make run` and `make test` set up everything they need; see README.md.

VENV := .venv
# Two at once: most tests wait for servers, sandboxes and files. A file's tests stay together, with what they set up.
PYTEST = $(VENV)/bin/python -m pytest -n 2 --dist loadfile
SOURCES := pyproject.toml constraints.txt CMakeLists.txt scripts/setup.sh $(shell find src/codellama/native -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.cmake')
NATIVE := $(shell find src/codellama/native tests/native -name '*.cpp' -o -name '*.h' -o -name '*.inc')

.PHONY: setup run test test-slow check format bench clean
setup: $(VENV)/.ready-dev

$(VENV)/.ready-run: $(SOURCES)
	scripts/setup.sh run
	@touch $@

# The slow tests start a cluster: Ray (240 MB) is installed for them alone, by name, since the extra would build the engine
# once more.
$(VENV)/.ready-slow: $(VENV)/.ready-dev
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt ray || echo "no Ray: its tests will skip"
	@touch $@

$(VENV)/.ready-dev: $(SOURCES)
	scripts/setup.sh dev
	@touch $(VENV)/.ready-run $@

run: $(VENV)/.ready-run
	$(VENV)/bin/python -m codellama.demo

test: $(VENV)/.ready-dev
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.ready-slow
	$(PYTEST) -m slow

check: $(VENV)/.ready-dev
	$(VENV)/bin/ruff format --check src tests benchmarks
	$(VENV)/bin/ruff check src tests benchmarks
	$(VENV)/bin/mypy
	@if command -v clang-format >/dev/null; then clang-format --dry-run --Werror $(NATIVE); else echo "clang-format is not installed: C++ format not checked"; fi
	$(VENV)/bin/python -m pytest tests/test_layers.py

format: $(VENV)/.ready-dev
	$(VENV)/bin/ruff format src tests benchmarks
	$(VENV)/bin/ruff check --fix src tests benchmarks
	clang-format -i $(NATIVE)

bench: $(VENV)/.ready-run
	$(VENV)/bin/codellama bench

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
