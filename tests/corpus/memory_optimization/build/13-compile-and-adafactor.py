"""Compiled model with a factored optimizer."""
from argparse import ArgumentParser

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")


def caption_data(n=256, seq_len=33, vocab_size=2000, image_size=32) -> Dataset:
    g = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, image_size, image_size, generator=g)
    first = torch.randint(0, vocab_size, (n, 1), generator=g)
    return TensorDataset(images, (first + torch.arange(seq_len)) % vocab_size)


def causal_attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(dim, dim) for _ in range(4))
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        h = self.n1(x)
        q, k, v = (w(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        x = x + self.wo(causal_attention(q, k, v).transpose(1, 2).flatten(-2))
        return x + self.ff(self.n2(x))


class Captioner(nn.Module):
    def __init__(self, vocab=2000, dim=128, heads=4, depth=4, max_len=256):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(3, dim // 2, 3, 2, 1), nn.BatchNorm2d(dim // 2), nn.ReLU(), nn.Conv2d(dim // 2, dim, 3, 2, 1), nn.ReLU()
        )
        self.word, self.place = nn.Embedding(vocab, dim), nn.Embedding(max_len, dim)
        self.blocks = nn.Sequential(*[Block(dim, heads) for _ in range(depth)])
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, vocab))

    def forward(self, images, tokens):
        seen = self.conv(images).flatten(2).transpose(1, 2)
        x = torch.cat((seen, self.word(tokens)), 1)
        x = self.blocks(x + self.place.weight[: x.shape[1]])
        return self.out(x[:, seen.shape[1]:])


def criterion(net, images, tokens):
    with torch.autocast(DEVICE.type, torch.bfloat16):
        return F.cross_entropy(net(images, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def main():
    p = ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    o = p.parse_args()
    torch.manual_seed(0)
    train = DataLoader(caption_data(), o.batch_size, shuffle=True, drop_last=True, pin_memory=ON_GPU)
    valid = DataLoader(caption_data(64), o.batch_size)
    net = Captioner(dim=o.d_model, depth=o.n_layers).to(DEVICE)
    net = net.to(memory_format=torch.channels_last)
    if ON_GPU:
        net = torch.compile(net)
    opt = torch.optim.Adafactor(net.parameters(), lr=max(o.lr * 30, 1e-2))

    losses = []
    while len(losses) < o.steps:
        for images, tokens in train:
            images = images.to(DEVICE, non_blocking=True, memory_format=torch.channels_last)
            tokens = tokens.to(DEVICE, non_blocking=True)
            opt.zero_grad()
            loss = criterion(net, images, tokens)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            opt.step()
            losses.append(loss.item())
            if len(losses) % 5 == 0:
                print("step", len(losses), "loss", losses[-1])
            if len(losses) == o.steps:
                break

    net.eval()
    with torch.inference_mode():
        scores = [criterion(net, i.to(DEVICE), t.to(DEVICE)).item() for (i, t), _ in zip(valid, range(4))]
    print(f"val loss: {sum(scores) / len(scores):.4f}")
    print(f"final loss: {losses[-1]:.4f}")
    if ON_GPU:
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
