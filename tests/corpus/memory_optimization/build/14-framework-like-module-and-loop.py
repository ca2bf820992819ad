import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
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


class Attention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (C // self.n_heads) ** 0.5
        mask = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(mask, float("-inf")).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = Attention(d_model, n_heads)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        if torch.is_grad_enabled():
            return x + checkpoint(lambda h: self.mlp(self.ln2(h)), x, use_reentrant=False)
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


class MemoryModule(nn.Module):
    """What a training framework would ask of a module: steps, optimizers, loaders."""

    accumulate = 2

    def __init__(self, args, device):
        super().__init__()
        self.args, self.target = args, device
        self.model = Captioner(d_model=args.d_model, n_layers=args.n_layers)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.args.lr, fused=True)

    def train_dataloader(self):
        return DataLoader(CaptionData(), batch_size=self.args.batch_size, shuffle=True, drop_last=True,
                          pin_memory=self.target.type == "cuda")

    def val_dataloader(self):
        return DataLoader(CaptionData(64), batch_size=self.args.batch_size)

    def transfer(self, batch):
        return tuple(t.to(self.target, non_blocking=True) for t in batch)

    def shared_step(self, batch):
        images, tokens = batch
        logits = self.model(images, tokens[:, :-1])
        return F.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens[:, 1:].reshape(-1))

    def training_step(self, batch):
        return self.shared_step(batch) / self.accumulate

    @torch.inference_mode()
    def validation_step(self, batch):
        return self.shared_step(batch).item()


class Loop:
    def __init__(self, module):
        self.module = module
        self.on_gpu = module.target.type == "cuda"
        self.scaler = torch.amp.GradScaler(module.target.type, enabled=self.on_gpu)
        self.history = []

    def precision(self):
        return torch.amp.autocast(self.module.target.type, dtype=torch.float16, enabled=self.on_gpu)

    def batches(self):
        while True:
            for batch in self.module.train_dataloader():
                yield self.module.transfer(batch)

    def fit(self, steps):
        optimizer = self.module.configure_optimizers()
        stream = self.batches()
        for step in range(1, steps + 1):
            total = 0.0
            for _ in range(self.module.accumulate):
                with self.precision():
                    loss = self.module.training_step(next(stream))
                self.scaler.scale(loss).backward()
                total += loss.item()
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.scaler.step(optimizer)
            self.scaler.update()
            optimizer.zero_grad()
            self.history.append(total)
            if step % 5 == 0:
                print(f"step {step} loss {total:.4f}")

    def validate(self, limit=4):
        self.module.eval()
        seen = []
        for i, batch in enumerate(self.module.val_dataloader()):
            if i == limit:
                break
            with self.precision():
                seen.append(self.module.validation_step(self.module.transfer(batch)))
        self.module.train()
        return sum(seen) / len(seen)


def main():
    args = parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loop = Loop(MemoryModule(args, device).to(device))
    loop.fit(args.steps)
    print(f"val loss: {loop.validate():.4f}")
    print(f"final loss: {loop.history[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
