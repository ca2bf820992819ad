#!/usr/bin/env python
# Usage: torchrun --nnodes $N --nproc_per_node $M --rdzv-backend c10d --rdzv-endpoint $HOST:29500 train.py [options]
import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from contextlib import contextmanager

import torch.distributed.checkpoint.state_dict as dcp_state
from torch.distributed import fsdp
from torch.utils import data as tud


def synthetic_rows(n_samples, seq_len, vocab_size, seed=0):
    """Arithmetic sequences modulo the vocabulary, as in the single-GPU script."""
    gen = torch.Generator().manual_seed(seed)
    start = torch.randint(0, vocab_size, (n_samples, 1), generator=gen)
    step = torch.randint(1, 7, (n_samples, 1), generator=gen)
    return (start + step * torch.arange(seq_len + 1)) % vocab_size


class NextTokenDataset(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return row[:-1], row[1:]


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size=512, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--epochs", type=int, default=2)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--n-samples", type=int, default=512)
    p.add_argument("--seq-len", type=int, default=64)
    p.add_argument("--vocab-size", type=int, default=512)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-heads", type=int, default=4)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=str, default="checkpoint.pt")
    return p.parse_args()


ACCUMULATE = 1  # micro batches in a step; raise it for models that do not fit


@contextmanager
def distributed():
    gpu = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(gpu)
    dist.init_process_group("nccl")
    try:
        yield torch.device("cuda", gpu)
    finally:
        dist.destroy_process_group()


def is_rank0():
    return dist.get_rank() == 0


def fit(args, device):
    torch.manual_seed(args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers)
    model.to(device)
    if is_rank0():
        print("Total parameters:", sum(p.numel() for p in model.parameters()))
    for block in model.blocks:
        fsdp.fully_shard(block)
    fsdp.fully_shard(model)

    corpus = NextTokenDataset(synthetic_rows(args.n_samples, args.seq_len, args.vocab_size, args.seed))
    share = tud.DistributedSampler(corpus, shuffle=True, seed=args.seed)
    loader = tud.DataLoader(corpus, batch_size=args.batch_size, sampler=share, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    for epoch in range(args.epochs):
        share.set_epoch(epoch)
        t0, losses = time.time(), []
        for i, (x, y) in enumerate(loader, start=1):
            last = i % ACCUMULATE == 0 or i == len(loader)
            model.set_requires_gradient_sync(last)
            loss = F.cross_entropy(model(x.to(device)).flatten(0, 1), y.to(device).flatten())
            (loss / ACCUMULATE).backward()
            losses.append(loss.detach())
            if last:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        mean = torch.stack(losses).mean()
        dist.all_reduce(mean)
        mean = mean.item() / dist.get_world_size()
        if is_rank0():
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")
    return model


def export(model, args):
    options = dcp_state.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = dcp_state.get_model_state_dict(model, options=options)
    if is_rank0():
        torch.save({"model": weights, "args": vars(args)}, args.out)
        print(f"saved {args.out}")


if __name__ == "__main__":
    arguments = parse_args()
    with distributed() as cuda:
        export(fit(arguments, cuda), arguments)
