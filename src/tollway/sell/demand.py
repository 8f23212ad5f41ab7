"""The most one call can take of a model: what is set aside for it before it runs."""

from collections.abc import Mapping

import msgspec

from tollway.sell import catalog, rating


class Demand(msgspec.Struct, frozen=True):
    """Upper bounds. `counted`: units of the meters that are not tokens. `tier`: how it is called; a batch passes no rate
    limits, it fills idle time."""

    model: str  # as the caller names it
    input_tokens: int = 0
    output_tokens: int = 0
    counted: Mapping[str, int] | None = None
    tier: str = ""

    @property
    def tokens(self) -> int:
        """What rates and monthly caps count."""
        return self.input_tokens + self.output_tokens

    @property
    def sold_as(self) -> str:
        """What rating knows the model by, called like this."""
        return catalog.sold_as(self.model, self.tier)

    def units(self, terms: catalog.Terms, used_plus_held: Mapping[int, int]) -> rating.Used:
        """The units to hold for it, by charge. See `rating.bound`."""
        return rating.bound(
            terms, used_plus_held, self.sold_as, self.input_tokens, self.output_tokens, self.counted
        )[1]
