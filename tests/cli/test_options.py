"""Settings: defaults, presets, TOML, environment and flags, in that order; and what they refuse."""

import dataclasses
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from emogen.cli.training import PRESETS, train_classifier, train_gan, train_lm, train_vae
from emogen.errors import SettingsError
from emogen.options import as_toml, check_settings, options_of, read_settings, resolve, setting
from emogen.train.config import ClassifierSettings, GanSettings, LmSettings, VaeSettings

COMMANDS = {
    "train-lm": (train_lm, LmSettings),
    "train-vae": (train_vae, VaeSettings),
    "train-gan": (train_gan, GanSettings),
    "train-classifier": (train_classifier, ClassifierSettings),
}


@dataclass(frozen=True)
class Recipe:
    flour: int = setting(500, "Grams.")
    salt: float = setting(10.0, "Grams.")
    shape: Literal["loaf", "roll"] = setting("loaf", "Of the bread.")
    name: str | None = setting(None, "What to call it.")
    steam: bool = setting(True, "In the oven.")


def bake(*arguments, env=None):
    """What the options of Recipe make of the arguments; None where they are not given."""
    found = {}

    @click.command()
    @options_of(Recipe)
    def command(**options):
        found.update(options)

    result = CliRunner().invoke(command, arguments, env=env)
    return found if result.exit_code == 0 else result


def shown(command, *arguments, env=None):
    """The settings that `emogen COMMAND --show-config` prints."""
    result = CliRunner().invoke(COMMANDS[command][0], [*arguments, "--show-config"], env=env, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return tomllib.loads(result.stdout)


def toml(folder, text):
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    return path


# ---- precedence


def test_a_default_gives_way_to_preset_file_environment_and_flag_in_this_order(tmp_path):
    preset = tomllib.loads(files("emogen.presets").joinpath("tiny.toml").read_text(encoding="utf-8"))["train-lm"]
    assert LmSettings().width == 256 != preset["width"]
    assert shown("train-lm", "--preset", "tiny")["width"] == preset["width"]
    config = ["--preset", "tiny", "--config", str(toml(tmp_path, "width = 24\n"))]
    assert shown("train-lm", *config)["width"] == 24
    assert shown("train-lm", *config, env={"EMOGEN_WIDTH": "32"})["width"] == 32
    assert shown("train-lm", *config, "--width", "40", env={"EMOGEN_WIDTH": "32"})["width"] == 40


def test_what_no_one_sets_keeps_its_default(tmp_path):
    found = shown("train-lm", "--preset", "tiny", "--config", str(toml(tmp_path, "width = 24\n")))
    assert found["weight_decay"] == LmSettings().weight_decay
    assert "vocabulary" not in found


def test_a_file_may_hold_a_table_for_each_command(tmp_path):
    config = ["--config", str(toml(tmp_path, "[train-lm]\nwidth = 24\n[train-vae]\nwidth = 48\n"))]
    assert shown("train-lm", *config)["width"] == 24
    assert shown("train-vae", *config)["width"] == 48


def test_options_that_are_not_given_are_none():
    assert bake() == {"flour": None, "salt": None, "shape": None, "name": None, "steam": None}
    assert bake("--no-steam", "--salt", "3") == {"flour": None, "salt": 3.0, "shape": None, "name": None, "steam": False}
    assert bake(env={"EMOGEN_FLOUR": "7", "EMOGEN_STEAM": "0"})["flour"] == 7
    assert bake(env={"EMOGEN_STEAM": "0"})["steam"] is False
    assert bake(env={"EMOGEN_FLOUR": ""})["flour"] is None


def test_later_tables_win_and_none_does_not_count():
    assert resolve(Recipe, {"flour": None, "salt": 1.0}, {"flour": 1}, {"flour": 2, "salt": 3.0}) == Recipe(flour=2, salt=1.0)


def test_help_shows_what_a_setting_is_for_and_its_default():
    @click.command()
    @options_of(Recipe)
    def command(**options):
        pass

    text = CliRunner().invoke(command, ["--help"]).stdout
    assert text.index("--flour") < text.index("--salt") < text.index("--shape")
    assert "[loaf|roll]" in text
    assert "Grams.  [default: 500]" in text
    assert "What to call it.\n" in text


# ---- refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flour = ", "cannot be read as TOML"),
        ("flower = 3", "unknown setting 'flower'; known are flour, name, salt, shape, steam"),
        ("flour = 1.5", "flour: 1.5 is no int"),
        ("flour = true", "flour: True is no int"),
        ('salt = "much"', "salt: 'much' is no float"),
        ("steam = 1", "steam: 1 is no bool"),
        ('shape = "bun"', "shape: 'bun' is not one of loaf, roll"),
        ("name = ['a']", "name: ['a'] is no str"),
        ("bake = 3", "unknown setting 'bake'"),
        ("[cook]\nflour = 3", "unknown setting 'cook'"),
        ("flour = 3\n[bake]\nsalt = 2", "'flour' stands outside [bake]; move it into that table"),
        ("[bake]\nflower = 3", "unknown setting 'flower'"),
    ],
)
def test_what_a_toml_file_cannot_say(tmp_path, text, message):
    path = toml(tmp_path, text)
    with pytest.raises(SettingsError) as refused:
        read_settings(path, Recipe, "bake")
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_not_utf8(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')
    for path in (tmp_path / "none.toml", tmp_path / "latin.toml", tmp_path):
        with pytest.raises(SettingsError, match="cannot be read as TOML"):
            read_settings(path, Recipe, "bake")


def test_names_may_be_written_with_dashes_and_whole_numbers_serve_as_floats():
    found = check_settings({"batch-size": 3, "learning-rate": 1}, LmSettings, "here")
    assert found == {"batch_size": 3, "learning_rate": 1.0}
    assert isinstance(found["learning_rate"], float)


@pytest.mark.parametrize("arguments", [("--shape", "bun"), ("--flour", "1.5"), ("--salt", "much"), ("--flower", "3")])
def test_what_a_flag_cannot_say_is_wrong_usage(arguments):
    assert bake(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (LmSettings, {"steps": 0}),
        (LmSettings, {"minutes": -1.0}),
        (LmSettings, {"minutes": float("nan")}),
        (LmSettings, {"learning_rate": 0.0}),
        (LmSettings, {"learning_rate": float("nan")}),
        (LmSettings, {"dropout": 1.0}),
        (LmSettings, {"width": 0}),
        (LmSettings, {"emotion_dropout": 1.5}),
        (VaeSettings, {"latent": 0}),
        (VaeSettings, {"target_rate": -1.0}),
        (GanSettings, {"samples": 1}),
        (GanSettings, {"rollouts": -1}),
        (GanSettings, {"chunk": 0}),
        (GanSettings, {"batch_size": -8}),
    ],
)
def test_impossible_values_name_option_value_and_what_is_allowed(settings, values):
    (name, value), *_ = values.items()
    with pytest.raises(SettingsError, match=f"^--{name.replace('_', '-')} {value}: allowed is .*[0-9]"):
        resolve(settings, values)


# ---- as TOML


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_suits_every_command_and_prints_as_a_file_that_reads_back(tmp_path, command, preset):
    kind = COMMANDS[command][1]
    with_preset = resolve(kind, {}, read_settings(Path(str(files("emogen.presets").joinpath(f"{preset}.toml"))), kind, command))
    path = toml(tmp_path, as_toml(with_preset))
    assert resolve(kind, {}, read_settings(path, kind, command)) == with_preset
    assert as_toml(kind(**shown(command, "--preset", preset))) == as_toml(with_preset)


def test_a_preset_file_holds_nothing_but_the_commands():
    for preset in PRESETS:
        content = tomllib.loads(files("emogen.presets").joinpath(f"{preset}.toml").read_text(encoding="utf-8"))
        assert content.keys() == COMMANDS.keys()


@given(
    st.builds(
        Recipe,
        flour=st.integers(),
        salt=st.floats(allow_nan=False),
        shape=st.sampled_from(["loaf", "roll"]),
        name=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        steam=st.booleans(),
    )
)
def test_any_settings_as_toml_read_back(recipe):
    read = tomllib.loads(as_toml(recipe))
    assert {field.name: read.get(field.name) for field in dataclasses.fields(Recipe)} == dataclasses.asdict(recipe)
