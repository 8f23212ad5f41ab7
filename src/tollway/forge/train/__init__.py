"""Training: how a net is trained, whatever it is. `fit` is the step of a run; the other modules are its parts.

Nothing here imports torch before a step really runs.
"""
