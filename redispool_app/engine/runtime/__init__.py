"""What the engine needs from the process it runs in."""
