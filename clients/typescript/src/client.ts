/** The streams of one server: follow its runs, feed them, start, signal and cancel them. */

import { RunstreamError } from "./errors.js";
import type { RunStatus } from "./folds/steps.js";
import { type ConnectOptions, Http, runPath } from "./http.js";
import { Publisher, type PublishOptions } from "./publisher.js";
import { isTerminal, type Item, type StreamRecord, TERMINAL_KINDS } from "./record.js";
import { queryOf, subscribe, subscribePages, type SubscribeOptions } from "./subscription.js";

/** One page of a run's records. */
export interface Page {
  /** Records behind the position, in order. */
  records: StreamRecord[];
  /** Where the next page begins. */
  cursor: string;
  /** Nothing comes behind it: the run has ended. */
  ended: boolean;
}

export interface PageOptions extends Omit<SubscribeOptions, "follow" | "onState"> {
  limit?: number;
  /** Wait for records, at most this long (seconds). */
  wait?: number;
}

/** What the server knows of a run. */
export interface RunInfo {
  run_id: string;
  workflow: string;
  status: RunStatus;
  root_run_id: string;
  generation: string;
  first_seq: number;
  last_seq: number;
  created: string;
  ended?: string;
  parent_run_id?: string;
}

/** A workflow that the server starts, and the JSON Schema of its input. */
export interface WorkflowInfo {
  name: string;
  description: string;
  input_schema: { [name: string]: any };
}

export interface ListOptions {
  workflow?: string;
  status?: RunStatus;
  /** The `next` of the page before. */
  before?: string;
  limit?: number;
}

/** The streams of a server. No connection is made before something is asked for. */
export function connect(options: ConnectOptions): Streams {
  return new Streams(new Http(options));
}

export class Streams {
  readonly #publishers = new Map<string, Publisher>();

  constructor(private readonly http: Http) {}

  /** The records of a run: history, then live, until its end; it reconnects and resumes by itself. */
  subscribe(runId: string, options: SubscribeOptions = {}): AsyncGenerator<Item, void, void> {
    return subscribe(this.http, runId, options);
  }

  /** The same in the batches in which they arrive, for folding many at once. */
  pages(runId: string, options: SubscribeOptions = {}): AsyncGenerator<Item[], void, void> {
    return subscribePages(this.http, runId, options);
  }

  /** One page of records, for looking at a part of a run. */
  async page(runId: string, { limit, wait, signal, ...position }: PageOptions): Promise<Page> {
    const init = { query: { ...queryOf(position), limit, wait }, headers: { accept: "application/json" }, signal };
    const page = await this.http.json<Page & { generation: string }>("GET", runPath(runId, "/events"), init);
    for (const record of page.records) record.cursor = `${page.generation}.${record.seq}`;
    return page;
  }

  handler(runId: string): Handler {
    return new Handler(this.http, runId);
  }

  /** Publish into a run. Resolves when the event is stored; events of one run keep their order. */
  publish(runId: string, data: unknown, options: PublishOptions = {}): Promise<void> {
    let publisher = this.#publishers.get(runId);
    if (!publisher) this.#publishers.set(runId, (publisher = new Publisher(this.http, runId)));
    return publisher.publish(data, options);
  }

  /** Start a workflow that the server knows. */
  async startRun(workflow: string, input: object = {}, { runId }: { runId?: string } = {}): Promise<Handler> {
    const path = `/v1/workflows/${encodeURIComponent(workflow)}/runs`;
    const run = await this.http.json<RunInfo>("POST", path, { body: { input, run_id: runId } });
    return this.handler(run.run_id);
  }

  async workflows(): Promise<WorkflowInfo[]> {
    return (await this.http.json<{ workflows: WorkflowInfo[] }>("GET", "/v1/workflows")).workflows;
  }

  /** Runs, newest first. A page may be short, or empty, and not the last: its `next` is null there. */
  listRuns(options: ListOptions = {}): Promise<{ runs: RunInfo[]; next: string | null }> {
    return this.http.json("GET", "/v1/runs", { query: { ...options } });
  }

  /** Remove a run that has ended, with its children: as if it had never been. */
  async removeRun(runId: string): Promise<void> {
    await this.http.send("DELETE", runPath(runId));
  }
}

/** One run, as seen from outside. */
export class Handler {
  constructor(
    private readonly http: Http,
    readonly runId: string,
  ) {}

  info(): Promise<RunInfo> {
    return this.http.json("GET", runPath(this.runId));
  }

  /** The position of the newest record, for `after`: only what comes from now on. */
  async cursor(): Promise<string> {
    const { generation, last_seq } = await this.info();
    return `${generation}.${last_seq}`;
  }

  /** Wait for the run's end; its result. Throws `RunstreamError` (`run_failed`) for any other end. */
  async result<T = unknown>({ signal }: { signal?: AbortSignal } = {}): Promise<T> {
    // Its end is still to come; or there already, nearly always among the newest records; or, a child's, anywhere.
    for (const last of [0, 1, undefined]) {
      for await (const item of subscribe(this.http, this.runId, { kinds: [...TERMINAL_KINDS], last, signal })) {
        if (!isTerminal(item) || item.run_id !== this.runId) continue;
        const { kind, data } = item as StreamRecord<any>;
        if (kind === "run.completed") return data?.result as T;
        const why = data?.exception?.message ?? data?.reason ?? "";
        throw new RunstreamError("run_failed", `run ${this.runId} ended: ${kind.slice(4)} ${why}`.trim());
      }
    }
    throw new RunstreamError("run_not_found", `run ${this.runId} was removed before it ended`, 404);
  }

  /** Send an event into the run: its type, and its fields. Resolves when it is stored. */
  async sendEvent(type: string, event: object = {}): Promise<void> {
    await this.http.send("POST", runPath(this.runId, "/signals"), { body: { type, event } });
  }

  /** Ask the process that runs it to cancel the run. */
  async cancelRun(reason?: string): Promise<void> {
    await this.http.send("POST", runPath(this.runId, "/cancel"), { body: { reason } });
  }
}
