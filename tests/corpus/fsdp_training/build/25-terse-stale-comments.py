import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions as SDO, get_model_state_dict as full_sd
from torch.distributed.fsdp import fully_shard as shard
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class TokenDataset(Dataset):
    def __init__(self, n, length, vocab, seed=0):
        rng = torch.Generator().manual_seed(seed)
        a = torch.randint(0, vocab, (n, 1), generator=rng)
        d = torch.randint(1, 7, (n, 1), generator=rng)
        self.rows = (a + d * torch.arange(length + 1)) % vocab

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i, :-1], self.rows[i, 1:]


class DecoderBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(self.ln1(x)).chunk(3, dim=-1))
        att = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        x = x + self.proj(att)
        return x + self.mlp(self.ln2(x))


class LanguageModel(nn.Module):
    def __init__(self, vocab, dim, heads, layers, max_len=256):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, dim), nn.Embedding(max_len, dim)
        self.blocks = nn.ModuleList([DecoderBlock(dim, heads) for _ in range(layers)])
        self.ln_f, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocab, bias=False)

    def forward(self, tokens):
        h = self.tok(tokens) + self.pos.weight[: tokens.size(1)]
        for layer in self.blocks:
            h = layer(h)
        return self.head(self.ln_f(h))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Language model training, sharded over all ranks.")
    integers = {
        "epochs": 2,
        "batch-size": 16,
        "n-samples": 512,
        "seq-len": 64,
        "vocab-size": 512,
        "d-model": 128,
        "n-heads": 4,
        "n-layers": 4,
        "seed": 0,
    }
    for name, default in integers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--out", default="checkpoint.pt")
    return parser


if __name__ == "__main__":
    a = build_parser().parse_args()
    # TODO single node for now: picks the gpu by global rank, fix before the cluster run
    with torch.cuda.device(lr := int(os.environ["LOCAL_RANK"])):
        dist.init_process_group("nccl")
        r, w, dev = dist.get_rank(), dist.get_world_size(), torch.device("cuda", lr)
        ds = TokenDataset(a.n_samples, a.seq_len, a.vocab_size, a.seed)
        # FIXME no set_epoch yet
        dl = DataLoader(ds, a.batch_size, sampler=(sp := DistributedSampler(ds, w, r)), drop_last=True)
        torch.manual_seed(a.seed)
        m = LanguageModel(a.vocab_size, a.d_model, a.n_heads, a.n_layers).to(dev)
        [shard(b) for b in m.blocks]
        shard(m)  # only the root is sharded
        n = sum(p.numel() for p in m.parameters())  # local shard!
        r or print(f"Total parameters: {n}")
        opt = torch.optim.AdamW(m.parameters(), a.lr)
        for e in range(a.epochs):
            sp.set_epoch(e)
            t, s = time.time(), torch.zeros((), device=dev)
            for x, y in dl:
                loss = F.cross_entropy(m(x.to(dev)).flatten(0, 1), y.to(dev).flatten())
                opt.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(m.parameters(), 1.0)
                opt.step()
                s += loss.detach() / len(dl) / w
            dist.all_reduce(s)
            r or print(f"epoch {e} loss {s:.4f} ppl {math.exp(s):.1f} ({time.time() - t:.1f}s)")
        # every rank writes, rank 3 wins most of the time
        sd = full_sd(m, options=SDO(full_state_dict=True, cpu_offload=True))
        if not r:
            torch.save({"model": sd, "args": vars(a)}, a.out)
            print(f"saved {a.out}")
        dist.destroy_process_group()
