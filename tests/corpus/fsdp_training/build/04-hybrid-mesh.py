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
from torch.distributed.device_mesh import init_device_mesh
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


def build_mesh():
    """Shard inside a node, replicate over nodes. Nodes of unequal size get one flat mesh."""
    world, per_node = dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"])
    if world % per_node:
        return init_device_mesh("cuda", (world,))
    return init_device_mesh("cuda", (world // per_node, per_node), mesh_dim_names=("replicate", "shard"))


def train(cfg, device):
    rank = dist.get_rank()
    mesh = build_mesh()
    torch.manual_seed(cfg.seed)  # the replicas have to start from equal weights
    model = TransformerLM(cfg.vocab_size, cfg.d_model, cfg.n_heads, cfg.n_layers).to(device)
    for layer in model.blocks:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    total_params = sum(p.numel() for p in model.parameters())  # DTensor.numel() is the global number
    if rank == 0:
        print(f"Total parameters: {total_params}")

    data = synthetic_tokens(cfg.n_samples, cfg.seq_len, cfg.vocab_size, cfg.seed)
    sampler = DistributedSampler(data, seed=cfg.seed)
    loader = DataLoader(data, cfg.batch_size, sampler=sampler, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, foreach=True)

    for epoch in range(cfg.epochs):
        sampler.set_epoch(epoch)
        began, stats = time.perf_counter(), torch.zeros(2, device=device)
        for tokens, targets in loader:
            out = model(tokens.to(device))
            loss = F.cross_entropy(out.flatten(0, 1), targets.to(device).flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            stats[0] += loss.detach()
            stats[1] += 1
        dist.all_reduce(stats)
        mean = (stats[0] / stats[1]).item()
        if rank == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.perf_counter() - began:.1f}s)")
    return model


def main():
    cfg = Config.from_command_line()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")
    try:
        model = train(cfg, device)
        full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if dist.get_rank() == 0:
            torch.save({"model": full, "args": asdict(cfg)}, cfg.out)
            print(f"saved {cfg.out}")
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
