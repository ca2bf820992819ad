# Trabajo final - memoria asociativa en un transformer pequeño
# B = batch, T = largo, D = dimension del modelo, N = dimension de la memoria
import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralMemory(nn.Module):
    def __init__(self, D=64, N=16):
        super().__init__()
        self.N = N
        self.Wk = nn.Linear(D, N)
        self.Wv = nn.Linear(D, N)
        self.Wq = nn.Linear(D, N)
        # sorpresa: mira el error de prediccion (lo que llego menos lo que la memoria esperaba)
        self.sorpresa1 = nn.Linear(N, 32)
        self.sorpresa2 = nn.Linear(32, 1)
        # olvido: un numero por fila, entre 0.8 y 1, se aprende
        self.olvido = nn.Parameter(torch.zeros(N))
        self.salida = nn.Linear(N, D)

    def forward(self, x):
        B, T, D = x.shape
        M = torch.zeros(B, self.N, self.N, device=x.device)         # memoria vacia
        salidas = []
        for t in range(T):
            xt = x[:, t, :]                                          # (B, D)
            k = self.Wk(xt)
            k = k / (k.norm(dim=1, keepdim=True) + 1e-6)             # (B, N)
            v = self.Wv(xt)                                          # (B, N)
            q = self.Wq(xt)                                          # (B, N)

            # primero se lee con la consulta lo que ya habia
            leido = torch.matmul(M, q.unsqueeze(2)).squeeze(2)       # (B, N)
            salidas.append(leido)

            # despues se mira cuan sorprendente es el token
            esperado = torch.matmul(M, k.unsqueeze(2)).squeeze(2)    # (B, N)
            error = v - esperado
            s = torch.sigmoid(self.sorpresa2(F.relu(self.sorpresa1(error))))   # (B, 1)

            # y se escribe: olvido * M + s * v k^T
            lam = 0.8 + 0.2 * torch.sigmoid(self.olvido)             # (N,)
            vk = torch.matmul(v.unsqueeze(2), k.unsqueeze(1))        # (B, N, N)
            M = lam.unsqueeze(1) * M + s.unsqueeze(2) * vk
        return self.salida(torch.stack(salidas, dim=1))


class Bloque(nn.Module):
    def __init__(self, D, H):
        super().__init__()
        self.ln1 = nn.LayerNorm(D)
        self.atencion = nn.MultiheadAttention(D, H, batch_first=True)
        self.memoria = NeuralMemory(D)
        self.compuerta = nn.Linear(D, D)
        self.ln2 = nn.LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))

    def forward(self, x):
        T = x.size(1)
        mascara = torch.triu(torch.ones(T, T, dtype=torch.bool, device=x.device), 1)
        h = self.ln1(x)
        a, _ = self.atencion(h, h, h, attn_mask=mascara, need_weights=False)
        m = self.memoria(h)
        g = torch.sigmoid(self.compuerta(h))
        x = x + g * m + (1 - g) * a
        x = x + self.mlp(self.ln2(x))
        return x


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.emb = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.bloques = nn.ModuleList([Bloque(d_model, n_heads) for _ in range(n_layers)])
        self.ln = nn.LayerNorm(d_model)
        self.cabeza = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.emb(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for b in self.bloques:
            x = b(x)
        return self.cabeza(self.ln(x))


if __name__ == "__main__":
    # prueba: copiar la primera mitad en la segunda
    torch.manual_seed(0)
    modelo = MemoryTransformer()
    opt = torch.optim.Adam(modelo.parameters(), lr=1e-3)
    for paso in range(50):
        mitad = torch.randint(0, 256, (8, 8))
        datos = torch.cat([mitad, mitad], dim=1)
        logits = modelo(datos)
        perdida = F.cross_entropy(logits[:, 7:-1].reshape(-1, 256), datos[:, 8:].reshape(-1))
        opt.zero_grad()
        perdida.backward()
        opt.step()
        if paso % 10 == 0:
            print(paso, perdida.item())
    for nombre, p in modelo.named_parameters():
        assert p.grad is not None, nombre
    print("ok")
