import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from functools import partial

from torch.distributed.fsdp import FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
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
    """Pre-norm transformer block."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, time_steps, width = x.shape
        q, k, v = (
            part.view(batch, time_steps, self.n_heads, width // self.n_heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, time_steps, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size: int = 512, d_model: int = 128, n_heads: int = 4, n_layers: int = 4, max_len: int = 256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.tok(tokens) + self.pos(positions)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.ln_f(hidden))


def get_args():
    parser = argparse.ArgumentParser(description="FSDP training of a small language model")
    for flag, default in [
        ("--epochs", 2), ("--batch-size", 16), ("--n-samples", 512), ("--seq-len", 64), ("--vocab-size", 512),
        ("--d-model", 128), ("--n-heads", 4), ("--n-layers", 4), ("--lr", 3e-4), ("--seed", 0), ("--out", "checkpoint.pt"),
    ]:
        parser.add_argument(flag, type=type(default), default=default)
    return parser.parse_args()


class Trainer:
    def __init__(self, args):
        self.args = args
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.rank = int(os.environ["RANK"])
        self.device = torch.device("cuda", self.local_rank)
        torch.manual_seed(args.seed)
        model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers)
        self.log(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
        policy = partial(transformer_auto_wrap_policy, {Block})
        self.model = FSDP(model, auto_wrap_policy=policy, device_id=self.local_rank)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=args.lr)
        dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
        self.sampler = DistributedSampler(dataset, seed=args.seed)
        self.loader = DataLoader(dataset, batch_size=args.batch_size, sampler=self.sampler, drop_last=True)

    def log(self, message):
        if self.rank == 0:
            print(message, flush=True)

    def run_epoch(self, epoch):
        self.sampler.set_epoch(epoch)
        t0, total = time.time(), torch.zeros((), device=self.device)
        for x, y in self.loader:
            loss = F.cross_entropy(self.model(x.to(self.device)).flatten(0, 1), y.to(self.device).flatten())
            self.optimizer.zero_grad()
            loss.backward()
            self.model.clip_grad_norm_(1.0)
            self.optimizer.step()
            total += loss.detach()
        mean = total.item() / len(self.loader)
        self.log(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    def save(self):
        cfg = FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
        with FSDP.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, cfg):
            state = self.model.state_dict()
        if self.rank == 0:
            torch.save({"model": state, "args": vars(self.args)}, self.args.out)
        self.log(f"saved {self.args.out}")


def main():
    args = get_args()
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    trainer = Trainer(args)
    for epoch in range(args.epochs):
        trainer.run_epoch(epoch)
    trainer.save()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
