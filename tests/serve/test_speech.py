"""The engine that hears and speaks owes what every engine owes. What it says and hears is in `tests/clients/test_audio.py`."""

import io
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.serve.engine_contract import AnyEngine, OwnProcess, Run, Served, connections
from tollway.flows import packaged
from tollway.kit.clock import SystemClock
from tollway.kit.settings import Settings
from tollway.serve.engines.speech import Speech
from tollway.serve.replica import Replica
from tollway.shop import Shop

pytestmark = pytest.mark.engine
HEARS, SPEAKS = "whisper-tiny-en", "hibari-en"


def silence(seconds: float, rate: int = 16_000) -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(round(2 * seconds * rate)))
    return held.getvalue()


@pytest.fixture(scope="module")
def replicas(run: Run[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Replica]]:
    made = {}
    with Shop.open(Settings(tmp_path_factory.mktemp("home"), environment={})) as shop:
        for name in (HEARS, SPEAKS):
            package, _ = packaged.bring(shop, name, deploy=False)
            made[name] = Replica(Speech(package.folder, name, kind=package.manifest.kind), SystemClock())
            run(made[name].start())
    yield made
    for replica in made.values():
        run(replica.stop())


class SpeechContract(AnyEngine, OwnProcess):
    """Subclasses say which packaged model, and what it is asked."""

    name: ClassVar[str]
    calls = 5

    @pytest.fixture
    def served(self, replicas: dict[str, Replica], run: Run[Any]) -> Iterator[Served]:
        served = Served(replicas[self.name], run)
        yield served
        served.pool.close()

    @pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
    def test_it_calls_nobody(self, served: Served, tmp_path: Path) -> None:
        calls = connections(served.replica.engine, tmp_path)
        assert not [line for line in calls if "AF_INET" in line], "\n".join(calls)


class TestHearing(SpeechContract):
    name, path = HEARS, "/audio/transcriptions"
    ask: ClassVar[dict[str, Any]] = {}
    sent = b"\n" + silence(0.5)


class TestSpeaking(SpeechContract):
    name, path = SPEAKS, "/audio/speech"
    ask: ClassVar[dict[str, Any]] = {"input": "A toll road."}
