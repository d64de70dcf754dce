/** The run's tasks: their state as it changes. */

import type { RunModel } from "./run-model.js";
import { Status } from "./status.js";
import { clip, errorText, inert, json } from "./inert.js";
import { count } from "./time.js";

const TASKS_MAX = 100;
/** A state is shown up to this; the record holds it all. */
const SHOWN_MAX = 10_000;

export function TasksView({ model }: { model: RunModel }) {
  const tasks = [...model.shown.tasks.values()];
  if (tasks.length === 0) return <p className="empty">No task yet. <code>async with Task("name", state)</code> in a step shows its state here.</p>;
  return (
    <div className="tasks">
      {tasks.slice(-TASKS_MAX).reverse().map((task) => (
        <article key={`${task.record.run_id} ${task.id}`} className="task">
          <h2><bdi>{inert(task.type)}</bdi> <Status status={task.status} /> <small>version {count(task.version)}, record {count(task.record.seq)}</small></h2>
          {task.error && <p className="bad">{errorText(task.error)}</p>}
          <pre>{clip(json(task.state, 2), SHOWN_MAX)}</pre>
        </article>
      ))}
      {tasks.length > TASKS_MAX && <p className="note">The newest {TASKS_MAX} of {count(tasks.length)} tasks.</p>}
    </div>
  );
}
