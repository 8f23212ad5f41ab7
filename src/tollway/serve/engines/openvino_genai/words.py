"""Texts to tokens and back: the template, the tokenizer, and pieces of text that may be shown."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from tollway.kit.errors import BadRequest

_ENDS: Final = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<end_of_turn>", "<|end|>")
"""Tokens that end a turn in the templates people use, as llama.cpp knows them: the model's own mark is not always listed."""


class Words:
    """What the model reads and writes."""

    def __init__(self, folder: Path, template: Callable[[list[dict[str, Any]]], str]) -> None:
        from tokenizers import Tokenizer

        self._template = template
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._begin = [told["bos_token_id"]] if settings.get("add_bos_token") and told.get("bos_token_id") else []
        own = told.get("eos_token_id")
        known = {self.tokenizer.token_to_id(name) for name in _ENDS} | set(own if isinstance(own, list) else [own])
        self.ends: tuple[int, ...] = tuple(sorted(one for one in known if one is not None))

    def ids(self, text: str, *, special: bool = True) -> list[int]:
        """Tokens of a text, marks such as <|im_end|> included."""
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        if special and self._begin and found[:1] != self._begin:
            return self._begin + found
        return found

    def prompt(self, messages: Sequence[Any]) -> str:
        """A conversation as the text that the model reads. Raises BadRequest."""
        plain = []
        for one in messages:
            if not isinstance(one, dict) or not isinstance(one.get("role"), str):
                raise BadRequest("Each message needs a role and a content.", code="invalid_value", param="messages")
            plain.append({"role": one["role"], "content": _text(one.get("content"))})
        try:
            return self._template(plain)
        except (RuntimeError, TypeError, UnicodeError) as error:
            said = str(error).strip().splitlines()[:1]
            raise BadRequest(
                f"The model's template refuses these messages: {''.join(said)[:200]}", param="messages"
            ) from None


class Text:
    """Tokens of one answer into text: whole characters only, nothing that may still become a stop, cut at the first."""

    def __init__(self, words: Words, stops: Sequence[str]) -> None:
        from tokenizers.decoders import DecodeStream

        self._words, self._stream = words, DecodeStream(skip_special_tokens=True)
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What can be shown now."""
        piece = self._stream.step(self._words.tokenizer, token) or ""
        if not self._stops:
            return piece
        self._held += piece
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def rest(self) -> str:
        """What was held back, now that nothing more comes."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)


def _text(content: Any) -> str:
    """A message's content as one text."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
