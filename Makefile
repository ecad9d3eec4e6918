# Three commands: make demo, make test, make test-all. Each starts from nothing but Python 3.11+ and make.

PYTHON ?= python3
VENV ?= .venv
VENV_LOWEST ?= .venv-lowest
PIP_OPTIONS = install --quiet --disable-pip-version-check
PIP = $(VENV)/bin/python -m pip $(PIP_OPTIONS)
PYTEST = $(VENV)/bin/python -m pytest

# Harnesses of which `make test` runs a sample: with more random examples, and at more places.
HEAVY = tests/test_thread_sharing_*.py tests/test_sharing_model.py tests/test_cancel_every_await.py \
	tests/test_cache_stampede_interrupts.py
# What compares clients: by itself, as they share a machine with each other only.
COMPARISONS = tests/faults/test_peers.py tests/faults/test_stalled.py
# What the lowest versions must pass: the engine, the cache, the middleware, and each extra.
LOWEST = $(addprefix tests/test_,$(addsuffix .py,async_redis sync_redis async_pipeline sync_pipeline redis_pool pools \
	compatibility loops checks cache_backend cache_async cache_serializers middleware asgi transports embedded \
	health_check_plugin telemetry opentelemetry_metrics prometheus testing))

.PHONY: demo test test-all test-rest test-lowest faults lint format bench screenshots messages clean

demo: $(VENV)/.demo
	@$(VENV)/bin/python -m project.demo

test: lint
	$(VENV)/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

test-all: test test-rest

# All that `make test` leaves out. The comparisons with other clients run by themselves, as in `make faults`.
test-rest: $(VENV)/.dev
	status=0; \
	$(PYTEST) -n 2 --dist loadfile -m lab $(addprefix --ignore ,$(COMPARISONS)) || status=$$?; \
	$(PYTEST) -n 2 --dist loadfile --hypothesis-profile thorough $(HEAVY) || status=$$?; \
	$(PYTEST) -m lab $(COMPARISONS) || status=$$?; \
	$(MAKE) test-lowest || status=$$?; \
	exit $$status

test-lowest: $(VENV_LOWEST)/.dev
	$(VENV_LOWEST)/bin/python -m pytest -n 2 --dist loadfile $(LOWEST)

faults: $(VENV)/.dev
	export FAULTS_JSON=tests/faults/results.json; status=0; \
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "lab or not lab" --hypothesis-profile thorough \
		tests/faults $(addprefix --ignore ,$(COMPARISONS)) tests/test_thread_sharing_*.py tests/test_sharing_model.py \
		tests/test_cancel_every_await.py tests/test_cache_stampede_interrupts.py tests/test_metrics_processes.py \
		|| status=$$?; \
	$(VENV)/bin/python -m pytest -m "lab or not lab" $(COMPARISONS) || status=$$?; \
	$(VENV)/bin/python -m tests.lab.document && exit $$status

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.bench
	$(VENV)/bin/python -m benchmarks
	$(VENV)/bin/python -m benchmarks.manager

screenshots: $(VENV)/.dev
	SCREENSHOTS=1 $(VENV)/bin/python -m pytest tests/browser -k picture

messages: $(VENV)/.dev
	cd redispool_app && DJANGO_SETTINGS_MODULE=tests.settings PYTHONPATH=.. ../$(VENV)/bin/python -m django \
		makemessages -l de -l zh_Hans --no-wrap --no-location --no-obsolete
	cd redispool_app && DJANGO_SETTINGS_MODULE=tests.settings PYTHONPATH=.. ../$(VENV)/bin/python -m django compilemessages

clean:
	rm -rf $(VENV) $(VENV_LOWEST) .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV_LOWEST)/.dev: requirements.txt requirements-dev.txt requirements-lowest.txt $(VENV)/bin/python
	$(VENV)/bin/python -m venv $(VENV_LOWEST)
	$(VENV_LOWEST)/bin/python -m pip $(PIP_OPTIONS) -r requirements-dev.txt -c requirements-lowest.txt
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
