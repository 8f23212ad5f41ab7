"""Where training happens, as far as a machine without a graphics card can tell: what is chosen, how batches get there, and
that no architecture makes a tensor on the wrong device."""

import pytest
import torch

from tests.forge.models import worlds
from tollway.forge import models
from tollway.forge.train import Plan, device
from tollway.forge.train.learner import autocast
from tollway.kit.errors import BadRequest

CARD = torch.device("cuda", 1)


@pytest.fixture
def two_cards(monkeypatch):
    """A machine that says it has two graphics cards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")


def test_without_a_card_the_processor_trains():
    assert device.choose("auto") == torch.device("cpu") == device.choose("cpu")
    assert device.backend(device.choose()) == "gloo"
    with pytest.raises(BadRequest, match="no device 'cuda'"):
        device.choose("cuda")
    with pytest.raises(BadRequest, match="device = 'gpu' is none of"):
        Plan.of({"device": "gpu"})


def test_each_process_has_its_own_card_and_they_speak_nccl(two_cards):
    assert device.choose("auto") == CARD and device.backend(CARD) == "nccl"
    assert device.choose("cpu") == torch.device("cpu")


class Told:
    """A tensor that writes down what is done with it."""

    def __init__(self, log):
        self.log = log

    def pin_memory(self):
        self.log.append("pinned")
        return self

    def to(self, place, non_blocking=False):
        self.log.append((place, non_blocking))
        return self


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        (CARD, ["pinned", (CARD, True)]),
        (torch.device("mps"), [(torch.device("mps"), False)]),
        (torch.device("cpu"), []),
    ],
)
def test_batches_go_from_pinned_memory_without_waiting(place, wanted):
    log = []
    assert list(device.move({"input_ids": Told(log)}, place)) == ["input_ids"]
    assert log == wanted


def test_the_net_is_back_on_the_processor_even_when_training_fails(two_cards, monkeypatch):
    moved, net = [], torch.nn.Linear(2, 2)
    monkeypatch.setattr(net, "to", moved.append)
    monkeypatch.setattr(torch.cuda, "set_device", moved.append)
    with pytest.raises(KeyError), device.on(net, CARD):
        raise KeyError
    assert moved == [CARD, CARD, "cpu"]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_autocast_is_of_the_device(kind):
    assert (autocast("bf16", kind).device, autocast("bf16", kind).fast_dtype) == (kind, torch.bfloat16)
    with autocast("fp32", kind):
        assert not torch.is_autocast_enabled(kind)


CASES = {
    "bilstm": "text-classification", "gru": "text-classification", "rnn": "text-classification", "transformer": "text-classification",
    "cnn": "image-classification", "mlp": "image-classification", "tabular": "tabular-classification", "linear": "tabular-regression",
    "seq2seq": "translation", "two-tower": "recommendation", "matrix-factorisation": "recommendation", "vae": "image-generation",
}  # fmt: skip


@pytest.mark.parametrize("architecture", sorted(CASES))
def test_every_architecture_stays_on_the_device_of_its_arrays(architecture):
    """torch's `meta` device computes shapes only and refuses whatever lies elsewhere: as a graphics card would."""
    task = CASES[architecture]
    table = worlds.TABLES[task]
    features = models.fit_features(worlds.Part(architecture), task, table)
    net = models.create(worlds.Part(architecture), task, features, 0).eval()
    arrays = net.example(2)
    wanted = {name: one.shape for name, one in net(**arrays).items()}
    with torch.no_grad():
        found = net.to("meta")(**{name: one.to("meta") for name, one in arrays.items()})
    assert {name: one.shape for name, one in found.items()} == wanted
    assert {one.device.type for one in found.values()} == {"meta"}
