"""Killed at any moment and resumed, a run ends bit-equal to one that was never interrupted."""

import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from emogen.cli import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor SIGKILL")

RUN = ["--batch-size", "8", "--validate-every", "3", "--save-every", "2", "--device", "cpu", "--precision", "float32"]
SIZES = ["--width", "16", "--layers", "1", "--steps", "6"]
VAE = ["train-vae", *RUN, *SIZES, "--latent", "4", "--encoder-layers", "1"]
LM = ["train-lm", *RUN, *SIZES, "--dropout", "0.3"]
CLASSIFIER = ["train-classifier", *RUN, "--steps", "6", "--width", "16", "--buckets", "256", "--filters", "8", "--layers", "1"]
GAN = ["train-gan", *RUN, "--steps", "6", "--warmup-steps", "2", "--samples", "2", "--rollouts", "2", "--max-tokens", "6"]
GAN += ["--discriminator-width", "16", "--discriminator-layers", "1"]
OPTIMIZER = "optimizer"


@pytest.fixture(scope="module")
def started():
    """Starts processes that have PyTorch already: a server imports it once and forks them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["emogen.train.fit", "emogen.train.fit_classifier", "emogen.cli.training", "torch._dynamo"])
    return context


def emogen(started, folder, arguments, strike=None):
    """Exit status and standard error of `emogen ARGUMENTS` run in `folder`; `strike` is where a signal hits it."""
    process = started.Process(target=in_child, args=(str(folder), [str(each) for each in arguments], strike))
    process.start()
    process.join()
    return process.exitcode, (folder / "stderr").read_text()


def succeed(started, folder, arguments):
    status, stderr = emogen(started, folder, arguments)
    assert status == 0, stderr


def in_child(folder, arguments, strike):
    os.chdir(folder)
    os.environ["EMOGEN_DATA"] = str(Path(folder) / "cache")
    torch.set_num_threads(1)
    # A shell lets its background jobs ignore SIGINT, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if strike:
        arm(*strike)
    with Path("stdout").open("w") as out, Path("stderr").open("w") as err, redirect_stdout(out), redirect_stderr(err):
        main(arguments)


def arm(moment, name, number, sent=signal.SIGKILL):
    """Sends the signal before or after the `number`-th rename to the file `name`, or update of an optimizer."""
    counts = Counter()

    def struck(event, original, *arguments, **options):
        counts[event] += 1
        hit = event == name and counts[event] == number
        if hit and moment == "before":
            os.kill(os.getpid(), sent)
        result = original(*arguments, **options)
        if hit and moment == "after":
            os.kill(os.getpid(), sent)
        return result

    replace, step = os.replace, torch.optim.AdamW.step
    os.replace = lambda source, target: struck(Path(target).name, replace, source, target)
    torch.optim.AdamW.step = lambda self, *rest: struck(OPTIMIZER, step, self, *rest)


def outcome(folder):
    """Weights, optimizers, random numbers and held-out figures of a run that ended; nothing that holds a time."""
    state = torch.load(folder / "train_state.pt", weights_only=True)
    figures = {name: value for name, value in state.pop("figures").items() if name != "elapsed"}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    held_out = [{name: value for name, value in line.items() if name != "seconds"} for line in lines if "held_out" in line]
    return (folder / "model.safetensors").read_bytes(), state, figures, held_out


def assert_equal(found, expected):
    """Bit-equality through dicts, lists and tensors."""
    assert type(found) is type(expected)
    if isinstance(found, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert_equal(value, expected[key])
    elif isinstance(found, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_equal(*pair)
    else:
        assert found == expected


def survive(started, folder, arguments, strikes):
    """Runs a command, which each strike kills once, and resumes it to the end with nothing but its folder."""
    begun = False
    for strike in strikes:
        status, _ = emogen(started, folder, arguments, strike)
        assert status == -signal.SIGKILL, strike
        begun = begun or (folder / "run" / "train.json").exists()
        if begun:
            arguments = [arguments[0], "--resume", "--out", "run"]
    succeed(started, folder, arguments)


@pytest.fixture(scope="module")
def vae(started, tmp_path_factory, rows_file):
    """A VAE whose training nothing interrupted; the starting point of two adversarial runs."""
    folder = tmp_path_factory.mktemp("vae")
    succeed(started, folder, [*VAE, rows_file, "--out", "run"])
    return folder / "run"


STRIKES = [
    ("before", "tokenizer.model", 1),
    ("before", "train.json", 1),
    ("before", "train_state.pt", 1),
    ("after", OPTIMIZER, 3),
    ("before", "train_state.pt", 1),
    ("after", "train_state.pt", 1),
    ("before", "model.safetensors", 1),
    ("before", "config.json", 1),
    ("after", OPTIMIZER, 1),
    ("after", "train_state.pt", 1),
    ("before", "train.json", 2),
]


def test_a_vae_that_is_killed_again_and_again(started, tmp_path, rows_file, vae):
    survive(started, tmp_path, [*VAE, rows_file, "--out", "run"], STRIKES)
    assert_equal(outcome(tmp_path / "run"), outcome(vae))


def test_a_language_model_that_is_killed_again_and_again(started, tmp_path, rows_file):
    succeed(started, tmp_path, [*LM, rows_file, "--out", "whole"])
    survive(started, tmp_path, [*LM, rows_file, "--out", "run"], STRIKES)
    assert_equal(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))
    assert not list((tmp_path / "run").glob(".*"))


def test_a_classifier_that_is_killed_again_and_again(started, tmp_path, rows_file):
    """Temperature, confusion and noted rows are the same too."""
    succeed(started, tmp_path, [*CLASSIFIER, rows_file, "--out", "whole"])
    strikes = [
        ("before", "rows.npy", 1),
        ("before", "train.json", 1),
        ("before", "train_state.pt", 1),
        ("after", OPTIMIZER, 3),
        ("before", "model.safetensors", 1),
        ("before", "config.json", 1),
        ("after", OPTIMIZER, 2),
        ("after", "train_state.pt", 1),
        ("after", OPTIMIZER, 1),
        ("after", "train_state.pt", 1),
        ("before", "model.safetensors", 1),
        ("before", "confusion.json", 1),
        ("before", "train.json", 2),
    ]
    survive(started, tmp_path, [*CLASSIFIER, rows_file, "--out", "run"], strikes)
    assert_equal(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))
    for name in ("config.json", "confusion.json", "rows.npy"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "run").glob(".*"))


def test_a_classifier_that_is_asked_to_stop_says_how_to_go_on(started, tmp_path, rows_file):
    command = [*CLASSIFIER, "--backbone", "transformer", rows_file, "--out"]
    succeed(started, tmp_path, [*command, "whole"])
    found, stderr = emogen(started, tmp_path, [*command, "run"], ("after", OPTIMIZER, 4, signal.SIGINT))
    assert found == 130
    assert stderr.splitlines()[-1] == "emogen: stopped at step 4, state saved; go on with --resume --out run"
    succeed(started, tmp_path, ["train-classifier", "--resume", "--out", "run"])
    assert_equal(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))


@pytest.mark.parametrize("estimator", ["rollout", "dense"])
def test_adversarial_training_that_is_killed_again_and_again(started, tmp_path, rows_file, vae, estimator):
    command = [*GAN, "--estimator", estimator, "--init", vae, rows_file]
    succeed(started, tmp_path, [*command, "--out", "whole"])
    survive(
        started,
        tmp_path,
        [*command, "--out", "run"],
        [
            ("before", "train_state.pt", 1),
            ("after", OPTIMIZER, 1),
            ("after", OPTIMIZER, 5),
            ("before", "train_state.pt", 1),
            ("after", "train_state.pt", 1),
            ("after", OPTIMIZER, 4),
            ("before", "model.safetensors", 1),
        ],
    )
    assert_equal(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))


def test_adversarial_training_that_is_killed_in_its_warm_start(started, tmp_path, rows_file):
    """The warm start is resumed with its own settings, whatever preset would be the default now."""
    command = [*GAN, "--preset", "tiny", "--estimator", "dense", "--warm-steps", "4", rows_file]
    succeed(started, tmp_path, [*command, "--out", "whole"])
    survive(
        started,
        tmp_path,
        [*command, "--out", "run"],
        [
            ("before", "tokenizer.model", 1),
            ("after", OPTIMIZER, 3),
            ("before", "model.safetensors", 1),
            # The end of the warm start: before and after it says that it is finished.
            ("before", "train.json", 3),
            ("after", "train.json", 3),
            ("after", OPTIMIZER, 1),
        ],
    )
    assert_equal(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))
    assert_equal(outcome(tmp_path / "run" / "warm-start"), outcome(tmp_path / "whole" / "warm-start"))


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(started, tmp_path, rows_file, vae, sent, status):
    command = [*VAE, rows_file, "--out", "run"]
    found, stderr = emogen(started, tmp_path, command, ("after", OPTIMIZER, 3, sent))
    assert found == status
    assert stderr.splitlines()[-1] == "emogen: stopped at step 3, state saved; go on with --resume --out run"
    assert torch.load(tmp_path / "run" / "train_state.pt", weights_only=True)["step"] == 3
    succeed(started, tmp_path, ["train-vae", "--resume", "--out", "run"])
    assert_equal(outcome(tmp_path / "run"), outcome(vae))


def test_a_warm_start_that_is_asked_to_stop_names_the_folder_of_the_run(started, tmp_path, rows_file):
    command = [*GAN, "--preset", "tiny", "--warm-steps", "4", rows_file, "--out", "run"]
    found, stderr = emogen(started, tmp_path, command, ("after", OPTIMIZER, 2, signal.SIGINT))
    assert found == 130
    assert stderr.splitlines()[-1] == "emogen: stopped in the warm start, state saved; go on with --resume --out run"
    succeed(started, tmp_path, ["train-gan", "--resume", "--out", "run"])


def test_an_interruption_before_training_is_one_line(started, tmp_path, rows_file):
    found, stderr = emogen(started, tmp_path, [*LM, rows_file, "--out", "run"], ("before", "tokenizer.model", 1, signal.SIGINT))
    assert (found, stderr.strip()) == (130, "emogen: interrupted")
