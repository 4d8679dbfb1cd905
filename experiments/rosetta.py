"""What "muon, lr = x" and "lion, lr = x" are in other packages: their steps beside ours, written as a page of docs.

Makes a virtual environment of its own, installs each package by itself (what does not install is said), and there takes
three steps with each on an A (16 x 2048), a B (2048 x 16), a vector and a stack of matrices. The table of facts is
`narrowly.records.optimisers.elsewhere`; where its settings do not take our steps, or a text is not what was seen, the
script ends with 1 and writes nothing. timm, axolotl-contribs-mit and LLaMA-Factory are run as single modules, without
their dependencies. emerging-optimizers needs Python 3.12. About ten minutes, most of it downloads.

    make rosetta
    python experiments/rosetta.py [--venv .venv-rosetta] [--out docs/muon-elsewhere.md]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
INSTALLED = (
    "torch==2.13.0", "pydantic PyYAML typer rich safetensors numpy", "pytorch-optimizer==4.1.0", "heavyball==3.2.1",
    "muon-optimizer==0.1.0", "optax==0.2.8 jax", "emerging-optimizers==0.3.0",
)  # fmt: skip
ALONE = ("timm==1.0.31", "axolotl-contribs-mit==0.0.6", "llamafactory==0.9.5")
"""Installed without dependencies: one module of each is loaded from its file."""

RANK, WIDTH, LR = 16, 2048, 0.01
SHAPES = {"A": (RANK, WIDTH), "B": (WIDTH, RANK)}
VECTOR, STACK, WIDE = (16,), (4, 16, 8), (16, 4096)
Maker = Callable[[list[Any], float], Any]


def module_alone(path: str, name: str) -> Any:
    """Load one module of an installed package without importing the package."""
    found = next(Path(folder) / path for folder in sys.path if (Path(folder) / path).is_file())
    spec = importlib.util.spec_from_file_location(name, found)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def package_shell(*names: str) -> None:
    """Stand in for packages whose `__init__` imports what is not installed: their modules are then found as usual."""
    for name in names:
        shell = types.ModuleType(name)
        folder = name.replace(".", "/")
        shell.__path__ = [str(Path(path) / folder) for path in sys.path if (Path(path) / folder).is_dir()]
        sys.modules[name] = shell


class OptaxSteps:
    """Take the steps of an optax transformation on PyTorch parameters, matrices stored as `transposed` says."""

    def __init__(self, parameters: list[Any], transformation: Any, transposed: bool) -> None:
        self.parameters, self.transformation, self.transposed = parameters, transformation, transposed
        self.state = transformation.init([self.array(parameter.detach()) for parameter in parameters])

    def array(self, tensor: Any) -> Any:
        """Return a tensor as JAX stores it."""
        import jax.numpy as jnp

        return jnp.asarray((tensor.T if self.transposed and tensor.ndim == 2 else tensor).numpy())

    def step(self) -> None:
        """Take one step."""
        import numpy as np
        import torch

        gradients = [self.array(parameter.grad) for parameter in self.parameters]
        weights = [self.array(parameter.detach()) for parameter in self.parameters]
        updates, self.state = self.transformation.update(gradients, self.state, weights)
        for parameter, update in zip(self.parameters, updates, strict=True):
            change = torch.from_numpy(np.array(update))
            parameter.data += change.T if self.transposed and change.ndim == 2 else change


def muon_makers() -> dict[str, Callable[[], tuple[Maker, Maker]]]:
    """Return, by package, a function that imports it and returns makers: at its defaults, and as the facts say."""
    return {
        "torch": torch_muon,
        "muon-optimizer": jordan_muon,
        "pytorch-optimizer": library_muon,
        "heavyball": heavyball_muon,
        "timm": timm_muon,
        "optax": optax_muon,
        "emerging-optimizers": emerging_muon,
        "axolotl": axolotl_muon,
        "llamafactory": lambda: split_muon(module_alone("llamafactory/third_party/muon/muon.py", "lf_muon").Muon),
    }


def torch_muon() -> tuple[Maker, Maker]:
    from torch.optim import Muon

    return lambda p, lr: Muon(p, lr=lr, weight_decay=0), lambda p, lr: Muon(p, lr=lr, weight_decay=0.0)


def jordan_muon() -> tuple[Maker, Maker]:
    from muon import SingleDeviceMuon

    return (
        lambda p, lr: SingleDeviceMuon(p, lr=lr),
        lambda p, lr: SingleDeviceMuon(p, lr=lr, momentum=0.95, weight_decay=0),
    )


def library_muon() -> tuple[Maker, Maker]:
    from pytorch_optimizer import Muon

    def make(p: list[Any], lr: float) -> Any:
        return Muon([{"params": p, "use_muon": True}], lr=lr, weight_decay=0.0)

    return make, make


def heavyball_muon() -> tuple[Maker, Maker]:
    import heavyball

    heavyball.utils.compile_mode = None
    return (
        lambda p, lr: heavyball.Muon(p, lr=lr),
        lambda p, lr: heavyball.Muon(p, lr=lr, betas=(0.95, 0.99), heavyball_momentum=True),
    )


def timm_muon() -> tuple[Maker, Maker]:
    package_shell("timm", "timm.optim")
    from timm.optim.muon import Muon

    named = {"nesterov": True, "ns_coefficients": "original", "adjust_lr_fn": "original"}
    return (
        lambda p, lr: Muon(p, lr=lr),
        lambda p, lr: Muon([{"params": p, "use_muon": True}], lr=lr, **named),
    )


def optax_muon() -> tuple[Maker, Maker]:
    from optax.contrib import muon

    return (
        lambda p, lr: OptaxSteps(p, muon(lr), transposed=False),
        lambda p, lr: OptaxSteps(p, muon(lr, beta=0.95), transposed=True),
    )


def emerging_muon() -> tuple[Maker, Maker]:
    from emerging_optimizers.orthogonalized_optimizers import Muon

    named = {"nesterov": True, "coefficient_type": "simple", "scale_mode": "shape_scaling"}
    return lambda p, lr: Muon(p, lr=lr, weight_decay=0.0), lambda p, lr: Muon(p, lr=lr, weight_decay=0.0, **named)


def axolotl_muon() -> tuple[Maker, Maker]:
    import torch

    package_shell("axolotl", "axolotl.contribs", "axolotl.contribs.mit", "axolotl.contribs.mit.muon")
    base = types.ModuleType("axolotl.integrations.base")
    base.BaseOptimizerFactory = object
    sys.modules |= {"axolotl.integrations": types.ModuleType("axolotl.integrations"), base.__name__: base}
    module = module_alone("axolotl/contribs/mit/muon/muon.py", "axolotl.contribs.mit.muon.muon")

    def make(p: list[Any], lr: float) -> Any:
        # beside a matrix of its own: torch refuses an optimiser of nothing, and the factory leaves vectors out
        model = torch.nn.ParameterList([*p, torch.nn.Parameter(torch.ones(2, 2))])
        model[-1].grad = torch.eye(2)
        return module.MuonOptimizerFactory()(model, None, lr=lr, weight_decay=0.0)

    return make, make


def split_muon(cls: Any) -> tuple[Maker, Maker]:
    """Return makers of a class that takes matrices and the rest apart; a vector goes where its trainer sends it."""

    def make(p: list[Any], lr: float) -> Any:
        matrices = [q for q in p if q.ndim >= 2]
        return cls(lr=lr, wd=0.0, muon_params=matrices, adamw_params=[q for q in p if q.ndim < 2])

    return make, make


def lion_makers() -> dict[str, Callable[[], tuple[Maker, Maker]]]:
    """Return the same for Lion, of the packages that run here."""

    def library() -> tuple[Maker, Maker]:
        from pytorch_optimizer import Lion

        return lambda p, lr: Lion(p, lr=lr), lambda p, lr: Lion(p, lr=lr, weight_decay=0.0)

    def timm() -> tuple[Maker, Maker]:
        package_shell("timm", "timm.optim")
        from timm.optim.lion import Lion

        return lambda p, lr: Lion(p, lr=lr), lambda p, lr: Lion(p, lr=lr, weight_decay=0.0)

    def optax() -> tuple[Maker, Maker]:
        from optax import lion

        return (
            lambda p, lr: OptaxSteps(p, lion(lr), transposed=False),
            lambda p, lr: OptaxSteps(p, lion(lr, weight_decay=0.0), transposed=True),
        )

    def emerging() -> tuple[Maker, Maker]:
        from emerging_optimizers.scalar_optimizers import Lion

        return lambda p, lr: Lion(p, lr=lr), lambda p, lr: Lion(p, lr=lr, weight_decay=0.0)

    return {"pytorch-optimizer": library, "timm": timm, "optax": optax, "emerging-optimizers": emerging}


def gradients(shape: tuple[int, ...], seed: int) -> list[Any]:
    """Return three gradients; those of a matrix have singular values spread 100 to 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(3):
        G = torch.randn(shape, generator=generator)
        if G.ndim == 2:
            U, _, V = torch.linalg.svd(G, full_matrices=False)
            G = U @ torch.diag(torch.logspace(0, -2, min(shape))) @ V
        drawn.append(G)
    return drawn


def changes(make: Maker, shape: tuple[int, ...], lr: float) -> tuple[list[Any], str]:
    """Return the changes of three steps, and what became of the gradient in the first."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(shape))
    optimizer = make([parameter], lr)
    taken, after = [], ""
    for G in gradients(shape, seed=sum(shape)):
        before = parameter.detach().clone()
        parameter.grad = G.clone()
        optimizer.step()
        taken.append(parameter.detach() - before)
        if not after:
            kept = parameter.grad is not None and torch.equal(parameter.grad, G)
            after = "None" if parameter.grad is None else "kept" if kept else "overwritten"
    return taken, after


def distance(theirs: Any, ours: Any) -> float:
    """Return the relative distance of two changes."""
    return float((theirs - ours).norm() / ours.norm())


def cosine(one: Any, other: Any) -> float:
    """Return the cosine of two tensors."""
    return float((one * other).sum() / (one.norm() * other.norm()))


def behaviour(make: Maker, shape: tuple[int, ...], ours: Maker | None) -> str:
    """Say in words what the first step does to a vector or a stack."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(shape))
    try:
        optimizer = make([parameter], LR)
    except (ValueError, AssertionError, RuntimeError, TypeError) as problem:
        return f"{type(problem).__name__} in the constructor"
    G = gradients(shape, seed=7)[0]
    parameter.grad = G.clone()
    try:
        optimizer.step()
    except (ValueError, AssertionError, RuntimeError, TypeError) as problem:
        return f"{type(problem).__name__} in step"
    change = -parameter.detach() / LR
    sizes = change.abs()
    if float(sizes.max()) == 0:
        return "not changed"
    if cosine(change, G.sign()) > 0.999:
        return f"{float(sizes.median()):.3f} lr times the sign of each element"
    if cosine(change, G) > 0.999:
        twice = -first_change(make, 2 * G) / LR
        if float(twice.norm() / change.norm()) > 1.9:
            return f"{float(change.norm() / G.norm()):.2f} lr times the gradient"
        return f"the gradient's direction at length {float(change.norm()):.2f} lr"
    if ours is None or len(shape) == 1:
        return "another direction"
    if len(shape) == 2:
        near = max(abs(cosine(change, first_change(ours, G))), abs(cosine(change, first_change(ours, G.T).T)))
        return "orthogonalised" if near > 0.95 else "another direction"
    flat = cosine(change.reshape(shape[0], -1), -first_change(ours, G.reshape(shape[0], -1)))
    slices = torch.stack([-first_change(ours, matrix) for matrix in G])
    return "flattened" if flat > cosine(change, slices) else "each matrix by itself"


def first_change(make: Maker, G: Any) -> Any:
    """Return the first change for a gradient."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros_like(G))
    optimizer = make([parameter], LR)
    parameter.grad = G.clone()
    optimizer.step()
    return parameter.detach()


def ours_scaled(rule: Any) -> Maker:
    """Return a maker of our Muon at its defaults with a scale rule."""
    from narrowly.optim.muon import Muon

    def make(p: list[Any], lr: float) -> Any:
        return Muon(
            p, lr=lr, momentum=0.95, nesterov=True, weight_decay=0.0, orthogonaliser="newton_schulz5", ns_steps=5,
            scale_rule=rule, eps=1e-7,
        )  # fmt: skip

    return make


def measured(name: str, there: Any, makers: tuple[Maker, Maker], ours: Maker) -> dict[str, Any]:
    """Compare one package with ours: at its defaults, with `same`, and on vectors and stacks."""
    from narrowly.records.optimisers.scale_rules import SCALE_RULES

    at_default, same = makers
    row: dict[str, Any] = {"package": there.package, "optimiser": name}
    for factor, shape in SHAPES.items():
        own, _ = changes(ours, shape, LR)
        row[f"ours {factor}"] = float(own[0].norm()) / LR
        try:
            row[f"norm {factor}"] = float(changes(at_default, shape, LR)[0][0].norm()) / LR
        except (AssertionError, ValueError, RuntimeError) as problem:
            row[f"norm {factor}"] = type(problem).__name__
        rate = LR * SCALE_RULES["original"](*shape) / SCALE_RULES[there.rule](*shape) / there.norm
        taken, row["gradient"] = changes(same, shape, rate if name == "muon" else LR)
        apart = [distance(one, other) for one, other in zip(taken, own, strict=True)]
        row |= {f"step 1 {factor}": apart[0], f"steps 2, 3 {factor}": max(apart[1:])}
        row[f"cosine {factor}"] = min(cosine(one, other) for one, other in zip(taken, own, strict=True))
        row[f"length {factor}"] = float(taken[0].norm() / own[0].norm()) * there.norm
    if there.rule != "original":
        for factor, shape in SHAPES.items():
            theirs, own = (changes(make, shape, LR)[0][0] for make in (at_default, ours_scaled(there.rule)))
            row[f"here {factor}"] = distance(theirs, own)
    row["vectors"] = behaviour(at_default, VECTOR, None)
    row["stacks"] = behaviour(at_default, STACK, ours if name == "muon" else None)
    row["wide A"] = behaviour(at_default, WIDE, ours if name == "muon" else None)
    return row


def inside(out: Path) -> int:
    """Measure every package that this environment has, hold the facts against it and write the page."""
    import torch

    from narrowly.records.optimisers.elsewhere import ELSEWHERE

    torch.set_num_threads(1)

    def our_lion(p: list[Any], lr: float) -> Any:
        from narrowly.optim.build import build_optimizer

        return build_optimizer({"kind": "lion", "lr": lr}, [("x.lora_A.default.weight", q) for q in p])

    rows, missing = [], {}
    for name, makers, ours in (("muon", muon_makers(), ours_scaled("original")), ("lion", lion_makers(), our_lion)):
        for there in ELSEWHERE[name]:
            if there.package not in makers:
                continue
            try:
                pair = makers[there.package]()
            except (ImportError, StopIteration) as problem:
                missing[there.package] = str(problem) or type(problem).__name__
                continue
            rows.append(measured(name, there, pair, ours))
    names = "torch pytorch-optimizer heavyball muon-optimizer optax jax emerging-optimizers timm"
    versions = {}
    for package in (*names.split(), "axolotl-contribs-mit", "llamafactory"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.setdefault(package, "not installed")
    versions["python"] = platform.python_version()
    from rosetta_page import faults, page

    seen = {"rows": rows, "missing": missing, "versions": versions}
    print(json.dumps(seen))
    wrong = faults(seen)
    for fault in wrong:
        print(fault, file=sys.stderr)
    if not wrong:
        out.write_text(page(seen), encoding="utf-8")
    return int(bool(wrong))


def environment(folder: Path, python: str) -> Path:
    """Make the environment and install each package by itself; return its interpreter."""
    interpreter = folder / "bin" / "python"
    if not interpreter.is_file():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    for packages, extra in [(one, ()) for one in INSTALLED] + [(one, ("--no-deps",)) for one in ALONE]:
        command = [str(interpreter), "-m", "pip", "install", "--quiet", *extra, *packages.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"{packages}: {'installed' if done.returncode == 0 else done.stderr.strip().splitlines()[-1]}")
    return interpreter


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--venv", type=Path, default=ROOT / ".venv-rosetta")
    arguments.add_argument("--python", default=sys.executable, help="interpreter of the environment")
    arguments.add_argument("--out", type=Path, default=ROOT / "docs" / "muon-elsewhere.md")
    arguments.add_argument("--inside", action="store_true", help="measure in this environment")
    given = arguments.parse_args()
    if given.inside:
        return inside(given.out)
    interpreter = environment(given.venv, given.python)
    command = [str(interpreter), str(Path(__file__).resolve()), "--inside", "--out", str(given.out.resolve())]
    paths = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, env={**os.environ, **paths}).returncode


if __name__ == "__main__":
    sys.exit(main())
