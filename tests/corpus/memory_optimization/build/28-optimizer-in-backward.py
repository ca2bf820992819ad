"""Each parameter is stepped and its gradient freed as soon as it is ready, inside backward."""
import argparse
import contextlib

import torch
import torch.nn as nn
import torch.nn.functional as F
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
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.ln1, self.qkv, self.proj = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.ln2, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.h, d // self.h).permute(2, 0, 3, 1, 4).unbind(0)
        with torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.FLASH_ATTENTION, torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION, torch.nn.attention.SDPBackend.MATH]):
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(a.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(d_model // 2),
            nn.ReLU(),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens):
        prefix = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x[:, prefix.size(1):]))


def step_in_backward(model, lr):
    optimizers = {p: torch.optim.AdamW([p], lr=lr, foreach=False) for p in model.parameters()}

    def hook(p):
        torch.nn.utils.clip_grad_norm_([p], 0.3)
        optimizers[p].step()
        p.grad = None

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)


def main():
    p = argparse.ArgumentParser()
    for name, kind, default in [("steps", int, 50), ("batch-size", int, 16), ("d-model", int, 128), ("n-layers", int, 4), ("lr", float, 3e-4)]:
        p.add_argument(f"--{name}", type=kind, default=default)
    args = p.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True)
    val_loader = DataLoader(CaptionData(64), batch_size=args.batch_size)
    model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(device)
    step_in_backward(model, args.lr)

    def forward_loss(images, tokens):
        images, tokens = images.to(device), tokens.to(device)
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.amp.autocast(device.type, torch.bfloat16))
            logits = model(images, tokens[:, :-1])
            return F.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens[:, 1:].reshape(-1))

    history = []
    while len(history) < args.steps:
        for images, tokens in loader:
            loss = forward_loss(images, tokens)
            loss.backward()
            history.append(loss.detach())
            if len(history) % 5 == 0:
                print(f"step {len(history)} loss {history[-1]}")
            if len(history) == args.steps:
                break

    model.eval()
    with torch.no_grad():
        val = torch.stack([forward_loss(*batch) for batch, _ in zip(val_loader, range(4))]).mean()
    print(f"val loss: {val:.4f}")
    print(f"final loss: {history[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
