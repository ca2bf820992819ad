import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset, DistributedSampler


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


def get_args():
    parser = argparse.ArgumentParser(description="FSDP training of a small language model")
    for flag, default in [
        ("--epochs", 2), ("--batch-size", 16), ("--n-samples", 512), ("--seq-len", 64), ("--vocab-size", 512),
        ("--d-model", 128), ("--n-heads", 4), ("--n-layers", 4), ("--lr", 3e-4), ("--seed", 0), ("--out", "checkpoint.pt"),
    ]:
        parser.add_argument(flag, type=type(default), default=default)
    return parser.parse_args()


def main():
    args = get_args()
    rank = int(os.environ["RANK"])
    local_rank = int(os.environ["LOCAL_RANK"])
    world_size = int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(local_rank)
    device = torch.device("cuda", local_rank)
    dist.init_process_group("nccl", rank=rank, world_size=world_size)
    try:
        torch.manual_seed(args.seed)
        model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
        if rank == 0:
            print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

        dataset = NextTokenDataset(synthetic_rows(args.n_samples, args.seq_len, args.vocab_size, args.seed))
        sampler = DistributedSampler(dataset, world_size, rank, shuffle=True, seed=args.seed)
        loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler, drop_last=True)

        for epoch in range(args.epochs):
            t0, total = time.time(), 0.0
            for step, (x, y) in enumerate(loader):
                if step == 0:  # new epoch
                    sampler.set_epoch(epoch)
                x, y = x.to(device), y.to(device)
                loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                total += loss.item()
            mean = total / len(loader)
            if rank == 0:
                print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if rank == 0:
            torch.save({"model": state, "args": vars(args)}, args.out)
            print(f"saved {args.out}")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
