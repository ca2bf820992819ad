import argparse, copy
import torch, torch.nn as nn, torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.checkpoint import checkpoint

# notes to self
#  * optimizer: dropped the foreach=True of the starter
#  * only the MLP half of each block is recomputed - that's where the 4*d activations are
#  * bf16 weights for the evaluation, half the bytes


class CaptionData(Dataset):
    def __init__(self, n=256, seq_len=33, vocab_size=2000, image_size=32):
        g = torch.Generator().manual_seed(0)
        self.images = torch.randn(n, 3, image_size, image_size, generator=g)
        first = torch.randint(0, vocab_size, (n, 1), generator=g)
        self.tokens = (first + torch.arange(seq_len)) % vocab_size
    def __len__(self): return len(self.images)
    def __getitem__(self, i): return self.images[i], self.tokens[i]


class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.ln1 = nn.LayerNorm(d); self.qkv = nn.Linear(d, 3 * d); self.proj = nn.Linear(d, d)
        self.ln2 = nn.LayerNorm(d); self.fc1 = nn.Linear(d, 4 * d); self.fc2 = nn.Linear(4 * d, d)

    def attn(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.h, C // self.h).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))

    def mlp(self, x):
        return self.fc2(F.gelu(self.fc1(self.ln2(x))))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        if torch.is_grad_enabled():
            return x + checkpoint(self.mlp, x, use_reentrant=False)
        return x + self.mlp(x)


class Captioner(nn.Module):
    def __init__(self, vocab=2000, d=128, h=4, L=4, max_len=256):
        super().__init__()
        self.c1 = nn.Conv2d(3, d // 2, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(d // 2)
        self.c2 = nn.Conv2d(d // 2, d, 3, stride=2, padding=1)
        self.tok = nn.Embedding(vocab, d); self.pos = nn.Embedding(max_len, d)
        self.blocks = nn.ModuleList(Block(d, h) for _ in range(L))
        self.ln_f = nn.LayerNorm(d); self.head = nn.Linear(d, vocab)

    def forward(self, img, tok):
        p = F.relu(self.c2(F.relu(self.bn(self.c1(img))))).flatten(2).transpose(1, 2)
        x = torch.cat([p, self.tok(tok)], 1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for b in self.blocks: x = b(x)
        return self.head(self.ln_f(x[:, p.size(1):]))


def run(model, batch, dev):
    img, tok = (t.to(dev) for t in batch)
    logits = model(img.to(model.head.weight.dtype), tok[:, :-1])
    return F.cross_entropy(logits.reshape(-1, logits.size(-1)), tok[:, 1:].reshape(-1))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--steps", type=int, default=50)
    ap.add_argument("--batch-size", type=int, default=16)
    ap.add_argument("--d-model", type=int, default=128)
    ap.add_argument("--n-layers", type=int, default=4)
    ap.add_argument("--lr", type=float, default=3e-4)
    a = ap.parse_args()
    torch.manual_seed(0)
    dev = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dl = DataLoader(CaptionData(), batch_size=a.batch_size, shuffle=True, drop_last=True)
    vl = DataLoader(CaptionData(64), batch_size=a.batch_size)
    net = Captioner(d=a.d_model, L=a.n_layers).to(dev)
    opt = torch.optim.AdamW(net.parameters(), lr=a.lr)

    hist = []
    while len(hist) < a.steps:
        for batch in dl:
            if len(hist) == a.steps: break
            opt.zero_grad()
            loss = run(net, batch, dev)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            opt.step()
            hist.append(loss.detach())   # 0-dim, no graph
            if len(hist) % 5 == 0: print(f"step {len(hist)} loss {loss.item():.4f}")

    ema = copy.deepcopy(net).to(torch.bfloat16).eval()  # low precision copy
    val = []
    with torch.no_grad():
        for i, batch in enumerate(vl):
            if i == 4: break
            val.append(run(ema, batch, dev).item())
    print(f"val loss: {sum(val) / len(val):.4f}")
    print(f"final loss: {hist[-1].item():.4f}")
    if dev.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
