"""minicap: a small captioning library and its training script in one file.

The public surface is :class:`Captioner`, :class:`HalfMomentAdamW`, :func:`fit` and :func:`score`.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint_sequential
from torch.utils.data import DataLoader, Dataset

__all__ = ["Captioner", "HalfMomentAdamW", "fit", "score"]


class Batch(NamedTuple):
    images: Tensor
    tokens: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(self.images.to(device, non_blocking=True), self.tokens.to(device, non_blocking=True))

    def split(self, parts: int) -> Iterator[Batch]:
        yield from map(Batch, self.images.chunk(parts), self.tokens.chunk(parts))

    def pin_memory(self) -> Batch:
        return Batch(self.images.pin_memory(), self.tokens.pin_memory())


class SupportsLoss(Protocol):
    def loss(self, batch: Batch) -> Tensor: ...


class CaptionData(Dataset):
    def __init__(self, n: int = 256, seq_len: int = 33, vocab_size: int = 2000, image_size: int = 32) -> None:
        g = torch.Generator().manual_seed(0)
        self.images = torch.randn(n, 3, image_size, image_size, generator=g)
        first = torch.randint(0, vocab_size, (n, 1), generator=g)
        self.tokens = (first + torch.arange(seq_len)) % vocab_size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.images[i], self.tokens[i]


class HalfMomentAdamW(Optimizer):
    """AdamW, one tensor at a time, whose two moments are stored in bfloat16."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                if not s:
                    s["t"] = 0
                    s["m"] = torch.zeros_like(p, dtype=torch.bfloat16)
                    s["v"] = torch.zeros_like(p, dtype=torch.bfloat16)
                s["t"] += 1
                m = s["m"].float().lerp_(p.grad, 1 - b1)
                v = s["v"].float().mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                s["m"].copy_(m), s["v"].copy_(v)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.addcdiv_(m, (v / (1 - b2 ** s["t"])).sqrt_().add_(group["eps"]), value=-group["lr"] / (1 - b1 ** s["t"]))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(2, 0).transpose(2, 3)
        return self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Residual(nn.Module):
    def __init__(self, width: int, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x))


class Captioner(nn.Module):
    def __init__(self, width: int = 128, depth: int = 4, heads: int = 4, vocab: int = 2000, max_len: int = 256) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, stride=2, padding=1), nn.BatchNorm2d(width // 2), nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(2))
        self.tok, self.pos = nn.Embedding(vocab, width), nn.Embedding(max_len, width)
        layers: list[nn.Module] = []
        for _ in range(depth):
            mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
            layers += [Residual(width, Attention(width, heads)), Residual(width, mlp)]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocab))

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        prefix = self.stem(images).mT
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos.weight[: x.size(1)]
        if self.training:
            x = checkpoint_sequential(self.layers, max(2, len(self.layers) // 2), x, use_reentrant=False)
        else:
            x = self.layers(x)
        return self.out(x[:, prefix.size(1):])

    def loss(self, batch: Batch) -> Tensor:
        logits = self(batch.images, batch.tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten())


def forever(loader: DataLoader) -> Iterator[Batch]:
    while True:
        for images, tokens in loader:
            yield Batch(images, tokens)


def fit(model: SupportsLoss, optimizer: Optimizer, loader: DataLoader, steps: int, device: torch.device) -> list[float]:
    losses: list[float] = []
    source = forever(loader)
    while len(losses) < steps:
        batch = next(source)
        mean = 0.0
        for part in batch.split(2):
            loss = model.loss(part.to(device)) * (len(part.tokens) / len(batch.tokens))
            loss.backward()
            mean += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(mean)
        if len(losses) % 5 == 0:
            print(f"step {len(losses)} loss {losses[-1]:.4f}")
    return losses


@torch.inference_mode()
def score(model: Captioner, loader: DataLoader, device: torch.device, limit: int = 4) -> float:
    model.eval()
    values = [model.loss(Batch(*pair).to(device)).item() for pair, _ in zip(loader, range(limit))]
    model.train()
    return sum(values) / len(values)


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    args = p.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Captioner(args.d_model, args.n_layers).to(device)
    loader = DataLoader(CaptionData(), args.batch_size, shuffle=True, drop_last=True, pin_memory=device.type == "cuda")
    losses = fit(model, HalfMomentAdamW(model.parameters(), lr=args.lr), loader, args.steps, device)
    print(f"val loss: {score(model, DataLoader(CaptionData(64), args.batch_size), device):.4f}")
    print(f"final loss: {losses[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
