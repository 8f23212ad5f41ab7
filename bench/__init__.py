"""Benches: commands that print figures as JSON lines, always against a peer or a limit measured in the same run."""
