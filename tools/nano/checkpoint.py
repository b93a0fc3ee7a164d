"""The official checkpoint format: safetensors files, FP4 / FP8 / E8M0 bytes, and the names of spec 9.1.

`save(model, folder)` writes what the model's forward pass used, exactly; `load(model, folder)` reads it back.
reference.py has its own decoding, so that a mistake here does not hide itself.
"""
import json
import os
import struct

import torch

import quant

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def e4m3_table():
    """Values of codes 0..126 (127 is NaN): ascending, so a code is a place in the table."""
    codes = torch.arange(127)
    exponent, mantissa = (codes >> 3).float(), (codes & 7).float()
    return torch.where(codes < 8, mantissa * 2.0**-9, (1 + mantissa / 8) * torch.exp2(exponent - 7))


E4M3 = e4m3_table()


def encode(table, values, sign_bit):
    """Codes of values that are in the table exactly, up to sign."""
    code = torch.searchsorted(table, values.abs().contiguous())
    if not torch.equal(table[code.clamp(max=len(table) - 1)], values.abs()):
        raise ValueError("a value is not representable")
    return (code + torch.signbit(values).long() * sign_bit).to(torch.uint8)


def encode_e8m0(scale):
    bits = scale.contiguous().view(torch.int32)
    if bool(((bits & 0x7FFFFF) != 0).any()):
        raise ValueError("a scale is not a power of two")
    return (bits >> 23).to(torch.uint8)


def fp8_tensors(name, w):
    scale = quant.weight_scale_fp8(w)
    spread = quant.spread_fp8_scale(scale, w.shape[-2], w.shape[-1])
    codes = encode(E4M3, quant.round_e4m3(w.float() / spread), 128)
    return {name + ".weight": ("F8_E4M3", codes), name + ".scale": ("F8_E8M0", encode_e8m0(scale))}


def fp4_tensors(name, w):
    scale = quant.weight_scale_fp4(w)
    codes = encode(E2M1, quant.round_e2m1(w.float() / scale.repeat_interleave(32, -1)), 8)
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4)  # element 2k in the low nibble
    return {name + ".weight": ("I8", packed), name + ".scale": ("F8_E8M0", encode_e8m0(scale))}


def places(c):
    """(official name without suffix, parameter of the model, index in it, format) of every tensor."""
    top = [("embed.weight", "embed", (), "bf16"), ("head.weight", "head", (), "bf16"),
           ("norm.weight", "norm", (), "bf16")]
    top += [(f"hc_head_{p}", f"hc_head_{p}", (), "f32") for p in ("fn", "base", "scale")]
    top += [(f"mtp.0.hc_head_{p}", f"mtp_hc_head_{p}", (), "f32") for p in ("fn", "base", "scale")]
    top += [(f"mtp.0.{p}.weight", f"mtp_{p}", (), "bf16") for p in ("enorm", "hnorm", "norm")]
    top += [(f"mtp.0.{p}", f"mtp_{p}", (), "fp8") for p in ("e_proj", "h_proj")]
    for i in range(c.blocks):
        at = f"layers.{i}." if i < c.num_hidden_layers else "mtp.0."
        top += [(at + f"{n}.weight", n, (i,), "bf16") for n in ("attn_norm", "ffn_norm")]
        top += [(at + f"hc_{s}_{p}", f"hc_{s}_{p}", (i,), "f32") for s in ("attn", "ffn")
                for p in ("fn", "base", "scale")]
        top += [(at + "attn.attn_sink", "sink", (i,), "f32")]
        top += [(at + f"attn.{n}.weight", n, (i,), "bf16") for n in ("q_norm", "kv_norm")]
        top += [(at + f"attn.{n}", n, (i,), "fp8") for n in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b")]
        top += [(at + "ffn.gate.weight", "gate", (i,), "bf16")]
        top += [(at + "ffn.gate.tid2eid", "tid2eid", (i,), "i64") if i < c.num_hash_layers else
                (at + "ffn.gate.bias", "bias", (i,), "f32")]
        top += [(at + f"ffn.shared_experts.{n}", "sh_" + n, (i,), "fp8") for n in ("w1", "w2", "w3")]
        top += [(at + f"ffn.experts.{e}.{n}", "ex_" + n, (i, e), "fp4") for e in range(c.n_routed_experts)
                for n in ("w1", "w2", "w3")]
        for kind, layers in (("csa", c.csa), ("hca", c.hca)):
            if i in layers:
                k = (layers.index(i),)
                top += [(at + "attn.compressor.ape", f"{kind}_ape", k, "f32")]
                top += [(at + f"attn.compressor.{n}.weight", f"{kind}_{n}", k, "bf16") for n in
                        ("wkv", "wgate", "norm")]
        if i in c.csa:
            k = (c.csa.index(i),)
            top += [(at + "attn.indexer.wq_b", "idx_wq_b", k, "fp8"),
                    (at + "attn.indexer.weights_proj.weight", "idx_weights_proj", k, "bf16"),
                    (at + "attn.indexer.compressor.ape", "idx_comp_ape", k, "f32")]
            top += [(at + f"attn.indexer.compressor.{n}.weight", f"idx_comp_{n}", k, "bf16") for n in
                    ("wkv", "wgate", "norm")]
    return top


def tensors_of(model):
    out = {}
    for name, parameter, index, form in places(model.c):
        v = getattr(model, parameter).detach().cpu()[index]
        if form == "fp8":
            out.update(fp8_tensors(name, v))
        elif form == "fp4":
            out.update(fp4_tensors(name, v))
        elif form == "bf16":
            out[name] = ("BF16", v.to(torch.bfloat16).contiguous().view(torch.int16))
        elif form == "f32":
            out[name] = ("F32", v.float().contiguous())
        else:
            out[name] = ("I64", v.long().contiguous())
    return out


def write_safetensors(path, tensors, metadata=None):
    """tensors: name -> (dtype word, tensor of the same bytes). Names are written in sorted order."""
    header, offset = {"__metadata__": metadata} if metadata else {}, 0
    order = sorted(tensors, key=lambda n: (-width(tensors[n][0]), n))  # wide types first keeps all aligned
    for name in order:
        dtype, v = tensors[name]
        size = v.numel() * v.element_size()
        header[name] = {"dtype": dtype, "shape": list(v.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            f.write(tensors[name][1].contiguous().numpy().tobytes())


def width(dtype):
    return {"I64": 8, "F32": 4, "I32": 4, "BF16": 2}.get(dtype, 1)


def read_safetensors(path):
    """name -> (dtype word, tensor): F8 and I8 as uint8 codes, the rest in their own type."""
    kinds = {"F8_E4M3": torch.uint8, "F8_E8M0": torch.uint8, "I8": torch.uint8, "U8": torch.uint8, "F32": torch.float32,
             "I64": torch.int64, "I32": torch.int32, "BF16": torch.bfloat16}
    with open(path, "rb") as f:
        data = bytearray(f.read())
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(bytes(data[8:8 + size]))
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = torch.tensor(bytearray(data[8 + size + begin:8 + size + end]), dtype=torch.uint8)
        out[name] = (entry["dtype"], raw.view(kinds[entry["dtype"]]).reshape(entry["shape"]))
    return out


def decode(tensors, name):
    """The f32 values of matrix `name` (without .weight / .scale)."""
    dtype, codes = tensors[name + ".weight"]
    scale = torch.exp2(tensors[name + ".scale"][1].float() - 127)
    sign = 1.0 - 2.0 * (codes >> (7 if dtype == "F8_E4M3" else 3) & 1).float()
    if dtype == "F8_E4M3":
        rows, cols = codes.shape
        return sign * E4M3[(codes & 127).long()] * quant.spread_fp8_scale(scale, rows, cols)
    nibbles = torch.stack([codes & 15, codes >> 4], -1).flatten(-2).long()
    values = E2M1[nibbles & 7] * (1.0 - 2.0 * (nibbles >> 3).float())
    return values * scale.repeat_interleave(32, -1)


def load(model, folder):
    tensors = read_safetensors(os.path.join(folder, "model.safetensors"))
    with torch.no_grad():
        for name, parameter, index, form in places(model.c):
            v = decode(tensors, name) if form in ("fp8", "fp4") else tensors[name][1]
            target = getattr(model, parameter)
            target[index] = v.to(target.dtype).to(target.device)


def save(model, folder):
    """Writes model.safetensors and checks that reading it back gives the values the forward pass used."""
    tensors = tensors_of(model)
    path = os.path.join(folder, "model.safetensors")
    write_safetensors(path, tensors, {"format": "pt"})
    back = read_safetensors(path)
    for name, parameter, index, form in places(model.c):
        if form in ("fp8", "fp4"):
            master = getattr(model, parameter).detach().cpu()[index]
            rounding = quant.round_weight_fp8 if form == "fp8" else quant.round_weight_fp4
            if not torch.equal(decode(back, name), rounding(master)):
                raise ValueError(f"{name}: the file does not hold what the forward pass used")
    return os.path.getsize(path)
