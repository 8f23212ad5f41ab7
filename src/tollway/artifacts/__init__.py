"""The model package: manifest, digest, signature, store. What the factory hands over and the service loads.

Modules: `store` (import, find, verify, remove), `manifest` (the passport of a model), `signing` (the operator's mark),
`gguf` (reading a stranger's file header without trusting it).
"""
