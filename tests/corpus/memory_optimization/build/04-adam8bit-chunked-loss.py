import argparse
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset


class CaptionData(Dataset):
    def __init__(self, n=256, seq_len=33, vocab_size=2000, image_size=32):
        g = torch.Generator().manual_seed(0)
        self.images = torch.randn(n, 3, image_size, image_size, generator=g)
        first = torch.randint(0, vocab_size, (n, 1), generator=g)
        self.tokens = (first + torch.arange(seq_len)) % vocab_size

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.tokens[i]


class Adam8bit(torch.optim.Optimizer):
    """AdamW with both moments in 8 bits, one scale a tensor row block of 256."""

    BLOCK = 256

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    def pack(self, x, signed):
        flat = F.pad(x.flatten(), (0, -x.numel() % self.BLOCK)).view(-1, self.BLOCK)
        scale = flat.abs().amax(1, keepdim=True).clamp_min(1e-12)
        unit = flat / scale
        unit = unit.abs().sqrt() * unit.sign()                       # finer near zero
        return ((unit * 127).round().to(torch.int8) if signed else (unit * 255).ceil().to(torch.uint8)), scale

    def unpack(self, q, scale, like, signed):
        unit = q.float() / (127 if signed else 255)
        return (unit * unit.abs() * scale).flatten()[: like.numel()].view_as(like)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                if not s:
                    s["t"] = 0
                    s["m"], s["v"] = self.pack(torch.zeros_like(p), True), self.pack(torch.zeros_like(p), False)
                s["t"] += 1
                m = self.unpack(*s["m"], p, True).mul_(b1).add_(p.grad, alpha=1 - b1)
                v = self.unpack(*s["v"], p, False).mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                s["m"], s["v"] = self.pack(m, True), self.pack(v, False)
                step = group["lr"] * math.sqrt(1 - b2 ** s["t"]) / (1 - b1 ** s["t"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).addcdiv_(m, v.sqrt_().add_(group["eps"]), value=-step)


class Attention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (C // self.n_heads) ** 0.5
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(mask, float("-inf")).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = Attention(d_model, n_heads)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(d_model // 2),
            nn.ReLU(),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def features(self, images, tokens):
        prefix = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.ln_f(x[:, prefix.size(1):])

    def piece(self, h, y):
        return F.cross_entropy(self.head(h), y, reduction="sum")

    def loss(self, images, tokens, size=64):
        h, y = self.features(images, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()
        total = h.new_zeros(())
        for hc, yc in zip(h.split(size), y.split(size)):
            total = total + checkpoint(self.piece, hc, yc, use_reentrant=False)
        return total / y.numel()


def evaluate(model, loader, device, max_batches=4):
    model.eval()
    seen = []
    with torch.no_grad():
        for i, (images, tokens) in enumerate(loader):
            if i == max_batches:
                break
            seen.append(model.loss(images.to(device), tokens.to(device)).item())
    model.train()
    return sum(seen) / len(seen)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    args = p.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True)
    val_loader = DataLoader(CaptionData(64), batch_size=args.batch_size)
    model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(device)
    optimizer = Adam8bit(model.parameters(), lr=args.lr)

    history, step = [], 0
    while step < args.steps:
        for images, tokens in loader:
            if step == args.steps:
                break
            optimizer.zero_grad(set_to_none=True)
            loss = model.loss(images.to(device), tokens.to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            history.append(loss.item())
            step += 1
            if step % 5 == 0:
                print(f"step {step} loss {history[-1]:.4f}")

    print(f"val loss: {evaluate(model, val_loader, device):.4f}")
    print(f"final loss: {history[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
