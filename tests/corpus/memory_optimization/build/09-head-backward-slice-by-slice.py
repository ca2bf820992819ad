# Rows of the output head go forward and backward two sequences at a time, and only d(loss)/d(hidden) is kept of them.
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
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


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attend(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))

    def forward(self, x):
        x = x + self.attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Body(nn.Module):
    def __init__(self, vocab_size, d_model, n_heads, n_layers, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(d_model // 2),
            nn.ReLU(),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.Sequential(*[Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)

    def forward(self, images, tokens):
        prefix = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = self.blocks(x + self.pos.weight[: x.size(1)])
        return self.ln_f(x[:, prefix.size(1):])


def train_step(body, head, images, tokens, device, rows=2):
    """Backward of the whole batch; returns the mean loss as a number."""
    targets = tokens[:, 1:]
    with torch.autocast(device.type, torch.bfloat16):
        hidden = body(images, tokens[:, :-1])
    leaf = hidden.detach().requires_grad_()
    total = 0.0
    for h, y in zip(leaf.split(rows), targets.split(rows)):
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(head(h).flatten(0, 1), y.flatten(), reduction="sum") / targets.numel()
        loss.backward()
        total += loss.item()
    hidden.backward(leaf.grad)
    return total


@torch.inference_mode()
def evaluate(body, head, loader, device, max_batches=4):
    body.eval()
    losses = []
    for images, tokens in loader:
        tokens = tokens.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = head(body(images.to(device), tokens[:, :-1]))
            losses.append(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item())
        if len(losses) == max_batches:
            break
    body.train()
    return sum(losses) / len(losses)


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
    body = Body(2000, args.d_model, 4, args.n_layers).to(device)
    head = nn.Linear(args.d_model, 2000).to(device)
    params = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.RMSprop(params, lr=args.lr, foreach=False)     # one moment, one tensor at a time

    values = []
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        while len(values) < args.steps:
            for images, tokens in loader:
                if len(values) == args.steps:
                    break
                optimizer.zero_grad()
                values.append(train_step(body, head, images.to(device), tokens.to(device), device))
                torch.nn.utils.clip_grad_norm_(params, 1.0)
                optimizer.step()
                if len(values) % 5 == 0:
                    print(f"step {len(values)} loss {values[-1]:.4f}")
        print(f"val loss: {evaluate(body, head, val_loader, device):.4f}")
    print(f"final loss: {values[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
