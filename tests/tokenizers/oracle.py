"""What Python's `tokenizers` says of the strings of strings.py, as checksums."""

import zlib

import numpy

import strings

BLOCK = 200  # strings a checksum
CODES = 4096  # code points a checksum


def checksum(lists):
    """crc32 of the ids as 32-bit numbers, each list ended by 2^32 - 1."""
    end = numpy.array([0xFFFFFFFF], dtype="<u4")
    crc = 0
    for ids in lists:
        crc = zlib.crc32(end.tobytes(), zlib.crc32(numpy.asarray(ids, dtype="<u4").tobytes(), crc))
    return crc


def ids_of(tokenizer, texts):
    batch = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in batch]


def blocks_of(tokenizer, texts):
    ids = ids_of(tokenizer, texts)
    return [checksum(ids[i : i + BLOCK]) for i in range(0, len(ids), BLOCK)]


def codes_of_block(block):
    """The code points of a block, without surrogates."""
    return [c for c in range(block * CODES, (block + 1) * CODES) if not 0xD800 <= c < 0xE000]


def code_blocks_of(tokenizer, excluded):
    sums = []
    for block in range(0x110000 // CODES):
        codes = [c for c in codes_of_block(block) if c not in excluded]
        sums.append(checksum(ids_of(tokenizer, [strings.in_context(c) for c in codes])))
    return sums
