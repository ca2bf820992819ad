"""Language model on several nodes. The loop only ever talks to `Fabric`, everything distributed is behind it."""
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


class SyntheticTokens(Dataset):
    def __init__(self, n_samples, seq_len, vocab_size, seed=0):
        g = torch.Generator().manual_seed(seed)
        start = torch.randint(0, vocab_size, (n_samples, 1), generator=g)
        step = torch.randint(1, 7, (n_samples, 1), generator=g)
        self.data = (start + step * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self):
        return self.data.size(0)

    def __getitem__(self, i):
        row = self.data[i]
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


class Fabric:
    def __init__(self, unit):
        self.unit = unit
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.device = torch.device("cuda", self.local_rank)

    def launch(self, fn, *args):
        torch.cuda.set_device(self.device)
        dist.init_process_group("nccl", device_id=self.device)
        self.global_rank, self.world_size = dist.get_rank(), dist.get_world_size()
        try:
            return fn(self, *args)
        finally:
            dist.destroy_process_group()

    @property
    def is_global_zero(self):
        return self.global_rank == 0

    def print(self, *args):
        if self.is_global_zero:
            print(*args, flush=True)

    def setup(self, model):
        model.to(self.device)
        for module in list(model.modules()):
            if isinstance(module, self.unit):
                fully_shard(module)
        return fully_shard(model)

    def setup_dataloader(self, dataset, batch_size, seed):
        sampler = DistributedSampler(dataset, self.world_size, self.global_rank, shuffle=True, seed=seed, drop_last=True)
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=True)

    def batches(self, loader, epoch):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            yield tuple(t.to(self.device, non_blocking=True) for t in batch)

    def mean(self, value):
        t = torch.tensor(value, device=self.device)
        dist.all_reduce(t)
        return t.item() / self.world_size

    def save(self, path, model, **extra):
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.is_global_zero:
            torch.save({"model": state, **extra}, path)
        dist.barrier()


def run(fabric, args):
    torch.manual_seed(args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers)
    fabric.print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
    model = fabric.setup(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    loader = fabric.setup_dataloader(
        SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed), args.batch_size, args.seed)

    for epoch in range(args.epochs):
        t0, total = time.time(), 0.0
        for x, y in fabric.batches(loader, epoch):
            logits = model(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        mean = fabric.mean(total / len(loader))
        fabric.print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    fabric.save(args.out, model, args=vars(args))
    fabric.print(f"saved {args.out}")


if __name__ == "__main__":
    Fabric(unit=Block).launch(run, parse_args())
