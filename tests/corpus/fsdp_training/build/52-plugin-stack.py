"""FSDP2 trainer in parts: Cluster (process group), Units (what is sharded), Feed (data), Loop (training), Vault (file)."""
from __future__ import annotations

import argparse
import atexit
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.data import DataLoader, DistributedSampler


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


class Cluster:
    def __init__(self) -> None:
        self.gpu = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(self.gpu)
        dist.init_process_group(backend="nccl", init_method="env://")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.chief = self.rank == 0
        atexit.register(dist.destroy_process_group)

    def say(self, text: str) -> None:
        if self.chief:
            print(text, flush=True)

    def average(self, total: torch.Tensor) -> float:
        dist.all_reduce(total)
        return (total / self.size).item()


class Units:
    """Which modules are gathered and freed as one."""

    def __init__(self, *classes: type[nn.Module]) -> None:
        self.classes = classes

    def __call__(self, model: nn.Module) -> FSDPModule:
        inner = [m for m in model.modules() if isinstance(m, self.classes)]
        if not inner:
            raise ValueError(f"no {self.classes} in {type(model).__name__}")
        for unit in inner:
            fully_shard(unit)
        return fully_shard(model)


class Feed:
    def __init__(self, cluster: Cluster, rows: torch.Tensor, batch_size: int, seed: int) -> None:
        dataset = NextTokenDataset(rows)
        self.gpu = cluster.gpu
        self.sampler = DistributedSampler(dataset, cluster.size, cluster.rank, seed=seed)
        self.loader = DataLoader(dataset, batch_size, sampler=self.sampler, drop_last=True)

    def epoch(self, number: int):
        self.sampler.set_epoch(number)
        return ((x.to(self.gpu), y.to(self.gpu)) for x, y in self.loader)


class Loop:
    def __init__(self, model: FSDPModule, lr: float) -> None:
        self.model, self.optimizer = model, torch.optim.AdamW(model.parameters(), lr=lr)

    def __call__(self, batches) -> torch.Tensor:
        losses = []
        for x, y in batches:
            loss = F.cross_entropy(self.model(x).flatten(0, 1), y.flatten())
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean()


class Vault:
    OPTIONS = StateDictOptions(full_state_dict=True, cpu_offload=True)

    def __init__(self, cluster: Cluster, path: str) -> None:
        self.cluster, self.path = cluster, path

    def put(self, model: FSDPModule, args: dict) -> None:
        weights = get_model_state_dict(model, options=self.OPTIONS)
        if self.cluster.chief:
            torch.save({"model": weights, "args": args}, self.path)
        dist.barrier()
        self.cluster.say(f"saved {self.path}")


def main() -> None:
    args = get_args()
    cluster = Cluster()
    torch.manual_seed(args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers)
    cluster.say(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
    model = Units(Block)(model.to(cluster.gpu))
    rows = synthetic_rows(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    feed, loop = Feed(cluster, rows, args.batch_size, args.seed), Loop(model, args.lr)
    for epoch in range(args.epochs):
        began = time.time()
        mean = cluster.average(loop(feed.epoch(epoch)))
        cluster.say(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - began:.1f}s)")
    Vault(cluster, args.out).put(model, vars(args))


if __name__ == "__main__":
    main()
