#!/usr/bin/env python3
"""Keeps the pages' code equal to files that are compiled and run.

    check_snippets.py FILE.md...                      fails where a page differs from its source
    check_snippets.py --update FILE.md...             rewrites the pages
    check_snippets.py --output PROGRAM FILE.md...     fails where the program prints something else than the page
                                                      says; numbers may differ by 0.1 (processors round differently)

A code block of a page follows a line that names its source, from the root of the project:

    <!-- snippet: examples/quickstart.cpp -->          the whole file, without the comment at its start
    <!-- snippet: tests/docs/guide.cpp loop -->        what stands between the two lines `// [loop]`
    <!-- output: quickstart -->                        what a program prints

Every block of C++ must have one, and every relative link of a page must lead to a file.
"""
import pathlib
import re
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?:<!-- (?P<kind>snippet|output): (?P<source>\S+)(?: (?P<mark>\S+))? -->\n)?"
                   r"(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def source_text(name, mark):
    lines = (ROOT / name).read_text().splitlines()
    if mark:
        places = [i for i, line in enumerate(lines) if line.strip() == f"// [{mark}]"]
        if len(places) != 2:
            raise ValueError(f"{name} has {len(places)} lines `// [{mark}]`, expected 2")
        lines = lines[places[0] + 1:places[1]]
    else:
        while lines and lines[0].startswith("// "):
            lines.pop(0)
    return textwrap.dedent("\n".join(lines)).strip("\n") + "\n"


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def check(page, update):
    """The faults of a page, each with its line."""
    faults = []
    text = page.read_text()

    def replaced(match):
        where = f"{page}:{line_of(text, match.start())}"
        if match["kind"] != "snippet":
            if match["language"] == "cpp":
                faults.append(f"{where}: C++ without the file that it comes from")
            return match[0]
        try:
            wanted = source_text(match["source"], match["mark"])
        except (OSError, ValueError) as error:
            faults.append(f"{where}: {error}")
            return match[0]
        if wanted == match["text"]:
            return match[0]
        if not update:
            faults.append(f"{where}: differs from {match['source']} {match['mark'] or ''}".rstrip())
        begin, end = (place - match.start() for place in match.span("text"))
        return match[0][:begin] + wanted + match[0][end:]

    new = BLOCK.sub(replaced, text)
    if update and new != text:
        page.write_text(new)
    for match in LINK.finditer(BLOCK.sub("", text)):
        if not (page.parent / match[1]).exists():
            faults.append(f"{page}: a link to {match[1]}, which is not there")
    return faults


def same_but_for_roundings(wanted, got):
    number = re.compile(r"\d+(?:\.\d+)?")
    if number.sub("#", wanted) != number.sub("#", got):
        return False
    return all(abs(float(a) - float(b)) <= 0.1 for a, b in zip(number.findall(wanted), number.findall(got)))


def check_output(program, pages):
    """The faults in what the pages say that a program prints."""
    name = pathlib.Path(program).name
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    blocks = [(page, match["text"]) for page in pages for match in BLOCK.finditer(page.read_text())
              if match["kind"] == "output" and match["source"] == name]
    if not blocks:
        return [f"no page says what {name} prints"]
    return [f"{page}: {name} prints\n{printed}the page says\n{text}"
            for page, text in blocks if not same_but_for_roundings(text, printed)]


def main(arguments):
    update = arguments[:1] == ["--update"]
    program = arguments[1] if arguments[:1] == ["--output"] else None
    pages = [pathlib.Path(name) for name in arguments[2 if program else 1 if update else 0:]]
    if not pages:
        sys.exit(__doc__)
    faults = []
    if program:
        faults = check_output(program, pages)
    else:
        for page in pages:
            faults += check(page, update)
    sys.exit("\n".join(faults) if faults else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
