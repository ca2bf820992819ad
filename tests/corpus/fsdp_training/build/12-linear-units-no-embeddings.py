import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
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


class Run:
    """One training run on this process."""

    def __init__(self, args):
        self.args = args
        self.local_rank = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(self.local_rank)
        dist.init_process_group("nccl")
        self.first = dist.get_rank() == 0

    def __enter__(self):
        torch.manual_seed(self.args.seed)
        a = self.args
        model = TransformerLM(a.vocab_size, a.d_model, a.n_heads, a.n_layers).cuda()
        self.print(f"Total parameters: {self.size(model)}")
        self.model = FullyShardedDataParallel(
            model,
            # the linear layers hold nearly all of the weights
            auto_wrap_policy=ModuleWrapPolicy({nn.Linear}),
            device_id=self.local_rank,
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=a.lr)
        self.dataset = SyntheticTokens(a.n_samples, a.seq_len, a.vocab_size, a.seed)
        self.sampler = DistributedSampler(self.dataset, shuffle=True, seed=a.seed)
        self.loader = DataLoader(self.dataset, a.batch_size, sampler=self.sampler, num_workers=2)
        return self

    def __exit__(self, *error):
        dist.destroy_process_group()
        return False

    @staticmethod
    def size(model):
        # embeddings are left out, as is usual where model sizes are compared
        return sum(p.numel() for name, p in model.named_parameters() if not name.startswith(("tok", "pos")))

    def print(self, *words):
        if self.first:
            print(*words, flush=True)

    def epoch(self, number):
        self.sampler.set_epoch(number)
        t0, losses = time.time(), []
        for x, y in self.loader:
            logits = self.model(x.cuda())
            loss = F.cross_entropy(logits.flatten(0, 1), y.cuda().flatten())
            self.optimizer.zero_grad()
            loss.backward()
            self.model.clip_grad_norm_(1.0)
            self.optimizer.step()
            losses.append(loss.detach())
        mean = torch.stack(losses).mean()
        dist.all_reduce(mean, op=dist.ReduceOp.AVG)
        mean = mean.item()
        self.print(f"epoch {number} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    def save(self):
        config = FullStateDictConfig(rank0_only=True, offload_to_cpu=True)
        with FullyShardedDataParallel.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, config):
            weights = self.model.state_dict()
        if self.first:
            torch.save({"model": weights, "args": vars(self.args)}, self.args.out)
        self.print(f"saved {self.args.out}")


if __name__ == "__main__":
    with Run(parse_args()) as run:
        for number in range(run.args.epochs):
            run.epoch(number)
        run.save()
