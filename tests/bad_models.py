"""The table of damaged models: what is done to a folder, and what the refusal must say."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from damage import (
    ADAPTER,
    INDEX,
    WEIGHTS,
    Damage,
    both,
    change_bytes,
    config,
    content,
    element,
    fp8,
    header,
    header_text,
    index,
    link_out,
    quantised,
    remove,
    rename,
    shard_bytes,
    sharded,
    tensors,
)

LORA = '{"peft_type": "LORA"}'
SECOND = "model-00002-of-00003.safetensors"
REMOTE = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}


@dataclass(frozen=True)
class Case:
    """A damage to the model in a role of a merge, and a pattern that the refusal matches."""

    name: str
    damage: Damage
    says: str
    role: str = "donor"  # or vlm, base
    inspect: bool = False


def entry(change: dict[str, object]) -> Damage:
    """Change the header's entry of its second tensor."""
    return header(lambda found, names: found[names[1]].update(change))


def directory(name: str) -> Damage:
    return both(remove(name), lambda folder: (folder / name).mkdir())


def pipe(name: str) -> Damage:
    return both(remove(name), lambda folder: os.mkfifo(folder / name))


def link(name: str, target: str) -> Damage:
    return both(remove(name), lambda folder: (folder / name).symlink_to(target))


def duplicated(folder: Path) -> None:
    """Two shards that hold the same tensors."""
    sharded(folder, 2)
    first, second = sorted(folder.glob("model-*"))
    second.write_bytes(first.read_bytes())


def tokens(count: int) -> Damage:
    """Tokens added to a tokenizer and not to the embeddings."""

    def damage(folder: Path) -> None:
        found = json.loads((folder / "tokenizer.json").read_text())
        ids = found["model"]["vocab"]
        start = 1 + max([*ids.values(), *(t["id"] for t in found["added_tokens"])])
        ids.update({f"added{i}": start + i for i in range(count)})
        (folder / "tokenizer.json").write_text(json.dumps(found))

    return damage


def wider(found: dict[str, torch.Tensor], name: str) -> None:
    """Every tensor of the first MLP one neuron wider than the config says."""
    for end in ("up_proj", "gate_proj"):
        key = name.replace("up_proj", end)
        found[key] = torch.cat([found[key], found[key][:1]])
    key = name.replace("up_proj", "down_proj")
    found[key] = torch.cat([found[key], found[key][:, :1]], 1)


SHARDS = [
    Case("a byte short", change_bytes(lambda b: b[:-1]), "holds .* fetch it again"),
    Case("half of it", change_bytes(lambda b: b[: len(b) // 2]), "holds|cut short", "vlm"),
    Case("half a header", change_bytes(lambda b: b[:300]), "cut short", "base"),
    Case("empty", content(WEIGHTS, b""), "not a safetensors file, or cut short", "vlm"),
    Case("eight bytes", content(WEIGHTS, bytes(8)), "not a safetensors file, or cut short"),
    Case("more than it says", change_bytes(lambda b: b + b"more"), "holds .* fetch it again"),
    Case("length bit flipped", change_bytes(lambda b: b[:6] + b"\1" + b[7:]), "cut short", "vlm"),
    Case("header bit flipped", change_bytes(lambda b: b[:8] + b"\xfb" + b[9:]), "as JSON", "base"),
    Case("a page instead", content(WEIGHTS, "<!doctype html><p>Sign in"), "not a safetensors"),
    Case("an LFS pointer", content(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), "LFS"),
    Case("a directory", directory(WEIGHTS), f"{WEIGHTS}: is no file", "vlm"),
    Case("a pipe", pipe(WEIGHTS), f"{WEIGHTS}: is no file"),
]

HEADERS = [
    Case("header is a list", content(WEIGHTS, shard_bytes([])), "no JSON object"),
    Case("header not UTF-8", content(WEIGHTS, shard_bytes(b'{"\xff": 1}')), "as JSON"),
    Case("header in UTF-16", content(WEIGHTS, shard_bytes("{}".encode("utf-16"))), "as JSON"),
    Case("header too deep", content(WEIGHTS, shard_bytes(b"[" * 10**5)), "as JSON", "vlm"),
    Case("a name twice", header_text("layers.1.", "layers.0."), "is there twice", "vlm"),
    Case("half a surrogate", header_text("layers.0.", "\\ud800"), "surrogates not allowed"),
    Case("metadata of numbers", header(lambda h, _: h.update(__metadata__={"a": 1})), "metadata"),
    Case("no offsets", header(lambda h, n: h[n[1]].pop("data_offsets")), "malformed"),
    Case("overlap", header(lambda h, n: h.update({"twin": h[n[0]]})), "overlap", "vlm"),
    Case("a hole", header(lambda h, n: h.pop(n[2])), "leave a hole", "base"),
    Case("backward offsets", entry({"data_offsets": [9, 3]}), "does not fit"),
    Case("negative offsets", entry({"data_offsets": [-48, 0]}), "does not fit"),
    Case("truths for offsets", entry({"data_offsets": [False, True]}), "does not fit"),
    Case("fractions for offsets", entry({"data_offsets": [0.0, 48.0]}), "does not fit"),
    Case("offsets without end", entry({"data_offsets": [0, 2**80]}), "does not fit", "vlm"),
    Case("a negative shape", entry({"shape": [-1, 24]}), "the shape of .* is"),
    Case("a shape without end", entry({"shape": [2**62] * 3}), "does not fit"),
    Case("a shape that is a word", entry({"shape": "24"}), "malformed"),
    Case("another shape", header(lambda h, n: h[n[0]]["shape"].append(2)), "does not fit", "vlm"),
    Case("four bits", entry({"dtype": "F4"}), "of dtype F4, which cannot be merged", "vlm"),
    Case("scales of 8 bits", entry({"dtype": "F8_E8M0"}), "of dtype F8_E8M0"),
    Case("complex numbers", entry({"dtype": "C64"}), "of dtype C64"),
]

INDEXES = [
    Case("a shard missing", both(sharded, lambda d: next(d.glob("model-*")).unlink()), "not there"),
    Case("a shard outside", index(lambda m, _: m.update(a="../x.safetensors")), "beside it", "vlm"),
    Case("a shard from root", index(lambda m, _: m.update(a="/x.safetensors")), "beside it"),
    Case("a shard pickled", index(lambda m, _: m.update(a="x.bin")), "x.bin, which is no", "base"),
    Case("a shard's long name", index(lambda m, _: m.update(a=f"{'x' * 999}.safetensors")), "xxx"),
    Case("a shard that is 3", index(lambda m, _: m.update(a=3)), "is no file name", "vlm"),
    Case("a shard damaged", both(sharded, change_bytes(lambda b: b[:99], SECOND)), "cut short"),
    Case("a tensor in no shard", index(lambda m, s: m.update(a=s[0])), "in no shard", "vlm"),
    Case("a tensor elsewhere", index(lambda m, s: m.update({min(m): s[-1]})), "the index has"),
    Case("tensors in two shards", duplicated, "is in two shards", "vlm"),
    Case("an index of a list", both(sharded, config(INDEX, weight_map=["a"])), "has no weight_map"),
    Case("an index of nothing", both(sharded, config(INDEX, weight_map={})), "has no weight_map"),
    Case("an empty index", both(sharded, content(INDEX, "")), "as JSON", "vlm"),
    Case("an index's key twice", both(sharded, content(INDEX, '{"a": 1, "a": 2}')), "a is there"),
    Case("an index beside", both(sharded, content(WEIGHTS, shard_bytes({}))), "is stale", "base"),
    Case("shards without index", both(sharded, remove(INDEX)), "nor named by an index", "vlm"),
]

CONFIGS = [
    Case("no config", remove("config.json"), "config.json: missing", "vlm", inspect=True),
    Case("an empty config", content("config.json", ""), "as JSON", "vlm"),
    Case("half a config", change_bytes(lambda b: b[:99], "config.json"), "as JSON"),
    Case("a config in YAML", content("config.json", "model_type: llama"), "as JSON", "base"),
    Case("a config of a list", content("config.json", "[]"), "no JSON object"),
    Case("a config in Latin-1", content("config.json", b'{"a": "\xe9"}'), "as JSON"),
    Case("a config's key twice", content("config.json", '{"a": 1, "a": 2}'), "a is there twice"),
    Case("a config too deep", content("config.json", '{"a":' * 99 + "1" + "}" * 99), "deeper"),
    Case("a config folder", directory("config.json"), "config.json: is no file", inspect=True),
    Case("a config pipe", pipe("config.json"), "config.json: is no file"),
    Case("no type", config(model_type=..., architectures=...), "model_type|config", "vlm"),
    Case("an unknown type", config(model_type="nollama"), "nollama", "vlm"),
    Case("only remote code", config(model_type="own_llama", auto_map=REMOTE), "own_llama"),
    Case("a type that is 3", config(model_type=3), "model_type 3|config", "vlm"),
    Case("a size that is a word", config(hidden_size="wide"), "hidden_size|config"),
    Case("a negative size", config(intermediate_size=-40), "config|up_proj|-40"),
    Case("heads that do not divide", config(num_attention_heads=7, head_dim=...), "config|heads"),
]

TENSORS = [
    Case("not a number", element(float("nan")), "up_proj.*(finite|NaN)"),
    Case("infinite", element(float("inf")), "up_proj.*(finite|infinite)", "base"),
    Case("minus infinite", element(float("-inf")), "up_proj.*(finite|infinite)", "vlm"),
    Case("a weight missing", tensors(lambda t, n: t.pop(n)), "missing|no .*up_proj"),
    Case("a weight missing in the VLM", tensors(lambda t, n: t.pop(n)), "missing", "vlm"),
    Case("transposed", tensors(lambda t, n: t.update({n: t[n].T})), "up_proj.*24, 40"),
    Case("wider than its config", tensors(wider), "41"),
    Case("wider", both(tensors(wider), config(intermediate_size=41)), "41"),
    Case("whole numbers", tensors(lambda t, n: t.update({n: t[n].to(torch.int32)})), "I32"),
    Case("one layer less", config(num_hidden_layers=2), "num_hidden_layers|layers", "base"),
    Case("more rows in the config", config(vocab_size=99), "99|embed"),
    Case("a larger tokenizer", tokens(9), "tokenizer"),
    Case("a larger tokenizer in the VLM", tokens(9), "tokenizer", "vlm"),
    Case("a tokenizer of nothing", content("tokenizer.json", "{}"), "tokenizer"),
    Case("half a tokenizer", change_bytes(lambda b: b[:500], "tokenizer.json"), "tokenizer", "vlm"),
]


def packed(found: dict[str, torch.Tensor], name: str) -> None:
    found[name.removesuffix("weight") + "qweight"] = found.pop(name).int()


QUANTISED = [
    Case("GPTQ", quantised("gptq", bits=4), r"quantised \(GPTQ\).*dequantise it first"),
    Case("AWQ", quantised("awq", bits=4), r"quantised \(AWQ\)", "vlm"),
    Case("bitsandbytes", quantised("bitsandbytes", load_in_4bit=True), "bitsandbytes", "base"),
    Case("bitsandbytes of old", quantised(None, load_in_8bit=True), "bitsandbytes", "vlm"),
    Case("HQQ", quantised("hqq", quant_config={}), "HQQ"),
    Case("compressed-tensors", quantised("compressed-tensors"), "compressed-tensors", "vlm"),
    Case("MXFP4", quantised("mxfp4"), "MXFP4"),
    Case("of tomorrow", quantised("tomorrow"), r"quantised \(tomorrow\)", inspect=True),
    Case("within", config(text_config={"quantization_config": {"bits": 4}}), "unnamed", "vlm"),
    Case("GPTQ unsaid", tensors(packed), "GPTQ or AWQ"),
    Case("4 bits unsaid", tensors(lambda t, n: t.update({f"{n}.absmax": t[n][0] + 1})), "bitsand"),
    Case("fp8 unsaid", both(fp8(), config(quantization_config=...)), "without a quantization_conf"),
    Case("fp8 unscaled", both(fp8(), tensors(lambda t, n: t.pop(f"{n}_scale_inv"))), "no scales"),
    Case("fp8 of other blocks", both(fp8(), quantised("fp8", weight_block_size=[9, 5])), "9 x 5"),
    Case("GGUF", both(remove(WEIGHTS, "config.json"), content("q4.gguf", b"GGUF")), "q4.gguf: GG"),
    Case("pickled", rename(WEIGHTS, "pytorch_model.bin"), "pytorch_model.bin: pickled", "vlm"),
    Case("pickled of old", rename(WEIGHTS, "consolidated.00.pth"), "consolidated.00.pth: pickled"),
    Case("of TensorFlow", rename(WEIGHTS, "tf_model.h5"), "tf_model.h5: not safetensors", "base"),
    Case("an adapter of none", both(remove(WEIGHTS), content(ADAPTER, "{}")), "adapter_model.safe"),
    Case("an adapter alone", both(remove(WEIGHTS), content(ADAPTER, "{}")), "PEFT adapter", "vlm"),
    Case(
        "an adapter, pickled",
        both(rename(WEIGHTS, "adapter_model.bin"), content(ADAPTER, "{}")),
        "pickled adapters are not read",
    ),
    Case(
        "an adapter of other names",
        both(rename(WEIGHTS, "adapter_model.safetensors"), content(ADAPTER, LORA)),
        "is not of an adapter",
    ),
    Case("no weights", remove(WEIGHTS), "is missing; fetch the weights", "vlm"),
    Case("no model at all", lambda d: [f.unlink() for f in d.iterdir()], "is it a model folder"),
]

LINKS = [
    Case("weights elsewhere", link_out(WEIGHTS), "a link out of the model folder", "vlm"),
    Case("a config elsewhere", link_out("config.json"), "a link out of the model folder"),
    Case("a tokenizer elsewhere", link_out("tokenizer.json"), "a link out of the model", "vlm"),
    Case("a link to nothing", link(WEIGHTS, "../blobs/gone"), "leads nowhere", "base"),
    Case("a link to itself", link("config.json", "config.json"), "leads nowhere"),
]

CASES = [*SHARDS, *HEADERS, *INDEXES, *CONFIGS, *TENSORS, *QUANTISED, *LINKS]
