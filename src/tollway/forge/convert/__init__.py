"""Conversion: a model in somebody's format becomes one we serve, and proves that it still is the same model.

made = convert.sentence_encoder_to_gguf(folder, out_path)     # made.parity goes into the manifest
starter.import_smollm2(store)                                 # the models that come as packages
"""

from tollway.forge.convert.sentence_encoder import Converted, sentence_encoder_to_gguf

__all__ = ["Converted", "sentence_encoder_to_gguf"]
