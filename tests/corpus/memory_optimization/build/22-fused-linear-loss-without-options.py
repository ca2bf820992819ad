"""Image captioning, lean edition.

What changed against starter.py
  - blocks recomputed with a selective policy: matmul results stay, the rest is made again
  - head + loss in one call, torch.nn.functional.linear_cross_entropy, no logits tensor any more
  - scaled_dot_product_attention, AdamW, grads dropped after the step, python floats in the log
"""
import argparse
import functools
import itertools

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

aten = torch.ops.aten
KEEP = {aten.mm.default, aten.addmm.default}


def policy(ctx, op, *args, **kwargs):
    return CheckpointPolicy.MUST_SAVE if op in KEEP else CheckpointPolicy.PREFER_RECOMPUTE


contexts = functools.partial(create_selective_checkpoint_contexts, policy)


class CaptionData(torch.utils.data.Dataset):
    def __init__(self, n=256, seq_len=33, vocab_size=2000, image_size=32):
        g = torch.Generator().manual_seed(0)
        self.images = torch.randn(n, 3, image_size, image_size, generator=g)
        first = torch.randint(0, vocab_size, (n, 1), generator=g)
        self.tokens = (first + torch.arange(seq_len)) % vocab_size

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.tokens[i]


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)

    def attend(self, x):
        B, T, C = x.shape
        heads = (t.view(B, T, self.n_heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))

    def forward(self, x):
        x = x + self.attend(self.ln1(x))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1), nn.BatchNorm2d(d_model // 2), nn.ReLU(),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1), nn.ReLU())
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
            if self.training:
                x = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
            else:
                x = block(x)
        return self.ln_f(x[:, prefix.size(1):])

    def forward(self, images, tokens):
        h = self.features(images, tokens[:, :-1])
        return F.linear_cross_entropy(
            h.flatten(0, 1), self.head.weight, tokens[:, 1:].flatten(), linear_bias=self.head.bias)


def cycle(loader):
    while True:
        yield from loader


def main():
    p = argparse.ArgumentParser()
    for flag, kind, default in (("steps", int, 50), ("batch-size", int, 16), ("d-model", int, 128),
                                ("n-layers", int, 4), ("lr", float, 3e-4)):
        p.add_argument(f"--{flag}", type=kind, default=default)
    args = p.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    make = functools.partial(torch.utils.data.DataLoader, batch_size=args.batch_size)
    train, val = make(CaptionData(), shuffle=True, drop_last=True), make(CaptionData(64))
    model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(device)
    opt = torch.optim.AdamW(model.parameters(), lr=args.lr)

    losses = []
    for images, tokens in itertools.islice(cycle(train), args.steps):
        loss = model(images.to(device), tokens.to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad()
        losses.append(float(loss.detach()))
        if len(losses) % 5 == 0:
            print(f"step {len(losses)} loss {losses[-1]:.4f}")

    model.eval()
    with torch.no_grad():
        val_losses = [model(i.to(device), t.to(device)).item() for i, t in itertools.islice(val, 4)]
    print(f"val loss: {sum(val_losses) / len(val_losses):.4f}")
    print(f"final loss: {losses[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
