"""fp16 + GradScaler, four samples at a time."""
import argparse
import math
from types import SimpleNamespace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

SAMPLES_AT_ONCE = 4


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
        self.q, self.k, self.v, self.proj = (nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x):
        split = lambda t: t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        y = F.scaled_dot_product_attention(split(self.q(x)), split(self.k(x)), split(self.v(x)), is_causal=True)
        return self.proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.attn = nn.LayerNorm(d_model), Attention(d_model, n_heads)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1), nn.BatchNorm2d(d_model // 2), nn.ReLU(),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1), nn.ReLU())
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens):
        prefix = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos.weight[: x.size(1)]
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x[:, prefix.size(1):]))


def build(args):
    run = SimpleNamespace(args=args, history=[])
    run.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run.model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(run.device)
    run.optimizer = torch.optim.AdamW(run.model.parameters(), lr=args.lr, foreach=False)
    run.scaler = torch.amp.GradScaler(run.device.type, init_scale=2.0**12)
    run.train_loader = DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True)
    run.val_loader = DataLoader(CaptionData(64), batch_size=args.batch_size)
    return run


def forward(run, images, tokens):
    images, tokens = images.to(run.device), tokens.to(run.device)
    with torch.autocast(run.device.type, dtype=torch.float16):
        logits = run.model(images, tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def one_step(run, images, tokens):
    parts = math.ceil(len(images) / SAMPLES_AT_ONCE)
    mean = 0.0
    for im, tk in zip(images.tensor_split(parts), tokens.tensor_split(parts)):
        loss = forward(run, im, tk) / parts
        loss.backward()
        mean += loss.item()
    run.scaler.unscale_(run.optimizer)
    nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    for p in run.model.parameters():
        p.grad = None
    run.history.append(mean)


def evaluate(run, max_batches=4):
    run.model.eval()
    with torch.inference_mode():
        losses = [forward(run, *batch).item() for _, batch in zip(range(max_batches), run.val_loader)]
    run.model.train()
    return sum(losses) / len(losses)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    torch.manual_seed(0)
    run = build(p.parse_args())
    while len(run.history) < run.args.steps:
        for images, tokens in run.train_loader:
            if len(run.history) == run.args.steps:
                break
            one_step(run, images, tokens)
            if len(run.history) % 5 == 0:
                print(f"step {len(run.history)} loss {run.history[-1]:.4f}")
    print(f"val loss: {evaluate(run):.4f}")
    print(f"final loss: {run.history[-1]:.4f}")
    if run.device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
