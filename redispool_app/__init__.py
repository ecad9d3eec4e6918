"""One shared, health-checked Redis manager for a Django project."""

__version__ = "0.2.0"
