"""The embedded server and its supervisor process."""
