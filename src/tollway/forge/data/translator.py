"""A translator behind any OpenAI-compatible URL: another Tollway, vLLM, a provider. Used for back-translation.

One chat call a text, eight at a time, temperature 0. A text whose call fails comes back as it was (and counts as unchanged);
when the first calls all fail, the step stops and says why instead of asking ten thousand times more.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tollway.kit.errors import BadRequest, Unavailable

_AT_ONCE: Final = 8
_TIMEOUT_S: Final = 120
_TRIED: Final = 8


class Translator:
    """`Translator(url, model)(texts, "Chinese")`."""

    def __init__(self, url: str, model: str, key_env: str = "") -> None:
        if not url.startswith(("http://", "https://")):
            raise BadRequest(f"{url!r} is no URL of a translator.", hint="Give it up to /v1: http://HOST:PORT/v1.")
        self.url = url.rstrip("/") + "/chat/completions"
        self.model = model
        self._key = os.environ.get(key_env, "") if key_env else ""
        if key_env and not self._key:
            raise BadRequest(
                f"The variable {key_env} that should hold the translator's key is not set.",
                hint=f"export {key_env}=…; `tollway key create ORG` gives one that may call this shop's models.",
            )

    def __call__(self, texts: Sequence[str], language: str) -> list[str]:
        """Every text in `language`, in order."""
        first = [self._try(text, language) for text in texts[:_TRIED]]
        if first and all(isinstance(one, Exception) for one in first):
            raise Unavailable(
                f"The translator at {self.url} does not answer: {first[0]}.", code="translator_unavailable",
                hint="Check url, model and key_env of the back-translation step.",
            )  # fmt: skip
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            rest = list(pool.map(lambda text: self._try(text, language), texts[_TRIED:]))
        return [text if isinstance(one, Exception) else one for text, one in zip(texts, [*first, *rest], strict=True)]

    def _try(self, text: str, language: str) -> str | Exception:
        try:
            return self._ask(text, language) if text.strip() else text
        except (OSError, ValueError, KeyError, IndexError, TypeError, http.client.HTTPException) as error:
            return error

    def _ask(self, text: str, language: str) -> str:
        order = f"Translate the user's text into {language}. Answer with the translation only."
        body: dict[str, Any] = {
            "model": self.model, "temperature": 0, "max_tokens": 64 + 2 * len(text),
            "messages": [{"role": "system", "content": order}, {"role": "user", "content": text}],
        }  # fmt: skip
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)  # noqa: S310 - http(s) only, see above
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                content = json.loads(answer.read(1 << 22))["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            with error:
                raise OSError(f"{error.code} {error.read(300).decode('utf-8', 'replace')}") from None
        if not isinstance(content, str):
            raise TypeError("the answer has no text")
        return content.strip()
