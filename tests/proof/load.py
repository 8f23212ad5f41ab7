"""A crowd of clients: whole answers and streams mixed, some leave in the middle, some calls fail; all is noted.

Every call has a size of its own, written in its prompt for `upstream`, so that a bill can be matched to its call.
"""

import asyncio
import itertools
import random
from collections.abc import Sequence

from tests.proof import upstream
from tests.proof.books import Noted, tokens_stated
from tests.proof.house import Answer, Customer, GatewayProcess, chat

MODEL = "mill"


class Crowd:
    """Clients that call until told to stop or until the gateway is gone."""

    def __init__(
        self, customers: Sequence[Customer], seed: int = 0, *, leavers: float = 0.1, failing: float = 0.05
    ) -> None:
        self.customers, self.random, self.noted = customers, random.Random(seed), Noted()
        self._leavers, self._failing = leavers, failing
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self.stopping = False

    async def press(self, gateway: GatewayProcess, clients: int, *, calls: int | None = None) -> None:
        """`clients` at a time, until `stopping`, the gateway's end, or each made `calls`."""
        self.stopping = False
        await asyncio.gather(*(self._client(gateway, calls) for _ in range(clients)))

    async def _client(self, gateway: GatewayProcess, calls: int | None) -> None:
        made = 0
        while gateway.alive and not self.stopping and (calls is None or made < calls):
            await self.one(gateway)
            made += 1

    async def one(self, gateway: GatewayProcess) -> Answer:
        """One call of a random kind, noted."""
        number, pick = next(self._numbers), self.random
        name = f"call-{number}"
        stream, kind = pick.random() < 0.5, pick.random()
        leaves = kind < self._leavers
        fails = not leaves and kind < self._leavers + self._failing
        tokens, fresh, cached = pick.randint(1, 30), 5 + number % 50, pick.randint(0, 9)
        pause_ms = 5 if leaves else pick.choice((0, 0, 2))
        words = upstream.prompt(name, tokens, input_=fresh + cached, cached=cached, pause_ms=pause_ms)
        body = chat(words + (" fail=1" if fails else ""), MODEL, stream=stream or leaves, max_tokens=40)
        after = pick.randint(1, 8)
        answer = await gateway.ask(
            pick.choice(self.customers).key, body, leave_when=(lambda a: len(a.events) >= after) if leaves else None
        )
        if answer.answered:
            if tokens_stated(answer) != (fresh, cached, tokens):
                self.problems.append(
                    f"{name} states {tokens_stated(answer)}, the engine counted {(fresh, cached, tokens)}"
                )
            self.noted.answered[answer.request_id] = tokens_stated(answer)
        elif answer.left or (leaves and answer.request_id and not answer.error):
            self.noted.left[answer.request_id] = name
        elif answer.status in (0, 200) and not answer.error:
            self.noted.unanswered[fresh, cached, tokens] += 1
        elif answer.error and "what was generated is billed" in answer.error["message"]:
            self.noted.late[answer.request_id] = name
        else:
            self.noted.refused += 1
            self.noted.told[answer.request_id] = f"{answer.error} after {len(answer.events)} events"
        return answer
