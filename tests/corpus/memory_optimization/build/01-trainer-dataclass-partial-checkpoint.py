"""Captioning, trained by a Trainer that is told everything by one Config."""
from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


@dataclass
class Config:
    steps: int = 50
    batch_size: int = 16
    d_model: int = 128
    n_layers: int = 4
    lr: float = 3e-4

    @classmethod
    def from_command_line(cls) -> Config:
        parser = argparse.ArgumentParser()
        for f in fields(cls):
            parser.add_argument("--" + f.name.replace("_", "-"), type=type(f.default), default=f.default)
        return cls(**vars(parser.parse_args()))


class Captions(Dataset):
    def __init__(self, n: int = 256, length: int = 33, vocab: int = 2000, side: int = 32):
        rng = torch.Generator().manual_seed(0)
        self.images = torch.randn(n, 3, side, side, generator=rng)
        self.tokens = (torch.randint(0, vocab, (n, 1), generator=rng) + torch.arange(length)) % vocab

    def __len__(self) -> int:
        return self.tokens.size(0)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.tokens[index]


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3 * self.heads, c // self.heads).transpose(1, 2).chunk(3, dim=1)
        return self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Captioner(nn.Module):
    def __init__(self, cfg: Config, vocab: int = 2000, heads: int = 4, max_len: int = 256):
        super().__init__()
        d = cfg.d_model
        self.stem = nn.Sequential(
            nn.Conv2d(3, d // 2, 3, stride=2, padding=1), nn.BatchNorm2d(d // 2), nn.ReLU(),
            nn.Conv2d(d // 2, d, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(2),
        )
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(max_len, d)
        self.layers = nn.ModuleList([Layer(d, heads) for _ in range(cfg.n_layers)])
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, vocab)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        picture = self.stem(images).mT
        x = torch.cat((picture, self.tok(tokens)), dim=1)
        x = x + self.pos.weight[: x.size(1)]
        for layer in self.layers:
            x = recompute(layer, x) if torch.is_grad_enabled() else layer(x)
        return self.head(self.norm(x[:, picture.size(1):]))


class Trainer:
    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.train_data = DataLoader(Captions(), cfg.batch_size, shuffle=True, drop_last=True)
        self.val_data = DataLoader(Captions(64), cfg.batch_size)
        self.model = Captioner(cfg).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=cfg.lr, fused=True)
        self.losses: list[float] = []

    def loss_of(self, batch: list[Tensor]) -> Tensor:
        images, tokens = (t.to(self.device) for t in batch)
        with torch.autocast(device_type=self.device.type, dtype=torch.bfloat16):
            logits = self.model(images, tokens[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def step(self, batch: list[Tensor]) -> None:
        self.optimizer.zero_grad()
        loss = self.loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.losses.append(loss.item())

    def fit(self) -> Trainer:
        while True:
            for batch in self.train_data:
                if len(self.losses) >= self.cfg.steps:
                    return self
                self.step(batch)
                if len(self.losses) % 5 == 0:
                    print(f"step {len(self.losses)} loss {self.losses[-1]:.4f}")

    @torch.inference_mode()
    def validate(self) -> float:
        self.model.eval()
        values = [self.loss_of(batch).item() for _, batch in zip(range(4), self.val_data)]
        self.model.train()
        return sum(values) / len(values)


if __name__ == "__main__":
    config = Config.from_command_line()
    torch.manual_seed(0)
    trainer = Trainer(config).fit()
    print(f"val loss: {trainer.validate():.4f}")
    print(f"final loss: {trainer.losses[-1]:.4f}")
    if trainer.device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")
