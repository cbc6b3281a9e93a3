#!/usr/bin/env python3
"""Compares a model folder's tokenizer with Python's `tokenizers`, id by id: 20,000 strings, data
(JSON lines or text), and every code point that Unicode 14 assigns.

    tests/tokenizers/live.py build/release/tests/tokenizers/tokenize_lines FOLDER [DATA...]
"""

import json
import pathlib
import sys
import unicodedata

from tokenizers import Tokenizer

import fixtures
import oracle
import strings


def texts_of(path):
    """The texts of a line: all of its object's, or the line itself."""
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            value = line
        yield from [v for v in value.values() if isinstance(v, str)] if isinstance(
            value, dict
        ) else [str(value)]


def compare(what, program, file, tokenizer, texts):
    mine = fixtures.run_program(program, file, texts)
    theirs = oracle.ids_of(tokenizer, texts)
    wrong = [i for i in range(len(texts)) if mine[i] != theirs[i]]
    for i in wrong[:5]:
        print(f"  {texts[i]!r}\n    here    {mine[i]}\n    Python  {theirs[i]}")
    print(f"{what}: {len(texts) - len(wrong)} of {len(texts)} equal", flush=True)
    return not wrong


def main():
    program, folder, *data = sys.argv[1:]
    file = pathlib.Path(folder) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    known = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    good = compare("generated strings", program, file, tokenizer, strings.all_generated())
    for path in data:
        good &= compare(path, program, file, tokenizer, list(texts_of(path)))
    texts = [strings.in_context(c) for c in known]
    good &= compare("assigned code points", program, file, tokenizer, texts)
    sys.exit(not good)


if __name__ == "__main__":
    main()
