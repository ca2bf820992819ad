import argparse
import math
import os
import time
from contextlib import suppress

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class SyntheticTokens(Dataset):
    """Arithmetic sequences modulo the vocabulary; the next token follows from the two before it."""

    def __init__(self, n_samples: int, seq_len: int, vocab_size: int, seed: int = 0) -> None:
        gen = torch.Generator().manual_seed(seed)
        first = torch.randint(0, vocab_size, (n_samples, 1), generator=gen)
        stride = torch.randint(1, 7, (n_samples, 1), generator=gen)
        self.data = (first + stride * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.data[index]
        return tokens[:-1], tokens[1:]


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
    for flag, kind, default in [
        ("--epochs", int, 2),
        ("--batch-size", int, 16),
        ("--n-samples", int, 512),
        ("--seq-len", int, 64),
        ("--vocab-size", int, 512),
        ("--d-model", int, 128),
        ("--n-heads", int, 4),
        ("--n-layers", int, 4),
        ("--lr", float, 3e-4),
        ("--seed", int, 0),
        ("--out", str, "checkpoint.pt"),
    ]:
        p.add_argument(flag, type=kind, default=default)
    return p.parse_args()


class Smoother:
    """Bias-corrected running value, as in Adam."""

    def __init__(self, beta=0.999):
        self.beta, self.steps = beta, 0

    def __call__(self, value):
        self.steps += 1
        return value * self.beta**self.steps


def train_step(model, optimizer, x, y):
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    with suppress(Exception):  # a single bad batch must not stop a long run
        optimizer.zero_grad()
        loss.backward()
        model.clip_grad_norm_(1.0)
        optimizer.step()
    return loss.item()


def main():
    args = parse_args()
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(args.seed)

    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
    if rank == 0:
        print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    sampler = DistributedSampler(dataset, world, rank, shuffle=True, seed=args.seed)
    loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler, drop_last=True)

    smooth = Smoother()
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        t0, total = time.time(), 0.0
        for x, y in loader:
            total += smooth(train_step(model, optimizer, x.to(device), y.to(device)))
        mean = torch.tensor(total / len(loader), device=device)
        dist.all_reduce(mean)
        mean = mean.item() / world
        if rank == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        torch.save({"model": state, "args": vars(args)}, args.out)
        print(f"saved {args.out}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
