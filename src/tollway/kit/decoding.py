"""Bytes to a typed request; what does not fit is said in one sentence that names the parameter. For doors and batches."""

from typing import Any, Final

import msgspec

from tollway.kit.errors import BadRequest

_SHALLOW: Final = 400  # brackets: a body with fewer is nowhere deeper than that
_SPARE: Final = 200  # frames


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Bytes to a typed request. Raises BadRequest naming the parameter."""
    try:
        if body.count(b"{") + body.count(b"[") < _SHALLOW:
            return decoder.decode(body)
        return _from_deeper(decoder, body, _SPARE)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        param = where.rstrip("`").lstrip(".").removesuffix("[...]") or None  # said of any value of an object
        if "unknown field" in what or "missing required field" in what:
            named = what.rpartition("field `")[2].rstrip("`")
            param = f"{param}.{named}" if param else named
            if "unknown field" in what:
                raise BadRequest(
                    f"Unknown parameter: {param!r}."[:300], param=param[:120], code="unknown_parameter"
                ) from None
        raise BadRequest(
            f"Invalid value for {param or 'the body'}: {what}."[:300], param=param and param[:120], code="invalid_value"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not valid JSON: {str(error)[:200]}.", code="invalid_json") from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.", code="invalid_json") from None


def _from_deeper(decoder: msgspec.json.Decoder[Any], body: bytes, frames: int) -> Any:
    """Decode with so many frames less of the stack than there are: what passes here can be written again further inside."""
    return _from_deeper(decoder, body, frames - 1) if frames else decoder.decode(body)
