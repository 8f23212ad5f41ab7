"""The unmodified `langchain-openai`: chat models, streams, structured output, embeddings."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field, SecretStr

from tests.clients.open_shop import CHAT, EMBED, OpenShop


class Fruit(BaseModel):
    """A fruit."""

    name: str = Field(max_length=20)
    ripe: bool


@pytest.fixture
def model(open_shop: OpenShop) -> ChatOpenAI:
    """A chat model as LangChain's pages show it."""
    return ChatOpenAI(
        model=CHAT,
        base_url=open_shop.base_url,
        api_key=SecretStr(open_shop.key),
        temperature=0,
        max_retries=0,
        max_completion_tokens=60,
    )


def test_invoke(model: ChatOpenAI) -> None:
    answer = model.invoke([SystemMessage("Be brief."), HumanMessage("Say hello.")])
    assert isinstance(answer, AIMessage) and answer.content
    assert answer.usage_metadata and answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["model_name"] == CHAT


def test_stream(model: ChatOpenAI, alone: None) -> None:
    asked = "Say hello in one short sentence."
    chunks = list(model.stream(asked, stream_usage=True))
    assert "".join(str(chunk.content) for chunk in chunks) == model.invoke(asked).content
    assert [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata][-1]["output_tokens"] > 0


async def test_batches_asynchronously(model: ChatOpenAI) -> None:
    answers = await model.abatch(["Say one.", "Say two.", "Say three."])
    assert all(answer.content for answer in answers)


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output(model: ChatOpenAI, method: str) -> None:
    shaped = model.with_structured_output(Fruit, method=method, include_raw=True)
    asked = 'Describe a fruit as JSON like {"name": "apple", "ripe": true}.'
    answer = shaped.invoke(asked)
    if method == "json_schema":
        assert isinstance(answer["parsed"], Fruit)
    else:  # only valid JSON is promised here, not the shape
        assert str(answer["raw"].content).lstrip().startswith("{")


def test_embeddings(open_shop: OpenShop) -> None:
    embeddings = OpenAIEmbeddings(
        model=EMBED, base_url=open_shop.base_url, api_key=SecretStr(open_shop.key), check_embedding_ctx_length=False
    )
    rows = embeddings.embed_documents(["a toll road", "raspberry jam"])
    assert [len(row) for row in rows] == [384, 384]
    assert embeddings.embed_query("a toll road") == pytest.approx(rows[0], abs=1e-5)
