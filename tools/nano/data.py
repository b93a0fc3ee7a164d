#!/usr/bin/env python3
"""Prepares the training streams: corpus.jsonl.xz + tokenizer.json -> one .npz of token ids.

    python3 data.py --corpus corpus.jsonl.xz --tokenizer tokenizer.json --out streams.npz [--scale 1.0] [--seed 1]

A stream is one long row of ids with the places where documents or chats begin and a loss weight for each id. The
training process keeps the streams in GPU memory and cuts its rows out of them (class Streams).
Needs the packages numpy and tokenizers.
"""
import argparse
import json
import lzma
import multiprocessing
import random
import zlib

import numpy

import samples

HELD_OUT = 50           # one file in this many is never trained on
PROMPT_WEIGHT = 0.4     # loss weight of the user's part of a chat
CHATS = {"chat_short": (1200, 100000), "chat_mid": (5000, 27000), "chat_long": (10500, 8000)}  # characters, samples


def read_corpus(path):
    with lzma.open(path, "rt", encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    held = [r for r in rows if zlib.crc32(r["p"].encode()) % HELD_OUT == 0]
    return [r for r in rows if zlib.crc32(r["p"].encode()) % HELD_OUT], held


TRAIN_ROWS = []


def make_chats(job):
    name, part, parts, scale, seed = job
    budget, count = CHATS[name]
    rng = random.Random(f"{seed}-{name}-{part}")
    return samples.make(TRAIN_ROWS, budget, max(1, int(count * scale) // parts), rng)


class Encoder:
    def __init__(self, path):
        import tokenizers
        self.tokenizer = tokenizers.Tokenizer.from_file(path)
        self.special = {t.content: i for i, t in self.tokenizer.get_added_tokens_decoder().items()}

    def texts(self, texts):
        out = []
        for at in range(0, len(texts), 4096):
            out += [e.ids for e in self.tokenizer.encode_batch_fast(texts[at:at + 4096], add_special_tokens=False)]
        return out

    def documents(self, texts):
        bos, eos = self.special[samples.BOS[0]], self.special[samples.EOS[0]]
        rows = [numpy.array([bos] + ids + [eos], dtype=numpy.int16) for ids in self.texts(texts)]
        return stream(rows, [numpy.ones(len(r), dtype=numpy.float16) for r in rows])

    def chats(self, chats):
        pieces = iter(self.texts([p for chat in chats for p in chat if isinstance(p, str)]))
        rows, weights = [], []
        for chat in chats:
            ids, weight, answering = [], [], False
            for part in chat:
                new = [self.special[part[0]]] if isinstance(part, tuple) else next(pieces)
                ids += new
                weight += [1.0 if answering else PROMPT_WEIGHT] * len(new)
                answering = part == samples.ASSISTANT or answering and part != samples.EOS
            rows.append(numpy.array(ids, dtype=numpy.int16))
            weights.append(numpy.array(weight, dtype=numpy.float16))
        return stream(rows, weights)


def stream(rows, weights):
    begins = numpy.cumsum([0] + [len(r) for r in rows[:-1]])
    return {"ids": numpy.concatenate(rows), "weights": numpy.concatenate(weights), "begins": begins.astype(numpy.int64)}


def token_bytes(tokenizer_path):
    """How many bytes each id stands for; special tokens none."""
    with open(tokenizer_path, encoding="utf-8") as f:
        t = json.load(f)
    sizes = numpy.zeros(1 + max(a["id"] for a in t["added_tokens"]), dtype=numpy.int32)
    for token, i in t["model"]["vocab"].items():
        sizes[i] = len(token)
    for token in t["added_tokens"]:
        sizes[token["id"]] = 0
    return sizes


def prepare(corpus, tokenizer, out, scale, seed):
    global TRAIN_ROWS
    TRAIN_ROWS, held = read_corpus(corpus)
    random.Random(seed).shuffle(TRAIN_ROWS)
    workers = multiprocessing.cpu_count()
    jobs = [(name, part, workers, scale, seed) for name in CHATS for part in range(workers)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        made = pool.map(make_chats, jobs, chunksize=1)
    chats = {name: [] for name in CHATS}
    for (name, *_), part in zip(jobs, made):
        chats[name] += part
    encoder = Encoder(tokenizer)
    streams = {"text": encoder.documents([r["t"] for r in TRAIN_ROWS])}
    for name, made in chats.items():
        streams[name] = encoder.chats(made)
    random.Random(seed).shuffle(held)
    streams["held"] = encoder.documents([r["t"] for r in held if r["k"] != "dict"])
    rng = random.Random(seed + 1)
    streams["held_chat"] = encoder.chats(samples.make(held, 2500, max(20, int(400 * scale)), rng))
    arrays = {f"{name}.{field}": v for name, s in streams.items() for field, v in s.items()}
    numpy.savez(out, token_bytes=token_bytes(tokenizer), **arrays)
    print({name: len(s["ids"]) for name, s in streams.items()}, "ids;", len(TRAIN_ROWS), "files", flush=True)


class Streams:
    """The streams on a device; rows are cut out by `batch`."""

    def __init__(self, path, device, seed):
        import torch
        self.torch = torch
        data = numpy.load(path)
        self.token_bytes = torch.from_numpy(data["token_bytes"]).to(device)
        self.parts = {}
        for name in {k.split(".")[0] for k in data.files if "." in k}:
            self.parts[name] = {f: torch.from_numpy(data[f"{name}.{f}"]).to(device) for f in ("ids", "weights", "begins")}
        self.device = device
        self.rng = torch.Generator().manual_seed(seed)

    def rows(self, name, count, length):
        """`count` rows of length + 2 ids and weights that begin where a document or chat begins, or, for half the
        rows of plain text, anywhere."""
        torch, part = self.torch, self.parts[name]
        room = len(part["ids"]) - length - 2
        begins = part["begins"]
        pick = torch.randint(len(begins), (count,), generator=self.rng).to(self.device)
        start = begins[pick]
        if name == "text":
            anywhere = torch.randint(room, (count,), generator=self.rng).to(self.device)
            start = torch.where((torch.arange(count) % 2 == 0).to(self.device), anywhere, start)
        at = start.clamp(max=room)[:, None] + torch.arange(length + 2, device=self.device)
        return part["ids"][at].long(), part["weights"][at].float()

    def batch(self, mixture, count, length):
        names, left, rows = list(mixture), count, []
        for name in names:
            share = left if name == names[-1] else min(left, round(mixture[name] * count))
            left -= share
            if share:
                rows.append(self.rows(name, share, length))
        return self.torch.cat([r[0] for r in rows]), self.torch.cat([r[1] for r in rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of chat samples")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    prepare(args.corpus, args.tokenizer, args.out, args.scale, args.seed)


if __name__ == "__main__":
    main()
