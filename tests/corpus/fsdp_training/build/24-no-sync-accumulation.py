import argparse
import math
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel as FSDP, StateDictType
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
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size=512, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


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


class Cluster:
    def __enter__(self):
        self.local_rank = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(self.local_rank)
        self.device = torch.device("cuda", self.local_rank)
        dist.init_process_group("nccl")
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        return self

    def __exit__(self, *exc_info):
        dist.destroy_process_group()
        return False

    def print(self, message):
        if self.rank == 0:
            print(message, flush=True)

    def mean(self, value):
        t = torch.tensor(value, dtype=torch.float32, device=self.device)
        dist.all_reduce(t)
        return t.item() / self.world


class Trainer:
    accumulate = 2

    def __init__(self, cfg, cluster):
        self.cfg, self.cluster = cfg, cluster
        torch.manual_seed(cfg.seed)
        model = TransformerLM(cfg.vocab_size, cfg.d_model, cfg.n_heads, cfg.n_layers).to(cluster.device)
        cluster.print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
        for i, block in enumerate(model.blocks):
            model.blocks[i] = FSDP(block, device_id=cluster.device)
        self.model = FSDP(model, device_id=cluster.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=cfg.lr)
        data = SyntheticTokens(cfg.n_samples, cfg.seq_len, cfg.vocab_size, cfg.seed)
        self.sampler = DistributedSampler(data, cluster.world, cluster.rank, shuffle=True, seed=cfg.seed)
        self.loader = DataLoader(data, batch_size=cfg.batch_size, sampler=self.sampler, drop_last=True)

    def micro_step(self, x, y, scale, last):
        """All micro steps but the last keep their gradients unreduced."""
        with nullcontext() if last else self.model.no_sync():
            loss = F.cross_entropy(self.model(x).flatten(0, 1), y.flatten())
            (loss / scale).backward()
        return loss.item()

    def epoch(self, number):
        self.sampler.set_epoch(number)
        began, losses = time.time(), []
        self.optimizer.zero_grad()
        for step, (x, y) in enumerate(self.loader, start=1):
            last = step % self.accumulate == 0 or step == len(self.loader)
            scale = self.accumulate if step <= len(self.loader) // self.accumulate * self.accumulate else 1
            x, y = x.to(self.cluster.device), y.to(self.cluster.device)
            losses.append(self.micro_step(x, y, scale, last))
            if last:
                self.model.clip_grad_norm_(1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
        mean = self.cluster.mean(sum(losses) / len(losses))
        self.cluster.print(f"epoch {number} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - began:.1f}s)")

    def save(self):
        FSDP.set_state_dict_type(
            self.model,
            StateDictType.FULL_STATE_DICT,
            FullStateDictConfig(rank0_only=True, offload_to_cpu=True),
        )
        state = self.model.state_dict()
        if self.cluster.rank == 0:
            torch.save({"model": state, "args": asdict(self.cfg)}, self.cfg.out)
        self.cluster.print(f"saved {self.cfg.out}")
        dist.barrier()


if __name__ == "__main__":
    with Cluster() as cluster:
        trainer = Trainer(Config.from_command_line(), cluster)
        for number in range(trainer.cfg.epochs):
            trainer.epoch(number)
        trainer.save()
