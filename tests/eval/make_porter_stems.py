"""Writes porter_stems.txt.gz: words with the stems that nltk.stem.PorterStemmer() gives them.

    python make_porter_stems.py LIST... > porter_stems.txt.gz

A list is any text; its words of more than three letters a-z and digits count, as ROUGE has them. The
committed file was made with nltk 3.10 from the TOFU files and every sixth word of Debian's
wamerican-large, plus the made-up words below, in which every suffix of the rules meets short and long
stems.
"""

import gzip
import itertools
import re
import sys

from nltk.stem import PorterStemmer

STEMS = "a by ey y tr rat geo spli control vill bizz happ fee sky abate roll yyy 19 x2y".split()
SUFFIXES = """s es ies sses ss ed ied eed ing at bl iz ll y ational tional enci anci izer bli abli alli
entli eli ousli ization ation ator alism iveness fulness ousness aliti iviti biliti fulli logi icate
ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent ion sion tion ou ism ate
iti ous ive ize e le""".split()
IRREGULAR = """sky skies dying lying tying news innings inning outings outing cannings canning howe
proceed exceed succeed""".split()


def main():
    words = set(IRREGULAR)
    for path in sys.argv[1:]:
        found = sorted(set(re.findall(r"[a-z0-9]{4,}", open(path, encoding="utf-8").read().lower())))
        words.update(found[::6] if "dict" in path else found)
    words.update(map("".join, itertools.product(STEMS, SUFFIXES)))
    words.update(map("".join, itertools.product(STEMS[2:12], SUFFIXES[::3], SUFFIXES[::2])))
    stemmer = PorterStemmer()
    text = "".join(f"{word} {stemmer.stem(word)}\n" for word in sorted(words) if len(word) > 3)
    sys.stdout.buffer.write(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
