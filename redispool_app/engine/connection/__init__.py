"""Single connections: addresses, credentials, deadlines and lifecycle."""
