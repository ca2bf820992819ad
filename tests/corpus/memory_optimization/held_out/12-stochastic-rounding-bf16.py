import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

def round_stochastic_(p, value):
    """Write fp32 `value` into bf16 `p`, rounding up with the probability of the part that is cut off."""
    bits = value.view(torch.int32)
    bits.add_(torch.randint_like(bits, 1 << 16)).bitwise_and_(-65536)
    p.copy_(bits.view(torch.float32))


class Bf16Adam(torch.optim.Optimizer):
    def __init__(self, params, lr, beta1=0.9, beta2=0.99, eps=1e-6):
        super().__init__(params, dict(lr=lr, beta1=beta1, beta2=beta2, eps=eps))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (q for q in group["params"] if q.grad is not None):
                s = self.state[p]
                if not s:
                    s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))  # bf16, like the weights
                s["t"] += 1
                g = p.grad.float()
                m = s["m"].float().lerp_(g, 1 - group["beta1"])
                v = s["v"].float().lerp_(g * g, 1 - group["beta2"])
                s["m"].copy_(m)
                s["v"].copy_(v)
                m /= 1 - group["beta1"] ** s["t"]
                v /= 1 - group["beta2"] ** s["t"]
                round_stochastic_(p, p.float().sub_(group["lr"] * m / (v.sqrt() + group["eps"])))


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
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


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


class ConvStem(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(d_model // 2),
            nn.ReLU(),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1),
            nn.ReLU(),
        )

    def forward(self, images):
        return self.net(images).flatten(2).transpose(1, 2)


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.stem = ConvStem(d_model)
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens):
        prefix = self.stem(images)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for block in self.blocks:
            x = block(x)
        x = x[:, prefix.size(1):]
        return self.head(self.ln_f(x))


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    return p.parse_args()


def sliced_loss(body, head, images, tokens, train, size=64):
    """Head and loss over `size` tokens at a time. With `train`, gradients are left in body and head."""
    hidden = body(images, tokens[:, :-1]).flatten(0, 1)
    leaf = hidden.detach().requires_grad_(train)
    target = tokens[:, 1:].flatten()
    total = 0.0
    for h, t in zip(leaf.split(size), target.split(size)):
        part = F.cross_entropy(head(h).float(), t, reduction="sum") / target.numel()
        if train:
            part.backward()
        total += part.item()
    if train:
        hidden.backward(leaf.grad)
    return total


@torch.no_grad()
def evaluate(body, head, loader, device, max_batches=4):
    body.eval()
    acc = n = 0
    for images, tokens in loader:
        if n == max_batches:
            break
        images, tokens = images.to(device, torch.bfloat16), tokens.to(device)
        acc += sliced_loss(body, head, images, tokens, train=False)
        n += 1
    body.train()
    return acc / n


def main():
    args = parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True)
    val_loader = DataLoader(CaptionData(64), batch_size=args.batch_size)
    model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(device).bfloat16()
    params = list(model.parameters())
    head, model.head = model.head, nn.Identity()  # the body gives hidden states now
    optimizer = Bf16Adam(params, lr=args.lr)

    history, step = [], 0
    while step < args.steps:
        for images, tokens in loader:
            if step == args.steps:
                break
            images, tokens = images.to(device, torch.bfloat16), tokens.to(device)
            optimizer.zero_grad()
            history.append(sliced_loss(model, head, images, tokens, train=True))
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            step += 1
            if step % 5 == 0:
                print(f"step {step} loss {history[-1]:.4f}")

    print(f"val loss: {evaluate(model, head, val_loader, device):.4f}")
    print(f"final loss: {history[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
