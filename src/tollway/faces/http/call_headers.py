"""What an answer's headers say of the call: which version answered, how long it waited and took, what it cost."""

import time

from tollway.faces.http.wire import Headers
from tollway.flows.call import Call
from tollway.kit.money import format_picos


def of(call: Call) -> Headers:
    """The headers of an answer that is there, or whose first event is: a stream's price is not known then."""
    now, began, sat_at = time.monotonic(), call.began, call.run.tallies[0].sat_at
    headers = [
        (b"x-tollway-model-version", call.served.model.version.encode()),
        (b"x-tollway-queue-ms", b"%.0f" % (((sat_at or now) - began) * 1000)),
        (b"openai-processing-ms", b"%.0f" % ((now - began) * 1000)),  # the name that OpenAI's clients look for
    ]
    if call.price_picos is not None:
        price = f"{format_picos(call.price_picos)} {call.grant.plan.terms.currency}"
        headers.append((b"x-tollway-price", price.encode()))
    return headers
