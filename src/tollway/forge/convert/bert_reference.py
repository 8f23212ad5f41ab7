"""BERT in eighty obvious lines of numpy, float32: slow, and right. What conversions are held against.

Tokeniser: lower case, accents off, CJK characters and punctuation apart, then the longest piece first (WordPiece).
"""

import unicodedata
from typing import Any

import numpy
from numpy.typing import NDArray

Array = NDArray[numpy.float32]


class Reference:
    """A sentence encoder: `embed(text)` is the normalised mean of the last hidden states."""

    def __init__(
        self, config: dict[str, Any], vocabulary: tuple[str, ...], tensors: dict[str, Any], *, lower_case: bool = True
    ) -> None:
        self._ids = {token: index for index, token in enumerate(vocabulary)}
        self._t: dict[str, Array] = {name: tensor.astype(numpy.float32) for name, tensor in tensors.items()}
        self._layers, self._heads = config["num_hidden_layers"], config["num_attention_heads"]
        self._eps, self._most = config["layer_norm_eps"], config["max_position_embeddings"]
        self._lower_case = lower_case

    def embed(self, text: str) -> Array:
        states = self.hidden(self.tokens(text))
        mean = states.mean(axis=0)
        result: Array = mean / numpy.linalg.norm(mean)
        return result

    def tokens(self, text: str) -> list[int]:
        pieces = [piece for word in self._words(text) for piece in self._pieces(word)]
        return [self._ids["[CLS]"], *pieces[: self._most - 2], self._ids["[SEP]"]]

    def _words(self, text: str) -> list[str]:
        if self._lower_case:
            text = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
        spaced = []
        for c in text:
            if c in "\t\n\r" or unicodedata.category(c) == "Zs":
                spaced.append(" ")
            elif unicodedata.category(c) not in ("Cc", "Cf") and c not in "\0\ufffd":
                spaced.append(f" {c} " if _stands_alone(c) else c)
        return "".join(spaced).split()

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in self._ids)
            end = next(ends, None)
            if end is None or len(word) > 100:
                return [self._ids["[UNK]"]]
            found.append(self._ids[prefix + word[start:end]])
            start = end
        return found

    def hidden(self, ids: list[int]) -> Array:
        t = self._t
        x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(self._layers):
            at = f"encoder.layer.{layer}"
            x = self._norm(
                x + self._linear(self._attend(x, at), f"{at}.attention.output.dense"),
                f"{at}.attention.output.LayerNorm",
            )
            inner = _gelu(self._linear(x, f"{at}.intermediate.dense"))
            x = self._norm(x + self._linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        return x

    def _attend(self, x: Array, at: str) -> Array:
        q, k, v = (self._split(self._linear(x, f"{at}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / numpy.float32(q.shape[-1] ** 0.5)
        weights = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed: Array = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        return mixed.transpose(1, 0, 2).reshape(x.shape)

    def _split(self, x: Array) -> Array:
        return x.reshape(len(x), self._heads, -1).transpose(1, 0, 2)

    def _linear(self, x: Array, at: str) -> Array:
        return x @ self._t[f"{at}.weight"].T + self._t[f"{at}.bias"]

    def _norm(self, x: Array, at: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / numpy.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._eps)
        result: Array = scaled.astype(numpy.float32) * self._t[f"{at}.weight"] + self._t[f"{at}.bias"]
        return result


def _stands_alone(c: str) -> bool:
    code = ord(c)
    ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_sign or unicodedata.category(c).startswith("P") or 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF


def _gelu(x: Array) -> Array:
    """x * Phi(x), with the error function by Abramowitz and Stegun 7.1.26 (error below 1.5e-7)."""
    z = numpy.abs(x) / numpy.float32(2**0.5)
    t = 1 / (1 + 0.3275911 * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = numpy.sign(x) * (1 - poly * numpy.exp(-z * z))
    result: Array = (0.5 * x * (1 + erf)).astype(numpy.float32)
    return result
