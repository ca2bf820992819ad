"""Everything on the GPU is bf16: weights, gradients, activations and Lion's single moment."""
import argparse
from itertools import chain, repeat

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


class Lion:
    def __init__(self, params, lr, betas=(0.9, 0.99), decay=0.01):
        self.params, self.lr, self.betas, self.decay = list(params), lr, betas, decay
        self.moment = [torch.zeros_like(p) for p in self.params]

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for p, m in zip(self.params, self.moment):
            if p.grad is not None:
                direction = torch.lerp(p.grad, m, b1).sign_()
                m.lerp_(p.grad, 1 - b2)
                p.mul_(1 - self.lr * self.decay).add_(direction, alpha=-self.lr)


class Decoder(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.a, self.b = nn.RMSNorm(d), nn.RMSNorm(d)
        self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        q, k, v = (s.unflatten(2, (self.heads, -1)).transpose(1, 2) for s in self.qkv(self.a(x)).chunk(3, 2))
        x = self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)) + x
        return self.down(F.gelu(self.up(self.b(x)))) + x


class Captioner(nn.Module):
    def __init__(self, d, layers, vocab=2000, max_len=256):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, d // 2, 3, 2, 1), nn.BatchNorm2d(d // 2), nn.ReLU(), nn.Conv2d(d // 2, d, 3, 2, 1), nn.ReLU())
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(max_len, d)
        self.layers = nn.ModuleList(Decoder(d, 4) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(d), nn.Linear(d, vocab)

    def forward(self, images, tokens):
        see = self.conv(images).flatten(2).mT
        x = torch.cat([see, self.tok(tokens)], 1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return self.head(self.norm(x[:, see.size(1):]))


def dataset(n):
    g = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, 32, 32, generator=g)
    return images, (torch.randint(0, 2000, (n, 1), generator=g) + torch.arange(33)) % 2000


def epoch(data, size, shuffle):
    images, tokens = data
    order = torch.randperm(len(images)) if shuffle else torch.arange(len(images))
    for picked in order.split(size):
        if len(picked) == size or not shuffle:
            yield images[picked], tokens[picked]


def nll(model, images, tokens, where):
    logits = model(images.to(where, torch.bfloat16), tokens[:, :-1].to(where))
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten().to(where))


def main():
    p = argparse.ArgumentParser()
    for option, default in (("steps", 50), ("batch-size", 16), ("d-model", 128), ("n-layers", 4), ("lr", 3e-4)):
        p.add_argument("--" + option, type=type(default), default=default)
    o = p.parse_args()
    torch.manual_seed(0)
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    model = Captioner(o.d_model, o.n_layers).to(where)
    torch.set_default_dtype(previous)
    optimizer = Lion(model.parameters(), o.lr)
    train, val = dataset(256), dataset(64)

    losses = []
    stream = chain.from_iterable(epoch(train, o.batch_size, True) for _ in repeat(None))
    for (images, tokens), step in zip(stream, range(1, o.steps + 1)):
        optimizer.zero_grad()
        loss = nll(model, images, tokens, where)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 5 == 0:
            print(f"step {step} loss {losses[-1]:.4f}")

    model.eval()
    with torch.inference_mode():
        scores = [nll(model, *batch, where).item() for batch, _ in zip(epoch(val, o.batch_size, False), range(4))]
    print(f"val loss: {sum(scores) / len(scores):.4f}")
    print(f"final loss: {losses[-1]:.4f}")
    if where.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
