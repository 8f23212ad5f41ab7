"""The factory: data, training, compression, conversion, evaluation. Turns a part of a recipe and an artifact into an
artifact; the heavy libraries live here.
"""
