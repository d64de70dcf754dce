/** The stream as records: a list of any length, filters, and the envelope of one record. */

import { useEffect, useState } from "react";
import type { StreamRecord } from "../../typescript/src/index.js";
import { Trouble } from "./trouble.js";
import { type RecordFilter, type Rows, useAllRecords, useFoundRecords } from "./record-pages.js";
import type { RunModel } from "./run-model.js";
import { gapText } from "./gap-text.js";
import { useVirtual } from "./virtual.js";
import { clip, inert, json } from "./inert.js";
import { note, recordHref, to as linkTo } from "./place.js";
import { clock, count } from "./time.js";

const ROW_HEIGHT = 26;
/** Of the payload, in a row. */
const SHOWN_MAX = 300;
/** Of the payload, in the envelope, before a click shows all of it. */
const ENVELOPE_MAX = 20_000;

export function Records({ model, seq }: { model: RunModel; seq: number | undefined }) {
  const [filter, setFilter] = useState<RecordFilter>({});
  const isFiltered = Object.keys(filter).length > 0;
  return (
    <div className="records">
      <FilterForm kinds={[...model.folds.kinds.keys()]} onChange={setFilter} />
      {model.folds.gaps.map((gap) => <p key={gap.cursor} className="gap">{gapText(gap.data)}</p>)}
      {isFiltered ? <Found runId={model.runId} filter={filter} /> : <All model={model} seq={seq} />}
    </div>
  );
}

function All({ model, seq }: { model: RunModel; seq: number | undefined }) {
  const rows = useAllRecords(model);
  return <List runId={model.runId} rows={rows} follows={!model.replay} asked={seq === undefined ? undefined : rows.rowOf(seq)} />;
}

const Found = ({ runId, filter }: { runId: string; filter: RecordFilter }) => <List runId={runId} rows={useFoundRecords(runId, filter)} follows asked={undefined} />;

function FilterForm({ kinds, onChange }: { kinds: string[]; onChange: (filter: RecordFilter) => void }) {
  const names = { kinds: "Kind", steps: "Step", topics: "Topic", correlationIds: "Correlation id" } as const;
  const apply = (form: HTMLFormElement) => {
    const found: RecordFilter = {};
    for (const name of Object.keys(names) as (keyof RecordFilter)[]) {
      const values = String(new FormData(form).get(name) ?? "").split(",").map((value) => value.trim()).filter(Boolean);
      if (values.length > 0) found[name] = values;
    }
    onChange(found);
  };
  return (
    <form className="filters" role="search" aria-label="Filter the records" onSubmit={(event) => { event.preventDefault(); apply(event.currentTarget); }} onReset={() => onChange({})}>
      {Object.entries(names).map(([name, label]) => (
        <label key={name}>{label} <input name={name} list={name === "kinds" ? "known-kinds" : undefined} placeholder="any" size={12} /></label>
      ))}
      <datalist id="known-kinds">{kinds.map((kind) => <option key={kind} value={kind} />)}</datalist>
      <button type="submit">Filter</button>
      <button type="reset">All</button>
    </form>
  );
}

interface ListProps {
  runId: string;
  rows: Rows;
  /** New rows are scrolled to while the end is in view. */
  follows: boolean;
  /** The row that the address names. */
  asked: number | undefined;
}

function List({ runId, rows, follows, asked }: ListProps) {
  const virtual = useVirtual(rows.count, ROW_HEIGHT);
  const [selected, setSelected] = useState<StreamRecord | undefined>();
  const [row, setRow] = useState(-1);
  const [isAtEnd, setIsAtEnd] = useState(asked === undefined);
  const { from, to } = virtual;

  const isThere = asked !== undefined && asked < rows.count;
  useEffect(() => {
    if (!isThere) return;
    setRow(asked);
    virtual.scrollTo(asked);
  }, [asked, isThere]);
  // (A row that has been walked to may not be here yet.)
  const record = row < 0 ? undefined : rows.at(row);
  useEffect(() => {
    if (!record) return;
    setSelected(record);
    note(recordHref(runId, record.seq));
  }, [row, record !== undefined, runId]);

  useEffect(() => rows.load(from, to));
  useEffect(() => {
    if (follows && isAtEnd && rows.count > 0) virtual.ref.current!.scrollTop = virtual.ref.current!.scrollHeight;
  }, [rows.count, follows, isAtEnd]);

  const select = (next: number) => {
    const at = Math.min(Math.max(next, 0), rows.count - 1);
    setRow(at);
    virtual.scrollTo(at);
  };
  const onKeyDown = (event: React.KeyboardEvent) => {
    const steps: { [key: string]: number } = { ArrowDown: row + 1, ArrowUp: row - 1, PageDown: row + 15, PageUp: row - 15, Home: 0, End: rows.count - 1 };
    const next = steps[event.key];
    if (next === undefined) return;
    event.preventDefault();
    select(next);
  };
  const drawn = Array.from({ length: Math.max(to - from, 0) }, (_none, at) => from + at);
  return (
    <>
      {rows.error && <Trouble error={rows.error} />}
      <p className="note">
        {count(rows.count)} records{!isAtEnd && follows && <> · <button type="button" onClick={() => setIsAtEnd(true)}>Follow the end</button></>}
        {rows.more && <> · <button type="button" onClick={rows.more}>Look further back</button></>}
      </p>
      <div className={selected ? "split" : "alone"}>
        <div
          ref={virtual.ref}
          className="list"
          role="listbox"
          aria-label="Records"
          tabIndex={0}
          aria-activedescendant={row >= from && row < to ? `row-${row}` : undefined}
          onKeyDown={onKeyDown}
          onScroll={() => { virtual.onScroll(); setIsAtEnd(virtual.isAtEnd()); }}
        >
          <div style={{ height: virtual.height }}>
            <div style={{ transform: `translateY(${virtual.top}px)` }}>
              {drawn.map((at) => <Row key={at} at={at} of={rows.count} record={rows.at(at)} isSelected={at === row} onSelect={() => select(at)} />)}
            </div>
          </div>
        </div>
        {selected && <Envelope key={selected.seq} record={selected} onClose={() => { setSelected(undefined); setRow(-1); note(`${linkTo("runs", runId)}?tab=records`); virtual.ref.current?.focus(); }} />}
      </div>
    </>
  );
}

interface RowProps {
  at: number;
  of: number;
  record: StreamRecord | undefined;
  isSelected: boolean;
  onSelect: () => void;
}

function Row({ at, of, record, isSelected, onSelect }: RowProps) {
  return (
    <div id={`row-${at}`} role="option" aria-selected={isSelected} aria-posinset={at + 1} aria-setsize={of} className={record ? `row of-${family(record.kind)}` : "row"} style={{ height: ROW_HEIGHT }} onClick={onSelect}>
      {record ? (
        <>
          <span className="seq">{record.seq}</span>
          <span className="when">{clock(record.time)}</span>
          <span className="kind"><bdi>{inert(record.kind)}</bdi></span>
          <span className="from"><bdi>{inert([record.step, record.topic, record.correlation_id].filter(Boolean).join(" · "))}</bdi></span>
          <span className="data"><bdi>{shortData(record.data)}</bdi></span>
        </>
      ) : (
        <span className="seq">…</span>
      )}
    </div>
  );
}

/** Enough of the payload for one line, without writing out a large one. */
function shortData(data: unknown): string {
  if (typeof data === "string") return inert(JSON.stringify(data.slice(0, SHOWN_MAX)));
  if (typeof data !== "object" || data === null) return String(data);
  const parts: string[] = [];
  let length = 0;
  for (const [name, value] of Object.entries(data)) {
    const text = `${name}: ${typeof value === "string" ? JSON.stringify(value.slice(0, SHOWN_MAX)) : typeof value === "object" && value !== null ? (Array.isArray(value) ? `[${value.length}]` : "{…}") : String(value)}`;
    parts.push(text);
    if ((length += text.length) > SHOWN_MAX) break;
  }
  return clip(inert(parts.join(", ")), SHOWN_MAX);
}

const family = (kind: string): string => (/^(run|step|task|stream)\./.exec(kind)?.[1] ?? "user");

function Envelope({ record, onClose }: { record: StreamRecord; onClose: () => void }) {
  const [isWhole, setIsWhole] = useState(false);
  const text = json(record, 2);
  return (
    <aside className="envelope" aria-label={`Record ${record.seq}`} onKeyDown={(event) => event.key === "Escape" && onClose()}>
      <header>
        <h2>Record {count(record.seq)}</h2>
        <button type="button" onClick={() => void navigator.clipboard?.writeText(JSON.stringify(record, null, 2))}>Copy</button>
        <button type="button" aria-label="Close" onClick={onClose}>×</button>
      </header>
      <pre>{isWhole ? text : clip(text, ENVELOPE_MAX)}</pre>
      {text.length > ENVELOPE_MAX && !isWhole && <button type="button" onClick={() => setIsWhole(true)}>Show all {count(text.length)} characters</button>}
    </aside>
  );
}
