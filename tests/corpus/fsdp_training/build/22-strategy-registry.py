"""Train a small LM with a pluggable parallel strategy (only FSDP is registered so far)."""
from __future__ import annotations

import argparse
import datetime
import functools
import math
import os
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class SyntheticTokens(Dataset):
    def __init__(self, n_samples, seq_len, vocab_size, seed=0):
        g = torch.Generator().manual_seed(seed)
        start = torch.randint(0, vocab_size, (n_samples, 1), generator=g)
        step = torch.randint(1, 7, (n_samples, 1), generator=g)
        self.data = (start + step * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self):
        return self.data.size(0)

    def __getitem__(self, i):
        row = self.data[i]
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


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--epochs", type=int, default=2)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--n-samples", type=int, default=512)
    p.add_argument("--seq-len", type=int, default=64)
    p.add_argument("--vocab-size", type=int, default=512)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-heads", type=int, default=4)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=str, default="checkpoint.pt")
    return p.parse_args()


STRATEGIES: dict[str, type] = {}


def register(name):
    def add(cls):
        STRATEGIES[name] = cls
        return cls
    return add


@dataclass(frozen=True)
class Topology:
    rank: int
    local_rank: int
    world_size: int

    @classmethod
    def from_env(cls) -> Topology:
        return cls(*(int(os.environ[k]) for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.local_rank)

    @property
    def leader(self) -> bool:
        return self.rank == 0


@register("fsdp")
class FSDPStrategy:
    def __init__(self, topology: Topology) -> None:
        self.topology = topology

    def __enter__(self):
        torch.cuda.set_device(self.topology.device)
        dist.init_process_group("nccl", timeout=datetime.timedelta(minutes=15))
        return self

    def __exit__(self, *exc_info) -> None:
        dist.destroy_process_group()

    def prepare(self, model: nn.Module) -> FSDP:
        policy = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={Block})
        return FSDP(
            model,
            auto_wrap_policy=policy,
            device_id=self.topology.local_rank,
            sync_module_states=True,
            forward_prefetch=True,
        )

    def loader(self, dataset: Dataset, batch_size: int, seed: int) -> DataLoader:
        sampler = DistributedSampler(dataset, self.topology.world_size, self.topology.rank, seed=seed)
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=True)

    def full_state(self, model: FSDP) -> dict:
        cfg = FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
        with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT, cfg):
            return model.state_dict()

    def average(self, value: float) -> float:
        t = torch.tensor(value, device=self.topology.device)
        dist.all_reduce(t)
        return (t / self.topology.world_size).item()


def fit(strategy, model, loader, args, log):
    device = strategy.topology.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        loader.sampler.set_epoch(epoch)
        t0, total = time.time(), 0.0
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            model.clip_grad_norm_(1.0)
            optimizer.step()
            total += loss.item()
        mean = strategy.average(total / len(loader))
        log(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")


def main() -> None:
    args = parse_args()
    topology = Topology.from_env()
    log = functools.partial(print, flush=True) if topology.leader else lambda *_: None
    with STRATEGIES["fsdp"](topology) as strategy:
        torch.manual_seed(args.seed)
        model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers)
        log(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
        model = strategy.prepare(model)
        dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
        fit(strategy, model, strategy.loader(dataset, args.batch_size, args.seed), args, log)
        state = strategy.full_state(model)
        if topology.leader:
            torch.save({"model": state, "args": vars(args)}, args.out)
            log(f"saved {args.out}")
        dist.barrier()


if __name__ == "__main__":
    main()
