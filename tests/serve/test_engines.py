"""Engines: one contract for all of them, run against the real model; and what is llama.cpp's alone.

`UpstreamServer` is tested against a real server: a llama.cpp replica seen through a TCP proxy.
"""

import asyncio
import base64
import ctypes
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.serve.engine_contract import AnyEngine, OwnProcess, Run, Served, connections, gone
from tollway.forge import convert
from tollway.forge.convert import gguf_variants, openvino_lm, starter
from tollway.kit.clock import SystemClock
from tollway.kit.errors import BadRequest
from tollway.serve import trial
from tollway.serve.engines import Engine, LlamaCpp, OpenVinoGenai, UpstreamServer, cpu_threads
from tollway.serve.replica import Replica
from tollway.serve.wire import Pool

pytestmark = pytest.mark.engine

ASK = [{"role": "user", "content": "Say hello in one short sentence."}]
NO_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
SLOTS = 2
SAME = {"context_length_exceeded": "exceed_context_size_error"}  # two names of one error; the gateway knows both


def smollm2() -> LlamaCpp:
    weights = starter.locate_smollm2()
    assert weights is not None, "the starter model is not installed: make setup"
    return LlamaCpp(weights, "smol", model_context_tokens=8192, slots=SLOTS, context_tokens=2048)


@pytest.fixture(scope="module")
def chat_replica(run: Run[Any]) -> Iterator[Replica]:
    replica = Replica(smollm2(), SystemClock())
    run(replica.start())
    yield replica
    run(replica.stop())


@pytest.fixture(scope="module")
def tcp_port(chat_replica: Replica, run: Run[Any]) -> Iterator[int]:
    """A TCP door to the replica's unix socket: what an upstream looks like from here."""
    path = chat_replica.address.url.removeprefix("unix:")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = run(asyncio.start_server(serve, "127.0.0.1", 0))
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture(scope="module")
def encoder(run: Run[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    folder = starter.locate_minilm()
    assert folder is not None, "the starter model is not installed: make setup"
    made = convert.sentence_encoder_to_gguf(folder, tmp_path_factory.mktemp("gguf") / "minilm.gguf")
    engine = LlamaCpp(made.path, "minilm", kind="embedding", model_context_tokens=512, embedding_dimensions=384)
    replica = Replica(engine, SystemClock())
    run(replica.start())
    yield replica
    run(replica.stop())


@pytest.fixture(scope="module")
def openvino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model in OpenVINO's format, converted once for all tests that run together."""
    weights = starter.locate_smollm2()
    assert weights is not None, "the starter model is not installed: make setup"
    root = tmp_path_factory.getbasetemp()
    root = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root
    with (root / "openvino.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "openvino-int8").exists():
            openvino_lm.write(weights, root / "openvino-int8.part")
            (root / "openvino-int8.part").rename(root / "openvino-int8")
    return root / "openvino-int8"


@pytest.fixture(scope="module")
def openvino_replica(run: Run[Any], openvino_folder: Path) -> Iterator[Replica]:
    engine = OpenVinoGenai(openvino_folder, "smol", model_context_tokens=8192, slots=SLOTS, context_tokens=2048)
    replica = Replica(engine, SystemClock())
    run(replica.start())
    yield replica
    run(replica.stop())


def spent(pid: int | None) -> dict[str, int]:
    """What each thread of a process has used of the processors, in ticks."""
    found = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        fields = (thread / "stat").read_text().rpartition(")")[2].split()
        found[thread.name] = int(fields[11]) + int(fields[12])
    return found


class EngineContract(AnyEngine):
    """What every engine for language models does. Subclasses give `served`."""

    path = "/chat/completions"
    ask: ClassVar[dict[str, Any]] = {"messages": ASK, "max_tokens": 4}
    calls = SLOTS * 3

    def test_a_chat_is_answered_with_its_usage(self, served: Served) -> None:
        status, answer = served.post("/chat/completions", {"messages": ASK, "max_tokens": 8})
        assert status == 200
        assert answer["choices"][0]["message"]["content"]
        assert answer["choices"][0]["finish_reason"] in ("length", "stop")
        usage = answer["usage"]
        assert 0 < usage["completion_tokens"] <= 8
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    def test_one_of_ours_shows_how_fast_it_is_when_it_becomes_ready(self, served: Served) -> None:
        ours = served.replica.pid is not None
        assert (served.replica.rate > 0) is ours, "to ask somebody else's for a measure would cost money"

    def test_a_stream_brings_pieces_then_usage_then_the_end(self, served: Served) -> None:
        body = {"messages": ASK, "max_tokens": 6, "stream_options": {"include_usage": True}}
        *events, last = served.events("/chat/completions", body)
        assert last == "[DONE]"
        chunks = [json.loads(event) for event in events]
        text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
        assert text
        assert chunks[-1]["choices"] == []
        assert 0 < chunks[-1]["usage"]["completion_tokens"] <= 6

    def test_a_text_is_completed(self, served: Served) -> None:
        status, answer = served.post(
            "/completions", {"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0}
        )
        assert (status, "Paris" in answer["choices"][0]["text"]) == (200, True)

    def test_a_schema_is_kept_to(self, served: Served) -> None:
        if not served.caps.json_schema:
            pytest.skip("this engine has no grammar")
        schema = {
            "type": "object",
            "properties": {"age": {"type": "integer"}, "ok": {"type": "boolean"}},
            "required": ["age", "ok"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
        _, answer = served.post("/chat/completions", {"messages": ASK, "max_tokens": 60, "response_format": form})
        found = json.loads(answer["choices"][0]["message"]["content"])
        assert set(found) == {"age", "ok"}
        assert (type(found["age"]), type(found["ok"])) == (int, bool)

    def test_logprobs_come_in_openais_shape(self, served: Served) -> None:
        if not served.caps.logprobs:
            pytest.skip("this engine does not tell how likely the alternatives were")
        body = {"messages": ASK, "max_tokens": 2, "logprobs": True, "top_logprobs": 3}
        _, answer = served.post("/chat/completions", body)
        content = answer["choices"][0]["logprobs"]["content"]
        assert len(content) == 2
        for token in content:
            assert token["logprob"] <= 0
            assert len(token["top_logprobs"]) == 3

    def test_a_bias_forbids_a_token(self, served: Served) -> None:
        if not served.caps.logit_bias:
            pytest.skip("this engine takes no biases")
        body = {"prompt": "The capital of France is", "max_tokens": 1, "temperature": 0, "cache_prompt": False}
        _, plain = served.post("/completions", body | {"logprobs": 1})
        first = plain["choices"][0]["logprobs"]["content"][0]
        _, biased = served.post("/completions", body | {"logit_bias": {str(first["id"]): -100}})
        assert biased["choices"][0]["text"] != plain["choices"][0]["text"]

    def test_the_same_seed_gives_the_same_text(self, served: Served) -> None:
        body = {"messages": ASK, "max_tokens": 12, "temperature": 1.2, "cache_prompt": False}
        texts = [
            served.post("/chat/completions", body | {"seed": seed})[1]["choices"][0]["message"]["content"]
            for seed in (7, 7, 8, 9)
        ]
        assert texts[0] == texts[1]
        assert len(set(texts)) > 1

    @pytest.mark.parametrize(
        ("body", "names"),
        [
            ({"messages": [{"role": "user", "content": "word " * 9000}], "max_tokens": 4}, "exceed_context_size_error"),
            ({"messages": ASK, "response_format": NO_SCHEMA}, "invalid_request_error"),
            ({"messages": ASK, "max_tokens": "many"}, "invalid_request_error"),
            ({"max_tokens": 4}, "invalid_request_error"),
        ],
        ids=["a prompt longer than the context", "a schema that is none", "a wrong type", "no messages"],
    )  # fmt: skip
    @pytest.mark.parametrize("stream", [False, True])
    def test_what_cannot_be_done_is_an_error_object_with_a_4xx(
        self, body: dict[str, Any], names: str, stream: bool, served: Served
    ) -> None:
        status, answer = served.post("/chat/completions", body | {"stream": stream})
        assert 400 <= status < 500
        assert answer["error"]["message"]
        assert names in (answer["error"]["type"], SAME.get(answer["error"]["code"]))

    def test_leaving_a_stream_stops_the_generation(self, served: Served) -> None:
        """Every slot is taken by an endless story and left: a new call finds one free at once."""
        story = {"messages": ASK, "max_tokens": 1500, "ignore_eos": True, "temperature": 0}
        for _ in range(SLOTS * 2):
            assert len(served.events("/chat/completions", story, most=4)) >= 3
        began = time.monotonic()
        assert served.post("/chat/completions", {"messages": ASK, "max_tokens": 1})[0] == 200
        assert time.monotonic() - began < 40

    def test_exact_prompt_counts_can_be_asked_for(self, served: Served) -> None:
        if not served.caps.tokenize:
            pytest.skip("this engine does not offer its tokenizer")
        chat = [
            {"role": "system", "content": "You say <|im_end|> naïvely."},
            *ASK,
            {"role": "assistant", "content": "你好"},
            *ASK,
        ]
        text = served.plain("/apply-template", {"messages": chat})["prompt"]
        for path, body, content in (
            ("/chat/completions", {"messages": chat}, text),
            ("/completions", {"prompt": "Żółw <|im_end|> 你好\n\n x"}, "Żółw <|im_end|> 你好\n\n x"),
        ):
            counted = served.plain("/tokenize", {"content": content, "add_special": True, "parse_special": True})[
                "tokens"
            ]
            _, answer = served.post(path, {**body, "max_tokens": 1})
            assert answer["usage"]["prompt_tokens"] == len(counted)


class TestLlamaCpp(EngineContract, OwnProcess):
    @pytest.fixture
    def served(self, chat_replica: Replica, run: Run[Any]) -> Iterator[Served]:
        served = Served(chat_replica, run)
        yield served
        served.pool.close()

    def test_no_more_threads_work_than_it_was_given(self, served: Served) -> None:
        """Two spinning threads on two busy cores write a tenth of what one writes, whatever the orders say."""
        launch = served.replica.engine.launch(Path("/tmp/x"))
        assert launch is not None
        before = spent(served.replica.pid)
        served.post("/chat/completions", {"messages": ASK, "max_tokens": 60, "ignore_eos": True})
        used = {thread: ticks - before.get(thread, 0) for thread, ticks in spent(served.replica.pid).items()}
        busy = [ticks for ticks in used.values() if ticks > max(used.values()) / 4]
        assert len(busy) <= json.loads(launch.first_line)["threads"], used

    def test_its_weights_are_those_of_the_file(self, openvino_folder: Path, run: Run[Any], tmp_path: Path) -> None:
        """The engine's own reader takes four-bit files for something else: then a fifth of a text agrees with the float model."""
        weights = starter.locate_smollm2()
        assert weights is not None
        wide = gguf_variants.write(weights, tmp_path / "wide.gguf", "f16")

        async def writes(engine: Engine) -> list[str]:
            async with trial.running(engine) as place:
                return await trial.writes(place, 300)

        more: dict[str, Any] = {"model_context_tokens": 8192, "slots": 8, "context_tokens": 4096}
        wanted = run(writes(LlamaCpp(wide, "float", **more)))
        assert trial.agreement(run(writes(OpenVinoGenai(openvino_folder, "smol", **more))), wanted) > 0.4

    def test_a_stream_counts_as_it_goes(self, served: Served) -> None:
        *events, _ = served.events("/chat/completions", {"messages": ASK, "max_tokens": 5, "timings_per_token": True})
        seen = [json.loads(event)["timings"]["predicted_n"] for event in events if '"timings"' in event]
        assert seen == sorted(seen)
        assert seen[-1] <= 5

    def test_what_it_cannot_do_it_does_not_claim(self) -> None:
        plain = LlamaCpp(Path("x"), "m", has_chat_template=False).caps
        assert (plain.chat, plain.completions, plain.tools, plain.embeddings) == (False, True, False, False)
        assert LlamaCpp(Path("x"), "m", template_has_tools=True).caps.tools
        encoder = LlamaCpp(Path("x"), "m", kind="embedding", model_context_tokens=512, embedding_dimensions=384).caps
        assert (encoder.chat, encoder.completions, encoder.json_schema, encoder.logprobs) == (False,) * 4
        assert (encoder.embeddings, encoder.embedding_dimensions, encoder.context_tokens) == (True, 384, 512)

    def test_a_socket_path_too_long_for_the_system_is_refused(self) -> None:
        with pytest.raises(ValueError, match="107 bytes"):
            LlamaCpp(Path("x"), "m").launch(Path("/tmp") / ("x" * 120))


class TestOpenVinoGenai(EngineContract, OwnProcess):
    @pytest.fixture
    def served(self, openvino_replica: Replica, run: Run[Any]) -> Iterator[Served]:
        served = Served(openvino_replica, run)
        yield served
        served.pool.close()

    def test_it_cuts_texts_into_the_same_tokens_as_llama_cpp(self, served: Served, chat_replica: Replica) -> None:
        """A model may move between engines: prompts must be counted alike."""
        other = Served(chat_replica, served.run)
        texts = ["hello world", "<|im_end|> naïve café, 今天天气! 12345", "a\n\n  b\tc", ""]
        for text in texts:
            asked = {"content": text, "add_special": True, "parse_special": True}
            assert served.plain("/tokenize", asked) == other.plain("/tokenize", asked)
        chat = {"messages": [{"role": "system", "content": "Be brief."}, *ASK]}
        assert served.plain("/apply-template", chat) == other.plain("/apply-template", chat)
        other.pool.close()

    def test_a_stream_counts_as_it_goes(self, served: Served) -> None:
        *events, _ = served.events("/chat/completions", {"messages": ASK, "max_tokens": 5, "timings_per_token": True})
        seen = [json.loads(event)["timings"]["predicted_n"] for event in events if '"timings"' in event]
        assert seen == sorted(seen)
        assert seen[-1] <= 5

    def test_what_it_cannot_do_it_does_not_claim(self, served: Served) -> None:
        caps = served.caps
        assert (caps.logprobs, caps.logit_bias, caps.tools, caps.embeddings) == (False,) * 4

    @pytest.mark.parametrize("stop", [" Paris", ["is", " Par"], ["xyz", "ris"]])
    def test_an_answer_ends_before_the_stop_in_a_stream_too(self, stop: Any, served: Served) -> None:
        body = {"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
        _, plain = served.post("/completions", body)
        text = plain["choices"][0]["text"]
        ends = [at for one in ([stop] if isinstance(stop, str) else stop) if (at := text.find(one)) >= 0]
        _, answer = served.post("/completions", body | {"stop": stop})
        assert answer["choices"][0]["text"] == text[: min(ends)]
        assert answer["choices"][0]["finish_reason"] == "stop"
        *events, _ = served.events("/completions", body | {"stop": stop})
        assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == text[: min(ends)]

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "nonsense"},
            {"type": "string", "pattern": "("},
            {"$ref": "#/$defs/nowhere"},
            {"type": "object", "properties": {"a": {"anyOf": []}}},
            {"type": "array", "minItems": 5, "maxItems": 1},
            {"type": "object", "required": ["gone"]},
        ],
    )
    def test_a_schema_that_would_end_everybodys_answers_never_reaches_the_engine(
        self, schema: dict[str, Any], served: Served
    ) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        pid = served.replica.pid
        status, answer = served.post("/chat/completions", {"messages": ASK, "response_format": form, "max_tokens": 4})
        assert (status, answer["error"]["code"]) == (400, "invalid_schema")
        assert served.post("/chat/completions", {"messages": ASK, "max_tokens": 1})[0] == 200
        assert served.replica.pid == pid

    def test_it_answers_between_steps_while_long_prompts_are_read(self, served: Served) -> None:
        """A step holds the interpreter's lock: what else is asked waits for one step, not for the prompt's end."""

        async def both(word: str) -> list[float]:
            words = json.dumps({"prompt": word * 1500, "max_tokens": 1, "model": "smol"}).encode()
            long = asyncio.ensure_future(served.pool.post("/v1/completions", words))
            waits = []
            while not long.done():
                began = time.monotonic()
                assert (await served.pool.get("/health")).status == 200
                waits.append(time.monotonic() - began)
            assert (await long).status == 200
            return waits

        for word in ("word ", "road ", "toll "):  # six steps of 256 tokens; another prompt each time: none is remembered
            waits = served.run(both(word))
            if len(waits) >= 4 and max(waits) < 0.6 * sum(waits):
                return
        raise AssertionError(f"one waited for most of a prompt, three times: {waits}")  # once, we may have been kept waiting

    @pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
    def test_it_calls_nobody(self, openvino_folder: Path, tmp_path: Path) -> None:
        engine = OpenVinoGenai(openvino_folder, "smol", slots=1, context_tokens=512)
        calls = connections(engine, tmp_path)
        assert not [line for line in calls if "AF_INET" in line], "\n".join(calls)

    def test_the_same_call_beside_others_is_answered_as_alone(self, served: Served) -> None:
        body = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
        alone = served.post("/completions", body)[1]["choices"][0]["text"]

        async def beside() -> list[str]:
            other = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 1.0, "model": "smol"}
            calls = [
                served.pool.post("/v1/completions", json.dumps(one).encode()) for one in (other, body, other, body)
            ]
            return [json.loads(reply.body)["choices"][0]["text"] for reply in await asyncio.gather(*calls)]

        assert served.run(beside())[1::2] == [alone, alone]


class TestUpstream(EngineContract):
    @pytest.fixture
    def served(self, tcp_port: int, run: Run[Any]) -> Iterator[Served]:
        replica = Replica(UpstreamServer(f"http://127.0.0.1:{tcp_port}/v1", "smol", slots=SLOTS), SystemClock())
        run(replica.start())
        served = Served(replica, run)
        yield served
        served.pool.close()
        run(replica.stop())

    def test_there_is_nothing_to_start(self, served: Served) -> None:
        assert served.replica.engine.launch(Path("/tmp/x.sock")) is None
        assert (served.replica.pid, served.replica.rss_bytes) == (None, 0)

    @pytest.mark.parametrize("url", ["", "host:8000", "ftp://host/v1", "http://", "/v1", "unix:"])
    def test_what_is_no_url_is_refused(self, url: str) -> None:
        with pytest.raises(BadRequest):
            UpstreamServer(url, "m")

    def test_the_base_url_keeps_its_path(self) -> None:
        address = UpstreamServer("https://host:8443/a/v1/", "m", key="k").address(Path("x"))
        assert (address.url, address.prefix, address.key) == ("https://host:8443", "/a/v1", "k")
        assert "k'" not in repr(UpstreamServer("https://host", "m", key="k"))


class TestEmbeddings:
    """The packaged sentence encoder, converted and served."""

    @pytest.fixture
    def served(self, encoder: Replica, run: Run[Any]) -> Iterator[Served]:
        served = Served(encoder, run)
        yield served
        served.pool.close()

    def test_texts_become_unit_vectors_that_know_likeness(self, served: Served) -> None:
        texts = ["How do I cancel my subscription?", "I want to end my plan.", "Bananas are yellow."]
        status, answer = served.post("/embeddings", {"input": texts})
        a, b, c = (row["embedding"] for row in answer["data"])
        assert (status, len(a), served.caps.embedding_dimensions) == (200, 384, 384)
        assert abs(sum(x * x for x in a) - 1) < 1e-5
        assert sum(map(lambda x, y: x * y, a, b)) > 0.3 > 0.15 > sum(map(lambda x, y: x * y, a, c))

    def test_base64_carries_the_same_floats(self, served: Served) -> None:
        plain = served.post("/embeddings", {"input": "hello"})[1]["data"][0]["embedding"]
        packed = served.post("/embeddings", {"input": "hello", "encoding_format": "base64"})[1]["data"][0]["embedding"]
        assert struct.unpack("<384f", base64.b64decode(packed)) == pytest.approx(plain, abs=1e-6)

    def test_usage_is_what_the_tokenizer_counts(self, served: Served) -> None:
        texts = ["hello world", "naïve café, 今天天气!", "x" * 150]
        counted = [
            len(served.plain("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"])
            for text in texts
        ]
        assert served.post("/embeddings", {"input": texts})[1]["usage"]["prompt_tokens"] == sum(counted)

    def test_the_whole_context_may_be_used_and_more_is_an_error(self, served: Served) -> None:
        status, answer = served.post("/embeddings", {"input": "word " * 510})
        assert (status, answer["usage"]["prompt_tokens"]) == (200, 512)
        status, answer = served.post("/embeddings", {"input": "word " * 511})
        assert status >= 400
        assert "too large" in answer["error"]["message"]

    def test_many_long_texts_at_once_fit(self, served: Served) -> None:
        status, answer = served.post("/embeddings", {"input": ["word " * 400] * 12})
        assert (status, len(answer["data"])) == (200, 12)


# -- the process -------------------------------------------------------------------------------------------------------


def launch(folder: Path) -> subprocess.Popen[bytes]:
    order = smollm2().launch(folder / "r.sock")
    process = subprocess.Popen(order.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(order.first_line)
    process.stdin.flush()
    return process


def test_prompts_never_reach_its_outputs(tmp_path: Path) -> None:
    """A schema the grammar half understands makes the engine print a warning that quotes it: into nowhere."""
    process = launch(tmp_path)
    assert process.stdout is not None and process.stdin is not None and process.stderr is not None
    assert json.loads(process.stdout.readline())["event"] == "ready"
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "CANARY("}}}
    body = {"messages": [{"role": "user", "content": "CANARY"}], "max_tokens": 2, "response_format": form}
    reply = asyncio.run(Pool(f"unix:{tmp_path}/r.sock").post("/v1/chat/completions", json.dumps(body).encode()))
    assert reply.status == 200
    process.stdin.close()
    assert process.wait(60) == 0
    assert b"CANARY" not in process.stdout.read() + process.stderr.read()
    assert not (tmp_path / "r.sock").exists(), "it takes its socket along"
    process.stdout.close()
    process.stderr.close()


def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
        import asyncio, sys
        from pathlib import Path
        from tollway.kit.clock import SystemClock
        from tollway.serve.engines import LlamaCpp
        from tollway.serve.replica import Replica
        async def main():
            replica = Replica(LlamaCpp(Path({str(starter.locate_smollm2())!r}), "m", context_tokens=512), SystemClock())
            await replica.start()
            print(replica.pid, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid, 0.1)
        parent.send_signal(signal.SIGKILL)
        assert gone(pid)


def test_orders_from_a_parent_that_is_already_gone_are_not_followed(tmp_path: Path) -> None:
    order = smollm2().launch(tmp_path / "r.sock")
    spec = json.loads(order.first_line) | {"parent": 1}
    child = subprocess.run(order.argv, input=json.dumps(spec).encode() + b"\n", capture_output=True, timeout=300)
    assert (child.returncode, child.stdout) == (3, b"")


HEAPS = """
import ctypes, sys, threading
from tollway.serve.engines import child
if sys.argv[1] == "one":
    child.share_one_heap()
libc, together = ctypes.CDLL(None), threading.Barrier(6)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
def hold():
    libc.malloc(100)
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="GNU's C library alone has heaps by thread")
@pytest.mark.parametrize(("heaps", "many"), [("one", False), ("as it comes", True)])
def test_an_engine_with_many_threads_holds_the_memory_of_one(heaps: str, many: bool) -> None:
    told = subprocess.run([sys.executable, "-c", HEAPS, heaps], capture_output=True, timeout=60, check=True)
    assert (told.stdout.count(b"<heap ") > 1) is many


@pytest.mark.parametrize("start", range(3))
async def test_a_burst_of_connections_is_served_at_once(start: int) -> None:
    """Each of them stays open: nobody waits until another's has idled for so long that it is closed. Whether its server had
    threads for all was chance, start by start."""
    replica = Replica(smollm2(), SystemClock())
    await replica.start()
    path = replica.address.url.removeprefix("unix:")

    async def asked() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(2):
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    try:
        async with asyncio.timeout(60):
            held = await asyncio.gather(*(asked() for _ in range(64)))
        assert not [reader for reader, _ in held if reader.at_eof()]
        for _, writer in held:
            writer.close()
    finally:
        await replica.stop()


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu.max": "garbage"}, None),
    ],
)
def test_threads_are_the_cpu_quota_less_one(files: dict[str, str], threads: int | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_threads(tmp_path) == (threads or max(1, len(os.sched_getaffinity(0)) - 1))
