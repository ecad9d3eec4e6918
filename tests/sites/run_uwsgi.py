"""Runs uWSGI, which is an extension module here, as ``python -m tests.sites.run_uwsgi``."""

import sys

import pyuwsgi

sys.argv[0] = "uwsgi"
sys.argv += ["--venv", sys.prefix, "--pythonpath", "."]
pyuwsgi.run()
