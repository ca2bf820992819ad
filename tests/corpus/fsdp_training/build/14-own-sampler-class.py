import argparse
import atexit
import math
import os
import time
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.data import DataLoader, Dataset, Sampler


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


class StridedSampler(Sampler[int]):
    """Every rank draws the same permutation of the epoch and takes each world-th index of it, the uneven tail dropped."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def start(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.world

    def __iter__(self) -> Iterator[int]:
        gen = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        order = torch.randperm(self.size, generator=gen)[: len(self) * self.world]
        yield from order[self.rank :: self.world].tolist()


def prepare() -> torch.device:
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    atexit.register(dist.destroy_process_group)
    return device


def make_sharded(args: argparse.Namespace, device: torch.device) -> FSDPModule:
    torch.manual_seed(args.seed)
    net = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
    if dist.get_rank() == 0:
        print("Total parameters:", sum(map(torch.numel, net.parameters())))
    for block in net.blocks:
        fully_shard(block, reshard_after_forward=True)
    return fully_shard(net, reshard_after_forward=False)


def main() -> None:
    args = parse_args()
    device = prepare()
    net = make_sharded(args, device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr)
    data = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    sampler = StridedSampler(len(data), args.seed)
    loader = DataLoader(data, batch_size=args.batch_size, sampler=sampler, drop_last=True)

    for epoch in range(args.epochs):
        sampler.start(epoch)
        t0 = time.time()
        total = torch.zeros((), device=device)
        for x, y in loader:
            logits = net(x.to(device))
            loss = F.cross_entropy(logits.flatten(0, 1), y.to(device).flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        mean = total.item() / len(loader) / dist.get_world_size()
        if dist.get_rank() == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    state = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        torch.save({"model": state, "args": vars(args)}, args.out)
        print(f"saved {args.out}")
    dist.barrier()


if __name__ == "__main__":
    main()
