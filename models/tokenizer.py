"""The family's tokenizer: byte-level BPE, trained on an equal share of every domain's training records."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from contracts.errors import CheckpointError
from models.chat import BOS, BOS_ID, SPECIAL_TOKENS
from models.corpus import DOMAINS, documents, records
from models.files import atomic_write

VOCAB_SIZE = 4096
CHARACTERS_PER_DOMAIN = 3_000_000

# Words with their leading space, single digits (numbers are copied digit by digit), punctuation runs, and runs of
# white space for code.
WORDS = r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(corpus: Path, vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(corpus), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, BOS_ID)]
    )
    return tokenizer


def training_texts(corpus: Path) -> Iterator[str]:
    for domain in DOMAINS:
        num_characters = 0
        for record in records(corpus, domain, "train"):
            # One form is enough here: the chat and the running text of a record hold the same words.
            for document in islice(documents(record), 1):
                for text in [document.text, *(message.content for message in document.messages)]:
                    yield text
                    num_characters += len(text)
            if num_characters > CHARACTERS_PER_DOMAIN:
                break


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    atomic_write(path, tokenizer.to_str().encode())


def load_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception for any malformed file
        raise CheckpointError(f"{path} is no tokenizer.json: {error}") from error
