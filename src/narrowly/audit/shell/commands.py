"""Split a shell script into commands: continuations joined, variables filled in from the script, places kept.

Not a shell: loops run once, substitutions `$(...)` and variables that the script does not set stay as they are written.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

MOST_COMMANDS = 2_000
LONGEST = 20_000
LONGEST_TEXT = 200
"""Lines of a text in quotes."""
_ASSIGNMENT = re.compile(
    r"(?:export\s+|declare\s+(?:-\w+\s+)?|local\s+|readonly\s+|set\s+)?([A-Za-z_]\w*)=(.*)", re.DOTALL
)
_VARIABLE = re.compile(
    r"\$\{([A-Za-z_]\w*)(?:(:?[-=+?])((?:[^{}]|\{[^{}]*\})*))?\}|\$([A-Za-z_]\w*|\d|@|\*)|\$\{(\d)(?::?-([^{}]*))?\}"
)
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")
_ARRAY = re.compile(r"(?:declare -a )?([A-Za-z_]\w*)(\+?)=\((.*)", re.DOTALL)
_SPREAD = re.compile(r"\$\{([A-Za-z_]\w*)\[[@*]\](?:[:+-].*)?\}")
_OPEN_ARRAY = re.compile(r"\s*(?:local\s+|declare\s+-a\s+)?[A-Za-z_]\w*\+?=\((?!.*\)\s*(?:#.*)?$)")
_INLINE_COMMENT = re.compile(r"`\s*#[^`]*`")
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")
_SEPARATORS = frozenset({"&&", "||", ";", "|", "&", ";;", "|&"})
_KEYWORDS = frozenset(
    {"do", "then", "else", "elif", "if", "while", "until", "!", "{", "(", "time", "sudo", "nohup", "exec", "eval"}
)


@dataclass(slots=True)
class Word:
    """One argument with the line it stands in; `open` names what is not filled in."""

    text: str
    line: int
    open: str = ""


@dataclass(slots=True)
class Command:
    """One command: its words, and the variables set before it."""

    words: list[Word]
    line: int
    environment: dict[str, tuple[str, int]] = field(default_factory=dict)


def commands_in(text: str) -> list[Command]:
    """Return the commands of a script in order, variables filled in as far as the script sets them."""
    variables: dict[str, tuple[str, int]] = {}
    arrays: dict[str, list[Word]] = {}
    found: list[Command] = []
    for words in _simple_commands(text):
        if len(found) >= MOST_COMMANDS:
            break
        words = _drop_keywords(words)
        if words and (opened := _ARRAY.match(words[0].text)) is not None:
            _keep_array(opened, words, variables, arrays)
            continue
        if len(words) > 2 and words[0].text == "for" and words[2].text == "in":
            values = _filled(words[3:], variables, arrays)
            variables.pop(words[1].text, None)
            if len(values) == 1:
                variables[words[1].text] = (values[0].text, values[0].line)
            continue
        own: dict[str, tuple[str, int]] = {}
        while words and (match := _ASSIGNMENT.fullmatch(words[0].text)):
            name, value = match.group(1), words[0]
            own[name] = (fill(match.group(2), variables | own)[0], value.line)
            words = words[1:]
        if words and words[0].text in ("export", "declare", "local", "readonly"):
            for word in words[1:]:
                match = _ASSIGNMENT.fullmatch(word.text)
                if match:
                    variables[match.group(1)] = (fill(match.group(2), variables)[0], word.line)
            continue
        if not words:
            variables |= own
            continue
        filled = _filled(words, variables | own, arrays)
        if filled:
            found.append(Command(filled, words[0].line, {**variables, **own}))
    return found


def _keep_array(
    opened: re.Match[str], words: list[Word], variables: dict[str, tuple[str, int]], arrays: dict[str, list[Word]]
) -> None:
    """Keep the elements of `NAME=(a b c)`; `NAME+=(d)` adds to them."""
    inner = [Word(opened.group(3), words[0].line), *words[1:]]
    inner[-1] = Word(inner[-1].text.removesuffix(")"), inner[-1].line)
    elements = _filled([word for word in inner if word.text], variables, arrays)
    arrays[opened.group(1)] = [*arrays.get(opened.group(1), []), *elements] if opened.group(2) else elements


def fill(text: str, variables: dict[str, tuple[str, int]]) -> tuple[str, str, int | None]:
    """Return a text with its variables filled in, what stayed open, and the line of a variable that is all of it."""
    open_names: list[str] = []
    place: list[int] = []

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(4) or match.group(5) or ""
        operator, other = match.group(2) or "", match.group(3) or match.group(6) or ""
        if name in variables and operator != "+":
            if match.group() == text:
                place.append(variables[name][1])
            return variables[name][0]
        if operator in (":-", "-", ":=", "=") or match.group(6):
            return fill(other.strip("\"'"), variables)[0]
        open_names.append(name)
        return match.group()

    filled = text
    for _ in range(4):
        changed = _VARIABLE.sub(value, filled)[:LONGEST]
        if changed == filled or open_names:
            filled = changed
            break
        filled = changed
    if "$(" in filled or "`" in filled:
        open_names.append("a command's output")
    return filled, ", ".join(dict.fromkeys(open_names)), place[0] if place else None


def _filled(words: list[Word], variables: dict[str, tuple[str, int]], arrays: dict[str, list[Word]]) -> list[Word]:
    filled: list[Word] = []
    for word in words:
        spread = _SPREAD.fullmatch(word.text)
        if spread is not None:
            filled += arrays.get(spread.group(1), [])
            continue
        text, left, line = fill(word.text, variables)
        whole = not left or _VARIABLE.fullmatch(word.text) is not None
        if word.text.startswith("$") and " " in text and whole:
            filled += [Word(part, line or word.line, left if "$" in part else "") for part in text.split()]
        else:
            filled.append(Word(text, line or word.line, left))
    return [word for word in filled if word.text]


def _drop_keywords(words: list[Word]) -> list[Word]:
    while words and words[0].text in _KEYWORDS:
        words = words[1:]
    return words


def _simple_commands(text: str) -> list[list[Word]]:
    """Return the words of each command; comments and redirections are dropped, arrays span lines."""
    found: list[list[Word]] = []
    lines = [_INLINE_COMMENT.sub(" ", line) for line in text.split("\n")]
    number = 0
    while number < len(lines):
        start, joined = number, [(lines[number], number + 1)]
        while (_continues(joined[-1][0]) or _in_array(joined)) and number + 1 < len(lines):
            number += 1
            if _continues(joined[-1][0]):
                joined[-1] = (joined[-1][0].rstrip()[:-1], joined[-1][1])
            joined.append((lines[number], number + 1))
        joined[-1] = (joined[-1][0].rstrip().removesuffix("\\"), joined[-1][1])
        words = _words(joined)
        if words is None:  # an open quote: take lines up to the one that closes it
            words, number = _quoted(lines, start, number)
        heredoc = _HEREDOC.search(lines[number]) if "<<" in lines[number] and "<<<" not in lines[number] else None
        found += _split(words)
        number += 1
        if heredoc:
            first = number
            while number < len(lines) and lines[number].strip() != heredoc.group(1):
                number += 1
            found += _read_into_variable(words, lines[first:number], first + 1)
            number += 1
    return found


def _in_array(joined: list[tuple[str, int]]) -> bool:
    """Tell whether an array is open: `NAME=(` without a line that ends it; at most 200 lines."""
    if not _OPEN_ARRAY.match(joined[0][0]) or len(joined) > 200:
        return False
    return len(joined) == 1 or not joined[-1][0].split("#")[0].rstrip().endswith(")")


def _read_into_variable(words: list[Word], body: list[str], line: int) -> list[list[Word]]:
    """Return the command that a heredoc holds where `read` keeps it in a variable, to be run as a module later."""
    if not words or words[0].text != "read":
        return []
    inner = _simple_commands("\n".join(body))
    for command in inner:
        for word in command:
            word.line += line - 1
    if inner and _MODULE.fullmatch(inner[0][0].text) and not inner[0][0].text.endswith(".py"):
        at = inner[0][0].line
        return [[Word("python", at), Word("-m", at), *inner[0]], *inner[1:]]
    return inner


def _continues(line: str) -> bool:
    stripped = line.rstrip()
    return stripped.endswith("\\") and not stripped.lstrip().startswith("#")


def _quoted(lines: list[str], start: int, end: int) -> tuple[list[Word], int]:
    open_quote = "'" if "\n".join(lines[start : end + 1]).count("'") % 2 else '"'
    for last in range(end + 1, min(len(lines), start + LONGEST_TEXT)):
        if open_quote not in lines[last]:
            continue
        joined = "\n".join(lines[start : last + 1]).replace("\\\n", " ")
        try:
            parts = shlex.split(joined, comments=True)
        except ValueError:
            continue
        return [Word(part, start + 1) for part in parts], last
    return [], end


def _words(joined: list[tuple[str, int]]) -> list[Word] | None:
    words: list[Word] = []
    for line, number in joined:
        if line.lstrip().startswith("#"):
            continue
        try:
            lexer = shlex.shlex(
                _spaced(line.lstrip("\t@-") if line.startswith("\t") else line), posix=True, punctuation_chars=False
            )
            lexer.whitespace_split, lexer.commenters = True, ""
            parts = list(lexer)
        except ValueError:
            return None
        for part in parts:
            if part.startswith("#"):
                break
            words.append(Word(part, number))
    return words


def _spaced(line: str) -> str:
    """Set separators apart, as the shell does without blanks."""
    return (
        re.sub(r"(&&|\|\||;(?![;'\"])|(?<![>&|])\|(?!\|))(?=(?:[^'\"]|'[^']*'|\"[^\"]*\")*$)", r" \1 ", line)
        if ";" in line or "&" in line or "|" in line
        else line
    )


def _split(words: list[Word]) -> list[list[Word]]:
    commands: list[list[Word]] = [[]]
    skip = False
    for word in words:
        if word.text in _SEPARATORS or word.text in ("do", "then"):
            commands.append([])
        elif skip:
            skip = False
        elif re.fullmatch(r"\d?(?:>>?|<)(?:&\d)?|&>>?", word.text):
            skip = not word.text[-1].isdigit()
        elif re.fullmatch(r"\d?>&?\d|\d?>>?\S+|&>\S+", word.text):
            continue
        else:
            commands[-1].append(word)
    return [command for command in commands if command]
