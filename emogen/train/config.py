"""Settings of every training command: frozen dataclasses, free of PyTorch so that help and checks need none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from emogen.errors import SettingsError, require
from emogen.options import setting

Precision = Literal["auto", "bf16", "float32"]
Estimator = Literal["rollout", "dense", "gumbel"]
PRETRAINED = "hf:"
LANGUAGE_MODEL = "lm:"
_OWN_BACKBONES = ("ngrams", "cnn", "transformer")
_NOT_NEGATIVE = (
    "rollouts",
    "warmup_steps",
    "discriminator_reward",
    "emotion_reward",
    "clip",
    "kl_weight",
    "entropy_floor",
    "entropy_weight",
    "mle_weight",
)


@dataclass(frozen=True)
class MleConfig:
    """Maximum-likelihood training. Dropping the emotion makes guidance possible later (Ho & Salimans 2022)."""

    learning_rate: float = setting(2e-3, "Learning rate at its peak.")
    weight_decay: float = setting(0.01, "Weight decay of matrices (AdamW).")
    emotion_dropout: float = setting(0.1, "Share of rows that are told no emotion.")
    precision: Precision = setting("auto", "bf16 where the device is faster in it (auto), always, or never.")

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < math.inf, "learning-rate", self.learning_rate, "above 0 and finite")
        require(self.weight_decay >= 0, "weight-decay", self.weight_decay, "0 or more")
        require(0 <= self.emotion_dropout < 1, "emotion-dropout", self.emotion_dropout, "at least 0 and below 1")


@dataclass(frozen=True)
class VaeConfig(MleConfig):
    """Training of a text VAE: first an autoencoder (Li et al. 2019), then the rate is brought to its target and held there."""

    learning_rate: float = setting(1e-3, "Learning rate at its peak.")
    target_rate: float = setting(8.0, "Nats of KL a row at which the rate is held; 0 holds none, and its weight rises to 1.")
    rate_floor: float = setting(0.5, "Part of the target below which, shared out evenly, no dimension is pushed.")
    autoencoder_share: float = setting(0.2, "Part of the run at six times the target, nearly an autoencoder.")
    annealing_share: float = setting(0.2, "Part of the run after that over which the rate falls to its target.")
    adversary_weight: float = setting(0.1, "Weight of the emotion adversary on the latent; 0 turns it off.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_rate", "autoencoder_share", "annealing_share", "adversary_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(0 <= self.rate_floor < 1, "rate-floor", self.rate_floor, "at least 0 and below 1")


@dataclass(frozen=True)
class GanConfig:
    """Adversarial training.

    `rollout` gives a token the mean reward of completed replies (SeqGAN), or with no rollouts the reward of its own reply;
    `dense` gives it the rise of the discriminator's own score of the prefix; `gumbel` has no rewards, but a gradient through
    the discriminator (RelGAN). What stands at 0, `no` or `none` is off.
    """

    estimator: Estimator = setting("rollout", "Estimator by which the generator learns from the discriminator.")
    learning_rate: float = setting(1e-4, "Learning rate of the generator at its peak.")
    discriminator_rate: float = setting(3e-4, "Learning rate of the discriminator.")
    samples: int = setting(4, "Replies a condition; the others are each one's baseline, so at least 2.")
    rollouts: int = setting(4, "Completions of each prefix (rollout); 0 gives a reply's reward to each of its tokens.")
    potential: Literal["probability", "log-odds"] = setting("probability", "Potential used for reward shaping (dense).")
    discount: float = setting(1.0, "Discount of later rewards (dense).")
    max_tokens: int = setting(24, "Longest reply in adversarial training, its end token included.")
    warmup_steps: int = setting(200, "Discriminator updates before the generator's first.")
    generator_updates: int = setting(1, "Generator updates on the same samples.")
    reward: Literal["discriminator", "constant", "shuffled"] = setting(
        "discriminator", "Reward of replies; constant and shuffled are controls that can teach nothing."
    )
    discriminator_reward: float = setting(1.0, "Weight of the discriminator's part in what a reply is worth.")
    emotion_reward: float = setting(0.0, "Weight of the guide's probability of the emotion that was asked for.")
    baseline: Literal["leave-one-out", "none"] = setting("leave-one-out", "Baseline subtracted from returns.")
    scale_advantages: Literal["yes", "no"] = setting("no", "Divide advantages by their deviation in the batch.")
    clip: float = setting(0.2, "Clipping range of the probability ratio (PPO).")
    kl_weight: float = setting(0.05, "Weight of the KL divergence from the starting model, nats a token.")
    entropy_floor: float = setting(0.8, "Share of the starting model's entropy below which entropy is rewarded.")
    entropy_weight: float = setting(0.1, "Penalty weight when entropy falls below the floor.")
    mle_weight: float = setting(0.0, "Weight of the negative log-likelihood of real replies, nats a token.")
    accuracy_floor: float = setting(0.6, "Below this pairwise accuracy the discriminator gets more updates.")
    accuracy_ceiling: float = setting(0.85, "Above this pairwise accuracy the discriminator waits; 1 for never.")
    discriminator_updates: int = setting(1, "Discriminator updates a step below the floor.")
    distinct_floor: float = setting(
        0.5, "Share of the first replies' distinct-2 below which they count as collapsed; 0 for never."
    )
    posterior_share: float = setting(0.5, "Share of latents drawn from the posterior of the real reply (a VAE's decoder).")
    gumbel_temperature: float = setting(1.0, "Temperature of the relaxation at the start (gumbel).")
    gumbel_final: float = setting(0.2, "Temperature of the relaxation at the end (gumbel).")
    precision: Precision = setting("auto", "bf16 where the device is faster in it (auto), always, or never.")
    chunk: int = setting(4096, "Rollouts, scores and places computed at once; lower it where memory is short.")

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < math.inf, "learning-rate", self.learning_rate, "above 0 and finite")
        require(self.samples >= 2, "samples", self.samples, "2 or more, since the others are each sample's baseline")
        require(self.max_tokens >= 2, "max-tokens", self.max_tokens, "2 or more")
        for name in ("generator_updates", "discriminator_updates", "chunk"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("discriminator_rate", "gumbel_temperature", "gumbel_final"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0 and finite")
        for name in _NOT_NEGATIVE:
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more, and finite")
        for name in ("discount", "accuracy_floor", "accuracy_ceiling", "distinct_floor", "posterior_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        floor, ceiling = self.accuracy_floor, self.accuracy_ceiling
        require(floor <= ceiling, "accuracy-floor", floor, f"at most --accuracy-ceiling {ceiling}")
        if self.reward != "discriminator" and self.estimator == "gumbel":
            raise SettingsError(f"--reward {self.reward}: gumbel has no rewards to replace; pass --estimator rollout or dense")


@dataclass(frozen=True)
class RunConfig:
    """The run around a loop."""

    out: str | None = setting(None, "Folder of the checkpoint; by default a new one under checkpoints/.")
    steps: int = setting(10_000, "Updates at most.")
    minutes: float = setting(0.0, "Stop after this long, resumed runs added up; 0 for no limit.")
    batch_size: int = setting(64, "Rows an update, of each process.")
    validate_every: int = setting(500, "Updates between looks at the held-out rows.")
    patience: int = setting(0, "Stop after so many looks without a better one; 0 never.")
    save_every: int = setting(500, "Updates between saved states.")
    seed: int = setting(0, "Seed of weights, order, dropout and sampling.")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "Device to compute on.")
    precision: Precision = setting("auto", "bf16 where the device is faster in it (auto), always, or never.")
    threads: int = setting(0, "CPU threads; 0 leaves the choice to PyTorch.")

    def _check_run(self, least_steps: int = 1) -> None:
        for name in ("steps", "validate_every"):
            require(getattr(self, name) >= least_steps, name, getattr(self, name), f"{least_steps} or more")
        for name in ("batch_size", "save_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(0 <= self.seed < 1 << 32, "seed", self.seed, "0 to 4294967295")
        for name in ("minutes", "patience", "threads"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


@dataclass(frozen=True)
class GeneratorRun(RunConfig):
    """The run of a generator, and the rows that it is fed with."""

    vocabulary: int | None = setting(None, "Number of token ids; by default chosen from the corpus.")
    context_tokens: int = setting(32, "Newest tokens of the context that are kept.")
    reply_tokens: int = setting(40, "Rows with longer replies are left out, and counted.")

    def _check_run(self, least_steps: int = 1) -> None:
        super()._check_run(least_steps)
        require(self.reply_tokens >= 1, "reply-tokens", self.reply_tokens, "1 or more")
        require(self.context_tokens >= 0, "context-tokens", self.context_tokens, "0 or more")


@dataclass(frozen=True)
class ModelConfig:
    """What a generator is made of: sizes of one that is trained from scratch, or what is trained on a pretrained one."""

    backbone: str = setting("lstm", "lstm, transformer, or hf:NAME-OR-FOLDER[:FILE.gguf], a pretrained language model.")
    width: int = setting(256, "Hidden size (not hf).")
    layers: int = setting(1, "Layers of the backbone (not hf).")
    heads: int = setting(4, "Attention heads (not hf).")
    dropout: float = setting(0.2, "Share of states dropped in training (not hf).")
    lora_rank: int = setting(16, "Rank of the low-rank updates of an hf backbone; 0 trains all its weights.")
    soft_prefix: int = setting(4, "Soft tokens by which the emotion stands in front of an hf backbone's rows.")
    pretrained_rate: float = setting(5e-4, "Learning rate at its peak in place of --learning-rate, where the backbone is hf.")

    @property
    def is_pretrained(self) -> bool:
        """Tell whether the backbone is another's model."""
        return self.backbone.startswith(PRETRAINED)

    def _check_model(self) -> None:
        known = self.backbone in ("lstm", "transformer") or (self.is_pretrained and self.backbone != PRETRAINED)
        require(known, "backbone", self.backbone, "lstm, transformer or hf:NAME-OR-FOLDER[:FILE.gguf]")
        for name in ("lora_rank", "soft_prefix"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(0 < self.pretrained_rate < math.inf, "pretrained-rate", self.pretrained_rate, "above 0 and finite")
        for name in ("width", "layers", "heads"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")


@dataclass(frozen=True)
class LmSettings(MleConfig, ModelConfig, GeneratorRun):
    """`emogen train-lm`: an emotion-conditioned language model."""

    init: str | None = setting(None, "Language model to train further; its sizes, limits, labels and vocabulary stay.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_run()
        self._check_model()


@dataclass(frozen=True)
class VaeSettings(VaeConfig, ModelConfig, GeneratorRun):
    """`emogen train-vae`: an emotion-conditioned text VAE."""

    init: str | None = setting(None, "Language model or VAE to begin with; its sizes, limits, labels and vocabulary stay.")
    latent: int = setting(32, "Dimensions of the latent.")
    prior: Literal["standard", "emotion"] = setting(
        "standard", "Prior of the latent: the standard normal, or one for each emotion."
    )
    encoder: str = setting("", "hf:NAME-OR-FOLDER, a pretrained encoder; without it one of our own.")
    encoder_layers: int = setting(2, "Transformer blocks of the encoder (not hf).")
    encoder_rate: float = setting(5e-5, "Learning rate of an hf encoder's own weights, at its peak.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_run()
        self._check_model()
        for name in ("latent", "encoder_layers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _check_encoder("encoder", self.encoder, self.encoder_rate)


@dataclass(frozen=True)
class GanSettings(GanConfig, GeneratorRun):
    """`emogen train-gan`: adversarial training of a model that stands in `init`, or is trained first."""

    init: str | None = setting(None, "Checkpoint to start from; without it a VAE is trained first.")
    warm_steps: int = setting(0, "Updates of the warm start, where there is no --init; 0 for the preset's own.")
    warm_minutes: float = setting(0.0, "Time limit of the warm start; 0 for none.")
    guide: str = setting("", "Classifier that --emotion-reward asks for the emotion of a reply: its folder.")
    discriminator: str = setting(
        "", "hf:NAME-OR-FOLDER, a pretrained encoder (rollout), or lm:FOLDER[,FOLDER], language models; else one of our own."
    )
    encoder_rate: float = setting(5e-5, "Learning rate of those models' weights; the rest follows --discriminator-rate.")
    discriminator_width: int = setting(128, "Hidden size of our own discriminator.")
    discriminator_layers: int = setting(2, "Transformer blocks of our own discriminator.")
    discriminator_heads: int = setting(4, "Attention heads of our own discriminator.")
    discriminator_dropout: float = setting(0.2, "Dropout of our own discriminator.")
    compile: Literal["yes", "no"] = setting("no", "Compile the pass of one token; pays on CUDA in long runs.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_run()
        for name in ("discriminator_width", "discriminator_layers", "discriminator_heads"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        dropout = self.discriminator_dropout
        require(0 <= dropout < 1, "discriminator-dropout", dropout, "at least 0 and below 1")
        for name in ("warm_steps", "warm_minutes"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        if not self.discriminator.startswith(LANGUAGE_MODEL):
            _check_encoder("discriminator", self.discriminator, self.encoder_rate)
        elif self.estimator == "gumbel":
            raise SettingsError(f"--discriminator {self.discriminator}: passes no gradient on to words; pass --estimator dense")
        if self.discriminator.startswith(PRETRAINED) and self.estimator != "rollout":
            raise SettingsError(
                f"--discriminator {self.discriminator}: an encoder of texts scores no prefix and passes no gradient on, so not "
                f"with --estimator {self.estimator}; pass --estimator rollout"
            )
        if bool(self.emotion_reward) != bool(self.guide):
            raise SettingsError(
                f"--emotion-reward {self.emotion_reward} with --guide {self.guide!r}: the two go together; a guide is what "
                "`emogen train-classifier` makes"
            )


@dataclass(frozen=True)
class HeadConfig:
    """Training of an emotion head."""

    learning_rate: float = setting(3e-3, "Learning rate at its peak.")
    precision: Precision = setting("auto", "bf16 where the device is faster in it (auto), always, or never.")

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < math.inf, "learning-rate", self.learning_rate, "above 0 and finite")


@dataclass(frozen=True)
class HeadSettings(HeadConfig):
    """`emogen train-head`: an emotion head for a generator that stands."""

    checkpoint: str | None = setting(None, "Folder of the generator or VAE; by default as for `emogen sample`.")
    steps: int = setting(1500, "Updates.")
    batch_size: int = setting(64, "Rows an update.")
    rank: int = setting(32, "Rank of the head's bilinear form.")
    allow_worse: Literal["yes", "no"] = setting("no", "Keep a head that finds held-out emotions no better than chance.")
    seed: int = setting(0, "Seed of weights, order and conditioning.")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "Device to compute on.")
    threads: int = setting(0, "CPU threads; 0 leaves the choice to PyTorch.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch_size", "rank"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(0 <= self.seed < 1 << 32, "seed", self.seed, "0 to 4294967295")
        require(self.threads >= 0, "threads", self.threads, "0 or more")


@dataclass(frozen=True)
class CalibrationSettings:
    """`emogen calibrate`: what a model must be told for an emotion that is asked for."""

    checkpoint: str | None = setting(None, "Folder of the generator or VAE; by default as for `emogen sample`.")
    guide: str | None = setting(None, "Classifier that measures: its folder; by default the recogniser that ships.")
    control: str | None = setting(None, "Controllers that will be on, as for `emogen sample`; by default the model's own.")
    temperature: float | None = setting(None, "Sampling temperature; by default the model's own.")
    texts: int = setting(100, "Texts at each strength and share.")
    allow_worse: Literal["yes", "no"] = setting("no", "Keep what makes held-out strengths or mixtures no truer.")
    seed: int = setting(0, "Seed of the texts.")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "Device to compute on.")
    threads: int = setting(0, "CPU threads; 0 leaves the choice to PyTorch.")

    def __post_init__(self) -> None:
        require(self.texts >= 1, "texts", self.texts, "1 or more")
        require(0 <= self.seed < 1 << 32, "seed", self.seed, "0 to 4294967295")
        require(self.threads >= 0, "threads", self.threads, "0 or more")


@dataclass(frozen=True)
class PreferenceConfig:
    """Training on opinions: pairs of a better and a worse reply (DPO), or single replies that are good or bad (KTO)."""

    learning_rate: float = setting(1.5e-4, "Learning rate at its peak.")
    beta: float = setting(0.1, "The smaller, the further the model may go from where it was.")
    likelihood_weight: float = setting(0.5, "Weight of the better reply's own negative log-likelihood, nats a token.")
    smoothing: float = setting(0.0, "Share of the pairs that are taken to be the wrong way round.")
    precision: Precision = setting("auto", "bf16 where the device is faster in it (auto), always, or never.")

    def __post_init__(self) -> None:
        for name in ("learning_rate", "beta"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0 and finite")
        weight = self.likelihood_weight
        require(0 <= weight < math.inf, "likelihood-weight", weight, "0 or more, and finite")
        require(0 <= self.smoothing < 0.5, "smoothing", self.smoothing, "at least 0 and below 0.5")


@dataclass(frozen=True)
class FeedbackSettings(PreferenceConfig, RunConfig):
    """`emogen train-feedback`: a model that writes more like the replies that its users called good."""

    checkpoint: str | None = setting(None, "Model to begin with; by default as for `emogen sample`.")
    epochs: int = setting(5, "Passes over the pairs.")
    steps: int = setting(0, "Updates at most; 0 for as many as the epochs have.")
    batch_size: int = setting(32, "Pairs an update.")
    validate_every: int = setting(0, "Updates between looks at the held-out pairs; 0 for once an epoch.")
    held_out: float = setting(0.2, "Share of the contexts whose pairs are held out.")
    unconditional_share: float = setting(
        0.1, "Share of the pairs that are also trained under no emotion, for the sake of guidance."
    )
    min_pairs: int = setting(20, "Fewest pairs, or single opinions, that are trained on.")
    loss: Literal["auto", "dpo", "kto"] = setting("auto", "dpo takes pairs, kto single opinions, auto pairs if there are some.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_run(least_steps=0)
        for name in ("epochs", "min_pairs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(0 < self.held_out < 1, "held-out", self.held_out, "above 0 and below 1")
        require(0 <= self.unconditional_share <= 1, "unconditional_share", self.unconditional_share, "between 0 and 1")


@dataclass(frozen=True)
class ClassifierTraining:
    """Training of a classifier."""

    learning_rate: float = setting(1e-3, "Learning rate at its peak.")
    weight_decay: float = setting(0.01, "Weight decay of matrices (AdamW).")
    balance: float = setting(0.5, "Power of a label's inverse frequency that weighs it; 0 for none.")
    label_smoothing: float = setting(0.0, "Share of each target that is spread over all labels.")
    precision: Precision = setting("auto", "bf16 where the device is faster in it (auto), always, or never.")

    def __post_init__(self) -> None:
        require(0 <= self.learning_rate < math.inf, "learning-rate", self.learning_rate, "0 or more, and finite")
        require(self.weight_decay >= 0, "weight-decay", self.weight_decay, "0 or more")
        require(self.balance >= 0, "balance", self.balance, "0 or more")
        require(0 <= self.label_smoothing < 1, "label-smoothing", self.label_smoothing, "at least 0 and below 1")


@dataclass(frozen=True)
class ClassifierSettings(ClassifierTraining, RunConfig):
    """`emogen train-classifier`: text to emotion probabilities. A size or rate of 0 stands for the backbone's own."""

    learning_rate: float = setting(0.0, "Learning rate at its peak; 0 for the backbone's own.")
    backbone: str = setting("cnn", "ngrams, cnn, transformer, or hf:NAME-OR-FOLDER, a pretrained encoder.")
    init: str | None = setting(None, "Classifier whose features (backbone, sizes) to begin with; its labels may be others.")
    epochs: int = setting(0, "Passes over the rows; 0 for the backbone's own number.")
    steps: int = setting(0, "Updates at most; 0 for as many as the epochs have.")
    batch_size: int = setting(32, "Rows an update.")
    validate_every: int = setting(0, "Updates between looks at the held-out rows; 0 for once an epoch.")
    patience: int = setting(3, "Stop after so many looks without a better one; 0 never.")
    multi_label: Literal["auto", "yes", "no"] = setting("auto", "Several labels a text; auto goes by the training rows.")
    buckets: int = setting(0, "N-grams and pieces of words are hashed to so many ids (not hf).")
    width: int = setting(0, "Hidden size (not hf).")
    order: int = setting(2, "Longest n-gram of words (Chinese: of characters) that has a vector of its own (not hf).")
    layers: int = setting(2, "Layers of the transformer.")
    heads: int = setting(4, "Attention heads of the transformer.")
    filters: int = setting(128, "Filters of each of the cnn's kernel sizes, 1 to 4.")
    dropout: float = setting(-1.0, "Share of features dropped in training; -1 for the backbone's own.")
    max_tokens: int = setting(128, "A longer text is cut.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_run(least_steps=0)
        known = self.backbone in _OWN_BACKBONES or (self.backbone.startswith(PRETRAINED) and self.backbone != PRETRAINED)
        require(known, "backbone", self.backbone, f"{', '.join(_OWN_BACKBONES)} or hf:NAME-OR-FOLDER")
        for name in ("epochs", "buckets", "width"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("order", "layers", "heads", "filters", "max_tokens"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.dropout == -1 or 0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1, or -1")


def _check_encoder(option: str, name: str, rate: float) -> None:
    known = not name or (name.startswith(PRETRAINED) and name != PRETRAINED)
    require(known, option, name, "hf:NAME-OR-FOLDER" + (" or lm:FOLDER" if option == "discriminator" else ""))
    require(0 < rate < math.inf, "encoder-rate", rate, "above 0 and finite")
