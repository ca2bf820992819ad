import argparse
import math
import os
import time
from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class SyntheticTokens(Dataset):
    """Arithmetic sequences modulo the vocabulary; the next token follows from the two before it."""

    def __init__(self, n_samples: int, seq_len: int, vocab_size: int, seed: int = 0) -> None:
        gen = torch.Generator().manual_seed(seed)
        first = torch.randint(0, vocab_size, (n_samples, 1), generator=gen)
        stride = torch.randint(1, 7, (n_samples, 1), generator=gen)
        self.data = (first + stride * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.data[index]
        return tokens[:-1], tokens[1:]


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


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run = parser.add_argument_group("run")
    run.add_argument("--epochs", type=int, default=2)
    run.add_argument("--batch-size", type=int, default=16, help="per rank")
    run.add_argument("--lr", type=float, default=3e-4)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--out", default="checkpoint.pt", help="full checkpoint, written by rank 0")
    data = parser.add_argument_group("data")
    data.add_argument("--n-samples", type=int, default=512)
    data.add_argument("--seq-len", type=int, default=64)
    net = parser.add_argument_group("model")
    net.add_argument("--vocab-size", type=int, default=512)
    net.add_argument("--d-model", type=int, default=128)
    net.add_argument("--n-heads", type=int, default=4)
    net.add_argument("--n-layers", type=int, default=4)
    return parser.parse_args(argv)


def count_parameters(model: FSDP, device: torch.device) -> int:
    """Each rank holds a part of every original parameter and no padding, so the parts add up to the whole."""
    held = torch.tensor(sum(p.numel() for p in model.parameters()), dtype=torch.int64, device=device)
    dist.all_reduce(held)
    return int(held)


def fit(args: argparse.Namespace, device: torch.device) -> FSDP:
    rank = dist.get_rank()
    torch.manual_seed(args.seed)
    model = FSDP(
        TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers),
        auto_wrap_policy=partial(lambda_auto_wrap_policy, lambda_fn=lambda m: isinstance(m, Block)),
        device_id=device,
        use_orig_params=True,
        sync_module_states=True,
    )
    n_params = count_parameters(model, device)
    if rank == 0:
        print(f"Total parameters: {n_params}")

    decay = [p for p in model.parameters() if p.ndim > 0]
    optimizer = torch.optim.AdamW(decay, lr=args.lr)
    dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    sampler = DistributedSampler(dataset, dist.get_world_size(), rank, shuffle=True, seed=args.seed)
    loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler, drop_last=True)
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        t0 = time.time()
        losses = torch.stack([step(model, optimizer, x.to(device), y.to(device)) for x, y in loader])
        mean = losses.mean()
        dist.all_reduce(mean, op=dist.ReduceOp.SUM)
        value = mean.item() / dist.get_world_size()
        if rank == 0:
            print(f"epoch {epoch} loss {value:.4f} ppl {math.exp(value):.1f} ({time.time() - t0:.1f}s)")
    return model


def step(model: FSDP, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    loss.backward()
    model.clip_grad_norm_(1.0)
    optimizer.step()
    return loss.detach()


def main() -> None:
    args = parse_args()
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl")
    try:
        model = fit(args, torch.device("cuda", local_rank))
        FSDP.set_state_dict_type(
            model, StateDictType.FULL_STATE_DICT, FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
        )
        weights = model.state_dict()
        if dist.get_rank() == 0:
            torch.save({"model": weights, "args": vars(args)}, args.out)
            print(f"saved {args.out}")
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
