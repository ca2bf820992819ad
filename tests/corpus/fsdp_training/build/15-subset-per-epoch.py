import argparse
import math
import os
import time
from typing import Iterator, NamedTuple

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.data import DataLoader, Dataset, Subset


class SyntheticTokens(Dataset):
    """Arithmetic sequences modulo the vocabulary, as in the single-GPU script."""

    def __init__(self, n_samples: int, seq_len: int, vocab_size: int, seed: int = 0) -> None:
        gen = torch.Generator().manual_seed(seed)
        first = torch.randint(0, vocab_size, (n_samples, 1), generator=gen)
        stride = torch.randint(1, 7, (n_samples, 1), generator=gen)
        self.data = (first + stride * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self) -> int:
        return self.data.size(0)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.data[index]
        return row[:-1], row[1:]


class Block(nn.Module):
    """Pre-norm attention and MLP."""

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
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(
        self, vocab_size: int = 512, d_model: int = 128, n_heads: int = 4, n_layers: int = 4, max_len: int = 256
    ) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(positions)
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


class Place(NamedTuple):
    """Where this process stands: its number in the job, the size of the job, and its GPU."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls) -> "Place":
        device = torch.device("cuda", dist.get_node_local_rank(fallback_rank=0))
        torch.cuda.set_device(device)
        dist.init_process_group(backend="nccl")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def leave(self) -> None:
        dist.barrier()
        dist.destroy_process_group()


def my_part(dataset: Dataset, epoch: int, place: Place, args: argparse.Namespace) -> DataLoader:
    """A new permutation each epoch, the same everywhere, cut into `world` equal runs; ours is number `rank`."""
    generator = torch.Generator()
    generator.manual_seed(args.seed + epoch)
    order = torch.randperm(len(dataset), generator=generator)
    share = len(dataset) // place.world
    mine = order.narrow(0, place.rank * share, share)
    return DataLoader(Subset(dataset, mine.tolist()), batch_size=args.batch_size, shuffle=False, drop_last=True)


def shard_layers(model: nn.Module) -> nn.Module:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    layers = [child for child in model.modules() if isinstance(child, Block)]
    for unit in [*layers, model]:
        fully_shard(unit, mp_policy=policy)
    return model


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader, device) -> Iterator[float]:
    for tokens, targets in loader:
        logits = model(tokens.to(device))
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.to(device).flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield loss.item()


def main() -> None:
    args = build_parser().parse_args()
    place = Place.join()
    leader = place.rank == 0
    torch.manual_seed(args.seed)

    dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers)
    model = shard_layers(model.to(place.device))
    if leader:
        print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    for epoch in range(args.epochs):
        began = time.time()
        seen = list(losses(model, optimizer, my_part(dataset, epoch, place, args), place.device))
        mean = torch.tensor(sum(seen) / len(seen), device=place.device)
        dist.all_reduce(mean)
        value = mean.item() / place.world
        if leader:
            print(f"epoch {epoch} loss {value:.4f} ppl {math.exp(value):.1f} ({time.time() - began:.1f}s)")

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if leader:
        torch.save({"model": weights, "args": vars(args)}, args.out)
        print(f"saved {args.out}")
    place.leave()


if __name__ == "__main__":
    main()
