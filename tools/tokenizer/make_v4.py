#!/usr/bin/env python3
"""Writes DeepSeek-V4's tokenizer.json: the V3 file with V4's full list of added tokens.

    python3 tools/tokenizer/make_v4.py --base v3_base_tokenizer.json --added v4_added_tokens.json \
        --out tokenizer.json

Vocabulary, merges and pre-tokenizer of V4 are V3's, so only `added_tokens` changes. A token that
V3 knows keeps its flags. A new one is `special` (left out of plain text) unless it is part of what
a parser of the answer must see: the thinking marks and the DSML forms.

Not needed to build, test or run kvasir: it made the archive under tests/golden/tokenizer, once.
Python standard library only.
"""
import argparse
import json

# Added tokens of V4 that the output parser reads in the generated text.
VISIBLE = {"<think>", "</think>", "｜DSML｜", "<dsml:", "</dsml:"}


def merge(base, added):
    known = {token["id"]: token for token in base["added_tokens"]}
    tokens = []
    for entry in sorted(added, key=lambda t: t["id"]):
        old = known.pop(entry["id"], None)
        if old is not None and old["content"] != entry["content"]:
            raise SystemExit(f"id {entry['id']}: {old['content']!r} in the base, {entry['content']!r} in the list")
        tokens.append(old or {
            "id": entry["id"], "content": entry["content"], "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": entry["content"] not in VISIBLE})
    if known:
        raise SystemExit(f"the list lacks {len(known)} added tokens of the base, id {min(known)} for one")
    return {**base, "added_tokens": tokens}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", required=True, help="DeepSeek-V3's tokenizer.json")
    parser.add_argument("--added", required=True, help='{"added_tokens": [{"id", "content"}, ...]} of V4, complete')
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    with open(args.base, encoding="utf-8") as f:
        base = json.load(f)
    with open(args.added, encoding="utf-8") as f:
        added = json.load(f)["added_tokens"]
    with open(args.out, "w", encoding="utf-8") as f:
        json.dump(merge(base, added), f, ensure_ascii=False, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
