"""Join several optimisers into one `torch.optim.Optimizer`: one list of groups, one state, one `state_dict`.

The parts keep their own step; everything else is shared. `param_groups` holds the very dicts of the parts, so a
scheduler or a trainer that changes a learning rate reaches them, and all parts write into one `state`, so `state_dict`,
`load_state_dict` and `zero_grad` are torch's own. Each group says in `part` whose it is, which is saved with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from narrowly.optim.closure_step import ClosureOptimizer
from narrowly.records.errors import OptimiserError, unknown_name


class CompositeOptimizer(ClosureOptimizer):
    """Step several optimisers as one, each with its own parameters.

    Args:
        parts: optimisers by name; their groups are taken over in this order.

    Raises:
        OptimiserError: no parts, or a part that has stepped already.
        ValueError: a parameter in two parts (torch's own check).
    """

    def __init__(self, parts: Mapping[str, Optimizer]) -> None:
        if not parts:
            raise OptimiserError("CompositeOptimizer: no parts found, accepted: at least one optimiser")
        stepped = [name for name, part in parts.items() if part.state]
        if stepped:
            raise OptimiserError(f"CompositeOptimizer: part {stepped[0]!r} has a state, accepted: parts before a step")
        self.parts: dict[str, Optimizer] = {}
        groups = []
        for name, part in parts.items():
            for group in part.param_groups:
                group["part"] = name
                groups.append(group)
        super().__init__(groups, {})
        self.parts = dict(parts)
        self._share()

    def _share(self) -> None:
        """Hand the parts their groups and the common state, as torch's own `load_state_dict` would."""
        for name, part in self.parts.items():
            groups = [group for group in self.param_groups if group["part"] == name]
            part.__setstate__({"state": self.state, "param_groups": groups})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the part that its key `part` names; the part fills in its own defaults and checks it.

        Raises:
            OptimiserError: no key `part`.
            UnknownNameError: no part of this name.
        """
        if not self.parts:  # the constructor, with groups that the parts hold already
            super().add_param_group(param_group)
            return
        name = param_group.get("part")
        if name is None:
            raise OptimiserError(
                f"CompositeOptimizer: a group without 'part', accepted: one of {', '.join(self.parts)}"
            )
        if name not in self.parts:
            raise unknown_name("part", str(name), self.parts)
        part = self.parts[name]
        part.add_param_group(param_group)
        try:
            super().add_param_group(part.param_groups[-1])
        except ValueError:
            part.param_groups.pop()
            raise

    def move(self) -> None:
        """Let every part take its step."""
        for part in self.parts.values():
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of the same parts.

        Raises:
            OptimiserError: groups that belong to other parts, or to parts in another order.
            ValueError: another number of groups or parameters (torch's own check).
        """
        found = [group.get("part") for group in state_dict["param_groups"]]
        expected = [group["part"] for group in self.param_groups]
        if found != expected:
            raise OptimiserError(f"CompositeOptimizer: the state has the parts {found}, accepted: {expected}")
        super().load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        """Keep the parts when copied or pickled; they share groups and state with the copy as they did before."""
        return {**super().__getstate__(), "parts": self.parts}
