"""The DeepSeek-V4 architecture as a trainable PyTorch module, every part on (spec/architecture.md).

Parameters of the same kind are stacked over layers (the MTP block is the last), so that one call rounds or updates
them all. Master weights are f32. The forward pass uses them rounded to what the checkpoint will hold: FP4 experts,
FP8 dense matrices, bf16 the rest (quant.py), and rounds activations where the official model does (spec 2.4) when
`act_quant` is set. Tokens are rows: B sequences of T tokens are N = B * T rows, so that all functions but attention
and the compressors see one shape for every sequence length and are compiled once.

`positions` may have gaps (multiples of 128 at multiples of 128 tokens): visibility goes by token index.
"""
import math
import types

import torch
import torch.nn.functional as F
from torch import nn

import quant
from sinkhorn import sinkhorn


def config_of(values):
    """config.json as a namespace, with the few derived sizes that the code below uses."""
    c = types.SimpleNamespace(**values)
    c.ratios = c.compress_ratios
    c.blocks = c.num_hidden_layers + 1  # the MTP block is the last
    c.csa = [i for i in range(c.blocks) if c.ratios[i] == 4]
    c.hca = [i for i in range(c.blocks) if c.ratios[i] == 128]
    return c


def inv_freq(c, ratio):
    half = c.qk_rope_head_dim // 2
    dim = c.qk_rope_head_dim
    theta = c.rope_theta if ratio == 0 else c.compress_rope_theta
    f = 1.0 / theta ** (torch.arange(half, dtype=torch.float64) * 2 / dim)
    if ratio:
        s = c.rope_scaling
        context = s["original_max_position_embeddings"]

        def corner(turns):
            return dim * math.log(context / (2 * math.pi * turns)) / (2 * math.log(theta))

        low = max(math.floor(corner(s["beta_fast"])), 0)
        high = min(math.ceil(corner(s["beta_slow"])), dim - 1)
        ramp = ((torch.arange(half, dtype=torch.float64) - low) / max(high - low, 1e-3)).clamp(0, 1)
        f = f / s["factor"] * ramp + f * (1 - ramp)
    return f.float()


def hadamard(n):
    h = torch.ones(1, 1)
    while h.shape[0] < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return h * n**-0.5


# ---- pieces of the forward pass: plain functions of tensors, compiled on a GPU ------------------------------------

def rms_norm(x, weight, eps):
    v = x.float()
    v = v * torch.rsqrt(v.square().mean(-1, keepdim=True) + eps)
    return (v * weight).to(x.dtype)


def rotate(x, cos, sin):
    """Rotates the last dimensions of x, 2 * cos.shape[-1] of them, in pairs (2i, 2i+1)."""
    r = 2 * cos.shape[-1]
    keep, turn = x[..., :-r], x[..., -r:].float().unflatten(-1, (r // 2, 2))
    a, b = turn[..., 0], turn[..., 1]
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    return torch.cat([keep, turned.to(x.dtype)], -1)


def act(x, on):
    """Input of an FP8 or FP4 linear: E4M3 in blocks of 128, as the official kernels see it."""
    if not on:
        return x
    return quant.straight_through(x, quant.fp8_blocks, min(128, x.shape[-1]))


def kv_round_trip(kv, rope_dim, on):
    if not on:
        return kv
    body = kv[..., :-rope_dim]
    return torch.cat([quant.straight_through(body, quant.fp8_blocks, 64), kv[..., -rope_dim:]], -1)


def hc_pre(x, fn, base, scale, iters, eps, norm_eps):
    """Streams [N, 4, d] to the layer input [N, d] and the coefficients for hc_post (spec 6.1, 6.2)."""
    f = x.flatten(1).float()
    m = F.linear(f, fn) * torch.rsqrt(f.square().mean(-1, keepdim=True) + norm_eps)
    pre = torch.sigmoid(m[:, :4] * scale[0] + base[:4]) + eps
    post = 2 * torch.sigmoid(m[:, 4:8] * scale[1] + base[4:8])
    comb = sinkhorn((m[:, 8:] * scale[2] + base[8:]).reshape(-1, 4, 4), iters, eps)
    return (pre[:, :, None] * x.float()).sum(1).to(x.dtype), post, comb


def hc_post(y, x, post, comb):
    """Xnew[k] = post[k] y + sum_j comb[j][k] X[j] (spec 6.3: the first index is the source stream)."""
    mixed = (comb[:, :, :, None] * x.float()[:, :, None, :]).sum(1)
    return (post[:, :, None] * y.float()[:, None, :] + mixed).to(x.dtype)


def hc_head(x, fn, base, scale, eps, norm_eps):
    f = x.flatten(1).float()
    m = F.linear(f, fn) * torch.rsqrt(f.square().mean(-1, keepdim=True) + norm_eps)
    pre = torch.sigmoid(m * scale[0] + base) + eps
    return (pre[:, :, None] * x.float()).sum(1).to(x.dtype)


def before_attention(x, w, cos, sin, c, act_quant):
    """hc_pre, norm and projections. Returns the normed input, query latent, query, window row, post, comb."""
    h, post, comb = hc_pre(x, w["hc_attn_fn"], w["hc_attn_base"], w["hc_attn_scale"], c.hc_sinkhorn_iters, c.hc_eps,
                           c.rms_norm_eps)
    h = rms_norm(h, w["attn_norm"], c.rms_norm_eps)
    hq = act(h, act_quant)
    qr = rms_norm(F.linear(hq, w["wq_a"]), w["q_norm"], c.rms_norm_eps)
    q = F.linear(act(qr, act_quant), w["wq_b"]).unflatten(-1, (c.num_attention_heads, c.head_dim))
    v = q.float()
    q = (v * torch.rsqrt(v.square().mean(-1, keepdim=True) + c.rms_norm_eps)).to(x.dtype)
    q = rotate(q, cos[:, None], sin[:, None])
    kv = rms_norm(F.linear(hq, w["wkv"]), w["kv_norm"], c.rms_norm_eps)
    kv = kv_round_trip(rotate(kv, cos, sin), c.qk_rope_head_dim, act_quant)
    return h, qr, q, kv, post, comb


def after_attention(o, x, post, comb, w, cos, sin, c, act_quant):
    """Inverse rotation, grouped output projection, hc_post."""
    o = rotate(o, cos[:, None], -sin[:, None])
    o = o.reshape(o.shape[0], c.o_groups, -1)
    wo_a = w["wo_a"].unflatten(0, (c.o_groups, c.o_lora_rank))
    u = torch.cat([F.linear(o[:, g], wo_a[g]) for g in range(c.o_groups)], -1)
    return hc_post(F.linear(act(u, act_quant), w["wo_b"]), x, post, comb)


def swiglu(gate, up, limit):
    g = gate.float().clamp(max=limit)
    return F.silu(g) * up.float().clamp(-limit, limit)


def moe(x, w, chosen, c, act_quant):
    """hc_pre, norm, router, experts, hc_post. `chosen` [N, k]: expert ids of a hash layer, or None.

    All experts are computed for all tokens and the unchosen ones multiplied by zero: at this size three large
    matrix products beat the bookkeeping of a sparse dispatch, and the result is the same.
    Returns the streams and how many tokens chose each expert.
    """
    h, post, comb = hc_pre(x, w["hc_ffn_fn"], w["hc_ffn_base"], w["hc_ffn_scale"], c.hc_sinkhorn_iters, c.hc_eps,
                           c.rms_norm_eps)
    h = rms_norm(h, w["ffn_norm"], c.rms_norm_eps)
    score = torch.sqrt(F.softplus(F.linear(h.float(), w["gate"])))
    if chosen is None:
        chosen = torch.topk(score.detach() + w["bias"], c.num_experts_per_tok, -1).indices
    picked = torch.zeros_like(score).scatter(-1, chosen, 1.0)
    route = score * picked
    route = route / route.sum(-1, keepdim=True) * c.routed_scaling_factor

    hq = act(h, act_quant)
    dtype = h.dtype
    a = swiglu(F.linear(hq, w["ex_w1"].flatten(0, 1)), F.linear(hq, w["ex_w3"].flatten(0, 1)), c.swiglu_limit)
    a = (a.unflatten(-1, score.shape[-1:] + (c.moe_intermediate_size,)) * route[:, :, None]).to(dtype)
    y = F.linear(act(a, act_quant).flatten(1), w["ex_w2"].permute(1, 0, 2).flatten(1)).float()
    s = swiglu(F.linear(hq, w["sh_w1"]), F.linear(hq, w["sh_w3"]), c.swiglu_limit).to(dtype)
    y = y + F.linear(act(s, act_quant), w["sh_w2"]).float()
    return hc_post(y.to(dtype), x, post, comb), picked.sum(0)


def compress(h, wkv, wgate, ape, norm, cos, sin, ratio, eps):
    """[B, T, d] to one entry for each complete block, before the round trip (spec 3.2). cos, sin: [B, T/ratio, R/2]."""
    x = h.float()
    kv, z = F.linear(x, wkv).unflatten(1, (-1, ratio)), F.linear(x, wgate).unflatten(1, (-1, ratio)) + ape
    if ratio == 4:  # the first half of the channels is a token's part in the next block's entry
        half = kv.shape[-1] // 2

        def pair(v, empty):
            before = F.pad(v[:, :-1, :, :half], (0, 0, 0, 0, 1, 0), value=empty)
            return torch.cat([before, v[..., half:]], 2)

        kv, z = pair(kv, 0.0), pair(z, -1e30)
    entry = (torch.softmax(z, 2) * kv).sum(2).to(h.dtype)
    return rotate(rms_norm(entry, norm, eps), cos, sin)


def window_scores(q, kv, scale, block):
    """Scores of each query with its own and the previous block of keys, and those keys.

    q [B, T, H, D], kv [B, T, D]; block is the sliding window. Returns [B, T, H, 2 * block] and [B, T/block, 2 * block, D].
    """
    batch, tokens, heads, dim = q.shape
    keys = kv.unflatten(1, (-1, block))
    keys = torch.cat([F.pad(keys[:, :-1], (0, 0, 0, 0, 1, 0)), keys], 2)
    s = torch.matmul(q.reshape(batch, tokens // block, block * heads, dim), keys.transpose(-1, -2)) * scale
    s = s.reshape(batch, tokens // block, block, heads, 2 * block)
    i = torch.arange(block, device=q.device)[:, None]
    j = torch.arange(2 * block, device=q.device)[None]
    near = (j > i) & (j <= i + block)
    first = torch.arange(tokens // block, device=q.device)[:, None, None] == 0
    seen = near[None] & ~(first & (j < block)[None])
    s = s.masked_fill(~seen[None, :, :, None, :], -1e30)
    return s.reshape(batch, tokens, heads, 2 * block), keys


def attend(q, kv, entries, seen, sink, block):
    """One softmax over window, compressed entries and sink (spec 2.3 steps 9-12, 5). seen: [B or 1, T, E] bool."""
    batch, tokens, heads, dim = q.shape
    scale = dim**-0.5
    s, keys = window_scores(q, kv, scale, block)
    parts = [s]
    if entries is not None:
        sc = torch.matmul(q.reshape(batch, tokens * heads, dim), entries.transpose(-1, -2)) * scale
        parts.append(sc.reshape(batch, tokens, heads, -1).masked_fill(~seen[:, :, None, :], -1e30))
    parts.append(sink.to(s.dtype)[None, None, :, None].expand(batch, tokens, heads, 1))
    p = torch.softmax(torch.cat(parts, -1).float(), -1).to(q.dtype)
    near = p[..., :2 * block].reshape(batch, tokens // block, block * heads, 2 * block)
    o = torch.matmul(near, keys).reshape(batch, tokens, heads, dim)
    if entries is not None:
        far = p[..., 2 * block:-1].reshape(batch, tokens * heads, -1)
        o = o + torch.matmul(far, entries).reshape(batch, tokens, heads, dim)
    return o


def complete(tokens, ratio, device):
    """[T, T/ratio]: entry b is visible to the token at index t iff b < (t + 1) / ratio."""
    t = torch.arange(tokens, device=device)[:, None]
    return torch.arange(tokens // ratio, device=device)[None] < (t + 1) // ratio


def window_attention(q, kv, w, c):
    return attend(q, kv, None, None, w["sink"], c.sliding_window)


def hca_attention(q, kv, h, w, cos, sin, c, act_quant):
    entries = compress(h, w["comp_wkv"], w["comp_wgate"], w["comp_ape"], w["comp_norm"], cos, sin, 128, c.rms_norm_eps)
    entries = kv_round_trip(entries, c.qk_rope_head_dim, act_quant)
    return attend(q, kv, entries, complete(q.shape[1], 128, q.device)[None], w["sink"], c.sliding_window)


def csa_attention(q, kv, h, qr, w, cos, sin, cos_q, sin_q, rotation, c, act_quant, sparse):
    """CSA with its indexer. Returns the output and the indexer's loss: the cross-entropy of its softmax against
    the attention that the layer itself pays to the entries (summed over heads, no gradient into the trunk)."""
    entries = compress(h, w["comp_wkv"], w["comp_wgate"], w["comp_ape"], w["comp_norm"], cos, sin, 4, c.rms_norm_eps)
    entries = kv_round_trip(entries, c.qk_rope_head_dim, act_quant)
    seen = complete(q.shape[1], 4, q.device)[None]

    h, qr = h.detach(), qr.detach()
    keys = compress(h, w["idx_comp_wkv"], w["idx_comp_wgate"], w["idx_comp_ape"], w["idx_comp_norm"], cos, sin, 4,
                    c.rms_norm_eps)
    iq = F.linear(act(qr, act_quant), w["idx_wq_b"]).unflatten(-1, (c.index_n_heads, c.index_head_dim))
    iq = rotate(iq, cos_q[:, :, None], sin_q[:, :, None])
    iq, keys = torch.matmul(iq, rotation), torch.matmul(keys, rotation)
    if act_quant:
        iq = quant.straight_through(iq, quant.fp4_blocks, 32)
        keys = quant.straight_through(keys, quant.fp4_blocks, 32)
    head_weight = F.linear(h, w["idx_weights_proj"]).float() * (c.index_head_dim**-0.5 * c.index_n_heads**-0.5)
    dots = torch.einsum("bthd,bed->bthe", iq, keys)
    score = (torch.relu(dots).float() * head_weight[..., None]).sum(2).masked_fill(~seen, -1e30)

    with torch.no_grad():
        s = torch.einsum("bthd,bed->bthe", q, entries).float() * c.head_dim**-0.5
        target = torch.softmax(s.masked_fill(~seen[:, :, None, :], -1e30), -1).mean(2)
        any_seen = seen.any(-1).float().expand(q.shape[0], -1)
    loss = -(target * torch.log_softmax(score, -1)).sum(-1)
    loss = (loss * any_seen).sum() / any_seen.sum().clamp(min=1)

    if sparse and keys.shape[1] > c.index_topk:
        if q.dtype == torch.float32:  # exact mode: equal scores, often zeros, go to the lowest entry
            top = torch.sort(score, dim=-1, descending=True, stable=True).indices[..., :c.index_topk]
        else:
            top = torch.topk(score.detach(), c.index_topk, -1).indices
        seen = seen & torch.zeros_like(score, dtype=torch.bool).scatter(-1, top, True)
    return attend(q, kv, entries, seen, w["sink"], c.sliding_window), loss


# The weights that each piece reads: what is handed in is exactly this, so that layers of one kind share compiled code.
READS = {
    "before_attention": ("hc_attn_fn", "hc_attn_base", "hc_attn_scale", "attn_norm", "wq_a", "q_norm", "wq_b", "wkv",
                         "kv_norm"),
    "after_attention": ("wo_a", "wo_b"),
    "window_attention": ("sink",),
    "hca_attention": ("sink", "comp_wkv", "comp_wgate", "comp_ape", "comp_norm"),
    "csa_attention": ("sink", "comp_wkv", "comp_wgate", "comp_ape", "comp_norm", "idx_wq_b", "idx_weights_proj",
                      "idx_comp_wkv", "idx_comp_wgate", "idx_comp_ape", "idx_comp_norm"),
    "moe": ("hc_ffn_fn", "hc_ffn_base", "hc_ffn_scale", "ffn_norm", "gate", "bias", "ex_w1", "ex_w3", "ex_w2", "sh_w1",
            "sh_w3", "sh_w2"),
}


# ---- the module ---------------------------------------------------------------------------------------------------

class Nano(nn.Module):
    """Streams in, logits out. `pieces` holds the functions above, compiled or not."""

    FP4 = ("ex_w1", "ex_w3", "ex_w2")
    FP8 = ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "sh_w1", "sh_w3", "sh_w2", "idx_wq_b", "mtp_e_proj", "mtp_h_proj")
    BF16 = ("embed", "head", "norm", "attn_norm", "ffn_norm", "q_norm", "kv_norm", "gate", "csa_wkv", "csa_wgate",
            "csa_norm", "hca_wkv", "hca_wgate", "hca_norm", "idx_comp_wkv", "idx_comp_wgate", "idx_comp_norm",
            "idx_weights_proj", "mtp_enorm", "mtp_hnorm", "mtp_norm")
    F32_IN_USE = ("norm", "gate", "wgate", "csa_wkv", "hca_wkv", "comp_wkv")  # bf16 values, f32 arithmetic

    def __init__(self, c, seed=0, dtype=torch.bfloat16):
        super().__init__()
        self.c, self.dtype = c, dtype
        self.fp4_weights = self.act_quant = True
        gen = torch.Generator().manual_seed(seed)
        n, d, nc, nh = c.blocks, c.hidden_size, len(c.csa), len(c.hca)
        heads, hd, idx = c.num_attention_heads, c.head_dim, c.index_head_dim
        experts, inner = c.n_routed_experts, c.moe_intermediate_size

        def normal(*shape, std=None):
            std = shape[-1] ** -0.5 * 0.6 if std is None else std
            return nn.Parameter(torch.randn(*shape, generator=gen) * std)

        def const(value, *shape):
            return nn.Parameter(torch.full(shape, float(value)))

        self.embed, self.head = normal(c.vocab_size, d, std=0.05), normal(c.vocab_size, d, std=0.02)
        self.norm, self.attn_norm, self.ffn_norm = const(1, d), const(1, n, d), const(1, n, d)
        self.q_norm, self.kv_norm = const(1, n, c.q_lora_rank), const(1, n, hd)
        self.sink = const(0, n, heads)
        self.wq_a, self.wq_b = normal(n, c.q_lora_rank, d), normal(n, heads * hd, c.q_lora_rank)
        self.wkv = normal(n, hd, d)
        self.wo_a = normal(n, c.o_groups * c.o_lora_rank, heads // c.o_groups * hd)
        self.wo_b = normal(n, d, c.o_groups * c.o_lora_rank)
        self.gate = normal(n, experts, d)
        self.ex_w1, self.ex_w3 = normal(n, experts, inner, d), normal(n, experts, inner, d)
        self.ex_w2 = normal(n, experts, d, inner)
        self.sh_w1, self.sh_w3, self.sh_w2 = normal(n, inner, d), normal(n, inner, d), normal(n, d, inner)
        self.csa_wkv, self.csa_wgate = normal(nc, 2 * hd, d), normal(nc, 2 * hd, d)
        self.csa_ape, self.csa_norm = const(0, nc, 4, 2 * hd), const(1, nc, hd)
        self.hca_wkv, self.hca_wgate = normal(nh, hd, d), normal(nh, hd, d)
        self.hca_ape, self.hca_norm = const(0, nh, 128, hd), const(1, nh, hd)
        self.idx_wq_b = normal(nc, c.index_n_heads * idx, c.q_lora_rank)
        self.idx_weights_proj = normal(nc, c.index_n_heads, d)
        self.idx_comp_wkv, self.idx_comp_wgate = normal(nc, 2 * idx, d), normal(nc, 2 * idx, d)
        self.idx_comp_ape, self.idx_comp_norm = const(0, nc, 4, 2 * idx), const(1, nc, idx)
        self.mtp_e_proj, self.mtp_h_proj = normal(d, d), normal(d, d)
        self.mtp_enorm, self.mtp_hnorm, self.mtp_norm = const(1, d), const(1, d), const(1, d)
        for name in ("hc_attn", "hc_ffn"):
            base = torch.zeros(n, 24)
            for layer in range(n):  # read mostly one stream, write all a little differently, keep streams apart
                base[layer, :4] = -2.0
                base[layer, layer % 4] = 1.5
                base[layer, 4:8] = torch.randn(4, generator=gen) * 0.3
                base[layer, 8:] = (4.0 * torch.eye(4)).flatten()
            setattr(self, name + "_fn", normal(n, 24, 4 * d, std=0.02))
            setattr(self, name + "_base", nn.Parameter(base))
            setattr(self, name + "_scale", const(0.2, n, 3))
        for name in ("hc_head", "mtp_hc_head"):
            setattr(self, name + "_fn", normal(4, 4 * d, std=0.02))
            setattr(self, name + "_base", const(-1.0986, 4))
            setattr(self, name + "_scale", const(0.2, 1))
        self.register_buffer("bias", torch.zeros(n, experts))
        hashed = torch.rand(c.num_hash_layers, c.vocab_size, experts, generator=gen)
        self.register_buffer("tid2eid", hashed.argsort(-1)[..., :c.num_experts_per_tok].contiguous())
        self.register_buffer("rotation", hadamard(idx), persistent=False)
        self.register_buffer("freq0", inv_freq(c, 0), persistent=False)
        self.register_buffer("freq1", inv_freq(c, 4), persistent=False)
        self.pieces = types.SimpleNamespace(
            before_attention=before_attention, after_attention=after_attention, moe=moe, hc_head=hc_head,
            window_attention=window_attention, hca_attention=hca_attention, csa_attention=csa_attention)

    def compile(self):
        for name, piece in vars(self.pieces).items():
            setattr(self.pieces, name, torch.compile(piece, dynamic=False))

    def rounded(self):
        """Every weight as the checkpoint will hold it, by name; matrices in the compute dtype."""
        out = {}
        for name, p in self.named_parameters():
            if name in self.FP4 and self.fp4_weights:
                out[name] = quant.RoundedWeight.apply(p, quant.round_weight_fp4, self.dtype)
            elif name in self.FP8:
                out[name] = quant.RoundedWeight.apply(p, quant.round_weight_fp8, self.dtype)
            elif name in self.BF16:
                v = p.to(torch.bfloat16)
                f32 = any(name.endswith(s) for s in self.F32_IN_USE)
                out[name] = v.float() if f32 else v.to(self.dtype)
            elif name in self.FP4:
                out[name] = p.to(self.dtype)
            else:
                out[name] = p
        return out

    def layers(self, w):
        """The weights of each block as a dictionary of its own."""
        c = self.c
        per_block = ("attn_norm", "ffn_norm", "q_norm", "kv_norm", "sink", "wq_a", "wq_b", "wkv", "wo_a", "wo_b",
                     "gate", "ex_w1", "ex_w3", "ex_w2", "sh_w1", "sh_w3", "sh_w2", "hc_attn_fn", "hc_attn_base",
                     "hc_attn_scale", "hc_ffn_fn", "hc_ffn_base", "hc_ffn_scale")
        split = {name: w[name].unbind(0) for name in per_block}
        out = [{name: split[name][i] for name in per_block} for i in range(c.blocks)]
        for i in range(c.blocks):
            out[i]["bias"] = self.bias[i]
        for kind, layers in (("csa", c.csa), ("hca", c.hca)):
            for name in ("wkv", "wgate", "ape", "norm"):
                for i, v in zip(layers, w[f"{kind}_{name}"].unbind(0)):
                    out[i]["comp_" + name] = v
        for name in ("idx_wq_b", "idx_weights_proj", "idx_comp_wkv", "idx_comp_wgate", "idx_comp_ape",
                     "idx_comp_norm"):
            for i, v in zip(c.csa, w[name].unbind(0)):
                out[i][name] = v
        return out

    def block(self, i, x, w, ids, rope, shape, sparse):
        c, ratio = self.c, self.c.ratios[i]
        use = {piece: {name: w[name] for name in names if name in w} for piece, names in READS.items()}
        cos, sin = rope[0 if ratio == 0 else 1]
        h, qr, q, kv, post, comb = self.pieces.before_attention(x, use["before_attention"], cos, sin, c, self.act_quant)
        q4, kv3 = q.unflatten(0, shape), kv.unflatten(0, shape)
        loss = None
        if ratio == 0:
            o = self.pieces.window_attention(q4, kv3, use["window_attention"], c)
        else:
            h3, cos3, sin3 = h.unflatten(0, shape), cos.unflatten(0, shape), sin.unflatten(0, shape)
            cos_b, sin_b = cos3[:, ::ratio].contiguous(), sin3[:, ::ratio].contiguous()
            if ratio == 4:
                o, loss = self.pieces.csa_attention(q4, kv3, h3, qr.unflatten(0, shape), use["csa_attention"], cos_b,
                                                    sin_b, cos3, sin3, self.rotation.to(self.dtype), c,
                                                    self.act_quant, sparse)
            else:
                o = self.pieces.hca_attention(q4, kv3, h3, use["hca_attention"], cos_b, sin_b, c, self.act_quant)
        x = self.pieces.after_attention(o.flatten(0, 1), x, post, comb, use["after_attention"], cos, sin, c,
                                        self.act_quant)
        chosen = self.tid2eid[i][ids] if i < c.num_hash_layers else None
        x, load = self.pieces.moe(x, use["moe"], chosen, c, self.act_quant)
        return x, load, loss

    def forward(self, ids, next_ids, positions=None, sparse=True):
        """ids [B, T]; next_ids [B, T], the ids one further on, feed the MTP block.

        Returns hidden rows [N, d] for the head and for the MTP head, expert loads [blocks, E], indexer losses.
        """
        c, shape = self.c, tuple(ids.shape)
        if positions is None:
            positions = torch.arange(shape[1], device=ids.device).expand(shape)
        angle = [positions.reshape(-1, 1).float() * f for f in (self.freq0, self.freq1)]
        rope = [(a.cos(), a.sin()) for a in angle]
        w = self.rounded()
        layers = self.layers(w)
        flat, flat_next = ids.reshape(-1), next_ids.reshape(-1)
        x = F.embedding(flat, w["embed"])[:, None].expand(-1, c.hc_mult, -1).contiguous()
        loads, losses = [], []
        for i in range(c.num_hidden_layers):
            x, load, loss = self.block(i, x, layers[i], flat, rope, shape, sparse)
            loads.append(load)
            losses += [] if loss is None else [loss]
        h = self.pieces.hc_head(x, w["hc_head_fn"], w["hc_head_base"], w["hc_head_scale"], c.hc_eps, c.rms_norm_eps)
        h = rms_norm(h, w["norm"], c.rms_norm_eps)

        e = rms_norm(F.embedding(flat_next, w["embed"]), w["mtp_enorm"], c.rms_norm_eps)
        e = F.linear(act(e, self.act_quant), w["mtp_e_proj"])
        g = rms_norm(x, w["mtp_hnorm"], c.rms_norm_eps)
        g = F.linear(act(g, self.act_quant), w["mtp_h_proj"])
        last = c.num_hidden_layers
        x, load, _ = self.block(last, g + e[:, None], layers[last], flat_next, rope, shape, sparse)
        loads.append(load)
        m = self.pieces.hc_head(x, w["mtp_hc_head_fn"], w["mtp_hc_head_base"], w["mtp_hc_head_scale"], c.hc_eps,
                                c.rms_norm_eps)
        m = rms_norm(m, w["mtp_norm"], c.rms_norm_eps)
        return h, m, w["head"], torch.stack(loads), losses

    @torch.no_grad()
    def balance(self, loads, speed):
        """Moves the selection bias of score-routed layers toward equal loads (no auxiliary loss)."""
        step = speed * torch.sign(loads.mean(-1, keepdim=True) - loads)
        step[:self.c.num_hash_layers] = 0
        self.bias += step
