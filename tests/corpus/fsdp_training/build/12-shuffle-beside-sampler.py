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


def ddp_setup():
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend="nccl")


def prepare_dataloader(args):
    dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    return DataLoader(
        dataset,
        batch_size=args.batch_size,
        pin_memory=True,
        shuffle=True,
        drop_last=True,
        sampler=DistributedSampler(dataset),
    )


class Trainer:
    def __init__(self, model, loader, args):
        self.gpu_id = int(os.environ["LOCAL_RANK"])
        self.global_rank = int(os.environ["RANK"])
        self.args, self.loader = args, loader
        model = model.to(self.gpu_id)
        if self.global_rank == 0:
            print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
        for block in model.blocks:
            fully_shard(block)
        self.model = fully_shard(model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=args.lr)

    def _run_epoch(self, epoch):
        self.loader.sampler.set_epoch(epoch)
        t0, total = time.time(), torch.zeros(1, device=self.gpu_id)
        for x, y in self.loader:
            x, y = x.to(self.gpu_id), y.to(self.gpu_id)
            logits = self.model(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.reshape(-1))
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        mean = total.item() / (len(self.loader) * dist.get_world_size())
        if self.global_rank == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    def _save(self):
        sd = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.global_rank == 0:
            torch.save({"model": sd, "args": vars(self.args)}, self.args.out)
            print(f"saved {self.args.out}")

    def train(self):
        for epoch in range(self.args.epochs):
            self._run_epoch(epoch)
        self._save()


def main():
    args = build_parser().parse_args()
    ddp_setup()
    torch.manual_seed(args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers)
    Trainer(model, prepare_dataloader(args), args).train()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
