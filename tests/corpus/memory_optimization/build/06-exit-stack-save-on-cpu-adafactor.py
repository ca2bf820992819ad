import argparse
from contextlib import ExitStack
from itertools import islice

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.graph import save_on_cpu
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


class CausalAttention(nn.Module):
    """Softmax attention; one head's scores at a time keep the score matrix small."""

    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads, self.scale = n_heads, (d_model // n_heads) ** -0.5
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        keep = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device).tril()
        heads = []
        for qh, kh, vh in zip(*(t.chunk(self.n_heads, dim=-1) for t in (q, k, v))):
            s = torch.where(keep, qh @ kh.mT * self.scale, float("-inf"))
            heads.append(s.softmax(-1).to(vh.dtype) @ vh)
        return self.proj(torch.cat(heads, dim=-1))


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1), nn.BatchNorm2d(d_model // 2), nn.ReLU(),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1), nn.ReLU())
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.attn = nn.ModuleList(nn.Sequential(nn.LayerNorm(d_model), CausalAttention(d_model, n_heads)) for _ in range(n_layers))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
            for _ in range(n_layers))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens):
        prefix = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for attn, mlp in zip(self.attn, self.mlp):
            x = x + attn(x)
            x = x + mlp(x)
        return self.head(self.ln_f(x[:, prefix.size(1):]))


def options():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    return p.parse_args()


class Session:
    def __init__(self, args):
        self.gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.loader = DataLoader(CaptionData(), args.batch_size, shuffle=True, drop_last=True, pin_memory=self.gpu)
        self.val_loader = DataLoader(CaptionData(64), args.batch_size)
        self.model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(self.device)
        self.optimizer = torch.optim.Adafactor(self.model.parameters(), lr=args.lr * 40)

    def memory_contexts(self):
        stack = ExitStack()
        stack.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
        if torch.is_grad_enabled():
            stack.enter_context(save_on_cpu(pin_memory=self.gpu))
        return stack

    def loss(self, images, tokens):
        images = images.to(self.device, non_blocking=True)
        tokens = tokens.to(self.device, non_blocking=True)
        with self.memory_contexts():
            logits = self.model(images, tokens[:, :-1])
            return F.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens[:, 1:].reshape(-1))

    def train(self, steps):
        done = 0
        while done < steps:
            for images, tokens in islice(self.loader, steps - done):
                self.optimizer.zero_grad()
                loss = self.loss(images, tokens)
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                done += 1
                yield done, loss.item()

    def validate(self):
        self.model.train(False)
        with torch.no_grad():
            return torch.stack([self.loss(*batch) for batch in islice(self.val_loader, 4)]).mean().item()


def main():
    args = options()
    torch.manual_seed(0)
    session = Session(args)
    value = None
    for step, value in session.train(args.steps):
        if step % 5 == 0:
            print(f"step {step} loss {value:.4f}")
    print(f"val loss: {session.validate():.4f}")
    print(f"final loss: {value:.4f}")
    if session.gpu:
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
