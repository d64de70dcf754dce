"""Run the rows: ours and the peer's program in turn, each its own process; medians of the rounds.

The contract of a measured program, ours and the peers' alike
--------------------------------------------------------------
A row of `rows.py` names a module; ``benchmarks/ours/<row>.py`` is ours (the three ``burst_*`` rows
share ``ours/burst.py``). Until that file exists the row says "not written yet". To add it, write
the file; to add a row, add a `Row` as well.

*Arguments* (`measure.arguments` gives the parser):
    ``--scratch DIR``   ours only: an empty folder on the disk that the probe measures, removed
                        afterwards. Put every file there and nowhere else.
    ``--quick``         a tenth of the work or less, to see whether the program runs at all.
    then the row's own arguments: ``burst`` takes ``--yield-every 0|1|100`` (0: never yields).

*Output* (`measure.emit`): the last line of standard output is one JSON object. Progress of a long
program goes to standard error a line at a time and is shown. Any other exit code than 0 is a
failure, and the last line of standard error is its reason.

    always          name
    optional        received, sent, in_order: checked here; a program that lost or reordered
                    something has no figure, only a failure
                    note: what was left out or stubbed; printed under the table
                    max_rss_mib (`measure.max_rss_mib`), version, and anything else: kept in the
                    JSON, medians for numbers
    publish_cost    queued_us: median of single calls in bursts of 1 000 with a flush between;
                    wake_us: median of calls 1 ms after a flush; queued_mean_us; the payload is
                    ``{"token": "x" * 74, "index": 12345}``, 100 bytes as compact JSON
    burst           events_per_s: N / (last received - first written); making the event is inside;
                    an event is ``Token(index: int, text: str)``, text ``"token"``; one subscriber
    paced_latency   p50_ms, p99_ms, and fdatasync_ms from ``disk.probe(scratch)`` right beside it
    read_million    records_per_s
    ten_million     append_share, resume_share: speed in the large file / speed in an empty one;
                    runs once, takes its medians over windows itself
    task_growing    updates_per_s until all is stored, delta_growth_bytes,
                    stored_bytes_per_update; tokens of equal length
    slow_subscriber lost, rss_growth_mib, max_rss_mib
    step_chain      steps_per_s: steps / (result there - ``run()``), median of a few runs of 1 000
                    steps in one process; a step takes one event and returns the next
    step_fanout     steps_per_s: 1 000 / (result there - ``run()``); one step sends 1 000 events, as
                    many workers take one each, as many collectors gather what those return
    thousand_runs   runs_per_s of three steps each, all started at once; idle_run_kib: what the
                    process grows by, per run, while 1 000 runs wait for an event from outside
    inference_overhead  <engine>_bare_us, _extra_us (per token; below 0 where busy threads got a CPU
                    later), _share (tokens/s through us / bare) for llama_cpp and mistral_rs
    inference_stop  llama_cpp_after, mistral_rs_after, llama_cpp_tiny_after: made after the token at
                    which the reader left
    inference_first_token  p50_ms, p99_ms from the engine's thread to the subscriber; interleaved: of
                    two generations' tokens in one run, those that follow the other's;
                    ``**disk.probe(scratch)``
    first_event     p50_ms, p99_ms from ``run()`` to a step's first event in ``stream_events()``;
                    cold_ms: the same of the process's first run; ``**disk.probe(scratch)``
    ingest_raw      events_per_s: events whose answers came / time, raw requests of 64 events on 8
                    connections; server_cores: CPU time of the server / time; ``served.serving``
                    puts server and client on a core each; ``**disk.probe(scratch)``
    client_ingest   events_per_s: events / (drained - first published), with the default settings;
                    of_64_per_s: the same with 64 events to a request at most; client_us: CPU time of
                    the client / events; server_cores; ``**disk.probe(scratch)``
    sse_fanout      deliveries_per_s: frames that 1 000 raw connections got / time, batches of 16 events
                    sent as soon as the last is answered; single_per_s: the same of single events;
                    ours: share_of_bare, single_share_of_bare (`bare_fanout`, in the same run)
    sse_latency     p50_ms, p99_ms from ``publish()`` to the bytes at one of 100 raw connections
    sse_catchup     records_per_s: frames that one raw connection got / time, median of three
    sse_idle        subscriber_kib: the server's growth; core_share: its CPU time over three heartbeats
    sse_stalled     share: deliveries/s beside a connection that is not read / without it, in turn
    client_catch_up records_per_s: records / time of an ``async for`` over ``subscribe()``, data not
                    looked at; client_us: CPU time of the client / records; max_rss_mib
    each_log        for each kind of log (`benchmarks.logs`) append_per_s, wake_p50_ms, catch_up_per_s,
                    as for one engine
    <engine>_log    append_per_s and bare_append_per_s in turn, append_share of the two; wake_p50_ms,
                    wake_p99_ms from the call of ``append`` to a waiter in another process that has
                    read the record; catch_up_per_s; many_share: appends among ``streams`` others /
                    among few; the engine is one of ``benchmarks/engines``
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import venv
from benchmarks.rows import ROOT, Program, Row

Say = Callable[[str], None]


class MeasureError(Exception):
    """A program gave no figure; the message says why."""


@dataclass
class Side:
    """What one program of a row gave over the rounds, or why it gave nothing."""

    rounds: list[dict[str, Any]] = field(default_factory=list)
    missing: str | None = None  # nothing to run: not written, not installed
    failed: str | None = None

    def median(self, name: str) -> float | None:
        """The figure, unless a round failed: what a faulty program did fast is worth nothing."""
        values = [r[name] for r in self.rounds if isinstance(r.get(name), int | float)]
        return statistics.median(values) if values and not self.failed else None

    def note(self) -> str | None:
        """What the program said it stubbed or left out."""
        return self.rounds[0].get("note") if self.rounds else None

    def reason(self) -> str | None:
        """Why there is no figure, or None when there is one."""
        return self.missing or (self.failed and f"failed: {self.failed}")


@dataclass
class Result:
    """A row and what its programs gave; `peer` is None where there is nobody to compare with."""

    row: Row
    ours: Side
    peer: Side | None


@dataclass(frozen=True)
class Runner:
    """How rows are run: how often, how large, on which disk, and who hears of the progress."""

    rounds: int
    quick: bool
    disk: Path  # scratch folders are made here, so that they lie on the disk that was probed
    say: Say

    def run(self, row: Row) -> Result:
        """Measure one row; a program that is missing or fails is in the result, never raised."""
        self.say(f"{row.name}: {row.title}")
        ours = Side(missing=None if row.ours.exists() else "not written yet")
        peer = Side(missing=venv.missing(row.peer.peer)) if row.peer and row.peer.peer else None
        sides = [("ours", ours, row.ours)]
        if peer and row.peer:
            sides.append((row.peer.peer or "peer", peer, row.peer))
        rounds = min(self.rounds, row.max_rounds or self.rounds)
        for number in range(1, rounds + 1):  # in turn, so that a busy minute hits both
            for who, side, program in sides:
                if not side.reason():
                    line = self._round(row, side, program)
                    self.say(f"  round {number}/{rounds}  {who:<10} {line}")
        for who, side, _ in sides:
            if side.missing:
                self.say(f"  {who}: {side.missing}")
        return Result(row, ours, peer)

    def _round(self, row: Row, side: Side, program: Program) -> str:
        scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=self.disk))
        try:
            python = str(venv.python(program.peer)) if program.peer else sys.executable
            command = [python, "-m", f"benchmarks.{program.module}", *program.args]
            command += ["--scratch", str(scratch)] + ["--quick"] * self.quick
            fields = measure(command, row.timeout, None if program.peer else self.say)
        except MeasureError as error:
            side.failed = str(error)
            return f"failed: {error}"
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        side.rounds.append(fields)
        shown = [f"{fields[f.field]:,} {f.unit}" for f in row.figures if f.field in fields]
        return "; ".join(shown)


def measure(command: list[str], timeout: float, say: Say | None) -> dict[str, Any]:
    """Run one program to its end and return the JSON it printed, checked for losses.

    `say` gets its progress lines. Past `timeout`, or when this call is interrupted, the program
    and its children are killed.
    """
    late = threading.Event()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # its own group, so that its children die with it
        )

        def kill() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(timeout, kill)
        timer.start()
        last_words = ""
        try:
            assert process.stderr is not None
            for line in process.stderr:
                last_words = line.strip() or last_words
                if say:
                    say(f"    {line.rstrip()}")
            code = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                kill()
                process.wait()
        output.seek(0)
        lines = output.read().splitlines()
    if late.is_set():
        raise MeasureError(f"no result within {timeout:g} s")
    if code:
        raise MeasureError(last_words or f"exit code {code}")
    return _checked(lines)


def _checked(lines: list[str]) -> dict[str, Any]:
    try:
        fields = json.loads(lines[-1])
    except (IndexError, ValueError):
        fields = None
    if not isinstance(fields, dict):
        raise MeasureError("its last line is not a JSON object")
    if fields.get("in_order") is False:
        raise MeasureError("received out of order")
    if fields.get("received") != fields.get("sent", fields.get("received")):
        raise MeasureError(f"received {fields.get('received')} of {fields.get('sent')}")
    return fields
