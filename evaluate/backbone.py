"""What an adapter on a pretrained model is worth: against the same model prompted, the default models, and people.

    emogen pull smollm2
    emogen data fetch goemotions && emogen data fetch dailydialog && emogen data fetch empatheticdialogues
    python evaluate/backbone.py --before runs/default-before --work runs/backbone

Part `texts`. Each system is asked for `--samples` texts of each of Ekman's six emotions and of neutral, once for each decoding
seed. Half of them have no context; half reply to a held-out utterance, of which every system reads the last one before the
reply, and no more. All systems and seeds get the same list and limit of tokens (of their own tokenizers). Checkpoints write
with their own default options, guidance among them, which were chosen on valid contexts by the adapter's guide; the prompted
base has none, so it writes at the lower of their temperatures, which favours it.

* `real`: test rows of GoEmotions and DailyDialog, whose labels are people's; EmpatheticDialogues labels the speaker's feeling
  and not the reply's, so its rows are no measure here. Half are replies where there are so many; fear and disgust have too few
  rows, so valid ones fill up as far as they go (`real_rows` in the result file counts). Left out are rows in which no emotion
  leads and texts that the judge was trained on; DailyDialog's copies of training dialogues went when the corpus was fetched.
* `prompt`: the base model as it stands, with three examples of the emotion. Several forms of prompt, each with two sets of
  examples of our own, are tried on valid contexts; the one whose texts `--guide` judges right most often is taken, one for all
  emotions. The guide is the recogniser that ships. It is built like the judge and shares rows with it, which can only help the
  prompt. An answer ends at its first line break; quotation marks around it go. `copied_examples` is the share of texts that are
  one of the examples.
* `adapter`, `default`, `default_before`: checkpoints. The judge must share neither rows nor architecture with them.

Contexts come from test rows of DailyDialog whose reply has the emotion, and from those of EmpatheticDialogues in whose reply
the guide finds it with a probability of .5; BLEU (13a, lower-cased) and ROUGE-L compare with these replies. `emotion_accuracy`
is the mean over the emotions. `perplexity` is that of the texts under the base without a prompt, a token of its tokenizer,
end tokens counted: what the base itself would write has a low one, so it says how usual a text is and not how good.
`tokens_per_second` is the median over the batches of the samples, the reading of prompts included, in tokens of the base.

Part `heldout`. Perplexity of test replies given their context, a token of the base's tokenizer; the token that ends a reply
counts as one more, for all alike. Both models read the same utterances, the newest ones that fit into the adapter's limit. The
base reads them in its chat format (where it has one), as lines, and as lines with speakers, where a line break is the end; its
best format is the one to compare with (`ratio`). The adapter is asked for no emotion. Both compute in float32.

Part `speed`. Seconds from the start of a process until the adapter is loaded, and until `emogen sample` prints its first line;
medians over processes, after one that is not counted. Then batches with mixed emotions beside `transformers.generate` of the
base, one after the other in turn: with a fixed number of tokens, where no row may end before, and as they end. The tokens are
those of the rows, not of their padding. The base reads the bare context, which is shorter than what the adapter reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from backbone_heldout import heldout_part
from backbone_plan import DIALOGUES, GOLD, PARTS, Found, Plan
from backbone_speed import speed_part
from backbone_texts import signatures, texts_part

from emogen.checkpoint.finding import find_checkpoint, shipped_folder
from emogen.cli import run
from emogen.data.corpora import locate
from emogen.emotions.labels import EKMAN
from emogen.errors import SettingsError
from emogen.evaluate.report import command_of, read_json, write_result
from emogen.files import sha256
from emogen.pretrained.bases import find_base
from emogen.recognition.recognizer import load_recognizer
from emogen.train.run.memory import keep_freed_memory

if TYPE_CHECKING:
    pass

RESULT = Path("evaluate/results/backbone.json")


def option(flag: str, default: object, text: str, kind: object = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return an option whose default is shown."""
    return click.option(flag, default=default, show_default=True, help=text, type=kind)


FOLDER = click.Path(file_okay=False, path_type=Path)
COUNT, TWO = click.IntRange(1), click.IntRange(2)


@click.command()
@option("--base", "smollm2", "The base model: its name or folder.")
@click.option(
    "--adapter", type=FOLDER, default=shipped_folder("smollm2-emotion"), help="Checkpoint.  [default: the one that ships]"
)
@click.option("--default", type=FOLDER, default=shipped_folder("default"), help="Checkpoint.  [default: the one that ships]")
@click.option("--before", type=FOLDER, help="Checkpoint: the default model before. Without it the row is left out.")
@click.option(
    "--judge", type=FOLDER, default=shipped_folder("judge"), help="Classifier that measures.  [default: the one that ships]"
)
@click.option(
    "--guide", type=FOLDER, default=shipped_folder("recognizer"), help="Classifier that chooses.  [default: the recogniser]"
)
@click.option("--allow-leak", is_flag=True, help="Go on where the judge shares rows or architecture with a checkpoint.")
@click.option("--work", type=FOLDER, required=True, help="Samples are kept here, and used again.")
@option("--parts", ",".join(PARTS), "What to measure; other parts stay in the result file.")
@option("--samples", 200, "Texts of each emotion.", TWO)
@option("--seeds", 3, "Decoding seeds.", COUNT)
@option("--dev", 20, "Texts of each emotion that choose the prompt.", TWO)
@option("--batch", 64, "Texts written at once.", COUNT)
@option("--temperature", 0.85, "Of the prompted base.", click.FloatRange(0, min_open=True))
@option("--top-p", 0.95, "Of the prompted base.", click.FloatRange(0, 1, min_open=True))
@option("--max-tokens", 48, "A text is cut after so many.", COUNT)
@option("--replies", 1000, "Held-out replies of each corpus.", TWO)
@option("--fixed", 32, "Tokens of each row, where speed is measured with a fixed number.", COUNT)
@option("--runs", 5, "Counted runs of what is timed.", COUNT)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(parts: str, out: Path, base: str, **options: Any) -> None:
    """Measure the adapter, its base and the default models; a part that is not asked for stays as it is in the result file."""
    target = parts_of(parts)
    plan = Plan(base=find_base(base), **options)
    refuse_missing(plan)
    keep_freed_memory()
    for name in target:
        found = {"texts": texts_part, "heldout": heldout_part, "speed": speed_part}[name](plan)
        write_part(out, name, found, plan, command_of(RESULT.stem, click.get_current_context()))


def parts_of(value: str) -> list[str]:
    """Return the parts by name, in the order in which they run; raise SettingsError for another name."""
    target = [name.strip() for name in value.split(",")]
    for name in target:
        if name not in PARTS:
            raise SettingsError(f"--parts: {name!r} is not one of {', '.join(PARTS)}")
    return [name for name in PARTS if name in target]


def refuse_missing(plan: Plan) -> None:
    """Raise CheckpointError where a folder holds no checkpoint, SettingsError where a classifier has other labels."""
    for folder in plan.authors.values():
        find_checkpoint(folder)
    for name, folder in (("judge", plan.judge), ("guide", plan.guide)):
        if set(load_recognizer(folder).names.names) != set(EKMAN.names):
            raise SettingsError(f"--{name} {folder}: has other labels than {', '.join(EKMAN.names)}")


def write_part(out: Path, part: str, found: Found, plan: Plan, command: str) -> None:
    """Put the rows of a part into the result file, in place of those that it had."""
    before = read_json(out) if out.is_file() else {"rows": []}
    rows = {name: [row for row in before["rows"] if row["part"] == name] for name in PARTS}
    rows[part] = [{"part": part, **row} for row in found.rows]
    weights = {name: sha256(folder / "model.safetensors") for name, folder in plan.models.items()}
    about = {"command": command, "threads": torch.get_num_threads(), "weights": weights, **found.notes}
    parts = before.get("parts", {}) | {part: about | {"signatures": signatures(found.rows)}}
    commands = dict.fromkeys(parts[name]["command"] for name in PARTS if name in parts)
    data = [*(locate(name) for name in dict.fromkeys((*GOLD, *DIALOGUES))), *plan.models.values()]
    write_result(out, " && ".join(commands), data, [row for name in PARTS for row in rows[name]], {"parts": parts})


# ---- held-out rows


# ---- texts


# ---- the base model, prompted


# ---- held-out replies


# ---- speed


if __name__ == "__main__":
    run(main, "backbone.py")
