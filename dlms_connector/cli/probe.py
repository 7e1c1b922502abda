"""`dlms-connector probe HOST:PORT|SERIAL`: how this meter wants to be talked to, found out politely."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dlms_connector.cli import target as options
from dlms_connector.cli.output import console, print_json, printable, progress, to_json, write_json
from dlms_connector.config.catalogue import name_of
from dlms_connector.obis import Obis
from dlms_connector.survey.attempt import Facts, Verdict
from dlms_connector.survey.probe import MICROSTAR_PORT, Finding, ProbePlan, Prober, Server

_INTERRUPTED: Final = 130


def command(
    target: options.Target,
    clients: options.ClientsOption = None,
    password_env: options.PasswordEnv = None,
    password_file: options.PasswordFile = None,
    template: options.TemplateOption = None,
    framing: options.FramingOption = None,
    logical: options.LogicalOption = None,
    physical: options.PhysicalOption = None,
    address_size: options.SizeOption = None,
    serial_number: options.SerialNumberOption = None,
    timeout: options.TimeoutOption = 7.0,
    limit: options.LimitOption = 300.0,
    pause: options.PauseOption = 1.0,
    recovery: options.RecoveryOption = 10.0,
    baud: options.BaudOption = 9600,
    echo: options.EchoOption = False,
    everything: options.AllOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a configuration with the entry here.")
    ] = None,
) -> None:
    """Find out framing, addresses, client and authentication of a meter: exit 0 if it answered, 1 otherwise."""
    plan = options.make_plan(
        target,
        clients=clients,
        password_env=password_env,
        password_file=password_file,
        template=template,
        framing=framing,
        logical=logical,
        physical=physical,
        size=address_size,
        serial_number=serial_number,
        baud=baud,
        echo=echo,
        timeout_s=timeout,
        limit_s=limit,
        pause_s=pause,
        recovery_s=recovery,
        everything=everything,
    )
    prober, interrupted = run_prober(plan, target)
    best = prober.best
    entry = finished_entry(plan, best, target) if best is not None else None
    if as_json:
        print_json(_as_document(target, prober, entry))
    else:
        _print(console(), prober, entry)
    if out is not None and entry is not None:
        write_json(out, {"devices": [entry]})
        console(stderr=True).print(f"The entry is in {out}: dlms-connector check {out}")
    if interrupted:
        raise typer.Exit(_INTERRUPTED)
    raise typer.Exit(0 if entry is not None else 1)


def run_prober(plan: ProbePlan, target: str) -> tuple[Prober, bool]:
    """Run a plan with progress on stderr; whether Ctrl-C ended it (the meter is left politely all the same)."""
    bar = progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn(f"of at most {plan.limit_s:g} s"),
    )
    task = bar.add_task(f"Probing {escape(target)}", total=plan.limit_s)
    began_s = time.monotonic()
    prober = Prober(plan)

    def show(text: str) -> None:
        bar.update(task, description=escape(text), completed=time.monotonic() - began_s)

    def tell(finding: Finding) -> None:
        outcome = finding.outcome
        colour = "green" if outcome.verdict is Verdict.ANSWERED else "dim"
        bar.console.print(f"[{colour}]{escape(str(finding.candidate))}: {escape(outcome.said)}[/]")

    prober.on_try = lambda candidate: show(str(candidate))
    prober.on_finding = tell
    with bar:
        try:
            prober.run()
        except KeyboardInterrupt:
            prober.ended = "stopped by Ctrl-C"
            return prober, True
    return prober, False


def finished_entry(plan: ProbePlan, finding: Finding, target: str) -> dict[str, Any]:
    """The device entry of what answered, with the usual registers that it told."""
    facts = finding.outcome.facts
    serial = facts.serial_number if facts else ""
    entry = plan.entry(finding.candidate, f"meter_{serial or target}")
    if facts and "template" not in entry:
        entry["timeseries"] = [_register(obis) for obis in facts.registers]
        if facts.serial_object is not None:
            where = {"key": "serialNumber", "obis": str(facts.serial_object), "class": 1, "type": "text"}
            entry["attributes"] = [where]
    return entry


def _register(obis: Obis) -> str | dict[str, str]:
    name = name_of(obis)
    return name if obis.b == 0 else {"key": name, "obis": str(obis)}


def _print(out: Console, prober: Prober, entry: dict[str, Any] | None) -> None:
    table = Table(title="What was tried", title_justify="left", box=None)
    for name in ("try", "result", "layer", "the meter said", "hint"):
        table.add_column(name, overflow="fold")
    for finding in prober.findings:
        outcome = finding.outcome
        colour = "green" if outcome.verdict is Verdict.ANSWERED else "yellow" if outcome.heard else "red"
        table.add_row(
            escape(str(finding.candidate)),
            f"[{colour}]{outcome.verdict.value}[/]",
            str(outcome.layer),
            escape(outcome.said),
            escape(outcome.hint),
        )
    out.print(table, soft_wrap=False)
    if prober.ended:
        out.print(f"Not everything was tried: {prober.ended}.")
    best = prober.best
    if best is None or entry is None:
        out.print(f"\n{advice(prober)}", soft_wrap=False)
        return
    out.print(f"\n[green]{escape(str(best.candidate))} answered.[/]", soft_wrap=False)
    if best.outcome.facts is not None:
        out.print(_facts_table(best.outcome.facts), soft_wrap=False)
    if prober.plan.template is None and _is_microstar(prober.plan, best):
        out.print("It answers like a Microstar: --template microstar gives the entry the usual keys.")
    out.print("\nThe device entry:")
    out.print(escape(to_json(entry)))


def _is_microstar(plan: ProbePlan, finding: Finding) -> bool:
    """The address of the units in the field, with their port or their channel (B = 1)."""
    facts = finding.outcome.facts
    channel_one = facts is not None and any(obis.b == 1 for obis in facts.registers)
    is_there = finding.candidate.framing == "hdlc" and finding.candidate.server == Server(0, 1, 1)
    return is_there and (channel_one or plan.transport["port"] == MICROSTAR_PORT)


def advice(prober: Prober) -> str:
    """One sentence on what the failures have in common, and what to do about it."""
    verdicts = {finding.outcome.verdict for finding in prober.findings}
    last = prober.findings[-1].outcome if prober.findings else None
    if last is None:
        return "Nothing was tried."
    if verdicts == {Verdict.UNREACHABLE}:
        return f"Nothing could be tried: {last.said}." + (f" Hint: {last.hint}." if last.hint else "")
    if Verdict.WANTS_HLS in verdicts:
        return "The meter is there and asks for HLS: it needs a secret or keys. See the hints above."
    if Verdict.WANTS_CIPHERING in verdicts:
        return (
            "The meter is there and asks for ciphered APDUs: client.security needs its keys and system title."
        )
    if Verdict.WRONG_PASSWORD in verdicts:
        return "The meter is there and refuses the password. Some meters lock a client after wrong ones."
    if Verdict.WANTS_AUTHENTICATION in verdicts:
        return "The meter is there and asks for a password: give --password-env NAME or --password-file FILE."
    if verdicts & {Verdict.REFUSED, Verdict.DISCONNECTED}:
        return "The meter is there and refuses these clients: ask the maker for the client address, or use --client."
    if Verdict.RUBBISH in verdicts:
        return "Something else than a DLMS meter answers here. Is the port right, or the baud rate?"
    if Verdict.CLOSED in verdicts:
        return (
            "The connection is taken and ended at once: a converter that serves one client at a time "
            "hangs up like this. Is a gateway connected?"
        )
    return (
        "The connection stands and nobody answers. Is the meter switched on and wired to the converter, its "
        "baud rate right? --serial-number tries addresses made of the serial number's last digits."
    )


def _facts_table(facts: Facts) -> Table:
    table = Table(show_header=False, box=None)
    rows = {
        "logical device name": facts.logical_device_name,
        "serial number": facts.serial_number,
        "system title": facts.system_title,
        "largest PDU": f"{facts.max_pdu_bytes} bytes",
        "HDLC information": _information(facts),
        "services": ", ".join(facts.conformance),
        "usual registers": ", ".join(f"{name_of(obis)} ({obis})" for obis in facts.registers),
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, escape(printable(text)))
    return table


def _information(facts: Facts) -> str:
    if facts.information_receive_bytes is None:
        return ""
    return (
        f"{facts.information_receive_bytes} bytes from the meter, {facts.information_send_bytes} to it, "
        f"window {facts.window_frames}"
    )


def _as_document(target: str, prober: Prober, entry: dict[str, Any] | None) -> dict[str, Any]:
    tries = [
        {
            "try": str(finding.candidate),
            "result": finding.outcome.verdict.value,
            "layer": str(finding.outcome.layer),
            "said": finding.outcome.said,
            "hint": finding.outcome.hint,
            "durationMs": round(finding.duration_s * 1000),
        }
        for finding in prober.findings
    ]
    best = prober.best
    facts = best.outcome.facts if best else None
    document: dict[str, Any] = {
        "target": target,
        "ok": entry is not None,
        "tries": tries,
        "ended": prober.ended,
    }
    if facts is not None:
        document["facts"] = {
            "logicalDeviceName": facts.logical_device_name,
            "serialNumber": facts.serial_number,
            "systemTitle": facts.system_title,
            "maxPduSize": facts.max_pdu_bytes,
            "maxInfoLength": facts.information_receive_bytes,
            "windowSize": facts.window_frames,
            "conformance": list(facts.conformance),
        }
    if entry is None:
        document["advice"] = advice(prober)
    return {**document, "entry": entry}
