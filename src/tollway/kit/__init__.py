"""The floor: ids, money, clock, database, errors, settings, log. Imports nothing of ours and no framework."""
