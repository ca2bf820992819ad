import argparse
import math
import os
import time
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class SyntheticTokens(Dataset):
    def __init__(self, n_samples: int, seq_len: int, vocab_size: int, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        start = torch.randint(0, vocab_size, (n_samples, 1), generator=g)
        step = torch.randint(1, 7, (n_samples, 1), generator=g)
        self.data = (start + step * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self) -> int:
        return self.data.size(0)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.data[i]
        return row[:-1], row[1:]


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
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

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


def parse_args() -> argparse.Namespace:
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


class WrapByClass:
    """Auto wrap policy as an object. FSDP asks first whether to look inside, then whether to wrap."""

    def __init__(self, *classes: type[nn.Module]) -> None:
        self.classes = classes

    def __call__(self, module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
        return True if recurse else isinstance(module, self.classes)


@contextmanager
def distributed():
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl", init_method="env://")
    try:
        yield torch.device("cuda", local_rank), dist.get_rank()
    finally:
        dist.destroy_process_group()


@contextmanager
def timed(report):
    start = time.time()
    result = {}
    yield result
    seconds = time.time() - start
    report(f"epoch {result['epoch']} loss {result['loss']:.4f} ppl {math.exp(result['loss']):.1f} ({seconds:.1f}s)")


def main() -> None:
    args = parse_args()
    with distributed() as (device, rank):

        def report(line: str) -> None:
            if rank == 0:
                print(line, flush=True)

        dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
        sampler = DistributedSampler(dataset, shuffle=True, drop_last=True, seed=args.seed)
        loader = DataLoader(dataset, args.batch_size, sampler=sampler)

        torch.manual_seed(args.seed)
        plain = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
        report("Total parameters: {}".format(sum(p.numel() for p in plain.parameters())))
        model = FullyShardedDataParallel(
            plain,
            auto_wrap_policy=WrapByClass(Block),
            mixed_precision=MixedPrecision(param_dtype=torch.bfloat16),
            device_id=device,
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

        for epoch in range(args.epochs):
            sampler.set_epoch(epoch)
            with timed(report) as result:
                total = torch.zeros((), device=device)
                for x, y in loader:
                    logits = model(x.to(device)).float()
                    loss = F.cross_entropy(logits.flatten(0, 1), y.to(device).flatten())
                    optimizer.zero_grad()
                    loss.backward()
                    model.clip_grad_norm_(1.0)
                    optimizer.step()
                    total += loss.detach()
                dist.all_reduce(total)
                result["epoch"], result["loss"] = epoch, total.item() / (len(loader) * dist.get_world_size())

        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if rank == 0:
            torch.save({"model": state, "args": vars(args)}, args.out)
        report(f"saved {args.out}")


if __name__ == "__main__":
    main()
