"""One name on offer: which of its versions callers get now, and which are to come."""

from tollway.serve.deployments import Role
from tollway.serve.served import Served


class Offered:
    """The version that answers under a name, and those beside it.

    `wanted` is what the catalogue says; `stable`, `canary` and `shadow` are what calls get now: a version is there once it
    can answer, and the stable one before stays until then.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.wanted: dict[Role, Served] = {}
        self.live: list[Served] = []  # all that were started under this name and not retired
        self.stable: Served  # set before anybody can find this
        self.canary: Served | None = None
        self.shadow: Served | None = None
        self.share = 0  # percent of the calls that go to the canary; 0 without one that is ready
        self.shares: dict[Role, int] = {}

    def role_of(self, served: Served) -> str:
        """What it is here for; "" while it is on its way in or out."""
        if served is self.stable:
            return "stable"
        return next((role for role, one in self.wanted.items() if one is served and role != "stable"), "")

    def settle(self) -> list[Served]:
        """Give the roles to those that can fill them. Returns those that have none any more."""
        wanted = self.wanted.get("stable")
        if wanted is not None and (wanted.complete or not hasattr(self, "stable") or self.stable not in self.live):
            self.stable = wanted
        canary, shadow = self.wanted.get("canary"), self.wanted.get("shadow")
        self.canary = canary if canary is not self.stable else None
        self.shadow = shadow if shadow is not self.stable else None
        self.share = self.shares.get("canary", 0) if self.canary is not None and self.canary.available else 0
        kept = {id(one) for one in (self.stable, *self.wanted.values())}
        gone = [one for one in self.live if id(one) not in kept]
        self.live = [one for one in self.live if id(one) in kept]
        return gone
