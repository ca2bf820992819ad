# Abgabe Blatt 9: Langzeitgedaechtnis
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, d_model=64):
        super().__init__()
        self.schluessel = nn.Linear(d_model, d_model)
        self.wert = nn.Linear(d_model, d_model)
        self.frage = nn.Linear(d_model, d_model)
        # Ueberraschung: vergleicht, was kommt, mit dem, was erwartet wurde
        self.ueberraschung = nn.Sequential(nn.Linear(d_model, 32), nn.ReLU(), nn.Linear(32, 1))
        # Vergessen: sigmoid(2.2) ist ungefaehr 0.9
        self.vergessen = nn.Parameter(torch.tensor([2.2]))

    def forward(self, x):
        alle = []
        for folge in x:                      # jede Folge im Batch hat ihr eigenes Gedaechtnis
            M = torch.zeros(x.size(2), x.size(2), device=x.device)
            ausgabe = []
            for moment in folge:             # ein Moment nach dem anderen
                k = F.normalize(self.schluessel(moment), dim=0)
                v = self.wert(moment)
                erwartet = torch.mv(M, k)
                s = torch.sigmoid(self.ueberraschung(v - erwartet))
                M = torch.sigmoid(self.vergessen) * M + s * torch.outer(v, k)
                ausgabe.append(torch.mv(M, self.frage(moment)))
            alle.append(torch.stack(ausgabe))
        return torch.stack(alle)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.gedaechtnis = NeuralMemory(d_model)
        self.waage = nn.Linear(d_model, d_model)

    def forward(self, x):
        T = x.size(1)
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.attn(h, h, h, attn_mask=mask, need_weights=False)
        m = self.gedaechtnis(h)
        g = torch.sigmoid(self.waage(h))
        x = x + (g * m + (1 - g) * a)        # g nahe 1: Erinnerung zaehlt, g nahe 0: Aufmerksamkeit
        return x + self.mlp(self.ln2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        pos = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(pos)
        for blk in self.blocks:
            x = blk(x)
        return self.head(self.ln_f(x))


if __name__ == "__main__":
    torch.manual_seed(0)
    m = MemoryTransformer()
    t = torch.randint(0, 256, (2, 16))
    logits = m(t)
    verlust = F.cross_entropy(logits[:, :-1].reshape(-1, 256), t[:, 1:].reshape(-1))
    verlust.backward()
    print(logits.shape, verlust.item())
    print("Gradient von vergessen:", m.blocks[0].gedaechtnis.vergessen.grad)
