/** The run's steps as bars: parallel work, attempts, what failed struck out, and what it waits for. */

import { useState } from "react";
import type { AttemptState, RunState, StepState } from "../../typescript/src/index.js";
import type { RunModel } from "./run-model.js";
import { Status } from "./status.js";
import { inert } from "./inert.js";
import { clock, span } from "./time.js";

/** More rows than a person reads; the records hold them all. */
const STEPS_MAX = 2000;

type Scale = (attempt: AttemptState) => { left: number; width: number };

export function Timeline({ model }: { model: RunModel }) {
  const [by, setBy] = useState<"time" | "seq">("time");
  const { steps, lastTime, lastSeq } = model.shown;
  const runs = steps.runs;
  const all = runs.flatMap((run) => run.steps.flatMap((step) => step.attempts));
  if (all.length === 0) return <p className="empty">No step has begun{runs.length > 0 ? "" : ", or this run has none: look at its records"}.</p>;
  const isLive = !model.replay && model.state === "open";
  const scale = by === "time" ? timeScale(all, isLive ? new Date().toISOString() : lastTime) : seqScale(all, lastSeq);
  return (
    <div className="timeline">
      <fieldset className="choice">
        <legend>Scale</legend>
        {(["time", "seq"] as const).map((one) => (
          <label key={one}><input type="radio" name="scale" checked={by === one} onChange={() => setBy(one)} /> {one === "time" ? "time" : "records"}</label>
        ))}
      </fieldset>
      {runs.map((run) => <Lane key={run.run_id} run={run} scale={scale} model={model} />)}
    </div>
  );
}

function Lane({ run, scale, model }: { run: RunState; scale: Scale; model: RunModel }) {
  const questions = model.shown.questions.filter((question) => !question.answered && question.record.run_id === run.run_id);
  if (run.steps.length === 0 && run.run_id === model.runId) return null;
  return (
    <section aria-label={`Steps of ${run.run_id}`}>
      {run.run_id !== model.runId && <h3>{inert(run.workflow) || "run"} <code>{run.run_id}</code> <Status status={run.status} /></h3>}
      <ol className="steps">
        {run.steps.slice(0, STEPS_MAX).map((step) => (
          <StepRow key={step.step_run_id} step={step} scale={scale} isWaiting={questions.some((question) => question.record.step_run_id === step.step_run_id)} />
        ))}
      </ol>
      {run.steps.length > STEPS_MAX && <p className="note">{run.steps.length - STEPS_MAX} more steps are not drawn.</p>}
    </section>
  );
}

function StepRow({ step, scale, isWaiting }: { step: StepState; scale: Scale; isWaiting: boolean }) {
  const tries = step.attempts.length > 1 ? `, ${step.attempts.length} attempts` : "";
  return (
    <li aria-label={`${step.step}: ${isWaiting ? "waits for an answer" : step.status}${tries}`}>
      <span className="step-name" title={step.step_run_id}><bdi>{inert(step.step)}</bdi>{step.attempts.length > 1 && <small> ×{step.attempts.length}</small>}</span>
      <span className="track">
        {step.attempts.map((attempt) => <Bar key={attempt.attempt} attempt={attempt} scale={scale} isWaiting={isWaiting} isDiscarded={attempt.status === "failed" && step.attempts.at(-1) !== attempt} />)}
      </span>
      <span className="step-status">{isWaiting ? <Status status="waiting" /> : <Status status={step.status} />}</span>
    </li>
  );
}

function Bar({ attempt, scale, isWaiting, isDiscarded }: { attempt: AttemptState; scale: Scale; isWaiting: boolean; isDiscarded: boolean }) {
  const { left, width } = scale(attempt);
  const took = attempt.ended ? span(Math.max(Date.parse(attempt.ended) - Date.parse(attempt.started), 0)) : "";
  const error = attempt.error ? `\n${attempt.error.type}: ${attempt.error.message}` : "";
  const about = `attempt ${attempt.attempt}: ${attempt.status} ${took}\nfrom ${clock(attempt.started)}, records ${attempt.first_seq} to ${attempt.last_seq ?? "…"}${error}`;
  return (
    <span className={`attempt ${isWaiting ? "waiting" : attempt.status}${isDiscarded ? " discarded" : ""}`} style={{ left: `${left}%`, width: `max(3px, ${width}%)` }} title={inert(about)}>
      {isDiscarded ? <del>{took}</del> : took}
    </span>
  );
}

function timeScale(all: AttemptState[], now: string): Scale {
  // (The clocks of two producers may disagree: nothing is drawn outside, or backwards.)
  let first = Infinity;
  let last = Date.parse(now) || 0;
  for (const { started, ended } of all) {
    first = Math.min(first, Date.parse(started));
    last = Math.max(last, Date.parse(ended ?? started));
  }
  const range = Math.max(last - first, 1);
  return ({ started, ended }) => {
    const left = Math.max(Date.parse(started) - first, 0);
    const right = Math.max(ended ? Date.parse(ended) - first : range, left);
    return { left: (100 * left) / range, width: (100 * (right - left)) / range };
  };
}

function seqScale(all: AttemptState[], newest: number): Scale {
  const first = all.reduce((least, { first_seq }) => Math.min(least, first_seq), Infinity);
  const range = Math.max(newest - first, 1);
  return ({ first_seq, last_seq }) => ({
    left: (100 * (first_seq - first)) / range,
    width: (100 * ((last_seq ?? newest) - first_seq)) / range,
  });
}
