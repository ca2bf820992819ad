import argparse, torch, itertools as it
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as ck
from torch.utils.data import DataLoader as DL, Dataset

dev = torch.device("cuda" if torch.cuda.is_available() else "cpu")
bf = lambda: torch.autocast(dev.type, torch.bfloat16)


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


class A(nn.Module):
    def __init__(s, d, h):
        super().__init__()
        s.h, s.i, s.o = h, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(s, x):
        q, k, v = s.i(x).unflatten(2, (3, s.h, -1)).permute(2, 0, 3, 1, 4)
        return s.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class B(nn.Module):
    def __init__(s, d, h):
        super().__init__()
        s.a = nn.Sequential(nn.LayerNorm(d), A(d, h))
        s.m = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(s, x):
        return (y := x + s.a(x)) + s.m(y)


class Net(nn.Module):
    def __init__(s, V=2000, d=128, h=4, L=4, n=256):
        super().__init__()
        s.stem = nn.Sequential(nn.Conv2d(3, d // 2, 3, 2, 1), nn.BatchNorm2d(d // 2), nn.ReLU(True),
                               nn.Conv2d(d // 2, d, 3, 2, 1), nn.ReLU(True))
        s.tok, s.pos = nn.Embedding(V, d), nn.Embedding(n, d)
        s.blocks = nn.ModuleList(B(d, h) for _ in range(L))
        s.out = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, V))

    def forward(s, im, tk):
        p = s.stem(im).flatten(2).mT
        x = torch.cat([p, s.tok(tk)], 1)
        x += s.pos.weight[:x.size(1)]
        for b in s.blocks:
            x = ck(b, x, use_reentrant=False)
        return s.out(x[:, p.size(1):])


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    return p.parse_args()


def L(net, im, tk):
    im, tk = im.to(dev), tk.to(dev)
    with bf():
        return F.cross_entropy(net(im, tk[:, :-1]).mT, tk[:, 1:])


def main():
    a = parse_args()
    torch.manual_seed(0)
    dl = DL(CaptionData(), a.batch_size, shuffle=True, drop_last=True)
    net = Net(d=a.d_model, L=a.n_layers).to(dev)
    # a step that lives in the backward pass: each gradient is used where it falls, and gone
    acc = {p: torch.zeros(p.shape[0], *[1] * (p.dim() - 1), device=dev) for p in net.parameters()}

    def fall(p):
        g = p.grad.div_(p.grad.norm().clamp_(min=1.0))
        acc[p].mul_(0.99).add_(g.pow(2).flatten(1).mean(1).view_as(acc[p]) if g.dim() > 1 else g * g, alpha=0.01)
        p.data.addcdiv_(g, acc[p].sqrt().add_(1e-6), value=-a.lr)
        p.grad = None

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(fall)
    h = []
    for b in it.islice(it.chain.from_iterable(it.repeat(dl)), a.steps):
        (l := L(net, *b)).backward()
        h.append(l.item())
        len(h) % 5 or print(f"step {len(h)} loss {h[-1]:.4f}")
    net.eval()
    with torch.no_grad():
        v = [L(net, *b).item() for b in it.islice(DL(CaptionData(64), a.batch_size), 4)]
    print(f"val loss: {sum(v) / len(v):.4f}\nfinal loss: {h[-1]:.4f}")
    if dev.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
