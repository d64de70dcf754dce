/** What a run was given, and what came of it. */

import { useState } from "react";
import type { RunModel } from "./run-model.js";
import { clip, errorText, inert, json } from "./inert.js";

/** Shown of an input or a result; the record holds it all. */
const SHOWN_MAX = 20_000;

export function Outcome({ model }: { model: RunModel }) {
  const { begin, end } = model.shown;
  const told = end?.data as { result?: unknown; exception?: unknown; reason?: unknown } | null | undefined;
  const input = (begin?.data as { input?: unknown } | null | undefined)?.input;
  const why = told?.exception ?? told?.reason;
  const hasResult = end?.kind === "run.completed" && told?.result !== undefined && told.result !== null;
  return (
    <>
      {end && end.kind !== "run.completed" && (
        <p className={`outcome ${end.kind === "run.cancelled" ? "" : "bad"}`}>
          <b>{inert(end.kind.slice(4).replace("_", " "))}</b>
          {why !== undefined && why !== null && <>: {clip(errorText(why), SHOWN_MAX)}</>}
        </p>
      )}
      {(isSomething(input) || hasResult) && (
        <div className="given">
          {isSomething(input) && <Part name="Input" value={input} />}
          {hasResult && <Part name="Result" value={told.result} />}
        </div>
      )}
    </>
  );
}

const isSomething = (value: unknown): boolean =>
  value !== undefined && value !== null && !(typeof value === "object" && Object.keys(value).length === 0);

/** Closed it costs one line, and nothing is written out. */
function Part({ name, value }: { name: string; value: unknown }) {
  const [isOpen, setIsOpen] = useState(false);
  const short = typeof value === "string" ? inert(value.slice(0, 200)) : typeof value === "object" ? "" : json(value);
  return (
    <details onToggle={(event) => setIsOpen(event.currentTarget.open)}>
      <summary><b>{name}</b> <bdi>{!isOpen && clip(short, 120)}</bdi></summary>
      {isOpen && <pre>{clip(typeof value === "string" ? inert(value) : json(value, 2), SHOWN_MAX)}</pre>}
    </details>
  );
}
