"""Token arrays on disk and the batches from them."""

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from emogen.data.batches import Limits, Shard, TokenArrays, ahead, batches, epoch_order, token_arrays
from emogen.data.exchange import Exchange
from emogen.emotions.labels import EKMAN, parse_emotion
from emogen.errors import DataError, EmogenError
from emogen.text.tokenizer import BOS, EOS, PAD, TURN

REPLIES = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff", "ggggggg"]


class Letters:
    """A tokenizer of one id a character, from 5 on."""

    def __init__(self, vocabulary=1000, fingerprint="letters"):
        self.vocabulary = vocabulary
        self.fingerprint = fingerprint

    def encode(self, text):
        return [self.vocabulary - 1 - ord("z") + ord(character) for character in text]

    def decode(self, ids):
        return "".join(chr(token - self.vocabulary + 1 + ord("z")) for token in ids if token > TURN)

    def prefix(self, context, most):
        ids = [token for turn in context for token in (*self.encode(turn), TURN)]
        return [*ids[max(0, len(ids) - most) :], BOS]


def exchange(reply, context=(), emotion="joy", split="train"):
    return Exchange(tuple(context), reply, parse_emotion(emotion, EKMAN), split)


CORPUS = [
    *(exchange(reply, ["x", "yz"][: number % 3]) for number, reply in enumerate(REPLIES)),
    exchange("valid", emotion="joy=0.7,fear=0.3", split="valid"),
]


def arrays_of(tmp_path, corpus=CORPUS, tokenizer=None, limits=None, source="corpus"):
    return token_arrays(source, lambda: iter(corpus), tokenizer or Letters(), EKMAN, limits or Limits(), tmp_path / "cache")


def test_rows_come_back(tmp_path):
    """Context with turn marks, BOS, reply, EOS, padding; the place of the reply; the emotion with its "no emotion"."""
    found = arrays_of(tmp_path)
    letters = Letters().encode
    assert sorted(found) == ["train", "valid"]
    assert len(found["train"]) == 7
    batch = found["train"].batch([2, 0])
    x, yz = letters("x"), letters("yz")
    rows = [[*x, TURN, *yz, TURN, BOS, *letters("ccc"), EOS], [BOS, *letters("a"), EOS, *[PAD] * 7]]
    assert batch.tokens.tolist() == rows
    assert batch.tokens.dtype is torch.int64
    assert batch.reply_start.tolist() == [6, 1]
    valid = found["valid"].batch([0])
    torch.testing.assert_close(valid.emotion, torch.tensor([[0, 0, 0.3, 0.7, 0, 0, 0, 0]]))
    assert Letters().decode(valid.tokens[0].tolist()) == "valid"


def test_built_once(tmp_path):
    """The second call does not open the corpus; another source, tokenizer, limit or label order does."""
    first = arrays_of(tmp_path)
    forbidden = {"exchanges": lambda: pytest.fail("the corpus was opened"), "cache": tmp_path / "cache", "labels": EKMAN}
    again = token_arrays("corpus", tokenizer=Letters(), limits=Limits(), **forbidden)
    assert again["train"].tokens.tolist() == first["train"].tokens.tolist()
    assert again["valid"].emotions.tolist() == first["valid"].emotions.tolist()
    for change in ({"source": "other"}, {"tokenizer": Letters(fingerprint="other")}, {"limits": Limits(31)}):
        opened = []
        corpus = (opened.append(1) or one for one in CORPUS)
        arrays_of(tmp_path, corpus, **change)
        assert opened


def rows_of(batch):
    return [Letters().decode(row) for row in batch.tokens.tolist()]


@pytest.mark.parametrize("by_context", [False, True])
@pytest.mark.parametrize("size", [1, 3, 7, 10])
def test_an_epoch_covers_every_row_once(tmp_path, size, by_context):
    """Also where the last batch is smaller or larger than what is left; each of five epochs."""
    arrays = arrays_of(tmp_path)["train"]
    whole = sorted(Letters().decode(row.tolist()) for row in (arrays.batch([n]).tokens[0] for n in range(7)))
    each = -(-7 // size)
    loop = batches(arrays, size, seed=3, by_context=by_context)
    for _ in range(5):
        epoch = list(itertools.islice(loop, each))
        assert sorted(text for batch in epoch for text in rows_of(batch)) == whole
        assert all(len(batch) <= size for batch in epoch)


def test_order_is_new_every_epoch_and_every_seed(tmp_path):
    """But equal for equal arguments."""
    arrays = arrays_of(tmp_path)["train"]

    def order(seed, count=14):
        return [rows_of(batch)[0] for batch in itertools.islice(batches(arrays, 1, seed), count)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:7] != order(1)[7:]


@pytest.mark.parametrize("start", [0, 1, 2, 3, 7])
def test_start_equals_skipping(tmp_path, start):
    """Across epochs of three batches."""
    arrays = arrays_of(tmp_path)["train"]
    skipped = itertools.islice(batches(arrays, 3, seed=5), start, start + 5)
    started = itertools.islice(batches(arrays, 3, seed=5, start=start), 5)
    for one, other in zip(skipped, started, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.emotion, other.emotion)


def test_rows_of_a_batch_are_of_similar_length():
    """Within a pool of 50 batches of 4: no two of its batches overlap but at their ends; batches come in mixed order."""
    lengths = np.random.default_rng(0).integers(1, 100, 200)
    order = epoch_order(lengths, 4, np.random.default_rng(1))
    spans = sorted((lengths[rows].min(), lengths[rows].max()) for rows in order)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert [lengths[rows].min() for rows in order] != [span[0] for span in spans]


def test_context_is_kept_to_its_newest_tokens(tmp_path):
    """BOS not counted; a limit of 0 keeps none."""
    letters = Letters()
    assert letters.prefix(["abc", "de"], 4) == [TURN, *letters.encode("de"), TURN, BOS]
    assert letters.prefix(["abc"], 0) == [BOS]
    assert letters.prefix([], 32) == [BOS]
    found = arrays_of(tmp_path, limits=Limits(context_tokens=2))["train"].batch([2])
    assert found.tokens[0, :3].tolist() == [*letters.encode("z"), TURN, BOS]


def test_long_replies_are_left_out_and_counted(tmp_path):
    """Of the replies of 1 to 7 tokens those of 6 and 7; the end token is not counted."""
    found = arrays_of(tmp_path, limits=Limits(reply_tokens=5))
    assert [found[split].left_out for split in ("train", "valid")] == [2, 0]
    assert [Letters().decode(found["train"].batch([n]).tokens[0].tolist())[-1] for n in range(5)] == list("abcde")


@pytest.mark.parametrize("corpus", [[], [exchange("valid", split="valid")], [exchange("long" * 20)]])
def test_nothing_to_train_on(tmp_path, corpus):
    """No rows, none for training, or all too long; and nothing is left on disk."""
    with pytest.raises(DataError, match="no row is left to train on"):
        arrays_of(tmp_path, corpus)
    assert not list((tmp_path / "cache").glob("*")) if (tmp_path / "cache").exists() else True


def test_a_split_without_rows_has_no_batches(tmp_path):
    """All of its replies were too long."""
    found = arrays_of(tmp_path, limits=Limits(reply_tokens=4))["valid"]
    assert (len(found), found.left_out) == (0, 1)
    with pytest.raises(DataError, match="no row"):
        next(batches(found, 4, seed=0))


def interrupted(error):
    yield from CORPUS[:3]
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("corpus:4: broken JSON"), RuntimeError("x")])
def test_an_interrupted_build_leaves_nothing(tmp_path, error):
    """No half-written folder, no open file, and the next call builds anew."""
    with pytest.raises(type(error)):
        arrays_of(tmp_path, interrupted(error))
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(arrays_of(tmp_path)["train"]) == 7


def test_an_interrupted_build_closes_its_files(tmp_path, monkeypatch):
    """Every file that was opened to be written."""
    opened, plain = [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, *mode, **options: opened.append(plain(path, *mode, **options)) or opened[-1])
    with pytest.raises(RuntimeError):
        arrays_of(tmp_path, interrupted(RuntimeError("x")))
    assert len(opened) == 4
    assert all(handle.closed for handle in opened)


def test_a_full_disk_is_reported(tmp_path):
    """As one line that names the folder; here a file stands where the folder should be."""
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(EmogenError, match="cannot be written") as caught:
        arrays_of(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "cache").read_text() == "in the way"


@pytest.mark.parametrize(("vocabulary", "dtype"), [(1000, np.uint16), (65_536, np.uint16), (65_537, np.uint32)])
def test_large_vocabularies_take_wider_numbers(tmp_path, vocabulary, dtype):
    """The largest id, which the letter z has here, comes back."""
    found: TokenArrays = arrays_of(tmp_path, [exchange("z")], Letters(vocabulary))["train"]
    assert found.tokens.dtype == dtype
    assert found.batch([0]).tokens.tolist() == [[BOS, vocabulary - 1, EOS]]


def test_arrays_are_mapped_not_read(tmp_path):
    """A corpus need not fit in memory."""
    assert isinstance(arrays_of(tmp_path)["train"].tokens, np.memmap)


# ---- several processes


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_parts_cover_rows_evenly(world):
    """Each row once, in order; no two parts differ by more than a row; none is empty where there are rows enough."""
    for rows in range(world, 20):
        slices = [Shard(number, world).of(rows) for number in range(world)]
        assert [row for places in slices for row in range(rows)[places]] == list(range(rows))
        sizes = {places.stop - places.start for places in slices}
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1


@pytest.mark.parametrize(("world", "size", "start"), [(2, 1, 0), (2, 2, 1), (3, 1, 4)])
def test_parts_of_a_batch_are_the_batch_of_one_process(tmp_path, world, size, start):
    """The same rows under the same numbers, from any start on, the last one of an epoch too: 7 rows leave 1 or 3 over."""
    arrays = arrays_of(tmp_path)["train"]
    order = [rows for rows in epochs(arrays, world * size, 4) if len(rows) >= world][start : start + 6]
    loops = [batches(arrays, size, seed=3, start=start, part=Shard(number, world)) for number in range(world)]
    for expected, *parts in zip(order, *loops, strict=False):
        assert [text for part in parts for text in rows_of(part)] == rows_of(arrays.batch(expected))
        numbers = torch.arange(len(expected))
        assert torch.cat([part.own(numbers) for part in parts]).tolist() == numbers.tolist()
        assert {part.whole for part in parts} == {len(expected)}


def epochs(arrays, size, count):
    lengths = np.diff(arrays.offsets)
    return [rows for epoch in range(count) for rows in epoch_order(lengths, size, np.random.default_rng([3, epoch]))]


def test_a_batch_can_be_cut_into_parts(tmp_path):
    """Padding stays, and so does the place in the whole batch on the way to a device."""
    batch = arrays_of(tmp_path)["train"].batch(range(7))
    parts = [batch.part(Shard(number, 3)).to(torch.device("cpu")) for number in range(3)]
    assert [(part.before, len(part), part.after) for part in parts] == [(0, 2, 5), (2, 2, 3), (4, 3, 0)]
    assert torch.equal(torch.cat([part.tokens for part in parts]), batch.tokens)
    assert torch.equal(torch.cat([part.emotion for part in parts]), batch.emotion)


def test_more_processes_than_rows_are_refused(tmp_path):
    arrays = arrays_of(tmp_path)["train"]
    with pytest.raises(DataError, match=r"^7 rows .* in 8 processes; start fewer"):
        next(batches(arrays, 1, seed=0, part=Shard(2, 8)))


# ---- one ahead


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_one_item_is_prepared_ahead_in_another_thread():
    """Each once, in order, no more than one before it is asked for; the thread ends with the items."""
    prepared, started = [], []

    def prepare(item):
        prepared.append((item, threading.current_thread() in workers()))
        return -item

    found = ahead(iter(range(5)), prepare, lambda: started.append(threading.current_thread()))
    for number in range(5):
        assert next(found) == -number
        assert len(prepared) <= number + 2
    assert next(found, None) is None
    assert prepared == [(number, True) for number in range(5)]
    assert len(started) == 1
    assert not workers()


def test_an_error_ahead_comes_in_its_turn():
    def items():
        yield 1
        raise DataError("row 2 is broken")

    found = ahead(items(), lambda item: item)
    assert next(found) == 1
    with pytest.raises(DataError, match="row 2"):
        next(found)
    assert not workers()


def test_a_loop_that_stops_ends_the_thread():
    """As a training loop does: a generator that is dropped, and with it the batches it reads."""

    def loop(items):
        yield from items

    found = loop(ahead(itertools.count(), lambda item: item))
    assert next(found) == 0
    assert workers()
    del found
    assert not workers()
