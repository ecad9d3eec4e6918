"""All connections of one process to one server."""
