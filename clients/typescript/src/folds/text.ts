/** The text of a run, per correlation_id, without what failed attempts wrote. */

import type { Item, StreamRecord } from "../record.js";

/** Consecutive text of one attempt. */
export interface Piece {
  text: string;
  /** A failed attempt wrote it: shown struck out, or not at all. */
  discarded: boolean;
  step_run_id?: string | undefined;
  attempt?: number | undefined;
}

/** A run that makes more texts is not read as a whole by anybody; the oldest go. */
const TEXTS_MAX = 10_000;

/** Feed it the run's records in order. Kind `token` adds its `{"text": …}`; `step.retrying` takes back. */
export class TextFold {
  #pieces: Map<string, Piece[]>;

  /** Goes on from what `save` gave. */
  constructor(saved: [string, Piece[]][] = []) {
    this.#pieces = new Map(saved);
  }

  /** Its state, as JSON can hold it. */
  save(): [string, Piece[]][] {
    return [...this.#pieces];
  }

  /** The correlation_id whose text grew by the record ("" without one); null if none did. */
  feed(item: Item): string | null {
    const { kind, data, step_run_id, attempt, correlation_id: name = "" } = item as StreamRecord<any>;
    if (kind === "step.retrying") this.#discard(step_run_id, attempt);
    const text = kind === "token" && data?.text;
    if (typeof text !== "string") return null;
    let pieces = this.#pieces.get(name);
    if (!pieces) {
      this.#pieces.set(name, (pieces = []));
      if (this.#pieces.size > TEXTS_MAX) this.#pieces.delete(this.#pieces.keys().next().value!);
    }
    const last = pieces.at(-1);
    if (last && last.step_run_id === step_run_id && last.attempt === attempt) last.text += text;
    else pieces.push({ text, discarded: false, step_run_id, attempt });
    return name;
  }

  /** The correlation_ids that have a text, in the order of their first record. */
  names(): string[] {
    return [...this.#pieces.keys()];
  }

  /** What was written there, in order, discarded pieces included. */
  pieces(correlationId = ""): readonly Piece[] {
    return this.#pieces.get(correlationId) ?? [];
  }

  /** The text that stands. */
  text(correlationId = ""): string {
    return this.pieces(correlationId).reduce((text, piece) => (piece.discarded ? text : text + piece.text), "");
  }

  #discard(stepRunId: string | undefined, attempt: number | undefined): void {
    if (stepRunId === undefined) return;
    for (const pieces of this.#pieces.values())
      for (const piece of pieces)
        if (piece.step_run_id === stepRunId && piece.attempt === attempt) piece.discarded = true;
  }
}
