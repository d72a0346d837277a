"""Two processes with a batch each learn what one learns from both; one of them writes; they begin, stop and fail together."""

import atexit
import copy
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from emogen.cli import main
from emogen.data.batches import TokenArrays, batches
from emogen.errors import ElsewhereError, SettingsError, TrainingError
from emogen.models.discriminator import Discriminator, DiscriminatorConfig
from emogen.models.generator import Generator, GeneratorConfig
from emogen.models.vae import TextVAE, TextVaeConfig
from emogen.text.tokenizer import BOS, EOS, TURN
from emogen.train.config import GanConfig, MleConfig, VaeConfig
from emogen.train.gan.trajectories import Adversaries
from emogen.train.loops.gan import train_gan
from emogen.train.loops.mle import train_mle
from emogen.train.loops.vae import train_vae
from emogen.train.run.processes import (
    broadcast_from_main,
    is_main_process,
    joint,
    largest,
    main_process_first,
    part,
    process_group,
    rank,
    sum_gradients,
    total,
    world,
)
from emogen.train.run.state import TrainState, adamw, update

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor SIGTERM")

VOCABULARY, EMOTIONS, ROWS, STEPS = 30, 2, 23, 9
RUN = ["--batch-size", "4", "--validate-every", "4", "--save-every", "2", "--device", "cpu", "--precision", "float32"]
LM = ["train-lm", *RUN, "--width", "16", "--layers", "1", "--steps", "8", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def started():
    """Starts processes that have PyTorch already: a server imports it once and forks them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["emogen.train.fit", "emogen.cli.training", "torch._dynamo", "torch.distributed.rendezvous"])
    return context


# ---- the same weights


def generator_config(latent=0):
    return GeneratorConfig(VOCABULARY, EMOTIONS, "lstm", width=16, layers=1, heads=4, latent=latent, dropout=0.0)


def mle():
    generator = Generator(generator_config())
    config = MleConfig(learning_rate=0.1, emotion_dropout=0.4, precision="float32")
    state = TrainState({"generator": generator}, {"generator": adamw(generator)}, torch.Generator().manual_seed(1))
    return state, lambda rows: train_mle(generator, rows, config, state)


def vae():
    """A target at which free bits hold some dimensions and not others: the mean over all rows decides."""
    model = TextVAE(TextVaeConfig(generator_config(latent=4), encoder_layers=1, encoder_heads=4))
    config = VaeConfig(
        learning_rate=0.1, emotion_dropout=0.4, precision="float32", target_rate=0.1, autoencoder_share=0.1, annealing_share=0.2
    )
    state = TrainState({"vae": model}, {"vae": adamw(model)}, torch.Generator().manual_seed(1))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return state, lambda rows: train_vae(model, rows, config, state)


def gan(estimator):
    """With a large eps: Adam takes a full step along a gradient of 1e-10 too, which is nothing but the order of sums."""
    generator = Generator(generator_config())
    reading = "prefix" if estimator == "dense" else "sequence"
    discriminator = Discriminator(DiscriminatorConfig(VOCABULARY, EMOTIONS, reading, width=16, layers=1, heads=2, dropout=0.0))
    config = GanConfig(
        estimator=estimator,
        samples=2,
        rollouts=2,
        max_tokens=6,
        warmup_steps=2,
        learning_rate=0.2,
        discriminator_rate=0.01,
        accuracy_ceiling=1.0,
        mle_weight=0.1,
        precision="float32",
    )
    modules = {"generator": generator, "discriminator": discriminator}
    optimizers = {name: adamw(module) for name, module in modules.items()}
    for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
        group["eps"] = 0.01
    models = Adversaries(generator, copy.deepcopy(generator).requires_grad_(False), discriminator)
    state = TrainState(modules, optimizers, torch.Generator().manual_seed(1))
    return state, lambda rows: train_gan(models, rows, config, state)


# Each gives a state and what makes a training loop of batches.
LOOPS = {"mle": mle, "vae": vae, **{f"gan-{each}": partial(gan, each) for each in ("rollout", "dense", "gumbel")}}


def rows_of_all_lengths():
    """Contexts of 0 to 3 tokens, replies of 1 to 12; and of so many rows batches of 4 leave 3 over."""
    random = np.random.default_rng(5)
    rows, starts = [], []
    for _ in range(ROWS):
        context = [*random.integers(5, VOCABULARY, random.integers(0, 4)), TURN, BOS]
        rows.append([*context, *random.integers(5, VOCABULARY, random.integers(1, 13)), EOS])
        starts.append(len(context))
    emotions = np.eye(EMOTIONS + 1, dtype=np.float32)[random.integers(0, EMOTIONS, ROWS)]
    offsets = np.cumsum([0, *map(len, rows)])
    tokens = np.concatenate(rows).astype(np.uint16)
    return TokenArrays(tokens, offsets, np.array(starts, dtype=np.int32), emotions, np.zeros(ROWS, dtype=np.uint64), 0)


def trained(name, size):
    """Weights after nine steps on batches of `size` rows a process, and the figures of each step."""
    torch.manual_seed(3)
    state, loop = LOOPS[name]()
    figures = []
    for step in islice(loop(batches(rows_of_all_lengths(), size, seed=0, part=part())), STEPS):
        state.progress = step.number / STEPS
        figures.append(step.figures)
    models = nn.ModuleDict(state.modules)
    return dict(models.state_dict()), figures


def train_a_part(folder, name):
    torch.save(trained(name, 2), folder / f"{rank()}.pt")


@pytest.mark.parametrize("name", LOOPS)
def test_two_processes_learn_what_one_with_both_batches_learns(started, tmp_path, name):
    """Weights within 1e-5 though each pads, counts tokens and leaves the end of an epoch for itself; both alike to the bit."""
    together(started, tmp_path, train_a_part, name)
    (weights, figures), (others, _) = (torch.load(tmp_path / f"{number}.pt", weights_only=True) for number in range(2))
    expected, alone = trained(name, 4)
    for key, value in expected.items():
        assert torch.equal(weights[key], others[key])
        torch.testing.assert_close(weights[key], value, atol=1e-5, rtol=1e-5, msg=key)
    assert len(figures) == len(alone) == STEPS
    of_all_rows = {"nll", "tokens", "reconstruction", "kl", "rate_weight", "reward", "discriminator", "length"}
    for found, each in zip(figures, alone, strict=True):
        for figure in of_all_rows & each.keys():
            assert found[figure] == pytest.approx(each[figure], rel=1e-4, abs=1e-6)


# ---- what processes tell each other


def together(started, folder, task, *arguments):
    """Runs `task(folder, *arguments)` in two processes, which meet at a file; both must come to its end."""
    processes = [started.Process(target=in_group, args=(number, folder, task, *arguments)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def in_group(number, folder, task, *arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    task(folder, *arguments)
    dist.destroy_process_group()


def talk(folder):
    """Asserts in both processes."""
    own = float(rank() + 1)
    assert (world(), is_main_process(), part().world) == (2, rank() == 0, 2)
    assert total(torch.tensor([own, 1.0])).tolist() == [3.0, 2.0]
    assert largest([own, -own, float("nan") if is_main_process() else own]) == [2.0, -1.0, float("inf")]
    check_joint(own)
    check_gradients(own)
    check_first(folder)
    check_errors()


def check_joint(own):
    """The derivative of a square is taken at the sum, 2 * 3, and its inner part from this process alone."""
    value = torch.tensor(own, requires_grad=True)
    square = joint(value) ** 2
    square.backward()
    assert (square.item(), value.grad.item()) == (9.0, 6.0)
    assert not total(value).requires_grad


def check_gradients(own):
    """Sums by dtype; where one process has none it counts as 0, where none has one it stays away."""
    shapes = [((2, 3), torch.float32), ((2,), torch.float64), ((), torch.float32), ((4,), torch.float32)]
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in shapes]
    for parameter in parameters[:2]:
        parameter.grad = torch.full_like(parameter, own)
    if is_main_process():
        parameters[2].grad = torch.tensor(5.0)
    sum_gradients(parameters)
    assert [parameter.grad.tolist() for parameter in parameters[:3]] == [[[3.0] * 3] * 2, [3.0] * 2, 5.0]
    assert parameters[3].grad is None


def check_first(folder):
    """The others get what it made, or make it where they find what it left."""
    assert broadcast_from_main(lambda: {"made": rank()}) == {"made": 0}

    def make():
        (folder / f"made-{rank()}").touch()
        return sorted(path.name for path in folder.glob("made-*"))

    assert main_process_first(make) == ["made-0", "made-1"][: rank() + 1]


def check_errors():
    """All fail: with the error itself where it came up, and also where another process's loss is not finite."""

    def fail():
        raise SettingsError("no")

    with pytest.raises(SettingsError if is_main_process() else ElsewhereError):
        broadcast_from_main(fail)
    weight = nn.Linear(1, 1, bias=False)
    state = TrainState({}, {}, torch.Generator())
    loss = weight(torch.ones(1)).sum() * (1.0 if is_main_process() else float("nan"))
    before = weight.weight.clone()
    with pytest.raises(TrainingError, match="not finite"):
        update(loss, adamw(weight), 1.0, state)
    assert torch.equal(weight.weight, before)


def test_what_processes_tell_each_other(started, tmp_path):
    together(started, tmp_path, talk)


def test_one_process_needs_no_group(monkeypatch):
    """Sums are the values themselves, and torchrun with one process is as no torchrun."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    value = torch.tensor(2.0, requires_grad=True)
    with process_group(torch.device("cpu")):
        assert (rank(), world(), is_main_process()) == (0, 1, True)
        assert joint(value) is value
        assert not total(value).requires_grad
        assert largest([3.0]) == [3.0]
        assert main_process_first(lambda: broadcast_from_main(lambda: 7)) == 7
    for name, number in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(number))
    with process_group(torch.device("cpu")):
        assert world() == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"RANK": "0"}, r"^WORLD_SIZE is not set beside RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, r"^LOCAL_RANK is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, r"^MASTER_ADDR is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, r"^RANK=2 WORLD"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, r"^RANK=x WORLD"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "-5"}, r"do not meet"),
    ],
)
def test_an_environment_that_makes_no_sense_is_one_line(monkeypatch, given, message):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message) as found, process_group(torch.device("cpu")):
        pass
    assert "\n" not in str(found.value)


# ---- the command line


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def emogen(started, folder, arguments, strike=None):
    """Exit status and what two processes of `emogen ARGUMENTS` wrote, under the variables of torchrun; `strike` hits one."""
    port = free_port()
    processes = [started.Process(target=in_child, args=(number, port, folder, arguments, strike)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    outs, errs = ([(folder / f"{name}-{number}").read_text() for number in range(2)] for name in ("out", "err"))
    return [process.exitcode for process in processes], outs, errs


def in_child(number, port, folder, arguments, strike):
    os.chdir(folder)
    variables = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()} | {"EMOGEN_DATA": str(folder / "cache")})
    torch.set_num_threads(1)
    if strike and strike[0] == number:
        arm(*strike[1:])
    with Path(f"out-{number}").open("w") as out, Path(f"err-{number}").open("w") as err:
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main([str(each) for each in arguments])
        finally:
            # A process of multiprocessing leaves out what others do at their end.
            atexit._run_exitfuncs()


def arm(number, act):
    """Acts in the `number`-th step of an optimizer."""
    step, count = torch.optim.AdamW.step, iter(range(1, 1000))

    def struck(self, *rest):
        if next(count) == number:
            act()
        return step(self, *rest)

    torch.optim.AdamW.step = struck


def lines(texts):
    """What was said, without progress bars."""
    each = [line for text in texts for line in text.replace("\r", "\n").splitlines()]
    return [line for line in each if line.strip() and "step/s" not in line]


def steps_in(folder):
    return [line["step"] for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines())]


def weights_of(folder):
    return torch.load(folder / "train_state.pt", weights_only=True)["modules"]["generator"]


def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)


def run_out_of_memory():
    raise MemoryError


def vanish():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_that_is_stopped_in_one_process_and_resumed(started, tmp_path, rows_file):
    """All stop after the same step; resumed and without dropout they come to the weights of one process with twice the rows."""
    command = [*LM, "--dropout", "0", rows_file, "--out"]
    statuses, outs, errs = emogen(started, tmp_path, [*command, "run"], (1, 3, interrupt))
    assert sorted(statuses) == [1, 143]
    assert lines(errs) == ["emogen: stopped at step 3, state saved; go on with --resume --out run"]
    assert outs == ["", ""]
    statuses, outs, errs = emogen(started, tmp_path, ["train-lm", "--resume", "--out", "run"])
    assert (statuses, outs, lines(errs)) == ([0, 0], ["run\n", ""], [])
    folder = tmp_path / "run"
    assert steps_in(folder) == [4, 8]
    assert not list(folder.glob(".*"))
    about = json.loads((folder / "train.json").read_text())
    assert (about["finished"], about["steps"], about["processes"]) == (True, 8, 2)
    found, expected = weights_of(folder), alone(tmp_path, [*command, tmp_path / "alone", "--batch-size", "8"])
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=1e-5, rtol=1e-5, msg=name)


def alone(folder, command):
    """Weights of the same run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOGEN_DATA", str(folder / "cache"))
        with pytest.raises(SystemExit, match=r"^0$"):
            main([str(each) for each in command])
    return weights_of(folder / "alone")


@pytest.mark.parametrize(
    ("act", "status", "said"),
    [
        (run_out_of_memory, 1, "emogen: step 3: out of memory; lower --batch-size"),
        (vanish, -9, "emogen: another process of the run ended"),
    ],
)
def test_a_process_that_fails_ends_the_others_with_one_line(started, tmp_path, rows_file, act, status, said):
    statuses, outs, errs = emogen(started, tmp_path, [*LM, rows_file, "--out", "run"], (1, 3, act))
    assert (statuses, outs) == ([1, status], ["", ""])
    (line,) = lines(errs)
    assert line.startswith(said)
    assert line.endswith("; the last good state stands in run/train_state.pt")
    assert torch.load(tmp_path / "run" / "train_state.pt", weights_only=True)["step"] == 2


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ([*LM, "missing.jsonl", "--out", "run"], 1, "emogen: missing.jsonl: cannot be read"),
        (["train-classifier", "--device", "cpu", "--out", "run"], 2, "emogen: emogen train-classifier runs in one process"),
    ],
)
def test_an_error_before_training_is_said_once(started, tmp_path, command, status, said):
    """And a folder in which nothing stands goes away."""
    statuses, outs, errs = emogen(started, tmp_path, command)
    assert sorted(statuses) == [1, status]
    assert outs == ["", ""]
    (line,) = lines(errs)
    assert line.startswith(said)
    assert not (tmp_path / "run").exists()


def test_torchrun(tmp_path, rows_file):
    """As the manual says: one folder is named, one log and one checkpoint stand in it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command = [*torchrun, "--master-port", str(free_port()), "-m", "emogen", *LM, str(rows_file), "--out", "run"]
    environment = os.environ | {"EMOGEN_DATA": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "run\n"), done.stderr
    assert done.stderr.count("8/8") == 1
    assert steps_in(tmp_path / "run") == [4, 8]
    expected = {"README.md", "config.json", "log.jsonl", "model.safetensors", "rows.npy", "tokenizer.model", "train.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == expected | {"train_state.pt"}
