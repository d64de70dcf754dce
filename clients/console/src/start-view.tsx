/** Start a workflow that the server knows, from a form made of its schema. */

import { useEffect, useState } from "react";
import type { RunstreamError, WorkflowInfo } from "../../typescript/src/index.js";
import { Trouble } from "./trouble.js";
import { asError } from "./run-model.js";
import { streams } from "./session.js";
import { go, to } from "./place.js";
import { inert } from "./inert.js";

interface Schema {
  type?: string | string[];
  title?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  properties?: { [name: string]: Schema };
  required?: string[];
  anyOf?: Schema[];
}

export function StartView({ workflow }: { workflow: string | undefined }) {
  const [known, setKnown] = useState<WorkflowInfo[] | undefined>();
  const [error, setError] = useState<RunstreamError | undefined>();
  const load = () => void streams.workflows().then(setKnown, (problem: unknown) => setError(asError(problem)));
  useEffect(() => {
    document.title = "Start a run · Runstream";
    load();
  }, []);
  if (error) return <Trouble error={error} onRetry={() => { setError(undefined); load(); }} />;
  if (!known) return <p className="empty">…</p>;
  const chosen = known.find(({ name }) => name === workflow);
  return (
    <section>
      <h1>Start a run</h1>
      {known.length === 0 && <p className="empty">This server starts no workflows. <code>runstream serve module:workflow</code> gives it one.</p>}
      <ul className="workflows">
        {known.map(({ name, description }) => (
          <li key={name}><a href={to("start", name)} aria-current={name === workflow ? "true" : undefined}><b>{inert(name)}</b></a> {inert(description)}</li>
        ))}
      </ul>
      {chosen && <StartForm key={chosen.name} workflow={chosen} />}
    </section>
  );
}

function StartForm({ workflow }: { workflow: WorkflowInfo }) {
  const schema = workflow.input_schema as Schema;
  const fields = Object.entries(schema.properties ?? {});
  const required = new Set(schema.required);
  const [texts, setTexts] = useState<{ [name: string]: string }>(() => Object.fromEntries(fields.map(([name, field]) => [name, textOf(field.default)])));
  const [runId, setRunId] = useState("");
  const [problem, setProblem] = useState("");
  const start = async () => {
    try {
      const input: { [name: string]: unknown } = {};
      for (const [name, field] of fields) {
        const text = texts[name] ?? "";
        if (text !== "" || (required.has(name) && typeOf(field) === "string")) input[name] = valueOf(name, field, text);
      }
      const handler = await streams.startRun(workflow.name, input, runId ? { runId } : {});
      go(to("runs", handler.runId));
    } catch (error) {
      setProblem(error instanceof SyntaxError ? error.message : asError(error).message);
    }
  };
  return (
    <form className="start" onSubmit={(event) => { event.preventDefault(); void start(); }}>
      {fields.map(([name, field]) => (
        <Field key={name} name={name} field={field} isRequired={required.has(name)} text={texts[name] ?? ""} onChange={(text) => setTexts({ ...texts, [name]: text })} />
      ))}
      <label>Run id <input value={runId} placeholder="chosen by the server" pattern="[A-Za-z0-9][A-Za-z0-9._:~\-]{0,127}" onChange={(event) => setRunId(event.target.value)} /></label>
      <button type="submit">Start {inert(workflow.name)}</button>
      {problem && <p role="alert" className="bad">{problem}</p>}
    </form>
  );
}

interface FieldProps {
  name: string;
  field: Schema;
  isRequired: boolean;
  text: string;
  onChange: (text: string) => void;
}

function Field({ name, field, isRequired, text, onChange }: FieldProps) {
  const shared = { id: `field-${name}`, value: text, required: isRequired, "aria-describedby": `about-${name}` };
  const change = (event: { target: { value: string } }) => onChange(event.target.value);
  const type = typeOf(field);
  return (
    <div className="field">
      <label htmlFor={shared.id}>{inert(field.title ?? name)}{isRequired && " *"}</label>
      {field.enum ? (
        <select {...shared} onChange={change}><option value="" />{field.enum.map((one) => <option key={String(one)}>{textOf(one)}</option>)}</select>
      ) : type === "boolean" ? (
        <select {...shared} onChange={change}><option value="" /><option>true</option><option>false</option></select>
      ) : type === "integer" || type === "number" ? (
        <input {...shared} type="number" step={type === "integer" ? 1 : "any"} onChange={change} />
      ) : type === "string" ? (
        <input {...shared} onChange={change} />
      ) : (
        <textarea {...shared} rows={3} placeholder="JSON" onChange={change} />
      )}
      <small id={`about-${name}`}>{inert(field.description ?? (type === "json" ? "as JSON" : type))}</small>
    </div>
  );
}

/** What kind of field a schema gets; `json` for all that a simple one cannot hold. */
function typeOf(schema: Schema): "string" | "integer" | "number" | "boolean" | "json" {
  const types = schema.anyOf ? schema.anyOf.map((one) => one.type) : [schema.type].flat();
  const found = types.filter((one) => one !== "null");
  return found.length === 1 && ["string", "integer", "number", "boolean"].includes(String(found[0])) ? (found[0] as "string") : "json";
}

function valueOf(name: string, field: Schema, text: string): unknown {
  if (typeOf(field) === "string") return text;
  try {
    return JSON.parse(text);
  } catch {
    throw new SyntaxError(`${name}: not JSON: ${text}`);
  }
}

const textOf = (value: unknown): string => (value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value));
