"""Pure services anyone above may call: API keys, passwords, tokens, and (later) masking, encryption, audit."""
