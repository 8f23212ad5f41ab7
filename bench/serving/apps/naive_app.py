"""One call to the engine for each request, in the framework's thread pool."""

from engine import Engine
from fastapi import FastAPI
from pydantic import BaseModel

engine = Engine(threads=2)
app = FastAPI()


class Ask(BaseModel):
    text: str


@app.post("/embed")
def embed(ask: Ask) -> dict[str, list[float]]:
    return {"embedding": engine.embed([ask.text])[0]}
