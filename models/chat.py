"""How a record becomes text for the family: special tokens, chat template, and which part of a document is worth
learning.

A chat is `<|bos|>` then, for every message, its role token, the content and `<|end|>`. A plain text is `<|bos|>`, the
text, `<|end|>`. One end token serves both, so that a server needs a single stop id."""

from collections.abc import Iterator
from dataclasses import dataclass

PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
ROLE_TOKENS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
SPECIAL_TOKENS = (PAD, BOS, END, *ROLE_TOKENS.values())
# The tokenizer gives special tokens the first ids, in this order.
PAD_ID, BOS_ID, END_ID = 0, 1, 2

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('role must be system, user or assistant, not ' ~ message['role']) }}"
    "{% endif %}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ (message['content'] | trim) ~ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# A prompt is context, not an answer: learning it too helps the embeddings, at a fraction of the weight.
PROMPT_WEIGHT, ANSWER_WEIGHT = 25, 100  # in hundredths


@dataclass(frozen=True, kw_only=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """A chat (`messages`) or a plain text (`text`); `learn_all` gives a chat's prompts the full weight too."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    learn_all: bool = False


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of text with one loss weight, in hundredths. Special tokens come as pieces of their own."""

    text: str
    weight: int


def pieces(document: Document) -> Iterator[Piece]:
    # Whatever precedes it, the start of a document cannot be predicted: it is not learnt.
    yield Piece(text=BOS, weight=0)
    if document.text:
        yield Piece(text=document.text + END, weight=ANSWER_WEIGHT)
    for message in document.messages:
        yield Piece(text=ROLE_TOKENS[message.role], weight=0)
        learnt = message.role == "assistant" or (document.learn_all and message.role == "user")
        yield Piece(text=message.content.strip() + END, weight=ANSWER_WEIGHT if learnt else PROMPT_WEIGHT)


def prompt_text(messages: tuple[Message, ...]) -> str:
    """What the template makes of `messages` with a generation prompt."""
    body = "".join(ROLE_TOKENS[message.role] + message.content.strip() + END for message in messages)
    return BOS + body + ROLE_TOKENS["assistant"]
