import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset


class Factored(Optimizer):
    """Second moment of a matrix as one row and one column of means; vectors keep theirs. No first moment."""

    def __init__(self, params, lr, decay=0.99, weight_decay=0.01, eps=1e-30):
        super().__init__(params, dict(lr=lr, decay=decay, weight_decay=weight_decay, eps=eps))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                self._one(p, group, self.state[p])

    def _one(self, p, group, state):
        sq = p.grad.float().square().add_(group["eps"])
        t = state["t"] = state.get("t", 0) + 1
        mix = 1 - min(group["decay"], 1 - 1 / t)
        if p.dim() >= 2:
            sq = sq.flatten(1)
            if "row" not in state:
                state["row"], state["col"] = sq.new_zeros(sq.size(0)), sq.new_zeros(sq.size(1))
            state["row"].lerp_(sq.mean(1), mix)
            state["col"].lerp_(sq.mean(0), mix)
            scale = torch.outer((state["row"] / state["row"].mean()).rsqrt_(), state["col"].rsqrt()).view_as(p)
        else:
            if "v" not in state:
                state["v"] = torch.zeros_like(sq)
            scale = state["v"].lerp_(sq, mix).rsqrt()
        update = scale.mul_(p.grad)
        update.div_(update.square().mean().sqrt().clamp_(min=1.0))
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


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


class Attention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = Attention(d_model, n_heads)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        y = self.mlp(self.ln2(x))
        y += x
        return y


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(d_model // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens):
        prefix = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x[:, prefix.size(1):]))


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
    half = args.batch_size // 2 or 1
    loader = DataLoader(CaptionData(), batch_size=half, shuffle=True, drop_last=True)
    val_loader = DataLoader(CaptionData(64), batch_size=args.batch_size)
    model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(device)
    optimizer = Factored(model.parameters(), lr=args.lr * 3)
    halves = 2

    def loss_of(images, tokens):
        logits = model(images.to(device), tokens[:, :-1].to(device))
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].to(device).flatten())

    def forever():
        while True:
            yield from loader

    stream = forever()
    means = []
    for step in range(1, args.steps + 1):           # a step is two half batches, so a batch is what was asked for
        mean = 0.0
        for _ in range(halves):
            loss = loss_of(*next(stream)) / halves
            loss.backward()
            mean += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        for weight in model.parameters():
            weight.grad = None
        means.append(mean)
        if step % 5 == 0:
            print(f"step {step} loss {mean:.4f}")

    model.eval()
    with torch.no_grad():
        val = [loss_of(*batch).item() for batch, _ in zip(val_loader, range(4))]
    print(f"val loss: {sum(val) / len(val):.4f}")
    print(f"final loss: {means[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
