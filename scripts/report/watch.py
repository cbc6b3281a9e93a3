"""A page on this machine that shows how running jobs go: the curves of every log below a folder, metrics.jsonl or another .jsonl.

    scripts/watch FOLDER [--port N] [--every SECONDS]

Serves 127.0.0.1 alone, reads only, and ends with Ctrl-C.
"""
import argparse
import functools
import hashlib
import http.server
import json
import pathlib
import sys
import time

import jinja2
from markupsafe import Markup

import loading
import plots
from comparing import short
from drawing import svg

HERE = pathlib.Path(__file__).parent
MOST_SHOWN = 24  # runs, the latest first


class Log:
    """A log that grows: only what is new is read."""

    def __init__(self, path):
        self.path, self.position, self.lines, self.error = path, 0, [], None

    def update(self):
        try:
            size = self.path.stat().st_size
            if size < self.position:  # begun anew, or shortened by a run that goes on
                self.position, self.lines, self.error = 0, [], None
            if size == self.position or self.error:
                return
            with self.path.open("rb") as file:
                file.seek(self.position)
                new = file.read()
            new = new[:new.rfind(b"\n") + 1]
            for line in new.splitlines():
                number = len(self.lines) + 1
                value = loading.parsed(line, f"line {number}")
                loading.validate(loading.validators()[1], value, f"line {number}")
                self.lines.append(value)
            self.position += len(new)
        except (OSError, loading.InvalidInput) as error:
            self.error = str(error)


class Folder:
    """All logs below a folder, and the page's text of them."""

    def __init__(self, folder):
        self.folder, self.logs = folder, {}
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
        self.template = environment.get_template("watch.html.j2")
        self.runs = environment.from_string("{% import 'watch.html.j2' as watch %}{{ watch.runs(runs) }}")

    def read(self):
        """[(log, time of its last change)], the latest first."""
        found = []
        for path in self.folder.rglob("*.jsonl"):
            try:
                found.append((self.logs.setdefault(path, Log(path)), path.stat().st_mtime_ns))
            except OSError:
                continue  # gone since
        found.sort(key=lambda item: (-item[1], str(item[0].path)))
        for log, _ in found[:MOST_SHOWN]:
            log.update()
        return found

    def title(self, log):
        path = log.path.parent if log.path.name == "metrics.jsonl" else log.path.with_suffix("")
        name = self.folder.name if path == self.folder else str(path.relative_to(self.folder))
        return name if len(name) < 40 else "…" + name[-38:]

    @functools.lru_cache(maxsize=4 * MOST_SHOWN)  # a run that has not changed is not drawn again
    def drawn(self, log, number, error):
        title = self.title(log)
        name = "w" + hashlib.sha256(str(log.path).encode()).hexdigest()[:8]
        steps = [line for line in log.lines if line["kind"] == "step"]
        tasks = [line for line in log.lines if line["kind"] == "task"]
        svgs = []
        if steps:
            figure, text = plots.steps_figure("step by step", log.lines)
            svgs.append(Markup(svg(figure, name + "s", f"{title}, {text}")))
        if tasks:
            figure, text = plots.requests_figure("what is known after each request", log.lines)
            svgs.append(Markup(svg(figure, name + "r", f"{title}. {text}")))
        state = "no line yet"
        if log.lines:
            last = log.lines[-1]
            state = (f"request {last['task'] + 1} done: forgotten {short(last['forgotten'])}, kept, never shown "
                     f"{short(last['unseen'])}" if last["kind"] == "task"
                     else f"request {last['task'] + 1}, step {last['step'] + 1}")
        return {"title": title, "state": state, "plots": svgs, "error": error, "path": str(log.path)}

    def state(self):
        """{version, html, written}: what the page shows."""
        found = self.read()
        shown = [log for log, _ in found[:MOST_SHOWN]]
        runs = [self.drawn(log, len(log.lines), log.error) for log in shown]
        html = self.runs.render(runs=runs)
        return {"version": hashlib.sha256(html.encode()).hexdigest()[:16], "html": html, "number": len(found),
                "written": time.time() - found[0][1] / 1e9 if found else None}

    def page(self, every):
        return self.template.render(folder=self.folder.name, every=every, colours=list(plots.KNOWN.values()),
                                    style=Markup((HERE / "style.css").read_text()))


class Handler(http.server.BaseHTTPRequestHandler):
    folder = None
    every = 2.0

    def do_GET(self):
        # another site's page may send requests here under a name of its own
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
            self.answer(403, "text/plain", "for this machine only\n")
        elif self.path == "/":
            self.answer(200, "text/html", self.folder.page(self.every))
        elif self.path == "/state":
            self.answer(200, "application/json", json.dumps(self.folder.state()))
        else:
            self.answer(404, "text/plain", "there is only /\n")

    def answer(self, code, kind, text):
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(prog="watch", description="Shows the curves of running jobs on a local page.")
    parser.add_argument("folder", type=pathlib.Path, help="in which, or below which, there are logs")
    parser.add_argument("--port", type=int, default=8017, help="8017 unless given; 0: a free one")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        sys.exit(f"watch: {arguments.folder}: expected a folder")
    Handler.folder, Handler.every = Folder(arguments.folder.resolve()), arguments.every
    try:
        # one request at a time: matplotlib does not draw in several threads
        server = http.server.HTTPServer(("127.0.0.1", arguments.port), Handler)
    except OSError as error:
        sys.exit(f"watch: port {arguments.port}: {error.strerror} (--port 0 takes a free one)")
    print(f"watching {arguments.folder}: http://127.0.0.1:{server.server_port}/ (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
