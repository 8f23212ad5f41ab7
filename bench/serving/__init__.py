"""Serving benches: encoders and classifiers behind the whole gateway, beside the servers people use today."""
