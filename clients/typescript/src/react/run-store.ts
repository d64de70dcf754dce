/**
 * One run as a page sees it: one connection, however many components look at it, and the folds of what came.
 *
 * It survives a reload: where the page was is kept in the tab's session storage, and reading goes on there.
 */

import type { Streams } from "../client.js";
import type { RunstreamError } from "../errors.js";
import { type RunState, type RunStatus, StepFold } from "../folds/steps.js";
import { TaskFold, type TaskState } from "../folds/tasks.js";
import { TextFold } from "../folds/text.js";
import { type Gap, isGap, type Item } from "../record.js";
import type { ConnectionState } from "../subscription.js";
import { turn } from "../turn.js";

/** A run at one moment. A new object after every change; `runs` is changed in place, so look at `lastSeq`. */
export interface RunView {
  runId: string;
  /** Of the run; undefined until its first record is here. */
  status: RunStatus | undefined;
  /** Of the connection. */
  state: ConnectionState;
  /** Why the connection ended, or is not there now. */
  error: RunstreamError | undefined;
  /** The position: the newest record that is here, and its cursor. */
  lastSeq: number;
  cursor: string | undefined;
  /** The records that cannot be had any more. */
  gaps: readonly Gap[];
  /** The run and its children, with their steps and attempts. */
  runs: readonly RunState[];
}

/** Strict mode and moving a component unmount and mount again at once: that must not cost a connection. */
const GRACE_MS = 1000;
/** A hidden page draws no frames; it still keeps its state, this often. */
const HIDDEN_MS = 500;
/** The page gets the processor back after this time; a frame takes 16 ms. */
const SLICE_MS = 8;
/** Session storage holds some 5 MiB for all of a site; a run beyond this is read again from its start. */
const SAVED_LENGTH_MAX = 1_000_000;
/** More holes than a person looks at. */
const GAPS_MAX = 100;

interface Saved {
  cursor: string;
  lastSeq: number;
  text: ReturnType<TextFold["save"]>;
  open: ReturnType<TaskFold["save"]>;
  tasks: [string, TaskState][];
  runs: RunState[];
  gaps: Gap[];
}

export class RunStore {
  #view: RunView;
  #text = new TextFold();
  #taskFold = new TaskFold();
  #tasks = new Map<string, TaskState>();
  #steps = new StepFold();
  #listeners = new Set<() => void>();
  #stopSoon: ReturnType<typeof setTimeout> | undefined;
  #following: AbortController | undefined;
  #isScheduled = false;
  #next: Partial<RunView> = {};

  constructor(
    private readonly streams: Streams,
    private readonly runId: string,
    private readonly onStop: () => void = () => {},
    private readonly storage: Storage | undefined = globalThis.sessionStorage,
  ) {
    this.#view = { runId, status: undefined, state: "connecting", error: undefined, lastSeq: 0, cursor: undefined, gaps: [], runs: [] };
    this.#restore();
  }

  view = (): RunView => this.#view;

  text(correlationId = ""): string {
    return this.#text.text(correlationId);
  }

  /** The newest state of the newest task of a topic. */
  task(topic: string): TaskState | undefined {
    return this.#tasks.get(topic);
  }

  /** Call the listener after changes, at most once a frame. The first one connects, the last one leaves. */
  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    clearTimeout(this.#stopSoon);
    if (!this.#following && this.#view.state !== "ended") void this.#follow();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.#stopSoon = setTimeout(() => this.#stop(), GRACE_MS);
    };
  };

  async #follow(): Promise<void> {
    const following = (this.#following = new AbortController());
    const { signal } = following;
    globalThis.addEventListener?.("pagehide", this.#save);
    try {
      const options = { signal, onState: (state: ConnectionState, error?: RunstreamError) => this.#change({ state, error }) };
      const after = this.#view.cursor;
      let since = performance.now();
      for await (const items of this.streams.pages(this.runId, after ? { ...options, after } : options)) {
        this.#feed(items);
        if (performance.now() - since < SLICE_MS) continue;
        await turn();
        if (signal.aborted) return;
        since = performance.now();
      }
    } catch (error) {
      if (!signal.aborted) this.#change({ state: "ended", error: error as RunstreamError });
    } finally {
      if (this.#following === following) this.#following = undefined;
    }
  }

  #stop(): void {
    globalThis.removeEventListener?.("pagehide", this.#save);
    this.#following?.abort();
    this.#following = undefined;
    this.#save();
    this.onStop();
  }

  #feed(items: Item[]): void {
    let { lastSeq, gaps, status } = { ...this.#view, ...this.#next };
    for (const item of items) {
      if (isGap(item)) {
        gaps = [...gaps, item].slice(-GAPS_MAX);
        // What was folded is of a stream that is no more.
        if (item.data.reason === "generation_changed") this.#begin();
        continue;
      }
      lastSeq = item.seq;
      this.#text.feed(item);
      for (const task of this.#taskFold.feed(item)) {
        // (One that was left open long ago is not the newest of its topic.)
        if (task.status !== "lost" || this.#tasks.get(task.type)?.id === task.id) this.#tasks.set(task.type, task);
      }
      const run = this.#steps.feed(item);
      if (run?.run_id === this.runId) status = run.status;
    }
    this.#change({ lastSeq, gaps, status, cursor: items.at(-1)!.cursor });
  }

  #begin(): void {
    this.#text = new TextFold();
    this.#taskFold = new TaskFold();
    this.#tasks = new Map();
    this.#steps = new StepFold();
  }

  #change(change: Partial<RunView>): void {
    Object.assign(this.#next, change);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    const show = () => {
      this.#isScheduled = false;
      this.#view = { ...this.#view, ...this.#next, runs: this.#steps.runs };
      this.#next = {};
      for (const listener of this.#listeners) listener();
    };
    if (globalThis.document?.visibilityState === "visible") requestAnimationFrame(show);
    else setTimeout(show, HIDDEN_MS);
  }

  // --- surviving a reload -----------------------------------------------------------------------

  get #key(): string {
    return `runstream:${this.runId}`;
  }

  #save = (): void => {
    const { cursor, lastSeq, gaps } = { ...this.#view, ...this.#next };
    if (!cursor) return;
    const saved: Saved = {
      cursor,
      lastSeq,
      gaps: [...gaps],
      text: this.#text.save(),
      open: this.#taskFold.save(),
      tasks: [...this.#tasks],
      runs: this.#steps.runs,
    };
    try {
      const text = JSON.stringify(saved);
      if (text.length <= SAVED_LENGTH_MAX) this.storage?.setItem(this.#key, text);
      else this.storage?.removeItem(this.#key);
    } catch {
      // No room, or not allowed here: the next page reads the run from its start.
    }
  };

  #restore(): void {
    try {
      const text = this.storage?.getItem(this.#key);
      if (!text) return;
      const { cursor, lastSeq, gaps, ...folds } = JSON.parse(text) as Saved;
      this.#text = new TextFold(folds.text);
      this.#taskFold = new TaskFold(folds.open);
      this.#tasks = new Map(folds.tasks);
      this.#steps = new StepFold(folds.runs);
      const status = folds.runs.find((run) => run.run_id === this.runId)?.status;
      this.#view = { ...this.#view, cursor, lastSeq, gaps, runs: this.#steps.runs, status };
    } catch {
      // Of another version of this page: begin anew.
      this.storage?.removeItem(this.#key);
    }
  }
}
