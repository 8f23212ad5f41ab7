"""A buyer with the unmodified openai client beside plain HTTP: what the tests of files, batches and fine-tuning share."""

import io
from typing import Any, ClassVar

import openai

from tests.clients.open_shop import OpenShop
from tests.proof.house import Customer
from tollway.kit.settings import Settings
from tollway.sell import catalog, ledger, usage
from tollway.shop import Shop


class Buyer:
    """One organization on `terms`, whose files are for `purpose`."""

    terms: ClassVar[catalog.Terms]
    purpose: ClassVar[Any]

    def __init__(self, shop: OpenShop, wallet_micros: int = 2_000_000) -> None:
        self.shop = shop
        self.customer: Customer = shop.customer(self.terms, wallet_micros)
        self.client = openai.OpenAI(base_url=shop.base_url, api_key=self.customer.key, max_retries=0)
        self.http = shop.http(self.customer.key)

    def close(self) -> None:
        self.http.close()
        self.client.close()

    def send(self, content: bytes, name: str) -> Any:
        """Upload a file."""
        return self.client.files.create(file=(name, io.BytesIO(content)), purpose=self.purpose)

    def totals(self) -> usage.Totals:
        """What the books say was used."""
        with Shop.open(Settings(self.shop.home, environment={})) as shop, shop.db.read() as conn:
            return usage.totals(conn, self.customer.org_id, 0)

    def wallet(self) -> int:
        """What is left of its money."""
        with Shop.open(Settings(self.shop.home, environment={})) as shop, shop.db.read() as conn:
            return ledger.wallet_micros(conn, self.customer.org_id, "USD")
