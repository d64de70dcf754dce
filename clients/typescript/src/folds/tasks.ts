/** The state of a run's tasks, from their records: snapshots, and JSON Patch deltas between them. */

import type { Item, StreamRecord } from "../record.js";
import { applyPatch, type Json } from "./patch.js";

export type TaskStatus = "running" | "completed" | "failed" | "cancelled";

/** A task as it was after `record`. Treat `state` as read-only: later states share its parts. */
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

/** A task that never ended (its process died) must not stay for ever in a fold that runs for ever. */
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

  /** The task that the record changed, as it is now; null if it is no task's, or its state is not known. */
  feed(item: Item): TaskState | null {
    if (!item.kind.startsWith("task.")) return null;
    const record = item as StreamRecord;
    const data = (typeof record.data === "object" && record.data) || {};
    const { task_id: id, version, patch, state, parent_task_id, error } = data as { [name: string]: any };
    if (typeof id !== "string" || typeof version !== "number") return null;
    const key = `${record.run_id} ${id}`;
    const before = this.#open.get(key);
    this.#open.delete(key);
    let task: TaskState | null;
    const status = STATUS[record.kind];
    if (status && Object.hasOwn(data, "state")) {
      const type = record.topic ?? "";
      task = { id, type, status, state, version, record, parent_task_id: parent_task_id ?? null, error: error ?? null };
    } else if (!before) {
      return null;
    } else if (version <= before.version) {
      this.#open.set(key, before); // a repeat
      return null;
    } else {
      task = changed(before, record, version, patch);
    }
    if (task?.status === "running") {
      this.#open.set(key, task);
      if (this.#open.size > OPEN_TASKS_MAX) this.#open.delete(this.#open.keys().next().value!);
    }
    return task;
  }
}

function changed(before: TaskState, record: StreamRecord, version: number, patch: unknown): TaskState | null {
  if (record.kind !== "task.progress" || version !== before.version + 1) return null;
  try {
    return { ...before, state: applyPatch(before.state, patch), version, record };
  } catch {
    return null; // it is shown again from its next full state on
  }
}
