#!/usr/bin/env python3
"""Checks an exported model, and the code that trained it, against two independent computations.

    python3 check.py --oracle DIR                         model.py and reference.py against the official code's logits
    python3 check.py --model DIR [--streams FILE --golden FILE]  the exported files: reference.py (f64) against model.py
                                                          (f32); --golden writes ids and logits for the engine's tests
    python3 check.py --sinkhorn                           the Triton kernels against plain arithmetic (needs a GPU)

Exact mode throughout: dequantised weights, no activation rounded. Exits with 1 when a bound is missed.
"""
import argparse
import json
import os
import sys

import torch

import checkpoint
import model as nano
from reference import Reference
from sinkhorn import sinkhorn, sinkhorn_plain

BOUND = 1e-4  # on logits of magnitude 10
failed = []


def report(what, difference, bound):
    print(f"{'ok' if difference <= bound else 'FAILED'}: {what}: {difference:.2e} (bound {bound:.0e})", flush=True)
    if not difference <= bound:
        failed.append(what)


def training_forward(folder, ids, device="cpu"):
    """Logits of trunk and MTP by model.py in f32, activations not rounded."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        model = nano.Nano(nano.config_of(json.load(f)), dtype=torch.float32)
    checkpoint.load(model, folder)
    model.act_quant = False
    model.to(device)
    padded = torch.cat([ids, torch.zeros(-len(ids) % 128 + 1, dtype=torch.long)]).to(device)[None]
    with torch.no_grad():
        h, m, head, _, _ = model(padded[:, :-1], padded[:, 1:], sparse=True)
    return (h @ head.T)[:len(ids)].cpu(), (m @ head.T)[:len(ids) - 1].cpu()


def difference(a, b):
    return (a.double().cpu() - b.double().cpu()).abs().max().item()


def check_oracle(folder):
    known = {k: v for k, (_, v) in checkpoint.read_safetensors(os.path.join(folder, "exact.safetensors")).items()
             if "logits" in k or "rows" in k or k == "ids"}
    ids, rows, mtp_rows = known["ids"].long(), known["rows"].long(), known["mtp.rows"].long()
    for name, (logits, mtp) in (("reference.py", Reference(folder).run(ids)[:2]),
                                ("model.py", training_forward(folder, ids))):
        report(f"{name}, oracle logits", difference(logits[rows], known["logits"]), BOUND)
        report(f"{name}, oracle MTP logits", difference(mtp[mtp_rows], known["mtp.logits"]), BOUND)


def check_model(folder, streams, golden, device):
    import numpy
    if streams:
        data = numpy.load(streams)
        begin = data["held_chat.begins"]
        long = [i for i in range(len(begin) - 1) if 560 <= begin[i + 1] - begin[i] <= 700]
        first = long[0] if long else 0
        ids = torch.from_numpy(data["held_chat.ids"][begin[first]:begin[first] + 650].astype(numpy.int64))
        ids = ids[:begin[first + 1] - begin[first]] if long else ids
    else:
        ids = torch.randint(0, 256, (600,), generator=torch.Generator().manual_seed(1))
    logits, mtp, _ = Reference(folder, torch.float64, device).run(ids)
    again, mtp_again = training_forward(folder, ids)
    report(f"exported files, {len(ids)} tokens, logits (largest {logits.abs().max().item():.1f})",
           difference(logits, again), 10 * BOUND)
    report("exported files, MTP logits", difference(mtp, mtp_again), 10 * BOUND)
    short, _, _ = Reference(folder, torch.float64, device).run(ids[:300])
    report("a prefix gives the same logits (causality)", difference(short, logits[:300]), 1e-9)
    nats = torch.nn.functional.cross_entropy(logits[:-1].float().cpu(), ids[1:]).item()
    print(f"loss on these {len(ids)} tokens: {nats:.3f} nats")
    if golden:
        t = len(ids)
        rows = sorted({0, 1, 2, 3, 4, 5, 63, 126, 127, 128, 129, 255, 256, 257, 258, 259, 383, 384, 511, 512, t - 2, t - 1})
        mtp_rows = [r for r in rows if r < t - 1][::2]
        os.makedirs(os.path.dirname(golden), exist_ok=True)
        checkpoint.write_safetensors(golden, {
            "ids": ("I32", ids.to(torch.int32)), "rows": ("I32", torch.tensor(rows, dtype=torch.int32)),
            "logits": ("F32", logits[rows].float().cpu()), "mtp.rows": ("I32", torch.tensor(mtp_rows, dtype=torch.int32)),
            "mtp.logits": ("F32", mtp[mtp_rows].float().cpu())})
        print("wrote", golden, os.path.getsize(golden), "bytes")


def check_sinkhorn():
    gen = torch.Generator("cuda").manual_seed(1)
    a = torch.randn(5000, 4, 4, generator=gen, device="cuda") * 2
    g = torch.randn(5000, 4, 4, generator=gen, device="cuda")
    x, y = a.clone().requires_grad_(), a.double().requires_grad_()
    fast, plain = sinkhorn(x, 20, 1e-6), sinkhorn_plain(y, 20, 1e-6)
    fast.backward(g)
    plain.backward(g.double())
    report("Sinkhorn kernel, forward", difference(fast, plain), 1e-5)
    report("Sinkhorn kernel, backward", difference(x.grad, y.grad), 1e-4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle")
    parser.add_argument("--model")
    parser.add_argument("--streams")
    parser.add_argument("--golden")
    parser.add_argument("--sinkhorn", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.sinkhorn:
        check_sinkhorn()
    if args.oracle:
        check_oracle(args.oracle)
    if args.model:
        check_model(args.model, args.streams, args.golden, args.device)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
