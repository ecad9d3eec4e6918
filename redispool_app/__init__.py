"""One shared, health-checked Redis manager for a Django project."""

__version__ = "0.1.0"
