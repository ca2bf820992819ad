# No modules: weights in a dict, the network as plain functions, plain SGD written out.
import argparse
import math

import torch
import torch.nn.functional as F
from torch.utils import checkpoint as ckpt

ap = argparse.ArgumentParser()
ap.add_argument("--steps", type=int, default=50)
ap.add_argument("--batch-size", type=int, default=16)
ap.add_argument("--d-model", type=int, default=128)
ap.add_argument("--n-layers", type=int, default=4)
ap.add_argument("--lr", type=float, default=3e-4)
a = ap.parse_args()

torch.manual_seed(0)
dev = torch.device("cuda" if torch.cuda.is_available() else "cpu")
V, D, H = 2000, a.d_model, 4


def data(n):
    g = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, 32, 32, generator=g)
    return images, (torch.randint(0, V, (n, 1), generator=g) + torch.arange(33)) % V


def new(*shape, scale=None):
    fan = math.prod(shape[1:]) if len(shape) > 1 else 1
    w = torch.randn(*shape, device=dev) * (scale if scale is not None else fan ** -0.5)
    return w.requires_grad_()


W = {
    "c1": new(D // 2, 3, 3, 3), "c1b": new(D // 2, scale=0), "bn": torch.ones(D // 2, device=dev, requires_grad=True),
    "bnb": new(D // 2, scale=0), "c2": new(D, D // 2, 3, 3), "c2b": new(D, scale=0),
    "tok": new(V, D, scale=1), "pos": new(256, D, scale=1), "out": new(V, D), "outb": new(V, scale=0),
}
for i in range(a.n_layers):
    W |= {f"{i}.qkv": new(3 * D, D), f"{i}.o": new(D, D), f"{i}.up": new(4 * D, D), f"{i}.down": new(D, 4 * D)}
running = torch.zeros(D // 2, device=dev), torch.ones(D // 2, device=dev)


def block(x, qkv, o, up, down):
    B, T, _ = x.shape
    q, k, v = F.linear(F.layer_norm(x, (D,)), qkv).reshape(B, T, 3, H, D // H).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    x = x + F.linear(y, o)
    return F.linear(F.gelu(F.linear(F.layer_norm(x, (D,)), up)), down) + x


def hidden(images, tokens, train):
    h = F.conv2d(images, W["c1"], W["c1b"], 2, 1)
    h = F.relu_(F.batch_norm(h, *running, W["bn"], W["bnb"], training=train))
    h = F.relu_(F.conv2d(h, W["c2"], W["c2b"], 2, 1)).flatten(2).transpose(1, 2)
    x = torch.cat([h, F.embedding(tokens, W["tok"])], 1)
    x = x + W["pos"][: x.shape[1]]
    for i in range(a.n_layers):
        x = ckpt.checkpoint(block, x, *(W[f"{i}.{n}"] for n in ("qkv", "o", "up", "down")), use_reentrant=False)
    return F.layer_norm(x[:, h.shape[1]:], (D,))


def piece(h, y, w, b):
    return F.cross_entropy(F.linear(h, w, b), y, reduction="sum")


def loss_fn(images, tokens, train=True):
    h = hidden(images, tokens[:, :-1], train).reshape(-1, D)
    y = tokens[:, 1:].reshape(-1)
    n = max(1, len(y) // 8)
    parts = [ckpt.checkpoint(piece, h[i:i + n], y[i:i + n], W["out"], W["outb"], use_reentrant=False)
             for i in range(0, len(y), n)]
    return torch.stack(parts).sum() / len(y)


images, tokens = data(256)
log = []
while len(log) < a.steps:
    for idx in torch.randperm(len(images)).split(a.batch_size):
        if len(idx) < a.batch_size or len(log) == a.steps:
            break
        loss = loss_fn(images[idx].to(dev), tokens[idx].to(dev))
        loss.backward()
        norm = sum(w.grad.square().sum() for w in W.values()).sqrt()
        with torch.no_grad():
            for w in W.values():
                w.sub_(w.grad * (a.lr * 100 / norm.clamp(min=1)))
                w.grad = None
        log.append(float(loss))
        if len(log) % 5 == 0:
            print(f"step {len(log)} loss {log[-1]:.4f}")

torch.set_grad_enabled(False)
vi, vt = data(64)
val = [float(loss_fn(i.to(dev), t.to(dev), train=False))
       for i, t in list(zip(vi.split(a.batch_size), vt.split(a.batch_size)))[:4]]
print(f"val loss: {sum(val) / len(val):.4f}")
print(f"final loss: {log[-1]:.4f}")
if dev.type == "cuda":
    print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")
