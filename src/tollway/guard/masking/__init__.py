"""Masking of personal data in English and Chinese text: find it, cover it, and put it back.

    masker = masking.Masker()                       # or Masker(kinds=("phone", "email"), style="partial")
    masked = masker.mask("请联系王芳女士 138-1234-5678")
    masked.text                                     # 请联系[NAME_1]女士 [PHONE_1]
    masking.restore(answer, masked.values)          # what was covered, back in an answer
    masking.find(text)                              # [Found(kind, start, end), …]

A pure service: no state, no log, no network. Presidio is not used: its recognisers rest on `\\b`, which finds nothing
beside Chinese characters, and its package brings spaCy (about 40 packages, a second to import) for a model that is not
needed; what is needed are these patterns and checksums.
"""

from tollway.guard.masking.masker import STYLES, Masked, Masker, Restorer, restore
from tollway.guard.masking.recognisers import HINTS, KINDS, Found, find

__all__ = ["HINTS", "KINDS", "STYLES", "Found", "Masked", "Masker", "Restorer", "find", "restore"]
