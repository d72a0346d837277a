"""Control in Transformers: every formula against one pass over the whole text, rows of a batch against rows alone."""

import json
from functools import partial

import pytest
import torch
from conftest import CHATML, save_small_tokenizer

from emogen.checkpoint.folder import describe, save_head, save_model
from emogen.checkpoint.model import load
from emogen.data.batches import Limits
from emogen.decoding import controllers
from emogen.decoding.calibration import Calibration, write_calibration
from emogen.decoding.control import Control, parse_control
from emogen.decoding.params import SamplingParams
from emogen.emotions.labels import EKMAN, LabelSet, parse_emotion
from emogen.errors import SettingsError
from emogen.hub.logits_processors import EmotionLogitsProcessor, emotions_of, express, generate_with_emotion, words_beside
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.head import head_of
from emogen.text.tokenizer import BOS, EOS, train_tokenizer

CONTROLS = ["none", "guidance:2.5", "guidance:0", "expert:1.5", "bayes:2", "guidance:2,expert:0.5,bayes:1"]
LABELS = LabelSet(("fear", "joy", "neutral", "sadness"))
NO_NEUTRAL = LabelSet(("fear", "joy"))
TEXTS = ["Day 3 was", "we won. Day 4 was great, I", "was", "Day 5"]
ASKED = ["joy", "fear=0.4,sadness=0.6", None, parse_emotion("neutral", LABELS, 0.3)]
STEPS = 6


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("words")
    save_small_tokenizer(folder, CHATML)
    found = AutoTokenizer.from_pretrained(folder)
    found.pad_token, found.padding_side = found.eos_token, "left"
    return found


def small(kind):
    """A model of two layers with random weights, large enough that its choices are clear."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "max_position_embeddings": 96, "initializer_range": 0.4, "vocab_size": 320}
    torch.manual_seed(3)
    if kind == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 96, "vocab_size": 320, "initializer_range": 0.4}
        return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).eval()
    config, model = (LlamaConfig, LlamaForCausalLM) if kind == "llama" else (Qwen2Config, Qwen2ForCausalLM)
    return model(config(**sizes, **more, bos_token_id=1, eos_token_id=2)).eval()


@pytest.fixture(scope="module")
def model(request):
    return small(request.param)


MODELS = pytest.mark.parametrize("model", ["gpt2", "llama", "qwen2"], indirect=True)
GPT2 = pytest.mark.parametrize("model", ["gpt2"], indirect=True)


def rows_of(tokenizer, texts=TEXTS):
    return tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False)


def write(model, tokenizer, texts=TEXTS, streamer=None, instruction=express, **options):
    """Generates by the callable, to the last step unless told otherwise."""
    bound = partial(generate_with_emotion, tokenizer=tokenizer, streamer=streamer, instruction=instruction, labels=LABELS)
    settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 2} | options
    return model.generate(**rows_of(tokenizer, texts), streamer=streamer, custom_generate=bound, **settings)


def plain(model, rows, **options):
    settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 2} | options
    return model.generate(**rows, **settings)


def scored(model, tokenizer, prompt, written, emotion, control, labels=LABELS, instruction=express):
    """What the docstrings say, from whole texts of one row: scores [written, vocabulary] before each token."""

    def under(name):
        words = tokenizer(instruction(name), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            found = model(torch.tensor([[*words, *prompt, *written]])).logits[0].double().log_softmax(-1)
        return found[-len(written) - 1 : -1]

    each, none, strength = torch.stack([under(name) for name in labels.names]), under(None), emotion.strength
    share = torch.tensor(emotion.weights).double()
    target = (1 - strength) * none + strength * torch.einsum("e,etv->tv", share, each)
    neutral = each[labels.position("neutral")] if "neutral" in labels else none
    moved = none + control.guidance * (target - none) if strength else none
    moved = moved + control.expert * strength * (target - neutral)
    chosen = each.gather(2, torch.tensor(written)[None, :, None].expand(len(each), -1, 1)).squeeze(2)
    before = chosen.cumsum(1) - chosen
    posterior = (each + before[..., None]).softmax(0).clamp(min=1e-300).log()
    moved = moved + control.bayes * strength * torch.einsum("e,etv->tv", share, posterior)
    return moved.log_softmax(-1)


def prompts_of(tokenizer, texts=TEXTS):
    return [tokenizer(text)["input_ids"] for text in texts]


# ---- the formulas


@MODELS
@pytest.mark.parametrize("cached", [True, False])
def test_scores_are_those_of_one_pass(model, tokenizer, cached):
    """Of every row of a batch with prompts, emotions and strengths of their own, each controller and several at once."""
    length = rows_of(tokenizer)["input_ids"].shape[1]
    texts = []
    for control in CONTROLS if cached else CONTROLS[-1:]:
        options = {"output_scores": True, "return_dict_in_generate": True, "use_cache": cached}
        found = write(model, tokenizer, emotion=ASKED, strength=0.8, control=control, **options)
        scores = torch.stack(found.scores, 1).double().log_softmax(-1)
        written = found.sequences[:, length:].tolist()
        texts.append(str(written))
        for row, (prompt, target) in enumerate(zip(prompts_of(tokenizer), ASKED, strict=True)):
            (emotion,) = emotions_of(target, LABELS, 0.8)
            expected = scored(model, tokenizer, prompt, written[row], emotion, parse_control(control))
            torch.testing.assert_close(scores[row], expected, atol=2e-3, rtol=1e-4)
            assert written[row] == expected.argmax(-1).tolist()
    assert len(set(texts)) > 3 or not cached


@GPT2
def test_sampled_rows_and_many_for_each_prompt(model, tokenizer):
    """Drawn tokens are looked at as chosen ones are; without a neutral label expert takes no emotion, which may have words."""
    control, length = "expert:0.7,bayes:1.5,guidance:1.5", rows_of(tokenizer)["input_ids"].shape[1]
    settings = {"output_scores": True, "return_dict_in_generate": True, "do_sample": True, "top_k": 0}

    def say(name):
        return f"I am {name or 'calm'}! "

    def found():
        torch.manual_seed(5)
        options = {"emotion": ["joy", "fear=0.5,joy=0.5"] * 2, "labels": NO_NEUTRAL, "control": control}
        bound = partial(generate_with_emotion, tokenizer=tokenizer, instruction=say)
        more = {"max_new_tokens": STEPS, "num_return_sequences": 2, "eos_token_id": None, "pad_token_id": 2}
        return model.generate(**rows_of(tokenizer), custom_generate=bound, **options, **settings, **more)

    one = found()
    assert torch.equal(one.sequences, found().sequences)
    scores, written = torch.stack(one.scores, 1).double().log_softmax(-1), one.sequences[:, length:].tolist()
    assert written[0] != written[1]
    for row, text in enumerate(written):
        (emotion,) = emotions_of(["joy", "fear=0.5,joy=0.5"][row // 2 % 2], NO_NEUTRAL)
        prompt = prompts_of(tokenizer)[row // 2]
        expected = scored(model, tokenizer, prompt, text, emotion, parse_control(control), NO_NEUTRAL, say)
        torch.testing.assert_close(scores[row], expected, atol=2e-3, rtol=1e-4)


@MODELS
@pytest.mark.parametrize("control", CONTROLS)
def test_a_row_of_a_batch_is_as_alone(model, tokenizer, control):
    """Token for token."""
    together = write(model, tokenizer, emotion=ASKED, strength=0.8, control=control)
    for row, (text, target) in enumerate(zip(TEXTS, ASKED, strict=True)):
        alone = write(model, tokenizer, [text], emotion=target, strength=0.8, control=control)
        assert together[row, -STEPS:].tolist() == alone[0, -STEPS:].tolist()


@MODELS
def test_no_emotion_is_plain_and_guidance_1_is_the_instruction_alone(model, tokenizer):
    """Also with Transformers' own penalty, which comes after ours."""
    for options in ({}, {"repetition_penalty": 1.7}, {"num_beams": 3, "num_return_sequences": 2}):
        rows = rows_of(tokenizer)
        for nothing in ({"emotion": None}, {"emotion": "joy", "strength": 0.0, "control": "guidance:3,expert:2,bayes:1"}):
            assert torch.equal(write(model, tokenizer, **nothing, **options), plain(model, rows, **options))
        behind = rows_of(tokenizer, [express("joy") + text for text in TEXTS])
        target = write(model, tokenizer, emotion="joy", control="guidance:1", **options)
        if "repetition_penalty" not in options:  # It counts the words of the instruction, too.
            assert target[:, -STEPS:].tolist() == plain(model, behind, **options)[:, -STEPS:].tolist()
        assert target.tolist() != plain(model, rows, **options).tolist()


@GPT2
@pytest.mark.parametrize("control", ["guidance:2.5", "guidance:2,expert:0.5,bayes:1"])
def test_beams_keep_their_company(model, tokenizer, control):
    """The score of each sequence is the mean of what one pass over it gives; nothing depends on what is remembered."""
    options = {"num_beams": 3, "num_return_sequences": 2, "emotion": ASKED, "control": control, "strength": 0.8}
    found = write(model, tokenizer, return_dict_in_generate=True, output_scores=True, **options)
    assert torch.equal(found.sequences, write(model, tokenizer, use_cache=False, **options))
    for row, text in enumerate(found.sequences[:, -STEPS:].tolist()):
        (emotion,) = emotions_of(ASKED[row // 2], LABELS, 0.8)
        scores = scored(model, tokenizer, prompts_of(tokenizer)[row // 2], text, emotion, parse_control(control))
        mean = scores[range(STEPS), text].mean().item()
        assert found.sequences_scores[row].item() == pytest.approx(mean, abs=1e-3)


# ---- what else `generate` does


@GPT2
def test_ends_streams_and_further_processors(model, tokenizer):
    from transformers import LogitsProcessor, TextIteratorStreamer

    class Never(LogitsProcessor):
        first = None

        def __call__(self, input_ids, scores):
            self.first = scores if self.first is None else self.first
            scores = scores.clone()
            scores[:, banned] = -torch.inf
            return scores

    options = {"emotion": ASKED, "control": "guidance:2,bayes:1", "strength": 0.8}
    free = write(model, tokenizer, **options)[:, -STEPS:]
    banned = end = int(free[0, 2])
    ended = write(model, tokenizer, eos_token_id=end, **options)[:, -STEPS:].tolist()
    for row, text in enumerate(free.tolist()):
        assert ended[row] == ((text[: text.index(end) + 1] + [2] * STEPS)[:STEPS] if end in text else text)
    for other in (
        write(model, tokenizer, logits_processor=[Never()], **options),
        write(model, tokenizer, suppress_tokens=[end], **options),
    ):
        assert end not in other[:, -STEPS:]
        assert other[0, -STEPS : -STEPS + 2].tolist() == free[0, :2].tolist()
    # What comes behind ours sees moved scores, and moves them further itself.
    last, scores = Never(), {"output_scores": True, "return_dict_in_generate": True, "repetition_penalty": 1.7}
    write(model, tokenizer, logits_processor=[last], **options)
    penalised = write(model, tokenizer, **scores, **options).scores[0]
    ids = rows_of(tokenizer)["input_ids"][1]
    lowered = torch.where(last.first[1] < 0, last.first[1] * 1.7, last.first[1] / 1.7)[ids]
    torch.testing.assert_close(penalised[1, ids], lowered)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    found = write(model, tokenizer, TEXTS[:1], streamer=streamer, emotion="joy", control="guidance:2")
    assert "".join(streamer) == tokenizer.decode(found[0, -STEPS:])


@GPT2
def test_the_processor_alone(model, tokenizer):
    """Serves one call after the other, and leaves tokens that are out of reach there."""
    rows, emotions = rows_of(tokenizer), emotions_of(ASKED, LABELS, 0.8)
    beside = words_beside(tokenizer, **rows, emotions=emotions, control="guidance:2,bayes:1")
    ours = EmotionLogitsProcessor(model, beside)
    expected = write(model, tokenizer, emotion=ASKED, control="guidance:2,bayes:1", strength=0.8)
    for _ in range(2):
        assert torch.equal(plain(model, rows, logits_processor=[ours]), expected)
    banned = int(expected[0, -1])
    assert banned not in plain(model, rows, logits_processor=[ours], suppress_tokens=[banned])[:, -STEPS:]
    with pytest.raises(SettingsError, match=r"^8 rows are written, 4 have company; repeat each prompt"):
        plain(model, rows, logits_processor=[ours], num_beams=2)
    with pytest.raises(SettingsError, match="these texts do not go on from those before"):
        ours(torch.full((4, beside.prompt + 1), 7), torch.zeros(4, 320))


@GPT2
def test_words_stand_behind_the_begin_token(model, tokenizer):
    """Which neither the words nor the row repeat; a chat's system turn stands in front of the user's."""
    tokenizer.bos_token = "<|im_start|>"
    try:
        begin, beside = tokenizer.bos_token_id, None
        rows = torch.tensor([[begin, 40, 41], [50, 51, 52]])
        beside = words_beside(
            tokenizer, rows, emotions=emotions_of("joy", rows=2), instruction=lambda name: "<|im_start|>a" if name else ""
        )
    finally:
        tokenizer.bos_token = None
    (a,) = tokenizer("a")["input_ids"]
    assert beside.tokens.tolist() == [[begin, a, 40, 41], [a, 50, 51, 52]]

    def turn(name):
        said = [{"role": "system", "content": f"Express {name}."}]
        return tokenizer.apply_chat_template(said, tokenize=False) if name else ""

    user = [{"role": "user", "content": "we won"}]
    text = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Express joy."}, *user], tokenize=False, add_generation_prompt=True
    )
    found = write(model, tokenizer, [text], instruction=turn, emotion="joy")
    assert found[0, -STEPS:].tolist() == plain(model, rows_of(tokenizer, [whole]))[0, -STEPS:].tolist()


@GPT2
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"emotion": "hunger"}, "emotion 'hunger' is not one of fear, joy, neutral, sadness"),
        ({"emotion": ["joy", "fear"]}, "2 emotions for 4 rows; give one, or one for each row"),
        ({"emotion": parse_emotion("joy", EKMAN)}, "is over other labels than the model's: fear, joy, neutral, sadness"),
        ({"emotion": "joy", "strength": 2.0}, "strength 2 is not between 0 and 1"),
        ({"emotion": "joy", "control": "push:2"}, "'push' is not one of guidance, expert, bayes, head, rerank, mbr, none"),
        ({"emotion": "joy", "control": "head:1"}, "control head:1: a head reads the states of the emogen model .*; for other"),
        ({"emotion": "joy", "control": "rerank:4"}, "control rerank:4: rerank chooses among whole texts, .*; ask for num_ret"),
        ({"emotion": "joy", "control": "mbr:4"}, "control mbr:4: mbr chooses among whole texts, .*; ask for num_return"),
        ({"emotion": "joy", "prompt_lookup_num_tokens": 2}, "decodes greedily, by sampling, or with beams"),
        ({"emotion": "joy", "max_new_tokens": 90}, "are longer than the 96 tokens that the model reads; shorten them"),
    ],
)
def test_what_cannot_be(model, tokenizer, options, message):
    with pytest.raises(SettingsError, match=message) as caught:
        write(model, tokenizer, **options)
    assert "\n" not in str(caught.value)


@GPT2
def test_what_transformers_keeps_from_callables_is_asked_for(model, tokenizer):
    rows = rows_of(tokenizer)
    with pytest.raises(SettingsError, match=r"has no tokenizer, .*; pass custom_generate=functools.partial\("):
        model.generate(
            **rows, custom_generate=generate_with_emotion, emotion="joy", tokenizer=tokenizer, max_new_tokens=2, pad_token_id=2
        )
    with pytest.raises(SettingsError, match="an attention_mask of the same shape"):
        words_beside(tokenizer, rows["input_ids"][:, 1:], rows["attention_mask"], emotions=emotions_of("joy", rows=4))


# ---- our own models


OWN = train_tokenizer(["so happy today", "the dog ran home", "we lost it"] * 20)
CONTEXTS = ["the dog", "", "we lost it today, so", "home"]
OWN_CONTROLS = ["none", "guidance:2.5", "expert:1.5", "bayes:1.5", "head:2", "head:0.7,guidance:2,expert:0.5,bayes:0.5"]


@pytest.fixture(scope="module", params=["lstm", "transformer"])
def folder(request, tmp_path_factory):
    """A checkpoint with a head, which Transformers reads, too; read only."""
    return own_folder(tmp_path_factory.mktemp(request.param) / "lm", request.param)


def taught(model):
    """Half taught to say words of its own for each context and condition: its choices hang together, and are not all clear."""
    prompts = [OWN.prefix([text] if text else [], 6) for text in CONTEXTS]
    conditions = torch.eye(model.config.emotions + 1)
    pairs = [(prompt, conditioning) for prompt in prompts for conditioning in conditions]
    rows = [(*prompt, *torch.randint(5, OWN.vocabulary, (3 + n % 5,)).tolist(), EOS) for n, (prompt, _) in enumerate(pairs)]
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    counted = (tokens == BOS).cumsum(1) - (tokens == BOS).long() > 0
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(25):
        scores = model.logits(model(tokens[:, :-1], torch.stack([conditioning for _, conditioning in pairs])))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(scores[counted[:, 1:]], tokens[:, 1:][counted[:, 1:]]).backward()
        optimizer.step()
    return model.eval()


def own_folder(folder, backbone, labels=LABELS):
    torch.manual_seed(1)
    model = taught(Generator(GeneratorConfig(OWN.vocabulary, len(labels), backbone, width=16, layers=2, heads=2)))
    save_model(folder, describe(model, labels, Limits(context_tokens=6, reply_tokens=9)), model)
    OWN.save(folder / "tokenizer.model")
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({"model_type": "emogen", **content}), encoding="utf-8")
    head = head_of(model, 3)
    torch.nn.init.normal_(head.up, std=0.5)
    torch.nn.init.normal_(head.bias)
    save_head(folder, head)
    return folder


def opened(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def replies(tokens, start):
    rows = (row[start:].tolist() for row in tokens)
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


def test_replies_are_those_of_emogen(folder, monkeypatch):
    """Token for token, where each row has its context, emotion and strength; by option and by callable; cached and not.

    With all labels to the end, as Transformers has them.
    """
    monkeypatch.setattr(controllers, "_ODDS", 0.0)
    (model, tokenizer), ours = opened(folder), load(folder)
    rows = tokenizer(CONTEXTS, padding=True, return_tensors="pt")
    contexts = [[text] if text else [] for text in CONTEXTS]
    target = emotions_of(ASKED, LABELS, 0.8)
    seen = set()
    for control in OWN_CONTROLS:
        sampling = SamplingParams(temperature=0, max_tokens=10, control=parse_control(control))
        expected = ours.replies(contexts, target, sampling=sampling)
        seen.add(tuple(one.text for one in expected))
        callable_ = {"custom_generate": generate_with_emotion, "tokenizer": tokenizer}
        for options in ({}, {"use_cache": False}, callable_):
            found = model.generate(**rows, emotion=ASKED, strength=0.8, control=control, do_sample=False, **options)
            written = replies(found, rows["input_ids"].shape[1])
            assert [tokenizer.decode(row, skip_special_tokens=True).strip() for row in written] == [
                one.text for one in expected
            ]
            assert [len(row) for row in written] == [one.tokens for one in expected]
    assert len(seen) > 3


def test_own_beams_draws_and_begun_replies(folder):
    """The same with and without what is remembered; the callable repeats emotions for beams, too."""
    model, tokenizer = opened(folder)
    rows = tokenizer(CONTEXTS, padding=True, return_tensors="pt")
    options = {"emotion": ASKED, "control": OWN_CONTROLS[-1], "strength": 0.8}
    beams = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    found = model.generate(**rows, **options, **beams)
    assert torch.equal(found, model.generate(**rows, **options, **beams, use_cache=False))
    assert torch.equal(found, model.generate(**rows, **options, **beams, custom_generate=generate_with_emotion))
    begun = torch.cat([rows["input_ids"], torch.tensor([[30, 31]] * 4)], 1)
    steps = [model.generate(begun, **options, do_sample=False, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*steps)
    draws = []
    for cached in (True, False):
        torch.manual_seed(2)
        draws.append(model.generate(**rows, **options, do_sample=True, num_return_sequences=2, use_cache=cached))
    assert torch.equal(*draws)
    conditions = torch.tensor([emotion.condition for emotion in emotions_of(ASKED, LABELS, 0.8)])
    for row in (model.generate(**rows, emotion=conditions, control=options["control"], do_sample=False),):
        assert torch.equal(row, model.generate(**rows, **options, do_sample=False))


def test_calibration_beside_the_weights_is_heeded(tmp_path):
    """As by emogen itself: under the control that it was measured with, and for no other."""
    folder = own_folder(tmp_path / "lm", "lstm", NO_NEUTRAL)
    known = Calibration(NO_NEUTRAL, Control(guidance=2.0), ((0.0, 0.2, 0.3), (0.0, 0.1, 0.9)), 2.0, (0.0, 1.0), "by hand")
    write_calibration(folder, known)
    (model, tokenizer), ours = opened(folder), load(folder)
    for control in ("guidance:2", "guidance:3", "expert:2,bayes:0.5"):
        options = {"emotion": "fear=0.5,joy=0.5", "do_sample": False}
        (written,) = replies(model.generate(**options, control=control), 1)
        (expected,) = ours.sample(
            "fear=0.5,joy=0.5", sampling=SamplingParams(temperature=0, max_tokens=10, control=parse_control(control))
        )
        assert tokenizer.decode(written, skip_special_tokens=True).strip() == expected.text
    plain_control = model.generate(emotion=parse_emotion("joy", NO_NEUTRAL), control="guidance:2", do_sample=False)
    conditioning = model.generate(
        emotion=torch.tensor([known.conditioning_for(parse_emotion("joy", NO_NEUTRAL)).condition]),
        control="guidance:2",
        do_sample=False,
    )
    assert torch.equal(plain_control, conditioning)


def test_what_our_own_models_cannot_serve(folder, tmp_path):
    model, _ = opened(folder)
    with pytest.raises(SettingsError, match="rerank chooses among whole texts"):
        model.generate(emotion="joy", control="rerank:2")
    bare = own_folder(tmp_path / "bare", "lstm")
    (bare / "head.safetensors").unlink()
    with pytest.raises(SettingsError, match=r"^control head: .* has no emotion head; `emogen train-head") as caught:
        opened(bare)[0].generate(emotion="joy", control="head:1")
    assert "\n" not in str(caught.value)
    assert opened(bare)[0].generate(emotion="joy", control="guidance:2", max_new_tokens=2)[0, 0] == BOS
