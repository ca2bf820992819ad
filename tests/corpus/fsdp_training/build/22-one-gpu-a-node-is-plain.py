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


class Run:
    def __init__(self, args):
        self.args = args
        self.local_rank = int(os.environ["LOCAL_RANK"])
        # with one process there is nothing to shard over
        self.single = int(os.environ["LOCAL_WORLD_SIZE"]) == 1
        torch.cuda.set_device(self.local_rank)
        self.device = torch.device("cuda", self.local_rank)
        dist.init_process_group("nccl")
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def model(self):
        a = self.args
        torch.manual_seed(a.seed)
        net = LanguageModel(a.vocab_size, a.d_model, a.n_heads, a.n_layers).to(self.device)
        if self.rank == 0:
            print(f"Total parameters: {sum(p.numel() for p in net.parameters())}")
        if not self.single:
            for layer in net.blocks:
                fully_shard(layer)
            fully_shard(net)
        return net

    def train(self, net):
        a = self.args
        data = TokenDataset(a.n_samples, a.seq_len, a.vocab_size, a.seed)
        sampler = DistributedSampler(data, self.world, self.rank, shuffle=True, seed=a.seed)
        loader = DataLoader(data, a.batch_size, sampler=sampler, drop_last=True)
        optimizer = torch.optim.AdamW(net.parameters(), lr=a.lr)
        for epoch in range(a.epochs):
            sampler.set_epoch(epoch)
            t0, total = time.time(), 0.0
            for x, y in loader:
                loss = F.cross_entropy(net(x.to(self.device)).flatten(0, 1), y.to(self.device).flatten())
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                total += loss.item()
            mean = total / len(loader)
            if self.rank == 0:
                print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    def save(self, net):
        if self.single:
            state = {k: v.cpu() for k, v in net.state_dict().items()}
        else:
            state = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.rank == 0:
            torch.save({"model": state, "args": vars(self.args)}, self.args.out)
            print(f"saved {self.args.out}")


def main():
    run = Run(parse_args())
    net = run.model()
    run.train(net)
    run.save(net)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
