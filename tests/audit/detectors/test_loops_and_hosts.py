"""Plain loops, Lightning, Tinker and hosted APIs in scripts written for these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from audited import jobs_of, the_job, values

LOOP = """
optimizer = opt
for epoch in range(3):
    for batch in data:
        loss = model(batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
"""


@pytest.mark.parametrize(
    ("made", "optimiser", "rate", "decay"),
    [
        ("import torch\nopt = torch.optim.AdamW(p, lr=2e-5)", "adamw", 2e-5, 0.01),
        ("import torch\nopt = torch.optim.SGD(p, 0.1, weight_decay=1e-4)", "sgd", 0.1, 1e-4),
        ("from torch import optim\nopt = optim.Adam(p)", "adam", 1e-3, 0),
        ("import torch\nopt = torch.optim.Muon(p, lr=0.02)", "muon", 0.02, 0.1),
        ("import torch\nimport bitsandbytes as bnb\nopt = bnb.optim.PagedAdamW8bit(p)", "paged_adamw_8bit", 1e-3, 0.01),
        ("import torch\nfrom lion_pytorch import Lion\nopt = Lion(p, lr=1e-5)", "lion", 1e-5, 0.0),
        (
            ("import torch\nfrom deepspeed.ops.adam import FusedAdam\nopt = FusedAdam(p, lr=1e-5, weight_decay=0.1)"),
            "adamw",
            1e-5,
            0.1,
        ),
        (
            (
                "import torch\nfrom timm.optim import create_optimizer_v2\n"
                "opt = create_optimizer_v2(m, opt='lion', lr=1e-4)"
            ),
            "lion",
            1e-4,
            None,
        ),
        ("import torch\nname = 'AdamW'\nopt = getattr(torch.optim, name)(p, lr=1e-5)", "adamw", 1e-5, 0.01),
        ("import torch\nkinds = {'a': torch.optim.Adagrad}\nopt = kinds['a'](p, lr=1e-5)", "adagrad", 1e-5, 0),
        (
            (
                "import torch\nclass Lion(torch.optim.Optimizer):\n"
                "    def __init__(self, p, lr=1e-4):\n        pass\nopt = Lion(p)"
            ),
            "lion",
            1e-4,
            None,
        ),
        (
            (
                "import torch\n"
                "groups = [{'params': a, 'weight_decay': 0.1}, {'params': b, 'weight_decay': 0.0}]\n"
                "opt = torch.optim.AdamW(groups, lr=1e-5)"
            ),
            "adamw",
            1e-5,
            0.1,
        ),
    ],
)
def test_the_optimiser_of_a_loop_is_read_from_its_constructor(
    tmp_path: Path, made: str, optimiser: str, rate: float, decay: float | None
) -> None:
    job = the_job(tmp_path, "t.py", made + LOOP)
    assert job.tool == "torch"
    assert values(job, "optimiser", "learning_rate") == (optimiser, rate)
    if decay is not None:
        assert job["weight_decay"].value == decay
    assert values(job, "epochs", "max_grad_norm", "scheduler") == (3, 0.5, "constant")


def test_rates_that_differ_between_groups_are_unknown_with_both(tmp_path: Path) -> None:
    text = "import torch\nopt = torch.optim.AdamW([{'params': a, 'lr': 1e-4}, {'params': b, 'lr': 1e-3}])" + LOOP
    field = the_job(tmp_path, "t.py", text)["learning_rate"]
    assert not field.known and "0.0001, 0.001" in field.reason


def test_muon_and_the_adam_beside_it_are_one_job(tmp_path: Path) -> None:
    text = "import torch\nfrom muon import Muon\nadam = torch.optim.AdamW(q, lr=3e-4)\nopt = Muon(p, lr=0.02)" + LOOP
    assert values(the_job(tmp_path, "t.py", text), "optimiser", "learning_rate") == ("muon", 0.02)


def test_a_condition_on_the_machine_leaves_the_optimiser_unknown(tmp_path: Path) -> None:
    text = (
        "import torch\nimport bitsandbytes as bnb\nfrom settings_elsewhere import args\n"
        "if args.small:\n    kind = bnb.optim.AdamW8bit\nelse:\n"
        "    kind = torch.optim.AdamW\nopt = kind(p, lr=1e-4)" + LOOP
    )
    field = the_job(tmp_path, "t.py", text)["optimiser"]
    assert not field.known and "AdamW8bit" in field.reason


def test_an_optimiser_made_elsewhere_is_unknown_and_still_a_job(tmp_path: Path) -> None:
    text = "import torch\nfrom mine_elsewhere import build_optimizer\nlr = 1e-4\nopt = build_optimizer(m, lr)" + LOOP
    job = the_job(tmp_path, "t.py", text)
    assert not job["optimiser"].known
    assert job["learning_rate"].value == 1e-4


def test_accelerate_schedules_and_argparse_of_a_function_are_followed(tmp_path: Path) -> None:
    text = (
        "import argparse, torch\nfrom accelerate import Accelerator\nfrom transformers import get_scheduler\n"
        "def parse_args():\n    p = argparse.ArgumentParser()\n"
        "    p.add_argument('--learning_rate', type=float, default=5e-5)\n"
        "    p.add_argument('--lr_scheduler_type', default='cosine')\n    p.add_argument('--data', default=None)\n"
        "    args = p.parse_args()\n    if args.data is None:\n        raise ValueError('data')\n    return args\n"
        "def main():\n    args = parse_args()\n    acc = Accelerator(gradient_accumulation_steps=4)\n"
        "    opt = torch.optim.AdamW(m.parameters(), lr=args.learning_rate)\n"
        "    sched = get_scheduler(name=args.lr_scheduler_type, optimizer=opt)\n"
        "    opt, sched = acc.prepare(opt, sched)\n"
        "    for epoch in range(2):\n        acc.backward(loss)\n        opt.step()\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    job = the_job(tmp_path, "t.py", text)
    assert job.tool == "accelerate" and job.cli_overridable
    assert values(job, "learning_rate", "scheduler", "accumulation", "epochs") == (5e-5, "cosine", 4, 2)


def test_a_deepspeed_engine_takes_its_optimiser_from_the_dictionary(tmp_path: Path) -> None:
    text = (
        "import deepspeed\ndef config():\n"
        "    return {'optimizer': {'type': 'AdamW', 'params': {'lr': 1e-4}}, 'train_batch_size': 4}\n"
        "engine, _, _, _ = deepspeed.initialize(model=m, config=config())\n"
        "for epoch in range(2):\n    engine.backward(loss)\n    engine.step()\n"
    )
    job = the_job(tmp_path, "t.py", text)
    assert job.tool == "deepspeed"
    assert values(job, "optimiser", "learning_rate") == ("adamw", 1e-4)


def test_a_lightning_module_and_its_trainer_are_one_job(tmp_path: Path) -> None:
    text = (
        "import torch\nimport lightning as L\nclass Net(L.LightningModule):\n    def __init__(self, lr=1e-3):\n"
        "        super().__init__()\n        self.save_hyperparameters()\n    def configure_optimizers(self):\n"
        "        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)\n"
        "L.Trainer(max_epochs=7).fit(Net(lr=2e-4))\n"
    )
    job = the_job(tmp_path, "t.py", text)
    assert job.tool == "lightning"
    assert values(job, "optimiser", "learning_rate", "epochs") == ("adam", 2e-4, 7)


def test_tinker_s_adam_is_adamw_and_a_factor_of_the_loop_leaves_the_peak(tmp_path: Path) -> None:
    text = (
        "import tinker\nclient = service.create_lora_training_client(base_model='m', rank=16)\nLR = 3e-4\n"
        "for step in range(100):\n    rate = LR * (1 - step / 100)\n    client.forward_backward(d, 'cross_entropy')\n"
        "    client.optim_step(tinker.AdamParams(learning_rate=rate, beta1=0.9, beta2=0.95))\n"
    )
    job = the_job(tmp_path, "t.py", text)
    assert job.tool == "tinker"
    assert values(job, "optimiser", "learning_rate", "lora_r", "max_steps", "eps") == ("adamw", 3e-4, 16, 100, 1e-12)


@pytest.mark.parametrize(
    ("text", "tool"),
    [
        (
            (
                "from openai import OpenAI\nc = OpenAI()\n"
                "c.fine_tuning.jobs.create(training_file=f, model='m', hyperparameters={'n_epochs': 2})\n"
            ),
            "openai",
        ),
        (
            (
                "from together import Together\n"
                "Together().fine_tuning.create(training_file=f, model='m', n_epochs=2, learning_rate=1e-5)\n"
            ),
            "together",
        ),
        (
            (
                "from mistralai import Mistral\n"
                "Mistral().fine_tuning.jobs.create(model='m', hyperparameters={'epochs': 2, 'learning_rate': 1e-5})\n"
            ),
            "mistral",
        ),
        (
            (
                "import boto3\nb = boto3.client('bedrock')\n"
                "b.create_model_customization_job(jobName='j', hyperParameters={'epochCount': '2'})\n"
            ),
            "bedrock",
        ),
        (
            (
                "import boto3\nrl = {'rftConfig': {'hyperParameters': {'epochCount': 2}}}\n"
                "boto3.client('bedrock').create_model_customization_job(jobName='j', customizationConfig=rl)\n"
            ),
            "bedrock",
        ),
        (
            (
                "from openai import OpenAI\nmethod = {'reinforcement': {'hyperparameters': {'n_epochs': 2}}}\n"
                "OpenAI().fine_tuning.jobs.create(training_file=f, model='m', extra_body={'method': method})\n"
            ),
            "openai",
        ),
        (
            (
                "from google import genai\nfrom google.genai.types import CreateTuningJobConfig as Config\n"
                "genai.Client().tunings.tune(base_model='m', training_dataset=d, config=Config(epoch_count=2))\n"
            ),
            "vertex",
        ),
        (
            "import google.generativeai as genai\ngenai.create_tuned_model(source_model='m', epoch_count=2)\n",
            "vertex",
        ),
        (
            (
                "from databricks.model_training import foundation_model as fm\n"
                "fm.create(model='m', train_data_path='d', task_type='INSTRUCTION_FINETUNE', training_duration='2ep')\n"
            ),
            "databricks",
        ),
        (
            "import requests\nrequests.post('https://api.together.xyz/v1/fine-tunes', json={'n_epochs': 2})\n",
            "together",
        ),
    ],
)
def test_a_host_does_not_disclose_the_optimiser(tmp_path: Path, text: str, tool: str) -> None:
    job = the_job(tmp_path, "t.py", text)
    assert (job.tool, job.kind) == (tool, "hosted")
    assert not job["optimiser"].known and job["optimiser"].reason
    assert job["epochs"].value == 2
    assert "hosted" in job.marks


@pytest.mark.parametrize(
    "text",
    [
        "import torch\nclass Mine(torch.optim.Optimizer):\n    def step(self):\n        loss.backward()\n",
        "import torch\ndef make(p):\n    return torch.optim.AdamW(p)\n",
        "client.fine_tuning.jobs.list()\nclient.fine_tuning.jobs.retrieve('x')\n",
    ],
)
def test_definitions_factories_and_queries_are_no_job(tmp_path: Path, text: str) -> None:
    assert jobs_of(tmp_path, "t.py", text) == []


def test_an_optimiser_handed_to_a_function_that_trains_is_a_job(tmp_path: Path) -> None:
    text = (
        "import torch.optim as optim\nfrom elsewhere import train\noptimizer = optim.AdamW(m.parameters(), lr=1e-4)\n"
        "train(\n    m,\n    loader,\n    optimizer,\n)\n"
    )
    assert values(the_job(tmp_path, "t.py", text), "optimiser", "learning_rate") == ("adamw", 1e-4)


@pytest.mark.parametrize(
    ("text", "optimiser", "rate"),
    [
        ("from apex.optimizers import FusedAdam\nopt = FusedAdam(p, lr=1e-4, adam_w_mode=False)", "adam", 1e-4),
        ("from apex.optimizers import FusedAdam\nopt = FusedAdam(p, lr=1e-4)", "adamw", 1e-4),
        (
            "from deepspeed.ops.adam import DeepSpeedCPUAdam\nopt = DeepSpeedCPUAdam(p, lr=1e-4, adamw_mode=False)",
            "adam",
            1e-4,
        ),
        ("from lion_pytorch import Lion\nopt = Lion(p, lr=1e-4)", "lion", 1e-4),
        ("from pytorch_optimizer import load_optimizer\nopt = load_optimizer('soap')(p, lr=3e-3)", "soap", 3e-3),
    ],
)
def test_the_class_and_its_mode_decide_in_scripts_that_never_say_optim(
    tmp_path: Path, text: str, optimiser: str, rate: float
) -> None:
    job = the_job(tmp_path, "t.py", text + "\nfor b in data:\n    m(b).backward(); opt.step()\n")
    assert values(job, "optimiser", "learning_rate") == (optimiser, rate)


def test_a_request_sent_by_curl_is_read(tmp_path: Path) -> None:
    url = "https://api.openai.com/v1/fine_tuning/jobs"
    body = '{"training_file": "f", "model": "m", "hyperparameters": {"n_epochs": 2}}'
    assert the_job(tmp_path, "r.sh", f"curl {url} -H 'a: b' -d '{body}'\n").value("epochs") == 2


@pytest.mark.parametrize(
    ("text", "tool", "fields"),
    [
        (
            "curl -X POST https://generativelanguage.googleapis.com/v1beta/tunedModels?key=$KEY -d \\\n"
            """'{"""
            + "\n" * 90
            + """"tuning_task": {"hyperparameters": {"learning_rate": 0.001, "epoch_count": 5,}}}'""",
            "vertex",
            (0.001, 5, None),
        ),
        (
            "curl -X POST https://$L-aiplatform.googleapis.com/v1/projects/$P/locations/$L/tuningJobs "
            """-d '{"supervisedTuningSpec": {"hyperParameters": {"epochCount": 5, "adapterSize": 4}}}'""",
            "vertex",
            (None, 5, 4),
        ),
        (
            "aws bedrock create-model-customization-job --hyper-parameters epochCount=5,learningRate=0.001 --role r",
            "bedrock",
            (0.001, 5, None),
        ),
        (
            'aws bedrock create-model-customization-job --hyper-parameters \'{"epochCount": "5"}\' --role-arn r',
            "bedrock",
            (None, 5, None),
        ),
        (
            "aws --region r bedrock create-model-customization-job --hyper-parameters epochCount=5",
            "bedrock",
            (None, 5, None),
        ),
    ],
)
def test_a_tuning_that_a_shell_script_starts_at_a_host_is_read(
    tmp_path: Path, text: str, tool: str, fields: tuple[object, ...]
) -> None:
    job = the_job(tmp_path, "r.sh", text + "\n")
    assert (job.tool, job["optimiser"].known) == (tool, False)
    assert values(job, "learning_rate", "epochs", "lora_r") == fields


@pytest.mark.parametrize("rest", ["tunedModels?key=$KEY", "tunedModels/m:generateContent -d '{}'", "models -d '{}'"])
def test_questions_to_a_host_about_tuned_models_are_no_job(tmp_path: Path, rest: str) -> None:
    assert jobs_of(tmp_path, "r.sh", f"curl https://generativelanguage.googleapis.com/v1beta/{rest}\n") == []


def test_the_client_of_mistral_before_version_1_starts_jobs_and_others_of_that_name_do_not(tmp_path: Path) -> None:
    text = (
        "from mistralai.client import MistralClient\nfrom mistralai.models.jobs import TrainingParameters\n"
        "c = MistralClient(api_key='k')\n"
        "c.jobs.create(model='m', training_files=['f'],\n"
        "              hyperparameters=TrainingParameters(training_steps=9, learning_rate=1e-4))\n"
    )
    job = the_job(tmp_path, "t.py", text)
    assert (job.tool, *values(job, "learning_rate", "max_steps")) == ("mistral", 1e-4, 9)
    other = (
        "import mistralai\nfrom databricks.sdk import WorkspaceClient\nWorkspaceClient().jobs.create(name='training')\n"
    )
    assert jobs_of(tmp_path / "other", "t.py", other) == []


@pytest.mark.parametrize("size", ["'ADAPTER_SIZE_EIGHT'", "types.AdapterSize.ADAPTER_SIZE_EIGHT", "8"])
def test_a_named_size_of_an_adapter_is_its_rank(tmp_path: Path, size: str) -> None:
    text = (
        "from google import genai\nfrom google.genai import types\ngenai.Client().tunings.tune(base_model='m', "
        f"config=types.CreateTuningJobConfig(adapter_size={size}, learning_rate_multiplier=2.0))\n"
    )
    job = the_job(tmp_path, "t.py", text)
    assert (job.value("lora_r"), job["learning_rate"].known) == (8, False)


def test_tuning_at_vertex_is_a_job(tmp_path: Path) -> None:
    text = "from vertexai.tuning import sft\nsft.train(source_model='m', train_dataset='d', epochs=4)\n"
    assert the_job(tmp_path, "t.py", text).value("epochs") == 4


def test_what_a_comprehension_over_an_unknown_list_makes_is_read_once(tmp_path: Path) -> None:
    text = (
        "import torch\nmany = [torch.optim.SGD([p], lr=0.1) for p in model.parameters()]\n"
        "named = {name: torch.optim.Adam(net.parameters(), lr=rate) for name, (net, rate) in nets.items()}\n"
        "for batch in data:\n    loss(batch).backward()\n"
    )
    first, second = sorted(jobs_of(tmp_path, "t.py", text), key=lambda job: job.line)
    assert values(first, "optimiser", "learning_rate") == ("sgd", 0.1)
    assert second.value("optimiser") == "adam" and not second["learning_rate"].known
