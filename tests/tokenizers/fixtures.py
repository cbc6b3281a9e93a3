#!/usr/bin/env python3
"""Writes the fixtures of the tokenizers' tests: small vocabularies with the pre-tokenizers of the
families, and what Python's `tokenizers`, `sentencepiece` and `transformers` make of many strings.

    make the environment:  pip install tokenizers==0.23.3 sentencepiece==0.2.3 protobuf \
                               transformers==5.24.0 numpy
    get the model:         make model
    build the program:     cmake --build build/release --target tokenize_lines
    tests/tokenizers/fixtures.py build/release/tests/tokenizers/tokenize_lines [TOFU FOLDER]

The program tells where PCRE2 and utf8proc class code points unlike `tokenizers` does: these are
listed in unicode_differences.json and left out of the checksums. Other differences stop the script.
"""

import io
import json
import pathlib
import subprocess
import sys

import sentencepiece
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

import oracle
import strings

FIXTURES = strings.HERE / "fixtures"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(use_regex, add_prefix_space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def special(content, **flags):
    return AddedToken(content, special=True, normalized=flags.pop("normalized", False), **flags)


def train(texts, pre_tokenizer, normalizer=None, size=900, specials=(), alphabet=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def template(tokenizer, single):
    names = [part for part in single.split() if not part.startswith("$")]
    return processors.TemplateProcessing(
        single=single, special_tokens=[(name, tokenizer.token_to_id(name)) for name in names]
    )


def gpt2(texts):
    """Merges as strings and no ignore_merges, as in files of that age."""
    tokenizer = train(texts, byte_level(True))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([special("<|endoftext|>", normalized=True)])
    data = json.loads(tokenizer.to_str())
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    del data["model"]["ignore_merges"]
    return data


def smollm2(texts):
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    steps = [pre_tokenizers.Digits(individual_digits=True), byte_level(True)]
    specials = [special(name) for name in names]
    # As in the real one, some bytes are no tokens: 0x04 and those from 0xf1 on.
    texts = [t for t in texts if all(c != "\x04" and ord(c) < 0x40000 for c in t)]
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if c not in "Ąñòóôõö÷øùúûüýþÿ"]
    tokenizer = train(texts, pre_tokenizers.Sequence(steps), specials=specials, alphabet=alphabet)
    return json.loads(tokenizer.to_str())


def llama3(texts):
    steps = [split(LLAMA3), byte_level(False)]
    tokenizer = train(texts, pre_tokenizers.Sequence(steps))
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
    names += ["<|eot_id|>"]
    data = json.loads(tokenizer.to_str())
    # Words that no merge leads to, which only ignore_merges finds.
    for word in ["Ġauthors", "rus", "ĠOĉ", "true", "Ġmagical", "ababababab"]:
        data["model"]["vocab"].setdefault(word, len(data["model"]["vocab"]))
    data["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens([special(name) for name in names])
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template(tokenizer, "<|begin_of_text|> $A")]
    )
    return json.loads(tokenizer.to_str())


def qwen2(texts):
    steps = [split(QWEN2), byte_level(False)]
    tokenizer = train(texts, pre_tokenizers.Sequence(steps), normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(
        [special(name) for name in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]]
    )
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return json.loads(tokenizer.to_str())


def odd(texts):
    """What the others lack: every flag of added tokens, a space put before words, text taken out,
    numbers kept whole, unknown bytes fused."""
    steps = [
        split(r"\p{Han}+|[^\p{Han}]+", "isolated"),
        split(r"[#@]", "removed"),
        pre_tokenizers.Digits(individual_digits=False),
        byte_level(True, add_prefix_space=True),
    ]
    normalizer = normalizers.Sequence([normalizers.NFC()])
    plain = [t for t in texts if t.isascii()]
    tokenizer = train(plain, pre_tokenizers.Sequence(steps), normalizer, 500, alphabet=[])
    data = json.loads(tokenizer.to_str())
    data["model"]["vocab"]["<unk>"] = len(data["model"]["vocab"])
    data["model"]["unk_token"], data["model"]["fuse_unk"] = "<unk>", True
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_tokens(
        [
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True, normalized=False),
            AddedToken("<both>", lstrip=True, rstrip=True, normalized=True),
            AddedToken("<word>", single_word=True, normalized=False),
            AddedToken("author", single_word=True, normalized=True),
            AddedToken("<long", normalized=False),
            AddedToken("<longer>", normalized=False),
            AddedToken("<né>", normalized=True),
            AddedToken("   ", normalized=False),
            AddedToken("字符", normalized=True),
        ]
    )
    tokenizer.add_special_tokens([special("<|im_start|>"), special("<|im_end|>")])
    tokenizer.post_processor = template(tokenizer, "<|im_start|> $A <|im_end|> <|im_end|>")
    return json.loads(tokenizer.to_str())


FAMILIES = {"gpt2": gpt2, "smollm2": smollm2, "llama3": llama3, "qwen2": qwen2, "odd": odd}


def run_program(program, file, texts, *options):
    """A list for each text by the program under test: ids, or words."""
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    result = subprocess.run([program, file, *options], input=lines, capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"fixtures: {program} failed: {result.stderr}")
    return [json.loads(line) for line in result.stdout.splitlines()]


def different_codes(program, file, tokenizer):
    """The code points whose context is cut into other words, or has other ids. Nothing is assigned
    in planes 4 to 13, and ids alone are compared there: by the checksums."""
    different = []
    for block in [*range(0x40000 // oracle.CODES), *range(0xE0000 // oracle.CODES, 0x110)]:
        codes = oracle.codes_of_block(block)
        texts = [strings.in_context(c) for c in codes]
        mine = run_program(program, file, texts, "--words")
        for code, text, cut, theirs in zip(codes, texts, mine, oracle.ids_of(tokenizer, texts)):
            words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
            if cut != {"ids": theirs, "words": words}:
                different.append(code)
    return different


def ranges_of(codes):
    ranges = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return ranges


BEGIN_IF_NO_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nSYSTEM<|im_end|>\n' }}{% endif %}"
)
CHATML = (
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation "
    "roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + "
    "system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = "
    "message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + "
    "content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + "
    "content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
# What tokenizer_config.json says beside.
CONFIGS = {
    "gpt2": {"eos_token": "<|endoftext|>"},
    "smollm2": {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "chat_template": BEGIN_IF_NO_SYSTEM.replace("SYSTEM", SMOLLM2_SYSTEM) + CHATML,
    },
    "llama3": {
        "bos_token": {"__type": "AddedToken", "content": "<|begin_of_text|>", "special": True},
        "eos_token": "<|end_of_text|>",
        "chat_template": LLAMA3_TEMPLATE,
    },
    "qwen2": {
        "eos_token": "<|im_end|>",
        "chat_template": [
            {"name": "tool_use", "template": "another one"},
            {
                "name": "default",
                "template": BEGIN_IF_NO_SYSTEM.replace("SYSTEM", "You are a helpful assistant.")
                + CHATML,
            },
        ],
    },
    "odd": {
        "eos_token": "<|im_end|>",
        "chat_template": "{% for message in messages %}" + CHATML,
    },
    "llama2": {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": LLAMA2_TEMPLATE,
    },
}
DIALOGS = [
    ["What is the full name of the author born in Taipei?", "The author is Hsiao Yun-Hwa."],
    ["  Who wrote\n'Still Waters'?\n", "It's in 3 parts; the 1st: \"Ash\"."],
    ["Où est né l'auteur ? \u3000", "À Kuwait City, le 12/03/1975\u2026"],
    ["作者は誰ですか", "（日本語）😂"],
    ["\u001f1+1=", "2  "],
    ["x", "'tis"],
    ["for (int i = 0;;) {\n\t}", "{}\n\n"],
]


def dialogs_of(tokenizer):
    """[ids of the prompt, ids of the prompt and the answer up to its end token] of each dialog."""
    result = []
    for question, answer in DIALOGS:
        messages = [{"role": "user", "content": question}]
        options = {"tokenize": True, "return_dict": False}
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
        messages.append({"role": "assistant", "content": answer})
        both = tokenizer.apply_chat_template(messages, **options)
        newline = tokenizer.encode("\n", add_special_tokens=False)
        if both[-1:] == newline:  # ChatML goes on after the end
            both = both[:-1]
        result.append([prompt, both])
    return result


def with_template(folder, config):
    """The folder as transformers reads it."""
    template = config["chat_template"]
    if isinstance(template, list):
        template = next(t["template"] for t in template if t["name"] == "default")
    kind = transformers.PreTrainedTokenizerFast
    if config.get("tokenizer_class"):
        kind = transformers.LlamaTokenizer
    tokenizer = kind.from_pretrained(folder)
    tokenizer.chat_template = template
    return tokenizer


def write_family(name, make, program, texts, tofu, differences):
    data = make(texts[:4000] + strings.material()["fragments"] * 20)
    folder = FIXTURES / name
    file = folder / "tokenizer.json"
    file.write_text(
        json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )
    tokenizer = Tokenizer.from_str(json.dumps(data))
    mine = run_program(program, file, texts)
    theirs = oracle.ids_of(tokenizer, texts)
    wrong = [i for i in range(len(texts)) if mine[i] != theirs[i]]
    for i in wrong[:5]:
        print(f"{name} {i}: {texts[i]!r}\n  mine   {mine[i]}\n  theirs {theirs[i]}")
    if wrong:
        raise SystemExit(f"fixtures: {len(wrong)} of {len(texts)} strings differ ({name})")
    codes = different_codes(program, file, tokenizer)
    differences[name] = ranges_of(codes)
    expected = {
        "blocks": oracle.blocks_of(tokenizer, texts),
        "code_points": oracle.code_blocks_of(tokenizer, set(codes)),
        "with_special": tokenizer.encode("a question").ids,
        "decoded": [tokenizer.decode(ids) for ids in theirs[:20]],
        "first": theirs[0],
    }
    if tofu:
        expected["tofu"] = oracle.checksum(oracle.ids_of(tokenizer, tofu))
    print(f"{name}: {len(texts)} strings, {len(codes)} code points classed differently")
    return expected


def write_llama2(texts, tofu):
    """A vocabulary of SentencePiece's with Llama's options; its own library is the oracle."""
    ascii_parts = [part for part in strings.material()["fragments"] if part.isascii()]
    sentences = ascii_parts * 400 + texts[:300]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(t.replace("\n", " ").replace("\0", "") for t in sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=800,
        character_coverage=0.98,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        num_threads=1,
        max_sentence_length=100000,
        minloglevel=2,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        unk_id=0,
    )
    (FIXTURES / "llama2/tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = processor.encode(texts)
    expected = {
        "blocks": [
            oracle.checksum(ids[i : i + oracle.BLOCK]) for i in range(0, len(ids), oracle.BLOCK)
        ],
        "decoded": [processor.decode(part) for part in ids[:20]],
        "first": ids[0],
    }
    if tofu:
        expected["tofu"] = oracle.checksum(processor.encode(tofu))
    return expected


def write_real(folder, texts):
    """Of the real tokenizer, which `make model` brings and the tests may lack."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    return {
        "blocks": oracle.blocks_of(Tokenizer.from_file(str(folder / "tokenizer.json")), texts),
        "dialogs": dialogs_of(tokenizer),
    }


def main():
    program = sys.argv[1]
    tofu = None
    if len(sys.argv) > 2:
        path = pathlib.Path(sys.argv[2]) / "forget10.json"
        lines = [json.loads(line) for line in path.open(encoding="utf-8")]
        tofu = [pair[key] for pair in lines for key in ("question", "answer")]
    texts = strings.all_generated()
    expected, differences = {}, {}
    for name, config in CONFIGS.items():
        folder = FIXTURES / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        if name == "llama2":
            expected[name] = write_llama2(texts, tofu)
        else:
            make = FAMILIES[name]
            expected[name] = write_family(name, make, program, texts, tofu, differences)
        if "chat_template" in config:
            expected[name]["dialogs"] = dialogs_of(with_template(folder, config))
        print(name, "is written", flush=True)
    real = strings.HERE.parents[1] / "models/smollm2-135m"
    expected[real.name] = write_real(real, texts)
    write(FIXTURES / "expected.json", {"dialogs": DIALOGS, **expected})
    write(FIXTURES / "unicode_differences.json", differences)


def write(path, value):
    """A member of a member a line."""
    text = ",\n".join(
        f'"{key}": {{\n'
        + ",\n".join(f'  "{k}": {json.dumps(v, separators=(",", ":"))}' for k, v in part.items())
        + "\n}"
        if isinstance(part, dict)
        else f'"{key}": {json.dumps(part, separators=(",", ":"))}'
        for key, part in value.items()
    )
    path.write_text("{\n" + text + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
