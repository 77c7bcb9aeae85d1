"""What all wrappers have in common: a detector inside, whose state and history are theirs."""

from typing import ClassVar, Self

from pipeline.protocols import Detector, State


class Wrapper:
    """Around a detector; a subclass is a dataclass of its own options."""

    kind: ClassVar[str | None] = None
    """The only kind of detectors that it goes around; None for any."""
    inner: Detector

    def around(self, inner: Detector) -> Self:
        """Take `inner` in; returns self."""
        self.inner = inner
        return self

    @property
    def learns_from(self) -> str:
        return self.inner.learns_from

    @property
    def paper(self) -> str:
        return self.inner.paper

    @property
    def history_(self) -> list[dict[str, float]]:
        return self.inner.history_

    def state(self) -> State:
        return self.inner.state()

    def from_state(self, state: State) -> Self:
        self.inner.from_state(state)
        return self
