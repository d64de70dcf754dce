/** All runs, newest first, with their live status. */

import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import type { RunInfo, RunstreamError, RunStatus } from "../../typescript/src/index.js";
import { Trouble } from "./trouble.js";
import { asError } from "./run-model.js";
import { streams } from "./session.js";
import { Status } from "./status.js";
import { to } from "./place.js";
import { count, day, span } from "./time.js";
import { inert } from "./inert.js";

const STATUSES: RunStatus[] = ["running", "waiting", "stalled", "completed", "failed", "cancelled", "timed_out", "lost"];
const PAGE = 100;
/** The list has no stream of its own; a look every other second costs one small page. */
const LOOK_MS = 2000;

export function RunsView() {
  const [runs, setRuns] = useState<RunInfo[] | undefined>();
  const [next, setNext] = useState<string | null>(null);
  const [error, setError] = useState<RunstreamError | undefined>();
  const [status, setStatus] = useState<RunStatus | "">("");
  const [workflow, setWorkflow] = useState("");
  const [search, setSearch] = useState("");
  const more = useRef(0);

  const load = useCallback(async () => {
    try {
      const asked = { limit: PAGE * (more.current + 1), ...(status && { status }), ...(workflow && { workflow }) };
      const page = await streams.listRuns(asked);
      setRuns(page.runs);
      setNext(page.next);
      setError(undefined);
    } catch (problem) {
      setError(asError(problem));
    }
  }, [status, workflow]);

  useEffect(() => {
    document.title = "Runs · Runstream";
    void load();
    const timer = setInterval(() => document.visibilityState === "visible" && void load(), LOOK_MS);
    return () => clearInterval(timer);
  }, [load]);

  const workflows = useMemo(() => [...new Set(runs?.map((run) => run.workflow))].sort(), [runs]);
  const wanted = search.trim().toLowerCase();
  const shown = runs?.filter((run) => !wanted || run.run_id.toLowerCase().includes(wanted) || run.workflow.toLowerCase().includes(wanted));

  return (
    <section>
      <h1>Runs</h1>
      <form className="filters" role="search" onSubmit={(event) => event.preventDefault()}>
        <label>Search <input type="search" value={search} placeholder="run id or workflow" onChange={(event) => setSearch(event.target.value)} /></label>
        <label>
          Status{" "}
          <select value={status} onChange={(event) => setStatus(event.target.value as RunStatus | "")}>
            <option value="">any</option>
            {STATUSES.map((one) => <option key={one} value={one}>{one.replace("_", " ")}</option>)}
          </select>
        </label>
        <label>
          Workflow{" "}
          <select value={workflow} onChange={(event) => setWorkflow(event.target.value)}>
            <option value="">any</option>
            {[...new Set([...workflows, ...(workflow ? [workflow] : [])])].map((one) => <option key={one}>{one}</option>)}
          </select>
        </label>
      </form>
      {error && <Trouble error={error} onRetry={load} />}
      {shown?.length === 0 && <Empty filtered={Boolean(status || workflow || wanted)} />}
      {shown && shown.length > 0 && (
        <table className="runs">
          <thead>
            <tr><th>Run</th><th>Workflow</th><th>Status</th><th className="number">Records</th><th>Began</th><th className="number">Took</th></tr>
          </thead>
          <tbody>{shown.map((run) => <RunRow key={run.run_id} run={run} />)}</tbody>
        </table>
      )}
      {next && <button type="button" onClick={() => { more.current += 1; void load(); }}>Show older runs</button>}
    </section>
  );
}

function RunRow({ run }: { run: RunInfo }) {
  const took = (run.ended ? Date.parse(run.ended) : Date.now()) - Date.parse(run.created);
  return (
    <tr>
      <td><a href={to("runs", run.run_id)}><code>{run.run_id}</code></a>{run.parent_run_id && <small> in {run.parent_run_id}</small>}</td>
      <td><bdi>{inert(run.workflow)}</bdi></td>
      <td><Status status={run.status} /></td>
      <td className="number">{run.root_run_id === run.run_id ? count(run.last_seq) : ""}</td>
      <td title={run.created}>{day(run.created)}</td>
      <td className="number">{span(Math.max(took, 0))}</td>
    </tr>
  );
}

const Empty = ({ filtered }: { filtered: boolean }) =>
  filtered ? (
    <p className="empty">No run is like that.</p>
  ) : (
    <p className="empty">No runs yet. <code>runstream demo</code> makes one, and so does every <code>workflow.run(url=…)</code> with this server's address.</p>
  );
