"""One iteration of unlearning on SmolLM2 by several processes, and what larger models would take.

    .venv-model/bin/python benchmarks/processes.py [--rounds N] [--processes 1,2,4] [--model FOLDER]
                                                   [--out FILE]

For each number of processes it starts as many bench_model_iteration, each with its share of the
machine's threads and of each batch of 8 x 64 tokens, and lets them iterate in a first task. Times
are medians of the rounds, an iteration's that of its slowest process; memory is the largest of the
processes. The plan is computed, from the tensors of public models and the way alkn deals them.
"""

import argparse
import json
import os
import pathlib
import statistics
import socket
import subprocess
import tempfile

import model_iteration
from model_iteration import PROGRAM, ROOT

# Beside weight and gradient, bytes a weight on the process that holds its state: of a bfloat16
# model with fp32 masters. One bit each of a mask and of what earlier tasks have used.
STATE = {"master": 4, "exp_avg": 4, "exp_avg_sq": 4, "score": 4, "retain gradient": 2, "start": 4, "bits": 0.25}
COMPACT = STATE | {"exp_avg": 2, "exp_avg_sq": 2, "score": 2, "start": 0}  # the start on the host
MODELS = {  # vocabulary, width, layers, width of the MLP, width of keys and values
    "Llama-2-7B": (32000, 4096, 32, 11008, 4096),
    "Llama-3-8B": (128256, 4096, 32, 14336, 1024),
    "Llama-3-70B": (128256, 8192, 80, 28672, 1024),
}
TOKENS = 4 * 512  # of one process's batch


def tensors(vocabulary, width, layers, mlp, keys):
    layer = [width * width, width * keys, width * keys, width * width, mlp * width, mlp * width, mlp * width,
             width, width]
    return [vocabulary * width] * 2 + layer * layers + [width]


def largest_share(sizes, processes):
    """Weights of the process that has most: whole tensors, the largest first, each to the least."""
    loads = [0] * processes
    for size in sorted(sizes, reverse=True):
        loads[loads.index(min(loads))] += size
    return max(loads)


def plan():
    """GB on the fullest of 4, 8, 64 GPUs."""
    rows = []
    for name, shape in MODELS.items():
        vocabulary, width, layers, _, _ = shape
        sizes = tensors(*shape)
        weights = sum(sizes)
        # blocks that are computed again keep their inputs; logits and their gradient are fp32
        activations = TOKENS * (2 * width * layers + 2 * 4 * vocabulary)
        for gpus in (4, 8, 64):
            share = largest_share(sizes, gpus)
            row = {"model": name, "gpus": gpus, "weights": weights, "share_over_mean": share * gpus / weights,
                   "weights_and_gradients": 4 * weights, "activations": activations}
            for kind, state in (("state", STATE), ("state_start_on_host", STATE | {"start": 0}), ("compact", COMPACT)):
                row[kind] = share * sum(state.values())
                row[f"total_{kind}"] = 4 * weights + activations + row[kind]
            rows.append(row)
    return rows


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(number, rounds, model, batches):
    threads = max(1, len(os.sched_getaffinity(0)) // number)
    port = free_port()
    command = [str(PROGRAM), "--model", str(model), "--batches", batches, "--mode", "first", "--threads", str(threads)]
    workers = []
    for rank in range(number):
        launcher = {"RANK": str(rank), "WORLD_SIZE": str(number), "LOCAL_RANK": str(rank),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if number > 1 else {}
        workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=os.environ | {"OMP_NUM_THREADS": str(threads)} | launcher))

    def ask(line=None):
        for worker in workers if line else ():
            worker.stdin.write(line + "\n")
            worker.stdin.flush()
        return [json.loads(worker.stdout.readline()) for worker in workers]

    ask()
    first = ask("go")
    iterations = [ask("go") for _ in range(rounds)]
    ends = ask("end")

    def median(key):
        return statistics.median(max(worker[key] for worker in iteration) for iteration in iterations)

    def state(end):  # MiB beside weights and gradient
        resident = {phase["after"]: phase["resident_mib"] for phase in end["phases"]}
        return resident["iterations"] - resident["load"] - 4 * end["weights"] / 2**20

    return {"processes": number, "threads": threads, "passes": median("passes"), "step": median("step"),
            "seconds": statistics.median(max(w["passes"] + w["step"] for w in i) for i in iterations),
            "first_step": max(worker["step"] for worker in first), "bytes": iterations[0][0]["bytes"],
            "state_mib": max(map(state, ends)), "peak_mib": max(end["peak_mib"] for end in ends),
            "weights": ends[0]["weights"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models" / "smollm2-135m")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "bench" / "processes.json")
    options = parser.parse_args()
    model_iteration.environment_check(options.model)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        batches = str(pathlib.Path(scratch) / "batches")
        model_iteration.write_batches(model_iteration.FULL, model_iteration.text_tokens(options.model), batches)
        for number in map(int, options.processes.split(",")):
            rows.append(run(number, options.rounds, options.model, batches))
            print(json.dumps(rows[-1]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"processor": model_iteration.processor(),
                                       "cores": len(os.sched_getaffinity(0)), "rounds": options.rounds,
                                       "measured": rows, "plan": plan()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
