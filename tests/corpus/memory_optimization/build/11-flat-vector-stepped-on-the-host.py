"""ZeRO-offload for one card: the fp32 master vector and Adam's two moments are flat tensors in host memory."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset


def dataset(n):
    g = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, 32, 32, generator=g)
    tokens = (torch.randint(0, 2000, (n, 1), generator=g) + torch.arange(33)) % 2000
    return TensorDataset(images, tokens)


class HostAdamW:
    """Gradients go down, weights come up; nothing of the optimizer is ever on the card."""

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        self.params = list(params)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        with torch.no_grad():
            self.master = parameters_to_vector(p.cpu() for p in self.params).clone()
        self.m, self.v, self.t = torch.zeros_like(self.master), torch.zeros_like(self.master), 0

    @torch.no_grad()
    def step(self, max_norm=1.0):
        g = torch.cat([p.grad.flatten().to("cpu", torch.float32) for p in self.params])
        self.release()
        g.mul_((max_norm / (g.norm() + 1e-6)).clamp(max=1.0))
        self.t += 1
        b1, b2 = self.betas
        self.master.mul_(1 - self.lr * self.weight_decay)
        self.m.lerp_(g, 1 - b1)
        self.v.mul_(b2).addcmul_(g, g, value=1 - b2)
        root = (self.v / (1 - b2**self.t)).sqrt_().add_(self.eps)
        self.master.addcdiv_(self.m, root, value=-self.lr / (1 - b1**self.t))
        for p, w in zip(self.params, self.master.split([p.numel() for p in self.params])):
            p.copy_(w.view_as(p))

    def release(self):
        for p in self.params:
            p.grad = None


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.qkv, self.proj = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.ln2, self.fc, self.out = nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = torch.full((t, t), float("-inf"), device=x.device).triu(1)
        att = torch.baddbmm(bias.expand(b * self.heads, t, t), q.flatten(0, 1), k.flatten(0, 1).mT,
                            alpha=(c // self.heads) ** -0.5).softmax(-1)
        x = x + self.proj((att @ v.flatten(0, 1)).view(b, self.heads, t, -1).transpose(1, 2).reshape(b, t, c))
        return x + self.out(F.gelu(self.fc(self.ln2(x))))


class Captioner(nn.Module):
    def __init__(self, d, layers, vocab=2000, heads=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, d // 2, 3, 2, 1), nn.BatchNorm2d(d // 2), nn.ReLU(),
                                  nn.Conv2d(d // 2, d, 3, 2, 1), nn.ReLU())
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(max_len, d)
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(layers))
        self.ln_f, self.head = nn.LayerNorm(d), nn.Linear(d, vocab)

    def forward(self, images, tokens, recompute):
        prefix = self.stem(images).flatten(2).mT
        x = torch.cat([prefix, self.tok(tokens)], 1)
        x = x + self.pos.weight[: x.size(1)]
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return self.ln_f(x[:, prefix.size(1):])

    def nll(self, h, target):
        return F.cross_entropy(self.head(h), target, reduction="sum")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--steps", type=int, default=50)
    ap.add_argument("--batch-size", type=int, default=16)
    ap.add_argument("--d-model", type=int, default=128)
    ap.add_argument("--n-layers", type=int, default=4)
    ap.add_argument("--lr", type=float, default=3e-4)
    opt = ap.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Captioner(opt.d_model, opt.n_layers).to(device)
    adam = HostAdamW(model.parameters(), opt.lr)
    train = DataLoader(dataset(256), opt.batch_size, shuffle=True, drop_last=True)

    def loss_of(batch, recompute):
        images, tokens = batch[0].to(device), batch[1].to(device)
        hidden, target = model(images, tokens[:, :-1], recompute).flatten(0, 1), tokens[:, 1:].flatten()
        total = 0.0
        for h, t in zip(hidden.split(96), target.split(96)):  # the logits of 96 tokens at a time
            total = total + (checkpoint(model.nll, h, t, use_reentrant=False) if recompute else model.nll(h, t))
        return total / len(target)

    losses = []
    while len(losses) < opt.steps:
        for batch in train:
            if len(losses) == opt.steps:
                break
            loss = loss_of(batch, recompute=True)
            loss.backward()
            adam.step()
            losses.append(loss.item())
            if len(losses) % 5 == 0:
                print(f"step {len(losses)} loss {losses[-1]:.4f}")

    model.eval()
    with torch.inference_mode():
        val = [loss_of(b, recompute=False).item() for b, _ in zip(DataLoader(dataset(64), opt.batch_size), range(4))]
    print(f"val loss: {sum(val) / len(val):.4f}")
    print(f"final loss: {losses[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
