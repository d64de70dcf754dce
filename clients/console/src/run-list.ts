/** The runs of the list: the newest ones looked at again and again, older ones when they are asked for. */

import { useCallback, useEffect, useRef, useState } from "react";
import type { ListOptions, RunInfo, RunstreamError } from "../../typescript/src/index.js";
import { asError } from "./run-model.js";
import { streams } from "./session.js";

const PAGE = 100;
/** A search goes through this many runs; a larger server is asked by workflow and status. */
const SEARCHED_MAX = 20_000;
const SEARCH_PAGE = 1000;
/** What one page of the API holds. */
const LOOKED_AT_MAX = 1000;
/** The list has no stream of its own; a look every other second costs one small page. */
const LOOK_MS = 2000;

export type RunFilter = Pick<ListOptions, "status" | "workflow">;

export interface RunList {
  runs: RunInfo[] | undefined;
  error: RunstreamError | undefined;
  hasOlder: boolean;
  isSearching: boolean;
  load: () => Promise<void>;
  loadOlder: () => Promise<void>;
}

/** Newest first. With `search` all runs that the server has are gone through, page by page. */
export function useRunList(filter: RunFilter, search: boolean): RunList {
  const [newest, setNewest] = useState<RunInfo[] | undefined>();
  const [older, setOlder] = useState<RunInfo[]>([]);
  const [error, setError] = useState<RunstreamError | undefined>();
  const [isSearching, setIsSearching] = useState(false);
  const next = useRef<string | null | undefined>(undefined);
  const limit = useRef(PAGE);
  const key = JSON.stringify(filter);
  const present = useRef(key);
  present.current = key;

  const load = useCallback(async () => {
    try {
      const page = await streams.listRuns({ ...(JSON.parse(key) as RunFilter), limit: limit.current });
      if (present.current !== key) return;
      setNewest(page.runs);
      // (The way to older runs begins where the first look ended: runs that come do not move it.)
      if (next.current === undefined) next.current = page.next;
      setError(undefined);
    } catch (problem) {
      if (present.current === key) setError(asError(problem));
    }
  }, [key]);

  const loadOlder = useCallback(
    async (size = PAGE) => {
      try {
        if (!next.current) return;
        const page = await streams.listRuns({ ...(JSON.parse(key) as RunFilter), limit: size, before: next.current });
        if (present.current !== key) return;
        next.current = page.next;
        // What is shown is looked at anew as far as one page goes; what is beyond stays as it was found.
        limit.current = Math.min(limit.current + page.runs.length, LOOKED_AT_MAX);
        setOlder((known) => [...known, ...page.runs]);
      } catch (problem) {
        if (present.current !== key) return;
        next.current = null;
        setError(asError(problem));
      }
    },
    [key],
  );

  useEffect(() => {
    setNewest(undefined);
    setOlder([]);
    next.current = undefined;
    limit.current = PAGE;
    void load();
    const timer = setInterval(() => document.visibilityState === "visible" && void load(), LOOK_MS);
    return () => clearInterval(timer);
  }, [load]);

  const isLoaded = newest !== undefined;
  useEffect(() => {
    if (!search || !isLoaded) return;
    let isWanted = true;
    const walk = async () => {
      setIsSearching(true);
      for (let seen = PAGE; isWanted && next.current && seen < SEARCHED_MAX; seen += SEARCH_PAGE) await loadOlder(SEARCH_PAGE);
      setIsSearching(false);
    };
    void walk();
    return () => void (isWanted = false);
  }, [search, isLoaded, loadOlder]);

  return { runs: newest && merged(newest, older), error, hasOlder: Boolean(next.current), isSearching, load, loadOlder: () => loadOlder() };
}

/** The new look, and behind it what only an older one has. */
function merged(newest: RunInfo[], older: RunInfo[]): RunInfo[] {
  const known = new Set(newest.map((run) => run.run_id));
  const last = newest.at(-1)?.created ?? "";
  return [...newest, ...older.filter((run) => !known.has(run.run_id) && run.created <= last)];
}
