"""Prompts to texts: each row its own, candidates chosen by a guide, and pieces of text as they are written."""

import itertools

import numpy as np
import pytest
import torch
from sacrebleu.metrics import CHRF

from emogen.decoding import texts
from emogen.decoding.control import Control
from emogen.decoding.loop import DecodingStep, PromptBatch, generate
from emogen.decoding.params import SamplingParams
from emogen.decoding.random_streams import fold_in, row_normals, row_uniforms
from emogen.decoding.sampler import build_sampler
from emogen.decoding.texts import Prompt, TextGenerator, sample, stream
from emogen.emotions.labels import EKMAN, no_emotion, parse_emotion
from emogen.errors import SettingsError
from emogen.models.generator import Generator, GeneratorConfig
from emogen.text.tokenizer import BOS, EOS, PAD, TURN, train_tokenizer
from emogen.text.words import words

TOKENIZER = train_tokenizer(["so happy today", "the dog ran home", "we lost it"] * 20)
JOY = parse_emotion("joy", EKMAN)
FEAR = parse_emotion("fear", EKMAN)
BACKBONES = pytest.mark.parametrize("backbone", ["lstm", "transformer"])


def generator(backbone="lstm", latent=2, prior="standard"):
    torch.manual_seed(1)
    config = GeneratorConfig(TOKENIZER.vocabulary, 7, backbone, width=16, layers=2, latent=latent, dropout=0.5, prior=prior)
    model = Generator(config)
    torch.nn.init.normal_(model.inject.weight)
    model.bias.data[EOS] = 4.0
    return model.eval()


def writer(backbone="lstm", latent=2, guide=None):
    return TextGenerator(generator(backbone, latent), TOKENIZER, guide=guide)


def replies(model, emotion=JOY, prefix=(BOS,), latent=None, **options):
    return list(
        sample(
            TextGenerator(model, TOKENIZER), [Prompt(prefix, emotion)], SamplingParams(**{"max_tokens": 8} | options), latent
        )
    )


@BACKBONES
def test_same_seed_same_text(backbone):
    """Also from a generator in training mode; another seed gives other texts."""
    model = generator(backbone)
    first = replies(model, n=4, seed=7)
    model.train()
    assert replies(model, n=4, seed=7) == first
    assert replies(model, n=4, seed=8) != first


@BACKBONES
def test_more_samples_begin_with_the_fewer(backbone):
    """The first two of five are the two of two."""
    model = generator(backbone)
    five, two = replies(model, n=5), replies(model, n=2)
    assert [found.text for found in five[:2]] == [found.text for found in two]
    assert [found.log_probability for found in five[:2]] == pytest.approx([found.log_probability for found in two], abs=1e-4)
    assert len({found.text for found in five}) > 1


def test_what_a_sample_says_of_itself():
    """Emotion, number of tokens, whether it ended, and the log probability of its text."""
    model = generator()
    found = replies(model, parse_emotion("joy=0.7,fear=0.3", EKMAN), n=50, max_tokens=6)
    assert {one.emotion for one in found} == {"fear=0.3,joy=0.7"}
    assert {one.finished for one in found} == {True, False}
    assert all(one.tokens == 6 for one in found if not one.finished)
    assert all(one.log_probability < 0 for one in found)
    normals, uniforms = row_normals([fold_in(0, 0)], 2), row_uniforms([fold_in(0, 0)], 6)
    condition = torch.cat([torch.tensor(parse_emotion("joy=0.7,fear=0.3", EKMAN).condition), normals[0]])
    row = generate(
        model,
        PromptBatch(torch.tensor([[BOS]]), torch.tensor([1]), condition[None]),
        6,
        build_sampler(SamplingParams(), uniforms),
    )
    assert found[0].text == TOKENIZER.decode(row.tokens[0].tolist()).strip()
    assert found[0].log_probability == pytest.approx(float(row.log_probs.sum()), abs=1e-4)
    assert replies(model, no_emotion(EKMAN))[0].emotion == "none"


@BACKBONES
def test_prompts_of_one_call_keep_their_own(backbone):
    """Context and emotion, in order, n replies each; greedy replies are those of one prompt a call."""
    model = generator(backbone)
    model.bias.data[EOS] = 0.0
    prompts = [
        Prompt([BOS], JOY),
        Prompt([270, 271, TURN, BOS], FEAR),
        Prompt([265, TURN, BOS], parse_emotion("anger", EKMAN)),
    ]
    options = SamplingParams(n=2, temperature=0, max_tokens=8)
    latent = torch.linspace(-2, 2, 12).view(6, 2)
    found = list(sample(TextGenerator(model, TOKENIZER), prompts, options, latent))
    assert [one.emotion for one in found] == ["joy", "joy", "fear", "fear", "anger", "anger"]
    assert len({round(one.log_probability, 3) for one in found}) == 6
    for number, prompt in enumerate(prompts):
        two = slice(2 * number, 2 * number + 2)
        alone = sample(TextGenerator(model, TOKENIZER), [prompt], options, latent[two])
        for one, other in zip(alone, found[two], strict=True):
            assert one.text == other.text
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


@BACKBONES
@pytest.mark.parametrize("bound", ["_ROWS", "_SCORES"])
def test_rows_at_once_change_no_text(backbone, bound, monkeypatch):
    """Seven rows at once, or three at a time: each keeps its own random numbers and latent, drawn or given."""
    model = generator(backbone)
    steered = Control(guidance=3.0, bayes=1.0)
    few = {"_ROWS": 3, "_SCORES": 3 * 10 * TOKENIZER.vocabulary}[bound]
    for latent, control in itertools.product((None, torch.randn(7, 2) * 3), (Control(), steered)):
        whole = [one.text for one in replies(model, n=7, latent=latent, control=control)]
        with monkeypatch.context() as patch:
            patch.setattr(texts, bound, few)
            assert [one.text for one in replies(model, n=7, latent=latent, control=control)] == whole
        assert len(set(whole)) > 1


def test_a_given_latent_is_taken():
    """The drawn one, given, changes nothing; another one does."""
    model = generator()
    drawn = row_normals([fold_in(0, row) for row in range(3)], 2)
    assert replies(model, n=3, latent=drawn) == replies(model, n=3)
    assert replies(model, n=3, latent=drawn + 2) != replies(model, n=3)


def test_latents_are_drawn_from_the_models_own_prior():
    """Where each emotion has a prior of its own, the noise is moved and scaled as its mean and variance say."""
    model = generator(prior="emotion")
    torch.nn.init.normal_(model.prior_map.weight)
    noise = row_normals([fold_in(0, row) for row in range(3)], 2)
    for emotion in (JOY, parse_emotion("joy=0.5,fear=0.5", EKMAN, 0.5)):
        with torch.no_grad():
            mean, log_variance = model.prior_map(torch.tensor([emotion.condition])).chunk(2, -1)
        moved = mean + noise * (log_variance / 2).exp()
        own, given, raw = (replies(model, emotion, n=3, latent=latent) for latent in (None, moved, noise))
        for one, other, third in zip(own, given, raw, strict=True):
            assert one.text == other.text
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
            assert abs(one.log_probability - third.log_probability) > 1e-3


@BACKBONES
def test_a_prompt_with_a_seed_depends_on_no_other(backbone):
    """Its replies are those of a call for it alone, wherever it stands; without a seed they go by its place."""
    made = writer(backbone)
    one, other = Prompt([BOS], JOY, seed=5), Prompt([270, TURN, BOS], FEAR, seed=6)
    options = SamplingParams(n=2, max_tokens=8)
    alone = [[found.text for found in sample(made, [prompt], options)] for prompt in (one, other)]
    assert [found.text for found in sample(made, [other, one], options)] == alone[1] + alone[0]
    assert [found.text for found in sample(made, [one], SamplingParams(n=2, max_tokens=8, seed=9))] == alone[0]
    twins = [found.text for found in sample(made, [Prompt([BOS], JOY)] * 4, SamplingParams(max_tokens=8))]
    assert len(set(twins)) > 1
    assert [found.text for found in sample(made, [one, one], options)] == alone[0] * 2


def test_what_the_model_is_told_stands_for_what_is_asked():
    """The text is that of the other emotion, the name remains."""
    conditioning = next(sample(writer(), [Prompt([BOS], JOY, conditioning=FEAR, seed=1)], SamplingParams(max_tokens=8)))
    assert conditioning.emotion == "joy"
    assert conditioning.text == next(sample(writer(), [Prompt([BOS], FEAR, seed=1)], SamplingParams(max_tokens=8))).text


def test_no_prompts_no_texts():
    assert list(sample(writer(), [], SamplingParams())) == []
    assert list(stream(writer(), [], SamplingParams())) == []


def test_a_prompt_has_its_own_control():
    """It takes the place of that of the options, in both directions."""
    made, two = writer(), Control(guidance=2.5)
    plain, steered = ([Prompt([BOS], JOY, control=control, seed=1)] for control in (Control(), two))
    expected = {
        control: next(sample(made, [Prompt([BOS], JOY, seed=1)], SamplingParams(max_tokens=8, control=control))).text
        for control in (Control(), two)
    }
    assert expected[Control()] != expected[two]
    for prompts, control in ((plain, Control()), (steered, two)):
        for others in (Control(), two, Control(guidance=9.0)):
            assert next(sample(made, prompts, SamplingParams(max_tokens=8, control=others))).text == expected[control]


# ---- candidates


class Guide:
    """Probabilities that depend on the text alone; remembers what it was asked."""

    def __init__(self):
        self.target = []

    def __call__(self, found):
        self.target.append(list(found))
        raw = [[(hash_of(text) >> (4 * label)) % 16 + 1.0 for label in range(7)] for text in found]
        return np.array(raw) / np.sum(raw, 1, keepdims=True)


def hash_of(text):
    return sum(ord(sign) * 7919 ** (place + 1) for place, sign in enumerate(text)) % (1 << 28)


def divergence(found, mixture):
    """Kullback-Leibler divergence of probabilities from a mixture."""
    return sum(share * np.log(share / p) for share, p in zip(mixture, found, strict=True) if share)


@pytest.mark.parametrize("target", ["joy", "joy=0.5,fear=0.5", "anger=0.2,sadness=0.8"])
def test_the_candidate_nearest_to_the_emotion_is_kept(target):
    """Nearest by divergence, in an exhaustive search over all candidates; these differ, and begin with the text of one."""
    guide, emotion = Guide(), parse_emotion(target, EKMAN)
    prompts = [Prompt([BOS], emotion), Prompt([270, TURN, BOS], emotion)]
    options = SamplingParams(n=3, max_tokens=8, control=Control(rerank=5))
    found = [one.text for one in sample(writer(guide=guide), prompts, options)]
    (candidates,) = guide.target
    assert len(candidates) == 6 * 5
    assert candidates[::5] == [one.text for one in sample(writer(), prompts, SamplingParams(n=3, max_tokens=8))]
    for row, text in enumerate(found):
        own = candidates[5 * row : 5 * row + 5]
        assert text == min(own, key=lambda one: divergence(Guide()([one])[0], emotion.weights))
    assert len(set(candidates)) > 20
    assert found != candidates[::5]


@pytest.mark.parametrize(("strength", "allowed"), [(0.0, 1), (0.25, 2), (0.5, 3), (1.0, 5)])
def test_a_weaker_emotion_chooses_among_fewer(strength, allowed):
    guide, emotion = Guide(), parse_emotion("joy", EKMAN, strength)
    options = SamplingParams(n=8, max_tokens=8, control=Control(rerank=5))
    found = [one.text for one in sample(writer(guide=guide), [Prompt([BOS], emotion)], options)]
    (candidates,) = guide.target
    for row, text in enumerate(found):
        own = candidates[5 * row : 5 * row + allowed]
        assert text == max(own, key=lambda one: Guide()([one])[0][3])


def test_rows_rerank_as_many_as_each_asks_for(monkeypatch):
    """Those that ask for none beside them keep their first; few rows at once change nothing."""
    prompts = [Prompt([BOS], JOY, control=Control(rerank=count), seed=count) for count in (1, 4, 2, 1, 3)]
    found = [one.text for one in sample(writer(guide=Guide()), prompts, SamplingParams(max_tokens=8))]
    alone = [next(sample(writer(guide=Guide()), [prompt], SamplingParams(max_tokens=8))).text for prompt in prompts]
    assert found == alone
    monkeypatch.setattr(texts, "_ROWS", 3)
    assert [one.text for one in sample(writer(guide=Guide()), prompts, SamplingParams(max_tokens=8))] == found


def test_a_probability_of_zero_is_the_farthest():
    """No candidate is ruled out by it, and none makes a warning."""

    def guide(found):
        return np.array([[0.0] * 3 + [float(number == 2)] + [0.0] * 3 for number in range(len(found))])

    options = SamplingParams(max_tokens=8, control=Control(rerank=4))
    second = [one.text for one in sample(writer(guide=guide), [Prompt([BOS], JOY)], options)]
    spy = Guide()
    list(sample(writer(guide=spy), [Prompt([BOS], JOY)], options))
    assert second == [spy.target[0][2]]


def test_candidates_need_a_guide():
    with pytest.raises(SettingsError, match=r"^control rerank: the model names no guide; pass --guide FOLDER .*makes one\)$"):
        list(sample(writer(), [Prompt([BOS], JOY)], SamplingParams(control=Control(rerank=2))))


def likeness(text, other):
    """By sacrebleu: chrF of texts whose characters stand for words."""
    names = {word: chr(0x4E00 + place) for place, word in enumerate(dict.fromkeys(words(text) + words(other)))}
    ours, theirs = ("".join(names[word] for word in words(one)) for one in (text, other))
    return CHRF(char_order=4, word_order=0, beta=1, eps_smoothing=True).sentence_score(ours, [theirs]).score / 100


def test_the_candidate_of_least_risk_is_kept():
    """By the literal definition over all candidates, which are those that a reranking draws; it needs no guide."""
    prompts, guide = [Prompt([BOS], JOY), Prompt([270, TURN, BOS], FEAR)], Guide()
    list(sample(writer(guide=guide), prompts, SamplingParams(n=3, max_tokens=8, control=Control(rerank=5))))
    (candidates,) = guide.target
    found = list(sample(writer(), prompts, SamplingParams(n=3, max_tokens=8, control=Control(mbr=5))))
    for row, one in enumerate(found):
        own = candidates[5 * row : 5 * row + 5]
        risk = [sum(1 - likeness(text, other) for other in own) for text in own]
        assert risk[own.index(one.text)] == pytest.approx(min(risk))
    assert [one.text for one in found] != candidates[::5]
    assert [one.emotion for one in found] == ["joy"] * 3 + ["fear"] * 3


def test_rows_choose_each_in_its_way(monkeypatch):
    """One by a guide, which is not asked about the others, one by least risk, one not at all; few rows at once or many."""
    controls = [Control(), Control(mbr=4), Control(rerank=3), Control(mbr=2, guidance=2)]
    prompts = [Prompt([BOS], JOY, control=control, seed=seed) for seed, control in enumerate(controls)]
    guide = Guide()
    found = [one.text for one in sample(writer(guide=guide), prompts, SamplingParams(max_tokens=8))]
    assert [len(target) for target in guide.target] == [3]
    alone = [next(sample(writer(guide=Guide()), [prompt], SamplingParams(max_tokens=8))).text for prompt in prompts]
    assert found == alone
    monkeypatch.setattr(texts, "_ROWS", 3)
    assert [one.text for one in sample(writer(guide=Guide()), prompts, SamplingParams(max_tokens=8))] == found


# ---- streams


def joined(pieces):
    found = {}
    for row, piece in pieces:
        assert piece
        found[row] = found.get(row, "") + piece
    return found


@BACKBONES
@pytest.mark.parametrize("control", [Control(), Control(guidance=2.0, bayes=1.0)], ids=str)
def test_pieces_make_the_text(backbone, control):
    """Several rows interleaved; also where bytes form no character, and where a text is cut in the middle of one."""
    made = writer(backbone)
    prompts = [Prompt([BOS], JOY, seed=1), Prompt([270, TURN, BOS], FEAR, seed=2)]
    options = SamplingParams(n=20, max_tokens=7, control=control)
    pieces = list(stream(made, prompts, options))
    whole = [one.text for one in sample(made, prompts, options)]
    found = joined(pieces)
    assert [found.get(row, "").strip() for row in range(len(whole))] == whole
    assert len(pieces) > 2 * len(found)
    assert [row for row, _ in pieces] != sorted(row for row, _ in pieces)
    assert any("�" in text for text in whole)


def scripted(rows, most):
    """A token loop that writes the ids `rows`, one a step for each, PAD behind the end."""

    def loop(_generator, _prefixes, max_tokens, _choose):
        assert max_tokens == most
        for number in range(max(map(len, rows))):
            tokens = torch.tensor([row[number] if number < len(row) else PAD for row in rows])
            yield DecodingStep(torch.arange(len(rows)), tokens, torch.zeros(len(rows)), torch.zeros(0))

    return loop


def test_characters_of_several_bytes_are_never_cut(monkeypatch):
    """Each comes whole, at the step of its last byte, while the rows beside it go on."""
    wanted = ["我很 so 😀!", "happy today", "é"]
    rows = [[*TOKENIZER.encode(text), EOS] for text in wanted]
    assert len(rows[0]) > 12
    monkeypatch.setattr(texts, "token_loop", scripted(rows, 40))
    pieces = list(stream(writer(), [Prompt([BOS], JOY)] * 3, SamplingParams(max_tokens=40)))
    found = joined(pieces)
    assert [found[row] for row in range(3)] == wanted
    assert all("�" not in piece for _, piece in pieces)
    own = [piece for row, piece in pieces if row == 0]
    assert {"我", "很", "😀"} <= set(own)
    assert [row for row, _ in pieces][:2] != [0, 0]


@pytest.mark.parametrize("end", [[EOS], []])
def test_half_a_character_at_the_end_is_shown(monkeypatch, end):
    """As a replacement character, as `sample` shows it, whether the model ended there or was cut."""
    rows = [[*TOKENIZER.encode("so 我")[:-1], *end]]
    monkeypatch.setattr(texts, "token_loop", scripted(rows, len(rows[0])))
    assert joined(stream(writer(), [Prompt([BOS], JOY)], SamplingParams(max_tokens=len(rows[0])))) == {0: "so �"}


def test_a_stream_begins_before_the_text_is_whole(monkeypatch):
    """The first piece is there after the first token."""
    steps = []

    def loop(*_arguments):
        for token in [*TOKENIZER.encode("so happy today"), EOS]:
            steps.append(token)
            yield DecodingStep(torch.arange(1), torch.tensor([token]), torch.zeros(1), torch.zeros(0))

    monkeypatch.setattr(texts, "token_loop", loop)
    next(stream(writer(), [Prompt([BOS], JOY)], SamplingParams()))
    assert len(steps) == 1


@pytest.mark.parametrize("choice", ["rerank", "mbr"])
def test_a_stream_refuses_what_needs_whole_texts(choice):
    control = Control(**{choice: 2})
    message = rf"^control {choice}: chooses among whole texts, which a stream has not; leave it out$"
    with pytest.raises(SettingsError, match=message):
        list(stream(writer(), [Prompt([BOS], JOY)], SamplingParams(control=control)))
    with pytest.raises(SettingsError, match=message):
        list(stream(writer(), [Prompt([BOS], JOY), Prompt([BOS], JOY, control=control)], SamplingParams()))
