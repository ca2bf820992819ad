import argparse, itertools, torch
import torch.nn as nn, torch.nn.functional as F
from torch.utils.checkpoint import checkpoint_sequential
from torch.utils.data import DataLoader, Dataset


class CaptionData(Dataset):
    def __init__(self, n=256, seq_len=33, vocab_size=2000, image_size=32):
        g = torch.Generator().manual_seed(0)
        self.images = torch.randn(n, 3, image_size, image_size, generator=g)
        first = torch.randint(0, vocab_size, (n, 1), generator=g)
        self.tokens = (first + torch.arange(seq_len)) % vocab_size

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.tokens[i]


class Block(nn.Module):
    def __init__(self, d, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.proj = nn.Linear(d, d)
        self.ln2 = nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(a.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln2(x))


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1), nn.BatchNorm2d(d_model // 2), nn.ReLU(),
                                  nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(2))
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.Sequential(*(Block(d_model, n_heads) for _ in range(n_layers)))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens):
        prefix = self.stem(images).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        if torch.is_grad_enabled():
            x = checkpoint_sequential(self.blocks, len(self.blocks), x, use_reentrant=False)
        else:
            x = self.blocks(x)
        return self.head(self.ln_f(x[:, prefix.size(1):]))


def ce(logits, tokens):
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def forever(loader):
    while True:
        yield from loader


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    a = p.parse_args()
    torch.manual_seed(0)
    dev = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = dev.type == "cuda"
    train = DataLoader(CaptionData(), batch_size=a.batch_size, shuffle=True, drop_last=True, pin_memory=gpu)
    val = DataLoader(CaptionData(64), batch_size=a.batch_size)
    model = Captioner(d_model=a.d_model, n_layers=a.n_layers).to(dev)
    opt = torch.optim.AdamW(model.parameters(), lr=a.lr)
    scaler = torch.amp.GradScaler("cuda", enabled=gpu)
    last = float("nan")
    for step, (im, tk) in enumerate(itertools.islice(forever(train), a.steps), 1):
        im, tk = im.to(dev, non_blocking=True), tk.to(dev, non_blocking=True)
        with torch.autocast("cuda", dtype=torch.float16, enabled=gpu):
            loss = ce(model(im, tk[:, :-1]), tk)
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        last = loss.item()
        if step % 5 == 0:
            print(f"step {step} loss {last}")
    model.eval()
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.float16, enabled=gpu):
        vals = [ce(model(im.to(dev), tk[:, :-1].to(dev)), tk.to(dev)).item() for im, tk in itertools.islice(val, 4)]
    print(f"val loss: {sum(vals) / len(vals):.4f}")
    print(f"final loss: {last:.4f}")
    if gpu:
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")
