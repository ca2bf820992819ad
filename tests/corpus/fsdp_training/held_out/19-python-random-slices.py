import argparse
import math
import os
import random
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard


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


def make_rows(a):
    g = torch.Generator().manual_seed(a.seed)
    start = torch.randint(0, a.vocab_size, (a.n_samples, 1), generator=g)
    step = torch.randint(1, 7, (a.n_samples, 1), generator=g)
    return (start + step * torch.arange(a.seq_len + 1)) % a.vocab_size


def my_batches(rows, batch_size, epoch, seed, rank, world):
    """All ranks shuffle the same list, then everybody takes every world-th index, starting at its own rank."""
    order = list(range(len(rows)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    order = order[: len(order) // world * world]  # same length on every rank, or the last step hangs
    mine = order[rank::world]
    for i in range(0, len(mine) - batch_size + 1, batch_size):
        chunk = rows[mine[i:i + batch_size]]
        yield chunk[:, :-1], chunk[:, 1:]


a = parse_args()
LOCAL = int(os.environ["LOCAL_RANK"])
DEV = torch.device(f"cuda:{LOCAL}")
torch.cuda.set_device(DEV)
dist.init_process_group("nccl")
RANK, WORLD = dist.get_rank(), dist.get_world_size()
say = print if RANK == 0 else (lambda *args, **kw: None)

torch.manual_seed(a.seed)
net = TransformerLM(a.vocab_size, a.d_model, a.n_heads, a.n_layers).to(DEV)
say(f"Total parameters: {sum(p.numel() for p in net.parameters())}")
for b in net.blocks:
    fully_shard(b)
fully_shard(net)
opt = torch.optim.AdamW(net.parameters(), lr=a.lr)
rows = make_rows(a)

for epoch in range(a.epochs):
    t0 = time.time()
    acc = torch.zeros(2, device=DEV)
    for x, y in my_batches(rows, a.batch_size, epoch, a.seed, RANK, WORLD):
        loss = F.cross_entropy(net(x.to(DEV)).flatten(0, 1), y.to(DEV).flatten())
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        acc[0] += loss.detach()
        acc[1] += 1
    dist.all_reduce(acc)
    mean = (acc[0] / acc[1]).item()
    say(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

full = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
if RANK == 0:
    torch.save({"model": full, "args": vars(a)}, a.out)
say(f"saved {a.out}")
dist.destroy_process_group()
