"""The Llama architecture, small, in PyTorch: RMSNorm, rotary positions on neighbouring pairs (as GGUF's "llama"
expects them, so that nothing is permuted on export), SwiGLU, tied embeddings."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

EPS, ROPE_BASE, HEAD = 1e-5, 10000.0, 32

CONFIGS = {
    #           width, layers, heads, feed-forward
    "target": dict(width=160, layers=12, heads=5, ffn=384),
    "draft": dict(width=64, layers=5, heads=2, ffn=160),
}
CONTEXT = 512


class Block(nn.Module):
    def __init__(self, width, heads, ffn):
        super().__init__()
        self.heads, self.short = heads, False               # short: products in bfloat16, for processors that have them
        self.attn_norm, self.ffn_norm = nn.RMSNorm(width, EPS), nn.RMSNorm(width, EPS)
        self.qkv = nn.Linear(width, 3 * HEAD * heads, False)
        self.out = nn.Linear(HEAD * heads, width, False)
        self.gate_up = nn.Linear(width, 2 * ffn, False)
        self.down = nn.Linear(ffn, width, False)
        for w in (self.qkv, self.gate_up):
            nn.init.normal_(w.weight, std=0.5 / math.sqrt(width))
        for w in (self.out, self.down):
            nn.init.zeros_(w.weight)

    def forward(self, x, turn, cache):
        b, t, _ = x.shape
        q, k, v = self.times(self.qkv, self.attn_norm(x)).view(b, t, 3, self.heads, HEAD).unbind(2)
        q, k, v = rotate(q, turn).transpose(1, 2), rotate(k, turn).transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        mask = None
        if k.shape[2] > t > 1:
            mask = torch.ones(t, k.shape[2], dtype=torch.bool).tril(k.shape[2] - t)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and t > 1)
        x = x + self.times(self.out, y.transpose(1, 2).reshape(b, t, -1))
        gate, up = self.times(self.gate_up, self.ffn_norm(x)).chunk(2, -1)
        return x + self.times(self.down, F.silu(gate) * up)

    def times(self, layer, x):
        return F.linear(x.bfloat16(), layer.weight.bfloat16()).float() if self.short else layer(x)


def rotate(x, turn):
    """Each neighbouring pair as a complex number, times turn's: one product instead of four over strides."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)


class Llama(nn.Module):
    def __init__(self, vocab, width, layers, heads, ffn):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, ffn) for _ in range(layers))
        self.norm = nn.RMSNorm(width, EPS)
        angle = torch.arange(CONTEXT)[:, None] * ROPE_BASE ** (-torch.arange(0, HEAD, 2) / HEAD)
        self.register_buffer("turn", torch.polar(torch.ones_like(angle), angle)[:, None], persistent=False)

    def forward(self, ids, caches=None):
        """ids (batch, time) -> logits (batch, time, vocab); caches: a list of lists, one a layer, to go on from."""
        start = caches[0][0].shape[2] if caches and caches[0] else 0
        turn, x = self.turn[start:start + ids.shape[1]], self.embed(ids)
        for i, block in enumerate(self.blocks):
            x = block(x, turn, None if caches is None else caches[i])
        return self.norm(x) @ self.embed.weight.T

    def new_caches(self):
        return [[] for _ in self.blocks]


def build(name, vocab):
    return Llama(vocab, **CONFIGS[name])
