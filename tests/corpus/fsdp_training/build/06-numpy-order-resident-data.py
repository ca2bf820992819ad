"""FSDP1. The whole data set is small, so it lives on each GPU and a batch is an index_select; no DataLoader."""
import argparse
import dataclasses
import math
import os
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.utils.data import Dataset


@dataclass(frozen=True)
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
    def parse(cls) -> "Config":
        parser = argparse.ArgumentParser(description=__doc__)
        for f in dataclasses.fields(cls):
            parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
        return cls(**vars(parser.parse_args()))


class SyntheticTokens(Dataset):
    def __init__(self, n_samples: int, seq_len: int, vocab_size: int, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        start = torch.randint(0, vocab_size, (n_samples, 1), generator=g)
        step = torch.randint(1, 7, (n_samples, 1), generator=g)
        self.data = (start + step * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self) -> int:
        return self.data.size(0)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.data[i]
        return row[:-1], row[1:]


class DecoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.n_heads, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(b, t, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size: int, d_model: int, n_heads: int, n_layers: int, max_len: int = 256) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([DecoderLayer(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.blocks:
            x = layer(x)
        return self.head(self.ln_f(x))

def epoch_batches(n: int, batch: int, seed: int, epoch: int, rank: int, world: int) -> np.ndarray:
    """[steps, batch] indices of this rank. All ranks draw the same permutation, then take every world-th entry.

    The permutation is filled up from its front to a multiple of the world size, so that parts are equally long.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n)
    mine = np.resize(order, -(-n // world) * world)[rank::world]
    steps = len(mine) // batch
    return mine[: steps * batch].reshape(steps, batch)


def train(cfg: Config, rank: int, world: int, device: torch.device) -> FSDP:
    torch.manual_seed(cfg.seed)
    module = TransformerLM(cfg.vocab_size, cfg.d_model, cfg.n_heads, cfg.n_layers)
    if rank == 0:
        print("Total parameters: %d" % sum(p.numel() for p in module.parameters()))
    model = FSDP(module, auto_wrap_policy=ModuleWrapPolicy([DecoderLayer]), device_id=device, sync_module_states=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr)
    rows = SyntheticTokens(cfg.n_samples, cfg.seq_len, cfg.vocab_size, cfg.seed).data.to(device)

    for epoch in range(cfg.epochs):
        t0 = time.time()
        losses = []
        for index in epoch_batches(len(rows), cfg.batch_size, cfg.seed, epoch, rank, world):
            batch = rows[torch.from_numpy(index).to(device)]
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.transpose(1, 2), batch[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            model.clip_grad_norm_(1.0)
            optimizer.step()
            losses.append(loss.detach())
        mean = torch.stack(losses).mean()
        dist.reduce(mean, dst=0)
        if rank == 0:
            mean = mean.item() / world
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")
    return model


def save(model: FSDP, cfg: Config, rank: int) -> None:
    with FSDP.state_dict_type(
        model,
        StateDictType.FULL_STATE_DICT,
        FullStateDictConfig(rank0_only=True, offload_to_cpu=True),
    ):
        weights = model.state_dict()
    if rank == 0:
        torch.save({"model": weights, "args": dataclasses.asdict(cfg)}, cfg.out)
        print(f"saved {cfg.out}")


def main() -> None:
    cfg = Config.parse()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")
    rank, world = dist.get_rank(), dist.get_world_size()
    try:
        model = train(cfg, rank, world, device)
        save(model, cfg, rank)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
