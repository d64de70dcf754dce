/** Following a run: history, then live, over as many connections as it takes. */

import { RunstreamError } from "./errors.js";
import { type Http, type Query, runPath, sleep } from "./http.js";
import type { Gap, Item } from "./record.js";
import { type Frame, FrameParser } from "./sse.js";

export interface SubscribeOptions {
  /** Begin with this number (0 means 1). */
  fromSeq?: number;
  /** Begin behind this cursor. */
  after?: string | null;
  /** Begin so that this many records of the filter are history. */
  last?: number | undefined;
  kinds?: string | readonly string[];
  topics?: string | readonly string[];
  steps?: string | readonly string[];
  correlationIds?: string | readonly string[];
  /** False ends at what is stored now. */
  follow?: boolean;
  /** Ends the iteration; it throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Hears whether the records are live, and why not. */
  onState?: (state: ConnectionState, error?: RunstreamError) => void;
}

export type ConnectionState = "connecting" | "open" | "reconnecting" | "ended";

/** The server sends something at least every 15 s; after three times that the connection is dead. */
const SILENCE_MS = 45_000;
/** Some 500 records: a few milliseconds of work. */
const PART_BYTES = 65_536;
/** Between two tries: doubled each time, with jitter, so that a restarted server is not run over. */
const RETRY_MS = 250;
const RETRY_MS_MAX = 10_000;

/** The options as the server's parameters. */
export const queryOf = ({ fromSeq, after, last, kinds, topics, steps, correlationIds, follow }: SubscribeOptions): Query => ({
  kinds,
  topics,
  steps,
  correlation_ids: correlationIds,
  follow: follow === false ? false : undefined,
  from_seq: fromSeq,
  last,
  after: after ?? undefined,
});

/** The items in the batches in which they arrived (never empty), gaps among them, until the run's end. */
export async function* subscribePages(http: Http, runId: string, options: SubscribeOptions): AsyncGenerator<Item[], void, void> {
  const { signal, onState } = options;
  // A position is for the first connection alone: once there is a cursor it goes first.
  const first = queryOf(options);
  const { from_seq, last, after, ...later } = first;
  let cursor: string | undefined;
  let pause = RETRY_MS;
  onState?.("connecting");
  for (;;) {
    let problem: RunstreamError | undefined;
    const leave = new AbortController();
    const abort = () => leave.abort(signal!.reason);
    signal?.throwIfAborted();
    signal?.addEventListener("abort", abort);
    let retryMs: number | undefined;
    try {
      const response = await http.send("GET", runPath(runId, "/events"), {
        query: cursor === undefined ? first : later,
        headers: { accept: "text/event-stream", ...(cursor !== undefined && { "last-event-id": cursor }) },
        signal: leave.signal,
      });
      if (response.status === 204) return onState?.("ended");
      checkIsStream(response);
      onState?.("open");
      const parser = new FrameParser();
      for await (const chunk of chunks(response, leave)) {
        const batch = read(parser.feed(chunk));
        retryMs = parser.retryMs;
        if (batch.items.length > 0) {
          pause = RETRY_MS;
          cursor = batch.cursor;
          yield batch.items;
        }
        // (Behind what was delivered: nothing is skipped if it was delivered in vain.)
        cursor = batch.cursor ?? cursor;
        if (batch.ended) return onState?.("ended");
        if (batch.problem) throw batch.problem;
      }
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (!(error instanceof RunstreamError)) problem = new RunstreamError("unreachable", String(error));
      else problem = error;
      const gap = gapOf(problem, runId, cursor ?? options.after ?? undefined);
      if (gap) {
        cursor = gap.cursor;
        yield [gap];
        continue;
      }
      const refreshed = problem.status === 401 && cursor !== undefined && http.forgetToken();
      if (!problem.isTemporary && !refreshed) throw problem;
    } finally {
      signal?.removeEventListener("abort", abort);
      leave.abort();
    }
    onState?.("reconnecting", problem);
    await sleep(problem?.retryAfterMs ?? Math.min(retryMs ?? RETRY_MS_MAX, pause * (0.5 + Math.random() / 2)), signal);
    pause = Math.min(pause * 2, RETRY_MS_MAX);
  }
}

/** One by one. */
export async function* subscribe(http: Http, runId: string, options: SubscribeOptions): AsyncGenerator<Item, void, void> {
  for await (const items of subscribePages(http, runId, options)) yield* items;
}

interface Batch {
  items: Item[];
  cursor?: string;
  ended?: boolean;
  problem?: RunstreamError;
}

/** What the frames say, up to the first that ends the stream. */
function read(frames: Frame[]): Batch {
  const batch: Batch = { items: [] };
  for (const { id, event, data } of frames) {
    if (event === "stream.end") batch.ended = true;
    else if (event === "stream.error") {
      const { code, detail, status, ...more } = JSON.parse(data);
      batch.problem = new RunstreamError(code, detail, status, more);
    } else if (event !== "stream.cursor") {
      try {
        const item = JSON.parse(data) as Item;
        item.cursor = id;
        batch.items.push(item);
      } catch {
        batch.problem = new RunstreamError("not_a_server", `a frame is not JSON: ${data.slice(0, 80)}`, 200);
      }
    }
    if (batch.ended || batch.problem) break;
    if (id) batch.cursor = id;
  }
  return batch;
}

/** The bytes of an answer; ends the wait of a connection on which nothing comes any more. */
async function* chunks(response: Response, leave: AbortController): AsyncGenerator<Uint8Array> {
  const reader = response.body!.getReader();
  let heard = Date.now();
  const watch = setInterval(() => Date.now() - heard > SILENCE_MS && leave.abort(new Error("the server fell silent")), SILENCE_MS / 3);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      heard = Date.now();
      if (done) return;
      // What piled up while the page was busy may be megabytes; a consumer gets its turn between parts of it.
      for (let from = 0; from < value.length; from += PART_BYTES) yield value.subarray(from, from + PART_BYTES);
      heard = Date.now(); // (the time that the consumer took is not the server's silence)
    }
  } finally {
    clearInterval(watch);
    reader.cancel().catch(() => {});
  }
}

function checkIsStream(response: Response): void {
  const type = response.headers.get("content-type") ?? "nothing";
  if (!type.startsWith("text/event-stream")) {
    throw new RunstreamError("not_a_server", `${response.url} answered ${type}, no stream`, response.status);
  }
}

/** A refused position as the gap that it is. */
function gapOf(problem: RunstreamError, runId: string, after: string | undefined): Gap | undefined {
  if (problem.status !== 410 || after === undefined || problem.firstSeq === undefined) return;
  const [generation, seq] = after.split(".") as [string, string];
  const changed = problem.code === "generation_changed";
  return {
    kind: "stream.gap",
    run_id: runId,
    cursor: `${problem.generation ?? generation}.${problem.firstSeq - 1}`,
    data: {
      reason: changed ? "generation_changed" : "trimmed",
      from_seq: Number(seq) + 1,
      to_seq: changed ? null : problem.firstSeq - 1,
      next_seq: problem.firstSeq,
    },
  };
}
