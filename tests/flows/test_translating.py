"""Back-translation through a model of this shop finds the gateway where it is, and pays like any caller."""

from pathlib import Path

import pyarrow as pa
import pytest

from tests.forge.data.test_augment import translator as translator  # a server that speaks the chat API
from tollway.flows import translating
from tollway.forge.data.augment import augment
from tollway.kit.clock import ManualClock
from tollway.kit.errors import NotFound
from tollway.kit.settings import ADDRESS, Settings
from tollway.serve import models
from tollway.shop import Shop

STEP = "back-translation:Chinese,model=speaks"


def test_a_model_of_this_shop_is_called_where_its_gateway_is(
    tmp_path: Path, clock: ManualClock, translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = translator
    monkeypatch.setenv("TOLLWAY_KEY", "tw_live_x")
    rows = pa.table({"text": ["The movie was good and very funny."], "label": ["good"]})
    with Shop.open(Settings(tmp_path, environment={}), clock) as shop:
        with pytest.raises(NotFound, match="offers no chat model 'speaks'"):
            augment(rows, [STEP], "text-classification", 1, opener=translating.opener(shop))
        with shop.db.write() as conn:
            models.offer_upstream(conn, clock.now_ms(), "speaks", "chat", models.Upstream(url, "speaks"))
        (tmp_path / ADDRESS).write_text(url.removesuffix("/v1") + "\n")  # as `tollway up --port` notes it
        made, _ = augment(rows, [STEP], "text-classification", 1, opener=translating.opener(shop))
    assert "The film was good and very funny." in made["text"].to_pylist()
    assert all(call.endswith("Bearer tw_live_x") for call in handler.calls) and len(handler.calls) == 2
