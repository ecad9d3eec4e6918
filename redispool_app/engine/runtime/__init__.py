"""What the engine needs of the process it runs in."""
