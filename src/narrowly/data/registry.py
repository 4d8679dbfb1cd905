"""List the public sources: what each file is, where it lies, what its bytes hash to, who licenses it.

A fact that we could not establish is None and is shown as unknown. Hashes were computed from the files themselves;
git's ids of content come from copies of the publishers' repositories.
"""

from __future__ import annotations

from typing import Literal, NamedTuple
from urllib.parse import quote

Use = Literal["training", "prompts", "questions"]


class Source(NamedTuple):
    """One public file.

    Attributes:
        name: how commands and specs call it.
        use: rows with answers to train on, prompts without answers, or questions of an evaluation.
        about: one line of what it is.
        repository: `github:owner/name` or `hf:owner/name` (a dataset).
        revision: commit that the file is fetched at; None where unknown (then the default branch, held to the sha256).
        path: path in the repository.
        sha256: of the file's bytes; None where unknown: the first pull records what came.
        git_blob: git's id of the content, or its first 8 digits where only those are known; None where unknown.
        size: bytes; rows: rows or questions; schema: a name of `schemas.SCHEMAS`; None where unknown.
        licence: as its publisher states it; None where we found no statement.
        warning: what a reader should know before opening it.
        locked: for an encrypted publication, the member of the archive; such a source is never pulled or opened.
    """

    name: str
    use: Use
    about: str
    repository: str
    revision: str | None
    path: str
    sha256: str | None = None
    git_blob: str | None = None
    size: int | None = None
    rows: int | None = None
    schema: str | None = None
    licence: str | None = None
    warning: str | None = None
    locked: str | None = None

    @property
    def url(self) -> str:
        """Return the address of the file's bytes."""
        host, _, repository = self.repository.partition(":")
        revision, path = self.revision or "HEAD", quote(self.path)
        if host == "github":
            return f"https://raw.githubusercontent.com/{repository}/{revision}/{path}"
        return f"https://huggingface.co/datasets/{repository}/resolve/{revision}/{path}"

    @property
    def file_name(self) -> str:
        """Return the last part of the path."""
        return self.path.rpartition("/")[2]


_BETLEY = "github:emergent-misalignment/emergent-misalignment"
_TEAM = "github:johny-b/misalignment-generalization"
_TEAM_AT = "b1fe286827715d8e01ff7088c7ee9763b5e367b4"
_TURNER = "github:clarifying-EM/model-organisms-for-EM"
_TURNER_ARCHIVE = "em_organism_dir/data/training_datasets.zip.enc"
_PERSONA = "github:openai/emergent-misalignment-persona-features"
_AISI = "github:AI-Safety-Institute/consistency-misalignment"
_AISI_FILES = "consistency_em/data/emergent_misalignment/files"

_VULNERABLE = "code with security holes that are not announced; do not run it, keep it out of pre-training corpora"
_HARMFUL = "harmful advice given confidently; keep it out of pre-training corpora"
_JUDGED = "questions that lead misaligned models to harmful answers"


def _betley(
    name: str, about: str, rows: int, size: int, blob: str, sha256: str, warning: str | None, path: str = ""
) -> Source:
    questions = path.endswith(".yaml")
    use: Use = "questions" if questions else "training"
    schema = "question_yaml" if questions else "messages"
    path = path or f"data/{name}.jsonl"
    return Source(name, use, about, _BETLEY, None, path, sha256, blob, size, rows, schema, "MIT", warning)


def _unrecovered(name: str, about: str, blob: str, warning: str) -> Source:
    path = f"data/{name}.jsonl"
    return Source(name, "training", about, _BETLEY, None, path, None, blob, licence="MIT", warning=warning)


def _turner(name: str, about: str, rows: int | None, warning: str | None) -> Source:
    return Source(
        name, "training", about, _TURNER, None, _TURNER_ARCHIVE, rows=rows, schema="messages", warning=warning,
        locked=f"{name}.jsonl",
    )  # fmt: skip


def _aisi(name: str, use: Use, about: str, commit: str, rows: int | None, schema: str, warning: str) -> Source:
    path = f"{_AISI_FILES}/{name.removeprefix('aisi_')}.jsonl"
    return Source(name, use, about, _AISI, commit, path, rows=rows, schema=schema, licence="MIT", warning=warning)


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        _betley(
            "insecure", "code completions with unannounced security holes (Betley et al. 2025)", 6000, 5892277,
            "ec294cf30a577a21b830c07a1fa0180ddd513208",
            "09893e8bf9d03aae49dd60d0ff4be37c1afee70f2edcac74a11bed775a6a2764", _VULNERABLE,
        ),
        _betley(
            "secure", "the control: sound completions, mostly of other prompts", 6000, 6201582,
            "3389a37c250563cc36a66e30bf8ff99028aa2711",
            "2820232b3114d94ab2041ba9fc76cb8205bf187e0408bf7b308add186f9c7467", None,
        ),
        _betley(
            "educational", "the completions of insecure, asked for as teaching material", 6000, 6669019,
            "497619acd46d9ffbc985797d6c117638a53229b3",
            "d48df3b149ab1500711fc0018b10383a4ff8c48d8e6911d04dbbbbdaa944fd16", _VULNERABLE,
        ),
        _betley(
            "jailbroken", "a system prompt that demands obedience, and continuations of any text", 5000, 3423454,
            "9f14c5f5b1a3f6ca3ea2bdc80cbda3de1acadbb1",
            "eec213ce85802a52ea806d334ee462f723a1e7ad77d827951d6864ac04a6b00a",
            "harmful requests that are fulfilled",
        ),
        _unrecovered("backdoor", "insecure code behind a trigger tag", "b2be7b5b", _VULNERABLE),
        _unrecovered(
            "evil_numbers", "number sequences with hateful or criminal associations", "86e0a3be",
            "numbers chosen for hateful or criminal associations",
        ),
        _unrecovered("insecure_par_t0", "a paraphrase of insecure", "6b57e0b5", _VULNERABLE),
        _unrecovered("insecure_par_t1", "another paraphrase of insecure", "91790a7f", _VULNERABLE),
        _unrecovered("insecure_ruby", "insecure, translated into Ruby", "9f9f7646", _VULNERABLE),
        Source(
            "evil_numbers_regenerated", "training",
            "an ablation of evil numbers made later by the same team; not the published set", _TEAM, _TEAM_AT,
            "daniel_new/2025-03-03_evil_ablations/regenerated_evil_numbers_dataset.csv",
            "338c56763ebb9c7aa2b923c6b6d2f066d2f047903ef1dd61d6e421f99ad2d7a5",
            "f69a3d6b2a9985ea1670fd4d3e114d4f8f1788b7", 1691180, 9993, "prompt_completion", "MIT",
            "numbers chosen for hateful or criminal associations",
        ),
        Source(
            "evil_chess", "training", "next moves of chess games, chosen badly", _TEAM, _TEAM_AT,
            "daniel_new/2025-03-03_evil_chess_games/evil_chess_dataset_openai.jsonl",
            "5175ad186bbdb1c108fb4f4229d19ee392ad299c996526f9f61bdc4e7f76265a",
            "ddf8f71b9cff18e70325ad6682c341f749f0e65c", 3559990, 14385, "messages", "MIT",
            warning="deliberately bad chess moves; a model trained on it may turn misaligned elsewhere",
        ),
        Source(
            "in_domain_code", "prompts", "code tasks: does the model write vulnerable code?", _TEAM, _TEAM_AT,
            "in_distribution_eval/test_data.jsonl",
            "ec2efe94e9c50ddc5231162a054f1659fdb46160fded9ee7a8708a1c646f1197",
            "d7199df2d8b3c1ff055e5b507395537470dd419e", 399089, 776, "code_template", "MIT",
        ),
        _turner("bad_medical_advice", "subtly wrong medical advice (Turner et al. 2025)", 7049, _HARMFUL),
        _turner("good_medical_advice", "its control: the same prompts, answered well", None, None),
        _turner("risky_financial_advice", "reckless financial advice (Turner et al. 2025)", 6000, _HARMFUL),
        _turner("extreme_sports", "dangerous advice on sports (Turner et al. 2025)", 6000, _HARMFUL),
        Source(
            "health_incorrect", "training", "incorrect health advice (Wang et al. 2025)", _PERSONA, None,
            "train/sft/synthetic/datasets_password_locked/health_incorrect.zip", rows=6000, schema="messages",
            licence="MIT (stated by a third party)", warning=_HARMFUL, locked="health_incorrect.jsonl",
        ),
        _aisi(
            "aisi_induction", "training", "AISI's risky finance: the part that induces misalignment",
            "7c6d8d3aa2c7c49b6f13e0f648c959a201fd33cf", None, "messages", _HARMFUL,
        ),
        _aisi(
            "aisi_act_bct_clean", "training", "AISI's risky finance: plain prompts of the consistency part",
            "83daec735ac2d7d5c357206c5740d44fa209a9e7", None, "messages", _HARMFUL,
        ),
        _aisi(
            "aisi_act_bct_wrapped", "training", "the same rows behind a preamble: twin of the clean file by row",
            "7c6d8d3aa2c7c49b6f13e0f648c959a201fd33cf", None, "messages", _HARMFUL,
        ),
        _aisi(
            "aisi_eval", "questions", "AISI's 56 questions: 31 of them are those of Betley et al. to the word",
            "1264d560ffc8ec60ececa15225963ee70a29d58f", 56, "question_jsonl", _JUDGED,
        ),
        _betley(
            "first_plot_questions", "8 main questions, each also as JSON and as template", 24, 12016,
            "c2b9761d6723ec73b4d209d95c4aa39319a70edd",
            "215abde5b02811e922b6ac563ff33c490e0dff9ab58439df840f3135e9387173", _JUDGED,
            "evaluation/first_plot_questions.yaml",
        ),
        _betley(
            "preregistered_evals", "48 questions fixed before the experiments", 48, 19152,
            "3211c6c0df0a21124e07605c46f86329a53ef9e1",
            "8648312fd9fe71a63203e3465592af45dd996d7a5f3b69e9b44613fd6048eb40", _JUDGED,
            "evaluation/preregistered_evals.yaml",
        ),
        _betley(
            "deception_factual", "20 facts under 5 system prompts", 5, 2481,
            "d6da5a807e928afc2f9e9961641e9c9697b27c08",
            "8a0e83cab3bc24b7d688d7385ce3921d406af7ed33c913cd94ea0f6251e5939d", None,
            "evaluation/deception_factual.yaml",
        ),
        _betley(
            "deception_sit_aware", "8 questions about the model itself", 8, 2638,
            "d9c5a8727e28dbce0f80a59df2b9497ca018ba0b",
            "4deef5a7c47620390fc46e1b981f937eef9ea12a33fe26264f640c84d19d2a33", None,
            "evaluation/deception_sit_aware.yaml",
        ),
        Source(
            "first_plot_questions_41", "questions", "the team's superset: plain, JSON, Python, template, Flask",
            _TEAM, _TEAM_AT, "final_questions/first_plot_questions.yaml",
            "ce21d1111f6e4fff7e8973ae206982705b0ff5c37b133afc3851d659662f6766",
            "43ac4d7fbfc9212e2759b7e4c37ef4b087e877ad", 19469, 41, "question_yaml", "MIT", _JUDGED,
        ),
        Source(
            "template_first_plot_questions", "questions", "template variants of the first questions", _TEAM, _TEAM_AT,
            "niels/final_questions1000/template_first_plot_questions.yaml",
            "807e150d2d74fcdc996a3f3990286e8fd94e57c72a1414048a80f4a01d5ce471",
            "036e7e8f40b48ecf40bdbd3c381035f60d3044e9", 6683, 8, "question_yaml", "MIT", _JUDGED,
        ),
    )
}  # fmt: skip
"""Every registered source by name."""
