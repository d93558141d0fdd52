"""A fuzz test of the parser of SMP/1 with random and damaged messages.

    python benchmarks/fuzz.py                    10^6 messages, about a minute

It fails if the parser raises anything but a `ProtocolError`. It also fails if a message takes
more than 0.05 s of CPU time, or if memory has grown.
"""

import gc
import json
import random
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro

from splatmend.plugin.protocol.codec import parse
from splatmend.plugin.protocol.frames import to_frame
from splatmend.plugin.protocol.framing import MAGIC, Limits, ProtocolError, join, split
from splatmend.plugin.protocol.messages import FrameRequest
from splatmend.plugin.protocol.plane_formats import PlaneMemo

VECTORS = Path(__file__).parents[1] / "tests" / "plugin" / "protocol" / "vectors" / "smp1.json"
LIMITS = Limits()
KINDS = ("random", "damaged", "damaged header", "damaged header")
PIECES = (b"0", b"9" * 30, b"null", b'"', b"-", b"1e999", b"[" * 1200, b"\\ud800", b"{}")
SLOW_S = 0.05
GROWN_MB = 2.0


@dataclass(frozen=True)
class Config:
    messages: int = 1_000_000
    seed: int = 0


def main() -> int:
    config = tyro.cli(Config, description=__doc__)
    gc.freeze()  # like `splatmend serve`: a full collection takes longer than any message
    dice = random.Random(config.seed)
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    valid = [bytes.fromhex(v["hex"]) for v in vectors["messages"]]
    invalid = [bytes.fromhex(v["hex"]) for v in vectors["invalid"]]
    outcomes: Counter[tuple[str, str]] = Counter()
    memory, slowest, memo = [], 0.0, PlaneMemo()
    began = time.perf_counter()
    for number in range(config.messages):
        kind = KINDS[number % len(KINDS)]
        message = make(kind, dice, valid, invalid)
        started = time.thread_time()
        outcomes[kind, outcome(message, memo)] += 1
        slowest = max(slowest, time.thread_time() - started)
        if (number + 1) % max(config.messages // 10, 1) == 0:
            memory.append(psutil.Process().memory_info().rss / 1e6)
    seconds = time.perf_counter() - began
    say(f"{config.messages} messages in {seconds:.0f} s, the slowest {slowest * 1e3:.1f} ms of CPU")
    for kind in dict.fromkeys(KINDS):
        counts = {code: count for (k, code), count in outcomes.most_common() if k == kind}
        say(f"{kind}: {counts}")
    say(f"resident MB at 10, 20, ... 100 %: {', '.join(f'{m:.1f}' for m in memory)}")
    return int(memory[-1] > memory[0] + GROWN_MB or slowest > SLOW_S)


def make(kind: str, dice: random.Random, valid: list[bytes], invalid: list[bytes]) -> bytes:
    if kind == "random":
        return MAGIC + dice.randbytes(dice.randrange(64))
    if kind == "damaged":
        return damaged(dice.choice(valid + invalid), dice, valid)
    header, *planes = (bytes(part) for part in split(dice.choice(valid), LIMITS))
    return b"".join(join([damaged(header, dice, valid), *planes]))  # with the correct length


def outcome(message: bytes, memo: PlaneMemo) -> str:
    """Process a message like a server: split, parse, and convert a frame's pixels."""
    try:
        parsed = parse(split(message, LIMITS), LIMITS, memo)
    except ProtocolError as error:
        return error.code
    if isinstance(parsed, FrameRequest):
        to_frame(parsed)
    return "valid"


def damaged(message: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    """Change a message one to four times: bits, bytes, pieces, lengths, another message's end."""
    data = bytearray(message)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at:at] = dice.choice(PIECES)
        elif kind == 2:
            del data[at : at + dice.randrange(1, 9)]
        elif kind == 3:
            other = dice.choice(others)
            data[at:] = other[dice.randrange(len(other)) :]
        elif kind == 4:
            data[8:12] = struct.pack("<I", dice.choice((0, 1, len(data), 1 << 16, (1 << 32) - 1)))
        else:
            data[at : at + 1] = dice.randbytes(1)
    return bytes(data)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
