import argparse
import math
import os
import time
from dataclasses import asdict, dataclass, fields

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


@dataclass
class Config:
    epochs: int = 2
    batch_size: int = 16
    n_samples: int = 512
    seq_len: int = 64
    vocab_size: int = 512
    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 4
    lr: float = 3e-4
    seed: int = 0
    out: str = "checkpoint.pt"

    @classmethod
    def from_command_line(cls):
        parser = argparse.ArgumentParser()
        for field in fields(cls):
            kind = type(field.default)
            parser.add_argument("--" + field.name.replace("_", "-"), type=kind, default=field.default)
        return cls(**vars(parser.parse_args()))


def synthetic_tokens(n_samples, seq_len, vocab_size, seed):
    g = torch.Generator().manual_seed(seed)
    start = torch.randint(0, vocab_size, (n_samples, 1), generator=g)
    step = torch.randint(1, 7, (n_samples, 1), generator=g)
    data = (start + step * torch.arange(seq_len + 1)) % vocab_size
    return TensorDataset(data[:, :-1].contiguous(), data[:, 1:].contiguous())


class TransformerBlock(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.h = heads
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.proj = nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).split(d, dim=-1)
        q, k, v = (z.reshape(b, t, self.h, d // self.h).transpose(1, 2) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size, d_model, n_heads, n_layers, max_len=256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList()
        for _ in range(n_layers):
            self.blocks.append(TransformerBlock(d_model, n_heads))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        h = self.tok(tokens) + self.pos(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.blocks:
            h = layer(h)
        return self.head(self.ln_f(h))


class Checkpointer:
    """Makes its buffers ahead of time, as host memory is scarce at the end of a run."""

    def __init__(self, model, path):
        self.path = path
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        self.buffers = get_model_state_dict(model, options=options)

    def write(self, extra):
        if dist.get_rank() == 0:
            torch.save({"model": self.buffers, **extra}, self.path)
            print(f"saved {self.path}")
        dist.barrier()


def main():
    cfg = Config.from_command_line()
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")
    rank, world = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(cfg.seed)
    model = TransformerLM(cfg.vocab_size, cfg.d_model, cfg.n_heads, cfg.n_layers).to(device)
    if rank == 0:
        print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
    for layer in model.blocks:
        fully_shard(layer)
    fully_shard(model)
    checkpointer = Checkpointer(model, cfg.out)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr)

    data = synthetic_tokens(cfg.n_samples, cfg.seq_len, cfg.vocab_size, cfg.seed)
    sampler = DistributedSampler(data, world, rank, seed=cfg.seed)
    loader = DataLoader(data, cfg.batch_size, sampler=sampler, drop_last=True)
    for epoch in range(cfg.epochs):
        sampler.set_epoch(epoch)
        t0, total = time.time(), 0.0
        for x, y in loader:
            loss = F.cross_entropy(model(x.to(device)).flatten(0, 1), y.to(device).flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        mean = torch.tensor(total / len(loader), device=device)
        dist.all_reduce(mean)
        mean = mean.item() / world
        if rank == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    checkpointer.write({"args": asdict(cfg)})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
