"""Endurance: what a shop does under slow clients and after minutes of load."""
