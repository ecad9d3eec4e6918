# Two commands: make demo, make test. Both start from nothing but Python 3.11+ and make.

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test faults lint format bench screenshots messages clean

demo: $(VENV)/.demo
	@$(VENV)/bin/python -m project.demo

test: lint
	$(VENV)/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# The comparison by itself: its clients share a machine with nobody but each other.
faults: $(VENV)/.dev
	export FAULTS_JSON=tests/faults/results.json; status=0; \
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "lab or not lab" --hypothesis-profile thorough \
		tests/faults --ignore tests/faults/test_peers.py tests/test_thread_sharing_*.py tests/test_sharing_model.py \
		tests/test_cancel_every_await.py tests/test_cache_stampede_interrupts.py tests/test_metrics_processes.py \
		|| status=$$?; \
	$(VENV)/bin/python -m pytest -m "lab or not lab" tests/faults/test_peers.py || status=$$?; \
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
	rm -rf $(VENV) .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

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
