# Neural long-term memory for a small GPT
import torch
import torch.nn as nn
import torch.nn.functional as F


def causal_mask(n, device):
    return torch.triu(torch.full((n, n), float("-inf"), device=device), diagonal=1)


class NeuralLongTermMemory(nn.Module):
    """Associative matrix memory. forward(x: [B, T, D]) -> recalled: [B, T, D]"""

    def __init__(self, d_model, expected_len=None):
        super().__init__()
        self.scale = d_model ** -0.5
        self.W_k = nn.Parameter(torch.randn(d_model, d_model) * self.scale)
        self.W_v = nn.Parameter(torch.randn(d_model, d_model) * self.scale)
        self.W_q = nn.Parameter(torch.randn(d_model, d_model) * self.scale)
        self.w_surprise = nn.Parameter(torch.randn(d_model) * self.scale)
        self.b_surprise = nn.Parameter(torch.zeros(1))
        self.alpha = nn.Parameter(torch.full((d_model,), 2.0))

    def forward(self, x):
        B, T, D = x.shape
        K, V, Q = x @ self.W_k, x @ self.W_v, x @ self.W_q
        K, Q = F.normalize(K, dim=2), F.normalize(Q, dim=2)
        M = x.new_zeros(B, D, D)
        R = []
        for i in range(T):
            k_i, v_i, q_i = K[:, i], V[:, i], Q[:, i]
            r_i = (M * k_i.unsqueeze(1)).sum(-1)
            surprise = torch.sigmoid((v_i - r_i).abs() @ self.w_surprise + self.b_surprise)
            M = torch.sigmoid(self.alpha).unsqueeze(-1) * M
            M = M + surprise.view(B, 1, 1) * (v_i.unsqueeze(2) * k_i.unsqueeze(1))
            R.append((M * q_i.unsqueeze(1)).sum(-1))
        return torch.stack(R, 1)


class DecoderLayer(nn.Module):
    def __init__(self, d_model, n_heads, dropout=0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.self_attn = nn.MultiheadAttention(d_model, n_heads, dropout=dropout, batch_first=True)
        self.long_term = NeuralLongTermMemory(d_model)
        self.combine = nn.Linear(2 * d_model, d_model)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * d_model, d_model)
        )

    def forward(self, x):
        y = self.norm1(x)
        attended, _ = self.self_attn(y, y, y, attn_mask=causal_mask(x.size(1), x.device), need_weights=False)
        recalled = self.long_term(y)
        x = x + self.combine(torch.cat((attended, recalled), dim=-1))
        return x + self.feed_forward(self.norm2(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512, dropout=0.0):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, d_model)
        self.position_embedding = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList([DecoderLayer(d_model, n_heads, dropout) for _ in range(n_layers)])
        self.final_norm = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        T = tokens.size(1)
        x = self.token_embedding(tokens) + self.position_embedding(torch.arange(T, device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.final_norm(x))


if __name__ == "__main__":
    torch.manual_seed(0)
    net = MemoryTransformer()
    tokens = torch.randint(0, 256, (2, 16))
    out = net(tokens)
    out.mean().backward()
    print(out.shape)
