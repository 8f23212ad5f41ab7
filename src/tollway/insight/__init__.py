"""Reads what the lines recorded and says what it means: unit cost, margin, break-even."""
