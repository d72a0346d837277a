"""Scores of generated text, each with its interval and its signature. Needs neither torch nor transformers."""

from emogen.evaluate.diversity import commonest, distinct, self_bleu, unique
from emogen.evaluate.emotion import emotion_accuracy, emotion_f1
from emogen.evaluate.overlap import bleu
from emogen.evaluate.resampling import bootstrap_interval
from emogen.evaluate.score import Score
from emogen.words import words

__all__ = [
    "Score",
    "bleu",
    "bootstrap_interval",
    "commonest",
    "distinct",
    "emotion_accuracy",
    "emotion_f1",
    "self_bleu",
    "unique",
    "words",
]
