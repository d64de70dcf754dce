/** Everything that a page shows of a run, folded from its records in order. */

import { type Gap, isGap, isTerminal, type Item, StepFold, type StreamRecord, TaskFold, type TaskState, TextFold } from "../../typescript/src/index.js";

/** Records per second of the producers' clocks, for the chart. */
const SECONDS_MAX = 7200;
/** A question that a run has put to a person. */
export interface Question {
  record: StreamRecord<{ prefix?: string; [name: string]: unknown }>;
  answered: boolean;
}

interface SavedFolds {
  text: ReturnType<TextFold["save"]>;
  open: ReturnType<TaskFold["save"]>;
  tasks: [string, TaskState][];
  runs: StepFold["runs"];
  rest: Pick<Folds, "lastSeq" | "cursor" | "gaps" | "questions" | "kinds" | "seconds" | "dropped" | "firstTime" | "lastTime" | "begin" | "end" | "cancelAsked">;
}

export class Folds {
  text: TextFold;
  steps: StepFold;
  tasks: Map<string, TaskState>;
  lastSeq = 0;
  cursor: string | undefined;
  gaps: Gap[] = [];
  questions: Question[] = [];
  /** How many records of each kind. */
  kinds: Map<string, number> = new Map();
  /** How many records in each second (s since 1970). */
  seconds: Map<number, number> = new Map();
  /** Records that producers had to drop. */
  dropped = 0;
  firstTime = "";
  lastTime = "";
  /** How the run began and ended: its input, its result or its error. */
  begin: StreamRecord | undefined;
  end: StreamRecord | undefined;
  /** Somebody has asked the run to stop. */
  cancelAsked: StreamRecord | undefined;
  #taskFold: TaskFold;

  constructor(
    readonly runId: string,
    given?: SavedFolds,
  ) {
    const saved = given && copied(given);
    this.text = new TextFold(saved?.text);
    this.steps = new StepFold(saved?.runs);
    this.#taskFold = new TaskFold(saved?.open);
    this.tasks = new Map(saved?.tasks);
    Object.assign(this, saved?.rest);
  }

  /** A copy that later records do not change. */
  save(): SavedFolds {
    const { lastSeq, cursor, gaps, questions, kinds, seconds, dropped, firstTime, lastTime, begin, end, cancelAsked } = this;
    const rest = { lastSeq, cursor, gaps, questions, kinds, seconds, dropped, firstTime, lastTime, begin, end, cancelAsked };
    return copied({ text: this.text.save(), open: this.#taskFold.save(), tasks: [...this.tasks], runs: this.steps.runs, rest });
  }

  feed(item: Item): void {
    this.cursor = item.cursor;
    if (isGap(item)) {
      this.gaps.push(item);
      // What was folded is of a stream that is no more.
      if (item.data.reason === "generation_changed") this.#begin();
      return;
    }
    this.lastSeq = item.seq;
    this.kinds.set(item.kind, (this.kinds.get(item.kind) ?? 0) + 1);
    this.#count(item.time);
    this.text.feed(item);
    this.steps.feed(item);
    for (const task of this.#taskFold.feed(item)) this.tasks.set(`${task.record.run_id} ${task.id}`, task);
    if (item.run_id === this.runId) this.#feedRun(item);
    if (item.kind === "stream.dropped") this.#drop((item.data as { count?: unknown } | null)?.count);
    if (isQuestion(item)) this.questions.push({ record: item, answered: false });
    if (item.kind === "run.signal") this.#answer(item as StreamRecord<any>);
  }

  #begin(): void {
    const { gaps, cursor } = this;
    Object.assign(this, new Folds(this.runId), { gaps, cursor });
    this.#taskFold = new TaskFold();
  }

  #feedRun(record: StreamRecord): void {
    if (record.kind === "run.started") this.begin ??= record;
    else if (record.kind === "run.cancel_requested") this.cancelAsked = record;
    else if (isTerminal(record)) this.end = record;
  }

  #drop(count: unknown): void {
    if (typeof count === "number") this.dropped += count;
  }

  #count(time: string): void {
    this.firstTime ||= time;
    this.lastTime = time;
    const second = Math.floor(Date.parse(time) / 1000);
    if (Number.isNaN(second)) return;
    this.seconds.set(second, (this.seconds.get(second) ?? 0) + 1);
    if (this.seconds.size > SECONDS_MAX) this.seconds.delete(this.seconds.keys().next().value!);
  }

  #answer(signal: StreamRecord<{ type?: string; event?: { [name: string]: unknown } }>): void {
    const { type, event: given } = signal.data ?? {};
    if (typeof type !== "string" || !type.endsWith("ResponseEvent")) return;
    const event = given ?? {};
    const open = this.questions.filter((question) => !question.answered && question.record.run_id === signal.run_id);
    // What else a question says is said back by its answer.
    const meant = open.find(({ record }) => Object.entries(record.data).every(([name, value]) => name === "prefix" || JSON.stringify(event[name]) === JSON.stringify(value)));
    const question = meant ?? open[0];
    if (question) question.answered = true;
  }
}

/** What the folds change in place is copied; text, records and the states of tasks are shared, so that a copy is cheap. */
function copied({ text, open, tasks, runs, rest }: SavedFolds): SavedFolds {
  return {
    text: text.map(([name, pieces]) => [name, pieces.map((piece) => ({ ...piece }))]),
    open: [...open],
    tasks: [...tasks],
    runs: runs.map((run) => ({ ...run, steps: run.steps.map((step) => ({ ...step, attempts: step.attempts.map((attempt) => ({ ...attempt })) })) })),
    rest: {
      ...rest,
      gaps: [...rest.gaps],
      questions: rest.questions.map((question) => ({ ...question })),
      kinds: new Map(rest.kinds),
      seconds: new Map(rest.seconds),
    },
  };
}

function isQuestion(record: StreamRecord): record is Question["record"] {
  return record.kind.endsWith("InputRequiredEvent") && typeof record.data === "object" && record.data !== null;
}
