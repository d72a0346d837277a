"""What every test shares: one CPU thread, no network, a fixed random state, small models, and the command line."""

import json
import os
from contextlib import nullcontext

import pytest
import torch
from hypothesis import settings

from emogen.cli import main
from emogen.data.exchange import Reading
from emogen.errors import SettingsError
from emogen.models.device import probe_bfloat16
from emogen.train.config import LmSettings
from emogen.train.fit import fit_lm

settings.register_profile("emogen", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("emogen")
torch.set_num_threads(1)
# Read when Transformers is imported, which only the tests that need it do.
os.environ["HF_HUB_OFFLINE"] = "1"

TINY = {"steps": 5, "batch_size": 8, "width": 16, "layers": 1, "device": "cpu", "precision": "float32"}


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def bfloat16():
    """A context for training in bfloat16, which works, or on a processor that does not compute so must be refused."""
    if probe_bfloat16(torch.device("cpu")).runs:
        return nullcontext()
    return pytest.raises(SettingsError, match=r"^--precision bf16: this processor cannot train in")


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory):
    """Forty labelled exchanges, joy and sadness, eight of them for validation; read only."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = (
        {
            "context": [f"How was day {number}?"],
            "reply": f"Day {number} was {('awful, I cried', 'great, we won')[number % 2]}.",
            "emotion": ("sadness", "joy")[number % 2],
            "split": "valid" if number % 10 > 7 else "train",
        }
        for number in range(40)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, rows_file):
    """The folder of a language model after five steps on `rows_file`; read only."""
    folder = tmp_path_factory.mktemp("checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOGEN_DATA", str(folder / "cache"))
        return fit_lm([str(rows_file)], Reading(), LmSettings(**TINY, out=str(folder / "lm")))


WORD_PIECES = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] good bad day very so happy sad no to you it was we won lost ##s ##ly ! . , ? 我 很 开 心"
)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    """A Hugging Face encoder of two layers and width 32 that reads 64 tokens, with random weights; read only."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("pretrained") / "small-bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORD_PIECES.split()) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(2)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(WORD_PIECES.split()), max_position_embeddings=64, initializer_range=0.2, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def small_bert(bert_folder):
    """Loads that encoder anew."""
    from emogen.pretrained.loading import load_encoder

    return lambda: load_encoder(f"hf:{bert_folder}")


@pytest.fixture
def emogen(capsys):
    """Runs the command line in this process; gives exit status, standard output and standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


@pytest.fixture
def refusal(emogen):
    """Runs a command that must fail with one line on standard error; gives exit status and that line."""

    def call(*arguments):
        status, out, err = emogen(*arguments)
        # A progress bar may stand before it.
        *_, line = err.replace("\r", "\n").splitlines()
        assert out == ""
        assert line.startswith("emogen: ")
        assert "Traceback" not in err
        assert err.count("emogen: ") == 1
        return status, line.removeprefix("emogen: ")

    return call


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_small_tokenizer(folder, chat_template=None):
    """A byte-level BPE tokenizer of some three hundred ids with the marks of ChatML; gives their number."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    marks = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator(["Day 3 was awful, I cried. Day 4 was great, we won."] * 9, trainer)
    end = "<|im_end|>" if chat_template else "<|end|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, additional_special_tokens=marks[1:])
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return words.get_vocab_size()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """The folder of a two-layer Llama that chats, 96 places long, its word vectors tied; read only."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base") / "tiny-llama"
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    vocabulary = save_small_tokenizer(folder, CHATML)
    torch.manual_seed(7)
    more = {"num_key_value_heads": 2, "max_position_embeddings": 96, "eos_token_id": 2, "tie_word_embeddings": True}
    config = LlamaConfig(vocab_size=vocabulary, **sizes, **more)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
