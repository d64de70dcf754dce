/**
 * React hooks for Runstream: `useRun`, `useText`, `useTask`.
 *
 * All hooks of a page that look at one run share one connection. They survive a reload, strict mode,
 * unmounting and a sleeping tab, and render at most once a frame.
 */

import { createContext, createElement, type ReactNode, useContext, useMemo, useSyncExternalStore } from "react";
import { connect, type Streams } from "../client.js";
import type { TaskState } from "../folds/tasks.js";
import type { ConnectOptions } from "../http.js";
import { RunStore, type RunView } from "./run-store.js";

export type { RunView } from "./run-store.js";

const StreamsContext = createContext<Streams | undefined>(undefined);

/** Says which server the hooks below it read from: `<RunstreamProvider url="…" token={getToken}>`. */
export function RunstreamProvider({ children, streams, ...options }: Partial<ConnectOptions> & { streams?: Streams; children?: ReactNode }) {
  const { url, token } = options;
  // A new function in every render must not make a new connection: only the address counts.
  const made = useMemo(() => streams ?? connect({ url: url ?? location.origin, ...(token !== undefined && { token }) }), [streams, String(url)]);
  return createElement(StreamsContext.Provider, { value: made }, children);
}

/** The streams of the nearest provider, for what the hooks do not do: `publish`, `startRun`, `handler(id)`. */
export function useStreams(): Streams {
  const streams = useContext(StreamsContext);
  if (!streams) throw new Error("wrap the component in <RunstreamProvider url=…>");
  return streams;
}

const storesOf = new WeakMap<Streams, Map<string, RunStore>>();

function useStore(runId: string): RunStore {
  const streams = useStreams();
  let stores = storesOf.get(streams);
  if (!stores) storesOf.set(streams, (stores = new Map()));
  let store = stores.get(runId);
  if (!store) {
    const known = stores;
    store = new RunStore(streams, runId, () => known.delete(runId));
    stores.set(runId, store);
  }
  return store;
}

/** A run: its status, its steps, the position and the state of the connection. */
export function useRun(runId: string): RunView {
  const store = useStore(runId);
  return useSyncExternalStore(store.subscribe, store.view, store.view);
}

/** The text of a run's tokens, as it grows; what failed attempts wrote is taken back. */
export function useText(runId: string, { correlationId = "" }: { correlationId?: string } = {}): string {
  const store = useStore(runId);
  const text = () => store.text(correlationId);
  return useSyncExternalStore(store.subscribe, text, text);
}

/** The newest task of a topic, as it is now. Treat its state as read-only. */
export function useTask<State = unknown>(runId: string, topic: string): TaskState<State> | undefined {
  const store = useStore(runId);
  const task = () => store.task(topic) as TaskState<State> | undefined;
  return useSyncExternalStore(store.subscribe, task, task);
}
