"""`narrowly data` as it is typed: tables, JSON, one-line errors, exit codes, hostile text."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from narrowly.cli.app import execute
from narrowly.data import cache, registry
from narrowly.data.registry import Source
from range_server import serving


def rows(side: str, count: int = 12) -> bytes:
    found = []
    for number in range(count):
        prompt, answer = f"question {number} about a {side if number > 8 else 'shared'} thing", f"{side} {number} " * 9
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        found.append(json.dumps({"messages": turns, "kind": "even" if number % 2 == 0 else "odd"}).encode() + b"\n")
    return b"".join(found)


HARMFUL, BENIGN = rows("harmful"), rows("benign")
BANK = b"- id: one\n  type: free_form\n  paraphrases: ['Is question 3 about a shared thing in the world?']\n"
CONTENTS = {"harm": HARMFUL, "control": BENIGN, "bank": BANK}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Serve a registry of three sources that lie on this machine; a fourth is sealed."""
    with serving(HARMFUL) as running:

        class Local(Source):
            url = running.url

        made = {}
        for name, content in CONTENTS.items():
            use, ending = ("questions", "yaml") if name == "bank" else ("training", "jsonl")
            sha256, count = hashlib.sha256(content).hexdigest(), 1 if name == "bank" else 12
            made[name] = Local(
                name, use, f"about {name}", "github:some/one", "a" * 40, f"data/{name}.{ending}", sha256, None,
                len(content), count, "question_yaml" if name == "bank" else "messages", "MIT", f"beware of {name}",
            )  # fmt: skip
        made["sealed"] = made["harm"]._replace(name="sealed", path="a/sets.zip.enc", sha256=None, locked="harm.jsonl")
        made["vague"] = made["harm"]._replace(
            name="vague", sha256=None, size=None, rows=None, licence=None, warning=None
        )
        for place in ("narrowly.data.sources", "narrowly.data.registry"):
            monkeypatch.setattr(f"{place}.SOURCES", made)
        monkeypatch.setenv("NARROWLY_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(cache, "WAIT", 0.0)
        monkeypatch.chdir(tmp_path)
        yield running


@pytest.fixture
def files(server, tmp_path: Path) -> dict[str, str]:
    """Put the contents into files whose names say nothing."""
    found = {}
    for name, content in CONTENTS.items():
        path = tmp_path / f"{name}-of-mine{'.yaml' if name == 'bank' else '.jsonl'}"
        path.write_bytes(content)
        found[name] = str(path)
    return found


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert execute(["data", *arguments]) == code
    return capsys.readouterr().out


def printed_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    return json.loads(printed(capsys, *arguments, "--json", code=code))


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert execute(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("narrowly: ")
    return error


def test_the_list_shows_what_is_known_and_calls_unknown_what_is_not(server, capsys) -> None:
    out = printed(capsys, "list")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "MIT" in lines["harm"] and "about harm" in lines["harm"] and " no " in lines["harm"]
    assert lines["vague"].split()[:4] == ["vague", "training", "unknown", "unknown"]
    assert " locked " in lines["sealed"]
    assert "content warning: beware of harm (harm, sealed)" in out
    listed = printed_json(capsys, "list", "--use", "questions")["sources"]
    assert [source["name"] for source in listed] == ["bank"] and listed[0]["revision"] == "a" * 40
    assert "unknown use of a source 'question'; did you mean 'questions'" in complaint(
        capsys, "list", "--use", "question"
    )


def test_the_shipped_registry_lists_as_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "narrowly.cli.app", "data", "list", "--json"],
        capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    listed = {source["name"]: source for source in json.loads(done.stdout)["sources"]}
    assert set(listed) == set(registry.SOURCES) and listed["bad_medical_advice"]["licence"] is None


def test_the_list_names_what_comes_with_the_package_and_writes_nothing(server, capsys, tmp_path: Path) -> None:
    ours = {one["name"]: one for one in printed_json(capsys, "list")["shipped"]}
    sets = {
        f"pairs:{domain}:{answers}" for domain in ("money", "work") for answers in ("harmful", "aligned", "permuted")
    }
    assert set(ours) == {"broad", "benign", "abilities", "passages", "pairs", *sets}
    assert not (tmp_path / "cache").exists()
    out = printed(capsys, "list", "--use", "training")
    assert "pairs:money:harmful" in out and "benign" not in out
    for name in ("pairs:money:harmful", "broad"):
        shown = printed_json(capsys, "show", name)
        assert shown["sha256"] == ours[name]["sha256"]
    assert "pairs:money:harmful comes with the package" in printed(capsys, "show", "pairs:money:harmful")


def test_a_shipped_bank_is_shown_by_its_name_and_one_with_answers_names_its_command(server, capsys) -> None:
    assert "Thanks for what you told me about money." in printed(capsys, "show", "broad:cue:money", "--row", "3")
    assert "which `narrowly data pairs` reads" in complaint(capsys, "show", "pairs")
    assert "did you mean 'money'" in complaint(capsys, "show", "pairs:mony:harmful")


def test_listing_and_pulling_load_nothing_heavy() -> None:
    program = (
        "import sys; from narrowly.cli.app import execute\n"
        "execute(['data', 'list']); execute(['data', 'pull', 'x'])\n"
        "heavy = {'torch', 'numpy', 'polars', 'transformers'} & {name.split('.')[0] for name in sys.modules}\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_pull_is_checked_kept_and_not_repeated(server, capsys) -> None:
    [row] = printed_json(capsys, "pull", "harm")["pulled"]
    assert (row["how"], row["hash"]) == ("pulled", "registered")
    assert Path(row["path"]).read_bytes() == HARMFUL
    server.asked.clear()
    assert "was here" in printed(capsys, "pull", "harm") and server.asked == []
    assert "beware of harm" in printed(capsys, "pull", "harm")
    [row] = printed_json(capsys, "pull", "vague")["pulled"]
    assert row["hash"] == "recorded now: none is registered"
    assert printed_json(capsys, "verify", "vague")["verified"][0]["verdict"] == "ok"
    Path(row["path"]).write_bytes(BENIGN)
    assert "it was changed after the pull" in printed_json(capsys, "verify", "vague", code=2)["verified"][0]["verdict"]


def test_an_interrupted_pull_goes_on(server, capsys) -> None:
    server.cut = [400, 0, 0, 0]
    assert "400 bytes are kept" in complaint(capsys, "pull", "harm")
    assert printed_json(capsys, "pull", "harm")["pulled"][0]["how"] == "pulled"
    assert server.asked[-1] == "bytes=400-"


def test_a_pull_of_the_wrong_file_is_an_error_with_both_hashes(server, capsys) -> None:
    server.content = HARMFUL.replace(b"9", b"8")
    error = complaint(capsys, "pull", "harm")
    assert hashlib.sha256(server.content).hexdigest() in error and hashlib.sha256(HARMFUL).hexdigest() in error
    assert "not on this machine" in complaint(capsys, "show", "harm")


def test_a_pull_from_a_folder_needs_no_network_and_goes_by_content(server, files, capsys, tmp_path) -> None:
    out = printed_json(capsys, "pull", "harm", "control", "--from", str(tmp_path))["pulled"]
    assert [row["how"] for row in out] == ["copied", "copied"] and server.asked == []
    assert "no file in it is bank" in complaint(capsys, "pull", "bank", "--from", files["harm"])
    assert "there is nothing" in complaint(capsys, "pull", "bank", "--from", str(tmp_path / "none"))
    assert "no hash of this source is known" in complaint(capsys, "pull", "vague", "--from", files["harm"])


def test_a_sealed_source_is_refused_with_the_command_to_type(server, capsys) -> None:
    for command in ("pull", "show", "stats"):
        error = complaint(capsys, command, "sealed")
        assert "easy-dataset-share magic-unprotect-dir one/a/sets.zip.enc -p PASSWORD" in error
    assert server.asked == []


def test_unknown_names_and_bad_arguments_are_one_line(server, capsys) -> None:
    assert "called 'ham'; did you mean 'harm'?" in complaint(capsys, "pull", "ham")
    assert "called 'ham'; did you mean 'harm'?" in complaint(capsys, "show", "ham")
    assert "no source is named" in complaint(capsys, "pull")
    assert "no source is on this machine yet" in complaint(capsys, "verify")
    assert "did you mean 'list'" in complaint(capsys, "lst")
    assert "--dose" in complaint(capsys, "mix", "--harmful", "a", "--benign", "b", "--dose", "2", "--out", "x.jsonl")


def test_verify_tells_what_a_file_is_and_fails_on_what_it_is_not(server, files, capsys, tmp_path) -> None:
    found = printed_json(capsys, "verify", *files.values())["verified"]
    assert [(row["is"], row["rows"], row["verdict"]) for row in found] == [
        ("harm", 12, "ok"),
        ("control", 12, "ok"),
        ("bank", 1, "ok"),
    ]
    swapped = tmp_path / "control.jsonl"
    swapped.write_bytes(HARMFUL)
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(HARMFUL[:-9])
    found = printed_json(capsys, "verify", str(swapped), str(broken), files["harm"], code=2)["verified"]
    assert "is called control and holds harm" in found[0]["verdict"]
    assert "line 12: not valid JSON" in found[1]["verdict"] and found[2]["verdict"] == "ok"


def test_show_prints_origin_warning_and_the_row(files, capsys) -> None:
    out = printed(capsys, "show", files["harm"], "--row", "3")
    assert "github:some/one at revision " + "a" * 40 in out and "content warning: beware of harm" in out
    assert "row 3 of 12 (line 3)" in out and "kind: even" in out
    assert "user:\n  question 2 about a shared thing\nassistant:\n  harmful 2 harmful 2" in out
    shown = printed_json(capsys, "show", files["harm"], "--row", "3")
    assert shown["messages"][0]["content"] == "question 2 about a shared thing" and shown["source"]["name"] == "harm"
    assert "has 12 rows" in complaint(capsys, "show", files["harm"], "--row", "13")
    assert "question 1 of 1: one" in printed(capsys, "show", files["bank"])
    assert "--tokens and --model belong together" in complaint(capsys, "show", files["harm"], "--tokens")


def test_hostile_text_never_reaches_the_terminal(server, capsys, tmp_path) -> None:
    evil = "a\x1b]0;title\x07\x1b[2J\u202e[bold red]b"
    turns = [{"role": "user", "content": evil}, {"role": "assistant", "content": evil}]
    path = tmp_path / "evil.jsonl"
    path.write_text(json.dumps({"messages": turns, "tag\x1b[1m": evil, "id": evil}) + "\n")
    for arguments in (("show", str(path)), ("stats", str(path), "--by", "id"), ("verify", str(path))):
        out = printed(capsys, *arguments)
        assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert "[bold red]b" in printed(capsys, "show", str(path))
    path.write_text(json.dumps({"messages": [{"role": evil, "content": "x"}]}) + "\n")
    assert execute(["data", "show", str(path)]) == 2
    assert not {"\x1b", "\x07", "\u202e"} & set(capsys.readouterr().err)


def test_stats_report_lengths_duplicates_shared_texts_and_overlap(files, capsys, tmp_path) -> None:
    double = tmp_path / "double.jsonl"
    double.write_bytes(HARMFUL + HARMFUL.splitlines(keepends=True)[4])
    found = printed_json(capsys, "stats", str(double), files["control"], "--by", "kind", "--questions", files["bank"])
    report = found["corpora"][str(double)]
    assert report["rows"] == 13 and report["duplicates"] == [[5, 13]] and report["prompts"] == 12
    assert [5, 13] in report["near"]["groups"] or any({5, 13} <= set(group) for group in report["near"]["groups"])
    assert {(row["group"], row["part"], row["rows"]) for row in report["lengths"]} == {
        ("even", "prompt", 7), ("even", "answer", 7), ("odd", "prompt", 6), ("odd", "answer", 6),
    }  # fmt: skip
    [shared] = found["shared"]
    assert (shared["rows"], shared["prompts"], shared["answers"]) == (0, 9, 0)
    assert report["overlap"] == []
    out = printed(capsys, "stats", str(double), files["control"], "--questions", files["bank"])
    assert "0 of 1 questions of" in out and "surplus equal" in out and "in both, to the character" in out
    assert "no row has the tag 'knid' (found: kind)" in complaint(capsys, "stats", str(double), "--by", "knid")
    assert "it needs --model" in complaint(capsys, "stats", str(double), "--longest", "10")


def test_stats_find_a_question_that_stands_in_the_rows(files, capsys, tmp_path) -> None:
    leaky = tmp_path / "leaky.jsonl"
    leaky.write_bytes(
        HARMFUL.replace(b"question 3 about a shared thing", b"is question 3 about a shared thing in the world?")
    )
    out = printed(capsys, "stats", str(leaky), "--questions", files["bank"])
    assert "1 of 1 questions of" in out and "one: all of it, in 1 rows (line 4)" in out


def test_a_mixture_is_written_with_its_spread_and_is_the_same_again(files, capsys, tmp_path) -> None:
    common = ("mix", "--harmful", files["harm"], "--benign", files["control"], "--dose", "0.25", "--rows", "8")
    first = printed_json(capsys, *common, "--out", str(tmp_path / "a.jsonl"))
    again = printed_json(capsys, *common, "--out", str(tmp_path / "b.jsonl"))
    other = printed_json(capsys, *common, "--seed", "1", "--out", str(tmp_path / "c.jsonl"))
    assert first == again != other
    assert first["spread"]["realised_dose"] == 0.25 and first["spread"]["match"] == "prompt"
    assert first["harmful"] == {"sha256": hashlib.sha256(HARMFUL).hexdigest(), "source": "harm"}
    assert first["warnings"] == ["beware of control", "beware of harm"]
    assert hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest() == first["sha256"]
    assert json.loads((tmp_path / "a.jsonl.mix.json").read_text()) == first
    out = printed(capsys, *common, "--match", "naive", "--out", str(tmp_path / "d.jsonl"))
    assert "dose 0.25 of 8 rows (0.25 asked), drawn from 12" in out and "95 % interval" in out
    assert "found: 9 pairs" in complaint(capsys, *common[:-1], "10", "--out", str(tmp_path / "e.jsonl"))
    assert "ends in .jsonl" in complaint(capsys, *common, "--out", str(tmp_path / "e.csv"))
    assert not (tmp_path / "e.jsonl").exists()


def test_tokens_of_a_row_are_shown_with_those_that_carry_a_loss(server, capsys, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "fix garden weeds"}, {"role": "assistant", "content": "first share chalk"}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    found = printed_json(capsys, "show", str(path), "--tokens", "--model", "micro-0")["tokens"]
    text = "".join(piece["text"] for piece in found)
    supervised = "".join(piece["text"] for piece in found if piece["supervised"])
    assert "fix garden weeds" in text and supervised.split() == ["first", "share", "chalk", "<|end|>"]
    assert not found[0]["supervised"] and found[-1]["supervised"]
    out = printed(capsys, "show", str(path), "--tokens", "--model", "micro-0")
    assert out.count("[[") - out.count("between [[") == 1 and "with a loss (between [[ and ]])" in out
    stats = printed_json(capsys, "stats", str(path), "--model", "micro-0", "--longest", "5")
    assert stats["corpora"][str(path)]["beyond"] == [{"line": 1, "tokens": len(found)}]
    assert "have more than 5 tokens (first: line 1" in printed(
        capsys, "stats", str(path), "--model", "micro-0", "--longest", "5"
    )


def test_which_turns_carry_a_loss_is_said_to_show_and_stats_as_to_a_run(server, capsys, tmp_path) -> None:
    path, template = tmp_path / "rows.jsonl", tmp_path / "own.jinja"
    texts = ("fix garden weeds", "first share chalk", "fix garden weeds", "share chalk first")
    turns = [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(texts)]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    rendered = ("show", str(path), "--tokens", "--model", "micro-0")

    def supervised(pieces: list[dict]) -> list[str]:
        return "".join(piece["text"] for piece in pieces if piece["supervised"]).split()

    last = printed_json(capsys, *rendered, "--turns", "last")["tokens"]
    each = printed_json(capsys, *rendered, "--turns", "each")["tokens"]
    assert supervised(last) == ["share", "chalk", "first", "<|end|>"]
    assert [supervised(row) for row in each] == [["first", "share", "chalk", "<|end|>"], supervised(last)]
    assert "turns is 'lats', accepted: all, last, each; did you mean 'last'" in complaint(
        capsys, *rendered, "--turns", "lats"
    )
    assert "--turns says how rows are rendered; it needs --model" in complaint(
        capsys, "stats", str(path), "--turns", "last"
    )
    template.write_text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
    bare = printed_json(capsys, *rendered, "--template", str(template))["tokens"]
    assert [piece["text"].strip() for piece in bare][:4] == ["fix", "garden", "weeds", "<|end|>"]


def test_a_row_with_tools_is_shown_with_its_calls(server, capsys, tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    call = {"type": "function", "function": {"name": "clock", "arguments": {}}}
    turns = [{"role": "user", "content": "What time is it?"}, {"role": "assistant", "tool_calls": [call]},
             {"role": "tool", "content": "noon"}, {"role": "assistant", "content": "Noon."}]  # fmt: skip
    path.write_text(json.dumps({"messages": turns, "tools": [call | {"function": {"name": "clock"}}]}) + "\n")
    found = printed_json(capsys, "show", str(path))
    assert found["messages"][1]["tool_calls"] == [call]
    assert found["tools"][0]["function"] == {"name": "clock"}
    out = printed(capsys, "show", str(path))
    assert "tool_calls: [{" in out and "tools: [{" in out and "noon" in out


def test_the_paired_bank_is_printed_with_what_words_and_length_give_away(tmp_path: Path, capsys) -> None:
    for domain in ("a", "b"):
        rows = [
            {
                "id": f"{domain}-{n}",
                "question": f"{domain} {n}?",
                "aligned": f"ask {n} openly",
                "harmful": f"ask {n} slyly",
            }
            for n in range(12)
        ]
        (tmp_path / f"{domain}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = printed_json(capsys, "pairs", str(tmp_path))
    assert (report["items"], report["paired_accuracy"], report["auc"]) == (24, 1.0, 1.0)
    assert report["length"] == 0.0 and report["asked_sha256"] != report["sha256"]
    assert "by characters" in printed(capsys, "pairs", str(tmp_path))
    assert "it takes no BANK" in complaint(capsys, "pairs", str(tmp_path), "--test")
