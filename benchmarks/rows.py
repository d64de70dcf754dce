"""The rows of the benchmark: what is run, which figures are read from it, what they must reach."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Program:
    """``python -m benchmarks.<module> <args>``, run in a peer's environment or in ours."""

    module: str
    args: tuple[str, ...] = ()
    peer: str | None = None  # a name in `benchmarks.peers.venv.PEERS`

    def exists(self) -> bool:
        """Whether its script has been written."""
        return (ROOT / "benchmarks" / f"{self.module.replace('.', '/')}.py").is_file()


@dataclass(frozen=True)
class Figure:
    """One number of a row: a field of the JSON that a program prints."""

    field: str
    unit: str
    better: Literal["higher", "lower"]
    target: float | None = None
    times_peer: float | None = None  # at least this many times as good as the peer

    def goal(self) -> str:
        """The target in the table's words; empty when the figure is only stated."""
        if self.times_peer is not None:
            return f">= {self.times_peer:g}x"
        if self.target is not None:
            return f"{'>=' if self.better == 'higher' else '<='} {self.target:,g}"
        return ""

    def ratio(self, ours: float | None, peer: float | None) -> float | None:
        """How many times as good as the peer; above 1 is better whatever the unit."""
        best, other = (ours, peer) if self.better == "higher" else (peer, ours)
        return best / other if best is not None and other else None

    def met(self, ours: float | None, peer: float | None) -> bool | None:
        """Whether the target is reached; None when there is none, or nothing to compare."""
        if self.times_peer is not None:
            ratio = self.ratio(ours, peer)
            return None if ratio is None else ratio >= self.times_peer
        if self.target is None or ours is None:
            return None
        return ours >= self.target if self.better == "higher" else ours <= self.target


@dataclass(frozen=True)
class Row:
    """A line of the benchmark: one program of ours and at most one of a peer, run in turn."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    ours: Program
    peer: Program | None = None
    max_rounds: int | None = None  # for a row that repeats inside its own program
    timeout: float = 300.0


def _burst(yield_every: int, times_peer: float) -> Row:
    args = ("--yield-every", str(yield_every))
    how = {0: "in one burst", 1: "sleep(0) after each", 100: "sleep(0) after every 100"}
    return Row(
        f"burst_{yield_every}",
        f"100 000 typed events {how[yield_every]}, all received in order",
        (
            Figure("events_per_s", "events/s", "higher", times_peer=times_peer),
            Figure("max_rss_mib", "MiB", "lower"),
        ),
        Program("ours.burst", args),
        Program("peers.llamaindex_burst", args, "llamaindex"),
    )


def _log_figures(log: str) -> tuple[Figure, ...]:
    figures = [Figure(f"{log}_append_per_s", f"records/s appended, {log}", "higher")]
    if log != "memory":
        figures.append(Figure(f"{log}_wake_p50_ms", f"ms to another process, {log}", "lower"))
    return (*figures, Figure(f"{log}_catch_up_per_s", f"records/s caught up, {log}", "higher"))


def _engine(engine: str, title: str) -> Row:
    return Row(
        f"{engine}_log",
        f"{title}: batches of 64 beside its bare client, another process, 100 000 streams",
        (
            Figure("append_per_s", "records/s appended", "higher"),
            Figure("append_share", "of the bare client's pipelined writes", "higher", target=0.5),
            Figure("wake_p50_ms", "ms to another process, p50", "lower", target=5),
            Figure("wake_p99_ms", "ms to another process, p99", "lower"),
            Figure("catch_up_per_s", "records/s caught up", "higher", target=50_000),
            Figure("many_share", "of the speed among few streams", "higher", target=0.8),
        ),
        Program("ours.engine_log", ("--engine", engine)),
        max_rounds=1,  # it repeats what it compares
        timeout=1800,
    )


ROWS = (
    Row(
        "publish_cost",
        "publish() of a 100-byte dict, caller's side",
        (
            Figure("queued_us", "µs, room in the queue", "lower", target=1.5),
            Figure("wake_us", "µs, wakes an idle writer", "lower", target=15),
        ),
        Program("ours.publish_cost"),
        Program("peers.zenml_publish", peer="zenml"),
    ),
    _burst(0, times_peer=7),
    _burst(1, times_peer=1.7),
    _burst(100, times_peer=2.3),
    Row(
        "paced_latency",
        "publish to seen by a subscriber, 1 000/s, FULL sync",
        (
            Figure("p50_ms", "ms, p50", "lower", target=1),
            Figure("p99_ms", "ms, p99", "lower", target=3),
            Figure("fdatasync_ms", "ms, the disk's own fdatasync", "lower"),
        ),
        Program("ours.paced_latency"),
    ),
    Row(
        "read_million",
        "reading 1 000 000 stored records",
        (Figure("records_per_s", "records/s", "higher", target=800_000),),
        Program("ours.read_million"),
    ),
    Row(
        "ten_million",
        "a file with 10 000 000 records, as a share of the speed of an empty one",
        (
            Figure("append_share", "of an empty file's appends/s", "higher", target=0.8),
            Figure("resume_share", "of an empty file's resumes/s", "higher", target=0.8),
        ),
        Program("ours.ten_million"),
        max_rounds=1,
        timeout=3600,
    ),
    Row(
        "task_growing",
        "Task: a list that grows to 2 000, replaced by a longer copy each time",
        (
            Figure("updates_per_s", "updates/s", "higher", target=40_000),
            # A larger version or index has more digits; a delta may not grow with the list.
            Figure("delta_growth_bytes", "bytes, last delta - first", "lower", target=8),
            Figure("stored_bytes_per_update", "bytes/update with snapshots", "lower"),
        ),
        Program("ours.task_growing"),
        Program("peers.mistral_task", peer="mistral"),
    ),
    Row(
        "slow_subscriber",
        "a subscriber 100 000 records behind while the producer goes on",
        (
            Figure("lost", "records lost", "lower", target=0),
            Figure("rss_growth_mib", "MiB more than before it fell behind", "lower"),
            Figure("max_rss_mib", "MiB", "lower"),
        ),
        Program("ours.slow_subscriber"),
    ),
    Row(
        "step_chain",
        "a chain of 1 000 no-op steps, every lifecycle record stored",
        (
            Figure("steps_per_s", "steps/s", "higher", times_peer=3),
            Figure("max_rss_mib", "MiB", "lower"),
        ),
        Program("ours.step_chain"),
        Program("peers.llamaindex_chain", peer="llamaindex"),
    ),
    Row(
        "step_fanout",
        "1 000 parallel no-op steps and their collection, every lifecycle record stored",
        (
            Figure("steps_per_s", "steps/s", "higher", times_peer=10),
            Figure("max_rss_mib", "MiB", "lower"),
        ),
        Program("ours.step_fanout"),
        Program("peers.llamaindex_fanout", peer="llamaindex"),
    ),
    Row(
        "thousand_runs",
        "1 000 runs at once, three steps each, all of them end",
        (
            Figure("runs_per_s", "runs/s", "higher"),
            Figure("idle_run_kib", "KiB per waiting run", "lower"),
            Figure("max_rss_mib", "MiB", "lower"),
        ),
        Program("ours.thousand_runs"),
    ),
    Row(
        "first_event",
        "run() to its first event seen by a subscriber, FULL sync",
        (
            Figure("p50_ms", "ms, p50", "lower", target=3),
            Figure("p99_ms", "ms, p99", "lower"),
            Figure("cold_ms", "ms, the process's first run", "lower"),
            Figure("fdatasync_ms", "ms, the disk's own fdatasync", "lower"),
        ),
        Program("ours.first_event"),
    ),
    Row(
        "ingest_raw",
        "durable ingest over HTTP, batches of 64 events of 150 B, 8 connections, FULL sync",
        (
            Figure("events_per_s", "events/s", "higher", target=180_000),
            Figure("server_cores", "cores that the server used", "lower"),
            Figure("fdatasync_ms", "ms, the disk's own fdatasync", "lower"),
        ),
        Program("ours.ingest_raw"),
    ),
    Row(
        "client_ingest",
        "publish() to a local server until all is durable, events of 150 B, one producer, FULL sync",
        (
            Figure("events_per_s", "events/s, what waits in one request", "higher", target=65_000),
            Figure("of_64_per_s", "events/s, 64 to a request at most", "higher", target=65_000),
            Figure("client_us", "µs of the client's core per event", "lower"),
            Figure("server_cores", "cores that the server used", "lower"),
            Figure("fdatasync_ms", "ms, the disk's own fdatasync", "lower"),
        ),
        Program("ours.client_ingest"),
    ),
    Row(
        "sse_fanout",
        "SSE: 1 000 subscribers of one run, events in batches of 16 as fast as they are taken",
        (
            Figure("deliveries_per_s", "deliveries/s", "higher", target=120_000),
            Figure(
                "deliveries_per_s", "deliveries/s, beside sse-starlette", "higher", times_peer=3
            ),
            Figure("share_of_bare", "of a bare protocol's", "higher", target=0.5),
            Figure("single_per_s", "deliveries/s, one event a write", "higher"),
            Figure(
                "single_share_of_bare",
                "of a bare protocol's, one event a write",
                "higher",
                target=0.5,
            ),
        ),
        Program("ours.sse_fanout"),
        Program("peers.sse_starlette_fanout", peer="sse-starlette"),
    ),
    Row(
        "sse_latency",
        "publish() in a worker to 100 SSE subscribers of a local server, 1 000/s, FULL sync",
        (
            Figure("p50_ms", "ms, p50", "lower", target=3),
            Figure("p99_ms", "ms, p99", "lower", target=15),
            Figure("fdatasync_ms", "ms, the disk's own fdatasync", "lower"),
        ),
        Program("ours.sse_latency"),
    ),
    Row(
        "sse_catchup",
        "one SSE subscriber over 1 000 000 stored records of a local server, raw",
        (Figure("records_per_s", "records/s", "higher", target=400_000),),
        Program("ours.sse_catchup"),
    ),
    Row(
        "sse_idle",
        "5 000 SSE subscribers that have nothing to read, a heartbeat every 15 s",
        (
            Figure("subscriber_kib", "KiB of the server per subscriber", "lower", target=30),
            Figure("core_share", "of a core", "lower", target=0.05),
        ),
        Program("ours.sse_idle"),
    ),
    Row(
        "sse_stalled",
        "one of 1 000 SSE subscribers reads nothing: what the others get, of what they got before",
        (
            Figure("share", "of the speed without it", "higher", target=0.95),
            Figure("deliveries_per_s", "deliveries/s", "higher"),
        ),
        Program("ours.sse_stalled"),
    ),
    Row(
        "client_catch_up",
        "subscribe() over 1 000 000 stored records of a local server, as `Record` objects",
        (
            Figure("records_per_s", "records/s", "higher", target=250_000),
            Figure("client_us", "µs of the client's core per record", "lower"),
            Figure("max_rss_mib", "MiB", "lower"),
        ),
        Program("ours.client_catch_up"),
    ),
    Row(
        "node_subscribe",
        "the TypeScript client in Node over 1 000 000 stored records of a local server",
        (
            Figure("records_per_s", "records/s", "higher", target=100_000),
            Figure("max_rss_mib", "MiB", "lower"),
        ),
        Program("ours.node_subscribe"),
    ),
    Row(
        "console_load",
        "the console in Chromium: opened, then 5 000 records a second into an open run",
        (
            Figure("first_paint_ms", "ms to the first paint", "lower", target=1000),
            Figure("size_kb", "KB gzipped, all files", "lower", target=200),
            Figure("longest_task_ms", "ms, the longest task of the page", "lower", target=100),
            Figure("long_tasks", "tasks over 50 ms", "lower"),
        ),
        Program("ours.console_load"),
    ),
    Row(
        "each_log",
        "each kind of log in turn, durable: batches of 64, another process, 200 000 records",
        tuple(
            figure
            for log in ("memory", "SQLite", "server", "Redis", "NATS", "PostgreSQL")
            for figure in _log_figures(log)
        ),
        Program("ours.each_log"),
    ),
    _engine("redis", "Redis, appendfsync always"),
    _engine("nats", "NATS, one server, its data in a file"),
    _engine("postgresql", "PostgreSQL, synchronous_commit on"),
    Row(
        "inference_overhead",
        "our layer on top of an engine of one thread, both on one CPU, per token of the tiny model",
        (
            Figure(
                "llama_cpp_extra_us", "µs/token more than llama.cpp's callback", "lower", target=20
            ),
            Figure("llama_cpp_share", "of its tokens/s", "higher", target=0.95),
            Figure(
                "mistral_rs_extra_us",
                "µs/token more than mistral.rs's iterator",
                "lower",
                target=20,
            ),
            Figure("mistral_rs_share", "of its tokens/s", "higher", target=0.95),
        ),
        Program("ours.inference_overhead"),
    ),
    Row(
        "inference_all_cpus",
        "the same of mistral.rs on all CPUs, which wait for one another in busy loops",
        (
            Figure("mistral_rs_extra_us", "µs/token more than its iterator", "lower", target=20),
            Figure("mistral_rs_share", "of its tokens/s", "higher", target=0.95),
        ),
        Program("ours.inference_overhead", ("--all-cpus",)),
    ),
    Row(
        "inference_stop",
        "leaving an engine: the tokens of 2 ms and more that it still makes, none of which is delivered",
        (
            Figure("llama_cpp_after", "tokens, by llama.cpp's count", "lower", target=1),
            Figure("mistral_rs_after", "tokens, by mistral.rs's CPU time", "lower", target=1),
            Figure("llama_cpp_tiny_after", "tokens of 0.1 ms, by llama.cpp's count", "lower"),
        ),
        Program("ours.inference_stop"),
    ),
    Row(
        "inference_first_token",
        "llama.cpp's first token to a subscriber over HTTP (SSE), FULL sync",
        (
            Figure("p50_ms", "ms, p50", "lower", target=5),
            Figure("p99_ms", "ms, p99", "lower"),
            Figure(
                "interleaved",
                "of two generations' tokens follow the other's",
                "higher",
                target=0.05,
            ),
            Figure("fdatasync_ms", "ms, the disk's own fdatasync", "lower"),
        ),
        Program("ours.inference_first_token"),
    ),
)
