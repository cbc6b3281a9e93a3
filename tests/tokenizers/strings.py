"""The strings that the tokenizers' tests read, made from fixtures/material.json.

strings.hpp makes the same ones; what a test says of string 1234 can be looked up with
`strings.py 1234`.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
NUM_STRINGS = 20000
MASK = (1 << 64) - 1


class Random:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def below(self, bound):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % bound


def material():
    return json.loads((HERE / "fixtures/material.json").read_text(encoding="utf-8"))


def generated(index, parts):
    """String `index`: up to 16 fragments, single characters, runs of one, and numbers."""
    random = Random(index)
    fragments, ranges = parts["fragments"], parts["ranges"]
    text = ""
    for _ in range(1 + random.below(16)):
        kind = random.below(16)
        if kind < 12:
            text += fragments[random.below(len(fragments))]
        elif kind < 14:
            first, last = ranges[random.below(len(ranges))]
            text += chr(first + random.below(last - first + 1))
        elif kind == 14:
            fragment = fragments[random.below(len(fragments))]
            text += fragment * (1 + random.below(9))
        else:
            text += str(random.below(10 ** (1 + random.below(9))))
    return text


def all_generated():
    parts = material()
    return [generated(i, parts) for i in range(NUM_STRINGS)]


def in_context(code):
    """The code point between letters, alone, doubled, after a digit, an apostrophe and a newline."""
    c = chr(code)
    return f"x{c}y {c}{c} 1{c}2'{c}\n{c}"


if __name__ == "__main__":
    print(json.dumps(generated(int(sys.argv[1]), material())))
