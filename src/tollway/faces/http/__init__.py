"""The HTTP face: the /v1 hot path as raw ASGI, /admin as FastAPI beside it."""
