import argparse
import dataclasses
import math
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset, DistributedSampler

GPUS_PER_NODE = 8


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

@dataclass(frozen=True)
class Place:
    rank: int
    world: int

    @property
    def gpu(self) -> int:
        return self.rank % GPUS_PER_NODE

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.gpu)


def train(cfg: Config, place: Place) -> nn.Module:
    mesh = init_device_mesh("cuda", (place.world,))
    torch.manual_seed(cfg.seed)
    model = TransformerLM(cfg.vocab_size, cfg.d_model, cfg.n_heads, cfg.n_layers).to(place.device)
    for layer in model.blocks:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    n_params = sum(p.numel() for p in model.parameters())
    if place.rank == 0:
        print(f"Total parameters: {n_params}")

    data = SyntheticTokens(cfg.n_samples, cfg.seq_len, cfg.vocab_size, cfg.seed)
    sampler = DistributedSampler(data, place.world, place.rank, seed=cfg.seed)
    loader = DataLoader(data, cfg.batch_size, sampler=sampler, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr)

    for epoch in range(cfg.epochs):
        sampler.set_epoch(epoch)
        t0, total = time.time(), torch.zeros((), device=place.device)
        for x, y in loader:
            logits = model(x.to(place.device))
            loss = F.cross_entropy(logits.flatten(0, 1), y.to(place.device).flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        mean = total.item() / (place.world * len(loader))
        if place.rank == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")
    return model


def main() -> None:
    cfg = Config.parse()
    dist.init_process_group("nccl")
    place = Place(dist.get_rank(), dist.get_world_size())
    torch.cuda.set_device(place.gpu)

    model = train(cfg, place)
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if place.rank == 0:
        torch.save({"model": state, "args": dataclasses.asdict(cfg)}, cfg.out)
        print(f"saved {cfg.out}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
