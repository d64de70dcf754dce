/** All runs, newest first, with their live status. */

import { useEffect, useState } from "react";
import type { RunInfo, RunStatus } from "../../typescript/src/index.js";
import { Trouble } from "./trouble.js";
import { useRunList } from "./run-list.js";
import { serverNow } from "./session.js";
import { Status } from "./status.js";
import { to } from "./place.js";
import { count, day, span } from "./time.js";
import { inert } from "./inert.js";

const STATUSES: RunStatus[] = ["running", "waiting", "stalled", "completed", "failed", "cancelled", "timed_out", "lost"];
/** Rows drawn; who has more narrows the search. */
const SHOWN_MAX = 1000;

export function RunsView() {
  const [status, setStatus] = useState<RunStatus | "">("");
  const [workflow, setWorkflow] = useState("");
  const [search, setSearch] = useState("");
  const wanted = search.trim().toLowerCase();
  const list = useRunList({ ...(status && { status }), ...(workflow && { workflow }) }, wanted !== "");
  const { runs } = list;
  useEffect(() => void (document.title = "Runs · Runstream"), []);

  const workflows = [...new Set([...(runs ?? []).map((run) => run.workflow), ...(workflow ? [workflow] : [])])].sort();
  const found = runs?.filter((run) => !wanted || run.run_id.toLowerCase().includes(wanted) || run.workflow.toLowerCase().includes(wanted));

  return (
    <section>
      <h1>Runs</h1>
      <form className="filters" role="search" aria-label="Find runs" onSubmit={(event) => event.preventDefault()}>
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
            {workflows.map((one) => <option key={one} value={one}>{inert(one)}</option>)}
          </select>
        </label>
        <span role="status" className="note">{found && wanted ? `${count(found.length)} found${list.isSearching ? ", still looking …" : ""}` : ""}</span>
      </form>
      {list.error && <Trouble error={list.error} onRetry={() => void list.load()} />}
      {found?.length === 0 && !list.isSearching && !list.error && <Empty filtered={Boolean(status || workflow || wanted)} />}
      {found && found.length > 0 && (
        <table className="runs">
          <thead>
            <tr><th scope="col">Run</th><th scope="col">Workflow</th><th scope="col">Status</th><th scope="col" className="number">Records</th><th scope="col">Began</th><th scope="col" className="number">Took</th></tr>
          </thead>
          <tbody>{found.slice(0, SHOWN_MAX).map((run) => <RunRow key={run.run_id} run={run} />)}</tbody>
        </table>
      )}
      {found && found.length > SHOWN_MAX && <p className="note">The newest {count(SHOWN_MAX)} of {count(found.length)}.</p>}
      {list.hasOlder && !wanted && <button type="button" onClick={() => void list.loadOlder()}>Show older runs</button>}
    </section>
  );
}

function RunRow({ run }: { run: RunInfo }) {
  const took = (run.ended ? Date.parse(run.ended) : serverNow()) - Date.parse(run.created);
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
    <p className="empty">No run matches.</p>
  ) : (
    <p className="empty">No runs yet. <code>runstream demo</code> makes one, and so does every <code>workflow.run(url=…)</code> with this server's address.</p>
  );
