/** Where the list gets its rows: the live end from memory, the rest in pages from the log. */

import { useEffect, useReducer, useRef, useState } from "react";
import type { RunstreamError, StreamRecord } from "../../typescript/src/index.js";
import { type RunModel, asError } from "./run-model.js";
import { streams } from "./session.js";

const PAGE = 200;
/** Pages kept: what a person scrolls back and forth in. */
const PAGES_MAX = 100;
/** Found records that are shown at first; a click asks for four times as many. */
const FOUND = 500;
const FOUND_MAX = 10_000;
/** A search waits for more this long (seconds), then asks again. */
const WAIT = 20;

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

/** All records: row `n` is the record `first + n`, because seqs have no holes. */
export function useAllRecords(model: RunModel): Rows {
  const pages = useRef(new Map<number, StreamRecord[] | "asked">());
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
    return page && page !== "asked" ? page[(seq - 1) % PAGE] : undefined;
  };

  const load = (from: number, to: number): void => {
    for (let row = from; row < to; row++) {
      const number = Math.floor((first + row - 1) / PAGE);
      if (at(row) || pages.current.get(number) === "asked") continue;
      pages.current.set(number, "asked");
      void fetchPage(model.runId, number, Math.max(first, number * PAGE + 1))
        .then((page) => {
          pages.current.set(number, page);
          if (pages.current.size > PAGES_MAX) pages.current.delete(pages.current.keys().next().value!);
        })
        .catch((problem: unknown) => {
          pages.current.delete(number);
          setError(asError(problem));
        })
        .finally(changed);
    }
  };
  return { count: Math.max(last - first + 1, 0), at, rowOf: (seq) => Math.max(seq - first, 0), load, error, more: undefined };
}

/** One page, its records at their places even if the first ones are gone. */
async function fetchPage(runId: string, number: number, fromSeq: number): Promise<StreamRecord[]> {
  const { records } = await streams.page(runId, { fromSeq, limit: PAGE - ((fromSeq - 1) % PAGE) });
  const page: StreamRecord[] = [];
  for (const record of records) page[record.seq - 1 - number * PAGE] = record;
  return page;
}

/** The records of a filter, the newest ones first asked for, then what comes. */
export function useFoundRecords(runId: string, filter: RecordFilter): Rows {
  const [found, setFound] = useState<StreamRecord[]>([]);
  const [last, setLast] = useState(FOUND);
  const [error, setError] = useState<RunstreamError | undefined>();
  const key = JSON.stringify(filter);

  useEffect(() => {
    const leave = new AbortController();
    const follow = async () => {
      let position: { after: string } | { last: number } = { last };
      let all: StreamRecord[] = [];
      while (!leave.signal.aborted) {
        const wait = "after" in position ? WAIT : 0;
        const page = await streams.page(runId, { ...filter, ...position, limit: 1000, wait, signal: leave.signal });
        all = [...all, ...page.records].slice(-FOUND_MAX);
        setFound(all);
        setError(undefined);
        if (page.ended) return;
        position = { after: page.cursor };
      }
    };
    setFound([]);
    follow().catch((problem: unknown) => leave.signal.aborted || setError(asError(problem)));
    return () => leave.abort();
  }, [runId, key, last]);

  const more = found.length >= last && last < FOUND_MAX ? () => setLast(Math.min(last * 4, FOUND_MAX)) : undefined;
  return { count: found.length, at: (row) => found[row], rowOf: () => undefined, load: () => {}, error, more };
}
