"""One small tree of errors; the HTTP status, the CLI exit code and the docs come from the same class.

    TollwayError               500 / 1
    +-- BadRequest             400 / 2   the call itself is wrong
    +-- Unauthorized           401 / 3   no key, or one we do not know
    +-- PaymentRequired        402 / 4   no money or no quota left: paying helps, retrying does not
    +-- Forbidden              403 / 5   known, but not allowed this
    +-- NotFound               404 / 6   no such thing (or not yours: the answer is the same)
    +-- Conflict               409 / 7   the thing is not in the state this needs
    +-- TooLarge               413 / 2   more bytes than allowed
    +-- RateLimited            429 / 8   too much at once: retrying later helps
    +-- Unavailable            503 / 9   we cannot serve it now; nothing was billed

A message says what happened and why; `hint` says what to do next. Messages never carry prompts, keys or stack traces.
Both may be made by `kit/said.py: say`: then the console says them in the reader's language.
"""


class TollwayError(Exception):
    """Something went wrong on our side; the request id finds it in the log."""

    status = 500
    exit_code = 1
    type = "server_error"
    code = "internal_error"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        param: str | None = None,
        hint: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        self.said = message or (type(self).__doc__ or "").strip()  # the words as given: see kit/said.py
        self.said_hint = hint
        self.message = str(self.said)
        self.code = code or type(self).code
        self.param = param
        self.hint = str(hint)
        self.retry_after_s = retry_after_s
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def shown(self) -> dict[str, str | None]:
        """As OpenAI shows an error."""
        return {"message": str(self), "type": self.type, "param": self.param, "code": self.code}


class BadRequest(TollwayError):
    """The request is not valid."""

    status = 400
    exit_code = 2
    type = "invalid_request_error"
    code = "invalid_request"


class Unauthorized(TollwayError):
    """No valid API key was given."""

    status = 401
    exit_code = 3
    type = "authentication_error"
    code = "invalid_api_key"


class PaymentRequired(TollwayError):
    """There is no money or quota left for this call."""

    status = 402
    exit_code = 4
    type = "insufficient_quota"
    code = "insufficient_funds"


class Forbidden(TollwayError):
    """This key is not allowed to do that."""

    status = 403
    exit_code = 5
    type = "permission_error"
    code = "forbidden"


class NotFound(TollwayError):
    """There is no such thing here."""

    status = 404
    exit_code = 6
    type = "invalid_request_error"
    code = "not_found"


class Conflict(TollwayError):
    """The thing is not in the state that this needs."""

    status = 409
    exit_code = 7
    type = "invalid_request_error"
    code = "conflict"


class TooLarge(TollwayError):
    """The request body is larger than this server accepts."""

    status = 413
    exit_code = 2
    type = "invalid_request_error"
    code = "request_too_large"


class RateLimited(TollwayError):
    """Too many requests or tokens at once."""

    status = 429
    exit_code = 8
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Unavailable(TollwayError):
    """The service cannot answer this now; nothing was billed."""

    status = 503
    exit_code = 9
    type = "server_error"
    code = "service_unavailable"
