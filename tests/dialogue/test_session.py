"""Sessions: emotion state over the turns, replies that depend on their own session alone."""

from dataclasses import dataclass, replace

import pytest

from emogen.checkpoint.model import load
from emogen.decoding.params import SamplingParams
from emogen.dialogue.engine import Engine
from emogen.dialogue.policy import built_in, write_policy
from emogen.dialogue.session import Session, SessionConfig, emotion_for, seed_of
from emogen.dialogue.state import at_rest
from emogen.dialogue.stream import ReplyStream
from emogen.emotions.labels import EKMAN, mixture, no_emotion, parse_emotion
from emogen.errors import BusyError, DataError, SettingsError


@dataclass(frozen=True)
class Found:
    probabilities: dict


class ByWord:
    """Recognises the one emotion whose name stands in the text; else neutral."""

    names = EKMAN

    def recognize(self, texts):
        named = [next((name for name in EKMAN.names if name in text), "neutral") for text in texts]
        return [Found({name: 1.0}) for name in named]


@pytest.fixture(scope="module")
def engine(tiny_checkpoint):
    with Engine(load(tiny_checkpoint)) as started:
        yield started


def test_the_users_emotion_fades_and_the_policy_answers_it(engine):
    session = Session(engine, ByWord(), SessionConfig(policy="mirror", decay=0.5))
    assert session.state == at_rest(EKMAN)
    session.reply("such sadness")
    assert session.turns[-1].target == parse_emotion("sadness", EKMAN)
    session.reply("what joy")
    # One turn ago counts 1/2: shares 1/3 and 2/3.
    assert session.state.emotion.weights == pytest.approx(mixture({"sadness": 1 / 3, "joy": 2 / 3}, EKMAN).weights)
    assert session.turns[-1].target.weights == pytest.approx(session.state.emotion.weights)
    assert [turn.said for turn in session.turns] == ["such sadness", "what joy"]
    assert len(session.course.points) == 2


def test_a_reply_is_what_the_model_writes_for_the_whole_conversation(engine):
    options = SamplingParams(temperature=1.0, max_tokens=8)
    session = Session(engine, None, SessionConfig(emotion="joy", strength=0.5, sampling=options, seed=4))
    first, second = session.reply("How was day 1?"), session.reply("How was day 2?")
    emotion = parse_emotion("joy", EKMAN, 0.5)
    assert first == engine.model.reply("How was day 1?", emotion, options, seed_of(4, 0)).text
    context = [text for text in ("How was day 1?", first, "How was day 2?") if text]
    assert second == engine.model.reply(context, emotion, options, seed_of(4, 1)).text


def test_sessions_beside_each_other_are_what_they_are_alone(engine):
    manners = [SessionConfig(seed=seed, emotion=emotion) for seed, emotion in enumerate(("joy", "fear", None, "none"))]

    def opened():
        return [Session(engine, ByWord(), manner) for manner in manners]

    alone = [[session.reply(text) for text in ("I feel anger", "and joy")] for session in opened()]
    beside = opened()
    together = []
    for text in ("I feel anger", "and joy"):
        writings = [session.say(text) for session in beside]
        together.append([writing.wait() for writing in writings])
    assert [list(texts) for texts in zip(*together, strict=True)] == alone


def test_another_try_takes_the_place_of_the_last_reply(engine):
    session = Session(engine, ByWord(), SessionConfig(policy="mirror", sampling=SamplingParams(temperature=2.0, max_tokens=12)))
    session.reply("some joy")
    before = session.turns[-1]
    texts = {before.writing.text, *(session.again().wait() for _ in range(3))}
    assert len(texts) > 1
    assert len(session.turns) == 1
    assert session.state == before.state
    assert session.turns[-1].name != before.name


def test_a_cancelled_reply_stands_as_far_as_it_was_written(engine):
    session = Session(engine)
    writing = session.say("hello")
    writing.cancel()
    assert session.turns[-1].utterances == (("hello", writing.text) if writing.text else ("hello",))
    assert session.reply("still there?") == session.turns[-1].writing.text


def test_one_reply_at_a_time(engine, monkeypatch):
    session = Session(engine)
    monkeypatch.setattr(engine, "write", lambda *_: ReplyStream(lambda: None))
    session.say("hello")
    with pytest.raises(BusyError, match="still being written"):
        session.say("and?")
    with pytest.raises(BusyError, match="still being written"):
        session.again()
    session.forget()
    assert session.turns == ()


def test_a_manner_may_change_between_turns(engine):
    session = Session(engine, ByWord(), SessionConfig(emotion="joy"))
    session.reply("hello")
    session.manner = replace(session.manner, emotion="none")
    session.reply("hello")
    assert [turn.target.strength for turn in session.turns] == [1.0, 0.0]


def test_a_policys_file_is_read_once_for_each_manner(engine, tmp_path):
    """By each session for itself, and again when the manner is set anew."""
    path, said = tmp_path / "own.json", "such sadness"
    write_policy(path, built_in("cheer", EKMAN, EKMAN))
    session, other = (Session(engine, ByWord(), SessionConfig(policy=str(path), decay=0.0)) for _ in range(2))
    session.reply(said)
    path.unlink()
    session.reply(said)
    with pytest.raises(DataError, match="cannot be read"):
        other.reply(said)
    write_policy(path, built_in("neutral", EKMAN, EKMAN))
    session.reply(said)
    session.manner = replace(session.manner)
    session.reply(said)
    cheerful, neutral = (built_in(name, EKMAN, EKMAN).answer(parse_emotion("sadness", EKMAN)) for name in ("cheer", "neutral"))
    assert [turn.target for turn in session.turns] == [cheerful, cheerful, cheerful, neutral]


def test_which_emotion_answers(engine):
    felt = at_rest(EKMAN).after(parse_emotion("fear", EKMAN))
    soothed = built_in("soothe", EKMAN, EKMAN).answer(felt.emotion)
    assert emotion_for(SessionConfig(policy="soothe"), felt, engine) == soothed
    assert emotion_for(SessionConfig(policy="soothe", strength=0.5), felt, engine) == replace(
        soothed, strength=soothed.strength / 2
    )
    assert emotion_for(SessionConfig(emotion="fear", strength=0.2), felt, engine) == parse_emotion("fear", EKMAN, 0.2)
    assert emotion_for(SessionConfig(emotion="none"), felt, engine) == no_emotion(EKMAN)
    assert emotion_for(SessionConfig(policy="soothe"), None, engine) == no_emotion(EKMAN)
    assert emotion_for(SessionConfig(), felt, engine) == no_emotion(EKMAN)


def test_seeds_of_turns_differ():
    seeds = {seed_of(session, turn, tries) for session in range(5) for turn in range(5) for tries in range(5)}
    assert len(seeds) == 125
    with pytest.raises(SettingsError, match="seed -1"):
        seed_of(-1, 0)


def test_what_makes_no_turn(engine):
    session = Session(engine)
    with pytest.raises(SettingsError, match="nothing was said"):
        session.say(" \n")
    with pytest.raises(SettingsError, match="nothing was said yet"):
        session.again()
    with pytest.raises(SettingsError, match="at least one turn"):
        session.course  # noqa: B018
    with pytest.raises(SettingsError, match="strength 2 is not between"):
        SessionConfig(strength=2.0)
    with pytest.raises(SettingsError, match="policy 'kind' is not one of"):
        Session(engine, ByWord(), SessionConfig(policy="kind")).say("hello")
    assert session.turns == ()
