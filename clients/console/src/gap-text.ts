/** A gap in a sentence. */

import { inert } from "./inert.js";

export function gapText({ reason, from_seq, to_seq }: { reason: string; from_seq: number; to_seq: number | null }): string {
  const why = { trimmed: "trimmed", generation_changed: "the stream was rebuilt", removed: "the run was removed" }[reason] ?? inert(reason);
  return `records ${from_seq} to ${to_seq ?? "?"} cannot be had: ${why}`;
}
