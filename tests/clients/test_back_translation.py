"""Back-translation through the chat model that the shop itself sells."""

import pyarrow as pa
import pytest

from tests.clients.open_shop import CHAT, OpenShop
from tollway.flows import translating
from tollway.forge.data import augment
from tollway.kit.errors import BadRequest, NotFound
from tollway.kit.settings import Settings
from tollway.shop import Shop

TEXTS = pa.table({"text": ["The film was good.", "I hated every minute of it."], "label": ["positive", "negative"]})


def test_texts_go_there_and_back_through_a_model_of_the_shop(
    open_shop: OpenShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(open_shop.home, environment={"TOLLWAY_PORT": str(open_shop.port)})
    step = f"back-translation:French,model={CHAT}"
    with Shop.open(settings) as shop:
        opener = translating.opener(shop)
        with pytest.raises(BadRequest, match="TOLLWAY_KEY"):
            augment.augment(TEXTS, [step], "text-classification", 7, opener)
        monkeypatch.setenv("TOLLWAY_KEY", open_shop.key)
        made, told = augment.augment(TEXTS, [step], "text-classification", 7, opener)
        with pytest.raises(NotFound, match="offers no chat model 'smolm'"):
            augment.augment(TEXTS, ["back-translation:French,model=smolm"], "text-classification", 7, opener)
    assert told[0].rows + told[0].same == 2 and told[0].rows >= 1
    copies = made.slice(2).to_pylist()
    assert made.num_rows == 2 + told[0].rows and all(one["text"].strip() for one in copies)
    assert {one["label"] for one in copies} <= {"positive", "negative"}
