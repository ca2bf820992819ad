import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint.state_dict as dcsd
import torch.distributed.fsdp as fsdp
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset


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

    def forward(self, tokens, targets):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.ln_f(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class RankBatches:
    """Batches of indices for one rank: blocks of a permutation that all ranks draw alike, another one each epoch."""

    def __init__(self, n, batch_size, seed):
        self.n, self.batch_size, self.seed, self.epoch = n, batch_size, seed, 0
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def __len__(self):
        return math.ceil(self.n // self.world / self.batch_size)

    def __iter__(self):
        g = torch.Generator()
        g.manual_seed(hash((self.seed, self.epoch)) % 2**31)
        share = self.n // self.world
        mine = torch.randperm(self.n, generator=g)[self.rank * share : (self.rank + 1) * share].tolist()
        return iter(BatchSampler(mine, self.batch_size, drop_last=False))


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


def build(args, device):
    torch.manual_seed(args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
    size = sum(p.numel() for p in model.parameters())
    fsdp.fully_shard([model.head, model.ln_f], reshard_after_forward=False)
    model.blocks.apply(lambda m: fsdp.fully_shard(m) if type(m) is Block else None)
    fsdp.fully_shard(model)
    return model, size


def fit(model, batches, loader, args, device, log):
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    for batches.epoch in range(args.epochs):
        t0 = time.time()
        running = 0.0
        for x, y in loader:
            loss = model(x.to(device), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            running = running + loss.detach()
        mean = running / len(loader)
        dist.all_reduce(mean)
        mean = mean.item() / dist.get_world_size()
        log(f"epoch {batches.epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")


def main():
    args = parse_args()
    device = torch.device("cuda", int(os.getenv("LOCAL_RANK")))
    torch.cuda.set_device(device)
    dist.init_process_group(backend="nccl")

    def log(message):
        dist.get_rank() or print(message, flush=True)

    model, size = build(args, device)
    log(f"Total parameters: {size}")
    dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    batches = RankBatches(len(dataset), args.batch_size, args.seed)
    fit(model, batches, DataLoader(dataset, batch_sampler=batches), args, device, log)

    options = dcsd.StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = dcsd.get_model_state_dict(model, options=options)
    if dist.get_rank() == 0:
        torch.save({"model": state, "args": vars(args)}, args.out)
    log(f"saved {args.out}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
