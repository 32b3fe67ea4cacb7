"""A drafter node that says what its speech says, after as long as its machine would take.

It goes about it as `workers/drafter_node/` and `workers/drafters/model_search.py` do: trees grow best first as far as
it is known what comes next, one step computes the places that all trees need to go on, what was computed stays known
along the committed tokens, nodes that nobody waits for are gathered, and of a sequence that it only follows it is told
late and says how often it would have been right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from benchmarks.simulator.cores import Cores
from benchmarks.simulator.events import Events
from benchmarks.simulator.machines import DrafterMachine, num_keys
from benchmarks.traces.speech import Place, Said, Speech
from benchmarks.traces.trace import Request
from contracts.types import ROOT, DraftNode, Epoch, SequenceId, StepReport
from router.orders import Draft, DrafterOffer, DrafterOrders, Drafts, Evidence, Wish
from workers.drafters.growth import Candidate, Growth

__all__ = ["SimulatedDrafter"]

# As in workers/drafter_node/node.py and workers/drafters/model_search.py.
_SCORED_TOKENS, _FIRST_SCORED_TOKENS = 6, 2
_GATHER_S = 0.005
_WORTH_GUESSING = 0.5
_MAX_EXPAND = 4
_DEEP = 16
_NUM_KEYS = 256  # of a row of the step that it introduces itself with


@dataclass(slots=True, kw_only=True, eq=False)
class _Followed:
    """One sequence; `index` counts the committed tokens of its answer."""

    sequence: SequenceId
    request: Request
    epoch: Epoch
    index: int
    num_to_read: int
    """Committed tokens to be computed with the next step, besides the last."""
    wish: Wish | None = None
    only_follows: bool = False
    num_unread: int = 0
    was_scored: bool = False
    known: dict[Place, tuple[list[Candidate[Place]], dict[int, Place]]] = field(default_factory=dict)
    """Places at which it has computed what comes next: that, and the place after each of its tokens."""
    told: set[Place] = field(default_factory=set)
    growth: Growth[Place] | None = None
    places: list[Place] = field(default_factory=list)
    """Of the nodes of the answer under way."""

    @property
    def position(self) -> int:
        return len(self.request.prompt) + self.index

    @property
    def is_to_be_scored(self) -> bool:
        return self.num_unread >= (_SCORED_TOKENS if self.was_scored else _FIRST_SCORED_TOKENS)

    @property
    def is_eager(self) -> bool:
        """Whether a round may wait for its next nodes."""
        if self.wish is None or not self.wish.run_ahead:
            return False
        return len(self.places) <= (self.wish.num_eager or self.wish.num_nodes)


class SimulatedDrafter:
    """A `DrafterLink`. `tell` takes what it found, after the link's time. See the module."""

    def __init__(
        self,
        machine: DrafterMachine,
        events: Events,
        cores: Cores,
        speech: Speech,
        requests: Mapping[SequenceId, Request],
        tell: Callable[[Drafts], None],
    ) -> None:
        self.machine, self.busy_s, self.num_steps = machine, 0.0, 0
        self._events, self._cores, self._speech = events, cores, speech
        self._requests, self._tell = requests, tell
        self._followed: dict[SequenceId, _Followed] = {}
        self._growing: dict[SequenceId, _Followed] = {}
        self._scoring: dict[SequenceId, _Followed] = {}
        self._gathered: list[Draft] = []
        self._steps: list[StepReport] = []
        self._gathering_since_s = 0.0
        self._is_stepping = False

    def offer(self) -> DrafterOffer:
        of = self.machine
        return DrafterOffer(
            drafter=of.drafter,
            kind="simulated",
            model=None,
            has_logits=of.has_logits,
            num_logprobs=0,
            capacity=of.capacity,
            step_s=of.cost.cost_s(1, _NUM_KEYS),
            prefill_s_per_token=of.prefill_s_per_token,
            max_context=1 << 20,
            device="simulated",
        )

    def send(self, orders: DrafterOrders) -> None:
        self._events.after(self.machine.link_s, lambda: self._arrive(orders))

    # What arrives

    def _arrive(self, orders: DrafterOrders) -> None:
        for sequence in orders.close:
            self._followed.pop(sequence, None)
            self._growing.pop(sequence, None)
            self._scoring.pop(sequence, None)
        for opened in orders.open:
            self._followed[opened.sequence] = _Followed(
                sequence=opened.sequence,
                request=self._requests[opened.sequence],
                epoch=opened.epoch,
                index=len(opened.tokens) - opened.num_prompt,
                num_to_read=len(opened.tokens) - 1,
            )
        for news in orders.commit:
            followed = self._followed.get(news.sequence)
            if followed is not None and (followed.epoch, followed.position) == (news.epoch, news.position):
                self._commit(followed, len(news.tokens))
        for wish in orders.want:
            followed = self._followed.get(wish.sequence)
            if followed is not None and (followed.epoch, followed.position) == (wish.epoch, wish.position):
                self._want(followed, wish)
        if not self._is_stepping:
            self._go_on()

    def _commit(self, followed: _Followed, count: int) -> None:
        first = followed.index
        followed.index += count
        if followed.only_follows:
            followed.num_unread += count
            if followed.is_to_be_scored:
                self._scoring[followed.sequence] = followed
            return
        followed.num_to_read += sum(Place(index) not in followed.known for index in range(first + 1, followed.index))
        followed.known = {place: then for place, then in followed.known.items() if place.num >= followed.index}
        followed.told = {place for place in followed.told if place.num >= followed.index}
        self._growing.pop(followed.sequence, None)
        if followed.wish is not None and followed.wish.run_ahead:
            self._grow(followed, ())
        else:
            followed.wish = None

    def _want(self, followed: _Followed, wish: Wish) -> None:
        self._growing.pop(followed.sequence, None)
        followed.num_to_read += followed.num_unread
        followed.num_unread = 0
        self._scoring.pop(followed.sequence, None)
        followed.only_follows = wish.num_nodes == 0
        followed.wish = wish if wish.num_nodes > 0 else None
        if followed.wish is not None:
            self._grow(followed, wish.below)

    def _grow(self, followed: _Followed, below: tuple[int, ...]) -> None:
        assert followed.wish is not None, "only what is wanted grows"
        place = Place(followed.index)
        for token in below:
            place = place.then(followed.request, token)
        depth = followed.wish.max_depth or _DEEP
        followed.growth = Growth(place, followed.wish.num_nodes, max_depth=depth, least_value=followed.wish.least_value)
        followed.places = []
        self._growing[followed.sequence] = followed

    # Drafting

    def _go_on(self) -> None:
        """Says what is known; where that is nothing new, a step first."""
        while not self._is_stepping and (self._growing or self._scoring):
            if not self._tell_known():
                self._step()

    def _tell_known(self) -> bool:
        """Whether there was anything to say."""
        found, is_urgent = False, False
        for followed in list(self._growing.values()):
            drafts, is_last = self._found(followed)
            if drafts:
                if not self._gathered:
                    self._gathering_since_s = self._events.clock.now_s()
                self._gathered += drafts
                found = True
                is_urgent |= is_last or followed.is_eager
            if is_last:
                del self._growing[followed.sequence]
        is_old = self._events.clock.now_s() - self._gathering_since_s >= _GATHER_S
        if self._gathered and (is_urgent or is_old):
            drafts, self._gathered = self._gathered, []
            steps, self._steps = self._steps, []
            self._say(Drafts(drafts=tuple(drafts), steps=tuple(steps), began_s=0.0, ended_s=0.0))
        return found

    def _found(self, followed: _Followed) -> tuple[list[Draft], bool]:
        """Grows a tree as far as it is known what comes next; what is new, and whether that was all."""
        growth, wish, known = followed.growth, followed.wish, followed.known
        assert growth is not None, "only what is wanted grows"
        assert wish is not None, "only what is wanted grows"
        while growth.next is not None and (found := known.get(growth.next.context)) is not None:
            growth.give(found[0][: wish.max_children or None])
        is_last = growth.next is None
        drafts: dict[Place, tuple[list[DraftNode], dict[Place, int]]] = {}
        started: dict[Place, Place] = {}
        root = Place(followed.index)
        for token in wish.below:
            root = root.then(followed.request, token)
        for node in growth.tree[len(followed.places) :]:
            above = root if node.parent == ROOT else followed.places[node.parent]
            place = known[above][1][node.token]
            followed.places.append(place)
            if place in followed.told:
                continue
            followed.told.add(place)
            start = started.get(above, above)
            nodes, numbers = drafts.setdefault(start, ([], {}))
            parent = numbers.get(above, ROOT)
            started[place], numbers[place] = start, len(nodes)
            nodes.append(
                DraftNode(token=node.token, parent=parent, confidence=node.confidence, drafter=self.machine.drafter)
            )
        told = [self._draft(followed, start, tuple(nodes)) for start, (nodes, _) in drafts.items()]
        if is_last:
            last = told.pop() if told else self._draft(followed, followed.places[-1] if followed.places else root, ())
            told.append(replace(last, is_last=True))
            if not wish.run_ahead:
                followed.wish = None
        return told, is_last

    def _draft(self, followed: _Followed, place: Place, nodes: tuple[DraftNode, ...]) -> Draft:
        below = (*followed.request.answer[followed.index : place.num], *place.beside)
        return Draft(
            sequence=followed.sequence,
            epoch=followed.epoch,
            position=followed.position,
            below=below,
            nodes=nodes,
            is_last=False,
        )

    def _step(self) -> None:
        wanted: list[tuple[_Followed, list[Place]]] = []
        num_rows = num_context = 0
        for followed in self._growing.values():
            growth = followed.growth
            assert growth is not None, "only what is wanted grows"
            soon = growth.soon()
            places = [place for value, place in soon if value >= _WORTH_GUESSING * soon[0][0]]
            places = [place for place in dict.fromkeys(places) if place not in followed.known][:_MAX_EXPAND]
            wanted.append((followed, places))
            num_rows += len(places) + followed.num_to_read
            num_context += len(places) * followed.position + num_keys(followed.num_to_read, followed.position - 1)
            followed.num_to_read = 0
        scored = [(followed, followed.num_unread) for followed in self._scoring.values()]
        self._scoring.clear()
        for followed, num_unread in scored:
            num_read = num_unread + followed.num_to_read
            followed.num_to_read = 0
            num_rows += num_read
            num_context += num_keys(num_read, followed.position - 1)
        self._is_stepping = True
        began_s = self._events.clock.now_s()

        def stepped() -> None:
            self._is_stepping = False
            elapsed_s = self._events.clock.now_s() - began_s
            self.busy_s, self.num_steps = self.busy_s + elapsed_s, self.num_steps + 1
            self._steps.append(
                StepReport(
                    num_rows=num_rows,
                    num_context=max(num_context, num_rows),
                    num_sequences=len(wanted) + len(scored),
                    elapsed_s=max(elapsed_s, 1e-9),
                )
            )
            for followed, places in wanted:
                followed.known.update({p: self._after(followed, p) for p in places if p.num >= followed.index})
            self._score(scored)
            self._go_on()

        self._cores.run(self.machine.cost.cost_s(num_rows, num_context), stepped)

    def _after(self, followed: _Followed, place: Place) -> tuple[list[Candidate[Place]], dict[int, Place]]:
        """What it says comes at a place, and the place after each token of that."""
        request = followed.request
        said = self._speech.said(request, self.machine.drafter, place)
        then = {token: place.then(request, token) for token, _ in said}
        return [(token, confidence, then[token]) for token, confidence in said], then

    def _score(self, scored: list[tuple[_Followed, int]]) -> None:
        evidence: list[Evidence] = []
        for followed, count in scored:
            if self._followed.get(followed.sequence) is not followed or not followed.only_follows:
                continue
            request, end = followed.request, followed.index - followed.num_unread + count
            followed.num_unread -= count
            followed.was_scored = True
            agreed = sum(
                said[0][0] == request.answer[index]
                for index in range(end - count, end)
                if (said := self._said_first(request, index))
            )
            evidence.append(
                Evidence(sequence=followed.sequence, epoch=followed.epoch, num_tokens=count, num_agreed=agreed)
            )
            if followed.is_to_be_scored:
                self._scoring[followed.sequence] = followed
        if evidence:
            steps, self._steps = self._steps, []
            self._say(Drafts(drafts=(), steps=tuple(steps), began_s=0.0, ended_s=0.0, evidence=tuple(evidence)))

    def _said_first(self, request: Request, index: int) -> Said:
        return self._speech.said(request, self.machine.drafter, Place(index))

    def _say(self, message: Drafts) -> None:
        self._events.after(self.machine.link_s, lambda: self._tell(message))
