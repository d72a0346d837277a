"""A customer who is upset: the state of his emotion after every turn, a soothing reply, and a plot of its course.

    pip install matplotlib
    python examples/customer_service.py --plot course.png             # replies that the model writes
    python examples/customer_service.py --choose --plot course.png    # the fittest of ten sentences that somebody approved

Every turn is recognised, added to the state (an earlier turn counts half as much), and answered with the emotion that the
policy `soothe` finds for the state. The words of the customer and the sentences to choose from are made up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
from matplotlib.figure import Figure

import emogen
from emogen.checkpoint.model import EmotionModel
from emogen.cli import run
from emogen.dialogue.context_fit import mutual_information
from emogen.dialogue.match import Aim, candidates, emotion_fit, rank
from emogen.dialogue.policy import describe_emotion, find_policy
from emogen.dialogue.state import EmotionState, felt
from emogen.emotions.labels import Emotion
from emogen.emotions.space import Trajectory, trajectory
from emogen.recognition.recognizer import Recognizer

CUSTOMER = (
    "Hello, my parcel should have been here on Monday.",
    "This is the third time I call you and nobody helps me! I am really angry!",
    "It was a birthday present for my son. He cried all evening.",
    "I'm afraid it is lost, and I cannot pay for another one.",
    "Oh, you found it? I did not expect that!",
    "It will be here tomorrow? That is wonderful, thank you so much!",
)
APPROVED = (
    "Hello, I am sorry. I will look for your parcel at once.",
    "I understand that you are upset, and I am sorry that nobody helped you.",
    "That is very sad. I am sorry for your son.",
    "Please don't worry, you will not have to pay for it.",
    "I have found your parcel. It is in our warehouse.",
    "Yes, you will have it before noon.",
    "You are very welcome! I am happy that we could help.",
    "Could you tell me the number of your order, please?",
    "Thank you for your patience.",
    "Goodbye, and have a lovely day!",
)
Answer = Callable[[Sequence[str], Emotion], str]
"""From the conversation so far, oldest utterance first, and an emotion to a reply."""


@click.command()
@click.option("--checkpoint", help="Folder of a model  [default: as for emogen reply]")
@click.option("--choose", is_flag=True, help="Choose among approved sentences; the model only says what fits.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), default="course.png", show_default=True)
def main(checkpoint: str | None, choose: bool, picture: Path) -> None:
    """Answer a customer, and draw how he felt."""
    model, recognizer = emogen.load(checkpoint), emogen.load_recognizer()
    answer = partial(chosen, model, recognizer) if choose else partial(written, model)
    course = converse(recognizer, model, answer)
    draw(course, picture)
    click.echo(f"{course.as_text()}\ndrawn in {picture}")


def converse(recognizer: Recognizer, model: EmotionModel, answer: Answer) -> Trajectory:
    """Return the conversation, told while it goes on; give the course of the customer's emotion."""
    policy = find_policy("soothe", recognizer.names, model.labels)
    states: list[EmotionState] = []
    said: list[str] = []
    for line in CUSTOMER:
        states.append(felt(recognizer, [line], decay=0.5, before=states[-1] if states else None))
        target = policy.answer(states[-1].emotion)
        said.append(line)
        said.append(answer(said, target))
        seen, shown = describe_emotion(states[-1].emotion), describe_emotion(target)
        click.echo(f"customer: {line}\n  feels {seen}\n  soothed by {shown}\nwe: {said[-1]}\n")
    return trajectory([state.emotion for state in states])


def written(model: EmotionModel, said: Sequence[str], target: Emotion) -> str:
    """Return a reply that the model writes; the length of the conversation seeds it."""
    return model.reply(said, target, seed=len(said)).text


def chosen(model: EmotionModel, recognizer: Recognizer, said: Sequence[str], target: Emotion) -> str:
    """Of the approved sentences the one that fits emotion and context best, and was not said before."""
    left = [text for text in APPROVED if text not in said]
    emotion = Aim(emotion_fit(recognizer.over(model.labels), target))
    (best,) = rank(candidates(enumerate(left, 1)), emotion, Aim(mutual_information(model, said)), n=1)
    return best.text


def draw(course: Trajectory, picture: Path) -> None:
    """Valence, arousal and dominance over the turns."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    turns = range(1, len(course.points) + 1)
    for dimension, marker in (("valence", "o"), ("arousal", "s"), ("dominance", "^")):
        axes.plot(turns, [getattr(point, dimension) for point in course.points], marker=marker, label=dimension)
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.set(xlabel="turn of the customer", ylabel="-1 to 1", ylim=(-1, 1), xticks=turns)
    axes.legend(frameon=False, ncols=3)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    run(main, "customer_service.py")
