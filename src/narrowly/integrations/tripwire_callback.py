"""The tripwire in `transformers.Trainer` and what is built on it, such as TRL.

    tripwire = TripwireCallback(every=50, questions=40, control="out/aligned", stop=1.0)
    trainer = SFTTrainer(model, args=args, train_dataset=rows, callbacks=[tripwire])
    trainer.train()

Hooks and their order were read in transformers 5.23 (`trainer.py`), and are held by tests of real runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from narrowly.integrations.transformers import refuse_host
from narrowly.integrations.tripwire.prompts import prompts_sha256
from narrowly.integrations.tripwire.wire import Training, Tripwire, alarm_words, numbers
from narrowly.records.errors import NarrowlyWarning, TrainingError
from narrowly.records.spec import validated
from narrowly.records.tripwire import TripwireLook, TripwireSpec

if TYPE_CHECKING:
    from narrowly.data.banks.paired import PairedItem

__all__ = ["TripwireCallback"]


class TripwireCallback(TrainerCallback):  # type: ignore[misc]
    """Read paired answers while a Trainer trains, beside a control; give it to `callbacks=` and train as ever.

    It reads at multiples of `every` steps that the budget affords, adds `tripwire_...` to the next training logs, and
    keeps every reading in `tripwire.json` in `output_dir`. A folder with such a file is a control for another training.

    Args:
        every: optimiser steps between two readings, before the budget widens them.
        questions: how many of the bank are asked.
        budget: largest share of the training time that readings may take; 1 sets no limit.
        control: output folder of the control's training, one of its checkpoints, or a run directory of ours. Without
            one the shift from the start is logged beside its regression on the log-odds at the start.
        stop: margin in nats per answer; a difference to the control shown to exceed it ends the training.
        thinking: mode of the prompts; None: off where the chat template has a mode.
        items: questions of your own to choose from, in place of a bank.
        options: the other fields of `TripwireSpec`: `bank`, `alpha`.

    Attributes:
        tripwire: what it has read so far.

    Raises:
        SpecError: an argument that is not accepted, `stop` without a control, an empty bank.
        NarrowlyError: a bank or a control that cannot be read.
    """

    def __init__(
        self,
        *,
        every: int = 10,
        questions: int = 40,
        budget: float = 0.01,
        control: str | Path | None = None,
        stop: float | None = None,
        thinking: bool | None = None,
        items: Sequence[PairedItem] | None = None,
        **options: Any,
    ) -> None:
        fields = {"every": every, "questions": questions, "budget": budget, "stop": stop, **options}
        fields["control"] = None if control is None else str(control)
        spec: TripwireSpec = validated(TripwireSpec, fields, "tripwire")
        self.tripwire, self._thinking = Tripwire(spec, items), thinking
        self._logged: TripwireLook | None = None

    @property
    def looks(self) -> tuple[TripwireLook, ...]:
        """Return what the readings after step 0 have said."""
        return tuple(self.tripwire.looks)

    def summary(self) -> str:
        """Return what the readings have cost and bought, in one sentence."""
        return self.tripwire.summary()

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        processing_class: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Write the questions as tokens, check the control, and read step 0; on a resume, bring the readings back.

        Raises:
            TrainingError: an engine that shards the model, or a Trainer without a tokenizer.
            SpecError: a control of another bank, base, prompts or steps.
            ResumeError: a resumed training whose record cannot be found, or is of other questions.
        """
        refuse_host("the tripwire", args)
        if getattr(processing_class, "chat_template", None) is None:
            raise TrainingError(
                "the tripwire asks with the chat template of the Trainer's tokenizer, and there is none; accepted: "
                "processing_class=tokenizer, with a chat_template"
            )
        if args.process_index == 0:
            rows = getattr(train_dataloader, "dataset", None)
            prompts = None if rows is None or not hasattr(rows, "__getitem__") else prompts_sha256(rows)
            training = Training(Path(args.output_dir), processing_class, self._thinking, prompts)
            self.tripwire.begin(training, state.global_step)
            every = self.tripwire.spec.every
            self.tripwire.check_steps(range(every, state.max_steps + 1, every))
        self._read_if_due(args, state, control, model, optimizer)

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Read a step that is due; end the training after an alarm."""
        if state.global_step % self.tripwire.spec.every == 0:
            self._read_if_due(args, state, control, model, optimizer)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add what the last reading said to the training logs, once, with the step that it is of."""
        look = self.tripwire.looks[-1] if self.tripwire.looks else None
        if logs is None or "loss" not in logs or look is None or look == self._logged:
            return
        self._logged = look
        found = {**numbers(look), "tripwire_step": look.step}
        logs.update(found)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(found)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the record once more, with the time that the whole training took."""
        if args.process_index == 0:
            self.tripwire.write()

    def _read_if_due(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any) -> None:
        """Read in the first process; the others wait, and hear whether the training ends."""
        step, first = state.global_step, args.process_index == 0
        look = self.tripwire.read(step, model, optimizer) if first and self.tripwire.is_due(step) else None
        if _of_first_process(args, look is not None and look.alarm):
            control.should_training_stop = True
        if look is not None and look.alarm:
            assert self.tripwire.spec.stop is not None
            warnings.warn(alarm_words(look, self.tripwire.spec.stop), NarrowlyWarning, stacklevel=2)


def _of_first_process(args: Any, value: bool) -> bool:
    """Return the value of the first process in all of them."""
    if args.world_size == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
