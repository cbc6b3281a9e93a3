"""Runs transformers beside model_probe on fresh random models of every family, and on SmolLM2:
logits, greedy tokens, and the folder that is written back.

    .venv-model/bin/python tests/models/live.py PROBE [SEED]
"""

import pathlib
import subprocess
import sys
import tempfile

import safetensors.torch
import torch
import transformers

import families

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
COUNT = 50


def check(name, folder, model, probe, scratch, tokens):
    safetensors.torch.save_file({"tokens": tokens}, scratch / "tokens.safetensors")
    subprocess.run([probe, folder, scratch / "tokens.safetensors", scratch / "out.safetensors",
                    scratch / "copy"], check=True)
    out = safetensors.torch.load_file(scratch / "out.safetensors")
    with torch.no_grad():
        logits = model(tokens).logits
    difference = float((out["logits"] - logits).abs().max() / logits.abs().max())
    answer, margins = families.greedy(model, tokens[0].tolist(), COUNT)
    clear = next((i for i, margin in enumerate(margins) if margin <= 1e-3), COUNT)
    with torch.no_grad():
        equal = torch.equal(families.read_folder(scratch / "copy")(tokens).logits, logits)
    good = difference <= 1e-4 and out["greedy"].tolist()[:clear] == answer[:clear] and equal
    print(f"{'ok ' if good else 'BAD'} {name:14} difference {difference:.1e} of the largest logit, "
          f"{clear} greedy tokens compared, copy {'equal' if equal else 'DIFFERS'}", flush=True)
    return good


def main():
    probe, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 12345
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    good = True
    for name in families.FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            model = families.write_folder(name, seed, scratch / "model")
            tokens = torch.randint(3, 96, (2, 20), generator=generator)
            good &= check(name, scratch / "model", model, probe, scratch, tokens)
    folder = ROOT / "models" / "smollm2-135m"
    if folder.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            tokens = torch.randint(17, 49152, (2, 24), generator=generator)
            good &= check("smollm2-135m", folder, families.read_folder(folder), probe,
                          pathlib.Path(scratch), tokens)
    else:
        print("smollm2-135m is not here: `make model` puts it there")
    sys.exit(not good)


if __name__ == "__main__":
    main()
