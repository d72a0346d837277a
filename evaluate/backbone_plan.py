"""What the study of a pretrained backbone measures, and with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from emogen.decoding.params import SamplingParams
from emogen.pretrained.bases import Base
from emogen.recognition.recognizer import Recognizer

if TYPE_CHECKING:
    pass


PARTS = ("texts", "heldout", "speed")


GOLD = ("goemotions", "dailydialog")


DIALOGUES = ("dailydialog", "empatheticdialogues")


PAIRS = 1000


SURE = 0.5


ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Example:
    """An exchange of a prompt: what was said, and an answer that also stands alone."""

    context: str
    reply: str


# Our own sentences: two sets of three for each emotion.
EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "anger": (
        ("They cancelled my order without telling me.", "That makes me furious, they can't treat people like that!"),
        ("He parked in front of our gate again.", "I am so sick of him, how dare he do that!"),
        ("The boss wants us in on Sunday.", "No way, I'm fed up with being pushed around."),
        ("Somebody scratched my car last night.", "What an idiot, I'd make him pay for every cent!"),
        ("She told everyone your secret.", "I hate her for that, I'll never speak to her again!"),
        ("The neighbours were drilling at six.", "Damn it, this really pisses me off."),
    ),
    "disgust": (
        ("There was a hair in my soup.", "Ew, that is disgusting, I would have sent it back."),
        ("The bin has not been emptied for weeks.", "Gross, just the smell of it makes me sick."),
        ("He spits on the floor of the bus.", "Yuck, what a revolting habit."),
        ("I found mould under the carpet.", "That is so nasty, I can't even look at it."),
        ("They laughed at the old man who fell.", "That's vile, people like that disgust me."),
        ("He ate the cold pizza off the ground.", "Eww, how can anybody put that in his mouth?"),
    ),
    "fear": (
        ("Did you hear that noise downstairs?", "Yes, and I'm too scared to go and look."),
        ("The doctor wants to see me tomorrow.", "I'm really worried, what if it is something bad?"),
        ("The plane is shaking a lot.", "I'm terrified, please hold my hand!"),
        ("A man has been following us since the station.", "I'm so afraid, let's run to the shop over there."),
        ("The storm will hit our town tonight.", "That frightens me, I don't think the roof will hold."),
        ("You speak in front of everyone on Monday.", "I'm so nervous that I can hardly breathe."),
    ),
    "joy": (
        ("I passed my driving test!", "That's wonderful, I'm so happy for you!"),
        ("We are going to the sea this weekend.", "Yay, I can't wait, it will be so much fun!"),
        ("Here is a little present for you.", "Thank you so much, I love it!"),
        ("Our baby was born this morning.", "Congratulations, what a beautiful day for all of you!"),
        ("The band plays here in May.", "Awesome, this is the best news of the year!"),
        ("I made your favourite cake.", "You are amazing, that makes my whole day!"),
    ),
    "neutral": (
        ("When does the library close?", "It closes at eight on weekdays."),
        ("Where did you put the keys?", "They are on the table next to the door."),
        ("What do you do on Mondays?", "I usually work from home and go shopping after five."),
        ("Which bus goes to the museum?", "Take number twelve and get off at the third stop."),
        ("Is the printer on this floor?", "It is in the room at the end of the corridor."),
        ("How long is the film?", "About two hours, with a short break."),
    ),
    "sadness": (
        ("Our dog died on Tuesday.", "I'm so sorry, I miss him terribly too."),
        ("She moved out last night.", "That breaks my heart, I feel so alone now."),
        ("They gave the job to someone else.", "I am so disappointed, I could cry."),
        ("Nobody came to my birthday.", "That's so sad, I'm sorry you were left alone."),
        ("It is a year since grandma's funeral.", "I still cry when I think of her."),
        ("We lost the house.", "I'm sorry for your loss, it hurts to hear that."),
    ),
    "surprise": (
        ("I quit my job this morning.", "Wow, really? I did not see that coming!"),
        ("Your brother is at the door.", "What? I had no idea he was in town!"),
        ("We won the first prize.", "Oh my god, are you serious? I can't believe it!"),
        ("They are getting married tomorrow.", "What, already? That is so unexpected!"),
        ("This painting is worth a million.", "No way, I am shocked, it looked so plain!"),
        ("It snowed in July.", "Really? How strange, I never would have guessed that!"),
    ),
}


@dataclass(frozen=True)
class Plan:
    """What is measured, and with what; the fields are the options."""

    base: Base
    adapter: Path
    default: Path
    before: Path | None
    judge: Path
    guide: Path
    allow_leak: bool
    work: Path
    samples: int
    seeds: int
    dev: int
    batch: int
    temperature: float
    top_p: float
    max_tokens: int
    replies: int
    fixed: int
    runs: int

    @property
    def models(self) -> dict[str, Path]:
        """Return the folders of all models by what they are here."""
        own = {"base": self.base.folder, "adapter": self.adapter, "default": self.default}
        own |= {"judge": self.judge, "guide": self.guide}
        return own | ({"default_before": self.before} if self.before else {})

    @property
    def authors(self) -> dict[str, Path]:
        """Return the folders of the checkpoints that write texts."""
        return {name: self.models[name] for name in ("adapter", "default", "default_before") if name in self.models}

    @property
    def sampling(self) -> SamplingParams:
        """Return decoding options of all systems."""
        return SamplingParams(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)


@dataclass(frozen=True)
class Found:
    """Rows of one part, and what else the result file says of it."""

    rows: Sequence[Mapping[str, object]]
    notes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """One text that is asked for.

    Attributes:
        emotion: one of Ekman's six, or neutral.
        context: the utterance to reply to; empty for none.
        reference: a person's reply to it; empty for none.
    """

    emotion: str
    context: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Round:
    """A batch of texts as it was written: places in the list of asks, texts, seconds that it took."""

    places: Sequence[int]
    texts: Sequence[str]
    seconds: float


Write = Callable[[Sequence[Ask], int], list[str]]
"""A text for each ask, from a seed."""


@dataclass(frozen=True)
class Author:
    """A system that writes.

    Attributes:
        system: its name in the rows.
        identity: changes with everything that changes its texts, but for the asks and the plan's options.
        write: gives texts.
        facts: further keys of its rows.
    """

    system: str
    identity: str
    write: Write
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Judging:
    """Who judges; `leak` says what the judge shares with the systems."""

    judge: Recognizer
    leak: str
