"""A quick layer is the library's layer: the same states and gradients in bf16, with and without padding and dropout."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from tollway.forge.train import attention
from tollway.forge.train.quick_layers import quick_layers

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ROWS, LENGTH = 5, 11


def encoder(kind: type = BertModel, config: type = BertConfig, **more: float) -> nn.Module:
    torch.manual_seed(0)
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **SIZES, **more}
    made = kind(config(**options), add_pooling_layer=False).train()
    attention.use(made, attention.OWN)
    return made


def answer(net: nn.Module, *, bf16: bool = True, seed: int = 1) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """States of what is no padding, and every gradient."""
    chance = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 60, (ROWS, LENGTH), generator=chance)
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[1, 4:] = mask[3, 7:] = 0
    there = mask[:, :, None].float()
    weights = torch.randn(ROWS, LENGTH, 32, generator=chance) * there
    net.zero_grad()
    torch.manual_seed(seed)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        states = net(input_ids=ids, attention_mask=mask).last_hidden_state
    (states.float() * weights).sum().backward()
    return (states.float() * there).detach(), {
        name: one.grad.clone() for name, one in net.named_parameters() if one.grad is not None
    }


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp(min=1e-6))


@pytest.mark.parametrize(("kind", "config"), [(BertModel, BertConfig), (RobertaModel, RobertaConfig)])
def test_states_and_gradients_are_the_librarys(kind, config):
    net = encoder(kind, config)
    states, gradients = answer(net, bf16=False)
    _, usual = answer(net)
    with quick_layers(net):
        quick_states, quick = answer(net)
    assert quick_states.dtype == torch.float32 and apart(quick_states, states) < 0.02
    assert quick.keys() == gradients.keys()
    for name, exact in gradients.items():
        if name.endswith("self.key.bias"):  # a number added to all scores of a row: its gradient is 0 but for rounding
            continue
        assert apart(quick[name], exact) < max(0.02, 1.5 * apart(usual[name], exact)), name


def test_dropout_draws_what_the_seed_says_and_keeps_the_librarys_mean():
    net = encoder(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    with quick_layers(net):
        first, again, other = (answer(net, seed=seed)[0] for seed in (1, 1, 2))
        ours = many_draws(net)
    theirs = many_draws(net)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert apart(ours.mean(0), theirs.mean(0)) < 0.1 < apart(ours[0], theirs.mean(0))
    assert ours.std(0).mean().item() == pytest.approx(theirs.std(0).mean().item(), rel=0.05)


def many_draws(net: nn.Module) -> torch.Tensor:
    """The states of one text under a thousand draws."""
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net(input_ids=torch.arange(2, 2 + LENGTH).repeat(1000, 1)).last_hidden_state.detach().float()


def test_what_it_does_not_know_goes_the_librarys_way():
    plain, other, watched = encoder(), encoder(hidden_act="relu"), encoder()
    lower = plain.encoder.layer[0].forward
    attention.use(other, attention.OWN)
    seen: list[int] = []
    for layer in watched.encoder.layer:
        layer.register_forward_hook(lambda *_: seen.append(1))
    before = [answer(each) for each in (other, watched)]
    plain.encoder.layer[1].output.dense = nn.Sequential(plain.encoder.layer[1].output.dense)
    with quick_layers(plain), quick_layers(other), quick_layers(watched):
        assert plain.encoder.layer[0].forward != lower and "forward" not in vars(plain.encoder.layer[1])
        assert "forward" not in vars(other.encoder.layer[0])
        after = answer(watched)
        plain_fp32, _ = answer(plain, bf16=False)
    assert seen and torch.equal(after[0][0], before[1][0][0])
    assert torch.equal(plain_fp32, answer(plain, bf16=False)[0])
    assert "forward" not in vars(plain.encoder.layer[0])


def test_weights_that_do_not_learn_get_no_gradient():
    net = encoder()
    net.requires_grad_(False)
    net.embeddings.word_embeddings.weight.requires_grad_(True)  # as with learnt prompts: only what comes before learns
    with quick_layers(net):
        _, gradients = answer(net)
    assert set(gradients) == {"embeddings.word_embeddings.weight"}
