"""What locust's users do: most embed a text, some chat, one in ten reads what is on offer."""

import itertools
import os

from locust import FastHttpUser, between, task

CHAT, ENCODER = os.environ["SHOP_CHAT"], os.environ["SHOP_ENCODER"]
NUMBERS = itertools.count()


class Buyer(FastHttpUser):
    """A program of a customer."""

    wait_time = between(0.05, 0.2)

    def on_start(self) -> None:
        self.client.auth_header = f"Bearer {os.environ['SHOP_KEY']}"

    def ask(self, path: str, document: dict[str, object]) -> None:
        headers = {"Authorization": self.client.auth_header}
        with self.client.post(path, json=document, headers=headers, catch_response=True) as answer:
            if answer.status_code == 200 and "usage" in answer.json():
                answer.success()
            else:
                answer.failure(f"{answer.status_code} {answer.text[:100]}")

    @task(6)
    def embed(self) -> None:
        self.ask("/v1/embeddings", {"model": ENCODER, "input": f"text number {next(NUMBERS)} about a toll road"})

    @task(3)
    def chat(self) -> None:
        messages = [{"role": "user", "content": f"Question {next(NUMBERS)}: what is a toll road?"}]
        self.ask("/v1/chat/completions", {"model": CHAT, "messages": messages, "max_tokens": 16})

    @task(1)
    def look(self) -> None:
        self.client.get("/v1/models", headers={"Authorization": self.client.auth_header})
