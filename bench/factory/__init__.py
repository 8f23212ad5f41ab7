"""Figures of the factory: fine-tuning and pre-training against the trainers people use today."""
