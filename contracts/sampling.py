"""What a client may ask of the sampler, and when a sequence ends. Checked on construction, so that every
instance anywhere in the fleet is within its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from contracts.errors import InvalidArgument, shown

MIN_TEMPERATURE = 1e-6  # above 0: below this logits / temperature could leave the range of float32
MAX_TEMPERATURE = 100.0  # far past uniform for any real model
MAX_TOKEN_ID = 2**31 - 1  # token ids travel as int32
MAX_TOP_K = MAX_TOKEN_ID
MIN_TOP_P = 1e-6  # the likeliest token is always kept, so less than this is no different
MAX_PENALTY = 2.0  # of presence and frequency: the range that OpenAI's API allows
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 10.0
MAX_BIAS = 100.0  # OpenAI's range: -100 bans a token, 100 forces it
MAX_LOGIT_BIAS_ENTRIES = 1024  # each costs a scattered write per row and step
MAX_ALLOWED_TOKEN_IDS = 65_536
MAX_SEED = 2**64 - 1
MAX_LOGPROBS = 64
MAX_NEW_TOKENS = 2**31 - 1
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_LENGTH = 256
MAX_STOP_TOKEN_IDS = 256
MAX_CHOICES = 16  # answers to one prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a token is chosen from the target's logits. The defaults change nothing: greedy, no processor active.

    `top_k` 0 is off. `allowed_token_ids` None allows all. `seed` keys the shared noise, so the same seed gives the
    same text; it has no meaning at temperature 0. `num_logprobs` is how many of the likeliest tokens are reported
    beside the chosen one.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    allowed_token_ids: tuple[int, ...] | None = None
    seed: int = 0
    num_logprobs: int = 0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, MIN_TEMPERATURE, MAX_TEMPERATURE, or_zero="greedy")
        check_integer("top_k", self.top_k, 0, MAX_TOP_K)
        check_number("top_p", self.top_p, MIN_TOP_P, 1.0)
        check_number("min_p", self.min_p, 0.0, 1.0)
        check_number("repetition_penalty", self.repetition_penalty, MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY)
        check_number("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
        check_number("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
        check_integer("seed", self.seed, 0, MAX_SEED)
        check_integer("num_logprobs", self.num_logprobs, 0, MAX_LOGPROBS)
        self._check_logit_bias()
        self._check_allowed_token_ids()

    def _check_logit_bias(self) -> None:
        if not isinstance(self.logit_bias, Mapping):
            raise _wrong("logit_bias", self.logit_bias, "a mapping from token id to bias")
        check_size("logit_bias", self.logit_bias, 0, MAX_LOGIT_BIAS_ENTRIES)
        for token, bias in self.logit_bias.items():
            check_integer("logit_bias key", token, 0, MAX_TOKEN_ID)
            check_number(f"logit_bias[{token}]", bias, -MAX_BIAS, MAX_BIAS)
        # A private read-only copy: a frozen value must not change because its maker's dict did.
        object.__setattr__(self, "logit_bias", MappingProxyType(dict(self.logit_bias)))

    def _check_allowed_token_ids(self) -> None:
        if self.allowed_token_ids is None:
            return
        check_token_ids("allowed_token_ids", self.allowed_token_ids, 1, MAX_ALLOWED_TOKEN_IDS)
        if len(set(self.allowed_token_ids)) != len(self.allowed_token_ids):
            raise InvalidArgument("allowed_token_ids names a token twice; each id may appear once")

    @property
    def is_greedy(self) -> bool:
        """Whether the noise is zero, so that the seed has no influence."""
        return self.temperature == 0.0

    def __hash__(self) -> int:
        # A mapping proxy has no hash of its own.
        return hash((self.temperature, self.top_k, self.top_p, self.seed, tuple(sorted(self.logit_bias.items()))))

    def __reduce__(self) -> tuple[object, ...]:
        # A mapping proxy cannot be pickled or copied; hand over a plain dict, checked again on arrival.
        fields = {name: getattr(self, name) for name in self.__slots__}
        return _rebuild_sampling, ({**fields, "logit_bias": dict(self.logit_bias)},)


def _rebuild_sampling(fields: dict[str, object]) -> SamplingParams:
    return SamplingParams(**fields)  # type: ignore[arg-type]  # every field is checked at run time


@dataclass(frozen=True, slots=True, kw_only=True)
class StopParams:
    """When a sequence ends: after `max_tokens`, at a stop string, at a stop token, or at the model's own end
    token unless `ignore_eos`."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        check_integer("max_tokens", self.max_tokens, 1, MAX_NEW_TOKENS)
        check_token_ids("stop_token_ids", self.stop_token_ids, 0, MAX_STOP_TOKEN_IDS)
        if not isinstance(self.stop, tuple):
            raise _wrong("stop", self.stop, "a tuple of strings")
        check_size("stop", self.stop, 0, MAX_STOP_STRINGS)
        for text in self.stop:
            if not _is_unicode(text) or not 1 <= len(text) <= MAX_STOP_STRING_LENGTH:
                raise _wrong("stop", text, f"strings of 1 to {MAX_STOP_STRING_LENGTH} Unicode characters")
        if not isinstance(self.ignore_eos, bool):
            raise _wrong("ignore_eos", self.ignore_eos, "true or false")


def check_number(field_name: str, value: object, low: float, high: float, *, or_zero: str | None = None) -> None:
    """Refuse what is not a number in [low, high]; NaN and bools are none. `or_zero` says what a 0 means, if allowed."""
    is_zero = or_zero is not None and value == 0
    if isinstance(value, int | float) and not isinstance(value, bool) and (low <= value <= high or is_zero):
        return
    zero = f"0 ({or_zero}) or " if or_zero else ""
    raise _wrong(field_name, value, f"{zero}a number in [{low:g}, {high:g}]")


def check_integer(field_name: str, value: object, low: int, high: int) -> None:
    """Refuse what is not an integer in [low, high]; bools are no integers here."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(field_name, value, f"an integer in [{low}, {high}]")


def check_token_ids(field_name: str, value: object, min_size: int, max_size: int) -> None:
    """Refuse what is not a tuple of min_size to max_size token ids."""
    if not isinstance(value, tuple):
        raise _wrong(field_name, value, "a tuple of token ids")
    check_size(field_name, value, min_size, max_size)
    for token in value:
        check_integer(field_name, token, 0, MAX_TOKEN_ID)


def check_size(field_name: str, value: Mapping[int, float] | tuple[object, ...], low: int, high: int) -> None:
    """Refuse a collection with fewer than low or more than high entries."""
    if not low <= len(value) <= high:
        raise InvalidArgument(f"{field_name} has {len(value)} entries; it takes {low} to {high}")


def _is_unicode(value: object) -> bool:
    """Whether this is text that UTF-8 can hold: a Python string may have lone surrogates, generated text cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _wrong(field_name: str, value: object, right: str) -> InvalidArgument:
    return InvalidArgument(f"{field_name} is {shown(value)}; it must be {right}", details={"field": field_name})
