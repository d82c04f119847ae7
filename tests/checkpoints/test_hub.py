"""Models of the hub: checked before any weight is downloaded, pinned to a commit, resumed."""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints.hub_server import Hub, Repository, serving
from huggingface_hub import constants
from support import Family
from transformers import LlamaConfig, LlamaForCausalLM

from vlmmerge import Checkpoint, Recipe, merge
from vlmmerge.anatomy import align
from vlmmerge.errors import AlignmentError, CheckpointError, ConfigError, EngineError
from vlmmerge.recipes import ModelSpecs

WEIGHTS = "model.safetensors"
ID = "org/base"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def base(hub: Hub, family: Family) -> Repository:
    return hub.create(ID, family.base)


@pytest.fixture(scope="module")
def sharded(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base in shards, with its tokenizer."""
    folder = tmp_path_factory.mktemp("sharded") / "model"
    shutil.copytree(family.base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model = LlamaForCausalLM.from_pretrained(family.base, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="8KB")
    return folder


def refused(spec: str = ID) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(spec)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(ID)
    return str(caught.value)


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(one.read(name), other.read(name)) for name in one.tensors
    )


def headers_only(hub: Hub, name: str = WEIGHTS) -> bool:
    """Whether of this file nothing was asked but its first bytes."""
    ranges = hub.asked(name)
    return bool(ranges) and all(r is not None and r.startswith("bytes=0-") for r in ranges)


def in_cache(repo: str, commit: str, folder: Path, tree: bool) -> Path:
    """Lay out a folder as the hub's cache has it: a snapshot of links into blobs, and a ref."""
    storage = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    snapshot = storage / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (storage / "blobs").mkdir()
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(commit)
    files = {}
    for file in folder.iterdir():
        shutil.copyfile(file, storage / "blobs" / f"hash-{file.name}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"hash-{file.name}")
        files[file.name] = {"size": file.stat().st_size, "blob_id": "0" * 40}
    if tree:
        (storage / "trees").mkdir()
        listing = json.dumps({"format_version": 1, "files": files})
        (storage / "trees" / f"{commit}.json").write_text(listing)
    return snapshot


def test_headers_come_before_any_weight(hub: Hub, base: Repository, family: Family) -> None:
    size = (family.base / WEIGHTS).stat().st_size
    base.push({**base.commits[base.refs["main"]], WEIGHTS: (family.base / WEIGHTS).read_bytes()})
    afar, near = Checkpoint.open(ID), Checkpoint.open(family.base)
    layout = {n: (t.dtype, t.shape, t.start, t.end) for n, t in near.tensors.items()}
    assert {n: (t.dtype, t.shape, t.start, t.end) for n, t in afar.tensors.items()} == layout
    assert afar.config == near.config
    assert (afar.missing_bytes, near.missing_bytes) == (size, 0)
    assert (afar.path / "tokenizer.json").is_file()
    assert not (afar.path / WEIGHTS).exists()
    assert headers_only(hub)

    here = afar.fetched()
    assert same(here, near)
    assert here.missing_bytes == 0
    assert here.fetched() is here
    assert near.fetched() is near
    assert here.fingerprint == near.fingerprint


def test_a_long_header_is_asked_for_again(
    hub: Hub, base: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmmerge.checkpoints.hub._FIRST", 16)
    afar = Checkpoint.open(ID)
    first, second = hub.asked(WEIGHTS)[0], hub.asked(WEIGHTS)[-1]
    assert first == "bytes=0-15"
    header = min(info.start for info in afar.tensors.values())
    assert second == f"bytes=0-{header - 1}"


def test_a_server_without_ranges_is_read_no_further(hub: Hub, base: Repository) -> None:
    hub.ignores_ranges = True
    assert Checkpoint.open(ID).missing_bytes > 0


def test_shards_of_the_hub(hub: Hub, family: Family, sharded: Path) -> None:
    hub.create(ID, sharded)
    afar = Checkpoint.open(ID)
    shards = {path.name for path in afar.shards}
    assert len(shards) > 2
    assert all(headers_only(hub, shard) for shard in shards)
    assert afar.missing_bytes == sum((sharded / shard).stat().st_size for shard in shards)
    assert same(afar.fetched(), Checkpoint.open(family.base))


def test_other_weights_of_a_repository_stay_there(hub: Hub, base: Repository) -> None:
    files = base.commits[base.refs["main"]]
    base.push({**files, "consolidated.safetensors": b"x", "onnx/model.safetensors": b"x"})
    here = Checkpoint.open(ID).fetched()
    assert not hub.asked("consolidated.safetensors")
    assert [path.name for path in here.path.glob("**/*.safetensors")] == [WEIGHTS]


def test_models_of_the_hub_align_before_they_are_downloaded(hub: Hub, family: Family) -> None:
    for name in ("vlm", "base", "donor"):
        hub.create(f"org/{name}", getattr(family, name))
    models = {"recipient": "org/vlm", "base": "org/base", "donors": {"ja": "org/donor"}}
    alignment = align(ModelSpecs.parse(models).open())
    assert alignment.merged
    assert headers_only(hub)


def test_main_may_move(hub: Hub, base: Repository, family: Family) -> None:
    afar = Checkpoint.open(ID)
    moved = base.push({f.name: f.read_bytes() for f in family.donor.iterdir()})
    here = afar.fetched()
    assert same(here, Checkpoint.open(family.base))
    # What is complete in the cache is used; the new commit is had by its name.
    assert Checkpoint.open(ID).path == here.path
    assert same(Checkpoint.open(f"{ID}@{moved}").fetched(), Checkpoint.open(family.donor))


def test_a_tag_is_a_revision(hub: Hub, base: Repository, family: Family) -> None:
    tagged = base.push({f.name: f.read_bytes() for f in family.second.iterdir()}, ref="v2")
    here = Checkpoint.open(f"{ID}@v2").fetched()
    assert here.path.name == tagged
    assert same(here, Checkpoint.open(family.second))


def test_what_is_downloaded_needs_no_network(hub: Hub, base: Repository) -> None:
    here = Checkpoint.open(ID).fetched()
    hub.log.clear()
    assert Checkpoint.open(ID).path == here.path
    assert hub.log == []


@pytest.mark.parametrize("tree", [True, False])
def test_a_folder_laid_out_as_the_cache_is_opened_offline(
    hub: Hub, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for number, name in enumerate(("vlm", "base", "donor")):
        commit = str(number) * 40
        snapshot = in_cache(f"org/{name}", commit, getattr(family, name), tree)
        assert Checkpoint.open(f"org/{name}").path == snapshot
        assert Checkpoint.open(f"org/{name}@{commit}").fetched().path == snapshot
    settings = {"method": "linear", "coefficients": {"ja": {"weight": 0.5}}}
    models = {"recipient": "org/vlm", "donors": {"ja": "org/donor"}}
    merge(Recipe.from_config({**settings, "models": models}), tmp_path / "afar")
    models = {"recipient": str(family.vlm), "donors": {"ja": str(family.donor)}}
    merge(Recipe.from_config({**settings, "models": models}), tmp_path / "near")
    merged, vlm = (tmp_path / "afar" / WEIGHTS), (family.vlm / WEIGHTS)
    assert merged.read_bytes() == (tmp_path / "near" / WEIGHTS).read_bytes() != vlm.read_bytes()
    assert not merged.is_symlink()
    assert hub.log == []


def test_blobs_shared_between_repositories_are_followed(hub: Hub, family: Family) -> None:
    """huggingface_hub 2 keeps what Xet gave once for all repositories: blobs are links too."""
    snapshot = in_cache(ID, "1" * 40, family.base, tree=True)
    blob = snapshot.parent.parent / "blobs" / f"hash-{WEIGHTS}"
    store = Path(constants.HF_HUB_CACHE) / "blobs" / "ab"
    store.mkdir(parents=True)
    os.replace(blob, store / "abcd")
    blob.symlink_to(Path("../../blobs/ab/abcd"))
    assert same(Checkpoint.open(ID), Checkpoint.open(family.base))


def test_files_that_a_cached_snapshot_lacks_are_fetched(
    hub: Hub, base: Repository, family: Family
) -> None:
    """As another program leaves it that loaded the model and not its tokenizer."""
    snapshot = in_cache(ID, base.refs["main"], family.base, tree=False)
    (snapshot / "tokenizer.json").unlink()
    assert Checkpoint.open(ID).path == snapshot
    assert (snapshot / "tokenizer.json").read_bytes() == (
        family.base / "tokenizer.json"
    ).read_bytes()
    assert not hub.asked(WEIGHTS)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 512)
    monkeypatch.setenv("TQDM_POSITION", "-1")  # bars, though this is no terminal


@pytest.mark.usefixtures("no_waiting")
def test_a_lost_connection_is_taken_up_again(hub: Hub, base: Repository, family: Family) -> None:
    size = (family.base / WEIGHTS).stat().st_size
    afar = Checkpoint.open(ID)
    hub.sent.clear()
    hub.cuts[WEIGHTS] = [size // 2]
    assert same(afar.fetched(), Checkpoint.open(family.base))
    assert size <= hub.sent[WEIGHTS] < size + 1024


@pytest.mark.usefixtures("no_waiting")
def test_the_next_run_goes_on_from_where_one_was_cut(
    hub: Hub, base: Repository, family: Family, capfd: pytest.CaptureFixture[str]
) -> None:
    size = (family.base / WEIGHTS).stat().st_size
    hub.cuts[WEIGHTS] = [size // 2, *[0] * 5]
    with pytest.raises(CheckpointError, match=f"{ID}: .*connection was lost.*run again") as caught:
        Checkpoint.open(ID).fetched()
    assert "\n" not in str(caught.value)
    hub.sent.clear()
    hub.log.clear()
    again = Checkpoint.open(ID)
    assert again.missing_bytes == size
    hub.sent.clear()
    capfd.readouterr()
    here = again.fetched()
    assert hub.sent[WEIGHTS] < size // 2 + 1024
    assert f"bytes={size // 2 // 512 * 512}-" in hub.asked(WEIGHTS)
    assert WEIGHTS in capfd.readouterr().err  # the progress bar
    assert same(here, Checkpoint.open(family.base))
    assert not list(here.path.parents[1].glob("blobs/*incomplete"))


def test_a_part_that_is_not_of_this_file_is_thrown_away(
    hub: Hub, base: Repository, family: Family
) -> None:
    content = (family.base / WEIGHTS).read_bytes()
    afar = Checkpoint.open(ID)
    blobs = afar.path.parents[1] / "blobs"
    part = blobs / f"{hashlib.sha256(content).hexdigest()}.vlmmerge.incomplete"
    part.write_bytes(bytes(100))
    with pytest.raises(CheckpointError, match=f"{ID}: {WEIGHTS} came with another checksum"):
        afar.fetched()
    assert same(afar.fetched(), Checkpoint.open(family.base))


def test_a_full_disk_is_seen_before_the_download(
    hub: Hub, base: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    afar = Checkpoint.open(ID)
    full = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    with pytest.raises(EngineError, match=f"{ID}: 0.0 GB to download and 0.0 GB free"):
        afar.fetched()
    assert headers_only(hub)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pytorch_model.bin": b"x", "config.json": b"{}"}, "pytorch_model.bin: pickled weights"),
        ({"model.Q4.gguf": b"x"}, "GGUF"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, "PEFT adapter"),
        ({"README.md": b"x"}, "config.json"),
        ({WEIGHTS: b"\x02" + bytes(7) + b"{}"}, "config.json: missing"),
        ({"config.json": b"{", WEIGHTS: b"\x02" + bytes(7) + b"{}"}, "config.json"),
        ({"config.json": b"{}", WEIGHTS: bytes(100)}, "not a safetensors file"),
        ({"config.json": b"{}", WEIGHTS: b"\xff" * 100}, "not a safetensors file"),
        ({"config.json": b"{}", WEIGHTS: b"\x05" + bytes(7) + b"{{{{{"}, "header"),
        ({"config.json": b"{}", "model.safetensors.index.json": b"[]"}, "index.json"),
        (
            {
                "config.json": b"{}",
                "model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}',
            },
            "names a shard b.safetensors that is not there",
        ),
        (
            {
                "config.json": b'{"quantization_config": {"quant_method": "gptq"}}',
                WEIGHTS: b"\x02" + bytes(7) + b"{}",
            },
            "(?i)gptq",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_merged_is_refused_from_afar(
    hub: Hub, files: dict[str, bytes], message: str
) -> None:
    hub.repositories[ID] = Repository()
    hub.repositories[ID].push({**files, "vocab.txt": b"a"})
    said = refused()
    assert re.search(message, said), said
    assert str(constants.HF_HUB_CACHE) not in said
    assert not hub.asked("vocab.txt")
    assert None not in hub.asked(WEIGHTS)


def test_a_size_other_than_the_header_promises_is_refused(hub: Hub, base: Repository) -> None:
    base.sizes[WEIGHTS] = 10**12
    assert "holds 1000000000000 bytes where its header says" in refused()


def test_weights_that_are_not_those_promised_are_refused(
    hub: Hub, base: Repository, family: Family
) -> None:
    afar = Checkpoint.open(ID)
    content = (family.base / WEIGHTS).read_bytes()
    # One commit is one content; a server that breaks this is not to be believed.
    base.commits[base.refs["main"]][WEIGHTS] = content.replace(b'"BF16"', b'"F16" ')
    with pytest.raises(CheckpointError, match="other headers than the hub gave before"):
        afar.fetched()


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_names_its_page(hub: Hub, base: Repository, status: int) -> None:
    base.gated = status
    said = refused()
    assert "gated" in said
    assert f"https://huggingface.co/{ID}" in said
    assert "`hf auth login`" in said


@pytest.mark.parametrize("token", [None, "hf_secret"])
def test_a_missing_or_private_repository_names_its_page(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    said = refused()
    assert "private" in said
    assert f"https://huggingface.co/{ID}" in said
    assert "`hf auth login`" in said
    assert hub.tokens == {("127.0.0.1", token and f"Bearer {token}")}


def test_a_missing_revision_is_named(hub: Hub, base: Repository) -> None:
    assert "no revision 'v9'" in refused(f"{ID}@v9")


def test_offline_without_the_model_says_so(
    hub: Hub, base: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    Checkpoint.open(ID)  # its configuration is cached then, its weights are not
    hub.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused()
    assert hub.log == []


@pytest.mark.parametrize("seen", [False, True])
def test_no_connection_says_so(
    hub: Hub,
    base: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    seen: bool,
) -> None:
    # Another test's Hydra may have left a handler on a stream that is closed by now.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    if seen:
        Checkpoint.open(ID)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert "cannot be reached" in refused()
    assert capfd.readouterr().err == ""


def test_a_token_is_sent_to_the_hub_and_to_no_other_host(
    hub: Hub, base: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    Checkpoint.open(ID).fetched()
    assert hub.tokens == {("127.0.0.1", "Bearer hf_mine"), ("localhost", None)}


def test_a_merge_downloads_when_all_is_known_to_fit(
    hub: Hub, family: Family, tmp_path: Path
) -> None:
    """What does not fit costs headers; what fits is fetched once, merged, and the cache kept."""
    hub.create("org/vlm", family.vlm)
    hub.create("org/donor", family.donor)
    config = json.loads((family.base / "config.json").read_text())
    torch.manual_seed(0)
    short = LlamaForCausalLM(LlamaConfig(**{**config, "num_hidden_layers": 2}))
    short.bfloat16().save_pretrained(tmp_path / "short")
    hub.create("org/short", tmp_path / "short")

    def recipe(recipient: str, donor: str) -> Recipe:
        models = {"recipient": recipient, "donors": {"ja": donor}}
        coefficients = {"ja": {"weight": 0.4}}
        return Recipe.from_config(
            {"models": models, "method": "linear", "coefficients": coefficients}
        )

    with pytest.raises(AlignmentError, match="ja has 2 layers, the recipient 3"):
        merge(recipe("org/vlm", "org/short"), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="exists already"):
        merge(recipe("org/vlm", "org/donor"), tmp_path / "full")
    assert headers_only(hub)

    merge(recipe("org/vlm", "org/donor"), tmp_path / "out")
    merge(recipe(str(family.vlm), str(family.donor)), tmp_path / "near")
    one, two = (tmp_path / name / WEIGHTS for name in ("out", "near"))
    assert one.read_bytes() == two.read_bytes()
    assert same(Checkpoint.open("org/vlm"), Checkpoint.open(family.vlm))
    assert not one.is_symlink()
