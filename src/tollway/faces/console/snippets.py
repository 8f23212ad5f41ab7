"""Code a buyer can copy: curl, Python and JavaScript for a model, with the address and the key filled in."""

import json
from typing import Any

PLACEHOLDER = "$TOLLWAY_KEY"


def samples(url: str, secret: str, model: dict[str, Any]) -> list[tuple[str, str]]:
    """(language, code) for the quick start; without a secret the code reads it from the environment."""
    return _embedding(url, secret, model["name"]) if model["kind"] == "embedding" else _chat(url, secret, model["name"])


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
