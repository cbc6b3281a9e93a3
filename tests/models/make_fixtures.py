"""Writes tests/models/fixtures: small random models of every family with transformers' logits and
greedy tokens, and expected values of SmolLM2 where models/smollm2-135m is there.

    .venv-model/bin/python tests/models/make_fixtures.py [NAME...]
"""

import json
import pathlib
import shutil
import sys

import torch
import transformers

import families

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ROWS, LENGTH, SHOWN, COUNT = 2, 40, 3, 50
PROMPTS = ["The capital of France is", "Question: What genre does she write in?\nAnswer:"]


def write(path, value):
    text = json.dumps(value, separators=(",", ":"))
    path.write_text(text.replace(',"', ',\n"') + "\n")


def rounded(tensor):
    return [float(f"{value:.7g}") for value in tensor.tolist()]


def fixture(name):
    """The first seed for which all 50 tokens lead clearly, so that all of them can be compared."""
    folder = HERE / "fixtures" / name
    for seed in range(1000):
        shutil.rmtree(folder, ignore_errors=True)
        model = families.write_folder(name, seed, folder)
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(3, 96, (ROWS, LENGTH), generator=generator)
        prompt = tokens[0, :5].tolist()
        answer, margins = families.greedy(model, prompt, COUNT)
        if min(margins) > 2e-3 and len(set(answer)) > 5:
            break
    with torch.no_grad():
        logits = model(tokens).logits
    shown = [0, LENGTH // 2, LENGTH - 1]
    write(folder / "expected.json", {
        "tokens": tokens.tolist(),
        "positions": shown,
        "largest": float(logits.abs().max()),
        "logits": [[rounded(logits[row, at]) for at in shown] for row in range(ROWS)],
        "prompt": prompt,
        "greedy": answer,
        "margins": [float(f"{margin:.3g}") for margin in margins],
    })
    print(name, "seed", seed, "largest", float(logits.abs().max()), "margin", min(margins))


def smollm2():
    """The ten largest logits of the last position, and the greedy tokens, of two prompts."""
    folder = ROOT / "models" / "smollm2-135m"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = families.read_folder(folder)
    expected = []
    for prompt in PROMPTS:
        tokens = tokenizer(prompt).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, -1]
        top = logits.topk(10)
        answer, margins = families.greedy(model, tokens, COUNT)
        expected.append({"prompt": prompt, "tokens": tokens, "largest": float(logits.abs().max()),
                         "ids": top.indices.tolist(), "logits": rounded(top.values),
                         "greedy": answer, "text": tokenizer.decode(answer),
                         "margins": [float(f"{margin:.3g}") for margin in margins]})
        print(repr(prompt), repr(tokenizer.decode(answer)), min(margins))
    write(HERE / "fixtures" / "smollm2.json", expected)


def main():
    torch.set_num_threads(1)  # the models are tiny
    transformers.utils.logging.set_verbosity_error()
    names = sys.argv[1:] or [*families.FAMILIES, "smollm2"]
    for name in names:
        smollm2() if name == "smollm2" else fixture(name)


if __name__ == "__main__":
    main()
