/** One run, followed: the folds of the live stream, and of a replay beside it. */

import { type ConnectionState, type Item, RunstreamError, type RunInfo, type Streams, type StreamRecord } from "../../typescript/src/index.js";
import { turn } from "../../typescript/src/turn.js";
import { Folds } from "./folds.js";

/** A longer run is folded from near its end at first; a click folds all of it. */
const WHOLE_MAX = 200_000;
const TAIL = 20_000;
/** Between two looks at the server's newest seq, which says how far behind this page is. */
const LOOK_MS = 2000;
/** The page gets the processor back after this time; a frame takes 16 ms. */
const SLICE_MS = 8;
/** Records kept for the live end of the list; older ones are paged from the log. */
const RECENT_MAX = 5000;
/** A replay begins at the nearest copy of the folds; copies are at least this far apart. */
const COPY_EVERY = 25_000;
const COPIES_MAX = 16;

export interface Replay {
  folds: Folds;
  /** Where it is going, or playing from. */
  target: number;
  isPlaying: boolean;
  isSeeking: boolean;
}

export class RunModel {
  info: RunInfo | undefined;
  state: ConnectionState = "connecting";
  error: RunstreamError | undefined;
  folds: Folds;
  /** The first seq that the folds have seen. */
  foldedFrom = 1;
  recent: StreamRecord[] = [];
  replay: Replay | undefined;
  version = 0;

  #listeners = new Set<() => void>();
  #copies: { seq: number; saved: ReturnType<Folds["save"]> }[] = [];
  #leave = new AbortController();
  #seeking = new AbortController();
  #isScheduled = false;
  #look: ReturnType<typeof setInterval> | undefined;

  constructor(
    readonly streams: Streams,
    readonly runId: string,
  ) {
    this.folds = new Folds(runId);
  }

  /** What the views show: the replay if there is one. */
  get shown(): Folds {
    return this.replay?.folds ?? this.folds;
  }

  get newestSeq(): number {
    return Math.max(this.info?.last_seq ?? 0, this.folds.lastSeq);
  }

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  getVersion = (): number => this.version;

  start(): void {
    this.#forget();
    this.#look = setInterval(() => document.visibilityState === "visible" && this.state !== "ended" && void this.#refresh(), LOOK_MS);
    void this.#run(false);
  }

  stop(): void {
    clearInterval(this.#look);
    this.#leave.abort();
    this.#seeking.abort();
  }

  /** Fold the run from its first record on, however long it is. */
  foldWhole(): void {
    this.#forget();
    this.foldedFrom = 1;
    this.#changed({ state: "connecting" });
    void this.#run(true);
  }

  #forget(): void {
    this.#leave.abort();
    this.#leave = new AbortController();
    this.folds = new Folds(this.runId);
    this.recent = [];
    this.#copies = [];
  }

  async #run(whole: boolean): Promise<void> {
    const { signal } = this.#leave;
    try {
      await this.#refresh(true);
      const last = this.info?.last_seq ?? 0;
      this.foldedFrom = whole || last <= WHOLE_MAX ? 1 : last - TAIL;
      const onState = (state: ConnectionState, error?: RunstreamError) => this.#changed({ state, error });
      const pages = this.streams.pages(this.runId, { fromSeq: this.foldedFrom, signal, onState });
      await this.#feedAll(pages, this.folds, signal, (item) => this.#remember(item));
      await this.#refresh();
    } catch (error) {
      if (!signal.aborted) this.#changed({ state: "ended", error: asError(error) });
    }
  }

  #remember(item: Item): boolean {
    if ("seq" in item) {
      this.recent.push(item);
      if (this.recent.length > 2 * RECENT_MAX) this.recent = this.recent.slice(-RECENT_MAX);
      if (item.seq % COPY_EVERY === 0) {
        this.#copies.push({ seq: item.seq, saved: this.folds.save() });
        // Thinned from the middle of history: half as many, twice as far apart.
        if (this.#copies.length > COPIES_MAX) this.#copies = this.#copies.filter((_copy, at) => at % 2 === 1);
      }
    } else if (item.data.reason === "generation_changed") {
      [this.#copies, this.recent, this.foldedFrom] = [[], [], 1];
      void this.#refresh();
    }
    return true;
  }

  /** Feed until `take` says no; gives the page its turn all the time. */
  async #feedAll(pages: AsyncIterable<Item[]>, folds: Folds, signal: AbortSignal, take: (item: Item) => boolean): Promise<void> {
    let since = performance.now();
    for await (const items of pages) {
      for (const item of items) {
        if (signal.aborted) return;
        folds.feed(item);
        if (!take(item)) return this.#changed({});
        if (performance.now() - since > SLICE_MS) {
          await turn();
          since = performance.now();
        }
      }
      this.#changed({});
    }
  }

  // --- replay -----------------------------------------------------------------------------------

  /** Show the run as it was after record `seq`. */
  async seek(seq: number): Promise<void> {
    this.#seeking.abort();
    const { signal } = (this.#seeking = new AbortController());
    if (seq >= this.newestSeq) return this.goLive();
    const from = this.#nearest(seq);
    const replay: Replay = { folds: from, target: seq, isPlaying: false, isSeeking: true };
    this.replay = { ...replay, folds: this.shown };
    this.#changed({});
    if (from.lastSeq < seq) {
      const position = from.cursor ? { after: from.cursor } : { fromSeq: this.foldedFrom };
      const pages = this.streams.pages(this.runId, { ...position, follow: false, signal });
      try {
        await this.#feedAll(pages, from, signal, (item) => !("seq" in item) || item.seq < seq);
      } catch (error) {
        if (!signal.aborted) this.#changed({ error: asError(error) });
      }
    }
    if (signal.aborted) return;
    this.replay = { ...replay, isSeeking: false };
    this.#changed({});
  }

  /** Go on from where the replay is, `speed` times as fast as it happened. */
  async play(speed: number): Promise<void> {
    const replay = this.replay;
    if (!replay) return;
    this.#seeking.abort();
    const { signal } = (this.#seeking = new AbortController());
    this.replay = { ...replay, isPlaying: true };
    this.#changed({});
    let before = Date.parse(replay.folds.lastTime);
    const position = replay.folds.cursor ? { after: replay.folds.cursor } : { fromSeq: this.foldedFrom };
    try {
      for await (const items of this.streams.pages(this.runId, { ...position, signal })) {
        for (const item of items) {
          if ("seq" in item) {
            const now = Date.parse(item.time);
            // (Clocks may disagree, and a run may have slept for a day: nobody waits longer than a second.)
            const pause = Math.min(Math.max((now - before) / speed, 0), 1000) || 0;
            before = now;
            if (pause > 4) await new Promise((resolve) => setTimeout(resolve, pause));
          }
          if (signal.aborted) return;
          replay.folds.feed(item);
          this.replay = { ...this.replay!, target: replay.folds.lastSeq };
          this.#changed({});
        }
        await turn();
      }
      this.goLive();
    } catch (error) {
      if (!signal.aborted) this.#changed({ error: asError(error) });
    }
  }

  pause(): void {
    this.#seeking.abort();
    if (this.replay) this.replay = { ...this.replay, isPlaying: false, isSeeking: false };
    this.#changed({});
  }

  goLive(): void {
    this.#seeking.abort();
    this.replay = undefined;
    this.#changed({});
  }

  #nearest(seq: number): Folds {
    const there = this.replay && !this.replay.isSeeking && this.replay.folds.lastSeq <= seq ? this.replay.folds : undefined;
    const copy = this.#copies.findLast((known) => known.seq <= seq);
    if (there && there.lastSeq >= (copy?.seq ?? 0)) return new Folds(this.runId, there.save());
    return new Folds(this.runId, copy?.saved);
  }

  // --- what is known of the run -----------------------------------------------------------------

  async #refresh(mustWork = false): Promise<void> {
    try {
      this.info = await this.streams.handler(this.runId).info();
      this.#changed({});
    } catch (error) {
      if (mustWork) throw error;
    }
  }

  #changed(change: Partial<Pick<RunModel, "state" | "error">>): void {
    Object.assign(this, change);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    const show = () => {
      this.#isScheduled = false;
      this.version += 1;
      for (const listener of this.#listeners) listener();
    };
    if (document.visibilityState === "visible") requestAnimationFrame(show);
    else setTimeout(show, 500);
  }
}

export const asError = (error: unknown): RunstreamError =>
  error instanceof RunstreamError ? error : new RunstreamError("unreachable", String(error));
