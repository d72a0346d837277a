import pytest
import torch
from torch import nn

from emogen.errors import SettingsError
from emogen.models import device
from emogen.models.device import Bfloat16Support, choose_device, probe_bfloat16
from emogen.train.run.state import mixed_precision

CPU = torch.device("cpu")


@pytest.fixture
def fresh_probe():
    """Probes anew, and forgets what it found."""
    probe_bfloat16.cache_clear()
    yield probe_bfloat16
    probe_bfloat16.cache_clear()


@pytest.fixture
def supported(monkeypatch):
    """Makes training believe that a device does this with bfloat16."""

    def believe(runs, is_faster):
        monkeypatch.setattr("emogen.train.run.state.probe_bfloat16", lambda _: Bfloat16Support(runs, is_faster))

    return believe


def product_dtype(precision):
    with mixed_precision(precision, CPU):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_devices_are_named_or_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(SettingsError, match="sees no CUDA device"):
        choose_device("cuda")
    with pytest.raises(SettingsError, match="allowed is auto, cpu or cuda"):
        choose_device("gpu")


def test_the_probe_agrees_with_an_lstm_of_pytorch(fresh_probe):
    """On this processor, whichever it is: an update of `nn.LSTM` under bfloat16 autocast works, or raises RuntimeError."""
    lstm = nn.LSTM(16, 16, batch_first=True)
    try:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            lstm(torch.randn(4, 5, 16))[0].float().sum().backward()
        works = True
    except RuntimeError:
        works = False
    assert fresh_probe(CPU).runs is works


def test_what_surrounds_the_probe_does_not_change_it(fresh_probe):
    """Nor does the probe change its surroundings: random numbers, threads and gradients stay as they are."""
    found, before, threads = fresh_probe(CPU), torch.get_rng_state(), torch.get_num_threads()
    for surrounding in (torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)):
        fresh_probe.cache_clear()
        with surrounding:
            assert fresh_probe(CPU).runs is found.runs
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_without_a_kernel_for_lstms_nothing_runs_in_bfloat16(fresh_probe, monkeypatch):
    def fail(*_):
        raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive")

    monkeypatch.setattr(torch, "lstm", fail)
    assert fresh_probe(CPU) == Bfloat16Support(runs=False, is_faster=False)


@pytest.mark.parametrize(("float32", "bfloat16", "is_faster"), [(2.0, 1.0, True), (1.0, 30.0, False), (1.0, 1.0, False)])
def test_faster_is_what_takes_less_time(fresh_probe, monkeypatch, float32, bfloat16, is_faster):
    monkeypatch.setattr(device, "_runs_bfloat16", lambda _: True)
    monkeypatch.setattr(device, "_time_product", lambda square: bfloat16 if square.dtype == torch.bfloat16 else float32)
    assert fresh_probe(CPU) == Bfloat16Support(runs=True, is_faster=is_faster)


def test_one_disturbed_run_does_not_count(fresh_probe, monkeypatch):
    """The shortest product in bfloat16 is faster, though the others had to wait."""
    waits = iter([9.0, 9.0, 1.0, 9.0])
    monkeypatch.setattr(device, "_runs_bfloat16", lambda _: True)
    monkeypatch.setattr(device, "_time_product", lambda square: next(waits) if square.dtype == torch.bfloat16 else 2.0)
    assert fresh_probe(CPU).is_faster


@pytest.mark.parametrize(
    ("runs", "is_faster", "auto"),
    [(False, False, torch.float32), (True, False, torch.float32), (True, True, torch.bfloat16)],
)
def test_auto_takes_what_is_faster(supported, runs, is_faster, auto):
    supported(runs, is_faster)
    assert product_dtype("auto") is auto
    assert product_dtype("float32") is torch.float32


def test_bf16_is_always_or_refused(supported):
    supported(True, False)
    assert product_dtype("bf16") is torch.bfloat16
    supported(False, False)
    expected = "^--precision bf16: this processor cannot train in bfloat16; pass --precision auto, or float32$"
    with pytest.raises(SettingsError, match=expected):
        product_dtype("bf16")


def test_this_processor_does_what_was_probed():
    """`bf16` computes in bfloat16 or is refused; `auto` never fails."""
    support = probe_bfloat16(CPU)
    assert product_dtype("auto") is (torch.bfloat16 if support.is_faster else torch.float32)
    if support.runs:
        assert product_dtype("bf16") is torch.bfloat16
    else:
        with pytest.raises(SettingsError, match="cannot train in bfloat16"):
            product_dtype("bf16")
