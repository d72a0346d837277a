"""Checkpoints: what is saved comes back, what is broken says so in one line, and what is there survives a failed save."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import emogen
from emogen.checkpoint import finding, folder
from emogen.checkpoint import model as checkpoint
from emogen.checkpoint.finding import find_checkpoint, mark_latest, shipped_folder
from emogen.checkpoint.folder import describe, read_description, read_weights, save_head, save_model
from emogen.checkpoint.model import load, load_classifier
from emogen.data.batches import Limits
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import EKMAN, GOEMOTIONS, LabelSet, parse_emotion
from emogen.errors import CheckpointError, EmogenError, SettingsError
from emogen.models.classifier import Classifier, ClassifierConfig, emotion_probabilities
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.head import head_of
from emogen.models.vae import TextVAE, TextVaeConfig

LABELS = LabelSet(("calm", "wild"))
LIMITS = Limits(context_tokens=3, reply_tokens=5)


def generator_config(backbone="lstm", latent=0):
    return GeneratorConfig(300, len(LABELS), backbone, width=16, layers=2, heads=2, latent=latent)


MODELS = {
    "lstm": lambda: Generator(generator_config()),
    "transformer": lambda: Generator(generator_config("transformer")),
    "latent": lambda: Generator(generator_config(latent=3)),
    "vae": lambda: TextVAE(TextVaeConfig(generator_config(latent=3), encoder_layers=1, encoder_heads=2)),
}


@pytest.fixture
def copied(tiny_checkpoint, tmp_path):
    """A copy of the trained checkpoint to be spoilt."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder of its own, and no checkpoint named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMOGEN_CHECKPOINT", raising=False)
    return tmp_path


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder):
    with pytest.raises(CheckpointError) as refused:
        load(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---- round trips


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_comes_back_as_it_was_saved(tmp_path, kind, tiny_checkpoint):
    model = MODELS[kind]()
    description = describe(model, LABELS, LIMITS)
    save_model(tmp_path, description, model)
    found = read_description(tmp_path)
    assert found == description
    assert found.kind == ("vae" if kind == "vae" else "generator")
    again = checkpoint.build_model(found)
    read_weights(tmp_path, again)
    assert again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_half_the_bytes_come_back_nearly_as_exact(tmp_path):
    """float16 keeps 11 bits, so a weight moves by at most 2**-11 of its size (and 2**-25 near zero)."""
    model = MODELS["vae"]()
    save_model(tmp_path / "whole", describe(model, LABELS, LIMITS), model)
    save_model(tmp_path / "half", describe(model, LABELS, LIMITS), model, torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    again = checkpoint.build_model(read_description(tmp_path / "half"))
    read_weights(tmp_path / "half", again)
    for name, tensor in model.state_dict().items():
        found = again.state_dict()[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, tensor, rtol=2**-11, atol=2**-25)


def test_a_classifier_comes_back_with_its_labels(tmp_path):
    classifier = Classifier(ClassifierConfig(emotions=2, buckets=64, width=4)).eval()
    save_model(tmp_path, describe(classifier, LABELS, LIMITS), classifier)
    again, labels = load_classifier(tmp_path)
    assert labels == LABELS
    texts = ["so calm", "so wild"]
    assert torch.equal(emotion_probabilities(again, texts), emotion_probabilities(classifier, texts))


def test_a_vae_with_its_tokenizer_writes_text(tmp_path, tiny_checkpoint):
    trained = load(tiny_checkpoint)
    decoder = GeneratorConfig(trained.tokenizer.vocabulary, len(EKMAN), width=16, latent=3)
    vae = TextVAE(TextVaeConfig(decoder, encoder_layers=1, encoder_heads=2))
    save_model(tmp_path, describe(vae, EKMAN, LIMITS), vae)
    trained.tokenizer.save(tmp_path / "tokenizer.model")
    found = load(tmp_path)
    assert found.generator is found.model.decoder
    assert [sample.emotion for sample in found.sample("joy", 3)] == ["joy"] * 3
    assert found.sample("joy", 3, seed=1) == found.sample("joy", 3, seed=1)


def test_limits_past_what_sampling_allows_leave_the_default_possible(copied):
    rewrite(copied, limits={"context_tokens": 32, "reply_tokens": 9000})
    assert load(copied).default_sampling.max_tokens == 4096


# ---- sampling in one call


def test_load_and_sample_in_one_line(tiny_checkpoint):
    found = emogen.load(tiny_checkpoint).sample(emotion="joy", n=5)
    assert len(found) == 5
    assert {sample.emotion for sample in found} == {"joy"}
    assert all(isinstance(sample, emogen.Sample) and 1 <= sample.tokens <= 41 for sample in found)


def test_the_same_seed_gives_the_same_texts(tiny_checkpoint):
    model = emogen.load(tiny_checkpoint)
    first = model.sample("joy", 4, seed=7)
    torch.rand(5)
    assert emogen.load(tiny_checkpoint).sample("joy", 4, seed=7) == first
    assert model.sample("joy", 4, seed=8) != first
    assert len({sample.text for sample in first}) > 1


def test_emotions_are_names_mixtures_points_or_none(tiny_checkpoint):
    model = emogen.load(tiny_checkpoint)
    assert model.sample("joy=0.7,sadness=0.3")[0].emotion == "joy=0.7,sadness=0.3"
    assert model.sample(parse_emotion("fear", EKMAN, 0.5))[0].emotion == "fear"
    assert model.emotion(None).condition == (0.0,) * 7 + (1.0,)
    assert model.emotion("joy", 0.25).condition[-1] == 0.75


def test_what_the_model_reads_changes_what_it_writes(tiny_checkpoint):
    """Emotion and context reach the scores: the likelihood of greedy text is not the same without them."""
    model = emogen.load(tiny_checkpoint)
    greedy = SamplingParams(temperature=0)
    target = {"joy": model.sample("joy", sampling=greedy), "sadness": model.sample("sadness", sampling=greedy)}
    target["context"] = model.sample("joy", context=["How was day 3?"], sampling=greedy)
    assert len({sample.log_probability for (sample,) in target.values()}) == 3


@pytest.mark.parametrize("target", ["hunger", "joy=0.7,hunger=0.3", ""])
def test_an_unknown_emotion_lists_the_allowed_ones(tiny_checkpoint, target):
    with pytest.raises(SettingsError, match="is not one of anger, disgust, fear, joy, neutral, sadness, surprise"):
        emogen.load(tiny_checkpoint).sample(target)


def test_replies_need_an_emotion_each(tiny_checkpoint):
    model = emogen.load(tiny_checkpoint)
    found = model.replies([["How was day 1?"], []], [model.emotion("joy"), model.emotion("fear")], n=2)
    assert [sample.emotion for sample in found] == ["joy", "joy", "fear", "fear"]
    with pytest.raises(SettingsError, match="1 contexts for 0 emotions"):
        model.replies([[]], [])


# ---- where a checkpoint is looked for


def test_argument_then_environment_then_latest_then_the_one_that_ships(elsewhere, tiny_checkpoint, monkeypatch):
    names = ("argument", "environment", "checkpoints/mine", "package/checkpoints/default")
    argument, environment, mine, default = (Path(shutil.copytree(tiny_checkpoint, elsewhere / name)) for name in names)
    monkeypatch.setattr(finding, "shipped_folder", lambda name: elsewhere / "package/checkpoints" / name)
    assert find_checkpoint() == default
    mark_latest(Path("checkpoints/mine"))
    assert find_checkpoint().resolve() == mine
    assert find_checkpoint("checkpoints/latest").resolve() == mine
    monkeypatch.setenv("EMOGEN_CHECKPOINT", str(environment))
    assert find_checkpoint() == environment
    assert find_checkpoint(argument) == argument
    assert load(argument).folder == argument


def test_only_folders_under_checkpoints_become_the_latest(elsewhere):
    mark_latest(elsewhere / "other" / "model")
    assert not (elsewhere / "checkpoints").exists()
    mark_latest(Path("checkpoints/lm-1"))
    mark_latest(Path("checkpoints/lm-2").resolve())
    assert (elsewhere / "checkpoints" / "latest").read_text() == "lm-2\n"


def test_a_model_that_ships_lies_in_the_package_or_beside_it(monkeypatch, tmp_path):
    monkeypatch.setattr(finding, "__file__", str(tmp_path / "emogen" / "checkpoint" / "finding.py"))
    assert shipped_folder("default") == tmp_path / "checkpoints" / "default"
    (tmp_path / "emogen" / "checkpoints" / "default").mkdir(parents=True)
    assert shipped_folder("default") == tmp_path / "emogen" / "checkpoints" / "default"


def test_nothing_there_says_what_names_it(elsewhere, monkeypatch):
    assert refusal("nowhere") == "nowhere: no checkpoint there (no config.json); train one, or name another folder"
    (elsewhere / "checkpoints").mkdir()
    (elsewhere / "checkpoints" / "latest").write_text("gone\n")
    way_out = "checkpoints/latest names it, remove that file or name a folder with --checkpoint"
    assert refusal(None) == f"checkpoints/gone: no checkpoint there (no config.json); {way_out}"
    (elsewhere / "checkpoints" / "latest").write_bytes(b"\xff\xfe")
    assert refusal(None).startswith("checkpoints/latest: cannot be read (")
    monkeypatch.setenv("EMOGEN_CHECKPOINT", "there")
    assert refusal(None).startswith("there: no checkpoint there (no config.json); EMOGEN_CHECKPOINT names it")


# ---- broken ones


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_weights_that_are_cut_short(copied, share):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert refusal(copied).startswith(f"{path}: cannot be read (it is cut short, or no file of safetensors: ")
    assert refusal(copied).endswith("); copy the whole folder again, or name another checkpoint")


def allocation_that_fails():
    """What PyTorch itself raises on a CPU."""
    try:
        torch.empty(2**58)
    except RuntimeError as error:
        return error
    raise AssertionError("this machine has more memory than there is")


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors"])
@pytest.mark.parametrize(
    ("spoilt", "error", "words"),
    [
        (
            (folder, "read_bytes"),
            PermissionError(errno.EACCES, "Permission denied"),
            "cannot be opened (Permission denied); ",
        ),
        ((folder, "read_bytes"), OSError(errno.EIO, "Input/output error"), "cannot be opened (Input/output error); "),
        ((safetensors.torch, "load"), MemoryError(), "there is not enough memory to read its 0 MB"),
        ((safetensors.torch, "load"), torch.OutOfMemoryError("CUDA out of memory"), "there is not enough memory"),
        ((safetensors.torch, "load"), allocation_that_fails(), "there is not enough memory"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_files_of_tensors_that_cannot_be_had(copied, monkeypatch, name, spoilt, error, words):
    """Neither is called cut short."""
    save_head(copied, head_of(load(copied).generator, rank=2))
    place, method = spoilt
    working = getattr(place, method)
    size = (copied / name).stat().st_size

    def fail(given):
        if (given.name == name) if isinstance(given, Path) else (len(given) == size):
            raise error
        return working(given)

    monkeypatch.setattr(place, method, fail)
    assert refusal(copied).startswith(f"{copied / name}: {words}")
    assert "cut short" not in refusal(copied)


def test_a_folder_where_a_file_should_be(copied):
    for name in ("head.safetensors", "model.safetensors"):
        (copied / name).unlink(missing_ok=True)
        (copied / name).mkdir()
        assert refusal(copied).startswith(f"{copied / name}: cannot be opened (is a folder, not a regular file)")
        (copied / name).rmdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: {**tensors, "bias": tensors["bias"][:-3]}, "bias has shape [{fewer}], the model needs [{all}]"),
        (lambda tensors: {**tensors, "beside": torch.zeros(2, 3)}, "beside is in it, of shape [2, 3], and not in the model"),
        (
            lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "bias"},
            "bias is not in it, of shape [{all}]",
        ),
    ],
)
def test_weights_of_another_model_name_the_tensor(copied, change, words):
    path = copied / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    count = len(tensors["bias"])
    safetensors.torch.save_file(change(tensors), path)
    words = words.format(all=count, fewer=count - 3)
    assert f"{path}: cannot be read (it is of another model: {words}); copy the whole folder" in refusal(copied)


def test_our_own_mistakes_are_no_fault_of_the_file(copied, monkeypatch):
    def fail(_):
        raise RuntimeError("size of nothing")

    monkeypatch.setattr(safetensors.torch, "load", fail)
    with pytest.raises(RuntimeError, match="size of nothing"):
        load(copied)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_tokenizer_that_is_cut_short(copied, share):
    path = copied / "tokenizer.model"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert refusal(copied).startswith(f"{path}: no readable SentencePiece model (")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model"])
def test_a_file_that_is_missing(copied, name):
    (copied / name).unlink()
    assert refusal(copied).startswith(f"{copied / name}: ")
    assert ("it is not there" if name.endswith("tensors") else "No such file") in refusal(copied)


def test_a_format_of_another_version_names_that_version(copied):
    rewrite(copied, format=99, emogen="7.0")
    assert "format 99 (emogen 7.0), this emogen" in refusal(copied)
    path = copied / "config.json"
    path.write_text('{"format": 2}')
    assert "format 2 (emogen unknown)" in refusal(copied)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"format": 1}', '"\xff"'])
def test_a_config_that_is_no_description(copied, content):
    path = copied / "config.json"
    path.write_bytes(content.encode("latin-1"))
    assert refusal(copied).startswith(f"{path}: no readable model description (")


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "oracle"},
        {"labels": []},
        {"labels": ["joy", "joy"]},
        {"labels": [3]},
        {"labels": None},
        {"limits": {"words": 3}},
        {"limits": None},
        {"model": None},
        {"model": {"vocabulary": 300}},
        {"model": {"vocabulary": 300, "emotions": 7, "colour": "red"}},
        {"model": {"vocabulary": 300, "emotions": 7, "backbone": "rnn"}},
        {"model": {"vocabulary": 300, "emotions": 7, "width": "wide"}},
        {"model": {"vocabulary": -1, "emotions": 7}},
        {"model": {"vocabulary": 300, "emotions": 7, "backbone": "transformer", "heads": 0}},
        {"kind": "vae"},
        {"kind": "vae", "model": {"decoder": {"vocabulary": 300, "emotions": 7}}},
    ],
)
def test_a_config_that_describes_no_model(copied, changes):
    rewrite(copied, **changes)
    assert refusal(copied).startswith(str(copied / "config.json"))


def test_weights_of_a_model_of_another_size(copied):
    sizes = json.loads((copied / "config.json").read_text())["model"]
    rewrite(copied, model=sizes | {"width": 32})
    assert "of another model" in refusal(copied)


def test_files_of_different_models(copied):
    rewrite(copied, labels=["joy", "fear"])
    assert "the model has 7 labels, its files 2; they are of different models" in refusal(copied)
    rewrite(copied, labels=list(EKMAN.names))
    other = Generator(GeneratorConfig(400, 7, width=16))
    save_model(copied, describe(other, EKMAN, LIMITS), other)
    assert "the model has 400 token ids, its files" in refusal(copied)


def test_a_classifier_writes_no_text_and_a_generator_judges_none(tmp_path, tiny_checkpoint):
    classifier = Classifier(ClassifierConfig(emotions=2, buckets=8, width=4))
    save_model(tmp_path, describe(classifier, LABELS, LIMITS), classifier)
    assert "is a classifier, which writes no text; pass a checkpoint of train-lm, -vae or -gan" in refusal(tmp_path)
    with pytest.raises(CheckpointError, match="is a generator, not a classifier"):
        load_classifier(tiny_checkpoint)
    rewrite(tmp_path, model={"emotions": 2, "shape": 3})
    with pytest.raises(CheckpointError, match="describes no model that can be built"):
        load_classifier(tmp_path)


# ---- saving that fails


def no_space(*_arguments, **_options):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("spoilt", [(Path, "write_bytes"), (os, "fsync"), (os, "replace")])
def test_a_full_disk_leaves_the_model_that_was_there(copied, monkeypatch, spoilt):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    trained = load(copied)
    with torch.no_grad():
        trained.generator.bias += 1
    monkeypatch.setattr(*spoilt, no_space)
    with pytest.raises(
        EmogenError, match=r"model\.safetensors: cannot be written \(No space left on device\); what stood there"
    ):
        save_model(copied, trained.description, trained.model)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert load(copied).sample("joy", seed=3)


def test_a_save_that_stops_between_its_files_leaves_no_half_model(tmp_path, monkeypatch):
    """The config comes last, so that a folder with a config is a whole model."""
    model = MODELS["lstm"]()
    monkeypatch.setattr(Path, "write_text", no_space)
    with pytest.raises(EmogenError, match=r"config\.json: cannot be written"):
        save_model(tmp_path, describe(model, LABELS, LIMITS), model)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert "no checkpoint there" in refusal(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    model = MODELS["lstm"]()
    with pytest.raises(EmogenError, match="cannot be written"):
        save_model(tmp_path / "file" / "model", describe(model, LABELS, LIMITS), model)


def test_a_context_may_be_one_text(tiny_checkpoint):
    model = load(tiny_checkpoint)
    assert model.sample("joy", context="hi there", seed=3) == model.sample("joy", context=["hi there"], seed=3)
    assert model.replies(["hi there"], ["joy"], seed=3) == model.sample("joy", context=["hi there"], seed=3)
    assert model.replies([], []) == []
    with pytest.raises(SettingsError, match="1 contexts for 2 emotions"):
        model.replies(["hi"], ["joy", "fear"])
    with pytest.raises(SettingsError, match="other labels"):
        model.sample(parse_emotion("grief", GOEMOTIONS))
    with pytest.raises(SettingsError, match="--device gpu"):
        load(tiny_checkpoint, device="gpu")
