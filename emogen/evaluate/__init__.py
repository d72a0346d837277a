"""Scores of generated text, each with its interval and its signature. Needs neither torch nor transformers."""

from emogen.evaluate.attribution import Attribution, Word, log_odds, shapley_words
from emogen.evaluate.correction import corrected_accuracy, corrected_shares
from emogen.evaluate.distribution import frechet, mauve
from emogen.evaluate.diversity import (
    Lengths,
    commonest,
    distinct,
    distinct_corrected,
    length_distribution,
    mean_length,
    ngram_entropy,
    unique,
)
from emogen.evaluate.emotion import (
    Agreement,
    Confusion,
    Judge,
    agreement,
    calibration_error,
    confusion,
    emotion_accuracy,
    emotion_f1,
    judged_labels,
    multilabel_f1,
)
from emogen.evaluate.fluency import nats_per_character, nats_per_sentence, perplexity, reverse_perplexity
from emogen.evaluate.frontier import Axis, Point, axis, draw, hypervolume, pareto
from emogen.evaluate.lexicon import polarity_agreement, vader
from emogen.evaluate.overlap import bleu, chrf, rouge, sentence_bleu, sentence_chrf, sentence_rouge, sentence_ter, ter
from emogen.evaluate.report import Report, as_json, as_markdown, as_table
from emogen.evaluate.resampling import CountStatistic, SumStatistic, bootstrap_interval, reservoir
from emogen.evaluate.score import Score
from emogen.evaluate.set_bleu import backward_bleu, forward_bleu, self_bleu
from emogen.evaluate.significance import (
    Comparison,
    SeedSpread,
    approximate_randomisation,
    compare_seeds,
    holm,
    over_seeds,
    paired_bootstrap,
)
from emogen.evaluate.similarity import bertscore, sentence_similarity
from emogen.evaluate.training_overlap import Seen, copied, novelty, seen_in_training
from emogen.text.words import words

__all__ = [
    "Agreement",
    "Attribution",
    "Axis",
    "Comparison",
    "Confusion",
    "CountStatistic",
    "Judge",
    "Lengths",
    "Point",
    "Report",
    "Score",
    "SeedSpread",
    "Seen",
    "SumStatistic",
    "Word",
    "agreement",
    "approximate_randomisation",
    "as_json",
    "as_markdown",
    "as_table",
    "axis",
    "backward_bleu",
    "bertscore",
    "bleu",
    "bootstrap_interval",
    "calibration_error",
    "chrf",
    "commonest",
    "compare_seeds",
    "confusion",
    "copied",
    "corrected_accuracy",
    "corrected_shares",
    "distinct",
    "distinct_corrected",
    "draw",
    "emotion_accuracy",
    "emotion_f1",
    "forward_bleu",
    "frechet",
    "holm",
    "hypervolume",
    "judged_labels",
    "length_distribution",
    "log_odds",
    "mauve",
    "mean_length",
    "multilabel_f1",
    "nats_per_character",
    "nats_per_sentence",
    "ngram_entropy",
    "novelty",
    "over_seeds",
    "paired_bootstrap",
    "pareto",
    "perplexity",
    "polarity_agreement",
    "reservoir",
    "reverse_perplexity",
    "rouge",
    "seen_in_training",
    "self_bleu",
    "sentence_bleu",
    "sentence_chrf",
    "sentence_rouge",
    "sentence_similarity",
    "sentence_ter",
    "shapley_words",
    "ter",
    "unique",
    "vader",
    "words",
]
