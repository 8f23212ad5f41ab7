"""Who may enter by which route: every route of the house states its policy, and a route without one cannot be built.

public       anyone (health, login page, static files, docs)
inference    an API key with the scope "inference"      usage   an API key with the scope "usage"
key          any valid API key
operator     the operator: a console session, or an API key with the scope "admin"
signed_in    anyone signed in to the console, operator or member
member       a member, seeing their own organization only
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import msgspec

Policy = Literal["public", "inference", "usage", "key", "operator", "member", "signed_in"]
POLICIES = get_args(Policy)


class Door(msgspec.Struct, frozen=True):
    """One route: where, how, who may, and what answers."""

    method: str
    path: str
    policy: Policy
    endpoint: Callable[..., Any]

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"{self.method} {self.path} has no valid policy")
