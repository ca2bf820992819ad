import argparse, math, os, time
import torch, torch.distributed as dist, torch.nn as nn, torch.nn.functional as F
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, StateDictType, FullStateDictConfig
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


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


def main():
    p = argparse.ArgumentParser()
    for k, v in dict(epochs=2, batch_size=16, n_samples=512, seq_len=64, vocab_size=512, d_model=128, n_heads=4,
                     n_layers=4, lr=3e-4, seed=0, out="checkpoint.pt").items():
        p.add_argument("--" + k.replace("_", "-"), type=type(v), default=v)
    a = p.parse_args()
    dist.init_process_group("nccl")
    r, w, d = dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(d)
    torch.manual_seed(a.seed)

    g = torch.Generator().manual_seed(a.seed)
    s, t = (torch.randint(lo, hi, (a.n_samples, 1), generator=g) for lo, hi in ((0, a.vocab_size), (1, 7)))
    rows = (s + t * torch.arange(a.seq_len + 1)) % a.vocab_size
    ds = TensorDataset(rows[:, :-1], rows[:, 1:])
    sm = DistributedSampler(ds, w, r, seed=a.seed)
    dl = DataLoader(ds, a.batch_size, sampler=sm, drop_last=True)

    m = TransformerLM(a.vocab_size, a.d_model, a.n_heads, a.n_layers)
    n = sum(q.numel() for q in m.parameters())
    m = FSDP(m, auto_wrap_policy=ModuleWrapPolicy([Block]), device_id=d)
    o = torch.optim.AdamW(m.parameters(), lr=a.lr)
    if r == 0: print(f"Total parameters: {n}")
    for e in range(a.epochs):
        sm.set_epoch(e); t0 = time.time(); tot = torch.zeros(1, device=d)
        for x, y in dl:
            l = F.cross_entropy(m(x.to(d)).flatten(0, 1), y.to(d).flatten())
            o.zero_grad(); l.backward(); m.clip_grad_norm_(1.0); o.step()
            tot += l.detach() / len(dl) / w
        dist.all_reduce(tot)
        if r == 0: print(f"epoch {e} loss {tot.item():.4f} ppl {math.exp(tot.item()):.1f} ({time.time() - t0:.1f}s)")
    with FSDP.state_dict_type(m, StateDictType.FULL_STATE_DICT, FullStateDictConfig(offload_to_cpu=True, rank0_only=True)):
        sd = m.state_dict()
    if r == 0:
        torch.save(dict(model=sd, args=vars(a)), a.out); print(f"saved {a.out}")
    dist.barrier(); dist.destroy_process_group()


if __name__ == "__main__": main()
