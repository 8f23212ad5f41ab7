"""Texts and conversations to token numbers for language models: pre-training, chat, preferences. No torch.

A row becomes `input_ids` and `_labels` of the same length: `_labels[i]` is the token that should follow `input_ids[i]`,
IGNORE where nothing is learned (what the user said). A conversation is written by the model's own chat template; the engine
that serves the model uses the same template and the same rule about the first token.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np

from tollway.inference import lm_tokenizer, vocabulary
from tollway.inference.encoding import (
    IGNORE,
    Arrays,
    Encoded,
    Features,
    Row,
    Table,
    Target,
    column,
    pad,
    text_of,
    wrong,
)
from tollway.kit.errors import BadRequest

CONFIG: Final = "tokenizer_config.json"
_END_NAMES: Final = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
_ROLES: Final = ("system", "user", "assistant", "tool")
_TEMPLATE_LONGEST: Final = 100_000


class LanguageFeatures(Features):
    """`text`, `messages`, or `prompt` with `chosen` and `rejected`."""

    kind: ClassVar[str] = "language"
    defaults: ClassVar[dict[str, Any]] = {"tokenizer": "bpe", "vocabulary": 8192, "max_length": 512, "new_tokens": 48,
                                          "role": "decoder"}  # fmt: skip

    def __init__(self, task: str, options: Mapping[str, Any], tokenizer: Any, config: Mapping[str, Any]) -> None:
        self.task, self.target, self.tokenizer = task, Target(), tokenizer
        self.options = {**self.defaults, **{name: one for name, one in options.items() if name in self.defaults}}
        self.config = dict(config)
        self.max_length = int(self.options["max_length"])
        self.bos = self._id("bos_token") if "bos_token" in config else self._id("cls_token")
        self.eos = self._id("eos_token")
        ends = [one for name in _END_NAMES if (one := tokenizer.token_to_id(name)) is not None]
        self.document_end = ends[0] if ends else self.eos
        if self.document_end is None:
            raise BadRequest("This tokenizer has no token that ends a text.", hint="Its config must name an eos_token.")
        pad_id = self._id("pad_token")
        self.pad_id = self.document_end if pad_id is None else pad_id
        self.adds_bos = (
            bool(tokenizer.encode("").ids) if "add_bos_token" not in config else bool(config["add_bos_token"])
        )

    def _id(self, name: str) -> int | None:
        given = self.config.get(name)
        word = given.get("content") if isinstance(given, Mapping) else given
        found = self.tokenizer.token_to_id(word) if isinstance(word, str) else None
        return None if found is None else int(found)

    @classmethod
    def fit(cls, task: str, table: Table, options: Mapping[str, Any] | None = None) -> Self:
        """Take the tokenizer of options["folder"], else learn one from the training rows."""
        given = dict(options or {})
        if given.get("folder"):
            folder = Path(given["folder"])
            return cls(task, given | {"tokenizer": "given"}, vocabulary.read(folder), read_config(folder))
        chosen = {**cls.defaults, **{name: one for name, one in given.items() if name in cls.defaults}}
        made = lm_tokenizer.train(
            _texts(task, table),
            kind=str(chosen["tokenizer"]),
            vocabulary=int(chosen["vocabulary"]),
            role=chosen["role"],
        )
        config = lm_tokenizer.config(made, context_tokens=int(chosen["max_length"]))
        return cls(task, chosen, made, config)

    @property
    def vocabulary_size(self) -> int:
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def chat_template(self) -> str:
        return str(self.config.get("chat_template") or "")

    def fields(self) -> dict[str, str]:
        return {"text": "text"} if self.task == "language-modeling" else {"messages": "json"}

    def encode(self, rows: Sequence[Row]) -> list[Encoded]:
        """One `input_ids` with its `_labels` a row; a preference has the rejected answer beside it under `_b`."""
        made: list[Encoded] = []
        for number, row in enumerate(rows):
            if "chosen" in row:
                asked = [{"role": "user", "content": text_of(row, "prompt", number)}]
                both = [
                    self.conversation([*asked, {"role": "assistant", "content": text_of(row, name, number)}], number)
                    for name in ("chosen", "rejected")
                ]
                made.append(both[0] | {f"{name}_b": one for name, one in both[1].items()})
            elif row.get("messages") is not None:
                made.append(self.conversation(row["messages"], number))
            elif "prompt" in row:
                made.append(self.conversation([{"role": "user", "content": text_of(row, "prompt", number)}], number))
            else:
                made.append(self._document(text_of(row, "text", number)))
        return made

    def _document(self, text: str) -> Encoded:
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        first = [self.bos] if self.adds_bos and self.bos is not None else []
        return _shifted([*first, *ids, self.document_end], None)

    def ids(self, text: str) -> list[int]:
        """The tokens of a prompt, as the engine that serves it counts them."""
        found = self.tokenizer.encode(text, add_special_tokens=False).ids
        if self.adds_bos and self.bos is not None and found[:1] != [self.bos]:
            return [self.bos, *found]
        return list(found)

    def conversation(self, messages: Any, number: int = 0) -> Encoded:
        """A conversation by the template, with labels on what the assistant says (and on the end of its turn).

        `_prompt` is the part before the last answer: what a model is asked to go on from.
        """
        turns = _checked(messages, number)
        encoded = self._turns(turns)
        if turns[-1]["role"] == "assistant" and len(turns) > 1:
            encoded["_prompt"] = np.asarray(self.ids(self.write(turns[:-1], ask=True)), dtype=np.int64)
        return encoded

    def _turns(self, turns: list[dict[str, str]]) -> Encoded:
        text, spans = self._written(turns)
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        asked = np.zeros(len(encoding.ids), dtype=bool)
        for place, (start, _) in enumerate(encoding.offsets):
            asked[place] = any(low <= start < high for low, high in spans)
        ids = list(encoding.ids)
        if self.adds_bos and self.bos is not None and ids[:1] != [self.bos]:
            ids, asked = [self.bos, *ids], np.concatenate([[False], asked])
        return _shifted(ids[: self.max_length + 1], asked[: self.max_length + 1])

    def _written(self, turns: list[dict[str, str]]) -> tuple[str, list[tuple[int, int]]]:
        """The whole conversation, and where in it the assistant speaks."""
        if turns[-1]["role"] != "assistant":
            return self.write(turns, ask=True), []
        text, spans = self.write(turns), []
        for place, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            before, after = self.write(turns[:place], ask=True), self.write(turns[: place + 1])
            if not after.startswith(before) or not text.startswith(after.rstrip()):
                raise BadRequest(
                    "This model's chat template rewrites earlier turns, so it cannot be told what the assistant said.",
                    hint="Use conversations with one answer, or another base.",
                )
            spans.append((len(before), len(after.rstrip())))
        return text, spans

    def write(self, turns: Sequence[Mapping[str, str]], *, ask: bool = False) -> str:
        """The text of a conversation; `ask` adds the beginning of the assistant's next turn."""
        return render(self.chat_template, turns, ask=ask, config=self.config)

    def length(self, encoded: Encoded) -> int:
        return len(encoded["input_ids"])

    def collate(self, encoded: Sequence[Encoded]) -> Arrays:
        """Prompts padded at the end: a causal model never looks there. Too long a prompt loses its beginning."""
        rows = [one.get("_prompt", one["input_ids"])[-self.max_length :] for one in encoded]
        return {
            "input_ids": pad(rows, self.pad_id),
            "attention_mask": pad([np.ones(len(one), dtype=np.int64) for one in rows]),
        }

    def targets(self, rows: Sequence[Row]) -> Arrays:
        found = [one["_labels"][: self.max_length] for one in self.encode(rows)]
        return {"labels": pad(found, IGNORE)}

    def decode(
        self, outputs: Arrays, rows: Sequence[Row] = (), encoded: Sequence[Encoded] = ()
    ) -> list[dict[str, Any]]:
        """What was written: `tokens` as text, cut where it ended."""
        stops = {self.eos, self.document_end}
        found = []
        for row in outputs["tokens"].tolist():
            end = next((place for place, one in enumerate(row) if one in stops or one < 0), len(row))
            found.append({"text": self.tokenizer.decode(row[:end], skip_special_tokens=True)})
        return found

    def generate(self, run: Callable[[Arrays], Arrays], arrays: Arrays) -> Arrays:
        """The likeliest next token, again and again, without a cache: for short answers and for parity checks."""
        ids, mask = arrays["input_ids"], arrays["attention_mask"]
        ends = mask.sum(axis=1)
        rows = np.arange(len(ids))
        written = np.full((len(ids), int(self.options["new_tokens"])), -1, dtype=np.int64)
        for step in range(written.shape[1]):
            if int(ends.max()) >= self.max_length:
                break
            logits = run({"input_ids": ids, "attention_mask": mask})["logits"]
            written[:, step] = logits[rows, ends - 1].argmax(axis=-1)
            if int(ends.max()) == ids.shape[1]:
                ids = np.pad(ids, ((0, 0), (0, 1)), constant_values=self.pad_id)
                mask = np.pad(mask, ((0, 0), (0, 1)))
            ids[rows, ends], mask[rows, ends] = written[:, step], 1
            ends = ends + 1
        return {"tokens": written}

    def example(self, rows: int = 2) -> list[dict[str, Any]]:
        texts = ["The answer to the question is", "Once upon a time there was a small"]
        if self.task == "language-modeling":
            return [{"text": texts[number % 2]} for number in range(rows)]
        return [{"messages": [{"role": "user", "content": texts[number % 2]}]} for number in range(rows)]

    def dynamic(self) -> dict[str, dict[int, str]]:
        return {name: {0: "rows", 1: "length"} for name in ("input_ids", "attention_mask")}

    def state(self) -> dict[str, Any]:
        return {}

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / vocabulary.FILE_NAME).write_text(vocabulary.same(self.tokenizer).to_str(), encoding="utf-8")
        text = json.dumps(self.config, ensure_ascii=False, indent=2)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def restore(cls, state: dict[str, Any], folder: Path) -> Self:
        return cls(state["task"], state["options"], vocabulary.read(folder), read_config(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the chat template in it wherever the folder keeps it."""
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        config = {}
    except (OSError, ValueError) as error:
        raise BadRequest(f"{CONFIG} of {folder.name} cannot be read: {error}.", code="invalid_model_file") from None
    apart = folder / "chat_template.jinja"
    if apart.is_file():
        config["chat_template"] = apart.read_text(encoding="utf-8")
    if isinstance(config.get("chat_template"), list):  # several by name: the default one is the chat's
        named = {one.get("name"): one.get("template", "") for one in config["chat_template"]}
        config["chat_template"] = named.get("default", "")
    return config


def render(template: str, turns: Sequence[Mapping[str, str]], *, ask: bool, config: Mapping[str, Any]) -> str:
    """A conversation by a chat template, in jinja's sandbox. Raises BadRequest when the template refuses it."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if not template or len(template) > _TEMPLATE_LONGEST:
        raise BadRequest(
            "This model has no chat template that can be used.", code="no_chat_template",
            hint="Choose an instruct base (smollm2), or train on texts: task = 'language-modeling'.",
        )  # fmt: skip
    # `generation` only marks the assistant's part for other trainers; here the turns are compared instead
    plain = re.sub(r"({%-?\s*)generation(\s*-?%})", r"\1if true\2", template)
    plain = re.sub(r"({%-?\s*)endgeneration(\s*-?%})", r"\1endif\2", plain)
    room = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    room.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    room.globals["raise_exception"] = _raise
    words = {name: _word(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    try:
        return room.from_string(plain).render(messages=list(turns), add_generation_prompt=ask, tools=None, **words)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        raise BadRequest(f"The chat template refuses this conversation: {error}.", param="messages") from None


def _raise(text: str) -> None:
    raise ValueError(text)


def _word(given: Any) -> str:
    return str(given.get("content", "")) if isinstance(given, Mapping) else str(given or "")


def _shifted(ids: Sequence[int | None], asked: np.ndarray | None) -> Encoded:
    """Inputs and what follows each."""
    whole = np.asarray(ids, dtype=np.int64)
    labels = whole[1:].copy()
    if asked is not None:
        labels[~asked[1:]] = IGNORE
        if not asked.any():
            return {"input_ids": whole, "_labels": np.append(labels, IGNORE)}
    return {"input_ids": whole[:-1], "_labels": labels}


def _checked(messages: Any, number: int) -> list[dict[str, str]]:
    """The turns of a conversation; a JSON text is read. Raises BadRequest naming what is wrong."""
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError:
            raise wrong(number, "messages", "a list of {role, content} is expected, or its JSON.") from None
    if not isinstance(messages, (list, tuple)) or not messages:
        raise wrong(number, "messages", "a list of at least one {role, content} is expected.")
    turns = []
    for place, one in enumerate(messages):
        role, content = (one.get("role"), one.get("content")) if isinstance(one, Mapping) else (None, None)
        if role not in _ROLES or not isinstance(content, str):
            raise wrong(number, "messages", f"turn {place} needs a role ({', '.join(_ROLES)}) and a text as content.")
        turns.append({"role": str(role), "content": content.encode("utf-8", "replace").decode("utf-8")})
    return turns


def _texts(task: str, table: Table) -> Any:
    """What a tokenizer learns from."""
    if task == "language-modeling":
        yield from (one for one in column(table, "text") if isinstance(one, str))
    elif task == "chat":
        for number, messages in enumerate(column(table, "messages")):
            yield from (turn["content"] for turn in _checked(messages, number))
    else:
        for name in ("prompt", "chosen", "rejected"):
            yield from (one for one in column(table, name) if isinstance(one, str))
