"""The drafters that are in the fleet now: which of them works for which sequence, and what each is told.

Orders are gathered while an event is handled and leave in one message for each drafter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from contracts.clock import Clock
from contracts.config.names import entry_of
from contracts.errors import InvalidArgument
from contracts.types import DrafterId, DraftNode, SequenceId, Verdict
from router.fused_steps import FusedSteps
from router.metrics.histogram import MOMENT_S, Histogram
from router.orders import (
    LINK_S,
    DrafterLink,
    DrafterOffer,
    DrafterOrders,
    Drafts,
    Evidence,
    TokensDecided,
    num_logprobs_wanted,
)
from router.quarantine import Quarantine
from router.sequence import RoutedSequence
from router.silence import Silence
from router.wishes import only_follow, opened, wish
from speculation.fusion import FusionKind
from speculation.fusion_choice import FusionChoice
from speculation.load import Cooperation
from speculation.roster import Member, Roster

__all__ = ["DrafterFigures", "DrafterPool"]

_MAX_FOLLOWERS = 4  # of one sequence
_KNOWN_HERE = 12.0  # tokens of a sequence after which it is clear how good a drafter is at it
_CLEARLY = 0.05  # better than the best at work, in agreement


@dataclass(slots=True, kw_only=True)
class DrafterFigures:
    """What one drafter did since it joined."""

    joined_s: float = 0.0
    num_draft_tokens: int = 0
    num_checked_tokens: int = 0
    num_accepted_tokens: int = 0
    """Both of all that it said, though others may have said the same."""
    num_credited_drafts: int = 0
    num_credited_tokens: int = 0
    credited_by_position: Counter[int] = field(default_factory=Counter)
    """Frontiers whose first node, nodes checked and nodes accepted that bear its name: each bears one drafter's."""
    first_node_s: Histogram = field(default_factory=lambda: Histogram(MOMENT_S))
    """From each verdict to its first node that was of use."""
    num_late: int = 0
    """Verdicts after which it had said nothing of use when the next one came."""
    num_steps: int = 0
    busy_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Connected:
    offer: DrafterOffer
    link: DrafterLink
    rank: tuple[int, str]
    """By which modes that take the first drafter choose."""
    orders: DrafterOrders = field(default_factory=DrafterOrders)
    following: dict[SequenceId, bool] = field(default_factory=dict)
    """The sequences that it has open, and whether it is to draft for them."""
    unjudged: dict[SequenceId, int] = field(default_factory=dict)
    """How many decided tokens it was told of each sequence, and has not judged: there is evidence of no more."""
    followed: Counter[SequenceId] = field(default_factory=Counter)
    """So many of these it was told while it did not draft, and what it says about no more counts: of whoever drafts,
    the drafts are judged."""
    figures: DrafterFigures
    silence: Silence

    def judges(self, evidence: Evidence) -> tuple[int, int]:
        """It says how often it would have been right; refused where it cannot know that. How many tokens of it count,
        and with how many of them it agrees."""
        sequence, left = evidence.sequence, self.unjudged.get(evidence.sequence, 0)
        if evidence.num_tokens > left:
            raise InvalidArgument(
                f"drafter {self.offer.drafter} judges {evidence.num_tokens} tokens of sequence {sequence}; there are "
                f"{left} that it was told and has not judged"
            )
        self.unjudged[sequence] = left - evidence.num_tokens
        num_tokens = min(evidence.num_tokens, self.followed[sequence])
        self.followed[sequence] -= num_tokens
        return num_tokens, max(evidence.num_agreed - (evidence.num_tokens - num_tokens), 0)


class DrafterPool:
    """See the module. `order` ranks names for modes that take the first drafter; NAME-NUMBER
    ranks as NAME, and unlisted ones come last, by name."""

    def __init__(
        self, roster: Roster, clock: Clock, *, order: Sequence[DrafterId] = (), fusion: FusionKind | None = None
    ) -> None:
        self.roster, self.clock = roster, clock
        self.fusion = FusionChoice(fusion)
        self.cooperation = Cooperation()
        self.num_stale = 0
        self.quarantine = Quarantine(clock)
        self._order = {drafter: place for place, drafter in enumerate(order)}
        self._connected: dict[DrafterId, _Connected] = {}

    # Membership

    def join(self, offer: DrafterOffer, link: DrafterLink, running: Iterable[RoutedSequence]) -> None:
        """A drafter that may draft from now on, for open sequences too."""
        self.roster.join(
            Member(
                drafter=offer.drafter,
                has_logits=offer.has_logits,
                step_s=offer.step_s,
                capacity=offer.capacity,
                prefill_s_per_token=offer.prefill_s_per_token,
            )
        )
        self._connected[offer.drafter] = _Connected(
            offer=offer,
            link=link,
            rank=self._rank(offer.drafter),
            figures=DrafterFigures(joined_s=self.clock.now_s()),
            silence=Silence(prefill_s_per_token=offer.prefill_s_per_token),
        )
        for sequence in running:
            if sequence.allowed_drafters is None or offer.drafter in sequence.allowed_drafters:
                self.roster.admit(sequence.drafting, offer.drafter)

    def leave(self, drafter: DrafterId, running: Iterable[RoutedSequence]) -> None:
        """It is gone. Its sequences lose what it alone said, and nothing else."""
        if self._connected.pop(drafter, None) is None:
            return
        self.roster.leave(drafter)
        for sequence in running:
            sequence.drafting.leave(drafter)
            if sequence.steps is not None and sequence.steps.answered(drafter, sequence.steps.path):
                self._step(sequence)

    @property
    def offers(self) -> list[DrafterOffer]:
        """Of the connected ones, in the order of their ranks."""
        return [connected.offer for connected in sorted(self._connected.values(), key=lambda each: each.rank)]

    def figures(self, drafter: DrafterId) -> DrafterFigures:
        return self._connected[drafter].figures

    def num_following(self, drafter: DrafterId) -> int:
        """Sequences that it has open."""
        return len(self._connected[drafter].following)

    @property
    def num_logprobs(self) -> int:
        """How many of the target's candidates verdicts must carry."""
        return num_logprobs_wanted(self.offers)

    # Sequences

    def route(self, sequences: Sequence[RoutedSequence], *, round_s: float, renews: bool = False) -> None:
        """Decides anew who drafts for whom, and tells those for whom it changed; or all, if their manner did."""
        shortest = min((connected.offer.max_context for connected in self._connected.values()), default=0)
        for sequence in sequences:
            if sequence.position + sequence.max_depth >= shortest:
                self._let_go(sequence)
        working = [sequence for sequence in sequences if not sequence.is_plain]
        routed = [sequence for sequence in working if sequence.parts.is_routed and self._connected]
        if routed:
            most = max(map(_most_drafters, routed))
            self.roster.assign(
                [sequence.drafting for sequence in routed],
                round_s=round_s,
                num_cooperating=min(self.cooperation.num_drafters, most),
            )
            for sequence in routed:
                sequence.drafting.drafters = sequence.drafting.drafters[: _most_drafters(sequence)]
        for sequence in sequences:
            if sequence.is_plain:
                sequence.drafting.drafters = ()
            elif not sequence.parts.is_routed:
                sequence.drafting.drafters = self._first(sequence)
            changed = self._choose_fusion(sequence, round_s)
            self._tell(sequence, self._followers(sequence), renews=changed or renews)

    def decided(self, sequence: RoutedSequence, verdict: Verdict) -> None:
        """New committed tokens for those who follow a sequence, and the next wish where wishes do not stand."""
        sequence.finished_drafters = {name for name, connected in self._connected.items() if connected.silence.now}
        sequence.asked_s = self.clock.now_s()
        self._listen(sequence)
        if sequence.steps is not None:
            sequence.steps.decided(verdict.tokens, self._heard(sequence))
        asks_anew = sequence.steps is not None or not sequence.runs_ahead
        news = TokensDecided(
            sequence=sequence.id,
            epoch=sequence.epoch,
            position=verdict.position,
            tokens=verdict.tokens,
            logprobs=verdict.logprobs,
        )
        for connected in self._connected.values():
            if sequence.id in connected.following:
                connected.orders.commit.append(news)
                connected.unjudged[sequence.id] += len(news.tokens)
                if not connected.following[sequence.id]:
                    connected.followed[sequence.id] += len(news.tokens)
                elif asks_anew:
                    connected.orders.wish(wish(sequence))

    def went_without(self, sequence: RoutedSequence) -> None:
        """A round stopped waiting for its drafters; the next will not wait for them before they have spoken. Of those
        that step together it waited for some only, and the others for them too."""
        steps, drafters = sequence.steps, set(sequence.drafting.drafters)
        for drafter in drafters & (steps.awaited if steps is not None else drafters - sequence.finished_drafters):
            if (connected := self._connected.get(drafter)) is not None:
                connected.silence.now = True

    def end(self, sequence: RoutedSequence) -> None:
        """Nobody needs to follow it any more; what it taught stays."""
        self.roster.learn(sequence.drafting)
        self._close(sequence)

    def restart(self, sequence: RoutedSequence) -> None:
        """It has a new epoch: those who followed it begin again."""
        self._close(sequence)
        self._tell(sequence)

    def take(self, drafter: DrafterId, drafts: Drafts, sequences: dict[SequenceId, RoutedSequence]) -> bool:
        """What a drafter found goes into the trees; what came too late is counted. Whether it follows a sequence that
        it should rather draft for."""
        connected = self._connected.get(drafter)
        if connected is None:
            self.num_stale += len(drafts.drafts)
            return False
        if connected.silence.is_paused:
            self.roster.resume(drafter)
        connected.silence.spoke(self.clock.now_s())
        figures = connected.figures
        figures.busy_s += max(drafts.ended_s - drafts.began_s, 0.0)
        for step in drafts.steps:
            figures.num_steps += 1
            self.roster.observe_step(drafter, num_sequences=step.num_sequences, elapsed_s=step.elapsed_s)
        has_asked = False
        for draft in drafts.drafts:
            sequence = sequences.get(draft.sequence)
            if sequence is None or draft.epoch != sequence.epoch or drafter not in sequence.drafting.members:
                self.num_stale += 1
                continue
            figures.num_draft_tokens += len(draft.nodes)
            placed = sequence.drafting.take(drafter, draft.nodes, position=draft.position, below=draft.below)
            if drafter in sequence.unheard and any(node is not None for node in placed):
                figures.first_node_s.observe(self.clock.now_s() - sequence.decided_s)
                sequence.unheard -= {drafter}
            if not draft.is_last or draft.position != sequence.position:
                continue
            if sequence.steps is None:
                sequence.finished_drafters.add(drafter)
            elif sequence.steps.answered(drafter, draft.below):
                self._step(sequence)
                has_asked = True
        if has_asked:
            self.flush()  # those that step together go on at once, whatever the target is doing
        is_better = False
        for evidence in drafts.evidence:
            sequence = sequences.get(evidence.sequence)
            if sequence is None or evidence.epoch != sequence.epoch or drafter not in sequence.drafting.members:
                self.num_stale += 1
                continue
            num_tokens, num_agreed = connected.judges(evidence)
            drafting = sequence.drafting
            drafting.followed(drafter, num_tokens=num_tokens, num_agreed=num_agreed)
            best = max((drafting.scores.score(other) for other in drafting.drafters), default=0.0)
            is_better |= drafter not in drafting.drafters and drafting.scores.score(drafter) > best + _CLEARLY
        return is_better

    def count(
        self, nodes: Sequence[DraftNode], said_by: Sequence[Iterable[DrafterId]], accepted: Sequence[int]
    ) -> None:
        """A round checked these nodes, each said by some drafters, and accepted some, from the root on."""
        for place, node in enumerate(nodes):
            if (connected := self._connected.get(node.drafter)) is not None:
                connected.figures.num_credited_drafts += place == 0
                connected.figures.num_credited_tokens += 1
        for position, index in enumerate(accepted):
            if (connected := self._connected.get(nodes[index].drafter)) is not None:
                connected.figures.credited_by_position[position] += 1
        for index, drafters in enumerate(said_by):
            for drafter in drafters:
                if (connected := self._connected.get(drafter)) is not None:
                    connected.figures.num_checked_tokens += 1
                    connected.figures.num_accepted_tokens += index in accepted

    def flush(self) -> None:
        """Sends what was gathered. Who should have spoken long ago is paused, whatever it claims, so that sequences go
        to others; and tried again, after pauses that double until it speaks."""
        now_s = self.clock.now_s()
        # Those first that somebody waits for: all of them begin to compute when they hear of it.
        for drafter, connected in sorted(self._connected.items(), key=lambda pair: not pair[1].orders.want):
            silence = connected.silence
            if silence.has_begun(now_s):
                if silence.pause(now_s):
                    self.roster.pause(drafter)
            elif silence.resume(now_s):
                self.roster.resume(drafter)
            if connected.orders:
                silence.told(connected.orders, connected.following, now_s)
                orders, connected.orders = connected.orders, DrafterOrders()
                connected.link.send(orders)

    # Inside

    def _let_go(self, sequence: RoutedSequence) -> None:
        """It has become too long for some drafters, which could say nothing about it: they are none of its any more."""
        for drafter in sequence.drafting.members & self._connected.keys():
            if sequence.position + sequence.max_depth >= self._connected[drafter].offer.max_context:
                sequence.drafting.leave(drafter)

    def _listen(self, sequence: RoutedSequence) -> None:
        """A verdict has come: whose nodes below it are there already, and who has to find some first."""
        tree, missing = sequence.drafting.tree, list[DrafterId]()
        ready = {drafter for node in tree[tree.root].children.values() for drafter in node.said}
        for drafter in sequence.drafting.drafters:
            if (connected := self._connected.get(drafter)) is None:
                continue
            connected.figures.num_late += drafter in sequence.unheard
            if drafter in ready:
                connected.figures.first_node_s.observe(0.0)
            else:
                missing.append(drafter)
        sequence.decided_s, sequence.unheard = sequence.asked_s, frozenset(missing)

    def _rank(self, drafter: DrafterId) -> tuple[int, str]:
        entry = entry_of(drafter, self._order)
        return self._order[DrafterId(entry)] if entry is not None else len(self._order), drafter

    def _first(self, sequence: RoutedSequence) -> tuple[DrafterId, ...]:
        members = sequence.drafting.members & self._connected.keys()
        able = [drafter for drafter in members if not self._connected[drafter].silence.is_paused]
        able.sort(key=lambda each: self._connected[each].rank)
        return tuple(able[: sequence.parts.max_drafters])

    def _choose_fusion(self, sequence: RoutedSequence, round_s: float) -> bool:
        """Several drafters of a sequence step together, or each runs freely; a single one always does. Whether that
        changed."""
        drafters, before = sequence.drafting.drafters, sequence.steps
        if len(drafters) > 1 and sequence.fusion is None:
            sequence.fusion = self.fusion.kind(
                step_s=max(self.roster.step_s(drafter) for drafter in drafters),
                link_s=LINK_S,
                round_s=round_s,
                max_depth=sequence.max_depth,
            )
        if len(drafters) > 1 and sequence.fusion is FusionKind.EVERY_STEP:
            sequence.steps = sequence.steps or FusedSteps()
        else:
            sequence.steps = None
        return (sequence.steps is None) is not (before is None)

    def _heard(self, sequence: RoutedSequence) -> list[DrafterId]:
        """Those of its drafters that are waited for."""
        return [
            drafter
            for drafter in sequence.drafting.drafters
            if (connected := self._connected.get(drafter)) is not None and not connected.silence.now
        ]

    def _step(self, sequence: RoutedSequence) -> None:
        """All have answered about one place: on to the next, or that was all."""
        assert sequence.steps is not None, "asked only of those that step together"
        drafters = sequence.drafting.drafters
        if not sequence.steps.advance(sequence.drafting.tree, max_depth=sequence.max_depth):
            sequence.finished_drafters.update(drafters)
            return
        sequence.steps.begin(self._heard(sequence))
        sequence.asked_s = self.clock.now_s()
        for drafter in drafters:
            if (connected := self._connected.get(drafter)) is not None and sequence.id in connected.following:
                connected.orders.wish(wish(sequence))

    def _followers(self, sequence: RoutedSequence) -> frozenset[DrafterId]:
        """Who besides its drafters should read along, to learn how good it would be: those that are little known here
        and could be the best for such prompts, and everyone little known here where those at work disappoint."""
        drafting = sequence.drafting
        if not sequence.parts.is_routed or sequence.is_plain or self.cooperation.is_backlogged:
            return frozenset()
        is_disappointed = drafting.accepted_length.trial_share > 0.0
        unknown = [
            drafter
            for drafter, connected in self._connected.items()
            if connected.offer.has_logits
            and drafter in drafting.members
            and drafter not in drafting.drafters
            and drafting.scores.num_tokens(drafter) < _KNOWN_HERE
            and len(connected.following) < connected.offer.capacity
            and (is_disappointed or self.roster.could_be_best(drafting, drafter))
        ]
        return frozenset(
            sorted(unknown, key=lambda drafter: (-drafting.scores.score(drafter), drafter))[:_MAX_FOLLOWERS]
        )

    def _tell(self, sequence: RoutedSequence, followers: Collection[DrafterId] = (), *, renews: bool = False) -> None:
        """Opens the sequence where it has become someone's, closes it where it no longer is."""
        role_of = {drafter: connected.following.get(sequence.id) for drafter, connected in self._connected.items()}
        drafting_before, now_s = {drafter for drafter, drafts in role_of.items() if drafts}, self.clock.now_s()
        if sequence.steps is not None and drafting_before != set(sequence.drafting.drafters):
            sequence.steps.begin(self._heard(sequence))
            renews = True
        for drafter, connected in self._connected.items():
            drafts, before = drafter in sequence.drafting.drafters, connected.following.get(sequence.id)
            if not drafts:
                connected.silence.let_off(sequence.id, now_s)
            if not drafts and drafter not in followers:
                if before is not None:
                    del connected.following[sequence.id]
                    connected.orders.end(sequence.id)
                continue
            if before is None:
                connected.orders.open.append(opened(sequence))
                num_told = len(sequence.tokens) - sequence.num_prompt
                connected.unjudged[sequence.id] = connected.unjudged.get(sequence.id, 0) + num_told
            if drafts is not before or (drafts and renews):
                connected.following[sequence.id] = drafts
                connected.orders.wish(wish(sequence) if drafts else only_follow(sequence))
            if drafts and (renews or not before):
                sequence.asked_s = self.clock.now_s()
                if connected.silence.now:
                    sequence.finished_drafters.add(drafter)
                else:
                    sequence.finished_drafters.discard(drafter)

    def _close(self, sequence: RoutedSequence) -> None:
        for connected in self._connected.values():
            connected.unjudged.pop(sequence.id, None)
            connected.followed.pop(sequence.id, None)
            connected.silence.let_off(sequence.id, self.clock.now_s())
            if connected.following.pop(sequence.id, None) is not None:
                connected.orders.end(sequence.id)


def _most_drafters(sequence: RoutedSequence) -> int:
    """How many may draft for it at present, whatever the load."""
    return min(sequence.parts.max_drafters, sequence.most_drafters)
