import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


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


def env(name):
    try:
        return int(os.environ[name])
    except KeyError:
        raise SystemExit(f"{name} is not set: start this script with torchrun") from None


def block_policy(module, recurse, nonwrapped_numel):
    """FSDP asks twice: whether to look inside of a module (recurse), and whether to wrap the module itself."""
    if recurse:
        return True
    return isinstance(module, Block)


def make_data(args):
    gen = torch.Generator().manual_seed(args.seed)
    start = torch.randint(0, args.vocab_size, (args.n_samples, 1), generator=gen)
    step = torch.randint(1, 7, (args.n_samples, 1), generator=gen)
    rows = (start + step * torch.arange(args.seq_len + 1)) % args.vocab_size
    return TensorDataset(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


def start():
    gpu = env("LOCAL_RANK")
    torch.cuda.set_device(gpu)
    dist.init_process_group("nccl", rank=env("RANK"), world_size=env("WORLD_SIZE"))
    return torch.device("cuda", gpu)


def stop():
    dist.barrier()
    dist.destroy_process_group()


def lead(fn, *args):
    return fn(*args) if dist.get_rank() == 0 else None


def sharded(model, device):
    return FSDP(model, auto_wrap_policy=block_policy, device_id=device)


def one_epoch(model, optimizer, loader, device):
    losses = []
    for x, y in loader:
        loss = F.cross_entropy(model(x.to(device)).flatten(0, 1), y.to(device).flatten())
        optimizer.zero_grad()
        loss.backward()
        model.clip_grad_norm_(1.0)
        optimizer.step()
        losses.append(loss.detach())
    mean = torch.stack(losses).mean()
    dist.all_reduce(mean)
    return mean.item() / dist.get_world_size()


def full_weights(model):
    with FSDP.state_dict_type(
        model,
        StateDictType.FULL_STATE_DICT,
        FullStateDictConfig(offload_to_cpu=True, rank0_only=True),
    ):
        return model.state_dict()


def main():
    args = parse_args()
    device = start()
    torch.manual_seed(args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers)
    lead(print, f"Total parameters: {sum(map(torch.numel, model.parameters()))}")
    model = sharded(model, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    dataset = make_data(args)
    sampler = DistributedSampler(dataset, seed=args.seed)
    loader = DataLoader(dataset, args.batch_size, sampler=sampler, drop_last=True)
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        t0 = time.time()
        mean = one_epoch(model, optimizer, loader, device)
        lead(print, f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")
    weights = full_weights(model)
    lead(torch.save, {"model": weights, "args": vars(args)}, args.out)
    lead(print, f"saved {args.out}")
    stop()


if __name__ == "__main__":
    main()
