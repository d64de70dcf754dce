/** The state of a run's tasks, from their records: snapshots, and JSON Patch deltas between them. */

import { isTerminal, type Item, type StreamRecord } from "../record.js";
import { applyPatch, type Json } from "./patch.js";

export type TaskStatus = "running" | "completed" | "failed" | "cancelled" | "lost";

/** A task as it was after `record`, the newest of its own; a `lost` one was open when its run ended. Treat `state` as read-only: later states share its parts. */
export interface TaskState<State = Json> {
  id: string;
  type: string;
  status: TaskStatus;
  state: State;
  version: number;
  record: StreamRecord;
  parent_task_id: string | null;
  error: { type: string; message: string } | null;
}

const STATUS: { [kind: string]: TaskStatus } = {
  "task.started": "running",
  "task.snapshot": "running",
  "task.completed": "completed",
  "task.failed": "failed",
  "task.cancelled": "cancelled",
};

/** More than a reader looks at. Those of a run that never ends must not pile up in whoever follows it. */
const OPEN_TASKS_MAX = 10_000;

/**
 * Feed it the run's records in order. It starts at the first full state that it sees, and again after a
 * hole in the versions: a state is right, or it is not shown.
 */
export class TaskFold {
  #open: Map<string, TaskState>;

  /** Goes on from what `save` gave. */
  constructor(saved: [string, TaskState][] = []) {
    this.#open = new Map(saved);
  }

  /** The tasks that still run, as JSON can hold them. */
  save(): [string, TaskState][] {
    return [...this.#open];
  }

  /**
   * The tasks that the record changed, as they are now: none if it is no task's, or its state is not known;
   * several at most where it ends their run, behind which nothing of it comes.
   */
  feed(item: Item): TaskState[] {
    if (isTerminal(item)) return this.#lose(item.run_id);
    if (!item.kind.startsWith("task.")) return [];
    const record = item as StreamRecord<any>;
    const { task_id: id, version, patch, state, parent_task_id = null, error = null } = record.data ?? {};
    if (typeof id !== "string" || typeof version !== "number") return [];
    const key = `${record.run_id} ${id}`;
    const before = this.#open.get(key);
    const status = state !== undefined && STATUS[record.kind];
    if (!status && before && version <= before.version) return []; // a repeat
    this.#open.delete(key);
    const task = status
      ? { id, type: record.topic ?? "", status, state, version, record, parent_task_id, error }
      : before && changed(before, record, version, patch);
    if (task?.status === "running") {
      this.#open.set(key, task);
      if (this.#open.size > OPEN_TASKS_MAX) this.#open.delete(this.#open.keys().next().value!);
    }
    return task ? [task] : [];
  }

  #lose(runId: string): TaskState[] {
    const open = [...this.#open].filter(([key, { record }]) => record.run_id === runId && this.#open.delete(key));
    return open.map(([, task]) => ({ ...task, status: "lost" }));
  }
}

function changed(before: TaskState, record: StreamRecord, version: number, patch: unknown): TaskState | undefined {
  if (record.kind !== "task.progress" || version !== before.version + 1) return;
  try {
    return { ...before, state: applyPatch(before.state, patch), version, record };
  } catch {
    return; // it is shown again from its next full state on
  }
}
