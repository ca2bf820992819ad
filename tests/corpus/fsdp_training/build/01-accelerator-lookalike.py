import argparse
import functools
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


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

class DeviceLoader:
    """Moves batches to the device. A pass over it is an epoch, so it also tells the sampler which one it is."""

    def __init__(self, loader, device):
        self.loader, self.device, self.passes = loader, device, 0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        self.loader.sampler.set_epoch(self.passes)
        self.passes += 1
        for batch in self.loader:
            yield tuple(t.to(self.device, non_blocking=True) for t in batch)


class Accelerator:
    """The few pieces of Hugging Face Accelerate that this script needs."""

    def __init__(self, layer_cls):
        self.local_process_index = int(os.environ["LOCAL_RANK"])
        self.device = torch.device("cuda", self.local_process_index)
        torch.cuda.set_device(self.device)
        dist.init_process_group(backend="nccl")
        self.process_index, self.num_processes = dist.get_rank(), dist.get_world_size()
        self.policy = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={layer_cls})

    @property
    def is_main_process(self):
        return self.process_index == 0

    def print(self, *args):
        if self.is_main_process:
            print(*args, flush=True)

    def prepare_model(self, model):
        self.print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
        return FSDP(model, auto_wrap_policy=self.policy, device_id=self.device)

    def prepare_loader(self, dataset, batch_size, seed):
        sampler = DistributedSampler(
            dataset, num_replicas=self.num_processes, rank=self.process_index, shuffle=True, seed=seed
        )
        loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=True, pin_memory=True)
        return DeviceLoader(loader, self.device)

    def reduce_mean(self, value):
        t = torch.tensor(float(value), device=self.device)
        dist.all_reduce(t)
        return t.item() / self.num_processes

    def get_state_dict(self, model):
        cfg = FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
        with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT, cfg):
            return model.state_dict()

    def save(self, obj, path):
        if self.is_main_process:
            torch.save(obj, path)
        self.print(f"saved {path}")

    def end_training(self):
        dist.barrier()
        dist.destroy_process_group()


def main():
    args = parse_args()
    accelerator = Accelerator(Block)
    torch.manual_seed(args.seed)

    dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    loader = accelerator.prepare_loader(dataset, args.batch_size, args.seed)
    model = accelerator.prepare_model(TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    for epoch in range(args.epochs):
        t0, total = time.time(), 0.0
        for x, y in loader:
            logits = model(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            model.clip_grad_norm_(1.0)
            optimizer.step()
            total += loss.item()
        mean = accelerator.reduce_mean(total / len(loader))
        accelerator.print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    state = accelerator.get_state_dict(model)
    accelerator.save({"model": state, "args": vars(args)}, args.out)
    accelerator.end_training()


if __name__ == "__main__":
    main()
