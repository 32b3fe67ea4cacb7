"""Drafting for many sequences at once: takes all that has arrived, does one step, sends what it found, and again.

One thread does all of it. All sequences share each step, and nobody waits for another's answer to be complete: nodes
leave as they are found, as long as a round may wait for them. What is drafted far ahead is gathered for a while, for
every message takes time from all who read and write it. Of a sequence that is only followed the drafter is asked what
it would have said before it is told what was decided, several tokens at a time. A sequence that cannot be followed is
let go, alone; the router draws its own conclusions from its silence, for drafts are help and never a duty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from contracts.clock import Clock, SystemClock
from contracts.errors import SpecfleetError
from contracts.types import SequenceId, StepReport
from specfleet.tracing import Attributes, Tracing
from specfleet.v1 import fleet_pb2
from workers.drafter_node.answers import Answers
from workers.drafter_node.followed import Followed, draft_to_wire
from workers.drafter_node.memories import Memories
from workers.drafters.drafter import Commit, Drafter
from workers.inbox import Inbox
from workers.link import Arrival, Stream
from workers.wire import answered_of, ask_of, commit_of, opening_of, report_to_wire, sequence_id

__all__ = ["DrafterNode"]

logger = logging.getLogger(__name__)

_SCORED_TOKENS = 6  # of a followed sequence at a time: one more row costs little, one more step costs much
_FIRST_SCORED_TOKENS = 2  # sooner the first time: many answers are short, and what was not scored teaches nothing
_GATHER_S = 0.005  # how long nodes that nobody waits for wait for others at most


class DrafterNode:
    """See the module. `begin` makes new answers of the drafter; it appends to `steps` what its model's steps cost.
    `agreement` says of a sequence's tokens since it was last asked whether the drafter had said the same. With
    `tracing` each step is told of."""

    def __init__(
        self,
        drafter: Drafter,
        *,
        name: str,
        hello: fleet_pb2.FromWorker,
        begin: Callable[[], Answers],
        steps: list[StepReport],
        agreement: Callable[[SequenceId], Sequence[bool]] | None = None,
        memories: Memories | None = None,
        clock: Clock | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.name, self.hello = name, hello
        self.num_stale = 0
        """Messages about an epoch or a position that is not the one here."""
        self._drafter, self._begin, self._steps, self._clock = drafter, begin, steps, clock or SystemClock()
        self._agreement, self._memories, self._tracing = agreement, memories, tracing
        self._followed: dict[int, Followed] = {}
        self._answers = begin()
        self._by_answer: dict[int, Followed] = {}
        self._unasked: dict[int, Followed] = {}
        """Those whose want is to be asked in the next step."""
        self._silent: list[fleet_pb2.Draft] = []
        """Answers of those that cannot be followed: nothing, at once, so that nobody waits for them."""
        self._gathered = fleet_pb2.Drafts()

    @property
    def num_sequences(self) -> int:
        """That are followed."""
        return len(self._followed)

    def run(self, inbox: Inbox[Arrival]) -> None:
        """Works until the inbox is closed, or the router says that this is all."""
        stream: Stream | None = None
        self.reset()  # it may have worked before
        while (arrivals := inbox.take(wait=not self.has_work, most_s=self._wait_s)) is not None:
            for arrival in arrivals:
                if arrival.message is None:
                    self.reset()
                elif arrival.message.HasField("drain"):
                    return
                else:
                    stream = arrival.stream
                    self._hear(arrival.message)
            if stream is None:
                continue
            if self.has_work:
                drafts = self.draft()
                if drafts.drafts or drafts.evidence:
                    stream.send(fleet_pb2.FromWorker(drafts=drafts))
            elif self._memories is not None and (part := self._memories.step()) is not None:
                stream.send(fleet_pb2.FromWorker(memory=part))

    @property
    def has_work(self) -> bool:
        """Whether there is something to draft, or to say."""
        return bool(self._unasked or self._silent or not self._answers.is_done)

    def reset(self) -> None:
        """Forgets all sequences: the router that opened them is gone."""
        for number in list(self._followed):
            self._close(number)
        self._silent.clear()
        self._gathered.Clear()
        self._steps.clear()
        self._by_answer.clear()
        self._answers = self._begin()
        if self._memories is not None:
            self._memories.reset()

    # What arrives

    def _hear(self, message: fleet_pb2.ToWorker) -> None:
        if message.HasField("drafter_work"):
            self.take(message.drafter_work)
        elif message.HasField("memory_wanted") and self._memories is not None:
            self._memories.want(message.memory_wanted)
        elif message.HasField("memory") and self._memories is not None:
            self._memories.take(message.memory)
        elif message.HasField("target") and self._memories is not None:
            self._memories.turn_to(message.target.tokenizer_digest)
        else:
            logger.warning("dropped a message that is none for this drafter: %.200s", message)

    @property
    def _wait_s(self) -> float | None:
        """How long to wait for messages at most."""
        return self._memories.wait_s if self._memories is not None else None

    def take(self, work: fleet_pb2.DrafterWork) -> None:
        """One message: what it closes, what it opens, what was decided, and what is wanted."""
        if self._memories is not None:
            self._memories.drafted()
        for number in work.close:
            self._close(number)
        for opening in work.open:
            self._open(opening)
        for commit in work.commit:
            self._commit(commit)
        for want in work.want:
            self._want(want)

    def _close(self, number: int) -> None:
        followed = self._followed.pop(number, None)
        if followed is not None:
            self._drop_answer(followed)
            self._forget_gathered(followed)
            self._drafter.close([sequence_id(number)])

    def _open(self, message: fleet_pb2.Opening) -> None:
        known = self._followed.get(message.sequence)
        if known is not None and known.epoch >= message.epoch:
            self.num_stale += 1
            return
        self._close(message.sequence)
        try:
            self._drafter.open([opening_of(message)])
        except SpecfleetError as error:
            logger.warning("sequence %d cannot be followed: %s", message.sequence, error, extra=_about(message))
            return
        try:
            if (answered := answered_of(message)) is not None:
                self._drafter.commit([answered])
        except SpecfleetError as error:
            logger.warning("sequence %d cannot be followed: %s", message.sequence, error, extra=_about(message))
            self._drafter.close([sequence_id(message.sequence)])
            return
        self._followed[message.sequence] = Followed(
            sequence=message.sequence, epoch=message.epoch, position=len(message.tokens), trace=message.trace
        )

    def _commit(self, message: fleet_pb2.Commit) -> None:
        followed = self._current(message)
        if followed is None:
            return
        if followed.only_follows and self._agreement is not None:
            followed.read_later(tuple(message.tokens))
            if not followed.num_scoring and _is_to_be_scored(followed):
                self._unasked[message.sequence] = followed
            return
        try:
            commit = commit_of(message, with_logprobs=self._drafter.num_logprobs > 0)
            self._drafter.commit([commit])
        except SpecfleetError as error:
            logger.warning("sequence %d can be followed no longer: %s", message.sequence, error)
            self._close(message.sequence)
            return
        self._drop_answer(followed)
        if not followed.runs_ahead:
            self._forget_gathered(followed)
        followed.grew(tuple(commit.tokens))
        if followed.want is not None:
            self._unasked[message.sequence] = followed

    def _want(self, message: fleet_pb2.Want) -> None:
        followed = self._current(message)
        try:
            want = ask_of(message)
        except SpecfleetError as error:
            logger.warning("dropped a want of sequence %d: %s", message.sequence, error)
            followed = None
        if followed is None:
            self._silent.append(draft_to_wire(message, message.below, is_last=True))
            return
        self._drop_answer(followed)
        self._forget_gathered(followed)
        if followed.unread and not self._read(followed, len(followed.unread)):
            self._silent.append(draft_to_wire(message, message.below, is_last=True))
            return
        followed.wish(want, runs_ahead=message.run_ahead, num_eager=message.num_eager)
        if followed.want is not None:
            self._unasked[message.sequence] = followed
        elif self._agreement is not None:
            self._agreement(sequence_id(message.sequence))  # the router has judged itself what was drafted until now

    def _current(self, message: fleet_pb2.Commit | fleet_pb2.Want) -> Followed | None:
        """The sequence of a message that is about its present state.

        What is older is of no use any more. What is ahead shows that something was lost between, and then the sequence
        is not what the router thinks it is: better no drafts than those of another text.
        """
        followed = self._followed.get(message.sequence)
        if followed is None:
            return None
        here, there = (followed.epoch, followed.position), (message.epoch, message.position)
        if here == there:
            return followed
        self.num_stale += 1
        if here < there:
            logger.warning("sequence %d is at %s here, and %s was next; it is let go", message.sequence, here, there)
            self._close(message.sequence)
        return None

    def _score(self, followed: Followed) -> bool:
        """What the drafter would have said is known: tells it the tokens, and the router how often they agree."""
        num_scored, followed.num_scoring, followed.answer = followed.num_scoring, 0, None
        followed.was_scored = True
        if not self._read(followed, num_scored) or self._agreement is None:
            return False
        agreed = self._agreement(sequence_id(followed.sequence))
        if not agreed:
            return False
        self._gathered.evidence.append(
            fleet_pb2.Evidence(
                sequence=followed.sequence, epoch=followed.epoch, num_tokens=len(agreed), num_agreed=sum(agreed)
            )
        )
        return True

    def _read(self, followed: Followed, num_tokens: int) -> bool:
        """Tells the drafter so many of the tokens that it was not told yet; whether the sequence is still followed."""
        tokens, rest = followed.unread[:num_tokens], followed.unread[num_tokens:]
        position = followed.position - len(followed.unread)
        try:
            self._drafter.commit([Commit(sequence=sequence_id(followed.sequence), position=position, tokens=tokens)])
        except SpecfleetError as error:
            logger.warning("sequence %d can be followed no longer: %s", followed.sequence, error)
            self._close(followed.sequence)
            return False
        followed.unread = rest
        if followed.only_follows and _is_to_be_scored(followed):
            self._unasked[followed.sequence] = followed
        return True

    def _drop_answer(self, followed: Followed) -> None:
        """Whatever still comes of what was asked for it says nothing any more."""
        followed.answer = None
        self._unasked.pop(followed.sequence, None)
        self._answers.drop(sequence_id(followed.sequence))

    def _forget_gathered(self, followed: Followed) -> None:
        """What was found and not told yet is of no use any more, and is news again if it is found again."""
        drafts = self._gathered.drafts
        kept = [draft for draft in drafts if draft.sequence != followed.sequence]
        if len(kept) < len(drafts):
            del drafts[:]
            drafts.extend(kept)
            followed.forget_told()

    # Drafting

    def draft(self) -> fleet_pb2.Drafts:
        """One step for all that is wanted, and what is to be told now, which may be nothing."""
        gathered = self._gathered
        if not gathered.drafts:
            gathered.began_s = self._clock.wall_s()
        drafts, self._silent = self._silent, []
        is_urgent = bool(drafts)
        self._ask()
        began_s = self._clock.wall_s() if self._tracing is not None else 0.0
        for found in self._answers.step():
            followed = self._by_answer.get(found.ask)
            if found.is_last:
                self._by_answer.pop(found.ask, None)
            if followed is None or followed.answer != found.ask:
                continue
            if self._tracing is not None and followed.trace:
                self._tell_of(followed, len(found.nodes), began_s, self._tracing)
            if followed.num_scoring:
                is_urgent |= found.is_last and self._score(followed)
            else:
                drafts += followed.tell(found.nodes, is_last=found.is_last)
                is_urgent |= not followed.may_gather
        gathered.drafts.extend(drafts)
        gathered.ended_s = self._clock.wall_s()
        if not (is_urgent or self._has_waited(gathered)) or not (gathered.drafts or gathered.evidence):
            return fleet_pb2.Drafts()
        gathered.steps.extend(map(report_to_wire, self._steps))
        self._steps.clear()
        self._gathered = fleet_pb2.Drafts()
        return gathered

    def _has_waited(self, gathered: fleet_pb2.Drafts) -> bool:
        """Whether something in it has waited for long enough; in turn, all waits for the last."""
        if gathered.ended_s - gathered.began_s < _GATHER_S:
            return False
        return any(self._followed[draft.sequence].runs_ahead for draft in gathered.drafts)

    def _tell_of(self, followed: Followed, num_nodes: int, began_s: float, tracing: Tracing) -> None:
        """A step is in the trace of every sequence that it found something for."""
        about: Attributes = {
            "specfleet.drafter": self.name,
            "specfleet.sequence": followed.sequence,
            "specfleet.position": followed.position,
            "specfleet.nodes": num_nodes,
        }
        ended_s = self._clock.wall_s()
        tracing.record("draft", parent=followed.trace, began_s=began_s, ended_s=ended_s, attributes=about)

    def _ask(self) -> None:
        unasked, self._unasked = self._unasked, {}
        for number, followed in unasked.items():
            ask = followed.to_score() if followed.only_follows else followed.want
            if ask is None:
                continue
            try:
                (answer,) = self._answers.add([ask])
            except SpecfleetError as error:
                logger.warning("dropped a want of sequence %d: %s", number, error)
                self._silent.append(draft_to_wire(followed, ask.below, is_last=True))
                followed.want = None
                continue
            followed.begin(answer)
            self._by_answer[answer] = followed


def _is_to_be_scored(followed: Followed) -> bool:
    return len(followed.unread) >= (_SCORED_TOKENS if followed.was_scored else _FIRST_SCORED_TOKENS)


def _about(message: fleet_pb2.Opening) -> dict[str, object]:
    """For the log."""
    return {"sequence": message.sequence, "request": message.request}
