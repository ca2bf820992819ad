import argparse
import math
import os
import threading
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def synthetic_tokens(n_samples, seq_len, vocab_size, seed):
    g = torch.Generator().manual_seed(seed)
    start = torch.randint(0, vocab_size, (n_samples, 1), generator=g)
    step = torch.randint(1, 7, (n_samples, 1), generator=g)
    data = (start + step * torch.arange(seq_len + 1)) % vocab_size
    return TensorDataset(data[:, :-1].contiguous(), data[:, 1:].contiguous())


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, 4 * d_model),
            nn.GELU(),
            nn.Linear(4 * d_model, d_model),
        )

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_heads, width // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size: int = 512, d_model: int = 128, n_heads: int = 4, n_layers: int = 4, max_len: int = 256) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(positions)
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


def parse_args():
    p = argparse.ArgumentParser()
    for flag, kind, default in [
        ("--epochs", int, 2),
        ("--batch-size", int, 16),
        ("--n-samples", int, 512),
        ("--seq-len", int, 64),
        ("--vocab-size", int, 512),
        ("--d-model", int, 128),
        ("--n-heads", int, 4),
        ("--n-layers", int, 4),
        ("--lr", float, 3e-4),
        ("--seed", int, 0),
        ("--out", str, "checkpoint.pt"),
    ]:
        p.add_argument(flag, type=kind, default=default)
    return p.parse_args()


class BackgroundWriter:
    """All ranks gather; rank 0 hands the CPU tensors to a thread and goes on."""

    def __init__(self):
        self.thread = None

    def submit(self, model, args):
        self.wait()
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(model, options=options)
        if dist.get_rank() != 0:
            return
        payload = {"model": state, "args": vars(args)}
        self.thread = threading.Thread(target=self._write, args=(payload, args.out))
        self.thread.start()

    @staticmethod
    def _write(payload, path):
        torch.save(payload, path + ".tmp")
        os.replace(path + ".tmp", path)
        print(f"saved {path}", flush=True)

    def wait(self):
        if self.thread is not None:
            self.thread.join()
            self.thread = None


def make_model(args, device):
    torch.manual_seed(args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
    size = sum(p.numel() for p in model.parameters())
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for index, block in enumerate(model.blocks):
        model.blocks[index] = fully_shard(checkpoint_wrapper(block), mp_policy=precision)
    fully_shard(model, mp_policy=precision)
    return model, size


def main():
    args = parse_args()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")
    rank, world = dist.get_rank(), dist.get_world_size()

    model, size = make_model(args, device)
    if rank == 0:
        print(f"Total parameters: {size}", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    data = synthetic_tokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    sampler = DistributedSampler(data, num_replicas=world, rank=rank, shuffle=True, seed=args.seed)
    loader = DataLoader(data, batch_size=args.batch_size, sampler=sampler, drop_last=True)
    writer = BackgroundWriter()

    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        t0, total = time.time(), torch.zeros((), device=device)
        for x, y in loader:
            logits = model(x.to(device)).float()
            loss = F.cross_entropy(logits.flatten(0, 1), y.to(device).flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        mean = total.item() / (world * len(loader))
        if rank == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)", flush=True)

    writer.submit(model, args)
    writer.wait()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
