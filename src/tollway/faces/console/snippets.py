"""Code a buyer can copy: curl, Python and JavaScript for a call, with the address and the key filled in.

For the quick start, and for `tollway deploy`, which prints the curl. What is asked comes from `flows.sample_calls`: as it
stands it is answered. Python and JavaScript use OpenAI's clients, also for the doors that OpenAI does not have.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from tollway.flows.sample_calls import SampleCall

PLACEHOLDER: Final = "$TOLLWAY_KEY"
RECORDING: Final = "hello.wav"
""""Hello from the toll road.": what is transcribed until there is a recording of one's own (static/hello.wav)."""


def samples(url: str, secret: str, call: SampleCall) -> list[tuple[str, str]]:
    """(language, code) of a call; without a secret the code reads it from the environment."""
    return [
        ("curl", curl(url, call, secret)),
        ("Python", _python(url, secret, call)),
        ("JavaScript", _javascript(url, secret, call)),
    ]


def curl(url: str, call: SampleCall, secret: str = "") -> str:
    """A curl command that can be pasted; what makes sounds or pictures leaves a file behind."""
    authorised = f'  -H "Authorization: Bearer {secret or PLACEHOLDER}"'
    if call.call == "transcriptions":
        fetched = f"curl -s {_recording(url)} -o {RECORDING}\n"
        fields = f"  -F model={call.body['model']} -F file=@{RECORDING}"
        return f"{fetched}curl {url}{call.path} \\\n{authorised} \\\n{fields}\n"
    end = _CURL_END.get(call.call, "")
    body = json.dumps(call.body, ensure_ascii=False, indent=2).replace("'", "'\\''")
    kind = '  -H "Content-Type: application/json"'
    return f"curl {url}{call.path} \\\n{authorised} \\\n{kind} \\\n  -d '{body}'{end}\n"


_CURL_END: Final = {
    "speech": " \\\n  --output speech.wav",
    "images": " \\\n  | sed -E 's/.*\"b64_json\": ?\"([^\"]+)\".*/\\1/' | base64 -d > picture.png",
}

_PYTHON: Final = {
    "chat": """answer = client.chat.completions.create(
{arguments}    stream=True,
)
for chunk in answer:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
""",
    "completions": """answer = client.completions.create(
{arguments})
print(answer.choices[0].text)
""",
    "embeddings": """answer = client.embeddings.create(
{arguments})
print(answer.data[0].embedding[:5])
""",
    "moderations": """answer = client.moderations.create(
{arguments})
print(answer.results[0])
""",
    "images": """answer = client.images.generate(
{arguments})
with open("picture.png", "wb") as file:
    file.write(base64.b64decode(answer.data[0].b64_json))
""",
    "speech": """answer = client.audio.speech.create(
{arguments})
answer.write_to_file("speech.wav")
""",
    "transcriptions": """urllib.request.urlretrieve("{recording}", "{file}")
answer = client.audio.transcriptions.create(
{arguments}    file=open("{file}", "rb"),
)
print(answer.text)
""",
}
_PYTHON_POST: Final = """answer = client.post(
    "{door}",
    body={body},
    cast_to=object,
)
print(answer)
"""
_JAVASCRIPT: Final = {
    "chat": """const answer = await client.chat.completions.create({
{fields}  stream: true,
});
for await (const chunk of answer) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
""",
    "completions": """const answer = await client.completions.create({
{fields}});
console.log(answer.choices[0].text);
""",
    "embeddings": """const answer = await client.embeddings.create({
{fields}});
console.log(answer.data[0].embedding.slice(0, 5));
""",
    "moderations": """const answer = await client.moderations.create({
{fields}});
console.log(answer.results[0]);
""",
    "images": """const answer = await client.images.generate({
{fields}});
writeFileSync("picture.png", Buffer.from(answer.data[0].b64_json, "base64"));
""",
    "speech": """const answer = await client.audio.speech.create({
{fields}});
writeFileSync("speech.wav", Buffer.from(await answer.arrayBuffer()));
""",
    "transcriptions": """const answer = await client.audio.transcriptions.create({
{fields}  file: await fetch("{recording}"),
});
console.log(answer.text);
""",
}
_JAVASCRIPT_POST: Final = """const answer = await client.post("{door}", {
  body: {body},
});
console.log(JSON.stringify(answer, null, 2));
"""
_PYTHON_NEEDS: Final = {"images": ("base64",), "transcriptions": ("urllib.request",)}
_PYTHON_WORDS: Final = {None: "None", True: "True", False: "False"}
_JAVASCRIPT_WORDS: Final = {None: "null", True: "true", False: "false"}
_JAVASCRIPT_NEEDS: Final = dict.fromkeys(("images", "speech"), 'import { writeFileSync } from "node:fs";\n')


def _python(url: str, secret: str, call: SampleCall) -> str:
    needs = sorted({*_PYTHON_NEEDS.get(call.call, ()), *(() if secret else ("os",))})
    standard = "".join(f"import {name}\n" for name in needs) + ("\n" if needs else "")
    key = json.dumps(secret) if secret else 'os.environ["TOLLWAY_KEY"]'
    body = _of_clients(call)
    arguments = "".join(f"    {name}={_literal(value, _PYTHON_WORDS)},\n" for name, value in body.items())
    rows = "".join(f"        {json.dumps(name)}: {_literal(value, _PYTHON_WORDS)},\n" for name, value in body.items())
    code = _filled(_PYTHON.get(call.call, _PYTHON_POST), url, call)
    code = code.replace("{arguments}", arguments) if call.call in _PYTHON else code.replace("{body}", "{\n" + rows + "    }")
    return f'{standard}from openai import OpenAI\n\nclient = OpenAI(base_url="{url}/v1", api_key={key})\n{code}'


def _javascript(url: str, secret: str, call: SampleCall) -> str:
    key = json.dumps(secret) if secret else "process.env.TOLLWAY_KEY"
    rows = {name: _literal(value, _JAVASCRIPT_WORDS) for name, value in _of_clients(call).items()}
    code = _filled(_JAVASCRIPT.get(call.call, _JAVASCRIPT_POST), url, call)
    fields = "".join(f"  {name}: {value},\n" for name, value in rows.items())
    body = "{\n" + "".join(f"    {name}: {value},\n" for name, value in rows.items()) + "  }"
    code = code.replace("{fields}", fields) if call.call in _JAVASCRIPT else code.replace("{body}", body)
    return (
        f'{_JAVASCRIPT_NEEDS.get(call.call, "")}import OpenAI from "openai";\n\n'
        f'const client = new OpenAI({{ baseURL: "{url}/v1", apiKey: {key} }});\n{code}'
    )


def _of_clients(call: SampleCall) -> dict[str, Any]:
    """The body as OpenAI's clients want it: they insist on a prompt for a picture, and an empty one is none."""
    return {"prompt": "", **call.body} if call.call == "images" else call.body


def _filled(template: str, url: str, call: SampleCall) -> str:
    """The template with everything but the caller's own words, which may hold anything and go in last."""
    code = template.replace("{door}", call.path.removeprefix("/v1"))
    return code.replace("{recording}", _recording(url)).replace("{file}", RECORDING)


def _literal(value: Any, words: Mapping[Any, str]) -> str:
    """A value of JSON as the language writes it, on one line; `words` are what it calls true, false and nothing."""
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(name, words)}: {_literal(one, words)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_literal(one, words) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _recording(url: str) -> str:
    return f"{url}/console/static/{RECORDING}"
