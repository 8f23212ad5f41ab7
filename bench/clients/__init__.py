"""Load clients that others wrote, unmodified, against a running shop."""
