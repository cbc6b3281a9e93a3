"""One iteration of unlearning on SmolLM2, beside the same in transformers and PyTorch.

    .venv-model/bin/python benchmarks/model_iteration.py [--rounds N] [--threads N]
                                                         [--model FOLDER] [--out FILE]

Every comparison starts one process an arm, which loads the model, warms up, and then takes turns
with the others, one iteration each, in another order every round: what disturbs the machine
disturbs all alike. Times are medians of the rounds, of each batch, and the mean of those; memory
is the peak of the arm's own process, from its start to its end. `make bench-model` builds what is
needed and runs it.
"""

import argparse
import itertools
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "release" / "bin" / "bench_model_iteration"

# Tokens of question and answer of 32 pairs of TOFU's forget10, every twelfth, in SmolLM2's
# vocabulary with "Question: ...\nAnswer: ..." around them. On average 59 and 34 of these.
TOFU = [(39, 15), (19, 37), (22, 26), (21, 35), (21, 27), (18, 23), (23, 36), (27, 35), (28, 62),
        (23, 47), (36, 33), (25, 30), (19, 23), (22, 34), (24, 32), (34, 14), (19, 35), (17, 24),
        (24, 30), (25, 30), (32, 28), (23, 28), (18, 49), (16, 31), (20, 44), (33, 34), (33, 55),
        (23, 26), (23, 34), (19, 50), (32, 41), (38, 45)]
FULL = [(0, 64)] * 8

# glibc's environment for what models::keep_freed_memory() of examples/models/heap.hpp does.
KEEP_FREED_MEMORY = ("env", "MALLOC_MMAP_MAX_=0", "MALLOC_TRIM_THRESHOLD_=100000000000")


def text_tokens(folder):
    """A text that the model half knows, as long as it is asked for: on random tokens ALKN's loss
    and gradients would be near 0."""
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    ids = range(3, vocabulary)  # a model without a tokenizer
    if (folder / "tokenizer.json").exists():
        import tokenizers
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        ids = tokenizer.encode((ROOT / "LICENSE").read_text()).ids
    return itertools.cycle(ids)


def write_batches(lengths, tokens_of_text, path):
    """Batches of eight, padded at the end; the labels of questions and padding are -100."""
    import safetensors.torch
    import torch
    tensors = {}
    for i in range(0, len(lengths), 8):
        part = lengths[i:i + 8]
        width = max(question + answer for question, answer in part)
        tokens = torch.tensor([[next(tokens_of_text) for _ in range(width)] for _ in part])
        labels = tokens.clone()
        for row, (question, answer) in enumerate(part):
            labels[row, :question] = -100
            labels[row, question + answer:] = -100
        tensors[f"tokens_{i // 8}"] = tokens
        tensors[f"labels_{i // 8}"] = labels
    safetensors.torch.save_file(tensors, path)


# The PyTorch side, in a process of its own

class PlainAlkn:
    """ALKN's step as Python code takes it: clip_grad_norm_, two topk a tensor, boolean masks, an
    eager AdamW, and a second model for the negation; what benchmarks/plain_operations.hpp is in
    C++."""

    def __init__(self, model, later):
        import copy
        import torch
        self.torch = torch
        self.start = copy.deepcopy(model)  # what the negation subtracts from
        self.parameters = list(model.parameters())
        self.retain = [p.grad.clone() for p in self.parameters]
        self.used = [torch.rand_like(p) < 0.8 for p in self.parameters] if later else None
        self.score = [torch.zeros_like(p) for p in self.parameters]
        self.exp_avg = [torch.zeros_like(p) for p in self.parameters]
        self.exp_avg_sq = [torch.zeros_like(p) for p in self.parameters]
        self.threshold = [0.0] * len(self.parameters)
        self.count = 0

    def step(self):
        torch = self.torch
        self.count += 1
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        with torch.no_grad():
            for i, p in enumerate(self.parameters):
                product = p.grad * self.retain[i]
                self.score[i] = self.score[i] + product
                if self.used is None:
                    self.threshold[i] = self.interpolate(self.score[i])
                else:
                    self.score[i] = self.score[i] - product.std() * 0.5 * self.used[i].float()
                self.adamw(i, p, p.grad * (self.score[i] > self.threshold[i]).float())

    def interpolate(self, score):
        n = score.numel()
        if n < 10:
            return -float("inf")
        flat, k = score.reshape(-1), max(5, int(0.15 * n))
        high = self.torch.topk(flat, k).values.min().item()
        low = self.torch.topk(flat, k, largest=False).values.max().item()
        return high - (high - low) * (0.8 * n - k + 1) / (n - 2 * k + 2)

    def adamw(self, i, p, g):
        self.exp_avg[i].mul_(0.9).add_(g, alpha=0.1)
        self.exp_avg_sq[i].mul_(0.999).addcmul_(g, g, value=0.001)
        p.mul_(1 - 1e-5 * 0.01)
        root = (self.exp_avg_sq[i].sqrt() / (1 - 0.999 ** self.count) ** 0.5).add_(1e-8)
        p.addcdiv_(self.exp_avg[i], root, value=-1e-5 / (1 - 0.9 ** self.count))


def peak_mib():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("expected VmHWM in /proc/self/status")


def work(mode, folder, batches, threads):
    import safetensors.torch
    import torch
    import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.config.use_cache = False
    model.train()
    tensors = safetensors.torch.load_file(batches)
    number = len(tensors) // 2

    def passes(i):
        model.zero_grad()
        loss = model(input_ids=tensors[f"tokens_{i % number}"],
                     labels=tensors[f"labels_{i % number}"]).loss
        loss.backward()
        return loss.item()

    optimizer = None
    if mode == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    elif mode != "passes":
        passes(number - 1)
        optimizer = PlainAlkn(model, later=mode == "later")
    print(json.dumps({"ready": True}), flush=True)
    count = 0
    for line in sys.stdin:
        if line.strip() != "go":
            print(json.dumps({"peak_mib": peak_mib(), "torch": torch.__version__,
                              "transformers": transformers.__version__}), flush=True)
            return
        start = time.perf_counter()
        loss = passes(count)
        middle = time.perf_counter()
        if optimizer is not None:
            optimizer.step()
        end = time.perf_counter()
        count += 1
        print(json.dumps({"passes": middle - start, "step": end - middle, "loss": loss}), flush=True)


# The driver

class Arm:
    def __init__(self, name, command):
        self.name, self.runs = name, []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def ask(self, line=None):
        if line is not None:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"model_iteration: expected an answer of the arm \"{self.name}\", got its end "
                     f"(exit code {self.process.wait()})")
        return json.loads(answer)

    def result(self, batches):
        end = self.ask("end")
        self.process.stdin.close()
        self.process.wait()

        def typical(values):
            return statistics.mean(statistics.median(values[i::batches]) for i in range(batches))

        totals = [run["passes"] + run["step"] for run in self.runs]
        return {"seconds": typical(totals),
                "passes": typical([run["passes"] for run in self.runs]),
                "step": typical([run["step"] for run in self.runs]),
                "all_seconds": [round(total, 4) for total in totals], **end}


def compare(arms, rounds, batches_per_round, same_loss):
    """{name: result} of arms that take turns; `same_loss`: they are on the same weights."""
    running = []
    for name, command in arms.items():
        print(f"  {name}", flush=True)
        running.append(Arm(name, command))
        running[-1].ask()  # loaded: the next one does not load beside it
    order = random.Random(3)
    losses = [arm.ask("go")["loss"] for arm in running]  # a round to warm up
    if same_loss and max(losses) - min(losses) > 1e-3 * abs(losses[0]):
        sys.exit(f"model_iteration: expected one loss of all arms, got {losses}")
    for _ in range(rounds * batches_per_round):
        for arm in order.sample(running, len(running)):
            arm.runs.append(arm.ask("go"))
    return {arm.name: arm.result(batches_per_round) for arm in running}


def measure(folder, rounds, threads):
    environment_check(folder)
    arms = {}
    with tempfile.TemporaryDirectory() as scratch:
        full, tofu = (str(pathlib.Path(scratch) / name) for name in ("full", "tofu"))
        write_batches(FULL, text_tokens(folder), full)
        write_batches(TOFU, text_tokens(folder), tofu)

        def ours(batches, mode="passes", *flags):
            return [str(PROGRAM), "--model", str(folder), "--batches", batches, "--mode", mode,
                    "--threads", str(threads), *flags]

        def torch(batches, mode="passes"):
            return [sys.executable, __file__, "--worker", mode, "--model", str(folder), "--batches",
                    batches, "--threads", str(threads)]

        def kept(batches, mode="passes"):
            return [*KEEP_FREED_MEMORY, *torch(batches, mode)]

        comparisons = [
            ("passes, 8 x 64", 1, True,
             {"alkn": ours(full), "transformers": torch(full),
              "transformers, freed memory kept": kept(full)}),
            ("passes, TOFU's batches", 4, True,
             {"alkn, answer rows": ours(tofu, "passes", "--rows"), "alkn": ours(tofu),
              "transformers": torch(tofu), "transformers, freed memory kept": kept(tofu)}),
            ("iteration, later task", 1, False,
             {"ALKN": ours(full, "later"), "fused AdamW": torch(full, "adamw")}),
            ("iteration, later task, plain", 1, False,
             {"ALKN": ours(full, "later"), "plain operations": torch(full, "later"),
              "plain operations, freed memory kept": kept(full, "later")}),
            ("iteration, first task", 1, False,
             {"ALKN": ours(full, "first"), "plain operations": torch(full, "first"),
              "plain operations, freed memory kept": kept(full, "first")}),
            ("iteration, later task, compact", 1, False,
             {"ALKN, compact state": ours(full, "later", "--compact")}),
        ]
        for title, batches, same_loss, programs in comparisons:
            print(f"== {title}", flush=True)
            arms[title] = compare(programs, rounds, batches, same_loss)
    return {"header": header(rounds, threads, arms), "arms": arms, "bars": bars(arms)}


def environment_check(folder):
    for path, how in ((PROGRAM, "build the target bench_model_iteration"),
                      (folder / "config.json", "run make model")):
        if not path.exists():
            sys.exit(f"model_iteration: expected {path}, got none: {how}")


def processor():
    return next((line.split(":", 1)[1].strip() for line in
                 pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                 if line.startswith("model name")), platform.processor())


def instruction_set():
    flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    return next((name for flag, name in (("avx512f", "avx512"), ("avx2", "avx2")) if flag in flags),
                platform.machine())


def header(rounds, threads, arms):
    torch = arms["passes, 8 x 64"]["transformers"]
    return {"processor": processor(), "instruction_set": instruction_set(),
            "cores": len(os.sched_getaffinity(0)), "threads": threads, "rounds": rounds,
            "torch": torch["torch"], "transformers": torch["transformers"],
            "weights": arms["passes, 8 x 64"]["alkn"]["weights"]}


def bars(arms):
    def seconds(title, a, b):
        return arms[title][a]["seconds"] / arms[title][b]["seconds"]

    plain = max(arms[title]["plain operations"]["peak_mib"]
                for title in ("iteration, later task, plain", "iteration, first task"))
    ours = max(arms[title]["ALKN"]["peak_mib"] for title in arms if "ALKN" in arms[title])
    compact = arms["iteration, later task, compact"]["ALKN, compact state"]["peak_mib"]
    return [
        {"what": "forward and backward pass / transformers",
         "value": seconds("passes, 8 x 64", "alkn", "transformers"), "bar": 1.0},
        {"what": "the same on TOFU's batches, answer rows alone / transformers",
         "value": seconds("passes, TOFU's batches", "alkn, answer rows", "transformers"),
         "bar": 0.85},
        {"what": "iteration of a later task / transformers with torch's fused AdamW",
         "value": seconds("iteration, later task", "ALKN", "fused AdamW"), "bar": 1.05},
        {"what": "iteration of a first task / transformers with ALKN of plain operations",
         "value": seconds("iteration, first task", "ALKN", "plain operations"), "bar": 0.3},
        {"what": "iteration of a later task / the same",
         "value": seconds("iteration, later task, plain", "ALKN", "plain operations"), "bar": 0.6},
        {"what": "peak of the run / that one's, with its second model",
         "value": ours / plain, "bar": 0.95},
        {"what": "the same with a compact state", "value": compact / plain, "bar": 0.8},
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="iterations of each arm (default 9)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=pathlib.Path,
                        default=ROOT / "build" / "bench" / "model_iteration.json")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models" / "smollm2-135m",
                        help="Hugging Face folder (default models/smollm2-135m)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--batches", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("expected at least one round and one thread")
    if options.worker:
        work(options.worker, options.model, options.batches, options.threads)
        return
    result = measure(options.model, options.rounds, options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for bar in result["bars"]:
        met = "met" if bar["value"] <= bar["bar"] else "NOT MET"
        print(f"{bar['value']:.3f}  at most {bar['bar']:<5} {met:8} {bar['what']}")


if __name__ == "__main__":
    main()
