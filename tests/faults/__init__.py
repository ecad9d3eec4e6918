"""Every fault that a production Redis can show, survived."""
