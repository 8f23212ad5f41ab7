"""Tollway: a Model-as-a-Service platform in a box. See docs/architecture.md for the map of the rooms."""

__version__ = "0.1.0"
