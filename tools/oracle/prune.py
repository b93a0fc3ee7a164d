#!/usr/bin/env python3
"""Packs the part of an oracle folder that the tests need (Python standard library only).

    tools/oracle/prune.py ../shared/data/oracle/tiny-flash tests/golden/oracle/tiny-flash.tar.xz

Keeps the checkpoint as it is, the logits of exact.safetensors and the module inputs and outputs of
native.safetensors. Not needed to build or test: the archive is committed.
"""
import io
import json
import re
import struct
import sys
import tarfile

EXACT = r"ids|rows|logits|mtp\.(ids|rows|logits)"
NATIVE = r"ids|rows|layers\.\d+\.(attn|ffn)\.(in|out)|layers\.\d+\.(kv|indexer|gate)\..*|mtp\.(in|ids|rows|logits)"


def pruned(path, keep):
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
        out, body = {}, b""
        for name, t in header.items():
            if name == "__metadata__" or not re.fullmatch(keep, name):
                continue
            begin, end = t["data_offsets"]
            f.seek(8 + size + begin)
            out[name] = {"dtype": t["dtype"], "shape": t["shape"], "data_offsets": [len(body), len(body) + end - begin]}
            body += f.read(end - begin)
    text = json.dumps(out).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


source, target = sys.argv[1:]
name = source.rstrip("/").split("/")[-1]
files = {f: open(f"{source}/{f}", "rb").read() for f in ("config.json", "facts.json", "model.safetensors")}
files["exact.safetensors"] = pruned(f"{source}/exact.safetensors", EXACT)
files["native.safetensors"] = pruned(f"{source}/native.safetensors", NATIVE)
with tarfile.open(target, "w:xz", preset=9) as tar:
    for f, data in files.items():
        info = tarfile.TarInfo(f"{name}/{f}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        print(f"{name}/{f}: {len(data)} bytes")
