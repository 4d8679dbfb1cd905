"""Give every spelling of an optimiser its canonical name.

Full-precision AdamW is `adamw` whoever computes it: fused, foreach, apex, DeepSpeed's on CPU or GPU, 32-bit of
bitsandbytes. Another precision of the state (`adamw_8bit`), paging (`paged_adamw`) or another rule (`galore_adamw`) is
another name; flashoptim keeps moments in 8 bits by default. Sources: `OptimizerNames` of transformers 4.30-5.23,
torch.optim 2.13, bitsandbytes 0.50, DeepSpeed 0.18, axolotl 0.21, pytorch-optimizer 4.1, timm 1.0.31, torchtune 0.6.1,
flashoptim 0.1.4.
"""

from __future__ import annotations

import re

_SPELLINGS = {
    "adamw": "adamw_torch adamw_torch_fused adamw_hf adamw_torch_xla adamw_torch_npu_fused adamw_apex_fused "
    "adamw_bnb_32bit adamw32bit adamw_32bit deepspeedcpuadam deepspeedcpuadamw cpuadam fusedadam fused_adam "
    "fusedadamw distributed_fused_adam distributedfusedadam optimi_adamw adamw_fused "
    "torch_adamw adamwfused hybridadam hybrid_adam megatronfusedadam adamw_legacy",
    "adam": "torch_adam adam_torch adam32bit adam_32bit",
    "adamw_8bit": "adamw_bnb_8bit adamw8bit bnb_adamw8bit adamw_torch_8bit ao_adamw_8bit flash_adamw flashadamw",
    "adam_8bit": "adam8bit bnb_adam8bit flash_adam flashadam",
    "paged_adamw": "paged_adamw_32bit pagedadamw pagedadamw32bit paged_adamw32bit bnb_paged_adamw",
    "paged_adamw_8bit": "pagedadamw8bit paged_adamw8bit paged_adamw_bnb_8bit",
    "paged_adam": "pagedadam pagedadam32bit paged_adam_32bit",
    "paged_adam_8bit": "pagedadam8bit",
    "adamw_4bit": "adamw_torch_4bit ao_adamw_4bit adamw4bit",
    "adamw_fp8": "ao_adamw_fp8 adamwfp8",
    "adamw_anyprecision": "anyprecisionadamw",
    "galore_adamw": "galore_adamw_layerwise galoreadamw galore",
    "galore_adamw_8bit": "galore_adamw_8bit_layerwise galoreadamw8bit",
    "galore_adafactor": "galore_adafactor_layerwise galoreadafactor",
    "q_galore_adamw_8bit": "q_galore_adamw8bit qgaloreadamw8bit q_galore_adamw",
    "apollo_adamw": "apollo_adamw_layerwise apollo apolloadamw",
    "adafactor": "fused_adafactor",
    "lion": "lion_32bit lion32bit fusedlion fused_lion deepspeedcpulion cpulion lion_pytorch",
    "lion_8bit": "lion8bit flash_lion flashlion",
    "paged_lion": "paged_lion_32bit pagedlion pagedlion32bit",
    "paged_lion_8bit": "pagedlion8bit",
    "muon": "singledevicemuon muonwithauxadam singledevicemuonwithauxadam distmuon dist_muon distributed_muon",
    "muon_8bit": "muon8bit",
    "muonclip": "muon_clip",
    "normuon": "nor_muon",
    "adamuon": "ada_muon",
    "dimuon": "",
    "dion": "",
    "dion2": "",
    "sgd": "torch_sgd sgd_nesterov",
    "sgd_8bit": "sgd8bit flash_sgd flashsgd flash_sgdw flashsgdw",
    "sgdw": "",
    "adagrad": "fusedadagrad deepspeedcpuadagrad cpuadagrad adagrad32bit",
    "adagrad_8bit": "adagrad8bit",
    "rmsprop": "rmsprop_bnb rmsprop_bnb_32bit rmsprop32bit rmsprop_32bit",
    "rmsprop_8bit": "rmsprop_bnb_8bit rmsprop8bit",
    "ademamix": "ademamix32bit",
    "ademamix_8bit": "ademamix8bit",
    "paged_ademamix": "paged_ademamix_32bit pagedademamix",
    "paged_ademamix_8bit": "pagedademamix8bit",
    "lomo": "",
    "adalomo": "ada_lomo",
    "grokadamw": "grok_adamw",
    "schedule_free_adamw": "schedulefreeadamw adamwschedulefree adamw_schedule_free adamwschedulefreeclosure "
    "adamwschedulefreereference adamw_schedulefree",
    "schedule_free_sgd": "schedulefreesgd sgdschedulefree sgd_schedule_free",
    "schedule_free_radam": "schedulefreeradam radamschedulefree radam_schedule_free",
    "stable_adamw": "stableadamw",
    "adam_mini": "adammini",
    "badam": "blockoptimizer blockadam",
    "soap": "foreachsoap",
    "shampoo": "distributedshampoo scalableshampoo",
    "sophia": "sophiah sophiag sophia_h sophia_g",
    "prodigy": "",
    "prodigy_plus_schedule_free": "prodigyplusschedulefree",
    "dadaptadam": "d_adapt_adam dadaptation dadaptadampreprint",
    "dadaptation": "",
    "came": "came_pytorch",
    "adopt_adamw": "adopt",
    "lamb": "fusedlamb fused_lamb lamb32bit",
    "lamb_8bit": "lamb8bit",
    "lars": "pytorchlars",
    "lars_8bit": "lars8bit",
    "onebit_adam": "onebitadam",
    "zero_one_adam": "zerooneadam",
    "onebit_lamb": "onebitlamb",
    "muadam": "mu_adam",
    "muadamw": "mu_adamw",
    "musgd": "mu_sgd",
    "nadam": "",
    "nadamw": "",
    "radam": "",
    "adamax": "",
    "adadelta": "",
    "asgd": "",
    "rprop": "",
    "lbfgs": "",
    "sparse_adam": "sparseadam",
    "sinkgd": "",
    "psgd": "kronpsgd psgdkron psgd_kron",
    "lora_rite": "lorarite",
    "lora_muon": "loramuon",
    "lora_fa": "lorafa",
    "novograd": "fusednovograd",
    "adabelief": "",
    "adan": "",
    "tiger": "",
    "signsgd": "sign_sgd signum",
}
"""Canonical name -> its other spellings, lower case; a dotted or camel-cased spelling is brought to this form first."""

CANONICAL = frozenset(_SPELLINGS)
_CANONICAL_OF = {spelled: name for name, others in _SPELLINGS.items() for spelled in (name, *others.split())}
_CANONICAL_OF |= {spelled.replace("_", ""): name for spelled, name in list(_CANONICAL_OF.items())[::-1]}
_LAST_PART = re.compile(r"[A-Za-z0-9_\-]+$")

FAMILIES = {
    "adam": frozenset(
        name
        for name in CANONICAL
        if ("adam" in name and name not in ("adamuon", "dadaptation")) or name in ("badam", "apollo_adamw", "nadam")
    )
    | {
        "dadaptation",
        "prodigy",
        "prodigy_plus_schedule_free",
        "lamb",
        "lamb_8bit",
        "soap",
        "grokadamw",
        "ademamix",
        "ademamix_8bit",
        "paged_ademamix",
        "paged_ademamix_8bit",
    },
    "lion": frozenset(name for name in CANONICAL if "lion" in name) | {"signsgd", "tiger"},
    "muon": frozenset(name for name in CANONICAL if "muon" in name) | {"dion", "dion2"},
    "sgd": frozenset(name for name in CANONICAL if "sgd" in name) - {"psgd", "signsgd"},
}
"""Families that the rules speak of; an optimiser outside them has no family."""


def canonical_optimiser(spelling: str) -> str | None:
    """Return the canonical name of a spelling, or None where it is none that is known.

    Accepts enum members (`OptimizerNames.ADAMW_TORCH`), dotted paths (`torch.optim.AdamW`) and names of tools.
    """
    text = spelling.strip().strip("\"'")
    found = _LAST_PART.search(text)
    if not found:
        return None
    last = found.group().lower().replace("-", "_")
    whole = text.lower().replace("-", "_")
    return _CANONICAL_OF.get(whole) or _CANONICAL_OF.get(last) or _CANONICAL_OF.get(last.replace("_", ""))


def family_of(optimiser: str | None) -> str | None:
    """Return "adam", "lion", "muon" or "sgd" for a canonical name, None for any other."""
    return next((family for family, names in FAMILIES.items() if optimiser in names), None)
