/** What a subscriber gets: records, and the two things that are none. */

/** One stored event. The names are those of the wire. `data` is the payload as the producer published it. */
export interface StreamRecord<Data = unknown> {
  /** Its number in its stream: 1, 2, 3 … without holes. */
  seq: number;
  /** The producer's clock (RFC 3339, UTC). Informative: `seq` orders. */
  time: string;
  run_id: string;
  kind: string;
  data: Data;
  topic?: string;
  step?: string;
  step_run_id?: string;
  attempt?: number;
  correlation_id?: string;
  index?: number;
  /** Opaque: `after: record.cursor` goes on behind this record. */
  cursor: string;
}

/** Stands for records that cannot be read any more; it takes no number, and `cursor` is where reading goes on. */
export interface Gap {
  kind: "stream.gap";
  data: {
    reason: "trimmed" | "generation_changed" | "removed";
    from_seq: number;
    to_seq: number | null;
    next_seq: number | null;
  };
  run_id: string;
  cursor: string;
}

export type Item = StreamRecord | Gap;

export const END_STATUSES = ["completed", "failed", "cancelled", "timed_out", "lost"] as const;

/** The kinds with which a run ends; nothing of that run follows. */
export const TERMINAL_KINDS: ReadonlySet<string> = new Set(END_STATUSES.map((status) => `run.${status}`));

export const isGap = (item: Item): item is Gap => item.kind === "stream.gap";

export const isTerminal = (item: Item): item is StreamRecord => TERMINAL_KINDS.has(item.kind);
