"""`/v1/responses` in chat's words and back: what is asked becomes a chat request, what is answered a response object.

The basic part of OpenAI's Responses API: texts, instructions, functions, a form for the answer. Nothing is stored, so what
refers to an earlier response is refused by name.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from tollway.kit.errors import BadRequest
from tollway.serve.requests import ChatRequest, Message, Name

_TEXTS: Final = ("input_text", "output_text", "text")
_ROLES: Final = ("user", "assistant", "system", "developer")
_ITEMS_MAX: Final = 2048


class ResponsesRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/responses."""

    model: Name
    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=_ITEMS_MAX)]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    # Accepted, and without effect on the answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: bool | None = None
    stream_options: dict[str, Any] | None = None
    # Refused unless they have the value that changes nothing.
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    truncation: str | None = None
    include: list[str] | None = None
    prompt: Any = None
    max_tool_calls: int | None = None
    top_logprobs: int | None = None


def refuse_unsupported(asked: ResponsesRequest) -> None:
    """Raise BadRequest for the first parameter that cannot be honoured here."""
    if asked.previous_response_id is not None:
        raise BadRequest(
            "Responses are not stored here, so there is no earlier one to go on from.",
            param="previous_response_id", code="unsupported_parameter",
            hint="Send the whole conversation as `input`: earlier items, then the new one.",
        )  # fmt: skip
    wrong = (
        (
            "conversation",
            asked.conversation is not None,
            "conversations are not stored here; send the items as `input`",
        ),
        ("background", bool(asked.background), "an answer is given in the call; /v1/batches has time"),
        ("truncation", asked.truncation not in (None, "disabled"), "a conversation that is too long is refused"),
        ("include", bool(asked.include), "there is nothing to add to an answer"),
        ("prompt", asked.prompt is not None, "prompts are not stored here; send `instructions` and `input`"),
        ("max_tool_calls", asked.max_tool_calls is not None, "tools are called by you"),
        ("top_logprobs", bool(asked.top_logprobs), "use /v1/chat/completions for them"),
    )
    for name, is_wrong, why in wrong:
        if is_wrong:
            raise _unsupported(name, why)


def as_chat(asked: ResponsesRequest) -> ChatRequest:
    """The same question as a chat request. Raises BadRequest naming the item that has no place there."""
    refuse_unsupported(asked)
    messages = [] if asked.instructions is None else [Message(role="system", content=asked.instructions)]
    if isinstance(asked.input, str):
        messages.append(Message(role="user", content=asked.input))
    else:
        for index, item in enumerate(asked.input):
            _add(messages, item, f"input[{index}]")
    request = ChatRequest(
        model=asked.model,
        messages=messages,
        stream=asked.stream,
        max_completion_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        tools=[_tool(tool, index) for index, tool in enumerate(asked.tools)] if asked.tools else None,
        tool_choice=_choice(asked.tool_choice),
        parallel_tool_calls=asked.parallel_tool_calls if asked.tools else None,
        response_format=_form(asked.text),
        verbosity=(asked.text or {}).get("verbosity"),
        reasoning_effort=(asked.reasoning or {}).get("effort"),
    )
    try:  # parts that were passed on as they came are held to chat's own rules
        return msgspec.convert(msgspec.to_builtins(request), ChatRequest)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid value: {error}."[:300], param="input", code="invalid_value") from None


def _add(messages: list[Message], item: dict[str, Any], where: str) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        messages.append(_message(item, where))
    elif kind == "function_call":
        call = {"id": item.get("call_id"), "type": "function"}
        function = {"name": item.get("name"), "arguments": item.get("arguments", "")}
        try:
            made = msgspec.convert({"role": "assistant", "tool_calls": [{**call, "function": function}]}, Message)
        except msgspec.ValidationError as error:
            raise BadRequest(f"Invalid value for {where}: {error}."[:300], param=where, code="invalid_value") from None
        before = messages[-1] if messages else None
        if before is not None and before.role == "assistant" and made.tool_calls:
            before.tool_calls = [*(before.tool_calls or []), *made.tool_calls]
        else:
            messages.append(made)
    elif kind == "function_call_output":
        output, call_id = item.get("output"), item.get("call_id")
        if not isinstance(call_id, str):
            raise BadRequest(f"{where} names no call.", param=f"{where}.call_id", code="invalid_value")
        messages.append(Message(role="tool", tool_call_id=call_id, content=_texts(output, f"{where}.output")))
    elif kind != "reasoning":  # what a model thought aloud is not said to it again
        raise _unsupported(f"{where}.type", "it must be message, function_call or function_call_output")


def _message(item: dict[str, Any], where: str) -> Message:
    strange = item.keys() - {"type", "role", "content", "id", "status", "phase"}
    if strange:
        name = f"{where}.{min(strange)}"
        raise BadRequest(f"Unknown parameter: {name!r}."[:300], param=name[:120], code="unknown_parameter")
    role = item.get("role")
    if role not in _ROLES:
        raise _unsupported(f"{where}.role", f"it must be one of {', '.join(_ROLES)}")
    return Message(role=role, content=_texts(item.get("content"), f"{where}.content"))


def _texts(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _unsupported(where, "it must be a text or a list of text parts")
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in _TEXTS or not isinstance(part.get("text"), str):
            raise _unsupported(where, "this model reads text parts only")
    return "".join(part["text"] for part in content)


def _tool(tool: dict[str, Any], index: int) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise _unsupported(f"tools[{index}].type", "only functions, which you call yourself")
    return {"type": "function", "function": {name: one for name, one in tool.items() if name != "type"}}


def _choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice


def _form(text: dict[str, Any] | None) -> dict[str, Any] | None:
    form = (text or {}).get("format")
    if not isinstance(form, dict) or form.get("type") == "text":
        return None
    if form.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {name: one for name, one in form.items() if name != "type"}}
    return form


# -- and back ----------------------------------------------------------------------------------------------------------


def head(asked: ResponsesRequest, call_id: str, at_s: int) -> dict[str, Any]:
    """A response object in which nothing has been said yet."""
    return {
        "id": f"resp_{call_id}",
        "object": "response",
        "created_at": at_s,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": (asked.reasoning or {}).get("effort"), "summary": None},
        "store": False,
        "temperature": asked.temperature,
        "text": {"format": {"type": "text"}} | (asked.text or {}),
        "tool_choice": asked.tool_choice or "auto",
        "tools": asked.tools or [],
        "top_p": asked.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": asked.user,
    }


def message_item(call_id: str, place: int, text: str, status: str = "completed") -> dict[str, Any]:
    """What the model said, as the output item at its place: a model may say something behind a call too."""
    content = [] if status == "in_progress" else [text_part(text)]
    name = f"msg_{call_id}_{place}" if place else f"msg_{call_id}"
    return {"id": name, "type": "message", "status": status, "role": "assistant", "content": content}


def text_part(text: str) -> dict[str, Any]:
    """A piece of content."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(call_id: str, index: int, call: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    """A function the model asked for, as an output item."""
    function = call.get("function") or {}
    return {
        "id": f"fc_{call_id}_{index}",
        "type": "function_call",
        "status": status,
        "call_id": call.get("id") or f"call_{call_id}_{index}",
        "name": function.get("name", ""),
        "arguments": function.get("arguments", ""),
    }


def end_status(reason: str | None) -> str:
    """How an answer ended, and with it the last of its items. `reason` is chat's: "length" means that it was cut off."""
    return "incomplete" if reason == "length" else "completed"


def finished(begun: dict[str, Any], output: list[dict[str, Any]], reason: str | None, usage: Any) -> dict[str, Any]:
    """The response object at its end."""
    status = end_status(reason)
    return begun | {
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "output": output,
        "usage": _usage(usage) if isinstance(usage, dict) else None,
    }


def answered(asked: ResponsesRequest, call_id: str, at_s: int, chat: dict[str, Any]) -> dict[str, Any]:
    """A chat completion as a response object."""
    choice = chat["choices"][0]
    message = choice["message"]
    calls = message.get("tool_calls") or []
    output = [message_item(call_id, 0, message.get("content") or "")] if message.get("content") or not calls else []
    output += [call_item(call_id, index, call) for index, call in enumerate(calls)]
    output[-1]["status"] = end_status(choice.get("finish_reason"))
    return finished(head(asked, call_id, at_s), output, choice.get("finish_reason"), chat.get("usage"))


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {
        "input_tokens": usage.get("prompt_tokens", 0),
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.get("total_tokens", 0),
    }


def _unsupported(param: str, why: str) -> BadRequest:
    return BadRequest(
        f"The parameter {param!r} cannot be used like this: {why}.", param=param, code="unsupported_parameter"
    )
