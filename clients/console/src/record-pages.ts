/** Where the list gets its rows: the live end from memory, the rest in pages from the log. */

import { useEffect, useReducer, useRef, useState } from "react";
import type { ConnectionState, RunstreamError, StreamRecord } from "../../typescript/src/index.js";
import { type RunModel, asError } from "./run-model.js";
import { streams } from "./session.js";

const PAGE = 200;
/** Pages kept: what a person scrolls back and forth in. */
const PAGES_MAX = 100;
/** Found records that are shown at first; a click asks for four times as many. */
const FOUND = 500;
const FOUND_MAX = 10_000;
/** A page that could not be had is asked for again after this. */
const RETRY_MS = 2000;

export interface RecordFilter {
  kinds?: string[];
  topics?: string[];
  steps?: string[];
  correlationIds?: string[];
}

export interface Rows {
  count: number;
  /** Undefined: not here yet. */
  at: (row: number) => StreamRecord | undefined;
  /** Where a record stands; a page of found ones does not say. */
  rowOf: (seq: number) => number | undefined;
  /** Called with what is in view. */
  load: (from: number, to: number) => void;
  error: RunstreamError | undefined;
  /** There is more before the first row. */
  more: (() => void) | undefined;
}

/** A page that is here holds what there was up to `upTo`; what is missing in it is gone. */
type Page = { records: StreamRecord[]; upTo: number } | "asked";

/** All records: row `n` is the record `first + n`, because seqs have no holes. */
export function useAllRecords(model: RunModel): Rows {
  const pages = useRef(new Map<number, Page>());
  const [, changed] = useReducer((version: number) => version + 1, 0);
  const [error, setError] = useState<RunstreamError | undefined>();
  const first = model.info?.first_seq ?? 1;
  const last = model.replay ? model.replay.folds.lastSeq : model.newestSeq;
  const { recent } = model;

  const at = (row: number): StreamRecord | undefined => {
    const seq = first + row;
    const from = recent[0]?.seq ?? Infinity;
    const near = seq >= from ? recent[seq - from] : undefined;
    if (near?.seq === seq) return near;
    const page = pages.current.get(Math.floor((seq - 1) / PAGE));
    return page && page !== "asked" ? page.records[(seq - 1) % PAGE] : undefined;
  };

  const load = (from: number, to: number): void => {
    for (let row = from; row < to; row++) {
      const seq = first + row;
      const number = Math.floor((seq - 1) / PAGE);
      const page = pages.current.get(number);
      if (at(row) || page === "asked" || (page && page.upTo >= seq)) continue;
      pages.current.set(number, "asked");
      const upTo = Math.min((number + 1) * PAGE, last);
      fetchPage(model.runId, number, Math.max(first, number * PAGE + 1), upTo).then(
        (records) => {
          pages.current.set(number, { records, upTo });
          if (pages.current.size > PAGES_MAX) pages.current.delete(pages.current.keys().next().value!);
          setError(undefined);
          changed();
        },
        (problem: unknown) => {
          setError(asError(problem));
          setTimeout(() => (pages.current.delete(number), changed()), RETRY_MS);
        },
      );
    }
  };
  return { count: Math.max(last - first + 1, 0), at, rowOf: (seq) => Math.max(seq - first, 0), load, error, more: undefined };
}

/** One page, its records at their places even if the first ones are gone. (An answer may hold fewer than were asked for.) */
async function fetchPage(runId: string, number: number, fromSeq: number, upTo: number): Promise<StreamRecord[]> {
  const found: StreamRecord[] = [];
  let position: { fromSeq: number } | { after: string } = { fromSeq };
  for (let seq = fromSeq; seq <= upTo; ) {
    const { records, cursor, ended } = await streams.page(runId, { ...position, limit: upTo - seq + 1 });
    for (const record of records) found[record.seq - 1 - number * PAGE] = record;
    if (records.length === 0 || ended) break;
    seq = records.at(-1)!.seq + 1;
    position = { after: cursor };
  }
  return found;
}

/** The records of a filter, the newest ones first asked for, then what comes. */
export function useFoundRecords(runId: string, filter: RecordFilter): Rows {
  const [found, setFound] = useState<StreamRecord[]>([]);
  const [last, setLast] = useState(FOUND);
  const [error, setError] = useState<RunstreamError | undefined>();
  const key = JSON.stringify(filter);

  useEffect(() => {
    const leave = new AbortController();
    const { signal } = leave;
    let all: StreamRecord[] = [];
    let frame = 0;
    const show = () => {
      frame = 0;
      setFound((all = all.slice(-FOUND_MAX)));
    };
    const follow = async () => {
      // (It reconnects by itself; what it says meanwhile is told.)
      const onState = (_state: ConnectionState, problem?: RunstreamError) => setError(problem);
      for await (const items of streams.pages(runId, { ...filter, last, signal, onState })) {
        for (const item of items) if ("seq" in item) all.push(item);
        frame ||= requestAnimationFrame(show);
      }
    };
    setFound([]);
    follow().catch((problem: unknown) => signal.aborted || setError(asError(problem)));
    return () => {
      leave.abort();
      cancelAnimationFrame(frame);
    };
  }, [runId, key, last]);

  const more = found.length >= last && last < FOUND_MAX ? () => setLast(Math.min(last * 4, FOUND_MAX)) : undefined;
  return { count: found.length, at: (row) => found[row], rowOf: () => undefined, load: () => {}, error, more };
}
