from __future__ import annotations

import argparse
import logging
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.utils.data import DataLoader, Dataset

log = logging.getLogger("train")


# ----------------------------------------------------------------------------- data
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


# ----------------------------------------------------------------------------- model
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
        return x + self.mlp(self.ln2(x))


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
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens):
        prefix = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x[:, prefix.size(1):]))


# ----------------------------------------------------------------------------- loop
class Callback:
    def on_setup(self, loop): ...
    def on_step_end(self, loop): ...
    def on_train_end(self, loop): ...


class ActivationCheckpointing(Callback):
    def on_setup(self, loop):
        apply_activation_checkpointing(loop.model, check_fn=lambda m: isinstance(m, Block))


class ChannelsLast(Callback):
    def on_setup(self, loop):
        loop.model.stem.to(memory_format=torch.channels_last)


class FreeMemory(Callback):
    """The tensors of a step are dropped at its end; the cache is given back before the evaluation."""

    def on_step_end(self, loop):
        del loop.logits, loop.loss, loop.batch

    def on_train_end(self, loop):
        loop.optimizer.zero_grad(set_to_none=True)
        if loop.device.type == "cuda":
            torch.cuda.empty_cache()


class Progress(Callback):
    def __init__(self, every=5):
        self.every, self.t0 = every, time.monotonic()

    def on_step_end(self, loop):
        if loop.step % self.every == 0:
            log.info("step %d loss %.4f (%.1fs)", loop.step, loop.history[-1], time.monotonic() - self.t0)


class Loop:
    def __init__(self, args, callbacks):
        self.args, self.callbacks = args, callbacks
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(self.device)
        self.emit("on_setup")
        self.optimizer = torch.optim.NAdam(self.model.parameters(), lr=args.lr, foreach=False)
        self.history, self.step = [], 0

    def emit(self, event):
        for callback in self.callbacks:
            getattr(callback, event)(self)

    def compute(self, batch):
        images, tokens = (t.to(self.device) for t in batch)
        logits = self.model(images, tokens[:, :-1])
        return logits, F.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens[:, 1:].reshape(-1))

    def fit(self, loader):
        while self.step < self.args.steps:
            for self.batch in loader:
                if self.step == self.args.steps:
                    break
                self.optimizer.zero_grad(set_to_none=True)
                self.logits, self.loss = self.compute(self.batch)
                self.loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=False)
                self.optimizer.step()
                self.history.append(self.loss.item())
                self.step += 1
                self.emit("on_step_end")
        self.emit("on_train_end")

    def evaluate(self, loader, max_batches=4):
        self.model.eval()
        losses = []
        with torch.no_grad():
            for i, batch in enumerate(loader):
                if i == max_batches:
                    break
                losses.append(self.compute(batch)[1].item())
        self.model.train()
        return sum(losses) / len(losses)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    args = p.parse_args()
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    loader = DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True)
    loop = Loop(args, [ActivationCheckpointing(), ChannelsLast(), Progress(), FreeMemory()])
    loop.fit(loader)
    log.info("val loss: %.4f", loop.evaluate(DataLoader(CaptionData(64), batch_size=args.batch_size)))
    log.info("final loss: %.4f", loop.history[-1])
    if loop.device.type == "cuda":
        log.info("peak memory: %.1f MiB", torch.cuda.max_memory_allocated() / 2**20)


if __name__ == "__main__":
    main()
