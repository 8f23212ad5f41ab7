"""Prompt in, pieces and usage out: engines, replicas, the fleet and its queues. Knows no customer."""
