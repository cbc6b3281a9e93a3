"""Small random models of every family, as transformers makes them."""

import json

import safetensors.torch
import torch
import transformers

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 128, "bos_token_id": 1,
         "eos_token_id": 2, "pad_token_id": 0}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96,
        "bos_token_id": 1, "eos_token_id": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

# Name: the class of the config, its fields, the type of the file, how the folder is changed.
FAMILIES = {
    "llama_plain": ("LlamaConfig", {}, "float32", ["inv_freq"]),
    "llama_grouped": ("LlamaConfig", {"num_key_value_heads": 2, "tie_word_embeddings": True,
                                      "attention_bias": True, "mlp_bias": True,
                                      "rope_theta": 50000.0}, "bfloat16", ["old_config"]),
    "llama_3": ("LlamaConfig", {"num_key_value_heads": 1, "head_dim": 16,
                                "rope_parameters": LLAMA3}, "bfloat16", ["shards"]),
    "llama_3_old": ("LlamaConfig", {"rope_parameters": LLAMA3}, "bfloat16", ["old_config"]),
    "llama_linear": ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "factor": 4.0,
                                                         "rope_theta": 10000.0}},
                     "bfloat16", ["old_config"]),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 2, "tie_word_embeddings": True},
              "bfloat16", []),
    "mistral": ("MistralConfig", {"num_key_value_heads": 2, "sliding_window": 80}, "float16", []),
    "phi": ("PhiConfig", {"layer_norm_eps": 1e-5}, "bfloat16", []),
    "gpt2": ("GPT2Config", GPT2, "bfloat16", ["masks"]),
    "gpt2_bare": ("GPT2Config", {**GPT2, "scale_attn_by_inverse_layer_idx": True}, "bfloat16",
                  ["bare", "masks"]),
}


def make_model(name, seed):
    """Weights large enough that logits differ, norms and biases that are not neutral."""
    kind, fields, dtype, _ = FAMILIES[name]
    fields = dict(fields) if kind == "GPT2Config" else {**SIZES, **fields}
    config = getattr(transformers, kind)(**fields)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
            elif "norm" in key or "ln_" in key:
                parameter.normal_(1 if key.endswith("weight") else 0, 0.2)
            else:
                parameter.normal_(0, 0.2)
    return model.to(getattr(torch, dtype)).eval()


def rewrite_config(folder):
    """As transformers 4 writes it: rope_theta, rope_scaling with `type`, torch_dtype."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


def rewrite_tensors(folder, changes):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    if "bare" in changes:
        tensors = {key.removeprefix("transformer."): value for key, value in tensors.items()}
    if "masks" in changes:
        prefix = "" if "bare" in changes else "transformer."
        for layer in range(2):
            mask = torch.ones(96, 96, dtype=torch.uint8).tril().view(1, 1, 96, 96)
            tensors[f"{prefix}h.{layer}.attn.bias"] = mask
            tensors[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    if "inv_freq" in changes:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.arange(4.0)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def write_folder(name, seed, folder):
    """The model's folder; returns the model as transformers reads that folder, in float32."""
    changes = FAMILIES[name][3]
    model = make_model(name, seed)
    size = "24KB" if "shards" in changes else "1GB"
    model.save_pretrained(folder, max_shard_size=size)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if "old_config" in changes:
        rewrite_config(folder)
    if {"bare", "masks", "inv_freq"} & set(changes):
        rewrite_tensors(folder, changes)
    return read_folder(folder)


def read_folder(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def greedy(model, tokens, count):
    """The next tokens, and by how much each leads the second."""
    answer, margins = [], []
    for _ in range(count):
        with torch.no_grad():
            logits = model(torch.tensor([tokens + answer])).logits[0, -1]
        top = logits.topk(2)
        answer.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
    return answer, margins
