"""A language model with more callers than it can serve: what is answered in time, who is refused, how soon, and whether those
who name `max_tokens` and those who do not are served alike.

Two organizations ask for the same stories, each ended by its first comma or full stop; one says that 64 tokens are enough, the other
says nothing, and 1,024 are held for it. Callers arrive at random and leave after eight seconds.
"""

from collections.abc import Sequence
from typing import Any

from bench.llm.measuring import MODEL, prompts
from bench.rig.figures import Figure
from bench.rig.load import Target as Chat
from bench.rig.processes import talk
from bench.rig.shop import Shop
from bench.serving import loads
from bench.serving.loads import Seen, Target

DEADLINE_S = 8.0
AT_ONCE_S = 0.5  # who is told later than this has waited
_STORIES = 400


def bench(shop: Shop, chat: Chat, seconds: float) -> list[Figure]:
    """At twice and five times of what eight callers who never pause get."""
    target = Target("tollway", chat.port, chat.path, dict, tuple(chat.headers), chat.child)
    shop.tollway("org", "create", "vague")
    shop.tollway("subscription", "start", "vague", "bench")
    shop.tollway("wallet", "top-up", "vague", "1000000")
    vague = str(shop.tollway("key", "create", "vague")["key"])
    source = prompts()
    stories = [next(source) for _ in range(_STORIES)]

    def callers(**how: Any) -> list[dict[str, Any]]:
        patience = {"headers": [f"x-tollway-timeout-ms: {DEADLINE_S * 1000:.0f}"]}
        exact = target.caller([_asked(story, max_tokens=64) for story in stories], **patience, **how)  # type: ignore[arg-type]
        named = target.caller([_asked(story) for story in stories[::-1]], **patience, **how)  # type: ignore[arg-type]
        named["head"] = named["head"].replace(target.headers[0], f"Authorization: Bearer {vague}")
        return [exact, named]

    peak = _rate(loads.run(target, callers(connections=4), seconds, 4.0))
    shares, slow, late, alike = [], [], [], []
    for times in (2, 5):
        each = callers(rate=times * peak / 2, patience_s=DEADLINE_S)
        seen = loads.run(target, each, seconds, DEADLINE_S, seed=times)
        again = _rate(loads.run(target, callers(connections=4), seconds, 4.0))
        refusals = [took for one in seen for took in one.refusals]
        waited = sum(took > AT_ONCE_S for took in refusals) + sum(one.left + one.broken for one in seen)
        answered = sum(len(one.times) for one in seen)
        shares.append(_rate(seen) / ((peak + again) / 2))
        slow.append(1000 * loads.percentile([took for took in refusals if took <= AT_ONCE_S], 0.99))
        late.append(waited / max(1, waited + answered))
        alike.append(len(seen[1].times) / max(1, len(seen[0].times)))
        talk(f"  {times}x of {peak:.1f} and {again:.1f}/s: {shares[-1]:.0%} answered, {late[-1]:.1%} of those let in came to nothing")
        talk("\n".join(f"    {name:<6} {one.row()}" for name, one in zip(("exact", "vague"), seen, strict=True)))
        peak = again
    peer = "its own rate with 8 callers, at 2x and 5x, 8 s"
    return [
        Figure("llm_overload_goodput_share", [min(shares)], "ratio", 0.95, peer),
        Figure("llm_overload_in_vain", [max(late)], "ratio", 0.05, "those let in", at_least=False),
        Figure("llm_overload_refusal_p99_ms", [max(slow)], "ms", 20, None, at_least=False),
        Figure("llm_overload_vague_share", [min(alike)], "ratio", 0.8, "those who name max_tokens"),
    ]


def _asked(story: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": story}], "temperature": 0, "stop": [".", ","]} | more


def _rate(seen: Sequence[Seen]) -> float:
    """Answers a second of all callers together."""
    return sum(one.rate for one in seen)
