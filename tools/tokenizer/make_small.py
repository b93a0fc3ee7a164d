#!/usr/bin/env python3
"""Writes a small tokenizer.json of the V4 family: the first merges of V4, then its chat tokens.

    python3 tools/tokenizer/make_small.py --from tests/golden/tokenizer/v4.tar.xz --vocab 6144 \
        --out models/nano/tokenizer.json

Ids of the result, for a total of V:
    0 .. 255        the byte symbols, in V4's order
    256 .. V-S-1    what the first V-S-256 merges of V4 make, in rank order
    V-S .. V-1      the S added tokens below, in V4's order (the ids printed at the end)
Every merge of V4 joins only bytes and products of earlier merges, so any first part is a valid
BPE of its own: it cuts text at the same places before merging, and merges in the same order.
Ids differ from V4's throughout: look tokens up by content.

`--from` takes V4's tokenizer.json, plain or inside a .tar.xz. Python standard library only.
"""
import argparse
import json
import tarfile

# What the chat encoding, the quick instructions, fill-in-the-middle and repository prompts use.
CHAT_TOKENS = [
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>",
    "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>",
    "<｜User｜>", "<｜Assistant｜>", "<|EOT|>",
    "<｜begin▁of▁repo▁name｜>", "<｜end▁of▁repo▁name｜>", "<｜begin▁of▁file▁name｜>",
    "<｜end▁of▁file▁name｜>", "<｜begin▁of▁file｜>", "<｜end▁of▁file｜>",
    "<think>", "</think>", "｜DSML｜", "<｜begin▁sys｜>", "<｜end▁sys｜>", "<｜latest_reminder｜>",
    "<｜action｜>", "<｜query｜>", "<｜authority｜>", "<｜domain｜>", "<｜task｜>", "<｜political｜>",
    "<｜entity｜>", "<｜title｜>", "<｜safety｜>", "<｜answer｜>", "<｜search｜>", "<dsml:", "</dsml:",
    "<｜search▁begin｜>", "<｜search▁end｜>", "<｜extracted_url｜>", "<｜read_url｜>", "<｜end_of_query｜>",
]


def read_tokenizer(path):
    if not path.endswith(".tar.xz"):
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    with tarfile.open(path, "r:xz") as archive:
        return json.load(archive.extractfile("tokenizer.json"))


def make_small(full, total):
    model = full["model"]
    added = {token["content"]: token for token in full["added_tokens"]}
    missing = [content for content in CHAT_TOKENS if content not in added]
    if missing:
        raise SystemExit(f"not a V4 tokenizer: it has no added token {missing[0]!r}")
    symbols = sorted((i, text) for text, i in model["vocab"].items() if len(text) == 1)
    if len(symbols) != 256:
        raise SystemExit(f"not a byte-level tokenizer: {len(symbols)} one-character tokens, expected 256")
    count = total - len(symbols) - len(CHAT_TOKENS)
    if not 0 <= count <= len(model["merges"]):
        raise SystemExit(f"--vocab {total} leaves {count} merges; V4 has {len(model['merges'])}")

    vocab = {text: rank for rank, (_, text) in enumerate(symbols)}
    merges = model["merges"][:count]
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if left not in vocab or right not in vocab or left + right in vocab:
            raise SystemExit(f"merge {merge!r} does not join two earlier tokens into a new one")
        vocab[left + right] = len(vocab)
    tokens = [{**added[content], "id": len(vocab) + i} for i, content in enumerate(CHAT_TOKENS)]
    return {**full, "added_tokens": tokens, "model": {**model, "vocab": vocab, "merges": merges}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--from", dest="source", required=True, help="V4's tokenizer.json or a .tar.xz of it")
    parser.add_argument("--vocab", type=int, required=True, help="tokens in all, the chat tokens included")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    small = make_small(read_tokenizer(args.source), args.vocab)
    with open(args.out, "w", encoding="utf-8") as f:
        json.dump(small, f, ensure_ascii=False, indent=1)
        f.write("\n")
    print(f"{args.out}: {len(small['model']['vocab'])} base tokens, {len(small['model']['merges'])} merges, added:")
    for token in small["added_tokens"]:
        print(f"  {token['id']} {token['content']}")


if __name__ == "__main__":
    main()
