"""Fingerprints of training rows: the same for the same words, written whole, and read back or refused in one line."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emogen.data.fingerprints import ROWS_FILE, fingerprint, fingerprints, read_fingerprints, write_fingerprints
from emogen.errors import CheckpointError


def test_case_spacing_and_apostrophes_do_not_count():
    assert len(set(map(fingerprint, ("So happy!", "so  HAPPY !", "\tSo happy!\n")))) == 1
    assert fingerprint("I don’t") == fingerprint("I don't")
    assert fingerprint("我很 开心") == fingerprint("我很开心")


def test_words_and_their_order_count():
    texts = ["", "so happy", "happy so", "so happy!", "sohappy", "so happy happy", "😀", "我很开心"]
    assert len(set(map(fingerprint, texts))) == len(texts)


def test_a_fingerprint_is_the_same_in_every_process():
    """Eight bytes of BLAKE2b over the words with blanks between, lowest first."""
    digest = hashlib.blake2b(b"so happy !", digest_size=8).digest()
    assert fingerprint("So happy!") == sum(byte << 8 * place for place, byte in enumerate(digest))


@given(st.lists(st.text(max_size=8), max_size=20))
def test_fingerprints_are_sorted_and_each_there_once(texts):
    found = fingerprints(texts)
    assert found.dtype == np.uint64
    assert found.tolist() == sorted(set(map(fingerprint, texts)))


def test_half_a_character_has_one_too():
    assert 0 <= fingerprint("\ud83d") < 1 << 64


def test_what_is_written_comes_back_sorted_and_once(tmp_path):
    write_fingerprints(tmp_path, np.array([5, 3, 5, (1 << 64) - 1], dtype=np.uint64))
    assert read_fingerprints(tmp_path).tolist() == [3, 5, (1 << 64) - 1]
    write_fingerprints(tmp_path, fingerprints([]))
    assert read_fingerprints(tmp_path).tolist() == []
    assert [path.name for path in tmp_path.iterdir()] == [ROWS_FILE]


def refusal(folder):
    with pytest.raises(CheckpointError) as refused:
        read_fingerprints(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_checkpoint_without_rows_says_so(tmp_path):
    path = tmp_path / ROWS_FILE
    assert refusal(tmp_path).startswith(f"{path}: cannot be read (No such file or directory), so nobody knows which rows")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"rows", b"\x93NUMPY\x01\x00\x76\x00{'descr': '<u8', "])
def test_rows_that_are_cut_short(tmp_path, content):
    (tmp_path / ROWS_FILE).write_bytes(content)
    assert refusal(tmp_path).startswith(f"{tmp_path / ROWS_FILE}: cannot be read (")


@pytest.mark.parametrize("rows", [np.zeros(3, np.int64), np.zeros(3), np.zeros((2, 2), np.uint64)])
def test_rows_of_another_shape(tmp_path, rows):
    np.save(tmp_path / ROWS_FILE, rows)
    assert "not a list of 64-bit hashes" in refusal(tmp_path)


def test_pickled_rows_are_not_opened(tmp_path):
    np.save(tmp_path / ROWS_FILE, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert refusal(tmp_path).startswith(f"{tmp_path / ROWS_FILE}: cannot be read (")
