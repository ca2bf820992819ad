import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset, DistributedSampler


def synthetic_rows(n_samples, seq_len, vocab_size, seed=0):
    """Arithmetic sequences modulo the vocabulary, as in the single-GPU script."""
    gen = torch.Generator().manual_seed(seed)
    start = torch.randint(0, vocab_size, (n_samples, 1), generator=gen)
    step = torch.randint(1, 7, (n_samples, 1), generator=gen)
    return (start + step * torch.arange(seq_len + 1)) % vocab_size


class NextTokenDataset(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return row[:-1], row[1:]


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, time_steps, width = x.shape
        q, k, v = (
            part.view(batch, time_steps, self.n_heads, width // self.n_heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, time_steps, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size: int = 512, d_model: int = 128, n_heads: int = 4, n_layers: int = 4, max_len: int = 256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.tok(tokens) + self.pos(positions)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.ln_f(hidden))


def get_args():
    parser = argparse.ArgumentParser(description="FSDP training of a small language model")
    for flag, default in [
        ("--epochs", 2), ("--batch-size", 16), ("--n-samples", 512), ("--seq-len", 64), ("--vocab-size", 512),
        ("--d-model", 128), ("--n-heads", 4), ("--n-layers", 4), ("--lr", 3e-4), ("--seed", 0), ("--out", "checkpoint.pt"),
    ]:
        parser.add_argument(flag, type=type(default), default=default)
    return parser.parse_args()


class Run:
    def __init__(self, args):
        self.args = args
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(self.device)
        dist.init_process_group("nccl")
        self.rank = dist.get_rank()

    def say(self, text):
        if self.rank == 0:
            print(text, flush=True)

    def build(self):
        a = self.args
        torch.manual_seed(a.seed)
        model = TransformerLM(a.vocab_size, a.d_model, a.n_heads, a.n_layers).to(self.device)
        self.say(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
        fully_shard(model.blocks)
        fully_shard(model)
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr)
        data = NextTokenDataset(synthetic_rows(a.n_samples, a.seq_len, a.vocab_size, a.seed))
        self.sampler = DistributedSampler(data, shuffle=True, seed=a.seed)
        self.loader = DataLoader(data, batch_size=a.batch_size, sampler=self.sampler, drop_last=True)

    def epoch(self, number):
        self.sampler.set_epoch(number)
        t0, total = time.time(), 0.0
        for x, y in self.loader:
            loss = F.cross_entropy(self.model(x.to(self.device)).flatten(0, 1), y.to(self.device).flatten())
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            total += loss.item()
        mean = total / len(self.loader)
        self.say(f"epoch {number} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    def save(self):
        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.rank == 0:
            torch.save({"model": state, "args": vars(self.args)}, self.args.out)
        self.say(f"saved {self.args.out}")

    def close(self):
        dist.destroy_process_group()


if __name__ == "__main__":
    run = Run(get_args())
    run.build()
    for i in range(run.args.epochs):
        run.epoch(i)
    run.save()
    run.close()
