"""Faults, the health state, its history, and the monitor that keeps them."""
