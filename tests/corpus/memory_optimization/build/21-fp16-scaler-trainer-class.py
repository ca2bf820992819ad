import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset


@dataclass
class Config:
    steps: int
    batch_size: int
    d_model: int
    n_layers: int
    lr: float
    clip: float = 1.0

    @classmethod
    def from_cli(cls):
        parser = argparse.ArgumentParser()
        parser.add_argument("--steps", type=int, default=50)
        parser.add_argument("--batch-size", type=int, default=16)
        parser.add_argument("--d-model", type=int, default=128)
        parser.add_argument("--n-layers", type=int, default=4)
        parser.add_argument("--lr", type=float, default=3e-4)
        return cls(**vars(parser.parse_args()))


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


class FlashBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm_attn, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def attention(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=True)
        return self.proj(out.transpose(1, 2).flatten(2))

    def forward(self, x):
        x = x + self.attention(self.norm_attn(x))
        return x + self.mlp(self.norm_mlp(x))


class Captioner(nn.Module):
    def __init__(self, vocab=2000, dim=128, heads=4, layers=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, dim // 2, 3, 2, 1), nn.BatchNorm2d(dim // 2), nn.ReLU(), nn.Conv2d(dim // 2, dim, 3, 2, 1), nn.ReLU()
        )
        self.tok, self.pos = nn.Embedding(vocab, dim), nn.Embedding(max_len, dim)
        self.blocks = nn.Sequential(*(FlashBlock(dim, heads) for _ in range(layers)))
        self.ln_f, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocab)

    def forward(self, images, tokens):
        prefix = self.stem(images).flatten(2).mT
        x = torch.cat([prefix, self.tok(tokens)], 1)
        x = self.blocks(x + self.pos.weight[: x.size(1)])
        return self.head(self.ln_f(x[:, prefix.size(1):]))


def token_loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Trainer:
    def __init__(self, cfg):
        torch.manual_seed(0)
        self.cfg = cfg
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = Captioner(dim=cfg.d_model, layers=cfg.n_layers).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=cfg.lr, foreach=False)
        self.scaler = torch.amp.GradScaler(self.device.type)
        self.history = []

    def amp(self):
        return torch.autocast(device_type=self.device.type, dtype=torch.float16)

    def train_step(self, images, tokens):
        images, tokens = images.to(self.device), tokens.to(self.device)
        self.optimizer.zero_grad()
        with self.amp():
            loss = token_loss(self.model(images, tokens[:, :-1]), tokens[:, 1:])
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def fit(self, loader):
        step = 0
        while step < self.cfg.steps:
            for batch in loader:
                if step >= self.cfg.steps:
                    return
                self.history.append(self.train_step(*batch).item())
                step += 1
                if step % 5 == 0:
                    print(f"step {step} loss {self.history[-1]:.4f}")

    @torch.inference_mode()
    def evaluate(self, loader, max_batches=4):
        self.model.eval()
        total, n = 0.0, 0
        for images, tokens in loader:
            if n == max_batches:
                break
            images, tokens = images.to(self.device), tokens.to(self.device)
            with self.amp():
                total += token_loss(self.model(images, tokens[:, :-1]), tokens[:, 1:]).item()
            n += 1
        self.model.train()
        return total / n


if __name__ == "__main__":
    cfg = Config.from_cli()
    trainer = Trainer(cfg)
    trainer.fit(DataLoader(CaptionData(), batch_size=cfg.batch_size, shuffle=True, drop_last=True))
    print(f"val loss: {trainer.evaluate(DataLoader(CaptionData(64), batch_size=cfg.batch_size)):.4f}")
    print(f"final loss: {trainer.history[-1]:.4f}")
    if trainer.device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")
