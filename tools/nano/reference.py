"""The V4 forward pass once more, in the plainest form, straight from a checkpoint folder: the check on model.py.

One sequence, exact mode: weights dequantised, no activation rounded, one dtype (f64 by default) throughout. It shares no code
with model.py, quant.py or checkpoint.py. Formulas: spec/architecture.md 2-8.
"""
import json
import math
import os
import struct

import torch
import torch.nn.functional as F


class Reference:
    def __init__(self, folder, dtype=torch.float64, device="cpu"):
        self.dtype, self.device = dtype, device
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            self.c = json.load(f)
        with open(os.path.join(folder, "model.safetensors"), "rb") as f:
            size = struct.unpack("<Q", f.read(8))[0]
            self.header = json.loads(f.read(size))
            self.bytes = f.read()
        self.cache = {}

    def raw(self, name):
        begin, end = self.header[name]["data_offsets"]
        return torch.frombuffer(bytearray(self.bytes[begin:end]), dtype=torch.uint8)

    def tensor(self, name):
        """A BF16, F32 or I64 tensor; BF16 is the upper half of an f32."""
        if name not in self.cache:
            entry, raw = self.header[name], self.raw(name)
            if entry["dtype"] == "BF16":
                value = (raw.view(torch.int16).to(torch.int32) << 16).view(torch.float32)
            else:
                value = raw.view({"F32": torch.float32, "I64": torch.int64}[entry["dtype"]])
            value = value.reshape(entry["shape"]).to(self.device)
            self.cache[name] = value.to(self.dtype) if value.is_floating_point() else value
        return self.cache[name]

    def matrix(self, name):
        """A quantised matrix, dequantised by the definitions of spec A.1, 7.3, 7.4, bit by bit."""
        if name not in self.cache:
            entry, code = self.header[name + ".weight"], self.raw(name + ".weight").long()
            scale = self.raw(name + ".scale").double().reshape(self.header[name + ".scale"]["shape"])
            scale = 2.0 ** (scale - 127)
            if entry["dtype"] == "F8_E4M3":
                rows, cols = entry["shape"]
                e, m = (code >> 3) & 15, (code & 7).double()
                value = torch.where(e == 0, m / 8 * 2.0**-6, (1 + m / 8) * 2.0 ** (e.double() - 7))
                value = torch.where(code >= 128, -value, value).reshape(rows, cols)
                i, j = torch.arange(rows) // 128, torch.arange(cols) // 128
                value = value * scale[i][:, j]
            else:
                rows, cols = entry["shape"][0], entry["shape"][1] * 2
                nibble = torch.empty(rows, cols, dtype=torch.long)
                nibble[:, 0::2], nibble[:, 1::2] = (code & 15).reshape(rows, -1), (code >> 4).reshape(rows, -1)
                e, m = (nibble >> 1) & 3, (nibble & 1).double()
                value = torch.where(e == 0, m / 2, (1 + m / 2) * 2.0 ** (e.double() - 1))
                value = torch.where(nibble >= 8, -value, value) * scale[:, torch.arange(cols) // 32]
            self.cache[name] = value.to(self.dtype).to(self.device)
        return self.cache[name]

    def norm(self, x, weight=None):
        x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.c["rms_norm_eps"])
        return x if weight is None else x * self.tensor(weight)

    def frequencies(self, ratio):
        c, dim = self.c, self.c["qk_rope_head_dim"]
        out = []
        for i in range(dim // 2):
            theta = c["compress_rope_theta"] if ratio else c["rope_theta"]
            f = theta ** (-2.0 * i / dim)
            if ratio:
                s = c["rope_scaling"]
                length = s["original_max_position_embeddings"]
                low = math.floor(dim * math.log(length / (2 * math.pi * s["beta_fast"])) / (2 * math.log(theta)))
                high = math.ceil(dim * math.log(length / (2 * math.pi * s["beta_slow"])) / (2 * math.log(theta)))
                low, high = max(low, 0), min(high, dim - 1)
                ramp = min(max((i - low) / max(high - low, 1e-3), 0.0), 1.0)
                f = f / s["factor"] * ramp + f * (1 - ramp)
            out.append(f)
        return torch.tensor(out, dtype=torch.float64).float()

    def rope(self, x, positions, ratio, inverse=False):
        """x [T, ..., D]: pairs of the last R dims; the angle is an f32 product (spec A.5)."""
        half = self.c["qk_rope_head_dim"] // 2
        angle = positions.float()[:, None] * self.frequencies(ratio)[None]
        angle = angle.to(self.dtype).to(self.device).reshape((len(positions),) + (1,) * (x.dim() - 2) + (half,))
        cos, sin = torch.cos(angle), torch.sin(angle) * (-1 if inverse else 1)
        x = x.clone()
        a, b = x[..., -2 * half::2].clone(), x[..., -2 * half + 1::2].clone()
        x[..., -2 * half::2], x[..., -2 * half + 1::2] = a * cos - b * sin, a * sin + b * cos
        return x

    def hc_coefficients(self, x, name):
        c, n = self.c, self.c["hc_mult"]
        m = self.norm(x.flatten(1)) @ self.tensor(name + "_fn").T
        base, scale = self.tensor(name + "_base"), self.tensor(name + "_scale")
        pre = torch.sigmoid(m[:, :n] * scale[0] + base[:n]) + c["hc_eps"]
        if m.shape[1] == n:
            return pre
        post = 2 * torch.sigmoid(m[:, n:2 * n] * scale[1] + base[n:2 * n])
        a = torch.softmax((m[:, 2 * n:] * scale[2] + base[2 * n:]).reshape(-1, n, n), 2) + c["hc_eps"]
        for k in range(c["hc_sinkhorn_iters"]):
            if k:
                a = a / (a.sum(2, keepdim=True) + c["hc_eps"])
            a = a / (a.sum(1, keepdim=True) + c["hc_eps"])
        return pre, post, a

    def compressed(self, x, name, ratio):
        """Every complete block's entry, one block and one channel set at a time (spec 3.2)."""
        kv = x @ self.tensor(name + ".wkv.weight").T
        z = x @ self.tensor(name + ".wgate.weight").T
        ape, width = self.tensor(name + ".ape"), self.tensor(name + ".norm.weight").shape[0]
        out = []
        for b in range(len(x) // ratio):
            own = slice(b * ratio, (b + 1) * ratio)
            values, scores = kv[own, -width:], z[own, -width:] + ape[:, -width:]
            if ratio == 4 and b > 0:
                past = slice((b - 1) * ratio, b * ratio)
                values = torch.cat([kv[past, :width], values])
                scores = torch.cat([z[past, :width] + ape[:, :width], scores])
            out.append((torch.softmax(scores, 0) * values).sum(0))
        if not out:
            return x.new_zeros(0, width)
        entries = self.norm(torch.stack(out), name + ".norm.weight")
        return self.rope(entries, torch.arange(len(out)) * ratio, ratio)

    def attention(self, x, at, ratio):
        c, t = self.c, len(x)
        heads, dim = c["num_attention_heads"], c["head_dim"]
        positions = torch.arange(t)
        qr = self.norm(x @ self.matrix(at + "wq_a").T, at + "q_norm.weight")
        q = self.norm((qr @ self.matrix(at + "wq_b").T).reshape(t, heads, dim))
        q = self.rope(q, positions, ratio)
        kv = self.rope(self.norm(x @ self.matrix(at + "wkv").T, at + "kv_norm.weight"), positions, ratio)
        i, j = positions[:, None], positions[None]
        seen = (j <= i) & (j > i - c["sliding_window"])
        keys = kv
        if ratio:
            entries = self.compressed(x, at + "compressor", ratio)
            b = torch.arange(len(entries))[None]
            visible = b < (i + 1) // ratio
            if ratio == 4:
                visible = visible & self.chosen(x, qr, at + "indexer.", positions, visible)
            seen, keys = torch.cat([seen, visible], 1), torch.cat([kv, entries])
        s = torch.einsum("thd,kd->thk", q, keys) * dim**-0.5
        s = s.masked_fill(~seen[:, None].to(self.device), -math.inf)
        sink = self.tensor(at + "attn_sink")[None, :, None].expand(t, heads, 1)
        p = torch.softmax(torch.cat([s, sink], 2), 2)[..., :-1]
        o = self.rope(torch.einsum("thk,kd->thd", p, keys), positions, ratio, inverse=True)
        groups, wo_a = c["o_groups"], self.matrix(at + "wo_a")
        o, rank = o.reshape(t, groups, -1), c["o_lora_rank"]
        u = torch.cat([o[:, g] @ wo_a[g * rank:(g + 1) * rank].T for g in range(groups)], 1)
        return u @ self.matrix(at + "wo_b").T

    def chosen(self, x, qr, at, positions, visible):
        c = self.c
        heads, dim = c["index_n_heads"], c["index_head_dim"]
        q = self.rope((qr @ self.matrix(at + "wq_b").T).reshape(len(x), heads, dim), positions, 4)
        keys = self.compressed(x, at + "compressor", 4)
        weight = (x @ self.tensor(at + "weights_proj.weight").T) * (dim * heads) ** -0.5
        score = (torch.relu(torch.einsum("thd,kd->thk", q, keys)) * weight[..., None]).sum(1)
        score = score.masked_fill(~visible.to(self.device), -math.inf)
        top = torch.sort(score, dim=1, descending=True, stable=True).indices[:, :c["index_topk"]]  # ties: lowest entry
        return torch.zeros(score.shape, dtype=torch.bool, device=self.device).scatter(1, top, True).cpu()

    def expert(self, x, name, weight=None):
        limit = self.c["swiglu_limit"]
        gate, up = x @ self.matrix(name + ".w1").T, x @ self.matrix(name + ".w3").T
        a = F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
        return (a if weight is None else a * weight[:, None]) @ self.matrix(name + ".w2").T

    def moe(self, x, ids, at):
        c = self.c
        score = torch.sqrt(F.softplus(x @ self.tensor(at + "gate.weight").T))
        if at + "gate.tid2eid" in self.header:
            index = self.tensor(at + "gate.tid2eid")[ids.to(self.device)]
        else:
            index = torch.sort(score + self.tensor(at + "gate.bias"), dim=1, descending=True,
                               stable=True).indices[:, :c["num_experts_per_tok"]]
        weight = torch.gather(score, 1, index)
        weight = weight / weight.sum(1, keepdim=True) * c["routed_scaling_factor"]
        y = torch.zeros_like(x)
        for e in range(c["n_routed_experts"]):
            row, slot = torch.where(index == e)
            if len(row):
                y.index_add_(0, row, self.expert(x[row], f"{at}experts.{e}", weight[row, slot]))
        return y + self.expert(x, at + "shared_experts")

    def block(self, x, ids, layer, at, trace):
        for part in ("attn", "ffn"):
            pre, post, comb = self.hc_coefficients(x, f"{at}hc_{part}")
            h = self.norm(torch.einsum("ts,tsd->td", pre, x), f"{at}{part}_norm.weight")
            if part == "attn":
                y = self.attention(h, at + "attn.", self.c["compress_ratios"][layer])
            else:
                y = self.moe(h, ids, at + "ffn.")
            trace[f"{at}{part}.out"] = y
            x = post[:, :, None] * y[:, None] + torch.einsum("tjk,tjd->tkd", comb, x)
        trace[f"{at}out"] = x
        return x

    def top(self, x, hc, norm):
        h = torch.einsum("ts,tsd->td", self.hc_coefficients(x, hc), x)
        return self.norm(h, norm) @ self.tensor("head.weight").T

    @torch.no_grad()
    def run(self, ids):
        """ids [T]. Returns logits [T, V], MTP logits [T - 1, V] (row i predicts token i + 2), and a trace of
        layer outputs."""
        c, trace = self.c, {}
        x = self.tensor("embed.weight")[ids.to(self.device)][:, None].repeat(1, c["hc_mult"], 1)
        for layer in range(c["num_hidden_layers"]):
            x = self.block(x, ids, layer, f"layers.{layer}.", trace)
        logits = self.top(x, "hc_head", "norm.weight")
        e = self.norm(self.tensor("embed.weight")[ids[1:].to(self.device)], "mtp.0.enorm.weight")
        e = e @ self.matrix("mtp.0.e_proj").T
        g = self.norm(x[:-1], "mtp.0.hnorm.weight") @ self.matrix("mtp.0.h_proj").T
        x = self.block(g + e[:, None], ids[1:], c["num_hidden_layers"], "mtp.0.", trace)
        return logits, self.top(x, "mtp.0.hc_head", "mtp.0.norm.weight"), trace
