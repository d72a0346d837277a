"""The command line: what goes where, exit statuses, and one line in place of a traceback for whatever a user gets wrong."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emogen.checkpoint import finding
from emogen.checkpoint import model as checkpoint
from emogen.cli import _COMMANDS, decoding, main, sampling
from emogen.emotions.labels import EKMAN
from emogen.models.device import Bfloat16Support
from emogen.train import corpus, fit

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
ROOT = Path(__file__).parents[2]
SMALL = ["--steps", "2", "--batch-size", "8", "--width", "16", "--layers", "1", "--device", "cpu", "--precision", "float32"]
GAN = ["--steps", "2", "--batch-size", "4", "--warmup-steps", "1", "--samples", "2", "--rollouts", "1", "--max-tokens", "5"]
GAN += ["--discriminator-width", "16", "--discriminator-layers", "1", "--device", "cpu", "--precision", "float32"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder of its own, with nothing in the environment and the token arrays inside."""
    for name in [name for name in os.environ if name.startswith("EMOGEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOGEN_DATA", str(tmp_path / "cache"))
    return tmp_path


def rows(count=40, **changes):
    """JSON lines like those of `rows_file`, with other fields where asked for."""
    fields = (
        {"reply": f"Day {n} was fine, so we went home.", "emotion": ("joy", "fear")[n % 2], "split": "train"}
        for n in range(count)
    )
    return "".join(json.dumps(row | changes) + "\n" for row in fields)


# ---- help and imports


def python(code):
    """What a fresh interpreter prints."""
    options = {"capture_output": True, "text": True, "cwd": ROOT, "check": True}
    return subprocess.run([sys.executable, "-c", code], **options).stdout


def test_no_help_imports_a_model_library():
    """One process asks for every help in turn, so that a slow import shows wherever it hides."""
    target = [
        ["--help"],
        *([name, "--help"] for name in _COMMANDS),
        ["train-gan", "--preset", "tiny", "--show-config"],
        ["--version"],
    ]
    code = f"""
import contextlib, io, sys
from emogen.cli import main
for arguments in {target!r}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(arguments)
    print(sorted({{"torch", "transformers", "sentencepiece", "safetensors"}} & set(sys.modules)), *arguments)
"""
    assert python(code).splitlines() == [" ".join(["[]", *arguments]) for arguments in target]


def test_help_lists_the_commands(emogen):
    status, out, err = emogen("--help")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.split("Commands:\n")[1].splitlines()] == list(_COMMANDS)


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_explains_itself(emogen, name):
    status, out, err = emogen(name, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: emogen {name}")


@pytest.mark.parametrize("module", ["emogen", "emogen.cli"])
def test_the_package_starts_without_torch(module):
    assert python(f"import sys, {module}; print('torch' in sys.modules)") == "False\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["train-lm", "--preset", "huge"],
        ["train-lm", "--colour", "red"],
        ["train-lm", "--steps", "many"],
        ["train-gan", "--estimator", "guess"],
        ["sample", "-n", "0"],
        ["sample", "extra"],
    ],
)
def test_wrong_usage_exits_with_two(emogen, arguments):
    status, out, err = emogen(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("Usage: emogen")


def test_a_wrong_environment_variable_is_wrong_usage(emogen, monkeypatch):
    monkeypatch.setenv("EMOGEN_STEPS", "many")
    status, _, err = emogen("train-lm", "--show-config")
    assert status == 2
    assert "Invalid value for '--steps': 'many'" in err


# ---- training


def test_training_prints_the_folder_alone(emogen, rows_file, folder):
    status, out, err = emogen("train-lm", rows_file, *SMALL, "--out", "mine")
    assert (status, out) == (0, "mine\n")
    assert "Traceback" not in err
    names = {"README.md", "config.json", "log.jsonl", "model.safetensors", "rows.npy", "tokenizer.model"}
    names |= {"train.json", "train_state.pt"}
    assert {path.name for path in (folder / "mine").iterdir()} == names
    facts = json.loads((folder / "mine" / "train.json").read_text())
    assert facts["finished"] is True
    assert (facts["command"], facts["steps"], facts["rows"]) == ("train-lm", 2, {"train": 32, "valid": 8})
    assert facts["settings"]["width"] == 16
    assert facts["sources"] == {"rows.jsonl": corpus.sha256(rows_file)}


@pytest.mark.parametrize(("command", "kind"), [("train-lm", "lm"), ("train-vae", "vae")])
def test_without_out_a_new_folder_becomes_the_latest(emogen, rows_file, folder, command, kind):
    for number in (1, 2):
        assert emogen(command, rows_file, *SMALL)[1] == f"checkpoints/{kind}-{number}\n"
        assert (folder / "checkpoints" / "latest").read_text() == f"{kind}-{number}\n"
    assert checkpoint.find_checkpoint() == Path(f"checkpoints/{kind}-2")


def test_two_runs_that_start_at_once_get_a_folder_each(emogen, rows_file, monkeypatch):
    """While the first prepares its data, a second starts and ends."""
    real, inner = fit.prepare, []

    def during(*arguments):
        monkeypatch.setattr(fit, "prepare", real)
        inner.append(fit.fit_lm([str(rows_file)], corpus.Reading(), fit.LmSettings(steps=1, width=16, device="cpu")))
        return real(*arguments)

    monkeypatch.setattr(fit, "prepare", during)
    assert emogen("train-lm", rows_file, *SMALL)[1] == "checkpoints/lm-1\n"
    assert inner == [Path("checkpoints/lm-2")]


def test_train_gan_on_a_vae_gives_a_generator_with_a_latent_that_samples(emogen, rows_file):
    assert emogen("train-vae", rows_file, *SMALL, "--latent", "3", "--out", "vae")[0] == 0
    status, out, _ = emogen("train-gan", rows_file, *GAN, "--init", "vae", "--out", "gan")
    assert (status, out) == (0, "gan\n")
    found = checkpoint.load("gan")
    assert found.description.kind == "generator"
    assert found.generator.config.latent == 3
    status, out, err = emogen("sample", "--checkpoint", "gan", "--emotion", "joy", "-n", "3", "--json")
    assert (status, len(out.splitlines()), err) == (0, 3, "")


def test_train_gan_with_a_guide_and_a_language_model_as_discriminator(emogen, refusal, rows_file, folder):
    """The guide's rows count as seen and its figure is logged; what reads other rows is refused."""
    other = (rows(30) + rows(8, split="valid")).replace("Day", "Night")
    (folder / "other.jsonl").write_text(other)
    for name, seed in (("one", "0"), ("two", "1")):
        assert emogen("train-lm", rows_file, *SMALL, "--seed", seed, "--out", name)[0] == 0
    assert emogen("train-lm", "other.jsonl", *SMALL, "--out", "strange")[0] == 0
    tiny = ["--steps", "2", "--width", "8", "--buckets", "64", "--device", "cpu"]
    assert emogen("train-classifier", "other.jsonl", "--backbone", "ngrams", *tiny, "--out", "guide")[0] == 0
    guided = ["--guide", "guide", "--emotion-reward", "0.5", "--estimator", "dense", "--potential", "log-odds"]
    found = emogen("train-gan", rows_file, *GAN, "--init", "one", "--discriminator", "lm:two", *guided, "--out", "gan")
    assert found[:2] == (0, "gan\n")
    seen = {int(row) for name in ("one", "guide") for row in np.load(f"{name}/rows.npy")}
    assert {int(row) for row in np.load("gan/rows.npy")} == seen
    assert emogen("train-gan", "--resume", "--out", "gan", "--steps", "10")[0] == 0
    logged = [json.loads(line) for line in (folder / "gan/log.jsonl").read_text().splitlines()]
    assert any(0 < line.get("emotion_reward", 0) < 1 for line in logged)
    for options, message in (
        (["--discriminator", "lm:strange", "--estimator", "dense"], "--discriminator lm:strange: has another tokenizer"),
        (["--discriminator", "lm:two", "--estimator", "gumbel"], "--discriminator lm:two: passes no gradient on to words"),
        (["--emotion-reward", "1"], "--emotion-reward 1.0 with --guide '': the two go together"),
        (["--guide", "one", "--emotion-reward", "1"], "one: is a generator, not a classifier"),
    ):
        status, line = refusal("train-gan", rows_file, *GAN, "--init", "one", *options, "--out", "none")
        assert (status in (1, 2), line[: len(message)]) == (True, message)
        assert not (folder / "none").exists()


@pytest.mark.parametrize("command", ["train-lm", "train-vae", "train-gan", "train-classifier", "train-head", "train-feedback"])
def test_bf16_on_a_processor_that_has_none(command, refusal, rows_file, folder, monkeypatch):
    """Refused at once, in one line and before anything is written, by whatever trains."""
    monkeypatch.setattr("emogen.train.run.state.probe_bfloat16", lambda _: Bfloat16Support(runs=False, is_faster=False))
    pairs = json.dumps({"context": ["Hi."], "better": "Hi!", "worse": "Go.", "emotion": "joy"}) + "\n"
    (folder / "pairs.jsonl").write_text(pairs * 20)
    files = ["--feedback", "pairs.jsonl"] if command == "train-feedback" else [rows_file]
    status, line = refusal(command, *files, "--precision", "bf16", "--device", "cpu")
    way_out = "pass --precision auto, or float32"
    assert (status, line) == (2, f"--precision bf16: this processor cannot train in bfloat16; {way_out}")
    assert not (folder / "checkpoints").exists()


def test_the_latest_model_may_be_the_start_and_stays_it_when_resumed(emogen, rows_file, folder):
    emogen("train-lm", rows_file, *SMALL)
    assert emogen("train-gan", rows_file, *GAN, "--init", "checkpoints/latest")[1] == "checkpoints/gan-1\n"
    status, out, _ = emogen("train-gan", "--resume", "--steps", "3")
    assert (status, out) == (0, "checkpoints/gan-1\n")
    assert json.loads((folder / "checkpoints/gan-1/train.json").read_text())["start"] == "checkpoints/lm-1"


def test_train_gan_starts_with_a_vae_of_its_own(emogen, rows_file, folder):
    status, _, _ = emogen(
        "train-gan", rows_file, *GAN, "--preset", "tiny", "--warm-steps", "1", "--estimator", "dense", "--out", "gan"
    )
    assert status == 0
    assert checkpoint.load("gan/warm-start").description.kind == "vae"
    assert json.loads((folder / "gan/warm-start/train.json").read_text())["settings"]["steps"] == 1


def test_a_chinese_table_with_its_own_column_names(emogen, folder):
    lines = [f"第{n}天,我们{('很开心', '很难过')[n % 2]}，然后回家了。,{('高兴', '悲伤')[n % 2]}" for n in range(40)]
    (folder / "对话.csv").write_text("问,答,心情\n" + "\n".join(lines) + "\n", encoding="utf-8-sig")
    columns = ["--reply-column", "答", "--emotion-column", "心情", "--context-column", "问"]
    status, out, _ = emogen("train-lm", "对话.csv", *columns, *SMALL, "--out", "模型")
    assert (status, out) == (0, "模型\n")
    assert checkpoint.load("模型").labels.names == ("悲伤", "高兴")
    status, out, _ = emogen("sample", "--checkpoint", "模型", "--emotion", "高兴", "--context", "第3天", "--seed", "1")
    assert (status, len(out.splitlines())) == (0, 1)


def test_a_zipped_table(emogen, folder):
    lines = [f"Day {n} was fine, so we went home.\t{('joy', 'fear')[n % 2]}" for n in range(40)]
    (folder / "rows.tsv.gz").write_bytes(gzip.compress(("text\tlabel\n" + "\n".join(lines) + "\n").encode()))
    assert emogen("train-lm", "rows.tsv.gz", *SMALL, "--out", "mine")[0] == 0


def test_only_one_label(emogen, folder):
    (folder / "one.jsonl").write_text(rows(emotion="joy"))
    (folder / "own.jsonl").write_text(rows(emotion="hunger"))
    for command, name, labels in (("train-vae", "one", EKMAN.names), ("train-lm", "own", ("hunger",))):
        assert emogen(command, f"{name}.jsonl", *SMALL, "--out", name)[0] == 0
        assert checkpoint.load(name).labels.names == labels


@pytest.mark.parametrize("command", ["train-lm", "train-vae"])
def test_a_held_out_split_that_is_missing_or_too_long_is_done_without(emogen, folder, command):
    (folder / "missing.jsonl").write_text(rows())
    (folder / "long.jsonl").write_text(rows() + rows(4, split="valid", reply="home " * 300))
    for name in ("missing", "long"):
        assert emogen(command, f"{name}.jsonl", *SMALL, "--out", name)[0] == 0
        assert "held_out" in (folder / name / "log.jsonl").read_text()


def test_several_files_make_one_corpus_and_one_name_may_stand_twice(emogen, folder):
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "rows.jsonl").write_text(rows(20, reply=f"Home of {name}."))
    arguments = ["train-lm", "a/rows.jsonl", "b/rows.jsonl", *SMALL, "--out"]
    assert emogen(*arguments, "first")[0] == 0
    (folder / "a" / "rows.jsonl").write_text(rows(30))
    assert emogen(*arguments, "second")[0] == 0
    facts = [json.loads((folder / name / "train.json").read_text()) for name in ("first", "second")]
    assert [each["rows"]["train"] for each in facts] == [40, 50]
    assert [set(each["sources"]) for each in facts] == [{"a/rows.jsonl", "b/rows.jsonl"}] * 2


# ---- resuming


@pytest.fixture
def begun(tiny_checkpoint, folder):
    """A finished run of five steps to go on with."""
    return Path(shutil.copytree(tiny_checkpoint, folder / "begun"))


def test_a_run_that_is_over_stays_as_it_is_when_resumed(emogen, begun):
    before = (begun / "model.safetensors").read_bytes()
    status, out, _ = emogen("train-lm", "--resume", "--out", "begun")
    assert (status, out) == (0, "begun\n")
    assert (begun / "model.safetensors").read_bytes() == before
    assert torch.load(begun / "train_state.pt", weights_only=True)["step"] == 5


def test_more_steps_go_on_from_there_and_the_rest_stays_as_saved(emogen, begun):
    before = json.loads((begun / "train.json").read_text())["settings"]
    assert emogen("train-lm", "--resume", "--out", "begun", "--steps", "7")[0] == 0
    facts = json.loads((begun / "train.json").read_text())
    assert facts["steps"] == 7
    assert facts["settings"] == before | {"steps": 7, "out": "begun"}


def test_a_resumed_run_reads_the_data_that_it_began_with(emogen, begun, rows_file, folder):
    """Without FILES it takes those of the run, not the starter corpus; the same rows may have moved."""
    facts = json.loads((begun / "train.json").read_text())
    assert facts["files"] == [str(rows_file)]
    assert emogen("train-lm", "--resume", "--out", "begun", "--steps", "6")[0] == 0
    again = json.loads((begun / "train.json").read_text())
    assert (again["files"], again["sources"]) == (facts["files"], facts["sources"])
    shutil.copy(rows_file, folder / "moved.jsonl")
    assert emogen("train-lm", "moved.jsonl", "--resume", "--out", "begun", "--steps", "7")[0] == 0


def test_a_resumed_run_reads_its_columns_as_it_did(emogen, folder):
    text = rows().replace('"reply"', '"says"').replace('"emotion"', '"feels"')
    (folder / "own.jsonl").write_text(text)
    columns = ["--reply-column", "says", "--emotion-column", "feels", "--labels", "joy,fear"]
    assert emogen("train-lm", "own.jsonl", *columns, *SMALL, "--out", "mine")[0] == 0
    assert emogen("train-lm", "--resume", "--out", "mine", "--steps", "3")[0] == 0
    assert checkpoint.load("mine").labels.names == ("joy", "fear")


def test_without_out_the_newest_run_of_the_command_is_resumed(emogen, rows_file, folder):
    for command in ("train-lm", "train-lm", "train-vae"):
        emogen(command, rows_file, *SMALL)
    os.utime(folder / "checkpoints/lm-1/train.json", (1, 1))
    assert emogen("train-lm", "--resume", "--steps", "3")[1] == "checkpoints/lm-2\n"
    os.utime(folder / "checkpoints/lm-2/train.json", (0, 0))
    assert emogen("train-lm", "--resume", "--steps", "3")[1] == "checkpoints/lm-1\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["--width", "32"],
            "--width 32: the run in begun began with 16, which cannot change; leave it out, or start anew with",
        ),
        (["--layers", "2"], "--layers 2: the run in begun began with 1"),
        (["--backbone", "transformer"], "--backbone transformer: the run in begun began with lstm"),
        (["--vocabulary", "400"], "--vocabulary 400: the run in begun began with None"),
        (["--seed", "1"], "--seed 1: the run in begun began with 0"),
        (["--steps", "0"], "--steps 0: allowed is 1 or more"),
        (["--config", "own.toml"], "--config own.toml: a resumed run keeps its settings"),
    ],
)
def test_what_cannot_change_is_refused_and_nothing_is_touched(refusal, begun, changes, message):
    before = {path.name: path.read_bytes() for path in begun.iterdir()}
    status, line = refusal("train-lm", "--resume", "--out", "begun", *changes)
    assert status == 2
    assert line.startswith(message)
    assert {path.name: path.read_bytes() for path in begun.iterdir()} == before


def test_nothing_to_resume(refusal, tiny_checkpoint, folder):
    assert refusal("train-lm", "--resume") == (1, "checkpoints: no run of train-lm to resume there; name its folder with --out")
    way_out = "no run to resume there; leave out --resume to start one"
    assert refusal("train-lm", "--resume", "--out", "nowhere") == (1, f"nowhere: {way_out}")
    shipped = folder / "checkpoints" / "default"
    shutil.copytree(tiny_checkpoint, shipped)
    (shipped / "train_state.pt").unlink()
    assert refusal("train-lm", "--resume", "--out", "checkpoints/default") == (1, f"checkpoints/default: {way_out}")
    assert refusal("train-lm", "--resume")[0] == 1
    assert checkpoint.load(shipped)


def test_a_run_of_another_command(refusal, begun):
    way_out = "go on with: emogen train-lm --resume --out begun"
    assert refusal("train-vae", "--resume", "--out", "begun") == (1, f"begun: holds a run of train-lm; {way_out}")


@pytest.mark.parametrize("content", ['{"settings": {"wid', "[]", '{"settings": 3}', "\xff"])
def test_a_half_written_account_of_the_run(refusal, begun, content):
    (begun / "train.json").write_bytes(content.encode("latin-1"))
    status, line = refusal("train-lm", "--resume", "--out", "begun")
    assert status == 1
    assert line.startswith("begun/train.json: ")


@pytest.mark.parametrize(
    "facts",
    ["{}", '{"settings": {"colour": "red"}}', '{"settings": {"steps": "many"}}', '{"settings": {"steps": 5}, "reading": 3}'],
)
def test_an_account_without_what_is_needed(refusal, begun, facts):
    (begun / "train.json").write_text(facts)
    status, line = refusal("train-lm", "--resume", "--out", "begun")
    assert status in (1, 2)
    assert line.startswith("begun")


def test_other_data_than_the_run_began_with(refusal, begun, folder):
    (folder / "other.jsonl").write_text(rows())
    status, line = refusal("train-lm", "other.jsonl", "--resume", "--out", "begun", "--steps", "9")
    assert status == 1
    assert line == "begun: the run began with rows.jsonl; other.jsonl holds other rows; pass the same files"


def test_another_start_than_the_run_began_with(emogen, refusal, rows_file, begun):
    assert emogen("train-gan", rows_file, *GAN, "--init", "begun", "--out", "gan")[0] == 0
    assert emogen("train-lm", "--resume", "--out", "begun", "--steps", "9", "--learning-rate", "0.1")[0] == 0
    status, line = refusal("train-gan", "--resume", "--out", "gan", "--steps", "4")
    assert (status, line) == (1, "begun: holds another model than the one that the run in gan began with")


def test_a_state_that_is_cut_short(refusal, begun):
    state = begun / "train_state.pt"
    state.write_bytes(state.read_bytes()[:5000])
    status, line = refusal("train-lm", "--resume", "--out", "begun")
    assert status == 1
    assert line.startswith("begun/train_state.pt: cannot be resumed (")


# ---- data that cannot be trained on

DATA = [
    ("empty.jsonl", "", "empty.jsonl: holds no rows"),
    ("broken.jsonl", rows(2) + '{"reply": "Hi\n' + rows(5), "broken.jsonl:3: broken JSON"),
    ("list.jsonl", rows(2) + "[1]\n", "list.jsonl:3: a JSON object is expected, found [1]"),
    ("bytes.jsonl", rows(2).encode() + b'{"reply": "caf\xe9", "emotion": "joy"}\n', "bytes.jsonl:3: byte 0xe9 at position"),
    ("unknown.jsonl", rows(2) + rows(1, emotion="=joy"), "unknown.jsonl:3: emotion"),
    (
        "column.csv",
        "words,mood\nHi,joy\n",
        "column.csv:2: no column 'reply' or 'text', nor 'emotion' or 'label', found words, mood; name them with --reply-column",
    ),
    ("lone.jsonl", rows() + rows(1, emotion="disgust"), "emotion 'disgust' has a single row to train on (held-out"),
    ("held.jsonl", rows() + rows(1, emotion="disgust", split="test"), "emotion 'disgust' has a single row to train on"),
    ("one.jsonl", rows(1), "emotion 'joy' has a single row to train on"),
    (
        "words.jsonl",
        rows(2) + rows(1, reply="word " * 10_000),
        "words.jsonl:3: reply has 10000 words, more than 1000; split it",
    ),
    (
        "long.jsonl",
        rows(4, reply="far too long a reply " * 40),
        "no row is left to train on: check the splits, or raise --reply-tokens",
    ),
    ("test.jsonl", rows(9, split="test"), "no text to train a tokenizer on"),
    ("file.xml", "<a/>", "file.xml: ending '.xml' is not one of .jsonl"),
    ("zipped.jsonl.gz", "no gzip", "zipped.jsonl.gz: cannot be read (Not a gzipped file"),
    ("open.csv", 'text,emotion\n"Hi,joy\n', "open.csv:2: broken table row"),
]


@pytest.mark.parametrize(("name", "content", "message"), DATA, ids=[name for name, _, _ in DATA])
@pytest.mark.parametrize("command", ["train-lm", "train-gan"])
def test_data_that_cannot_be_trained_on(refusal, folder, name, content, message, command):
    """One line with the place, exit status 1, and no folder left over; train-gan gets there by way of its warm start."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    status, line = refusal(command, name, "--preset", "tiny")
    assert (status, line[: len(message)]) == (1, message)
    assert list((folder / "checkpoints").iterdir()) == []


def test_an_unknown_emotion_lists_the_labels(refusal, folder):
    (folder / "rows.jsonl").write_text(rows(2) + rows(1, emotion="hunger"))
    status, line = refusal("train-lm", "rows.jsonl", "--labels", "ekman")
    assert (status, line) == (
        1,
        f"rows.jsonl:3: emotion 'hunger' is not one of {', '.join(EKMAN.names)}; "
        "map it with --map hunger=LABEL, or pass --labels",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "none.jsonl: cannot be read (No such file or directory)"),
        (["none.jsonl", "--labels", "ekman"], "none.jsonl: cannot be read (No such file or directory)"),
        (["folder.d"], "folder.d: "),
        (["folder.d", "--labels", "ekman"], "folder.d: "),
        (["folder"], "'folder' is neither a file nor a corpus (starter, septet"),
        (["goemotions"], "corpus 'goemotions' is not in "),
        (["-"], "-: training reads its data more than once, so not from a pipe; give a file"),
        pytest.param(["pipe.jsonl"], "pipe.jsonl: training reads its data more than once, so not from a pipe", marks=POSIX),
    ],
)
def test_data_that_is_not_there(refusal, folder, arguments, message):
    (folder / "folder").mkdir()
    (folder / "folder.d").mkdir()
    if arguments == ["pipe.jsonl"]:
        os.mkfifo(folder / "pipe.jsonl")
    status, line = refusal("train-lm", *arguments)
    assert (status, line[: len(message)]) == (1, message)


def test_missing_data_for_a_start_whose_labels_are_known(refusal, tiny_checkpoint):
    status, line = refusal("train-gan", "none.jsonl", "--init", tiny_checkpoint)
    assert (status, line) == (1, "none.jsonl: cannot be read (No such file or directory)")


# ---- settings that cannot be


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("train-lm", ["--steps", "0"], "--steps 0: allowed is 1 or more"),
        ("train-lm", ["--minutes", "-1"], "--minutes -1.0: allowed is 0 or more"),
        ("train-lm", ["--minutes", "nan"], "--minutes nan: allowed is 0 or more"),
        ("train-lm", ["--learning-rate", "nan"], "--learning-rate nan: allowed is above 0"),
        ("train-lm", ["--batch-size", "-3"], "--batch-size -3: allowed is 1 or more"),
        ("train-lm", ["--labels", "joy"], "labels 'joy': give ekman"),
        ("train-lm", ["--backbone", "transformer", "--width", "10"], "width 10 does not split into 4 heads"),
        ("train-vae", ["--width", "10"], "width 10 does not split into 4 encoder heads"),
        ("train-vae", ["--latent", "0"], "--latent 0: allowed is 1 or more"),
        ("train-lm", ["--vocabulary", "3"], "--vocabulary 3: "),
        ("train-lm", ["--vocabulary", "-3"], "--vocabulary -3: "),
        ("train-lm", ["--config", "none.toml"], "none.toml: cannot be read as TOML"),
        ("train-lm", ["--config", "own.toml"], "own.toml: unknown setting 'widht'; known are backbone, batch_size"),
        ("train-gan", ["--samples", "1"], "--samples 1: allowed is 2 or more"),
        (
            "train-gan",
            ["--init", "tiny", "--warmup-steps", "0", "--discriminator-width", "10"],
            "discriminator width 10 does not split into 4 heads",
        ),
        ("train-gan", ["--warmup-steps", "9"], "--steps 2: the first --warmup-steps 9 train the discriminator alone"),
    ],
)
def test_settings_that_cannot_be(refusal, folder, rows_file, tiny_checkpoint, command, arguments, message):
    (folder / "own.toml").write_text("widht = 3\n")
    arguments = [tiny_checkpoint if argument == "tiny" else argument for argument in arguments]
    status, line = refusal(command, rows_file, "--steps", "2", *arguments)
    assert (status, line[: len(message)]) == (2, message)
    assert not (folder / "checkpoints").exists() or list((folder / "checkpoints").iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(refusal, rows_file, tiny_checkpoint):
    message = "--device cuda: this PyTorch sees no CUDA device; pass --device cpu, or auto"
    assert refusal("train-lm", rows_file, "--device", "cuda") == (2, message)
    assert refusal("sample", "--checkpoint", tiny_checkpoint, "--device", "cuda") == (2, message)


# ---- folders that cannot be written to


def test_a_folder_that_holds_another_run_or_a_model(emogen, refusal, rows_file, begun):
    before = {path.name: path.read_bytes() for path in begun.iterdir()}
    message = "begun: holds another run; pass --resume to go on with it, or another --out"
    assert refusal("train-vae", rows_file, *SMALL, "--out", "begun") == (1, message)
    assert {path.name: path.read_bytes() for path in begun.iterdir()} == before
    (begun / "train_state.pt").unlink()
    assert refusal("train-lm", rows_file, *SMALL, "--out", "begun") == (
        1,
        "begun: holds a config.json already; choose another --out",
    )


def test_what_a_run_left_that_never_got_to_train_is_written_over(emogen, rows_file, tiny_checkpoint, folder):
    """A tokenizer of other data is not taken over."""
    (folder / "mine").mkdir()
    (folder / "mine" / "tokenizer.model").write_bytes(b"of another corpus")
    (folder / "mine" / "train.json").write_text('{"command": "train-vae", "sources": {"a": "b"}}')
    assert emogen("train-lm", rows_file, *SMALL, "--out", "mine")[0] == 0
    assert (folder / "mine" / "tokenizer.model").read_bytes() == (tiny_checkpoint / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("out", ["file", "file/inside"])
def test_a_folder_under_a_file(refusal, folder, rows_file, out):
    (folder / "file").write_text("mine")
    status, line = refusal("train-lm", rows_file, *SMALL, "--out", out)
    assert status == 1
    assert line.startswith(out)
    assert line.endswith("choose another --out")
    assert (folder / "file").read_text() == "mine"


def test_a_folder_that_may_not_be_made(refusal, rows_file, monkeypatch):
    def forbidden(self, *_arguments, **_options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", forbidden)
    message = "cannot be made a folder (Permission denied); choose another --out"
    assert refusal("train-lm", rows_file, *SMALL, "--out", "mine") == (1, f"mine: {message}")
    assert refusal("train-lm", rows_file, *SMALL) == (1, f"checkpoints: {message}")


def test_a_full_disk(refusal, rows_file, begun, monkeypatch):
    real = os.fsync

    def full(descriptor):
        if "train_state" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        real(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    monkeypatch.setattr(os, "fsync", full)
    status, line = refusal("train-lm", "--resume", "--out", "begun", "--steps", "9", "--save-every", "7")
    assert status == 1
    assert line == "begun/train_state.pt: cannot be written (No space left on device); what stood there is untouched"
    assert torch.load(begun / "train_state.pt", weights_only=True)["step"] == 5
    assert checkpoint.load(begun)


# ---- training that goes wrong


@pytest.mark.parametrize("rate", ["1e30", "1e200"])
def test_a_run_that_explodes_stops_and_keeps_the_last_good_model(refusal, begun, rate):
    before = (begun / "model.safetensors").read_bytes()
    resumed = ["--resume", "--out", "begun", "--steps", "50", "--validate-every", "1", "--save-every", "50"]
    status, line = refusal("train-lm", *resumed, "--learning-rate", rate)
    assert status == 1
    assert "lower the learning rate; the last good state stands in begun/train_state.pt" in line
    assert (begun / "model.safetensors").read_bytes() == before
    assert torch.load(begun / "train_state.pt", weights_only=True)["step"] == 5
    assert checkpoint.load(begun).sample("joy")


def test_adversarial_training_that_explodes(refusal, rows_file, tiny_checkpoint, folder):
    arguments = [*GAN, "--steps", "30", "--learning-rate", "1e30", "--init", tiny_checkpoint, "--out", "gan"]
    status, line = refusal("train-gan", rows_file, *arguments)
    assert status == 1
    assert "lower the learning rate" in line


def greedy(*_arguments):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


def test_memory_that_runs_short_names_what_to_lower(refusal, rows_file, monkeypatch):
    monkeypatch.setattr(fit, "held_out_nll", greedy)
    status, line = refusal("train-lm", rows_file, *SMALL, "--out", "mine")
    assert status == 1
    assert line.startswith("step 3: out of memory; lower --batch-size (now 8), --reply-tokens (now 40)")


def test_a_model_too_large_for_memory_names_what_to_lower(refusal, rows_file, monkeypatch):
    monkeypatch.setattr(fit, "Generator", greedy)
    status, line = refusal("train-lm", rows_file, *SMALL, "--out", "mine")
    assert status == 1
    assert line.startswith("out of memory; lower --batch-size (now 8), --width (now 16), --layers (now 1)")
    assert not Path("mine").exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_memory_that_runs_short_elsewhere_is_one_line(refusal, tiny_checkpoint, monkeypatch, error):
    def short(*_arguments):
        raise error

    monkeypatch.setattr(checkpoint, "sample", short)
    assert refusal("sample", "--checkpoint", tiny_checkpoint)[0] == 1


def test_an_error_of_ours_keeps_its_traceback(tiny_checkpoint, monkeypatch):
    def wrong(*_arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(checkpoint, "sample", wrong)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["sample", "--checkpoint", str(tiny_checkpoint)])


def test_an_interruption_while_data_is_prepared(emogen, rows_file, monkeypatch, folder):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "prepare", interrupted)
    status, out, err = emogen("train-lm", rows_file)
    assert (status, out, err.strip()) == (130, "", "emogen: interrupted")
    assert list((folder / "checkpoints").iterdir()) == []


def test_an_interruption_while_the_model_is_saved_leaves_no_half_file(emogen, rows_file, begun, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    before = (begun / "train_state.pt").read_bytes()
    monkeypatch.setattr(
        os, "replace", lambda source, target: interrupted() if "state" in str(target) else os.rename(source, target)
    )
    assert emogen("train-lm", "--resume", "--out", "begun", "--steps", "6")[0] == 130
    assert (begun / "train_state.pt").read_bytes() == before
    assert not list(begun.glob(".*"))


# ---- sampling


def test_one_emotion_gives_texts_alone(emogen, tiny_checkpoint):
    status, out, err = emogen("sample", "--checkpoint", tiny_checkpoint, "--emotion", "joy", "-n", "3", "--seed", "1")
    expected = checkpoint.load(tiny_checkpoint).sample("joy", 3, seed=1)
    assert (status, err) == (0, "")
    assert out.split("\n") == [*(" ".join(sample.text.split()) for sample in expected), ""]


def test_without_emotion_there_is_a_line_for_each(emogen, tiny_checkpoint):
    status, out, _ = emogen("sample", "--checkpoint", tiny_checkpoint)
    assert status == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == list(EKMAN.names)


def test_several_emotions_are_named_before_their_texts(emogen, tiny_checkpoint):
    mixture = "joy=0.7,sadness=0.3"
    _, out, _ = emogen("sample", "--checkpoint", tiny_checkpoint, "--emotion", mixture, "--emotion", "fear", "-n", "2")
    assert [line.split("\t")[0] for line in out.splitlines()] == [mixture, mixture, "fear", "fear"]


def test_json_is_an_object_a_line(emogen, tiny_checkpoint):
    arguments = [
        "sample",
        "--checkpoint",
        tiny_checkpoint,
        "--emotion",
        "joy",
        "-n",
        "4",
        "--json",
        "--max-tokens",
        "5",
        "--seed",
        "3",
    ]
    status, out, err = emogen(*arguments)
    assert (status, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == 4
    for row in found:
        assert list(row) == ["text", "emotion", "log_probability", "tokens", "finished", "seed"]
        assert (row["emotion"], row["seed"]) == ("joy", 3)
        assert row["log_probability"] < 0
        assert 1 <= row["tokens"] <= 5
        assert row["finished"] or row["tokens"] == 5
    assert emogen(*arguments)[1] == out


def test_without_a_seed_each_call_writes_others_and_tells_how_to_repeat_them(emogen, tiny_checkpoint):
    arguments = ["sample", "--checkpoint", tiny_checkpoint, "--emotion", "joy", "-n", "3", "--json"]
    first, second = (emogen(*arguments)[1] for _ in range(2))
    assert first != second
    seed = json.loads(first.splitlines()[0])["seed"]
    assert emogen(*arguments, "--seed", seed)[1] == first


def test_options_reach_the_sampler(emogen, tiny_checkpoint):
    def texts(*options):
        return emogen(
            "sample", "--checkpoint", tiny_checkpoint, "--emotion", "joy", "--seed", "1", "-n", "3", "--json", *options
        )[1]

    plain = [json.loads(line)["text"] for line in texts().splitlines()]
    model = checkpoint.load(tiny_checkpoint)
    given = {"--temperature": "2", "--top-k": "3", "--top-p": "0.2", "--min-p": "0.9", "--max-tokens": "3"}
    for option, value in given.items():
        name, number = option[2:].replace("-", "_"), float(value) if "." in value else int(value)
        options = replace(model.default_sampling, **{name: number})
        found = [json.loads(line)["text"] for line in texts(option, value).splitlines()]
        assert found == [sample.text for sample in model.sample("joy", 3, (), options, 1)] != plain
    greedy_texts = {json.loads(line)["text"] for line in texts("--temperature", "0").splitlines()}
    assert len(greedy_texts) == 1
    assert texts("--strength", "0.5") != texts()
    assert texts("--context", "How was day 3?", "--context", "Tell me!") != texts()


def test_a_reply_is_a_sample_with_context(emogen, tiny_checkpoint):
    options = ["--checkpoint", tiny_checkpoint, "--emotion", "joy", "--seed", "2", "-n", "2"]
    status, out, err = emogen("reply", "How was day 3?", "Tell me!", *options)
    assert (status, err) == (0, "")
    assert out == emogen("sample", "--context", "How was day 3?", "--context", "Tell me!", *options)[1]
    unasked = emogen("reply", "Tell me!", "--checkpoint", tiny_checkpoint, "--json", "--seed", "2")[1]
    assert json.loads(unasked)["emotion"] == "none"
    assert emogen("reply", "--emotion", "joy")[0] == 2


def test_the_model_that_nobody_named_is_said(emogen, tiny_checkpoint, monkeypatch):
    """The adapter where its base is at hand; else the small model, with the command that brings the base."""
    monkeypatch.setattr(finding, "CHECKPOINTS", tiny_checkpoint / "none")
    monkeypatch.setattr(finding, "best_shipped", lambda: tiny_checkpoint)
    monkeypatch.setattr(finding, "shipped_folder", {"default": tiny_checkpoint, finding.ADAPTER: tiny_checkpoint / "none"}.get)
    assert emogen("sample", "--emotion", "joy")[2] == f"emogen: writing with {tiny_checkpoint.name}\n"
    monkeypatch.setattr(finding, "better_than", lambda folder: "emogen pull tiny")
    line = f"emogen: writing with {tiny_checkpoint.name}; for better texts: emogen pull tiny\n"
    assert emogen("reply", "Hello.")[2] == line


def test_the_environment_names_the_checkpoint(emogen, tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("EMOGEN_CHECKPOINT", str(tiny_checkpoint))
    assert emogen("sample", "--emotion", "joy")[0] == 0


def test_a_text_of_several_lines_is_one_line_and_any_text_can_be_printed(emogen, tiny_checkpoint, monkeypatch):
    texts = iter(["first\nsecond\u2028third\r\n", "half \ud83d of a pair"])
    real = checkpoint.sample

    def odd(*arguments):
        for sample in real(*arguments):
            yield checkpoint.replace(sample, text=next(texts))

    monkeypatch.setattr(checkpoint, "sample", odd)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(SystemExit) as ended:
        main(["sample", "--checkpoint", str(tiny_checkpoint), "--emotion", "joy", "-n", "2"])
    assert ended.value.code == 0
    assert sys.stdout.buffer.getvalue() == b"first second third\nhalf \\ud83d of a pair\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--emotion", "hunger"], f"emotion 'hunger' is not one of {', '.join(EKMAN.names)}"),
        (["--emotion", "joy=0.7,fear=0.7"], "emotion 'joy=0.7,fear=0.7': emotion weights sum to 1.4, not to 1"),
        (["--emotion", "joy=much"], "emotion 'joy=much': 'much' is not a number"),
        (["--temperature", "-1"], "--temperature -1.0: allowed is between 0 and 100"),
        (["--temperature", "nan"], "--temperature nan: allowed is between 0 and 100"),
        (["--top-p", "2"], "--top-p 2.0: allowed is above 0 and at most 1"),
        (["--top-k", "-1"], "--top-k -1: allowed is 0 (off) or more"),
        (["--min-p", "1.5"], "--min-p 1.5: allowed is between 0 and 1"),
        (["--max-tokens", "0"], "--max-tokens 0: allowed is between 1 and 4096"),
        (["--strength", "2"], "strength 2 is not between 0 and 1"),
        (["--device", "tpu"], "--device tpu: allowed is auto, cpu or cuda"),
        (["--context", " "], "the context is empty; leave it out to write without one"),
    ],
)
def test_what_cannot_be_sampled(refusal, tiny_checkpoint, arguments, message):
    status, line = refusal("sample", "--checkpoint", tiny_checkpoint, *arguments)
    assert (status, line[: len(message)]) == (2, message)


def test_checkpoints_that_cannot_be_read(refusal, tiny_checkpoint, folder):
    assert refusal("sample", "--checkpoint", "none")[0] == 1
    assert refusal("sample", "--checkpoint", "n" * 300)[0] == 1
    for name, content in (("model.safetensors", b"short"), ("tokenizer.model", b"short"), ("config.json", b'{"format": 7}')):
        broken = shutil.copytree(tiny_checkpoint, folder / name)
        (broken / name).write_bytes(content)
        status, line = refusal("sample", "--checkpoint", broken)
        assert status == 1
        assert line.startswith(f"{broken / name}: ")
    status, line = refusal("train-gan", "--init", "none")
    assert (status, line) == (1, "none: no checkpoint there (no config.json); train one, or name another folder")


@POSIX
def test_a_reader_that_has_seen_enough_ends_it_in_silence(tiny_checkpoint):
    command = [sys.executable, "-m", "emogen", "sample", "--checkpoint", tiny_checkpoint, "-n", "1000", "--max-tokens", "9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_each_emotion_is_written_as_alone_and_all_in_one_batch(emogen, tiny_checkpoint, monkeypatch):
    options = ["--checkpoint", tiny_checkpoint, "-n", "2", "--seed", "5"]
    calls = []
    real = checkpoint.sample
    monkeypatch.setattr(checkpoint, "sample", lambda *given: calls.append(len(given[1])) or real(*given))
    together = emogen("sample", *options)[1].splitlines()
    assert calls == [len(EKMAN)]
    alone = {name: emogen("sample", "--emotion", name, *options)[1].splitlines() for name in EKMAN.names}
    assert together == [f"{name}\t{line}" for name in EKMAN.names for line in alone[name]]


def test_texts_written_at_once_are_printed_in_turn(emogen, tiny_checkpoint):
    options = ["--checkpoint", tiny_checkpoint, "--seed", "5"]
    assert emogen("sample", "--stream", *options)[1] == emogen("sample", *options)[1]


def test_a_terminal_gets_texts_as_they_are_written(emogen, tiny_checkpoint, monkeypatch):
    """But not where a text is chosen among several, as a reply without emotion is by default."""
    streamed = []
    real = checkpoint.stream_steps
    monkeypatch.setattr(checkpoint, "stream_steps", lambda *given: streamed.append(given) or real(*given))
    monkeypatch.setattr(sampling, "stdout_is_terminal", lambda: True)
    for command in (
        ["sample"],
        ["sample", "--json"],
        ["sample", "--no-stream"],
        ["reply", "Hello."],
        ["reply", "Hi.", "--stream"],
    ):
        emogen(*command, "--checkpoint", tiny_checkpoint, "--seed", "1")
    assert len(streamed) == 2


def test_long_writing_names_the_faster_model(emogen, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(decoding, "_LONG_SECONDS", 0.0)
    options = ["--checkpoint", tiny_checkpoint, "--emotion", "joy", "-n", "3"]
    assert emogen("sample", *options)[2] == ""
    monkeypatch.setattr(checkpoint, "faster_than", lambda model: "--checkpoint small")
    line = emogen("sample", *options)[2]
    assert line.startswith(f"emogen: 3 texts by {tiny_checkpoint.name} take ")
    assert line.endswith("faster: --checkpoint small\n")


def test_the_latest_model_is_named_where_it_writes_in_place_of_one_that_ships(
    emogen, tiny_checkpoint, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoints" / "mine")
    (tmp_path / "checkpoints" / "latest").write_text("mine\n")
    line = emogen("sample", "--emotion", "joy")[2]
    assert "writing with checkpoints/mine, which checkpoints/latest names, not with the model that ships" in line
    checkpoint.load()
    assert "checkpoints/latest names" in caplog.text


# ---- names that are nearly right


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("smaple", "sample"),
        ("train_gan", "train-gan"),
        ("TRAIN-LM", "train-lm"),
        ("evalaute", "evaluate"),
        ("recognise", "recognize"),
    ],
)
def test_a_wrong_command_is_told_the_right_one(emogen, typed, meant):
    status, out, err = emogen(typed, "--json")
    assert (status, out) == (2, "")
    assert f"No such command '{typed}'. Did you mean '{meant}'" in err


def test_a_command_like_no_other_gets_no_guess(emogen):
    status, _, err = emogen("xyzzy")
    assert status == 2
    assert err.endswith("No such command 'xyzzy'.\n")


def test_a_message_in_letters_that_the_model_does_not_write_is_told(emogen):
    given = ["--checkpoint", checkpoint.shipped_folder("default"), "--max-tokens", "2", "--control", "none", "--seed", "1"]
    assert "the message is in Chinese characters" in emogen("reply", "我今天丢了工作。", *given)[2]
    assert emogen("reply", "I lost my job today.", *given)[2] == ""
