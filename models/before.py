"""A family that was exported before, to go on from where the state of its training is not at hand.

It gives its tokenizer (another corpus or library would make another), its target and its drafters, and its cards say
what they have read. A work folder that goes on from one does so in all stages: it notes which, and holds every later
command to it.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from contracts.errors import InvalidArgument
from models.card import figure_on_card, figures_on_card
from models.evaluate import TARGET
from models.files import atomic_write
from models.hf_folder import load_network, read_config, replace_folder, shape_of
from models.network import Network, Shape
from models.tokenizer import load_tokenizer

NOTE = "goes-on-from.json"
FOR_SAME_TARGET = "distillation before, for the same target"
FOR_EARLIER_TARGETS = "distillation before, for earlier states of the target"
GOES_ON = "those of the target that it goes on from"


@dataclass(frozen=True)
class FamilyBefore:
    folder: Path

    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.folder / TARGET / "tokenizer.json")

    def member(self, name: str) -> Network:
        return load_network(self.folder / name).train()

    def copy_member(self, name: str, folder: Path) -> None:
        replace_folder(folder, lambda partial: shutil.copytree(self.folder / name, partial, dirs_exist_ok=True))

    def figure(self, name: str, label: str) -> str:
        return figure_on_card(self.folder / name, label)

    def distilled(self, name: str, *, for_same_target: bool) -> dict[str, str]:
        """What the card of a drafter that goes on from here says of all its distillation up to here, the last first."""
        figures = figures_on_card(self.folder / name)
        same = [value for label in ("distillation", FOR_SAME_TARGET) if (value := figures.get(label))]
        earlier = [figures[FOR_EARLIER_TARGETS]] if FOR_EARLIER_TARGETS in figures else []
        rows = (
            {FOR_SAME_TARGET: same, FOR_EARLIER_TARGETS: earlier}
            if for_same_target
            else {FOR_EARLIER_TARGETS: same + earlier}
        )
        return {label: "; before that ".join(values) for label, values in rows.items() if values}

    @property
    def tokens_seen(self) -> str:
        return f"after {GOES_ON}: {self.figure(TARGET, 'tokens seen')}"

    @property
    def generation(self) -> int:
        """How many families have gone on, one from the other, with one that begins here."""
        return self.tokens_seen.count(GOES_ON)

    def check(self, shapes: Mapping[str, Shape], figures: Mapping[str, tuple[str, ...]]) -> None:
        """All that will be needed of it, so that nothing is missed hours later: members of these shapes, and these rows
        on their cards."""
        self.tokenizer()
        for name, shape in shapes.items():
            found = shape_of(read_config(self.folder / name), self.folder / name)
            if found != shape:
                raise InvalidArgument(
                    f"{self.folder / name} has shape {found.as_dict()}, the family has {shape.as_dict()} there; "
                    "only a family of the same shapes can be gone on from"
                )
            for label in figures[name]:
                self.figure(name, label)

    def digests(self) -> dict[str, str]:
        """Which family it is: of its target's weights, and of its drafters'."""
        paths = sorted(self.folder.glob("*/model*.safetensors"))
        return {
            "target": _digest([path for path in paths if path.parent.name == TARGET]),
            "drafters": _digest([path for path in paths if path.parent.name != TARGET]),
        }


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def hold_to_it(work: Path, before: FamilyBefore | None, *, is_begun: bool) -> None:
    """Notes in a work folder what it goes on from, or refuses what it did not begin with."""
    note = work / NOTE
    noted = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else None
    if noted is not None and (before is None or any(noted[of] != digest for of, digest in before.digests().items())):
        raise InvalidArgument(
            f"{work} goes on from {noted['folder']}, with digests of weights {noted['target'][:12]} (target) and "
            f"{noted['drafters'][:12]} (drafters); give --go-on-from with that family as it was, or another work folder"
        )
    if noted is None and before is not None:
        if is_begun:
            raise InvalidArgument(
                f"{work} holds a target that was begun without --go-on-from; leave that out, or give another folder"
            )
        content = {"folder": str(before.folder), **before.digests()}
        atomic_write(note, json.dumps(content, indent=1).encode() + b"\n")
