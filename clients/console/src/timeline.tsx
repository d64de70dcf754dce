/** The run's steps as bars: parallel work, attempts, what failed struck out, and what it waits for. */

import { useState } from "react";
import type { AttemptState, RunState, StepState } from "../../typescript/src/index.js";
import type { RunModel } from "./run-model.js";
import { serverNow } from "./session.js";
import { Status } from "./status.js";
import { clip, errorText, inert } from "./inert.js";
import { recordHref } from "./place.js";
import { clock, count, span } from "./time.js";

/** More rows than a person reads; the records hold them all. */
const STEPS_MAX = 2000;
const ERROR_MAX = 2000;
/** Marks on the scale: few enough for a phone. */
const MARKS = [0, 0.25, 0.5, 0.75, 1];

interface Scale {
  place: (attempt: AttemptState) => { left: number; width: number };
  /** What stands at a share of the scale. */
  mark: (share: number) => string;
}

export function Timeline({ model }: { model: RunModel }) {
  const [by, setBy] = useState<"time" | "seq">("time");
  const { steps, lastTime, lastSeq } = model.shown;
  const runs = steps.runs;
  const all = runs.flatMap((run) => run.steps.flatMap((step) => step.attempts));
  if (all.length === 0) return <p className="empty">No step has begun{runs.length > 0 ? "" : ", or this run has none: look at its records"}.</p>;
  const isLive = !model.replay && model.state === "open";
  const scale = by === "time" ? timeScale(all, isLive ? new Date(serverNow()).toISOString() : lastTime) : seqScale(all, lastSeq);
  return (
    <div className="timeline">
      <fieldset className="choice">
        <legend>Scale</legend>
        {(["time", "seq"] as const).map((one) => (
          <label key={one}><input type="radio" name="scale" checked={by === one} onChange={() => setBy(one)} /> {one === "time" ? "time" : "records"}</label>
        ))}
      </fieldset>
      <div className="axis" aria-hidden="true">
        <span />
        <span className="marks">{MARKS.map((share) => <span key={share} style={{ left: `${100 * share}%` }}>{scale.mark(share)}</span>)}</span>
        <span />
      </div>
      {runs.map((run) => <Lane key={run.run_id} run={run} scale={scale} model={model} />)}
    </div>
  );
}

function Lane({ run, scale, model }: { run: RunState; scale: Scale; model: RunModel }) {
  const questions = model.shown.questions.filter((question) => !question.answered && question.record.run_id === run.run_id);
  if (run.steps.length === 0 && run.run_id === model.runId) return null;
  return (
    <section aria-label={`Steps of ${run.run_id}`}>
      {run.run_id !== model.runId && <h2>{inert(run.workflow) || "run"} <code>{run.run_id}</code> <Status status={run.status} /></h2>}
      <ol className="steps">
        {run.steps.slice(0, STEPS_MAX).map((step) => (
          <StepRow key={step.step_run_id} step={step} scale={scale} runId={model.runId} isWaiting={questions.some((question) => question.record.step_run_id === step.step_run_id)} />
        ))}
      </ol>
      {run.steps.length > STEPS_MAX && <p className="note">{count(run.steps.length - STEPS_MAX)} more steps are not drawn.</p>}
    </section>
  );
}

interface StepRowProps {
  step: StepState;
  scale: Scale;
  runId: string;
  isWaiting: boolean;
}

function StepRow({ step, scale, runId, isWaiting }: StepRowProps) {
  const [isOpen, setIsOpen] = useState(false);
  const last = step.attempts.at(-1);
  const tries = step.attempts.length > 1 ? `, ${step.attempts.length} attempts` : "";
  const name = inert(step.step);
  return (
    <li aria-label={`${name}: ${isWaiting ? "waits for an answer" : step.status}${tries}`}>
      <div className="step">
        <button type="button" className="step-name" aria-expanded={isOpen} title={step.step_run_id} onClick={() => setIsOpen(!isOpen)}>
          <bdi>{name}</bdi>{step.attempts.length > 1 && <small> ×{step.attempts.length}</small>}
        </button>
        <span className="track">
          {step.attempts.map((attempt) => <Bar key={attempt.attempt} attempt={attempt} scale={scale} isWaiting={isWaiting && attempt === last} isDiscarded={isDiscarded(attempt, last)} />)}
        </span>
        <span className="step-status">{isWaiting ? <Status status="waiting" /> : <Status status={step.status} />}</span>
      </div>
      {!isOpen && last?.error && <p className="step-error bad">{clip(errorText(last.error), 200)}</p>}
      {isOpen && <Attempts step={step} runId={runId} />}
    </li>
  );
}

const isDiscarded = (attempt: AttemptState, last: AttemptState | undefined): boolean => attempt.status === "failed" && attempt !== last;

function Bar({ attempt, scale, isWaiting, isDiscarded }: { attempt: AttemptState; scale: Scale; isWaiting: boolean; isDiscarded: boolean }) {
  const { left, width } = scale.place(attempt);
  const took = isWaiting ? "waits" : tookOf(attempt);
  return (
    <span className={`attempt ${isWaiting ? "waiting" : attempt.status}${isDiscarded ? " discarded" : ""}`} style={{ left: `min(${left}%, 100% - 8px)`, width: `max(3px, ${width}%)` }} title={aboutOf(attempt)}>
      <span>{isDiscarded ? <del>{took}</del> : took}</span>
    </span>
  );
}

const tookOf = (attempt: AttemptState): string => (attempt.ended ? span(Math.max(Date.parse(attempt.ended) - Date.parse(attempt.started), 0)) : "");

function aboutOf(attempt: AttemptState): string {
  const error = attempt.error ? `\n${clip(errorText(attempt.error), 200)}` : "";
  return `attempt ${attempt.attempt}: ${attempt.status} ${tookOf(attempt)}\nfrom ${clock(attempt.started)}, records ${attempt.first_seq} to ${attempt.last_seq ?? "…"}${error}`;
}

/** What the bars say, in words: for keyboards, screen readers and fingers. */
function Attempts({ step, runId }: { step: StepState; runId: string }) {
  return (
    <ul className="attempts">
      {step.attempts.map((attempt) => (
        <li key={attempt.attempt}>
          Attempt {attempt.attempt} <Status status={attempt.status} /> {tookOf(attempt) && `after ${tookOf(attempt)}, `}from {clock(attempt.started)},{" "}
          <a href={recordHref(runId, attempt.first_seq)}>records {count(attempt.first_seq)} to {attempt.last_seq === null ? "…" : count(attempt.last_seq)}</a>
          {attempt.error && <pre className="bad">{clip(errorText(attempt.error), ERROR_MAX)}</pre>}
        </li>
      ))}
    </ul>
  );
}

function timeScale(all: AttemptState[], now: string): Scale {
  // (The clocks of two producers may disagree: nothing is drawn outside, or backwards.)
  let first = Infinity;
  let last = Date.parse(now) || 0;
  for (const { started, ended } of all) {
    first = Math.min(first, Date.parse(started) || Infinity);
    last = Math.max(last, Date.parse(ended ?? started) || 0);
  }
  if (first === Infinity) first = last;
  const range = Math.max(last - first, 1);
  const at = (time: string) => Math.min(Math.max((Date.parse(time) || first) - first, 0), range);
  return {
    place: ({ started, ended }) => {
      const left = at(started);
      const right = Math.max(ended ? at(ended) : range, left);
      return { left: (100 * left) / range, width: (100 * (right - left)) / range };
    },
    mark: (share) => (share === 0 ? clock(new Date(first).toISOString()).slice(0, 8) : `+${span(range * share)}`),
  };
}

function seqScale(all: AttemptState[], newest: number): Scale {
  const first = all.reduce((least, { first_seq }) => Math.min(least, first_seq), Infinity);
  const range = Math.max(newest - first, 1);
  return {
    place: ({ first_seq, last_seq }) => ({
      left: (100 * (first_seq - first)) / range,
      width: (100 * ((last_seq ?? newest) - first_seq)) / range,
    }),
    mark: (share) => count(Math.round(first + range * share)),
  };
}
