"""Redis commands and replies as bytes."""
