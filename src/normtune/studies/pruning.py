"""Prune clearly lost learning rates early, on request, by a rule that does not depend on the order of execution.

The rates of a search run one after the other, the middle one first. A rate is pruned after the first epoch at which its
best score so far is more than a margin below the best that any finished run before it had by the same epoch. Rules that
compare with whatever else has run by then (median stopping, asynchronous successive halving) can decide differently on
another machine, or when a study is continued; this one sees only the runs of the search that finished before.
"""

from __future__ import annotations

from collections.abc import Sequence

from normtune.config import Pruning, fingerprint
from normtune.records.run import EpochScore, Pruned, Record
from normtune.training.loop import Judge, PrunedError
from normtune.training.session import Session
from normtune.training.splits import Run


def trial_order(rates: Sequence[float]) -> tuple[float, ...]:
    """The order in which a search with pruning tries rates: from the middle one outwards, the lower of two first."""
    rising = sorted(rates)
    middle = len(rising) // 2
    return tuple(sorted(rising, key=lambda rate: (abs(rising.index(rate) - middle), rate)))


def verdict(
    rule: Pruning, primary: str, curve: Sequence[EpochScore], epochs: int, rivals: Sequence[Record]
) -> Pruned | None:
    """Why a run is lost, at the first epoch where it is, however long it has trained since; None if it is not.

    Args:
        rule: When a run is lost.
        primary: Name of the metric that rates are compared by.
        curve: The run's epochs so far.
        epochs: How many it is to have; after the last there is nothing to save.
        rivals: Whole runs of other rates of the same search.

    Returns:
        The comparison that it lost, or None.
    """
    for epoch in range(rule.first(epochs), min(len(curve), epochs - 1) + 1) if rivals else ():
        own, rising = _best(curve, primary, epoch), sorted(rivals, key=lambda rival: rival.config.rate)
        led, leader = max(((_best(rival.curve, primary, epoch), rival) for rival in rising), key=lambda pair: pair[0])
        if own < led - rule.margin:
            return Pruned(
                epoch=epoch,
                of=epochs,
                score=own,
                leader=leader.id,
                leader_rate=leader.config.rate,
                leader_score=led,
                margin=rule.margin,
                after=rule.after,
            )
    return None


def judge(rule: Pruning, run: Run, rivals: Sequence[Record]) -> Judge:
    """A judge that lets a training go on as long as it is not lost (see `verdict`)."""
    primary, epochs = run.data.task.primary, run.config.protocol.epochs
    return lambda curve, _: verdict(rule, primary, curve, epochs, rivals) is None


def pruned_identity(identity: str, rule: Pruning, rivals: Sequence[Record]) -> str:
    """The identity of a pruned run, which differs from `identity`, that of the whole run.

    It depends on the whole run's, on the rule, and on all runs that this one was compared with.
    """
    return fingerprint({
        "run": identity,
        "pruning": rule.model_dump(mode="json"),
        "rivals": sorted(rival.id for rival in rivals),
    })


def pruned(session: Session, run: Run, rule: Pruning, rivals: Sequence[Record], error: PrunedError) -> Record:
    """The record of a run that was pruned for being behind `rivals`, with its curve until then."""
    why = verdict(rule, run.data.task.primary, error.curve, run.config.protocol.epochs, rivals)
    assert why is not None
    return session.record(
        run,
        id=pruned_identity(run.id, rule, rivals),
        status="pruned",
        error=f"{why}.",
        pruned=why,
        curve=error.curve[: why.epoch],
        steps=error.steps // len(error.curve) * why.epoch,
        seconds=round(error.seconds, 3),
    )


def _best(curve: Sequence[EpochScore], primary: str, epoch: int) -> float:
    """The best score of the first `epoch` epochs."""
    return max(point.scores[primary] for point in curve[:epoch])
