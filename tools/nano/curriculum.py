"""What is trained when. A stage begins at a fraction of the training time; its mixture names streams of data.py.

To teach something new, add a stream in data.py and give it a share here; nothing else changes.
"""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    begin: float    # fraction of the training time
    length: int     # tokens in a row; a multiple of 128
    rows: int       # rows in a step
    sparse: bool    # CSA attends to the indexer's top-k only (else to all visible entries)
    fp4: bool       # experts are rounded to FP4 (else only at export)
    mixture: dict   # stream name -> share of the rows


STAGES = [
    Stage(0.00, 512, 128, False, False, {"text": 0.625, "chat_short": 0.375}),
    Stage(0.08, 512, 128, False, True, {"text": 0.5, "chat_short": 0.5}),
    Stage(0.35, 2048, 32, True, True, {"text": 0.5, "chat_short": 0.1875, "chat_mid": 0.3125}),
    Stage(0.78, 4096, 16, True, True, {"text": 0.375, "chat_short": 0.125, "chat_mid": 0.25, "chat_long": 0.25}),
]


def stage_at(fraction):
    return [s for s in STAGES if s.begin <= fraction][-1]
