"""The reference recipes, run for real: each must reach the figure its own gates name."""
