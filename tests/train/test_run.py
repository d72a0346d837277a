"""What happens around a loop: log, looks at held-out rows, kept models, budgets, signals, and what ends a run."""

import json
import math
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from emogen.errors import CheckpointError, EmogenError, Interrupted, TrainingError
from emogen.train.config import GanSettings, GeneratorRun
from emogen.train.run import training_run as run_module
from emogen.train.run.folder import hold_folder, refuse_overwriting
from emogen.train.run.state import Step, TrainState, adamw
from emogen.train.run.training_run import RunHooks, TrainingRun, _on_one_line, explain_end, resume

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals and messages of POSIX")


@dataclass(frozen=True)
class Plan(GeneratorRun):
    steps: int = 25
    validate_every: int = 10
    save_every: int = 10


class Toy:
    """One weight that grows by one a step; `fails` maps steps to errors, `held_out` steps to figures."""

    def __init__(self, folder, held_out=None, fails=None, select=""):
        self.folder = folder
        self.model = nn.Linear(1, 1)
        self.state = TrainState({"toy": self.model}, {"toy": adamw(self.model)}, torch.Generator())
        self.held_out = held_out or {}
        self.fails = fails or {}
        self.saved = []
        self.watch = RunHooks(self.validate, lambda: f"text {self.state.step}", self.save, select)
        with torch.no_grad():
            self.model.weight.zero_()

    def loop(self):
        while True:
            if self.state.step + 1 in self.fails:
                self.fails[self.state.step + 1]()
            with torch.no_grad():
                self.model.weight += 1
            self.state.step += 1
            yield Step(self.state.step, {"loss": float(self.state.step)})

    def validate(self):
        return {"nll": self.held_out.get(self.state.step, 1.0)}

    def save(self):
        self.saved.append(self.state.step)

    def run(self, config=None):
        TrainingRun(self.folder, config or Plan(), self.state, self.watch).train(self.loop())

    def lines(self):
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def saved_step(folder):
    return torch.load(folder / "train_state.pt", weights_only=True)["step"]


# ---- log, looks, budgets


def test_the_log_holds_means_of_ten_steps_and_a_look_with_a_sample(folder):
    toy = Toy(folder)
    toy.run()
    lines = [{name: value for name, value in line.items() if name != "seconds"} for line in toy.lines()]
    assert lines == [
        {"step": 10, "loss": 5.5},
        {"step": 10, "held_out": {"nll": 1.0}, "sample": "text 10"},
        {"step": 20, "loss": 15.5},
        {"step": 20, "held_out": {"nll": 1.0}, "sample": "text 20"},
        {"step": 25, "held_out": {"nll": 1.0}, "sample": "text 25"},
    ]
    assert all(line["seconds"] >= 0 for line in toy.lines())
    assert saved_step(folder) == 25
    assert toy.state.progress == 1.0


def test_the_newest_model_is_kept_where_no_figure_selects(folder):
    toy = Toy(folder, held_out={20: 9.0})
    toy.run()
    assert toy.saved == [10, 20, 25]


def test_the_model_with_the_smallest_selected_figure_is_kept(folder):
    toy = Toy(folder, held_out={10: 3.0, 20: 2.0, 30: 2.5, 40: 2.0}, select="nll")
    toy.run(Plan(steps=40))
    assert toy.saved == [10, 20]
    assert toy.state.figures["best"] == 2.0
    assert toy.state.figures["best_step"] == 20


def test_patience_counts_looks_without_a_better_one(folder):
    toy = Toy(folder, held_out={10: 3.0, 20: 2.0, 30: 2.5, 40: 2.2, 50: 0.1}, select="nll")
    toy.run(Plan(steps=1000, patience=2))
    assert toy.state.step == 40
    assert toy.saved == [10, 20]


def test_minutes_are_those_of_all_resumed_runs_together(folder, monkeypatch):
    """A clock that a step moves by six seconds: half a minute is five steps, and three of them leave two."""
    clock = [100.0]
    monkeypatch.setattr(run_module.time, "monotonic", lambda: clock[0])

    def slow(toy):
        for step in toy.loop():
            clock[0] += 6.0
            yield step

    toy = Toy(folder)
    TrainingRun(folder, Plan(steps=3, minutes=0.5), toy.state, toy.watch).train(slow(toy))
    assert toy.state.progress == 1.0
    clock[0] += 5000.0
    again = Toy(folder)
    resume(again.state, folder)
    TrainingRun(folder, Plan(steps=1000, minutes=0.5), again.state, again.watch).train(slow(again))
    assert again.state.step == 5
    assert again.state.figures["elapsed"] == pytest.approx(30.0)
    assert again.state.progress == pytest.approx(1.0)


def test_a_longer_plan_takes_the_learning_rate_back_to_its_place(folder):
    Toy(folder).run(Plan(steps=10))
    toy = Toy(folder)
    resume(toy.state, folder)
    seen = []
    toy.fails = {11: lambda: seen.append(toy.state.progress)}
    toy.run(Plan(steps=40))
    assert seen == [0.25]


def test_a_run_that_is_over_ends_at_once_when_resumed(folder):
    Toy(folder).run()
    before = (folder / "log.jsonl").read_text()
    toy = Toy(folder)
    resume(toy.state, folder)
    toy.run()
    assert toy.state.step == 25
    assert toy.saved == []
    assert (folder / "log.jsonl").read_text() == before


# ---- resuming


def test_resuming_takes_over_the_state_and_cuts_the_log_back_to_it(folder):
    toy = Toy(folder, fails={18: raising(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        toy.run(Plan(validate_every=4))
    assert [line["step"] for line in toy.lines()] == [4, 8, 10, 12, 16]
    again = Toy(folder)
    resume(again.state, folder)
    assert again.state.step == 10
    assert again.model.weight.item() == 10
    assert [line["step"] for line in again.lines()] == [4, 8, 10]


def test_a_log_that_breaks_off_or_holds_strange_separators_is_cut_to_whole_lines(folder):
    Toy(folder).run(Plan(steps=10))
    lines = [
        '{"step": 4, "sample": "a\u2028b\x85c"}',
        '{"step": 5, "other": 1}',
        '{"step": 12}',
        "",
        '{"step": 6, "sample": "é',
    ]
    (folder / "log.jsonl").write_bytes("\n".join(lines).encode()[:-1])
    resume(Toy(folder).state, folder)
    assert (folder / "log.jsonl").read_text(encoding="utf-8") == "\n".join(lines[:2]) + "\n"


def test_resuming_without_a_state_begins_with_an_empty_log(folder):
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"step": 3}\n')
    toy = Toy(folder)
    resume(toy.state, folder)
    assert (toy.state.step, (folder / "log.jsonl").read_text()) == (0, "")


def test_half_written_files_go_when_a_run_is_resumed(folder):
    Toy(folder).run(Plan(steps=10))
    (folder / ".train_state.pt.99.part").write_bytes(b"half")
    resume(Toy(folder).state, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "train_state.pt"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", None])
def test_a_state_that_is_cut_short_cannot_be_resumed(folder, content):
    Toy(folder).run(Plan(steps=10))
    path = folder / "train_state.pt"
    path.write_bytes(path.read_bytes()[:700] if content is None else content)
    with pytest.raises(
        CheckpointError, match=r"train_state\.pt: cannot be resumed \(.*start again with another --out"
    ) as broken:
        resume(Toy(folder).state, folder)
    assert "\n" not in str(broken.value)


@POSIX
def test_a_folder_in_the_place_of_a_state(folder):
    (folder / "train_state.pt").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"train_state\.pt: cannot be read \(is a folder, not a regular file\)"):
        resume(Toy(folder).state, folder)


@pytest.mark.parametrize("name", ["train_state.pt", "warm-start/train_state.pt", "config.json"])
def test_what_another_run_left_is_not_overwritten(folder, name):
    refuse_overwriting(folder, resuming=False)
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"^{folder}: holds .*another --out$"):
        refuse_overwriting(folder, resuming=False)
    refuse_overwriting(folder, resuming=True)


# ---- what ends a run


def test_a_loss_that_is_no_number_names_the_last_good_state(folder):
    toy = Toy(folder, fails={18: raising(TrainingError("step 18: loss nan is not finite; lower the learning rate"))})
    with pytest.raises(TrainingError) as ended:
        toy.run()
    state = folder / "train_state.pt"
    assert (
        str(ended.value) == f"step 18: loss nan is not finite; lower the learning rate; the last good state stands in {state}"
    )
    assert saved_step(folder) == 10
    again = Toy(folder)
    resume(again.state, folder)
    assert again.model.weight.item() == 10


def test_weights_that_are_no_numbers_are_not_saved(folder):
    toy = Toy(folder)
    toy.fails = {20: lambda: toy.model.weight.data.fill_(math.inf)}
    with pytest.raises(
        TrainingError, match="step 20: weights of the toy are not finite; lower the learning rate; the last good"
    ):
        toy.run()
    assert toy.saved == [10]
    assert saved_step(folder) == 10


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_held_out_figure_that_is_no_number_ends_the_run(folder, value):
    toy = Toy(folder, held_out={20: value}, select="nll")
    with pytest.raises(TrainingError, match=f"step 20: held-out nll {value} is not finite"):
        toy.run()
    assert toy.saved == [10]


def test_a_held_out_figure_past_all_bounds_ends_the_run(folder):
    toy = Toy(folder)
    toy.watch = RunHooks(lambda: {"perplexity": math.exp(1e6)}, lambda: "", toy.save)
    with pytest.raises(TrainingError, match="figures grow past all bounds; lower the learning rate; the last good state"):
        toy.run()


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_short_memory_says_which_settings_to_lower(folder, error):
    with pytest.raises(TrainingError) as ended:
        Toy(folder, fails={12: raising(error)}).run()
    kept = f"the last good state stands in {folder / 'train_state.pt'}"
    assert str(ended.value) == f"step 12: out of memory; lower --batch-size (now 64), --reply-tokens (now 40); {kept}"
    assert saved_step(folder) == 10


def test_adversarial_training_can_lower_more(tmp_path):
    settings = GanSettings(batch_size=8)
    state = Toy(tmp_path).state
    with (
        pytest.raises(
            TrainingError, match=r"lower --batch-size \(now 8\), --samples \(now 4\), --max-tokens \(now 24\), --chunk"
        ),
        explain_end(settings, tmp_path, state),
    ):
        raise MemoryError
    with (
        pytest.raises(TrainingError, match=r"^out of memory; lower .*--discriminator-width \(now 128\)"),
        explain_end(settings, tmp_path),
    ):
        raise MemoryError


def test_memory_that_runs_short_while_held_out_rows_are_read(folder):
    toy = Toy(folder)
    toy.watch = RunHooks(raising(MemoryError()), lambda: "", toy.save)
    with pytest.raises(TrainingError, match="out of memory"):
        toy.run()


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ZeroDivisionError("division by zero"), KeyError("x")])
def test_other_errors_are_left_as_they_are(folder, error):
    with pytest.raises(type(error)) as ended:
        Toy(folder, fails={12: raising(error)}).run()
    assert ended.value is error


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_and_says_how_to_go_on(folder, number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stopped:
        Toy(folder, fails={13: lambda: os.kill(os.getpid(), number)}).run()
    assert str(stopped.value) == f"stopped at step 13, state saved; go on with --resume --out {folder}"
    assert stopped.value.signal == number
    assert saved_step(folder) == 13
    assert signal.getsignal(number) == before


@POSIX
def test_a_second_sigint_does_not_wait_for_the_step(folder):
    def impatient():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Toy(folder, fails={13: impatient}).run()
    assert saved_step(folder) == 10


def test_a_full_disk_keeps_the_state_before(folder, monkeypatch):
    toy = Toy(folder)
    real = os.fsync

    def full(descriptor):
        if toy.state.step == 20:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        EmogenError, match=r"train_state\.pt: cannot be written \(No space left on device\); what stood there is"
    ):
        toy.run()
    assert saved_step(folder) == 10
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("step", [3, 13, 19, 24])
def test_a_folder_that_is_removed_ends_the_run(folder, step):
    """And is not made anew without what was saved in it, such as the tokenizer."""
    with pytest.raises(EmogenError, match=f"^{folder}: was removed while the run went on, and with it what was saved"):
        Toy(folder, fails={step: lambda: shutil.rmtree(folder)}).run(Plan(save_every=5))
    assert not folder.exists()


def test_a_folder_whose_lock_cannot_be_taken_away_ends_in_its_own_words(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.setattr(Path, "unlink", raising(PermissionError(1, "Operation not permitted")))
    with pytest.raises(EmogenError, match="cannot be written"), hold_folder(folder):
        raise EmogenError("log.jsonl: cannot be written")


@POSIX
def test_a_log_that_cannot_be_written_is_one_line(folder):
    (folder / "log.jsonl").mkdir(parents=True)
    with pytest.raises(EmogenError, match=r"log\.jsonl: cannot be written \(Is a directory\)"):
        Toy(folder).run()


@POSIX
def test_a_folder_has_one_run_at_a_time(tmp_path):
    with hold_folder(tmp_path):
        with pytest.raises(CheckpointError, match="another run is going on there"), hold_folder(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb\r\nc", "a [2Jb  c"),
        ("\u202eabc\u2066", " abc "),
        ("می\u200cخواهم \U0001f937\u200d♂️", "می\u200cخواهم \U0001f937\u200d♂️"),
    ],
)
def test_a_preview_moves_no_cursor_and_keeps_joined_letters(text, shown):
    assert _on_one_line(text) == shown
