"""The engine: what many threads and event loops ask for at once is what each gets alone."""

import asyncio
import threading

import pytest

from emogen.checkpoint.model import load
from emogen.decoding.control import Control
from emogen.decoding.params import SamplingParams
from emogen.dialogue.engine import Engine
from emogen.errors import BusyError, EmogenError, SettingsError

LONG = SamplingParams(max_tokens=40, temperature=2.0)
CONTROLS = [Control(), Control(guidance=2.0), Control(expert=1.0), Control(bayes=1.0)]


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load(tiny_checkpoint)


@pytest.fixture
def engine(model):
    with Engine(model, max_batch_size=3) as started:
        yield started


def target(number):
    """Arguments of the reply with that number; no two alike."""
    emotion = ("joy", "sadness=0.5,fear=0.5", None)[number % 3]
    return [f"How was day {number}?"], emotion, SamplingParams(control=CONTROLS[number % 4], max_tokens=5 + number, top_p=0.9)


def alone(model, number):
    context, emotion, sampling = target(number)
    return model.reply(context, emotion, sampling, seed=number).text


def test_threads_get_what_each_would_get_alone(model, engine):
    found = {}

    def ask(number):
        found[number] = engine.write(*target(number), seed=number).wait()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: alone(model, number) for number in range(12)}
    assert engine.unfinished == 0


def test_an_event_loop_reads_many_at_once(model, engine):
    async def read(number):
        return "".join([piece async for piece in engine.write(*target(number), seed=number)]).strip()

    async def read_all():
        return await asyncio.gather(*map(read, range(8)))

    assert asyncio.run(read_all()) == [alone(model, number) for number in range(8)]


def test_pieces_join_to_the_text_for_every_reader(engine):
    writing = engine.write(*target(7), seed=7)
    first, second = list(writing), list(writing)
    assert first == second
    assert "".join(first).strip() == writing.wait() == writing.text
    assert writing.ended in ("end", "limit")
    assert 0 < writing.tokens <= 12


def test_a_cancelled_reply_keeps_what_was_written_and_leaves_the_others_alone(model, engine):
    cancelled, kept = engine.write([], "joy", LONG, seed=1), engine.write(*target(4), seed=4)
    cancelled.cancel()
    before = cancelled.text
    assert cancelled.wait() == before
    assert cancelled.ended == "cancelled"
    assert kept.wait() == alone(model, 4)
    kept.cancel()
    assert kept.ended != "cancelled"


def test_more_than_may_wait_are_refused_and_room_comes_back(model):
    with Engine(model, max_batch_size=1, max_queue=1) as engine:
        go_on = threading.Event()
        engine._orders.put(go_on.wait)
        asked_for = [engine.write([], "joy", LONG, seed=seed) for seed in range(2)]
        with pytest.raises(BusyError, match="2 replies are being written or wait"):
            engine.write([], "joy")
        go_on.set()
        for writing in asked_for:
            writing.wait()
        assert engine.write([], "joy", seed=3).wait() == model.reply([], "joy", seed=3).text


def test_a_closed_engine_fails_what_is_left_and_takes_no_more(model):
    engine, go_on = Engine(model, max_batch_size=1), threading.Event()
    engine._orders.put(go_on.wait)
    asked_for = [engine.write([], "joy", LONG, seed=seed) for seed in range(50)]
    threading.Thread(target=go_on.set).start()
    engine.close()
    with pytest.raises(BusyError, match="closed before the reply was written"):
        asked_for[-1].wait()
    assert asked_for[-1].ended == "failed"
    with pytest.raises(BusyError, match="the engine is closed"):
        engine.write([], "joy")
    engine.close()


SECRET = "the user said Rumpelstilzchen"


def raising(*_):
    raise RuntimeError(SECRET)


@pytest.mark.parametrize("error", [RuntimeError(SECRET), MemoryError(), ZeroDivisionError(SECRET)])
def test_a_step_that_fails_fails_its_replies_and_the_engine_goes_on(model, engine, monkeypatch, error, caplog):
    def fail():
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(engine._batch, "step", fail)
        writing = engine.write([], "joy")
        with pytest.raises(EmogenError, match=r"^the reply could not be written, since the model failed; ask again$") as raised:
            writing.wait()
    assert raised.value.__cause__ is error
    assert type(error).__name__ in caplog.text
    assert SECRET not in caplog.text
    assert engine.write(*target(2), seed=2).wait() == alone(model, 2)


def test_an_order_that_fails_ends_nothing_else(model, engine, caplog):
    running = engine.write([], "joy", LONG, seed=1)
    next(iter(running))
    engine._orders.put(raising)
    assert running.wait() == model.reply([], "joy", LONG, seed=1).text
    assert engine.write(*target(2), seed=2).wait() == alone(model, 2)
    assert engine.is_open
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text


def test_a_reply_that_cannot_enter_fails_alone(model, engine, monkeypatch):
    enter, go_on = engine._batch.enter, threading.Event()

    def enter_but_one(one):
        return raising() if len(one.uniforms) == 5 + 2 else enter(one)

    monkeypatch.setattr(engine._batch, "enter", enter_but_one)
    engine._orders.put(go_on.wait)
    writings = [engine.write(*target(number), seed=number) for number in range(5)]
    go_on.set()
    with pytest.raises(EmogenError, match="could not be written"):
        writings.pop(2).wait()
    assert [writing.wait() for writing in writings] == [alone(model, number) for number in (0, 1, 3, 4)]
    assert engine.unfinished == 0


@pytest.mark.parametrize("half_done", [True, False])
def test_a_reply_that_cannot_leave_disturbs_no_other(model, engine, monkeypatch, half_done):
    """Pieces that were read before come no second time, and those that wait come, too."""
    cancel, conditioning = engine._batch.cancel, threading.Event()

    def fail(number):
        monkeypatch.setattr(engine._batch, "cancel", cancel)
        if half_done:
            engine._batch._running = engine._batch._running[1:]
        conditioning.set()
        raising()

    monkeypatch.setattr(engine._batch, "cancel", fail)
    left = engine.write([], "sadness", LONG, seed=3)
    kept = [engine.write([], "joy", LONG, seed=seed) for seed in range(4)]
    read = iter(kept[0])
    first = next(read)
    left.cancel()
    assert conditioning.wait(60)
    expected = [model.reply([], "joy", LONG, seed=seed).text for seed in range(4)]
    assert (first + "".join(read)).strip() == expected[0]
    assert [writing.wait() for writing in kept] == expected
    assert left.ended == "cancelled"
    assert engine.unfinished == 0


@pytest.mark.parametrize("error", [RuntimeError(SECRET), SystemExit(1)])
def test_a_thread_that_ends_all_the_same_leaves_nobody_waiting(model, monkeypatch, error, caplog):
    """Whoever is written, waits for room, or has not even entered."""

    def fail():
        raise error

    engine, go_on = Engine(model, max_batch_size=1), threading.Event()
    monkeypatch.setattr(engine._batch, "step", fail)
    monkeypatch.setattr(engine._batch, "clear", fail)
    engine._orders.put(go_on.wait)
    writings = [engine.write([], "joy", LONG, seed=seed) for seed in range(3)]
    go_on.set()
    for writing in writings:
        with pytest.raises(EmogenError, match="could not be written"):
            writing.wait()
    engine._thread.join()
    assert (engine.is_open, engine.unfinished) == (False, 0)
    assert "the engine failed" in caplog.text
    assert SECRET not in caplog.text
    with pytest.raises(BusyError, match="has failed"):
        engine.write([], "joy")
    engine.close()


def test_a_failure_outside_of_steps_begins_anew_once(model, monkeypatch, caplog):
    """All that was asked for fails, and the next is written; a second failure ends the thread."""
    with Engine(model) as engine:
        follow = engine._follow_orders

        def fail():
            monkeypatch.setattr(engine, "_follow_orders", follow)
            follow()
            raise RuntimeError(SECRET)

        for is_open in (True, False):
            monkeypatch.setattr(engine, "_follow_orders", fail)
            engine._orders.put(lambda: None)
            with pytest.raises(EmogenError, match="could not be written"):
                engine.write([], "joy", LONG).wait()
            if is_open:
                assert engine.write([], "joy", LONG, seed=1).wait() == model.reply([], "joy", LONG, seed=1).text
        engine._thread.join()
        assert not engine.is_open
    assert "it begins again, once" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("emotion", "sampling", "message"),
    [
        ("hunger", None, "'hunger' is not one of"),
        ("joy", SamplingParams(control=Control(rerank=4)), "rerank"),
        ("joy", SamplingParams(control=Control(head=1.0)), "head"),
    ],
)
def test_what_cannot_be_written_is_refused_where_it_is_asked_for(engine, emotion, sampling, message):
    with pytest.raises(SettingsError, match=message):
        engine.write("hello", emotion, sampling)
    assert engine.unfinished == 0


def test_numbers_that_make_no_engine(model):
    with pytest.raises(SettingsError, match="most rows 0"):
        Engine(model, max_batch_size=0)
    with pytest.raises(SettingsError, match="most waiting -1"):
        Engine(model, max_queue=-1)
