"""The report of an experiment: one HTML page.

    run RESULTS [--out FILE]       RESULTS: results.json, or the folder that it is in
    run RESULTS --docs FILE.md     a page of Markdown with its pictures, for the repository
    run RESULTS --keep FOLDER      a copy with its logs, for the repository
"""
import argparse
import pathlib
import sys

from loading import InvalidInput, keep, read_results


def main():
    parser = argparse.ArgumentParser(prog="report", description="One HTML page of an experiment's results.json.")
    parser.add_argument("results", type=pathlib.Path, help="results.json, or the folder that it is in")
    parser.add_argument("--out", type=pathlib.Path, help="report.html beside results.json unless given")
    parser.add_argument("--docs", type=pathlib.Path, metavar="FILE.md", help="instead: a page of Markdown")
    parser.add_argument("--keep", type=pathlib.Path, metavar="FOLDER", help="instead: a copy with its logs")
    arguments = parser.parse_args()
    try:
        if arguments.keep:
            keep(arguments.results, arguments.keep)
            print(f"wrote {arguments.keep / 'results.json'}")
            return
        results = read_results(arguments.results)
        if arguments.docs:
            import docs_page
            docs_page.write(results, arguments.docs)
            print(f"wrote {arguments.docs}")
            return
        from page import render  # matplotlib takes a second: not for a file that is refused
        out = arguments.out or (arguments.results if arguments.results.is_dir()
                                else arguments.results.parent) / "report.html"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(render(results), encoding="utf-8")
    except (InvalidInput, OSError) as error:
        sys.exit(f"report: {error}")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
