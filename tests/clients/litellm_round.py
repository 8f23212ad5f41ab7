"""One round through LiteLLM's SDK, told as one line of JSON. Run by whichever Python has LiteLLM: BASE_URL API_KEY CHAT EMBED."""

import asyncio
import json
import os
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # do not fetch a price list from the network

import litellm

litellm.telemetry = False
CHAT, EMBED = f"openai/{os.environ['CHAT']}", f"openai/{os.environ['EMBED']}"
where: dict[str, Any] = {
    "api_base": os.environ["BASE_URL"],
    "api_key": os.environ["API_KEY"],
    "num_retries": 0,
    "timeout": 300,
}
asked: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Say hello in one short sentence."}],
    "max_tokens": 16,
    "temperature": 0,
}


def failure(**changes: Any) -> list[Any] | None:
    """The class and status of the error that a changed call raises."""
    try:
        litellm.completion(**({"model": CHAT} | where | asked | changes))
    except Exception as error:
        return [type(error).__name__, getattr(error, "status_code", None)]
    return None


async def later() -> Any:
    """The same, asynchronously."""
    answer = await litellm.acompletion(model=CHAT, **where, **asked)
    return answer.choices[0].message.content


told: dict[str, Any] = {}
whole = litellm.completion(model=CHAT, **where, **asked)
told["text"] = whole.choices[0].message.content
told["output_tokens"] = whole.usage.completion_tokens
chunks = list(litellm.completion(model=CHAT, **where, **asked, stream=True, stream_options={"include_usage": True}))
told["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
told["asynchronous"] = asyncio.run(later())
rows = litellm.embedding(model=EMBED, input=["a toll road", "raspberry jam"], **where).data
told["dimensions"] = [len(row["embedding"]) for row in rows]
told["text_completion"] = (
    litellm.text_completion(model=f"text-completion-{CHAT}", prompt="One, two,", max_tokens=4, temperature=0, **where).choices[0].text
)
told["wrong_key"] = failure(api_key="tw_live_wrong")
told["unknown_model"] = failure(model="openai/gpt-9-unknown")
told["bad_value"] = failure(temperature=9)
print(json.dumps(told))
