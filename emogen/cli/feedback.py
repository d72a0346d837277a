"""`emogen train-feedback` and `emogen feedback export | forget`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emogen.cli.printing import print_text
from emogen.errors import DataError, SettingsError
from emogen.options import Command, as_toml, check_settings, settings_from, settings_options
from emogen.train.config import FeedbackSettings

if TYPE_CHECKING:
    from emogen.checkpoint.model import EmotionModel
    from emogen.data.preferences import Preference, Rating
    from emogen.evaluate.resampling import SumStatistic
    from emogen.recognition.recognizer import Recognizer
    from emogen.train.fit_preference import Preferred

DEFAULT_STORE = "feedback.db"
_PAIR_FILES = (".jsonl", ".jsonl.gz")
_OTHER_FILES = (".json", ".json.gz", ".csv", ".tsv", ".txt", ".parquet")


def store_option(help_text: str) -> Callable[[Command], Command]:
    """Return the option that says where opinions are stored."""
    return click.option(
        "--feedback", "address", default=DEFAULT_STORE, envvar="EMOGEN_FEEDBACK", show_default=True, help=help_text
    )


_store = store_option("Where opinions are stored: an SQLite file, or an address as SQLAlchemy writes it.")


@click.command("train-feedback")
@store_option("Where opinions are stored (a file or an address of SQLAlchemy), or pairs (.jsonl).")
@click.option("--judge", metavar="DIR", help="Classifier that judges the emotion.  [default: the one that ships]")
@click.option(
    "--texts",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    help="Texts of each emotion that are written and judged; 0 writes none.",
)
@click.option("--resume", "resuming", is_flag=True, help="Go on with the run in --out, or the newest one.")
@click.option("--json", "as_object", is_flag=True, help="One JSON object in place of the table.")
@settings_options(FeedbackSettings)
def train_feedback(
    address: str,
    judge: str | None,
    texts: int,
    resuming: bool,
    as_object: bool,
    config_file: Path | None,
    show_config: bool,
    **given: Any,
) -> None:
    """Train the model in --checkpoint on what its users called good and bad, into a new checkpoint.

    Prints how often the better one of two replies is found likelier, on pairs whose contexts were held out, and how often a
    judge finds the emotion that was asked for: before and after. Where there are too few pairs of a good and a bad reply to the
    same message, single opinions are learnt from (--loss kto).
    """
    if resuming and config_file:
        raise SettingsError(f"--config {config_file}: a resumed run keeps its settings; change single ones by options")
    settings = settings_from("train-feedback", FeedbackSettings, config_file, given, _read_saved(given) if resuming else {})
    if show_config:
        click.echo(as_toml(settings), nl=False)
        return
    # Before the training: what cannot be judged should not end it.
    reader, notes = _reader(judge, settings) if texts else (None, [])
    found = _fit(address, settings, resuming)
    from emogen.evaluate.report import Report
    from emogen.evaluate.significance import paired_bootstrap

    judged = [_measure_emotion(found, reader, texts, settings)] if reader else []
    measured = [*_measure_preference(found), *judged]
    count = sum(len(one.before.sums) for one in judged)
    report = Report(
        systems={
            "before": {one.name: one.before.score() for one in measured},
            "after": {one.name: one.after.score() for one in measured},
        },
        texts={"before": count, "after": count},
        notes=[*_counts(found), *notes],
        comparisons=[("before", "after", one.name, paired_bootstrap(one.before, one.after)) for one in measured],
    )
    from emogen.evaluate.report import as_json, as_table

    click.echo(f"emogen: the new model stands in {found.folder}", err=True)
    if as_object:
        facts = {"checkpoint": str(found.folder), "start": str(found.start)}
        print_text(json.dumps(facts | json.loads(as_json(report)), ensure_ascii=False, indent=1))
    else:
        print_text(as_table(report), nl=False)


def _read_saved(given: dict[str, Any]) -> dict[str, object]:
    """Return the settings of the run that is resumed."""
    from emogen.train.fit_preference import COMMAND
    from emogen.train.run.folder import read_train_file, resumable_folder

    folder = resumable_folder(given["out"], COMMAND)
    settings = read_train_file(folder).get("settings", {})
    return check_settings(
        {name: value for name, value in settings.items() if value is not None}, FeedbackSettings, str(folder)
    ) | {"out": str(folder)}


def _fit(address: str, settings: FeedbackSettings, resuming: bool) -> Preferred[Preference] | Preferred[Rating]:
    """Train on pairs or on single opinions: as the settings say, else on pairs where there are enough of them."""
    from emogen.train.fit_preference import fit_preference, fit_unpaired

    name, pairs, ratings = _opinions(address, settings)
    if settings.loss == "kto" and not ratings:
        raise DataError(f"{name}: holds no single opinions; kto learns from a store, or take --loss dpo")
    enough = len(pairs) >= settings.min_pairs or len(ratings) < settings.min_pairs
    if settings.loss == "dpo" or (settings.loss == "auto" and enough):
        return fit_preference(pairs, name, settings, resuming)
    click.echo(f"emogen: {len(pairs)} pairs, {len(ratings)} single opinions: training on single opinions (KTO)", err=True)
    return fit_unpaired(ratings, name, settings, resuming)


def _opinions(address: str, settings: FeedbackSettings) -> tuple[str, list[Preference], list[Rating]]:
    """Return what the source may be called, its pairs, and its single opinions, which a file of pairs has not."""
    if address.endswith(_PAIR_FILES):
        from emogen.checkpoint.finding import find_checkpoint
        from emogen.checkpoint.folder import read_description
        from emogen.data.preferences import read_preferences

        labels = read_description(find_checkpoint(settings.checkpoint)).labels
        return Path(address).name, list(read_preferences(address, labels)), []
    if address.endswith(_OTHER_FILES):
        raise SettingsError(f"--feedback {address}: pairs are read from JSON Lines; write one object a line into a .jsonl file")
    from emogen.dialogue.feedback import FeedbackStore

    with FeedbackStore(address, create=False) as store:
        return store.name, store.pairs(), store.ratings()


def _reader(judge: str | None, settings: FeedbackSettings) -> tuple[Recognizer | None, list[str]]:
    """Return the judge; or None, and why the one that ships is none for this model. A named one that is none is refused."""
    from emogen.checkpoint.finding import find_checkpoint, shipped_folder
    from emogen.checkpoint.folder import read_description
    from emogen.recognition.recognizer import load_recognizer

    reader = load_recognizer(judge or shipped_folder("recognizer"), settings.device)
    labels = read_description(find_checkpoint(settings.checkpoint)).labels
    missing = [name for name in labels.names if name not in reader.names]
    if not missing:
        return reader, []
    message = f"no emotion accuracy: judge {reader.folder} knows no {', '.join(missing)}; name another with --judge"
    if judge:
        raise SettingsError(message)
    return None, [message]


@dataclass(frozen=True)
class _Measured:
    """One metric before and after."""

    name: str
    before: SumStatistic
    after: SumStatistic


def _counts(found: Preferred[Any]) -> list[str]:
    contexts = len({pair.context for pair in found.held_out})
    kind = "opinions" if _rates(found) else "pairs"
    notes = [f"{len(found.held_out)} {kind} of {contexts} contexts held out, {found.trained} trained on"]
    if found.unusable:
        notes.append(f"{found.unusable} {kind} left out: they stand there twice, or their replies are equal or blank")
    if found.left_out:
        notes.append(f"{found.left_out} {kind} left out: a reply too long for the model, or an emotion that it does not know")
    return notes


def _rates(found: Preferred[Any]) -> bool:
    """Tell whether single opinions were learnt from."""
    return hasattr(found.held_out[0], "is_good")


def _measure_preference(found: Preferred[Any]) -> list[_Measured]:
    """Return shares of the held-out pairs whose better reply is likelier, or has gained more than the worse one.

    Of single opinions the gains alone can be compared, of every good reply with every bad one.
    """
    from emogen.evaluate.preference import preference

    if _rates(found):
        gains = (found.after - found.before)[0]
        good, bad = ([place for place, one in enumerate(found.held_out) if one.is_good is kind] for kind in (True, False))
        margins = [float(gains[better] - gains[worse]) for better in good for worse in bad]
        owners = [found.held_out[better].context for better in good for _ in bad]
        if not margins:
            return []
        nothing = preference.statistic([0.0] * len(margins), owners)
        return [_Measured("reward_preference", nothing, preference.statistic(margins, owners))]
    owners = [pair.context for pair in found.held_out]

    def tally(better_and_worse: Any) -> SumStatistic:
        return preference.statistic((better_and_worse[0] - better_and_worse[1]).tolist(), owners)

    gained = found.after - found.before
    return [
        _Measured("preference", tally(found.before), tally(found.after)),
        _Measured("reward_preference", tally(0 * gained), tally(gained)),
    ]


def _measure_emotion(found: Preferred[Any], reader: Recognizer, texts: int, settings: FeedbackSettings) -> _Measured:
    """Return how often the judge finds the emotion that was asked for in texts of the old and of the new model."""
    from emogen.checkpoint.model import load
    from emogen.models.device import choose_device
    from emogen.recognition.leak import refuse_leaks

    device = choose_device(settings.device)
    # The new model has no calibration; without one both are told what is asked for.
    models = [replace(load(folder, device), calibration=None) for folder in (found.start, found.folder)]
    leak = refuse_leaks(reader.folder, [found.start, found.folder], allowed=True)
    before, after = (_accuracy(model, reader, found.held_out, texts, settings.seed, leak) for model in models)
    return _Measured("emotion_accuracy", before, after)


def _accuracy(
    model: EmotionModel, judge: Recognizer, held_out: Sequence[Preference | Rating], texts: int, seed: int, leak: str
) -> SumStatistic:
    """Of `texts` replies of each emotion, to the contexts of held-out pairs in turn."""
    from emogen.evaluate.emotion import emotion_accuracy, judged_labels

    contexts = list(dict.fromkeys(pair.context for pair in held_out))
    target = [name for name in model.labels.names for _ in range(texts)]
    replies = model.replies([contexts[place % len(contexts)] for place in range(len(target))], target, seed=seed)
    judged = judged_labels(judge.probabilities([reply.text for reply in replies]), judge.names.names)
    tally = emotion_accuracy.statistic(target, judged)
    return replace(tally, signature=f"{tally.signature}|judge:{judge.folder.name}|leak:{leak}")


@click.group("feedback")
def feedback() -> None:
    """Write out or forget what users think of replies."""


@feedback.command("export")
@_store
def export(address: str) -> None:
    """Print all opinions as JSON lines."""
    from emogen.dialogue.feedback import FeedbackStore, as_record

    with FeedbackStore(address, create=False) as store:
        for opinion in store.opinions():
            print_text(json.dumps(as_record(opinion), ensure_ascii=False))


@feedback.command("forget")
@_store
@click.option("--reply", default="", help="Id of a reply: the opinion on it goes.")
@click.option("--session", default="", help="Id of a session: all opinions in it go.")
def forget(address: str, reply: str, session: str) -> None:
    """Delete opinions for good, and say how many there were."""
    from emogen.dialogue.feedback import FeedbackStore

    with FeedbackStore(address, create=False) as store:
        click.echo(store.forget(reply=reply, session=session))
