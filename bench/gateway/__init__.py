"""The gateway alone, against a mock upstream engine: how it stands beside nginx and LiteLLM, and what it adds."""
