# The captioner as a pure function of a dict of tensors: no nn.Module anywhere.
import argparse
import functools
import itertools

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

HEADS, VOCAB, MAX_LEN = 4, 2000, 256


def make_data(n, seq_len=33, image_size=32):
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, image_size, image_size, generator=rng)
    start = torch.randint(0, VOCAB, (n, 1), generator=rng)
    return TensorDataset(images, (start + torch.arange(seq_len)) % VOCAB)


def init(d, layers, device):
    def matrix(*shape):
        fan_in = shape[-1] if len(shape) == 2 else shape[1] * 9
        return torch.randn(*shape) / fan_in**0.5

    p = {
        "conv1.w": matrix(d // 2, 3, 3, 3), "conv1.b": torch.zeros(d // 2),
        "bn.w": torch.ones(d // 2), "bn.b": torch.zeros(d // 2),
        "conv2.w": matrix(d, d // 2, 3, 3), "conv2.b": torch.zeros(d),
        "tok": torch.randn(VOCAB, d) * 0.02, "pos": torch.randn(MAX_LEN, d) * 0.02,
        "ln.w": torch.ones(d), "ln.b": torch.zeros(d),
        "head.w": matrix(VOCAB, d), "head.b": torch.zeros(VOCAB),
    }
    for i in range(layers):
        p |= {
            f"{i}.ln1.w": torch.ones(d), f"{i}.ln1.b": torch.zeros(d),
            f"{i}.qkv.w": matrix(3 * d, d), f"{i}.qkv.b": torch.zeros(3 * d),
            f"{i}.out.w": matrix(d, d), f"{i}.out.b": torch.zeros(d),
            f"{i}.ln2.w": torch.ones(d), f"{i}.ln2.b": torch.zeros(d),
            f"{i}.up.w": matrix(4 * d, d), f"{i}.up.b": torch.zeros(4 * d),
            f"{i}.down.w": matrix(d, 4 * d), f"{i}.down.b": torch.zeros(d),
        }
    params = {name: t.to(device).requires_grad_() for name, t in p.items()}
    stats = {"mean": torch.zeros(d // 2, device=device), "var": torch.ones(d // 2, device=device)}
    return params, stats


def linear(p, name, x):
    return F.linear(x, p[name + ".w"], p[name + ".b"])


def norm(p, name, x):
    return F.layer_norm(x, x.shape[-1:], p[name + ".w"], p[name + ".b"])


def block(p, i, x):
    b, t, c = x.shape
    q, k, v = linear(p, f"{i}.qkv", norm(p, f"{i}.ln1", x)).view(b, t, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
    x = x + linear(p, f"{i}.out", mixed)
    return x + linear(p, f"{i}.down", F.gelu(linear(p, f"{i}.up", norm(p, f"{i}.ln2", x))))


def captioner(p, stats, layers, images, tokens, training):
    h = F.conv2d(images, p["conv1.w"], p["conv1.b"], stride=2, padding=1)
    h = F.relu(F.batch_norm(h, stats["mean"], stats["var"], p["bn.w"], p["bn.b"], training=training))
    h = F.relu(F.conv2d(h, p["conv2.w"], p["conv2.b"], stride=2, padding=1)).flatten(2).transpose(1, 2)
    x = torch.cat([h, F.embedding(tokens, p["tok"])], dim=1)
    x = x + p["pos"][: x.size(1)]
    for i in range(layers):
        run = functools.partial(block, p, i)
        x = checkpoint(run, x, use_reentrant=False) if training else run(x)
    return linear(p, "head", norm(p, "ln", x[:, h.size(1):]))


def objective(p, stats, layers, batch, training):
    images, tokens = batch
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        logits = captioner(p, stats, layers, images, tokens[:, :-1], training)
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def sgd(p, momentum, lr, beta=0.9):
    """In place, one tensor after the other; drops each gradient as soon as it is used."""
    torch.nn.utils.clip_grad_norm_(p.values(), 1.0)
    with torch.no_grad():
        for name, t in p.items():
            if t.grad is None:
                continue
            m = momentum.setdefault(name, torch.zeros_like(t))
            m.mul_(beta).add_(t.grad)
            t.sub_(m, alpha=lr)
            t.grad = None


def cycle(loader):
    while True:
        yield from loader


def main():
    ap = argparse.ArgumentParser()
    for flag, kind, default in [("--steps", int, 50), ("--batch-size", int, 16), ("--d-model", int, 128),
                                ("--n-layers", int, 4), ("--lr", float, 3e-4)]:
        ap.add_argument(flag, type=kind, default=default)
    a = ap.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = DataLoader(make_data(256), batch_size=a.batch_size, shuffle=True, drop_last=True)
    val = DataLoader(make_data(64), batch_size=a.batch_size)
    p, stats = init(a.d_model, a.n_layers, device)
    momentum, history = {}, []
    for n, batch in enumerate(itertools.islice(cycle(train), a.steps), 1):
        loss = objective(p, stats, a.n_layers, [t.to(device) for t in batch], True)
        loss.backward()
        sgd(p, momentum, a.lr * 100)
        history.append(loss.item())
        if n % 5 == 0:
            print(f"step {n} loss {history[-1]:.4f}")
    with torch.no_grad():
        seen = [objective(p, stats, a.n_layers, [t.to(device) for t in b], False).item()
                for b in itertools.islice(val, 4)]
    print(f"val loss: {sum(seen) / len(seen):.4f}")
    print(f"final loss: {history[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
