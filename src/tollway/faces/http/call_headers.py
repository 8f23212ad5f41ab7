"""What an answer's headers say of the call: which version answered, how long it waited and took, what it cost."""

import time
from decimal import Decimal

from tollway.faces.http.wire import Headers
from tollway.flows.call import Call
from tollway.kit.money import PICOS


def of(call: Call) -> Headers:
    """The headers of an answer that is there, or whose first event is: a stream's price is not known then."""
    now, sat_at = time.monotonic(), call.run.tallies[0].sat_at
    headers = [
        (b"x-tollway-model-version", call.served.model.version.encode()),
        (b"x-tollway-queue-ms", b"%d" % max(0, round(((sat_at or now) - call.began) * 1000))),
        (b"openai-processing-ms", b"%d" % round((now - call.began) * 1000)),  # the name that OpenAI's clients look for
    ]
    if call.price_picos is not None:
        price = f"{Decimal(call.price_picos) / PICOS:f} {call.grant.plan.terms.currency}"
        headers.append((b"x-tollway-price", price.encode()))
    return headers
