#!/usr/bin/env python3
"""The report: its arithmetic, its errors, and the page in a browser.

Runs in .venv-report, which scripts/setup --report makes; skips (77) where there is none. The tests of the page need
Debian's chromium. ALKN_RESULTS=FOLDER checks the page of an experiment's results.json as well.
"""
import copy
import http.client
import json
import math
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORT = ROOT / "scripts" / "report"
PYTHON = ROOT / ".venv-report" / "bin" / "python"

if not PYTHON.exists():
    print("skipped: there is no .venv-report (scripts/setup --report makes it)")
    sys.exit(77)
if pathlib.Path(sys.prefix).resolve() != PYTHON.parents[1].resolve():
    os.execv(PYTHON, [str(PYTHON), *sys.argv])

sys.dont_write_bytecode = True
sys.path[:0] = [str(REPORT), str(pathlib.Path(__file__).parent)]
import browser  # noqa: E402
import comparing  # noqa: E402
import fixture  # noqa: E402
import loading  # noqa: E402

METHODS = ["alkn", "alkn-paper", "no-sparsity", "npo", "npo+retain-20"]


def run(*arguments, **environment):
    return subprocess.run([PYTHON, REPORT, *map(str, arguments)], capture_output=True, text=True,
                          env=os.environ | environment, cwd="/")


class Folder(unittest.TestCase):
    """Tests on one made-up experiment and its page."""

    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = pathlib.Path(temporary.name)
        cls.results = fixture.write(cls.folder, 2, METHODS)


class Arithmetic(unittest.TestCase):
    @staticmethod
    def seed(unseen, strengths=(1, 2), forgotten=(0.6, 0.1), name="a"):
        def p(f, u):
            return {"forgotten": f, "shown": 0.9, "unseen": u}
        return {"base": {"probability": p(0.99, 0.95)}, "gold": {"probability": p(1e-4, 0.9)},
                "runs": [{"method": name, "strength": s, "probability": p(f, u)}
                         for s, f, u in zip(strengths, forgotten, unseen)]}

    def test_interpolates_in_log_odds(self):
        points = comparing.curve(self.seed((0.8, 0.3)), "a")
        odds = comparing.log_odds
        way = (odds(0.6) - odds(0.25)) / (odds(0.6) - odds(0.1))
        found = comparing.at_level(points, 0.25)
        self.assertAlmostEqual(odds(found["unseen"]), (1 - way) * odds(0.8) + way * odds(0.3), 12)
        self.assertAlmostEqual(found["shown"], 0.9, 12)

    def test_a_level_between_the_original_and_the_first_run_counts(self):
        found = comparing.at_level(comparing.curve(self.seed((0.8, 0.3)), "a"), 0.9)
        self.assertTrue(0.8 < found["unseen"] < 0.95)

    def test_a_level_behind_the_end_is_not_reached(self):
        self.assertIsNone(comparing.at_level(comparing.curve(self.seed((0.8, 0.3)), "a"), 0.05))

    def test_the_first_fall_counts_and_not_the_order_in_the_file(self):
        seed = self.seed((0.1, 0.8, 0.5), strengths=(3, 1, 2), forgotten=(0.1, 0.3, 0.7))
        points = comparing.curve(seed, "a")
        self.assertEqual([strength for strength, _ in points], [0, 1, 2, 3])
        between = comparing.at_level(points, 0.5)["unseen"]
        self.assertTrue(0.8 < between < 0.95, between)

    def test_a_collapsed_run_is_passed_over_only_if_it_has_no_numbers(self):
        seed = self.seed((0.8, None), forgotten=(0.6, None))
        self.assertEqual(len(comparing.curve(seed, "a")), 2)
        self.assertIsNone(comparing.at_level(comparing.curve(seed, "a"), 0.2))

    def test_the_mean_curve_is_taken_at_equal_forgetting(self):
        seeds = [self.seed((0.8, 0.3)), self.seed((0.6, 0.2), strengths=(5, 7), forgotten=(0.5, 0.05))]
        curve = comparing.mean_curve(seeds, "a")
        self.assertAlmostEqual(curve[0]["forgotten"], 0.99, 9)
        self.assertAlmostEqual(curve[-1]["forgotten"], 0.1, 5)  # the first seed goes no further
        for p in curve[1:]:
            found = [comparing.at_level(comparing.curve(seed, "a"), p["forgotten"])["unseen"] for seed in seeds]
            self.assertAlmostEqual(comparing.log_odds(p["unseen"]), sum(map(comparing.log_odds, found)) / 2, 9)
        self.assertEqual(comparing.mean_curve(seeds[:1], "a"), [p for _, p in comparing.curve(seeds[0], "a")])
        self.assertEqual(comparing.mean_curve(seeds, "nobody"), [])

    def test_differences_are_paired_over_seeds(self):
        seeds = []
        for first, second in [(0.5, 0.6), (0.7, 0.9)]:
            seed = self.seed((0.8, first))
            seed["runs"] += self.seed((0.8, second), name="b")["runs"]
            seeds.append(seed)
        results = {"seeds": seeds, "levels": [0.1], "methods": [{"name": "a", "title": "A"}, {"name": "b", "title": "B"}]}
        level = comparing.compare(results)[0]
        for got, wanted in zip(level.rows[1].gained.values, [0.1, 0.2]):
            self.assertAlmostEqual(got, wanted, 9)
        self.assertAlmostEqual(level.rows[1].gained.deviation, math.sqrt(0.005), 9)
        text = comparing.summary(results, [level])
        self.assertIn("B keeps most", text[0])
        self.assertIn("with probability .75 (.95 before), those that it was shown with .90", text[0])
        self.assertIn("A keeps .60 of the unseen", text[1])
        self.assertIn("B keeps .15 more of the unseen, with every seed (.10 to .20)", text[1])

    def test_a_seed_that_has_not_run_is_no_failure(self):
        seeds = [self.seed((0.8, 0.5)), self.seed((0.8, 0.7)), self.seed((0.8, 0.6), forgotten=(0.6, 0.5))]
        seeds[0]["runs"] += self.seed((0.9, 0.8), name="b")["runs"]
        results = {"seeds": seeds, "levels": [0.1], "methods": [{"name": "a", "title": "A"}, {"name": "b", "title": "B"}]}
        level = comparing.compare(results)[0]
        self.assertEqual([(row.tried, row.reached, row.seeds(3)) for row in level.rows],
                         [(3, 2, "2 of 3 seeds"), (1, 1, "1 seed")])
        text = comparing.summary(results, [level])
        self.assertIn("Only B came to forget probability .10", text[0])
        self.assertIn("With fewer than 3 seeds, and means over those: B.", text)

    def test_no_method_that_gets_there_is_no_headline(self):
        results = {"seeds": [self.seed((0.8, 0.3))], "levels": [0.05], "methods": [{"name": "a", "title": "A"}]}
        self.assertEqual(comparing.summary(results, comparing.compare(results)),
                         ["No method came to forget probability .05 with every seed."])

    def test_other_metrics_are_of_a_run_that_is_near(self):
        seed = self.seed((0.8, 0.3))
        seed["runs"][1]["metrics"] = {"sets": {}}
        for level, wanted in [(0.1, True), (0.18, True), (0.3, False)]:
            found = comparing.nearest(seed, "a", level, lambda run: "metrics" in run)
            self.assertEqual(found is not None, wanted, level)

    def test_what_a_matrix_says(self):
        matrix = {"tasks": [[1, 0.9], [0.2, 0.7], [0.5, 0.1]], "shown": [1, 1, 1], "unseen": [1, 0.8, 0.6]}
        losses = comparing.matrix_losses(matrix)
        for name, wanted in {"returned": 0.3, "early": 0.2, "decline": 0.4}.items():
            self.assertAlmostEqual(losses[name], wanted, 12)

    def test_thresholds_are_step_by_step_where_the_log_has_them(self):
        import plots
        task = {"kind": "task", "task": 1, "tensors": [{"name": "w", "threshold": 3.0}, {"name": "b", "threshold": None}]}
        step = {"kind": "step", "task": 0, "step": 4, "thresholds": {"w": 2.0, "b": None}}
        self.assertEqual(plots.threshold_curves([task]), ("request", {"w": [(2, 3.0)]}))
        self.assertEqual(plots.threshold_curves([step, task]), ("step", {"w": [(5, 2.0)]}))

    def test_numbers_in_words(self):
        for value, text in [(0.974, ".97"), (0.004, ".004"), (1, "1.00"), (3.2e-6, "3e−6"), (-0.12, "−.12"), (0, "0"),
                            (None, "–"), (0.00098, ".001")]:
            self.assertEqual(comparing.short(value), text)
        for log_p, text in [(0, "1.00"), (math.log(0.032), ".03"), (-1000 * math.log(10) + math.log(2.19), "2e−1000"),
                            (math.log(9.96e-5), "1e−4")]:
            self.assertEqual(comparing.short_p(log_p), text)


class Errors(Folder):
    """Bad input is refused with file and path."""

    def refused(self, change, *parts):
        results = json.loads(self.results.read_text())
        change(results)
        path = self.folder / "changed.json"
        path.write_text(json.dumps(results))
        self.said(path, *parts)

    def said(self, path, *parts):
        with self.assertRaises(loading.InvalidInput) as caught:
            loading.read_results(path)
        for part in (str(path), *parts):
            self.assertIn(part, str(caught.exception))

    def test_a_probability_above_one(self):
        self.refused(lambda r: r["seeds"][1]["runs"][3]["probability"].update(unseen=1.5),
                     "seeds[1].runs[3].probability.unseen: 1.5 is greater than the maximum of 1")

    def test_a_missing_key(self):
        self.refused(lambda r: r["seeds"][0].pop("gold"), "seeds[0]: 'gold' is a required property")

    def test_a_key_that_nobody_knows(self):
        self.refused(lambda r: r["seeds"][0]["base"].update(colour=1), "seeds[0].base:", "'colour'")

    def test_a_method_that_is_not_listed(self):
        self.refused(lambda r: r["seeds"][0]["runs"][2].update(method="magic"),
                     "seeds[0].runs[2].method: expected a name in methods, got magic")

    def test_two_runs_at_one_strength(self):
        self.refused(lambda r: r["seeds"][0]["runs"].append(copy.deepcopy(r["seeds"][0]["runs"][0])),
                     "expected one run of alkn at each strength, got 0.5 again")

    def test_a_matrix_of_another_shape(self):
        def change(results):
            run = next(run for run in results["seeds"][0]["runs"] if "matrix" in run)
            run["matrix"][0]["tasks"].pop()
        self.refused(change, "matrix[0].tasks: expected 6 rows of 5, got 5 of [5]")

    def test_a_relearning_curve_without_its_end(self):
        self.refused(lambda r: r["seeds"][0]["gold"]["attacks"]["relearning"][1]["probability"].pop(),
                     "seeds[0].gold.attacks.relearning[1].probability: expected 7 numbers, got 6")

    def test_a_log_that_is_not_there(self):
        def change(results):
            next(run for run in results["seeds"][0]["runs"] if "log" in run)["log"] = "logs/none.jsonl"
        self.refused(change, ".log: expected a file, got logs/none.jsonl, which is not there")

    def refused_log(self, text, *parts):
        path = self.folder / "bad.jsonl"
        path.write_text(text)
        with self.assertRaises(loading.InvalidInput) as caught:
            loading.read_log(path)
        for part in (str(path), *parts):
            self.assertIn(part, str(caught.exception))

    def test_an_experiment_that_is_not_finished(self):
        def without(results, names):
            for seed in results["seeds"]:
                seed["runs"] = [run for run in seed["runs"] if run["method"] not in names]
        self.refused(lambda r: without(r, METHODS), "seeds: expected runs, got none")
        results = json.loads(self.results.read_text())
        without(results, METHODS[2:])
        path = self.folder / "partial.json"
        path.write_text(json.dumps(results))
        found = loading.read_results(path)
        self.assertEqual([method["name"] for method in found["methods"]], METHODS[:2])
        self.assertEqual([method["name"] for method in found["not_run"]], METHODS[2:])

    def test_bad_lines_of_a_log(self):
        good = next(self.folder.glob("logs/*.jsonl")).read_text().splitlines()
        self.refused_log("\n".join(good[:2]) + '\n{"kind": "step", "task"', "line 3: expected JSON")
        self.refused_log(good[0].replace('"loss": ', '"loss": NaN, "x": ') + "\n", "line 1: expected JSON, got NaN")
        self.refused_log(good[0] + "\n" + good[1].replace('"skipped": false', '"skipped": 0') + "\n",
                         "line 2: skipped: 0 is not of type 'boolean'")
        self.refused_log(good[15].replace('"size": 256000', '"size": "big"') + "\n",
                         "line 1: tensors[0].size: 'big' is not of type 'integer'")
        self.refused_log('{"kind": "other", "task": 0}\n', "line 1: kind: 'other' is not one of")

    def test_a_growing_log_may_end_in_half_a_line(self):
        good = next(self.folder.glob("logs/*.jsonl")).read_text()
        path = self.folder / "growing.jsonl"
        path.write_text(good[:-20])
        self.assertEqual(len(loading.read_log(path, growing=True)), good.count("\n") - 1)

    def test_the_command_says_it_and_fails(self):
        path = self.folder / "half.json"
        path.write_text(self.results.read_text()[:1000])
        done = run(path, "--out", self.folder / "none.html")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, rf"^report: {re.escape(str(path))}: expected JSON, got .* line \d+ column \d+")
        self.assertFalse((self.folder / "none.html").exists())


class Page(Folder):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.page = cls.folder / "page.html"
        done = run(cls.folder, "--out", cls.page, PYTHONHASHSEED="1")
        assert done.returncode == 0, done.stderr

    def test_the_same_input_gives_the_same_bytes(self):
        other = self.folder / "other.html"
        run(self.results, "--out", other, PYTHONHASHSEED="2", TZ="Asia/Tokyo", LC_ALL="C")
        self.assertTrue(self.page.read_bytes() == other.read_bytes(), "two runs gave different pages")

    def test_asks_nobody_and_names_no_place(self):
        text = self.page.read_text()
        self.assertNotRegex(text, r"https?://")
        self.assertNotRegex(text, r"\b20\d\d-\d\d-\d\d\b")
        self.assertNotIn(str(self.folder), text)

    def test_results_without_the_extras_still_make_a_page(self):
        results = json.loads(self.results.read_text())
        results["seeds"] = results["seeds"][:1]
        for model in [results["seeds"][0]["base"], results["seeds"][0]["gold"], *results["seeds"][0]["runs"]]:
            for name in set(model) - {"method", "strength", "probability", "seconds"}:
                del model[name]
        results["seeds"][0].pop("examples")
        path = self.folder / "plain.json"
        path.write_text(json.dumps(results))
        done = run(path, "--out", self.folder / "plain.html")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("One seed only", (self.folder / "plain.html").read_text())

    def test_numbers_that_could_not_be_computed(self):
        results = json.loads(self.results.read_text())

        def without_numbers(value):
            if isinstance(value, dict):
                return {key: without_numbers(part) if key not in ("steps", "on") else part for key, part in value.items()}
            return [without_numbers(part) for part in value] if isinstance(value, list) else None

        for seed in results["seeds"]:
            for model in [seed["base"], seed["gold"], *seed["runs"]]:
                for name in {"metrics", "attacks", "matrix"} & set(model):
                    model[name] = without_numbers(model[name])
                model.get("metrics", {}).pop("utility_parts", None)
                for matrix in model.get("matrix", []):
                    matrix["metric"] = "rouge"
        results["seeds"][0]["runs"][1]["probability"].update(forgotten=None, shown=None, unseen=None)
        path = self.folder / "null.json"
        path.write_text(json.dumps(results))
        for arguments in (("--out", self.folder / "null.html"), ("--docs", self.folder / "null.md")):
            done = run(path, *arguments)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotRegex((self.folder / "null.html").read_text(), r"\bnan\b|\bNone\b")

    def test_in_a_browser(self):
        if not browser.program():
            self.skipTest("there is no chromium")
        # what must be seen, by section: at 360 px, at 1600 px
        logs, families, levels = 4, 3, 4
        wanted = {"comparison": (levels, 1), "trade-off": (2 * families,) * 2, "requests": (logs,) * 2,
                  "weights": (2 + 2 * 2,) * 2, "steps": (logs + 2,) * 2, "attacks": (2 * families + 2 + 4, 2 * families + 1 + 1),
                  "cost": (2, 1)}
        with browser.Browser() as page:
            for width in (360, 1600):
                for dark in (False, True):
                    page.view(width, dark=dark)
                    page.open(self.page.as_uri())
                    self.assertEqual(page.complaints(), [])
                    page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
                    where = f"{width} px, {'dark' if dark else 'light'}"
                    for section, numbers in wanted.items():
                        seen = page.value(VISIBLE_PLOTS % section)
                        self.assertEqual(seen, numbers[width == 1600], f"plots of {section} at {where}")
                    for question, answer in QUESTIONS.items():
                        self.assertEqual(page.value(answer), [], f"{question} at {where}")
            colours = []
            for dark in (False, True):
                page.view(1600, dark=dark)
                colours.append(page.value("getComputedStyle(document.body).backgroundColor + "
                                          "getComputedStyle(document.querySelector('svg[role=img] text')).fill"))
            self.assertNotEqual(*colours)
            self.assertEqual(page.value(CHIPS), [True, True, False])


@unittest.skipUnless(os.environ.get("ALKN_RESULTS"), "ALKN_RESULTS names no results of an experiment")
class RealRun(unittest.TestCase):
    """The page of a results.json that an experiment wrote: ALKN_RESULTS=FOLDER."""

    def test_in_a_browser(self):
        if not browser.program():
            self.skipTest("there is no chromium")
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "report.html"
            done = run(pathlib.Path(os.environ["ALKN_RESULTS"]).resolve(), "--out", out)
            self.assertEqual(done.returncode, 0, done.stderr)
            with browser.Browser() as page:
                for width in (360, 1600):
                    page.view(width)
                    page.open(out.as_uri())
                    page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
                    self.assertEqual(page.complaints(), [])
                    for question, answer in QUESTIONS.items():
                        self.assertEqual(page.value(answer), [], f"{question} at {width} px")


class Docs(Folder):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.page = cls.folder / "docs" / "results.md"
        cls.page.parent.mkdir()
        done = run(cls.results, "--docs", cls.page)
        assert done.returncode == 0, done.stderr
        cls.text = cls.page.read_text()

    def test_the_results_that_the_guide_shows_make_a_report(self):
        guide = (ROOT / "docs" / "measure.md").read_text()
        path = self.folder / "guide.json"
        path.write_text(re.search(r"```json\n(.*?)```", guide, re.DOTALL)[1])
        done = run(path, "--out", self.folder / "guide.html")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("At forget probability .20, ALKN keeps most", (self.folder / "guide.html").read_text())

    def test_says_what_the_results_say(self):
        results = loading.read_results(self.results)
        levels = comparing.compare(results)
        for sentence in comparing.summary(results, levels):
            self.assertIn(sentence, " ".join(self.text.split()))
        row = levels[1].rows[3]
        self.assertIn(f"| NPO | {comparing.short(row.shown.mean)} ± ", self.text)
        self.assertIn("| ALKN, paper | not reached |", self.text)
        self.assertRegex(self.text, r"- ALKN without sparsity keeps \.\d\d less of the unseen than ALKN, conflict\.")
        self.assertIn("    tests/report/fixture.py FOLDER\n", self.text)

    def test_results_are_kept_with_their_logs(self):
        done = run(self.results, "--keep", self.folder / "kept")
        self.assertEqual(done.returncode, 0, done.stderr)
        before, kept = loading.read_results(self.results), loading.read_results(self.folder / "kept")
        logs = [run["log"] for run in kept["seeds"][0]["runs"] if "log" in run]
        self.assertIn("logs/1-npo-0.0001.jsonl", logs)
        self.assertEqual(len(list((self.folder / "kept" / "logs").iterdir())), len(logs))
        for results in (before, kept):
            for one in results["seeds"][0]["runs"]:
                one.pop("log", None)
        self.assertEqual(before, kept)

    def test_its_pictures_stand_alone(self):
        names = re.findall(r"\]\((results/[\w-]+\.svg)\)", self.text)
        self.assertEqual(len(names), 3)
        for name in names:
            picture = (self.page.parent / name).read_text()
            self.assertNotIn("var(", picture)
            tree = xml.etree.ElementTree.fromstring(picture)
            self.assertTrue(tree.get("aria-label"))

    def test_the_page_of_the_repository_is_what_its_results_give(self):
        kept = ROOT / "docs" / "results" / "results.json"
        if not kept.exists():
            self.skipTest("no results are kept")
        page = self.folder / "again" / "results.md"
        page.parent.mkdir()
        run(kept, "--docs", page)
        self.assertEqual(page.read_text(), (ROOT / "docs" / "results.md").read_text(), "make results writes it anew")


class Watch(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        p = {"forgotten": 0.2, "shown": 0.9, "unseen": 0.8}
        self.lines = [json.dumps(line) + "\n" for line in fixture.log_lines(p, True, random.Random(1))]
        self.log = self.folder / "run" / "metrics.jsonl"
        self.log.parent.mkdir()
        self.log.write_text("".join(self.lines[:3]))
        self.server = subprocess.Popen([ROOT / "scripts" / "watch", self.folder, "--port", "0", "--every", "0.1"],
                                       stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.server.stdout.close)
        self.addCleanup(self.server.wait)
        self.addCleanup(self.server.terminate)
        self.address = re.search(r"http://127\.0\.0\.1:(\d+)/", self.server.stdout.readline())

    def ask(self, path, host=None):
        connection = http.client.HTTPConnection("127.0.0.1", int(self.address[1]))
        self.addCleanup(connection.close)
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def state(self):
        return json.loads(self.ask("/state")[1])

    def grow(self, text):
        with self.log.open("a") as file:
            file.write(text)

    def said(self):
        return re.findall('<p class="lead">(.*?)</p>', self.state()["html"])

    def test_follows_a_log_that_grows(self):
        first = self.state()["version"]
        self.assertEqual(self.said(), ["request 1, step 3"])
        self.assertEqual(self.state()["version"], first)
        self.grow(self.lines[3] + self.lines[4][:30])
        self.assertEqual(self.said(), ["request 1, step 4"])
        self.grow(self.lines[4][30:] + "".join(self.lines[5:16]))
        self.assertEqual(self.said(), ["request 1 done: forgotten .20, kept, never shown .95"])
        self.assertEqual(self.state()["html"].count("<svg"), 2)
        self.assertNotEqual(self.state()["version"], first)
        self.log.write_text(self.lines[0])
        self.assertEqual(self.said(), ["request 1, step 1"])
        (self.folder / "sweep.jsonl").write_text(self.lines[0] + self.lines[1])
        self.assertEqual(sorted(self.said()), ["request 1, step 1", "request 1, step 2"])
        self.assertEqual(sorted(re.findall("<h2>(.*?)</h2>", self.state()["html"])), ["run", "sweep"])

    def test_shows_what_is_wrong_with_a_line(self):
        self.grow(self.lines[3].replace('"lr": ', '"lr": -'))
        wrong = re.findall('role="alert">(.*?)</p>', self.state()["html"])
        self.assertRegex("".join(wrong), r"metrics.jsonl: line 4: lr: -\S+ is less than the minimum of 0")

    def test_answers_this_machine_alone(self):
        self.assertEqual(self.ask("/", "elsewhere.example:80")[0], 403)
        self.assertEqual(self.ask("/../watch.py")[0], 404)
        with open(f"/proc/{self.server.pid}/net/tcp") as table:
            port = f":{int(self.address[1]):04X}"
            listening = [line.split()[1] for line in table if line.split()[1].endswith(port) and line.split()[3] == "0A"]
        self.assertEqual(listening, ["0100007F" + port])

    def test_in_a_browser(self):
        if not browser.program():
            self.skipTest("there is no chromium")
        with browser.Browser() as page:
            def wait(condition):
                for _ in range(100):
                    if page.value(condition):
                        return
                    time.sleep(0.1)
                self.fail(f"never true: {condition}")

            page.view(360)
            page.open(self.address[0])
            wait("document.querySelectorAll('svg').length === 1")
            self.grow("".join(self.lines[3:]))
            wait("document.querySelectorAll('svg').length === 2")
            for question, answer in QUESTIONS.items():
                self.assertEqual(page.value(answer), [], question)
            self.assertEqual(page.complaints(), [])


VISIBLE_PLOTS = """[...document.querySelectorAll('#%s svg[role=img]')].filter(s => {
  const box = s.getBoundingClientRect(); return box.width > 200 && box.height > 100 }).length"""
TEXTS = """(() => {
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.closest('script, style, title')) continue;
    const box = e.getBoundingClientRect();
    if (!box.width) continue;
    let size = parseFloat(getComputedStyle(e).fontSize);
    if (e.ownerSVGElement) { const m = e.getScreenCTM(); size *= Math.hypot(m.a, m.b); }
    const ask = %s;
    if (ask) found.push(e.textContent.trim().slice(0, 40) + ' ' + size.toFixed(2) + ' ' + box.right.toFixed(0));
  }
  return found.slice(0, 5);
})()"""
QUESTIONS = {
    "wider than the window": "document.documentElement.scrollWidth <= innerWidth ? [] : [document.documentElement.scrollWidth]",
    "text below 10 px": TEXTS % "size < 10",
    "text outside of the window": TEXTS % "!e.closest('.scroll, nav') && (box.right > innerWidth + 1 || box.left < -1)",
    "plots without words": """[...document.querySelectorAll('svg')].filter(s => s.getAttribute('aria-hidden') !== 'true'
        && !(s.getAttribute('role') === 'img' && s.getAttribute('aria-label').length > 30)).map(s => s.outerHTML.slice(0, 80))""",
    "an identifier used twice": """(() => { const n = {}; document.querySelectorAll('[id]').forEach(e => n[e.id] = (n[e.id] || 0) + 1);
        return Object.keys(n).filter(k => n[k] > 1) })()""",
    "a reference to nothing": """[...document.querySelectorAll('use')].map(e => e.getAttribute('href'))
        .filter(h => !document.querySelector(h)).slice(0, 3)""",
    "a colour that the page does not have": """[...new Set(document.documentElement.outerHTML.match(/var\\(--[\\w-]+/g))]
        .map(v => v.slice(4)).filter(v => v !== '--bar' && v !== '--most'
          && !getComputedStyle(document.documentElement).getPropertyValue(v))""",
    "a placeholder left over": "document.documentElement.outerHTML.match(/#(0[1-5]){3}|#[123]0000|#[12]000/g) || []",
}
CHIPS = """(() => {
  const chip = document.querySelector('.chip[data-method=npo]'), off = m => [...document.querySelectorAll('.series')]
    .filter(e => e.dataset.method === m).every(e => e.classList.contains('off'));
  chip.click(); const first = off('alkn'), pressed = chip.getAttribute('aria-pressed') === 'true'; chip.click();
  return [first, pressed, off('alkn')];
})()"""

if __name__ == "__main__":
    unittest.main()
