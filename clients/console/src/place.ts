/** Where the page is: the address behind its `#`, so that a link leads to the same view. */

import { useSyncExternalStore } from "react";

export interface Place {
  parts: string[];
  query: URLSearchParams;
}

/** Where somebody has gone to; not what `note` says. */
let gone = location.hash;
/** What the address was when this page last knew it. */
let known = location.hash;
const listeners = new Set<() => void>();
addEventListener("hashchange", () => {
  gone = known = location.hash;
  for (const listener of listeners) listener();
});

const subscribe = (listener: () => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

export function usePlace(): Place {
  const hash = useSyncExternalStore(subscribe, () => gone);
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

/** (An address that somebody has typed may be none.) */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const to = (...parts: string[]): string => `#/${parts.map(encodeURIComponent).join("/")}`;

/** A record of a run, in the list. */
export const recordHref = (runId: string, seq: number): string => `${to("runs", runId)}?tab=records&seq=${seq}`;

export function go(href: string): void {
  location.hash = href;
}

/** The address of what is shown now, for who copies it; nothing moves, and Back does not stop here. */
export function note(href: string): void {
  // (Somebody is on the way elsewhere, and the event of it is still to come.)
  if (location.hash !== known) return;
  history.replaceState(null, "", href);
  known = location.hash;
}
