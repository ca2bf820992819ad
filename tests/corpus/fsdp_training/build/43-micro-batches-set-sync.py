import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed import init_device_mesh
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


class TransformerBlock(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.h = heads
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.proj = nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).split(d, dim=-1)
        q, k, v = (z.reshape(b, t, self.h, d // self.h).transpose(1, 2) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size, d_model, n_heads, n_layers, max_len=256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList()
        for _ in range(n_layers):
            self.blocks.append(TransformerBlock(d_model, n_heads))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        h = self.tok(tokens) + self.pos(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.blocks:
            h = layer(h)
        return self.head(self.ln_f(h))


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


def micro(x, y, size):
    """The batch in halves, so that activations of one half are alive at a time."""
    return list(zip(x.split(size), y.split(size), strict=True))


if __name__ == "__main__":
    args = parse_args()
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    device = torch.device("cuda", torch.cuda.current_device())
    mesh = init_device_mesh("cuda", (int(os.environ["WORLD_SIZE"]),), mesh_dim_names=("data",))  # sets up the group too
    if not dist.is_initialized():
        dist.init_process_group("nccl")
    replica, replicas = mesh.get_local_rank("data"), mesh.size()
    chief = dist.get_rank() == 0

    torch.manual_seed(args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
    for layer in model.blocks:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if chief:
        print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")

    dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    sampler = DistributedSampler(dataset, num_replicas=replicas, rank=replica, shuffle=True, seed=args.seed)
    loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=args.lr, total_steps=max(2, args.epochs * len(loader)), pct_start=0.1
    )

    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        t0, total = time.time(), torch.zeros((), device=device)
        for x, y in loader:
            parts = micro(x.to(device), y.to(device), max(1, args.batch_size // 2))
            for i, (xs, ys) in enumerate(parts):
                model.set_requires_gradient_sync(i == len(parts) - 1)
                loss = F.cross_entropy(model(xs).flatten(0, 1), ys.flatten()) * (len(xs) / len(x))
                loss.backward()
                total += loss.detach()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        dist.all_reduce(total)
        mean = total.item() / (len(loader) * replicas)
        if chief:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if chief:
        torch.save({"model": state, "args": vars(args)}, args.out)
        print(f"saved {args.out}")
    dist.barrier()
    dist.destroy_process_group()
