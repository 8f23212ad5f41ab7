"""Bytes to a typed request; what does not fit is said in one sentence that names the parameter. For doors and batches."""

from typing import Any

import msgspec

from tollway.kit.errors import BadRequest


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Bytes to a typed request. Raises BadRequest naming the parameter."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        param = where.rstrip("`").lstrip(".") or None
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
