"""Code a buyer can copy: curl, Python and JavaScript for a model, with the address and the key filled in."""

import json
from typing import Any

PLACEHOLDER = "$TOLLWAY_KEY"


def samples(url: str, secret: str, model: dict[str, Any]) -> list[tuple[str, str]]:
    """(language, code) for the quick start; without a secret the code reads it from the environment."""
    name, kind = model["name"], model["kind"]
    if kind == "chat":
        return _chat(url, secret, name)
    if kind == "embedding":
        return _embedding(url, secret, name)
    if kind == "transcription":
        return _transcription(url, secret, name)
    path, body = _PLAIN.get(kind, _CLASSIFY)
    return _plain(url, secret, path, {"model": name, **body})


_CLASSIFY: tuple[str, dict[str, Any]] = ("/classify", {"input": "A toll road for models"})
_PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "rerank": ("/rerank", {"query": "Who pays?", "documents": ["The driver pays the toll.", "It rained all day."]}),
    "moderation": ("/moderations", {"input": "A toll road for models"}),
    "image-generation": ("/images/generations", {"n": 1}),
    "recommendation": ("/recommendations", {"user": "1", "top_n": 5}),
    "image-classification": ("/classify", {"input": {"image": "data:image/png;base64,..."}}),
    "object-detection": ("/detect", {"input": {"image": "data:image/png;base64,..."}}),
    "question-answering": ("/classify", {"input": {"context": "The driver pays the toll.", "question": "Who pays?"}}),
    "speech": ("/audio/speech", {"input": "A toll road for models", "voice": "default"}),
}


def _plain(url: str, secret: str, path: str, body: dict[str, Any]) -> list[tuple[str, str]]:
    """A door that takes JSON: with curl, and with the OpenAI client's own way to reach any door."""
    shown = json.dumps(body, indent=2)
    asked = curl(f"{url}/v1{path}", secret, shown)
    if path == "/audio/speech":
        asked = asked.rstrip("\n") + " \\\n  --output speech.wav\n"
        call = f'client.audio.speech.create(**{json.dumps(body)}, response_format="wav").write_to_file("speech.wav")'
    else:
        call = f"answer = client.post({json.dumps(path)}, body={json.dumps(body)}, cast_to=object)\nprint(answer)"
    python = f"""{_python_import(secret)}from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key={_python_key(secret)})
{call}
"""
    return [("curl", asked), ("Python", python)]


def _transcription(url: str, secret: str, model: str) -> list[tuple[str, str]]:
    asked = f"""curl {url}/v1/audio/transcriptions \\
  -H "Authorization: Bearer {secret or PLACEHOLDER}" \\
  -F model={model} -F file=@recording.wav
"""
    python = f"""{_python_import(secret)}from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key={_python_key(secret)})
with open("recording.wav", "rb") as file:
    print(client.audio.transcriptions.create(model={json.dumps(model)}, file=file).text)
"""
    return [("curl", asked), ("Python", python)]


def _chat(url: str, secret: str, model: str) -> list[tuple[str, str]]:
    name, question = json.dumps(model), "Say hello in five words."
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": question}], "stream": True}, indent=2)
    python = f"""{_python_import(secret)}from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key={_python_key(secret)})
answer = client.chat.completions.create(
    model={name},
    messages=[{{"role": "user", "content": "{question}"}}],
    stream=True,
)
for chunk in answer:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
"""
    javascript = f"""import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{url}/v1", apiKey: {_javascript_key(secret)} }});
const answer = await client.chat.completions.create({{
  model: {name},
  messages: [{{ role: "user", content: "{question}" }}],
  stream: true,
}});
for await (const chunk of answer) {{
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}}
"""
    return [("curl", curl(f"{url}/v1/chat/completions", secret, body)), ("Python", python), ("JavaScript", javascript)]


def _embedding(url: str, secret: str, model: str) -> list[tuple[str, str]]:
    name = json.dumps(model)
    body = json.dumps({"model": model, "input": "A toll road for models"}, indent=2)
    python = f"""{_python_import(secret)}from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key={_python_key(secret)})
answer = client.embeddings.create(model={name}, input="A toll road for models")
print(answer.data[0].embedding[:5])
"""
    javascript = f"""import OpenAI from "openai";

const client = new OpenAI({{ baseURL: "{url}/v1", apiKey: {_javascript_key(secret)} }});
const answer = await client.embeddings.create({{ model: {name}, input: "A toll road for models" }});
console.log(answer.data[0].embedding.slice(0, 5));
"""
    return [("curl", curl(f"{url}/v1/embeddings", secret, body)), ("Python", python), ("JavaScript", javascript)]


def curl(address: str, secret: str, body: str) -> str:
    """A curl command that survives quotes in its body."""
    quoted = body.replace("'", "'\\''")
    return f"""curl {address} \\
  -H "Authorization: Bearer {secret or PLACEHOLDER}" \\
  -H "Content-Type: application/json" \\
  -d '{quoted}'
"""


def _python_key(secret: str) -> str:
    return f'"{secret}"' if secret else 'os.environ["TOLLWAY_KEY"]'


def _javascript_key(secret: str) -> str:
    return f'"{secret}"' if secret else "process.env.TOLLWAY_KEY"


def _python_import(secret: str) -> str:
    return "" if secret else "import os\n\n"
