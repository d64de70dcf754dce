/** The runs of a stream with their steps and attempts, as a timeline shows them. */

import { END_STATUSES, type Item, type StreamRecord } from "../record.js";

export type RunStatus = "running" | "waiting" | "stalled" | (typeof END_STATUSES)[number];
export type StepStatus = "running" | "retrying" | "completed" | "failed" | "cancelled" | "lost";

/** One attempt. Times are the producer's clock. */
export interface AttemptState {
  attempt: number;
  status: StepStatus;
  first_seq: number;
  started: string;
  last_seq: number | null;
  ended: string | null;
  error: { type: string; message: string } | null;
}

/** One step run: the same through its attempts. */
export interface StepState {
  step_run_id: string;
  step: string;
  status: StepStatus;
  attempts: AttemptState[];
}

/** A run of the stream, its steps in the order in which they began. */
export interface RunState {
  run_id: string;
  workflow: string;
  parent_run_id: string | null;
  status: RunStatus;
  steps: StepState[];
}

const RUN_STATUS: { [kind: string]: RunStatus } = { "run.started": "running", "run.resumed": "running" };
for (const status of ["waiting", "stalled", ...END_STATUSES] as const) RUN_STATUS[`run.${status}`] = status;
/** How an attempt stands after a record; its step stands the same, but for one that is tried again. */
const STEP_STATUS: { [kind: string]: StepStatus } = {
  "step.started": "running",
  "step.retrying": "failed",
  "step.completed": "completed",
  "step.failed": "failed",
  "step.cancelled": "cancelled",
};

/** Feed it the records in order. What it gives is changed in place by later records. */
export class StepFold {
  #runs = new Map<string, RunState>();
  #steps = new Map<string, StepState>();

  /** Goes on from the `runs` of another one. */
  constructor(runs: RunState[] = []) {
    for (const run of runs) {
      this.#runs.set(run.run_id, run);
      for (const step of run.steps) this.#steps.set(`${run.run_id} ${step.step_run_id}`, step);
    }
  }

  /** In the order of their first record. */
  get runs(): RunState[] {
    return [...this.#runs.values()];
  }

  /** The run that the record changed; null if it says nothing of runs and steps. */
  feed(item: Item): RunState | null {
    const record = item as StreamRecord<any>;
    const runStatus = RUN_STATUS[record.kind];
    if (runStatus) return this.#feedRun(record, runStatus);
    const status = STEP_STATUS[record.kind];
    return status && record.step_run_id !== undefined && record.attempt !== undefined
      ? this.#feedStep(record, status)
      : null;
  }

  #run(run_id: string): RunState {
    let run = this.#runs.get(run_id);
    if (!run) {
      run = { run_id, workflow: "", parent_run_id: null, status: "running", steps: [] };
      this.#runs.set(run_id, run);
    }
    return run;
  }

  #feedRun(record: StreamRecord<any>, status: RunStatus): RunState {
    const run = this.#run(record.run_id);
    run.status = status;
    if (record.kind === "run.started") {
      run.workflow = record.data?.workflow ?? "";
      run.parent_run_id = record.data?.parent_run_id ?? null;
    }
    if (status === "lost") {
      for (const step of run.steps) {
        if (step.status !== "running" && step.status !== "retrying") continue;
        step.status = "lost";
        const attempt = step.attempts.at(-1);
        if (attempt?.last_seq === null) end(attempt, record, "lost", null);
      }
    }
    return run;
  }

  #feedStep(record: StreamRecord<any>, status: StepStatus): RunState {
    const run = this.#run(record.run_id);
    const key = `${run.run_id} ${record.step_run_id}`;
    let step = this.#steps.get(key);
    if (!step) {
      step = { step_run_id: record.step_run_id!, step: record.step ?? "", status, attempts: [] };
      this.#steps.set(key, step);
      run.steps.push(step);
    }
    step.status = record.kind === "step.retrying" ? "retrying" : status;
    let attempt = step.attempts.find((known) => known.attempt === record.attempt);
    if (!attempt) {
      attempt = { attempt: record.attempt!, status: "running", first_seq: record.seq, started: record.time, last_seq: null, ended: null, error: null };
      step.attempts.push(attempt);
    }
    if (status !== "running") end(attempt, record, status, record.data?.error ?? null);
    return run;
  }
}

function end(attempt: AttemptState, record: StreamRecord, status: StepStatus, error: AttemptState["error"]): void {
  Object.assign(attempt, { status, error, last_seq: record.seq, ended: record.time });
}
