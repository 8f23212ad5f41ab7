"""The measuring rig shared by the benches: native tools, pinned processes, timed load blocks, figures."""
