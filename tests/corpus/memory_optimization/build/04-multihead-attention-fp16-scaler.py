import argparse

import torch
from torch import nn
from torch.amp import GradScaler, autocast
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


def make_data(count, length=33, vocab=2000, side=32):
    gen = torch.Generator().manual_seed(0)
    pics = torch.randn(count, 3, side, side, generator=gen)
    start = torch.randint(0, vocab, (count, 1), generator=gen)
    return TensorDataset(pics, (start + torch.arange(length)) % vocab)


class TransformerLayer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.pre_attn = nn.LayerNorm(dim)
        self.mha = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.pre_ff = nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim))

    def forward(self, x, mask):
        h = self.pre_attn(x)
        # need_weights=False is what sends it through scaled_dot_product_attention
        out, _ = self.mha(h, h, h, attn_mask=mask, is_causal=True, need_weights=False)
        x = x + out
        return x + self.ff(self.pre_ff(x))


class Captioner(nn.Module):
    def __init__(self, dim, depth, vocab=2000, heads=4, max_len=256):
        super().__init__()
        conv = dict(kernel_size=3, stride=2, padding=1)
        self.eye = nn.Sequential(nn.Conv2d(3, dim // 2, **conv), nn.BatchNorm2d(dim // 2), nn.ReLU(True), nn.Conv2d(dim // 2, dim, **conv), nn.ReLU(True))
        self.words = nn.Embedding(vocab, dim)
        self.places = nn.Embedding(max_len, dim)
        self.layers = nn.ModuleList(TransformerLayer(dim, heads) for _ in range(depth))
        self.final = nn.LayerNorm(dim)
        self.to_vocab = nn.Linear(dim, vocab)

    def forward(self, pics, words):
        seen = self.eye(pics).flatten(2).transpose(1, 2)
        x = torch.cat([seen, self.words(words)], 1)
        x = x + self.places(torch.arange(x.size(1), device=x.device))
        mask = nn.Transformer.generate_square_subsequent_mask(x.size(1), device=x.device)
        for layer in self.layers:
            x = layer(x, mask)
        return self.to_vocab(self.final(x[:, seen.size(1):]))


def main(steps, batch_size, d_model, n_layers, lr):
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = DataLoader(make_data(256), batch_size, shuffle=True, drop_last=True)
    val = DataLoader(make_data(64), batch_size)
    net = Captioner(d_model, n_layers).to(device, memory_format=torch.channels_last)
    opt = torch.optim.AdamW(net.parameters(), lr=lr, foreach=False)
    scaler = GradScaler(device.type)

    def batches():
        while True:
            yield from train

    final = None
    for number, (pics, words) in zip(range(1, steps + 1), batches()):
        pics = pics.to(device).contiguous(memory_format=torch.channels_last)
        words = words.to(device)
        with autocast(device.type, dtype=torch.float16):
            out = net(pics, words[:, :-1])
            loss = cross_entropy(out.flatten(0, 1), words[:, 1:].flatten())
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad(set_to_none=True)
        final = loss.detach()
        if number % 5 == 0:
            print(f"step {number} loss {final.item():.4f}")

    net.eval()
    with torch.no_grad(), autocast(device.type, dtype=torch.float16):
        scores = []
        for k, (pics, words) in enumerate(val):
            if k == 4:
                break
            pics, words = pics.to(device), words.to(device)
            scores.append(cross_entropy(net(pics, words[:, :-1]).flatten(0, 1), words[:, 1:].flatten()).item())
    print(f"val loss: {sum(scores) / len(scores):.4f}")
    print(f"final loss: {final.item():.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    for flag, default in {"--steps": 50, "--batch-size": 16, "--d-model": 128, "--n-layers": 4, "--lr": 3e-4}.items():
        cli.add_argument(flag, type=type(default), default=default)
    main(**vars(cli.parse_args()))
