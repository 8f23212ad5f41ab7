"""Thin faces over the flows: HTTP API, console, command line. Parse, call a flow, render."""
