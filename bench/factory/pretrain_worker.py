"""One way of pre-training a 14M decoder, in a process of its own: `python -m bench.factory.pretrain_worker ours|nanogpt|hf`.

For `bench.factory.pretrain`. Says "ready", then for every line it reads trains for some steps and answers with the tokens
a second of one JSON line. Every way has the same documents, the same sizes (384 wide, 6 layers, 6 heads, 8,192 tokens, rows of
256, 16 rows a step), AdamW and clipping; padding does not count as tokens. Time is processor time, so one thread.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

VOCABULARY, WIDTH, LAYERS, HEADS, ROW, ROWS = 8192, 384, 6, 6, 256, 16
WARM, STEPS = 2, 5
Way = Callable[[int], float]


def documents(tokens: int, seed: int = 3) -> list[np.ndarray]:
    """Token lists like real texts: lengths log-normal with a mean near 158, tokens by Zipf's law."""
    chance = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, VOCABULARY)
    shares /= shares.sum()
    found, count = [], 0
    while count < tokens:
        length = int(np.clip(chance.lognormal(4.75, 0.8), 8, 1200))
        found.append(chance.choice(np.arange(1, VOCABULARY), size=length, p=shares).astype(np.int64))
        count += length
    return found


def stream(docs: Sequence[np.ndarray]) -> np.ndarray:
    """All of them end to end, a zero between: what nanoGPT and Hugging Face's run_clm cut into rows."""
    return np.concatenate([np.append(one, 0) for one in docs])


def ours(threads: int) -> Way:
    """Our decoder in our loop: bf16, documents packed whole, none sees another."""
    import torch

    from tollway.forge.models.lm_decoder import Decoder, Shape
    from tollway.forge.train import loop
    from tollway.forge.train.batches import Batches
    from tollway.forge.train.objectives.packing import pack
    from tollway.forge.train.plan import Plan

    pairs = [(np.append(0, one)[:-1], one) for one in documents(400_000)]
    packed = pack(pairs, ROW, 0)
    net = Decoder(Shape(vocabulary=VOCABULARY, width=WIDTH, layers=LAYERS, heads=HEADS, context=ROW))
    net.initialise(0)

    class Plain:
        name = "plain"

        def loss(self, net: Any, batch: dict[str, Any], turn: str = "all") -> tuple[Any, dict[str, float]]:
            total, count = net.nll(batch["input_ids"], batch["labels"], batch["segments"])
            return total / count, {}

    def run(steps: int) -> float:
        batches = Batches(packed.rows, {"labels": packed.labels}, rows=ROWS, lengths=packed.lengths)
        plan = Plan(steps=steps, precision="bf16", threads=threads, learning_rate=6e-4, checkpoint_every_s=1e9)
        ticks: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            desk = SimpleNamespace(
                work=Path(folder), out=Path(folder), home=Path(folder), progress=lambda *_, **__: ticks.append(time.process_time()),
                metric=lambda *_: None, note=lambda _: None, warn=lambda _: None, stopped=lambda: False,
            )  # fmt: skip
            loop.run(net, batches, plan, desk, objective=Plain())  # type: ignore[arg-type]
        return packed.fill * ROWS * ROW * (len(ticks) - 1 - WARM) / (ticks[-1] - ticks[WARM])

    torch.set_num_threads(threads)
    return run


def nanogpt(threads: int) -> Way:
    """The loop and model of nanoGPT on a CPU: float32, SDPA, learned positions, rows drawn from the stream."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
            self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
            self.c_fc, self.c_out = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

        def forward(self, x: Any) -> Any:
            b, t, c = x.shape
            q, k, v = self.c_attn(self.ln_1(x)).split(WIDTH, dim=2)
            q, k, v = (one.view(b, t, HEADS, c // HEADS).transpose(1, 2) for one in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))
            return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))

    class Gpt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(ROW, WIDTH)
            self.h, self.ln_f = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH, bias=False)
            nn.init.normal_(self.wte.weight, std=0.02)

        def forward(self, ids: Any, targets: Any) -> Any:
            x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
            for block in self.h:
                x = block(x)
            logits = F.linear(self.ln_f(x), self.wte.weight)
            return F.cross_entropy(logits.view(-1, VOCABULARY), targets.view(-1), ignore_index=-1)

    net, data = Gpt(), stream(documents(400_000))
    optimiser = torch.optim.AdamW(net.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def run(steps: int) -> float:
        ticks = []
        for _ in range(steps):
            starts = torch.randint(len(data) - ROW, (ROWS,)).tolist()
            x = torch.stack([torch.from_numpy(data[at : at + ROW]) for at in starts])
            y = torch.stack([torch.from_numpy(data[at + 1 : at + 1 + ROW]) for at in starts])
            net(x, y).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            ticks.append(time.process_time())
        return ROWS * ROW * (steps - 1 - WARM) / (ticks[-1] - ticks[WARM])

    return run


def hf(threads: int) -> Way:
    """transformers' Trainer on LlamaForCausalLM: bf16, documents end to end in rows of 256 (as in run_clm)."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=1024, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        max_position_embeddings=ROW, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    net = transformers.LlamaForCausalLM(config)
    data = stream(documents(400_000))
    rows = [data[at : at + ROW] for at in range(0, len(data) - ROW, ROW)]
    dataset = [{"input_ids": torch.from_numpy(one), "labels": torch.from_numpy(one)} for one in rows]

    class Ticks(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.at: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.at.append(time.process_time())

    def run(steps: int) -> float:
        ticks = Ticks()
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder, per_device_train_batch_size=ROWS, max_steps=steps, learning_rate=6e-4, bf16=True,
                use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
                dataloader_pin_memory=False,
            )  # fmt: skip
            transformers.Trainer(net, arguments, train_dataset=dataset, callbacks=[ticks]).train()
        return ROWS * ROW * (steps - 1 - WARM) / (ticks.at[-1] - ticks.at[WARM])

    return run


def peak(threads: int) -> float:
    """FLOP a second of the best large bf16 product of matrices."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(2048, 2048).bfloat16(), torch.randn(2048, 2048).bfloat16()
    best = float("inf")
    for _ in range(8):
        began = time.process_time()
        a @ b
        best = min(best, time.process_time() - began)
    return 2 * 2048**3 / best


def main() -> None:
    threads = 1
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    way = {"ours": ours, "nanogpt": nanogpt, "hf": hf}[sys.argv[1]](threads)
    way(WARM + 2)
    print("ready", file=out, flush=True)
    for _ in sys.stdin:
        answer = {"tokens_per_s": way(WARM + 1 + STEPS)}
        if sys.argv[1] == "ours":
            answer["peak"] = peak(threads)
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
