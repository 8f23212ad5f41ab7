"""Compression: the same model, smaller or faster; each step measured before and after.

figures = compress.shrink(recipe.compress, folder, prepared, desk)
compress.check(recipe.compress, task)                               # what cannot work, before anything is trained
"""
