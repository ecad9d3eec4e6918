"""Connection pools for event loops and for threads."""
