/** One run: its state, and the views of it. */

import { useEffect, useState, useSyncExternalStore } from "react";
import { Trouble } from "./trouble.js";
import { gapText } from "./gap-text.js";
import { InputForms } from "./input-form.js";
import { Outcome } from "./outcome.js";
import { Records } from "./records.js";
import { RunModel, asError } from "./run-model.js";
import { Scrubber } from "./scrubber.js";
import { Status } from "./status.js";
import { serverNow, streams } from "./session.js";
import { TasksView } from "./tasks-view.js";
import { TextView } from "./text-view.js";
import { Throughput } from "./throughput.js";
import { Timeline } from "./timeline.js";
import { go, to, usePlace } from "./place.js";
import { clock, count, day, span } from "./time.js";
import { inert } from "./inert.js";

const TABS = { timeline: "Timeline", records: "Records", text: "Text", tasks: "Tasks", throughput: "Throughput" } as const;
type Tab = keyof typeof TABS;

export function RunView({ runId }: { runId: string }) {
  const [model] = useState(() => new RunModel(streams, runId));
  useEffect(() => {
    document.title = `${runId} · Runstream`;
    model.start();
    return () => model.stop();
  }, [model, runId]);
  useSyncExternalStore(model.subscribe, model.getVersion);

  const { query } = usePlace();
  const asked = query.get("tab") ?? "";
  const tab = Object.hasOwn(TABS, asked) ? (asked as Tab) : "timeline";
  const select = (name: Tab) => go(`${to("runs", runId)}?tab=${name}`);
  if (model.error && !model.info) return (
    <section>
      <h1><code>{inert(runId)}</code></h1>
      <Trouble error={model.error} />
    </section>
  );
  return (
    <section className={`run on-${tab}`}>
      <Head model={model} />
      {model.error && <Trouble error={model.error} />}
      <Outcome model={model} />
      <InputForms model={model} />
      <Tabs tab={tab} onSelect={select} />
      <div role="tabpanel" id="panel" aria-labelledby={`tab-${tab}`} className="panel">
        {tab === "timeline" && <Timeline model={model} />}
        {tab === "records" && <Records model={model} seq={Number(query.get("seq")) || undefined} />}
        {tab === "text" && <TextView model={model} />}
        {tab === "tasks" && <TasksView model={model} />}
        {tab === "throughput" && <Throughput model={model} />}
      </div>
      <Scrubber model={model} />
    </section>
  );
}

function Head({ model }: { model: RunModel }) {
  const { info, folds } = model;
  const [problem, setProblem] = useState("");
  const asked = folds.cancelAsked;
  const isOpen = info && !info.ended;
  const lag = model.newestSeq - folds.lastSeq;
  const cancel = async () => {
    if (!confirm(`Ask ${model.runId} to stop?`)) return;
    try {
      await streams.handler(model.runId).cancelRun("cancelled in the console");
    } catch (error) {
      setProblem(asError(error).message);
    }
  };
  return (
    <header className="run-head">
      <h1><code>{inert(model.runId)}</code> {info && <Status status={folds.steps.runs.find((run) => run.run_id === model.runId)?.status ?? info.status} />}</h1>
      <dl>
        <div><dt>Workflow</dt><dd><bdi>{inert(info?.workflow ?? "")}</bdi></dd></div>
        <div><dt>Began</dt><dd>{info && day(info.created)}</dd></div>
        <div><dt>{info?.ended ? "Took" : "For"}</dt><dd>{info && span(Math.max((info.ended ? Date.parse(info.ended) : serverNow()) - Date.parse(info.created), 0))}</dd></div>
        <div><dt>Stream</dt><dd className={`connection ${model.state}`}>{model.state === "open" ? "live" : model.state}</dd></div>
        <div><dt>Position</dt><dd>{count(folds.lastSeq)} of {count(model.newestSeq)}</dd></div>
        <div><dt>Lag</dt><dd>{lag > 0 ? `${count(lag)} records` : "none"}</dd></div>
        {folds.dropped > 0 && <div className="bad"><dt>Dropped by producers</dt><dd>{count(folds.dropped)}</dd></div>}
        {folds.gaps.length > 0 && <div className="bad"><dt>Gaps</dt><dd>{folds.gaps.map((gap) => gapText(gap.data)).join("; ")}</dd></div>}
      </dl>
      {model.newestSeq > 0 && lag > 1000 && <progress aria-label="Reading the run" value={folds.lastSeq - model.foldedFrom} max={model.newestSeq - model.foldedFrom} />}
      {model.foldedFrom > 1 && (
        <p className="note">A long run: shown from record {count(model.foldedFrom)} on. <button type="button" onClick={() => model.foldWhole()}>Read all of it</button></p>
      )}
      {isOpen && (
        <span className="stop">
          {asked && <small>asked to stop at {clock(asked.time)}</small>} <button type="button" className="danger" onClick={cancel}>Cancel the run</button>
        </span>
      )}
      {problem && <p role="alert" className="bad">{problem}</p>}
    </header>
  );
}

function Tabs({ tab, onSelect }: { tab: Tab; onSelect: (tab: Tab) => void }) {
  const names = Object.keys(TABS) as Tab[];
  return (
    <div
      role="tablist"
      aria-label="Views of the run"
      className="tabs"
      onKeyDown={(event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = names[(names.indexOf(tab) + step + names.length) % names.length]!;
        onSelect(next);
        document.getElementById(`tab-${next}`)?.focus();
      }}
    >
      {names.map((name) => (
        <button key={name} id={`tab-${name}`} type="button" role="tab" aria-selected={tab === name} aria-controls="panel" tabIndex={tab === name ? 0 : -1} onClick={() => onSelect(name)}>
          {TABS[name]}
        </button>
      ))}
    </div>
  );
}
