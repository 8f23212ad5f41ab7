"""The whole path with a real language model, against the same engine called in process."""
