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


class Trainer:
    def __init__(self, cfg):
        self.cfg = cfg
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.manual_seed(cfg.seed)
        self.model = TransformerLM(cfg.vocab_size, cfg.d_model, cfg.n_heads, cfg.n_layers).to(self.device)
        self.n_params = sum(p.numel() for p in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=cfg.lr)
        dataset = SyntheticTokens(cfg.n_samples, cfg.seq_len, cfg.vocab_size, cfg.seed)
        self.sampler = DistributedSampler(dataset, self.world, self.rank, shuffle=True, seed=cfg.seed)
        self.loader = DataLoader(dataset, cfg.batch_size, sampler=self.sampler, drop_last=True)

    def log(self, text):
        if self.rank == 0:
            print(text, flush=True)

    def shard(self):
        for layer in self.model.blocks:
            fully_shard(layer)
        fully_shard(self.model)

    def run_epoch(self, epoch):
        self.sampler.set_epoch(epoch)
        t0, total = time.time(), torch.zeros(1, device=self.device)
        for x, y in self.loader:
            x, y = x.to(self.device), y.to(self.device)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(x).flatten(0, 1), y.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        mean = total.item() / len(self.loader) / self.world
        self.log(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    def save(self):
        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.rank == 0:
            torch.save({"model": state, "args": asdict(self.cfg)}, self.cfg.out)
        self.log(f"saved {self.cfg.out}")

    def run(self):
        self.log(f"Total parameters: {self.n_params}")
        self.shard()
        for epoch in range(self.cfg.epochs):
            self.run_epoch(epoch)
        self.save()


def main():
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    Trainer(Config.from_command_line()).run()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
