"""A pretrained language model as a generator's backbone: its own scores are the reference, peft's for the low-rank updates."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import save_small_tokenizer
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from emogen.checkpoint import finding
from emogen.checkpoint import model as checkpoint
from emogen.checkpoint.model import load
from emogen.data.exchange import Reading
from emogen.decoding.control import Control
from emogen.decoding.params import SamplingParams
from emogen.decoding.texts import Prompt, TextGenerator, sample
from emogen.emotions.labels import EKMAN, mixture, no_emotion
from emogen.errors import CheckpointError, SettingsError
from emogen.models.device import Bfloat16Support
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.pretrained_backbone import AdapterConfig, load_base, merge_lora
from emogen.models.trained import trained_tensors
from emogen.pretrained.bases import Base, find_base
from emogen.text.tokenizer import BOS, EOS, PAD, SPECIAL
from emogen.train import fit
from emogen.train.config import GanSettings, LmSettings, VaeSettings
from emogen.train.fit import fit_gan, fit_lm, fit_vae
from emogen.train.loops.mle import train_mle

CPU = torch.device("cpu")
EMOTIONS = 7
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    """Output vectors of its own, more of them than words, biases in attention, no chat template."""
    folder = tmp_path_factory.mktemp("base") / "qwen"
    config = Qwen2Config(vocab_size=save_small_tokenizer(folder) + 9, num_key_value_heads=2, tie_word_embeddings=False, **SIZES)
    torch.manual_seed(8)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    """Learnt positions, matrices that stand transposed, another name for everything."""
    folder = tmp_path_factory.mktemp("base") / "gpt2"
    torch.manual_seed(9)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=save_small_tokenizer(folder), n_embd=16, n_layer=2, n_head=2, n_positions=96, resid_pdrop=0.0)
    ).save_pretrained(folder)
    return folder


@pytest.fixture(params=["tiny_base", "qwen", "gpt2"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def base_in(folder):
    return load_base(Base("tiny", folder, "one", "MIT"), CPU, full_precision=True)


@pytest.mark.parametrize(
    ("is_faster", "full_precision", "dtype"),
    [(True, False, torch.bfloat16), (True, True, torch.float32), (False, False, torch.float32)],
)
def test_a_base_is_in_bfloat16_only_where_that_is_faster(tiny_base, monkeypatch, is_faster, full_precision, dtype):
    found = Bfloat16Support(runs=True, is_faster=is_faster)
    monkeypatch.setattr("emogen.models.pretrained_backbone.probe_bfloat16", lambda _: found)
    assert load_base(Base("tiny", tiny_base, "one", "MIT"), CPU, full_precision).model.dtype is dtype


def generator_on(base, prefix=3, rank=4, latent=0):
    sizes = base.model.config
    adapter = AdapterConfig("tiny", "one", prefix, rank, 2 * rank)
    config = GeneratorConfig(
        base.tokenizer.vocabulary, EMOTIONS, "pretrained", 16, 2, sizes.num_attention_heads, latent=latent, adapter=adapter
    )
    return Generator(config, base).eval()


def conditioned(folder, **sizes):
    """A generator whose condition does something, and its tokenizer."""
    base = base_in(folder)
    model = generator_on(base, **sizes)
    torch.nn.init.normal_(model.inject.weight, std=0.3)
    return model, base.tokenizer


def rows_of(model, batch=3, time=9):
    tokens = torch.randint(SPECIAL + 3, model.config.vocabulary, (batch, time))
    return tokens, torch.randn(batch, EMOTIONS + 1 + model.config.latent)


@torch.no_grad()
def test_without_a_condition_the_scores_are_the_bases_own(folder):
    base = base_in(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer.encode("Day 3 was great, we won.", add_special_tokens=False)])
    expected = base.model(ids).logits
    model = generator_on(base, prefix=0)
    found = model.logits(model(ids + SPECIAL, torch.eye(EMOTIONS + 1)[:1]))
    allowed = [place for place in range(ids.max()) if place + SPECIAL not in base.tokenizer.marks]
    torch.testing.assert_close(found[..., SPECIAL:][..., allowed], expected[..., allowed], atol=1e-5, rtol=1e-5)
    assert (found[..., [PAD, BOS, *base.tokenizer.marks]] < -1000).all()
    torch.testing.assert_close(found[..., EOS], expected[..., tokenizer.eos_token_id], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_reading_and_steps_equal_the_whole(folder):
    """Rows of different lengths read at once, then token by token, as in one pass over each."""
    model, _ = conditioned(folder, latent=2)
    tokens, condition = rows_of(model)
    lengths = torch.tensor([5, 2, 4])
    condition_shift = model.condition_shift(condition)
    hidden, state = model.prefill(tokens[:, :5], lengths, condition_shift, model.init_cache(condition_shift, 12))
    rows = torch.arange(3)
    for number in range(3):
        whole = model(tokens, condition)[rows, lengths - 1 + number]
        torch.testing.assert_close(hidden, whole, atol=1e-5, rtol=1e-4)
        hidden, state = model.step(tokens[rows, lengths + number], lengths + number, condition_shift, state)


@torch.no_grad()
def test_branches_go_on_by_themselves(folder):
    model, _ = conditioned(folder)
    tokens, condition = rows_of(model)
    condition_shift = model.condition_shift(condition)
    _, state = model.prefill(tokens, torch.full((3,), 9), condition_shift, model.init_cache(condition_shift, 14))
    chosen, times = torch.tensor([2, 0, 2]), torch.tensor([3, 6, 1])
    copied = model.backbone.fork_cache([state], chosen, times)
    other = torch.randint(SPECIAL, model.config.vocabulary, (3, 2))
    for place in range(2):
        hidden, copied = model.step(other[:, place], times + place, condition_shift[:, chosen], copied)
    for row in range(3):
        whole = torch.cat([tokens[chosen[row], : times[row]], other[row]])[None]
        expected = model(whole, condition[chosen[row] : chosen[row] + 1])[0, -1]
        torch.testing.assert_close(hidden[row], expected, atol=1e-5, rtol=1e-4)


def test_a_batch_gives_what_its_rows_give_alone(folder):
    """Contexts of different lengths, another emotion each: greedy and sampled, token for token."""
    model, tokenizer = conditioned(folder)
    writer = TextGenerator(model, tokenizer)
    contexts = [[], ["Day 3 was awful."], ["We won.", "I cried, so awful it was on day 4."], ["Day"]]
    prompts = [
        Prompt(tokenizer.prefix(context, 60), mixture({EKMAN.names[row]: 1.0}, EKMAN)) for row, context in enumerate(contexts)
    ]
    for options in (SamplingParams(temperature=0, max_tokens=12), SamplingParams(max_tokens=12, seed=3)):
        together = list(sample(writer, prompts, options))
        first = next(sample(writer, prompts[:1], options))
        assert together[0].text == first.text
        if options.temperature == 0:
            assert [found.text for found in together] == [next(sample(writer, [p], options)).text for p in prompts]
    assert len({found.text for found in together}) > 1


@torch.no_grad()
def test_emotion_enters_in_front_and_in_each_layer(tiny_base):
    """Each part of the condition's map, alone, changes the states; without any, emotions do not differ."""
    model, _ = conditioned(tiny_base)
    tokens, _ = rows_of(model, batch=2)
    tokens[1] = tokens[0]
    condition = torch.eye(EMOTIONS + 1)[:2]
    weight = model.inject.weight.clone()
    model.inject.weight.copy_(weight[:, :1].expand_as(weight))
    even = model(tokens, condition)
    assert torch.equal(even[0], even[1])
    for part in range(1 + 2 + 3):
        model.inject.weight.copy_(weight[:, :1].expand_as(weight))
        model.inject.weight[part * 16 : (part + 1) * 16] = weight[part * 16 : (part + 1) * 16]
        apart = model(tokens, condition)
        assert not torch.allclose(apart[0], apart[1], atol=1e-4)


def test_soft_prefix_begins_as_the_names_of_the_emotions(tiny_base):
    base = base_in(tiny_base)
    model = generator_on(base)
    names = [base.tokenizer.encode(name) for name in EKMAN.names]
    model.name_emotions(names)
    front = model.condition_shift(torch.eye(EMOTIONS + 1))[1 + 2 :]
    for emotion, ids in enumerate(names):
        expected = model.embedding.weight[[ids[place % len(ids)] for place in range(3)]]
        torch.testing.assert_close(front[:, emotion], expected)


def test_only_updates_and_condition_are_trained_and_kept(folder):
    base = base_in(folder)
    model = generator_on(base)
    assert set(trained_tensors(model)) == {"inject.weight"}
    model.adapt()
    kept = trained_tensors(model)
    assert {name.split(".")[-4] if "lora" in name else name for name in kept} >= {"inject.weight"}
    assert all("lora_" in name or name == "inject.weight" for name in kept)
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())


@torch.no_grad()
def test_merged_and_unmerged_updates_give_the_same_scores(folder):
    """As near as rounding, with updates that move the scores a hundred times further; peft computes the unmerged ones."""
    adapted = generator_on(base_in(folder))
    adapted.adapt()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tokens, condition = rows_of(adapted)
    expected = adapted.logits(adapted(tokens, condition))
    merged = generator_on(base_in(folder))
    before = merged.logits(merged(tokens, condition))
    updates = {name.partition("decoder.")[2]: t for name, t in trained_tensors(adapted).items() if "lora_" in name}
    merge_lora(merged.backbone.decoder, updates, 2.0)
    found = merged.logits(merged(tokens, condition))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert (before - expected)[..., SPECIAL:].abs().max() > 0.1


def test_scores_that_are_capped_or_scaled_are_refused(tmp_path):
    folder = tmp_path / "cohere"
    config = CohereConfig(vocab_size=save_small_tokenizer(folder), logit_scale=0.3, eos_token_id=0, pad_token_id=0, **SIZES)
    CohereForCausalLM(config).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="scaled or capped behind its word vectors"):
        generator_on(base_in(folder))


# ---- as a user trains and loads it


def settings(folder, out, **more):
    given = {"steps": 6, "batch_size": 8, "lora_rank": 4, "soft_prefix": 2, "context_tokens": 30, "pretrained_rate": 0.01}
    return {**given, "backbone": f"hf:{folder}", "out": str(out), "device": "cpu", "precision": "float32", **more}


@pytest.fixture
def adapter(tiny_base, rows_file, tmp_path):
    return fit_lm([str(rows_file)], Reading(), LmSettings(**settings(tiny_base, tmp_path / "lm")))


def test_a_checkpoint_holds_what_was_trained_and_names_its_base(adapter, tiny_base):
    tensors = load_file(adapter / "model.safetensors")
    assert {name for name in tensors if "lora_" not in name} == {"inject.weight"}
    described = json.loads((adapter / "config.json").read_text())["model"]["adapter"]
    assert described["base"] == str(tiny_base)
    assert described["revision"] == find_base(str(tiny_base)).revision
    assert not (adapter / "tokenizer.model").exists()


def test_loaded_for_use_and_for_training_it_writes_the_same(adapter):
    merged, apart = load(adapter, full_precision=True), load(adapter, trainable=True, full_precision=True)
    warm = replace(merged.default_sampling, temperature=0.9, control=Control(guidance=3.0))
    written = [model.sample("joy", 3, "Day 3 was awful.", warm, 1) for model in (merged, apart)]
    assert written[0] == written[1]
    assert not any(p.requires_grad for n, p in merged.model.named_parameters() if n != "inject.weight")
    assert {n for n, p in apart.model.named_parameters() if p.requires_grad} == set(load_file(adapter / "model.safetensors"))


def test_updates_of_another_base_are_told(adapter):
    path = adapter / "model.safetensors"
    tensors = load_file(path)
    one = next(name for name in tensors if "lora_B" in name)
    changes = {
        "it is of another model: its updates do not fit the base": {one: torch.zeros(3, tensors[one].shape[1])},
        "it is of another model: the base has no matrix for the update": {one.replace(".layers.0", ".layers.99"): tensors[one]},
    }
    for words, change in changes.items():
        kept = {name: tensor for name, tensor in tensors.items() if name != one}
        save_file({**kept, **change}, path)
        with pytest.raises(CheckpointError, match=words):
            load(adapter)


@pytest.mark.parametrize(("rank", "share"), [(8, 0.999), (0, 0.8)])
def test_training_lowers_the_loss(tiny_base, rows_file, tmp_path, rank, share):
    """A little by updates of rank 8 where the base is nothing but noise, much where all of it is trained."""
    folder = fit_lm(
        [str(rows_file)],
        Reading(),
        LmSettings(**settings(tiny_base, tmp_path / "lm", steps=40, validate_every=10, pretrained_rate=0.03, lora_rank=rank)),
    )
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    first, *_, last = (line["held_out"]["nll"] for line in lines if "held_out" in line)
    assert last < share * first


def test_a_resumed_run_ends_with_the_same_weights(tiny_base, rows_file, tmp_path, monkeypatch):
    """Bit for bit, though the saved state holds no weight of the base."""
    target = LmSettings(**settings(tiny_base, tmp_path / "whole", save_every=3))
    whole = fit_lm([str(rows_file)], Reading(), target)

    def breaking_off(*arguments):
        for step in train_mle(*arguments):
            yield step
            if step.number == 4:
                raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train_mle", breaking_off)
        with pytest.raises(OSError, match="the power went"):
            fit_lm([str(rows_file)], Reading(), replace(target, out=str(tmp_path / "broken")))
    saved = torch.load(tmp_path / "broken" / "train_state.pt", weights_only=True)
    assert (saved["step"], set(saved["modules"]["generator"])) == (3, set(load_file(whole / "model.safetensors")))
    resumed = fit_lm([str(rows_file)], Reading(), replace(target, out=str(tmp_path / "broken")), resuming=True)
    found = load_file(resumed / "model.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in load_file(whole / "model.safetensors").items())


def test_an_adapter_is_trained_further_on_other_rows(adapter, rows_file, tmp_path):
    """With its base, its labels and its updates; the checkpoint that it began with stays."""
    before = load_file(adapter / "model.safetensors")
    further = LmSettings(init=str(adapter), out=str(tmp_path / "further"), steps=3, device="cpu", precision="float32")
    folder = fit_lm([str(rows_file)], Reading(), further)
    after = load_file(folder / "model.safetensors")
    assert set(before) == set(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (
        json.loads((folder / "config.json").read_text())["model"] == json.loads((adapter / "config.json").read_text())["model"]
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(adapter / "model.safetensors").items())
    vae = fit_vae(
        [str(rows_file)], Reading(), VaeSettings(out=str(tmp_path / "vae"), steps=1, width=16, latent=2, device="cpu")
    )
    with pytest.raises(CheckpointError, match="is a vae; --init of train-lm takes what train-lm or -gan made"):
        fit_lm([str(rows_file)], Reading(), replace(further, init=str(vae), out=str(tmp_path / "other")))


def test_all_weights_can_be_trained(tiny_base, rows_file, tmp_path):
    folder = fit_lm([str(rows_file)], Reading(), LmSettings(**settings(tiny_base, tmp_path / "lm", lora_rank=0)))
    tensors = load_file(folder / "model.safetensors")
    assert {"embedding.weight", "backbone.decoder.norm.weight", "inject.weight"} <= set(tensors)
    assert load(folder).sample("joy", seed=1)


def test_another_or_missing_base_is_refused(adapter, tiny_base, tmp_path):
    path = adapter / "config.json"
    content = json.loads(path.read_text())
    content["model"]["adapter"]["revision"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"was trained on revision 000000000000 of .*put back the base"):
        load(adapter)
    content["model"]["adapter"]["base"] = str(tmp_path / "gone")
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="gone"):
        load(adapter)


def test_an_adapter_that_ships_is_taken_where_its_base_is_at_hand(adapter, tiny_checkpoint, monkeypatch):
    folders = {"default": tiny_checkpoint, checkpoint.ADAPTER: adapter}
    monkeypatch.setattr(finding, "shipped_folder", folders.get)
    assert (finding.best_shipped(), finding.better_than(adapter)) == (adapter, "")
    path = adapter / "config.json"
    content = json.loads(path.read_text())
    content["model"]["adapter"]["base"] = "smollm2"
    path.write_text(json.dumps(content))
    assert (finding.best_shipped(), finding.better_than(tiny_checkpoint)) == (tiny_checkpoint, "emogen pull smollm2")


def test_rows_longer_than_the_base_reads_are_refused(tiny_base, rows_file, tmp_path):
    target = LmSettings(**settings(tiny_base, tmp_path / "lm", context_tokens=80))
    with pytest.raises(
        SettingsError, match=r"--context-tokens 80 and --reply-tokens 40: .* reads 96 tokens at most, 2 of them soft"
    ):
        fit_lm([str(rows_file)], Reading(), target)
    assert not (tmp_path / "lm").exists()


def test_replies_longer_than_the_base_reads_are_refused(adapter):
    options = SamplingParams(max_tokens=90)
    with pytest.raises(SettingsError, match=r"--max-tokens 90 behind \d+ tokens of context: the model reads 94; lower it"):
        load(adapter).sample("joy", context="Day 3 was awful.", sampling=options)


def test_a_vae_and_adversaries_have_it_as_generator(adapter, tiny_base, rows_file, tmp_path):
    """Both train, load and write; in adversarial training the base stays what it was."""
    sizes = settings(tiny_base, tmp_path / "vae", steps=3, latent=4)
    vae = fit_vae([str(rows_file)], Reading(), VaeSettings(**sizes))
    assert load(vae).sample("sadness", seed=2)
    sizes = {"steps": 3, "warmup_steps": 1, "batch_size": 4, "samples": 2, "rollouts": 1, "max_tokens": 6}
    gan = GanSettings(
        init=str(adapter), out=str(tmp_path / "gan"), discriminator_width=16, device="cpu", precision="float32", **sizes
    )
    trained = fit_gan([str(rows_file)], Reading(), gan, VaeSettings())
    before, after = load_file(adapter / "model.safetensors"), load_file(trained / "model.safetensors")
    assert set(before) == set(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert load(trained).sample("joy", seed=2)


def test_no_emotion_has_a_vector_of_its_own(adapter):
    model = load(adapter, full_precision=True)
    assert model.emotion(None) == no_emotion(model.labels)
    assert model.sample(None, seed=4) != model.sample("joy", seed=4)
