"""The engine that is somebody else's: any OpenAI-compatible server by URL (vLLM, another Tollway, a cloud)."""

from pathlib import Path
from urllib.parse import urlsplit

from tollway.kit.errors import BadRequest
from tollway.serve.engines.port import Address, Caps, Launch, Probe

_OWN_DOORS = {
    "chat": "chat/completions",
    "embedding": "embeddings",
    "rerank": "rerank",
    "moderation": "moderations",
    "image-generation": "images/generations",
    "transcription": "audio/transcriptions",
    "speech": "audio/speech",
}
_DEAR = ("image-generation", "transcription", "speech")  # to prove one at each start would cost money


class UpstreamServer:
    """A model behind a base URL such as `http://10.0.0.5:8000/v1`. There is no process to start.

    What an upstream can do cannot be asked of it: by default it is taken to know OpenAI's parameters, and its own 400
    is passed on. Pass `caps` to say otherwise.
    """

    name = "upstream"
    version = "upstream"
    pulse = "/models"

    def __init__(
        self,
        url: str,
        model: str,
        *,
        kind: str = "chat",
        key: str = "",
        slots: int = 256,
        context_tokens: int = 0,
        caps: Caps | None = None,
    ) -> None:
        parts = urlsplit(url)
        if not (parts.scheme in ("http", "https") and parts.hostname) and not url.startswith("unix:/"):
            raise BadRequest(
                f"{url!r} is not the URL of a server.", code="invalid_upstream", hint="For example http://host:8000/v1."
            )
        self.model = model
        base, prefix = (url, "/v1") if url.startswith("unix:") else (f"{parts.scheme}://{parts.netloc}", parts.path)
        self._address = Address(url=base, prefix=prefix.rstrip("/"), key=key)
        self.caps = caps or _assumed(kind, slots, context_tokens)
        self.probe = _probe_of(kind, model)

    def __repr__(self) -> str:
        return f"UpstreamServer({self._address.url}, {self.model})"

    def launch(self, socket: Path) -> Launch | None:
        return None

    def address(self, socket: Path) -> Address:
        return self._address


def _assumed(kind: str, slots: int, context_tokens: int) -> Caps:
    chat = kind == "chat"
    return Caps(
        chat=chat,
        completions=chat,
        embeddings=kind == "embedding",
        classify=kind not in _OWN_DOORS,
        rerank=kind == "rerank",
        moderations=kind == "moderation",
        images=kind == "image-generation",
        transcriptions=kind == "transcription",
        speech=kind == "speech",
        passes_through=True,
        json_schema=chat,
        tools=chat,
        logprobs=chat,
        logit_bias=chat,
        reasoning=chat,
        seed=chat,
        cancel=True,
        slots=slots,
        context_tokens=context_tokens,
    )


def _probe_of(kind: str, model: str) -> Probe:
    if kind == "rerank":
        return Probe(path="/rerank", body={"model": model, "query": ".", "documents": ["."]})
    if kind in _DEAR:
        return Probe(path="/models", body={})
    if kind != "chat":
        return Probe(path=f"/{_OWN_DOORS.get(kind, 'classify')}", body={"model": model, "input": ["."]})
    messages = [{"role": "user", "content": "."}]
    return Probe(path="/chat/completions", body={"model": model, "messages": messages, "max_tokens": 1, "stream": True})
