"""The first start of a shop: starter models on the shelf, an operator, and a demo buyer with a plan, money and a key.

Every later start finds the operator and changes nothing. Models come first and people last, in one transaction, so a
start that was interrupted is simply begun again.
"""

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from tollway.artifacts import signing, store
from tollway.flows import release
from tollway.forge.convert import starter
from tollway.guard import passwords
from tollway.kit.clock import SystemClock
from tollway.kit.errors import Unavailable
from tollway.sell import accounts, api_keys, catalog, ledger
from tollway.serve import models
from tollway.shop import Shop

Progress = Callable[[str, int, int], None]
"""Called with what is being done, units done and units in all."""

CHAT: Final = starter.SMOLLM2.name
EMBEDDING: Final = starter.MINILM.name
OPERATOR: Final = "operator@localhost"
BUYER: Final = "demo@localhost"
_GRANT_MICROS: Final = 10_000_000


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """What to tell whoever starts the shop. Secrets are there at the first start and never again."""

    url: str
    first: bool
    models: tuple[str, ...]
    operator_email: str = ""
    operator_password: str = ""
    buyer_email: str = ""
    buyer_password: str = ""
    org_id: str = ""
    key: str = ""


def welcome(shop: Shop, *, with_starter: bool = True, progress: Progress | None = None) -> Welcome:
    """Make the shop ready to open, once; say what there is."""
    with shop.alone():
        return _opened(shop, with_starter, progress)


def _opened(shop: Shop, with_starter: bool, progress: Progress | None) -> Welcome:
    if with_starter:
        _starter_models(shop, progress or (lambda what, done, total: None))
    with shop.db.write() as conn:
        offered = tuple(model.name for model in models.list_models(conn))
        if accounts.list_members(conn, None):
            return Welcome(url=shop.settings.url, first=False, models=offered)
        password = passwords.new_password()
        accounts.create_member(conn, shop.clock.now_ms(), OPERATOR, password, "operator")
        made = Welcome(
            url=shop.settings.url, first=True, models=offered, operator_email=OPERATOR, operator_password=password
        )
        empty = not accounts.list_organizations(conn) and not catalog.list_plans(conn)
        return _demo_buyer(shop, conn, made) if with_starter and empty else made


def starter_terms(currency: str) -> catalog.Terms:
    """The plan everybody starts with: a monthly fee, a little free input, output paid from the first token; and a price for
    whatever else a model may count, so that what is deployed next is sold and not given away."""
    prices = {"input_tokens": 500_000, "cached_tokens": 100_000, "output_tokens": 2_000_000}
    prices |= {"training_tokens": 3_000_000, "audio_seconds": 100_000_000, "characters": 15_000_000}
    prices |= {"rows": 500_000_000, "images": 2_000_000_000, "explanations": 5_000_000_000}
    charges = [
        catalog.Charge(meter=meter, price_micros=price, included=10_000 if meter == "input_tokens" else 0)  # type: ignore[arg-type]
        for meter, price in prices.items()
    ]
    charges.append(catalog.Charge(meter="input_tokens", model=EMBEDDING, price_micros=20_000))
    limits = catalog.UsageLimits(rpm=3_000, tpm=2_000_000, concurrency=64, monthly_tokens=100_000_000)
    return catalog.Terms(
        currency=currency, flat_fee_micros=9_000_000, overage="wallet", charges=tuple(charges), limits=limits,
        unpriced="refuse",
    )  # fmt: skip


def _demo_buyer(shop: Shop, conn: sa.Connection, made: Welcome) -> Welcome:
    now_ms, currency = shop.clock.now_ms(), shop.settings.currency
    plan = catalog.create_plan(conn, now_ms, "starter", "Starter", starter_terms(currency))
    demo = accounts.create_organization(conn, now_ms, "demo", "billing@demo.localhost")
    catalog.subscribe(conn, now_ms, demo.id, plan.id)
    ledger.grant(conn, now_ms, demo.id, currency, _GRANT_MICROS, "first_start:demo", "a welcome credit")
    password = passwords.new_password()
    accounts.create_member(conn, now_ms, BUYER, password, "owner", demo.id)
    key = api_keys.issue_key(conn, now_ms, shop.secrets.pepper, demo.id, "first key")
    return msgspec.structs.replace(made, buyer_email=BUYER, buyer_password=password, org_id=demo.id, key=key.secret)


def _starter_models(shop: Shop, progress: Progress) -> None:
    """Offer the packaged models that are installed and not known here yet; one that was retired stays retired."""
    with shop.db.read() as conn:
        known = {model.name for model in models.list_models(conn, retired=True)}
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        converting = None
        if EMBEDDING not in known and starter.locate_minilm() is not None:
            progress(EMBEDDING, 0, 1)
            converting = apart.submit(_convert_minilm, shop.store.root, shop.secrets.signing_seed)
        if CHAT not in known and starter.locate_smollm2() is not None:
            starter.import_smollm2(shop.store, progress=lambda done, total: progress(CHAT, done, total))
            release.deploy(shop, CHAT)
        if converting is not None:
            _finished(converting)
            release.deploy(shop, EMBEDDING)


def _finished(converting: "Future[None]") -> None:
    try:
        converting.result()
    except BrokenProcessPool:
        raise Unavailable(
            f"The process that prepares {EMBEDDING} died, most likely for want of memory.",
            code="starter_failed",
            hint="Free about 1 GB of memory and run tollway up again: it goes on where it was. Or --no-starter.",
        ) from None


def _convert_minilm(root: Path, seed: bytes) -> None:
    """In a process of its own: the converter's libraries would stay in the gateway's memory, and two cores are faster."""
    starter.import_minilm(store.Store(root, signing.Signer(seed), SystemClock()))
