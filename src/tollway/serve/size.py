"""How large a call may become: what the front desk holds for it before it runs, and the line before it is seated."""

import msgspec


class Size(msgspec.Struct):
    """How large a call may become: what is held for it. `tokens_each`: of one of its `parts` engine calls; `units` of
    `meter` is what it uses besides tokens."""

    input_tokens: int
    output_tokens: int
    parts: int
    tokens_each: int
    meter: str = ""
    units: int = 0
