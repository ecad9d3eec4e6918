"""Coverage-guided fuzzing with atheris: ``python -m tests.faults.fuzz.url -runs=20000``, and likewise the others."""
