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

def describe(model):
    """Parameters by kind of module, largest first, and their sum."""
    table = {}
    for module in model.modules():
        kind = type(module).__name__
        table[kind] = table.get(kind, 0) + sum(p.numel() for p in module.parameters())
    rows = sorted(table.items(), key=lambda item: -item[1])
    return rows, sum(table.values())


class Run:
    def __init__(self, args):
        self.args = args
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.device = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(self.device)
        dist.init_process_group("nccl")
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        dist.destroy_process_group()

    def print(self, text):
        if self.rank == 0:
            print(text, flush=True)

    def model(self):
        a = self.args
        torch.manual_seed(a.seed)
        model = TransformerLM(a.vocab_size, a.d_model, a.n_heads, a.n_layers).to(self.device)
        rows, total = describe(model)
        for kind, count in rows:
            if count:
                self.print(f"  {kind:<16}{count:>12}")
        self.print(f"Total parameters: {total}")
        for block in model.blocks:
            fully_shard(block)
        return fully_shard(model)

    def data(self):
        a = self.args
        dataset = SyntheticTokens(a.n_samples, a.seq_len, a.vocab_size, a.seed)
        sampler = DistributedSampler(dataset, self.world, self.rank, shuffle=True, seed=a.seed)
        return DataLoader(dataset, a.batch_size, sampler=sampler, drop_last=True)

    def train(self, model, loader):
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.args.lr)
        for epoch in range(self.args.epochs):
            loader.sampler.set_epoch(epoch)
            t0, total = time.time(), torch.zeros((), device=self.device)
            for x, y in loader:
                logits = model(x.to(self.device))
                loss = F.cross_entropy(logits.flatten(0, 1), y.to(self.device).flatten())
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                total += loss.detach()
            dist.all_reduce(total)
            mean = total.item() / len(loader) / self.world
            self.print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    def save(self, model):
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.rank == 0:
            torch.save({"model": state, "args": vars(self.args)}, self.args.out)
        dist.barrier()
        self.print(f"saved {self.args.out}")


def main():
    with Run(parse_args()) as run:
        model = run.model()
        run.train(model, run.data())
        run.save(model)


if __name__ == "__main__":
    main()
