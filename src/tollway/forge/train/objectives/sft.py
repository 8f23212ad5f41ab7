"""Supervised fine-tuning on conversations: only what the assistant says is learned, and that its turn ends."""

from tollway.forge.train.objectives.causal import Causal


class Sft(Causal):
    """Like causal language modelling; the features leave labels on the assistant's tokens alone, and rows are packed."""

    name = "sft"
    nothing = "no assistant's turn fits into max_length"
