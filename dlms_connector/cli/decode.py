"""`dlms-connector decode HEX|-`: what the bytes of a log, a sniffer or a manual mean."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.tree import Tree

from dlms_connector.cli.output import cell, console, print_json, printable
from dlms_connector.config.secrets import SecretRef
from dlms_connector.cosem.values import BitString, Value
from dlms_connector.errors import CommandError, SecretError
from dlms_connector.explain import Keys, Node, explain
from dlms_connector.meter.reading import to_plain

MAX_INPUT_CHARACTERS: Final = 2_000_000
_SEPARATORS: Final = re.compile(r"0[xX](?=[0-9A-Fa-f])|[\s:,;|\-]+")
_TIMESTAMP: Final = re.compile(
    r"\b\d{4}-\d\d-\d\d[T ]?|(?<![:0-9A-Fa-f])\d\d:\d\d:\d\d(?:[.,]\d+)?Z?(?![:0-9A-Fa-f])"
)
_BYTES_IN_LOG: Final = re.compile(
    r"(?<![0-9A-Za-z])(?:(?:0[xX])?[0-9A-Fa-f]{2}[ :,\-]{0,2}){3,}(?![0-9A-Za-z])"
)
_KEY_DIGITS: Final = (32, 64)


def command(
    hex_text: Annotated[
        list[str],
        typer.Argument(metavar="HEX|-", help="Hexadecimal with or without spaces, 0x, colons; - for stdin."),
    ],
    log: Annotated[
        bool, typer.Option("--log", help="Take the bytes out of log lines, whatever else stands there.")
    ] = False,
    key_env: Annotated[
        str | None, typer.Option("--key-env", help="Environment variable with the encryption key.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option("--key-file", help="File with the encryption key.")] = None,
    authentication_key_env: Annotated[
        str | None, typer.Option("--auth-key-env", help="Variable with the authentication key.")
    ] = None,
    authentication_key_file: Annotated[
        Path | None, typer.Option("--auth-key-file", help="File with the authentication key.")
    ] = None,
    dedicated_key_env: Annotated[
        str | None, typer.Option("--dedicated-key-env", help="Variable with the association's dedicated key.")
    ] = None,
    system_titles: Annotated[
        list[str] | None,
        typer.Option("--system-title", help="Of a sender, 16 hexadecimal digits; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tree as JSON.")] = False,
) -> None:
    """Explain HDLC frames, wrapper messages, APDUs or A-XDR data: exit 0 if all of it was understood."""
    keys = Keys(
        encryption=_key(key_env, key_file),
        authentication=_key(authentication_key_env, authentication_key_file),
        dedicated=_key(dedicated_key_env, None),
        titles=tuple(_title(text) for text in system_titles or ()),
    )
    text = " ".join(hex_text)
    if text.strip() == "-":
        text = sys.stdin.buffer.read(MAX_INPUT_CHARACTERS + 1).decode("utf-8", "replace")
    data = bytes_in_log(text) if log else parse_hex(text)
    root = explain(data, describe, keys)
    if as_json:
        print_json(_as_document(root))
    else:
        console().print(_as_tree(root, None), soft_wrap=False)
    raise typer.Exit(1 if root.has_fault else 0)


def parse_hex(text: str) -> bytes:
    """The bytes of a dump. Raises CommandError with the place of what is not hexadecimal."""
    if len(text) > MAX_INPUT_CHARACTERS:
        raise CommandError(f"the input is longer than {MAX_INPUT_CHARACTERS} characters")
    digits = _SEPARATORS.sub("", text)
    bad = re.search(r"[^0-9A-Fa-f]", digits)
    if bad is not None:
        raise CommandError(
            f'"{bad[0]}" after {bad.start() // 2} bytes is no hexadecimal digit',
            hint="--log takes the bytes out of lines with other text",
        )
    if not digits:
        raise CommandError("there are no bytes to decode")
    if len(digits) % 2:
        raise CommandError(f"half a byte is left at byte {len(digits) // 2}: {len(digits)} digits are odd")
    return bytes.fromhex(digits)


def bytes_in_log(text: str) -> bytes:
    """The longest dump of each line, joined. Raises CommandError."""
    found = []
    for line in text[:MAX_INPUT_CHARACTERS].splitlines():
        dumps = [match[0] for match in _BYTES_IN_LOG.finditer(_TIMESTAMP.sub("| ", line))]
        if dumps:
            found.append(parse_hex(max(dumps, key=len)))
    if not found:
        raise CommandError("no line has three bytes of hexadecimal in a row")
    return b"".join(found)


def describe(value: Value) -> str:
    """A value in words; octets also as they are where words were found for them."""
    if isinstance(value, bytes):
        plain, raw = cell(to_plain(value)), value.hex().upper()
        return plain if plain == raw else f"{plain}  ({raw})"
    if isinstance(value, str) and not isinstance(value, BitString):
        return f'"{printable(value)}"'
    return "" if value is None else cell(to_plain(value))


def _key(variable: str | None, path: Path | None) -> bytes | None:
    if variable is None and path is None:
        return None
    reference = SecretRef("env", variable) if variable else SecretRef("file", str(path))
    text = reference.resolve_text().removeprefix("hex:")
    if len(text) not in _KEY_DIGITS or re.fullmatch(r"[0-9A-Fa-f]+", text) is None:
        raise SecretError(f"the key in {reference} is not 16 or 32 bytes in hexadecimal")
    return bytes.fromhex(text)


def _title(text: str) -> bytes:
    digits = _SEPARATORS.sub("", text)
    if re.fullmatch(r"[0-9A-Fa-f]{16}", digits) is None:
        raise CommandError(f'"{text}" is no system title', hint="write 8 bytes as 16 hexadecimal digits")
    return bytes.fromhex(digits)


def _as_tree(node: Node, parent: Tree | None) -> Tree:
    where = f"[dim]{node.start:>4}[/]" if node.end > node.start else "    "
    if node.is_fault:
        line = f"[red]{node.start:>4} {escape(node.label)}: {escape(node.text)}[/]"
    else:
        line = f"{where} [bold]{escape(node.label)}[/]" + (f": {escape(node.text)}" if node.text else "")
    tree = Tree(line) if parent is None else parent.add(line)
    for child in node.children:
        _as_tree(child, tree)
    return tree


def _as_document(node: Node) -> dict[str, Any]:
    document: dict[str, Any] = {"label": node.label, "text": node.text, "start": node.start, "end": node.end}
    if node.is_fault:
        document["fault"] = True
    if node.children:
        document["children"] = [_as_document(child) for child in node.children]
    return document
