"""Pretrained encoders that read a generator's rows: its text and its end, whatever vocabulary, in discriminator and VAE."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import CHATML, save_small_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from emogen.checkpoint.model import load
from emogen.data.exchange import Reading
from emogen.errors import CheckpointError, SettingsError
from emogen.models.discriminator import Discriminator, DiscriminatorConfig, PretrainedDiscriminator, score
from emogen.models.generator import Generator
from emogen.models.losses import bradley_terry
from emogen.models.pretrained_encoder import PretrainedReader, RowTexts, pretrained_weights, text_marks
from emogen.models.vae import TextVAE
from emogen.pretrained.loading import Pretrained, load_encoder
from emogen.text.base_tokenizer import PretrainedTokenizer
from emogen.text.tokenizer import BOS, EOS, PAD, train_tokenizer
from emogen.train.config import GanSettings, LmSettings, VaeSettings
from emogen.train.fit import fit_gan, fit_lm, fit_vae
from emogen.train.run.state import TrainState, adamw, update

EMOTIONS = 2
TURNS = ["Good day to you .", "so happy!", "we won , we won"]
REPLIES = ["it was bad", "", "Very very happy to you!", "no"]


@pytest.fixture(scope="module")
def words():
    """A SentencePiece tokenizer of our own."""
    return train_tokenizer([*TURNS, *REPLIES])


@pytest.fixture(scope="module", params=[CHATML, None], ids=["chat", "text"])
def other_words(request, tmp_path_factory):
    """The tokenizer of a pretrained generator, with marks of turns or one turn a line."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("words")
    save_small_tokenizer(folder, request.param)
    return PretrainedTokenizer(AutoTokenizer.from_pretrained(folder), "base")


@pytest.fixture(scope="module")
def bert(bert_folder):
    """Read only."""
    return load_encoder(f"hf:{bert_folder}")


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """Two marks between texts, no types, positions that begin at 2."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    words = "good day to you so happy we won it was bad very no . , !"
    names = ["<s>", "<pad>", "</s>", "<unk>", *words.split()]
    plain = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    marks = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    read = PreTrainedTokenizerFast(
        tokenizer_object=plain, model_max_length=40, model_input_names=["input_ids", "attention_mask"], **marks
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(3)
    config = RobertaConfig(vocab_size=len(names), max_position_embeddings=42, initializer_range=0.3, **sizes)
    return Pretrained("roberta", RobertaModel(config), read)


def row(tokenizer, context, reply, end=True):
    return [*tokenizer.prefix(context, 200), *tokenizer.encode(reply), *([EOS] if end else [])]


def rows(tokenizer, *texts, end=True):
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row(tokenizer, *each, end)) for each in texts], True, PAD)


def emotions(count):
    return functional.one_hot(torch.arange(count) % EMOTIONS, EMOTIONS + 1).float()


def read(texts, tokens, with_context=True):
    return [each.ids for each in texts.read(tokens, with_context)]


# ---- a row as the encoder reads it


@pytest.mark.parametrize("name", ["bert", "roberta"])
@pytest.mark.parametrize("reply", REPLIES)
def test_context_and_reply_stand_as_the_encoder_pairs_texts(name, reply, words, request):
    """Ids and types are those that the encoder's own tokenizer gives for the pair, or the reply alone."""
    pretrained = request.getfixturevalue(name)
    texts = RowTexts(words, pretrained)
    (found,) = texts.read(rows(words, (TURNS[:1], reply)), True)
    # In a list, since Transformers takes an empty second text that stands alone for none.
    expected = pretrained.tokenizer(TURNS[:1], [reply])
    assert [found.ids] == expected["input_ids"]
    if name == "bert":
        assert [[int(at >= found.second) for at in range(len(found.ids))]] == expected["token_type_ids"]
    alone = pretrained.tokenizer(reply)["input_ids"]
    assert read(texts, rows(words, (TURNS[:1], reply)), False) == read(texts, rows(words, ([], reply))) == [alone]


def test_marks_by_hand(bert, roberta):
    """From the two vocabularies."""
    found = text_marks(bert.tokenizer, "bert")
    assert (found.front, found.between, found.end, found.types) == ((2,), (3,), (3,), (0, 1))
    found = text_marks(roberta.tokenizer, "roberta")
    assert (found.front, found.between, found.end, found.types) == ((0,), (2, 2), (2,), ())


def test_utterances_are_kept_apart(words, bert):
    """By the mark that stands between texts, each on its own as the encoder's tokenizer reads it."""
    plain = [bert.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (*TURNS, "no")]
    expected = [2, *plain[0], 3, *plain[1], 3, *plain[2], 3, *plain[3], 3]
    assert read(RowTexts(words, bert), rows(words, (TURNS, "no"))) == [expected]


@given(context=st.lists(st.sampled_from(TURNS), max_size=4), reply=st.text("abdgs ,!", max_size=12), end=st.booleans())
def test_the_generator_s_vocabulary_and_its_marks_change_nothing(words, other_words, bert, context, reply, end):
    """A row of our own tokenizer and one of a pretrained generator, with or without chat marks, read alike."""
    expected = read(RowTexts(words, bert), rows(words, (context, reply), end=end))
    assert read(RowTexts(other_words, bert), rows(other_words, (context, reply), end=end)) == expected


def test_a_reply_that_was_cut_has_no_mark_behind_it(words, bert):
    texts = RowTexts(words, bert)
    (ended,), (cut,) = (read(texts, rows(words, (TURNS[:1], "we won"), end=end)) for end in (True, False))
    assert ended == [*cut, 3]


@given(st.lists(st.integers(5, 250), max_size=5), st.integers(0, 4))
def test_padding_and_what_stands_behind_the_end_change_nothing(words, bert, behind, padding):
    texts, whole = RowTexts(words, bert), row(words, TURNS[:2], "we won")
    longer = torch.tensor([[*whole, *behind, *[PAD] * padding]])
    assert read(texts, longer) == read(texts, torch.tensor([whole]))


def test_marks_that_are_written_out_are_plain_text(words, bert):
    """A generator cannot write the end of its reply, or another utterance."""
    (found,) = read(RowTexts(words, bert), rows(words, (["no [SEP] no"], "we [SEP] won [CLS]"), end=False))
    assert [at for at, place in enumerate(found) if place in (2, 3)] == [0, found.index(3)]


def test_what_is_too_long_loses_the_oldest_of_its_context_then_the_last_of_its_reply(words, bert):
    """The encoder reads 64 ids."""
    texts = RowTexts(words, bert)
    very, won = bert.tokenizer.convert_tokens_to_ids(["very", "won"])
    tokens = torch.tensor([[*words.encode("no " * 9 + "very " * 80), BOS, *words.encode("won " * 10), EOS]])
    assert read(texts, tokens) == [[2, *[very] * 51, 3, *[won] * 10, 3]]
    tokens = torch.tensor([[*words.encode("no"), BOS, *words.encode("very " * 5 + "won " * 80), EOS]])
    (found,) = texts.read(tokens, True)
    assert found.ids == [2, *[very] * 5, *[won] * 57, 3]
    assert found.second == 1


# ---- its vector


def reader_of(pretrained, words):
    return PretrainedReader(pretrained, words, EMOTIONS).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_vector_is_the_mean_of_the_encoder_s_own_states(name, words, request):
    """Computed here by the encoder from its own tokenizer's ids and, with an emotion, from shifted word vectors."""
    pretrained = request.getfixturevalue(name)
    reader = reader_of(pretrained, words)
    pairs = [(TURNS[0], "we won"), (TURNS[1], "it was very very bad , no"), (TURNS[2], "so")]
    tokens = rows(words, *(([context], reply) for context, reply in pairs))
    for shift in (0.0, 0.3):
        reader.condition.weight.fill_(0).add_(shift * torch.randn(reader.condition.weight.shape))
        found = reader(tokens, emotions(3))
        for place, (context, reply) in enumerate(pairs):
            own = pretrained.tokenizer(context, reply, return_tensors="pt")
            ids = own.pop("input_ids")
            vectors = pretrained.model.get_input_embeddings()(ids) + reader.condition.weight[:, place % EMOTIONS]
            expected = pretrained.model.eval()(inputs_embeds=vectors, **own).last_hidden_state[0].mean(0)
            torch.testing.assert_close(found[place], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_row_alone_has_the_vector_that_it_has_among_many(words, bert):
    """150 rows of mixed lengths are read in three parts and come back in their order."""
    reader = reader_of(bert, words)
    texts = [(TURNS[: at % 4], " ".join(["so happy"] * (at % 11) + ["no"] * (at % 3))) for at in range(150)]
    tokens = rows(words, *texts)
    together = reader(tokens, emotions(150))
    for at in range(0, 150, 17):
        alone = reader(rows(words, texts[at]), emotions(150)[at : at + 1])[0]
        torch.testing.assert_close(alone, together[at], atol=1e-5, rtol=1e-4)


def test_models_that_cannot_serve_are_refused(tiny_base, bert, words):
    """A language model marks no end of a text; one that decodes as well is no encoder."""
    from transformers import BartConfig, BartModel

    causal = load_encoder(f"hf:{tiny_base}")
    sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")}
    both = Pretrained("bart", BartModel(BartConfig(vocab_size=40, d_model=8, **sizes)), bert.tokenizer)
    for pretrained, fault in ((causal, "its tokenizer puts no mark (sep token) behind a text"), (both, "encodes and decodes")):
        with pytest.raises(CheckpointError) as refusal:
            reader_of(pretrained, words)
        assert str(refusal.value).startswith(f"{pretrained.name}: {fault}")
        assert "\n" not in str(refusal.value)


# ---- as a discriminator


def judge(pretrained, words):
    torch.manual_seed(4)
    found = PretrainedDiscriminator(PretrainedReader(pretrained, words, EMOTIONS))
    torch.nn.init.normal_(found.reader.condition.weight, std=0.3)
    return found


def test_scores_are_free_of_dropout_and_keep_the_mode(words, bert):
    """Equal twice and in parts, without gradient, the mode as before; emotion, context and end count."""
    model, tokens = judge(bert, words), rows(words, *((TURNS[:1], reply) for reply in REPLIES))
    target = emotions(4)
    for mode in (True, False):
        model.train(mode)
        found = score(model, tokens, target)
        assert found.shape == (4,)
        assert not found.requires_grad
        assert torch.equal(found, score(model, tokens, target))
        assert model.training is mode
        assert model.reader.encoder.training is mode
        torch.testing.assert_close(score(model, tokens, target, chunk=3), found, atol=1e-5, rtol=1e-4)
    model.train()
    assert not torch.equal(model(tokens, target), model(tokens, target))
    others = [
        (tokens, target.roll(1, 1)),
        (rows(words, *((TURNS[1:2], reply) for reply in REPLIES)), target),
        (rows(words, *((TURNS[:1], reply) for reply in REPLIES), end=False), target),
    ]
    for changed in others:
        assert (score(model, *changed) - found).abs().min() > 1e-5


def test_the_emotion_is_learnt_from_nothing(small_bert, words):
    """The map begins at zero and has a gradient there."""
    model = PretrainedDiscriminator(PretrainedReader(small_bert(), words, EMOTIONS))
    assert not model.reader.condition.weight.any()
    model(rows(words, (TURNS, "no")), emotions(1)).sum().backward()
    assert model.reader.condition.weight.grad[:, 0].abs().max() > 0


def test_it_learns_to_tell_ended_from_cut(small_bert, words):
    """The same words to the same emotions; new texts are told apart."""
    model = PretrainedDiscriminator(PretrainedReader(small_bert(), words, EMOTIONS)).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    texts = [(TURNS[: at % 3], " ".join(["very"] * (at % 4) + ["happy"] * (at % 5))) for at in range(24)]
    margins = None
    for step in range(25):
        part = texts[:16] if step < 24 else texts[16:]
        ended, cut = (model(rows(words, *part, end=end), emotions(len(part))) for end in (True, False))
        margins = ended - cut
        optimizer.zero_grad()
        bradley_terry(ended, cut).backward()
        optimizer.step()
    assert (margins > 0).float().mean() >= 0.9


def test_pretrained_weights_take_smaller_steps(small_bert, words):
    """The first step of Adam is its rate for every weight with a gradient, by definition; a resumed one keeps its share."""
    model = judge(small_bert(), words)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = adamw(model, slow=pretrained_weights(model), share=0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(before)
    state = TrainState({"model": model}, {"model": optimizer}, torch.Generator())
    update(model(rows(words, (TURNS, "no")), emotions(1)).sum(), optimizer, 1e-3, state)
    moved = {name: float((weight.detach() - before[name]).abs().max()) for name, weight in model.named_parameters()}
    query = "reader.encoder.encoder.layer.0.attention.self.query.weight"
    assert moved["head.weight"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["reader.condition.weight"] == pytest.approx(1e-3, rel=1e-2)
    assert moved[query] == pytest.approx(1e-4, rel=1e-2)
    again = judge(small_bert(), words)
    other = adamw(again, slow=pretrained_weights(again), share=0.1)
    TrainState({"model": again}, {"model": other}, torch.Generator()).restore(state.dump(), "here")
    update(again(rows(words, (TURNS, "no")), emotions(1)).sum(), other, 1e-3, state)
    assert [group["lr"] for group in other.param_groups] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


def test_own_models_keep_their_rate():
    model = Discriminator(DiscriminatorConfig(20, EMOTIONS, width=8, layers=1, heads=2))
    assert pretrained_weights(model) == []
    assert {group["share"] for group in adamw(model, slow=[], share=0.1).param_groups} == {1.0}


# ---- settings


def test_settings_that_are_refused():
    """One line with the way out."""
    with pytest.raises(SettingsError, match=r"^--discriminator hf:x: an encoder of texts .*; pass --estimator rollout$"):
        GanSettings(discriminator="hf:x", estimator="dense")
    for wrong in ("bert", "hf:"):
        with pytest.raises(SettingsError, match=f"^--discriminator {wrong}: allowed is hf:NAME-OR-FOLDER or lm:FOLDER$"):
            GanSettings(discriminator=wrong)
        with pytest.raises(SettingsError, match=f"^--encoder {wrong}: allowed is hf:NAME-OR-FOLDER$"):
            VaeSettings(encoder=wrong)
    for kind in (GanSettings, VaeSettings):
        with pytest.raises(SettingsError, match=r"^--encoder-rate 0: "):
            kind(encoder_rate=0)


@pytest.mark.parametrize("option", ["discriminator", "encoder"])
def test_an_encoder_that_is_nowhere_ends_before_anything_is_trained(option, rows_file, tmp_path, monkeypatch, refusal):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    command = ["train-gan", "--estimator", "rollout"] if option == "discriminator" else ["train-vae"]
    found = refusal(*command, f"--{option}", "hf:nothing-of-that-name", rows_file, "--out", tmp_path / "run")
    assert found[0] == 1
    assert found[1].startswith("hf:nothing-of-that-name: cannot be loaded (")
    assert not (tmp_path / "run").exists()


# ---- whole runs


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOGEN_DATA", str(tmp_path_factory.mktemp("data")))
        yield


RUN = {"batch_size": 8, "device": "cpu", "precision": "float32", "save_every": 2, "validate_every": 3}
GAN = {"steps": 4, "warmup_steps": 2, "samples": 2, "rollouts": 2, "max_tokens": 5, "estimator": "rollout"}
OWN = {"width": 16, "layers": 1}
LIMITS = {"context_tokens": 24, "reply_tokens": 40}


@pytest.fixture(scope="module", params=["own", "pretrained"])
def generator(request, tiny_base, rows_file, tmp_path_factory):
    """The settings that make a generator's backbone, and the folder of one after two steps."""
    backbone = OWN if request.param == "own" else {"backbone": f"hf:{tiny_base}", "lora_rank": 2, **LIMITS}
    folder = tmp_path_factory.mktemp("lm") / "run"
    return backbone, fit_lm([str(rows_file)], Reading(), LmSettings(steps=2, out=str(folder), **RUN, **backbone))


def state_of(folder):
    state = torch.load(folder / "train_state.pt", weights_only=True)
    return {name: value for name, value in state.items() if name != "figures"}


def assert_equal(found, expected):
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert_equal(value, expected[key])
    elif isinstance(found, torch.Tensor):
        assert torch.equal(found, expected)
    else:
        assert found == expected


def interrupted(fit, monkeypatch, updates):
    """Runs `fit`, which ends in an error at that update, and goes on with it."""
    count, step = 0, torch.optim.AdamW.step

    def struck(optimizer, *rest):
        nonlocal count
        count += 1
        if count == updates:
            raise ValueError("struck")
        return step(optimizer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", struck)
        with pytest.raises(ValueError, match="struck"):
            fit(False)
    return fit(True)


def test_adversarial_training_is_resumed_bit_exact(generator, bert_folder, rows_file, tmp_path, monkeypatch):
    """Against a pretrained discriminator: it and the generator move, all of it stands in the state, nothing in the model."""

    def fit(name, resuming=False):
        init = str(generator[1])
        settings = GanSettings(init=init, discriminator=f"hf:{bert_folder}", out=str(tmp_path / name), **RUN, **GAN)
        return fit_gan([str(rows_file)], Reading(), settings, VaeSettings(), resuming)

    whole = state_of(fit("whole"))
    assert_equal(state_of(interrupted(lambda again: fit("run", again), monkeypatch, 6)), whole)
    query = "encoder.layer.0.attention.self.query.weight"
    moved = whole["modules"]["discriminator"][f"reader.encoder.{query}"]
    assert not torch.equal(moved, load_encoder(f"hf:{bert_folder}").model.state_dict()[query])
    found = load(tmp_path / "run")
    assert isinstance(found.model, Generator)
    assert len(found.sample("joy", n=2)) == 2
    assert "bert" not in (tmp_path / "run" / "config.json").read_text()


@pytest.fixture(scope="module")
def vae_run(generator, bert_folder, rows_file, tmp_path_factory):
    """A VAE with a pretrained encoder after three steps, with its saved state; its encoder's folder is gone by now."""
    folder = tmp_path_factory.mktemp("vae")
    encoder = Path(shutil.copytree(bert_folder, folder / "bert"))
    common = RUN | generator[0] | {"steps": 3, "latent": 4, "encoder": f"hf:{encoder}"}

    def fit(name, resuming=False):
        settings = VaeSettings(out=str(folder / name), **common)
        return fit_vae([str(rows_file)], Reading(), settings, resuming)

    fit("whole")
    with pytest.MonkeyPatch.context() as patch:
        interrupted(lambda again: fit("run", again), patch, 3)
    shutil.rmtree(encoder)
    return folder


def test_a_vae_is_resumed_bit_exact(vae_run):
    assert_equal(state_of(vae_run / "run"), state_of(vae_run / "whole"))
    weights = [(vae_run / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]


@torch.no_grad()
def test_a_vae_is_loaded_whole_without_the_encoder_it_began_with(vae_run):
    """Its posterior is of the reply alone, and that of the weights in training; what was trained stands in the file."""
    found = load(vae_run / "run", whole=True)
    vae, tokenizer = found.model, found.tokenizer
    assert isinstance(vae, TextVAE)
    saved = state_of(vae_run / "run")["modules"]["vae"]
    for name, weight in saved.items():
        if name.startswith(("encoder.", "posterior.", "adversary.")):
            assert torch.equal(vae.state_dict()[name], weight), name
    target = torch.tensor([found.emotion("joy").condition])

    def posterior(context, reply):
        tokens = rows(tokenizer, (context, reply))
        posterior = vae.encode(tokens, (tokens == BOS).int().argmax(1) + 1, target)
        return torch.cat([posterior.mean, posterior.log_variance], 1)

    expected = posterior([], "so happy")
    assert expected.shape == (1, 8)
    torch.testing.assert_close(posterior(TURNS, "so happy"), expected, atol=1e-5, rtol=1e-4)
    assert (posterior([], "no day") - expected).abs().max() > 1e-5


def test_text_needs_no_encoder(vae_run, tmp_path):
    """The decoder alone is loaded, and gives the same texts; the encoder's tokenizer may be missing."""
    whole, alone = load(vae_run / "run", whole=True), load(vae_run / "run")
    assert isinstance(alone.model, Generator)
    assert [found.text for found in alone.sample("joy", n=3)] == [found.text for found in whole.sample("joy", n=3)]
    bare = Path(shutil.copytree(vae_run / "run", tmp_path / "bare"))
    shutil.rmtree(bare / "encoder_tokenizer")
    assert len(load(bare).sample("sadness", n=1)) == 1
    with pytest.raises(CheckpointError, match="no tokenizer there"):
        load(bare, whole=True)


def test_a_vae_of_an_unknown_encoder(vae_run, tmp_path):
    spoilt = Path(shutil.copytree(vae_run / "run", tmp_path / "spoilt"))
    content = json.loads((spoilt / "config.json").read_text())
    content["model"]["encoder"]["model_type"] = "tree"
    (spoilt / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="describes no model that can be built"):
        load(spoilt, whole=True)


def test_adversarial_training_begins_with_such_a_vae(vae_run, rows_file, tmp_path):
    """From its decoder, by an own discriminator that reads prefixes."""
    settings = GanSettings(init=str(vae_run / "run"), out=str(tmp_path / "gan"), **RUN, **GAN)
    settings = replace(settings, estimator="dense", discriminator_width=16, discriminator_layers=1)
    found = load(fit_gan([str(rows_file)], Reading(), settings, VaeSettings()))
    assert found.generator.config.latent == 4
