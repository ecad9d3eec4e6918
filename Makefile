# `make` lists the targets. Each starts from nothing but Python 3.11+ and make.
.DEFAULT_GOAL = help

PYTHON ?= python3
VENV ?= .venv
VENV_LOWEST ?= .venv-lowest
VENV_NEWEST ?= .venv-newest
# Python 3.12 first: a fork from another thread that Python does not hear of fails on 3.13.
NEWEST_PYTHON ?= $(shell for version in 3.12 3.13; do \
	for python in python$$version "$$HOME"/.pyenv/versions/$$version.*/bin/python; do \
	"$$python" -c "import ensurepip" 2>/dev/null && command -v "$$python" && exit; done; done)
PIP_OPTIONS = install --quiet --disable-pip-version-check
PIP = $(VENV)/bin/python -m pip $(PIP_OPTIONS)
PYTEST = $(VENV)/bin/python -m pytest
COVERAGE_VENV = $(if $(NEWEST_PYTHON),$(VENV_NEWEST),$(VENV))
COVERAGE = $(COVERAGE_VENV)/bin/python -m coverage
SUITE = -n 6 --dist loadfile --no-loadscope-reorder

# Harnesses of which `make test` runs a sample; the laboratory runs them at every place.
HARNESSES = \
	$(addprefix tests/engine/multiplex/test_,$(addsuffix .py,async_interrupts async_storm moved_names nested_calls \
		sharing_model thread_sharing_* thread_stalls_struck)) \
	$(addprefix tests/engine/pool/test_,$(addsuffix .py,async_pool_struck pools_storm pools_struck)) \
	$(addprefix tests/cache/test_,$(addsuffix .py,cache_interrupts cache_nested cache_stampede_interrupts)) \
	$(addprefix tests/engine/test_,$(addsuffix .py,cancel_every_await)) \
	$(addprefix tests/test_,$(addsuffix .py,deployments)) \
	$(addprefix tests/engine/health/test_,$(addsuffix .py,health_interrupts)) \
	$(addprefix tests/metrics/test_,$(addsuffix .py,metrics_processes))
# Tests by random examples, which take more of them where there is time.
RANDOM = \
	$(addprefix tests/engine/multiplex/test_,$(addsuffix .py,sharing_model thread_sharing_model)) \
	$(addprefix tests/faults/test_,$(addsuffix .py,fuzz_admin fuzz_keys fuzz_replies))
# What compares clients: by itself, as they share a machine with each other only.
COMPARISONS = tests/faults/test_peers.py tests/faults/test_stalled.py
# What the lowest versions must pass: the engine, the cache, the middleware, the demo, and each extra.
LOWEST = \
	$(addprefix tests/engine/client/test_,$(addsuffix .py,async_redis sync_redis async_pipeline sync_pipeline)) \
	$(addprefix tests/test_,$(addsuffix .py,redis_pool pools checks middleware asgi health_check_plugin testing \
		demo)) \
	$(addprefix tests/engine/runtime/test_,$(addsuffix .py,compatibility)) \
	$(addprefix tests/engine/topology/test_,$(addsuffix .py,loops)) \
	$(addprefix tests/cache/test_,$(addsuffix .py,cache_backend cache_async)) \
	$(addprefix tests/serialization/test_,$(addsuffix .py,cache_serializers)) \
	$(addprefix tests/engine/connection/test_,$(addsuffix .py,transports)) \
	$(addprefix tests/engine/embedded/test_,$(addsuffix .py,embedded)) \
	$(addprefix tests/engine/stats/test_,$(addsuffix .py,telemetry)) \
	$(addprefix tests/metrics/test_,$(addsuffix .py,opentelemetry_metrics prometheus))

# Tests and benchmarks share the processors with no other target.
.NOTPARALLEL:
.PHONY: help demo test test-all test-rest test-lab test-random test-comparisons test-lowest test-newest \
	test-matrix suite-on-newest coverage faults lint format bench bench-check screenshots messages clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo ## serve the demo site with an embedded server, until Ctrl-C
	@$(VENV)/bin/python -m project.demo

test: lint ## lint, then run all tests but the slow ones
	$(PYTEST) $(SUITE)

test-all: test test-rest ## run every test: 40 minutes on 2 cores

# All that `make test` leaves out. What fails does not keep the rest from running.
test-rest: $(VENV)/.dev ## run what `make test` leaves out
	$(MAKE) --keep-going test-lab test-random test-comparisons test-lowest

test-lab: $(VENV)/.dev ## run the slow tests: the failure laboratory and the harnesses
	$(PYTEST) -n 2 --dist worksteal -m lab --hypothesis-profile thorough $(addprefix --ignore ,$(COMPARISONS))

test-random: $(VENV)/.dev ## run the tests by random examples with more examples
	$(PYTEST) -n 2 --dist loadfile --hypothesis-profile thorough $(RANDOM)

test-comparisons: $(VENV)/.dev ## compare the clients under faults
	$(PYTEST) -m lab $(COMPARISONS)

test-lowest: $(VENV_LOWEST)/.dev ## run the core tests with the lowest versions that are declared
	$(VENV_LOWEST)/bin/python -m pytest -n 2 --dist loadfile $(LOWEST)

test-newest: ## run the tests of `make test` on the newest Django, with Python 3.12 or 3.13
	$(if $(NEWEST_PYTHON),$(MAKE) suite-on-newest,@echo "Skipped: no Python 3.12 or 3.13 is found; \
		name one: make test-newest NEWEST_PYTHON=/path/to/python3.13")

suite-on-newest: $(VENV_NEWEST)/.dev
	$(VENV_NEWEST)/bin/python -m pytest $(SUITE)

coverage: ## measure which lines the tests of `make test` reach, subprocesses included
	$(MAKE) $(COVERAGE_VENV)/.dev
	$(COVERAGE) erase
	$(COVERAGE) run -m pytest $(SUITE)
	$(COVERAGE) combine --quiet
	$(COVERAGE) report

test-matrix: $(VENV)/.dev ## run the tests of `make test` on each Python, Django and redis-py
	$(VENV)/bin/nox

faults: $(VENV)/.dev ## inject every fault and write the tables of docs/faults.md
	export FAULTS_JSON=tests/faults/results.json; status=0; \
	$(PYTEST) -n 2 --dist worksteal -m "lab or not lab" --hypothesis-profile thorough \
		tests/faults $(addprefix --ignore ,$(COMPARISONS)) $(HARNESSES) || status=$$?; \
	$(PYTEST) -m "lab or not lab" $(COMPARISONS) || status=$$?; \
	$(VENV)/bin/python -m tests.lab.document && exit $$status

lint: $(VENV)/.dev ## check style, types, layers and spelling; changes nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/codespell

format: $(VENV)/.dev ## fix style and format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.bench ## measure, and write benchmarks/results.json and the pictures
	$(VENV)/bin/python -m benchmarks
	$(VENV)/bin/python -m benchmarks.manager

bench-check: $(VENV)/.bench ## compare a short run with benchmarks/results.json; fail below 0.8 of a ratio
	$(VENV)/bin/python -m benchmarks.check

screenshots: $(VENV)/.dev ## draw the pictures of the status page again
	SCREENSHOTS=1 $(VENV)/bin/python -m pytest tests/browser -k picture

messages: $(VENV)/.dev ## collect and compile the translations
	cd redispool_app && DJANGO_SETTINGS_MODULE=tests.settings PYTHONPATH=.. ../$(VENV)/bin/python -m django \
		makemessages -l de -l zh_Hans --no-wrap --no-location --no-obsolete
	cd redispool_app && DJANGO_SETTINGS_MODULE=tests.settings PYTHONPATH=.. ../$(VENV)/bin/python -m django compilemessages

clean: ## delete the environments and everything else that was made
	rm -rf $(VENV) $(VENV_LOWEST) $(VENV_NEWEST) .nox .coverage .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV_LOWEST)/.dev: requirements.txt requirements-lowest.txt | $(VENV)/bin/python
	@echo "Installing the lowest versions that are declared ..."
	$(VENV)/bin/python -m venv $(VENV_LOWEST)
	@$(VENV_LOWEST)/bin/python -m pip $(PIP_OPTIONS) -r requirements-lowest.txt
	@touch $@

$(VENV_NEWEST)/.dev: requirements.txt requirements-dev.txt
	@echo "Installing what the tests need on the newest Django ..."
	$(NEWEST_PYTHON) -m venv $(VENV_NEWEST)
	@$(VENV_NEWEST)/bin/python -m pip $(PIP_OPTIONS) --upgrade -r requirements-dev.txt
	@touch $@

$(VENV)/.demo: $(VENV)/bin/python requirements.txt
	@echo "Installing what the demo needs ..."
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.demo requirements-dev.txt
	@echo "Installing what the tests need ..."
	@$(PIP) -r requirements-dev.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.dev requirements-bench.txt
	@echo "Installing what the benchmark compares with ..."
	@$(PIP) -r requirements-bench.txt
	@touch $@
