import argparse
import math
import os
import time
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard


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


def tokens(args: argparse.Namespace) -> torch.Tensor:
    gen = torch.Generator().manual_seed(args.seed)
    start = torch.randint(0, args.vocab_size, (args.n_samples, 1), generator=gen)
    step = torch.randint(1, 7, (args.n_samples, 1), generator=gen)
    return (start + step * torch.arange(args.seq_len + 1)) % args.vocab_size


class Worker:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(self.device)
        dist.init_process_group("nccl")
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.data = tokens(args)
        self.order = torch.Generator().manual_seed(args.seed)
        self.model = self.make_model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=args.lr)

    def make_model(self) -> nn.Module:
        a = self.args
        with torch.device("meta"):
            model = TransformerLM(a.vocab_size, a.d_model, a.n_heads, a.n_layers)
        if self.rank == 0:
            print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
        model.to_empty(device=self.device)
        torch.manual_seed(a.seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        return model

    def batches(self) -> Iterator[torch.Tensor]:
        """Rank 0 shuffles, everyone hears of it, and each rank takes its own slice of every global batch."""
        order = torch.empty(len(self.data), dtype=torch.long, device=self.device)
        if self.rank == 0:
            order.copy_(torch.randperm(len(self.data), generator=self.order))
        dist.broadcast(order, src=0)
        size, order = self.args.batch_size, order.cpu()
        stride = size * self.world
        for first in range(0, len(order) - stride + 1, stride):
            mine = order[first + self.rank * size : first + (self.rank + 1) * size]
            yield self.data[mine].to(self.device)

    def epoch(self, number: int) -> None:
        began = time.time()
        stats = torch.zeros(2, device=self.device)
        for rows in self.batches():
            loss = F.cross_entropy(self.model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            stats += torch.stack([loss.detach(), torch.ones_like(loss)])
        dist.all_reduce(stats)
        mean = (stats[0] / stats[1]).item()
        if self.rank == 0:
            print(f"epoch {number} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - began:.1f}s)")

    def save(self) -> None:
        state = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.rank == 0:
            torch.save({"model": state, "args": vars(self.args)}, self.args.out)
            print(f"saved {self.args.out}")


def main() -> None:
    worker = Worker(parse_args())
    for number in range(worker.args.epochs):
        worker.epoch(number)
    worker.save()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
