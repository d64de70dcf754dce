/** Start a workflow that the server knows, from a form made of its schema. */

import { useEffect, useState } from "react";
import type { RunstreamError, WorkflowInfo } from "../../typescript/src/index.js";
import { Trouble } from "./trouble.js";
import { asError } from "./run-model.js";
import { Fields, JsonInput } from "./schema-form.js";
import { initial, pruned, type Schema } from "./schema.js";
import { streams } from "./session.js";
import { go, to } from "./place.js";
import { inert } from "./inert.js";

export function StartView({ workflow }: { workflow: string | undefined }) {
  const [known, setKnown] = useState<WorkflowInfo[] | undefined>();
  const [error, setError] = useState<RunstreamError | undefined>();
  const load = () => void streams.workflows().then(setKnown, (problem: unknown) => setError(asError(problem)));
  useEffect(() => {
    document.title = "Start a run · Runstream";
    load();
  }, []);
  if (!known) {
    return (
      <section>
        <h1>Start a run</h1>
        {error && <Trouble error={error} onRetry={() => { setError(undefined); load(); }} />}
      </section>
    );
  }
  const chosen = known.length === 1 ? known[0] : known.find(({ name }) => name === workflow);
  return (
    <section>
      <h1>Start a run</h1>
      {known.length === 0 && <p className="empty">This server offers no workflows. Start it with some: <code>runstream serve FILE_OR_MODULE:NAME</code>.</p>}
      {workflow && !chosen && known.length > 0 && <p role="alert" className="bad">This server does not start {inert(workflow)}. It starts:</p>}
      <ul className="workflows">
        {known.map(({ name, description }) => (
          <li key={name}><a href={to("start", name)} aria-current={name === chosen?.name ? "true" : undefined}><b>{inert(name)}</b></a> <span className="about">{inert(description)}</span></li>
        ))}
      </ul>
      {chosen && <StartForm key={chosen.name} workflow={chosen} />}
    </section>
  );
}

function StartForm({ workflow }: { workflow: WorkflowInfo }) {
  const schema = workflow.input_schema as Schema;
  const hasFields = Object.keys(schema.properties ?? {}).length > 0;
  const [input, setInput] = useState<unknown>(() => initial(schema, schema, true) ?? {});
  const [isJson, setIsJson] = useState(!hasFields);
  const [runId, setRunId] = useState("");
  const [problem, setProblem] = useState("");
  const [isSending, setIsSending] = useState(false);
  const start = async () => {
    setProblem("");
    setIsSending(true);
    try {
      const handler = await streams.startRun(workflow.name, pruned(input ?? {}) as object, runId ? { runId } : {});
      go(to("runs", handler.runId));
    } catch (error) {
      setProblem(asError(error).message);
      setIsSending(false);
    }
  };
  return (
    <form className="start" aria-label={`Start ${inert(workflow.name)}`} onSubmit={(event) => { event.preventDefault(); void start(); }}>
      {isJson ? (
        <div className="field">
          <label htmlFor="field-input">Input</label>
          <JsonInput id="field-input" required={false} rows={12} value={pruned(input)} onChange={setInput} />
          <small>{hasFields ? "as JSON" : "any object, as JSON"}</small>
        </div>
      ) : (
        <Fields path="" schema={schema} root={schema} value={input} onChange={setInput} />
      )}
      <div className="field">
        <label htmlFor="run-id">Run id</label>
        <input id="run-id" value={runId} placeholder="chosen by the server" pattern="[A-Za-z0-9][A-Za-z0-9._:~\-]{0,127}" title="Letters, digits and . _ : ~ -, at most 128" onChange={(event) => setRunId(event.target.value)} />
      </div>
      <div className="actions">
        <button type="submit" disabled={isSending}>Start {inert(workflow.name)}</button>
        {hasFields && <button type="button" onClick={() => setIsJson(!isJson)}>{isJson ? "Edit as a form" : "Edit as JSON"}</button>}
      </div>
      <Problem text={problem} />
    </form>
  );
}

/** What the server says of the input: one fault, or several in one line. */
function Problem({ text }: { text: string }) {
  if (!text) return null;
  const faults = text.split("; ");
  return (
    <div role="alert" className="trouble">
      {faults.length === 1 ? <p>{inert(text)}</p> : <ul>{faults.map((fault) => <li key={fault}>{inert(fault)}</li>)}</ul>}
    </div>
  );
}
