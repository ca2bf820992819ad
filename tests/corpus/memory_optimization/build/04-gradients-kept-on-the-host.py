"""Micro-batches whose gradients wait on the host.

After the backward pass of each micro-batch every gradient is added to a buffer in (pinned) host memory and dropped from
the card, tensor by tensor, by post-accumulate hooks.  For the step the sums come back one parameter at a time.
"""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

MICRO = 2


def make_data(n, seq_len=33, vocab=2000, side=32):
    g = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, side, side, generator=g)
    return TensorDataset(images, (torch.randint(0, vocab, (n, 1), generator=g) + torch.arange(seq_len)) % vocab)


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.qkv, self.proj = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.ln2, self.mlp = nn.LayerNorm(d), nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln2(x))


class Captioner(nn.Module):
    def __init__(self, vocab=2000, d=128, heads=4, layers=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, d // 2, 3, 2, 1), nn.BatchNorm2d(d // 2), nn.ReLU(), nn.Conv2d(d // 2, d, 3, 2, 1), nn.ReLU())
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(max_len, d)
        self.blocks = nn.Sequential(*(Block(d, heads) for _ in range(layers)))
        self.ln_f, self.head = nn.LayerNorm(d), nn.Linear(d, vocab)

    def forward(self, images, tokens):
        prefix = self.stem(images).flatten(2).mT
        x = torch.cat([prefix, self.tok(tokens)], 1)
        x = self.blocks(x + self.pos.weight[: x.size(1)])
        return self.head(self.ln_f(x[:, prefix.size(1):]))


class HostGradients:
    def __init__(self, params, pin):
        self.params = list(params)
        self.sums = {p: torch.zeros(p.shape, dtype=p.dtype, pin_memory=pin) for p in self.params}
        for p in self.params:
            p.register_post_accumulate_grad_hook(self._to_host)

    def _to_host(self, p):
        self.sums[p] += p.grad.cpu()
        p.grad = None

    def norm(self):
        return torch.stack([s.norm() for s in self.sums.values()]).norm().item()

    def step(self, optimizers, max_norm=1.0):
        scale = min(1.0, max_norm / (self.norm() + 1e-6))
        for p in self.params:
            p.grad = (self.sums[p] * scale).to(p.device)
            optimizers[p].step()
            p.grad = None
            self.sums[p].zero_()


def loss_of(model, images, tokens):
    logits = model(images, tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def evaluate(model, loader, device, max_batches=4):
    model.eval()
    losses = [loss_of(model, *(t.to(device) for t in batch)).item() for _, batch in zip(range(max_batches), loader)]
    model.train()
    return sum(losses) / len(losses)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    a = p.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(make_data(256), a.batch_size, shuffle=True, drop_last=True)
    model = Captioner(d=a.d_model, layers=a.n_layers).to(device)
    host = HostGradients(model.parameters(), pin=device.type == "cuda")
    optimizers = {q: torch.optim.Adagrad([q], lr=a.lr, foreach=False) for q in model.parameters()}

    history = []
    while len(history) < a.steps:
        for images, tokens in loader:
            if len(history) == a.steps:
                break
            total = 0.0
            for im, tk in zip(images.chunk(MICRO), tokens.chunk(MICRO)):
                loss = loss_of(model, im.to(device), tk.to(device)) * (len(im) / len(images))
                loss.backward()
                total += loss.item()
            host.step(optimizers)
            history.append(total)
            if len(history) % 5 == 0:
                print(f"step {len(history)} loss {total:.4f}")

    print(f"val loss: {evaluate(model, DataLoader(make_data(64), a.batch_size), device):.4f}")
    print(f"final loss: {history[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
