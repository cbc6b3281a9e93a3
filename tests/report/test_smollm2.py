"""The page of the experiment on a checkpoint: what it says of made-up results; the kept page is that of the kept ones."""
import copy
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "report"))
import smollm2  # noqa: E402

FINAL = {"requests": 1, "forgotten": .4, "shown": .8, "unseen": .6, "rouge": {"forgotten": .5, "shown": .7, "unseen": .6},
         "real_authors": {"probability": .5, "accuracy": .75}, "world_facts": {"probability": .4, "accuracy": .5},
         "truth_ratio": .7, "forget_quality": {"distance": .3, "p": 1e-7},
         "relearned": {"steps": 10, "probability": [.4, .7]}}
CONFIG = {"seed": 1, "tasks": 1, "authors_per_task": 4, "authors_kept": 20, "authors_shown": 6, "pairs_per_author": 10,
          "teach_lr": 3e-4, "teach_batch": 16, "batch": 8, "judged": 16, "asked": 24, "told": 40,
          "generated": 12, "relearn_steps": 10, "relearn_warmup": 5, "relearn_batch": 8, "relearn_lr": 1.5e-4,
          "threads": 2}
NEGATING = ("conflict", "reference", "paper", "task-vector")


def model(name, tasks=1, seed=1):
    taught = {"teaching": {"passes": 4, "probability": .84, "seconds": 60, "hash": "00ff"}}
    return {"name": name, "title": name, "seed": seed, "config": {**CONFIG, "tasks": tasks}, "finals": [FINAL], "machine": "cores",
            **(taught if name != "original" else {})}


def arm(name, unseen, seed=1, answered=1, tasks=1):
    negates = name in NEGATING
    request = {"request": .4, "shown": .8, "unseen": unseen, "fraction_trained": .5, "steps": 10, "target_met": True,
               "seconds": 100, "measuring_seconds": 10, "real_authors": {"accuracy": .75},
               "world_facts": {"accuracy": .5}, **({"lambda": 3.25} if negates else {})}
    config = {**CONFIG, "tasks": tasks, "target": .4, "lr": 3e-5 if negates else 1e-4, "epochs": 2 if negates else 6,
              "max_lambda": 12 if negates else 0, **({"iterations": 6} if negates else {})}
    run = {"name": name, "title": name, "seed": seed, "config": config,
           "requests": [copy.deepcopy(request) for _ in range(answered)],
           "finals": [{**copy.deepcopy(FINAL), "requests": answered, "unseen": unseen}], "peak_mib": 5000, "load": 3.5}
    if negates:
        run["sweep"] = [{"lambda": 3, "request": .5, "shown": .9, "unseen": .7}]
    return run


class Page(unittest.TestCase):
    def test_what_holds_and_what_does_not(self):
        runs = [model("taught"), model("gold"), arm("conflict", .6), arm("paper", .7), arm("npo+retain", .75)]
        text = smollm2.page(runs).replace("\n", " ")
        self.assertIn("this holds: NPO + retain keeps more of the unseen than ALKN, conflict (.75 and .60). This does "
                      "not: ALKN, conflict keeps more than ALKN, paper (.60 and .70).", text)
        self.assertIn("Not known: ALKN, conflict keeps more than ALKN, reference;", text)
        self.assertIn("A partial table: 3 of 6 methods have answered 1 of 1 request,", text)
        self.assertIn("Not finished: reference, task-vector, gradient-ascent+retain.", text)
        self.assertIn("one fine-tuning of 2 passes in batches of 8", text)
        self.assertIn("asked after each step, 6 passes at most.", text)
        self.assertIn("not tuned alike: 3e-5 (conflict; paper), 1e-4 (npo+retain).", text)
        self.assertNotIn("Ended above the target", text)
        self.assertNotIn("nothing was changed for it", text)
        self.assertIn("| conflict | .40 | .80 | .60 | .75 | .50 | .50 | .40 | .40 → .70 |", text)
        self.assertIn("| conflict | 1 | 10 | 3.25 | .40 |  | .80 | .60 |", text)
        self.assertIn("| conflict | 100 | 10 | 5000 | 3.5 |", text)
        self.assertIn("| .70 | .30 | 1e−7 |", text)

    def test_methods_that_have_only_begun(self):
        runs = [model("taught", 3), arm("conflict", .6, answered=2, tasks=3), arm("paper", .5, answered=2, tasks=3),
                arm("npo+retain", .75, tasks=3)]
        runs[1]["requests"][0]["unseen"] = .7
        runs[3]["finals"] = []
        text = smollm2.page(runs).replace("\n", " ")
        self.assertIn("2 of 6 methods have answered 2 of 3 requests and 1 has begun,", text)
        self.assertIn("On SmolLM2-135M, after 2 of 3 requests, of the ranking", text)
        self.assertIn("more of the unseen than ALKN, conflict (.75 and .70 after 1 request)", text)
        self.assertIn("ALKN, conflict keeps more than ALKN, paper (.60 and .50).", text)
        self.assertIn("Not finished: reference, task-vector, npo+retain (1 of 2 requests), gradient", text)
        self.assertIn("All that have begun, after 1 of 3 requests:", text)
        self.assertIn("| npo+retain | .40 |  | .80 | .75 | .75 |  | .50 |  |", text)
        self.assertNotIn("| *taught* |", text)  # it was measured for one request, the methods after two

    def test_a_table_of_some_requests(self):
        runs = [model("taught", 3), arm("conflict", .6, answered=2, tasks=3), arm("paper", .5, answered=3, tasks=3),
                arm("npo+retain", .75, answered=3, tasks=3)]
        for run in runs:
            run["finals"] = [{**FINAL, "requests": 2, "forgotten": .33}, {**FINAL, "requests": 3}]
        runs[1]["finals"].pop()
        text = smollm2.page(runs)
        self.assertIn("| after 2 requests | forgotten |", text)  # three methods came to two, and two to three
        self.assertIn("| conflict | .33 |", text)
        self.assertIn("| *taught* | .33 |", text)

    def test_methods_that_forgot_unequally(self):
        runs = [model("taught"), arm("conflict", .6), arm("npo+retain", .75)]
        runs[2]["requests"][0].update(request=.52, target_met=False)
        text = smollm2.page(runs).replace("\n", " ")
        self.assertIn("Nothing of [the small model's ranking](results.md) is confirmed or refuted", text)
        self.assertIn("ALKN, conflict (they left .52 and .40 of a request: no comparison)", text)
        self.assertIn("Ended above the target: npo+retain after request 1.", text)

    def test_what_held_after_the_first_request_alone(self):
        runs = [model("taught", 2), arm("conflict", .6, answered=2, tasks=2), arm("npo+retain", .5, answered=2, tasks=2)]
        runs[2]["requests"][0]["unseen"] = .8
        self.assertIn("This does not: NPO + retain keeps more of the unseen than ALKN, conflict (.50 and .60; it did after "
                      "1 request, .80 and .60).", smollm2.page(runs).replace("\n", " "))
        runs[2]["requests"][0]["request"] = .3
        runs[2]["requests"][1]["request"] = .5
        self.assertIn("ALKN, conflict (.50 and .60).", smollm2.page(runs).replace("\n", " "))

    def test_another_target_that_all_methods_have_come_to(self):
        runs = [model("taught"), *(arm(name, .6) for name in smollm2.ORDER)]
        other = [arm(name, .7 if name == "conflict" else .6) for name in smollm2.ORDER]
        for run in other:
            run["config"]["target"] = .6
        text = smollm2.page(runs + other).replace("\n", " ")
        self.assertIn("At 10 pairs an author and a target of .60 this holds: ALKN, conflict keeps more than ALKN, reference "
                      "(.70 and .60);", text)
        self.assertNotIn("an author and a target of .60 this", smollm2.page(runs + other[:-1]).replace("\n", " "))

    def test_a_request_that_was_forgotten_already(self):
        runs = [model("taught"), arm("conflict", .6), arm("npo+retain", .75)]
        runs[1]["requests"][0]["lambda"] = 0
        self.assertIn("nothing was changed for it", smollm2.page(runs).replace("\n", " "))

    def test_a_taught_model_alone(self):
        text = smollm2.page([model("taught")]).replace("\n", " ")
        self.assertIn("Nothing of [the small model's ranking](results.md) is confirmed or refuted", text)
        self.assertIn("0 of 6 methods have answered 1 of 1 request, at 10 pairs an author, seed 1.", text)
        self.assertIn("| *taught* | .40 | .80 | .60 |", text)
        self.assertIn("Not finished: conflict, reference, paper,", text)

    def test_no_difference_to_speak_of(self):
        holds, fails, _ = smollm2.Table([arm("conflict", .6), arm("paper", .59)], 10, .4).verdict()
        self.assertEqual((holds, len(fails)), ([], 1))

    def test_the_mean_over_seeds(self):
        table = smollm2.Table([arm("conflict", .5), arm("conflict", .7, seed=2)], 10, .4)
        self.assertAlmostEqual(table.unseen("conflict", 1), .6)
        self.assertEqual(table.which, "seeds 1 and 2")

    def test_targets_of_different_seeds(self):
        runs = [model("taught"), model("taught", seed=2), arm("conflict", .6), arm("conflict", .7, seed=2)]
        runs[1]["finals"] = [{**FINAL, "unseen": .9}]
        runs[3]["config"]["target"] = .6
        text = smollm2.page(runs).replace("\n", " ")
        self.assertIn("a target of .40, seed 1; 1 of 6 methods have answered 1 of 1 request, at 10 pairs an author and a "
                      "target of .60, seed 2.", text)
        self.assertIn("| *taught* | .40 | .80 | .60 |", text)
        self.assertIn("| *taught* | .40 | .80 | .90 |", text)
        self.assertNotIn("| *taught* | .40 | .80 | .75 |", text)  # the mean of both

    def test_the_kept_page_is_that_of_the_kept_results(self):
        folder, kept = ROOT / "docs" / "results_smollm2", ROOT / "docs" / "results_smollm2.md"
        if not kept.exists():
            self.skipTest("no results yet")
        self.assertEqual(kept.read_text(), smollm2.page(smollm2.read(folder)))


if __name__ == "__main__":
    unittest.main()
