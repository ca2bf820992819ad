import torch
import torch.nn as nn
import torch.nn.functional as F


class NeuralLongTermMemory(nn.Module):
    """Associative long-term memory (surprise-gated, decaying, one matrix per sequence)."""

    def __init__(self, d_model: int = 64, d_memory: int = 64):
        super().__init__()
        self.d_memory = d_memory
        self.kv = nn.Linear(d_model, 2 * d_memory, bias=False)
        self.q = nn.Linear(d_model, d_memory, bias=False)
        self.o = nn.Linear(d_memory, d_model, bias=False)
        self.novelty = nn.Linear(d_memory, d_memory)
        self.decay = nn.Parameter(torch.tensor(3.0))

    def initial_memory(self, batch, ref):
        return torch.zeros(batch, self.d_memory, self.d_memory, device=ref.device, dtype=ref.dtype)

    def recall(self, memory, cue):
        return torch.matmul(memory, cue.unsqueeze(-1)).squeeze(-1)

    def memorise(self, memory, key, value):
        expected = self.recall(memory, key)
        surprise = torch.sigmoid(self.novelty(value - expected))
        association = (surprise * value).unsqueeze(2) * key.unsqueeze(1)
        return torch.sigmoid(self.decay) * memory + association

    def forward(self, x):
        keys, values = self.kv(x).chunk(2, dim=-1)
        keys = F.normalize(keys, dim=-1)
        queries = F.normalize(self.q(x), dim=-1)
        memory = self.initial_memory(x.size(0), x)
        recalled = []
        for key, value, query in zip(keys.unbind(1), values.unbind(1), queries.unbind(1)):
            memory = self.memorise(memory, key, value)
            recalled.append(self.recall(memory, query))
        return self.o(torch.stack(recalled, dim=1))


class MemoryAugmentedLayer(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.pre = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.ltm = NeuralLongTermMemory(d_model)
        # how much each of the two sources counts, decided separately
        self.attention_gate = nn.Linear(d_model, d_model)
        self.memory_gate = nn.Linear(d_model, d_model)
        self.post = nn.LayerNorm(d_model)
        self.ff = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        n = x.size(1)
        blocked = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        h = self.pre(x)
        attended = self.attn(h, h, h, attn_mask=blocked, need_weights=False)[0]
        recalled = self.ltm(h)
        ga = torch.sigmoid(self.attention_gate(h))
        gm = torch.sigmoid(self.memory_gate(h))
        x = x + ga * attended + gm * recalled
        return x + self.ff(self.post(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 512):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.embed_pos = nn.Embedding(max_len, d_model)
        self.layers = nn.ModuleList(MemoryAugmentedLayer(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        self.unembed = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.LongTensor) -> torch.FloatTensor:
        x = self.embed(tokens) + self.embed_pos(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.layers:
            x = layer(x)
        return self.unembed(self.norm(x))


if __name__ == "__main__":
    net = MemoryTransformer()
    ids = torch.randint(0, 256, (2, 16))
    net(ids).logsumexp(-1).mean().backward()
    print("ok")
