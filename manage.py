#!/usr/bin/env python
"""Run a management command of the demo project."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("Django is not installed here: run 'make demo' once, then use .venv/bin/python manage.py")
    execute_from_command_line(sys.argv)
