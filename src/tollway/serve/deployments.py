"""Which versions of a model are in service, in which role, and with what share of the calls.

A model on offer names one version: that is `stable`. Beside it other versions may be in service:

    canary   takes `share` percent of the calls, its answers go to callers
    shadow   gets copies of calls, its answers go to nobody
    warm     loaded and idle, so that going back to it is instant
"""

from typing import Literal

import msgspec

Role = Literal["stable", "canary", "shadow", "warm"]


class Deployment(msgspec.Struct, frozen=True):
    """One version in service under a model's name. `share`: percent of the calls, for a canary or a shadow."""

    model: str
    version: str
    role: Role
    share: int
    began_ms: int
